//! What a break-glass action will touch, as operators see it before they sign.
//!
//! Invariants
//! * Lists are ascending and without repetition, so one radius has one encoding.
//! * Churn is a whole number of basis points: nothing that is hashed is a fraction.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::codec::{DecodeError, Fault, Put, Reader, Unwritable};
use crate::command::ChainId;
use crate::id::{NodeId, Origin};

/// Version of the encoding.
pub const VERSION: u8 = 1;
/// Entries of one list.
pub const ENTRIES_MAX: usize = 65_536;
/// Bytes of a daemon's name.
pub const NAME_BYTES_MAX: usize = 255;
/// Arguments of one warning.
const ARGUMENTS_MAX: usize = 2;

const DOMAIN: &[u8] = b"meshos.blast.v1\0";

/// A hint that does not stop anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlastWarning {
    /// Ordinary commands are refused while the cluster is frozen.
    ClusterFreezeBlocksOperatorActions,
    /// What waited during the freeze begins.
    ThawResumesPendingReconciles,
    /// There is no freeze to end.
    ThawHasNoFreezeToCancel,
    /// A peer that is still slow is put back on the list.
    GlobalAvoidFlushMayReEmit,
    /// Other nodes keep their lists.
    AvoidFlushLocalToTargetNodeOnly,
    /// The peer may get new work again.
    AvoidFlushRecoversPeer(NodeId),
    /// The chain's cooldown does not hold it up.
    ForcedEvictionBypassesCooldown(ChainId, NodeId),
    /// Nothing is known of the chain.
    ForcedEvictionTargetsUnknownChain(ChainId),
    /// The victim has no copy.
    ForcedEvictionTargetsNonHolder(ChainId, NodeId),
    /// The daemon's backoff does not hold it up.
    ForcedRestartBypassesBackoff(Origin),
    /// Nothing is known of the daemon.
    ForcedRestartTargetsUnknownDaemon,
    /// The daemon is not held up by a backoff.
    ForcedRestartDaemonNotInBackoff,
    /// No scorer is asked.
    ForcedCutoverBypassesPlacementScorer(ChainId, NodeId),
    /// Nothing is known of the chain.
    ForcedCutoverTargetsUnknownChain(ChainId),
    /// The target has a copy already.
    ForcedCutoverTargetAlreadyHolder(ChainId, NodeId),
    /// Moves of other nodes are not visible here.
    KillMigrationOnlyLocalVisible(Origin),
}

impl BlastWarning {
    /// Its number on the wire.
    #[must_use]
    pub const fn tag(self) -> u8 {
        match self {
            Self::ClusterFreezeBlocksOperatorActions => 1,
            Self::ThawResumesPendingReconciles => 2,
            Self::ThawHasNoFreezeToCancel => 3,
            Self::GlobalAvoidFlushMayReEmit => 4,
            Self::AvoidFlushLocalToTargetNodeOnly => 5,
            Self::AvoidFlushRecoversPeer(_) => 6,
            Self::ForcedEvictionBypassesCooldown(..) => 7,
            Self::ForcedEvictionTargetsUnknownChain(_) => 8,
            Self::ForcedEvictionTargetsNonHolder(..) => 9,
            Self::ForcedRestartBypassesBackoff(_) => 10,
            Self::ForcedRestartTargetsUnknownDaemon => 11,
            Self::ForcedRestartDaemonNotInBackoff => 12,
            Self::ForcedCutoverBypassesPlacementScorer(..) => 13,
            Self::ForcedCutoverTargetsUnknownChain(_) => 14,
            Self::ForcedCutoverTargetAlreadyHolder(..) => 15,
            Self::KillMigrationOnlyLocalVisible(_) => 16,
        }
    }

    /// Stable name.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::ClusterFreezeBlocksOperatorActions => "cluster_freeze_blocks_operator_actions",
            Self::ThawResumesPendingReconciles => "thaw_resumes_pending_reconciles",
            Self::ThawHasNoFreezeToCancel => "thaw_has_no_freeze_to_cancel",
            Self::GlobalAvoidFlushMayReEmit => "global_avoid_flush_may_re_emit",
            Self::AvoidFlushLocalToTargetNodeOnly => "avoid_flush_local_to_target_node_only",
            Self::AvoidFlushRecoversPeer(_) => "avoid_flush_recovers_peer",
            Self::ForcedEvictionBypassesCooldown(..) => "forced_eviction_bypasses_cooldown",
            Self::ForcedEvictionTargetsUnknownChain(_) => "forced_eviction_targets_unknown_chain",
            Self::ForcedEvictionTargetsNonHolder(..) => "forced_eviction_targets_non_holder",
            Self::ForcedRestartBypassesBackoff(_) => "forced_restart_bypasses_backoff",
            Self::ForcedRestartTargetsUnknownDaemon => "forced_restart_targets_unknown_daemon",
            Self::ForcedRestartDaemonNotInBackoff => "forced_restart_daemon_not_in_backoff",
            Self::ForcedCutoverBypassesPlacementScorer(..) => "forced_cutover_bypasses_placement_scorer",
            Self::ForcedCutoverTargetsUnknownChain(_) => "forced_cutover_targets_unknown_chain",
            Self::ForcedCutoverTargetAlreadyHolder(..) => "forced_cutover_target_already_holder",
            Self::KillMigrationOnlyLocalVisible(_) => "kill_migration_only_local_visible",
        }
    }

    /// The ids it is about.
    #[must_use]
    pub fn targets(self) -> Vec<u64> {
        match self {
            Self::ClusterFreezeBlocksOperatorActions
            | Self::ThawResumesPendingReconciles
            | Self::ThawHasNoFreezeToCancel
            | Self::GlobalAvoidFlushMayReEmit
            | Self::AvoidFlushLocalToTargetNodeOnly
            | Self::ForcedRestartTargetsUnknownDaemon
            | Self::ForcedRestartDaemonNotInBackoff => Vec::new(),
            Self::AvoidFlushRecoversPeer(node) => vec![node.get()],
            Self::ForcedEvictionTargetsUnknownChain(chain)
            | Self::ForcedCutoverTargetsUnknownChain(chain)
            | Self::ForcedRestartBypassesBackoff(chain)
            | Self::KillMigrationOnlyLocalVisible(chain) => vec![chain.get()],
            Self::ForcedEvictionBypassesCooldown(chain, node)
            | Self::ForcedEvictionTargetsNonHolder(chain, node)
            | Self::ForcedCutoverBypassesPlacementScorer(chain, node)
            | Self::ForcedCutoverTargetAlreadyHolder(chain, node) => vec![chain.get(), node.get()],
        }
    }

    /// The warning of a tag and its arguments; `None`: there is none of that tag with so many.
    #[must_use]
    pub fn of(tag: u8, targets: &[u64]) -> Option<Self> {
        Some(match (tag, targets) {
            (1, []) => Self::ClusterFreezeBlocksOperatorActions,
            (2, []) => Self::ThawResumesPendingReconciles,
            (3, []) => Self::ThawHasNoFreezeToCancel,
            (4, []) => Self::GlobalAvoidFlushMayReEmit,
            (5, []) => Self::AvoidFlushLocalToTargetNodeOnly,
            (6, [node]) => Self::AvoidFlushRecoversPeer(NodeId::new(*node)),
            (7, [chain, node]) => Self::ForcedEvictionBypassesCooldown(ChainId::new(*chain), NodeId::new(*node)),
            (8, [chain]) => Self::ForcedEvictionTargetsUnknownChain(ChainId::new(*chain)),
            (9, [chain, node]) => Self::ForcedEvictionTargetsNonHolder(ChainId::new(*chain), NodeId::new(*node)),
            (10, [daemon]) => Self::ForcedRestartBypassesBackoff(Origin::new(*daemon)),
            (11, []) => Self::ForcedRestartTargetsUnknownDaemon,
            (12, []) => Self::ForcedRestartDaemonNotInBackoff,
            (13, [chain, node]) => Self::ForcedCutoverBypassesPlacementScorer(ChainId::new(*chain), NodeId::new(*node)),
            (14, [chain]) => Self::ForcedCutoverTargetsUnknownChain(ChainId::new(*chain)),
            (15, [chain, node]) => Self::ForcedCutoverTargetAlreadyHolder(ChainId::new(*chain), NodeId::new(*node)),
            (16, [migration]) => Self::KillMigrationOnlyLocalVisible(Origin::new(*migration)),
            _ => return None,
        })
    }
}

/// What an action will touch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct BlastRadius {
    /// Nodes that observe it, ascending.
    pub nodes: Vec<NodeId>,
    /// Chains whose holders shift, ascending.
    pub replicas: Vec<ChainId>,
    /// Daemons whose life shifts, ascending, with their names.
    pub daemons: Vec<(Origin, String)>,
    /// How long it has an effect, in milliseconds.
    pub delay_ms: Option<u64>,
    /// Churn of placement, in basis points.
    pub churn: u32,
    /// Hints, in the order of their making.
    pub warnings: Vec<BlastWarning>,
}

impl BlastRadius {
    /// How long it has an effect.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.delay_ms.map(Duration::from_millis)
    }

    /// Its one encoding.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.put_count_u32(self.nodes.len());
        for node in &self.nodes {
            bytes.put_u64(node.get());
        }
        bytes.put_count_u32(self.replicas.len());
        for chain in &self.replicas {
            bytes.put_u64(chain.get());
        }
        bytes.put_count_u32(self.daemons.len());
        for (daemon, name) in &self.daemons {
            bytes.put_u64(daemon.get());
            bytes.put_str_u32(name);
        }
        bytes.put_option_u64(self.delay_ms);
        bytes.put_u32(self.churn);
        bytes.put_count_u32(self.warnings.len());
        for warning in &self.warnings {
            let targets = warning.targets();
            bytes.push(warning.tag());
            bytes.push(u8::try_from(targets.len()).expect("at most two"));
            for target in targets {
                bytes.put_u64(target);
            }
        }
        bytes
    }

    /// Checks that it can be written, and is then read as itself.
    ///
    /// # Errors
    /// [`Unwritable`], with the name of the field as operators see it.
    pub fn validate(&self) -> Result<(), Unwritable> {
        const COUNT: &str = "must have at most 65536 entries";
        const ORDER: &str = "must be ascending, without repetition";
        let names = self.daemons.iter().map(|(_, name)| name.len());
        Unwritable::first(&[
            ("affected_nodes", self.nodes.len() <= ENTRIES_MAX, COUNT),
            ("affected_nodes", self.nodes.is_sorted_by(|one, two| one < two), ORDER),
            ("affected_replicas", self.replicas.len() <= ENTRIES_MAX, COUNT),
            (
                "affected_replicas",
                self.replicas.is_sorted_by(|one, two| one < two),
                ORDER,
            ),
            ("affected_daemons", self.daemons.len() <= ENTRIES_MAX, COUNT),
            (
                "affected_daemons",
                self.daemons.is_sorted_by(|one, two| one.0 < two.0),
                ORDER,
            ),
            (
                "affected_daemons",
                names.max() <= Some(NAME_BYTES_MAX),
                "must have names of at most 255 bytes",
            ),
            ("warnings", self.warnings.len() <= ENTRIES_MAX, COUNT),
        ])
    }

    /// Hash of its encoding; what operators sign of it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        hash_of(&self.to_bytes())
    }

    /// Reads one encoding, and nothing behind it.
    ///
    /// # Errors
    /// [`DecodeError`]: it is not the one encoding of a radius.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::read(Reader::new(bytes))
    }

    /// Reads one encoding to the end.
    ///
    /// # Errors
    /// As [`BlastRadius::decode`].
    pub fn read(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        reader.version_u8(VERSION)?;
        let nodes = ascending(&mut reader, |reader| reader.u64().map(NodeId::new))?;
        let replicas = ascending(&mut reader, |reader| reader.u64().map(ChainId::new))?;
        let daemons = read_daemons(&mut reader)?;
        let delay_ms = reader.option_u64()?;
        let churn = reader.u32()?;
        let count = reader.count_below(2, ENTRIES_MAX)?;
        let mut warnings = Vec::with_capacity(count);
        for _ in 0..count {
            let at = reader.clone();
            let tag = reader.u8()?;
            let arguments = usize::from(reader.u8()?);
            if arguments > ARGUMENTS_MAX {
                return Err(at.fault(Fault::Invalid { field: "warning" }));
            }
            let mut targets = Vec::with_capacity(arguments);
            for _ in 0..arguments {
                targets.push(reader.u64()?);
            }
            let warning = BlastWarning::of(tag, &targets);
            warnings.push(warning.ok_or_else(|| at.fault(Fault::Invalid { field: "warning" }))?);
        }
        reader.expect_end()?;
        Ok(Self {
            nodes,
            replicas,
            daemons,
            delay_ms,
            churn,
            warnings,
        })
    }
}

/// Hash of the encoding of a radius.
#[must_use]
pub fn hash_of(bytes: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(DOMAIN).chain_update(bytes).finalize().into()
}

fn ascending<T: Ord + Copy>(
    reader: &mut Reader<'_>,
    read: impl Fn(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = reader.count_below(8, ENTRIES_MAX)?;
    let mut list: Vec<T> = Vec::with_capacity(count);
    for _ in 0..count {
        let at = reader.clone();
        let entry = read(reader)?;
        if list.last().is_some_and(|last| *last >= entry) {
            return Err(at.fault(Fault::Invalid { field: "order" }));
        }
        list.push(entry);
    }
    Ok(list)
}

fn read_daemons(reader: &mut Reader<'_>) -> Result<Vec<(Origin, String)>, DecodeError> {
    let count = reader.count_below(12, ENTRIES_MAX)?;
    let mut daemons: Vec<(Origin, String)> = Vec::with_capacity(count);
    for _ in 0..count {
        let at = reader.clone();
        let daemon = Origin::new(reader.u64()?);
        if daemons.last().is_some_and(|(last, _)| *last >= daemon) {
            return Err(at.fault(Fault::Invalid { field: "order" }));
        }
        daemons.push((daemon, reader.str_u32(NAME_BYTES_MAX)?.to_owned()));
    }
    Ok(daemons)
}
