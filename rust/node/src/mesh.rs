//! A mesh as one node sees it: who is there, and frames from and to each of them.
//!
//! What an engine hands over goes into the inbox, on whatever thread that is. The [`reactor`](crate::reactor) gives the node
//! its turns: it empties the inbox, checks every frame, hands bodies to who takes their kind, and has
//! [`presence`](meshos_core::presence) decide what that and the time mean.
//!
//! Invariants
//! * Every frame that arrives is taken, or refused for one reason and counted.
//! * A frame counts once: heartbeats by their counters, tagged frames by a window of their session.
//! * The inbox is emptied before time counts: who was held up hears first, and judges then.
//! * No lock is held while a frame is published or a body is handed on.
//! * After a close nothing is sent, and who waits is told.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use meshos_core::capability::CapabilitySet;
use meshos_core::codec::Put;
use meshos_core::engine::{
    Declared, Engine, EngineError, EngineStats, PAYLOAD_BYTES_MAX, Payload, Receive, Topic, Watch,
};
use meshos_core::frame::{self, BODY_BYTES_MAX, Draft, Frame, Header, Kind, MeshId, Refusal};
use meshos_core::heartbeat::{Beat, CAPABILITIES_BYTES_MAX, Heartbeat, capabilities_bytes};
use meshos_core::id::{EntityId, NodeId};
use meshos_core::identity::Keypair;
use meshos_core::presence::{Action, Members, Peer, PeerState, Presence, PresenceConfig, PresenceStats, Signal};
use meshos_core::session::{SessionKeys, SessionSecret, Side, Window};
use meshos_core::time::UnixMs;
use thiserror::Error;

use crate::clock::{Deadline, LoopClock};
use crate::reactor::{Place, Reactor, Turn};
use crate::sync::{Condvar, Mutex, RwLock};
use crate::{keys, load};

/// Frames that wait in the inbox at most.
pub const INBOX_MAX: usize = 16_384;

/// Bytes that wait in the inbox at most; one frame always has a place.
pub const INBOX_BYTES_MAX: usize = 2 * PAYLOAD_BYTES_MAX;

/// Sessions of one run at most. One that was made is kept as long as the other node runs: its numbers go on.
pub const SESSIONS_MAX: usize = 65_536;

/// Options of a mesh.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    /// Options of presence; its seed is drawn when it is 0.
    pub presence: PresenceConfig,
    /// Version of the software, as others see it; at most 64 bytes.
    pub software: Arc<str>,
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            presence: PresenceConfig::default(),
            software: Arc::from(env!("CARGO_PKG_VERSION")),
        }
    }
}

/// Why a node does not join a mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JoinError {
    /// The engine refuses.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The key of the node is public only.
    #[error("the key of the node cannot sign")]
    ReadOnly,
    /// The system has no thread to give.
    #[error("the system has no thread to give")]
    NoThread,
}

/// Why a body was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PostError {
    /// The node is not known, or dead: nothing reaches it now.
    #[error("the node is not there")]
    NotThere,
    /// The engine refuses.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Why a wait ended without what was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PeerWaitError {
    /// The time is over.
    #[error("it was not there in time")]
    Timeout,
    /// Whoever waited does not want to any more.
    #[error("the wait was given up")]
    Interrupted,
    /// The mesh is closed.
    #[error("the mesh is closed")]
    Closed,
}

/// A body that was sent to this node.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// Key of the node that sent it.
    pub from: EntityId,
    payload: Payload,
    body: Range<usize>,
}

impl Delivered {
    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.payload.bytes()[self.body.clone()]
    }
}

impl Delivered {
    /// What a node sends to itself.
    pub(crate) fn to_oneself(node: EntityId, draft: Draft) -> Self {
        let frame = draft.into_buffer();
        Self {
            from: node,
            body: frame::HEADER_SIZE..frame.len(),
            payload: Payload::new(frame),
        }
    }

    /// What came from a node in another body.
    pub(crate) fn of(from: EntityId, body: Vec<u8>) -> Self {
        Self {
            from,
            body: 0..body.len(),
            payload: Payload::new(body),
        }
    }
}

/// Takes bodies of one kind.
pub trait Take: Send + Sync {
    /// Puts a body into a queue; `false` when that is full, and the body is lost. It runs on the thread of all meshes: it
    /// is short and never waits.
    fn take(&self, delivered: Delivered) -> bool;
}

/// Another node, as this one sees it.
#[derive(Debug, Clone)]
pub struct PeerView {
    /// Key of the node.
    pub entity: EntityId,
    /// Its handle.
    pub node: NodeId,
    /// How it looks.
    pub state: PeerState,
    /// When it was heard last.
    pub heard_at: UnixMs,
    /// The last round trip measured.
    pub rtt: Option<Duration>,
    /// What it said last.
    pub beat: Arc<Beat>,
}

/// What happened at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MeshStats {
    /// Presence.
    pub presence: PresenceStats,
    /// The engine.
    pub engine: EngineStats,
    /// Bodies sent.
    pub sent: u64,
    /// Bodies handed on.
    pub taken: u64,
    /// Frames refused, in the order of [`Refusal::WORDS`].
    pub refused: [u64; Refusal::WORDS.len()],
    /// What the engine refused of what this node said.
    pub unsent: u64,
}

/// What two nodes share while both run.
struct Session {
    run: u64,
    keys: SessionKeys,
    number: AtomicU64,
    window: Mutex<Window>,
}

/// A heartbeat that was looked at.
type Opened = Result<Arc<Beat>, Refusal>;

#[derive(Default)]
struct Queue {
    /// With when they arrived.
    payloads: VecDeque<(Instant, Payload)>,
    bytes: usize,
    left: VecDeque<EntityId>,
}

/// What the engine puts into, on whatever thread.
struct Inbox {
    queue: Mutex<Queue>,
    full: AtomicU64,
    place: OnceLock<Place>,
    /// How long a heartbeat may wait, in milliseconds: where there are many nodes, several are looked at in one turn.
    patience: AtomicU64,
}

struct Inner {
    key: Arc<Keypair>,
    mesh: MeshId,
    side: Side,
    node: NodeId,
    secret: SessionSecret,
    members: Members,
    interval: Duration,
    software: Arc<str>,
    engine: Arc<dyn Engine>,
    inbox: Arc<Inbox>,
    started: Instant,
    clock: LoopClock,
    presence: Mutex<Presence>,
    changed: Condvar,
    changes: AtomicU64,
    /// What it said last, for who came later.
    said: Mutex<Option<Payload>>,
    sessions: RwLock<HashMap<EntityId, Arc<Session>>>,
    takers: RwLock<HashMap<Kind, Arc<dyn Take>>>,
    declared: Mutex<Vec<Declared>>,
    closed: AtomicBool,
    paused: AtomicBool,
    sent: AtomicU64,
    taken: AtomicU64,
    unsent: AtomicU64,
    refused: [AtomicU64; Refusal::WORDS.len()],
}

/// One node among others; a clone is the same.
#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

impl Receive for Inbox {
    fn receive(&self, topic: &Topic, payload: &Payload) -> bool {
        let now = Instant::now();
        let size = payload.bytes().len();
        let mut queue = self.queue.lock();
        let has_place = queue.payloads.len() < INBOX_MAX && queue.bytes.saturating_add(size) <= INBOX_BYTES_MAX;
        if !has_place && !queue.payloads.is_empty() {
            drop(queue);
            self.full.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let is_first = queue.payloads.is_empty();
        queue.payloads.push_back((now, payload.clone()));
        queue.bytes += size;
        drop(queue);
        let patience = self.patience.load(Ordering::Relaxed);
        match self.place.get() {
            // The first one asked for a turn.
            Some(_) if *topic == Topic::Beats && patience > 0 && !is_first => {}
            Some(place) if *topic == Topic::Beats && patience > 0 => {
                place.wake_by(now + Duration::from_millis(patience));
            }
            Some(place) => place.wake(),
            None => {}
        }
        true
    }
}

impl Watch for Inbox {
    fn here(&self, _node: &EntityId) {}

    fn left(&self, node: &EntityId) {
        let mut queue = self.queue.lock();
        if queue.left.len() >= INBOX_MAX {
            drop(queue);
            self.full.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.left.push_back(*node);
        drop(queue);
        self.wake();
    }
}

impl Inbox {
    fn wake(&self) {
        if let Some(place) = self.place.get() {
            place.wake();
        }
    }
}

impl Mesh {
    /// Joins a mesh: the first heartbeat is sent at once.
    ///
    /// # Errors
    /// [`JoinError`].
    ///
    /// # Panics
    /// If the engine is of another node.
    pub fn join(
        key: Arc<Keypair>,
        mesh: MeshId,
        members: Members,
        engine: Arc<dyn Engine>,
        config: &MeshConfig,
    ) -> Result<Self, JoinError> {
        if key.is_read_only() {
            return Err(JoinError::ReadOnly);
        }
        let (entity, node) = (key.entity_id(), key.node_id());
        assert_eq!(engine.node(), entity, "an engine is of one node");
        let clock = LoopClock::start();
        let run = next_run();
        let secret = SessionSecret::new(keys::random_bytes());
        let side = Side {
            node: entity,
            run,
            public: secret.public(),
        };
        let mut options = config.presence;
        if options.seed == 0 {
            options.seed = keys::random_u64();
        }
        let inbox = Arc::new(Inbox {
            queue: Mutex::default(),
            full: AtomicU64::new(0),
            place: OnceLock::new(),
            patience: AtomicU64::new(0),
        });
        let receiver: Arc<dyn Receive> = inbox.clone();
        let declared = vec![
            engine.subscribe(&Topic::Node(entity), Arc::clone(&receiver))?,
            engine.subscribe(&Topic::Beats, receiver)?,
            engine.watch(inbox.clone())?,
        ];
        let inner = Arc::new(Inner {
            key,
            mesh,
            side,
            node,
            secret,
            members: members.clone(),
            interval: options.interval,
            software: Arc::clone(&config.software),
            engine,
            inbox: Arc::clone(&inbox),
            started: Instant::now(),
            clock,
            presence: Mutex::new(Presence::new(options, node, run, members)),
            changed: Condvar::new(),
            changes: AtomicU64::new(0),
            said: Mutex::new(None),
            sessions: RwLock::default(),
            takers: RwLock::default(),
            declared: Mutex::new(declared),
            closed: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            refused: Default::default(),
        });
        let turn: Weak<dyn Turn> = Arc::downgrade(&(Arc::clone(&inner) as Arc<dyn Turn>));
        let (place, runs) = Reactor::of_process().place(turn);
        let mesh = Self { inner };
        if !runs {
            mesh.close();
            return Err(JoinError::NoThread);
        }
        let _ = inbox.place.set(place);
        // What came before that was set has its turn now.
        inbox.wake();
        Ok(mesh)
    }

    /// Key of this node.
    #[must_use]
    pub fn entity_id(&self) -> EntityId {
        self.inner.side.node
    }

    /// Its handle.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.inner.node
    }

    /// The number of this start of the node.
    #[must_use]
    pub fn run(&self) -> u64 {
        self.inner.side.run
    }

    /// The mesh.
    #[must_use]
    pub fn mesh_id(&self) -> MeshId {
        self.inner.mesh
    }

    /// What moves its bytes.
    #[must_use]
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.inner.engine
    }

    /// The other nodes, ascending by handle.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerView> {
        let presence = self.inner.presence.lock();
        let peers = presence.peers().values();
        peers.map(|peer| self.inner.view(peer)).collect()
    }

    /// Nodes that belong to the mesh by name and were not heard yet.
    #[must_use]
    pub fn unheard(&self) -> Vec<EntityId> {
        let Members::Listed(listed) = &self.inner.members else {
            return Vec::new();
        };
        let presence = self.inner.presence.lock();
        let is_unheard = |entity: &&EntityId| **entity != self.inner.side.node && presence.peer(entity).is_none();
        listed.iter().filter(is_unheard).copied().collect()
    }

    /// One other node, if it was heard.
    #[must_use]
    pub fn peer(&self, node: NodeId) -> Option<PeerView> {
        let presence = self.inner.presence.lock();
        presence.peers().get(&node).map(|peer| self.inner.view(peer))
    }

    /// Rises when a peer looks different.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.inner.changes.load(Ordering::Acquire)
    }

    /// Waits until another node is alive. `is_interrupted` is asked between slices, without a lock.
    ///
    /// # Errors
    /// [`PeerWaitError`].
    pub fn wait_for_peer(
        &self,
        node: NodeId,
        deadline: Deadline,
        mut is_interrupted: impl FnMut() -> bool,
    ) -> Result<PeerView, PeerWaitError> {
        loop {
            let presence = self.inner.presence.lock();
            if self.is_closed() {
                return Err(PeerWaitError::Closed);
            }
            let peer = presence.peers().get(&node);
            if let Some(peer) = peer.filter(|peer| peer.state == PeerState::Alive) {
                return Ok(self.inner.view(peer));
            }
            if deadline.passed() {
                return Err(PeerWaitError::Timeout);
            }
            drop(self.inner.changed.wait_until(presence, deadline.slice()));
            if is_interrupted() {
                return Err(PeerWaitError::Interrupted);
            }
        }
    }

    /// Says from now on what this node offers, in place of what it said before. `false`: it is more than fits a heartbeat.
    #[must_use]
    pub fn announce(&self, capabilities: CapabilitySet) -> bool {
        if capabilities_bytes(&capabilities) > CAPABILITIES_BYTES_MAX {
            return false;
        }
        let signal = Signal::Announce(Arc::new(capabilities));
        let now = self.inner.started.elapsed();
        self.inner.presence.lock().step(now, signal);
        self.inner.inbox.wake();
        true
    }

    /// Has bodies of a kind handed to a taker, in place of the one before.
    pub fn attach(&self, kind: Kind, taker: Arc<dyn Take>) {
        let before = self.inner.takers.write().insert(kind, taker);
        drop(before);
    }

    /// Sends a body to another node, or to this one. That it arrives is not promised, nor that it does so once or in order.
    ///
    /// # Errors
    /// [`PostError`].
    pub fn post(&self, to: &EntityId, kind: Kind, body: &[u8]) -> Result<(), PostError> {
        self.post_draft(to, kind, Draft::new(body.len(), |out| out.put(body)))
    }

    /// The same, of a body that is not copied.
    ///
    /// # Errors
    /// [`PostError`].
    pub fn post_draft(&self, to: &EntityId, kind: Kind, draft: Draft) -> Result<(), PostError> {
        let (size, max) = (draft.body().len(), BODY_BYTES_MAX);
        if size > max {
            return Err(EngineError::TooLarge { size, max }.into());
        }
        if self.is_closed() {
            return Err(EngineError::Closed.into());
        }
        if *to == self.inner.side.node {
            return self.inner.post_to_oneself(kind, draft);
        }
        let session = self.inner.session(to, None).ok_or(PostError::NotThere)?;
        let header = Header {
            mesh: self.inner.mesh,
            from: self.inner.side.node,
            to: Some(*to),
            run: self.inner.side.run,
            number: session.number.fetch_add(1, Ordering::Relaxed) + 1,
            kind,
        };
        let payload = Payload::new(draft.tag(&header, session.keys.send()));
        self.inner.engine.publish(&Topic::Node(*to), payload)?;
        self.inner.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> MeshStats {
        let inner = &*self.inner;
        let mut refused = std::array::from_fn(|at| inner.refused[at].load(Ordering::Relaxed));
        refused[Refusal::Full.index()] += inner.inbox.full.load(Ordering::Relaxed);
        MeshStats {
            presence: *inner.presence.lock().stats(),
            engine: inner.engine.stats(),
            sent: inner.sent.load(Ordering::Relaxed),
            taken: inner.taken.load(Ordering::Relaxed),
            refused,
            unsent: inner.unsent.load(Ordering::Relaxed),
        }
    }

    /// What an engine would do: for tests of what forged frames do.
    pub fn inject(&self, bytes: Vec<u8>) {
        self.inner.inbox.receive(&Topic::Beats, &Payload::new(bytes));
    }

    /// Has the node stand still, or go on: for tests of what others make of that.
    pub fn pause(&self, paused: bool) {
        self.inner.paused.store(paused, Ordering::Release);
        self.inner.inbox.wake();
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.closed.load(Ordering::Acquire)
    }

    /// Leaves the mesh; does nothing the second time.
    pub fn close(&self) {
        if self.inner.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let declared = std::mem::take(&mut *self.inner.declared.lock());
        drop(declared);
        self.inner.engine.close();
        let takers = std::mem::take(&mut *self.inner.takers.write());
        drop(takers);
        self.inner.sessions.write().clear();
        drop(self.inner.presence.lock());
        self.inner.changed.notify_all();
        self.inner.inbox.wake();
    }
}

impl Turn for Inner {
    fn turn(&self) -> Option<Instant> {
        if self.closed.load(Ordering::Acquire) || self.paused.load(Ordering::Acquire) {
            return None;
        }
        let (payloads, left) = {
            let mut queue = self.inbox.queue.lock();
            queue.bytes = 0;
            (std::mem::take(&mut queue.payloads), std::mem::take(&mut queue.left))
        };
        for (arrived, payload) in &payloads {
            if let Err(refusal) = self.hear(*arrived, payload) {
                self.refused[refusal.index()].fetch_add(1, Ordering::Relaxed);
            }
        }
        self.give_back(payloads);
        for node in left {
            self.step(self.started.elapsed(), Signal::Left(node));
        }
        let now = self.started.elapsed();
        let mut due = self.presence.lock().due();
        if now >= due {
            self.step(now, Signal::Turn);
            due = self.presence.lock().due();
        }
        self.started.checked_add(due)
    }
}

impl Inner {
    /// Keeps the room of an emptied queue for the next payloads, if it is not much.
    fn give_back(&self, mut payloads: VecDeque<(Instant, Payload)>) {
        payloads.clear();
        if payloads.capacity() <= 64 {
            let mut queue = self.inbox.queue.lock();
            if queue.payloads.capacity() == 0 {
                queue.payloads = payloads;
            }
        }
    }

    fn view(&self, peer: &Peer) -> PeerView {
        PeerView {
            entity: peer.beat.from,
            node: peer.beat.node,
            state: peer.state,
            heard_at: self.clock.wall(self.clock.at(self.started + peer.heard)),
            rtt: peer.rtt,
            beat: Arc::clone(&peer.beat),
        }
    }

    fn post_to_oneself(&self, kind: Kind, draft: Draft) -> Result<(), PostError> {
        let taker = self.takers.read().get(&kind).map(Arc::clone);
        let refusal = match taker {
            None => Refusal::UnknownKind,
            Some(taker) if taker.take(Delivered::to_oneself(self.side.node, draft)) => return Ok(()),
            Some(_) => Refusal::Full,
        };
        self.refused[refusal.index()].fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn hear(&self, arrived: Instant, payload: &Payload) -> Result<(), Refusal> {
        let bytes = payload.bytes();
        let frame = Frame::decode(bytes)?;
        frame.check_way(&self.mesh, &self.side.node)?;
        if frame.header.kind == Kind::HEARTBEAT {
            return self.hear_beat(&frame, arrived, payload);
        }
        let from = frame.header.from;
        let session = self.session(&from, Some(frame.header.run));
        let session = session.ok_or(Refusal::UnknownSender)?;
        if session.run != frame.header.run {
            return Err(Refusal::OtherRun);
        }
        frame.check_tag(session.keys.receive())?;
        session.window.lock().take(frame.header.number)?;
        let taker = self.takers.read().get(&frame.header.kind).map(Arc::clone);
        let taker = taker.ok_or(Refusal::UnknownKind)?;
        let begin = frame::HEADER_SIZE;
        let body = begin..begin + frame.body.len();
        let payload = payload.clone();
        if !taker.take(Delivered { from, payload, body }) {
            return Err(Refusal::Full);
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn hear_beat(&self, frame: &Frame<'_>, arrived: Instant, payload: &Payload) -> Result<(), Refusal> {
        // The nodes of one process check a signature once: who signed what depends on the bytes alone.
        let beat = match payload.found::<Opened>() {
            Some(opened) => opened.clone()?,
            // Presence judges too; this keeps strangers from having signatures checked.
            None if !self.members.has(&frame.header.from) => return Err(Refusal::UnknownSender),
            None => (*payload.find(|bytes| -> Opened { Beat::open(&Frame::decode(bytes)?).map(Arc::new) })).clone()?,
        };
        let at = arrived.saturating_duration_since(self.started);
        self.step(at, Signal::Heard(beat));
        Ok(())
    }

    fn step(&self, now: Duration, signal: Signal) {
        let actions = self.presence.lock().step(now, signal);
        let mut changed = false;
        for action in actions {
            match action {
                Action::Beat {
                    counter,
                    interval_ms,
                    echoes,
                    capabilities,
                } => {
                    // Where nodes beat more rarely than they would if they were few, there are many.
                    let is_crowded = Duration::from_millis(u64::from(interval_ms)) > self.interval;
                    let patience = if is_crowded { u64::from(interval_ms) / 100 } else { 0 };
                    self.inbox.patience.store(patience, Ordering::Relaxed);
                    let heartbeat = Heartbeat {
                        unix_ms: crate::clock::unix_ms(),
                        interval_ms,
                        session: self.side.public,
                        load: load::now(),
                        software: Arc::clone(&self.software),
                        echoes,
                        capabilities,
                    };
                    let signed = Beat::sign(&heartbeat, self.mesh, self.side.run, counter, &self.key);
                    let payload = Payload::new(signed.expect("whether the key can sign was checked at the start"));
                    *self.said.lock() = Some(payload.clone());
                    self.say(&Topic::Beats, payload);
                }
                Action::Greet(entity) => {
                    // Its keys of an earlier run are of no use.
                    let before = self.sessions.write().remove(&entity);
                    drop(before);
                    let said = self.said.lock().clone();
                    if let Some(payload) = said {
                        self.say(&Topic::Node(entity), payload);
                    }
                }
                Action::Changed { .. } => changed = true,
                Action::Refuse(refusal) => {
                    self.refused[refusal.index()].fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        if changed {
            self.changes.fetch_add(1, Ordering::AcqRel);
            self.changed.notify_all();
        }
    }

    fn say(&self, topic: &Topic, payload: Payload) {
        if self.engine.publish(topic, payload).is_err() {
            self.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The session with another node, made where there is none of its newest run, or of the run that a frame names.
    fn session(&self, with: &EntityId, run: Option<u64>) -> Option<Arc<Session>> {
        let known = self.sessions.read().get(with).map(Arc::clone);
        if let Some(known) = &known
            && run.is_none_or(|run| run == known.run)
        {
            return Some(Arc::clone(known));
        }
        let theirs = {
            let presence = self.presence.lock();
            let peer = presence.peer(with)?;
            if run.is_none() && peer.state == PeerState::Dead {
                return None;
            }
            Side {
                node: *with,
                run: peer.beat.run,
                public: peer.beat.heartbeat.session,
            }
        };
        if let Some(known) = known
            && known.run == theirs.run
        {
            return Some(known);
        }
        let made = Arc::new(Session {
            run: theirs.run,
            keys: self.secret.agree(&self.mesh, &self.side, &theirs)?,
            number: AtomicU64::new(0),
            window: Mutex::default(),
        });
        let mut sessions = self.sessions.write();
        if sessions.len() >= SESSIONS_MAX && !sessions.contains_key(with) {
            return None;
        }
        let session = sessions.entry(*with).or_insert_with(|| Arc::clone(&made));
        if session.run < made.run {
            *session = made;
        }
        Some(Arc::clone(session))
    }
}

/// The number of a start: later ones have higher numbers. It is the time, and in one process also above all before it,
/// whatever the clock does.
fn next_run() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let random = keys::random_u64() >> 52;
    let now = crate::clock::unix_us() << 12 | random;
    let next = |last: u64| now.max(last + 1);
    let last = LAST.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(next(last)));
    next(last.unwrap_or(0))
}

/// Waits as [`Mesh::wait_for_peer`] does at a node that is alone, where nobody will come.
pub fn wait_for_nobody(deadline: Deadline, mut is_interrupted: impl FnMut() -> bool) -> PeerWaitError {
    let (lock, wait) = (Mutex::new(()), Condvar::new());
    while !deadline.passed() {
        if is_interrupted() {
            return PeerWaitError::Interrupted;
        }
        drop(wait.wait_until(lock.lock(), deadline.slice()));
    }
    PeerWaitError::Timeout
}
