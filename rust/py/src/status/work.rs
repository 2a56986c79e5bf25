//! How loop, executor and user code are doing.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use meshos_core::status::{CallbackStatus, Emission, ExecutorStats, InFlight, LoopMetrics, MeshOsSnapshot, Progress};
use meshos_core::time::UnixMs;
use pyo3::prelude::*;

use crate::record::moment::Moment;
use crate::record::record;
use crate::record::word::literal;

/// Where an action is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionState {
    /// It waits to be dispatched.
    Queued,
    /// It waits for a throttle or for its next try.
    Deferred,
    /// A dispatcher has it.
    Running,
    /// It was carried out; the world does not show it yet.
    AwaitingConfirmation,
    /// It is not under way any more.
    Done,
    /// It failed.
    Failed,
}

literal! {
    ActionState {
        Queued = "queued",
        Deferred = "deferred",
        Running = "running",
        AwaitingConfirmation = "awaiting_confirmation",
        Done = "done",
        Failed = "failed",
    }
}

record! {
    /// An action that was emitted.
    pub struct PyActionSnapshot in "meshos.status" as "ActionSnapshot", by keyword {
        /// Its number, rising from 1 in a run.
        action_id: u64,
        /// Its stable name.
        kind: Cow<'static, str>,
        /// The daemon, chain or node it is about.
        target: Option<u64>,
        /// Where it is; "done": it is not under way any more.
        state: ActionState,
        /// When it was emitted.
        emitted_at: Moment,
        /// Dispatches so far; 0 when it is not under way any more.
        attempts: u32,
    }
}

impl From<&InFlight> for PyActionSnapshot {
    fn from(action: &InFlight) -> Self {
        Self {
            action_id: action.id,
            kind: Cow::Borrowed(action.action.kind()),
            target: Some(action.action.target()),
            state: match action.progress {
                Progress::Queued => ActionState::Queued,
                Progress::Deferred { .. } => ActionState::Deferred,
                Progress::Running { .. } => ActionState::Running,
                Progress::AwaitingConfirmation { .. } => ActionState::AwaitingConfirmation,
                Progress::Cooling { .. } => ActionState::Failed,
            },
            emitted_at: Moment::of(action.emitted_at),
            attempts: action.attempts,
        }
    }
}

impl PyActionSnapshot {
    /// The actions under way, in the order of their numbers.
    pub fn in_flight(snapshot: &MeshOsSnapshot) -> Vec<Self> {
        let mut actions: Vec<Self> = snapshot
            .view
            .in_flight
            .values()
            .map(|action| Self::from(&**action))
            .collect();
        actions.sort_unstable_by_key(|action| action.action_id);
        actions
    }

    /// The newest emissions, oldest first, with what became of each as far as the snapshot knows.
    pub fn recently_emitted(snapshot: &MeshOsSnapshot) -> Vec<Self> {
        let in_flight = Self::in_flight(snapshot);
        let failed = snapshot
            .failures
            .iter()
            .filter_map(|record| record.failure.source.action_id);
        let failed: std::collections::BTreeSet<u64> = failed.collect();
        let emitted =
            |emission: &Emission| match in_flight.binary_search_by_key(&emission.id, |action| action.action_id) {
                Ok(found) => in_flight[found].clone(),
                Err(_) => Self {
                    action_id: emission.id,
                    kind: Cow::Borrowed(emission.kind),
                    target: Some(emission.target),
                    state: if failed.contains(&emission.id) {
                        ActionState::Failed
                    } else {
                        ActionState::Done
                    },
                    emitted_at: Moment::of(emission.emitted_at),
                    attempts: 0,
                },
            };
        snapshot.view.emissions.iter().map(emitted).collect()
    }
}

record! {
    /// How one piece of user code on the callback lane is doing.
    pub struct PyCallbackStatus in "meshos.status" as "CallbackStatus", by keyword {
        /// Calls that ended.
        calls: u64,
        /// Calls that raised or gave back something they must not.
        failures: u64,
        /// Answers that came after the budget.
        late: u64,
        /// Whether it failed too often in a row and is left alone for a while.
        disabled: bool,
        /// Longest call.
        slowest: Duration,
        /// What it raised last.
        last_error: Option<Arc<str>>,
    }
}

impl From<&CallbackStatus> for PyCallbackStatus {
    fn from(status: &CallbackStatus) -> Self {
        Self {
            calls: status.calls,
            failures: status.failures,
            late: status.late,
            disabled: status.disabled,
            slowest: status.slowest,
            last_error: status.last_error.clone(),
        }
    }
}

record! {
    /// How the loop is doing.
    pub struct PyLoopMetrics in "meshos.status" as "LoopMetrics", by keyword {
        /// Time of the last pass.
        tick_took: Duration,
        /// Events that wait.
        event_queue_depth: u64,
        /// Actions that wait.
        action_queue_depth: u64,
        /// Emissions that the full queue refused.
        dropped_actions: u64,
        /// Events that a full queue refused.
        refused_events: u64,
        /// Changes that only the full sweep found; 0 unless meshos has a bug.
        sweep_repairs: u64,
    }
}

impl From<LoopMetrics> for PyLoopMetrics {
    fn from(metrics: LoopMetrics) -> Self {
        Self {
            tick_took: metrics.tick_took,
            event_queue_depth: metrics.event_queue_depth,
            action_queue_depth: metrics.action_queue_depth,
            dropped_actions: metrics.dropped_actions,
            refused_events: metrics.refused_events,
            sweep_repairs: metrics.sweep_repairs,
        }
    }
}

record! {
    /// Counters of the executor.
    pub struct PyExecutorStatsSnapshot in "meshos.runtime" as "ExecutorStatsSnapshot", by keyword {
        /// Carried out.
        dispatched: u64,
        /// Failed for good, each once.
        failed: u64,
        /// Waited for a throttle.
        deferred: u64,
        /// Refused by a gate at the last moment.
        gated: u64,
        /// Tried again because the dispatcher asked for it.
        dispatch_retries: u64,
        /// Taken back because nobody wanted it any more.
        superseded: u64,
        /// Rising edges of back-pressure.
        cluster_backpressure_asserts: u64,
        /// Falling edges.
        cluster_backpressure_releases: u64,
        /// Action records that the appender could not keep.
        chain_append_failures: u64,
    }
}

impl From<ExecutorStats> for PyExecutorStatsSnapshot {
    fn from(stats: ExecutorStats) -> Self {
        Self {
            dispatched: stats.dispatched,
            failed: stats.failed,
            deferred: stats.deferred,
            gated: stats.gated,
            dispatch_retries: stats.dispatch_retries,
            superseded: stats.superseded,
            cluster_backpressure_asserts: stats.cluster_backpressure_asserts,
            cluster_backpressure_releases: stats.cluster_backpressure_releases,
            chain_append_failures: stats.chain_append_failures,
        }
    }
}

record! {
    /// What a runtime did in its life.
    pub struct PyRuntimeStats in "meshos.runtime" as "RuntimeStats", by keyword {
        /// Passes of its loop.
        reconcile_passes: u64,
        /// What its executor did.
        executor: PyExecutorStatsSnapshot,
        /// Emissions that the executor's full queue refused.
        dropped_actions: u64,
    }
}

impl PyRuntimeStats {
    /// So many passes, and what the executor did.
    pub fn of(reconcile_passes: u64, executor: ExecutorStats) -> Self {
        Self {
            reconcile_passes,
            executor: executor.into(),
            dropped_actions: executor.dropped,
        }
    }
}

record! {
    /// Whether the parts of a runtime are alive.
    pub struct PyRuntimeHealth in "meshos.runtime" as "RuntimeHealth", by keyword {
        /// Whether the loop is.
        loop_alive: bool,
        /// Whether the executor is.
        executor_alive: bool,
        /// When the last pass began.
        last_tick_at: Moment,
        /// How long it took.
        last_tick_took: Duration,
    }
}

impl PyRuntimeHealth {
    /// The health of a runtime whose last pass began `at`.
    pub fn of(loop_alive: bool, executor_alive: bool, at: UnixMs, took: Duration) -> Self {
        Self {
            loop_alive,
            executor_alive,
            last_tick_at: Moment::of(at),
            last_tick_took: took,
        }
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyActionSnapshot>()?;
    module.add_class::<PyCallbackStatus>()?;
    module.add_class::<PyLoopMetrics>()?;
    module.add_class::<PyExecutorStatsSnapshot>()?;
    module.add_class::<PyRuntimeStats>()?;
    module.add_class::<PyRuntimeHealth>()
}
