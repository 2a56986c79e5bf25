//! What the loop wants in every situation, as tables: situation, and what is dispatched.
#![allow(clippy::type_complexity, reason = "the rows of a table")]
#![allow(clippy::field_reassign_with_default, reason = "one option of many is the point")]

#[path = "../support/cluster.rs"]
mod cluster;

mod admission;
mod commands;
mod daemons;
mod explain;
mod fold;
mod locality;
mod maintenance;
mod replicas;
mod scheduler;

use std::time::Duration;

use meshos_core::action::MeshOsAction;
use meshos_core::behaviour::{Behaviour, Step};
use meshos_core::executor::Dispatch;
use meshos_core::id::{NodeId, Origin};
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::signal::{Outcome, Signal};
use meshos_core::status::{ChainState, DaemonState, Explanation, PeerState, Progress};
use meshos_core::time::UnixMs;
use meshos_core::world::Key;

use cluster::{HERE, START, ended};

/// A loop to which a test says everything itself.
struct Loop {
    behaviour: Behaviour,
    now: UnixMs,
}

impl Loop {
    fn new() -> Self {
        Self::with(MeshOsConfig::default())
    }

    fn with(config: MeshOsConfig) -> Self {
        Self {
            behaviour: Behaviour::new(HERE, config, 7, START),
            now: START,
        }
    }

    /// What is done about signals, in as many steps as it takes.
    fn tell(&mut self, signals: impl IntoIterator<Item = Signal>) -> Step {
        let mut all = self.behaviour.step(self.now, signals);
        while all.more {
            let step = self.behaviour.step(self.now, []);
            all.dispatches.extend(step.dispatches);
            all.controls.extend(step.controls);
            all.failures.extend(step.failures);
            all.disposed.extend(step.disposed);
            all.scores.extend(step.scores);
            all.fingerprints.extend(step.fingerprints);
            all.sweep_repairs += step.sweep_repairs;
            all.pressure = all.pressure.or(step.pressure);
            all.first_refused = all.first_refused.or(step.first_refused);
            (all.more, all.next) = (step.more, step.next);
        }
        assert_eq!(all.sweep_repairs, 0);
        assert_eq!(self.behaviour.audit(), []);
        all
    }

    /// What is dispatched because of signals.
    fn says(&mut self, signals: impl IntoIterator<Item = Signal>) -> Vec<String> {
        self.tell(signals)
            .dispatches
            .iter()
            .map(|it| short(it, self.now))
            .collect()
    }

    /// What is done when nothing but time passes.
    fn after(&mut self, span: Duration) -> Step {
        self.now = self.now.plus(span);
        self.tell([])
    }

    /// What is dispatched when nothing but time passes.
    fn says_after(&mut self, span: Duration) -> Vec<String> {
        self.now = self.now.plus(span);
        self.says([])
    }

    /// A step in which every dispatch of another is carried out.
    fn done(&mut self, step: &Step) -> Step {
        let done = step.dispatches.iter().map(|it| ended(it.id, Outcome::Done));
        self.tell(done.collect::<Vec<_>>())
    }

    /// A step in which every dispatch that runs ends.
    fn end_all(&mut self, outcome: &Outcome) -> Step {
        let flights = self.behaviour.view().in_flight.values();
        let running = flights.filter(|flight| matches!(flight.progress, Progress::Running { .. }));
        let ends: Vec<Signal> = running.map(|flight| ended(flight.id, outcome.clone())).collect();
        self.tell(ends)
    }

    fn daemon(&self, id: u64) -> &DaemonState {
        &self.behaviour.view().daemons[&Origin::new(id)]
    }

    fn chain(&self, id: u64) -> &ChainState {
        &self.behaviour.view().chains[&Origin::new(id)]
    }

    fn peer(&self, id: u64) -> &PeerState {
        &self.behaviour.view().peers[&NodeId::new(id)]
    }

    fn explain(&self, key: Key) -> Explanation {
        meshos_core::explain::explain(self.behaviour.world(), key).expect("it is known")
    }

    /// Where the actions under way are: kind, and name of the progress.
    fn flying(&self) -> Vec<(&'static str, &'static str)> {
        let flights = self.behaviour.view().in_flight.values();
        flights
            .map(|flight| (flight.action.kind(), flight.progress.name()))
            .collect()
    }

    fn emitted(&self) -> u64 {
        self.behaviour.view().emissions.back().map_or(0, |emission| emission.id)
    }
}

/// An action as a test writes it; points in time are how far off they are.
fn short(dispatch: &Dispatch, now: UnixMs) -> String {
    action(&dispatch.action, now)
}

fn action(action: &MeshOsAction, now: UnixMs) -> String {
    let off = |at: UnixMs| at.since(now).as_millis();
    let ids = |nodes: &[NodeId]| {
        let nodes: Vec<String> = nodes.iter().map(|node| node.get().to_string()).collect();
        nodes.join(" ")
    };
    match action {
        MeshOsAction::StartDaemon { daemon } => format!("start {}", daemon.id.get()),
        MeshOsAction::StopDaemon {
            daemon,
            reason,
            deadline,
        } => format!("stop {} in {}: {reason}", daemon.id.get(), off(*deadline)),
        MeshOsAction::ApplyBackoff { daemon, until } => format!("hold back {} for {}", daemon.id.get(), off(*until)),
        MeshOsAction::PullReplica { chain, source } => format!("pull {} from {}", chain.get(), source.get()),
        MeshOsAction::DropReplica { chain } => format!("drop {}", chain.get()),
        MeshOsAction::RequestPlacement { chain, exclude, target } => match target {
            None => format!("place {} not on [{}]", chain.get(), ids(exclude)),
            Some(target) => format!("place {} not on [{}] but {}", chain.get(), ids(exclude), target.get()),
        },
        MeshOsAction::RequestEviction { chain, victim } => format!("evict {} from {}", chain.get(), victim.get()),
        MeshOsAction::MarkAvoid { peer, until, .. } => format!("avoid {} for {}", peer.get(), off(*until)),
        MeshOsAction::CommitMaintenanceTransition { target, .. } => format!("commit {}", target.phase().name()),
    }
}
