//! The pulse: asks registries for the health and load of their daemons at their intervals.
//!
//! One thread for all, started with the first registry that has something to ask, ended with the last.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};

use crate::daemon::Daemon;
use crate::lane::{Job, Lanes};
use crate::registry::Registry;

/// Something that is asked at an interval.
trait Asked: Send + Sync {
    fn ask(self: Arc<Self>);
}

struct Beat {
    asked: Weak<dyn Asked>,
    every: Duration,
    due: Instant,
}

#[derive(Default)]
struct State {
    beats: Vec<Beat>,
    running: bool,
    stopping: bool,
}

/// Keeps the intervals.
#[derive(Clone, Default)]
pub struct Pulse {
    shared: Arc<(Mutex<State>, Condvar)>,
}

/// Keeps one registry asked; dropping it ends that.
pub struct Asking<D: Daemon>(
    #[expect(dead_code, reason = "held so that the pulse's weak reference stays alive")] Arc<Poll<D>>,
);

struct Poll<D: Daemon> {
    registry: Weak<Registry<D>>,
    lanes: Lanes,
    /// Taken while a poll is under way, so that a slow one is not begun twice.
    under_way: Mutex<bool>,
}

impl<D: Daemon> Asked for Poll<D> {
    fn ask(self: Arc<Self>) {
        let mut under_way = self.under_way.lock();
        if !*under_way {
            *under_way = self.lanes.submit(Arc::clone(&self) as Arc<dyn Job>);
        }
    }
}

impl<D: Daemon> Job for Poll<D> {
    fn run(self: Arc<Self>) {
        if let Some(registry) = self.registry.upgrade() {
            registry.poll();
        }
        *self.under_way.lock() = false;
    }
}

impl Pulse {
    /// Begins to ask a registry, first after one interval; its daemons answer on `lanes`.
    #[must_use]
    pub fn ask<D: Daemon>(&self, registry: &Arc<Registry<D>>, every: Duration, lanes: Lanes) -> Asking<D> {
        let poll = Arc::new(Poll {
            registry: Arc::downgrade(registry),
            lanes,
            under_way: Mutex::new(false),
        });
        let asked: Weak<dyn Asked> = Arc::downgrade(&(Arc::clone(&poll) as Arc<dyn Asked>));
        let mut state = self.shared.0.lock();
        state.beats.push(Beat {
            asked,
            every,
            due: Instant::now() + every,
        });
        if !state.running && !state.stopping {
            let shared = Arc::clone(&self.shared);
            let spawned = std::thread::Builder::new()
                .name("meshos-pulse".to_owned())
                .spawn(move || run(&shared));
            state.running = spawned.is_ok();
        }
        self.shared.1.notify_all();
        Asking(poll)
    }

    /// Ends the thread, within one question.
    pub fn stop(&self) {
        self.shared.0.lock().stopping = true;
        self.shared.1.notify_all();
    }
}

fn run(shared: &(Mutex<State>, Condvar)) {
    let mut state = shared.0.lock();
    while !state.stopping {
        let now = Instant::now();
        let mut due = Vec::new();
        state.beats.retain_mut(|beat| {
            let Some(asked) = beat.asked.upgrade() else {
                return false;
            };
            if beat.due <= now {
                beat.due = now + beat.every;
                due.push(asked);
            }
            true
        });
        if due.is_empty() {
            let Some(next) = state.beats.iter().map(|beat| beat.due).min() else {
                break;
            };
            state = shared.1.wait_until(state, next);
        } else {
            drop(state);
            due.into_iter().for_each(Asked::ask);
            state = shared.0.lock();
        }
    }
    state.running = false;
}
