//! Decision: one step of the behaviour loop.
//!
//! [`Behaviour::step`] takes the time and what came in, and gives back what is to be done. It reads nothing else, so a log
//! of its arguments replays a run: the same log gives the same [`Behaviour::digest`] after each step.
//!
//! Invariants
//! * Time never goes back: an earlier time counts as the last one.
//! * A step looks at a bounded number of keys; what is left is said by [`Step::more`].
//! * Deadlines are part of the state: between two steps, nothing changes before [`Step::next`].

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use crate::action::CauseKind;
use crate::authority::{Ledger, Policy};
use crate::command::Command;
use crate::control::DaemonControl;
use crate::control_state::ControlState;
use crate::digest::Digest;
use crate::executor::{Dispatch, Executor};
use crate::finite::Share;
use crate::fold::{self, Judged, Told};
use crate::id::{NodeId, Origin};
use crate::loop_config::MeshOsConfig;
use crate::maintenance::ControlEdge;
use crate::placement::ScoreRequest;
use crate::reconcile::{self, Asked};
use crate::signal::Signal;
use crate::status::{Disposed, ExecutorStats, Failure, FailureSource, Part, View};
use crate::time::UnixMs;
use crate::world::{Alarm, Key, Refused, Sweep, Why, World};

/// Keys that one step looks at, besides a slice of a sweep.
pub const LOOKS_MAX: usize = 4096;
/// Deadlines that one step takes.
pub const ALARMS_MAX: usize = 8192;
/// Time between two passes over everything.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// What a step wants done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Step {
    /// Actions to carry out.
    pub dispatches: Vec<Dispatch>,
    /// What every daemon must hear.
    pub controls: Vec<Heard>,
    /// An edge of back-pressure, or a level that moved; `None` inside: released.
    pub pressure: Option<Option<Share>>,
    /// Daemons whose supervision begins (`true`) or ends.
    pub supervise: Vec<(Origin, bool)>,
    /// Moves to end.
    pub kill: Vec<Origin>,
    /// Commands with the verdict they ended with.
    pub audits: Vec<Command>,
    /// What became of envelopes.
    pub judged: Vec<Judged>,
    /// Commands whose records must be kept before they take effect, each with how many of `audits` are before it.
    pub held: Vec<(usize, Command)>,
    /// What failed.
    pub failures: Vec<Failure>,
    /// What became of actions.
    pub disposed: Vec<Disposed>,
    /// Chains to score.
    pub scores: Vec<ScoreRequest>,
    /// Nodes whose fingerprints are asked for.
    pub fingerprints: Vec<NodeId>,
    /// Kind of the first action that the full queue refused.
    pub first_refused: Option<&'static str>,
    /// Things that the full sweep found and nobody had looked at.
    pub sweep_repairs: u64,
    /// Whether there is more to look at: the next step shall come at once.
    pub more: bool,
    /// When the next step must come at the latest; `None`: when something comes in.
    pub next: Option<UnixMs>,
}

/// A control, as it can be compared and hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Heard {
    /// Take no new work on.
    DrainStart {
        /// Until when what is in flight may go on.
        deadline: UnixMs,
    },
    /// Leave now.
    DrainFinish,
    /// The drain is over.
    Resume,
    /// Shrink optional work.
    BackpressureOn {
        /// How much of it.
        level: Share,
    },
    /// Go on as usual.
    BackpressureOff,
}

impl From<Heard> for DaemonControl {
    fn from(heard: Heard) -> Self {
        match heard {
            Heard::DrainStart { deadline } => Self::DrainStart { deadline },
            Heard::DrainFinish => Self::DrainFinish,
            Heard::Resume => Self::Resume,
            Heard::BackpressureOn { level } => Self::BackpressureOn { level: level.get() },
            Heard::BackpressureOff => Self::BackpressureOff,
        }
    }
}

/// The state of one behaviour loop.
#[derive(Debug, Clone)]
pub struct Behaviour {
    world: World,
    executor: Executor,
    overdue_told: bool,
    refused_told: Refused,
    /// What commands of earlier runs decided is still to be taken up.
    restoring: bool,
}

impl Behaviour {
    /// A loop that knows nothing yet. `seed` decides jitter.
    #[must_use]
    pub fn new(this_node: NodeId, config: MeshOsConfig, seed: u64, now: UnixMs) -> Self {
        let mut world = World::new(this_node, config, seed, now);
        world.alarms.set(Alarm::Sweep, Some(now.plus(SWEEP_INTERVAL)));
        Self {
            world,
            executor: Executor::default(),
            overdue_told: false,
            refused_told: Refused::default(),
            restoring: false,
        }
    }

    /// The same with other bounds on how many daemons, how many chains and how many peers it knows at a time.
    #[must_use]
    pub const fn with_entities_max(mut self, entities_max: usize) -> Self {
        self.world.entities_max = entities_max;
        self
    }

    /// Obeys commands in envelopes as `policy` demands, after what `ledger` says was obeyed before.
    #[must_use]
    pub fn with_authority(mut self, policy: Policy, ledger: Ledger) -> Self {
        self.world.policy = Some(policy);
        self.world.ledger = ledger;
        self
    }

    /// Goes on from what commands of earlier runs decided: the first step takes it up.
    #[must_use]
    pub fn with_control(mut self, control: ControlState) -> Self {
        self.world.control = control;
        self.restoring = true;
        self
    }

    /// What commands alone decided.
    #[must_use]
    pub const fn control(&self) -> &ControlState {
        &self.world.control
    }

    /// The time of the last step, which is that of its records.
    #[must_use]
    pub const fn now(&self) -> UnixMs {
        self.world.now
    }

    /// What was obeyed lately, and which targets are left alone.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.world.ledger
    }

    /// Has every command wait until its record is kept.
    #[must_use]
    pub const fn with_audit_first(mut self) -> Self {
        self.world.audit_first = true;
        self
    }

    /// What is shown.
    #[must_use]
    pub const fn view(&self) -> &View {
        &self.world.view
    }

    /// The tables.
    #[must_use]
    pub const fn world(&self) -> &World {
        &self.world
    }

    /// Counters of the executor.
    #[must_use]
    pub const fn stats(&self) -> &ExecutorStats {
        &self.executor.stats
    }

    /// Actions that wait.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.executor.depth()
    }

    /// Dispatches that have not ended.
    #[must_use]
    pub fn running(&self) -> usize {
        self.executor.running()
    }

    /// What a shutdown would leave undone, by kind of action.
    #[must_use]
    pub fn undone(&self) -> BTreeMap<&'static str, u64> {
        self.executor.undone(&self.world)
    }

    /// Daemons, chains and peers that full tables refused.
    #[must_use]
    pub const fn refused_entities(&self) -> u64 {
        let refused = self.world.refused;
        refused.daemons + refused.chains + refused.peers
    }

    /// Takes what came in, looks at what has to be looked at, and says what is to be done.
    pub fn step(&mut self, now: UnixMs, signals: impl IntoIterator<Item = Signal>) -> Step {
        self.world.now = self.world.now.max(now);
        let mut told = Told::default();
        if std::mem::take(&mut self.restoring) {
            fold::restore(&mut self.world, &mut told);
        }
        for signal in signals {
            self.fold(&mut told, signal);
        }
        let fingerprints = self.alarms();
        let sweep_repairs = reconcile::sweep(&mut self.world, &self.executor);
        let mut asked = Asked::default();
        for _ in 0..LOOKS_MAX {
            let Some((key, why)) = self.world.dirty.pop_first() else {
                break;
            };
            reconcile::look(&mut self.world, &mut self.executor, &mut asked, key, why);
        }
        let dispatches = self.executor.run(&mut self.world, reconcile::still_wanted);
        let pressure = self.executor.pressure(&self.world);
        self.tell_overdue();
        self.tell_refused();
        let mut controls: Vec<Heard> = told.edges.into_iter().map(heard).collect();
        controls.extend(pressure.map(|level| match level {
            Some(level) => Heard::BackpressureOn { level },
            None => Heard::BackpressureOff,
        }));
        for (from, to) in told.refused_arcs {
            self.executor.failures.push(loop_failure(
                "maintenance",
                format!("observed {} after {}, which no arc allows", to.name(), from.name()),
            ));
        }
        Step {
            dispatches,
            controls,
            pressure,
            supervise: told.supervise.into_iter().chain(asked.let_go).collect(),
            kill: told.kill,
            audits: told.audits,
            judged: told.judged,
            held: told.held,
            failures: std::mem::take(&mut self.executor.failures),
            disposed: std::mem::take(&mut self.executor.disposed),
            scores: asked.scores,
            fingerprints,
            first_refused: self.executor.first_refused.take(),
            sweep_repairs,
            more: self.has_more(),
            next: self.world.alarms.next(),
        }
    }

    fn has_more(&self) -> bool {
        let world = &self.world;
        let due = world.alarms.next().is_some_and(|at| at <= world.now);
        !world.dirty.is_empty() || world.sweep.is_some() || due
    }

    fn fold(&mut self, told: &mut Told, signal: Signal) {
        let world = &mut self.world;
        match signal {
            Signal::Event(event) => fold::event_in(world, told, event),
            Signal::Command(command) => fold::command(world, told, command),
            Signal::Sealed(sealed) => fold::sealed(world, told, *sealed),
            Signal::Recorded { envelope_id, kept } => fold::recorded(world, told, envelope_id, kept),
            Signal::Moving(daemons) => world.moving = daemons,
            Signal::Registry {
                daemon,
                signal,
                at,
                number,
            } => {
                let at = at.min(world.now);
                let started = signal == crate::signal::DaemonSignal::Started;
                fold::lifecycle(world, &daemon, signal, at, Some(number));
                if started {
                    // What is wanted of it may have been said before it came.
                    let wanted = world.supervise(daemon.id).filter(|(_, wanted)| *wanted);
                    told.supervise.extend(wanted);
                }
            }
            Signal::Offered { daemon, capabilities } => fold::offered(world, &daemon, capabilities),
            Signal::Roster { daemons, number } => fold::roster(world, &daemons, number),
            Signal::Samples { probe, samples } => fold::samples(world, probe, samples),
            Signal::ProbeRemoved { probe } => fold::probe_removed(world, probe),
            Signal::Fingerprints(said) => reconcile::fingerprints(world, said),
            Signal::Scored(said) => reconcile::scored(world, said),
            Signal::ScorerChanged { installed } => reconcile::scorer_changed(world, installed),
            Signal::Dispatched { id, outcome } => self.executor.ended(world, id, outcome),
            // Slots placed again show in the events of their daemons and chains; the next look is at once.
            Signal::Recovered { .. } => {}
        }
    }

    /// Takes what is due; returns the nodes whose fingerprints are asked for.
    fn alarms(&mut self) -> Vec<NodeId> {
        let world = &mut self.world;
        let mut fingerprints = Vec::new();
        for _ in 0..ALARMS_MAX {
            let Some(alarm) = world.alarms.pop(world.now) else {
                break;
            };
            match alarm {
                Alarm::Look(key) => world.mark(key, Why::of(CauseKind::Timer, "deadline")),
                Alarm::Action(key) => self.executor.alarm(world, key),
                // The executor opens its throttles whenever it runs.
                Alarm::Throttle => {}
                Alarm::Freeze => fold::freeze(world, None, Why::of(CauseKind::Timer, "freeze ended")),
                Alarm::Fingerprints => {
                    fingerprints = world.fingerprints.keys().copied().collect();
                    let next = world.now.plus(world.config.tick_interval);
                    world.alarms.set(Alarm::Fingerprints, Some(next));
                }
                Alarm::Sweep => {
                    world.sweep.get_or_insert(Sweep::new(None));
                    world.alarms.set(Alarm::Sweep, Some(world.now.plus(SWEEP_INTERVAL)));
                }
            }
        }
        fingerprints
    }

    /// Says once that daemons did not come back in time after maintenance.
    fn tell_overdue(&mut self) {
        let world = &self.world;
        let late = world.machine.is_overdue(world.now, &world.config.maintenance);
        let overdue = late && world.daemons_missing > 0;
        if overdue && !self.overdue_told {
            let reason = format!("{} daemons did not start again in time", world.daemons_missing);
            self.executor.failures.push(loop_failure("exit_maintenance", reason));
        }
        self.overdue_told = overdue;
    }

    /// Says of each table once that it was full.
    fn tell_refused(&mut self) {
        let (refused, told) = (self.world.refused, &mut self.refused_told);
        let tables = [
            ("daemons", refused.daemons, &mut told.daemons),
            ("chains", refused.chains, &mut told.chains),
            ("peers", refused.peers, &mut told.peers),
        ];
        for (name, refused, told) in tables {
            if refused > 0 && *told == 0 {
                *told = refused;
                let reason = format!("there are {} already: more are refused", self.world.entities_max);
                self.executor.failures.push(loop_failure(name, reason));
            }
        }
    }

    /// Digest of everything that decides, for comparing runs: equal states have equal digests.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hasher = StateHasher::default();
        let world = &self.world;
        (world.now, &world.machine, &world.forced, world.scorer).hash(&mut hasher);
        (
            world.score_changes,
            world.scores_valid_from,
            &world.node_changed,
            &world.fingerprints,
            &world.asked,
        )
            .hash(&mut hasher);
        (&world.barred, &world.fading, &world.probed, &world.dirty).hash(&mut hasher);
        (&world.policy, &world.ledger, &world.unrecorded, &world.moving).hash(&mut hasher);
        (world.control.digest(), self.restoring).hash(&mut hasher);
        (&world.alarms, &world.sweep, &world.copies, world.daemons_live).hash(&mut hasher);
        (world.entities_max, world.refused, self.refused_told).hash(&mut hasher);
        (world.daemons_missing, world.moves, &self.executor, self.overdue_told).hash(&mut hasher);
        let view = &world.view;
        (view.generation, &view.maintenance, view.freeze_until, view.cordoned).hash(&mut hasher);
        view.daemons.iter().for_each(|entry| entry.hash(&mut hasher));
        view.chains.iter().for_each(|entry| entry.hash(&mut hasher));
        view.peers.iter().for_each(|entry| entry.hash(&mut hasher));
        view.avoid.iter().for_each(|entry| entry.hash(&mut hasher));
        view.in_flight.iter().for_each(|entry| entry.hash(&mut hasher));
        view.emissions.iter().for_each(|entry| entry.hash(&mut hasher));
        hasher.digest()
    }

    /// Looks at everything from scratch and compares: the keys of which the dirty sets have missed something, and
    /// whether the counters are right. For tests; costs as much as there is.
    #[must_use]
    pub fn audit(&self) -> Vec<Key> {
        reconcile::missed(&self.world, &self.executor)
    }
}

fn heard(edge: ControlEdge) -> Heard {
    match edge {
        ControlEdge::DrainStart { deadline } => Heard::DrainStart { deadline },
        ControlEdge::DrainFinish => Heard::DrainFinish,
        ControlEdge::Resume => Heard::Resume,
    }
}

fn loop_failure(name: &str, reason: String) -> Failure {
    Failure {
        source: FailureSource {
            part: Part::Loop,
            name: name.into(),
            target: None,
            action_id: None,
            envelope_id: None,
        },
        reason: reason.into(),
        traceback: None,
    }
}

/// Digest of a step, to compare runs.
#[must_use]
pub fn digest_of(step: &Step) -> Digest {
    let mut hasher = StateHasher::default();
    step.hash(&mut hasher);
    hasher.digest()
}

/// Feeds what is hashed to BLAKE3, in one byte order everywhere.
#[derive(Default)]
struct StateHasher {
    hasher: blake3::Hasher,
    /// Values are small, and the hash is fast only over much at once.
    buffer: Vec<u8>,
}

/// Bytes that are hashed at once.
const HASHED_AT_ONCE: usize = 64 * 1024;

impl StateHasher {
    fn digest(mut self) -> Digest {
        self.hasher.update(&self.buffer);
        Digest::from_bytes(*self.hasher.finalize().as_bytes())
    }
}

impl Hasher for StateHasher {
    fn finish(&self) -> u64 {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.buffer);
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        u64::from_le_bytes(bytes)
    }

    fn write(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= HASHED_AT_ONCE {
            self.hasher.update(&self.buffer);
            self.buffer.clear();
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write(&[value]);
    }

    fn write_u16(&mut self, value: u16) {
        self.write(&value.to_le_bytes());
    }

    fn write_u32(&mut self, value: u32) {
        self.write(&value.to_le_bytes());
    }

    fn write_u64(&mut self, value: u64) {
        self.write(&value.to_le_bytes());
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }
}
