//! The daemons of one node, by handle.
//!
//! Invariants
//! * The map's lock is held to look up, insert or remove, never while user code runs or ends.
//! * Events are numbered in the order of the changes they tell: `Unregistered` of the old stands before `Registered`
//!   of the new.
//! * A call waits for the daemon it names, never for another.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::{Mutex, RwLock};
use meshos_core::control::DaemonControl;
use meshos_core::event::{self, DaemonHealth, DaemonLifecycleEvent, DaemonLifecycleSignal};
use meshos_core::id::Origin;
use meshos_core::signal::{DaemonRef, RosterEntry};

use crate::archive::SharedArchive;
use crate::clock;
use crate::daemon::Daemon;
use crate::events::{Events, Observer, ObserverStats, Watch};
use crate::lane::Lanes;
use crate::outgoing::Exits;
use crate::slot::Slot;

struct Entry<D: Daemon> {
    slot: Arc<Slot<D>>,
    /// Number of its `Registered` event.
    number: u64,
}

/// Handles are digests already: hashing them again would cost more than looking them up.
#[derive(Debug, Clone, Copy, Default)]
struct OriginHasher(u64);

impl Hasher for OriginHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only `write_u64` is called for an `Origin`; this keeps the trait's promise for anything else.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

type Map<D> = HashMap<Origin, Entry<D>, BuildHasherDefault<OriginHasher>>;

/// The daemons of one node.
pub struct Registry<D: Daemon> {
    map: RwLock<Map<D>>,
    events: Arc<Events>,
    archive: Option<SharedArchive<D>>,
    /// Whom somebody starts again, whether they are here or not.
    supervised: Mutex<BTreeSet<Origin>>,
    polls: AtomicU64,
}

/// A daemon with that handle is there; it was left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("daemon {0} is registered already")]
pub struct Occupied(pub Origin);

impl<D: Daemon> Registry<D> {
    /// Makes an empty registry whose observers run on `lanes`. What is left of its daemons goes to `archive`.
    #[must_use]
    pub fn new(lanes: Lanes, archive: Option<SharedArchive<D>>) -> Self {
        Self {
            map: RwLock::default(),
            events: Arc::new(Events::new(lanes)),
            archive,
            supervised: Mutex::default(),
            polls: AtomicU64::new(0),
        }
    }

    /// Where what its daemons emit leaves the node.
    #[must_use]
    pub fn exits(&self) -> &Arc<Exits> {
        self.events.exits()
    }

    /// Adds a daemon.
    ///
    /// # Errors
    /// [`Occupied`]: one with that handle is there.
    pub fn register(&self, slot: Arc<Slot<D>>) -> Result<(), Occupied> {
        let mut map = self.map.write();
        if map.contains_key(&slot.origin()) || self.would_start_over(&slot) {
            return Err(Occupied(slot.origin()));
        }
        self.insert(&mut map, slot);
        Ok(())
    }

    /// Puts a daemon in the place of the one with its handle, or adds it. The old one is stopped and returned.
    pub fn replace(&self, slot: Arc<Slot<D>>) -> Option<Arc<Slot<D>>> {
        let mut map = self.map.write();
        let old = map.remove(&slot.origin()).map(|entry| entry.slot);
        if let Some(old) = &old {
            self.expect_remains(old);
            old.emit(DaemonLifecycleSignal::Unregistered);
        }
        self.insert(&mut map, slot);
        drop(map);
        if let Some(old) = &old {
            old.stop();
        }
        old
    }

    fn insert(&self, map: &mut Map<D>, slot: Arc<Slot<D>>) {
        slot.tell(Arc::clone(&self.events));
        if let Some(archive) = &self.archive {
            slot.bequeath(Arc::clone(archive));
        }
        if self.supervised.lock().contains(&slot.origin()) {
            slot.mark_supervised(true);
        }
        let number = slot
            .emit(DaemonLifecycleSignal::Registered)
            .expect("what is in a registry has its events");
        map.insert(slot.origin(), Entry { slot, number });
    }

    /// Removes a daemon and stops it; does not wait for who is inside.
    pub fn unregister(&self, origin: Origin) -> Option<Arc<Slot<D>>> {
        let removed = self.remove(origin, None)?;
        removed.stop();
        Some(removed)
    }

    /// Removes this very daemon, without stopping it; `false` when it is not there any more.
    pub fn remove_exactly(&self, slot: &Arc<Slot<D>>) -> bool {
        self.remove(slot.origin(), Some(slot)).is_some()
    }

    fn remove(&self, origin: Origin, only: Option<&Arc<Slot<D>>>) -> Option<Arc<Slot<D>>> {
        let mut map = self.map.write();
        let found = map.get(&origin)?;
        if only.is_some_and(|only| !Arc::ptr_eq(only, &found.slot)) {
            return None;
        }
        let removed = map.remove(&origin)?.slot;
        self.expect_remains(&removed);
        removed.emit(DaemonLifecycleSignal::Unregistered);
        Some(removed)
    }

    /// Whether a host begins before the position at which this node knows its identity to have been.
    fn would_start_over(&self, slot: &Slot<D>) -> bool {
        let Some(archive) = &self.archive else { return false };
        let archive = archive.lock();
        let known = archive.get(&slot.entity()).map(|remains| remains.host.position());
        archive.is_leaving(&slot.entity()) || known.is_some_and(|known| slot.position().reaches(&known).is_err())
    }

    /// Under the map's lock, so that no spawn falls between the removal and the remains.
    fn expect_remains(&self, slot: &Slot<D>) {
        if let Some(archive) = &self.archive {
            archive.lock().expect(slot.entity());
        }
    }

    /// Finds a daemon.
    #[must_use]
    pub fn get(&self, origin: Origin) -> Option<Arc<Slot<D>>> {
        self.map.read().get(&origin).map(|entry| Arc::clone(&entry.slot))
    }

    /// All daemons, in the order of their handles.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Slot<D>>> {
        let mut slots: Vec<_> = self.map.read().values().map(|entry| Arc::clone(&entry.slot)).collect();
        slots.sort_unstable_by_key(|slot| slot.origin());
        slots
    }

    /// Shows each daemon to `look`, as far as no lock is held.
    pub fn peek(&self, mut look: impl FnMut(&Slot<D>)) {
        if let Some(map) = self.map.try_read() {
            for entry in map.values() {
                look(&entry.slot);
            }
        }
    }

    /// How many daemons there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.map.read().len()
    }

    /// Adds an observer, which first sees `Registered` of each daemon that is there; returns its id.
    pub fn add_observer(&self, observer: Box<dyn Observer>) -> u64 {
        // Under the map's lock, so that nothing happens between the past it is told and the future it sees.
        let map = self.map.read();
        let mut past: Vec<_> = map
            .values()
            .map(|entry| (entry.number, Arc::clone(&entry.slot)))
            .collect();
        past.sort_unstable_by_key(|(number, _)| *number);
        let at = clock::unix_ms();
        let told = past.into_iter().map(|(number, slot)| DaemonLifecycleEvent {
            origin: slot.origin(),
            name: slot.name().to_string(),
            signal: DaemonLifecycleSignal::Registered,
            at,
            number,
        });
        self.events.add(observer, told)
    }

    /// Removes an observer; `false` when it is not there.
    pub fn remove_observer(&self, id: u64) -> bool {
        self.events.remove(id)
    }

    /// Adds a watch, which sees every event from now on; returns its id.
    pub fn add_watch(&self, watch: Arc<dyn Watch>) -> u64 {
        self.events.add_watch(watch)
    }

    /// Removes a watch; `false` when it is not there.
    pub fn remove_watch(&self, id: u64) -> bool {
        self.events.remove_watch(id)
    }

    /// All daemons in the order of their handles, as the events up to a number tell of them, and that number.
    #[must_use]
    pub fn roster(&self) -> (Vec<RosterEntry>, u64) {
        let (mut daemons, number) = {
            let map = self.map.read();
            self.events.pause(|number| {
                let daemons = map.values().map(|entry| RosterEntry {
                    daemon: DaemonRef {
                        id: entry.slot.origin(),
                        name: Arc::clone(entry.slot.name()),
                    },
                    down: entry.slot.is_down(),
                });
                (daemons.collect::<Vec<_>>(), number)
            })
        };
        daemons.sort_unstable_by_key(|entry| entry.daemon.id);
        (daemons, number)
    }

    /// Counters of the observers.
    #[must_use]
    pub fn observer_stats(&self) -> ObserverStats {
        self.events.stats()
    }

    /// Times that health and load were asked for.
    #[must_use]
    pub fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }

    /// Says whether somebody starts a daemon again when it is down ([`Slot::supervise`]). It holds for each daemon of
    /// that handle, also for one that comes later. Returns whether one is here.
    pub fn supervise(&self, origin: Origin, supervised: bool) -> bool {
        let slot = {
            // Under the map's lock, so that no daemon comes in between unseen.
            let map = self.map.read();
            let mut known = self.supervised.lock();
            if supervised {
                known.insert(origin);
            } else {
                known.remove(&origin);
            }
            map.get(&origin).map(|entry| Arc::clone(&entry.slot))
        };
        slot.is_some_and(|slot| slot.supervise(supervised))
    }

    /// Gives every daemon a control as soon as nobody is inside, on a lane; returns how many will get it.
    pub fn broadcast(&self, lanes: &Lanes, control: DaemonControl) -> usize {
        let slots = self.list();
        slots.iter().filter(|slot| slot.control_soon(lanes, control)).count()
    }

    /// Asks each daemon that reports for its health and load, and tells what changed. One that is busy is asked the
    /// next time.
    pub fn poll(&self) {
        self.polls.fetch_add(1, Ordering::Relaxed);
        let reporting: Vec<_> = {
            let map = self.map.read();
            map.values()
                .filter(|entry| entry.slot.reports())
                .map(|entry| Arc::clone(&entry.slot))
                .collect()
        };
        if !reporting.is_empty() {
            D::batch(|| {
                for slot in reporting {
                    Self::poll_one(&slot);
                }
            });
        }
    }

    fn poll_one(slot: &Arc<Slot<D>>) {
        let Ok(mut entered) = slot.try_enter() else { return };
        let (health, saturation) = match entered.daemon.report() {
            Ok(report) => report,
            Err(error) => {
                entered.host.raised();
                (
                    DaemonHealth::Unhealthy {
                        reason: D::describe(&error),
                    },
                    entered.told.1,
                )
            }
        };
        let (health_news, load_news) = event::changes(&entered.told, &health, saturation);
        if health_news.is_some() {
            entered.told.0 = health;
        }
        if let Some(DaemonLifecycleSignal::SaturationChanged { saturation }) = load_news {
            entered.told.1 = saturation;
        }
        drop(entered);
        for signal in [health_news, load_news].into_iter().flatten() {
            slot.emit(signal);
        }
    }
}
