//! Decision: what a sender does about its events to one entity, until each is settled.
//!
//! | signal | what comes of it |
//! |---|---|
//! | Send, new number | queued; transmitted if the window reaches it; refused when full or out of order |
//! | Send, number of an open event | goes on as it is, with the new deadline |
//! | Send, number that was settled | asked again, in front of all others: its receipt comes as a duplicate |
//! | Ack, Stale, PassedOver of an event on its way | settled: taken, unknown, passed over; the window moves on |
//! | Gap, cursor below the oldest one's `prev` | that `prev` becomes the cursor; in a later epoch the difference is lost |
//! | Gap, otherwise | what is on its way above the cursor is transmitted again |
//! | Busy, Queued | the next try comes later; never an acknowledgement |
//! | Moved, later epoch | believed: everything on its way goes there |
//! | Moved, same or earlier epoch | nothing |
//! | NotHere | the next try asks any node |
//! | Timer, a deadline | told once; the event goes on, since it may have taken effect |
//! | Timer, a try | everything on its way again, later each time; after four without an answer any node is asked |
//! | any answer about an event that is not on its way | nothing |
//!
//! Events that are rows of a store ([`Outbox::with_rows`]) come back after a crash, and are sent again. For them:
//!
//! | signal | what comes of it |
//! |---|---|
//! | Ack, Stale, PassedOver of the oldest open one | settled, and all up to the next open one may be released: their rows may go |
//! | Released, up to what may be released | forgotten; the window moves on |
//! | Released, otherwise | nothing |
//!
//! Invariants
//! * The number, the payload and `prev` of an event are the same in each try, until a gap proves that its receiver went
//!   back.
//! * Only the first [`Limits::window`] events from the oldest open one on have left: as many receipts the receiver keeps.
//!   With rows: from the oldest one on whose row is not known to be gone, and no row goes before one that was sent before it.
//!   So whatever comes back after a crash and had left, had left within one window: the receipt of it is kept.
//! * Nothing but an answer about that very event settles it.
//! * Events leave the first time in the order of their numbers.
//! * The owner that is believed never changes to one of the same or an earlier epoch.
//!
//! Source: rules R1 to R3 and R5 to R8 of the move protocol.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::cursors::Receipt;
use crate::id::EntityId;
use crate::inflow::WINDOW;
use crate::mix;
use crate::stream::{Event, Flow, Frame};

/// The first wait for an answer; it doubles with each try.
pub const RESEND_FIRST: Duration = Duration::from_millis(50);

/// The longest wait for an answer.
pub const RESEND_MAX: Duration = Duration::from_secs(1);

/// The longest time that a receiver may ask to be left alone.
pub const BUSY_MAX: Duration = Duration::from_secs(30);

/// Tries without an answer after which any node is asked.
pub const QUIET_MAX: u32 = 4;

/// Gaps within this time are one: each event behind a hole is answered with one.
const GAP_PAUSE: Duration = Duration::from_millis(10);

/// How much an outbox holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Events that are not settled.
    pub events_max: usize,
    /// Their payload bytes; one event always fits.
    pub bytes_max: usize,
    /// Events on their way, counted from the oldest open one.
    pub window: usize,
    /// Payload bytes on their way; one event always is.
    pub window_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            events_max: 65_536,
            bytes_max: 64 << 20,
            window: WINDOW,
            window_bytes: 4 << 20,
        }
    }
}

/// Who owns the entity, as far as the sender knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Key of its node.
    pub node: EntityId,
    /// Since which epoch.
    pub epoch: u64,
}

/// What happens to an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal<P> {
    /// An event is to be sent, perhaps not for the first time.
    Send {
        /// Its number.
        sequence: u64,
        /// The event; that of the first time counts.
        payload: P,
        /// When to tell that it takes too long; `None`: never.
        deadline: Option<Duration>,
    },
    /// Time has passed.
    Timer,
    /// The receiver acknowledged an event.
    Ack {
        /// Its receipt.
        receipt: Receipt,
        /// Whether it had taken effect before that try.
        duplicate: bool,
    },
    /// The receiver has no room.
    Busy {
        /// For which event.
        sequence: u64,
        /// When to try again.
        retry_after: Duration,
    },
    /// The event waits at the receiver.
    Queued {
        /// Which event.
        sequence: u64,
    },
    /// Events before it are missing.
    Gap {
        /// Which event.
        sequence: u64,
        /// Highest number applied.
        cursor: u64,
        /// Epoch of who says so.
        epoch: u64,
    },
    /// Nothing is known of the event any more.
    Stale {
        /// Which event.
        sequence: u64,
        /// Epoch of who says so.
        epoch: u64,
    },
    /// It failed too often.
    PassedOver {
        /// Which event.
        sequence: u64,
        /// Epoch of who says so.
        epoch: u64,
    },
    /// A node tells who the owner is.
    Moved(Owner),
    /// The node that was asked knows nothing of the entity.
    NotHere,
    /// It is durable that the rows of events up to this one are gone.
    Released {
        /// The last of them.
        through: u64,
    },
}

impl<P> Signal<P> {
    /// The signal that an answer is; `None`: it is none.
    #[must_use]
    pub const fn of(frame: &Frame<'_>) -> Option<Self> {
        Some(match *frame {
            Frame::Ack { receipt, duplicate, .. } => Self::Ack { receipt, duplicate },
            Frame::Busy {
                sequence,
                retry_after_ms,
                ..
            } => Self::Busy {
                sequence,
                retry_after: Duration::from_millis(retry_after_ms as u64),
            },
            Frame::Queued { sequence, .. } => Self::Queued { sequence },
            Frame::Gap {
                sequence,
                cursor,
                epoch,
                ..
            } => Self::Gap {
                sequence,
                cursor,
                epoch,
            },
            Frame::Stale { sequence, epoch, .. } => Self::Stale { sequence, epoch },
            Frame::PassedOver { sequence, epoch, .. } => Self::PassedOver { sequence, epoch },
            Frame::Moved { node, epoch, .. } => Self::Moved(Owner { node, epoch }),
            Frame::NotHere { .. } => Self::NotHere,
            _ => return None,
        })
    }
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Taken {
        /// The receipt of that.
        receipt: Receipt,
        /// Whether that was an earlier try.
        duplicate: bool,
    },
    /// Nobody knows any more: it took effect, or an event with its number was passed over.
    Unknown,
    /// It failed too often at its receiver.
    PassedOver,
}

/// Why an event was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// As much waits as may.
    Backpressure,
    /// Its number is 0, or lies between numbers that were sent.
    OutOfOrder,
}

/// What an outbox wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send [`Outbox::event`] of this number to this node.
    Transmit {
        /// Which event.
        sequence: u64,
        /// To which node.
        to: EntityId,
    },
    /// Ask any nodes who the owner is.
    Locate,
    /// An event is settled; nothing more is told of it.
    Settled {
        /// Which event.
        sequence: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// The rows of all events up to this one may go. To be told when that is durable; only with rows.
    Release {
        /// The last of them.
        through: u64,
    },
    /// The deadline of an event has passed. It goes on: sending it again continues it.
    TimedOut {
        /// Which event.
        sequence: u64,
    },
    /// An event was not taken in.
    Refused {
        /// Which event.
        sequence: u64,
        /// Why.
        why: Refusal,
    },
    /// The receiver went back behind what it had acknowledged. To be told when a restart or takeover record of at most this
    /// epoch confirms it.
    Lost {
        /// The last event that is still applied.
        after: u64,
        /// The last event that was acknowledged, or settled otherwise.
        through: u64,
        /// Epoch of the owner that said so.
        epoch: u64,
    },
}

#[derive(Debug, Clone)]
struct Open<P> {
    sequence: u64,
    payload: P,
    /// Set when it leaves the first time.
    prev: u64,
    left_at: Duration,
    deadline: Option<Duration>,
    /// Its answer came, but that of one before it did not.
    settled: bool,
}

/// The events of one origin to one entity in one stream.
#[derive(Debug, Clone)]
pub struct Outbox<P> {
    flow: Flow,
    limits: Limits,
    seed: u64,
    owner: Option<Owner>,
    /// From the oldest open one on, ascending. The first `left` of them have left.
    queue: VecDeque<Open<P>>,
    left: usize,
    /// Whether events are rows of a store.
    has_rows: bool,
    /// The first so many are settled, and wait for their rows to go; the next one is open.
    releasing: usize,
    bytes: usize,
    flying_bytes: usize,
    last_queued: u64,
    last_left: u64,
    /// Highest epoch of an owner that settled an event: it had applied everything before that one.
    answered_epoch: u64,
    deadlines: BTreeSet<(Duration, u64)>,
    wait: Duration,
    quiet: u32,
    tries: u64,
    try_at: Option<Duration>,
    /// Nothing leaves for the first time before.
    held_until: Duration,
    gap_until: Duration,
}

impl<P: AsRef<[u8]>> Outbox<P> {
    /// An outbox that has sent nothing in this process. `seed` spreads its tries.
    #[must_use]
    pub const fn new(flow: Flow, limits: Limits, seed: u64) -> Self {
        Self {
            flow,
            limits,
            seed,
            owner: None,
            queue: VecDeque::new(),
            left: 0,
            has_rows: false,
            releasing: 0,
            bytes: 0,
            flying_bytes: 0,
            last_queued: 0,
            last_left: 0,
            answered_epoch: 0,
            deadlines: BTreeSet::new(),
            wait: RESEND_FIRST,
            quiet: 0,
            tries: 0,
            try_at: None,
            held_until: Duration::ZERO,
            gap_until: Duration::ZERO,
        }
    }

    /// The same, with what is known of the owner, before anything is sent.
    #[must_use]
    pub const fn with_owner(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// The same, for events that are rows of a store and come back with it, before anything is sent.
    #[must_use]
    pub const fn with_rows(mut self) -> Self {
        self.has_rows = true;
        self
    }

    /// Whose events go where.
    #[must_use]
    pub const fn flow(&self) -> Flow {
        self.flow
    }

    /// Who owns the entity, as far as is known.
    #[must_use]
    pub const fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// Events that are not settled, ascending.
    pub fn open(&self) -> impl Iterator<Item = u64> {
        self.queue.iter().filter(|open| !open.settled).map(|open| open.sequence)
    }

    /// Events that are not settled, with what is in them, ascending.
    pub fn unsettled(&self) -> impl Iterator<Item = (u64, &P)> {
        let open = self.queue.iter().filter(|open| !open.settled);
        open.map(|open| (open.sequence, &open.payload))
    }

    /// Whether everything is settled, and every row is gone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Payload bytes that are held.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The frame of an event that has left.
    #[must_use]
    pub fn event(&self, sequence: u64) -> Option<Event<'_>> {
        let at = self.place(sequence).ok().filter(|at| *at < self.left)?;
        let open = &self.queue[at];
        Some(Event {
            flow: self.flow,
            sequence,
            prev: open.prev,
            epoch: self.owner.map_or(0, |owner| owner.epoch),
            payload: open.payload.as_ref(),
        })
    }

    /// When [`Signal::Timer`] is due; `None`: something else has to happen first.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        match (self.try_at, deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Gives up all that is open: what became of it is not known. For an entity that is gone for good.
    #[must_use]
    pub fn abandon(self) -> Vec<u64> {
        self.open().collect()
    }

    /// Decides one step. `now` is the time of a clock that never goes back.
    pub fn step(&mut self, now: Duration, signal: Signal<P>, actions: &mut Vec<Action>) {
        match signal {
            Signal::Send {
                sequence,
                payload,
                deadline,
            } => self.send(now, sequence, payload, deadline, actions),
            Signal::Timer => self.timer(now, actions),
            Signal::Ack { receipt, duplicate } => {
                let outcome = Outcome::Taken { receipt, duplicate };
                self.settle(now, receipt.sequence, receipt.epoch, outcome, actions);
            }
            Signal::Stale { sequence, epoch } => self.settle(now, sequence, epoch, Outcome::Unknown, actions),
            Signal::PassedOver { sequence, epoch } => self.settle(now, sequence, epoch, Outcome::PassedOver, actions),
            Signal::Gap {
                sequence,
                cursor,
                epoch,
            } => self.gap(now, sequence, cursor, epoch, actions),
            Signal::Busy { sequence, retry_after } => {
                if self.flying(sequence).is_some() {
                    self.quiet = 0;
                    self.held_until = now + retry_after.min(BUSY_MAX);
                    self.try_at = Some(self.held_until + self.jitter(RESEND_FIRST));
                }
            }
            Signal::Queued { sequence } => {
                if self.flying(sequence).is_some() {
                    self.quiet = 0;
                    self.wait = RESEND_MAX;
                    self.try_at = Some(now + self.jitter(RESEND_MAX));
                }
            }
            Signal::Moved(owner) => {
                if self.owner.is_none_or(|known| owner.epoch > known.epoch) {
                    self.owner = Some(owner);
                    self.held_until = now;
                    self.again(now, |_, _| true, actions);
                    self.pump(now, actions);
                    self.progress(now);
                }
            }
            Signal::NotHere => self.quiet = self.quiet.max(QUIET_MAX - 1),
            Signal::Released { through } => {
                let gone = self.queue.iter().take(self.releasing);
                let count = gone.take_while(|open| open.sequence <= through).count();
                self.forget(now, count, actions);
            }
        }
    }

    fn place(&self, sequence: u64) -> Result<usize, usize> {
        self.queue.binary_search_by_key(&sequence, |open| open.sequence)
    }

    /// The place of an event that has left and is open.
    fn flying(&self, sequence: u64) -> Option<usize> {
        let at = self.place(sequence).ok()?;
        (at < self.left && !self.queue[at].settled).then_some(at)
    }

    fn send(
        &mut self,
        now: Duration,
        sequence: u64,
        payload: P,
        deadline: Option<Duration>,
        actions: &mut Vec<Action>,
    ) {
        let bytes = payload.as_ref().len();
        let is_full = self.queue.len() >= self.limits.events_max
            || (self.bytes + bytes > self.limits.bytes_max && !self.queue.is_empty());
        let refused = |why| Action::Refused { sequence, why };
        match self.place(sequence) {
            Ok(at) => self.continue_open(now, at, deadline, actions),
            _ if sequence == 0 => actions.push(refused(Refusal::OutOfOrder)),
            Err(at) if at > 0 && sequence <= self.last_queued => actions.push(refused(Refusal::OutOfOrder)),
            Err(_) if is_full => actions.push(refused(Refusal::Backpressure)),
            Err(at) => {
                let settled_before = sequence <= self.last_queued;
                self.queue.insert(
                    at,
                    Open {
                        sequence,
                        payload,
                        prev: 0,
                        left_at: now,
                        deadline,
                        settled: false,
                    },
                );
                self.bytes += bytes;
                self.deadlines.extend(deadline.map(|at| (at, sequence)));
                self.releasing = self.releasing.min(at);
                if settled_before {
                    // It was answered, so its number is not above the cursor: any `prev` below it is true.
                    self.left += 1;
                    self.flying_bytes += bytes;
                    self.again(now, |number, _| number == sequence, actions);
                } else {
                    self.last_queued = sequence;
                }
                self.pump(now, actions);
                self.arm(now);
            }
        }
    }

    fn continue_open(&mut self, now: Duration, at: usize, deadline: Option<Duration>, actions: &mut Vec<Action>) {
        let open = &mut self.queue[at];
        let (sequence, bytes) = (open.sequence, open.payload.as_ref().len());
        if let Some(before) = open.deadline.take() {
            self.deadlines.remove(&(before, sequence));
        }
        open.deadline = deadline;
        self.deadlines.extend(deadline.map(|at| (at, sequence)));
        if open.settled {
            open.settled = false;
            self.releasing = self.releasing.min(at);
            self.flying_bytes += bytes;
            self.again(now, |number, _| number == sequence, actions);
            self.arm(now);
        }
    }

    /// Has everything leave that the window reaches.
    fn pump(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.left >= self.queue.len() {
            return;
        }
        let Some(owner) = self.owner else {
            if self.try_at.is_none() {
                actions.push(Action::Locate);
            }
            return;
        };
        while now >= self.held_until && self.left < self.limits.window.min(self.queue.len()) {
            let open = &mut self.queue[self.left];
            let bytes = open.payload.as_ref().len();
            if self.flying_bytes > 0 && self.flying_bytes + bytes > self.limits.window_bytes {
                break;
            }
            (open.prev, open.left_at) = (self.last_left, now);
            self.last_left = open.sequence;
            self.left += 1;
            self.flying_bytes += bytes;
            actions.push(Action::Transmit {
                sequence: open.sequence,
                to: owner.node,
            });
        }
    }

    /// Transmits again what is on its way and chosen, by its number and when it left last.
    fn again(&mut self, now: Duration, chosen: impl Fn(u64, Duration) -> bool, actions: &mut Vec<Action>) {
        let Some(owner) = self.owner else { return };
        for open in self.queue.iter_mut().take(self.left) {
            if !open.settled && chosen(open.sequence, open.left_at) {
                open.left_at = now;
                actions.push(Action::Transmit {
                    sequence: open.sequence,
                    to: owner.node,
                });
            }
        }
    }

    fn settle(&mut self, now: Duration, sequence: u64, epoch: u64, outcome: Outcome, actions: &mut Vec<Action>) {
        let Some(at) = self.flying(sequence) else { return };
        self.answered_epoch = self.answered_epoch.max(epoch);
        let open = &mut self.queue[at];
        open.settled = true;
        self.flying_bytes -= open.payload.as_ref().len();
        if let Some(deadline) = open.deadline.take() {
            self.deadlines.remove(&(deadline, sequence));
        }
        actions.push(Action::Settled { sequence, outcome });
        self.quiet = 0;
        let next = self.queue.iter().skip(self.releasing);
        let settled = self.releasing + next.take_while(|open| open.settled).count();
        if !self.has_rows {
            self.forget(now, settled, actions);
        } else if settled > self.releasing {
            self.releasing = settled;
            let through = self.queue[settled - 1].sequence;
            actions.push(Action::Release { through });
            self.pump(now, actions);
            self.progress(now);
        } else {
            self.pump(now, actions);
        }
    }

    /// Forgets the first so many: the window moves on.
    fn forget(&mut self, now: Duration, count: usize, actions: &mut Vec<Action>) {
        for open in self.queue.drain(..count) {
            self.bytes -= open.payload.as_ref().len();
        }
        self.left -= count;
        self.releasing = self.releasing.saturating_sub(count);
        self.pump(now, actions);
        if count > 0 {
            self.progress(now);
        }
    }

    fn gap(&mut self, now: Duration, sequence: u64, cursor: u64, epoch: u64, actions: &mut Vec<Action>) {
        if self.flying(sequence).is_none() {
            return;
        }
        self.quiet = 0;
        let answered_epoch = self.answered_epoch;
        let oldest = &mut self.queue[self.releasing];
        if cursor < oldest.prev {
            // Within an epoch a cursor only rises, and a move takes it along: an older answer that comes late.
            if epoch > answered_epoch {
                actions.push(Action::Lost {
                    after: cursor,
                    through: oldest.prev,
                    epoch,
                });
            }
            oldest.prev = cursor;
            let first = oldest.sequence;
            self.again(now, |number, _| number == first, actions);
        } else if now >= self.gap_until {
            self.gap_until = now + GAP_PAUSE;
            self.again(now, |number, _| number > cursor, actions);
        }
    }

    fn timer(&mut self, now: Duration, actions: &mut Vec<Action>) {
        while let Some((at, sequence)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, sequence));
            if let Ok(place) = self.place(sequence) {
                self.queue[place].deadline = None;
            }
            actions.push(Action::TimedOut { sequence });
        }
        if self.try_at.is_none_or(|at| at > now) {
            return;
        }
        if !self.waits() {
            self.try_at = None;
            return;
        }
        self.quiet = self.quiet.saturating_add(1);
        if self.quiet >= QUIET_MAX || self.owner.is_none() {
            actions.push(Action::Locate);
        }
        // What left a moment ago is not late yet.
        let late = now.saturating_sub(RESEND_FIRST / 2);
        self.again(now, |_, left_at| left_at <= late, actions);
        self.pump(now, actions);
        self.wait = (self.wait * 2).min(RESEND_MAX);
        self.try_at = Some(now + self.jitter(self.wait));
    }

    /// The oldest event is settled, or the owner is another: waits begin anew.
    fn progress(&mut self, now: Duration) {
        (self.wait, self.quiet, self.try_at) = (RESEND_FIRST, 0, None);
        self.arm(now);
    }

    /// Whether something is on its way, or may leave.
    fn waits(&self) -> bool {
        self.releasing < self.left || self.left < self.limits.window.min(self.queue.len())
    }

    fn arm(&mut self, now: Duration) {
        if !self.waits() {
            self.try_at = None;
        } else if self.try_at.is_none() {
            self.try_at = Some(now.max(self.held_until) + self.jitter(self.wait));
        }
    }

    /// A wait, shortened by up to a quarter, so that those who lost the same owner do not come back together.
    fn jitter(&mut self, wait: Duration) -> Duration {
        self.tries += 1;
        wait - wait.mul_f64(mix::pair_as_share(self.seed, self.tries) / 4.0)
    }
}
