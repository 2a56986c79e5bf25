//! Decision: what a consumer of a chain accepts.
//!
//! | frame | epoch against the announced one | output or head against `n` | what comes of it |
//! |---|---|---|---|
//! | any | lower | any | dropped, counted |
//! | Output | the same | another lineage | alarm |
//! | Output | the same | n + 1, parent fits | taken, acknowledged |
//! | Output | the same | n + 1, parent does not fit | alarm |
//! | Output | the same | n or lower, as taken | counted, acknowledged again |
//! | Output | the same | n or lower, differs | alarm |
//! | Output | the same | higher than n + 1 | asked again from n |
//! | Output | higher | any | asked for an announcement |
//! | Announce | the same | higher than n | asked again from n |
//! | Announce | the same | n, same digest; or lower | acknowledged |
//! | Announce | the same | n, other digest | alarm |
//! | Announce | the same | another lineage | alarm |
//! | Announce | higher, goes on from what is known | see below | the new epoch is in force, asked from n |
//! | Announce | higher, does not go on from it | any | alarm |
//!
//! A consumer that begins in the middle has heard of no owner: all records are the past to it, and it goes back on none.
//! A lineage that goes on is read record by record. A restart or takeover that begins below n rolls everything after it
//! back, and n is where it begins. A move that begins below n is an alarm: an owner went on after it had handed over. So is
//! an owner that after all that announces less than n.
//!
//! Invariants
//! * Outputs are taken one after the other, each with the digest before it as parent.
//! * The consumer goes back only on a restart or takeover record, and only to where that begins.
//! * After an alarm nothing has changed.
//! * An epoch is in force only when its owner has shown its lineage; whoever gives it in has checked the signatures.
//!
//! Source: rules C1, C3, C5 and C6 of the move protocol.

use std::collections::VecDeque;
use std::time::Duration;

use crate::certificate::{Certificate, Reason};
use crate::digest::{self, Digest};
use crate::id::EntityId;
use crate::stream::{Announce, Output, lineage_digest};

/// Digests kept to compare repeated outputs with.
pub const DIGESTS_MAX: usize = 256;

/// Questions within this time are one.
pub const ASK_PAUSE: Duration = Duration::from_millis(50);

/// Where a consumer is: what it keeps durably, in one write with what it did about the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Epoch in force; 0: no owner was heard of.
    pub epoch: u64,
    /// Last output taken.
    pub n: u64,
    /// Digest of the chain there.
    pub head: Digest,
    /// Certificates of the lineage in force.
    pub certificates: usize,
    /// [`lineage_digest`] of them.
    pub lineage: Digest,
}

impl Position {
    /// Before the first output of an entity that is no fork.
    #[must_use]
    pub fn start(entity: &EntityId) -> Self {
        Self::at(0, digest::genesis(entity, &Digest::ZERO))
    }

    /// After output `n`, where the chain is known to have this digest.
    #[must_use]
    pub fn at(n: u64, head: Digest) -> Self {
        Self {
            epoch: 0,
            n,
            head,
            certificates: 0,
            lineage: lineage_digest(&[]),
        }
    }
}

/// What a consumer hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal<'a> {
    /// It began, perhaps anew.
    Started,
    /// An owner began. The signatures of its lineage were checked.
    Announce(&'a Announce),
    /// An output came.
    Output(&'a Output<'a>),
}

/// What a consumer wants done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Outputs after the first number, up to the second, are rolled back by a record of this epoch.
    RolledBack {
        /// The last output that stands.
        after: u64,
        /// The last that was taken.
        through: u64,
        /// Epoch of the record.
        epoch: u64,
    },
    /// The output is the next one.
    Take {
        /// Its number.
        sequence: u64,
    },
    /// Tell the owner that everything up to `n` is here, when [`Consumer::position`] is durable.
    Acknowledge {
        /// Epoch of the owner.
        epoch: u64,
        /// The last output.
        n: u64,
    },
    /// Ask the owner for what comes after.
    Follow {
        /// Epoch in force.
        epoch: u64,
        /// The last output.
        after: u64,
    },
    /// The owner, or somebody in its name, contradicts what was signed or taken. Keep the frame as proof.
    Alarm(Alarm),
}

/// How an owner contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// Its lineage is not the one of its epoch, or does not go on from the one that is known.
    Lineage {
        /// Epoch of the frame.
        epoch: u64,
    },
    /// The next output does not follow on the one before.
    Parent {
        /// Its number.
        sequence: u64,
    },
    /// A sequence has another content than before.
    Altered {
        /// Which.
        sequence: u64,
    },
    /// A record that rolls nothing back begins before what was taken.
    Overrun {
        /// Epoch of the record.
        epoch: u64,
        /// Where it begins.
        from_sequence: u64,
    },
    /// The chain is shorter than what was taken, and no record says why.
    Short {
        /// The last output that is announced.
        n: u64,
    },
}

/// What was not taken, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Frames of an epoch that is over.
    pub fenced: u64,
    /// Outputs that had been taken.
    pub repeated: u64,
    /// Outputs behind a hole, or of an epoch that was not announced.
    pub early: u64,
    /// Outputs that were rolled back.
    pub rolled_back: u64,
    /// Alarms.
    pub alarms: u64,
}

/// A consumer of one chain.
#[derive(Debug, Clone)]
pub struct Consumer {
    entity: EntityId,
    position: Position,
    /// Digests after the outputs up to `n`, the last one being the head.
    digests: VecDeque<Digest>,
    asked_until: Duration,
    counters: Counters,
}

impl Consumer {
    /// A consumer of `entity` that goes on from what it kept.
    #[must_use]
    pub fn new(entity: EntityId, position: Position) -> Self {
        Self {
            entity,
            position,
            digests: VecDeque::from([position.head]),
            asked_until: Duration::ZERO,
            counters: Counters::default(),
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn position(&self) -> &Position {
        &self.position
    }

    /// What was not taken.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Decides one step. `now` is the time of a clock that never goes back.
    pub fn step(&mut self, now: Duration, signal: Signal<'_>, actions: &mut Vec<Action>) {
        match signal {
            Signal::Started => {
                self.asked_until = Duration::ZERO;
                self.ask(now, actions);
            }
            Signal::Announce(announce) if announce.entity == self.entity => self.announced(now, announce, actions),
            Signal::Output(output) if output.entity == self.entity => self.output(now, output, actions),
            Signal::Announce(_) | Signal::Output(_) => {}
        }
    }

    fn output(&mut self, now: Duration, output: &Output<'_>, actions: &mut Vec<Action>) {
        let Position { epoch, n, lineage, .. } = self.position;
        let sequence = output.link.sequence;
        if output.epoch < epoch {
            self.counters.fenced += 1;
        } else if output.epoch > epoch {
            self.counters.early += 1;
            self.ask(now, actions);
        } else if output.lineage != lineage {
            self.alarm(Alarm::Lineage { epoch }, actions);
        } else if sequence <= n {
            self.repeated(output, actions);
        } else if sequence > n + 1 {
            self.counters.early += 1;
            self.ask(now, actions);
        } else if !self.follows(output) {
            self.alarm(Alarm::Parent { sequence }, actions);
        } else {
            self.position.head = digest::event(&self.position.head, &output.link.to_bytes(), output.payload);
            self.position.n = sequence;
            if self.digests.len() == DIGESTS_MAX {
                self.digests.pop_front();
            }
            self.digests.push_back(self.position.head);
            actions.push(Action::Take { sequence });
            self.acknowledge(actions);
        }
    }

    /// Whether an output names the digest of the head as its parent, and the entity as its origin.
    fn follows(&self, output: &Output<'_>) -> bool {
        output.link.parent == self.position.head.head8() && output.link.origin == self.entity.origin()
    }

    fn repeated(&mut self, output: &Output<'_>, actions: &mut Vec<Action>) {
        let sequence = output.link.sequence;
        let kept = self.digest_at(sequence - 1).zip(self.digest_at(sequence));
        let differs = kept
            .is_some_and(|(before, after)| digest::event(&before, &output.link.to_bytes(), output.payload) != after);
        if differs {
            self.alarm(Alarm::Altered { sequence }, actions);
        } else {
            self.counters.repeated += 1;
            self.acknowledge(actions);
        }
    }

    fn digest_at(&self, sequence: u64) -> Option<Digest> {
        let back = usize::try_from(self.position.n.checked_sub(sequence)?).ok()?;
        let at = (self.digests.len() - 1).checked_sub(back)?;
        self.digests.get(at).copied()
    }

    fn announced(&mut self, now: Duration, announce: &Announce, actions: &mut Vec<Action>) {
        let Position { epoch, n, head, .. } = self.position;
        if announce.epoch < epoch {
            self.counters.fenced += 1;
            return;
        }
        if announce.epoch > epoch {
            match self.after(announce) {
                Ok(next) => self.enter(now, next, actions),
                Err(alarm) => self.alarm(alarm, actions),
            }
            return;
        }
        if lineage_digest(&announce.lineage) != self.position.lineage {
            self.alarm(Alarm::Lineage { epoch }, actions);
        } else if announce.n > n {
            self.ask(now, actions);
        } else if announce.n == n && announce.head != head {
            self.alarm(Alarm::Altered { sequence: n }, actions);
        } else {
            // An owner announces when it begins: less than n only says that it is late.
            self.acknowledge(actions);
        }
    }

    /// Where the records of a later epoch lead, with the epochs that rolled something back.
    fn after(&self, announce: &Announce) -> Result<(Position, Option<u64>), Alarm> {
        let refused = Alarm::Lineage { epoch: announce.epoch };
        let lineage = &announce.lineage;
        let known = lineage.get(..self.position.certificates).ok_or(refused)?;
        let rises = lineage.is_sorted_by(|a, b| a.epoch < b.epoch);
        let is_its_own = lineage.iter().all(|record| record.entity == self.entity);
        let ends = lineage.last().is_some_and(|last| last.epoch == announce.epoch);
        if lineage_digest(known) != self.position.lineage || !rises || !is_its_own || !ends {
            return Err(refused);
        }
        let mut next = self.position;
        let mut rolled_back = None;
        // Who has heard of no owner knows no term: what is before its position is the past, and the parent of the next
        // output tells whether the position stands.
        let is_new = self.position.epoch == 0;
        for record in lineage[self.position.certificates..].iter().filter(|_| !is_new) {
            if self.goes_back(&next, record)? {
                (next.n, next.head) = (record.from_sequence, record.digest);
                rolled_back = Some(record.epoch);
            }
        }
        if announce.n < next.n {
            return Err(Alarm::Short { n: announce.n });
        }
        if announce.n == next.n && announce.head != next.head {
            return Err(Alarm::Altered { sequence: next.n });
        }
        next.epoch = announce.epoch;
        next.certificates = lineage.len();
        next.lineage = lineage_digest(lineage);
        Ok((next, rolled_back))
    }

    /// Whether a record rolls back what was taken up to `at`.
    fn goes_back(&self, at: &Position, record: &Certificate) -> Result<bool, Alarm> {
        let (epoch, from_sequence) = (record.epoch, record.from_sequence);
        if from_sequence > at.n {
            return Ok(false);
        }
        let taken = if from_sequence == at.n {
            Some(at.head)
        } else {
            self.digest_at(from_sequence)
        };
        if taken.is_some_and(|taken| taken != record.digest) {
            return Err(Alarm::Altered {
                sequence: from_sequence,
            });
        }
        match record.reason {
            _ if from_sequence == at.n => Ok(false),
            Reason::Restart | Reason::Takeover => Ok(true),
            Reason::Spawn | Reason::Move => Err(Alarm::Overrun { epoch, from_sequence }),
        }
    }

    fn enter(&mut self, now: Duration, (next, rolled_back): (Position, Option<u64>), actions: &mut Vec<Action>) {
        let through = self.position.n;
        if let Some(epoch) = rolled_back {
            let gone = usize::try_from(through - next.n).unwrap_or(usize::MAX);
            let kept = self.digests.len().saturating_sub(gone);
            self.digests.truncate(kept);
            if self.digests.is_empty() {
                self.digests.push_back(next.head);
            }
            self.counters.rolled_back += through - next.n;
            actions.push(Action::RolledBack {
                after: next.n,
                through,
                epoch,
            });
        }
        self.position = next;
        self.asked_until = Duration::ZERO;
        self.ask(now, actions);
    }

    fn acknowledge(&self, actions: &mut Vec<Action>) {
        let Position { epoch, n, .. } = self.position;
        actions.push(Action::Acknowledge { epoch, n });
    }

    fn ask(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if now < self.asked_until {
            return;
        }
        self.asked_until = now + ASK_PAUSE;
        let Position { epoch, n, .. } = self.position;
        actions.push(Action::Follow { epoch, after: n });
    }

    fn alarm(&mut self, alarm: Alarm, actions: &mut Vec<Action>) {
        self.counters.alarms += 1;
        actions.push(Action::Alarm(alarm));
    }
}
