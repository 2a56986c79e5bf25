//! How one daemon is kept.

use meshos_core::config::{DaemonHostConfig, Delivery, Durability, OnError};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::args;
use crate::errors::{self, ConfigError, InvalidArgument};
use crate::guard::entry;
use crate::record::field::Given;
use crate::record::{self, Record, Reduced};

/// How one daemon is kept. Options are given by keyword; raises `ConfigError`.
#[pyclass(frozen, eq, hash, name = "DaemonHostConfig", module = "meshos.daemon")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PyDaemonHostConfig(pub DaemonHostConfig);

impl Record for PyDaemonHostConfig {
    const FIELDS: &'static [&'static str] = &[
        "auto_snapshot_interval",
        "max_log_entries",
        "delivery",
        "on_error",
        "durability",
        "attempts_max",
        "outputs_max",
        "outputs_bytes_max",
    ];
    const BY_KEYWORD: bool = true;
}

#[pymethods]
impl PyDaemonHostConfig {
    #[new]
    #[pyo3(
        signature = (
            *,
            auto_snapshot_interval = Given::Not,
            max_log_entries = Given::Not,
            delivery = Given::Not,
            on_error = Given::Not,
            durability = Given::Not,
            attempts_max = Given::Not,
            outputs_max = Given::Not,
            outputs_bytes_max = Given::Not
        ),
        text_signature = "(*, auto_snapshot_interval=0, max_log_entries=10000, delivery='once', on_error='raise', \
            durability='none', attempts_max=5, outputs_max=10000, outputs_bytes_max=67108864)"
    )]
    fn new(
        auto_snapshot_interval: Given<'_>,
        max_log_entries: Given<'_>,
        delivery: Given<'_>,
        on_error: Given<'_>,
        durability: Given<'_>,
        attempts_max: Given<'_>,
        outputs_max: Given<'_>,
        outputs_bytes_max: Given<'_>,
    ) -> PyResult<Self> {
        entry("DaemonHostConfig", || {
            let default = DaemonHostConfig::default();
            let deliveries = [("once", Delivery::Once), ("at_least_once", Delivery::AtLeastOnce)];
            let reactions = [("raise", OnError::Raise), ("restore", OnError::Restore)];
            let durabilities = [("none", Durability::None), ("journal", Durability::Journal)];
            let config = DaemonHostConfig {
                auto_snapshot_interval: auto_snapshot_interval.map_or(default.auto_snapshot_interval, |value| {
                    number(value, "auto_snapshot_interval")
                })?,
                max_log_entries: max_log_entries
                    .map_or(default.max_log_entries, |value| number_u32(value, "max_log_entries"))?,
                delivery: delivery.map_or(default.delivery, |value| choice(value, "delivery", deliveries))?,
                on_error: on_error.map_or(default.on_error, |value| choice(value, "on_error", reactions))?,
                durability: durability.map_or(default.durability, |value| choice(value, "durability", durabilities))?,
                attempts_max: attempts_max.map_or(default.attempts_max, |value| number_u32(value, "attempts_max"))?,
                outputs_max: outputs_max.map_or(default.outputs_max, |value| number_u32(value, "outputs_max"))?,
                outputs_bytes_max: outputs_bytes_max
                    .map_or(default.outputs_bytes_max, |value| number(value, "outputs_bytes_max"))?,
                ..default
            };
            config.validate().map_err(|error| errors::config(&error))?;
            Ok(Self(config))
        })
    }

    /// Events between snapshots that are taken on their own; 0: none.
    #[getter]
    fn auto_snapshot_interval(&self) -> u64 {
        self.0.auto_snapshot_interval
    }

    /// Inputs kept since the newest snapshot when `on_error` is "restore"; one more forces a snapshot first.
    #[getter]
    fn max_log_entries(&self) -> u32 {
        self.0.max_log_entries
    }

    /// What happens to a number seen before.
    #[getter]
    fn delivery(&self) -> &'static str {
        match self.0.delivery {
            Delivery::Once => "once",
            Delivery::AtLeastOnce => "at_least_once",
        }
    }

    /// State after a raise: as user code left it, or rebuilt from the newest snapshot and the inputs since.
    #[getter]
    fn on_error(&self) -> &'static str {
        match self.0.on_error {
            OnError::Raise => "raise",
            OnError::Restore => "restore",
        }
    }

    /// What of it outlives the process: nothing, or everything, kept before it is acknowledged.
    #[getter]
    fn durability(&self) -> &'static str {
        match self.0.durability {
            Durability::None => "none",
            Durability::Snapshot => "snapshot",
            Durability::Journal => "journal",
        }
    }

    /// Tries at an event that nobody waits for, before it is passed over and becomes a dead letter. At least 1.
    #[getter]
    fn attempts_max(&self) -> u32 {
        self.0.attempts_max
    }

    /// Outputs kept for export; older ones are dropped, and the export begins after them.
    #[getter]
    fn outputs_max(&self) -> u32 {
        self.0.outputs_max
    }

    /// Payload bytes of the outputs kept for export.
    #[getter]
    fn outputs_bytes_max(&self) -> u64 {
        self.0.outputs_bytes_max
    }

    #[classattr]
    fn __match_args__(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
        record::match_args::<Self>(py)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        record::repr(slf)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        record::reduce(slf)
    }
}

/// An option out of range is a `ConfigError`; of the wrong type it is a `TypeError`, as everywhere.
fn number(value: &Bound<'_, PyAny>, field: &'static str) -> PyResult<u64> {
    args::u64(value, field).map_err(|error| {
        if error.is_instance_of::<InvalidArgument>(value.py()) {
            ConfigError::new_err((field, "must be from 0 to 2^64 - 1"))
        } else {
            error
        }
    })
}

fn number_u32(value: &Bound<'_, PyAny>, field: &'static str) -> PyResult<u32> {
    let out_of_range = || ConfigError::new_err((field, "must be from 0 to 2^32 - 1"));
    match args::u64(value, field) {
        Ok(number) => u32::try_from(number).map_err(|_| out_of_range()),
        Err(error) if error.is_instance_of::<InvalidArgument>(value.py()) => Err(out_of_range()),
        Err(error) => Err(error),
    }
}

fn choice<T: Copy>(value: &Bound<'_, PyAny>, field: &'static str, choices: [(&str, T); 2]) -> PyResult<T> {
    let text = value
        .cast::<PyString>()
        .map_err(|_| args::wrong_type(field, "a str", value))?;
    let text = text.to_string_lossy();
    let found = choices.into_iter().find(|(name, _)| *name == text);
    found.map(|(_, choice)| choice).ok_or_else(|| {
        let [(first, _), (second, _)] = choices;
        ConfigError::new_err((field, format!("must be {first:?} or {second:?}, not {text:?}")))
    })
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyDaemonHostConfig>()
}
