//! Decision: what a node does about something that it asked of another node.
//!
//! | signal | Asking | Fetching | Ended |
//! |---|---|---|---|
//! | Answer: Done, Refused | Ended; told | Ended; told, a refusal only | – |
//! | Answer: Taken | Fetching; the first part is asked for; Ended, if it is empty or too large | – | – |
//! | Answer: Working | asked later | – | – |
//! | Part at the place that is asked for | – | taken, and the next is asked for; Ended with the last | – |
//! | Part at another place, or too long | – | – | – |
//! | Timer | asked again, later each time | asked for again, later each time | – |
//!
//! A dash: it is late, repeated or from elsewhere, and is counted.
//!
//! Invariants
//! * What is asked again is the same call: the other node does it once.
//! * A part is taken once, in order. What was fetched has the size that was named; whoever runs it compares the digest.
//! * It never gives up: whoever waits for it does, at a deadline.

use std::time::Duration;

use crate::digest::Digest;
use crate::mix;
use crate::remote_frame::{Answer, PART_BYTES_MAX, Refused};

/// The first wait for an answer; it doubles with each try.
pub const RESEND_FIRST: Duration = Duration::from_millis(100);

/// The longest wait for an answer.
pub const RESEND_MAX: Duration = Duration::from_secs(2);

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// It was answered.
    Answer(Answer),
    /// A part came.
    Part {
        /// Where it begins.
        offset: u64,
        /// How long it is.
        length: usize,
    },
    /// Time has passed.
    Timer,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It is done, and everything was fetched.
    Fetched {
        /// What its digest must be.
        digest: Digest,
    },
    /// It is not done.
    Refused(Refused),
    /// What is to be fetched is larger than is taken here.
    TooLarge {
        /// Its size.
        size: u64,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask, perhaps again.
    Ask,
    /// Ask for the part that begins here.
    Fetch {
        /// Where.
        offset: u64,
    },
    /// Put the part behind those before it.
    Take,
    /// It is over.
    Ended(Outcome),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Asking,
    Fetching { size: u64, digest: Digest, have: u64 },
    Ended,
}

/// One call, from its caller's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteCall {
    phase: Phase,
    size_max: u64,
    wait: Duration,
    try_at: Option<Duration>,
    tries: u64,
    seed: u64,
    ignored: u64,
}

impl RemoteCall {
    /// Begins. What is fetched has at most `size_max` bytes; `seed` spreads the tries.
    #[must_use]
    pub fn begin(now: Duration, size_max: u64, seed: u64) -> (Self, Action) {
        let mut call = Self {
            phase: Phase::Asking,
            size_max,
            wait: RESEND_FIRST,
            try_at: None,
            tries: 0,
            seed,
            ignored: 0,
        };
        call.arm(now);
        (call, Action::Ask)
    }

    /// When a [`Signal::Timer`] is due.
    #[must_use]
    pub const fn wake_at(&self) -> Option<Duration> {
        self.try_at
    }

    /// What was of no use.
    #[must_use]
    pub const fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Decides one step. `now` is the time of a clock that never goes back.
    pub fn step(&mut self, now: Duration, signal: Signal, actions: &mut Vec<Action>) {
        match (&mut self.phase, signal) {
            (Phase::Asking, Signal::Answer(Answer::Done)) => self.end(Outcome::Done, actions),
            (Phase::Asking | Phase::Fetching { .. }, Signal::Answer(Answer::Refused(refused))) => {
                self.end(Outcome::Refused(refused), actions);
            }
            (Phase::Asking, Signal::Answer(Answer::Taken { size, digest })) => {
                if size > self.size_max {
                    self.end(Outcome::TooLarge { size }, actions);
                } else if size == 0 {
                    self.end(Outcome::Fetched { digest }, actions);
                } else {
                    self.phase = Phase::Fetching { size, digest, have: 0 };
                    self.fetch(now, 0, actions);
                }
            }
            (Phase::Asking, Signal::Answer(Answer::Working)) => {
                self.wait = RESEND_MAX;
                self.arm(now);
            }
            (Phase::Fetching { size, digest, have }, Signal::Part { offset, length })
                if offset == *have && length as u64 == (*size - offset).min(PART_BYTES_MAX as u64) =>
            {
                *have += length as u64;
                actions.push(Action::Take);
                if *have == *size {
                    let outcome = Outcome::Fetched { digest: *digest };
                    self.end(outcome, actions);
                } else {
                    let offset = *have;
                    self.fetch(now, offset, actions);
                }
            }
            (phase @ (Phase::Asking | Phase::Fetching { .. }), Signal::Timer) => {
                if self.try_at.is_none_or(|at| now < at) {
                    return;
                }
                actions.push(match phase {
                    Phase::Fetching { have, .. } => Action::Fetch { offset: *have },
                    _ => Action::Ask,
                });
                self.wait = (self.wait * 2).min(RESEND_MAX);
                self.arm(now);
            }
            (Phase::Ended, Signal::Timer) => {}
            _ => self.ignored += 1,
        }
    }

    fn fetch(&mut self, now: Duration, offset: u64, actions: &mut Vec<Action>) {
        actions.push(Action::Fetch { offset });
        self.wait = RESEND_FIRST;
        self.arm(now);
    }

    fn end(&mut self, outcome: Outcome, actions: &mut Vec<Action>) {
        self.phase = Phase::Ended;
        self.try_at = None;
        actions.push(Action::Ended(outcome));
    }

    /// Waits up to a quarter less, so that those who ask at one time do not ask again at one time.
    fn arm(&mut self, now: Duration) {
        self.tries += 1;
        let shortened = self.wait.mul_f64(mix::pair_as_share(self.seed, self.tries) / 4.0);
        self.try_at = Some(now + self.wait - shortened);
    }
}
