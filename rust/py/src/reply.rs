//! Answers to mailed events: futures of an event loop, and threads that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use meshos_core::id::Origin;
use meshos_core::ingress::EventKey;
use meshos_node::clock::Deadline;
use meshos_node::daemon::Settled;
use meshos_node::daemon::{DeliverError, Delivered};
use meshos_node::sync::{Condvar, Mutex};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyTuple};

use crate::causal::PyCausalEvent;
use crate::daemon::PyDaemon;
use crate::errors;
use crate::guard;
use crate::receipt::PyReceipt;

static SETTLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

/// Answers that found their event loop closed.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Who waits for a mailed event.
pub struct Reply {
    /// The daemon it was mailed to.
    pub origin: Origin,
    /// The event, when its caller numbered it.
    pub event: Option<Py<PyCausalEvent>>,
    /// Where the answer goes.
    pub to: To,
}

/// Where an answer goes.
pub enum To {
    /// A future of an event loop.
    Future {
        /// The future.
        future: Py<PyAny>,
        /// Its loop.
        event_loop: Py<PyAny>,
    },
    /// A place in a tray that a thread waits for.
    Tray(Arc<Tray>, usize),
    /// Nowhere: the event was posted.
    Nobody,
}

/// The answers that are there, each in its place.
pub type Places = Vec<Option<PyResult<Py<PyAny>>>>;

/// Answers for a thread that waits.
pub struct Tray {
    state: Mutex<(Places, usize)>,
    bell: Condvar,
}

/// How a wait for a tray ended.
pub enum Waited {
    /// All answers are there, or all up to the first that says that its event failed.
    Full(Vec<PyResult<Py<PyAny>>>),
    /// Time was up; the answers that are there.
    TimedOut(Places),
    /// A signal handler raised.
    Interrupted,
}

impl Tray {
    /// A tray for so many answers.
    pub fn new(places: usize) -> Arc<Self> {
        let empty = std::iter::repeat_with(|| None).take(places).collect();
        Arc::new(Self {
            state: Mutex::new((empty, places)),
            bell: Condvar::new(),
        })
    }

    /// Takes no more answers than those before a place.
    pub fn cut(&self, places: usize) {
        let mut state = self.state.lock();
        let gone = state.0.len().saturating_sub(places);
        state.0.truncate(places);
        state.1 = state.1.saturating_sub(gone);
    }

    fn put(&self, place: usize, answer: PyResult<Py<PyAny>>) {
        let mut state = self.state.lock();
        let failed = answer.is_err();
        let open = state.1 > 0;
        // Nobody wants it any more when time was up before it came, or when one before it failed.
        let Some(empty) = state.0.get_mut(place).filter(|_| open) else {
            drop(state);
            drop(answer);
            return;
        };
        *empty = Some(answer);
        state.1 -= 1;
        // Events of a tray stop at the first that fails. Those after it are told so when somebody gets to them, which
        // may be after user code was started again.
        if failed && state.0[..place].iter().all(Option::is_some) {
            state.1 = 0;
        }
        if state.1 == 0 {
            self.bell.notify_all();
        }
    }

    /// Waits, detached from the interpreter, until all answers are there or one failed.
    pub fn wait(&self, deadline: Deadline, signal: &mut Option<PyErr>) -> Waited {
        let mut state = self.state.lock();
        loop {
            if state.1 == 0 {
                return Waited::Full(std::mem::take(&mut state.0).into_iter().flatten().collect());
            }
            if deadline.passed() {
                return Waited::TimedOut(std::mem::take(&mut state.0));
            }
            state = self.bell.wait_until(state, deadline.slice());
            if state.1 > 0 {
                // A signal handler is user code: it runs with nothing locked.
                drop(state);
                if guard::interrupted(signal) {
                    return Waited::Interrupted;
                }
                state = self.state.lock();
            }
        }
    }
}

impl Reply {
    /// Whether its future was cancelled. A thread that gave up waiting is told that the event may still take effect,
    /// so it does not count.
    pub fn is_abandoned(&self) -> bool {
        match &self.to {
            To::Tray(..) | To::Nobody => false,
            To::Future { future, .. } => Python::attach(|py| {
                let cancelled = future.bind(py).call_method0(intern!(py, "cancelled"));
                cancelled.and_then(|cancelled| cancelled.is_truthy()).unwrap_or(true)
            }),
        }
    }
}

/// The Python value of an answer.
pub fn value(
    py: Python<'_>,
    origin: Origin,
    key: EventKey,
    event: Option<Py<PyCausalEvent>>,
    settled: Settled<PyDaemon>,
) -> PyResult<Py<PyAny>> {
    match settled {
        Ok(Delivered {
            receipt: Some(receipt),
            duplicate,
            ..
        }) => {
            let receipt = PyReceipt::new(origin, key.origin, &receipt, duplicate);
            Ok(Py::new(py, receipt)?.into_any())
        }
        Ok(Delivered { outputs, .. }) => Ok(PyList::new(py, outputs.into_iter().map(|output| output.0))?
            .into_any()
            .unbind()),
        Err(error) => {
            let event = match (event, &error) {
                (Some(event), DeliverError::Unknown { .. }) => Some(event.into_any()),
                _ => None,
            };
            Err(errors::deliver(error, origin, key, event, None, py))
        }
    }
}

/// Answers those who wait, with one call into each event loop.
pub fn settle(replies: Vec<(Reply, EventKey, Settled<PyDaemon>)>) {
    Python::attach(|py| {
        let futures = replies.into_iter().filter_map(|(reply, key, settled)| {
            if matches!(reply.to, To::Nobody) {
                return None;
            }
            let answer = value(py, reply.origin, key, reply.event, settled);
            match reply.to {
                To::Nobody => None,
                To::Tray(tray, place) => {
                    tray.put(place, answer);
                    None
                }
                To::Future { future, event_loop } => Some((future, event_loop, answer)),
            }
        });
        set(py, futures);
    });
}

/// Sets futures, each of its loop, with one call into each loop.
pub fn set(py: Python<'_>, futures: impl Iterator<Item = (Py<PyAny>, Py<PyAny>, PyResult<Py<PyAny>>)>) {
    let mut batches: Vec<(Py<PyAny>, Vec<Bound<'_, PyTuple>>)> = Vec::new();
    for (future, event_loop, answer) in futures {
        let Ok(entry) = entry(py, &future, answer) else {
            continue;
        };
        match batches.iter_mut().find(|(known, _)| known.is(&event_loop)) {
            Some((_, batch)) => batch.push(entry),
            None => batches.push((event_loop, vec![entry])),
        }
    }
    for (event_loop, batch) in batches {
        let count = batch.len() as u64;
        if hand_over(py, &event_loop, batch).is_err() {
            // The loop is closed: nobody is left to hear it.
            LOST.fetch_add(count, Ordering::Relaxed);
        }
    }
}

/// One future with its result or exception.
pub fn entry<'py>(py: Python<'py>, future: &Py<PyAny>, answer: PyResult<Py<PyAny>>) -> PyResult<Bound<'py, PyTuple>> {
    let (result, error) = match answer {
        Ok(result) => (result, py.None()),
        Err(error) => (py.None(), error.into_value(py).into_any()),
    };
    PyTuple::new(py, [future.clone_ref(py), result, error])
}

/// Sets the futures of a batch on their loop.
pub fn hand_over(py: Python<'_>, event_loop: &Py<PyAny>, batch: Vec<Bound<'_, PyTuple>>) -> PyResult<()> {
    let settle = SETTLE.import(py, "meshos._aio", "settle")?;
    let batch = PyList::new(py, batch)?;
    event_loop
        .bind(py)
        .call_method1(intern!(py, "call_soon_threadsafe"), (settle, batch))
        .map(|_| ())
}
