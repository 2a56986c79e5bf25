//! What operators order: the ordinary commands.

use std::time::Duration;

use meshos_core::command::{AdminEvent, ChainId};
use meshos_core::id::NodeId;
use pyo3::prelude::*;

use crate::record::record;
use crate::record::union::union;

record! {
    /// Drain the node and keep it out of service; `drain_for` defaults to the configured deadline.
    pub struct PyEnterMaintenance in "meshos.events" as "EnterMaintenance", kind "enter_maintenance",
    signature "(node, drain_for=None)" {
        /// Which node.
        node: NodeId,
        /// How long draining may take.
        drain_for: Option<Duration> = None,
    }
}

record! {
    /// Bring the node back, also while it still drains.
    pub struct PyExitMaintenance in "meshos.events" as "ExitMaintenance", kind "exit_maintenance" {
        /// Which node.
        node: NodeId,
    }
}

record! {
    /// Move everything off the node within `drain_for`, then return it to service.
    pub struct PyDrain in "meshos.events" as "Drain", kind "drain" {
        /// Which node.
        node: NodeId,
        /// How long draining may take.
        drain_for: Duration,
    }
}

record! {
    /// Place nothing new on the node.
    pub struct PyCordon in "meshos.events" as "Cordon", kind "cordon" {
        /// Which node.
        node: NodeId,
    }
}

record! {
    /// Place things on the node again.
    pub struct PyUncordon in "meshos.events" as "Uncordon", kind "uncordon" {
        /// Which node.
        node: NodeId,
    }
}

record! {
    /// Stop and start every supervised daemon of the node, with the usual grace.
    pub struct PyRestartAllDaemons in "meshos.events" as "RestartAllDaemons", kind "restart_all_daemons" {
        /// Which node.
        node: NodeId,
    }
}

record! {
    /// Clear the avoid list of that node.
    pub struct PyClearAvoidList in "meshos.events" as "ClearAvoidList", kind "clear_avoid_list" {
        /// Which node.
        node: NodeId,
    }
}

record! {
    /// Let the node drop its copies of these chains.
    pub struct PyDropReplicas in "meshos.events" as "DropReplicas", kind "drop_replicas" {
        /// Which node.
        node: NodeId,
        /// Which chains.
        chains: Vec<ChainId>,
    }
}

record! {
    /// Score the chains led by the node anew at the next pass.
    pub struct PyInvalidatePlacement in "meshos.events" as "InvalidatePlacement", kind "invalidate_placement" {
        /// Which node.
        node: NodeId,
    }
}

union! {
    /// An ordinary command.
    pub enum PyAdminEvent, "an AdminEvent" {
        EnterMaintenance(PyEnterMaintenance),
        ExitMaintenance(PyExitMaintenance),
        Drain(PyDrain),
        Cordon(PyCordon),
        Uncordon(PyUncordon),
        RestartAllDaemons(PyRestartAllDaemons),
        ClearAvoidList(PyClearAvoidList),
        DropReplicas(PyDropReplicas),
        InvalidatePlacement(PyInvalidatePlacement),
    }
}

impl PyAdminEvent {
    /// The command as the loop takes it.
    pub fn core(&self) -> AdminEvent {
        match self {
            Self::EnterMaintenance(event) => AdminEvent::EnterMaintenance {
                node: event.node,
                drain_for: event.drain_for,
            },
            Self::ExitMaintenance(event) => AdminEvent::ExitMaintenance { node: event.node },
            Self::Drain(event) => AdminEvent::Drain {
                node: event.node,
                drain_for: event.drain_for,
            },
            Self::Cordon(event) => AdminEvent::Cordon { node: event.node },
            Self::Uncordon(event) => AdminEvent::Uncordon { node: event.node },
            Self::RestartAllDaemons(event) => AdminEvent::RestartAllDaemons { node: event.node },
            Self::ClearAvoidList(event) => AdminEvent::ClearAvoidList { node: event.node },
            Self::DropReplicas(event) => AdminEvent::DropReplicas {
                node: event.node,
                chains: event.chains.clone(),
            },
            Self::InvalidatePlacement(event) => AdminEvent::InvalidatePlacement { node: event.node },
        }
    }
}

impl From<&AdminEvent> for PyAdminEvent {
    fn from(event: &AdminEvent) -> Self {
        match *event {
            AdminEvent::EnterMaintenance { node, drain_for } => PyEnterMaintenance { node, drain_for }.into(),
            AdminEvent::ExitMaintenance { node } => PyExitMaintenance { node }.into(),
            AdminEvent::Drain { node, drain_for } => PyDrain { node, drain_for }.into(),
            AdminEvent::Cordon { node } => PyCordon { node }.into(),
            AdminEvent::Uncordon { node } => PyUncordon { node }.into(),
            AdminEvent::RestartAllDaemons { node } => PyRestartAllDaemons { node }.into(),
            AdminEvent::ClearAvoidList { node } => PyClearAvoidList { node }.into(),
            AdminEvent::DropReplicas { node, ref chains } => PyDropReplicas {
                node,
                chains: chains.clone(),
            }
            .into(),
            AdminEvent::InvalidatePlacement { node } => PyInvalidatePlacement { node }.into(),
        }
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyEnterMaintenance>()?;
    module.add_class::<PyExitMaintenance>()?;
    module.add_class::<PyDrain>()?;
    module.add_class::<PyCordon>()?;
    module.add_class::<PyUncordon>()?;
    module.add_class::<PyRestartAllDaemons>()?;
    module.add_class::<PyClearAvoidList>()?;
    module.add_class::<PyDropReplicas>()?;
    module.add_class::<PyInvalidatePlacement>()
}
