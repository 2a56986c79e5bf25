//! The moves of one entity at one node: its source and its target, and what is under way for them.

mod arriving;
mod leaving;
mod pulling;
mod sending;
mod telling;

use std::sync::Arc;
use std::time::Duration;

use meshos_core::id::EntityId;
use meshos_core::image::seal::Agreement;
use meshos_core::move_chunks;
use meshos_core::move_frame::MoveFrame;
use meshos_core::move_known::{Known, Recovered};
use meshos_core::move_rows::Queued;
use meshos_core::move_source::{self, MoveSource, SourceConfig};
use meshos_core::move_target::{self, MoveTarget, TargetConfig};
use meshos_core::ownership::{MigrationId, OwnershipRecord};
use meshos_core::stream::{Flow, Frame};

use self::pulling::IMAGE_MAX;
pub(super) use self::pulling::Pulling;
pub(super) use self::sending::Sending;
use self::telling::Told;
use super::copy::{Given, Taken};
use super::{MoveStats, Moves, Work};
use crate::keys;

/// What an entry works with.
pub(super) struct Scene<'a> {
    pub(super) moves: &'a Moves,
    pub(super) now: Duration,
    pub(super) work: &'a mut Work,
    pub(super) stats: &'a mut MoveStats,
}

pub(super) struct Entry {
    pub(super) entity: EntityId,
    known: Known,
    source: MoveSource,
    target: MoveTarget,
    /// What is agreed with the target of a move away from here.
    agreement: Option<(MigrationId, Arc<Agreement>)>,
    sending: Option<Sending>,
    pulling: Option<Pulling>,
    /// The last record that its source named, in the newest final message.
    active: Option<OwnershipRecord>,
    /// A copy that was made here.
    pub(super) given: Option<Given>,
    /// An instance for it is being made.
    is_making: bool,
    /// Who asked for that, and is answered when it is made.
    asked: Option<(EntityId, MoveFrame<'static>)>,
    /// There is an instance that nobody took yet.
    is_made: bool,
    /// A copy that is being pulled, or held.
    pub(super) taken: Option<Taken>,
    told: Told,
    /// Who saw to the move that was under way last.
    last_order: Option<(EntityId, MigrationId, u64)>,
    due: Option<Duration>,
    /// Something was under way here.
    was_engaged: bool,
}

impl Entry {
    pub(super) fn new(node: EntityId, entity: EntityId, directory: EntityId, recovered: Recovered) -> Self {
        let source = SourceConfig {
            seed: keys::random_u64(),
            ..SourceConfig::default()
        };
        let target = TargetConfig {
            image_max: IMAGE_MAX,
            authorities: vec![directory],
            seed: keys::random_u64(),
            ..TargetConfig::default()
        };
        Self {
            entity,
            known: recovered.known,
            source: MoveSource::new(node, entity, source, recovered.unretired),
            target: MoveTarget::new(node, entity, target, recovered.prepared),
            agreement: None,
            sending: None,
            pulling: None,
            active: None,
            given: None,
            is_making: false,
            asked: None,
            is_made: false,
            taken: None,
            told: Told::default(),
            last_order: None,
            due: None,
            was_engaged: false,
        }
    }

    /// The same, of which a turn is noted.
    pub(super) fn due_at(mut self, at: Duration) -> Self {
        self.due = Some(at);
        self
    }

    /// Notes when it has its next turn; returns when it would have had.
    pub(super) fn set_due(&mut self, due: Option<Duration>) -> Option<Duration> {
        std::mem::replace(&mut self.due, due)
    }

    pub(super) fn wake_at(&self) -> Option<Duration> {
        let pulling = self.pulling.as_ref().and_then(|pulling| pulling.receiver.wake_at());
        let machines = [self.source.wake_at(), self.target.wake_at()];
        let copies = [
            self.given.as_ref().map(Given::wake_at),
            self.taken.as_ref().and_then(Taken::wake_at),
        ];
        let told = self.told.held_back.as_ref().map(|(at, ..)| *at);
        let waking = machines.into_iter().chain(copies).chain([told]).flatten();
        waking.chain(pulling).min()
    }

    /// Whether nothing is under way: what is known can be read again.
    pub(super) fn is_idle(&self) -> bool {
        self.source.phase() == move_source::Phase::Idle && self.target.phase() == move_target::Phase::Idle
    }

    /// Whether nothing ever came of what was said about it, so that nothing is lost when it is read again. Whoever speaks of
    /// entities that are not moved takes no room.
    pub(super) fn is_idle_talk(&mut self) -> bool {
        self.was_engaged |= !self.is_idle() || self.given.is_some() || self.taken.is_some();
        let has_instance = self.is_making || self.is_made;
        !self.was_engaged && !has_instance && !self.source.is_answering() && self.wake_at().is_none()
    }

    /// Whether a move of it away from here is under way.
    pub(super) fn is_engaged(&self) -> bool {
        self.source.phase() != move_source::Phase::Idle
    }

    /// Takes the counters of another one over.
    pub(super) fn after(mut self, before: &mut Self, stats: &mut MoveStats) -> Self {
        before.count(stats);
        self.due = before.due;
        self.was_engaged |= before.was_engaged;
        self.agreement = before.agreement.take();
        self.given = before.given.take();
        self.taken = before.taken.take();
        self.is_making = before.is_making;
        self.asked = before.asked.take();
        self.is_made = before.is_made;
        self
    }

    pub(super) fn count(&self, stats: &mut MoveStats) {
        let (source, target) = (self.source.counters(), self.target.counters());
        stats.queued += source.queued;
        stats.shipped += source.shipped;
        stats.thawed += source.thawed;
        stats.redirected += source.redirected;
        stats.sent_on += target.redirected;
        stats.waiting += self.source.waits() as u64;
        stats.refused += source.refused;
        stats.taken_in += target.taken_in;
    }

    /// A record became durable here that no machine of this entry wrote.
    pub(super) fn fenced(&mut self, record: &OwnershipRecord, scene: &mut Scene<'_>) {
        self.step_source(move_source::Signal::Fenced(Box::new(*record)), scene);
        self.step_target(move_target::Signal::Fenced(Box::new(*record)), scene);
    }

    pub(super) fn written(&mut self, is_source: bool, ticket: u64, is_kept: bool, scene: &mut Scene<'_>) {
        match (is_source, is_kept) {
            _ if ticket == 0 => {}
            (true, true) => self.step_source(move_source::Signal::Kept(ticket), scene),
            (true, false) => self.step_source(move_source::Signal::Failed(ticket), scene),
            (false, true) => self.step_target(move_target::Signal::Kept(ticket), scene),
            (false, false) => self.step_target(move_target::Signal::Failed(ticket), scene),
        }
    }

    pub(super) fn timer(&mut self, scene: &mut Scene<'_>) {
        self.copy_timer(scene);
        if let Some((_, to, frame)) = self.told.held_back.take_if(|(at, ..)| *at <= scene.now) {
            scene.work.posts.push((to, frame));
        }
        self.step_source(move_source::Signal::Timer, scene);
        self.step_target(move_target::Signal::Timer, scene);
        if let Some(pulling) = &mut self.pulling
            && pulling.receiver.wake_at().is_some_and(|at| at <= scene.now)
        {
            let mut actions = Vec::new();
            pulling
                .receiver
                .step(scene.now, move_chunks::Signal::Timer, &mut actions);
            self.do_chunks(actions, scene);
        }
    }

    /// Epoch in which this node may act for it now.
    pub(super) fn owned(&self, scene: &Scene<'_>) -> Option<u64> {
        let owned = scene.moves.ownership.owned(&self.entity);
        owned.map(|(epoch, _)| epoch)
    }

    fn orchestrator(&self) -> Option<(EntityId, MigrationId, u64)> {
        let order = self.source.order()?;
        Some((order.orchestrator, order.mid, order.epoch))
    }

    fn redirect(&self, queue: Vec<Queued>, scene: &mut Scene<'_>) {
        let Some(owner) = self.known.highest() else { return };
        for queued in queue {
            let flow = Flow {
                entity: self.entity,
                origin: queued.origin,
                stream: queued.stream,
            };
            let frame = Frame::Moved {
                flow,
                sequence: queued.sequence,
                node: owner.node(),
                epoch: owner.epoch(),
            };
            scene.work.streams.push((queued.from, frame));
        }
    }
}
