//! Other nodes, and the maintenance of this one.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::action::CauseKind;
use crate::id::NodeId;
use crate::maintenance::{Change, MaintenanceSignal};
use crate::maintenance_state::MaintenancePhase;
use crate::peer::{NodeHealth, PeerInventory, Samples};
use crate::world::{Key, Why, World};

use super::Told;

pub(super) fn round_trip(world: &mut World, peer: NodeId, rtt: Duration, why: Why) {
    if peer == world.this_node {
        return;
    }
    let threshold = world.config.locality.degraded_rtt_threshold;
    world.peer(peer, why, |known| {
        let smooth = known.rtt_smooth.map_or(rtt, |smooth| (smooth * 7 + rtt * 3) / 10);
        known.rtt_smooth = Some(smooth);
        if rtt > threshold {
            known.slow_samples = known.slow_samples.saturating_add(1);
        } else if rtt < threshold / 5 * 4 {
            known.slow_samples = 0;
        }
        known.rtt.replace(rtt) != Some(rtt)
    });
}

pub(super) fn node_health(world: &mut World, peer: NodeId, health: NodeHealth, why: Why) {
    if peer == world.this_node {
        return;
    }
    let now = world.now;
    let mut turned = false;
    world.peer(peer, why, |known| {
        turned = known.health != Some(health);
        known.health = Some(health);
        if health != NodeHealth::Unreachable {
            known.unreachable_since = None;
        } else if known.unreachable_since.is_none() {
            known.unreachable_since = Some(now);
        }
        turned
    });
    if turned {
        world.judge(peer, why);
    }
}

pub(super) fn mirror(world: &mut World, node: NodeId, phase: MaintenancePhase, why: Why) {
    world.peer(node, why, |known| known.maintenance.replace(phase) != Some(phase));
    world.judge(node, why);
}

/// Sends a signal to this node's maintenance.
pub fn maintenance(world: &mut World, told: &mut Told, signal: MaintenanceSignal, why: Why) {
    let before = world.machine.state.phase();
    match world.machine.signal(signal, world.now) {
        Ok(change) => enter(world, told, before, &change, why),
        Err(refused) => told.refused_arcs.push((refused.from, refused.to)),
    }
}

fn enter(world: &mut World, told: &mut Told, before: MaintenancePhase, change: &Change, why: Why) {
    told.edges.extend(change.control.iter().copied());
    if world.view.maintenance != world.machine.state {
        world.view.maintenance = world.machine.state.clone();
        world.changed();
    }
    world.mark(Key::Maintenance, why);
    if before != world.machine.state.phase() {
        world.judge(world.this_node, why);
        // What is wanted of everything here depends on it.
        world.recheck(why);
    }
}

/// Folds what a probe said.
pub fn samples(world: &mut World, probe: u64, samples: Samples) {
    match samples {
        Samples::Locality(samples) => {
            for (peer, rtt) in samples {
                round_trip(world, peer, rtt, Why::of(CauseKind::Probe, "locality probe"));
            }
        }
        Samples::Health(samples) => {
            for (peer, health) in samples {
                node_health(world, peer, health, Why::of(CauseKind::Probe, "health probe"));
            }
        }
        // A probe that says nothing may be starting or failing: its peers keep what it said before.
        Samples::Inventory(samples) if samples.is_empty() => {}
        Samples::Inventory(samples) => {
            let mut spoken = BTreeSet::new();
            for (peer, inventory) in samples {
                if peer != world.this_node {
                    spoken.insert(peer);
                    inventory_in(world, peer, probe, Some(inventory));
                }
            }
            let before = world.probed.insert(probe, spoken.clone()).unwrap_or_default();
            for peer in before.difference(&spoken) {
                inventory_in(world, *peer, probe, None);
            }
        }
    }
}

/// Drops what only one probe said.
pub fn probe_removed(world: &mut World, probe: u64) {
    for peer in world.probed.remove(&probe).unwrap_or_default() {
        inventory_in(world, peer, probe, None);
    }
}

fn inventory_in(world: &mut World, peer: NodeId, probe: u64, said: Option<PeerInventory>) {
    if said.is_none() && !world.view.peers.contains_key(&peer) {
        return;
    }
    world.peer(peer, Why::of(CauseKind::Probe, "inventory probe"), |known| {
        let before = match said {
            Some(said) => known.inventories.insert(probe, said.clone()) == Some(said),
            None => known.inventories.remove(&probe).is_none(),
        };
        if before {
            return false;
        }
        let mut merged = PeerInventory::default();
        known.inventories.values().for_each(|said| merged.merge(said));
        let changed = merged != known.inventory;
        known.inventory = merged;
        changed
    });
}
