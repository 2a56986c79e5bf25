//! `CausalEvent`: a payload with its link.

use std::sync::Arc;

use meshos_core::id::Origin;
use meshos_core::link::CausalLink;
use meshos_core::source::Source;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::args;
use crate::errors::InvalidArgument;
use crate::guard::entry;
use crate::link::PyCausalLink;
use crate::name::channel_name;

/// An event: what `process` is given, and what its outputs become.
#[pyclass(frozen, name = "CausalEvent", module = "meshos.chain")]
pub struct PyCausalEvent {
    /// Who, having seen what, as which event, after which.
    pub link: CausalLink,
    /// The very object it was made with, if that was `bytes`.
    #[pyo3(get)]
    pub payload: Py<PyBytes>,
    /// Length of the payload.
    pub len: usize,
    /// When this node took it in, Unix time in nanoseconds.
    pub received_ns: u64,
    /// Where it comes from, if that is a channel.
    pub source: Option<Arc<Source>>,
}

impl PyCausalEvent {
    /// Makes an event that arrives or is emitted now.
    #[inline]
    pub fn now(link: CausalLink, payload: Bound<'_, PyBytes>) -> Self {
        let len = payload.as_bytes().len();
        Self {
            link,
            payload: payload.unbind(),
            len,
            received_ns: args::unix_ns(),
            source: None,
        }
    }

    /// Makes the Python object of an emitted event.
    pub fn emitted(py: Python<'_>, link: CausalLink, payload: Py<PyBytes>) -> PyResult<Py<Self>> {
        Py::new(py, Self::now(link, payload.into_bound(py)))
    }

    /// An event from outside the mesh: no parent, no horizon.
    #[inline]
    pub fn outside(origin: Origin, sequence: u64, payload: Bound<'_, PyBytes>) -> Self {
        Self::now(
            CausalLink {
                origin,
                horizon: 0,
                sequence,
                parent: 0,
            },
            payload,
        )
    }
}

#[pymethods]
impl PyCausalEvent {
    #[new]
    fn new(link: &Bound<'_, PyAny>, payload: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("CausalEvent", || {
            let link = args::instance::<PyCausalLink>(link, "link", "CausalLink")?;
            Ok(Self::now(link.get().0, args::payload(payload, "payload")?))
        })
    }

    /// Make an event from outside the mesh.
    #[staticmethod]
    #[inline]
    fn external(
        origin_hash: &Bound<'_, PyAny>,
        sequence: &Bound<'_, PyAny>,
        payload: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let origin = Origin::new(args::u64(origin_hash, "origin_hash")?);
        let number = args::u64(sequence, "sequence")?;
        if number == 0 {
            return Err(InvalidArgument::new_err((
                "sequence",
                "an event's sequence begins at 1",
            )));
        }
        Ok(Self::outside(origin, number, args::payload(payload, "payload")?))
    }

    #[classattr]
    #[pyo3(name = "__match_args__")]
    fn match_args() -> (&'static str, &'static str) {
        ("link", "payload")
    }

    #[getter]
    fn link(&self) -> PyCausalLink {
        PyCausalLink(self.link)
    }

    #[getter]
    fn origin_hash(&self) -> u64 {
        self.link.origin.get()
    }

    #[getter]
    fn sequence(&self) -> u64 {
        self.link.sequence
    }

    /// The channel that it came from; `None`: it was sent to the daemon.
    #[getter]
    fn channel<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let source = self.source.as_ref();
        source.map(|source| channel_name(py, &source.channel)).transpose()
    }

    /// The node that published it on that channel.
    #[getter]
    fn publisher(&self) -> Option<u64> {
        self.source.as_ref().map(|source| source.publisher.node_id().get())
    }

    #[getter]
    fn received_at<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        args::datetime_from_ns(py, self.received_ns)
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> Py<PyAny> {
        let Ok(other) = other.cast::<Self>() else {
            return py.NotImplemented();
        };
        let other = other.get();
        let same = self.link == other.link && self.payload.as_bytes(py) == other.payload.as_bytes(py);
        same.into_pyobject(py)
            .map_or_else(|never| match never {}, |same| same.to_owned().into_any().unbind())
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        (
            self.link.origin.get(),
            self.link.sequence,
            self.link.parent,
            self.payload.bind(py),
        )
            .into_pyobject(py)?
            .hash()
    }

    fn __repr__(&self) -> String {
        format!(
            "CausalEvent(origin_hash=0x{}, sequence={}, payload=<{} bytes>)",
            self.link.origin, self.link.sequence, self.len
        )
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let py = slf.py();
        let event = slf.get();
        let arguments = (PyCausalLink(event.link), event.payload.bind(py)).into_pyobject(py)?;
        Ok((slf.get_type().into_any(), arguments))
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyCausalEvent>()
}
