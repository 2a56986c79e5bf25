//! Decision: which rows go when a log is pruned.
//!
//! A log begins, after it was pruned, where a signed record names the digest: so what stays can be proven to a stranger.
//! Outputs after the newest snapshot stay, as [`retention`](crate::retention) has it.

use thiserror::Error;

use super::{EntityLog, LogError, emitted, newest_snapshot, row_of, rows_through};
use crate::chain::{BrokenKind, ChainError};
use crate::continuity::{Anchors, Point};
use crate::id::Origin;
use crate::journal::outputs_row;
use crate::rows::{Table, Write};
use crate::store::{Store, StoreError};

/// Rows read at once.
const PAGE: usize = 64;

/// What pruning changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruning {
    /// Where the log begins then.
    pub base: Point,
    /// Events that go.
    pub events: u64,
    /// The changes, to be kept together.
    pub writes: Vec<Write>,
}

/// Why a log was not pruned. Nothing went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PruneError {
    /// No certificate and no checkpoint names the digest there, so what stayed could not be proven.
    #[error(
        "origin {origin}: nothing signed vouches for event {through}; the nearest it may be pruned to is {nearest}"
    )]
    Unprovable {
        /// Owner of the log.
        origin: Origin,
        /// What was asked for.
        through: u64,
        /// The highest sequence up to which it may be pruned instead; where it begins already, if there is none.
        nearest: u64,
    },
    /// Events after the newest snapshot stay.
    #[error(
        "origin {origin}: events after {snapshot}, where its newest snapshot is, stay, so not all through {through} may \
         go; the nearest it may be pruned to is {nearest}"
    )]
    Needed {
        /// Owner of the log.
        origin: Origin,
        /// What was asked for.
        through: u64,
        /// Where the newest snapshot is; 0 if there is none.
        snapshot: u64,
        /// The highest sequence up to which it may be pruned instead; where it begins already, if there is none.
        nearest: u64,
    },
    /// The log cannot be read, or is not what was signed.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl From<StoreError> for PruneError {
    fn from(error: StoreError) -> Self {
        Self::Log(error.into())
    }
}

impl EntityLog<'_> {
    /// Decides what goes when every event up to `through` goes. Nothing does if the log begins there or later. A row that
    /// has events on both sides is written anew with those that stay.
    ///
    /// What was appended, and is not in the store, is not looked at.
    ///
    /// # Errors
    /// [`PruneError`].
    pub fn prune(&self, through: u64) -> Result<Pruning, PruneError> {
        let nothing = Pruning {
            base: self.base,
            events: 0,
            writes: Vec::new(),
        };
        let Some(store) = self.store.filter(|_| through > self.base.sequence) else {
            return Ok(nothing);
        };
        let anchors = self.anchors()?;
        let snapshot = newest_snapshot(store, &self.entity())?.map_or(0, |row| row.mark.sequence);
        let nearest = || self.nearest(&anchors, through.min(snapshot));
        if through > snapshot {
            return Err(PruneError::Needed {
                origin: self.origin,
                through,
                snapshot,
                nearest: nearest()?,
            });
        }
        let digest = self.digest_at(through)?;
        let Some((expected, found)) = anchors.vouched_at(through).zip(digest) else {
            return Err(PruneError::Unprovable {
                origin: self.origin,
                through,
                nearest: nearest()?,
            });
        };
        if expected != found {
            return Err(PruneError::Log(LogError::Chain(ChainError::Broken {
                kind: BrokenKind::Altered,
                origin: self.origin,
                sequence: through,
                expected: expected.head8(),
                found: found.head8(),
            })));
        }
        let base = Point {
            sequence: through,
            digest: found,
        };
        Ok(Pruning {
            base,
            events: through - self.base.sequence,
            writes: self.removals(store, base)?,
        })
    }

    /// The highest position up to `through` to which the log may be pruned.
    fn nearest(&self, anchors: &Anchors, through: u64) -> Result<u64, StoreError> {
        for point in anchors.vouched_up_to(through) {
            if point.sequence <= self.base.sequence {
                break;
            }
            if self.digest_at(point.sequence)? == Some(point.digest) {
                return Ok(point.sequence);
            }
        }
        Ok(self.base.sequence)
    }

    fn removals(&self, store: &dyn Store, base: Point) -> Result<Vec<Write>, StoreError> {
        let entity = self.entity();
        let mut writes = Vec::new();
        let mut range = rows_through(&entity, 0, base.sequence);
        loop {
            let rows = store.page(Table::Outputs, &range, PAGE)?;
            let Some((last, _)) = rows.last() else { break };
            range = range.after(last);
            writes.extend(rows.into_iter().map(|(key, _)| Write::remove(Table::Outputs, key)));
        }
        // The last of them may have events that stay.
        let row = row_of(store, &entity, base.sequence)?;
        let emitted = emitted(&entity, self.origin, &row)?;
        let mut stay = emitted.outputs;
        stay.retain(|(link, _)| link.sequence > base.sequence);
        writes.extend(outputs_row(&entity, &base.digest, &stay));
        Ok(writes)
    }
}
