//! Records of a loop: numbered, kept in rings, and handed to appenders.
//!
//! Invariants
//! * A record gets its number, then its place in the ring, then goes to the appender. What the appender could not keep is
//!   marked in the ring.
//! * Numbers begin at 1 with each loop and never repeat.
//! * No lock is held while an appender runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use imbl::Vector;
use meshos_core::command::{Command, Verdict};
use meshos_core::id::{NodeId, Origin};
use meshos_core::signal::LogLevel;
use meshos_core::status::{AuditRecord, Failure, FailureRecord, LogRecord};
use meshos_core::time::UnixMs;

use crate::appender::{Gap, Lost, Numbered, Ring, Writer};
use crate::clock::{Deadline, LoopClock};
use crate::sync::Mutex;

/// Failures kept.
pub const FAILURES_MAX: usize = 256;
/// Commands kept.
pub const AUDITS_MAX: usize = 256;
/// Lines kept.
pub const LINES_MAX: usize = 2048;
/// Bytes of one line; what is longer is cut.
pub const LINE_BYTES_MAX: usize = 16_384;

/// What became of an action, numbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionRecord {
    /// Its number, from 1 in a run.
    pub seq: u64,
    /// When.
    pub at: UnixMs,
    /// What.
    pub disposed: meshos_core::status::Disposed,
}

impl Numbered for ActionRecord {
    fn seq(&self) -> u64 {
        self.seq
    }
}

/// A ring, with the appender it feeds.
struct Kept<R> {
    ring: Mutex<Ring<R>>,
    writer: Mutex<Option<Arc<Writer<R>>>>,
}

impl<R: Numbered + Clone + Send + 'static> Kept<R> {
    fn new(capacity: usize) -> Self {
        Self {
            ring: Mutex::new(Ring::new(capacity)),
            writer: Mutex::new(None),
        }
    }

    /// Numbers and keeps a record; returns its number, and whether the appender refused it.
    fn add(&self, make: impl FnOnce(u64) -> R) -> (u64, bool) {
        // The writer's queue is fed in the order of the numbers, so both happen under one lock.
        let writer = self.writer.lock().clone();
        let mut ring = self.ring.lock();
        let seq = ring.head() + 1;
        let record = make(seq);
        ring.push(record.clone());
        let refused = writer.is_some_and(|writer| !writer.push(record));
        (seq, refused)
    }

    fn since(&self, seq: u64, max: usize) -> (Vec<R>, Option<Gap>) {
        self.ring.lock().since(seq, max)
    }

    fn close(&self, deadline: Deadline) -> bool {
        let writer = self.writer.lock().clone();
        writer.is_none_or(|writer| writer.close(deadline))
    }
}

/// The records of one loop.
pub struct Records {
    node: NodeId,
    clock: LoopClock,
    failures: Mutex<(Vector<Arc<FailureRecord>>, u64)>,
    failure_writer: Mutex<Option<Arc<Writer<Arc<FailureRecord>>>>>,
    audits: Kept<AuditRecord>,
    /// Records that must come first and are not settled, and whether they are lost.
    first: Mutex<BTreeMap<u64, bool>>,
    lines: Kept<LogRecord>,
    actions: AtomicU64,
    action_writer: Mutex<Option<Arc<Writer<ActionRecord>>>>,
    action_failures: AtomicU64,
    changes: AtomicU64,
}

impl Records {
    /// No records yet.
    #[must_use]
    pub fn new(node: NodeId, clock: LoopClock) -> Self {
        Self {
            node,
            clock,
            failures: Mutex::default(),
            failure_writer: Mutex::new(None),
            audits: Kept::new(AUDITS_MAX),
            first: Mutex::default(),
            lines: Kept::new(LINES_MAX),
            actions: AtomicU64::new(0),
            action_writer: Mutex::new(None),
            action_failures: AtomicU64::new(0),
            changes: AtomicU64::new(0),
        }
    }

    /// Feeds an appender with failures from now on.
    pub fn write_failures(&self, writer: Arc<Writer<Arc<FailureRecord>>>) {
        *self.failure_writer.lock() = Some(writer);
    }

    /// Feeds an appender with commands from now on.
    pub fn write_audits(&self, writer: Arc<Writer<AuditRecord>>) {
        *self.audits.writer.lock() = Some(writer);
    }

    /// Feeds an appender with lines from now on.
    pub fn write_lines(&self, writer: Arc<Writer<LogRecord>>) {
        *self.lines.writer.lock() = Some(writer);
    }

    /// Feeds an appender with what becomes of actions from now on.
    pub fn write_actions(&self, writer: Arc<Writer<ActionRecord>>) {
        *self.action_writer.lock() = Some(writer);
    }

    /// Rises with each record, and with each mark on one.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Records a failure.
    pub fn failure(&self, failure: Failure) {
        let writer = self.failure_writer.lock().clone();
        let mut failures = self.failures.lock();
        failures.1 += 1;
        let record = Arc::new(FailureRecord {
            seq: failures.1,
            at: self.clock.now(),
            failure,
            chain_pending: false,
        });
        failures.0.push_back(Arc::clone(&record));
        if failures.0.len() > FAILURES_MAX {
            failures.0.pop_front();
        }
        let seq = record.seq;
        let refused = writer.is_some_and(|writer| !writer.push(record));
        if refused {
            mark_failure(&mut failures.0, seq);
        }
        drop(failures);
        self.changed();
    }

    /// The newest failures, oldest first, and the number of the newest.
    #[must_use]
    pub fn failures(&self) -> (Vector<Arc<FailureRecord>>, u64) {
        self.failures.lock().clone()
    }

    /// Records a command, at the time at which it was folded; returns its number.
    pub fn audit(&self, at: UnixMs, command: Command) -> u64 {
        let (seq, refused) = self.numbered(at, command);
        if refused {
            self.lost(Which::Audits, seq);
        }
        self.changed();
        seq
    }

    fn numbered(&self, at: UnixMs, command: Command) -> (u64, bool) {
        self.audits.add(|seq| AuditRecord {
            seq,
            at,
            command,
            chain_pending: false,
        })
    }

    /// Records a command that takes effect only when its record is kept; returns its number. [`Self::kept`] must follow.
    pub fn audit_first(&self, at: UnixMs, command: Command) -> u64 {
        // Nobody can say that it is lost before it is known here.
        let mut first = self.first.lock();
        let (seq, refused) = self.numbered(at, command);
        first.insert(seq, refused);
        drop(first);
        self.changed();
        seq
    }

    /// Waits until the appender kept a record that must come first, or did not; called on a lane. What was not kept is
    /// refused: the ring shows that, and it is told to the appender too, as a record of the same number, since it may
    /// still keep the first one later.
    pub fn kept(&self, seq: u64, deadline: Deadline) -> bool {
        let writer = self.audits.writer.lock().clone();
        let flushed = writer.as_ref().is_none_or(|writer| writer.flush(deadline));
        let lost = self.first.lock().remove(&seq).unwrap_or(true);
        let kept = flushed && !lost;
        if !kept {
            let mut refused = None;
            self.audits.ring.lock().change(seq, |record| {
                record.chain_pending = true;
                record.command.verdict = Verdict::Rejected { kind: "audit_required" };
                refused = Some(record.clone());
            });
            if let (Some(writer), Some(refused)) = (writer, refused) {
                writer.push(refused);
            }
            self.changed();
        }
        kept
    }

    /// Up to `max` commands with a number above `seq`, oldest first, and those above it that are gone.
    #[must_use]
    pub fn audits(&self, seq: u64, max: usize) -> (Vec<AuditRecord>, Option<Gap>) {
        self.audits.since(seq, max)
    }

    /// Adds a line to the log.
    pub fn line(&self, level: LogLevel, daemon: Option<Origin>, message: &str) {
        let mut end = message.len().min(LINE_BYTES_MAX);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let (at, node, message) = (self.clock.now(), self.node, Arc::from(&message[..end]));
        let (seq, refused) = self.lines.add(|seq| LogRecord {
            seq,
            at,
            level,
            node,
            daemon,
            message,
            chain_pending: false,
        });
        if refused {
            self.lines.ring.lock().change(seq, |record| record.chain_pending = true);
        }
        self.changed();
    }

    /// Up to `max` lines with a number above `seq`, oldest first, and those above it that are gone.
    #[must_use]
    pub fn lines(&self, seq: u64, max: usize) -> (Vec<LogRecord>, Option<Gap>) {
        self.lines.since(seq, max)
    }

    /// Numbers of the newest command and line; 0: none.
    #[must_use]
    pub fn heads(&self) -> (u64, u64) {
        (self.audits.ring.lock().head(), self.lines.ring.lock().head())
    }

    /// Records what became of an action.
    pub fn action(&self, disposed: meshos_core::status::Disposed) {
        let Some(writer) = self.action_writer.lock().clone() else {
            return;
        };
        let seq = self.actions.fetch_add(1, Ordering::Relaxed) + 1;
        let record = ActionRecord {
            seq,
            at: self.clock.now(),
            disposed,
        };
        if !writer.push(record) {
            self.action_failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records of actions that the appender could not keep.
    #[must_use]
    pub fn action_failures(&self) -> u64 {
        self.action_failures.load(Ordering::Relaxed)
    }

    /// An appender could not keep a record.
    pub fn lost(&self, which: Which, seq: u64) {
        match which {
            Which::Failures => mark_failure(&mut self.failures.lock().0, seq),
            Which::Audits => {
                if let Some(lost) = self.first.lock().get_mut(&seq) {
                    *lost = true;
                }
                self.audits
                    .ring
                    .lock()
                    .change(seq, |record| record.chain_pending = true);
            }
            Which::Lines => {
                self.lines.ring.lock().change(seq, |record| record.chain_pending = true);
            }
            Which::Actions => {
                self.action_failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.changed();
    }

    /// Lets the appenders keep what waits, and closes them; whether all did in time.
    pub fn close(&self, deadline: Deadline) -> bool {
        let failures = self.failure_writer.lock().clone();
        let actions = self.action_writer.lock().clone();
        let closed = [
            self.audits.close(deadline),
            self.lines.close(deadline),
            actions.is_none_or(|writer| writer.close(deadline)),
            // The last, since the others may have failures to tell.
            failures.is_none_or(|writer| writer.close(deadline)),
        ];
        closed.into_iter().all(|closed| closed)
    }
}

/// Which of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Failures.
    Failures,
    /// Commands.
    Audits,
    /// Lines.
    Lines,
    /// What became of actions.
    Actions,
}

/// What an appender's loss is called in a failure.
#[must_use]
pub fn reason_of(lost: &Lost) -> String {
    match lost {
        Lost::Failed(error) => error.reason.clone(),
        Lost::Disabled => "left alone after failing too often".to_owned(),
        Lost::Closed => "closed before its turn came".to_owned(),
    }
}

fn mark_failure(failures: &mut Vector<Arc<FailureRecord>>, seq: u64) {
    let place = failures.iter().position(|record| record.seq == seq);
    if let Some(record) = place.and_then(|place| failures.get_mut(place)) {
        Arc::make_mut(record).chain_pending = true;
    }
}
