//! What a source has made durable, and what follows when it is.

use std::time::Duration;

use super::closing::Closing;
use super::queue::shipped;
use super::{Action, MoveSource, Phase, RESEND_FIRST, RESEND_MAX};
use crate::move_frame::{Body, Reject};
use crate::move_known::{self, Known, Unretired};
use crate::move_rows::{self, Item, Outcome};
use crate::rows::Write;

impl MoveSource {
    pub(super) fn abort(&mut self, why: Option<Reject>, actions: &mut Vec<Action>) {
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

    pub(super) fn retire(&mut self, actions: &mut Vec<Action>) {
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

    pub(super) fn keep(&mut self, writes: Vec<Write>, actions: &mut Vec<Action>) {
        self.ticket += 1;
        self.writing = Some(self.ticket);
        actions.push(Action::Keep {
            ticket: self.ticket,
            writes,
        });
    }

    pub(super) fn kept(&mut self, now: Duration, known: &mut Known, ticket: u64, actions: &mut Vec<Action>) {
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

    pub(super) fn failed(&mut self, now: Duration, ticket: u64) {
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

    pub(super) fn write_again(&mut self, actions: &mut Vec<Action>) {
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
}
