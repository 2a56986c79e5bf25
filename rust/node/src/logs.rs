//! Prunes logs of a store that nobody else uses.
//!
//! Invariants
//! * What goes, goes in one commit, and is gone when that is durable.
//! * No daemon of the store runs: a journal knows which rows the store has, and does not hear that some went.

use std::sync::mpsc;

use meshos_core::continuity::{Genesis, Point};
use meshos_core::entity_log::{EntityLog, PruneError};
use meshos_core::store::{Batch, Store, StoreError};

/// What was pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Where the log begins now.
    pub base: Point,
    /// Events that went.
    pub events: u64,
}

/// Lets every event of a log go up to `through`, and waits until that is durable.
///
/// # Errors
/// [`PruneError`]: nothing went.
pub fn prune(store: &mut dyn Store, genesis: Genesis, through: u64) -> Result<Pruned, PruneError> {
    let term = store.term();
    let pruning = EntityLog::open(store, genesis)?.prune(through)?;
    if !pruning.writes.is_empty() {
        let batch = Batch {
            term,
            writes: pruning.writes,
        };
        let (tell, told) = mpsc::sync_channel(1);
        let done = move |outcome| {
            let _ = tell.send(outcome);
        };
        store.submit(batch, Box::new(done));
        // A store that ends drops what it did not tell.
        told.recv().unwrap_or(Err(StoreError::Closed))?;
    }
    Ok(Pruned {
        base: pruning.base,
        events: pruning.events,
    })
}
