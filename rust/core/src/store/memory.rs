//! The store that forgets at exit: what a node has when it is given no other.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::digest::{self, Digest};
use crate::rows::{KEY_BYTES_MAX, KeyRange, Table, Write};
use crate::store::{Batch, Done, PAGE_BYTES, Row, Store, StoreError, StoreStats};

/// Rows in memory, in the order of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows(BTreeMap<(Table, Vec<u8>), Vec<u8>>);

impl Rows {
    /// Takes a change over.
    pub fn apply(&mut self, write: Write) {
        let place = (write.table, write.key);
        match write.value {
            Some(value) => drop(self.0.insert(place, value)),
            None => drop(self.0.remove(&place)),
        }
    }

    /// The value of a row.
    #[must_use]
    pub fn get(&self, table: Table, key: &[u8]) -> Option<&[u8]> {
        self.0.get(&(table, key.to_vec())).map(Vec::as_slice)
    }

    /// The rows of a range, ascending.
    pub fn range<'a>(&'a self, table: Table, range: &KeyRange) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let until = range.until.clone();
        self.0
            .range((Bound::Included((table, range.from.clone())), Bound::Unbounded))
            .take_while(move |((of, key), _)| *of == table && until.as_ref().is_none_or(|until| key < until))
            .map(|((_, key), value)| (key.as_slice(), value.as_slice()))
    }

    /// The last row of a range.
    #[must_use]
    pub fn last(&self, table: Table, range: &KeyRange) -> Option<Row> {
        if range.is_empty() {
            return None;
        }
        let from = Bound::Included((table, range.from.clone()));
        let until = match &range.until {
            Some(until) => Bound::Excluded((table, until.clone())),
            // No key is longer, and none is greater.
            None => Bound::Included((table, vec![u8::MAX; KEY_BYTES_MAX])),
        };
        let last = self.0.range((from, until)).next_back();
        last.map(|((_, key), value)| (key.clone(), value.clone()))
    }

    /// The first rows of a range, as [`Store::page`] gives them.
    #[must_use]
    pub fn page(&self, table: Table, range: &KeyRange, rows_max: usize) -> Vec<Row> {
        let mut bytes = 0;
        let rows = self.range(table, range).take(rows_max).take_while(|(key, value)| {
            let fits = bytes < PAGE_BYTES;
            bytes += key.len() + value.len();
            fits
        });
        rows.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }
}

/// Keeps everything in memory, at once.
#[derive(Debug, Default)]
pub struct MemoryStore {
    rows: Rows,
    snapshots: BTreeMap<Digest, Arc<Vec<u8>>>,
    commits: u64,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// Reads a snapshot that was found, or not.
pub(crate) fn fetch(found: Option<&[u8]>, name: &Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
    let bytes = found.ok_or(StoreError::NoSnapshot { name: *name })?;
    let size = bytes.len() as u64;
    if size > bytes_max {
        return Err(StoreError::TooLarge { size, max: bytes_max });
    }
    Ok(bytes.to_vec())
}

impl Store for MemoryStore {
    fn term(&self) -> u64 {
        0
    }

    fn submit(&mut self, batch: Batch, done: Done) {
        if let Err(error) = batch.check(self.term()) {
            return done(Err(error));
        }
        batch.writes.into_iter().for_each(|write| self.rows.apply(write));
        self.commits += 1;
        done(Ok(self.commits));
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
        self.keep_whole(&Arc::new(parts.concat()))
    }

    fn keep_whole(&mut self, bytes: &Arc<Vec<u8>>) -> Result<Digest, StoreError> {
        let name = digest::plain(bytes);
        self.snapshots.insert(name, Arc::clone(bytes));
        Ok(name)
    }

    fn fetch(&self, name: &Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        fetch(self.snapshots.get(name).map(|bytes| bytes.as_slice()), name, bytes_max)
    }

    fn discard(&mut self, name: &Digest) -> Result<(), StoreError> {
        self.snapshots.remove(name);
        Ok(())
    }

    fn stats(&self) -> StoreStats {
        StoreStats {
            commits: self.commits,
            snapshot_bytes: self.snapshots.values().map(|bytes| bytes.len() as u64).sum(),
            ..StoreStats::default()
        }
    }

    fn is_immediate(&self) -> bool {
        true
    }
}
