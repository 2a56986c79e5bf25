//! The thread of a behaviour loop: takes signals in, steps the core, has done what it wants.
//!
//! Invariants
//! * The thread never calls user code and never waits for it: everything of the kind is a job on the callback lanes, and
//!   its result comes back as a signal.
//! * A change wakes the loop at once, and events that follow closely go in together. The tick is when probes, recovery
//!   handlers and daemons are asked.
//! * A loop that ends publishes a last snapshot, and says what it left undone.
//! * A loop that panics, which is a bug of ours, ends: nobody waits for it any more, and whoever asks is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meshos_core::action::MeshOsAction;
use meshos_core::authority::{Bucket, Ledger, Policy};
use meshos_core::behaviour::{Behaviour, Step};
use meshos_core::command::{Command, Verdict};
use meshos_core::control::DaemonControl;
use meshos_core::control_state::ControlState;
use meshos_core::executor::Dispatch;
use meshos_core::fold::Judged;
use meshos_core::id::{NodeId, Origin};
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::placement::ScoreRequest;
use meshos_core::signal::{DaemonSignal, MeshOsEvent, Outcome, RosterEntry, Signal};
use meshos_core::status::{
    AuthorityStatus, ExecutorStats, Explanation, Failure, FailureSource, LoopMetrics, MeshOsSnapshot, MigrationStatus,
    Part, View,
};
use meshos_core::time::UnixMs;

use crate::callback::{CallFailed, Callback, Callbacks, isolated};
use crate::clock::{Deadline, LoopClock};
use crate::dispatch::{ActionDispatcher, ControlSink, MigrationAborter, MigrationSnapshotSource};
use crate::ears::Ears;
use crate::intake::{Batch, Intake};
use crate::lane::{Job, Lanes};
use crate::probes::{ProbeRegistry, SampleSink, Sampled, Sampler};
use crate::published::Published;
use crate::records::Records;
use crate::recovery::RecoveryRegistry;
use crate::scorer::{self, PlacementScorer, SchedulerRegistry};
use crate::sync::{Condvar, Mutex};
use crate::verdicts::{self, Verdicts};

/// A dispatcher may take as long as it needs; above this it counts as late.
const DISPATCH_BUDGET: Duration = Duration::from_secs(30);
/// Time between two comparisons with the registry.
const ROSTER_INTERVAL: Duration = Duration::from_secs(30);
/// How long an appender may take to keep a record that must come first.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long daemons may take to say how they are; then a failure says that they do not.
const POLL_MAX: Duration = Duration::from_secs(1);
/// How long a loop that is told to end at once may take for the step that it is in.
const LAST_STEP: Duration = Duration::from_millis(500);
/// Events that follow a pass within so long are taken in together.
const CALM: Duration = Duration::from_micros(500);
/// Chains that one job scores.
const SCORES_PER_JOB: usize = 256;

/// The daemons that a loop watches and talks to.
pub trait Keeper: Send + Sync {
    /// Begins to tell what happens to daemons, in order. The function only queues.
    fn watch(&self, tell: Box<dyn Fn(Signal) + Send + Sync>) -> u64;
    /// Ends it.
    fn unwatch(&self, watch: u64);
    /// All daemons, and the number of the newest event that they reflect.
    fn roster(&self) -> (Vec<RosterEntry>, u64);
    /// Gives every daemon a control, soon.
    fn broadcast(&self, control: DaemonControl);
    /// Gives one daemon a control, soon; `false`: it is not there.
    fn control(&self, daemon: Origin, control: DaemonControl) -> bool;
    /// Takes a daemon out by force; `false`: it is not there.
    fn remove(&self, daemon: Origin) -> bool;
    /// Asks daemons for health and load; called on a lane.
    fn poll(&self);
}

/// What a loop is made of besides its configuration.
pub struct Parts {
    /// Carries actions out.
    pub dispatcher: Arc<dyn ActionDispatcher>,
    /// The daemons.
    pub keeper: Arc<dyn Keeper>,
    /// Asked each tick.
    pub probes: ProbeRegistry,
    /// Where the scorer is.
    pub scheduler: SchedulerRegistry,
    /// Run each tick.
    pub recovery: RecoveryRegistry,
    /// Sees every control.
    pub sink: Option<Arc<dyn ControlSink>>,
    /// Ends moves.
    pub aborter: Option<Arc<dyn MigrationAborter>>,
    /// Lists moves.
    pub migrations: Option<Arc<dyn MigrationSnapshotSource>>,
    /// What commands in envelopes need, and what was obeyed before; `None`: nobody checks them.
    pub authority: Option<(Policy, Ledger)>,
    /// What commands of earlier runs decided, which holds on.
    pub control: ControlState,
    /// What is called, by name.
    pub callbacks: Arc<Callbacks>,
    /// Where records go.
    pub records: Arc<Records>,
    /// Its clock.
    pub clock: LoopClock,
    /// Where user code runs.
    pub lanes: Lanes,
    /// Where those who wait are called: no user code that hangs may hold them up.
    pub wakes: Lanes,
}

/// How the thread of a loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoopEnd {
    /// By itself.
    Done,
    /// Not yet.
    Late,
    /// By a bug of ours.
    Failed,
}

/// How a loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// How its thread did.
    pub end: LoopEnd,
    /// Steps it made.
    pub passes: u64,
    /// Counters.
    pub stats: ExecutorStats,
    /// What was left undone, by kind of action.
    pub undone: BTreeMap<&'static str, u64>,
    /// Dispatches that had not ended.
    pub hung: usize,
    /// Whether every appender kept what it had and was closed.
    pub kept: bool,
}

/// What the loop and those who use it share.
pub struct Shared {
    /// The node it acts for.
    pub this_node: NodeId,
    /// Its options.
    pub config: MeshOsConfig,
    /// Random for each start.
    pub epoch_id: u64,
    /// Who waits for what becomes of commands.
    pub verdicts: Verdicts,
    cooldowns: Mutex<Vec<(Bucket, UnixMs)>>,
    ledger: Mutex<Ledger>,
    /// What goes in.
    pub intake: Arc<Intake>,
    /// What comes out.
    pub published: Arc<Published>,
    /// Who hears the controls of daemons.
    pub ears: Ears,
    /// What it is made of.
    pub parts: Parts,
    /// Daemons whose authors see them off, and by when they were told to be gone.
    leaving: Mutex<BTreeMap<Origin, UnixMs>>,
    stats: Mutex<ExecutorStats>,
    questions: Mutex<Vec<Question>>,
    dropped: AtomicU64,
    passes: AtomicU64,
    tick_at: Mutex<(UnixMs, Duration)>,
    alive: AtomicBool,
    ended: Mutex<Option<Ended>>,
    /// When a shutdown has to be over.
    end_by: Mutex<Option<Deadline>>,
    bell: Condvar,
}

/// Somebody asks why something is as it is.
struct Question {
    key: meshos_core::world::Key,
    answer: Arc<Answer>,
}

#[derive(Default)]
struct Answer {
    said: Mutex<Option<Option<Explanation>>>,
    bell: Condvar,
}

/// A daemon is seen off, as long as it lives.
pub struct Leaving<'a> {
    shared: &'a Shared,
    daemon: Origin,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.shared.leaving.lock().remove(&self.daemon);
    }
}

/// A running loop. Dropping the last handle ends it at once.
pub struct MeshOs {
    shared: Arc<Shared>,
    watch: u64,
}

struct Call<F: FnOnce() + Send>(Mutex<Option<F>>);

impl<F: FnOnce() + Send> Job for Call<F> {
    fn run(self: Arc<Self>) {
        let call = self.0.lock().take();
        if let Some(call) = call {
            call();
        }
    }
}

/// Runs a call on a lane; `false` when the lanes were stopped.
pub fn on_lane(lanes: &Lanes, call: impl FnOnce() + Send + 'static) -> bool {
    lanes.submit(Arc::new(Call(Mutex::new(Some(call)))))
}

/// The loop could not be started: the system has no thread to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system has no thread to give")]
pub struct NoThread;

impl MeshOs {
    /// Starts a loop, and returns when its first snapshot shows what is there already.
    ///
    /// # Errors
    /// [`NoThread`].
    pub fn start(
        this_node: NodeId,
        config: MeshOsConfig,
        epoch_id: u64,
        authority: AuthorityStatus,
        parts: Parts,
    ) -> Result<Self, NoThread> {
        let now = parts.clock.now();
        let mut behaviour = Behaviour::new(this_node, config, config.seed.unwrap_or(epoch_id), now);
        if let Some((policy, ledger)) = &parts.authority {
            behaviour = behaviour.with_authority(*policy, ledger.clone());
        }
        behaviour = behaviour.with_control(parts.control.clone());
        if config.audit_required {
            behaviour = behaviour.with_audit_first();
        }
        let first = MeshOsSnapshot {
            runtime_epoch_id: epoch_id,
            generation: 0,
            tick: 0,
            published_at: now,
            this_node,
            authority,
            control: parts.control.clone(),
            view: behaviour.view().clone(),
            failures: imbl::Vector::new(),
            migrations: Arc::new([]),
            recovery: parts.recovery.status().into(),
            callbacks: Arc::default(),
            audit_head_seq: 0,
            log_head_seq: 0,
            failure_head_seq: 0,
            metrics: LoopMetrics::default(),
        };
        let intake = Arc::new(Intake::new(config.event_queue_capacity as usize));
        let told = Arc::clone(&intake);
        let watch = parts.keeper.watch(Box::new(move |signal| told.registry(signal)));
        let (daemons, number) = parts.keeper.roster();
        intake.roster(Signal::Roster { daemons, number });
        if parts.scheduler.has_scorer() {
            intake.result(Signal::ScorerChanged { installed: true });
        }
        let shared = Arc::new(Shared {
            this_node,
            config,
            epoch_id,
            verdicts: Verdicts::default(),
            cooldowns: Mutex::default(),
            ledger: Mutex::default(),
            intake,
            published: Arc::new(Published::new(first, parts.wakes.clone())),
            ears: Ears::new(parts.wakes.clone()),
            parts,
            leaving: Mutex::default(),
            stats: Mutex::default(),
            questions: Mutex::default(),
            dropped: AtomicU64::new(0),
            passes: AtomicU64::new(0),
            tick_at: Mutex::new((now, Duration::ZERO)),
            alive: AtomicBool::new(true),
            ended: Mutex::new(None),
            end_by: Mutex::new(None),
            bell: Condvar::new(),
        });
        let mut runner = Runner::new(Arc::clone(&shared), behaviour);
        runner.pass(true);
        let spawned = std::thread::Builder::new()
            .name("meshos-tick".to_owned())
            .spawn(move || {
                let shared = Arc::clone(&runner.shared);
                let ran = isolated(|| {
                    runner.run();
                    Ok(())
                });
                if let Err(error) = ran {
                    shared.failed(&error.reason);
                }
            });
        if spawned.is_err() {
            shared.parts.keeper.unwatch(watch);
            return Err(NoThread);
        }
        Ok(Self { shared, watch })
    }

    /// What the loop and those who use it share.
    #[must_use]
    pub const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Takes nothing more in, lets what runs end, publishes a last snapshot and closes the appenders, within `timeout`.
    /// Called again it returns the same. `None`: interrupted; the loop ends nevertheless.
    pub fn shutdown(&self, timeout: Duration, interrupted: &mut dyn FnMut() -> bool) -> Option<Ended> {
        let shared = &self.shared;
        let deadline = Deadline::after(timeout);
        shared.parts.keeper.unwatch(self.watch);
        shared.end_by.lock().get_or_insert(deadline);
        shared.intake.close();
        let (mut until, mut aborted) = (deadline, false);
        loop {
            let ended = shared.ended.lock();
            if let Some(ended) = &*ended {
                return Some(ended.clone());
            }
            if until.passed() {
                drop(ended);
                if aborted {
                    return Some(shared.unfinished(LoopEnd::Late));
                }
                // The loop never waits for user code, so this is answered within a moment.
                shared.intake.abort();
                (until, aborted) = (Deadline::after(LAST_STEP), true);
                continue;
            }
            drop(shared.bell.wait_until(ended, until.slice()));
            if interrupted() {
                shared.intake.abort();
                return None;
            }
        }
    }
}

impl Drop for MeshOs {
    fn drop(&mut self) {
        self.shared.parts.keeper.unwatch(self.watch);
        self.shared.intake.abort();
    }
}

impl Shared {
    /// Counters of the executor.
    #[must_use]
    pub fn executor_stats(&self) -> ExecutorStats {
        let mut stats = *self.stats.lock();
        stats.chain_append_failures = self.parts.records.action_failures();
        stats
    }

    /// Emissions that the full queue refused.
    #[must_use]
    pub fn dropped_actions(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Targets that break-glass actions leave alone, and until when.
    #[must_use]
    pub fn cooldowns(&self) -> Vec<(Bucket, UnixMs)> {
        let now = self.parts.clock.now();
        let mut cooldowns = self.cooldowns.lock().clone();
        cooldowns.retain(|(_, until)| *until > now);
        cooldowns
    }

    /// What was obeyed lately; of a loop that has ended.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.ledger.lock().clone()
    }

    /// Steps so far.
    #[must_use]
    pub fn passes(&self) -> u64 {
        self.passes.load(Ordering::Relaxed)
    }

    /// Whether the thread lives, when it ticked last, and how long its last pass took.
    #[must_use]
    pub fn health(&self) -> (bool, UnixMs, Duration) {
        let (at, took) = *self.tick_at.lock();
        (self.alive.load(Ordering::Acquire), at, took)
    }

    /// Says why something is as it is; the outer `None`: no answer in time, the inner: nothing is known of it.
    pub fn explain(
        &self,
        key: meshos_core::world::Key,
        deadline: Deadline,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Option<Option<Explanation>> {
        let answer = Arc::new(Answer::default());
        self.questions.lock().push(Question {
            key,
            answer: Arc::clone(&answer),
        });
        self.intake.nudge();
        loop {
            let mut said = answer.said.lock();
            if let Some(said) = said.take() {
                return Some(said);
            }
            if deadline.passed() || !self.alive.load(Ordering::Acquire) {
                return None;
            }
            drop(answer.bell.wait_until(said, deadline.slice()));
            if interrupted() {
                return None;
            }
        }
    }

    /// Says by when a daemon was told to be gone, by the wall clock: a stop leaves it no more time.
    pub fn leave_by(&self, daemon: Origin, deadline: UnixMs) -> Leaving<'_> {
        self.leaving.lock().insert(daemon, deadline);
        Leaving { shared: self, daemon }
    }

    /// Share of a tick that user code may take.
    #[must_use]
    pub fn budget(&self) -> Duration {
        self.config.tick_interval.mul_f64(self.config.callback_budget.get())
    }

    /// Records that user code failed.
    pub fn callback_failed(&self, part: Part, name: &str, target: Option<u64>, error: CallFailed) {
        self.parts.records.failure(Failure {
            source: FailureSource {
                part,
                name: Arc::from(name),
                target,
                action_id: None,
                envelope_id: None,
            },
            reason: Arc::from(error.reason),
            traceback: error.traceback.map(Arc::from),
        });
        self.intake.hint();
    }

    fn unfinished(&self, end: LoopEnd) -> Ended {
        Ended {
            end,
            passes: self.passes(),
            stats: self.executor_stats(),
            undone: BTreeMap::new(),
            hung: 0,
            kept: false,
        }
    }

    /// The thread of the loop panicked: nobody may go on waiting for it.
    fn failed(&self, text: &str) {
        let error = CallFailed::new(format!("the loop ended by a bug: {text}"));
        self.callback_failed(Part::Loop, "panic", None, error);
        self.intake.abort();
        let before = self.published.load();
        for daemon in supervised(&before.view) {
            // It may be what panicked.
            let _ = isolated(|| {
                self.parts.dispatcher.supervise(daemon, false);
                Ok(())
            });
        }
        self.parts.records.close(Deadline::now());
        let (failures, failure_head_seq) = self.parts.records.failures();
        self.published.publish(MeshOsSnapshot {
            generation: before.generation + 1,
            published_at: self.parts.clock.now(),
            failures,
            failure_head_seq,
            ..MeshOsSnapshot::clone(&before)
        });
        self.alive.store(false, Ordering::Release);
        self.questions.lock().clear();
        self.ears.close(None);
        self.verdicts.end();
        self.published.end();
        *self.ended.lock() = Some(self.unfinished(LoopEnd::Failed));
        self.bell.notify_all();
    }
}

/// What the loop has published last, to know whether anything changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Seen {
    view: u64,
    obeyed: u64,
    records: u64,
    callbacks: u64,
    recovery: u64,
    migrations: u64,
}

/// Moves as they were listed last.
#[derive(Default)]
struct Listed {
    moves: Mutex<(Arc<[MigrationStatus]>, u64)>,
}

/// Says that something is under way, as long as it lives.
struct Busy(Arc<AtomicBool>);

impl Busy {
    /// `None`: it is under way already.
    fn begin(flag: &Arc<AtomicBool>) -> Option<Self> {
        (!flag.swap(true, Ordering::AcqRel)).then(|| Self(Arc::clone(flag)))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Calls of one piece of user code, one at a time and in order.
struct Line {
    callback: Arc<Callback>,
    queue: Mutex<(std::collections::VecDeque<Said>, bool)>,
}

type Said = Box<dyn FnOnce() -> Result<(), CallFailed> + Send>;

/// Calls that one line may be behind.
const LINE_MAX: usize = 1024;

struct Runner {
    shared: Arc<Shared>,
    behaviour: Behaviour,
    batch: Batch,
    sampler: Sampler,
    sampled: SampleSink,
    dispatching: Arc<Callback>,
    scoring: Option<(Arc<dyn PlacementScorer>, Arc<Callback>)>,
    scorer_changes: u64,
    pressure: Arc<Line>,
    controls: Option<Arc<Line>>,
    aborts: Option<Arc<Callback>>,
    listing: Option<Arc<Callback>>,
    listed: Arc<Listed>,
    listing_now: Arc<AtomicBool>,
    /// All recovery handlers together: one that hangs shows here.
    recovery: Option<Arc<Callback>>,
    recovering: Arc<AtomicBool>,
    polling: Arc<AtomicBool>,
    /// When the poll that is under way began, unless it was told to be slow.
    polled: Option<Instant>,
    tick_due: Instant,
    /// Until then, events that are not urgent may gather.
    calm: Deadline,
    roster_due: Instant,
    next: Option<UnixMs>,
    more: bool,
    ending: bool,
    tick: u64,
    seen: Option<Seen>,
    repairs: u64,
    /// What became of envelopes in this pass, with the numbers of their records.
    verdicts: Vec<(Judged, u64)>,
    /// Held commands: the numbers of their records, and until when these may be waited for.
    held: BTreeMap<[u8; 16], (u64, Deadline)>,
}

impl Runner {
    fn new(shared: Arc<Shared>, behaviour: Behaviour) -> Self {
        let parts = &shared.parts;
        let callbacks = &parts.callbacks;
        let dispatching = callbacks.add(parts.dispatcher.name(), Part::Action);
        let pressure = format!("{}.on_cluster_backpressure", parts.dispatcher.name());
        let line = |name: &str| {
            Arc::new(Line {
                callback: callbacks.add(name, Part::Callback),
                queue: Mutex::default(),
            })
        };
        let told = Arc::clone(&shared.intake);
        let failed = Arc::downgrade(&shared);
        let sampled: SampleSink = Arc::new(move |sampled| match sampled {
            Sampled::Samples { probe, samples } => told.result(Signal::Samples { probe, samples }),
            Sampled::Removed { probe } => told.result(Signal::ProbeRemoved { probe }),
            Sampled::Failed { probe, name, error } => {
                if let Some(shared) = failed.upgrade() {
                    shared.callback_failed(Part::Probe, &name, Some(probe), error);
                }
            }
        });
        let now = Instant::now();
        Self {
            sampler: Sampler::new(parts.probes.clone(), Arc::clone(callbacks)),
            sampled,
            dispatching,
            scoring: None,
            scorer_changes: u64::MAX,
            pressure: line(&pressure),
            controls: parts.sink.as_ref().map(|sink| line(sink.name())),
            aborts: parts
                .aborter
                .as_ref()
                .map(|aborter| callbacks.add(aborter.name(), Part::Migration)),
            listing: parts
                .migrations
                .as_ref()
                .map(|source| callbacks.add(source.name(), Part::Migration)),
            listed: Arc::default(),
            listing_now: Arc::default(),
            recovery: None,
            recovering: Arc::default(),
            polling: Arc::default(),
            polled: None,
            tick_due: now,
            calm: Deadline::at(now),
            roster_due: now + ROSTER_INTERVAL,
            next: None,
            more: false,
            ending: false,
            tick: 0,
            seen: None,
            repairs: 0,
            verdicts: Vec::new(),
            held: BTreeMap::new(),
            shared,
            behaviour,
            batch: Batch::default(),
        }
    }

    fn run(&mut self) {
        let mut left_at = None;
        loop {
            match self.pass(false) {
                Going::On => {}
                Going::Ending => {
                    let idle = self.is_idle() && !self.more;
                    // What was dispatched may be confirmed by a result that is on its way: one more look.
                    if idle && left_at == Some(self.shared.passes()) {
                        break;
                    }
                    left_at = Some(self.shared.passes() + 1);
                }
                Going::Gone => break,
            }
        }
        self.end();
    }

    /// One pass: wait, take in, step, have done, publish.
    fn pass(&mut self, first: bool) -> Going {
        let mut batch = std::mem::take(&mut self.batch);
        self.shared.intake.take(self.wait_until(first), self.calm, &mut batch);
        if batch.aborted {
            return Going::Gone;
        }
        let began = Instant::now();
        self.calm = Deadline::at(began + CALM);
        self.ending = batch.ending;
        let ending = batch.ending;
        self.give_up();
        let asked = self.ask(&batch, began);
        self.close_ears(&batch);
        let (holding, late) = (self.shared.ears.holding(), started(&batch));
        let now = self.shared.parts.clock.now();
        let step = self.behaviour.step(now, asked.into_iter().chain(batch.drain()));
        (self.more, self.next) = (step.more || batch.more, step.next);
        self.repairs += step.sweep_repairs;
        for daemon in late {
            for control in holding.controls() {
                self.shared.parts.keeper.control(daemon, control);
            }
        }
        self.have_done(step);
        // Before anybody is told that it is folded, whoever asks sees what it did.
        self.publish(now, began);
        self.tell_verdicts();
        self.shared.passes.fetch_add(1, Ordering::Relaxed);
        self.shared.intake.folded(&batch);
        self.batch = batch;
        self.answer();
        if ending { Going::Ending } else { Going::On }
    }

    fn close_ears(&self, batch: &Batch) {
        if self.shared.ears.is_empty() {
            return;
        }
        for signal in batch.signals() {
            if let Signal::Registry {
                daemon,
                signal: DaemonSignal::ExitedCleanly,
                ..
            } = signal
            {
                self.shared.ears.close(Some(daemon.id));
            }
        }
    }

    fn wait_until(&self, first: bool) -> Deadline {
        if self.more || first || (self.ending && self.is_idle()) {
            return Deadline::after(Duration::ZERO);
        }
        // A loop that ends ticks no more: it waits for what runs.
        let tick = if self.ending {
            Deadline::never()
        } else {
            Deadline::at(self.tick_due)
        };
        let held = self.held.values().map(|(_, until)| *until);
        let until = held.fold(tick, Deadline::sooner);
        match self.next {
            Some(next) => until.sooner(self.shared.parts.clock.instant(next)),
            None => until,
        }
    }

    /// Whether nothing is under way that a loop which ends waits for.
    fn is_idle(&self) -> bool {
        self.behaviour.running() == 0 && self.held.is_empty()
    }

    /// What a tick asks, and what changed hands since the last pass.
    fn ask(&mut self, batch: &Batch, now: Instant) -> Vec<Signal> {
        let mut signals = Vec::new();
        if batch.ending {
            return signals;
        }
        let changes = self.shared.parts.scheduler.changes();
        if self.scorer_changes != changes {
            let first = self.scorer_changes == u64::MAX;
            self.scorer_changes = changes;
            let scorer = self.shared.parts.scheduler.current();
            let installed = scorer.is_some();
            let callbacks = &self.shared.parts.callbacks;
            if let Some((_, callback)) = self.scoring.take() {
                callbacks.remove(&callback);
            }
            self.scoring = scorer.map(|scorer| {
                let callback = callbacks.add(scorer.name(), Part::Callback);
                (scorer, callback)
            });
            if installed || !first {
                signals.push(Signal::ScorerChanged { installed });
            }
        }
        if batch.roster_wanted || now >= self.roster_due {
            self.roster_due = now + ROSTER_INTERVAL;
            let (daemons, number) = self.shared.parts.keeper.roster();
            // After what the registry told before: else what a roster reflects would be folded twice.
            self.shared.intake.roster(Signal::Roster { daemons, number });
        }
        if now >= self.tick_due {
            // A late tick is made up for by none: the next comes a whole interval later.
            self.tick_due = now + self.shared.config.tick_interval;
            self.tick(now);
        }
        signals
    }

    fn tick(&mut self, now: Instant) {
        self.tick += 1;
        let shared = &self.shared;
        let parts = &shared.parts;
        let budget = shared.budget();
        parts.callbacks.mark_late(now, budget);
        self.sampler.poll(&parts.lanes, budget, &self.sampled);
        if !parts.recovery.is_empty()
            && let Some(busy) = Busy::begin(&self.recovering)
        {
            let add = || parts.callbacks.add("recovery handlers", Part::Recovery);
            let (shared, callback) = (Arc::clone(shared), Arc::clone(self.recovery.get_or_insert_with(add)));
            on_lane(&parts.lanes, move || {
                // What a handler raises is counted there: the whole never fails.
                callback.run(Instant::now(), budget, || {
                    recover(&shared, budget);
                    Ok(())
                });
                drop(busy);
            });
        }
        if let Some(busy) = Busy::begin(&self.polling) {
            self.polled = Some(now);
            let keeper = Arc::clone(&parts.keeper);
            on_lane(&parts.lanes, move || {
                keeper.poll();
                drop(busy);
            });
        } else if self.polled.is_some_and(|polled| now - polled > POLL_MAX) {
            // Once for each poll.
            self.polled = None;
            let error = CallFailed::new(format!("a daemon has not answered for {} ms", POLL_MAX.as_millis()));
            shared.callback_failed(Part::Callback, "health of daemons", None, error);
        }
        self.list_moves(budget);
    }

    fn list_moves(&self, budget: Duration) {
        let (Some(source), Some(callback)) = (&self.shared.parts.migrations, &self.listing) else {
            return;
        };
        let Some(busy) = Busy::begin(&self.listing_now) else {
            return;
        };
        let (source, callback, listed) = (Arc::clone(source), Arc::clone(callback), Arc::clone(&self.listed));
        let shared = Arc::clone(&self.shared);
        on_lane(&self.shared.parts.lanes, move || {
            match callback.run(Instant::now(), budget, || source.list()) {
                Some(Ok(moves)) => {
                    let mut known = listed.moves.lock();
                    if *known.0 != *moves {
                        known.0 = moves.into();
                        known.1 += 1;
                        drop(known);
                        shared.intake.nudge();
                    }
                }
                Some(Err(error)) => shared.callback_failed(Part::Migration, source.name(), None, error),
                None => {}
            }
            drop(busy);
        });
    }

    fn have_done(&mut self, step: Step) {
        let shared = Arc::clone(&self.shared);
        let records = &shared.parts.records;
        if !step.judged.is_empty() {
            let now = shared.parts.clock.now();
            *shared.cooldowns.lock() = self.behaviour.ledger().cooldowns(now).collect();
        }
        let (earlier, judged): (Vec<Judged>, Vec<Judged>) = step.judged.into_iter().partition(|told| told.recorded);
        for told in earlier {
            let audit_seq = self.held.remove(&told.envelope_id).map_or(0, |(seq, _)| seq);
            self.verdicts.push((told, audit_seq));
        }
        let at = self.behaviour.now();
        let mut judged = judged.into_iter().peekable();
        let mut held = step.held.into_iter().peekable();
        for (place, command) in step.audits.into_iter().enumerate() {
            // Records are numbered in the order in which commands were folded.
            while let Some((_, held)) = held.next_if(|(before, _)| *before <= place) {
                self.hold(at, held);
            }
            let envelope_id = command.envelope_id;
            let line = match &command.verdict {
                Verdict::Rejected { kind } => Some(format!("refused {}: {kind}", command.order.kind())),
                Verdict::Accepted | Verdict::Open => None,
            };
            let (audit_seq, is_new) = records.audit(at, command);
            if let Some(line) = line.filter(|_| is_new) {
                records.line(meshos_core::signal::LogLevel::Warn, None, &line);
            }
            if let Some(told) = judged.next_if(|judged| Some(judged.envelope_id) == envelope_id) {
                self.verdicts.push((told, audit_seq));
            }
        }
        for (_, command) in held {
            self.hold(at, command);
        }
        for (daemon, wanted) in step.supervise {
            shared.parts.dispatcher.supervise(daemon, wanted);
        }
        for failure in step.failures {
            records.failure(failure);
        }
        for disposed in step.disposed {
            records.action(disposed);
        }
        if let Some(kind) = step.first_refused {
            let dropped = self.behaviour.stats().dropped - shared.dropped.load(Ordering::Relaxed);
            let capacity = shared.config.action_queue_capacity;
            let line = format!("the queue of {capacity} actions refused {dropped}, the first a {kind}");
            records.line(meshos_core::signal::LogLevel::Warn, None, &line);
        }
        shared.dropped.store(self.behaviour.stats().dropped, Ordering::Relaxed);
        *shared.stats.lock() = *self.behaviour.stats();
        // A daemon that is stopped for a drain hears of the drain first.
        for control in step.controls {
            self.tell(control.into());
        }
        for dispatch in step.dispatches {
            self.dispatch(dispatch);
        }
        if let Some(level) = step.pressure {
            let dispatcher = Arc::clone(&shared.parts.dispatcher);
            let said = move || dispatcher.on_cluster_backpressure(level.is_some(), level.unwrap_or_default());
            push(&shared, &self.pressure, Box::new(said));
        }
        for daemon in step.kill {
            self.kill(daemon);
        }
        self.score(step.scores);
        self.fingerprints(step.fingerprints);
    }

    fn dispatch(&self, dispatch: Dispatch) {
        let shared = Arc::clone(&self.shared);
        let callback = Arc::clone(&self.dispatching);
        let Dispatch { id, mut action, cause } = dispatch;
        if let MeshOsAction::StopDaemon { daemon, deadline, .. } = &mut action {
            // Daemons are told by the wall clock.
            *deadline = shared.parts.clock.wall(*deadline);
            if let Some(promised) = shared.leaving.lock().get(&daemon.id) {
                *deadline = (*deadline).min(*promised);
            }
            let deadline = *deadline;
            shared.ears.tell(Some(daemon.id), DaemonControl::Shutdown { deadline });
        }
        let told = Arc::clone(&self.shared.intake);
        let submitted = on_lane(&self.shared.parts.lanes, move || {
            let mut outcome = None;
            let ran = callback.run(Instant::now(), DISPATCH_BUDGET, || {
                let dispatched = crate::dispatch::dispatch(&*shared.parts.dispatcher, id, &action, &cause);
                let raised = match &dispatched {
                    Outcome::Raised { reason, .. } => Err(CallFailed::new(reason.to_string())),
                    Outcome::Done | Outcome::Drop { .. } | Outcome::Retry { .. } => Ok(()),
                };
                outcome = Some(dispatched);
                raised
            });
            let outcome = match (ran, outcome) {
                (_, Some(outcome)) => outcome,
                (None, None) => Outcome::Drop {
                    reason: Arc::from("the dispatcher is left alone after failing too often"),
                },
                (Some(ran), None) => Outcome::Raised {
                    reason: Arc::from(ran.err().map_or_else(String::new, |error| error.reason)),
                    traceback: None,
                },
            };
            if outcome == Outcome::Done && shared.parts.dispatcher.commits_maintenance() {
                observe(&shared, &action);
            }
            shared.intake.result(Signal::Dispatched { id, outcome });
        });
        if !submitted {
            let reason = Arc::from("the lanes are closed");
            told.result(Signal::Dispatched {
                id,
                outcome: Outcome::Drop { reason },
            });
        }
    }

    fn tell(&self, control: DaemonControl) {
        let shared = &self.shared;
        let control = match control {
            DaemonControl::DrainStart { deadline } => DaemonControl::DrainStart {
                deadline: shared.parts.clock.wall(deadline),
            },
            other => other,
        };
        shared.parts.keeper.broadcast(control);
        shared.ears.tell(None, control);
        if let (Some(sink), Some(line)) = (&shared.parts.sink, &self.controls) {
            let sink = Arc::clone(sink);
            push(shared, line, Box::new(move || sink.emit(control)));
        }
    }

    /// Has the record of a command kept before the command takes effect.
    fn hold(&mut self, at: UnixMs, command: Command) {
        let Some(envelope_id) = command.envelope_id else { return };
        let intake = Arc::clone(&self.shared.intake);
        let told = move |kept| intake.result(Signal::Recorded { envelope_id, kept });
        let seq = self.shared.parts.records.audit_first(at, command, told);
        self.held.insert(envelope_id, (seq, Deadline::after(AUDIT_TIMEOUT)));
    }

    /// Gives up on records that were not kept in time.
    fn give_up(&self) {
        for (envelope_id, (seq, until)) in &self.held {
            if until.passed() && self.shared.parts.records.give_up(*seq) {
                let (envelope_id, kept) = (*envelope_id, false);
                self.shared.intake.result(Signal::Recorded { envelope_id, kept });
            }
        }
    }

    /// Tells those who wait, once the snapshot that shows it is out.
    fn tell_verdicts(&mut self) {
        let generation = self.shared.published.generation();
        for (told, audit_seq) in self.verdicts.drain(..) {
            let verdict = verdicts::Verdict {
                refused: told.refused,
                audit_seq,
                generation,
            };
            self.shared.verdicts.tell(told.envelope_id, verdict);
        }
    }

    fn kill(&self, daemon: Origin) {
        let shared = Arc::clone(&self.shared);
        let (Some(aborter), Some(callback)) = (&self.shared.parts.aborter, &self.aborts) else {
            let error = CallFailed::new("there is no migration aborter");
            shared.callback_failed(Part::Migration, "kill_migration", Some(daemon.get()), error);
            return;
        };
        let (aborter, callback) = (Arc::clone(aborter), Arc::clone(callback));
        let budget = self.shared.budget();
        on_lane(&self.shared.parts.lanes, move || {
            let ended = callback.run(Instant::now(), budget, || {
                if aborter.is_no_op() {
                    return Err(CallFailed::new("the migration aborter does nothing"));
                }
                aborter.abort(daemon)
            });
            let left_alone = || {
                Err(CallFailed::new(
                    "the migration aborter is left alone after failing too often",
                ))
            };
            if let Err(error) = ended.unwrap_or_else(left_alone) {
                shared.callback_failed(Part::Migration, "kill_migration", Some(daemon.get()), error);
            }
        });
    }

    fn score(&self, requests: Vec<ScoreRequest>) {
        let Some((scorer, callback)) = &self.scoring else {
            return;
        };
        let budget = self.shared.budget();
        for requests in requests.chunks(SCORES_PER_JOB) {
            let (scorer, callback) = (Arc::clone(scorer), Arc::clone(callback));
            let (told, requests) = (Arc::clone(&self.shared.intake), requests.to_vec());
            on_lane(&self.shared.parts.lanes, move || {
                for request in &requests {
                    told.result(Signal::Scored(scorer::score(&*scorer, &callback, budget, request)));
                }
            });
        }
    }

    fn fingerprints(&self, nodes: Vec<NodeId>) {
        let Some((scorer, callback)) = &self.scoring else {
            return;
        };
        if nodes.is_empty() {
            return;
        }
        let (scorer, callback) = (Arc::clone(scorer), Arc::clone(callback));
        let (told, budget) = (Arc::clone(&self.shared.intake), self.shared.budget());
        on_lane(&self.shared.parts.lanes, move || {
            told.result(Signal::Fingerprints(scorer::fingerprints(
                &*scorer, &callback, budget, &nodes,
            )));
        });
    }

    fn publish(&mut self, now: UnixMs, began: Instant) {
        let shared = &self.shared;
        let parts = &shared.parts;
        let took = began.elapsed();
        *shared.tick_at.lock() = (now, took);
        let seen = Seen {
            view: self.behaviour.view().generation,
            obeyed: self.behaviour.control().obeyed().iter().sum(),
            records: parts.records.changes(),
            callbacks: parts.callbacks.changes(),
            recovery: parts.recovery.changes(),
            migrations: self.listed.moves.lock().1,
        };
        if self.seen == Some(seen) {
            return;
        }
        self.seen = Some(seen);
        let before = shared.published.load();
        let (failures, failure_head_seq) = parts.records.failures();
        let (audit_head_seq, log_head_seq) = parts.records.heads();
        shared.published.publish(MeshOsSnapshot {
            runtime_epoch_id: shared.epoch_id,
            generation: before.generation + 1,
            tick: self.tick,
            published_at: now,
            this_node: shared.this_node,
            authority: before.authority,
            control: self.behaviour.control().clone(),
            view: self.behaviour.view().clone(),
            failures,
            migrations: Arc::clone(&self.listed.moves.lock().0),
            recovery: parts.recovery.status().into(),
            callbacks: Arc::new(parts.callbacks.statuses(began, shared.budget())),
            audit_head_seq,
            log_head_seq,
            failure_head_seq,
            metrics: LoopMetrics {
                tick_took: took,
                event_queue_depth: shared.intake.depth() as u64,
                action_queue_depth: self.behaviour.depth() as u64,
                dropped_actions: shared.dropped_actions(),
                refused_events: shared.intake.refused(),
                sweep_repairs: self.repairs,
                refused_entities: self.behaviour.refused_entities(),
            },
        });
    }

    fn answer(&self) {
        let questions = std::mem::take(&mut *self.shared.questions.lock());
        for question in questions {
            let said = meshos_core::explain::explain(self.behaviour.world(), question.key);
            *question.answer.said.lock() = Some(said);
            question.answer.bell.notify_all();
        }
    }

    fn end(&mut self) {
        let undone = self.behaviour.undone();
        let shared = &self.shared;
        for (kind, count) in &undone {
            let error = CallFailed::new(format!("{count} left undone by the shutdown"));
            shared.callback_failed(Part::Loop, kind, None, error);
        }
        // Nobody starts a daemon again any more: those that are down go on by themselves.
        for daemon in supervised(self.behaviour.view()) {
            shared.parts.dispatcher.supervise(daemon, false);
        }
        let now = shared.parts.clock.now();
        let hung = self.behaviour.running();
        let passes = shared.passes();
        let stats = shared.executor_stats();
        self.publish(now, Instant::now());
        let shared = Arc::clone(&self.shared);
        // An appender that waits for an answer of the loop would wait as long as the loop waits for it.
        shared.alive.store(false, Ordering::Release);
        self.answer();
        shared.intake.abort();
        shared.verdicts.end();
        // Without a shutdown nobody waits for the appenders: what they have not kept is marked.
        let end_by = *shared.end_by.lock();
        let kept = shared
            .parts
            .records
            .close(end_by.unwrap_or_else(|| Deadline::after(Duration::ZERO)));
        self.publish(now, Instant::now());
        self.behaviour.ledger().clone_into(&mut shared.ledger.lock());
        shared.ears.close(None);
        shared.published.end();
        *shared.ended.lock() = Some(Ended {
            end: LoopEnd::Done,
            passes,
            stats,
            undone,
            hung,
            kept,
        });
        shared.bell.notify_all();
    }
}

/// The daemons that came, or came back: they have heard of nothing yet.
fn started(batch: &Batch) -> Vec<Origin> {
    let started = batch.signals().filter_map(|signal| match signal {
        Signal::Registry {
            daemon,
            signal: DaemonSignal::Started,
            ..
        } => Some(daemon.id),
        _ => None,
    });
    started.collect()
}

/// The daemons that a loop watches over: others may be another's.
fn supervised(view: &View) -> impl Iterator<Item = Origin> + '_ {
    let daemons = view.daemons.values().filter(|known| known.supervised);
    daemons.map(|known| known.daemon.id)
}

/// Whether a loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Going {
    On,
    Ending,
    Gone,
}

/// A dispatcher that commits transitions has them observed by the loop.
fn observe(shared: &Shared, action: &MeshOsAction) {
    if let MeshOsAction::CommitMaintenanceTransition { node, target } = action {
        let event = MeshOsEvent::MaintenanceTransitionObserved {
            node: *node,
            state: target.clone(),
        };
        shared.intake.result(Signal::Event(event));
    }
}

fn recover(shared: &Shared, budget: Duration) {
    shared.parts.recovery.run_within(budget, |name, outcome, evicted| {
        match outcome {
            Ok(slots) if slots.is_empty() => {}
            Ok(slots) => shared.intake.result(Signal::Recovered { name, slots }),
            Err(error) => {
                let reason = if evicted {
                    format!("{}; evicted", error.reason)
                } else {
                    error.reason
                };
                let error = CallFailed {
                    reason,
                    traceback: error.traceback,
                };
                shared.callback_failed(Part::Recovery, &name, None, error);
            }
        };
    });
}

/// Has a line call user code after everything it was given before.
fn push(shared: &Arc<Shared>, line: &Arc<Line>, said: Said) {
    let mut queue = line.queue.lock();
    if queue.0.len() >= LINE_MAX {
        drop(queue);
        let error = CallFailed::new("not told: too many calls wait for it");
        shared.callback_failed(Part::Callback, line.callback.name(), None, error);
        return;
    }
    queue.0.push_back(said);
    if std::mem::replace(&mut queue.1, true) {
        return;
    }
    drop(queue);
    let (held, budget) = (Arc::clone(line), shared.budget());
    let shared = Arc::clone(shared);
    let lanes = shared.parts.lanes.clone();
    on_lane(&lanes, move || {
        loop {
            let mut queue = held.queue.lock();
            let Some(said) = queue.0.pop_front() else {
                queue.1 = false;
                return;
            };
            drop(queue);
            let mut said = Some(said);
            let ran = held
                .callback
                .run(Instant::now(), budget, || said.take().map_or(Ok(()), |said| said()));
            let left_alone = || Err(CallFailed::new("not told: it is left alone after failing too often"));
            if let Err(error) = ran.unwrap_or_else(left_alone) {
                shared.callback_failed(Part::Callback, held.callback.name(), None, error);
            }
        }
    });
}
