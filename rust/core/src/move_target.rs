//! Decision: what a node does about a daemon that is to be moved to it.
//!
//! | phase | what it means |
//! |---|---|
//! | Idle | no move of it to here is under way |
//! | Reserved | it agreed |
//! | Restoring | the image is pulled, and restored in standby |
//! | Keeping | what it holds is being made durable |
//! | Prepared | in doubt: it can go live, and waits to be told |
//! | Installing | the record that names it is being made durable, with the state; with a directory, it is asked for a lease |
//! | Erasing | that nothing comes of it is being made durable |
//!
//! | phase | prepare | final | restored | restore failed | abort | commit | activated | fenced | kept | deadline |
//! |---|---|---|---|---|---|---|---|---|---|---|
//! | Idle | Reserved, or a reject | – | – | – | – | * | – | – | – | – |
//! | Reserved | Accept | Restoring | – | – | Erasing | – | – | Idle | – | Idle |
//! | Restoring | Accept | its queue | Keeping, or Erasing | Erasing | Erasing | – | – | Idle | – | Idle |
//! | Keeping | Accept | – | – | – | Erasing | – | – | Erasing | Prepared | – |
//! | Prepared | Accept | Prepared | – | – | Erasing | Installing | – | Erasing | – | – |
//! | Installing | Accept | – | – | – | – | – | Idle | Erasing | – | – |
//! | Erasing | reject | – | – | – | – | – | – | – | Idle | – |
//!
//! An install that is refused leads back to Prepared.
//!
//! A star: whoever commits what is owned here, or was, is told Committed; what lost to a takeover, is shown a record above
//! it; what is not known here at all, is told so, with an alarm. A prepare of another move is rejected, any other message of
//! one late; but while nothing but its word was given, another order of the same orchestrator takes the place of the first,
//! which is forgotten as at the deadline. A dash: late, counted.
//!
//! Invariants
//! * It says that it is prepared after what it holds is durable. From then on it never gives up and never goes live by
//!   itself: it asks the source, for ever.
//! * What it holds is what came first: a later final changes nothing.
//! * It confirms after the record is durable, with lineage and state in one write, and, with a directory, after a lease.
//! * Only the orchestrator has it prepare; only the source fills, commits and aborts.
//!
//! Whoever runs it has checked the signatures of every order and every record, and whether the signer may order it.
//!
//! Source: as [`move_source`](crate::move_source).

mod hearing;
mod installing;
mod keeping;
mod telling;

use std::time::Duration;

use crate::digest::Digest;
use crate::id::EntityId;
use crate::move_frame::{MoveFrame, Reject};
use crate::move_known::Known;
use crate::move_rows::{Frozen, MoveOrder, Prepared, Queued};
use crate::ownership::{MigrationId, OwnershipRecord};
use crate::rows::Write;
use crate::time::UnixMs;

/// Options of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetConfig {
    /// How long it stays reserved without hearing of the source.
    pub reserved: Duration,
    /// The first wait for an answer of the source; it doubles with each try.
    pub ask_first: Duration,
    /// The longest.
    pub ask_max: Duration,
    /// After so long in doubt somebody is told, once.
    pub alarm: Duration,
    /// The largest image.
    pub image_max: u64,
    /// Who may sign takeovers.
    pub authorities: Vec<EntityId>,
    /// Spreads the tries.
    pub seed: u64,
}

impl Default for TargetConfig {
    fn default() -> Self {
        Self {
            reserved: Duration::from_secs(30),
            ask_first: Duration::from_secs(1),
            ask_max: Duration::from_secs(30),
            alarm: Duration::from_secs(30),
            image_max: 1 << 30,
            authorities: Vec::new(),
            seed: 0,
        }
    }
}

/// Where a target is with a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// There is none.
    Idle,
    /// It agreed.
    Reserved,
    /// The image is pulled and restored.
    Restoring,
    /// What it holds is being kept.
    Keeping,
    /// In doubt.
    Prepared,
    /// The record is being kept.
    Installing,
    /// The end is being kept.
    Erasing,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Idle,
        Self::Reserved,
        Self::Restoring,
        Self::Keeping,
        Self::Prepared,
        Self::Installing,
        Self::Erasing,
    ];
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
        /// Why nothing is taken on here, or not from the sender.
        refusal: Option<Reject>,
    },
    /// What [`Action::Restore`] asked for is done: the image is kept under its digest, and this was restored from it.
    Restored(Frozen),
    /// It could not be done.
    RestoreFailed(Reject),
    /// This node runs the entity in this epoch: the record is durable, and the lease is valid.
    Activated {
        /// The epoch.
        epoch: u64,
    },
    /// What [`Action::Install`] asked for cannot be, or not now: a record above was heard of that is not durable here.
    InstallRefused,
    /// A record became durable here that this machine did not have installed.
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
    /// Make these rows durable.
    Keep {
        /// Under which number to say what became of it.
        ticket: u64,
        /// The rows.
        writes: Vec<Write>,
    },
    /// Pull the image from the source, keep it under its digest, and restore it in standby: it is not to be found yet.
    Restore {
        /// The order.
        order: Box<MoveOrder>,
        /// Digest of the image.
        image: Digest,
        /// Its size.
        image_bytes: u64,
    },
    /// What was pulled or restored is not needed.
    Discard {
        /// Digest of the image.
        image: Digest,
    },
    /// Make the record durable, with the lineage, the state and these rows in one write, and take over under it.
    Install {
        /// The record.
        record: Box<OwnershipRecord>,
        /// What it holds.
        prepared: Box<Prepared>,
        /// Rows that go with it.
        writes: Vec<Write>,
    },
    /// Take these events in, in their order, before any other, as if they had just come; then process.
    GoLive {
        /// The events that were shipped.
        queue: Vec<Queued>,
    },
    /// Tell the senders of these events where the daemon is.
    Redirect {
        /// The events that were shipped.
        queue: Vec<Queued>,
    },
    /// Show this node a record that is above the one that it commits.
    Show {
        /// The node.
        to: EntityId,
        /// The record.
        record: Box<OwnershipRecord>,
    },
    /// Somebody has to look: see [`Alarm`].
    Alarm(Alarm),
}

/// What somebody has to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// It has been in doubt for long.
    InDoubt {
        /// The move.
        mid: MigrationId,
    },
    /// The source commits what is not known here: this node has lost what it said that it holds.
    Unknown {
        /// The move.
        mid: MigrationId,
    },
}

/// What became of events and messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Events that were shipped to here and taken in when it went live.
    pub taken_in: u64,
    /// Events that were shipped to here and sent on.
    pub redirected: u64,
    /// Signals that came late.
    pub late: u64,
    /// Messages of nodes that may not say so.
    pub foreign: u64,
    /// Messages that do not fit the move.
    pub unfit: u64,
    /// Writes that failed.
    pub failed: u64,
}

/// The target of one entity on one node.
#[derive(Debug, Clone)]
pub struct MoveTarget {
    node: EntityId,
    entity: EntityId,
    config: TargetConfig,
    phase: Phase,
    order: Option<Box<MoveOrder>>,
    prepared: Option<Box<Prepared>>,
    record: Option<Box<OwnershipRecord>>,
    tail: Vec<Queued>,
    /// What is said when the end is kept.
    why: Option<Reject>,
    /// Whether the end is that the move is aborted.
    is_aborted: bool,
    ticket: u64,
    writing: Option<u64>,
    deadline: Option<Duration>,
    alarm_at: Option<Duration>,
    try_at: Option<Duration>,
    wait: Duration,
    step: u32,
    tries: u64,
    counters: Counters,
}

impl MoveTarget {
    /// A target without a move, or in doubt about one: then [`Signal::Timer`] is due at once.
    #[must_use]
    pub fn new(node: EntityId, entity: EntityId, config: TargetConfig, prepared: Option<Box<Prepared>>) -> Self {
        let wait = config.ask_first;
        let phase = if prepared.is_some() {
            Phase::Prepared
        } else {
            Phase::Idle
        };
        Self {
            node,
            entity,
            config,
            phase,
            order: prepared.as_ref().map(|prepared| Box::new(prepared.order.clone())),
            try_at: prepared.is_some().then_some(Duration::ZERO),
            alarm_at: None,
            prepared,
            record: None,
            tail: Vec::new(),
            why: None,
            is_aborted: false,
            ticket: 0,
            writing: None,
            deadline: None,
            wait,
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

    /// Whether a sender of an event is told to try later: this node may soon own the entity, and holds no queue for it.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Prepared | Phase::Installing)
    }

    /// When [`Signal::Timer`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        [self.deadline, self.try_at, self.alarm_at].into_iter().flatten().min()
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
            Signal::Restored(frozen) => self.restored(frozen, actions),
            Signal::RestoreFailed(reject) if self.phase == Phase::Restoring => self.fail(reject, actions),
            Signal::RestoreFailed(_) => self.counters.late += 1,
            Signal::Activated { epoch } => self.activated(known, epoch, actions),
            Signal::InstallRefused if self.phase == Phase::Installing => {
                // It is in doubt again, until the record above is durable here, or is not heard of after a crash.
                self.phase = Phase::Prepared;
                self.record = None;
                self.tail = Vec::new();
                self.arm(now);
            }
            Signal::InstallRefused => self.counters.late += 1,
            Signal::Fenced(record) => self.fenced(known, &record, actions),
            Signal::Kept(ticket) => self.kept(now, known, ticket, actions),
            Signal::Failed(ticket) if self.writing == Some(ticket) => {
                self.counters.failed += 1;
                self.writing = None;
                self.try_at = Some(now + self.config.ask_first);
            }
            Signal::Failed(_) => self.counters.late += 1,
            Signal::Timer => self.timer(now, actions),
        }
    }

    fn fenced(&mut self, known: &mut Known, record: &OwnershipRecord, actions: &mut Vec<Action>) {
        known.learn(record);
        let Some(order) = &self.order else { return };
        if record.epoch() <= order.epoch {
            return;
        }
        match self.phase {
            Phase::Reserved | Phase::Restoring => {
                self.discard(actions);
                self.end();
            }
            Phase::Keeping | Phase::Prepared => self.erase(None, actions),
            Phase::Installing if record.epoch() > order.epoch + 1 => {
                let queue = self.take_queue();
                self.counters.redirected += queue.len() as u64;
                actions.push(Action::Redirect { queue });
                self.erase(None, actions);
            }
            Phase::Installing | Phase::Erasing | Phase::Idle => {}
        }
    }

    fn timer(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.deadline.is_some_and(|at| at <= now) {
            // Nothing was promised: the source gives up by itself.
            self.discard(actions);
            return self.end();
        }
        if self.alarm_at.is_some_and(|at| at <= now)
            && let Some(order) = &self.order
        {
            self.alarm_at = None;
            actions.push(Action::Alarm(Alarm::InDoubt { mid: order.mid }));
        }
        if self.try_at.is_none_or(|at| now < at) {
            return;
        }
        self.try_at = None;
        match self.phase {
            Phase::Prepared => {
                self.say_prepared(actions);
                self.arm(now);
            }
            Phase::Keeping if self.writing.is_none() => self.write_prepared(actions),
            Phase::Erasing if self.writing.is_none() => self.write_end(actions),
            _ => {}
        }
    }
}
