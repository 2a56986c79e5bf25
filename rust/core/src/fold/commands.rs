//! Commands: whether they take effect at this moment, and what each changes.

use crate::action::CauseKind;
use crate::command::{AdminEvent, AvoidScope, ChainId, Command, IceAction, Order, Verdict};
use crate::control_state::{ForcedOrder, OutOfService};
use crate::id::NodeId;
use crate::maintenance::MaintenanceSignal;
use crate::maintenance_state::MaintenancePhase;
use crate::refusal::Refused;
use crate::signal::{DaemonIntent, LocalReplicaIntent, Sealed};
use crate::simulate::{Seen, drift, simulate};
use crate::status::Lifecycle;
use crate::time::UnixMs;
use crate::world::{Alarm, Forced, Key, Unrecorded, Why, World};

use super::{Told, maintenance, nodes::mirror};

/// Commands that may wait for their records.
const UNRECORDED_MAX: usize = 4096;

/// What became of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Judged {
    /// Which.
    pub envelope_id: [u8; 16],
    /// Why it was refused; `None`: it took effect.
    pub refused: Option<Refused>,
    /// Its record was made in an earlier step.
    pub recorded: bool,
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
        told.held.push((told.audits.len(), judged.clone()));
        world.unrecorded.push_back(Unrecorded {
            command: judged,
            at: world.now,
            kept: None,
        });
        return;
    }
    if let Some(refused) = &refused {
        judged.verdict = Verdict::Rejected { kind: refused.kind() };
    }
    told.judged.push(Judged {
        envelope_id: sealed.envelope_id,
        refused,
        recorded: false,
    });
    command(world, told, judged);
}

/// The record of a held command was kept, or could not be: it takes effect, or never will. Commands take effect in the
/// order of their records, whichever is known first to be kept.
pub fn recorded(world: &mut World, told: &mut Told, envelope_id: [u8; 16], kept: bool) {
    let waits = |held: &&mut Unrecorded| held.kept.is_none() && held.command.envelope_id == Some(envelope_id);
    if let Some(held) = world.unrecorded.iter_mut().find(waits) {
        held.kept = Some(kept);
    }
    while let Some((kept, held)) = world
        .unrecorded
        .front()
        .and_then(|held| Some((held.kept?, held.clone())))
    {
        world.unrecorded.pop_front();
        if let Some(envelope_id) = held.command.envelope_id {
            told.judged.push(Judged {
                envelope_id,
                refused: (!kept).then_some(Refused::AuditRequired),
                recorded: true,
            });
        }
        if kept {
            take_effect(world, told, held.at, held.command);
        }
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
    if matches!(command.verdict, Verdict::Rejected { .. }) {
        return;
    }
    if world.unrecorded.is_empty() {
        take_effect(world, told, world.now, command);
    } else {
        world.unrecorded.push_back(Unrecorded {
            command,
            at: world.now,
            kept: Some(true),
        });
    }
}

/// Takes up what commands of earlier runs decided.
pub fn restore(world: &mut World, told: &mut Told) {
    let control = world.control.clone();
    let why = Why::of(CauseKind::Operator, "earlier run");
    freeze(world, control.freeze_until(world.now), why);
    for node in control.cordoned() {
        cordon(world, node, why);
    }
    for (node, wanted) in control.out_of_service(world.now) {
        out_of_service(world, told, node, wanted, why);
    }
    for (chain, orders) in control.all_forced(world.now) {
        let detail = |order: &ForcedOrder| Why {
            envelope_id: order.envelope_id,
            ..why
        };
        if let Some(order) = &orders.evict {
            evict(world, chain, order, detail(order));
        }
        if let Some(order) = &orders.place {
            place(world, chain, order, detail(order));
        }
    }
}

fn take_effect(world: &mut World, told: &mut Told, at: UnixMs, command: Command) {
    world.control.apply(at, &command);
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

fn out_of_service(world: &mut World, told: &mut Told, node: NodeId, wanted: OutOfService, why: Why) {
    if node != world.this_node {
        mirror(world, node, MaintenancePhase::Entering, why);
        return;
    }
    let span = world.config.maintenance.default_drain_deadline;
    let deadline = wanted.deadline.unwrap_or_else(|| wanted.since.plus(span));
    let signal = if wanted.returns {
        MaintenanceSignal::Drain { deadline }
    } else {
        MaintenanceSignal::Enter { deadline }
    };
    maintenance(world, told, signal, why);
}

fn admin(world: &mut World, told: &mut Told, event: AdminEvent, why: Why) {
    let here = world.this_node;
    match event {
        AdminEvent::EnterMaintenance { node, .. } | AdminEvent::Drain { node, .. } => {
            if let Some(wanted) = world.control.wanted_of(node) {
                out_of_service(world, told, node, wanted, why);
            }
        }
        AdminEvent::ExitMaintenance { node } => {
            if node == here {
                maintenance(world, told, MaintenanceSignal::Exit, why);
            } else {
                mirror(world, node, MaintenancePhase::Exiting, why);
            }
        }
        AdminEvent::Cordon { node } | AdminEvent::Uncordon { node } => cordon(world, node, why),
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

fn cordon(world: &mut World, node: NodeId, why: Why) {
    let cordoned = world.control.is_cordoned(node);
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
        IceAction::FreezeCluster { .. } | IceAction::ThawCluster => {
            freeze(world, world.control.freeze_until(world.now), why);
        }
        IceAction::FlushAvoidLists { scope } => match scope {
            AvoidScope::Local(node) if node == world.this_node => clear_avoid_list(world, why),
            AvoidScope::Local(_) => {}
            AvoidScope::OnPeer(peer) => absolve(world, peer, why),
            AvoidScope::Global => clear_avoid_list(world, why),
        },
        IceAction::ForceEvictReplica { chain, .. } => {
            if let Some(order) = &world.control.forced(chain).evict {
                evict(world, chain, order, why);
            }
        }
        IceAction::ForceCutover { chain, .. } => {
            if let Some(order) = &world.control.forced(chain).place {
                place(world, chain, order, why);
            }
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
            told.supervise.extend(world.supervise(daemon));
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

fn evict(world: &mut World, chain: ChainId, order: &ForcedOrder, why: Why) {
    world.forced.entry(chain).or_default().evict = Some(forced(order, why));
    world.mark(Key::Chain(chain), why);
}

fn place(world: &mut World, chain: ChainId, order: &ForcedOrder, why: Why) {
    world.forced.entry(chain).or_default().place = Some(forced(order, why));
    world.mark(Key::Chain(chain), why);
}

const fn forced(order: &ForcedOrder, why: Why) -> Forced {
    Forced {
        node: order.node,
        until: order.held.until,
        why,
    }
}
