//! The thread of a behaviour loop: takes signals in, steps the core, has done what it wants.
//!
//! Invariants
//! * The thread never calls user code and never waits for it: everything of the kind is a job on the callback lanes, and
//!   its result comes back as a signal.
//! * A change wakes the loop at once, and events that follow closely go in together. The tick is when probes, recovery
//!   handlers and daemons are asked.
//! * A loop that ends publishes a last snapshot, and says what it left undone.
//! * A loop that panics, which is a bug of ours, ends: nobody waits for it any more, and whoever asks is told.

mod runner;
mod shared;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use meshos_core::authority::{Ledger, Policy};
use meshos_core::behaviour::Behaviour;
use meshos_core::control::DaemonControl;
use meshos_core::control_state::ControlState;
use meshos_core::id::{NodeId, Origin};
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::signal::{RosterEntry, Signal};
use meshos_core::status::{AuthorityStatus, ExecutorStats, LoopMetrics, MeshOsSnapshot, View};

use self::runner::Runner;
use crate::callback::{Callbacks, isolated};
use crate::clock::{Deadline, LoopClock};
use crate::dispatch::{ActionDispatcher, ControlSink, MigrationAborter, MigrationSnapshotSource};
use crate::ears::Ears;
use crate::intake::Intake;
use crate::lane::{Job, Lanes};
use crate::probes::ProbeRegistry;
use crate::published::Published;
use crate::records::Records;
use crate::recovery::RecoveryRegistry;
use crate::scorer::SchedulerRegistry;
use crate::sync::{Condvar, Mutex};
use crate::verdicts::Verdicts;

pub use self::shared::{Leaving, Shared};

/// How long a loop that is told to end at once may take for the step that it is in.
const LAST_STEP: Duration = Duration::from_millis(500);

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

/// The daemons that a loop watches over: others may be another's.
fn supervised(view: &View) -> impl Iterator<Item = Origin> + '_ {
    let daemons = view.daemons.values().filter(|known| known.supervised);
    daemons.map(|known| known.daemon.id)
}
