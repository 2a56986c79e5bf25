//! Several nodes and one directory: a daemon runs at one of them, while that has a lease.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use common::kept::Told;
use common::{Event, Sum, Switches, config, lanes, never, until};
use meshos_core::certificate::Reason;
use meshos_core::config::{DaemonHostConfig, Durability};
use meshos_core::directory::DirectoryConfig;
use meshos_core::event::DaemonLifecycleSignal;
use meshos_core::frame::{Kind, MeshId};
use meshos_core::host::Few;
use meshos_core::identity::Keypair;
use meshos_core::owner::OwnerConfig;
use meshos_core::ownership::{Lineage, OwnershipRecord};
use meshos_core::ownership_frame::{Ask, Body, OwnershipFrame};
use meshos_core::parcel::Packer;
use meshos_core::presence::{Members, PresenceConfig};
use meshos_core::store::check::check;
use meshos_core::store::memory::MemoryStore;
use meshos_core::testing::ownership;
use meshos_core::verify::verify;
use meshos_node::carrier::Carrier;
use meshos_node::clock::{self, Deadline};
use meshos_node::daemon::{Daemon, DeliverError};
use meshos_node::deliver::{self, Want};
use meshos_node::journal::{SharedStore, Stores};
use meshos_node::lease::Unleased;
use meshos_node::local_engine::LocalNetwork;
use meshos_node::mailbox::Letter;
use meshos_node::mesh::{Mesh, MeshConfig};
use meshos_node::ownership::{Denied, Ownership, OwnershipConfig, Wish};
use meshos_node::ownership_central::TakeOverError;
use meshos_node::runtime::{ReachError, Runtime, SpawnError};
use meshos_node::slot::{SharedKey, Slot};
use meshos_node::sync::Mutex;

const LEASE: Duration = Duration::from_millis(400);
const SKEW: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);

fn options() -> OwnershipConfig {
    OwnershipConfig {
        owner: OwnerConfig {
            margin: Duration::from_millis(40),
            renew_every: Duration::from_millis(80),
            resend: Duration::from_millis(40),
            ..OwnerConfig::default()
        },
        directory: DirectoryConfig {
            lease: LEASE,
            skew: SKEW,
            retry: Duration::from_millis(50),
            ..DirectoryConfig::default()
        },
    }
}

struct Node {
    mesh: Mesh,
    ownership: Arc<Ownership>,
    runtime: Arc<Runtime<Sum>>,
    switches: Arc<Switches>,
    told: Arc<Told>,
}

/// What outlives a process: keys and stores.
struct Disks(Vec<(Arc<Keypair>, SharedStore<MemoryStore>)>);

impl Disks {
    fn of(nodes: u8) -> Self {
        let disk = |node| {
            let key = Arc::new(Keypair::from_seed(&[100 + node; 32]));
            (key, SharedStore::new(MemoryStore::new()))
        };
        Self((0..nodes).map(disk).collect())
    }

    fn stores(&self, node: usize) -> Stores {
        let store = self.0[node].1.clone();
        Arc::new(move || Box::new(store.clone()))
    }

    fn start(&self) -> Vec<Node> {
        let (network, id) = (LocalNetwork::new(), MeshId::of(b"owners"));
        let listed: BTreeSet<_> = self.0.iter().map(|(key, _)| key.entity_id()).collect();
        let members = Members::Listed(Arc::new(listed));
        let directory = self.0[0].0.entity_id();
        let options_of_mesh = MeshConfig {
            presence: PresenceConfig {
                interval: Duration::from_millis(40),
                beats_per_second: 100_000,
                ..PresenceConfig::default()
            },
            ..MeshConfig::default()
        };
        let node = |(index, (key, _)): (usize, &(Arc<Keypair>, _))| {
            let engine = Arc::new(network.join(key.entity_id()));
            let mesh = Mesh::join(Arc::clone(key), id, members.clone(), engine, &options_of_mesh).expect("it joins");
            let (carrier, stores) = (Carrier::mesh(mesh.clone()), self.stores(index));
            let joined = Ownership::join(
                carrier.clone(),
                Arc::clone(key),
                Arc::clone(&stores),
                directory,
                options(),
            );
            let ownership = joined.expect("its rows are read");
            let runtime = Runtime::with_carrier(Arc::clone(key), lanes(), stores, carrier);
            let runtime = Arc::new(runtime.owned_by(Arc::clone(&ownership)));
            runtime.start().expect("fresh");
            let told = Arc::new(Told::default());
            runtime.registry().add_watch(told.clone());
            Node {
                mesh,
                ownership,
                runtime,
                switches: Arc::default(),
                told,
            }
        };
        self.0.iter().enumerate().map(node).collect()
    }
}

impl Node {
    fn spawn(&self, key: &SharedKey) -> Result<Arc<Slot<Sum>>, SpawnError<Sum>> {
        self.runtime.spawn(key, config(), Sum::new(&self.switches))
    }

    fn spawn_kept(&self, key: &SharedKey, durability: Durability) -> Result<Arc<Slot<Sum>>, SpawnError<Sum>> {
        let config = DaemonHostConfig { durability, ..config() };
        self.runtime.spawn(key, config, Sum::new(&self.switches))
    }

    fn resume(&self, key: &SharedKey) -> Result<Arc<Slot<Sum>>, SpawnError<Sum>> {
        let resumed = self.runtime.resume(key, Sum::new(&self.switches));
        resumed.map(|(slot, _)| slot)
    }

    fn stop(&self, slot: &Arc<Slot<Sum>>) {
        let entered = slot.inspect_later(Deadline::never(), &mut never).expect("it is there");
        self.runtime.stop(entered, clock::unix_ms());
    }

    /// As when its process ends.
    fn end(&self) {
        self.runtime.shutdown(PATIENCE, &mut never);
        self.mesh.close();
        self.ownership.closed();
    }

    fn owner_of(&self, key: &SharedKey) -> Option<OwnershipRecord> {
        let origin = key.lock().origin();
        self.ownership.record_of(origin)
    }
}

fn key(seed: u8) -> SharedKey {
    Arc::new(Mutex::new(Keypair::from_seed(&[seed; 32])))
}

fn send(slot: &Arc<Slot<Sum>>, sequence: u64, payload: &[u8]) -> Result<Few<Event>, DeliverError<Sum>> {
    let mut entered = slot.enter(Deadline::never(), &mut never).expect("open");
    let delivered = deliver::deliver(&mut entered, &Event::outside(7, sequence, payload), Want::Outputs);
    drop(entered);
    let outputs = delivered.map(|delivered| delivered.outputs)?;
    slot.leased().map_err(DeliverError::Unleased)?;
    Ok(outputs)
}

fn mail(node: &Node, slot: &Arc<Slot<Sum>>, sequence: u64, payload: &[u8]) -> Result<(), DeliverError<Sum>> {
    let (reply, answers) = mpsc::channel();
    let letter = Letter::Event(Event::outside(8, sequence, payload));
    let (runtime, want) = (&node.runtime, Want::Receipt);
    let posted = slot.post(runtime.lanes(), runtime.sender(), letter, want, Some(reply), None);
    assert!(posted.is_ok());
    let (_, settled) = answers.recv_timeout(PATIENCE).expect("it is answered");
    settled.map(drop)
}

fn is_out(outcome: &Result<impl Sized, DeliverError<Sum>>) -> bool {
    matches!(outcome, Err(DeliverError::Unleased(Unleased::Out { .. })))
}

/// A chain as it leaves a node is good, and its certificates are those of the records.
fn exported(node: &Node, slot: &Arc<Slot<Sum>>, records: &[OwnershipRecord]) {
    let mut entered = slot.enter(Deadline::never(), &mut never).expect("open");
    let exported = node.runtime.export(&mut entered).expect("it is signed");
    let certificates: Vec<_> = records.iter().map(|record| record.certificate).collect();
    assert_eq!(exported.certificates, certificates);
    let events: Vec<_> = exported.events.iter().map(Sum::parts).collect();
    verify(
        &events,
        &exported.checkpoints,
        &exported.certificates,
        &exported.entity,
        &[],
    )
    .expect("a good chain");
}

#[test]
fn of_two_spawns_at_once_exactly_one_wins_and_the_other_is_told_who() {
    let nodes = Disks::of(3).start();
    for round in 0..60 {
        let (key, barrier) = (key(round), Barrier::new(3));
        let spawn = |node: &Node| {
            barrier.wait();
            node.spawn(&key).map(|_| node.mesh.entity_id())
        };
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let spawn = &spawn;
            let threads: Vec<_> = nodes.iter().map(|node| scope.spawn(move || spawn(node))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        let winners: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
        let [winner] = winners[..] else {
            panic!("{} winners", winners.len())
        };
        for outcome in &outcomes {
            match outcome {
                Ok(_) => {}
                Err(SpawnError::NotOwner { node, epoch }) => assert_eq!((node, *epoch), (winner, 1)),
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(nodes[0].owner_of(&key).expect("the directory knows").node(), *winner);
    }
}

#[test]
fn a_node_that_stood_still_for_longer_than_its_lease_says_nothing_until_it_has_it_again() {
    let nodes = Disks::of(2).start();
    let slot = nodes[1].spawn(&key(1)).expect("free");
    assert_eq!(send(&slot, 1, b"abc").expect("it has a lease").len(), 1);
    nodes[1].mesh.pause(true);
    until(|| slot.leased().is_err());
    assert!(is_out(&send(&slot, 2, b"def")));
    assert!(is_out(&mail(&nodes[1], &slot, 1, b"ghi")));
    // Nothing of it took effect.
    assert_eq!(slot.view().stats.events_processed, 1);
    nodes[1].mesh.pause(false);
    until(|| slot.leased().is_ok());
    assert_eq!(send(&slot, 2, b"def").expect("it has a lease").len(), 1);
    mail(&nodes[1], &slot, 1, b"ghi").expect("it has a lease");
    assert!(nodes[1].ownership.stats().lapses >= 1);
}

#[test]
fn who_is_cut_off_from_the_directory_stops_answering_and_the_directorys_own_go_on() {
    let nodes = Disks::of(3).start();
    let (far, near) = (
        nodes[2].spawn(&key(1)).expect("free"),
        nodes[0].spawn(&key(2)).expect("free"),
    );
    nodes[0].mesh.pause(true);
    until(|| far.leased().is_err());
    assert!(is_out(&send(&far, 1, b"abc")));
    assert_eq!(send(&near, 1, b"abc").expect("it asks itself").len(), 1);
    nodes[0].mesh.pause(false);
    until(|| far.leased().is_ok());
    assert_eq!(send(&far, 1, b"abc").expect("it has a lease").len(), 1);
}

#[test]
fn what_was_processed_while_the_lease_ran_out_is_acknowledged_when_it_is_tried_again() {
    let nodes = Disks::of(2).start();
    let slot = nodes[1].spawn(&key(1)).expect("free");
    let gate = nodes[1].switches.gate.lock();
    let outcome = std::thread::scope(|scope| {
        let sent = scope.spawn(|| mail(&nodes[1], &slot, 1, b"wait"));
        nodes[1].switches.until_waiting(1);
        nodes[1].mesh.pause(true);
        until(|| slot.leased().is_err());
        drop(gate);
        sent.join().expect("no panic")
    });
    assert!(is_out(&outcome));
    assert_eq!(slot.view().stats.events_processed, 1);
    nodes[1].mesh.pause(false);
    until(|| slot.leased().is_ok());
    mail(&nodes[1], &slot, 1, b"wait").expect("the first time is acknowledged");
    assert_eq!(slot.view().stats.events_processed, 1);
}

#[test]
fn a_takeover_waits_for_the_last_lease_and_the_copy_before_says_nothing_any_more() {
    let nodes = Disks::of(3).start();
    let key = key(1);
    let entity = key.lock().entity_id();
    let origin = entity.origin();
    let old = nodes[1].spawn(&key).expect("free");
    send(&old, 1, b"abc").expect("it has a lease");
    let snapshot = {
        let mut entered = old.enter(Deadline::never(), &mut never).expect("open");
        nodes[1]
            .runtime
            .snapshot(&mut entered)
            .expect("no raise")
            .expect("it has state")
            .snapshot
    };
    nodes[1].mesh.pause(true);
    let at = (snapshot.meta.head.sequence, snapshot.meta.digest);
    let central = nodes[0].ownership.central().expect("the directory is there");
    let began = Instant::now();
    let to = nodes[2].mesh.entity_id();
    let was_out = AtomicBool::new(false);
    let signer = Keypair::from_seed(&[1; 32]);
    let taken = central.take_over(entity, to, at, Some(&signer), Deadline::after(PATIENCE), &mut || {
        was_out.store(old.leased().is_err(), Ordering::Relaxed);
        false
    });
    let record = taken.expect("the lease ran out");
    assert!(began.elapsed() >= LEASE - Duration::from_millis(100) && was_out.load(Ordering::Relaxed));
    assert_eq!(
        (record.epoch(), record.reason(), record.node()),
        (3, Reason::Takeover, to)
    );
    assert!(is_out(&send(&old, 2, b"lost")));
    // The new owner goes on from there, with the state.
    until(|| nodes[2].ownership.offered(&entity).is_some());
    let sum = Sum::new(&nodes[2].switches);
    let spawned = nodes[2]
        .runtime
        .spawn_from_snapshot(&key, snapshot, config(), sum, false);
    let new = spawned.expect("it owns");
    assert_eq!(send(&new, 2, b"de").expect("it has a lease")[0].payload[..], b"5"[..]);
    assert_eq!(new.view().epoch, 3);
    exported(&nodes[2], &new, &central.lineage(&entity).expect("in memory"));
    // The old one hears of it, and is stopped.
    nodes[1].mesh.pause(false);
    until(|| nodes[1].runtime.registry().get(origin).is_none());
    let fenced = Err(Unleased::Fenced { node: to, epoch: 3 });
    assert_eq!(old.leased(), fenced);
    let reached = nodes[1].runtime.reach(origin).map(drop);
    assert!(matches!(reached, Err(ReachError::NotOwner { node, epoch: 3, .. }) if node == to));
    until(|| {
        let mut told = nodes[1].told.0.lock().clone().into_iter();
        told.any(|event| match event.signal {
            DaemonLifecycleSignal::Crashed { crash, down } => !down && crash.reason.contains("owns it, in epoch 3"),
            _ => false,
        })
    });
    let again = nodes[1].spawn(&key).map(drop);
    assert!(matches!(again, Err(SpawnError::NotOwner { epoch: 3, .. })), "{again:?}");
    until(|| nodes[1].ownership.stats().fenced == 1);
    // Nobody else is asked to take it up.
    until(|| nodes[2].ownership.offered(&entity).is_none());
}

#[test]
fn a_takeover_that_cannot_be_is_refused_and_one_that_is_given_up_changes_nothing() {
    let nodes = Disks::of(2).start();
    let key = key(1);
    let (entity, to) = (key.lock().entity_id(), nodes[0].mesh.entity_id());
    let central = nodes[0].ownership.central().expect("the directory is there");
    let digest = meshos_core::digest::genesis(&entity, &meshos_core::digest::Digest::ZERO);
    let unknown = central.take_over(entity, to, (0, digest), None, Deadline::after(PATIENCE), &mut never);
    assert!(matches!(unknown, Err(TakeOverError::Refused(_))));
    let slot = nodes[1].spawn(&key).expect("free");
    let given_up = central.take_over(entity, to, (0, digest), None, Deadline::now(), &mut never);
    assert_eq!(given_up, Err(TakeOverError::Timeout));
    // For longer than a lease it goes on.
    let end = Instant::now() + 2 * LEASE;
    while Instant::now() < end {
        assert_eq!(slot.leased(), Ok(()));
        std::thread::yield_now();
    }
}

#[test]
fn a_directory_that_starts_again_knows_who_owns_what() {
    let disks = Disks::of(3);
    let (one, two) = (key(1), key(2));
    {
        let nodes = disks.start();
        let slot = nodes[1].spawn_kept(&one, Durability::Journal).expect("free");
        send(&slot, 1, b"abc").expect("it has a lease");
        nodes[0].spawn_kept(&two, Durability::Snapshot).expect("free");
        nodes.iter().for_each(Node::end);
    }
    let nodes = disks.start();
    let refused = nodes[2].spawn(&one).map(drop);
    assert!(matches!(refused, Err(SpawnError::NotOwner { node, epoch: 1 }) if node == nodes[1].mesh.entity_id()));
    // Every step is kept: it goes on in the same epoch.
    let slot = nodes[1].resume(&one).expect("it owns");
    assert_eq!(slot.view().epoch, 1);
    assert_eq!(send(&slot, 2, b"de").expect("it has a lease")[0].payload[..], b"5"[..]);
    let central = nodes[0].ownership.central().expect("the directory is there");
    let records = |key: &SharedKey| central.lineage(&key.lock().entity_id()).expect("in memory");
    exported(&nodes[1], &slot, &records(&one));
    // Snapshots alone are kept: what came after the last one is rolled back.
    let slot = nodes[0].resume(&two).expect("it owns");
    assert_eq!((slot.view().epoch, records(&two).len()), (2, 2));
    send(&slot, 1, b"abc").expect("it has a lease");
    exported(&nodes[0], &slot, &records(&two));
    for node in 0..2 {
        check(&*disks.stores(node)()).expect("everything is in order");
    }
}

#[test]
fn who_crashed_between_registering_and_keeping_begins_again_and_nobody_else() {
    let disks = Disks::of(3);
    let nodes = disks.start();
    let key = key(1);
    let (entity, node) = (key.lock().entity_id(), nodes[1].mesh.entity_id());
    let digest = meshos_core::digest::genesis(&entity, &meshos_core::digest::Digest::ZERO);
    let record = OwnershipRecord::spawn(&key.lock(), node, digest).expect("whole");
    let begin = || {
        let wish = Wish::Begin(vec![record]);
        nodes[1].ownership.claim(wish, Deadline::after(PATIENCE), &mut never)
    };
    let claim = begin().map_err(|denied| format!("{denied:?}")).expect("free");
    assert_eq!(claim.to_keep(), Some(record));
    drop(claim);
    assert!(matches!(
        nodes[2].spawn(&key).map(drop),
        Err(SpawnError::NotOwner { epoch: 1, .. })
    ));
    let slot = nodes[1].spawn(&key).expect("it was registered for this node");
    send(&slot, 1, b"abc").expect("it has a lease");
    exported(&nodes[1], &slot, &[record]);
    // The directory had renewed: who lost everything since is not given the same epoch again.
    nodes[1].stop(&slot);
    let again = begin().map(drop);
    assert_eq!(again, Err(Denied::NotOwner { node, epoch: 1 }));
}

#[test]
fn a_planned_stop_keeps_the_record() {
    let disks = Disks::of(2);
    let key = key(1);
    let nodes = disks.start();
    let slot = nodes[1].spawn(&key).expect("free");
    send(&slot, 1, b"abc").expect("it has a lease");
    let snapshot = {
        let mut entered = slot.enter(Deadline::never(), &mut never).expect("open");
        nodes[1]
            .runtime
            .snapshot(&mut entered)
            .expect("no raise")
            .expect("it has state")
            .snapshot
    };
    nodes[1].stop(&slot);
    until(|| nodes[1].ownership.stats().held == 0);
    assert!(matches!(
        nodes[0].spawn(&key).map(drop),
        Err(SpawnError::NotOwner { epoch: 1, .. })
    ));
    // Nothing is lost: the same epoch.
    let from = |node: &Node| {
        let sum = Sum::new(&node.switches);
        node.runtime
            .spawn_from_snapshot(&key, Arc::clone(&snapshot), config(), sum, false)
    };
    let slot = from(&nodes[1]).expect("it owns");
    assert_eq!(slot.view().epoch, 1);
    nodes.iter().for_each(Node::end);
    // Another process knows nothing of what it did: the next epoch.
    let nodes = disks.start();
    let slot = from(&nodes[1]).expect("it owns");
    assert_eq!(slot.view().epoch, 2);
    send(&slot, 2, b"de").expect("it has a lease");
    let central = nodes[0].ownership.central().expect("the directory is there");
    exported(
        &nodes[1],
        &slot,
        &central.lineage(&key.lock().entity_id()).expect("in memory"),
    );
    let refused = from(&nodes[0]).map(drop);
    assert!(matches!(refused, Err(SpawnError::NotOwner { epoch: 2, .. })));
}

#[test]
fn a_daemon_that_spoke_elsewhere_is_taken_over_on_the_word_of_its_entity() {
    let nodes = Disks::of(2).start();
    let (alone, switches) = common::runtime();
    let key = key(1);
    let slot = alone.spawn(&key, config(), Sum::new(&switches)).expect("fresh");
    send(&slot, 1, b"abc").expect("nobody else could");
    let snapshot = {
        let mut entered = slot.enter(Deadline::never(), &mut never).expect("open");
        alone
            .snapshot(&mut entered)
            .expect("no raise")
            .expect("it has state")
            .snapshot
    };
    let sum = Sum::new(&nodes[1].switches);
    let slot = nodes[1]
        .runtime
        .spawn_from_snapshot(&key, snapshot, config(), sum, false);
    let slot = slot.expect("nobody owns it");
    send(&slot, 2, b"de").expect("it has a lease");
    let records = nodes[1].ownership.lineage(&key.lock().entity_id()).expect("in memory");
    Lineage::verify(&records[0].entity(), records.clone(), &[]).expect("a good lineage");
    assert_eq!(records.last().map(OwnershipRecord::reason), Some(Reason::Takeover));
    exported(&nodes[1], &slot, &records);
}

#[test]
fn forged_and_foreign_messages_are_refused_and_counted() {
    let nodes = Disks::of(3).start();
    let slot = nodes[1].spawn(&key(1)).expect("free");
    let record = nodes[0].owner_of(&key(1)).expect("it is known");
    let directory = nodes[0].mesh.entity_id();
    let ask = Ask { run: 1, number: 1 };
    let body = |frame: Body| {
        let mut packer = Packer::new();
        packer.put(|out| out.extend(OwnershipFrame { ask, body: frame }.to_bytes()));
        packer.body().to_vec()
    };
    let post = |to: usize, bytes: &[u8]| {
        let (to, carrier) = (nodes[to].mesh.entity_id(), Carrier::mesh(nodes[2].mesh.clone()));
        until(|| nodes[2].mesh.peer(to.node_id()).is_some());
        carrier.post(&to, Kind::OWNERSHIP, bytes).expect("it is there");
    };
    // To the directory: noise, another signature, somebody else's record, somebody else's entity.
    post(0, b"no parcel");
    let mut forged = record;
    forged.signature[0] ^= 1;
    post(0, &body(Body::Renew(forged)));
    post(0, &body(Body::Register(ownership::records()[..1].to_vec())));
    post(0, &body(Body::Renew(record)));
    post(0, &body(Body::Register(vec![record])));
    // To a node: what only the directory says.
    let higher = record.taken_over(directory, 0, record.certificate.digest, &Keypair::from_seed(&[1; 32]));
    post(1, &body(Body::Higher(higher.expect("whole"))));
    until(|| {
        let (at_directory, at_node) = (nodes[0].ownership.stats(), nodes[1].ownership.stats());
        let foreign = at_directory.directory.expect("it is there").foreign;
        let found = (
            at_directory.refused_malformed,
            at_directory.refused_forged,
            foreign,
            at_node.refused_stranger,
        );
        found == (1, 1, 3, 1)
    });
    send(&slot, 1, b"abc").expect("nothing of it had an effect");
    assert_eq!(nodes[0].owner_of(&key(1)), Some(record));
}

#[test]
fn a_claim_whose_place_another_takes_is_told_so_at_once() {
    let nodes = Disks::of(2).start();
    let key = key(1);
    let (entity, node) = (key.lock().entity_id(), nodes[1].mesh.entity_id());
    let digest = meshos_core::digest::genesis(&entity, &meshos_core::digest::Digest::ZERO);
    let record = OwnershipRecord::spawn(&key.lock(), node, digest).expect("whole");
    let begin = |deadline| {
        let wish = Wish::Begin(vec![record]);
        nodes[1].ownership.claim(wish, deadline, &mut never)
    };
    // One that has something to keep.
    let first = begin(Deadline::after(PATIENCE))
        .map_err(|denied| format!("{denied:?}"))
        .expect("free");
    let second = begin(Deadline::after(PATIENCE))
        .map_err(|denied| format!("{denied:?}"))
        .expect("free");
    assert_eq!((first.to_keep(), second.to_keep()), (None, Some(record)));
    assert_eq!(first.active(Deadline::never(), &mut never), Err(Denied::Replaced));
    // What becomes of the first is nothing to the second.
    first.kept();
    drop(first);
    second.kept();
    assert_eq!(second.active(Deadline::after(PATIENCE), &mut never), Ok(()));
    drop(second);
    // One that waits for the directory.
    nodes[0].mesh.pause(true);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| begin(Deadline::never()).map(drop));
        until(|| nodes[1].ownership.stats().held == 1);
        let short = Deadline::after(Duration::from_millis(60));
        assert_eq!(begin(short).map(drop), Err(Denied::Silent));
        assert_eq!(waits.join().expect("no panic"), Err(Denied::Replaced));
    });
}

#[test]
fn a_claim_without_a_record_is_refused_without_asking() {
    let nodes = Disks::of(2).start();
    nodes[0].mesh.pause(true);
    for wish in [
        Wish::Begin(Vec::new()),
        Wish::GoOn(Vec::new(), None),
        Wish::Install(Vec::new()),
    ] {
        let claim = nodes[1].ownership.claim(wish, Deadline::never(), &mut never);
        assert_eq!(claim.map(drop), Err(Denied::NoRecord));
    }
}

#[test]
fn a_message_that_cannot_be_read_costs_no_other_of_its_body() {
    let nodes = Disks::of(2).start();
    let slot = nodes[1].spawn(&key(1)).expect("free");
    let record = nodes[0].owner_of(&key(1)).expect("it is known");
    let mut packer = Packer::new();
    let ask = Ask { run: 1, number: 1 };
    let mut forged = record;
    forged.signature[0] ^= 1;
    let forged = OwnershipFrame {
        ask,
        body: Body::Renew(forged),
    };
    for message in [
        b"no frame".to_vec(),
        forged.to_bytes(),
        b"nor this".to_vec(),
        forged.to_bytes(),
    ] {
        packer.put(|out| out.extend(message));
    }
    // Where a length cannot be read there are no more messages.
    let bytes = [packer.body(), &[0; 4][..], packer.body()].concat();
    let carrier = Carrier::mesh(nodes[1].mesh.clone());
    carrier
        .post(&nodes[0].mesh.entity_id(), Kind::OWNERSHIP, &bytes)
        .expect("it is there");
    until(|| {
        let stats = nodes[0].ownership.stats();
        (stats.refused_malformed, stats.refused_forged) == (3, 2)
    });
    send(&slot, 1, b"abc").expect("nothing of it had an effect");
}

#[test]
fn a_silent_directory_ends_a_claim_at_its_deadline_and_when_it_is_given_up() {
    let nodes = Disks::of(2).start();
    let key = key(1);
    let (entity, node) = (key.lock().entity_id(), nodes[1].mesh.entity_id());
    let digest = meshos_core::digest::genesis(&entity, &meshos_core::digest::Digest::ZERO);
    let record = OwnershipRecord::spawn(&key.lock(), node, digest).expect("whole");
    let begin = |deadline, interrupted: &mut dyn FnMut() -> bool| {
        let claim = nodes[1]
            .ownership
            .claim(Wish::Begin(vec![record]), deadline, interrupted);
        claim.map(drop)
    };
    let peer = nodes[0].mesh.node_id();
    nodes[1]
        .mesh
        .wait_for_peer(peer, Deadline::after(PATIENCE), never)
        .expect("it comes");
    nodes[0].mesh.pause(true);
    let short = Deadline::after(Duration::from_millis(60));
    assert_eq!(begin(short, &mut never), Err(Denied::Silent));
    assert_eq!(begin(Deadline::never(), &mut || true), Err(Denied::Interrupted));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| begin(Deadline::never(), &mut never));
        nodes[1].end();
        assert_eq!(waits.join().expect("no panic"), Err(Denied::Closed));
    });
}
