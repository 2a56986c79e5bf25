//! `DaemonRegistry`: the daemons of one node, and those who observe them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use meshos_core::event::DaemonLifecycleEvent;
use meshos_core::signal::DaemonRef;
use meshos_node::controls;
use meshos_node::events::Observer;
use meshos_node::registry::Registry;
use meshos_node::runtime::ReachError;
use meshos_node::slot::{EnterError, Slot};
use meshos_node::sync::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use crate::args;
use crate::control::extract_control;
use crate::daemon::PyDaemon;
use crate::enter::{self, enter};
use crate::errors::{self, AlreadyRegistered, DaemonNotFound};
use crate::event::{PyDaemonRef, lifecycle_event};
use crate::guard::{Born, InUserCode, entry, may_wait};
use crate::host::{self, PyDaemonHost};
use crate::snapshot::PyStateSnapshot;
use crate::stats::PyDaemonStats;
use crate::threads;

/// The daemons of one node.
#[pyclass(frozen, name = "DaemonRegistry", module = "meshos.daemon", weakref)]
pub struct PyRegistry {
    /// The registry.
    pub registry: Arc<Registry<PyDaemon>>,
    observers: Mutex<Vec<(u64, Arc<Py<PyAny>>)>>,
    born: Born,
}

/// Shares its one reference with the registry's Python object, which shows it to the collector.
struct PyObserver(Arc<Py<PyAny>>);

impl Observer for PyObserver {
    fn observe(&self, event: &DaemonLifecycleEvent) -> bool {
        let called = Python::try_attach(|py| {
            let outcome = lifecycle_event(py, event)
                .and_then(|event| self.0.bind(py).call_method1(intern!(py, "observe"), (event,)));
            outcome
                .map_err(|error| log(py, "a lifecycle observer raised", error))
                .is_ok()
        });
        called.unwrap_or(false)
    }
}

/// Writes an error of a callback to the logger "meshos".
pub fn log(py: Python<'_>, what: &str, error: PyErr) {
    let logged = py.import(intern!(py, "meshos._log")).and_then(|module| {
        module
            .getattr(intern!(py, "callback_failed"))?
            .call1((what, error.into_value(py)))
    });
    // A logger that raises has nobody to tell; the failure is counted by its caller.
    drop(logged);
}

impl PyRegistry {
    /// The Python object of a registry.
    pub fn of(registry: Arc<Registry<PyDaemon>>) -> Self {
        Self {
            registry,
            observers: Mutex::default(),
            born: Born::now(),
        }
    }

    fn find(&self, origin_hash: &Bound<'_, PyAny>) -> PyResult<Arc<Slot<PyDaemon>>> {
        let origin = args::origin(origin_hash)?;
        self.registry
            .get(origin)
            .ok_or_else(|| errors::reach(ReachError::NotFound(origin), origin_hash.py()))
    }

    fn check(&self, call: &'static str) -> PyResult<()> {
        self.born.check("DaemonRegistry")?;
        may_wait(call)
    }
}

#[pymethods]
impl PyRegistry {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        entry("DaemonRegistry", || {
            Ok(Self::of(Arc::new(Registry::new(threads::daemon_lanes(py)?, None))))
        })
    }

    fn register(&self, host: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("DaemonRegistry.register", || {
            self.born.check("DaemonRegistry")?;
            let host = args::instance::<PyDaemonHost>(host, "host", "a DaemonHost")?.get();
            if host.placed.swap(true, Ordering::Relaxed) {
                return Err(AlreadyRegistered::new_err((host.slot.origin().get(),)));
            }
            self.registry.register(Arc::clone(&host.slot)).map_err(|occupied| {
                host.placed.store(false, Ordering::Relaxed);
                AlreadyRegistered::new_err((occupied.0.get(),))
            })
        })
    }

    fn replace(&self, host: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("DaemonRegistry.replace", || {
            self.born.check("DaemonRegistry")?;
            let host = args::instance::<PyDaemonHost>(host, "host", "a DaemonHost")?.get();
            if host.placed.swap(true, Ordering::Relaxed) {
                return Err(AlreadyRegistered::new_err((host.slot.origin().get(),)));
            }
            let old = self.registry.replace(Arc::clone(&host.slot));
            drop(old);
            Ok(())
        })
    }

    fn unregister(&self, origin_hash: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("DaemonRegistry.unregister", || {
            self.born.check("DaemonRegistry")?;
            let origin = args::origin(origin_hash)?;
            let removed = self.registry.unregister(origin);
            removed
                .map(drop)
                .ok_or_else(|| DaemonNotFound::new_err((origin.get(),)))
        })
    }

    fn deliver<'py>(&self, origin_hash: &Bound<'py, PyAny>, event: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        entry("DaemonRegistry.deliver", || {
            self.check("DaemonRegistry.deliver")?;
            enter::deliver(event.py(), self.find(origin_hash)?, event)
        })
    }

    fn snapshot(&self, origin_hash: &Bound<'_, PyAny>) -> PyResult<Option<PyStateSnapshot>> {
        entry("DaemonRegistry.snapshot", || {
            self.check("DaemonRegistry.snapshot")?;
            let slot = self.find(origin_hash)?;
            if !slot.is_stateful() {
                return Ok(None);
            }
            let py = origin_hash.py();
            let mut entered = enter(py, &slot)?;
            let taken = meshos_node::deliver::snapshot_later(&mut entered);
            let taken = taken.map_err(|error| errors::snapshot_failed(error, slot.origin(), py))?;
            drop(entered);
            crate::runtime::shown(py, slot.origin(), taken).map(Some)
        })
    }

    fn restore_from_snapshot(&self, origin_hash: &Bound<'_, PyAny>, snapshot: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("DaemonRegistry.restore_from_snapshot", || {
            self.check("DaemonRegistry.restore_from_snapshot")?;
            let slot = self.find(origin_hash)?;
            let snapshot = args::instance::<PyStateSnapshot>(snapshot, "snapshot", "a StateSnapshot")?.get();
            host::adopt(origin_hash.py(), &slot, snapshot)
        })
    }

    fn with_host<'py>(
        &self,
        origin_hash: &Bound<'py, PyAny>,
        function: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        entry("DaemonRegistry.with_host", || {
            self.check("DaemonRegistry.with_host")?;
            if !function.is_callable() {
                return Err(args::wrong_type("function", "callable", function));
            }
            let slot = self.find(origin_hash)?;
            let entered = enter(origin_hash.py(), &slot)?;
            let outcome = {
                let _inside = InUserCode::begin();
                function.call1((PyDaemonHost::of(slot),))
            };
            drop(entered);
            outcome
        })
    }

    fn stats(&self, origin_hash: &Bound<'_, PyAny>) -> PyResult<PyDaemonStats> {
        entry("DaemonRegistry.stats", || {
            self.born.check("DaemonRegistry")?;
            Ok(PyDaemonStats(self.find(origin_hash)?.view().stats))
        })
    }

    /// Give a daemon a control, between two events.
    fn control(&self, origin_hash: &Bound<'_, PyAny>, control: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("DaemonRegistry.control", || {
            self.check("DaemonRegistry.control")?;
            let control = extract_control(control)?;
            control_one(origin_hash.py(), &self.find(origin_hash)?, control)
        })
    }

    /// Ask the daemons for health and load, and tell what changed.
    fn poll(&self, py: Python<'_>) -> PyResult<()> {
        entry("DaemonRegistry.poll", || {
            self.check("DaemonRegistry.poll")?;
            py.detach(|| self.registry.poll());
            Ok(())
        })
    }

    fn daemons<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        entry("DaemonRegistry.daemons", || {
            self.born.check("DaemonRegistry")?;
            let refs = self.registry.list();
            let refs = refs.iter().map(|slot| {
                PyDaemonRef(DaemonRef {
                    id: slot.origin(),
                    name: slot.name().clone(),
                })
            });
            PyTuple::new(py, refs.map(|named| Py::new(py, named)).collect::<PyResult<Vec<_>>>()?)
        })
    }

    fn count(&self) -> PyResult<usize> {
        self.born.check("DaemonRegistry")?;
        Ok(self.registry.count())
    }

    fn contains(&self, origin_hash: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.born.check("DaemonRegistry")?;
        Ok(self.registry.get(args::origin(origin_hash)?).is_some())
    }

    fn add_observer(&self, observer: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("DaemonRegistry.add_observer", || {
            self.born.check("DaemonRegistry")?;
            if !observer
                .getattr(intern!(observer.py(), "observe"))
                .is_ok_and(|observe| observe.is_callable())
            {
                return Err(args::wrong_type("observer", "a DaemonLifecycleObserver", observer));
            }
            let held = Arc::new(observer.clone().unbind());
            let id = self.registry.add_observer(Box::new(PyObserver(Arc::clone(&held))));
            self.observers.lock().push((id, held));
            Ok(())
        })
    }

    fn remove_observer(&self, observer: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("DaemonRegistry.remove_observer", || {
            self.born.check("DaemonRegistry")?;
            let removed: Vec<_> = self
                .observers
                .lock()
                .extract_if(.., |(_, known)| known.is(observer))
                .collect();
            for (id, _) in &removed {
                self.registry.remove_observer(*id);
            }
            Ok(())
        })
    }

    /// Lifecycle events that an observer's full queue refused.
    #[getter]
    fn dropped_events(&self) -> u64 {
        self.registry.observer_stats().dropped
    }

    /// Calls of observers that raised.
    #[getter]
    fn observer_errors(&self) -> u64 {
        self.registry.observer_stats().errors
    }

    /// Posted events that came to nothing because their daemon was stopped or lost.
    #[getter]
    fn lost_posts(&self) -> u64 {
        self.registry.observer_stats().unheard
    }

    fn __repr__(&self) -> String {
        format!("DaemonRegistry(<{} daemons>)", self.registry.count())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut outcome = Ok(());
        self.registry.peek(|slot| {
            if outcome.is_ok()
                && let Some(visited) = slot.peek(|inside| inside.daemon.traverse(&visit))
            {
                outcome = visited;
            }
        });
        outcome?;
        if let Some(observers) = self.observers.try_lock() {
            for (_, observer) in observers.iter() {
                visit.call(&**observer)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        for slot in self.registry.list() {
            self.registry.unregister(slot.origin());
        }
        let observers = std::mem::take(&mut *self.observers.lock());
        for (id, _) in &observers {
            self.registry.remove_observer(*id);
        }
    }
}

/// Gives a daemon a control, between two events.
pub fn control_one(
    py: Python<'_>,
    slot: &Arc<Slot<PyDaemon>>,
    control: meshos_core::control::DaemonControl,
) -> PyResult<()> {
    if !slot.takes_control() {
        return Ok(());
    }
    let mut entered = enter(py, slot)?;
    match controls::give(&mut entered, control) {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(errors::callback(error, slot.origin(), "on_control", py)),
        None => Err(errors::enter(EnterError::Stale, slot.origin(), py)),
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyRegistry>()
}
