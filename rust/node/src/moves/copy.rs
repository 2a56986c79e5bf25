//! Copies of daemons that are made while they work, before the move begins.
//!
//! A copy decides nothing. If one is there when the daemon is frozen, what came since is all that has to travel; if it is
//! not, or does not fit, everything does.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::image::seal;
use meshos_core::move_chunks;
use meshos_core::move_frame::{Aside, Body, MoveFrame, Reason, Reject, Report, Stage};
use meshos_core::move_rows::{Frozen, MoveOrder};
use meshos_core::ownership::MigrationId;

use super::chunks::Opened;
use super::entry::{Entry, Pulling, Scene, Sending};
use super::{Item, Work};
use crate::hands::{Copied, FreezeOpts, Hands};

/// How long a copy is kept of which nobody says a word.
const KEPT: Duration = Duration::from_secs(60);
/// How long user code that is inside may take until no copy is made.
const WITHIN: Duration = Duration::from_secs(10);

/// A copy that was made here.
pub(super) struct Given {
    pub(super) order: Box<MoveOrder>,
    /// The image, once it is taken, and where the daemon stood.
    sending: Option<(Sending, Frozen)>,
    pub(super) moved: u64,
    pub(super) snapshot_took: Duration,
    until: Duration,
}

/// A copy that is being pulled, or held.
pub(super) struct Taken {
    order: Arc<MoveOrder>,
    image: Digest,
    pub(super) pulling: Option<Pulling>,
    pub(super) is_held: bool,
    until: Duration,
}

impl Given {
    pub(super) fn sending(&mut self) -> Option<&mut Sending> {
        self.sending.as_mut().map(|(sending, _)| sending)
    }

    pub(super) const fn wake_at(&self) -> Duration {
        self.until
    }
}

impl Taken {
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let pulling = self.pulling.as_ref().and_then(|pulling| pulling.receiver.wake_at());
        pulling.into_iter().chain([self.until]).min()
    }
}

fn say(order: &MoveOrder, to: EntityId, body: Body<'static>, work: &mut Work) {
    work.posts.push((to, MoveFrame::about(order, body)));
}

impl Entry {
    /// The orchestrator wants a copy.
    pub(super) fn copy(&mut self, order: &MoveOrder, refusal: Option<Reject>, scene: &mut Scene<'_>) {
        let until = scene.now + KEPT;
        if let Some(given) = self.given.as_mut().filter(|given| given.order.mid == order.mid) {
            given.until = until;
            return self.offer(scene);
        }
        let why = if refusal.is_some() {
            refusal
        } else if !self.is_idle() {
            Some(Reject::from(Reason::Busy))
        } else if self.owned(scene) != Some(order.epoch) {
            Some(Reject::from(Reason::NotOwner))
        } else {
            None
        };
        if let Some(why) = why {
            return say(order, order.orchestrator, Body::Reject(why), scene.work);
        }
        let agreement = match self.agree(order) {
            Ok(agreement) => agreement,
            Err(why) => return say(order, order.orchestrator, Body::Reject(why), scene.work),
        };
        self.given = Some(Given {
            order: Box::new(order.clone()),
            sending: None,
            moved: 0,
            snapshot_took: Duration::ZERO,
            until,
        });
        let opts = FreezeOpts {
            sealing: Some(agreement).filter(|_| !order.terms.key_stays),
            within: WITHIN,
        };
        let (me, entity, mid) = (scene.moves.me.clone(), self.entity, order.mid);
        let done = Box::new(move |copied: Result<Copied, Reject>| {
            if let Some(moves) = me.upgrade() {
                moves.put(Item::Copied(entity, mid, copied.map(Box::new)), 0);
            }
        });
        let order = order.clone();
        let copy = move |hands: &dyn Hands| hands.copy(&order, opts, done);
        scene.work.calls.push(Box::new(copy));
    }

    /// The copy is there, or cannot be made.
    pub(super) fn copied(&mut self, mid: MigrationId, copied: Result<Box<Copied>, Reject>, scene: &mut Scene<'_>) {
        let found = self.given.as_ref().filter(|given| given.order.mid == mid);
        let Some(order) = found.map(|given| (*given.order).clone()) else {
            return;
        };
        let agreement = self.agree(&order);
        let Some(given) = &mut self.given else { return };
        let sending = copied.and_then(|copied| {
            given.snapshot_took = copied.snapshot_took;
            Ok((Sending::new(copied.image, order, &*agreement?), copied.frozen))
        });
        match sending {
            Ok(sending) => {
                given.sending = Some(sending);
                self.offer(scene);
            }
            Err(why) => {
                let order = &given.order;
                say(order, order.orchestrator, Body::Reject(why), scene.work);
                self.drop_given(scene);
            }
        }
    }

    fn offer(&self, scene: &mut Scene<'_>) {
        let Some(given) = &self.given else { return };
        let Some((sending, frozen)) = &given.sending else {
            return;
        };
        let offer = Aside::Offer {
            order: given.order.clone(),
            frozen: *frozen,
            image_bytes: seal::sealed_len(sending.image.len),
        };
        let body = Body::Aside(Box::new(offer));
        say(&given.order, given.order.target, body, scene.work);
    }

    /// Sends a chunk of a copy, if it is one that is asked for.
    pub(super) fn give(
        &mut self,
        from: EntityId,
        mid: MigrationId,
        image: Digest,
        index: u32,
        scene: &mut Scene<'_>,
    ) -> bool {
        let until = scene.now + KEPT;
        let Some(given) = self.given.as_mut().filter(|given| given.order.mid == mid) else {
            return false;
        };
        let is_target = given.order.target == from;
        let Some((sending, _)) = given.sending.as_mut() else {
            return false;
        };
        if !is_target || sending.image.digest != image {
            return false;
        }
        given.until = until;
        let bytes = seal::plain_range(sending.image.len, index).map_or(0, |range| range.end - range.start);
        given.moved += bytes;
        sending.send(from, index, scene);
        let report = Report {
            stage: Stage::Transfer,
            image_bytes: seal::sealed_len(sending.image.len),
            moved: given.moved,
            blackout_us: 0,
            snapshot_us: 0,
            waiting: 0,
            rounds: 1,
            refused: None,
        };
        let body = Body::Aside(Box::new(Aside::Report(report)));
        say(&given.order, given.order.orchestrator, body, scene.work);
        true
    }

    pub(super) fn drop_given(&mut self, scene: &mut Scene<'_>) {
        if self.given.take().is_some() {
            let entity = self.entity;
            let forget = move |hands: &dyn Hands| hands.drop_copy(&entity);
            scene.work.calls.push(Box::new(forget));
        }
    }

    /// A source has a copy for this node.
    pub(super) fn offered(
        &mut self,
        order: &MoveOrder,
        (image, image_bytes): (Digest, u64),
        refusal: Option<Reject>,
        scene: &mut Scene<'_>,
    ) {
        let until = scene.now + KEPT;
        if let Some(taken) = self.taken.as_mut().filter(|taken| taken.order.mid == order.mid) {
            taken.until = until;
            if taken.is_held {
                let body = Body::Aside(Box::new(Aside::Copied { image: taken.image }));
                say(order, order.orchestrator, body, scene.work);
            }
            return;
        }
        // What is being copied on the order of another node is not given up for this one.
        let others = self
            .taken
            .as_ref()
            .is_some_and(|taken| taken.order.orchestrator != order.orchestrator);
        let is_busy = others || !self.is_idle();
        let refusal = refusal.or_else(|| is_busy.then(|| Reject::from(Reason::Busy)));
        let begun = match refusal {
            Some(why) => Err(why),
            None => Pulling::begin(order.clone(), image, image_bytes, scene),
        };
        match begun {
            Err(why) => say(order, order.orchestrator, Body::Reject(why), scene.work),
            Ok((pulling, actions)) => {
                self.drop_taken(scene);
                self.taken = Some(Taken {
                    order: Arc::clone(&pulling.order),
                    image,
                    pulling: Some(pulling),
                    is_held: false,
                    until,
                });
                self.do_copy_chunks(actions, scene);
            }
        }
    }

    /// A chunk of a copy was opened.
    pub(super) fn opened_copy(&mut self, opened: &Opened, scene: &mut Scene<'_>) {
        let Some(taken) = &mut self.taken else { return };
        let Some(pulling) = &mut taken.pulling else { return };
        if pulling.order.mid != opened.mid || pulling.image != opened.image {
            return;
        }
        if !opened.is_whole {
            let text = format!("chunk {} of the copy cannot be opened", opened.index);
            let why = Reject::new(Reason::IdentityTransportFailed, &text);
            return self.held(opened.mid, Err(why), scene);
        }
        taken.until = scene.now + KEPT;
        let mut actions = Vec::new();
        let signal = move_chunks::Signal::Chunk {
            image: opened.image,
            index: opened.index,
            length: opened.length,
        };
        pulling.receiver.step(scene.now, signal, &mut actions);
        self.do_copy_chunks(actions, scene);
    }

    fn do_copy_chunks(&mut self, actions: Vec<move_chunks::Action>, scene: &mut Scene<'_>) {
        for action in actions {
            let Some(taken) = &mut self.taken else { return };
            let Some(pulling) = &taken.pulling else { return };
            match action {
                move_chunks::Action::Pull { index } => pulling.ask(index, scene),
                move_chunks::Action::Take { .. } => {}
                move_chunks::Action::Whole => {
                    let (image, order) = (pulling.arrived(), Arc::clone(&taken.order));
                    taken.pulling = None;
                    let (me, entity, mid) = (scene.moves.me.clone(), self.entity, order.mid);
                    let done = Box::new(move |held: Result<(), Reject>| {
                        if let Some(moves) = me.upgrade() {
                            moves.put(Item::Held(entity, mid, held), 0);
                        }
                    });
                    let hold = move |hands: &dyn Hands| hands.hold_copy(&order, image, done);
                    scene.work.calls.push(Box::new(hold));
                }
            }
        }
    }

    /// The copy is held, or cannot be.
    pub(super) fn held(&mut self, mid: MigrationId, held: Result<(), Reject>, scene: &mut Scene<'_>) {
        let Some(taken) = self.taken.as_mut().filter(|taken| taken.order.mid == mid) else {
            return;
        };
        let order = Arc::clone(&taken.order);
        match held {
            Ok(()) => {
                taken.is_held = true;
                let body = Body::Aside(Box::new(Aside::Copied { image: taken.image }));
                say(&order, order.orchestrator, body, scene.work);
            }
            Err(why) => {
                say(&order, order.orchestrator, Body::Reject(why), scene.work);
                self.drop_taken(scene);
            }
        }
    }

    pub(super) fn drop_taken(&mut self, scene: &mut Scene<'_>) {
        if self.taken.take().is_some() {
            let entity = self.entity;
            let forget = move |hands: &dyn Hands| hands.drop_held(&entity);
            scene.work.calls.push(Box::new(forget));
        }
    }

    /// What came to its end.
    pub(super) fn copy_timer(&mut self, scene: &mut Scene<'_>) {
        // A move that is under way needs them as long as it takes.
        let is_idle = self.is_idle();
        let next = scene.now + KEPT;
        for until in self
            .given
            .iter_mut()
            .map(|given| &mut given.until)
            .chain(self.taken.iter_mut().map(|taken| &mut taken.until))
        {
            if *until <= scene.now && !is_idle {
                *until = next;
            }
        }
        if self.given.as_ref().is_some_and(|given| given.until <= scene.now) {
            self.drop_given(scene);
        }
        if self.taken.as_ref().is_some_and(|taken| taken.until <= scene.now) {
            self.drop_taken(scene);
        }
        let Some(pulling) = self.taken.as_mut().and_then(|taken| taken.pulling.as_mut()) else {
            return;
        };
        if pulling.receiver.wake_at().is_some_and(|at| at <= scene.now) {
            let mut actions = Vec::new();
            pulling
                .receiver
                .step(scene.now, move_chunks::Signal::Timer, &mut actions);
            self.do_copy_chunks(actions, scene);
        }
    }
}
