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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::digest::Digest;
use crate::id::{EntityId, Origin};
use crate::mix;
use crate::move_frame::{Body, MoveFrame, QUEUE_BYTES_MAX, Reason, Reject};
use crate::move_known::{self, Known, REMEMBERED, Unretired};
use crate::move_rows::{self, Frozen, Item, MoveOrder, Outcome, QUEUED_MAX, Queued};
use crate::ownership::{MigrationId, OwnershipRecord};
use crate::rows::Write;
use crate::time::UnixMs;

/// The first wait for an answer; it doubles with each try.
pub const RESEND_FIRST: Duration = Duration::from_millis(50);

/// The longest wait for an answer.
pub const RESEND_MAX: Duration = Duration::from_secs(1);

/// Moves that were never decided and are being aborted at the same time.
const CLOSING_MAX: usize = 64;

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

/// Who waits until it is durable that a move that was never decided is aborted.
#[derive(Debug, Clone, Copy)]
struct Closing {
    mid: MigrationId,
    epoch: u64,
    until: UnixMs,
    to: EntityId,
    /// Whether it is a target that is told.
    target: bool,
    /// When it is written again: the write failed, and may be durable after all.
    try_at: Option<Duration>,
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

    fn hear(
        &mut self,
        now: Duration,
        known: &Known,
        (from, frame): (EntityId, MoveFrame<'_>),
        (wall, owned, refusal): (UnixMs, Option<u64>, Option<Reject>),
        actions: &mut Vec<Action>,
    ) {
        let (mid, epoch) = (frame.mid, frame.epoch);
        let is_current = self.current() == Some(mid);
        match frame.body {
            Body::Prepare(order) => self.prepare(now, known, from, order, (wall, owned, refusal), actions),
            Body::Freeze if !is_current && refusal.is_none() => {
                self.ask(known, (from, mid, epoch), wall, false, actions);
            }
            Body::Freeze if self.is_orchestrator(from) => self.freeze(now, known, from, actions),
            Body::AbortReq if self.may_abort(from, refusal.as_ref()) => {
                if is_current {
                    self.abort_asked(known, from, actions);
                } else {
                    self.ask(known, (from, mid, epoch), wall, false, actions);
                }
            }
            Body::Prepared { .. } if !is_current => self.ask(known, (from, mid, epoch), wall, true, actions),
            Body::Prepared { idx, frozen } if self.is_target(from) => self.prepared(now, idx, frozen, owned, actions),
            Body::Reject(reject) if is_current && self.is_target(from) => match self.phase {
                Phase::Reserved | Phase::Intending | Phase::Freezing | Phase::Frozen => {
                    self.abort(Some(reject), actions);
                }
                _ => self.counters.late += 1,
            },
            Body::Committed if is_current && self.is_target(from) => self.retire(actions),
            Body::Retire if is_current && self.is_orchestrator(from) => self.retire(actions),
            Body::Pull { image, index } if is_current && self.is_target(from) => {
                if self.held.as_ref().is_some_and(|held| held.frozen.image == image) {
                    actions.push(Action::SendChunk { to: from, image, index });
                } else {
                    self.counters.late += 1;
                }
            }
            _ if is_current => self.counters.foreign += 1,
            _ => self.counters.late += 1,
        }
    }

    /// The move that is under way.
    fn current(&self) -> Option<MigrationId> {
        let committed = self.committed.as_ref().map(|unretired| unretired.record.mid);
        self.order.as_ref().map(|order| order.mid).or(committed)
    }

    fn orchestrator(&self) -> Option<EntityId> {
        let ordered = self.order.as_ref().map(|order| order.orchestrator);
        ordered.or(self.committed.as_ref().and_then(|unretired| unretired.orchestrator))
    }

    fn is_orchestrator(&self, node: EntityId) -> bool {
        self.orchestrator() == Some(node)
    }

    fn is_target(&self, node: EntityId) -> bool {
        let ordered = self.order.as_ref().map(|order| order.target);
        let committed = self.committed.as_ref().map(|unretired| unretired.record.node());
        ordered.or(committed) == Some(node)
    }

    fn may_abort(&self, from: EntityId, refusal: Option<&Reject>) -> bool {
        refusal.is_none() || self.is_orchestrator(from)
    }

    fn prepare(
        &mut self,
        now: Duration,
        known: &Known,
        from: EntityId,
        order: Box<MoveOrder>,
        (wall, owned, refusal): (UnixMs, Option<u64>, Option<Reject>),
        actions: &mut Vec<Action>,
    ) {
        let (mid, epoch) = (order.mid, order.epoch);
        if from != order.orchestrator || self.node != order.source {
            self.counters.foreign += 1;
            return;
        }
        let is_closing = self.closing.values().any(|closing| closing.mid == mid);
        let is_over = matches!(self.phase, Phase::Committed | Phase::Retiring | Phase::Aborting);
        let no = if self.order.as_ref() == Some(&order) && !is_over {
            return self.say(from, (mid, epoch), Body::Accept, actions);
        } else if known.outcome(&mid).is_some() || is_closing || self.current() == Some(mid) {
            Reason::Finished.into()
        } else if let Some(refusal) = refusal {
            refusal
        } else if matches!(self.phase, Phase::Committed | Phase::Retiring) {
            Reason::NotOwner.into()
        } else if self.phase != Phase::Idle {
            Reason::Busy.into()
        } else if owned != Some(epoch) || known.epoch() != epoch {
            Reason::NotOwner.into()
        } else if wall > order.not_after {
            Reason::Expired.into()
        } else {
            self.phase = Phase::Reserved;
            let freeze = order.freeze().unwrap_or_default().min(self.config.freeze_max);
            self.deadline = Some(now + self.config.reserved.max(freeze));
            self.order = Some(order);
            return self.say(from, (mid, epoch), Body::Accept, actions);
        };
        self.say(from, (mid, epoch), Body::Reject(no), actions);
    }

    fn freeze(&mut self, now: Duration, known: &Known, from: EntityId, actions: &mut Vec<Action>) {
        match (self.phase, &self.order) {
            (Phase::Reserved, Some(order)) => {
                let writes = vec![Item::Intent((**order).clone()).write(&order.entity, &order.mid)];
                let freeze = order.freeze().unwrap_or(self.config.freeze);
                self.deadline = Some(now + freeze.min(self.config.freeze_max));
                self.phase = Phase::Intending;
                self.keep(writes, actions);
            }
            (Phase::Committed | Phase::Retiring, _) => self.say_outcome(known, from, actions),
            _ => self.counters.late += 1,
        }
    }

    fn abort_asked(&mut self, known: &Known, from: EntityId, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::Reserved | Phase::Intending | Phase::Freezing | Phase::Frozen => {
                self.askers.insert(from);
                self.abort(None, actions);
            }
            Phase::Aborting => {
                if self.askers.len() < CLOSING_MAX {
                    self.askers.insert(from);
                }
            }
            Phase::Committed | Phase::Retiring => self.say_outcome(known, from, actions),
            // It is not known yet; whoever wants to know asks again.
            Phase::Committing | Phase::Idle => self.counters.late += 1,
        }
    }

    fn prepared(&mut self, now: Duration, idx: u64, frozen: Frozen, owned: Option<u64>, actions: &mut Vec<Action>) {
        match (self.phase, &self.held, &self.order) {
            (Phase::Frozen, Some(held), Some(order)) => {
                let fits = held.frozen == frozen && idx <= self.queue.len() as u64;
                if !fits {
                    self.abort(Some(Reason::StateFailed.into()), actions);
                } else if owned != Some(order.epoch) {
                    self.counters.unleased += 1;
                } else {
                    let writes = vec![held.record.write()];
                    self.phase = Phase::Committing;
                    self.tail.0 = idx;
                    self.deadline = None;
                    self.try_at = None;
                    self.keep(writes, actions);
                }
            }
            (Phase::Committed | Phase::Retiring, ..) => self.say_commit(now, actions),
            _ => self.counters.late += 1,
        }
    }

    /// Answers what is about another move: from what is known, or when it is durable that it is aborted.
    fn ask(
        &mut self,
        known: &Known,
        (from, mid, epoch): (EntityId, MigrationId, u64),
        wall: UnixMs,
        target: bool,
        actions: &mut Vec<Action>,
    ) {
        match (known.outcome(&mid), known.committed(&mid)) {
            (Some(Outcome::Committed), Some(record)) if target => {
                let body = Body::Commit {
                    record: Box::new(*record),
                    from: 0,
                    tail: Vec::new(),
                };
                self.say(from, (mid, record.epoch() - 1), body, actions);
            }
            (Some(Outcome::Committed), Some(record)) => {
                let body = Body::Outcome {
                    outcome: Some(Outcome::Committed),
                    record: Some(Box::new(*record)),
                };
                self.say(from, (mid, record.epoch() - 1), body, actions);
            }
            (Some(_), _) => self.say_aborted(from, (mid, epoch), target, actions),
            (None, _) if self.closing.len() < CLOSING_MAX => {
                let until = wall.plus(REMEMBERED);
                let closing = Closing {
                    mid,
                    epoch,
                    until,
                    to: from,
                    target,
                    try_at: None,
                };
                self.close(closing, actions);
            }
            (None, _) => self.counters.late += 1,
        }
    }

    fn close(&mut self, closing: Closing, actions: &mut Vec<Action>) {
        self.ticket += 1;
        self.closing.insert(self.ticket, closing);
        actions.push(Action::Keep {
            ticket: self.ticket,
            writes: vec![Item::Done(closing.until).write(&self.entity, &closing.mid)],
        });
    }

    /// Writes again what failed: it may be durable after all, so the move must not begin before it is.
    fn close_again(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let is_due = |closing: &Closing| closing.try_at.is_some_and(|at| at <= now);
        let due = self.closing.iter().filter(|(_, closing)| is_due(closing));
        let due: Vec<_> = due.map(|(ticket, closing)| (*ticket, *closing)).collect();
        for (ticket, closing) in due {
            self.closing.remove(&ticket);
            self.close(
                Closing {
                    try_at: None,
                    ..closing
                },
                actions,
            );
        }
    }

    fn say_aborted(&mut self, to: EntityId, about: (MigrationId, u64), target: bool, actions: &mut Vec<Action>) {
        let body = if target {
            Body::Abort
        } else {
            Body::Outcome {
                outcome: Some(Outcome::Aborted),
                record: None,
            }
        };
        self.say(to, about, body, actions);
    }

    fn say_outcome(&mut self, known: &Known, to: EntityId, actions: &mut Vec<Action>) {
        if let Some(mid) = self.current()
            && let Some(record) = known.committed(&mid)
        {
            let body = Body::Outcome {
                outcome: Some(Outcome::Committed),
                record: Some(Box::new(*record)),
            };
            self.say(to, (mid, record.epoch() - 1), body, actions);
        }
    }

    fn event(&mut self, queued: Queued, actions: &mut Vec<Action>) {
        let waiting = Waiting {
            from: queued.from,
            origin: queued.origin,
            stream: queued.stream,
            sequence: queued.sequence,
        };
        let key = (queued.origin, queued.stream, queued.sequence);
        let bytes = queued.encoded_len();
        let is_full = self.queue.len() >= self.config.queue_max
            || (self.queue_bytes + bytes > self.config.queue_bytes_max && !self.queue.is_empty());
        if self.gate() != Gate::Wait {
            self.counters.late += 1;
        } else if self.waiting.contains(&key) {
            self.counters.repeated += 1;
            actions.push(Action::Waits(waiting));
        } else if is_full {
            self.counters.refused += 1;
            actions.push(Action::Busy(waiting));
        } else {
            self.counters.queued += 1;
            self.waiting.insert(key);
            self.queue_bytes += bytes;
            self.queue.push_back(queued);
            actions.push(Action::Waits(waiting));
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

    fn abort(&mut self, why: Option<Reject>, actions: &mut Vec<Action>) {
        self.phase = Phase::Aborting;
        self.why = why;
        self.held = None;
        self.deadline = None;
        self.try_at = None;
        self.write_abort(actions);
    }

    fn write_abort(&mut self, actions: &mut Vec<Action>) {
        if let Some(order) = &self.order {
            let done = Item::Done(move_known::until(order)).write(&order.entity, &order.mid);
            let writes = vec![done, move_rows::remove_intent(&order.entity, &order.mid)];
            self.keep(writes, actions);
        }
    }

    fn retire(&mut self, actions: &mut Vec<Action>) {
        if self.phase != Phase::Committed {
            self.counters.late += 1;
            return;
        }
        self.phase = Phase::Retiring;
        self.try_at = None;
        self.write_retired(actions);
    }

    fn write_retired(&mut self, actions: &mut Vec<Action>) {
        if let Some(mid) = self.current() {
            let retired = Item::Retired.write(&self.entity, &mid);
            self.keep(vec![retired, move_rows::remove_intent(&self.entity, &mid)], actions);
        }
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
        if let Some(closing) = self.closing.remove(&ticket) {
            known.abort(closing.mid, closing.until);
            let Closing {
                mid, epoch, to, target, ..
            } = closing;
            return self.say_aborted(to, (mid, epoch), target, actions);
        }
        if self.writing != Some(ticket) {
            self.counters.late += 1;
            return;
        }
        self.writing = None;
        match self.phase {
            Phase::Intending => {
                self.phase = Phase::Freezing;
                if let Some(order) = &self.order {
                    let order = order.clone();
                    actions.push(Action::Freeze { order });
                }
            }
            Phase::Committing => self.commit(now, known, actions),
            Phase::Aborting => self.aborted(known, actions),
            Phase::Retiring => {
                let mid = self.current().unwrap_or_default();
                self.end();
                // Whoever owns again has other state by now.
                if known.highest().is_none_or(|record| record.node() != self.node) {
                    actions.push(Action::Retire { mid });
                }
            }
            Phase::Idle | Phase::Reserved | Phase::Freezing | Phase::Frozen | Phase::Committed => {
                self.counters.late += 1;
            }
        }
    }

    fn commit(&mut self, now: Duration, known: &mut Known, actions: &mut Vec<Action>) {
        let (Some(held), Some(order)) = (&self.held, &self.order) else {
            return;
        };
        let (record, mid, epoch) = (held.record.clone(), order.mid, order.epoch);
        known.learn(&record);
        let orchestrator = order.orchestrator;
        self.committed = Some(Unretired {
            record: *record,
            orchestrator: Some(orchestrator),
        });
        self.phase = Phase::Committed;
        let mut queue = self.take_queue();
        let idx = usize::try_from(self.tail.0).unwrap_or(usize::MAX).min(queue.len());
        let mut tail = queue.split_off(idx);
        let rest = tail.split_off(shipped(&tail));
        self.counters.shipped += (idx + tail.len()) as u64;
        self.tail.1 = tail;
        actions.push(Action::Fence(record.clone()));
        actions.push(Action::Ended {
            mid,
            outcome: Outcome::Committed,
            why: None,
        });
        self.wait = RESEND_FIRST;
        self.say_commit(now, actions);
        // A target that sees to its own move would take the second for the first, without events.
        if orchestrator != record.node() {
            let done = Body::Commit {
                record,
                from: 0,
                tail: Vec::new(),
            };
            self.say(orchestrator, (mid, epoch), done, actions);
        }
        if !rest.is_empty() {
            self.counters.redirected += rest.len() as u64;
            actions.push(Action::Redirect { queue: rest });
        }
        // A higher record became durable meanwhile.
        if known.epoch() > epoch + 1 {
            self.retire(actions);
        }
    }

    fn aborted(&mut self, known: &mut Known, actions: &mut Vec<Action>) {
        let Some(order) = self.order.clone() else { return };
        known.abort(order.mid, move_known::until(&order));
        let why = self.why.take();
        let askers = std::mem::take(&mut self.askers);
        let queue = self.take_queue();
        self.counters.thawed += queue.len() as u64;
        self.end();
        let about = (order.mid, order.epoch);
        actions.push(Action::Thaw { queue });
        actions.push(Action::Ended {
            mid: order.mid,
            outcome: Outcome::Aborted,
            why,
        });
        self.say_aborted(order.target, about, true, actions);
        self.say_aborted(order.orchestrator, about, false, actions);
        for asker in askers.into_iter().filter(|asker| *asker != order.orchestrator) {
            self.say_aborted(asker, about, false, actions);
        }
    }

    fn end(&mut self) {
        self.phase = Phase::Idle;
        self.order = None;
        self.held = None;
        self.committed = None;
        self.tail = (0, Vec::new());
        self.deadline = None;
        self.try_at = None;
    }

    fn take_queue(&mut self) -> Vec<Queued> {
        self.waiting.clear();
        self.queue_bytes = 0;
        std::mem::take(&mut self.queue).into()
    }

    fn failed(&mut self, now: Duration, ticket: u64) {
        if let Some(closing) = self.closing.get_mut(&ticket) {
            self.counters.failed += 1;
            closing.try_at = Some(now + RESEND_MAX);
        } else if self.writing == Some(ticket) {
            // It may be durable after all, so it is what has to become durable.
            self.counters.failed += 1;
            self.writing = None;
            self.try_at = Some(now + RESEND_MAX);
        } else {
            self.counters.late += 1;
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

    fn write_again(&mut self, actions: &mut Vec<Action>) {
        match (self.phase, &self.held, &self.order) {
            (Phase::Intending, _, Some(order)) => {
                let writes = vec![Item::Intent((**order).clone()).write(&order.entity, &order.mid)];
                self.keep(writes, actions);
            }
            (Phase::Committing, Some(held), ..) => {
                let writes = vec![held.record.write()];
                self.keep(writes, actions);
            }
            (Phase::Aborting, ..) => self.write_abort(actions),
            (Phase::Retiring, ..) => self.write_retired(actions),
            _ => {}
        }
    }

    fn say_final(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let (Some(held), Some(order)) = (&self.held, &self.order) else {
            return;
        };
        let (head, rest) = self.queue.as_slices();
        let mut queue = head[..shipped(head)].to_vec();
        if queue.len() == head.len() {
            queue.extend_from_slice(rest);
            queue.truncate(shipped(&queue));
        }
        let body = Body::Final {
            frozen: held.frozen,
            image_bytes: held.image_bytes,
            lineage: held.lineage.clone(),
            queue,
        };
        let (target, about) = (order.target, (order.mid, order.epoch));
        self.say(target, about, body, actions);
        self.arm(now);
    }

    fn say_commit(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let Some(Unretired { record, .. }) = &self.committed else {
            return;
        };
        let (target, about) = (record.node(), (record.mid, record.epoch() - 1));
        let body = Body::Commit {
            record: Box::new(*record),
            from: self.tail.0,
            tail: self.tail.1.clone(),
        };
        self.say(target, about, body, actions);
        if self.phase == Phase::Committed {
            self.arm(now);
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
        self.wait = (self.wait * 2).min(RESEND_MAX);
    }
}

/// How many of the first events travel in one message.
fn shipped(queue: &[Queued]) -> usize {
    let mut bytes = 0;
    let fits = |queued: &&Queued| {
        bytes += queued.encoded_len();
        bytes <= QUEUE_BYTES_MAX
    };
    queue.iter().take(QUEUED_MAX).take_while(fits).count()
}
