//! `LoopCore`: the native half of `MeshOsRuntime` and of what it hands out.
//!
//! The classes that users see are Python (`meshos.runtime`); what waits here, waits detached from the interpreter.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::action::{Cause, CauseKind};
use meshos_core::authority::History;
use meshos_core::command::{Command, Order, Verdict};
use meshos_core::control::DaemonControl;
use meshos_core::control_state::ControlState;
use meshos_core::envelope::{AdminEnvelope, IceEnvelope};
use meshos_core::id::{NodeId, Origin};
use meshos_core::loop_config::{Authority, MeshOsConfig};
use meshos_core::refusal::Refused as Refusal;
use meshos_core::signal::{DaemonIntent, DaemonRef, LogLevel, MeshOsEvent, Outcome, Sealed, Signal};
use meshos_core::status::{AuditRecord, AuthorityStatus, Failure, FailureRecord, FailureSource, LogRecord, Part};
use meshos_core::trail::Kind;
use meshos_core::world::Key;
use meshos_node::appender::{Appender, Lost, Numbered, Writer};
use meshos_node::behaviour::{LoopEnd, MeshOs, Parts, Shared};
use meshos_node::callback::Callbacks;
use meshos_node::clock::{self, Deadline, LoopClock};
use meshos_node::compute::{ComputeDispatcher, Kept};
use meshos_node::dispatch::{ActionDispatcher, ControlSink, MigrationAborter, MigrationSnapshotSource};
use meshos_node::ears::{Ear, Listened};
use meshos_node::intake::{Refused, Ticket};
use meshos_node::lane::Lanes;
use meshos_node::published::{Waited, Wake};
use meshos_node::records::{self, ActionRecord, Records, Which};
use meshos_node::trail_file::{Claim, TrailFile};
use meshos_node::verdicts::{Heard, WAITING_MAX};
use meshos_node::verifier::Verifier;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use pyo3::{PyTraverseError, PyVisit, intern};

use crate::action::PyMeshOsAction;
use crate::aio::{self, Loop};
use crate::appender::PyAppender;
use crate::args;
use crate::capability::Offered;
use crate::control;
use crate::daemon::PyDaemon;
use crate::deck::{PyCommitReceipt, PyCooldown};
use crate::dispatch::{PyAborter, PyControlSink, PyDispatcher, PyMigrationSource};
use crate::errors::{
    self, ConfigError, DaemonNotFound, DispatchError, InvalidArgument, LoopClosed, QueueFull, RuntimeShutdownError,
};
use crate::guard::{self, Born, entry, may_wait};
use crate::loop_config::PyMeshOsConfig;
use crate::mesh_event::{Published, extract_event};
use crate::operator::envelope::{PyAdminEnvelope, PyIceEnvelope};
use crate::operator::verifier::PyAdminVerifier;
use crate::probes::PyProbeRegistry;
use crate::record::field::{Field, read};
use crate::record::moment::Moment;
use crate::recovery::PyRecoveryRegistry;
use crate::registry::PyRegistry;
use crate::runtime::PyRuntime;
use crate::scorer::PySchedulerRegistry;
use crate::status::audit::{self, PyAdminAuditRecord, PyFailureRecord, PyLogRecord};
use crate::status::explain::{PyExplanation, Subject};
use crate::status::work::{PyExecutorStatsSnapshot, PyRuntimeHealth, PyRuntimeStats};
use crate::status::{PyMeshOsSnapshot, PyMetadataView};
use crate::threads;
use crate::trail::PyRecordFile;

/// How long a question to the loop may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Shows a user object that the loop holds to the collector.
type Traverse = Box<dyn Fn(&PyVisit<'_>) -> Result<(), PyTraverseError> + Send + Sync>;

/// A running behaviour loop.
#[pyclass(frozen, name = "LoopCore", module = "meshos._core", weakref)]
pub struct PyLoop {
    os: Arc<MeshOs>,
    shared: Arc<Shared>,
    probes: Py<PyProbeRegistry>,
    scheduler: Py<PySchedulerRegistry>,
    recovery: Py<PyRecoveryRegistry>,
    registry: Py<PyRegistry>,
    home: Arc<Loop>,
    /// Keeps what a `ComputeDispatcher` acts on alive, as its user expects.
    runtime: Option<Py<PyRuntime>>,
    held: Vec<Traverse>,
    /// Who says which commands are obeyed; shared with the loops of the node before and after.
    verifier: Option<Arc<Verifier>>,
    cluster_id: Vec<u8>,
    born: Born,
}

/// The native half of `ComputeDispatcher`.
#[pyclass(frozen, name = "ComputeCore", module = "meshos._core")]
pub struct PyCompute {
    runtime: Py<PyRuntime>,
    dispatcher: Arc<ComputeDispatcher<PyDaemon>>,
}

#[pymethods]
impl PyCompute {
    #[new]
    fn new(runtime: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("ComputeDispatcher", || {
            let runtime = args::instance::<PyRuntime>(runtime, "runtime", "a DaemonRuntime")?;
            runtime.get().born.check("DaemonRuntime")?;
            Ok(Self {
                dispatcher: Arc::new(ComputeDispatcher::new(Arc::clone(&runtime.get().runtime))),
                runtime: runtime.clone().unbind(),
            })
        })
    }

    /// Carries an action out on this thread; raises `DispatchError`.
    fn dispatch(&self, wanted: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("ComputeDispatcher.dispatch", || {
            let py = wanted.py();
            may_wait("ComputeDispatcher.dispatch")?;
            let wanted = PyMeshOsAction::from_python(wanted, "action")?.core();
            let cause = Cause {
                kind: CauseKind::Operator,
                detail: Arc::from("called"),
                envelope_id: None,
            };
            let (reason, after) = match py.detach(|| self.dispatcher.dispatch(0, &wanted, &cause)) {
                Outcome::Done => return Ok(()),
                Outcome::Drop { reason } | Outcome::Raised { reason, .. } => (reason, None),
                Outcome::Retry { reason, after } => (reason, Some(after)),
            };
            Err(DispatchError::new_err((
                reason.to_string(),
                after.to_python(py)?.unbind(),
            )))
        })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.runtime)
    }
}

/// Hears the controls of one daemon; the native half of `controls()`.
#[pyclass(frozen, name = "EarCore", module = "meshos._core")]
pub struct PyEar {
    ear: Arc<Ear>,
    born: Born,
}

#[pymethods]
impl PyEar {
    /// Waits for the next control; `None` when time is up, `LoopClosed` at the end.
    fn listen<'py>(&self, py: Python<'py>, timeout: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        entry("controls", || {
            self.born.check("MeshOsRuntime")?;
            may_wait("controls")?;
            let deadline = deadline(Some(timeout))?;
            let mut signal = None;
            match py.detach(|| self.ear.listen(deadline, &mut || guard::interrupted(&mut signal))) {
                Listened::Control(heard) => control::control(py, heard, clock::unix_ms()).map(Some),
                Listened::Ended => Err(LoopClosed::new_err(("controls",))),
                Listened::TimedOut => Ok(None),
                Listened::Interrupted => Err(raised(signal)),
            }
        })
    }

    /// Has `wake` called once there is something to hear. `None`: there is already.
    fn on_control(&self, wake: Py<PyAny>) -> PyResult<Option<u64>> {
        self.born.check("MeshOsRuntime")?;
        Ok(self.ear.on_control(calling(wake)).ok())
    }

    fn forget_control(&self, ticket: u64) -> bool {
        self.ear.forget(ticket)
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.ear.close());
    }
}

fn raised(signal: Option<PyErr>) -> PyErr {
    signal.unwrap_or_else(|| pyo3::exceptions::PyKeyboardInterrupt::new_err(()))
}

fn deadline(timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Deadline> {
    Ok(args::span(timeout, "timeout")?.map_or_else(Deadline::never, Deadline::after))
}

/// A call of a Python object, on whatever thread it is made.
fn calling(wake: Py<PyAny>) -> Wake {
    Box::new(move || {
        // `None`: the interpreter is going away, and nobody waits any more.
        let _ = Python::try_attach(|py| {
            if let Err(error) = wake.bind(py).call0() {
                crate::registry::log(py, "waking somebody who waits", error);
            }
            drop(wake);
        });
    })
}

fn given<'a, 'py>(value: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, PyAny>> {
    (!value.is_none()).then_some(value)
}

fn registry_of<T: pyo3::PyClass>(value: &Bound<'_, PyAny>, name: &'static str, class: &'static str) -> PyResult<Py<T>> {
    match given(value) {
        Some(value) => Ok(args::instance::<T>(value, name, class)?.clone().unbind()),
        None => Ok(value.py().get_type::<T>().call0()?.cast_into::<T>()?.unbind()),
    }
}

/// The dispatcher, with what it says of itself.
struct Dispatching {
    dispatcher: Arc<dyn ActionDispatcher>,
    runtime: Option<Py<PyRuntime>>,
    registry: Option<Py<PyRegistry>>,
    node: Option<NodeId>,
}

fn dispatching(object: &Bound<'_, PyAny>, home: &Arc<Loop>, held: &mut Vec<Traverse>) -> PyResult<Dispatching> {
    let py = object.py();
    let native = object.getattr_opt(intern!(py, "_native"))?;
    if let Some(native) = native
        && let Ok(compute) = native.cast::<PyCompute>()
    {
        let runtime = compute.get().runtime.bind(py).clone();
        let registry = runtime.call_method0(intern!(py, "daemon_registry"))?;
        return Ok(Dispatching {
            dispatcher: Arc::clone(&compute.get().dispatcher) as Arc<dyn ActionDispatcher>,
            registry: Some(registry.cast_into::<PyRegistry>()?.unbind()),
            node: Some(runtime.get().runtime.node().node_id()),
            runtime: Some(runtime.unbind()),
        });
    }
    let dispatcher = Arc::new(PyDispatcher::new(object, Arc::clone(home))?);
    let said = |method: &str| match object.getattr_opt(method)? {
        Some(method) => method.call0(),
        None => Ok(py.None().into_bound(py)),
    };
    let registry = match given(&said("daemon_registry")?) {
        Some(registry) => {
            let name = "what daemon_registry gives";
            Some(
                args::instance::<PyRegistry>(registry, name, "a DaemonRegistry or None")?
                    .clone()
                    .unbind(),
            )
        }
        None => None,
    };
    let node = Option::<NodeId>::from_python(&said("node_id")?, "node_id")?;
    let shown = Arc::clone(&dispatcher);
    held.push(Box::new(move |visit| shown.traverse(visit)));
    Ok(Dispatching {
        dispatcher,
        runtime: None,
        registry,
        node,
    })
}

fn this_node(config: &MeshOsConfig, said: Option<NodeId>) -> PyResult<NodeId> {
    match (config.this_node, said) {
        (Some(given), Some(said)) if given != said => Err(ConfigError::new_err((
            "this_node",
            format!("must be the dispatcher's node, 0x{said}, not 0x{given}"),
        ))),
        (Some(node), _) | (None, Some(node)) => Ok(node),
        (None, None) => Err(ConfigError::new_err((
            "this_node",
            "must be given, since the dispatcher acts on no mesh",
        ))),
    }
}

/// What the appenders of a loop have in common.
struct Feed<'a> {
    home: &'a Arc<Loop>,
    callbacks: &'a Callbacks,
    records: &'a Arc<Records>,
    lanes: &'a Lanes,
    budget: Duration,
    /// Files that keep the records of this loop, once it runs.
    claims: Vec<Claim>,
    /// What a file of commands tells of earlier runs.
    history: Option<History>,
    /// What commands of earlier runs decided.
    control: ControlState,
}

/// What keeps one sort of records, in an argument of the public class.
struct Role<R> {
    which: Which,
    kind: Kind,
    argument: &'static str,
    class: &'static str,
    adapt: fn(&Bound<'_, PyAny>, Arc<Loop>) -> PyResult<PyAppender<R>>,
}

impl Feed<'_> {
    /// An appender: a file as it is, so that no Python runs for its records, or a user's object.
    fn appender<R: Send + Sync + 'static>(
        &mut self,
        object: &Bound<'_, PyAny>,
        role: &Role<R>,
        held: &mut Vec<Traverse>,
    ) -> PyResult<Arc<dyn Appender<R>>>
    where
        TrailFile: Appender<R>,
    {
        let py = object.py();
        let native = object.getattr_opt(intern!(py, "_native"))?;
        if let Some(native) = native
            && let Ok(native) = native.cast::<PyRecordFile>()
        {
            native.get().check()?;
            let file = &native.get().file;
            if file.kind() != role.kind {
                return Err(args::wrong_type(role.argument, role.class, object));
            }
            let claim = py.detach(|| file.claim());
            let claim = claim.map_err(|error| InvalidArgument::new_err((role.argument, error.to_string())))?;
            self.claims.push(claim);
            if role.kind == Kind::Audit {
                self.history = Some(py.detach(|| file.history()));
                self.control = file.control().clone();
            }
            return Ok(Arc::clone(file) as Arc<dyn Appender<R>>);
        }
        let appender = Arc::new((role.adapt)(object, Arc::clone(self.home))?);
        let shown = Arc::clone(&appender);
        held.push(Box::new(move |visit| shown.traverse(visit)));
        Ok(appender)
    }

    /// Feeds an appender, if one was given.
    fn open<R: Numbered + Send + Sync + 'static>(
        &mut self,
        object: &Bound<'_, PyAny>,
        role: &Role<R>,
        held: &mut Vec<Traverse>,
    ) -> PyResult<Option<Arc<Writer<R>>>>
    where
        TrailFile: Appender<R>,
    {
        let Some(object) = given(object) else { return Ok(None) };
        let appender = self.appender(object, role, held)?;
        let which = role.which;
        let callback = self.callbacks.add(appender.name(), Part::Appender);
        let name = Arc::clone(callback.name());
        let records = Arc::clone(self.records);
        let lost = Arc::new(move |seq: u64, lost: Lost| {
            records.lost(which, seq);
            // A failure of the appender of failures would be one more failure to append, without end.
            if which != Which::Failures {
                records.failure(Failure {
                    source: FailureSource {
                        part: Part::Appender,
                        name: Arc::clone(&name),
                        target: Some(seq),
                        action_id: None,
                        envelope_id: None,
                    },
                    reason: Arc::from(records::reason_of(&lost)),
                    traceback: None,
                });
            }
        });
        let writer = Writer::new(appender, callback, self.lanes.clone(), self.budget, lost);
        Ok(Some(Arc::new(writer)))
    }
}

const AUDITS: Role<AuditRecord> = Role {
    which: Which::Audits,
    kind: Kind::Audit,
    argument: "admin_audit_appender",
    class: "an AdminAuditChainAppender",
    adapt: PyAppender::of_audits,
};
const LINES: Role<LogRecord> = Role {
    which: Which::Lines,
    kind: Kind::Log,
    argument: "log_appender",
    class: "a LogChainAppender",
    adapt: PyAppender::of_lines,
};
const FAILURES: Role<Arc<FailureRecord>> = Role {
    which: Which::Failures,
    kind: Kind::Failure,
    argument: "failure_appender",
    class: "a FailureChainAppender",
    adapt: PyAppender::of_failures,
};
const ACTIONS: Role<ActionRecord> = Role {
    which: Which::Actions,
    kind: Kind::Action,
    argument: "action_appender",
    class: "an ActionChainAppender",
    adapt: PyAppender::of_actions,
};

#[pymethods]
impl PyLoop {
    #[new]
    #[allow(clippy::too_many_arguments, reason = "one for each option of the public class")]
    fn new(
        config: &Bound<'_, PyAny>,
        dispatcher: &Bound<'_, PyAny>,
        probes: &Bound<'_, PyAny>,
        scheduler: &Bound<'_, PyAny>,
        daemon_registry: &Bound<'_, PyAny>,
        recovery: &Bound<'_, PyAny>,
        control_sink: &Bound<'_, PyAny>,
        admin_verifier: &Bound<'_, PyAny>,
        admin_audit_appender: &Bound<'_, PyAny>,
        log_appender: &Bound<'_, PyAny>,
        failure_appender: &Bound<'_, PyAny>,
        action_appender: &Bound<'_, PyAny>,
        migration_aborter: &Bound<'_, PyAny>,
        migration_snapshot_source: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        entry("MeshOsRuntime.start", || {
            let py = config.py();
            let config = *args::instance::<PyMeshOsConfig>(config, "config", "a MeshOsConfig")?
                .get()
                .core();
            let home = Loop::new(aio::current_loop(py)?.map(Bound::unbind));
            let mut held = Vec::new();
            let dispatching = dispatching(dispatcher, &home, &mut held)?;
            let node = this_node(&config, dispatching.node)?;
            let probes = registry_of::<PyProbeRegistry>(probes, "probes", "a ProbeRegistry or None")?;
            let scheduler = registry_of::<PySchedulerRegistry>(scheduler, "scheduler", "a SchedulerRegistry or None")?;
            let recovery = registry_of::<PyRecoveryRegistry>(recovery, "recovery", "a RecoveryRegistry or None")?;
            if let Some(running) = aio::current_loop(py)? {
                probes.get().home.choose(running.clone());
                recovery.get().home.choose(running);
            }
            let registry = match (given(daemon_registry), dispatching.registry) {
                (None, Some(registry)) => registry,
                _ => registry_of::<PyRegistry>(daemon_registry, "daemon_registry", "a DaemonRegistry or None")?,
            };
            let cluster_id = match given(admin_verifier) {
                Some(verifier) => verifier.getattr(intern!(py, "cluster_id"))?.extract::<Vec<u8>>()?,
                None => Vec::new(),
            };
            let verifier = match given(admin_verifier) {
                Some(verifier) => {
                    let verifier =
                        args::instance::<PyAdminVerifier>(verifier, "admin_verifier", "an AdminVerifier or None")?;
                    verifier.get().check()?;
                    Some(Arc::clone(&verifier.get().verifier))
                }
                None => None,
            };
            let sink = match given(control_sink) {
                Some(sink) => {
                    let sink = Arc::new(PyControlSink::new(sink, Arc::clone(&home))?);
                    let shown = Arc::clone(&sink);
                    held.push(Box::new(move |visit| shown.traverse(visit)));
                    Some(sink as Arc<dyn ControlSink>)
                }
                None => None,
            };
            let aborter = match given(migration_aborter) {
                Some(aborter) => {
                    let aborter = Arc::new(PyAborter::new(aborter, Arc::clone(&home))?);
                    let shown = Arc::clone(&aborter);
                    held.push(Box::new(move |visit| shown.traverse(visit)));
                    Some(aborter as Arc<dyn MigrationAborter>)
                }
                None => None,
            };
            let migrations = match given(migration_snapshot_source) {
                Some(source) => {
                    let source = Arc::new(PyMigrationSource::new(source, Arc::clone(&home))?);
                    let shown = Arc::clone(&source);
                    held.push(Box::new(move |visit| shown.traverse(visit)));
                    Some(source as Arc<dyn MigrationSnapshotSource>)
                }
                None => None,
            };
            let lanes = threads::callback_lanes(py)?;
            let wakes = threads::wake_lanes(py)?;
            let clock = LoopClock::start();
            let callbacks = Arc::new(Callbacks::new());
            let records = Arc::new(Records::new(node, clock));
            let mut feed = Feed {
                home: &home,
                callbacks: &callbacks,
                records: &records,
                lanes: &lanes,
                budget: config.tick_interval.mul_f64(config.callback_budget.get()),
                claims: Vec::new(),
                history: None,
                control: ControlState::default(),
            };
            if let Some(writer) = feed.open(admin_audit_appender, &AUDITS, &mut held)? {
                records.write_audits(writer);
            }
            if let Some(writer) = feed.open(log_appender, &LINES, &mut held)? {
                records.write_lines(writer);
            }
            if let Some(writer) = feed.open(failure_appender, &FAILURES, &mut held)? {
                records.write_failures(writer);
            }
            if let Some(writer) = feed.open(action_appender, &ACTIONS, &mut held)? {
                records.write_actions(writer);
            }
            if let (Some(verifier), Some(history)) = (&verifier, feed.history.take()) {
                py.detach(|| verifier.recall(&history, clock::unix_ms()));
            }
            let (claims, control) = (std::mem::take(&mut feed.claims), std::mem::take(&mut feed.control));
            let keeper = Kept::new(Arc::clone(&registry.get().registry), threads::daemon_lanes(py)?);
            let parts = Parts {
                dispatcher: dispatching.dispatcher,
                keeper: Arc::new(keeper),
                probes: probes.get().registry.clone(),
                scheduler: scheduler.get().registry.clone(),
                recovery: recovery.get().registry.clone(),
                sink,
                aborter,
                migrations,
                authority: verifier
                    .as_ref()
                    .map(|verifier| (*verifier.policy(), verifier.ledger())),
                control,
                callbacks,
                records,
                clock,
                lanes,
                wakes,
            };
            let authority = match (&verifier, config.authority) {
                (Some(_), _) => AuthorityStatus::Verified,
                (None, Authority::Open) => AuthorityStatus::Open,
                (None, Authority::Verified) => AuthorityStatus::Refused,
            };
            let epoch_id = meshos_node::keys::random_u64();
            let started = py.detach(|| MeshOs::start(node, config, epoch_id, authority, parts));
            let os = started.map_err(|error| pyo3::exceptions::PyOSError::new_err(error.to_string()))?;
            claims.into_iter().for_each(Claim::keep);
            Ok(Self {
                shared: Arc::clone(os.shared()),
                os: Arc::new(os),
                probes,
                scheduler,
                recovery,
                registry,
                home,
                runtime: dispatching.runtime,
                held,
                verifier,
                cluster_id,
                born: Born::now(),
            })
        })
    }

    /// Queues an event, waiting for space.
    fn publish(&self, event: &Bound<'_, PyAny>, timeout: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("MeshOsHandle.publish", || {
            self.check()?;
            let deadline = deadline(Some(timeout))?;
            let (signal, refused) = self.signal(extract_event(event)?)?;
            if let Some(signal) = signal {
                self.take_in(event.py(), vec![signal], deadline)?;
            }
            refused.map_or(Ok(()), |refused| Err(errors::refused(event.py(), &refused, None)))
        })
    }

    /// Queues events in order, all or none.
    fn publish_many(&self, events: &Bound<'_, PyAny>, timeout: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("MeshOsHandle.publish_many", || {
            self.check()?;
            let py = events.py();
            let deadline = deadline(Some(timeout))?;
            let mut published = Vec::new();
            if let Ok(list) = events.cast::<PyList>() {
                published.reserve(list.len());
                for event in list.iter() {
                    published.push(extract_event(&event)?);
                }
            } else {
                for event in events.try_iter()? {
                    published.push(extract_event(&event?)?);
                }
            }
            let mut refusal = None;
            let mut lines = Vec::new();
            let mut signals = Vec::with_capacity(published.len());
            for event in published {
                match event {
                    Published::Log { level, message, daemon } => lines.push((level, message, daemon)),
                    other => {
                        let (signal, refused) = self.signal(other)?;
                        signals.extend(signal);
                        refusal = refusal.or(refused);
                    }
                }
            }
            if !signals.is_empty() {
                self.take_in(py, signals, deadline)?;
            }
            // All or none: a batch that was refused leaves no line either.
            for (level, message, daemon) in lines {
                self.line(level, daemon, &message)?;
            }
            refusal.map_or(Ok(()), |refused| Err(errors::refused(py, &refused, None)))
        })
    }

    /// Says what is wanted of a daemon, and waits until that is folded.
    fn set_intent(
        &self,
        daemon: &Bound<'_, PyAny>,
        intent: &Bound<'_, PyAny>,
        node: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        entry("MeshOsRuntime.set_intent", || {
            self.check()?;
            may_wait("MeshOsRuntime.set_intent")?;
            let daemon = read::<Origin>(daemon, "daemon")?;
            let event = MeshOsEvent::DaemonIntentUpdate {
                daemon: self.named(daemon),
                intent: DaemonIntent::from_python(intent, "intent")?,
                node: Option::<NodeId>::from_python(node, "node")?,
            };
            let py = intent.py();
            let deadline = Deadline::after(ANSWER_TIMEOUT);
            let ticket = self.take_in(py, vec![Signal::Event(event)], deadline)?;
            self.wait_folded(py, ticket, deadline)
        })
    }

    fn snapshot(&self) -> PyResult<PyMeshOsSnapshot> {
        self.born.check("MeshOsRuntime")?;
        Ok(PyMeshOsSnapshot::new(self.shared.published.load()))
    }

    /// Waits for a snapshot with a higher generation.
    fn wait_changed(&self, generation: &Bound<'_, PyAny>, timeout: &Bound<'_, PyAny>) -> PyResult<PyMeshOsSnapshot> {
        entry("MeshOsSnapshotReader.wait_changed", || {
            self.check()?;
            may_wait("MeshOsSnapshotReader.wait_changed")?;
            let py = generation.py();
            let generation = args::u64(generation, "generation")?;
            let span = args::span(Some(timeout), "timeout")?;
            let deadline = span.map_or_else(Deadline::never, Deadline::after);
            let mut signal = None;
            let published = &self.shared.published;
            match py.detach(|| published.wait(generation, deadline, &mut || guard::interrupted(&mut signal))) {
                Waited::Changed(snapshot) => Ok(PyMeshOsSnapshot::new(snapshot)),
                Waited::Ended => Err(LoopClosed::new_err(("MeshOsRuntime",))),
                Waited::TimedOut => Err(errors::waited("a changed snapshot", span.unwrap_or_default(), py)),
                Waited::Interrupted => Err(raised(signal)),
            }
        })
    }

    /// Has `wake` called on a lane once there is a snapshot with a higher generation. `None`: look now.
    fn on_change(&self, generation: &Bound<'_, PyAny>, wake: Py<PyAny>) -> PyResult<Option<u64>> {
        self.born.check("MeshOsRuntime")?;
        let generation = args::u64(generation, "generation")?;
        Ok(self.shared.published.on_change(generation, calling(wake)).ok())
    }

    fn forget_change(&self, ticket: u64) -> bool {
        self.shared.published.forget(ticket)
    }

    fn open_ear(&self, origin_hash: &Bound<'_, PyAny>) -> PyResult<PyEar> {
        self.check()?;
        let origin = args::origin(origin_hash)?;
        let ear = self.shared.ears.open(origin);
        if self.registry.get().registry.get(origin).is_none() || !self.shared.health().0 {
            ear.close();
        }
        Ok(PyEar { ear, born: self.born })
    }

    /// The name of a daemon of the registry.
    fn daemon_ref<'py>(&self, origin_hash: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.check()?;
        let origin = args::origin(origin_hash)?;
        match self.registry.get().registry.get(origin) {
            Some(_) => self.named(origin).to_python(origin_hash.py()),
            None => Err(DaemonNotFound::new_err((origin.get(),))),
        }
    }

    fn metadata(&self, daemon: &Bound<'_, PyAny>) -> PyResult<PyMetadataView> {
        self.born.check("MeshOsRuntime")?;
        let daemon = DaemonRef::from_python(daemon, "daemon")?;
        Ok(PyMetadataView::of(self.shared.published.load(), daemon))
    }

    /// Adds a line to the log.
    fn log(&self, level: &Bound<'_, PyAny>, message: &Bound<'_, PyAny>, daemon: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("MeshOsDaemonHandle.log", || {
            self.check()?;
            let level = LogLevel::from_python(level, "level")?;
            let message = String::from_python(message, "message")?;
            let daemon = Option::<Origin>::from_python(daemon, "daemon")?;
            self.line(level, daemon, &message)
        })
    }

    /// Says what a daemon adds to its node.
    fn publish_capabilities(&self, daemon: &Bound<'_, PyAny>, capabilities: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("MeshOsDaemonHandle.publish_capabilities", || {
            self.check()?;
            let signal = Signal::Offered {
                daemon: DaemonRef::from_python(daemon, "daemon")?,
                capabilities: read::<Offered>(capabilities, "capabilities")?.0,
            };
            self.take_in(daemon.py(), vec![signal], Deadline::after(Duration::ZERO))?;
            Ok(())
        })
    }

    /// Tells a daemon to leave, and waits for it.
    fn leave(&self, daemon: &Bound<'_, PyAny>, grace: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("MeshOsDaemonHandle.graceful_shutdown", || {
            self.check()?;
            may_wait("MeshOsDaemonHandle.graceful_shutdown")?;
            let py = daemon.py();
            let daemon = DaemonRef::from_python(daemon, "daemon")?;
            let grace = args::span(Some(grace), "grace")?.unwrap_or_default();
            if !self.shared.health().0 {
                return Err(LoopClosed::new_err(("MeshOsRuntime",)));
            }
            let deadline = Deadline::after(grace);
            let until = clock::unix_ms().plus(grace);
            let mut signal = None;
            py.detach(|| self.see_off(&daemon, until, deadline, &mut signal));
            signal.map_or(Ok(()), Err)
        })
    }

    fn explain<'py>(&self, daemon: &Bound<'py, PyAny>, chain: &Bound<'py, PyAny>) -> PyResult<PyExplanation> {
        entry("MeshOsRuntime.explain", || {
            self.check()?;
            may_wait("MeshOsRuntime.explain")?;
            let py = daemon.py();
            let (key, unknown, subject) = match given(daemon) {
                Some(daemon) => {
                    let daemon = args::u64(daemon, "daemon").map(Origin::new)?;
                    let subject = Subject::Daemon(self.named(daemon));
                    (Key::Daemon(daemon), DaemonNotFound::new_err((daemon.get(),)), subject)
                }
                None => {
                    let chain = args::u64(chain, "chain").map(Origin::new)?;
                    let unknown = InvalidArgument::new_err(("chain", "nothing is known of it"));
                    (Key::Chain(chain), unknown, Subject::Chain(chain))
                }
            };
            let mut signal = None;
            let said = py.detach(|| {
                let deadline = Deadline::after(ANSWER_TIMEOUT);
                self.shared
                    .explain(key, deadline, &mut || guard::interrupted(&mut signal))
            });
            match (said, signal) {
                (_, Some(signal)) => Err(signal),
                (Some(Some(explanation)), None) => Ok(PyExplanation::of(subject, &explanation)),
                (Some(None), None) => Err(unknown),
                (None, None) if self.shared.health().0 => Err(errors::waited("an explanation", ANSWER_TIMEOUT, py)),
                (None, None) => Err(LoopClosed::new_err(("MeshOsRuntime",))),
            }
        })
    }

    fn executor_stats(&self) -> PyResult<PyExecutorStatsSnapshot> {
        self.born.check("MeshOsRuntime")?;
        Ok(PyExecutorStatsSnapshot::from(self.shared.executor_stats()))
    }

    fn dropped_actions(&self) -> PyResult<u64> {
        self.born.check("MeshOsRuntime")?;
        Ok(self.shared.dropped_actions())
    }

    fn this_node(&self) -> u64 {
        self.shared.this_node.get()
    }

    fn health(&self) -> PyResult<PyRuntimeHealth> {
        self.born.check("MeshOsRuntime")?;
        let (alive, at, took) = self.shared.health();
        Ok(PyRuntimeHealth::of(alive, alive, at, took))
    }

    fn is_alive(&self) -> bool {
        self.born.is_here() && self.shared.health().0
    }

    /// Up to `limit` lines of the log above `since`.
    fn logs<'py>(&self, since: &Bound<'py, PyAny>, limit: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
        self.born.check("MeshOsRuntime")?;
        let py = since.py();
        let (lines, _) = self
            .shared
            .parts
            .records
            .lines(args::u64(since, "since")?, count(limit)?);
        PyTuple::new(
            py,
            lines
                .iter()
                .map(|line| Py::new(py, PyLogRecord::from(line)))
                .collect::<PyResult<Vec<_>>>()?,
        )
    }

    /// Up to `limit` commands above `since`.
    fn audits<'py>(&self, since: &Bound<'py, PyAny>, limit: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
        self.born.check("MeshOsRuntime")?;
        let py = since.py();
        let (since, limit) = (args::u64(since, "since")?, count(limit)?);
        let audits = self.shared.parts.records.audits(since, limit);
        let shown = audits.iter().map(PyAdminAuditRecord::from);
        PyTuple::new(py, shown.map(|audit| Py::new(py, audit)).collect::<PyResult<Vec<_>>>()?)
    }

    /// Orders what is in an envelope, and waits until it took effect.
    fn commit(&self, envelope: &Bound<'_, PyAny>, timeout: &Bound<'_, PyAny>) -> PyResult<PyCommitReceipt> {
        entry("DeckClient.commit", || {
            self.check()?;
            may_wait("DeckClient.commit")?;
            let py = envelope.py();
            let span = args::span(Some(timeout), "timeout")?;
            let deadline = span.map_or_else(Deadline::never, Deadline::after);
            let envelope = Envelope::read(envelope)?;
            let sealed = py.detach(|| self.seal(&envelope));
            let (envelope_id, kind) = (sealed.envelope_id, sealed.command.order.kind());
            let (operators, verdict) = (sealed.command.operators.clone(), sealed.command.verdict.clone());
            let Some(waiting) = self.shared.verdicts.expect(envelope_id) else {
                return Err(QueueFull::new_err(("the commands that are waited for", WAITING_MAX)));
            };
            self.take_in(py, vec![Signal::Sealed(Box::new(sealed))], deadline)?;
            let mut signal = None;
            match py.detach(|| waiting.wait(deadline, &mut || guard::interrupted(&mut signal))) {
                Heard::Verdict(told) => match told.refused {
                    Some(refused) => Err(errors::refused(py, &refused, Some(told.audit_seq))),
                    None => Ok(PyCommitReceipt {
                        envelope_id,
                        event_kind: kind.into(),
                        verdict: if verdict == Verdict::Open {
                            audit::Verdict::Unverified
                        } else {
                            audit::Verdict::Accepted
                        },
                        operator_ids: operators,
                        committed_at: Moment::of(self.shared.parts.clock.now()),
                        audit_seq: told.audit_seq,
                        generation: told.generation,
                    }),
                },
                Heard::TimedOut => Err(errors::waited("the effect of a command", span.unwrap_or_default(), py)),
                Heard::Ended => Err(LoopClosed::new_err(("MeshOsRuntime",))),
                Heard::Interrupted => Err(raised(signal)),
            }
        })
    }

    /// Targets that break-glass actions leave alone.
    fn cooldowns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        self.check()?;
        let shown = self
            .shared
            .cooldowns()
            .into_iter()
            .map(|(bucket, until)| Py::new(py, PyCooldown::of(bucket, until)));
        PyTuple::new(py, shown.collect::<PyResult<Vec<_>>>()?)
    }

    /// Up to `limit` failures above `since`.
    fn failures<'py>(&self, since: &Bound<'py, PyAny>, limit: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
        self.born.check("MeshOsRuntime")?;
        let (py, since, limit) = (since.py(), args::u64(since, "since")?, count(limit)?);
        let (failures, _) = self.shared.parts.records.failures();
        let newer = failures.iter().filter(|record| record.seq > since).take(limit);
        let shown = newer.map(|record| Py::new(py, PyFailureRecord::from(&**record)));
        PyTuple::new(py, shown.collect::<PyResult<Vec<_>>>()?)
    }

    /// Generation of the newest snapshot.
    fn generation(&self) -> u64 {
        self.shared.published.generation()
    }

    /// Id of the cluster whose commands are obeyed, and operators that a break-glass action needs; without a verifier
    /// nothing and one.
    fn ice_policy<'py>(&self, py: Python<'py>) -> (Bound<'py, PyBytes>, u8) {
        match &self.verifier {
            Some(verifier) => (PyBytes::new(py, &self.cluster_id), verifier.policy().ice_threshold),
            None => (PyBytes::new(py, b"-"), 1),
        }
    }

    fn nudge(&self) {
        self.shared.intake.nudge();
    }

    fn probes(&self, py: Python<'_>) -> Py<PyProbeRegistry> {
        self.probes.clone_ref(py)
    }

    fn scheduler(&self, py: Python<'_>) -> Py<PySchedulerRegistry> {
        self.scheduler.clone_ref(py)
    }

    fn recovery(&self, py: Python<'_>) -> Py<PyRecoveryRegistry> {
        self.recovery.clone_ref(py)
    }

    fn daemon_registry(&self, py: Python<'_>) -> Py<PyRegistry> {
        self.registry.clone_ref(py)
    }

    fn shutdown(&self, timeout: &Bound<'_, PyAny>) -> PyResult<PyRuntimeStats> {
        entry("MeshOsRuntime.shutdown", || {
            self.check()?;
            may_wait("MeshOsRuntime.shutdown")?;
            let py = timeout.py();
            let Some(span) = args::span(Some(timeout), "timeout")? else {
                return Err(args::wrong_type("timeout", "a timedelta", timeout));
            };
            aio::may_block(py, "MeshOsRuntime.shutdown")?;
            guard::may_wait_for_callbacks(&self.homes(), "MeshOsRuntime.shutdown")?;
            let mut signal = None;
            // Nothing is locked: a handler of a signal, which runs meanwhile, may shut down too.
            let ended = py.detach(|| self.os.shutdown(span, &mut || guard::interrupted(&mut signal)));
            let Some(ended) = ended else {
                return Err(raised(signal));
            };
            let failed = |kind: &'static str, message: String| RuntimeShutdownError::new_err((kind, message));
            match ended.end {
                LoopEnd::Done => {}
                LoopEnd::Late => {
                    let message = format!("the loop had not ended after {} ms", span.as_millis());
                    return Err(failed("loop_timeout", message));
                }
                LoopEnd::Failed => return Err(failed("loop_failed", "the loop had ended by a bug".to_owned())),
            }
            if let Some(verifier) = &self.verifier {
                verifier.keep(&self.shared.ledger());
            }
            if ended.hung > 0 {
                let message = format!("{} dispatches had not ended after {} ms", ended.hung, span.as_millis());
                return Err(failed("executor_timeout", message));
            }
            if !ended.kept {
                let message = format!("an appender had not kept its records after {} ms", span.as_millis());
                return Err(failed("appender_timeout", message));
            }
            Ok(PyRuntimeStats::of(ended.passes, ended.stats))
        })
    }

    /// Ends the loop without waiting; whether it was still alive.
    fn abandon(&self) -> bool {
        if !self.born.is_here() {
            return false;
        }
        let alive = self.shared.health().0;
        self.shared.intake.abort();
        alive
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.probes)?;
        visit.call(&self.scheduler)?;
        visit.call(&self.recovery)?;
        visit.call(&self.registry)?;
        if let Some(runtime) = &self.runtime {
            visit.call(runtime)?;
        }
        self.home.traverse(&visit)?;
        self.held.iter().try_for_each(|traverse| traverse(&visit))
    }

    fn __clear__(&self) {
        if self.born.is_here() {
            self.shared.intake.abort();
        }
    }
}

impl Drop for PyLoop {
    fn drop(&mut self) {
        // In a forked child its locks may be held for ever by threads that the child does not have: nothing ends there.
        if !self.born.is_here() {
            std::mem::forget(Arc::clone(&self.os));
        }
    }
}

/// A command in its envelope, of either sort.
pub enum Envelope {
    /// An ordinary one.
    Admin(Arc<AdminEnvelope>),
    /// A break-glass action.
    Ice(Arc<IceEnvelope>),
}

impl Envelope {
    fn read(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(envelope) = object.cast::<PyAdminEnvelope>() {
            return Ok(Self::Admin(Arc::clone(&envelope.get().0)));
        }
        let ice = args::instance::<PyIceEnvelope>(object, "envelope", "an AdminEnvelope or IceEnvelope")?;
        Ok(Self::Ice(Arc::clone(&ice.get().0)))
    }
}

fn count(limit: &Bound<'_, PyAny>) -> PyResult<usize> {
    args::u64(limit, "limit").map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

impl PyLoop {
    /// The homes of the callbacks that its end waits for.
    fn homes(&self) -> [usize; 4] {
        let (probes, scheduler, recovery) = (self.probes.get(), self.scheduler.get(), self.recovery.get());
        [&self.home, &probes.home, &scheduler.home, &recovery.home].map(Loop::address)
    }

    fn check(&self) -> PyResult<()> {
        self.born.check("MeshOsRuntime")
    }

    /// A daemon with its name, as far as it is known here.
    fn named(&self, id: Origin) -> DaemonRef {
        let slot = self.registry.get().registry.get(id);
        let name = slot.map_or_else(|| Arc::from(""), |slot| Arc::clone(slot.name()));
        DaemonRef { id, name }
    }

    fn line(&self, level: LogLevel, daemon: Option<Origin>, message: &str) -> PyResult<()> {
        if !self.shared.health().0 {
            return Err(LoopClosed::new_err(("MeshOsRuntime",)));
        }
        self.shared.parts.records.line(level, daemon, message);
        self.shared.intake.hint();
        Ok(())
    }

    /// What of a published event goes into the loop, and what its publisher is told.
    fn signal(&self, published: Published) -> PyResult<(Option<Signal>, Option<Refusal>)> {
        Ok(match published {
            Published::Event(event) => (Some(Signal::Event(event)), None),
            Published::Log { level, message, daemon } => {
                self.line(level, daemon, &message)?;
                (None, None)
            }
            Published::Admin(event) => {
                let (verdict, refused) = match (&self.verifier, self.shared.config.authority) {
                    (Some(_), _) => (
                        Verdict::Rejected {
                            kind: Refusal::Unsigned.kind(),
                        },
                        Some(Refusal::Unsigned),
                    ),
                    (None, Authority::Open) => (Verdict::Open, None),
                    (None, Authority::Verified) => (
                        Verdict::Rejected {
                            kind: Refusal::NoVerifier.kind(),
                        },
                        Some(Refusal::NoVerifier),
                    ),
                };
                let command = Command {
                    order: Order::Admin(event),
                    verdict,
                    operators: Vec::new(),
                    reason: String::new(),
                    envelope_id: None,
                    issued_at: None,
                };
                (Some(Signal::Command(command)), refused)
            }
            Published::SignedAdmin(envelope) => {
                let sealed = self.seal(&Envelope::Admin(envelope));
                let refused = sealed.refused.clone();
                (Some(Signal::Sealed(Box::new(sealed))), refused)
            }
            Published::SignedIce(envelope) => {
                let sealed = self.seal(&Envelope::Ice(envelope));
                let refused = sealed.refused.clone();
                (Some(Signal::Sealed(Box::new(sealed))), refused)
            }
        })
    }

    /// Checks all of an envelope that needs no loop, on this thread.
    pub fn seal(&self, envelope: &Envelope) -> Sealed {
        let now = clock::unix_ms();
        let (header, order, blast) = match envelope {
            Envelope::Admin(envelope) => (&envelope.header, Order::Admin(envelope.event.clone()), None),
            Envelope::Ice(envelope) => (
                &envelope.header,
                Order::Ice(envelope.action.clone()),
                Some(envelope.blast.clone()),
            ),
        };
        let checked = match (&self.verifier, envelope) {
            (Some(verifier), Envelope::Admin(envelope)) => {
                verifier.try_admin(envelope, now).map(|operator| vec![operator])
            }
            (Some(verifier), Envelope::Ice(envelope)) => verifier.try_ice(envelope, now),
            (None, _) if self.shared.config.authority == Authority::Open => Ok(Vec::new()),
            (None, _) => Err(Refusal::NoVerifier),
        };
        let verdict = match (&checked, &self.verifier) {
            (Ok(_), Some(_)) => Verdict::Accepted,
            (Ok(_), None) => Verdict::Open,
            (Err(refused), _) => Verdict::Rejected { kind: refused.kind() },
        };
        Sealed {
            command: Command {
                order,
                verdict,
                operators: checked.as_ref().cloned().unwrap_or_default(),
                reason: header.reason.clone(),
                envelope_id: Some(header.envelope_id),
                issued_at: Some(header.issued_at),
            },
            envelope_id: header.envelope_id,
            issued_at: header.issued_at,
            blast,
            refused: checked.err(),
        }
    }

    fn take_in(&self, py: Python<'_>, signals: Vec<Signal>, deadline: Deadline) -> PyResult<Ticket> {
        let mut signal = None;
        let intake = &self.shared.intake;
        let taken = match intake.try_publish_all(signals) {
            Ok(ticket) => Ok(ticket),
            Err((Refused::Full, signals)) if !deadline.passed() => {
                may_wait("MeshOsHandle.publish")?;
                py.detach(|| intake.publish_all(signals, deadline, &mut || guard::interrupted(&mut signal)))
            }
            Err((refused, signals)) => {
                if refused == Refused::Full {
                    intake.count_refused(signals.len());
                }
                Err(refused)
            }
        };
        taken.map_err(|refused| self.refused(refused, signal))
    }

    fn refused(&self, refused: Refused, signal: Option<PyErr>) -> PyErr {
        match refused {
            Refused::Full => QueueFull::new_err(("the loop's queue", self.shared.config.event_queue_capacity)),
            Refused::Closed => LoopClosed::new_err(("MeshOsRuntime",)),
            Refused::Interrupted => raised(signal),
        }
    }

    fn wait_folded(&self, py: Python<'_>, ticket: Ticket, deadline: Deadline) -> PyResult<()> {
        let mut signal = None;
        let intake = &self.shared.intake;
        let folded = py.detach(|| intake.wait_folded(ticket, deadline, &mut || guard::interrupted(&mut signal)));
        folded.map_err(|refused| match refused {
            Refused::Full => errors::waited("the loop to take it in", ANSWER_TIMEOUT, py),
            other => self.refused(other, signal),
        })
    }

    /// Tells a daemon to leave, waits until it is gone, and takes it out when time is up.
    fn see_off(
        &self,
        daemon: &DaemonRef,
        until: meshos_core::time::UnixMs,
        deadline: Deadline,
        signal: &mut Option<PyErr>,
    ) {
        let shared = &self.shared;
        let told = DaemonControl::Shutdown { deadline: until };
        let _leaving = shared.leave_by(daemon.id, until);
        shared.ears.tell(Some(daemon.id), told);
        let keeper = &shared.parts.keeper;
        keeper.control(daemon.id, told);
        // Nobody starts it again, also when it is not here at this moment.
        let event = MeshOsEvent::DaemonIntentUpdate {
            daemon: daemon.clone(),
            intent: DaemonIntent::Stop,
            node: None,
        };
        shared.intake.result(Signal::Event(event));
        let registry = &self.registry.get().registry;
        let mut snapshot = shared.published.load();
        while registry.get(daemon.id).is_some() && signal.is_none() && !deadline.passed() {
            match shared
                .published
                .wait(snapshot.generation, deadline, &mut || guard::interrupted(signal))
            {
                Waited::Changed(newer) => snapshot = newer,
                Waited::Ended | Waited::TimedOut | Waited::Interrupted => break,
            }
        }
        if signal.is_none() {
            keeper.remove(daemon.id);
        }
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyCompute>()?;
    module.add_class::<PyEar>()?;
    module.add_class::<PyLoop>()
}
