//! Appenders that keep records in a file, each bound to all before it.
//!
//! Invariants
//! * A file has one writer: it is locked as long as it is open.
//! * A file is read whole before it is continued: a broken one is refused, a cut last entry is taken away.
//! * An audit record is on the disk when `append` returns; others are written through in batches.
//! * After a failed write or sync nothing more is written: what the file holds is not known any more.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::status::{AuditRecord, FailureRecord, LogRecord};
use meshos_core::time::UnixMs;
use meshos_core::trail::{ActionEntry, Entry, HEAD_SIZE, Head, Kind, Proven, TrailError, read};

use crate::appender::Appender;
use crate::callback::CallFailed;
use crate::clock;
use crate::keys;
use crate::records::ActionRecord;
use crate::slot::SharedKey;
use crate::sync::Mutex;

/// Records after which a file is synced that need not be synced at each.
const BATCH: u32 = 256;
/// Records after which a signer vouches for what stands before.
const SIGN_EVERY: u32 = 1024;

/// Why a file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Somebody else writes it.
    #[error("another appender has it open")]
    Locked,
    /// It is not a trail, or a broken one.
    #[error(transparent)]
    Trail(#[from] TrailError),
    /// It keeps other records.
    #[error("it keeps records of another kind")]
    WrongKind,
}

struct State {
    file: File,
    digest: Digest,
    seq: u64,
    unsynced: u32,
    unsigned: u32,
    broken: bool,
    closed: bool,
}

/// Keeps records of one kind in a file.
pub struct TrailFile {
    name: &'static str,
    path: PathBuf,
    sync_each: bool,
    signer: Option<SharedKey>,
    state: Mutex<State>,
}

impl TrailFile {
    /// Opens a file, or begins a new one that only its user can read. `name` is how it shows among the callbacks.
    ///
    /// # Errors
    /// [`OpenError`]; an existing file was not changed.
    pub fn open(
        path: &Path,
        kind: Kind,
        name: &'static str,
        run_id: u64,
        signer: Option<SharedKey>,
    ) -> Result<Self, OpenError> {
        let mut file = private(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(OpenError::Locked),
            Err(std::fs::TryLockError::Error(error)) => return Err(error.into()),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let now = clock::unix_ms();
        let (digest, seq) = if bytes.is_empty() {
            let head = Head {
                kind,
                trail_id: keys::random_bytes(),
                at: now,
            };
            file.write_all(&head.to_bytes())?;
            (head.digest(), 0)
        } else {
            let proven = read(&bytes, None, true, |_| {})?;
            if proven.head.kind != kind {
                return Err(OpenError::WrongKind);
            }
            file.set_len(proven.bytes)?;
            file.seek(SeekFrom::End(0))?;
            (proven.digest, proven.last_seq)
        };
        let (frame, digest) = Entry::Run { run_id, at: now }.frame(&digest);
        file.write_all(&frame)?;
        file.sync_all()?;
        sync_folder(path);
        Ok(Self {
            name,
            path: path.to_owned(),
            sync_each: kind == Kind::Audit,
            signer,
            state: Mutex::new(State {
                file,
                digest,
                seq,
                unsynced: 0,
                unsigned: 0,
                broken: false,
                closed: false,
            }),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn add(&self, entry: &Entry) -> Result<(), CallFailed> {
        let mut state = self.state.lock();
        if state.closed || state.broken {
            let what = if state.closed { "closed" } else { "broken" };
            return Err(CallFailed::new(format!("{} is {what}", self.path.display())));
        }
        let (frame, after) = entry.frame(&state.digest);
        let mut written = state.file.write_all(&frame);
        if written.is_ok() {
            state.digest = after;
            state.seq = entry.seq();
            state.unsynced += 1;
            state.unsigned += 1;
            if state.unsigned >= SIGN_EVERY {
                written = self.sign(&mut state);
            }
            if written.is_ok() && (self.sync_each || state.unsynced >= BATCH) {
                written = state.file.sync_data();
                state.unsynced = 0;
            }
        }
        written.map_err(|error| {
            // A sync that failed once says nothing when it succeeds the next time.
            state.broken = true;
            CallFailed::new(format!("{}: {error}", self.path.display()))
        })
    }

    fn sign(&self, state: &mut State) -> io::Result<()> {
        let Some(signer) = &self.signer else { return Ok(()) };
        let entry = Entry::sign(&state.digest, state.seq, clock::unix_ms(), &signer.lock());
        let entry = entry.map_err(|error| io::Error::other(error.to_string()))?;
        let (frame, after) = entry.frame(&state.digest);
        state.file.write_all(&frame)?;
        state.digest = after;
        state.unsigned = 0;
        Ok(())
    }

    /// Signs what is not signed, and closes the file; once.
    ///
    /// # Errors
    /// What was written last may not be on the disk.
    pub fn finish(&self) -> Result<(), CallFailed> {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.closed, true) || state.broken {
            return Ok(());
        }
        let signed = if state.unsigned > 0 {
            self.sign(&mut state)
        } else {
            Ok(())
        };
        let synced = signed.and_then(|()| state.file.sync_all());
        let unlocked = state.file.unlock();
        synced
            .and(unlocked)
            .map_err(|error| CallFailed::new(format!("{}: {error}", self.path.display())))
    }
}

#[cfg(unix)]
fn private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

#[cfg(not(unix))]
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).open(path)
}

/// A new file is there after a crash only when its folder is synced too; where that cannot be done, nothing is lost but
/// that certainty.
fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Ok(folder) = File::open(folder.unwrap_or_else(|| Path::new("."))) {
        let _ = folder.sync_all();
    }
}

macro_rules! keeps {
    ($record:ty, $entry:expr) => {
        impl Appender<$record> for TrailFile {
            fn append(&self, record: &$record) -> Result<(), CallFailed> {
                let entry: fn(&$record) -> Entry = $entry;
                self.add(&entry(record))
            }

            fn close(&self) -> Result<(), CallFailed> {
                self.finish()
            }

            fn name(&self) -> &str {
                self.name
            }
        }
    };
}

keeps!(AuditRecord, |record| Entry::Audit(record.clone()));
keeps!(LogRecord, |record| Entry::Log(record.clone()));
keeps!(Arc<FailureRecord>, |record| Entry::Failure((**record).clone()));
keeps!(ActionRecord, |record| Entry::Action(ActionEntry {
    seq: record.seq,
    at: record.at,
    disposed: record.disposed.clone(),
}));

/// Why a file does not prove what it claims.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not a whole trail.
    #[error(transparent)]
    Trail(#[from] TrailError),
}

/// Reads a file and checks every entry; with `end`, that it ends with this digest.
///
/// # Errors
/// [`VerifyError`]: the first bad entry.
pub fn verify(
    path: &Path,
    signer: Option<&EntityId>,
    end: Option<&Digest>,
    see: impl FnMut(Entry),
) -> Result<Proven, VerifyError> {
    let mut bytes = Vec::with_capacity(HEAD_SIZE);
    File::open(path)?.read_to_end(&mut bytes)?;
    let proven = read(&bytes, signer, false, see)?;
    match end {
        Some(end) if *end != proven.digest => Err(TrailError::WrongEnd.into()),
        _ => Ok(proven),
    }
}

/// Times at which records were kept, and what was obeyed: what a loop needs to know of the runs before it.
#[must_use]
pub fn obeyed(entry: &Entry) -> Option<([u8; 16], UnixMs)> {
    match entry {
        Entry::Audit(record) if record.command.verdict == meshos_core::command::Verdict::Accepted => {
            record.command.envelope_id.map(|envelope_id| (envelope_id, record.at))
        }
        _ => None,
    }
}
