//! Events between daemons of several nodes: once, in order, with equal receipts, whatever the network does.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::kept::{Disk, Handle, journal};
use common::net::{Net, Netted, PATIENCE, Tray, Weather, forward, memory, taken};
use common::{Sum, config, key, until};
use meshos_core::id::Origin;
use meshos_core::inflow::WINDOW;
use meshos_core::outbox::Limits;
use meshos_core::rows::{KeyRange, Table};
use meshos_core::store::Store;
use meshos_node::carrier::Carrier;
use meshos_node::clock::{self, Deadline};
use meshos_node::journal::Stores;
use meshos_node::router::{Number, Router, Sent, Vacant};
use meshos_node::sync::Mutex;

const BAD: Weather = Weather {
    seed: 1,
    lost: 50,
    twice: 30,
    later: 30,
};

fn origin(seed: u8) -> Origin {
    key(seed).lock().origin()
}

fn payload(number: usize) -> Vec<u8> {
    format!("event {number:05}").into_bytes()
}

fn disk() -> (Arc<Mutex<Disk>>, Stores) {
    let disk = Arc::new(Mutex::new(Disk::default()));
    let held = Arc::clone(&disk);
    (disk, Arc::new(move || Box::new(Handle(Arc::clone(&held)))))
}

fn rows(disk: &Mutex<Disk>, table: Table) -> usize {
    disk.lock()
        .page(table, &KeyRange::all(), usize::MAX)
        .expect("in memory")
        .len()
}

/// Sends many and looks at what came of them: all once, in order, each with the receipt of its application.
fn all_arrive(from: &Netted, to: &Netted, seed: u8, count: usize) {
    let tray = Arc::new(Tray::default());
    for number in 0..count {
        from.send(origin(seed), &payload(number), &tray, number);
    }
    let sent = tray.wait(count);
    let expected: Vec<_> = (0..count).map(payload).collect();
    assert_eq!(to.seen(), expected);
    for (number, sent) in sent.iter().enumerate() {
        let (receipt, _) = taken(sent);
        assert_eq!(
            (receipt.processed, receipt.position),
            (number as u64 + 1, number as u64 + 1)
        );
        assert_eq!(receipt.epoch, 1);
    }
}

#[test]
fn an_event_reaches_a_daemon_on_another_node() {
    let (_net, nodes) = Net::of(3, Weather::default());
    let slot = nodes[1].spawn(1, config());
    all_arrive(&nodes[0], &nodes[1], 1, 1);
    assert_eq!(slot.view().stats.events_processed, 1);
    // The node of the daemon sends to it as everybody does.
    let tray = Arc::new(Tray::default());
    nodes[1].send(origin(1), b"from here", &tray, 0);
    assert_eq!(taken(&tray.wait(1)[0]).0.processed, 2);
}

#[test]
fn what_is_sent_arrives_once_and_in_order_whatever_the_network_does() {
    for seed in 0..4 {
        let weather = Weather { seed, ..BAD };
        let (_net, nodes) = Net::of(2, weather);
        nodes[1].spawn(1, config());
        all_arrive(&nodes[0], &nodes[1], 1, 400);
    }
}

#[test]
fn a_daemon_with_a_journal_answers_when_it_is_kept() {
    let net = Net::new(2, BAD);
    let (disk, stores) = disk();
    let nodes = [net.join(0, memory()), net.join(1, stores)];
    nodes[0].sees(&nodes[1]);
    nodes[1].spawn(1, journal());
    disk.lock().is_held = true;
    let tray = Arc::new(Tray::default());
    nodes[0].send(origin(1), b"one", &tray, 0);
    until(|| nodes[1].seen().len() == 1);
    until(|| !disk.lock().held.is_empty());
    // A second try finds a duplicate, which is not answered either.
    let end = Instant::now() + Duration::from_millis(200);
    until(|| Instant::now() > end);
    assert_eq!(tray.told(), 0);
    disk.lock().go_on();
    assert_eq!(taken(&tray.wait(1)[0]).0.position, 1);
    assert_eq!(nodes[1].seen().len(), 1);
}

#[test]
fn a_repeated_event_gets_the_receipt_of_its_first_application() {
    let (_net, nodes) = Net::of(2, Weather::default());
    nodes[1].spawn(1, config());
    let (tray, again) = (Arc::new(Tray::default()), Arc::new(Tray::default()));
    let sequence = nodes[0].send(origin(1), b"one", &tray, 0);
    let (first, _) = taken(&tray.wait(1)[0]);
    let number = Number::Given {
        origin: nodes[0].runtime.sender().origin,
        sequence,
    };
    let router = nodes[0].runtime.router();
    router.send(origin(1), &number, b"one", Some(again.ticket(0)));
    assert_eq!(taken(&again.wait(1)[0]), (first, true));
    assert_eq!(nodes[1].seen().len(), 1);
}

#[test]
fn a_daemon_that_is_nowhere_is_said_to_be_nowhere() {
    let (_net, nodes) = Net::of(3, BAD);
    let tray = Arc::new(Tray::default());
    nodes[0].send(origin(1), b"one", &tray, 0);
    assert_eq!(tray.wait(1), [Sent::Nobody]);
    // It may come later.
    nodes[2].spawn(1, config());
    let end = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < end, "it is found");
        let tray = Arc::new(Tray::default());
        nodes[0].send(origin(1), b"two", &tray, 0);
        match tray.wait(1)[0] {
            Sent::Nobody => {}
            other => {
                taken(&other);
                break;
            }
        }
    }
}

#[test]
fn while_a_node_is_silent_nobody_is_said_to_be_nowhere_and_what_is_given_up_never_left() {
    let (_net, nodes) = Net::of(2, Weather::default());
    nodes[1].spawn(1, config());
    nodes[1].is_cut.store(true, Ordering::Release);
    let tray = Arc::new(Tray::default());
    let sequence = nodes[0].send(origin(1), b"one", &tray, 0);
    let end = Instant::now() + Duration::from_millis(400);
    until(|| Instant::now() > end);
    assert_eq!(tray.told(), 0);
    let sender = nodes[0].runtime.sender().origin;
    assert!(!nodes[0].runtime.router().give_up(origin(1), sender, sequence));
    nodes[1].is_cut.store(false, Ordering::Release);
    nodes[0].send(origin(1), b"two", &tray, 1);
    assert_eq!(taken(&tray.wait(1)[0]).0.processed, 1);
    assert_eq!(nodes[1].seen(), [b"two"]);
}

#[test]
fn an_event_that_was_given_up_on_its_way_goes_on_and_can_be_continued() {
    let (_net, nodes) = Net::of(2, Weather::default());
    nodes[1].spawn(1, config());
    let tray = Arc::new(Tray::default());
    nodes[0].send(origin(1), b"one", &tray, 0);
    tray.wait(1);
    nodes[1].is_cut.store(true, Ordering::Release);
    let sequence = nodes[0].send(origin(1), b"two", &tray, 1);
    until(|| nodes[1].seen().len() == 2);
    let sender = nodes[0].runtime.sender().origin;
    assert!(nodes[0].runtime.router().give_up(origin(1), sender, sequence));
    let number = Number::Given {
        origin: sender,
        sequence,
    };
    let again = Arc::new(Tray::default());
    nodes[0]
        .runtime
        .router()
        .send(origin(1), &number, b"two", Some(again.ticket(0)));
    nodes[1].is_cut.store(false, Ordering::Release);
    assert_eq!(taken(&again.wait(1)[0]).0.processed, 2);
    assert_eq!((nodes[1].seen().len(), tray.told()), (2, 1));
}

#[test]
fn no_more_than_a_window_leaves_before_it_is_answered() {
    let (_net, nodes) = Net::of(2, Weather::default());
    let slot = nodes[1].spawn(1, config());
    let held = slot.try_enter().expect("free");
    let tray = Arc::new(Tray::default());
    for number in 0..3 * WINDOW {
        nodes[0].send(origin(1), &payload(number), &tray, number);
    }
    until(|| nodes[1].runtime.router().stats().arrived >= WINDOW as u64);
    let end = Instant::now() + Duration::from_millis(200);
    until(|| Instant::now() > end);
    // Tries of the same events come again.
    assert!(nodes[0].runtime.router().open() == 3 * WINDOW);
    drop(held);
    tray.wait(3 * WINDOW);
    assert_eq!(nodes[1].seen().len(), 3 * WINDOW);
}

#[test]
fn a_daemon_that_raises_is_tried_again_and_passes_over_in_the_end() {
    let (_net, nodes) = Net::of(2, BAD);
    let mut options = config();
    options.attempts_max = 2;
    let slot = nodes[1].spawn(1, options);
    nodes[1].switches.fails.store(1, Ordering::SeqCst);
    let tray = Arc::new(Tray::default());
    for (place, payload) in [&b"fails"[..], b"raise", b"good"].into_iter().enumerate() {
        nodes[0].send(origin(1), payload, &tray, place);
    }
    let sent = tray.wait(3);
    assert_eq!(taken(&sent[0]).0.processed, 1);
    // If the answer is lost, nobody knows whether it was passed over.
    assert!(
        matches!(sent[1], Sent::PassedOver | Sent::Unknown { .. }),
        "{:?}",
        sent[1]
    );
    assert_eq!(taken(&sent[2]).0.processed, 2);
    assert_eq!(slot.view().stats.dead_letters, 1);
}

#[test]
fn a_coroutine_answers_when_it_ends() {
    let (_net, nodes) = Net::of(2, Weather::default());
    nodes[1].spawn(1, config());
    let tray = Arc::new(Tray::default());
    nodes[0].send(origin(1), b"later", &tray, 0);
    until(|| nodes[1].switches.pending.lock().len() == 1);
    assert_eq!(tray.told(), 0);
    let then = nodes[1].switches.pending.lock().pop().expect("one");
    then(Ok(std::iter::once(b"done".to_vec()).collect()));
    assert_eq!(taken(&tray.wait(1)[0]).0.position, 1);
}

#[test]
fn a_daemon_that_stops_and_comes_back_goes_on_with_what_was_sent() {
    let net = Net::new(2, BAD);
    let (_disk, stores) = disk();
    let nodes = [net.join(0, memory()), net.join(1, stores)];
    nodes[0].sees(&nodes[1]);
    let slot = nodes[1].spawn(1, journal());
    let tray = Arc::new(Tray::default());
    for number in 0..300 {
        nodes[0].send(origin(1), &payload(number), &tray, number);
    }
    until(|| nodes[1].seen().len() > 20);
    let entered = slot
        .inspect_later(Deadline::never(), &mut common::never)
        .expect("in time");
    nodes[1].runtime.stop(entered, clock::unix_ms());
    nodes[1].switches.seen.lock().clear();
    let (_, report) = nodes[1]
        .runtime
        .resume(&key(1), Sum::new(&nodes[1].switches))
        .expect("kept");
    let sent = tray.wait(300);
    for (number, sent) in sent.iter().enumerate() {
        assert_eq!(taken(sent).0.processed, number as u64 + 1);
    }
    // What it took again at its start is what it had taken.
    let after: Vec<_> = (report.replayed as usize..300).map(payload).collect();
    assert_eq!(nodes[1].seen()[report.replayed as usize..], after);
}

#[test]
fn a_mailbox_that_is_full_asks_for_a_pause() {
    let (_net, nodes) = Net::of(2, Weather::default());
    let slot = nodes[1].spawn(1, config());
    let held = slot.try_enter().expect("free");
    // As many bytes as may wait for one daemon.
    let (tray, big) = (Arc::new(Tray::default()), vec![0_u8; 1 << 20]);
    let other = Arc::new(Tray::default());
    for place in 0..70 {
        let number = Number::Given {
            origin: Origin::new(1000 + place as u64),
            sequence: 1,
        };
        nodes[0]
            .runtime
            .router()
            .send(origin(1), &number, &big, Some(tray.ticket(place)));
    }
    nodes[0].send(origin(1), b"small", &other, 0);
    until(|| nodes[1].runtime.router().stats().arrived >= 70);
    assert_eq!((tray.told(), other.told()), (0, 0));
    drop(held);
    let sent = tray.wait(70);
    assert!(sent.iter().all(|sent| !taken(sent).1));
    other.wait(1);
    assert_eq!(nodes[1].seen().len(), 71);
}

#[test]
fn a_node_without_daemons_says_so() {
    let (_net, nodes) = Net::of(3, Weather::default());
    nodes[1].spawn(1, config());
    nodes[1].runtime.shutdown(Duration::from_secs(1), &mut common::never);
    let _vacant = Vacant::new(Carrier::mesh(nodes[2].mesh.clone()));
    let tray = Arc::new(Tray::default());
    nodes[0].send(origin(1), b"one", &tray, 0);
    assert_eq!(tray.wait(1), [Sent::Nobody]);
}

#[test]
fn what_a_shut_down_node_waits_for_is_told() {
    let (_net, nodes) = Net::of(2, Weather::default());
    nodes[1].is_cut.store(true, Ordering::Release);
    let tray = Arc::new(Tray::default());
    nodes[0].send(origin(1), b"one", &tray, 0);
    nodes[0].runtime.shutdown(Duration::from_secs(1), &mut common::never);
    assert_eq!(tray.wait(1), [Sent::Closed]);
    nodes[0].send(origin(1), b"two", &tray, 1);
    assert_eq!(tray.wait(2)[1], Sent::Closed);
}

fn out(to: Origin, rest: &[u8]) -> Vec<u8> {
    [b"out", &to.get().to_le_bytes()[..], rest].concat()
}

/// Has the daemon of the seed 1 send `count` events on to that of the seed 2.
fn sends_on(from: &Netted, count: usize) {
    let tray = Arc::new(Tray::default());
    for number in 0..count {
        let order = forward(origin(2), &payload(number));
        from.send(origin(1), &order, &tray, number);
    }
    tray.wait(count);
}

fn sent_on(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| out(origin(2), &payload(number))).collect()
}

#[test]
fn an_output_for_a_daemon_on_another_node_takes_effect_there_once_and_in_order() {
    for options in [config(), journal()] {
        let net = Net::new(3, BAD);
        let (disk, stores) = disk();
        let nodes = [net.join(0, memory()), net.join(1, stores), net.join(2, memory())];
        nodes[0].sees(&nodes[1]);
        nodes[1].sees(&nodes[2]);
        nodes[1].spawn(1, options);
        nodes[2].spawn(2, config());
        sends_on(&nodes[0], 200);
        until(|| nodes[2].seen().len() >= 200);
        assert_eq!(nodes[2].seen(), sent_on(200));
        until(|| rows(&disk, Table::Outbox) == 0);
        until(|| nodes[1].runtime.router().open() == 0);
    }
}

#[test]
fn outputs_go_to_daemons_of_the_same_node_and_to_oneself_also_where_there_are_no_others() {
    let (disk, stores) = disk();
    let key_of_node = Arc::new(meshos_core::identity::Keypair::from_seed(&[9; 32]));
    let runtime = Arc::new(meshos_node::runtime::Runtime::with_store(
        key_of_node,
        common::lanes(),
        stores,
    ));
    runtime.start().expect("fresh");
    let switches: Arc<common::Switches> = Arc::default();
    let slot = runtime.spawn(&key(1), journal(), Sum::new(&switches)).expect("new");
    runtime.spawn(&key(2), config(), Sum::new(&switches)).expect("new");
    common::kept::send(&slot, 1, &forward(origin(2), b"to the other")).expect("kept");
    common::kept::send(&slot, 2, &forward(origin(1), b"to oneself")).expect("kept");
    until(|| switches.seen.lock().len() == 4);
    let seen = switches.seen.lock().clone();
    assert!(seen.contains(&out(origin(2), b"to the other")));
    assert!(seen.contains(&out(origin(1), b"to oneself")));
    until(|| rows(&disk, Table::Outbox) == 0);
    until(|| slot.view().stats.events_processed == 3);
}

#[test]
fn an_output_leaves_when_its_commit_is_kept_and_waits_for_its_daemon() {
    let net = Net::new(2, Weather::default());
    let (disk, stores) = disk();
    let nodes = [net.join(0, stores), net.join(1, memory())];
    nodes[0].sees(&nodes[1]);
    nodes[0].spawn(1, journal());
    let tray = Arc::new(Tray::default());
    disk.lock().is_held = true;
    nodes[0].send(origin(1), &forward(origin(2), b"one"), &tray, 0);
    until(|| !disk.lock().held.is_empty());
    assert_eq!(nodes[0].runtime.router().stats().flows, 1);
    disk.lock().go_on();
    tray.wait(1);
    // There is no such daemon yet.
    until(|| nodes[0].runtime.router().stats().flows == 2);
    assert_eq!(rows(&disk, Table::Outbox), 1);
    nodes[1].spawn(2, config());
    until(|| nodes[1].seen() == [out(origin(2), b"one")]);
    until(|| rows(&disk, Table::Outbox) == 0);
}

#[test]
fn outputs_that_a_process_left_behind_are_sent_by_the_next_one_and_take_effect_once() {
    let net = Net::new(2, BAD);
    let (disk, stores) = disk();
    let receiver = net.join(1, memory());
    receiver.spawn(2, config());
    let first = net.join(0, Arc::clone(&stores));
    first.sees(&receiver);
    let slot = first.spawn(1, journal());
    sends_on(&first, 50);
    until(|| receiver.seen().len() >= 20);
    first.is_cut.store(true, Ordering::Release);
    // The process ends without a word.
    drop(slot);
    first.mesh.close();
    drop(first);
    let left = rows(&disk, Table::Outbox);
    let second = net.join(0, stores);
    second.sees(&receiver);
    let (slot, _) = second
        .runtime
        .resume(&key(1), Sum::new(&second.switches))
        .expect("kept");
    assert_eq!(slot.view().head.sequence, 50);
    until(|| receiver.seen().len() >= 50);
    until(|| rows(&disk, Table::Outbox) == 0);
    assert_eq!(receiver.seen(), sent_on(50), "{left} rows were left");
    // What comes after them is next.
    let tray = Arc::new(Tray::default());
    second.send(origin(1), &forward(origin(2), &payload(50)), &tray, 0);
    until(|| receiver.seen().len() > 50);
    assert_eq!(receiver.seen(), sent_on(51));
}

#[test]
fn a_store_that_refuses_for_a_while_keeps_rows_until_it_does_not() {
    let net = Net::new(2, Weather::default());
    let (disk, stores) = disk();
    let nodes = [net.join(0, stores), net.join(1, memory())];
    nodes[0].sees(&nodes[1]);
    nodes[0].spawn(1, journal());
    sends_on(&nodes[0], 3);
    assert_eq!(rows(&disk, Table::Outbox), 3);
    disk.lock().is_full = true;
    nodes[1].spawn(2, config());
    until(|| nodes[1].seen().len() == 3);
    let end = Instant::now() + Duration::from_millis(100);
    until(|| Instant::now() > end);
    assert_eq!(rows(&disk, Table::Outbox), 3);
    disk.lock().is_full = false;
    until(|| rows(&disk, Table::Outbox) == 0);
    assert_eq!(nodes[1].seen(), sent_on(3));
}

/// A router of a node in the place of its own, with little room.
fn narrow(node: &Netted, stores: Stores) -> Router {
    let carrier = Carrier::mesh(node.mesh.clone());
    let limits = Limits {
        events_max: 8,
        ..Limits::default()
    };
    let router = Router::with_limits(
        carrier,
        node.runtime.registry(),
        node.runtime.lanes().clone(),
        stores,
        limits,
    );
    router.open_door();
    router
}

#[test]
fn outputs_for_which_there_is_no_room_stay_in_the_store_and_leave_in_their_order() {
    let net = Net::new(2, BAD);
    let (disk, stores) = disk();
    let nodes = [net.join(0, Arc::clone(&stores)), net.join(1, memory())];
    nodes[0].sees(&nodes[1]);
    let router = narrow(&nodes[0], stores);
    let slot = nodes[0].spawn(1, journal());
    for number in 0..100 {
        let order = forward(origin(2), &payload(number));
        common::kept::send(&slot, number as u64 + 1, &order).expect("kept");
    }
    assert_eq!(rows(&disk, Table::Outbox), 100);
    assert!(router.open() <= 8);
    nodes[1].spawn(2, config());
    until(|| rows(&disk, Table::Outbox) == 0);
    assert_eq!(nodes[1].seen(), sent_on(100));
    assert_eq!(router.stats().ways.unheard, 0);
}

#[test]
fn outputs_of_which_nothing_is_kept_and_for_which_there_is_no_room_are_counted() {
    let net = Net::new(2, Weather::default());
    let nodes = [net.join(0, memory()), net.join(1, memory())];
    nodes[0].sees(&nodes[1]);
    let router = narrow(&nodes[0], memory());
    let slot = nodes[0].spawn(1, config());
    for number in 0..20 {
        let order = forward(origin(2), &payload(number));
        common::kept::send(&slot, number as u64 + 1, &order).expect("taken");
    }
    assert_eq!((router.open(), router.stats().ways.unheard), (8, 12));
    nodes[1].spawn(2, config());
    until(|| nodes[1].seen().len() == 8);
    assert_eq!(nodes[1].seen(), sent_on(8));
}

#[test]
fn events_for_which_there_is_no_room_are_refused_and_the_others_take_effect() {
    let (_net, nodes) = Net::of(2, Weather::default());
    let router = narrow(&nodes[0], memory());
    let slot = nodes[1].spawn(1, config());
    let held = slot.try_enter().expect("free");
    let tray = Arc::new(Tray::default());
    let sender = nodes[0].runtime.sender();
    for place in 0..12 {
        router.send(
            origin(1),
            &Number::Next(sender),
            &payload(place),
            Some(tray.ticket(place)),
        );
    }
    until(|| tray.told() == 4);
    drop(held);
    let sent = tray.wait(12);
    assert!(sent[..8].iter().all(|sent| !taken(sent).1));
    assert!(sent[8..].iter().all(|sent| *sent == Sent::Full));
    assert_eq!(nodes[1].seen(), (0..8).map(payload).collect::<Vec<_>>());
}

#[test]
fn who_is_about_to_join_is_waited_for() {
    let net = Net::new(2, Weather::default());
    let first = net.join(0, memory());
    let tray = Arc::new(Tray::default());
    first.send(origin(1), b"one", &tray, 0);
    // Long enough to be sure of those who are there.
    let end = Instant::now() + Duration::from_millis(300);
    until(|| Instant::now() > end);
    assert_eq!(tray.told(), 0);
    let _second = net.join_after(1, memory(), |second| {
        second.spawn(1, config());
    });
    assert_eq!(taken(&tray.wait(1)[0]).0.processed, 1);
}
