//! What a node knows of who owns what: records that it keeps, heard of, or is offered.

use std::collections::HashMap;
use std::sync::Arc;

use meshos_core::certificate::Reason;
use meshos_core::finder::Known;
use meshos_core::id::{EntityId, Origin};
use meshos_core::owner::Signal;
use meshos_core::ownership::{Lineage, OwnershipRecord};
use meshos_core::rows::{Table, Write, entity_key};
use meshos_core::store::StoreError;

use super::work::Work;
use super::{Ownership, State};
use crate::ownership_central as central;
use crate::router::Guide;

/// Records of others that are remembered at most.
const HEARD_MAX: usize = 65_536;
/// Lineages of takeovers for this node that wait until it spawns at most.
const OFFERED_MAX: usize = 1024;

/// Hears of each record of another node that was kept here. It is short and never waits.
pub type Recorded = Arc<dyn Fn(&OwnershipRecord) + Send + Sync>;

impl Ownership {
    /// The highest record of the entity with that handle, as far as this node knows.
    #[must_use]
    pub fn record_of(&self, origin: Origin) -> Option<OwnershipRecord> {
        let heard = self.state.lock().heard.get(&origin).copied();
        let listed = self.central.as_ref().and_then(|central| central.owner_of(origin));
        heard.into_iter().chain(listed).max_by_key(OwnershipRecord::epoch)
    }

    /// The lineage of an entity by which this node may act: what its store has, as far as it was kept with the daemon. The
    /// directory's node has records there that name it and were not adopted: those have no certificate beside them.
    ///
    /// # Errors
    /// [`StoreError`]: the store cannot be read.
    pub fn lineage(&self, entity: &EntityId) -> Result<Vec<OwnershipRecord>, StoreError> {
        let store = (self.stores)();
        let mut found = central::lineage(&*store, entity)?;
        while let Some(last) = found.last()
            && last.node() == self.node
            && store
                .get(Table::Certificates, &entity_key(entity, [last.epoch()]))?
                .is_none()
        {
            found.pop();
        }
        Ok(found)
    }

    /// The lineage of an entity under whose last record this node runs it, as it was claimed.
    #[must_use]
    pub fn active_lineage(&self, entity: &EntityId) -> Option<Vec<OwnershipRecord>> {
        let state = self.state.lock();
        let entry = state.owners.get(entity)?;
        let is_whole = entry.owner.active() == entry.lineage.last();
        is_whole.then(|| entry.lineage.clone())
    }

    /// The record under which this node owns an entity, and its epoch, if it may let the entity take events now.
    #[must_use]
    pub fn owned(&self, entity: &EntityId) -> Option<(u64, OwnershipRecord)> {
        let state = self.state.lock();
        let owner = &state.owners.get(entity)?.owner;
        let active = owner.active().filter(|_| owner.may_process(self.began.elapsed()))?;
        Some((active.epoch(), *active))
    }

    /// Takes in a record whose signatures were checked. What this node holds under a lower one is fenced at once. It is
    /// stopped too, unless this node gave it away itself, and so stops it itself.
    pub fn heard(&self, record: &OwnershipRecord) {
        let entity = record.entity();
        let mut work = Work::default();
        let mut state = self.state.lock();
        if record.reason() == Reason::Move
            && record.source == self.node
            && let Some(entry) = state.owners.get_mut(&entity)
        {
            entry.fenced = None;
        }
        self.step(&mut state, &entity, Signal::Heard(*record), &mut work);
        hear(&mut state.heard, *record);
        drop(state);
        self.carry_out_now(work);
    }

    /// Has this told of records of other nodes that are kept here; the first counts.
    pub fn tell_of_records(&self, recorded: Recorded) {
        let _ = self.recorded.set(recorded);
    }

    /// Knows a record that the store has, so that who asks for its entity is told where it is.
    pub fn learn(&self, record: &OwnershipRecord) {
        hear(&mut self.state.lock().heard, *record);
    }

    /// The lineage of a takeover that gives an entity to this node, and was not taken up yet.
    #[must_use]
    pub fn offered(&self, entity: &EntityId) -> Option<Vec<OwnershipRecord>> {
        self.state.lock().offered.get(entity).cloned()
    }

    /// Makes the rows of a record durable that is kept beside no journal, waiting on this thread.
    ///
    /// # Errors
    /// [`StoreError`]: they are not kept.
    pub fn keep(&self, records: &[OwnershipRecord]) -> Result<(), StoreError> {
        central::written(&self.stores, records.iter().flat_map(rows).collect())
    }
}

impl Guide for Ownership {
    /// Who has it now that it was taken over or moved. Where it was spawned its node says itself that it is there.
    fn owner_of(&self, origin: Origin) -> Option<Known> {
        let record = self.record_of(origin)?;
        let is_handed_on = matches!(record.reason(), Reason::Move | Reason::Takeover);
        (is_handed_on && record.node() != self.node).then(|| Known {
            entity: record.entity(),
            node: record.node(),
            epoch: record.epoch(),
        })
    }

    fn handed_on(&self, origin: Origin) -> Option<Known> {
        let record = self.record_of(origin)?;
        let is_given = record.reason() == Reason::Move && record.source == self.node && record.node() != self.node;
        is_given.then(|| Known {
            entity: record.entity(),
            node: record.node(),
            epoch: record.epoch(),
        })
    }
}

/// The rows by which a node has a record: it, and the certificate that says that it was kept with the daemon.
pub(crate) fn rows(record: &OwnershipRecord) -> [Write; 2] {
    let key = entity_key(&record.entity(), [record.epoch()]);
    let certificate = Write::put(Table::Certificates, key, record.certificate.to_bytes());
    [record.write(), certificate]
}

pub(super) fn hear(heard: &mut HashMap<Origin, OwnershipRecord>, record: OwnershipRecord) {
    let origin = record.entity().origin();
    match heard.get_mut(&origin) {
        Some(known) if known.epoch() > record.epoch() => {}
        Some(known) => *known = record,
        None => {
            if heard.len() >= HEARD_MAX
                && let Some(other) = heard.keys().next().copied()
            {
                heard.remove(&other);
            }
            heard.insert(origin, record);
        }
    }
}

pub(super) fn offer(state: &mut State, lineage: &Lineage) {
    let entity = lineage.highest().entity();
    if state.offered.len() < OFFERED_MAX || state.offered.contains_key(&entity) {
        state.offered.insert(entity, lineage.records().to_vec());
    }
}
