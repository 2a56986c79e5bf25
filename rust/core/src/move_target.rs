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

use std::time::Duration;

use crate::digest::Digest;
use crate::id::EntityId;
use crate::mix;
use crate::move_frame::{Body, MoveFrame, Reason, Reject};
use crate::move_known::{self, Known};
use crate::move_rows::{self, Frozen, Item, MoveOrder, Prepared, Queued};
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

    fn hear(
        &mut self,
        now: Duration,
        known: &Known,
        (from, frame): (EntityId, MoveFrame<'_>),
        (wall, owned, refusal): (UnixMs, Option<u64>, Option<Reject>),
        actions: &mut Vec<Action>,
    ) {
        let (mid, epoch) = (frame.mid, frame.epoch);
        let is_current = self.order.as_ref().is_some_and(|order| order.mid == mid);
        let is_source = self.order.as_ref().is_some_and(|order| order.source == from);
        match frame.body {
            Body::Prepare(order) => self.prepare(now, known, from, order, (wall, refusal), actions),
            Body::Commit { record, .. } if !is_current => {
                self.committed_before(known, (from, mid, epoch), &record, owned, actions);
            }
            Body::Final { .. } | Body::Abort if !is_current => self.counters.late += 1,
            Body::Final { .. } | Body::Abort if !is_source => self.counters.foreign += 1,
            Body::Final {
                frozen,
                image_bytes,
                lineage,
                queue,
            } => self.fill(now, frozen, image_bytes, (lineage, queue), actions),
            Body::Abort => match self.phase {
                Phase::Reserved | Phase::Restoring | Phase::Keeping | Phase::Prepared => {
                    self.is_aborted = true;
                    self.erase(None, actions);
                }
                _ => self.counters.late += 1,
            },
            Body::Commit { record, from: at, tail } if is_source => self.commit(record, at, tail, actions),
            Body::Outcome { .. } => self.counters.late += 1,
            _ => self.counters.foreign += 1,
        }
    }

    fn prepare(
        &mut self,
        now: Duration,
        known: &Known,
        from: EntityId,
        order: Box<MoveOrder>,
        (wall, refusal): (UnixMs, Option<Reject>),
        actions: &mut Vec<Action>,
    ) {
        let about = (order.mid, order.epoch);
        if from != order.orchestrator || self.node != order.target {
            self.counters.foreign += 1;
            return;
        }
        if let Some(no) = self.objection(known, &order, wall, refusal) {
            return self.say(from, about, Body::Reject(no), actions);
        }
        if !self.has_agreed(&order) {
            self.phase = Phase::Reserved;
            self.order = Some(order);
            self.deadline = Some(now + self.config.reserved);
        }
        self.say(from, about, Body::Accept, actions);
    }

    /// Whether it would agree to an order now, to which it did not yet.
    #[must_use]
    pub fn would_agree(&self, known: &Known, order: &MoveOrder, wall: UnixMs) -> bool {
        !self.has_agreed(order) && self.objection(known, order, wall, None).is_none()
    }

    fn has_agreed(&self, order: &MoveOrder) -> bool {
        self.order.as_deref() == Some(order) && self.phase != Phase::Erasing
    }

    /// Why it does not agree to an order of its orchestrator.
    fn objection(&self, known: &Known, order: &MoveOrder, wall: UnixMs, refusal: Option<Reject>) -> Option<Reject> {
        if self.has_agreed(order) {
            return None;
        }
        let is_current = self.order.as_ref().is_some_and(|current| current.mid == order.mid);
        if known.outcome(&order.mid).is_some() || is_current {
            return Some(Reason::Finished.into());
        }
        if refusal.is_some() {
            return refusal;
        }
        let reason = if self.phase != Phase::Idle && !self.gives_way(order.orchestrator) {
            Reason::Busy
        } else if known.epoch() > order.epoch {
            Reason::NotOwner
        } else if wall > order.not_after {
            Reason::Expired
        } else if order.size > self.config.image_max {
            Reason::TooLarge
        } else {
            return None;
        };
        Some(reason.into())
    }

    /// Whether what it agreed to is forgotten for another order of the same node: of that one nothing came.
    fn gives_way(&self, orchestrator: EntityId) -> bool {
        let is_its = self
            .order
            .as_ref()
            .is_some_and(|order| order.orchestrator == orchestrator);
        self.phase == Phase::Reserved && is_its
    }

    fn fill(
        &mut self,
        now: Duration,
        frozen: Frozen,
        image_bytes: u64,
        (lineage, queue): (Vec<OwnershipRecord>, Vec<Queued>),
        actions: &mut Vec<Action>,
    ) {
        let Some(order) = self.order.clone() else { return };
        let last = lineage.last();
        let fits = last.is_some_and(|last| last.epoch() == order.epoch && last.node() == order.source);
        match self.phase {
            Phase::Reserved | Phase::Restoring if !fits => self.counters.unfit += 1,
            Phase::Reserved if image_bytes > self.config.image_max => self.fail(Reason::TooLarge.into(), actions),
            Phase::Reserved => {
                self.phase = Phase::Restoring;
                self.deadline = Some(now + self.config.reserved);
                self.prepared = Some(Box::new(Prepared {
                    order: (*order).clone(),
                    frozen,
                    image_bytes,
                    lineage,
                    queue,
                }));
                actions.push(Action::Restore {
                    order,
                    image: frozen.image,
                    image_bytes,
                });
            }
            Phase::Restoring => match &mut self.prepared {
                Some(prepared) if prepared.frozen == frozen => {
                    // The source lives, and more waits there.
                    self.deadline = Some(now + self.config.reserved);
                    if queue.len() > prepared.queue.len() {
                        prepared.queue = queue;
                    }
                }
                _ => self.counters.unfit += 1,
            },
            Phase::Prepared => self.say_prepared(actions),
            Phase::Keeping | Phase::Installing | Phase::Erasing | Phase::Idle => self.counters.late += 1,
        }
    }

    fn restored(&mut self, found: Frozen, actions: &mut Vec<Action>) {
        match (self.phase, &self.prepared) {
            (Phase::Restoring, Some(prepared)) if prepared.frozen == found => {
                self.phase = Phase::Keeping;
                self.deadline = None;
                self.write_prepared(actions);
            }
            (Phase::Restoring, _) => self.fail(Reason::StateFailed.into(), actions),
            _ => self.counters.late += 1,
        }
    }

    fn write_prepared(&mut self, actions: &mut Vec<Action>) {
        if let Some(prepared) = &self.prepared {
            let mid = prepared.order.mid;
            let writes = vec![Item::Prepared(prepared.clone()).write(&self.entity, &mid)];
            self.keep(writes, actions);
        }
    }

    fn fail(&mut self, why: Reject, actions: &mut Vec<Action>) {
        self.is_aborted = true;
        self.erase(Some(why), actions);
    }

    fn erase(&mut self, why: Option<Reject>, actions: &mut Vec<Action>) {
        self.phase = Phase::Erasing;
        self.why = why;
        self.deadline = None;
        self.alarm_at = None;
        self.try_at = None;
        self.write_end(actions);
    }

    fn write_end(&mut self, actions: &mut Vec<Action>) {
        if let Some(order) = &self.order {
            let mut writes = vec![move_rows::remove_prepared(&self.entity, &order.mid)];
            if self.is_aborted {
                writes.push(Item::Done(move_known::until(order)).write(&self.entity, &order.mid));
            }
            self.keep(writes, actions);
        }
    }

    fn commit(&mut self, record: Box<OwnershipRecord>, from: u64, tail: Vec<Queued>, actions: &mut Vec<Action>) {
        let (Phase::Prepared, Some(prepared)) = (self.phase, &self.prepared) else {
            self.counters.late += 1;
            return;
        };
        let follows = record.follows(prepared.lineage.last(), &self.config.authorities);
        let position = (record.certificate.from_sequence, record.certificate.digest);
        let fits = position == (prepared.frozen.sequence, prepared.frozen.head);
        if follows.is_err() || !fits || record.node() != self.node {
            self.counters.unfit += 1;
            return;
        }
        let mid = prepared.order.mid;
        // What is before the tail is held; a source that began anew has none.
        let held = usize::try_from(prepared.idx().saturating_sub(from)).unwrap_or(usize::MAX);
        if from <= prepared.idx() {
            self.tail = tail.into_iter().skip(held).collect();
        }
        self.phase = Phase::Installing;
        self.try_at = None;
        self.alarm_at = None;
        let prepared = prepared.clone();
        self.record = Some(record.clone());
        actions.push(Action::Install {
            record,
            prepared,
            writes: vec![move_rows::remove_prepared(&self.entity, &mid)],
        });
    }

    fn committed_before(
        &mut self,
        known: &Known,
        (from, mid, epoch): (EntityId, MigrationId, u64),
        record: &OwnershipRecord,
        owned: Option<u64>,
        actions: &mut Vec<Action>,
    ) {
        let is_live = owned.is_some_and(|owned| owned >= record.epoch()) || known.epoch() > record.epoch();
        match known.committed(&mid) {
            Some(held) if held == record && record.node() == self.node && is_live => {
                self.say(from, (mid, epoch), Body::Committed, actions);
            }
            None if record.node() == self.node && record.source == from && record.epoch() > known.epoch() => {
                let body = Body::Outcome {
                    outcome: None,
                    record: None,
                };
                self.say(from, (mid, epoch), body, actions);
                actions.push(Action::Alarm(Alarm::Unknown { mid }));
            }
            None if record.epoch() < known.epoch() => {
                // It lost to a takeover, and its source goes on until it hears that.
                if let Some(highest) = known.highest() {
                    let record = Box::new(*highest);
                    actions.push(Action::Show { to: from, record });
                }
            }
            _ => self.counters.late += 1,
        }
    }

    fn activated(&mut self, known: &mut Known, epoch: u64, actions: &mut Vec<Action>) {
        let is_it = self.record.as_ref().is_some_and(|record| record.epoch() == epoch);
        let (Phase::Installing, Some(order), true) = (self.phase, self.order.clone(), is_it) else {
            self.counters.late += 1;
            return;
        };
        if let Some(prepared) = &self.prepared {
            prepared.lineage.iter().for_each(|record| known.learn(record));
        }
        if let Some(record) = &self.record {
            known.learn(record);
        }
        let queue = self.take_queue();
        self.counters.taken_in += queue.len() as u64;
        self.end();
        let about = (order.mid, order.epoch);
        self.say(order.source, about, Body::Committed, actions);
        if order.orchestrator != order.source {
            self.say(order.orchestrator, about, Body::Committed, actions);
        }
        actions.push(Action::GoLive { queue });
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

    fn take_queue(&mut self) -> Vec<Queued> {
        let mut queue = self.prepared.take().map_or(Vec::new(), |prepared| prepared.queue);
        queue.append(&mut self.tail);
        queue
    }

    fn keep(&mut self, writes: Vec<Write>, actions: &mut Vec<Action>) {
        self.ticket += 1;
        self.writing = Some(self.ticket);
        actions.push(Action::Keep {
            ticket: self.ticket,
            writes,
        });
    }

    fn kept(&mut self, now: Duration, known: &mut Known, ticket: u64, actions: &mut Vec<Action>) {
        if self.writing != Some(ticket) {
            self.counters.late += 1;
            return;
        }
        self.writing = None;
        match (self.phase, self.order.clone()) {
            (Phase::Keeping, _) => {
                self.phase = Phase::Prepared;
                self.wait = self.config.ask_first;
                self.alarm_at = Some(now + self.config.alarm);
                self.say_prepared(actions);
                self.arm(now);
            }
            (Phase::Erasing, Some(order)) => {
                let about = (order.mid, order.epoch);
                if self.is_aborted {
                    known.abort(order.mid, move_known::until(&order));
                }
                if let Some(why) = self.why.take() {
                    self.say(order.source, about, Body::Reject(why.clone()), actions);
                    if order.orchestrator != order.source {
                        self.say(order.orchestrator, about, Body::Reject(why), actions);
                    }
                }
                self.discard(actions);
                self.end();
            }
            _ => self.counters.late += 1,
        }
    }

    fn discard(&mut self, actions: &mut Vec<Action>) {
        if let Some(prepared) = self.prepared.take() {
            let image = prepared.frozen.image;
            actions.push(Action::Discard { image });
        }
    }

    fn end(&mut self) {
        self.phase = Phase::Idle;
        self.order = None;
        self.prepared = None;
        self.record = None;
        self.tail = Vec::new();
        self.is_aborted = false;
        self.deadline = None;
        self.alarm_at = None;
        self.try_at = None;
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

    fn say_prepared(&mut self, actions: &mut Vec<Action>) {
        if let Some(prepared) = &self.prepared {
            let (source, about) = (prepared.order.source, (prepared.order.mid, prepared.order.epoch));
            let body = Body::Prepared {
                idx: prepared.idx(),
                frozen: prepared.frozen,
            };
            self.say(source, about, body, actions);
        }
    }

    fn say(&mut self, to: EntityId, (mid, epoch): (MigrationId, u64), body: Body<'static>, actions: &mut Vec<Action>) {
        self.step = self.step.saturating_add(1);
        let frame = MoveFrame {
            mid,
            entity: self.entity,
            epoch,
            step: self.step,
            body,
        };
        actions.push(Action::Send { to, frame });
    }

    fn arm(&mut self, now: Duration) {
        self.tries += 1;
        let shortened = self
            .wait
            .mul_f64(mix::pair_as_share(self.config.seed, self.tries) / 4.0);
        self.try_at = Some(now + self.wait - shortened);
        self.wait = (self.wait * 2).min(self.config.ask_max);
    }
}
