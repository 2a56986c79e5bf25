//! How one daemon is kept.

use std::time::Duration;

use meshos_core::config::{DaemonHostConfig, Delivery, Durability, OnDivergence, OnError};
use pyo3::prelude::*;
use pyo3::types::PyDelta;

use crate::args;
use crate::record::field::Field;
use crate::record::options::options;
use crate::record::word::literal;

options! {
    /// How one daemon is kept. Options are given by keyword; raises `ConfigError`.
    pub struct PyDaemonHostConfig(DaemonHostConfig) in "meshos.daemon" as "DaemonHostConfig",
    signature "(*, auto_snapshot_interval=0, max_log_entries=10000, delivery='once', on_error='raise', \
        durability='none', on_divergence='stop', attempts_max=5, snapshots_max=2, outputs_max=10000, \
        outputs_bytes_max=67108864, outputs_age_max=None)" {
        /// Events between snapshots that are taken on their own; 0: none.
        auto_snapshot_interval: u64,
        /// Inputs kept since the newest snapshot when `on_error` is "restore"; one more forces a snapshot first.
        max_log_entries: u32,
        /// What happens to a number seen before.
        delivery: Delivery,
        /// State after a raise: as user code left it, or rebuilt from the newest snapshot and the inputs since.
        on_error: OnError,
        /// What of it outlives the process: nothing; the newest snapshot; or everything, kept before it is acknowledged.
        durability: Durability,
        /// What becomes of it, under "journal", when it does not do again what it did: it does not start, goes on from
        /// what it emitted, or is never asked to, since a snapshot is kept with every event.
        on_divergence: OnDivergence,
        /// Tries at an event that nobody waits for, before it is passed over and becomes a dead letter. At least 1.
        attempts_max: u32,
        /// Newest snapshots that a store keeps; all but the newest are there in case that it is damaged. At least 1.
        snapshots_max: u32,
        /// Outputs kept for export; older ones are dropped, and the export begins after them.
        outputs_max: u32,
        /// Payload bytes of the outputs kept for export.
        outputs_bytes_max: u64,
        /// Outputs older than this are not kept for export; `None`: age does not matter.
        outputs_age_max in outputs_age_max_ms: Age,
    }
}

literal! { Delivery { Once = "once", AtLeastOnce = "at_least_once", } }
literal! { OnError { Raise = "raise", Restore = "restore", } }
literal! { Durability { None = "none", Snapshot = "snapshot", Journal = "journal", } }
literal! {
    OnDivergence { Stop = "stop", Continue = "continue", SnapshotEveryEvent = "snapshot_every_event", }
}

/// How old something may get, in whole milliseconds.
struct Age(Option<u64>);

impl Field for Age {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        if value.is_none() {
            return Ok(Self(None));
        }
        let span = value.cast::<PyDelta>();
        span.map_err(|_| args::wrong_type(name, "a timedelta or None", value))?;
        let span = Duration::from_python(value, name)?;
        Ok(Self(Some(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))))
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.map(Duration::from_millis).to_python(py)
    }
}

impl From<Age> for Option<u64> {
    fn from(age: Age) -> Self {
        age.0
    }
}

impl From<Option<u64>> for Age {
    fn from(age: Option<u64>) -> Self {
        Self(age)
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyDaemonHostConfig>()
}
