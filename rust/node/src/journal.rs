//! The journal of a daemon that runs here: what it did is kept before anybody is told of it.
//!
//! Invariants
//! * Steps are added by whoever is inside, in their order, and submitted before the gate opens.
//! * Who is answered waits for the commit that has the event, or for a later one.
//! * Once a commit failed the daemon is ahead of the store: it takes no more events until it was brought back from it.
//! * The file of a snapshot goes only after the rows that said so are gone.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use meshos_core::certificate::Certificate;
use meshos_core::checkpoint::Checkpoint;
use meshos_core::id::EntityId;
use meshos_core::journal::{Mark, Pending, SnapshotRow, Step};
use meshos_core::link::CausalLink;
use meshos_core::retention::{OutputsHeld, Retention};
use meshos_core::rows::{Table, Write, entity_key};
use meshos_core::snapshot::SnapshotMeta;
use meshos_core::store::{Batch, Store, StoreError};
use meshos_core::stored::StoredDaemon;

use crate::clock::{self, Deadline};
use crate::sync::{Condvar, Mutex};

/// Bytes that wait before they are submitted while somebody is still inside.
const PENDING_BYTES: usize = 4 << 20;

/// Gives handles on the store of a node.
pub type Stores = Arc<dyn Fn() -> Box<dyn Store> + Send + Sync>;

/// Hears what became of a commit. It runs where the store works: it is short and never waits.
pub type Then = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

#[derive(Default)]
struct Fate {
    outcome: Option<Result<(), StoreError>>,
    then: Vec<Then>,
}

/// A batch on its way to the disk.
#[derive(Default)]
pub struct Commit {
    fate: Mutex<Fate>,
    bell: Condvar,
}

/// How a wait for a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// It is kept, or it is not.
    Settled(Result<(), StoreError>),
    /// Time was up; what becomes of it is open.
    TimedOut,
    /// The caller was interrupted; what becomes of it is open.
    Interrupted,
}

impl Commit {
    fn settle(&self, outcome: Result<(), StoreError>) {
        let mut fate = self.fate.lock();
        fate.outcome = Some(outcome);
        let then = std::mem::take(&mut fate.then);
        drop(fate);
        self.bell.notify_all();
        for then in then {
            then(outcome);
        }
    }

    /// What became of it, once that is known.
    #[must_use]
    pub fn outcome(&self) -> Option<Result<(), StoreError>> {
        self.fate.lock().outcome
    }

    /// Has `then` called with what becomes of it; at once, on this thread, if that is known.
    pub fn then(&self, then: Then) {
        let mut fate = self.fate.lock();
        match fate.outcome {
            None => fate.then.push(then),
            Some(outcome) => {
                drop(fate);
                then(outcome);
            }
        }
    }

    /// Waits for it on this thread. `interrupted` is asked about twenty times a second, with nothing locked.
    pub fn wait(&self, deadline: Deadline, interrupted: &mut dyn FnMut() -> bool) -> Waited {
        let mut fate = self.fate.lock();
        loop {
            if let Some(outcome) = fate.outcome {
                return Waited::Settled(outcome);
            }
            if deadline.passed() {
                return Waited::TimedOut;
            }
            drop(self.bell.wait_until(fate, deadline.slice()));
            if interrupted() {
                return Waited::Interrupted;
            }
            fate = self.fate.lock();
        }
    }
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

/// The journal of one daemon.
pub struct Journal {
    entity: EntityId,
    store: Box<dyn Store>,
    stored: StoredDaemon,
    pending: Pending,
    /// How far it had come when something was submitted last.
    submitted: Mark,
    term: u64,
    /// Why a commit failed.
    lost: Arc<OnceLock<StoreError>>,
    newest: Option<Arc<Commit>>,
    rows: Rows,
    retention: Retention,
    /// Files that go once a commit is kept.
    doomed: Vec<(Arc<Commit>, meshos_core::digest::Digest)>,
    snapshot_error: Option<StoreError>,
}

impl Journal {
    /// Goes on after `mark`, with the rows that the store has.
    #[must_use]
    pub fn after(
        entity: EntityId,
        store: Box<dyn Store>,
        stored: StoredDaemon,
        mark: Mark,
        epoch: u64,
        rows: Rows,
    ) -> Self {
        Self {
            entity,
            term: store.term(),
            store,
            stored,
            pending: Pending::after(entity, mark, epoch),
            submitted: mark,
            lost: Arc::default(),
            newest: None,
            rows,
            retention: Retention::default(),
            doomed: Vec::new(),
            snapshot_error: None,
        }
    }

    /// Why it is ahead of the store, if it is.
    #[must_use]
    pub fn lost(&self) -> Option<StoreError> {
        self.lost.get().copied()
    }

    /// Gives back the store, and what it has of the daemon itself.
    #[must_use]
    pub fn into_parts(self) -> (Box<dyn Store>, StoredDaemon) {
        (self.store, self.stored)
    }

    /// Adds what the daemon is, and whether it is to run again when its node starts.
    pub fn declare(&mut self, runs: bool) {
        self.stored.runs = runs;
        let row = self.stored.write(&self.entity);
        self.also(row);
    }

    /// Submits what waits, and waits on this thread until the store has it.
    ///
    /// # Errors
    /// [`StoreError`]: it is not kept.
    pub fn drain(&mut self) -> Result<(), StoreError> {
        let Some(commit) = self.submit() else { return Ok(()) };
        match commit.wait(Deadline::never(), &mut || false) {
            Waited::Settled(outcome) => outcome,
            Waited::TimedOut | Waited::Interrupted => Err(StoreError::Closed),
        }
    }

    /// Adds an output of the step that is added next.
    pub fn output(&mut self, link: &CausalLink, payload: &[u8]) {
        self.pending.output(link, payload);
    }

    /// Adds a step, after its outputs.
    pub fn step(&mut self, step: &Step<'_>) {
        self.pending.step(step);
        if self.pending.is_full() || self.pending.bytes() >= PENDING_BYTES {
            self.submit();
        }
    }

    /// Adds a row that is to be kept with what comes next.
    pub fn also(&mut self, write: Write) {
        self.pending.also(write);
    }

    /// Adds a certificate of who may speak.
    pub fn certificate(&mut self, certificate: &Certificate) {
        let key = entity_key(&self.entity, [certificate.epoch]);
        self.also(Write::put(Table::Certificates, key, certificate.to_bytes().to_vec()));
    }

    /// Adds a checkpoint.
    pub fn checkpoint(&mut self, made: &Checkpoint) {
        let key = entity_key(&self.entity, [made.epoch, made.sequence]);
        self.also(Write::put(Table::Checkpoints, key, made.to_bytes().to_vec()));
    }

    /// Lets a checkpoint go.
    pub fn drop_checkpoint(&mut self, old: &Checkpoint) {
        let key = entity_key(&self.entity, [old.epoch, old.sequence]);
        self.also(Write::remove(Table::Checkpoints, key));
    }

    /// Submits what waits, and returns the commit that who was answered meanwhile has to wait for; `None`: everything is
    /// kept.
    pub fn submit(&mut self) -> Option<Arc<Commit>> {
        if !self.pending.is_empty() {
            let writes = self.pending.take();
            self.note(&writes);
            let commit = Arc::new(Commit::default());
            let (told, lost) = (Arc::clone(&commit), Arc::clone(&self.lost));
            let batch = Batch {
                term: self.term,
                writes,
            };
            self.store.submit(
                batch,
                Box::new(move |outcome| {
                    if let Err(error) = outcome {
                        let _ = lost.set(error);
                    }
                    told.settle(outcome.map(|_| ()));
                }),
            );
            self.newest = Some(commit);
        }
        let newest = self.newest.as_ref()?;
        if newest.outcome() == Some(Ok(())) {
            self.newest = None;
            return None;
        }
        Some(Arc::clone(newest))
    }

    fn note(&mut self, writes: &[Write]) {
        let mark = *self.pending.mark();
        if mark.step > self.submitted.step {
            self.rows.steps.push_back(self.submitted.step + 1);
        }
        if let Some(row) = writes
            .iter()
            .find(|write| write.table == Table::Outputs && write.value.is_some())
        {
            self.rows.outputs.push_back(OutputsHeld {
                first: self.submitted.sequence + 1,
                count: u32::try_from(mark.sequence - self.submitted.sequence).unwrap_or(u32::MAX),
                bytes: row.value.as_ref().map_or(0, Vec::len) as u64,
                at: clock::unix_ms(),
            });
        }
        self.submitted = mark;
    }

    /// Keeps a snapshot of the present state, and lets go what is not needed any more.
    ///
    /// # Errors
    /// [`StoreError`]: it is not kept, and nothing went.
    pub fn snapshot(&mut self, meta: &SnapshotMeta, state: &[u8]) -> Result<(), StoreError> {
        // A row of steps ends where a snapshot is.
        self.submit();
        self.clear_away();
        let bytes = meta.to_bytes(state);
        let name = self.store.keep(&[&bytes])?;
        let row = SnapshotRow {
            name,
            size: bytes.len() as u64,
            mark: *self.pending.mark(),
            processed: meta.stats.events_processed,
            epoch: meta.epoch,
            taken_at: meta.taken_at,
        };
        let mut files = Vec::new();
        if let Some(last) = self.rows.snapshots.pop_if(|last| last.mark.step == row.mark.step)
            && last.name != name
        {
            files.push(last.name);
        }
        self.rows.snapshots.push(row);
        self.pending.also(row.write(&self.entity));
        files.extend(self.let_go());
        if let Some(commit) = self.submit() {
            self.doomed
                .extend(files.into_iter().map(|file| (Arc::clone(&commit), file)));
        } else {
            self.discard(&files);
        }
        Ok(())
    }

    /// Removes the rows that are not needed any more; returns the files that go after them.
    fn let_go(&mut self) -> Vec<meshos_core::digest::Digest> {
        let rows = &mut self.rows;
        let expired = self
            .retention
            .expired(&rows.snapshots, rows.outputs.make_contiguous(), clock::unix_ms());
        let entity = &self.entity;
        for step in &expired.snapshots {
            rows.snapshots.retain(|row| row.mark.step != *step);
            self.pending
                .also(Write::remove(Table::Snapshots, entity_key(entity, [*step])));
        }
        while rows.steps.front().is_some_and(|first| *first < expired.steps_below) {
            let first = rows.steps.pop_front().expect("just looked at");
            self.pending
                .also(Write::remove(Table::Journal, entity_key(entity, [first])));
        }
        while rows
            .outputs
            .front()
            .is_some_and(|row| row.first < expired.outputs_below)
        {
            let row = rows.outputs.pop_front().expect("just looked at");
            self.pending
                .also(Write::remove(Table::Outputs, entity_key(entity, [row.first])));
        }
        expired.files
    }

    /// Removes the files whose rows are gone.
    fn clear_away(&mut self) {
        let doomed = std::mem::take(&mut self.doomed);
        let mut free = Vec::new();
        for (commit, file) in doomed {
            match commit.outcome() {
                Some(Ok(())) => free.push(file),
                None => self.doomed.push((commit, file)),
                // Its row is still there.
                Some(Err(_)) => {}
            }
        }
        self.discard(&free);
    }

    fn discard(&mut self, files: &[meshos_core::digest::Digest]) {
        for file in files {
            if self.rows.snapshots.iter().all(|row| row.name != *file) {
                // A file that stays takes space, and is found when the store is checked.
                let _ = self.store.discard(file);
            }
        }
    }

    /// Notes that a snapshot could not be kept.
    pub(crate) fn snapshot_failed(&mut self, error: StoreError) {
        self.snapshot_error = Some(error);
    }

    /// Why the last snapshot could not be kept, if that was not told yet.
    pub(crate) fn take_snapshot_error(&mut self) -> Option<StoreError> {
        self.snapshot_error.take()
    }
}

/// A store that several use, each under its lock for one call.
pub struct SharedStore<S: Store>(Arc<Mutex<S>>);

impl<S: Store> Clone for SharedStore<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Store> SharedStore<S> {
    /// Shares a store.
    #[must_use]
    pub fn new(store: S) -> Self {
        Self(Arc::new(Mutex::new(store)))
    }
}

impl<S: Store> Store for SharedStore<S> {
    fn term(&self) -> u64 {
        self.0.lock().term()
    }

    fn submit(&mut self, batch: Batch, done: meshos_core::store::Done) {
        self.0.lock().submit(batch, done);
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.lock().get(table, key)
    }

    fn page(
        &self,
        table: Table,
        range: &meshos_core::rows::KeyRange,
        rows_max: usize,
    ) -> Result<Vec<meshos_core::store::Row>, StoreError> {
        self.0.lock().page(table, range, rows_max)
    }

    fn last(
        &self,
        table: Table,
        range: &meshos_core::rows::KeyRange,
    ) -> Result<Option<meshos_core::store::Row>, StoreError> {
        self.0.lock().last(table, range)
    }

    fn keep(&mut self, parts: &[&[u8]]) -> Result<meshos_core::digest::Digest, StoreError> {
        self.0.lock().keep(parts)
    }

    fn fetch(&self, name: &meshos_core::digest::Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.0.lock().fetch(name, bytes_max)
    }

    fn discard(&mut self, name: &meshos_core::digest::Digest) -> Result<(), StoreError> {
        self.0.lock().discard(name)
    }

    fn stats(&self) -> meshos_core::store::StoreStats {
        self.0.lock().stats()
    }
}
