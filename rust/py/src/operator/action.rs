//! The break-glass actions.

use std::time::Duration;

use meshos_core::command::{AvoidScope, ChainId, IceAction, Order};
use meshos_core::id::{NodeId, Origin};
use meshos_core::signal::DaemonRef;
use pyo3::prelude::*;

use crate::args;
use crate::command::PyAdminEvent;
use crate::record::field::Field;
use crate::record::record;
use crate::record::union::union;

record! {
    /// Stop all reconciling for `ttl`, 1 s to 24 h.
    pub struct PyFreezeCluster in "meshos.operator" as "FreezeCluster", kind "freeze_cluster" {
        /// How long.
        ttl: Duration,
    }
}

record! {
    /// End a freeze; never held up by a cooldown.
    pub struct PyThawCluster in "meshos.operator" as "ThawCluster", kind "thaw_cluster" {}
}

record! {
    /// The whole avoid list of one node.
    pub struct PyLocal in "meshos.operator" as "Local" {
        /// Which node.
        node: NodeId,
    }
}

record! {
    /// One peer, on every node's avoid list.
    pub struct PyOnPeer in "meshos.operator" as "OnPeer" {
        /// Which peer.
        peer: NodeId,
    }
}

record! {
    /// Every avoid list.
    pub struct PyGlobal in "meshos.operator" as "Global" {}
}

union! {
    /// Which avoid lists are flushed.
    pub enum PyAvoidScope, "an AvoidScope" {
        Local(PyLocal),
        OnPeer(PyOnPeer),
        Global(PyGlobal),
    }
}

record! {
    /// Take peers off avoid lists.
    pub struct PyFlushAvoidLists in "meshos.operator" as "FlushAvoidLists", kind "flush_avoid_lists" {
        /// Which lists.
        scope: PyAvoidScope,
    }
}

record! {
    /// Evict a chain from a node.
    pub struct PyForceEvictReplica in "meshos.operator" as "ForceEvictReplica", kind "force_evict_replica" {
        /// Which chain.
        chain: ChainId,
        /// From which node.
        victim: NodeId,
    }
}

record! {
    /// Release a daemon's backoff and start it.
    pub struct PyForceRestartDaemon in "meshos.operator" as "ForceRestartDaemon", kind "force_restart_daemon" {
        /// Which daemon.
        daemon: DaemonRef,
    }
}

record! {
    /// Place a chain on a node, whatever the scorer thinks.
    pub struct PyForceCutover in "meshos.operator" as "ForceCutover", kind "force_cutover" {
        /// Which chain.
        chain: ChainId,
        /// On which node.
        target: NodeId,
    }
}

record! {
    /// Abort the move of a daemon, named by its origin hash.
    pub struct PyKillMigration in "meshos.operator" as "KillMigration", kind "kill_migration" {
        /// The daemon that moves.
        migration: Origin,
    }
}

union! {
    /// A break-glass action.
    pub enum PyIceAction, "an IceAction" {
        FreezeCluster(PyFreezeCluster),
        ThawCluster(PyThawCluster),
        FlushAvoidLists(PyFlushAvoidLists),
        ForceEvictReplica(PyForceEvictReplica),
        ForceRestartDaemon(PyForceRestartDaemon),
        ForceCutover(PyForceCutover),
        KillMigration(PyKillMigration),
    }
}

impl PyIceAction {
    /// The action as the loop takes it.
    pub fn core(&self) -> IceAction {
        match self {
            Self::FreezeCluster(action) => IceAction::FreezeCluster { ttl: action.ttl },
            Self::ThawCluster(_) => IceAction::ThawCluster,
            Self::FlushAvoidLists(action) => IceAction::FlushAvoidLists {
                scope: match &action.scope {
                    PyAvoidScope::Local(scope) => AvoidScope::Local(scope.node),
                    PyAvoidScope::OnPeer(scope) => AvoidScope::OnPeer(scope.peer),
                    PyAvoidScope::Global(_) => AvoidScope::Global,
                },
            },
            Self::ForceEvictReplica(action) => IceAction::ForceEvictReplica {
                chain: action.chain,
                victim: action.victim,
            },
            Self::ForceRestartDaemon(action) => IceAction::ForceRestartDaemon {
                daemon: action.daemon.id,
                name: action.daemon.name.to_string(),
            },
            Self::ForceCutover(action) => IceAction::ForceCutover {
                chain: action.chain,
                target: action.target,
            },
            Self::KillMigration(action) => IceAction::KillMigration {
                migration: action.migration,
            },
        }
    }
}

impl From<&IceAction> for PyIceAction {
    fn from(action: &IceAction) -> Self {
        match *action {
            IceAction::FreezeCluster { ttl } => PyFreezeCluster { ttl }.into(),
            IceAction::ThawCluster => PyThawCluster {}.into(),
            IceAction::FlushAvoidLists { scope } => PyFlushAvoidLists {
                scope: match scope {
                    AvoidScope::Local(node) => PyLocal { node }.into(),
                    AvoidScope::OnPeer(peer) => PyOnPeer { peer }.into(),
                    AvoidScope::Global => PyGlobal {}.into(),
                },
            }
            .into(),
            IceAction::ForceEvictReplica { chain, victim } => PyForceEvictReplica { chain, victim }.into(),
            IceAction::ForceRestartDaemon { daemon, ref name } => PyForceRestartDaemon {
                daemon: DaemonRef {
                    id: daemon,
                    name: name.as_str().into(),
                },
            }
            .into(),
            IceAction::ForceCutover { chain, target } => PyForceCutover { chain, target }.into(),
            IceAction::KillMigration { migration } => PyKillMigration { migration }.into(),
        }
    }
}

/// An ordinary command or a break-glass action.
#[derive(Debug, Clone, PartialEq)]
pub enum PyOrder {
    /// An ordinary command.
    Admin(PyAdminEvent),
    /// A break-glass action.
    Ice(PyIceAction),
}

impl PyOrder {
    /// The order as the loop takes it.
    pub fn core(&self) -> Order {
        match self {
            Self::Admin(event) => Order::Admin(event.core()),
            Self::Ice(action) => Order::Ice(action.core()),
        }
    }
}

impl From<&Order> for PyOrder {
    fn from(order: &Order) -> Self {
        match order {
            Order::Admin(event) => Self::Admin(event.into()),
            Order::Ice(action) => Self::Ice(action.into()),
        }
    }
}

impl Field for PyOrder {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        if let Ok(event) = PyAdminEvent::from_python(value, name) {
            return Ok(Self::Admin(event));
        }
        let action = PyIceAction::from_python(value, name).map(Self::Ice);
        action.map_err(|_| args::wrong_type(name, "an AdminEvent or an IceAction", value))
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Admin(event) => event.to_python(py),
            Self::Ice(action) => action.to_python(py),
        }
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyFreezeCluster>()?;
    module.add_class::<PyThawCluster>()?;
    module.add_class::<PyLocal>()?;
    module.add_class::<PyOnPeer>()?;
    module.add_class::<PyGlobal>()?;
    module.add_class::<PyFlushAvoidLists>()?;
    module.add_class::<PyForceEvictReplica>()?;
    module.add_class::<PyForceRestartDaemon>()?;
    module.add_class::<PyForceCutover>()?;
    module.add_class::<PyKillMigration>()
}
