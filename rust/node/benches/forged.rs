//! What forged commands cost a running loop: its passes with 2,000 of them a second beside its passes without.
//!
//! One loop under a steady load. Windows with and without forged commands take turns, so that whatever else the machine
//! does falls on both. Each round gives the ratio of the two 99th percentiles of the time of a pass, and the figure is
//! the median of all rounds: `loop: NAME VALUE UNIT BAR ok|short`. `cargo bench -p meshos-node --bench forged`.
#![allow(clippy::print_stdout, reason = "a report")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meshos_core::action::{Cause, MeshOsAction};
use meshos_core::command::{ChainId, Command, Order, Verdict};
use meshos_core::control::DaemonControl;
use meshos_core::control_state::ControlState;
use meshos_core::envelope::AdminEnvelope;
use meshos_core::id::{NodeId, Origin};
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::signal::{MeshOsEvent, Outcome, ReplicaChange, RosterEntry, Sealed, Signal};
use meshos_core::status::AuthorityStatus;
use meshos_core::testing::envelopes;
use meshos_node::behaviour::{Keeper, MeshOs, Parts, Shared};
use meshos_node::callback::Callbacks;
use meshos_node::clock::{Deadline, LoopClock};
use meshos_node::dispatch::ActionDispatcher;
use meshos_node::lane::Lanes;
use meshos_node::probes::ProbeRegistry;
use meshos_node::published::Waited;
use meshos_node::records::Records;
use meshos_node::recovery::RecoveryRegistry;
use meshos_node::scorer::SchedulerRegistry;
use meshos_node::verifier::{SharedOperators, Verifier};

const HERE: NodeId = NodeId::new(1);
/// Rounds of one window without and one with forged commands.
const ROUNDS: usize = 30;
const WINDOW: Duration = Duration::from_millis(700);
/// Forged commands of a second.
const FORGED: u64 = 2_000;
/// Events that come in together, this often.
const GROUP: u64 = 256;
const PAUSE: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(60);
const BAR: f64 = 1.1;

struct Idle;

impl ActionDispatcher for Idle {
    fn dispatch(&self, _id: u64, _action: &MeshOsAction, _cause: &Cause) -> Outcome {
        Outcome::Done
    }

    fn name(&self) -> &'static str {
        "Idle"
    }
}

struct Nobody;

impl Keeper for Nobody {
    fn watch(&self, _tell: Box<dyn Fn(Signal) + Send + Sync>) -> u64 {
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

fn plain(body: &mut (dyn FnMut() + Send)) {
    body();
}

fn never() -> bool {
    false
}

fn verifier() -> Verifier {
    let operators = SharedOperators::default();
    operators
        .change(|known| {
            *known = envelopes::operators();
            Ok(())
        })
        .expect("nothing to refuse");
    Verifier::new(envelopes::policy(), Arc::new(operators)).expect("a good policy")
}

fn start(verifier: &Verifier) -> MeshOs {
    let clock = LoopClock::start();
    let config = MeshOsConfig {
        event_queue_capacity: 65_536,
        ..MeshOsConfig::default()
    };
    let parts = Parts {
        dispatcher: Arc::new(Idle),
        keeper: Arc::new(Nobody),
        probes: ProbeRegistry::new(),
        scheduler: SchedulerRegistry::new(),
        recovery: RecoveryRegistry::new(),
        sink: None,
        aborter: None,
        migrations: None,
        authority: Some((*verifier.policy(), verifier.ledger())),
        control: ControlState::default(),
        callbacks: Arc::new(Callbacks::new()),
        records: Arc::new(Records::new(HERE, clock)),
        clock,
        lanes: Lanes::new("bench-callback", 2, plain),
        wakes: Lanes::new("bench-wake", 1, plain),
    };
    MeshOs::start(HERE, config, 42, AuthorityStatus::Verified, parts).expect("a thread")
}

/// A command whose signature does not hold, and whose envelope nobody has seen before.
fn forged(number: u64) -> AdminEnvelope {
    let mut envelope = envelopes::admin();
    envelope.header.envelope_id[..8].copy_from_slice(&number.to_le_bytes());
    envelope
}

/// What the entry of a runtime does with a command: checks it where it came in, and hands it on with what it found.
fn publish(shared: &Shared, verifier: &Verifier, envelope: &AdminEnvelope) {
    let checked = verifier.check_admin(envelope, envelopes::ISSUED);
    let refused = checked.expect_err("nobody signed it");
    let header = &envelope.header;
    let sealed = Sealed {
        command: Command {
            order: Order::Admin(envelope.event.clone()),
            verdict: Verdict::Rejected { kind: refused.kind() },
            operators: Vec::new(),
            reason: header.reason.clone(),
            envelope_id: Some(header.envelope_id),
            issued_at: Some(header.issued_at),
        },
        envelope_id: header.envelope_id,
        issued_at: header.issued_at,
        blast: None,
        refused: Some(refused),
    };
    let deadline = Deadline::after(PATIENCE);
    let signal = Signal::Sealed(Box::new(sealed));
    shared
        .intake
        .publish(signal, deadline, &mut never)
        .expect("space in time");
}

/// Half round trips, half copies of chains, as many a second whatever else comes.
fn load(shared: &Shared, stop: &AtomicBool) {
    let (mut number, mut due) = (0, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let event = |number: u64| {
            Signal::Event(if number.is_multiple_of(2) {
                MeshOsEvent::RttSample {
                    peer: NodeId::new(2 + number % 64),
                    rtt: Duration::from_micros(1000 + number % 7),
                }
            } else {
                MeshOsEvent::ReplicaUpdate {
                    chain: ChainId::new(1 + number % 4096),
                    holder: NodeId::new(2 + number / 4096 % 8),
                    change: ReplicaChange::Added,
                }
            })
        };
        let group = (number..number + GROUP).map(event).collect();
        number += GROUP;
        let deadline = Deadline::after(PATIENCE);
        shared
            .intake
            .publish_all(group, deadline, &mut never)
            .expect("space in time");
        due += PAUSE;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// Sends forged commands while it is told to.
fn attack(shared: &Shared, verifier: &Verifier, on: &AtomicBool, stop: &AtomicBool, sent: &AtomicU64) {
    let pause = Duration::from_secs(1) / u32::try_from(FORGED).expect("a small number");
    let (mut number, mut due) = (0, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        if on.load(Ordering::Relaxed) {
            number += 1;
            publish(shared, verifier, &forged(number));
            sent.fetch_add(1, Ordering::Relaxed);
        } else {
            due = Instant::now();
        }
        due += pause;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// The times of the passes that were published during a window.
fn passes(shared: &Shared) -> Vec<Duration> {
    let end = Instant::now() + WINDOW;
    let (mut generation, mut took) = (shared.published.generation(), Vec::new());
    while Instant::now() < end {
        match shared.published.wait(generation, Deadline::at(end), &mut never) {
            Waited::Changed(snapshot) => {
                generation = snapshot.generation;
                took.push(snapshot.metrics.tick_took);
            }
            Waited::Ended | Waited::TimedOut | Waited::Interrupted => break,
        }
    }
    took
}

fn percentile(mut took: Vec<Duration>, share: f64) -> f64 {
    took.sort_unstable();
    took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let verifier = verifier();
    let os = start(&verifier);
    let shared = os.shared();
    let (stop, on, sent) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let (mut without, mut with, mut seconds) = (Vec::new(), Vec::new(), 0.0);
    std::thread::scope(|scope| {
        scope.spawn(|| load(shared, &stop));
        scope.spawn(|| attack(shared, &verifier, &on, &stop, &sent));
        // What comes first is slower.
        passes(shared);
        for round in 0..ROUNDS {
            // Each comes first as often as the other.
            for forged in [round % 2 == 0, round % 2 == 1] {
                on.store(forged, Ordering::Relaxed);
                let began = Instant::now();
                let took = percentile(passes(shared), 0.99);
                if forged {
                    seconds += began.elapsed().as_secs_f64();
                    with.push(took);
                } else {
                    without.push(took);
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    os.shutdown(PATIENCE, &mut never).expect("nobody interrupts");
    let ratios: Vec<f64> = with
        .iter()
        .zip(&without)
        .map(|(with, without)| with / without)
        .collect();
    let rate = sent.load(Ordering::Relaxed) as f64 / seconds;
    println!("forged commands: {rate:.0} a second");
    println!(
        "p99 of a pass: {:.1} us without, {:.1} us with (medians of {ROUNDS} windows each)",
        median(without.clone()),
        median(with.clone())
    );
    let mut spread = ratios.clone();
    spread.sort_unstable_by(f64::total_cmp);
    println!(
        "ratios: from {:.3}, quarters {:.3} and {:.3}, to {:.3}",
        spread[0],
        spread[ROUNDS / 4],
        spread[ROUNDS * 3 / 4],
        spread[ROUNDS - 1]
    );
    let value = median(ratios);
    let met = if value <= BAR { "ok" } else { "short" };
    println!("loop: forged_2000_a_second_p99 {value:.3} ratio {BAR} {met}");
}
