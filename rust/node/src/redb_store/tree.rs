//! The tree of rows, in redb: what was folded out of the log, and up to which commit.
//!
//! Invariants
//! * Rows and position change together, in one durable commit.
//! * After a failed sync a file is not written to again: its rows are copied to a new one.
//! * A damaged file is an error, never a panic.

use std::fmt;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use meshos_core::digest::Digest;
use meshos_core::segment::{Position, StoreId};
use meshos_core::store::{Damage, Row, Step, StoreError};
use redb::backends::FileBackend;
use redb::{Builder, Database, ReadTransaction, ReadableDatabase, StorageBackend, TableDefinition, TransactionError};

use crate::redb_store::disk::{self, BESIDE, Disk};
use crate::redb_store::shadow::Shadow;
use crate::sync::RwLock;

const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
const HEAD: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("head");
const FORMAT: &str = "format";
const PLACE: &str = "place";
/// Version of the layout of the tree.
const VERSION: u16 = 1;
/// Memory that the tree may use to keep pages.
const CACHE_BYTES: usize = 32 << 20;
/// Bytes copied in one commit when the tree moves to a new file.
const COPY_BYTES: usize = 16 << 20;

/// Up to where the tree has rows, and which file of the log has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Last commit whose rows it has.
    pub position: Position,
    /// Number of a file of the log that was made after it; 0: the store was closed.
    pub newest: u64,
}

impl Place {
    fn encode(&self, store: &StoreId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(store);
        bytes.extend_from_slice(&self.position.number.to_le_bytes());
        bytes.extend_from_slice(self.position.digest.as_bytes());
        bytes.extend_from_slice(&self.newest.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<(StoreId, Self)> {
        let bytes: &[u8; 64] = bytes.try_into().ok()?;
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let place = Self {
            position: Position {
                number: number(16),
                digest: Digest::from_bytes(bytes[24..56].try_into().expect("32 bytes")),
            },
            newest: number(56),
        };
        Some((bytes[..16].try_into().expect("16 bytes"), place))
    }
}

/// A file that remembers that it could not be synced, and lets a test have it fail.
struct TreeFile {
    file: FileBackend,
    path: PathBuf,
    disk: Disk,
    spoiled: Arc<AtomicBool>,
}

impl fmt::Debug for TreeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TreeFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Locks are not passed on: the folder is locked.
impl StorageBackend for TreeFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.ask(Step::Read, &self.path)?;
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.ask(Step::Write, &self.path)?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.disk.ask(Step::Sync, &self.path).and_then(|()| {
            if self.disk.syncs() {
                self.file.sync_data()
            } else {
                Ok(())
            }
        });
        if synced.is_err() {
            self.spoiled.store(true, Ordering::Relaxed);
        }
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.ask(Step::Write, &self.path)?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

/// How the file is open.
#[derive(Default)]
enum Base {
    #[default]
    Not,
    /// It failed: it is read, and opened for writing when it is tried again.
    Reading(Database),
    Writing(Database),
}

impl Base {
    fn begin_read(&self) -> Option<Result<ReadTransaction, TransactionError>> {
        match self {
            Self::Not => None,
            Self::Reading(database) | Self::Writing(database) => Some(database.begin_read()),
        }
    }
}

/// The tree of a store that is open.
pub struct Tree {
    path: PathBuf,
    disk: Disk,
    store: StoreId,
    database: RwLock<Base>,
    /// A sync of the file failed.
    spoiled: Arc<AtomicBool>,
    closed: AtomicBool,
}

/// What redb reports, as an error of a store.
fn failed(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(found) => disk::error(Step::Write, &found),
        redb::Error::DatabaseAlreadyOpen => StoreError::Locked,
        redb::Error::UpgradeRequired(found) => StoreError::NewerVersion {
            found: u16::from(found),
            known: VERSION,
        },
        redb::Error::PreviousIo | redb::Error::DatabaseClosed => StoreError::Io {
            step: Step::Write,
            code: None,
        },
        redb::Error::ValueTooLarge(size) => StoreError::TooLarge {
            size: size as u64,
            max: u64::from(u32::MAX),
        },
        _ => StoreError::Damaged(Damage::Tree),
    }
}

/// Runs what reads a file that may be anything. redb has checks, and asserts where it has none.
fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(StoreError::Damaged(Damage::Tree)))
}

impl Tree {
    /// Opens the tree, or makes an empty one for a new store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path, disk: &Disk, store: &StoreId, is_new: bool) -> Result<(Self, Place), StoreError> {
        let beside = beside(path);
        disk.remove(&beside)?;
        if !is_new && disk.size(path)?.is_none() {
            return Err(StoreError::Damaged(Damage::Tree));
        }
        if is_new {
            disk.create(&beside)?;
        }
        let tree = Self {
            path: path.to_owned(),
            disk: disk.clone(),
            store: *store,
            database: RwLock::default(),
            spoiled: Arc::new(AtomicBool::new(false)),
            closed: AtomicBool::new(false),
        };
        let place = if is_new {
            // It gets its name when it is whole.
            let place = Place {
                position: Position::start(store),
                newest: 0,
            };
            let database = tree.open_file(&beside)?;
            tree.write(&database, std::iter::empty(), &place)?;
            drop(database);
            tree.rename()?;
            place
        } else {
            tree.reopen()?;
            tree.read_place()?
        };
        if is_new {
            tree.reopen()?;
        }
        Ok((tree, place))
    }

    fn open_file(&self, path: &Path) -> Result<Database, StoreError> {
        guarded(|| {
            let file: File = self.disk.open(path)?;
            let backend = TreeFile {
                file: FileBackend::new(file).map_err(failed)?,
                path: self.path.clone(),
                disk: self.disk.clone(),
                spoiled: Arc::clone(&self.spoiled),
            };
            let mut builder = Builder::new();
            builder.set_cache_size(CACHE_BYTES);
            builder.create_with_backend(backend).map_err(|error| match error {
                redb::DatabaseError::Storage(redb::StorageError::Io(found))
                    if found.kind() == io::ErrorKind::InvalidData || found.kind() == io::ErrorKind::UnexpectedEof =>
                {
                    StoreError::Damaged(Damage::Tree)
                }
                error => failed(error),
            })
        })
    }

    /// Opens the file anew; if it cannot be written, so that it can be read.
    fn reopen(&self) -> Result<(), StoreError> {
        let mut database = self.database.write();
        *database = Base::Not;
        let opened = self.open_file(&self.path);
        match opened {
            Ok(found) => {
                *database = Base::Writing(found);
                Ok(())
            }
            Err(error) => {
                *database = self.open_to_read();
                Err(error)
            }
        }
    }

    /// Opens the file anew so that it can be read; nothing is written to it.
    fn reopen_to_read(&self) {
        let mut database = self.database.write();
        *database = Base::Not;
        *database = self.open_to_read();
    }

    fn open_to_read(&self) -> Base {
        let found = guarded(|| {
            let file = File::open(&self.path).map_err(|error| disk::error(Step::Open, &error))?;
            let file = FileBackend::new(file).map_err(failed)?;
            let file = Shadow::over(file).map_err(|error| disk::error(Step::Read, &error))?;
            let mut builder = Builder::new();
            builder.set_cache_size(CACHE_BYTES);
            builder.create_with_backend(file).map_err(failed)
        });
        found.map_or(Base::Not, Base::Reading)
    }

    fn is_writing(&self) -> bool {
        matches!(*self.database.read(), Base::Writing(_))
    }

    fn rename(&self) -> Result<(), StoreError> {
        self.disk.rename(&beside(&self.path), &self.path)?;
        self.disk.sync_folder(self.path.parent().unwrap_or(Path::new(".")))
    }

    fn read_place(&self) -> Result<Place, StoreError> {
        let damaged = || StoreError::Damaged(Damage::Tree);
        self.reading(|reading| {
            let head = reading.open_table(HEAD).map_err(failed)?;
            let format = head.get(FORMAT).map_err(failed)?.ok_or_else(damaged)?;
            let format: [u8; 2] = format.value().try_into().map_err(|_| damaged())?;
            match u16::from_le_bytes(format) {
                VERSION => {}
                found => return Err(StoreError::NewerVersion { found, known: VERSION }),
            }
            let place = head.get(PLACE).map_err(failed)?.ok_or_else(damaged)?;
            match Place::decode(place.value()) {
                Some((store, place)) if store == self.store => Ok(place),
                _ => Err(damaged()),
            }
        })
    }

    fn reading<T>(&self, work: impl FnOnce(ReadTransaction) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let database = self.database.read();
        guarded(|| match database.begin_read() {
            None => Err(self.absent()),
            Some(reading) => work(reading.map_err(failed)?),
        })
    }

    fn write<'a>(
        &self,
        database: &Database,
        rows: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
        place: &Place,
    ) -> Result<(), StoreError> {
        guarded(|| {
            let mut writing = database.begin_write().map_err(failed)?;
            writing.set_quick_repair(true);
            {
                let mut table = writing.open_table(ROWS).map_err(failed)?;
                for (key, value) in rows {
                    match value {
                        Some(value) => drop(table.insert(key, value).map_err(failed)?),
                        None => drop(table.remove(key).map_err(failed)?),
                    }
                }
                let mut head = writing.open_table(HEAD).map_err(failed)?;
                head.insert(FORMAT, &VERSION.to_le_bytes()[..]).map_err(failed)?;
                head.insert(PLACE, &place.encode(&self.store)[..]).map_err(failed)?;
            }
            writing.commit().map_err(failed)
        })
    }

    /// Takes rows over, and says up to where it has them.
    ///
    /// # Errors
    /// [`StoreError`]: it has what it had before.
    pub fn fold<'a>(
        &self,
        rows: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
        place: &Place,
    ) -> Result<(), StoreError> {
        if self.spoiled.load(Ordering::Relaxed) {
            self.renew()?;
        }
        if !self.is_writing() {
            self.reopen()?;
        }
        let folded = match &*self.database.read() {
            Base::Writing(database) => self.write(database, rows, place),
            Base::Not | Base::Reading(_) => Err(self.absent()),
        };
        if folded.is_err() {
            // redb does nothing more with a file that failed.
            self.reopen_to_read();
        }
        folded
    }

    /// Copies all rows to a new file, which takes the place of this one.
    ///
    /// # Errors
    /// [`StoreError`]: the file is the one it was.
    pub fn renew(&self) -> Result<(), StoreError> {
        if matches!(*self.database.read(), Base::Not) {
            self.reopen_to_read();
        }
        let beside = beside(&self.path);
        self.disk.remove(&beside)?;
        self.disk.create(&beside)?;
        let was_spoiled = self.spoiled.swap(false, Ordering::Relaxed);
        let renewed = self.copy_to(&beside).and_then(|()| {
            *self.database.write() = Base::Not;
            self.rename()
        });
        if renewed.is_err() {
            self.spoiled.store(was_spoiled, Ordering::Relaxed);
            self.reopen_to_read();
            return renewed;
        }
        self.reopen()
    }

    fn copy_to(&self, beside: &Path) -> Result<(), StoreError> {
        let place = self.read_place()?;
        let copy = self.open_file(beside)?;
        let mut from = Vec::new();
        loop {
            let (mut rows, mut bytes) = (Vec::new(), 0);
            self.each(&from, &mut |key, value| {
                bytes += key.len() + value.len();
                rows.push((key.to_vec(), value.to_vec()));
                bytes < COPY_BYTES
            })?;
            let borrowed = rows.iter().map(|(key, value)| (&key[..], Some(&value[..])));
            self.write(&copy, borrowed, &place)?;
            let Some((last, _)) = rows.pop() else {
                return Ok(());
            };
            from = last;
            from.push(0);
        }
    }

    /// The value of a row.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.reading(|reading| {
            let rows = reading.open_table(ROWS).map_err(failed)?;
            let found = rows.get(key).map_err(failed)?;
            Ok(found.map(|value| value.value().to_vec()))
        })
    }

    /// Shows rows from a key on, ascending, until `see` says that it has enough.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn each(&self, from: &[u8], see: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StoreError> {
        self.reading(|reading| {
            let rows = reading.open_table(ROWS).map_err(failed)?;
            for row in rows.range(from..).map_err(failed)? {
                let (key, value) = row.map_err(failed)?;
                if !see(key.value(), value.value()) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// The last row from a key on, up to and without another.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn last(&self, from: &[u8], until: &[u8]) -> Result<Option<Row>, StoreError> {
        self.reading(|reading| {
            let rows = reading.open_table(ROWS).map_err(failed)?;
            let last = rows.range(from..until).map_err(failed)?.next_back();
            let last = last.transpose().map_err(failed)?;
            Ok(last.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
        })
    }

    /// Checks every page of the file. Nothing else is done meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Damaged`].
    pub fn verify(&self) -> Result<(), StoreError> {
        let mut database = self.database.write();
        let Base::Writing(database) = &mut *database else {
            return Err(self.absent());
        };
        guarded(|| match database.check_integrity() {
            Ok(true) => Ok(()),
            Ok(false) => Err(StoreError::Damaged(Damage::Tree)),
            Err(error) => Err(failed(error)),
        })
    }

    fn absent(&self) -> StoreError {
        if self.closed.load(Ordering::Relaxed) {
            return StoreError::Closed;
        }
        StoreError::Io {
            step: Step::Open,
            code: None,
        }
    }

    /// Closes the file.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        *self.database.write() = Base::Not;
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(BESIDE);
    PathBuf::from(name)
}
