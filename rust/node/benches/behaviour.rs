//! What a running loop costs those who feed it, read it, and wait for its actions.
//!
//! Every figure is a line `loop: NAME VALUE UNIT BAR ok|short`: the median of [`RUNS`] runs, with the runs above it.
//! A figure without a bar has a dash there. `cargo bench -p meshos-node --bench behaviour`.
#![allow(clippy::print_stdout, reason = "a report")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meshos_core::action::{Cause, MeshOsAction};
use meshos_core::command::ChainId;
use meshos_core::control::DaemonControl;
use meshos_core::finite::Share;
use meshos_core::id::{NodeId, Origin};
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::peer::Samples;
use meshos_core::signal::{
    DaemonIntent, DaemonRef, DaemonSignal, MeshOsEvent, Outcome, ReplicaChange, RosterEntry, Signal,
};
use meshos_core::status::AuthorityStatus;
use meshos_core::time::UnixMs;
use meshos_node::behaviour::{Keeper, MeshOs, Parts};
use meshos_node::callback::{CallFailed, Callbacks};
use meshos_node::clock::{Deadline, LoopClock};
use meshos_node::dispatch::ActionDispatcher;
use meshos_node::lane::Lanes;
use meshos_node::probes::{Probe, ProbeKind, ProbeRegistry};
use meshos_node::records::Records;
use meshos_node::recovery::RecoveryRegistry;
use meshos_node::scorer::SchedulerRegistry;

const HERE: NodeId = NodeId::new(1);
/// Runs of one figure.
const RUNS: usize = 5;
/// Events of one run of the intake.
const EVENTS: u64 = 4_000_000;
/// Lifecycle events of one run.
const EXITS: u64 = 2_500;
/// Reads of one run.
const READS: u32 = 2_000_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn never() -> bool {
    false
}

fn plain(body: &mut (dyn FnMut() + Send)) {
    body();
}

type Dispatched = Box<dyn Fn(&MeshOsAction) + Send + Sync>;

struct Dispatcher(Dispatched);

impl ActionDispatcher for Dispatcher {
    fn dispatch(&self, _id: u64, action: &MeshOsAction, _cause: &Cause) -> Outcome {
        (self.0)(action);
        Outcome::Done
    }

    fn name(&self) -> &'static str {
        "Bench"
    }
}

type Tell = Box<dyn Fn(Signal) + Send + Sync>;

/// A registry without daemons: the bench says what happens to them.
#[derive(Default)]
struct Voice(Mutex<Option<Tell>>);

impl Keeper for Voice {
    fn watch(&self, tell: Tell) -> u64 {
        *self.0.lock().expect("no panic") = Some(tell);
        1
    }

    fn unwatch(&self, _watch: u64) {}

    fn roster(&self) -> (Vec<RosterEntry>, u64) {
        (Vec::new(), 0)
    }

    fn broadcast(&self, _control: DaemonControl) {}

    fn control(&self, _daemon: Origin, _control: DaemonControl) -> bool {
        false
    }

    fn remove(&self, _daemon: Origin) -> bool {
        false
    }

    fn poll(&self) {}
}

struct Rig {
    os: MeshOs,
    voice: Arc<Voice>,
}

fn rig(config: MeshOsConfig, probes: ProbeRegistry, dispatched: Dispatched) -> Rig {
    let voice = Arc::new(Voice::default());
    let clock = LoopClock::start();
    let parts = Parts {
        dispatcher: Arc::new(Dispatcher(dispatched)),
        keeper: Arc::clone(&voice) as Arc<dyn Keeper>,
        probes,
        scheduler: SchedulerRegistry::new(),
        recovery: RecoveryRegistry::new(),
        sink: None,
        aborter: None,
        migrations: None,
        authority: None,
        control: meshos_core::control_state::ControlState::default(),
        callbacks: Arc::new(Callbacks::new()),
        records: Arc::new(Records::new(HERE, clock)),
        clock,
        lanes: Lanes::new("bench-callback", 8, plain),
        wakes: Lanes::new("bench-wake", 1, plain),
    };
    let os = MeshOs::start(HERE, config, 42, AuthorityStatus::Open, parts).expect("a thread");
    Rig { os, voice }
}

impl Rig {
    fn publish(&self, event: MeshOsEvent) -> meshos_node::intake::Ticket {
        let deadline = Deadline::after(PATIENCE);
        let intake = &self.os.shared().intake;
        intake
            .publish(Signal::Event(event), deadline, &mut never)
            .expect("space in time")
    }

    fn end(self) {
        self.os.shutdown(PATIENCE, &mut never).expect("nobody interrupts");
    }
}

fn roomy() -> MeshOsConfig {
    MeshOsConfig {
        event_queue_capacity: 65_536,
        ..MeshOsConfig::default()
    }
}

// ---------------------------------------------------------------- what is published

fn daemon(number: u64) -> DaemonRef {
    DaemonRef {
        id: Origin::new(number),
        name: Arc::from("bench"),
    }
}

fn round_trip(number: u64) -> MeshOsEvent {
    MeshOsEvent::RttSample {
        peer: NodeId::new(2 + number % 64),
        rtt: Duration::from_micros(1000 + number % 7),
    }
}

fn replica(number: u64) -> MeshOsEvent {
    MeshOsEvent::ReplicaUpdate {
        chain: ChainId::new(1 + number % 256),
        holder: NodeId::new(2 + number / 256 % 8),
        change: ReplicaChange::Added,
    }
}

/// Half round trips, a quarter copies of chains, a quarter loads of daemons.
fn mixture(number: u64, daemons: &[DaemonRef]) -> MeshOsEvent {
    match number % 4 {
        0 | 1 => round_trip(number / 2),
        2 => replica(number / 4),
        _ => MeshOsEvent::DaemonLifecycle {
            daemon: daemons[(number / 4) as usize % daemons.len()].clone(),
            signal: DaemonSignal::SaturationChanged(Share::new((number % 100) as f64 / 100.0).expect("a share")),
            at: None,
        },
    }
}

// ---------------------------------------------------------------- figures

/// Events a second from one producer, one at a time, until the last is folded.
fn intake(event: &dyn Fn(u64) -> MeshOsEvent) -> f64 {
    let rig = rig(roomy(), ProbeRegistry::new(), Box::new(|_| {}));
    let began = Instant::now();
    let mut ticket = None;
    for number in 0..EVENTS {
        ticket = Some(rig.publish(event(number)));
    }
    let folded = ticket.map(|ticket| {
        let intake = &rig.os.shared().intake;
        intake.wait_folded(ticket, Deadline::after(PATIENCE), &mut never)
    });
    assert_eq!(folded, Some(Ok(())));
    let took = began.elapsed();
    rig.end();
    EVENTS as f64 / took.as_secs_f64()
}

/// Nanoseconds of one read while the loop publishes.
fn read() -> f64 {
    let rig = Arc::new(rig(roomy(), ProbeRegistry::new(), Box::new(|_| {})));
    let stop = Arc::new(AtomicBool::new(false));
    let feeding = {
        let (rig, stop) = (Arc::clone(&rig), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let ticket = rig.publish(round_trip(number));
                let intake = &rig.os.shared().intake;
                let folded = intake.wait_folded(ticket, Deadline::after(PATIENCE), &mut never);
                assert_eq!(folded, Ok(()));
            }
        })
    };
    let published = &rig.os.shared().published;
    let first = published.load().generation;
    let began = Instant::now();
    for _ in 0..READS {
        std::hint::black_box(published.load().generation);
    }
    let took = began.elapsed();
    let publications = published.load().generation - first;
    stop.store(true, Ordering::Relaxed);
    feeding.join().expect("no panic");
    assert!(publications > 100, "the loop published {publications} times meanwhile");
    took.as_nanos() as f64 / f64::from(READS)
}

/// The 99th percentile in milliseconds from the exit of a daemon that shall run to its start being dispatched; `flooded`:
/// while another thread publishes as fast as it can.
fn reaction(flooded: bool) -> f64 {
    let (said, heard): (Sender<(u64, Instant)>, Receiver<_>) = channel();
    let said = Mutex::new(said);
    let rig = rig(
        roomy(),
        ProbeRegistry::new(),
        Box::new(move |action| {
            if let MeshOsAction::StartDaemon { daemon } = action {
                let now = Instant::now();
                let _ = said.lock().expect("no panic").send((daemon.id.get(), now));
            }
        }),
    );
    let daemons: Vec<DaemonRef> = (1..=64).map(daemon).collect();
    let tell = |daemon: &DaemonRef, signal: DaemonSignal, number: u64| {
        let told = rig.voice.0.lock().expect("no panic");
        let daemon = daemon.clone();
        told.as_ref().expect("watched")(Signal::Registry {
            daemon,
            signal,
            at: UnixMs::new(number),
            number,
        });
    };
    let mut number = 0;
    let mut took = Vec::new();
    for daemon in &daemons {
        number += 1;
        tell(daemon, DaemonSignal::Started, number);
        rig.publish(MeshOsEvent::DaemonIntentUpdate {
            daemon: daemon.clone(),
            intent: DaemonIntent::Run,
            node: None,
        });
    }
    let stop = Arc::new(AtomicBool::new(!flooded));
    let flooding = {
        let (stop, intake) = (Arc::clone(&stop), Arc::clone(&rig.os.shared().intake));
        std::thread::spawn(move || {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let event = Signal::Event(round_trip(number));
                intake
                    .publish(event, Deadline::after(PATIENCE), &mut never)
                    .expect("space in time");
            }
        })
    };
    for turn in 0..EXITS {
        let daemon = &daemons[turn as usize % daemons.len()];
        number += 2;
        let began = Instant::now();
        tell(daemon, DaemonSignal::ExitedCleanly, number);
        let (id, at) = heard.recv_timeout(PATIENCE).expect("a start");
        assert_eq!(id, daemon.id.get());
        took.push(at.duration_since(began));
        tell(daemon, DaemonSignal::Started, number + 1);
        // So that it comes to a loop that sleeps.
        std::thread::sleep(Duration::from_micros(200));
    }
    stop.store(true, Ordering::Relaxed);
    flooding.join().expect("no panic");
    rig.end();
    milliseconds(percentile(&mut took, 0.99))
}

struct Ticks(Arc<Mutex<Vec<Instant>>>);

impl Probe for Ticks {
    fn sample(&self) -> Result<Samples, CallFailed> {
        self.0.lock().expect("no panic").push(Instant::now());
        Ok(Samples::Locality(Vec::new()))
    }

    fn kind(&self) -> ProbeKind {
        ProbeKind::Locality
    }

    fn name(&self) -> &'static str {
        "Ticks"
    }
}

/// The 99th percentile of how far ticks of 5 ms are from their time, in milliseconds, with dispatches that take 1 s or
/// with none.
fn jitter(blocked: bool) -> f64 {
    let ticks = Arc::new(Mutex::new(Vec::new()));
    let probes = ProbeRegistry::new();
    probes.add(Arc::new(Ticks(Arc::clone(&ticks))));
    let interval = Duration::from_millis(5);
    let config = MeshOsConfig {
        tick_interval: interval,
        ..roomy()
    };
    let rig = rig(config, probes, Box::new(|_| std::thread::sleep(Duration::from_secs(1))));
    if blocked {
        for number in 1..=4 {
            rig.publish(MeshOsEvent::DaemonIntentUpdate {
                daemon: daemon(number),
                intent: DaemonIntent::Run,
                node: None,
            });
        }
    }
    std::thread::sleep(Duration::from_millis(1000));
    let ticks = std::mem::take(&mut *ticks.lock().expect("no panic"));
    let off = |pair: &[Instant]| pair[1].duration_since(pair[0]).abs_diff(interval);
    let mut off: Vec<Duration> = ticks.windows(2).map(off).collect();
    rig.end();
    milliseconds(percentile(&mut off, 0.99))
}

fn percentile(took: &mut [Duration], share: f64) -> Duration {
    took.sort_unstable();
    took[((took.len() - 1) as f64 * share) as usize]
}

fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

// ---------------------------------------------------------------- report

#[derive(Clone, Copy)]
enum Bar {
    AtLeast(f64),
    AtMost(f64),
    Open,
}

fn report(name: &str, unit: &str, bar: Bar, run: &dyn Fn() -> f64) {
    let mut runs: Vec<f64> = (0..RUNS).map(|_| run()).collect();
    runs.sort_unstable_by(f64::total_cmp);
    let (value, digits) = (runs[RUNS / 2], if runs[0] < 100.0 { 3 } else { 0 });
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

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    let daemons: Vec<DaemonRef> = (1..=64).map(daemon).collect();
    type Figure<'a> = (&'a str, &'a str, Bar, Box<dyn Fn() -> f64 + 'a>);
    let rate = Bar::AtLeast(2_000_000.0);
    let figures: [Figure<'_>; 8] = [
        (
            "intake_native",
            "events/s",
            rate,
            Box::new(|| intake(&|number| mixture(number, &daemons))),
        ),
        (
            "intake_native_round_trips",
            "events/s",
            Bar::Open,
            Box::new(|| intake(&round_trip)),
        ),
        (
            "intake_native_replicas",
            "events/s",
            Bar::Open,
            Box::new(|| intake(&replica)),
        ),
        ("snapshot_acquire", "ns", Bar::AtMost(100.0), Box::new(read)),
        (
            "exit_to_start_p99",
            "ms",
            Bar::AtMost(10.0),
            Box::new(|| reaction(false)),
        ),
        (
            "exit_to_start_flooded_p99",
            "ms",
            Bar::Open,
            Box::new(|| reaction(true)),
        ),
        ("tick_jitter_p99_idle", "ms", Bar::Open, Box::new(|| jitter(false))),
        ("tick_jitter_p99_blocked", "ms", Bar::Open, Box::new(|| jitter(true))),
    ];
    for (name, unit, bar, run) in figures {
        if wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            report(name, unit, bar, &*run);
        }
    }
}
