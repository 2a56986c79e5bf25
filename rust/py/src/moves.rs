//! Moves of daemons, as whoever orders them sees them; and who makes the daemons that come.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use meshos_core::id::{EntityId, NodeId, Origin};
use meshos_core::move_frame::{Reason, Reject, Stage};
use meshos_node::clock::Deadline;
use meshos_node::lane::{Job, Lanes};
use meshos_node::mover::Factories;
use meshos_node::moves::{
    BeginError, Cause, DescribeError, FailedKind, Move, MoveFailed, MoveOpts, MoveStats, Moves, Unended,
};
use meshos_node::sync::{Condvar, Mutex};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyWeakrefMethods, PyWeakrefReference};

use crate::args;
use crate::daemon::PyDaemon;
use crate::errors::{
    self, DaemonNotFound, FactoryNotFound, InvalidArgument, LoopClosed, MigrationError, NotOwner, Unavailable,
};
use crate::guard::{self, Born, entry, may_wait};
use crate::migration::{MigrationPhase, Mode, MoveOptions, PyMigrationOpts, PyMigrationOutcome, PyMigrationSnapshot};
use crate::record::field::{Field, read};
use crate::record::moment::Moment;
use crate::record::record;
use crate::record::word::word;
use crate::runtime::PyRuntime;

/// How long a source is asked what it has.
const DESCRIBE: Duration = Duration::from_secs(5);

/// Why a node refused or ended a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "documented at its Python class")]
pub enum FailureReason {
    NotReady,
    FactoryNotFound,
    ComputeNotSupported,
    StateFailed,
    AlreadyMigrating,
    IdentityTransportFailed,
    NotReadyTimeout,
    NotOwner,
    NotExpected,
    Expired,
    Deadline,
    FreezeDeadline,
    TooLarge,
    Cancelled,
    Killed,
}

word! {
    FailureReason as "MigrationFailureReason" in "meshos.migration" {
        NotReady = "not_ready",
        FactoryNotFound = "factory_not_found",
        ComputeNotSupported = "compute_not_supported",
        StateFailed = "state_failed",
        AlreadyMigrating = "already_migrating",
        IdentityTransportFailed = "identity_transport_failed",
        NotReadyTimeout = "not_ready_timeout",
        NotOwner = "not_owner",
        NotExpected = "not_expected",
        Expired = "expired",
        Deadline = "deadline",
        FreezeDeadline = "freeze_deadline",
        TooLarge = "too_large",
        Cancelled = "cancelled",
        Killed = "killed",
    }
}

impl From<Stage> for MigrationPhase {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Snapshot => Self::Snapshot,
            Stage::Transfer => Self::Transfer,
            Stage::Restore => Self::Restore,
            Stage::Replay => Self::Replay,
            Stage::Cutover => Self::Cutover,
            Stage::Complete => Self::Complete,
        }
    }
}

impl From<MoveOptions> for MoveOpts {
    fn from(options: MoveOptions) -> Self {
        Self {
            live: options.mode == Mode::Live,
            transport_identity: options.transport_identity,
            retry_not_ready: options.retry_not_ready,
            freeze_max: options.freeze_max,
            deadline: options.deadline,
            bytes_per_second_max: options.bytes_per_second_max,
        }
    }
}

impl From<Reason> for FailureReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Busy => Self::AlreadyMigrating,
            Reason::NotReady => Self::NotReady,
            Reason::NotOwner => Self::NotOwner,
            Reason::Finished | Reason::Expired => Self::Expired,
            Reason::NotPermitted => Self::NotExpected,
            Reason::NoFactory => Self::FactoryNotFound,
            Reason::TooLarge => Self::TooLarge,
            Reason::StateFailed => Self::StateFailed,
            Reason::ComputeNotSupported => Self::ComputeNotSupported,
            Reason::IdentityTransportFailed => Self::IdentityTransportFailed,
        }
    }
}

/// The kinds that a runtime can make, read without the interpreter.
#[derive(Default)]
pub struct Kinds(Mutex<BTreeSet<String>>);

impl Kinds {
    /// Adds one.
    pub fn add(&self, kind: &str) {
        self.0.lock().insert(kind.to_owned());
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

/// Makes daemons that come, with the factories of a runtime, which it does not keep alive.
pub struct Makers {
    kinds: Arc<Kinds>,
    runtime: OnceLock<Py<PyWeakrefReference>>,
}

impl Makers {
    /// Of these kinds.
    pub fn new(kinds: Arc<Kinds>) -> Arc<Self> {
        Arc::new(Self {
            kinds,
            runtime: OnceLock::new(),
        })
    }

    /// Uses the factories of this runtime from now on.
    pub fn begin(&self, runtime: &Bound<'_, PyRuntime>) -> PyResult<()> {
        let runtime = PyWeakrefReference::new(runtime.as_any())?.unbind();
        let _ = self.runtime.set(runtime);
        Ok(())
    }

    fn made(&self, py: Python<'_>, kind: &str) -> Result<PyDaemon, Reject> {
        let runtime = self.runtime.get();
        let runtime = runtime.and_then(|runtime| runtime.bind(py).upgrade_as::<PyRuntime>().ok().flatten());
        let runtime = runtime.ok_or_else(|| Reject::from(Reason::ComputeNotSupported))?;
        let made = runtime.get().made(py, PyString::new(py, kind).as_any());
        made.map_err(|error| {
            let reason = match error.is_instance_of::<FactoryNotFound>(py) {
                true => Reason::NoFactory,
                false => Reason::StateFailed,
            };
            let class = error.get_type(py).name().map(|name| name.to_string());
            let text = error.value(py).str().map(|text| text.to_string());
            let text = format!("{}: {}", class.unwrap_or_default(), text.unwrap_or_default());
            Reject::new(reason, &text)
        })
    }
}

impl Factories<PyDaemon> for Makers {
    fn has(&self, kind: &str) -> bool {
        self.kinds.0.lock().contains(kind)
    }

    fn make(&self, kind: &str) -> Result<PyDaemon, Reject> {
        let made = Python::try_attach(|py| self.made(py, kind));
        made.unwrap_or_else(|| Err(Reason::ComputeNotSupported.into()))
    }
}

record! {
    /// What became of moves from here and to here.
    pub struct PyMigrationStats in "meshos.migration" as "MigrationStats", by keyword {
        /// Moves away from here that were committed.
        committed: u64,
        /// Moves away from here that were aborted.
        aborted: u64,
        /// Daemons that came here.
        arrived: u64,
        /// Events that had to wait while a daemon stood still: the sum of the next four.
        queued: u64,
        /// Of these, those that went with the daemon.
        shipped: u64,
        /// Of these, those that were given back after an abort.
        thawed: u64,
        /// Of these, those whose senders were told where the daemon is.
        redirected: u64,
        /// Of these, those that wait.
        waiting: u64,
        /// Events that there was no room for; their senders try again.
        refused: u64,
        /// Events that came here with a daemon, and were given to it first.
        taken_in: u64,
        /// Events that came here with a daemon that another node owned by then, and were sent on.
        sent_on: u64,
        /// Messages that cannot be read.
        malformed: u64,
        /// Messages with signatures that do not fit.
        forged: u64,
        /// Messages that there was no room for.
        full: u64,
        /// Moves that somebody has to look at: long in doubt, or committed by a source of which this node knows nothing.
        alarms: u64,
    }
}

impl From<MoveStats> for PyMigrationStats {
    fn from(stats: MoveStats) -> Self {
        Self {
            committed: stats.committed,
            aborted: stats.aborted,
            arrived: stats.arrived,
            queued: stats.queued,
            shipped: stats.shipped,
            thawed: stats.thawed,
            redirected: stats.redirected,
            waiting: stats.waiting,
            refused: stats.refused,
            taken_in: stats.taken_in,
            sent_on: stats.sent_on,
            malformed: stats.malformed,
            forged: stats.forged,
            full: stats.full,
            alarms: stats.alarms,
        }
    }
}

/// What operators said when they ended moves.
#[derive(Default)]
pub struct Said(Mutex<Vec<(Weak<Move>, String)>>);

impl Said {
    fn put(&self, unwanted: &Arc<Move>, why: String) {
        let mut said = self.0.lock();
        said.retain(|(of, _)| of.strong_count() > 0);
        said.push((Arc::downgrade(unwanted), why));
    }

    fn of(&self, unwanted: &Arc<Move>) -> Option<String> {
        let said = self.0.lock();
        let found = said.iter().find(|(of, _)| of.as_ptr() == Arc::as_ptr(unwanted));
        found.map(|(_, why)| why.clone())
    }
}

/// A call of a Python object on a lane, once.
struct Waking {
    wake: Mutex<Option<Py<PyAny>>>,
    lanes: Lanes,
}

impl Waking {
    fn new(wake: Py<PyAny>, lanes: &Lanes) -> Arc<Self> {
        Arc::new(Self {
            wake: Mutex::new(Some(wake)),
            lanes: lanes.clone(),
        })
    }

    /// Has it called; on this thread where there are no lanes any more.
    fn call(self: &Arc<Self>) {
        let job = Arc::clone(self);
        if !self.lanes.submit(Arc::clone(&job) as Arc<dyn Job>) {
            job.run();
        }
    }
}

impl Job for Waking {
    fn run(self: Arc<Self>) {
        let wake = self.wake.lock().take();
        // `None`: the interpreter is going away, and nobody waits any more.
        let _ = Python::try_attach(|py| {
            if let Some(wake) = wake
                && let Err(error) = wake.bind(py).call0()
            {
                crate::registry::log(py, "waking somebody who waits", error);
            }
        });
    }
}

impl Drop for Waking {
    fn drop(&mut self) {
        if let Some(wake) = self.wake.get_mut().take() {
            let _ = Python::try_attach(|_| drop(wake));
        }
    }
}

/// A move that was ordered here; what `MigrationHandle` is made of.
#[pyclass(frozen, name = "MoveCore", module = "meshos._core")]
pub struct PyMove {
    desk: Arc<Move>,
    moves: Arc<Moves>,
    said: Arc<Said>,
    lanes: Lanes,
    born: Born,
}

impl PyMove {
    fn origin(&self) -> Origin {
        self.desk.entity.origin()
    }

    fn failed(&self, failed: MoveFailed, py: Python<'_>) -> PyErr {
        let MoveFailed {
            kind,
            stage,
            why,
            cause,
        } = failed;
        let kind = match kind {
            FailedKind::Rejected => "rejected",
            FailedKind::Aborted => "aborted",
            FailedKind::AlreadyMigrating => "already_migrating",
            FailedKind::SourceLost => "source_lost",
        };
        let reason = match cause {
            Cause::Cancelled => Some(FailureReason::Cancelled),
            Cause::Killed => Some(FailureReason::Killed),
            Cause::NotReady if self.desk.opts.retry_not_ready.is_none() => Some(FailureReason::NotReady),
            Cause::NotReady => Some(FailureReason::NotReadyTimeout),
            Cause::Deadline => Some(FailureReason::Deadline),
            Cause::FreezeDeadline => Some(FailureReason::FreezeDeadline),
            Cause::Lost => None,
            Cause::Reason => why.as_ref().map(|why| why.reason.into()),
        };
        let said = if cause == Cause::Killed {
            self.said.of(&self.desk)
        } else {
            None
        };
        let message = said.or(why.map(|why| why.text)).unwrap_or_default();
        migration_error(py, kind, self.origin(), stage, reason, &message)
    }
}

/// What became of an order of a move.
fn migration_error(
    py: Python<'_>,
    kind: &'static str,
    origin: Origin,
    stage: Option<Stage>,
    reason: Option<FailureReason>,
    message: &str,
) -> PyErr {
    let made = || -> PyResult<PyErr> {
        let phase = stage.map(MigrationPhase::from).to_python(py)?.unbind();
        let reason = reason.to_python(py)?.unbind();
        let message = message.replace('\n', " ");
        Ok(MigrationError::new_err((kind, origin.get(), phase, reason, message)))
    };
    made().unwrap_or_else(|error| error)
}

fn shown(desk: &Move) -> PyMigrationSnapshot {
    let progress = desk.progress();
    PyMigrationSnapshot {
        daemon_origin: desk.entity.origin(),
        phase: progress.stage.into(),
        started_at: Moment::of(progress.started_at),
        phase_entered_at: Moment::of(progress.stage_entered_at),
        source_node: desk.source.node_id(),
        target_node: desk.target.node_id(),
        snapshot_bytes: progress.image_bytes,
        bytes_moved: progress.bytes_moved,
        retries: progress.retries,
        buffered_events: progress.waiting,
    }
}

/// A span as fine as a `timedelta`, so that a copy is equal.
fn whole(span: Duration) -> Duration {
    Duration::from_micros(u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
}

#[pymethods]
impl PyMove {
    #[getter]
    fn origin_hash(&self) -> u64 {
        self.origin().get()
    }

    #[getter]
    fn source_node(&self) -> u64 {
        self.desk.source.node_id().get()
    }

    #[getter]
    fn target_node(&self) -> u64 {
        self.desk.target.node_id().get()
    }

    #[getter]
    fn attempt<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.detach(|| self.desk.attempt()).to_python(py)
    }

    fn phase<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stage = py.detach(|| self.desk.progress().stage);
        MigrationPhase::from(stage).to_python(py)
    }

    fn progress(&self, py: Python<'_>) -> PyMigrationSnapshot {
        py.detach(|| shown(&self.desk))
    }

    /// Wait for the end.
    #[pyo3(signature = (timeout))]
    fn wait(&self, py: Python<'_>, timeout: &Bound<'_, PyAny>) -> PyResult<PyMigrationOutcome> {
        entry("MigrationHandle.wait", || {
            self.born.check("MigrationHandle")?;
            let span = args::span(Some(timeout), "timeout")?;
            if span.is_none_or(|span| !span.is_zero()) {
                may_wait("MigrationHandle.wait")?;
                crate::aio::may_block(py, "MigrationHandle.wait")?;
            }
            let mut signal = None;
            let ended = py.detach(|| {
                let deadline = span.map_or_else(Deadline::never, Deadline::after);
                self.desk.wait(deadline, || guard::interrupted(&mut signal))
            });
            if let Some(signal) = signal {
                return Err(signal);
            }
            match ended {
                Ok(Ok(outcome)) => Ok(PyMigrationOutcome {
                    origin_hash: self.origin(),
                    source_node: self.desk.source.node_id(),
                    target_node: self.desk.target.node_id(),
                    epoch: outcome.epoch,
                    took: whole(outcome.took),
                    blackout: whole(outcome.blackout),
                    snapshot_took: whole(outcome.snapshot_took),
                    bytes_moved: outcome.bytes_moved,
                    rounds: outcome.rounds,
                    mode: if outcome.live { Mode::Live } else { Mode::Stop },
                }),
                Ok(Err(failed)) => Err(self.failed(failed, py)),
                Err(Unended::Closed) => Err(LoopClosed::new_err(("Mesh",))),
                Err(Unended::Timeout | Unended::Interrupted) => {
                    let what = format!("the end of the move of daemon {}", self.origin());
                    Err(errors::waited(&what, span.unwrap_or_default(), py))
                }
            }
        })
    }

    /// Has `wake` called on a lane at the end. `None`: it is over already.
    fn on_end(&self, py: Python<'_>, wake: Py<PyAny>) -> Option<u64> {
        let waking = Waking::new(wake, &self.lanes);
        py.detach(|| {
            let ticket = self.desk.watch(Arc::new(move |_, is_over| {
                if is_over {
                    waking.call();
                }
            }));
            match self.desk.wait(Deadline::now(), || true) {
                Err(Unended::Timeout | Unended::Interrupted) => Some(ticket),
                Ok(_) | Err(Unended::Closed) => {
                    self.desk.forget(ticket);
                    None
                }
            }
        })
    }

    fn forget(&self, py: Python<'_>, ticket: u64) {
        py.detach(|| self.desk.forget(ticket));
    }

    /// Ask for an abort.
    fn cancel(&self, py: Python<'_>) {
        py.detach(|| self.moves.abort(&self.desk, false));
    }

    /// Follow the phases from now on.
    fn phases(&self, py: Python<'_>) -> PyPhases {
        py.detach(|| PyPhases::of(&self.desk, &self.lanes))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let progress = py.detach(|| self.desk.progress());
        let (source, target) = (self.desk.source.node_id(), self.desk.target.node_id());
        let (phase, over) = (
            MigrationPhase::from(progress.stage).name(),
            if progress.is_over { ", over" } else { "" },
        );
        format!(
            "<MigrationHandle of {}: {source} to {target}, {phase}{over}>",
            self.origin()
        )
    }
}

#[derive(Default)]
struct Seen {
    items: VecDeque<Stage>,
    last: Option<Stage>,
    is_over: bool,
    waking: Option<Arc<Waking>>,
}

#[derive(Default)]
struct Phases {
    seen: Mutex<Seen>,
    bell: Condvar,
}

impl Phases {
    fn put(&self, stage: Stage, is_over: bool) {
        let waking = {
            let mut seen = self.seen.lock();
            if seen.last.is_none_or(|last| last < stage) {
                seen.last = Some(stage);
                seen.items.push_back(stage);
            }
            seen.is_over |= is_over;
            seen.waking.take()
        };
        self.bell.notify_all();
        if let Some(waking) = waking {
            waking.call();
        }
    }
}

/// The phases of a move as they come, each once.
#[pyclass(frozen, name = "PhasesCore", module = "meshos._core")]
pub struct PyPhases {
    phases: Arc<Phases>,
    desk: Arc<Move>,
    ticket: u64,
    lanes: Lanes,
    born: Born,
}

impl PyPhases {
    fn of(desk: &Arc<Move>, lanes: &Lanes) -> Self {
        let phases: Arc<Phases> = Arc::default();
        phases.put(desk.progress().stage, false);
        let told = Arc::clone(&phases);
        let ticket = desk.watch(Arc::new(move |stage, is_over| told.put(stage, is_over)));
        if !matches!(
            desk.wait(Deadline::now(), || true),
            Err(Unended::Timeout | Unended::Interrupted)
        ) {
            phases.put(desk.progress().stage, true);
        }
        Self {
            phases,
            desk: Arc::clone(desk),
            ticket,
            lanes: lanes.clone(),
            born: Born::now(),
        }
    }
}

impl Drop for PyPhases {
    fn drop(&mut self) {
        if self.born.is_here() {
            self.desk.forget(self.ticket);
        }
    }
}

#[pymethods]
impl PyPhases {
    /// Wait for the next phase; `None` when time is up.
    fn take<'py>(&self, py: Python<'py>, timeout: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        entry("Stream.receive", || {
            self.born.check("Stream")?;
            let deadline = args::span(Some(timeout), "timeout")?.map_or_else(Deadline::never, Deadline::after);
            let mut signal = None;
            let next = py.detach(|| {
                loop {
                    let mut seen = self.phases.seen.lock();
                    if let Some(stage) = seen.items.pop_front() {
                        return Some(Ok(stage));
                    }
                    if seen.is_over {
                        return Some(Err(()));
                    }
                    if deadline.passed() {
                        return None;
                    }
                    drop(self.phases.bell.wait_until(seen, deadline.slice()));
                    if guard::interrupted(&mut signal) {
                        return None;
                    }
                }
            });
            match (next, signal) {
                (_, Some(signal)) => Err(signal),
                (Some(Ok(stage)), None) => MigrationPhase::from(stage).to_python(py).map(Some),
                (Some(Err(())), None) => Err(LoopClosed::new_err(("MigrationHandle.phases",))),
                (None, None) => Ok(None),
            }
        })
    }

    /// Has `wake` called on a lane once there is something to take; `False`: there is.
    fn on_next(&self, py: Python<'_>, wake: Py<PyAny>) -> bool {
        let waking = Waking::new(wake, &self.lanes);
        let (before, waits) = py.detach(|| {
            let mut seen = self.phases.seen.lock();
            if seen.is_over || !seen.items.is_empty() {
                return (Some(waking), false);
            }
            (seen.waking.replace(waking), true)
        });
        drop(before);
        waits
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| {
            self.desk.forget(self.ticket);
            self.phases.put(self.desk.progress().stage, true);
        });
    }
}

/// Drives the moves that are ordered on a node.
#[pyclass(frozen, name = "MigrationOrchestrator", module = "meshos.migration")]
pub struct PyOrchestrator {
    moves: Option<Arc<Moves>>,
    said: Arc<Said>,
    node: NodeId,
    born: Born,
}

#[pymethods]
impl PyOrchestrator {
    /// The moves that are under way.
    fn list_migrations<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        entry("MigrationOrchestrator.list_migrations", || {
            self.born.check("MigrationOrchestrator")?;
            let mut found: Vec<_> = py.detach(|| {
                let moves = self.moves.as_ref().map(|moves| moves.moves()).unwrap_or_default();
                moves.iter().map(|desk| shown(desk)).collect()
            });
            found.sort_by_key(|shown| (shown.started_at, shown.daemon_origin));
            PyTuple::new(py, found)
        })
    }

    /// The phase of the move of a daemon.
    fn phase<'py>(&self, origin_hash: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        entry("MigrationOrchestrator.phase", || {
            self.born.check("MigrationOrchestrator")?;
            let (py, origin) = (origin_hash.py(), args::origin(origin_hash)?);
            let stage = py.detach(|| {
                let desk = self.moves.as_ref()?.of(origin)?;
                Some(desk.progress().stage)
            });
            stage.map(MigrationPhase::from).to_python(py)
        })
    }

    /// What became of moves from here and to here.
    fn stats(&self, py: Python<'_>) -> PyResult<PyMigrationStats> {
        entry("MigrationOrchestrator.stats", || {
            self.born.check("MigrationOrchestrator")?;
            let stats = py.detach(|| self.moves.as_ref().map(|moves| moves.stats()));
            Ok(stats.unwrap_or_default().into())
        })
    }

    /// Ask for an abort.
    #[pyo3(signature = (origin_hash, *, reason))]
    fn abort(&self, origin_hash: &Bound<'_, PyAny>, reason: &Bound<'_, PyAny>) -> PyResult<bool> {
        entry("MigrationOrchestrator.abort", || {
            self.born.check("MigrationOrchestrator")?;
            let (py, origin) = (origin_hash.py(), args::origin(origin_hash)?);
            let reason: String = read(reason, "reason")?;
            Ok(py.detach(|| {
                let Some((moves, desk)) = self.moves.as_ref().and_then(|moves| Some((moves, moves.of(origin)?))) else {
                    return false;
                };
                self.said.put(&desk, reason);
                moves.abort(&desk, true);
                true
            }))
        })
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let count = py.detach(|| self.moves.as_ref().map_or(0, |moves| moves.moves().len()));
        format!("<MigrationOrchestrator of node {}: {count} moves>", self.node)
    }
}

impl PyRuntime {
    /// What lists and aborts the moves ordered here.
    pub fn orchestrator(&self) -> PyOrchestrator {
        PyOrchestrator {
            moves: self.moves().cloned(),
            said: Arc::clone(&self.said),
            node: self.node_id(),
            born: Born::now(),
        }
    }

    /// The phase of a move that was ordered here.
    pub fn stage(&self, origin: Origin) -> Option<MigrationPhase> {
        let desk = self.moves()?.of(origin)?;
        Some(desk.progress().stage.into())
    }

    /// Who owns a daemon of which the source knows nothing: this node may, or the directory knows.
    fn elsewhere(&self, moves: &Moves, origin: Origin, source: EntityId) -> Unordered {
        let directory = self.mesh_directory();
        for node in [Some(self.runtime.node().entity_id()), directory] {
            let Some(node) = node.filter(|node| *node != source) else {
                continue;
            };
            // A few slices: it is asked for the sake of a better word.
            let asked = moves.describe(node, origin, Deadline::after(Deadline::SLICE * 4), || false);
            if let Ok(found) = asked
                && found.epoch > 0
                && found.owner != source
            {
                let (node, epoch) = (found.owner, found.epoch);
                return Unordered::Refused(BeginError::NotOwner { node, epoch });
            }
        }
        Unordered::Nowhere
    }

    /// Orders a move.
    pub fn order_move(
        &self,
        origin_hash: &Bound<'_, PyAny>,
        source_node: &Bound<'_, PyAny>,
        target_node: &Bound<'_, PyAny>,
        opts: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PyMove> {
        const CALL: &str = "DaemonRuntime.start_migration";
        let py = origin_hash.py();
        let origin = args::origin(origin_hash)?;
        let (source, target): (NodeId, NodeId) = (read(source_node, "source_node")?, read(target_node, "target_node")?);
        let opts = match opts {
            None => MoveOptions::default(),
            Some(opts) => {
                args::instance::<PyMigrationOpts>(opts, "opts", "MigrationOpts")?
                    .get()
                    .0
            }
        };
        self.check(CALL)?;
        self.runtime
            .allow(meshos_core::lifecycle::Call::Work)
            .map_err(errors::lifecycle)?;
        crate::aio::may_block(py, CALL)?;
        if source == target {
            let rule = format!("must be another node than the source, 0x{source}");
            return Err(InvalidArgument::new_err(("target_node", rule)));
        }
        let silent = |what: &str| Unavailable::new_err((source.get(), format!("node {source} {what}")));
        let nowhere = |what: String| migration_error(py, "no_target", origin, None, None, &what);
        let from = self.entity_of(source).ok_or_else(|| silent("was not heard of"))?;
        let to = self.entity_of(target);
        let to = to.ok_or_else(|| nowhere(format!("node {target} was not heard of")))?;
        let Some(moves) = self.moves() else {
            return Err(nowhere(format!("node {source} is alone")));
        };
        let mut signal = None;
        let begun = py.detach(|| {
            let asked = moves.describe(from, origin, Deadline::after(DESCRIBE), || {
                guard::interrupted(&mut signal)
            });
            let found = asked.map_err(Unordered::Unknown)?;
            if found.epoch == 0 && found.kind.is_empty() {
                return Err(self.elsewhere(moves, origin, from));
            }
            moves.begin(found, to, opts.into()).map_err(Unordered::Refused)
        });
        if let Some(signal) = signal {
            return Err(signal);
        }
        let desk = begun.map_err(|error| match error {
            Unordered::Nowhere => DaemonNotFound::new_err((origin.get(),)),
            Unordered::Unknown(DescribeError::NoNode) => silent("is not alive"),
            Unordered::Unknown(DescribeError::Silent | DescribeError::Interrupted) => {
                silent("did not say what it has; nothing was ordered")
            }
            Unordered::Refused(BeginError::Closed) | Unordered::Unknown(DescribeError::Closed) => {
                LoopClosed::new_err(("Mesh",))
            }
            Unordered::Refused(BeginError::SameNode) => {
                InvalidArgument::new_err(("target_node", "must be another node than the source"))
            }
            Unordered::Refused(BeginError::NotOwner { node, .. }) if node == from => {
                silent("does not run it, or is not certain that it owns it; nothing was ordered")
            }
            Unordered::Refused(BeginError::NotOwner { node, epoch }) => {
                NotOwner::new_err((origin.get(), node.node_id().get(), epoch))
            }
            Unordered::Refused(BeginError::NoTarget) => nowhere(format!("node {target} is not alive")),
            Unordered::Refused(BeginError::AlreadyMigrating) => {
                let reason = Some(FailureReason::AlreadyMigrating);
                migration_error(py, "already_migrating", origin, None, reason, "")
            }
            Unordered::Refused(BeginError::Full) => errors::backpressure(py),
        })?;
        Ok(PyMove {
            desk,
            moves: Arc::clone(moves),
            said: Arc::clone(&self.said),
            lanes: self.runtime.lanes().clone(),
            born: Born::now(),
        })
    }
}

/// Why nothing was ordered.
enum Unordered {
    Unknown(DescribeError),
    /// The source neither has it nor knows who does.
    Nowhere,
    Refused(BeginError),
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyMove>()?;
    module.add_class::<PyPhases>()?;
    module.add_class::<PyMigrationStats>()?;
    module.add_class::<PyOrchestrator>()
}
