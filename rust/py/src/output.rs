//! `Output`, and what else `process` may give back.

use meshos_core::host::Few;
use meshos_core::id::Origin;
use meshos_core::route::Route;
use meshos_node::router::PAYLOAD_BYTES_MAX;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use crate::args;
use crate::errors::InvalidArgument;
use crate::name::{channel_name, extract_channel};
use crate::user::UserError;

/// One emitted payload, and where it goes besides the chain.
#[pyclass(frozen, name = "Output", module = "meshos.daemon")]
pub struct PyOutput {
    payload: Py<PyBytes>,
    route: Route,
}

#[pymethods]
impl PyOutput {
    #[new]
    #[pyo3(signature = (payload, *, channel = None, to = None))]
    fn new(
        payload: &Bound<'_, PyAny>,
        channel: Option<&Bound<'_, PyAny>>,
        to: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let payload = args::payload(payload, "payload")?.unbind();
        let channel = channel.filter(|channel| !channel.is_none());
        let route = match (channel, to.filter(|to| !to.is_none())) {
            (None, None) => Route::Chain,
            (Some(channel), None) => Route::Channel(extract_channel(channel)?),
            (None, Some(to)) => {
                let origin = args::u64(to, "to")?;
                if payload.as_bytes(to.py()).len() > PAYLOAD_BYTES_MAX {
                    let rule = format!("has more than the {PAYLOAD_BYTES_MAX} bytes that can be sent to a daemon");
                    return Err(InvalidArgument::new_err(("payload", rule)));
                }
                Route::To(Origin::new(origin))
            }
            (Some(_), Some(_)) => {
                let rule = "must be left out where channel is given";
                return Err(InvalidArgument::new_err(("to", rule)));
            }
        };
        Ok(Self { payload, route })
    }

    #[classattr]
    #[pyo3(name = "__match_args__")]
    fn match_args() -> (&'static str,) {
        ("payload",)
    }

    #[getter]
    fn payload<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.payload.bind(py).clone()
    }

    #[getter]
    fn channel<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match &self.route {
            Route::Channel(channel) => channel_name(py, channel).map(Some),
            Route::Chain | Route::To(_) => Ok(None),
        }
    }

    #[getter]
    fn to(&self) -> Option<u64> {
        match &self.route {
            Route::To(to) => Some(to.get()),
            Route::Chain | Route::Channel(_) => None,
        }
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let Ok(other) = other.cast::<Self>() else {
            return Ok(py.NotImplemented());
        };
        let other = other.get();
        let same = self.payload.as_bytes(py) == other.payload.as_bytes(py) && self.route == other.route;
        Ok(same.into_pyobject(py)?.to_owned().into_any().unbind())
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        ("Output", self.payload.bind(py), self.channel(py)?, self.to())
            .into_pyobject(py)?
            .hash()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let payload = self.payload.bind(py).repr()?;
        Ok(match &self.route {
            Route::Chain => format!("Output({payload})"),
            Route::Channel(channel) => format!("Output({payload}, channel={:?})", channel.as_str()),
            Route::To(to) => format!("Output({payload}, to=0x{:016x})", to.get()),
        })
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let (py, this) = (slf.py(), slf.get());
        let payload = (this.payload.bind(py),);
        if this.route.is_chain() {
            return Ok((slf.get_type().into_any(), payload.into_pyobject(py)?));
        }
        let route = PyDict::new(py);
        route.set_item(intern!(py, "channel"), this.channel(py)?)?;
        route.set_item(intern!(py, "to"), this.to())?;
        let make = py.import("copyreg")?.getattr("__newobj_ex__")?;
        Ok((make, (slf.get_type(), payload, route).into_pyobject(py)?))
    }
}

/// What `process` gave back: a payload, and where it goes besides the chain.
pub struct Emitted {
    payload: PyBackedBytes,
    /// `None`: nowhere.
    route: Option<Box<Route>>,
}

impl Emitted {
    fn plain(payload: PyBackedBytes) -> Self {
        Self { payload, route: None }
    }

    /// Where it goes besides the chain.
    pub fn route(&self) -> Route {
        self.route.as_deref().cloned().unwrap_or_default()
    }

    /// The payload.
    pub fn into_payload(self) -> PyBackedBytes {
        self.payload
    }
}

impl AsRef<[u8]> for Emitted {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

/// What a call of `process` came to: its outputs, or something to be awaited first.
pub enum Returned<'py> {
    /// The payloads, in order.
    Outputs(Few<Emitted>),
    /// A coroutine or another awaitable.
    Awaitable(Bound<'py, PyAny>),
    /// An asynchronous generator.
    AsyncIterable(Bound<'py, PyAny>),
}

/// Reads what `process` gave back; a generator runs here.
#[inline]
pub fn read<'py>(result: &Bound<'py, PyAny>) -> Result<Returned<'py>, UserError> {
    if result.is_none() {
        return Ok(Returned::Outputs(Few::new()));
    }
    if let Ok(list) = result.cast_exact::<PyList>() {
        let mut outputs = Few::with_capacity(list.len());
        for item in list.iter() {
            outputs.push(one(&item)?);
        }
        return Ok(Returned::Outputs(outputs));
    }
    read_slowly(result)
}

fn read_slowly<'py>(result: &Bound<'py, PyAny>) -> Result<Returned<'py>, UserError> {
    let py = result.py();
    if let Some(output) = payload(result)? {
        return Ok(Returned::Outputs(Few::from_iter([output])));
    }
    if result.hasattr("__await__").unwrap_or(false) {
        return Ok(Returned::Awaitable(result.clone()));
    }
    if result.hasattr("__aiter__").unwrap_or(false) {
        return Ok(Returned::AsyncIterable(result.clone()));
    }
    if result.is_instance_of::<PyString>() {
        return Err(wrong(result));
    }
    let Ok(items) = result.try_iter() else {
        return Err(wrong(result));
    };
    let mut outputs = Few::new();
    for item in items {
        let item = item.map_err(|error| UserError::raised(py, "process", error))?;
        outputs.push(one(&item)?);
    }
    Ok(Returned::Outputs(outputs))
}

#[inline]
fn one(item: &Bound<'_, PyAny>) -> Result<Emitted, UserError> {
    if let Ok(bytes) = item.cast::<PyBytes>() {
        return Ok(Emitted::plain(PyBackedBytes::from(bytes.clone())));
    }
    payload(item)?.ok_or_else(|| wrong(item))
}

/// A single payload in one of its forms; `None` when it is something else.
fn payload(item: &Bound<'_, PyAny>) -> Result<Option<Emitted>, UserError> {
    if let Ok(bytes) = item.cast::<PyBytes>() {
        return Ok(Some(Emitted::plain(PyBackedBytes::from(bytes.clone()))));
    }
    if let Ok(output) = item.cast::<PyOutput>() {
        let output = output.get();
        let route = Some(&output.route).filter(|route| !route.is_chain());
        return Ok(Some(Emitted {
            payload: PyBackedBytes::from(output.payload.bind(item.py()).clone()),
            route: route.map(|route| Box::new(route.clone())),
        }));
    }
    match args::copied(item) {
        Some(Ok(copy)) => Ok(Some(Emitted::plain(PyBackedBytes::from(copy)))),
        Some(Err(error)) => Err(UserError::raised(item.py(), "process", error)),
        None => Ok(None),
    }
}

fn wrong(item: &Bound<'_, PyAny>) -> UserError {
    let class = item
        .get_type()
        .name()
        .map_or_else(|_| "?".to_owned(), |name| name.to_string());
    UserError::wrong_type(format!(
        "process gave {class}, where bytes, bytearray, memoryview or Output belong"
    ))
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyOutput>()
}
