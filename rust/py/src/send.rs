//! Sending: events that are mailed to a daemon, for a receipt or for their outputs.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use meshos_core::id::Origin;
use meshos_node::clock::Deadline;
use meshos_node::deliver::Want;
use meshos_node::lease::Unleased;
use meshos_node::mailbox::{Letter, PostError};
use meshos_node::runtime::ReachError;
use meshos_node::slot::Slot;
use pyo3::exceptions::{PyKeyboardInterrupt, PyTimeoutError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::aio;
use crate::args;
use crate::away;
use crate::causal::PyCausalEvent;
use crate::daemon::{PyDaemon, PyEvent};
use crate::errors::{self, LoopClosed, SendTimeout, StaleDaemon};
use crate::reply::{Reply, To, Tray, Waited};
use crate::runtime::PyRuntime;

static REPLY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Events of `send_many` that are under way at once.
const WINDOW: usize = 64;

/// How long a call may wait.
pub enum Timeout {
    /// 30 seconds.
    Default,
    /// So long; `None`: without an end.
    Given(Option<Duration>),
}

impl<'py> FromPyObject<'_, 'py> for Timeout {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        args::span(Some(&value), "timeout").map(Self::Given)
    }
}

impl Timeout {
    /// How long; `None`: without an end.
    pub const fn span(&self) -> Option<Duration> {
        match self {
            Self::Default => Some(Duration::from_secs(30)),
            Self::Given(span) => *span,
        }
    }

    /// When the wait ends.
    pub fn deadline(&self) -> Deadline {
        match self {
            Self::Default => Deadline::after(Duration::from_secs(30)),
            Self::Given(Some(span)) => Deadline::after(*span),
            Self::Given(None) => Deadline::never(),
        }
    }
}

/// What a caller gave: an event with its number, or a payload.
pub enum Given<'py> {
    Event(Bound<'py, PyCausalEvent>),
    Payload(Bound<'py, PyBytes>),
}

impl<'py> Given<'py> {
    fn read(event: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(event) = event.cast::<PyCausalEvent>() {
            return Ok(Self::Event(event.clone()));
        }
        match event.cast::<PyBytes>() {
            Ok(bytes) => Ok(Self::Payload(bytes.clone())),
            Err(_) => match args::copied(event) {
                Some(copy) => Ok(Self::Payload(copy?)),
                None => Err(args::wrong_type(
                    "event",
                    "bytes, bytearray, memoryview or a CausalEvent",
                    event,
                )),
            },
        }
    }

    /// The payload, and the event if it has its number.
    pub fn parts(&self) -> (PyBackedBytes, Option<Py<PyCausalEvent>>) {
        match self {
            Self::Event(event) => {
                let payload = event.get().payload.bind(event.py()).clone();
                (PyBackedBytes::from(payload), Some(event.clone().unbind()))
            }
            Self::Payload(bytes) => (PyBackedBytes::from(bytes.clone()), None),
        }
    }

    fn letter(&self) -> Letter<PyDaemon> {
        match self {
            Self::Event(event) => Letter::Event(PyEvent(event.clone().unbind())),
            Self::Payload(bytes) => Letter::Draft(PyBackedBytes::from(bytes.clone()), bytes.as_bytes().len()),
        }
    }

    fn numbered_event(&self) -> Option<Py<PyCausalEvent>> {
        match self {
            Self::Event(event) => Some(event.clone().unbind()),
            Self::Payload(_) => None,
        }
    }

    /// The event as it was mailed, to be sent again.
    fn as_sent(&self, py: Python<'_>, origin: Origin, sequence: u64) -> PyResult<Py<PyCausalEvent>> {
        match self {
            Self::Event(event) => Ok(event.clone().unbind()),
            Self::Payload(bytes) => Py::new(py, PyCausalEvent::outside(origin, sequence, bytes.clone())),
        }
    }
}

/// Where a daemon is.
enum Place {
    Here(Arc<Slot<PyDaemon>>),
    Away(Origin),
}

/// Finds a daemon to send this to.
fn place(runtime: &PyRuntime, origin_hash: &Bound<'_, PyAny>, given: Option<&Given<'_>>) -> PyResult<Place> {
    let to = args::origin(origin_hash)?;
    let router = runtime.runtime.router();
    match runtime.runtime.reach(to) {
        Ok(slot) => {
            let origin = match given {
                Some(Given::Event(event)) => event.get().link.origin,
                _ => runtime.runtime.sender().origin,
            };
            // What is still on its way to where it was goes first.
            let is_behind = router.is_open(to, origin);
            Ok(if is_behind { Place::Away(to) } else { Place::Here(slot) })
        }
        Err(ReachError::NotFound(_) | ReachError::NotOwner { .. }) if router.has_others() => Ok(Place::Away(to)),
        Err(error) => Err(errors::reach(error, origin_hash.py())),
    }
}

/// Mails an event; `None`: the daemon moved to another node since it was found here.
fn post(
    py: Python<'_>,
    runtime: &PyRuntime,
    slot: &Arc<Slot<PyDaemon>>,
    given: &Given<'_>,
    want: Want,
    to: To,
    group: Option<Arc<AtomicBool>>,
) -> PyResult<Option<u64>> {
    let reply = Reply {
        origin: slot.origin(),
        event: given.numbered_event(),
        to,
    };
    let node = &runtime.runtime;
    let letter = given.letter();
    let posted = slot.post(node.lanes(), node.sender(), letter, want, reply, group);
    match posted {
        Ok(sequence) => Ok(Some(sequence)),
        Err((PostError::Full, _)) => Err(errors::backpressure(py)),
        Err((PostError::Stale, _)) => match slot.leased() {
            Err(Unleased::Fenced { .. }) if want == Want::Receipt && node.router().has_others() => Ok(None),
            Err(why @ Unleased::Fenced { .. }) => Err(errors::unleased(why, slot.origin())),
            _ => Err(stale(slot)),
        },
        Err((PostError::Closed, _)) => Err(LoopClosed::new_err(("the interpreter",))),
    }
}

fn stale(slot: &Slot<PyDaemon>) -> PyErr {
    StaleDaemon::new_err((slot.origin().get(),))
}

/// Sends one event and waits for its receipt.
pub fn one(
    runtime: &PyRuntime,
    origin_hash: &Bound<'_, PyAny>,
    event: &Bound<'_, PyAny>,
    timeout: Timeout,
) -> PyResult<Py<PyAny>> {
    let py = event.py();
    let given = Given::read(event)?;
    let deadline = timeout.deadline();
    let slot = match place(runtime, origin_hash, Some(&given))? {
        Place::Here(slot) => slot,
        Place::Away(to) => return away::one(py, runtime, to, &given, deadline),
    };
    runtime.may_block(py, &slot, "DaemonRuntime.send")?;
    let tray = Tray::new(1);
    let posted = post(
        py,
        runtime,
        &slot,
        &given,
        Want::Receipt,
        To::Tray(Arc::clone(&tray), 0),
        None,
    )?;
    let Some(sequence) = posted else {
        return away::one(py, runtime, slot.origin(), &given, deadline);
    };
    let mut signal = None;
    match py.detach(|| tray.wait(deadline, &mut signal)) {
        Waited::Full(mut answers) => answers.pop().unwrap_or_else(|| Err(lost())),
        Waited::TimedOut(_) => Err(timed_out(py, runtime, &slot, &given, sequence)),
        Waited::Interrupted => Err(signal.unwrap_or_else(|| PyKeyboardInterrupt::new_err(()))),
    }
}

fn lost() -> PyErr {
    errors::PoisonedError::new_err(("send", "an answer was lost"))
}

fn timed_out(py: Python<'_>, runtime: &PyRuntime, slot: &Slot<PyDaemon>, given: &Given<'_>, sequence: u64) -> PyErr {
    match given.as_sent(py, runtime.runtime.sender().origin, sequence) {
        Ok(event) => SendTimeout::new_err((slot.origin().get(), event)),
        Err(error) => error,
    }
}

/// Sends events in order, a window at a time; stops at the first that fails, and none after it takes effect.
pub fn many<'py>(
    runtime: &PyRuntime,
    origin_hash: &Bound<'py, PyAny>,
    events: &Bound<'py, PyAny>,
    timeout: Timeout,
) -> PyResult<Bound<'py, PyList>> {
    let py = events.py();
    let given: Vec<Given<'py>> = events
        .try_iter()
        .map_err(|_| args::wrong_type("events", "a sequence of payloads or CausalEvent", events))?
        .map(|event| Given::read(&event?))
        .collect::<PyResult<_>>()?;
    let deadline = timeout.deadline();
    let slot = match place(runtime, origin_hash, given.first())? {
        Place::Here(slot) => slot,
        Place::Away(to) => return away::many(py, runtime, to, &given, deadline),
    };
    runtime.may_block(py, &slot, "DaemonRuntime.send_many")?;
    let mut receipts = Vec::with_capacity(given.len());
    let mut rest = &given[..];
    while !rest.is_empty() {
        let window = &rest[..rest.len().min(WINDOW)];
        let tray = Tray::new(window.len());
        let group = Arc::new(AtomicBool::new(false));
        let mut sequences = Vec::with_capacity(window.len());
        for (place, item) in window.iter().enumerate() {
            let to = To::Tray(Arc::clone(&tray), place);
            let posted = post(py, runtime, &slot, item, Want::Receipt, to, Some(Arc::clone(&group)));
            match posted {
                Ok(Some(sequence)) => sequences.push(sequence),
                Ok(None) => break,
                Err(error) => {
                    // What was mailed before it in this window goes on; the caller hears where it stopped.
                    group.store(true, std::sync::atomic::Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        if sequences.is_empty() {
            // It is at another node, and so is the rest.
            let others = away::many(py, runtime, slot.origin(), rest, deadline)?;
            receipts.extend(others.iter().map(Bound::unbind));
            break;
        }
        tray.cut(sequences.len());
        rest = &rest[sequences.len()..];
        let mut signal = None;
        match py.detach(|| tray.wait(deadline, &mut signal)) {
            Waited::Full(answers) => {
                for answer in answers {
                    receipts.push(answer?);
                }
            }
            Waited::TimedOut(answers) => {
                group.store(true, std::sync::atomic::Ordering::Relaxed);
                for (place, answer) in answers.into_iter().enumerate() {
                    match answer {
                        Some(answer) => drop(answer?),
                        None => return Err(timed_out(py, runtime, &slot, &window[place], sequences[place])),
                    }
                }
                return Err(PyTimeoutError::new_err(()));
            }
            Waited::Interrupted => {
                group.store(true, std::sync::atomic::Ordering::Relaxed);
                return Err(signal.unwrap_or_else(|| PyKeyboardInterrupt::new_err(())));
            }
        }
    }
    PyList::new(py, receipts)
}

/// Mails an event that nobody waits for; returns its number.
pub fn post_one(runtime: &PyRuntime, origin_hash: &Bound<'_, PyAny>, event: &Bound<'_, PyAny>) -> PyResult<u64> {
    let given = Given::read(event)?;
    let slot = match place(runtime, origin_hash, Some(&given))? {
        Place::Here(slot) => slot,
        Place::Away(to) => return away::post(runtime, to, &given),
    };
    match post(event.py(), runtime, &slot, &given, Want::Receipt, To::Nobody, None)? {
        Some(sequence) => Ok(sequence),
        None => away::post(runtime, slot.origin(), &given),
    }
}

/// Makes what stands for the answer to a mailed event, and where it goes; `None` when no loop runs on this thread.
fn reply(py: Python<'_>) -> PyResult<Option<(Bound<'_, PyAny>, To)>> {
    let Some(event_loop) = aio::current_loop(py)? else {
        return Ok(None);
    };
    let options = PyDict::new(py);
    options.set_item(intern!(py, "loop"), &event_loop)?;
    let reply = REPLY.import(py, "meshos._aio", "Reply")?.call((), Some(&options))?;
    let to = To::Future {
        future: reply.clone().unbind(),
        event_loop: event_loop.unbind(),
    };
    Ok(Some((reply, to)))
}

/// Mails an event for its outputs; `None` when no loop runs on this thread.
pub fn deliver_soon<'py>(
    runtime: &PyRuntime,
    origin_hash: &Bound<'py, PyAny>,
    event: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = event.py();
    let event = args::instance::<PyCausalEvent>(event, "event", "CausalEvent")?.clone();
    let slot = runtime.reach(origin_hash)?;
    let Some((reply, to)) = reply(py)? else { return Ok(None) };
    post(py, runtime, &slot, &Given::Event(event), Want::Outputs, to, None)?;
    Ok(Some(reply))
}

/// Mails an event for its receipt; returns what stands for it, and the origin and number it was mailed under. `None`
/// when no loop runs on this thread.
pub fn send_soon<'py>(
    runtime: &PyRuntime,
    origin_hash: &Bound<'py, PyAny>,
    event: &Bound<'py, PyAny>,
) -> PyResult<Option<(Bound<'py, PyAny>, u64, u64)>> {
    let py = event.py();
    let given = Given::read(event)?;
    let found = place(runtime, origin_hash, Some(&given))?;
    let Some((reply, to)) = reply(py)? else { return Ok(None) };
    let sequence = match (found, to) {
        (Place::Away(origin), To::Future { future, event_loop }) => {
            runtime.futures.send(runtime, origin, &given, future, event_loop)?
        }
        (Place::Here(slot), To::Future { future, event_loop }) => {
            let here = To::Future {
                future: future.clone_ref(py),
                event_loop: event_loop.clone_ref(py),
            };
            match post(py, runtime, &slot, &given, Want::Receipt, here, None)? {
                Some(sequence) => sequence,
                None => runtime
                    .futures
                    .send(runtime, slot.origin(), &given, future, event_loop)?,
            }
        }
        _ => return Ok(None),
    };
    let origin = match &given {
        Given::Event(event) => event.get().link.origin,
        Given::Payload(_) => runtime.runtime.sender().origin,
    };
    Ok(Some((reply, origin.get(), sequence)))
}
