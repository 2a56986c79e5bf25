//! Lifecycle events of a registry, and those who observe them.
//!
//! Invariants
//! * Numbers rise by one; each observer sees its events in that order, one at a time, on a lane.
//! * An observer's queue is bounded: what it refuses is counted, and the reader sees the gap in the numbers.
//! * No lock is held while an observer runs, and a panic or raise in one delays nobody.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::Mutex;
use meshos_core::event::{DaemonLifecycleEvent, DaemonLifecycleSignal};
use meshos_core::id::Origin;

use crate::clock;
use crate::lane::{Job, Lanes};

/// Events that one observer may be behind.
pub const QUEUE_MAX: usize = 16_384;

/// Sees lifecycle events.
pub trait Observer: Send + Sync + 'static {
    /// Takes one event; `false` when it failed.
    fn observe(&self, event: &DaemonLifecycleEvent) -> bool;
}

/// Counters of the observers of a registry, past and present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ObserverStats {
    /// Events that a full queue refused.
    pub dropped: u64,
    /// Calls that failed.
    pub errors: u64,
}

struct Line {
    observer: Box<dyn Observer>,
    queue: Mutex<(VecDeque<DaemonLifecycleEvent>, bool)>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    dropped: AtomicU64,
    errors: AtomicU64,
}

impl Line {
    fn push(self: &Arc<Self>, event: DaemonLifecycleEvent, lanes: &Lanes) {
        let mut queue = self.queue.lock();
        if queue.0.len() >= QUEUE_MAX {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.0.push_back(event);
        if !queue.1 {
            queue.1 = lanes.submit(Arc::clone(self) as Arc<dyn Job>);
        }
    }
}

impl Job for Line {
    fn run(self: Arc<Self>) {
        loop {
            let event = {
                let mut queue = self.queue.lock();
                let Some(event) = queue.0.pop_front() else {
                    queue.1 = false;
                    return;
                };
                event
            };
            let call = std::panic::AssertUnwindSafe(|| self.observer.observe(&event));
            if !std::panic::catch_unwind(call).unwrap_or(false) {
                self.counters.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

struct State {
    number: u64,
    lines: Vec<(u64, Arc<Line>)>,
    lines_made: u64,
}

/// Numbers the events of one registry and hands them to its observers.
pub struct Events {
    state: Mutex<State>,
    counters: Arc<Counters>,
    lanes: Lanes,
}

impl Events {
    /// Makes a hub whose observers run on `lanes`.
    #[must_use]
    pub fn new(lanes: Lanes) -> Self {
        let state = State {
            number: 0,
            lines: Vec::new(),
            lines_made: 0,
        };
        Self {
            state: Mutex::new(state),
            counters: Arc::default(),
            lanes,
        }
    }

    /// Numbers an event and queues it for every observer; returns its number.
    pub fn emit(&self, origin: Origin, name: &str, signal: DaemonLifecycleSignal) -> u64 {
        let mut state = self.state.lock();
        state.number += 1;
        if !state.lines.is_empty() {
            let event = DaemonLifecycleEvent {
                origin,
                name: name.to_owned(),
                signal,
                at: clock::unix_ms(),
                number: state.number,
            };
            for (_, line) in &state.lines {
                line.push(event.clone(), &self.lanes);
            }
        }
        state.number
    }

    /// Adds an observer, which first sees `past`; returns its id.
    pub fn add(&self, observer: Box<dyn Observer>, past: impl IntoIterator<Item = DaemonLifecycleEvent>) -> u64 {
        let line = Arc::new(Line {
            observer,
            queue: Mutex::default(),
            counters: Arc::clone(&self.counters),
        });
        let mut state = self.state.lock();
        for event in past {
            line.push(event, &self.lanes);
        }
        state.lines_made += 1;
        let id = state.lines_made;
        state.lines.push((id, line));
        id
    }

    /// Removes an observer; `false` when it is not there. Events queued for it are still given to it.
    pub fn remove(&self, id: u64) -> bool {
        let mut state = self.state.lock();
        let before = state.lines.len();
        // The observer may own user objects, whose end must not run under the lock.
        let removed: Vec<_> = state.lines.extract_if(.., |(line, _)| *line == id).collect();
        let found = state.lines.len() < before;
        drop(state);
        drop(removed);
        found
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> ObserverStats {
        ObserverStats {
            dropped: self.counters.dropped.load(Ordering::Relaxed),
            errors: self.counters.errors.load(Ordering::Relaxed),
        }
    }
}
