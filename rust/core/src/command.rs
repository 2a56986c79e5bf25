//! What operators order: ordinary commands, and break-glass ones.

use std::time::Duration;

use crate::id::{NodeId, Origin};
use crate::time::UnixMs;

/// Origin hash of a replicated chain.
pub type ChainId = Origin;

/// An ordinary command of an operator.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AdminEvent {
    /// Drain the node and keep it out of service.
    EnterMaintenance {
        /// Which node.
        node: NodeId,
        /// How long draining may take; `None`: the configured deadline.
        drain_for: Option<Duration>,
    },
    /// Bring the node back, also while it still drains.
    ExitMaintenance {
        /// Which node.
        node: NodeId,
    },
    /// Move everything off the node, then return it to service.
    Drain {
        /// Which node.
        node: NodeId,
        /// How long draining may take.
        drain_for: Duration,
    },
    /// Place nothing new on the node.
    Cordon {
        /// Which node.
        node: NodeId,
    },
    /// Place things on the node again.
    Uncordon {
        /// Which node.
        node: NodeId,
    },
    /// Stop and start every supervised daemon of the node.
    RestartAllDaemons {
        /// Which node.
        node: NodeId,
    },
    /// Clear the avoid list of the node.
    ClearAvoidList {
        /// Which node.
        node: NodeId,
    },
    /// Let the node drop its copies of chains.
    DropReplicas {
        /// Which node.
        node: NodeId,
        /// Which chains.
        chains: Vec<ChainId>,
    },
    /// Score the chains led by the node anew.
    InvalidatePlacement {
        /// Which node.
        node: NodeId,
    },
}

impl AdminEvent {
    /// Stable name.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::EnterMaintenance { .. } => "enter_maintenance",
            Self::ExitMaintenance { .. } => "exit_maintenance",
            Self::Drain { .. } => "drain",
            Self::Cordon { .. } => "cordon",
            Self::Uncordon { .. } => "uncordon",
            Self::RestartAllDaemons { .. } => "restart_all_daemons",
            Self::ClearAvoidList { .. } => "clear_avoid_list",
            Self::DropReplicas { .. } => "drop_replicas",
            Self::InvalidatePlacement { .. } => "invalidate_placement",
        }
    }
}

/// Which avoid lists are flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AvoidScope {
    /// The list of one node.
    Local(NodeId),
    /// The entry of one peer, on every node.
    OnPeer(NodeId),
    /// All lists.
    Global,
}

/// A break-glass command; it needs the signatures of several operators.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum IceAction {
    /// Stop acting, for so long.
    FreezeCluster {
        /// How long.
        ttl: Duration,
    },
    /// Act again.
    ThawCluster,
    /// Flush avoid lists.
    FlushAvoidLists {
        /// Which.
        scope: AvoidScope,
    },
    /// Take a copy away from a node.
    ForceEvictReplica {
        /// Which chain.
        chain: ChainId,
        /// From whom.
        victim: NodeId,
    },
    /// Restart a daemon now, whatever its backoff says.
    ForceRestartDaemon {
        /// Which daemon.
        daemon: Origin,
        /// Its name, as the operator saw it.
        name: String,
    },
    /// Put a copy on a node.
    ForceCutover {
        /// Which chain.
        chain: ChainId,
        /// Where.
        target: NodeId,
    },
    /// End a move.
    KillMigration {
        /// The daemon that moves.
        migration: Origin,
    },
}

impl IceAction {
    /// Stable name.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::FreezeCluster { .. } => "freeze_cluster",
            Self::ThawCluster => "thaw_cluster",
            Self::FlushAvoidLists { .. } => "flush_avoid_lists",
            Self::ForceEvictReplica { .. } => "force_evict_replica",
            Self::ForceRestartDaemon { .. } => "force_restart_daemon",
            Self::ForceCutover { .. } => "force_cutover",
            Self::KillMigration { .. } => "kill_migration",
        }
    }
}

/// One or the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Order {
    /// An ordinary command; refused while the cluster is frozen.
    Admin(AdminEvent),
    /// A break-glass command; a freeze does not hold it up.
    Ice(IceAction),
}

impl Order {
    /// Stable name.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Admin(event) => event.kind(),
            Self::Ice(action) => action.kind(),
        }
    }
}

/// Whether a command was allowed. It is decided elsewhere, and enters the loop as data.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Its signatures are good and its operators may.
    Accepted,
    /// Nobody checks here, and the configuration says to obey.
    Open,
    /// It was refused.
    Rejected {
        /// Stable name of the reason.
        kind: &'static str,
    },
}

/// A command with what was found out about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Command {
    /// What is ordered.
    pub order: Order,
    /// Whether it may.
    pub verdict: Verdict,
    /// Operators whose signatures verified.
    pub operators: Vec<u64>,
    /// Why, in the operator's words.
    pub reason: String,
    /// The envelope it came in.
    pub envelope_id: Option<[u8; 16]>,
    /// When that was made.
    pub issued_at: Option<UnixMs>,
}
