//! Sending to daemons on other nodes: threads that wait, futures, and what is told of each event.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use meshos_core::id::Origin;
use meshos_core::ingress::{DIRECT, EventKey};
use meshos_node::clock::Deadline;
use meshos_node::lane::{Job, Lanes};
use meshos_node::router::{Hear, Number, PAYLOAD_BYTES_MAX, Router, Sent, Ticket};
use meshos_node::sync::{Condvar, Mutex};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyList;

use crate::aio;
use crate::causal::PyCausalEvent;
use crate::errors::{
    self, DaemonNotFound, DeliveryUnknown, InvalidArgument, ProcessFailed, SendTimeout, ShuttingDown, Unavailable,
};
use crate::guard;
use crate::receipt::PyReceipt;
use crate::reply;
use crate::runtime::PyRuntime;
use crate::send::Given;

/// Events of `send_many` that are under way at once: what has left is on its way, and as much again waits behind it.
const AHEAD: usize = 128;

/// An event on its way, as its caller knows it.
struct Away {
    to: Origin,
    key: EventKey,
    payload: PyBackedBytes,
    /// The event, when its caller numbered it.
    event: Option<Py<PyCausalEvent>>,
}

impl Away {
    fn of(runtime: &PyRuntime, to: Origin, given: &Given<'_>) -> PyResult<Self> {
        let (payload, event) = given.parts();
        let key = event
            .as_ref()
            .map(|event| (event.get().link.origin, event.get().link.sequence));
        if payload.len() > PAYLOAD_BYTES_MAX {
            let rule = format!("has {} bytes, and {PAYLOAD_BYTES_MAX} fit between nodes", payload.len());
            return Err(InvalidArgument::new_err(("event", rule)));
        }
        if key.is_some_and(|(_, sequence)| sequence == 0) {
            return Err(InvalidArgument::new_err(("event", "an event's sequence begins at 1")));
        }
        let (origin, sequence) = key.unwrap_or((runtime.runtime.sender().origin, 0));
        let key = EventKey {
            origin,
            stream: DIRECT,
            sequence,
        };
        Ok(Self {
            to,
            key,
            payload,
            event,
        })
    }

    /// The event as it was sent, to be sent again.
    fn as_sent(&self, py: Python<'_>) -> PyResult<Py<PyCausalEvent>> {
        if let Some(event) = &self.event {
            return Ok(event.clone_ref(py));
        }
        let payload = (&self.payload).into_pyobject(py)?;
        Py::new(py, PyCausalEvent::outside(self.key.origin, self.key.sequence, payload))
    }

    /// The Python value of what became of it.
    fn value(&self, py: Python<'_>, sent: Sent) -> PyResult<Py<PyAny>> {
        let to = self.to.get();
        match sent {
            Sent::Taken { receipt, duplicate } => {
                let receipt = PyReceipt::new(self.to, self.key.origin, &receipt, duplicate);
                Ok(Py::new(py, receipt)?.into_any())
            }
            Sent::Unknown { cursor } => Err(DeliveryUnknown::new_err((to, self.as_sent(py)?, cursor))),
            Sent::PassedOver => Err(ProcessFailed::new_err((
                "passed_over",
                to,
                self.key.origin.get(),
                self.key.sequence,
                "it failed too often on its node, and was passed over",
            ))),
            Sent::Nobody => Err(DaemonNotFound::new_err((to,))),
            Sent::Full => Err(errors::backpressure(py)),
            Sent::OutOfOrder => Err(InvalidArgument::new_err((
                "event",
                "its number lies between numbers that were sent",
            ))),
            Sent::Closed => Err(ShuttingDown::new_err(())),
        }
    }

    /// Gives up waiting for it; `false`: it had not left, and never takes effect.
    fn give_up(&self, router: &Router) -> bool {
        router.give_up(self.to, self.key.origin, self.key.sequence)
    }

    /// What a wait for it ends with whose time is up.
    fn timed_out(&self, py: Python<'_>, has_left: bool) -> PyErr {
        if !has_left {
            return unavailable(self.to);
        }
        match self.as_sent(py) {
            Ok(event) => SendTimeout::new_err((self.to.get(), event)),
            Err(error) => error,
        }
    }
}

/// No node that answers has the daemon, and one does not answer.
pub fn unavailable(to: Origin) -> PyErr {
    Unavailable::new_err((to.get(), "where it runs was not found in time; nothing was sent"))
}

#[derive(Default)]
struct Told {
    /// Answers from the first that is not there on.
    sent: Vec<Option<Sent>>,
    /// Those that are there without a gap.
    done: usize,
    /// The first of them that failed.
    failed: Option<usize>,
}

/// What became of events, for a thread that waits.
#[derive(Default)]
struct Tray {
    told: Mutex<Told>,
    bell: Condvar,
}

impl Hear for Tray {
    fn hear(&self, heard: &mut dyn Iterator<Item = (usize, Sent)>) {
        let mut told = self.told.lock();
        for (place, sent) in heard {
            if let Some(empty) = told.sent.get_mut(place) {
                *empty = Some(sent);
            }
        }
        while let Some(Some(sent)) = told.sent.get(told.done) {
            if !matches!(sent, Sent::Taken { .. }) && told.failed.is_none() {
                told.failed = Some(told.done);
            }
            told.done += 1;
        }
        drop(told);
        self.bell.notify_all();
    }
}

enum Waited {
    Progress,
    TimedOut,
    Interrupted,
}

impl Tray {
    fn ticket(self: &Arc<Self>, place: usize) -> Ticket {
        let to: Arc<dyn Hear> = Arc::clone(self) as Arc<dyn Hear>;
        Ticket { to, place }
    }

    /// Waits, detached from the interpreter, until more than `known` are told, or one failed.
    fn wait(&self, known: usize, deadline: Deadline, signal: &mut Option<PyErr>) -> Waited {
        let mut told = self.told.lock();
        loop {
            if told.done > known || told.failed.is_some() {
                return Waited::Progress;
            }
            if deadline.passed() {
                return Waited::TimedOut;
            }
            told = self.bell.wait_until(told, deadline.slice());
            if told.done <= known {
                // A signal handler is user code: it runs with nothing locked.
                drop(told);
                if guard::interrupted(signal) {
                    return Waited::Interrupted;
                }
                told = self.told.lock();
            }
        }
    }
}

fn number<'a>(runtime: &'a PyRuntime, key: &EventKey) -> Number<'a> {
    match key.sequence {
        0 => Number::Next(runtime.runtime.sender()),
        sequence => Number::Given {
            origin: key.origin,
            sequence,
        },
    }
}

/// Sends events in order, some at a time, and waits for their receipts; stops at the first that fails.
fn all(py: Python<'_>, runtime: &PyRuntime, mut events: Vec<Away>, deadline: Deadline) -> PyResult<Vec<Py<PyAny>>> {
    let Some(to) = events.first().map(|event| event.to) else {
        return Ok(Vec::new());
    };
    let router = runtime.runtime.router();
    let tray = Arc::new(Tray::default());
    tray.told.lock().sent = vec![None; events.len()];
    let numbers: Vec<Number<'_>> = events.iter().map(|event| number(runtime, &event.key)).collect();
    let mut given = Vec::with_capacity(events.len());
    let mut signal = None;
    let payloads: Vec<&[u8]> = events.iter().map(|event| &event.payload[..]).collect();
    let waited = py.detach(|| {
        let mut done = 0;
        loop {
            let until = (done + AHEAD).min(payloads.len());
            if given.len() < until {
                let first = given.len();
                let places = first..until;
                let batch = places.map(|place| (&numbers[place], payloads[place], Some(tray.ticket(place))));
                router.send_all(to, batch, |sequence| given.push(sequence));
            }
            if done == payloads.len() {
                return Waited::Progress;
            }
            match tray.wait(done, deadline, &mut signal) {
                Waited::Progress => {}
                other => return other,
            }
            let told = tray.told.lock();
            if told.failed.is_some() {
                return Waited::Progress;
            }
            done = told.done;
        }
    });
    for (event, sequence) in events.iter_mut().zip(&given) {
        event.key.sequence = *sequence;
    }
    let (sent, failed) = {
        let mut told = tray.told.lock();
        (std::mem::take(&mut told.sent), told.failed)
    };
    let open = sent.iter().position(Option::is_none);
    let mut has_left = false;
    if let Some(open) = open.filter(|_| failed.is_some() || !matches!(waited, Waited::Progress)) {
        // What has not left never leaves; the last first, so that none overtakes another.
        for event in events[open..given.len()].iter().rev() {
            has_left = event.give_up(router);
        }
    }
    match (waited, failed, open) {
        (Waited::Interrupted, ..) => Err(signal.unwrap_or_else(|| PyKeyboardInterrupt::new_err(()))),
        (Waited::TimedOut, None, Some(open)) => Err(events[open].timed_out(py, has_left)),
        _ => {
            let answers = events.iter().zip(sent).map_while(|(event, sent)| Some((event, sent?)));
            answers.map(|(event, sent)| event.value(py, sent)).collect()
        }
    }
}

/// Sends one event and waits for its receipt.
pub fn one(
    py: Python<'_>,
    runtime: &PyRuntime,
    to: Origin,
    given: &Given<'_>,
    deadline: Deadline,
) -> PyResult<Py<PyAny>> {
    aio::may_block(py, "DaemonRuntime.send")?;
    let event = Away::of(runtime, to, given)?;
    let mut receipts = all(py, runtime, vec![event], deadline)?;
    receipts.pop().ok_or_else(|| ShuttingDown::new_err(()))
}

/// Sends events in order and waits for their receipts.
pub fn many<'py>(
    py: Python<'py>,
    runtime: &PyRuntime,
    to: Origin,
    given: &[Given<'_>],
    deadline: Deadline,
) -> PyResult<Bound<'py, PyList>> {
    aio::may_block(py, "DaemonRuntime.send_many")?;
    let events = given.iter().map(|given| Away::of(runtime, to, given));
    let events = events.collect::<PyResult<Vec<_>>>()?;
    PyList::new(py, all(py, runtime, events, deadline)?)
}

/// Sends an event that nobody waits for; returns its number.
pub fn post(runtime: &PyRuntime, to: Origin, given: &Given<'_>) -> PyResult<u64> {
    let event = Away::of(runtime, to, given)?;
    let number = number(runtime, &event.key);
    Ok(runtime.runtime.router().send(to, &number, &event.payload, None))
}

struct Future {
    event: Away,
    future: Py<PyAny>,
    event_loop: Py<PyAny>,
}

#[derive(Default)]
struct Answers {
    heard: Vec<(usize, Sent)>,
    is_scheduled: bool,
}

/// Futures that wait for what becomes of events; they are set by a lane.
pub struct Futures {
    waiting: Mutex<HashMap<usize, Future>>,
    made: Mutex<usize>,
    answers: Mutex<Answers>,
    lanes: Lanes,
    this: Weak<Self>,
}

impl Futures {
    /// None yet; they are set by these lanes.
    pub fn new(lanes: Lanes) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            waiting: Mutex::default(),
            made: Mutex::new(0),
            answers: Mutex::default(),
            lanes,
            this: Weak::clone(this),
        })
    }

    /// Has a lane set futures, if something was told and none is about to.
    fn schedule(&self, answers: &mut Answers) {
        if answers.is_scheduled || answers.heard.is_empty() {
            return;
        }
        if let Some(this) = self.this.upgrade() {
            answers.is_scheduled = self.lanes.submit(this);
        }
    }

    /// Sends an event whose future this is; returns its number.
    pub fn send(
        self: &Arc<Self>,
        runtime: &PyRuntime,
        to: Origin,
        given: &Given<'_>,
        future: Py<PyAny>,
        event_loop: Py<PyAny>,
    ) -> PyResult<u64> {
        let mut event = Away::of(runtime, to, given)?;
        let place = {
            let mut made = self.made.lock();
            *made += 1;
            *made
        };
        let number = number(runtime, &event.key);
        let ticket = Ticket {
            to: Arc::clone(self) as Arc<dyn Hear>,
            place,
        };
        let sequence = runtime.runtime.router().send(to, &number, &event.payload, Some(ticket));
        event.key.sequence = sequence;
        let future = Future {
            event,
            future,
            event_loop,
        };
        self.waiting.lock().insert(place, future);
        // What was told before it was there waits for it.
        self.schedule(&mut self.answers.lock());
        Ok(sequence)
    }
}

impl Hear for Futures {
    fn hear(&self, heard: &mut dyn Iterator<Item = (usize, Sent)>) {
        let mut answers = self.answers.lock();
        answers.heard.extend(heard);
        self.schedule(&mut answers);
    }
}

impl Job for Futures {
    fn run(self: Arc<Self>) {
        let heard = {
            let mut answers = self.answers.lock();
            answers.is_scheduled = false;
            std::mem::take(&mut answers.heard)
        };
        let mut early = Vec::new();
        let settled: Vec<(Future, Sent)> = {
            let mut waiting = self.waiting.lock();
            let found = heard
                .into_iter()
                .filter_map(|(place, sent)| match waiting.remove(&place) {
                    Some(future) => Some((future, sent)),
                    None => {
                        early.push((place, sent));
                        None
                    }
                });
            found.collect()
        };
        if !early.is_empty() {
            // Whoever puts it there asks again.
            self.answers.lock().heard.extend(early);
        }
        Python::attach(|py| {
            let entries = settled.into_iter().map(|(future, sent)| {
                let value = future.event.value(py, sent);
                (future.future, future.event_loop, value)
            });
            reply::set(py, entries);
        });
    }
}
