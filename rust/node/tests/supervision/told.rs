//! What is told of daemons, to watches and in rosters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use meshos_core::event::{DaemonLifecycleEvent, DaemonLifecycleSignal};
use meshos_core::id::Origin;
use meshos_core::signal::RosterEntry;
use meshos_node::events::Watch;
use meshos_node::restart::Started;
use meshos_node::runtime::Runtime;

use crate::common::{Sum, config, key, never, runtime};
use crate::{Log, PATIENCE, in_a_while, send};

/// Spawns, crashes, starts, stops and starts a daemon again.
fn lives(runtime: &Runtime<Sum>, switches: &Arc<crate::common::Switches>, seed: u8, rounds: u64) {
    let slot = runtime.spawn(&key(seed), config(), Sum::new(switches)).expect("fresh");
    let origin = slot.origin();
    runtime.registry().supervise(origin, true);
    for round in 1..=rounds {
        let slot = runtime.registry().get(origin).expect("it is there");
        assert!(send(&slot, 7, round, b"raise").is_err());
        if round % 3 > 0 {
            assert!(matches!(runtime.start_daemon(origin), Ok(Started::Revived)));
        }
        send_if_up(runtime, origin, round);
        if round % 3 != 1 {
            runtime
                .stop_daemon(origin, in_a_while(PATIENCE), &mut never)
                .expect("not interrupted");
            assert!(matches!(runtime.start_daemon(origin), Ok(Started::Spawned)));
        }
    }
}

fn send_if_up(runtime: &Runtime<Sum>, origin: Origin, round: u64) {
    let slot = runtime.registry().get(origin).expect("it is there");
    if !slot.is_down() {
        send(&slot, 7, round, b"x").expect("new");
    }
}

#[test]
fn a_watch_sees_everything_in_order_under_four_threads() {
    let (runtime, switches) = runtime();
    let log = Log::of(&runtime);
    std::thread::scope(|scope| {
        for seed in 1..=4 {
            let (runtime, switches) = (&runtime, &switches);
            scope.spawn(move || lives(runtime, switches, seed, 30));
        }
    });
    let seen = log.0.lock();
    let numbers: Vec<_> = seen.iter().map(|event| event.number).collect();
    assert_eq!(numbers, (1..=seen.len() as u64).collect::<Vec<_>>());
    let mut states = BTreeMap::<Origin, &str>::new();
    for event in seen.iter() {
        let before = states.get(&event.origin).copied().unwrap_or("gone");
        let now = crate::word(&event.signal);
        let allowed = match now {
            "registered" => before == "gone",
            "down" => before == "up",
            "started" => before == "down",
            "unregistered" => before != "gone",
            other => panic!("{other}"),
        };
        assert!(allowed, "{now} after {before}");
        let after = match now {
            "registered" | "started" => "up",
            "unregistered" => "gone",
            other => other,
        };
        states.insert(event.origin, after);
    }
}

#[test]
fn a_removed_watch_sees_nothing_more() {
    let (runtime, switches) = runtime();
    let log = Arc::new(Log::default());
    let id = runtime.registry().add_watch(Arc::clone(&log) as Arc<dyn Watch>);
    runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    assert!(runtime.registry().remove_watch(id));
    assert!(!runtime.registry().remove_watch(id));
    runtime.spawn(&key(2), config(), Sum::new(&switches)).expect("fresh");
    assert_eq!(log.signals(), ["registered"]);
}

#[test]
fn a_removed_daemon_is_not_heard_of_any_more() {
    let (runtime, switches) = runtime();
    let log = Log::of(&runtime);
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let hold = switches.gate.lock();
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| send(&slot, 7, 1, b"wait raise"));
        switches.until_waiting(1);
        runtime.registry().unregister(slot.origin());
        drop(hold);
        assert!(caller.join().expect("no panic").is_err());
    });
    assert_eq!(log.signals(), ["registered", "unregistered"]);
}

#[test]
fn that_it_runs_is_told_again_only_while_it_does() {
    let (runtime, switches) = runtime();
    let log = Log::of(&runtime);
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    runtime.registry().supervise(slot.origin(), true);
    slot.affirm();
    assert!(send(&slot, 7, 1, b"raise").is_err());
    slot.affirm();
    let entered = slot.inspect().expect("may be looked at");
    slot.affirm();
    drop(entered);
    assert!(slot.is_down());
    assert_eq!(log.signals(), ["registered", "started", "down"]);
}

/// Who is there and whether it is down, after the events up to a number.
fn replayed(events: &[DaemonLifecycleEvent], number: u64) -> BTreeMap<Origin, bool> {
    let mut daemons = BTreeMap::new();
    for event in events.iter().take_while(|event| event.number <= number) {
        match event.signal {
            DaemonLifecycleSignal::Registered | DaemonLifecycleSignal::Started => {
                daemons.insert(event.origin, false);
            }
            DaemonLifecycleSignal::Unregistered => {
                daemons.remove(&event.origin);
            }
            DaemonLifecycleSignal::Crashed { down, .. } => {
                let known = daemons.get_mut(&event.origin).expect("it is there");
                *known |= down;
            }
            DaemonLifecycleSignal::PassedOver { .. }
            | DaemonLifecycleSignal::HealthChanged { .. }
            | DaemonLifecycleSignal::SaturationChanged { .. } => {}
        }
    }
    daemons
}

#[test]
fn a_roster_is_what_the_events_up_to_its_number_tell() {
    let (runtime, switches) = runtime();
    let log = Log::of(&runtime);
    let done = AtomicBool::new(false);
    let rosters = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rosters: Vec<(Vec<RosterEntry>, u64)> = Vec::new();
            while !done.load(Ordering::SeqCst) {
                let roster = runtime.registry().roster();
                if rosters.last().is_none_or(|last| last.1 != roster.1) {
                    rosters.push(roster);
                }
                std::thread::yield_now();
            }
            rosters
        });
        let writers = [1, 2, 3].map(|seed| {
            let (runtime, switches) = (&runtime, &switches);
            scope.spawn(move || lives(runtime, switches, seed, 40))
        });
        for writer in writers {
            writer.join().expect("no panic");
        }
        done.store(true, Ordering::SeqCst);
        reader.join().expect("no panic")
    });
    let events = log.0.lock();
    assert!(rosters.len() > 1);
    for (daemons, number) in rosters {
        let told: Vec<_> = daemons.iter().map(|entry| (entry.daemon.id, entry.down)).collect();
        assert_eq!(
            told,
            replayed(&events, number).into_iter().collect::<Vec<_>>(),
            "at {number}"
        );
    }
}
