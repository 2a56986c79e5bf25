//! Why a daemon or a chain is as it is.
//!
//! The rule named is the one that decides now; the reasons are everything that holds the subject where it is.

use crate::command::ChainId;
use crate::event::DaemonHealth;
use crate::placement::{self, Stay};
use crate::reconcile::{effective_intent, may_move, under_way};
use crate::signal::{DaemonIntent, LocalReplicaIntent};
use crate::status::{ChainState, DaemonState, Explanation, InFlight, Lifecycle, Progress, Reason};
use crate::supervision::RestartState;
use crate::world::{Key, World};

fn reason(kind: &'static str, text: impl Into<String>, until: Option<crate::time::UnixMs>) -> Reason {
    Reason {
        kind,
        text: text.into(),
        until,
    }
}

/// Explains a daemon or a chain; `None`: nothing is known of it, or the key is of another sort.
#[must_use]
pub fn explain(world: &World, key: Key) -> Option<Explanation> {
    let mut explanation = match key {
        Key::Daemon(id) => daemon(world, world.view.daemons.get(&id)?),
        Key::Chain(id) => chain(world, id, world.view.chains.get(&id)?),
        Key::Maintenance | Key::Peer(_) => return None,
    };
    if world.is_frozen() {
        let until = world.view.freeze_until;
        explanation.rule = "frozen";
        explanation
            .reasons
            .push(reason("frozen", "an operator froze the cluster", until));
    }
    for flight in under_way(world, key).values() {
        explanation.reasons.push(flying(flight, world.now));
    }
    Some(explanation)
}

fn flying(flight: &InFlight, now: crate::time::UnixMs) -> Reason {
    let kind = flight.action.kind();
    let (text, until) = match flight.progress {
        Progress::Queued => (format!("{kind} waits for its turn"), None),
        Progress::Deferred { until } => (format!("{kind} is deferred"), Some(until)),
        Progress::Running { until } if until <= now => (format!("{kind} did not answer in time"), None),
        Progress::Running { until } => (format!("{kind} is being carried out"), Some(until)),
        Progress::AwaitingConfirmation { until } => {
            (format!("{kind} was carried out, and nothing shows it yet"), Some(until))
        }
        Progress::Cooling { until } => {
            let times = flight.failures;
            (
                format!("{kind} failed, {times} in a row, and is tried again later"),
                Some(until),
            )
        }
    };
    reason(flight.progress.name(), text, until)
}

fn daemon(world: &World, known: &DaemonState) -> Explanation {
    let intent = effective_intent(world, known);
    let desired = match known.intent {
        None => "nothing is wanted of it".to_owned(),
        Some(DaemonIntent::Run) => match known.pin {
            None => "run".to_owned(),
            Some(pin) => format!("run on node {}", pin.get()),
        },
        Some(DaemonIntent::Stop) => "stop".to_owned(),
    };
    let mut actual = known.lifecycle.name().to_owned();
    match &known.health {
        None | Some(DaemonHealth::Healthy) => {}
        Some(DaemonHealth::Degraded { reason }) => actual.push_str(&format!(", degraded: {reason}")),
        Some(DaemonHealth::Unhealthy { reason }) => actual.push_str(&format!(", unhealthy: {reason}")),
    }
    let mut reasons = Vec::new();
    if let Some((crash, _)) = &known.last_crash {
        reasons.push(reason("last_crash", format!("it crashed: {}", crash.reason), None));
    }
    let rule = match intent {
        None => "no_intent",
        Some((DaemonIntent::Run, _)) if known.lifecycle == Lifecycle::Running => "as_wanted",
        Some((DaemonIntent::Run, _)) => match known.backoff.state {
            RestartState::BackingOff { until } if until > world.now => {
                reasons.push(reason("backoff", "it waits after a crash", Some(until)));
                "backoff"
            }
            RestartState::CrashLooping { until } if until > world.now => {
                let text = format!("{} crashes within the window", known.backoff.crashes());
                reasons.push(reason("crash_loop", text, Some(until)));
                "crash_loop"
            }
            _ => "start",
        },
        Some((DaemonIntent::Stop, why)) => {
            let kind = match known.intent {
                Some(DaemonIntent::Stop) | None => "stop",
                Some(DaemonIntent::Run) if known.pin.is_some_and(|pin| pin != world.this_node) => "pinned_elsewhere",
                Some(DaemonIntent::Run) if world.is_draining() => "draining",
                Some(DaemonIntent::Run) => "restart",
            };
            if kind != "stop" {
                reasons.push(reason(kind, why, None));
            }
            if known.lifecycle == Lifecycle::Stopped {
                "as_wanted"
            } else {
                kind
            }
        }
    };
    Explanation {
        desired,
        actual,
        rule,
        reasons,
    }
}

fn chain(world: &World, id: ChainId, known: &ChainState) -> Explanation {
    let lasting = placement::lasting(world, id, known);
    let mut desired = match known.desired {
        None => "no number of copies".to_owned(),
        Some(count) => format!("{count} copies"),
    };
    match known.local {
        None => {}
        Some(LocalReplicaIntent::Hold) => desired.push_str(", one of them here"),
        Some(LocalReplicaIntent::Drop) => desired.push_str(", none of them here"),
    }
    let held = known.holders.len();
    let mut actual = format!("{held} copies");
    if lasting < held {
        actual.push_str(&format!(", {lasting} of them lasting"));
    }
    let mut reasons: Vec<Reason> = known
        .holders
        .iter()
        .filter(|holder| world.fading.contains(holder))
        .map(|holder| {
            let why = world.barred.get(holder).copied().unwrap_or("unreachable");
            reason(
                "fading",
                format!("the copy on node {} does not count: {why}", holder.get()),
                None,
            )
        })
        .collect();
    let rule = match known.leader {
        Some(leader) if leader == world.this_node => led(world, id, known, lasting, &mut reasons),
        Some(leader) => {
            reasons.push(reason("not_leader", format!("node {} leads it", leader.get()), None));
            here(world, known)
        }
        None => {
            reasons.push(reason("no_leader", "nobody leads it", None));
            here(world, known)
        }
    };
    Explanation {
        desired,
        actual,
        rule,
        reasons,
    }
}

fn here(world: &World, known: &ChainState) -> &'static str {
    let here = known.holders.binary_search(&world.this_node).is_ok();
    match (known.local, here) {
        (Some(LocalReplicaIntent::Hold), false) => "pull",
        (Some(LocalReplicaIntent::Drop), true) => "drop",
        _ if here && world.is_draining() => "draining",
        _ => "not_leader",
    }
}

fn led(world: &World, id: ChainId, known: &ChainState, lasting: usize, reasons: &mut Vec<Reason>) -> &'static str {
    if let Some(forced) = world.forced.get(&id) {
        let forced = forced.evict.or(forced.place);
        let until = forced.map(|forced| forced.until);
        reasons.push(reason("forced", "an operator forces it", until));
        return "forced";
    }
    if let Some(moving) = known.moving {
        let text = format!(
            "a copy moves from node {} to node {}",
            moving.victim.get(),
            moving.target.get()
        );
        reasons.push(reason("moving", text, Some(moving.until)));
        return "moving";
    }
    let wanted = known.desired.unwrap_or(0) as usize;
    if known.desired.is_some() && lasting < wanted {
        for (node, why) in &world.barred {
            reasons.push(reason("excluded", format!("node {}: {why}", node.get()), None));
        }
        return "too_few_copies";
    }
    if known.desired.is_some() && known.holders.len() > wanted {
        let leaving = placement::leaving(world, id, known);
        let goes = leaving.or_else(|| placement::victim(world, known, lasting, wanted));
        return if goes.is_some() {
            "too_many_copies"
        } else {
            reasons.push(reason(
                "too_few_lasting",
                "taking one away would leave too few that last",
                None,
            ));
            "too_few_lasting"
        };
    }
    let Some(scores) = known.scores.as_ref().filter(|_| world.scorer) else {
        return "as_wanted";
    };
    match placement::better(world, known, scores) {
        Ok((victim, target)) => {
            let text = format!("node {} scores better than node {}", target.get(), victim.get());
            reasons.push(reason("better", text, None));
            match may_move(world, id, known) {
                Ok(()) => "rebalance",
                Err(kind) => {
                    reasons.push(reason(kind, "a move must wait", known.rebalance_after));
                    "as_wanted"
                }
            }
        }
        Err(stay) => {
            let (kind, text) = match stay {
                Stay::NoOpinion => ("no_opinion", "the scorer has no opinion"),
                Stay::GoodEnough => ("good_enough", "every holder scores well enough"),
                Stay::NoAlternative => ("no_alternative", "there is no better node"),
                Stay::SmallGain => ("small_gain", "the best alternative is not much better"),
                Stay::TooDear => ("too_dear", "a move would cost more than it gains"),
            };
            reasons.push(reason(kind, text, None));
            "as_wanted"
        }
    }
}
