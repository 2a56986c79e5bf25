//! Decision: what is wanted of one daemon, chain, peer or of the node, given everything else.
//!
//! Level-triggered: [`wanted`] looks at states, never at what happened. [`look`] keeps house for one key, then hands what
//! is wanted to the executor, which knows what is under way.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;
use smallvec::{SmallVec, smallvec};

use crate::action::{ActionKey, CauseKind, MeshOsAction, Priority};
use crate::command::ChainId;
use crate::executor::{Executor, Wanted};
use crate::id::{NodeId, Origin};
use crate::peer::AvoidEntry;
use crate::placement::{self, ScoreRequest};
use crate::signal::{DaemonIntent, LocalReplicaIntent, Scored};
use crate::status::{ChainState, DaemonState, Lifecycle, Move, Scores};
use crate::supervision::RestartState;
use crate::time::UnixMs;
use crate::world::{Alarm, FORGET_AFTER, Forced, ForcedPair, Key, UNREACHABLE_GRACE, Why, World};

/// Samples above the threshold, in a row, that make a peer slow.
pub const SLOW_SAMPLES: u32 = 3;
/// A move that took so long is given up.
pub const MOVE_TTL: std::time::Duration = std::time::Duration::from_secs(600);
/// Keys that one step looks at in a sweep.
pub const SWEEP_SLICE: usize = 2048;

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
        Key::Chain(id) => world
            .view
            .chains
            .get(&id)
            .map_or_else(Wants::new, |known| chain(world, id, known)),
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

fn peer(world: &World, node: NodeId) -> Wants {
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

/// What is wanted of a daemon, after its pin and the node's maintenance.
#[must_use]
pub fn effective_intent(world: &World, known: &DaemonState) -> Option<(DaemonIntent, &'static str)> {
    let intent = known.intent?;
    if intent == DaemonIntent::Run {
        if known.pin.is_some_and(|pin| pin != world.this_node) {
            return Some((DaemonIntent::Stop, "it is pinned to another node"));
        }
        if world.is_draining() {
            return Some((DaemonIntent::Stop, "the node is draining"));
        }
        if known.restart_wanted && matches!(known.lifecycle, Lifecycle::Running | Lifecycle::Stopping) {
            return Some((DaemonIntent::Stop, "an operator restarts it"));
        }
        return Some((DaemonIntent::Run, "it shall run"));
    }
    Some((intent, "it shall stop"))
}

fn daemon(world: &World, known: &DaemonState) -> Wants {
    let mut wants = Wants::new();
    let Some((intent, reason)) = effective_intent(world, known) else {
        return wants;
    };
    let frozen = world.is_frozen();
    match (intent, known.lifecycle) {
        (DaemonIntent::Run, Lifecycle::Running) => {}
        (DaemonIntent::Run, _) => match known.backoff.release_at() {
            Some(until) if !known.backoff.is_admissible(world.now) => {
                if known.told_backoff != Some(until) {
                    let daemon = known.daemon.clone();
                    wants.push(want(MeshOsAction::ApplyBackoff { daemon, until }, Priority::Notice));
                }
            }
            _ if frozen => {}
            _ => {
                let daemon = known.daemon.clone();
                wants.push(want(MeshOsAction::StartDaemon { daemon }, Priority::Daemon));
            }
        },
        (DaemonIntent::Stop, Lifecycle::Stopped) => {}
        (DaemonIntent::Stop, _) if frozen => {}
        (DaemonIntent::Stop, _) => {
            let action = MeshOsAction::StopDaemon {
                daemon: known.daemon.clone(),
                reason: Arc::from(reason),
                deadline: world.now.plus(world.config.maintenance.stop_grace),
            };
            wants.push(want(action, Priority::Daemon));
        }
    }
    wants
}

fn chain(world: &World, id: ChainId, known: &ChainState) -> Wants {
    let mut wants = Wants::new();
    if world.is_frozen() {
        return wants;
    }
    local(world, id, known, &mut wants);
    if known.leader == Some(world.this_node) {
        led(world, id, known, &mut wants);
    }
    wants
}

fn local(world: &World, id: ChainId, known: &ChainState, wants: &mut Wants) {
    let here = known.holders.binary_search(&world.this_node).is_ok();
    match (known.local, here) {
        (Some(LocalReplicaIntent::Drop), true) => {
            wants.push(want(MeshOsAction::DropReplica { chain: id }, Priority::Replica));
        }
        // The last copies wait until as many others last as are wanted.
        (_, true) if world.is_draining() => {
            let needed = known.desired.map_or(1, |desired| desired as usize);
            if placement::lasting(world, id, known) >= needed {
                wants.push(want(MeshOsAction::DropReplica { chain: id }, Priority::Replica));
            }
        }
        (Some(LocalReplicaIntent::Hold), false) if !world.barred.contains_key(&world.this_node) => {
            if let Some(source) = placement::source(world, known) {
                wants.push(want(MeshOsAction::PullReplica { chain: id, source }, Priority::Replica));
            }
        }
        _ => {}
    }
}

fn led(world: &World, id: ChainId, known: &ChainState, wants: &mut Wants) {
    let held = |node: &NodeId| known.holders.binary_search(node).is_ok();
    let forced = world.forced.get(&id).copied().unwrap_or_default();
    let place = |target: Option<NodeId>| {
        let mut exclude = placement::excluded(world, known);
        // Whoever is named is wanted, whatever speaks against them.
        exclude.retain(|node| target != Some(*node));
        MeshOsAction::RequestPlacement {
            chain: id,
            exclude,
            target,
        }
    };
    let evict = |victim| MeshOsAction::RequestEviction { chain: id, victim };
    let by_order = |action, forced: Forced| Want {
        action,
        priority: Priority::Urgent,
        why: Some(forced.why),
    };
    let leaving = placement::leaving(world, id, known);
    let mut evicting = true;
    let mut placing = false;
    if let Some(forced) = forced.evict.filter(|forced| held(&forced.node)) {
        wants.push(by_order(evict(forced.node), forced));
    } else if let Some(victim) = leaving {
        // It cannot be taken back any more.
        wants.push(want(evict(victim), Priority::Replica));
    } else {
        evicting = false;
    }
    if let Some(forced) = forced.place.filter(|forced| !held(&forced.node)) {
        wants.push(by_order(place(Some(forced.node)), forced));
        placing = true;
    }
    let lasting = placement::lasting(world, id, known);
    if let Some(moving) = known.moving {
        if !held(&moving.target) {
            if !placing {
                wants.push(want(place(Some(moving.target)), Priority::Replica));
            }
            return;
        }
        let lasts = !world.fading.contains(&moving.victim);
        let left = lasting - usize::from(lasts && lasting > 0);
        let enough = left >= known.desired.map_or(1, |desired| desired as usize);
        if enough && held(&moving.victim) && !evicting && !placing {
            wants.push(want(evict(moving.victim), Priority::Replica));
            return;
        }
    }
    let Some(desired) = known.desired.map(|desired| desired as usize) else {
        return;
    };
    if lasting < desired && !placing {
        wants.push(want(place(None), Priority::Replica));
    } else if known.holders.len() > desired
        && !evicting
        && !placing
        && let Some(victim) = placement::victim(world, id, known, desired)
    {
        wants.push(want(evict(victim), Priority::Replica));
    }
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
}

/// Looks at one key: keeps house, then emits what is wanted and takes back what is not.
pub fn look(world: &mut World, executor: &mut Executor, asked: &mut Asked, key: Key, why: Why) {
    let alarm = match key {
        Key::Maintenance => world.machine.next_deadline(&world.config.maintenance),
        Key::Peer(node) => keep_peer(world, node),
        Key::Daemon(id) => keep_daemon(world, id),
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

fn keep_peer(world: &mut World, node: NodeId) -> Option<UnixMs> {
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

fn keep_daemon(world: &mut World, id: Origin) -> Option<UnixMs> {
    let now = world.now;
    let config = world.config.backoff;
    let idle = world
        .view
        .daemons
        .get(&id)
        .is_some_and(|known| known.intent.is_none() && known.lifecycle == Lifecycle::Stopped);
    let known = Arc::make_mut(world.view.daemons.get_mut(&id)?);
    let mut changed = known.backoff.release(now);
    let mut proven = None;
    if known.lifecycle == Lifecycle::Running
        && let Some(started) = known.started_at
    {
        changed |= known.backoff.proven(now, started, &config);
        proven = known.backoff.proven_at(started, &config);
    }
    known.idle_since = if idle {
        Some(known.idle_since.unwrap_or(now))
    } else {
        None
    };
    let forget = known.idle_since.map(|since| since.plus(FORGET_AFTER));
    let release = known.backoff.release_at();
    if changed {
        world.changed();
    }
    if forget.is_some_and(|at| at <= now) {
        world.forget_daemon(id);
        return None;
    }
    earliest([release, proven, forget])
}

fn keep_chain(world: &mut World, asked: &mut Asked, id: ChainId) -> Option<UnixMs> {
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
fn keep_forced(world: &mut World, id: ChainId) -> (Option<UnixMs>, impl Iterator<Item = (&'static str, Why)> + use<>) {
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
fn keep_move(world: &mut World, id: ChainId) {
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
fn is_move_over(world: &World, id: ChainId, known: &ChainState) -> bool {
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

/// Asks for scores when those there are void, and for a last word when they speak for a move.
fn keep_scores(world: &mut World, asked: &mut Asked, id: ChainId) -> Option<UnixMs> {
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

/// Goes on with the pass over everything. In a pass that expects to find nothing, what it finds is counted and
/// repaired.
pub fn sweep(world: &mut World, executor: &Executor) -> u64 {
    let Some(mut sweep) = world.sweep else { return 0 };
    let why = sweep.why;
    let mut keys = Vec::with_capacity(SWEEP_SLICE);
    world.sweep = loop {
        let mut next = next_keys(world, sweep.after, SWEEP_SLICE - keys.len());
        next.retain(|key| sweep.stop.is_none_or(|stop| *key <= stop));
        sweep.after = next.last().copied().or(sweep.after);
        keys.append(&mut next);
        if keys.len() == SWEEP_SLICE {
            break Some(sweep);
        }
        match sweep.next_round() {
            Some(round) => sweep = round,
            None => break None,
        }
    };
    let mut repairs = 0;
    for key in keys {
        if world.dirty.contains_key(&key) || executor.is_refused(key) || !has_news(world, key) {
            continue;
        }
        if why.is_none() {
            repairs += 1;
        }
        world.mark(key, why.unwrap_or(Why::of(CauseKind::Sweep, "full sweep")));
    }
    repairs
}

/// Whether a look at a key would emit, take back or end anything.
fn has_news(world: &World, key: Key) -> bool {
    if let Key::Chain(id) = key {
        let known = world.view.chains.get(&id);
        if known.is_some_and(|known| is_move_over(world, id, known)) {
            return true;
        }
    }
    let wants = wanted(world, key);
    let under_way = |want: &Want| Executor::is_under_way(world, &want.action);
    if !wants.iter().all(under_way) {
        return true;
    }
    if world.view.in_flight.is_empty() {
        return needs_scores(world, key);
    }
    let idle = |action_key: &ActionKey| !wants.iter().any(|want| want.action.key() == *action_key);
    let unwanted = action_keys(key).into_iter().filter(idle).any(|action_key| {
        let known = world.view.in_flight.get(&action_key);
        known.is_some_and(|known| {
            known.action.is_confirmed_by_the_world()
                && !matches!(known.progress, crate::status::Progress::Running { .. })
        })
    });
    unwanted || needs_scores(world, key)
}

fn needs_scores(world: &World, key: Key) -> bool {
    let Key::Chain(id) = key else { return false };
    if !world.scorer || world.asked.contains_key(&id) {
        return false;
    }
    let known = world.view.chains.get(&id);
    known.is_some_and(|known| {
        let leads = known.leader == Some(world.this_node) && !known.holders.is_empty();
        leads
            && !known
                .scores
                .as_ref()
                .is_some_and(|scores| is_valid(world, known, scores))
    })
}

fn next_keys(world: &World, after: Option<Key>, count: usize) -> Vec<Key> {
    let mut keys = Vec::with_capacity(count.min(SWEEP_SLICE));
    if after.is_none() {
        keys.push(Key::Maintenance);
    }
    let start = |key: Option<Key>| key.unwrap_or(Key::Maintenance);
    let after = start(after);
    if after < Key::Peer(NodeId::new(u64::MAX)) {
        let from = match after {
            Key::Peer(node) => Bound::Excluded(node),
            _ => Bound::Unbounded,
        };
        take(&world.view.peers, from, Key::Peer, &mut keys, count);
    }
    if after < Key::Daemon(Origin::new(u64::MAX)) {
        let from = match after {
            Key::Daemon(id) => Bound::Excluded(id),
            _ => Bound::Unbounded,
        };
        take(&world.view.daemons, from, Key::Daemon, &mut keys, count);
    }
    let from = match after {
        Key::Chain(id) => Bound::Excluded(id),
        _ => Bound::Unbounded,
    };
    take(&world.view.chains, from, Key::Chain, &mut keys, count);
    keys
}

fn take<K: Ord + Copy, V>(
    map: &OrdMap<K, Arc<V>>,
    from: Bound<K>,
    key: impl Fn(K) -> Key,
    keys: &mut Vec<Key>,
    count: usize,
) {
    let left = count.saturating_sub(keys.len());
    keys.extend(map.range((from, Bound::Unbounded)).take(left).map(|(id, _)| key(*id)));
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

/// Keys that a look would find something at though nobody marked them, and [`Key::Maintenance`] when a counter is wrong.
#[must_use]
pub fn missed(world: &World, executor: &Executor) -> Vec<Key> {
    let mut keys = next_keys(world, None, usize::MAX);
    keys.retain(|key| !world.dirty.contains_key(key) && !executor.is_refused(*key) && has_news(world, *key));
    let here = |known: &&Arc<ChainState>| known.holders.binary_search(&world.this_node).is_ok();
    let held = world.view.chains.values().filter(here).count();
    let moves = world
        .view
        .chains
        .values()
        .filter(|known| known.moving.is_some())
        .count();
    let counted = (held, moves) == (world.held as usize, world.moves as usize);
    if !counted || world.count_daemons() != world.counted_daemons() || world.count_copies() != world.copies {
        keys.push(Key::Maintenance);
    }
    keys
}
