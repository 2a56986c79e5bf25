//! What a node remembers of daemons that stopped: how far they came, and the outputs not yet exported.
//!
//! Invariants
//! * The position of a stopped daemon is remembered as long as the runtime lives, so that none is continued from an
//!   older snapshot unnoticed.
//! * The outputs remembered are bounded in bytes over all daemons; the longest stopped lose theirs first, counted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use meshos_core::checkpoint::Checkpoint;
use meshos_core::host::Host;
use meshos_core::id::{EntityId, Origin};

use crate::sync::Mutex;

use crate::daemon::Daemon;
use crate::dormant::{Dormant, Rest};
use crate::inside::{Inside, Outputs};
use crate::journal::Journal;

/// Payload bytes remembered of all stopped daemons together.
pub const BYTES_MAX: u64 = 64 << 20;
/// Bytes that an output costs beside its payload.
const OUTPUT_COST: u64 = 128;

/// What is left of a daemon.
pub struct Remains<D: Daemon> {
    /// Chain, cursors, counters and lineage.
    pub host: Host,
    /// Outputs for export.
    pub outputs: Outputs<D>,
    /// Checkpoints in the order they were signed.
    pub checkpoints: Vec<Checkpoint>,
    /// Its journal, if it has one.
    pub journal: Option<Box<Journal>>,
    stopped: u64,
}

/// The remains of all daemons that stopped here.
pub struct Archive<D: Daemon> {
    remains: BTreeMap<EntityId, Box<Remains<D>>>,
    /// Who stopped when, oldest first; an entry whose number is not the daemon's newest is void.
    order: VecDeque<(u64, EntityId)>,
    bytes: u64,
    stopped: u64,
    outputs_dropped: u64,
    /// Daemons that were closed while somebody was inside: what is left of them comes when they leave.
    leaving: BTreeSet<EntityId>,
    /// What starts those again that were stopped to be started again.
    pub dormant: Dormant<D>,
}

/// An archive that slots hand their remains to.
pub type SharedArchive<D> = Arc<Mutex<Archive<D>>>;

impl<D: Daemon> Default for Archive<D> {
    fn default() -> Self {
        Self {
            remains: BTreeMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            stopped: 0,
            outputs_dropped: 0,
            leaving: BTreeSet::new(),
            dormant: Dormant::default(),
        }
    }
}

fn cost<D: Daemon>(outputs: &Outputs<D>) -> u64 {
    outputs.bytes + outputs.kept.len() as u64 * OUTPUT_COST
}

impl<D: Daemon> Archive<D> {
    /// Expects the remains of a daemon that was closed.
    pub fn expect(&mut self, entity: EntityId) {
        self.leaving.insert(entity);
    }

    /// Whether a daemon was closed and somebody is still inside.
    #[must_use]
    pub fn is_leaving(&self, entity: &EntityId) -> bool {
        self.leaving.contains(entity)
    }

    /// Whether somebody is still inside a daemon of that handle that was closed. It looks at all of them.
    #[must_use]
    pub fn awaits(&self, origin: Origin) -> bool {
        self.leaving.iter().any(|entity| entity.origin() == origin)
    }

    /// Takes what is left of a daemon out of its slot, to be remembered. One that did nothing leaves nothing.
    pub fn remember(&mut self, inside: &mut Inside<D>) -> Vec<Outputs<D>> {
        self.leaving.remove(&inside.host.entity());
        let position = inside.host.position();
        if position.sequence == 0 && position.processed == 0 && inside.host.lineage().is_empty() {
            return Vec::new();
        }
        let empty = Outputs::after(position.sequence, position.digest);
        self.put(Remains {
            host: inside.host.clone(),
            outputs: std::mem::replace(&mut inside.outputs, empty),
            checkpoints: std::mem::take(&mut inside.checkpoints),
            journal: inside.journal.take(),
            stopped: 0,
        })
    }

    /// Puts remains back; returns the outputs that were dropped for their bytes, to be ended without a lock.
    #[must_use]
    pub fn put(&mut self, mut remains: Remains<D>) -> Vec<Outputs<D>> {
        self.stopped += 1;
        remains.stopped = self.stopped;
        let entity = remains.host.entity();
        if !remains.outputs.kept.is_empty() {
            self.bytes += cost(&remains.outputs);
            self.order.push_back((self.stopped, entity));
        }
        let mut dropped = Vec::new();
        if let Some(old) = self.remains.insert(entity, Box::new(remains)) {
            self.bytes -= cost(&old.outputs);
            dropped.push(old.outputs);
        }
        while self.bytes > BYTES_MAX {
            let Some((number, oldest)) = self.order.pop_front() else {
                break;
            };
            if let Some(remains) = self.remains.get_mut(&oldest)
                && remains.stopped == number
            {
                let position = remains.host.position();
                let empty = Outputs::after(position.sequence, position.digest);
                let outputs = std::mem::replace(&mut remains.outputs, empty);
                self.bytes -= cost(&outputs);
                self.outputs_dropped += outputs.kept.len() as u64;
                dropped.push(outputs);
            }
        }
        dropped
    }

    /// Whether anything is known of a daemon. It looks at all of them.
    #[must_use]
    pub fn knows(&self, origin: Origin) -> bool {
        self.remains.keys().any(|entity| entity.origin() == origin)
    }

    /// What is known of a daemon.
    #[must_use]
    pub fn get(&self, entity: &EntityId) -> Option<&Remains<D>> {
        self.remains.get(entity).map(AsRef::as_ref)
    }

    /// Takes the remains of a daemon out.
    pub fn take(&mut self, entity: &EntityId) -> Option<Remains<D>> {
        let remains = self.remains.remove(entity)?;
        self.bytes -= cost(&remains.outputs);
        if self.order.len() > 2 * self.remains.len() + 64 {
            let alive = &self.remains;
            self.order
                .retain(|(number, entity)| alive.get(entity).is_some_and(|kept| kept.stopped == *number));
        }
        Some(*remains)
    }

    /// Forgets a daemon that another node has now; returns what was left of it, to be ended without a lock.
    #[must_use]
    pub fn forget(&mut self, entity: &EntityId) -> (Option<Remains<D>>, Option<Arc<Rest<D>>>) {
        self.leaving.remove(entity);
        (self.take(entity), self.dormant.remove(entity.origin()))
    }

    /// Outputs dropped for their bytes so far.
    #[must_use]
    pub fn outputs_dropped(&self) -> u64 {
        self.outputs_dropped
    }
}
