//! How a node leaves service with everything on it, and how it comes back.

use meshos_core::behaviour::Heard;
use meshos_core::command::AdminEvent;
use meshos_core::event::DaemonHealth;
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::maintenance_state::{MaintenancePhase, MaintenanceState};
use meshos_core::signal::{DaemonIntent, DaemonSignal, LocalReplicaIntent, MeshOsEvent, Outcome, Signal};
use meshos_core::status::Part;

use crate::Loop;
use crate::cluster::{
    HERE, added, admin, crash, desired, dropped, ended, intent, leader, lifecycle, local, ms, node, pinned, removed,
    retry, s,
};

use DaemonIntent::{Run, Stop};
use MaintenancePhase as Phase;

fn enter(drain_for: Option<u64>) -> Signal {
    admin(AdminEvent::EnterMaintenance {
        node: HERE,
        drain_for: drain_for.map(s),
    })
}

fn exit() -> Signal {
    admin(AdminEvent::ExitMaintenance { node: HERE })
}

fn observed(state: MaintenanceState) -> Signal {
    Signal::Event(MeshOsEvent::MaintenanceTransitionObserved { node: HERE, state })
}

fn phase(it: &Loop) -> Phase {
    it.behaviour.view().maintenance.phase()
}

/// Commits what is asked for, as a dispatcher does, until nothing is; what was committed.
fn commit(it: &mut Loop) -> Vec<Phase> {
    let mut committed = Vec::new();
    loop {
        let flights = it.behaviour.view().in_flight.values().cloned().collect::<Vec<_>>();
        let mut signals = Vec::new();
        for flight in flights {
            if let meshos_core::action::MeshOsAction::CommitMaintenanceTransition { target, .. } = &flight.action {
                committed.push(target.phase());
                signals.extend([observed(target.clone()), ended(flight.id, Outcome::Done)]);
            }
        }
        if signals.is_empty() {
            return committed;
        }
        it.tell(signals);
    }
}

/// One daemon runs here, and the node is in a phase.
fn in_phase(wanted: Phase) -> Loop {
    let mut it = Loop::new();
    it.tell([intent(1, Run), lifecycle(1, DaemonSignal::Started)]);
    it.end_all(&Outcome::Done);
    if wanted == Phase::Active {
        return it;
    }
    it.tell([enter(Some(60))]);
    if wanted == Phase::Entering {
        return it;
    }
    if wanted == Phase::DrainFailed {
        it.after(s(60));
        assert_eq!(commit(&mut it), [Phase::DrainFailed]);
        return it;
    }
    it.tell([lifecycle(1, DaemonSignal::ExitedCleanly)]);
    it.end_all(&Outcome::Done);
    assert_eq!(commit(&mut it), [Phase::Maintenance]);
    if wanted == Phase::Maintenance {
        return it;
    }
    it.tell([exit()]);
    if wanted == Phase::Exiting {
        return it;
    }
    it.tell([lifecycle(1, DaemonSignal::Started)]);
    it.end_all(&Outcome::Done);
    assert_eq!(commit(&mut it), [Phase::Recovery]);
    it
}

#[test]
fn every_phase_goes_on_by_its_work_or_by_its_deadline() {
    // Phase, whether its work gets done, how much time passes, and what is committed.
    let done = |name: &str, it: &mut Loop| match name {
        "stopped" => drop(it.tell([lifecycle(1, DaemonSignal::ExitedCleanly)])),
        "started" => drop(it.tell([lifecycle(1, DaemonSignal::Started)])),
        _ => {}
    };
    let table: [(Phase, &str, u64, &[Phase]); 14] = [
        (Phase::Active, "", 3600, &[]),
        (Phase::Entering, "", 59, &[]),
        (Phase::Entering, "", 60, &[Phase::DrainFailed]),
        (Phase::Entering, "stopped", 0, &[Phase::Maintenance]),
        // Success counts before the deadline.
        (Phase::Entering, "stopped", 60, &[Phase::Maintenance]),
        (Phase::Maintenance, "", 3600, &[]),
        (Phase::DrainFailed, "", 3600, &[]),
        (Phase::DrainFailed, "stopped", 0, &[Phase::Maintenance]),
        (Phase::Exiting, "", 599, &[]),
        (Phase::Exiting, "started", 0, &[Phase::Recovery]),
        // A daemon that does not start must not keep the node out of service.
        (Phase::Exiting, "", 600, &[Phase::Recovery]),
        (Phase::Recovery, "", 299, &[]),
        (Phase::Recovery, "", 300, &[Phase::Active]),
        (Phase::Recovery, "stopped", 300, &[Phase::Active]),
    ];
    for (from, work, seconds, expected) in table {
        let mut it = in_phase(from);
        assert_eq!(phase(&it), from);
        // Work and deadline come in the same step.
        it.now = it.now.plus(s(seconds));
        done(work, &mut it);
        it.tell([]);
        assert_eq!(commit(&mut it), expected, "{from:?}, {work}, {seconds} s");
    }
}

#[test]
fn a_node_without_work_is_in_maintenance_at_once() {
    let mut it = Loop::new();
    assert_eq!(it.says([enter(None)]), ["commit maintenance"]);
    assert_eq!(commit(&mut it), [Phase::Maintenance]);
    assert_eq!(phase(&it), Phase::Maintenance);
}

#[test]
fn a_transition_is_committed_once_until_it_is_observed() {
    let mut it = Loop::new();
    let step = it.tell([enter(None)]);
    it.end_all(&Outcome::Done);
    for _ in 0..29 {
        assert_eq!(it.says_after(s(1)), [""; 0]);
    }
    // The commit got lost on the way.
    assert_eq!(it.says_after(s(1)), ["commit maintenance"]);
    it.tell([observed(MaintenanceState::Maintenance { since: it.now })]);
    it.end_all(&Outcome::Done);
    assert_eq!(it.flying(), []);
    assert_eq!(step.dispatches.len(), 1);
}

#[test]
fn a_commit_that_fails_is_tried_again_later() {
    let mut it = Loop::new();
    let step = it.tell([enter(None)]);
    let failed = it.tell([ended(step.dispatches[0].id, dropped())]);
    assert_eq!(failed.failures[0].source.part, Part::Action);
    assert_eq!(it.says_after(ms(499)), [""; 0]);
    assert_eq!(it.says_after(ms(1)), ["commit maintenance"]);
    let id = it.behaviour.view().in_flight.values().next().expect("it runs").id;
    it.tell([ended(id, retry(s(3)))]);
    assert_eq!(it.says_after(s(3)), ["commit maintenance"]);
}

#[test]
fn a_drain_stops_daemons_and_drops_copies_as_others_have_them() {
    let mut it = Loop::new();
    it.tell([intent(1, Run), lifecycle(1, DaemonSignal::Started)]);
    it.end_all(&Outcome::Done);
    // Chain 100 is led here, 101 elsewhere, and of 102 nobody wants to know how many.
    it.tell([leader(100, Some(1), 1), desired(100, 2), added(100, 1), added(100, 2)]);
    it.tell([leader(101, Some(3), 1), desired(101, 2), added(101, 1), added(101, 2)]);
    it.tell([added(102, 1)]);
    let said = it.says([enter(None)]);
    assert_eq!(
        said,
        ["stop 1 in 30000: the node is draining", "place 100 not on [1 2]"]
    );
    let view = it.behaviour.view();
    assert_eq!((view.daemons_left, view.replicas_left), (1, 3));
    assert_eq!(
        it.says([added(100, 3), added(101, 3), added(102, 3)]),
        ["drop 100", "drop 101", "drop 102"]
    );
    it.tell([removed(100, 1), removed(101, 1), removed(102, 1)]);
    assert_eq!(it.behaviour.view().replicas_left, 0);
    assert_eq!(
        it.says([lifecycle(1, DaemonSignal::ExitedCleanly)]),
        ["commit maintenance"]
    );
}

#[test]
fn nothing_comes_to_a_node_that_is_not_in_service() {
    for from in [
        Phase::Entering,
        Phase::Maintenance,
        Phase::DrainFailed,
        Phase::Exiting,
        Phase::Recovery,
    ] {
        let mut it = in_phase(from);
        it.tell([added(100, 2), added(101, 2)]);
        it.tell([
            local(100, LocalReplicaIntent::Hold),
            leader(101, Some(1), 1),
            desired(101, 2),
        ]);
        let known = it.flying();
        assert!(
            known.iter().all(|(kind, _)| *kind != "pull_replica"),
            "{from:?}: {known:?}"
        );
        let excluded = it.behaviour.world().barred.get(&HERE);
        assert_eq!(excluded, Some(&"maintenance"), "{from:?}");
        let starts = it.says([intent(9, Run)]).contains(&"start 9".to_owned());
        assert_eq!(starts, matches!(from, Phase::Exiting | Phase::Recovery), "{from:?}");
    }
}

#[test]
fn what_waited_for_service_begins_with_it() {
    let mut it = in_phase(Phase::Recovery);
    it.tell([added(100, 2), local(100, LocalReplicaIntent::Hold)]);
    it.after(s(300));
    assert_eq!(commit(&mut it), [Phase::Active]);
    assert_eq!(it.flying(), [("pull_replica", "running")]);
}

#[test]
fn a_drain_without_a_span_has_the_configured_deadline() {
    let mut it = in_phase(Phase::Active);
    let step = it.tell([enter(None)]);
    let deadline = it.now.plus(s(600));
    assert_eq!(step.controls, [Heard::DrainStart { deadline }]);
    it.after(s(599));
    assert_eq!(commit(&mut it), []);
    let step = it.after(s(1));
    assert_eq!(step.controls, []);
    assert_eq!(commit(&mut it), [Phase::DrainFailed]);
}

#[test]
fn a_failed_drain_says_what_was_left() {
    let mut it = in_phase(Phase::Entering);
    it.tell([added(100, 1)]);
    it.after(s(60));
    assert_eq!(commit(&mut it), [Phase::DrainFailed]);
    let MaintenanceState::DrainFailed { since, reason } = &it.behaviour.view().maintenance else {
        panic!("it is {:?}", it.behaviour.view().maintenance);
    };
    assert_eq!(*since, it.now);
    assert_eq!(&**reason, "not drained after 60000 ms: daemons left 1, replicas left 1");
}

#[test]
fn a_drain_that_is_called_off_puts_everything_back() {
    let mut it = in_phase(Phase::Entering);
    it.tell([lifecycle(1, DaemonSignal::ExitedCleanly), added(100, 1)]);
    it.end_all(&Outcome::Done);
    let step = it.tell([exit()]);
    assert_eq!(step.controls, [Heard::Resume]);
    assert_eq!(
        step.dispatches.iter().map(|it| it.action.kind()).collect::<Vec<_>>(),
        ["start_daemon"]
    );
    assert_eq!(phase(&it), Phase::Exiting);
}

#[test]
fn daemons_hear_of_a_drain_and_of_its_end_once() {
    let mut it = in_phase(Phase::Active);
    let deadline = it.now.plus(s(60));
    assert_eq!(it.tell([enter(Some(60))]).controls, [Heard::DrainStart { deadline }]);
    assert_eq!(it.tell([enter(Some(60))]).controls, []);
    let later = it.now.plus(s(90));
    assert_eq!(
        it.tell([enter(Some(90))]).controls,
        [Heard::DrainStart { deadline: later }]
    );
    it.tell([lifecycle(1, DaemonSignal::ExitedCleanly)]);
    it.end_all(&Outcome::Done);
    let state = MaintenanceState::Maintenance { since: it.now };
    assert_eq!(it.tell([observed(state.clone())]).controls, [Heard::DrainFinish]);
    assert_eq!(it.tell([observed(state)]).controls, []);
    assert_eq!(it.tell([exit()]).controls, []);
    it.tell([lifecycle(1, DaemonSignal::Started)]);
    let state = MaintenanceState::Recovery { since: it.now };
    assert_eq!(it.tell([observed(state)]).controls, [Heard::Resume]);
}

#[test]
fn daemons_that_shall_not_run_hold_up_neither_way() {
    let mut it = in_phase(Phase::Active);
    // Stopped and wanted so; known and not wanted; pinned elsewhere; running without an intent.
    it.tell([
        intent(2, Stop),
        lifecycle(3, DaemonSignal::ExitedCleanly),
        pinned(4, Run, Some(2)),
    ]);
    it.tell([lifecycle(5, DaemonSignal::Started)]);
    it.tell([enter(None), lifecycle(1, DaemonSignal::ExitedCleanly)]);
    it.end_all(&Outcome::Done);
    assert_eq!(commit(&mut it), [Phase::Maintenance]);
    it.tell([exit()]);
    it.tell([lifecycle(1, DaemonSignal::Started)]);
    it.end_all(&Outcome::Done);
    assert_eq!(commit(&mut it), [Phase::Recovery]);
}

#[test]
fn a_daemon_that_is_not_healthy_is_missing_and_one_that_said_nothing_is_not() {
    let unhealthy = || DaemonHealth::Unhealthy { reason: String::new() };
    // What it says after its start, and whether the node is back.
    for (health, back) in [
        (None, true),
        (Some(DaemonHealth::Healthy), true),
        (Some(unhealthy()), false),
    ] {
        let mut it = in_phase(Phase::Exiting);
        let mut signals = vec![lifecycle(1, DaemonSignal::Started)];
        signals.extend(
            health
                .clone()
                .map(|health| lifecycle(1, DaemonSignal::HealthChanged(health))),
        );
        it.tell(signals);
        it.end_all(&Outcome::Done);
        assert_eq!(!commit(&mut it).is_empty(), back, "{health:?}");
        it.tell([lifecycle(1, DaemonSignal::HealthChanged(DaemonHealth::Healthy))]);
        commit(&mut it);
        assert_eq!(phase(&it), Phase::Recovery);
    }
}

#[test]
fn daemons_that_do_not_come_back_are_told_once() {
    let mut it = in_phase(Phase::Exiting);
    it.tell([crash(1, "it does not start")]);
    let mut told = Vec::new();
    for _ in 0..70 {
        let step = it.after(s(10));
        told.extend(
            step.failures
                .into_iter()
                .filter(|failure| failure.source.part == Part::Loop),
        );
    }
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (&*told[0].source.name, &*told[0].reason),
        ("exit_maintenance", "1 daemons did not start again in time")
    );
    commit(&mut it);
    assert_eq!(phase(&it), Phase::Recovery);
}

#[test]
fn a_late_transition_is_refused_and_told_and_changes_nothing() {
    let mut it = in_phase(Phase::Exiting);
    let before = it.behaviour.view().maintenance.clone();
    let since = it.now;
    let reason = "late".into();
    let step = it.tell([observed(MaintenanceState::DrainFailed { since, reason })]);
    assert_eq!(it.behaviour.view().maintenance, before);
    assert_eq!(step.failures.len(), 1);
    assert_eq!(&*step.failures[0].source.name, "maintenance");
    // There is one machine: this node is no peer of itself with a state of its own.
    assert!(!it.behaviour.view().peers.contains_key(&HERE));
}

#[test]
fn a_drain_that_returns_by_itself_returns() {
    let drain = |seconds| {
        admin(AdminEvent::Drain {
            node: HERE,
            drain_for: s(seconds),
        })
    };
    let mut it = in_phase(Phase::Active);
    it.tell([drain(60), lifecycle(1, DaemonSignal::ExitedCleanly)]);
    it.end_all(&Outcome::Done);
    assert_eq!(commit(&mut it), [Phase::Maintenance, Phase::Exiting]);
    // Not drained in time: it comes back all the same.
    let mut it = in_phase(Phase::Active);
    it.tell([drain(60)]);
    it.after(s(60));
    assert_eq!(commit(&mut it), [Phase::Exiting]);
}

#[test]
fn an_order_is_anchored_at_the_time_of_its_step() {
    let mut it = in_phase(Phase::Active);
    it.now = it.now.plus(s(5));
    it.tell([enter(Some(60))]);
    let deadline = it.now.plus(s(60));
    let since = it.now;
    assert_eq!(
        it.behaviour.view().maintenance,
        MaintenanceState::EnteringMaintenance { since, deadline }
    );
}

#[test]
fn a_freeze_holds_up_no_transition() {
    let mut it = in_phase(Phase::Entering);
    it.tell([crate::cluster::ice(meshos_core::command::IceAction::FreezeCluster {
        ttl: s(3600),
    })]);
    it.after(s(60));
    assert_eq!(commit(&mut it), [Phase::DrainFailed]);
}

#[test]
fn the_options_decide() {
    let mut config = MeshOsConfig::default();
    config.maintenance.stop_grace = s(5);
    config.maintenance.default_drain_deadline = s(7);
    let mut it = Loop::with(config);
    it.tell([intent(1, Run), lifecycle(1, DaemonSignal::Started)]);
    it.end_all(&Outcome::Done);
    assert_eq!(it.says([enter(None)]), ["stop 1 in 5000: the node is draining"]);
    it.after(s(7));
    assert_eq!(commit(&mut it), [Phase::DrainFailed]);
}

#[test]
fn other_nodes_are_barred_by_their_maintenance_and_fade_while_they_drain() {
    let drains = [Phase::Entering, Phase::Maintenance, Phase::DrainFailed];
    for phase in Phase::ALL {
        let mut it = Loop::new();
        let (since, deadline, reason) = (it.now, it.now, "it was told".into());
        let state = match phase {
            Phase::Active => MaintenanceState::Active,
            Phase::Entering => MaintenanceState::EnteringMaintenance { since, deadline },
            Phase::Maintenance => MaintenanceState::Maintenance { since },
            Phase::Exiting => MaintenanceState::ExitingMaintenance { since },
            Phase::DrainFailed => MaintenanceState::DrainFailed { since, reason },
            Phase::Recovery => MaintenanceState::Recovery { since },
        };
        it.tell([Signal::Event(MeshOsEvent::MaintenanceTransitionObserved {
            node: node(2),
            state,
        })]);
        assert_eq!(it.peer(2).maintenance, Some(phase));
        let world = it.behaviour.world();
        assert_eq!(world.barred.contains_key(&node(2)), phase != Phase::Active, "{phase:?}");
        assert_eq!(world.fading.contains(&node(2)), drains.contains(&phase), "{phase:?}");
    }
}
