//! Names of daemons, how daemons say they are, and the events that a registry tells its observers.

use std::sync::Arc;

use meshos_core::event::{DaemonHealth, DaemonLifecycleEvent};
use meshos_core::signal::DaemonRef;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::args;
use crate::guard::entry;
use crate::record::field::{Field, Given, read};
use crate::record::moment::Moment;
use crate::record::{self, Record, Reduced, record};
use crate::signal::LifecycleSignal;

/// Names a daemon: `id` decides; `name` is for people and is not compared.
#[pyclass(frozen, eq, hash, name = "DaemonRef", module = "meshos.daemon")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PyDaemonRef(pub DaemonRef);

impl Record for PyDaemonRef {
    const FIELDS: &'static [&'static str] = &["id", "name"];
}

#[pymethods]
impl PyDaemonRef {
    #[new]
    #[pyo3(signature = (id, name = Given::Not), text_signature = "(id, name='')")]
    fn new(id: &Bound<'_, PyAny>, name: Given<'_>) -> PyResult<Self> {
        entry("DaemonRef", || {
            Ok(Self(DaemonRef {
                id: read(id, "id")?,
                name: name.read_or_else("name", || Arc::from(""))?,
            }))
        })
    }

    #[getter]
    fn id(&self) -> u64 {
        self.0.id.get()
    }

    #[getter]
    fn name(&self) -> &str {
        &self.0.name
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

impl Field for DaemonRef {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        record::copied::<PyDaemonRef>(value, name).map(|named| named.0)
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(Bound::new(py, PyDaemonRef(self.clone()))?.into_any())
    }
}

record! {
    /// Working.
    pub struct PyHealthy in "meshos.daemon" as "Healthy" {}
}

record! {
    /// Working, but not well.
    pub struct PyDegraded in "meshos.daemon" as "Degraded" {
        /// What is wrong.
        reason: String,
    }
}

record! {
    /// Alive, but not working; that is not a crash.
    pub struct PyUnhealthy in "meshos.daemon" as "Unhealthy", signature "(reason='')" {
        /// What is wrong; may be empty.
        reason: String = String::new(),
    }
}

record! {
    /// Something happened to a daemon; `number` rises by one with each event of a registry.
    pub struct PyDaemonLifecycleEvent in "meshos.daemon" as "DaemonLifecycleEvent" {
        /// Whom it happened to.
        daemon: DaemonRef,
        /// What happened.
        signal: LifecycleSignal,
        /// When, by the node's wall clock.
        at: Moment,
        /// Position in the registry's sequence of events, from 1.
        number: u64,
    }
}

/// Makes the Python object of a health.
pub fn health<'py>(py: Python<'py>, health: &DaemonHealth) -> PyResult<Bound<'py, PyAny>> {
    Ok(match health {
        DaemonHealth::Healthy => Bound::new(py, PyHealthy {})?.into_any(),
        DaemonHealth::Degraded { reason } => Bound::new(py, PyDegraded { reason: reason.clone() })?.into_any(),
        DaemonHealth::Unhealthy { reason } => Bound::new(py, PyUnhealthy { reason: reason.clone() })?.into_any(),
    })
}

/// Reads a health; `None` when the object is none.
pub fn extract_health(object: &Bound<'_, PyAny>) -> Option<DaemonHealth> {
    if object.is_instance_of::<PyHealthy>() {
        Some(DaemonHealth::Healthy)
    } else if let Ok(degraded) = object.cast::<PyDegraded>() {
        Some(DaemonHealth::Degraded {
            reason: degraded.get().reason.clone(),
        })
    } else if let Ok(unhealthy) = object.cast::<PyUnhealthy>() {
        Some(DaemonHealth::Unhealthy {
            reason: unhealthy.get().reason.clone(),
        })
    } else {
        None
    }
}

/// Makes the Python object of an event.
pub fn lifecycle_event<'py>(py: Python<'py>, event: &DaemonLifecycleEvent) -> PyResult<Bound<'py, PyAny>> {
    let event = PyDaemonLifecycleEvent {
        daemon: DaemonRef {
            id: event.origin,
            name: Arc::from(&*event.name),
        },
        signal: LifecycleSignal::from(&event.signal),
        at: Moment::of(event.at),
        number: event.number,
    };
    Ok(Bound::new(py, event)?.into_any())
}

impl Field for DaemonHealth {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        extract_health(value).ok_or_else(|| args::wrong_type(name, "Healthy, Degraded or Unhealthy", value))
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        health(py, self)
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyDaemonRef>()?;
    module.add_class::<PyHealthy>()?;
    module.add_class::<PyDegraded>()?;
    module.add_class::<PyUnhealthy>()?;
    module.add_class::<PyDaemonLifecycleEvent>()
}
