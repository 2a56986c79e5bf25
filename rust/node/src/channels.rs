//! The channels of a node: what it publishes and what it reads, in turns on the thread of all meshes.
//!
//! A publish only puts an event into the log and asks for a turn; a node that publishes itself gives that turn too, while
//! readers wait for it ([`Prompt`]). The turn takes in what arrived, does what time brings,
//! sends what was published since the last one, and posts a body to each node that has something to get.
//!
//! Invariants
//! * No lock is held while a body is posted. What is published and what is read have locks of their own.
//! * What arrives waits in a bounded inbox; what finds no place is refused, and counted by the carrier.
//! * A node that does nothing with channels takes no place and has no thread.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use meshos_core::channel_frame::{ChannelFrame, as_event};
use meshos_core::channel_policy::ChannelPolicy;
use meshos_core::frame::Kind;
use meshos_core::id::{EntityId, NodeId};
use meshos_core::identity::{IdentityError, Keypair};
use meshos_core::name::ChannelName;
use meshos_core::parcel;
use meshos_core::revocation::{NotRevoked, Revocation, Revocations, Target};
use meshos_core::sealed_channel::HandedKey;
use meshos_core::time::UnixMs;
use meshos_core::token::{PermissionToken, Terms, TokenError};
use thiserror::Error;

use crate::carrier::Carrier;
use crate::channel_out::Outgoing;
pub use crate::channel_publisher::PublishError;
use crate::channel_publisher::Publisher;
use crate::channel_reader::Readers;
pub use crate::channel_reader::{Item, ReaderCounts, Sink, Subscriber, Wanted};
use crate::channel_request::Publishing;
pub use crate::channel_request::{RequestError, Requested};
use crate::clock::{self, LoopClock};
use crate::inbox::Inbox;
use crate::keys;
use crate::mesh::{Delivered, Take};
use crate::prompt::Prompt;
use crate::reactor::{Place, Reactor, Turn};
use crate::sync::Mutex;

/// Bodies that wait to be taken in at most.
const INBOX_MAX: usize = 16_384;
/// Bytes of them at most; one body always has a place.
const INBOX_BYTES_MAX: usize = 128 << 20;
/// How long one turn takes in what arrived; the rest waits for the next one.
const TURN: Duration = Duration::from_millis(2);
/// As many nodes that read here, or readers here of one channel, as a short turn can have.
const FEW: usize = 64;
/// How often the other nodes are looked at, where some read or are read.
const LOOK: Duration = Duration::from_millis(250);

/// A statement about tokens was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RevokeError {
    /// The key of the node cannot sign.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It does not fit.
    #[error(transparent)]
    NotRevoked(#[from] NotRevoked),
}

/// What happened to the channels of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChannelStats {
    /// Channels that it publishes on.
    pub channels: usize,
    /// Subscriptions to them.
    pub subscribers: usize,
    /// Requests that it refused.
    pub refused: u64,
    /// Events that no member of a queue group got.
    pub lost_to_groups: u64,
    /// Subscriptions to channels of any node.
    pub subscriptions: usize,
    /// What happened to these.
    pub read: ReaderCounts,
    /// Outputs of daemons that no channel took.
    pub unpublished: u64,
    /// Messages sent, and bodies that the carrier refused.
    pub sent: (u64, u64),
}

enum Order {
    End(u64),
    HasRoom(u64),
    Taken(u64, u64, u64),
}

struct Inner {
    carrier: Carrier,
    own: EntityId,
    key: Arc<Keypair>,
    clock: LoopClock,
    place: OnceLock<Place>,
    me: Weak<Self>,
    inbox: Mutex<Inbox<Delivered>>,
    orders: Mutex<Vec<Order>>,
    publisher: Mutex<Publisher>,
    readers: Mutex<Readers>,
    publishing: Mutex<Publishing>,
    /// What goes out with the next turn; only turns, and who opens or begins something, touch it.
    out: Mutex<Outgoing>,
    others: Mutex<(Option<Instant>, BTreeSet<EntityId>)>,
    prompt: Prompt,
    /// Whether more have to be told of an event than a short turn can.
    is_wide: AtomicBool,
    closed: AtomicBool,
    unpublished: AtomicU64,
}

/// The channels of one node; a clone is the same.
#[derive(Clone)]
pub struct Channels {
    inner: Arc<Inner>,
}

/// Channels that are not kept alive by who holds this.
#[derive(Clone)]
pub struct WeakChannels(Weak<Inner>);

impl WeakChannels {
    /// The channels, if somebody keeps them.
    #[must_use]
    pub fn upgrade(&self) -> Option<Channels> {
        self.0.upgrade().map(|inner| Channels { inner })
    }
}

/// Takes what arrives, without keeping the channels alive.
struct Taker(Weak<Inner>);

impl Take for Taker {
    fn take(&self, delivered: Delivered) -> bool {
        let Some(inner) = self.0.upgrade() else { return false };
        let size = delivered.body().len();
        let mut inbox = inner.inbox.lock();
        // Under the lock: the close empties it once.
        let is_taken = !inner.closed.load(Ordering::Acquire) && inbox.offer(delivered, size);
        drop(inbox);
        if is_taken {
            inner.wake();
        }
        is_taken
    }
}

impl Channels {
    /// The channels of a node. `key` is the node's, `revocations` what it knows of tokens that were taken back.
    #[must_use]
    pub fn new(carrier: Carrier, key: Arc<Keypair>, revocations: Revocations) -> Self {
        let own = carrier.entity_id();
        let inner = Arc::new_cyclic(|me| Inner {
            own,
            clock: LoopClock::start(),
            place: OnceLock::new(),
            me: me.clone(),
            inbox: Mutex::new(Inbox::new(INBOX_MAX, INBOX_BYTES_MAX)),
            orders: Mutex::default(),
            publisher: Mutex::new(Publisher::new(Arc::clone(&key), revocations)),
            readers: Mutex::new(Readers::new(own)),
            publishing: Mutex::new(Publishing::new(Arc::clone(&key), &carrier)),
            out: Mutex::default(),
            others: Mutex::default(),
            prompt: Prompt::new(Instant::now()),
            is_wide: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            unpublished: AtomicU64::new(0),
            carrier,
            key,
        });
        let taker = Taker(Arc::downgrade(&inner));
        inner.carrier.attach(Kind::CHANNEL, Arc::new(taker));
        Self { inner }
    }

    /// A reference that does not keep them.
    #[must_use]
    pub fn downgrade(&self) -> WeakChannels {
        WeakChannels(Arc::downgrade(&self.inner))
    }

    /// Key of the node.
    #[must_use]
    pub fn entity_id(&self) -> EntityId {
        self.inner.own
    }

    /// Its key, with which its own subscriptions are signed.
    #[must_use]
    pub fn key(&self) -> &Arc<Keypair> {
        &self.inner.key
    }

    /// What moves its bodies.
    #[must_use]
    pub fn carrier(&self) -> &Carrier {
        &self.inner.carrier
    }

    /// The key of a node, if it is this one, or another that is there.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<EntityId> {
        if self.inner.own.node_id() == node {
            return Some(self.inner.own);
        }
        let mesh = self.inner.carrier.as_mesh()?;
        mesh.peer(node).map(|peer| peer.entity)
    }

    /// Takes an event of the node itself into the log of a channel, and tells its number. While readers wait, the turns that
    /// bring it to them are given here: who calls holds no lock.
    ///
    /// # Errors
    /// [`PublishError`]: it is not in the log.
    pub fn publish(&self, channel: &ChannelName, payload: Arc<[u8]>) -> Result<u64, PublishError> {
        let began = Instant::now();
        if !self.inner.prompt.is_own(began) {
            return self.put(channel, None, payload, false);
        }
        let reactor = Reactor::of_process();
        let (published, awaited) = reactor.tell_awaited(|| self.put(channel, None, payload, false));
        let now = Instant::now();
        self.inner.prompt.told(now, now - began, awaited);
        published
    }

    /// As [`publish`](Self::publish), unless that gives turns, or somebody else is at it who would have to be waited for.
    ///
    /// # Errors
    /// The payload: it was not looked at.
    pub fn try_publish(
        &self,
        channel: &ChannelName,
        payload: Arc<[u8]>,
    ) -> Result<Result<u64, PublishError>, Arc<[u8]>> {
        if self.is_closed() {
            return Ok(Err(PublishError::Closed));
        }
        if self.inner.prompt.is_own(Instant::now()) {
            return Err(payload);
        }
        let Some(mut publisher) = self.inner.publisher.try_lock() else {
            return Err(payload);
        };
        let published = publisher.publish(channel, None, payload, false);
        drop(publisher);
        Ok(published.map(|(sequence, wakes)| {
            if wakes {
                self.inner.wake();
            }
            sequence
        }))
    }

    /// As [`publish`](Self::publish), of something that took effect already: it is not refused for what waits to be sent.
    ///
    /// # Errors
    /// [`PublishError`]: it is not in the log.
    pub fn publish_emitted(
        &self,
        channel: &ChannelName,
        emitter: EntityId,
        payload: Arc<[u8]>,
    ) -> Result<u64, PublishError> {
        self.put(channel, Some(emitter), payload, true)
    }

    fn put(
        &self,
        channel: &ChannelName,
        emitter: Option<EntityId>,
        payload: Arc<[u8]>,
        must: bool,
    ) -> Result<u64, PublishError> {
        if self.is_closed() {
            return Err(PublishError::Closed);
        }
        let published = self.inner.publisher.lock().publish(channel, emitter, payload, must);
        let (sequence, wakes) = published?;
        if wakes {
            self.inner.wake();
        }
        Ok(sequence)
    }

    /// Asks a node to publish on a channel of its own, as this node. It is asked until it answers, or the time is over;
    /// `token` is what permits it, as bytes.
    ///
    /// # Errors
    /// [`RequestError::Full`], [`RequestError::Closed`].
    pub fn publish_at(
        &self,
        node: EntityId,
        channel: &ChannelName,
        token: Vec<u8>,
        payload: Arc<[u8]>,
        timeout: Duration,
    ) -> Result<Requested, RequestError> {
        if self.is_closed() {
            return Err(RequestError::Closed);
        }
        let what = (channel.clone(), token, payload);
        let mut out = self.inner.out.lock();
        let mut publishing = self.inner.publishing.lock();
        let requested = publishing.ask(node, what, timeout, &self.inner.carrier, &mut out);
        drop(publishing);
        drop(out);
        self.inner.wake();
        requested
    }

    /// Bytes of the largest payload that a channel takes.
    #[must_use]
    pub fn payload_bytes_max(&self, channel: &ChannelName) -> u64 {
        self.inner.publisher.lock().payload_bytes_max(channel)
    }

    /// Sets the policy of a channel; whom it does not permit is told so.
    ///
    /// # Errors
    /// [`PublishError::TooManyChannels`], [`PublishError::Closed`].
    pub fn open(&self, channel: &ChannelName, policy: &ChannelPolicy) -> Result<(), PublishError> {
        if self.is_closed() {
            return Err(PublishError::Closed);
        }
        let mut out = self.inner.out.lock();
        self.inner.publisher.lock().open(channel, policy, &mut out)?;
        drop(out);
        self.inner.wake_if_used();
        Ok(())
    }

    /// Ends all subscriptions of a channel, and drops its log.
    pub fn close_channel(&self, channel: &ChannelName) {
        let mut out = self.inner.out.lock();
        self.inner.publisher.lock().close(channel, &mut out);
        drop(out);
        self.inner.wake_if_used();
    }

    /// Permits something on a channel, signed with the key of the node.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn issue(&self, terms: Terms, ttl: Duration) -> Result<PermissionToken, TokenError> {
        let revoked = self.inner.publisher.lock().revoked_at(&terms.subject);
        // What is issued after a statement began after it, also within one tick of the clock.
        let earliest = revoked.map_or(UnixMs::new(0), |at| at.plus(Duration::from_millis(1)));
        let begin = clock::unix_ms().max(earliest);
        PermissionToken::issue(&self.inner.key, terms, begin, ttl, keys::random_bytes())
    }

    /// Signs that all tokens of a subject are taken back.
    ///
    /// # Errors
    /// [`RevokeError::Identity`].
    pub fn sign_revocation(&self, subject: EntityId) -> Result<Revocation, RevokeError> {
        let target = Target::Subject(subject);
        Ok(Revocation::sign(target, clock::unix_ms(), &self.inner.key)?)
    }

    /// Takes in a statement about tokens: who is not permitted any more is told so, and keys change.
    ///
    /// # Errors
    /// [`RevokeError::NotRevoked`]: nothing has changed.
    pub fn revoke(&self, revocation: &Revocation) -> Result<(), RevokeError> {
        let mut out = self.inner.out.lock();
        self.inner.publisher.lock().revoke(revocation, &mut out)?;
        drop(out);
        self.inner.wake_if_used();
        Ok(())
    }

    /// Begins to read. The sink is told what comes of it; the number names the subscription.
    ///
    /// # Errors
    /// [`PublishError::TooManyChannels`]: there are as many subscriptions as may be; [`PublishError::Closed`].
    pub fn subscribe(&self, wanted: Wanted, sink: Arc<dyn Sink>) -> Result<u64, PublishError> {
        if self.is_closed() {
            return Err(PublishError::Closed);
        }
        let now = self.inner.clock.now();
        let mut out = self.inner.out.lock();
        let begun = self.inner.readers.lock().begin(wanted, sink, now, &mut out);
        drop(out);
        let number = begun.ok_or(PublishError::TooManyChannels)?;
        self.inner.wake();
        Ok(number)
    }

    /// Ends a subscription; its sink is told nothing more once the publisher knows, and nothing at all of its end.
    pub fn unsubscribe(&self, subscription: u64) {
        self.inner.order(Order::End(subscription));
    }

    /// Says that the sink of a subscription has room again.
    pub fn has_room(&self, subscription: u64) {
        self.inner.order(Order::HasRoom(subscription));
    }

    /// Says that a member of a queue group is done with its turns up to this one.
    pub fn taken(&self, subscription: u64, term: u64, turn: u64) {
        self.inner.order(Order::Taken(subscription, term, turn));
    }

    /// How far a subscription has come: a life of the numbers, and the last one that was handed out.
    #[must_use]
    pub fn cursor(&self, subscription: u64) -> Option<(u64, u64)> {
        self.inner.readers.lock().cursor(subscription)
    }

    pub(crate) fn count_unpublished(&self) {
        self.inner.unpublished.fetch_add(1, Ordering::Relaxed);
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> ChannelStats {
        let (channels, subscribers, refused, lost_to_groups) = self.inner.publisher.lock().counts();
        let (subscriptions, read) = self.inner.readers.lock().counts();
        ChannelStats {
            channels,
            subscribers,
            refused,
            lost_to_groups,
            subscriptions,
            read,
            unpublished: self.inner.unpublished.load(Ordering::Relaxed),
            sent: self.inner.out.lock().counts(),
        }
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.closed.load(Ordering::Acquire) || self.inner.carrier.is_closed()
    }

    /// Ends every subscription; does nothing the second time.
    pub fn close(&self) {
        if self.inner.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let sinks = self.inner.readers.lock().close();
        sinks.iter().for_each(|sink| sink.ended(None));
        self.inner.publishing.lock().close();
        let left = self.inner.inbox.lock().take();
        drop(left);
    }
}

impl Inner {
    /// Asks for a turn; the first one takes the place. Without a thread there are no turns, and what was asked for is not
    /// answered.
    fn wake(&self) {
        if let Some(place) = self.place.get() {
            return place.wake();
        }
        let turn: Weak<dyn Turn> = self.me.clone();
        let (place, _) = Reactor::of_process().place(turn);
        // Of two who take one at a time, the second gives its own back.
        if self.place.set(place).is_err()
            && let Some(place) = self.place.get()
        {
            place.wake();
        }
    }

    /// Asks for a turn, if there was one before.
    fn wake_if_used(&self) {
        if let Some(place) = self.place.get() {
            place.wake();
        }
    }

    fn order(&self, order: Order) {
        self.orders.lock().push(order);
        self.wake();
    }

    /// Works on what arrived, for as long as a turn may take; `true`: there is more.
    fn take_in(&self, began: Instant, out: &mut Outgoing) -> bool {
        loop {
            let body = self.inbox.lock().pop();
            let Some(delivered) = body else { return false };
            self.open(&delivered, out);
            if began.elapsed() >= TURN {
                return !self.inbox.lock().is_empty();
            }
        }
    }

    fn open(&self, delivered: &Delivered, out: &mut Outgoing) {
        let from = delivered.from;
        let Ok(messages) = parcel::open(delivered.body()) else {
            return self.readers.lock().malformed();
        };
        let times = (self.clock.now(), Instant::now());
        // Events of one channel mostly come in a row.
        let mut place: Option<(EntityId, ChannelName)> = None;
        for message in messages {
            let Ok(message) = message else {
                return self.readers.lock().malformed();
            };
            if let (Some((name, log, event)), Some(place)) = (as_event(message), &place)
                && name == place.1.as_str().as_bytes()
            {
                self.readers.lock().event_of(place, log, &event, times, out);
                continue;
            }
            // A key names its publisher where a frame has its kind and what follows.
            if message.get(1..33) == Some(from.as_bytes()) {
                match HandedKey::decode(message) {
                    Ok(handed) => self.readers.lock().key(&from, &handed, times.0, out),
                    Err(_) => self.readers.lock().malformed(),
                }
                continue;
            }
            match ChannelFrame::decode(message) {
                Ok(ChannelFrame::Event { channel, log, event }) => {
                    let place = place.insert((from, channel));
                    self.readers.lock().event_of(place, log, &event, times, out);
                }
                Ok(frame) => self.frame(&from, frame, times, out),
                Err(_) => self.readers.lock().malformed(),
            }
        }
    }

    fn frame(&self, from: &EntityId, frame: ChannelFrame<'_>, times: (UnixMs, Instant), out: &mut Outgoing) {
        match frame {
            ChannelFrame::Subscribe(asked) => self.publisher.lock().subscribe(from, asked, times.1, out),
            ChannelFrame::Leave {
                nonce,
                channel,
                subscriber,
            } => {
                self.publisher.lock().leave(from, &channel, &subscriber, out);
                out.frame(from, &ChannelFrame::Left { nonce });
            }
            ChannelFrame::Repair {
                channel,
                subscriber,
                log,
                numbers,
            } => {
                let batch = self
                    .publisher
                    .lock()
                    .repair(from, &channel, &subscriber, (log, numbers), out);
                if let Some(batch) = batch {
                    batch.pack(&self.own, out);
                }
            }
            ChannelFrame::Taken {
                channel,
                subscriber,
                term,
                turn,
            } => {
                let mut publisher = self.publisher.lock();
                publisher.taken(from, &channel, &subscriber, (term, turn), out);
            }
            ChannelFrame::Publish(request) => {
                let answers = &mut self.publishing.lock().answers;
                let (answer, _) = self.publisher.lock().publish_for(answers, from, &request);
                let nonce = request.nonce;
                let frame = match answer {
                    Ok(sequence) => ChannelFrame::Published { nonce, sequence },
                    Err(reason) => ChannelFrame::NotPublished { nonce, reason },
                };
                out.frame(from, &frame);
            }
            ChannelFrame::Published { nonce, sequence } => {
                let mut publishing = self.publishing.lock();
                publishing.answered(from, nonce, Ok(sequence), &self.carrier, out);
            }
            ChannelFrame::NotPublished { nonce, reason } => {
                let mut publishing = self.publishing.lock();
                publishing.answered(from, nonce, Err(reason), &self.carrier, out);
            }
            ChannelFrame::AskKey { channel, subscriber } => {
                self.publisher.lock().asked_key(from, &channel, &subscriber, out);
            }
            frame => self.readers.lock().frame(from, frame, times, out),
        }
    }

    fn carry_out(&self, out: &mut Outgoing) {
        let orders = std::mem::take(&mut *self.orders.lock());
        if orders.is_empty() {
            return;
        }
        let now = self.clock.now();
        let mut readers = self.readers.lock();
        for order in orders {
            match order {
                Order::End(number) => readers.end(number, now, out),
                Order::HasRoom(number) => readers.has_room(number, now, out),
                Order::Taken(number, term, turn) => readers.taken(number, term, turn, out),
            }
        }
    }

    /// Looks who of the other nodes is there. Returns when that is to be done again.
    fn look_around(&self, now: Instant, out: &mut Outgoing) -> Option<Instant> {
        self.carrier.as_mesh()?;
        let is_read = self.publisher.lock().nodes().next().is_some();
        if !is_read && self.readers.lock().publishers().all(|node| *node == self.own) {
            return None;
        }
        let (looked, before) = {
            let mut others = self.others.lock();
            if let Some(looked) = others.0
                && now < looked + LOOK
            {
                return Some(looked + LOOK);
            }
            (others.0.replace(now), std::mem::take(&mut others.1))
        };
        let there: BTreeSet<EntityId> = self.carrier.others().into_iter().collect();
        let lost: Vec<EntityId> = {
            let publisher = self.publisher.lock();
            let lost = publisher.nodes().filter(|node| !there.contains(*node));
            lost.copied().collect()
        };
        lost.iter().for_each(|node| self.publisher.lock().node_lost(node, out));
        if looked.is_some() {
            let clock = self.clock.now();
            let mut readers = self.readers.lock();
            let back = readers.publishers();
            let back = back.filter(|node| there.contains(*node) && !before.contains(*node));
            let back: Vec<EntityId> = back.copied().collect();
            back.iter().for_each(|node| readers.returned(node, clock, out));
        }
        self.others.lock().1 = there;
        Some(now + LOOK)
    }
}

impl Turn for Inner {
    fn turn(&self) -> Option<Instant> {
        if self.closed.load(Ordering::Acquire) || self.carrier.is_closed() {
            return None;
        }
        let began = Instant::now();
        let mut out = std::mem::take(&mut *self.out.lock());
        let mut more = self.take_in(began, &mut out);
        self.carry_out(&mut out);
        let look = self.look_around(began, &mut out);
        {
            let mut readers = self.readers.lock();
            readers.turn(self.clock.now(), began, &mut out);
            readers.ask_for_repairs(&mut out);
        }
        let asked = self.publishing.lock().turn(&self.carrier, &mut out);
        let batches = {
            let mut publisher = self.publisher.lock();
            publisher.turn(began, &mut out);
            publisher.fresh(began, &mut out)
        };
        batches.iter().for_each(|batch| batch.pack(&self.own, &mut out));
        out.send(&self.carrier);
        // What was put in meanwhile goes with the next turn.
        {
            let mut kept = self.out.lock();
            std::mem::swap(&mut *kept, &mut out);
            more |= kept.merge(out);
        }
        if more {
            return Some(began);
        }
        let (clock, silent, widest) = {
            let readers = self.readers.lock();
            let (clock, silent) = readers.due();
            (clock, silent, readers.widest())
        };
        let clock = clock.and_then(|due| self.clock.instant(due).end());
        let (published, nodes) = {
            let publisher = self.publisher.lock();
            (publisher.due(began), publisher.nodes().take(FEW + 1).count())
        };
        self.is_wide.store(widest.max(nodes) > FEW, Ordering::Relaxed);
        [look, silent, clock, published, asked].into_iter().flatten().min()
    }

    fn is_short(&self) -> bool {
        !self.is_wide.load(Ordering::Relaxed)
    }
}
