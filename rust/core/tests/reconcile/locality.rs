//! Other nodes: who is slow, who is avoided, what is known of them, and when they are forgotten.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshos_core::action::CauseKind;
use meshos_core::command::{AdminEvent, AvoidScope, IceAction};
use meshos_core::finite::Finite;
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::maintenance_state::MaintenanceState;
use meshos_core::peer::{NodeHealth, PeerInventory, Samples};
use meshos_core::signal::{DaemonIntent, MeshOsEvent, Outcome, Signal};

use crate::Loop;
use crate::cluster::{
    HERE, added, admin, desired, dropped, ended, health, ice, intent, leader, ms, node, removed, rtt, s,
};

fn rtts(peer: u64, millis: &[u64]) -> Vec<Signal> {
    millis.iter().map(|millis| rtt(peer, *millis)).collect()
}

#[test]
fn three_slow_samples_in_a_row_make_a_peer_slow() {
    // A sample of 250 ms is not slow, one below 200 ms ends a row, one in between does neither.
    let table: [(&[u64], &str); 9] = [
        (&[250, 250, 250, 250], ""),
        (&[251, 251], ""),
        (&[251, 251, 251], "avoid 2 for 300000"),
        (&[100_000], ""),
        (&[300, 300, 100, 300, 300], ""),
        (&[300, 300, 199, 300], ""),
        (&[300, 300, 200, 300], "avoid 2 for 300000"),
        (&[300, 300, 250, 300], "avoid 2 for 300000"),
        (&[300, 300, 300, 1, 1, 1], ""),
    ];
    for (samples, expected) in table {
        let mut it = Loop::new();
        assert_eq!(it.says(rtts(2, samples)).join(", "), expected, "{samples:?}");
    }
}

#[test]
fn a_persistently_slow_peer_is_marked_once_for_each_span() {
    let mut it = Loop::new();
    let mut marks = 0;
    for _ in 0..1300 {
        it.now = it.now.plus(ms(500));
        marks += it.tell([rtt(2, 400)]).dispatches.len();
        it.end_all(&Outcome::Done);
    }
    // 650 s, and a mark lasts 300 s.
    assert_eq!(marks, 3);
}

#[test]
fn a_peer_that_nothing_is_heard_of_is_not_marked_again() {
    let mut it = Loop::new();
    assert_eq!(it.says(rtts(2, &[300, 300, 300])).len(), 1);
    it.end_all(&Outcome::Done);
    assert_eq!(it.says_after(s(300)), [""; 0]);
    assert!(it.behaviour.view().avoid.is_empty());
    // Three more are needed.
    assert_eq!(it.says(rtts(2, &[300, 300])), [""; 0]);
    assert_eq!(it.says([rtt(2, 300)]), ["avoid 2 for 300000"]);
}

#[test]
fn a_mark_counts_only_once_the_queue_has_it() {
    let mut config = MeshOsConfig::default();
    config.action_queue_capacity = 1;
    let mut it = Loop::with(config);
    it.tell((1..=17).map(|id| intent(id, DaemonIntent::Run)));
    let step = it.tell(rtts(2, &[300, 300, 300]));
    assert_eq!(step.first_refused, Some("mark_avoid"));
    assert!(it.behaviour.view().avoid.is_empty());
    let said = it.says([1, 2].map(|id| ended(id, dropped())));
    assert_eq!(said, ["start 17", "avoid 2 for 300000"]);
    assert!(it.behaviour.view().avoid.contains_key(&node(2)));
}

#[test]
fn what_slow_means_comes_from_the_options() {
    let mut config = MeshOsConfig::default();
    config.locality.degraded_rtt_threshold = ms(10);
    config.locality.avoid_ttl = s(7);
    let mut it = Loop::with(config);
    assert_eq!(it.says(rtts(2, &[11, 11, 11])), ["avoid 2 for 7000"]);
}

#[test]
fn the_reason_names_the_round_trip() {
    let mut it = Loop::new();
    it.tell(rtts(2, &[300, 300, 300]));
    let entry = &it.behaviour.view().avoid[&node(2)];
    assert_eq!(&*entry.reason, "round trip 300 ms, above 250 ms");
}

#[test]
fn peers_are_marked_in_their_order_and_this_node_never() {
    let mut it = Loop::new();
    let samples = [4, 2, 1, 3].into_iter();
    let said = it.says(samples.flat_map(|peer| rtts(peer, &[300; 3])));
    assert_eq!(said, ["avoid 2 for 300000", "avoid 3 for 300000", "avoid 4 for 300000"]);
    it.tell([health(HERE.get(), NodeHealth::Unreachable)]);
    assert!(!it.behaviour.view().peers.contains_key(&HERE));
}

#[test]
fn a_flushed_peer_must_be_slow_again() {
    for flush in [
        ice(IceAction::FlushAvoidLists {
            scope: AvoidScope::Global,
        }),
        ice(IceAction::FlushAvoidLists {
            scope: AvoidScope::OnPeer(node(2)),
        }),
        ice(IceAction::FlushAvoidLists {
            scope: AvoidScope::Local(HERE),
        }),
        admin(AdminEvent::ClearAvoidList { node: HERE }),
    ] {
        let mut it = Loop::new();
        it.tell(rtts(2, &[300; 3]));
        it.end_all(&Outcome::Done);
        assert_eq!(it.says([flush.clone(), rtt(2, 300), rtt(2, 300)]), [""; 0], "{flush:?}");
        assert!(it.behaviour.view().avoid.is_empty());
        assert_eq!(it.says([rtt(2, 300)]), ["avoid 2 for 300000"], "{flush:?}");
    }
}

#[test]
fn probes_count_as_events_do() {
    let mut it = Loop::new();
    let samples = || Signal::Samples {
        probe: 1,
        samples: Samples::Locality(vec![(node(2), ms(300)), (node(3), ms(1))]),
    };
    it.tell([samples(), samples()]);
    let step = it.tell([samples()]);
    assert_eq!(step.dispatches.len(), 1);
    assert_eq!(step.dispatches[0].cause.kind, CauseKind::Probe);
    let looks = Signal::Samples {
        probe: 2,
        samples: Samples::Health(vec![(node(3), NodeHealth::Unreachable)]),
    };
    it.tell([looks]);
    assert_eq!(it.peer(3).health, Some(NodeHealth::Unreachable));
    assert_eq!(it.behaviour.world().barred.get(&node(3)), Some(&"unreachable"));
}

fn load(load: f64) -> PeerInventory {
    PeerInventory {
        cpu_load_1m: Finite::new(load),
        ..PeerInventory::default()
    }
}

fn memory(bytes: u64) -> PeerInventory {
    let tags = BTreeSet::from(["ssd".to_owned()]);
    PeerInventory {
        mem_total_bytes: Some(bytes),
        capability_set: Some(Arc::new(tags)),
        ..PeerInventory::default()
    }
}

fn inventory(probe: u64, said: &[(u64, PeerInventory)]) -> Signal {
    let samples = said.iter().map(|(peer, said)| (node(*peer), said.clone()));
    Signal::Samples {
        probe,
        samples: Samples::Inventory(samples.collect()),
    }
}

#[test]
fn probes_of_different_axes_do_not_overwrite_each_other() {
    let mut it = Loop::new();
    for turn in 0..3 {
        it.tell([
            inventory(1, &[(2, load(f64::from(turn)))]),
            inventory(2, &[(2, memory(64))]),
        ]);
        let known = &it.peer(2).inventory;
        assert_eq!(known.cpu_load_1m, Finite::new(f64::from(turn)));
        assert_eq!(known.mem_total_bytes, Some(64));
        assert!(known.capability_set.is_some());
    }
}

#[test]
fn a_departed_peer_loses_what_only_that_probe_said() {
    let mut it = Loop::new();
    it.tell([
        inventory(1, &[(2, load(1.0)), (3, load(1.0))]),
        inventory(2, &[(2, memory(64))]),
    ]);
    it.tell([inventory(1, &[(3, load(2.0))])]);
    assert_eq!(it.peer(2).inventory, memory(64));
    // A probe that says nothing may be starting or failing.
    it.tell([inventory(1, &[]), inventory(2, &[])]);
    assert_eq!(it.peer(2).inventory, memory(64));
    assert_eq!(it.peer(3).inventory, load(2.0));
    it.tell([Signal::ProbeRemoved { probe: 2 }]);
    assert_eq!(it.peer(2).inventory, PeerInventory::default());
    assert_eq!(it.peer(3).inventory, load(2.0));
}

#[test]
fn the_same_samples_again_are_no_news() {
    let mut it = Loop::new();
    let said = [
        inventory(1, &[(2, load(1.0))]),
        rtt(2, 5),
        health(2, NodeHealth::Healthy),
    ];
    it.tell(said.clone());
    let before = it.behaviour.view().generation;
    it.now = it.now.plus(s(1));
    it.tell(said);
    assert_eq!(it.behaviour.view().generation, before);
}

#[test]
fn a_peer_that_nobody_hears_of_and_nobody_needs_is_forgotten() {
    let mut it = Loop::new();
    it.tell([
        rtt(2, 5),
        rtt(3, 5),
        rtt(4, 5),
        rtt(5, 5),
        rtt(6, 5),
        added(100, 3),
        admin(AdminEvent::Cordon { node: node(4) }),
        admin(AdminEvent::EnterMaintenance {
            node: node(5),
            drain_for: None,
        }),
    ]);
    it.tell([inventory(1, &[(2, load(1.0))])]);
    it.after(s(3600 - 60));
    assert_eq!(it.behaviour.view().peers.len(), 5);
    it.tell([rtt(6, 5)]);
    it.after(s(120));
    let known = |it: &Loop| {
        it.behaviour
            .view()
            .peers
            .keys()
            .map(|node| node.get())
            .collect::<Vec<_>>()
    };
    assert_eq!(known(&it), [3, 4, 5, 6]);
    // What they were needed for ends.
    let state = MaintenanceState::Active;
    let served = MeshOsEvent::MaintenanceTransitionObserved { node: node(5), state };
    it.tell([
        removed(100, 3),
        admin(AdminEvent::Uncordon { node: node(4) }),
        Signal::Event(served),
    ]);
    assert_eq!(known(&it), [4, 5, 6], "node 3 was heard of last an hour ago");
    it.after(s(3660));
    assert_eq!(known(&it), [0; 0]);
    let world = it.behaviour.world();
    assert!(world.barred.is_empty() && world.fading.is_empty() && world.copies.is_empty());
}

#[test]
fn an_avoided_peer_is_forgotten_when_it_is_avoided_no_more() {
    let mut config = MeshOsConfig::default();
    config.locality.avoid_ttl = s(7200);
    let mut it = Loop::with(config);
    it.tell(rtts(2, &[300; 3]));
    it.after(s(7000));
    assert_eq!(it.behaviour.view().peers.len(), 1);
    it.after(s(200));
    assert_eq!(it.behaviour.view().peers.len(), 0);
}

#[test]
fn a_peer_that_becomes_slow_or_unreachable_has_every_chain_looked_at() {
    let mut it = Loop::new();
    let chains = (1..=5000).flat_map(|chain| {
        [
            leader(chain, Some(1), 1),
            added(chain, 2),
            added(chain, 3),
            desired(chain, 2),
        ]
    });
    it.tell(chains.collect::<Vec<_>>());
    it.tell([health(2, NodeHealth::Unreachable)]);
    let step = it.after(s(30));
    assert_eq!(step.dispatches.len(), 16);
    let waiting = it.behaviour.view().in_flight.len();
    // As many as the queue takes; the rest is looked at as there is space.
    assert_eq!(waiting, 16 + 1024);
}
