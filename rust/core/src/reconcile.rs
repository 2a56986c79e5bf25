//! Decision: what is wanted of one daemon, chain, peer or of the node, given everything else.
//!
//! Level-triggered: [`wanted`] looks at states, never at what happened. [`look`] keeps house for one key, then hands what
//! is wanted to the executor, which knows what is under way.

mod chains;
mod daemons;
mod peers;
mod scores;
mod sweep;

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use crate::action::{ActionKey, MeshOsAction, Priority};
use crate::executor::{Executor, Wanted};
use crate::id::Origin;
use crate::peer::AvoidEntry;
use crate::placement::{self, ScoreRequest};
use crate::supervision::RestartState;
use crate::time::UnixMs;
use crate::world::{Alarm, Key, Why, World};

use chains::{chain, keep_chain, keep_forced};
use daemons::{daemon, keep_daemon};
use peers::{keep_peer, peer};

pub use daemons::effective_intent;
pub use peers::SLOW_SAMPLES;
pub use scores::{MOVE_TTL, fingerprints, may_move, scored, scorer_changed};
pub use sweep::{SWEEP_SLICE, missed, sweep};

/// Something wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// What.
    pub action: MeshOsAction,
    /// How urgent it is.
    pub priority: Priority,
    /// What ordered it, when an operator did.
    pub why: Option<Why>,
}

/// What is wanted for one key.
pub type Wants = SmallVec<[Want; 2]>;

fn want(action: MeshOsAction, priority: Priority) -> Want {
    Want {
        action,
        priority,
        why: None,
    }
}

/// What is wanted for a key, as things are now.
#[must_use]
pub fn wanted(world: &World, key: Key) -> Wants {
    match key {
        Key::Maintenance => maintenance(world),
        Key::Peer(node) => peer(world, node),
        Key::Daemon(id) => world
            .view
            .daemons
            .get(&id)
            .map_or_else(Wants::new, |known| daemon(world, known)),
        Key::Chain(id) => world.view.chains.get(&id).map_or_else(Wants::new, |known| {
            chain(world, id, known, placement::leaving(world, id, known))
        }),
    }
}

fn maintenance(world: &World) -> Wants {
    let due = world
        .machine
        .due(world.now, &world.progress(), &world.config.maintenance);
    due.into_iter()
        .map(|target| {
            let node = world.this_node;
            want(
                MeshOsAction::CommitMaintenanceTransition { node, target },
                Priority::Urgent,
            )
        })
        .collect()
}

/// Whether an action is still wanted, right before it is dispatched.
#[must_use]
pub fn still_wanted(world: &World, entity: Key, action: &MeshOsAction) -> Wanted {
    match action {
        MeshOsAction::StartDaemon { daemon } => {
            let Some(known) = world.view.daemons.get(&daemon.id) else {
                return Wanted::No;
            };
            match known.backoff.release_at() {
                Some(until) if until > world.now => {
                    let reason = match known.backoff.state {
                        RestartState::CrashLooping { .. } => "crash loop",
                        RestartState::BackingOff { .. } | RestartState::Idle => "backoff",
                    };
                    return Wanted::Gated { reason, until };
                }
                _ => {}
            }
        }
        MeshOsAction::ApplyBackoff { daemon, until } => {
            let known = world.view.daemons.get(&daemon.id);
            let waits = known.is_some_and(|known| known.backoff.release_at() == Some(*until));
            return as_it_is(action, waits);
        }
        MeshOsAction::MarkAvoid { peer, .. } => return as_it_is(action, world.view.avoid.contains_key(peer)),
        _ => {}
    }
    let mut wants = wanted(world, entity).into_iter().map(|want| want.action);
    wants
        .find(|wanted| wanted.is_same_work(action))
        .map_or(Wanted::No, Wanted::Yes)
}

fn as_it_is(action: &MeshOsAction, holds: bool) -> Wanted {
    if holds { Wanted::Yes(action.clone()) } else { Wanted::No }
}

/// Work that concerns a key.
fn action_keys(key: Key) -> SmallVec<[ActionKey; 3]> {
    match key {
        Key::Maintenance => smallvec![ActionKey::Maintenance],
        Key::Peer(node) => smallvec![ActionKey::Avoid(node)],
        Key::Daemon(id) => smallvec![ActionKey::Daemon(id), ActionKey::Backoff(id)],
        Key::Chain(id) => smallvec![ActionKey::Local(id), ActionKey::Placement(id), ActionKey::Eviction(id)],
    }
}

/// What a look asks of others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Asked {
    /// What the scorer is asked.
    pub scores: Vec<ScoreRequest>,
    /// Daemons that stopped and need not be watched over any more.
    pub let_go: Vec<(Origin, bool)>,
}

/// Looks at one key: keeps house, then emits what is wanted and takes back what is not.
pub fn look(world: &mut World, executor: &mut Executor, asked: &mut Asked, key: Key, why: Why) {
    let alarm = match key {
        Key::Maintenance => world.machine.next_deadline(&world.config.maintenance),
        Key::Peer(node) => keep_peer(world, node),
        Key::Daemon(id) => {
            let alarm = keep_daemon(world, id);
            let known = world.view.daemons.get(&id);
            if known.is_some_and(|known| known.supervised && !world.shall_be_supervised(known)) {
                asked.let_go.extend(world.supervise(id));
            }
            alarm
        }
        Key::Chain(id) => {
            let (alarm, given_up) = keep_forced(world, id);
            given_up.for_each(|(kind, why)| executor.given_up(id, kind, &why));
            earliest([alarm, keep_chain(world, asked, id)])
        }
    };
    world.alarms.set(Alarm::Look(key), alarm.filter(|at| *at > world.now));
    let mut wants = wanted(world, key);
    if !world.view.in_flight.is_empty() {
        let unwanted = |action_key: &ActionKey| !wants.iter().any(|want| want.action.key() == *action_key);
        let unwanted: SmallVec<[ActionKey; 3]> = action_keys(key).into_iter().filter(unwanted).collect();
        let mut settled = false;
        for action_key in unwanted {
            settled |= executor.settle(world, action_key);
        }
        if settled {
            // A copy that was about to go counts again.
            wants = wanted(world, key);
        }
    }
    for want in wants {
        let accepted = executor.emit(world, want.action.clone(), &want.why.unwrap_or(why), want.priority, key);
        if accepted {
            write_back(world, want.action, why);
        }
    }
}

/// What makes the next look quiet, once the queue has the action.
fn write_back(world: &mut World, action: MeshOsAction, why: Why) {
    match action {
        MeshOsAction::MarkAvoid { peer, reason, until } => {
            world.avoid(peer, Some(AvoidEntry { reason, until }), why);
        }
        MeshOsAction::ApplyBackoff { daemon, until } => {
            if let Some(known) = world.view.daemons.get_mut(&daemon.id) {
                Arc::make_mut(known).told_backoff = Some(until);
            }
        }
        _ => {}
    }
}

fn earliest(deadlines: impl IntoIterator<Item = Option<UnixMs>>) -> Option<UnixMs> {
    deadlines.into_iter().flatten().min()
}

/// Kinds of work under way, for explanations.
#[must_use]
pub fn under_way(world: &World, key: Key) -> BTreeMap<ActionKey, Arc<crate::status::InFlight>> {
    action_keys(key)
        .into_iter()
        .filter_map(|action_key| {
            let known = world.view.in_flight.get(&action_key)?;
            Some((action_key, Arc::clone(known)))
        })
        .collect()
}
