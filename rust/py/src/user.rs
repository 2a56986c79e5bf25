//! Failures of user code, with their originals.

use std::sync::Arc;

use pyo3::prelude::*;

/// User code raised, or gave back something it must not.
///
/// It travels through the hot path as the other half of a result, so it is kept small.
#[derive(Debug)]
pub struct UserError {
    /// Stable name of what went wrong.
    pub kind: &'static str,
    /// One line for people.
    pub message: String,
    /// Where in `message` the text of what it raised begins.
    pub text_at: u32,
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

/// Class name of an exception.
fn class_of(py: Python<'_>, error: &PyErr) -> String {
    error
        .get_type(py)
        .name()
        .map_or_else(|_| "?".to_owned(), |name| name.to_string())
}

impl UserError {
    /// It raised.
    pub fn raised(py: Python<'_>, call: &str, error: PyErr) -> Self {
        let class = class_of(py, &error);
        // A text that cannot be made is an error of the error.
        let text = error
            .value(py)
            .str()
            .map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned());
        let separator = if text.is_empty() { "" } else { ": " };
        let before = format!("{call} raised {class}{separator}");
        Self {
            kind: "raised",
            text_at: u32::try_from(before.len()).unwrap_or(0),
            message: before + &text,
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
            message,
            text_at: 0,
            cause: None,
            ran: Ran::ToItsEnd,
        }
    }

    /// Class name of what it raised, empty when it raised nothing; and its text, or what went wrong.
    pub fn blame(&self) -> (Arc<str>, Arc<str>) {
        let class = self
            .cause
            .as_ref()
            .map_or_else(String::new, |cause| Python::attach(|py| class_of(py, cause)));
        (Arc::from(class), Arc::from(&self.message[self.text_at as usize..]))
    }
}
