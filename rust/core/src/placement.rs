//! Decision: which node gives a copy, which gets one, and which loses one.
//!
//! Moves add before they remove: a copy is placed on the target first, and only when it is there the victim loses its
//! own. Scores are data: they were said by a scorer elsewhere, and the last word before a move is said without caches.

use crate::finite::Finite;
use crate::id::NodeId;
use crate::status::{ChainState, Scores};
use crate::world::World;

/// What the scorer is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ScoreRequest {
    /// Which chain.
    pub chain: crate::command::ChainId,
    /// Nodes to score: its holders.
    pub holders: Vec<NodeId>,
    /// Nodes that are no alternative.
    pub exclude: Vec<NodeId>,
    /// Whether no cache may answer.
    pub live: bool,
    /// What a second of moving costs, as a score.
    pub cost_per_sec: Finite,
}

/// Holders whose copies will last.
#[must_use]
pub fn lasting(world: &World, chain: &ChainState) -> usize {
    if world.fading.is_empty() {
        return chain.holders.len();
    }
    let fading = |holder: &&NodeId| world.fading.contains(holder);
    chain.holders.len() - chain.holders.iter().filter(fading).count()
}

/// Nodes that get no copy: the holders and all that are barred, ascending.
#[must_use]
pub fn excluded(world: &World, chain: &ChainState) -> Vec<NodeId> {
    let mut exclude: Vec<NodeId> = chain.holders.iter().chain(world.barred.keys()).copied().collect();
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
/// who is barred, then who scores worst, then the smallest id; the leader last.
#[must_use]
pub fn victim(world: &World, chain: &ChainState, desired: usize) -> Option<NodeId> {
    let lasting = lasting(world, chain);
    let spare = |holder: &NodeId| world.fading.contains(holder) || lasting > desired;
    let rank = |holder: &NodeId| {
        let score = chain.scores.as_ref().and_then(|scores| score_of(scores, *holder));
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
    chain.holders.iter().copied().filter(spare).min_by_key(rank)
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
    let worst = scores.holders.iter().filter(|(node, _)| held(node));
    // Ties keep the lower id: the holders are ascending and `min_by_key` takes the first.
    let (victim, score) = *worst.min_by_key(|(_, score)| *score).ok_or(Stay::NoOpinion)?;
    let config = &world.config.scheduler;
    if score.get() >= config.score_floor.get() {
        return Err(Stay::GoodEnough);
    }
    let best = scores
        .best
        .filter(|(node, _)| !held(node) && !world.barred.contains_key(node));
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
