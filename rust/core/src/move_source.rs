//! Decision: what the owner of a daemon does about moving it away.
//!
//! | phase | what it means | events |
//! |---|---|---|
//! | Idle | no move of it is under way here | as ever |
//! | Reserved | it agreed | as ever |
//! | Intending | that it will freeze is being made durable | as ever |
//! | Freezing | user code finishes, and its image is taken | wait |
//! | Frozen | the target is told what it would own | wait |
//! | Committing | the record that names the target is being made durable: nothing is aborted any more | wait |
//! | Committed | the target owns; it is told until it confirms | sent on |
//! | Retiring | that the target confirmed is being made durable | sent on |
//! | Aborting | that it is aborted is being made durable | wait |
//!
//! | phase | prepare | freeze | abort req, reject, deadline | frozen | prepared | committed, retire | fenced | kept |
//! |---|---|---|---|---|---|---|---|---|
//! | Idle | Reserved, or a reject | * | * | – | * | – | – | – |
//! | Reserved | Accept | Intending | Aborting | – | – | – | Aborting | – |
//! | Intending | Accept | – | Aborting | – | – | – | Aborting | Freezing |
//! | Freezing | Accept | – | Aborting | Frozen | – | – | Aborting | – |
//! | Frozen | Accept | – | Aborting | – | Committing, or Aborting | – | Aborting | – |
//! | Committing | Accept | – | – | – | – | – | – | Committed |
//! | Committed | reject | Outcome | Outcome | – | Commit | Retiring | Retiring | – |
//! | Retiring | reject | Outcome | Outcome | – | Commit | – | – | Idle |
//! | Aborting | reject | – | told, when it is kept | – | – | – | – | Idle |
//!
//! A star, and whatever is about another move: that one is answered with what is known of it; of one that was never
//! decided it is made durable first that it is aborted. A prepare of another move is rejected. A dash: late, counted.
//!
//! Invariants
//! * The record that names the target is durable before anybody hears of it, and is written only while the node may act in
//!   the epoch of the order, and only against a target that restored exactly what was frozen.
//! * What is said to be aborted is durably so, and can never begin or commit again.
//! * Events that wait leave by being shipped, thawed or redirected, in their order; each is counted.
//! * Only the orchestrator freezes, only the target prepares and confirms.
//!
//! Whoever runs it has checked the signature of every order, and says of every sender whether it may order anything here.
//!
//! Source: Gray, Lamport, "Consensus on Transaction Commit", ACM TODS 31(1), 2006: two-phase commit, with the source as its
//! coordinator and the record of ownership as its decision.

mod closing;
mod hearing;
mod keeping;
mod queue;
mod telling;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use self::closing::Closing;
use crate::digest::Digest;
use crate::id::{EntityId, Origin};
use crate::move_frame::{MoveFrame, Reason, Reject};
use crate::move_known::{Known, Unretired};
use crate::move_rows::{Frozen, MoveOrder, Outcome, Queued};
use crate::ownership::{MigrationId, OwnershipRecord};
use crate::rows::Write;
use crate::time::UnixMs;

/// The first wait for an answer; it doubles with each try.
pub const RESEND_FIRST: Duration = Duration::from_millis(50);

/// The longest wait for an answer.
pub const RESEND_MAX: Duration = Duration::from_secs(1);

/// Options of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceConfig {
    /// How long it stays reserved; longer, if the daemon may stand still for longer.
    pub reserved: Duration,
    /// How long it stands still, where the order says nothing.
    pub freeze: Duration,
    /// How long it stands still at most.
    pub freeze_max: Duration,
    /// Events that wait at most.
    pub queue_max: usize,
    /// Their bytes at most; one event always fits.
    pub queue_bytes_max: usize,
    /// Spreads the tries.
    pub seed: u64,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            reserved: Duration::from_secs(5),
            freeze: Duration::from_secs(2),
            freeze_max: Duration::from_secs(120),
            queue_max: 1 << 20,
            queue_bytes_max: 64 << 20,
            seed: 0,
        }
    }
}

/// Where a source is with a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// There is none.
    Idle,
    /// It agreed.
    Reserved,
    /// The intent is being kept.
    Intending,
    /// User code finishes.
    Freezing,
    /// The target is told.
    Frozen,
    /// The record is being kept.
    Committing,
    /// The target owns.
    Committed,
    /// The confirmation is being kept.
    Retiring,
    /// The abort is being kept.
    Aborting,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Idle,
        Self::Reserved,
        Self::Intending,
        Self::Freezing,
        Self::Frozen,
        Self::Committing,
        Self::Committed,
        Self::Retiring,
        Self::Aborting,
    ];
}

/// What becomes of an event that comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// What would become of it without a move.
    Open,
    /// It waits: [`Signal::Event`].
    Wait,
    /// It is told where the daemon is.
    Elsewhere,
}

/// What goes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal<'a> {
    /// A message.
    Heard {
        /// Of this node.
        from: EntityId,
        /// It.
        frame: Box<MoveFrame<'a>>,
        /// The time of day.
        wall: UnixMs,
        /// Epoch in which this node may act now, with a valid lease.
        owned: Option<u64>,
        /// Why the sender may not have anything moved from here, or nothing can be.
        refusal: Option<Reject>,
    },
    /// An event that has to wait.
    Event(Queued),
    /// What [`Action::Freeze`] asked for: nothing is processed any more, and what was is durable.
    Frozen {
        /// Where the daemon stands.
        frozen: Frozen,
        /// Size of the image.
        image_bytes: u64,
        /// All records.
        lineage: Vec<OwnershipRecord>,
        /// The next one, which names the target: signed, and kept nowhere.
        record: Box<OwnershipRecord>,
    },
    /// It could not be done.
    FreezeFailed(Reject),
    /// A record above the one of this node became durable that this machine did not write.
    Fenced(Box<OwnershipRecord>),
    /// What was to be kept under this number is durable.
    Kept(u64),
    /// It is not known to be.
    Failed(u64),
    /// Time passed.
    Timer,
}

/// What is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this.
    Send {
        /// To this node.
        to: EntityId,
        /// The message.
        frame: MoveFrame<'static>,
    },
    /// Send this chunk of the image to the target.
    SendChunk {
        /// The target.
        to: EntityId,
        /// Of which image.
        image: Digest,
        /// Which chunk.
        index: u32,
    },
    /// Make these rows durable.
    Keep {
        /// Under which number to say what became of it.
        ticket: u64,
        /// The rows.
        writes: Vec<Write>,
    },
    /// Let the handler in flight finish or cancel it, process nothing more, take the image, sign the next record.
    Freeze {
        /// The order.
        order: Box<MoveOrder>,
    },
    /// Tell the sender that its event waits.
    Waits(Waiting),
    /// Tell the sender to try later.
    Busy(Waiting),
    /// Process again, and take these events in first, in their order, as if they had just come.
    Thaw {
        /// The events that waited.
        queue: Vec<Queued>,
    },
    /// Tell the senders of these events where the daemon is.
    Redirect {
        /// The events that waited, and were not shipped.
        queue: Vec<Queued>,
    },
    /// The record is durable: whoever watches over ownership is told.
    Fence(Box<OwnershipRecord>),
    /// The target has it all: drop the state of the epochs before the move, and the key. Records stay, and so does what was
    /// installed here since.
    Retire {
        /// The move.
        mid: MigrationId,
    },
    /// The move is decided.
    Ended {
        /// The move.
        mid: MigrationId,
        /// What became of it.
        outcome: Outcome,
        /// Why it was aborted, where that is known.
        why: Option<Reject>,
    },
}

/// Names an event that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// The node that sent it.
    pub from: EntityId,
    /// Its origin.
    pub origin: Origin,
    /// Its stream.
    pub stream: u64,
    /// Its number.
    pub sequence: u64,
}

/// What became of events and messages. Events that wait are `queued` less those that left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Events that had to wait.
    pub queued: u64,
    /// Of these, shipped to the target.
    pub shipped: u64,
    /// Of these, processed here after all.
    pub thawed: u64,
    /// Of these, sent on.
    pub redirected: u64,
    /// Events that waited already.
    pub repeated: u64,
    /// Events that were refused.
    pub refused: u64,
    /// Signals that came late.
    pub late: u64,
    /// Messages of nodes that may not say so.
    pub foreign: u64,
    /// Times at which the target was prepared, and this node might not act.
    pub unleased: u64,
    /// Writes that failed.
    pub failed: u64,
}

/// What the target is to own.
#[derive(Debug, Clone)]
struct Held {
    frozen: Frozen,
    image_bytes: u64,
    lineage: Vec<OwnershipRecord>,
    record: Box<OwnershipRecord>,
}

/// The source of one entity on one node.
#[derive(Debug, Clone)]
pub struct MoveSource {
    node: EntityId,
    entity: EntityId,
    config: SourceConfig,
    phase: Phase,
    order: Option<Box<MoveOrder>>,
    held: Option<Held>,
    /// The record of the move that is committed, and who saw to it.
    committed: Option<Unretired>,
    /// Position in the queue from which on the target has none, and the events that it is sent.
    tail: (u64, Vec<Queued>),
    why: Option<Reject>,
    /// Who else is told when it is aborted.
    askers: BTreeSet<EntityId>,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    waiting: BTreeSet<(Origin, u64, u64)>,
    closing: BTreeMap<u64, Closing>,
    ticket: u64,
    /// The number of the write that the phase waits for.
    writing: Option<u64>,
    deadline: Option<Duration>,
    try_at: Option<Duration>,
    wait: Duration,
    step: u32,
    tries: u64,
    counters: Counters,
}

impl MoveSource {
    /// A source without a move, or with one whose target has not confirmed it: then [`Signal::Timer`] is due at once.
    #[must_use]
    pub fn new(node: EntityId, entity: EntityId, config: SourceConfig, unretired: Option<Unretired>) -> Self {
        let phase = if unretired.is_some() {
            Phase::Committed
        } else {
            Phase::Idle
        };
        Self {
            node,
            entity,
            config,
            phase,
            order: None,
            held: None,
            try_at: unretired.is_some().then_some(Duration::ZERO),
            committed: unretired,
            tail: (0, Vec::new()),
            why: None,
            askers: BTreeSet::new(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            waiting: BTreeSet::new(),
            closing: BTreeMap::new(),
            ticket: 0,
            writing: None,
            deadline: None,
            wait: RESEND_FIRST,
            step: 0,
            tries: 0,
            counters: Counters::default(),
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether somebody is answered as soon as something is durable.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        !self.closing.is_empty()
    }

    /// The order of the move that is under way.
    #[must_use]
    pub fn order(&self) -> Option<&MoveOrder> {
        self.order.as_deref()
    }

    /// What became of events and messages so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Events that wait.
    #[must_use]
    pub fn waits(&self) -> usize {
        self.queue.len()
    }

    /// What becomes of an event that comes in.
    #[must_use]
    pub const fn gate(&self) -> Gate {
        match self.phase {
            Phase::Idle | Phase::Reserved | Phase::Intending => Gate::Open,
            Phase::Freezing | Phase::Frozen | Phase::Committing | Phase::Aborting => Gate::Wait,
            Phase::Committed | Phase::Retiring => Gate::Elsewhere,
        }
    }

    /// When [`Signal::Timer`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        let closing = self.closing.values().filter_map(|closing| closing.try_at);
        [self.deadline, self.try_at].into_iter().flatten().chain(closing).min()
    }

    /// Decides one step. `now` is the time of a clock that never goes back.
    pub fn step(&mut self, now: Duration, known: &mut Known, signal: Signal<'_>, actions: &mut Vec<Action>) {
        match signal {
            Signal::Heard {
                from,
                frame,
                wall,
                owned,
                refusal,
            } => self.hear(now, known, (from, *frame), (wall, owned, refusal), actions),
            Signal::Event(queued) => self.event(queued, actions),
            Signal::Frozen {
                frozen,
                image_bytes,
                lineage,
                record,
            } => {
                let is_mine = self.order.as_ref().is_some_and(|order| order.mid == record.mid);
                if self.phase != Phase::Freezing || !is_mine {
                    self.counters.late += 1;
                    return;
                }
                self.phase = Phase::Frozen;
                self.held = Some(Held {
                    frozen,
                    image_bytes,
                    lineage,
                    record,
                });
                self.wait = RESEND_FIRST;
                self.say_final(now, actions);
            }
            Signal::FreezeFailed(reject) if self.phase == Phase::Freezing => self.abort(Some(reject), actions),
            Signal::FreezeFailed(_) => self.counters.late += 1,
            Signal::Fenced(record) => self.fenced(known, &record, actions),
            Signal::Kept(ticket) => self.kept(now, known, ticket, actions),
            Signal::Failed(ticket) => self.failed(now, ticket),
            Signal::Timer => self.timer(now, actions),
        }
    }

    fn fenced(&mut self, known: &mut Known, record: &OwnershipRecord, actions: &mut Vec<Action>) {
        let own = self.committed.as_ref().map(|unretired| unretired.record.epoch());
        known.learn(record);
        match self.phase {
            Phase::Reserved | Phase::Intending | Phase::Freezing | Phase::Frozen => {
                self.abort(Some(Reason::NotOwner.into()), actions);
            }
            Phase::Committed if own.is_some_and(|own| record.epoch() > own) => self.retire(actions),
            _ => {}
        }
    }

    fn timer(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.close_again(now, actions);
        let is_over = self.deadline.is_some_and(|at| at <= now);
        if is_over && !matches!(self.phase, Phase::Committing | Phase::Committed | Phase::Retiring) {
            return self.abort(None, actions);
        }
        if self.try_at.is_none_or(|at| now < at) {
            return;
        }
        self.try_at = None;
        match self.phase {
            Phase::Frozen => self.say_final(now, actions),
            Phase::Committed => self.say_commit(now, actions),
            Phase::Intending | Phase::Committing | Phase::Retiring | Phase::Aborting if self.writing.is_none() => {
                self.write_again(actions);
            }
            _ => {}
        }
    }
}
