//! How one daemon is kept.

use meshos_core::config::{DaemonHostConfig, Delivery, Durability, OnError};
use pyo3::prelude::*;

use crate::record::options::options;
use crate::record::word::literal;

options! {
    /// How one daemon is kept. Options are given by keyword; raises `ConfigError`.
    pub struct PyDaemonHostConfig(DaemonHostConfig) in "meshos.daemon" as "DaemonHostConfig",
    signature "(*, auto_snapshot_interval=0, max_log_entries=10000, delivery='once', on_error='raise', \
        durability='none', attempts_max=5, outputs_max=10000, outputs_bytes_max=67108864)" {
        /// Events between snapshots that are taken on their own; 0: none.
        auto_snapshot_interval: u64,
        /// Inputs kept since the newest snapshot when `on_error` is "restore"; one more forces a snapshot first.
        max_log_entries: u32,
        /// What happens to a number seen before.
        delivery: Delivery,
        /// State after a raise: as user code left it, or rebuilt from the newest snapshot and the inputs since.
        on_error: OnError,
        /// What of it outlives the process: nothing, or everything, kept before it is acknowledged.
        durability: Durability,
        /// Tries at an event that nobody waits for, before it is passed over and becomes a dead letter. At least 1.
        attempts_max: u32,
        /// Outputs kept for export; older ones are dropped, and the export begins after them.
        outputs_max: u32,
        /// Payload bytes of the outputs kept for export.
        outputs_bytes_max: u64,
    }
}

literal! { Delivery { Once = "once", AtLeastOnce = "at_least_once", } }
literal! { OnError { Raise = "raise", Restore = "restore", } }
literal! { Durability { None = "none", Journal = "journal", } }

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyDaemonHostConfig>()
}
