//! What a behaviour loop decides, as its dispatcher sees it.

use std::sync::Arc;

use meshos_core::action::{Cause, CauseKind, MeshOsAction};
use meshos_core::command::ChainId;
use meshos_core::id::NodeId;
use meshos_core::signal::DaemonRef;
use pyo3::prelude::*;

use crate::maintenance_state::PyMaintenanceState;
use crate::record::field::{Field, Share};
use crate::record::moment::Moment;
use crate::record::union::union;
use crate::record::word::literal;
use crate::record::{Beside, record};

literal! {
    CauseKind {
        Event = "event",
        Probe = "probe",
        Timer = "timer",
        Operator = "operator",
        Sweep = "sweep",
    }
}

record! {
    /// What led to an action.
    pub struct PyCause in "meshos.dispatch" as "Cause", signature "(kind='event', detail='', envelope_id=None)" {
        /// What sort of thing.
        kind: CauseKind = CauseKind::Event,
        /// Which, in a few words.
        detail: Arc<str> = Arc::from(""),
        /// The envelope, 16 bytes, when an operator ordered it.
        envelope_id: Option<[u8; 16]> = None,
    }
}

impl Default for PyCause {
    fn default() -> Self {
        Self {
            kind: CauseKind::Event,
            detail: Arc::from(""),
            envelope_id: None,
        }
    }
}

impl From<&Cause> for PyCause {
    fn from(cause: &Cause) -> Self {
        Self {
            kind: cause.kind,
            detail: Arc::clone(&cause.detail),
            envelope_id: cause.envelope_id,
        }
    }
}

/// Declares actions: records with a cause, which is not compared.
macro_rules! actions {
    ($(
        $(#[$meta:meta])*
        $class:ident $variant:ident as $name:literal, kind $kind:literal, signature $text:literal {
            $($(#[$doc:meta])* $field:ident: $type:ty,)*
        }
    )*) => {
        $(record! {
            $(#[$meta])*
            pub struct $class in "meshos.dispatch" as $name, kind $kind, signature $text {
                $($(#[$doc])* $field: $type,)*
            }
            beside {
                /// What led to it; not compared.
                cause: PyCause = PyCause::default(),
            }
        })*

        union! {
            /// An action.
            pub enum PyMeshOsAction, "a MeshOsAction" { $($variant($class),)* }
        }

        /// Adds the classes to the module.
        pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
            module.add_class::<PyCause>()?;
            $(module.add_class::<$class>()?;)*
            module.add_class::<PyBackpressureChange>()
        }
    };
}

actions! {
    /// Make the daemon run; it may run already.
    PyStartDaemon StartDaemon as "StartDaemon", kind "start_daemon", signature "(daemon, *, cause=...)" {
        /// Which daemon.
        daemon: DaemonRef,
    }

    /// Stop the daemon, by force after `deadline`; it may be stopped already.
    PyStopDaemon StopDaemon as "StopDaemon", kind "stop_daemon",
    signature "(daemon, reason, deadline, *, cause=...)" {
        /// Which daemon.
        daemon: DaemonRef,
        /// Why, for people.
        reason: Arc<str>,
        /// Until when it may take its time.
        deadline: Moment,
    }

    /// Do not start the daemon before `until`.
    PyApplyBackoff ApplyBackoff as "ApplyBackoff", kind "apply_backoff",
    signature "(daemon, until, *, cause=...)" {
        /// Which daemon.
        daemon: DaemonRef,
        /// Until when.
        until: Moment,
    }

    /// Copy a chain from `source` to this node.
    PyPullReplica PullReplica as "PullReplica", kind "pull_replica", signature "(chain, source, *, cause=...)" {
        /// Which chain.
        chain: ChainId,
        /// From which node.
        source: NodeId,
    }

    /// Drop this node's copy of a chain.
    PyDropReplica DropReplica as "DropReplica", kind "drop_replica", signature "(chain, *, cause=...)" {
        /// Which chain.
        chain: ChainId,
    }

    /// Have one more node hold the chain: `target` if given, else one not in `exclude`.
    PyRequestPlacement RequestPlacement as "RequestPlacement", kind "request_placement",
    signature "(chain, exclude, target, *, cause=...)" {
        /// Which chain.
        chain: ChainId,
        /// Not these nodes, ascending.
        exclude: Vec<NodeId>,
        /// This node.
        target: Option<NodeId>,
    }

    /// Have `victim` drop the chain.
    PyRequestEviction RequestEviction as "RequestEviction", kind "request_eviction",
    signature "(chain, victim, *, cause=...)" {
        /// Which chain.
        chain: ChainId,
        /// Which node.
        victim: NodeId,
    }

    /// Tell whoever places things that a peer is avoided; the loop's own list has it already.
    PyMarkAvoid MarkAvoid as "MarkAvoid", kind "mark_avoid", signature "(peer, reason, until, *, cause=...)" {
        /// Which node.
        peer: NodeId,
        /// Why, for people.
        reason: Arc<str>,
        /// Until when.
        until: Moment,
    }

    /// Commit this node's next maintenance state, and publish it back as observed.
    PyCommitMaintenanceTransition CommitMaintenanceTransition as "CommitMaintenanceTransition",
    kind "commit_maintenance_transition", signature "(node, target, *, cause=...)" {
        /// This node.
        node: NodeId,
        /// The next state.
        target: PyMaintenanceState,
    }
}

impl PyMeshOsAction {
    /// An action with its cause.
    pub fn of(action: &MeshOsAction, cause: &Cause) -> Self {
        let cause = Beside(PyCause::from(cause));
        match action {
            MeshOsAction::StartDaemon { daemon } => PyStartDaemon {
                daemon: daemon.clone(),
                cause,
            }
            .into(),
            MeshOsAction::StopDaemon {
                daemon,
                reason,
                deadline,
            } => PyStopDaemon {
                daemon: daemon.clone(),
                reason: Arc::clone(reason),
                deadline: Moment::of(*deadline),
                cause,
            }
            .into(),
            MeshOsAction::ApplyBackoff { daemon, until } => PyApplyBackoff {
                daemon: daemon.clone(),
                until: Moment::of(*until),
                cause,
            }
            .into(),
            &MeshOsAction::PullReplica { chain, source } => PyPullReplica { chain, source, cause }.into(),
            &MeshOsAction::DropReplica { chain } => PyDropReplica { chain, cause }.into(),
            &MeshOsAction::RequestPlacement {
                chain,
                ref exclude,
                target,
            } => PyRequestPlacement {
                chain,
                exclude: exclude.clone(),
                target,
                cause,
            }
            .into(),
            &MeshOsAction::RequestEviction { chain, victim } => PyRequestEviction { chain, victim, cause }.into(),
            &MeshOsAction::MarkAvoid {
                peer,
                ref reason,
                until,
            } => PyMarkAvoid {
                peer,
                reason: Arc::clone(reason),
                until: Moment::of(until),
                cause,
            }
            .into(),
            &MeshOsAction::CommitMaintenanceTransition { node, ref target } => PyCommitMaintenanceTransition {
                node,
                target: PyMaintenanceState::of(target, 0, 0),
                cause,
            }
            .into(),
        }
    }
}

impl PyMeshOsAction {
    /// The action.
    pub fn core(&self) -> MeshOsAction {
        match self {
            Self::StartDaemon(it) => MeshOsAction::StartDaemon {
                daemon: it.daemon.clone(),
            },
            Self::StopDaemon(it) => MeshOsAction::StopDaemon {
                daemon: it.daemon.clone(),
                reason: Arc::clone(&it.reason),
                deadline: it.deadline.unix_ms(),
            },
            Self::ApplyBackoff(it) => MeshOsAction::ApplyBackoff {
                daemon: it.daemon.clone(),
                until: it.until.unix_ms(),
            },
            Self::PullReplica(it) => MeshOsAction::PullReplica {
                chain: it.chain,
                source: it.source,
            },
            Self::DropReplica(it) => MeshOsAction::DropReplica { chain: it.chain },
            Self::RequestPlacement(it) => MeshOsAction::RequestPlacement {
                chain: it.chain,
                exclude: it.exclude.clone(),
                target: it.target,
            },
            Self::RequestEviction(it) => MeshOsAction::RequestEviction {
                chain: it.chain,
                victim: it.victim,
            },
            Self::MarkAvoid(it) => MeshOsAction::MarkAvoid {
                peer: it.peer,
                reason: Arc::clone(&it.reason),
                until: it.until.unix_ms(),
            },
            Self::CommitMaintenanceTransition(it) => MeshOsAction::CommitMaintenanceTransition {
                node: it.node,
                target: it.target.core(),
            },
        }
    }
}

/// Makes the Python object of an action.
pub fn action<'py>(py: Python<'py>, action: &MeshOsAction, cause: &Cause) -> PyResult<Bound<'py, PyAny>> {
    PyMeshOsAction::of(action, cause).to_python(py)
}

record! {
    /// The executor's queue crossed its mark; `level` is 0 to 1.
    pub struct PyBackpressureChange in "meshos.dispatch" as "BackpressureChange" {
        /// Whether it rose above it.
        asserted: bool,
        /// How full the queue is.
        level: Share,
    }
}
