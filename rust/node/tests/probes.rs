//! What samplers and their registries promise.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use meshos_core::id::NodeId;
use meshos_core::peer::{NodeHealth, Samples};
use meshos_node::callback::{CallFailed, Callbacks};
use meshos_node::lane::Lanes;
use meshos_node::probes::{Probe, ProbeCounts, ProbeKind, ProbeRegistry, SampleSink, Sampled, Sampler};

const BUDGET: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(30);

/// A probe made of a closure.
struct Made<F> {
    name: &'static str,
    kind: ProbeKind,
    sample: F,
}

impl<F: Fn() -> Result<Samples, CallFailed> + Send + Sync + 'static> Probe for Made<F> {
    fn sample(&self) -> Result<Samples, CallFailed> {
        (self.sample)()
    }

    fn kind(&self) -> ProbeKind {
        self.kind
    }

    fn name(&self) -> &str {
        self.name
    }
}

fn probe(
    name: &'static str,
    kind: ProbeKind,
    sample: impl Fn() -> Result<Samples, CallFailed> + Send + Sync + 'static,
) -> Arc<dyn Probe> {
    Arc::new(Made { name, kind, sample })
}

fn health(node: u64) -> Samples {
    Samples::Health(vec![(NodeId::new(node), NodeHealth::Healthy)])
}

struct Bench {
    registry: ProbeRegistry,
    callbacks: Arc<Callbacks>,
    sampler: Sampler,
    lanes: Lanes,
    sink: SampleSink,
    heard: Receiver<Sampled>,
}

impl Bench {
    fn new() -> Self {
        let registry = ProbeRegistry::new();
        let callbacks = Arc::new(Callbacks::new());
        let (tell, heard) = mpsc::channel();
        Self {
            registry: registry.clone(),
            callbacks: Arc::clone(&callbacks),
            sampler: Sampler::new(registry, callbacks),
            lanes: Lanes::new("test-lane", 4, |body| body()),
            sink: Arc::new(move |sampled| {
                // A test that ended hears nothing any more.
                let _ = tell.send(sampled);
            }),
            heard,
        }
    }

    fn poll(&self) {
        self.sampler.poll(&self.lanes, BUDGET, &self.sink);
    }

    fn next(&self) -> Sampled {
        self.heard.recv_timeout(PATIENCE).expect("an answer in time")
    }

    /// Polls until something is heard: a lane may still put the last question away.
    fn poll_and_hear(&self) -> Sampled {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            self.poll();
            if let Ok(sampled) = self.heard.recv_timeout(Duration::from_millis(5)) {
                return sampled;
            }
        }
        panic!("no answer in time")
    }
}

#[test]
fn counts_are_of_one_moment_and_clearing_one_kind_leaves_the_others() {
    let registry = ProbeRegistry::new();
    let nothing = || Ok(Samples::Locality(vec![]));
    for kind in [
        ProbeKind::Locality,
        ProbeKind::Health,
        ProbeKind::Health,
        ProbeKind::Inventory,
    ] {
        registry.add(probe("p", kind, nothing));
    }
    let counts = |locality, health, inventory| ProbeCounts {
        locality,
        health,
        inventory,
    };
    assert_eq!(registry.counts(), counts(1, 2, 1));
    assert_eq!(registry.clear(ProbeKind::Health), 2);
    assert_eq!(registry.counts(), counts(1, 0, 1));
    let known = registry.changes();
    let number = registry.clone().add(probe("p", ProbeKind::Health, nothing));
    assert_eq!(registry.counts(), counts(1, 1, 1));
    assert!(registry.changes() > known);
    assert!(registry.remove(number));
    assert!(!registry.remove(number));
    assert_eq!(registry.counts(), counts(1, 0, 1));
}

#[test]
fn each_probe_answers_under_its_number() {
    let bench = Bench::new();
    let first = bench.registry.add(probe("Beats", ProbeKind::Health, || Ok(health(1))));
    let second = bench.registry.add(probe("Beats", ProbeKind::Health, || Ok(health(2))));
    bench.poll();
    let mut heard = [bench.next(), bench.next()];
    heard.sort_by_key(|sampled| match sampled {
        Sampled::Samples { probe, .. } => *probe,
        other => panic!("{other:?}"),
    });
    let samples = |probe, node| Sampled::Samples {
        probe,
        samples: health(node),
    };
    assert_eq!(heard, [samples(first, 1), samples(second, 2)]);
    let names: Vec<_> = bench.callbacks.statuses(Instant::now(), BUDGET).into_keys().collect();
    assert_eq!(names, ["Beats".into(), "Beats-2".into()]);
}

#[test]
fn a_probe_that_raises_is_told_and_stays_installed() {
    let bench = Bench::new();
    let raised = AtomicBool::new(false);
    let number = bench.registry.add(probe("Moody", ProbeKind::Health, move || {
        if raised.swap(true, Ordering::SeqCst) {
            Ok(health(1))
        } else {
            std::panic::resume_unwind(Box::new("on purpose"))
        }
    }));
    let failed = Sampled::Failed {
        probe: number,
        name: "Moody".into(),
        error: CallFailed::new("panicked: on purpose"),
    };
    assert_eq!(bench.poll_and_hear(), failed);
    assert_eq!(bench.registry.counts().health, 1);
    assert!(matches!(bench.poll_and_hear(), Sampled::Samples { .. }));
}

#[test]
fn samples_of_another_kind_are_a_failure() {
    let bench = Bench::new();
    bench.registry.add(probe("Odd", ProbeKind::Locality, || Ok(health(1))));
    bench.poll();
    assert!(matches!(bench.next(), Sampled::Failed { .. }));
}

#[test]
fn a_slow_probe_is_skipped_and_counted_late_and_holds_up_nobody() {
    let bench = Bench::new();
    let (inside, go_on) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let calls = Arc::new(AtomicU32::new(0));
    let (entered, waits, counts) = (Arc::clone(&inside), Arc::clone(&go_on), Arc::clone(&calls));
    let slow = bench.registry.add(probe("Slow", ProbeKind::Health, move || {
        counts.fetch_add(1, Ordering::SeqCst);
        entered.wait();
        waits.wait();
        Ok(health(1))
    }));
    bench.sampler.poll(&bench.lanes, Duration::ZERO, &bench.sink);
    inside.wait();
    let quick = bench.registry.add(probe("Quick", ProbeKind::Health, || Ok(health(2))));
    bench.sampler.poll(&bench.lanes, Duration::ZERO, &bench.sink);
    assert!(matches!(bench.next(), Sampled::Samples { probe, .. } if probe == quick));
    let late = bench.callbacks.statuses(Instant::now(), Duration::ZERO)["Slow"].late;
    assert_eq!((calls.load(Ordering::SeqCst), late), (1, 1));
    go_on.wait();
    assert!(matches!(bench.next(), Sampled::Samples { probe, .. } if probe == slow));
}

#[test]
fn after_a_removal_was_told_nothing_comes_of_the_probe() {
    let bench = Bench::new();
    let (inside, go_on) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (entered, waits) = (Arc::clone(&inside), Arc::clone(&go_on));
    let number = bench.registry.add(probe("Slow", ProbeKind::Health, move || {
        entered.wait();
        waits.wait();
        Ok(health(1))
    }));
    bench.poll();
    inside.wait();
    assert!(bench.registry.remove(number));
    bench.poll();
    assert_eq!(bench.next(), Sampled::Removed { probe: number });
    assert!(bench.callbacks.statuses(Instant::now(), BUDGET).is_empty());
    go_on.wait();
    assert!(bench.lanes.stop(PATIENCE));
    assert!(bench.heard.try_recv().is_err());
}

#[test]
fn a_probe_added_again_has_another_number() {
    let bench = Bench::new();
    let beats = probe("Beats", ProbeKind::Health, || Ok(health(1)));
    let first = bench.registry.add(Arc::clone(&beats));
    bench.registry.remove(first);
    assert_ne!(bench.registry.add(beats), first);
}

#[test]
fn a_probe_that_fails_too_often_is_left_alone() {
    let bench = Bench::new();
    bench
        .registry
        .add(probe("Bad", ProbeKind::Health, || Err(CallFailed::new("no"))));
    for _ in 0..5 {
        assert!(matches!(bench.poll_and_hear(), Sampled::Failed { .. }));
    }
    assert!(bench.callbacks.statuses(Instant::now(), BUDGET)["Bad"].disabled);
    bench.poll();
    assert!(bench.lanes.stop(PATIENCE));
    assert!(bench.heard.try_recv().is_err());
}

#[test]
fn lanes_that_were_stopped_leave_no_probe_busy() {
    let bench = Bench::new();
    let number = bench.registry.add(probe("Beats", ProbeKind::Health, || Ok(health(1))));
    assert!(bench.lanes.stop(PATIENCE));
    bench.poll();
    let others = Lanes::new("test-lane", 1, |body| body());
    bench.sampler.poll(&others, BUDGET, &bench.sink);
    assert!(matches!(bench.next(), Sampled::Samples { probe, .. } if probe == number));
}
