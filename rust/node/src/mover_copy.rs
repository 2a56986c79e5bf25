//! Copies of daemons that go on working: made at the source, held at the target until what came since is there.
//!
//! | call | at the source | at the target |
//! |---|---|---|
//! | copy | the image of now, and a tape of what takes effect since | |
//! | hold copy | | the image is kept, and restored |
//! | freeze for the same move | the tape is what travels | |
//! | restore of what came since | | taken again by what was restored, which is a standby then |
//! | drop copy, drop held | the tape ends | what was restored goes, and its image |
//!
//! Invariants
//! * A daemon that is copied is entered for its state only; its image is put together while it goes on.
//! * There is one copy of a daemon at most on each side. The newest counts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::move_frame::{Reason, Reject};
use meshos_core::move_rows::MoveOrder;
use meshos_core::ownership::MigrationId;
use meshos_core::rows::Write;

use crate::daemon::Daemon;
use crate::deliver;
use crate::hands::{Arrived, Copied, Done, FreezeOpts};
use crate::image::{self, Standby};
use crate::leave::Entered;
use crate::mover::{Mover, reject, tell};
use crate::mover_source;
use crate::runtime::Runtime;
use crate::sync::Mutex;
use crate::tape::Tape;

/// A copy that was made here, or is being made.
pub(crate) struct Copying {
    mid: MigrationId,
    is_dropped: AtomicBool,
    made: OnceLock<(Digest, Arc<Tape>)>,
}

impl Copying {
    fn end(&self) {
        self.is_dropped.store(true, Ordering::Release);
        if let Some((_, tape)) = self.made.get() {
            tape.end();
        }
    }

    fn is_dropped(&self) -> bool {
        self.is_dropped.load(Ordering::Acquire)
    }
}

/// A copy that is restored here, once it is.
pub(crate) type Held<D> = Arc<Mutex<Option<Box<Standby<D>>>>>;

impl<D: Daemon> Mover<D> {
    pub(crate) fn begin_copy(&self, order: &MoveOrder, opts: FreezeOpts, done: Done<Result<Copied, Reject>>) {
        let copying = Arc::new(Copying {
            mid: order.mid,
            is_dropped: AtomicBool::new(false),
            made: OnceLock::new(),
        });
        let before = self.copies.lock().insert(order.entity, Arc::clone(&copying));
        if let Some(before) = before {
            before.end();
        }
        let order = order.clone();
        self.later(move |mover| {
            let copied = D::batch(|| mover.copy_now(&order, opts, &copying));
            if copied.is_err() {
                copying.end();
            }
            tell(done, copied);
        });
    }

    fn copy_now(&self, order: &MoveOrder, opts: FreezeOpts, copying: &Copying) -> Result<Copied, Reject> {
        let (runtime, mut entered) = self.enter(order, &opts, &mut || copying.is_dropped())?;
        entered.untape();
        mover_source::ready(&runtime, &mut entered, order)?;
        if deliver::keeps_every(&entered) {
            // It may do something else each time that it comes back, and never would from steps.
            return Err(reject(Reason::StateFailed, "each event is kept with its state"));
        }
        // If it comes back from the copy its outputs begin here, which only this node can vouch for.
        let signed = deliver::checkpoint(&mut entered, runtime.node());
        signed.map_err(|error| reject(Reason::StateFailed, error.to_string()))?;
        let slot = Arc::clone(entered.slot());
        let gathered = image::gather(&mut entered, order, slot.key(), opts.sealing.as_deref())?;
        let tape = Tape::after(order.entity, gathered.head(), entered.host.epoch());
        entered.tape = Some(Arc::clone(&tape));
        drop(entered);
        let (image, frozen, snapshot_took) = D::apart(|| gathered.image());
        // Nobody else sets it.
        let _ = copying.made.set((image.digest, tape));
        if copying.is_dropped() || self.is_closed() {
            copying.end();
            return Err(reject(Reason::Busy, "it is not wanted any more"));
        }
        Ok(Copied {
            frozen,
            image: Arc::new(image),
            snapshot_took,
        })
    }

    pub(crate) fn end_copy(&self, entity: &EntityId) {
        let copying = self.copies.lock().remove(entity);
        if let Some(copying) = copying {
            copying.end();
        }
    }

    /// Ends the copy that was made for a move.
    pub(crate) fn end_copy_for(&self, order: &MoveOrder) {
        let mut copies = self.copies.lock();
        let is_his = copies
            .get(&order.entity)
            .is_some_and(|copying| copying.mid == order.mid);
        let copying = is_his.then(|| copies.remove(&order.entity)).flatten();
        drop(copies);
        if let Some(copying) = copying {
            copying.end();
        }
    }

    /// What came since the copy that was made for a move, if all of it is there. There is no copy any more afterwards.
    pub(crate) fn since_copy(&self, order: &MoveOrder, entered: &mut Entered<D>) -> Option<(Digest, Vec<Write>)> {
        let copying = self.copies.lock().remove(&order.entity);
        let noted = entered.tape.take();
        let found = copying.as_ref().filter(|copying| copying.mid == order.mid);
        let found = found.and_then(|copying| copying.made.get());
        let position = entered.host.position();
        let steps = found.zip(noted.as_ref()).and_then(|((copy, tape), noted)| {
            // Another one was begun, or user code was brought back meanwhile.
            let is_his = Arc::ptr_eq(tape, noted);
            let steps = is_his.then(|| tape.finish((position.sequence, position.digest)))?;
            Some((*copy, steps?))
        });
        if let Some(copying) = copying {
            copying.end();
        }
        if let Some(noted) = noted {
            noted.end();
        }
        steps
    }

    pub(crate) fn begin_hold(&self, order: &MoveOrder, image: Arrived, done: Done<Result<(), Reject>>) {
        let held: Held<D> = Arc::default();
        let before = self.held.lock().insert(order.entity, Arc::clone(&held));
        let order = order.clone();
        self.later(move |mover| {
            mover.drop_copies(before);
            let outcome = mover.hold_now(&order, &image, &held);
            tell(done, outcome);
        });
    }

    fn hold_now(&self, order: &MoveOrder, image: &Arrived, held: &Held<D>) -> Result<(), Reject> {
        let runtime = self.runtime.upgrade().ok_or(Reason::ComputeNotSupported)?;
        let kept = runtime.stores()().keep_whole(&image.bytes);
        let name = kept.map_err(|error| reject(Reason::StateFailed, format!("it is not kept: {error}")))?;
        let restored = self.restored(&runtime, order, (image, name)).and_then(|standby| {
            if standby.keeps_every() {
                D::batch(|| drop(standby));
                return Err(reject(Reason::StateFailed, "each event is to be kept with its state"));
            }
            Ok(Box::new(standby))
        });
        let mut all = self.held.lock();
        let is_newest = all.get(&order.entity).is_some_and(|known| Arc::ptr_eq(known, held));
        let is_wanted = is_newest && !self.is_closed();
        match restored {
            Ok(standby) if is_wanted => {
                *held.lock() = Some(standby);
                return Ok(());
            }
            restored => {
                if is_newest {
                    all.remove(&order.entity);
                }
                drop(all);
                self.free(&runtime, &order.entity, &[name]);
                restored.map(|standby| D::batch(|| drop(standby)))?;
            }
        }
        Err(reject(Reason::Busy, "it is not wanted any more"))
    }

    pub(crate) fn end_hold(&self, entity: &EntityId) {
        let held = self.held.lock().remove(entity);
        if held.is_some() {
            self.later(move |mover| mover.drop_copies(held));
        }
    }

    fn drop_copies(&self, held: Option<Held<D>>) {
        let standby = held.and_then(|held| held.lock().take());
        let (Some(standby), Some(runtime)) = (standby, self.runtime.upgrade()) else {
            return;
        };
        let (entity, name) = (standby.inside.host.entity(), standby.images().0);
        D::batch(|| drop(standby));
        self.free(&runtime, &entity, &[name]);
    }

    /// Takes what was restored from a copy, if it is held.
    pub(crate) fn take_held(&self, entity: &EntityId, copy: &Digest) -> Option<Box<Standby<D>>> {
        let held = self.held.lock().get(entity).cloned()?;
        let standby = held.lock().take_if(|standby| standby.images().0 == *copy);
        if standby.is_some() {
            self.held.lock().remove(entity);
        }
        standby
    }

    /// Brings what was restored from a copy to where the daemon was frozen.
    pub(crate) fn caught_up(
        &self,
        runtime: &Runtime<D>,
        order: &MoveOrder,
        copy: Standby<D>,
        image: &Arrived,
    ) -> Result<Standby<D>, Reject> {
        let standby = image::catch_up(copy, &image.bytes, order, (runtime.node(), image.agreement()))?;
        Ok(self.dressed(order, standby))
    }
}
