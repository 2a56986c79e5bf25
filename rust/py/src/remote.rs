//! `RemoteRuntime`: the daemons of another node, for a node that it lets do so.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshos_core::config::DaemonHostConfig;
use meshos_core::consumer::{Alarm, Position};
use meshos_core::digest::{self, Digest};
use meshos_core::id::{EntityId, NodeId, Origin};
use meshos_core::ownership::OwnershipRecord;
use meshos_core::remote_frame::{Reason, Refused, Request, cut};
use meshos_core::signal::DaemonRef;
use meshos_node::clock::Deadline;
use meshos_node::fed::Reader;
use meshos_node::feeds::Feeds;
use meshos_node::follow::{FollowError, Followed, Follower};
use meshos_node::remote::{CallError, Remote, Steward, refused};
use meshos_node::runtime::SpawnError;
use meshos_node::sync::Mutex;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyWeakrefMethods, PyWeakrefReference};

use crate::args;
use crate::causal::PyCausalEvent;
use crate::enter;
use crate::errors::{
    self, AlreadyRegistered, AlreadyStored, Backpressure, ChainContradiction, DaemonNotFound, FactoryNotFound,
    LoopClosed, NotOwner, NotReady, RemoteRefused, ShuttingDown, Unavailable,
};
use crate::event::PyDaemonRef;
use crate::factory::kind_name;
use crate::guard::{self, Born, entry, may_wait};
use crate::host::config_or_default;
use crate::identity::PyIdentity;
use crate::record::field::Field;
use crate::runtime::{self, PyRuntime};
use crate::send::Timeout;
use crate::snapshot::PyStateSnapshot;
use crate::stream::PyRolledBack;

/// Largest snapshot that is fetched.
const SNAPSHOT_BYTES_MAX: u64 = 1 << 30;

/// Does for other nodes what a runtime does for its own.
pub struct PySteward {
    /// It does not keep the runtime alive.
    runtime: Py<PyWeakrefReference>,
}

impl PySteward {
    /// That of a runtime.
    pub fn of(runtime: &Bound<'_, PyRuntime>) -> PyResult<Self> {
        let runtime = PyWeakrefReference::new(runtime.as_any())?.unbind();
        Ok(Self { runtime })
    }

    fn with<R>(&self, body: impl FnOnce(&Bound<'_, PyRuntime>) -> Result<R, Refused>) -> Result<R, Refused> {
        let gone = || refused(Reason::NotReady, "the runtime is shut down");
        Python::try_attach(|py| {
            let runtime = self.runtime.bind(py).upgrade_as::<PyRuntime>().ok().flatten();
            let runtime = runtime.ok_or_else(gone)?;
            body(&runtime)
        })
        .unwrap_or_else(|| Err(gone()))
    }
}

/// What another node is told of an exception.
fn told(error: &PyErr, py: Python<'_>) -> Refused {
    let reasons = [
        (py.get_type::<DaemonNotFound>(), Reason::NotFound),
        (py.get_type::<NotOwner>(), Reason::NotOwner),
        (py.get_type::<FactoryNotFound>(), Reason::NoFactory),
        (py.get_type::<AlreadyRegistered>(), Reason::Occupied),
        (py.get_type::<AlreadyStored>(), Reason::Stored),
        (py.get_type::<NotReady>(), Reason::NotReady),
        (py.get_type::<ShuttingDown>(), Reason::NotReady),
        (py.get_type::<Backpressure>(), Reason::Busy),
    ];
    let found = reasons.into_iter().find(|(class, _)| error.is_instance(py, class));
    let name = error
        .get_type(py)
        .name()
        .map(|name| name.to_string())
        .unwrap_or_default();
    let text = error.value(py).str().map(|text| text.to_string()).unwrap_or_default();
    Refused {
        reason: found.map_or(Reason::Failed, |(_, reason)| reason),
        owner: None,
        text: cut(&format!("{name}: {text}")),
    }
}

impl Steward for PySteward {
    fn spawn(&self, record: &OwnershipRecord, kind: &str, config: DaemonHostConfig) -> Result<(), Refused> {
        self.with(|runtime| {
            let py = runtime.py();
            let this = runtime.get();
            let made = this.made(py, PyString::new(py, kind).as_any());
            let daemon = made.map_err(|error| told(&error, py))?;
            let slot = this
                .runtime
                .spawn_given(record, config, daemon)
                .map_err(|error| match error {
                    SpawnError::NotOwner { node, epoch } => Refused {
                        reason: Reason::NotOwner,
                        owner: Some((node, epoch)),
                        text: String::new(),
                    },
                    error => told(&errors::spawn(error, record.entity().origin(), py), py),
                })?;
            PyRuntime::spawned(runtime, slot)
                .map(|_| ())
                .map_err(|error| told(&error, py))
        })
    }

    fn stop(&self, origin: Origin) -> Result<(), Refused> {
        self.with(|runtime| {
            let stopped = runtime.get().stop_one(runtime.py(), origin);
            stopped.map_err(|error| told(&error, runtime.py()))
        })
    }

    fn outputs(&self, reader: Reader, origin: Origin, after: u64) -> Result<(), Refused> {
        self.with(|runtime| {
            let py = runtime.py();
            let this = runtime.get();
            let slot = this
                .runtime
                .reach(origin)
                .map_err(|error| told(&errors::reach(error, py), py))?;
            let mut entered = enter::inspect(py, &slot).map_err(|error| told(&error, py))?;
            let opened = this.runtime.feed(&mut entered, reader, after);
            drop(entered);
            opened.map_err(Refused::from)
        })
    }

    fn snapshot(&self, origin: Origin) -> Result<Option<Vec<u8>>, Refused> {
        self.with(|runtime| {
            let py = runtime.py();
            let this = runtime.get();
            let taken = runtime::snapshot(py, &this.runtime, origin, "DaemonRuntime.snapshot");
            let taken = taken.map_err(|error| told(&error, py))?;
            let Some(taken) = taken else { return Ok(None) };
            let snapshot = Arc::clone(&taken.snapshot);
            Ok(Some(py.detach(move || snapshot.meta.to_bytes(snapshot.state.as_ref()))))
        })
    }
}

/// A follower, unless somebody reads or it is over.
struct Following {
    follower: Option<Box<Follower>>,
    is_closed: bool,
}

/// Where the outputs of a daemon of another node come from.
#[pyclass(frozen, name = "Follower", module = "meshos._core")]
pub struct PyFollower {
    state: Mutex<Following>,
    entity: EntityId,
    born: Born,
}

#[pymethods]
impl PyFollower {
    /// Wait for the next item; `None` when time is up.
    fn take(&self, py: Python<'_>, timeout: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
        entry("Stream.receive", || {
            self.born.check("Stream")?;
            let deadline = args::span(Some(timeout), "timeout")?.map_or_else(Deadline::never, Deadline::after);
            let Some(mut follower) = self.state.lock().follower.take() else {
                return Err(LoopClosed::new_err(("the stream",)));
            };
            let mut signal = None;
            let (next, node) = py.detach(|| {
                let next = follower.next(deadline, || guard::interrupted(&mut signal));
                let node = follower.node();
                // After an alarm nothing more comes.
                let is_over = matches!(next, Err(FollowError::Alarm(_) | FollowError::Lineage(_)));
                let left = {
                    let mut state = self.state.lock();
                    if is_over || state.is_closed {
                        Some(follower)
                    } else {
                        state.follower.replace(follower)
                    }
                };
                // It tells the owner that it is gone.
                drop(left);
                (next, node)
            });
            if let Some(signal) = signal {
                return Err(signal);
            }
            match next {
                Ok(None) => Ok(None),
                Ok(Some(Followed::Output { link, payload })) => {
                    let event = PyCausalEvent::now(link, PyBytes::new(py, &payload));
                    Ok(Some(Py::new(py, event)?.into_any()))
                }
                Ok(Some(Followed::RolledBack { after, through, epoch })) => {
                    let made = PyRolledBack { after, through, epoch };
                    Ok(Some(Py::new(py, made)?.into_any()))
                }
                Err(error) => Err(self.failed(node, error, py)),
            }
        })
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.end());
    }
}

impl Drop for PyFollower {
    fn drop(&mut self) {
        // What it tells the owner is not told while other threads wait for the interpreter.
        if self.state.lock().follower.is_some() {
            Python::attach(|py| py.detach(|| self.end()));
        }
    }
}

impl PyFollower {
    fn end(&self) {
        let gone = {
            let mut state = self.state.lock();
            state.is_closed = true;
            state.follower.take()
        };
        drop(gone);
    }

    fn failed(&self, node: EntityId, error: FollowError, py: Python<'_>) -> PyErr {
        let origin = self.entity.origin();
        match error {
            FollowError::Call(error) => failed(node, error, &of(origin), py),
            FollowError::Lineage(error) => errors::chain(&error),
            FollowError::Malformed => {
                RemoteRefused::new_err(("failed", node.node_id().get(), "what it sent is no part of a chain"))
            }
            FollowError::Alarm(alarm) => {
                let (kind, number) = match alarm {
                    Alarm::Lineage { epoch } => ("lineage", epoch),
                    Alarm::Parent { sequence } => ("parent", sequence),
                    Alarm::Altered { sequence } => ("altered", sequence),
                    Alarm::Overrun { from_sequence, .. } => ("overrun", from_sequence),
                    Alarm::Short { n } => ("short", n),
                };
                ChainContradiction::new_err((kind, origin.get(), node.node_id().get(), number))
            }
        }
    }
}

/// The daemons of another node, as far as it lets this one; the base of `meshos.compute.RemoteRuntime`.
#[pyclass(frozen, subclass, name = "RemoteCore", module = "meshos._core")]
pub struct PyRemoteCore {
    remote: Remote,
    feeds: Feeds,
    node: EntityId,
    born: Born,
}

/// What is asked, for what is said when it is refused.
struct Asked {
    origin: Origin,
    kind: String,
}

impl PyRemoteCore {
    fn call(
        &self,
        py: Python<'_>,
        place: &'static str,
        request: Request,
        asked: &Asked,
        timeout: &Timeout,
    ) -> PyResult<Option<Vec<u8>>> {
        self.born.check("RemoteRuntime")?;
        may_wait(place)?;
        crate::aio::may_block(py, place)?;
        let deadline = timeout.deadline();
        let mut signal = None;
        let ended = py.detach(|| {
            let pending = self.remote.call(self.node, request, SNAPSHOT_BYTES_MAX)?;
            pending.wait(deadline, || guard::interrupted(&mut signal))
        });
        match signal {
            Some(signal) => Err(signal),
            None => ended.map_err(|error| failed(self.node, error, asked, py)),
        }
    }
}

/// Why a call came to nothing.
fn failed(entity: EntityId, error: CallError, asked: &Asked, py: Python<'_>) -> PyErr {
    let node = entity.node_id();
    let unavailable = |text: String| Unavailable::new_err((node.get(), text));
    match error {
        CallError::Refused(refused) => refused_by(node, refused, asked, py),
        CallError::TooLarge { size } => {
            let message = format!("the snapshot has {size} bytes, at most {SNAPSHOT_BYTES_MAX} are fetched");
            RemoteRefused::new_err(("failed", node.get(), message))
        }
        CallError::Damaged => unavailable(format!("what node {node} sent is not the snapshot that it took")),
        CallError::Timeout => unavailable(format!(
            "node {node} did not answer in time; what was asked may still be done"
        )),
        CallError::Interrupted => PyKeyboardInterrupt::new_err(()),
        CallError::Closed => LoopClosed::new_err(("Mesh",)),
        CallError::Full => errors::backpressure(py),
    }
}

/// Why another node refused.
fn refused_by(node: NodeId, refused: Refused, asked: &Asked, py: Python<'_>) -> PyErr {
    let origin = asked.origin.get();
    let kind = match refused.reason {
        Reason::NotFound => return DaemonNotFound::new_err((origin,)),
        Reason::NotOwner => match refused.owner {
            Some((owner, epoch)) => return NotOwner::new_err((origin, owner.node_id().get(), epoch)),
            None => "failed",
        },
        Reason::NoFactory => return FactoryNotFound::new_err((asked.kind.clone(),)),
        Reason::Occupied => return AlreadyRegistered::new_err((origin,)),
        Reason::Stored => return AlreadyStored::new_err((origin,)),
        Reason::NotPermitted => "not_permitted",
        Reason::Busy => return errors::backpressure(py),
        Reason::NotReady => {
            return Unavailable::new_err((node.get(), format!("node {node} is not ready: {}", refused.text)));
        }
        Reason::Failed => "failed",
    };
    RemoteRefused::new_err((kind, node.get(), refused.text))
}

fn of(origin: Origin) -> Asked {
    let kind = String::new();
    Asked { origin, kind }
}

#[pymethods]
impl PyRemoteCore {
    #[new]
    fn new(runtime: &Bound<'_, PyAny>, node_id: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("DaemonRuntime.remote", || {
            let runtime = args::instance::<PyRuntime>(runtime, "runtime", "a DaemonRuntime")?.get();
            runtime.born.check("DaemonRuntime")?;
            let node = NodeId::from_python(node_id, "node_id")?;
            let entity = runtime.entity_of(node);
            let entity = entity.ok_or_else(|| {
                Unavailable::new_err((node.get(), format!("node {node} was not heard of: wait for it first")))
            })?;
            Ok(Self {
                remote: runtime.remote.clone(),
                feeds: runtime.runtime.feeds().clone(),
                node: entity,
                born: Born::now(),
            })
        })
    }

    #[getter]
    fn node_id(&self) -> u64 {
        self.node.node_id().get()
    }

    /// Start a daemon there.
    #[pyo3(signature = (kind, identity, config = None, *, timeout = Timeout::Default))]
    fn spawn(
        &self,
        kind: &Bound<'_, PyAny>,
        identity: &Bound<'_, PyAny>,
        config: Option<&Bound<'_, PyAny>>,
        timeout: Timeout,
    ) -> PyResult<PyDaemonRef> {
        entry("RemoteRuntime.spawn", || {
            let py = kind.py();
            let kind = kind_name(kind)?;
            let identity = args::instance::<PyIdentity>(identity, "identity", "an Identity")?.get();
            let config = config_or_default(config)?;
            let record = {
                let key = identity.key.lock();
                let genesis = digest::genesis(&key.entity_id(), &Digest::ZERO);
                OwnershipRecord::spawn(&key, self.node, genesis)
            };
            let record = Box::new(record.map_err(|error| errors::identity(&error))?);
            let origin = record.entity().origin();
            let asked = Asked {
                origin,
                kind: kind.clone(),
            };
            let request = Request::Spawn {
                record,
                kind: kind.clone(),
                config,
            };
            self.call(py, "RemoteRuntime.spawn", request, &asked, &timeout)?;
            Ok(PyDaemonRef(DaemonRef {
                id: origin,
                name: Arc::from(kind),
            }))
        })
    }

    /// Stop a daemon there.
    #[pyo3(signature = (origin_hash, *, timeout = Timeout::Default))]
    fn stop(&self, origin_hash: &Bound<'_, PyAny>, timeout: Timeout) -> PyResult<()> {
        entry("RemoteRuntime.stop", || {
            let origin = args::origin(origin_hash)?;
            let request = Request::Stop(origin);
            let done = self.call(origin_hash.py(), "RemoteRuntime.stop", request, &of(origin), &timeout);
            done.map(|_| ())
        })
    }

    /// Take a snapshot of a daemon there, and fetch it.
    #[pyo3(signature = (origin_hash, *, timeout = Timeout::Default))]
    fn snapshot(&self, origin_hash: &Bound<'_, PyAny>, timeout: Timeout) -> PyResult<Option<PyStateSnapshot>> {
        entry("RemoteRuntime.snapshot", || {
            let py = origin_hash.py();
            let origin = args::origin(origin_hash)?;
            let request = Request::Snapshot(origin);
            let fetched = self.call(py, "RemoteRuntime.snapshot", request, &of(origin), &timeout)?;
            let Some(bytes) = fetched else { return Ok(None) };
            PyStateSnapshot::read(&PyBytes::new(py, &bytes), SNAPSHOT_BYTES_MAX).map(Some)
        })
    }

    /// Begin to follow the chain of a daemon there.
    #[pyo3(signature = (entity_id, after = None))]
    fn _follow(&self, entity_id: &Bound<'_, PyAny>, after: Option<(u64, [u8; 32])>) -> PyResult<PyFollower> {
        entry("RemoteRuntime.follow", || {
            self.born.check("RemoteRuntime")?;
            let entity = EntityId::from_python(entity_id, "entity_id")?;
            let position = after.map_or_else(
                || Position::start(&entity),
                |(n, head)| Position::at(n, Digest::from_bytes(head)),
            );
            let follower = Follower::new(self.feeds.clone(), self.remote.clone(), self.node, entity, position);
            Ok(PyFollower {
                state: Mutex::new(Following {
                    follower: Some(Box::new(follower)),
                    is_closed: false,
                }),
                entity,
                born: Born::now(),
            })
        })
    }

    fn __repr__(&self) -> String {
        format!("RemoteRuntime(node_id=0x{})", self.node.node_id())
    }
}

/// The keys of nodes that may manage daemons here.
pub fn managers(nodes: &Bound<'_, PyAny>) -> PyResult<BTreeSet<EntityId>> {
    let wrong = || args::wrong_type("nodes", "an iterable of EntityId", nodes);
    let mut managers = BTreeSet::new();
    for node in nodes.try_iter().map_err(|_| wrong())? {
        managers.insert(EntityId::from_python(&node?, "nodes")?);
    }
    Ok(managers)
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyFollower>()?;
    module.add_class::<PyRemoteCore>()
}
