//! `Receipt`: the acknowledgement of one event.

use std::hash::{Hash, Hasher};

use meshos_core::cursors::Receipt;
use meshos_core::digest::Digest;
use meshos_core::id::Origin;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::guard::entry;
use crate::record::field::{Field, Given, read};
use crate::record::{self, Record, Reduced};

/// The acknowledgement of one event: it took effect, there, and left the chain like this.
#[pyclass(frozen, eq, hash, name = "Receipt", module = "meshos.compute")]
#[derive(Debug, Clone, Copy)]
pub struct PyReceipt {
    /// Of the daemon that processed the event.
    pub origin: Origin,
    /// Of the event.
    pub event_origin: Origin,
    /// What the daemon keeps of it.
    pub receipt: Receipt,
    /// Whether it took effect at an earlier try.
    pub duplicate: bool,
}

impl PyReceipt {
    /// The receipt of an event of `key_origin`, given by the daemon `origin`.
    pub fn new(origin: Origin, key_origin: Origin, receipt: &Receipt, duplicate: bool) -> Self {
        Self {
            origin,
            event_origin: key_origin,
            receipt: *receipt,
            duplicate,
        }
    }

    /// All but `duplicate`, which tells of the try and not of the event.
    fn compared(&self) -> (Origin, u64, u64, u64, Digest, Origin, u64) {
        let Receipt {
            sequence,
            epoch,
            processed,
            position,
            digest,
        } = self.receipt;
        (
            self.origin,
            epoch,
            processed,
            position,
            digest,
            self.event_origin,
            sequence,
        )
    }
}

impl PartialEq for PyReceipt {
    fn eq(&self, other: &Self) -> bool {
        self.compared() == other.compared()
    }
}

impl Hash for PyReceipt {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.compared().hash(state);
    }
}

impl Record for PyReceipt {
    const FIELDS: &'static [&'static str] = &[
        "origin_hash",
        "epoch",
        "processed",
        "sequence",
        "head",
        "event_origin",
        "event_sequence",
        "duplicate",
    ];
    const BY_KEYWORD: bool = true;
}

#[pymethods]
impl PyReceipt {
    #[new]
    #[pyo3(
        signature = (
            *, origin_hash, epoch, processed, sequence, head, event_origin, event_sequence, duplicate = Given::Not
        ),
        text_signature = "(*, origin_hash, epoch, processed, sequence, head, event_origin, event_sequence, \
            duplicate=False)"
    )]
    #[allow(clippy::too_many_arguments)]
    fn py_new(
        origin_hash: &Bound<'_, PyAny>,
        epoch: &Bound<'_, PyAny>,
        processed: &Bound<'_, PyAny>,
        sequence: &Bound<'_, PyAny>,
        head: &Bound<'_, PyAny>,
        event_origin: &Bound<'_, PyAny>,
        event_sequence: &Bound<'_, PyAny>,
        duplicate: Given<'_>,
    ) -> PyResult<Self> {
        entry("Receipt", || {
            Ok(Self {
                origin: read(origin_hash, "origin_hash")?,
                event_origin: read(event_origin, "event_origin")?,
                receipt: Receipt {
                    sequence: read(event_sequence, "event_sequence")?,
                    epoch: read(epoch, "epoch")?,
                    processed: read(processed, "processed")?,
                    position: read(sequence, "sequence")?,
                    digest: read(head, "head")?,
                },
                duplicate: duplicate.read_or("duplicate", false)?,
            })
        })
    }

    /// The daemon that processed the event.
    #[getter]
    fn origin_hash(&self) -> u64 {
        self.origin.get()
    }

    /// Term of ownership of the daemon.
    #[getter]
    fn epoch(&self) -> u64 {
        self.receipt.epoch
    }

    /// Events the daemon had processed since it began, this one included.
    #[getter]
    fn processed(&self) -> u64 {
        self.receipt.processed
    }

    /// Position of its chain afterwards.
    #[getter(sequence)]
    fn position(&self) -> u64 {
        self.receipt.position
    }

    /// 32-byte digest of its chain afterwards.
    #[getter]
    fn head<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.receipt.digest.to_python(py)
    }

    /// Who emitted the event.
    #[getter]
    fn event_origin(&self) -> u64 {
        self.event_origin.get()
    }

    /// Its number there.
    #[getter]
    fn event_sequence(&self) -> u64 {
        self.receipt.sequence
    }

    /// Whether it took effect at an earlier try; the other values are those of that try. Not compared.
    #[getter]
    fn duplicate(&self) -> bool {
        self.duplicate
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
    module.add_class::<PyReceipt>()
}
