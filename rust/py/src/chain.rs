//! `CausalChainBuilder`: appends to one chain.

use meshos_core::chain::CausalChainBuilder;
use meshos_node::sync::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};

use crate::args;
use crate::causal::PyCausalEvent;
use crate::errors;
use crate::guard::entry;
use crate::link::PyCausalLink;
use crate::record::Reduced;
use crate::record::field::{Field, Given, read};

/// A payload above this many bytes is hashed with other threads running.
const DETACH_BYTES: usize = 64 << 10;

/// Appends to one chain; its 32-byte head digest is all that a restored chain needs to continue.
#[pyclass(frozen, name = "CausalChainBuilder", module = "meshos.chain")]
pub struct PyCausalChainBuilder(Mutex<CausalChainBuilder>);

impl PyCausalChainBuilder {
    /// Takes over a builder.
    pub fn new(chain: CausalChainBuilder) -> Self {
        Self(Mutex::new(chain))
    }

    /// The chain as it is now; what is appended to one of both later, the other does not have.
    pub fn take(&self) -> CausalChainBuilder {
        self.0.lock().clone()
    }
}

#[pymethods]
impl PyCausalChainBuilder {
    #[new]
    fn begin(entity_id: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("CausalChainBuilder", || {
            Ok(Self::new(CausalChainBuilder::new(read(entity_id, "entity_id")?)))
        })
    }

    /// Continue after `head`.
    #[classmethod]
    fn from_head(
        _class: &Bound<'_, PyType>,
        entity_id: &Bound<'_, PyAny>,
        head: &Bound<'_, PyAny>,
        head_digest: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        entry("CausalChainBuilder.from_head", || {
            let entity = read(entity_id, "entity_id")?;
            let head = args::instance::<PyCausalLink>(head, "head", "a CausalLink")?.get().0;
            let chain = CausalChainBuilder::from_head(entity, head, read(head_digest, "head_digest")?);
            chain.map(Self::new).map_err(|error| errors::chain(&error))
        })
    }

    /// Append one event.
    #[pyo3(
        signature = (payload, horizon_encoded = Given::Not),
        text_signature = "($self, payload, horizon_encoded=0)"
    )]
    fn append(
        &self,
        py: Python<'_>,
        payload: &Bound<'_, PyAny>,
        horizon_encoded: Given<'_>,
    ) -> PyResult<Py<PyCausalEvent>> {
        entry("CausalChainBuilder.append", || {
            let payload = args::payload(payload, "payload")?;
            let horizon = horizon_encoded.read_or("horizon_encoded", 0)?;
            let bytes = payload.as_bytes();
            let append = || self.0.lock().append(bytes, horizon);
            let link = if bytes.len() > DETACH_BYTES {
                py.detach(append)
            } else {
                append()
            };
            PyCausalEvent::emitted(py, link.map_err(|error| errors::chain(&error))?, payload.unbind())
        })
    }

    /// Whose chain it is.
    #[getter]
    fn entity_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let entity = self.0.lock().entity();
        entity.to_python(py)
    }

    /// The handle of the entity.
    #[getter]
    fn origin_hash(&self) -> u64 {
        self.0.lock().origin().get()
    }

    /// Events appended since genesis.
    #[getter]
    fn sequence(&self) -> u64 {
        self.0.lock().sequence()
    }

    /// The last link.
    #[getter]
    fn head_link(&self) -> PyCausalLink {
        PyCausalLink(self.0.lock().head())
    }

    /// 32 bytes that commit to the whole chain.
    #[getter]
    fn head_digest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let digest = self.0.lock().digest();
        digest.to_python(py)
    }

    fn __repr__(&self) -> String {
        let chain = self.0.lock();
        format!("<CausalChainBuilder {} at {}>", chain.origin(), chain.sequence())
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let py = slf.py();
        let chain = slf.get().take();
        let head = Bound::new(py, PyCausalLink(chain.head()))?;
        let arguments: Bound<'py, PyTuple> = (
            chain.entity().to_python(py)?,
            head,
            PyBytes::new(py, chain.digest().as_bytes()),
        )
            .into_pyobject(py)?;
        Ok((slf.get_type().getattr("from_head")?, arguments))
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyCausalChainBuilder>()
}
