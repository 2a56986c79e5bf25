//! Decision: what a subscriber does about one channel of one publisher.
//!
//! | signal | Asking | Reading | Leaving | Ended |
//! |---|---|---|---|---|
//! | Accepted, to the last question | Reading | – | – | – |
//! | Rejected, to the last question | Ended; told why | Ended; told why | – | – |
//! | Left, to the last question | – | – | Ended | – |
//! | Event of this log | – | given out, kept, or dropped | – | – |
//! | Event of a later log | – | Asking: asked anew | – | – |
//! | Gap of this log | – | told | – | – |
//! | Gap of a later log | – | Asking: asked anew | – | – |
//! | Head of this log | – | what is missing is asked for | – | – |
//! | Head of a later log | – | Asking: asked anew | – | – |
//! | Ended by the publisher | Ended; told why | Ended; told why | Ended | – |
//! | Unsubscribe | Leaving; asked | Leaving; asked | – | – |
//! | Timer | asked again, later each time | what is missing is asked for again; after [`TRIES_MAX`], Asking: asked anew | asked again; Ended after [`TRIES_MAX`] | – |
//!
//! A dash: it is late, repeated or from elsewhere, and is counted. An answer counts if it has the nonce of a question that
//! is open. A log is one life of the publisher's numbers: a publisher that lost its log begins a later one.
//!
//! Invariants
//! * Numbers are given out in order, each once. A number that is not given out is in a gap that was told.
//! * What came too early is kept, up to a bound; beyond it, it is dropped, counted, and asked for when its turn comes.
//! * Every question is asked again until it is answered; each time later, up to a bound. A publisher that does not answer
//!   what is missing may have forgotten the subscriber, which hears it all the same if another of its node reads.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::channel_frame::{Gap, Nonce, Reason};
use crate::time::UnixMs;

/// Numbers asked for at once.
pub const REPAIR_MAX: u64 = 256;
/// Events kept that came too early.
pub const EARLY_MAX: usize = 256;
/// Bytes of them.
pub const EARLY_BYTES_MAX: u64 = 4 << 20;
/// How long a question waits for its answer the first time.
pub const ASK_FIRST: Duration = Duration::from_millis(50);
/// How long it waits at most.
pub const ASK_MAX: Duration = Duration::from_secs(2);
/// How often a farewell is said; how often what is missing is asked for in vain before the subscription itself is.
pub const TRIES_MAX: u32 = 5;

/// Where a subscription is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It was asked for.
    Asking,
    /// It runs.
    Reading,
    /// Its end was asked for.
    Leaving,
    /// It is over.
    Ended,
}

/// What happens to a subscription. `P` is a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal<P> {
    /// The publisher accepts; the first number to come is `next` of `log`.
    Accepted {
        /// Of the question.
        nonce: Nonce,
        /// Life of the numbers.
        log: u64,
        /// The first number.
        next: u64,
    },
    /// The publisher says no.
    Rejected {
        /// Of the question.
        nonce: Nonce,
        /// Why.
        reason: Reason,
    },
    /// The publisher forgot the subscriber, as it was asked to.
    Left {
        /// Of the question.
        nonce: Nonce,
    },
    /// An event.
    Event {
        /// Life of the numbers.
        log: u64,
        /// Its number.
        sequence: u64,
        /// Bytes that it counts.
        bytes: u64,
        /// It.
        payload: P,
    },
    /// These numbers do not come any more.
    Gap {
        /// Life of the numbers.
        log: u64,
        /// Which.
        gap: Gap,
    },
    /// Numbers up to this one were given.
    Head {
        /// Life of the numbers.
        log: u64,
        /// The last.
        last: u64,
    },
    /// The publisher ended it.
    Ended {
        /// Why.
        reason: Reason,
    },
    /// The subscriber wants no more.
    Unsubscribe,
    /// Time has passed.
    Timer,
}

/// What a subscription wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<P> {
    /// Ask to subscribe; `after` is what was read of which log.
    Subscribe {
        /// Of the question.
        nonce: Nonce,
        /// Life of the numbers, and the last one that was given out.
        after: Option<(u64, u64)>,
    },
    /// Ask to be forgotten.
    Leave {
        /// Of the question.
        nonce: Nonce,
    },
    /// Ask for numbers.
    Repair {
        /// Life of the numbers.
        log: u64,
        /// The first.
        first: u64,
        /// The last.
        last: u64,
    },
    /// Give an event out.
    Deliver {
        /// Its number.
        sequence: u64,
        /// It.
        payload: P,
    },
    /// Say that numbers are missing.
    TellGap(Gap),
    /// Say that the publisher began anew: what it published after the last number that was given out is not known.
    TellRestart {
        /// The life that began.
        log: u64,
        /// Its first number to come.
        next: u64,
    },
    /// Say that it runs.
    TellReading,
    /// Say that it is over, and why, if the publisher wanted it.
    TellEnded(Option<Reason>),
}

/// What was not given out, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Events that were given out.
    pub delivered: u64,
    /// Events that had been given out or kept before.
    pub duplicates: u64,
    /// Events for which there was no place, to be asked for again.
    pub crowded: u64,
    /// Numbers in gaps.
    pub missing: u64,
    /// Signals that came late, from elsewhere, or from another life of the numbers.
    pub ignored: u64,
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription<P> {
    phase: Phase,
    nonce: Nonce,
    /// Life of the numbers, and the last that was given out.
    at: Option<(u64, u64)>,
    /// The last number that is known to have been given.
    head: u64,
    early: BTreeMap<u64, (u64, P)>,
    early_bytes: u64,
    /// When the open question is asked again, and how often it was.
    asked: Option<(UnixMs, u32)>,
    counts: Counts,
}

impl<P> Subscription<P> {
    /// Begins, from now on, or after what was read before: a log and a number.
    #[must_use]
    pub fn begin(nonce: Nonce, after: Option<(u64, u64)>, now: UnixMs) -> (Self, Vec<Action<P>>) {
        let mut made = Self {
            phase: Phase::Asking,
            nonce,
            at: after,
            head: 0,
            early: BTreeMap::new(),
            early_bytes: 0,
            asked: None,
            counts: Counts::default(),
        };
        let actions = vec![made.ask(now)];
        (made, actions)
    }

    /// Decides one step. `fresh` is random; it becomes the nonce of the next question.
    #[must_use]
    pub fn step(&mut self, signal: Signal<P>, fresh: Nonce, now: UnixMs) -> Vec<Action<P>> {
        match (self.phase, signal) {
            (Phase::Asking, Signal::Accepted { nonce, log, next }) if nonce == self.nonce => {
                self.accepted(log, next, now)
            }
            (Phase::Asking | Phase::Reading, Signal::Rejected { nonce, reason }) if nonce == self.nonce => {
                self.end(Some(reason))
            }
            (Phase::Asking | Phase::Reading, Signal::Ended { reason }) => self.end(Some(reason)),
            (Phase::Leaving, Signal::Ended { .. }) => self.end(None),
            (Phase::Leaving, Signal::Left { nonce }) if nonce == self.nonce => self.end(None),
            (
                Phase::Reading,
                Signal::Event {
                    log,
                    sequence,
                    bytes,
                    payload,
                },
            ) => match self.same_log(log, fresh, now) {
                Ok(()) => self.event(sequence, bytes, payload, now),
                Err(actions) => actions,
            },
            (Phase::Reading, Signal::Gap { log, gap }) => match self.same_log(log, fresh, now) {
                Ok(()) => self.gap(gap, now),
                Err(actions) => actions,
            },
            (Phase::Reading, Signal::Head { log, last }) => match self.same_log(log, fresh, now) {
                Ok(()) => {
                    self.head = self.head.max(last);
                    self.repair(now)
                }
                Err(actions) => actions,
            },
            (Phase::Asking | Phase::Reading, Signal::Unsubscribe) => {
                self.phase = Phase::Leaving;
                self.nonce = fresh;
                self.asked = None;
                vec![self.ask(now)]
            }
            (phase, Signal::Timer) => self.timer(phase, fresh, now),
            _ => {
                self.counts.ignored += 1;
                Vec::new()
            }
        }
    }

    /// When a [`Signal::Timer`] is due.
    #[must_use]
    pub fn due(&self) -> Option<UnixMs> {
        self.asked.map(|(at, _)| at)
    }

    /// Where it is.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Life of the numbers, and the last that was given out.
    #[must_use]
    pub const fn cursor(&self) -> Option<(u64, u64)> {
        self.at
    }

    /// What it counted.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    fn cursor_in_log(&self) -> u64 {
        self.at.map_or(0, |(_, cursor)| cursor)
    }

    fn log(&self) -> u64 {
        self.at.map_or(0, |(log, _)| log)
    }

    fn accepted(&mut self, log: u64, next: u64, now: UnixMs) -> Vec<Action<P>> {
        self.phase = Phase::Reading;
        self.asked = None;
        let mut actions = vec![Action::TellReading];
        let first = next.saturating_sub(1);
        match self.at {
            // It goes on where it was: what is between was published meanwhile.
            Some((known, cursor)) if known == log => {
                self.head = self.head.max(first);
                if cursor < first {
                    actions.extend(self.repair(now));
                }
                return actions;
            }
            Some(_) => actions.push(Action::TellRestart { log, next }),
            None => {}
        }
        self.drop_early();
        self.at = Some((log, first));
        self.head = first;
        actions
    }

    /// A later life of the numbers: the publisher does not know this subscriber any more.
    fn same_log(&mut self, log: u64, fresh: Nonce, now: UnixMs) -> Result<(), Vec<Action<P>>> {
        if log == self.log() {
            return Ok(());
        }
        if log < self.log() {
            self.counts.ignored += 1;
            return Err(Vec::new());
        }
        self.drop_early();
        Err(vec![self.ask_anew(fresh, now)])
    }

    /// Goes back to asking, from where it is.
    fn ask_anew(&mut self, fresh: Nonce, now: UnixMs) -> Action<P> {
        self.phase = Phase::Asking;
        self.nonce = fresh;
        self.asked = None;
        self.ask(now)
    }

    fn event(&mut self, sequence: u64, bytes: u64, payload: P, now: UnixMs) -> Vec<Action<P>> {
        self.head = self.head.max(sequence);
        let cursor = self.cursor_in_log();
        if sequence <= cursor || self.early.contains_key(&sequence) {
            self.counts.duplicates += 1;
            return Vec::new();
        }
        if sequence == cursor + 1 {
            let mut actions = vec![self.deliver(sequence, payload)];
            self.drain(&mut actions, now);
            return actions;
        }
        if self.early.len() >= EARLY_MAX || self.early_bytes.saturating_add(bytes) > EARLY_BYTES_MAX {
            self.counts.crowded += 1;
        } else {
            self.early_bytes += bytes;
            self.early.insert(sequence, (bytes, payload));
        }
        self.repair(now)
    }

    fn gap(&mut self, gap: Gap, now: UnixMs) -> Vec<Action<P>> {
        self.head = self.head.max(gap.last);
        let cursor = self.cursor_in_log();
        if gap.first > cursor.saturating_add(1) || gap.last <= cursor || gap.first > gap.last {
            self.counts.ignored += 1;
            return self.repair(now);
        }
        let mut actions = Vec::new();
        while self.cursor_in_log() < gap.last {
            let first = self.cursor_in_log() + 1;
            // What is kept is not missing, whatever the publisher still has.
            let kept = self.early.range(first..=gap.last).next().map(|(kept, _)| *kept);
            if kept == Some(first) {
                self.give_out_early(&mut actions);
                continue;
            }
            let last = kept.map_or(gap.last, |kept| kept - 1);
            let told = Gap { first, last };
            self.counts.missing = self.counts.missing.saturating_add(told.len());
            self.at = Some((self.log(), last));
            actions.push(Action::TellGap(told));
        }
        self.drain(&mut actions, now);
        actions
    }

    fn give_out_early(&mut self, actions: &mut Vec<Action<P>>) {
        let mut next = self.cursor_in_log().saturating_add(1);
        while let Some((bytes, payload)) = self.early.remove(&next) {
            self.early_bytes -= bytes;
            actions.push(self.deliver(next, payload));
            next = next.saturating_add(1);
        }
    }

    /// Gives out what was kept and has its turn now; then asks for what is missing.
    fn drain(&mut self, actions: &mut Vec<Action<P>>, now: UnixMs) {
        self.give_out_early(actions);
        // What was asked for is coming: the rest is asked for anew.
        self.asked = None;
        actions.extend(self.repair(now));
    }

    fn deliver(&mut self, sequence: u64, payload: P) -> Action<P> {
        self.at = Some((self.log(), sequence));
        self.counts.delivered += 1;
        Action::Deliver { sequence, payload }
    }

    /// Asks for what is missing, unless that was asked a moment ago.
    fn repair(&mut self, now: UnixMs) -> Vec<Action<P>> {
        let cursor = self.cursor_in_log();
        if cursor >= self.head {
            self.asked = None;
            return Vec::new();
        }
        if self.asked.is_some() {
            return Vec::new();
        }
        vec![self.ask_for_numbers(now, 0)]
    }

    fn ask_for_numbers(&mut self, now: UnixMs, tries: u32) -> Action<P> {
        let first = self.cursor_in_log() + 1;
        let known = self.early.keys().next().map_or(self.head, |kept| kept - 1);
        self.asked = Some((now.plus(pause(tries)), tries + 1));
        Action::Repair {
            log: self.log(),
            first,
            last: known.min(first.saturating_add(REPAIR_MAX - 1)),
        }
    }

    fn ask(&mut self, now: UnixMs) -> Action<P> {
        let tries = self.asked.map_or(0, |(_, tries)| tries);
        self.asked = Some((now.plus(pause(tries)), tries + 1));
        let nonce = self.nonce;
        if self.phase == Phase::Leaving {
            return Action::Leave { nonce };
        }
        Action::Subscribe { nonce, after: self.at }
    }

    fn timer(&mut self, phase: Phase, fresh: Nonce, now: UnixMs) -> Vec<Action<P>> {
        let Some((at, tries)) = self.asked else {
            return Vec::new();
        };
        if now < at {
            return Vec::new();
        }
        match phase {
            Phase::Asking => vec![self.ask(now)],
            Phase::Leaving if tries >= TRIES_MAX => self.end(None),
            Phase::Leaving => vec![self.ask(now)],
            Phase::Reading if tries >= TRIES_MAX => vec![self.ask_anew(fresh, now)],
            Phase::Reading => vec![self.ask_for_numbers(now, tries)],
            Phase::Ended => Vec::new(),
        }
    }

    fn end(&mut self, reason: Option<Reason>) -> Vec<Action<P>> {
        self.phase = Phase::Ended;
        self.asked = None;
        self.drop_early();
        vec![Action::TellEnded(reason)]
    }

    fn drop_early(&mut self) {
        self.early.clear();
        self.early_bytes = 0;
    }
}

fn pause(tries: u32) -> Duration {
    ASK_FIRST.saturating_mul(1 << tries.min(10)).min(ASK_MAX)
}
