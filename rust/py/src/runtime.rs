//! `DaemonRuntime`, without its async twins, which are Python.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use meshos_core::config::DaemonHostConfig;
use meshos_core::export::ChainExport;
use meshos_core::id::{EntityId, NodeId, Origin};
use meshos_core::lifecycle::{Call, Lifecycle};
use meshos_core::name::ChannelName;
use meshos_core::token::PermissionToken;
use meshos_core::verify::verify;
use meshos_node::clock;
use meshos_node::daemon::Daemon;
use meshos_node::deliver::Taken;
use meshos_node::mover::{Accept, Factories, Mover};
use meshos_node::moves::Moves;
use meshos_node::pulse::Asking;
use meshos_node::remote::{Remote, Steward};
use meshos_node::runtime::{ExportError, ReachError, Runtime};
use meshos_node::slot::Slot;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyFrozenSet, PyList, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use crate::aio::Loop;
use crate::args;
use crate::away::Futures;
use crate::config::PyDaemonHostConfig;
use crate::control::extract_control;
use crate::daemon::PyDaemon;
use crate::dead_letter;
use crate::enter::{self, enter};
use crate::errors::{self, AlreadyRegistered, InvalidArgument};
use crate::factory::{PyFactories, kind_name};
use crate::guard::{self, Born, InUserCode, entry, may_wait};
use crate::handle::PyDaemonHandle;
use crate::identity::{PyIdentity, entity_id};
use crate::mesh::PyMesh;
use crate::moves::{Makers, PyMove, PyOrchestrator, Said};
use crate::ownership::PyOwnershipRecord;
use crate::receipt::PyReceipt;
use crate::record::field::{Field, Given, read};
use crate::record::word::choice;
use crate::recover;
use crate::registry::{self, PyRegistry};
use crate::remote::{self, PySteward};
use crate::snapshot::PyStateSnapshot;
use crate::subscribe;
use crate::threads;
use crate::verify::PyChainReport;

static LATER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Which daemons that are moved here are taken on.
const ACCEPT: &[(Accept, &str)] = &[(Accept::Kinds, "kinds"), (Accept::Expected, "expected")];

/// How often daemons are asked for health and load.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Keeps the daemons of one node; the base of `meshos.compute.DaemonRuntime`.
#[pyclass(frozen, subclass, name = "RuntimeCore", module = "meshos._core", weakref)]
pub struct PyRuntime {
    /// The runtime.
    pub runtime: Arc<Runtime<PyDaemon>>,
    mesh: Py<PyMesh>,
    registry: Py<PyRegistry>,
    /// The kinds.
    pub factories: Py<PyFactories>,
    /// Where coroutines of its daemons run.
    pub home: Arc<Loop>,
    /// How often daemons are asked for health and load.
    pub poll_interval: Duration,
    /// Keeps them asked, once there is one that reports.
    pub asking: OnceLock<Asking<PyDaemon>>,
    /// Calls to other nodes, and what they ask of this one.
    pub remote: Remote,
    steward: OnceLock<Arc<PySteward>>,
    /// Moves its daemons, and takes on those that come.
    pub mover: Arc<Mover<PyDaemon>>,
    makers: Arc<Makers>,
    /// What operators said when they ended moves.
    pub said: Arc<Said>,
    /// Who waits on a loop for what was sent to other nodes.
    pub futures: Arc<Futures>,
    /// In which process it was made.
    pub born: Born,
}

/// Whether a runtime was not shut down yet.
pub fn is_open(runtime: &Runtime<PyDaemon>) -> bool {
    runtime.lifecycle() != Lifecycle::ShuttingDown
}

/// Shuts a runtime down, waiting detached from the interpreter.
pub fn shut_down(py: Python<'_>, runtime: &Runtime<PyDaemon>, timeout: Duration) -> PyResult<()> {
    let mut signal = None;
    let ended = py.detach(|| runtime.shutdown(timeout, &mut || guard::interrupted(&mut signal)));
    if let Some(signal) = signal {
        return Err(signal);
    }
    if ended.stuck.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = ended.stuck.iter().map(ToString::to_string).collect();
    Err(errors::waited(
        &format!("the end of user code of {}", names.join(", ")),
        timeout,
        py,
    ))
}

/// Takes a snapshot of a daemon of a runtime.
pub fn snapshot(
    py: Python<'_>,
    runtime: &Runtime<PyDaemon>,
    origin: Origin,
    call: &'static str,
) -> PyResult<Option<PyStateSnapshot>> {
    may_wait(call)?;
    let slot = runtime.reach(origin).map_err(|error| errors::reach(error, py))?;
    let mut entered = enter(py, &slot)?;
    let taken = runtime
        .snapshot(&mut entered)
        .map_err(|error| errors::snapshot_failed(error, origin, py))?;
    drop(entered);
    let Some(taken) = taken else { return Ok(None) };
    shown(py, origin, taken).map(Some)
}

/// Waits, with nobody inside, until the store has a snapshot.
pub fn shown(py: Python<'_>, origin: Origin, taken: Taken<PyDaemon>) -> PyResult<PyStateSnapshot> {
    if let Some(keeping) = &taken.kept {
        enter::settled(py, origin, keeping)?;
    }
    Ok(PyStateSnapshot::new(taken.snapshot))
}

impl PyRuntime {
    /// Bytes that the store had at its end that were no whole commit.
    pub fn bytes_cut(&self) -> u64 {
        self.mesh.get().bytes_cut()
    }

    /// Key of a node: this one, or another that was heard of.
    pub fn entity_of(&self, node: NodeId) -> Option<EntityId> {
        self.mesh.get().entity_of(node)
    }

    /// Moves from and to its node; `None`: that is alone.
    pub fn moves(&self) -> Option<&Arc<Moves>> {
        self.mesh.get().moves()
    }

    /// The node that has the directory of its mesh.
    pub fn mesh_directory(&self) -> Option<EntityId> {
        self.mesh.get().ownership().map(|ownership| ownership.directory())
    }

    /// Its node.
    pub fn node_id(&self) -> NodeId {
        self.runtime.node().node_id()
    }

    /// Checks what is said of a daemon before it is moved here.
    fn expected(
        &self,
        kind: &Bound<'_, PyAny>,
        origin: Origin,
        config: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<(String, Option<DaemonHostConfig>)> {
        self.born.check("DaemonRuntime")?;
        let kind = kind_name(kind)?;
        let config = match config.filter(|config| !config.is_none()) {
            None => None,
            Some(config) => {
                let wanted = "a DaemonHostConfig or None";
                Some(args::instance::<PyDaemonHostConfig>(config, "config", wanted)?.get().0)
            }
        };
        self.factories.get().find(&kind)?;
        if self.runtime.registry().get(origin).is_some() {
            return Err(AlreadyRegistered::new_err((origin.get(),)));
        }
        Ok((kind, config))
    }

    /// Stops a daemon; nothing is wrong with one that is not there any more while the runtime shuts down.
    pub fn stop_one(&self, py: Python<'_>, origin: Origin) -> PyResult<()> {
        let state = self.runtime.allow(Call::Stop).map_err(errors::lifecycle)?;
        let Some(slot) = self.runtime.registry().get(origin) else {
            if state == Lifecycle::ShuttingDown {
                return Ok(());
            }
            let elsewhere = self.runtime.reach(origin).err();
            return Err(errors::reach(elsewhere.unwrap_or(ReachError::NotFound(origin)), py));
        };
        let entered = enter::inspect(py, &slot)?;
        self.runtime.stop(entered, clock::unix_ms());
        Ok(())
    }

    /// Checks that a call may be made here and now.
    #[inline]
    pub fn check(&self, call: &'static str) -> PyResult<()> {
        self.born.check("DaemonRuntime")?;
        may_wait(call)
    }

    /// Finds a daemon for a call that works with it.
    #[inline]
    pub fn reach(&self, origin_hash: &Bound<'_, PyAny>) -> PyResult<Arc<Slot<PyDaemon>>> {
        let origin = args::origin(origin_hash)?;
        self.runtime
            .reach(origin)
            .map_err(|error| errors::reach(error, origin_hash.py()))
    }

    /// Refuses a wait for a daemon on the loop that daemon needs.
    pub fn may_block(&self, py: Python<'_>, slot: &Slot<PyDaemon>, call: &'static str) -> PyResult<()> {
        if slot.is_async() {
            self.home.may_block(py, call)
        } else {
            crate::aio::may_block(py, call)
        }
    }
}

#[pymethods]
impl PyRuntime {
    #[new]
    #[pyo3(
        signature = (mesh, *, accept_migrations = Given::Not, r#loop = None, poll_interval = None),
        text_signature = "(mesh, *, accept_migrations='kinds', loop=None, poll_interval=None)"
    )]
    fn new(
        mesh: &Bound<'_, PyAny>,
        accept_migrations: Given<'_>,
        r#loop: Option<&Bound<'_, PyAny>>,
        poll_interval: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        entry("DaemonRuntime", || {
            let py = mesh.py();
            let mesh = args::instance::<PyMesh>(mesh, "mesh", "a Mesh")?;
            let accept = accept_migrations.map_or(Accept::Kinds, |given| choice(given, "accept_migrations", ACCEPT))?;
            let poll_interval = args::span(poll_interval, "poll_interval")?.unwrap_or(POLL_INTERVAL);
            if poll_interval < Duration::from_millis(1) {
                return Err(InvalidArgument::new_err((
                    "poll_interval",
                    "must be at least one millisecond",
                )));
            }
            let chosen = r#loop.filter(|chosen| !chosen.is_none());
            if let Some(chosen) = chosen
                && !chosen.hasattr("call_soon_threadsafe")?
            {
                return Err(args::wrong_type("loop", "an asyncio event loop or None", chosen));
            }
            let node = Arc::clone(mesh.get().node());
            let carrier = mesh.get().carrier().clone();
            let runtime = Runtime::with_carrier(node, threads::daemon_lanes(py)?, mesh.get().stores(), carrier);
            let runtime = match mesh.get().ownership() {
                Some(ownership) => runtime.owned_by(Arc::clone(ownership)),
                None => runtime,
            };
            let runtime = Arc::new(runtime);
            mesh.get().attach(&runtime)?;
            let remote = Remote::new(mesh.get().carrier().clone(), runtime.lanes().clone());
            let registry = Arc::clone(runtime.registry());
            runtime.with_channels(mesh.get().channels());
            let factories = PyFactories::new(Arc::clone(&registry));
            let makers = Makers::new(Arc::clone(&factories.names));
            let mover = Mover::new(&runtime, Arc::clone(&makers) as Arc<dyn Factories<PyDaemon>>);
            mover.accept(accept);
            factories.moved_by(&mover);
            Ok(Self {
                registry: Py::new(py, PyRegistry::of(registry))?,
                factories: Py::new(py, factories)?,
                mover,
                makers,
                said: Arc::default(),
                futures: Futures::new(runtime.lanes().clone()),
                runtime,
                mesh: mesh.clone().unbind(),
                home: Loop::new(chosen.map(|chosen| chosen.clone().unbind())),
                poll_interval,
                asking: OnceLock::new(),
                remote,
                steward: OnceLock::new(),
                born: Born::now(),
            })
        })
    }

    fn mesh(&self, py: Python<'_>) -> Py<PyMesh> {
        self.mesh.clone_ref(py)
    }

    fn clone(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn register_factory(&self, kind: &Bound<'_, PyAny>, factory: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("DaemonRuntime.register_factory", || {
            self.born.check("DaemonRuntime")?;
            self.runtime.allow(Call::RegisterFactory).map_err(errors::lifecycle)?;
            self.factories.get().add(kind, factory)
        })
    }

    fn start(slf: &Bound<'_, Self>) -> PyResult<()> {
        entry("DaemonRuntime.start", || {
            let this = slf.get();
            this.born.check("DaemonRuntime")?;
            this.makers.begin(slf)?;
            this.runtime.start().map_err(errors::lifecycle)?;
            if let (Some(moves), Some(hands)) = (this.moves(), this.runtime.hands()) {
                moves.serve(Arc::downgrade(hands));
            }
            if this.steward.get().is_none() {
                let steward = Arc::new(PySteward::of(slf)?);
                let serves: Arc<dyn Steward> = Arc::clone(this.steward.get_or_init(|| steward)) as Arc<dyn Steward>;
                this.remote.serve(Arc::downgrade(&serves));
            }
            Ok(())
        })
    }

    /// Let these nodes spawn, stop, snapshot and move daemons here, and no others.
    fn permit_managers(&self, nodes: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("DaemonRuntime.permit_managers", || {
            self.born.check("DaemonRuntime")?;
            let managers = remote::managers(nodes)?;
            if let Some(moves) = self.moves() {
                moves.permit(managers.clone());
            }
            self.remote.permit(managers);
            Ok(())
        })
    }

    /// The nodes that may spawn, stop, snapshot and move daemons here.
    fn managers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFrozenSet>> {
        entry("DaemonRuntime.managers", || {
            self.born.check("DaemonRuntime")?;
            let managers = self.remote.managers().into_iter();
            let managers: Vec<_> = managers.map(|node| entity_id(py, node)).collect::<PyResult<_>>()?;
            PyFrozenSet::new(py, managers)
        })
    }

    /// Becomes Ready, with the running loop as the home of coroutines unless another was chosen.
    fn _start_on(slf: &Bound<'_, Self>, event_loop: Bound<'_, PyAny>) -> PyResult<()> {
        slf.get().home.choose(event_loop);
        Self::start(slf)
    }

    #[pyo3(signature = (*, timeout = None))]
    fn shutdown(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        entry("DaemonRuntime.shutdown", || {
            self.check("DaemonRuntime.shutdown")?;
            let timeout = args::span(timeout, "timeout")?.unwrap_or(Duration::from_secs(5));
            let outcome = shut_down(py, &self.runtime, timeout);
            self.remote.close();
            self.factories.get().clear();
            outcome
        })
    }

    /// Answer moves to this node with "not ready"; for tests.
    fn simulate_not_ready(&self, flag: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("DaemonRuntime.simulate_not_ready", || {
            self.born.check("DaemonRuntime")?;
            self.mover.simulate_not_ready(read(flag, "flag")?);
            Ok(())
        })
    }

    /// Accept this daemon when it is moved here.
    #[pyo3(signature = (kind, origin_hash, config = None))]
    fn expect_migration(
        &self,
        kind: &Bound<'_, PyAny>,
        origin_hash: &Bound<'_, PyAny>,
        config: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        entry("DaemonRuntime.expect_migration", || {
            let origin = args::origin(origin_hash)?;
            let (kind, config) = self.expected(kind, origin, config)?;
            self.mover.expect(&kind, origin, config);
            Ok(())
        })
    }

    /// Accept this daemon when it is moved here, and have its key here already.
    #[pyo3(signature = (kind, identity, config = None))]
    fn register_migration_target_identity(
        &self,
        kind: &Bound<'_, PyAny>,
        identity: &Bound<'_, PyAny>,
        config: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        entry("DaemonRuntime.register_migration_target_identity", || {
            let identity = args::instance::<PyIdentity>(identity, "identity", "an Identity")?.get();
            let (kind, config) = self.expected(kind, identity.id().origin(), config)?;
            self.mover.provide(&kind, Arc::clone(&identity.key), config);
            Ok(())
        })
    }

    fn migration_orchestrator(&self) -> PyOrchestrator {
        self.orchestrator()
    }

    /// The phase of the move of a daemon that was ordered here; `None`: there is none, or it is over.
    fn migration_phase<'py>(&self, origin_hash: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        entry("DaemonRuntime.migration_phase", || {
            self.born.check("DaemonRuntime")?;
            let (py, origin) = (origin_hash.py(), args::origin(origin_hash)?);
            py.detach(|| self.stage(origin)).to_python(py)
        })
    }

    /// Orders a move.
    #[pyo3(signature = (origin_hash, source_node, target_node, opts = None))]
    fn _start_migration(
        &self,
        origin_hash: &Bound<'_, PyAny>,
        source_node: &Bound<'_, PyAny>,
        target_node: &Bound<'_, PyAny>,
        opts: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PyMove> {
        entry("DaemonRuntime.start_migration", || {
            self.order_move(origin_hash, source_node, target_node, opts)
        })
    }

    fn is_ready(&self) -> bool {
        self.runtime.lifecycle() == Lifecycle::Ready
    }

    fn daemon_count(&self) -> usize {
        self.runtime.registry().count()
    }

    fn daemon_registry(&self, py: Python<'_>) -> Py<PyRegistry> {
        self.registry.clone_ref(py)
    }

    fn factory_registry(&self, py: Python<'_>) -> Py<PyFactories> {
        self.factories.clone_ref(py)
    }

    /// Brings back what is stored: for each daemon its handle, kind and what came of it; kinds without a factory; and
    /// bytes that the store had to cut.
    fn _recover(slf: &Bound<'_, Self>) -> PyResult<(Vec<recover::Row>, Vec<String>, u64)> {
        entry("DaemonRuntime.recover", || {
            slf.get().check("DaemonRuntime.recover")?;
            Self::recover(slf)
        })
    }

    #[pyo3(signature = (kind, identity, config = None, *, resume = false))]
    fn spawn(
        slf: &Bound<'_, Self>,
        kind: &Bound<'_, PyAny>,
        identity: &Bound<'_, PyAny>,
        config: Option<&Bound<'_, PyAny>>,
        resume: bool,
    ) -> PyResult<PyDaemonHandle> {
        entry("DaemonRuntime.spawn", || {
            slf.get().check("DaemonRuntime.spawn")?;
            if resume && let Some(handle) = Self::resumed(slf, kind, identity)? {
                return Ok(handle);
            }
            Self::start_fresh(slf, identity, config, || slf.get().made(slf.py(), kind))
        })
    }

    #[pyo3(signature = (identity, config, daemon, kind_factory, *, kind = None))]
    fn spawn_with_daemon(
        slf: &Bound<'_, Self>,
        identity: &Bound<'_, PyAny>,
        config: &Bound<'_, PyAny>,
        daemon: &Bound<'_, PyAny>,
        kind_factory: &Bound<'_, PyAny>,
        kind: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PyDaemonHandle> {
        entry("DaemonRuntime.spawn_with_daemon", || {
            slf.get().check("DaemonRuntime.spawn_with_daemon")?;
            Self::start_fresh(slf, identity, Some(config), || {
                slf.get().given(daemon, kind_factory, kind)
            })
        })
    }

    #[pyo3(signature = (kind, identity, snapshot, config = None, *, rewind = false))]
    fn spawn_from_snapshot(
        slf: &Bound<'_, Self>,
        kind: &Bound<'_, PyAny>,
        identity: &Bound<'_, PyAny>,
        snapshot: &Bound<'_, PyAny>,
        config: Option<&Bound<'_, PyAny>>,
        rewind: bool,
    ) -> PyResult<PyDaemonHandle> {
        entry("DaemonRuntime.spawn_from_snapshot", || {
            slf.get().check("DaemonRuntime.spawn_from_snapshot")?;
            Self::start_after(slf, identity, snapshot, config, rewind, || {
                slf.get().made(slf.py(), kind)
            })
        })
    }

    #[expect(clippy::too_many_arguments, reason = "the seed's signature")]
    #[pyo3(signature = (identity, snapshot, config, daemon, kind_factory, *, kind = None, rewind = false))]
    fn spawn_from_snapshot_with_daemon(
        slf: &Bound<'_, Self>,
        identity: &Bound<'_, PyAny>,
        snapshot: &Bound<'_, PyAny>,
        config: &Bound<'_, PyAny>,
        daemon: &Bound<'_, PyAny>,
        kind_factory: &Bound<'_, PyAny>,
        kind: Option<&Bound<'_, PyAny>>,
        rewind: bool,
    ) -> PyResult<PyDaemonHandle> {
        entry("DaemonRuntime.spawn_from_snapshot_with_daemon", || {
            slf.get().check("DaemonRuntime.spawn_from_snapshot_with_daemon")?;
            Self::start_after(slf, identity, snapshot, Some(config), rewind, || {
                slf.get().given(daemon, kind_factory, kind)
            })
        })
    }

    fn find(slf: &Bound<'_, Self>, origin_hash: &Bound<'_, PyAny>) -> PyResult<Option<PyDaemonHandle>> {
        let this = slf.get();
        this.born.check("DaemonRuntime")?;
        let slot = this.runtime.registry().get(args::origin(origin_hash)?);
        Ok(slot.map(|slot| PyDaemonHandle::new(slot, slf)))
    }

    /// The newest record of who owns a daemon, as far as this node knows.
    fn owner(&self, origin_hash: &Bound<'_, PyAny>) -> PyResult<Option<PyOwnershipRecord>> {
        entry("DaemonRuntime.owner", || {
            self.born.check("DaemonRuntime")?;
            let origin = args::origin(origin_hash)?;
            let owner = origin_hash.py().detach(|| {
                self.runtime
                    .ownership()
                    .and_then(|ownership| ownership.record_of(origin))
            });
            Ok(owner.map(PyOwnershipRecord))
        })
    }

    fn stop(&self, origin_hash: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("DaemonRuntime.stop", || {
            self.check("DaemonRuntime.stop")?;
            self.stop_one(origin_hash.py(), args::origin(origin_hash)?)
        })
    }

    fn snapshot(&self, origin_hash: &Bound<'_, PyAny>) -> PyResult<Option<PyStateSnapshot>> {
        entry("DaemonRuntime.snapshot", || {
            self.born.check("DaemonRuntime")?;
            snapshot(
                origin_hash.py(),
                &self.runtime,
                args::origin(origin_hash)?,
                "DaemonRuntime.snapshot",
            )
        })
    }

    /// The newest snapshot that was taken of a daemon here, or that it started from; calls no user code.
    fn newest_snapshot(&self, origin_hash: &Bound<'_, PyAny>) -> PyResult<Option<PyStateSnapshot>> {
        entry("DaemonRuntime.newest_snapshot", || {
            self.check("DaemonRuntime.newest_snapshot")?;
            let slot = self.reach(origin_hash)?;
            let entered = enter::inspect(origin_hash.py(), &slot)?;
            Ok(entered
                .newest
                .as_ref()
                .map(|newest| PyStateSnapshot::new(Arc::clone(newest))))
        })
    }

    fn export_chain(&self, origin_hash: &Bound<'_, PyAny>, file: PathBuf) -> PyResult<PyChainReport> {
        entry("DaemonRuntime.export_chain", || {
            self.check("DaemonRuntime.export_chain")?;
            let py = origin_hash.py();
            let slot = self.reach(origin_hash)?;
            let mut entered = enter::inspect(py, &slot)?;
            let exported = self.runtime.export(&mut entered).map_err(|error| match error {
                ExportError::Key(error) => errors::identity(&error),
                ExportError::NotKept(error) => errors::store(&error, ""),
            })?;
            drop(entered);
            let events: Vec<_> = exported.events.iter().map(PyDaemon::parts).collect();
            let report = verify(
                &events,
                &exported.checkpoints,
                &exported.certificates,
                &exported.entity,
                &[],
            )
            .map_err(|error| errors::chain(&error))?;
            let (entity, certificates, checkpoints) = (exported.entity, exported.certificates, exported.checkpoints);
            let bytes = ChainExport {
                entity,
                certificates,
                checkpoints,
                events,
            }
            .encode();
            let bytes = bytes.map_err(|error| PyValueError::new_err(error.to_string()))?;
            py.detach(|| write_new(&file, &bytes))?;
            Ok(PyChainReport::new(report))
        })
    }

    fn with_daemon<'py>(
        &self,
        origin_hash: &Bound<'py, PyAny>,
        daemon: &Bound<'py, PyAny>,
        function: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        entry("DaemonRuntime.with_daemon", || {
            self.check("DaemonRuntime.with_daemon")?;
            let py = origin_hash.py();
            let class = daemon
                .cast::<PyType>()
                .map_err(|_| args::wrong_type("daemon", "a class", daemon))?;
            if !function.is_callable() {
                return Err(args::wrong_type("function", "callable", function));
            }
            let slot = self.reach(origin_hash)?;
            let entered = enter(py, &slot)?;
            let object = entered.daemon.object(py).clone();
            if !object.is_instance(class)? {
                return Err(args::wrong_type("the daemon", &format!("a {}", class.name()?), &object));
            }
            let _inside = InUserCode::begin();
            function.call1((object,))
        })
    }

    /// Wait until something holds of a daemon.
    #[pyo3(signature = (origin_hash, daemon, predicate, *, timeout))]
    fn wait_for(
        &self,
        origin_hash: &Bound<'_, PyAny>,
        daemon: &Bound<'_, PyAny>,
        predicate: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        entry("DaemonRuntime.wait_for", || {
            self.check("DaemonRuntime.wait_for")?;
            let class = daemon
                .cast::<PyType>()
                .map_err(|_| args::wrong_type("daemon", "a class", daemon))?;
            if !predicate.is_callable() {
                return Err(args::wrong_type("predicate", "callable", predicate));
            }
            let slot = self.reach(origin_hash)?;
            subscribe::wait_for(self, &slot, class, predicate, timeout)
        })
    }

    /// The subscriptions of a daemon.
    fn subscriptions<'py>(&self, origin_hash: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
        entry("DaemonRuntime.subscriptions", || {
            self.born.check("DaemonRuntime")?;
            subscribe::subscriptions(origin_hash.py(), &*self.reach(origin_hash)?)
        })
    }

    /// Subscribe a daemon to a channel, from now on.
    #[pyo3(signature = (origin_hash, publisher, channel, token = None, *, queue_group = None))]
    fn subscribe_channel(
        &self,
        origin_hash: &Bound<'_, PyAny>,
        publisher: &Bound<'_, PyAny>,
        channel: &Bound<'_, PyAny>,
        token: Option<&Bound<'_, PyAny>>,
        queue_group: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        entry("DaemonRuntime.subscribe_channel", || {
            self.check("DaemonRuntime.subscribe_channel")?;
            let py = origin_hash.py();
            let publisher = NodeId::from_python(publisher, "publisher")?;
            let channel = ChannelName::from_python(channel, "channel")?;
            let token = token.map(|token| PermissionToken::from_python(token, "token"));
            let group = queue_group.map(|group| ChannelName::from_python(group, "queue_group"));
            let (token, group) = (token.transpose()?, group.transpose()?);
            let slot = self.reach(origin_hash)?;
            subscribe::subscribe(py, self, &slot, publisher, &channel, token.as_ref(), group)
        })
    }

    /// End a subscription of a daemon.
    fn unsubscribe_channel(
        &self,
        origin_hash: &Bound<'_, PyAny>,
        publisher: &Bound<'_, PyAny>,
        channel: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        entry("DaemonRuntime.unsubscribe_channel", || {
            self.check("DaemonRuntime.unsubscribe_channel")?;
            let publisher = NodeId::from_python(publisher, "publisher")?;
            let channel = ChannelName::from_python(channel, "channel")?;
            let slot = self.reach(origin_hash)?;
            subscribe::unsubscribe(origin_hash.py(), self, &slot, publisher, &channel)
        })
    }

    /// Give a daemon a control, between two events.
    fn control(&self, origin_hash: &Bound<'_, PyAny>, control: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("DaemonRuntime.control", || {
            self.check("DaemonRuntime.control")?;
            let control = extract_control(control)?;
            registry::control_one(origin_hash.py(), &self.reach(origin_hash)?, control)
        })
    }

    fn deliver<'py>(&self, origin_hash: &Bound<'py, PyAny>, event: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        entry("DaemonRuntime.deliver", || {
            self.check("DaemonRuntime.deliver")?;
            enter::deliver(event.py(), self.reach(origin_hash)?, event)
        })
    }

    fn deliver_many<'py>(
        &self,
        origin_hash: &Bound<'py, PyAny>,
        events: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        entry("DaemonRuntime.deliver_many", || {
            self.check("DaemonRuntime.deliver_many")?;
            enter::deliver_many(events.py(), &self.reach(origin_hash)?, events)
        })
    }

    #[pyo3(signature = (origin_hash, event, *, timeout = crate::send::Timeout::Default))]
    fn send(
        &self,
        origin_hash: &Bound<'_, PyAny>,
        event: &Bound<'_, PyAny>,
        timeout: crate::send::Timeout,
    ) -> PyResult<Py<PyAny>> {
        entry("DaemonRuntime.send", || {
            self.check("DaemonRuntime.send")?;
            crate::send::one(self, origin_hash, event, timeout)
        })
    }

    #[pyo3(signature = (origin_hash, events, *, timeout = crate::send::Timeout::Default))]
    fn send_many<'py>(
        &self,
        origin_hash: &Bound<'py, PyAny>,
        events: &Bound<'py, PyAny>,
        timeout: crate::send::Timeout,
    ) -> PyResult<Bound<'py, PyList>> {
        entry("DaemonRuntime.send_many", || {
            self.check("DaemonRuntime.send_many")?;
            crate::send::many(self, origin_hash, events, timeout)
        })
    }

    /// Mails an event for its outputs. Called without a running loop it is a coroutine that does so when it is run.
    fn deliver_async<'py>(
        slf: &Bound<'py, Self>,
        origin_hash: &Bound<'py, PyAny>,
        event: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        entry("DaemonRuntime.deliver_async", || {
            let this = slf.get();
            this.check("DaemonRuntime.deliver_async")?;
            match crate::send::deliver_soon(this, origin_hash, event)? {
                Some(reply) => Ok(reply),
                None => LATER
                    .import(slf.py(), "meshos._twins", "deliver_later")?
                    .call1((slf, origin_hash, event)),
            }
        })
    }

    fn post(&self, origin_hash: &Bound<'_, PyAny>, event: &Bound<'_, PyAny>) -> PyResult<u64> {
        entry("DaemonRuntime.post", || {
            self.born.check("DaemonRuntime")?;
            crate::send::post_one(self, origin_hash, event)
        })
    }

    /// The dead letters of a daemon: number, event, tries, class name and text of the last exception, and when.
    fn _dead_letters(&self, origin_hash: &Bound<'_, PyAny>) -> PyResult<(String, Vec<dead_letter::Row>)> {
        entry("DaemonRuntime.dead_letters", || {
            self.check("DaemonRuntime.dead_letters")?;
            dead_letter::list(origin_hash.py(), &self.reach(origin_hash)?)
        })
    }

    /// Tries a dead letter once more.
    fn _retry_dead_letter(
        &self,
        origin_hash: &Bound<'_, PyAny>,
        number: u64,
        event: &Bound<'_, PyAny>,
    ) -> PyResult<PyReceipt> {
        entry("DaemonRuntime.retry_dead_letter", || {
            self.check("DaemonRuntime.retry_dead_letter")?;
            dead_letter::retry(&self.reach(origin_hash)?, number, event)
        })
    }

    /// Lets a dead letter go.
    fn _discard_dead_letter(
        &self,
        origin_hash: &Bound<'_, PyAny>,
        number: u64,
        event: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        entry("DaemonRuntime.discard_dead_letter", || {
            self.check("DaemonRuntime.discard_dead_letter")?;
            dead_letter::discard(&self.reach(origin_hash)?, number, event)
        })
    }

    /// Gives up waiting for an event; `False`: it had not left the node, and never takes effect.
    fn _give_up(&self, origin_hash: &Bound<'_, PyAny>, event_origin: u64, sequence: u64) -> PyResult<bool> {
        entry("DaemonRuntime.send_async", || {
            let to = args::origin(origin_hash)?;
            let origin = Origin::new(event_origin);
            Ok(self.runtime.router().give_up(to, origin, sequence))
        })
    }

    /// Mails an event for its receipt; returns what stands for it, and the event's origin and number.
    fn _send_soon<'py>(
        &self,
        origin_hash: &Bound<'py, PyAny>,
        event: &Bound<'py, PyAny>,
    ) -> PyResult<Option<(Bound<'py, PyAny>, u64, u64)>> {
        entry("DaemonRuntime.send_async", || {
            self.check("DaemonRuntime.send_async")?;
            crate::send::send_soon(self, origin_hash, event)
        })
    }

    fn __repr__(&self) -> String {
        format!(
            "DaemonRuntime({:?}, <{} daemons>)",
            self.runtime.lifecycle(),
            self.runtime.registry().count()
        )
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.mesh)?;
        visit.call(&self.registry)?;
        visit.call(&self.factories)?;
        self.runtime.peek_dormant(|daemon| daemon.traverse(&visit))?;
        self.home.traverse(&visit)
    }
}

/// Writes a new file, whole or not at all.
fn write_new(file: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let mut created = std::fs::OpenOptions::new().write(true).create_new(true).open(file)?;
    let written = created.write_all(bytes).and_then(|()| created.sync_all());
    if written.is_err() {
        drop(created);
        let _ = std::fs::remove_file(file);
    }
    written
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyRuntime>()
}
