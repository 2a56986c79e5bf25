//! Entering a daemon from a Python thread, and delivering to it.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::id::Origin;
use meshos_node::clock::Deadline;
use meshos_node::deliver::{self, Want};
use meshos_node::journal::{Commit, Waited};
use meshos_node::keeping::Keeping;
use meshos_node::lease::Unleased;
use meshos_node::slot::{EnterError, Entered, Slot};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::aio;
use crate::args;
use crate::causal::PyCausalEvent;
use crate::daemon::{PyDaemon, PyEvent};
use crate::errors;
use crate::guard;

/// How long a call waits for a daemon that is busy with others.
pub const WAIT: Duration = Duration::from_secs(30);

/// Enters: at once without releasing the interpreter, or by waiting detached from it.
#[inline]
pub fn enter(py: Python<'_>, slot: &Arc<Slot<PyDaemon>>) -> PyResult<Entered<PyDaemon>> {
    enter_owned(py, Arc::clone(slot))
}

/// Enters to look or to stop, also when user code is down or lost.
pub fn inspect(py: Python<'_>, slot: &Arc<Slot<PyDaemon>>) -> PyResult<Entered<PyDaemon>> {
    match slot.inspect() {
        Ok(entered) => Ok(entered),
        Err(EnterError::Busy) => wait(py, slot, Slot::inspect_later),
        Err(error) => Err(refused(py, slot, error)),
    }
}

/// Why a daemon cannot be entered; that another node owns it goes before that it is gone.
#[cold]
fn refused(py: Python<'_>, slot: &Slot<PyDaemon>, error: EnterError) -> PyErr {
    match slot.leased() {
        Err(why @ Unleased::Fenced { .. }) if error == EnterError::Stale => errors::unleased(why, slot.origin()),
        _ => errors::enter(error, slot.origin(), py),
    }
}

/// Refuses to say that something took effect while this node may not say so.
#[inline]
fn acknowledged(slot: &Slot<PyDaemon>) -> PyResult<()> {
    slot.leased().map_err(|why| errors::unleased(why, slot.origin()))
}

/// As [`enter`], with the caller's own reference.
#[inline]
fn enter_owned(py: Python<'_>, slot: Arc<Slot<PyDaemon>>) -> PyResult<Entered<PyDaemon>> {
    match slot.try_enter_owned() {
        Ok(entered) => Ok(entered),
        Err((slot, EnterError::Busy)) => wait(py, &slot, Slot::enter),
        Err((slot, error)) => Err(refused(py, &slot, error)),
    }
}

type Enter = fn(&Arc<Slot<PyDaemon>>, Deadline, &mut dyn FnMut() -> bool) -> Result<Entered<PyDaemon>, EnterError>;

#[cold]
fn wait(py: Python<'_>, slot: &Arc<Slot<PyDaemon>>, enter: Enter) -> PyResult<Entered<PyDaemon>> {
    aio::may_block(py, "a call that waits for a busy daemon")?;
    let (mut signal, mut is_moving) = (None, false);
    let outcome = py.detach(|| {
        enter(slot, Deadline::after(WAIT), &mut || {
            // A move takes a moment, mostly; what takes longer may take longer than anybody wants to wait for one event.
            is_moving = slot.is_frozen();
            is_moving || guard::interrupted(&mut signal)
        })
    });
    match (outcome, signal) {
        (Err(EnterError::Interrupted), None) if is_moving => Err(errors::migrating(slot.origin(), py)),
        (Ok(entered), None) => Ok(entered),
        (_, Some(signal)) => Err(signal),
        (Err(EnterError::Timeout), None) => Err(errors::waited(
            &format!("daemon {}, which is busy", slot.origin()),
            WAIT,
            py,
        )),
        (Err(error), None) => Err(refused(py, slot, error)),
    }
}

/// Delivers one event on this thread.
#[inline]
pub fn deliver<'py>(
    py: Python<'py>,
    slot: Arc<Slot<PyDaemon>>,
    event: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyList>> {
    let event = args::instance::<PyCausalEvent>(event, "event", "CausalEvent")?;
    let mut entered = enter_owned(py, slot)?;
    let outcome = one(py, &mut entered, event);
    match deliver::submit(&mut entered) {
        None => {
            let outcome = outcome?;
            acknowledged(entered.slot()).map(|()| outcome)
        }
        Some(commit) => {
            let slot = Arc::clone(entered.slot());
            drop(entered);
            let outcome = outcome?;
            kept(py, slot.origin(), &commit)?;
            acknowledged(&slot).map(|()| outcome)
        }
    }
}

/// Waits until what was done is kept, detached from the interpreter.
#[cold]
pub fn kept(py: Python<'_>, origin: Origin, commit: &Commit) -> PyResult<()> {
    store_keeps(py, origin, |interrupted| {
        commit.wait(Deadline::after(WAIT), interrupted)
    })
}

/// Waits until the snapshots that were taken are kept, detached from the interpreter.
pub fn settled(py: Python<'_>, origin: Origin, keeping: &Keeping) -> PyResult<()> {
    store_keeps(py, origin, |interrupted| {
        match keeping.settle(Deadline::after(WAIT), interrupted) {
            Waited::Settled(Ok(())) => Waited::Settled(keeping.failed().map_or(Ok(()), Err)),
            waited => waited,
        }
    })
}

fn store_keeps(
    py: Python<'_>,
    origin: Origin,
    wait: impl FnOnce(&mut dyn FnMut() -> bool) -> Waited + Send,
) -> PyResult<()> {
    let mut signal = None;
    let waited = py.detach(|| wait(&mut || guard::interrupted(&mut signal)));
    match (waited, signal) {
        (_, Some(signal)) => Err(signal),
        (Waited::Settled(Ok(())), None) => Ok(()),
        (Waited::Settled(Err(error)), None) => Err(errors::store(&error, "")),
        (Waited::TimedOut | Waited::Interrupted, None) => Err(errors::waited(
            &format!("the store to keep what daemon {origin} did"),
            WAIT,
            py,
        )),
    }
}

#[inline]
fn one<'py>(
    py: Python<'py>,
    entered: &mut Entered<PyDaemon>,
    event: &Bound<'py, PyCausalEvent>,
) -> PyResult<Bound<'py, PyList>> {
    let held = PyEvent(event.clone().unbind());
    match deliver::deliver(entered, &held, Want::Outputs) {
        Ok(delivered) if delivered.outputs.is_empty() => Ok(PyList::empty(py)),
        Ok(delivered) => PyList::new(py, delivered.outputs.into_iter().map(|output| output.0)),
        Err(error) => Err(failed(py, entered.slot(), event, error, None)),
    }
}

fn failed(
    py: Python<'_>,
    slot: &Slot<PyDaemon>,
    event: &Bound<'_, PyCausalEvent>,
    error: meshos_node::daemon::DeliverError<PyDaemon>,
    before: Option<Bound<'_, PyTuple>>,
) -> PyErr {
    let key = <PyDaemon as meshos_node::daemon::Daemon>::key(&PyEvent(event.clone().unbind()));
    errors::deliver(
        error,
        slot.origin(),
        key,
        Some(event.clone().into_any().unbind()),
        before,
        py,
    )
}

/// Delivers events in order on this thread, entering the daemon once.
pub fn deliver_many<'py>(
    py: Python<'py>,
    slot: &Arc<Slot<PyDaemon>>,
    events: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyList>> {
    // All are checked before the first is processed, so that a wrong one changes nothing.
    let events: Vec<PyEvent> = events
        .try_iter()
        .map_err(|_| args::wrong_type("events", "a sequence of CausalEvent", events))?
        .map(|event| {
            Ok(PyEvent(
                args::instance::<PyCausalEvent>(&event?, "event", "CausalEvent")?
                    .clone()
                    .unbind(),
            ))
        })
        .collect::<PyResult<_>>()?;
    let mut entered = enter(py, slot)?;
    let mut results: Vec<Bound<'py, PyList>> = Vec::with_capacity(events.len());
    let mut stopped = None;
    for (place, event) in events.iter().enumerate() {
        let delivered = match place {
            0 => deliver::deliver(&mut entered, event, Want::Outputs),
            _ => deliver::deliver_after(&mut entered, event, Want::Outputs),
        };
        match delivered {
            Ok(delivered) if delivered.outputs.is_empty() => results.push(PyList::empty(py)),
            Ok(delivered) => results.push(PyList::new(py, delivered.outputs.into_iter().map(|output| output.0))?),
            Err(error) => {
                stopped = Some((event, error));
                break;
            }
        }
    }
    let commit = deliver::submit(&mut entered);
    let slot = Arc::clone(entered.slot());
    drop(entered);
    if let Some(commit) = commit {
        // Also the events before one that failed are reported only when they are kept.
        kept(py, slot.origin(), &commit)?;
    }
    if !results.is_empty() {
        acknowledged(&slot)?;
    }
    match stopped {
        None => PyList::new(py, results),
        Some((event, error)) => {
            let before = results.iter().map(|outputs| outputs.to_tuple()).collect::<Vec<_>>();
            let before = PyTuple::new(py, before)?;
            Err(failed(py, &slot, event.0.bind(py), error, Some(before)))
        }
    }
}
