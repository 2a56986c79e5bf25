//! `CausalLink`: who, having seen what, as which event, after which.

use meshos_core::id::Origin;
use meshos_core::link::CausalLink;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};

use crate::args;
use crate::guard::entry;
use crate::record::field::{Field, read};
use crate::record::{self, Record, Reduced};

/// One link, 32 bytes on the wire: who, having seen what, as which event, after which event.
#[pyclass(frozen, eq, hash, name = "CausalLink", module = "meshos.chain")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PyCausalLink(pub CausalLink);

impl Record for PyCausalLink {
    const FIELDS: &'static [&'static str] = &["origin_hash", "horizon_encoded", "sequence", "parent_hash"];
}

#[pymethods]
impl PyCausalLink {
    #[new]
    fn new(
        origin_hash: &Bound<'_, PyAny>,
        horizon_encoded: &Bound<'_, PyAny>,
        sequence: &Bound<'_, PyAny>,
        parent_hash: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        entry("CausalLink", || {
            Ok(Self(CausalLink {
                origin: Origin::from_python(origin_hash, "origin_hash")?,
                horizon: args::u64(horizon_encoded, "horizon_encoded")?,
                sequence: args::u64(sequence, "sequence")?,
                parent: args::u64(parent_hash, "parent_hash")?,
            }))
        })
    }

    /// Read exactly 32 bytes.
    #[classmethod]
    fn from_bytes(_class: &Bound<'_, PyType>, data: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("CausalLink.from_bytes", || {
            Ok(Self(CausalLink::from_bytes(&read(data, "data")?)))
        })
    }

    /// Return the 32 bytes.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.to_bytes())
    }

    /// Whose chain it is a link of.
    #[getter]
    fn origin_hash(&self) -> u64 {
        self.0.origin.get()
    }

    /// 64-bit sketch of the origins seen before; no false negatives.
    #[getter]
    fn horizon_encoded(&self) -> u64 {
        self.0.horizon
    }

    /// Position in the chain, from 1.
    #[getter]
    fn sequence(&self) -> u64 {
        self.0.sequence
    }

    /// First 8 bytes, little endian, of the digest of everything before.
    #[getter]
    fn parent_hash(&self) -> u64 {
        self.0.parent
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

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyCausalLink>()
}
