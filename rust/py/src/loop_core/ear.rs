//! `EarCore`: hears the controls of one daemon.

use std::sync::Arc;

use meshos_node::clock;
use meshos_node::ears::{Ear, Listened};
use pyo3::prelude::*;

use super::{calling, deadline, raised};
use crate::control;
use crate::errors::LoopClosed;
use crate::guard::{self, Born, entry, may_wait};

/// Hears the controls of one daemon; the native half of `controls()`.
#[pyclass(frozen, name = "EarCore", module = "meshos._core")]
pub struct PyEar {
    pub(super) ear: Arc<Ear>,
    pub(super) born: Born,
}

#[pymethods]
impl PyEar {
    /// Waits for the next control; `None` when time is up, `LoopClosed` at the end.
    fn listen<'py>(&self, py: Python<'py>, timeout: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        entry("controls", || {
            self.born.check("MeshOsRuntime")?;
            may_wait("controls")?;
            let deadline = deadline(Some(timeout))?;
            let mut signal = None;
            match py.detach(|| self.ear.listen(deadline, &mut || guard::interrupted(&mut signal))) {
                Listened::Control(heard) => control::control(py, heard, clock::unix_ms()).map(Some),
                Listened::Ended => Err(LoopClosed::new_err(("controls",))),
                Listened::TimedOut => Ok(None),
                Listened::Interrupted => Err(raised(signal)),
            }
        })
    }

    /// Has `wake` called once there is something to hear. `None`: there is already.
    fn on_control(&self, wake: Py<PyAny>) -> PyResult<Option<u64>> {
        self.born.check("MeshOsRuntime")?;
        Ok(self.ear.on_control(calling(wake)).ok())
    }

    fn forget_control(&self, ticket: u64) -> bool {
        self.ear.forget(ticket)
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.ear.close());
    }
}
