//! Starts, stops and backoffs: the table of intents and lifecycles, and what surrounds it.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::action::{CauseKind, MeshOsAction};
use meshos_core::event::{Crash, DaemonHealth};
use meshos_core::finite::Share;
use meshos_core::id::Origin;
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::signal::{DaemonIntent, DaemonRef, DaemonSignal, MeshOsEvent, Outcome, RosterEntry, Signal};
use meshos_core::status::Lifecycle;
use meshos_core::supervision::RestartState;

use crate::Loop;
use crate::cluster::{crash, daemon, dropped, ended, intent, lifecycle, ms, pinned, restart, retry, s};

use DaemonIntent::{Run, Stop};

/// No jitter, so that waits are whole numbers.
fn steady() -> MeshOsConfig {
    let mut config = MeshOsConfig::default();
    config.backoff.jitter = Share::default();
    config
}

/// Brings daemon 1 into a situation.
fn situation(name: &str) -> Loop {
    let mut it = Loop::with(steady());
    let started = || lifecycle(1, DaemonSignal::Started);
    match name {
        "unknown" => {}
        "stopped" => drop(it.tell([started(), lifecycle(1, DaemonSignal::ExitedCleanly)])),
        "crashed" => drop(it.tell([started(), crash(1, "boom")])),
        "starting" => drop(it.tell([intent(1, Run)])),
        "running" => drop(it.tell([started()])),
        "stopping" => drop(it.tell([started(), intent(1, Stop)])),
        _ => panic!("{name}"),
    }
    it
}

#[test]
fn every_intent_in_every_situation() {
    const STOP: &str = "stop 1 in 30000: it shall stop";
    const ELSEWHERE: &str = "stop 1 in 30000: it is pinned to another node";
    let situations = ["unknown", "stopped", "crashed", "starting", "running", "stopping"];
    let table: [(&str, Option<Signal>, [&str; 6]); 5] = [
        ("nothing", None, ["", "", "", "", "", ""]),
        (
            "run anywhere",
            Some(intent(1, Run)),
            ["start 1", "start 1", "hold back 1 for 500", "", "", ""],
        ),
        (
            "run here",
            Some(pinned(1, Run, Some(1))),
            ["start 1", "start 1", "hold back 1 for 500", "", "", ""],
        ),
        (
            "run elsewhere",
            Some(pinned(1, Run, Some(2))),
            ["", "", "", "", ELSEWHERE, ""],
        ),
        ("stop", Some(intent(1, Stop)), ["", "", "", "", STOP, ""]),
    ];
    for (wanted, signal, row) in table {
        for (name, expected) in situations.iter().zip(row) {
            let mut it = situation(name);
            let said = it.says(signal.clone());
            assert_eq!(said.join(", "), expected, "wanted: {wanted}, situation: {name}");
        }
    }
}

#[test]
fn what_contradicts_a_dispatch_waits_for_its_end() {
    let mut it = Loop::new();
    let start = it.tell([intent(1, Run)]);
    assert_eq!(it.says([intent(1, Stop)]), [""; 0]);
    let started = [
        lifecycle(1, DaemonSignal::Started),
        ended(start.dispatches[0].id, Outcome::Done),
    ];
    assert_eq!(it.says(started), ["stop 1 in 30000: it shall stop"]);
    let stop = it
        .behaviour
        .view()
        .in_flight
        .values()
        .next()
        .expect("it is under way")
        .id;
    assert_eq!(it.says([intent(1, Run)]), [""; 0]);
    let stopped = [lifecycle(1, DaemonSignal::ExitedCleanly), ended(stop, Outcome::Done)];
    assert_eq!(it.says(stopped), ["start 1"]);
}

#[test]
fn a_start_is_asked_for_once_however_long_it_takes() {
    let mut it = Loop::new();
    let step = it.tell([intent(1, Run)]);
    assert_eq!(it.daemon(1).lifecycle, Lifecycle::Starting);
    for _ in 0..40 {
        assert_eq!(it.says_after(ms(500)), [""; 0]);
    }
    // Carried out, and not to be seen yet.
    it.done(&step);
    assert_eq!(it.flying(), [("start_daemon", "awaiting_confirmation")]);
    assert_eq!(it.says_after(s(29)), [""; 0]);
    assert_eq!(it.says([lifecycle(1, DaemonSignal::Started)]), [""; 0]);
    assert_eq!((it.flying().len(), it.emitted()), (0, 1));
}

#[test]
fn a_start_that_does_not_show_is_asked_for_again() {
    let mut it = Loop::new();
    let step = it.tell([intent(1, Run)]);
    it.done(&step);
    assert_eq!(it.says_after(s(30)), ["start 1"]);
    assert_eq!(it.daemon(1).lifecycle, Lifecycle::Starting);
}

#[test]
fn a_failed_start_and_a_failed_stop_leave_the_daemon_where_it_was() {
    let mut it = Loop::new();
    let step = it.tell([intent(1, Run)]);
    it.tell([ended(step.dispatches[0].id, dropped())]);
    assert_eq!(it.daemon(1).lifecycle, Lifecycle::Stopped);
    assert_eq!(it.flying(), [("start_daemon", "failed")]);
    assert_eq!(it.says_after(ms(499)), [""; 0]);
    assert_eq!(it.says_after(ms(1)), ["start 1"]);

    let mut it = situation("running");
    let step = it.tell([intent(1, Stop)]);
    assert_eq!(it.daemon(1).lifecycle, Lifecycle::Stopping);
    it.tell([ended(step.dispatches[0].id, retry(s(1)))]);
    assert_eq!(it.daemon(1).lifecycle, Lifecycle::Running);
    // Its grace is counted from when it is told.
    assert_eq!(it.says_after(s(1)), ["stop 1 in 30000: it shall stop"]);
}

#[test]
fn a_backoff_is_told_once_for_each_release() {
    let mut it = situation("running");
    it.tell([intent(1, Run)]);
    assert_eq!(it.says([crash(1, "one")]), ["hold back 1 for 500"]);
    let told = it.emitted();
    it.end_all(&Outcome::Done);
    assert_eq!(it.says_after(ms(400)), [""; 0]);
    assert_eq!(it.emitted(), told);
    // The release comes with the start, in one step.
    assert_eq!(it.says_after(ms(100)), ["start 1"]);
    it.tell([lifecycle(1, DaemonSignal::Started)]);
    assert_eq!(it.says([crash(1, "two")]), ["hold back 1 for 1000"]);
}

#[test]
fn a_backoff_that_changes_while_it_is_told_is_told_again() {
    let mut it = situation("running");
    it.tell([intent(1, Run)]);
    let first = it.tell([crash(1, "one")]);
    it.now = it.now.plus(ms(10));
    // It is started by somebody else, and crashes again.
    assert_eq!(it.says([lifecycle(1, DaemonSignal::Started), crash(1, "two")]), [""; 0]);
    assert_eq!(
        it.says([ended(first.dispatches[0].id, Outcome::Done)]),
        ["hold back 1 for 1000"]
    );
}

#[test]
fn five_crashes_in_a_minute_are_a_loop_and_a_forced_restart_ends_it() {
    let mut it = Loop::with(steady());
    it.tell([intent(1, Run)]);
    for wait in [500, 1000, 2000, 4000] {
        it.tell([lifecycle(1, DaemonSignal::Started)]);
        assert_eq!(it.says([crash(1, "boom")]), [format!("hold back 1 for {wait}")]);
        it.end_all(&Outcome::Done);
        assert_eq!(it.says_after(ms(wait)), ["start 1"]);
    }
    it.tell([lifecycle(1, DaemonSignal::Started)]);
    assert_eq!(it.says([crash(1, "boom")]), ["hold back 1 for 300000"]);
    assert!(matches!(it.daemon(1).backoff.state, RestartState::CrashLooping { .. }));
    assert_eq!(it.says_after(s(299)), [""; 0]);
    let daemon = Origin::new(1);
    it.end_all(&Outcome::Done);
    assert_eq!(it.says([restart(daemon.get())]), ["start 1"]);
}

#[test]
fn an_unpinned_intent_clears_the_pin() {
    let mut it = Loop::new();
    assert_eq!(it.says([pinned(1, Run, Some(2))]), [""; 0]);
    assert_eq!(it.says([intent(1, Run)]), ["start 1"]);
    assert_eq!(it.daemon(1).pin, None);
}

#[test]
fn an_orphan_is_stopped_and_never_started_where_it_is_not_pinned() {
    let mut it = situation("running");
    let said = it.says([pinned(1, Run, Some(2))]);
    assert_eq!(said, ["stop 1 in 30000: it is pinned to another node"]);
    it.tell([lifecycle(1, DaemonSignal::ExitedCleanly)]);
    assert_eq!(it.says_after(s(3600)), [""; 0]);
}

#[test]
fn dispatches_are_in_the_order_of_the_handles() {
    let mut it = Loop::new();
    let said = it.says([5, 3, 9, 1, 7].map(|id| intent(id, Run)));
    assert_eq!(said, ["start 1", "start 3", "start 5", "start 7", "start 9"]);
}

#[test]
fn a_crash_keeps_its_reason_and_ends_what_was_said_of_the_run() {
    let mut it = situation("running");
    let reason = "low on memory".to_owned();
    let health = DaemonHealth::Degraded { reason };
    let saturation = Share::new(0.75).expect("finite");
    it.tell([
        lifecycle(1, DaemonSignal::HealthChanged(health.clone())),
        lifecycle(1, DaemonSignal::SaturationChanged(saturation)),
    ]);
    assert_eq!(
        (it.daemon(1).health.as_ref(), it.daemon(1).saturation),
        (Some(&health), saturation)
    );
    it.tell([crash(1, "boom")]);
    let known = it.daemon(1);
    assert_eq!(known.last_crash.as_ref().map(|(crash, _)| &*crash.reason), Some("boom"));
    assert_eq!((known.health.as_ref(), known.saturation), (None, Share::default()));
}

#[test]
fn a_crash_that_does_not_take_it_down_starts_nothing() {
    let mut it = situation("running");
    let crash = Crash::because("one event");
    let said = it.says([
        intent(1, Run),
        lifecycle(1, DaemonSignal::Crashed { crash, down: false }),
    ]);
    assert_eq!(said, [""; 0]);
    assert_eq!(it.daemon(1).lifecycle, Lifecycle::Running);
    assert_eq!(it.daemon(1).backoff.crashes(), 0);
}

#[test]
fn a_daemon_is_its_handle_and_the_newest_name_that_is_not_empty() {
    let mut it = Loop::new();
    let named = |name: &str| DaemonRef {
        id: Origin::new(1),
        name: Arc::from(name),
    };
    let tell = |name, signal| {
        Signal::Event(MeshOsEvent::DaemonLifecycle {
            daemon: named(name),
            signal,
            at: None,
        })
    };
    it.tell([
        tell("one", DaemonSignal::Started),
        tell("", DaemonSignal::ExitedCleanly),
    ]);
    assert_eq!(it.behaviour.view().daemons.len(), 1);
    let known = it.daemon(1);
    assert_eq!((&*known.daemon.name, known.lifecycle), ("one", Lifecycle::Stopped));
    it.tell([tell("two", DaemonSignal::Started)]);
    assert_eq!(&*it.daemon(1).daemon.name, "two");
}

fn registry(id: u64, signal: DaemonSignal, number: u64, it: &Loop) -> Signal {
    Signal::Registry {
        daemon: daemon(id),
        signal,
        at: it.now,
        number,
    }
}

fn roster(ids: &[(u64, bool)], number: u64) -> Signal {
    let daemons = ids.iter().map(|(id, down)| RosterEntry {
        daemon: daemon(*id),
        down: *down,
    });
    Signal::Roster {
        daemons: daemons.collect(),
        number,
    }
}

#[test]
fn a_daemon_that_is_registered_and_wanted_is_not_started() {
    let mut it = Loop::new();
    let started = registry(1, DaemonSignal::Started, 1, &it);
    assert_eq!(it.says([started, intent(1, Run)]), [""; 0]);
    let gone = registry(1, DaemonSignal::ExitedCleanly, 2, &it);
    assert_eq!(it.says([gone]), ["start 1"]);
}

#[test]
fn what_a_registry_told_before_is_not_folded_again() {
    let mut it = Loop::new();
    let started = registry(1, DaemonSignal::Started, 5, &it);
    it.tell([started]);
    for number in [4, 5] {
        let late = registry(1, DaemonSignal::ExitedCleanly, number, &it);
        it.tell([late]);
        assert_eq!(it.daemon(1).lifecycle, Lifecycle::Running);
    }
}

#[test]
fn the_roster_makes_up_for_what_got_lost() {
    // Told of the registry, what the roster says, and where the daemon is then.
    let table = [
        (None, vec![(1, false)], Some(Lifecycle::Running)),
        (None, vec![(1, true)], None),
        (None, vec![], None),
        (Some(DaemonSignal::Started), vec![(1, false)], Some(Lifecycle::Running)),
        (Some(DaemonSignal::Started), vec![(1, true)], Some(Lifecycle::Stopped)),
        (Some(DaemonSignal::Started), vec![], Some(Lifecycle::Stopped)),
        (
            Some(DaemonSignal::ExitedCleanly),
            vec![(1, false)],
            Some(Lifecycle::Running),
        ),
        (Some(DaemonSignal::ExitedCleanly), vec![], Some(Lifecycle::Stopped)),
    ];
    for (told, said, expected) in table {
        let mut it = Loop::new();
        if let Some(signal) = told.clone() {
            let signal = registry(1, signal, 1, &it);
            it.tell([signal]);
        }
        for _ in 0..2 {
            it.tell([roster(&said, 3)]);
            let known = it.behaviour.view().daemons.get(&Origin::new(1));
            assert_eq!(known.map(|known| known.lifecycle), expected, "{told:?}, {said:?}");
        }
    }
}

#[test]
fn a_daemon_that_only_a_roster_told_of_leaves_with_the_next() {
    let mut it = Loop::new();
    it.tell([roster(&[(1, false)], 3)]);
    assert_eq!(it.daemon(1).lifecycle, Lifecycle::Running);
    // It left, and what told of it was lost.
    it.tell([roster(&[], 5)]);
    assert_eq!(it.daemon(1).lifecycle, Lifecycle::Stopped);
    // One that no registry knows is nobody's business.
    it.tell([lifecycle(2, DaemonSignal::Started), roster(&[], 6)]);
    assert_eq!(it.daemon(2).lifecycle, Lifecycle::Running);
}

#[test]
fn a_roster_does_not_undo_what_is_newer() {
    let mut it = Loop::new();
    let started = registry(1, DaemonSignal::Started, 9, &it);
    it.tell([started, roster(&[], 8)]);
    assert_eq!(it.daemon(1).lifecycle, Lifecycle::Running);
}

#[test]
fn a_daemon_found_down_is_a_crash() {
    let mut it = Loop::with(steady());
    let started = registry(1, DaemonSignal::Started, 1, &it);
    it.tell([intent(1, Run), started]);
    assert_eq!(it.says([roster(&[(1, true)], 1)]), ["hold back 1 for 500"]);
}

#[test]
fn a_daemon_that_runs_without_an_intent_is_left_alone() {
    let mut it = situation("running");
    assert_eq!(it.says_after(s(7200)), [""; 0]);
    assert_eq!(it.daemon(1).lifecycle, Lifecycle::Running);
}

#[test]
fn supervision_follows_the_intent() {
    let mut it = Loop::new();
    let one = Origin::new(1);
    let supervise = |it: &mut Loop, signal| it.tell([signal]).supervise;
    assert_eq!(supervise(&mut it, intent(1, Run)), [(one, true)]);
    assert_eq!(supervise(&mut it, pinned(1, Run, Some(1))), [(one, true)]);
    for elsewhere in [pinned(1, Run, Some(2)), intent(1, Stop)] {
        assert_eq!(supervise(&mut it, lifecycle(1, DaemonSignal::Started)), []);
        // Until it has stopped: a stop by force loses what nobody keeps.
        assert_eq!(supervise(&mut it, elsewhere), [(one, true)]);
        assert_eq!(
            supervise(&mut it, lifecycle(1, DaemonSignal::ExitedCleanly)),
            [(one, false)]
        );
        assert_eq!(supervise(&mut it, intent(1, Run)), [(one, true)]);
    }
    // One that is down when it is no longer wanted has nobody left to start it.
    it.tell([lifecycle(1, DaemonSignal::Started), crash(1, "boom")]);
    assert_eq!(supervise(&mut it, intent(1, Stop)), [(one, false)]);
    // It goes on by itself then, and is to be stopped.
    let again = registry(1, DaemonSignal::Started, 1, &it);
    assert_eq!(supervise(&mut it, again), [(one, true)]);
    let forget = Signal::Event(MeshOsEvent::ForgetDaemon { daemon: one });
    assert_eq!(supervise(&mut it, forget), [(one, false)]);
    // Wanted before it came.
    let mut it = Loop::new();
    it.tell([intent(1, Run)]);
    let started = registry(1, DaemonSignal::Started, 1, &it);
    assert_eq!(supervise(&mut it, started), [(one, true)]);
}

#[test]
fn every_action_has_its_cause() {
    let mut it = Loop::new();
    let step = it.tell([intent(1, Run)]);
    let cause = &step.dispatches[0].cause;
    assert_eq!((cause.kind, &*cause.detail), (CauseKind::Event, "daemon_intent_update"));
    let mut it = situation("crashed");
    let step = it.tell([intent(1, Run)]);
    assert!(matches!(step.dispatches[0].action, MeshOsAction::ApplyBackoff { .. }));
    let step = it.after(Duration::from_millis(500));
    assert_eq!(step.dispatches[0].cause.kind, CauseKind::Timer);
    let mut it = situation("running");
    let daemon = Origin::new(1);
    it.tell([intent(1, Run)]);
    let step = it.tell([restart(daemon.get())]);
    let cause = &step.dispatches[0].cause;
    assert_eq!((cause.kind, cause.envelope_id), (CauseKind::Operator, Some([9; 16])));
}

#[test]
fn a_long_enough_run_lets_waits_start_over() {
    let mut it = Loop::with(steady());
    it.tell([intent(1, Run), lifecycle(1, DaemonSignal::Started), crash(1, "one")]);
    it.after(ms(500));
    it.tell([lifecycle(1, DaemonSignal::Started)]);
    assert_eq!(it.daemon(1).backoff.crashes(), 1);
    // The timer proves it: no event is needed.
    it.after(s(60));
    assert_eq!(it.daemon(1).backoff.crashes(), 0);
    it.end_all(&Outcome::Done);
    assert_eq!(it.says([crash(1, "two")]), ["hold back 1 for 500"]);
}

#[test]
fn crashes_that_are_told_late_or_from_the_future_count_when_they_can_have_been() {
    let mut it = situation("running");
    it.tell([intent(1, Run)]);
    let crash = |at| {
        Signal::Event(MeshOsEvent::DaemonLifecycle {
            daemon: daemon(1),
            signal: DaemonSignal::Crashed {
                crash: Crash::because("boom"),
                down: true,
            },
            at: Some(at),
        })
    };
    let future = it.now.plus(s(1000));
    // No time lies in the future: it counts as now.
    assert_eq!(it.says([crash(future)]), ["hold back 1 for 500"]);
    assert_eq!(it.daemon(1).stopped_at, Some(it.now));
}
