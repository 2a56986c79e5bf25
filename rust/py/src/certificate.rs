//! `Certificate`: who may speak for an entity.

use meshos_core::certificate::{Certificate, Reason};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple, PyType};

use crate::args;
use crate::errors::{self, InvalidArgument};
use crate::guard::entry;
use crate::record::field::{Field, read};
use crate::record::{self, Record, Reduced};

/// Who may speak for an entity: this node, in this epoch, from this sequence on.
#[pyclass(frozen, eq, name = "Certificate", module = "meshos.chain")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PyCertificate(pub Certificate);

impl Record for PyCertificate {
    const FIELDS: &'static [&'static str] = &[
        "entity_id",
        "epoch",
        "node",
        "from_sequence",
        "digest",
        "reason",
        "signer",
        "signature",
    ];
}

const REASONS: [(&str, Reason); 4] = [
    ("spawn", Reason::Spawn),
    ("move", Reason::Move),
    ("restart", Reason::Restart),
    ("takeover", Reason::Takeover),
];

#[pymethods]
impl PyCertificate {
    #[new]
    #[allow(clippy::too_many_arguments)]
    fn new(
        entity_id: &Bound<'_, PyAny>,
        epoch: &Bound<'_, PyAny>,
        node: &Bound<'_, PyAny>,
        from_sequence: &Bound<'_, PyAny>,
        digest: &Bound<'_, PyAny>,
        reason: &Bound<'_, PyAny>,
        signer: &Bound<'_, PyAny>,
        signature: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        entry("Certificate", || {
            Ok(Self(Certificate {
                entity: read(entity_id, "entity_id")?,
                epoch: read(epoch, "epoch")?,
                node: read(node, "node")?,
                from_sequence: read(from_sequence, "from_sequence")?,
                digest: read(digest, "digest")?,
                reason: read_reason(reason)?,
                signer: read(signer, "signer")?,
                signature: read(signature, "signature")?,
            }))
        })
    }

    /// Read exactly one.
    #[classmethod]
    fn from_bytes(_class: &Bound<'_, PyType>, data: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("Certificate.from_bytes", || {
            let data = args::payload(data, "data")?;
            Certificate::decode(data.as_bytes())
                .map(Self)
                .map_err(|error| errors::file(&error))
        })
    }

    /// Return its form on the wire.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.to_bytes())
    }

    /// Whom it speaks for.
    #[getter]
    fn entity_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.entity.to_python(py)
    }

    /// Term of ownership.
    #[getter]
    fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// The node that speaks.
    #[getter]
    fn node<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.node.to_python(py)
    }

    /// Position after which the node speaks.
    #[getter(from_sequence)]
    fn start(&self) -> u64 {
        self.0.from_sequence
    }

    /// Chain digest at `from_sequence`.
    #[getter]
    fn digest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.digest.to_python(py)
    }

    /// What began the epoch.
    #[getter]
    pub fn reason(&self) -> &'static str {
        let found = REASONS.iter().find(|(_, reason)| *reason == self.0.reason);
        found.expect("REASONS has every reason").0
    }

    /// Who signed it.
    #[getter]
    fn signer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.signer.to_python(py)
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

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        record::reduce(slf)
    }
}

fn read_reason(value: &Bound<'_, PyAny>) -> PyResult<Reason> {
    let text = value
        .cast::<PyString>()
        .map_err(|_| args::wrong_type("reason", "a str", value))?
        .to_string_lossy();
    let found = REASONS.into_iter().find(|(name, _)| *name == text);
    found.map(|(_, reason)| reason).ok_or_else(|| {
        let message = format!("must be \"spawn\", \"move\", \"restart\" or \"takeover\", not {text:?}");
        InvalidArgument::new_err(("reason", message))
    })
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyCertificate>()
}
