//! The router of a node: events to daemons on all nodes, this one included, and their answers.
//!
//! Bodies that arrive wait in a bounded queue until the node has its turn at the [`reactor`](crate::reactor). What callers
//! send is decided on their thread, and packed; the turn sends it, so that what goes to one node at one time is sealed once.
//!
//! Invariants
//! * User code never runs here, and nothing waits.
//! * No lock is held while a body is sent, a row is removed, or somebody is told.
//! * What arrives is taken, or refused and counted; who sent it tries again.
//! * A node that sends nothing to others has no place at the reactor, and so no thread.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use meshos_core::due::{self, Due};
use meshos_core::finder::{self, Known};
use meshos_core::frame::Kind;
use meshos_core::id::{EntityId, Origin};
use meshos_core::inflow;
use meshos_core::ingress::{DIRECT, EventKey};
use meshos_core::outbox::{self, Limits};
use meshos_core::parcel::{self, Packer};
use meshos_core::rows::{KeyRange, Table, Write, entity_key, of_entity_key};
use meshos_core::store::{Batch, StoreError};
use meshos_core::stream::{Flow, Frame};

use crate::carrier::Carrier;
use crate::daemon::Daemon;
use crate::keeping::Stores;
use crate::lane::{Job, Lanes};
use crate::linked::{Answer, Arrived, Back, Incoming, Mailed};
use crate::mailbox::Sender;
use crate::mesh::{Delivered, Mesh, Take};
use crate::outgoing::{Emitter, Outlet, Sending};
use crate::reactor::{Place, Reactor, Turn};
use crate::registry::Registry;
use crate::sync::{Mutex, RwLock};
use crate::ways::{Effects, Outbound, Parting, Places, Ways};
pub use crate::ways::{Hear, Sent, Ticket, WayKey, WayStats};
use crate::{clock, keys};

/// Bodies that wait for a turn at most.
pub const INBOX_MAX: usize = 16_384;
/// Bytes that wait for a turn at most; one body always has a place.
pub const INBOX_BYTES_MAX: usize = 64 << 20;
/// Longest payload of an event to another node; what stands around it fits beside it.
pub const PAYLOAD_BYTES_MAX: usize = (64 << 20) - 4096;
/// Bodies of one turn.
const TURN_MAX: usize = 256;
/// How long nodes that belong to the mesh by name are waited for that were not heard yet.
const JOIN_TIME: Duration = Duration::from_secs(2);
/// Answers that are taken in under one lock, which callers wait for.
const ANSWERS_MAX: usize = 64;
/// Wait before a store is read again that could not be.
const READ_PAUSE: Duration = Duration::from_secs(1);
/// Rows that are read at once.
const PAGE: usize = 1024;
/// When an event is tried again for which a daemon had no room, in milliseconds.
const FULL_RETRY_MS: u32 = 50;
/// When an event is tried again whose daemon is about to be here, in milliseconds.
const ARRIVING_RETRY_MS: u32 = 5;

/// Knows where daemons are that are not here.
pub trait Guide: Send + Sync {
    /// The owner of a daemon, as far as this node knows; it never waits.
    fn owner_of(&self, origin: Origin) -> Option<Known>;

    /// The owner of a daemon that this node gave away, as far as it knows; it never waits.
    fn handed_on(&self, _origin: Origin) -> Option<Known> {
        None
    }
}

/// The number of an event that is sent.
pub enum Number<'a> {
    /// The next of this sender.
    Next(&'a Sender),
    /// It has its number.
    Given {
        /// Whose number it is.
        origin: Origin,
        /// The number.
        sequence: u64,
    },
}

/// An event that is sent on, with the number that it has.
pub struct Forwarded {
    /// Whose number it is.
    pub origin: Origin,
    /// The number.
    pub sequence: u64,
    /// What is in it.
    pub payload: Box<[u8]>,
    /// Who hears what becomes of it.
    pub ticket: Option<Ticket>,
}

/// The daemons of this node, as the router sees them.
trait Home: Send + Sync {
    fn here(&self, origin: Origin) -> Option<(EntityId, u64)>;
    /// Mails events; `false`: the daemon is not here.
    fn mail(
        &self,
        to: &EntityId,
        arrived: &Arc<Arrived>,
        events: &[Incoming],
        told: &mut dyn FnMut(&Incoming, Mailed),
    ) -> bool;
    fn later(&self, at: Instant, job: Arc<dyn Job>);
}

struct Local<D: Daemon> {
    registry: Weak<Registry<D>>,
    lanes: Lanes,
}

impl<D: Daemon> Home for Local<D> {
    fn here(&self, origin: Origin) -> Option<(EntityId, u64)> {
        let slot = self.registry.upgrade()?.get(origin)?;
        Some((slot.entity(), slot.view().epoch))
    }

    fn mail(
        &self,
        to: &EntityId,
        arrived: &Arc<Arrived>,
        events: &[Incoming],
        told: &mut dyn FnMut(&Incoming, Mailed),
    ) -> bool {
        let slot = self.registry.upgrade().and_then(|registry| registry.get(to.origin()));
        let Some(slot) = slot.filter(|slot| slot.entity() == *to) else {
            return false;
        };
        slot.post_linked(&self.lanes, arrived, events, told);
        true
    }

    fn later(&self, at: Instant, job: Arc<dyn Job>) {
        // Lanes that were stopped run nothing any more.
        let _ = self.lanes.submit_at(at, job);
    }
}

/// What happened at a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouterStats {
    /// What it sent.
    pub ways: WayStats,
    /// Flows of which something is open, or was a moment ago.
    pub flows: u64,
    /// Events that arrived.
    pub arrived: u64,
    /// Messages that could not be read, or that nobody takes.
    pub refused: u64,
    /// Bodies that could not be sent; who wants an answer tries again.
    pub unsent: u64,
}

#[derive(Default)]
struct Inbox {
    bodies: VecDeque<Delivered>,
    bytes: usize,
}

/// The other nodes, as they were.
#[derive(Default)]
struct Others {
    /// At which change of the mesh, and whether nodes were still waited for that were not heard.
    as_of: Option<(u64, bool)>,
    nodes: Arc<Vec<EntityId>>,
}

struct Inner {
    own: EntityId,
    carrier: Carrier,
    home: Box<dyn Home>,
    guide: RwLock<Option<Arc<dyn Guide>>>,
    stores: Stores,
    started: Instant,
    inbox: Mutex<Inbox>,
    ways: Mutex<Ways>,
    /// The other nodes, as of that change of the mesh.
    others: Mutex<Others>,
    /// Flows of which something may be open; so that who sends to a daemon that is here need not look.
    flows: AtomicU64,
    outbound: Mutex<Outbound>,
    /// Rows that may go, until the next turn.
    removals: Mutex<Vec<(WayKey, EntityId, Vec<u64>)>>,
    /// Daemons that are about to be here.
    arriving: RwLock<BTreeMap<Origin, EntityId>>,
    place: OnceLock<Place>,
    closed: AtomicBool,
    arrived: AtomicU64,
    refused: AtomicU64,
    unsent: AtomicU64,
    this: Weak<Self>,
}

/// The router of a node; a clone is the same.
#[derive(Clone)]
pub struct Router {
    inner: Arc<Inner>,
}

impl Router {
    /// Makes the router of a node, with what moves its bodies and what keeps its outputs.
    #[must_use]
    pub fn new<D: Daemon>(carrier: Carrier, registry: &Arc<Registry<D>>, lanes: Lanes, stores: Stores) -> Self {
        Self::with_limits(carrier, registry, lanes, stores, Limits::default())
    }

    /// As [`Router::new`], with other bounds for each flow.
    #[must_use]
    pub fn with_limits<D: Daemon>(
        carrier: Carrier,
        registry: &Arc<Registry<D>>,
        lanes: Lanes,
        stores: Stores,
        limits: Limits,
    ) -> Self {
        let home = Local {
            registry: Arc::downgrade(registry),
            lanes,
        };
        let inner = Arc::new_cyclic(|this| Inner {
            own: carrier.entity_id(),
            carrier: carrier.clone(),
            home: Box::new(home),
            guide: RwLock::new(None),
            stores,
            started: Instant::now(),
            inbox: Mutex::default(),
            ways: Mutex::new(Ways::new(keys::random_u64(), limits)),
            others: Mutex::default(),
            flows: AtomicU64::new(0),
            outbound: Mutex::default(),
            removals: Mutex::default(),
            arriving: RwLock::default(),
            place: OnceLock::new(),
            closed: AtomicBool::new(false),
            arrived: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            this: Weak::clone(this),
        });
        registry.exits().send_with(Arc::new(Door(Arc::downgrade(&inner))));
        Self { inner }
    }

    /// Takes what comes in from now on, in place of another router of the node.
    pub fn open_door(&self) {
        let door = Door(Arc::downgrade(&self.inner));
        self.inner.carrier.attach(Kind::LINKED, Arc::new(door));
    }

    /// Tells who sends here to a daemon that is not here where this says that it is, in place of what was asked before.
    pub fn guide_with(&self, guide: Arc<dyn Guide>) {
        let before = self.inner.guide.write().replace(guide);
        drop(before);
    }

    /// Whether events to a daemon that is here must go through the router, since some of theirs are on their way.
    #[must_use]
    pub fn is_open(&self, to: Origin, origin: Origin) -> bool {
        let stream = DIRECT;
        self.inner.flows.load(Ordering::Acquire) > 0 && self.inner.ways.lock().is_open(&WayKey { to, origin, stream })
    }

    /// Where a daemon is, as far as this node knows by itself.
    #[must_use]
    pub fn place_of(&self, entity: &EntityId) -> Option<Known> {
        let known = self.inner.known(entity.origin());
        let known = known.filter(|known| known.entity == *entity);
        known.or_else(|| self.inner.guided(entity))
    }

    /// The other nodes, also those that are about to join.
    #[must_use]
    pub fn others(&self) -> Arc<Vec<EntityId>> {
        Places::others(&*self.inner)
    }

    /// Whether there may be daemons that are not here.
    #[must_use]
    pub fn has_others(&self) -> bool {
        self.inner.carrier.as_mesh().is_some()
    }

    /// Sends one event; returns its number. Who has the ticket hears once what became of it.
    pub fn send(&self, to: Origin, number: &Number<'_>, payload: &[u8], ticket: Option<Ticket>) -> u64 {
        let mut sequence = 0;
        self.send_all(to, [(number, payload, ticket)], |given| sequence = given);
        sequence
    }

    /// Sends events in order, and tells the number of each. Who has its ticket hears once what became of it.
    pub fn send_all<'a, 'n: 'a>(
        &self,
        to: Origin,
        events: impl IntoIterator<Item = (&'a Number<'n>, &'a [u8], Option<Ticket>)>,
        mut numbered: impl FnMut(u64),
    ) {
        let inner = &*self.inner;
        let now = inner.now();
        let mut effects = Effects::default();
        let mut closed = Vec::new();
        let mut ways = inner.ways.lock();
        let mut outbound = inner.outbound.lock();
        for (number, payload, ticket) in events {
            let (origin, sequence) = match number {
                // Under the lock, so that the numbers of one flow rise in the order in which they leave.
                Number::Next(sender) => (sender.origin, sender.take()),
                Number::Given { origin, sequence } => (*origin, *sequence),
            };
            numbered(sequence);
            if inner.closed.load(Ordering::Acquire) {
                closed.extend(ticket);
                continue;
            }
            let key = WayKey {
                to,
                origin,
                stream: DIRECT,
            };
            let event = Parting {
                sequence,
                payload: payload.into(),
                ticket,
            };
            ways.send(now, key, event, (inner, &mut outbound, &mut effects));
        }
        inner.flows.store(ways.len() as u64, Ordering::Release);
        drop(outbound);
        drop(ways);
        effects
            .heard
            .extend(closed.into_iter().map(|ticket| (ticket, Sent::Closed)));
        inner.carry_out(effects);
        inner.wake();
    }

    /// Sends events on that waited for a daemon which leaves this node. `take` gives them out, and makes sure that no more
    /// are taken in; it is called while nothing else is sent, so that what is sent afterwards goes behind them.
    pub fn send_on(&self, to: Origin, take: impl FnOnce() -> Vec<Forwarded>) {
        let inner = &*self.inner;
        let now = inner.now();
        let mut effects = Effects::default();
        let mut ways = inner.ways.lock();
        let events = take();
        let is_closed = inner.closed.load(Ordering::Acquire);
        let mut outbound = inner.outbound.lock();
        for event in events {
            if is_closed {
                effects.heard.extend(event.ticket.map(|ticket| (ticket, Sent::Closed)));
                continue;
            }
            let key = WayKey {
                to,
                origin: event.origin,
                stream: DIRECT,
            };
            let event = Parting {
                sequence: event.sequence,
                payload: event.payload,
                ticket: event.ticket,
            };
            ways.send(now, key, event, (inner, &mut outbound, &mut effects));
        }
        inner.flows.store(ways.len() as u64, Ordering::Release);
        drop(outbound);
        drop(ways);
        inner.carry_out(effects);
        inner.wake();
    }

    /// Says whether a daemon is about to be here: who sends to it is asked to wait for a moment. Once it is here, those of
    /// this node that looked for it are told.
    pub fn arriving(&self, entity: EntityId, is_arriving: bool) {
        let inner = &*self.inner;
        let origin = entity.origin();
        if is_arriving {
            inner.arriving.write().insert(origin, entity);
            return;
        }
        inner.arriving.write().remove(&origin);
        if let Some(known) = inner.known(origin) {
            let mut effects = Effects::default();
            let mut ways = inner.ways.lock();
            let place = (inner as &dyn Places, &mut *inner.outbound.lock(), &mut effects);
            ways.search(inner.now(), origin, finder::Signal::Found(known), place);
            drop(ways);
            inner.carry_out(effects);
            inner.wake();
        }
    }

    /// Where answers go to events that came with a daemon from another node.
    #[must_use]
    pub fn back(&self) -> Arc<dyn Back> {
        Arc::clone(&self.inner) as Arc<dyn Back>
    }

    /// Sends no more what a daemon emitted that another node has now: that goes on from there.
    pub fn let_go(&self, emitter: Origin) {
        let mut ways = self.inner.ways.lock();
        ways.forget_outputs(emitter);
        self.inner.flows.store(ways.len() as u64, Ordering::Release);
    }

    /// Gives up waiting for an event: `false` if it had not left, and never takes effect.
    #[must_use]
    pub fn give_up(&self, to: Origin, origin: Origin, sequence: u64) -> bool {
        let stream = DIRECT;
        let key = WayKey { to, origin, stream };
        self.inner.ways.lock().give_up(&key, sequence)
    }

    /// Gives the outputs to others that a store has of a daemon back to it, before it runs.
    ///
    /// # Errors
    /// [`StoreError`]: they cannot be read.
    pub fn resume(&self, emitter: &Emitter) -> Result<(), StoreError> {
        let mut after = 0;
        loop {
            let (outputs, last) = self.inner.read(&emitter.entity, after)?;
            let Some(last) = last else { return Ok(()) };
            after = last;
            self.inner.send_outputs(emitter, outputs);
        }
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> RouterStats {
        let inner = &*self.inner;
        let ways = inner.ways.lock();
        RouterStats {
            ways: ways.stats,
            flows: ways.len() as u64,
            arrived: inner.arrived.load(Ordering::Relaxed),
            refused: inner.refused.load(Ordering::Relaxed),
            unsent: inner.unsent.load(Ordering::Relaxed),
        }
    }

    /// Events that are open in all flows.
    #[must_use]
    pub fn open(&self) -> usize {
        self.inner.ways.lock().open().values().sum()
    }

    /// Sends and takes nothing any more; who waits is told.
    pub fn close(&self) {
        if self.inner.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let tickets = self.inner.ways.lock().close();
        self.inner.flows.store(0, Ordering::Release);
        let heard = tickets.into_iter().map(|ticket| (ticket, Sent::Closed)).collect();
        let effects = Effects {
            heard,
            ..Effects::default()
        };
        self.inner.carry_out(effects);
        let inbox = std::mem::take(&mut *self.inner.inbox.lock());
        drop(inbox);
    }
}

/// Answers for a node that has no daemons, or none yet, or none any more: nobody is here.
pub struct Vacant(Carrier);

impl Vacant {
    /// Answers what comes in until a router takes it; while it is held.
    #[must_use]
    pub fn new(carrier: Carrier) -> Arc<Self> {
        let vacant = Arc::new(Self(carrier));
        vacant
            .0
            .attach(Kind::LINKED, Arc::new(Threshold(Arc::downgrade(&vacant))));
        vacant
    }
}

struct Threshold(Weak<Vacant>);

impl Take for Threshold {
    fn take(&self, delivered: Delivered) -> bool {
        let vacant = self.0.upgrade();
        vacant.is_some_and(|vacant| say_nobody(&vacant.0, &delivered))
    }
}

/// Says of everything that is asked for or sent that it is not here; `false`: it cannot be read.
fn say_nobody(carrier: &Carrier, delivered: &Delivered) -> bool {
    let Ok(messages) = parcel::open(delivered.body()) else {
        return false;
    };
    let mut answers = Packer::new();
    for frame in messages.filter_map(|message| message.and_then(Frame::decode).ok()) {
        let answer = match frame {
            Frame::Find { origin } => Frame::Nobody { origin },
            Frame::Locate { flow } => Frame::NotHere { flow, sequence: 0 },
            Frame::Event(event) => Frame::NotHere {
                flow: event.flow,
                sequence: event.sequence,
            },
            _ => continue,
        };
        answers.put(|out| answer.put(out));
    }
    // Who does not hear it asks again.
    answers.is_empty() || carrier.post(&delivered.from, Kind::LINKED, answers.body()).is_ok()
}

/// Where bodies come in from the carrier, and outputs from the daemons of the node.
struct Door(Weak<Inner>);

impl Take for Door {
    fn take(&self, delivered: Delivered) -> bool {
        let Some(inner) = self.0.upgrade() else {
            return false;
        };
        if inner.closed.load(Ordering::Acquire) {
            return say_nobody(&inner.carrier, &delivered);
        }
        let size = delivered.body().len();
        let mut inbox = inner.inbox.lock();
        let is_full = inbox.bodies.len() >= INBOX_MAX || inbox.bytes + size > INBOX_BYTES_MAX;
        if is_full && !inbox.bodies.is_empty() {
            return false;
        }
        inbox.bodies.push_back(delivered);
        inbox.bytes += size;
        drop(inbox);
        inner.wake();
        true
    }
}

impl Outlet for Door {
    fn send(&self, emitter: &Emitter, outputs: Vec<Sending>) {
        if let Some(inner) = self.0.upgrade() {
            inner.send_outputs(emitter, outputs);
        }
    }

    fn unsettled(&self, emitter: &Emitter) -> Vec<Sending> {
        let inner = self.0.upgrade();
        inner.map_or_else(Vec::new, |inner| inner.ways.lock().unsettled(emitter.origin))
    }
}

impl Back for Inner {
    fn answer(&self, answers: &[Answer]) {
        let mut outbound = self.outbound.lock();
        for answer in answers {
            outbound.put(answer.arrived.from(), &answer.frame);
        }
        drop(outbound);
        self.wake();
    }
}

impl Places for Inner {
    fn known(&self, origin: Origin) -> Option<Known> {
        // What others say of it is not enough: a daemon that was stopped still has an owner.
        let (entity, epoch) = self.home.here(origin)?;
        let node = self.own;
        Some(Known { entity, node, epoch })
    }

    fn others(&self) -> Arc<Vec<EntityId>> {
        let mesh = self.carrier.as_mesh();
        let changes = mesh.map_or(0, Mesh::changes);
        // Who is about to join may have what is looked for.
        let is_early = self.now() < JOIN_TIME;
        let mut others = self.others.lock();
        if others.as_of != Some((changes, is_early)) {
            let mut there = self.carrier.others();
            there.extend(mesh.filter(|_| is_early).map(Mesh::unheard).unwrap_or_default());
            others.as_of = Some((changes, is_early));
            others.nodes = Arc::new(there);
        }
        Arc::clone(&others.nodes)
    }

    fn arrives(&self, origin: Origin) -> bool {
        self.arriving.read().contains_key(&origin)
    }
}

impl Turn for Inner {
    fn turn(&self) -> Option<Instant> {
        if self.closed.load(Ordering::Acquire) {
            return None;
        }
        let mut effects = Effects::default();
        let bodies = self.bodies();
        for body in bodies {
            self.hear(body, &mut effects);
        }
        let now = self.now();
        let due = loop {
            // Callers wait for this lock: it is held for moments.
            let mut ways = self.ways.lock();
            self.flows.store(ways.len() as u64, Ordering::Release);
            match ways.wake_at() {
                Some(at) if at <= now => ways.turn(now, (self, &mut self.outbound.lock(), &mut effects)),
                due => break due,
            }
        };
        self.flush();
        self.carry_out(effects);
        let removals = std::mem::take(&mut *self.removals.lock());
        for (key, emitter, gone) in removals {
            self.remove(key, emitter, gone);
        }
        due.and_then(|due| self.started.checked_add(due))
    }
}

impl Inner {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn wake(&self) {
        let place = self.place.get_or_init(|| {
            let turn: Weak<dyn Turn> = self.this.clone();
            // Without a thread nothing is sent, and who waits reaches the end of their wait.
            Reactor::of_process().place(turn).0
        });
        place.wake();
    }

    /// Takes what waits for this turn.
    fn bodies(&self) -> VecDeque<Delivered> {
        let mut inbox = self.inbox.lock();
        if inbox.bodies.len() <= TURN_MAX {
            inbox.bytes = 0;
            return std::mem::take(&mut inbox.bodies);
        }
        let bodies: VecDeque<_> = inbox.bodies.drain(..TURN_MAX).collect();
        inbox.bytes -= bodies.iter().map(|body| body.body().len()).sum::<usize>();
        drop(inbox);
        self.wake();
        bodies
    }

    /// Sends what is packed.
    fn flush(&self) {
        let mut parcels: Vec<(EntityId, Packer)> = Vec::new();
        self.outbound.lock().take(&mut parcels);
        for (to, parcel) in &parcels {
            if self.carrier.post(to, Kind::LINKED, parcel.body()).is_err() {
                self.unsent.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Takes the messages of a body in.
    fn hear(&self, body: Delivered, effects: &mut Effects) {
        let arrived = Arc::new(Arrived {
            body,
            received_ns: clock::unix_us() * 1000,
            back: self.this.upgrade().expect("who has a turn is there") as Arc<dyn Back>,
        });
        let bytes = arrived.body.body();
        let Ok(messages) = parcel::open(bytes) else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let mut events = Vec::new();
        let mut to: Option<EntityId> = None;
        let mut answers = Vec::new();
        for message in messages {
            let Ok(frame) = message.and_then(Frame::decode) else {
                self.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            if let Frame::Event(event) = frame {
                if to.is_some_and(|to| to != event.flow.entity) {
                    self.mail(to, &arrived, &mut events);
                }
                to = Some(event.flow.entity);
                let begin = event.payload.as_ptr().addr() - bytes.as_ptr().addr();
                let payload: Range<usize> = begin..begin + event.payload.len();
                let (prev, flow) = (event.prev, event.flow);
                let key = EventKey {
                    origin: flow.origin,
                    stream: flow.stream,
                    sequence: event.sequence,
                };
                events.push(Incoming { key, prev, payload });
            } else {
                answers.push(frame);
            }
        }
        self.mail(to, &arrived, &mut events);
        if !answers.is_empty() {
            for some in answers.chunks(ANSWERS_MAX) {
                self.hear_answers(arrived.from(), some, effects);
            }
        }
    }

    /// Puts events into the mailbox of a daemon, and answers those that have no place there.
    fn mail(&self, to: Option<EntityId>, arrived: &Arc<Arrived>, events: &mut Vec<Incoming>) {
        let Some(entity) = to.filter(|_| !events.is_empty()) else {
            return;
        };
        self.arrived.fetch_add(events.len() as u64, Ordering::Relaxed);
        let mut refused = Vec::new();
        let is_here = self.home.mail(&entity, arrived, events, &mut |event, mailed| {
            if mailed != Mailed::Taken {
                refused.push((event.key, mailed));
            }
        });
        if !is_here {
            refused = events.iter().map(|event| (event.key, Mailed::Gone)).collect();
        }
        events.clear();
        if refused.is_empty() {
            return;
        }
        let arrives = self.arrives(entity.origin());
        let known = self.guided(&entity);
        let mut outbound = self.outbound.lock();
        for (key, mailed) in refused {
            let sequence = key.sequence;
            let flow = Flow {
                entity,
                origin: key.origin,
                stream: key.stream,
            };
            let frame = match mailed {
                Mailed::Taken => continue,
                Mailed::Repeated => Frame::Queued { flow, sequence },
                Mailed::Full => Frame::Busy {
                    flow,
                    sequence,
                    retry_after_ms: FULL_RETRY_MS,
                },
                Mailed::Gone if arrives => Frame::Busy {
                    flow,
                    sequence,
                    retry_after_ms: ARRIVING_RETRY_MS,
                },
                Mailed::Gone => inflow::elsewhere(known.map(|known| (known.node, known.epoch)), flow, sequence, 0),
            };
            outbound.put(arrived.from(), &frame);
        }
    }

    /// Takes in what is not an event.
    fn hear_answers(&self, from: EntityId, frames: &[Frame<'_>], effects: &mut Effects) {
        let now = self.now();
        let mut ways = self.ways.lock();
        let mut outbound = self.outbound.lock();
        // Of one flow most often: a handle is a digest.
        let mut last: Option<(Flow, WayKey)> = None;
        for frame in frames {
            let place = (self as &dyn Places, &mut *outbound, &mut *effects);
            match frame {
                Frame::Find { origin } => {
                    // While it is about to be here nobody may conclude that it is nowhere.
                    if let Some(answer) = self.found(*origin) {
                        outbound.put(from, &answer);
                    }
                }
                Frame::Found { entity, node, epoch } => {
                    let known = Known {
                        entity: *entity,
                        node: *node,
                        epoch: *epoch,
                    };
                    ways.search(now, entity.origin(), finder::Signal::Found(known), place);
                }
                Frame::Nobody { origin } => ways.search(now, *origin, finder::Signal::Nobody { from }, place),
                Frame::Locate { flow } => {
                    let answer = self.located(*flow);
                    outbound.put(from, &answer);
                }
                Frame::Ack { flow, .. }
                | Frame::Busy { flow, .. }
                | Frame::Queued { flow, .. }
                | Frame::Gap { flow, .. }
                | Frame::Stale { flow, .. }
                | Frame::Moved { flow, .. }
                | Frame::NotHere { flow, .. }
                | Frame::PassedOver { flow, .. } => {
                    let key = match last {
                        Some((known, key)) if known == *flow => key,
                        _ => WayKey {
                            to: flow.entity.origin(),
                            origin: flow.origin,
                            stream: flow.stream,
                        },
                    };
                    last = Some((*flow, key));
                    let cursor = if let Frame::Stale { cursor, .. } = frame {
                        *cursor
                    } else {
                        0
                    };
                    if let Frame::Moved { node, epoch, .. } = frame {
                        let known = Known {
                            entity: flow.entity,
                            node: *node,
                            epoch: *epoch,
                        };
                        ways.search(now, key.to, finder::Signal::Found(known), place);
                    } else if let Some(signal) = outbox::Signal::of(frame) {
                        ways.step(now, key, signal, cursor, place);
                    }
                }
                Frame::Event(_)
                | Frame::Output(_)
                | Frame::OutAck { .. }
                | Frame::Follow { .. }
                | Frame::Announce(_) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn found(&self, origin: Origin) -> Option<Frame<'static>> {
        match self.known(origin) {
            // It comes here, or was given away: whoever hears of nobody from all nodes, one after the other, while it is on
            // its way would conclude that there is none.
            None if self.arrives(origin) => None,
            None => Some(match self.handed_on(origin) {
                Some(Known { entity, node, epoch }) => Frame::Found { entity, node, epoch },
                None => Frame::Nobody { origin },
            }),
            Some(Known { entity, node, epoch }) => Some(Frame::Found { entity, node, epoch }),
        }
    }

    /// Where a daemon is that left this node in a move.
    fn handed_on(&self, origin: Origin) -> Option<Known> {
        let guide = self.guide.read().clone();
        guide.and_then(|guide| guide.handed_on(origin))
    }

    /// Where a daemon is that is not here, as far as another part of the node knows.
    fn guided(&self, entity: &EntityId) -> Option<Known> {
        let guide = self.guide.read().clone();
        let known = guide?.owner_of(entity.origin())?;
        (known.entity == *entity && known.node != self.own).then_some(known)
    }

    fn located(&self, flow: Flow) -> Frame<'static> {
        let known = self.known(flow.entity.origin());
        let known = known.filter(|known| known.entity == flow.entity);
        let known = known.or_else(|| self.guided(&flow.entity));
        inflow::elsewhere(known.map(|known| (known.node, known.epoch)), flow, 0, 0)
    }

    fn send_outputs(&self, emitter: &Emitter, outputs: Vec<Sending>) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        let now = self.now();
        let mut effects = Effects::default();
        let mut ways = self.ways.lock();
        let mut outbound = self.outbound.lock();
        for output in outputs {
            let key = WayKey {
                to: output.to,
                origin: emitter.origin,
                stream: output.stream,
            };
            let output = (emitter.entity, output.sequence, output.payload, output.has_row);
            ways.send_output(now, key, output, (self, &mut outbound, &mut effects));
        }
        self.flows.store(ways.len() as u64, Ordering::Release);
        drop(outbound);
        drop(ways);
        self.carry_out(effects);
        self.wake();
    }

    /// Does what is to be done with nothing locked.
    fn carry_out(&self, effects: Effects) {
        if effects.is_empty() {
            return;
        }
        let Effects {
            heard,
            released,
            behind,
        } = effects;
        let mut heard = heard.into_iter().peekable();
        while let Some((ticket, sent)) = heard.next() {
            let to = Arc::clone(&ticket.to);
            let mut first = Some((ticket.place, sent));
            let mut together = std::iter::from_fn(|| {
                first.take().or_else(|| {
                    let next = heard.next_if(|(ticket, _)| Arc::ptr_eq(&ticket.to, &to));
                    next.map(|(ticket, sent)| (ticket.place, sent))
                })
            });
            to.hear(&mut together);
        }
        if !released.is_empty() {
            // Not here: this may be told by the store, which must not be entered again.
            self.removals.lock().extend(released);
            self.wake();
        }
        for (key, emitter, after) in behind {
            let Some(inner) = self.this.upgrade() else { return };
            let job = Reading {
                inner,
                key,
                emitter,
                after,
            };
            self.home.later(Instant::now(), Arc::new(job));
        }
    }

    fn remove(&self, key: WayKey, emitter: EntityId, gone: Vec<u64>) {
        let writes: Vec<Write> = gone.iter().map(|sequence| due::settled(&emitter, *sequence)).collect();
        let mut store = (self.stores)();
        let term = store.term();
        let inner = self.this.clone();
        let done = move |outcome: Result<u64, StoreError>| {
            let Some(inner) = inner.upgrade() else { return };
            let mut effects = Effects::default();
            let mut ways = inner.ways.lock();
            let place = (&*inner as &dyn Places, &mut *inner.outbound.lock(), &mut effects);
            ways.released(inner.now(), key, &gone, outcome.is_ok(), place);
            drop(ways);
            inner.carry_out(effects);
            inner.wake();
        };
        store.submit(Batch { term, writes }, Box::new(done));
    }

    /// Outputs of a daemon that the store has, after a number, and the last number that was read.
    fn read(&self, emitter: &EntityId, after: u64) -> Result<(Vec<Sending>, Option<u64>), StoreError> {
        let mut range = KeyRange::beginning_with(emitter.as_bytes());
        range.from = entity_key(emitter, [after + 1]);
        let page = (self.stores)().page(Table::Outbox, &range, PAGE)?;
        let (mut outputs, mut last) = (Vec::new(), None);
        for (key, value) in &page {
            let Some((_, [sequence])) = of_entity_key::<1>(key) else {
                continue;
            };
            let Due { to, stream, payload } = Due::decode(value).map_err(|error| {
                StoreError::Damaged(meshos_core::store::Damage::Row {
                    table: Table::Outbox,
                    entity: *emitter,
                    number: sequence,
                    error,
                })
            })?;
            last = Some(sequence);
            outputs.push(Sending {
                sequence,
                to,
                stream,
                payload,
                has_row: true,
            });
        }
        Ok((outputs, last))
    }
}

/// Reads outputs that stayed in the store since there was no room for them.
struct Reading {
    inner: Arc<Inner>,
    key: WayKey,
    emitter: EntityId,
    after: u64,
}

impl Job for Reading {
    fn run(self: Arc<Self>) {
        let inner = &self.inner;
        if inner.closed.load(Ordering::Acquire) {
            return;
        }
        let mut after = self.after;
        let (outputs, exhausted) = loop {
            let Ok((outputs, last)) = inner.read(&self.emitter, after) else {
                let again = Instant::now() + READ_PAUSE;
                return inner.home.later(again, Arc::clone(&self) as Arc<dyn Job>);
            };
            let of_flow = outputs.into_iter().filter(|output| {
                let (to, stream) = (output.to, output.stream);
                (to, stream) == (self.key.to, self.key.stream)
            });
            let outputs: Vec<_> = of_flow.map(|output| (output.sequence, output.payload)).collect();
            match last {
                None => break (outputs, true),
                Some(_) if !outputs.is_empty() => break (outputs, false),
                Some(last) => after = last,
            }
        };
        let mut effects = Effects::default();
        let mut ways = inner.ways.lock();
        let place = (&**inner as &dyn Places, &mut *inner.outbound.lock(), &mut effects);
        ways.read_again(inner.now(), self.key, outputs, exhausted, place);
        drop(ways);
        inner.carry_out(effects);
        inner.wake();
    }
}
