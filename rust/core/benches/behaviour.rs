//! What the decisions of the loop cost, without the thread around them.
//!
//! Every figure is a line `loop: NAME VALUE UNIT BAR ok|short`: the median of [`RUNS`] runs, with the runs above it.
//! `cargo bench -p meshos-core --bench behaviour`. What a step costs by the number of changes is measured by
//! `loop_cost`.
#![allow(clippy::print_stdout, reason = "a report")]
#![allow(
    clippy::disallowed_methods,
    reason = "what decides has no clock, and who measures it does"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshos_core::action::{CauseKind, MeshOsAction, Priority};
use meshos_core::behaviour::{Behaviour, SWEEP_INTERVAL, Step};
use meshos_core::command::ChainId;
use meshos_core::executor::{Executor, Wanted};
use meshos_core::finite::Share;
use meshos_core::fold::{self, Told};
use meshos_core::id::{NodeId, Origin};
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::signal::{DaemonIntent, DaemonRef, DaemonSignal, MeshOsEvent, Outcome, ReplicaChange, Signal};
use meshos_core::time::UnixMs;
use meshos_core::world::{Key, Why, World};

const HERE: NodeId = NodeId::new(1);
const START: UnixMs = UnixMs::new(1_700_000_000_000);
/// Runs of one figure; odd, so that one of them is the median.
const RUNS: usize = 9;

fn daemon(id: u64) -> DaemonRef {
    DaemonRef {
        id: Origin::new(id),
        name: Arc::from("daemon"),
    }
}

fn replica(chain: u64, holder: u64, change: ReplicaChange) -> Signal {
    Signal::Event(MeshOsEvent::ReplicaUpdate {
        chain: ChainId::new(chain),
        holder: NodeId::new(holder),
        change,
    })
}

/// A chain that this node leads, with as many copies as are wanted.
fn settled_chain(chain: u64) -> [Signal; 4] {
    let id = ChainId::new(chain);
    [
        replica(chain, 2, ReplicaChange::Added),
        replica(chain, 3, ReplicaChange::Added),
        Signal::Event(MeshOsEvent::ReplicaLeaderUpdate {
            chain: id,
            leader: Some(HERE),
            term: 1,
        }),
        Signal::Event(MeshOsEvent::PlacementIntent {
            chain: id,
            desired_replicas: 2,
        }),
    ]
}

/// A daemon that runs, as it shall.
fn settled_daemon(id: u64) -> [Signal; 2] {
    let started = MeshOsEvent::DaemonLifecycle {
        daemon: daemon(id),
        signal: DaemonSignal::Started,
        at: None,
    };
    let wanted = MeshOsEvent::DaemonIntentUpdate {
        daemon: daemon(id),
        intent: DaemonIntent::Run,
        node: None,
    };
    [Signal::Event(started), Signal::Event(wanted)]
}

fn handle(number: u64) -> u64 {
    // Handles are digests: neighbours in time are no neighbours in the tables.
    meshos_core::mix::spread(number)
}

/// A loop that has nothing to do.
fn settled(chains: u64, daemons: u64) -> Behaviour {
    let mut behaviour = Behaviour::new(HERE, MeshOsConfig::default(), 1, START);
    for number in 0..chains {
        behaviour.step(START, settled_chain(handle(number)));
    }
    for number in 0..daemons {
        behaviour.step(START, settled_daemon(handle(number)));
    }
    while behaviour.step(START, []).more {}
    behaviour
}

/// One start that takes its time, so that something is under way.
fn busy(mut behaviour: Behaviour) -> Behaviour {
    let wanted = MeshOsEvent::DaemonIntentUpdate {
        daemon: daemon(1),
        intent: DaemonIntent::Run,
        node: None,
    };
    assert_eq!(behaviour.step(START, [Signal::Event(wanted)]).dispatches.len(), 1);
    behaviour
}

fn idle_step(behaviour: &mut Behaviour) -> f64 {
    const STEPS: u32 = 10_000;
    let began = Instant::now();
    for _ in 0..STEPS {
        let step = black_box(behaviour.step(START, []));
        assert!(!step.more);
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(STEPS)
}

/// So many of all chains lose a copy; fold, step and snapshot until all is decided. Microseconds.
fn changed_step(behaviour: &mut Behaviour, chains: u64, changed: u64, round: u64) -> f64 {
    let touched: Vec<u64> = (0..changed)
        .map(|turn| handle((round * 7919 + turn * (chains / changed)) % chains))
        .collect();
    let signals = |change| -> Vec<Signal> { touched.iter().map(|chain| replica(*chain, 3, change)).collect() };
    // A reader holds the snapshot before, as it does in a running loop.
    let before = behaviour.view().clone();
    let lost = signals(ReplicaChange::Lost);
    let began = Instant::now();
    let mut steps = vec![behaviour.step(START, lost)];
    while steps.last().is_some_and(|step| step.more) {
        steps.push(behaviour.step(START, []));
    }
    let after = black_box(behaviour.view().clone());
    let took = began.elapsed();
    assert!(after.generation > before.generation);
    put_back(behaviour, &steps, signals(ReplicaChange::Repaired));
    took.as_secs_f64() * 1e6
}

fn put_back(behaviour: &mut Behaviour, steps: &[Step], repaired: Vec<Signal>) {
    let dispatches = steps.iter().flat_map(|step| &step.dispatches);
    let ended = dispatches.map(|dispatch| Signal::Dispatched {
        id: dispatch.id,
        outcome: Outcome::Done,
    });
    let mut signals = repaired;
    signals.extend(ended);
    let mut step = behaviour.step(START, signals);
    while step.more || !step.dispatches.is_empty() {
        let ended: Vec<Signal> = step
            .dispatches
            .iter()
            .map(|dispatch| Signal::Dispatched {
                id: dispatch.id,
                outcome: Outcome::Done,
            })
            .collect();
        step = behaviour.step(START, ended);
    }
    assert_eq!(behaviour.depth(), 0);
}

/// A pass over everything: milliseconds of all slices, and microseconds of the longest.
fn full_sweep(behaviour: &Behaviour) -> (f64, f64) {
    let mut behaviour = behaviour.clone();
    let then = START.plus(SWEEP_INTERVAL);
    let (mut all, mut longest) = (Duration::ZERO, Duration::ZERO);
    loop {
        let began = Instant::now();
        let step = black_box(behaviour.step(then, []));
        let took = began.elapsed();
        assert_eq!(step.sweep_repairs, 0);
        all += took;
        longest = longest.max(took);
        if !step.more {
            return (all.as_secs_f64() * 1e3, longest.as_secs_f64() * 1e6);
        }
    }
}

/// What comes in where much happens: half of it samples, the rest of all sorts.
fn mixture(number: u64) -> MeshOsEvent {
    let chain = ChainId::new(handle(number % 10_000));
    let peer = NodeId::new(2 + number % 1000);
    match number % 8 {
        0..=3 => MeshOsEvent::RttSample {
            peer,
            rtt: Duration::from_micros(100 + number % 7919),
        },
        4 => MeshOsEvent::ReplicaUpdate {
            chain,
            holder: peer,
            change: [ReplicaChange::Added, ReplicaChange::Removed][(number / 80_000) as usize % 2],
        },
        5 => MeshOsEvent::DaemonLifecycle {
            daemon: daemon(handle(number % 1000)),
            signal: DaemonSignal::SaturationChanged(Share::new((number % 100) as f64 / 100.0).unwrap_or_default()),
            at: None,
        },
        6 => MeshOsEvent::PlacementIntent {
            chain,
            desired_replicas: (number % 5) as u32,
        },
        _ => MeshOsEvent::NodeHealthUpdate {
            peer,
            health: meshos_core::peer::NodeHealth::Healthy,
        },
    }
}

/// Events folded a second.
fn fold_rate() -> f64 {
    const EVENTS: u64 = 1_000_000;
    let mut world = World::new(HERE, MeshOsConfig::default(), 1, START);
    let mut told = Told::default();
    let warm: Vec<MeshOsEvent> = (0..100_000).map(mixture).collect();
    warm.into_iter()
        .for_each(|event| fold::event_in(&mut world, &mut told, event));
    let events: Vec<MeshOsEvent> = (0..EVENTS).map(mixture).collect();
    let mut took = Duration::ZERO;
    // A loop looks at what is marked after so many at most.
    for batch in events.chunks(1024) {
        let batch = batch.to_vec();
        let began = Instant::now();
        for event in batch {
            fold::event_in(&mut world, &mut told, event);
        }
        took += began.elapsed();
        world.dirty.clear();
    }
    EVENTS as f64 / took.as_secs_f64()
}

const WHY: Why = Why::of(CauseKind::Event, "bench");

fn placement(chain: u64) -> (MeshOsAction, Key) {
    let chain = ChainId::new(chain);
    let action = MeshOsAction::RequestPlacement {
        chain,
        exclude: vec![NodeId::new(2), NodeId::new(3)],
        target: None,
    };
    (action, Key::Chain(chain))
}

/// Actions a second that are emitted, admitted, dispatched and carried out.
fn admissions() -> f64 {
    const ROUNDS: u64 = 50;
    const ACTIONS: u64 = 1000;
    let mut world = World::new(HERE, MeshOsConfig::default(), 1, START);
    let mut executor = Executor::default();
    let actions: Vec<_> = (0..ACTIONS).map(|number| placement(handle(number))).collect();
    let (mut admitted, mut took) = (0, Duration::ZERO);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for (action, key) in &actions {
            executor.emit(&mut world, action.clone(), &WHY, Priority::Replica, *key);
        }
        loop {
            let dispatches = executor.run(&mut world, |_, _, action| Wanted::Yes(action.clone()));
            if dispatches.is_empty() {
                break;
            }
            admitted += dispatches.len();
            for dispatch in dispatches {
                executor.ended(&mut world, dispatch.id, Outcome::Done);
            }
        }
        took += began.elapsed();
        for (action, _) in &actions {
            executor.settle(&mut world, action.key());
        }
        executor.disposed.clear();
        world.dirty.clear();
    }
    assert_eq!(admitted as u64, ROUNDS * ACTIONS);
    admitted as f64 / took.as_secs_f64()
}

/// Milliseconds for a million emissions of the same action, which are one entry.
fn coalesce() -> f64 {
    let mut world = World::new(HERE, MeshOsConfig::default(), 1, START);
    let mut executor = Executor::default();
    let (action, key) = placement(5);
    let began = Instant::now();
    for _ in 0..1_000_000 {
        executor.emit(&mut world, black_box(action.clone()), &WHY, Priority::Replica, key);
    }
    let took = began.elapsed();
    assert_eq!((executor.depth(), world.view.in_flight.len()), (1, 1));
    took.as_secs_f64() * 1e3
}

#[derive(Clone, Copy)]
enum Bar {
    AtLeast(f64),
    AtMost(f64),
    Open,
}

fn median(mut runs: Vec<f64>) -> (f64, Vec<f64>) {
    runs.sort_unstable_by(f64::total_cmp);
    (runs[runs.len() / 2], runs)
}

fn report(name: &str, unit: &str, bar: Bar, runs: Vec<f64>) {
    let (value, runs) = median(runs);
    let digits = if runs[0] < 100.0 { 3 } else { 0 };
    let (shown, met) = match bar {
        Bar::AtLeast(bar) => (format!("{bar}"), value >= bar),
        Bar::AtMost(bar) => (format!("{bar}"), value <= bar),
        Bar::Open => ("-".to_owned(), true),
    };
    let spread: Vec<String> = runs.iter().map(|run| format!("{run:.digits$}")).collect();
    println!("{name}: {} {unit}", spread.join(" "));
    println!(
        "loop: {name} {value:.digits$} {unit} {shown} {}",
        if met { "ok" } else { "short" }
    );
}

fn runs(mut run: impl FnMut(u64) -> f64) -> Vec<f64> {
    (0..RUNS as u64).map(&mut run).collect()
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    let measured = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    if measured("idle_step") {
        let mut behaviour = busy(settled(10_000, 1000));
        report(
            "idle_step",
            "us",
            Bar::AtMost(20.0),
            runs(|_| idle_step(&mut behaviour)),
        );
    }
    if measured("dirty_100_of_1m") {
        let mut behaviour = settled(1_000_000, 1000);
        let run = |round| changed_step(&mut behaviour, 1_000_000, 100, round) / 1e3;
        report("dirty_100_of_1m", "ms", Bar::AtMost(1.0), runs(run));
    }
    if measured("full_sweep_100k") {
        let behaviour = busy(settled(100_000, 1000));
        let passes: Vec<(f64, f64)> = (0..RUNS).map(|_| full_sweep(&behaviour)).collect();
        let (all, longest) = passes.into_iter().unzip();
        report("full_sweep_100k", "ms", Bar::AtMost(20.0), all);
        report("full_sweep_100k_longest_slice", "us", Bar::AtMost(1000.0), longest);
    }
    if measured("fold_rate") {
        report(
            "fold_rate",
            "events/s",
            Bar::AtLeast(2_000_000.0),
            runs(|_| fold_rate()),
        );
    }
    if measured("admissions") {
        report(
            "admissions",
            "actions/s",
            Bar::AtLeast(200_000.0),
            runs(|_| admissions()),
        );
    }
    if measured("coalesce") {
        report("coalesce_1m", "ms", Bar::Open, runs(|_| coalesce()));
    }
}
