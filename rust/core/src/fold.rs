//! Decision: what each signal changes in the tables.
//!
//! Folds are idempotent: the same signal twice leaves what it left once; only a sample that comes twice is another
//! sample. Nothing is emitted here.

mod commands;
mod daemons;
mod nodes;

use crate::action::CauseKind;
use crate::command::Command;
use crate::id::{NodeId, Origin};
use crate::maintenance::{ControlEdge, MaintenanceSignal};
use crate::maintenance_state::MaintenancePhase;
use crate::signal::{MeshOsEvent, ReplicaChange};
use crate::status::ChainState;
use crate::world::{Key, Why, World};

use nodes::{mirror, node_health, round_trip};

pub use commands::{Judged, command, freeze, recorded, restore, sealed};
pub use daemons::{lifecycle, offered, roster};
pub use nodes::{maintenance, probe_removed, samples};

/// What a fold has to tell besides what it changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Told {
    /// What daemons must hear.
    pub edges: Vec<ControlEdge>,
    /// Daemons whose supervision begins (`true`) or ends.
    pub supervise: Vec<(Origin, bool)>,
    /// Moves to end.
    pub kill: Vec<Origin>,
    /// Commands with the verdict they ended with.
    pub audits: Vec<Command>,
    /// What became of envelopes.
    pub judged: Vec<Judged>,
    /// Commands whose records must be kept before they take effect, each with how many of `audits` are before it.
    pub held: Vec<(usize, Command)>,
    /// Observed transitions that no arc allows.
    pub refused_arcs: Vec<(MaintenancePhase, MaintenancePhase)>,
}

const fn event(detail: &'static str) -> Why {
    Why::of(CauseKind::Event, detail)
}

/// Folds a published event.
pub fn event_in(world: &mut World, told: &mut Told, published: MeshOsEvent) {
    match published {
        MeshOsEvent::DaemonLifecycle { daemon, signal, at } => {
            let at = at.map_or(world.now, |at| at.min(world.now));
            lifecycle(world, &daemon, signal, at, None);
        }
        MeshOsEvent::DaemonIntentUpdate { daemon, intent, node } => {
            world.daemon(&daemon, event("daemon_intent_update"), |known| {
                let before = (known.intent, known.pin);
                (known.intent, known.pin) = (Some(intent), node);
                before != (known.intent, known.pin)
            });
            told.supervise.extend(world.supervise(daemon.id));
        }
        MeshOsEvent::ForgetDaemon { daemon } => {
            if world.forget_daemon(daemon) {
                world.mark(Key::Daemon(daemon), event("forget_daemon"));
            }
            told.supervise.push((daemon, false));
        }
        MeshOsEvent::ForgetChain { chain } => {
            if world.forget_chain(chain) {
                world.mark(Key::Chain(chain), event("forget_chain"));
            }
        }
        MeshOsEvent::ReplicaUpdate { chain, holder, change } => {
            let why = event("replica_update");
            match change {
                ReplicaChange::Added | ReplicaChange::Repaired => {
                    world.chain(chain, why, |known| add_holder(known, holder));
                }
                ReplicaChange::Removed | ReplicaChange::Lost => {
                    if world.view.chains.contains_key(&chain) {
                        world.chain(chain, why, |known| remove_holder(known, holder));
                    }
                }
            }
        }
        MeshOsEvent::ReplicaLeaderUpdate { chain, leader, term } => {
            if leader.is_some() || world.view.chains.contains_key(&chain) {
                let here = world.this_node;
                world.chain(chain, event("replica_leader_update"), |known| {
                    lead(known, leader, term, here)
                });
            }
        }
        MeshOsEvent::ReplicaBecameHolderAndLeader { chain, holder, term } => {
            let here = world.this_node;
            world.chain(chain, event("replica_became_holder_and_leader"), |known| {
                let added = add_holder(known, holder);
                lead(known, Some(holder), term, here) || added
            });
        }
        MeshOsEvent::ReplicaLeaderLostAndRemoved { chain, holder } => {
            if world.view.chains.contains_key(&chain) {
                let here = world.this_node;
                world.chain(chain, event("replica_leader_lost_and_removed"), |known| {
                    let removed = remove_holder(known, holder);
                    let term = known.term;
                    (known.leader == Some(holder) && lead(known, None, term, here)) || removed
                });
            }
        }
        MeshOsEvent::PlacementIntent {
            chain,
            desired_replicas,
        } => {
            world.chain(chain, event("placement_intent"), |known| {
                known.desired.replace(desired_replicas) != Some(desired_replicas)
            });
        }
        MeshOsEvent::LocalReplicaIntentUpdate { chain, intent } => {
            world.chain(chain, event("local_replica_intent_update"), |known| {
                known.local.replace(intent) != Some(intent)
            });
        }
        MeshOsEvent::RttSample { peer, rtt } => round_trip(world, peer, rtt, event("rtt_sample")),
        MeshOsEvent::NodeHealthUpdate { peer, health } => {
            node_health(world, peer, health, event("node_health_update"));
        }
        MeshOsEvent::MaintenanceTransitionObserved { node, state } => {
            let why = event("maintenance_transition_observed");
            if node == world.this_node {
                maintenance(world, told, MaintenanceSignal::Observed(state), why);
            } else {
                mirror(world, node, state.phase(), why);
            }
        }
    }
}

fn add_holder(chain: &mut ChainState, holder: NodeId) -> bool {
    match chain.holders.binary_search(&holder) {
        Ok(_) => false,
        Err(place) => {
            chain.holders.insert(place, holder);
            chain.idle_since = None;
            true
        }
    }
}

fn remove_holder(chain: &mut ChainState, holder: NodeId) -> bool {
    chain
        .holders
        .binary_search(&holder)
        .map(|place| {
            chain.holders.remove(place);
        })
        .is_ok()
}

/// A lower term is news of an election that is over.
fn lead(chain: &mut ChainState, leader: Option<NodeId>, term: u64, this_node: NodeId) -> bool {
    if term < chain.term {
        return false;
    }
    let changed = (chain.leader, chain.term) != (leader, term);
    (chain.leader, chain.term) = (leader, term);
    if leader != Some(this_node) {
        // What this node knew as leader is void, and so is what it had begun.
        chain.scores = None;
        chain.moving = None;
    }
    changed
}
