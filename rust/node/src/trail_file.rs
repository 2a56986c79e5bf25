//! Appenders that keep records in a file or in a store, each bound to all before it.
//!
//! Invariants
//! * A file has one writer: it is locked as long as it is open.
//! * A file is read whole before it is continued, a piece at a time: a broken one is refused and left alone, what a writer
//!   that died left of its last entry is taken away.
//! * An audit record is on the disk when it counts as kept; others are written through in batches. What was written is in
//!   the file also when its process is killed.
//! * A write that failed leaves nothing behind. Where that cannot be made sure, and after a sync of a file that failed,
//!   nothing more is written: what the file holds is not known any more. A store that refuses what came since the last
//!   sync has what came before, and is written on from there.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meshos_core::authority::History;
use meshos_core::codec::Unwritable;
use meshos_core::control_state::ControlState;
use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::identity::IdentityError;
use meshos_core::replay::Replay;
use meshos_core::status::{AuditRecord, FailureRecord, LogRecord};
use meshos_core::store::Store;
use meshos_core::trail::{
    ActionEntry, ENTRY_BYTES_MAX, Entry, HEAD_SIZE, Head, Kind, MAGIC, Proven, Reading, TEXT_BYTES_MAX, TrailError,
};

use crate::appender::Appender;
use crate::callback::CallFailed;
use crate::clock;
use crate::keys;
use crate::medium::{Failed, InFile, InStore, Left, Medium, Rows};
use crate::records::ActionRecord;
use crate::slot::SharedKey;
use crate::sync::Mutex;

/// Records after which a file is synced: those that need not be synced at each, and audit records that come together.
const BATCH: usize = 256;
/// Records after which a signer vouches for what stands before.
const SIGN_EVERY: u32 = 1024;
/// Time after which a signer vouches with the next record, however few came.
const SIGN_AFTER: Duration = Duration::from_secs(1);
/// Bytes that are read at once.
const PIECE: usize = 2 << 20;

/// Why a file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is a pipe, a device or the like.
    #[error("not a regular file")]
    NotAFile,
    /// Somebody else writes it.
    #[error("another appender has it open")]
    Locked,
    /// It is not a trail, or a broken one.
    #[error(transparent)]
    Trail(#[from] TrailError),
    /// It keeps other records.
    #[error("it keeps {} records, not {} records", found.name(), wanted.name())]
    WrongKind {
        /// What it keeps.
        found: Kind,
        /// What was to be kept.
        wanted: Kind,
    },
    /// The signer cannot sign.
    #[error(transparent)]
    Signer(#[from] IdentityError),
    /// The caller was interrupted.
    #[error("interrupted")]
    Interrupted,
}

/// Why a record was not kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// It has no encoding.
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    /// The file is closed.
    #[error("it is closed")]
    Closed,
    /// A write or sync failed before, and what the file holds is not known.
    #[error("writing to it failed before, and what it holds is not known")]
    Broken,
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It was kept, and the signer cannot sign any more.
    #[error(transparent)]
    Signer(#[from] IdentityError),
}

struct State {
    medium: Box<dyn Medium>,
    digest: Digest,
    seq: u64,
    /// Digest and number of what is on the disk for sure.
    synced: (Digest, u64),
    unsynced: usize,
    unsigned: u32,
    signed_at: Instant,
    /// Records that were to be synced together are not there any more, and nobody was told which.
    unsaid: bool,
    broken: bool,
    closed: bool,
    /// Filled again and again.
    frame: Vec<u8>,
}

/// Keeps records of one kind in a file.
pub struct TrailFile {
    name: &'static str,
    place: String,
    kind: Kind,
    signer: Option<SharedKey>,
    history: Mutex<History>,
    control: ControlState,
    taken: AtomicBool,
    /// As `closed`, for who must not wait for a write.
    ended: AtomicBool,
    state: Mutex<State>,
}

/// A file keeps the records of one loop, as long as this lives or for good.
pub struct Claim(Option<Arc<TrailFile>>);

impl Claim {
    /// The loop runs: its file is nobody else's any more.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(file) = self.0.take() {
            file.taken.store(false, Ordering::Release);
        }
    }
}

/// Why a file keeps no records of a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// It keeps those of another.
    #[error("keeps the records of another runtime")]
    Taken,
    /// It is closed.
    #[error("is closed")]
    Closed,
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
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Self, OpenError> {
        can_sign(signer.as_ref())?;
        let mut file = private(path)?;
        if !file.metadata()?.is_file() {
            return Err(OpenError::NotAFile);
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(OpenError::Locked),
            Err(std::fs::TryLockError::Error(error)) => return Err(error.into()),
        }
        let mut seen = Seen::default();
        let found = continued(&mut file, kind, &mut |entry| seen.take(&entry), interrupted)?;
        let (after, length) = match found {
            Some(proven) => {
                file.set_len(proven.bytes)?;
                ((proven.digest, proven.last_seq), proven.bytes)
            }
            None => {
                let head = new_head(kind);
                file.set_len(0)?;
                file.write_all(&head.to_bytes())?;
                ((head.digest(), 0), HEAD_SIZE as u64)
            }
        };
        let medium = Box::new(InFile { file, length });
        let opened = Self::begun(
            name,
            path.display().to_string(),
            kind,
            signer,
            seen,
            after,
            medium,
            run_id,
        )?;
        sync_folder(path);
        Ok(opened)
    }

    /// Continues the records of one kind in a store, or begins them. `place` names the store for people; whoever calls
    /// sees to it that nobody else writes them.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn in_store(
        store: Box<dyn Store>,
        place: &str,
        kind: Kind,
        name: &'static str,
        run_id: u64,
        signer: Option<SharedKey>,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Self, OpenError> {
        can_sign(signer.as_ref())?;
        let mut seen = Seen::default();
        let mut rows = Rows::of(&*store, kind);
        let is_new = rows.is_empty()?;
        let (after, rows, head) = if is_new {
            let head = new_head(kind);
            ((head.digest(), 0), 0, Some(head))
        } else {
            let scanned = scan(&mut rows, None, interrupted, &mut |entry| seen.take(&entry));
            let (reading, rest) = scanned.map_err(OpenError::from)?;
            let found = reading.proven().head.kind;
            if found != kind {
                return Err(OpenError::WrongKind { found, wanted: kind });
            }
            let proven = reading.end(&rest, false)?;
            ((proven.digest, proven.last_seq), rows.read, None)
        };
        let mut medium = InStore::after(store, kind, rows);
        if let Some(head) = head {
            medium.append(&head.to_bytes()).map_err(|failed| failed.error)?;
        }
        let place = format!("{place}: {} records", kind.name());
        Self::begun(name, place, kind, signer, seen, after, Box::new(medium), run_id)
    }

    #[allow(clippy::too_many_arguments, reason = "the fields, once")]
    fn begun(
        name: &'static str,
        place: String,
        kind: Kind,
        signer: Option<SharedKey>,
        mut seen: Seen,
        (digest, seq): (Digest, u64),
        medium: Box<dyn Medium>,
        run_id: u64,
    ) -> Result<Self, OpenError> {
        let run = Entry::Run {
            run_id,
            at: clock::unix_ms(),
        };
        seen.take(&run);
        let opened = Self {
            name,
            place,
            kind,
            signer,
            history: Mutex::new(seen.history),
            control: seen.replay.finish().state,
            taken: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            state: Mutex::new(State {
                medium,
                digest,
                seq,
                synced: (digest, seq),
                unsynced: 0,
                unsigned: 0,
                signed_at: Instant::now(),
                unsaid: false,
                broken: false,
                closed: false,
                frame: Vec::new(),
            }),
        };
        let mut state = opened.state.lock();
        match state.write(&run) {
            Ok(()) => {}
            Err(KeepError::Io(error)) => return Err(error.into()),
            Err(_) => return Err(io::Error::other("a mark could not be written").into()),
        }
        state.medium.sync().map_err(|failed| failed.error)?;
        state.synced = (state.digest, state.seq);
        drop(state);
        Ok(opened)
    }

    /// Where it is, for people.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What it keeps.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it keeps no more records. Never waits.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Digest after the last entry.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.state.lock().digest
    }

    /// What was obeyed according to what stood in the file when it was opened.
    #[must_use]
    pub fn history(&self) -> History {
        self.history.lock().clone()
    }

    /// What commands alone had decided when the file was opened, from which the run that its mark is of goes on.
    #[must_use]
    pub const fn control(&self) -> &ControlState {
        &self.control
    }

    /// Has it keep the records of one loop.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub fn claim(self: &Arc<Self>) -> Result<Claim, ClaimError> {
        if self.state.lock().closed {
            return Err(ClaimError::Closed);
        }
        if self.taken.swap(true, Ordering::AcqRel) {
            return Err(ClaimError::Taken);
        }
        Ok(Claim(Some(Arc::clone(self))))
    }

    /// Writes a record; with `through`, it is on the disk when this returns.
    ///
    /// # Errors
    /// [`KeepError`].
    pub fn keep(&self, entry: &Entry, through: bool) -> Result<(), KeepError> {
        let mut state = self.state.lock();
        state.write(entry)?;
        state.seq = entry.seq();
        state.unsynced += 1;
        state.unsigned += 1;
        let signed = if state.unsigned >= SIGN_EVERY || state.signed_at.elapsed() >= SIGN_AFTER {
            self.sign(&mut state)
        } else {
            Ok(())
        };
        if through || (self.kind != Kind::Audit && state.unsynced >= BATCH) {
            state.sync()?;
        }
        signed
    }

    /// Makes sure that what was written is on the disk.
    ///
    /// # Errors
    /// [`KeepError`].
    pub fn sync(&self) -> Result<(), KeepError> {
        let mut state = self.state.lock();
        if state.closed {
            return Ok(());
        }
        state.sync()?;
        if std::mem::take(&mut state.unsaid) {
            return Err(io::Error::other("some of it was refused after it was written").into());
        }
        Ok(())
    }

    fn sign(&self, state: &mut State) -> Result<(), KeepError> {
        let Some(signer) = &self.signer else { return Ok(()) };
        (state.unsigned, state.signed_at) = (0, Instant::now());
        let entry = Entry::sign(&state.digest, state.seq, clock::unix_ms(), &signer.lock())?;
        state.write(&entry)
    }

    /// Signs what is not signed, and closes the file; once.
    ///
    /// # Errors
    /// What was written last may not be on the disk, or not signed.
    pub fn finish(&self) -> Result<(), KeepError> {
        let mut state = self.state.lock();
        if state.closed || state.broken {
            state.closed = true;
            let _ = state.medium.close();
            self.ended.store(true, Ordering::Release);
            return Ok(());
        }
        let signed = if state.unsigned > 0 {
            self.sign(&mut state)
        } else {
            Ok(())
        };
        let synced = state.medium.sync().map_err(|failed| failed.error);
        state.closed = true;
        let closed = state.medium.close();
        self.ended.store(true, Ordering::Release);
        signed?;
        Ok(synced.and(closed)?)
    }

    fn failed(&self, error: &KeepError) -> CallFailed {
        CallFailed::new(format!("{}: {error}", self.place))
    }
}

impl State {
    fn write(&mut self, entry: &Entry) -> Result<(), KeepError> {
        if self.closed {
            return Err(KeepError::Closed);
        }
        if self.broken {
            return Err(KeepError::Broken);
        }
        self.frame.clear();
        let after = entry.put_frame(&mut self.frame, &self.digest)?;
        if let Err(failed) = self.medium.append(&self.frame) {
            if failed.left == Left::AsSynced && self.unsynced > 0 {
                (self.unsaid, self.unsynced) = (true, 0);
            }
            return Err(self.failed(failed));
        }
        self.digest = after;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), KeepError> {
        if self.broken {
            return Err(KeepError::Broken);
        }
        if self.unsynced > 0 {
            self.unsynced = 0;
            if let Err(failed) = self.medium.sync() {
                return Err(self.failed(failed));
            }
            self.synced = (self.digest, self.seq);
        }
        Ok(())
    }

    fn failed(&mut self, failed: Failed) -> KeepError {
        match failed.left {
            Left::AsBefore => {}
            Left::AsSynced => (self.digest, self.seq) = self.synced,
            Left::Unknown => self.broken = true,
        }
        failed.error.into()
    }
}

/// What is learned from a trail while it is checked.
#[derive(Default)]
struct Seen {
    history: History,
    replay: Replay,
}

impl Seen {
    fn take(&mut self, entry: &Entry) {
        if let Entry::Audit(record) = entry {
            self.history.add(record);
        }
        self.replay.take(entry);
    }
}

fn can_sign(signer: Option<&SharedKey>) -> Result<(), OpenError> {
    match signer {
        Some(signer) if signer.lock().is_read_only() => Err(IdentityError::ReadOnly.into()),
        _ => Ok(()),
    }
}

fn new_head(kind: Kind) -> Head {
    Head {
        kind,
        trail_id: keys::random_bytes(),
        at: clock::unix_ms(),
    }
}

/// What a file proves that is to be continued; `None`: it is to be begun.
fn continued(
    file: &mut File,
    kind: Kind,
    see: &mut dyn FnMut(Entry),
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<Option<Proven>, OpenError> {
    let length = file.metadata()?.len();
    if length < HEAD_SIZE as u64 {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let shared = bytes.len().min(MAGIC.len());
        if bytes[..shared] == MAGIC[..shared] {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(0))?;
    }
    let (reading, rest) = scan(file, None, interrupted, see)?;
    let found = reading.proven().head.kind;
    if found != kind {
        return Err(OpenError::WrongKind { found, wanted: kind });
    }
    Ok(Some(reading.end(&rest, true)?))
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

/// A text that is no longer than one that is kept.
fn cut(text: &Arc<str>) -> Arc<str> {
    if text.len() <= TEXT_BYTES_MAX {
        return Arc::clone(text);
    }
    let end = (0..=TEXT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end));
    Arc::from(&text[..end.unwrap_or(0)])
}

fn failure(record: &FailureRecord) -> Entry {
    let mut record = record.clone();
    let failure = &mut record.failure;
    failure.reason = cut(&failure.reason);
    failure.source.name = cut(&failure.source.name);
    failure.traceback = failure.traceback.as_ref().map(cut);
    Entry::Failure(record)
}

fn action(record: &ActionRecord) -> Entry {
    let mut disposed = record.disposed.clone();
    disposed.reason = cut(&disposed.reason);
    Entry::Action(ActionEntry {
        seq: record.seq,
        at: record.at,
        disposed,
    })
}

macro_rules! keeps {
    ($record:ty, $entry:expr, $together:expr) => {
        impl Appender<$record> for TrailFile {
            fn append(&self, record: &$record) -> Result<(), CallFailed> {
                let entry: fn(&$record) -> Entry = $entry;
                self.keep(&entry(record), false)
                    .map_err(|error| self.failed(&error))
            }

            fn together(&self) -> usize {
                $together
            }

            fn settle(&self) -> Result<(), CallFailed> {
                if self.kind == Kind::Audit {
                    self.sync().map_err(|error| self.failed(&error))
                } else {
                    Ok(())
                }
            }

            fn close(&self) -> Result<(), CallFailed> {
                self.finish().map_err(|error| self.failed(&error))
            }

            fn name(&self) -> &str {
                self.name
            }
        }
    };
}

keeps!(AuditRecord, |record| Entry::Audit(record.clone()), BATCH);
keeps!(LogRecord, |record| Entry::Log(record.clone()), 1);
keeps!(Arc<FailureRecord>, |record| failure(record), 1);
keeps!(ActionRecord, action, 1);

/// Why a file does not prove what it claims.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not a whole trail.
    #[error(transparent)]
    Trail(#[from] TrailError),
    /// The caller was interrupted.
    #[error("interrupted")]
    Interrupted,
}

impl From<VerifyError> for OpenError {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Io(error) => error.into(),
            VerifyError::Trail(error) => error.into(),
            VerifyError::Interrupted => Self::Interrupted,
        }
    }
}

/// Reads a trail a piece at a time, and shows every entry; returns what is behind the last whole one.
fn scan(
    mut file: impl Read,
    signer: Option<EntityId>,
    interrupted: &mut dyn FnMut() -> bool,
    see: &mut dyn FnMut(Entry),
) -> Result<(Reading, Vec<u8>), VerifyError> {
    let mut bytes = Vec::new();
    let mut more = |bytes: &mut Vec<u8>| {
        let read = file.by_ref().take(PIECE as u64).read_to_end(bytes);
        read.map(|count| count == PIECE)
    };
    let mut is_more = more(&mut bytes)?;
    let mut reading = Reading::begin(&bytes, signer)?;
    let mut start = HEAD_SIZE;
    loop {
        if let Some((entry, taken)) = reading.next(&bytes[start..])? {
            see(entry);
            start += taken;
            continue;
        }
        if !is_more {
            bytes.drain(..start);
            return Ok((reading, bytes));
        }
        if bytes.len() - start >= ENTRY_BYTES_MAX {
            // More than any entry has, and not one: zeros, with something behind them.
            return Err(reading.cut_short(&bytes[start..]).into());
        }
        if interrupted() {
            return Err(VerifyError::Interrupted);
        }
        bytes.drain(..start);
        start = 0;
        is_more = more(&mut bytes)?;
    }
}

/// Checks all records in a store; returns how many there are.
///
/// # Errors
/// [`VerifyError`]: the first bad entry.
pub fn verify_store(store: &dyn Store) -> Result<u64, VerifyError> {
    let mut records = 0;
    for kind in [Kind::Audit, Kind::Log, Kind::Failure, Kind::Action] {
        let rows = Rows::of(store, kind);
        if !rows.is_empty()? {
            records += verify(rows, None, None, &mut || false, drop)?.records;
        }
    }
    Ok(records)
}

/// Reads a file and checks every entry; with `end`, that it ends with this digest.
///
/// # Errors
/// [`VerifyError`]: the first bad entry.
pub fn verify(
    file: impl Read,
    signer: Option<EntityId>,
    end: Option<&Digest>,
    interrupted: &mut dyn FnMut() -> bool,
    mut see: impl FnMut(Entry),
) -> Result<Proven, VerifyError> {
    let (reading, rest) = scan(file, signer, interrupted, &mut see)?;
    if rest.is_empty()
        && let Some(end) = end
    {
        reading.expect(end)?;
    }
    Ok(reading.end(&rest, false)?)
}
