//! What a node durably knows of the moves of an entity, and what it makes of its rows when it begins.
//!
//! | rows | what becomes of it |
//! |---|---|
//! | an intent, no record of its move | the move is aborted before anything else is done |
//! | a record of a move away from this node, the highest, not retired | the source goes on telling the target |
//! | the same, and a higher record | retired |
//! | a target's row, no record above the epoch of its order, not aborted | in doubt: the source is asked |
//! | the same, aborted, or with a record above | the row goes |
//! | an order without an outcome | the source is asked |
//!
//! Invariants
//! * A move is committed exactly if a record carries its id, and then for ever. It is aborted if a row says so, or an
//!   intent without a record. Never both: both are written by the source, or told by it.
//! * A move that is decided is remembered until no message of it can be on its way.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::EntityId;
use crate::move_rows::{self, Item, MoveOrder, Outcome, Prepared};
use crate::ownership::{MigrationId, OwnershipRecord};
use crate::rows::Write;
use crate::time::UnixMs;

/// How long a move that was aborted is remembered after the time after which it may not begin: for clocks that differ, and
/// messages that come late.
pub const REMEMBERED: Duration = Duration::from_secs(600);

/// What a node durably knows of the moves of one entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    entity: EntityId,
    highest: Option<OwnershipRecord>,
    committed: BTreeMap<MigrationId, OwnershipRecord>,
    aborted: BTreeMap<MigrationId, UnixMs>,
}

impl Known {
    /// Nothing.
    #[must_use]
    pub const fn nothing(entity: EntityId) -> Self {
        Self {
            entity,
            highest: None,
            committed: BTreeMap::new(),
            aborted: BTreeMap::new(),
        }
    }

    /// Of which entity.
    #[must_use]
    pub const fn entity(&self) -> EntityId {
        self.entity
    }

    /// A record is durable here.
    pub fn learn(&mut self, record: &OwnershipRecord) {
        if record.mid != MigrationId::default() {
            self.committed.insert(record.mid, *record);
        }
        if record.epoch() > self.epoch() {
            self.highest = Some(*record);
        }
    }

    /// It is durable here that a move is aborted.
    pub fn abort(&mut self, mid: MigrationId, until: UnixMs) {
        self.aborted.insert(mid, until);
    }

    /// The highest record.
    #[must_use]
    pub const fn highest(&self) -> Option<&OwnershipRecord> {
        self.highest.as_ref()
    }

    /// Its epoch; 0: there is none.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.highest.map_or(0, |record| record.epoch())
    }

    /// What became of a move; `None`: nothing is known.
    #[must_use]
    pub fn outcome(&self, mid: &MigrationId) -> Option<Outcome> {
        if self.committed.contains_key(mid) {
            Some(Outcome::Committed)
        } else {
            self.aborted.contains_key(mid).then_some(Outcome::Aborted)
        }
    }

    /// The record of a move that is committed.
    #[must_use]
    pub fn committed(&self, mid: &MigrationId) -> Option<&OwnershipRecord> {
        self.committed.get(mid)
    }

    /// Forgets the aborted moves whose time is over; their rows may go.
    pub fn forget(&mut self, wall: UnixMs) -> Vec<Write> {
        let (entity, mut writes) = (self.entity, Vec::new());
        self.aborted.retain(|mid, until| {
            let stays = *until >= wall;
            if !stays {
                writes.push(move_rows::remove_done(&entity, mid));
            }
            stays
        });
        writes
    }
}

/// Until when a move that is aborted is remembered.
#[must_use]
pub fn until(order: &MoveOrder) -> UnixMs {
    order.not_after.plus(REMEMBERED)
}

/// What the roles of a node go on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// What is known.
    pub known: Known,
    /// What has to be durable before anything else is done.
    pub writes: Vec<Write>,
    /// The move away from here that is committed, and whose target has not confirmed it.
    pub unretired: Option<Unretired>,
    /// The move to here that is in doubt.
    pub prepared: Option<Box<Prepared>>,
    /// The orders without an outcome.
    pub ordered: Vec<MoveOrder>,
}

/// A move away from a node that is committed, and whose target has not confirmed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unretired {
    /// Its record.
    pub record: OwnershipRecord,
    /// Its orchestrator, where the row still has it.
    pub orchestrator: Option<EntityId>,
}

/// Decides what becomes of the rows of an entity on a node.
#[must_use]
pub fn recover(
    node: EntityId,
    entity: EntityId,
    records: &[OwnershipRecord],
    items: &[(MigrationId, Item)],
) -> Recovered {
    let mut known = Known::nothing(entity);
    records.iter().for_each(|record| known.learn(record));
    let (mut writes, mut prepared, mut orchestrators) = (Vec::new(), None::<Box<Prepared>>, BTreeMap::new());
    let ended: BTreeMap<_, _> = items
        .iter()
        .filter_map(|(mid, item)| match item {
            Item::Ended(outcome, _) => Some((*mid, *outcome)),
            _ => None,
        })
        .collect();
    let is_retired = |of: &MigrationId| items.iter().any(|(mid, item)| mid == of && *item == Item::Retired);
    let mut ordered = Vec::new();
    for (mid, item) in items {
        match item {
            Item::Done(until) => known.abort(*mid, *until),
            Item::Intent(order) if known.committed(mid).is_none() => {
                known.abort(*mid, until(order));
                writes.push(Item::Done(until(order)).write(&entity, mid));
                writes.push(move_rows::remove_intent(&entity, mid));
            }
            Item::Intent(order) => drop(orchestrators.insert(*mid, order.orchestrator)),
            Item::Ordered(order) if !ended.contains_key(mid) => ordered.push(order.clone()),
            Item::Prepared(_) | Item::Ordered(_) | Item::Retired | Item::Ended(..) => {}
        }
    }
    for (mid, item) in items {
        let Item::Prepared(found) = item else { continue };
        if known.outcome(mid).is_some() || known.epoch() > found.order.epoch {
            writes.push(move_rows::remove_prepared(&entity, mid));
        } else {
            prepared = Some(found.clone());
        }
    }
    let mut unretired = None;
    for (mid, record) in &known.committed {
        if record.source != node || record.node() == node || is_retired(mid) {
            continue;
        }
        if known.highest == Some(*record) {
            unretired = Some(Unretired {
                record: *record,
                orchestrator: orchestrators.get(mid).copied(),
            });
        } else {
            writes.push(Item::Retired.write(&entity, mid));
            writes.push(move_rows::remove_intent(&entity, mid));
        }
    }
    Recovered {
        known,
        writes,
        unretired,
        prepared,
        ordered,
    }
}
