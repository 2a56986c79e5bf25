//! Scores of chains that this node leads: when a scorer is asked, and when a copy moves to a better node.

use std::sync::Arc;

use crate::action::CauseKind;
use crate::command::ChainId;
use crate::id::NodeId;
use crate::placement::{self, ScoreRequest};
use crate::signal::Scored;
use crate::status::{ChainState, Move, Scores};
use crate::time::UnixMs;
use crate::world::{Alarm, Key, Why, World};

use super::Asked;

/// A move that took so long is given up.
pub const MOVE_TTL: std::time::Duration = std::time::Duration::from_secs(600);

/// Asks for scores when those there are void, and for a last word when they speak for a move.
pub(super) fn keep_scores(world: &mut World, asked: &mut Asked, id: ChainId) -> Option<UnixMs> {
    let known = world.view.chains.get(&id)?;
    let leads = world.scorer && known.leader == Some(world.this_node) && !known.holders.is_empty();
    if !leads || world.asked.contains_key(&id) {
        return None;
    }
    let interval = world.config.scheduler.decision_interval;
    let fresh = |scores: &&Arc<Scores>| is_valid(world, known, scores) && scores.sampled_at.plus(interval) > world.now;
    let valid = known.scores.as_ref().filter(fresh);
    let request = |live| ScoreRequest {
        chain: id,
        holders: known.holders.to_vec(),
        exclude: placement::excluded(world, known),
        live,
        cost_per_sec: world.config.scheduler.cost_per_sec,
    };
    let Some(scores) = valid else {
        asked.scores.push(request(false));
        let ask = world.ask(known, false);
        world.asked.insert(id, ask);
        return None;
    };
    let backstop = scores.sampled_at.plus(interval);
    if scores.live || may_move(world, id, known).is_err() || placement::better(world, known, scores).is_err() {
        return Some(backstop);
    }
    asked.scores.push(request(true));
    let ask = world.ask(known, true);
    world.asked.insert(id, ask);
    Some(backstop)
}

/// Whether nothing that scores were made of has changed since.
fn is_valid(world: &World, known: &ChainState, scores: &Scores) -> bool {
    let unchanged = |node: &NodeId| world.node_changed.get(node).is_none_or(|at| *at <= scores.changes);
    scores.of == known.holders && scores.changes >= world.scores_valid_from && scores.of.iter().all(unchanged)
}

/// Whether a chain may begin a move, whatever scores say.
///
/// # Errors
/// The first reason against it.
pub fn may_move(world: &World, id: ChainId, known: &ChainState) -> Result<(), &'static str> {
    if world.is_frozen() {
        return Err("frozen");
    }
    if known.moving.is_some() {
        return Err("moving");
    }
    if known.rebalance_after.is_some_and(|after| after > world.now) {
        return Err("cooldown");
    }
    if world.moves >= world.config.scheduler.moves_in_flight_max {
        return Err("move_budget");
    }
    if world.forced.contains_key(&id) {
        return Err("forced");
    }
    let desired = known.desired.map_or(known.holders.len(), |desired| desired as usize);
    if known.holders.len() != desired || placement::lasting(world, id, known) < desired {
        return Err("count_first");
    }
    Ok(())
}

/// Takes what the scorer said of a chain; the last word before a move begins it.
pub fn scored(world: &mut World, said: Scored) {
    let Some(ask) = world.asked.remove(&said.chain) else {
        return;
    };
    let id = said.chain;
    let Some(known) = world.view.chains.get(&id) else {
        return;
    };
    if known.leader != Some(world.this_node) || !world.scorer {
        return;
    }
    let mut holders = said.holders;
    holders.retain(|(node, _)| ask.holders.binary_search(node).is_ok());
    holders.sort_unstable_by_key(|(node, _)| *node);
    holders.dedup_by_key(|(node, _)| *node);
    let scores = Scores {
        of: ask.holders,
        holders,
        best: said.best,
        cost: said.cost,
        live: said.live && ask.live,
        sampled_at: world.now,
        changes: ask.changes,
    };
    for node in &known.holders {
        world.fingerprints.entry(*node).or_insert(None);
    }
    let agreed = scores.live && is_valid(world, known, &scores) && may_move(world, id, known).is_ok();
    let chosen = if agreed {
        placement::better(world, known, &scores).ok()
    } else {
        None
    };
    if let Some(known) = world.view.chains.get_mut(&id) {
        Arc::make_mut(known).scores = Some(Arc::new(scores));
    }
    let why = Why::of(CauseKind::Event, "scored");
    if let Some((victim, target)) = chosen {
        let until = world.now.plus(MOVE_TTL);
        let after = world.now.plus(world.config.scheduler.cooldown);
        world.chain(id, why, |known| {
            known.moving = Some(Move { victim, target, until });
            known.rebalance_after = Some(after);
            true
        });
    }
    world.mark(Key::Chain(id), why);
}

/// Takes what the scorer said of how nodes changed: chains they hold are scored anew.
pub fn fingerprints(world: &mut World, said: Vec<(NodeId, Option<u64>)>) {
    let changes = world.score_changes + 1;
    let mut news = false;
    for (node, fingerprint) in said {
        let Some(known) = world.fingerprints.get_mut(&node) else {
            continue;
        };
        if fingerprint.is_none() || *known != fingerprint {
            // The first value is no change: the scores were made of it.
            let first = known.is_none() && fingerprint.is_some();
            *known = fingerprint;
            if !first {
                world.node_changed.insert(node, changes);
                news = true;
            }
        }
    }
    if news {
        world.score_changes = changes;
        world.recheck(Why::of(CauseKind::Probe, "scorer"));
    }
}

/// Another scorer was installed, or the last one taken away: what was said is void.
pub fn scorer_changed(world: &mut World, installed: bool) {
    world.scorer = installed;
    world.void_scores();
    world.asked.clear();
    world.fingerprints.clear();
    world.node_changed.clear();
    let alarm = installed.then(|| world.now.plus(world.config.tick_interval));
    world.alarms.set(Alarm::Fingerprints, alarm);
    world.recheck(Why::of(CauseKind::Event, "scorer changed"));
}

/// Whether a chain has no scores that count, and should.
pub(super) fn needs_scores(world: &World, id: ChainId, known: &ChainState) -> bool {
    let leads = world.scorer && known.leader == Some(world.this_node) && !known.holders.is_empty();
    let valid = || {
        known
            .scores
            .as_ref()
            .is_some_and(|scores| is_valid(world, known, scores))
    };
    leads && !world.asked.contains_key(&id) && !valid()
}
