//! Daemons that are copied while they work, of which then only what came since has to travel.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use meshos_core::channel_policy::ChannelPolicy;
use meshos_core::config::{DaemonHostConfig, Durability, OnDivergence, OnError};
use meshos_core::control::DaemonControl;
use meshos_core::cursors::Receipt;
use meshos_core::id::EntityId;
use meshos_core::image;
use meshos_core::move_frame::{Reason, Reject};
use meshos_core::move_rows::{Item, MoveOrder};
use meshos_core::name::ChannelName;
use meshos_core::rows::{Table, Write};
use meshos_core::store::StoreError;
use meshos_core::store::check::check;
use meshos_node::carrier::Carrier;
use meshos_node::clock::Deadline;
use meshos_node::controls;
use meshos_node::daemon::DeliverError;
use meshos_node::deliver::{self, Want};
use meshos_node::hands::{Arrived, Copied, Hands};
use meshos_node::journal::Stores;
use meshos_node::mover::Mover;
use meshos_node::moves::{MoveEnd, MoveOpts, Moves};
use meshos_node::router::{Number, Sent};
use meshos_node::slot::Slot;

use crate::common::net::{Tray, forward};
use crate::common::{Event, Sum, key, never, until};
use crate::nodes::{
    self, Client, Frosted, Node, PATIENCE, event, freeze_on, memory, opts, order, reopened, seen_of, start, three, wait,
};
use crate::{exported, subscribe, tempfolder};

const DURABILITIES: [Durability; 3] = [Durability::Journal, Durability::Snapshot, Durability::None];

fn copy(source: &Node, order: &MoveOrder) -> Result<Copied, Reject> {
    wait(|done| source.mover.copy(order, opts(order, PATIENCE), done))
}

fn hold(target: &Node, order: &MoveOrder, copied: &Copied) -> Result<(), Reject> {
    let mut bytes = Vec::new();
    copied.image.slice(0..copied.image.len, &mut bytes);
    wait(|done| target.mover.hold_copy(order, Arrived::from(bytes), done))
}

/// Has the target hold a copy.
fn copied(source: &Node, target: &Node, entity: EntityId) -> MoveOrder {
    let order = order(source, target, entity);
    let copied = copy(source, &order).expect("it goes on");
    hold(target, &order, &copied).expect("it is restored");
    order
}

/// Moves a daemon of which the target holds a copy.
fn since(source: &Node, target: &Node, order: MoveOrder) {
    let frosted = freeze_on(source, order);
    assert_eq!(frosted.frost.rounds, 2);
    finish(&frosted, target);
}

fn finish(frosted: &Frosted<'_>, target: &Node) {
    assert_eq!(frosted.restore(target), Ok(frosted.frost.frozen));
    let queue = frosted.hand_over();
    assert_eq!(frosted.install(target), Ok(frosted.frost.record.epoch()));
    frosted.go_live(target, queue);
    assert!(frosted.retire());
}

/// Delivers an event of an origin, asking for a receipt; tells whether it took effect before.
fn deliver(slot: &Arc<Slot<Sum>>, event: &Event) -> (Option<Receipt>, bool) {
    let mut entered = slot.enter(Deadline::after(PATIENCE), &mut never).expect("open");
    let delivered = deliver::deliver(&mut entered, event, Want::Receipt).expect("it takes effect");
    deliver::submit(&mut entered);
    (delivered.receipt, delivered.duplicate)
}

fn is_taped(slot: &Arc<Slot<Sum>>) -> bool {
    let mut is_taped = None;
    until(|| slot.peek(|_| ()).is_some());
    while is_taped.is_none() {
        is_taped = slot.peek(meshos_node::inside::Inside::is_taped);
    }
    is_taped == Some(true)
}

/// What the nodes saw, first the source and then the target, which took some again that the source had taken.
fn in_order(source: &Node, target: &Node, prefix: &str, count: usize) {
    let (first, then) = (seen_of(&[source], prefix), seen_of(&[target], prefix));
    assert_eq!(first, (0..first.len()).collect::<Vec<_>>(), "{prefix}");
    let from = then.first().copied().unwrap_or(count);
    assert!(from <= first.len(), "{prefix}: {from} after {}", first.len());
    assert_eq!(then, (from..count).collect::<Vec<_>>(), "{prefix}");
}

#[test]
fn what_came_since_a_copy_is_taken_again_and_nothing_is_lost_under_load() {
    for durability in DURABILITIES {
        let nodes = three();
        let (source, target) = (&nodes[1], &nodes[2]);
        let slot = source.spawn(&key(1), durability);
        let origin = slot.origin();
        let clients = [(source, "a"), (target, "b"), (&nodes[0], "c")];
        let clients =
            clients.map(|(node, prefix)| (Client::new(node, 70 + u64::from(prefix.as_bytes()[0]), origin), prefix));
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut receipts = BTreeMap::new();
        let counts: Vec<usize> = std::thread::scope(|scope| {
            let threads = clients.each_ref().map(|(client, prefix)| {
                let (stop, sent) = (&stop, &sent);
                scope.spawn(move || client.send_until(prefix, stop, sent))
            });
            let some_more = || {
                let after = sent.load(Ordering::SeqCst) + 60;
                until(|| sent.load(Ordering::SeqCst) > after);
            };
            let mut note = |number: u64, slot: &Arc<Slot<Sum>>| {
                let taken = deliver(slot, &event(5, number, "number"));
                assert!(!taken.1);
                receipts.insert(number, taken.0);
            };
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                some_more();
                note(1, &slot);
                let order = order(source, target, slot.entity());
                let copied = copy(source, &order).expect("it goes on");
                note(2, &slot);
                some_more();
                assert!(is_taped(&slot));
                hold(target, &order, &copied).expect("it is restored");
                note(3, &slot);
                some_more();
                since(source, target, order);
                note(4, &target.slot(origin));
                some_more();
            }));
            stop.store(true, Ordering::SeqCst);
            if let Err(panic) = ended {
                std::panic::resume_unwind(panic);
            }
            threads.map(|thread| thread.join().expect("no panic")).into()
        });
        for ((client, prefix), count) in clients.iter().zip(&counts) {
            assert_eq!(client.settle(), *count);
            in_order(source, target, prefix, *count);
        }
        let moved = target.slot(origin);
        for (number, receipt) in receipts {
            let again = deliver(&moved, &event(5, number, "number"));
            assert_eq!(again, (receipt, true), "{durability:?}: {number}");
            let epoch = if number < 4 { 1 } else { 2 };
            assert_eq!(receipt.map(|receipt| receipt.epoch), Some(epoch));
        }
        let total = counts.iter().sum::<usize>() + 4;
        let view = moved.view();
        assert_eq!(
            (view.stats.events_processed, view.epoch),
            (total as u64, 2),
            "{durability:?}"
        );
        assert_eq!(exported(target, origin).len(), total);
        if durability == Durability::Snapshot {
            // The snapshot that is kept is not that of before what came since.
            until(|| moved.view().stats.snapshots_taken > 0 && crate::rows(target, Table::Snapshots) == 2);
        }
        target.check();
    }
}

#[test]
fn an_install_is_the_copy_and_the_steps_since_and_a_restart_takes_them_again() {
    let stores = [memory(), memory(), memory()];
    let nodes = start(&stores);
    let (source, target) = (&nodes[1], &nodes[2]);
    let slot = source.spawn(&key(1), Durability::Journal);
    let origin = slot.origin();
    let receipt = |number| deliver(&slot, &event(5, number, "two")).0;
    let before: Vec<_> = (1..=20).map(receipt).collect();
    let order = copied(source, target, slot.entity());
    let since: Vec<_> = (21..=50).map(receipt).collect();
    super::live::since(source, target, order);
    let moved = target.slot(origin);
    let after: Vec<_> = (51..=60)
        .map(|number| deliver(&moved, &event(5, number, "two")).0)
        .collect();
    target.check();
    nodes.iter().for_each(Node::end);
    drop((slot, moved, nodes));
    let nodes = start(&stores);
    let target = &nodes[2];
    let resumed = target.runtime.resume(&key(1), Sum::new(&target.switches));
    let (slot, report) = resumed.map_err(|error| format!("{error:?}")).expect("it owns");
    assert_eq!((report.replayed, report.sequence, report.epoch), (40, 120, 2));
    assert_eq!(slot.view().stats.events_processed, 60);
    let receipts: Vec<_> = before.into_iter().chain(since).chain(after).collect();
    for (number, receipt) in (1..).zip(receipts) {
        assert_eq!(deliver(&slot, &event(5, number, "two")), (receipt, true), "{number}");
    }
    assert_eq!(
        slot.peek(|inside| inside.daemon.total.load(Ordering::SeqCst)),
        Some(180)
    );
    assert_eq!(exported(target, origin).len(), 80, "those since the copy");
    nodes.iter().for_each(Node::end);
}

#[test]
fn both_images_of_a_target_in_doubt_survive_a_restart_and_it_goes_live() {
    let folder = tempfolder("live");
    let open = |node: usize| -> Stores { reopened(&folder.join(node.to_string())) };
    for durability in DURABILITIES {
        let seed = 1 + durability as u8;
        let key = key(seed);
        let nodes = start(&[open(0), open(1), open(2)]);
        let (source, target) = (&nodes[1], &nodes[2]);
        let slot = source.spawn(&key, durability);
        let (entity, origin) = (slot.entity(), slot.origin());
        let before: Vec<_> = (1..=10)
            .map(|number| deliver(&slot, &event(5, number, "abc")).0)
            .collect();
        let order = copied(source, target, entity);
        let since: Vec<_> = (11..=30)
            .map(|number| deliver(&slot, &event(5, number, "abc")).0)
            .collect();
        let frosted = freeze_on(source, order);
        assert_eq!(frosted.restore(target), Ok(frosted.frost.frozen));
        let (prepared, record) = (frosted.prepared(), frosted.frost.record.clone());
        let mid = prepared.order.mid;
        let row = Item::Prepared(Box::new(prepared.clone())).write(&entity, &mid);
        let gone = Write::remove(Table::Moves, row.key.clone());
        target.keep(vec![row]);
        target.check();
        let queue = frosted.hand_over();
        drop(frosted);
        nodes.iter().for_each(Node::end);
        drop((slot, nodes));

        let nodes = start(&[open(0), open(1), open(2)]);
        let target = &nodes[2];
        check(&*(target.stores)()).expect("both are there");
        let installed = wait(|done| target.mover.install(&record, &prepared, vec![gone], done));
        assert_eq!(installed, Ok(2), "{durability:?}");
        wait(|done| target.mover.go_live(&entity, queue, done));
        let moved = target.slot(origin);
        for (number, receipt) in (1..).zip(before.into_iter().chain(since)) {
            assert_eq!(deliver(&moved, &event(5, number, "abc")), (receipt, true), "{number}");
        }
        assert!(!deliver(&moved, &event(5, 31, "abc")).1);
        assert_eq!(
            moved.peek(|inside| inside.daemon.total.load(Ordering::SeqCst)),
            Some(93)
        );
        target.check();
        nodes.iter().for_each(Node::end);
        drop((moved, nodes));
    }
    std::fs::remove_dir_all(&folder).expect("it is there");
}

#[test]
fn where_only_snapshots_are_kept_a_crash_goes_back_to_the_copy_until_there_is_another() {
    let stores = [memory(), memory(), memory()];
    let nodes = start(&stores);
    let (source, target) = (&nodes[1], &nodes[2]);
    let slot = source.spawn(&key(1), Durability::Snapshot);
    let origin = slot.origin();
    (1..=10).for_each(|number| assert!(!deliver(&slot, &event(5, number, "abc")).1));
    let order = copied(source, target, slot.entity());
    (11..=30).for_each(|number| assert!(!deliver(&slot, &event(5, number, "abc")).1));
    target.switches.fail_snapshot.store(true, Ordering::SeqCst);
    since(source, target, order);
    until(|| target.slot(origin).view().stats.errors > 0);
    nodes.iter().for_each(Node::end);
    drop((slot, nodes));
    let nodes = start(&stores);
    let target = &nodes[2];
    let resumed = target.runtime.resume(&key(1), Sum::new(&target.switches));
    let (slot, report) = resumed.map_err(|error| format!("{error:?}")).expect("it owns");
    assert_eq!((report.rolled_back_from, report.epoch), (Some(10), 3));
    assert_eq!(slot.view().stats.events_processed, 10);
    assert!(!deliver(&slot, &event(5, 11, "abc")).1);
    assert_eq!(exported(target, origin).len(), 1);
    target.check();
    nodes.iter().for_each(Node::end);
}

#[test]
fn a_copy_that_is_named_and_missing_is_found() {
    let nodes = three();
    let (source, target) = (&nodes[1], &nodes[2]);
    let slot = source.spawn(&key(1), Durability::Journal);
    let order = copied(source, target, slot.entity());
    deliver(&slot, &event(5, 1, "abc"));
    let frosted = freeze_on(source, order);
    frosted.restore(target).expect("it is restored");
    let prepared = frosted.prepared();
    let copy = image::copy_of(&frosted.image()).expect("it names one");
    let row = Item::Prepared(Box::new(prepared.clone())).write(&slot.entity(), &prepared.order.mid);
    target.keep(vec![row]);
    check(&*(target.stores)()).expect("both are there");
    (target.stores)().discard(&copy).expect("it is there");
    assert!(matches!(check(&*(target.stores)()), Err(StoreError::NoSnapshot { name }) if name == copy));
    // Without it nothing can be installed, and the node goes on.
    target.mover.close();
    let again = Mover::new(&target.runtime, target.sums.clone());
    frosted.hand_over();
    let installed = wait(|done| again.install(&frosted.frost.record, &prepared, Vec::new(), done));
    assert!(installed.is_err_and(|why| why.contains("its copy is not to be had")));
}

#[test]
fn an_abort_after_the_copy_or_the_freeze_lets_it_go_on_and_forgets_the_steps() {
    let nodes = three();
    let (source, target) = (&nodes[1], &nodes[2]);
    let slot = source.spawn(&key(1), Durability::Journal);
    let order = copied(source, target, slot.entity());
    let name = |node: &Node| (node.stores)().stats().snapshot_bytes;
    let with_copy = name(target);
    assert!(with_copy > 0 && is_taped(&slot));
    deliver(&slot, &event(5, 1, "abc"));
    source.mover.drop_copy(&slot.entity());
    target.mover.drop_held(&slot.entity());
    until(|| name(target) == 0);
    deliver(&slot, &event(5, 2, "abc"));
    assert!(!is_taped(&slot));
    // What is held is of no use to what is whole.
    let frosted = freeze_on(source, order);
    assert_eq!(frosted.frost.rounds, 1);
    assert_eq!(frosted.thaw(), 0);
    // A freeze that is thawed took the steps with it.
    let order = copied(source, target, slot.entity());
    deliver(&slot, &event(5, 3, "abc"));
    let frosted = freeze_on(source, order.clone());
    assert_eq!(frosted.frost.rounds, 2);
    assert_eq!(frosted.restore(target), Ok(frosted.frost.frozen));
    let image = frosted.frost.image.digest;
    target.mover.discard(&slot.entity(), &image);
    frosted.thaw();
    until(|| name(target) == 0);
    deliver(&slot, &event(5, 4, "abc"));
    assert!(!is_taped(&slot));
    let frosted = freeze_on(source, order);
    assert_eq!(frosted.frost.rounds, 1);
    finish(&frosted, target);
    assert_eq!(target.slot(slot.origin()).view().stats.events_processed, 4);
}

#[test]
fn what_does_not_lead_to_the_present_state_is_no_record() {
    let nodes = three();
    let (source, target) = (&nodes[1], &nodes[2]);
    let slot = source.spawn(&key(1), Durability::Journal);
    let enter = || slot.enter(Deadline::after(PATIENCE), &mut never).expect("open");
    let rounds = |mut between: Box<dyn FnMut() + '_>| {
        let order = copied(source, target, slot.entity());
        assert!(is_taped(&slot));
        between();
        let frosted = freeze_on(source, order);
        let rounds = frosted.frost.rounds;
        frosted.thaw();
        target.mover.drop_held(&slot.entity());
        until(|| slot.peek(|_| ()).is_some());
        rounds
    };
    let mut number = 0;
    let mut next = |payload: &str| {
        number += 1;
        event(5, number, payload)
    };
    let (good, bad) = (next("abc"), next("raise"));
    assert_eq!(rounds(Box::new(|| assert!(!deliver(&slot, &good).1))), 2);
    let raises = || {
        let mut entered = enter();
        let outcome = deliver::deliver(&mut entered, &bad, Want::Receipt);
        assert!(matches!(outcome, Err(DeliverError::Raised(_))));
    };
    assert_eq!(rounds(Box::new(raises)), 1);
    let controlled = || {
        let given = controls::give(&mut enter(), DaemonControl::BackpressureOff);
        given.expect("it is here").expect("it takes it");
    };
    assert_eq!(rounds(Box::new(controlled)), 1);
    // More than is noted.
    let large = "x".repeat(4 << 20);
    let too_much = || {
        for number in 10..30 {
            assert!(!deliver(&slot, &event(6, number, &large)).1);
        }
        assert!(!is_taped(&slot));
    };
    assert_eq!(rounds(Box::new(too_much)), 1);
    // Another move.
    let other = || {
        let another = order(source, target, slot.entity());
        copy(source, &another).expect("it goes on");
    };
    assert_eq!(rounds(Box::new(other)), 1);
    assert_eq!(rounds(Box::new(|| ())), 2);
}

#[test]
fn a_copy_waits_for_user_code_and_is_given_up_in_time_or_when_nobody_wants_it() {
    let nodes = three();
    let (source, target) = (&nodes[1], &nodes[2]);
    let slot = source.spawn(&key(1), Durability::Journal);
    let client = Client::new(source, 71, slot.origin());
    let gate = source.switches.gate.lock();
    let waiting = source.switches.waiting.load(Ordering::SeqCst);
    client.send("wait0");
    source.switches.until_waiting(waiting + 1);
    let order = order(source, target, slot.entity());
    let asked = |within| {
        let (told, heard) = mpsc::channel();
        let done = Box::new(move |copied: Result<Copied, Reject>| drop(told.send(copied.err())));
        source.mover.copy(&order, opts(&order, within), done);
        heard
    };
    let reason = |heard: mpsc::Receiver<Option<Reject>>| {
        let found = heard.recv_timeout(PATIENCE).expect("in time");
        found.map(|reject| reject.reason)
    };
    assert_eq!(reason(asked(Duration::from_millis(30))), Some(Reason::StateFailed));
    let heard = asked(PATIENCE);
    source.mover.drop_copy(&slot.entity());
    assert_eq!(reason(heard), Some(Reason::Busy));
    let heard = asked(PATIENCE);
    drop(gate);
    assert_eq!(reason(heard), None);
    client.settle();
    assert!(is_taped(&slot));
    // Neither is it wanted any more once the freeze was given up.
    let gate = source.switches.gate.lock();
    let waiting = source.switches.waiting.load(Ordering::SeqCst);
    client.send("wait1");
    source.switches.until_waiting(waiting + 1);
    let within = Duration::from_millis(30);
    let (_, frost) = nodes::freeze_with(source, order.clone(), within);
    let refused = frost.recv_timeout(PATIENCE).expect("in time").err();
    assert_eq!(refused.map(|reject| reject.reason), Some(Reason::StateFailed));
    source.mover.thaw(&slot.entity(), Vec::new());
    drop(gate);
    client.settle();
    assert!(!is_taped(&slot));
    // What cannot be restored is not held, and leaves nothing.
    target.switches.fail_restore.store(true, Ordering::SeqCst);
    let copied = copy(source, &order).expect("it goes on");
    let refused = hold(target, &order, &copied).expect_err("it raises");
    assert_eq!(
        (refused.reason, refused.text.contains("no restore")),
        (Reason::StateFailed, true)
    );
    until(|| (target.stores)().stats().snapshot_bytes == 0);
}

#[test]
fn a_replay_that_differs_and_a_copy_that_is_not_there_are_refused() {
    let nodes = three();
    let (source, target) = (&nodes[1], &nodes[2]);
    nodes
        .iter()
        .for_each(|node| node.switches.forgets.store(true, Ordering::SeqCst));
    let slot = source.spawn(&key(1), Durability::Journal);
    deliver(&slot, &event(5, 1, "abc"));
    let order = copied(source, target, slot.entity());
    deliver(&slot, &event(5, 2, "abc"));
    let frosted = freeze_on(source, order);
    assert_eq!(frosted.frost.rounds, 2);
    let refused = frosted.restore(target).expect_err("it is another daemon");
    assert_eq!(refused.reason, Reason::StateFailed);
    assert!(
        refused.text.starts_with("the replay differs: step 1"),
        "{}",
        refused.text
    );
    until(|| (target.stores)().stats().snapshot_bytes == 0);
    let refused = frosted.restore(target).expect_err("nothing is held any more");
    assert_eq!(refused.text, "the replay differs: the copy is not here");
    frosted.thaw();
    deliver(&slot, &event(5, 3, "abc"));
    nodes::move_to(source, target, slot.entity());
    assert_eq!(target.slot(slot.origin()).view().stats.events_processed, 3);
}

#[test]
fn a_daemon_that_is_kept_with_its_state_at_each_event_is_not_copied() {
    let nodes = three();
    let config = DaemonHostConfig {
        durability: Durability::Journal,
        on_divergence: OnDivergence::SnapshotEveryEvent,
        ..DaemonHostConfig::default()
    };
    let spawned = nodes[1].runtime.spawn(&key(1), config, Sum::new(&nodes[1].switches));
    let slot = spawned.map_err(|error| format!("{error:?}")).expect("free");
    let order = order(&nodes[1], &nodes[2], slot.entity());
    let refused = copy(&nodes[1], &order).err().map(|reject| reject.reason);
    assert_eq!((refused, is_taped(&slot)), (Some(Reason::StateFailed), false));
    let frosted = freeze_on(&nodes[1], order);
    finish(&frosted, &nodes[2]);
}

#[test]
fn a_copied_daemon_goes_on_reading_its_channels_where_it_had_read() {
    let nodes = three();
    let (source, target) = (&nodes[1], &nodes[2]);
    let slot = source.spawn(&key(1), Durability::Journal);
    let publisher = &nodes[0].channels;
    let names = ["a/b", "c"].map(|name| ChannelName::new(name).expect("a name"));
    let mut published = 0;
    let publish = |name: &ChannelName, numbers: std::ops::Range<usize>| {
        for number in numbers {
            let payload = Arc::from(format!("p{number}").into_bytes());
            publisher.publish(name, payload).expect("there is room");
        }
    };
    names.iter().for_each(|name| {
        publisher.open(name, &ChannelPolicy::default()).expect("it is opened");
    });
    subscribe(source, &slot, &nodes[0], &names[0]);
    publish(&names[0], published..published + 20);
    published += 20;
    until(|| seen_of(&[source], "p").len() == 20);
    let order = copied(source, target, slot.entity());
    publish(&names[0], published..published + 20);
    published += 20;
    until(|| seen_of(&[source], "p").len() == 40);
    // A channel that was not read when the copy was made.
    subscribe(source, &slot, &nodes[0], &names[1]);
    publish(&names[1], published..published + 20);
    published += 20;
    until(|| seen_of(&[source], "p").len() == 60);
    since(source, target, order);
    for name in &names {
        publish(name, published..published + 20);
        published += 20;
        until(|| seen_of(&[target], "p").len() == published - 20);
    }
    in_order(source, target, "p", published);
    // What others see of it is as of when the lane left.
    until(|| target.slot(slot.origin()).view().stats.events_processed == published as u64);
    target.check();
}

#[test]
fn a_coroutine_is_waited_for_and_taken_again() {
    let nodes = three();
    let (source, target) = (&nodes[1], &nodes[2]);
    let slot = source.spawn(&key(1), Durability::Journal);
    let client = Client::new(source, 71, slot.origin());
    let answered = || {
        until(|| !source.switches.pending.lock().is_empty());
        let then = source.switches.pending.lock().pop().expect("one waits");
        then(Ok(std::iter::once(b"waited".to_vec()).collect()));
    };
    client.send("later");
    answered();
    client.settle();
    let order = copied(source, target, slot.entity());
    client.send("later");
    answered();
    client.send("abc");
    client.settle();
    // One that runs is waited for, and travels.
    client.send("later");
    until(|| !source.switches.pending.lock().is_empty());
    let (queue, frost) = nodes::freeze_with(source, order.clone(), PATIENCE);
    answered();
    let frost = frost.recv_timeout(PATIENCE).expect("in time").expect("it is frozen");
    assert_eq!(frost.rounds, 2);
    let frosted = Frosted {
        source,
        order,
        queue,
        frost,
    };
    finish(&frosted, target);
    client.settle();
    let moved = target.slot(slot.origin());
    assert_eq!(moved.view().stats.events_processed, 4);
    assert_eq!(exported(target, slot.origin()).len(), 4);
}

/// Nodes whose machines of moves do everything.
struct Moving {
    moves: Vec<Arc<Moves>>,
    nodes: Vec<Node>,
}

fn moving() -> Moving {
    let nodes = three();
    let join = |node: &Node| {
        let carrier = Carrier::mesh(node.mesh.clone());
        let (key, stores) = (Arc::clone(&node.key), Arc::clone(&node.stores));
        let moves = Moves::join(carrier, key, stores, Arc::clone(&node.ownership)).expect("its rows are read");
        let hands: Arc<dyn Hands> = node.mover.clone();
        moves.serve(Arc::downgrade(&hands));
        moves
    };
    let moves = nodes.iter().map(join).collect();
    Moving { moves, nodes }
}

impl Moving {
    fn live(&self, entity: EntityId, source: usize, target: usize) -> MoveEnd {
        let within = || Deadline::after(PATIENCE);
        let moves = &self.moves[source];
        let found = moves.describe(self.nodes[source].id(), entity.origin(), within(), || false);
        let opts = MoveOpts {
            live: true,
            freeze_max: PATIENCE,
            ..MoveOpts::default()
        };
        let begun = moves.begin(found.expect("it answers"), self.nodes[target].id(), opts);
        begun.expect("it begins").wait(within(), || false).expect("it ends")
    }
}

#[test]
fn the_machines_move_it_live_there_and_back() {
    for durability in DURABILITIES {
        let moving = moving();
        let nodes = &moving.nodes;
        let slot = nodes[1].spawn(&key(1), durability);
        let (entity, origin) = (slot.entity(), slot.origin());
        let client = Client::new(&nodes[0], 70, origin);
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let count = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    client.send_some(8);
                    sent.fetch_add(8, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for leg in 0..4 {
                    let (from, to) = [(1, 2), (2, 1)][leg % 2];
                    let after = sent.load(Ordering::SeqCst) + 40;
                    until(|| sent.load(Ordering::SeqCst) > after);
                    let outcome = moving.live(entity, from, to);
                    let outcome = outcome.unwrap_or_else(|failed| panic!("{durability:?}, leg {leg}: {failed:?}"));
                    assert_eq!((outcome.epoch, outcome.live, outcome.rounds), (leg as u64 + 2, true, 2));
                }
            }));
            stop.store(true, Ordering::SeqCst);
            thread.join().expect("no panic");
            if let Err(panic) = ended {
                std::panic::resume_unwind(panic);
            }
            client.settle()
        });
        let moved = nodes[1].slot(origin);
        assert_eq!(moved.view().stats.events_processed, count as u64, "{durability:?}");
        assert_eq!(
            moved.peek(|inside| inside.daemon.total.load(Ordering::SeqCst)),
            Some(3 * count as u64)
        );
        assert_eq!(exported(&nodes[1], origin).len(), count);
        nodes.iter().for_each(|node| {
            node.check();
        });
    }
}

#[test]
fn a_daemon_that_forgets_is_moved_by_stopping_it() {
    let moving = moving();
    let nodes = &moving.nodes;
    nodes
        .iter()
        .for_each(|node| node.switches.forgets.store(true, Ordering::SeqCst));
    let slot = nodes[1].spawn(&key(1), Durability::None);
    let (entity, origin) = (slot.entity(), slot.origin());
    let client = Client::new(&nodes[0], 70, origin);
    client.send_some(10);
    client.settle();
    // It takes more while the copy is being restored.
    let gate = nodes[2].switches.restore_gate.lock();
    std::thread::scope(|scope| {
        let moved = scope.spawn(|| moving.live(entity, 1, 2));
        nodes[2].switches.until_waiting(1);
        client.send_some(10);
        assert_eq!(client.settle(), 10);
        drop(gate);
        let outcome = moved.join().expect("no panic").expect("it moves");
        assert_eq!((outcome.epoch, outcome.live, outcome.rounds), (2, false, 1));
    });
    client.send_some(10);
    client.settle();
    let count = 30;
    assert_eq!(nodes[2].slot(origin).view().stats.events_processed, count as u64);
    assert_eq!(exported(&nodes[2], origin).len(), count);
}

#[test]
fn how_long_it_stands_still_does_not_grow_with_the_state() {
    let nodes = three();
    let (source, target) = (&nodes[1], &nodes[2]);
    let took = |padding: usize, is_live: bool, seed: u8| {
        nodes
            .iter()
            .for_each(|node| node.switches.padding.store(padding, Ordering::SeqCst));
        let slot = source.spawn(&key(seed), Durability::Journal);
        let order = if is_live {
            copied(source, target, slot.entity())
        } else {
            order(source, target, slot.entity())
        };
        for number in 1..=20 {
            deliver(&slot, &event(5, number, "abc"));
        }
        let began = Instant::now();
        let frosted = freeze_on(source, order);
        assert_eq!(frosted.restore(target), Ok(frosted.frost.frozen));
        let queue = frosted.hand_over();
        assert_eq!(frosted.install(target), Ok(2));
        frosted.go_live(target, queue);
        let took = began.elapsed();
        assert!(frosted.retire());
        took
    };
    let best = |padding, is_live, seed| {
        let tries = (seed..seed + 3).map(|seed| took(padding, is_live, seed));
        tries.min().expect("some")
    };
    let (small, large) = (best(0, true, 10), best(16 << 20, true, 20));
    let stopped = best(16 << 20, false, 30);
    assert!(
        large < small * 3 || large * 4 < stopped,
        "{small:?}, {large:?}, {stopped:?}"
    );
}

#[test]
fn letters_and_outputs_that_are_due_are_as_of_the_freeze() {
    for durability in DURABILITIES {
        let nodes = three();
        let (source, target) = (&nodes[1], &nodes[2]);
        let config = DaemonHostConfig {
            durability,
            on_error: OnError::Restore,
            attempts_max: 2,
            ..DaemonHostConfig::default()
        };
        let spawned = source.runtime.spawn(&key(1), config, Sum::new(&source.switches));
        let slot = spawned.map_err(|error| format!("{error:?}")).expect("free");
        let receiver = nodes[0].spawn(&key(2), Durability::Journal);
        let (client, tray) = (Client::new(source, 71, slot.origin()), Arc::new(Tray::default()));
        let mut sent = 0;
        let mut send = |payload: &[u8]| {
            let router = source.runtime.router();
            router.send(
                slot.origin(),
                &Number::Next(&client.sender),
                payload,
                Some(tray.ticket(sent)),
            );
            sent += 1;
            tray.wait(sent)[sent - 1]
        };
        let mut forwarded = |numbers: std::ops::Range<usize>| {
            for number in numbers {
                let taken = send(&forward(receiver.origin(), format!("r{number}").as_bytes()));
                assert!(matches!(taken, Sent::Taken { .. }), "{taken:?}");
            }
            assert!(matches!(send(b"raise"), Sent::PassedOver));
        };
        forwarded(0..3);
        let order = copied(source, target, slot.entity());
        forwarded(3..20);
        let before = slot.view().stats;
        assert_eq!(before.dead_letters, 2);
        since(source, target, order);
        forwarded(20..30);
        let moved = target.slot(slot.origin());
        assert_eq!(moved.view().stats.dead_letters, 3, "{durability:?}");
        assert_eq!(moved.view().stats.errors, before.errors + 2, "{durability:?}");
        let letters = || moved.peek(|inside| inside.letters.as_ref().map(|letters| letters.iter().count()));
        until(|| letters().flatten() == Some(3));
        let arrived = || {
            let seen = nodes[0].switches.seen.lock().clone().into_iter();
            let of_it = seen.filter(|payload| payload.starts_with(b"out"));
            of_it.map(|payload| payload[11..].to_vec()).collect::<Vec<_>>()
        };
        until(|| arrived().len() >= 30);
        let expected: Vec<_> = (0..30).map(|number| format!("r{number}").into_bytes()).collect();
        assert_eq!(arrived(), expected, "{durability:?}");
        target.check();
    }
}
