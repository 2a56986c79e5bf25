//! What a user chooses of durability: what a divergence does, what is kept for how long, and snapshots alone.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::kept::{Node, journal, rows, send, settle, total};
use common::{Event, Sum, key, never};
use meshos_core::config::{DaemonHostConfig, Durability, OnDivergence, OnError};
use meshos_core::event::DaemonLifecycleSignal;
use meshos_core::journal::{Emitted, SnapshotRow};
use meshos_core::rows::{KeyRange, Table};
use meshos_core::store::check::check;
use meshos_core::store::{Store, StoreError};
use meshos_core::time::UnixMs;
use meshos_core::verify::verify;
use meshos_node::clock::{self, Deadline};
use meshos_node::deliver::Want;
use meshos_node::mailbox::Letter;
use meshos_node::resumption::{Report, ResumeFailed};
use meshos_node::runtime::SpawnError;
use meshos_node::slot::Slot;

fn going_on() -> DaemonHostConfig {
    DaemonHostConfig {
        on_divergence: OnDivergence::Continue,
        ..journal()
    }
}

fn every_event() -> DaemonHostConfig {
    DaemonHostConfig {
        on_divergence: OnDivergence::SnapshotEveryEvent,
        ..journal()
    }
}

fn snapshots() -> DaemonHostConfig {
    DaemonHostConfig {
        durability: Durability::Snapshot,
        ..DaemonHostConfig::default()
    }
}

/// The crashes that a node told of.
fn crashes(node: &Node) -> Vec<(Arc<str>, bool)> {
    let told = node.told.0.lock();
    let crashes = told.iter().filter_map(|event| match &event.signal {
        DaemonLifecycleSignal::Crashed { crash, down } => Some((Arc::clone(&crash.exception), *down)),
        _ => None,
    });
    crashes.collect()
}

fn exported(node: &Node, slot: &Arc<Slot<Sum>>) -> (Vec<u64>, u64) {
    let exported = node
        .runtime
        .export(&mut slot.try_enter().expect("free"))
        .expect("a whole key");
    let events: Vec<_> = exported
        .events
        .iter()
        .map(|event| (event.link, event.payload.as_slice()))
        .collect();
    let report = verify(
        &events,
        &exported.checkpoints,
        &exported.certificates,
        &exported.entity,
        &[],
    );
    let report = report.expect("unbroken");
    let sequences = events.iter().map(|(link, _)| link.sequence).collect();
    (sequences, report.signed_through)
}

/// Mails an event that nobody waits for.
fn post(node: &Node, slot: &Arc<Slot<Sum>>, sequence: u64, payload: &[u8]) {
    let event = Letter::Event(Event::outside(7, sequence, payload));
    let (lanes, sender) = (node.runtime.lanes(), node.runtime.sender());
    let posted = slot.post(lanes, sender, event, Want::Receipt, None, None);
    posted.map_err(|(error, _)| error).expect("room");
}

fn whole(node: &Node) {
    check(&node.disk.lock().store).expect("nothing is damaged");
}

// ---------------------------------------------------------------- divergence

#[test]
fn a_daemon_that_diverged_goes_on_from_what_it_emitted() {
    let node = Node::new();
    let slot = node
        .runtime
        .spawn(&key(1), going_on(), Sum::stateless(&node.switches))
        .expect("new");
    for sequence in 1..=5 {
        send(&slot, sequence, b"abc").expect("kept");
    }
    let before = slot.view();
    drop(slot);
    let node = node.killed();
    let other = Sum::stateless(&node.switches);
    other.total.store(100, Ordering::SeqCst);
    let (slot, report) = node.runtime.resume(&key(1), other).expect("it goes on");
    let found = report.divergence.expect("other outputs");
    assert_eq!((found.step, found.sequence, found.steps), (1, 1, 5));
    assert_eq!((found.expected, found.found), (1, Some(1)));
    assert_eq!((report.replayed, report.sequence, report.epoch), (5, 5, 1));
    let after = slot.view();
    assert_eq!((after.head, after.digest), (before.head, before.digest));
    assert_eq!(after.stats.errors, before.stats.errors + 1);
    assert_eq!(crashes(&node), [(Arc::from("DivergenceError"), false)]);
    // A second try is answered with the first receipt, and new events go on from what user code is now.
    assert_eq!(send(&slot, 5, b"abc").expect("known").len(), 0);
    assert_eq!(send(&slot, 6, b"abc").expect("new")[0].payload.as_slice(), b"118");
    assert_eq!(exported(&node, &slot).0, (1..=6).collect::<Vec<_>>());
    whole(&node);
    // What user code is now was kept before it took one event more.
    drop(slot);
    let node = node.killed();
    let other = Sum::stateless(&node.switches);
    other.total.store(115, Ordering::SeqCst);
    let (_, report) = node.runtime.resume(&key(1), other).expect("kept");
    assert_eq!((report.replayed, report.divergence), (1, None));
}

#[test]
fn a_raise_the_second_time_is_a_divergence_too() {
    for on_divergence in [OnDivergence::Stop, OnDivergence::Continue] {
        let node = Node::new();
        let slot = node.spawn(DaemonHostConfig {
            on_divergence,
            ..journal()
        });
        for sequence in 1..=3 {
            send(&slot, sequence, b"abc").expect("kept");
        }
        drop(slot);
        let node = node.killed();
        node.switches.fail_process.store(true, Ordering::SeqCst);
        let resumed = node.runtime.resume(&key(1), Sum::new(&node.switches));
        if on_divergence == OnDivergence::Stop {
            let failed = resumed.err().expect("it raised");
            assert!(matches!(failed, SpawnError::NotResumed(ResumeFailed::Raised(_))));
            continue;
        }
        let (slot, report) = resumed.expect("it goes on");
        let found = report.divergence.expect("it raised");
        assert_eq!((found.found, &*found.exception, found.steps), (None, "Error", 3));
        assert_eq!((slot.view().head.sequence, total(&slot)), (3, 9));
    }
}

#[test]
fn what_was_emitted_and_let_go_cannot_be_gone_on_from() {
    let node = Node::new();
    let slot = node
        .runtime
        .spawn(&key(1), going_on(), Sum::stateless(&node.switches))
        .expect("new");
    for sequence in 1..=3 {
        send(&slot, sequence, b"abc").expect("kept");
    }
    drop(slot);
    node.disk.lock().remove_all(Table::Outputs);
    let node = node.killed();
    let other = Sum::stateless(&node.switches);
    other.total.store(100, Ordering::SeqCst);
    let failed = node
        .runtime
        .resume(&key(1), other)
        .err()
        .expect("nothing to go on from");
    assert!(matches!(failed, SpawnError::NotResumed(ResumeFailed::Diverged(_))));
    // Who does the same again needs none.
    let same = Sum::stateless(&node.switches);
    assert_eq!(node.runtime.resume(&key(1), same).expect("the same").1.divergence, None);
}

#[test]
fn a_changed_output_is_damage_and_no_divergence() {
    let node = Node::new();
    let slot = node.spawn(going_on());
    send(&slot, 1, b"abc").expect("kept");
    drop(slot);
    node.disk
        .lock()
        .change(Table::Outputs, |value| *value.last_mut().expect("bytes") ^= 1);
    let node = node.killed();
    let refused = node.runtime.resume(&key(1), Sum::new(&node.switches));
    let failed = refused.err().expect("damaged");
    assert!(matches!(failed, SpawnError::NotResumed(ResumeFailed::Store(_))));
}

#[test]
fn with_a_snapshot_for_every_event_nothing_is_replayed() {
    let node = Node::new();
    let slot = node.spawn(every_event());
    for sequence in 1..=5 {
        send(&slot, sequence, b"abc").expect("kept");
        assert_eq!(rows(&node, Table::Snapshots), 2);
    }
    whole(&node);
    drop(slot);
    let node = node.killed();
    // It would do something else.
    node.switches.fail_process.store(true, Ordering::SeqCst);
    let (slot, report) = node.resume();
    assert_eq!((report.replayed, report.snapshot_sequence, report.sequence), (0, 5, 5));
    assert_eq!((slot.view().head.sequence, total(&slot)), (5, 15));
}

#[test]
fn an_event_that_cannot_have_its_snapshot_took_no_effect() {
    for on_error in [OnError::Raise, OnError::Restore] {
        let node = Node::new();
        let slot = node.spawn(DaemonHostConfig {
            on_error,
            ..every_event()
        });
        send(&slot, 1, b"abc").expect("kept");
        node.switches.fail_snapshot.store(true, Ordering::SeqCst);
        assert!(
            send(&slot, 2, b"abc")
                .expect_err("no snapshot")
                .contains("SnapshotFailed")
        );
        assert_eq!(slot.view().head.sequence, 1);
        node.switches.fail_snapshot.store(false, Ordering::SeqCst);
        // The disk refuses the file.
        node.disk.lock().is_full = true;
        assert!(send(&slot, 2, b"abc").expect_err("no space").contains("Full"));
        node.disk.lock().is_full = false;
        common::until(|| send(&slot, 2, b"abc").is_ok());
        let kept = total(&slot);
        assert_eq!(slot.view().head.sequence, 2);
        drop(slot);
        let (slot, report) = node.killed().resume();
        assert_eq!((report.replayed, report.sequence, total(&slot)), (0, 2, kept));
    }
}

// ---------------------------------------------------------------- retention

#[test]
fn as_many_snapshots_are_kept_as_wanted() {
    for snapshots_max in [1, 4] {
        let node = Node::new();
        let slot = node.spawn(DaemonHostConfig {
            snapshots_max,
            auto_snapshot_interval: 1,
            ..journal()
        });
        for sequence in 1..=6 {
            send(&slot, sequence, b"abc").expect("kept");
            settle(&slot);
        }
        assert_eq!(rows(&node, Table::Snapshots), snapshots_max as usize);
        assert_eq!(rows(&node, Table::Journal), snapshots_max as usize - 1);
        whole(&node);
    }
}

/// Sequences of the first outputs of the rows that the store has.
fn outputs(node: &Node) -> Vec<u64> {
    let disk = node.disk.lock();
    let rows = disk
        .page(Table::Outputs, &KeyRange::all(), usize::MAX)
        .expect("in memory");
    let origin = key(1).lock().origin();
    let first = |value: &[u8]| Emitted::decode(origin, value).expect("whole").outputs[0].0.sequence;
    rows.iter().map(|(_, value)| first(value)).collect()
}

#[test]
fn outputs_go_by_number_bytes_and_age_in_memory_and_in_the_store() {
    let bounds = [
        DaemonHostConfig {
            outputs_max: 3,
            ..journal()
        },
        DaemonHostConfig {
            // A row of one output of one or two bytes has 90 of its own.
            outputs_bytes_max: 3 * 91,
            ..journal()
        },
        DaemonHostConfig {
            outputs_age_max_ms: Some(2),
            ..journal()
        },
    ];
    for config in bounds {
        let node = Node::new();
        let slot = node.spawn(DaemonHostConfig {
            auto_snapshot_interval: 5,
            ..config
        });
        for sequence in 1..=4 {
            send(&slot, sequence, b"a").expect("kept");
        }
        let now = clock::unix_ms().get();
        common::until(|| clock::unix_ms().get() > now + 5);
        send(&slot, 5, b"a").expect("kept");
        settle(&slot);
        let stored = outputs(&node);
        assert!(stored.len() <= 3, "{stored:?} under {config:?}");
        whole(&node);
        if config.outputs_bytes_max > 1000 {
            let (kept, _) = exported(&node, &slot);
            assert!(kept.len() <= 3, "{kept:?}");
        }
        // Those after the newest snapshot stay.
        for sequence in 6..=9 {
            send(&slot, sequence, b"a").expect("kept");
        }
        assert!(outputs(&node).ends_with(&[6, 7, 8, 9]));
        whole(&node);
    }
}

#[test]
fn outputs_age_though_no_snapshot_is_taken() {
    let node = Node::new();
    let slot = node.spawn(DaemonHostConfig {
        outputs_age_max_ms: Some(200),
        snapshots_max: 1,
        ..journal()
    });
    for sequence in 1..=3 {
        send(&slot, sequence, b"a").expect("kept");
    }
    node.runtime
        .snapshot(&mut slot.try_enter().expect("free"))
        .expect("no raise");
    settle(&slot);
    assert_eq!(outputs(&node), [1, 2, 3]);
    // No snapshot from here on: it is the events that find out.
    common::until(|| node.disk.lock().age_of_snapshot() > 250);
    for sequence in 4..=5 {
        send(&slot, sequence, b"a").expect("kept");
    }
    assert_eq!(outputs(&node), [4, 5]);
    whole(&node);
}

// ---------------------------------------------------------------- snapshots alone

#[test]
fn a_daemon_of_which_snapshots_are_kept_goes_back_to_the_newest_in_an_epoch_of_its_own() {
    let mut node = Node::new();
    let slot = node.spawn(DaemonHostConfig {
        auto_snapshot_interval: 4,
        ..snapshots()
    });
    for sequence in 1..=10 {
        send(&slot, sequence, b"abc").expect("taken");
    }
    settle(&slot);
    exported(&node, &slot);
    assert_eq!((rows(&node, Table::Journal), rows(&node, Table::Outputs)), (0, 0));
    drop(slot);
    for life in 2..=4 {
        node = node.killed();
        let (slot, report) = node.resume();
        let Report {
            sequence,
            epoch,
            rolled_back_from,
            replayed,
            ..
        } = report;
        assert_eq!((sequence, epoch, rolled_back_from, replayed), (8, life, Some(8), 0));
        // That it began is kept before anybody could hear of it.
        assert_eq!(rows(&node, Table::Certificates) as u64, life);
        assert_eq!((slot.view().head.sequence, total(&slot)), (8, 24));
        // What was acknowledged after the snapshot is new again.
        assert_eq!(send(&slot, 9, b"xy").expect("new")[0].payload.as_slice(), b"26");
        assert_eq!(exported(&node, &slot), (vec![9], 9));
        whole(&node);
        drop(slot);
    }
}

#[test]
fn a_stop_and_a_shutdown_keep_a_last_snapshot() {
    let node = Node::new();
    let slot = node.spawn(snapshots());
    send(&slot, 1, b"abc").expect("taken");
    node.runtime.stop(slot.try_enter().expect("free"), UnixMs::new(0));
    let node = node.killed();
    let (slot, report) = node.resume();
    assert_eq!((report.sequence, report.epoch, total(&slot)), (1, 2, 3));
    send(&slot, 2, b"abc").expect("taken");
    node.runtime.shutdown(Duration::from_secs(5), &mut never);
    drop(slot);
    let node = node.killed();
    let (slot, report) = node.resume();
    assert_eq!((report.sequence, report.epoch, total(&slot)), (2, 3, 6));
    send(&slot, 3, b"abc").expect("taken");
    let taken = node
        .runtime
        .snapshot(&mut slot.try_enter().expect("free"))
        .expect("no raise")
        .expect("stateful");
    taken
        .kept
        .expect("it is kept")
        .settle(Deadline::after(Duration::from_secs(10)), &mut never);
    drop(slot);
    let (slot, report) = node.killed().resume();
    assert_eq!((report.sequence, report.epoch, total(&slot)), (3, 4, 9));
}

#[test]
fn a_damaged_snapshot_of_a_rolled_back_past_is_forgotten() {
    let node = Node::new();
    let slot = node.spawn(DaemonHostConfig {
        auto_snapshot_interval: 2,
        ..snapshots()
    });
    for sequence in 1..=4 {
        send(&slot, sequence, b"abc").expect("taken");
        settle(&slot);
    }
    drop(slot);
    {
        let mut disk = node.disk.lock();
        let newest = disk.page(Table::Snapshots, &KeyRange::all(), 9).expect("rows");
        let row = SnapshotRow::decode(&newest.last().expect("two").1).expect("whole");
        disk.discard(&row.name).expect("there");
    }
    let node = node.killed();
    let (slot, report) = node.resume();
    assert_eq!((report.sequence, report.snapshots_skipped), (2, 1));
    assert_eq!(rows(&node, Table::Snapshots), 1);
    send(&slot, 3, b"abc").expect("new");
    whole(&node);
    drop(slot);
    node.disk.lock().remove_all(Table::Snapshots);
    let node = node.killed();
    let failed = node.runtime.resume(&key(1), Sum::new(&node.switches));
    let Some(SpawnError::NotResumed(failed)) = failed.err() else {
        panic!("nothing is left")
    };
    assert!(
        failed.reason().contains("none of 0 snapshots is whole"),
        "{}",
        failed.reason()
    );
}

#[test]
fn a_full_disk_does_not_touch_a_daemon_of_which_snapshots_are_kept() {
    let node = Node::new();
    let slot = node.spawn(DaemonHostConfig {
        auto_snapshot_interval: 1,
        ..snapshots()
    });
    node.disk.lock().is_full = true;
    for sequence in 1..=3 {
        send(&slot, sequence, b"abc").expect("taken");
    }
    common::until(|| !crashes(&node).is_empty());
    assert!(node.runtime.export(&mut slot.try_enter().expect("free")).is_err());
    node.disk.lock().is_full = false;
    send(&slot, 4, b"abc").expect("taken");
    // Certificate and checkpoint that were refused are kept now.
    let (kept, signed) = exported(&node, &slot);
    assert_eq!((kept.len(), signed), (4, 4));
    settle(&slot);
    whole(&node);
    drop(slot);
    let (slot, report) = node.killed().resume();
    assert_eq!((report.sequence, total(&slot)), (4, 12));
}

// ---------------------------------------------------------------- outside the gate

#[test]
fn a_slow_disk_does_not_hold_up_the_next_event_while_a_snapshot_is_kept() {
    for config in [journal(), snapshots()] {
        let node = Node::new();
        let slot = node.spawn(DaemonHostConfig {
            auto_snapshot_interval: 2,
            ..config
        });
        let (gate, files) = {
            let disk = node.disk.lock();
            (Arc::clone(&disk.gate), Arc::clone(&disk.files))
        };
        let before = files.load(Ordering::SeqCst);
        let closed = gate.lock();
        for sequence in 1..=2 {
            send(&slot, sequence, b"abc").expect("kept");
        }
        common::until(|| files.load(Ordering::SeqCst) == before + 1);
        // The file is being written, and stays so.
        for sequence in 3..=9 {
            send(&slot, sequence, b"abc").expect("not held up");
        }
        assert_eq!(rows(&node, Table::Snapshots), 1);
        drop(closed);
        settle(&slot);
        // Of the three that waited the newest was kept.
        assert_eq!(files.load(Ordering::SeqCst), before + 2);
        assert_eq!(rows(&node, Table::Snapshots), 2);
        whole(&node);
        drop(slot);
        let (slot, report) = node.killed().resume();
        assert_eq!(report.snapshot_sequence, 8);
        assert_eq!(
            total(&slot),
            if config.durability == Durability::Journal {
                27
            } else {
                24
            }
        );
    }
}

#[test]
fn a_process_that_ends_while_a_snapshot_is_written_goes_on_from_the_one_before() {
    let node = Node::new();
    let slot = node.spawn(DaemonHostConfig {
        auto_snapshot_interval: 2,
        ..journal()
    });
    let gate = Arc::clone(&node.disk.lock().gate);
    let closed = gate.lock();
    for sequence in 1..=5 {
        send(&slot, sequence, b"abc").expect("kept");
    }
    drop(slot);
    let disk = Arc::clone(&node.disk);
    let copy = disk.lock().copied();
    let later = Node::on(Arc::new(meshos_node::sync::Mutex::new(copy)), Arc::clone(&node.node));
    let (slot, report) = later.resume();
    assert_eq!((report.snapshot_sequence, report.replayed), (0, 5));
    assert_eq!(total(&slot), 15);
    drop(closed);
}

#[test]
fn a_stop_waits_for_the_snapshot_that_is_written() {
    let node = Node::new();
    let slot = node.spawn(DaemonHostConfig {
        auto_snapshot_interval: 2,
        ..journal()
    });
    for sequence in 1..=2 {
        send(&slot, sequence, b"abc").expect("kept");
    }
    node.runtime.shutdown(Duration::from_secs(5), &mut never);
    assert_eq!(rows(&node, Table::Snapshots), 2);
}

#[test]
fn a_snapshot_that_cannot_be_written_is_told_and_the_one_before_stays() {
    let node = Node::new();
    let slot = node.spawn(DaemonHostConfig {
        auto_snapshot_interval: 2,
        ..journal()
    });
    send(&slot, 1, b"abc").expect("kept");
    node.disk.lock().refuses_files = true;
    send(&slot, 2, b"abc").expect("kept");
    common::until(|| crashes(&node).len() == 1);
    send(&slot, 3, b"abc").expect("kept");
    assert_eq!(rows(&node, Table::Snapshots), 1);
    drop(slot);
    let (slot, report) = node.killed().resume();
    assert_eq!((report.snapshot_sequence, report.replayed, total(&slot)), (0, 3, 9));
}

// ---------------------------------------------------------------- again and again

#[test]
fn a_daemon_is_brought_back_less_and_less_often() {
    let node = Node::new();
    let slot = node.spawn(journal());
    node.disk.lock().is_full = true;
    let begun = std::time::Instant::now();
    let mut restored = 0;
    while begun.elapsed() < Duration::from_millis(400) {
        let before = node.switches.seen.lock().len();
        send(&slot, 1, b"abc").expect_err("no space");
        restored += u32::from(node.switches.seen.lock().len() > before);
    }
    // At once, then after 50, 150 and 350 ms.
    assert!((2..=4).contains(&restored), "{restored}");
    node.disk.lock().is_full = false;
    common::until(|| send(&slot, 1, b"abc").is_ok());
    // What was kept ends it: the next failure waits 50 ms again.
    node.disk.lock().is_full = true;
    send(&slot, 2, b"abc").expect_err("no space");
    node.disk.lock().is_full = false;
    let begun = std::time::Instant::now();
    common::until(|| send(&slot, 2, b"abc").is_ok());
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
    assert_eq!(total(&slot), 6);
}

#[test]
fn a_dead_letter_does_not_take_the_place_of_one_of_a_rolled_back_past() {
    let node = Node::new();
    let config = DaemonHostConfig {
        attempts_max: 1,
        ..snapshots()
    };
    let slot = node.spawn(config);
    let letters = |slot: &Arc<Slot<Sum>>| -> Vec<u64> {
        let numbers = |inside: &meshos_node::inside::Inside<Sum>| {
            let letters = inside.letters.iter().flat_map(|letters| letters.iter());
            letters.map(|(_, letter)| letter.key.sequence).collect()
        };
        slot.peek(numbers).unwrap_or_default()
    };
    post(&node, &slot, 1, b"raise");
    common::until(|| rows(&node, Table::DeadLetters) == 1);
    drop(slot);
    let node = node.killed();
    let (slot, _) = node.resume();
    assert_eq!(letters(&slot), [1]);
    post(&node, &slot, 2, b"raise");
    common::until(|| rows(&node, Table::DeadLetters) == 2);
    common::until(|| letters(&slot) == [1, 2]);
}

#[test]
fn what_an_earlier_life_still_writes_is_kept_before_the_next_begins() {
    let node = Node::new();
    let slot = node.spawn(DaemonHostConfig {
        auto_snapshot_interval: 2,
        ..snapshots()
    });
    let gate = Arc::clone(&node.disk.lock().gate);
    let before = node.disk.lock().files.load(Ordering::SeqCst);
    let closed = gate.lock();
    for sequence in 1..=2 {
        send(&slot, sequence, b"abc").expect("taken");
    }
    common::until(|| node.disk.lock().files.load(Ordering::SeqCst) > before);
    node.runtime.registry().unregister(slot.origin());
    let report = std::thread::scope(|scope| {
        let resumed = scope.spawn(|| node.resume().1);
        let begun = std::time::Instant::now();
        common::until(|| resumed.is_finished() || begun.elapsed() > Duration::from_millis(200));
        drop(closed);
        resumed.join().expect("no panic")
    });
    assert_eq!(report.sequence, 2);
}

#[test]
fn a_snapshot_that_cannot_be_read_for_a_moment_is_not_given_up() {
    let node = Node::new();
    let slot = node.spawn(DaemonHostConfig {
        auto_snapshot_interval: 2,
        ..snapshots()
    });
    for sequence in 1..=4 {
        send(&slot, sequence, b"abc").expect("taken");
        settle(&slot);
    }
    drop(slot);
    let node = node.killed();
    node.disk.lock().unreadable.store(1, Ordering::SeqCst);
    let refused = node.runtime.resume(&key(1), Sum::new(&node.switches));
    assert!(matches!(
        refused.map(|_| ()),
        Err(SpawnError::NotResumed(ResumeFailed::Store(StoreError::Io { .. })))
    ));
    assert_eq!(node.resume().1.sequence, 4);
}
