//! Where a node is between service and maintenance.

use std::sync::Arc;

use meshos_core::maintenance_state::{MaintenancePhase, MaintenanceState};
use pyo3::prelude::*;

use crate::record::moment::Moment;
use crate::record::record;
use crate::record::union::union;
use crate::record::word::word;

word! {
    MaintenancePhase as "MaintenancePhase" in "meshos.status" {
        Active = "active",
        Entering = "entering_maintenance",
        Maintenance = "maintenance",
        Exiting = "exiting_maintenance",
        DrainFailed = "drain_failed",
        Recovery = "recovery",
    }
}

record! {
    /// In service.
    pub struct PyActive in "meshos.status" as "Active", phase MaintenancePhase::Active {}
}

record! {
    /// Draining.
    pub struct PyEnteringMaintenance in "meshos.status" as "EnteringMaintenance",
    phase MaintenancePhase::Entering, signature "(since, deadline, daemons_left=0, replicas_left=0)" {
        /// Since when.
        since: Moment,
        /// When the drain has failed.
        deadline: Moment,
        /// Daemons that it still waits for.
        daemons_left: u32 = 0,
        /// Copies of chains that it still waits for.
        replicas_left: u32 = 0,
    }
}

record! {
    /// Out of service.
    pub struct PyMaintenance in "meshos.status" as "Maintenance", phase MaintenancePhase::Maintenance {
        /// Since when.
        since: Moment,
    }
}

record! {
    /// Starting daemons again.
    pub struct PyExitingMaintenance in "meshos.status" as "ExitingMaintenance",
    phase MaintenancePhase::Exiting {
        /// Since when.
        since: Moment,
    }
}

record! {
    /// Not drained in time.
    pub struct PyDrainFailed in "meshos.status" as "DrainFailed", phase MaintenancePhase::DrainFailed {
        /// Since when.
        since: Moment,
        /// What was left.
        reason: Arc<str>,
    }
}

record! {
    /// Back in service, not yet for new placements.
    pub struct PyRecovery in "meshos.status" as "Recovery", phase MaintenancePhase::Recovery {
        /// Since when.
        since: Moment,
    }
}

union! {
    /// State of a node.
    pub enum PyMaintenanceState, "a MaintenanceState" {
        Active(PyActive),
        EnteringMaintenance(PyEnteringMaintenance),
        Maintenance(PyMaintenance),
        ExitingMaintenance(PyExitingMaintenance),
        DrainFailed(PyDrainFailed),
        Recovery(PyRecovery),
    }
}

impl PyMaintenanceState {
    /// Shows a state; while it drains, with what is left to do.
    pub fn of(state: &MaintenanceState, daemons_left: u32, replicas_left: u32) -> Self {
        match state {
            MaintenanceState::Active => PyActive {}.into(),
            MaintenanceState::EnteringMaintenance { since, deadline } => PyEnteringMaintenance {
                since: Moment::of(*since),
                deadline: Moment::of(*deadline),
                daemons_left,
                replicas_left,
            }
            .into(),
            MaintenanceState::Maintenance { since } => PyMaintenance {
                since: Moment::of(*since),
            }
            .into(),
            MaintenanceState::ExitingMaintenance { since } => PyExitingMaintenance {
                since: Moment::of(*since),
            }
            .into(),
            MaintenanceState::DrainFailed { since, reason } => PyDrainFailed {
                since: Moment::of(*since),
                reason: Arc::clone(reason),
            }
            .into(),
            MaintenanceState::Recovery { since } => PyRecovery {
                since: Moment::of(*since),
            }
            .into(),
        }
    }

    /// The state as the loop takes it.
    pub fn core(&self) -> MaintenanceState {
        match self {
            Self::Active(_) => MaintenanceState::Active,
            Self::EnteringMaintenance(state) => MaintenanceState::EnteringMaintenance {
                since: state.since.unix_ms(),
                deadline: state.deadline.unix_ms(),
            },
            Self::Maintenance(state) => MaintenanceState::Maintenance {
                since: state.since.unix_ms(),
            },
            Self::ExitingMaintenance(state) => MaintenanceState::ExitingMaintenance {
                since: state.since.unix_ms(),
            },
            Self::DrainFailed(state) => MaintenanceState::DrainFailed {
                since: state.since.unix_ms(),
                reason: Arc::clone(&state.reason),
            },
            Self::Recovery(state) => MaintenanceState::Recovery {
                since: state.since.unix_ms(),
            },
        }
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyActive>()?;
    module.add_class::<PyEnteringMaintenance>()?;
    module.add_class::<PyMaintenance>()?;
    module.add_class::<PyExitingMaintenance>()?;
    module.add_class::<PyDrainFailed>()?;
    module.add_class::<PyRecovery>()
}
