//! `StateSnapshot`: a daemon's state as verified bytes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use meshos_core::ingress::DIRECT;
use meshos_core::snapshot;
use meshos_node::inside::Snapshot;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyMappingProxy, PyType};

use crate::args;
use crate::daemon::{PyDaemon, PyState};
use crate::errors;
use crate::guard::entry;
use crate::link::PyCausalLink;
use crate::record::field::{Field, Given};
use crate::record::moment::Moment;
use crate::record::{self, Reduced};

/// A snapshot above this many bytes is read and written with other threads running.
const DETACH_BYTES: usize = 64 << 10;
/// Largest snapshot accepted unless the caller says otherwise.
const BYTES_MAX: u64 = 16 << 30;

/// One daemon at one position: state, chain head, cursors, receipts and subscriptions, closed by a digest.
#[pyclass(frozen, name = "StateSnapshot", module = "meshos.snapshot")]
pub struct PyStateSnapshot {
    /// Shared with the slot it was taken from, or is to be restored into.
    pub snapshot: Arc<Snapshot<PyDaemon>>,
}

impl PyStateSnapshot {
    /// Shows a snapshot to Python.
    pub fn new(snapshot: Arc<Snapshot<PyDaemon>>) -> Self {
        Self { snapshot }
    }

    /// Reads one back, strictly, of at most `bytes_max` bytes.
    pub fn read(data: &Bound<'_, PyBytes>, bytes_max: u64) -> PyResult<Self> {
        let (py, data) = (data.py(), PyBackedBytes::from(data.clone()));
        let decode = || snapshot::decode(&data, bytes_max);
        let decoded = if data.len() > DETACH_BYTES {
            py.detach(decode)
        } else {
            decode()
        };
        let (meta, state) = decoded.map_err(|error| errors::snapshot(&error))?;
        Ok(Self::new(Arc::new(Snapshot {
            meta,
            state: PyState::part(data, state),
        })))
    }

    fn encoded_len(&self) -> usize {
        self.snapshot.meta.encoded_len(self.snapshot.state.as_ref().len())
    }
}

#[pymethods]
impl PyStateSnapshot {
    /// Read one back, strictly, of at most `bytes_max` bytes.
    #[classmethod]
    #[pyo3(
        signature = (data, *, bytes_max = Given::Not),
        text_signature = "($type, data, *, bytes_max=17179869184)"
    )]
    fn from_bytes(_class: &Bound<'_, PyType>, data: &Bound<'_, PyAny>, bytes_max: Given<'_>) -> PyResult<Self> {
        entry("StateSnapshot.from_bytes", || {
            let data = args::payload(data, "data")?;
            Self::read(&data, bytes_max.read_or("bytes_max", BYTES_MAX)?)
        })
    }

    /// Return its form on the wire.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        entry("StateSnapshot.to_bytes", || {
            let snapshot = &*self.snapshot;
            let length = self.encoded_len();
            PyBytes::new_with(py, length, |bytes| {
                let mut encode = || snapshot.meta.encode_into(snapshot.state.as_ref(), bytes);
                if length > DETACH_BYTES {
                    py.detach(encode)
                } else {
                    encode()
                }
                Ok(())
            })
        })
    }

    /// Name under which the daemon's class is registered.
    #[getter]
    fn kind(&self) -> &str {
        &self.snapshot.meta.kind
    }

    /// Version of the state's format.
    #[getter]
    fn schema(&self) -> u32 {
        self.snapshot.meta.schema
    }

    /// The daemon's key.
    #[getter]
    fn entity_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.snapshot.meta.entity.to_python(py)
    }

    /// The daemon's handle.
    #[getter]
    fn origin_hash(&self) -> u64 {
        self.snapshot.meta.head.origin.get()
    }

    /// Term of ownership in which it was taken.
    #[getter]
    fn epoch(&self) -> u64 {
        self.snapshot.meta.epoch
    }

    /// Position of the daemon's own chain.
    #[getter]
    fn sequence(&self) -> u64 {
        self.snapshot.meta.head.sequence
    }

    /// Events processed since the daemon began.
    #[getter]
    fn processed(&self) -> u64 {
        self.snapshot.meta.stats.events_processed
    }

    /// The last link of the daemon's chain.
    #[getter]
    fn head_link(&self) -> PyCausalLink {
        PyCausalLink(self.snapshot.meta.head)
    }

    /// 32 bytes that commit to the daemon's whole chain.
    #[getter]
    fn head_digest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.snapshot.meta.digest.to_python(py)
    }

    /// Highest sequence processed of direct sends and deliveries, by origin.
    #[getter]
    fn cursors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMappingProxy>> {
        let cursors = PyDict::new(py);
        for (origin, stream, cursor) in self.snapshot.meta.cursors.iter() {
            if stream == DIRECT {
                cursors.set_item(origin.get(), cursor)?;
            }
        }
        Ok(PyMappingProxy::new(py, cursors.as_mapping()))
    }

    /// What the daemon's `snapshot` returned.
    #[getter]
    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.snapshot.state.to_bytes(py)
    }

    /// When it was taken, by the node's wall clock.
    #[getter]
    fn taken_at<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Moment::of(self.snapshot.meta.taken_at).to_python(py)
    }

    fn __len__(&self) -> usize {
        self.encoded_len()
    }

    fn __eq__(&self, other: &Self) -> bool {
        let (ours, theirs) = (&*self.snapshot, &*other.snapshot);
        ours.meta == theirs.meta && ours.state.as_ref() == theirs.state.as_ref()
    }

    fn __hash__(&self) -> u64 {
        let meta = &self.snapshot.meta;
        let mut hasher = DefaultHasher::new();
        (meta.entity, meta.epoch, meta.digest, meta.stats.events_processed).hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self) -> String {
        let meta = &self.snapshot.meta;
        format!(
            "<StateSnapshot of {} {:?}: epoch {}, sequence {}, {} processed, {} bytes of state>",
            meta.head.origin,
            meta.kind,
            meta.epoch,
            meta.head.sequence,
            meta.stats.events_processed,
            self.snapshot.state.as_ref().len()
        )
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        record::reduce_bytes(slf, slf.get().to_bytes(slf.py())?.into_any())
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyStateSnapshot>()
}
