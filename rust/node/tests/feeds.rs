//! Following a chain between nodes: pushed once, in order, from whoever owns it.
#![allow(missing_docs)]

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use common::kept::{Disk, Handle, journal};
use common::net::{Net, Netted, PATIENCE, Weather, memory};
use common::{Event, Sum, Switches, config, key, lanes, never, until};
use meshos_core::config::DaemonHostConfig;
use meshos_core::consumer::Position;
use meshos_core::directory::DirectoryConfig;
use meshos_core::feed_frame::{Body, FeedFrame};
use meshos_core::frame::{Kind, MeshId};
use meshos_core::id::{EntityId, Origin};
use meshos_core::identity::Keypair;
use meshos_core::owner::OwnerConfig;
use meshos_core::ownership::OwnershipRecord;
use meshos_core::parcel::{self, Packer};
use meshos_core::presence::{Members, PresenceConfig};
use meshos_core::remote_frame::{Reason, Refused};
use meshos_core::stream::Frame;
use meshos_node::carrier::Carrier;
use meshos_node::clock::Deadline;
use meshos_node::deliver::{self, Want};
use meshos_node::fed::Reader;
use meshos_node::feeds::LETTERS_MAX;
use meshos_node::follow::{FollowError, Followed, Follower};
use meshos_node::inside::Snapshot;
use meshos_node::journal::Stores;
use meshos_node::local_engine::LocalNetwork;
use meshos_node::mesh::{Delivered, Mesh, MeshConfig, Take};
use meshos_node::ownership::{Ownership, OwnershipConfig};
use meshos_node::remote::{CallError, Remote, Steward, refused};
use meshos_node::runtime::{ReachError, Runtime};
use meshos_node::slot::Slot;
use meshos_node::sync::Mutex;

const BAD: Weather = Weather {
    seed: 1,
    lost: 50,
    twice: 30,
    later: 30,
};

/// Opens feeds of the daemons of a runtime.
struct Hand(Weak<Runtime<Sum>>);

impl Steward for Hand {
    fn spawn(&self, _: &OwnershipRecord, _: &str, _: DaemonHostConfig) -> Result<(), Refused> {
        Err(refused(Reason::NoFactory, "none"))
    }

    fn stop(&self, _: Origin) -> Result<(), Refused> {
        Err(refused(Reason::Failed, "never"))
    }

    fn snapshot(&self, _: Origin) -> Result<Option<Vec<u8>>, Refused> {
        Ok(None)
    }

    fn outputs(&self, reader: Reader, origin: Origin, after: u64) -> Result<(), Refused> {
        let gone = || refused(Reason::NotReady, "it is shut down");
        let runtime = self.0.upgrade().ok_or_else(gone)?;
        let slot = runtime.reach(origin).map_err(|error| match error {
            ReachError::NotFound(_) => refused(Reason::NotFound, "no such daemon"),
            ReachError::NotOwner { node, epoch, .. } => Refused {
                owner: Some((node, epoch)),
                ..refused(Reason::NotOwner, "another node owns it")
            },
            _ => gone(),
        })?;
        let entered = slot.inspect_later(Deadline::after(PATIENCE), &mut never);
        let mut entered = entered.map_err(|_| refused(Reason::NotFound, "it was stopped"))?;
        runtime.feed(&mut entered, reader, after).map_err(Refused::from)
    }
}

/// A runtime that is asked by others, and asks them.
struct Side {
    runtime: Arc<Runtime<Sum>>,
    switches: Arc<Switches>,
    remote: Remote,
    _hand: Arc<Hand>,
    mesh: Mesh,
}

impl Side {
    fn of(runtime: &Arc<Runtime<Sum>>, switches: &Arc<Switches>, mesh: &Mesh) -> Self {
        let remote = Remote::new(Carrier::mesh(mesh.clone()), runtime.lanes().clone());
        let hand = Arc::new(Hand(Arc::downgrade(runtime)));
        let steward: Weak<dyn Steward> = Arc::downgrade(&(Arc::clone(&hand) as Arc<dyn Steward>));
        remote.serve(steward);
        Self {
            runtime: Arc::clone(runtime),
            switches: Arc::clone(switches),
            remote,
            _hand: hand,
            mesh: mesh.clone(),
        }
    }

    fn on(node: &Netted) -> Self {
        Self::of(&node.runtime, &node.switches, &node.mesh)
    }

    fn permits(&self, other: &Self) {
        self.remote.permit(BTreeSet::from([other.mesh.entity_id()]));
    }

    fn follow(&self, at: &Self, seed: u8) -> Follower {
        self.follow_from(at, seed, Position::start(&entity(seed)))
    }

    fn follow_from(&self, at: &Self, seed: u8, position: Position) -> Follower {
        let (feeds, remote) = (self.runtime.feeds().clone(), self.remote.clone());
        Follower::new(feeds, remote, at.mesh.entity_id(), entity(seed), position)
    }

    fn spawn(&self, config: DaemonHostConfig) -> Arc<Slot<Sum>> {
        let spawned = self.runtime.spawn(&key(1), config, Sum::new(&self.switches));
        spawned.map_err(|error| format!("{error:?}")).expect("new")
    }

    fn snapshot(&self, slot: &Arc<Slot<Sum>>) -> Arc<Snapshot<Sum>> {
        let mut entered = slot.enter(Deadline::never(), &mut never).expect("open");
        let taken = self.runtime.snapshot(&mut entered).expect("no raise");
        taken.expect("it has state").snapshot
    }

    fn again(&self, snapshot: Arc<Snapshot<Sum>>) -> Arc<Slot<Sum>> {
        let sum = Sum::new(&self.switches);
        let spawned = self.runtime.spawn_from_snapshot(&key(1), snapshot, config(), sum, true);
        spawned.map_err(|error| format!("{error:?}")).expect("it owns")
    }

    fn stop(&self, slot: &Arc<Slot<Sum>>) {
        let entered = slot.inspect_later(Deadline::never(), &mut never).expect("it is there");
        self.runtime.stop(entered, meshos_node::clock::unix_ms());
    }
}

fn entity(seed: u8) -> EntityId {
    key(seed).lock().entity_id()
}

fn pair(weather: Weather) -> (Net, Side, Side) {
    let (net, nodes) = Net::of(2, weather);
    let (here, there) = (Side::on(&nodes[0]), Side::on(&nodes[1]));
    there.permits(&here);
    (net, here, there)
}

/// Has a daemon emit one output for each number.
fn emit(slot: &Arc<Slot<Sum>>, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let mut entered = slot.enter(Deadline::never(), &mut never).expect("open");
        let done = deliver::deliver(&mut entered, &Event::outside(7, number, b"x"), Want::Receipt);
        done.map_err(|error| format!("{error:?}")).expect("it takes effect");
        deliver::submit(&mut entered);
    }
}

fn next(follower: &mut Follower) -> Result<Option<Followed>, FollowError> {
    follower.next(Deadline::after(PATIENCE), never)
}

/// Reads outputs of these numbers, and no other.
fn read(follower: &mut Follower, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        match next(follower).expect("no error") {
            Some(Followed::Output { link, .. }) => assert_eq!(link.sequence, number),
            other => panic!("{number}: {other:?}"),
        }
    }
}

fn nothing(follower: &mut Follower, time: Duration) {
    let found = follower.next(Deadline::after(time), never).expect("no error");
    assert_eq!(found, None);
}

fn disk() -> (Arc<Mutex<Disk>>, Stores) {
    let disk = Arc::new(Mutex::new(Disk::default()));
    let held = Arc::clone(&disk);
    (disk, Arc::new(move || Box::new(Handle(Arc::clone(&held)))))
}

#[test]
fn what_is_emitted_is_pushed_once_and_in_order_to_each_reader() {
    let (_net, here, there) = pair(Weather::default());
    let slot = there.spawn(config());
    emit(&slot, 1..=10);
    let (mut one, mut two) = (here.follow(&there, 1), here.follow(&there, 1));
    read(&mut one, 1..=10);
    std::thread::scope(|scope| {
        scope.spawn(|| emit(&slot, 11..=3_000));
        read(&mut one, 11..=3_000);
    });
    // Who comes late reads what is kept, and then what comes.
    read(&mut two, 1..=3_000);
    let stats = there.runtime.feeds().stats();
    assert_eq!((stats.open, stats.refused, stats.malformed), (2, 0, 0));
    // When there is nothing new, nothing is pushed or asked for, but whether it is still followed.
    nothing(&mut one, Duration::from_millis(300));
    nothing(&mut two, Duration::from_millis(1));
    let sent = here.mesh.stats().sent;
    let ran = there.remote.stats().ran;
    nothing(&mut one, Duration::from_millis(500));
    assert!(here.mesh.stats().sent - sent <= 1);
    assert_eq!(there.remote.stats().ran, ran);
}

#[test]
fn a_bad_network_loses_repeats_and_reorders_nothing_of_it() {
    for seed in 0..6 {
        let (_net, here, there) = pair(Weather { seed, ..BAD });
        let slot = there.spawn(config());
        let mut follower = here.follow(&there, 1);
        std::thread::scope(|scope| {
            scope.spawn(|| emit(&slot, 1..=1_500));
            read(&mut follower, 1..=1_500);
        });
        nothing(&mut follower, Duration::from_millis(100));
        assert_eq!(follower.counters().alarms, 0);
    }
}

#[test]
fn only_what_is_kept_is_pushed() {
    let net = Net::new(2, Weather::default());
    let (disk, stores) = disk();
    let nodes = [net.join(0, memory()), net.join(1, stores)];
    nodes[0].sees(&nodes[1]);
    let (here, there) = (Side::on(&nodes[0]), Side::on(&nodes[1]));
    there.permits(&here);
    let slot = there.spawn(journal());
    emit(&slot, 1..=3);
    let mut follower = here.follow(&there, 1);
    read(&mut follower, 1..=3);
    disk.lock().is_held = true;
    emit(&slot, 4..=6);
    nothing(&mut follower, Duration::from_millis(200));
    disk.lock().go_on();
    read(&mut follower, 4..=6);
}

#[test]
fn a_restart_that_rolls_back_is_told_and_what_comes_instead_is_pushed_in_its_epoch() {
    for weather in [Weather::default(), BAD] {
        let (_net, here, there) = pair(weather);
        let slot = there.spawn(config());
        emit(&slot, 1..=3);
        let snapshot = there.snapshot(&slot);
        emit(&slot, 4..=7);
        let mut follower = here.follow(&there, 1);
        read(&mut follower, 1..=7);
        assert_eq!(follower.position().epoch, 1);
        there.stop(&slot);
        nothing(&mut follower, Duration::from_millis(100));
        let slot = there.again(snapshot);
        emit(&slot, 8..=9);
        let told = next(&mut follower).expect("no error");
        let rolled_back = Followed::RolledBack {
            after: 3,
            through: 7,
            epoch: 2,
        };
        assert_eq!(told, Some(rolled_back));
        read(&mut follower, 4..=5);
        assert_eq!((follower.position().epoch, follower.position().n), (2, 5));
        emit(&slot, 10..=200);
        read(&mut follower, 6..=196);
    }
}

#[test]
fn who_follows_goes_on_where_the_owner_went_on_its_own_word() {
    let (_net, nodes) = Net::of(3, Weather::default());
    let sides: Vec<_> = nodes.iter().map(Side::on).collect();
    let (here, old, new) = (&sides[0], &sides[1], &sides[2]);
    old.permits(here);
    let slot = old.spawn(config());
    emit(&slot, 1..=5);
    let mut follower = here.follow(old, 1);
    read(&mut follower, 1..=5);
    let snapshot = old.snapshot(&slot);
    old.stop(&slot);
    let slot = new.again(snapshot);
    emit(&slot, 6..=9);
    // Who owns it now says who may.
    match next(&mut follower) {
        Err(FollowError::Call(CallError::Refused(refused))) => assert_eq!(refused.reason, Reason::NotPermitted),
        other => panic!("{other:?}"),
    }
    new.permits(here);
    read(&mut follower, 6..=9);
    assert_eq!(follower.node(), new.mesh.entity_id());
    assert_eq!(follower.position().epoch, slot.view().epoch);
}

#[test]
fn a_reader_that_does_not_read_holds_nothing_unbounded_and_stops_nobody() {
    let (_net, here, there) = pair(Weather::default());
    let slot = there.spawn(config());
    let mut follower = here.follow(&there, 1);
    emit(&slot, 1..=1);
    read(&mut follower, 1..=1);
    emit(&slot, 2..=9_000);
    assert_eq!(slot.view().head.sequence, 9_000);
    // No more than a window leaves that is not acknowledged, and tries become rare and small.
    let end = Instant::now() + Duration::from_millis(1_500);
    until(|| Instant::now() > end);
    let pushed = there.runtime.feeds().stats().pushed;
    assert!(pushed <= 1 + 64 * 6, "{pushed}");
    assert!(here.runtime.feeds().stats().full <= LETTERS_MAX as u64);
    read(&mut follower, 2..=9_000);
}

#[test]
fn what_is_not_kept_any_more_is_told_also_in_the_middle() {
    let (_net, here, there) = pair(Weather::default());
    let slot = there.spawn(DaemonHostConfig {
        outputs_max: 5,
        ..config()
    });
    let mut follower = here.follow(&there, 1);
    emit(&slot, 1..=1);
    read(&mut follower, 1..=1);
    emit(&slot, 2..=10_000);
    let end = Instant::now() + PATIENCE;
    let refused = loop {
        assert!(Instant::now() < end);
        match next(&mut follower) {
            Err(FollowError::Call(CallError::Refused(refused))) => break refused,
            Ok(Some(Followed::Output { .. })) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(refused.text.contains("outputs up to 9995 are not kept"), "{refused:?}");
}

#[test]
fn a_reader_that_goes_is_forgotten_and_feeds_are_counted() {
    let (_net, here, there) = pair(BAD);
    let slot = there.spawn(config());
    emit(&slot, 1..=2);
    let mut followers: Vec<_> = (0..5).map(|_| here.follow(&there, 1)).collect();
    followers.iter_mut().for_each(|follower| read(follower, 1..=2));
    assert!(there.runtime.feeds().stats().open >= 5);
    drop(followers);
    assert_eq!(here.runtime.feeds().stats().readers, 0);
    // The word of one that goes may be lost; it is said again when something comes for it.
    emit(&slot, 3..=3);
    until(|| there.runtime.feeds().stats().open == 0);
    emit(&slot, 4..=300);
    assert_eq!(there.runtime.feeds().stats().open, 0);
}

/// Keeps what comes for readers that a test names itself.
#[derive(Default)]
struct Raw(Mutex<Vec<Vec<u8>>>);

impl Take for Raw {
    fn take(&self, delivered: Delivered) -> bool {
        self.0.lock().push(delivered.body().to_vec());
        true
    }
}

#[test]
fn an_acknowledgement_of_another_epoch_is_ignored_and_counted() {
    let (_net, here, there) = pair(Weather::default());
    let slot = there.spawn(config());
    emit(&slot, 1..=5);
    let raw = Arc::new(Raw::default());
    here.mesh.attach(Kind::FEED, raw.clone());
    let (entity, name) = (entity(1), [9; 16]);
    let open = || {
        let mut entered = slot.inspect_later(Deadline::never(), &mut never).expect("there");
        let reader = (here.mesh.entity_id(), name);
        there.runtime.feed(&mut entered, reader, 0).expect("it is kept");
    };
    let outputs = || {
        let bodies = raw.0.lock().clone();
        let mut numbers = Vec::new();
        for body in &bodies {
            let frame = FeedFrame::decode(body).expect("whole");
            let Body::Outputs(parcel) = frame.body else { continue };
            for message in parcel::open(parcel).expect("whole") {
                if let Frame::Output(output) = Frame::decode(message.expect("whole")).expect("whole") {
                    numbers.push((output.epoch, output.link.sequence));
                }
            }
        }
        numbers
    };
    let post = |packer: Packer| {
        let (reader, body) = (name, Body::Answers(packer.body()));
        let said = FeedFrame { entity, reader, body }.to_bytes();
        here.mesh
            .post(&there.mesh.entity_id(), Kind::FEED, &said)
            .expect("sent");
    };
    let say = |frame: Frame<'_>| {
        let mut packer = Packer::new();
        packer.put(|out| frame.put(out));
        post(packer);
    };
    open();
    let follow = |epoch, after| Frame::Follow { entity, epoch, after };
    let ack = |epoch, n| Frame::OutAck { entity, epoch, n };
    say(follow(1, 0));
    until(|| outputs().len() >= 5);
    assert_eq!(outputs()[..5], [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5)]);
    // The daemon begins its second epoch; the reader is known there under the same name.
    let snapshot = there.snapshot(&slot);
    emit(&slot, 6..=7);
    there.stop(&slot);
    let slot = there.again(snapshot);
    emit(&slot, 8..=10);
    {
        let mut entered = slot.inspect_later(Deadline::never(), &mut never).expect("there");
        let reader = (here.mesh.entity_id(), name);
        there.runtime.feed(&mut entered, reader, 5).expect("it is kept");
    }
    raw.0.lock().clear();
    let before = there.runtime.feeds().stats().ignored;
    say(ack(1, 8));
    until(|| there.runtime.feeds().stats().ignored == before + 1);
    assert!(outputs().is_empty());
    say(follow(2, 5));
    until(|| outputs().len() >= 3);
    assert_eq!(outputs()[..3], [(2, 6), (2, 7), (2, 8)]);
    say(ack(2, 9));
    until(|| there.runtime.feeds().stats().ignored == before + 2);
    // What was never asked for, and what is no frame, is counted.
    let malformed = there.runtime.feeds().stats().malformed;
    for body in [&b""[..], b"\x01", &[1; 49], &[7; 60]] {
        here.mesh.post(&there.mesh.entity_id(), Kind::FEED, body).expect("sent");
    }
    until(|| there.runtime.feeds().stats().malformed == malformed + 4);
    // What cannot be read costs no other message of its body.
    let mut packer = Packer::new();
    packer.put(|out| out.extend(b"no frame"));
    packer.put(|out| ack(2, 9).put(out));
    post(packer);
    until(|| there.runtime.feeds().stats().ignored == before + 3);
    assert_eq!(there.runtime.feeds().stats().malformed, malformed + 5);
}

#[test]
fn a_node_that_starts_again_goes_on_with_those_who_follow() {
    let net = Net::new(2, Weather::default());
    let (_disk, stores) = disk();
    let nodes = [net.join(0, memory()), net.join(1, Arc::clone(&stores))];
    nodes[0].sees(&nodes[1]);
    let (here, there) = (Side::on(&nodes[0]), Side::on(&nodes[1]));
    there.permits(&here);
    let slot = there.spawn(journal());
    emit(&slot, 1..=30);
    let mut follower = here.follow(&there, 1);
    read(&mut follower, 1..=10);
    there.runtime.shutdown(PATIENCE, &mut never);
    there.mesh.close();
    drop((there, slot));
    let [_, gone] = nodes;
    drop(gone);
    let node = net.join(1, stores);
    let there = Side::on(&node);
    there.permits(&here);
    let resumed = there.runtime.resume(&key(1), Sum::new(&there.switches));
    let (slot, _) = resumed.map_err(|error| format!("{error:?}")).expect("kept");
    emit(&slot, 31..=40);
    read(&mut follower, 11..=40);
}

const LEASE: Duration = Duration::from_millis(400);

/// Nodes with a directory, that each may be asked by the first.
fn owned(nodes: u8) -> Vec<(Side, Arc<Ownership>)> {
    let (network, id) = (LocalNetwork::new(), MeshId::of(b"owners"));
    let keys: Vec<_> = (0..nodes)
        .map(|node| Arc::new(Keypair::from_seed(&[100 + node; 32])))
        .collect();
    let listed: BTreeSet<_> = keys.iter().map(|key| key.entity_id()).collect();
    let options = OwnershipConfig {
        owner: OwnerConfig {
            margin: Duration::from_millis(40),
            renew_every: Duration::from_millis(80),
            resend: Duration::from_millis(40),
            ..OwnerConfig::default()
        },
        directory: DirectoryConfig {
            lease: LEASE,
            skew: Duration::from_millis(100),
            retry: Duration::from_millis(50),
            ..DirectoryConfig::default()
        },
    };
    let joined = |key: &Arc<Keypair>| {
        let engine = Arc::new(network.join(key.entity_id()));
        let of_mesh = MeshConfig {
            presence: PresenceConfig {
                interval: Duration::from_millis(40),
                beats_per_second: 100_000,
                ..PresenceConfig::default()
            },
            ..MeshConfig::default()
        };
        let members = Members::Listed(Arc::new(listed.clone()));
        let mesh = Mesh::join(Arc::clone(key), id, members, engine, &of_mesh).expect("it joins");
        let (carrier, stores) = (Carrier::mesh(mesh.clone()), memory());
        let directory = keys[0].entity_id();
        let ownership = Ownership::join(
            carrier.clone(),
            Arc::clone(key),
            stores.clone(),
            directory,
            options.clone(),
        );
        let ownership = ownership.expect("its rows are read");
        let runtime = Runtime::with_carrier(Arc::clone(key), lanes(), stores, carrier);
        let runtime = Arc::new(runtime.owned_by(Arc::clone(&ownership)));
        runtime.start().expect("fresh");
        let side = Side::of(&runtime, &Arc::default(), &mesh);
        side.remote.permit(BTreeSet::from([keys[0].entity_id()]));
        (side, ownership)
    };
    keys.iter().map(joined).collect()
}

#[test]
fn after_a_takeover_the_rest_comes_from_the_new_owner_once_and_in_its_epoch() {
    let nodes = owned(3);
    let (here, directory) = &nodes[0];
    let (old, new) = (&nodes[1].0, &nodes[2].0);
    let slot = old.spawn(config());
    emit(&slot, 1..=4);
    let snapshot = old.snapshot(&slot);
    emit(&slot, 5..=6);
    let mut follower = here.follow(old, 1);
    read(&mut follower, 1..=6);
    old.mesh.pause(true);
    let central = directory.central().expect("the directory is there");
    let (at, to) = (
        (snapshot.meta.head.sequence, snapshot.meta.digest),
        new.mesh.entity_id(),
    );
    let signer = Keypair::from_seed(&[1; 32]);
    let deadline = Deadline::after(PATIENCE);
    let taken = central.take_over(entity(1), to, at, Some(&signer), deadline, &mut never);
    assert_eq!(taken.expect("the lease ran out").epoch(), 3);
    until(|| nodes[2].1.offered(&entity(1)).is_some());
    let slot = new.again(snapshot);
    emit(&slot, 7..=9);
    let rolled_back = Followed::RolledBack {
        after: 4,
        through: 6,
        epoch: 3,
    };
    assert_eq!(next(&mut follower).expect("no error"), Some(rolled_back));
    read(&mut follower, 5..=7);
    assert_eq!((follower.position().epoch, follower.node()), (3, to));
    // The one before comes back, and is not listened to.
    old.mesh.pause(false);
    emit(&slot, 10..=50);
    read(&mut follower, 8..=48);
    until(|| old.runtime.feeds().stats().open == 0);
    nothing(&mut follower, Duration::from_millis(200));
}

#[test]
fn an_owner_without_a_lease_pushes_nothing() {
    let nodes = owned(2);
    let (here, there) = (&nodes[0].0, &nodes[1].0);
    // Who follows is on the node of the directory: it stands still, and so does the lease.
    let slot = there.spawn(config());
    emit(&slot, 1..=2);
    let mut follower = here.follow(there, 1);
    read(&mut follower, 1..=2);
    here.mesh.pause(true);
    until(|| slot.leased().is_err());
    let pushed = there.runtime.feeds().stats().pushed;
    let fed = Event::outside(7, 3, b"x");
    let mut entered = slot.enter(Deadline::never(), &mut never).expect("open");
    let _ = deliver::deliver(&mut entered, &fed, Want::Receipt);
    deliver::submit(&mut entered);
    drop(entered);
    let end = Instant::now() + Duration::from_millis(200);
    until(|| Instant::now() > end);
    assert_eq!(there.runtime.feeds().stats().pushed, pushed);
    here.mesh.pause(false);
    until(|| slot.leased().is_ok());
    emit(&slot, 3..=4);
    read(&mut follower, 3..=4);
    assert!(there.switches.snapshots.load(Ordering::SeqCst) < 100);
}

#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout, reason = "it is read by who measures")]
fn outputs_a_second() {
    let (_net, here, there) = pair(Weather::default());
    let slot = there.spawn(DaemonHostConfig {
        outputs_max: 200_000,
        ..config()
    });
    const COUNT: u64 = 50_000;
    for round in 0..3 {
        let mut follower = here.follow(&there, 1);
        let begin = Instant::now();
        read(&mut follower, 1..=round * COUNT);
        println!("kept: {:.0}/s", (round * COUNT) as f64 / begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        let (first, last) = (round * COUNT + 1, (round + 1) * COUNT);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                emit(&slot, first..=last);
                println!("emitted: {:.0}/s", COUNT as f64 / begin.elapsed().as_secs_f64());
            });
            read(&mut follower, first..=last);
        });
        println!("live: {:.0}/s", COUNT as f64 / begin.elapsed().as_secs_f64());
    }
}
