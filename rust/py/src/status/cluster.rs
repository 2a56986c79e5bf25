//! Chains and other nodes, as a snapshot of the loop shows them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use meshos_core::finite::Finite;
use meshos_core::id::NodeId;
use meshos_core::maintenance_state::MaintenancePhase;
use meshos_core::peer::{AvoidEntry, NodeHealth};
use meshos_core::status::{ChainState, PeerState};
use pyo3::prelude::*;

use crate::record::field::Share;
use crate::record::moment::Moment;
use crate::record::record;

record! {
    /// One replicated chain.
    pub struct PyReplicaSnapshot in "meshos.status" as "ReplicaSnapshot", by keyword {
        /// Nodes that hold a copy, ascending.
        holders: Vec<NodeId>,
        /// How many copies are wanted; `None`: nobody said.
        desired_count: Option<u32>,
        /// The node that leads.
        leader: Option<NodeId>,
        /// Term of the election that said so.
        term: u64,
    }
}

impl PyReplicaSnapshot {
    /// Whether a chain is one: somebody holds a copy, or wants one.
    pub fn exists(chain: &ChainState) -> bool {
        !chain.holders.is_empty() || chain.desired.is_some() || chain.local.is_some()
    }
}

impl From<&ChainState> for PyReplicaSnapshot {
    fn from(chain: &ChainState) -> Self {
        Self {
            holders: chain.holders.to_vec(),
            desired_count: chain.desired,
            leader: chain.leader,
            term: chain.term,
        }
    }
}

record! {
    /// Another node; `None` where nothing is known.
    pub struct PyPeerSnapshot in "meshos.status" as "PeerSnapshot", by keyword {
        /// Round trip as sampled last.
        rtt: Option<Duration>,
        /// How it looks.
        health: Option<NodeHealth>,
        /// Its maintenance.
        maintenance: Option<MaintenancePhase>,
        /// Whether nothing new is placed on it.
        cordoned: bool,
        /// Load average of one minute.
        cpu_load_1m: Option<Finite>,
        /// Memory in use.
        mem_used_bytes: Option<u64>,
        /// Memory there is.
        mem_total_bytes: Option<u64>,
        /// Disk in use.
        disk_used_bytes: Option<u64>,
        /// Disk there is.
        disk_total_bytes: Option<u64>,
        /// Where its load is heading, 0 to 1.
        saturation_trend: Option<Share>,
        /// Capability tags.
        capability_set: Arc<BTreeSet<String>>,
        /// Version of its software.
        software_version: Option<Arc<str>>,
        /// The node it was forked from.
        forked_from: Option<NodeId>,
    }
}

impl From<&PeerState> for PyPeerSnapshot {
    fn from(peer: &PeerState) -> Self {
        let inventory = &peer.inventory;
        Self {
            rtt: peer.rtt,
            health: peer.health,
            maintenance: peer.maintenance,
            cordoned: peer.cordoned,
            cpu_load_1m: inventory.cpu_load_1m,
            mem_used_bytes: inventory.mem_used_bytes,
            mem_total_bytes: inventory.mem_total_bytes,
            disk_used_bytes: inventory.disk_used_bytes,
            disk_total_bytes: inventory.disk_total_bytes,
            saturation_trend: inventory.saturation_trend.map(Into::into),
            capability_set: inventory.capability_set.clone().unwrap_or_default(),
            software_version: inventory.software_version.clone(),
            forked_from: inventory.forked_from,
        }
    }
}

record! {
    /// A peer that nothing new is placed on.
    pub struct PyAvoidEntry in "meshos.status" as "AvoidEntry" {
        /// Why, for people.
        reason: Arc<str>,
        /// Until when.
        until: Moment,
    }
}

impl From<&AvoidEntry> for PyAvoidEntry {
    fn from(entry: &AvoidEntry) -> Self {
        Self {
            reason: Arc::clone(&entry.reason),
            until: Moment::of(entry.until),
        }
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyReplicaSnapshot>()?;
    module.add_class::<PyPeerSnapshot>()?;
    module.add_class::<PyAvoidEntry>()
}
