//! Nodes that see each other: alive, suspect, dead, back, forged, and bodies between them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use meshos_core::capability::CapabilitySet;
use meshos_core::codec::{DecodeError, Fault};
use meshos_core::engine::{Engine, Payload, Receive, Topic};
use meshos_core::frame::{self, Header, Kind, MeshId, Refusal};
use meshos_core::heartbeat::Beat;
use meshos_core::identity::Keypair;
use meshos_core::peer::{NodeHealth, Samples};
use meshos_core::presence::{Members, PeerState, PresenceConfig};
use meshos_core::testing::meshes;
use meshos_core::testing::samples::keypair;
use meshos_node::clock::Deadline;
use meshos_node::local_engine::LocalNetwork;
use meshos_node::mesh::{Delivered, JoinError, Mesh, MeshConfig, PeerWaitError, PostError, Take};
use meshos_node::mesh_probes::MeshProbe;

/// Of all malformed frames the count is one.
const MALFORMED: Refusal = Refusal::Malformed(DecodeError {
    offset: 0,
    fault: Fault::Magic,
});
const PATIENCE: Duration = Duration::from_secs(20);

fn config() -> MeshConfig {
    MeshConfig {
        presence: PresenceConfig {
            interval: Duration::from_millis(40),
            beats_per_second: 100_000,
            ..PresenceConfig::default()
        },
        ..MeshConfig::default()
    }
}

pub struct Cluster {
    network: LocalNetwork,
    id: MeshId,
    members: Members,
    pub nodes: Vec<Mesh>,
}

impl Cluster {
    pub fn of(count: u8) -> Self {
        let keys = 1..=count;
        let listed: BTreeSet<_> = keys.clone().map(|byte| keypair(byte).entity_id()).collect();
        let mut cluster = Self {
            network: LocalNetwork::new(),
            id: MeshId::of(b"a cluster"),
            members: Members::Listed(Arc::new(listed)),
            nodes: Vec::new(),
        };
        cluster.nodes = keys.map(|byte| cluster.join(byte)).collect();
        cluster
    }

    fn join(&self, byte: u8) -> Mesh {
        let key = Arc::new(keypair(byte));
        let engine = Arc::new(self.network.join(key.entity_id()));
        Mesh::join(key, self.id, self.members.clone(), engine, &config()).expect("it can join")
    }

    pub fn all_alive(&self) {
        for node in &self.nodes {
            for other in self.nodes.iter().filter(|other| other.node_id() != node.node_id()) {
                alive(node, other);
            }
        }
    }
}

pub fn alive(node: &Mesh, other: &Mesh) {
    let found = node.wait_for_peer(other.node_id(), Deadline::after(PATIENCE), || false);
    assert_eq!(found.expect("it comes").entity, other.entity_id());
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let (_keep, moment) = channel::<()>();
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        let _ = moment.recv_timeout(Duration::from_millis(1));
    }
}

fn state(node: &Mesh, other: &Mesh) -> Option<PeerState> {
    node.peer(other.node_id()).map(|peer| peer.state)
}

/// Waits until a peer looks as it should.
fn becomes(node: &Mesh, other: &Mesh, wanted: PeerState) {
    eventually("it becomes so", || state(node, other) == Some(wanted));
}

struct Queue(Sender<Delivered>);

impl Take for Queue {
    fn take(&self, delivered: Delivered) -> bool {
        self.0.send(delivered).is_ok()
    }
}

fn queue(node: &Mesh, kind: Kind) -> Receiver<Delivered> {
    let (sender, receiver) = channel();
    node.attach(kind, Arc::new(Queue(sender)));
    receiver
}

fn refused(node: &Mesh, refusal: Refusal) -> u64 {
    node.stats().refused[refusal.index()]
}

#[test]
fn nodes_find_each_other_and_measure_round_trips() {
    let cluster = Cluster::of(4);
    cluster.all_alive();
    for node in &cluster.nodes {
        eventually("round trips are measured", || {
            node.peers().iter().all(|peer| peer.rtt.is_some())
        });
        assert_eq!(node.peers().len(), 3);
        assert!(
            node.peers()
                .iter()
                .all(|peer| peer.rtt.expect("it was measured") < Duration::from_secs(5))
        );
        assert!(node.peers().is_sorted_by_key(|peer| peer.node));
        assert_eq!(
            node.stats().refused.iter().sum::<u64>() - refused(node, Refusal::Replayed),
            0
        );
    }
}

#[test]
fn a_node_that_closes_is_suspect_and_then_dead() {
    let cluster = Cluster::of(3);
    cluster.all_alive();
    let gone = &cluster.nodes[2];
    gone.close();
    gone.close();
    assert!(gone.is_closed());
    assert!(gone.post(&cluster.nodes[0].entity_id(), Kind::DATA, b"").is_err());
    for wanted in [PeerState::Suspect, PeerState::Dead] {
        cluster.nodes[..2].iter().for_each(|node| becomes(node, gone, wanted));
    }
    assert_eq!(state(&cluster.nodes[0], &cluster.nodes[1]), Some(PeerState::Alive));
    let dead = cluster.nodes[0].post(&gone.entity_id(), Kind::DATA, b"");
    assert_eq!(dead, Err(PostError::NotThere));
    let waited = gone.wait_for_peer(cluster.nodes[0].node_id(), Deadline::never(), || false);
    assert_eq!(waited.unwrap_err(), PeerWaitError::Closed);
}

#[test]
fn a_node_that_stands_still_is_suspect_and_comes_back() {
    let cluster = Cluster::of(3);
    cluster.all_alive();
    let still = &cluster.nodes[1];
    still.pause(true);
    for node in [&cluster.nodes[0], &cluster.nodes[2]] {
        becomes(node, still, PeerState::Suspect);
    }
    still.pause(false);
    cluster.all_alive();
    becomes(&cluster.nodes[0], still, PeerState::Alive);
    becomes(still, &cluster.nodes[0], PeerState::Alive);
}

#[test]
fn a_new_run_takes_the_place_of_the_old_one() {
    let mut cluster = Cluster::of(2);
    cluster.all_alive();
    let first = cluster.nodes[1].run();
    let one = cluster.nodes[0].clone();
    let bodies = queue(&one, Kind::DATA);
    cluster.nodes[1]
        .post(&one.entity_id(), Kind::DATA, b"first")
        .expect("it is there");
    bodies.recv_timeout(PATIENCE).expect("it arrives");
    cluster.nodes.remove(1).close();
    let again = cluster.join(2);
    assert!(again.run() > first);
    eventually("the new run is heard", || {
        one.peer(again.node_id())
            .is_some_and(|peer| peer.beat.run == again.run() && peer.state == PeerState::Alive)
    });
    alive(&again, &one);
    // Each side has keys of the new run.
    again
        .post(&one.entity_id(), Kind::DATA, b"second")
        .expect("it is there");
    assert_eq!(bodies.recv_timeout(PATIENCE).expect("it arrives").body(), b"second");
    let back = queue(&again, Kind::DATA);
    one.post(&again.entity_id(), Kind::DATA, b"back").expect("it is there");
    assert_eq!(back.recv_timeout(PATIENCE).expect("it arrives").body(), b"back");
}

#[test]
fn what_a_node_announces_is_seen() {
    let cluster = Cluster::of(2);
    cluster.all_alive();
    let offered = CapabilitySet::parse(["hardware.gpu", "zone:a"], []).expect("good tags");
    assert!(cluster.nodes[1].announce(offered.clone()));
    eventually("it is seen", || {
        let peer = cluster.nodes[0].peer(cluster.nodes[1].node_id());
        *peer.expect("it is known").beat.heartbeat.capabilities == offered
    });
    let much = [("k".to_owned(), "v".repeat(10_000))];
    assert!(!cluster.nodes[1].announce(CapabilitySet::parse([""; 0], much).expect("a set")));
}

/// Everything a stranger, a liar or a bad wire could do to a heartbeat.
#[test]
fn forged_and_damaged_heartbeats_are_refused_and_counted() {
    let cluster = Cluster::of(3);
    cluster.all_alive();
    let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
    let beat = |key: &Keypair, mesh: MeshId, run: u64, counter: u64| {
        Beat::sign(&meshes::heartbeat(), mesh, run, counter, key).expect("a whole key")
    };
    let (id, stranger, second) = (cluster.id, keypair(9), keypair(2));
    let mut renamed = beat(&stranger, id, two.run() + 1, 1);
    renamed[24..56].copy_from_slice(two.entity_id().as_bytes());
    let mut altered = beat(&second, id, two.run() + 1, 1);
    altered[150] ^= 1;
    let good = beat(&second, id, two.run(), 0);
    let cases = [
        (renamed, Refusal::BadSeal),
        (altered, Refusal::BadSeal),
        (good[..good.len() - 1].to_vec(), MALFORMED),
        (
            beat(&second, MeshId::of(b"another"), two.run() + 1, 1),
            Refusal::OtherMesh,
        ),
        (beat(&stranger, id, 1, 1), Refusal::UnknownSender),
        (beat(&keypair(1), id, one.run() + 1, 1), Refusal::Ourselves),
        (beat(&second, id, two.run() - 1, 1 << 40), Refusal::OtherRun),
        (good, Refusal::Replayed),
    ];
    for (bytes, refusal) in cases {
        let before = refused(one, refusal);
        one.inject(bytes);
        eventually(refusal.word(), || refused(one, refusal) > before);
    }
    assert_eq!(one.peer(two.node_id()).expect("it is known").beat.run, two.run());
    assert_eq!(one.peers().len(), 2);
}

#[test]
fn bodies_arrive_sealed_and_once_and_everything_else_is_refused() {
    let cluster = Cluster::of(3);
    cluster.all_alive();
    let (one, two, three) = (&cluster.nodes[0], &cluster.nodes[1], &cluster.nodes[2]);
    // Somebody listens at the topic of the second node.
    let spy = cluster.network.join(keypair(8).entity_id());
    let (copies, wire) = channel();
    let _spies = spy
        .subscribe(&Topic::Node(two.entity_id()), Arc::new(Spy(copies)))
        .expect("open");
    let bodies = queue(two, Kind::DATA);
    for body in [&b"first"[..], b"", &[7; 100_000]] {
        one.post(&two.entity_id(), Kind::DATA, body).expect("it is there");
        let delivered = bodies.recv_timeout(PATIENCE).expect("it arrives");
        assert_eq!((delivered.from, delivered.body()), (one.entity_id(), body));
    }
    let frames: Vec<_> = wire.try_iter().map(|payload| payload.bytes().to_vec()).collect();
    let frames: Vec<_> = frames.into_iter().filter(|frame| frame[6] == Kind::DATA.0).collect();
    assert_eq!(frames.len(), 3);
    let mut altered = frames[0].clone();
    altered[frame::HEADER_SIZE] ^= 1;
    let mut renamed = frames[0].clone();
    renamed[24..56].copy_from_slice(three.entity_id().as_bytes());
    let mut other_run = frames[0].clone();
    other_run[88] ^= 1;
    let header = Header {
        mesh: cluster.id,
        from: keypair(9).entity_id(),
        to: Some(two.entity_id()),
        run: 1,
        number: 1,
        kind: Kind::DATA,
    };
    let cases = [
        (two, frames[0].clone(), Refusal::Replayed),
        (two, altered, Refusal::BadSeal),
        // The third node is known, and runs; but it did not send this, and its run is another.
        (two, renamed, Refusal::OtherRun),
        (two, other_run, Refusal::OtherRun),
        (two, frame::tag(&header, b"", &[0; 32]), Refusal::UnknownSender),
        (three, frames[1].clone(), Refusal::NotForUs),
    ];
    for (node, bytes, refusal) in cases {
        let before = refused(node, refusal);
        node.inject(bytes);
        eventually(refusal.word(), || refused(node, refusal) > before);
    }
    one.post(&two.entity_id(), Kind(77), b"nobody takes it")
        .expect("it is there");
    eventually("its kind", || refused(two, Refusal::UnknownKind) == 1);
    assert!(bodies.try_recv().is_err());
    assert_eq!((one.stats().sent, two.stats().taken), (4, 3));
    assert_eq!(
        one.post(&keypair(9).entity_id(), Kind::DATA, b""),
        Err(PostError::NotThere)
    );
}

struct Spy(Sender<Payload>);

impl Receive for Spy {
    fn receive(&self, _topic: &Topic, payload: &Payload) -> bool {
        self.0.send(payload.clone()).is_ok()
    }
}

#[test]
fn a_full_inbox_refuses_and_counts() {
    let cluster = Cluster::of(2);
    cluster.all_alive();
    let one = &cluster.nodes[0];
    one.pause(true);
    for _ in 0..meshos_node::mesh::INBOX_MAX + 100 {
        one.inject(vec![0; 10]);
    }
    assert!(refused(one, Refusal::Full) >= 100);
    one.pause(false);
    let malformed = MALFORMED.index();
    eventually("the rest is looked at", || one.stats().refused[malformed] > 1_000);
    cluster.all_alive();
}

#[test]
fn waits_end_in_time() {
    let cluster = Cluster::of(1);
    let nobody = keypair(9).node_id();
    let node = &cluster.nodes[0];
    let begun = Instant::now();
    let timeout = node.wait_for_peer(nobody, Deadline::after(Duration::from_millis(60)), || false);
    assert_eq!(timeout.unwrap_err(), PeerWaitError::Timeout);
    let given_up = node.wait_for_peer(nobody, Deadline::never(), || true);
    assert_eq!(given_up.unwrap_err(), PeerWaitError::Interrupted);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| node.wait_for_peer(nobody, Deadline::never(), || false));
        node.close();
        assert_eq!(waits.join().expect("no panic").unwrap_err(), PeerWaitError::Closed);
    });
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn who_cannot_join_is_told_why() {
    let network = LocalNetwork::new();
    let key = Arc::new(Keypair::public_only(keypair(1).entity_id()));
    let engine: Arc<dyn Engine> = Arc::new(network.join(key.entity_id()));
    let id = MeshId::of(b"");
    let refused = Mesh::join(key, id, Members::Anybody, Arc::clone(&engine), &config());
    assert_eq!(refused.err(), Some(JoinError::ReadOnly));
    engine.close();
    let refused = Mesh::join(Arc::new(keypair(1)), id, Members::Anybody, engine, &config());
    assert!(matches!(refused.err(), Some(JoinError::Engine(_))));
}

#[test]
fn probes_show_the_peers() {
    let cluster = Cluster::of(3);
    cluster.all_alive();
    let [locality, health, inventory] = MeshProbe::all(&cluster.nodes[0]);
    assert!(cluster.nodes[1].announce(CapabilitySet::parse(["gpu"], []).expect("a tag")));
    let (second, third) = (cluster.nodes[1].node_id(), cluster.nodes[2].node_id());
    eventually(
        "round trips",
        || matches!(locality.sample(), Ok(Samples::Locality(all)) if all.len() == 2),
    );
    eventually("tags", || {
        let Ok(Samples::Inventory(all)) = inventory.sample() else {
            return false;
        };
        let of_second = all.iter().find(|(node, _)| *node == second).expect("it is alive");
        let tags = of_second.1.capability_set.as_ref().expect("it said so");
        assert_eq!(of_second.1.software_version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
        tags.contains("gpu")
    });
    cluster.nodes[2].close();
    for wanted in [NodeHealth::Degraded, NodeHealth::Unreachable] {
        eventually(
            "health",
            || matches!(health.sample(), Ok(Samples::Health(all)) if all.contains(&(third, wanted))),
        );
    }
    eventually(
        "the dead have nothing",
        || matches!(inventory.sample(), Ok(Samples::Inventory(all)) if all.len() == 1),
    );
}
