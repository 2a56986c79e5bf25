//! What the loop decides.
//!
//! Every action may be carried out twice, and twice must be as once. Its [`ActionKey`] says which actions are one:
//! while one of them is under way, none of the same key is emitted.

use std::sync::Arc;

use crate::command::ChainId;
use crate::id::{NodeId, Origin};
use crate::maintenance_state::MaintenanceState;
use crate::signal::DaemonRef;
use crate::time::UnixMs;

/// What led to an action.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cause {
    /// What sort of thing.
    pub kind: CauseKind,
    /// Which, in a few words.
    pub detail: Arc<str>,
    /// The envelope, when an operator ordered it.
    pub envelope_id: Option<[u8; 16]>,
}

/// What sort of thing led to an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CauseKind {
    /// An event.
    Event,
    /// A sample of a probe.
    Probe,
    /// A deadline.
    Timer,
    /// A command.
    Operator,
    /// The full sweep found it.
    Sweep,
}

impl CauseKind {
    /// Stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Probe => "probe",
            Self::Timer => "timer",
            Self::Operator => "operator",
            Self::Sweep => "sweep",
        }
    }
}

/// An action.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MeshOsAction {
    /// Make the daemon run.
    StartDaemon {
        /// Which.
        daemon: DaemonRef,
    },
    /// Stop the daemon, by force after the deadline.
    StopDaemon {
        /// Which.
        daemon: DaemonRef,
        /// Why, for people.
        reason: Arc<str>,
        /// Until when it may take its time.
        deadline: UnixMs,
    },
    /// Do not start the daemon before `until`.
    ApplyBackoff {
        /// Which.
        daemon: DaemonRef,
        /// Until when.
        until: UnixMs,
    },
    /// Copy a chain to this node.
    PullReplica {
        /// Which.
        chain: ChainId,
        /// From whom.
        source: NodeId,
    },
    /// Drop this node's copy of a chain.
    DropReplica {
        /// Which.
        chain: ChainId,
    },
    /// Have one more node hold the chain.
    RequestPlacement {
        /// Which.
        chain: ChainId,
        /// Not these, ascending.
        exclude: Vec<NodeId>,
        /// This one, if given.
        target: Option<NodeId>,
    },
    /// Have a node drop the chain.
    RequestEviction {
        /// Which.
        chain: ChainId,
        /// Who.
        victim: NodeId,
    },
    /// Tell whoever places things that a peer is avoided.
    MarkAvoid {
        /// Which.
        peer: NodeId,
        /// Why, for people.
        reason: Arc<str>,
        /// Until when.
        until: UnixMs,
    },
    /// Commit this node's next maintenance state.
    CommitMaintenanceTransition {
        /// This node.
        node: NodeId,
        /// The next state.
        target: MaintenanceState,
    },
}

/// What makes two actions one and the same piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ActionKey {
    /// The maintenance of this node.
    Maintenance,
    /// Starting or stopping a daemon: one excludes the other.
    Daemon(Origin),
    /// The backoff of a daemon.
    Backoff(Origin),
    /// The copy of a chain on this node: pulling excludes dropping.
    Local(ChainId),
    /// Placing a copy of a chain somewhere.
    Placement(ChainId),
    /// Taking a copy of a chain away.
    Eviction(ChainId),
    /// Avoiding a peer.
    Avoid(NodeId),
}

/// Which actions go first when not all can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// Maintenance and what operators force.
    Urgent,
    /// Starts and stops of daemons.
    Daemon,
    /// Replicas.
    Replica,
    /// What only tells somebody something.
    Notice,
}

impl MeshOsAction {
    /// Stable name.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::StartDaemon { .. } => "start_daemon",
            Self::StopDaemon { .. } => "stop_daemon",
            Self::ApplyBackoff { .. } => "apply_backoff",
            Self::PullReplica { .. } => "pull_replica",
            Self::DropReplica { .. } => "drop_replica",
            Self::RequestPlacement { .. } => "request_placement",
            Self::RequestEviction { .. } => "request_eviction",
            Self::MarkAvoid { .. } => "mark_avoid",
            Self::CommitMaintenanceTransition { .. } => "commit_maintenance_transition",
        }
    }

    /// What makes it the same piece of work as another.
    #[must_use]
    pub const fn key(&self) -> ActionKey {
        match self {
            Self::StartDaemon { daemon } | Self::StopDaemon { daemon, .. } => ActionKey::Daemon(daemon.id),
            Self::ApplyBackoff { daemon, .. } => ActionKey::Backoff(daemon.id),
            Self::PullReplica { chain, .. } | Self::DropReplica { chain } => ActionKey::Local(*chain),
            Self::RequestPlacement { chain, .. } => ActionKey::Placement(*chain),
            Self::RequestEviction { chain, .. } => ActionKey::Eviction(*chain),
            Self::MarkAvoid { peer, .. } => ActionKey::Avoid(*peer),
            Self::CommitMaintenanceTransition { .. } => ActionKey::Maintenance,
        }
    }

    /// The daemon, chain or node it is about.
    #[must_use]
    pub const fn target(&self) -> u64 {
        match self {
            Self::StartDaemon { daemon } | Self::StopDaemon { daemon, .. } | Self::ApplyBackoff { daemon, .. } => {
                daemon.id.get()
            }
            Self::PullReplica { chain, .. }
            | Self::DropReplica { chain }
            | Self::RequestPlacement { chain, .. }
            | Self::RequestEviction { chain, .. } => chain.get(),
            Self::MarkAvoid { peer: node, .. } | Self::CommitMaintenanceTransition { node, .. } => node.get(),
        }
    }

    /// Whether it is the same work as another of its key: what differs is detail.
    #[must_use]
    pub fn is_same_work(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::StartDaemon { .. }, Self::StartDaemon { .. })
            | (Self::StopDaemon { .. }, Self::StopDaemon { .. })
            // From whom is detail: who waits for its turn takes whoever is best when it comes.
            | (Self::PullReplica { .. }, Self::PullReplica { .. })
            | (Self::DropReplica { .. }, Self::DropReplica { .. })
            | (Self::MarkAvoid { .. }, Self::MarkAvoid { .. }) => self.key() == other.key(),
            (
                Self::CommitMaintenanceTransition { target: one, .. },
                Self::CommitMaintenanceTransition { target: two, .. },
            ) => one.phase() == two.phase(),
            (
                Self::RequestPlacement {
                    chain: one,
                    target: target_one,
                    ..
                },
                Self::RequestPlacement {
                    chain: two,
                    target: target_two,
                    ..
                },
            ) => (one, target_one) == (two, target_two),
            _ => self == other,
        }
    }

    /// Whether the world shows that it took effect: then it is under way until the world does. The others are done
    /// when their dispatch is.
    #[must_use]
    pub const fn is_confirmed_by_the_world(&self) -> bool {
        !matches!(self, Self::ApplyBackoff { .. } | Self::MarkAvoid { .. })
    }
}
