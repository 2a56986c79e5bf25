//! Decision: what a node does about a move that it sees to: it has both sides agree, has the source freeze, and learns what
//! became of it.
//!
//! | phase | what it means |
//! |---|---|
//! | Ordering | the order is being made durable |
//! | Preparing | source and target are asked whether they take part |
//! | Driving | both do; the source freezes, and goes on with the target |
//! | Asking | the source is asked to abort, if it still can, and what became of it |
//! | Closing | what became of it is being made durable |
//! | Ended | it is known |
//!
//! | phase | kept | accept | reject | outcome | committed | commit | abort | timer | deadline |
//! |---|---|---|---|---|---|---|---|---|---|
//! | Ordering | Preparing | – | – | – | – | – | Asking, when kept | again, if it failed | – |
//! | Preparing | – | Driving, if both did | Asking | Closing | Closing | – | Asking | again | Asking |
//! | Driving | – | – | Asking, if of the target | Closing | Closing | noted | Asking | again | Asking |
//! | Asking | – | – | – | Closing | Closing | noted | – | again | – |
//! | Closing | Ended | – | – | – | – | – | – | again, if it failed | – |
//! | Ended | – | – | – | – | – | – | – | – | – |
//!
//! A dash: late, counted. An outcome of which the source knows nothing changes nothing.
//!
//! Invariants
//! * What is reported is what the source decided, never what was wished here; and it is durable first.
//! * It never aborts at the target. Source and target finish without it.
//! * An order that comes back after a crash is never begun again.
//! * Only the source says what became of it, only the target that it owns.

use std::time::Duration;

use crate::id::EntityId;
use crate::mix;
use crate::move_frame::{Body, MoveFrame, Reject};
use crate::move_known;
use crate::move_rows::{self, Item, MoveOrder, Outcome};
use crate::move_source::{RESEND_FIRST, RESEND_MAX};
use crate::rows::Write;

/// Options of an orchestrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderConfig {
    /// How long both sides may take to agree; longer, if the daemon may stand still for longer.
    pub prepare: Duration,
    /// How much longer than the daemon may stand still the rest may take.
    pub drive: Duration,
    /// How long the daemon may stand still, where the order says nothing.
    pub freeze: Duration,
    /// Spreads the tries.
    pub seed: u64,
}

impl Default for OrderConfig {
    fn default() -> Self {
        Self {
            prepare: Duration::from_secs(5),
            drive: Duration::from_secs(5),
            freeze: Duration::from_secs(2),
            seed: 0,
        }
    }
}

/// Where an orchestrator is with a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The order is being kept.
    Ordering,
    /// Both sides are asked.
    Preparing,
    /// The source goes on.
    Driving,
    /// The source is asked.
    Asking,
    /// The outcome is being kept.
    Closing,
    /// It is known.
    Ended,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Ordering,
        Self::Preparing,
        Self::Driving,
        Self::Asking,
        Self::Closing,
        Self::Ended,
    ];
}

/// What goes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal<'a> {
    /// A message about this move.
    Heard {
        /// Of this node.
        from: EntityId,
        /// What it says.
        body: Body<'a>,
    },
    /// Whoever ordered it does not want it any more.
    Abort,
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
    /// It is over.
    Ended {
        /// What became of it.
        outcome: Outcome,
        /// Why it was aborted, where a side said so.
        why: Option<Reject>,
    },
}

/// What was of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Signals that came late.
    pub late: u64,
    /// Messages of nodes that may not say so.
    pub foreign: u64,
    /// Writes that failed.
    pub failed: u64,
}

/// One move, from the side of who sees to it.
#[derive(Debug, Clone)]
pub struct MoveOrchestrator {
    order: MoveOrder,
    config: OrderConfig,
    phase: Phase,
    accepted: [bool; 2],
    wants_abort: bool,
    /// What is being kept, and whether the target said so itself.
    outcome: Option<(Outcome, bool)>,
    is_committed: bool,
    why: Option<Reject>,
    ticket: u64,
    writing: Option<u64>,
    deadline: Option<Duration>,
    try_at: Option<Duration>,
    wait: Duration,
    step: u32,
    tries: u64,
    counters: Counters,
}

impl MoveOrchestrator {
    /// Begins a move.
    #[must_use]
    pub fn begin(order: MoveOrder, config: OrderConfig) -> (Self, Action) {
        let mut orchestrator = Self::at(Phase::Ordering, order, config);
        let mut actions = Vec::new();
        orchestrator.write_order(&mut actions);
        let action = actions.pop().expect("it was just pushed");
        (orchestrator, action)
    }

    /// Comes back to an order without an outcome: [`Signal::Timer`] is due at once.
    #[must_use]
    pub fn recovered(order: MoveOrder, config: OrderConfig) -> Self {
        let mut orchestrator = Self::at(Phase::Asking, order, config);
        orchestrator.try_at = Some(Duration::ZERO);
        orchestrator
    }

    const fn at(phase: Phase, order: MoveOrder, config: OrderConfig) -> Self {
        Self {
            order,
            config,
            phase,
            accepted: [false; 2],
            wants_abort: false,
            outcome: None,
            is_committed: false,
            why: None,
            ticket: 0,
            writing: None,
            deadline: None,
            try_at: None,
            wait: RESEND_FIRST,
            step: 0,
            tries: 0,
            counters: Counters {
                late: 0,
                foreign: 0,
                failed: 0,
            },
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The order.
    #[must_use]
    pub const fn order(&self) -> &MoveOrder {
        &self.order
    }

    /// Whether the source has said that the target owns.
    #[must_use]
    pub const fn is_committed(&self) -> bool {
        self.is_committed
    }

    /// What was of no use so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// When [`Signal::Timer`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        match (self.deadline, self.try_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Decides one step. `now` is the time of a clock that never goes back.
    pub fn step(&mut self, now: Duration, signal: Signal<'_>, actions: &mut Vec<Action>) {
        match signal {
            Signal::Heard { from, body } => self.hear(now, from, body, actions),
            Signal::Abort => match self.phase {
                Phase::Ordering => self.wants_abort = true,
                Phase::Preparing | Phase::Driving => self.ask(now, actions),
                Phase::Asking | Phase::Closing | Phase::Ended => self.counters.late += 1,
            },
            Signal::Kept(ticket) => self.kept(now, ticket, actions),
            Signal::Failed(ticket) if self.writing == Some(ticket) => {
                self.counters.failed += 1;
                self.writing = None;
                self.try_at = Some(now + RESEND_MAX);
            }
            Signal::Failed(_) => self.counters.late += 1,
            Signal::Timer => self.timer(now, actions),
        }
    }

    fn hear(&mut self, now: Duration, from: EntityId, body: Body<'_>, actions: &mut Vec<Action>) {
        let (is_source, is_target) = (from == self.order.source, from == self.order.target);
        let is_open = matches!(self.phase, Phase::Preparing | Phase::Driving | Phase::Asking);
        match (self.phase, body) {
            _ if !is_source && !is_target => self.counters.foreign += 1,
            (Phase::Preparing, Body::Accept) => {
                self.accepted[usize::from(is_target)] = true;
                if self.accepted == [true; 2] {
                    self.drive(now, actions);
                }
            }
            (Phase::Preparing, Body::Reject(why)) => {
                self.why = Some(why);
                self.ask(now, actions);
            }
            // The source that rejects the order again has just gone on with it.
            (Phase::Driving, Body::Reject(why)) if is_target => {
                self.why = Some(why);
                self.ask(now, actions);
            }
            (_, Body::Outcome { outcome: None, .. }) => self.counters.late += 1,
            (_, Body::Outcome { .. }) if !is_source => self.counters.foreign += 1,
            (
                _,
                Body::Outcome {
                    outcome: Some(outcome), ..
                },
            ) if is_open => self.close(outcome, false, actions),
            (_, Body::Committed) if is_open && is_target => self.close(Outcome::Committed, true, actions),
            (_, Body::Commit { .. }) if is_open && is_source => self.is_committed = true,
            _ => self.counters.late += 1,
        }
    }

    fn drive(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.phase = Phase::Driving;
        let freeze = self.order.freeze().unwrap_or(self.config.freeze);
        self.deadline = Some(now + freeze + self.config.drive);
        self.wait = RESEND_FIRST;
        self.again(now, actions);
    }

    fn ask(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.phase = Phase::Asking;
        self.deadline = None;
        self.wait = RESEND_FIRST;
        self.again(now, actions);
    }

    fn close(&mut self, outcome: Outcome, by_target: bool, actions: &mut Vec<Action>) {
        self.phase = Phase::Closing;
        self.outcome = Some((outcome, by_target));
        self.deadline = None;
        self.try_at = None;
        self.write_outcome(actions);
    }

    fn write_order(&mut self, actions: &mut Vec<Action>) {
        let ordered = Item::Ordered(self.order.clone());
        let writes = vec![ordered.write(&self.order.entity, &self.order.mid)];
        self.keep(writes, actions);
    }

    fn write_outcome(&mut self, actions: &mut Vec<Action>) {
        if let Some((outcome, _)) = self.outcome {
            let (entity, mid) = (self.order.entity, self.order.mid);
            let ended = Item::Ended(outcome, move_known::until(&self.order));
            let writes = vec![ended.write(&entity, &mid), move_rows::remove_ordered(&entity, &mid)];
            self.keep(writes, actions);
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

    fn kept(&mut self, now: Duration, ticket: u64, actions: &mut Vec<Action>) {
        if self.writing != Some(ticket) {
            self.counters.late += 1;
            return;
        }
        self.writing = None;
        match (self.phase, self.outcome) {
            (Phase::Ordering, _) if self.wants_abort => self.ask(now, actions),
            (Phase::Ordering, _) => {
                self.phase = Phase::Preparing;
                // What the target makes ready takes no longer than the daemon might stand still for it.
                let freeze = self.order.freeze().unwrap_or_default();
                self.deadline = Some(now + self.config.prepare.max(freeze));
                self.again(now, actions);
            }
            (Phase::Closing, Some((outcome, by_target))) => {
                self.phase = Phase::Ended;
                if by_target {
                    let source = self.order.source;
                    self.say(source, Body::Retire, actions);
                }
                let why = self.why.take().filter(|_| outcome == Outcome::Aborted);
                actions.push(Action::Ended { outcome, why });
            }
            _ => self.counters.late += 1,
        }
    }

    fn timer(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.deadline.is_some_and(|at| at <= now) {
            return self.ask(now, actions);
        }
        if self.try_at.is_none_or(|at| now < at) {
            return;
        }
        self.try_at = None;
        match self.phase {
            Phase::Ordering if self.writing.is_none() => self.write_order(actions),
            Phase::Closing if self.writing.is_none() => self.write_outcome(actions),
            _ => self.again(now, actions),
        }
    }

    /// Says what the phase is about, perhaps again.
    fn again(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let (source, target) = (self.order.source, self.order.target);
        match self.phase {
            Phase::Preparing => {
                for (accepted, side) in self.accepted.into_iter().zip([source, target]) {
                    if !accepted {
                        let order = Box::new(self.order.clone());
                        self.say(side, Body::Prepare(order), actions);
                    }
                }
            }
            Phase::Driving => self.say(source, Body::Freeze, actions),
            Phase::Asking => self.say(source, Body::AbortReq, actions),
            Phase::Ordering | Phase::Closing | Phase::Ended => return,
        }
        self.tries += 1;
        let shortened = self
            .wait
            .mul_f64(mix::pair_as_share(self.config.seed, self.tries) / 4.0);
        self.try_at = Some(now + self.wait - shortened);
        self.wait = (self.wait * 2).min(RESEND_MAX);
    }

    fn say(&mut self, to: EntityId, body: Body<'static>, actions: &mut Vec<Action>) {
        self.step = self.step.saturating_add(1);
        let frame = MoveFrame {
            mid: self.order.mid,
            entity: self.order.entity,
            epoch: self.order.epoch,
            step: self.step,
            body,
        };
        actions.push(Action::Send { to, frame });
    }
}
