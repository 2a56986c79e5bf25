//! Changes of peers, and what speaks against each node.

use std::sync::Arc;
use std::time::Duration;

use crate::action::CauseKind;
use crate::id::NodeId;
use crate::maintenance_state::MaintenancePhase;
use crate::peer::{AvoidEntry, NodeHealth};
use crate::status::PeerState;
use crate::time::UnixMs;

use super::{Alarm, FORGET_AFTER, Key, UNREACHABLE_GRACE, Why, World};

/// Deadlines for forgetting peers are multiples of this.
const FORGET_STEP: Duration = Duration::from_secs(60);

impl World {
    /// When a peer is forgotten, if nothing is heard of it until then; `None`: somebody needs what is known of it.
    #[must_use]
    pub fn forget_peer_at(&self, node: NodeId) -> Option<UnixMs> {
        let known = self.view.peers.get(&node)?;
        let serves = matches!(known.maintenance, None | Some(MaintenancePhase::Active));
        let needed = self.copies.contains_key(&node) || self.view.avoid.contains_key(&node);
        if needed || known.cordoned || !serves {
            return None;
        }
        // In steps, so that not every sample moves a deadline.
        let at = known.seen_at.plus(FORGET_AFTER).get();
        let step = FORGET_STEP.as_millis() as u64;
        Some(UnixMs::new(at.div_ceil(step).saturating_mul(step)))
    }

    /// Changes a peer, which is made when it is not known. `change` says whether anything shown did change.
    pub fn peer(&mut self, node: NodeId, why: Why, change: impl FnOnce(&mut PeerState) -> bool) {
        let now = self.now;
        let shown = if let Some(known) = self.view.peers.get_mut(&node) {
            let known = Arc::make_mut(known);
            known.seen_at = now;
            change(known)
        } else {
            if self.view.peers.len() >= self.entities_max {
                self.refused.peers += 1;
                return;
            }
            let mut made = PeerState {
                seen_at: now,
                ..PeerState::default()
            };
            change(&mut made);
            self.view.peers.insert(node, Arc::new(made));
            true
        };
        if shown {
            self.changed();
        }
        self.mark(Key::Peer(node), why);
    }

    /// Drops what is known of a peer.
    pub fn forget_peer(&mut self, node: NodeId) {
        if self.view.peers.remove(&node).is_some() {
            self.alarms.set(Alarm::Look(Key::Peer(node)), None);
            self.probed.values_mut().for_each(|spoken| {
                spoken.remove(&node);
            });
            self.changed();
        }
        self.judge(node, Why::of(CauseKind::Timer, "peer forgotten"));
    }

    /// Puts a peer on the avoid list, or takes it off.
    pub fn avoid(&mut self, node: NodeId, entry: Option<AvoidEntry>, why: Why) {
        let changed = match entry {
            Some(entry) => self.view.avoid.insert(node, entry.clone()) != Some(entry),
            None => self.view.avoid.remove(&node).is_some(),
        };
        if changed {
            self.changed();
            self.mark(Key::Peer(node), why);
            self.judge(node, why);
        }
    }

    /// Decides anew whether a node is barred or fading; if that changed, every chain is looked at.
    pub fn judge(&mut self, node: NodeId, why: Why) {
        let (barred, fading) = self.judged(node);
        let was_barred = match barred {
            Some(reason) => self.barred.insert(node, reason) == Some(reason),
            None => self.barred.remove(&node).is_none(),
        };
        let was_fading = if fading {
            !self.fading.insert(node)
        } else {
            !self.fading.remove(&node)
        };
        if !was_barred || !was_fading {
            self.recheck(why);
        }
    }

    fn judged(&self, node: NodeId) -> (Option<&'static str>, bool) {
        if node == self.this_node {
            let phase = self.machine.state.phase();
            let barred = if phase != MaintenancePhase::Active {
                Some("maintenance")
            } else if self.view.cordoned {
                Some("cordoned")
            } else {
                None
            };
            return (barred, self.is_draining());
        }
        let Some(peer) = self.view.peers.get(&node) else {
            return (self.view.avoid.contains_key(&node).then_some("avoided"), false);
        };
        let phase = peer.maintenance.unwrap_or_default();
        let gone = peer
            .unreachable_since
            .is_some_and(|since| since.plus(UNREACHABLE_GRACE) <= self.now);
        let draining = matches!(
            phase,
            MaintenancePhase::Entering | MaintenancePhase::Maintenance | MaintenancePhase::DrainFailed
        );
        let barred = if peer.health == Some(NodeHealth::Unreachable) {
            Some("unreachable")
        } else if phase != MaintenancePhase::Active {
            Some("maintenance")
        } else if peer.cordoned {
            Some("cordoned")
        } else if self.view.avoid.contains_key(&node) {
            Some("avoided")
        } else {
            None
        };
        (barred, gone || draining)
    }
}
