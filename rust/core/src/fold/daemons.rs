//! What happened to daemons, and what a registry has of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::capability::CapabilitySet;
use crate::finite::Share;
use crate::id::Origin;
use crate::signal::{DaemonRef, DaemonSignal, RosterEntry};
use crate::status::{DaemonState, Lifecycle};
use crate::time::UnixMs;
use crate::world::World;

use super::event;

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

/// Folds what a daemon adds to its node.
pub fn offered(world: &mut World, daemon: &DaemonRef, capabilities: Arc<CapabilitySet>) {
    world.daemon(daemon, event("capabilities"), |known| {
        if known.capabilities.as_ref() == Some(&capabilities) {
            return false;
        }
        known.capabilities = Some(capabilities);
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
