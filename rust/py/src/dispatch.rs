//! Dispatchers, sinks of controls, and enders and listers of moves, written in Python.
//!
//! The runtime that uses one shows it to the collector.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::action::{Cause, MeshOsAction};
use meshos_core::control::DaemonControl;
use meshos_core::finite::Share;
use meshos_core::id::Origin;
use meshos_core::signal::Outcome;
use meshos_core::status::MigrationStatus;
use meshos_node::callback::CallFailed;
use meshos_node::clock;
use meshos_node::dispatch::{ActionDispatcher, ControlSink, MigrationAborter, MigrationSnapshotSource};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};

use crate::action::{PyBackpressureChange, action};
use crate::aio::Loop;
use crate::args;
use crate::callback::{Callee, Offered, attached};
use crate::control;
use crate::errors::{DispatchError, InvalidArgument};
use crate::migration::PyMigrationSnapshot;
use crate::record::field::Field;
use crate::user::UserError;

/// Most moves that one call lists.
const MOVES_MAX: usize = 65_536;

/// A dispatcher written in Python.
pub struct PyDispatcher {
    callee: Callee,
    on_cluster_backpressure: bool,
}

impl PyDispatcher {
    /// Takes an object over; raises `TypeError` if it is no dispatcher.
    pub fn new(object: &Bound<'_, PyAny>, home: Arc<Loop>) -> PyResult<Self> {
        let offered = Offered::by(object, "ActionDispatcher", "dispatcher")?;
        Ok(Self {
            callee: Callee::new(object, home),
            on_cluster_backpressure: offered.has("on_cluster_backpressure"),
        })
    }

    /// Shows what it holds to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.callee.traverse(visit)
    }

    fn outcome(&self, py: Python<'_>, error: UserError) -> Outcome {
        let answer = match &error.cause {
            Some(cause) if cause.is_instance_of::<DispatchError>(py) => answer(cause.value(py)),
            _ => Err(error),
        };
        answer.unwrap_or_else(|error| {
            let failed = self.callee.failed(py, error);
            raised(failed)
        })
    }
}

fn raised(failed: CallFailed) -> Outcome {
    Outcome::Raised {
        reason: Arc::from(failed.reason),
        traceback: failed.traceback.map(Arc::from),
    }
}

/// Reads what a dispatcher answered to an action that it did not carry out.
fn answer(error: &Bound<'_, PyAny>) -> Result<Outcome, UserError> {
    let py = error.py();
    let read = || {
        let reason = error
            .getattr(intern!(py, "reason"))?
            .str()?
            .to_string_lossy()
            .into_owned();
        let after = error.getattr(intern!(py, "retry_after"))?;
        PyResult::Ok((
            Arc::from(reason),
            Option::<Duration>::from_python(&after, "retry_after")?,
        ))
    };
    let (reason, after) = read().map_err(|error| UserError::raised(py, "reading the DispatchError", error))?;
    Ok(match after {
        None => Outcome::Drop { reason },
        Some(after) => Outcome::Retry { reason, after },
    })
}

impl ActionDispatcher for PyDispatcher {
    fn dispatch(&self, _id: u64, wanted: &MeshOsAction, cause: &Cause) -> Outcome {
        let dispatched = attached(|py| {
            let arguments = || PyTuple::new(py, [action(py, wanted, cause)?]);
            let read = |given: &Bound<'_, PyAny>| match given.is_none() {
                true => Ok(()),
                false => Err(args::wrong_type("what dispatch gives", "None", given)),
            };
            let asked = self.callee.try_ask(py, "dispatch", arguments, read);
            Ok(asked.map_or_else(|error| self.outcome(py, error), |()| Outcome::Done))
        });
        dispatched.unwrap_or_else(raised)
    }

    fn on_cluster_backpressure(&self, asserted: bool, level: Share) -> Result<(), CallFailed> {
        if !self.on_cluster_backpressure {
            return Ok(());
        }
        attached(|py| {
            let level = level.into();
            let change = || PyTuple::new(py, [PyBackpressureChange { asserted, level }.to_python(py)?]);
            self.callee.ask(py, "on_cluster_backpressure", change, |_| Ok(()))
        })
    }

    fn name(&self) -> &str {
        self.callee.name()
    }
}

/// A sink of controls written in Python.
pub struct PyControlSink(Callee);

impl PyControlSink {
    /// Takes an object over; raises `TypeError` if it is no sink.
    pub fn new(object: &Bound<'_, PyAny>, home: Arc<Loop>) -> PyResult<Self> {
        Offered::by(object, "ControlSink", "control_sink")?;
        Ok(Self(Callee::new(object, home)))
    }

    /// Shows what it holds to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(visit)
    }
}

impl ControlSink for PyControlSink {
    fn emit(&self, emitted: DaemonControl) -> Result<(), CallFailed> {
        attached(|py| {
            let arguments = || PyTuple::new(py, [control::control(py, emitted, clock::unix_ms())?]);
            self.0.ask(py, "emit", arguments, |_| Ok(()))
        })
    }

    fn name(&self) -> &str {
        self.0.name()
    }
}

/// Something written in Python that ends moves.
pub struct PyAborter {
    callee: Callee,
    is_no_op: bool,
}

impl PyAborter {
    /// Takes an object over; raises `TypeError` if it ends no moves.
    pub fn new(object: &Bound<'_, PyAny>, home: Arc<Loop>) -> PyResult<Self> {
        let offered = Offered::by(object, "MigrationAborter", "migration_aborter")?;
        Ok(Self {
            callee: Callee::new(object, home),
            is_no_op: offered.has("is_no_op"),
        })
    }

    /// Shows what it holds to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.callee.traverse(visit)
    }
}

impl MigrationAborter for PyAborter {
    fn abort(&self, daemon: Origin) -> Result<(), CallFailed> {
        attached(|py| {
            let arguments = || PyTuple::new(py, [daemon.get()]);
            self.callee.ask(py, "abort", arguments, |_| Ok(()))
        })
    }

    fn is_no_op(&self) -> bool {
        let ask = || {
            attached(|py| {
                let arguments = || Ok(PyTuple::empty(py));
                let read = |answer: &Bound<'_, PyAny>| bool::from_python(answer, "is_no_op");
                self.callee.ask(py, "is_no_op", arguments, read)
            })
        };
        self.is_no_op && ask().unwrap_or(false)
    }

    fn name(&self) -> &str {
        self.callee.name()
    }
}

/// Something written in Python that lists moves.
pub struct PyMigrationSource(Callee);

impl PyMigrationSource {
    /// Takes an object over; raises `TypeError` if it lists no moves.
    pub fn new(object: &Bound<'_, PyAny>, home: Arc<Loop>) -> PyResult<Self> {
        Offered::by(object, "MigrationSnapshotSource", "migration_snapshot_source")?;
        Ok(Self(Callee::new(object, home)))
    }

    /// Shows what it holds to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(visit)
    }
}

impl MigrationSnapshotSource for PyMigrationSource {
    fn list(&self) -> Result<Vec<MigrationStatus>, CallFailed> {
        attached(|py| {
            let arguments = || Ok(PyTuple::empty(py));
            self.0.ask(py, "list", arguments, moves)
        })
    }

    fn name(&self) -> &str {
        self.0.name()
    }
}

fn moves(listed: &Bound<'_, PyAny>) -> PyResult<Vec<MigrationStatus>> {
    let mut moves = Vec::new();
    for item in listed.try_iter()? {
        if moves.len() == MOVES_MAX {
            return Err(InvalidArgument::new_err(("list", "must give at most 65,536 moves")));
        }
        moves.push(PyMigrationSnapshot::from_python(&item?, "list")?.core());
    }
    Ok(moves)
}
