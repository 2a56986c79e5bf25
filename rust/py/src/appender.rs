//! Appenders written in Python.
//!
//! The runtime that uses one shows it to the collector.

use std::sync::Arc;

use meshos_core::status::{AuditRecord, FailureRecord, LogRecord};
use meshos_node::appender::Appender;
use meshos_node::callback::CallFailed;
use meshos_node::records::ActionRecord;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};

use crate::aio::Loop;
use crate::callback::{Callee, Offered, attached};
use crate::record::field::Field;
use crate::status::audit::{PyActionRecord, PyAdminAuditRecord, PyFailureRecord, PyLogRecord};

/// Shows a record.
type Show<R> = for<'py> fn(Python<'py>, &R) -> PyResult<Bound<'py, PyAny>>;

/// An appender written in Python.
pub struct PyAppender<R> {
    callee: Callee,
    close: bool,
    show: Show<R>,
}

impl<R> PyAppender<R> {
    fn new(
        object: &Bound<'_, PyAny>,
        home: Arc<Loop>,
        role: &'static str,
        argument: &'static str,
        show: Show<R>,
    ) -> PyResult<Self> {
        let offered = Offered::by(object, role, argument)?;
        Ok(Self {
            callee: Callee::new(object, home),
            close: offered.has("close"),
            show,
        })
    }

    /// Shows what it holds to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.callee.traverse(visit)
    }
}

impl PyAppender<AuditRecord> {
    /// Takes an object over; raises `TypeError` if it keeps no commands.
    pub fn of_audits(object: &Bound<'_, PyAny>, home: Arc<Loop>) -> PyResult<Self> {
        Self::new(
            object,
            home,
            "AdminAuditChainAppender",
            "admin_audit_appender",
            |py, record| PyAdminAuditRecord::from(record).to_python(py),
        )
    }
}

impl PyAppender<LogRecord> {
    /// Takes an object over; raises `TypeError` if it keeps no lines.
    pub fn of_lines(object: &Bound<'_, PyAny>, home: Arc<Loop>) -> PyResult<Self> {
        Self::new(object, home, "LogChainAppender", "log_appender", |py, record| {
            PyLogRecord::from(record).to_python(py)
        })
    }
}

impl PyAppender<Arc<FailureRecord>> {
    /// Takes an object over; raises `TypeError` if it keeps no failures.
    pub fn of_failures(object: &Bound<'_, PyAny>, home: Arc<Loop>) -> PyResult<Self> {
        Self::new(
            object,
            home,
            "FailureChainAppender",
            "failure_appender",
            |py, record| PyFailureRecord::from(&**record).to_python(py),
        )
    }
}

impl PyAppender<ActionRecord> {
    /// Takes an object over; raises `TypeError` if it keeps nothing of actions.
    pub fn of_actions(object: &Bound<'_, PyAny>, home: Arc<Loop>) -> PyResult<Self> {
        Self::new(object, home, "ActionChainAppender", "action_appender", |py, record| {
            let record = PyActionRecord::of(record.seq, record.at, &record.disposed, false);
            record.to_python(py)
        })
    }
}

impl<R: 'static> Appender<R> for PyAppender<R> {
    fn append(&self, record: &R) -> Result<(), CallFailed> {
        attached(|py| {
            let arguments = || PyTuple::new(py, [(self.show)(py, record)?]);
            self.callee.ask(py, "append", arguments, |_| Ok(()))
        })
    }

    fn close(&self) -> Result<(), CallFailed> {
        if !self.close {
            return Ok(());
        }
        attached(|py| {
            let arguments = || Ok(PyTuple::empty(py));
            self.callee.ask(py, "close", arguments, |_| Ok(()))
        })
    }

    fn batch(&self, turn: &mut dyn FnMut()) {
        if Python::try_attach(|_| turn()).is_none() {
            turn();
        }
    }

    fn name(&self) -> &str {
        self.callee.name()
    }
}
