//! What is kept of daemons that were stopped so that they can be started again.
//!
//! Invariants
//! * A rest is kept together with what the archive remembers of the same daemon, under one lock, and leads to exactly
//!   the position remembered there. One that does not any more is not started from.
//! * At most [`DORMANT_MAX`] are kept; the longest stopped are dropped first, counted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use meshos_core::config::DaemonHostConfig;
use meshos_core::host::Position;
use meshos_core::id::Origin;

use crate::daemon::Daemon;
use crate::inside::{Inside, Snapshot};
use crate::letters::Letters;
use crate::slot::SharedKey;

/// Daemons kept.
pub const DORMANT_MAX: usize = 65_536;

/// What starts a stopped daemon again.
pub struct Rest<D: Daemon> {
    /// Its key.
    pub key: SharedKey,
    /// Whose chain it is.
    pub origin: Origin,
    /// Makes another instance.
    pub daemon: Arc<D>,
    /// Its options.
    pub config: DaemonHostConfig,
    /// The newest snapshot.
    pub newest: Option<Arc<Snapshot<D>>>,
    /// The inputs since.
    pub log: Vec<D::Event>,
    /// Events that were passed over.
    pub letters: Option<Box<Letters<D>>>,
    /// Whether the two lead to the position.
    pub is_complete: bool,
    /// Whether user code of the stopped instance may still run.
    pub is_running: bool,
    /// How far it had come.
    pub position: Position,
}

impl<D: Daemon> Rest<D> {
    /// Takes what is needed out of a closed slot.
    pub fn of(key: SharedKey, inside: &mut Inside<D>) -> Self {
        Self {
            key,
            origin: inside.host.origin(),
            daemon: Arc::clone(&inside.daemon),
            config: *inside.host.config(),
            newest: inside.newest.take(),
            log: std::mem::take(&mut inside.log),
            letters: inside.letters.take(),
            is_complete: inside.is_complete,
            is_running: inside.is_running,
            position: inside.host.position(),
        }
    }
}

/// The rests of the daemons that were stopped last.
pub struct Dormant<D: Daemon> {
    rests: BTreeMap<Origin, (u64, Arc<Rest<D>>)>,
    /// Who was stopped when, oldest first; an entry whose number is not the daemon's newest is void.
    order: VecDeque<(u64, Origin)>,
    stopped: u64,
    dropped: u64,
}

impl<D: Daemon> Default for Dormant<D> {
    fn default() -> Self {
        Self {
            rests: BTreeMap::new(),
            order: VecDeque::new(),
            stopped: 0,
            dropped: 0,
        }
    }
}

impl<D: Daemon> Dormant<D> {
    /// Keeps a rest; returns those it takes the place of, to be ended without a lock.
    #[must_use]
    pub fn put(&mut self, rest: Rest<D>) -> Vec<Arc<Rest<D>>> {
        self.stopped += 1;
        let origin = rest.origin;
        self.order.push_back((self.stopped, origin));
        let mut ended = Vec::new();
        if let Some((_, old)) = self.rests.insert(origin, (self.stopped, Arc::new(rest))) {
            ended.push(old);
        }
        while self.rests.len() > DORMANT_MAX {
            let Some((number, oldest)) = self.order.pop_front() else {
                break;
            };
            if self.rests.get(&oldest).is_some_and(|(newest, _)| *newest == number) {
                self.dropped += 1;
                ended.extend(self.remove(oldest));
            }
        }
        self.tidy();
        ended
    }

    /// What starts a daemon again, if it is kept.
    #[must_use]
    pub fn get(&self, origin: Origin) -> Option<Arc<Rest<D>>> {
        self.rests.get(&origin).map(|(_, rest)| Arc::clone(rest))
    }

    /// Drops what is kept of a daemon; returns it, to be ended without a lock.
    #[must_use]
    pub fn remove(&mut self, origin: Origin) -> Option<Arc<Rest<D>>> {
        let (_, rest) = self.rests.remove(&origin)?;
        self.tidy();
        Some(rest)
    }

    /// Drops this very rest, if it is still there.
    #[must_use]
    pub fn remove_exactly(&mut self, rest: &Arc<Rest<D>>) -> Option<Arc<Rest<D>>> {
        let (_, kept) = self.rests.get(&rest.origin)?;
        if !Arc::ptr_eq(kept, rest) {
            return None;
        }
        self.remove(rest.origin)
    }

    /// Drops everything; returns it, to be ended without a lock.
    #[must_use]
    pub fn clear(&mut self) -> Vec<Arc<Rest<D>>> {
        self.order.clear();
        std::mem::take(&mut self.rests)
            .into_values()
            .map(|(_, rest)| rest)
            .collect()
    }

    /// Everything that is kept.
    pub fn iter(&self) -> impl Iterator<Item = &Rest<D>> {
        self.rests.values().map(|(_, rest)| &**rest)
    }

    /// How many were dropped because there were too many.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn tidy(&mut self) {
        if self.order.len() > 2 * self.rests.len() + 64 {
            let rests = &self.rests;
            self.order
                .retain(|(number, origin)| rests.get(origin).is_some_and(|(newest, _)| newest == number));
        }
    }
}
