//! The loop against a cluster that carries out what it is told: it converges, stays there, and can be replayed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meshos_core::action::MeshOsAction;
use meshos_core::behaviour::{Behaviour, Step, digest_of};
use meshos_core::command::{AdminEvent, ChainId, Command, IceAction, Order, Verdict};
use meshos_core::digest::Digest;
use meshos_core::event::Crash;
use meshos_core::id::{NodeId, Origin};
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::maintenance_state::MaintenancePhase;
use meshos_core::peer::NodeHealth;
use meshos_core::signal::{
    DaemonIntent, DaemonRef, DaemonSignal, LocalReplicaIntent, MeshOsEvent, Outcome, ReplicaChange, Signal,
};
use meshos_core::status::Lifecycle;
use meshos_core::testing::random::SplitMix64;
use meshos_core::time::UnixMs;
use proptest::prelude::*;

const HERE: NodeId = NodeId::new(1);
const START: UnixMs = UnixMs::new(1_700_000_000_000);

fn daemon(id: u64) -> DaemonRef {
    DaemonRef {
        id: Origin::new(id),
        name: Arc::from(format!("daemon-{id}")),
    }
}

fn order(order: Order) -> Signal {
    Signal::Command(Command {
        order,
        verdict: Verdict::Accepted,
        operators: vec![7],
        reason: "test".to_owned(),
        envelope_id: None,
    })
}

fn lifecycle(id: u64, signal: DaemonSignal) -> Signal {
    Signal::Event(MeshOsEvent::DaemonLifecycle {
        daemon: daemon(id),
        signal,
        at: None,
    })
}

fn intent(id: u64, intent: DaemonIntent) -> Signal {
    Signal::Event(MeshOsEvent::DaemonIntentUpdate {
        daemon: daemon(id),
        intent,
        node: None,
    })
}

/// Behaves as a cluster does: carries actions out, sometimes late, sometimes not at all, and tells what changed.
struct Cluster {
    behaviour: Behaviour,
    now: UnixMs,
    random: SplitMix64,
    running: BTreeSet<u64>,
    holders: BTreeMap<u64, BTreeSet<u64>>,
    nodes: Vec<u64>,
    /// What is said to the loop with the next steps.
    inbox: Vec<Signal>,
    log: Vec<(UnixMs, Vec<Signal>)>,
    digests: Vec<(Digest, Digest)>,
    /// Of a hundred dispatches, so many fail.
    failing: usize,
    /// Every action is carried out twice.
    twice: bool,
    carried_out: Vec<MeshOsAction>,
}

impl Cluster {
    fn new(seed: u64, config: MeshOsConfig) -> Self {
        Self {
            behaviour: Behaviour::new(HERE, config, seed, START),
            now: START,
            random: SplitMix64::new(seed),
            running: BTreeSet::new(),
            holders: BTreeMap::new(),
            nodes: (1..=6).collect(),
            inbox: Vec::new(),
            log: Vec::new(),
            digests: Vec::new(),
            failing: 0,
            twice: false,
            carried_out: Vec::new(),
        }
    }

    fn say(&mut self, signal: Signal) {
        self.inbox.push(signal);
    }

    fn step(&mut self, after: Duration) -> Step {
        self.now = self.now.plus(after);
        let signals = std::mem::take(&mut self.inbox);
        self.log.push((self.now, signals.clone()));
        let step = self.behaviour.step(self.now, signals);
        self.digests.push((self.behaviour.digest(), digest_of(&step)));
        assert_eq!(step.sweep_repairs, 0, "the sweep found what nobody had looked at");
        if !step.more {
            assert_eq!(self.behaviour.audit(), [], "at {}", self.now);
        }
        for dispatch in &step.dispatches {
            let outcome = if self.random.below(100) < self.failing {
                match self.random.below(3) {
                    0 => Outcome::Drop {
                        reason: Arc::from("on purpose"),
                    },
                    1 => Outcome::Retry {
                        reason: Arc::from("not yet"),
                        after: Duration::from_millis(50),
                    },
                    _ => Outcome::Raised {
                        reason: Arc::from("RuntimeError"),
                        traceback: None,
                    },
                }
            } else {
                let times = if self.twice { 2 } else { 1 };
                for _ in 0..times {
                    self.carry_out(&dispatch.action);
                }
                Outcome::Done
            };
            self.say(Signal::Dispatched {
                id: dispatch.id,
                outcome,
            });
        }
        step
    }

    fn carry_out(&mut self, action: &MeshOsAction) {
        self.carried_out.push(action.clone());
        match action {
            MeshOsAction::StartDaemon { daemon: started } => {
                self.running.insert(started.id.get());
                self.say(lifecycle(started.id.get(), DaemonSignal::Started));
            }
            MeshOsAction::StopDaemon { daemon: stopped, .. } => {
                if self.running.remove(&stopped.id.get()) {
                    self.say(lifecycle(stopped.id.get(), DaemonSignal::ExitedCleanly));
                }
            }
            MeshOsAction::PullReplica { chain, .. } => self.hold(chain.get(), HERE.get()),
            MeshOsAction::DropReplica { chain } => self.drop_copy(chain.get(), HERE.get()),
            MeshOsAction::RequestPlacement { chain, exclude, target } => {
                let free = |node: &&u64| !exclude.contains(&NodeId::new(**node));
                let node = target
                    .map(NodeId::get)
                    .or_else(|| self.nodes.iter().find(free).copied());
                if let Some(node) = node {
                    self.hold(chain.get(), node);
                }
            }
            MeshOsAction::RequestEviction { chain, victim } => self.drop_copy(chain.get(), victim.get()),
            MeshOsAction::CommitMaintenanceTransition { node, target } => {
                self.say(Signal::Event(MeshOsEvent::MaintenanceTransitionObserved {
                    node: *node,
                    state: target.clone(),
                }));
            }
            MeshOsAction::ApplyBackoff { .. } | MeshOsAction::MarkAvoid { .. } => {}
        }
    }

    fn hold(&mut self, chain: u64, holder: u64) {
        self.holders.entry(chain).or_default().insert(holder);
        self.replica(chain, holder, ReplicaChange::Added);
    }

    fn drop_copy(&mut self, chain: u64, holder: u64) {
        if self.holders.entry(chain).or_default().remove(&holder) {
            self.replica(chain, holder, ReplicaChange::Removed);
        }
    }

    fn replica(&mut self, chain: u64, holder: u64, change: ReplicaChange) {
        self.say(Signal::Event(MeshOsEvent::ReplicaUpdate {
            chain: ChainId::new(chain),
            holder: NodeId::new(holder),
            change,
        }));
    }

    /// Steps until nothing is left to do, or an hour has passed.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            let step = self.step(Duration::from_millis(10));
            if !step.more && self.inbox.is_empty() && self.behaviour.view().in_flight.is_empty() {
                return;
            }
            if self.inbox.is_empty() && !step.more {
                // Nothing happens before the next deadline.
                if let Some(next) = step.next {
                    self.now = self.now.max(UnixMs::new(next.get().saturating_sub(10)));
                }
            }
        }
        panic!("never settled: {:#?}", self.behaviour.view().in_flight);
    }

    fn lead(&mut self, chain: u64, desired: u32) {
        self.say(Signal::Event(MeshOsEvent::ReplicaLeaderUpdate {
            chain: ChainId::new(chain),
            leader: Some(HERE),
            term: 1,
        }));
        self.say(Signal::Event(MeshOsEvent::PlacementIntent {
            chain: ChainId::new(chain),
            desired_replicas: desired,
        }));
    }

    fn health(&mut self, node: u64, health: NodeHealth) {
        self.say(Signal::Event(MeshOsEvent::NodeHealthUpdate {
            peer: NodeId::new(node),
            health,
        }));
    }

    fn copies(&self, chain: u64) -> usize {
        self.holders.get(&chain).map_or(0, BTreeSet::len)
    }

    /// Steps for an hour, an action of any kind in it is one too many.
    fn assert_quiet(&mut self) {
        let emitted = self.behaviour.view().emissions.back().map_or(0, |emission| emission.id);
        for _ in 0..120 {
            self.step(Duration::from_secs(30));
        }
        let now = self.behaviour.view().emissions.back().map_or(0, |emission| emission.id);
        assert_eq!(emitted, now, "it oscillates: {:?}", self.behaviour.view().emissions);
    }
}

fn quick() -> MeshOsConfig {
    let mut config = MeshOsConfig::default();
    config.backpressure.replica_stabilization_window = Duration::from_millis(100);
    config.backpressure.pull_cooldown = Duration::from_millis(20);
    config
}

#[test]
fn intents_are_reached_and_kept() {
    let mut cluster = Cluster::new(1, quick());
    for id in 1..=50 {
        cluster.say(intent(id, DaemonIntent::Run));
    }
    for chain in 100..130 {
        cluster.lead(chain, 3);
    }
    cluster.settle();
    assert_eq!(cluster.running.len(), 50);
    for chain in 100..130 {
        assert_eq!(cluster.copies(chain), 3);
    }
    cluster.assert_quiet();
    for id in 1..=25 {
        cluster.say(intent(id, DaemonIntent::Stop));
    }
    for chain in 100..130 {
        cluster.lead(chain, 2);
    }
    cluster.settle();
    assert_eq!(cluster.running, (26..=50).collect());
    for chain in 100..130 {
        assert_eq!(cluster.copies(chain), 2);
    }
    cluster.assert_quiet();
}

#[test]
fn a_crashed_daemon_comes_back_after_its_backoff_and_not_before() {
    let mut cluster = Cluster::new(1, quick());
    cluster.say(intent(1, DaemonIntent::Run));
    cluster.settle();
    let crashed_at = cluster.now;
    let crash = Crash {
        reason: Arc::from("boom"),
        ..Crash::default()
    };
    cluster.running.remove(&1);
    cluster.say(lifecycle(1, DaemonSignal::Crashed { crash, down: true }));
    cluster.settle();
    while cluster.running.is_empty() {
        let step = cluster.step(Duration::from_millis(10));
        assert!(cluster.now.since(crashed_at) < Duration::from_secs(1), "{step:?}");
    }
    // 500 ms, shortened by at most a fifth.
    assert!(cluster.now.since(crashed_at) >= Duration::from_millis(400));
    cluster.settle();
    let known = &cluster.behaviour.view().daemons[&Origin::new(1)];
    assert_eq!((known.restarts, known.lifecycle), (1, Lifecycle::Running));
    assert_eq!(known.last_crash.as_ref().map(|(crash, _)| &*crash.reason), Some("boom"));
}

#[test]
fn a_lost_node_is_replaced_and_a_returning_one_does_not_oscillate() {
    let mut cluster = Cluster::new(3, quick());
    for chain in 100..120 {
        cluster.lead(chain, 3);
    }
    cluster.settle();
    cluster.health(2, NodeHealth::Unreachable);
    cluster.step(Duration::from_millis(10));
    // Longer than the grace.
    cluster.step(Duration::from_secs(31));
    cluster.settle();
    for chain in 100..120 {
        let lasting = cluster.holders[&chain].iter().filter(|node| **node != 2).count();
        assert_eq!(lasting, 3, "chain {chain}: {:?}", cluster.holders[&chain]);
    }
    cluster.health(2, NodeHealth::Healthy);
    cluster.settle();
    for chain in 100..120 {
        assert_eq!(cluster.copies(chain), 3);
    }
    cluster.assert_quiet();
}

#[test]
fn a_drain_takes_everything_away_and_service_brings_it_back() {
    let mut cluster = Cluster::new(5, quick());
    for id in 1..=20 {
        cluster.say(intent(id, DaemonIntent::Run));
    }
    for chain in 100..110 {
        cluster.lead(chain, 2);
    }
    cluster.settle();
    assert!(cluster.behaviour.view().replicas_left > 0);
    cluster.say(order(Order::Admin(AdminEvent::EnterMaintenance {
        node: HERE,
        drain_for: Some(Duration::from_secs(60)),
    })));
    cluster.settle();
    assert_eq!(
        cluster.behaviour.view().maintenance.phase(),
        MaintenancePhase::Maintenance
    );
    assert!(cluster.running.is_empty());
    for chain in 100..110 {
        assert!(!cluster.holders[&chain].contains(&HERE.get()));
        assert_eq!(cluster.copies(chain), 2, "no copy is lost on the way");
    }
    cluster.assert_quiet();
    cluster.say(order(Order::Admin(AdminEvent::ExitMaintenance { node: HERE })));
    cluster.settle();
    assert_eq!(cluster.running.len(), 20);
    assert_eq!(cluster.behaviour.view().maintenance.phase(), MaintenancePhase::Recovery);
    cluster.step(Duration::from_secs(301));
    cluster.settle();
    assert_eq!(cluster.behaviour.view().maintenance.phase(), MaintenancePhase::Active);
    cluster.assert_quiet();
}

#[test]
fn a_local_wish_pulls_and_drops() {
    let mut cluster = Cluster::new(6, quick());
    cluster.hold(100, 4);
    let local = |intent| {
        Signal::Event(MeshOsEvent::LocalReplicaIntentUpdate {
            chain: ChainId::new(100),
            intent,
        })
    };
    cluster.say(local(LocalReplicaIntent::Hold));
    cluster.settle();
    assert_eq!(cluster.holders[&100], BTreeSet::from([1, 4]));
    cluster.say(local(LocalReplicaIntent::Drop));
    cluster.settle();
    assert_eq!(cluster.holders[&100], BTreeSet::from([4]));
}

#[test]
fn a_frozen_cluster_does_nothing_until_it_is_thawed() {
    let mut cluster = Cluster::new(7, quick());
    let freeze = IceAction::FreezeCluster {
        ttl: Duration::from_secs(600),
    };
    cluster.say(order(Order::Ice(freeze)));
    cluster.say(intent(1, DaemonIntent::Run));
    cluster.lead(100, 2);
    cluster.step(Duration::from_secs(1));
    cluster.step(Duration::from_secs(60));
    assert_eq!(cluster.carried_out, []);
    let cordon = AdminEvent::Cordon { node: NodeId::new(2) };
    cluster.say(order(Order::Admin(cordon)));
    let step = cluster.step(Duration::from_millis(10));
    let refused = Verdict::Rejected {
        kind: "freeze_in_effect",
    };
    assert_eq!(step.audits[0].verdict, refused);
    cluster.say(order(Order::Ice(IceAction::ThawCluster)));
    cluster.settle();
    assert_eq!((cluster.running.len(), cluster.copies(100)), (1, 2));
}

#[test]
fn a_freeze_ends_by_itself() {
    let mut cluster = Cluster::new(7, quick());
    let ttl = Duration::from_secs(5);
    cluster.say(order(Order::Ice(IceAction::FreezeCluster { ttl })));
    cluster.say(intent(1, DaemonIntent::Run));
    cluster.step(Duration::from_secs(1));
    assert!(cluster.running.is_empty());
    cluster.step(Duration::from_secs(5));
    assert_eq!(cluster.running.len(), 1);
}

#[test]
fn a_million_repetitions_are_one_action() {
    let mut behaviour = Behaviour::new(HERE, MeshOsConfig::default(), 1, START);
    for _ in 0..1000 {
        let step = behaviour.step(START, (0..1000).map(|_| intent(1, DaemonIntent::Run)));
        assert!(step.dispatches.len() <= 1);
    }
    assert_eq!(behaviour.view().in_flight.len(), 1);
    assert_eq!(behaviour.view().emissions.len(), 1);
}

#[test]
fn a_full_queue_refuses_counts_and_makes_up_for_it() {
    let mut config = quick();
    config.action_queue_capacity = 4;
    config.backpressure.cluster_backpressure_threshold = 4;
    config.backpressure.cluster_backpressure_release = 1;
    let mut cluster = Cluster::new(8, config);
    for id in 1..=200 {
        cluster.say(intent(id, DaemonIntent::Run));
    }
    let step = cluster.step(Duration::from_millis(1));
    assert_eq!(step.first_refused, Some("start_daemon"));
    cluster.settle();
    assert_eq!(cluster.running.len(), 200);
    let stats = cluster.behaviour.stats();
    assert!(stats.dropped > 0);
    assert_eq!(stats.cluster_backpressure_asserts, stats.cluster_backpressure_releases);
}

fn wild(cluster: &mut Cluster, steps: usize) {
    for _ in 0..steps {
        for _ in 0..cluster.random.below(4) {
            let id = 1 + cluster.random.below(12) as u64;
            let chain = 100 + cluster.random.below(8) as u64;
            let node = 2 + cluster.random.below(5) as u64;
            match cluster.random.below(12) {
                0 | 1 => cluster.say(intent(id, DaemonIntent::Run)),
                2 => cluster.say(intent(id, DaemonIntent::Stop)),
                3 => {
                    if cluster.running.remove(&id) {
                        let crash = Crash::default();
                        cluster.say(lifecycle(id, DaemonSignal::Crashed { crash, down: true }));
                    }
                }
                4 => {
                    let desired = cluster.random.below(4) as u32;
                    cluster.lead(chain, desired);
                }
                5 => cluster.health(node, NodeHealth::Unreachable),
                6 => cluster.health(node, NodeHealth::Healthy),
                7 => cluster.drop_copy(chain, node),
                8 => cluster.hold(chain, node),
                9 => cluster.say(order(Order::Admin(AdminEvent::Cordon {
                    node: NodeId::new(node),
                }))),
                10 => cluster.say(order(Order::Admin(AdminEvent::Uncordon {
                    node: NodeId::new(node),
                }))),
                _ => {
                    let peer = NodeId::new(node);
                    let rtt = Duration::from_millis(cluster.random.below(600) as u64);
                    cluster.say(Signal::Event(MeshOsEvent::RttSample { peer, rtt }));
                }
            }
        }
        let after = Duration::from_millis(cluster.random.below(2000) as u64);
        cluster.step(after);
    }
}

/// What is wanted after everything wild has ended.
fn calm(cluster: &mut Cluster) {
    cluster.failing = 0;
    for node in 2..=6 {
        cluster.health(node, NodeHealth::Healthy);
        cluster.say(order(Order::Admin(AdminEvent::Uncordon {
            node: NodeId::new(node),
        })));
        for _ in 0..20 {
            let rtt = Duration::from_millis(1);
            let peer = NodeId::new(node);
            cluster.say(Signal::Event(MeshOsEvent::RttSample { peer, rtt }));
        }
    }
    for id in 1..=12 {
        cluster.say(intent(
            id,
            if id % 2 == 0 {
                DaemonIntent::Run
            } else {
                DaemonIntent::Stop
            },
        ));
    }
    for chain in 100..108 {
        cluster.lead(chain, 3);
    }
    cluster.step(Duration::from_secs(400));
    cluster.settle();
    // The longest wait of all is a crash loop.
    cluster.step(Duration::from_secs(301));
    cluster.settle();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_happened_the_wish_is_reached_and_kept(seed: u64, failing in 0..60_usize, twice: bool) {
        let mut cluster = Cluster::new(seed, quick());
        (cluster.failing, cluster.twice) = (failing, twice);
        wild(&mut cluster, 120);
        calm(&mut cluster);
        prop_assert_eq!(&cluster.running, &BTreeSet::from([2, 4, 6, 8, 10, 12]));
        for chain in 100..108 {
            prop_assert_eq!(cluster.copies(chain), 3);
        }
        cluster.assert_quiet();
    }

    #[test]
    fn the_log_of_a_run_replays_to_the_same_digests(seed: u64) {
        let mut cluster = Cluster::new(seed, quick());
        cluster.failing = 30;
        wild(&mut cluster, 150);
        let mut again = Behaviour::new(HERE, quick(), seed, START);
        for ((now, signals), expected) in cluster.log.iter().zip(&cluster.digests) {
            let step = again.step(*now, signals.clone());
            prop_assert_eq!(&(again.digest(), digest_of(&step)), expected);
        }
    }

    #[test]
    fn a_digest_tells_states_apart(seed: u64) {
        let mut cluster = Cluster::new(seed, quick());
        wild(&mut cluster, 20);
        let mut other = cluster.behaviour.clone();
        prop_assert_eq!(cluster.behaviour.digest(), other.digest());
        other.step(cluster.now, [intent(999, DaemonIntent::Run)]);
        prop_assert_ne!(cluster.behaviour.digest(), other.digest());
    }
}
