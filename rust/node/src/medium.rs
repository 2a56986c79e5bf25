//! Where the bytes of a trail are kept: a file, or rows of a store.
//!
//! Invariants
//! * Frames are kept in the order in which they were appended, each whole or not at all.
//! * What a failure left is said with it.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::sync::Arc;

use meshos_core::rows::{KeyRange, Table, Write};
use meshos_core::store::{Batch, Store, StoreError};
use meshos_core::trail::Kind;

use crate::clock::Deadline;
use crate::journal::{Commit, Waited};

/// Rows read at once.
const PAGE: usize = 256;

/// What a failure left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// Everything that was there before.
    AsBefore,
    /// Everything that was synced, and nothing else.
    AsSynced,
    /// Nobody knows.
    Unknown,
}

/// Something could not be kept.
#[derive(Debug)]
pub(crate) struct Failed {
    /// Why.
    pub(crate) error: io::Error,
    /// What is there now.
    pub(crate) left: Left,
}

/// Keeps frames.
pub(crate) trait Medium: Send {
    /// Adds a frame after all before it.
    fn append(&mut self, frame: &[u8]) -> Result<(), Failed>;
    /// Makes sure that everything that was appended is on the disk.
    fn sync(&mut self) -> Result<(), Failed>;
    /// Lets others have it.
    fn close(&mut self) -> io::Result<()>;
}

/// A file, locked.
pub(crate) struct InFile {
    pub(crate) file: File,
    /// Bytes up to the end of the last frame.
    pub(crate) length: u64,
}

impl Medium for InFile {
    fn append(&mut self, frame: &[u8]) -> Result<(), Failed> {
        if let Err(error) = self.file.write_all(frame) {
            // A part of it may be there.
            let left = match self.file.set_len(self.length) {
                Ok(()) => Left::AsBefore,
                Err(_) => Left::Unknown,
            };
            return Err(Failed { error, left });
        }
        self.length += frame.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Failed> {
        // A sync that failed once says nothing when it succeeds the next time.
        let left = Left::Unknown;
        self.file.sync_data().map_err(|error| Failed { error, left })
    }

    fn close(&mut self) -> io::Result<()> {
        self.file.unlock()
    }
}

fn key(kind: Kind, number: u64) -> Vec<u8> {
    [(kind as u64).to_be_bytes(), number.to_be_bytes()].concat()
}

fn range(kind: Kind) -> KeyRange {
    KeyRange::beginning_with(&(kind as u64).to_be_bytes())
}

/// Rows of a store: the head, then a row for each frame.
pub(crate) struct InStore {
    store: Box<dyn Store>,
    kind: Kind,
    term: u64,
    next: u64,
    /// The first row that is not synced.
    unsynced: u64,
    commits: Vec<Arc<Commit>>,
}

impl InStore {
    /// Goes on after so many rows.
    pub(crate) fn after(store: Box<dyn Store>, kind: Kind, rows: u64) -> Self {
        Self {
            term: store.term(),
            store,
            kind,
            next: rows,
            unsynced: rows,
            commits: Vec::new(),
        }
    }

    fn failed(&mut self, error: StoreError) -> Failed {
        // Of this term nothing more is kept: everything since the last sync is gone, in order.
        for commit in self.commits.drain(..) {
            commit.wait(Deadline::never(), &mut || false);
        }
        self.next = self.unsynced;
        self.term = self.store.term();
        Failed {
            error: io::Error::other(error),
            left: Left::AsSynced,
        }
    }

    fn submit(&mut self, frame: &[u8]) {
        let row = Write::put(Table::Trails, key(self.kind, self.next), frame.to_vec());
        let batch = Batch {
            term: self.term,
            writes: vec![row],
        };
        let commit = Arc::new(Commit::default());
        let told = Arc::clone(&commit);
        self.store
            .submit(batch, Box::new(move |outcome| told.settle(outcome.map(|_| ()))));
        self.next += 1;
        self.commits.push(commit);
    }
}

impl Medium for InStore {
    fn append(&mut self, frame: &[u8]) -> Result<(), Failed> {
        let settled = self.commits.iter().find_map(|commit| commit.outcome()?.err());
        if let Some(error) = settled {
            return Err(self.failed(error));
        }
        self.submit(frame);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Failed> {
        let mut refused = None;
        for commit in &self.commits {
            let error = match commit.wait(Deadline::never(), &mut || false) {
                Waited::Settled(Ok(())) => continue,
                Waited::Settled(Err(error)) => error,
                Waited::TimedOut | Waited::Interrupted => StoreError::Closed,
            };
            refused = refused.or(Some(error));
        }
        if let Some(error) = refused {
            return Err(self.failed(error));
        }
        self.commits.clear();
        self.unsynced = self.next;
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the rows of a trail one after another, as a file would be.
pub struct Rows<'a> {
    store: &'a dyn Store,
    range: KeyRange,
    page: std::vec::IntoIter<Vec<u8>>,
    row: io::Cursor<Vec<u8>>,
    /// Rows read so far.
    pub(crate) read: u64,
}

impl<'a> Rows<'a> {
    /// The trail of a kind, from its head.
    #[must_use]
    pub fn of(store: &'a dyn Store, kind: Kind) -> Self {
        Self {
            store,
            range: range(kind),
            page: Vec::new().into_iter(),
            row: io::Cursor::default(),
            read: 0,
        }
    }

    /// Whether there is none.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn is_empty(&self) -> io::Result<bool> {
        let first = self
            .store
            .page(Table::Trails, &self.range, 1)
            .map_err(io::Error::other)?;
        Ok(first.is_empty())
    }

    fn next_row(&mut self) -> io::Result<Option<Vec<u8>>> {
        if let Some(row) = self.page.next() {
            return Ok(Some(row));
        }
        let page = self
            .store
            .page(Table::Trails, &self.range, PAGE)
            .map_err(io::Error::other)?;
        let Some((last, _)) = page.last() else { return Ok(None) };
        self.range = self.range.clone().after(last);
        for (expected, (found, _)) in (self.read..).zip(&page) {
            // A row that is missing is not passed over: what follows would not be bound to what stands before.
            if !found.ends_with(&expected.to_be_bytes()) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("row {expected} of a trail is missing"),
                ));
            }
        }
        let rows: Vec<Vec<u8>> = page.into_iter().map(|(_, value)| value).collect();
        self.page = rows.into_iter();
        Ok(self.page.next())
    }
}

impl Read for Rows<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.row.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            match self.next_row()? {
                Some(row) => {
                    self.read += 1;
                    self.row = io::Cursor::new(row);
                }
                None => return Ok(0),
            }
        }
    }
}
