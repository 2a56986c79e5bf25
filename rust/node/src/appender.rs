//! Appenders: user code that keeps records beyond the rings in memory, fed in order by one writer each.
//!
//! Invariants
//! * Records are appended in the order in which they were pushed, one at a time.
//! * A record that was taken is appended and settled, or told as lost; never neither.
//! * `close` is called at most once, after the last append.
//! * No lock is held while an appender runs or ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};
use meshos_core::status::{AuditRecord, FailureRecord, LogRecord};

use crate::callback::{CallFailed, Callback, isolated};
use crate::clock::Deadline;
use crate::lane::{Job, Lanes};

/// Records that wait for one appender.
pub const WAITING_MAX: usize = 16_384;
/// Records that one job appends before it lets others use the lane.
const BATCH: usize = 256;

/// Something with a number that rises from record to record.
pub trait Numbered {
    /// Its number.
    fn seq(&self) -> u64;
}

impl Numbered for AuditRecord {
    fn seq(&self) -> u64 {
        self.seq
    }
}

impl Numbered for LogRecord {
    fn seq(&self) -> u64 {
        self.seq
    }
}

impl Numbered for FailureRecord {
    fn seq(&self) -> u64 {
        self.seq
    }
}

impl<T: Numbered + ?Sized> Numbered for Arc<T> {
    fn seq(&self) -> u64 {
        (**self).seq()
    }
}

/// Keeps records.
pub trait Appender<R>: Send + Sync {
    /// Keeps a record.
    ///
    /// # Errors
    /// What it raised: the record is lost to it.
    fn append(&self, record: &R) -> Result<(), CallFailed>;

    /// Called once, after the last record.
    ///
    /// # Errors
    /// What it raised.
    fn close(&self) -> Result<(), CallFailed> {
        Ok(())
    }

    /// How many records may be settled together.
    fn together(&self) -> usize {
        1
    }

    /// Makes what was appended last for good, before it counts as kept; called after at most [`Appender::together`]
    /// records, and only when that is more than one.
    ///
    /// # Errors
    /// Those records are lost to it.
    fn settle(&self) -> Result<(), CallFailed> {
        Ok(())
    }

    /// Calls `turn`, which appends several records, so that what they share is done once.
    fn batch(&self, turn: &mut dyn FnMut()) {
        turn();
    }

    /// Its name, for people.
    fn name(&self) -> &str;
}

/// Why a record was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// The appender raised.
    Failed(CallFailed),
    /// The appender failed too often, and is left alone now.
    Disabled,
    /// The writer was closed before its turn came.
    Closed,
}

/// Told of each record that was taken and could not be kept, on a lane or in `close`.
pub type LostSink = Arc<dyn Fn(u64, Lost) + Send + Sync>;

/// Feeds one appender.
pub struct Writer<R> {
    shared: Arc<Shared<R>>,
}

struct Shared<R> {
    appender: Arc<dyn Appender<R>>,
    callback: Arc<Callback>,
    lanes: Lanes,
    budget: Duration,
    lost: LostSink,
    state: Mutex<State<R>>,
    settled: Condvar,
}

struct State<R> {
    queue: VecDeque<R>,
    /// A job drains the queue, or waits for a lane.
    draining: bool,
    /// Pushes that hand the job to the lanes now; should they refuse it, the push says so, and nobody is told.
    submitting: u32,
    /// They refused it.
    unwanted: bool,
    closing: bool,
    closed: bool,
    taken: u64,
    /// Of those taken, how many were appended or lost.
    settled: u64,
    refused: u64,
    /// Who is called once so many are settled, in order.
    told: VecDeque<(u64, Told)>,
}

/// Somebody who is called once.
type Told = Box<dyn FnOnce() + Send>;

/// Counters of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriterStats {
    /// Records that wait.
    pub waiting: u64,
    /// Records that were refused.
    pub refused: u64,
}

impl<R: Numbered + Send + 'static> Writer<R> {
    /// Feeds `appender` on `lanes`; tells `lost` what could not be kept.
    #[must_use]
    pub fn new(
        appender: Arc<dyn Appender<R>>,
        callback: Arc<Callback>,
        lanes: Lanes,
        budget: Duration,
        lost: LostSink,
    ) -> Self {
        let state = State {
            queue: VecDeque::new(),
            draining: false,
            submitting: 0,
            unwanted: false,
            closing: false,
            closed: false,
            taken: 0,
            settled: 0,
            refused: 0,
            told: VecDeque::new(),
        };
        Self {
            shared: Arc::new(Shared {
                appender,
                callback,
                lanes,
                budget,
                lost,
                state: Mutex::new(state),
                settled: Condvar::new(),
            }),
        }
    }

    /// Queues a record; `false`: the queue is full, the writer closed or the lanes stopped, and the record was refused
    /// and counted. Tells nothing to the sink, so the caller may hold a lock that the sink takes.
    pub fn push(&self, record: R) -> bool {
        let seq = record.seq();
        let mut state = self.shared.state.lock();
        if state.closing || state.queue.len() >= WAITING_MAX {
            state.refused += 1;
            drop(state);
            drop(record);
            return false;
        }
        state.queue.push_back(record);
        state.taken += 1;
        if state.draining {
            return true;
        }
        state.draining = true;
        state.submitting += 1;
        drop(state);
        self.shared.submit();
        let mut state = self.shared.state.lock();
        state.submitting -= 1;
        let unwanted = std::mem::take(&mut state.unwanted) && state.queue.back().is_some_and(|last| last.seq() == seq);
        if !unwanted {
            return true;
        }
        let record = state.queue.pop_back();
        state.refused += 1;
        drop(state);
        drop(record);
        self.shared.settle(1);
        false
    }

    /// Calls `told` once everything pushed before was appended or lost: on a lane, or at once.
    pub fn after(&self, told: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state.lock();
        if state.settled < state.taken {
            let wanted = state.taken;
            state.told.push_back((wanted, Box::new(told)));
            return;
        }
        drop(state);
        told();
    }

    /// Waits until everything pushed before was appended or lost; `false` when the deadline passed first.
    pub fn flush(&self, deadline: Deadline) -> bool {
        let mut state = self.shared.state.lock();
        let wanted = state.taken;
        while state.settled < wanted {
            if deadline.passed() {
                return false;
            }
            state = self.shared.settled.wait_until(state, deadline.slice());
        }
        true
    }

    /// Appends what waits, closes the appender once, and waits for that; `false` when the deadline passed first. Then
    /// what still waits is lost, and the appender is closed as soon as its call ends.
    pub fn close(&self, deadline: Deadline) -> bool {
        let mut state = self.shared.state.lock();
        if !std::mem::replace(&mut state.closing, true) && !std::mem::replace(&mut state.draining, true) {
            drop(state);
            self.shared.submit();
            state = self.shared.state.lock();
        }
        while !state.closed && !deadline.passed() {
            state = self.shared.settled.wait_until(state, deadline.slice());
        }
        let in_time = state.closed;
        drop(state);
        if !in_time {
            self.shared.give_up();
        }
        in_time
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> WriterStats {
        let state = self.shared.state.lock();
        WriterStats {
            waiting: state.taken - state.settled,
            refused: state.refused,
        }
    }
}

/// One turn at the queue. Dropped without having run, it loses what waits, unless a push says that it was refused.
struct Drain<R: Numbered + Send + 'static> {
    shared: Arc<Shared<R>>,
    ended: Mutex<bool>,
}

impl<R: Numbered + Send + 'static> Shared<R> {
    fn submit(self: &Arc<Self>) {
        // A job that is refused is dropped, which loses what waits.
        self.lanes.submit(Arc::new(Drain {
            shared: Arc::clone(self),
            ended: Mutex::new(false),
        }));
    }

    fn next(&self) -> Option<R> {
        self.state.lock().queue.pop_front()
    }

    fn settle(&self, count: u64) {
        let mut state = self.state.lock();
        state.settled += count;
        let settled = state.settled;
        let mut told = Vec::new();
        while state.told.front().is_some_and(|(wanted, _)| *wanted <= settled) {
            told.extend(state.told.pop_front());
        }
        drop(state);
        self.settled.notify_all();
        told.into_iter().for_each(|(_, told)| told());
    }

    /// Calls the appender; why it did not do its part, if it did not.
    fn run(&self, call: impl FnOnce() -> Result<(), CallFailed>) -> Option<Lost> {
        match self.callback.run(Instant::now(), self.budget, call) {
            Some(Ok(())) => None,
            Some(Err(failed)) => Some(Lost::Failed(failed)),
            None => Some(Lost::Disabled),
        }
    }

    /// Appends up to so many records and settles them together; how many there were.
    fn append(&self, most: usize) -> usize {
        let (mut taken, mut unsettled) = (0, Vec::new());
        while taken < most
            && let Some(record) = self.next()
        {
            taken += 1;
            match self.run(|| self.appender.append(&record)) {
                Some(lost) => (self.lost)(record.seq(), lost),
                None if most > 1 => unsettled.push(record.seq()),
                None => {}
            }
        }
        if !unsettled.is_empty()
            && let Some(lost) = self.run(|| self.appender.settle())
        {
            unsettled.into_iter().for_each(|seq| (self.lost)(seq, lost.clone()));
        }
        if taken > 0 {
            self.settle(taken as u64);
        }
        taken
    }

    /// Loses what waits.
    fn give_up(&self) {
        while let Some(record) = self.next() {
            (self.lost)(record.seq(), Lost::Closed);
            self.settle(1);
        }
    }

    /// Appends a batch; returns whether there is more to do, or the appender is still to be closed.
    fn turn(&self) -> bool {
        let together = self.appender.together().clamp(1, BATCH);
        self.appender.batch(&mut || {
            let mut appended = 0;
            while appended < BATCH {
                match self.append(together) {
                    0 => break,
                    taken => appended += taken,
                }
            }
        });
        let mut state = self.state.lock();
        let more = !state.queue.is_empty();
        if more || (state.closing && !state.closed) {
            return true;
        }
        state.draining = false;
        false
    }

    fn close_appender(&self) {
        // It is closed also while it is left alone. A raise is counted, and there is nobody left to act on it.
        let close = || self.appender.close();
        if self.callback.run(Instant::now(), self.budget, close).is_none() {
            let _ = isolated(close);
        }
        self.state.lock().closed = true;
        self.settled.notify_all();
    }
}

impl<R: Numbered + Send + 'static> Job for Drain<R> {
    fn run(self: Arc<Self>) {
        let shared = &self.shared;
        if shared.turn() {
            let state = shared.state.lock();
            let is_last = state.queue.is_empty();
            drop(state);
            if is_last {
                shared.close_appender();
                shared.state.lock().draining = false;
            } else {
                shared.submit();
            }
        }
        *self.ended.lock() = true;
    }
}

impl<R: Numbered + Send + 'static> Drop for Drain<R> {
    fn drop(&mut self) {
        if *self.ended.get_mut() {
            return;
        }
        let mut state = self.shared.state.lock();
        if state.submitting > 0 {
            state.unwanted = true;
        } else {
            drop(state);
            self.shared.give_up();
            state = self.shared.state.lock();
        }
        state.draining = false;
        state.closed = state.closing;
        drop(state);
        self.shared.settled.notify_all();
    }
}

/// Numbers that were gone before the reader came to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// The newest records, by number.
#[derive(Debug, Clone)]
pub struct Ring<R> {
    records: VecDeque<R>,
    capacity: usize,
    /// Number of the newest record that fell out; 0: none did.
    fallen_out: u64,
}

impl<R: Numbered + Clone> Ring<R> {
    /// Keeps the newest `capacity` records, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            records: VecDeque::new(),
            capacity: capacity.max(1),
            fallen_out: 0,
        }
    }

    /// Adds a record, whose number is above those before; gives the one that fell out.
    pub fn push(&mut self, record: R) -> Option<R> {
        let mut oldest = None;
        if self.records.len() >= self.capacity {
            oldest = self.records.pop_front();
            self.fallen_out = oldest.as_ref().map_or(self.fallen_out, Numbered::seq);
        }
        self.records.push_back(record);
        oldest
    }

    /// Up to `max` records with a number above `seq`, oldest first, and those above it that fell out.
    #[must_use]
    pub fn since(&self, seq: u64, max: usize) -> (Vec<R>, Option<Gap>) {
        let first = self.records.partition_point(|record| record.seq() <= seq);
        let records = self.records.range(first..).take(max).cloned().collect();
        let gap = (self.fallen_out > seq).then_some(Gap {
            first: seq.saturating_add(1),
            last: self.fallen_out,
        });
        (records, gap)
    }

    /// Changes the record with that number; whether it is there.
    pub fn change(&mut self, seq: u64, change: impl FnOnce(&mut R)) -> bool {
        let place = self.records.partition_point(|record| record.seq() < seq);
        match self.records.get_mut(place) {
            Some(record) if record.seq() == seq => {
                change(record);
                true
            }
            _ => false,
        }
    }

    /// Number of the newest record; 0: there was none.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.records.back().map_or(self.fallen_out, Numbered::seq)
    }

    /// The record with that number.
    #[must_use]
    pub fn get(&self, seq: u64) -> Option<&R> {
        let place = self.records.partition_point(|record| record.seq() < seq);
        self.records.get(place).filter(|record| record.seq() == seq)
    }

    /// The records, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &R> {
        self.records.iter()
    }
}
