//! A batch on its way to the disk, and who waits for it.
//!
//! Invariants
//! * It is settled once. Who asks before is told then; who asks later is told at once.

use meshos_core::store::StoreError;

use crate::clock::Deadline;
use crate::sync::{Condvar, Mutex};

/// Hears what became of a commit. It runs where the store works: it is short and never waits.
pub type Then = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

#[derive(Default)]
struct Fate {
    outcome: Option<Result<(), StoreError>>,
    then: Vec<Then>,
}

/// A batch on its way to the disk.
#[derive(Default)]
pub struct Commit {
    fate: Mutex<Fate>,
    bell: Condvar,
}

/// How a wait for a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// It is kept, or it is not.
    Settled(Result<(), StoreError>),
    /// Time was up; what becomes of it is open.
    TimedOut,
    /// The caller was interrupted; what becomes of it is open.
    Interrupted,
}

impl Commit {
    /// Tells everybody what became of it.
    pub(crate) fn settle(&self, outcome: Result<(), StoreError>) {
        let mut fate = self.fate.lock();
        fate.outcome = Some(outcome);
        let then = std::mem::take(&mut fate.then);
        drop(fate);
        self.bell.notify_all();
        for then in then {
            then(outcome);
        }
    }

    /// What became of it, once that is known.
    #[must_use]
    pub fn outcome(&self) -> Option<Result<(), StoreError>> {
        self.fate.lock().outcome
    }

    /// Has `then` called with what becomes of it; at once, on this thread, if that is known.
    pub fn then(&self, then: Then) {
        let mut fate = self.fate.lock();
        match fate.outcome {
            None => fate.then.push(then),
            Some(outcome) => {
                drop(fate);
                then(outcome);
            }
        }
    }

    /// Waits for it on this thread. `interrupted` is asked about twenty times a second, with nothing locked.
    pub fn wait(&self, deadline: Deadline, interrupted: &mut dyn FnMut() -> bool) -> Waited {
        let mut fate = self.fate.lock();
        loop {
            if let Some(outcome) = fate.outcome {
                return Waited::Settled(outcome);
            }
            if deadline.passed() {
                return Waited::TimedOut;
            }
            drop(self.bell.wait_until(fate, deadline.slice()));
            if interrupted() {
                return Waited::Interrupted;
            }
            fate = self.fate.lock();
        }
    }
}
