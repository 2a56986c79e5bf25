//! Nodes of one mesh, each with the machines of moves over a fake, and what a test asks of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use meshos_core::directory::DirectoryConfig;
use meshos_core::frame::{Kind, MeshId};
use meshos_core::id::{EntityId, Origin};
use meshos_core::identity::Keypair;
use meshos_core::move_rows::{Item, Queued};
use meshos_core::owner::OwnerConfig;
use meshos_core::presence::{Members, PresenceConfig};
use meshos_core::rows::{KeyRange, Table};
use meshos_core::store::memory::MemoryStore;
use meshos_node::carrier::Carrier;
use meshos_node::clock::Deadline;
use meshos_node::hands::Hands;
use meshos_node::journal::{SharedStore, Stores};
use meshos_node::local_engine::LocalNetwork;
use meshos_node::mesh::{Mesh, MeshConfig};
use meshos_node::moves::{Described, Move, MoveEnd, MoveOpts, Moves};
use meshos_node::ownership::{Ownership, OwnershipConfig};
use meshos_node::sync::{Condvar, Mutex};

use crate::fake::Fake;

pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn within() -> Deadline {
    Deadline::after(PATIENCE)
}

pub struct Node {
    pub mesh: Mesh,
    pub ownership: Arc<Ownership>,
    pub moves: Arc<Moves>,
    pub fake: Arc<Fake>,
    pub key: Arc<Keypair>,
    pub stores: Stores,
}

pub fn cluster(nodes: u8) -> Vec<Node> {
    let (network, id) = (LocalNetwork::new(), MeshId::of(b"moves"));
    let pairs: Vec<_> = (0..nodes)
        .map(|node| Arc::new(Keypair::from_seed(&[150 + node; 32])))
        .collect();
    let members = Members::Listed(Arc::new(
        pairs.iter().map(|key| key.entity_id()).collect::<BTreeSet<_>>(),
    ));
    let directory = pairs[0].entity_id();
    let config = MeshConfig {
        presence: PresenceConfig {
            interval: Duration::from_millis(40),
            beats_per_second: 100_000,
            ..PresenceConfig::default()
        },
        ..MeshConfig::default()
    };
    let keys: Arc<Mutex<BTreeMap<EntityId, Arc<Keypair>>>> = Arc::default();
    let node = |key: &Arc<Keypair>| {
        let engine = Arc::new(network.join(key.entity_id()));
        let mesh = Mesh::join(Arc::clone(key), id, members.clone(), engine, &config).expect("it joins");
        let store = SharedStore::new(MemoryStore::new());
        let stores: Stores = Arc::new(move || Box::new(store.clone()));
        let carrier = Carrier::mesh(mesh.clone());
        let options = OwnershipConfig {
            owner: OwnerConfig::default(),
            directory: DirectoryConfig::default(),
        };
        let ownership = Ownership::join(
            carrier.clone(),
            Arc::clone(key),
            Arc::clone(&stores),
            directory,
            options,
        );
        let ownership = ownership.expect("its rows are read");
        let moves = Moves::join(carrier, Arc::clone(key), Arc::clone(&stores), Arc::clone(&ownership));
        let moves = moves.expect("its rows are read");
        let fake = Arc::new_cyclic(|me| Fake {
            node: Arc::clone(key),
            ownership: Arc::clone(&ownership),
            stores: Arc::clone(&stores),
            things: Mutex::default(),
            standby: Mutex::default(),
            held: Mutex::default(),
            keys: Arc::clone(&keys),
            script: Mutex::default(),
            late: Mutex::default(),
            constructing: Mutex::default(),
            made: Mutex::default(),
            log: Mutex::default(),
            bell: Condvar::new(),
            me: Weak::clone(me),
        });
        let hands: Arc<dyn Hands> = Arc::clone(&fake) as Arc<dyn Hands>;
        moves.serve(Arc::downgrade(&hands));
        Node {
            mesh,
            ownership,
            moves,
            fake,
            key: Arc::clone(key),
            stores,
        }
    };
    let made: Vec<_> = pairs.iter().map(node).collect();
    for one in &made {
        for other in &pairs {
            if other.entity_id() != one.key.entity_id() {
                one.mesh
                    .wait_for_peer(other.entity_id().node_id(), within(), &mut || false)
                    .expect("it is heard");
            }
        }
    }
    made
}

impl Node {
    pub fn id(&self) -> EntityId {
        self.key.entity_id()
    }

    pub fn describe(&self, node: &Self, entity: &EntityId) -> Described {
        let described = self.moves.describe(node.id(), entity.origin(), within(), || false);
        described.expect("it answers")
    }

    pub fn order(&self, entity: &EntityId, source: &Self, target: &Self, opts: MoveOpts) -> Arc<Move> {
        let found = self.describe(source, entity);
        self.moves.begin(found, target.id(), opts).expect("it begins")
    }

    pub fn rows(&self) -> Vec<Item> {
        let store = (self.stores)();
        let rows = store.page(Table::Moves, &KeyRange::all(), 100).expect("it is read");
        rows.iter()
            .map(|(key, value)| Item::decode(key, value).expect("it is a row").2)
            .collect()
    }
}

#[track_caller]
pub fn end(ordered: &Move) -> MoveEnd {
    ordered.wait(within(), || false).expect("it ends in time")
}

pub fn patient() -> MoveOpts {
    MoveOpts {
        freeze_max: PATIENCE,
        ..MoveOpts::default()
    }
}

pub fn quick() -> MoveOpts {
    MoveOpts {
        freeze_max: Duration::from_millis(300),
        ..MoveOpts::default()
    }
}

pub fn queued(from: EntityId, sequence: u64) -> Queued {
    Queued {
        from,
        origin: Origin::new(9),
        stream: 0,
        sequence,
        prev: sequence - 1,
        payload: sequence.to_le_bytes().to_vec(),
    }
}

/// Waits until a node has read all that another one sent.
pub fn has_read(node: &Node, sender: &Carrier) {
    let before = node.moves.stats().malformed;
    sender.post(&node.id(), Kind::MOVE, b"the end").expect("it leaves");
    let deadline = within();
    while node.moves.stats().malformed == before {
        assert!(!deadline.passed(), "it does not read");
        thread::yield_now();
    }
}
