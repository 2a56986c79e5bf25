//! Daemons that are moved between two nodes, step by step as the machines of moves have it done.
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod live;
mod lossy;
mod nodes;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::net::{Tray, forward, taken};
use common::{Sum, key, never, until};
use meshos_core::bindings::SubscriptionBinding;
use meshos_core::channel_policy::ChannelPolicy;
use meshos_core::config::Durability;
use meshos_core::id::Origin;
use meshos_core::move_frame::{Reason, Reject};
use meshos_core::name::ChannelName;
use meshos_core::ownership::Lineage;
use meshos_core::rows::{KeyRange, Table};
use meshos_core::verify::verify;
use meshos_node::clock::{self, Deadline};
use meshos_node::daemon::{Daemon, DeliverError};
use meshos_node::deliver::{self, Want};
use meshos_node::hands::Hands;
use meshos_node::journal::Stores;
use meshos_node::lease::Unleased;
use meshos_node::mailbox::Letter;
use meshos_node::mover::Accept;
use meshos_node::router::{Number, Sent};
use meshos_node::runtime::{ReachError, SpawnError};
use meshos_node::slot::Slot;
use nodes::{
    Client, Node, PATIENCE, event, freeze, freeze_with, is_gone, memory, move_to, order, reopened, seen_of, start,
    three,
};

fn rows(node: &Node, table: Table) -> usize {
    let store = (node.stores)();
    store
        .page(table, &KeyRange::all(), usize::MAX)
        .expect("it is read")
        .len()
}

/// A chain as it leaves a node is good.
fn exported(node: &Node, origin: Origin) -> Vec<Vec<u8>> {
    let slot = node.slot(origin);
    let mut entered = slot.enter(Deadline::never(), &mut never).expect("open");
    let exported = node.runtime.export(&mut entered).expect("it is signed");
    let events: Vec<_> = exported.events.iter().map(Sum::parts).collect();
    let (certificates, checkpoints) = (&exported.certificates, &exported.checkpoints);
    verify(&events, checkpoints, certificates, &exported.entity, &[]).expect("a good chain");
    events.iter().map(|(_, payload)| payload.to_vec()).collect()
}

/// Has clients send while `body` goes on; each event takes effect once and in order.
fn under_load(clients: &[(&Client<'_>, &str)], nodes: &[&Node], body: impl FnOnce()) {
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let counts: Vec<usize> = std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter()
            .map(|(client, prefix)| {
                let (stop, sent) = (&stop, &sent);
                scope.spawn(move || client.send_until(prefix, stop, sent))
            })
            .collect();
        until(|| sent.load(Ordering::SeqCst) > 100);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        if let Err(panic) = ended {
            stop.store(true, Ordering::SeqCst);
            std::panic::resume_unwind(panic);
        }
        let after = sent.load(Ordering::SeqCst) + 100;
        until(|| sent.load(Ordering::SeqCst) > after);
        stop.store(true, Ordering::SeqCst);
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    for ((client, prefix), count) in clients.iter().zip(counts) {
        assert_eq!(client.settle(), count);
        assert_eq!(seen_of(nodes, prefix), (0..count).collect::<Vec<_>>(), "{prefix}");
    }
}

#[test]
fn a_freeze_and_a_thaw_under_load_lose_nothing() {
    let nodes = three();
    let slot = nodes[1].spawn(&key(1), Durability::Journal);
    let origin = slot.origin();
    let (near, far) = (Client::new(&nodes[1], 71, origin), Client::new(&nodes[2], 72, origin));
    under_load(&[(&near, "a"), (&far, "b")], &[&nodes[1]], || {
        for _ in 0..5 {
            let frosted = freeze(&nodes[1], &nodes[2], slot.entity());
            let before = slot.view().stats.events_processed;
            until(|| frosted.queue.len() > 10);
            assert_eq!(slot.view().stats.events_processed, before);
            assert!(frosted.thaw() > 10);
        }
    });
}

#[test]
fn a_move_under_load_of_all_nodes_takes_each_event_once_and_in_order() {
    for durability in [Durability::Journal, Durability::None] {
        let nodes = three();
        let slot = nodes[1].spawn(&key(1), durability);
        let origin = slot.origin();
        let clients = [
            Client::new(&nodes[0], 70, origin),
            Client::new(&nodes[1], 71, origin),
            Client::new(&nodes[2], 72, origin),
        ];
        let clients = [(&clients[0], "a"), (&clients[1], "b"), (&clients[2], "c")];
        under_load(&clients, &[&nodes[1], &nodes[2]], || {
            let (record, _) = move_to(&nodes[1], &nodes[2], slot.entity());
            assert_eq!((record.epoch(), record.node()), (2, nodes[2].id()));
        });
        is_gone(&nodes[1], origin);
        assert_eq!(nodes[2].slot(origin).view().epoch, 2);
        exported(&nodes[2], origin);
    }
}

#[test]
fn there_and_back_and_to_the_node_of_the_directory() {
    let nodes = three();
    let slot = nodes[1].spawn(&key(1), Durability::Journal);
    let (origin, entity) = (slot.origin(), slot.entity());
    drop(slot);
    let clients = [
        Client::new(&nodes[0], 70, origin),
        Client::new(&nodes[1], 71, origin),
        Client::new(&nodes[2], 72, origin),
    ];
    let mut total = 0;
    for (round, (from, to)) in [(1, 2), (2, 1), (1, 0), (0, 1), (1, 2)].into_iter().enumerate() {
        for client in &clients {
            for number in 0..20 {
                client.send(&format!("{number:02}"));
            }
        }
        for client in &clients {
            client.settle();
        }
        total += 3 * 20;
        let (record, _) = move_to(&nodes[from], &nodes[to], entity);
        assert_eq!(record.epoch(), round as u64 + 2);
        is_gone(&nodes[from], origin);
        assert_eq!(nodes[to].slot(origin).view().stats.events_processed, total);
        let lineage = nodes[to].ownership.lineage(&entity).expect("in memory");
        assert_eq!(lineage.len(), round + 2);
        Lineage::verify(&entity, lineage, &[]).expect("a good lineage");
        assert_eq!(exported(&nodes[to], origin).len() as u64, total);
        nodes[to].check();
        // What it was before is dropped where it was.
        let left: Vec<_> = Table::ALL
            .iter()
            .filter(|table| rows(&nodes[from], **table) > 0)
            .collect();
        assert_eq!(left, [&Table::Certificates, &Table::Ownership]);
    }
}

#[test]
fn callers_that_wait_are_answered_from_where_it_went() {
    let nodes = three();
    let slot = nodes[1].spawn(&key(1), Durability::Journal);
    let origin = slot.origin();
    let client = Client::new(&nodes[1], 71, origin);
    let frosted = freeze(&nodes[1], &nodes[2], slot.entity());
    for number in 0..50 {
        client.send(&format!("w{number}"));
    }
    // Who waits for outputs, or looks, cannot be served from elsewhere.
    let (reply, answers) = mpsc::channel();
    let posted = slot.post(
        nodes[1].runtime.lanes(),
        nodes[1].runtime.sender(),
        Letter::Event(event(9, 1, "outputs")),
        Want::Outputs,
        Some(reply),
        None,
    );
    assert!(posted.is_ok());
    frosted.restore(&nodes[2]).expect("it is restored");
    let queue = frosted.hand_over();
    assert!(queue.is_empty());
    is_gone(&nodes[1], origin);
    // What is sent now goes behind.
    client.send("w50");
    frosted.install(&nodes[2]).expect("it is free");
    frosted.go_live(&nodes[2], queue);
    assert_eq!(client.settle(), 51);
    assert_eq!(seen_of(&[&nodes[2]], "w"), (0..51).collect::<Vec<_>>());
    let (_, settled) = answers.recv_timeout(PATIENCE).expect("it is answered");
    let there = Unleased::Fenced {
        node: nodes[2].id(),
        epoch: 2,
    };
    assert!(matches!(settled, Err(DeliverError::Unleased(why)) if why == there));
    assert!(matches!(
        nodes[1].runtime.reach(origin).map(drop),
        Err(ReachError::NotOwner { node, epoch: 2, .. }) if node == nodes[2].id()
    ));
}

#[test]
fn a_repeated_event_has_the_same_receipt_after_a_move() {
    let nodes = three();
    let slot = nodes[1].spawn(&key(1), Durability::Journal);
    let origin = slot.origin();
    let ask = |sequence| {
        let tray = Arc::new(Tray::default());
        let number = Number::Given {
            origin: Origin::new(80),
            sequence,
        };
        let router = nodes[0].runtime.router();
        router.send(origin, &number, b"abc", Some(tray.ticket(0)));
        taken(&tray.wait(1)[0])
    };
    let before: Vec<_> = (1..5).map(ask).collect();
    assert!(before.iter().all(|(_, duplicate)| !duplicate));
    move_to(&nodes[1], &nodes[2], slot.entity());
    let after: Vec<_> = (1..5).map(ask).collect();
    for ((before, _), (after, duplicate)) in before.iter().zip(&after) {
        assert_eq!((before, *duplicate), (after, true));
    }
    assert_eq!(nodes[2].slot(origin).view().stats.events_processed, 4);
}

#[test]
fn both_stores_tell_after_a_restart_where_it_is() {
    let folder = tempfolder("mover");
    let open = |node: usize| -> Stores { reopened(&folder.join(node.to_string())) };
    let key = key(1);
    let entity = key.lock().entity_id();
    let origin = entity.origin();
    {
        let nodes = start(&[open(0), open(1), open(2)]);
        nodes[1].spawn(&key, Durability::Journal);
        let client = Client::new(&nodes[0], 70, origin);
        client.send_some(30);
        client.settle();
        move_to(&nodes[1], &nodes[2], entity);
        client.send_some(30);
        client.settle();
        nodes.iter().for_each(Node::end);
    }
    let nodes = start(&[open(0), open(1), open(2)]);
    let stored: Vec<_> = nodes
        .iter()
        .map(|node| node.runtime.stored().expect("it is read").len())
        .collect();
    assert_eq!(stored, [0, 0, 1]);
    nodes[2].check();
    let found = nodes[2]
        .runtime
        .stored()
        .expect("it is read")
        .remove(0)
        .1
        .expect("whole");
    assert!(found.runs);
    let unsealed = nodes[2]
        .runtime
        .unseal(&entity, &found)
        .expect("the node has sealed it");
    assert!(!unsealed.is_read_only());
    let resumed = nodes[2].runtime.resume(&key, Sum::new(&nodes[2].switches));
    let (slot, report) = resumed.map_err(|error| format!("{error:?}")).expect("it owns");
    assert_eq!((slot.view().epoch, slot.view().stats.events_processed), (2, 60));
    assert_eq!(report.replayed, 30);
    exported(&nodes[2], origin);
    // Where it was nothing is left of it but who has it.
    let refused = nodes[1].runtime.resume(&key, Sum::new(&nodes[1].switches)).map(drop);
    assert!(matches!(
        refused,
        Err(SpawnError::NotStored(_) | SpawnError::NotOwner { .. })
    ));
    let refused = nodes[1]
        .runtime
        .spawn(&key, common::config(), Sum::new(&nodes[1].switches))
        .map(drop);
    assert!(
        matches!(refused, Err(SpawnError::NotOwner { epoch: 2, .. })),
        "{refused:?}"
    );
    let lineage = nodes[1].ownership.lineage(&entity).expect("it is read");
    nodes[1].ownership.learn(lineage.last().expect("two"));
    assert!(matches!(
        nodes[1].runtime.reach(origin).map(drop),
        Err(ReachError::NotOwner { epoch: 2, .. })
    ));
    nodes.iter().for_each(Node::end);
    drop(nodes);
    std::fs::remove_dir_all(&folder).expect("it is there");
}

fn tempfolder(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("meshos-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

#[test]
fn a_daemon_without_state_moves_its_chain_and_cursors() {
    let nodes = three();
    nodes
        .iter()
        .for_each(|node| node.sums.stateless.store(true, Ordering::SeqCst));
    let slot = nodes[1].spawn(&key(1), Durability::None);
    let origin = slot.origin();
    let client = Client::new(&nodes[0], 70, origin);
    client.send_some(10);
    client.settle();
    move_to(&nodes[1], &nodes[2], slot.entity());
    client.send_some(10);
    client.settle();
    assert_eq!(nodes[2].slot(origin).view().stats.events_processed, 20);
    assert_eq!(exported(&nodes[2], origin).len(), 20);
    // Who owns it is kept though nothing else is.
    assert_eq!(nodes[2].ownership.lineage(&slot.entity()).expect("in memory").len(), 2);
    let (record, _) = move_to(&nodes[2], &nodes[1], slot.entity());
    assert_eq!(record.epoch(), 3);
}

#[test]
fn an_install_that_the_directory_does_not_answer_is_tried_again() {
    let nodes = three();
    let slot = nodes[1].spawn(&key(1), Durability::Journal);
    let origin = slot.origin();
    let client = Client::new(&nodes[1], 71, origin);
    client.send("abc");
    client.settle();
    let frosted = freeze(&nodes[1], &nodes[2], slot.entity());
    frosted.restore(&nodes[2]).expect("it is restored");
    let queue = frosted.hand_over();
    client.send("de");
    nodes[0].mesh.pause(true);
    let refused = frosted.install(&nodes[2]).expect_err("nobody answers");
    assert!(refused.contains("did not answer"), "{refused}");
    assert!(nodes[2].runtime.registry().get(origin).is_none());
    nodes[0].mesh.pause(false);
    assert_eq!(frosted.install(&nodes[2]), Ok(2));
    // Twice is as once.
    assert_eq!(frosted.install(&nodes[2]), Ok(2));
    frosted.go_live(&nodes[2], queue);
    assert_eq!(frosted.install(&nodes[2]), Ok(2));
    client.settle();
    assert_eq!(nodes[2].slot(origin).view().stats.events_processed, 2);
}

#[test]
fn a_target_that_starts_again_restores_from_the_image_that_it_keeps() {
    let stores = [memory(), memory(), memory()];
    let nodes = start(&stores);
    let slot = nodes[1].spawn(&key(1), Durability::Journal);
    let client = Client::new(&nodes[1], 71, slot.origin());
    client.send("abc");
    client.settle();
    let frosted = freeze(&nodes[1], &nodes[2], slot.entity());
    frosted.restore(&nodes[2]).expect("it is restored");
    // As when its process began anew.
    nodes[2].mover.close();
    let again = meshos_node::mover::Mover::new(&nodes[2].runtime, nodes[2].sums.clone());
    let queue = frosted.hand_over();
    let prepared = frosted.prepared();
    let installed = nodes::wait(|done| again.install(&frosted.frost.record, &prepared, Vec::new(), done));
    assert_eq!(installed, Ok(2));
    nodes::wait(|done| again.go_live(&slot.entity(), queue, done));
    let slot = nodes[2].slot(slot.origin());
    let state = slot.peek(|inside| inside.daemon.total.load(Ordering::SeqCst));
    assert_eq!(state, Some(3));
}

#[test]
fn what_is_discarded_leaves_nothing() {
    let nodes = three();
    let slot = nodes[1].spawn(&key(1), Durability::Journal);
    let frosted = freeze(&nodes[1], &nodes[2], slot.entity());
    frosted.restore(&nodes[2]).expect("it is restored");
    let image = frosted.frost.image.digest;
    nodes[2].mover.discard(&slot.entity(), &image);
    until(|| (nodes[2].stores)().fetch(&image, 1 << 20).is_err());
    frosted.thaw();
    until(|| !slot.is_frozen() && slot.try_enter().is_ok());
    // Another try is as the first one.
    move_to(&nodes[1], &nodes[2], slot.entity());
}

#[test]
fn a_freeze_waits_for_user_code_and_is_given_up_in_time_or_when_it_is_thawed() {
    let nodes = three();
    let slot = nodes[1].spawn(&key(1), Durability::Journal);
    let client = Client::new(&nodes[1], 71, slot.origin());
    let gate = nodes[1].switches.gate.lock();
    let before = nodes[1].switches.waiting.load(Ordering::SeqCst);
    client.send("wait0");
    nodes[1].switches.until_waiting(before + 1);
    let order = order(&nodes[1], &nodes[2], slot.entity());
    let (_, frost) = freeze_with(&nodes[1], order.clone(), Duration::from_millis(30));
    let reject = frost.recv_timeout(PATIENCE).expect("in time").err();
    assert_eq!(reject.map(|reject| reject.reason), Some(Reason::StateFailed));
    nodes[1].mover.thaw(&slot.entity(), Vec::new());
    let (_, frost) = freeze_with(&nodes[1], order.clone(), PATIENCE);
    nodes[1].mover.thaw(&slot.entity(), Vec::new());
    let reject = frost.recv_timeout(PATIENCE).expect("in time").err();
    assert_eq!(reject.map(|reject| reject.reason), Some(Reason::Busy));
    let (queue, frost) = freeze_with(&nodes[1], order, PATIENCE);
    drop(gate);
    frost
        .recv_timeout(PATIENCE)
        .expect("in time")
        .expect("it came to an end");
    assert_eq!((slot.view().stats.events_processed, queue.len()), (1, 0));
    client.settle();
    nodes[1].mover.thaw(&slot.entity(), Vec::new());
    client.send("abc");
    client.settle();
}

#[test]
fn a_frozen_daemon_is_left_alone_and_a_stop_waits_for_the_end() {
    let nodes = three();
    let slot = nodes[1].spawn(&key(1), Durability::Journal);
    let origin = slot.origin();
    nodes[1].runtime.registry().supervise(origin, true);
    let frosted = freeze(&nodes[1], &nodes[2], slot.entity());
    nodes[1].runtime.registry().poll();
    let soon = clock::unix_ms();
    let stopped = nodes[1].runtime.stop_daemon(origin, soon, &mut never);
    assert_eq!(stopped, Err(meshos_node::restart::StopError::Moving));
    let outcome = std::thread::scope(|scope| {
        let stop = scope.spawn(|| slot.inspect_later(Deadline::after(PATIENCE), &mut never).map(drop));
        frosted.restore(&nodes[2]).expect("it is restored");
        let queue = frosted.hand_over();
        frosted.install(&nodes[2]).expect("it is free");
        frosted.go_live(&nodes[2], queue);
        stop.join().expect("no panic")
    });
    assert!(outcome.is_err());
    assert!(matches!(slot.leased(), Err(Unleased::Fenced { epoch: 2, .. })));
}

#[test]
fn a_shutdown_lets_a_frozen_daemon_go_on_and_stops_it() {
    let nodes = three();
    let slot = nodes[1].spawn(&key(1), Durability::Journal);
    let frosted = freeze(&nodes[1], &nodes[2], slot.entity());
    let shutdown = nodes[1].runtime.shutdown(PATIENCE, &mut never);
    assert!(shutdown.stuck.is_empty() && slot.is_closed());
    drop(frosted);
    assert_eq!(
        nodes[1].mover.refusal(&order(&nodes[2], &nodes[1], slot.entity())),
        Some(Reject::from(Reason::ComputeNotSupported))
    );
}

#[test]
fn who_may_come_is_said_before() {
    let nodes = three();
    let slot = nodes[1].spawn(&key(1), Durability::Journal);
    let order = order(&nodes[1], &nodes[2], slot.entity());
    let refusal = || nodes[2].mover.refusal(&order).map(|reject| reject.reason);
    assert_eq!(refusal(), None);
    nodes[2].mover.accept(Accept::Expected);
    assert_eq!(refusal(), Some(Reason::NotPermitted));
    nodes[2].mover.expect("other", slot.origin(), None);
    assert_eq!(refusal(), Some(Reason::NotPermitted));
    nodes[2].mover.expect("sum", slot.origin(), None);
    assert_eq!(refusal(), None);
    nodes[2].mover.simulate_not_ready(true);
    assert_eq!(refusal(), Some(Reason::NotReady));
    nodes[2].mover.simulate_not_ready(false);
    nodes[2].sums.knows.store(false, Ordering::SeqCst);
    assert_eq!(refusal(), Some(Reason::NoFactory));
    let here = nodes[1].mover.refusal(&order).map(|reject| reject.reason);
    assert_eq!(here, Some(Reason::Busy));
}

#[test]
fn what_it_emitted_for_others_arrives_once_wherever_it_is() {
    for durability in [Durability::Journal, Durability::None] {
        let nodes = three();
        let slot = nodes[1].spawn(&key(1), durability);
        let receiver = nodes[0].spawn(&key(2), Durability::Journal);
        let client = Client::new(&nodes[1], 71, slot.origin());
        let mut expected = Vec::new();
        for round in 0..3 {
            for number in 0..40 {
                let payload = format!("r{}", round * 40 + number);
                let forwarded = forward(receiver.origin(), payload.as_bytes());
                let text = forwarded.clone();
                expected.push(round * 40 + number);
                let tray = Arc::new(Tray::default());
                let router = nodes[1].runtime.router();
                router.send(
                    slot.origin(),
                    &Number::Next(&client.sender),
                    &text,
                    Some(tray.ticket(0)),
                );
                assert!(matches!(tray.wait(1)[0], Sent::Taken { .. }));
            }
            let (from, to) = [(1, 2), (2, 1), (1, 2)][round];
            move_to(&nodes[from], &nodes[to], slot.entity());
        }
        let arrived = || {
            let seen = nodes[0].switches.seen.lock().clone().into_iter();
            let of_it = seen.filter(|payload| payload.starts_with(b"out"));
            of_it.map(|payload| payload[11..].to_vec()).collect::<Vec<_>>()
        };
        until(|| arrived().len() >= expected.len());
        let expected: Vec<_> = expected
            .iter()
            .map(|number| format!("r{number}").into_bytes())
            .collect();
        assert_eq!(arrived(), expected);
    }
}

/// Has a daemon read a channel.
fn subscribe(node: &Node, slot: &Arc<Slot<Sum>>, publisher: &Node, name: &ChannelName) {
    let binding = SubscriptionBinding {
        publisher: publisher.mesh.node_id(),
        channel: name.clone(),
        token: None,
        group: None,
    };
    let desk = node.runtime.desk().expect("it has channels");
    let subscribed = desk.subscribe(slot, publisher.id(), &binding, Deadline::after(PATIENCE), &mut never);
    assert!(subscribed.is_ok());
    let mut entered = slot.enter(Deadline::never(), &mut never).expect("open");
    let bindings = entered.host.bindings_mut();
    bindings.record(binding.publisher, name.clone(), None).expect("it fits");
    entered.keep_ledger();
    slot.publish(entered.host.bindings());
    deliver::submit(&mut entered);
}

#[test]
fn it_goes_on_reading_its_channels_where_it_had_read() {
    let nodes = three();
    let slot = nodes[1].spawn(&key(1), Durability::Journal);
    let name = ChannelName::new("a/b").expect("a name");
    let publisher = &nodes[0].channels;
    publisher.open(&name, &ChannelPolicy::default()).expect("it is opened");
    subscribe(&nodes[1], &slot, &nodes[0], &name);
    let (stop, published) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let number = published.load(Ordering::SeqCst);
                let payload = Arc::from(format!("p{number}").into_bytes());
                publisher.publish(&name, payload).expect("there is room");
                published.store(number + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        until(|| seen_of(&[&nodes[1]], "p").len() > 50);
        move_to(&nodes[1], &nodes[2], slot.entity());
        until(|| seen_of(&[&nodes[2]], "p").len() > 50);
        stop.store(true, Ordering::SeqCst);
    });
    let count = usize::try_from(published.load(Ordering::SeqCst)).expect("few");
    until(|| seen_of(&[&nodes[1], &nodes[2]], "p").len() >= count);
    assert_eq!(seen_of(&[&nodes[1], &nodes[2]], "p"), (0..count).collect::<Vec<_>>());
    assert!(nodes[1].runtime.desk().is_some_and(|desk| desk.is_empty()));
}

#[test]
fn what_comes_back_late_is_taken_in_behind_the_rest() {
    let nodes = three();
    let slot = nodes[1].spawn(&key(1), Durability::Journal);
    let client = Client::new(&nodes[2], 72, slot.origin());
    let frosted = freeze(&nodes[1], &nodes[2], slot.entity());
    (0..6).for_each(|number| assert!(client.send(&format!("l{number}")) > 0));
    until(|| frosted.queue.len() == 6);
    let mut queue = frosted.queue.take(nodes::Gate::Open);
    let late = queue.split_off(4);
    nodes[1].mover.thaw(&slot.entity(), queue);
    nodes[1].mover.thaw(&slot.entity(), late);
    assert_eq!(client.settle(), 6);
    assert_eq!(seen_of(&[&nodes[1]], "l"), (0..6).collect::<Vec<_>>());
}
