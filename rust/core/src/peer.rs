//! Other nodes, as this one sees them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::finite::{Finite, Share};
use crate::id::NodeId;
use crate::time::UnixMs;

/// How another node looks from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeHealth {
    /// It answers in time.
    Healthy,
    /// It answers late.
    Degraded,
    /// It does not answer.
    Unreachable,
}

/// What a node has; `None` was not sampled, and leaves what another probe said alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PeerInventory {
    /// Load average of one minute.
    pub cpu_load_1m: Option<Finite>,
    /// Memory in use.
    pub mem_used_bytes: Option<u64>,
    /// Memory there is.
    pub mem_total_bytes: Option<u64>,
    /// Disk in use.
    pub disk_used_bytes: Option<u64>,
    /// Disk there is.
    pub disk_total_bytes: Option<u64>,
    /// Where the load is heading, 0 to 1.
    pub saturation_trend: Option<Share>,
    /// Capability tags.
    pub capability_set: Option<Arc<BTreeSet<String>>>,
    /// Version of its software.
    pub software_version: Option<Arc<str>>,
    /// The node it was forked from.
    pub forked_from: Option<NodeId>,
}

impl PeerInventory {
    /// Takes each axis that `newer` has.
    pub fn merge(&mut self, newer: &Self) {
        fn take<T: Clone>(axis: &mut Option<T>, newer: &Option<T>) {
            if newer.is_some() {
                axis.clone_from(newer);
            }
        }
        take(&mut self.cpu_load_1m, &newer.cpu_load_1m);
        take(&mut self.mem_used_bytes, &newer.mem_used_bytes);
        take(&mut self.mem_total_bytes, &newer.mem_total_bytes);
        take(&mut self.disk_used_bytes, &newer.disk_used_bytes);
        take(&mut self.disk_total_bytes, &newer.disk_total_bytes);
        take(&mut self.saturation_trend, &newer.saturation_trend);
        take(&mut self.capability_set, &newer.capability_set);
        take(&mut self.software_version, &newer.software_version);
        take(&mut self.forked_from, &newer.forked_from);
    }
}

/// A peer that nothing new is placed on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AvoidEntry {
    /// Why, for people.
    pub reason: Arc<str>,
    /// Until when.
    pub until: UnixMs,
}

/// Samples of one kind of probe.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Samples {
    /// Round trips.
    Locality(Vec<(NodeId, Duration)>),
    /// Health.
    Health(Vec<(NodeId, NodeHealth)>),
    /// What nodes have.
    Inventory(Vec<(NodeId, PeerInventory)>),
}
