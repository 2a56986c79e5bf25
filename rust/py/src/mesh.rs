//! `Mesh`: one node, alone or among others of this process, and what it sees of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use meshos_core::capability::CapabilitySet;
use meshos_core::channel_policy::ChannelPolicy;
use meshos_core::engine::Engine;
use meshos_core::frame::{MeshId, Refusal};
use meshos_core::heartbeat::CAPABILITIES_BYTES_MAX;
use meshos_core::id::{EntityId, NodeId};
use meshos_core::identity::Keypair;
use meshos_core::name::ChannelName;
use meshos_core::presence::{Members, PeerState};
use meshos_core::token::PermissionToken;
use meshos_node::carrier::Carrier;
use meshos_node::channel_rows;
use meshos_node::channels::Channels;
use meshos_node::clock::Deadline;
use meshos_node::journal::Stores;
use meshos_node::keys;
use meshos_node::local_engine::LocalNetwork;
use meshos_node::mesh::{JoinError, Mesh, MeshConfig, MeshStats, PeerView, PeerWaitError, wait_for_nobody};
use meshos_node::mesh_probes::MeshProbe;
use meshos_node::moves::Moves;
use meshos_node::ownership::Ownership;
use meshos_node::router::Vacant;
use meshos_node::runtime::Runtime;
use meshos_node::sync::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMappingProxy, PyTuple};

use crate::args;
use crate::capability::{Offered, PyCapabilitySet};
use crate::channels;
use crate::daemon::PyDaemon;
use crate::errors::{self, AlreadyRegistered, ConfigError, InvalidArgument, LoopClosed};
use crate::guard::{self, Born, entry, may_wait};
use crate::identity::{entity_id, own_key};
use crate::ownership::{self, PyOwnershipDirectory, PyOwnershipStats};
use crate::probes::PyProbeRegistry;
use crate::record::field::{Field, Given, read};
use crate::record::moment::Moment;
use crate::record::record;
use crate::record::word::literal;
use crate::runtime;
use crate::send::Timeout;
use crate::store::PyStore;
use crate::token::{self, PyChannelPolicy, PyPermissionToken};

/// Nodes of one cluster at most.
const NODES_MAX: u64 = 4096;

literal! {
    PeerState {
        Alive = "alive",
        Suspect = "suspect",
        Dead = "dead",
    }
}

record! {
    /// Another node, as this one sees it.
    pub struct PyPeer in "meshos.mesh" as "Peer", by keyword {
        /// Its handle.
        node_id: NodeId,
        /// Its key.
        entity_id: EntityId,
        /// How it looks.
        state: PeerState,
        /// When its last heartbeat was heard.
        last_heard_at: Moment,
        /// The last round trip measured.
        rtt: Option<Duration>,
        /// What it offers.
        capabilities: Offered,
    }
}

impl From<PeerView> for PyPeer {
    fn from(peer: PeerView) -> Self {
        Self {
            node_id: peer.node,
            entity_id: peer.entity,
            state: peer.state,
            last_heard_at: Moment::of(peer.heard_at),
            // As fine as a `timedelta`, so that a copy is equal.
            rtt: peer
                .rtt
                .map(|rtt| Duration::from_micros(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX))),
            capabilities: Offered(Arc::clone(&peer.beat.heartbeat.capabilities)),
        }
    }
}

record! {
    /// What happened at a node since it joined.
    pub struct PyMeshStats in "meshos.mesh" as "MeshStats", by keyword {
        /// Heartbeats that it sent.
        beats_sent: u64,
        /// Heartbeats that it took.
        beats_heard: u64,
        /// Times that it was held up for so long that it could not judge others.
        stalls: u64,
        /// Dead peers that gave way to new ones.
        peers_replaced: u64,
        /// Frames for which there was no place.
        refused_full: u64,
        /// Frames that could not be read.
        refused_malformed: u64,
        /// Frames of another mesh.
        refused_other_mesh: u64,
        /// Frames for another node.
        refused_not_for_us: u64,
        /// Frames that named this node as their sender.
        refused_ourselves: u64,
        /// Frames of nobody in this mesh.
        refused_unknown_sender: u64,
        /// Frames of an earlier start of their sender.
        refused_other_run: u64,
        /// Frames that nobody takes.
        refused_unknown_kind: u64,
        /// Frames that were altered, or that another node made.
        refused_bad_seal: u64,
        /// Frames that were taken before.
        refused_replayed: u64,
        /// Frames that were too late to know whether they were taken before.
        refused_too_late: u64,
        /// Heartbeats of more nodes than are looked after.
        refused_crowded: u64,
    }
}

impl From<MeshStats> for PyMeshStats {
    fn from(stats: MeshStats) -> Self {
        let of = |word: &str| {
            let at = Refusal::WORDS.iter().position(|known| *known == word);
            at.map_or(0, |at| stats.refused[at])
        };
        Self {
            beats_sent: stats.presence.beats,
            beats_heard: stats.presence.heard,
            stalls: stats.presence.stalls,
            peers_replaced: stats.presence.replaced,
            refused_full: of("full"),
            refused_malformed: of("malformed"),
            refused_other_mesh: of("other_mesh"),
            refused_not_for_us: of("not_for_us"),
            refused_ourselves: of("ourselves"),
            refused_unknown_sender: of("unknown_sender"),
            refused_other_run: of("other_run"),
            refused_unknown_kind: of("unknown_kind"),
            refused_bad_seal: of("bad_seal"),
            refused_replayed: of("replayed"),
            refused_too_late: of("too_late"),
            refused_crowded: of("crowded"),
        }
    }
}

#[derive(Default)]
struct State {
    runtime: Weak<Runtime<PyDaemon>>,
    closed: bool,
}

/// One node. Its key never leaves the extension.
#[pyclass(frozen, name = "Mesh", module = "meshos.mesh", weakref)]
pub struct PyMesh {
    node: Arc<Keypair>,
    store: Py<PyStore>,
    born: Born,
    state: Mutex<State>,
    /// The others; `None`: it is alone.
    mesh: Option<Mesh>,
    carrier: Carrier,
    /// Answers while there is no runtime.
    _vacant: Option<Arc<Vacant>>,
    /// Who may run which daemon; `None`: it is alone.
    ownership: Option<Arc<Ownership>>,
    channels: Channels,
    /// Moves from and to here; `None`: it is alone.
    moves: Option<Arc<Moves>>,
}

impl PyMesh {
    /// The node's key.
    pub fn node(&self) -> &Arc<Keypair> {
        &self.node
    }

    /// The way to the other nodes, and to itself.
    pub fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// The channels of the node.
    pub fn channels(&self) -> &Channels {
        &self.channels
    }

    /// Key of a node: this one, or another that was heard of.
    pub fn entity_of(&self, node: NodeId) -> Option<EntityId> {
        if node == self.node.node_id() {
            return Some(self.node.entity_id());
        }
        self.mesh.as_ref()?.peer(node).map(|peer| peer.entity)
    }

    /// Gives handles on the store.
    pub fn stores(&self) -> Stores {
        self.store.get().stores()
    }

    /// Bytes that the store had at its end that were no whole commit.
    pub fn bytes_cut(&self) -> u64 {
        self.store.get().bytes_cut()
    }

    /// Attaches a runtime; a node has one at a time.
    pub fn attach(&self, runtime: &Arc<Runtime<PyDaemon>>) -> PyResult<()> {
        self.born.check("Mesh")?;
        let mut state = self.state.lock();
        if state.closed {
            return Err(LoopClosed::new_err(("Mesh",)));
        }
        if state.runtime.upgrade().is_some_and(|other| runtime::is_open(&other)) {
            return Err(AlreadyRegistered::new_err((self.node.node_id().get(),)));
        }
        self.store.get().used_by(runtime)?;
        state.runtime = Arc::downgrade(runtime);
        Ok(())
    }

    /// Who may run which daemon; `None`: the node is alone.
    pub fn ownership(&self) -> Option<&Arc<Ownership>> {
        self.ownership.as_ref()
    }

    /// Moves from and to here; `None`: the node is alone.
    pub fn moves(&self) -> Option<&Arc<Moves>> {
        self.moves.as_ref()
    }

    fn of(py: Python<'_>, store: Py<PyStore>, mesh: Option<Mesh>, ownership: Option<Arc<Ownership>>) -> PyResult<Self> {
        let node = Arc::clone(store.get().node());
        let carrier = match &mesh {
            Some(mesh) => Carrier::mesh(mesh.clone()),
            None => Carrier::alone(node.entity_id()),
        };
        let stores = store.get().stores();
        let revocations = py.detach(|| channel_rows::revocations(&stores));
        let revocations = revocations.map_err(|error| errors::store(&error, store.get().path()))?;
        let channels = Channels::new(carrier.clone(), Arc::clone(&node), revocations);
        let moves = match &ownership {
            None => None,
            Some(owners) => {
                let joined = py.detach(|| {
                    Moves::join(
                        carrier.clone(),
                        Arc::clone(&node),
                        Arc::clone(&stores),
                        Arc::clone(owners),
                    )
                });
                Some(joined.map_err(|error| errors::store(&error, store.get().path()))?)
            }
        };
        Ok(Self {
            node,
            _vacant: carrier.as_mesh().map(|_| Vacant::new(carrier.clone())),
            carrier,
            channels,
            moves,
            store,
            born: Born::now(),
            state: Mutex::default(),
            mesh,
            ownership,
        })
    }

    fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    fn check_open(&self) -> PyResult<()> {
        self.born.check("Mesh")?;
        if self.is_closed() {
            return Err(LoopClosed::new_err(("Mesh",)));
        }
        Ok(())
    }

    fn twin<'py>(slf: &Bound<'py, Self>, name: &str, arguments: Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        let module = slf.py().import(intern!(slf.py(), "meshos._twins"))?;
        module.getattr(name)?.call1(arguments)
    }
}

/// Reads the stores of the nodes of a cluster, or makes some.
fn stores_of(py: Python<'_>, count: u64, stores: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<Py<PyStore>>> {
    let Some(given) = stores.filter(|stores| !stores.is_none()) else {
        return (0..count).map(|_| Py::new(py, PyStore::in_memory(None))).collect();
    };
    let wrong = || args::wrong_type("stores", "a sequence of Store or None", given);
    let mut stores = Vec::new();
    for store in given.try_iter().map_err(|_| wrong())? {
        let store = store?;
        let store = store.cast::<PyStore>().map_err(|_| wrong())?;
        stores.push(store.clone().unbind());
        if stores.len() as u64 > count {
            break;
        }
    }
    if stores.len() as u64 != count {
        return Err(ConfigError::new_err(("stores", "must be as many as nodes")));
    }
    let mut seen = BTreeSet::new();
    for store in &stores {
        if !seen.insert(store.get().node().entity_id()) {
            let message = "it is given for two nodes of a cluster";
            return Err(errors::StoreError::new_err((
                "locked",
                store.get().path().to_owned(),
                message,
            )));
        }
    }
    Ok(stores)
}

fn join(keys: Vec<Arc<Keypair>>) -> Result<Vec<Mesh>, JoinError> {
    let network = LocalNetwork::new();
    let listed = keys.iter().map(|key| key.entity_id()).collect();
    let members = Members::Listed(Arc::new(listed));
    let mesh = MeshId::of(&keys::random_bytes::<32>());
    // All are there before the first says that it is.
    let engines: Vec<Arc<dyn Engine>> = keys
        .iter()
        .map(|key| Arc::new(network.join(key.entity_id())) as Arc<dyn Engine>)
        .collect();
    let config = MeshConfig::default();
    let nodes = keys.into_iter().zip(engines);
    nodes
        .map(|(key, engine)| Mesh::join(key, mesh, members.clone(), engine, &config))
        .collect()
}

#[pymethods]
impl PyMesh {
    /// Make a node in this process.
    #[staticmethod]
    #[pyo3(signature = (*, store = None, identity = None))]
    fn local(py: Python<'_>, store: Option<&Bound<'_, PyAny>>, identity: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        entry("Mesh.local", || {
            let given = own_key(identity)?;
            let store = match store.filter(|store| !store.is_none()) {
                None => Py::new(py, PyStore::in_memory(given))?,
                Some(store) => {
                    let store = args::instance::<PyStore>(store, "store", "a Store or None")?;
                    if given.is_some_and(|given| given.entity_id() != store.get().node().entity_id()) {
                        let rule = "must be that of the store, or be left out";
                        return Err(InvalidArgument::new_err(("identity", rule)));
                    }
                    store.clone().unbind()
                }
            };
            Self::of(py, store, None, None)
        })
    }

    /// Make connected nodes in this process.
    #[staticmethod]
    #[pyo3(signature = (nodes, *, stores = None))]
    fn local_cluster<'py>(
        py: Python<'py>,
        nodes: &Bound<'py, PyAny>,
        stores: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        entry("Mesh.local_cluster", || {
            let rule = || ConfigError::new_err(("nodes", format!("must be from 1 to {NODES_MAX}")));
            let count = match nodes.extract::<i64>() {
                Ok(count) => u64::try_from(count).map_err(|_| rule())?,
                Err(_) => read::<u64>(nodes, "nodes")?,
            };
            if !(1..=NODES_MAX).contains(&count) {
                return Err(rule());
            }
            let stores = stores_of(py, count, stores)?;
            let keys = stores.iter().map(|store| Arc::clone(store.get().node())).collect();
            let joined = py.detach(|| join(keys)).map_err(|error| match error {
                JoinError::ReadOnly => errors::identity(&meshos_core::identity::IdentityError::ReadOnly),
                JoinError::Engine(_) => LoopClosed::new_err(("Mesh",)),
                JoinError::NoThread => pyo3::exceptions::PyOSError::new_err(error.to_string()),
            })?;
            let owners = ownership::owners(&stores, &joined)?;
            let meshes = stores.into_iter().zip(joined).zip(owners);
            let meshes =
                meshes.map(|((store, mesh), owner)| Py::new(py, Self::of(py, store, Some(mesh), Some(owner))?));
            PyTuple::new(py, meshes.collect::<PyResult<Vec<_>>>()?)
        })
    }

    #[getter]
    fn store(&self, py: Python<'_>) -> Py<PyStore> {
        self.store.clone_ref(py)
    }

    #[getter]
    fn node_id(&self) -> u64 {
        self.node.node_id().get()
    }

    #[getter]
    fn entity_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        entity_id(py, self.node.entity_id())
    }

    /// The other nodes.
    fn peers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyMappingProxy>> {
        entry("Mesh.peers", || {
            self.born.check("Mesh")?;
            let peers = py.detach(|| self.mesh.as_ref().map(Mesh::peers).unwrap_or_default());
            let dict = PyDict::new(py);
            for peer in peers {
                dict.set_item(peer.node.get(), Py::new(py, PyPeer::from(peer))?)?;
            }
            Ok(PyMappingProxy::new(py, dict.as_mapping()))
        })
    }

    /// Wait until a node is alive.
    #[pyo3(signature = (node_id, *, timeout))]
    fn wait_for_peer(
        &self,
        py: Python<'_>,
        node_id: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
    ) -> PyResult<PyPeer> {
        entry("Mesh.wait_for_peer", || {
            let node = NodeId::from_python(node_id, "node_id")?;
            let span = args::span(Some(timeout), "timeout")?;
            self.check_open()?;
            may_wait("Mesh.wait_for_peer")?;
            let mut signal = None;
            let found = py.detach(|| {
                let deadline = span.map_or_else(Deadline::never, Deadline::after);
                let mut interrupted = || guard::interrupted(&mut signal);
                match &self.mesh {
                    Some(mesh) => mesh.wait_for_peer(node, deadline, interrupted),
                    None => Err(wait_for_nobody(deadline, || self.is_closed() || interrupted())),
                }
            });
            found.map(PyPeer::from).map_err(|error| match (error, signal) {
                (_, Some(raised)) => raised,
                (PeerWaitError::Timeout, None) => {
                    errors::waited(&format!("node 0x{node}"), span.unwrap_or_default(), py)
                }
                (PeerWaitError::Closed | PeerWaitError::Interrupted, None) => LoopClosed::new_err(("Mesh",)),
            })
        })
    }

    /// Twin of `wait_for_peer`.
    #[pyo3(signature = (node_id, *, timeout))]
    fn wait_for_peer_async<'py>(
        slf: &Bound<'py, Self>,
        node_id: &Bound<'py, PyAny>,
        timeout: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        entry("Mesh.wait_for_peer_async", || {
            let arguments = PyTuple::new(slf.py(), [slf.as_any(), node_id, timeout])?;
            Self::twin(slf, "wait_for_peer", arguments)
        })
    }

    /// Say what this node offers.
    fn announce(&self, py: Python<'_>, capabilities: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("Mesh.announce", || {
            let set = args::instance::<PyCapabilitySet>(capabilities, "capabilities", "a CapabilitySet")?;
            self.check_open()?;
            let set: CapabilitySet = set.get().0.clone();
            let fits = py.detach(|| match &self.mesh {
                Some(mesh) => mesh.announce(set),
                None => meshos_core::heartbeat::capabilities_bytes(&set) <= CAPABILITIES_BYTES_MAX,
            });
            if fits {
                return Ok(());
            }
            let rule = format!("must have at most {CAPABILITIES_BYTES_MAX} bytes in all");
            Err(InvalidArgument::new_err(("capabilities", rule)))
        })
    }

    /// Set the policy of a channel of this node.
    #[pyo3(signature = (channel, policy = Given::Not), text_signature = "(self, channel, policy=ChannelPolicy())")]
    fn open_channel(&self, channel: &Bound<'_, PyAny>, policy: Given<'_>) -> PyResult<()> {
        entry("Mesh.open_channel", || {
            let py = channel.py();
            let channel = read::<ChannelName>(channel, "channel")?;
            let policy = policy.map_or(ChannelPolicy::default(), |policy| {
                let policy = args::instance::<PyChannelPolicy>(policy, "policy", "a ChannelPolicy")?;
                Ok(policy.get().0.clone())
            })?;
            self.check_open()?;
            let opened = py.detach(|| self.channels.open(&channel, &policy));
            opened.map_err(|error| channels::not_published(py, &error))
        })
    }

    /// End all subscriptions of a channel of this node, and drop its log.
    fn close_channel(&self, channel: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("Mesh.close_channel", || {
            let py = channel.py();
            let channel = read::<ChannelName>(channel, "channel")?;
            self.check_open()?;
            py.detach(|| self.channels.close_channel(&channel));
            Ok(())
        })
    }

    /// Permit something on a channel of this node, signed with its key.
    #[pyo3(
        signature = (subject, channel, *, rights, ttl, delegations = Given::Not),
        text_signature = "(self, subject, channel, *, rights, ttl, delegations=0)"
    )]
    fn issue_token(
        &self,
        subject: &Bound<'_, PyAny>,
        channel: &Bound<'_, PyAny>,
        rights: &Bound<'_, PyAny>,
        ttl: &Bound<'_, PyAny>,
        delegations: Given<'_>,
    ) -> PyResult<PyPermissionToken> {
        entry("Mesh.issue_token", || {
            let subject = read(subject, "subject")?;
            let channel = read::<ChannelName>(channel, "channel")?;
            let rights = token::read_rights(rights)?;
            let ttl = token::read_ttl(ttl)?;
            let delegations = delegations.map_or(0, token::read_delegations)?;
            self.check_open()?;
            channels::issue(&self.channels, subject, channel, rights, ttl, delegations)
        })
    }

    /// Take back all tokens of a subject that this node issued, and change the keys of the channels it could read.
    fn revoke_tokens(&self, subject: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("Mesh.revoke_tokens", || {
            let subject_id = read(subject, "subject")?;
            self.check_open()?;
            channels::revoke(subject.py(), &self.channels, &self.stores(), subject_id)
        })
    }

    /// Publish as this node.
    fn publish(&self, channel: &Bound<'_, PyAny>, payload: &Bound<'_, PyAny>) -> PyResult<u64> {
        entry("Mesh.publish", || {
            self.born.check("Mesh")?;
            channels::publish(&self.channels, channel, payload)
        })
    }

    /// Twin of `publish`.
    fn publish_async<'py>(
        slf: &Bound<'py, Self>,
        channel: &Bound<'py, PyAny>,
        payload: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        entry("Mesh.publish_async", || {
            let arguments = PyTuple::new(slf.py(), [slf.as_any(), channel, payload])?;
            Self::twin(slf, "publish", arguments)
        })
    }

    /// Publish on a channel of another node.
    #[pyo3(signature = (publisher, channel, payload, token = None, *, timeout = Timeout::Default))]
    fn publish_to(
        &self,
        py: Python<'_>,
        publisher: &Bound<'_, PyAny>,
        channel: &Bound<'_, PyAny>,
        payload: &Bound<'_, PyAny>,
        token: Option<&Bound<'_, PyAny>>,
        timeout: Timeout,
    ) -> PyResult<u64> {
        entry("Mesh.publish_to", || {
            let publisher = NodeId::from_python(publisher, "publisher")?;
            let channel = read::<ChannelName>(channel, "channel")?;
            let payload: Arc<[u8]> = Arc::from(args::payload(payload, "payload")?.as_bytes());
            let token = token
                .map(|token| PermissionToken::from_python(token, "token"))
                .transpose()?;
            self.check_open()?;
            may_wait("Mesh.publish_to")?;
            channels::publish_to(
                py,
                &self.channels,
                publisher,
                &channel,
                payload,
                token.as_ref(),
                &timeout,
            )
        })
    }

    /// Twin of `publish_to`.
    #[pyo3(signature = (publisher, channel, payload, token = None, *, timeout = Timeout::Default))]
    fn publish_to_async<'py>(
        slf: &Bound<'py, Self>,
        publisher: &Bound<'py, PyAny>,
        channel: &Bound<'py, PyAny>,
        payload: &Bound<'py, PyAny>,
        token: Option<&Bound<'py, PyAny>>,
        timeout: Timeout,
    ) -> PyResult<Bound<'py, PyAny>> {
        entry("Mesh.publish_to_async", || {
            let given = (slf, publisher, channel, payload, token, timeout.span());
            let arguments = given.into_pyobject(slf.py())?;
            Self::twin(slf, "publish_to", arguments)
        })
    }

    /// Read a channel without a daemon, from now on.
    #[pyo3(
        signature = (publisher, channel, token = None, *, buffer_max = Given::Not),
        text_signature = "(self, publisher, channel, token=None, *, buffer_max=1024)"
    )]
    fn subscribe<'py>(
        &self,
        py: Python<'py>,
        publisher: &Bound<'py, PyAny>,
        channel: &Bound<'py, PyAny>,
        token: Option<&Bound<'py, PyAny>>,
        buffer_max: Given<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        entry("Mesh.subscribe", || {
            let publisher = NodeId::from_python(publisher, "publisher")?;
            let channel = read::<ChannelName>(channel, "channel")?;
            let token = token.map(|token| PermissionToken::from_python(token, "token"));
            let buffer_max: u64 = buffer_max.read_or("buffer_max", 1024)?;
            if !(1..=1 << 20).contains(&buffer_max) {
                return Err(InvalidArgument::new_err(("buffer_max", "must be from 1 to 2^20")));
            }
            self.check_open()?;
            may_wait("Mesh.subscribe")?;
            let (token, most) = (token.transpose()?, usize::try_from(buffer_max).unwrap_or(usize::MAX));
            let reader = channels::subscribe(py, &self.channels, publisher, &channel, token.as_ref(), most)?;
            channels::stream(py, reader)
        })
    }

    /// Twin of `subscribe`.
    #[pyo3(
        signature = (publisher, channel, token = None, *, buffer_max = Given::Not),
        text_signature = "(self, publisher, channel, token=None, *, buffer_max=1024)"
    )]
    fn subscribe_async<'py>(
        slf: &Bound<'py, Self>,
        publisher: &Bound<'py, PyAny>,
        channel: &Bound<'py, PyAny>,
        token: Option<&Bound<'py, PyAny>>,
        buffer_max: Given<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        entry("Mesh.subscribe_async", || {
            let py = slf.py();
            let buffer_max = match buffer_max {
                Given::Not => 1024_u64.into_pyobject(py)?.into_any(),
                Given::This(given) => given,
            };
            let none = py.None().into_bound(py);
            let token = token.unwrap_or(&none);
            let arguments = PyTuple::new(py, [slf.as_any(), publisher, channel, token, &buffer_max])?;
            Self::twin(slf, "subscribe", arguments)
        })
    }

    /// The directory of the mesh, if this node has it.
    fn directory(&self) -> PyResult<Option<PyOwnershipDirectory>> {
        entry("Mesh.directory", || {
            self.born.check("Mesh")?;
            Ok(self.ownership.as_ref().and_then(PyOwnershipDirectory::of))
        })
    }

    /// What became of requests about ownership.
    fn ownership_stats(&self, py: Python<'_>) -> PyResult<PyOwnershipStats> {
        entry("Mesh.ownership_stats", || {
            self.born.check("Mesh")?;
            let stats = py.detach(|| self.ownership.as_ref().map(|ownership| ownership.stats()));
            Ok(stats.unwrap_or_default().into())
        })
    }

    /// What happened so far.
    fn stats(&self, py: Python<'_>) -> PyResult<PyMeshStats> {
        entry("Mesh.stats", || {
            self.born.check("Mesh")?;
            let stats = py.detach(|| self.mesh.as_ref().map(Mesh::stats));
            Ok(stats.unwrap_or_default().into())
        })
    }

    /// Leave: shuts down the runtime of this node. Does nothing the second time.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        entry("Mesh.close", || {
            self.born.check("Mesh")?;
            may_wait("Mesh.close")?;
            let runtime = {
                let mut state = self.state.lock();
                state.closed = true;
                state.runtime.upgrade()
            };
            let ended = runtime.map_or(Ok(()), |runtime| {
                runtime::shut_down(py, &runtime, Duration::from_secs(5))
            });
            py.detach(|| {
                if let Some(moves) = &self.moves {
                    moves.close();
                }
                self.channels.close();
                self.carrier.close();
                if let Some(ownership) = &self.ownership {
                    ownership.closed();
                }
            });
            ended
        })
    }

    /// Twin of `close`.
    fn close_async<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        entry("Mesh.close_async", || {
            Self::twin(slf, "close", PyTuple::new(slf.py(), [slf.as_any()])?)
        })
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _trace: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.close(py)
    }

    fn __aenter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::twin(slf, "itself", PyTuple::new(slf.py(), [slf.as_any()])?)
    }

    fn __aexit__<'py>(
        slf: &Bound<'py, Self>,
        _kind: &Bound<'py, PyAny>,
        _error: &Bound<'py, PyAny>,
        _trace: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::close_async(slf)
    }

    fn __repr__(&self) -> String {
        let closed = if self.is_closed() { ", closed" } else { "" };
        format!("Mesh(node_id=0x{}{closed})", self.node.node_id())
    }
}

impl Drop for PyMesh {
    fn drop(&mut self) {
        // In a forked child another thread may have held its locks.
        if !self.born.is_here() {
            std::mem::forget((self.mesh.take(), self.ownership.take()));
            std::mem::forget(self.carrier.clone());
            std::mem::forget(self.channels.clone());
        }
    }
}

/// The probes that see the peers of a node.
#[pyfunction]
#[pyo3(name = "_mesh_probes")]
fn probes(mesh: &Bound<'_, PyAny>) -> PyResult<PyProbeRegistry> {
    entry("Node", || {
        let mesh = args::instance::<PyMesh>(mesh, "mesh", "a Mesh")?.get();
        let made = PyProbeRegistry::new();
        for probe in mesh.mesh.iter().flat_map(MeshProbe::all) {
            made.registry.add(probe);
        }
        Ok(made)
    })
}

/// Hands a node what its engine would hand it: for tests of what forged frames do.
#[pyfunction]
#[pyo3(name = "_mesh_inject")]
fn inject(py: Python<'_>, mesh: &Bound<'_, PyAny>, frame: &Bound<'_, PyAny>) -> PyResult<()> {
    entry("Mesh", || {
        let mesh = args::instance::<PyMesh>(mesh, "mesh", "a Mesh")?.get();
        let frame = args::payload(frame, "frame")?.as_bytes().to_vec();
        mesh.check_open()?;
        py.detach(|| mesh.mesh.as_ref().map(|mesh| mesh.inject(frame)));
        Ok(())
    })
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyPeer>()?;
    module.add_class::<PyMeshStats>()?;
    module.add_class::<PyMesh>()?;
    module.add_function(wrap_pyfunction!(probes, module)?)?;
    module.add_function(wrap_pyfunction!(inject, module)?)
}
