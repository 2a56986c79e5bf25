//! Nodes with a directory, and whoever moves a daemon between two of them as the machines do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use meshos_core::config::{DaemonHostConfig, Durability};
use meshos_core::directory::DirectoryConfig;
use meshos_core::frame::MeshId;
use meshos_core::id::{EntityId, Origin};
use meshos_core::identity::Keypair;
use meshos_core::image::seal::Agreement;
use meshos_core::move_frame::{Reason, Reject};
use meshos_core::move_rows::{Frozen, MoveOrder, Prepared, Queued, Terms};
use meshos_core::owner::OwnerConfig;
use meshos_core::ownership::OwnershipRecord;
use meshos_core::presence::{Members, PresenceConfig};
use meshos_core::rows::Write;
use meshos_core::store::check::check;
use meshos_core::store::memory::MemoryStore;
use meshos_core::store::{Batch, StoreError};
use meshos_core::time::UnixMs;
use meshos_node::carrier::Carrier;
use meshos_node::channels::Channels;
use meshos_node::clock::Deadline;
use meshos_node::daemon::Settled;
use meshos_node::deliver::Want;
use meshos_node::hands::{Arrived, FreezeOpts, Frost, Hands, Waits};
use meshos_node::journal::{SharedStore, Stores};
use meshos_node::keys;
use meshos_node::local_engine::LocalNetwork;
use meshos_node::mailbox::{Letter, PostError, Sender};
use meshos_node::mesh::{Mesh, MeshConfig};
use meshos_node::mover::{Factories, Mover};
use meshos_node::ownership::{Ownership, OwnershipConfig};
use meshos_node::redb_store::{Options, RedbStore};
use meshos_node::router::{Number, Sent};
use meshos_node::runtime::Runtime;
use meshos_node::slot::{SharedKey, Slot};
use meshos_node::sync::Mutex;

use crate::common::net::{Lossy, Tray, Weather};
use crate::common::{Event, Sum, Switches, config, lanes, never, until};

pub const PATIENCE: Duration = Duration::from_secs(20);

fn options() -> OwnershipConfig {
    OwnershipConfig {
        owner: OwnerConfig {
            margin: Duration::from_millis(100),
            renew_every: Duration::from_millis(200),
            resend: Duration::from_millis(50),
            ..OwnerConfig::default()
        },
        directory: DirectoryConfig {
            lease: Duration::from_secs(2),
            skew: Duration::from_millis(100),
            retry: Duration::from_millis(50),
            ..DirectoryConfig::default()
        },
    }
}

pub fn memory() -> Stores {
    let store = SharedStore::new(MemoryStore::new());
    Arc::new(move || Box::new(store.clone()))
}

/// The store of a folder, once whoever had it before let go of it: a thread may still do the last thing of a node that ended.
pub fn reopened(folder: &std::path::Path) -> Stores {
    let deadline = Deadline::after(PATIENCE);
    loop {
        match RedbStore::open(folder, &Options::default()) {
            Ok(opened) => {
                let store = opened.store;
                return Arc::new(move || Box::new(store.clone()));
            }
            Err(StoreError::Locked) if !deadline.passed() => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Makes sums.
pub struct Sums {
    switches: Arc<Switches>,
    pub stateless: AtomicBool,
    pub knows: AtomicBool,
}

impl Factories<Sum> for Sums {
    fn has(&self, kind: &str) -> bool {
        kind == "sum" && self.knows.load(Ordering::SeqCst)
    }

    fn make(&self, kind: &str) -> Result<Sum, Reject> {
        if !self.has(kind) {
            return Err(Reason::NoFactory.into());
        }
        Ok(if self.stateless.load(Ordering::SeqCst) {
            Sum::stateless(&self.switches)
        } else {
            Sum::new(&self.switches)
        })
    }
}

pub struct Node {
    pub mesh: Mesh,
    pub ownership: Arc<Ownership>,
    pub runtime: Arc<Runtime<Sum>>,
    pub mover: Arc<Mover<Sum>>,
    pub sums: Arc<Sums>,
    pub switches: Arc<Switches>,
    pub stores: Stores,
    pub channels: Channels,
    pub key: Arc<Keypair>,
    pub carrier: Carrier,
}

/// Starts nodes; the first has the directory.
pub fn start(stores: &[Stores]) -> Vec<Node> {
    start_in(stores, Weather::default())
}

/// The same, on a network that may be bad.
pub fn start_in(stores: &[Stores], weather: Weather) -> Vec<Node> {
    let key = |node: usize| {
        let byte = 100 + u8::try_from(node).expect("few");
        Arc::new(Keypair::from_seed(&[byte; 32]))
    };
    let (network, id) = (LocalNetwork::new(), MeshId::of(b"movers"));
    let listed: BTreeSet<_> = (0..stores.len()).map(|node| key(node).entity_id()).collect();
    let members = Members::Listed(Arc::new(listed));
    let directory = key(0).entity_id();
    let config = MeshConfig {
        presence: PresenceConfig {
            interval: Duration::from_millis(40),
            beats_per_second: 100_000,
            ..PresenceConfig::default()
        },
        ..MeshConfig::default()
    };
    let node = |(index, stores): (usize, &Stores)| {
        let key = key(index);
        let byte = u8::try_from(index).expect("few");
        let engine = Arc::new(Lossy::new(network.join(key.entity_id()), weather, byte));
        let mesh = Mesh::join(Arc::clone(&key), id, members.clone(), engine, &config).expect("it joins");
        let carrier = Carrier::mesh(mesh.clone());
        let joined = Ownership::join(
            carrier.clone(),
            Arc::clone(&key),
            Arc::clone(stores),
            directory,
            options(),
        );
        let ownership = joined.expect("its rows are read");
        let runtime = Runtime::with_carrier(Arc::clone(&key), lanes(), Arc::clone(stores), carrier.clone());
        let runtime = Arc::new(runtime.owned_by(Arc::clone(&ownership)));
        let channels = Channels::new(carrier.clone(), Arc::clone(&key), Default::default());
        runtime.with_channels(&channels);
        runtime.start().expect("fresh");
        let switches: Arc<Switches> = Arc::default();
        let sums = Arc::new(Sums {
            switches: Arc::clone(&switches),
            stateless: AtomicBool::new(false),
            knows: AtomicBool::new(true),
        });
        let mover = Mover::new(&runtime, Arc::clone(&sums) as Arc<dyn Factories<Sum>>);
        Node {
            mesh,
            ownership,
            runtime,
            mover,
            sums,
            switches,
            stores: Arc::clone(stores),
            channels,
            key,
            carrier,
        }
    };
    let nodes: Vec<_> = stores.iter().enumerate().map(node).collect();
    for node in &nodes {
        for other in &nodes {
            if node.mesh.node_id() != other.mesh.node_id() {
                let deadline = Deadline::after(PATIENCE);
                let peer = node.mesh.wait_for_peer(other.mesh.node_id(), deadline, never);
                peer.expect("it comes");
            }
        }
    }
    nodes
}

pub fn three() -> Vec<Node> {
    start(&[memory(), memory(), memory()])
}

impl Node {
    pub fn id(&self) -> EntityId {
        self.key.entity_id()
    }

    pub fn spawn(&self, key: &SharedKey, durability: Durability) -> Arc<Slot<Sum>> {
        let config = DaemonHostConfig { durability, ..config() };
        let sum = self.sums.make("sum").expect("it is known");
        let spawned = self.runtime.spawn(key, config, sum);
        spawned.map_err(|error| format!("{error:?}")).expect("free")
    }

    pub fn slot(&self, origin: Origin) -> Arc<Slot<Sum>> {
        self.runtime.registry().get(origin).expect("it is here")
    }

    pub fn seen(&self) -> Vec<String> {
        let seen = self.switches.seen.lock().clone().into_iter();
        seen.map(|payload| String::from_utf8(payload).expect("text")).collect()
    }

    pub fn end(&self) {
        self.runtime.shutdown(PATIENCE, &mut never);
        self.mesh.close();
        self.ownership.closed();
    }

    /// Checks the store, once everything that was submitted is kept: a check reads table after table.
    pub fn check(&self) {
        for slot in self.runtime.registry().list() {
            let mut entered = slot.enter(Deadline::after(PATIENCE), &mut never).expect("open");
            if let Some(journal) = &mut entered.journal {
                journal.settle(Deadline::after(PATIENCE)).expect("it is kept");
                journal.drain().expect("it is kept");
            }
        }
        check(&*(self.stores)()).expect("everything is in order");
    }

    /// Makes rows durable.
    pub fn keep(&self, writes: Vec<Write>) {
        let (told, kept) = mpsc::channel();
        let mut store = (self.stores)();
        let term = store.term();
        let done = Box::new(move |outcome| told.send(outcome).expect("it is waited for"));
        store.submit(Batch { term, writes }, done);
        kept.recv_timeout(PATIENCE).expect("in time").expect("it is kept");
    }
}

pub enum Gate {
    Wait,
    Open,
    Elsewhere,
}

/// What waits at a source, as its machine keeps it: each once.
pub struct Queue {
    state: Mutex<(Gate, Vec<Queued>)>,
}

impl Waits for Queue {
    fn event(&self, queued: Queued) {
        let mut state = self.state.lock();
        match state.0 {
            Gate::Wait => {
                let same = |known: &Queued| {
                    (known.origin, known.stream, known.sequence) == (queued.origin, queued.stream, queued.sequence)
                };
                if !state.1.iter().any(same) {
                    state.1.push(queued);
                }
            }
            // Who sent it tries again.
            Gate::Open | Gate::Elsewhere => {}
        }
    }
}

impl Queue {
    pub fn take(&self, gate: Gate) -> Vec<Queued> {
        let mut state = self.state.lock();
        state.0 = gate;
        std::mem::take(&mut state.1)
    }

    pub fn len(&self) -> usize {
        self.state.lock().1.len()
    }
}

/// A daemon that is frozen at its source.
pub struct Frosted<'n> {
    pub source: &'n Node,
    pub order: MoveOrder,
    pub queue: Arc<Queue>,
    pub frost: Frost,
}

pub fn order(source: &Node, target: &Node, entity: EntityId) -> MoveOrder {
    let epoch = source.ownership.owned(&entity).map_or(1, |(epoch, _)| epoch);
    let order = MoveOrder {
        mid: keys::random_bytes(),
        entity,
        epoch,
        source: source.id(),
        target: target.id(),
        orchestrator: source.id(),
        not_after: UnixMs::new(u64::MAX),
        freeze_ms: 0,
        size: 8,
        kind: "sum".to_owned(),
        terms: Terms::default(),
        signer: source.id(),
        signature: [0; 64],
    };
    order.signed(&source.key).expect("whole")
}

pub fn freeze_with(
    source: &Node,
    order: MoveOrder,
    within: Duration,
) -> (Arc<Queue>, mpsc::Receiver<Result<Frost, Reject>>) {
    let queue = Arc::new(Queue {
        state: Mutex::new((Gate::Wait, Vec::new())),
    });
    let (told, frost) = mpsc::channel();
    let waits: Arc<dyn Waits> = queue.clone();
    let done = Box::new(move |outcome| drop(told.send(outcome)));
    source.mover.freeze(&order, opts(&order, within), waits, done);
    (queue, frost)
}

pub fn opts(order: &MoveOrder, within: Duration) -> FreezeOpts {
    let agreement = Agreement::with(&order.target, &keys::ephemeral()).expect("the target is a key");
    FreezeOpts {
        sealing: Some(Arc::new(agreement)),
        within,
    }
}

pub fn freeze<'n>(source: &'n Node, target: &Node, entity: EntityId) -> Frosted<'n> {
    freeze_on(source, order(source, target, entity))
}

pub fn freeze_on(source: &Node, order: MoveOrder) -> Frosted<'_> {
    let (queue, frost) = freeze_with(source, order.clone(), PATIENCE);
    let frost = frost.recv_timeout(PATIENCE).expect("in time").expect("it is frozen");
    Frosted {
        source,
        order,
        queue,
        frost,
    }
}

/// Calls something that tells later what came of it.
pub fn wait<T: Send + 'static>(call: impl FnOnce(Box<dyn FnOnce(T) + Send>)) -> T {
    let (told, heard) = mpsc::channel();
    call(Box::new(move |outcome| told.send(outcome).expect("it is waited for")));
    heard.recv_timeout(PATIENCE).expect("in time")
}

impl Frosted<'_> {
    pub fn thaw(self) -> usize {
        let queue = self.queue.take(Gate::Open);
        let waited = queue.len();
        self.source.mover.thaw(&self.order.entity, queue);
        waited
    }

    pub fn image(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.frost.image.slice(0..self.frost.image.len, &mut bytes);
        bytes
    }

    pub fn restore(&self, target: &Node) -> Result<Frozen, Reject> {
        let image = self.image();
        wait(|done| target.mover.restore(&self.order, Arrived::from(image), done))
    }

    /// What the target has kept before the record is made; without events.
    pub fn prepared(&self) -> Prepared {
        Prepared {
            order: self.order.clone(),
            frozen: self.frost.frozen,
            image_bytes: self.frost.image.len,
            lineage: self.frost.lineage.clone(),
            queue: Vec::new(),
        }
    }

    /// The record is kept, and the daemon handed over; returns what waited.
    pub fn hand_over(&self) -> Vec<Queued> {
        self.source.keep(vec![self.frost.record.write()]);
        let queue = self.queue.take(Gate::Elsewhere);
        self.source.mover.hand_over(&self.frost.record);
        queue
    }

    pub fn install(&self, target: &Node) -> Result<u64, String> {
        let prepared = self.prepared();
        wait(|done| target.mover.install(&self.frost.record, &prepared, Vec::new(), done))
    }

    pub fn go_live(&self, target: &Node, queue: Vec<Queued>) {
        wait(|done| target.mover.go_live(&self.order.entity, queue, done));
    }

    pub fn retire(&self) -> bool {
        wait(|done| self.source.mover.retire(&self.frost.record, done))
    }
}

/// Moves a daemon; returns the record, and how many events travelled with it.
pub fn move_to(source: &Node, target: &Node, entity: EntityId) -> (OwnershipRecord, usize) {
    let frosted = freeze(source, target, entity);
    assert_eq!(target.mover.refusal(&frosted.order), None);
    assert_eq!(frosted.restore(target), Ok(frosted.frost.frozen));
    let queue = frosted.hand_over();
    let waited = queue.len();
    assert_eq!(frosted.install(target), Ok(frosted.frost.record.epoch()));
    frosted.go_live(target, queue);
    assert!(frosted.retire());
    (*frosted.frost.record, waited)
}

enum Pending {
    Here(mpsc::Receiver<(meshos_core::ingress::EventKey, Settled<Sum>)>),
    There(usize),
}

/// Sends to one daemon as a program at a node does: directly, or through the router.
pub struct Client<'n> {
    node: &'n Node,
    pub sender: Sender,
    to: Origin,
    tray: Arc<Tray>,
    pending: Mutex<BTreeMap<u64, Pending>>,
    places: AtomicU64,
}

impl<'n> Client<'n> {
    pub fn new(node: &'n Node, origin: u64, to: Origin) -> Self {
        Self {
            node,
            sender: Sender::new(Origin::new(origin)),
            to,
            tray: Arc::default(),
            pending: Mutex::default(),
            places: AtomicU64::new(0),
        }
    }

    /// Sends numbered events, eight at a time, until it is told to stop; returns how many.
    pub fn send_until(&self, prefix: &str, stop: &AtomicBool, sent: &AtomicU64) -> usize {
        let mut next = 0;
        while !stop.load(Ordering::SeqCst) {
            for _ in 0..8 {
                self.send(&format!("{prefix}{next}"));
                next += 1;
            }
            sent.fetch_add(8, Ordering::SeqCst);
            // It is a pace, and waits for nothing.
            std::thread::sleep(Duration::from_millis(1));
        }
        next
    }

    pub fn send(&self, payload: &str) -> u64 {
        let router = self.node.runtime.router();
        let slot = self.node.runtime.registry().get(self.to);
        let slot = slot.filter(|_| !router.is_open(self.to, self.sender.origin));
        if let Some(slot) = slot {
            let (reply, answers) = mpsc::channel();
            let letter = Letter::Draft(payload.as_bytes().to_vec(), payload.len());
            let posted = slot.post(
                self.node.runtime.lanes(),
                &self.sender,
                letter,
                Want::Receipt,
                Some(reply),
                None,
            );
            match posted {
                Ok(number) => {
                    self.pending.lock().insert(number, Pending::Here(answers));
                    return number;
                }
                Err((PostError::Stale, _)) => {}
                Err((error, _)) => panic!("{error:?}"),
            }
        }
        let place = usize::try_from(self.places.fetch_add(1, Ordering::SeqCst)).expect("few");
        let (number, ticket) = (Number::Next(&self.sender), self.tray.ticket(place));
        let number = router.send(self.to, &number, payload.as_bytes(), Some(ticket));
        self.pending.lock().insert(number, Pending::There(place));
        number
    }

    pub fn send_some(&self, count: usize) {
        for _ in 0..count {
            self.send("abc");
        }
    }

    /// Waits until every event was answered: each took effect.
    pub fn settle(&self) -> usize {
        let sent = self
            .tray
            .wait(usize::try_from(self.places.load(Ordering::SeqCst)).expect("few"));
        let pending = std::mem::take(&mut *self.pending.lock());
        let count = pending.len();
        for (number, pending) in pending {
            match pending {
                Pending::Here(answers) => {
                    let (key, settled) = answers.recv_timeout(PATIENCE).expect("it is answered");
                    assert_eq!(key.sequence, number);
                    let delivered = settled.map_err(|error| format!("{number}: {error:?}"));
                    delivered.expect("it takes effect");
                }
                Pending::There(place) => match &sent[place] {
                    Sent::Taken { .. } => {}
                    other => panic!("{number}: {other:?}"),
                },
            }
        }
        count
    }
}

/// Payloads of one client, in the order in which daemons of all nodes saw them.
pub fn seen_of(nodes: &[&Node], prefix: &str) -> Vec<usize> {
    let seen = nodes.iter().flat_map(|node| node.seen());
    let of_it = seen.filter_map(|payload| Some(payload.strip_prefix(prefix)?.parse().expect("a number")));
    of_it.collect()
}

pub fn is_gone(node: &Node, origin: Origin) {
    until(|| node.runtime.registry().get(origin).is_none());
}

pub fn event(origin: u64, sequence: u64, payload: &str) -> Event {
    Event::outside(origin, sequence, payload.as_bytes())
}
