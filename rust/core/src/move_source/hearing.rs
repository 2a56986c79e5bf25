//! What a source makes of the messages of others about the move that is under way.

use std::time::Duration;

use super::closing::CLOSING_MAX;
use super::{Action, MoveSource, Phase};
use crate::id::EntityId;
use crate::move_frame::{Body, MoveFrame, Reason, Reject};
use crate::move_known::Known;
use crate::move_rows::{Frozen, Item, MoveOrder};
use crate::ownership::MigrationId;
use crate::time::UnixMs;

impl MoveSource {
    pub(super) fn hear(
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
    pub(super) fn current(&self) -> Option<MigrationId> {
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
}
