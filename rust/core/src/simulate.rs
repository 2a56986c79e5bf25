//! Decision: what a break-glass action would touch, on what one node knows.
//!
//! It changes nothing, and agrees with what reconcile does when the action is folded: the chain and the node that a
//! preview names are those of the action that the leader emits.

use crate::blast::{BlastRadius, BlastWarning};
use crate::command::{AvoidScope, IceAction};
use crate::id::{NodeId, Origin};
use crate::status::View;
use crate::supervision::RestartState;
use crate::time::UnixMs;

/// What a preview is made of.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The loop's tables.
    pub view: &'a View,
    /// The node whose tables they are.
    pub this_node: NodeId,
    /// Daemons that move, as far as this node knows.
    pub moving: &'a [Origin],
    /// The time.
    pub now: UnixMs,
}

impl Seen<'_> {
    /// Every node that is known, this one among them, ascending.
    fn nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.view.peers.keys().copied().collect();
        if let Err(place) = nodes.binary_search(&self.this_node) {
            nodes.insert(place, self.this_node);
        }
        nodes
    }

    fn is_frozen(&self) -> bool {
        self.view.freeze_until.is_some_and(|until| self.now < until)
    }
}

/// Tells what an action would touch.
#[must_use]
pub fn simulate(seen: Seen<'_>, action: &IceAction) -> BlastRadius {
    use BlastWarning as Warning;
    let mut blast = BlastRadius::default();
    match action {
        IceAction::FreezeCluster { ttl } => {
            blast.nodes = seen.nodes();
            blast.delay_ms = Some(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
            blast.warnings.push(Warning::ClusterFreezeBlocksOperatorActions);
        }
        IceAction::ThawCluster => {
            blast.nodes = seen.nodes();
            blast.warnings.push(if seen.is_frozen() {
                Warning::ThawResumesPendingReconciles
            } else {
                Warning::ThawHasNoFreezeToCancel
            });
        }
        IceAction::FlushAvoidLists { scope } => match scope {
            AvoidScope::Local(node) => {
                blast.nodes = vec![*node];
                blast.warnings.push(Warning::AvoidFlushLocalToTargetNodeOnly);
            }
            AvoidScope::OnPeer(peer) => {
                blast.nodes = seen.nodes();
                blast.churn = 500;
                blast.warnings.push(Warning::AvoidFlushRecoversPeer(*peer));
            }
            AvoidScope::Global => {
                blast.nodes = seen.nodes();
                blast.churn = 1000;
                blast.warnings.push(Warning::GlobalAvoidFlushMayReEmit);
            }
        },
        IceAction::ForceEvictReplica { chain, victim } => {
            blast.nodes = vec![*victim];
            blast.replicas = vec![*chain];
            blast.churn = 1500;
            blast
                .warnings
                .push(Warning::ForcedEvictionBypassesCooldown(*chain, *victim));
            match seen.view.chains.get(chain) {
                None => blast.warnings.push(Warning::ForcedEvictionTargetsUnknownChain(*chain)),
                Some(known) if known.holders.binary_search(victim).is_err() => {
                    blast
                        .warnings
                        .push(Warning::ForcedEvictionTargetsNonHolder(*chain, *victim));
                }
                Some(_) => {}
            }
        }
        IceAction::ForceRestartDaemon { daemon, name } => {
            let known = seen.view.daemons.get(daemon);
            let shown = known.map_or_else(|| name.clone(), |known| known.daemon.name.to_string());
            blast.daemons = vec![(*daemon, shown)];
            blast.warnings.push(Warning::ForcedRestartBypassesBackoff(*daemon));
            match known {
                None => blast.warnings.push(Warning::ForcedRestartTargetsUnknownDaemon),
                Some(known) if known.backoff.state == RestartState::Idle => {
                    blast.warnings.push(Warning::ForcedRestartDaemonNotInBackoff);
                }
                Some(_) => {}
            }
        }
        IceAction::ForceCutover { chain, target } => {
            blast.nodes = vec![*target];
            blast.replicas = vec![*chain];
            blast.churn = 1500;
            blast
                .warnings
                .push(Warning::ForcedCutoverBypassesPlacementScorer(*chain, *target));
            match seen.view.chains.get(chain) {
                None => blast.warnings.push(Warning::ForcedCutoverTargetsUnknownChain(*chain)),
                Some(known) if known.holders.binary_search(target).is_ok() => {
                    blast
                        .warnings
                        .push(Warning::ForcedCutoverTargetAlreadyHolder(*chain, *target));
                }
                Some(_) => {}
            }
        }
        IceAction::KillMigration { migration } => {
            if seen.moving.contains(migration) {
                let known = seen.view.daemons.get(migration);
                let name = known.map_or_else(String::new, |known| known.daemon.name.to_string());
                blast.daemons = vec![(*migration, name)];
            }
            blast.warnings.push(Warning::KillMigrationOnlyLocalVisible(*migration));
        }
    }
    blast
}

/// What an action would touch now and the operators did not see, in words; empty: nothing.
#[must_use]
pub fn drift(signed: &BlastRadius, now: &BlastRadius) -> Vec<String> {
    let nodes = now.nodes.iter().filter(|node| !signed.nodes.contains(node));
    let replicas = now.replicas.iter().filter(|chain| !signed.replicas.contains(chain));
    let unseen = |daemon: &&(Origin, String)| !signed.daemons.iter().any(|(seen, _)| *seen == daemon.0);
    let daemons = now.daemons.iter().filter(unseen);
    nodes
        .map(|node| format!("node:{}", node.get()))
        .chain(replicas.map(|chain| format!("chain:{}", chain.get())))
        .chain(daemons.map(|(daemon, _)| format!("daemon:{}", daemon.get())))
        .collect()
}
