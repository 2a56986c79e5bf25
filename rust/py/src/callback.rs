//! User code that the behaviour loop asks or tells, as objects of Python.
//!
//! A callback may be a plain method or an `async` one. What it gives to be awaited is awaited on the loop that started
//! the runtime, or else on one of meshos, from the thread that made the call. It counts as user code of no daemon: it may
//! call whatever does not wait for itself.
//!
//! Invariants
//! * What a callback raises goes no further than its caller: it is logged, and becomes a `CallFailed`.
//! * Each adapter has one reference to its object, which one Python object shows to the collector.

use std::cell::RefCell;
use std::sync::Arc;

use meshos_node::callback::CallFailed;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit, intern};

use crate::aio::{self, Later, Loop};
use crate::errors;
use crate::guard::InCallback;
use crate::registry;
use crate::user::UserError;

/// Longest text of a failure, in bytes.
const REASON_BYTES_MAX: usize = 1000;

/// What an object offers, as `meshos._callbacks` found out.
pub struct Offered(Vec<String>);

impl Offered {
    /// Checks that an object can be called as its role demands; raises `TypeError` saying what is wrong with it.
    pub fn by(object: &Bound<'_, PyAny>, role: &'static str, argument: &'static str) -> PyResult<Self> {
        static CHECK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = object.py();
        let check = CHECK.import(py, "meshos._callbacks", "check")?;
        check.call1((role, argument, object))?.extract().map(Self)
    }

    /// Whether it has a method that it need not have.
    pub fn has(&self, method: &str) -> bool {
        self.0.iter().any(|offered| offered == method)
    }
}

/// An object whose methods are called.
pub struct Callee {
    object: Py<PyAny>,
    name: Arc<str>,
    home: Arc<Loop>,
}

impl Callee {
    /// Takes an object over; its coroutines run on `home`.
    pub fn new(object: &Bound<'_, PyAny>, home: Arc<Loop>) -> Self {
        Self {
            object: object.clone().unbind(),
            name: name_of(object),
            home,
        }
    }

    /// Its name, for people: of a function, or of the class of anything else.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The user's object.
    pub fn object<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.object.bind(py)
    }

    /// Whether it is this very object. Bound methods are made anew each time they are looked up.
    pub fn is(&self, other: &Bound<'_, PyAny>) -> bool {
        let py = other.py();
        let same = |attribute| {
            let (ours, theirs) = (self.object.bind(py).getattr(attribute), other.getattr(attribute));
            matches!((ours, theirs), (Ok(ours), Ok(theirs)) if ours.is(&theirs))
        };
        self.object.is(other) || (same(intern!(py, "__self__")) && same(intern!(py, "__func__")))
    }

    /// Calls a method, awaits what it gives, and reads that. A failure is logged.
    pub fn ask<'py, R>(
        &self,
        py: Python<'py>,
        method: &'static str,
        arguments: impl FnOnce() -> PyResult<Bound<'py, PyTuple>>,
        read: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<R>,
    ) -> Result<R, CallFailed> {
        self.try_ask(py, method, arguments, read)
            .map_err(|error| self.failed(py, error))
    }

    /// Calls a method, awaits what it gives, and reads that.
    pub fn try_ask<'py, R>(
        &self,
        py: Python<'py>,
        method: &'static str,
        arguments: impl FnOnce() -> PyResult<Bound<'py, PyTuple>>,
        read: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<R>,
    ) -> Result<R, UserError> {
        let object = self.object.bind(py);
        let _inside = InCallback::begin(self.home.address());
        let called = arguments().and_then(|arguments| {
            if method == CALL {
                object.call1(arguments)
            } else {
                object.call_method1(PyString::intern(py, method), arguments)
            }
        });
        let raised = |error| UserError::raised(py, self.shown(method), error);
        let mut result = called.map_err(raised)?;
        if !result.is_none() && result.hasattr(intern!(py, "__await__")).map_err(raised)? {
            let later = Later::of_callback(result.unbind(), Arc::clone(&self.home));
            result = aio::wait_on_thread(py, later, method)?.into_bound(py);
        }
        read(&result).map_err(|error| {
            let reading = format!("{}: reading what it gave", self.shown(method));
            UserError::raised(py, &reading, error)
        })
    }

    fn shown(&self, method: &'static str) -> &str {
        if method == CALL { &self.name } else { method }
    }

    /// Logs a failure, and makes what the loop keeps of it.
    pub fn failed(&self, py: Python<'_>, error: UserError) -> CallFailed {
        let reason = one_line(&error.message);
        let traceback = error.cause.and_then(|cause| {
            let text = traceback(py, &cause);
            registry::log(py, &format!("callback {}: {reason}", self.name), cause);
            text
        });
        CallFailed { reason, traceback }
    }

    /// Shows what it holds to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.object)
    }
}

/// Stands for calling the object itself.
pub const CALL: &str = "__call__";

/// Runs `body` attached. `Err`: the interpreter is going away.
pub fn attached<R>(body: impl FnOnce(Python<'_>) -> Result<R, CallFailed>) -> Result<R, CallFailed> {
    Python::try_attach(body).unwrap_or_else(|| Err(CallFailed::new("the interpreter is going away")))
}

fn name_of(object: &Bound<'_, PyAny>) -> Arc<str> {
    let py = object.py();
    let own = object
        .getattr(intern!(py, "__name__"))
        .and_then(|name| name.extract::<String>());
    let class = || object.get_type().name().map(|name| name.to_string());
    Arc::from(own.or_else(|_| class()).unwrap_or_else(|_| "callback".to_owned()))
}

/// The text without ends of lines, cut to a bounded length.
fn one_line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > REASON_BYTES_MAX {
        let end = (0..=REASON_BYTES_MAX).rev().find(|end| line.is_char_boundary(*end));
        line.truncate(end.unwrap_or(0));
        line.push('…');
    }
    line
}

fn traceback(py: Python<'_>, error: &PyErr) -> Option<String> {
    let module = py.import(intern!(py, "meshos._log")).ok()?;
    let traceback_of = module.getattr(intern!(py, "traceback_of")).ok()?;
    // Not `value`: only what is taken out of the error has its traceback.
    let text = traceback_of.call1((error.clone_ref(py).into_value(py),)).ok()?;
    text.extract().ok()
}

thread_local! {
    /// On a thread that runs callbacks for its own caller: what interrupted one of them.
    static INTERRUPT: RefCell<Option<Option<PyErr>>> = const { RefCell::new(None) };
}

/// Runs callbacks on the caller's own thread. `KeyboardInterrupt` and `SystemExit` in one of them are the caller's, and
/// are raised when `body` has ended.
pub fn on_callers_thread<R>(body: impl FnOnce() -> R) -> PyResult<R> {
    let before = INTERRUPT.replace(Some(None));
    let outcome = body();
    match INTERRUPT.replace(before).flatten() {
        Some(error) => Err(error),
        None => Ok(outcome),
    }
}

/// Whether an error is the caller's, on a thread that runs callbacks for its caller: then it is kept for the caller.
pub fn is_interrupt(py: Python<'_>, error: &UserError) -> bool {
    let Some(cause) = error.cause.as_ref().filter(|cause| errors::passes_through(cause, py)) else {
        return false;
    };
    INTERRUPT.with_borrow_mut(|kept| match kept {
        None => false,
        Some(kept) => {
            kept.get_or_insert_with(|| cause.clone_ref(py));
            true
        }
    })
}

/// Whether a callback of this run was interrupted.
pub fn was_interrupted() -> bool {
    INTERRUPT.with_borrow(|kept| matches!(kept, Some(Some(_))))
}
