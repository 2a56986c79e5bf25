//! What a source tells others, and when it says so again.

use std::time::Duration;

use super::queue::shipped;
use super::{Action, MoveSource, Phase, RESEND_MAX};
use crate::id::EntityId;
use crate::mix;
use crate::move_frame::{Body, MoveFrame};
use crate::move_known::{Known, Unretired};
use crate::move_rows::Outcome;
use crate::ownership::MigrationId;

impl MoveSource {
    pub(super) fn say_aborted(
        &mut self,
        to: EntityId,
        about: (MigrationId, u64),
        target: bool,
        actions: &mut Vec<Action>,
    ) {
        let body = if target {
            Body::Abort
        } else {
            Body::Outcome {
                outcome: Some(Outcome::Aborted),
                record: None,
            }
        };
        self.say(to, about, body, actions);
    }

    pub(super) fn say_outcome(&mut self, known: &Known, to: EntityId, actions: &mut Vec<Action>) {
        if let Some(mid) = self.current()
            && let Some(record) = known.committed(&mid)
        {
            let body = Body::Outcome {
                outcome: Some(Outcome::Committed),
                record: Some(Box::new(*record)),
            };
            self.say(to, (mid, record.epoch() - 1), body, actions);
        }
    }

    pub(super) fn say_final(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let (Some(held), Some(order)) = (&self.held, &self.order) else {
            return;
        };
        let (head, rest) = self.queue.as_slices();
        let mut queue = head[..shipped(head)].to_vec();
        if queue.len() == head.len() {
            queue.extend_from_slice(rest);
            queue.truncate(shipped(&queue));
        }
        let body = Body::Final {
            frozen: held.frozen,
            image_bytes: held.image_bytes,
            lineage: held.lineage.clone(),
            queue,
        };
        let (target, about) = (order.target, (order.mid, order.epoch));
        self.say(target, about, body, actions);
        self.arm(now);
    }

    pub(super) fn say_commit(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let Some(Unretired { record, .. }) = &self.committed else {
            return;
        };
        let (target, about) = (record.node(), (record.mid, record.epoch() - 1));
        let body = Body::Commit {
            record: Box::new(*record),
            from: self.tail.0,
            tail: self.tail.1.clone(),
        };
        self.say(target, about, body, actions);
        if self.phase == Phase::Committed {
            self.arm(now);
        }
    }

    pub(super) fn say(
        &mut self,
        to: EntityId,
        (mid, epoch): (MigrationId, u64),
        body: Body<'static>,
        actions: &mut Vec<Action>,
    ) {
        self.step = self.step.saturating_add(1);
        let frame = MoveFrame {
            mid,
            entity: self.entity,
            epoch,
            step: self.step,
            body,
        };
        actions.push(Action::Send { to, frame });
    }

    fn arm(&mut self, now: Duration) {
        self.tries += 1;
        let shortened = self
            .wait
            .mul_f64(mix::pair_as_share(self.config.seed, self.tries) / 4.0);
        self.try_at = Some(now + self.wait - shortened);
        self.wait = (self.wait * 2).min(RESEND_MAX);
    }
}
