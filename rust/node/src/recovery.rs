//! Recovery handlers: user code that places the lost slots of groups again, run once a tick.
//!
//! Invariants
//! * Handlers stay in the list while they run, so the count is never short.
//! * A handler runs once at a time; a second run skips those that are running.
//! * A handler that was registered during a run begins with the next one.
//! * No lock is held while a handler runs or ends.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sync::Mutex;
use meshos_core::status::RecoveryStatus;

use crate::callback::{CallFailed, isolated};
use crate::clock;

/// Something that places lost slots again.
pub trait RecoveryHandler: Any + Send + Sync {
    /// Whether [`RecoveryHandler::recover`] would have anything to do; cheap.
    ///
    /// # Errors
    /// What it raised, which is a strike.
    fn has_work(&self) -> Result<bool, CallFailed> {
        Ok(true)
    }

    /// Places slots again, and returns which.
    ///
    /// # Errors
    /// What it raised, which is a strike.
    fn recover(&self) -> Result<Vec<u8>, CallFailed>;

    /// Its name, unless it is registered under another.
    fn name(&self) -> &str {
        "recovery"
    }

    /// Whether its last call raised because the thread that it ran on was interrupted. That is no strike, and
    /// [`RecoveryRegistry::try_run_all`] ends.
    fn was_interrupted(&self) -> bool {
        false
    }

    /// A number by which its owner finds it again.
    fn identity(&self) -> usize {
        0
    }
}

/// A handler with that name is there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a recovery handler is called {name} already")]
pub struct NameTaken {
    /// The name.
    pub name: Arc<str>,
}

/// The recovery handlers of a runtime; a clone is the same registry.
#[derive(Clone, Default)]
pub struct RecoveryRegistry {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    changes: AtomicU64,
}

#[derive(Default)]
struct Inner {
    /// In the order of registration, which is the order of their numbers.
    entries: Vec<Entry>,
    registered: u64,
    /// Number of the handler that a bounded run began last.
    begun: u64,
}

struct Entry {
    number: u64,
    handler: Arc<dyn RecoveryHandler>,
    strikes_max: u32,
    running: bool,
    status: RecoveryStatus,
}

/// One run of one handler.
struct Ran {
    name: Arc<str>,
    outcome: Result<Vec<u8>, CallFailed>,
    evicted: bool,
    interrupted: bool,
}

impl RecoveryRegistry {
    /// One without handlers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a handler and returns how many there are. It is evicted after `strikes` raises in a row, at least one.
    /// Without a name it gets its own, numbered when that is in use.
    ///
    /// # Errors
    /// [`NameTaken`] for a name in use.
    pub fn register(
        &self,
        handler: Arc<dyn RecoveryHandler>,
        name: Option<&str>,
        strikes: u32,
    ) -> Result<usize, NameTaken> {
        let mut inner = self.shared.inner.lock();
        let name = match name {
            Some(name) if inner.is_taken(name) => return Err(NameTaken { name: Arc::from(name) }),
            Some(name) => Arc::from(name),
            None => inner.free_name(handler.name()),
        };
        inner.registered += 1;
        let number = inner.registered;
        inner.entries.push(Entry {
            number,
            handler,
            strikes_max: strikes.max(1),
            running: false,
            status: RecoveryStatus {
                name,
                runs: 0,
                recovered: 0,
                strikes: 0,
                last_error: None,
                last_run_at: None,
                last_took: Duration::ZERO,
            },
        });
        let count = inner.entries.len();
        drop(inner);
        self.changed();
        Ok(count)
    }

    /// Takes the handler with that name out; whether it was there. A run of it that is under way ends as usual.
    pub fn unregister(&self, name: &str) -> bool {
        self.take_out(|entry| &*entry.status.name == name)
    }

    /// Takes the oldest handler with that identity out; whether it was there.
    pub fn unregister_identity(&self, identity: usize) -> bool {
        self.take_out(|entry| entry.handler.identity() == identity)
    }

    /// Takes all handlers out.
    pub fn clear(&self) {
        while self.take_out(|_| true) {}
    }

    fn take_out(&self, is_it: impl Fn(&Entry) -> bool) -> bool {
        let gone = {
            let mut inner = self.shared.inner.lock();
            let place = inner.entries.iter().position(is_it);
            place.map(|place| inner.entries.remove(place))
        };
        let was_there = gone.is_some();
        drop(gone);
        if was_there {
            self.changed();
        }
        was_there
    }

    fn changed(&self) {
        self.shared.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// How many handlers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.inner.lock().entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How each is doing, in the order of registration.
    #[must_use]
    pub fn status(&self) -> Vec<RecoveryStatus> {
        let inner = self.shared.inner.lock();
        inner.entries.iter().map(|entry| entry.status.clone()).collect()
    }

    /// Shows each handler to `look`, which must neither call user code nor this registry; shows none when another
    /// thread holds the lock.
    pub fn peek(&self, mut look: impl FnMut(&dyn RecoveryHandler)) {
        if let Some(inner) = self.shared.inner.try_lock() {
            inner.entries.iter().for_each(|entry| look(&*entry.handler));
        }
    }

    /// The handlers, in the order of registration.
    #[must_use]
    pub fn handlers(&self) -> Vec<Arc<dyn RecoveryHandler>> {
        let inner = self.shared.inner.lock();
        inner.entries.iter().map(|entry| Arc::clone(&entry.handler)).collect()
    }

    /// Rises when a handler came, went, raised or placed a slot.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.shared.changes.load(Ordering::Relaxed)
    }

    /// Runs each handler once on this thread, in the order of registration, and returns the slots they placed.
    pub fn try_run_all(&self) -> Vec<u8> {
        let numbers = self.shared.inner.lock().numbers();
        let mut slots = Vec::new();
        for ran in numbers.into_iter().filter_map(|number| self.run_one(number)) {
            if ran.interrupted {
                break;
            }
            slots.extend(ran.outcome.unwrap_or_default());
        }
        slots
    }

    /// Runs handlers on this thread, each at most once, until the budget is used up; the next run goes on with the
    /// handler after the last. Tells `sink` of each that ran: its name, what came of it, whether it was evicted.
    pub fn run_within(&self, budget: Duration, mut sink: impl FnMut(Arc<str>, Result<Vec<u8>, CallFailed>, bool)) {
        let began = Instant::now();
        let numbers = self.shared.inner.lock().numbers_after_last();
        for number in numbers {
            self.shared.inner.lock().begun = number;
            if let Some(ran) = self.run_one(number) {
                sink(ran.name, ran.outcome, ran.evicted);
            }
            if began.elapsed() >= budget {
                break;
            }
        }
    }

    /// Runs a handler. `None`: it is gone, runs already, or has nothing to do.
    fn run_one(&self, number: u64) -> Option<Ran> {
        let (name, handler) = {
            let mut inner = self.shared.inner.lock();
            let entry = inner.entry(number).filter(|entry| !entry.running)?;
            entry.running = true;
            (Arc::clone(&entry.status.name), Arc::clone(&entry.handler))
        };
        let at = clock::unix_ms();
        let began = Instant::now();
        let outcome = isolated(|| {
            if handler.has_work()? {
                handler.recover().map(Some)
            } else {
                Ok(None)
            }
        });
        let took = began.elapsed();
        let interrupted = outcome.is_err() && handler.was_interrupted();
        let mut inner = self.shared.inner.lock();
        let evicted = inner.entry(number).is_some_and(|entry| {
            entry.running = false;
            if interrupted || matches!(outcome, Ok(None)) {
                return false;
            }
            entry.status.last_run_at = Some(at);
            entry.status.last_took = took;
            entry.count(&outcome)
        });
        let gone = if evicted { inner.remove(number) } else { None };
        drop(inner);
        drop(gone);
        if evicted || !matches!(&outcome, Ok(slots) if slots.as_ref().is_none_or(Vec::is_empty)) {
            self.changed();
        }
        outcome.transpose().map(|outcome| Ran {
            name,
            outcome,
            evicted,
            interrupted,
        })
    }
}

impl Inner {
    fn numbers(&self) -> Vec<u64> {
        self.entries.iter().map(|entry| entry.number).collect()
    }

    /// The numbers, beginning after the handler that was begun last.
    fn numbers_after_last(&self) -> Vec<u64> {
        let mut numbers = self.numbers();
        let first = numbers.partition_point(|number| *number <= self.begun);
        numbers.rotate_left(first);
        numbers
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.number == number)
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let place = self.entries.iter().position(|entry| entry.number == number)?;
        Some(self.entries.remove(place))
    }

    fn is_taken(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| &*entry.status.name == name)
    }

    fn free_name(&self, name: &str) -> Arc<str> {
        let numbered = (2_u64..).map(|number| format!("{name}-{number}"));
        let mut names = std::iter::once(name.to_owned()).chain(numbered);
        let free = names.find(|name| !self.is_taken(name));
        Arc::from(free.expect("there are more numbers than handlers"))
    }
}

impl Entry {
    /// Counts what came of a run; returns whether the handler is to be evicted.
    fn count(&mut self, outcome: &Result<Option<Vec<u8>>, CallFailed>) -> bool {
        match outcome {
            Ok(None) => false,
            Ok(Some(slots)) => {
                self.status.runs += 1;
                self.status.recovered += slots.len() as u64;
                self.status.strikes = 0;
                false
            }
            Err(failed) => {
                self.status.runs += 1;
                self.status.strikes += 1;
                self.status.last_error = Some(Arc::from(failed.reason.as_str()));
                self.status.strikes >= self.strikes_max
            }
        }
    }
}
