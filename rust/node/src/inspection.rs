//! What a store has of each daemon, for people to look at. Nothing is restored, and no user code runs.

use meshos_core::codec::DecodeError;
use meshos_core::id::EntityId;
use meshos_core::journal::{Mark, SnapshotRow, Steps};
use meshos_core::rows::{KeyRange, Table, of_entity_key};
use meshos_core::store::{Store, StoreError};
use meshos_core::stored::StoredDaemon;

use crate::resumption::each;

/// What a store has of one daemon.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which.
    pub entity: EntityId,
    /// What it is, or what is wrong with the row that says so.
    pub stored: Result<StoredDaemon, DecodeError>,
    /// Newest term of ownership.
    pub epoch: u64,
    /// Where its journal and its chain end, as far as they can be read.
    pub mark: Mark,
    /// Steps after the newest snapshot.
    pub to_replay: u64,
    /// Snapshots, and their bytes.
    pub snapshots: u64,
    /// Bytes of its snapshots.
    pub snapshot_bytes: u64,
    /// Bytes of its steps.
    pub steps_bytes: u64,
    /// Bytes of its outputs.
    pub outputs_bytes: u64,
    /// Events that it passed over.
    pub dead_letters: u64,
}

/// Rows of a table.
///
/// # Errors
/// [`StoreError`]: the store cannot be read.
pub fn count(store: &dyn Store, table: Table) -> Result<u64, StoreError> {
    let mut count = 0;
    each(store, table, KeyRange::all(), |_, _| count += 1)?;
    Ok(count)
}

/// Looks at every daemon, ascending by entity.
///
/// # Errors
/// [`StoreError`]: the store cannot be read.
pub fn daemons(store: &dyn Store) -> Result<Vec<Seen>, StoreError> {
    let mut found = Vec::new();
    each(store, Table::Daemons, KeyRange::all(), |key, value| {
        if let Some((entity, [])) = of_entity_key::<0>(key) {
            found.push((entity, StoredDaemon::decode(value)));
        }
    })?;
    let look = |(entity, stored)| daemon(store, entity, stored);
    found.into_iter().map(look).collect()
}

fn daemon(store: &dyn Store, entity: EntityId, stored: Result<StoredDaemon, DecodeError>) -> Result<Seen, StoreError> {
    let mut seen = Seen {
        entity,
        stored,
        epoch: 1,
        mark: Mark::start(&entity, 0, meshos_core::digest::Digest::ZERO),
        to_replay: 0,
        snapshots: 0,
        snapshot_bytes: 0,
        steps_bytes: 0,
        outputs_bytes: 0,
        dead_letters: 0,
    };
    let own = || KeyRange::beginning_with(entity.as_bytes());
    let mut rested = 0;
    each(store, Table::Snapshots, own(), |_, value| {
        if let Ok(row) = SnapshotRow::decode(value) {
            seen.snapshots += 1;
            seen.snapshot_bytes += row.size;
            (seen.epoch, seen.mark, rested) = (row.epoch, row.mark, row.mark.step);
        }
    })?;
    each(store, Table::Journal, own(), |_, value| {
        seen.steps_bytes += value.len() as u64;
        if let Ok(steps) = Steps::decode(value)
            && steps.after.step > seen.mark.step
        {
            (seen.epoch, seen.mark) = (steps.epoch, steps.after);
        }
    })?;
    each(store, Table::Outputs, own(), |_, value| {
        seen.outputs_bytes += value.len() as u64
    })?;
    each(store, Table::DeadLetters, own(), |_, _| seen.dead_letters += 1)?;
    // Where only snapshots are kept an epoch begins with its certificate.
    each(store, Table::Certificates, own(), |key, _| {
        if let Some((_, [epoch])) = of_entity_key::<1>(key) {
            seen.epoch = seen.epoch.max(epoch);
        }
    })?;
    seen.to_replay = seen.mark.step - rested;
    Ok(seen)
}
