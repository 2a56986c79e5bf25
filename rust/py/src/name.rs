//! Names of channels, which `meshos.channel.ChannelName` is made of.

use meshos_core::name::ChannelName;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};

use crate::args;
use crate::errors::{self, ChannelNameError};
use crate::guard::entry;
use crate::record::field::Field;

fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "meshos.channel", "ChannelName")
}

/// Makes a `meshos.channel.ChannelName` of a name that was checked before.
pub fn channel_name<'py>(py: Python<'py>, name: &ChannelName) -> PyResult<Bound<'py, PyAny>> {
    // Past its own `__new__`, which would check the name again.
    py.get_type::<PyString>()
        .call_method1(intern!(py, "__new__"), (class(py)?, name.as_str()))
}

/// Reads a channel name of a `str`.
pub fn extract_channel(value: &Bound<'_, PyAny>) -> PyResult<ChannelName> {
    ChannelName::from_python(value, "channel")
}

impl Field for ChannelName {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let text = value
            .cast::<PyString>()
            .map_err(|_| args::wrong_type(name, "a str", value))?;
        match text.to_str() {
            Ok(text) => Self::new(text).map_err(|error| errors::name(&error, text)),
            // A lone surrogate has no UTF-8, and is none of the characters of a name.
            Err(_) => Err(ChannelNameError::new_err(("invalid_char", text.clone().unbind()))),
        }
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        channel_name(py, self)
    }
}

/// Check a text for `ChannelName`, and return it as exactly `str`.
#[pyfunction]
fn channel_name_text<'py>(py: Python<'py>, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyString>> {
    entry("ChannelName", || {
        let name = ChannelName::from_python(name, "name")?;
        Ok(PyString::new(py, name.as_str()))
    })
}

/// Return whether `other` is `name` or lies below it.
#[pyfunction]
fn channel_name_is_prefix_of(name: &Bound<'_, PyAny>, other: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(ChannelName::from_python(name, "name")?.is_prefix_of(&ChannelName::from_python(other, "other")?))
}

/// Adds the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(channel_name_text, module)?)?;
    module.add_function(wrap_pyfunction!(channel_name_is_prefix_of, module)?)
}
