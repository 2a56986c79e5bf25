//! What an owner decides: every signal in every phase, and the leases.

use std::time::Duration;

use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::owner::{Action, Answer, Owner, OwnerConfig, Phase, Refused, Signal};
use meshos_core::ownership::OwnershipRecord;
use meshos_core::ownership_frame::{Ask, Body, Unregistered};
use meshos_core::testing::samples::keypair;

const SECOND: Duration = Duration::from_secs(1);
const RUN: u64 = 9;

fn me() -> EntityId {
    keypair(0x11).entity_id()
}

fn other() -> EntityId {
    keypair(0x22).entity_id()
}

/// Records of epochs 1 and 2 of this node, 3 of another, and 5 of this one again.
struct Records {
    spawn: OwnershipRecord,
    restart: OwnershipRecord,
    other: OwnershipRecord,
    mine: OwnershipRecord,
}

fn records() -> Records {
    let entity = keypair(0x42);
    let spawn = OwnershipRecord::spawn(&entity, me(), Digest::from_bytes([7; 32])).expect("whole");
    let digest = spawn.certificate.digest;
    let restart = spawn.restarted(0, digest, &entity).expect("whole");
    let other = spawn.taken_over(other(), 0, digest, &entity).expect("whole");
    let mine = other.taken_over(me(), 0, digest, &entity).expect("whole");
    Records {
        spawn,
        restart,
        other,
        mine,
    }
}

fn step(owner: &mut Owner, now: Duration, signal: Signal) -> Vec<Action> {
    let mut actions = Vec::new();
    owner.step(now, signal, &mut actions);
    actions
}

fn new(directory: bool) -> Owner {
    let config = OwnerConfig {
        directory,
        ..OwnerConfig::default()
    };
    Owner::new(me(), RUN, config)
}

fn ticket(actions: &[Action]) -> u64 {
    let kept = actions.iter().find_map(|action| match action {
        Action::Keep { ticket, .. } => Some(*ticket),
        _ => None,
    });
    kept.expect("something is to be kept")
}

fn ask(actions: &[Action]) -> Ask {
    let asked = actions.iter().find_map(|action| match action {
        Action::Send(frame) => Some(frame.ask),
        Action::RegisterLineage(ask) => Some(*ask),
        _ => None,
    });
    asked.expect("something is asked")
}

const fn answer(ask: Ask, answer: Answer) -> Signal {
    Signal::Answer { ask, answer }
}

const fn lease(epoch: u64) -> Answer {
    Answer::LeaseOk {
        epoch,
        lease: Duration::from_secs(3),
    }
}

/// An owner in a phase, with the last request and the last ticket of it.
fn in_phase(phase: Phase) -> (Owner, Ask, u64) {
    let records = records();
    let mut owner = new(true);
    let nothing = Ask { run: RUN, number: 0 };
    let recover = Signal::Recover {
        record: records.spawn,
        restart: None,
    };
    let found = match phase {
        Phase::Unknown => (nothing, 0),
        Phase::Registering => (ask(&step(&mut owner, SECOND, Signal::Spawn(records.spawn))), 0),
        Phase::Keeping => {
            let asked = ask(&step(&mut owner, SECOND, Signal::Spawn(records.spawn)));
            let registered = answer(asked, Answer::Registered { epoch: 1 });
            (asked, ticket(&step(&mut owner, SECOND, registered)))
        }
        Phase::Asking => (ask(&step(&mut owner, SECOND, recover)), 0),
        Phase::Active => {
            let asked = ask(&step(&mut owner, SECOND, recover));
            step(&mut owner, SECOND, answer(asked, lease(1)));
            (asked, 0)
        }
        Phase::Fenced => {
            step(&mut owner, SECOND, recover);
            let actions = step(&mut owner, SECOND, Signal::Heard(records.other));
            (nothing, ticket(&actions))
        }
    };
    assert_eq!(owner.phase(), phase);
    (owner, found.0, found.1)
}

/// The table of the module: the phase after each signal, and whether the node must have stopped.
#[test]
fn table() {
    use Phase::{Active, Asking, Fenced, Keeping, Registering, Unknown};
    let Records { spawn, other, mine, .. } = records();
    let recover = Signal::Recover {
        record: spawn,
        restart: None,
    };
    type Make = Box<dyn Fn(Ask, u64) -> Signal>;
    let signals: [(&str, Make, [Phase; 6]); 13] = [
        (
            "spawn",
            Box::new(move |_, _| Signal::Spawn(spawn)),
            [Registering, Registering, Keeping, Asking, Active, Fenced],
        ),
        (
            "recover",
            Box::new(move |_, _| recover.clone()),
            [Asking, Registering, Keeping, Asking, Active, Fenced],
        ),
        (
            "registered",
            Box::new(|ask, _| answer(ask, Answer::Registered { epoch: 1 })),
            [Unknown, Keeping, Keeping, Asking, Active, Fenced],
        ),
        (
            "lease ok",
            Box::new(|ask, _| answer(ask, lease(1))),
            [Unknown, Registering, Keeping, Active, Active, Fenced],
        ),
        (
            "lease ok of another epoch",
            Box::new(|ask, _| answer(ask, lease(2))),
            [Unknown, Registering, Keeping, Asking, Active, Fenced],
        ),
        (
            "unknown",
            Box::new(|ask, _| answer(ask, Answer::Unregistered(Unregistered::Unknown))),
            [Unknown, Registering, Keeping, Asking, Active, Fenced],
        ),
        (
            "full",
            Box::new(|ask, _| answer(ask, Answer::Unregistered(Unregistered::Full))),
            [Unknown, Unknown, Keeping, Asking, Active, Fenced],
        ),
        (
            "higher: another",
            Box::new(move |ask, _| Signal::Higher { ask, record: other }),
            [Fenced; 6],
        ),
        (
            "heard: another",
            Box::new(move |_, _| Signal::Heard(other)),
            [Fenced; 6],
        ),
        ("heard: me", Box::new(move |_, _| Signal::Heard(mine)), [Fenced; 6]),
        (
            "install",
            Box::new(move |_, _| Signal::Install { run: RUN, record: mine }),
            [Keeping; 6],
        ),
        (
            "kept",
            Box::new(|_, ticket| Signal::Kept(ticket)),
            [Unknown, Registering, Asking, Asking, Active, Fenced],
        ),
        (
            "failed",
            Box::new(|_, ticket| Signal::Failed(ticket)),
            [Unknown, Registering, Keeping, Asking, Active, Fenced],
        ),
    ];
    for (name, signal, after) in signals {
        for (phase, after) in Phase::ALL.into_iter().zip(after) {
            let (mut owner, ask, ticket) = in_phase(phase);
            let ran = owner.may_process(SECOND * 2);
            let actions = step(&mut owner, SECOND * 2, signal(ask, ticket));
            assert_eq!(owner.phase(), after, "{phase:?} and {name}");
            let runs = owner.may_process(SECOND * 2);
            assert_eq!(runs, after == Active, "{phase:?} and {name}");
            assert_eq!(actions.contains(&Action::Stop), ran && !runs, "{phase:?} and {name}");
            assert!(actions.len() <= 2, "{phase:?} and {name}: {actions:?}");
        }
    }
}

#[test]
fn what_is_late_changes_nothing_and_is_counted() {
    for phase in Phase::ALL {
        let (mut owner, _, _) = in_phase(phase);
        let before = owner.counters().late;
        let stranger = Ask {
            run: RUN - 1,
            number: 1,
        };
        for signal in [
            answer(stranger, lease(1)),
            answer(stranger, Answer::Registered { epoch: 1 }),
            answer(stranger, Answer::Unregistered(Unregistered::Full)),
            Signal::Kept(99),
            Signal::Failed(99),
        ] {
            assert_eq!(step(&mut owner, SECOND * 2, signal), [], "{phase:?}");
        }
        assert_eq!((owner.phase(), owner.counters().late), (phase, before + 5));
    }
}

#[test]
fn a_lease_counts_from_when_it_was_asked_for_less_the_margin() {
    let (mut owner, asked, _) = in_phase(Phase::Asking);
    step(&mut owner, SECOND * 2, answer(asked, lease(1)));
    let end = SECOND * 4 - OwnerConfig::default().margin;
    let just_before = end - Duration::from_nanos(1);
    assert!(owner.may_process(just_before) && owner.may_acknowledge(just_before, 1));
    assert!(!owner.may_process(end) && !owner.may_acknowledge(end, 1));
    assert!(!owner.may_acknowledge(just_before, 2), "of another epoch");
    // It asks again on its own, and goes on when it is answered.
    let at = owner.wake_at().expect("it renews");
    assert!(at < end);
    let again = ask(&step(&mut owner, at, Signal::Timer));
    assert_eq!(step(&mut owner, end, answer(again, lease(1))), [Action::Resume]);
    assert!(owner.may_process(end));
    // A repeated old answer does not shorten it.
    assert_eq!(step(&mut owner, end, answer(asked, lease(1))), []);
    assert!(owner.may_process(end));
    assert_eq!(owner.counters().lapses, 1);
}

#[test]
fn an_answer_that_comes_after_its_lease_is_of_no_use() {
    let (mut owner, asked, _) = in_phase(Phase::Asking);
    assert_eq!(step(&mut owner, SECOND * 9, answer(asked, lease(1))), []);
    assert_eq!((owner.phase(), owner.counters().late), (Phase::Asking, 1));
}

#[test]
fn a_record_naming_this_node_is_adopted_with_its_state_only() {
    let Records { mine, other, .. } = records();
    let (mut owner, _, _) = in_phase(Phase::Active);
    assert_eq!(step(&mut owner, SECOND * 2, Signal::Heard(mine)), [Action::Stop]);
    assert_eq!((owner.phase(), owner.counters().hearsay), (Phase::Fenced, 1));
    assert_eq!(owner.elsewhere(), None);
    let earlier = Signal::Install {
        run: RUN - 1,
        record: mine,
    };
    assert_eq!(
        step(&mut owner, SECOND * 2, earlier),
        [],
        "this run may have lost what it is about"
    );
    let actions = step(&mut owner, SECOND * 2, Signal::Install { run: RUN, record: mine });
    assert!(matches!(&actions[..], [Action::Keep { record, .. }] if *record == mine));
    let renewed = step(&mut owner, SECOND * 2, Signal::Kept(ticket(&actions)));
    assert!(matches!(&renewed[..], [Action::Send(frame)] if frame.body == Body::Renew(mine)));
    step(&mut owner, SECOND * 2, answer(ask(&renewed), lease(5)));
    assert_eq!(owner.active().map(OwnershipRecord::epoch), Some(5));
    // The directory goes on installing until it hears of it.
    let again = step(&mut owner, SECOND * 2, Signal::Install { run: RUN, record: mine });
    assert!(matches!(&again[..], [Action::Send(frame)] if frame.body == Body::Renew(mine)));
    assert_eq!(
        step(
            &mut owner,
            SECOND * 2,
            Signal::Install {
                run: RUN,
                record: other
            }
        ),
        [],
        "it names another"
    );
    assert_eq!(owner.phase(), Phase::Active);
}

#[test]
fn senders_are_told_of_another_owner_when_that_is_durable() {
    let Records { other, .. } = records();
    let (mut owner, _, ticket) = in_phase(Phase::Fenced);
    assert_eq!(owner.elsewhere(), None);
    step(&mut owner, SECOND * 2, Signal::Kept(ticket));
    assert_eq!(owner.elsewhere(), Some(&other));
    let refused = Refused::AlreadyOwned {
        node: other.node(),
        epoch: 3,
    };
    let again = step(&mut owner, SECOND * 2, Signal::Spawn(records().spawn));
    assert_eq!(again, [Action::Refused(refused)]);
}

#[test]
fn who_lost_what_it_did_begins_the_next_epoch_first() {
    let Records { spawn, restart, .. } = records();
    let recover = Signal::Recover {
        record: spawn,
        restart: Some(Box::new(restart)),
    };
    // The directory confirms the record before the next is written.
    let mut owner = new(true);
    let asked = step(&mut owner, SECOND, recover.clone());
    assert!(matches!(&asked[..], [Action::Send(frame)] if frame.body == Body::Renew(spawn)));
    let kept = step(&mut owner, SECOND, answer(ask(&asked), lease(1)));
    assert!(matches!(&kept[..], [Action::Keep { record, .. }] if *record == restart));
    assert!(!owner.may_process(SECOND));
    let asked = step(&mut owner, SECOND, Signal::Kept(ticket(&kept)));
    assert_eq!(owner.phase(), Phase::Asking);
    let active = step(&mut owner, SECOND, answer(ask(&asked), lease(2)));
    assert_eq!(active, [Action::Activate { epoch: 2 }]);
    // Without one it is written at once.
    let mut owner = new(false);
    let kept = step(&mut owner, SECOND, recover);
    assert_eq!(owner.phase(), Phase::Keeping);
    let active = step(&mut owner, SECOND, Signal::Kept(ticket(&kept)));
    assert_eq!(active, [Action::Activate { epoch: 2 }]);
    assert!(owner.may_process(Duration::from_secs(1 << 40)));
}

#[test]
fn the_store_decides_where_a_node_begins() {
    let Records { spawn, other, .. } = records();
    let recover = |record| Signal::Recover { record, restart: None };
    let mut owner = new(false);
    assert_eq!(
        step(&mut owner, SECOND, recover(spawn)),
        [Action::Activate { epoch: 1 }]
    );
    for directory in [false, true] {
        let mut owner = new(directory);
        assert_eq!(step(&mut owner, SECOND, recover(other)), []);
        assert_eq!((owner.phase(), owner.elsewhere()), (Phase::Fenced, Some(&other)));
    }
    let mut owner = new(true);
    assert!(matches!(
        &step(&mut owner, SECOND, recover(spawn))[..],
        [Action::Send(_)]
    ));
    assert!(!owner.may_process(SECOND));
}

#[test]
fn a_write_that_failed_is_tried_again_until_it_is_kept() {
    let (mut owner, _, first) = in_phase(Phase::Keeping);
    assert_eq!(step(&mut owner, SECOND, Signal::Failed(first)), []);
    let at = owner.wake_at().expect("it tries again");
    let second = ticket(&step(&mut owner, at, Signal::Timer));
    assert_eq!(step(&mut owner, at, Signal::Kept(first)), [], "of the try that failed");
    assert!(matches!(
        &step(&mut owner, at, Signal::Kept(second))[..],
        [Action::Send(_)]
    ));
    assert_eq!((owner.phase(), owner.counters().failed), (Phase::Asking, 1));
}

#[test]
fn an_owner_that_has_lost_what_it_did_is_refused_by_its_own_record() {
    let Records { spawn, .. } = records();
    let (mut owner, asked, _) = in_phase(Phase::Registering);
    // Whoever shows it proves nothing: the answer to the registration may be lost.
    assert_eq!(step(&mut owner, SECOND, Signal::Heard(spawn)), []);
    assert_eq!(owner.phase(), Phase::Registering);
    let refused = Refused::AlreadyOwned { node: me(), epoch: 1 };
    let actions = step(
        &mut owner,
        SECOND,
        Signal::Higher {
            ask: asked,
            record: spawn,
        },
    );
    assert_eq!(actions, [Action::Refused(refused)]);
    assert_eq!(owner.phase(), Phase::Fenced);
}

#[test]
fn a_directory_that_knows_nothing_is_given_the_lineage() {
    let (mut owner, asked, _) = in_phase(Phase::Active);
    let unknown = Answer::Unregistered(Unregistered::Unknown);
    let actions = step(&mut owner, SECOND, answer(asked, unknown));
    assert!(matches!(&actions[..], [Action::RegisterLineage(_)]));
    let actions = step(
        &mut owner,
        SECOND,
        answer(ask(&actions), Answer::Registered { epoch: 1 }),
    );
    assert!(matches!(&actions[..], [Action::Send(frame)] if frame.body == Body::Renew(records().spawn)));
}

#[test]
fn an_entity_that_spoke_elsewhere_begins_with_a_whole_lineage() {
    let records = records();
    let taken = records
        .spawn
        .taken_over(me(), 0, records.spawn.certificate.digest, &keypair(0x42))
        .expect("whole");
    let mut owner = new(true);
    let actions = step(&mut owner, SECOND, Signal::Spawn(taken));
    assert!(matches!(&actions[..], [Action::RegisterLineage(_)]));
    let first = answer(ask(&actions), Answer::Registered { epoch: 1 });
    assert!(step(&mut owner, SECOND, first).is_empty());
    let epoch = taken.epoch();
    let actions = step(&mut owner, SECOND, answer(ask(&actions), Answer::Registered { epoch }));
    assert!(matches!(&actions[..], [Action::Keep { record, .. }] if *record == taken));
    assert_eq!((owner.phase(), owner.fence()), (Phase::Keeping, Some(&taken)));
}

#[test]
fn of_several_owners_of_a_run_none_takes_an_answer_to_another() {
    let spawn = Signal::Spawn(records().spawn);
    let asked = ask(&step(&mut new(true), SECOND, spawn.clone()));
    let mut owner = new(true).numbered_after(1 << 32);
    let own = ask(&step(&mut owner, SECOND, spawn));
    assert_ne!(asked, own);
    let registered = Answer::Registered { epoch: 1 };
    assert!(step(&mut owner, SECOND, answer(asked, registered)).is_empty());
    assert!(!step(&mut owner, SECOND, answer(own, registered)).is_empty());
}
