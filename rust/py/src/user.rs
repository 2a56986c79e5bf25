//! Failures of user code, with their originals.

use std::sync::Arc;

use pyo3::prelude::*;

/// User code raised, or gave back something it must not.
#[derive(Debug)]
pub struct UserError {
    /// Stable name of what went wrong.
    pub kind: &'static str,
    /// One line for people.
    pub message: String,
    /// Class name of what it raised; empty when it raised nothing.
    pub exception: Arc<str>,
    /// Text of what it raised, or what went wrong.
    pub text: Arc<str>,
    /// What it raised.
    pub cause: Option<PyErr>,
    /// How much of the call ran.
    pub ran: Ran,
}

/// How much of a call ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran {
    /// Nothing of it: it was refused.
    Nothing,
    /// All of it, or up to where it raised.
    ToItsEnd,
    /// It was given up, and its coroutine did not end.
    Still,
}

impl UserError {
    /// It raised.
    pub fn raised(py: Python<'_>, call: &str, error: PyErr) -> Self {
        let class = error
            .get_type(py)
            .name()
            .map_or_else(|_| "?".to_owned(), |name| name.to_string());
        // A text that cannot be made is an error of the error.
        let text = error
            .value(py)
            .str()
            .map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned());
        let message = if text.is_empty() {
            format!("{call} raised {class}")
        } else {
            format!("{call} raised {class}: {text}")
        };
        Self {
            kind: "raised",
            message,
            exception: Arc::from(class),
            text: Arc::from(text),
            cause: Some(error),
            ran: Ran::ToItsEnd,
        }
    }

    /// It was refused before any of it ran.
    pub fn refused(py: Python<'_>, call: &str, error: PyErr) -> Self {
        Self {
            ran: Ran::Nothing,
            ..Self::raised(py, call, error)
        }
    }

    /// It gave back something it must not.
    pub fn wrong_type(message: String) -> Self {
        Self::other("wrong_type", message)
    }

    /// Another failure, with a kind of its own.
    pub fn other(kind: &'static str, message: String) -> Self {
        Self {
            kind,
            exception: Arc::default(),
            text: Arc::from(message.as_str()),
            message,
            cause: None,
            ran: Ran::ToItsEnd,
        }
    }
}
