//! `Mesh`: one node, in this process.

use std::sync::{Arc, Weak};
use std::time::Duration;

use meshos_core::identity::Keypair;
use meshos_node::journal::Stores;
use meshos_node::runtime::Runtime;
use meshos_node::sync::Mutex;
use pyo3::prelude::*;

use crate::args;
use crate::daemon::PyDaemon;
use crate::errors::{self, AlreadyRegistered, LoopClosed};
use crate::guard::{Born, entry, may_wait};
use crate::identity::{entity_id, own_key};
use crate::runtime;
use crate::store::PyStore;

#[derive(Default)]
struct State {
    runtime: Weak<Runtime<PyDaemon>>,
    closed: bool,
}

/// One node. Its key never leaves the extension.
#[pyclass(frozen, name = "Mesh", module = "meshos.mesh", weakref)]
pub struct PyMesh {
    node: Arc<Keypair>,
    store: Py<PyStore>,
    born: Born,
    state: Mutex<State>,
}

impl PyMesh {
    /// The node's key.
    pub fn node(&self) -> &Arc<Keypair> {
        &self.node
    }

    /// Gives handles on the store.
    pub fn stores(&self) -> Stores {
        self.store.get().stores()
    }

    /// Attaches a runtime; a node has one at a time.
    pub fn attach(&self, runtime: &Arc<Runtime<PyDaemon>>) -> PyResult<()> {
        self.born.check("Mesh")?;
        let mut state = self.state.lock();
        if state.closed {
            return Err(LoopClosed::new_err(("Mesh",)));
        }
        if state.runtime.upgrade().is_some_and(|other| runtime::is_open(&other)) {
            return Err(AlreadyRegistered::new_err((self.node.node_id().get(),)));
        }
        self.store.get().used_by(runtime)?;
        state.runtime = Arc::downgrade(runtime);
        Ok(())
    }
}

#[pymethods]
impl PyMesh {
    /// Make a node in this process.
    #[staticmethod]
    #[pyo3(signature = (*, store = None, identity = None))]
    fn local(py: Python<'_>, store: Option<&Bound<'_, PyAny>>, identity: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        entry("Mesh.local", || {
            let given = own_key(identity)?;
            let store = match store.filter(|store| !store.is_none()) {
                None => Py::new(py, PyStore::in_memory(given))?,
                Some(store) => {
                    let store = args::instance::<PyStore>(store, "store", "a Store or None")?;
                    if given.is_some_and(|given| given.entity_id() != store.get().node().entity_id()) {
                        let rule = "must be that of the store, or be left out";
                        return Err(errors::InvalidArgument::new_err(("identity", rule)));
                    }
                    store.clone().unbind()
                }
            };
            Ok(Self {
                node: Arc::clone(store.get().node()),
                store,
                born: Born::now(),
                state: Mutex::default(),
            })
        })
    }

    #[getter]
    fn store(&self, py: Python<'_>) -> Py<PyStore> {
        self.store.clone_ref(py)
    }

    #[getter]
    fn node_id(&self) -> u64 {
        self.node.node_id().get()
    }

    #[getter]
    fn entity_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        entity_id(py, self.node.entity_id())
    }

    /// Leave: shuts down the runtime of this node. Does nothing the second time.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        entry("Mesh.close", || {
            self.born.check("Mesh")?;
            may_wait("Mesh.close")?;
            let runtime = {
                let mut state = self.state.lock();
                state.closed = true;
                state.runtime.upgrade()
            };
            runtime.map_or(Ok(()), |runtime| {
                runtime::shut_down(py, &runtime, Duration::from_secs(5))
            })
        })
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _trace: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        let closed = if self.state.lock().closed { ", closed" } else { "" };
        format!("Mesh(node_id=0x{}{closed})", self.node.node_id())
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyMesh>()
}
