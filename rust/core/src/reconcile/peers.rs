//! What is wanted of one peer: that it is avoided while it is slow.

use std::sync::Arc;

use smallvec::smallvec;

use crate::action::{CauseKind, MeshOsAction, Priority};
use crate::id::NodeId;
use crate::time::UnixMs;
use crate::world::{Key, UNREACHABLE_GRACE, Why, World};

use super::{Wants, earliest, want};

/// Samples above the threshold, in a row, that make a peer slow.
pub const SLOW_SAMPLES: u32 = 3;

pub(super) fn peer(world: &World, node: NodeId) -> Wants {
    let Some(known) = world.view.peers.get(&node) else {
        return Wants::new();
    };
    if known.slow_samples < SLOW_SAMPLES || world.view.avoid.contains_key(&node) {
        return Wants::new();
    }
    let millis = |span: Option<std::time::Duration>| span.unwrap_or_default().as_millis();
    let reason = format!(
        "round trip {} ms, above {} ms",
        millis(known.rtt_smooth),
        world.config.locality.degraded_rtt_threshold.as_millis()
    );
    let action = MeshOsAction::MarkAvoid {
        peer: node,
        reason: Arc::from(reason),
        until: world.now.plus(world.config.locality.avoid_ttl),
    };
    smallvec![want(action, Priority::Notice)]
}

pub(super) fn keep_peer(world: &mut World, node: NodeId) -> Option<UnixMs> {
    let timer = Why::of(CauseKind::Timer, "avoid list");
    let avoided = world.view.avoid.get(&node).map(|entry| entry.until);
    if avoided.is_some_and(|until| until <= world.now) {
        world.avoid(node, None, timer);
        // The sweep that this began is what looks at chains; the peer itself is being looked at.
        world.dirty.remove(&Key::Peer(node));
        let (now, ttl) = (world.now, world.config.locality.avoid_ttl);
        if let Some(known) = world
            .view
            .peers
            .get_mut(&node)
            .filter(|known| known.seen_at.plus(ttl) <= now)
        {
            // Nothing was heard of it since: nobody knows whether it is slow still.
            Arc::make_mut(known).slow_samples = 0;
        }
    }
    let gone = world.view.peers.get(&node).and_then(|peer| peer.unreachable_since);
    let gone = gone.map(|since| since.plus(UNREACHABLE_GRACE));
    if gone.is_some_and(|at| at <= world.now) && !world.fading.contains(&node) {
        world.judge(node, Why::of(CauseKind::Timer, "unreachable for too long"));
    }
    let now = world.now;
    let forget = world.forget_peer_at(node);
    if forget.is_some_and(|at| at <= now) {
        world.forget_peer(node);
        return None;
    }
    earliest([avoided, gone, forget].map(|at| at.filter(|at| *at > now)))
}
