//! `DaemonHandle`: names a daemon that was spawned.

use std::sync::Arc;

use meshos_core::signal::DaemonRef;
use meshos_node::slot::Slot;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::{PyTraverseError, PyVisit};

use crate::daemon::PyDaemon;
use crate::event::PyDaemonRef;
use crate::guard::{Born, entry};
use crate::identity::entity_id;
use crate::runtime::{self, PyRuntime};
use crate::snapshot::PyStateSnapshot;
use crate::stats::PyDaemonStats;

static ON_LANE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Names a daemon that was spawned; dropping it does not stop the daemon.
#[pyclass(frozen, name = "DaemonHandle", module = "meshos.daemon", weakref)]
pub struct PyDaemonHandle {
    slot: Arc<Slot<PyDaemon>>,
    /// The Python object, so that the collector sees the way from here to the daemons.
    runtime: Py<PyRuntime>,
    born: Born,
}

impl PyDaemonHandle {
    /// The handle of a daemon of a runtime.
    pub fn new(slot: Arc<Slot<PyDaemon>>, runtime: &Bound<'_, PyRuntime>) -> Self {
        Self {
            slot,
            runtime: runtime.clone().unbind(),
            born: Born::now(),
        }
    }
}

#[pymethods]
impl PyDaemonHandle {
    #[getter]
    fn origin_hash(&self) -> u64 {
        self.slot.origin().get()
    }

    #[getter]
    fn entity_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        entity_id(py, self.slot.entity())
    }

    #[getter]
    fn kind(&self) -> &str {
        self.slot.kind()
    }

    #[getter]
    #[pyo3(name = "ref")]
    fn reference(&self) -> PyDaemonRef {
        PyDaemonRef(DaemonRef {
            id: self.slot.origin(),
            name: self.slot.name().clone(),
        })
    }

    #[getter]
    fn stats(&self) -> PyResult<PyDaemonStats> {
        self.born.check("DaemonHandle")?;
        Ok(PyDaemonStats(self.slot.view().stats))
    }

    fn snapshot(&self, py: Python<'_>) -> PyResult<Option<PyStateSnapshot>> {
        entry("DaemonHandle.snapshot", || {
            self.born.check("DaemonHandle")?;
            runtime::snapshot(
                py,
                &self.runtime.get().runtime,
                self.slot.origin(),
                "DaemonHandle.snapshot",
            )
        })
    }

    fn snapshot_async<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let call = slf.getattr(intern!(py, "snapshot"))?;
        ON_LANE
            .import(py, "meshos._twins", "on_lane")?
            .call1(("DaemonHandle.snapshot_async", call))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.runtime)
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other
            .cast::<Self>()
            .is_ok_and(|other| Arc::ptr_eq(&self.slot, &other.get().slot))
    }

    fn __hash__(&self) -> u64 {
        self.slot.origin().get()
    }

    fn __repr__(&self) -> String {
        format!(
            "DaemonHandle(kind={:?}, origin_hash=0x{})",
            &**self.slot.kind(),
            self.slot.origin()
        )
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyDaemonHandle>()
}
