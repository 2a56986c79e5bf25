//! The source of an entity: what it hears, and what it has done.

use std::sync::{Arc, Weak};
use std::time::Duration;

use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::image::seal::{self, Agreement};
use meshos_core::move_frame::{Aside, Body, MoveFrame, Reason, Reject, Stage};
use meshos_core::move_rows::{MoveOrder, Outcome, Queued};
use meshos_core::move_source::{self, Gate, SourceConfig};
use meshos_core::ownership::{MigrationId, OwnershipRecord};
use meshos_core::stream::Frame;

use super::telling::{REPORT_EVERY, Told};
use super::{Entry, Scene, Sending};
use crate::clock;
use crate::hands::{FreezeOpts, Frost, Hands, Waits};
use crate::keys;
use crate::moves::copy::Given;
use crate::moves::{Item, Moves, Role};

/// When an event is tried again for which a daemon that stands still had no room, in milliseconds.
const QUEUE_RETRY_MS: u32 = 20;
/// Who asks for one of these so soon did not have it yet.
const ON_ITS_WAY: Duration = Duration::from_millis(5);
/// Records that a target is shown before the freeze at most; of longer lineages the newest.
const SHOWN_MAX: usize = 8;

pub(super) fn shown(record: Box<OwnershipRecord>) -> MoveFrame<'static> {
    MoveFrame {
        mid: keys::random_bytes(),
        entity: record.entity(),
        epoch: record.epoch(),
        step: 1,
        body: Body::Aside(Box::new(Aside::Show(record))),
    }
}

impl Entry {
    pub(in crate::moves) fn hear_source(
        &mut self,
        from: EntityId,
        frame: MoveFrame<'_>,
        refusal: Option<Reject>,
        scene: &mut Scene<'_>,
    ) {
        if let Body::Pull { image, index } = frame.body
            && self.give(from, frame.mid, image, index, scene)
        {
            return;
        }
        if self.target.order().is_some_and(|order| order.mid == frame.mid) {
            // It is not this node that decides about what comes here.
            return;
        }
        let says_committed = matches!(frame.body, Body::Committed);
        // Whoever asks about another move than the one that is under way learns what became of it, and ends nothing.
        let is_asked = matches!(frame.body, Body::AbortReq);
        let is_other = self.source.order().is_none_or(|order| order.mid != frame.mid);
        let refusal = refusal.filter(|_| !(is_asked && is_other));
        let before = self.source.phase();
        let orchestrator = self.orchestrator();
        let signal = move_source::Signal::Heard {
            from,
            frame: Box::new(frame),
            wall: clock::unix_ms(),
            owned: self.owned(scene),
            refusal,
        };
        self.step_source(signal, scene);
        self.last_order = self.orchestrator().or(self.last_order);
        if before != self.source.phase() && self.source.phase() == move_source::Phase::Reserved {
            // While the daemon still works. What cannot be agreed is told when it is to freeze.
            if let Some(order) = self.source.order().cloned() {
                let _ = self.agree(&order);
                self.show_lineage(&order, scene);
            }
        }
        if says_committed && before == move_source::Phase::Committed && self.source.phase() != before {
            self.report(Stage::Complete, None, orchestrator, scene);
        } else if before == move_source::Phase::Frozen && self.source.phase() == move_source::Phase::Committing {
            self.report(Stage::Cutover, None, orchestrator, scene);
        }
    }

    pub(in crate::moves) fn frozen(
        &mut self,
        mid: MigrationId,
        frost: Result<Box<Frost>, Reject>,
        scene: &mut Scene<'_>,
    ) {
        let order = self.source.order().filter(|order| order.mid == mid).cloned();
        let is_awaited = self.source.phase() == move_source::Phase::Freezing;
        let (Some(order), true) = (order, is_awaited) else {
            return;
        };
        let frost = match frost {
            Ok(frost) => frost,
            Err(why) => return self.step_source(move_source::Signal::FreezeFailed(why), scene),
        };
        let Frost {
            frozen,
            frozen_at,
            image,
            lineage,
            record,
            snapshot_took,
            rounds,
        } = *frost;
        let agreement = match self.agree(&order) {
            Ok(agreement) => agreement,
            Err(why) => return self.step_source(move_source::Signal::FreezeFailed(why), scene),
        };
        let sending = Sending::new(Arc::clone(&image), order, &agreement);
        let image_bytes = seal::sealed_len(image.len);
        self.told.snapshot_took = self.told.snapshot_took.max(snapshot_took);
        self.told.frozen_at = Some(frozen_at);
        self.told.image_bytes = image_bytes;
        self.told.rounds = rounds;
        self.sending = Some(sending);
        let signal = move_source::Signal::Frozen {
            frozen,
            image_bytes,
            lineage,
            record,
        };
        self.step_source(signal, scene);
        if self.source.phase() == move_source::Phase::Frozen
            && let Some((sending, order)) = self.sending.as_mut().zip(self.source.order())
        {
            sending.push(order.target, scene);
        }
        let orchestrator = self.orchestrator();
        self.report(Stage::Transfer, None, orchestrator, scene);
    }

    /// An event that came while the daemon stood still, as its mailbox saw it.
    pub(in crate::moves) fn event(&mut self, queued: Queued, scene: &mut Scene<'_>) {
        match self.source.gate() {
            Gate::Wait => {
                self.step_source(move_source::Signal::Event(queued), scene);
                let is_due = self.told.last.is_none_or(|last| last.elapsed() >= REPORT_EVERY);
                if is_due || self.source.waits() == 1 {
                    let (stage, orchestrator) = (self.told.stage.unwrap_or(Stage::Snapshot), self.orchestrator());
                    self.report(stage, None, orchestrator, scene);
                }
            }
            // It was thawed meanwhile, or handed over.
            Gate::Open => {
                let entity = self.entity;
                let thaw = move |hands: &dyn Hands| hands.thaw(&entity, vec![queued]);
                scene.work.calls.push(Box::new(thaw));
            }
            Gate::Elsewhere => self.redirect(vec![queued], scene),
        }
    }

    pub(in crate::moves) fn sent(
        &mut self,
        mid: MigrationId,
        (image, index, bytes): (Digest, u32, u64),
        scene: &mut Scene<'_>,
    ) {
        let copy = self.given.as_mut().and_then(Given::sending);
        for sending in self.sending.iter_mut().chain(copy) {
            sending.left(&image, index);
        }
        if self.source.order().is_none_or(|order| order.mid != mid) {
            return;
        }
        self.told.moved += bytes;
        let is_whole = self.told.moved >= self.told.image_bytes;
        let is_due = self.told.last.is_none_or(|last| last.elapsed() >= REPORT_EVERY);
        if is_whole || is_due {
            let stage = if is_whole { Stage::Restore } else { Stage::Transfer };
            let orchestrator = self.orchestrator();
            self.report(stage, None, orchestrator, scene);
        }
    }

    pub(super) fn step_source(&mut self, signal: move_source::Signal<'_>, scene: &mut Scene<'_>) {
        let mut actions = Vec::new();
        self.source.step(scene.now, &mut self.known, signal, &mut actions);
        for action in actions {
            self.do_source(action, scene);
        }
    }

    fn do_source(&mut self, action: move_source::Action, scene: &mut Scene<'_>) {
        let entity = self.entity;
        match action {
            move_source::Action::Send { to, frame } => scene.work.posts.push((to, frame)),
            move_source::Action::SendChunk { to, image, index } => self.send_chunk(to, image, index, scene),
            move_source::Action::Keep { ticket, writes } => {
                scene.work.keeps.push((entity, Role::Source, ticket, writes));
            }
            move_source::Action::Freeze { order } => self.freeze(*order, scene),
            move_source::Action::Waits(waiting) => {
                let frame = Frame::Queued {
                    flow: self.flow(&waiting),
                    sequence: waiting.sequence,
                };
                scene.work.streams.push((waiting.from, frame));
            }
            move_source::Action::Busy(waiting) => {
                let frame = Frame::Busy {
                    flow: self.flow(&waiting),
                    sequence: waiting.sequence,
                    retry_after_ms: QUEUE_RETRY_MS,
                };
                scene.work.streams.push((waiting.from, frame));
            }
            move_source::Action::Thaw { queue } => {
                self.sending = None;
                self.given = None;
                self.agreement = None;
                let thaw = move |hands: &dyn Hands| hands.thaw(&entity, queue);
                scene.work.calls.push(Box::new(thaw));
            }
            move_source::Action::Redirect { queue } => self.redirect(queue, scene),
            move_source::Action::Fence(record) => {
                self.agreement = None;
                let spent = (self.sending.take(), self.given.take());
                let hand_over = move |hands: &dyn Hands| {
                    hands.hand_over(&record);
                    hands.dispose(&entity, Box::new(spent));
                };
                scene.work.calls.push(Box::new(hand_over));
            }
            move_source::Action::Retire { mid } => {
                if let Some(record) = self.known.committed(&mid).copied() {
                    // What stays is dropped when the node begins anew, if this is not kept.
                    let retire = move |hands: &dyn Hands| hands.retire(&record, Box::new(drop));
                    scene.work.calls.push(Box::new(retire));
                }
            }
            move_source::Action::Ended { mid, outcome, why } => match outcome {
                Outcome::Committed => scene.stats.committed += 1,
                Outcome::Aborted => {
                    scene.stats.aborted += 1;
                    let about = self.order_of(&mid);
                    self.report(self.told.stage.unwrap_or(Stage::Snapshot), why, about, scene);
                }
            },
        }
    }

    fn freeze(&mut self, order: MoveOrder, scene: &mut Scene<'_>) {
        let asked = Duration::from_millis(u64::from(order.freeze_ms));
        let default = SourceConfig::default();
        let within = if asked.is_zero() {
            default.freeze
        } else {
            asked.min(default.freeze_max)
        };
        let agreement = match self.agree(&order) {
            Ok(agreement) => agreement,
            Err(why) => return self.step_source(move_source::Signal::FreezeFailed(why), scene),
        };
        let opts = FreezeOpts {
            sealing: Some(agreement).filter(|_| !order.terms.key_stays),
            within,
        };
        if !order.terms.live {
            // The target holds none.
            self.drop_given(scene);
        }
        let copy = self.given.as_ref().filter(|given| given.order.mid == order.mid);
        self.told = Told {
            before: copy.map_or(0, |given| given.moved),
            snapshot_took: copy.map_or(Duration::ZERO, |given| given.snapshot_took),
            ..Told::default()
        };
        let me = scene.moves.me.clone();
        let (entity, mid) = (self.entity, order.mid);
        let waits = Arc::new(Queue {
            moves: me.clone(),
            entity,
        });
        let done = Box::new(move |frost: Result<Frost, Reject>| {
            if let Some(moves) = me.upgrade() {
                moves.put(Item::Frozen(entity, mid, frost.map(Box::new)), 0);
            }
        });
        let freeze = move |hands: &dyn Hands| hands.freeze(&order, opts, waits, done);
        scene.work.calls.push(Box::new(freeze));
    }

    /// What is agreed with the target of an order: made once, and one for all that is sealed for it.
    pub(in crate::moves) fn agree(&mut self, order: &MoveOrder) -> Result<Arc<Agreement>, Reject> {
        if let Some((mid, agreement)) = &self.agreement
            && *mid == order.mid
        {
            return Ok(Arc::clone(agreement));
        }
        let made = Agreement::with(&order.target, &keys::ephemeral());
        let made = made.map_err(|_| Reject::new(Reason::IdentityTransportFailed, "the target's key is none"))?;
        let made = Arc::new(made);
        self.agreement = Some((order.mid, Arc::clone(&made)));
        Ok(made)
    }

    /// Shows the target by which records the daemon came to be here: it has checked their signatures when they come again
    /// with the image, and the daemon stands still.
    fn show_lineage(&self, order: &MoveOrder, scene: &mut Scene<'_>) {
        let lineage = scene.moves.ownership.lineage(&self.entity).unwrap_or_default();
        for record in &lineage[lineage.len().saturating_sub(SHOWN_MAX)..] {
            scene.work.posts.push((order.target, shown(Box::new(*record))));
        }
    }

    fn send_chunk(&mut self, to: EntityId, image: Digest, index: u32, scene: &mut Scene<'_>) {
        let Some(sending) = self.sending.as_mut().filter(|sending| sending.image.digest == image) else {
            return;
        };
        let is_on_its_way = |at: Duration| scene.now < at + ON_ITS_WAY;
        if sending.pushed_at.take().is_some_and(is_on_its_way) {
            // It crossed with what was sent. Who asks again does not have it.
            return;
        }
        sending.send(to, index, scene);
    }
}

/// Takes the events of a daemon that stands still.
struct Queue {
    moves: Weak<Moves>,
    entity: EntityId,
}

impl Waits for Queue {
    fn event(&self, queued: Queued) {
        if let Some(moves) = self.moves.upgrade() {
            moves.put(Item::Event(self.entity, queued), 0);
        }
    }
}
