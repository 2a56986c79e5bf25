//! Failures of user code, with their originals.

use pyo3::prelude::*;

/// User code raised, or gave back something it must not.
#[derive(Debug)]
pub struct UserError {
    /// Stable name of what went wrong.
    pub kind: &'static str,
    /// One line for people.
    pub message: String,
    /// What it raised.
    pub cause: Option<PyErr>,
    /// A coroutine was given up and did not end.
    pub still_runs: bool,
}

impl UserError {
    /// It raised.
    pub fn raised(py: Python<'_>, call: &str, error: PyErr) -> Self {
        let class = error.get_type(py).name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
        // A text that cannot be made is an error of the error.
        let text = error.value(py).str().map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned());
        let message =
            if text.is_empty() { format!("{call} raised {class}") } else { format!("{call} raised {class}: {text}") };
        Self { kind: "raised", message, cause: Some(error), still_runs: false }
    }

    /// It gave back something it must not.
    pub fn wrong_type(message: String) -> Self {
        Self { kind: "wrong_type", message, cause: None, still_runs: false }
    }

    /// Another failure, with a kind of its own.
    pub fn other(kind: &'static str, message: String) -> Self {
        Self { kind, message, cause: None, still_runs: false }
    }
}
