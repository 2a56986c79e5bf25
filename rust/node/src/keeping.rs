//! The snapshots of a daemon on their way into the store, and what the store has of it.
//!
//! Invariants
//! * A file is synced before its row is submitted, and goes only after its row is gone.
//! * One is written at a time, in the order in which they were taken. Of those that wait only the newest is kept.
//! * The lock is held to look and to decide: never while a file is written or a batch submitted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::journal::{Mark, SnapshotRow};
use meshos_core::retention::{Expired, OutputsHeld, Retention};
use meshos_core::rows::{KeyRange, Table, Write, entity_key};
use meshos_core::snapshot::SnapshotMeta;
use meshos_core::store::{Batch, Store, StoreError};

use crate::clock::{self, Deadline};
use crate::commit::{Commit, Waited};
use crate::sync::{Condvar, Mutex};

/// Wait after the first commit that failed; each that follows doubles it.
const BACKOFF: Duration = Duration::from_millis(50);
/// The longest wait after a commit that failed.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Gives handles on the store of a node.
pub type Stores = Arc<dyn Fn() -> Box<dyn Store> + Send + Sync>;

/// A snapshot, as it is kept.
pub trait Content: Send + Sync {
    /// Everything but the state.
    fn meta(&self) -> &SnapshotMeta;
    /// The state.
    fn state(&self) -> &[u8];
}

/// What is known of a daemon's rows in the store.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// First step of each row of steps, ascending.
    pub steps: VecDeque<u64>,
    /// Rows of outputs, ascending.
    pub outputs: VecDeque<OutputsHeld>,
    /// Rows of snapshots, ascending.
    pub snapshots: Vec<SnapshotRow>,
}

impl Rows {
    /// Adds a snapshot; returns the file of one that it takes the place of.
    fn add(&mut self, row: SnapshotRow) -> Option<Digest> {
        let replaced = self.snapshots.pop_if(|last| last.mark.step == row.mark.step);
        self.snapshots.push(row);
        replaced.map(|old| old.name).filter(|old| *old != row.name)
    }

    /// Forgets the rows that are not needed any more; adds their removal to `writes`, and returns the files that go after.
    fn let_go(&mut self, entity: &EntityId, retention: &Retention, writes: &mut Vec<Write>) -> Vec<Digest> {
        let now = clock::unix_ms();
        let Expired {
            snapshots,
            files,
            steps_below,
            outputs_below,
        } = retention.expired(&self.snapshots, self.outputs.make_contiguous(), now);
        let mut go = |table, number| writes.push(Write::remove(table, entity_key(entity, [number])));
        for step in snapshots {
            self.snapshots.retain(|row| row.mark.step != step);
            go(Table::Snapshots, step);
        }
        let steps = self.steps.partition_point(|first| *first < steps_below);
        self.steps.drain(..steps).for_each(|first| go(Table::Journal, first));
        let outputs = self.outputs.partition_point(|row| row.first < outputs_below);
        self.outputs
            .drain(..outputs)
            .for_each(|row| go(Table::Outputs, row.first));
        files
    }
}

/// What became of the commits of a daemon.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// Why the first one failed, and when.
    lost: OnceLock<(StoreError, Instant)>,
    /// How many lives in a row ended in a failed commit.
    setbacks: AtomicU32,
}

impl Standing {
    /// Begins anew after a failure.
    pub(crate) fn after(old: &Self) -> Arc<Self> {
        Arc::new(Self {
            lost: OnceLock::new(),
            setbacks: AtomicU32::new(old.setbacks.load(Ordering::Relaxed)),
        })
    }

    /// Why it is ahead of the store, if it is.
    pub(crate) fn lost(&self) -> Option<StoreError> {
        self.lost.get().map(|(error, _)| *error)
    }

    /// When it may be brought back after the failure; now if there was none.
    pub(crate) fn due(&self) -> Instant {
        let doublings = self.setbacks.load(Ordering::Relaxed).saturating_sub(1).min(16);
        let wait = (BACKOFF * (1 << doublings)).min(BACKOFF_MAX);
        self.lost.get().map_or_else(Instant::now, |(_, since)| *since + wait)
    }

    pub(crate) fn note(&self, outcome: Result<(), StoreError>) {
        match outcome {
            Ok(()) => self.setbacks.store(0, Ordering::Relaxed),
            Err(error) => {
                if self.lost.set((error, Instant::now())).is_ok() {
                    self.setbacks.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Submits a batch. A failure counts where there is a standing.
pub(crate) fn submit(store: &mut dyn Store, batch: Batch, standing: Option<Arc<Standing>>) -> Arc<Commit> {
    let commit = Arc::new(Commit::default());
    let told = Arc::clone(&commit);
    let done = move |outcome: Result<u64, StoreError>| {
        let outcome = outcome.map(|_| ());
        if let Some(standing) = standing {
            standing.note(outcome);
        }
        told.settle(outcome);
    };
    store.submit(batch, Box::new(done));
    commit
}

/// A snapshot, and where the journal was.
pub(crate) struct Parcel {
    pub(crate) content: Arc<dyn Content>,
    pub(crate) mark: Mark,
    /// Term of the steps before it; `None`: it stands for itself.
    pub(crate) term: Option<u64>,
}

#[derive(Default)]
struct State {
    rows: Rows,
    next: Option<Parcel>,
    /// Somebody was asked to work.
    is_asked: bool,
    /// Somebody writes one.
    is_working: bool,
    newest: Option<Arc<Commit>>,
    /// Files that go once a commit is kept.
    doomed: Vec<(Arc<Commit>, Digest)>,
    /// Why the last snapshot could not be written, if it could not.
    failed: Option<StoreError>,
    /// As long as nobody was told.
    error: Option<StoreError>,
}

/// Keeps the snapshots of one daemon.
pub struct Keeping {
    entity: EntityId,
    stores: Stores,
    retention: Retention,
    standing: Arc<Standing>,
    state: Mutex<State>,
    bell: Condvar,
}

impl Keeping {
    pub(crate) fn new(
        entity: EntityId,
        stores: Stores,
        retention: Retention,
        standing: Arc<Standing>,
        rows: Rows,
    ) -> Arc<Self> {
        Arc::new(Self {
            entity,
            stores,
            retention,
            standing,
            state: Mutex::new(State {
                rows,
                ..State::default()
            }),
            bell: Condvar::new(),
        })
    }

    /// Notes rows that were submitted.
    pub(crate) fn submitted(&self, steps: Option<u64>, outputs: Option<OutputsHeld>) {
        let mut state = self.state.lock();
        state.rows.steps.extend(steps);
        state.rows.outputs.extend(outputs);
    }

    /// Outputs that are too old though no snapshot is taken: adds their removal to `writes`.
    pub(crate) fn age(&self, writes: &mut Vec<Write>) {
        if self.retention.outputs_age_max_ms.is_none() {
            return;
        }
        let mut state = self.state.lock();
        let rows = &mut state.rows;
        let (newest, oldest) = (rows.snapshots.last(), rows.outputs.front());
        if self.retention.has_aged(newest, oldest, clock::unix_ms()) {
            // Snapshots go only when one is added, so there are no files.
            rows.let_go(&self.entity, &self.retention, writes);
        }
    }

    /// Has a snapshot wait to be kept, instead of the one that waits; returns that, to be dropped with nothing locked.
    /// The other value says whether somebody has to be asked to [`work`](Keeping::work).
    pub(crate) fn offer(&self, parcel: Parcel) -> (Option<Parcel>, bool) {
        let mut state = self.state.lock();
        let old = state.next.replace(parcel);
        (old, !std::mem::replace(&mut state.is_asked, true))
    }

    /// Whoever was asked to work is here.
    pub(crate) fn began(&self) {
        self.state.lock().is_asked = false;
    }

    /// Takes what waits to be kept, unless somebody is at it, who takes it next. [`Keeping::keep`] has to follow.
    pub(crate) fn take(&self) -> Option<Parcel> {
        let mut state = self.state.lock();
        if state.is_working {
            return None;
        }
        let next = state.next.take();
        state.is_working = next.is_some();
        next
    }

    /// Takes what waits to be kept, so that it is not.
    pub(crate) fn take_back(&self) -> Option<Parcel> {
        self.state.lock().next.take()
    }

    /// Waits until nobody else writes, and is the one who does. Returns what waited, which is older than what is written now.
    pub(crate) fn alone(&self) -> Option<Parcel> {
        let mut state = self.state.lock();
        while state.is_working {
            state = self.bell.wait(state);
        }
        state.is_working = true;
        state.next.take()
    }

    /// Writes the file of what was taken, and submits its row. A failure is noted for [`Keeping::take_error`].
    pub(crate) fn keep(&self, parcel: &Parcel) -> Result<(), StoreError> {
        let mut store = (self.stores)();
        let kept = self.file(&mut *store, &*parcel.content).map(|(name, size)| {
            let (writes, files) = self.admit(row(&*parcel.content, name, size, parcel.mark));
            let term = parcel.term.unwrap_or_else(|| store.term());
            let standing = parcel.term.map(|_| Arc::clone(&self.standing));
            let commit = submit(&mut *store, Batch { term, writes }, standing);
            self.doom(&commit, files);
            self.state.lock().newest = Some(commit);
        });
        self.leave(kept.err());
        kept
    }

    /// Ends what [`Keeping::alone`] began.
    pub(crate) fn leave(&self, error: Option<StoreError>) {
        let mut state = self.state.lock();
        state.is_working = false;
        state.failed = error;
        state.error = error.or(state.error);
        drop(state);
        self.bell.notify_all();
    }

    /// Writes and syncs the file of a snapshot, and removes those that are not named any more.
    pub(crate) fn file(&self, store: &mut dyn Store, content: &dyn Content) -> Result<(Digest, u64), StoreError> {
        self.clear_away(store)?;
        let bytes = content.meta().to_bytes(content.state());
        Ok((store.keep(&[&bytes])?, bytes.len() as u64))
    }

    /// Adds the row of a snapshot; returns it with the rows that go, and the files that go after them.
    pub(crate) fn admit(&self, row: SnapshotRow) -> (Vec<Write>, Vec<Digest>) {
        let mut writes = vec![row.write(&self.entity)];
        let mut state = self.state.lock();
        let replaced = state.rows.add(row);
        let mut files = state.rows.let_go(&self.entity, &self.retention, &mut writes);
        files.extend(replaced);
        (writes, files)
    }

    /// Has files go once a commit is kept.
    pub(crate) fn doom(&self, commit: &Arc<Commit>, files: Vec<Digest>) {
        let doomed = files.into_iter().map(|file| (Arc::clone(commit), file));
        self.state.lock().doomed.extend(doomed);
    }

    /// Removes the files whose rows are gone, and believes the store where rows were not kept.
    fn clear_away(&self, store: &mut dyn Store) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        let failed = matches!(state.newest.as_ref().and_then(|commit| commit.outcome()), Some(Err(_)));
        let mut free = Vec::new();
        for (commit, file) in std::mem::take(&mut state.doomed) {
            match commit.outcome() {
                Some(Ok(())) if state.rows.snapshots.iter().all(|row| row.name != file) => free.push(file),
                None => state.doomed.push((commit, file)),
                // It has a row, still or again.
                Some(_) => {}
            }
        }
        drop(state);
        for file in &free {
            // A file that stays takes space until the store is closed.
            let _ = store.discard(file);
        }
        if failed && self.standing.lost().is_none() {
            let rows = store.page(
                Table::Snapshots,
                &KeyRange::beginning_with(self.entity.as_bytes()),
                usize::MAX,
            )?;
            let rows = rows.iter().filter_map(|(_, value)| SnapshotRow::decode(value).ok());
            self.state.lock().rows.snapshots = rows.collect();
        }
        Ok(())
    }

    /// Why the last snapshot could not be kept, if that was not told yet.
    pub(crate) fn take_error(&self) -> Option<StoreError> {
        self.state.lock().error.take()
    }

    /// Why the last snapshot could not be written, if it could not.
    #[must_use]
    pub fn failed(&self) -> Option<StoreError> {
        self.state.lock().failed
    }

    /// Has every snapshot written that was taken, on this thread if nobody is at it, and waits for the commit of the last
    /// one that could be. `interrupted` is asked about twenty times a second, with nothing locked.
    pub fn settle(&self, deadline: Deadline, interrupted: &mut dyn FnMut() -> bool) -> Waited {
        loop {
            while let Some(parcel) = self.take() {
                // A failure is noted.
                let _ = self.keep(&parcel);
            }
            let state = self.state.lock();
            if state.next.is_none() && !state.is_working {
                let newest = state.newest.clone();
                drop(state);
                return newest.map_or(Waited::Settled(Ok(())), |commit| commit.wait(deadline, interrupted));
            }
            if deadline.passed() {
                return Waited::TimedOut;
            }
            drop(self.bell.wait_until(state, deadline.slice()));
            if interrupted() {
                return Waited::Interrupted;
            }
        }
    }

    /// The last batch with a snapshot.
    pub(crate) fn newest(&self) -> Option<Arc<Commit>> {
        self.state.lock().newest.clone()
    }
}

/// The row of a snapshot.
pub(crate) fn row(content: &dyn Content, name: Digest, size: u64, mark: Mark) -> SnapshotRow {
    let meta = content.meta();
    SnapshotRow {
        name,
        size,
        mark,
        processed: meta.stats.events_processed,
        epoch: meta.epoch,
        taken_at: meta.taken_at,
    }
}
