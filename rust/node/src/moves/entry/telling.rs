//! What a source tells whoever sees to a move.

use std::time::{Duration, Instant};

use meshos_core::id::EntityId;
use meshos_core::move_frame::{Aside, Body, MoveFrame, Reject, Report, Stage};
use meshos_core::move_source::Waiting;
use meshos_core::ownership::MigrationId;
use meshos_core::stream::Flow;

use super::{Entry, Scene};

/// Time between two reports of bytes that were sent.
pub(super) const REPORT_EVERY: Duration = Duration::from_millis(20);
/// How long what is told of a small image waits for the end of the move, which says all of it.
const TOLD_LATE: Duration = Duration::from_millis(5);
/// What is told of what is so small is mostly told at the end.
const SMALL: u64 = 1 << 20;

/// What a source tells of a move.
#[derive(Default)]
pub(super) struct Told {
    pub(super) frozen_at: Option<Instant>,
    pub(super) snapshot_took: Duration,
    pub(super) image_bytes: u64,
    pub(super) moved: u64,
    /// Bytes of the copy before.
    pub(super) before: u64,
    pub(super) rounds: u32,
    pub(super) last: Option<Instant>,
    pub(super) stage: Option<Stage>,
    /// What is to be told if nothing more can be until then.
    pub(super) held_back: Option<(Duration, EntityId, MoveFrame<'static>)>,
}

impl Entry {
    pub(super) fn flow(&self, waiting: &Waiting) -> Flow {
        Flow {
            entity: self.entity,
            origin: waiting.origin,
            stream: waiting.stream,
        }
    }

    /// To whom a move is reported: also after it ended here.
    pub(super) fn order_of(&self, mid: &MigrationId) -> Option<(EntityId, MigrationId, u64)> {
        self.orchestrator().or(self.last_order).filter(|(_, of, _)| of == mid)
    }

    pub(super) fn report(
        &mut self,
        stage: Stage,
        refused: Option<Reject>,
        to: Option<(EntityId, MigrationId, u64)>,
        scene: &mut Scene<'_>,
    ) {
        let Some((orchestrator, mid, epoch)) = to else { return };
        let told = &mut self.told;
        told.last = Some(Instant::now());
        told.stage = Some(stage);
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let blackout = match stage {
            Stage::Complete => told.frozen_at.map_or(0, |at| micros(at.elapsed())),
            _ => 0,
        };
        let report = Report {
            stage,
            image_bytes: told.image_bytes,
            moved: told.before + told.moved,
            blackout_us: blackout,
            snapshot_us: micros(told.snapshot_took),
            waiting: self.source.waits() as u64,
            rounds: told.rounds,
            refused,
        };
        let is_refused = report.refused.is_some();
        let frame = MoveFrame {
            mid,
            entity: self.entity,
            epoch,
            step: 1,
            body: Body::Aside(Box::new(Aside::Report(report))),
        };
        let is_end = stage == Stage::Complete || is_refused;
        if is_end || self.told.image_bytes > SMALL {
            self.told.held_back = None;
            scene.work.posts.push((orchestrator, frame));
        } else {
            let at = self.told.held_back.take().map_or(scene.now + TOLD_LATE, |(at, ..)| at);
            self.told.held_back = Some((at, orchestrator, frame));
        }
    }
}
