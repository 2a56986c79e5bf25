//! Moves of daemons, as operators see them.

use meshos_core::id::{NodeId, Origin};
use meshos_core::status::MigrationStatus;
use pyo3::prelude::*;

use crate::record::moment::Moment;
use crate::record::record;
use crate::record::word::word;

/// The phases of a move, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationPhase {
    /// A snapshot is taken.
    Snapshot,
    /// It is sent.
    Transfer,
    /// The target takes it over.
    Restore,
    /// The target takes the events since.
    Replay,
    /// The target becomes the owner.
    Cutover,
    /// It is done.
    Complete,
}

word! {
    MigrationPhase as "MigrationPhase" in "meshos.migration" {
        Snapshot = "snapshot",
        Transfer = "transfer",
        Restore = "restore",
        Replay = "replay",
        Cutover = "cutover",
        Complete = "complete",
    }
}

impl MigrationPhase {
    const ALL: [Self; 6] = [
        Self::Snapshot,
        Self::Transfer,
        Self::Restore,
        Self::Replay,
        Self::Cutover,
        Self::Complete,
    ];

    /// Stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Transfer => "transfer",
            Self::Restore => "restore",
            Self::Replay => "replay",
            Self::Cutover => "cutover",
            Self::Complete => "complete",
        }
    }

    fn named(name: &str) -> Self {
        let found = Self::ALL.into_iter().find(|phase| phase.name() == name);
        found.expect("the loop shows only what its source of moves said")
    }
}

record! {
    /// A move under way, as operators see it.
    pub struct PyMigrationSnapshot in "meshos.migration" as "MigrationSnapshot", by keyword {
        /// The daemon that moves.
        daemon_origin: Origin,
        /// Its phase.
        phase: MigrationPhase,
        /// When it began.
        started_at: Moment,
        /// When its phase began.
        phase_entered_at: Moment,
        /// From which node.
        source_node: NodeId,
        /// To which node.
        target_node: NodeId,
        /// Size of the snapshot; `None`: not taken yet.
        snapshot_bytes: Option<u64>,
        /// Bytes that reached the target.
        bytes_moved: u64,
        /// Steps that were repeated.
        retries: u32,
        /// Events held back for the target; `None` where this node cannot know.
        buffered_events: Option<u64>,
    }
}

impl PyMigrationSnapshot {
    /// The move as the loop takes it.
    pub fn core(&self) -> MigrationStatus {
        MigrationStatus {
            daemon: self.daemon_origin,
            phase: self.phase.name(),
            started_at: self.started_at.unix_ms(),
            phase_at: self.phase_entered_at.unix_ms(),
            source_node: self.source_node,
            target_node: self.target_node,
            snapshot_bytes: self.snapshot_bytes,
            bytes_moved: self.bytes_moved,
            retries: self.retries,
            buffered_events: self.buffered_events,
        }
    }
}

impl From<&MigrationStatus> for PyMigrationSnapshot {
    fn from(status: &MigrationStatus) -> Self {
        Self {
            daemon_origin: status.daemon,
            phase: MigrationPhase::named(status.phase),
            started_at: Moment::of(status.started_at),
            phase_entered_at: Moment::of(status.phase_at),
            source_node: status.source_node,
            target_node: status.target_node,
            snapshot_bytes: status.snapshot_bytes,
            bytes_moved: status.bytes_moved,
            retries: status.retries,
            buffered_events: status.buffered_events,
        }
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyMigrationSnapshot>()
}
