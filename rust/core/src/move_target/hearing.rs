//! What a target makes of messages: which orders it agrees to, and what it is given to hold.

use std::time::Duration;

use super::{Action, MoveTarget, Phase};
use crate::id::EntityId;
use crate::move_frame::{Body, MoveFrame, Reason, Reject};
use crate::move_known::Known;
use crate::move_rows::{Frozen, MoveOrder, Prepared, Queued};
use crate::ownership::OwnershipRecord;
use crate::time::UnixMs;

impl MoveTarget {
    pub(super) fn hear(
        &mut self,
        now: Duration,
        known: &Known,
        (from, frame): (EntityId, MoveFrame<'_>),
        (wall, owned, refusal): (UnixMs, Option<u64>, Option<Reject>),
        actions: &mut Vec<Action>,
    ) {
        let (mid, epoch) = (frame.mid, frame.epoch);
        let is_current = self.order.as_ref().is_some_and(|order| order.mid == mid);
        let is_source = self.order.as_ref().is_some_and(|order| order.source == from);
        match frame.body {
            Body::Prepare(order) => self.prepare(now, known, from, order, (wall, refusal), actions),
            Body::Commit { record, .. } if !is_current => {
                self.committed_before(known, (from, mid, epoch), &record, owned, actions);
            }
            Body::Final { .. } | Body::Abort if !is_current => self.counters.late += 1,
            Body::Final { .. } | Body::Abort if !is_source => self.counters.foreign += 1,
            Body::Final {
                frozen,
                image_bytes,
                lineage,
                queue,
            } => self.fill(now, frozen, image_bytes, (lineage, queue), actions),
            Body::Abort => match self.phase {
                Phase::Reserved | Phase::Restoring | Phase::Keeping | Phase::Prepared => {
                    self.is_aborted = true;
                    self.erase(None, actions);
                }
                _ => self.counters.late += 1,
            },
            Body::Commit { record, from: at, tail } if is_source => self.commit(record, at, tail, actions),
            Body::Outcome { .. } => self.counters.late += 1,
            _ => self.counters.foreign += 1,
        }
    }

    fn prepare(
        &mut self,
        now: Duration,
        known: &Known,
        from: EntityId,
        order: Box<MoveOrder>,
        (wall, refusal): (UnixMs, Option<Reject>),
        actions: &mut Vec<Action>,
    ) {
        let about = (order.mid, order.epoch);
        if from != order.orchestrator || self.node != order.target {
            self.counters.foreign += 1;
            return;
        }
        if let Some(no) = self.objection(known, &order, wall, refusal) {
            return self.say(from, about, Body::Reject(no), actions);
        }
        if !self.has_agreed(&order) {
            self.phase = Phase::Reserved;
            self.order = Some(order);
            self.deadline = Some(now + self.config.reserved);
        }
        self.say(from, about, Body::Accept, actions);
    }

    /// Whether it would agree to an order now, to which it did not yet.
    #[must_use]
    pub fn would_agree(&self, known: &Known, order: &MoveOrder, wall: UnixMs) -> bool {
        !self.has_agreed(order) && self.objection(known, order, wall, None).is_none()
    }

    fn has_agreed(&self, order: &MoveOrder) -> bool {
        self.order.as_deref() == Some(order) && self.phase != Phase::Erasing
    }

    /// Why it does not agree to an order of its orchestrator.
    fn objection(&self, known: &Known, order: &MoveOrder, wall: UnixMs, refusal: Option<Reject>) -> Option<Reject> {
        if self.has_agreed(order) {
            return None;
        }
        let is_current = self.order.as_ref().is_some_and(|current| current.mid == order.mid);
        if known.outcome(&order.mid).is_some() || is_current {
            return Some(Reason::Finished.into());
        }
        if refusal.is_some() {
            return refusal;
        }
        let reason = if self.phase != Phase::Idle && !self.gives_way(order.orchestrator) {
            Reason::Busy
        } else if known.epoch() > order.epoch {
            Reason::NotOwner
        } else if wall > order.not_after {
            Reason::Expired
        } else if order.size > self.config.image_max {
            Reason::TooLarge
        } else {
            return None;
        };
        Some(reason.into())
    }

    /// Whether what it agreed to is forgotten for another order of the same node: of that one nothing came.
    fn gives_way(&self, orchestrator: EntityId) -> bool {
        let is_its = self
            .order
            .as_ref()
            .is_some_and(|order| order.orchestrator == orchestrator);
        self.phase == Phase::Reserved && is_its
    }

    fn fill(
        &mut self,
        now: Duration,
        frozen: Frozen,
        image_bytes: u64,
        (lineage, queue): (Vec<OwnershipRecord>, Vec<Queued>),
        actions: &mut Vec<Action>,
    ) {
        let Some(order) = self.order.clone() else { return };
        let last = lineage.last();
        let fits = last.is_some_and(|last| last.epoch() == order.epoch && last.node() == order.source);
        match self.phase {
            Phase::Reserved | Phase::Restoring if !fits => self.counters.unfit += 1,
            Phase::Reserved if image_bytes > self.config.image_max => self.fail(Reason::TooLarge.into(), actions),
            Phase::Reserved => {
                self.phase = Phase::Restoring;
                self.deadline = Some(now + self.config.reserved);
                self.prepared = Some(Box::new(Prepared {
                    order: (*order).clone(),
                    frozen,
                    image_bytes,
                    lineage,
                    queue,
                }));
                actions.push(Action::Restore {
                    order,
                    image: frozen.image,
                    image_bytes,
                });
            }
            Phase::Restoring => match &mut self.prepared {
                Some(prepared) if prepared.frozen == frozen => {
                    // The source lives, and more waits there.
                    self.deadline = Some(now + self.config.reserved);
                    if queue.len() > prepared.queue.len() {
                        prepared.queue = queue;
                    }
                }
                _ => self.counters.unfit += 1,
            },
            Phase::Prepared => self.say_prepared(actions),
            Phase::Keeping | Phase::Installing | Phase::Erasing | Phase::Idle => self.counters.late += 1,
        }
    }
}
