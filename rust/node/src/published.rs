//! The newest snapshot of a loop, and those who wait for the next one.
//!
//! Invariants
//! * Reading costs one count of a pointer: readers never wait for the loop, and never make it wait.
//! * A snapshot is published only when its content changed; its generation is one higher than that of the one before.
//! * Who waits is called on a lane, never on the loop's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use meshos_core::status::MeshOsSnapshot;

use crate::clock::Deadline;
use crate::lane::{Job, Lanes};
use crate::sync::{Condvar, Mutex};

/// Calls that may wait for the next snapshot.
pub const WAITERS_MAX: usize = 65_536;

/// Is called once, with the first snapshot after the one it knew, or when the loop has ended.
pub type Wake = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    ended: bool,
    generation: u64,
    wakes: Vec<(u64, Wake)>,
    tickets: u64,
    /// Threads at the bell.
    waiting: usize,
}

/// The cell that holds the newest snapshot.
pub struct Published {
    snapshot: ArcSwap<MeshOsSnapshot>,
    generation: AtomicU64,
    state: Mutex<State>,
    bell: Condvar,
    lanes: Lanes,
}

/// How a wait ended.
#[derive(Debug, Clone)]
pub enum Waited {
    /// There is a newer snapshot.
    Changed(Arc<MeshOsSnapshot>),
    /// The loop has ended, and there will be none.
    Ended,
    /// Time was up.
    TimedOut,
    /// The caller was interrupted.
    Interrupted,
}

struct Waking(Mutex<Vec<Wake>>);

impl Job for Waking {
    fn run(self: Arc<Self>) {
        let wakes = std::mem::take(&mut *self.0.lock());
        for wake in wakes {
            wake();
        }
    }
}

/// Calls those who wait on a lane.
pub fn wake_on(lanes: &Lanes, wakes: Vec<Wake>) {
    if !wakes.is_empty() {
        lanes.submit(Arc::new(Waking(Mutex::new(wakes))));
    }
}

impl Published {
    /// Begins with `first`; those who wait are called on `lanes`.
    #[must_use]
    pub fn new(first: MeshOsSnapshot, lanes: Lanes) -> Self {
        let state = State {
            generation: first.generation,
            ..State::default()
        };
        Self {
            generation: AtomicU64::new(first.generation),
            snapshot: ArcSwap::from_pointee(first),
            state: Mutex::new(state),
            bell: Condvar::new(),
            lanes,
        }
    }

    /// The newest snapshot.
    #[must_use]
    pub fn load(&self) -> Arc<MeshOsSnapshot> {
        self.snapshot.load_full()
    }

    /// Generation of the newest snapshot.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether the loop has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state.lock().ended
    }

    /// Publishes a snapshot. Only the loop calls this.
    pub fn publish(&self, snapshot: MeshOsSnapshot) {
        let generation = snapshot.generation;
        self.snapshot.store(Arc::new(snapshot));
        self.generation.store(generation, Ordering::Release);
        self.ring(|state| state.generation = generation);
    }

    /// Says that there will be no more.
    pub fn end(&self) {
        self.ring(|state| state.ended = true);
    }

    fn ring(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let wakes = std::mem::take(&mut state.wakes);
        let waiting = state.waiting > 0;
        drop(state);
        if waiting {
            self.bell.notify_all();
        }
        wake_on(&self.lanes, wakes.into_iter().map(|(_, wake)| wake).collect());
    }

    /// Waits for a snapshot with a higher generation. `interrupted` is asked about twenty times a second.
    pub fn wait(&self, generation: u64, deadline: Deadline, interrupted: &mut dyn FnMut() -> bool) -> Waited {
        let mut state = self.state.lock();
        loop {
            if state.generation > generation {
                drop(state);
                return Waited::Changed(self.load());
            }
            if state.ended {
                return Waited::Ended;
            }
            if deadline.passed() {
                return Waited::TimedOut;
            }
            state.waiting += 1;
            state = self.bell.wait_until(state, deadline.slice());
            state.waiting -= 1;
            // Signal handlers are user code: they run with nothing locked.
            drop(state);
            if interrupted() {
                return Waited::Interrupted;
            }
            state = self.state.lock();
        }
    }

    /// Has `wake` called once there is a snapshot with a higher generation; returns a ticket to take it back with.
    ///
    /// # Errors
    /// Gives `wake` back when there is one already, when the loop has ended, or when too many wait: then it is for the
    /// caller to look.
    pub fn on_change(&self, generation: u64, wake: Wake) -> Result<u64, Wake> {
        let mut state = self.state.lock();
        if state.generation > generation || state.ended || state.wakes.len() >= WAITERS_MAX {
            return Err(wake);
        }
        state.tickets += 1;
        let ticket = state.tickets;
        state.wakes.push((ticket, wake));
        Ok(ticket)
    }

    /// Takes a wake back; `false` when it was called, or is about to be.
    pub fn forget(&self, ticket: u64) -> bool {
        let mut state = self.state.lock();
        let place = state.wakes.iter().position(|(known, _)| *known == ticket);
        let taken = place.map(|place| state.wakes.swap_remove(place));
        drop(state);
        taken.is_some()
    }
}
