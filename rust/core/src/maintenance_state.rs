//! Where a node is between service and maintenance.

use std::sync::Arc;

use crate::time::UnixMs;

/// State of this node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum MaintenanceState {
    /// In service.
    #[default]
    Active,
    /// Draining.
    EnteringMaintenance {
        /// Since when.
        since: UnixMs,
        /// When the drain has failed.
        deadline: UnixMs,
    },
    /// Out of service.
    Maintenance {
        /// Since when.
        since: UnixMs,
    },
    /// Starting daemons again.
    ExitingMaintenance {
        /// Since when.
        since: UnixMs,
    },
    /// Not drained in time.
    DrainFailed {
        /// Since when.
        since: UnixMs,
        /// What was left.
        reason: Arc<str>,
    },
    /// Back in service, not yet for new placements.
    Recovery {
        /// Since when.
        since: UnixMs,
    },
}

/// The same without its circumstances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum MaintenancePhase {
    /// In service.
    #[default]
    Active,
    /// Draining.
    Entering,
    /// Out of service.
    Maintenance,
    /// Starting daemons again.
    Exiting,
    /// Not drained in time.
    DrainFailed,
    /// Back in service, not yet for new placements.
    Recovery,
}

impl MaintenancePhase {
    /// Every phase, for tables.
    pub const ALL: [Self; 6] = [
        Self::Active,
        Self::Entering,
        Self::Maintenance,
        Self::Exiting,
        Self::DrainFailed,
        Self::Recovery,
    ];

    /// Stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Entering => "entering_maintenance",
            Self::Maintenance => "maintenance",
            Self::Exiting => "exiting_maintenance",
            Self::DrainFailed => "drain_failed",
            Self::Recovery => "recovery",
        }
    }
}

impl MaintenanceState {
    /// The state without its circumstances.
    #[must_use]
    pub const fn phase(&self) -> MaintenancePhase {
        match self {
            Self::Active => MaintenancePhase::Active,
            Self::EnteringMaintenance { .. } => MaintenancePhase::Entering,
            Self::Maintenance { .. } => MaintenancePhase::Maintenance,
            Self::ExitingMaintenance { .. } => MaintenancePhase::Exiting,
            Self::DrainFailed { .. } => MaintenancePhase::DrainFailed,
            Self::Recovery { .. } => MaintenancePhase::Recovery,
        }
    }

    /// Since when; `None` in service.
    #[must_use]
    pub const fn since(&self) -> Option<UnixMs> {
        match self {
            Self::Active => None,
            Self::EnteringMaintenance { since, .. }
            | Self::Maintenance { since }
            | Self::ExitingMaintenance { since }
            | Self::DrainFailed { since, .. }
            | Self::Recovery { since } => Some(*since),
        }
    }
}
