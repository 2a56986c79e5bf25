//! A supervised daemon that crashes is down, and comes back where it was.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use meshos_core::config::{DaemonHostConfig, OnError};
use meshos_core::event::{Crash, DaemonLifecycleSignal};
use meshos_core::gate::Gate;
use meshos_core::id::Origin;
use meshos_node::clock::Deadline;
use meshos_node::daemon::DeliverError;
use meshos_node::restart::{StartError, Started};
use meshos_node::slot::EnterError;

use crate::common::{Sum, config, key, never, runtime, until};
use crate::{Log, PATIENCE, answers, post, send, supervised, total};

#[test]
fn a_raise_takes_it_down_and_says_on_what() {
    let (runtime, switches) = runtime();
    let log = Log::of(&runtime);
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);

    assert!(matches!(send(&slot, 7, 1, b"raise"), Err(DeliverError::Raised(error)) if error == "on purpose"));

    assert_eq!(slot.gate(), Gate::Down);
    assert_eq!(slot.view().stats.errors, 1);
    assert!(matches!(slot.try_enter(), Err(EnterError::Busy)));
    assert_eq!(
        log.0.lock()[1].signal,
        DaemonLifecycleSignal::Crashed {
            crash: Crash {
                reason: Arc::from("on purpose"),
                exception: Arc::from("Error"),
                message: Arc::from("on purpose"),
                event: Some((Origin::new(7), 1)),
            },
            down: true,
        }
    );
}

#[test]
fn a_start_brings_back_state_and_cursor_without_the_poison() {
    let (runtime, switches) = runtime();
    let log = Log::of(&runtime);
    let options = DaemonHostConfig {
        auto_snapshot_interval: 10,
        ..config()
    };
    let slot = runtime.spawn(&key(1), options, Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    for number in 1..=25 {
        send(&slot, 7, number, b"tick").expect("new");
    }
    assert!(send(&slot, 7, 26, b"raise").is_err());
    switches.seen.lock().clear();

    assert!(matches!(runtime.start_daemon(slot.origin()), Ok(Started::Revived)));

    assert_eq!(total(&slot), 100);
    assert_eq!(
        *switches.seen.lock(),
        vec![b"tick".to_vec(); 5],
        "since the newest snapshot"
    );
    assert_eq!(slot.view().stats.restarts, 1);
    assert!(send(&slot, 7, 25, b"tick").expect("known").is_empty());
    let outputs = send(&slot, 7, 26, b"abc").expect("the number is still new");
    assert_eq!((outputs[0].link.sequence, &**outputs[0].payload), (26, &b"103"[..]));
    assert_eq!(log.signals(), ["registered", "down", "started"]);
}

#[test]
fn callers_and_mail_wait_and_take_effect_once_and_in_order() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    let (reply, replies) = mpsc::channel();
    let hold = switches.gate.lock();
    for payload in [&b"wait"[..], b"a", b"raise", b"b", b"c"] {
        post(&runtime, &slot, payload, &reply);
    }
    drop(hold);
    let before = answers(&replies, 3);
    assert!(before[0].is_ok() && before[1].is_ok() && matches!(before[2], Err(DeliverError::Raised(_))));
    post(&runtime, &slot, b"d", &reply);
    until(|| slot.gate() == Gate::Down);
    assert!(replies.try_recv().is_err(), "the rest of the mail waits");
    switches.seen.lock().clear();

    std::thread::scope(|scope| {
        let caller = scope.spawn(|| send(&slot, 9, 1, b"e").expect("it was started again"));
        assert!(matches!(runtime.start_daemon(slot.origin()), Ok(Started::Revived)));
        caller.join().expect("no panic");
    });

    assert!(answers(&replies, 3).iter().all(Result::is_ok));
    let seen = switches.seen.lock().clone();
    let replayed = [b"wait".to_vec(), b"a".to_vec()];
    assert_eq!(seen[..2], replayed);
    let mailed: Vec<_> = seen[2..].iter().filter(|payload| **payload != b"e").cloned().collect();
    assert_eq!(mailed, [b"b".to_vec(), b"c".to_vec(), b"d".to_vec()]);
    assert_eq!(total(&slot), 9);
    assert_eq!(slot.view().stats.events_processed, 6);
}

#[test]
fn a_caller_that_waits_for_a_daemon_that_is_down_has_its_deadline() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    assert!(send(&slot, 7, 1, b"raise").is_err());

    let soon = Deadline::after(Duration::from_millis(5));
    assert_eq!(slot.enter(soon, &mut never).map(|_| ()), Err(EnterError::Timeout));
}

#[test]
fn looking_at_a_daemon_that_is_down_does_not_mend_it() {
    let (runtime, switches) = runtime();
    let log = Log::of(&runtime);
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    send(&slot, 7, 1, b"abc").expect("new");
    assert!(send(&slot, 7, 2, b"raise").is_err());

    let mut entered = slot.inspect().expect("may be looked at");
    assert_eq!(runtime.export(&mut entered).expect("a whole key").events.len(), 1);
    drop(entered);

    assert_eq!(slot.gate(), Gate::Down);
    assert_eq!(log.signals(), ["registered", "down"], "told once");
}

#[test]
fn supervision_in_the_middle_of_a_life_begins_with_a_snapshot() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    for number in 1..=5 {
        send(&slot, 7, number, b"abc").expect("new");
    }
    assert_eq!(switches.snapshots.load(Ordering::SeqCst), 0);
    supervised(&runtime, &slot);
    for number in 6..=8 {
        send(&slot, 7, number, b"abc").expect("new");
    }
    assert_eq!(switches.snapshots.load(Ordering::SeqCst), 1, "before the first of them");

    // Inputs are not kept while nobody supervises it, so the next time begins with one too.
    runtime.registry().supervise(slot.origin(), false);
    send(&slot, 7, 9, b"abc").expect("new");
    supervised(&runtime, &slot);
    assert!(send(&slot, 7, 10, b"raise").is_err());
    assert_eq!(switches.snapshots.load(Ordering::SeqCst), 2);

    assert!(matches!(runtime.start_daemon(slot.origin()), Ok(Started::Revived)));
    assert_eq!(total(&slot), 27);
}

#[test]
fn an_event_that_cannot_be_rebuilt_after_is_refused() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    switches.fail_snapshot.store(true, Ordering::SeqCst);

    assert!(matches!(
        send(&slot, 7, 1, b"abc"),
        Err(DeliverError::SnapshotFailed(_))
    ));

    switches.fail_snapshot.store(false, Ordering::SeqCst);
    send(&slot, 7, 1, b"abc").expect("it took no effect");
    assert_eq!(total(&slot), 3);
}

#[test]
fn supervision_that_begins_within_an_event_leaves_its_raise_as_it_was() {
    let (runtime, switches) = runtime();
    let log = Log::of(&runtime);
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let hold = switches.gate.lock();
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| send(&slot, 7, 1, b"wait raise"));
        switches.until_waiting(1);
        supervised(&runtime, &slot);
        drop(hold);
        assert!(caller.join().expect("no panic").is_err());
    });

    assert_eq!(slot.gate(), Gate::Active, "nothing leads back to where it was before");
    assert_eq!(log.signals(), ["registered", "crashed"]);
}

#[test]
fn a_full_log_forces_a_snapshot_under_supervision_too() {
    let (runtime, switches) = runtime();
    let options = DaemonHostConfig {
        max_log_entries: 3,
        ..config()
    };
    let slot = runtime.spawn(&key(1), options, Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    for number in 1..=8 {
        send(&slot, 7, number, b"x").expect("new");
    }
    assert_eq!(switches.snapshots.load(Ordering::SeqCst), 3, "before 1, 4 and 7");
    assert!(send(&slot, 7, 9, b"raise").is_err());
    assert!(matches!(runtime.start_daemon(slot.origin()), Ok(Started::Revived)));
    assert_eq!(total(&slot), 8);
}

#[test]
fn a_daemon_without_state_comes_back_fresh() {
    let (runtime, switches) = runtime();
    let slot = runtime
        .spawn(&key(1), config(), Sum::stateless(&switches))
        .expect("fresh");
    supervised(&runtime, &slot);
    send(&slot, 7, 1, b"abc").expect("new");
    assert!(send(&slot, 7, 2, b"raise").is_err());
    assert_eq!(slot.gate(), Gate::Down);

    assert!(matches!(runtime.start_daemon(slot.origin()), Ok(Started::Revived)));

    assert_eq!(total(&slot), 0);
    assert!(send(&slot, 7, 1, b"abc").expect("known").is_empty());
    assert_eq!(switches.snapshots.load(Ordering::SeqCst), 0);
}

#[test]
fn a_start_twice_is_as_once() {
    let (runtime, switches) = runtime();
    let log = Log::of(&runtime);
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    assert!(matches!(
        runtime.start_daemon(slot.origin()),
        Ok(Started::AlreadyRunning)
    ));
    supervised(&runtime, &slot);
    assert!(send(&slot, 7, 1, b"raise").is_err());

    let hold = switches.restore_gate.lock();
    std::thread::scope(|scope| {
        let starts = [(); 2].map(|()| scope.spawn(|| runtime.start_daemon(slot.origin())));
        switches.until_waiting(2);
        drop(hold);
        let mut outcomes = starts.map(|start| start.join().expect("no panic").expect("it runs"));
        outcomes.sort_by_key(|outcome| *outcome == Started::Revived);
        assert_eq!(outcomes, [Started::AlreadyRunning, Started::Revived]);
    });

    assert_eq!(log.signals(), ["registered", "down", "started"]);
    let nobody = Origin::new(1);
    assert!(matches!(runtime.start_daemon(nobody), Err(StartError::NotFound(origin)) if origin == nobody));
}

#[test]
fn a_start_that_fails_leaves_it_down_and_tells_nobody_else() {
    let (runtime, switches) = runtime();
    let log = Log::of(&runtime);
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    send(&slot, 7, 1, b"abc").expect("new");
    assert!(send(&slot, 7, 2, b"raise").is_err());
    switches.fail_restore.store(true, Ordering::SeqCst);

    assert!(matches!(runtime.start_daemon(slot.origin()), Err(StartError::Raised(error)) if error == "no restore"));

    assert_eq!(slot.gate(), Gate::Down);
    assert_eq!(log.signals(), ["registered", "down"]);
    switches.fail_restore.store(false, Ordering::SeqCst);
    assert!(matches!(runtime.start_daemon(slot.origin()), Ok(Started::Revived)));
    assert_eq!(total(&slot), 3);
}

#[test]
fn a_failed_daemon_is_down_and_can_be_started_again() {
    let (runtime, switches) = runtime();
    let log = Log::of(&runtime);
    let options = DaemonHostConfig {
        on_error: OnError::Restore,
        ..config()
    };
    let slot = runtime.spawn(&key(1), options, Sum::new(&switches)).expect("fresh");
    send(&slot, 7, 1, b"abc").expect("new");
    switches.fail_restore.store(true, Ordering::SeqCst);
    assert!(matches!(send(&slot, 7, 2, b"raise"), Err(DeliverError::Lost { .. })));
    assert_eq!(slot.gate(), Gate::Failed);
    assert!(runtime.registry().roster().0[0].down);
    assert!(matches!(
        runtime.start_daemon(slot.origin()),
        Err(StartError::Raised(_))
    ));
    assert_eq!(slot.gate(), Gate::Failed, "and stays so");
    switches.fail_restore.store(false, Ordering::SeqCst);

    assert!(matches!(runtime.start_daemon(slot.origin()), Ok(Started::Revived)));

    assert_eq!(total(&slot), 3);
    assert_eq!(log.signals(), ["registered", "crashed", "down", "started"]);
}

#[test]
fn taking_supervision_back_strands_nobody() {
    let (runtime, switches) = runtime();
    let log = Log::of(&runtime);
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    send(&slot, 7, 1, b"abc").expect("new");
    assert!(send(&slot, 7, 2, b"raise").is_err());
    let (reply, replies) = mpsc::channel();
    post(&runtime, &slot, b"mail", &reply);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| send(&slot, 7, 2, b"abc"));

        runtime.registry().supervise(slot.origin(), false);

        caller.join().expect("no panic").expect("it opened again");
    });
    assert!(answers(&replies, 1)[0].is_ok());
    assert_eq!(total(&slot), 10);
    assert_eq!(log.signals(), ["registered", "down", "started"]);
}

#[test]
fn taking_supervision_back_while_somebody_looks_strands_nobody() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    assert!(send(&slot, 7, 1, b"raise").is_err());
    let entered = slot.inspect().expect("may be looked at");

    runtime.registry().supervise(slot.origin(), false);

    drop(entered);
    assert_eq!(total(&slot), 0);
}

#[test]
fn what_cannot_be_rebuilt_when_supervision_is_taken_back_has_failed() {
    let (runtime, switches) = runtime();
    let log = Log::of(&runtime);
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    assert!(send(&slot, 7, 1, b"raise").is_err());
    switches.fail_restore.store(true, Ordering::SeqCst);

    runtime.registry().supervise(slot.origin(), false);

    let outcome = slot.enter(Deadline::after(PATIENCE), &mut never).map(|_| ());
    assert_eq!(outcome, Err(EnterError::Failed(Arc::from("no restore"))));
    assert_eq!(log.signals(), ["registered", "down", "down"]);
}

#[test]
fn a_coroutine_that_raises_takes_it_down() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    let (reply, replies) = mpsc::channel();
    post(&runtime, &slot, b"later", &reply);
    until(|| !switches.pending.lock().is_empty());
    let then = switches.pending.lock().pop().expect("it is there");

    then(Err("on purpose".to_owned()));

    assert!(matches!(answers(&replies, 1)[0], Err(DeliverError::Raised(_))));
    assert_eq!(slot.gate(), Gate::Down);
    assert!(matches!(runtime.start_daemon(slot.origin()), Ok(Started::Revived)));
    assert_eq!(total(&slot), 0);
}

/// Four senders, a supervisor that starts what goes down, and one in eight events that is poison.
#[test]
fn every_event_takes_effect_once_whatever_crashes() {
    let (runtime, switches) = runtime();
    let options = DaemonHostConfig {
        auto_snapshot_interval: 7,
        ..config()
    };
    let slot = runtime.spawn(&key(1), options, Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    std::thread::scope(|scope| {
        let senders = [1, 2, 3, 4].map(|origin: u64| {
            let slot = &slot;
            scope.spawn(move || {
                for number in 1..=200 {
                    let poison = (origin + number).is_multiple_of(8);
                    if poison {
                        assert!(send(slot, origin, number, b"raise").is_err());
                    }
                    send(slot, origin, number, b"x").expect("new");
                }
            })
        });
        while !senders.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            if slot.is_down() {
                runtime.start_daemon(slot.origin()).expect("it can");
            }
            std::thread::yield_now();
        }
    });
    assert_eq!(total(&slot), 800);
    let stats = slot.view().stats;
    assert_eq!((stats.events_processed, stats.errors, stats.restarts), (800, 100, 100));
    assert_eq!(switches.most_inside.load(Ordering::SeqCst), 1);
}
