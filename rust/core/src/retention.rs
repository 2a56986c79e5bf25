//! Decision: what a store need not keep any longer.
//!
//! Invariants
//! * What the newest snapshots need is kept, whatever the bounds: their files, and every step after the oldest of them.
//! * Outputs after the newest snapshot are kept, since a daemon that diverges may have to be continued from them.
//! * Without a snapshot every step is kept.

use crate::config::DaemonHostConfig;
use crate::digest::Digest;
use crate::journal::SnapshotRow;
use crate::time::UnixMs;

/// What is kept beyond what is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Newest snapshots that are kept, at least 1. All but the newest are there in case that it is damaged.
    pub snapshots: u32,
    /// Outputs that are kept; older ones go, unless they are needed.
    pub outputs_max: u64,
    /// Bytes of outputs that are kept; older ones go, unless they are needed.
    pub outputs_bytes_max: u64,
    /// Outputs older than this go, unless they are needed; `None`: age does not matter.
    pub outputs_age_max_ms: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        Self::of(&DaemonHostConfig::default())
    }
}

/// A row of outputs, without the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputsHeld {
    /// Sequence of its first output.
    pub first: u64,
    /// Outputs in it.
    pub count: u32,
    /// Bytes of it.
    pub bytes: u64,
    /// When it was written.
    pub at: UnixMs,
}

impl OutputsHeld {
    /// Whether one of its outputs is after this sequence.
    #[must_use]
    pub const fn is_needed_after(&self, sequence: u64) -> bool {
        self.first + self.count as u64 > sequence + 1
    }
}

/// What may go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expired {
    /// Steps of the snapshots whose rows may go.
    pub snapshots: Vec<u64>,
    /// Files of snapshots that may go once the rows are gone.
    pub files: Vec<Digest>,
    /// Rows of steps that begin below this step may go; 0: none.
    pub steps_below: u64,
    /// Rows of outputs that begin below this sequence may go; 0: none.
    pub outputs_below: u64,
}

impl Retention {
    /// What the options of a daemon say.
    #[must_use]
    pub fn of(config: &DaemonHostConfig) -> Self {
        Self {
            snapshots: config.snapshots_max,
            outputs_max: u64::from(config.outputs_max),
            outputs_bytes_max: config.outputs_bytes_max,
            outputs_age_max_ms: config.outputs_age_max_ms,
        }
    }

    /// Whether the oldest row of outputs is too old and not needed: then it is worth to ask what is [`expired`].
    ///
    /// [`expired`]: Retention::expired
    #[must_use]
    pub fn has_aged(&self, newest: Option<&SnapshotRow>, oldest: Option<&OutputsHeld>, now: UnixMs) -> bool {
        match (self.outputs_age_max_ms, newest, oldest) {
            (Some(max), Some(newest), Some(oldest)) => {
                now.get().saturating_sub(oldest.at.get()) > max && !oldest.is_needed_after(newest.mark.sequence)
            }
            _ => false,
        }
    }

    /// Decides what may go of one daemon, given the rows of its snapshots and its outputs, both ascending. A clock that
    /// went backwards makes nothing older than it is.
    ///
    /// A row of steps ends where a snapshot was taken, so none that begins below a snapshot's step reaches beyond it.
    #[must_use]
    pub fn expired(&self, snapshots: &[SnapshotRow], outputs: &[OutputsHeld], now: UnixMs) -> Expired {
        let kept = snapshots.len().min(self.snapshots.max(1) as usize);
        let (old, kept) = snapshots.split_at(snapshots.len() - kept);
        let (Some(oldest), Some(newest)) = (kept.first(), kept.last()) else {
            return Expired::default();
        };
        // A file may be that of several snapshots: it goes with the last of them.
        let is_free = |name: &Digest| kept.iter().all(|row| row.name != *name);
        Expired {
            snapshots: old.iter().map(|row| row.mark.step).collect(),
            files: old.iter().map(|row| row.name).filter(is_free).collect(),
            steps_below: oldest.mark.step + 1,
            outputs_below: self.outputs_below(newest.mark.sequence, outputs, now),
        }
    }

    fn outputs_below(&self, needed_after: u64, outputs: &[OutputsHeld], now: UnixMs) -> u64 {
        let (mut count, mut bytes, mut below) = (0u64, 0u64, 0);
        for row in outputs.iter().rev() {
            count += u64::from(row.count);
            bytes += row.bytes;
            let age = now.get().saturating_sub(row.at.get());
            let is_old = self.outputs_age_max_ms.is_some_and(|max| age > max);
            let too_much = count > self.outputs_max || bytes > self.outputs_bytes_max || is_old;
            if too_much && !row.is_needed_after(needed_after) {
                below = row.first + 1;
                break;
            }
        }
        below
    }
}
