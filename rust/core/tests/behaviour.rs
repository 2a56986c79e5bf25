//! The loop against a cluster that carries out what it is told: it converges, stays there, and can be replayed.

#[path = "support/cluster.rs"]
mod cluster;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use meshos_core::behaviour::{Behaviour, digest_of};
use meshos_core::command::{AdminEvent, AvoidScope, ChainId, IceAction, Verdict};
use meshos_core::event::{Crash, DaemonHealth};
use meshos_core::finite::{Finite, Share};
use meshos_core::id::{NodeId, Origin};
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::maintenance_state::{MaintenancePhase, MaintenanceState};
use meshos_core::peer::{NodeHealth, PeerInventory, Samples};
use meshos_core::signal::{DaemonIntent, DaemonSignal, LocalReplicaIntent, MeshOsEvent, RosterEntry, Signal};
use meshos_core::status::{ChainState, Lifecycle, View};
use proptest::prelude::*;

use cluster::*;

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
    // A start after a stop is no restart, though it crashed before.
    cluster.step(Duration::from_millis(10));
    cluster.running.remove(&1);
    cluster.say(lifecycle(1, DaemonSignal::ExitedCleanly));
    cluster.settle();
    let known = &cluster.behaviour.view().daemons[&Origin::new(1)];
    assert_eq!((known.restarts, known.lifecycle), (1, Lifecycle::Running));
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
    cluster.say(admin(AdminEvent::EnterMaintenance {
        node: HERE,
        drain_for: Some(Duration::from_secs(60)),
    }));
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
    cluster.say(admin(AdminEvent::ExitMaintenance { node: HERE }));
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
    cluster.say(local(100, LocalReplicaIntent::Hold));
    cluster.settle();
    assert_eq!(cluster.holders[&100], BTreeSet::from([1, 4]));
    cluster.say(local(100, LocalReplicaIntent::Drop));
    cluster.settle();
    assert_eq!(cluster.holders[&100], BTreeSet::from([4]));
}

#[test]
fn a_frozen_cluster_does_nothing_until_it_is_thawed() {
    let mut cluster = Cluster::new(7, quick());
    let freeze = IceAction::FreezeCluster {
        ttl: Duration::from_secs(600),
    };
    cluster.say(ice(freeze));
    cluster.say(intent(1, DaemonIntent::Run));
    cluster.lead(100, 2);
    cluster.step(Duration::from_secs(1));
    cluster.step(Duration::from_secs(60));
    assert_eq!(cluster.carried_out, []);
    let cordon = AdminEvent::Cordon { node: NodeId::new(2) };
    cluster.say(admin(cordon));
    let step = cluster.step(Duration::from_millis(10));
    let refused = Verdict::Rejected {
        kind: "freeze_in_effect",
    };
    assert_eq!(step.audits[0].verdict, refused);
    cluster.say(ice(IceAction::ThawCluster));
    cluster.settle();
    assert_eq!((cluster.running.len(), cluster.copies(100)), (1, 2));
}

#[test]
fn a_freeze_ends_by_itself() {
    let mut cluster = Cluster::new(7, quick());
    let ttl = Duration::from_secs(5);
    cluster.say(ice(IceAction::FreezeCluster { ttl }));
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

/// One thing of any sort happens.
fn happen(cluster: &mut Cluster, registry: &mut u64) {
    let id = 1 + cluster.random.below(12) as u64;
    let chain = 100 + cluster.random.below(8) as u64;
    let other = 2 + cluster.random.below(5) as u64;
    let anywhere = 1 + cluster.random.below(6) as u64;
    let term = 1 + cluster.random.below(4) as u64;
    match cluster.random.below(40) {
        0..=3 => cluster.say(intent(id, DaemonIntent::Run)),
        4 => cluster.say(intent(id, DaemonIntent::Stop)),
        5 => cluster.say(pinned(id, DaemonIntent::Run, Some(anywhere))),
        6 | 7 => {
            if cluster.running.remove(&id) {
                cluster.say(crash(id, "boom"));
            }
        }
        8 => {
            let crash = Crash::because("it went on");
            cluster.say(lifecycle(id, DaemonSignal::Crashed { crash, down: false }));
        }
        9 => {
            let reason = "slow".to_owned();
            let healths = [DaemonHealth::Healthy, DaemonHealth::Unhealthy { reason }];
            let health = healths[cluster.random.below(2)].clone();
            cluster.say(lifecycle(id, DaemonSignal::HealthChanged(health)));
            let share = Share::new(cluster.random.below(10) as f64 / 10.0).expect("finite");
            cluster.say(lifecycle(id, DaemonSignal::SaturationChanged(share)));
        }
        10 => {
            let daemon = Origin::new(id);
            cluster.say(Signal::Event(MeshOsEvent::ForgetDaemon { daemon }));
        }
        11 => {
            // Something got lost, and the comparison with the registry makes up for it.
            if cluster.random.below(2) == 0 {
                cluster.running.remove(&id);
            } else {
                cluster.running.insert(id);
                *registry += 1;
                cluster.say(Signal::Registry {
                    daemon: daemon(id),
                    signal: DaemonSignal::Started,
                    at: cluster.now,
                    number: *registry,
                });
            }
            cluster.say(roster(cluster, *registry));
        }
        12..=15 => {
            let desired = cluster.random.below(5) as u32;
            cluster.lead(chain, desired);
        }
        16 => cluster.say(leader(chain, Some(anywhere), term)),
        17 => cluster.say(leader(chain, None, term)),
        18 => {
            cluster.holders.entry(chain).or_default().insert(anywhere);
            let holder = NodeId::new(anywhere);
            let chain = ChainId::new(chain);
            cluster.say(Signal::Event(MeshOsEvent::ReplicaBecameHolderAndLeader {
                chain,
                holder,
                term,
            }));
        }
        19 => {
            cluster.holders.entry(chain).or_default().remove(&anywhere);
            let holder = NodeId::new(anywhere);
            let chain = ChainId::new(chain);
            cluster.say(Signal::Event(MeshOsEvent::ReplicaLeaderLostAndRemoved {
                chain,
                holder,
            }));
        }
        20 => cluster.drop_copy(chain, anywhere),
        21 => cluster.hold(chain, anywhere),
        22 => cluster.say(local(chain, LocalReplicaIntent::Hold)),
        23 => cluster.say(local(chain, LocalReplicaIntent::Drop)),
        24 => {
            let chain = ChainId::new(chain);
            cluster.say(Signal::Event(MeshOsEvent::ForgetChain { chain }));
            cluster.holders.remove(&chain.get());
        }
        25 => cluster.health(other, NodeHealth::Unreachable),
        26 | 27 => cluster.health(other, NodeHealth::Healthy),
        28 | 29 => {
            let millis = cluster.random.below(600) as u64;
            cluster.say(rtt(other, millis));
        }
        30 => {
            let node = NodeId::new(anywhere);
            let events = [
                AdminEvent::Cordon { node },
                AdminEvent::Uncordon { node },
                AdminEvent::ClearAvoidList { node },
                AdminEvent::InvalidatePlacement { node },
                AdminEvent::RestartAllDaemons { node },
            ];
            let event = events[cluster.random.below(5)].clone();
            cluster.say(admin(event));
        }
        31 => {
            let node = NodeId::new(anywhere);
            let drain_for = Duration::from_secs(cluster.random.below(30) as u64);
            let events = [
                AdminEvent::EnterMaintenance {
                    node,
                    drain_for: Some(drain_for),
                },
                AdminEvent::Drain { node, drain_for },
                AdminEvent::ExitMaintenance { node },
                AdminEvent::ExitMaintenance { node: HERE },
            ];
            let event = events[cluster.random.below(4)].clone();
            cluster.say(admin(event));
        }
        32 => {
            let since = cluster.now;
            let states = [
                MaintenanceState::Active,
                MaintenanceState::Maintenance { since },
                MaintenanceState::Recovery { since },
            ];
            let state = states[cluster.random.below(3)].clone();
            let node = NodeId::new(anywhere);
            cluster.say(Signal::Event(MeshOsEvent::MaintenanceTransitionObserved {
                node,
                state,
            }));
        }
        33 => {
            let chains = vec![ChainId::new(chain)];
            cluster.say(admin(AdminEvent::DropReplicas { node: HERE, chains }));
        }
        34 => {
            let ttl = Duration::from_secs(cluster.random.below(4) as u64);
            cluster.say(ice(IceAction::FreezeCluster { ttl }));
        }
        35 => cluster.say(ice(IceAction::ThawCluster)),
        36 => {
            let (chain, node) = (ChainId::new(chain), NodeId::new(anywhere));
            let actions = [
                IceAction::ForceEvictReplica { chain, victim: node },
                IceAction::ForceCutover { chain, target: node },
                IceAction::ForceRestartDaemon {
                    daemon: Origin::new(id),
                    name: String::new(),
                },
                IceAction::FlushAvoidLists {
                    scope: AvoidScope::OnPeer(node),
                },
            ];
            let action = actions[cluster.random.below(4)].clone();
            cluster.say(ice(action));
        }
        37 => {
            let score = cluster.random.below(10) as f64 / 10.0;
            cluster.scores.insert(anywhere, score);
        }
        38 => {
            let installed = cluster.random.below(8) != 0;
            cluster.say(Signal::ScorerChanged { installed });
        }
        _ => {
            let probe = 1 + cluster.random.below(2) as u64;
            let load = Finite::new(cluster.random.below(4) as f64);
            let inventory = PeerInventory {
                cpu_load_1m: load,
                ..PeerInventory::default()
            };
            let samples = Samples::Inventory(vec![(NodeId::new(other), inventory)]);
            cluster.say(Signal::Samples { probe, samples });
            if cluster.random.below(8) == 0 {
                cluster.say(Signal::ProbeRemoved { probe });
            }
        }
    }
}

fn roster(cluster: &Cluster, number: u64) -> Signal {
    let daemons = cluster.running.iter().map(|id| RosterEntry {
        daemon: daemon(*id),
        down: false,
    });
    Signal::Roster {
        daemons: daemons.collect(),
        number,
    }
}

/// Anything happens, for so many steps; time stands still, passes, or jumps.
fn wild(cluster: &mut Cluster, steps: usize) {
    if cluster.scores.is_empty() {
        cluster.scores.extend((1..=6).map(|node| (node, node as f64 / 7.0)));
        cluster.say(Signal::ScorerChanged { installed: true });
    }
    let mut registry = 0;
    for _ in 0..steps {
        for _ in 0..cluster.random.below(4) {
            happen(cluster, &mut registry);
        }
        let after = match cluster.random.below(40) {
            0 => Duration::from_secs(cluster.random.below(4000) as u64),
            1..=9 => Duration::ZERO,
            _ => Duration::from_millis(cluster.random.below(2000) as u64),
        };
        cluster.step(after);
    }
}

/// Everything wild ends, and something definite is wanted.
fn calm(cluster: &mut Cluster) {
    (cluster.failing, cluster.late, cluster.hanging) = (0, 0, 0);
    cluster.wake();
    cluster.say(ice(IceAction::ThawCluster));
    cluster.step(ms(1));
    cluster.say(Signal::ScorerChanged { installed: false });
    cluster.say(admin(AdminEvent::ExitMaintenance { node: HERE }));
    for id in 1..=6 {
        let node = NodeId::new(id);
        cluster.say(admin(AdminEvent::Uncordon { node }));
        if id != HERE.get() {
            cluster.health(id, NodeHealth::Healthy);
            let state = MaintenanceState::Active;
            cluster.say(Signal::Event(MeshOsEvent::MaintenanceTransitionObserved {
                node,
                state,
            }));
            (0..20).for_each(|_| cluster.say(rtt(id, 1)));
        }
    }
    for chain in 100..108 {
        let id = ChainId::new(chain);
        cluster.say(Signal::Event(MeshOsEvent::ForgetChain { chain: id }));
        for holder in cluster.holders.get(&chain).cloned().unwrap_or_default() {
            cluster.say(added(chain, holder));
        }
        cluster.lead(chain, 3);
    }
    for id in 1..=12 {
        let wanted = [DaemonIntent::Run, DaemonIntent::Stop][id as usize % 2];
        cluster.say(intent(id, wanted));
    }
    cluster.say(roster(cluster, 0));
    for id in 1..=12 {
        if cluster.running.contains(&id) {
            cluster.say(lifecycle(id, DaemonSignal::Started));
        } else {
            cluster.say(lifecycle(id, DaemonSignal::ExitedCleanly));
        }
    }
    cluster.step(ms(1));
    // The longest waits are a forced request that cannot be carried out, a ramp after maintenance, and a crash loop.
    cluster.pass(s(1300));
    cluster.settle();
}

fn is_wanted(cluster: &Cluster) -> Result<(), TestCaseError> {
    prop_assert_eq!(&cluster.running, &BTreeSet::from([2, 4, 6, 8, 10, 12]));
    for chain in 100..108 {
        prop_assert_eq!(cluster.copies(chain), 3);
    }
    prop_assert_eq!(cluster.behaviour.view().maintenance.phase(), MaintenancePhase::Active);
    Ok(())
}

/// What is shown, without the counts of changes.
fn shown(view: &View) -> String {
    let chains = view.chains.iter().map(|(id, chain)| {
        let mut chain = ChainState::clone(chain);
        if let Some(scores) = &mut chain.scores {
            Arc::make_mut(scores).changes = 0;
        }
        (*id, chain)
    });
    let chains: Vec<_> = chains.collect();
    let View {
        daemons,
        peers,
        avoid,
        in_flight,
        emissions,
        maintenance,
        daemons_left,
        replicas_left,
        freeze_until,
        cordoned,
        generation: _,
        chains: _,
    } = view;
    let left = (daemons_left, replicas_left);
    format!(
        "{daemons:?} {chains:?} {peers:?} {avoid:?} {in_flight:?} {emissions:?} {maintenance:?} {left:?} {freeze_until:?} {cordoned}"
    )
}

/// How often a signal is folded to see that it is idempotent: a sample that comes twice is another sample.
fn times(signal: &Signal) -> usize {
    let counts = matches!(
        signal,
        Signal::Event(MeshOsEvent::RttSample { .. })
            | Signal::Samples {
                samples: Samples::Locality(_),
                ..
            }
    );
    if counts { 1 } else { 2 }
}

/// Runs of each property: `PROPTEST_CASES`, or enough for every day.
fn cases() -> u32 {
    let wanted = std::env::var("PROPTEST_CASES").ok();
    wanted.and_then(|count| count.parse().ok()).unwrap_or(24)
}

/// A digest of the digests of a long run.
fn long_run(seed: u64, steps: usize) -> (blake3::Hash, u64) {
    let mut cluster = Cluster::new(seed, options(seed));
    (cluster.failing, cluster.late, cluster.hanging) = (20, 20, 1);
    cluster.checking = false;
    let mut all = blake3::Hasher::new();
    for turn in 0..steps {
        wild(&mut cluster, 1);
        cluster.log.clear();
        for (state, step) in cluster.digests.drain(..) {
            all.update(state.as_bytes()).update(step.as_bytes());
        }
        if turn % 1000 == 0 {
            // Places that hang are given back, as by a restart of whoever carries things out.
            cluster.wake();
        }
    }
    (all.finalize(), cluster.emitted())
}

#[test]
fn a_long_run_gives_the_same_digests_twice() {
    // A build for every day is thirty times slower.
    let steps = if cfg!(debug_assertions) { 5_000 } else { 100_000 };
    let (digest, emitted) = long_run(42, steps);
    assert_eq!(long_run(42, steps), (digest, emitted));
    assert_ne!(long_run(43, steps / 10).0, digest);
    assert!(emitted as usize > steps / 10, "{emitted} emissions");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn whatever_happened_the_wish_is_reached_and_kept(
        seed: u64, failing in 0..60_usize, late in 0..60_usize, hanging in 0..20_usize, twice: bool,
    ) {
        let mut cluster = Cluster::new(seed, options(seed));
        (cluster.failing, cluster.twice) = (failing, twice);
        (cluster.late, cluster.hanging) = (late, hanging);
        wild(&mut cluster, 150);
        calm(&mut cluster);
        is_wanted(&cluster)?;
        cluster.assert_quiet();
    }

    #[test]
    fn the_log_of_a_run_replays_to_the_same_digests(seed: u64) {
        let mut cluster = Cluster::new(seed, options(seed));
        (cluster.failing, cluster.late, cluster.hanging) = (30, 30, 5);
        wild(&mut cluster, 150);
        let mut again = Behaviour::new(HERE, options(seed), seed, START);
        for ((now, signals), expected) in cluster.log.iter().zip(&cluster.digests) {
            let step = again.step(*now, signals.clone());
            prop_assert_eq!(&(again.digest(), digest_of(&step)), expected);
        }
    }

    #[test]
    fn a_signal_that_is_folded_twice_leaves_what_it_left_once(seed: u64) {
        let mut cluster = Cluster::new(seed, options(seed));
        (cluster.failing, cluster.late, cluster.hanging) = (20, 30, 5);
        wild(&mut cluster, 100);
        let (mut once, mut twice) = (Behaviour::new(HERE, options(seed), seed, START), Behaviour::new(HERE, options(seed), seed, START));
        for (now, signals) in &cluster.log {
            let doubled = signals.iter().flat_map(|signal| std::iter::repeat_n(signal.clone(), times(signal)));
            let (said_once, said_twice) = (once.step(*now, signals.clone()), twice.step(*now, doubled));
            prop_assert_eq!(said_once.dispatches, said_twice.dispatches);
            prop_assert_eq!((said_once.controls, said_once.disposed), (said_twice.controls, said_twice.disposed));
            prop_assert_eq!(shown(once.view()), shown(twice.view()));
        }
    }

    #[test]
    fn an_action_that_is_carried_out_twice_ends_as_once(seed: u64) {
        let (mut once, mut twice) = (Cluster::new(seed, options(seed)), Cluster::new(seed, options(seed)));
        twice.twice = true;
        for _ in 0..100 {
            wild(&mut once, 1);
            wild(&mut twice, 1);
            prop_assert_eq!((&once.running, &once.holders), (&twice.running, &twice.holders));
            prop_assert_eq!(shown(once.behaviour.view()), shown(twice.behaviour.view()));
        }
    }

    #[test]
    fn a_digest_tells_states_apart(seed: u64) {
        let mut cluster = Cluster::new(seed, options(seed));
        wild(&mut cluster, 20);
        let mut other = cluster.behaviour.clone();
        prop_assert_eq!(cluster.behaviour.digest(), other.digest());
        other.step(cluster.now, [intent(999, DaemonIntent::Run)]);
        prop_assert_ne!(cluster.behaviour.digest(), other.digest());
    }
}
