//! Controls that wait for a daemon.

use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use meshos_core::control::DaemonControl;
use meshos_core::gate::Gate;
use meshos_core::time::UnixMs;
use meshos_node::clock::unix_ms;
use meshos_node::restart::Stopped;

use crate::common::{Sum, config, key, runtime, until};
use crate::{Log, answers, post, send, supervised, total};

const SHUTDOWN: DaemonControl = DaemonControl::Shutdown {
    deadline: UnixMs::new(9),
};

fn pressure(level: f64) -> DaemonControl {
    DaemonControl::BackpressureOn { level }
}

#[test]
fn the_newest_of_each_sort_is_given_when_the_daemon_is_free_and_no_shutdown_is_lost() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let entered = slot.try_enter().expect("free");
    assert!(slot.control_soon(runtime.lanes(), pressure(0.1)));
    assert!(slot.control_soon(
        runtime.lanes(),
        DaemonControl::DrainStart {
            deadline: UnixMs::new(1)
        }
    ));
    assert!(slot.control_soon(runtime.lanes(), SHUTDOWN));
    for step in 0..1000 {
        assert!(slot.control_soon(runtime.lanes(), pressure(f64::from(step) / 1000.0)));
    }
    assert!(slot.control_soon(runtime.lanes(), DaemonControl::Resume));
    assert!(switches.controls.lock().is_empty(), "somebody is inside");

    drop(entered);

    until(|| switches.controls.lock().len() == 3);
    assert_eq!(
        *switches.controls.lock(),
        [SHUTDOWN, DaemonControl::Resume, pressure(0.999)]
    );
}

#[test]
fn what_was_told_before_a_stop_is_heard_before_it() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let entered = slot.try_enter().expect("free");
    let start = DaemonControl::DrainStart {
        deadline: UnixMs::new(1),
    };
    assert!(slot.control_soon(runtime.lanes(), start));
    let deadline = unix_ms().plus(Duration::from_secs(10));

    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| runtime.stop_daemon(slot.origin(), deadline, &mut || false));
        drop(entered);
        assert_eq!(stopping.join().expect("it ends"), Ok(Stopped::InTime));
    });

    let told = DaemonControl::Shutdown { deadline };
    assert_eq!(*switches.controls.lock(), [start, told]);
}

#[test]
fn a_broadcast_reaches_all_and_waits_for_who_is_down() {
    let (runtime, switches) = runtime();
    let slots: Vec<_> = (1..=3)
        .map(|seed| runtime.spawn(&key(seed), config(), Sum::new(&switches)).expect("fresh"))
        .collect();
    supervised(&runtime, &slots[0]);
    assert!(send(&slots[0], 7, 1, b"raise").is_err());
    assert_eq!(slots[0].gate(), Gate::Down);

    assert_eq!(runtime.registry().broadcast(runtime.lanes(), pressure(0.5)), 3);

    until(|| switches.controls.lock().len() == 2);
    runtime.start_daemon(slots[0].origin()).expect("it can");
    until(|| switches.controls.lock().len() == 3);
}

#[test]
fn a_control_that_raises_is_counted_and_told() {
    let (runtime, switches) = runtime();
    let log = Log::of(&runtime);
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    supervised(&runtime, &slot);
    switches.fail_control.store(true, Ordering::SeqCst);
    assert!(slot.control_soon(runtime.lanes(), pressure(0.5)));
    until(|| log.signals() == ["registered", "crashed"]);
    assert_eq!(total(&slot), 0, "it takes events");
    assert_eq!(slot.view().stats.errors, 1);
}

#[test]
fn a_stopped_daemon_gets_none() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    runtime.registry().unregister(slot.origin());
    assert!(!slot.control_soon(runtime.lanes(), pressure(0.5)));
    assert_eq!(runtime.registry().broadcast(runtime.lanes(), pressure(0.5)), 0);
}

#[test]
fn a_daemon_that_is_never_idle_hears_them_all_the_same() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let heard = || !switches.controls.lock().is_empty();
    std::thread::scope(|scope| {
        for origin in 1..=3 {
            let (slot, heard) = (&slot, &heard);
            scope.spawn(move || {
                let mut number = 0;
                while !heard() {
                    number += 1;
                    send(slot, origin, number, b"x").expect("new");
                }
            });
        }
        until(|| slot.view().stats.events_processed > 100);
        assert!(slot.control_soon(runtime.lanes(), SHUTDOWN));
        until(heard);
    });
}

#[test]
fn callers_that_take_turns_for_ever_do_not_keep_them_out() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let heard = || !switches.controls.lock().is_empty();
    std::thread::scope(|scope| {
        for origin in 1..=3 {
            let (slot, heard) = (&slot, &heard);
            scope.spawn(move || {
                let mut number = 0;
                while !heard() {
                    number += 1;
                    send(slot, origin, number, b"slow").expect("new");
                }
            });
        }
        until(|| slot.view().stats.events_processed > 3);
        assert!(slot.control_soon(runtime.lanes(), SHUTDOWN));
        until(heard);
    });
    assert!(slot.view().stats.events_processed < 100, "soon");
}

#[test]
fn controls_stand_between_two_events_of_the_mailbox() {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let (reply, replies) = mpsc::channel();
    let hold = switches.gate.lock();
    post(&runtime, &slot, b"wait", &reply);
    switches.until_waiting(1);
    assert!(slot.control_soon(runtime.lanes(), SHUTDOWN));
    assert!(switches.controls.lock().is_empty(), "not within an event");
    drop(hold);
    assert!(answers(&replies, 1)[0].is_ok());
    until(|| *switches.controls.lock() == [SHUTDOWN]);
    assert_eq!(switches.most_inside.load(Ordering::SeqCst), 1);
}
