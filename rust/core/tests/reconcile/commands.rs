//! What each command changes, here and when it concerns another node, and which are refused.

use std::time::Duration;

use meshos_core::command::{AdminEvent, AvoidScope, ChainId, Command, IceAction, Order, Verdict};
use meshos_core::id::Origin;
use meshos_core::maintenance_state::MaintenancePhase;
use meshos_core::signal::{DaemonIntent, DaemonSignal, LocalReplicaIntent, Outcome, Signal};
use meshos_core::status::{Lifecycle, Part, View};

use crate::Loop;
use crate::cluster::{
    HERE, START, added, admin, crash, desired, forced_restart, ice, intent, leader, lifecycle, local, ms, node,
    restart, rtt, s,
};

use DaemonIntent::{Run, Stop};

/// Three daemons of which two run and are wanted, a chain that is held here and led here, and an avoided peer.
fn busy() -> Loop {
    let mut it = Loop::new();
    it.tell([1, 2].map(|id| lifecycle(id, DaemonSignal::Started)));
    it.tell([intent(1, Run), intent(2, Run), lifecycle(3, DaemonSignal::Started)]);
    it.tell([added(100, 1), added(100, 2), leader(100, Some(1), 1), desired(100, 2)]);
    it.tell([rtt(9, 300), rtt(9, 300), rtt(9, 300)]);
    it.end_all(&Outcome::Done);
    assert_eq!(it.flying(), []);
    it
}

/// What is decided by, without the count of changes and without what was emitted.
fn decisive(view: &View) -> String {
    let View {
        daemons,
        chains,
        peers,
        avoid,
        maintenance,
        freeze_until,
        cordoned,
        ..
    } = view;
    format!("{daemons:?} {chains:?} {peers:?} {avoid:?} {maintenance:?} {freeze_until:?} {cordoned:?}")
}

#[test]
fn every_ordinary_command_here() {
    let span = s(60);
    let chains = vec![ChainId::new(100)];
    let stops = [
        "stop 1 in 30000: the node is draining",
        "stop 2 in 30000: the node is draining",
    ];
    let drains = [stops[0], stops[1], "place 100 not on [1 2 9]"];
    let restarts = [
        "stop 1 in 30000: an operator restarts it",
        "stop 2 in 30000: an operator restarts it",
    ];
    type Effect = fn(&Loop) -> bool;
    let phase = |it: &Loop| it.behaviour.view().maintenance.phase();
    let table: [(AdminEvent, &[&str], Effect); 8] = [
        (
            AdminEvent::EnterMaintenance {
                node: HERE,
                drain_for: Some(span),
            },
            &drains,
            |it| {
                it.behaviour.view().maintenance.phase() == MaintenancePhase::Entering
                    && !it.behaviour.world().machine.auto_exit
            },
        ),
        (
            AdminEvent::Drain {
                node: HERE,
                drain_for: span,
            },
            &drains,
            |it| {
                it.behaviour.view().maintenance.phase() == MaintenancePhase::Entering
                    && it.behaviour.world().machine.auto_exit
            },
        ),
        // Nothing to come back from.
        (AdminEvent::ExitMaintenance { node: HERE }, &[], |it| {
            it.behaviour.view().maintenance.phase() == MaintenancePhase::Active
        }),
        (AdminEvent::Cordon { node: HERE }, &[], |it| {
            it.behaviour.view().cordoned && it.behaviour.world().barred.get(&HERE) == Some(&"cordoned")
        }),
        (AdminEvent::RestartAllDaemons { node: HERE }, &restarts, |it| {
            it.daemon(1).restart_wanted && !it.daemon(3).restart_wanted
        }),
        (AdminEvent::ClearAvoidList { node: HERE }, &[], |it| {
            it.behaviour.view().avoid.is_empty()
        }),
        (
            AdminEvent::DropReplicas { node: HERE, chains },
            &["drop 100", "place 100 not on [1 2 9]"],
            |it| it.chain(100).local == Some(LocalReplicaIntent::Drop),
        ),
        (AdminEvent::InvalidatePlacement { node: HERE }, &[], |it| {
            it.behaviour.world().scores_valid_from == 1
        }),
    ];
    for (event, expected, effect) in table {
        let mut it = busy();
        assert_eq!(phase(&it), MaintenancePhase::Active);
        let step = it.tell([admin(event.clone())]);
        let said: Vec<String> = step
            .dispatches
            .iter()
            .map(|dispatch| crate::short(dispatch, it.now))
            .collect();
        assert_eq!(said, expected, "{event:?}");
        assert!(effect(&it), "{event:?}");
        assert_eq!(step.audits.len(), 1);
        // What an operator ordered is the cause of what comes of it.
        for dispatch in &step.dispatches {
            assert_eq!(dispatch.cause.envelope_id, Some([9; 16]), "{dispatch:?}");
            assert_eq!(&*dispatch.cause.detail, event.kind());
        }
    }
}

#[test]
fn an_ordinary_command_for_another_node_changes_nothing_here_but_its_mirror() {
    let other = node(2);
    let mirrored = [
        (
            AdminEvent::EnterMaintenance {
                node: other,
                drain_for: None,
            },
            Some(MaintenancePhase::Entering),
        ),
        (
            AdminEvent::Drain {
                node: other,
                drain_for: s(1),
            },
            Some(MaintenancePhase::Entering),
        ),
        (
            AdminEvent::ExitMaintenance { node: other },
            Some(MaintenancePhase::Exiting),
        ),
    ];
    for (event, phase) in mirrored {
        let mut it = busy();
        let before = it.behaviour.view().maintenance.clone();
        it.tell([admin(event.clone())]);
        assert_eq!(it.peer(2).maintenance, phase, "{event:?}");
        assert_eq!(it.behaviour.view().maintenance, before, "{event:?}");
    }
    let mut it = busy();
    it.tell([admin(AdminEvent::Cordon { node: other })]);
    assert!(it.peer(2).cordoned && !it.behaviour.view().cordoned);
    assert_eq!(it.behaviour.world().barred.get(&other), Some(&"cordoned"));
    it.tell([admin(AdminEvent::Uncordon { node: other })]);
    assert!(!it.peer(2).cordoned && !it.behaviour.world().barred.contains_key(&other));
    let chains = vec![ChainId::new(100)];
    for event in [
        AdminEvent::RestartAllDaemons { node: other },
        AdminEvent::ClearAvoidList { node: other },
        AdminEvent::DropReplicas { node: other, chains },
        AdminEvent::InvalidatePlacement { node: other },
    ] {
        let mut it = busy();
        let before = decisive(it.behaviour.view());
        let step = it.tell([admin(event.clone())]);
        assert_eq!(decisive(it.behaviour.view()), before, "{event:?}");
        assert_eq!((step.dispatches.len(), step.audits.len()), (0, 1), "{event:?}");
    }
}

#[test]
fn every_break_glass_command() {
    let chain = ChainId::new(100);
    type Effect = fn(&Loop) -> bool;
    let table: [(IceAction, &[&str], Effect); 10] = [
        (IceAction::FreezeCluster { ttl: s(60) }, &[], |it| {
            it.behaviour.view().freeze_until == Some(START.plus(s(60))) && it.behaviour.world().is_frozen()
        }),
        (IceAction::ThawCluster, &[], |it| {
            it.behaviour.view().freeze_until.is_none()
        }),
        (
            IceAction::FlushAvoidLists {
                scope: AvoidScope::Global,
            },
            &[],
            |it| it.behaviour.view().avoid.is_empty(),
        ),
        (
            IceAction::FlushAvoidLists {
                scope: AvoidScope::Local(HERE),
            },
            &[],
            |it| it.behaviour.view().avoid.is_empty(),
        ),
        (
            IceAction::FlushAvoidLists {
                scope: AvoidScope::Local(node(2)),
            },
            &[],
            |it| it.behaviour.view().avoid.len() == 1,
        ),
        (
            IceAction::FlushAvoidLists {
                scope: AvoidScope::OnPeer(node(9)),
            },
            &[],
            |it| it.behaviour.view().avoid.is_empty(),
        ),
        (
            IceAction::FlushAvoidLists {
                scope: AvoidScope::OnPeer(node(2)),
            },
            &[],
            |it| it.behaviour.view().avoid.len() == 1,
        ),
        (
            IceAction::ForceEvictReplica { chain, victim: node(2) },
            &["evict 100 from 2", "place 100 not on [1 2 9]"],
            |it| it.behaviour.world().forced.len() == 1,
        ),
        (
            IceAction::ForceCutover { chain, target: node(4) },
            &["place 100 not on [1 2 9] but 4"],
            |it| it.behaviour.world().forced.len() == 1,
        ),
        (forced_restart(1), &["stop 1 in 30000: an operator restarts it"], |it| {
            it.daemon(1).restart_wanted
        }),
    ];
    for (action, expected, effect) in table {
        let mut it = busy();
        let said = it.says([ice(action.clone())]);
        assert_eq!(said, expected, "{action:?}");
        assert!(effect(&it), "{action:?}");
    }
}

#[test]
fn a_restart_stops_then_starts_each_daemon_once() {
    for command in [admin(AdminEvent::RestartAllDaemons { node: HERE }), restart(1)] {
        let mut it = busy();
        it.tell([intent(2, Stop), lifecycle(2, DaemonSignal::ExitedCleanly)]);
        it.end_all(&Outcome::Done);
        assert_eq!(it.says([command]), ["stop 1 in 30000: an operator restarts it"]);
        it.tell([lifecycle(1, DaemonSignal::ExitedCleanly)]);
        it.end_all(&Outcome::Done);
        assert_eq!(it.flying(), [("start_daemon", "running")]);
        it.tell([lifecycle(1, DaemonSignal::Started)]);
        it.end_all(&Outcome::Done);
        assert_eq!((it.flying(), it.daemon(1).restart_wanted), (vec![], false));
        assert_eq!(it.says_after(s(120)), [""; 0]);
    }
}

#[test]
fn a_forced_restart_of_what_is_not_known_makes_nothing() {
    let mut it = Loop::new();
    let daemon = Origin::new(77);
    let step = it.tell([restart(daemon.get())]);
    assert_eq!((step.dispatches.len(), step.supervise.len()), (0, 0));
    assert!(it.behaviour.view().daemons.is_empty());
}

#[test]
fn a_forced_restart_wants_what_nobody_wanted_and_leaves_a_stop_alone() {
    let daemon = Origin::new(1);
    let mut it = Loop::new();
    it.tell([lifecycle(1, DaemonSignal::Started), crash(1, "boom")]);
    let step = it.tell([restart(daemon.get())]);
    assert_eq!(step.supervise, [(daemon, true)]);
    assert_eq!(it.flying(), [("start_daemon", "running")]);
    let mut it = Loop::new();
    it.tell([lifecycle(1, DaemonSignal::Started), intent(1, Stop), crash(1, "boom")]);
    it.end_all(&Outcome::Done);
    let step = it.tell([restart(daemon.get())]);
    assert_eq!((step.supervise, it.flying()), (vec![(daemon, false)], vec![]));
    assert_eq!(it.daemon(1).lifecycle, Lifecycle::Stopped);
}

#[test]
fn a_killed_move_is_told_after_everything_was_folded() {
    let mut it = Loop::new();
    let migration = Origin::new(5);
    let step = it.tell([ice(IceAction::KillMigration { migration }), intent(5, Run)]);
    assert_eq!(step.kill, [migration]);
    // Whoever ends it sees what came with it.
    assert_eq!(it.daemon(5).intent, Some(Run));
    for action in [IceAction::ThawCluster, IceAction::FreezeCluster { ttl: s(1) }] {
        assert_eq!(it.tell([ice(action)]).kill, []);
    }
}

fn with(verdict: Verdict, order: Order) -> Signal {
    Signal::Command(Command {
        order,
        verdict,
        operators: vec![3, 4],
        reason: "maintenance window".to_owned(),
        envelope_id: Some([1; 16]),
        issued_at: None,
    })
}

#[test]
fn a_refused_command_changes_nothing_and_is_on_record() {
    let mut it = busy();
    let before = decisive(it.behaviour.view());
    let refused = Verdict::Rejected { kind: "not_authorized" };
    for order in [
        Order::Admin(AdminEvent::Cordon { node: HERE }),
        Order::Ice(IceAction::FreezeCluster { ttl: s(60) }),
        Order::Ice(IceAction::KillMigration {
            migration: Origin::new(1),
        }),
    ] {
        let step = it.tell([with(refused.clone(), order.clone())]);
        assert_eq!(decisive(it.behaviour.view()), before);
        assert_eq!(
            (step.dispatches.len(), step.kill.len(), step.supervise.len()),
            (0, 0, 0)
        );
        let audit = &step.audits[0];
        assert_eq!((&audit.order, &audit.verdict), (&order, &refused));
        assert_eq!(
            (audit.operators.as_slice(), &*audit.reason),
            ([3, 4].as_slice(), "maintenance window")
        );
    }
}

#[test]
fn where_nobody_checks_commands_are_obeyed_and_on_record_as_such() {
    let mut it = Loop::new();
    let step = it.tell([with(Verdict::Open, Order::Admin(AdminEvent::Cordon { node: HERE }))]);
    assert_eq!(step.audits[0].verdict, Verdict::Open);
    assert!(it.behaviour.view().cordoned);
}

#[test]
fn during_a_freeze_ordinary_commands_are_refused_and_break_glass_ones_obeyed() {
    let mut it = busy();
    it.tell([ice(IceAction::FreezeCluster { ttl: s(60) })]);
    for event in [
        AdminEvent::EnterMaintenance {
            node: HERE,
            drain_for: None,
        },
        AdminEvent::ExitMaintenance { node: HERE },
        AdminEvent::Drain {
            node: HERE,
            drain_for: s(1),
        },
        AdminEvent::Cordon { node: HERE },
        AdminEvent::Uncordon { node: HERE },
        AdminEvent::RestartAllDaemons { node: HERE },
        AdminEvent::ClearAvoidList { node: HERE },
        AdminEvent::DropReplicas {
            node: HERE,
            chains: vec![ChainId::new(100)],
        },
        AdminEvent::InvalidatePlacement { node: HERE },
    ] {
        let before = decisive(it.behaviour.view());
        let step = it.tell([admin(event.clone())]);
        let refused = Verdict::Rejected {
            kind: "freeze_in_effect",
        };
        assert_eq!(step.audits[0].verdict, refused, "{event:?}");
        assert_eq!(decisive(it.behaviour.view()), before, "{event:?}");
    }
    let step = it.tell([ice(IceAction::FlushAvoidLists {
        scope: AvoidScope::Global,
    })]);
    assert_eq!(step.audits[0].verdict, Verdict::Accepted);
    assert!(it.behaviour.view().avoid.is_empty());
    it.tell([ice(IceAction::ThawCluster)]);
    let step = it.tell([admin(AdminEvent::Cordon { node: HERE })]);
    assert_eq!(step.audits[0].verdict, Verdict::Accepted);
}

#[test]
fn a_freeze_ends_to_the_millisecond_even_before_its_alarm() {
    let mut it = Loop::new();
    it.tell([ice(IceAction::FreezeCluster { ttl: ms(1000) })]);
    it.now = it.now.plus(ms(999));
    let step = it.tell([admin(AdminEvent::Cordon { node: HERE })]);
    assert!(matches!(step.audits[0].verdict, Verdict::Rejected { .. }));
    it.now = it.now.plus(ms(1));
    let step = it.tell([admin(AdminEvent::Cordon { node: HERE })]);
    assert_eq!(step.audits[0].verdict, Verdict::Accepted);
    assert_eq!(it.behaviour.view().freeze_until, None);
}

#[test]
fn a_freeze_can_be_longer_and_shorter_and_has_a_bound() {
    let mut it = Loop::new();
    let until = |it: &Loop| it.behaviour.view().freeze_until.map(|until| until.since(START));
    for (ttl, expected) in [
        (s(60), s(60)),
        (s(600), s(600)),
        (s(30), s(30)),
        (Duration::MAX, s(24 * 3600)),
    ] {
        it.tell([ice(IceAction::FreezeCluster { ttl })]);
        assert_eq!(until(&it), Some(expected));
    }
    it.tell([ice(IceAction::ThawCluster), ice(IceAction::ThawCluster)]);
    assert_eq!(until(&it), None);
}

#[test]
fn what_a_freeze_holds_up_and_what_not() {
    let mut it = busy();
    it.tell([ice(IceAction::FreezeCluster { ttl: s(60) })]);
    // Starts, stops, copies and moves wait.
    let waits = [
        intent(1, Stop),
        intent(4, Run),
        desired(100, 3),
        added(101, 2),
        local(101, LocalReplicaIntent::Hold),
    ];
    assert_eq!(it.says(waits), [""; 0]);
    // What only tells somebody something does not: it makes nothing worse.
    let said = it.says([crash(2, "boom"), rtt(8, 300), rtt(8, 300), rtt(8, 300)]);
    assert_eq!(said.len(), 2, "{said:?}");
    it.end_all(&Outcome::Done);
    let said = it.says_after(s(60));
    let expected = [
        "stop 1 in 30000: it shall stop",
        "start 2",
        "start 4",
        "place 100 not on [1 2 8 9]",
        "pull 101 from 2",
    ];
    assert_eq!(said, expected);
}

#[test]
fn a_freeze_takes_back_what_waits() {
    let mut it = Loop::new();
    it.tell((1..=17).map(|id| intent(id, Run)));
    assert_eq!(it.behaviour.depth(), 1);
    it.tell([ice(IceAction::FreezeCluster { ttl: s(60) })]);
    assert_eq!(it.behaviour.depth(), 0);
    it.end_all(&crate::cluster::dropped());
    assert_eq!(it.says([ice(IceAction::ThawCluster)]).len(), 16);
}

#[test]
fn copies_that_shall_go_are_of_the_node_that_is_named() {
    let chains = |ids: &[u64]| ids.iter().copied().map(ChainId::new).collect::<Vec<_>>();
    let mut it = Loop::new();
    it.tell([added(100, 1), added(101, 1), added(102, 1)]);
    let drop = |node, ids| {
        admin(AdminEvent::DropReplicas {
            node,
            chains: chains(ids),
        })
    };
    assert_eq!(it.says([drop(node(2), &[100])]), [""; 0]);
    assert_eq!(it.says([drop(HERE, &[100, 102])]), ["drop 100", "drop 102"]);
    assert_eq!(it.chain(101).local, None);
}

#[test]
fn a_command_that_is_obeyed_and_fails_says_which_it_was() {
    let mut it = busy();
    let victim = node(2);
    let chain = ChainId::new(100);
    let step = it.tell([ice(IceAction::ForceEvictReplica { chain, victim })]);
    let failed = it.tell([crate::cluster::ended(step.dispatches[0].id, crate::cluster::dropped())]);
    let source = &failed.failures[0].source;
    assert_eq!((source.part, source.envelope_id), (Part::Action, Some([9; 16])));
}
