//! The contract of a store: what a node keeps, and when it counts as kept.
//!
//! Invariants
//! * A batch is kept whole or not at all. It is kept when `done` was told so, and not before. One that failed may come
//!   back when the process ends before something else was kept: then whoever numbers its events finds a duplicate.
//! * What is kept is a prefix of what was submitted in its term, also after a crash.
//! * After a failure the term rises. Whoever submitted in an older term is ahead of the store, and has to go back to what
//!   it holds; until then its batches are refused.
//! * A reader sees what is kept, and nothing else.

pub mod check;
pub mod head;
pub mod memory;

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::codec::DecodeError;
use crate::digest::Digest;
use crate::id::EntityId;
use crate::journal;
use crate::rows::{KeyRange, Table, Write};
use crate::segment;

/// Bytes of one batch at most.
pub const BATCH_BYTES_MAX: usize = 1 << 30;

/// A page ends after so many bytes.
pub const PAGE_BYTES: usize = 16 << 20;

/// Changes that are kept together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Term of the store in which it was made.
    pub term: u64,
    /// The changes, in order.
    pub writes: Vec<Write>,
}

impl Batch {
    /// Bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.writes.iter().map(Write::encoded_len).sum()
    }

    /// Checks that it can be kept in this term.
    ///
    /// # Errors
    /// [`StoreError::Superseded`], [`StoreError::TooLarge`].
    pub fn check(&self, term: u64) -> Result<(), StoreError> {
        if self.term != term {
            return Err(StoreError::Superseded { term });
        }
        let size = self.bytes();
        if size > BATCH_BYTES_MAX || !self.writes.iter().all(Write::fits) {
            return Err(StoreError::TooLarge {
                size: size as u64,
                max: BATCH_BYTES_MAX as u64,
            });
        }
        Ok(())
    }
}

/// Told once what became of a batch: the number of its commit, or why it is not kept. It runs where the store works: it is
/// short, never waits, and submits nothing.
pub type Done = Box<dyn FnOnce(Result<u64, StoreError>) + Send>;

/// One row of a table: its key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Keeps rows and snapshots of one node.
pub trait Store: Send {
    /// Term in which batches have to be made now.
    fn term(&self) -> u64;

    /// Puts a batch behind all that were submitted before. `done` is told what becomes of it, perhaps before this returns.
    fn submit(&mut self, batch: Batch, done: Done);

    /// The value of a row.
    ///
    /// # Errors
    /// [`StoreError`]: it cannot be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The first rows of a range, ascending, at most so many and about [`PAGE_BYTES`], but at least one. Only an empty page
    /// says that there are no more.
    ///
    /// # Errors
    /// [`StoreError`]: they cannot be read.
    fn page(&self, table: Table, range: &KeyRange, rows_max: usize) -> Result<Vec<Row>, StoreError>;

    /// The last row of a range. It is looked for from the end of the range, and no row before it is read.
    ///
    /// # Errors
    /// [`StoreError`]: it cannot be read.
    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Row>, StoreError>;

    /// Keeps a snapshot or an image, given in parts, and names it by its content: by [`plain`](crate::digest::plain) of the
    /// whole. It is durable when this returns. If the process ends before a row of [`Table::Snapshots`] names it, or one of a
    /// target in [`Table::Moves`], it goes; a copy that such an image goes on from stays with it.
    ///
    /// # Errors
    /// [`StoreError`]: it is not kept.
    fn keep(&mut self, parts: &[&[u8]]) -> Result<Digest, StoreError>;

    /// The same, of bytes that others hold too: a store that has them in memory does not copy them.
    ///
    /// # Errors
    /// [`StoreError`]: it is not kept.
    fn keep_whole(&mut self, bytes: &Arc<Vec<u8>>) -> Result<Digest, StoreError> {
        self.keep(&[bytes])
    }

    /// Reads a snapshot, and checks that it is what it was.
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`], [`StoreError::Damaged`], [`StoreError::TooLarge`] when it has more than `bytes_max`.
    fn fetch(&self, name: &Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError>;

    /// Lets a snapshot go; does nothing if it is not there.
    ///
    /// # Errors
    /// [`StoreError`]: it may still be there.
    fn discard(&mut self, name: &Digest) -> Result<(), StoreError>;

    /// How much it holds.
    fn stats(&self) -> StoreStats;

    /// Whether a batch is kept, and `done` told, before `submit` returns, which then never waits.
    fn is_immediate(&self) -> bool {
        false
    }
}

/// How much a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// Commits since it was made.
    pub commits: u64,
    /// Bytes of all its files.
    pub file_bytes: u64,
    /// Bytes of its snapshots.
    pub snapshot_bytes: u64,
    /// Bytes of commits that are not in the tree yet.
    pub log_bytes: u64,
    /// Terms that ended in a failure since it was opened.
    pub failures: u64,
}

/// What a store found when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Whether it was made just now.
    pub is_new: bool,
    /// Whether the process that had it open before closed it.
    pub was_closed: bool,
    /// Commits read from files that were not in the tree.
    pub commits: u64,
    /// Bytes at the end that were no whole commit, and so were never acknowledged.
    pub cut: u64,
}

/// What was being done when the system refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Opening or making a file or folder.
    Open,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Syncing.
    Sync,
    /// Renaming.
    Rename,
    /// Removing.
    Remove,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Rename => "rename",
            Self::Remove => "remove",
        })
    }
}

/// What is wrong with what is kept, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Damage {
    /// The head file of the store.
    #[error("meshos.store: {0}")]
    Head(DecodeError),
    /// The file with the key of the node.
    #[error("node.key: {0}")]
    Key(DecodeError),
    /// The log.
    #[error(transparent)]
    Log(#[from] segment::Damage),
    /// The tree of rows.
    #[error("tree.redb: it cannot be read")]
    Tree,
    /// A snapshot.
    #[error("snapshot {name}: it is not what was kept")]
    Snapshot {
        /// Its name.
        name: Digest,
    },
    /// The journal of a daemon.
    #[error(transparent)]
    Journal(#[from] journal::Damage),
    /// A row that cannot be read.
    #[error("{table:?} of {entity}, {number}: {error}")]
    Row {
        /// Its table.
        table: Table,
        /// Whose it is.
        entity: EntityId,
        /// The last number of its key.
        number: u64,
        /// Where in it, and why.
        error: DecodeError,
    },
    /// A row does not fit the others.
    #[error("{table:?} of {entity}, {number}: it does not fit the rows beside it")]
    Apart {
        /// Its table.
        table: Table,
        /// Whose it is.
        entity: EntityId,
        /// The last number of its key.
        number: u64,
    },
    /// A row has a key that none of its table has.
    #[error("{table:?}: a key that is none")]
    BadKey {
        /// Its table.
        table: Table,
    },
}

/// Why a store did not do what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StoreError {
    /// There is no store, and none was to be made.
    #[error("there is no store")]
    Missing,
    /// The folder has files in it, and is no store.
    #[error("it is not a store")]
    NotAStore,
    /// A newer release wrote it.
    #[error("the store has version {found}, this release reads up to {known}")]
    NewerVersion {
        /// Its version.
        found: u16,
        /// Newest version known here.
        known: u16,
    },
    /// It is the store of another node.
    #[error("it is the store of node {found}, not of {expected}")]
    OtherNode {
        /// Whose it is.
        found: EntityId,
        /// Whose it was to be.
        expected: EntityId,
    },
    /// A process has it open.
    #[error("another process has it open")]
    Locked,
    /// Nothing may be written there.
    #[error("it is read-only")]
    ReadOnly,
    /// There is no space left.
    #[error("there is no space left")]
    Full,
    /// The system refused; what was to be kept is not.
    #[error("the system refused to {step}: error {code:?}")]
    Io {
        /// What was being done.
        step: Step,
        /// Its number for the error.
        code: Option<i32>,
    },
    /// What is kept is damaged.
    #[error("{0}")]
    Damaged(#[from] Damage),
    /// There is no such snapshot.
    #[error("there is no snapshot {name}")]
    NoSnapshot {
        /// Its name.
        name: Digest,
    },
    /// It is larger than may be.
    #[error("{size} bytes, at most {max} are allowed")]
    TooLarge {
        /// Its size.
        size: u64,
        /// The size allowed.
        max: u64,
    },
    /// Something submitted before it was not kept, so it is not either.
    #[error("the store went on in term {term} without it")]
    Superseded {
        /// The term now.
        term: u64,
    },
    /// It is closed.
    #[error("it is closed")]
    Closed,
}
