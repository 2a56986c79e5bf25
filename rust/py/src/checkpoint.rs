//! `Checkpoint`: what the node that speaks for an entity signed.

use meshos_core::checkpoint::Checkpoint;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};

use crate::args;
use crate::errors::{self, InvalidArgument};
use crate::guard::entry;
use crate::record::field::{Field, read};
use crate::record::moment::Moment;
use crate::record::{self, Record, Reduced};

/// What the node that speaks for an entity signed: up to `sequence` the chain has this digest.
#[pyclass(frozen, eq, name = "Checkpoint", module = "meshos.chain")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PyCheckpoint(pub Checkpoint);

impl Record for PyCheckpoint {
    const FIELDS: &'static [&'static str] = &[
        "entity_id",
        "epoch",
        "sequence",
        "digest",
        "at",
        "previous",
        "signature",
    ];
}

#[pymethods]
impl PyCheckpoint {
    #[new]
    #[allow(clippy::too_many_arguments)]
    fn new(
        entity_id: &Bound<'_, PyAny>,
        epoch: &Bound<'_, PyAny>,
        sequence: &Bound<'_, PyAny>,
        digest: &Bound<'_, PyAny>,
        at: &Bound<'_, PyAny>,
        previous: &Bound<'_, PyAny>,
        signature: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        entry("Checkpoint", || {
            let at: Moment = read(at, "at")?;
            if !at.is_whole_ms() {
                return Err(InvalidArgument::new_err((
                    "at",
                    "must be a whole number of milliseconds",
                )));
            }
            Ok(Self(Checkpoint {
                entity: read(entity_id, "entity_id")?,
                epoch: read(epoch, "epoch")?,
                sequence: read(sequence, "sequence")?,
                digest: read(digest, "digest")?,
                at: at.unix_ms(),
                previous: read(previous, "previous")?,
                signature: read(signature, "signature")?,
            }))
        })
    }

    /// Read exactly one.
    #[classmethod]
    fn from_bytes(_class: &Bound<'_, PyType>, data: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("Checkpoint.from_bytes", || {
            let data = args::payload(data, "data")?;
            Checkpoint::decode(data.as_bytes())
                .map(Self)
                .map_err(|error| errors::file(&error))
        })
    }

    /// Return its form on the wire.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.to_bytes())
    }

    /// Whose chain it is about.
    #[getter]
    fn entity_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.entity.to_python(py)
    }

    /// Term of ownership in which it was signed.
    #[getter]
    fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Position that it vouches for, and everything before.
    #[getter]
    fn sequence(&self) -> u64 {
        self.0.sequence
    }

    /// Chain digest at `sequence`.
    #[getter]
    fn digest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.digest.to_python(py)
    }

    /// When it was signed, by the node's wall clock.
    #[getter]
    fn at<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Moment::of(self.0.at).to_python(py)
    }

    /// Digest of the checkpoint before; 32 zero bytes for the first.
    #[getter]
    fn previous<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.previous.to_python(py)
    }

    /// 64 bytes.
    #[getter]
    fn signature<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.signature.to_python(py)
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

    /// By its bytes: they have years that no `datetime` has.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        record::reduce_bytes(slf, slf.get().to_bytes(slf.py()).into_any())
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyCheckpoint>()
}
