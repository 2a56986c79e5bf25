//! Records of a loop: numbered, kept in rings, and handed to appenders.
//!
//! Invariants
//! * A record gets its number, then its place in the ring, then goes to the appender. What the appender could not keep is
//!   marked in the ring.
//! * Numbers begin at 1 with each loop and never repeat.
//! * Commands that were obeyed and commands that were refused have rings of their own, with numbers in common: whoever can
//!   send commands cannot flush those that were obeyed.
//! * A record is given to the appender again, under its number, when what it says has changed: then the last one holds.
//! * A refusal like one in the ring is counted there. It goes to the appender again, under its number, when the count has
//!   doubled, when it falls out of the ring, and at the end.
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
/// Commands kept of those that were obeyed, and of those that were refused.
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

/// The rings of commands.
struct Audits {
    obeyed: Ring<AuditRecord>,
    refused: Ring<AuditRecord>,
    /// Commands that take effect when their record is kept, and whether it was lost.
    held: BTreeMap<u64, bool>,
}

/// Whether a command was refused as that one was. What nobody looked at is all alike.
fn is_alike(one: &Command, other: &Command) -> bool {
    const OVERLOADED: Verdict = Verdict::Rejected { kind: "overloaded" };
    one.verdict == other.verdict
        && (one.verdict == OVERLOADED
            || (one.order == other.order && one.operators == other.operators && one.reason == other.reason))
}

impl Audits {
    fn head(&self) -> u64 {
        self.obeyed.head().max(self.refused.head())
    }

    /// Numbers a command, or counts it with one like it; gives the number and what the appender is to keep.
    fn add(&mut self, at: UnixMs, command: Command, hold: bool) -> (u64, Vec<AuditRecord>) {
        let refused = matches!(command.verdict, Verdict::Rejected { .. });
        let alike = |record: &&AuditRecord| is_alike(&record.command, &command);
        let alike = self.refused.iter().rev().filter(|_| refused).find(alike);
        if let Some(seq) = alike.map(|record| record.seq) {
            let mut again = Vec::new();
            self.refused.change(seq, |record| {
                record.times = record.times.saturating_add(1);
                if record.times.is_power_of_two() {
                    again.push(record.clone());
                }
            });
            return (seq, again);
        }
        let seq = self.head() + 1;
        let record = AuditRecord {
            seq,
            at,
            command,
            times: 1,
            chain_pending: false,
        };
        if hold {
            self.held.insert(seq, false);
        }
        let ring = if refused { &mut self.refused } else { &mut self.obeyed };
        let fallen_out = ring.push(record.clone()).filter(is_uncounted);
        (seq, fallen_out.into_iter().chain([record]).collect())
    }

    fn change(&mut self, seq: u64, mut change: impl FnMut(&mut AuditRecord)) {
        let _ = self.obeyed.change(seq, &mut change) || self.refused.change(seq, &mut change);
    }

    fn since(&self, seq: u64, max: usize) -> Vec<AuditRecord> {
        let (mut records, _) = self.obeyed.since(seq, max);
        records.extend(self.refused.since(seq, max).0);
        records.sort_unstable_by_key(|record| record.seq);
        records.truncate(max);
        records
    }
}

/// Whether the appender has not heard of the last ones like it.
fn is_uncounted(record: &AuditRecord) -> bool {
    !record.times.is_power_of_two()
}

/// The records of one loop.
pub struct Records {
    node: NodeId,
    clock: LoopClock,
    failures: Mutex<(Vector<Arc<FailureRecord>>, u64)>,
    failure_writer: Mutex<Option<Arc<Writer<Arc<FailureRecord>>>>>,
    audits: Mutex<Audits>,
    audit_writer: Mutex<Option<Arc<Writer<AuditRecord>>>>,
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
            audits: Mutex::new(Audits {
                obeyed: Ring::new(AUDITS_MAX),
                refused: Ring::new(AUDITS_MAX),
                held: BTreeMap::new(),
            }),
            audit_writer: Mutex::new(None),
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
        *self.audit_writer.lock() = Some(writer);
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

    /// Records a command, at the time at which it was folded, or counts it with the one that it is like; returns that
    /// number, and whether it is new.
    pub fn audit(&self, at: UnixMs, command: Command) -> (u64, bool) {
        self.record(at, command, false)
    }

    fn record(&self, at: UnixMs, command: Command, hold: bool) -> (u64, bool) {
        let writer = self.audit_writer.lock().clone();
        // The writer's queue is fed in the order of the numbers, so both happen under one lock.
        let mut audits = self.audits.lock();
        let before = audits.head();
        let (seq, keep) = audits.add(at, command, hold);
        let mut refused = Vec::new();
        if let Some(writer) = writer {
            for record in keep {
                let seq = record.seq;
                if !writer.push(record) {
                    refused.push(seq);
                }
            }
        }
        drop(audits);
        refused.into_iter().for_each(|seq| self.lost(Which::Audits, seq));
        self.changed();
        (seq, seq > before)
    }

    /// Records a command that takes effect when the appender kept that; returns its number. `told` is called then, unless
    /// [`Records::give_up`] was before: with whether it was kept.
    pub fn audit_first(
        self: &Arc<Self>,
        at: UnixMs,
        command: Command,
        told: impl FnOnce(bool) + Send + 'static,
    ) -> u64 {
        let (seq, _) = self.record(at, command, true);
        let records = Arc::clone(self);
        let settled = move || {
            if let Some(kept) = records.held_is_kept(seq) {
                told(kept);
            }
        };
        let writer = self.audit_writer.lock().clone();
        match writer {
            Some(writer) => writer.after(settled),
            None => settled(),
        }
        seq
    }

    /// Whether the record of a held command was kept; `None`: it is not held any more.
    fn held_is_kept(&self, seq: u64) -> Option<bool> {
        let mut audits = self.audits.lock();
        let lost = audits.held.remove(&seq)?;
        if lost {
            audits.change(seq, refuse);
            drop(audits);
            self.changed();
        }
        Some(!lost)
    }

    /// Waits no longer for the record of a held command: it has no effect. `false`: it was kept or lost just now. Since
    /// the appender may keep it yet, it is given once more, as refused.
    pub fn give_up(&self, seq: u64) -> bool {
        let mut audits = self.audits.lock();
        if audits.held.remove(&seq).is_none() {
            return false;
        }
        let mut again = None;
        audits.change(seq, |record| {
            refuse(record);
            again = Some(record.clone());
        });
        if let (Some(record), Some(writer)) = (again, self.audit_writer.lock().clone()) {
            writer.push(record);
        }
        drop(audits);
        self.changed();
        true
    }

    /// Up to `max` commands with a number above `seq`, oldest first.
    #[must_use]
    pub fn audits(&self, seq: u64, max: usize) -> Vec<AuditRecord> {
        self.audits.lock().since(seq, max)
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
        (self.audits.lock().head(), self.lines.ring.lock().head())
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
                let mut audits = self.audits.lock();
                audits.change(seq, |record| record.chain_pending = true);
                if let Some(lost) = audits.held.get_mut(&seq) {
                    *lost = true;
                }
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
        let audits = self.audit_writer.lock().clone();
        if let Some(writer) = &audits {
            let mut uncounted: Vec<_> = self.audits.lock().refused.iter().cloned().collect();
            uncounted.retain(is_uncounted);
            for record in uncounted {
                let seq = record.seq;
                if !writer.push(record) {
                    self.lost(Which::Audits, seq);
                }
            }
        }
        let failures = self.failure_writer.lock().clone();
        let actions = self.action_writer.lock().clone();
        let closed = [
            audits.is_none_or(|writer| writer.close(deadline)),
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

/// A command whose record was not kept has no effect.
fn refuse(record: &mut AuditRecord) {
    record.chain_pending = true;
    record.command.verdict = Verdict::Rejected { kind: "audit_required" };
}

fn mark_failure(failures: &mut Vector<Arc<FailureRecord>>, seq: u64) {
    let place = failures.iter().position(|record| record.seq == seq);
    if let Some(record) = place.and_then(|place| failures.get_mut(place)) {
        Arc::make_mut(record).chain_pending = true;
    }
}
