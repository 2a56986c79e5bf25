//! What a loop shows: its snapshots, and answers to those who ask why.

use std::sync::Arc;
use std::time::Instant;

use meshos_core::status::{LoopMetrics, MeshOsSnapshot};
use meshos_core::time::UnixMs;

use super::Runner;

/// What the loop has published last, to know whether anything changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen {
    view: u64,
    obeyed: u64,
    records: u64,
    callbacks: u64,
    recovery: u64,
    migrations: u64,
}

impl Runner {
    pub(super) fn publish(&mut self, now: UnixMs, began: Instant) {
        let shared = &self.shared;
        let parts = &shared.parts;
        let took = began.elapsed();
        *shared.tick_at.lock() = (now, took);
        let seen = Seen {
            view: self.behaviour.view().generation,
            obeyed: self.behaviour.control().obeyed().iter().sum(),
            records: parts.records.changes(),
            callbacks: parts.callbacks.changes(),
            recovery: parts.recovery.changes(),
            migrations: self.listed.moves.lock().1,
        };
        if self.seen == Some(seen) {
            return;
        }
        self.seen = Some(seen);
        let before = shared.published.load();
        let (failures, failure_head_seq) = parts.records.failures();
        let (audit_head_seq, log_head_seq) = parts.records.heads();
        shared.published.publish(MeshOsSnapshot {
            runtime_epoch_id: shared.epoch_id,
            generation: before.generation + 1,
            tick: self.tick,
            published_at: now,
            this_node: shared.this_node,
            authority: before.authority,
            control: self.behaviour.control().clone(),
            view: self.behaviour.view().clone(),
            failures,
            migrations: Arc::clone(&self.listed.moves.lock().0),
            recovery: parts.recovery.status().into(),
            callbacks: Arc::new(parts.callbacks.statuses(began, shared.budget())),
            audit_head_seq,
            log_head_seq,
            failure_head_seq,
            metrics: LoopMetrics {
                tick_took: took,
                event_queue_depth: shared.intake.depth() as u64,
                action_queue_depth: self.behaviour.depth() as u64,
                dropped_actions: shared.dropped_actions(),
                refused_events: shared.intake.refused(),
                sweep_repairs: self.repairs,
                refused_entities: self.behaviour.refused_entities(),
            },
        });
    }

    pub(super) fn answer(&self) {
        let questions = std::mem::take(&mut *self.shared.questions.lock());
        for question in questions {
            let said = meshos_core::explain::explain(self.behaviour.world(), question.key);
            *question.answer.said.lock() = Some(said);
            question.answer.bell.notify_all();
        }
    }
}
