//! How a node leaves service and comes back.

use std::time::Duration;

use meshos_core::loop_config::MaintenanceConfig;
use meshos_core::maintenance::{Change, ControlEdge, Machine, MaintenanceSignal, Progress, Refused};
use meshos_core::maintenance_state::{MaintenancePhase, MaintenanceState};
use meshos_core::time::UnixMs;
use proptest::collection::vec;
use proptest::prelude::*;

use MaintenancePhase as Phase;
use MaintenanceSignal::{Drain, Enter, Exit, Observed};
use MaintenanceState as State;

/// Work is left of both sorts, and daemons are missing.
const BUSY: Progress = Progress {
    daemons_left: 2,
    replicas_left: 1,
    daemons_missing: 1,
};
const DONE: Progress = Progress {
    daemons_left: 0,
    replicas_left: 0,
    daemons_missing: 0,
};

fn at(ms: u64) -> UnixMs {
    UnixMs::new(ms)
}

/// Exit deadline after 600 ms, ramp of 300 ms.
fn config() -> MaintenanceConfig {
    MaintenanceConfig {
        exit_deadline: Duration::from_millis(600),
        recovery_ramp_window: Duration::from_millis(300),
        ..MaintenanceConfig::default()
    }
}

/// A state of a phase, since 100, with a deadline of 1000.
fn state(phase: Phase) -> State {
    let since = at(100);
    match phase {
        Phase::Active => State::Active,
        Phase::Entering => State::EnteringMaintenance {
            since,
            deadline: at(1000),
        },
        Phase::Maintenance => State::Maintenance { since },
        Phase::Exiting => State::ExitingMaintenance { since },
        Phase::DrainFailed => State::DrainFailed {
            since,
            reason: "it was told".into(),
        },
        Phase::Recovery => State::Recovery { since },
    }
}

/// A machine in a phase, which it came to by a drain; Active, it has nothing to come back from.
fn machine(phase: Phase, auto_exit: bool) -> Machine {
    Machine {
        state: state(phase),
        auto_exit: auto_exit && phase != Phase::Active,
        drain_told: phase != Phase::Active && phase != Phase::Recovery,
    }
}

fn due(machine: &Machine, now: u64, progress: &Progress) -> Option<State> {
    machine.due(at(now), progress, &config())
}

/// Takes a signal that is not refused.
fn take(machine: &mut Machine, signal: MaintenanceSignal, now: u64) -> Option<ControlEdge> {
    machine.signal(signal, at(now)).expect("a legal arc").control
}

/// Commits what is due and gives it back; what daemons hear.
fn go_on(machine: &mut Machine, now: u64, progress: &Progress) -> Option<ControlEdge> {
    let target = due(machine, now, progress).expect("something is due");
    take(machine, Observed(target), now)
}

fn signals() -> Vec<(String, MaintenanceSignal)> {
    let deadline = at(2000);
    let mut signals = vec![
        ("enter".to_owned(), Enter { deadline }),
        ("drain".to_owned(), Drain { deadline }),
        ("exit".to_owned(), Exit),
    ];
    signals.extend(Phase::ALL.map(|phase| (format!("observed {}", short(phase)), Observed(state(phase)))));
    signals
}

const fn short(phase: Phase) -> &'static str {
    match phase {
        Phase::Active => "active",
        Phase::Entering => "entering",
        Phase::Maintenance => "maintenance",
        Phase::Exiting => "exiting",
        Phase::DrainFailed => "failed",
        Phase::Recovery => "recovery",
    }
}

/// The outcome of every signal (rows) in every phase (columns). `-`: nothing is different; `=`: same phase;
/// `+` and a word: what daemons hear.
fn table(auto_exit: bool) -> String {
    let row = |name: &str, cells: [String; 6]| {
        let cells = cells.map(|cell| format!(" | {cell:<18}")).concat();
        format!("{name:<20}{cells}\n")
    };
    let mut printed = row("", Phase::ALL.map(|phase| short(phase).to_owned()));
    for (name, signal) in signals() {
        let outcome = |phase| {
            let before = machine(phase, auto_exit);
            let mut after = before.clone();
            match after.signal(signal.clone(), at(500)) {
                Ok(change) => {
                    assert_eq!((change.before, change.after), (phase, after.state.phase()));
                    assert_eq!(change.changed, before != after);
                    cell(change)
                }
                Err(Refused { from, to }) => {
                    assert_eq!(after, before, "a refusal changes nothing");
                    assert_eq!((from, short(to)), (phase, name.trim_start_matches("observed ")));
                    "refused".to_owned()
                }
            }
        };
        printed += &row(&name, Phase::ALL.map(outcome));
    }
    printed
}

fn cell(change: Change) -> String {
    let phase = match (change.changed, change.before == change.after) {
        (false, _) => "-",
        (true, true) => "=",
        (true, false) => short(change.after),
    };
    let heard = match change.control {
        Some(ControlEdge::DrainStart { .. }) => " + start",
        Some(ControlEdge::DrainFinish) => " + finish",
        Some(ControlEdge::Resume) => " + resume",
        None => "",
    };
    format!("{phase}{heard}")
}

fn without_padding(table: &str) -> Vec<Vec<&str>> {
    table
        .lines()
        .map(|line| line.split('|').map(str::trim).collect())
        .collect()
}

#[test]
fn every_signal_in_every_phase() {
    let printed = table(false);
    let expected = "\
                     | active           | entering             | maintenance | exiting           | failed           | recovery
enter                | entering + start | = + start            | -           | entering + start  | entering + start | entering + start
drain                | entering + start | = + start            | =           | entering + start  | entering + start | entering + start
exit                 | -                | exiting + resume     | exiting     | -                 | exiting          | -
observed active      | -                | refused              | refused     | refused           | refused          | active
observed entering    | entering + start | -                    | refused     | refused           | refused          | refused
observed maintenance | refused          | maintenance + finish | -           | refused           | maintenance      | refused
observed exiting     | refused          | refused              | exiting     | -                 | exiting          | refused
observed failed      | refused          | failed + finish      | failed      | refused           | -                | refused
observed recovery    | refused          | refused              | refused     | recovery + resume | refused          | -";
    assert_eq!(without_padding(&printed), without_padding(expected), "\n{printed}");
}

#[test]
fn every_signal_in_every_phase_of_a_drain_that_ends_by_itself() {
    let printed = table(true);
    let expected = "\
                     | active           | entering             | maintenance | exiting           | failed           | recovery
enter                | entering + start | = + start            | =           | entering + start  | entering + start | entering + start
drain                | entering + start | = + start            | -           | entering + start  | entering + start | entering + start
exit                 | -                | exiting + resume     | exiting     | =                 | exiting          | =
observed active      | -                | refused              | refused     | refused           | refused          | active
observed entering    | entering + start | -                    | refused     | refused           | refused          | refused
observed maintenance | refused          | maintenance + finish | -           | refused           | maintenance      | refused
observed exiting     | refused          | exiting + resume     | exiting     | -                 | exiting          | refused
observed failed      | refused          | failed + finish      | failed      | refused           | -                | refused
observed recovery    | refused          | refused              | refused     | recovery + resume | refused          | -";
    assert_eq!(without_padding(&printed), without_padding(expected), "\n{printed}");
}

/// What is due in every phase: while work is left, before the deadline and at it; then the same with nothing left.
#[test]
fn everything_that_is_due() {
    let mut printed = String::new();
    for phase in Phase::ALL {
        for auto_exit in [false, true] {
            if auto_exit && phase == Phase::Active {
                continue;
            }
            let machine = machine(phase, auto_exit);
            let deadline = machine.next_deadline(&config()).map_or(1000, UnixMs::get);
            let cells = [
                (deadline - 1, &BUSY),
                (deadline, &BUSY),
                (deadline - 1, &DONE),
                (deadline, &DONE),
            ]
            .map(|(now, progress)| {
                let target = due(&machine, now, progress);
                let since = target.as_ref().and_then(State::since);
                assert!(since.is_none_or(|since| since == at(now)), "it begins now");
                format!(" | {:<11}", target.map_or("-", |target| short(target.phase())))
            });
            let by_itself = if machine.auto_exit { " and back" } else { "" };
            printed += &format!("{:<20}{}\n", format!("{}{by_itself}", short(phase)), cells.concat());
        }
    }
    let expected = "\
active               | -       | -        | -           | -
entering             | -       | failed   | maintenance | maintenance
entering and back    | -       | exiting  | maintenance | maintenance
maintenance          | -       | -        | -           | -
maintenance and back | exiting | exiting  | exiting     | exiting
exiting              | -       | recovery | recovery    | recovery
exiting and back     | -       | recovery | recovery    | recovery
failed               | -       | -        | maintenance | maintenance
failed and back      | exiting | exiting  | exiting     | exiting
recovery             | -       | active   | -           | active
recovery and back    | -       | active   | -           | active";
    assert_eq!(without_padding(&printed), without_padding(expected), "\n{printed}");
}

#[test]
fn a_drain_and_the_way_back() {
    let mut node = Machine::default();
    let deadline = at(1000);
    assert_eq!(
        take(&mut node, Enter { deadline }, 100),
        Some(ControlEdge::DrainStart { deadline })
    );
    assert_eq!(go_on(&mut node, 200, &DONE), Some(ControlEdge::DrainFinish));
    assert_eq!(node.state, State::Maintenance { since: at(200) });
    assert_eq!(take(&mut node, Exit, 300), None);
    assert_eq!(due(&node, 300, &BUSY), None);
    assert_eq!(go_on(&mut node, 400, &DONE), Some(ControlEdge::Resume));
    assert_eq!(node.state, State::Recovery { since: at(400) });
    assert_eq!(due(&node, 699, &DONE), None);
    assert_eq!(go_on(&mut node, 700, &DONE), None);
    assert_eq!(node, Machine::default());
}

#[test]
fn a_node_without_work_is_drained_at_once() {
    let mut node = Machine::default();
    take(&mut node, Enter { deadline: at(100) }, 100);
    assert_eq!(due(&node, 100, &DONE), Some(State::Maintenance { since: at(100) }));
}

#[test]
fn one_daemon_or_one_replica_is_enough_to_wait() {
    let node = machine(Phase::Entering, false);
    for (daemons_left, replicas_left) in [(1, 0), (0, 1)] {
        let progress = Progress {
            daemons_left,
            replicas_left,
            ..DONE
        };
        assert_eq!(due(&node, 999, &progress), None);
    }
    let missing = Progress {
        daemons_missing: 5,
        ..DONE
    };
    assert!(
        due(&node, 999, &missing).is_some(),
        "who shall not run here is not missed"
    );
}

#[test]
fn a_failed_drain_says_how_long_it_took_and_what_was_left() {
    let Some(State::DrainFailed { since, reason }) = due(&machine(Phase::Entering, false), 1000, &BUSY) else {
        panic!("the deadline has passed");
    };
    assert_eq!(since, at(1000));
    assert_eq!(&*reason, "not drained after 900 ms: daemons left 2, replicas left 1");
}

#[test]
fn a_failed_drain_succeeds_late() {
    let mut node = machine(Phase::DrainFailed, false);
    assert_eq!(due(&node, 1_000_000, &BUSY), None);
    assert_eq!(go_on(&mut node, 1_000_001, &DONE), None);
    assert_eq!(node.state.phase(), Phase::Maintenance);
}

#[test]
fn a_drain_can_be_called_off() {
    let mut node = machine(Phase::Entering, false);
    assert_eq!(take(&mut node, Exit, 500), Some(ControlEdge::Resume));
    assert_eq!(node.state, State::ExitingMaintenance { since: at(500) });
    assert_eq!(go_on(&mut node, 600, &DONE), None, "they heard it already");
    assert_eq!(go_on(&mut node, 900, &DONE), None);
    assert_eq!(node, Machine::default());
}

#[test]
fn a_daemon_that_does_not_start_does_not_keep_the_node_out() {
    let node = machine(Phase::Exiting, false);
    assert_eq!(
        (due(&node, 699, &BUSY), node.is_overdue(at(699), &config())),
        (None, false)
    );
    assert_eq!(due(&node, 700, &BUSY), Some(State::Recovery { since: at(700) }));
    assert!(node.is_overdue(at(700), &config()));
    for phase in Phase::ALL.into_iter().filter(|phase| *phase != Phase::Exiting) {
        assert!(!machine(phase, false).is_overdue(at(1_000_000), &config()), "{phase:?}");
    }
}

#[test]
fn every_drain_has_a_deadline() {
    for signal in [Enter { deadline: at(2000) }, Drain { deadline: at(2000) }] {
        for phase in Phase::ALL.into_iter().filter(|phase| *phase != Phase::Maintenance) {
            let mut node = machine(phase, false);
            take(&mut node, signal.clone(), 500);
            assert_eq!(node.next_deadline(&config()), Some(at(2000)));
        }
    }
}

#[test]
fn a_drain_comes_back_by_itself() {
    // Drained in time.
    let mut node = Machine::default();
    take(&mut node, Drain { deadline: at(1000) }, 100);
    assert_eq!(go_on(&mut node, 200, &DONE), Some(ControlEdge::DrainFinish));
    assert_eq!(go_on(&mut node, 200, &BUSY), None);
    assert_eq!(node.state.phase(), Phase::Exiting);
    assert_eq!(go_on(&mut node, 300, &DONE), Some(ControlEdge::Resume));
    // Not drained in time.
    let mut node = Machine::default();
    take(&mut node, Drain { deadline: at(1000) }, 100);
    assert_eq!(go_on(&mut node, 1000, &BUSY), Some(ControlEdge::Resume));
    assert_eq!(node.state, State::ExitingMaintenance { since: at(1000) });
    assert_eq!(go_on(&mut node, 1000, &DONE), None);
    assert_eq!(go_on(&mut node, 1300, &DONE), None);
    assert_eq!(node, Machine::default(), "nothing is left of the drain");
}

#[test]
fn who_ordered_last_decides_whether_it_comes_back_by_itself() {
    for phase in Phase::ALL {
        for (signal, expected) in [
            (Enter { deadline: at(1000) }, false),
            (Drain { deadline: at(1000) }, true),
            (Exit, false),
        ] {
            let mut node = machine(phase, !expected);
            take(&mut node, signal, 500);
            assert_eq!(node.auto_exit, expected, "{phase:?}");
        }
    }
}

#[test]
fn a_new_deadline_replaces_the_old_one_and_is_told() {
    let mut node = machine(Phase::Entering, false);
    let (since, deadline) = (at(100), at(5000));
    assert_eq!(
        take(&mut node, Enter { deadline }, 500),
        Some(ControlEdge::DrainStart { deadline })
    );
    assert_eq!(node.state, State::EnteringMaintenance { since, deadline });
    assert_eq!(take(&mut node, Enter { deadline }, 600), None, "no news");
}

#[test]
fn a_transition_told_again_keeps_the_deadline_that_was_ordered_since() {
    let mut node = machine(Phase::Entering, false);
    take(&mut node, Enter { deadline: at(5000) }, 500);
    let expected = node.clone();
    assert_eq!(take(&mut node, Observed(state(Phase::Entering)), 600), None);
    assert_eq!(node, expected);
    // One that began later is another drain.
    let (since, deadline) = (at(200), at(1500));
    let later = State::EnteringMaintenance { since, deadline };
    assert_eq!(
        take(&mut node, Observed(later.clone()), 700),
        Some(ControlEdge::DrainStart { deadline })
    );
    assert_eq!(node.state, later);
}

#[test]
fn a_late_failure_does_not_undo_an_exit() {
    let mut node = machine(Phase::DrainFailed, false);
    take(&mut node, Exit, 500);
    let refused = node.signal(Observed(state(Phase::DrainFailed)), at(600));
    let (from, to) = (Phase::Exiting, Phase::DrainFailed);
    assert_eq!(refused, Err(Refused { from, to }));
    assert_eq!(
        Refused { from, to }.to_string(),
        "maintenance does not go from exiting_maintenance to drain_failed"
    );
}

#[test]
fn a_late_end_of_a_drain_does_not_undo_an_order_to_stay_out() {
    let mut node = machine(Phase::Entering, true);
    let target = due(&node, 1000, &BUSY).expect("the deadline has passed");
    take(&mut node, Enter { deadline: at(5000) }, 1001);
    assert!(node.signal(Observed(target), at(1002)).is_err());
    assert_eq!(node.state.phase(), Phase::Entering);
}

#[test]
fn a_deadline_at_the_end_of_time_is_no_trap() {
    let end = UnixMs::new(u64::MAX);
    let mut node = Machine::default();
    node.signal(Enter { deadline: end }, end).expect("legal");
    let overdue = Machine {
        state: State::ExitingMaintenance { since: end },
        ..node.clone()
    };
    assert_eq!(overdue.next_deadline(&config()), Some(end));
    assert!(matches!(
        node.due(end, &BUSY, &config()),
        Some(State::DrainFailed { .. })
    ));
}

fn any_state() -> impl Strategy<Value = State> {
    (0_usize..6, 0_u64..5000, 0_u64..5000).prop_map(|(phase, since, deadline)| {
        let (since, deadline) = (at(since), at(deadline));
        match Phase::ALL[phase] {
            Phase::Active => State::Active,
            Phase::Entering => State::EnteringMaintenance { since, deadline },
            Phase::Maintenance => State::Maintenance { since },
            Phase::Exiting => State::ExitingMaintenance { since },
            Phase::DrainFailed => State::DrainFailed {
                since,
                reason: "".into(),
            },
            Phase::Recovery => State::Recovery { since },
        }
    })
}

fn any_progress() -> impl Strategy<Value = Progress> {
    (0_u32..2, 0_u32..2, 0_u32..2).prop_map(|(daemons_left, replicas_left, daemons_missing)| Progress {
        daemons_left,
        replicas_left,
        daemons_missing,
    })
}

/// What happens: a signal, or that what is due is committed.
fn any_step() -> impl Strategy<Value = (Option<MaintenanceSignal>, u64, Progress)> {
    let deadline = || (0_u64..5000).prop_map(at);
    let signal = prop_oneof![
        1 => deadline().prop_map(|deadline| Some(Enter { deadline })),
        1 => deadline().prop_map(|deadline| Some(Drain { deadline })),
        1 => Just(Some(Exit)),
        3 => any_state().prop_map(|state| Some(Observed(state))),
        6 => Just(None),
    ];
    (signal, 0_u64..400, any_progress())
}

/// The arcs of the specification, those of orders, and the two that are ours.
const fn is_arc(from: Phase, to: Phase, signal: &MaintenanceSignal) -> bool {
    match signal {
        Enter { .. } | Drain { .. } => matches!(to, Phase::Entering) && !matches!(from, Phase::Maintenance),
        Exit => {
            matches!(from, Phase::Entering | Phase::Maintenance | Phase::DrainFailed) && matches!(to, Phase::Exiting)
        }
        Observed(_) => matches!(
            (from, to),
            (Phase::Active, Phase::Entering)
                | (
                    Phase::Entering,
                    Phase::Maintenance | Phase::DrainFailed | Phase::Exiting
                )
                | (Phase::Maintenance, Phase::Exiting | Phase::DrainFailed)
                | (Phase::DrainFailed, Phase::Exiting | Phase::Maintenance)
                | (Phase::Exiting, Phase::Recovery)
                | (Phase::Recovery, Phase::Active)
        ),
    }
}

proptest! {
    #[test]
    fn random_signals_take_only_arcs_and_end_every_drain_with_one_resume(steps in vec(any_step(), 0..60)) {
        let (mut node, mut now, mut draining) = (Machine::default(), 0, false);
        for (signal, pause, progress) in steps {
            now += pause;
            let was_due = signal.is_none();
            let Some(signal) = signal.or_else(|| due(&node, now, &progress).map(Observed)) else { continue };
            let before = node.clone();
            match node.signal(signal.clone(), at(now)) {
                Ok(change) => {
                    prop_assert!(change.before == change.after || is_arc(change.before, change.after, &signal));
                    match change.control {
                        Some(ControlEdge::DrainStart { deadline }) => {
                            let expected = matches!(node.state, State::EnteringMaintenance { deadline: known, .. }
                                if known == deadline);
                            prop_assert!(expected);
                            draining = true;
                        }
                        Some(ControlEdge::DrainFinish) => prop_assert!(draining),
                        Some(ControlEdge::Resume) => prop_assert!(std::mem::take(&mut draining)),
                        None => {}
                    }
                }
                Err(_) => {
                    prop_assert!(!was_due, "what is due is legal");
                    prop_assert_eq!(&node, &before);
                }
            }
            let in_service = matches!(node.state.phase(), Phase::Active | Phase::Recovery);
            prop_assert!(!(in_service && draining), "back in service, and daemons did not hear it");
            prop_assert_eq!(node.drain_told, draining);
            // Told again, nothing is different.
            let (settled, again) = (node.clone(), Observed(node.state.clone()));
            prop_assert_eq!(take(&mut node, again, now + 1), None);
            prop_assert_eq!(&node, &settled);
        }
    }

    #[test]
    fn what_is_due_changes_at_the_deadline_and_not_before(
        state in any_state(), auto_exit: bool, progress in any_progress(), times in vec(0_u64..10_000, 10),
    ) {
        let node = Machine { state, auto_exit, drain_told: true };
        let phase_due = |now| due(&node, now, &progress).map(|target| target.phase());
        let deadline = node.next_deadline(&config()).map(UnixMs::get);
        let idle = phase_due(0);
        for now in times.into_iter().chain(deadline).chain(deadline.and_then(|end| end.checked_sub(1))) {
            match deadline {
                Some(end) if now >= end => prop_assert!(phase_due(now).is_some()),
                _ if deadline != Some(0) => prop_assert_eq!(phase_due(now), idle),
                _ => {}
            }
        }
    }

    #[test]
    fn a_node_that_is_left_alone_comes_to_rest(state in any_state(), auto_exit: bool, progress in any_progress()) {
        let mut node = Machine { state, auto_exit, drain_told: true };
        // All deadlines of the generated states have passed.
        let mut now = 10_000;
        let mut steps = 0;
        while let Some(target) = due(&node, now, &progress) {
            take(&mut node, Observed(target), now);
            now += 1000;
            steps += 1;
            prop_assert!(steps <= 5, "it goes in circles");
        }
        prop_assert!(matches!(node.state.phase(), Phase::Active | Phase::Maintenance | Phase::DrainFailed));
        prop_assert!(!auto_exit || node.state.phase() == Phase::Active);
    }
}
