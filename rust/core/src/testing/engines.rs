//! What every engine must do, as one suite, and simulated engines over a [`Network`] that goes wrong.
//!
//! The suite runs against a [`Lab`]: the simulated engine in virtual time, and each real one. Of the simulated engine one
//! seed gives one run: its engines only note what they are asked for, and [`SimulatedNetwork::advance`] carries it out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::network::{self, Faults, Network};
use super::samples::keypair;
use crate::engine::{
    Answered, Declared, Engine, EngineError, EngineStats, PAYLOAD_BYTES_MAX, Payload, Receive, RequestError, Responder,
    Serve, Topic, Watch,
};
use crate::id::EntityId;
use crate::name::ChannelName;

/// Where the suite is run.
pub trait Lab {
    /// Lets a node in.
    fn join(&mut self, node: EntityId) -> Arc<dyn Engine>;

    /// Lets time pass until `done`, or long enough that it will never be.
    fn until(&mut self, done: &mut dyn FnMut() -> bool) -> bool;
}

/// Nodes that may join one network, from first to last.
pub const NODES_MAX: usize = 256;

type Node = usize;

enum Order {
    Publish(Node, Topic, Payload),
    Subscribe(Node, u64, Topic, Arc<dyn Receive>),
    Serve(Node, u64, Topic, Arc<dyn Serve>),
    Watch(Node, u64, Arc<dyn Watch>),
    End(u64),
    Request(Node, Topic, Payload, Duration, Answered),
    Answer(Node, u64, Result<Payload, RequestError>),
    Close(Node),
}

#[derive(Clone)]
enum Message {
    Publication(u64, Topic, Payload),
    Question(u64, Topic, Payload),
    Answer(u64, Result<Payload, RequestError>),
}

struct Waiting {
    from: Node,
    late: Duration,
    answered: Answered,
}

#[derive(Default)]
struct Counters {
    published: AtomicU64,
    received: AtomicU64,
    refused: AtomicU64,
    requests: AtomicU64,
    unanswered: AtomicU64,
    served: AtomicU64,
}

/// What was declared on each topic, by number, and by which node.
type Declarations<T> = BTreeMap<Topic, BTreeMap<u64, (Node, Arc<T>)>>;

/// Engines over a [`Network`] in virtual time.
pub struct SimulatedNetwork {
    network: Network<Message>,
    now: Duration,
    orders: (Sender<Order>, Receiver<Order>),
    numbers: Arc<AtomicU64>,
    joined: Node,
    nodes: BTreeMap<Node, (EntityId, Arc<Counters>)>,
    receivers: Declarations<dyn Receive>,
    services: Declarations<dyn Serve>,
    watches: BTreeMap<u64, (Node, Arc<dyn Watch>)>,
    waiting: BTreeMap<u64, Waiting>,
    deadlines: BTreeSet<(Duration, u64)>,
}

/// The engine of one node in a simulated network.
pub struct SimulatedEngine {
    entity: EntityId,
    node: Node,
    orders: Sender<Order>,
    numbers: Arc<AtomicU64>,
    counters: Arc<Counters>,
    closed: Arc<AtomicBool>,
    /// Topics that this node serves are refused a second time.
    serves: Arc<AtomicUsize>,
    topic: OnceLock<Topic>,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl SimulatedEngine {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn order(&self, order: Order) {
        // Nobody listens any more when the network is gone; then nothing moves.
        let _ = self.orders.send(order);
    }

    fn declare(
        &self,
        order: impl FnOnce(u64) -> Order,
        end: impl FnOnce() + Send + Sync + 'static,
    ) -> Result<Declared, EngineError> {
        if self.is_closed() {
            return Err(EngineError::Closed);
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.order(order(number));
        let orders = self.orders.clone();
        Ok(Declared::new(move || {
            end();
            let _ = orders.send(Order::End(number));
        }))
    }

    fn fits(&self, payload: &Payload) -> Result<(), EngineError> {
        let size = payload.bytes().len();
        match size > PAYLOAD_BYTES_MAX {
            _ if self.is_closed() => Err(EngineError::Closed),
            true => Err(EngineError::TooLarge {
                size,
                max: PAYLOAD_BYTES_MAX,
            }),
            false => Ok(()),
        }
    }
}

impl Engine for SimulatedEngine {
    fn node(&self) -> EntityId {
        self.entity
    }

    fn publish(&self, topic: &Topic, payload: Payload) -> Result<(), EngineError> {
        self.fits(&payload)?;
        add(&self.counters.published);
        self.order(Order::Publish(self.node, topic.clone(), payload));
        Ok(())
    }

    fn subscribe(&self, topic: &Topic, receiver: Arc<dyn Receive>) -> Result<Declared, EngineError> {
        let topic = topic.clone();
        self.declare(|number| Order::Subscribe(self.node, number, topic, receiver), || {})
    }

    fn request(&self, topic: &Topic, payload: Payload, timeout: Duration, answered: Answered) {
        add(&self.counters.requests);
        match self.fits(&payload) {
            Ok(()) => self.order(Order::Request(self.node, topic.clone(), payload, timeout, answered)),
            Err(error) => {
                add(&self.counters.unanswered);
                answered(Err(error.into()));
            }
        }
    }

    fn serve(&self, topic: &Topic, service: Arc<dyn Serve>) -> Result<Declared, EngineError> {
        let mine = self.topic.get_or_init(|| topic.clone()) == topic;
        if mine && self.serves.fetch_add(1, Ordering::Relaxed) > 0 {
            self.serves.fetch_sub(1, Ordering::Relaxed);
            return Err(if self.is_closed() {
                EngineError::Closed
            } else {
                EngineError::Crowded { max: 1 }
            });
        }
        let (topic, serves) = (topic.clone(), Arc::clone(&self.serves));
        self.declare(
            |number| Order::Serve(self.node, number, topic, service),
            move || {
                if mine {
                    serves.fetch_sub(1, Ordering::Relaxed);
                }
            },
        )
    }

    fn watch(&self, watch: Arc<dyn Watch>) -> Result<Declared, EngineError> {
        self.declare(|number| Order::Watch(self.node, number, watch), || {})
    }

    fn close(&self) {
        if !self.closed.swap(true, Ordering::Relaxed) {
            self.order(Order::Close(self.node));
        }
    }

    fn stats(&self) -> EngineStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EngineStats {
            published: read(&self.counters.published),
            received: read(&self.counters.received),
            refused: read(&self.counters.refused),
            requests: read(&self.counters.requests),
            unanswered: read(&self.counters.unanswered),
            served: read(&self.counters.served),
        }
    }
}

impl Drop for SimulatedEngine {
    fn drop(&mut self) {
        self.close();
    }
}

impl SimulatedNetwork {
    /// One without nodes; everything that goes wrong follows from the seed.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self {
            network: Network::new(NODES_MAX, seed, faults),
            now: Duration::ZERO,
            orders: channel(),
            numbers: Arc::new(AtomicU64::new(1)),
            joined: 0,
            nodes: BTreeMap::new(),
            receivers: BTreeMap::new(),
            services: BTreeMap::new(),
            watches: BTreeMap::new(),
            waiting: BTreeMap::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// Time that passed.
    #[must_use]
    pub const fn now(&self) -> Duration {
        self.now
    }

    /// What became of messages.
    #[must_use]
    pub const fn counters(&self) -> &network::Counters {
        self.network.counters()
    }

    /// Lets a node in.
    ///
    /// # Panics
    /// If more than [`NODES_MAX`] join.
    pub fn join(&mut self, entity: EntityId) -> SimulatedEngine {
        assert!(self.joined < NODES_MAX, "a simulation of fewer nodes");
        self.carry_out();
        let node = self.joined;
        self.joined += 1;
        let (counters, closed) = (Arc::<Counters>::default(), Arc::<AtomicBool>::default());
        for (_, watch) in self.watches.values() {
            watch.here(&entity);
        }
        self.nodes.insert(node, (entity, Arc::clone(&counters)));
        SimulatedEngine {
            entity,
            node,
            orders: self.orders.0.clone(),
            numbers: Arc::clone(&self.numbers),
            counters,
            closed,
            serves: Arc::default(),
            topic: OnceLock::new(),
        }
    }

    /// Cuts these nodes off from all others.
    pub fn cut(&mut self, apart: &[EntityId]) {
        self.carry_out();
        let group = self.nodes.iter().filter(|(_, (entity, _))| apart.contains(entity));
        let group: Vec<_> = group.map(|(node, _)| *node).collect();
        self.network.cut(&group, true);
    }

    /// Joins all nodes again.
    pub fn heal(&mut self) {
        self.carry_out();
        self.network.heal();
    }

    /// Carries out what was asked for, and lets time pass until something arrives or is over, at the latest until `end`.
    /// `false`: nothing did.
    pub fn advance(&mut self, end: Duration) -> bool {
        self.carry_out();
        let late = self.deadlines.first().copied().filter(|(at, _)| *at <= end);
        let next = self.network.next_at().filter(|at| *at <= end);
        match (late, next) {
            (Some((at, request)), next) if next.is_none_or(|next| at < next) => {
                self.now = self.now.max(at);
                self.answer(request, Err(RequestError::Timeout));
            }
            (_, Some(_)) => {
                let arrival = self.network.take_next().expect("it was there");
                self.now = self.now.max(arrival.at);
                self.arrive(arrival.from, arrival.to, arrival.message);
            }
            _ => {
                self.now = self.now.max(end);
                return false;
            }
        }
        self.carry_out();
        true
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn carry_out(&mut self) {
        while let Ok(order) = self.orders.1.try_recv() {
            match order {
                Order::Publish(from, topic, payload) => self.publish(from, &topic, &payload),
                Order::Subscribe(node, number, topic, receiver) => {
                    self.receivers
                        .entry(topic)
                        .or_default()
                        .insert(number, (node, receiver));
                }
                Order::Serve(node, number, topic, service) => {
                    self.services.entry(topic).or_default().insert(number, (node, service));
                }
                Order::Watch(node, number, watch) => {
                    let others = self.nodes.iter().filter(|(other, _)| **other != node);
                    others.for_each(|(_, (entity, _))| watch.here(entity));
                    self.watches.insert(number, (node, watch));
                }
                Order::End(number) => {
                    self.receivers.values_mut().for_each(|all| drop(all.remove(&number)));
                    self.services.values_mut().for_each(|all| drop(all.remove(&number)));
                    self.watches.remove(&number);
                }
                Order::Request(from, topic, payload, timeout, answered) => {
                    self.request(from, &topic, payload, timeout, answered);
                }
                Order::Answer(from, request, answer) => {
                    if let Some(to) = self.waiting.get(&request).map(|waiting| waiting.from) {
                        self.network.send(self.now, from, to, Message::Answer(request, answer));
                    }
                }
                Order::Close(node) => self.close(node),
            }
        }
    }

    fn publish(&mut self, from: Node, topic: &Topic, payload: &Payload) {
        let receivers = self.receivers.get(topic).into_iter().flatten();
        let others = receivers.filter(|(_, (node, _))| *node != from);
        let others: Vec<_> = others.map(|(number, (node, _))| (*number, *node)).collect();
        for (number, to) in others {
            let message = Message::Publication(number, topic.clone(), payload.clone());
            self.network.send(self.now, from, to, message);
        }
    }

    fn request(&mut self, from: Node, topic: &Topic, payload: Payload, timeout: Duration, answered: Answered) {
        let request = self.number();
        let services = self.services.get(topic).into_iter().flatten();
        let to = services.map(|(_, (node, _))| *node).find(|node| *node != from);
        let late = self.now.saturating_add(timeout);
        self.deadlines.insert((late, request));
        self.waiting.insert(request, Waiting { from, late, answered });
        match to {
            Some(to) => {
                let message = Message::Question(request, topic.clone(), payload);
                self.network.send(self.now, from, to, message);
            }
            None => self.answer(request, Err(RequestError::Unavailable)),
        }
    }

    fn arrive(&mut self, from: Node, to: Node, message: Message) {
        match message {
            Message::Publication(number, topic, payload) => {
                let receiver = self.receivers.get(&topic).and_then(|all| all.get(&number));
                if let (Some((_, receiver)), Some((_, counters))) = (receiver, self.nodes.get(&to)) {
                    let taken = receiver.receive(&topic, &payload);
                    add(if taken { &counters.received } else { &counters.refused });
                }
            }
            Message::Question(request, topic, payload) => {
                let orders = self.orders.0.clone();
                let responder = Responder::new(Box::new(move |answer| {
                    let _ = orders.send(Order::Answer(to, request, answer));
                }));
                let services = self.services.get(&topic).into_iter().flatten();
                let service = services
                    .map(|(_, service)| service)
                    .find(|(node, _)| *node == to && *node != from);
                if let (Some((_, service)), Some((_, counters))) = (service, self.nodes.get(&to)) {
                    add(&counters.served);
                    service.serve(&topic, &payload, responder);
                }
            }
            Message::Answer(request, answer) => self.answer(request, answer),
        }
    }

    fn answer(&mut self, request: u64, answer: Result<Payload, RequestError>) {
        let Some(waiting) = self.waiting.remove(&request) else {
            return;
        };
        self.deadlines.remove(&(waiting.late, request));
        if let (Err(_), Some((_, counters))) = (&answer, self.nodes.get(&waiting.from)) {
            add(&counters.unanswered);
        }
        (waiting.answered)(answer);
    }

    fn close(&mut self, node: Node) {
        let open: Vec<_> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.from == node)
            .map(|(at, _)| *at)
            .collect();
        for request in open {
            self.answer(request, Err(EngineError::Closed.into()));
        }
        self.receivers
            .values_mut()
            .for_each(|all| all.retain(|_, (of, _)| *of != node));
        self.services
            .values_mut()
            .for_each(|all| all.retain(|_, (of, _)| *of != node));
        self.watches.retain(|_, (of, _)| *of != node);
        let Some((entity, _)) = self.nodes.remove(&node) else {
            return;
        };
        for (_, watch) in self.watches.values() {
            watch.left(&entity);
        }
    }
}

impl Lab for SimulatedNetwork {
    fn join(&mut self, node: EntityId) -> Arc<dyn Engine> {
        Arc::new(Self::join(self, node))
    }

    fn until(&mut self, done: &mut dyn FnMut() -> bool) -> bool {
        let end = self.now + Duration::from_secs(600);
        self.carry_out();
        while !done() {
            if !self.advance(end) {
                return done();
            }
        }
        true
    }
}

/// Notes what it gets, and has no place beyond a bound.
struct Notes {
    notes: Sender<Vec<u8>>,
    places: AtomicUsize,
}

impl Receive for Notes {
    fn receive(&self, _topic: &Topic, payload: &Payload) -> bool {
        let has_place = self
            .places
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |places| places.checked_sub(1));
        has_place.is_ok() && self.notes.send(payload.bytes().to_vec()).is_ok()
    }
}

fn notes(places: usize) -> (Arc<Notes>, Receiver<Vec<u8>>) {
    let (notes, noted) = channel();
    let places = AtomicUsize::new(places);
    (Arc::new(Notes { notes, places }), noted)
}

/// Collects what arrives until there is so much.
fn collect(lab: &mut dyn Lab, noted: &Receiver<Vec<u8>>, count: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    assert!(
        lab.until(&mut || {
            all.extend(noted.try_iter());
            all.len() >= count
        }),
        "{} of {count} arrived",
        all.len()
    );
    all.sort();
    all
}

struct Echo;

impl Serve for Echo {
    fn serve(&self, _topic: &Topic, payload: &Payload, responder: Responder) {
        responder.answer(payload.clone());
    }
}

/// Keeps what it is asked, and does not answer.
struct Silent(Sender<Responder>);

impl Serve for Silent {
    fn serve(&self, _topic: &Topic, _payload: &Payload, responder: Responder) {
        let _ = self.0.send(responder);
    }
}

struct Seen(Sender<(EntityId, bool)>);

impl Watch for Seen {
    fn here(&self, node: &EntityId) {
        let _ = self.0.send((*node, true));
    }

    fn left(&self, node: &EntityId) {
        let _ = self.0.send((*node, false));
    }
}

fn payload(text: &str) -> Payload {
    Payload::new(text.as_bytes().to_vec())
}

fn entity(byte: u8) -> EntityId {
    keypair(byte).entity_id()
}

/// Asks, and gives what is told.
fn ask(lab: &mut dyn Lab, engine: &dyn Engine, topic: &Topic, timeout: Duration) -> Result<Vec<u8>, RequestError> {
    let (told, answers) = channel();
    engine.request(
        topic,
        payload("question"),
        timeout,
        Box::new(move |answer| drop(told.send(answer))),
    );
    let mut answer = None;
    lab.until(&mut || {
        answer = answer.take().or_else(|| answers.try_recv().ok());
        answer.is_some()
    });
    let answer = answer.expect("a request is answered");
    assert!(answers.try_recv().is_err(), "and once");
    answer.map(|payload| payload.bytes().to_vec())
}

/// Everything that an engine must do where nothing is lost.
///
/// # Panics
/// If it does not.
pub fn conforms(lab: &mut dyn Lab) {
    delivers_to_who_subscribed(lab);
    counts_what_has_no_place(lab);
    answers_each_request_once(lab);
    tells_who_is_there(lab);
    ends_with_its_close(lab);
}

fn delivers_to_who_subscribed(lab: &mut dyn Lab) {
    let [one, two, three] = [1, 2, 3].map(|byte| lab.join(entity(byte)));
    let channel = Topic::Channel(entity(1), ChannelName::new("a/b").expect("a good name"));
    let (at_one, noted_one) = notes(usize::MAX);
    let (at_two, noted_two) = notes(usize::MAX);
    let (at_three, noted_three) = notes(usize::MAX);
    let _one = one.subscribe(&channel, at_one).expect("open");
    let two_hears = two.subscribe(&channel, at_two.clone()).expect("open");
    let _elsewhere = two.subscribe(&Topic::Node(entity(2)), at_two).expect("open");
    let _three = three.subscribe(&channel, at_three).expect("open");
    let texts: Vec<_> = (0..100).map(|number| format!("{number:03}")).collect();
    for text in &texts {
        one.publish(&channel, payload(text)).expect("open");
    }
    let wanted: Vec<_> = texts.iter().map(|text| text.clone().into_bytes()).collect();
    assert_eq!(collect(lab, &noted_two, 100), wanted);
    assert_eq!(collect(lab, &noted_three, 100), wanted);
    two.publish(&Topic::Node(entity(1)), payload("nobody listens"))
        .expect("open");
    one.publish(&Topic::Node(entity(2)), payload("for two")).expect("open");
    assert_eq!(collect(lab, &noted_two, 1), [b"for two"]);
    drop(two_hears);
    one.publish(&channel, payload("later")).expect("open");
    assert_eq!(collect(lab, &noted_three, 1), [b"later"]);
    assert!(noted_two.try_recv().is_err(), "who ended a subscription hears nothing");
    assert!(noted_one.try_recv().is_err(), "a node gets nothing from itself");
    assert_eq!(
        (one.stats().published, two.stats().received, three.stats().received),
        (102, 101, 101)
    );
    assert_eq!(one.node(), entity(1));
}

fn counts_what_has_no_place(lab: &mut dyn Lab) {
    let [one, two] = [1, 2].map(|byte| lab.join(entity(byte)));
    let (small, noted) = notes(3);
    let _small = two.subscribe(&Topic::Beats, small).expect("open");
    for _ in 0..10 {
        one.publish(&Topic::Beats, payload("beat")).expect("open");
    }
    assert!(lab.until(&mut || two.stats().refused == 7));
    assert_eq!((noted.try_iter().count(), two.stats().received), (3, 3));
    let large = Payload::new(vec![0; PAYLOAD_BYTES_MAX + 1]);
    let refused = EngineError::TooLarge {
        size: PAYLOAD_BYTES_MAX + 1,
        max: PAYLOAD_BYTES_MAX,
    };
    assert_eq!(one.publish(&Topic::Beats, large), Err(refused));
}

fn answers_each_request_once(lab: &mut dyn Lab) {
    let [one, two] = [1, 2].map(|byte| lab.join(entity(byte)));
    let (long, short) = (Duration::from_secs(500), Duration::from_millis(5));
    let topic = Topic::Node(entity(2));
    assert_eq!(ask(lab, &*one, &topic, long), Err(RequestError::Unavailable));
    let echo = two.serve(&topic, Arc::new(Echo)).expect("open");
    assert_eq!(
        two.serve(&topic, Arc::new(Echo)).unwrap_err(),
        EngineError::Crowded { max: 1 }
    );
    assert_eq!(ask(lab, &*one, &topic, long), Ok(b"question".to_vec()));
    assert_eq!(
        ask(lab, &*two, &topic, long),
        Err(RequestError::Unavailable),
        "a node asks others"
    );
    drop(echo);
    assert_eq!(ask(lab, &*one, &topic, long), Err(RequestError::Unavailable));
    let (keep, kept) = channel();
    let _silent = two.serve(&topic, Arc::new(Silent(keep))).expect("open");
    assert_eq!(ask(lab, &*one, &topic, short), Err(RequestError::Timeout));
    let late = kept.try_recv().expect("it was asked");
    late.answer(payload("too late"));
    // A service that has no place drops the request.
    let (told, answers) = channel();
    one.request(
        &topic,
        payload("again"),
        long,
        Box::new(move |answer| drop(told.send(answer))),
    );
    assert!(lab.until(&mut || kept.try_recv().map(drop).is_ok()));
    let mut answer = None;
    assert!(lab.until(&mut || {
        answer = answer.take().or_else(|| answers.try_recv().ok());
        answer.is_some()
    }));
    assert_eq!(answer.expect("it is there").unwrap_err(), RequestError::Unavailable);
    let stats = (one.stats().requests, one.stats().unanswered, two.stats().served);
    assert_eq!(stats, (5, 4, 3));
}

fn tells_who_is_there(lab: &mut dyn Lab) {
    let [one, two] = [1, 2].map(|byte| lab.join(entity(byte)));
    let (told, seen) = channel();
    let watch = one.watch(Arc::new(Seen(told))).expect("open");
    let next = |lab: &mut dyn Lab| {
        let mut found = None;
        lab.until(&mut || {
            found = found.take().or_else(|| seen.try_recv().ok());
            found.is_some()
        });
        found
    };
    assert_eq!(next(lab), Some((entity(2), true)));
    let three = lab.join(entity(3));
    assert_eq!(next(lab), Some((entity(3), true)));
    two.close();
    assert_eq!(next(lab), Some((entity(2), false)));
    drop(three);
    assert_eq!(next(lab), Some((entity(3), false)));
    drop(watch);
    let _four = lab.join(entity(4));
    let (small, noted) = notes(1);
    let five = lab.join(entity(5));
    let _hears = five.subscribe(&Topic::Beats, small).expect("open");
    one.publish(&Topic::Beats, payload("after")).expect("open");
    collect(lab, &noted, 1);
    assert!(seen.try_recv().is_err(), "who ended a watch is told nothing");
}

fn ends_with_its_close(lab: &mut dyn Lab) {
    let [one, two, three] = [1, 2, 3].map(|byte| lab.join(entity(byte)));
    let (keep, kept) = channel();
    let topic = Topic::Node(entity(2));
    let _silent = two.serve(&topic, Arc::new(Silent(keep))).expect("open");
    let (at_one, noted_one) = notes(usize::MAX);
    let (at_three, noted_three) = notes(usize::MAX);
    let _one = one.subscribe(&Topic::Beats, at_one).expect("open");
    let _three = three.subscribe(&Topic::Beats, at_three).expect("open");
    let (told, answers) = channel();
    let long = Duration::from_secs(500);
    one.request(
        &topic,
        payload("open"),
        long,
        Box::new(move |answer| drop(told.send(answer))),
    );
    let mut responders = Vec::new();
    assert!(lab.until(&mut || {
        responders.extend(kept.try_iter());
        responders.len() == 1
    }));
    one.close();
    one.close();
    let mut answer = None;
    assert!(lab.until(&mut || {
        answer = answer.take().or_else(|| answers.try_recv().ok());
        answer.is_some()
    }));
    let closed = RequestError::Engine(EngineError::Closed);
    assert_eq!(answer.expect("it is there").unwrap_err(), closed);
    responders
        .into_iter()
        .for_each(|responder| responder.answer(payload("nobody waits")));
    assert_eq!(one.publish(&Topic::Beats, payload("late")), Err(EngineError::Closed));
    let (small, _) = notes(1);
    assert_eq!(one.subscribe(&Topic::Beats, small).unwrap_err(), EngineError::Closed);
    assert_eq!(one.serve(&topic, Arc::new(Echo)).unwrap_err(), EngineError::Closed);
    let (told, _seen) = channel();
    assert_eq!(one.watch(Arc::new(Seen(told))).unwrap_err(), EngineError::Closed);
    assert_eq!(ask(lab, &*one, &topic, long), Err(closed));
    two.publish(&Topic::Beats, payload("after")).expect("open");
    assert_eq!(collect(lab, &noted_three, 1), [b"after"]);
    assert!(noted_one.try_recv().is_err(), "who is closed hears nothing");
}
