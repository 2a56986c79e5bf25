//! A Python object as the node's [`Daemon`].

use std::ops::Range;
use std::sync::Arc;

use meshos_core::control::DaemonControl;
use meshos_core::event::DaemonHealth;
use meshos_core::ingress::DIRECT;
use meshos_core::ingress::EventKey;
use meshos_core::link::CausalLink;
use meshos_core::route::Route;
use meshos_core::source::Source;
use meshos_node::clock;
use meshos_node::daemon::{Continuation, Daemon, Outputs, Process, Settled};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyFloat, PyInt};
use pyo3::{PyTraverseError, PyVisit, intern};

use crate::aio::{self, Later, Loop};
use crate::args;
use crate::causal::PyCausalEvent;
use crate::contract::Contract;
use crate::control;
use crate::event;
use crate::guard::{self, InUserCode};
use crate::output::{self, Emitted, Returned};
use crate::reply::{self, Reply, To};
use crate::user::{Ran, UserError};

/// State bytes: a whole `bytes` object, or a part of one.
#[derive(Clone)]
pub struct PyState {
    bytes: Arc<PyBackedBytes>,
    range: Range<usize>,
}

impl PyState {
    /// All of an object.
    pub fn whole(bytes: PyBackedBytes) -> Self {
        let range = 0..bytes.len();
        Self {
            bytes: Arc::new(bytes),
            range,
        }
    }

    /// A part of an object, such as the state within an encoded snapshot.
    pub fn part(bytes: PyBackedBytes, range: Range<usize>) -> Self {
        Self {
            bytes: Arc::new(bytes),
            range,
        }
    }

    /// As `bytes`: the very object when it is whole.
    pub fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        if self.range.len() == self.bytes.len() {
            return Ok((&*self.bytes).into_pyobject(py)?);
        }
        Ok(PyBytes::new(py, self.as_ref()))
    }
}

impl AsRef<[u8]> for PyState {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

/// An event by reference.
pub struct PyEvent(pub Py<PyCausalEvent>);

impl Clone for PyEvent {
    #[inline]
    fn clone(&self) -> Self {
        Python::attach(|py| Self(self.0.clone_ref(py)))
    }
}

/// One daemon's Python object.
pub struct PyDaemon {
    object: Py<PyAny>,
    /// The bound method, looked up once.
    process: Py<PyAny>,
    contract: Arc<Contract>,
    kind: Arc<str>,
    /// Makes another instance; without one this instance is all there is.
    factory: Option<Arc<Factory>>,
    /// Its factory is in no table of kinds, which would show it to the collector.
    owns_factory: bool,
    /// Where its coroutines run.
    home: Arc<Loop>,
}

/// How to make another instance of a kind.
pub struct Factory {
    /// The kind.
    pub kind: Arc<str>,
    /// What the user gave: a class, or another callable.
    pub callable: Py<PyAny>,
}

impl PyDaemon {
    /// Takes over an instance.
    pub fn new(
        object: &Bound<'_, PyAny>,
        kind: Option<Arc<str>>,
        factory: Option<Arc<Factory>>,
        home: Arc<Loop>,
    ) -> PyResult<Self> {
        let py = object.py();
        let contract = Contract::of(&object.get_type())?;
        let process = object.getattr(intern!(py, "process"))?;
        let kind = kind.unwrap_or_else(|| Arc::clone(&contract.name));
        let object = object.clone().unbind();
        Ok(Self {
            object,
            process: process.unbind(),
            contract,
            kind,
            factory,
            owns_factory: false,
            home,
        })
    }

    /// Says that its factory is in no table of kinds.
    pub fn with_own_factory(mut self) -> Self {
        self.owns_factory = true;
        self
    }

    /// The user's object.
    pub fn object<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.object.bind(py)
    }

    /// Shows what it holds to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.object)?;
        visit.call(&self.process)?;
        match &self.factory {
            Some(factory) if self.owns_factory => visit.call(&factory.callable),
            _ => Ok(()),
        }
    }

    fn call<'py>(&self, py: Python<'py>, method: &'static str) -> Result<Bound<'py, PyAny>, UserError> {
        let _inside = InUserCode::begin();
        self.object
            .bind(py)
            .call_method0(method)
            .map_err(|error| UserError::raised(py, method, error))
    }
}

/// Reads the result of `process`, running a generator inside user code.
fn returned(result: PyResult<Bound<'_, PyAny>>, py: Python<'_>, home: &Arc<Loop>) -> Process<PyDaemon> {
    let result = match result {
        Ok(result) => result,
        Err(error) => return Process::Done(Err(UserError::raised(py, "process", error))),
    };
    match output::read(&result) {
        Ok(Returned::Outputs(outputs)) => Process::Done(Ok(outputs)),
        Ok(Returned::Awaitable(awaitable)) => Process::Later(Later::new(awaitable.unbind(), false, Arc::clone(home))),
        Ok(Returned::AsyncIterable(items)) => Process::Later(Later::new(items.unbind(), true, Arc::clone(home))),
        Err(error) => Process::Done(Err(error)),
    }
}

impl Daemon for PyDaemon {
    type Event = PyEvent;
    type Output = Emitted;
    type State = PyState;
    type Error = UserError;
    type Later = Later;
    type Draft = PyBackedBytes;
    type Reply = Reply;

    fn batch<R>(body: impl FnOnce() -> R) -> R {
        Python::attach(|_| body())
    }

    fn apart<R: Send>(body: impl FnOnce() -> R + Send) -> R {
        Python::attach(|py| py.detach(body))
    }

    fn interrupted() -> Option<UserError> {
        let mut raised = None;
        guard::interrupted(&mut raised).then(|| UserError {
            cause: raised,
            ran: Ran::Nothing,
            ..UserError::other("interrupted", String::from("a signal came"))
        })
    }

    #[inline]
    fn key(event: &PyEvent) -> EventKey {
        let link = &event.0.get().link;
        EventKey {
            origin: link.origin,
            stream: DIRECT,
            sequence: link.sequence,
        }
    }

    #[inline]
    fn payload_len(event: &PyEvent) -> usize {
        event.0.get().len
    }

    fn parts(event: &PyEvent) -> (CausalLink, &[u8]) {
        let held = event.0.get();
        (held.link, Python::attach(|py| held.payload.as_bytes(py)))
    }

    #[inline]
    fn route(output: &Emitted) -> Route {
        output.route()
    }

    #[inline]
    fn emitted(link: CausalLink, output: Emitted, keep: bool) -> (PyEvent, Option<PyEvent>) {
        Python::attach(|py| {
            let payload = output
                .into_payload()
                .into_pyobject(py)
                .expect("the object exists already");
            let event = PyCausalEvent::emitted(py, link, payload.unbind()).expect("memory for a small object");
            let kept = keep.then(|| PyEvent(event.clone_ref(py)));
            (PyEvent(event), kept)
        })
    }

    fn received_ns(event: &PyEvent) -> u64 {
        event.0.get().received_ns
    }

    fn received(link: CausalLink, payload: &[u8], received_ns: u64) -> PyEvent {
        Python::attach(|py| {
            let event = PyCausalEvent {
                received_ns,
                ..PyCausalEvent::now(link, PyBytes::new(py, payload))
            };
            PyEvent(Py::new(py, event).expect("memory for a small object"))
        })
    }

    fn arrived(link: CausalLink, payload: &[u8], received_ns: u64, source: &Arc<Source>) -> PyEvent {
        Python::attach(|py| {
            let event = PyCausalEvent {
                received_ns,
                source: Some(Arc::clone(source)),
                ..PyCausalEvent::now(link, PyBytes::new(py, payload))
            };
            PyEvent(Py::new(py, event).expect("memory for a small object"))
        })
    }

    fn state(bytes: Vec<u8>) -> PyState {
        Self::state_in(&bytes)
    }

    fn state_in(bytes: &[u8]) -> PyState {
        Python::attach(|py| PyState::whole(PyBackedBytes::from(PyBytes::new(py, bytes))))
    }

    fn drafted(draft: &PyBackedBytes) -> &[u8] {
        draft
    }

    fn numbered(draft: PyBackedBytes, key: EventKey) -> PyEvent {
        Python::attach(|py| {
            let payload = draft.into_pyobject(py).expect("the object exists already");
            let event = PyCausalEvent::outside(key.origin, key.sequence, payload);
            PyEvent(Py::new(py, event).expect("memory for a small object"))
        })
    }

    fn describe(error: &UserError) -> String {
        error.message.clone()
    }

    fn blame(error: &UserError) -> (Arc<str>, Arc<str>) {
        error.blame()
    }

    fn ends_process(error: &UserError) -> bool {
        let passes = |cause: &PyErr| Python::attach(|py| crate::errors::passes_through(cause, py));
        error.cause.as_ref().is_some_and(passes)
    }

    fn still_runs(error: &UserError) -> bool {
        error.ran == Ran::Still
    }

    fn never_ran(error: &UserError) -> bool {
        error.ran == Ran::Nothing
    }

    fn is_abandoned(reply: &Reply) -> bool {
        reply.is_abandoned()
    }

    fn is_unattended(reply: &Reply) -> bool {
        matches!(reply.to, To::Nobody)
    }

    fn settle(replies: Vec<(Reply, EventKey, Settled<Self>)>) {
        reply::settle(replies);
    }

    fn kind(&self) -> &Arc<str> {
        &self.kind
    }

    fn schema(&self) -> u32 {
        self.contract.schema
    }

    fn name(&self) -> &Arc<str> {
        &self.contract.name
    }

    fn is_stateful(&self) -> bool {
        self.contract.stateful
    }

    fn reports(&self) -> bool {
        self.contract.reports_health || self.contract.reports_saturation
    }

    fn is_async(&self) -> bool {
        self.contract.asynchronous
    }

    fn takes_control(&self) -> bool {
        self.contract.takes_control
    }

    #[inline]
    fn process(&self, event: &PyEvent) -> Process<Self> {
        Python::attach(|py| {
            let _inside = InUserCode::begin();
            let result = crate::call::one(self.process.bind(py), event.0.bind(py).as_any());
            returned(result, py, &self.home)
        })
    }

    fn wait(&self, later: Later) -> Outputs<Self> {
        aio::wait(later)
    }

    fn on_done(&self, later: Later, then: Continuation<Self>) {
        aio::launch(later, then);
    }

    fn snapshot(&self) -> Result<PyState, UserError> {
        Python::attach(|py| {
            let state = self.call(py, "snapshot")?;
            if let Ok(bytes) = state.cast::<PyBytes>() {
                return Ok(PyState::whole(PyBackedBytes::from(bytes.clone())));
            }
            match args::copied(&state) {
                Some(Ok(copy)) => Ok(PyState::whole(PyBackedBytes::from(copy))),
                Some(Err(error)) => Err(UserError::raised(py, "snapshot", error)),
                None => {
                    let class = state
                        .get_type()
                        .name()
                        .map_or_else(|_| "?".to_owned(), |name| name.to_string());
                    Err(UserError::wrong_type(format!(
                        "snapshot gave {class}, where bytes, bytearray or memoryview belong"
                    )))
                }
            }
        })
    }

    fn restore(&self, state: &PyState, schema: u32) -> Result<(), UserError> {
        Python::attach(|py| {
            let ours = self.contract.schema;
            if schema > ours {
                let message = format!("the state is of schema {schema}, the daemon knows {ours}");
                return Err(UserError::other("newer_schema", message));
            }
            let bytes = state
                .to_bytes(py)
                .map_err(|error| UserError::raised(py, "restore", error))?;
            let _inside = InUserCode::begin();
            let object = self.object.bind(py);
            let bytes = if schema < ours {
                let upgraded = object.call_method1(intern!(py, "upgrade"), (bytes, schema));
                let upgraded = upgraded.map_err(|error| UserError::raised(py, "upgrade", error))?;
                args::payload(&upgraded, "the upgraded state")
                    .map_err(|error| UserError::raised(py, "upgrade", error))?
            } else {
                bytes
            };
            let outcome = object.call_method1(intern!(py, "restore"), (bytes,));
            outcome
                .map(|_| ())
                .map_err(|error| UserError::raised(py, "restore", error))
        })
    }

    fn fresh(&self) -> Result<Option<Self>, UserError> {
        let Some(factory) = &self.factory else { return Ok(None) };
        Python::attach(|py| {
            let made = {
                let _inside = InUserCode::begin();
                factory
                    .callable
                    .bind(py)
                    .call0()
                    .map_err(|error| UserError::raised(py, "the factory", error))?
            };
            let daemon = Self::new(
                &made,
                Some(Arc::clone(&self.kind)),
                Some(Arc::clone(factory)),
                Arc::clone(&self.home),
            );
            let daemon = daemon.map(|daemon| Self {
                owns_factory: self.owns_factory,
                ..daemon
            });
            daemon
                .map(Some)
                .map_err(|error| UserError::raised(py, "the factory", error))
        })
    }

    fn report(&self) -> Result<(DaemonHealth, f64), UserError> {
        Python::attach(|py| {
            let health = if self.contract.reports_health {
                let health = self.call(py, "health")?;
                event::extract_health(&health).ok_or_else(|| {
                    UserError::wrong_type("health gave something else than Healthy, Degraded or Unhealthy".to_owned())
                })?
            } else {
                DaemonHealth::Healthy
            };
            if !self.contract.reports_saturation {
                return Ok((health, 0.0));
            }
            let load = self.call(py, "saturation")?;
            let number = load.is_instance_of::<PyFloat>() || load.is_exact_instance_of::<PyInt>();
            match load.extract::<f64>() {
                Ok(load) if number && !load.is_nan() => Ok((health, load)),
                _ => Err(UserError::wrong_type(
                    "saturation gave something else than a number from 0 to 1".to_owned(),
                )),
            }
        })
    }

    fn control(&self, control: DaemonControl) -> Result<(), UserError> {
        Python::attach(|py| {
            let control = control::control(py, control, clock::unix_ms())
                .map_err(|error| UserError::raised(py, "on_control", error))?;
            let outcome = {
                let _inside = InUserCode::begin();
                let called = self.object.bind(py).call_method1(intern!(py, "on_control"), (control,));
                called.map_err(|error| UserError::raised(py, "on_control", error))?
            };
            if outcome.is_none() {
                return Ok(());
            }
            if outcome.hasattr("__await__").unwrap_or(false) {
                let later = Later::new(outcome.unbind(), false, Arc::clone(&self.home));
                return aio::wait_for_none(later, "on_control");
            }
            Err(UserError::wrong_type(
                "on_control gave something else than None".to_owned(),
            ))
        })
    }
}
