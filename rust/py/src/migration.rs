//! Moves of daemons, as operators see them: what is asked for, what is under way, and what came of it.

use std::time::Duration;

use meshos_core::config::ConfigError;
use meshos_core::id::{NodeId, Origin};
use meshos_core::status::MigrationStatus;
use pyo3::prelude::*;

use crate::record::moment::Moment;
use crate::record::options::options;
use crate::record::record;
use crate::record::word::{literal, word};

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

/// How a daemon is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Freeze, copy, go on there.
    Stop,
    /// Copy while it works, and freeze for the last events.
    Live,
}

literal! { Mode { Stop = "stop", Live = "live", } }

/// Options of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MoveOptions {
    /// How it is moved.
    pub mode: Mode,
    /// Whether its key travels.
    pub transport_identity: bool,
    /// How long a target that is not ready is asked again.
    pub retry_not_ready: Option<Duration>,
    /// How long it may stand still.
    pub freeze_max: Duration,
    /// How long the whole may take before its commit point.
    pub deadline: Duration,
    /// How much of it travels in a second.
    pub bytes_per_second_max: Option<u64>,
}

impl Default for MoveOptions {
    fn default() -> Self {
        Self {
            mode: Mode::Stop,
            transport_identity: true,
            retry_not_ready: Some(Duration::from_secs(30)),
            freeze_max: Duration::from_secs(2),
            deadline: Duration::from_secs(600),
            bytes_per_second_max: None,
        }
    }
}

impl MoveOptions {
    const SHORTEST: Duration = Duration::from_millis(1);
    /// A source stands still no longer than this, whatever it is told.
    const FREEZE_LONGEST: Duration = Duration::from_secs(120);
    const LONGEST: Duration = Duration::from_secs(30 * 86_400);

    fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |field, rule| Err(ConfigError { field, rule });
        if self.retry_not_ready.is_some_and(|span| span > Self::LONGEST) {
            refuse("retry_not_ready", "must be at most 30 days")
        } else if !(Self::SHORTEST..=Self::FREEZE_LONGEST).contains(&self.freeze_max) {
            refuse("freeze_max", "must be from one millisecond to 2 minutes")
        } else if !(Self::SHORTEST..=Self::LONGEST).contains(&self.deadline) {
            refuse("deadline", "must be from one millisecond to 30 days")
        } else if self.bytes_per_second_max == Some(0) {
            refuse("bytes_per_second_max", "must be at least 1")
        } else {
            Ok(())
        }
    }
}

options! {
    /// How to move a daemon. Options are given by keyword; raises `ConfigError`.
    pub struct PyMigrationOpts(MoveOptions) in "meshos.migration" as "MigrationOpts",
    signature "(*, mode='stop', transport_identity=True, retry_not_ready=..., freeze_max=..., deadline=..., \
        bytes_per_second_max=None)" {
        /// "stop": freeze, copy, go on there; "live": copy while it works, and freeze only for the last events.
        mode: Mode,
        /// Seal the key to the target; without it the daemon works there, and cannot sign.
        transport_identity: bool,
        /// How long to retry a target that is not ready, 30 s; `None`: not at all.
        retry_not_ready: Option<Duration>,
        /// Longest time that it stands still, 2 s; a move that would take longer is aborted.
        freeze_max: Duration,
        /// Longest whole move before its commit point, 10 min.
        deadline: Duration,
        /// Bytes of it that travel in a second at most; `None`: as many as can.
        bytes_per_second_max: Option<u64>,
    }
}

record! {
    /// A move that reached its target.
    pub struct PyMigrationOutcome in "meshos.migration" as "MigrationOutcome", by keyword {
        /// The daemon.
        origin_hash: Origin,
        /// From which node.
        source_node: NodeId,
        /// To which node.
        target_node: NodeId,
        /// The target's term of ownership.
        epoch: u64,
        /// From the order to the confirmation of the target.
        took: Duration,
        /// From the freeze to the confirmation of the target that it owns.
        blackout: Duration,
        /// How long the daemon's own `snapshot` took.
        snapshot_took: Duration,
        /// Bytes that travelled.
        bytes_moved: u64,
        /// Times that it was copied.
        rounds: u32,
        /// How it was carried out: a live move whose replay differed ends as "stop".
        mode: Mode,
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
    module.add_class::<PyMigrationSnapshot>()?;
    module.add_class::<PyMigrationOpts>()?;
    module.add_class::<PyMigrationOutcome>()
}
