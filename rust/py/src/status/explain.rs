//! Why a daemon or a chain is as it is.

use std::borrow::Cow;

use meshos_core::command::ChainId;
use meshos_core::signal::DaemonRef;
use meshos_core::status::{Explanation, Reason};
use pyo3::prelude::*;

use crate::args;
use crate::event::PyDaemonRef;
use crate::record::field::Field;
use crate::record::moment::Moment;
use crate::record::record;

record! {
    /// One thing that holds a daemon or a chain where it is.
    pub struct PyReason in "meshos.status" as "Reason", signature "(kind, text, until=None)" {
        /// Stable name.
        kind: Cow<'static, str>,
        /// For people.
        text: Cow<'static, str>,
        /// Until when it holds.
        until: Option<Moment> = None,
    }
}

impl From<&Reason> for PyReason {
    fn from(reason: &Reason) -> Self {
        Self {
            kind: Cow::Borrowed(reason.kind),
            text: Cow::Owned(reason.text.clone()),
            until: reason.until.map(Moment::of),
        }
    }
}

/// What is explained.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// A daemon.
    Daemon(DaemonRef),
    /// A chain.
    Chain(ChainId),
}

impl Field for Subject {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        if let Ok(daemon) = value.cast::<PyDaemonRef>() {
            return Ok(Self::Daemon(daemon.get().0.clone()));
        }
        args::u64(value, name).map(|chain| Self::Chain(ChainId::new(chain)))
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Daemon(daemon) => daemon.to_python(py),
            Self::Chain(chain) => chain.to_python(py),
        }
    }
}

record! {
    /// Why a daemon or a chain is as it is; `str()` is for people.
    pub struct PyExplanation in "meshos.status" as "Explanation", by keyword, shown by in_words {
        /// What is explained.
        subject: Subject,
        /// What is wanted, for people.
        desired: Cow<'static, str>,
        /// What is, for people.
        actual: Cow<'static, str>,
        /// Stable name of the rule that decides.
        rule: Cow<'static, str>,
        /// What holds it.
        reasons: Vec<PyReason>,
    }
}

impl PyExplanation {
    /// What explains a daemon or a chain.
    pub fn of(subject: Subject, explanation: &Explanation) -> Self {
        Self {
            subject,
            desired: Cow::Owned(explanation.desired.clone()),
            actual: Cow::Owned(explanation.actual.clone()),
            rule: Cow::Borrowed(explanation.rule),
            reasons: explanation.reasons.iter().map(PyReason::from).collect(),
        }
    }
}

/// One line, and one more for each reason.
fn in_words(explanation: &PyExplanation, py: Python<'_>) -> PyResult<String> {
    let subject = match &explanation.subject {
        Subject::Daemon(daemon) if daemon.name.is_empty() => format!("daemon {}", daemon.id),
        Subject::Daemon(daemon) => format!("daemon {} ({})", daemon.name, daemon.id),
        Subject::Chain(chain) => format!("chain {chain}"),
    };
    let PyExplanation {
        desired, actual, rule, ..
    } = explanation;
    let mut text = format!("{subject}: wanted {desired}, is {actual}; decided by {rule}");
    for reason in &explanation.reasons {
        text.push_str(&format!("\n  {}: {}", reason.kind, reason.text));
        if let Some(until) = reason.until {
            text.push_str(&format!(", until {}", until.to_python(py)?));
        }
    }
    Ok(text)
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyReason>()?;
    module.add_class::<PyExplanation>()
}
