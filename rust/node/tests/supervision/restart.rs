//! Stopping a daemon so that it can be started again, also when its code does not let go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use meshos_core::config::{DaemonHostConfig, OnError};
use meshos_core::control::DaemonControl;
use meshos_core::id::Origin;
use meshos_core::time::UnixMs;
use meshos_core::verify::verify;
use meshos_node::clock;
use meshos_node::controls;
use meshos_node::daemon::{Daemon, DeliverError};
use meshos_node::deliver::Want;
use meshos_node::dormant::{DORMANT_MAX, Dormant, Rest};
use meshos_node::inside::Inside;
use meshos_node::keys;
use meshos_node::lane::Lanes;
use meshos_node::mailbox::Letter;
use meshos_node::restart::{StartError, Started, StopError, Stopped};
use meshos_node::runtime::{Runtime, SpawnError};
use meshos_node::slot::Slot;

use crate::common::{Sum, config, key, never, runtime, until};
use crate::{Log, PATIENCE, answers, in_a_while, post, send, supervised, total};

/// So long user code is waited for in tests in which it does not return.
const SHORT: Duration = Duration::from_millis(40);

fn stop(runtime: &Runtime<Sum>, slot: &Arc<Slot<Sum>>, grace: Duration) -> Stopped {
    runtime
        .stop_daemon(slot.origin(), in_a_while(grace), &mut never)
        .expect("not interrupted")
}

fn start(runtime: &Runtime<Sum>, origin: Origin) -> Arc<Slot<Sum>> {
    assert!(matches!(runtime.start_daemon(origin), Ok(Started::Spawned)));
    runtime.registry().get(origin).expect("it is there")
}

#[test]
fn a_stopped_daemon_is_started_where_it_was_on_the_same_chain() {
    let (runtime, switches) = runtime();
    let log = Log::of(&runtime);
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    for number in 1..=3 {
        send(&slot, 7, number, b"abc").expect("new");
    }
    let before = slot.view();

    assert_eq!(stop(&runtime, &slot, PATIENCE), Stopped::InTime);
    assert!(matches!(switches.controls.lock()[..], [DaemonControl::Shutdown { .. }]));
    assert_eq!(runtime.registry().count(), 0);
    let again = start(&runtime, slot.origin());

    assert_eq!(total(&again), 9);
    let after = again.view();
    assert_eq!(
        (after.head, after.digest, after.epoch),
        (before.head, before.digest, before.epoch)
    );
    assert!(again.is_supervised());
    assert!(send(&again, 7, 3, b"abc").expect("known").is_empty());
    send(&again, 7, 4, b"abc").expect("new");
    let exported = runtime
        .export(&mut again.try_enter().expect("free"))
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
    assert_eq!(log.signals(), ["registered", "unregistered", "registered"]);
}

#[test]
fn a_stop_twice_is_as_once() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    assert_eq!(stop(&runtime, &slot, PATIENCE), Stopped::InTime);
    assert_eq!(stop(&runtime, &slot, PATIENCE), Stopped::NotThere);
    start(&runtime, slot.origin());
    assert!(matches!(
        runtime.start_daemon(slot.origin()),
        Ok(Started::AlreadyRunning)
    ));
    assert_eq!(switches.controls.lock().len(), 1);
}

#[test]
fn a_daemon_that_did_nothing_is_started_again() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    stop(&runtime, &slot, PATIENCE);
    let again = start(&runtime, slot.origin());
    assert_eq!(again.view().head.sequence, 0);
    send(&again, 7, 1, b"abc").expect("new");
}

#[test]
fn a_daemon_without_state_continues_its_chain() {
    let (runtime, switches) = runtime();
    let slot = runtime
        .spawn(&key(1), config(), Sum::stateless(&switches))
        .expect("fresh");
    send(&slot, 7, 1, b"abc").expect("new");
    stop(&runtime, &slot, PATIENCE);
    let again = start(&runtime, slot.origin());
    assert_eq!(send(&again, 7, 2, b"abc").expect("new")[0].link.sequence, 2);
}

#[test]
fn a_daemon_that_is_down_is_stopped_without_a_word_and_started_without_the_poison() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    send(&slot, 7, 1, b"abc").expect("new");
    assert!(send(&slot, 7, 2, b"raise").is_err());
    let (reply, replies) = mpsc::channel();
    post(&runtime, &slot, b"mail", &reply);

    assert_eq!(stop(&runtime, &slot, PATIENCE), Stopped::InTime);

    assert!(matches!(answers(&replies, 1)[0], Err(DeliverError::Stale)));
    assert!(switches.controls.lock().is_empty());
    assert_eq!(total(&start(&runtime, slot.origin())), 3);
}

#[test]
fn code_that_raises_on_the_way_out_costs_nothing() {
    let (runtime, switches) = runtime();
    let log = Log::of(&runtime);
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    send(&slot, 7, 1, b"abc").expect("new");
    switches.fail_control.store(true, Ordering::SeqCst);
    switches.fail_snapshot.store(true, Ordering::SeqCst);

    assert_eq!(stop(&runtime, &slot, PATIENCE), Stopped::InTime);

    assert_eq!(log.signals(), ["registered", "crashed", "crashed", "unregistered"]);
    assert_eq!(
        total(&start(&runtime, slot.origin())),
        3,
        "snapshot and inputs were kept"
    );
}

#[test]
fn without_inputs_a_failed_last_snapshot_loses_the_state_and_says_so() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    send(&slot, 7, 1, b"abc").expect("new");
    switches.fail_snapshot.store(true, Ordering::SeqCst);
    stop(&runtime, &slot, PATIENCE);
    assert!(matches!(runtime.start_daemon(slot.origin()), Err(StartError::Lost(_))));
}

#[test]
fn code_that_does_not_let_go_is_stopped_at_the_deadline_and_has_no_effect() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    send(&slot, 7, 1, b"abc").expect("new");
    let (reply, replies) = mpsc::channel();
    let hold = switches.gate.lock();
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| send(&slot, 7, 2, b"wait"));
        switches.until_waiting(2);
        post(&runtime, &slot, b"mail", &reply);

        assert_eq!(stop(&runtime, &slot, SHORT), Stopped::ByForce);
        assert!(matches!(answers(&replies, 1)[0], Err(DeliverError::Stale)));
        let again = start(&runtime, slot.origin());
        assert_eq!(total(&again), 3, "while the old code still hangs");
        send(&again, 7, 2, b"abcd").expect("it took no effect");

        drop(hold);
        assert!(matches!(caller.join().expect("no panic"), Err(DeliverError::Stale)));
        assert_eq!(total(&again), 7);
        assert_eq!(again.view().head.sequence, 2);
        assert_eq!(stop(&runtime, &again, PATIENCE), Stopped::InTime);
        assert_eq!(total(&start(&runtime, slot.origin())), 7);
    });
}

#[test]
fn mail_that_a_hanging_lane_works_on_is_answered_when_it_is_stopped() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    let (reply, replies) = mpsc::channel();
    let hold = switches.gate.lock();
    post(&runtime, &slot, b"wait", &reply);
    post(&runtime, &slot, b"mail", &reply);
    switches.until_waiting(2);

    assert_eq!(stop(&runtime, &slot, SHORT), Stopped::ByForce);

    assert!(
        matches!(answers(&replies, 1)[0], Err(DeliverError::Stale)),
        "what waited"
    );
    drop(hold);
    assert!(matches!(answers(&replies, 1)[0], Err(DeliverError::Stale)), "what hung");
    assert_eq!(total(&start(&runtime, slot.origin())), 0);
}

#[test]
fn a_coroutine_that_does_not_end_is_stopped_and_has_no_effect() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    let (reply, replies) = mpsc::channel();
    post(&runtime, &slot, b"later", &reply);
    until(|| !switches.pending.lock().is_empty());
    let then = switches.pending.lock().pop().expect("it is there");

    assert_eq!(stop(&runtime, &slot, SHORT), Stopped::ByForce);
    let again = start(&runtime, slot.origin());

    then(Ok(std::iter::once(b"too late".to_vec()).collect()));
    assert!(matches!(answers(&replies, 1)[0], Err(DeliverError::Stale)));
    assert_eq!((total(&again), again.view().head.sequence), (0, 0));
}

#[test]
fn controls_and_snapshots_that_hang_are_stopped_at_the_deadline() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    send(&slot, 7, 1, b"abc").expect("new");

    let hold = switches.control_gate.lock();
    assert_eq!(stop(&runtime, &slot, SHORT), Stopped::ByForce);
    let again = start(&runtime, slot.origin());
    assert_eq!(total(&again), 3);
    drop(hold);

    let hold = switches.snapshot_gate.lock();
    assert_eq!(stop(&runtime, &again, SHORT), Stopped::ByForce);
    let again = start(&runtime, slot.origin());
    assert_eq!(total(&again), 3);
    drop(hold);
}

#[test]
fn a_start_that_hangs_can_be_stopped_and_made_again() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    send(&slot, 7, 1, b"abc").expect("new");
    assert!(send(&slot, 7, 2, b"raise").is_err());
    let before = switches.waiting.load(Ordering::SeqCst);
    let hold = switches.restore_gate.lock();
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| runtime.start_daemon(slot.origin()));
        switches.until_waiting(before + 1);

        assert_eq!(stop(&runtime, &slot, SHORT), Stopped::ByForce);

        drop(hold);
        assert!(matches!(starting.join().expect("no panic"), Err(StartError::Busy(_))));
    });
    assert_eq!(total(&start(&runtime, slot.origin())), 3);
}

#[test]
fn the_only_instance_is_not_started_while_its_code_may_still_run() {
    let (runtime, switches) = runtime();
    switches.only_one.store(true, Ordering::SeqCst);
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    send(&slot, 7, 1, b"abc").expect("new");
    assert!(send(&slot, 7, 2, b"raise").is_err());
    runtime.start_daemon(slot.origin()).expect("restored in its place");
    assert_eq!(total(&slot), 3);
    let before = switches.waiting.load(Ordering::SeqCst);
    let hold = switches.gate.lock();
    std::thread::scope(|scope| {
        scope.spawn(|| send(&slot, 7, 2, b"wait"));
        switches.until_waiting(before + 1);
        assert_eq!(stop(&runtime, &slot, SHORT), Stopped::ByForce);
        assert!(matches!(runtime.start_daemon(slot.origin()), Err(StartError::Lost(_))));
        drop(hold);
    });
}

#[test]
fn who_was_inside_at_a_forced_stop_calls_no_more_user_code() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    send(&slot, 7, 1, b"abc").expect("new");
    let mut entered = slot.try_enter().expect("free");
    assert_eq!(stop(&runtime, &slot, SHORT), Stopped::ByForce);
    assert!(runtime.start_daemon(slot.origin()).is_err(), "somebody holds it");

    assert!(controls::give(&mut entered, DaemonControl::Resume).is_none());

    assert!(switches.controls.lock().is_empty());
    assert_eq!(total(&start(&runtime, slot.origin())), 3, "it let go");
}

#[test]
fn a_stop_needs_no_free_lane() {
    let runtime = Runtime::new(Arc::new(keys::generate()), Lanes::new("test-lane", 1, |body| body()));
    let switches = Arc::<crate::common::Switches>::default();
    runtime.start().expect("fresh");
    let hog = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let slot = runtime.spawn(&key(2), config(), Sum::new(&switches)).expect("fresh");
    let (reply, _replies) = mpsc::channel();
    let hold = switches.gate.lock();
    post(&runtime, &hog, b"wait", &reply);
    switches.until_waiting(1);

    assert_eq!(stop(&runtime, &slot, PATIENCE), Stopped::InTime);

    assert!(matches!(switches.controls.lock()[..], [DaemonControl::Shutdown { .. }]));
    drop(hold);
}

#[test]
fn an_unsupervised_daemon_that_does_not_let_go_keeps_its_place_until_it_does() {
    for (on_error, survives) in [(OnError::Restore, true), (OnError::Raise, false)] {
        let (runtime, switches) = runtime();
        let options = DaemonHostConfig { on_error, ..config() };
        let slot = runtime.spawn(&key(1), options, Sum::new(&switches)).expect("fresh");
        send(&slot, 7, 1, b"abc").expect("new");
        let before = switches.waiting.load(Ordering::SeqCst);
        let hold = switches.gate.lock();
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| send(&slot, 7, 2, b"wait"));
            switches.until_waiting(before + 1);
            assert_eq!(stop(&runtime, &slot, SHORT), Stopped::ByForce);
            assert!(matches!(runtime.start_daemon(slot.origin()), Err(StartError::Busy(_))));
            drop(hold);
            assert!(matches!(caller.join().expect("no panic"), Err(DeliverError::Stale)));
        });
        if survives {
            assert_eq!(total(&start(&runtime, slot.origin())), 3);
        } else {
            assert!(matches!(runtime.start_daemon(slot.origin()), Err(StartError::Lost(_))));
        }
    }
}

#[test]
fn a_deadline_that_passed_stops_at_once() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    send(&slot, 7, 1, b"abc").expect("new");
    let stopped = runtime.stop_daemon(slot.origin(), UnixMs::new(0), &mut never);
    assert_eq!(stopped, Ok(Stopped::ByForce));
    assert!(switches.controls.lock().is_empty());
    assert_eq!(total(&start(&runtime, slot.origin())), 3);
}

#[test]
fn an_interrupted_stop_leaves_it_running() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let entered = slot.try_enter().expect("free");
    let stopped = runtime.stop_daemon(slot.origin(), in_a_while(PATIENCE), &mut || true);
    assert_eq!(stopped, Err(StopError::Interrupted));
    drop(entered);
    send(&slot, 7, 1, b"abc").expect("it runs");
}

#[test]
fn what_a_user_stops_is_not_started_again() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    send(&slot, 7, 1, b"abc").expect("new");
    runtime.stop(slot.try_enter().expect("free"), clock::unix_ms());
    assert!(matches!(
        runtime.start_daemon(slot.origin()),
        Err(StartError::Forgotten(_))
    ));
}

#[test]
fn a_spawn_by_the_user_takes_the_place_of_what_was_kept() {
    let (runtime, switches) = runtime();
    let slot = runtime
        .spawn(&key(1), config(), Sum::stateless(&switches))
        .expect("fresh");
    send(&slot, 7, 1, b"abc").expect("new");
    stop(&runtime, &slot, PATIENCE);
    let refused = runtime.spawn(&key(1), config(), Sum::new(&switches));
    assert!(matches!(refused.map(|_| ()), Err(SpawnError::Known(_))));

    let own = runtime
        .spawn(&key(1), config(), Sum::stateless(&switches))
        .expect("no state to lose");
    runtime
        .peek_dormant(|_| Err("something is kept"))
        .expect("nothing is kept");
    runtime.stop(own.try_enter().expect("free"), clock::unix_ms());

    assert!(matches!(
        runtime.start_daemon(slot.origin()),
        Err(StartError::Forgotten(_))
    ));
}

#[test]
fn a_start_that_fails_can_be_made_again() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    send(&slot, 7, 1, b"abc").expect("new");
    stop(&runtime, &slot, PATIENCE);
    switches.fail_restore.store(true, Ordering::SeqCst);
    assert!(matches!(
        runtime.start_daemon(slot.origin()),
        Err(StartError::Raised(_))
    ));
    assert_eq!(runtime.registry().count(), 0);
    switches.fail_restore.store(false, Ordering::SeqCst);
    assert_eq!(total(&start(&runtime, slot.origin())), 3);
}

#[test]
fn nothing_is_started_while_the_runtime_shuts_down() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let down = runtime.spawn(&key(2), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &down);
    assert!(send(&down, 7, 1, b"raise").is_err());
    stop(&runtime, &slot, PATIENCE);

    assert!(
        runtime.shutdown(PATIENCE, &mut never).stuck.is_empty(),
        "one that is down is not in the way"
    );

    assert!(matches!(
        runtime.start_daemon(slot.origin()),
        Err(StartError::Lifecycle(_))
    ));
    assert_eq!(stop(&runtime, &down, PATIENCE), Stopped::NotThere);
}

#[test]
fn the_longest_stopped_are_forgotten_first() {
    let (_runtime, switches) = runtime();
    let mut inside = Inside::new(
        meshos_core::host::Host::new(key(1).lock().entity_id(), config()),
        Arc::new(Sum::new(&switches)),
        None,
    );
    let shared = key(1);
    let mut rest = |origin: u64| Rest {
        origin: Origin::new(origin),
        ..Rest::of(Arc::clone(&shared), &mut inside)
    };
    let mut dormant = Dormant::<Sum>::default();
    assert!(dormant.put(rest(1)).is_empty());
    for origin in 2..=DORMANT_MAX as u64 {
        assert!(dormant.put(rest(origin)).is_empty());
    }
    assert_eq!(dormant.put(rest(1)).len(), 1, "its own older one");

    let ended = dormant.put(rest(0));

    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].origin, Origin::new(2), "the first was stopped again since");
    assert_eq!(dormant.dropped(), 1);
    assert_eq!(dormant.iter().count(), DORMANT_MAX);
    assert!(dormant.get(Origin::new(2)).is_none() && dormant.get(Origin::new(1)).is_some());
}

/// Senders that try again what was refused, while somebody stops and starts the daemon.
#[test]
fn every_event_takes_effect_once_whoever_stops_it() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    let origin = slot.origin();
    std::thread::scope(|scope| {
        let senders = [1, 2, 3].map(|from: u64| {
            let runtime = &runtime;
            scope.spawn(move || {
                for number in 1..=300 {
                    let mut poisoned = number % 50 == 0;
                    loop {
                        let Some(slot) = runtime.registry().get(origin) else {
                            std::thread::yield_now();
                            continue;
                        };
                        let payload: &[u8] = if poisoned { b"raise" } else { b"x" };
                        match send(&slot, from, number, payload) {
                            Ok(_) => break,
                            Err(DeliverError::Raised(_)) => poisoned = false,
                            Err(DeliverError::Stale) => {}
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                }
            })
        });
        let mut next = 0;
        while !senders.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let processed = runtime
                .registry()
                .get(origin)
                .map_or(0, |slot| slot.view().stats.events_processed);
            if processed > next {
                next = processed + 20;
                let stopped = runtime.stop_daemon(origin, in_a_while(PATIENCE), &mut never);
                assert_eq!(stopped, Ok(Stopped::InTime));
            }
            match runtime.start_daemon(origin) {
                Ok(_) | Err(StartError::Busy(_)) => std::thread::yield_now(),
                Err(other) => panic!("{other:?}"),
            }
        }
    });
    runtime.start_daemon(origin).expect("it runs");
    let slot = runtime.registry().get(origin).expect("it is there");
    assert_eq!(total(&slot), 900);
    assert_eq!(slot.view().stats.events_processed, 900);
    assert_eq!(slot.view().head.sequence, 900);
    assert_eq!(switches.most_inside.load(Ordering::SeqCst), 1);
}

#[test]
fn dead_letters_are_there_again_after_a_stop_and_a_start() {
    let (runtime, switches) = runtime();
    let config = DaemonHostConfig {
        attempts_max: 1,
        ..config()
    };
    let slot = runtime.spawn(&key(1), config, Sum::new(&switches)).expect("fresh");
    let letter = Letter::Draft(b"raise".to_vec(), 5);
    let posted = slot.post(runtime.lanes(), runtime.sender(), letter, Want::Receipt, None, None);
    posted.map_err(|(error, _)| error).expect("room");
    let letters = |slot: &Arc<Slot<Sum>>| {
        let numbers = |inside: &Inside<Sum>| {
            let letters = inside.letters.iter().flat_map(|letters| letters.iter());
            letters.map(|(number, _)| number).collect::<Vec<_>>()
        };
        slot.peek(numbers).unwrap_or_default()
    };
    until(|| letters(&slot) == [1]);
    for _ in 0..2 {
        stop(&runtime, &slot, PATIENCE);
        let again = start(&runtime, slot.origin());
        assert_eq!(letters(&again), [1]);
    }
}
