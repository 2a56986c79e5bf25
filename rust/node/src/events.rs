//! Lifecycle events of a registry, and those who observe or watch them.
//!
//! Invariants
//! * Numbers rise by one; each observer sees its events in that order, one at a time, on a lane.
//! * An observer's queue is bounded: what it refuses is counted, and the reader sees the gap in the numbers.
//! * No lock is held while an observer runs, and a panic or raise in one delays nobody.
//! * A watch misses nothing: it is called in the order of the numbers, before the next event gets its own.
//! * The events of a daemon stand between its `Registered` and its `Unregistered`. What the code of a removed daemon
//!   still does is told to nobody, since another daemon may have its handle by then.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::sync::Mutex;
use meshos_core::event::{DaemonLifecycleEvent, DaemonLifecycleSignal};
use meshos_core::id::Origin;

use crate::clock;
use crate::lane::{Job, Lanes};
use crate::outgoing::Exits;

/// Events that one observer may be behind.
pub const QUEUE_MAX: usize = 16_384;

/// Sees lifecycle events.
pub trait Observer: Send + Sync + 'static {
    /// Takes one event; `false` when it failed.
    fn observe(&self, event: &DaemonLifecycleEvent) -> bool;
}

/// Sees every lifecycle event, in order.
///
/// It is called with the events' lock held, on the thread that tells: it puts the event into a queue of its own, and
/// neither waits nor calls user code, nor anything of the registry.
pub trait Watch: Send + Sync {
    /// Takes one event.
    fn watch(&self, event: &DaemonLifecycleEvent);
}

/// What was told of a daemon so far. It changes with the event that tells it, under the events' lock.
#[derive(Debug, Default)]
pub struct Presence(AtomicU8);

/// What was told of a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Told {
    /// It is not in the registry.
    Absent = 0,
    /// It is there.
    Here = 1,
    /// It is there, and takes no events until it is started again.
    Down = 2,
}

impl Presence {
    fn get(&self) -> Told {
        match self.0.load(Ordering::Relaxed) {
            0 => Told::Absent,
            1 => Told::Here,
            _ => Told::Down,
        }
    }

    /// What is known after a signal; `None`: it is not told.
    fn after(&self, signal: &DaemonLifecycleSignal) -> Option<Told> {
        use DaemonLifecycleSignal::{Crashed, Registered, Started, Unregistered};
        match (self.get(), signal) {
            (_, Registered) => Some(Told::Here),
            (Told::Absent, _) => None,
            (_, Unregistered) => Some(Told::Absent),
            (_, Started) => Some(Told::Here),
            (_, Crashed { down: true, .. }) => Some(Told::Down),
            (told, _) => Some(told),
        }
    }

    /// Whether it was told that it takes no events until it is started again.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.get() == Told::Down
    }
}

/// Counters of a registry: of its observers, past and present, and of events that nobody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ObserverStats {
    /// Events that a full queue refused.
    pub dropped: u64,
    /// Calls that failed.
    pub errors: u64,
    /// Posted events that did not take effect and are no dead letters either: their daemon was stopped or lost.
    pub unheard: u64,
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
    unheard: AtomicU64,
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
    watches: Vec<(u64, Arc<dyn Watch>)>,
    /// Observers and watches so far.
    made: u64,
}

/// Numbers the events of one registry and hands them to its observers.
pub struct Events {
    state: Mutex<State>,
    counters: Arc<Counters>,
    lanes: Lanes,
    exits: Arc<Exits>,
}

impl Events {
    /// Makes a hub whose observers run on `lanes`.
    #[must_use]
    pub fn new(lanes: Lanes) -> Self {
        let state = State {
            number: 0,
            lines: Vec::new(),
            watches: Vec::new(),
            made: 0,
        };
        Self {
            state: Mutex::new(state),
            counters: Arc::default(),
            lanes,
            exits: Arc::default(),
        }
    }

    /// Where what its daemons emit leaves the node.
    #[must_use]
    pub fn exits(&self) -> &Arc<Exits> {
        &self.exits
    }

    /// Numbers an event, shows it to every watch and queues it for every observer; returns its number. `None`: the
    /// daemon is not in the registry, and nothing is told.
    pub fn emit(
        &self,
        presence: &Presence,
        origin: Origin,
        name: &Arc<str>,
        signal: DaemonLifecycleSignal,
    ) -> Option<u64> {
        let mut state = self.state.lock();
        let told = presence.after(&signal)?;
        presence.0.store(told as u8, Ordering::Relaxed);
        state.number += 1;
        if !state.lines.is_empty() || !state.watches.is_empty() {
            let event = DaemonLifecycleEvent {
                origin,
                name: name.to_string(),
                signal,
                at: clock::unix_ms(),
                number: state.number,
            };
            for (_, watch) in &state.watches {
                watch.watch(&event);
            }
            for (_, line) in &state.lines {
                line.push(event.clone(), &self.lanes);
            }
        }
        Some(state.number)
    }

    /// Runs `look` while nothing is told, with the number of the newest event.
    pub fn pause<R>(&self, look: impl FnOnce(u64) -> R) -> R {
        let state = self.state.lock();
        look(state.number)
    }

    /// Where observers run.
    #[must_use]
    pub fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// Adds a watch, which sees every event from now on; returns its id.
    pub fn add_watch(&self, watch: Arc<dyn Watch>) -> u64 {
        let mut state = self.state.lock();
        state.made += 1;
        let id = state.made;
        state.watches.push((id, watch));
        id
    }

    /// Removes a watch; `false` when it is not there. It is not called any more when this returns.
    pub fn remove_watch(&self, id: u64) -> bool {
        let mut state = self.state.lock();
        let removed: Vec<_> = state.watches.extract_if(.., |(watch, _)| *watch == id).collect();
        drop(state);
        !removed.is_empty()
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
        state.made += 1;
        let id = state.made;
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
            unheard: self.counters.unheard.load(Ordering::Relaxed),
        }
    }

    /// Counts posted events that came to nothing.
    pub(crate) fn count_unheard(&self, events: u64) {
        self.counters.unheard.fetch_add(events, Ordering::Relaxed);
    }
}
