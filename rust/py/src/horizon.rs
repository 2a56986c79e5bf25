//! `ObservedHorizon`: which origins were seen, and how far.

use meshos_core::horizon::ObservedHorizon;
use meshos_core::id::Origin;
use meshos_node::sync::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping, PyMappingProxy};

use crate::args;
use crate::guard::entry;
use crate::record::Reduced;
use crate::record::field::Given;

/// The exact map of origin to highest sequence seen.
#[pyclass(frozen, name = "ObservedHorizon", module = "meshos.chain")]
pub struct PyObservedHorizon(Mutex<ObservedHorizon>);

#[pymethods]
impl PyObservedHorizon {
    #[new]
    #[pyo3(signature = (seen = Given::Not), text_signature = "(seen=...)")]
    fn new(seen: Given<'_>) -> PyResult<Self> {
        entry("ObservedHorizon", || {
            let horizon = seen.map_or(ObservedHorizon::default(), |seen| {
                let mapping = seen
                    .cast::<PyMapping>()
                    .map_err(|_| args::wrong_type("seen", "a mapping", seen))?;
                let mut horizon = ObservedHorizon::default();
                for item in mapping.items()? {
                    let (origin, sequence): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
                    horizon.observe(Origin::new(args::u64(&origin, "seen")?), args::u64(&sequence, "seen")?);
                }
                Ok(horizon)
            })?;
            Ok(Self(Mutex::new(horizon)))
        })
    }

    /// Take note of an event.
    fn observe(&self, origin_hash: &Bound<'_, PyAny>, sequence: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("ObservedHorizon.observe", || {
            let (origin, sequence) = (args::origin(origin_hash)?, args::u64(sequence, "sequence")?);
            self.0.lock().observe(origin, sequence);
            Ok(())
        })
    }

    /// Whether an event of this origin, or a later one, was seen.
    fn has_observed(&self, origin_hash: &Bound<'_, PyAny>, sequence: &Bound<'_, PyAny>) -> PyResult<bool> {
        entry("ObservedHorizon.has_observed", || {
            let (origin, sequence) = (args::origin(origin_hash)?, args::u64(sequence, "sequence")?);
            Ok(self.0.lock().has_observed(origin, sequence))
        })
    }

    /// Return a copy: origin to highest sequence seen.
    fn as_mapping<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMappingProxy>> {
        Ok(PyMappingProxy::new(py, self.to_dict(py)?.as_mapping()))
    }

    /// The 64-bit sketch that links carry.
    #[getter]
    fn encoded(&self) -> u64 {
        self.0.lock().sketch()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("ObservedHorizon({})", self.to_dict(py)?.repr()?))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let arguments = (slf.get().to_dict(slf.py())?,);
        Ok((slf.get_type().into_any(), arguments.into_pyobject(slf.py())?))
    }
}

impl PyObservedHorizon {
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let seen: Vec<_> = self
            .0
            .lock()
            .iter()
            .map(|(origin, sequence)| (origin.get(), sequence))
            .collect();
        let dict = PyDict::new(py);
        for (origin, sequence) in seen {
            dict.set_item(origin, sequence)?;
        }
        Ok(dict)
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyObservedHorizon>()
}
