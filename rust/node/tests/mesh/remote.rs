//! Calls to other nodes: done once, by who may, whole, and in time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use meshos_core::config::DaemonHostConfig;
use meshos_core::frame::Kind;
use meshos_core::id::{EntityId, Origin};
use meshos_core::ownership::OwnershipRecord;
use meshos_core::remote_frame::{CallId, PART_BYTES_MAX, Reason, Refused, Request};
use meshos_node::carrier::Carrier;
use meshos_node::clock::Deadline;
use meshos_node::fed::Reader;
use meshos_node::lane::Lanes;
use meshos_node::mesh::Mesh;
use meshos_node::remote::{CallError, Remote, Steward, refused};
use meshos_node::sync::{Condvar, Mutex};

use crate::nodes::{Cluster, alive};

const MIB: u64 = PART_BYTES_MAX as u64;
const PATIENCE: Duration = Duration::from_secs(20);

/// Stops daemons and takes snapshots of three sizes; holds one call up until it is let go.
#[derive(Default)]
struct Hand {
    stopped: Mutex<Vec<Origin>>,
    asked: Mutex<Option<(CallId, Origin, u64)>>,
    snapshots: AtomicU32,
    held: Mutex<bool>,
    bell: Condvar,
    entered: AtomicBool,
}

impl Hand {
    fn let_go(&self) {
        *self.held.lock() = false;
        self.bell.notify_all();
    }
}

fn snapshot(size: u64) -> Vec<u8> {
    (0..size).map(|at| (at ^ at >> 11) as u8).collect()
}

impl Steward for Hand {
    fn spawn(&self, _: &OwnershipRecord, _: &str, _: DaemonHostConfig) -> Result<(), Refused> {
        Err(refused(Reason::NoFactory, "none"))
    }

    fn stop(&self, origin: Origin) -> Result<(), Refused> {
        self.entered.store(true, Ordering::Release);
        let mut held = self.held.lock();
        while *held {
            held = self.bell.wait(held);
        }
        drop(held);
        self.stopped.lock().push(origin);
        Ok(())
    }

    fn snapshot(&self, origin: Origin) -> Result<Option<Vec<u8>>, Refused> {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
        match origin.get() {
            0 => Ok(None),
            1 => Err(refused(Reason::NotFound, "no daemon 1")),
            size => Ok(Some(snapshot(size))),
        }
    }

    fn outputs(&self, (_, name): Reader, origin: Origin, after: u64) -> Result<(), Refused> {
        *self.asked.lock() = Some((name, origin, after));
        Ok(())
    }
}

struct Node {
    mesh: Mesh,
    remote: Remote,
    hand: Arc<Hand>,
}

fn node(mesh: &Mesh) -> Node {
    let lanes = Lanes::new("lane", 2, |run| run());
    let remote = Remote::new(Carrier::mesh(mesh.clone()), lanes);
    let hand = Arc::new(Hand::default());
    let steward: Weak<dyn Steward> = Arc::downgrade(&(Arc::clone(&hand) as Arc<dyn Steward>));
    remote.serve(steward);
    Node {
        mesh: mesh.clone(),
        remote,
        hand,
    }
}

fn pair() -> (Cluster, Node, Node) {
    let cluster = Cluster::of(2);
    cluster.all_alive();
    let (one, two) = (node(&cluster.nodes[0]), node(&cluster.nodes[1]));
    two.remote.permit(BTreeSet::from([one.mesh.entity_id()]));
    (cluster, one, two)
}

impl Node {
    fn ask(&self, to: EntityId, request: Request) -> Result<Option<Vec<u8>>, CallError> {
        let pending = self.remote.call(to, request, 8 * MIB)?;
        pending.wait(Deadline::after(PATIENCE), || false)
    }
}

fn reason(result: Result<Option<Vec<u8>>, CallError>) -> Option<Reason> {
    match result {
        Err(CallError::Refused(refused)) => Some(refused.reason),
        _ => None,
    }
}

#[test]
fn a_manager_has_things_done_and_gets_snapshots_whole() {
    let (_cluster, one, two) = pair();
    let to = two.mesh.entity_id();
    assert_eq!(one.ask(to, Request::Stop(Origin::new(9))), Ok(None));
    assert_eq!(*two.hand.stopped.lock(), [Origin::new(9)]);
    for size in [2, MIB - 1, MIB, MIB + 1, 3 * MIB + 17] {
        let taken = one.ask(to, Request::Snapshot(Origin::new(size)));
        assert!(taken == Ok(Some(snapshot(size))), "{size}");
    }
    assert_eq!(one.ask(to, Request::Snapshot(Origin::new(0))), Ok(None));
    let (origin, after) = (Origin::new(7), 3);
    let pending = one
        .remote
        .call(to, Request::Outputs { origin, after }, 0)
        .expect("it is open");
    let name = pending.name();
    assert_eq!(pending.wait(Deadline::after(PATIENCE), || false), Ok(None));
    assert_eq!(*two.hand.asked.lock(), Some((name, origin, after)));
    assert_eq!(
        reason(one.ask(to, Request::Snapshot(Origin::new(1)))),
        Some(Reason::NotFound)
    );
    let size = 8 * MIB + 1;
    let large = one.ask(to, Request::Snapshot(Origin::new(size)));
    assert_eq!(large, Err(CallError::TooLarge { size }));
    assert_eq!(two.remote.stats().ran, 10);
}

#[test]
fn who_is_no_manager_has_nothing_done() {
    let (_cluster, one, two) = pair();
    let to_one = one.mesh.entity_id();
    assert_eq!(
        reason(two.ask(to_one, Request::Stop(Origin::new(9)))),
        Some(Reason::NotPermitted)
    );
    assert!(one.hand.stopped.lock().is_empty());
    assert_eq!((one.remote.stats().ran, one.remote.stats().refused), (0, 1));
    one.remote.permit(BTreeSet::from([two.mesh.entity_id()]));
    assert_eq!(two.ask(to_one, Request::Stop(Origin::new(9))), Ok(None));
    one.remote.permit(BTreeSet::new());
    assert_eq!(
        reason(two.ask(to_one, Request::Stop(Origin::new(9)))),
        Some(Reason::NotPermitted)
    );
}

#[test]
fn a_node_may_ask_itself_also_when_it_is_alone() {
    let own = EntityId::from_bytes([1; 32]);
    let remote = Remote::new(Carrier::alone(own), Lanes::new("lane", 1, |run| run()));
    let ask = || {
        let pending = remote
            .call(own, Request::Stop(Origin::new(4)), MIB)
            .expect("it is open");
        pending.wait(Deadline::after(PATIENCE), || false)
    };
    assert_eq!(reason(ask()), Some(Reason::NotPermitted));
    remote.permit(BTreeSet::from([own]));
    assert_eq!(reason(ask()), Some(Reason::NotReady));
    let hand = Arc::new(Hand::default());
    let steward: Weak<dyn Steward> = Arc::downgrade(&(Arc::clone(&hand) as Arc<dyn Steward>));
    remote.serve(steward);
    assert_eq!(ask(), Ok(None));
    assert_eq!(hand.stopped.lock().len(), 1);
}

#[test]
fn a_call_ends_at_its_deadline_at_a_signal_and_at_the_close() {
    let (cluster, one, two) = pair();
    let to = two.mesh.entity_id();
    *two.hand.held.lock() = true;
    let call = || {
        one.remote
            .call(to, Request::Stop(Origin::new(9)), MIB)
            .expect("it is open")
    };
    let pending = call();
    assert_eq!(
        pending.wait(Deadline::after(Duration::from_millis(1)), || false),
        Err(CallError::Timeout)
    );
    let pending = call();
    assert_eq!(
        pending.wait(Deadline::after(PATIENCE), || true),
        Err(CallError::Interrupted)
    );
    let pending = call();
    one.remote.close();
    assert_eq!(
        pending.wait(Deadline::after(PATIENCE), || false),
        Err(CallError::Closed)
    );
    assert!(matches!(
        one.remote.call(to, Request::Stop(Origin::new(9)), MIB),
        Err(CallError::Closed)
    ));
    two.hand.let_go();
    drop(cluster);
}

#[test]
fn a_call_that_takes_long_is_run_once_however_often_it_is_asked_for() {
    let (_cluster, one, two) = pair();
    *two.hand.held.lock() = true;
    let to = two.mesh.entity_id();
    let pending = one
        .remote
        .call(to, Request::Stop(Origin::new(9)), MIB)
        .expect("it is open");
    while !two.hand.entered.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    // While it stands still the other side asks again; when it goes on it hears of it more than once.
    two.mesh.pause(true);
    let sent = one.mesh.stats().sent;
    while one.mesh.stats().sent < sent + 2 {
        std::thread::yield_now();
    }
    two.mesh.pause(false);
    two.hand.let_go();
    assert_eq!(pending.wait(Deadline::after(PATIENCE), || false), Ok(None));
    assert_eq!((two.hand.stopped.lock().len(), two.remote.stats().ran), (1, 1));
}

#[test]
fn a_node_that_vanishes_in_the_middle_leaves_a_timeout() {
    let (_cluster, one, two) = pair();
    *two.hand.held.lock() = true;
    let to = two.mesh.entity_id();
    let pending = one
        .remote
        .call(to, Request::Snapshot(Origin::new(3 * MIB)), 8 * MIB)
        .expect("it is open");
    two.mesh.close();
    let ended = pending.wait(Deadline::after(Duration::from_millis(300)), || false);
    // What was answered before it vanished counts.
    assert!(ended == Err(CallError::Timeout) || ended == Ok(Some(snapshot(3 * MIB))));
}

#[test]
fn bytes_that_are_no_call_are_counted() {
    let (_cluster, one, two) = pair();
    let to = two.mesh.entity_id();
    for body in [&b""[..], b"\x01", b"\x02\x60", &[1; 40]] {
        one.mesh.post(&to, Kind::REMOTE, body).expect("it is sent");
    }
    assert_eq!(one.ask(to, Request::Stop(Origin::new(9))), Ok(None));
    assert_eq!(two.remote.stats().malformed, 4);
    alive(&one.mesh, &two.mesh);
}
