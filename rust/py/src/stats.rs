//! `DaemonStats`: the counters of one daemon.

use meshos_core::stats::DaemonStats;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::guard::entry;
use crate::record::field::read;
use crate::record::{self, Record, Reduced};

/// Counters of one daemon since it began; they move with it.
#[pyclass(frozen, eq, name = "DaemonStats", module = "meshos.daemon")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PyDaemonStats(pub DaemonStats);

impl Record for PyDaemonStats {
    const FIELDS: &'static [&'static str] = &[
        "events_processed",
        "events_emitted",
        "duplicates",
        "errors",
        "snapshots_taken",
        "restarts",
        "dead_letters",
    ];
    const BY_KEYWORD: bool = true;
}

#[pymethods]
impl PyDaemonStats {
    #[new]
    #[pyo3(
        signature = (
            *, events_processed, events_emitted, duplicates, errors, snapshots_taken, restarts, dead_letters = None
        ),
        text_signature = "(*, events_processed, events_emitted, duplicates, errors, snapshots_taken, restarts, \
            dead_letters=0)"
    )]
    fn new(
        events_processed: &Bound<'_, PyAny>,
        events_emitted: &Bound<'_, PyAny>,
        duplicates: &Bound<'_, PyAny>,
        errors: &Bound<'_, PyAny>,
        snapshots_taken: &Bound<'_, PyAny>,
        restarts: &Bound<'_, PyAny>,
        dead_letters: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        entry("DaemonStats", || {
            Ok(Self(DaemonStats {
                events_processed: read(events_processed, "events_processed")?,
                events_emitted: read(events_emitted, "events_emitted")?,
                duplicates: read(duplicates, "duplicates")?,
                errors: read(errors, "errors")?,
                snapshots_taken: read(snapshots_taken, "snapshots_taken")?,
                restarts: read(restarts, "restarts")?,
                dead_letters: dead_letters.map_or(Ok(0), |value| read(value, "dead_letters"))?,
            }))
        })
    }

    /// Events that took effect.
    #[getter]
    fn events_processed(&self) -> u64 {
        self.0.events_processed
    }

    /// Events appended to its chain.
    #[getter]
    fn events_emitted(&self) -> u64 {
        self.0.events_emitted
    }

    /// Events that had taken effect before, and changed nothing.
    #[getter]
    fn duplicates(&self) -> u64 {
        self.0.duplicates
    }

    /// Failures of user code: in `process`, `snapshot`, `health`, `saturation` or `on_control`.
    #[getter]
    fn errors(&self) -> u64 {
        self.0.errors
    }

    /// Snapshots taken.
    #[getter]
    fn snapshots_taken(&self) -> u64 {
        self.0.snapshots_taken
    }

    /// Times that it was rebuilt, or continued from an older snapshot.
    #[getter]
    fn restarts(&self) -> u64 {
        self.0.restarts
    }

    /// Events that failed too often and were passed over.
    #[getter]
    fn dead_letters(&self) -> u64 {
        self.0.dead_letters
    }

    #[classattr]
    fn __match_args__(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
        record::match_args::<Self>(py)
    }

    fn __hash__(slf: &Bound<'_, Self>) -> PyResult<isize> {
        record::hash(slf)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        record::repr(slf)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        record::reduce(slf)
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyDaemonStats>()
}
