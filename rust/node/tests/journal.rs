//! A daemon whose steps are kept: what is acknowledged comes back, and what is not kept is not acknowledged.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use common::kept::{Node, journal, rows, send, settle, total};
use common::{Event, Sum, key, lanes, never};
use meshos_core::config::{DaemonHostConfig, OnError};
use meshos_core::dead_letter::DeadLetter;
use meshos_core::identity::Keypair;
use meshos_core::ingress::EventKey;
use meshos_core::name::ChannelName;
use meshos_core::rows::{KeyRange, Table};
use meshos_core::source::Source;
use meshos_core::store::memory::MemoryStore;
use meshos_core::store::{Batch, Store};
use meshos_core::time::UnixMs;
use meshos_core::verify::verify;
use meshos_node::clock::Deadline;
use meshos_node::daemon::{DeliverError, Settled};
use meshos_node::deliver::{self, Want};
use meshos_node::journal::{SharedStore, Waited};
use meshos_node::letters;
use meshos_node::linked::Mailed;
use meshos_node::mailbox::{Heard, Letter};
use meshos_node::restart::Stopped;
use meshos_node::resumption::ResumeFailed;
use meshos_node::runtime::{Runtime, SpawnError};
use meshos_node::slot::Slot;
use meshos_node::sync::Mutex;

#[test]
fn what_was_acknowledged_comes_back_on_the_same_chain() {
    let node = Node::new();
    let slot = node.spawn(journal());
    for sequence in 1..=10 {
        send(&slot, sequence, b"abc").expect("kept");
    }
    let before = slot.view();
    drop(slot);
    let node = node.killed();
    let (slot, report) = node.resume();
    let after = slot.view();
    assert_eq!(
        (after.head, after.digest, after.epoch),
        (before.head, before.digest, before.epoch)
    );
    assert_eq!(total(&slot), 30);
    assert_eq!((report.replayed, report.suppressed, report.sequence), (10, 10, 10));
    // A second try of the last event is a duplicate with the first receipt.
    let mut entered = slot.try_enter().expect("free");
    let again = deliver::deliver(&mut entered, &Event::outside(7, 10, b"abc"), Want::Receipt).expect("known");
    assert!(again.duplicate);
    assert_eq!(again.receipt.expect("kept").position, 10);
    drop(entered);
    assert_eq!(send(&slot, 11, b"abc").expect("new")[0].payload.as_slice(), b"33");
}

#[test]
fn a_chain_across_two_lives_is_one_chain() {
    let node = Node::new();
    let slot = node.spawn(journal());
    send(&slot, 1, b"abc").expect("kept");
    let exported = node
        .runtime
        .export(&mut slot.try_enter().expect("free"))
        .expect("a whole key");
    // What was signed is kept before it leaves.
    drop(slot);
    let node = node.killed();
    let (slot, _) = node.resume();
    send(&slot, 2, b"abc").expect("kept");
    let later = node
        .runtime
        .export(&mut slot.try_enter().expect("free"))
        .expect("a whole key");
    assert_eq!(later.certificates, exported.certificates);
    // The second life signs on after what the first one signed.
    let (first, last) = (
        exported.checkpoints.last().expect("signed"),
        later.checkpoints.last().expect("signed"),
    );
    assert_eq!(
        (first.sequence, last.sequence, last.previous),
        (1, 2, first.digest_of())
    );
    let mut events = exported.events;
    events.extend(later.events.into_iter().filter(|event| event.link.sequence > 1));
    let events: Vec<_> = events
        .iter()
        .map(|event| (event.link, event.payload.as_slice()))
        .collect();
    verify(&events, &later.checkpoints, &later.certificates, &later.entity, &[]).expect("unbroken");
}

#[test]
fn nobody_is_answered_before_it_is_kept() {
    let node = Node::new();
    let slot = node.spawn(journal());
    node.disk.lock().is_held = true;
    let (reply, answers) = mpsc::channel();
    let event = Letter::Event(Event::outside(7, 1, b"abc"));
    slot.post(
        node.runtime.lanes(),
        node.runtime.sender(),
        event,
        Want::Receipt,
        Some(reply),
        None,
    )
    .map_err(|(error, _)| error)
    .expect("room");
    common::until(|| !node.disk.lock().held.is_empty());
    // It took effect, and nobody knows.
    common::until(|| slot.view().stats.events_processed == 1);
    assert!(answers.try_recv().is_err());
    node.disk.lock().go_on();
    let (_, settled) = answers.recv_timeout(Duration::from_secs(10)).expect("an answer");
    assert_eq!(settled.expect("kept").receipt.expect("asked for").position, 1);
}

#[test]
fn a_second_try_waits_for_the_commit_of_the_first() {
    let node = Node::new();
    let slot = node.spawn(journal());
    node.disk.lock().is_held = true;
    let mut entered = slot.try_enter().expect("free");
    let event = Event::outside(7, 1, b"abc");
    deliver::deliver(&mut entered, &event, Want::Receipt).expect("new");
    let first = deliver::submit(&mut entered).expect("on its way");
    assert!(
        deliver::deliver(&mut entered, &event, Want::Receipt)
            .expect("known")
            .duplicate
    );
    let second = deliver::submit(&mut entered).expect("still on its way");
    assert!(Arc::ptr_eq(&first, &second));
    node.disk.lock().go_on();
    assert_eq!(second.outcome(), Some(Ok(())));
    assert!(deliver::submit(&mut entered).is_none());
}

#[test]
fn a_full_disk_refuses_and_when_there_is_space_the_daemon_goes_on_from_what_was_kept() {
    let node = Node::new();
    let slot = node.spawn(journal());
    send(&slot, 1, b"abc").expect("kept");
    node.disk.lock().is_full = true;
    assert_eq!(send(&slot, 2, b"abc").err(), Some("Full".to_owned()));
    for _ in 0..3 {
        // It is refused again, at once or after another try.
        let refused = send(&slot, 2, b"abc").expect_err("no space");
        assert!(["Full", "NotKept(Full)"].contains(&&*refused), "{refused}");
    }
    node.disk.lock().is_full = false;
    common::until(|| send(&slot, 2, b"abc").is_ok_and(|outputs| outputs[0].payload.as_slice() == b"6"));
    assert_eq!((slot.view().head.sequence, total(&slot)), (2, 6));
    drop(slot);
    let (slot, _) = node.killed().resume();
    assert_eq!((slot.view().head.sequence, total(&slot)), (2, 6));
}

/// Mails an event that nobody waits for.
fn post(node: &Node, slot: &Arc<Slot<Sum>>, sequence: u64, payload: &[u8]) {
    let event = Letter::Event(Event::outside(7, sequence, payload));
    let posted = slot.post(
        node.runtime.lanes(),
        node.runtime.sender(),
        event,
        Want::Receipt,
        None,
        None,
    );
    posted.map_err(|(error, _)| error).expect("room");
}

fn letters(slot: &Arc<Slot<Sum>>) -> Vec<(u64, u64, u32)> {
    let look = |inside: &meshos_node::inside::Inside<Sum>| {
        let letters = inside.letters.iter().flat_map(|letters| letters.iter());
        letters
            .map(|(number, letter)| (number, letter.key.sequence, letter.attempts))
            .collect()
    };
    // While a lane is inside nobody else sees in.
    let found = std::cell::RefCell::new(None);
    common::until(|| {
        let seen = slot.peek(look);
        let is_there = seen.is_some();
        *found.borrow_mut() = seen;
        is_there
    });
    found.into_inner().expect("just seen")
}

fn retry(slot: &Arc<Slot<Sum>>, number: u64) -> bool {
    let mut entered = slot.enter(Deadline::never(), &mut never).expect("it runs");
    let tried = letters::retry(&mut entered, number, None).expect("it is there");
    let commit = deliver::submit(&mut entered);
    drop(entered);
    if let Some(commit) = commit {
        assert_eq!(commit.wait(Deadline::never(), &mut never), Waited::Settled(Ok(())));
    }
    tried.is_ok()
}

fn twice() -> DaemonHostConfig {
    DaemonHostConfig {
        attempts_max: 2,
        on_error: OnError::Restore,
        ..journal()
    }
}

#[test]
fn what_was_passed_over_stays_so_after_a_kill_and_may_be_tried_again() {
    let node = Node::new();
    let slot = node.spawn(twice());
    post(&node, &slot, 1, b"raise");
    post(&node, &slot, 2, b"abc");
    common::until(|| slot.view().stats.events_processed == 1);
    assert_eq!(letters(&slot), [(1, 1, 2)]);
    let stats = slot.view().stats;
    assert_eq!((stats.errors, stats.dead_letters), (2, 1));
    drop(slot);
    let node = node.killed();
    let (slot, report) = node.resume();
    assert_eq!((letters(&slot), report.replayed), (vec![(1, 1, 2)], 2));
    assert_eq!(slot.view().stats.dead_letters, 1);
    assert!(!retry(&slot, 1), "it raises still");
    assert_eq!(letters(&slot), [(1, 1, 3)]);
    // Whoever sends it again hears that it is behind the cursor.
    assert!(
        send(&slot, 1, b"raise")
            .err()
            .is_some_and(|error| error.contains("Unknown"))
    );
    drop(slot);
    let (slot, _) = node.killed().resume();
    assert_eq!(letters(&slot), [(1, 1, 3)]);
}

#[test]
fn a_letter_that_takes_effect_does_so_once_and_out_of_its_order() {
    let node = Node::new();
    let slot = node.spawn(twice());
    node.switches.fails.store(2, Ordering::SeqCst);
    post(&node, &slot, 1, b"fails");
    post(&node, &slot, 2, b"abc");
    common::until(|| slot.view().stats.events_processed == 1);
    assert!(retry(&slot, 1));
    assert_eq!((letters(&slot), total(&slot)), (vec![], 8));
    assert_eq!((slot.view().head.sequence, slot.view().stats.events_processed), (2, 2));
    // Its receipt is kept, as that of any event.
    assert_eq!(send(&slot, 1, b"fails").map(|outputs| outputs.len()), Ok(0));
    drop(slot);
    let node = node.killed();
    let (slot, report) = node.resume();
    assert_eq!((letters(&slot), total(&slot), report.replayed), (vec![], 8, 3));
    assert_eq!(slot.view().head.sequence, 2);
}

#[test]
fn what_nobody_waits_for_is_not_lost_when_a_commit_fails() {
    let node = Node::new();
    let slot = node.spawn(twice());
    node.disk.lock().is_full = true;
    post(&node, &slot, 1, b"abc");
    post(&node, &slot, 2, b"raise");
    post(&node, &slot, 3, b"de");
    common::until(|| node.disk.lock().term > 1);
    node.disk.lock().is_full = false;
    common::until(|| slot.view().stats.events_processed == 2 && letters(&slot) == [(1, 2, 2)]);
    // What a daemon is may be ahead of what is kept.
    common::until(|| rows(&node, Table::DeadLetters) == 1);
    assert_eq!(total(&slot), 5);
    drop(slot);
    let (slot, _) = node.killed().resume();
    assert_eq!((total(&slot), letters(&slot)), (5, vec![(1, 2, 2)]));
}

#[test]
fn a_letter_that_was_marked_is_tried_when_its_daemon_comes_back() {
    let node = Node::new();
    let slot = node.spawn(twice());
    node.switches.fails.store(2, Ordering::SeqCst);
    post(&node, &slot, 1, b"fails");
    common::until(|| letters(&slot) == [(1, 1, 2)]);
    drop(slot);
    let node = node.killed();
    let mark = || {
        let mut disk = node.disk.lock();
        let rows = disk.page(Table::DeadLetters, &KeyRange::all(), 9).expect("readable");
        let letter = DeadLetter::decode(&rows[0].1).expect("written by us");
        let entity = key(1).lock().entity_id();
        let change = DeadLetter { retry: true, ..letter }.write(&entity, 1);
        let term = disk.term();
        let batch = Batch {
            term,
            writes: vec![change],
        };
        disk.submit(batch, Box::new(|outcome| assert!(outcome.is_ok())));
    };
    mark();
    let (slot, _) = node.resume();
    common::until(|| slot.view().stats.events_processed == 1);
    assert_eq!((letters(&slot), total(&slot)), (vec![], 5));
}

#[test]
fn what_is_stalled_holds_up_its_sender_and_nobody_else() {
    let node = Node::new();
    let config = DaemonHostConfig {
        attempts_max: 3,
        ..twice()
    };
    let slot = node.spawn(config);
    post(&node, &slot, 1, b"raise");
    post(&node, &slot, 2, b"own");
    let event = Letter::Event(Event::outside(8, 1, b"other"));
    slot.post(
        node.runtime.lanes(),
        node.runtime.sender(),
        event,
        Want::Receipt,
        None,
        None,
    )
    .map_err(|(error, _)| error)
    .expect("room");
    common::until(|| slot.view().stats.events_processed == 2);
    let seen: Vec<Vec<u8>> = node.switches.seen.lock().clone();
    let is = |payload: &'static [u8]| move |seen: &Vec<u8>| seen == payload;
    let other = seen.iter().position(is(b"other")).expect("it took effect");
    let (last_try, own) = (seen.iter().rposition(is(b"raise")), seen.iter().position(is(b"own")));
    assert!(Some(other) < last_try && last_try < own, "{seen:?}");
}

#[test]
fn mail_that_is_not_kept_is_told_so() {
    let node = Node::new();
    let slot = node.spawn(journal());
    node.disk.lock().is_full = true;
    let (reply, answers) = mpsc::channel();
    for sequence in 1..=3 {
        let event = Letter::Event(Event::outside(7, sequence, b"abc"));
        slot.post(
            node.runtime.lanes(),
            node.runtime.sender(),
            event,
            Want::Receipt,
            Some(reply.clone()),
            None,
        )
        .map_err(|(error, _)| error)
        .expect("room");
    }
    for _ in 1..=3 {
        let (_, settled): (_, Settled<Sum>) = answers.recv_timeout(Duration::from_secs(10)).expect("an answer");
        assert!(matches!(settled.err(), Some(DeliverError::NotKept(_))));
    }
    node.disk.lock().is_full = false;
    common::until(|| send(&slot, 1, b"abc").is_ok());
    assert_eq!(total(&slot), 3);
}

#[test]
fn snapshots_bound_what_is_taken_again_and_what_is_kept() {
    let node = Node::new();
    let slot = node.spawn(DaemonHostConfig {
        auto_snapshot_interval: 10,
        outputs_max: 25,
        ..journal()
    });
    for sequence in 1..=95 {
        send(&slot, sequence, b"abc").expect("kept");
        settle(&slot);
    }
    assert_eq!(rows(&node, Table::Snapshots), 2);
    assert_eq!(rows(&node, Table::Journal), 15);
    drop(slot);
    let (slot, report) = node.killed().resume();
    assert_eq!((report.snapshot_sequence, report.replayed), (90, 5));
    assert_eq!((slot.view().head.sequence, total(&slot)), (95, 285));
}

#[test]
fn a_damaged_snapshot_is_passed_over_for_the_one_before() {
    let node = Node::new();
    let slot = node.spawn(DaemonHostConfig {
        auto_snapshot_interval: 10,
        ..journal()
    });
    for sequence in 1..=25 {
        send(&slot, sequence, b"abc").expect("kept");
        settle(&slot);
    }
    drop(slot);
    {
        let mut disk = node.disk.lock();
        let newest = disk
            .page(Table::Snapshots, &KeyRange::all(), 9)
            .expect("rows")
            .pop()
            .expect("two");
        let row = meshos_core::journal::SnapshotRow::decode(&newest.1).expect("whole");
        disk.discard(&row.name).expect("there");
    }
    let (slot, report) = node.killed().resume();
    assert_eq!(
        (report.snapshots_skipped, report.snapshot_sequence, report.replayed),
        (1, 10, 15)
    );
    assert_eq!(total(&slot), 75);
}

#[test]
fn a_missing_step_is_named_and_nothing_comes_back() {
    let node = Node::new();
    let slot = node.spawn(journal());
    for sequence in 1..=5 {
        send(&slot, sequence, b"abc").expect("kept");
    }
    drop(slot);
    {
        let mut disk = node.disk.lock();
        let third = disk.page(Table::Journal, &KeyRange::all(), 9).expect("rows").remove(2);
        let batch = Batch {
            term: disk.term(),
            writes: vec![meshos_core::rows::Write::remove(Table::Journal, third.0)],
        };
        disk.submit(batch, Box::new(|outcome| assert!(outcome.is_ok())));
    }
    let node = node.killed();
    let refused = node
        .runtime
        .resume(&key(1), Sum::new(&node.switches))
        .err()
        .expect("a gap");
    let SpawnError::NotResumed(failed) = refused else {
        panic!("{refused:?}")
    };
    assert!(
        failed.reason().contains("steps from 3 on are missing, the next is 4"),
        "{}",
        failed.reason()
    );
}

#[test]
fn a_daemon_that_does_something_else_the_second_time_has_diverged() {
    let node = Node::new();
    let first = Sum::stateless(&node.switches);
    let slot = node.runtime.spawn(&key(1), journal(), first).expect("new");
    for sequence in 1..=5 {
        send(&slot, sequence, b"abc").expect("kept");
    }
    drop(slot);
    let node = node.killed();
    // It counts from elsewhere.
    let other = Sum::stateless(&node.switches);
    other.total.store(100, Ordering::SeqCst);
    let refused = node.runtime.resume(&key(1), other).err().expect("other outputs");
    let SpawnError::NotResumed(ResumeFailed::Diverged(divergence)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((divergence.step, divergence.sequence), (1, 1));
}

#[test]
fn a_raise_leaves_nothing_that_comes_back() {
    for on_error in [OnError::Raise, OnError::Restore] {
        let node = Node::new();
        let slot = node.spawn(DaemonHostConfig { on_error, ..journal() });
        send(&slot, 1, b"abc").expect("kept");
        assert!(send(&slot, 2, b"raise").is_err());
        send(&slot, 2, b"abc").expect("kept");
        let (before, head) = (total(&slot), slot.view().head);
        drop(slot);
        let (slot, _) = node.killed().resume();
        // Under `Raise` what user code did before it raised is state, so it is in a snapshot.
        assert_eq!((total(&slot), slot.view().head), (before, head));
    }
}

#[test]
fn an_identity_that_is_kept_is_not_begun_anew() {
    let node = Node::new();
    let slot = node.spawn(journal());
    send(&slot, 1, b"abc").expect("kept");
    drop(slot);
    let node = node.killed();
    let refused = node.runtime.spawn(&key(1), journal(), Sum::new(&node.switches));
    assert!(matches!(refused.err(), Some(SpawnError::Stored(_))));
    let unknown = node.runtime.resume(&key(2), Sum::new(&node.switches));
    assert!(matches!(unknown.err(), Some(SpawnError::NotStored(_))));
    let stored = node.runtime.stored().expect("in memory");
    assert_eq!(stored.len(), 1);
    let (entity, daemon) = &stored[0];
    let daemon = daemon.as_ref().expect("whole");
    assert_eq!((daemon.kind.as_str(), daemon.runs), ("sum", true));
    let opened = node.runtime.unseal(entity, daemon).expect("sealed here");
    assert_eq!(opened.entity_id(), key(1).lock().entity_id());
}

#[test]
fn a_daemon_that_was_stopped_does_not_run_again_by_itself() {
    let node = Node::new();
    let slot = node.spawn(journal());
    send(&slot, 1, b"abc").expect("kept");
    node.runtime.stop(slot.try_enter().expect("free"), UnixMs::new(0));
    assert!(
        !node.runtime.stored().expect("in memory")[0]
            .1
            .as_ref()
            .expect("whole")
            .runs
    );
    let (slot, report) = node.resume();
    assert_eq!((report.sequence, total(&slot)), (1, 3));
    assert!(
        node.runtime.stored().expect("in memory")[0]
            .1
            .as_ref()
            .expect("whole")
            .runs
    );
    node.runtime.shutdown(Duration::from_secs(5), &mut never);
    assert!(
        node.runtime.stored().expect("in memory")[0]
            .1
            .as_ref()
            .expect("whole")
            .runs
    );
}

#[test]
fn a_runtime_without_a_folder_keeps_journals_in_memory() {
    let shared = SharedStore::new(MemoryStore::new());
    let kept = shared.clone();
    let node = Arc::new(Keypair::from_seed(&[9; 32]));
    let runtime = Arc::new(Runtime::with_store(
        node,
        lanes(),
        Arc::new(move || Box::new(shared.clone())),
    ));
    runtime.start().expect("fresh");
    let switches = Arc::default();
    let slot = runtime
        .spawn(&key(1), journal(), Sum::stateless(&switches))
        .expect("new");
    for sequence in 1..=3 {
        send(&slot, sequence, b"abc").expect("kept");
    }
    assert_eq!(kept.page(Table::Journal, &KeyRange::all(), 99).expect("rows").len(), 3);
}

#[test]
fn posted_events_let_others_in_between() {
    let node = Node::new();
    let slot = node.spawn(journal());
    for sequence in 1..=400 {
        post(&node, &slot, sequence, b"slow");
    }
    common::until(|| !node.switches.seen.lock().is_empty());
    drop(slot.enter(Deadline::never(), &mut never).expect("in its turn"));
    let seen = node.switches.seen.lock().len();
    assert!(seen < 100, "{seen} events went before one that waited");
}

/// Fails the commits that are held.
fn fail_held(node: &Node) {
    let mut disk = node.disk.lock();
    disk.is_full = true;
    disk.go_on();
    disk.is_full = false;
}

#[test]
fn what_took_effect_after_a_commit_that_failed_is_not_taken_for_kept() {
    let node = Node::new();
    let slot = node.spawn(journal());
    node.disk.lock().is_held = true;
    post(&node, &slot, 1, b"a");
    common::until(|| node.disk.lock().held.len() == 1);
    let closed = node.switches.gate.lock();
    post(&node, &slot, 2, b"wait");
    for sequence in 3..=5 {
        post(&node, &slot, sequence, b"abc");
    }
    node.switches.until_waiting(2);
    fail_held(&node);
    // So long that it may be brought back in the middle of the batch.
    let failed = std::time::Instant::now();
    common::until(|| failed.elapsed() > Duration::from_millis(60));
    drop(closed);
    common::until(|| slot.view().stats.events_processed == 5);
    assert_eq!(total(&slot), 14);
    common::until(|| rows(&node, Table::Journal) > 0 && slot.position().sequence == 5);
    drop(slot);
    node.runtime.shutdown(Duration::from_secs(5), &mut never);
    let (slot, _) = node.killed().resume();
    assert_eq!((total(&slot), slot.view().stats.events_processed), (14, 5));
}

#[test]
fn what_nobody_waits_for_and_cannot_be_kept_any_more_is_counted() {
    for is_stopped in [false, true] {
        let node = Node::new();
        let slot = node.spawn(journal());
        node.disk.lock().is_held = true;
        post(&node, &slot, 1, b"abc");
        common::until(|| node.disk.lock().held.len() == 1);
        if is_stopped {
            node.runtime.registry().unregister(slot.origin());
        } else {
            node.switches.fail_restore.store(true, Ordering::SeqCst);
        }
        fail_held(&node);
        common::until(|| node.runtime.registry().observer_stats().unheard == 1);
    }
}

/// What a channel hears of its events.
#[derive(Default)]
struct Ear(Mutex<Vec<(&'static str, u64)>>);

impl Heard for Ear {
    fn taken(&self, number: u64) {
        self.0.lock().push(("taken", number));
    }
    fn lost(&self, number: u64) {
        self.0.lock().push(("lost", number));
    }
}

#[test]
fn what_took_effect_before_a_forced_stop_is_told_when_it_is_known_whether_it_is_kept() {
    for is_kept in [true, false] {
        let node = Node::new();
        let slot = node.spawn(journal());
        assert!(node.runtime.registry().supervise(slot.origin(), true));
        let ear = Arc::new(Ear::default());
        let source = Arc::new(Source {
            publisher: key(9).lock().entity_id(),
            log: 1,
            channel: ChannelName::new("work").expect("a good name"),
        });
        let mail = |sequence, payload: &[u8]| {
            let key = EventKey {
                origin: source.publisher.origin(),
                stream: source.stream(),
                sequence,
            };
            let (lanes, payload) = (node.runtime.lanes(), Arc::from(payload));
            assert_eq!(
                slot.post_channel(lanes, key, &payload, &source, ear.clone()),
                Mailed::Taken
            );
        };
        let heard = || ear.0.lock().clone();
        let unheard = || node.runtime.registry().observer_stats().unheard;
        // In one batch: it is entered while they come.
        let entered = slot.try_enter().expect("free");
        mail(1, b"abc");
        post(&node, &slot, 1, b"abc");
        mail(2, b"wait");
        mail(3, b"abc");
        node.disk.lock().is_held = true;
        let closed = node.switches.gate.lock();
        drop(entered);
        node.switches.until_waiting(2);

        let stopped = node.runtime.stop_daemon(slot.origin(), UnixMs::new(0), &mut never);
        assert_eq!(stopped, Ok(Stopped::ByForce));
        assert_eq!(
            (heard(), unheard()),
            (vec![("lost", 3)], 1),
            "what waits comes to nothing"
        );
        drop(closed);
        common::until(|| heard().len() == 2);
        assert_eq!((heard()[1], unheard()), (("lost", 2), 2), "what hung has no effect");
        if is_kept {
            node.disk.lock().go_on();
            common::until(|| heard().len() == 3);
            assert_eq!((heard()[2], unheard()), (("taken", 1), 2));
        } else {
            fail_held(&node);
            common::until(|| unheard() == 4);
            assert_eq!(heard()[2..], [("lost", 1)]);
        }
    }
}

#[test]
fn a_lane_is_told_once_when_to_look_at_what_is_stalled() {
    let node = Node::new();
    let slot = node.spawn(DaemonHostConfig {
        attempts_max: 1000,
        ..twice()
    });
    post(&node, &slot, 1, b"raise");
    let raised = || {
        let seen = node.switches.seen.lock();
        seen.iter().filter(|payload| *payload == b"raise").count()
    };
    // It is tried again after 800 ms.
    common::until(|| raised() == 5);
    for sequence in 1..=6 {
        node.switches.fails.store(1, Ordering::SeqCst);
        let event = Letter::Event(Event::outside(8, sequence, b"fails"));
        let (lanes, sender) = (node.runtime.lanes(), node.runtime.sender());
        let posted = slot.post(lanes, sender, event, Want::Receipt, None, None);
        posted.map_err(|(error, _)| error).expect("room");
        common::until(|| slot.view().stats.events_processed == sequence);
    }
    let waiting = node.runtime.lanes().stats().waiting;
    assert!(waiting <= 2, "{waiting} alarms");
}

#[test]
fn a_daemon_that_kept_everything_is_not_behind_because_another_one_is() {
    let node = Node::new();
    let slot = node.spawn(journal());
    let other = node
        .runtime
        .spawn(&key(2), journal(), Sum::new(&node.switches))
        .expect("new");
    send(&other, 1, b"abc").expect("kept");
    node.disk.lock().is_full = true;
    send(&slot, 1, b"abc").expect_err("no space");
    node.disk.lock().is_full = false;
    send(&other, 2, b"abc").expect("it has kept everything");
    node.disk.lock().is_full = true;
    common::until(|| send(&slot, 1, b"abc").is_err_and(|error| error == "Full"));
    node.disk.lock().is_full = false;
    let entered = other.enter(Deadline::never(), &mut never).expect("it runs");
    node.runtime.stop(entered, UnixMs::new(0));
    let stored = node.runtime.stored().expect("readable");
    let runs = |seed| {
        let entity = key(seed).lock().entity_id();
        let found = stored.iter().find(|(found, _)| *found == entity).expect("there");
        found.1.as_ref().expect("whole").runs
    };
    assert_eq!((runs(1), runs(2)), (true, false));
}

#[test]
fn a_spawn_that_is_not_kept_leaves_no_journal() {
    let node = Node::new();
    node.disk.lock().is_full = true;
    let spawn = |config| {
        let spawned = node.runtime.spawn(&key(1), config, Sum::new(&node.switches));
        spawned.map_err(|error| matches!(error, SpawnError::NotKept(_)))
    };
    assert_eq!(spawn(journal()).err(), Some(true));
    let slot = spawn(DaemonHostConfig::default()).expect("nothing is to be kept");
    send(&slot, 1, b"abc").expect("nothing is to be kept");
}

#[test]
fn a_spawn_from_a_snapshot_that_is_not_kept_changes_nothing() {
    let node = Node::new();
    let slot = node.spawn(DaemonHostConfig::default());
    send(&slot, 1, b"abc").expect("new");
    let mut entered = slot.enter(Deadline::never(), &mut never).expect("it runs");
    let taken = node.runtime.snapshot(&mut entered).expect("no raise").expect("state");
    drop(entered);
    send(&slot, 2, b"abc").expect("new");
    node.runtime.stop(
        slot.enter(Deadline::never(), &mut never).expect("it runs"),
        UnixMs::new(0),
    );
    node.disk.lock().is_full = true;
    let again = |config, rewind| {
        let (snapshot, sum) = (Arc::clone(&taken.snapshot), Sum::new(&node.switches));
        node.runtime
            .spawn_from_snapshot(&key(1), snapshot, config, sum, rewind)
            .map(|_| ())
    };
    assert!(matches!(again(journal(), true), Err(SpawnError::NotKept(_))));
    assert!(matches!(
        again(DaemonHostConfig::default(), false),
        Err(SpawnError::Resume(_))
    ));
    let fresh = node
        .runtime
        .spawn(&key(1), DaemonHostConfig::default(), Sum::new(&node.switches));
    assert!(matches!(fresh.map(|_| ()), Err(SpawnError::Known(_))));
}

#[test]
fn events_that_are_delivered_together_are_not_kept_in_part() {
    let node = Node::new();
    let slot = node.spawn(journal());
    node.disk.lock().is_held = true;
    let mut entered = slot.enter(Deadline::never(), &mut never).expect("free");
    let event = |sequence| Event::outside(7, sequence, b"abc");
    deliver::deliver(&mut entered, &event(1), Want::Outputs).expect("new");
    deliver::submit(&mut entered).expect("on its way");
    drop(entered);
    // Somebody delivers two events at once, and between them the commit before fails.
    let mut entered = slot.enter(Deadline::never(), &mut never).expect("free");
    deliver::deliver(&mut entered, &event(2), Want::Outputs).expect("nothing failed yet");
    fail_held(&node);
    let failed = std::time::Instant::now();
    common::until(|| failed.elapsed() > Duration::from_millis(60));
    let second = deliver::deliver_after(&mut entered, &event(3), Want::Outputs);
    assert!(matches!(second.map(|_| ()), Err(DeliverError::NotKept(_))));
    let commit = deliver::submit(&mut entered).expect("the first is not kept");
    drop(entered);
    let waited = commit.wait(Deadline::never(), &mut never);
    assert!(matches!(waited, Waited::Settled(Err(_))), "{waited:?}");
    for sequence in 1..=3 {
        send(&slot, sequence, b"abc").expect("it comes back");
    }
    assert_eq!(total(&slot), 9);
}
