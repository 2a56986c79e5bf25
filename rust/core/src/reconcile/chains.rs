//! What is wanted of one chain: of the copy here, and, where this node leads, of all copies.

use std::sync::Arc;

use crate::action::{CauseKind, MeshOsAction, Priority};
use crate::command::ChainId;
use crate::id::NodeId;
use crate::placement;
use crate::signal::LocalReplicaIntent;
use crate::status::ChainState;
use crate::time::UnixMs;
use crate::world::{FORGET_AFTER, Forced, ForcedPair, Key, Why, World};

use super::scores::keep_scores;
use super::{Asked, Want, Wants, earliest, want};

/// What is wanted of a chain. `leaving` is the holder whose eviction is on its way.
pub(super) fn chain(world: &World, id: ChainId, known: &ChainState, leaving: Option<NodeId>) -> Wants {
    let mut wants = Wants::new();
    if world.is_frozen() {
        return wants;
    }
    let lasting = || placement::lasting_without(world, known, leaving);
    wants.extend(local(world, id, known, lasting));
    if known.leader == Some(world.this_node) {
        let mut led = Led {
            world,
            id,
            known,
            lasting: lasting(),
            placing: false,
            evicting: false,
            wants,
        };
        led.forced(leaving);
        if !led.moved() {
            led.counted();
        }
        return led.wants;
    }
    wants
}

fn local(world: &World, id: ChainId, known: &ChainState, lasting: impl FnOnce() -> usize) -> Option<Want> {
    let here = known.holders.binary_search(&world.this_node).is_ok();
    let drop = || want(MeshOsAction::DropReplica { chain: id }, Priority::Replica);
    match (known.local, here) {
        (Some(LocalReplicaIntent::Drop), true) => Some(drop()),
        (_, true) if world.is_draining() => {
            // The last copies wait until as many others last as are wanted.
            let needed = known.desired.map_or(1, |desired| desired as usize);
            (lasting() >= needed).then(drop)
        }
        (Some(LocalReplicaIntent::Hold), false) if !world.barred.contains_key(&world.this_node) => {
            let source = placement::source(world, known)?;
            Some(want(MeshOsAction::PullReplica { chain: id, source }, Priority::Replica))
        }
        _ => None,
    }
}

/// A chain that this node leads, while it is decided what is wanted of all copies.
struct Led<'a> {
    world: &'a World,
    id: ChainId,
    known: &'a ChainState,
    /// Copies that will last.
    lasting: usize,
    /// A placement is wanted already: there is one at a time.
    placing: bool,
    /// The same for evictions.
    evicting: bool,
    wants: Wants,
}

impl Led<'_> {
    fn held(&self, node: NodeId) -> bool {
        self.known.holders.binary_search(&node).is_ok()
    }

    fn place(&mut self, target: Option<NodeId>, forced: Option<Forced>) {
        let mut exclude = placement::excluded(self.world, self.known);
        // Whoever is named is wanted, whatever speaks against them.
        exclude.retain(|node| target != Some(*node));
        let chain = self.id;
        let action = MeshOsAction::RequestPlacement { chain, exclude, target };
        self.placing = true;
        self.wants.push(ordered(action, forced));
    }

    fn evict(&mut self, victim: NodeId, forced: Option<Forced>) {
        let chain = self.id;
        self.evicting = true;
        self.wants
            .push(ordered(MeshOsAction::RequestEviction { chain, victim }, forced));
    }

    /// What an operator forces; and an eviction that is on its way, which cannot be taken back any more.
    fn forced(&mut self, leaving: Option<NodeId>) {
        let forced = self.world.forced.get(&self.id).copied().unwrap_or_default();
        if let Some(forced) = forced.evict.filter(|forced| self.held(forced.node)) {
            self.evict(forced.node, Some(forced));
        } else if let Some(victim) = leaving {
            self.evict(victim, None);
        }
        if let Some(forced) = forced.place.filter(|forced| !self.held(forced.node)) {
            self.place(Some(forced.node), Some(forced));
        }
    }

    /// The next part of a move; whether that is all that is wanted.
    fn moved(&mut self) -> bool {
        let Some(moving) = self.known.moving else { return false };
        if !self.held(moving.target) {
            if !self.placing {
                self.place(Some(moving.target), None);
            }
            return true;
        }
        // Copies may have gone missing meanwhile: then another goes first, or none.
        let lasts = !self.world.fading.contains(&moving.victim);
        let left = self.lasting.saturating_sub(usize::from(lasts));
        let enough = left >= self.known.desired.map_or(1, |desired| desired as usize);
        let goes = enough && self.held(moving.victim) && !self.evicting && !self.placing;
        if goes {
            self.evict(moving.victim, None);
        }
        goes
    }

    /// One more, or one less, for as many as are wanted.
    fn counted(&mut self) {
        let Some(desired) = self.known.desired.map(|desired| desired as usize) else {
            return;
        };
        if self.placing {
            return;
        }
        if self.lasting < desired {
            self.place(None, None);
        } else if self.known.holders.len() > desired
            && !self.evicting
            && let Some(victim) = placement::victim(self.world, self.known, self.lasting, desired)
        {
            self.evict(victim, None);
        }
    }
}

fn ordered(action: MeshOsAction, forced: Option<Forced>) -> Want {
    match forced {
        None => want(action, Priority::Replica),
        Some(forced) => Want {
            action,
            priority: Priority::Urgent,
            why: Some(forced.why),
        },
    }
}

pub(super) fn keep_chain(world: &mut World, asked: &mut Asked, id: ChainId) -> Option<UnixMs> {
    keep_move(world, id);
    let scores = keep_scores(world, asked, id);
    let now = world.now;
    let known = world.view.chains.get(&id)?;
    let moving = known.moving.map(|moving| moving.until);
    let idle = known.holders.is_empty() && known.desired.is_none() && known.local.is_none();
    if !idle && known.idle_since.is_none() {
        return earliest([moving, scores]);
    }
    let since = idle.then(|| known.idle_since.unwrap_or(now));
    let forget = since.map(|since| since.plus(FORGET_AFTER));
    if forget.is_some_and(|at| at <= now) {
        world.forget_chain(id);
        return None;
    }
    if known.idle_since != since
        && let Some(known) = world.view.chains.get_mut(&id)
    {
        Arc::make_mut(known).idle_since = since;
    }
    earliest([moving, scores, forget])
}

/// Ends what operators forced and is done; and what is out of time, which is returned.
pub(super) fn keep_forced(
    world: &mut World,
    id: ChainId,
) -> (Option<UnixMs>, impl Iterator<Item = (&'static str, Why)> + use<>) {
    let pair = world.forced.get(&id).copied().unwrap_or_default();
    let known = world.view.chains.get(&id);
    let held = |node: NodeId| known.is_some_and(|known| known.holders.binary_search(&node).is_ok());
    let now = world.now;
    let open = ForcedPair {
        evict: pair.evict.filter(|forced| held(forced.node)),
        place: pair.place.filter(|forced| !held(forced.node)),
    };
    let in_time = move |forced: &Forced| forced.until > now;
    let kept = ForcedPair {
        evict: open.evict.filter(in_time),
        place: open.place.filter(in_time),
    };
    if kept == ForcedPair::default() {
        world.forced.remove(&id);
    } else {
        world.forced.insert(id, kept);
    }
    let given_up = [("request_eviction", open.evict), ("request_placement", open.place)];
    let given_up = given_up.into_iter().filter_map(move |(kind, forced)| {
        let forced = forced.filter(|forced| !in_time(forced))?;
        Some((kind, forced.why))
    });
    let next = earliest([kept.evict, kept.place].map(|forced| forced.map(|forced| forced.until)));
    (next, given_up)
}

/// Ends a move that is over.
pub(super) fn keep_move(world: &mut World, id: ChainId) {
    let over = world
        .view
        .chains
        .get(&id)
        .is_some_and(|known| is_move_over(world, id, known));
    if over {
        let why = Why::of(CauseKind::Event, "move ended");
        world.chain(id, why, |known| known.moving.take().is_some());
        world.dirty.remove(&Key::Chain(id));
    }
}

/// Whether a move is done or out of time, or has become wrong: its victim left by itself, its target takes nothing new,
/// or copies are missing, which comes first.
pub(super) fn is_move_over(world: &World, id: ChainId, known: &ChainState) -> bool {
    let Some(moving) = known.moving else { return false };
    let held = |node: NodeId| known.holders.binary_search(&node).is_ok();
    let desired = known.desired.map(|desired| desired as usize);
    let wrong = if held(moving.target) {
        desired.is_some_and(|desired| known.holders.len() <= desired)
    } else {
        let short = desired.is_some_and(|desired| placement::lasting(world, id, known) < desired);
        short || world.barred.contains_key(&moving.target)
    };
    wrong || moving.until <= world.now || !held(moving.victim)
}
