//! Decision: what an owner sends to one consumer of its chain.
//!
//! | signal | Announcing | Following |
//! |---|---|---|
//! | Started | announced | announced |
//! | Published | – | sent, as far as the window reaches |
//! | OutAck of this epoch, not above the head | Following; the window moves on | the window moves on |
//! | OutAck of another epoch, or above the head | ignored, counted | ignored, counted |
//! | Follow in this epoch, not above the head | Following; sent from there | sent again from there, or from what is acknowledged |
//! | Follow in another epoch, or above the head | announced | announced |
//! | Timer | announced again, later each time | what is not acknowledged is sent again, later each time; after four tries also announced |
//!
//! An output for a single daemon (`Output(to=…)`) does not go this way: it is an event, from the emitter's own
//! [`outbox`](crate::outbox), and its row is a [`due`](crate::due).
//!
//! Invariants
//! * Nothing is sent before the owner was heard to have begun, and nothing that was not published.
//! * What is acknowledged only rises, and only by acknowledgements of this very epoch.
//! * At most [`WINDOW`] outputs are on their way.
//!
//! Source: rules C2, C4, C6 and C7 of the move protocol. C7 is kept by who publishes: only what is durable, only while it
//! may.

use std::time::Duration;

use crate::mix;
use crate::outbox::{QUIET_MAX, RESEND_FIRST, RESEND_MAX};

/// Outputs that may be on their way to one consumer.
pub const WINDOW: u64 = 64;

/// Whether the consumer knows that this owner began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It has not answered in this epoch.
    Announcing,
    /// It has.
    Following,
}

/// What happens to a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The owner began, or the consumer is new.
    Started,
    /// Outputs up to this one may be sent.
    Published {
        /// The last of them.
        n: u64,
    },
    /// The consumer has everything up to `n`.
    OutAck {
        /// In which epoch it came.
        epoch: u64,
        /// The last output.
        n: u64,
    },
    /// The consumer wants everything after `after`.
    Follow {
        /// Which epoch it believes in.
        epoch: u64,
        /// The last output that it has.
        after: u64,
    },
    /// Time has passed.
    Timer,
}

/// What a feed wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send an announcement, with what is published now.
    Announce,
    /// Send these outputs.
    Send {
        /// The first.
        first: u64,
        /// The last.
        last: u64,
    },
    /// This consumer needs no output up to this one any more.
    Release {
        /// The last of them.
        through: u64,
    },
}

/// The outputs of one owner to one consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    epoch: u64,
    phase: Phase,
    published: u64,
    acknowledged: u64,
    sent: u64,
    wait: Duration,
    quiet: u32,
    tries: u64,
    try_at: Option<Duration>,
    seed: u64,
    ignored: u64,
}

impl Feed {
    /// A feed of an owner of this epoch; `seed` spreads its tries.
    #[must_use]
    pub const fn new(epoch: u64, published: u64, seed: u64) -> Self {
        Self {
            epoch,
            phase: Phase::Announcing,
            published,
            acknowledged: 0,
            sent: 0,
            wait: RESEND_FIRST,
            quiet: 0,
            tries: 0,
            try_at: None,
            seed,
            ignored: 0,
        }
    }

    /// Whether the consumer has answered.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Epoch of the owner.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The last output that the consumer is known to have; 0 as long as it is not heard.
    #[must_use]
    pub const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Whether the consumer has everything that is published.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Following && self.acknowledged == self.published
    }

    /// Acknowledgements of other epochs, and such of what was never published.
    #[must_use]
    pub const fn ignored(&self) -> u64 {
        self.ignored
    }

    /// When [`Signal::Timer`] is due.
    #[must_use]
    pub const fn wake_at(&self) -> Option<Duration> {
        self.try_at
    }

    /// Decides one step. `now` is the time of a clock that never goes back.
    pub fn step(&mut self, now: Duration, signal: Signal, actions: &mut Vec<Action>) {
        match signal {
            Signal::Started => self.announce(now, actions),
            Signal::Published { n } => {
                self.published = self.published.max(n);
                self.send(now, actions);
            }
            Signal::OutAck { epoch, n } if epoch == self.epoch && n <= self.published => {
                self.heard(now, n, actions);
                self.send(now, actions);
            }
            Signal::OutAck { .. } => self.ignored += 1,
            Signal::Follow { epoch, after } if epoch == self.epoch && after <= self.published => {
                self.heard(now, after, actions);
                // What is acknowledged may be gone: a question from before it is late.
                self.sent = after.max(self.acknowledged);
                self.send(now, actions);
            }
            Signal::Follow { .. } => self.announce(now, actions),
            Signal::Timer => self.timer(now, actions),
        }
    }

    fn heard(&mut self, now: Duration, n: u64, actions: &mut Vec<Action>) {
        if self.phase == Phase::Announcing {
            (self.phase, self.try_at) = (Phase::Following, None);
        }
        self.quiet = 0;
        if n > self.acknowledged {
            self.acknowledged = n;
            self.sent = self.sent.max(n);
            (self.wait, self.try_at) = (RESEND_FIRST, None);
            actions.push(Action::Release { through: n });
        }
        self.arm(now);
    }

    fn send(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let last = self.published.min(self.acknowledged.saturating_add(WINDOW));
        if self.phase == Phase::Following && last > self.sent {
            let first = self.sent + 1;
            actions.push(Action::Send { first, last });
            self.sent = last;
        }
        self.arm(now);
    }

    fn announce(&mut self, now: Duration, actions: &mut Vec<Action>) {
        actions.push(Action::Announce);
        self.arm(now);
    }

    fn timer(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.try_at.is_none_or(|at| at > now) {
            return;
        }
        self.try_at = None;
        self.wait = (self.wait * 2).min(RESEND_MAX);
        self.quiet = self.quiet.saturating_add(1);
        if self.phase == Phase::Announcing || self.quiet >= QUIET_MAX {
            actions.push(Action::Announce);
        }
        self.sent = self.acknowledged;
        self.send(now, actions);
    }

    /// A try is due as long as something is not acknowledged.
    fn arm(&mut self, now: Duration) {
        if self.phase == Phase::Following && self.acknowledged >= self.sent {
            self.try_at = None;
        } else if self.try_at.is_none() {
            self.tries += 1;
            let shortened = self.wait.mul_f64(mix::pair_as_share(self.seed, self.tries) / 4.0);
            self.try_at = Some(now + self.wait - shortened);
        }
    }
}
