//! Copies of chains: what is pulled, dropped, placed and evicted.

use meshos_core::action::{ActionKey, CauseKind};
use meshos_core::command::{AdminEvent, ChainId, IceAction};
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::maintenance_state::MaintenanceState;
use meshos_core::peer::NodeHealth;
use meshos_core::signal::{LocalReplicaIntent, MeshOsEvent, Outcome, Signal};
use meshos_core::status::Part;

use crate::Loop;
use crate::cluster::{
    HERE, added, admin, desired, dropped, ended, health, ice, intent, leader, local, ms, node, removed, rtt, s,
};

use LocalReplicaIntent::{Drop, Hold};
use NodeHealth::{Degraded, Healthy, Unreachable};

/// Peers 2 to 6 of this node, each spoken against in another way; 6 is fine.
fn spoken_against() -> Vec<Signal> {
    let mut signals = vec![
        health(2, Unreachable),
        admin(AdminEvent::Cordon { node: node(4) }),
        admin(AdminEvent::EnterMaintenance {
            node: node(5),
            drain_for: None,
        }),
        health(6, Degraded),
    ];
    signals.extend([300, 300, 300].map(|millis| rtt(3, millis)));
    signals
}

#[test]
fn what_is_wanted_here() {
    // What is wanted, who holds it, and what is done.
    let table: [(Option<LocalReplicaIntent>, &[u64], &str); 11] = [
        (None, &[], ""),
        (None, &[1], ""),
        (None, &[2], ""),
        (Some(Hold), &[], ""),
        (Some(Hold), &[1], ""),
        (Some(Hold), &[1, 2], ""),
        (Some(Hold), &[3, 2], "pull 100 from 2"),
        (Some(Drop), &[], ""),
        (Some(Drop), &[2], ""),
        (Some(Drop), &[1], "drop 100"),
        (Some(Drop), &[1, 2], "drop 100"),
    ];
    for (wanted, holders, expected) in table {
        let mut it = Loop::new();
        it.tell(holders.iter().map(|holder| added(100, *holder)));
        let said = it.says(wanted.map(|wanted| local(100, wanted)));
        assert_eq!(said.join(", "), expected, "{wanted:?}, {holders:?}");
    }
}

#[test]
fn who_gives_a_copy() {
    // Holders, and whom it is pulled from: the smallest that nothing speaks against, else the smallest that answers.
    let table: [(&[u64], &str); 6] = [
        (&[2, 3, 4, 5, 6], "pull 100 from 6"),
        (&[2, 3, 4, 5], "pull 100 from 3"),
        (&[2, 5], "pull 100 from 5"),
        (&[2], ""),
        (&[7, 6], "pull 100 from 6"),
        (&[2, 7], "pull 100 from 7"),
    ];
    for (holders, expected) in table {
        let mut it = Loop::new();
        it.tell(spoken_against());
        it.tell(holders.iter().map(|holder| added(100, *holder)));
        assert_eq!(it.says([local(100, Hold)]).join(", "), expected, "{holders:?}");
    }
}

#[test]
fn a_pull_that_waits_takes_the_best_source_of_its_moment() {
    let mut it = Loop::new();
    it.tell([added(100, 2), added(101, 2), added(101, 3)]);
    assert_eq!(it.says([local(100, Hold), local(101, Hold)]), ["pull 100 from 2"]);
    it.tell([health(2, Unreachable)]);
    assert_eq!(it.says_after(ms(250)), ["pull 101 from 3"]);
}

#[test]
fn how_many_are_wanted() {
    // Who leads, who holds, how many are wanted, and what is done.
    let table: [(Option<u64>, &[u64], Option<u32>, &str); 15] = [
        (None, &[2], Some(2), ""),
        (None, &[2, 3, 4], Some(2), ""),
        (Some(2), &[2], Some(2), ""),
        (Some(2), &[2, 3, 4], Some(2), ""),
        (Some(1), &[2, 3, 4], None, ""),
        (Some(1), &[], Some(0), ""),
        (Some(1), &[], Some(2), "place 100 not on []"),
        (Some(1), &[2], Some(2), "place 100 not on [2]"),
        (Some(1), &[3, 1], Some(3), "place 100 not on [1 3]"),
        (Some(1), &[2, 3], Some(2), ""),
        (Some(1), &[2, 3, 4], Some(2), "evict 100 from 2"),
        (Some(1), &[1, 3, 4], Some(2), "evict 100 from 3"),
        (Some(1), &[1, 2], Some(1), "evict 100 from 2"),
        (Some(1), &[1], Some(0), "evict 100 from 1"),
        (Some(1), &[2], Some(0), "evict 100 from 2"),
    ];
    for (leads, holders, wanted, expected) in table {
        let mut it = Loop::new();
        it.tell(holders.iter().map(|holder| added(100, *holder)));
        let mut signals = vec![leader(100, leads, 1)];
        signals.extend(wanted.map(|wanted| desired(100, wanted)));
        assert_eq!(
            it.says(signals).join(", "),
            expected,
            "{leads:?}, {holders:?}, {wanted:?}"
        );
    }
}

#[test]
fn nothing_is_placed_on_whom_something_speaks_against() {
    let mut it = Loop::new();
    it.tell(spoken_against());
    it.tell([added(100, 6)]);
    let said = it.says([leader(100, Some(1), 1), desired(100, 2)]);
    assert_eq!(said, ["place 100 not on [2 3 4 5 6]"]);
    // This node neither, while it is cordoned.
    it.tell([admin(AdminEvent::Cordon { node: HERE }), added(101, 6)]);
    let said = it.says([leader(101, Some(1), 1), desired(101, 2)]);
    assert_eq!(said, ["place 101 not on [1 2 3 4 5 6]"]);
}

#[test]
fn a_placement_that_waits_excludes_whom_it_must_at_its_moment() {
    let mut it = Loop::new();
    let step = it.tell([leader(100, Some(1), 1), desired(100, 2)]);
    it.tell([ended(step.dispatches[0].id, crate::cluster::retry(s(1)))]);
    it.tell([admin(AdminEvent::Cordon { node: node(4) })]);
    assert_eq!(it.says_after(s(1)), ["place 100 not on [4]"]);
}

#[test]
fn who_loses_a_copy() {
    // Holders of a chain of two that this node leads, and who goes: first who fades, then who is barred, then the
    // smallest id; this node, which leads it, last.
    let table: [(&[u64], &str); 6] = [
        (&[6, 7, 8], "evict 100 from 6"),
        (&[1, 6, 7], "evict 100 from 6"),
        (&[4, 6, 7], "evict 100 from 4"),
        (&[3, 6, 7], "evict 100 from 3"),
        (&[4, 5, 6, 7], "evict 100 from 5"),
        (&[1, 4, 5, 6], "evict 100 from 5"),
    ];
    for (holders, expected) in table {
        let mut it = Loop::new();
        it.tell(spoken_against());
        it.tell(holders.iter().map(|holder| added(100, *holder)));
        let said = it.says([leader(100, Some(1), 1), desired(100, 2)]);
        assert_eq!(said.join(", "), expected, "{holders:?}");
    }
}

#[test]
fn an_unreachable_holder_counts_for_a_while_and_then_no_more() {
    let mut it = Loop::new();
    it.tell([added(100, 2), added(100, 3), leader(100, Some(1), 1), desired(100, 2)]);
    assert_eq!(it.says([health(2, Unreachable)]), [""; 0]);
    assert_eq!(it.says_after(ms(29_999)), [""; 0]);
    assert_eq!(it.says_after(ms(1)), ["place 100 not on [2 3]"]);
    assert_eq!(it.says([added(100, 4)]), ["evict 100 from 2"]);

    let mut it = Loop::new();
    it.tell([added(100, 2), added(100, 3), leader(100, Some(1), 1), desired(100, 2)]);
    it.tell([health(2, Unreachable)]);
    it.after(s(20));
    it.tell([health(2, Healthy)]);
    assert_eq!(it.says_after(s(20)), [""; 0]);
}

#[test]
fn a_draining_holder_does_not_count() {
    let mut it = Loop::new();
    it.tell([added(100, 2), added(100, 3), leader(100, Some(1), 1), desired(100, 2)]);
    let drain = admin(AdminEvent::EnterMaintenance {
        node: node(2),
        drain_for: None,
    });
    assert_eq!(it.says([drain]), ["place 100 not on [2 3]"]);
    let mut it = Loop::new();
    it.tell([added(100, 2), added(100, 3), leader(100, Some(1), 1), desired(100, 2)]);
    let state = MaintenanceState::Recovery { since: it.now };
    let observed = MeshOsEvent::MaintenanceTransitionObserved { node: node(2), state };
    // Who comes back takes nothing new, and keeps what it has.
    assert_eq!(it.says([Signal::Event(observed)]), [""; 0]);
}

#[test]
fn nothing_is_evicted_that_leaves_too_few() {
    // An eviction that was dispatched counts as gone, whoever is the better victim meanwhile.
    let mut it = Loop::new();
    it.tell([2, 3, 4].map(|holder| added(100, holder)));
    let step = it.tell([leader(100, Some(1), 1), desired(100, 2)]);
    assert_eq!(it.says([admin(AdminEvent::Cordon { node: node(3) })]), [""; 0]);
    it.done(&step);
    assert_eq!(it.says([health(3, Unreachable)]), [""; 0]);
    assert_eq!(it.flying(), [("request_eviction", "awaiting_confirmation")]);
    // Node 3 is lost while 2 still goes: one more is needed before 3 may go.
    assert_eq!(it.says_after(ms(29_999)), [""; 0]);
    assert_eq!(it.says([removed(100, 2)]), [""; 0]);
    assert_eq!(it.says_after(ms(1)), ["place 100 not on [3 4]"]);
    assert_eq!(it.says([added(100, 5)]), ["evict 100 from 3"]);
}

#[test]
fn a_copy_that_shall_go_here_does_not_count_and_is_not_evicted_beside() {
    let mut it = Loop::new();
    it.tell([1, 2, 3].map(|holder| added(100, holder)));
    it.tell([leader(100, Some(1), 1), desired(100, 3)]);
    assert_eq!(it.says([local(100, Drop)]), ["drop 100", "place 100 not on [1 2 3]"]);
    it.tell([removed(100, 1)]);
    assert_eq!(it.says([desired(100, 2)]), [""; 0]);
    // Two copies here and there, one is wanted: the drop is enough.
    let mut it = Loop::new();
    it.tell([added(100, 1), added(100, 2), local(100, Drop)]);
    assert_eq!(it.says([leader(100, Some(1), 1), desired(100, 1)]), [""; 0]);
    assert_eq!(it.flying(), [("drop_replica", "running")]);
}

#[test]
fn a_drop_here_waits_for_an_eviction_that_is_on_its_way_and_for_no_longer() {
    let mut it = Loop::new();
    it.tell([1, 2, 3].map(|holder| added(100, holder)));
    let step = it.tell([leader(100, Some(1), 1), desired(100, 2)]);
    assert_eq!(step.dispatches.len(), 1);
    it.done(&step);
    // One of the others goes, so that this one is needed while the node drains.
    let enter = admin(AdminEvent::EnterMaintenance {
        node: HERE,
        drain_for: None,
    });
    assert_eq!(it.says([enter]), ["place 100 not on [1 2 3]"]);
    // Another leads: what this one had begun is of no matter any more.
    assert_eq!(it.says([leader(100, Some(3), 2)]), ["drop 100"]);
}

#[test]
fn a_copy_that_shall_be_here_is_not_evicted() {
    let mut it = Loop::new();
    it.tell([1, 2].map(|holder| added(100, holder)));
    it.tell([local(100, Hold)]);
    assert_eq!(
        it.says([leader(100, Some(1), 1), desired(100, 1)]),
        ["evict 100 from 2"]
    );
    it.tell([removed(100, 2)]);
    assert_eq!(it.says([desired(100, 0)]), [""; 0]);
}

#[test]
fn every_request_is_made_once_until_the_world_answers() {
    let mut it = Loop::new();
    it.tell([added(101, 2), local(101, Hold), added(102, 1), local(102, Drop)]);
    it.tell([leader(100, Some(1), 1), desired(100, 1)]);
    it.tell([2, 3].map(|holder| added(103, holder)));
    let chains = [leader(103, Some(1), 1), desired(103, 1)];
    it.tell(chains);
    assert_eq!(it.emitted(), 4);
    it.end_all(&Outcome::Done);
    for _ in 0..29 {
        assert_eq!(it.says_after(s(1)), [""; 0]);
    }
    it.tell([added(101, 1), removed(102, 1), added(100, 4), removed(103, 2)]);
    assert_eq!((it.emitted(), it.flying().len()), (4, 0));
}

#[test]
fn requests_come_in_the_order_of_the_chains() {
    let mut it = Loop::new();
    let chains = [5, 2, 9].into_iter();
    let said = it.says(chains.flat_map(|chain| [leader(chain, Some(1), 1), desired(chain, 1)]));
    let expected = ["place 2 not on []", "place 5 not on []", "place 9 not on []"];
    assert_eq!(said, expected);
}

fn evict(chain: u64, victim: u64) -> Signal {
    ice(IceAction::ForceEvictReplica {
        chain: ChainId::new(chain),
        victim: node(victim),
    })
}

fn cut_over(chain: u64, target: u64) -> Signal {
    ice(IceAction::ForceCutover {
        chain: ChainId::new(chain),
        target: node(target),
    })
}

#[test]
fn what_an_operator_forces() {
    // Who leads, who holds, how many are wanted, what is forced, and what is done.
    let table: [(Option<u64>, &[u64], u32, Signal, &[&str]); 9] = [
        (None, &[2, 3], 2, evict(100, 2), &[]),
        (Some(3), &[2, 3], 2, evict(100, 2), &[]),
        // It need not wait for another copy; that one is asked for at once.
        (
            Some(1),
            &[2, 3],
            2,
            evict(100, 2),
            &["evict 100 from 2", "place 100 not on [2 3]"],
        ),
        (Some(1), &[2, 3], 1, evict(100, 3), &[]),
        (Some(1), &[2, 3], 2, evict(100, 4), &[]),
        (Some(3), &[2, 3], 2, cut_over(100, 4), &[]),
        (Some(1), &[2, 3], 2, cut_over(100, 4), &["place 100 not on [2 3] but 4"]),
        (Some(1), &[2, 3], 2, cut_over(100, 3), &[]),
        (Some(1), &[2], 2, cut_over(100, 3), &[]),
    ];
    for (leads, holders, wanted, forced, expected) in table {
        let mut it = Loop::new();
        it.tell(holders.iter().map(|holder| added(100, *holder)));
        it.tell([leader(100, leads, 1), desired(100, wanted)]);
        // Something is under way already where the count is not as wanted.
        let said = it.says([forced.clone()]);
        assert_eq!(said, expected, "{leads:?}, {holders:?}, {forced:?}");
    }
}

#[test]
fn what_is_forced_follows_what_runs() {
    let mut it = Loop::new();
    it.tell([2, 3].map(|holder| added(100, holder)));
    let counted = it.tell([leader(100, Some(1), 1), desired(100, 1)]);
    assert_eq!(it.says([evict(100, 3)]), [""; 0]);
    // One of a chain at a time; then what was forced.
    let done = [removed(100, 2), ended(counted.dispatches[0].id, Outcome::Done)];
    assert_eq!(it.says(done), ["evict 100 from 3", "place 100 not on [3]"]);
    let key = ActionKey::Eviction(ChainId::new(100));
    let cause = &it.behaviour.view().in_flight[&key].cause;
    assert_eq!((cause.kind, cause.envelope_id), (CauseKind::Operator, Some([9; 16])));
}

#[test]
fn a_target_that_is_named_is_wanted_whatever_speaks_against_it() {
    let mut it = Loop::new();
    it.tell(spoken_against());
    it.tell([leader(100, Some(1), 1), added(100, 6)]);
    let said = it.says([cut_over(100, 4)]);
    assert_eq!(said, ["place 100 not on [2 3 5 6] but 4"]);
}

#[test]
fn what_is_forced_waits_for_a_leader_and_for_a_thaw() {
    let mut it = Loop::new();
    it.tell([added(100, 2)]);
    assert_eq!(it.says([evict(100, 2)]), [""; 0]);
    it.tell([ice(IceAction::FreezeCluster { ttl: s(60) })]);
    assert_eq!(it.says([leader(100, Some(1), 1)]), [""; 0]);
    assert_eq!(it.says([ice(IceAction::ThawCluster)]), ["evict 100 from 2"]);
}

#[test]
fn what_is_forced_waits_for_a_place_in_the_queue() {
    let mut config = MeshOsConfig::default();
    config.action_queue_capacity = 1;
    let mut it = Loop::with(config);
    // Sixteen run, and one waits.
    it.tell((1..=17).map(|id| intent(id, meshos_core::signal::DaemonIntent::Run)));
    it.tell([added(100, 2), leader(100, Some(1), 1)]);
    assert_eq!(it.says([evict(100, 2)]), [""; 0]);
    let first = it.behaviour.view().in_flight.values().next().expect("it runs").id;
    // It is more urgent than the start that waited.
    let said = it.says([ended(first, dropped())]);
    assert_eq!(said, ["evict 100 from 2"]);
}

#[test]
fn what_is_forced_goes_first_though_it_was_wanted_already() {
    let mut it = Loop::new();
    it.tell((1..=16).map(|id| intent(id, meshos_core::signal::DaemonIntent::Run)));
    it.tell([2, 3].map(|holder| added(100, holder)));
    it.tell([leader(100, Some(1), 1), desired(100, 1)]);
    it.tell([intent(99, meshos_core::signal::DaemonIntent::Run)]);
    let step = it.tell([evict(100, 2)]);
    assert_eq!(step.disposed[0].disposition.name(), "superseded");
    let step = it.tell([ended(1, dropped())]);
    assert_eq!(step.dispatches[0].action.kind(), "request_eviction");
    assert_eq!(step.dispatches[0].cause.kind, CauseKind::Operator);
}

#[test]
fn what_is_forced_in_vain_is_given_up_and_told() {
    for known in [true, false] {
        let mut it = Loop::new();
        it.tell(known.then(|| added(100, 2)));
        it.tell([cut_over(100, 3)]);
        let step = it.after(s(599));
        assert_eq!(step.failures, []);
        let step = it.after(s(1));
        assert_eq!(step.failures.len(), 1, "{:?}", step.failures);
        let source = &step.failures[0].source;
        assert_eq!((source.part, &*source.name), (Part::Action, "request_placement"));
        assert_eq!((source.target, source.envelope_id), (Some(100), Some([9; 16])));
        assert!(it.behaviour.world().forced.is_empty());
        assert_eq!(it.says([leader(100, Some(1), 1)]), [""; 0]);
    }
}

#[test]
fn a_forced_request_that_came_true_is_over() {
    let mut it = Loop::new();
    it.tell([added(100, 2), cut_over(100, 3), added(100, 3)]);
    assert!(it.behaviour.world().forced.is_empty());
    assert_eq!(it.says([leader(100, Some(1), 1)]), [""; 0]);
}

#[test]
fn leadership_that_is_lost_takes_back_what_waits() {
    let mut it = Loop::new();
    let step = it.tell([leader(100, Some(1), 1), desired(100, 2)]);
    it.tell([ended(step.dispatches[0].id, crate::cluster::retry(s(5)))]);
    let step = it.tell([leader(100, Some(2), 2)]);
    assert_eq!(step.disposed[0].disposition.name(), "superseded");
    assert_eq!((it.flying().len(), it.behaviour.stats().superseded), (0, 1));
    // An election that is over changes nothing.
    assert_eq!(it.says([leader(100, Some(1), 1)]), [""; 0]);
    assert_eq!(it.chain(100).leader, Some(node(2)));
}

#[test]
fn a_wish_that_turned_is_not_carried_out() {
    let mut it = Loop::new();
    it.tell([added(100, 1), added(100, 2), local(100, Drop)]);
    it.tell([removed(100, 1)]);
    it.end_all(&Outcome::Done);
    // The chain was just dropped, so the pull waits; then it is not wanted any more.
    assert_eq!(it.says([local(100, Hold)]), [""; 0]);
    assert_eq!(it.flying(), [("pull_replica", "deferred")]);
    it.tell([local(100, Drop)]);
    assert_eq!(it.says_after(s(120)), [""; 0]);
    assert_eq!(it.flying(), []);
}

#[test]
fn daemons_come_before_replicas_when_not_all_can_go() {
    let mut it = Loop::new();
    let runs = (1..=16).map(|id| intent(id, meshos_core::signal::DaemonIntent::Run));
    it.tell(runs);
    it.tell([leader(100, Some(1), 1), desired(100, 1)]);
    it.tell([intent(99, meshos_core::signal::DaemonIntent::Run)]);
    let two = [1, 2].map(|id| ended(id, dropped()));
    assert_eq!(it.says(two), ["start 99", "place 100 not on []"]);
}
