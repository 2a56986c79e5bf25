//! Why a command was refused.

use std::fmt;

use crate::command::{AvoidScope, IceAction};
use crate::time::UnixMs;

/// What an operator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Viewer,
    /// Sign ordinary commands.
    Admin,
    /// Sign break-glass actions.
    Ice,
}

impl Role {
    /// Stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Admin => "admin",
            Self::Ice => "ice",
        }
    }
}

/// What a cooldown is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bucket {
    /// Freezing the cluster.
    Freeze,
    /// Flushing all avoid lists.
    Flush,
    /// One node.
    Node(u64),
    /// One daemon.
    Daemon(u64),
    /// One move.
    Migration(u64),
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Freeze => write!(f, "cluster:freeze"),
            Self::Flush => write!(f, "cluster:flush"),
            Self::Node(node) => write!(f, "node:{node}"),
            Self::Daemon(daemon) => write!(f, "daemon:{daemon}"),
            Self::Migration(migration) => write!(f, "migration:{migration}"),
        }
    }
}

/// What an action is held up by, and holds up; `None`: nothing.
#[must_use]
pub const fn bucket(action: &IceAction) -> Option<Bucket> {
    Some(match action {
        IceAction::FreezeCluster { .. } => Bucket::Freeze,
        IceAction::ThawCluster => return None,
        IceAction::FlushAvoidLists { scope } => match scope {
            AvoidScope::Local(node) | AvoidScope::OnPeer(node) => Bucket::Node(node.get()),
            AvoidScope::Global => Bucket::Flush,
        },
        IceAction::ForceEvictReplica { victim: node, .. } | IceAction::ForceCutover { target: node, .. } => {
            Bucket::Node(node.get())
        }
        IceAction::ForceRestartDaemon { daemon, .. } => Bucket::Daemon(daemon.get()),
        IceAction::KillMigration { migration } => Bucket::Migration(migration.get()),
    })
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Refused {
    /// It is for another cluster.
    WrongCluster,
    /// It carries more signatures than anybody looks at.
    BundleTooLarge {
        /// How many.
        len: usize,
        /// How many are looked at.
        max: usize,
    },
    /// It is too old.
    EnvelopeExpired {
        /// When it was made.
        issued_at: UnixMs,
        /// When it was void at the latest.
        not_after: UnixMs,
        /// When it was looked at.
        now: UnixMs,
    },
    /// It is of the future.
    EnvelopeFromFuture {
        /// When it claims to be made.
        issued_at: UnixMs,
        /// When it was looked at.
        now: UnixMs,
    },
    /// It was obeyed before, or is as old as what was forgotten.
    Replayed {
        /// Which.
        envelope_id: [u8; 16],
    },
    /// So many were obeyed lately that their ids cannot be kept.
    Overloaded,
    /// It has no signature.
    Unsigned,
    /// The key is not an operator's, or not now.
    NotAuthorized {
        /// Whose.
        operator: u64,
    },
    /// The operator may not do this.
    RoleDenied {
        /// Who.
        operator: u64,
        /// What they would need.
        role: Role,
    },
    /// A signature does not fit.
    SignatureInvalid {
        /// Whose.
        operator: u64,
    },
    /// Too few operators signed.
    InsufficientSignatures {
        /// Distinct operators with a good signature.
        got: usize,
        /// How many are needed.
        required: usize,
    },
    /// It would touch what the operators did not see.
    PreviewStale {
        /// What, in words.
        drift: Vec<String>,
    },
    /// Nobody looked at what it would touch.
    SimulationRequired,
    /// Its target is left alone for a while.
    CooldownActive {
        /// Which.
        bucket: Bucket,
        /// Until when.
        until: UnixMs,
    },
    /// A span in it is out of range.
    InvalidSpan,
    /// The cluster is frozen, and it is an ordinary command.
    FreezeInEffect {
        /// Until when.
        until: UnixMs,
    },
    /// The audit appender failed, and the configuration says that it must not.
    AuditRequired,
    /// Nobody checks signatures here.
    NoVerifier,
}

/// The stable name of every reason, as records keep it.
pub const KINDS: &[&str] = &[
    "wrong_cluster",
    "bundle_too_large",
    "envelope_expired",
    "envelope_from_future",
    "replayed",
    "overloaded",
    "unsigned_rejected",
    "not_authorized",
    "role_denied",
    "signature_invalid",
    "insufficient_signatures",
    "preview_stale",
    "ice_cooldown_active",
    "invalid_span",
    "freeze_in_effect",
    "audit_required",
    "no_verifier",
    "simulation_required",
];

impl Refused {
    /// Stable name.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::WrongCluster => "wrong_cluster",
            Self::BundleTooLarge { .. } => "bundle_too_large",
            Self::EnvelopeExpired { .. } => "envelope_expired",
            Self::EnvelopeFromFuture { .. } => "envelope_from_future",
            Self::Replayed { .. } => "replayed",
            Self::Overloaded => "overloaded",
            Self::Unsigned => "unsigned_rejected",
            Self::NotAuthorized { .. } => "not_authorized",
            Self::RoleDenied { .. } => "role_denied",
            Self::SignatureInvalid { .. } => "signature_invalid",
            Self::InsufficientSignatures { .. } => "insufficient_signatures",
            Self::PreviewStale { .. } => "preview_stale",
            Self::SimulationRequired => "simulation_required",
            Self::CooldownActive { .. } => "ice_cooldown_active",
            Self::InvalidSpan => "invalid_span",
            Self::FreezeInEffect { .. } => "freeze_in_effect",
            Self::AuditRequired => "audit_required",
            Self::NoVerifier => "no_verifier",
        }
    }
}
