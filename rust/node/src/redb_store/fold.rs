//! Folding: closed files of the log become rows of the tree.
//!
//! Invariants
//! * A file of the log is removed when the tree has its rows in a durable commit, and not before.
//! * A failure is tried again, later each time; commits go on meanwhile, as long as the log may grow.

use std::time::Duration;

use meshos_core::store::StoreError;

use crate::clock::Deadline;
use crate::redb_store::Shared;
use crate::redb_store::tree::Place;
use crate::redb_store::view::View;
use crate::sync::{Condvar, Mutex};

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long a commit waits for folding when the log may not grow.
const ROOM: Duration = Duration::from_secs(10);

#[derive(Default)]
struct State {
    work: bool,
    closed: bool,
    failed: Option<StoreError>,
}

/// What the one who folds and those who wait for it share.
#[derive(Default)]
pub struct Folding {
    state: Mutex<State>,
    work: Condvar,
    free: Condvar,
}

impl Folding {
    /// Says that there is something to fold.
    pub fn nudge(&self) {
        self.state.lock().work = true;
        self.work.notify_all();
    }

    /// Says that no more is folded in the background.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.work.notify_all();
    }

    /// Waits until nothing is being folded.
    ///
    /// # Errors
    /// Why it is not, or [`StoreError::Full`].
    pub fn wait_until_free(&self, view: &View) -> Result<(), StoreError> {
        let deadline = Deadline::after(ROOM);
        let mut state = self.state.lock();
        while view.frozen().is_some() {
            if let Some(error) = state.failed {
                return Err(error);
            }
            if deadline.passed() {
                return Err(StoreError::Full);
            }
            state = self.free.wait_until(state, deadline.slice());
        }
        Ok(())
    }

    /// Folds until it is closed.
    pub fn run(&self, shared: &Shared) {
        let mut pause = RETRY_FIRST;
        loop {
            let mut state = self.state.lock();
            while !state.work && !state.closed {
                state = self.work.wait(state);
            }
            if state.closed {
                return;
            }
            state.work = false;
            drop(state);
            let folded = fold(shared);
            let mut state = self.state.lock();
            state.failed = folded.err();
            self.free.notify_all();
            if folded.is_ok() {
                pause = RETRY_FIRST;
                continue;
            }
            state.work = true;
            let until = Deadline::after(pause);
            while !until.passed() && !state.closed {
                state = self.work.wait_until(state, until.slice());
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}

/// Takes what is frozen into the tree, and removes the files that it was in.
///
/// # Errors
/// [`StoreError`]: it is still to be folded.
pub fn fold(shared: &Shared) -> Result<(), StoreError> {
    let Some(frozen) = shared.view.frozen() else {
        return Ok(());
    };
    let place = Place {
        position: frozen.position,
        newest: frozen.newest,
    };
    shared.tree.fold(frozen.rows.iter(), &place)?;
    shared.view.folded();
    remove_below(shared, frozen.newest);
    Ok(())
}

/// Removes the files of the log below a number. What cannot be removed is passed over when the store is opened.
pub fn remove_below(shared: &Shared, newest: u64) {
    for (ordinal, _) in shared.folder.segments().unwrap_or_default() {
        if ordinal < newest {
            let _ = shared.folder.disk().remove(&shared.folder.segment(ordinal));
        }
    }
}
