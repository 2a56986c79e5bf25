//! `Output`, and what else `process` may give back.

use meshos_core::host::Few;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use crate::args;
use crate::user::UserError;

/// One emitted payload.
#[pyclass(frozen, name = "Output", module = "meshos.daemon")]
pub struct PyOutput {
    payload: Py<PyBytes>,
}

#[pymethods]
impl PyOutput {
    #[new]
    fn new(payload: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self {
            payload: args::payload(payload, "payload")?.unbind(),
        })
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

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let Ok(other) = other.cast::<Self>() else {
            return Ok(py.NotImplemented());
        };
        let same = self.payload.as_bytes(py) == other.get().payload.as_bytes(py);
        Ok(same.into_pyobject(py)?.to_owned().into_any().unbind())
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        ("Output", self.payload.bind(py)).into_pyobject(py)?.hash()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Output({})", self.payload.bind(py).repr()?))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let arguments = (slf.get().payload.bind(slf.py()),).into_pyobject(slf.py())?;
        Ok((slf.get_type().into_any(), arguments))
    }
}

/// What a call of `process` came to: its outputs, or something to be awaited first.
pub enum Returned<'py> {
    /// The payloads, in order.
    Outputs(Few<PyBackedBytes>),
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
fn one(item: &Bound<'_, PyAny>) -> Result<PyBackedBytes, UserError> {
    if let Ok(bytes) = item.cast::<PyBytes>() {
        return Ok(PyBackedBytes::from(bytes.clone()));
    }
    payload(item)?.ok_or_else(|| wrong(item))
}

/// A single payload in one of its forms; `None` when it is something else.
fn payload(item: &Bound<'_, PyAny>) -> Result<Option<PyBackedBytes>, UserError> {
    if let Ok(bytes) = item.cast::<PyBytes>() {
        return Ok(Some(PyBackedBytes::from(bytes.clone())));
    }
    if let Ok(output) = item.cast::<PyOutput>() {
        return Ok(Some(PyBackedBytes::from(output.get().payload.bind(item.py()).clone())));
    }
    match args::copied(item) {
        Some(Ok(copy)) => Ok(Some(PyBackedBytes::from(copy))),
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
