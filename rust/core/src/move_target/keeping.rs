//! What a target has made durable: what it holds, or that nothing comes of it.

use std::time::Duration;

use super::{Action, MoveTarget, Phase};
use crate::move_frame::{Body, Reason, Reject};
use crate::move_known::{self, Known};
use crate::move_rows::{self, Frozen, Item};
use crate::rows::Write;

impl MoveTarget {
    pub(super) fn restored(&mut self, found: Frozen, actions: &mut Vec<Action>) {
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

    pub(super) fn write_prepared(&mut self, actions: &mut Vec<Action>) {
        if let Some(prepared) = &self.prepared {
            let mid = prepared.order.mid;
            let writes = vec![Item::Prepared(prepared.clone()).write(&self.entity, &mid)];
            self.keep(writes, actions);
        }
    }

    pub(super) fn fail(&mut self, why: Reject, actions: &mut Vec<Action>) {
        self.is_aborted = true;
        self.erase(Some(why), actions);
    }

    pub(super) fn erase(&mut self, why: Option<Reject>, actions: &mut Vec<Action>) {
        self.phase = Phase::Erasing;
        self.why = why;
        self.deadline = None;
        self.alarm_at = None;
        self.try_at = None;
        self.write_end(actions);
    }

    pub(super) fn write_end(&mut self, actions: &mut Vec<Action>) {
        if let Some(order) = &self.order {
            let mut writes = vec![move_rows::remove_prepared(&self.entity, &order.mid)];
            if self.is_aborted {
                writes.push(Item::Done(move_known::until(order)).write(&self.entity, &order.mid));
            }
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

    pub(super) fn kept(&mut self, now: Duration, known: &mut Known, ticket: u64, actions: &mut Vec<Action>) {
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

    pub(super) fn discard(&mut self, actions: &mut Vec<Action>) {
        if let Some(prepared) = self.prepared.take() {
            let image = prepared.frozen.image;
            actions.push(Action::Discard { image });
        }
    }

    pub(super) fn end(&mut self) {
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
}
