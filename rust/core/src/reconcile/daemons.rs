//! What is wanted of one daemon.

use std::sync::Arc;

use crate::action::{MeshOsAction, Priority};
use crate::id::Origin;
use crate::signal::DaemonIntent;
use crate::status::{DaemonState, Lifecycle};
use crate::time::UnixMs;
use crate::world::{FORGET_AFTER, World};

use super::{Wants, earliest, want};

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

pub(super) fn daemon(world: &World, known: &DaemonState) -> Wants {
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

pub(super) fn keep_daemon(world: &mut World, id: Origin) -> Option<UnixMs> {
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
