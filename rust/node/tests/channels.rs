//! Channels between nodes of one process, on a network that keeps everything and on one that does not.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meshos_core::channel_frame::{Gap, Reason};
use meshos_core::channel_policy::ChannelPolicy;
use meshos_core::engine::{
    Answered, Declared, Engine, EngineError, EngineStats, Payload, Receive, Serve, Topic, Watch,
};
use meshos_core::frame::MeshId;
use meshos_core::id::EntityId;
use meshos_core::identity::Keypair;
use meshos_core::name::ChannelName;
use meshos_core::presence::{Members, PresenceConfig};
use meshos_core::revocation::Revocations;
use meshos_core::testing::samples::keypair;
use meshos_core::token::{PermissionToken, Right, Scope, Terms};
use meshos_node::carrier::Carrier;
use meshos_node::channel_stream::{Arrived, ChannelStream, NoItem, NotSubscribed};
use meshos_node::channels::{Channels, Item, PublishError, Sink, Subscriber, Wanted};
use meshos_node::clock::Deadline;
use meshos_node::local_engine::{LocalEngine, LocalNetwork};
use meshos_node::mesh::{Mesh, MeshConfig};
use meshos_node::sync;

const PATIENCE: Duration = Duration::from_secs(30);

/// What a bad network does to bodies, by chance and one seed.
struct Weather {
    state: AtomicU64,
    /// Of 256: how many are lost, come twice, come after the next.
    odds: [u64; 3],
    calm: AtomicBool,
    seen: Mutex<Vec<Vec<u8>>>,
    keeps: bool,
}

impl Weather {
    fn new(seed: u64, odds: [u64; 3], keeps: bool) -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU64::new(seed),
            odds,
            calm: AtomicBool::new(false),
            seen: Mutex::default(),
            keeps,
        })
    }

    fn next(&self) -> u64 {
        let step = |state: u64| {
            state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407)
        };
        let before = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| Some(step(state)));
        before.unwrap_or(0) >> 33
    }
}

/// An engine in bad weather.
struct Lossy {
    engine: LocalEngine,
    weather: Arc<Weather>,
    late: Mutex<Vec<(Topic, Payload)>>,
}

impl Engine for Lossy {
    fn node(&self) -> EntityId {
        self.engine.node()
    }

    fn publish(&self, topic: &Topic, payload: Payload) -> Result<(), EngineError> {
        if *topic == Topic::Beats {
            return self.engine.publish(topic, payload);
        }
        if self.weather.keeps {
            self.weather.seen.lock().unwrap().push(payload.bytes().to_vec());
        }
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        let [lost, twice, later] = self.weather.odds;
        let chance = self.weather.next() % 256;
        if self.weather.calm.load(Ordering::Acquire) || chance >= lost + twice + later {
            self.engine.publish(topic, payload)?;
        } else if chance < lost {
        } else if chance < lost + twice {
            self.engine.publish(topic, payload.clone())?;
            self.engine.publish(topic, payload)?;
        } else {
            self.late.lock().unwrap().push((topic.clone(), payload));
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

struct Node {
    channels: Channels,
    mesh: Mesh,
}

fn cluster(count: u8, weather: &Arc<Weather>) -> Vec<Node> {
    let keys: Vec<Arc<Keypair>> = (1..=count).map(|byte| Arc::new(keypair(byte))).collect();
    let listed: BTreeSet<EntityId> = keys.iter().map(|key| key.entity_id()).collect();
    let members = Members::Listed(Arc::new(listed));
    let network = LocalNetwork::new();
    let config = MeshConfig {
        presence: PresenceConfig {
            interval: Duration::from_millis(50),
            beats_per_second: 100_000,
            ..PresenceConfig::default()
        },
        ..MeshConfig::default()
    };
    let join = |key: Arc<Keypair>| {
        let engine = Lossy {
            engine: network.join(key.entity_id()),
            weather: Arc::clone(weather),
            late: Mutex::default(),
        };
        let mesh = MeshId::of(b"channels");
        let mesh = Mesh::join(Arc::clone(&key), mesh, members.clone(), Arc::new(engine), &config).expect("it joins");
        let channels = Channels::new(Carrier::mesh(mesh.clone()), key, Revocations::default());
        Node { channels, mesh }
    };
    let nodes: Vec<Node> = keys.into_iter().map(join).collect();
    for node in &nodes {
        for other in &nodes {
            if other.mesh.node_id() != node.mesh.node_id() {
                let deadline = Deadline::after(PATIENCE);
                node.mesh
                    .wait_for_peer(other.mesh.node_id(), deadline, || false)
                    .expect("it is there");
            }
        }
    }
    nodes
}

fn calm() -> Arc<Weather> {
    Weather::new(0, [0; 3], false)
}

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).expect("a name")
}

fn bytes(payload: &[u8]) -> Arc<[u8]> {
    Arc::from(payload)
}

fn stream(at: &Channels, of: &Channels, channel: &str) -> ChannelStream {
    open(at, of, channel, Vec::new()).expect("it is accepted")
}

fn open(at: &Channels, of: &Channels, channel: &str, token: Vec<u8>) -> Result<ChannelStream, NotSubscribed> {
    let deadline = Deadline::after(PATIENCE);
    ChannelStream::open(at, of.entity_id(), &name(channel), token, 1024, deadline, &mut || false)
}

/// Takes so many items out.
fn read(stream: &ChannelStream, count: usize) -> Vec<Arrived> {
    let mut items = Vec::new();
    let deadline = Deadline::after(PATIENCE);
    while items.len() < count {
        items.extend(
            stream
                .take(count - items.len(), deadline, &mut || false)
                .expect("more is to come"),
        );
    }
    items
}

fn nothing(stream: &ChannelStream) {
    let soon = Deadline::after(Duration::from_millis(100));
    assert_eq!(stream.take(1, soon, &mut || false), Err(NoItem::Timeout));
}

fn numbers(items: &[Arrived]) -> Vec<u64> {
    let number = |item: &Arrived| match item {
        Arrived::Event(item) => item.sequence,
        Arrived::Gap(gap) => panic!("{gap:?} is missing"),
    };
    items.iter().map(number).collect()
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let (_keep, moment) = channel::<()>();
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        let _ = moment.recv_timeout(Duration::from_millis(1));
    }
}

fn token(of: &Channels, subject: EntityId, channel: &str, right: Right) -> PermissionToken {
    let terms = Terms {
        subject,
        scope: Scope::Channel(name(channel)),
        rights: [right].into_iter().collect(),
        delegations: 0,
    };
    of.issue(terms, Duration::from_secs(60)).expect("it is issued")
}

fn gated() -> ChannelPolicy {
    ChannelPolicy {
        requires_token: true,
        ..ChannelPolicy::default()
    }
}

/// Remembers what it is told.
#[derive(Default)]
struct Told {
    items: sync::Mutex<Vec<(u64, u64, Item)>>,
    gaps: sync::Mutex<Vec<Gap>>,
    ended: sync::Mutex<Option<Option<Reason>>>,
    reading: AtomicBool,
    shut: AtomicBool,
}

impl Sink for Told {
    fn has_room(&self) -> bool {
        !self.shut.load(Ordering::Acquire)
    }

    fn event(&self, log: u64, number: u64, item: Item) {
        self.items.lock().push((log, number, item));
    }

    fn gap(&self, _log: u64, gap: Gap) {
        self.gaps.lock().push(gap);
    }

    fn restart(&self, _log: u64, _next: u64) {}

    fn reading(&self) {
        self.reading.store(true, Ordering::Release);
    }

    fn ended(&self, reason: Option<Reason>) {
        *self.ended.lock() = Some(reason);
    }
}

fn daemon(
    at: &Channels,
    of: &Channels,
    channel: &str,
    key: u8,
    group: Option<&str>,
    token: Option<&PermissionToken>,
) -> (u64, Arc<Told>) {
    let told = Arc::new(Told::default());
    let key = keypair(key);
    let wanted = Wanted {
        publisher: of.entity_id(),
        channel: name(channel),
        subscriber: Subscriber::Daemon(key.entity_id(), Arc::new(sync::Mutex::new(key))),
        epoch: 1,
        after: None,
        group: group.map(name),
        token: token.map_or_else(Vec::new, PermissionToken::to_bytes),
    };
    let number = at.subscribe(wanted, told.clone()).expect("there is room");
    eventually("it is answered", || {
        told.reading.load(Ordering::Acquire) || told.ended.lock().is_some()
    });
    (number, told)
}

#[test]
fn what_is_published_arrives_at_every_node_in_order_with_its_sender() {
    let nodes = cluster(3, &calm());
    let emitter = keypair(90).entity_id();
    let streams: Vec<ChannelStream> = nodes
        .iter()
        .map(|node| stream(&node.channels, &nodes[0].channels, "a/b"))
        .collect();
    for number in 1..=500_u64 {
        let (of, payload) = (&nodes[0].channels, bytes(&number.to_le_bytes()));
        let put = if number % 2 == 0 {
            of.publish_emitted(&name("a/b"), emitter, payload)
        } else {
            of.publish(&name("a/b"), payload)
        };
        assert_eq!(put, Ok(number));
    }
    for stream in &streams {
        for (place, item) in read(stream, 500).into_iter().enumerate() {
            let Arrived::Event(item) = item else {
                panic!("nothing is missing")
            };
            let number = place as u64 + 1;
            assert_eq!((item.sequence, &*item.payload), (number, &number.to_le_bytes()[..]));
            assert_eq!(item.emitter, (number.is_multiple_of(2)).then_some(emitter));
        }
        nothing(stream);
    }
}

#[test]
fn a_node_that_is_alone_reads_itself_and_a_subscription_begins_now() {
    let key = Arc::new(keypair(1));
    let channels = Channels::new(Carrier::alone(key.entity_id()), key, Revocations::default());
    assert_eq!(channels.publish(&name("a"), bytes(b"before")), Ok(1));
    let reader = stream(&channels, &channels, "a");
    assert_eq!(channels.publish(&name("a"), bytes(b"after")), Ok(2));
    assert_eq!(numbers(&read(&reader, 1)), [2]);
    reader.close();
    assert_eq!(
        reader.take(1, Deadline::never(), &mut || false),
        Err(NoItem::Ended(None))
    );
    channels.close();
    assert_eq!(channels.publish(&name("a"), bytes(b"")), Err(PublishError::Closed));
}

#[test]
fn on_a_bad_network_nothing_is_lost_nothing_comes_twice_and_all_is_in_order() {
    for seed in 1..=6 {
        let weather = Weather::new(seed, [40, 30, 40], false);
        let nodes = cluster(3, &weather);
        let streams: Vec<ChannelStream> = nodes[1..]
            .iter()
            .map(|node| stream(&node.channels, &nodes[0].channels, "a"))
            .collect();
        let (_, member) = daemon(&nodes[1].channels, &nodes[0].channels, "a", 80, Some("g"), None);
        for number in 1..=2000_u64 {
            let payload = bytes(&number.to_le_bytes());
            while nodes[0].channels.publish(&name("a"), Arc::clone(&payload)) == Err(PublishError::Full) {
                std::thread::yield_now();
            }
            if number % 100 == 0 {
                std::thread::yield_now();
            }
        }
        let wanted: Vec<u64> = (1..=2000).collect();
        for stream in &streams {
            assert_eq!(numbers(&read(stream, 2000)), wanted, "seed {seed}");
        }
        eventually("the member has some", || !member.items.lock().is_empty());
    }
}

#[test]
fn who_does_not_read_is_passed_over_and_gets_it_later_or_a_counted_gap() {
    let nodes = cluster(2, &calm());
    let policy = ChannelPolicy {
        retain_bytes_max: 600 * 72,
        ..ChannelPolicy::default()
    };
    nodes[0]
        .channels
        .open(&name("kept"), &ChannelPolicy::default())
        .expect("it is opened");
    nodes[0].channels.open(&name("short"), &policy).expect("it is opened");
    let (at, of) = (&nodes[1].channels, &nodes[0].channels);
    let (kept, short) = (stream(at, of, "kept"), stream(at, of, "short"));
    for number in 1..=20_000_u64 {
        for channel in ["kept", "short"] {
            let payload = bytes(&number.to_le_bytes());
            while of.publish(&name(channel), Arc::clone(&payload)) == Err(PublishError::Full) {
                std::thread::yield_now();
            }
        }
    }
    eventually("it is passed over", || at.stats().read.crowded > 1000);
    let wanted: Vec<u64> = (1..=20_000).collect();
    assert_eq!(numbers(&read(&kept, 20_000)), wanted);
    let (mut next, mut missing) = (1, 0);
    while next <= 20_000 {
        for item in read(&short, 1) {
            match item {
                Arrived::Event(item) => {
                    assert_eq!(item.sequence, next);
                    next += 1;
                }
                Arrived::Gap(gap) => {
                    assert_eq!(gap.first, next);
                    next = gap.last + 1;
                    missing += gap.len();
                }
            }
        }
    }
    assert!(missing > 10_000, "{missing}");
    assert_eq!(at.stats().read.missing, missing);
}

#[test]
fn a_gated_channel_wants_a_token_and_its_payloads_are_never_in_clear() {
    let weather = Weather::new(0, [0; 3], true);
    let nodes = cluster(2, &weather);
    let (of, at) = (&nodes[0].channels, &nodes[1].channels);
    of.open(&name("alarms"), &gated()).expect("it is opened");
    let rejected = |token: Vec<u8>| open(at, of, "alarms", token).err();
    let unauthorized = Some(NotSubscribed::Rejected(Reason::Unauthorized));
    assert_eq!(rejected(Vec::new()), unauthorized);
    let own = at.entity_id();
    let bad = [
        token(of, keypair(70).entity_id(), "alarms", Right::Subscribe),
        token(of, own, "alarms/fire", Right::Subscribe),
        token(of, own, "alarms", Right::Publish),
        token(at, own, "alarms", Right::Subscribe),
    ];
    for token in &bad {
        assert_eq!(rejected(token.to_bytes()), unauthorized);
    }
    assert_eq!(rejected(b"no token".to_vec()), unauthorized);
    let good = token(of, own, "alarms", Right::Subscribe);
    let reader = open(at, of, "alarms", good.to_bytes()).expect("it is permitted");
    of.publish(&name("alarms"), bytes(b"the pump is on fire"))
        .expect("it is published");
    let [Arrived::Event(item)] = &read(&reader, 1)[..] else {
        panic!("an event")
    };
    assert_eq!(&*item.payload, b"the pump is on fire");
    let seen = weather.seen.lock().unwrap();
    let has = |part: &[u8]| {
        seen.iter()
            .any(|body| body.windows(part.len()).any(|window| window == part))
    };
    assert!(has(b"alarms"));
    assert!(!has(b"the pump is on fire"));
}

#[test]
fn who_is_revoked_gets_nothing_more_and_cannot_read_what_others_get() {
    let nodes = cluster(2, &calm());
    let (of, at) = (&nodes[0].channels, &nodes[1].channels);
    of.open(&name("alarms"), &gated()).expect("it is opened");
    let [one, two] = [60, 61].map(|byte| token(of, keypair(byte).entity_id(), "alarms", Right::Subscribe));
    let (_, first) = daemon(at, of, "alarms", 60, None, Some(&one));
    let (_, second) = daemon(at, of, "alarms", 61, None, Some(&two));
    of.publish(&name("alarms"), bytes(b"one")).expect("it is published");
    for told in [&first, &second] {
        eventually("it arrives", || told.items.lock().len() == 1);
    }
    let revocation = of.sign_revocation(keypair(60).entity_id()).expect("the node signs");
    of.revoke(&revocation).expect("it is taken in");
    eventually("it is told", || first.ended.lock().is_some());
    assert_eq!(*first.ended.lock(), Some(Some(Reason::Unauthorized)));
    of.publish(&name("alarms"), bytes(b"two")).expect("it is published");
    eventually("it arrives", || second.items.lock().len() == 2);
    assert_eq!(first.items.lock().len(), 1);
    let (_, again) = daemon(at, of, "alarms", 60, None, Some(&one));
    assert_eq!(*again.ended.lock(), Some(Some(Reason::Unauthorized)));
    // What is issued after the statement is good.
    let anew = token(of, keypair(60).entity_id(), "alarms", Right::Subscribe);
    let (_, again) = daemon(at, of, "alarms", 60, None, Some(&anew));
    of.publish(&name("alarms"), bytes(b"three")).expect("it is published");
    eventually("it arrives", || again.items.lock().len() == 1);
}

#[test]
fn a_token_that_ends_ends_its_subscription() {
    let nodes = cluster(2, &calm());
    let (of, at) = (&nodes[0].channels, &nodes[1].channels);
    of.open(&name("alarms"), &gated()).expect("it is opened");
    let terms = Terms {
        subject: keypair(60).entity_id(),
        scope: Scope::All,
        rights: [Right::Subscribe].into_iter().collect(),
        delegations: 0,
    };
    let short = of.issue(terms, Duration::from_secs(1)).expect("it is issued");
    let (_, told) = daemon(at, of, "alarms", 60, None, Some(&short));
    assert!(told.ended.lock().is_none());
    eventually("its time is over", || {
        *told.ended.lock() == Some(Some(Reason::Unauthorized))
    });
}

#[test]
fn siblings_do_not_disturb_each_other() {
    let nodes = cluster(2, &calm());
    let (of, at) = (&nodes[0].channels, &nodes[1].channels);
    let (first, one) = daemon(at, of, "a", 60, None, None);
    let (_, two) = daemon(at, of, "a", 61, None, None);
    two.shut.store(true, Ordering::Release);
    of.publish(&name("a"), bytes(b"1")).expect("it is published");
    eventually("it arrives", || one.items.lock().len() == 1);
    at.unsubscribe(first);
    eventually("it is over", || of.stats().subscribers == 1);
    of.publish(&name("a"), bytes(b"2")).expect("it is published");
    two.shut.store(false, Ordering::Release);
    at.has_room(2);
    eventually("it arrives", || two.items.lock().len() == 2);
    assert_eq!(one.items.lock().len(), 1);
    // Two streams of a node are one subscriber to the publisher; one that ends leaves the other.
    let (left, right) = (stream(at, of, "b"), stream(at, of, "b"));
    left.close();
    of.publish(&name("b"), bytes(b"1")).expect("it is published");
    assert_eq!(numbers(&read(&right, 1)), [1]);
}

#[test]
fn members_of_a_group_share_the_events_and_one_that_goes_leaves_its_share() {
    let nodes = cluster(3, &calm());
    let of = &nodes[0].channels;
    let (first, one) = daemon(&nodes[1].channels, of, "work", 60, Some("g"), None);
    let (second, two) = daemon(&nodes[2].channels, of, "work", 61, Some("g"), None);
    let plain = stream(&nodes[1].channels, of, "work");
    for number in 1..=40_u64 {
        of.publish(&name("work"), bytes(&number.to_le_bytes()))
            .expect("it is published");
    }
    assert_eq!(read(&plain, 40).len(), 40);
    eventually("each event is given once", || {
        one.items.lock().len() + two.items.lock().len() == 40
    });
    assert_eq!((one.items.lock().len(), two.items.lock().len()), (20, 20));
    let (term, turn) = one
        .items
        .lock()
        .last()
        .map(|(term, turn, _)| (*term, *turn))
        .expect("it has some");
    assert_eq!(turn, 20);
    nodes[1].channels.taken(first, term, 15);
    nodes[1].channels.unsubscribe(first);
    eventually("the rest goes to the other", || two.items.lock().len() == 25);
    let (term, turn) = two
        .items
        .lock()
        .last()
        .map(|(term, turn, _)| (*term, *turn))
        .expect("it has some");
    nodes[2].channels.taken(second, term, turn);
    let got: BTreeSet<u64> = two.items.lock().iter().map(|(_, _, item)| item.sequence).collect();
    assert_eq!(got.len(), 25);
}

#[test]
fn a_node_that_vanishes_is_forgotten_and_its_publisher_is_asked_in_vain() {
    let nodes = cluster(3, &calm());
    let (of, at) = (&nodes[0].channels, &nodes[1].channels);
    let reader = stream(at, of, "a");
    assert_eq!(of.stats().subscribers, 1);
    nodes[1].mesh.close();
    at.close();
    eventually("it is forgotten", || of.stats().subscribers == 0);
    assert_eq!(
        reader.take(1, Deadline::never(), &mut || false),
        Err(NoItem::Ended(None))
    );
    nodes[0].mesh.pause(true);
    let soon = Deadline::after(Duration::from_millis(200));
    let asked = ChannelStream::open(
        &nodes[2].channels,
        of.entity_id(),
        &name("a"),
        Vec::new(),
        16,
        soon,
        &mut || false,
    );
    assert_eq!(asked.err(), Some(NotSubscribed::Unavailable));
    nodes[0].mesh.pause(false);
}

#[test]
fn a_channel_that_is_closed_ends_its_subscriptions_and_large_payloads_are_refused() {
    let nodes = cluster(2, &calm());
    let (of, at) = (&nodes[0].channels, &nodes[1].channels);
    let policy = ChannelPolicy {
        payload_bytes_max: 4,
        ..ChannelPolicy::default()
    };
    of.open(&name("a"), &policy).expect("it is opened");
    assert!(matches!(
        of.publish(&name("a"), bytes(b"12345")),
        Err(PublishError::NotPublished(_))
    ));
    let reader = stream(at, of, "a");
    of.close_channel(&name("a"));
    let ended = reader.take(1, Deadline::after(PATIENCE), &mut || false);
    assert_eq!(ended, Err(NoItem::Ended(Some(Reason::Closed))));
    assert_eq!(of.publish(&name("a"), bytes(b"12345")), Ok(1));
}

#[test]
fn a_publish_goes_to_each_node_once_however_many_read_there() {
    let nodes = cluster(3, &calm());
    let of = &nodes[0].channels;
    let mut told = Vec::new();
    for byte in 0..50 {
        for node in &nodes[1..] {
            told.push(daemon(&node.channels, of, "a", 100 + byte, None, None).1);
        }
    }
    for other in 0..200 {
        told.push(daemon(&nodes[1].channels, of, &format!("other/{other}"), 99, None, None).1);
    }
    // The same daemon cannot be at two nodes: who asked first has it.
    told.retain(|told| told.ended.lock().is_none());
    let before = of.stats().sent.0;
    of.publish(&name("a"), bytes(b"one")).expect("it is published");
    eventually("it arrives", || {
        told.iter().filter(|told| told.items.lock().len() == 1).count() == 50
    });
    let sent = of.stats().sent.0 - before;
    // The event itself, and what quiet channels say from time to time.
    assert!(sent < 250, "{sent}");
}
