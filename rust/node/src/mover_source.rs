//! Moving a daemon away: freezing it, letting it go on, handing it over, dropping what is left of it.
//!
//! | call | the daemon before | after |
//! |---|---|---|
//! | freeze | runs | somebody is inside for the move; linked events go to whoever asked |
//! | freeze, refused once it was inside | runs | stays frozen until it is thawed |
//! | thaw | being frozen, or frozen | runs, with the events that waited before all others |
//! | hand over | frozen | gone: its mail is sent on, its lease fenced |
//!
//! Invariants
//! * Only what came since a copy travels, if that was noted as a whole; then no user code runs.
//! * What was acknowledged before the freeze is in the image, and durable where steps are.
//! * No caller is forgotten: each is answered here, or sent on.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use meshos_core::digest::Digest;
use meshos_core::event::{Crash, DaemonLifecycleSignal};
use meshos_core::host::Few;
use meshos_core::id::EntityId;
use meshos_core::ingress::EventKey;
use meshos_core::journal::SnapshotRow;
use meshos_core::move_frame::{Reason, Reject};
use meshos_core::move_rows::{MoveOrder, Queued};
use meshos_core::ownership::OwnershipRecord;
use meshos_core::rows::{KeyRange, Table, Write};
use meshos_core::store::StoreError;

use crate::clock::Deadline;
use crate::commit::Waited;
use crate::daemon::{Daemon, DeliverError, Delivered, NotTaken};
use crate::deliver;
use crate::hands::{Done, FreezeOpts, Frost, Waits};
use crate::image;
use crate::keeping::Stores;
use crate::lane::{Job, Lanes};
use crate::leave::Entered;
use crate::mailbox::Onward;
use crate::mover::{Mover, reject, tell};
use crate::ownership_central as central;
use crate::resumption;
use crate::router::{Forwarded, Hear, Sent, Ticket};
use crate::runtime::Runtime;
use crate::slot::{EnterError, Slot};
use crate::sync::Mutex;

/// Tables of which nothing stays that is of the time before a move.
const DROPPED: [Table; 8] = [
    Table::Daemons,
    Table::Journal,
    Table::Outputs,
    Table::Snapshots,
    Table::Checkpoints,
    Table::DeadLetters,
    Table::Outbox,
    Table::Streams,
];

enum Stage<D: Daemon> {
    /// Somebody is about to enter, or takes the image.
    Freezing,
    /// It is to go on, with these events.
    Thawed(Vec<Queued>),
    Frozen(Entered<D>),
    /// It went on, or is gone.
    Over,
}

/// How long what is left of a daemon stays in memory if its move is not known to be over. To free a large one holds the
/// interpreter, or a lock, that whoever takes over in the same process needs at that time.
const LINGER: Duration = Duration::from_secs(1);

/// What is done on a thread that may wait.
type After<D> = Box<dyn FnOnce(&Arc<Mover<D>>) + Send>;

/// A daemon that was given away.
pub(crate) struct Leaving<D: Daemon> {
    /// How often it is about to write what it writes last.
    going: u32,
    /// What is to be done then.
    after: Vec<After<D>>,
    /// What is left of it in memory.
    remains: Vec<Box<dyn Send>>,
}

impl<D: Daemon> Default for Leaving<D> {
    fn default() -> Self {
        Self {
            going: 0,
            after: Vec::new(),
            remains: Vec::new(),
        }
    }
}

/// One daemon that is frozen, or is about to be.
pub(crate) struct Freeze<D: Daemon>(Mutex<Stage<D>>);

impl<D: Daemon> Freeze<D> {
    fn is_thawed(&self) -> bool {
        matches!(*self.0.lock(), Stage::Thawed(_) | Stage::Over)
    }

    fn take(&self) -> Stage<D> {
        std::mem::replace(&mut *self.0.lock(), Stage::Over)
    }
}

impl<D: Daemon> Mover<D> {
    pub(crate) fn begin_freeze(
        &self,
        order: &MoveOrder,
        opts: FreezeOpts,
        waits: Arc<dyn Waits>,
        done: Done<Result<Frost, Reject>>,
    ) {
        let freeze = Arc::new(Freeze(Mutex::new(Stage::Freezing)));
        let before = self.frozen.lock().insert(order.entity, Arc::clone(&freeze));
        if let Some(before) = before {
            self.leave(&before, Vec::new());
        }
        let order = order.clone();
        self.later(move |mover| {
            let outcome = D::batch(|| mover.freeze_now(&order, opts, &waits, &freeze));
            tell(done, outcome);
        });
    }

    /// Enters a daemon and takes its image; once it is inside it stays so.
    fn freeze_now(
        &self,
        order: &MoveOrder,
        opts: FreezeOpts,
        waits: &Arc<dyn Waits>,
        freeze: &Arc<Freeze<D>>,
    ) -> Result<Frost, Reject> {
        let entered = self.enter(order, &opts, &mut || freeze.is_thawed());
        let (runtime, mut entered) = match entered {
            Ok(entered) => entered,
            Err(reject) => {
                self.end_copy_for(order);
                self.forget_freeze(&order.entity, freeze);
                return Err(reject);
            }
        };
        let frozen_at = Instant::now();
        entered.slot().divert(waits);
        let since = self.since_copy(order, &mut entered);
        let frost = image_of(&runtime, &mut entered, order, &opts, (frozen_at, since));
        if !entered.is_present() {
            self.forget_freeze(&order.entity, freeze);
            return Err(reject(Reason::StateFailed, "it was stopped meanwhile"));
        }
        let mut stage = freeze.0.lock();
        match std::mem::replace(&mut *stage, Stage::Over) {
            Stage::Freezing => {
                *stage = Stage::Frozen(entered);
                drop(stage);
                frost
            }
            Stage::Thawed(queue) => {
                drop(stage);
                thaw(&runtime, entered, queue);
                Err(reject(Reason::Busy, "it was thawed"))
            }
            Stage::Frozen(_) | Stage::Over => {
                drop(stage);
                thaw(&runtime, entered, Vec::new());
                Err(reject(Reason::Busy, "it was thawed"))
            }
        }
    }

    /// Waits until nobody else is inside.
    pub(crate) fn enter(
        &self,
        order: &MoveOrder,
        opts: &FreezeOpts,
        is_unwanted: &mut (dyn FnMut() -> bool + Send),
    ) -> Result<(Arc<Runtime<D>>, Entered<D>), Reject> {
        let runtime = self.runtime.upgrade().ok_or(Reason::ComputeNotSupported)?;
        let slot = runtime.registry().get(order.entity.origin());
        let slot = slot.filter(|slot| slot.entity() == order.entity);
        let slot = slot.ok_or(Reason::NotOwner)?;
        let deadline = Deadline::after(opts.within);
        let entered = D::apart(|| slot.inspect_later(deadline, &mut || is_unwanted() || self.is_closed()));
        let mut entered = entered.map_err(|error| match error {
            EnterError::Stale => Reason::NotOwner.into(),
            EnterError::Interrupted => reject(Reason::Busy, "it was thawed"),
            _ => reject(Reason::StateFailed, "its code did not come to an end in time"),
        })?;
        if let Some(failure) = entered.failure() {
            return Err(reject(Reason::StateFailed, failure.to_string()));
        }
        if let Some(error) = deliver::ready(&mut entered) {
            let why = match error {
                DeliverError::NotKept(error) => error.to_string(),
                DeliverError::NotResumed(why) | DeliverError::Failed(why) => why.to_string(),
                _ => "it is not here any more".to_owned(),
            };
            return Err(reject(Reason::StateFailed, format!("it cannot be kept: {why}")));
        }
        Ok((runtime, entered))
    }

    fn forget_freeze(&self, entity: &EntityId, freeze: &Arc<Freeze<D>>) {
        freeze.take();
        let mut frozen = self.frozen.lock();
        if frozen.get(entity).is_some_and(|known| Arc::ptr_eq(known, freeze)) {
            frozen.remove(entity);
        }
    }

    pub(crate) fn end_freeze(&self, entity: &EntityId, queue: Vec<Queued>) {
        let freeze = self.frozen.lock().remove(entity);
        match freeze {
            Some(freeze) => self.leave(&freeze, queue),
            None => {
                // It goes on already, and these came late.
                let entity = *entity;
                self.later(move |mover| {
                    let Some(runtime) = mover.runtime.upgrade() else { return };
                    let slot = runtime.registry().get(entity.origin());
                    if let Some(slot) = slot.filter(|slot| slot.entity() == entity) {
                        slot.put_last(runtime.lanes(), queue, &runtime.router().back());
                        slot.work();
                    }
                });
            }
        }
    }

    fn leave(&self, freeze: &Arc<Freeze<D>>, queue: Vec<Queued>) {
        let mut stage = freeze.0.lock();
        match std::mem::replace(&mut *stage, Stage::Over) {
            // Whoever is about to enter, or inside, sees it.
            Stage::Freezing => *stage = Stage::Thawed(queue),
            Stage::Frozen(entered) => {
                drop(stage);
                self.later(move |mover| {
                    D::batch(|| match mover.runtime.upgrade() {
                        Some(runtime) => thaw(&runtime, entered, queue),
                        None => drop(entered),
                    });
                });
            }
            other @ (Stage::Thawed(_) | Stage::Over) => *stage = other,
        }
    }

    pub(crate) fn give_away(&self, record: &OwnershipRecord) {
        let record = *record;
        let Some(runtime) = self.runtime.upgrade() else { return };
        if let Some(ownership) = runtime.ownership() {
            // At once: nothing is acknowledged under the record before any more.
            ownership.heard(&record);
        }
        let entity = record.entity();
        let freeze = self.frozen.lock().remove(&entity);
        let Some(Stage::Frozen(entered)) = freeze.map(|freeze| freeze.take()) else {
            return;
        };
        self.leaving.lock().entry(entity).or_default().going += 1;
        self.later(move |mover| {
            let remains = D::batch(|| gone(&runtime, entered, &record));
            let after = {
                let mut leaving = mover.leaving.lock();
                let leaving = leaving.entry(entity).or_default();
                leaving.going = leaving.going.saturating_sub(1);
                leaving.remains.push(remains);
                if leaving.going == 0 {
                    std::mem::take(&mut leaving.after)
                } else {
                    Vec::new()
                }
            };
            mover.after(LINGER, move |mover| mover.end_leaving(&entity));
            for run in after {
                run(mover);
            }
        });
    }

    /// Has something done after a daemon that was given away left: what it writes last is not to come behind it.
    pub(crate) fn once_it_left(&self, entity: &EntityId, run: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let mut leaving = self.leaving.lock();
        match leaving.get_mut(entity).filter(|leaving| leaving.going > 0) {
            Some(leaving) => leaving.after.push(Box::new(run)),
            None => {
                drop(leaving);
                self.later(run);
            }
        }
    }

    /// Lets go of something of a daemon that was given away: not before its move is over, unless that takes long.
    pub(crate) fn keep_remains(&self, entity: &EntityId, spent: Box<dyn Send>) {
        if let Some(leaving) = self.leaving.lock().get_mut(entity) {
            leaving.remains.push(spent);
            return;
        }
        self.later(move |_| D::batch(|| drop(spent)));
    }

    /// Lets go of what is left of a daemon that was given away, and left.
    pub(crate) fn end_leaving(&self, entity: &EntityId) {
        let mut leaving = self.leaving.lock();
        let is_gone = leaving.get(entity).is_some_and(|leaving| leaving.going == 0);
        let ended = if is_gone { leaving.remove(entity) } else { None };
        drop(leaving);
        // User objects end outside the lock.
        D::batch(|| drop(ended));
    }

    /// Drops what is left here of a daemon that was given away; `false`: it is not kept that it is gone.
    pub(crate) fn drop_rows(&self, record: &OwnershipRecord) -> bool {
        let Some(runtime) = self.runtime.upgrade() else {
            return false;
        };
        let Some(ownership) = runtime.ownership() else {
            return false;
        };
        let entity = record.entity();
        let Ok(lineage) = ownership.lineage(&entity) else {
            return false;
        };
        let last = lineage.last();
        if last.is_some_and(|last| last.epoch() > record.epoch() && last.node() == ownership.node()) {
            // What was there before went when it was installed here again.
            return true;
        }
        let Ok((writes, files)) = leftovers(runtime.stores(), &entity) else {
            return false;
        };
        if !writes.is_empty() && central::written(runtime.stores(), writes).is_err() {
            return false;
        }
        discard(runtime.stores(), &files);
        true
    }
}

/// Whether it may be moved on this order, with all certificates that it needs; gives the record of this node.
pub(crate) fn ready<D: Daemon>(
    runtime: &Arc<Runtime<D>>,
    entered: &mut Entered<D>,
    order: &MoveOrder,
) -> Result<OwnershipRecord, Reject> {
    let ownership = runtime.ownership().ok_or(Reason::ComputeNotSupported)?;
    let Some((epoch, active)) = ownership.owned(&order.entity) else {
        return Err(Reason::NotOwner.into());
    };
    if epoch != order.epoch || entered.host.epoch() != epoch {
        return Err(Reason::NotOwner.into());
    }
    let slot = Arc::clone(entered.slot());
    let _ = runtime.certify(slot.key(), entered);
    Ok(active)
}

/// Has everything kept that it did, and takes its image; only what came since a copy, if all of that is there.
fn image_of<D: Daemon>(
    runtime: &Arc<Runtime<D>>,
    entered: &mut Entered<D>,
    order: &MoveOrder,
    opts: &FreezeOpts,
    (frozen_at, since): (Instant, Option<(Digest, Vec<Write>)>),
) -> Result<Frost, Reject> {
    let slot = Arc::clone(entered.slot());
    let active = ready(runtime, entered, order)?;
    let ownership = runtime.ownership().ok_or(Reason::ComputeNotSupported)?;
    let not_kept = |error: StoreError| reject(Reason::StateFailed, format!("it is not kept: {error}"));
    let commit = deliver::submit(entered);
    let deadline = Deadline::after(opts.within);
    let is_since = since.is_some();
    let (image, frozen, snapshot_took) = match since {
        Some(since) => {
            // Snapshots that are being written do not travel, and are not waited for.
            if let Some(commit) = commit {
                let waited = D::apart(|| commit.wait(deadline, &mut || false));
                let in_time = matches!(waited, Waited::Settled(_));
                let too_late = || reject(Reason::StateFailed, "it is not kept in time");
                in_time.then_some(()).ok_or_else(too_late)?;
            }
            let (image, frozen) = image::since(entered, order, slot.key(), opts.sealing.as_deref(), since)?;
            (image, frozen, Duration::ZERO)
        }
        None => {
            if let Some(journal) = &mut entered.journal {
                D::apart(|| journal.settle(deadline)).map_err(not_kept)?;
            }
            image::take(entered, order, slot.key(), opts.sealing.as_deref())?
        }
    };
    let lineage = match ownership.active_lineage(&order.entity) {
        Some(lineage) => lineage,
        None => D::apart(|| ownership.lineage(&order.entity)).map_err(not_kept)?,
    };
    if lineage.last() != Some(&active) {
        return Err(reject(Reason::NotOwner, "its records end with another one"));
    }
    let key = slot.key().lock();
    let signer = if key.is_read_only() { runtime.node() } else { &*key };
    let record = active.moved(order.target, order.mid, frozen.sequence, frozen.head, signer);
    drop(key);
    let record = record.map_err(|error| reject(Reason::StateFailed, error.to_string()))?;
    ownership.verified().note(&record);
    Ok(Frost {
        frozen,
        frozen_at,
        image: Arc::new(image),
        lineage,
        record: Box::new(record),
        snapshot_took,
        rounds: 1 + u32::from(is_since),
    })
}

/// Lets a daemon go on that was frozen.
fn thaw<D: Daemon>(runtime: &Runtime<D>, entered: Entered<D>, queue: Vec<Queued>) {
    entered
        .slot()
        .put_first(runtime.lanes(), queue, &runtime.router().back());
    drop(entered);
}

/// Takes a daemon out of its node that another one has now; returns what is left of it.
fn gone<D: Daemon>(runtime: &Arc<Runtime<D>>, mut entered: Entered<D>, record: &OwnershipRecord) -> Box<dyn Send> {
    let slot = Arc::clone(entered.slot());
    let entity = slot.entity();
    send_on(runtime, &slot);
    runtime.router().let_go(slot.origin());
    if let Some(journal) = &mut entered.journal {
        // It does not run again when this node starts. If that is not kept, the record says it too.
        journal.declare(false);
        journal.submit();
    }
    let why = format!(
        "it was moved to node {}, in epoch {}",
        record.node().node_id(),
        record.epoch()
    );
    slot.emit(DaemonLifecycleSignal::Crashed {
        crash: Crash::because(&why),
        down: false,
    });
    if let Some(exits) = slot.exits() {
        exits.closed(slot.origin(), Arc::as_ptr(&slot) as usize);
    }
    runtime.registry().remove_exactly(&slot);
    slot.stop();
    let inside = entered.take_away();
    drop(entered);
    let left = runtime.archive.lock().forget(&entity);
    Box::new((left, inside))
}

/// Sends on what callers of this process wait for.
fn send_on<D: Daemon>(runtime: &Arc<Runtime<D>>, slot: &Arc<Slot<D>>) {
    let mut dropped = Vec::new();
    let lanes = runtime.lanes().clone();
    runtime.router().send_on(slot.origin(), || {
        let waiting = slot.depart();
        let mut replies = Vec::with_capacity(waiting.len());
        let mut events = Vec::with_capacity(waiting.len());
        for onward in waiting {
            if D::is_abandoned(&onward.reply) || onward.is_skipped() {
                dropped.push(onward);
                continue;
            }
            let is_awaited = !D::is_unattended(&onward.reply);
            events.push((onward.key, Box::from(onward.payload()), is_awaited));
            replies.push(Some(onward));
        }
        let heard = Arc::new_cyclic(|me| Onwards {
            waiting: Mutex::new(replies),
            heard: Mutex::default(),
            lanes,
            me: Weak::clone(me),
        });
        let forwarded = events
            .into_iter()
            .enumerate()
            .map(|(place, (key, payload, is_awaited))| {
                let to: Arc<dyn Hear> = Arc::clone(&heard) as Arc<dyn Hear>;
                Forwarded {
                    origin: key.origin,
                    sequence: key.sequence,
                    payload,
                    ticket: is_awaited.then_some(Ticket { to, place }),
                }
            });
        forwarded.collect()
    });
    let skipped = dropped.into_iter().filter(|onward| !D::is_abandoned(&onward.reply));
    let skipped: Vec<_> = skipped
        .map(|onward| (onward.reply, onward.key, Err(DeliverError::Skipped)))
        .collect();
    if !skipped.is_empty() {
        D::settle(skipped);
    }
}

/// Callers whose events were sent on, until they are answered.
struct Onwards<D: Daemon> {
    waiting: Mutex<Vec<Option<Onward<D>>>>,
    heard: Mutex<Vec<(usize, Sent)>>,
    lanes: Lanes,
    me: Weak<Self>,
}

impl<D: Daemon> Hear for Onwards<D> {
    fn hear(&self, heard: &mut dyn Iterator<Item = (usize, Sent)>) {
        self.heard.lock().extend(heard);
        if let Some(me) = self.me.upgrade() {
            self.lanes.submit(me);
        }
    }
}

impl<D: Daemon> Job for Onwards<D> {
    fn run(self: Arc<Self>) {
        let heard = std::mem::take(&mut *self.heard.lock());
        let mut answers = Vec::with_capacity(heard.len());
        let mut waiting = self.waiting.lock();
        for (place, sent) in heard {
            if let Some(onward) = waiting.get_mut(place).and_then(Option::take) {
                answers.push((onward, sent));
            }
        }
        drop(waiting);
        D::batch(|| {
            let answers = answers.into_iter().map(|(onward, sent)| {
                let settled = settled(sent);
                if let (Err(_), Some(group)) = (&settled, &onward.group) {
                    group.store(true, Ordering::Relaxed);
                }
                (onward.reply, onward.key, settled)
            });
            D::settle(answers.collect::<Vec<(D::Reply, EventKey, _)>>());
        });
    }
}

fn settled<D: Daemon>(sent: Sent) -> Result<Delivered<D>, DeliverError<D>> {
    Err(match sent {
        Sent::Taken { receipt, duplicate } => {
            return Ok(Delivered {
                outputs: Few::new(),
                receipt: Some(receipt),
                duplicate,
            });
        }
        Sent::Unknown { cursor } => DeliverError::Unknown { cursor },
        Sent::PassedOver => DeliverError::SentOn(NotTaken::PassedOver),
        Sent::Nobody => DeliverError::SentOn(NotTaken::Nobody),
        Sent::Full => DeliverError::SentOn(NotTaken::Full),
        Sent::OutOfOrder => DeliverError::SentOn(NotTaken::OutOfOrder),
        Sent::Closed => DeliverError::SentOn(NotTaken::Closed),
    })
}

/// What removes the rows of a daemon, except records, certificates and moves; and the files that go after them.
pub(crate) fn leftovers(stores: &Stores, entity: &EntityId) -> Result<(Vec<Write>, Vec<Digest>), StoreError> {
    let store = stores();
    let (mut writes, mut files) = (Vec::new(), Vec::new());
    for table in DROPPED {
        let range = KeyRange::beginning_with(entity.as_bytes());
        resumption::each(&*store, table, range, |key, value| {
            writes.push(Write::remove(table, key.to_vec()));
            if table == Table::Snapshots {
                files.extend(SnapshotRow::decode(value).map(|row| row.name));
            }
        })?;
    }
    Ok((writes, files))
}

/// Removes files whose rows are gone.
pub(crate) fn discard(stores: &Stores, files: &[Digest]) {
    let mut store = stores();
    for file in files {
        // A file that stays takes space until the store is closed.
        let _ = store.discard(file);
    }
}
