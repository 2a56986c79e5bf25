//! What meshes cost: a thousand idle nodes in one process, and bodies from one node to another.
//!
//! `cargo bench -p meshos-node --bench mesh`; a number as argument is how many nodes idle.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use meshos_core::frame::{self, Frame, Header, Kind, MeshId};
use meshos_core::heartbeat::Beat;
use meshos_core::presence::{Members, PeerState};
use meshos_core::testing::meshes;
use meshos_node::clock::Deadline;
use meshos_node::keys;
use meshos_node::local_engine::LocalNetwork;
use meshos_node::mesh::{Delivered, Mesh, MeshConfig, Take};

fn main() {
    let nodes = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    seals();
    bodies();
    idle(nodes.unwrap_or(1000));
}

#[allow(clippy::print_stdout, reason = "a benchmark says what it measured")]
fn say(text: &str) {
    println!("{text}");
}

fn each(name: &str, count: u32, mut work: impl FnMut()) {
    let begun = Instant::now();
    (0..count).for_each(|_| work());
    say(&format!(
        "{name}: {:.3} µs",
        begun.elapsed().as_secs_f64() * 1e6 / f64::from(count)
    ));
}

/// What a frame costs its sender and its receiver, sealed in each way.
fn seals() {
    let (key, session) = (keys::generate(), meshes::keys());
    let header = Header {
        mesh: meshes::mesh(),
        from: key.entity_id(),
        to: None,
        run: 1,
        number: 1,
        kind: Kind::DATA,
    };
    for size in [64, 1024, 65_536] {
        let body = vec![7; size];
        let signed = frame::sign(&header, &body, &key).expect("a whole key");
        let tagged = frame::tag(&header, &body, session.send());
        each(&format!("sign {size} B"), 2_000, || {
            drop(black_box(frame::sign(&header, &body, &key)))
        });
        each(&format!("check signature {size} B"), 2_000, || {
            let frame = Frame::decode(black_box(&signed)).expect("good bytes");
            frame.check_signature().expect("a good signature");
        });
        each(&format!("tag {size} B"), 20_000, || {
            drop(black_box(frame::tag(&header, &body, session.send())))
        });
        each(&format!("check tag {size} B"), 20_000, || {
            let frame = Frame::decode(black_box(&tagged)).expect("good bytes");
            frame.check_tag(session.send()).expect("a good tag");
        });
    }
    each("heartbeat: make and sign", 2_000, || {
        drop(black_box(Beat::sign(&meshes::heartbeat(), meshes::mesh(), 1, 1, &key)));
    });
    let ((secret, ours), (_, theirs)) = (meshes::side(0), meshes::side(1));
    each("agree on the keys of a session", 2_000, || {
        drop(black_box(secret.agree(&meshes::mesh(), &ours, &theirs)));
    });
}

fn cluster(count: usize) -> Vec<Mesh> {
    let network = LocalNetwork::new();
    let all: Vec<_> = (0..count).map(|_| Arc::new(keys::generate())).collect();
    let listed: BTreeSet<_> = all.iter().map(|key| key.entity_id()).collect();
    let members = Members::Listed(Arc::new(listed));
    let id = MeshId::of(&keys::random_bytes::<32>());
    let engines: Vec<_> = all.iter().map(|key| Arc::new(network.join(key.entity_id()))).collect();
    let join = |(key, engine)| Mesh::join(key, id, members.clone(), engine, &MeshConfig::default());
    let nodes = all
        .into_iter()
        .zip(engines.into_iter().map(|engine| engine as _))
        .map(join);
    nodes.map(|node| node.expect("it can join")).collect()
}

struct Count(AtomicU64);

impl Take for Count {
    fn take(&self, delivered: Delivered) -> bool {
        black_box(delivered.body());
        self.0.fetch_add(1, Ordering::Release);
        true
    }
}

/// Bodies from one node to another, at most 64 of them on their way.
fn bodies() {
    let nodes = cluster(2);
    for (one, two) in [(0, 1), (1, 0)] {
        let wait = nodes[one].wait_for_peer(nodes[two].node_id(), Deadline::after(Duration::from_secs(10)), || false);
        wait.expect("it comes");
    }
    let taken = Arc::new(Count(AtomicU64::new(0)));
    nodes[1].attach(Kind::DATA, taken.clone());
    let to = nodes[1].entity_id();
    for size in [64, 1024] {
        let (body, count) = (vec![7; size], 500_000_u64);
        let before = taken.0.load(Ordering::Acquire);
        let begun = Instant::now();
        for number in 0..count {
            while before + number >= taken.0.load(Ordering::Acquire) + 64 {
                std::thread::yield_now();
            }
            nodes[0].post(&to, Kind::DATA, &body).expect("it is there");
        }
        while taken.0.load(Ordering::Acquire) < before + count {
            std::thread::yield_now();
        }
        let rate = count as f64 / begun.elapsed().as_secs_f64();
        say(&format!("bodies of {size} B, 64 in flight: {rate:.0}/s"));
    }
}

/// Processor time of this process.
fn used() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}

fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

fn idle(count: usize) {
    let begun = Instant::now();
    let nodes = cluster(count);
    let (_keep, moment) = channel::<()>();
    let is_whole = |node: &Mesh| {
        let peers = node.peers();
        peers.len() == count - 1 && peers.iter().all(|peer| peer.state == PeerState::Alive)
    };
    while !nodes.iter().all(is_whole) {
        let _ = moment.recv_timeout(Duration::from_millis(50));
    }
    say(&format!(
        "{count} nodes know each other after {:.2} s, {} threads, {} MiB",
        begun.elapsed().as_secs_f64(),
        threads(),
        memory_mib()
    ));
    // What came with the start is over.
    let _ = moment.recv_timeout(Duration::from_secs(5));
    let stats = || nodes.iter().map(|node| node.stats().presence.heard).sum::<u64>();
    let (heard, before, begun) = (stats(), used(), Instant::now());
    let _ = moment.recv_timeout(Duration::from_secs(60));
    let (spent, elapsed) = (used() - before, begun.elapsed());
    let share = 100.0 * spent.as_secs_f64() / elapsed.as_secs_f64();
    let rate = (stats() - heard) as f64 / elapsed.as_secs_f64();
    say(&format!(
        "{count} idle nodes: {share:.2} % of a core, {rate:.0} heartbeats heard a second, {} MiB",
        memory_mib()
    ));
    let begun = Instant::now();
    nodes.iter().for_each(Mesh::close);
    drop(nodes);
    say(&format!("closed in {:.2} s", begun.elapsed().as_secs_f64()));
}
