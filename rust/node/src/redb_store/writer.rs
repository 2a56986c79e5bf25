//! The one who commits: takes what waits, writes one frame, syncs once, shows the rows, tells who waits.
//!
//! Invariants
//! * One file is written at a time, by who holds the writer.
//! * After a failure the file is left as it is, and the next commit begins another.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use meshos_core::rows::Write;
use meshos_core::segment::{self, Head, Position};
use meshos_core::store::StoreError;

use crate::redb_store::{Shared, line};

/// A file of the log is closed when it has so many bytes.
pub const SEGMENT_BYTES: u64 = 8 << 20;
/// It grows up to this while the one before it is still being folded.
const SEGMENT_BYTES_MAX: u64 = 8 * SEGMENT_BYTES;
/// How long a commit waits at most for those who are about to submit.
const PATIENCE_MAX: Duration = Duration::from_millis(2);
/// A buffer that a large commit made larger is let go.
const BUFFER_KEPT: usize = 4 << 20;

struct Segment {
    file: File,
    path: PathBuf,
    head: Head,
    bytes: u64,
}

/// Who holds it commits.
pub struct Writer {
    position: Position,
    next_ordinal: u64,
    segment: Option<Segment>,
    buffer: Vec<u8>,
    /// Batches of the last commit.
    together: usize,
    /// How long the last sync took.
    synced_in: Duration,
}

impl Writer {
    /// Goes on after `position`, in a file of this number.
    #[must_use]
    pub const fn after(position: Position, next_ordinal: u64) -> Self {
        Self {
            position,
            next_ordinal,
            segment: None,
            buffer: Vec::new(),
            together: 0,
            synced_in: Duration::ZERO,
        }
    }

    /// The last commit.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// Begins the next file; returns its number.
    ///
    /// # Errors
    /// [`StoreError`]: there is no file to write to.
    pub fn begin(&mut self, shared: &Shared) -> Result<u64, StoreError> {
        self.segment = None;
        let (folder, disk) = (&shared.folder, shared.folder.disk());
        let head = Head {
            store: folder.head().id,
            ordinal: self.next_ordinal,
            after: self.position,
        };
        self.next_ordinal += 1;
        let path = folder.segment(head.ordinal);
        let file = disk.create(&path)?;
        let bytes = head.to_bytes();
        let made = disk
            .write(&file, &path, &bytes)
            .and_then(|()| disk.sync(&file, &path))
            .and_then(|()| disk.sync_folder(&folder.log()));
        if let Err(error) = made {
            // Nothing was acknowledged in it, and a file without a head is passed over.
            let _ = disk.remove(&path);
            return Err(error);
        }
        self.segment = Some(Segment {
            file,
            path,
            head,
            bytes: bytes.len() as u64,
        });
        Ok(head.ordinal)
    }

    /// Commits once. `false`: nothing waited.
    pub fn turn(&mut self, shared: &Shared) -> bool {
        shared
            .line
            .gather(self.together, (self.synced_in / 4).min(PATIENCE_MAX));
        let group = shared.line.take();
        if group.is_empty() {
            return false;
        }
        self.together = group.len();
        let (mut writes, mut done) = (Vec::new(), Vec::with_capacity(group.len()));
        for waiting in group {
            writes.extend(waiting.writes);
            done.push(waiting.done);
        }
        let committed = self.commit(shared, &writes);
        // Who hears of a failure finds the next term.
        let behind = match committed {
            Ok(number) => {
                shared.view.apply(writes.into_iter());
                // After the rows are shown: who sees the same number before and after a look saw no row change.
                shared.log_grew(number, self.segment.as_ref().map_or(0, |segment| segment.bytes));
                None
            }
            Err(_) => {
                self.segment = None;
                Some(shared.line.fail())
            }
        };
        done.into_iter().for_each(|done| line::tell(done, committed));
        match behind {
            Some(behind) => behind.tell(),
            None => self.close_full(shared),
        }
        true
    }

    fn commit(&mut self, shared: &Shared, writes: &[Write]) -> Result<u64, StoreError> {
        if self.segment.is_none() {
            self.begin(shared)?;
        }
        let segment = self.segment.as_mut().expect("it was begun");
        if segment.bytes > SEGMENT_BYTES_MAX {
            shared.folding.wait_until_free(&shared.view)?;
        }
        self.buffer.clear();
        let after = segment::put_frame(&segment.head, &self.position, writes.iter(), &mut self.buffer);
        let disk = shared.folder.disk();
        disk.write(&segment.file, &segment.path, &self.buffer)?;
        let start = Instant::now();
        disk.sync(&segment.file, &segment.path)?;
        self.synced_in = start.elapsed();
        segment.bytes += self.buffer.len() as u64;
        if self.buffer.capacity() > BUFFER_KEPT {
            self.buffer = Vec::new();
        }
        self.position = after;
        Ok(after.number)
    }

    /// Has a full file folded, if none is being folded, and begins the next.
    fn close_full(&mut self, shared: &Shared) {
        let is_full = self
            .segment
            .as_ref()
            .is_some_and(|segment| segment.bytes >= SEGMENT_BYTES);
        if !is_full || shared.view.frozen().is_some() {
            return;
        }
        // If it cannot be made, the next commit tries again, and tells.
        if let Ok(newest) = self.begin(shared)
            && shared.view.freeze(self.position, newest)
        {
            shared.folding.nudge();
        }
    }
}
