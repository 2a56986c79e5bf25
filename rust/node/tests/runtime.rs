//! What a user of the runtime sees: spawn, deliver, restore, stop, shut down.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use common::{Event, Sum, config, key, never, runtime};
use meshos_core::config::{DaemonHostConfig, OnError};
use meshos_core::control::DaemonControl;
use meshos_core::host::{Few, ResumeError};
use meshos_core::time::UnixMs;
use meshos_core::verify::verify;
use meshos_node::clock::Deadline;
use meshos_node::daemon::Daemon;
use meshos_node::daemon::DeliverError;
use meshos_node::deliver::{self, Want};
use meshos_node::mailbox::Letter;
use meshos_node::runtime::SpawnError;
use meshos_node::slot::{EnterError, Slot};

fn send(slot: &Arc<Slot<Sum>>, origin: u64, sequence: u64, payload: &[u8]) -> Result<Few<Event>, DeliverError<Sum>> {
    let mut entered = slot.enter(Deadline::never(), &mut never).expect("open");
    deliver::deliver(&mut entered, &Event::outside(origin, sequence, payload), Want::Outputs)
        .map(|delivered| delivered.outputs)
}

fn total(slot: &Arc<Slot<Sum>>) -> u64 {
    slot.try_enter().expect("free").daemon.total.load(Ordering::SeqCst)
}

#[test]
fn an_event_takes_effect_once() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    assert_eq!(send(&slot, 7, 1, b"abc").expect("new").len(), 1);
    assert!(send(&slot, 7, 1, b"abc").expect("known").is_empty());
    assert_eq!(slot.view().stats.duplicates, 1);
    assert_eq!(total(&slot), 3);
}

#[test]
fn a_raise_leaves_cursor_and_chain_where_they_were() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let before = slot.view();
    assert!(matches!(send(&slot, 7, 1, b"raise"), Err(DeliverError::Raised(error)) if error == "on purpose"));
    let after = slot.view();
    assert_eq!((after.head, after.digest), (before.head, before.digest));
    assert_eq!((after.stats.errors, after.stats.events_processed), (1, 0));
    assert_eq!(send(&slot, 7, 1, b"abc").expect("still new").len(), 1);
    // `on_error = Raise`: the state is as user code left it.
    assert_eq!(total(&slot), 8);
}

#[test]
fn restore_on_error_rebuilds_from_snapshot_and_inputs() {
    let (runtime, switches) = runtime();
    let options = DaemonHostConfig {
        on_error: OnError::Restore,
        max_log_entries: 4,
        ..config()
    };
    let slot = runtime.spawn(&key(1), options, Sum::new(&switches)).expect("fresh");
    for number in 1..=10 {
        send(&slot, 7, number, b"abc").expect("new");
        assert!(matches!(
            send(&slot, 7, number + 100, b"raise"),
            Err(DeliverError::Raised(_))
        ));
    }
    assert_eq!(total(&slot), 30);
    assert_eq!(slot.view().stats.restarts, 10);
    assert_eq!(slot.view().head.sequence, 10);
}

#[test]
fn a_full_log_forces_a_snapshot_before_one_more_input() {
    let (runtime, switches) = runtime();
    let options = DaemonHostConfig {
        on_error: OnError::Restore,
        max_log_entries: 3,
        ..config()
    };
    let slot = runtime.spawn(&key(1), options, Sum::new(&switches)).expect("fresh");
    for number in 1..=3 {
        send(&slot, 7, number, b"x").expect("new");
    }
    assert_eq!(switches.snapshots.load(Ordering::SeqCst), 1, "the one at the start");
    switches.fail_snapshot.store(true, Ordering::SeqCst);
    assert!(matches!(send(&slot, 7, 4, b"x"), Err(DeliverError::SnapshotFailed(_))));
    assert_eq!(total(&slot), 3, "the event was not processed");
    switches.fail_snapshot.store(false, Ordering::SeqCst);
    send(&slot, 7, 4, b"x").expect("the same event again");
    assert_eq!(total(&slot), 4);
}

#[test]
fn automatic_snapshots_come_at_their_interval() {
    let (runtime, switches) = runtime();
    let options = DaemonHostConfig {
        auto_snapshot_interval: 5,
        ..config()
    };
    let slot = runtime.spawn(&key(1), options, Sum::new(&switches)).expect("fresh");
    for number in 1..=23 {
        send(&slot, 7, number, b"x").expect("new");
    }
    assert_eq!(switches.snapshots.load(Ordering::SeqCst), 4);
    assert_eq!(slot.view().stats.snapshots_taken, 4);
    let newest = slot.try_enter().expect("free").newest.clone().expect("taken");
    assert_eq!(newest.meta.stats.events_processed, 20);
}

#[test]
fn a_daemon_that_cannot_be_rebuilt_takes_no_events() {
    let (runtime, switches) = runtime();
    let options = DaemonHostConfig {
        on_error: OnError::Restore,
        ..config()
    };
    let slot = runtime.spawn(&key(1), options, Sum::new(&switches)).expect("fresh");
    switches.fail_restore.store(true, Ordering::SeqCst);
    assert!(matches!(send(&slot, 7, 1, b"raise"), Err(DeliverError::Lost { .. })));
    assert!(matches!(slot.try_enter(), Err(EnterError::Failed(reason)) if &*reason == "no restore"));
}

#[test]
fn a_restored_daemon_continues_the_same_chain() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    for number in 1..=3 {
        send(&slot, 7, number, b"abc").expect("new");
    }
    let mut entered = slot.try_enter().expect("free");
    let snapshot = runtime
        .snapshot(&mut entered)
        .expect("no raise")
        .expect("stateful")
        .snapshot;
    runtime.stop(entered, UnixMs::new(0));
    assert!(matches!(slot.try_enter(), Err(EnterError::Stale)));

    let slot = runtime
        .spawn_from_snapshot(&key(1), snapshot, config(), Sum::new(&switches), false)
        .expect("at the head");
    assert!(
        send(&slot, 7, 3, b"abc").expect("known").is_empty(),
        "cursors came along"
    );
    send(&slot, 7, 4, b"abc").expect("new");
    assert_eq!(total(&slot), 12);

    let exported = runtime
        .export(&mut slot.try_enter().expect("free"))
        .expect("a whole key");
    let events: Vec<_> = exported.events.iter().map(Sum::parts).collect();
    let report = verify(
        &events,
        &exported.checkpoints,
        &exported.certificates,
        &exported.entity,
        &[],
    );
    let report = report.expect("one unbroken chain");
    assert_eq!((report.events, report.last_sequence, report.signed_through), (4, 4, 4));
    assert_eq!(report.owners.len(), 1);
}

#[test]
fn an_older_snapshot_is_refused_unless_the_rest_is_declared_rolled_back() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    send(&slot, 7, 1, b"abc").expect("new");
    let snapshot = runtime
        .snapshot(&mut slot.try_enter().expect("free"))
        .expect("no raise")
        .expect("stateful")
        .snapshot;
    send(&slot, 7, 2, b"abc").expect("new");
    runtime.stop(slot.try_enter().expect("free"), UnixMs::new(0));

    let refused = runtime.spawn_from_snapshot(&key(1), Arc::clone(&snapshot), config(), Sum::new(&switches), false);
    assert!(matches!(
        refused.map(|_| ()),
        Err(SpawnError::Resume(ResumeError::StaleOutputs { snapshot: 1, known: 2 }))
    ));
    let slot = runtime
        .spawn_from_snapshot(&key(1), snapshot, config(), Sum::new(&switches), true)
        .expect("declared");
    send(&slot, 7, 2, b"xyz").expect("new again");
    let exported = runtime
        .export(&mut slot.try_enter().expect("free"))
        .expect("a whole key");
    let events: Vec<_> = exported.events.iter().map(Sum::parts).collect();
    let report = verify(
        &events,
        &exported.checkpoints,
        &exported.certificates,
        &exported.entity,
        &[],
    );
    let report = report.expect("verifiable");
    assert_eq!(report.owners.last().expect("an owner").epoch, 2);
    assert_eq!(report.last_sequence, 2);
}

#[test]
fn a_fresh_spawn_never_restarts_a_chain_that_has_events() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    send(&slot, 7, 1, b"abc").expect("new");
    runtime.stop(slot.try_enter().expect("free"), UnixMs::new(0));
    let refused = runtime.spawn(&key(1), config(), Sum::new(&switches));
    assert!(matches!(refused.map(|_| ()), Err(SpawnError::Known(_))));
}

#[test]
fn a_stateless_daemon_continues_its_chain_and_cursors() {
    let (runtime, switches) = runtime();
    let slot = runtime
        .spawn(&key(1), config(), Sum::stateless(&switches))
        .expect("fresh");
    send(&slot, 7, 1, b"abc").expect("new");
    runtime.stop(slot.try_enter().expect("free"), UnixMs::new(0));
    let slot = runtime
        .spawn(&key(1), config(), Sum::stateless(&switches))
        .expect("no state to lose");
    assert!(send(&slot, 7, 1, b"abc").expect("known").is_empty());
    let outputs = send(&slot, 7, 2, b"abc").expect("new");
    assert_eq!(outputs[0].link.sequence, 2);
}

#[test]
fn a_second_spawn_leaves_the_incumbent_alone() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    assert!(matches!(
        runtime.spawn(&key(1), config(), Sum::new(&switches)).map(|_| ()),
        Err(SpawnError::Occupied(_))
    ));
    send(&slot, 7, 1, b"abc").expect("alive");
}

#[test]
fn one_is_inside_at_a_time_whatever_the_callers_do() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let (reply, replies) = mpsc::channel();
    std::thread::scope(|scope| {
        for origin in 1..=4u64 {
            let slot = &slot;
            scope.spawn(move || {
                for number in 1..=500 {
                    send(slot, origin, number, b"x").expect("new");
                }
            });
        }
        for _ in 0..500 {
            let posted = slot.post(
                runtime.lanes(),
                runtime.sender(),
                Letter::Draft(b"x".to_vec(), 1),
                Want::Receipt,
                Some(reply.clone()),
                None,
            );
            assert!(posted.is_ok());
        }
    });
    drop(reply);
    let receipts: Vec<_> = replies.iter().take(500).collect();
    assert_eq!(receipts.len(), 500);
    assert_eq!(switches.most_inside.load(Ordering::SeqCst), 1);
    assert_eq!(slot.view().stats.events_processed, 2500);
    assert_eq!(slot.view().head.sequence, 2500);
}

#[test]
fn mailed_events_take_effect_in_order_and_a_failed_group_stops() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let (reply, replies) = mpsc::channel();
    let group = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let hold = switches.gate.lock();
    for payload in [&b"wait"[..], b"a", b"raise", b"b", b"c"] {
        let letter = Letter::Draft(payload.to_vec(), payload.len());
        let group = Some(Arc::clone(&group));
        assert!(
            slot.post(
                runtime.lanes(),
                runtime.sender(),
                letter,
                Want::Receipt,
                Some(reply.clone()),
                group
            )
            .is_ok()
        );
    }
    drop(hold);
    let outcomes: Vec<_> = replies.iter().take(5).map(|(_, outcome)| outcome).collect();
    assert!(outcomes[0].is_ok() && outcomes[1].is_ok());
    assert!(matches!(outcomes[2], Err(DeliverError::Raised(_))));
    assert!(matches!(outcomes[3], Err(DeliverError::Skipped)));
    assert!(matches!(outcomes[4], Err(DeliverError::Skipped)));
    assert_eq!(
        *switches.seen.lock(),
        [b"wait".to_vec(), b"a".to_vec(), b"raise".to_vec()]
    );
}

#[test]
fn a_repeated_send_gets_the_original_receipt() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let mut entered = slot.try_enter().expect("free");
    let mut ask = |sequence| {
        deliver::deliver(&mut entered, &Event::outside(7, sequence, b"abc"), Want::Receipt)
            .map(|delivered| (delivered.receipt, delivered.duplicate))
    };
    let first = ask(1).expect("new");
    for sequence in 2..=64 {
        ask(sequence).expect("new");
    }
    assert_eq!(ask(1).expect("kept"), (first.0, true));
    ask(65).expect("new");
    assert!(
        matches!(ask(1), Err(DeliverError::Unknown { cursor: 65 })),
        "64 receipts are kept"
    );
}

#[test]
fn a_coroutine_holds_the_daemon_until_it_is_done() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let (reply, replies) = mpsc::channel();
    for payload in [&b"later"[..], b"a"] {
        let letter = Letter::Draft(payload.to_vec(), payload.len());
        assert!(
            slot.post(
                runtime.lanes(),
                runtime.sender(),
                letter,
                Want::Outputs,
                Some(reply.clone()),
                None
            )
            .is_ok()
        );
    }
    let then = loop {
        if let Some(then) = switches.pending.lock().pop() {
            break then;
        }
        std::thread::yield_now();
    };
    assert!(matches!(slot.try_enter(), Err(EnterError::Busy)));
    assert!(replies.try_recv().is_err());
    then(Ok(std::iter::once(b"done".to_vec()).collect()));
    let first = replies.recv().expect("an answer").1.expect("no raise");
    assert_eq!(*first.outputs[0].payload, b"done");
    let second = replies.recv().expect("an answer").1.expect("no raise");
    assert_eq!(second.outputs[0].link.sequence, 2);
}

#[test]
fn shutdown_tells_stops_and_refuses() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let ended = runtime.shutdown(Duration::from_secs(5), &mut never);
    assert!(ended.stuck.is_empty());
    assert!(matches!(switches.controls.lock()[..], [DaemonControl::Shutdown { .. }]));
    assert!(matches!(slot.try_enter(), Err(EnterError::Stale)));
    assert_eq!(runtime.registry().count(), 0);
    assert!(matches!(
        runtime.spawn(&key(2), config(), Sum::new(&switches)).map(|_| ()),
        Err(SpawnError::Lifecycle(_))
    ));
    assert!(
        runtime.shutdown(Duration::ZERO, &mut never).stuck.is_empty(),
        "the second time does nothing"
    );
}

#[test]
fn shutdown_does_not_wait_for_user_code_that_does_not_return() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let hold = switches.gate.lock();
    std::thread::scope(|scope| {
        scope.spawn(|| send(&slot, 7, 1, b"wait"));
        while slot.try_enter().is_ok() {
            std::thread::yield_now();
        }
        let ended = runtime.shutdown(Duration::from_millis(60), &mut never);
        assert_eq!(ended.stuck, [slot.origin()]);
        drop(hold);
    });
}

#[test]
fn those_who_wait_are_turned_away_by_a_stop() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let entered = slot.try_enter().expect("free");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| slot.enter(Deadline::never(), &mut never).map(|_| ()));
        runtime.registry().unregister(slot.origin());
        assert_eq!(waiting.join().expect("no panic"), Err(EnterError::Stale));
    });
    drop(entered);
}

#[test]
fn a_wait_ends_at_its_deadline_and_at_a_signal() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let _entered = slot.try_enter().expect("free");
    let soon = Deadline::after(Duration::from_millis(10));
    assert_eq!(slot.enter(soon, &mut never).map(|_| ()), Err(EnterError::Timeout));
    assert_eq!(
        slot.enter(Deadline::never(), &mut || true).map(|_| ()),
        Err(EnterError::Interrupted)
    );
}

#[test]
fn outputs_kept_are_bounded_and_the_export_says_where_they_begin() {
    let (runtime, switches) = runtime();
    let options = DaemonHostConfig {
        outputs_max: 5,
        ..config()
    };
    let slot = runtime.spawn(&key(1), options, Sum::new(&switches)).expect("fresh");
    for number in 1..=12 {
        send(&slot, 7, number, b"abc").expect("new");
    }
    let exported = runtime
        .export(&mut slot.try_enter().expect("free"))
        .expect("a whole key");
    let events: Vec<_> = exported.events.iter().map(Sum::parts).collect();
    let report = verify(
        &events,
        &exported.checkpoints,
        &exported.certificates,
        &exported.entity,
        &[],
    );
    let report = report.expect("the first checkpoint vouches");
    assert_eq!((report.first_sequence, report.last_sequence, report.events), (8, 12, 5));
}

#[test]
fn a_failed_daemon_leaves_its_history_when_it_is_stopped() {
    let (runtime, switches) = runtime();
    let options = DaemonHostConfig {
        on_error: OnError::Restore,
        ..config()
    };
    let slot = runtime.spawn(&key(1), options, Sum::new(&switches)).expect("fresh");
    send(&slot, 7, 1, b"abc").expect("new");
    switches.fail_restore.store(true, Ordering::SeqCst);
    assert!(matches!(send(&slot, 7, 2, b"raise"), Err(DeliverError::Lost { .. })));

    let exported = runtime
        .export(&mut slot.inspect().expect("may be looked at"))
        .expect("a whole key");
    assert_eq!(exported.events.len(), 1);
    assert!(
        matches!(slot.try_enter(), Err(EnterError::Failed(_))),
        "looking does not mend it"
    );
    runtime.stop(slot.inspect().expect("may be stopped"), UnixMs::new(0));

    let refused = runtime.spawn(&key(1), config(), Sum::new(&switches));
    assert!(matches!(refused.map(|_| ()), Err(SpawnError::Known(_))));
}

#[test]
fn a_daemon_unregistered_behind_the_runtimes_back_leaves_its_history() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    send(&slot, 7, 1, b"abc").expect("new");

    let entered = slot.try_enter().expect("free");
    runtime.registry().unregister(slot.origin());
    let refused = runtime.spawn(&key(1), config(), Sum::new(&switches));
    assert!(
        matches!(refused.map(|_| ()), Err(SpawnError::Occupied(_))),
        "somebody is still inside"
    );
    drop(entered);

    let refused = runtime.spawn(&key(1), config(), Sum::new(&switches));
    assert!(matches!(refused.map(|_| ()), Err(SpawnError::Known(_))));
}
