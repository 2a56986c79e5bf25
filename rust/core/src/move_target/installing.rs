//! The commit of its source, until the daemon goes live here.

use super::{Action, Alarm, MoveTarget, Phase};
use crate::id::EntityId;
use crate::move_frame::Body;
use crate::move_known::Known;
use crate::move_rows::{self, Queued};
use crate::ownership::{MigrationId, OwnershipRecord};

impl MoveTarget {
    pub(super) fn commit(
        &mut self,
        record: Box<OwnershipRecord>,
        from: u64,
        tail: Vec<Queued>,
        actions: &mut Vec<Action>,
    ) {
        let (Phase::Prepared, Some(prepared)) = (self.phase, &self.prepared) else {
            self.counters.late += 1;
            return;
        };
        let follows = record.follows(prepared.lineage.last(), &self.config.authorities);
        let position = (record.certificate.from_sequence, record.certificate.digest);
        let fits = position == (prepared.frozen.sequence, prepared.frozen.head);
        if follows.is_err() || !fits || record.node() != self.node {
            self.counters.unfit += 1;
            return;
        }
        let mid = prepared.order.mid;
        // What is before the tail is held; a source that began anew has none.
        let held = usize::try_from(prepared.idx().saturating_sub(from)).unwrap_or(usize::MAX);
        if from <= prepared.idx() {
            self.tail = tail.into_iter().skip(held).collect();
        }
        self.phase = Phase::Installing;
        self.try_at = None;
        self.alarm_at = None;
        let prepared = prepared.clone();
        self.record = Some(record.clone());
        actions.push(Action::Install {
            record,
            prepared,
            writes: vec![move_rows::remove_prepared(&self.entity, &mid)],
        });
    }

    pub(super) fn committed_before(
        &mut self,
        known: &Known,
        (from, mid, epoch): (EntityId, MigrationId, u64),
        record: &OwnershipRecord,
        owned: Option<u64>,
        actions: &mut Vec<Action>,
    ) {
        let is_live = owned.is_some_and(|owned| owned >= record.epoch()) || known.epoch() > record.epoch();
        match known.committed(&mid) {
            Some(held) if held == record && record.node() == self.node && is_live => {
                self.say(from, (mid, epoch), Body::Committed, actions);
            }
            None if record.node() == self.node && record.source == from && record.epoch() > known.epoch() => {
                let body = Body::Outcome {
                    outcome: None,
                    record: None,
                };
                self.say(from, (mid, epoch), body, actions);
                actions.push(Action::Alarm(Alarm::Unknown { mid }));
            }
            None if record.epoch() < known.epoch() => {
                // It lost to a takeover, and its source goes on until it hears that.
                if let Some(highest) = known.highest() {
                    let record = Box::new(*highest);
                    actions.push(Action::Show { to: from, record });
                }
            }
            _ => self.counters.late += 1,
        }
    }

    pub(super) fn activated(&mut self, known: &mut Known, epoch: u64, actions: &mut Vec<Action>) {
        let is_it = self.record.as_ref().is_some_and(|record| record.epoch() == epoch);
        let (Phase::Installing, Some(order), true) = (self.phase, self.order.clone(), is_it) else {
            self.counters.late += 1;
            return;
        };
        if let Some(prepared) = &self.prepared {
            prepared.lineage.iter().for_each(|record| known.learn(record));
        }
        if let Some(record) = &self.record {
            known.learn(record);
        }
        let queue = self.take_queue();
        self.counters.taken_in += queue.len() as u64;
        self.end();
        let about = (order.mid, order.epoch);
        self.say(order.source, about, Body::Committed, actions);
        if order.orchestrator != order.source {
            self.say(order.orchestrator, about, Body::Committed, actions);
        }
        actions.push(Action::GoLive { queue });
    }

    pub(super) fn take_queue(&mut self) -> Vec<Queued> {
        let mut queue = self.prepared.take().map_or(Vec::new(), |prepared| prepared.queue);
        queue.append(&mut self.tail);
        queue
    }
}
