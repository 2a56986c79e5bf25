//! The journal of a daemon that runs here: what it did is kept before anybody is told of it.
//!
//! Invariants
//! * Steps are added by whoever is inside, in their order, and submitted before the gate opens.
//! * Who is answered waits for the commit that has the event, or for a later one.
//! * Once a commit failed the daemon is ahead of the store: it takes no more events until it was brought back from it,
//!   which is tried less and less often.
//! * Where only snapshots are kept nobody waits, and a daemon is never brought back while its process lives.

use std::sync::Arc;
use std::time::Instant;

use meshos_core::certificate::Certificate;
use meshos_core::checkpoint::Checkpoint;
use meshos_core::config::{Durability, OnDivergence};
use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::journal::{Mark, Pending, Step};
use meshos_core::link::CausalLink;
use meshos_core::retention::{OutputsHeld, Retention};
use meshos_core::rows::{KeyRange, Table, Write, entity_key};
use meshos_core::store::{Batch, Done, Row, Store, StoreError, StoreStats};
use meshos_core::stored::StoredDaemon;

use crate::clock::{self, Deadline};
pub use crate::commit::{Commit, Then, Waited};
use crate::keeping::{self, Keeping, Parcel, Standing};
pub use crate::keeping::{Content, Rows, Stores};
use crate::sync::Mutex;

/// Bytes that wait before they are submitted while somebody is still inside.
const PENDING_BYTES: usize = 4 << 20;
/// Rows beside steps that are submitted again after a failure; of more the oldest are given up.
const UNKEPT_MAX: usize = 4096;

/// The journal of one daemon.
pub struct Journal {
    entity: EntityId,
    stores: Stores,
    store: Box<dyn Store>,
    stored: StoredDaemon,
    pending: Pending,
    /// How far it has come, where steps are not kept; else how far it had come when something was submitted last.
    submitted: Mark,
    term: u64,
    standing: Arc<Standing>,
    newest: Option<Arc<Commit>>,
    keeping: Arc<Keeping>,
    /// What was submitted beside steps, where steps are not kept, and may have to be submitted again.
    unkept: Vec<(Arc<Commit>, Vec<Write>)>,
}

/// What brings a daemon back from its journal.
pub(crate) struct Parts {
    pub(crate) stores: Stores,
    pub(crate) stored: StoredDaemon,
    pub(crate) standing: Arc<Standing>,
}

impl Journal {
    /// Goes on after `mark`, with the rows that the store has.
    #[must_use]
    pub fn after(entity: EntityId, stores: Stores, stored: StoredDaemon, mark: Mark, epoch: u64, rows: Rows) -> Self {
        Self::with_standing(entity, stores, stored, (mark, epoch), rows, Arc::default())
    }

    pub(crate) fn with_standing(
        entity: EntityId,
        stores: Stores,
        stored: StoredDaemon,
        (mark, epoch): (Mark, u64),
        rows: Rows,
        standing: Arc<Standing>,
    ) -> Self {
        let store = stores();
        let retention = Retention::of(&stored.config);
        Self {
            entity,
            term: store.term(),
            store,
            pending: Pending::after(entity, mark, epoch),
            submitted: mark,
            keeping: Keeping::new(entity, Arc::clone(&stores), retention, Arc::clone(&standing), rows),
            stores,
            stored,
            standing,
            newest: None,
            unkept: Vec::new(),
        }
    }

    /// Whether every step is kept, before it is acknowledged.
    #[must_use]
    pub fn keeps_steps(&self) -> bool {
        self.stored.config.durability == Durability::Journal
    }

    /// Whether each event is kept together with a snapshot.
    #[must_use]
    pub fn keeps_every(&self) -> bool {
        self.keeps_steps() && self.stored.config.on_divergence == OnDivergence::SnapshotEveryEvent
    }

    /// Why it is ahead of the store, if it is. Where steps are not kept it always is, and that is no error.
    #[must_use]
    pub fn lost(&self) -> Option<StoreError> {
        if self.keeps_steps() { self.standing.lost() } else { None }
    }

    /// Whether enough time has passed since a commit failed to try again.
    pub(crate) fn may_be_brought_back(&self) -> bool {
        self.back_at() <= Instant::now()
    }

    /// When it may be brought back.
    pub(crate) fn back_at(&self) -> Instant {
        self.standing.due()
    }

    /// Ends it, so that the daemon can be brought back from what the store has.
    pub(crate) fn into_parts(mut self) -> Parts {
        // A snapshot that waits to be kept is ahead of the store.
        drop(self.keeping.take_back());
        if let Some(commit) = self.push() {
            // What it was ahead with is refused, and told so, before the store is read.
            commit.wait(Deadline::never(), &mut || false);
        }
        Parts {
            standing: Standing::after(&self.standing),
            stores: self.stores,
            stored: self.stored,
        }
    }

    /// Adds what the daemon is, and whether it is to run again when its node starts.
    pub fn declare(&mut self, runs: bool) {
        self.stored.runs = runs;
        let row = self.stored.write(&self.entity);
        self.also(row);
    }

    /// Submits what waits, and waits on this thread until the store has it. Snapshots that are written are not waited for.
    ///
    /// # Errors
    /// [`StoreError`]: it is not kept.
    pub fn drain(&mut self) -> Result<(), StoreError> {
        match self.push() {
            Some(commit) => settled(commit.wait(Deadline::never(), &mut || false)),
            None => Ok(()),
        }
    }

    /// Submits what waits, and waits on this thread until the store has it, with the snapshots that were taken.
    ///
    /// # Errors
    /// [`StoreError`]: something is not kept, or not yet.
    pub fn settle(&mut self, deadline: Deadline) -> Result<(), StoreError> {
        let commit = self.push();
        settled(self.keeping.settle(deadline, &mut || false))?;
        if let Some(commit) = commit {
            settled(commit.wait(deadline, &mut || false))?;
        }
        self.keeping.take_error().map_or(Ok(()), Err)
    }

    /// What gives handles on its store.
    pub(crate) const fn stores(&self) -> &Stores {
        &self.stores
    }

    /// What keeps the snapshots, to be waited for by who is not inside.
    #[must_use]
    pub fn keeping(&self) -> &Arc<Keeping> {
        &self.keeping
    }

    /// Adds an output of the step that is added next.
    pub fn output(&mut self, link: &CausalLink, payload: &[u8]) {
        if self.keeps_steps() {
            self.pending.output(link, payload);
        }
    }

    /// Adds a step, after its outputs.
    pub fn step(&mut self, step: &Step<'_>) {
        if !self.keeps_steps() {
            self.submitted.step += 1;
            self.submitted.sequence += u64::from(step.outputs);
            self.submitted.digest = step.digest;
            return;
        }
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
    /// kept, or steps are not.
    pub fn submit(&mut self) -> Option<Arc<Commit>> {
        let newest = self.push();
        newest.filter(|_| self.keeps_steps())
    }

    fn push(&mut self) -> Option<Arc<Commit>> {
        if !self.keeps_steps() {
            self.again();
        }
        if self
            .newest
            .as_ref()
            .is_none_or(|newest| newest.outcome() == Some(Ok(())))
            && self.lost().is_none()
        {
            // All of it is kept: that something of another daemon is not does not put it ahead of the store.
            self.term = self.store.term();
        }
        if !self.pending.is_empty() {
            let mut writes = self.pending.take();
            self.keeping.age(&mut writes);
            self.send(writes);
        }
        let newest = self.newest.as_ref()?;
        if newest.outcome() == Some(Ok(())) {
            self.newest = None;
            return None;
        }
        Some(Arc::clone(newest))
    }

    fn send(&mut self, writes: Vec<Write>) -> Arc<Commit> {
        self.note(&writes);
        let again = if self.keeps_steps() { None } else { Some(writes.clone()) };
        let standing = again.is_none().then(|| Arc::clone(&self.standing));
        let batch = Batch {
            term: self.term,
            writes,
        };
        let commit = keeping::submit(&mut *self.store, batch, standing);
        self.unkept.extend(again.map(|writes| (Arc::clone(&commit), writes)));
        self.newest = Some(Arc::clone(&commit));
        commit
    }

    /// Has rows beside steps submitted again that were not kept.
    fn again(&mut self) {
        let is_failed = |(commit, _): &(Arc<Commit>, _)| matches!(commit.outcome(), Some(Err(_)));
        if self.unkept.iter().any(is_failed) {
            self.term = self.store.term();
            let newer = self.pending.take();
            let unkept = std::mem::take(&mut self.unkept).into_iter();
            // One that is on its way may be refused for the one that failed: twice is as once.
            let writes: Vec<_> = unkept.flat_map(|(_, writes)| writes).chain(newer).collect();
            let first = writes.len().saturating_sub(UNKEPT_MAX);
            writes
                .into_iter()
                .skip(first)
                .for_each(|write| self.pending.also(write));
        }
        self.unkept.retain(|(commit, _)| commit.outcome() != Some(Ok(())));
    }

    fn note(&mut self, writes: &[Write]) {
        if !self.keeps_steps() {
            return;
        }
        let mark = *self.pending.mark();
        let steps = (mark.step > self.submitted.step).then_some(self.submitted.step + 1);
        let added = writes
            .iter()
            .find(|write| write.table == Table::Outputs && write.value.is_some());
        let outputs = added.map(|row| OutputsHeld {
            first: self.submitted.sequence + 1,
            count: u32::try_from(mark.sequence - self.submitted.sequence).unwrap_or(u32::MAX),
            bytes: row.value.as_ref().map_or(0, Vec::len) as u64,
            at: clock::unix_ms(),
        });
        if steps.is_some() || outputs.is_some() {
            self.keeping.submitted(steps, outputs);
        }
        self.submitted = mark;
    }

    fn parcel(&mut self, content: Arc<dyn Content>) -> Parcel {
        // A row of steps ends where a snapshot is.
        self.submit();
        Parcel {
            content,
            mark: self.submitted,
            term: self.keeps_steps().then_some(self.term),
        }
    }

    /// Keeps a snapshot of the present state on this thread, and lets go what is not needed any more.
    ///
    /// # Errors
    /// [`StoreError`]: it is not kept, and nothing went.
    pub fn snapshot(&mut self, content: Arc<dyn Content>) -> Result<(), StoreError> {
        let parcel = self.parcel(content);
        drop(self.keeping.alone());
        self.keeping.keep(&parcel)?;
        if self.keeps_steps() {
            // Whoever waits for what comes next waits for it too.
            self.newest = self.keeping.newest();
        }
        Ok(())
    }

    /// Has a snapshot of the present state kept by somebody else. Returns what waited to be kept before it, to be dropped,
    /// and whether somebody has to be asked.
    pub(crate) fn offer(&mut self, content: Arc<dyn Content>) -> (Option<Parcel>, bool) {
        let parcel = self.parcel(content);
        self.keeping.offer(parcel)
    }

    /// Keeps what waits together with a snapshot of the state after it: all of it or nothing.
    pub fn with_snapshot(&mut self, content: &dyn Content) {
        drop(self.keeping.alone());
        let filed = self.keeping.file(&mut *self.store, content);
        match filed {
            Ok((name, size)) => {
                let mut writes = self.pending.take();
                self.note(&writes);
                let (rows, files) = self.keeping.admit(keeping::row(content, name, size, self.submitted));
                writes.extend(rows);
                let commit = self.send(writes);
                self.keeping.doom(&commit, files);
            }
            Err(error) => {
                drop(self.pending.take());
                self.standing.note(Err(error));
                let commit = Arc::new(Commit::default());
                commit.settle(Err(error));
                self.newest = Some(commit);
            }
        }
        self.keeping.leave(None);
    }

    /// Why the last snapshot could not be kept, if that was not told yet.
    pub(crate) fn take_snapshot_error(&self) -> Option<StoreError> {
        self.keeping.take_error()
    }
}

fn settled(waited: Waited) -> Result<(), StoreError> {
    match waited {
        Waited::Settled(outcome) => outcome,
        Waited::TimedOut | Waited::Interrupted => Err(StoreError::Closed),
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

    fn submit(&mut self, batch: Batch, done: Done) {
        self.0.lock().submit(batch, done);
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.lock().get(table, key)
    }

    fn page(&self, table: Table, range: &KeyRange, rows_max: usize) -> Result<Vec<Row>, StoreError> {
        self.0.lock().page(table, range, rows_max)
    }

    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Row>, StoreError> {
        self.0.lock().last(table, range)
    }

    fn keep(&mut self, parts: &[&[u8]]) -> Result<Digest, StoreError> {
        self.0.lock().keep(parts)
    }

    fn keep_whole(&mut self, bytes: &Arc<Vec<u8>>) -> Result<Digest, StoreError> {
        self.0.lock().keep_whole(bytes)
    }

    fn fetch(&self, name: &Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.0.lock().fetch(name, bytes_max)
    }

    fn discard(&mut self, name: &Digest) -> Result<(), StoreError> {
        self.0.lock().discard(name)
    }

    fn stats(&self) -> StoreStats {
        self.0.lock().stats()
    }

    fn is_immediate(&self) -> bool {
        self.0.lock().is_immediate()
    }
}
