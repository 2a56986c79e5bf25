//! What observers of a registry see.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use common::{Event, Sum, config, key, never, runtime};
use meshos_core::event::{Crash, DaemonHealth, DaemonLifecycleEvent, DaemonLifecycleSignal};
use meshos_core::host::Host;
use meshos_core::id::Origin;
use meshos_core::time::UnixMs;
use meshos_node::clock::Deadline;
use meshos_node::deliver::{self, Want};
use meshos_node::events::Observer;
use meshos_node::inside::Inside;
use meshos_node::slot::Slot;

struct Tell(mpsc::Sender<DaemonLifecycleEvent>);

impl Observer for Tell {
    fn observe(&self, event: &DaemonLifecycleEvent) -> bool {
        self.0.send(event.clone()).is_ok()
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn every_observer_sees_every_event_in_order() {
    let (runtime, switches) = runtime();
    let (first, told_first) = mpsc::channel();
    let (second, told_second) = mpsc::channel();
    runtime.registry().add_observer(Box::new(Tell(first)));
    for seed in 1..=20 {
        let slot = runtime.spawn(&key(seed), config(), Sum::new(&switches)).expect("fresh");
        if seed == 10 {
            runtime.registry().add_observer(Box::new(Tell(second.clone())));
        }
        if seed % 2 == 0 {
            runtime.stop(slot.try_enter().expect("free"), UnixMs::new(0));
        }
    }
    let numbers: Vec<u64> = (0..30)
        .map(|_| told_first.recv_timeout(PATIENCE).expect("an event").number)
        .collect();
    assert_eq!(numbers, (1..=30).collect::<Vec<_>>());
    let mut last = 0;
    for _ in 0..22 {
        let event = told_second.recv_timeout(PATIENCE).expect("an event");
        assert!(event.number > last, "past first, then what happens, in order");
        last = event.number;
    }
    assert_eq!(last, 30);
}

#[test]
fn a_crash_a_health_and_a_replacement_are_told() {
    let (runtime, switches) = runtime();
    let (observer, told) = mpsc::channel();
    runtime.registry().add_observer(Box::new(Tell(observer)));
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let mut entered = slot.enter(Deadline::never(), &mut never).expect("open");
    assert!(deliver::deliver(&mut entered, &Event::outside(7, 1, b"raise"), Want::Outputs).is_err());
    drop(entered);
    switches.unhealthy.store(true, Ordering::SeqCst);
    runtime.registry().poll();
    runtime.registry().poll();
    let daemon = Arc::new(Sum::new(&switches));
    let host = Host::new(key(1).lock().entity_id(), config());
    let replaced = runtime
        .registry()
        .replace(Slot::new(key(1), None, Inside::new(host, daemon, None)));
    assert!(replaced.is_some_and(|old| Arc::ptr_eq(&old, &slot)));
    let signals: Vec<_> = (0..5)
        .map(|_| told.recv_timeout(PATIENCE).expect("an event").signal)
        .collect();
    assert_eq!(
        signals,
        [
            DaemonLifecycleSignal::Registered,
            DaemonLifecycleSignal::Crashed {
                crash: Crash {
                    reason: Arc::from("on purpose"),
                    exception: Arc::from("Error"),
                    message: Arc::from("on purpose"),
                    event: Some((Origin::new(7), 1)),
                },
                down: false,
            },
            DaemonLifecycleSignal::HealthChanged {
                health: DaemonHealth::Unhealthy {
                    reason: "health raised".to_owned()
                }
            },
            DaemonLifecycleSignal::Unregistered,
            DaemonLifecycleSignal::Registered,
        ]
    );
}

#[test]
fn races_of_register_replace_and_unregister_tell_a_well_formed_story() {
    let (runtime, switches) = runtime();
    let (observer, told) = mpsc::channel();
    runtime.registry().add_observer(Box::new(Tell(observer)));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..50u8 {
                    let host = Host::new(key(1).lock().entity_id(), config());
                    let slot = Slot::new(key(1), None, Inside::new(host, Arc::new(Sum::new(&switches)), None));
                    let origin = slot.origin();
                    match round % 3 {
                        0 => drop(runtime.registry().register(slot)),
                        1 => drop(runtime.registry().replace(slot)),
                        _ => drop(runtime.registry().unregister(origin)),
                    }
                }
            });
        }
    });
    runtime.registry().unregister(key(1).lock().origin());
    let mut here = false;
    let mut numbers = 0;
    while let Ok(event) = told.recv_timeout(Duration::from_millis(300)) {
        numbers += 1;
        assert_eq!(event.number, numbers);
        match event.signal {
            DaemonLifecycleSignal::Registered => assert!(!std::mem::replace(&mut here, true)),
            DaemonLifecycleSignal::Unregistered => assert!(std::mem::replace(&mut here, false)),
            other => panic!("{other:?}"),
        }
    }
    assert!(!here && numbers > 0);
}
