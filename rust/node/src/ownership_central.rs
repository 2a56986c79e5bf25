//! The directory of a mesh, at the node that has it: its machine, its rows, takeovers.
//!
//! Frames come in turns, from [`ownership`](crate::ownership); what is to be kept is written by a thread of its own where the
//! store waits for a disk, as many records at once as there are, and answered when it is durable.
//!
//! Invariants
//! * Signatures of a record are checked before the machine sees it, unless it is the very record that is the highest.
//! * No lock is held while the store works, or a frame is sent.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use meshos_core::digest::Digest;
use meshos_core::directory::{Action, Counters, Directory, DirectoryConfig, Phase, Signal};
use meshos_core::id::{EntityId, Origin};
use meshos_core::identity::{IdentityError, Keypair};
use meshos_core::ownership::OwnershipRecord;
use meshos_core::ownership_frame::{Ask, Body, OwnershipFrame};
use meshos_core::rows::{KeyRange, Table, Write, of_entity_key};
use meshos_core::store::{Batch, Store, StoreError};
use thiserror::Error;

use crate::clock::Deadline;
use crate::commit::Waited;
use crate::keeping::{self, Stores};
use crate::lane::{Job, Lanes};
use crate::resumption;
use crate::sync::{Condvar, Mutex};
use crate::verified::Verified;

/// Frames for other nodes, by whom they are for.
pub(crate) type Posts = Vec<(EntityId, OwnershipFrame)>;

/// Tells the turns of the node which writes became durable, and which are not known to be.
pub(crate) trait Told: Send + Sync {
    /// Takes that in; it is short.
    fn kept(&self, tickets: Vec<u64>, is_kept: bool);
}

/// Why an entity was not taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TakeOverError {
    /// It cannot be, or not now.
    #[error("the directory refuses")]
    Refused(Phase),
    /// What it is to go on from was rolled back, or another takeover came first.
    #[error("another record came first")]
    Superseded,
    /// The signer's key is public only.
    #[error(transparent)]
    Key(#[from] IdentityError),
    /// The lineage cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The time is over; it was given up.
    #[error("it was not done in time")]
    Timeout,
}

/// Where a takeover stands.
#[derive(Debug, Clone, Copy)]
enum Progress {
    Waiting,
    Ended(OwnershipRecord),
    Recorded(OwnershipRecord),
    Refused(Phase),
}

struct State {
    machine: Directory,
    /// Entities by their handles.
    origins: HashMap<Origin, EntityId>,
    /// Takeovers that somebody waits for.
    wanted: BTreeMap<EntityId, Progress>,
    /// The lineages of those to be installed, and in which run their node is.
    installs: HashMap<EntityId, Vec<OwnershipRecord>>,
}

/// The directory, where it is.
pub struct Central {
    key: Arc<Keypair>,
    stores: Stores,
    verified: Arc<Verified>,
    began: Instant,
    state: Mutex<State>,
    bell: Condvar,
    writing: Arc<Writing>,
    lanes: Lanes,
}

/// What is to be made durable.
struct Writing {
    stores: Stores,
    queue: Mutex<VecDeque<(u64, Vec<Write>)>>,
    told: Mutex<Option<Weak<dyn Told>>>,
}

impl Job for Writing {
    fn run(self: Arc<Self>) {
        let waiting = std::mem::take(&mut *self.queue.lock());
        if waiting.is_empty() {
            return;
        }
        let (tickets, writes): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        let writes = writes.into_iter().flatten().collect();
        let is_kept = written(&self.stores, writes).is_ok();
        let told = self.told.lock().as_ref().and_then(Weak::upgrade);
        if let Some(told) = told {
            told.kept(tickets, is_kept);
        }
    }
}

/// Makes rows durable, waiting on this thread.
pub(crate) fn written(stores: &Stores, writes: Vec<Write>) -> Result<(), StoreError> {
    let mut store = stores();
    let term = store.term();
    let commit = keeping::submit(&mut *store, Batch { term, writes }, None);
    match commit.wait(Deadline::never(), &mut || false) {
        Waited::Settled(outcome) => outcome,
        Waited::TimedOut | Waited::Interrupted => Err(StoreError::Closed),
    }
}

/// All records of an entity that a store has, the oldest first.
pub(crate) fn lineage(store: &dyn Store, entity: &EntityId) -> Result<Vec<OwnershipRecord>, StoreError> {
    let mut found = Vec::new();
    resumption::each(
        store,
        Table::Ownership,
        KeyRange::beginning_with(entity.as_bytes()),
        |_, value| found.extend(OwnershipRecord::decode(value)),
    )?;
    Ok(found)
}

impl Central {
    /// Begins with the records that the store has. `key` signs takeovers; times are counted from `began`.
    ///
    /// # Errors
    /// [`StoreError`]: it cannot be read.
    pub(crate) fn open(
        key: Arc<Keypair>,
        stores: Stores,
        verified: Arc<Verified>,
        began: Instant,
        mut config: DirectoryConfig,
    ) -> Result<Self, StoreError> {
        config.authorities.push(key.entity_id());
        let mut highest = BTreeMap::new();
        resumption::each(&*stores(), Table::Ownership, KeyRange::all(), |key, value| {
            if let (Some((entity, [_])), Ok(record)) = (of_entity_key::<1>(key), OwnershipRecord::decode(value)) {
                highest.insert(entity, record);
            }
        })?;
        let origins = highest.keys().map(|entity| (entity.origin(), *entity)).collect();
        let machine = Directory::restore(began.elapsed(), highest.into_values(), config);
        let writing = Arc::new(Writing {
            stores: Arc::clone(&stores),
            queue: Mutex::default(),
            told: Mutex::default(),
        });
        Ok(Self {
            key,
            stores,
            verified,
            began,
            state: Mutex::new(State {
                machine,
                origins,
                wanted: BTreeMap::new(),
                installs: HashMap::new(),
            }),
            bell: Condvar::new(),
            writing,
            lanes: Lanes::new("meshos-directory", 1, |body| body()),
        })
    }

    /// Says who is told of what became durable.
    pub(crate) fn tell(&self, told: Weak<dyn Told>) {
        *self.writing.told.lock() = Some(told);
    }

    /// Keeps nothing any more.
    pub(crate) fn close(&self) {
        self.lanes.stop(Duration::ZERO);
        self.bell.notify_all();
    }

    /// The highest record of an entity.
    #[must_use]
    pub fn highest(&self, entity: &EntityId) -> Option<OwnershipRecord> {
        self.state.lock().machine.highest(entity).copied()
    }

    /// The highest record of the entity with that handle.
    #[must_use]
    pub fn owner_of(&self, origin: Origin) -> Option<OwnershipRecord> {
        let state = self.state.lock();
        state.machine.highest(state.origins.get(&origin)?).copied()
    }

    /// Where it is with an entity.
    #[must_use]
    pub fn phase(&self, entity: &EntityId) -> Phase {
        self.state.lock().machine.phase(entity)
    }

    /// The entities that it knows, by their handles.
    #[must_use]
    pub fn origins(&self) -> Vec<Origin> {
        let state = self.state.lock();
        let known = state.origins.iter();
        let mut known: Vec<_> = known
            .filter(|(_, entity)| state.machine.highest(entity).is_some())
            .map(|(origin, _)| *origin)
            .collect();
        drop(state);
        known.sort_unstable();
        known
    }

    /// All records of an entity, the oldest first.
    ///
    /// # Errors
    /// [`StoreError`]: the store cannot be read.
    pub fn lineage(&self, entity: &EntityId) -> Result<Vec<OwnershipRecord>, StoreError> {
        lineage(&*(self.stores)(), entity)
    }

    /// What became of requests.
    #[must_use]
    pub fn counters(&self) -> Counters {
        *self.state.lock().machine.counters()
    }

    /// Has another node own an entity, from the event after `from_sequence` on, where the chain had `digest`: waits until
    /// the last lease is over and the record of it is durable, and returns that. It is signed by `signer`, or by the
    /// directory. The new owner is told, again and again, and begins when it spawns the entity.
    ///
    /// # Errors
    /// [`TakeOverError`]: nobody else owns it than before.
    pub fn take_over(
        &self,
        entity: EntityId,
        to: EntityId,
        (from_sequence, digest): (u64, Digest),
        signer: Option<&Keypair>,
        deadline: Deadline,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<OwnershipRecord, TakeOverError> {
        self.state.lock().wanted.insert(entity, Progress::Waiting);
        let taken = self.take_over_waiting(entity, to, (from_sequence, digest), signer, deadline, interrupted);
        let mut posts = Vec::new();
        if matches!(
            taken,
            Err(TakeOverError::Timeout | TakeOverError::Key(_) | TakeOverError::Store(_))
        ) {
            self.step(Signal::GiveUp(entity), &mut posts);
        }
        self.state.lock().wanted.remove(&entity);
        taken
    }

    fn take_over_waiting(
        &self,
        entity: EntityId,
        to: EntityId,
        (from_sequence, digest): (u64, Digest),
        signer: Option<&Keypair>,
        deadline: Deadline,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<OwnershipRecord, TakeOverError> {
        // Who owned is told with its next request.
        self.step(Signal::TakeOver { entity, to }, &mut Vec::new());
        self.nudge();
        let Progress::Ended(record) = self.progress(&entity, deadline, interrupted)? else {
            return Err(TakeOverError::Superseded);
        };
        let mut records = self.lineage(&entity)?;
        let next = record.taken_over(to, from_sequence, digest, signer.unwrap_or(&self.key))?;
        records.retain(|known| known.epoch() < next.epoch());
        records.push(next);
        {
            let mut state = self.state.lock();
            state.wanted.insert(entity, Progress::Waiting);
            state.installs.insert(entity, records);
        }
        self.step(Signal::Take(next), &mut Vec::new());
        match self.progress(&entity, deadline, interrupted)? {
            Progress::Recorded(record) if record == next => Ok(record),
            _ => Err(TakeOverError::Superseded),
        }
    }

    fn progress(
        &self,
        entity: &EntityId,
        deadline: Deadline,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Progress, TakeOverError> {
        let mut state = self.state.lock();
        loop {
            match state.wanted.get(entity) {
                Some(Progress::Waiting) => {}
                Some(Progress::Refused(phase)) => return Err(TakeOverError::Refused(*phase)),
                Some(progress) => return Ok(*progress),
                None => return Err(TakeOverError::Superseded),
            }
            if deadline.passed() {
                return Err(TakeOverError::Timeout);
            }
            drop(self.bell.wait_until(state, deadline.slice()));
            if interrupted() {
                return Err(TakeOverError::Timeout);
            }
            state = self.state.lock();
        }
    }

    /// Asks for a turn, by saying that nothing became durable.
    fn nudge(&self) {
        let told = self.writing.told.lock().as_ref().and_then(Weak::upgrade);
        if let Some(told) = told {
            told.kept(Vec::new(), true);
        }
    }

    /// Takes a frame in. `Err`: its signatures do not fit, or it is none for a directory.
    pub(crate) fn hear(&self, from: EntityId, frame: OwnershipFrame, posts: &mut Posts) -> Result<(), ()> {
        let (ask, entity) = (frame.ask, frame.entity());
        let signal = match frame.body {
            Body::Register(records) => {
                let authorities = [self.key.entity_id()];
                let kept = || self.lineage(&entity).unwrap_or_default();
                let lineage = self.verified.lineage(&entity, records, &authorities, kept).ok_or(())?;
                Signal::Register { from, ask, lineage }
            }
            Body::Renew(record) => {
                if self.highest(&entity) != Some(record) && !self.verified.fits(&record) {
                    return Err(());
                }
                Signal::Renew { from, ask, record }
            }
            _ => return Err(()),
        };
        self.step(signal, posts);
        Ok(())
    }

    pub(crate) fn kept(&self, tickets: Vec<u64>, is_kept: bool, posts: &mut Posts) {
        for ticket in tickets {
            let signal = if is_kept {
                Signal::Kept(ticket)
            } else {
                Signal::Failed(ticket)
            };
            self.step(signal, posts);
        }
    }

    /// Does what is due; returns when the next is.
    pub(crate) fn timer(&self, posts: &mut Posts) -> Option<Duration> {
        let now = self.began.elapsed();
        let due = self.state.lock().machine.wake_at();
        if due.is_some_and(|at| at <= now) {
            self.step(Signal::Timer, posts);
            return self.state.lock().machine.wake_at();
        }
        due
    }

    fn step(&self, signal: Signal, posts: &mut Posts) {
        let mut actions = Vec::new();
        let mut writes = VecDeque::new();
        let mut is_told = false;
        let mut state = self.state.lock();
        state.machine.step(self.began.elapsed(), signal, &mut actions);
        for action in actions {
            match action {
                Action::Send { to, frame } => posts.push((to, frame)),
                Action::Keep { ticket, writes: rows } => writes.push_back((ticket, rows)),
                Action::LeaseEnded { record, .. } => {
                    is_told = true;
                    if let Some(progress) = state.wanted.get_mut(&record.entity()) {
                        *progress = Progress::Ended(record);
                    }
                }
                Action::Install(record) => {
                    is_told = true;
                    let entity = record.entity();
                    if let Some(progress) = state.wanted.get_mut(&entity) {
                        *progress = Progress::Recorded(record);
                    }
                    if let Some(lineage) = state.installs.get(&entity) {
                        posts.push((record.node(), install(lineage.clone())));
                    }
                }
                Action::TakenOver(record) => {
                    state.installs.remove(&record.entity());
                }
                Action::Refused { entity, phase } => {
                    is_told = true;
                    if let Some(progress) = state.wanted.get_mut(&entity) {
                        *progress = Progress::Refused(phase);
                    }
                }
            }
        }
        for (_, rows) in &writes {
            let entities = rows.iter().filter_map(|row| of_entity_key::<1>(&row.key));
            for (entity, _) in entities {
                state.origins.insert(entity.origin(), entity);
            }
        }
        drop(state);
        if is_told {
            self.bell.notify_all();
        }
        if !writes.is_empty() {
            self.writing.queue.lock().extend(writes);
            let writing = Arc::clone(&self.writing);
            if (self.stores)().is_immediate() {
                writing.run();
            } else {
                self.lanes.submit(writing as Arc<dyn Job>);
            }
        }
    }
}

impl Drop for Central {
    fn drop(&mut self) {
        self.close();
    }
}

/// The message to a new owner. It is for any run of it: who takes it up has no state of another.
fn install(lineage: Vec<OwnershipRecord>) -> OwnershipFrame {
    OwnershipFrame {
        ask: Ask { run: 0, number: 0 },
        body: Body::Install {
            snapshot: Digest::ZERO,
            snapshot_bytes: 0,
            lineage,
        },
    }
}
