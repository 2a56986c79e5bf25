//! Taking a daemon on: restoring it in standby, installing it, letting others have it.
//!
//! | call | what there is of it here afterwards |
//! |---|---|
//! | construct | an instance without state, in memory |
//! | restore | its image, kept, and a standby in memory; who sends to it is asked to wait |
//! | install, refused | the same, to be tried again |
//! | install | all of it, kept in one commit, and a lease; nobody finds it yet |
//! | go live | a daemon as any other, with the events that came with it before all others |
//! | discard | nothing |
//!
//! Invariants
//! * A standby processes nothing, and nothing of it but the image is kept.
//! * What was here of an earlier term goes in the commit that installs the later one.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::digest::{self, Digest};
use meshos_core::id::EntityId;
use meshos_core::image as core_image;
use meshos_core::journal::SnapshotRow;
use meshos_core::lifecycle::Call;
use meshos_core::move_frame::{Reason, Reject};
use meshos_core::move_rows::{Frozen, MoveOrder, Prepared, Queued};
use meshos_core::ownership::OwnershipRecord;
use meshos_core::rows::{KeyRange, Table, Write};

use crate::claims::denied;
use crate::clock::Deadline;
use crate::daemon::Daemon;
use crate::deliver;
use crate::hands::Arrived;
use crate::image::{self, Standby};
use crate::keeping::Stores;
use crate::mover::{Mover, reject};
use crate::mover_source::{discard, leftovers};
use crate::outgoing::{Emitter, Sending};
use crate::ownership::{self, CLAIM_WAIT, Ownership, Wish};
use crate::ownership_central as central;
use crate::resumption;
use crate::runtime::Runtime;
use crate::slot::Slot;
use crate::sync::Mutex;

/// When files are freed that a daemon that just became live does not need.
const SOON: Duration = Duration::from_millis(100);

/// How long a daemon that is live may be busy until no snapshot is taken of it.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(60);

struct Installed<D: Daemon> {
    slot: Arc<Slot<D>>,
    due: Vec<Sending>,
    /// Whether the snapshot that is kept of it is of before steps that are not.
    is_old: bool,
    /// Images and snapshots that are of no use any more.
    files: Vec<Digest>,
}

enum Stage<D: Daemon> {
    Standby(Box<Standby<D>>),
    /// It is installed, and nobody finds it yet.
    Installed(Box<Installed<D>>),
    /// Somebody works on it, or it is live.
    Taken,
}

/// A daemon that is about to be here.
pub(crate) struct Arrival<D: Daemon> {
    image: Digest,
    stage: Mutex<Stage<D>>,
}

impl<D: Daemon> Arrival<D> {
    fn take(&self) -> Stage<D> {
        std::mem::replace(&mut *self.stage.lock(), Stage::Taken)
    }
}

/// An instance that waits for its state.
pub(crate) struct Made<D> {
    kind: String,
    daemon: D,
}

impl<D: Daemon> Mover<D> {
    /// Has an instance ready for a daemon that is to come.
    pub(crate) fn make_ready(&self, order: &MoveOrder) -> Result<(), Reject> {
        let is_there = |made: &Made<D>| made.kind == order.kind;
        if self.made.lock().get(&order.entity).is_some_and(is_there) {
            return Ok(());
        }
        let kind = order.kind.clone();
        let daemon = D::batch(|| self.factories.make(&kind))?;
        let before = self.made.lock().insert(order.entity, Made { kind, daemon });
        D::batch(|| drop(before));
        if self.is_closed() {
            // It may have been put there after everything was let go of.
            let made = self.made.lock().remove(&order.entity);
            D::batch(|| drop(made));
            return Err(Reason::NotReady.into());
        }
        Ok(())
    }

    /// The instance that was made for an order, or a fresh one.
    fn instance(&self, order: &MoveOrder) -> Result<D, Reject> {
        let made = self.made.lock().remove(&order.entity);
        match made {
            Some(made) if made.kind == order.kind => Ok(made.daemon),
            _ => self.factories.make(&order.kind),
        }
    }

    /// Keeps an image, and restores the daemon in standby.
    pub(crate) fn stand_by(&self, order: &MoveOrder, image: &Arrived) -> Result<Frozen, Reject> {
        let runtime = self.runtime.upgrade().ok_or(Reason::ComputeNotSupported)?;
        if self.is_closed() {
            return Err(Reason::NotReady.into());
        }
        let kept = runtime.stores()().keep_whole(&image.bytes);
        let name = kept.map_err(|error| reject(Reason::StateFailed, format!("it is not kept: {error}")))?;
        let standby = match core_image::copy_of(&image.bytes) {
            None => self.restored(&runtime, order, (image, name))?,
            Some(copy) => {
                let held = self.take_held(&order.entity, &copy);
                let missing = || reject(Reason::StateFailed, "the replay differs: the copy is not here");
                let standby = held.ok_or_else(missing);
                let standby = D::batch(|| self.caught_up(&runtime, order, *standby?, image));
                standby.inspect_err(|_| self.free(&runtime, &order.entity, &[name, copy]))?
            }
        };
        if self.is_closed() {
            // What user code took so long for is of no use any more: the source goes on.
            D::batch(|| drop(standby));
            return Err(Reason::NotReady.into());
        }
        let frozen = standby.frozen;
        expect(&runtime, order, image.active, &standby);
        debug_assert_eq!(frozen.image, name, "an image is named as a store names it");
        self.put(order.entity, standby);
        runtime.router().arriving(order.entity, true);
        Ok(frozen)
    }

    pub(crate) fn restored(
        &self,
        runtime: &Runtime<D>,
        order: &MoveOrder,
        (image, name): (&Arrived, Digest),
    ) -> Result<Standby<D>, Reject> {
        // The image is of the kind of the order, or is refused before.
        let make = |_: &str| self.instance(order);
        let standby = D::batch(|| {
            image::restore(
                Arc::clone(&image.bytes),
                name,
                order,
                (runtime.node(), image.agreement()),
                make,
            )
        })?;
        Ok(self.dressed(order, standby))
    }

    /// With the options and the key that were named before.
    pub(crate) fn dressed(&self, order: &MoveOrder, mut standby: Standby<D>) -> Standby<D> {
        let expected = self.expected(order.entity.origin(), &order.kind);
        let config = expected.as_ref().and_then(|expected| expected.config);
        if let Some(config) = config.or_else(|| self.factories.config(&order.kind)) {
            standby.configure(config);
        }
        if let Some(key) = expected.and_then(|expected| expected.key)
            && standby.key.lock().is_read_only()
            && key.lock().entity_id() == order.entity
        {
            standby.key = key;
        }
        standby
    }

    fn put(&self, entity: EntityId, standby: Standby<D>) -> Arc<Arrival<D>> {
        let arrival = Arc::new(Arrival {
            image: standby.frozen.image,
            stage: Mutex::new(Stage::Standby(Box::new(standby))),
        });
        let before = self.arrivals.lock().insert(entity, Arc::clone(&arrival));
        D::batch(|| drop(before));
        arrival
    }

    /// Lets go of a standby, and of its image unless something is kept that needs it.
    pub(crate) fn let_go(&self, entity: &EntityId, image: &Digest) {
        let Some(runtime) = self.runtime.upgrade() else { return };
        let mut arrivals = self.arrivals.lock();
        let arrival = match arrivals.get(entity) {
            Some(arrival) if arrival.image == *image => arrivals.remove(entity),
            _ => None,
        };
        drop(arrivals);
        if arrival.is_some() {
            runtime.router().arriving(*entity, false);
            runtime.unreserve(entity);
        }
        let copy = arrival.as_ref().and_then(|arrival| match &*arrival.stage.lock() {
            Stage::Standby(standby) => Some(standby.images().0),
            _ => None,
        });
        D::batch(|| drop(arrival));
        let images: Vec<_> = copy.into_iter().chain([*image]).collect();
        self.free(&runtime, entity, &images);
    }

    /// Removes images that no snapshot is in.
    pub(crate) fn free(&self, runtime: &Runtime<D>, entity: &EntityId, images: &[Digest]) {
        let stores = runtime.stores();
        let free: Vec<_> = images
            .iter()
            .filter(|image| !is_named(stores, entity, image))
            .copied()
            .collect();
        discard(stores, &free);
    }

    /// Claims a daemon, keeps all of it and has a lease.
    pub(crate) fn take_on(
        &self,
        record: &OwnershipRecord,
        prepared: &Prepared,
        writes: Vec<Write>,
    ) -> Result<u64, String> {
        let runtime = self.runtime.upgrade().ok_or("there is no runtime any more")?;
        let ownership = runtime.ownership().ok_or("the node is in no mesh")?;
        let entity = record.entity();
        if self.is_closed() {
            return Err("the node closes".to_owned());
        }
        runtime.allow(Call::Work).map_err(|error| error.to_string())?;
        let here = runtime.registry().get(entity.origin());
        if let Some(slot) = here.filter(|slot| slot.entity() == entity) {
            let epoch = slot.view().epoch;
            // It was installed before, and came back by itself.
            return if epoch >= record.epoch() {
                Ok(epoch)
            } else {
                Err("it runs here in an earlier term".to_owned())
            };
        }
        let known = self.arrivals.lock().get(&entity).map(Arc::clone);
        let known = known.filter(|arrival| arrival.image == prepared.frozen.image);
        let arrival = match known {
            Some(arrival) => arrival,
            None => self.fetched(&runtime, prepared)?,
        };
        let mut standby = match arrival.take() {
            Stage::Standby(standby) => standby,
            Stage::Installed(installed) => {
                let epoch = installed.slot.view().epoch;
                *arrival.stage.lock() = Stage::Installed(installed);
                return Ok(epoch);
            }
            Stage::Taken => return Err("it is being installed".to_owned()),
        };
        runtime.router().arriving(entity, true);
        let installed = D::batch(|| install(&runtime, ownership, &mut standby, record, prepared, writes));
        let (claim, files) = match installed {
            Ok(installed) => installed,
            Err(why) => {
                *arrival.stage.lock() = Stage::Standby(standby);
                return Err(why);
            }
        };
        let is_old = standby.images().1.is_some() && standby.is_kept() && !standby.keeps_steps();
        let Standby { inside, key, due, .. } = *standby;
        let slot = Slot::new(key, Some(runtime.node().entity_id()), inside);
        runtime.hold(&slot, claim);
        *arrival.stage.lock() = Stage::Installed(Box::new(Installed {
            slot,
            due,
            is_old,
            files,
        }));
        Ok(record.epoch())
    }

    /// Restores a daemon again from its image, after a restart.
    fn fetched(&self, runtime: &Runtime<D>, prepared: &Prepared) -> Result<Arc<Arrival<D>>, String> {
        let image = prepared.frozen.image;
        let bytes = runtime.stores()().fetch(&image, prepared.image_bytes);
        let bytes = bytes.map_err(|error| format!("its image is not to be had: {error}"))?;
        let (order, image) = (&prepared.order, Arrived::from(bytes));
        let standby = match core_image::copy_of(&image.bytes) {
            None => self.restored(runtime, order, (&image, digest::plain(&image.bytes))),
            Some(copy) => {
                let whole = runtime.stores()().fetch(&copy, u64::MAX);
                let whole = whole.map_err(|error| format!("its copy is not to be had: {error}"))?;
                let whole = Arrived::from(whole);
                let whole = self.restored(runtime, order, (&whole, digest::plain(&whole.bytes)));
                whole.and_then(|whole| D::batch(|| self.caught_up(runtime, order, whole, &image)))
            }
        };
        let standby = standby.map_err(|reject| format!("it is not restored: {}", reject.text))?;
        if standby.frozen != prepared.frozen {
            return Err("it stands elsewhere than it was frozen".to_owned());
        }
        Ok(self.put(order.entity, standby))
    }

    /// Lets others have a daemon that is installed, with the events that came with it.
    pub(crate) fn place(&self, entity: &EntityId, queue: Vec<Queued>) {
        let Some(runtime) = self.runtime.upgrade() else { return };
        self.end_hold(entity);
        let arrival = self.arrivals.lock().remove(entity);
        let stage = arrival.map(|arrival| arrival.take());
        D::batch(|| match stage {
            Some(Stage::Installed(installed)) => {
                let Installed {
                    slot,
                    due,
                    is_old,
                    files,
                } = *installed;
                let left = runtime.archive.lock().forget(entity);
                drop(left);
                slot.put_first(runtime.lanes(), queue, &runtime.router().back());
                let (entity, origin) = (*entity, entity.origin());
                // What it emitted before leaves before what it emits now.
                runtime.exits().send(&Emitter { entity, origin }, due);
                runtime.unreserve(&entity);
                if runtime.place(Arc::clone(&slot)).is_ok() {
                    self.forget(origin);
                    slot.retry_marked(runtime.lanes());
                    slot.work();
                    if !files.is_empty() {
                        // To free large ones takes longer than all of this.
                        let stores = Arc::clone(runtime.stores());
                        self.after(SOON, move |_| discard(&stores, &files));
                    }
                    if is_old {
                        self.later(move |_| snapshot_of(&slot));
                    }
                }
            }
            stage => {
                // It came back by itself after a restart.
                drop(stage);
                let slot = runtime.registry().get(entity.origin());
                if let Some(slot) = slot.filter(|slot| slot.entity() == *entity) {
                    slot.put_last(runtime.lanes(), queue, &runtime.router().back());
                    slot.work();
                }
            }
        });
        runtime.router().arriving(*entity, false);
    }
}

/// Signs what its source will sign if it gives the daemon away, if it is signed by the daemon's key: it is not computed again
/// when it comes. A signature is the same whoever makes it with a key (RFC 8032), and to make one is faster than to check one.
fn expect<D: Daemon>(runtime: &Runtime<D>, order: &MoveOrder, active: Option<OwnershipRecord>, standby: &Standby<D>) {
    let key = standby.key.lock();
    let Some((active, ownership)) = active.zip(runtime.ownership()) else {
        return;
    };
    if active.entity() != order.entity || key.is_read_only() || key.entity_id() != order.entity {
        return;
    }
    let frozen = &standby.frozen;
    let expected = active.moved(order.target, order.mid, frozen.sequence, frozen.head, &key);
    if let Ok(expected) = expected {
        ownership.verified().note(&expected);
    }
}

/// Has a snapshot kept of a daemon of which only snapshots are, as soon as nobody is inside.
fn snapshot_of<D: Daemon>(slot: &Arc<Slot<D>>) {
    let deadline = Deadline::after(SNAPSHOT_WAIT);
    // If it cannot be had, a crash goes back to the copy that it came with.
    if let Ok(mut entered) = D::apart(|| slot.inspect_later(deadline, &mut || slot.is_closed())) {
        D::batch(|| {
            if entered.failure().is_none() {
                drop(deliver::snapshot_later(&mut entered));
            }
            drop(entered);
        });
    }
}

/// Claims, keeps everything in one commit, and waits for a lease. Tells which files are of no use any more.
fn install<D: Daemon>(
    runtime: &Arc<Runtime<D>>,
    ownership: &Arc<Ownership>,
    standby: &mut Standby<D>,
    record: &OwnershipRecord,
    prepared: &Prepared,
    mut writes: Vec<Write>,
) -> Result<(ownership::Claim, Vec<Digest>), String> {
    let (stores, entity) = (runtime.stores(), record.entity());
    if !runtime.reserve(&entity) {
        return Err("it is being spawned here".to_owned());
    }
    let claimed = (|| {
        let lineage: Vec<_> = prepared.lineage.iter().copied().chain([*record]).collect();
        let directory = ownership.directory();
        let wish = Wish::Install(lineage.clone());
        let claim = D::apart(|| ownership.claim(wish, Deadline::after(CLAIM_WAIT), &mut || false));
        let claim = claim.map_err(|why| denied(why, directory))?;
        let (_, files) = D::apart(|| leftovers(stores, &entity)).map_err(|error| error.to_string())?;
        let rows = standby.install(&prepared.lineage, record, stores, runtime.node());
        let mut rows = rows.map_err(|error| error.to_string())?;
        // Who spoke is kept at every durability: a record without its certificate counts as not adopted.
        rows.extend(lineage.iter().flat_map(ownership::rows));
        rows.append(&mut writes);
        D::apart(|| central::written(stores, rows)).map_err(|error| format!("it is not kept: {error}"))?;
        claim.kept();
        let waited = D::apart(|| claim.active(Deadline::after(CLAIM_WAIT), &mut || false));
        waited.map_err(|why| denied(why, directory))?;
        // It is the first snapshot of a daemon that is kept, and of no use to another.
        let (image, since) = standby.images();
        let is_free = |file: &Digest| *file != image || !standby.is_kept();
        let files = files.into_iter().chain([image]).chain(since).filter(is_free);
        Ok((claim, files.collect()))
    })();
    if claimed.is_err() {
        runtime.unreserve(&entity);
    }
    claimed
}

/// Whether the store has a snapshot of a daemon in this file.
fn is_named(stores: &Stores, entity: &EntityId, file: &Digest) -> bool {
    let store = stores();
    let mut is_named = false;
    let range = KeyRange::beginning_with(entity.as_bytes());
    let read = resumption::each(&*store, Table::Snapshots, range, |_, value| {
        is_named |= SnapshotRow::decode(value).is_ok_and(|row| row.name == *file);
    });
    // A file that is not known to be free stays.
    is_named || read.is_err()
}
