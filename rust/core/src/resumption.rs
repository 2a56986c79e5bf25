//! Decision: how a daemon comes back from what a store has of it.
//!
//! Invariants
//! * It begins at the newest snapshot whose file is whole, or at nothing, and takes every step from there on, once.
//! * A step that is missing, changed or moved ends it with the exact place. None is passed over.
//! * What user code emits again is held back, and compared with what it emitted the first time.
//!
//! Source: Elnozahy, Alvisi, Wang, Johnson, "A Survey of Rollback-Recovery Protocols in Message-Passing Systems", ACM
//! Computing Surveys 34(3), 2002, section 4.

use thiserror::Error;

use crate::digest::Digest;
use crate::id::EntityId;
use crate::journal::{Damage, Mark, SnapshotRow, Step, Steps};

/// Where a replay begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The snapshot to restore; `None`: a fresh instance.
    pub snapshot: Option<SnapshotRow>,
    /// Newer snapshots that are damaged.
    pub skipped: u32,
    /// The first step to take again, if there is one.
    pub first: u64,
}

/// Plans a replay from the rows of snapshots, ascending, and the first step of each row of steps, ascending. `is_whole`
/// says whether the file of a snapshot is there and unchanged; the newest is asked for first, and none after a whole one.
///
/// # Errors
/// [`Damage`]: it cannot be brought back without losing steps.
pub fn plan(
    entity: &EntityId,
    snapshots: &[SnapshotRow],
    rows: &[u64],
    mut is_whole: impl FnMut(&SnapshotRow) -> bool,
) -> Result<Plan, Damage> {
    let found = snapshots.iter().rev().position(&mut is_whole);
    let snapshot = found.map(|skipped| snapshots[snapshots.len() - 1 - skipped]);
    let skipped = found.unwrap_or(snapshots.len());
    let first = snapshot.map_or(1, |row| row.mark.step + 1);
    let next = rows.iter().copied().find(|row| *row >= first);
    let plan = Plan {
        snapshot,
        skipped: u32::try_from(skipped).unwrap_or(u32::MAX),
        first,
    };
    // A newer snapshot, even a damaged one, says that there were steps up to it.
    let reached = snapshots.last().map_or(0, |row| row.mark.step);
    match next {
        Some(next) if next == first => Ok(plan),
        None if reached < first => Ok(plan),
        _ if snapshot.is_none() => Err(Damage::NoBeginning {
            entity: *entity,
            snapshots: plan.skipped,
            found: rows.first().copied(),
        }),
        next => Err(Damage::Gap {
            entity: *entity,
            step: first,
            found: next.unwrap_or(reached),
        }),
    }
}

/// User code that was given the same inputs did something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "step {step}: {expected} outputs were emitted the first time, {found} now; the first that differs is {sequence}"
)]
pub struct Divergence {
    /// Step at which they first differ.
    pub step: u64,
    /// First output of that step.
    pub sequence: u64,
    /// Outputs of the step the first time.
    pub expected: u32,
    /// Outputs now.
    pub found: u32,
    /// Digest of the chain after the step the first time.
    pub expected_digest: Digest,
    /// Digest now.
    pub found_digest: Digest,
}

/// A replay under way.
#[derive(Debug, Clone)]
pub struct Replay {
    entity: EntityId,
    mark: Mark,
    epoch: u64,
    steps: u64,
    suppressed: u64,
}

impl Replay {
    /// Begins after `mark`, that of the plan's snapshot or [`Mark::start`].
    #[must_use]
    pub const fn after(entity: EntityId, mark: Mark, epoch: u64) -> Self {
        Self {
            entity,
            mark,
            epoch,
            steps: 0,
            suppressed: 0,
        }
    }

    /// Takes the next row of steps, whose key says that it begins at `first`.
    ///
    /// # Errors
    /// [`Damage`]: it cannot be read, or does not follow on what came before.
    pub fn row<'a>(&mut self, first: u64, bytes: &'a [u8]) -> Result<Steps<'a>, Damage> {
        let entity = self.entity;
        let steps = Steps::decode(bytes).map_err(|error| Damage::Unreadable {
            entity,
            step: first,
            error,
        })?;
        if steps.first != first || steps.epoch < self.epoch {
            return Err(Damage::Unbound { entity, step: first });
        }
        if first != self.mark.step + 1 {
            return Err(Damage::Gap {
                entity,
                step: self.mark.step + 1,
                found: first,
            });
        }
        if steps.before != self.mark {
            return Err(Damage::Unbound { entity, step: first });
        }
        self.mark = steps.after;
        self.epoch = steps.epoch;
        Ok(steps)
    }

    /// Compares what user code emitted at a step with what it did the first time: how many outputs, and the digest of the
    /// chain after them.
    ///
    /// # Errors
    /// [`Divergence`]: they differ.
    pub fn emitted(&mut self, place: Place, step: &Step<'_>, outputs: u32, digest: Digest) -> Result<(), Divergence> {
        self.steps += 1;
        self.suppressed += u64::from(outputs);
        if (outputs, digest) == (step.outputs, step.digest) {
            return Ok(());
        }
        Err(Divergence {
            step: place.step,
            sequence: place.sequence,
            expected: step.outputs,
            found: outputs,
            expected_digest: step.digest,
            found_digest: digest,
        })
    }

    /// How far it has come.
    #[must_use]
    pub const fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Epoch of the last step.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Steps taken again.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// Outputs that were made again and held back.
    #[must_use]
    pub const fn suppressed(&self) -> u64 {
        self.suppressed
    }
}

/// Which step it is, and where the chain is before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Number of the step.
    pub step: u64,
    /// Sequence that its first output has.
    pub sequence: u64,
}

impl Place {
    /// The places of the steps of a row, in order.
    pub fn all<'a>(steps: &'a Steps<'_>) -> impl Iterator<Item = Self> + 'a {
        let mut sequence = steps.before.sequence + 1;
        (steps.first..).zip(&steps.steps).map(move |(number, step)| {
            let place = Self { step: number, sequence };
            sequence += u64::from(step.outputs);
            place
        })
    }
}
