//! The moves of a node: the machines of source, target and orchestrator, run in turns.
//!
//! Frames, and what comes of everything that was asked for, are put into a queue; turns on the thread of all meshes step the
//! machines, and do what they decide. User code, the store and the directory are left to [`Hands`], rows to a thread of
//! their own, and the work on chunks to the threads of moves.
//!
//! Invariants
//! * The rows of a node's moves become durable in the order in which they were decided.
//! * Every order and every record that a machine sees is signed as it says, and every lineage is whole.
//! * No lock is held while a frame is sent, the store works, hands are called, or somebody is told.
//! * Frames are bounded in number and bytes; what does not fit is refused and counted, and whoever sent it tries again.

mod aside;
mod buffers;
mod chunks;
mod copy;
mod entry;
mod keep;
mod orders;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use meshos_core::digest::Digest;
use meshos_core::frame::Kind;
use meshos_core::id::{EntityId, Origin};
use meshos_core::identity::Keypair;
use meshos_core::move_frame::{Body, MoveFrame, Reject};
use meshos_core::move_known;
use meshos_core::move_rows::{Frozen, Item as Row, Queued};
use meshos_core::ownership::{MigrationId, OwnershipRecord};
use meshos_core::parcel::Packer;
use meshos_core::presence::PeerState;
use meshos_core::rows::{KeyRange, Table, Write};
use meshos_core::store::StoreError;
use meshos_core::stream::Frame;
use thiserror::Error;

use crate::carrier::Carrier;
use crate::clock;
use crate::hands::{Copied, Frost, Hands};
use crate::inbox::Inbox;
use crate::keeping::Stores;
use crate::keys;
use crate::mesh::{Delivered, Take};
pub use crate::move_desk::{
    Cause, FailedKind, Move, MoveEnd, MoveFailed, MoveOpts, MoveOutcome, Progress, Unended, Watcher,
};
use crate::ownership::Ownership;
use crate::ownership_central as central;
use crate::reactor::{Place, Reactor, Turn};
use crate::resumption;
use crate::sync::{Mutex, RwLock};

pub use aside::{DescribeError, Described};
use chunks::Chunks;
use entry::Entry;
use keep::Keeping;
use orders::Ordered;

/// Frames that wait for a turn at most.
pub const INBOX_MAX: usize = 16_384;

/// Bytes of them at most; one always has a place.
pub const INBOX_BYTES_MAX: usize = 128 << 20;

/// Moves that are seen to at the same time at most.
pub const ORDERS_MAX: usize = 4_096;

/// How long a frame may take to the other node before it does not begin any more.
const NOT_AFTER: Duration = Duration::from_secs(30);

/// What became of frames and moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MoveStats {
    /// Moves away from here that were committed.
    pub committed: u64,
    /// Moves away from here that were aborted.
    pub aborted: u64,
    /// Daemons that came here.
    pub arrived: u64,
    /// Events that had to wait while a daemon stood still.
    pub queued: u64,
    /// Of these, shipped to the target.
    pub shipped: u64,
    /// Of these, processed here after all.
    pub thawed: u64,
    /// Of these, sent on.
    pub redirected: u64,
    /// Of these, those that wait.
    pub waiting: u64,
    /// Events that there was no room for: their senders try again.
    pub refused: u64,
    /// Events that were shipped to here, and taken in.
    pub taken_in: u64,
    /// Events that were shipped to here, and sent on, since another node owned by then.
    pub sent_on: u64,
    /// Frames that cannot be read.
    pub malformed: u64,
    /// Frames with signatures that do not fit.
    pub forged: u64,
    /// Frames for which there was no place.
    pub full: u64,
    /// Moves that somebody has to look at: long in doubt, or not known though they were committed.
    pub alarms: u64,
}

/// Why nothing is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BeginError {
    /// Source and target are one.
    #[error("source and target are the same node")]
    SameNode,
    /// The source does not own it.
    #[error("node {} owns it, in epoch {epoch}", node.node_id())]
    NotOwner {
        /// Who does.
        node: EntityId,
        /// In which epoch.
        epoch: u64,
    },
    /// The target is not a node of the mesh that is alive.
    #[error("the target is not there")]
    NoTarget,
    /// A move of it was ordered here, and is not over.
    #[error("a move of it is under way")]
    AlreadyMigrating,
    /// As many moves are under way as may be.
    #[error("as many moves are under way as may be")]
    Full,
    /// The node is closed.
    #[error("the node is closed")]
    Closed,
}

/// Whose write it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Source,
    Target,
    Order(MigrationId),
}

enum Item {
    Body(Delivered),
    Kept(EntityId, Role, u64, bool),
    Frozen(EntityId, MigrationId, Result<Box<Frost>, Reject>),
    Event(EntityId, Queued),
    Sent(EntityId, MigrationId, (Digest, u32, u64)),
    Opened(EntityId, chunks::Opened),
    Made(EntityId, Result<(), Reject>),
    Restored(EntityId, MigrationId, Result<Frozen, Reject>),
    Installed(EntityId, MigrationId, Result<u64, String>),
    Copied(EntityId, MigrationId, Result<Box<Copied>, Reject>),
    Held(EntityId, MigrationId, Result<(), Reject>),
    Fenced(Box<OwnershipRecord>),
    Begin(Arc<Move>, Box<Described>),
    /// To be sent now.
    Said(Vec<(EntityId, MoveFrame<'static>)>),
    Abort(MigrationId),
}

#[derive(Default)]
struct State {
    entries: HashMap<EntityId, Box<Entry>>,
    due: BTreeSet<(Duration, EntityId)>,
    orders: BTreeMap<MigrationId, Ordered>,
    stats: MoveStats,
}

type Call = Box<dyn FnOnce(&dyn Hands) + Send>;

/// What is to be done when no lock is held.
#[derive(Default)]
struct Work {
    calls: Vec<Call>,
    keeps: Vec<(EntityId, Role, u64, Vec<Write>)>,
    posts: Vec<(EntityId, MoveFrame<'static>)>,
    streams: Vec<(EntityId, Frame<'static>)>,
    seals: Vec<chunks::Seal>,
    opens: Vec<chunks::Open>,
    tells: Vec<Box<dyn FnOnce() + Send>>,
}

/// The moves of one node.
pub struct Moves {
    carrier: Carrier,
    node: EntityId,
    key: Arc<Keypair>,
    stores: Stores,
    ownership: Arc<Ownership>,
    began: Instant,
    hands: RwLock<Option<Weak<dyn Hands>>>,
    managers: RwLock<BTreeSet<EntityId>>,
    state: Mutex<State>,
    inbox: Mutex<Inbox<Item>>,
    asks: aside::Asks,
    place: OnceLock<Place>,
    keeping: Keeping,
    chunks: Chunks,
    closed: AtomicBool,
    malformed: AtomicU64,
    forged: AtomicU64,
    me: Weak<Self>,
}

impl Moves {
    /// Begins at a node that has others: its rows are read, and what they ask for is made durable.
    ///
    /// # Errors
    /// [`StoreError`]: they cannot be read, or that is not kept.
    pub fn join(
        carrier: Carrier,
        key: Arc<Keypair>,
        stores: Stores,
        ownership: Arc<Ownership>,
    ) -> Result<Arc<Self>, StoreError> {
        let moves = Arc::new_cyclic(|me: &Weak<Self>| Self {
            node: carrier.entity_id(),
            carrier,
            key,
            keeping: Keeping::new(Arc::clone(&stores), me.clone()),
            stores,
            ownership,
            began: Instant::now(),
            hands: RwLock::new(None),
            managers: RwLock::default(),
            state: Mutex::default(),
            inbox: Mutex::new(Inbox::new(INBOX_MAX, INBOX_BYTES_MAX)),
            asks: aside::Asks::default(),
            place: OnceLock::new(),
            chunks: Chunks::new(me.clone()),
            closed: AtomicBool::new(false),
            malformed: AtomicU64::new(0),
            forged: AtomicU64::new(0),
            me: me.clone(),
        });
        moves.recover()?;
        let told = moves.me.clone();
        moves
            .ownership
            .tell_of_records(Arc::new(move |record: &OwnershipRecord| {
                if let Some(moves) = told.upgrade() {
                    moves.put(Item::Fenced(Box::new(*record)), 0);
                }
            }));
        let inlet = Inlet(moves.me.clone());
        moves.carrier.attach(Kind::MOVE, Arc::new(inlet));
        Ok(moves)
    }

    /// Who does what a move does with daemons, in the place of whoever did so before. Until then nothing is moved from here or
    /// to here.
    pub fn serve(&self, hands: Weak<dyn Hands>) {
        let before = self.hands.write().replace(hands);
        drop(before);
        let has_rows = {
            let state = self.state.lock();
            !state.entries.is_empty() || !state.orders.is_empty()
        };
        if has_rows {
            self.wake();
        }
    }

    /// Lets these nodes, and no others, order moves of daemons of this one; it may itself, and so may where they were spawned.
    pub fn permit(&self, managers: BTreeSet<EntityId>) {
        let before = std::mem::replace(&mut *self.managers.write(), managers);
        drop(before);
    }

    /// Orders a move of what was described. What becomes of it the move tells.
    ///
    /// # Errors
    /// [`BeginError`]: nothing is moved.
    pub fn begin(&self, found: Described, target: EntityId, opts: MoveOpts) -> Result<Arc<Move>, BeginError> {
        let (source, entity) = (found.node, found.entity);
        if self.is_closed() {
            return Err(BeginError::Closed);
        }
        if source == target {
            return Err(BeginError::SameNode);
        }
        if found.owner != source || found.kind.is_empty() || found.epoch == 0 {
            return Err(BeginError::NotOwner {
                node: found.owner,
                epoch: found.epoch,
            });
        }
        if !self.is_there(&target) {
            return Err(BeginError::NoTarget);
        }
        let attempt = keys::random_bytes();
        let made = Move::new((entity, source, target), attempt, opts);
        {
            let mut state = self.state.lock();
            let of_it = |ordered: &&Ordered| ordered.is_of(&entity) && !ordered.is_over();
            if state.orders.values().any(|ordered| of_it(&ordered)) {
                return Err(BeginError::AlreadyMigrating);
            }
            if state.orders.len() >= ORDERS_MAX {
                return Err(BeginError::Full);
            }
            state
                .orders
                .insert(attempt, Ordered::reserved(Arc::clone(&made), found.clone()));
        }
        self.put(Item::Begin(Arc::clone(&made), Box::new(found)), 0);
        Ok(made)
    }

    /// The moves that were ordered here and are not over.
    #[must_use]
    pub fn moves(&self) -> Vec<Arc<Move>> {
        let state = self.state.lock();
        let open = state.orders.values().filter(|ordered| !ordered.is_over());
        open.map(|ordered| Arc::clone(ordered.desk())).collect()
    }

    /// The move of a daemon that was ordered here and is not over.
    #[must_use]
    pub fn of(&self, origin: Origin) -> Option<Arc<Move>> {
        let state = self.state.lock();
        let mut open = state.orders.values().filter(|ordered| !ordered.is_over());
        open.find(|ordered| ordered.desk().entity.origin() == origin)
            .map(|ordered| Arc::clone(ordered.desk()))
    }

    /// Asks for an end to a move; after its commit point nothing happens.
    pub fn abort(&self, unwanted: &Move, killed: bool) {
        unwanted.wants_end(killed);
        self.put(Item::Abort(unwanted.attempt()), 0);
    }

    /// What became of frames and moves.
    #[must_use]
    pub fn stats(&self) -> MoveStats {
        let state = self.state.lock();
        let mut stats = state.stats;
        state.entries.values().for_each(|entry| entry.count(&mut stats));
        drop(state);
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MoveStats {
            malformed: of(&self.malformed),
            forged: of(&self.forged),
            full: self.inbox.lock().refused(),
            ..stats
        }
    }

    /// Entities of whose moves something is in memory.
    #[must_use]
    pub fn known(&self) -> usize {
        self.state.lock().entries.len()
    }

    /// Ends everything of this process; rows stay. Does nothing the second time.
    pub fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let orders = std::mem::take(&mut self.state.lock().orders);
        for ordered in orders.values() {
            ordered.desk().close();
        }
        self.asks.close();
        if let Some(hands) = self.hands() {
            hands.close();
        }
        self.keeping.stop();
        self.chunks.stop();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire) || self.carrier.is_closed()
    }

    fn is_there(&self, node: &EntityId) -> bool {
        if *node == self.node {
            return true;
        }
        let peer = self.carrier.as_mesh().and_then(|mesh| mesh.peer(node.node_id()));
        peer.is_some_and(|peer| peer.entity == *node && peer.state != PeerState::Dead)
    }

    fn hands(&self) -> Option<Arc<dyn Hands>> {
        self.hands.read().as_ref().and_then(Weak::upgrade)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Reads all rows of moves, and has what they ask for kept.
    fn recover(&self) -> Result<(), StoreError> {
        let store = (self.stores)();
        let mut rows: BTreeMap<EntityId, Vec<(MigrationId, Row)>> = BTreeMap::new();
        resumption::each(&*store, Table::Moves, KeyRange::all(), |key, value| {
            if let Ok((entity, mid, item)) = Row::decode(key, value) {
                rows.entry(entity).or_default().push((mid, item));
            }
        })?;
        let mut writes = Vec::new();
        let mut state = self.state.lock();
        for (entity, items) in rows {
            let records = central::lineage(&*store, &entity)?;
            let recovered = move_known::recover(self.node, entity, &records, &items);
            writes.extend(recovered.writes.iter().cloned());
            for order in &recovered.ordered {
                state.orders.insert(order.mid, Ordered::recovered(order.clone()));
            }
            if recovered.unretired.is_some() || recovered.prepared.is_some() {
                let entry = Entry::new(self.node, entity, self.ownership.directory(), recovered);
                state.due.insert((Duration::ZERO, entity));
                state.entries.insert(entity, Box::new(entry.due_at(Duration::ZERO)));
            }
        }
        drop(state);
        if writes.is_empty() {
            return Ok(());
        }
        central::written(&self.stores, writes)
    }

    /// What is known of an entity, from the rows of the store.
    fn read(&self, entity: &EntityId) -> Result<Entry, StoreError> {
        let store = (self.stores)();
        let records = central::lineage(&*store, entity)?;
        let mut items = Vec::new();
        let range = KeyRange::beginning_with(entity.as_bytes());
        resumption::each(&*store, Table::Moves, range, |key, value| {
            if let Ok((_, mid, item)) = Row::decode(key, value) {
                items.push((mid, item));
            }
        })?;
        let mut recovered = move_known::recover(self.node, *entity, &records, &items);
        let forgotten = recovered.known.forget(clock::unix_ms());
        let writes: Vec<Write> = recovered.writes.drain(..).chain(forgotten).collect();
        if !writes.is_empty() {
            self.keeping.add((*entity, Role::Source, 0, writes));
        }
        Ok(Entry::new(self.node, *entity, self.ownership.directory(), recovered))
    }

    fn put(&self, item: Item, bytes: usize) -> bool {
        let mut inbox = self.inbox.lock();
        let is_in = match item {
            Item::Body(_) => inbox.offer(item, bytes),
            _ => {
                inbox.put(item);
                true
            }
        };
        drop(inbox);
        if is_in {
            self.wake();
        }
        is_in
    }

    fn wake(&self) {
        self.place().wake();
    }

    fn place(&self) -> &Place {
        self.place.get_or_init(|| {
            let turn: Weak<dyn Turn> = self.me.clone();
            Reactor::of_process().place(turn).0
        })
    }

    /// Does what may only be done when no lock is held.
    fn carry_out(&self, work: Work) {
        let Work {
            calls,
            keeps,
            posts,
            streams,
            seals,
            opens,
            tells,
        } = work;
        if let Some(hands) = self.hands() {
            calls.into_iter().for_each(|call| call(&*hands));
        }
        for keep in keeps {
            self.keeping.add(keep);
        }
        for (to, frame) in posts {
            // What does not arrive is said again.
            let _ = self.carrier.post(&to, Kind::MOVE, &frame.to_bytes());
        }
        let mut parcels: BTreeMap<EntityId, Packer> = BTreeMap::new();
        for (to, frame) in streams {
            parcels.entry(to).or_default().put(|out| out.extend(frame.to_bytes()));
        }
        for (to, parcel) in parcels {
            let _ = self.carrier.post(&to, Kind::LINKED, parcel.body());
        }
        seals.into_iter().for_each(|seal| self.chunks.seal(seal));
        opens.into_iter().for_each(|open| self.chunks.open(open));
        tells.into_iter().for_each(|tell| tell());
    }

    /// Has an entity's next turn noted.
    fn note_due(state: &mut State, entity: &EntityId) {
        let Some(entry) = state.entries.get_mut(entity) else {
            return;
        };
        let due = entry.wake_at();
        let is_idle_talk = entry.is_idle_talk();
        if let Some(before) = entry.set_due(due) {
            state.due.remove(&(before, *entity));
        }
        if is_idle_talk {
            state.entries.remove(entity);
        }
        state.due.extend(due.map(|at| (at, *entity)));
    }

    /// What an item is about, if that has an entry.
    fn take_in(&self, item: Item, work: &mut Work) {
        match item {
            Item::Body(delivered) => self.body(&delivered, work),
            Item::Begin(desk, found) => self.begun(&desk, &found, work),
            Item::Said(said) => work.posts.extend(said),
            Item::Abort(mid) => self.order_step(mid, meshos_core::move_order::Signal::Abort, work),
            Item::Kept(_, Role::Order(mid), ticket, is_kept) => {
                let signal = if is_kept {
                    meshos_core::move_order::Signal::Kept(ticket)
                } else {
                    meshos_core::move_order::Signal::Failed(ticket)
                };
                self.order_step(mid, signal, work);
            }
            Item::Kept(entity, role, ticket, is_kept) => {
                self.with(&entity, work, |entry, scene| {
                    entry.written(role == Role::Source, ticket, is_kept, scene);
                });
            }
            Item::Frozen(entity, mid, frost) => {
                self.with(&entity, work, |entry, scene| entry.frozen(mid, frost, scene));
            }
            Item::Event(entity, queued) => {
                self.with(&entity, work, |entry, scene| entry.event(queued, scene));
            }
            Item::Sent(entity, mid, sent) => {
                self.with(&entity, work, |entry, scene| entry.sent(mid, sent, scene));
            }
            Item::Opened(entity, opened) => {
                self.with(&entity, work, |entry, scene| entry.opened(opened, scene));
            }
            Item::Made(entity, made) => self.made(&entity, made, work),
            Item::Restored(entity, mid, restored) => {
                self.with(&entity, work, |entry, scene| entry.restored(mid, restored, scene));
            }
            Item::Installed(entity, mid, installed) => {
                self.with(&entity, work, |entry, scene| entry.installed(mid, &installed, scene));
            }
            Item::Copied(entity, mid, copied) => {
                self.with(&entity, work, |entry, scene| entry.copied(mid, copied, scene));
            }
            Item::Held(entity, mid, held) => {
                self.with(&entity, work, |entry, scene| entry.held(mid, held, scene));
            }
            Item::Fenced(record) => {
                self.with(&record.entity(), work, |entry, scene| entry.fenced(&record, scene));
            }
        }
    }

    /// Does something with an entry that is there.
    fn with(&self, entity: &EntityId, work: &mut Work, body: impl FnOnce(&mut Entry, &mut entry::Scene<'_>)) {
        let mut state = self.state.lock();
        let State { entries, stats, .. } = &mut *state;
        if let Some(entry) = entries.get_mut(entity) {
            let mut scene = entry::Scene {
                moves: self,
                now: self.began.elapsed(),
                work,
                stats,
            };
            body(entry, &mut scene);
            Self::note_due(&mut state, entity);
        }
    }

    /// What fell due.
    fn timers(&self, work: &mut Work) -> Option<Duration> {
        let now = self.now();
        loop {
            let due = self.state.lock().due.first().copied();
            let Some((at, entity)) = due.filter(|(at, _)| *at <= now) else {
                break;
            };
            self.state.lock().due.remove(&(at, entity));
            self.with(&entity, work, |entry, scene| {
                entry.set_due(None);
                entry.timer(scene);
            });
        }
        let orders = self.order_timers(now, work);
        let entries = self.state.lock().due.first().map(|(at, _)| *at);
        entries.into_iter().chain(orders).min()
    }

    /// Whether a node may order a move of an entity whose first record this is.
    fn may_order(&self, node: &EntityId, first: Option<&OwnershipRecord>) -> bool {
        let spawned_there = first.is_some_and(|record| record.epoch() == 1 && record.node() == *node);
        *node == self.node || spawned_there || self.managers.read().contains(node)
    }
}

impl Turn for Moves {
    fn turn(&self) -> Option<Instant> {
        if self.is_closed() {
            self.close();
            return None;
        }
        let items = self.inbox.lock().take();
        let mut work = Work::default();
        for item in items {
            self.take_in(item, &mut work);
        }
        let due = self.timers(&mut work);
        self.carry_out(work);
        due.and_then(|at| self.began.checked_add(at))
    }
}

impl Drop for Moves {
    fn drop(&mut self) {
        self.keeping.stop();
        self.chunks.stop();
    }
}

/// What a carrier holds: it does not keep the node alive.
struct Inlet(Weak<Moves>);

impl Take for Inlet {
    fn take(&self, delivered: Delivered) -> bool {
        let bytes = delivered.body().len();
        self.0
            .upgrade()
            .is_some_and(|moves| moves.put(Item::Body(delivered), bytes))
    }
}

/// Whether a body is read before a node has daemons.
fn needs_no_hands(body: &Body<'_>) -> bool {
    matches!(body, Body::Prepare(_) | Body::Aside(_))
}
