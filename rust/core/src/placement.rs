//! Decision: which node gives a copy, which gets one, and which loses one.
//!
//! Moves add before they remove: a copy is placed on the target first, and only when it is there the victim loses its
//! own. Scores are data: they were said by a scorer elsewhere, and the last word before a move is said without caches.

use crate::action::{ActionKey, MeshOsAction};
use crate::command::ChainId;
use crate::finite::Finite;
use crate::id::NodeId;
use crate::signal::LocalReplicaIntent;
use crate::status::{ChainState, Progress, Scores};
use crate::world::World;

/// What the scorer is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ScoreRequest {
    /// Which chain.
    pub chain: ChainId,
    /// Nodes to score: its holders.
    pub holders: Vec<NodeId>,
    /// Nodes that are no alternative.
    pub exclude: Vec<NodeId>,
    /// Whether no cache may answer.
    pub live: bool,
    /// What a second of moving costs, as a score.
    pub cost_per_sec: Finite,
}

/// The holder whose eviction is on its way: it was dispatched, and the world does not show it yet.
#[must_use]
pub fn leaving(world: &World, id: ChainId, chain: &ChainState) -> Option<NodeId> {
    let flight = world.view.in_flight.get(&ActionKey::Eviction(id))?;
    let MeshOsAction::RequestEviction { victim, .. } = flight.action else {
        return None;
    };
    let on_its_way = match flight.progress {
        Progress::Running { .. } => true,
        Progress::AwaitingConfirmation { until } => world.now < until,
        Progress::Queued | Progress::Deferred { .. } | Progress::Cooling { .. } => false,
    };
    (on_its_way && chain.holders.binary_search(&victim).is_ok()).then_some(victim)
}

/// Holders whose copies will last: not on a node that goes or is gone, not about to be evicted, not to be dropped here.
#[must_use]
pub fn lasting(world: &World, id: ChainId, chain: &ChainState) -> usize {
    lasting_without(world, chain, leaving(world, id, chain))
}

/// The same where it is known who is about to be evicted.
#[must_use]
pub fn lasting_without(world: &World, chain: &ChainState, leaving: Option<NodeId>) -> usize {
    let dropped = (chain.local == Some(LocalReplicaIntent::Drop)).then_some(world.this_node);
    if world.fading.is_empty() && leaving.is_none() && dropped.is_none() {
        return chain.holders.len();
    }
    let lasts =
        |holder: &&NodeId| !world.fading.contains(holder) && leaving != Some(**holder) && dropped != Some(**holder);
    chain.holders.iter().filter(lasts).count()
}

/// Nodes that get no copy, ascending: the holders, all that are barred, and this node where it shall hold none.
#[must_use]
pub fn excluded(world: &World, chain: &ChainState) -> Vec<NodeId> {
    let mut exclude: Vec<NodeId> = chain.holders.iter().chain(world.barred.keys()).copied().collect();
    if chain.local == Some(LocalReplicaIntent::Drop) {
        exclude.push(world.this_node);
    }
    exclude.sort_unstable();
    exclude.dedup();
    exclude
}

/// Who gives this node a copy: the first holder nothing speaks against, else the first that can be reached.
#[must_use]
pub fn source(world: &World, chain: &ChainState) -> Option<NodeId> {
    let others = || {
        chain
            .holders
            .iter()
            .copied()
            .filter(|holder| *holder != world.this_node)
    };
    others()
        .find(|holder| !world.barred.contains_key(holder))
        .or_else(|| others().find(|holder| world.barred.get(holder) != Some(&"unreachable")))
}

/// Who loses a copy when there are too many, if that leaves as many lasting copies as are wanted: first who fades, then
/// who is barred, then who scores worst, then the smallest id; the leader last. Never this node when it is wanted to
/// hold a copy, and never one whose own drop is under way.
#[must_use]
pub fn victim(world: &World, chain: &ChainState, lasting: usize, desired: usize) -> Option<NodeId> {
    let spare = |holder: &NodeId| world.fading.contains(holder) || lasting > desired;
    let own = |holder: &NodeId| *holder == world.this_node && (chain.local.is_some() || world.is_draining());
    let scores = chain.scores.as_ref();
    let scores = scores.filter(|scores| world.scorer && scores.changes >= world.scores_valid_from);
    let rank = |holder: &NodeId| {
        let score = scores.and_then(|scores| score_of(scores, *holder));
        (
            chain.leader == Some(*holder),
            !world.fading.contains(holder),
            !world.barred.contains_key(holder),
            // No opinion ranks after every opinion.
            score.is_none(),
            score,
            *holder,
        )
    };
    let candidates = chain.holders.iter().copied();
    candidates
        .filter(|holder| spare(holder) && !own(holder))
        .min_by_key(rank)
}

fn score_of(scores: &Scores, node: NodeId) -> Option<Finite> {
    let found = scores.holders.iter().find(|(holder, _)| *holder == node);
    found.map(|(_, score)| *score)
}

/// Why a chain is not moved to a better node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stay {
    /// The scorer has no opinion of any holder.
    NoOpinion,
    /// The worst holder is good enough.
    GoodEnough,
    /// There is no better node.
    NoAlternative,
    /// The gain is too small.
    SmallGain,
    /// The move costs more than it gains.
    TooDear,
}

/// The move that scores speak for: from the worst holder to the best alternative.
///
/// # Errors
/// [`Stay`]: the first reason against it.
pub fn better(world: &World, chain: &ChainState, scores: &Scores) -> Result<(NodeId, NodeId), Stay> {
    let held = |node: &NodeId| chain.holders.binary_search(node).is_ok();
    let local = |intent, node: &NodeId| *node == world.this_node && chain.local == Some(intent);
    let movable = |node: &NodeId| held(node) && !local(LocalReplicaIntent::Hold, node);
    let worst = scores.holders.iter().filter(|(node, _)| movable(node));
    // Ties keep the lower id: the holders are ascending and `min_by_key` takes the first.
    let (victim, score) = *worst.min_by_key(|(_, score)| *score).ok_or(Stay::NoOpinion)?;
    let config = &world.config.scheduler;
    if score.get() >= config.score_floor.get() {
        return Err(Stay::GoodEnough);
    }
    let best = scores
        .best
        .filter(|(node, _)| !held(node) && !world.barred.contains_key(node) && !local(LocalReplicaIntent::Drop, node));
    let (target, best) = best.ok_or(Stay::NoAlternative)?;
    let gain = best.get() - score.get();
    if gain <= config.hysteresis_gap.get() {
        return Err(Stay::SmallGain);
    }
    if scores.cost.is_some_and(|cost| gain - cost.get() <= 0.0) {
        return Err(Stay::TooDear);
    }
    Ok((victim, target))
}
