//! `RecoveryRegistry`, and recovery handlers written in Python.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meshos_core::status::RecoveryStatus;
use meshos_node::callback::CallFailed;
use meshos_node::recovery::{RecoveryHandler, RecoveryRegistry};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use crate::aio::Loop;
use crate::args;
use crate::callback::{self, CALL, Callee, Offered, attached};
use crate::errors::{self, InvalidArgument};
use crate::guard::{Born, entry, may_wait};
use crate::record::field::{Field, Given};
use crate::record::moment::Moment;
use crate::record::record;

/// Most slots that one call gives.
const SLOTS_MAX: usize = 256;
/// How often a handler may raise in a row, unless said otherwise.
const STRIKES: u32 = 3;

static IDENTITIES: AtomicUsize = AtomicUsize::new(1);

/// A handler written in Python.
struct PyHandler {
    callee: Callee,
    has_work: bool,
    identity: usize,
}

impl PyHandler {
    fn ask<R>(&self, method: &'static str, read: fn(&Bound<'_, PyAny>) -> PyResult<R>) -> Result<R, CallFailed> {
        attached(|py| {
            let asked = self.callee.try_ask(py, method, || Ok(PyTuple::empty(py)), read);
            asked.map_err(|error| {
                if callback::is_interrupt(py, &error) {
                    CallFailed::new("interrupted")
                } else {
                    self.callee.failed(py, error)
                }
            })
        })
    }
}

impl RecoveryHandler for PyHandler {
    fn has_work(&self) -> Result<bool, CallFailed> {
        if self.has_work {
            self.ask("has_work", |answer| bool::from_python(answer, "has_work"))
        } else {
            Ok(true)
        }
    }

    fn recover(&self) -> Result<Vec<u8>, CallFailed> {
        self.ask(CALL, slots)
    }

    fn name(&self) -> &str {
        self.callee.name()
    }

    fn was_interrupted(&self) -> bool {
        callback::was_interrupted()
    }

    fn identity(&self) -> usize {
        self.identity
    }
}

/// Reads the slots that a handler placed again.
fn slots(given: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let items = given.try_iter().map_err(|error| {
        if error.is_instance_of::<PyTypeError>(given.py()) {
            args::wrong_type("slots", "a sequence of int", given)
        } else {
            error
        }
    })?;
    let mut slots = Vec::new();
    for item in items {
        let slot = args::u64(&item?, "slots")?;
        let slot = u8::try_from(slot).map_err(|_| InvalidArgument::new_err(("slots", "must be from 0 to 255")))?;
        if slots.len() == SLOTS_MAX {
            return Err(InvalidArgument::new_err(("slots", "must be at most 256")));
        }
        slots.push(slot);
    }
    Ok(slots)
}

/// The recovery handlers of a runtime. Handlers may call it; a handler added during a run begins with the next.
#[pyclass(frozen, name = "RecoveryRegistry", module = "meshos.recovery", weakref)]
pub struct PyRecoveryRegistry {
    /// The registry.
    pub registry: RecoveryRegistry,
    /// Where coroutines of its handlers run.
    pub home: Arc<Loop>,
    born: Born,
}

fn as_python(handler: &dyn RecoveryHandler) -> Option<&PyHandler> {
    (handler as &dyn Any).downcast_ref()
}

#[pymethods]
impl PyRecoveryRegistry {
    #[new]
    pub fn new() -> Self {
        Self {
            registry: RecoveryRegistry::new(),
            home: Loop::new(None),
            born: Born::now(),
        }
    }

    #[pyo3(signature = (handler, *, name = None, strikes = Given::Not), text_signature = "($self, handler, *, name=None, strikes=3)")]
    fn register(
        &self,
        handler: &Bound<'_, PyAny>,
        name: Option<&Bound<'_, PyAny>>,
        strikes: Given<'_>,
    ) -> PyResult<usize> {
        entry("RecoveryRegistry.register", || {
            self.born.check("RecoveryRegistry")?;
            let offered = Offered::by(handler, "RecoveryHandler", "handler")?;
            let name = name
                .map(|name| Option::<Arc<str>>::from_python(name, "name"))
                .transpose()?
                .flatten();
            if name.as_deref() == Some("") {
                return Err(InvalidArgument::new_err(("name", "must not be empty")));
            }
            let strikes = strikes.read_or("strikes", STRIKES)?;
            if strikes == 0 {
                return Err(InvalidArgument::new_err(("strikes", "must be at least 1")));
            }
            let handler = PyHandler {
                callee: Callee::new(handler, Arc::clone(&self.home)),
                has_work: offered.has("has_work"),
                identity: IDENTITIES.fetch_add(1, Ordering::Relaxed),
            };
            let registered = self.registry.register(Arc::new(handler), name.as_deref(), strikes);
            registered.map_err(|taken| errors::name_taken(&taken))
        })
    }

    fn unregister(&self, handler: &Bound<'_, PyAny>) -> PyResult<bool> {
        entry("RecoveryRegistry.unregister", || {
            self.born.check("RecoveryRegistry")?;
            if let Ok(name) = handler.cast::<PyString>() {
                return Ok(self.registry.unregister(&name.to_string_lossy()));
            }
            let handlers = self.registry.handlers();
            let found = handlers
                .iter()
                .find(|known| as_python(&***known).is_some_and(|known| known.callee.is(handler)));
            Ok(found.is_some_and(|found| self.registry.unregister_identity(found.identity())))
        })
    }

    fn try_run_all<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        const CALL: &str = "RecoveryRegistry.try_run_all";
        entry(CALL, || {
            self.born.check("RecoveryRegistry")?;
            may_wait(CALL)?;
            self.home.may_wait_for_coroutines(py, CALL)?;
            let slots = callback::on_callers_thread(|| self.registry.try_run_all())?;
            PyTuple::new(py, slots)
        })
    }

    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        self.born.check("RecoveryRegistry")?;
        let handlers = self.registry.status();
        PyTuple::new(py, handlers.iter().map(PyRecoveryStatus::of))
    }

    fn is_empty(&self) -> PyResult<bool> {
        self.born.check("RecoveryRegistry")?;
        Ok(self.registry.is_empty())
    }

    fn __len__(&self) -> PyResult<usize> {
        self.born.check("RecoveryRegistry")?;
        Ok(self.registry.len())
    }

    fn __repr__(&self) -> String {
        format!("RecoveryRegistry(<{} handlers>)", self.registry.len())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.home.traverse(&visit)?;
        let mut outcome = Ok(());
        self.registry.peek(|handler| {
            if let (Ok(()), Some(handler)) = (&outcome, as_python(handler)) {
                outcome = handler.callee.traverse(&visit);
            }
        });
        outcome
    }

    fn __clear__(&self) {
        self.registry.clear();
    }
}

record! {
    /// How one handler is doing.
    pub struct PyRecoveryStatus in "meshos.recovery" as "RecoveryStatus", by keyword {
        /// Its name.
        name: Arc<str>,
        /// Calls that ended.
        runs: u64,
        /// Slots it placed again.
        recovered: u64,
        /// Raises in a row.
        strikes: u32,
        /// What it raised last.
        last_error: Option<Arc<str>>,
        /// When it ran last.
        last_run_at: Option<Moment>,
        /// How long that took.
        last_took: Duration,
    }
}

impl PyRecoveryStatus {
    /// The record of a handler.
    pub fn of(status: &RecoveryStatus) -> Self {
        Self {
            name: Arc::clone(&status.name),
            runs: status.runs,
            recovered: status.recovered,
            strikes: status.strikes,
            last_error: status.last_error.clone(),
            last_run_at: status.last_run_at.map(Moment::of),
            last_took: status.last_took,
        }
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyRecoveryRegistry>()?;
    module.add_class::<PyRecoveryStatus>()
}
