//! `ComputeCore`: the native half of `ComputeDispatcher`.

use std::sync::Arc;

use meshos_core::action::{Cause, CauseKind};
use meshos_core::signal::Outcome;
use meshos_node::compute::ComputeDispatcher;
use meshos_node::dispatch::ActionDispatcher;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use crate::action::PyMeshOsAction;
use crate::args;
use crate::daemon::PyDaemon;
use crate::errors::DispatchError;
use crate::guard::{entry, may_wait};
use crate::record::field::Field;
use crate::runtime::PyRuntime;

/// The native half of `ComputeDispatcher`.
#[pyclass(frozen, name = "ComputeCore", module = "meshos._core")]
pub struct PyCompute {
    pub(super) runtime: Py<PyRuntime>,
    pub(super) dispatcher: Arc<ComputeDispatcher<PyDaemon>>,
}

#[pymethods]
impl PyCompute {
    #[new]
    fn new(runtime: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("ComputeDispatcher", || {
            let runtime = args::instance::<PyRuntime>(runtime, "runtime", "a DaemonRuntime")?;
            runtime.get().born.check("DaemonRuntime")?;
            Ok(Self {
                dispatcher: Arc::new(ComputeDispatcher::new(Arc::clone(&runtime.get().runtime))),
                runtime: runtime.clone().unbind(),
            })
        })
    }

    /// Carries an action out on this thread; raises `DispatchError`.
    fn dispatch(&self, wanted: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("ComputeDispatcher.dispatch", || {
            let py = wanted.py();
            may_wait("ComputeDispatcher.dispatch")?;
            let wanted = PyMeshOsAction::from_python(wanted, "action")?.core();
            let cause = Cause {
                kind: CauseKind::Operator,
                detail: Arc::from("called"),
                envelope_id: None,
            };
            let (reason, after) = match py.detach(|| self.dispatcher.dispatch(0, &wanted, &cause)) {
                Outcome::Done => return Ok(()),
                Outcome::Drop { reason } | Outcome::Raised { reason, .. } => (reason, None),
                Outcome::Retry { reason, after } => (reason, Some(after)),
            };
            Err(DispatchError::new_err((
                reason.to_string(),
                after.to_python(py)?.unbind(),
            )))
        })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.runtime)
    }
}
