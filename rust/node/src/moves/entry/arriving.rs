//! The target of an entity: what it hears, and what it has done.

use std::sync::{Arc, Weak};

use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::move_chunks;
use meshos_core::move_frame::{Body, MoveFrame, Reason, Reject};
use meshos_core::move_rows::{Frozen, MoveOrder};
use meshos_core::move_target;
use meshos_core::ownership::MigrationId;

use super::leaving::shown;
use super::{Entry, Pulling, Scene};
use crate::clock;
use crate::hands::Hands;
use crate::moves::chunks::{Open, Opened, Sealed};
use crate::moves::{Item, Moves, Role};

impl Entry {
    pub(in crate::moves) fn hear_target(
        &mut self,
        from: EntityId,
        frame: MoveFrame<'_>,
        refusal: Option<Reject>,
        scene: &mut Scene<'_>,
    ) {
        if let Body::Final { lineage, .. } = &frame.body {
            self.active = lineage.last().copied();
        }
        if refusal.is_none() && self.makes(from, &frame, scene) {
            return;
        }
        let signal = move_target::Signal::Heard {
            from,
            frame: Box::new(frame),
            wall: clock::unix_ms(),
            owned: self.owned(scene),
            refusal,
        };
        self.step_target(signal, scene);
    }

    /// Whether somebody asks that it is taken on, and an instance for it has to be made before that is answered: its source
    /// does not stand still meanwhile. Of a copy it was made before.
    fn makes(&mut self, from: EntityId, frame: &MoveFrame<'_>, scene: &mut Scene<'_>) -> bool {
        let order = match &frame.body {
            Body::Prepare(order) => order,
            Body::Abort => {
                let is_his = |(_, asked): &mut (EntityId, MoveFrame<'_>)| {
                    let of_it = matches!(&asked.body, Body::Prepare(order) if order.source == from);
                    of_it && asked.mid == frame.mid
                };
                return self.asked.take_if(is_his).is_some();
            }
            _ => return false,
        };
        let is_new = !self.is_made && self.target.would_agree(&self.known, order, clock::unix_ms());
        let has_copy = order.terms.live && self.taken.as_ref().is_some_and(|taken| taken.is_held);
        if !is_new || has_copy || from != order.orchestrator || order.target != scene.moves.node {
            return false;
        }
        let prepare = MoveFrame {
            mid: frame.mid,
            entity: frame.entity,
            epoch: frame.epoch,
            step: frame.step,
            body: Body::Prepare(order.clone()),
        };
        // Whoever asks last is answered; who asked before asks again.
        self.asked = Some((from, prepare));
        if !std::mem::replace(&mut self.is_making, true) {
            let order = order.clone();
            let making = Making(Some((scene.moves.me.clone(), self.entity)));
            let done = Box::new(move |made| making.ends(made));
            let construct = move |hands: &dyn Hands| hands.construct(&order, done);
            scene.work.calls.push(Box::new(construct));
        }
        true
    }

    /// The instance that was asked for is made, or cannot be. Tells who is to be answered.
    pub(in crate::moves) fn made(
        &mut self,
        is_made: bool,
        scene: &mut Scene<'_>,
    ) -> Option<(EntityId, MoveFrame<'static>)> {
        (self.is_making, self.is_made) = (false, is_made);
        let asked = self.asked.take();
        if asked.is_none() {
            self.unmake(scene);
        }
        asked
    }

    /// Lets go of an instance that nobody is going to take.
    fn unmake(&mut self, scene: &mut Scene<'_>) {
        if std::mem::take(&mut self.is_made) {
            let entity = self.entity;
            let drop_made = move |hands: &dyn Hands| hands.drop_made(&entity);
            scene.work.calls.push(Box::new(drop_made));
        }
    }

    /// A chunk that is being waited for.
    pub(in crate::moves) fn chunk(
        &mut self,
        from: EntityId,
        (mid, image, index): (MigrationId, Digest, u32),
        sealed: Sealed,
        scene: &mut Scene<'_>,
    ) {
        let copy = self.taken.as_ref().and_then(|taken| taken.pulling.as_ref());
        let mut pullings = self.pulling.iter().chain(copy);
        if let Some(pulling) = pullings.find(|pulling| pulling.is_of(from, mid, image)) {
            scene.work.opens.push(Open {
                entity: self.entity,
                mid,
                image,
                index,
                sealed,
                opener: Arc::clone(&pulling.opener),
                spool: Arc::clone(&pulling.spool),
            });
        }
    }

    pub(in crate::moves) fn opened(&mut self, opened: Opened, scene: &mut Scene<'_>) {
        let is_it = |pulling: &&mut Pulling| pulling.order.mid == opened.mid && pulling.image == opened.image;
        let Some(pulling) = self.pulling.as_mut().filter(is_it) else {
            return self.opened_copy(&opened, scene);
        };
        if !opened.is_whole {
            let text = format!("chunk {} of the image cannot be opened", opened.index);
            self.pulling = None;
            let why = Reject::new(Reason::IdentityTransportFailed, &text);
            return self.step_target(move_target::Signal::RestoreFailed(why), scene);
        }
        let mut actions = Vec::new();
        let signal = move_chunks::Signal::Chunk {
            image: opened.image,
            index: opened.index,
            length: opened.length,
        };
        pulling.receiver.step(scene.now, signal, &mut actions);
        self.do_chunks(actions, scene);
    }

    pub(in crate::moves) fn restored(
        &mut self,
        mid: MigrationId,
        restored: Result<Frozen, Reject>,
        scene: &mut Scene<'_>,
    ) {
        if self.target.order().is_none_or(|order| order.mid != mid) {
            return;
        }
        let signal = match restored {
            Ok(frozen) => move_target::Signal::Restored(frozen),
            Err(why) => move_target::Signal::RestoreFailed(why),
        };
        self.step_target(signal, scene);
    }

    pub(in crate::moves) fn installed(
        &mut self,
        mid: MigrationId,
        installed: &Result<u64, String>,
        scene: &mut Scene<'_>,
    ) {
        if self.target.order().is_none_or(|order| order.mid != mid) {
            return;
        }
        let signal = match installed {
            Ok(epoch) => move_target::Signal::Activated { epoch: *epoch },
            Err(_) => move_target::Signal::InstallRefused,
        };
        self.step_target(signal, scene);
    }

    pub(super) fn step_target(&mut self, signal: move_target::Signal<'_>, scene: &mut Scene<'_>) {
        let mut actions = Vec::new();
        self.target.step(scene.now, &mut self.known, signal, &mut actions);
        for action in actions {
            self.do_target(action, scene);
        }
        if !matches!(
            self.target.phase(),
            move_target::Phase::Reserved | move_target::Phase::Restoring
        ) {
            self.unmake(scene);
        }
    }

    fn do_target(&mut self, action: move_target::Action, scene: &mut Scene<'_>) {
        let entity = self.entity;
        match action {
            move_target::Action::Send { to, frame } => scene.work.posts.push((to, frame)),
            move_target::Action::Keep { ticket, writes } => {
                scene.work.keeps.push((entity, Role::Target, ticket, writes));
            }
            move_target::Action::Restore {
                order,
                image,
                image_bytes,
            } => self.pull(*order, image, image_bytes, scene),
            move_target::Action::Discard { image } => {
                self.pulling = None;
                self.drop_taken(scene);
                let discard = move |hands: &dyn Hands| hands.discard(&entity, &image);
                scene.work.calls.push(Box::new(discard));
            }
            move_target::Action::Install {
                record,
                prepared,
                writes,
            } => {
                let me = scene.moves.me.clone();
                let mid = prepared.order.mid;
                let done = Box::new(move |installed: Result<u64, String>| {
                    if let Some(moves) = me.upgrade() {
                        moves.put(Item::Installed(entity, mid, installed), 0);
                    }
                });
                let install = move |hands: &dyn Hands| hands.install(&record, &prepared, writes, done);
                scene.work.calls.push(Box::new(install));
            }
            move_target::Action::GoLive { queue } => {
                scene.stats.arrived += 1;
                self.taken = None;
                // That it owns is said once others find it here: whoever hears it may ask for it at once.
                let is_said = |frame: &MoveFrame<'_>| frame.entity == entity && matches!(frame.body, Body::Committed);
                let posts = &mut scene.work.posts;
                let said: Vec<_> = posts.extract_if(.., |(_, frame)| is_said(frame)).collect();
                let me = scene.moves.me.clone();
                let done = Box::new(move |()| {
                    if let Some(moves) = me.upgrade() {
                        moves.put(Item::Said(said), 0);
                    }
                });
                let go_live = move |hands: &dyn Hands| hands.go_live(&entity, queue, done);
                scene.work.calls.push(Box::new(go_live));
            }
            move_target::Action::Redirect { queue } => self.redirect(queue, scene),
            move_target::Action::Show { to, record } => {
                scene.work.posts.push((to, shown(record)));
            }
            move_target::Action::Alarm(_) => scene.stats.alarms += 1,
        }
    }

    fn pull(&mut self, order: MoveOrder, digest: Digest, image_bytes: u64, scene: &mut Scene<'_>) {
        match Pulling::begin(order, digest, image_bytes, scene) {
            Err(why) => self.step_target(move_target::Signal::RestoreFailed(why), scene),
            Ok((pulling, actions)) => {
                self.pulling = Some(pulling);
                self.do_chunks(actions, scene);
            }
        }
    }

    pub(super) fn do_chunks(&mut self, actions: Vec<move_chunks::Action>, scene: &mut Scene<'_>) {
        for action in actions {
            let Some(pulling) = &self.pulling else { return };
            match action {
                move_chunks::Action::Pull { index } => pulling.ask(index, scene),
                move_chunks::Action::Take { .. } => {}
                move_chunks::Action::Whole => self.restore(scene),
            }
        }
    }

    fn restore(&mut self, scene: &mut Scene<'_>) {
        let Some(pulling) = self.pulling.take() else { return };
        let me = scene.moves.me.clone();
        let mut image = pulling.arrived();
        image.active = self.active;
        let (entity, order) = (self.entity, pulling.order);
        let mid = order.mid;
        let done = Box::new(move |restored: Result<Frozen, Reject>| {
            if let Some(moves) = me.upgrade() {
                moves.put(Item::Restored(entity, mid, restored), 0);
            }
        });
        let restore = move |hands: &dyn Hands| hands.restore(&order, image, done);
        scene.work.calls.push(Box::new(restore));
    }
}

/// An instance that is being made. Where nobody makes it any more, as with a runtime that is gone, that is told too.
struct Making(Option<(Weak<Moves>, EntityId)>);

impl Making {
    fn ends(mut self, made: Result<(), Reject>) {
        self.tell(made);
    }

    fn tell(&mut self, made: Result<(), Reject>) {
        if let Some((moves, entity)) = self.0.take()
            && let Some(moves) = moves.upgrade()
        {
            moves.put(Item::Made(entity, made), 0);
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.tell(Err(Reason::NotReady.into()));
    }
}
