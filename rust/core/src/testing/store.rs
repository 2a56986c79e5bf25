//! A store on a disk that goes wrong: it tears what it writes, forgets what was not synced, fills up, fails to sync, and
//! syncs when it pleases. One seed gives one run. The bytes on the disk are those of a real store.
//!
//! Who simulates calls [`FaultyStore::turn`] for each commit, and [`FaultyStore::crash`] for a loss of power.

use std::collections::BTreeMap;

use super::random::SplitMix64;
use crate::digest::{self, Digest};
use crate::rows::{KeyRange, Table, Write};
use crate::segment::{self, Head, Position, StoreId};
use crate::store::memory::{self, Rows};
use crate::store::{Batch, Done, Opened, Row, Step, Store, StoreError, StoreStats};

/// How often things go wrong, each in 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// A commit cannot be written: there is no space, for this and some more commits.
    pub full: u16,
    /// A sync fails. What it was for may be on the disk, in parts, or not.
    pub sync_fails: u16,
    /// A turn does nothing: the disk is slow.
    pub slow: u16,
    /// A snapshot is damaged by a crash.
    pub snapshot_rots: u16,
}

/// A mistake that a store could have. A simulation that does not find it proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// It acknowledges a batch before it is kept.
    AcknowledgesEarly,
    /// It acknowledges a commit that is written and not synced.
    SkipsSyncs,
    /// After a failure it goes on in the same term, with what was submitted behind the failure.
    KeepsTerm,
    /// After a failed sync it goes on in the same file.
    GoesOnInFile,
    /// It shows rows to readers before they are kept.
    ShowsEarly,
    /// It removes a file of the log before the tree has its rows.
    RemovesEarly,
}

#[derive(Debug, Clone)]
struct File {
    bytes: Vec<u8>,
    synced: usize,
}

/// A store on a disk that goes wrong.
pub struct FaultyStore {
    id: StoreId,
    faults: Faults,
    mutant: Option<Mutant>,
    random: SplitMix64,
    term: u64,
    failures: u64,
    position: Position,
    /// Where readers look.
    rows: Rows,
    /// What was folded, and up to where.
    tree: (Rows, Position, u64),
    files: BTreeMap<u64, File>,
    head: Option<Head>,
    next_ordinal: u64,
    full_for: u32,
    queue: Vec<(Vec<Write>, Done)>,
    snapshots: BTreeMap<Digest, Vec<u8>>,
}

impl FaultyStore {
    /// Makes an empty store; everything that goes wrong follows from the seed.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> Self {
        let id = [7; 16];
        let start = Position::start(&id);
        Self {
            id,
            faults,
            mutant: None,
            random: SplitMix64::new(seed),
            term: 1,
            failures: 0,
            position: start,
            rows: Rows::default(),
            tree: (Rows::default(), start, 0),
            files: BTreeMap::new(),
            head: None,
            next_ordinal: 1,
            full_for: 0,
            queue: Vec::new(),
            snapshots: BTreeMap::new(),
        }
    }

    /// The same store with a mistake in it.
    #[must_use]
    pub const fn with(mut self, mutant: Mutant) -> Self {
        self.mutant = Some(mutant);
        self
    }

    /// From now on nothing goes wrong any more.
    pub const fn calm(&mut self) {
        self.faults = Faults {
            full: 0,
            sync_fails: 0,
            slow: 0,
            snapshot_rots: 0,
        };
        self.full_for = 0;
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn happens(&mut self, in_1000: u16) -> bool {
        self.random.below(1000) < usize::from(in_1000)
    }

    /// Batches that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Commits what waits, or some of it, or fails.
    pub fn turn(&mut self) {
        if self.queue.is_empty() || self.happens(self.faults.slow) {
            return;
        }
        let group: Vec<_> = self.queue.drain(..self.random.below(self.queue.len()) + 1).collect();
        let (writes, done): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        match self.commit(writes.concat()) {
            Ok(number) => done.into_iter().for_each(|done| done(Ok(number))),
            Err(error) => self.fail(error, done),
        }
    }

    fn fail(&mut self, error: StoreError, done: Vec<Done>) {
        self.failures += 1;
        if !self.is(Mutant::GoesOnInFile) {
            self.head = None;
        }
        if self.is(Mutant::KeepsTerm) {
            return done.into_iter().for_each(|done| done(Err(error)));
        }
        self.term += 1;
        let term = self.term;
        let behind = std::mem::take(&mut self.queue);
        done.into_iter().for_each(|done| done(Err(error)));
        behind
            .into_iter()
            .for_each(|(_, done)| done(Err(StoreError::Superseded { term })));
    }

    fn commit(&mut self, writes: Vec<Write>) -> Result<u64, StoreError> {
        if self.full_for > 0 {
            self.full_for -= 1;
            return Err(StoreError::Full);
        }
        let head = match self.head {
            Some(head) => head,
            None => self.begin_file()?,
        };
        let mut frame = Vec::new();
        let after = segment::put_frame(&head, &self.position, writes.iter(), &mut frame);
        let is_full = self.happens(self.faults.full);
        let fails = self.happens(self.faults.sync_fails);
        let written = if is_full {
            self.random.below(frame.len())
        } else {
            frame.len()
        };
        let file = self.files.get_mut(&head.ordinal).expect("it was begun");
        file.bytes.extend_from_slice(&frame[..written]);
        if is_full {
            self.full_for = u32::try_from(self.random.below(4)).unwrap_or(0);
            return Err(StoreError::Full);
        }
        if fails {
            return Err(StoreError::Io {
                step: Step::Sync,
                code: None,
            });
        }
        if self.mutant != Some(Mutant::SkipsSyncs) {
            file.synced = file.bytes.len();
        }
        self.position = after;
        writes.into_iter().for_each(|write| self.rows.apply(write));
        if self.random.below(8) == 0 {
            self.fold();
        }
        Ok(after.number)
    }

    fn begin_file(&mut self) -> Result<Head, StoreError> {
        let head = Head {
            store: self.id,
            ordinal: self.next_ordinal,
            after: self.position,
        };
        self.next_ordinal += 1;
        if self.happens(self.faults.sync_fails) {
            let mut bytes = head.to_bytes();
            bytes.truncate(self.random.below(bytes.len() + 1));
            self.files.insert(head.ordinal, File { bytes, synced: 0 });
            return Err(StoreError::Io {
                step: Step::Sync,
                code: None,
            });
        }
        let bytes = head.to_bytes();
        let synced = bytes.len();
        self.files.insert(head.ordinal, File { bytes, synced });
        self.head = Some(head);
        Ok(head)
    }

    /// Closes the file, and takes everything that is kept into the tree.
    fn fold(&mut self) {
        let Some(head) = self.head.take() else { return };
        if self.begin_file().is_ok() {
            let newest = self.next_ordinal - 1;
            if !self.is(Mutant::RemovesEarly) {
                self.tree = (self.rows.clone(), self.position, newest);
            }
            self.files.retain(|ordinal, _| *ordinal > head.ordinal);
        }
    }

    /// Loses power: what was not synced is there, in part there, or not, and what waited is gone. Opens what is left.
    ///
    /// # Errors
    /// [`StoreError::Damaged`]: what is left cannot be opened, which is a bug.
    pub fn crash(mut self) -> Result<(Self, Opened), StoreError> {
        let last = self.files.keys().next_back().copied();
        for (ordinal, file) in &mut self.files {
            let unsynced = file.bytes.len() - file.synced;
            let kept = self.random.below(unsynced + 1);
            file.bytes.truncate(file.synced + kept);
            // A tear leaves parts that were never written as they were before, or as anything.
            if Some(*ordinal) == last && kept > 0 && self.random.below(2) == 0 {
                let at = file.synced + self.random.below(kept);
                file.bytes[at..].fill(self.random.byte());
            }
        }
        for bytes in self.snapshots.values_mut() {
            let rots = self.random.below(1000) < usize::from(self.faults.snapshot_rots);
            if let (true, Some(byte)) = (rots, bytes.first_mut()) {
                *byte ^= 1;
            }
        }
        self.open()
    }

    fn open(mut self) -> Result<(Self, Opened), StoreError> {
        let (mut rows, folded, newest) = self.tree.clone();
        let files: Vec<_> = self
            .files
            .iter()
            .map(|(ordinal, file)| (*ordinal, &file.bytes[..]))
            .collect();
        let recovered = segment::recover(&self.id, folded, newest, &files, |_, writes| {
            writes.into_iter().for_each(|write| rows.apply(write));
        })
        .map_err(|damage| StoreError::Damaged(damage.into()))?;
        self.term += 1;
        self.queue.clear();
        self.files.retain(|ordinal, _| *ordinal >= recovered.needed_from);
        for file in self.files.values_mut() {
            file.synced = file.bytes.len();
        }
        self.position = recovered.position;
        self.next_ordinal = recovered.next_ordinal;
        (self.rows, self.head, self.full_for) = (rows, None, 0);
        // As a real store does: from now on the tree knows that this file has to be there.
        if let Ok(head) = self.begin_file() {
            self.tree.2 = head.ordinal;
        }
        let opened = Opened {
            is_new: false,
            was_closed: false,
            commits: recovered.commits,
            cut: recovered.cut,
        };
        Ok((self, opened))
    }

    /// The files of the log as they are on the disk, to be damaged by a test.
    pub fn files_mut(&mut self) -> impl Iterator<Item = (u64, &mut Vec<u8>)> {
        self.files.iter_mut().map(|(ordinal, file)| (*ordinal, &mut file.bytes))
    }
}

impl Store for FaultyStore {
    fn term(&self) -> u64 {
        self.term
    }

    fn submit(&mut self, batch: Batch, done: Done) {
        match batch.check(self.term) {
            Ok(()) if self.is(Mutant::AcknowledgesEarly) => {
                self.queue.push((batch.writes, Box::new(drop)));
                done(Ok(self.position.number + 1));
            }
            Ok(()) => {
                if self.is(Mutant::ShowsEarly) {
                    batch.writes.iter().for_each(|write| self.rows.apply(write.clone()));
                }
                self.queue.push((batch.writes, done));
            }
            Err(error) => done(Err(error)),
        }
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.rows.get(table, key).map(<[u8]>::to_vec))
    }

    fn page(&self, table: Table, range: &KeyRange, rows_max: usize) -> Result<Vec<Row>, StoreError> {
        Ok(self.rows.page(table, range, rows_max))
    }

    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Row>, StoreError> {
        Ok(self.rows.last(table, range))
    }

    fn keep(&mut self, parts: &[&[u8]]) -> Result<Digest, StoreError> {
        if self.full_for > 0 {
            return Err(StoreError::Full);
        }
        let bytes = parts.concat();
        let name = digest::plain(&bytes);
        self.snapshots.insert(name, bytes);
        Ok(name)
    }

    fn fetch(&self, name: &Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let bytes = memory::fetch(self.snapshots.get(name).map(Vec::as_slice), name, bytes_max)?;
        if digest::plain(&bytes) != *name {
            return Err(StoreError::Damaged(crate::store::Damage::Snapshot { name: *name }));
        }
        Ok(bytes)
    }

    fn discard(&mut self, name: &Digest) -> Result<(), StoreError> {
        self.snapshots.remove(name);
        Ok(())
    }

    fn stats(&self) -> StoreStats {
        StoreStats {
            commits: self.position.number,
            snapshot_bytes: self.snapshots.values().map(|bytes| bytes.len() as u64).sum(),
            log_bytes: self.files.values().map(|file| file.bytes.len() as u64).sum(),
            file_bytes: 0,
            failures: self.failures,
        }
    }
}
