//! `ForkRecord` and `fork_entity`: the signed descent of one entity from another.

use meshos_core::fork::{self, ForkRecord};
use meshos_node::keys;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};

use crate::args;
use crate::chain::PyCausalChainBuilder;
use crate::errors::{self, InvalidArgument};
use crate::guard::entry;
use crate::identity::PyIdentity;
use crate::record::field::{Field, read};
use crate::record::{self, Record, Reduced};

/// The signed descent of one entity from another.
#[pyclass(frozen, eq, name = "ForkRecord", module = "meshos.chain")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PyForkRecord(pub ForkRecord);

impl Record for PyForkRecord {
    const FIELDS: &'static [&'static str] = &[
        "parent",
        "child",
        "fork_sequence",
        "parent_digest",
        "from_snapshot_sequence",
        "signer",
        "signatures",
    ];
}

#[pymethods]
impl PyForkRecord {
    #[new]
    #[pyo3(signature = (parent, child, fork_sequence, parent_digest, from_snapshot_sequence, signer, signatures))]
    fn new(
        parent: &Bound<'_, PyAny>,
        child: &Bound<'_, PyAny>,
        fork_sequence: &Bound<'_, PyAny>,
        parent_digest: &Bound<'_, PyAny>,
        from_snapshot_sequence: &Bound<'_, PyAny>,
        signer: &Bound<'_, PyAny>,
        signatures: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        entry("ForkRecord", || {
            Ok(Self(ForkRecord {
                parent: read(parent, "parent")?,
                child: read(child, "child")?,
                fork_sequence: read(fork_sequence, "fork_sequence")?,
                parent_digest: read(parent_digest, "parent_digest")?,
                from_snapshot_sequence: read(from_snapshot_sequence, "from_snapshot_sequence")?,
                signer: read(signer, "signer")?,
                signatures: read_signatures(signatures)?,
            }))
        })
    }

    /// Read and verify exactly one.
    #[classmethod]
    fn from_bytes(_class: &Bound<'_, PyType>, data: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("ForkRecord.from_bytes", || {
            let data = args::payload(data, "data")?;
            ForkRecord::decode(data.as_bytes())
                .map(Self)
                .map_err(|error| errors::file(&error))
        })
    }

    /// Return its form on the wire.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.to_bytes())
    }

    /// Check both signatures and the genesis of the child.
    fn verify(&self) -> PyResult<()> {
        entry("ForkRecord.verify", || {
            self.0.verify().map_err(|error| errors::chain(&error))
        })
    }

    /// The entity that was forked.
    #[getter]
    fn parent<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.parent.to_python(py)
    }

    /// The entity that came of it.
    #[getter]
    fn child<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.child.to_python(py)
    }

    /// Position of the parent's chain after which it was forked.
    #[getter]
    fn fork_sequence(&self) -> u64 {
        self.0.fork_sequence
    }

    /// Digest of the parent's chain there.
    #[getter]
    fn parent_digest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.parent_digest.to_python(py)
    }

    /// Position of the snapshot that the child began with, if with one.
    #[getter(from_snapshot_sequence)]
    fn snapshot_sequence(&self) -> Option<u64> {
        self.0.from_snapshot_sequence
    }

    /// The parent, or an operator.
    #[getter]
    fn signer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.signer.to_python(py)
    }

    /// Of the signer and of the child.
    #[getter]
    fn signatures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let [signer, child] = &self.0.signatures;
        (signer.to_python(py)?, child.to_python(py)?).into_pyobject(py)
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

fn read_signatures(value: &Bound<'_, PyAny>) -> PyResult<[[u8; 64]; 2]> {
    let name = "signatures";
    let pair = value
        .cast::<PyTuple>()
        .map_err(|_| args::wrong_type(name, "a tuple", value))?;
    if pair.len() != 2 {
        return Err(InvalidArgument::new_err((
            name,
            format!("must be two signatures, not {}", pair.len()),
        )));
    }
    Ok([read(&pair.get_item(0)?, name)?, read(&pair.get_item(1)?, name)?])
}

/// Make a fresh identity with signed descent, and the builder of its chain.
#[pyfunction]
#[pyo3(signature = (parent, fork_sequence, parent_digest, *, from_snapshot_sequence = None))]
fn fork_entity(
    parent: &Bound<'_, PyAny>,
    fork_sequence: &Bound<'_, PyAny>,
    parent_digest: &Bound<'_, PyAny>,
    from_snapshot_sequence: Option<&Bound<'_, PyAny>>,
) -> PyResult<(PyIdentity, PyForkRecord, PyCausalChainBuilder)> {
    entry("fork_entity", || {
        let parent = args::instance::<PyIdentity>(parent, "parent", "an Identity")?.get();
        let fork_sequence = args::u64(fork_sequence, "fork_sequence")?;
        let parent_digest = read(parent_digest, "parent_digest")?;
        let from_snapshot = from_snapshot_sequence.map(|value| args::u64(value, "from_snapshot_sequence"));
        let from_snapshot = from_snapshot.transpose()?;
        if from_snapshot.is_some_and(|snapshot| snapshot > fork_sequence) {
            let message = format!("must not be after fork_sequence, which is {fork_sequence}");
            return Err(InvalidArgument::new_err(("from_snapshot_sequence", message)));
        }
        let child = keys::generate();
        let made = fork::fork_entity(&parent.key.lock(), &child, fork_sequence, &parent_digest, from_snapshot);
        let (record, chain) = made.map_err(|error| errors::identity(&error))?;
        Ok((
            PyIdentity::new(child),
            PyForkRecord(record),
            PyCausalChainBuilder::new(chain),
        ))
    })
}

/// Adds class and function to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyForkRecord>()?;
    module.add_function(wrap_pyfunction!(fork_entity, module)?)
}
