//! Waiting until a daemon has done something.
//!
//! Invariants
//! * Who leaves a daemon pays one read of a counter for it, unless somebody waits.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::clock::Deadline;
use crate::daemon::Daemon;
use crate::slot::Slot;
use crate::sync::{Condvar, Mutex};

/// Who waits for a daemon to go on.
#[derive(Default)]
pub(crate) struct Progress {
    waiting: AtomicUsize,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Progress {
    /// Wakes who waits, after the view of the daemon changed.
    pub(crate) fn tell(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock());
            self.changed.notify_all();
        }
    }
}

/// How a wait for progress ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progressed {
    /// The daemon processed something, or failed to.
    Changed,
    /// The time is over.
    Timeout,
    /// Whoever waited does not want to any more.
    Interrupted,
}

impl<D: Daemon> Slot<D> {
    /// What changes with each event: how many it processed, and how many failed.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let stats = self.view().stats;
        (stats.events_processed, stats.errors)
    }

    /// Waits until [`progress`](Self::progress) is another than `seen`, or the slot is closed. No lock is held while
    /// `is_interrupted` is asked.
    pub fn wait_for_progress(
        &self,
        seen: (u64, u64),
        deadline: Deadline,
        is_interrupted: &mut dyn FnMut() -> bool,
    ) -> Progressed {
        let waits = self.waits();
        waits.waiting.fetch_add(1, Ordering::SeqCst);
        let ended = loop {
            let guard = waits.lock.lock();
            if self.progress() != seen || self.is_closed() {
                break Progressed::Changed;
            }
            if deadline.passed() {
                break Progressed::Timeout;
            }
            drop(waits.changed.wait_until(guard, deadline.slice()));
            if is_interrupted() {
                break Progressed::Interrupted;
            }
        };
        waits.waiting.fetch_sub(1, Ordering::SeqCst);
        ended
    }
}
