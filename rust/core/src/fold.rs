//! Decision: what each signal changes in the tables.
//!
//! Folds are idempotent: the same signal twice leaves what it left once. Nothing is emitted here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::action::CauseKind;
use crate::command::{AdminEvent, AvoidScope, ChainId, Command, IceAction, Order, Verdict};
use crate::finite::Share;
use crate::id::{NodeId, Origin};
use crate::maintenance::{Change, ControlEdge, MaintenanceSignal};
use crate::maintenance_state::MaintenancePhase;
use crate::peer::{NodeHealth, PeerInventory, Samples};
use crate::refusal::Refused;
use crate::signal::{
    DaemonIntent, DaemonRef, DaemonSignal, LocalReplicaIntent, MeshOsEvent, ReplicaChange, RosterEntry, Sealed,
};
use crate::simulate::{Seen, drift, simulate};
use crate::status::{ChainState, DaemonState, Lifecycle};
use crate::time::UnixMs;
use crate::world::{Alarm, FORCED_TTL, FREEZE_MAX, Forced, Key, Why, World};

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
    /// Commands whose records must be kept before they take effect.
    pub held: Vec<Command>,
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
            let here = intent == DaemonIntent::Run && node.is_none_or(|node| node == world.this_node);
            if world.view.daemons.contains_key(&daemon.id) {
                told.supervise.push((daemon.id, here));
            }
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

/// Folds what happened to a daemon. `number` is the position in the registry's events, when it came from there.
pub fn lifecycle(world: &mut World, daemon: &DaemonRef, signal: DaemonSignal, at: UnixMs, number: Option<u64>) {
    let config = world.config.backoff;
    let salt = crate::mix::pair(world.seed, daemon.id.get());
    let why = event("daemon_lifecycle");
    world.daemon(daemon, why, |known| {
        if let Some(number) = number {
            if number <= known.registry_number {
                return false;
            }
            known.registry_number = number;
        }
        match signal {
            DaemonSignal::Started => started(known, at),
            DaemonSignal::ExitedCleanly => {
                if known.lifecycle == Lifecycle::Stopped && known.stopped_at.is_some_and(|stopped| stopped >= at) {
                    return false;
                }
                let began = known.started_at;
                known.backoff.exited(at, began, &config);
                stopped(known, at);
            }
            DaemonSignal::Crashed { crash, down } => {
                let again = known
                    .last_crash
                    .as_ref()
                    .is_some_and(|(last, when)| *when == at && *last == crash);
                if again && (!down || known.lifecycle == Lifecycle::Stopped) {
                    return false;
                }
                known.last_crash = Some((crash, at));
                if down {
                    // A start that failed is a crash of a run that never began.
                    let began = (known.lifecycle == Lifecycle::Running)
                        .then_some(known.started_at)
                        .flatten();
                    known.backoff.crashed(at, began, &config, salt);
                    stopped(known, at);
                }
            }
            DaemonSignal::HealthChanged(health) => {
                if known.health.as_ref() == Some(&health) {
                    return number.is_some();
                }
                known.health = Some(health);
            }
            DaemonSignal::SaturationChanged(saturation) => {
                if known.saturation == saturation {
                    return number.is_some();
                }
                known.saturation = saturation;
            }
        }
        true
    });
}

fn started(daemon: &mut DaemonState, at: UnixMs) {
    if daemon.lifecycle == Lifecycle::Running {
        return;
    }
    // A crash that took it down is when it stopped; one that was followed by another stop is not why it starts.
    let crashed_at = daemon.last_crash.as_ref().map(|(_, at)| *at);
    if crashed_at.is_some() && crashed_at == daemon.stopped_at {
        daemon.restarts += 1;
    }
    daemon.lifecycle = Lifecycle::Running;
    daemon.started_at = Some(at);
    daemon.backoff.started(at);
    daemon.told_backoff = None;
    daemon.idle_since = None;
}

fn stopped(daemon: &mut DaemonState, at: UnixMs) {
    daemon.lifecycle = Lifecycle::Stopped;
    daemon.stopped_at = Some(at);
    // What it said of itself was said of the run that ended.
    daemon.health = None;
    daemon.saturation = Share::default();
    daemon.restart_wanted = false;
}

/// Compares what is known with all daemons that a registry has: what got lost on the way is made up for.
pub fn roster(world: &mut World, daemons: &[RosterEntry], number: u64) {
    let now = world.now;
    for entry in daemons {
        let known = world.view.daemons.get(&entry.daemon.id);
        let newer = known.is_some_and(|known| known.registry_number > number);
        let running = known.is_some_and(|known| matches!(known.lifecycle, Lifecycle::Running | Lifecycle::Stopping));
        if newer {
            continue;
        }
        if entry.down && running {
            let crash = crate::event::Crash {
                reason: Arc::from("found down"),
                ..crate::event::Crash::default()
            };
            lifecycle(
                world,
                &entry.daemon,
                DaemonSignal::Crashed { crash, down: true },
                now,
                None,
            );
        } else if !entry.down && !running {
            lifecycle(world, &entry.daemon, DaemonSignal::Started, now, None);
        }
        if let Some(known) = world.view.daemons.get_mut(&entry.daemon.id)
            && known.registry_number == 0
        {
            // From now on it is the registry's: where that has it no more, it is gone.
            Arc::make_mut(known).registry_number = number;
        }
    }
    let here: BTreeSet<Origin> = daemons.iter().map(|entry| entry.daemon.id).collect();
    let gone: Vec<DaemonRef> = world
        .view
        .daemons
        .values()
        .filter(|known| known.registry_number > 0 && known.registry_number <= number)
        .filter(|known| matches!(known.lifecycle, Lifecycle::Running | Lifecycle::Stopping))
        .filter(|known| !here.contains(&known.daemon.id))
        .map(|known| known.daemon.clone())
        .collect();
    for daemon in gone {
        lifecycle(world, &daemon, DaemonSignal::ExitedCleanly, now, None);
    }
}

fn round_trip(world: &mut World, peer: NodeId, rtt: Duration, why: Why) {
    if peer == world.this_node {
        return;
    }
    let threshold = world.config.locality.degraded_rtt_threshold;
    world.peer(peer, why, |known| {
        let smooth = known.rtt_smooth.map_or(rtt, |smooth| (smooth * 7 + rtt * 3) / 10);
        known.rtt_smooth = Some(smooth);
        if rtt > threshold {
            known.slow_samples = known.slow_samples.saturating_add(1);
        } else if rtt < threshold / 5 * 4 {
            known.slow_samples = 0;
        }
        known.rtt.replace(rtt) != Some(rtt)
    });
}

fn node_health(world: &mut World, peer: NodeId, health: NodeHealth, why: Why) {
    if peer == world.this_node {
        return;
    }
    let now = world.now;
    let mut turned = false;
    world.peer(peer, why, |known| {
        turned = known.health != Some(health);
        known.health = Some(health);
        if health != NodeHealth::Unreachable {
            known.unreachable_since = None;
        } else if known.unreachable_since.is_none() {
            known.unreachable_since = Some(now);
        }
        turned
    });
    if turned {
        world.judge(peer, why);
    }
}

fn mirror(world: &mut World, node: NodeId, phase: MaintenancePhase, why: Why) {
    world.peer(node, why, |known| known.maintenance.replace(phase) != Some(phase));
    world.judge(node, why);
}

/// Sends a signal to this node's maintenance.
pub fn maintenance(world: &mut World, told: &mut Told, signal: MaintenanceSignal, why: Why) {
    let before = world.machine.state.phase();
    match world.machine.signal(signal, world.now) {
        Ok(change) => enter(world, told, before, &change, why),
        Err(refused) => told.refused_arcs.push((refused.from, refused.to)),
    }
}

fn enter(world: &mut World, told: &mut Told, before: MaintenancePhase, change: &Change, why: Why) {
    told.edges.extend(change.control.iter().copied());
    if world.view.maintenance != world.machine.state {
        world.view.maintenance = world.machine.state.clone();
        world.changed();
    }
    world.mark(Key::Maintenance, why);
    if before != world.machine.state.phase() {
        world.judge(world.this_node, why);
        // What is wanted of everything here depends on it.
        world.recheck(why);
    }
}

/// Folds what a probe said.
pub fn samples(world: &mut World, probe: u64, samples: Samples) {
    match samples {
        Samples::Locality(samples) => {
            for (peer, rtt) in samples {
                round_trip(world, peer, rtt, Why::of(CauseKind::Probe, "locality probe"));
            }
        }
        Samples::Health(samples) => {
            for (peer, health) in samples {
                node_health(world, peer, health, Why::of(CauseKind::Probe, "health probe"));
            }
        }
        // A probe that says nothing may be starting or failing: its peers keep what it said before.
        Samples::Inventory(samples) if samples.is_empty() => {}
        Samples::Inventory(samples) => {
            let mut spoken = BTreeSet::new();
            for (peer, inventory) in samples {
                if peer != world.this_node {
                    spoken.insert(peer);
                    inventory_in(world, peer, probe, Some(inventory));
                }
            }
            let before = world.probed.insert(probe, spoken.clone()).unwrap_or_default();
            for peer in before.difference(&spoken) {
                inventory_in(world, *peer, probe, None);
            }
        }
    }
}

/// Drops what only one probe said.
pub fn probe_removed(world: &mut World, probe: u64) {
    for peer in world.probed.remove(&probe).unwrap_or_default() {
        inventory_in(world, peer, probe, None);
    }
}

fn inventory_in(world: &mut World, peer: NodeId, probe: u64, said: Option<PeerInventory>) {
    if said.is_none() && !world.view.peers.contains_key(&peer) {
        return;
    }
    world.peer(peer, Why::of(CauseKind::Probe, "inventory probe"), |known| {
        let before = match said {
            Some(said) => known.inventories.insert(probe, said.clone()) == Some(said),
            None => known.inventories.remove(&probe).is_none(),
        };
        if before {
            return false;
        }
        let mut merged = PeerInventory::default();
        known.inventories.values().for_each(|said| merged.merge(said));
        let changed = merged != known.inventory;
        known.inventory = merged;
        changed
    });
}

/// Commands that may wait for their records.
const UNRECORDED_MAX: usize = 4096;

/// What became of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Judged {
    /// Which.
    pub envelope_id: [u8; 16],
    /// Why it was refused; `None`: it took effect.
    pub refused: Option<Refused>,
}

/// Folds a command in its envelope: the last checks need what the loop knows, and are made and recorded at once.
pub fn sealed(world: &mut World, told: &mut Told, sealed: Sealed) {
    let mut refused = judge(world, &sealed).err();
    if refused.is_none() && world.unrecorded.len() >= UNRECORDED_MAX {
        refused = Some(Refused::AuditRequired);
    }
    let mut judged = sealed.command;
    if refused.is_none() && world.audit_first {
        // It takes effect when its record is kept.
        told.held.push(judged.clone());
        world.unrecorded.insert(sealed.envelope_id, judged);
        return;
    }
    if let Some(refused) = &refused {
        judged.verdict = Verdict::Rejected { kind: refused.kind() };
    }
    told.judged.push(Judged {
        envelope_id: sealed.envelope_id,
        refused,
    });
    command(world, told, judged);
}

/// The record of a held command was kept, or could not be: it takes effect, or never will.
pub fn recorded(world: &mut World, told: &mut Told, envelope_id: [u8; 16], kept: bool) {
    let Some(command) = world.unrecorded.remove(&envelope_id) else {
        return;
    };
    let refused = (!kept).then_some(Refused::AuditRequired);
    told.judged.push(Judged { envelope_id, refused });
    if kept {
        take_effect(world, told, command);
    }
}

fn judge(world: &mut World, sealed: &Sealed) -> Result<(), Refused> {
    if let (Order::Admin(_), Some(until)) = (
        &sealed.command.order,
        world.view.freeze_until.filter(|_| world.is_frozen()),
    ) {
        return Err(Refused::FreezeInEffect { until });
    }
    if let Some(refused) = &sealed.refused {
        return Err(refused.clone());
    }
    let Some(policy) = world.policy else { return Ok(()) };
    let action = match &sealed.command.order {
        Order::Ice(action) => Some(action),
        Order::Admin(_) => None,
    };
    if let (Some(action), Some(signed)) = (action, &sealed.blast) {
        let seen = Seen {
            view: &world.view,
            this_node: world.this_node,
            moving: &world.moving,
            now: world.now,
        };
        let drift = drift(signed, &simulate(seen, action));
        if !drift.is_empty() {
            world
                .ledger
                .check(sealed.envelope_id, sealed.issued_at, None, world.now)?;
            return Err(Refused::PreviewStale { drift });
        }
    }
    world
        .ledger
        .obey(sealed.envelope_id, sealed.issued_at, action, &policy, world.now)
}

/// Folds a command, if it may take effect.
pub fn command(world: &mut World, told: &mut Told, mut command: Command) {
    if matches!(command.order, Order::Admin(_)) && world.is_frozen() {
        command.verdict = Verdict::Rejected {
            kind: "freeze_in_effect",
        };
    }
    told.audits.push(command.clone());
    if !matches!(command.verdict, Verdict::Rejected { .. }) {
        take_effect(world, told, command);
    }
}

fn take_effect(world: &mut World, told: &mut Told, command: Command) {
    let why = Why {
        kind: CauseKind::Operator,
        detail: command.order.kind(),
        envelope_id: command.envelope_id,
    };
    match command.order {
        Order::Admin(event) => admin(world, told, event, why),
        Order::Ice(action) => ice(world, told, action, why),
    }
}

fn admin(world: &mut World, told: &mut Told, event: AdminEvent, why: Why) {
    let here = world.this_node;
    match event {
        AdminEvent::EnterMaintenance { node, drain_for } => {
            if node == here {
                let span = drain_for.unwrap_or(world.config.maintenance.default_drain_deadline);
                let deadline = world.now.plus(span);
                maintenance(world, told, MaintenanceSignal::Enter { deadline }, why);
            } else {
                mirror(world, node, MaintenancePhase::Entering, why);
            }
        }
        AdminEvent::Drain { node, drain_for } => {
            if node == here {
                let deadline = world.now.plus(drain_for);
                maintenance(world, told, MaintenanceSignal::Drain { deadline }, why);
            } else {
                mirror(world, node, MaintenancePhase::Entering, why);
            }
        }
        AdminEvent::ExitMaintenance { node } => {
            if node == here {
                maintenance(world, told, MaintenanceSignal::Exit, why);
            } else {
                mirror(world, node, MaintenancePhase::Exiting, why);
            }
        }
        AdminEvent::Cordon { node } => cordon(world, node, true, why),
        AdminEvent::Uncordon { node } => cordon(world, node, false, why),
        AdminEvent::RestartAllDaemons { node } if node == here => {
            let running: Vec<_> = world
                .view
                .daemons
                .values()
                .filter(|known| known.intent == Some(DaemonIntent::Run) && known.lifecycle == Lifecycle::Running)
                .map(|known| known.daemon.clone())
                .collect();
            for daemon in running {
                world.daemon(&daemon, why, |known| {
                    !std::mem::replace(&mut known.restart_wanted, true)
                });
            }
        }
        AdminEvent::ClearAvoidList { node } if node == here => clear_avoid_list(world, why),
        AdminEvent::DropReplicas { node, chains } if node == here => {
            for chain in chains {
                world.chain(chain, why, |known| {
                    known.local.replace(LocalReplicaIntent::Drop) != Some(LocalReplicaIntent::Drop)
                });
            }
        }
        AdminEvent::InvalidatePlacement { node } if node == here => {
            world.void_scores();
            world.recheck(why);
        }
        // They concern another node.
        AdminEvent::RestartAllDaemons { .. }
        | AdminEvent::ClearAvoidList { .. }
        | AdminEvent::DropReplicas { .. }
        | AdminEvent::InvalidatePlacement { .. } => {}
    }
}

fn cordon(world: &mut World, node: NodeId, cordoned: bool, why: Why) {
    if node == world.this_node {
        if world.view.cordoned != cordoned {
            world.view.cordoned = cordoned;
            world.changed();
        }
    } else {
        world.peer(node, why, |known| {
            std::mem::replace(&mut known.cordoned, cordoned) != cordoned
        });
    }
    world.judge(node, why);
}

fn clear_avoid_list(world: &mut World, why: Why) {
    let avoided: Vec<NodeId> = world.view.avoid.keys().copied().collect();
    for node in avoided {
        absolve(world, node, why);
    }
}

/// Takes a peer off the avoid list; it must be slow again before it is put back.
fn absolve(world: &mut World, node: NodeId, why: Why) {
    if world.view.avoid.contains_key(&node) {
        if world.view.peers.contains_key(&node) {
            world.peer(node, why, |known| {
                known.slow_samples = 0;
                false
            });
        }
        world.avoid(node, None, why);
    }
}

fn ice(world: &mut World, told: &mut Told, action: IceAction, why: Why) {
    match action {
        IceAction::FreezeCluster { ttl } => freeze(world, Some(world.now.plus(ttl.min(FREEZE_MAX))), why),
        IceAction::ThawCluster => freeze(world, None, why),
        IceAction::FlushAvoidLists { scope } => match scope {
            AvoidScope::Local(node) if node == world.this_node => clear_avoid_list(world, why),
            AvoidScope::Local(_) => {}
            AvoidScope::OnPeer(peer) => absolve(world, peer, why),
            AvoidScope::Global => clear_avoid_list(world, why),
        },
        IceAction::ForceEvictReplica { chain, victim } => {
            force(world, chain, why, |pair, forced| pair.evict = Some(forced), victim);
        }
        IceAction::ForceCutover { chain, target } => {
            force(world, chain, why, |pair, forced| pair.place = Some(forced), target);
        }
        IceAction::ForceRestartDaemon { daemon, .. } => {
            let Some(known) = world.view.daemons.get(&daemon) else {
                return;
            };
            let named = known.daemon.clone();
            world.daemon(&named, why, |known| {
                known.backoff.force_release();
                known.told_backoff = None;
                known.intent.get_or_insert(DaemonIntent::Run);
                known.restart_wanted = known.lifecycle == Lifecycle::Running;
                true
            });
            let here = world.view.daemons.get(&daemon);
            let here = here.is_some_and(|known| known.intent == Some(DaemonIntent::Run));
            told.supervise.push((daemon, here));
        }
        IceAction::KillMigration { migration } => told.kill.push(migration),
    }
}

/// Freezes until then, or thaws.
pub fn freeze(world: &mut World, until: Option<UnixMs>, why: Why) {
    if world.view.freeze_until != until {
        world.view.freeze_until = until;
        world.alarms.set(Alarm::Freeze, until);
        world.changed();
        world.recheck(why);
    }
}

fn force(
    world: &mut World,
    chain: ChainId,
    why: Why,
    set: impl FnOnce(&mut crate::world::ForcedPair, Forced),
    node: NodeId,
) {
    let until = world.now.plus(FORCED_TTL);
    set(world.forced.entry(chain).or_default(), Forced { node, until, why });
    world.mark(Key::Chain(chain), why);
}
