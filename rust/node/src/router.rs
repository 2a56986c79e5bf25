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

mod door;
mod home;
mod incoming;
mod outputs;
mod places;
mod vacant;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use meshos_core::finder::{self, Known};
use meshos_core::frame::Kind;
use meshos_core::id::{EntityId, Origin};
use meshos_core::ingress::DIRECT;
use meshos_core::outbox::Limits;
use meshos_core::parcel::Packer;

use crate::carrier::Carrier;
use crate::daemon::Daemon;
use crate::inbox::Inbox;
use crate::keeping::Stores;
use crate::keys;
use crate::lane::Lanes;
use crate::linked::{Answer, Back};
use crate::mailbox::Sender;
use crate::mesh::Delivered;
use crate::reactor::{Place, Reactor, Turn};
use crate::registry::Registry;
use crate::sync::{Mutex, RwLock};
use crate::ways::{Effects, Outbound, Parting, Places, Ways};
pub use crate::ways::{Hear, Sent, Ticket, WayKey, WayStats};

use door::Door;
pub use door::{INBOX_BYTES_MAX, INBOX_MAX};
use home::{Home, Local};
use outputs::Reading;
pub use places::Guide;
use places::Others;
pub use vacant::Vacant;

/// Longest payload of an event to another node; what stands around it fits beside it.
pub const PAYLOAD_BYTES_MAX: usize = (64 << 20) - 4096;

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

struct Inner {
    own: EntityId,
    carrier: Carrier,
    home: Box<dyn Home>,
    guide: RwLock<Option<Arc<dyn Guide>>>,
    stores: Stores,
    started: Instant,
    inbox: Mutex<Inbox<Delivered>>,
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
        let inner = Inner::new(carrier, Box::new(home), stores, limits);
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

    /// Gives up waiting for an event: `false` if it had not left, and never takes effect.
    #[must_use]
    pub fn give_up(&self, to: Origin, origin: Origin, sequence: u64) -> bool {
        let stream = DIRECT;
        let key = WayKey { to, origin, stream };
        self.inner.ways.lock().give_up(&key, sequence)
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
        let left = self.inner.inbox.lock().take();
        drop(left);
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
    fn new(carrier: Carrier, home: Box<dyn Home>, stores: Stores, limits: Limits) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            own: carrier.entity_id(),
            carrier,
            home,
            guide: RwLock::new(None),
            stores,
            started: Instant::now(),
            inbox: Mutex::new(Inbox::new(INBOX_MAX, INBOX_BYTES_MAX)),
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
        })
    }

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
}
