//! Daemons, as a snapshot of the loop shows them.

use std::sync::Arc;

use meshos_core::event::DaemonHealth;
use meshos_core::id::{NodeId, Origin};
use meshos_core::signal::{DaemonIntent, DaemonRef};
use meshos_core::status::{DaemonState, Lifecycle};
use meshos_core::supervision::RestartState;
use pyo3::prelude::*;

use crate::capability::Offered;
use crate::record::field::Share;
use crate::record::moment::Moment;
use crate::record::record;
use crate::record::union::union;
use crate::record::word::word;

word! {
    Lifecycle as "Lifecycle" in "meshos.status" {
        Stopped = "stopped",
        Starting = "starting",
        Running = "running",
        Stopping = "stopping",
    }
}

record! {
    /// May start at once.
    pub struct PyIdle in "meshos.status" as "Idle" {}
}

record! {
    /// Waits after a crash.
    pub struct PyBackingOff in "meshos.status" as "BackingOff" {
        /// Until when.
        until: Moment,
    }
}

record! {
    /// Crashed too often and cools down.
    pub struct PyCrashLooping in "meshos.status" as "CrashLooping" {
        /// Until when.
        until: Moment,
    }
}

union! {
    /// Whether a daemon may start.
    pub enum PyRestartState, "Idle, BackingOff or CrashLooping" {
        Idle(PyIdle),
        BackingOff(PyBackingOff),
        CrashLooping(PyCrashLooping),
    }
}

impl From<RestartState> for PyRestartState {
    fn from(state: RestartState) -> Self {
        match state {
            RestartState::Idle => PyIdle {}.into(),
            RestartState::BackingOff { until } => PyBackingOff {
                until: Moment::of(until),
            }
            .into(),
            RestartState::CrashLooping { until } => PyCrashLooping {
                until: Moment::of(until),
            }
            .into(),
        }
    }
}

record! {
    /// Why a daemon crashed last.
    pub struct PyCrashRecord in "meshos.status" as "CrashRecord", by keyword {
        /// Class name of the exception; empty when there was none.
        exception: Arc<str>,
        /// Its text, or the reason when there was no exception.
        message: Arc<str>,
        /// When.
        at: Moment,
        /// Origin of the event it failed on, if it was one.
        event_origin: Option<Origin>,
        /// Number of that event.
        event_sequence: Option<u64>,
    }
}

record! {
    /// One daemon that runs, ran or is wanted.
    pub struct PyDaemonSnapshot in "meshos.status" as "DaemonSnapshot", by keyword,
    signature "(*, ref, intent, lifecycle, health, saturation, restart_state, restarts, last_crash, started_at, \
        placement, capabilities=None)" {
        /// Which daemon.
        r#ref: DaemonRef,
        /// What is wanted of it; `None`: nothing.
        intent: Option<DaemonIntent>,
        /// Where it is.
        lifecycle: Lifecycle,
        /// What it said of itself since it started last.
        health: Option<DaemonHealth>,
        /// Its load since it started last, 0 to 1.
        saturation: Share,
        /// Whether it may start.
        restart_state: PyRestartState,
        /// Starts after a crash.
        restarts: u64,
        /// Why it crashed last.
        last_crash: Option<PyCrashRecord>,
        /// When it started last.
        started_at: Option<Moment>,
        /// The node it is on.
        placement: NodeId,
        /// What it adds to its node, as its author published last; `None`: nothing was published.
        capabilities: Option<Offered> = None,
    }
}

impl PyDaemonSnapshot {
    /// A daemon of a node.
    pub fn of(state: &DaemonState, node: NodeId) -> Self {
        let last_crash = state.last_crash.as_ref().map(|(crash, at)| {
            let told = !(crash.exception.is_empty() && crash.message.is_empty());
            PyCrashRecord {
                exception: Arc::clone(&crash.exception),
                message: Arc::clone(if told { &crash.message } else { &crash.reason }),
                at: Moment::of(*at),
                event_origin: crash.event.map(|(origin, _)| origin),
                event_sequence: crash.event.map(|(_, sequence)| sequence),
            }
        });
        Self {
            r#ref: state.daemon.clone(),
            intent: state.intent,
            lifecycle: state.lifecycle,
            health: state.health.clone(),
            saturation: state.saturation.into(),
            capabilities: state.capabilities.clone().map(Offered),
            restart_state: state.backoff.state.into(),
            restarts: state.restarts,
            last_crash,
            started_at: state.started_at.map(Moment::of),
            placement: node,
        }
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyIdle>()?;
    module.add_class::<PyBackingOff>()?;
    module.add_class::<PyCrashLooping>()?;
    module.add_class::<PyCrashRecord>()?;
    module.add_class::<PyDaemonSnapshot>()
}
