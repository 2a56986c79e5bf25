//! Probes: user code that samples other nodes, asked once a tick.
//!
//! Invariants
//! * A probe is asked once at a time by each sampler; a slow one is skipped.
//! * After a sampler told that a probe was removed, nothing that it said comes any more.
//! * No lock is held while a probe runs or ends.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sync::Mutex;
use meshos_core::peer::Samples;
use meshos_core::status::Part;

use crate::callback::{CallFailed, Callback, Callbacks};
use crate::lane::{Job, Lanes};

/// What a probe samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Round trips.
    Locality,
    /// Health.
    Health,
    /// What nodes have.
    Inventory,
}

impl ProbeKind {
    /// The kind of some samples.
    #[must_use]
    pub const fn of(samples: &Samples) -> Self {
        match samples {
            Samples::Locality(_) => Self::Locality,
            Samples::Health(_) => Self::Health,
            Samples::Inventory(_) => Self::Inventory,
        }
    }
}

/// Something that samples other nodes.
pub trait Probe: Any + Send + Sync {
    /// Samples, on a lane; may block.
    ///
    /// # Errors
    /// What it raised: there is no sample this time.
    fn sample(&self) -> Result<Samples, CallFailed>;

    /// What it samples.
    fn kind(&self) -> ProbeKind;

    /// Its name, for people.
    fn name(&self) -> &str;
}

/// A probe in a registry.
#[derive(Clone)]
pub struct Installed {
    /// Its number, which no other probe of the process has.
    pub number: u64,
    /// The probe.
    pub probe: Arc<dyn Probe>,
}

/// How many probes there are of each kind, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProbeCounts {
    /// Of round trips.
    pub locality: usize,
    /// Of health.
    pub health: usize,
    /// Of inventories.
    pub inventory: usize,
}

/// Probes, possibly of several runtimes; a clone is the same registry.
#[derive(Clone, Default)]
pub struct ProbeRegistry {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    list: Mutex<Vec<Installed>>,
    changes: AtomicU64,
}

static NUMBERS: AtomicU64 = AtomicU64::new(1);

impl ProbeRegistry {
    /// One without probes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a probe and returns its number. It is asked from the next tick on.
    pub fn add(&self, probe: Arc<dyn Probe>) -> u64 {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        self.shared.list.lock().push(Installed { number, probe });
        self.changed();
        number
    }

    /// Takes a probe out; whether it was there.
    pub fn remove(&self, number: u64) -> bool {
        !self.take_out(|installed| installed.number == number).is_empty()
    }

    /// Takes all probes of a kind out; how many those were.
    pub fn clear(&self, kind: ProbeKind) -> usize {
        self.take_out(|installed| installed.probe.kind() == kind).len()
    }

    /// Takes probes out under the lock; the caller drops them without it.
    fn take_out(&self, goes: impl Fn(&Installed) -> bool) -> Vec<Installed> {
        let gone: Vec<_> = {
            let mut list = self.shared.list.lock();
            list.extract_if(.., |installed| goes(installed)).collect()
        };
        if !gone.is_empty() {
            self.changed();
        }
        gone
    }

    fn changed(&self) {
        self.shared.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// The probes, in the order in which they were added.
    #[must_use]
    pub fn list(&self) -> Vec<Installed> {
        self.shared.list.lock().clone()
    }

    /// Shows each probe to `look`, which must neither call user code nor this registry; shows none when another
    /// thread holds the lock.
    pub fn peek(&self, look: impl FnMut(&Installed)) {
        if let Some(list) = self.shared.list.try_lock() {
            list.iter().for_each(look);
        }
    }

    /// How many there are of each kind.
    #[must_use]
    pub fn counts(&self) -> ProbeCounts {
        let mut counts = ProbeCounts::default();
        for installed in self.shared.list.lock().iter() {
            match installed.probe.kind() {
                ProbeKind::Locality => counts.locality += 1,
                ProbeKind::Health => counts.health += 1,
                ProbeKind::Inventory => counts.inventory += 1,
            }
        }
        counts
    }

    /// Rises when a probe came or went.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.shared.changes.load(Ordering::Relaxed)
    }
}

/// What a sampler learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sampled {
    /// A probe answered.
    Samples {
        /// Which, by its number.
        probe: u64,
        /// What it said.
        samples: Samples,
    },
    /// A probe raised.
    Failed {
        /// Which, by its number.
        probe: u64,
        /// Its name among the callbacks.
        name: Arc<str>,
        /// What it raised.
        error: CallFailed,
    },
    /// A probe was taken out.
    Removed {
        /// Which, by its number.
        probe: u64,
    },
}

/// Where a sampler puts what it learned. It is called with a lock held, and must not call user code.
pub type SampleSink = Arc<dyn Fn(Sampled) + Send + Sync>;

/// Asks the probes of a registry for one runtime.
pub struct Sampler {
    registry: ProbeRegistry,
    callbacks: Arc<Callbacks>,
    known: Mutex<BTreeMap<u64, Arc<Asked>>>,
}

/// A probe as one sampler knows it.
struct Asked {
    number: u64,
    callback: Arc<Callback>,
    busy: AtomicBool,
    /// Held while its answer is put into the sink.
    removed: Mutex<bool>,
}

/// One question to one probe.
struct Question {
    asked: Arc<Asked>,
    probe: Arc<dyn Probe>,
    budget: Duration,
    sink: SampleSink,
}

impl Sampler {
    /// Asks the probes of `registry`, and counts them among `callbacks`.
    #[must_use]
    pub fn new(registry: ProbeRegistry, callbacks: Arc<Callbacks>) -> Self {
        Self {
            registry,
            callbacks,
            known: Mutex::default(),
        }
    }

    /// The registry.
    #[must_use]
    pub const fn registry(&self) -> &ProbeRegistry {
        &self.registry
    }

    /// Asks every probe that is not still being asked, each on a lane. Does not wait.
    pub fn poll(&self, lanes: &Lanes, budget: Duration, sink: &SampleSink) {
        let list = self.registry.list();
        let now = Instant::now();
        for gone in self.forget(&list) {
            self.callbacks.remove(&gone.callback);
            let mut removed = gone.removed.lock();
            *removed = true;
            sink(Sampled::Removed { probe: gone.number });
        }
        for installed in list {
            let asked = self.know(&installed);
            if asked.busy.swap(true, Ordering::AcqRel) {
                asked.callback.mark_late(now, budget);
                continue;
            }
            // A job that is refused is dropped, and with it the mark that its probe is busy.
            lanes.submit(Arc::new(Question {
                asked,
                probe: installed.probe,
                budget,
                sink: Arc::clone(sink),
            }));
        }
    }

    /// Takes out what is not in the registry any more.
    fn forget(&self, list: &[Installed]) -> Vec<Arc<Asked>> {
        let mut known = self.known.lock();
        let is_gone = |number: &u64| list.iter().all(|installed| installed.number != *number);
        let gone: Vec<u64> = known.keys().copied().filter(is_gone).collect();
        gone.iter().filter_map(|number| known.remove(number)).collect()
    }

    fn know(&self, installed: &Installed) -> Arc<Asked> {
        let mut known = self.known.lock();
        let asked = known.entry(installed.number).or_insert_with(|| {
            Arc::new(Asked {
                number: installed.number,
                callback: self.callbacks.add(installed.probe.name(), Part::Probe),
                busy: AtomicBool::new(false),
                removed: Mutex::new(false),
            })
        });
        Arc::clone(asked)
    }
}

impl Job for Question {
    fn run(self: Arc<Self>) {
        let asked = &self.asked;
        let outcome = asked.callback.run(Instant::now(), self.budget, || {
            let samples = self.probe.sample()?;
            if ProbeKind::of(&samples) == self.probe.kind() {
                Ok(samples)
            } else {
                Err(CallFailed::new("gave samples of another kind"))
            }
        });
        let probe = asked.number;
        let sampled = match outcome {
            None => return,
            Some(Ok(samples)) => Sampled::Samples { probe, samples },
            Some(Err(error)) => Sampled::Failed {
                probe,
                name: Arc::clone(asked.callback.name()),
                error,
            },
        };
        let removed = asked.removed.lock();
        if !*removed {
            (self.sink)(sampled);
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.asked.busy.store(false, Ordering::Release);
    }
}
