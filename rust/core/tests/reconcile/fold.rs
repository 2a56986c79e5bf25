//! What each signal leaves in the tables, and what becomes of what nobody needs any more.

use meshos_core::behaviour::{Behaviour, Step};
use meshos_core::command::{AdminEvent, ChainId, IceAction};
use meshos_core::event::{Crash, DaemonHealth};
use meshos_core::finite::Share;
use meshos_core::id::{NodeId, Origin};
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::maintenance_state::{MaintenancePhase, MaintenanceState};
use meshos_core::peer::NodeHealth;
use meshos_core::reconcile;
use meshos_core::signal::{
    DaemonIntent, DaemonSignal, LocalReplicaIntent, MeshOsEvent, Outcome, ReplicaChange, Signal,
};
use meshos_core::status::{Lifecycle, Part};
use meshos_core::time::UnixMs;
use meshos_core::world::Key;

use crate::Loop;
use crate::cluster::{
    HERE, START, added, admin, crash, desired, dropped, ended, health, ice, intent, leader, lifecycle, local, ms, node,
    pinned, removed, replica, rtt, s,
};

use DaemonIntent::{Run, Stop};

fn holders(it: &Loop, chain: u64) -> Vec<u64> {
    let known = it.behaviour.view().chains.get(&ChainId::new(chain));
    known.map_or_else(Vec::new, |known| known.holders.iter().map(|node| node.get()).collect())
}

fn became_both(chain: u64, holder: u64, term: u64) -> Signal {
    let (chain, holder) = (ChainId::new(chain), node(holder));
    Signal::Event(MeshOsEvent::ReplicaBecameHolderAndLeader { chain, holder, term })
}

fn lost_both(chain: u64, holder: u64) -> Signal {
    let (chain, holder) = (ChainId::new(chain), node(holder));
    Signal::Event(MeshOsEvent::ReplicaLeaderLostAndRemoved { chain, holder })
}

fn forget_daemon(id: u64) -> Signal {
    Signal::Event(MeshOsEvent::ForgetDaemon {
        daemon: Origin::new(id),
    })
}

fn forget_chain(id: u64) -> Signal {
    Signal::Event(MeshOsEvent::ForgetChain {
        chain: ChainId::new(id),
    })
}

#[test]
fn every_event_and_what_it_leaves() {
    let degraded = || DaemonHealth::Degraded {
        reason: "slow".to_owned(),
    };
    let half = Share::new(0.5).expect("finite");
    let observed = |node, state| Signal::Event(MeshOsEvent::MaintenanceTransitionObserved { node, state });
    type Left = fn(&Loop) -> bool;
    let table: Vec<(&str, Vec<Signal>, Left)> = vec![
        ("started", vec![lifecycle(1, DaemonSignal::Started)], |it| {
            (it.daemon(1).lifecycle, it.daemon(1).started_at) == (Lifecycle::Running, Some(START))
        }),
        ("exited", vec![lifecycle(1, DaemonSignal::ExitedCleanly)], |it| {
            (it.daemon(1).lifecycle, it.daemon(1).stopped_at) == (Lifecycle::Stopped, Some(START))
        }),
        ("crashed", vec![crash(1, "boom")], |it| {
            it.daemon(1).last_crash == Some((Crash::because("boom"), START)) && it.daemon(1).backoff.crashes() == 1
        }),
        (
            "health",
            vec![lifecycle(1, DaemonSignal::HealthChanged(degraded()))],
            |it| matches!(it.daemon(1).health, Some(DaemonHealth::Degraded { .. })),
        ),
        (
            "load",
            vec![lifecycle(1, DaemonSignal::SaturationChanged(half))],
            |it| it.daemon(1).saturation.get() == 0.5,
        ),
        ("run", vec![intent(1, Run)], |it| {
            (it.daemon(1).intent, it.daemon(1).pin) == (Some(Run), None)
        }),
        ("run there", vec![pinned(1, Run, Some(2))], |it| {
            it.daemon(1).pin == Some(node(2))
        }),
        ("the last intent counts", vec![intent(1, Run), intent(1, Stop)], |it| {
            it.daemon(1).intent == Some(Stop)
        }),
        ("forgotten daemon", vec![intent(1, Stop), forget_daemon(1)], |it| {
            it.behaviour.view().daemons.is_empty()
        }),
        ("added", vec![replica(5, 2, ReplicaChange::Added)], |it| {
            holders(it, 5) == [2]
        }),
        ("repaired", vec![replica(5, 2, ReplicaChange::Repaired)], |it| {
            holders(it, 5) == [2]
        }),
        (
            "removed",
            vec![added(5, 2), replica(5, 2, ReplicaChange::Removed)],
            |it| holders(it, 5).is_empty(),
        ),
        ("lost", vec![added(5, 2), replica(5, 2, ReplicaChange::Lost)], |it| {
            holders(it, 5).is_empty()
        }),
        ("in order", vec![added(5, 11), added(5, 12), removed(5, 11)], |it| {
            holders(it, 5) == [12]
        }),
        (
            "ascending and once",
            vec![added(5, 3), added(5, 1), added(5, 2), added(5, 3)],
            |it| holders(it, 5) == [1, 2, 3],
        ),
        ("removed of none", vec![removed(5, 2)], |it| {
            it.behaviour.view().chains.is_empty()
        }),
        ("leader", vec![leader(5, Some(2), 1)], |it| {
            it.chain(5).leader == Some(node(2))
        }),
        (
            "leader steps down",
            vec![leader(5, Some(2), 1), leader(5, None, 1)],
            |it| it.chain(5).leader.is_none(),
        ),
        ("leader of none", vec![leader(5, None, 1)], |it| {
            it.behaviour.view().chains.is_empty()
        }),
        ("holder and leader", vec![became_both(5, 2, 1)], |it| {
            holders(it, 5) == [2] && it.chain(5).leader == Some(node(2))
        }),
        ("neither any more", vec![became_both(5, 2, 1), lost_both(5, 2)], |it| {
            holders(it, 5).is_empty() && it.chain(5).leader.is_none()
        }),
        (
            "neither, and another leads",
            vec![became_both(5, 2, 1), leader(5, Some(3), 2), lost_both(5, 2)],
            |it| holders(it, 5).is_empty() && it.chain(5).leader == Some(node(3)),
        ),
        ("neither of none", vec![lost_both(5, 2)], |it| {
            it.behaviour.view().chains.is_empty()
        }),
        ("how many", vec![desired(5, 3), desired(5, 2)], |it| {
            it.chain(5).desired == Some(2)
        }),
        ("here", vec![local(5, LocalReplicaIntent::Hold)], |it| {
            it.chain(5).local == Some(LocalReplicaIntent::Hold)
        }),
        (
            "forgotten chain",
            vec![desired(5, 3), added(5, 1), forget_chain(5)],
            |it| it.behaviour.view().chains.is_empty() && it.behaviour.world().held == 0,
        ),
        ("round trip", vec![rtt(2, 5)], |it| {
            it.peer(2).rtt == Some(ms(5)) && it.peer(2).seen_at == START
        }),
        ("health of a node", vec![health(2, NodeHealth::Degraded)], |it| {
            it.peer(2).health == Some(NodeHealth::Degraded)
        }),
        ("unreachable since", vec![health(2, NodeHealth::Unreachable)], |it| {
            it.peer(2).unreachable_since == Some(START)
        }),
        (
            "reached again",
            vec![health(2, NodeHealth::Unreachable), health(2, NodeHealth::Healthy)],
            |it| it.peer(2).unreachable_since.is_none(),
        ),
        (
            "maintenance of another",
            vec![observed(node(2), MaintenanceState::Maintenance { since: START })],
            |it| it.peer(2).maintenance == Some(MaintenancePhase::Maintenance),
        ),
        (
            "maintenance here, by no arc",
            vec![observed(HERE, MaintenanceState::Maintenance { since: START })],
            |it| it.behaviour.view().maintenance == MaintenanceState::Active,
        ),
        (
            "slots placed again",
            vec![Signal::Recovered {
                name: "group".into(),
                slots: vec![1],
            }],
            |it| it.behaviour.view().generation == 0,
        ),
    ];
    for (name, signals, left) in table {
        let mut it = Loop::new();
        it.tell(signals);
        assert!(left(&it), "{name}: {:?}", it.behaviour.view());
    }
}

#[test]
fn a_loop_of_which_nothing_is_wanted_wants_nothing() {
    let mut it = Loop::new();
    let first = it.tell([]);
    let nothing = Step {
        next: Some(START.plus(s(30))),
        ..Step::default()
    };
    assert_eq!((first, it.behaviour.view().generation), (nothing, 0));
    it.after(s(3600));
    assert_eq!((it.behaviour.view().generation, it.emitted()), (0, 0));
}

#[test]
fn what_is_wanted_depends_on_the_tables_and_on_nothing_else() {
    let mut it = Loop::new();
    it.tell([
        intent(1, Run),
        added(5, 2),
        local(5, LocalReplicaIntent::Hold),
        leader(6, Some(1), 1),
        desired(6, 2),
    ]);
    let world = it.behaviour.world();
    for key in [
        Key::Daemon(Origin::new(1)),
        Key::Chain(ChainId::new(5)),
        Key::Chain(ChainId::new(6)),
        Key::Maintenance,
    ] {
        let wants = reconcile::wanted(world, key);
        assert_eq!(wants, reconcile::wanted(world, key));
        assert_eq!(wants, reconcile::wanted(&world.clone(), key));
    }
}

#[test]
fn a_load_that_hardly_moves_and_one_that_is_no_number_are_no_news() {
    let mut it = Loop::new();
    let load = |load| lifecycle(1, DaemonSignal::SaturationChanged(load));
    it.tell([load(Share::new(0.5).expect("finite"))]);
    let before = it.behaviour.view().generation;
    it.tell([load(Share::new(0.500_01).expect("finite"))]);
    assert_eq!(it.behaviour.view().generation, before);
    // It never gets here: there is no such share.
    assert_eq!((Share::new(f64::NAN), Share::new(7.0)), (None, Some(Share::WHOLE)));
}

#[test]
fn an_election_that_is_over_changes_nothing() {
    // What is known of leader and term, what is told, and what is known then.
    let table = [
        ((Some(2), 5), (Some(3), 6), (Some(3), 6)),
        ((Some(2), 5), (Some(3), 5), (Some(3), 5)),
        ((Some(2), 5), (Some(3), 4), (Some(2), 5)),
        ((Some(2), 5), (None, 4), (Some(2), 5)),
        ((Some(2), 5), (None, 5), (None, 5)),
        ((None, 5), (Some(2), 4), (None, 5)),
        ((None, 5), (Some(2), 0), (None, 5)),
    ];
    for (known, told, expected) in table {
        let mut it = Loop::new();
        it.tell([
            leader(5, Some(9), 0),
            leader(5, known.0, known.1),
            leader(5, told.0, told.1),
        ]);
        let found = it.chain(5);
        assert_eq!(
            (found.leader.map(NodeId::get), found.term),
            expected,
            "{known:?}, {told:?}"
        );
    }
    // A holder of an old election holds, and does not lead.
    let mut it = Loop::new();
    it.tell([leader(5, Some(2), 5), became_both(5, 3, 4)]);
    assert_eq!((holders(&it, 5), it.chain(5).leader), (vec![3], Some(node(2))));
}

#[test]
fn half_of_a_pair_is_never_seen() {
    let mut it = Loop::new();
    it.tell([desired(5, 1)]);
    // Leading without holding would place a copy; holding without leading would do nothing.
    assert_eq!(it.says([became_both(5, 1, 1)]), [""; 0]);
    assert_eq!(it.says([lost_both(5, 1)]), [""; 0]);
}

#[test]
fn what_is_forgotten_takes_back_its_work() {
    // Waiting, deferred and awaiting confirmation: gone at once.
    let mut it = Loop::new();
    it.tell((1..=17).map(|id| intent(id, Run)));
    it.tell([forget_daemon(17)]);
    assert_eq!(it.behaviour.depth(), 0);
    it.tell([
        ended(1, crate::cluster::retry(s(5))),
        ended(2, Outcome::Done),
        ended(3, dropped()),
    ]);
    it.tell([1, 2, 3].map(forget_daemon));
    assert_eq!((it.flying().len(), it.behaviour.running()), (13, 13));
    assert_eq!(it.says_after(s(30)), [""; 0]);
    // Running: waited for, and not followed by anything, however it ends.
    for outcome in [Outcome::Done, dropped(), crate::cluster::retry(s(1))] {
        let mut it = Loop::new();
        let step = it.tell([intent(1, Run), leader(5, Some(1), 1), desired(5, 1)]);
        it.tell([forget_daemon(1), forget_chain(5)]);
        assert_eq!(it.behaviour.running(), 2);
        it.tell(
            step.dispatches
                .iter()
                .map(|dispatch| ended(dispatch.id, outcome.clone()))
                .collect::<Vec<_>>(),
        );
        assert_eq!((it.flying(), it.behaviour.running()), (vec![], 0), "{outcome:?}");
        assert_eq!(it.says_after(s(120)), [""; 0]);
        assert!(it.behaviour.view().daemons.is_empty() && it.behaviour.view().chains.is_empty());
    }
}

#[test]
fn a_forgotten_daemon_that_runs_is_found_again() {
    let mut it = Loop::new();
    it.tell([lifecycle(1, DaemonSignal::Started), intent(1, Run), forget_daemon(1)]);
    it.tell([lifecycle(1, DaemonSignal::HealthChanged(DaemonHealth::Healthy))]);
    assert_eq!(it.daemon(1).intent, None);
    assert_eq!(it.says([intent(1, Run)]), ["start 1"]);
}

#[test]
fn what_nobody_wants_and_nobody_has_is_forgotten_after_a_while() {
    let mut it = Loop::new();
    // Forgotten: a daemon that ended and nobody wants; a chain without copies and wishes.
    it.tell([
        lifecycle(1, DaemonSignal::ExitedCleanly),
        added(5, 2),
        removed(5, 2),
        leader(5, Some(3), 1),
    ]);
    // Kept: wanted, running, held, wanted here, wanted at all.
    it.tell([intent(2, Stop), lifecycle(3, DaemonSignal::Started), intent(4, Run)]);
    it.tell([added(6, 2), local(7, LocalReplicaIntent::Drop), desired(8, 0)]);
    it.end_all(&Outcome::Done);
    it.after(s(3599));
    assert_eq!(
        (it.behaviour.view().daemons.len(), it.behaviour.view().chains.len()),
        (4, 4)
    );
    it.after(s(1));
    let daemons: Vec<u64> = it.behaviour.view().daemons.keys().map(|id| id.get()).collect();
    let chains: Vec<u64> = it.behaviour.view().chains.keys().map(|id| id.get()).collect();
    assert_eq!((daemons, chains), (vec![2, 3, 4], vec![6, 7, 8]));
    let mut never = Loop::new();
    never.tell([lifecycle(1, DaemonSignal::ExitedCleanly), added(5, 2), removed(5, 2)]);
    never.after(s(1800));
    never.tell([lifecycle(1, DaemonSignal::Started), added(5, 2)]);
    never.after(s(1800));
    never.tell([lifecycle(1, DaemonSignal::ExitedCleanly), removed(5, 2)]);
    never.after(s(3599));
    assert_eq!(
        (
            never.behaviour.view().daemons.len(),
            never.behaviour.view().chains.len()
        ),
        (1, 1)
    );
}

#[test]
fn tables_are_bounded_and_say_so_once() {
    let mut behaviour = Behaviour::new(HERE, MeshOsConfig::default(), 1, START).with_entities_max(3);
    let mut failures = Vec::new();
    for round in 0..3_u64 {
        let signals = (1..=5).flat_map(|id| [intent(id, Run), desired(id, 1), rtt(id + 1, 5)]);
        let step = behaviour.step(START.plus(ms(round)), signals);
        failures.extend(step.failures);
    }
    let view = behaviour.view();
    assert_eq!((view.daemons.len(), view.chains.len(), view.peers.len()), (3, 3, 3));
    // Two of each in each round.
    assert_eq!(behaviour.refused_entities(), 18);
    let told: Vec<_> = failures
        .iter()
        .map(|failure| (failure.source.part, &*failure.source.name))
        .collect();
    assert_eq!(
        told,
        [(Part::Loop, "daemons"), (Part::Loop, "chains"), (Part::Loop, "peers")]
    );
    assert_eq!(&*failures[0].reason, "there are 3 already: more are refused");
    // What is known goes on; what is refused is not supervised, and there is a place when one is forgotten.
    let step = behaviour.step(START.plus(s(1)), [intent(1, Run), intent(9, Run)]);
    assert_eq!(step.supervise, [(Origin::new(1), true)]);
    behaviour.step(
        START.plus(s(1)),
        [forget_daemon(1), forget_chain(1), intent(9, Run), desired(9, 1)],
    );
    assert!(behaviour.view().daemons.contains_key(&Origin::new(9)));
    assert!(behaviour.view().chains.contains_key(&ChainId::new(9)));
    assert_eq!(behaviour.audit(), []);
}

#[test]
fn time_that_stands_still_stops_nothing_but_deadlines() {
    let mut it = Loop::new();
    let step = it.tell([intent(1, Run), leader(5, Some(1), 1), desired(5, 1)]);
    assert_eq!(step.dispatches.len(), 2);
    for _ in 0..1000 {
        let step = it.tell([]);
        assert_eq!((step.dispatches.len(), step.more), (0, false));
        assert!(step.next.is_some_and(|next| next > it.now));
    }
    it.tell([lifecycle(1, DaemonSignal::Started), added(5, 1)]);
    it.end_all(&Outcome::Done);
    assert_eq!(it.flying(), []);
    assert_eq!(it.says([intent(1, Stop)]).len(), 1);
}

#[test]
fn time_that_jumps_a_year_ahead_lets_everything_be_due_at_once() {
    let mut it = Loop::new();
    it.tell((1..=20).map(|id| intent(id, Run)));
    it.tell((1..=20).flat_map(|id| {
        [
            lifecycle(100 + id, DaemonSignal::Started),
            crash(100 + id, "boom"),
            intent(100 + id, Run),
        ]
    }));
    it.tell([
        ice(IceAction::FreezeCluster { ttl: s(60) }),
        rtt(2, 300),
        rtt(2, 300),
        rtt(2, 300),
        rtt(3, 1),
    ]);
    it.tell([admin(AdminEvent::ExitMaintenance { node: HERE })]);
    let step = it.after(s(366 * 86_400));
    assert!(
        step.next
            .is_some_and(|next| next > it.now && next <= it.now.plus(s(30)))
    );
    let view = it.behaviour.view();
    assert!(view.peers.is_empty() && view.avoid.is_empty() && view.freeze_until.is_none());
    assert_eq!(it.behaviour.running(), 16);
    assert_eq!(it.behaviour.world().now, it.now);
}

#[test]
fn time_that_goes_back_counts_as_the_last_one() {
    let mut it = Loop::new();
    it.now = it.now.plus(s(100));
    it.tell([lifecycle(1, DaemonSignal::Started)]);
    let last = it.now;
    for back in [START, UnixMs::new(0), UnixMs::new(last.get() - 1)] {
        let step = it.behaviour.step(back, [lifecycle(2, DaemonSignal::Started)]);
        assert_eq!(it.behaviour.world().now, last);
        assert_eq!(it.daemon(2).started_at, Some(last));
        assert!(step.next.is_some_and(|next| next > last));
    }
}

#[test]
fn the_end_of_time_is_survived() {
    let end = UnixMs::new(u64::MAX);
    let mut behaviour = Behaviour::new(HERE, MeshOsConfig::default(), 1, end);
    for _ in 0..10 {
        let signals = [
            intent(1, Run),
            crash(2, "boom"),
            rtt(2, 300),
            Signal::ScorerChanged { installed: true },
        ];
        behaviour.step(end, signals);
    }
    assert!(behaviour.view().daemons.contains_key(&Origin::new(1)));
}

#[test]
fn a_step_takes_a_bounded_number_of_deadlines_and_keys_and_says_that_there_are_more() {
    let mut behaviour = Behaviour::new(HERE, MeshOsConfig::default(), 1, START);
    let many = 20_000;
    behaviour.step(START, (1..=many).map(|id| lifecycle(id, DaemonSignal::ExitedCleanly)));
    let mut steps = 1;
    while behaviour.step(START, []).more {
        steps += 1;
    }
    assert!(steps >= 4, "{steps} steps for {many} keys");
    // All are to be forgotten at the same moment.
    let then = START.plus(s(3600));
    let step = behaviour.step(then, []);
    assert!(step.more && behaviour.view().daemons.len() > 10_000);
    while behaviour.step(then, []).more {}
    assert!(behaviour.view().daemons.is_empty());
}

#[test]
fn a_sweep_that_is_asked_for_again_and_again_comes_to_its_end() {
    let mut behaviour = Behaviour::new(HERE, MeshOsConfig::default(), 1, START);
    behaviour.step(START, [intent(1, Run)]);
    behaviour.step(
        START,
        [
            admin(AdminEvent::Cordon { node: HERE }),
            lifecycle(1, DaemonSignal::Started),
        ],
    );
    // Chains of which the last are to be pulled, once this node takes something new.
    let chains = (1..=9000).flat_map(|chain| {
        [added(chain, 2)]
            .into_iter()
            .chain((chain > 8990).then(|| local(chain, LocalReplicaIntent::Hold)))
    });
    behaviour.step(START, chains);
    while behaviour.step(START, []).more {}
    behaviour.step(START, [admin(AdminEvent::Uncordon { node: HERE })]);
    // Each step something concerns every chain again, long before a pass over all of them is over.
    let mut pulled = false;
    for turn in 0..12 {
        let health = [NodeHealth::Unreachable, NodeHealth::Healthy][turn % 2];
        let step = behaviour.step(START, [crate::cluster::health(7, health)]);
        pulled |= !step.dispatches.is_empty();
    }
    assert!(pulled, "the last chains were never looked at");
}

#[test]
fn a_generation_rises_with_a_change_and_with_nothing_else() {
    let mut it = Loop::new();
    let signals = [
        intent(1, Stop),
        added(5, 2),
        desired(5, 1),
        leader(5, Some(2), 1),
        health(2, NodeHealth::Healthy),
    ];
    it.tell(signals.clone());
    it.tell([ice(IceAction::FreezeCluster { ttl: s(3000) })]);
    let before = it.behaviour.view().generation;
    it.tell(signals);
    for _ in 0..100 {
        it.after(s(20));
    }
    assert_eq!(
        it.behaviour.view().generation,
        before,
        "a freeze that counts down is no change"
    );
    let changes = [
        intent(1, Run),
        removed(5, 2),
        leader(5, Some(3), 2),
        ice(IceAction::FreezeCluster { ttl: s(5000) }),
        health(2, NodeHealth::Degraded),
        rtt(2, 3),
        admin(AdminEvent::Cordon { node: HERE }),
    ];
    for change in changes {
        let before = it.behaviour.view().generation;
        let refused = matches!(&change, Signal::Command(command) if command.order.kind() == "cordon");
        it.tell([change.clone()]);
        assert_eq!(it.behaviour.view().generation > before, !refused, "{change:?}");
    }
}

#[test]
fn a_snapshot_is_not_changed_by_what_comes_after_it() {
    let mut it = Loop::new();
    it.tell([added(5, 2), intent(1, Run), rtt(2, 5)]);
    let snapshot = it.behaviour.view().clone();
    it.tell([removed(5, 2), intent(1, Stop), rtt(2, 500), forget_daemon(1)]);
    assert_eq!(snapshot.chains[&ChainId::new(5)].holders.as_slice(), [node(2)]);
    assert_eq!(snapshot.daemons[&Origin::new(1)].intent, Some(Run));
    assert_eq!(snapshot.peers[&node(2)].rtt, Some(ms(5)));
}

#[test]
fn a_chain_that_is_only_wanted_is_shown() {
    let mut it = Loop::new();
    it.tell([desired(5, 3)]);
    assert_eq!((it.chain(5).desired, it.chain(5).holders.len()), (Some(3), 0));
}

#[test]
fn a_daemons_age_has_an_anchor_in_every_lifecycle() {
    let mut it = Loop::new();
    it.tell([lifecycle(1, DaemonSignal::Started)]);
    let started = it.now;
    it.after(s(10));
    assert_eq!(
        (it.daemon(1).started_at, it.daemon(1).stopped_at),
        (Some(started), None)
    );
    it.tell([lifecycle(1, DaemonSignal::ExitedCleanly)]);
    assert_eq!(
        (it.daemon(1).started_at, it.daemon(1).stopped_at),
        (Some(started), Some(it.now))
    );
    it.after(s(10));
    it.tell([lifecycle(1, DaemonSignal::Started), crash(1, "boom")]);
    assert_eq!(
        (it.daemon(1).started_at, it.daemon(1).stopped_at),
        (Some(it.now), Some(it.now))
    );
}
