//! What happens to daemons, and how they say they are.

use meshos_core::event::{Crash, DaemonHealth, DaemonLifecycleEvent, DaemonLifecycleSignal};
use meshos_core::id::Origin;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::args;
use crate::guard::entry;
use crate::record::field::{Field, Given, Share, read};
use crate::record::moment::Moment;
use crate::record::{self, Record, Reduced, record};

/// Names a daemon: `id` decides; `name` is for people and is not compared.
#[pyclass(frozen, eq, hash, name = "DaemonRef", module = "meshos.daemon")]
#[derive(Debug, Clone)]
pub struct PyDaemonRef {
    /// The daemon's handle.
    pub id: Origin,
    /// Its label.
    pub name: String,
}

impl PartialEq for PyDaemonRef {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl std::hash::Hash for PyDaemonRef {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl Record for PyDaemonRef {
    const FIELDS: &'static [&'static str] = &["id", "name"];
}

#[pymethods]
impl PyDaemonRef {
    #[new]
    #[pyo3(signature = (id, name = Given::Not), text_signature = "(id, name='')")]
    fn new(id: &Bound<'_, PyAny>, name: Given<'_>) -> PyResult<Self> {
        entry("DaemonRef", || {
            Ok(Self {
                id: read(id, "id")?,
                name: name.read_or("name", String::new())?,
            })
        })
    }

    #[getter]
    fn id(&self) -> u64 {
        self.id.get()
    }

    #[getter]
    fn name(&self) -> &str {
        &self.name
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

impl Field for PyDaemonRef {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        Ok(args::instance::<Self>(value, name, "a DaemonRef")?.get().clone())
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(Bound::new(py, self.clone())?.into_any())
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

/// Alive, but not working; that is not a crash.
#[pyclass(frozen, eq, hash, name = "Unhealthy", module = "meshos.daemon")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PyUnhealthy {
    /// What is wrong; may be empty.
    pub reason: String,
}

impl Record for PyUnhealthy {
    const FIELDS: &'static [&'static str] = &["reason"];
}

#[pymethods]
impl PyUnhealthy {
    #[new]
    #[pyo3(signature = (reason = Given::Not), text_signature = "(reason='')")]
    fn new(reason: Given<'_>) -> PyResult<Self> {
        entry("Unhealthy", || {
            Ok(Self {
                reason: reason.read_or("reason", String::new())?,
            })
        })
    }

    #[getter]
    fn reason(&self) -> &str {
        &self.reason
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

record! {
    /// The daemon is in the registry.
    pub struct PyRegistered in "meshos.events" as "Registered", kind "registered" {}
}

record! {
    /// The daemon left the registry.
    pub struct PyUnregistered in "meshos.events" as "Unregistered", kind "unregistered" {}
}

record! {
    /// The daemon runs again after a crash.
    pub struct PyStarted in "meshos.events" as "Started", kind "started" {}
}

record! {
    /// The daemon's code raised, or it could not be restored.
    pub struct PyCrashed in "meshos.events" as "Crashed", kind "crashed" {
        /// The error, in one line.
        reason: String,
    }
}

record! {
    /// The daemon reports another health.
    pub struct PyHealthChanged in "meshos.events" as "HealthChanged", kind "health_changed" {
        /// What it reports now.
        health: DaemonHealth,
    }
}

record! {
    /// The daemon reports another load.
    pub struct PySaturationChanged in "meshos.events" as "SaturationChanged", kind "saturation_changed" {
        /// 0 (idle) to 1 (full).
        saturation: Share,
    }
}

record! {
    /// Something happened to a daemon; `number` rises by one with each event of a registry.
    pub struct PyDaemonLifecycleEvent in "meshos.daemon" as "DaemonLifecycleEvent" {
        /// Whom it happened to.
        daemon: PyDaemonRef,
        /// What happened.
        signal: DaemonLifecycleSignal,
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

/// A signal with as much of it as its Python object has: what is read back from that object is equal.
fn shown(signal: &DaemonLifecycleSignal) -> DaemonLifecycleSignal {
    match signal {
        DaemonLifecycleSignal::Crashed { crash, .. } => DaemonLifecycleSignal::Crashed {
            crash: Crash::because(&crash.reason),
            down: false,
        },
        other => other.clone(),
    }
}

/// Makes the Python object of an event.
pub fn lifecycle_event<'py>(py: Python<'py>, event: &DaemonLifecycleEvent) -> PyResult<Bound<'py, PyAny>> {
    let event = PyDaemonLifecycleEvent {
        daemon: PyDaemonRef {
            id: event.origin,
            name: event.name.clone(),
        },
        signal: shown(&event.signal),
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

impl Field for DaemonLifecycleSignal {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        if value.is_instance_of::<PyRegistered>() {
            Ok(Self::Registered)
        } else if value.is_instance_of::<PyUnregistered>() {
            Ok(Self::Unregistered)
        } else if let Ok(crashed) = value.cast::<PyCrashed>() {
            Ok(Self::Crashed {
                crash: Crash::because(&crashed.get().reason),
                down: false,
            })
        } else if value.is_instance_of::<PyStarted>() {
            Ok(Self::Started)
        } else if let Ok(changed) = value.cast::<PyHealthChanged>() {
            Ok(Self::HealthChanged {
                health: changed.get().health.clone(),
            })
        } else if let Ok(changed) = value.cast::<PySaturationChanged>() {
            Ok(Self::SaturationChanged {
                saturation: changed.get().saturation.0,
            })
        } else {
            Err(args::wrong_type(name, "a lifecycle signal", value))
        }
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self {
            Self::Registered => Bound::new(py, PyRegistered {})?.into_any(),
            Self::Unregistered => Bound::new(py, PyUnregistered {})?.into_any(),
            Self::Started => Bound::new(py, PyStarted {})?.into_any(),
            Self::Crashed { crash, .. } => {
                let reason = crash.reason.to_string();
                Bound::new(py, PyCrashed { reason })?.into_any()
            }
            Self::HealthChanged { health } => Bound::new(py, PyHealthChanged { health: health.clone() })?.into_any(),
            Self::SaturationChanged { saturation } => Bound::new(
                py,
                PySaturationChanged {
                    saturation: Share(*saturation),
                },
            )?
            .into_any(),
        })
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyDaemonRef>()?;
    module.add_class::<PyHealthy>()?;
    module.add_class::<PyDegraded>()?;
    module.add_class::<PyUnhealthy>()?;
    module.add_class::<PyRegistered>()?;
    module.add_class::<PyUnregistered>()?;
    module.add_class::<PyStarted>()?;
    module.add_class::<PyCrashed>()?;
    module.add_class::<PyHealthChanged>()?;
    module.add_class::<PySaturationChanged>()?;
    module.add_class::<PyDaemonLifecycleEvent>()
}
