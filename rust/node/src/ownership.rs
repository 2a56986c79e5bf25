//! Which daemons a node may run: its owners, their leases, and the directory, if it is at this node.
//!
//! A node that is alone has none of this. In a mesh, whoever spawns a daemon makes a *claim* first, on its own thread: the
//! directory is asked, and a record is to be kept together with the daemon. Once it is kept the directory is asked for a
//! lease; then the daemon runs, and its *hold* renews the lease in turns on the thread of all meshes.
//!
//! Invariants
//! * Every frame that arrives is judged, or refused for one reason and counted. Only the directory is heard, and only its
//!   node hears requests.
//! * No lock is held while a frame is sent, the store works, or somebody is told.
//! * Requests and answers of one turn to one node are one body.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use meshos_core::certificate::Reason;
use meshos_core::directory::DirectoryConfig;
use meshos_core::finder::Known;
use meshos_core::frame::Kind;
use meshos_core::id::{EntityId, Origin};
use meshos_core::identity::Keypair;
use meshos_core::owner::{Action, Answer, Owner, OwnerConfig, Phase, Refused, Signal};
use meshos_core::ownership::{Lineage, OwnershipRecord};
use meshos_core::ownership_frame::{Body, OwnershipFrame};
use meshos_core::parcel::{self, Packer};
use meshos_core::presence::PeerState;
use meshos_core::rows::{Table, Write, entity_key};
use meshos_core::store::StoreError;

use crate::carrier::Carrier;
use crate::clock::Deadline;
use crate::keeping::Stores;
use crate::keys;
use crate::lane::{Job, Lanes};
use crate::lease::{Lease, Unleased};
use crate::mesh::{Delivered, PeerWaitError, Take};
use crate::ownership_central::{self as central, Central, Posts, Told};
use crate::reactor::{Place, Reactor, Turn};
use crate::router::Guide;
use crate::sync::{Condvar, Mutex};
use crate::verified::Verified;

/// How long a claim waits for the directory.
pub const CLAIM_WAIT: Duration = Duration::from_secs(5);

/// Bodies that wait for a turn at most.
const INBOX_MAX: usize = 16_384;
/// Bytes of them at most; one always has a place.
const INBOX_BYTES_MAX: usize = 64 << 20;
/// Bytes after which a body is sent though more goes to the same node.
const BODY_BYTES: usize = 1 << 20;
/// Renewals that fall due so close to each other are asked for together.
const TOGETHER: Duration = Duration::from_millis(20);
/// Records of others that are remembered at most.
const HEARD_MAX: usize = 65_536;
/// Lineages of takeovers for this node that wait until it spawns at most.
const OFFERED_MAX: usize = 1024;
/// Requests of one owner are numbered below this; the next owner of the node goes on above.
const NUMBERS: u64 = 1 << 32;

/// Options of ownership.
#[derive(Debug, Clone, Default)]
pub struct OwnershipConfig {
    /// Of owners.
    pub owner: OwnerConfig,
    /// Of the directory.
    pub directory: DirectoryConfig,
}

/// Why a node does not get what it claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// Another node owns it, or this one does and has lost what it did.
    NotOwner {
        /// Who owns it.
        node: EntityId,
        /// In which epoch.
        epoch: u64,
    },
    /// The directory looks after as many daemons as it may.
    Full,
    /// The directory was silent for too long.
    Silent,
    /// The mesh is closed.
    Closed,
    /// Whoever waited does not want to any more.
    Interrupted,
}

/// What is claimed.
#[derive(Debug, Clone)]
pub enum Wish {
    /// An entity that the directory does not know: the whole lineage, of which the last record names this node.
    Begin(Vec<OwnershipRecord>),
    /// One that this node owned before, by the lineage that its store has; with the next record, if what it did is lost.
    GoOn(Vec<OwnershipRecord>, Option<Box<OwnershipRecord>>),
    /// One that this node was given by a takeover.
    Install(Vec<OwnershipRecord>),
}

/// What became of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnershipStats {
    /// Daemons whose leases this node renews.
    pub held: u64,
    /// Leases that ran out, and came back.
    pub lapses: u64,
    /// Daemons that were stopped since another node owns them.
    pub fenced: u64,
    /// Messages that cannot be read.
    pub refused_malformed: u64,
    /// Messages of nodes that have no say.
    pub refused_stranger: u64,
    /// Messages with signatures that do not fit.
    pub refused_forged: u64,
    /// Answers that came late or twice.
    pub late: u64,
    /// What became of requests at the directory, where it is.
    pub directory: Option<meshos_core::directory::Counters>,
}

/// Hears that another node owns in a later term. It is short and never waits.
pub type Fenced = Arc<dyn Fn(EntityId, u64) + Send + Sync>;

/// Hears of each record of another node that was kept here. It is short and never waits.
pub type Recorded = Arc<dyn Fn(&OwnershipRecord) + Send + Sync>;

enum Item {
    Body(Delivered),
    /// Of the directory.
    Kept(Vec<u64>, bool),
    /// A record of another node that an owner keeps.
    Noted(EntityId, u64, u64, bool),
}

#[derive(Default)]
struct Inbox {
    items: VecDeque<Item>,
    bytes: usize,
}

/// How far a claim is.
#[derive(Debug)]
enum Stage {
    Waiting,
    /// This is to be kept under this number.
    Keep(u64, Box<OwnershipRecord>),
    Active,
    Denied(Denied),
}

struct Desk {
    stage: Mutex<Stage>,
    bell: Condvar,
}

struct Entry {
    /// Which owner of this node it is; later ones have higher numbers.
    number: u64,
    owner: Owner,
    lease: Arc<Lease>,
    desk: Arc<Desk>,
    fenced: Option<Fenced>,
    /// What is registered, or what the store has.
    lineage: Vec<OwnershipRecord>,
    due: Option<Duration>,
}

#[derive(Default)]
struct State {
    owners: HashMap<EntityId, Entry>,
    due: BTreeSet<(Duration, EntityId)>,
    /// The highest records heard of, by handle.
    heard: HashMap<Origin, OwnershipRecord>,
    offered: HashMap<EntityId, Vec<OwnershipRecord>>,
    made: u64,
    lapses: u64,
    late: u64,
    fenced: u64,
}

/// What is to be done when no lock is held.
#[derive(Default)]
struct Work {
    posts: Posts,
    notes: Vec<(EntityId, u64, u64, Vec<Write>)>,
    told: Vec<(Fenced, EntityId, u64)>,
}

/// Which daemons one node may run.
pub struct Ownership {
    carrier: Carrier,
    node: EntityId,
    directory: EntityId,
    run: u64,
    began: Instant,
    config: OwnerConfig,
    stores: Stores,
    central: Option<Central>,
    verified: Arc<Verified>,
    state: Mutex<State>,
    inbox: Mutex<Inbox>,
    place: OnceLock<Place>,
    lanes: Lanes,
    malformed: AtomicU64,
    stranger: AtomicU64,
    forged: AtomicU64,
    recorded: OnceLock<Recorded>,
    me: Weak<Self>,
}

impl Ownership {
    /// Begins at a node. `directory` is the node that has the directory; if it is this one, its rows are read.
    ///
    /// # Errors
    /// [`StoreError`]: the rows of the directory cannot be read.
    pub fn join(
        carrier: Carrier,
        key: Arc<Keypair>,
        stores: Stores,
        directory: EntityId,
        config: OwnershipConfig,
    ) -> Result<Arc<Self>, StoreError> {
        let (node, began) = (carrier.entity_id(), Instant::now());
        let verified: Arc<Verified> = Arc::default();
        let central = if node == directory {
            let known = Arc::clone(&verified);
            Some(Central::open(key, Arc::clone(&stores), known, began, config.directory)?)
        } else {
            None
        };
        let run = carrier.as_mesh().map_or_else(keys::random_u64, crate::mesh::Mesh::run);
        let made = Arc::new_cyclic(|me: &Weak<Self>| Self {
            carrier,
            node,
            directory,
            run,
            began,
            config: config.owner,
            stores,
            central,
            verified,
            state: Mutex::default(),
            inbox: Mutex::default(),
            place: OnceLock::new(),
            lanes: Lanes::new("meshos-owner", 1, |body| body()),
            malformed: AtomicU64::new(0),
            stranger: AtomicU64::new(0),
            forged: AtomicU64::new(0),
            recorded: OnceLock::new(),
            me: me.clone(),
        });
        if let Some(central) = &made.central {
            let told: Weak<dyn Told> = made.me.clone();
            central.tell(told);
        }
        made.carrier.attach(Kind::OWNERSHIP, Arc::new(Inlet(made.me.clone())));
        Ok(made)
    }

    /// This node.
    #[must_use]
    pub const fn node(&self) -> EntityId {
        self.node
    }

    /// The node that has the directory.
    #[must_use]
    pub const fn directory(&self) -> EntityId {
        self.directory
    }

    /// The directory, if this node has it.
    #[must_use]
    pub const fn central(&self) -> Option<&Central> {
        self.central.as_ref()
    }

    /// The records that this node knows to be signed as they say.
    #[must_use]
    pub const fn verified(&self) -> &Arc<Verified> {
        &self.verified
    }

    /// The highest record of the entity with that handle, as far as this node knows.
    #[must_use]
    pub fn record_of(&self, origin: Origin) -> Option<OwnershipRecord> {
        let heard = self.state.lock().heard.get(&origin).copied();
        let listed = self.central.as_ref().and_then(|central| central.owner_of(origin));
        heard.into_iter().chain(listed).max_by_key(OwnershipRecord::epoch)
    }

    /// What became of requests.
    #[must_use]
    pub fn stats(&self) -> OwnershipStats {
        let state = self.state.lock();
        let active = state.owners.values();
        let (held, lapses, late) = active.fold((0, state.lapses, state.late), |(held, lapses, late), entry| {
            let counters = entry.owner.counters();
            (held + 1, lapses + counters.lapses, late + counters.late)
        });
        OwnershipStats {
            held,
            lapses,
            fenced: state.fenced,
            refused_malformed: self.malformed.load(Ordering::Relaxed),
            refused_stranger: self.stranger.load(Ordering::Relaxed),
            refused_forged: self.forged.load(Ordering::Relaxed),
            late,
            directory: self.central.as_ref().map(Central::counters),
        }
    }

    /// The lineage of an entity by which this node may act: what its store has, as far as it was kept with the daemon. The
    /// directory's node has records there that name it and were not adopted: those have no certificate beside them.
    ///
    /// # Errors
    /// [`StoreError`]: the store cannot be read.
    pub fn lineage(&self, entity: &EntityId) -> Result<Vec<OwnershipRecord>, StoreError> {
        let store = (self.stores)();
        let mut found = central::lineage(&*store, entity)?;
        while let Some(last) = found.last()
            && last.node() == self.node
            && store
                .get(Table::Certificates, &entity_key(entity, [last.epoch()]))?
                .is_none()
        {
            found.pop();
        }
        Ok(found)
    }

    /// The lineage of an entity under whose last record this node runs it, as it was claimed.
    #[must_use]
    pub fn active_lineage(&self, entity: &EntityId) -> Option<Vec<OwnershipRecord>> {
        let state = self.state.lock();
        let entry = state.owners.get(entity)?;
        let is_whole = entry.owner.active() == entry.lineage.last();
        is_whole.then(|| entry.lineage.clone())
    }

    /// The record under which this node owns an entity, and its epoch, if it may let the entity take events now.
    #[must_use]
    pub fn owned(&self, entity: &EntityId) -> Option<(u64, OwnershipRecord)> {
        let state = self.state.lock();
        let owner = &state.owners.get(entity)?.owner;
        let active = owner.active().filter(|_| owner.may_process(self.began.elapsed()))?;
        Some((active.epoch(), *active))
    }

    /// Takes in a record whose signatures were checked. What this node holds under a lower one is fenced at once. It is
    /// stopped too, unless this node gave it away itself, and so stops it itself.
    pub fn heard(&self, record: &OwnershipRecord) {
        let entity = record.entity();
        let mut work = Work::default();
        let mut state = self.state.lock();
        if record.reason() == Reason::Move
            && record.source == self.node
            && let Some(entry) = state.owners.get_mut(&entity)
        {
            entry.fenced = None;
        }
        self.step(&mut state, &entity, Signal::Heard(*record), &mut work);
        hear(&mut state.heard, *record);
        drop(state);
        self.carry_out_now(work);
    }

    /// Has this told of records of other nodes that are kept here; the first counts.
    pub fn tell_of_records(&self, recorded: Recorded) {
        let _ = self.recorded.set(recorded);
    }

    /// Knows a record that the store has, so that who asks for its entity is told where it is.
    pub fn learn(&self, record: &OwnershipRecord) {
        hear(&mut self.state.lock().heard, *record);
    }

    /// The lineage of a takeover that gives an entity to this node, and was not taken up yet.
    #[must_use]
    pub fn offered(&self, entity: &EntityId) -> Option<Vec<OwnershipRecord>> {
        self.state.lock().offered.get(entity).cloned()
    }

    /// Makes the rows of a record durable that is kept beside no journal, waiting on this thread.
    ///
    /// # Errors
    /// [`StoreError`]: they are not kept.
    pub fn keep(&self, records: &[OwnershipRecord]) -> Result<(), StoreError> {
        central::written(&self.stores, records.iter().flat_map(rows).collect())
    }

    /// Claims an entity, waiting on this thread: until something is to be kept, or this node may go on.
    ///
    /// # Errors
    /// [`Denied`]: nothing happened, except that the directory may have registered it for this node.
    pub fn claim(
        &self,
        wish: Wish,
        deadline: Deadline,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Claim, Denied> {
        self.reach_directory(deadline, interrupted)?;
        let (signal, lineage) = match wish {
            Wish::Begin(lineage) => (lineage.last().copied().map(Signal::Spawn), lineage),
            Wish::GoOn(lineage, restart) => {
                let record = lineage.last().copied();
                (record.map(|record| Signal::Recover { record, restart }), lineage)
            }
            Wish::Install(lineage) => {
                let (record, run) = (lineage.last().copied(), self.run);
                (record.map(|record| Signal::Install { run, record }), lineage)
            }
        };
        let (Some(signal), Some(last)) = (signal, lineage.last()) else {
            return Err(Denied::Silent);
        };
        let entity = last.entity();
        let lease = Arc::new(Lease::new(self.began, self.directory));
        let desk = Arc::new(Desk {
            stage: Mutex::new(Stage::Waiting),
            bell: Condvar::new(),
        });
        let mut work = Work::default();
        let mut state = self.state.lock();
        state.made += 1;
        let number = state.made;
        let config = OwnerConfig {
            seed: keys::random_u64(),
            ..self.config
        };
        let owner = Owner::new(self.node, self.run, config).numbered_after(number * NUMBERS);
        let entry = Entry {
            number,
            owner,
            lease: Arc::clone(&lease),
            desk: Arc::clone(&desk),
            fenced: None,
            lineage,
            due: None,
        };
        self.forget(&mut state, &entity);
        state.owners.insert(entity, entry);
        self.step(&mut state, &entity, signal, &mut work);
        drop(state);
        // Where the directory is near, its answer is there then.
        Reactor::of_process().tell(|| self.carry_out_now(work));
        let claim = Claim {
            ownership: self.me.upgrade().ok_or(Denied::Closed)?,
            entity,
            number,
            lease,
            desk,
            is_held: false,
        };
        claim.wait(deadline, interrupted, |stage| matches!(stage, Stage::Waiting))?;
        Ok(claim)
    }

    /// Waits until the directory's node is there.
    fn reach_directory(&self, deadline: Deadline, interrupted: &mut dyn FnMut() -> bool) -> Result<(), Denied> {
        if self.carrier.is_closed() {
            return Err(Denied::Closed);
        }
        let Some(mesh) = self.carrier.as_mesh().filter(|_| self.node != self.directory) else {
            return Ok(());
        };
        let directory = self.directory.node_id();
        if mesh.peer(directory).is_some_and(|peer| peer.state != PeerState::Dead) {
            return Ok(());
        }
        match mesh.wait_for_peer(directory, deadline, interrupted) {
            Ok(_) => Ok(()),
            Err(PeerWaitError::Timeout) => Err(Denied::Silent),
            Err(PeerWaitError::Closed) => Err(Denied::Closed),
            Err(PeerWaitError::Interrupted) => Err(Denied::Interrupted),
        }
    }

    /// Ends the owner of an entity; what it counted and knew stays.
    fn forget(&self, state: &mut State, entity: &EntityId) {
        if let Some(entry) = state.owners.remove(entity) {
            let counters = entry.owner.counters();
            state.lapses += counters.lapses;
            state.late += counters.late;
            if let Some(due) = entry.due {
                state.due.remove(&(due, *entity));
            }
        }
    }

    /// Ends this very owner.
    fn release(&self, entity: &EntityId, number: u64) {
        let mut state = self.state.lock();
        if state.owners.get(entity).is_some_and(|entry| entry.number == number) {
            self.forget(&mut state, entity);
        }
    }

    fn step(&self, state: &mut State, entity: &EntityId, signal: Signal, work: &mut Work) {
        let now = self.began.elapsed();
        let mut actions = Vec::new();
        let Some(entry) = state.owners.get_mut(entity) else {
            return;
        };
        let known = entry.owner.fence().map_or(0, OwnershipRecord::epoch);
        entry.owner.step(now, signal, &mut actions);
        for action in actions {
            match action {
                Action::Send(frame) => work.posts.push((self.directory, frame)),
                Action::RegisterLineage(ask) => {
                    let body = Body::Register(entry.lineage.clone());
                    work.posts.push((self.directory, OwnershipFrame { ask, body }));
                }
                Action::Keep { ticket, record, .. } if record.node() == self.node => {
                    entry.desk.say(Stage::Keep(ticket, Box::new(record)));
                }
                Action::Keep { ticket, writes, .. } => work.notes.push((*entity, entry.number, ticket, writes)),
                Action::Activate { .. } => entry.desk.say(Stage::Active),
                Action::Resume | Action::Stop => {}
                Action::Refused(Refused::DirectoryFull | Refused::Spawning) => {
                    entry.desk.say(Stage::Denied(Denied::Full));
                }
                Action::Refused(Refused::AlreadyOwned { node, epoch }) => {
                    entry.desk.say(Stage::Denied(Denied::NotOwner { node, epoch }));
                }
            }
        }
        if let Some(active) = entry.owner.active() {
            entry
                .lease
                .renew(active.epoch(), entry.owner.valid_until().unwrap_or_default());
        }
        let news = entry.owner.fence().filter(|fence| fence.epoch() > known).copied();
        if entry.owner.phase() == Phase::Fenced
            && let Some(record) = entry.owner.fence()
        {
            let (node, epoch) = (record.node(), record.epoch());
            if entry.lease.fenced().is_none() {
                entry.lease.fence(node, epoch);
                entry.desk.say(Stage::Denied(Denied::NotOwner { node, epoch }));
                if let Some(fenced) = entry.fenced.take() {
                    state.fenced += 1;
                    work.told.push((fenced, node, epoch));
                }
            }
        }
        let due = entry.owner.wake_at();
        if due != entry.due {
            let before = std::mem::replace(&mut entry.due, due);
            state.due.extend(due.map(|at| (at, *entity)));
            if let Some(before) = before {
                state.due.remove(&(before, *entity));
            }
        }
        if let Some(record) = news {
            hear(&mut state.heard, record);
        }
    }

    /// Does what may only be done when no lock is held.
    fn carry_out(&self, work: Work) {
        let Work { posts, notes, told } = work;
        for (fenced, node, epoch) in told {
            fenced(node, epoch);
        }
        for (entity, number, ticket, writes) in notes {
            let note = Note {
                ownership: self.me.clone(),
                entity,
                number,
                ticket,
                stores: Arc::clone(&self.stores),
                writes: Mutex::new(writes),
            };
            self.lanes.submit(Arc::new(note));
        }
        let mut bodies: BTreeMap<EntityId, Packer> = BTreeMap::new();
        for (to, mut frame) in posts {
            if matches!(frame.body, Body::Install { .. }) {
                // Nobody is told who is not there.
                let Some(run) = self.run_of(&to) else { continue };
                frame.ask.run = run;
            }
            let packer = bodies.entry(to).or_default();
            packer.put(|out| out.extend(frame.to_bytes()));
            if packer.len() >= BODY_BYTES {
                self.post(&to, packer);
            }
        }
        for (to, mut packer) in bodies {
            self.post(&to, &mut packer);
        }
    }

    fn post(&self, to: &EntityId, packer: &mut Packer) {
        if !packer.is_empty() {
            // What does not arrive is asked again.
            let _ = self.carrier.post(to, Kind::OWNERSHIP, packer.body());
            packer.clear();
        }
    }

    /// In which run a node is.
    fn run_of(&self, node: &EntityId) -> Option<u64> {
        if *node == self.node {
            return Some(self.run);
        }
        let peer = self.carrier.as_mesh()?.peer(node.node_id())?;
        Some(peer.beat.run)
    }

    /// Carries out what was decided outside of a turn, and asks for one when the next thing is due.
    fn carry_out_now(&self, work: Work) {
        self.carry_out(work);
        let due = self.state.lock().due.first().map(|(at, _)| *at);
        let due = due.map(|at| at.max(self.began.elapsed() + TOGETHER));
        if let Some(at) = due.and_then(|at| self.began.checked_add(at)) {
            self.place().wake_by(at);
        }
    }

    fn place(&self) -> &Place {
        self.place.get_or_init(|| {
            let turn: Weak<dyn Turn> = self.me.clone();
            Reactor::of_process().place(turn).0
        })
    }

    fn put(&self, item: Item, bytes: usize) -> bool {
        let mut inbox = self.inbox.lock();
        let is_bounded = matches!(item, Item::Body(_));
        let has_place = inbox.items.len() < INBOX_MAX && inbox.bytes + bytes <= INBOX_BYTES_MAX;
        if is_bounded && !has_place && !inbox.items.is_empty() {
            return false;
        }
        inbox.bytes += bytes;
        inbox.items.push_back(item);
        drop(inbox);
        self.place().wake();
        true
    }

    fn body(&self, delivered: &Delivered, work: &mut Work) {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        let Ok(messages) = parcel::open(delivered.body()) else {
            count(&self.malformed);
            return;
        };
        for message in messages {
            let Some(frame) = message.ok().and_then(|message| OwnershipFrame::decode(message).ok()) else {
                count(&self.malformed);
                return;
            };
            let is_request = matches!(frame.body, Body::Register(_) | Body::Renew(_));
            let judged = match &self.central {
                Some(central) if is_request => central.hear(delivered.from, frame, &mut work.posts),
                _ if is_request || delivered.from != self.directory => {
                    count(&self.stranger);
                    continue;
                }
                _ => self.answer(frame, work),
            };
            if judged.is_err() {
                count(&self.forged);
            }
        }
    }

    /// Takes in what the directory says. `Err`: a signature does not fit.
    fn answer(&self, frame: OwnershipFrame, work: &mut Work) -> Result<(), ()> {
        let (ask, entity) = (frame.ask, frame.entity());
        let signal = match frame.body {
            Body::Registered { epoch, .. } => Signal::Answer {
                ask,
                answer: Answer::Registered { epoch },
            },
            Body::LeaseOk { epoch, lease_ms, .. } => {
                let lease = Duration::from_millis(u64::from(lease_ms));
                Signal::Answer {
                    ask,
                    answer: Answer::LeaseOk { epoch, lease },
                }
            }
            Body::Unregistered { reason, .. } => Signal::Answer {
                ask,
                answer: Answer::Unregistered(reason),
            },
            Body::Higher(record) => {
                if !self.verified.fits(&record) {
                    return Err(());
                }
                Signal::Higher { ask, record }
            }
            Body::Install { lineage, .. } => return self.install(ask.run, &entity, lineage, work),
            Body::Register(_) | Body::Renew(_) => return Ok(()),
        };
        self.step(&mut self.state.lock(), &entity, signal, work);
        Ok(())
    }

    /// Takes in that an entity is this node's. It is adopted when it is spawned here, with its state.
    fn install(&self, run: u64, entity: &EntityId, lineage: Vec<OwnershipRecord>, work: &mut Work) -> Result<(), ()> {
        let kept = || central::lineage(&*(self.stores)(), entity).unwrap_or_default();
        let lineage = self
            .verified
            .lineage(entity, lineage, &[self.directory], kept)
            .ok_or(())?;
        let record = *lineage.highest();
        let mut state = self.state.lock();
        if record.node() != self.node || run != self.run {
            state.late += 1;
            return Ok(());
        }
        match state.owners.get(entity).and_then(|entry| entry.owner.fence()) {
            // It is adopted, or is being: the directory hears of it.
            Some(known) if *known == record && !state.offered.contains_key(entity) => {
                self.step(&mut state, entity, Signal::Install { run, record }, work);
            }
            Some(known) if known.epoch() < record.epoch() => {
                self.step(&mut state, entity, Signal::Heard(record), work);
                offer(&mut state, &lineage);
            }
            Some(_) => {}
            None => offer(&mut state, &lineage),
        }
        hear(&mut state.heard, record);
        Ok(())
    }

    /// What fell due.
    fn timers(&self, work: &mut Work) -> Option<Duration> {
        let now = self.began.elapsed();
        let mut state = self.state.lock();
        while let Some((_, entity)) = state.due.first().copied().filter(|(at, _)| *at <= now) {
            let before = state.due.first().copied();
            self.step(&mut state, &entity, Signal::Timer, work);
            if state.due.first().copied() == before {
                // It has nothing to do, and is not asked again.
                state.due.pop_first();
                if let Some(entry) = state.owners.get_mut(&entity) {
                    entry.due = None;
                }
            }
        }
        let first = state.due.first().map(|(at, _)| *at)?;
        Some(first.max(now + TOGETHER))
    }
}

impl Turn for Ownership {
    fn turn(&self) -> Option<Instant> {
        if self.carrier.is_closed() {
            self.end();
            return None;
        }
        let items = {
            let mut inbox = self.inbox.lock();
            inbox.bytes = 0;
            std::mem::take(&mut inbox.items)
        };
        let mut work = Work::default();
        for item in items {
            match item {
                Item::Body(delivered) => self.body(&delivered, &mut work),
                Item::Kept(tickets, is_kept) => {
                    if let Some(central) = &self.central {
                        central.kept(tickets, is_kept, &mut work.posts);
                    }
                }
                Item::Noted(entity, number, ticket, is_kept) => self.noted(entity, number, ticket, is_kept, &mut work),
            }
        }
        let owners = self.timers(&mut work);
        let listed = self.central.as_ref().and_then(|central| central.timer(&mut work.posts));
        self.carry_out(work);
        let due = owners.into_iter().chain(listed).min()?;
        self.began.checked_add(due)
    }
}

impl Ownership {
    /// A record of another node is kept here, or is not known to be.
    fn noted(&self, entity: EntityId, number: u64, ticket: u64, is_kept: bool, work: &mut Work) {
        let signal = if is_kept {
            Signal::Kept(ticket)
        } else {
            Signal::Failed(ticket)
        };
        let mut state = self.state.lock();
        if state.owners.get(&entity).is_none_or(|entry| entry.number != number) {
            return;
        }
        self.step(&mut state, &entity, signal, work);
        let record = state.owners.get(&entity).and_then(|entry| entry.owner.fence().copied());
        if is_kept {
            // There is nothing more to do for it.
            self.forget(&mut state, &entity);
        }
        drop(state);
        if let (true, Some(record), Some(recorded)) = (is_kept, record, self.recorded.get()) {
            recorded(&record);
        }
    }

    /// Tells everybody who waits that nothing comes any more.
    fn end(&self) {
        let state = self.state.lock();
        for entry in state.owners.values() {
            let mut stage = entry.desk.stage.lock();
            if matches!(*stage, Stage::Waiting) {
                *stage = Stage::Denied(Denied::Closed);
                drop(stage);
                entry.desk.bell.notify_all();
            }
        }
        drop(state);
        if let Some(central) = &self.central {
            central.close();
        }
        self.lanes.stop(Duration::ZERO);
    }

    /// Has everybody who waits told that the mesh is closed, if it is.
    pub fn closed(&self) {
        if self.carrier.is_closed() {
            self.end();
        }
    }
}

impl Guide for Ownership {
    /// Who has it now that it was taken over or moved. Where it was spawned its node says itself that it is there.
    fn owner_of(&self, origin: Origin) -> Option<Known> {
        let record = self.record_of(origin)?;
        let is_handed_on = matches!(record.reason(), Reason::Move | Reason::Takeover);
        (is_handed_on && record.node() != self.node).then(|| Known {
            entity: record.entity(),
            node: record.node(),
            epoch: record.epoch(),
        })
    }

    fn handed_on(&self, origin: Origin) -> Option<Known> {
        let record = self.record_of(origin)?;
        let is_given = record.reason() == Reason::Move && record.source == self.node && record.node() != self.node;
        is_given.then(|| Known {
            entity: record.entity(),
            node: record.node(),
            epoch: record.epoch(),
        })
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        self.lanes.stop(Duration::ZERO);
    }
}

impl Told for Ownership {
    fn kept(&self, tickets: Vec<u64>, is_kept: bool) {
        self.put(Item::Kept(tickets, is_kept), 0);
    }
}

/// Where bodies come in.
struct Inlet(Weak<Ownership>);

impl Take for Inlet {
    fn take(&self, delivered: Delivered) -> bool {
        let bytes = delivered.body().len();
        self.0
            .upgrade()
            .is_some_and(|ownership| ownership.put(Item::Body(delivered), bytes))
    }
}

/// Keeps a record of another node.
struct Note {
    ownership: Weak<Ownership>,
    entity: EntityId,
    number: u64,
    ticket: u64,
    stores: Stores,
    writes: Mutex<Vec<Write>>,
}

impl Job for Note {
    fn run(self: Arc<Self>) {
        let writes = std::mem::take(&mut *self.writes.lock());
        let is_kept = central::written(&self.stores, writes).is_ok();
        if let Some(ownership) = self.ownership.upgrade() {
            ownership.put(Item::Noted(self.entity, self.number, self.ticket, is_kept), 0);
        }
    }
}

impl Desk {
    fn say(&self, stage: Stage) {
        *self.stage.lock() = stage;
        self.bell.notify_all();
    }
}

/// What a node was promised for one entity, while it brings that to be.
pub struct Claim {
    ownership: Arc<Ownership>,
    entity: EntityId,
    number: u64,
    lease: Arc<Lease>,
    desk: Arc<Desk>,
    is_held: bool,
}

impl Claim {
    /// The record that is to be kept with the daemon, if it was not before.
    #[must_use]
    pub fn to_keep(&self) -> Option<OwnershipRecord> {
        match &*self.desk.stage.lock() {
            Stage::Keep(_, record) => Some(**record),
            _ => None,
        }
    }

    /// Says that the record is durable, with the daemon; the directory is asked for a lease.
    pub fn kept(&self) {
        let ticket = {
            let mut stage = self.desk.stage.lock();
            let Stage::Keep(ticket, _) = *stage else { return };
            *stage = Stage::Waiting;
            ticket
        };
        let mut work = Work::default();
        let mut state = self.ownership.state.lock();
        if state
            .owners
            .get(&self.entity)
            .is_some_and(|entry| entry.number == self.number)
        {
            state.offered.remove(&self.entity);
            self.ownership
                .step(&mut state, &self.entity, Signal::Kept(ticket), &mut work);
        }
        drop(state);
        Reactor::of_process().tell(|| self.ownership.carry_out_now(work));
    }

    /// Waits until this node has a lease.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn active(&self, deadline: Deadline, interrupted: &mut dyn FnMut() -> bool) -> Result<(), Denied> {
        self.wait(deadline, interrupted, |stage| !matches!(stage, Stage::Active))
    }

    fn wait(
        &self,
        deadline: Deadline,
        interrupted: &mut dyn FnMut() -> bool,
        waits: impl Fn(&Stage) -> bool,
    ) -> Result<(), Denied> {
        let mut stage = self.desk.stage.lock();
        loop {
            match &*stage {
                Stage::Denied(denied) => return Err(*denied),
                found if !waits(found) => return Ok(()),
                _ => {}
            }
            if self.ownership.carrier.is_closed() {
                return Err(Denied::Closed);
            }
            if deadline.passed() {
                return Err(Denied::Silent);
            }
            drop(self.desk.bell.wait_until(stage, deadline.slice()));
            if interrupted() {
                return Err(Denied::Interrupted);
            }
            stage = self.desk.stage.lock();
        }
    }

    /// The daemon runs: `fenced` is told if another node owns it in a later term. `None` beside it: it is so already.
    #[must_use]
    pub fn hold(mut self, fenced: Fenced) -> (Hold, Option<(EntityId, u64)>) {
        self.is_held = true;
        let mut state = self.ownership.state.lock();
        let entry = state.owners.get_mut(&self.entity);
        let known = match entry.filter(|entry| entry.number == self.number) {
            Some(entry) => {
                entry.fenced = Some(fenced);
                self.lease.fenced()
            }
            None => self.lease.fenced(),
        };
        drop(state);
        let hold = Hold {
            ownership: Arc::downgrade(&self.ownership),
            entity: self.entity,
            number: self.number,
            lease: Arc::clone(&self.lease),
        };
        (hold, known)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.is_held {
            self.ownership.release(&self.entity, self.number);
        }
    }
}

/// The lease of a daemon that runs, and what renews it.
pub struct Hold {
    ownership: Weak<Ownership>,
    entity: EntityId,
    number: u64,
    lease: Arc<Lease>,
}

impl Hold {
    /// The lease.
    #[must_use]
    pub const fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// Checks that an event may be processed, or acknowledged, now.
    ///
    /// # Errors
    /// [`Unleased`].
    #[inline]
    pub fn check(&self) -> Result<(), Unleased> {
        self.lease.check()
    }

    /// Renews it no more. What was promised stays, until it runs out: the daemon may still answer for what it did.
    pub fn release(&self) {
        if let Some(ownership) = self.ownership.upgrade() {
            ownership.release(&self.entity, self.number);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}

/// The rows by which a node has a record: it, and the certificate that says that it was kept with the daemon.
pub(crate) fn rows(record: &OwnershipRecord) -> [Write; 2] {
    let key = entity_key(&record.entity(), [record.epoch()]);
    let certificate = Write::put(Table::Certificates, key, record.certificate.to_bytes());
    [record.write(), certificate]
}

fn hear(heard: &mut HashMap<Origin, OwnershipRecord>, record: OwnershipRecord) {
    let origin = record.entity().origin();
    match heard.get_mut(&origin) {
        Some(known) if known.epoch() > record.epoch() => {}
        Some(known) => *known = record,
        None => {
            if heard.len() >= HEARD_MAX
                && let Some(other) = heard.keys().next().copied()
            {
                heard.remove(&other);
            }
            heard.insert(origin, record);
        }
    }
}

fn offer(state: &mut State, lineage: &Lineage) {
    let entity = lineage.highest().entity();
    if state.offered.len() < OFFERED_MAX || state.offered.contains_key(&entity) {
        state.offered.insert(entity, lineage.records().to_vec());
    }
}
