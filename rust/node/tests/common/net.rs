//! Nodes with runtimes on one network, which may be bad.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meshos_core::cursors::Receipt;
use meshos_core::engine::{
    Answered, Declared, Engine, EngineError, EngineStats, Payload, Receive, Serve, Topic, Watch,
};
use meshos_core::frame::MeshId;
use meshos_core::id::{EntityId, Origin};
use meshos_core::identity::Keypair;
use meshos_core::mix;
use meshos_core::presence::{Members, PresenceConfig};
use meshos_core::store::memory::MemoryStore;
use meshos_node::carrier::Carrier;
use meshos_node::clock::Deadline;
use meshos_node::journal::{SharedStore, Stores};
use meshos_node::local_engine::{LocalEngine, LocalNetwork};
use meshos_node::mesh::{Mesh, MeshConfig};
use meshos_node::router::{Hear, Number, Sent, Ticket};
use meshos_node::runtime::Runtime;
use meshos_node::slot::Slot;
use meshos_node::sync::{Condvar, Mutex};

use super::{Sum, Switches, key, lanes};

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a bad network does to bodies, of 256: lost, twice, later.
#[derive(Clone, Copy, Default)]
pub struct Weather {
    pub seed: u64,
    pub lost: u64,
    pub twice: u64,
    pub later: u64,
}

/// An engine in bad weather.
pub struct Lossy {
    engine: LocalEngine,
    weather: Weather,
    count: AtomicU64,
    late: Mutex<Vec<(Topic, Payload)>>,
    /// Nothing gets through.
    pub is_cut: Arc<AtomicBool>,
}

impl Lossy {
    pub fn new(engine: LocalEngine, weather: Weather, byte: u8) -> Self {
        Self {
            engine,
            weather: Weather {
                seed: mix::pair(weather.seed, u64::from(byte)),
                ..weather
            },
            count: AtomicU64::new(0),
            late: Mutex::default(),
            is_cut: Arc::default(),
        }
    }
}

impl Engine for Lossy {
    fn node(&self) -> EntityId {
        self.engine.node()
    }
    fn publish(&self, topic: &Topic, payload: Payload) -> Result<(), EngineError> {
        if *topic == Topic::Beats {
            return self.engine.publish(topic, payload);
        }
        if self.is_cut.load(Ordering::Acquire) {
            return Ok(());
        }
        let late = std::mem::take(&mut *self.late.lock());
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let Weather {
            seed,
            lost,
            twice,
            later,
        } = self.weather;
        let chance = mix::pair(seed, number) % 256;
        if chance >= lost + twice + later {
            self.engine.publish(topic, payload)?;
        } else if chance >= lost + twice {
            self.late.lock().push((topic.clone(), payload));
        } else if chance >= lost {
            self.engine.publish(topic, payload.clone())?;
            self.engine.publish(topic, payload)?;
        }
        late.into_iter()
            .try_for_each(|(topic, payload)| self.engine.publish(&topic, payload))
    }
    fn subscribe(&self, topic: &Topic, receiver: Arc<dyn Receive>) -> Result<Declared, EngineError> {
        self.engine.subscribe(topic, receiver)
    }
    fn request(&self, topic: &Topic, payload: Payload, timeout: Duration, answered: Answered) {
        self.engine.request(topic, payload, timeout, answered);
    }
    fn serve(&self, topic: &Topic, service: Arc<dyn Serve>) -> Result<Declared, EngineError> {
        self.engine.serve(topic, service)
    }
    fn watch(&self, watch: Arc<dyn Watch>) -> Result<Declared, EngineError> {
        self.engine.watch(watch)
    }
    fn close(&self) {
        self.engine.close();
    }
    fn stats(&self) -> EngineStats {
        self.engine.stats()
    }
}

/// One node of a network.
pub struct Netted {
    pub mesh: Mesh,
    pub runtime: Arc<Runtime<Sum>>,
    pub switches: Arc<Switches>,
    pub is_cut: Arc<AtomicBool>,
}

/// A network, and what nodes that join it have in common.
pub struct Net {
    network: LocalNetwork,
    members: Members,
    weather: Weather,
}

fn node_key(byte: u8) -> Arc<Keypair> {
    Arc::new(Keypair::from_seed(&[100 + byte; 32]))
}

pub fn memory() -> Stores {
    let memory = SharedStore::new(MemoryStore::new());
    Arc::new(move || Box::new(memory.clone()))
}

impl Net {
    pub fn new(nodes: u8, weather: Weather) -> Self {
        let listed: BTreeSet<_> = (0..nodes).map(|byte| node_key(byte).entity_id()).collect();
        Self {
            network: LocalNetwork::new(),
            members: Members::Listed(Arc::new(listed)),
            weather,
        }
    }

    pub fn join(&self, byte: u8, stores: Stores) -> Netted {
        self.join_after(byte, stores, |_| ())
    }

    /// The same; nobody hears of it before it is prepared.
    pub fn join_after(&self, byte: u8, stores: Stores, prepare: impl FnOnce(&Netted)) -> Netted {
        let key = node_key(byte);
        let engine = Lossy::new(self.network.join(key.entity_id()), self.weather, byte);
        let is_cut = Arc::clone(&engine.is_cut);
        is_cut.store(true, Ordering::SeqCst);
        let config = MeshConfig {
            presence: PresenceConfig {
                interval: Duration::from_millis(40),
                beats_per_second: 100_000,
                ..PresenceConfig::default()
            },
            ..MeshConfig::default()
        };
        let id = MeshId::of(b"a network");
        let mesh = Mesh::join(Arc::clone(&key), id, self.members.clone(), Arc::new(engine), &config).expect("it joins");
        let carrier = Carrier::mesh(mesh.clone());
        let runtime = Arc::new(Runtime::with_carrier(key, lanes(), stores, carrier));
        runtime.start().expect("fresh");
        let netted = Netted {
            mesh,
            runtime,
            switches: Arc::default(),
            is_cut,
        };
        prepare(&netted);
        netted.is_cut.store(false, Ordering::SeqCst);
        netted
    }

    /// So many nodes that see each other, each with a store in memory.
    pub fn of(nodes: u8, weather: Weather) -> (Self, Vec<Netted>) {
        let net = Self::new(nodes, weather);
        let nodes: Vec<_> = (0..nodes).map(|byte| net.join(byte, memory())).collect();
        for node in &nodes {
            for other in nodes.iter().filter(|other| other.mesh.node_id() != node.mesh.node_id()) {
                node.sees(other);
            }
        }
        (net, nodes)
    }
}

impl Netted {
    pub fn sees(&self, other: &Self) {
        let deadline = Deadline::after(PATIENCE);
        self.mesh
            .wait_for_peer(other.mesh.node_id(), deadline, || false)
            .expect("it comes");
    }

    pub fn spawn(&self, seed: u8, config: meshos_core::config::DaemonHostConfig) -> Arc<Slot<Sum>> {
        self.runtime
            .spawn(&key(seed), config, Sum::new(&self.switches))
            .map_err(|error| format!("{error:?}"))
            .expect("new")
    }

    /// Sends as the runtime's sender; returns the number.
    pub fn send(&self, to: Origin, payload: &[u8], tray: &Arc<Tray>, place: usize) -> u64 {
        let number = Number::Next(self.runtime.sender());
        let ticket = tray.ticket(place);
        self.runtime.router().send(to, &number, payload, Some(ticket))
    }

    /// The payloads that its daemons were given.
    pub fn seen(&self) -> Vec<Vec<u8>> {
        self.switches.seen.lock().clone()
    }
}

/// Hears what became of events.
#[derive(Default)]
pub struct Tray {
    heard: Mutex<BTreeMap<usize, Sent>>,
    twice: AtomicU64,
    bell: Condvar,
}

impl Hear for Tray {
    fn hear(&self, heard: &mut dyn Iterator<Item = (usize, Sent)>) {
        let mut known = self.heard.lock();
        for (place, sent) in heard {
            if known.insert(place, sent).is_some() {
                self.twice.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.bell.notify_all();
    }
}

impl Tray {
    pub fn ticket(self: &Arc<Self>, place: usize) -> Ticket {
        let to: Arc<dyn Hear> = Arc::clone(self) as Arc<dyn Hear>;
        Ticket { to, place }
    }

    /// Waits until so many were told.
    pub fn wait(&self, count: usize) -> Vec<Sent> {
        let end = Instant::now() + PATIENCE;
        let mut heard = self.heard.lock();
        while heard.len() < count {
            assert!(Instant::now() < end, "{} of {count} are told", heard.len());
            heard = self.bell.wait_until(heard, end);
        }
        assert_eq!(self.twice.load(Ordering::Relaxed), 0, "each is told once");
        heard.values().copied().collect()
    }

    pub fn told(&self) -> usize {
        self.heard.lock().len()
    }
}

/// The receipt of an event that took effect.
pub fn taken(sent: &Sent) -> (Receipt, bool) {
    match sent {
        Sent::Taken { receipt, duplicate } => (*receipt, *duplicate),
        other => panic!("it did not take effect: {other:?}"),
    }
}

/// An event that makes a daemon send `rest` to another.
pub fn forward(to: Origin, rest: &[u8]) -> Vec<u8> {
    [b"fwd", &to.get().to_le_bytes()[..], rest].concat()
}
