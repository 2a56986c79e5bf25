//! `LoopCore`: the native half of `MeshOsRuntime` and of what it hands out.
//!
//! The classes that users see are Python (`meshos.runtime`); what waits here, waits detached from the interpreter.

mod compute;
mod ear;
mod feed;
mod orders;
mod parts;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use meshos_core::command::Verdict;
use meshos_core::control_state::ControlState;
use meshos_core::id::{NodeId, Origin};
use meshos_core::loop_config::Authority;
use meshos_core::signal::{DaemonIntent, DaemonRef, LogLevel, MeshOsEvent, Signal};
use meshos_core::status::AuthorityStatus;
use meshos_core::world::Key;
use meshos_node::behaviour::{LoopEnd, MeshOs, Parts, Shared};
use meshos_node::callback::Callbacks;
use meshos_node::clock::{self, Deadline, LoopClock};
use meshos_node::compute::Kept;
use meshos_node::dispatch::{ControlSink, MigrationAborter, MigrationSnapshotSource};
use meshos_node::published::{Waited, Wake};
use meshos_node::records::Records;
use meshos_node::trail_file::Claim;
use meshos_node::verdicts::{Heard, WAITING_MAX};
use meshos_node::verifier::Verifier;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use pyo3::{PyTraverseError, PyVisit, intern};

use self::feed::{ACTIONS, AUDITS, FAILURES, Feed, LINES};
use self::parts::{dispatching, registry_of, this_node};
use crate::aio::{self, Loop};
use crate::capability::Offered;
use crate::deck::{PyCommitReceipt, PyCooldown};
use crate::dispatch::{PyAborter, PyControlSink, PyMigrationSource};
use crate::errors::{self, DaemonNotFound, InvalidArgument, LoopClosed, QueueFull, RuntimeShutdownError};
use crate::guard::{self, Born, entry, may_wait};
use crate::loop_config::PyMeshOsConfig;
use crate::mesh_event::{Published, extract_event};
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
use crate::{args, threads};

pub use self::compute::PyCompute;
pub use self::ear::PyEar;
pub use self::orders::Envelope;

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
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyCompute>()?;
    module.add_class::<PyEar>()?;
    module.add_class::<PyLoop>()
}
