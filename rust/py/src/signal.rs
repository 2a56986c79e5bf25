//! Signals about daemons: what a registry tells its observers, and what is published to a behaviour loop.

use std::sync::Arc;

use meshos_core::event::{Crash, DaemonHealth, DaemonLifecycleSignal};
use meshos_core::id::Origin;
use meshos_core::signal;
use meshos_core::time::UnixMs;
use pyo3::prelude::*;

use crate::record::field::Share;
use crate::record::moment::Moment;
use crate::record::record;
use crate::record::union::union;

record! {
    /// The daemon is in the registry.
    pub struct PyRegistered in "meshos.events" as "Registered", kind "registered" {}
}

record! {
    /// The daemon left the registry.
    pub struct PyUnregistered in "meshos.events" as "Unregistered", kind "unregistered" {}
}

record! {
    /// The daemon runs.
    pub struct PyStarted in "meshos.events" as "Started", kind "started", signature "(at=None)" {
        /// When; `None`: when the loop takes it in.
        at: Option<Moment> = None,
    }
}

record! {
    /// The daemon was stopped as intended.
    pub struct PyExitedCleanly in "meshos.events" as "ExitedCleanly", kind "exited_cleanly", signature "(at=None)" {
        /// When; `None`: when the loop takes it in.
        at: Option<Moment> = None,
    }
}

record! {
    /// The daemon's code raised, or the daemon is gone.
    pub struct PyCrashed in "meshos.events" as "Crashed", kind "crashed", signature "(reason, at=None)" {
        /// The error, in one line.
        reason: Arc<str>,
        /// When; `None`: when the loop takes it in.
        at: Option<Moment> = None,
    }
}

record! {
    /// The daemon failed too often on an event, which is a dead letter now.
    pub struct PyPassedOver in "meshos.events" as "PassedOver", kind "passed_over",
    signature "(origin_hash, sequence, letter, attempts)" {
        /// Who sent the event.
        origin_hash: Origin,
        /// Its number there.
        sequence: u64,
        /// Number of the dead letter.
        letter: u64,
        /// Tries at the event.
        attempts: u32,
    }
}

record! {
    /// The daemon reports another health.
    pub struct PyHealthChanged in "meshos.events" as "HealthChanged", kind "health_changed",
    signature "(health, at=None)" {
        /// What it reports now.
        health: DaemonHealth,
        /// When; `None`: when the loop takes it in.
        at: Option<Moment> = None,
    }
}

record! {
    /// The daemon reports another load.
    pub struct PySaturationChanged in "meshos.events" as "SaturationChanged", kind "saturation_changed",
    signature "(saturation, at=None)" {
        /// 0 (idle) to 1 (full).
        saturation: Share,
        /// When; `None`: when the loop takes it in.
        at: Option<Moment> = None,
    }
}

union! {
    /// What a registry tells its observers.
    pub enum LifecycleSignal, "a lifecycle signal" {
        Registered(PyRegistered),
        Unregistered(PyUnregistered),
        Started(PyStarted),
        ExitedCleanly(PyExitedCleanly),
        Crashed(PyCrashed),
        PassedOver(PyPassedOver),
        HealthChanged(PyHealthChanged),
        SaturationChanged(PySaturationChanged),
    }
}

union! {
    /// What is published of a daemon.
    pub enum DaemonSignal, "Started, ExitedCleanly, Crashed, HealthChanged or SaturationChanged" {
        Started(PyStarted),
        ExitedCleanly(PyExitedCleanly),
        Crashed(PyCrashed),
        HealthChanged(PyHealthChanged),
        SaturationChanged(PySaturationChanged),
    }
}

/// The event around it says when.
impl From<&DaemonLifecycleSignal> for LifecycleSignal {
    fn from(signal: &DaemonLifecycleSignal) -> Self {
        let at = None;
        match signal {
            DaemonLifecycleSignal::Registered => PyRegistered {}.into(),
            DaemonLifecycleSignal::Unregistered => PyUnregistered {}.into(),
            DaemonLifecycleSignal::Started => PyStarted { at }.into(),
            DaemonLifecycleSignal::Crashed { crash, .. } => PyCrashed {
                reason: Arc::clone(&crash.reason),
                at,
            }
            .into(),
            DaemonLifecycleSignal::PassedOver {
                event: (origin_hash, sequence),
                letter,
                attempts,
            } => PyPassedOver {
                origin_hash: *origin_hash,
                sequence: *sequence,
                letter: *letter,
                attempts: *attempts,
            }
            .into(),
            DaemonLifecycleSignal::HealthChanged { health } => PyHealthChanged {
                health: health.clone(),
                at,
            }
            .into(),
            DaemonLifecycleSignal::SaturationChanged { saturation } => PySaturationChanged {
                saturation: Share(*saturation),
                at,
            }
            .into(),
        }
    }
}

impl DaemonSignal {
    /// What the loop takes in, and when it happened. Who crashed is down until it is started again.
    pub fn core(&self) -> (signal::DaemonSignal, Option<UnixMs>) {
        let (signal, at) = match self {
            Self::Started(started) => (signal::DaemonSignal::Started, started.at),
            Self::ExitedCleanly(exited) => (signal::DaemonSignal::ExitedCleanly, exited.at),
            Self::Crashed(crashed) => {
                let crash = Crash::because(&crashed.reason);
                (signal::DaemonSignal::Crashed { crash, down: true }, crashed.at)
            }
            Self::HealthChanged(changed) => (signal::DaemonSignal::HealthChanged(changed.health.clone()), changed.at),
            Self::SaturationChanged(changed) => (
                signal::DaemonSignal::SaturationChanged(changed.saturation.into()),
                changed.at,
            ),
        };
        (signal, at.map(Moment::unix_ms))
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyRegistered>()?;
    module.add_class::<PyUnregistered>()?;
    module.add_class::<PyStarted>()?;
    module.add_class::<PyExitedCleanly>()?;
    module.add_class::<PyCrashed>()?;
    module.add_class::<PyPassedOver>()?;
    module.add_class::<PyHealthChanged>()?;
    module.add_class::<PySaturationChanged>()
}
