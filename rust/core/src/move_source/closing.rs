//! What is answered about another move: what is known of it, or, when that is durable, that it is aborted.

use std::time::Duration;

use super::{Action, MoveSource};
use crate::id::EntityId;
use crate::move_frame::Body;
use crate::move_known::{Known, REMEMBERED};
use crate::move_rows::{Item, Outcome};
use crate::ownership::MigrationId;
use crate::time::UnixMs;

/// Moves that were never decided and are being aborted at the same time.
pub(super) const CLOSING_MAX: usize = 64;

/// Who waits until it is durable that a move that was never decided is aborted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closing {
    pub(super) mid: MigrationId,
    pub(super) epoch: u64,
    pub(super) until: UnixMs,
    pub(super) to: EntityId,
    /// Whether it is a target that is told.
    pub(super) target: bool,
    /// When it is written again: the write failed, and may be durable after all.
    pub(super) try_at: Option<Duration>,
}

impl MoveSource {
    /// Answers what is about another move: from what is known, or when it is durable that it is aborted.
    pub(super) fn ask(
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
    pub(super) fn close_again(&mut self, now: Duration, actions: &mut Vec<Action>) {
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
}
