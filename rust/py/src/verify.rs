//! `verify` and `verify_chain`: what a chain proves, checked with the public key alone.

use meshos_core::chain::{BrokenKind, ChainError};
use meshos_core::digest::Digest;
use meshos_core::export::{self, FileError};
use meshos_core::id::EntityId;
use meshos_core::link::CausalLink;
use meshos_core::verify::{self as core, ChainReport, Claim, OwnerSpan};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyBytes;

use crate::args;
use crate::causal::PyCausalEvent;
use crate::certificate::PyCertificate;
use crate::checkpoint::PyCheckpoint;
use crate::errors;
use crate::guard::entry;
use crate::receipt::PyReceipt;
use crate::record::field::{Given, read, records};
use crate::record::record;

record! {
    /// One node's time as the speaker of a chain.
    pub struct PyOwnerSpan in "meshos.chain" as "OwnerSpan", by keyword {
        /// Who spoke.
        node: EntityId,
        /// In which term.
        epoch: u64,
        /// First event of the span.
        first_sequence: u64,
        /// Last event of the span.
        last_sequence: u64,
        /// Sequence from which the next record declared this span rolled back.
        rolled_back_from: Option<u64>,
    }
}

record! {
    /// What a chain proves.
    pub struct PyChainReport in "meshos.chain" as "ChainReport", by keyword {
        /// Whose chain it is.
        entity_id: EntityId,
        /// How many events were checked.
        events: u64,
        /// Above 1 when older outputs were not retained; then the first checkpoint vouches for them.
        first_sequence: u64,
        /// The last event.
        last_sequence: u64,
        /// Highest sequence that a signed checkpoint covers.
        signed_through: u64,
        /// Digest of the chain at its end.
        digest: Digest,
        /// Who spoke for it, oldest first.
        owners: Vec<PyOwnerSpan>,
    }
}

impl PyChainReport {
    /// Shows a report to Python.
    pub fn new(report: ChainReport) -> Self {
        let ChainReport {
            entity,
            events,
            first_sequence,
            last_sequence,
            signed_through,
            digest,
            owners,
        } = report;
        let owners = owners.into_iter().map(|span| {
            let OwnerSpan {
                node,
                epoch,
                first_sequence,
                last_sequence,
                rolled_back_from,
            } = span;
            PyOwnerSpan {
                node,
                epoch,
                first_sequence,
                last_sequence,
                rolled_back_from,
            }
        });
        let owners = owners.collect();
        Self {
            entity_id: entity,
            events,
            first_sequence,
            last_sequence,
            signed_through,
            digest,
            owners,
        }
    }
}

/// Check a chain, oldest first, or a part of it that follows a checkpoint.
#[pyfunction]
fn verify(
    py: Python<'_>,
    events: &Bound<'_, PyAny>,
    checkpoints: &Bound<'_, PyAny>,
    certificates: &Bound<'_, PyAny>,
    entity_id: &Bound<'_, PyAny>,
) -> PyResult<PyChainReport> {
    entry("verify", || {
        let held: Vec<(CausalLink, PyBackedBytes)> = records::<PyCausalEvent>(events, "events")?
            .iter()
            .map(|event| {
                (
                    event.get().link,
                    PyBackedBytes::from(event.get().payload.bind(py).clone()),
                )
            })
            .collect();
        let checkpoints = records::<PyCheckpoint>(checkpoints, "checkpoints")?;
        let checkpoints: Vec<_> = checkpoints.iter().map(|checkpoint| checkpoint.get().0).collect();
        let certificates = records::<PyCertificate>(certificates, "certificates")?;
        let certificates: Vec<_> = certificates.iter().map(|certificate| certificate.get().0).collect();
        let entity: EntityId = read(entity_id, "entity_id")?;
        let report = py.detach(|| {
            let events: Vec<(CausalLink, &[u8])> = held.iter().map(|(link, payload)| (*link, &**payload)).collect();
            core::verify(&events, &checkpoints, &certificates, &entity, &[])
        });
        report.map(PyChainReport::new).map_err(|error| errors::chain(&error))
    })
}

/// Check a file of `export_chain` with the public key alone, and that the receipts fit.
#[pyfunction]
#[pyo3(signature = (file, entity_id, *, receipts = Given::Not), text_signature = "(file, entity_id, *, receipts=())")]
fn verify_chain(
    py: Python<'_>,
    file: &Bound<'_, PyAny>,
    entity_id: &Bound<'_, PyAny>,
    receipts: Given<'_>,
) -> PyResult<PyChainReport> {
    entry("verify_chain", || {
        let entity: EntityId = read(entity_id, "entity_id")?;
        let claims = receipts.map_or(Vec::new(), |receipts| claims(receipts, &entity))?;
        let bytes = PyBackedBytes::from(contents(file)?);
        let report = py.detach(|| export::verify_file(&bytes, &entity, &claims));
        report.map(PyChainReport::new).map_err(|error| match error {
            FileError::Decode(error) => errors::file(&error),
            FileError::Chain(error) => errors::chain(&error),
        })
    })
}

/// What the receipts say of the chain; one of another daemon says nothing of this one, and does not fit.
fn claims(receipts: &Bound<'_, PyAny>, entity: &EntityId) -> PyResult<Vec<Claim>> {
    let origin = entity.origin();
    let claim = |given: &Bound<'_, PyReceipt>| {
        let PyReceipt {
            origin: found, receipt, ..
        } = *given.get();
        if found == origin {
            return Ok(Claim {
                sequence: receipt.position,
                digest: receipt.digest,
            });
        }
        let kind = BrokenKind::WrongOrigin;
        let (sequence, expected, found) = (receipt.position, origin.get(), found.get());
        Err(errors::chain(&ChainError::Broken {
            kind,
            origin,
            sequence,
            expected,
            found,
        }))
    };
    records::<PyReceipt>(receipts, "receipts")?.iter().map(claim).collect()
}

/// Reads a file as Python does, so that its errors, audit hooks and signal handlers are those of Python.
fn contents<'py>(file: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    static OPEN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = file.py();
    let path = args::path(file, "file")?;
    let opened = OPEN.import(py, "builtins", "open")?.call1((path, "rb"))?;
    let contents = opened.call_method0(intern!(py, "read"));
    opened.call_method0(intern!(py, "close"))?;
    Ok(contents?.cast_into::<PyBytes>()?)
}

/// Adds classes and functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyOwnerSpan>()?;
    module.add_class::<PyChainReport>()?;
    module.add_function(wrap_pyfunction!(verify, module)?)?;
    module.add_function(wrap_pyfunction!(verify_chain, module)?)
}
