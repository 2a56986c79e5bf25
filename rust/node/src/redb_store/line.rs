//! What waits to be committed.
//!
//! Invariants
//! * First in, first out. What waits is bounded in bytes; who brings more waits for room, up to a deadline.
//! * After a failure everything that waits fails, under the lock under which the term rises: no batch made before the
//!   failure is committed after it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use meshos_core::rows::Write;
use meshos_core::store::{Batch, Done, StoreError};

use crate::clock::Deadline;
use crate::sync::{Condvar, Mutex};

/// Bytes that may wait.
pub const BYTES_MAX: usize = 64 << 20;
/// Bytes of one commit; one batch always fits.
const GROUP_BYTES: usize = 1 << 20;
/// How long a batch may wait for room.
const ROOM: Duration = Duration::from_secs(30);

/// A batch that waits, and who is told.
pub struct Waiting {
    /// The changes.
    pub writes: Vec<Write>,
    /// Their bytes.
    pub bytes: usize,
    /// Who is told.
    pub done: Done,
}

struct State {
    queue: VecDeque<Waiting>,
    bytes: usize,
    term: u64,
    failures: u64,
    closed: bool,
    /// As many are waited for by who commits; 0: nobody waits for more.
    awaited: usize,
}

/// What waited behind a failure.
pub struct Behind {
    term: u64,
    waiting: VecDeque<Waiting>,
}

impl Behind {
    /// Tells them.
    pub fn tell(self) {
        let error = StoreError::Superseded { term: self.term };
        for waiting in self.waiting {
            tell(waiting.done, Err(error));
        }
    }
}

/// Tells one. Who is told is not ours: that it panics must not end who commits.
pub fn tell(done: Done, outcome: Result<u64, StoreError>) {
    let _ = catch_unwind(AssertUnwindSafe(|| done(outcome)));
}

/// What waits to be committed.
pub struct Line {
    state: Mutex<State>,
    work: Condvar,
    room: Condvar,
    more: Condvar,
}

impl Line {
    /// An empty line.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                bytes: 0,
                term: 1,
                failures: 0,
                closed: false,
                awaited: 0,
            }),
            work: Condvar::new(),
            room: Condvar::new(),
            more: Condvar::new(),
        }
    }

    /// The term, and how many failures there were.
    pub fn term(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.term, state.failures)
    }

    /// Puts a batch in line. With `wake` false its caller commits it.
    ///
    /// # Errors
    /// Why it is not in line, with who has to be told.
    pub fn push(&self, batch: Batch, done: Done, wake: bool) -> Result<(), (StoreError, Done)> {
        let bytes = batch.bytes();
        let mut state = self.state.lock();
        let deadline = Deadline::after(ROOM);
        loop {
            if state.closed {
                return Err((StoreError::Closed, done));
            }
            if let Err(error) = batch.check(state.term) {
                return Err((error, done));
            }
            if state.queue.is_empty() || state.bytes + bytes <= BYTES_MAX {
                break;
            }
            if deadline.passed() {
                // It is lost, and what its maker submits next must not be kept without it.
                let behind = Self::fail_all(&mut state);
                drop(state);
                behind.tell();
                return Err((StoreError::Full, done));
            }
            state = self.room.wait_until(state, deadline.slice());
        }
        state.bytes += bytes;
        state.queue.push_back(Waiting {
            writes: batch.writes,
            bytes,
            done,
        });
        if state.awaited > 0 && state.queue.len() >= state.awaited {
            self.more.notify_one();
        }
        if wake {
            self.work.notify_one();
        }
        Ok(())
    }

    /// Waits until as many are in line as were committed together the last time, but not longer than `patience`. Whoever
    /// was answered then is about to submit again; who comes first should not have a sync of its own.
    pub fn gather(&self, expected: usize, patience: Duration) {
        if expected <= 1 {
            return;
        }
        let until = Deadline::after(patience);
        let mut state = self.state.lock();
        state.awaited = expected;
        while !state.queue.is_empty() && state.queue.len() < expected && !state.closed && !until.passed() {
            state = self.more.wait_until(state, until.slice());
        }
        state.awaited = 0;
    }

    /// Takes what is committed together; empty: nothing waits.
    pub fn take(&self) -> Vec<Waiting> {
        let mut state = self.state.lock();
        let (mut group, mut bytes) = (Vec::new(), 0);
        while let Some(next) = state.queue.front() {
            if !group.is_empty() && bytes + next.bytes > GROUP_BYTES {
                break;
            }
            bytes += next.bytes;
            group.extend(state.queue.pop_front());
        }
        state.bytes -= bytes;
        if bytes > 0 {
            self.room.notify_all();
        }
        group
    }

    /// Waits until something is in line. `false`: it is closed and empty.
    pub fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while state.queue.is_empty() {
            if state.closed {
                return false;
            }
            state = self.work.wait(state);
        }
        true
    }

    /// Wakes who waits in [`Line::wait`], if something is in line.
    pub fn nudge(&self) {
        if !self.state.lock().queue.is_empty() {
            self.work.notify_one();
        }
    }

    /// Begins the next term. Everything that waits fails: those are told by whoever calls this, after those before them.
    #[must_use]
    pub fn fail(&self) -> Behind {
        let behind = Self::fail_all(&mut self.state.lock());
        self.room.notify_all();
        behind
    }

    fn fail_all(state: &mut State) -> Behind {
        state.term += 1;
        state.failures += 1;
        state.bytes = 0;
        Behind {
            term: state.term,
            waiting: std::mem::take(&mut state.queue),
        }
    }

    /// Takes no more batches.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.work.notify_all();
        self.room.notify_all();
        self.more.notify_all();
    }
}
