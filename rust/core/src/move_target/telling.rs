//! What a target tells others, and when it says so again.

use std::time::Duration;

use super::{Action, MoveTarget};
use crate::id::EntityId;
use crate::mix;
use crate::move_frame::{Body, MoveFrame};
use crate::ownership::MigrationId;

impl MoveTarget {
    pub(super) fn say_prepared(&mut self, actions: &mut Vec<Action>) {
        if let Some(prepared) = &self.prepared {
            let (source, about) = (prepared.order.source, (prepared.order.mid, prepared.order.epoch));
            let body = Body::Prepared {
                idx: prepared.idx(),
                frozen: prepared.frozen,
            };
            self.say(source, about, body, actions);
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

    pub(super) fn arm(&mut self, now: Duration) {
        self.tries += 1;
        let shortened = self
            .wait
            .mul_f64(mix::pair_as_share(self.config.seed, self.tries) / 4.0);
        self.try_at = Some(now + self.wait - shortened);
        self.wait = (self.wait * 2).min(self.config.ask_max);
    }
}
