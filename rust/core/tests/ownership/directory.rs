//! What the directory decides: every signal in every phase, unique spawns, leases, takeovers.

use std::time::Duration;

use meshos_core::digest::Digest;
use meshos_core::directory::{Action, Directory, DirectoryConfig, Phase, Signal};
use meshos_core::id::EntityId;
use meshos_core::ownership::{Lineage, OwnershipRecord};
use meshos_core::ownership_frame::{Ask, Body, Unregistered};
use meshos_core::rows::Table;
use meshos_core::testing::samples::keypair;

const SECOND: Duration = Duration::from_secs(1);
const ASK: Ask = Ask { run: 9, number: 7 };

fn node(index: u8) -> EntityId {
    keypair(0x11 * (index + 1)).entity_id()
}

fn entity() -> EntityId {
    keypair(0x42).entity_id()
}

fn spawn_on(index: u8) -> OwnershipRecord {
    OwnershipRecord::spawn(&keypair(0x42), node(index), Digest::from_bytes([7; 32])).expect("whole")
}

fn spawn() -> OwnershipRecord {
    spawn_on(0)
}

fn restarted(record: &OwnershipRecord) -> OwnershipRecord {
    record
        .restarted(0, record.certificate.digest, &keypair(0x42))
        .expect("whole")
}

fn taken(record: &OwnershipRecord, to: u8) -> OwnershipRecord {
    record
        .taken_over(node(to), 0, record.certificate.digest, &keypair(0x33))
        .expect("whole")
}

fn lineage(records: &[OwnershipRecord]) -> Lineage {
    Lineage::verify(&entity(), records.to_vec(), &config().authorities).expect("good")
}

fn config() -> DirectoryConfig {
    DirectoryConfig {
        authorities: vec![keypair(0x33).entity_id()],
        entities_max: 2,
        ..DirectoryConfig::default()
    }
}

/// Leases end so long after they were granted.
fn lease() -> Duration {
    config().lease + config().skew
}

fn step(directory: &mut Directory, now: Duration, signal: Signal) -> Vec<Action> {
    let mut actions = Vec::new();
    directory.step(now, signal, &mut actions);
    actions
}

fn register(index: u8, records: &[OwnershipRecord]) -> Signal {
    Signal::Register {
        from: node(index),
        ask: ASK,
        lineage: lineage(records),
    }
}

fn renew(record: OwnershipRecord) -> Signal {
    Signal::Renew {
        from: record.node(),
        ask: ASK,
        record,
    }
}

fn take_over(to: u8) -> Signal {
    Signal::TakeOver {
        entity: entity(),
        to: node(to),
    }
}

fn ticket(actions: &[Action]) -> u64 {
    let kept = actions.iter().find_map(|action| match action {
        Action::Keep { ticket, .. } => Some(*ticket),
        _ => None,
    });
    kept.expect("something is to be kept")
}

fn said(actions: &[Action]) -> Option<(EntityId, &Body)> {
    actions.iter().find_map(|action| match action {
        Action::Send { to, frame } => {
            assert_eq!(frame.ask, ASK);
            Some((*to, &frame.body))
        }
        _ => None,
    })
}

fn empty() -> Directory {
    Directory::restore(Duration::ZERO, [], config())
}

/// A directory with the entity spawned on the first node, which renewed at one second.
fn held() -> Directory {
    let mut directory = empty();
    let kept = ticket(&step(&mut directory, SECOND, register(0, &[spawn()])));
    step(&mut directory, SECOND, Signal::Kept(kept));
    step(&mut directory, SECOND, renew(spawn()));
    directory
}

/// A directory where it is in a phase, and the ticket of what it is writing.
fn in_phase(phase: Phase) -> (Directory, u64) {
    let mut ticket_of = 0;
    let mut directory = if phase == Phase::Unknown { empty() } else { held() };
    let end = SECOND + lease();
    if phase == Phase::Keeping {
        ticket_of = ticket(&step(&mut directory, SECOND, renew(restarted(&spawn()))));
    }
    if matches!(phase, Phase::Ending | Phase::Ended | Phase::Installing) {
        step(&mut directory, SECOND, take_over(1));
    }
    if matches!(phase, Phase::Ended | Phase::Installing) {
        step(&mut directory, end, Signal::Timer);
    }
    if phase == Phase::Installing {
        let kept = ticket(&step(&mut directory, end, Signal::Take(taken(&spawn(), 1))));
        step(&mut directory, end, Signal::Kept(kept));
    }
    assert_eq!(directory.phase(&entity()), phase);
    (directory, ticket_of)
}

/// The table of the module: the phase after each signal, and what the first word of the answer is.
#[test]
fn table() {
    use Phase::{Ended, Ending, Held, Installing, Keeping, Unknown};
    type Make = Box<dyn Fn(&OwnershipRecord, u64) -> Signal>;
    // The record is the highest: the spawn, or the takeover while installing.
    type Row = (&'static str, Make, [(Phase, &'static str); 6]);
    let signals: [Row; 11] = [
        (
            "register",
            Box::new(|_, _| register(1, &[spawn_on(1)])),
            [
                (Keeping, "keep"),
                (Keeping, ""),
                (Held, "higher"),
                (Ending, "higher"),
                (Ended, "higher"),
                (Installing, "higher"),
            ],
        ),
        (
            "renew: highest",
            Box::new(|highest, _| renew(*highest)),
            [
                (Unknown, "unregistered"),
                (Keeping, ""),
                (Held, "lease"),
                (Ending, ""),
                (Ended, ""),
                (Held, "lease"),
            ],
        ),
        (
            "renew: next",
            Box::new(|highest, _| renew(restarted(highest))),
            [
                (Unknown, "unregistered"),
                (Keeping, ""),
                (Keeping, "keep"),
                (Ending, ""),
                (Ended, ""),
                (Keeping, "keep"),
            ],
        ),
        (
            "renew: one after the next",
            Box::new(|highest, _| renew(restarted(&restarted(highest)))),
            [
                (Unknown, "unregistered"),
                (Keeping, ""),
                (Held, "unregistered"),
                (Ending, ""),
                (Ended, ""),
                (Installing, ""),
            ],
        ),
        (
            "renew: lower, or another of the epoch",
            Box::new(|_, _| renew(spawn_on(2))),
            [
                (Unknown, "unregistered"),
                (Keeping, "higher"),
                (Held, "higher"),
                (Ending, "higher"),
                (Ended, "higher"),
                (Installing, "higher"),
            ],
        ),
        (
            "take over",
            Box::new(|_, _| take_over(2)),
            [
                (Unknown, "refused"),
                (Keeping, "refused"),
                (Ending, ""),
                (Ending, ""),
                (Ended, "refused"),
                (Ending, ""),
            ],
        ),
        (
            "take",
            Box::new(|highest, _| Signal::Take(taken(highest, 1))),
            [
                (Unknown, "refused"),
                (Keeping, "refused"),
                (Held, "refused"),
                (Ending, "refused"),
                (Keeping, "keep"),
                (Installing, "refused"),
            ],
        ),
        (
            "give up",
            Box::new(|_, _| Signal::GiveUp(entity())),
            [
                (Unknown, "refused"),
                (Keeping, "refused"),
                (Held, "refused"),
                (Held, ""),
                (Held, ""),
                (Installing, "refused"),
            ],
        ),
        (
            "time",
            Box::new(|_, _| Signal::Timer),
            [
                (Unknown, ""),
                (Keeping, ""),
                (Held, ""),
                (Ended, "ended"),
                (Ended, ""),
                (Installing, "install"),
            ],
        ),
        (
            "kept",
            Box::new(|_, ticket| Signal::Kept(ticket)),
            [
                (Unknown, ""),
                (Held, "lease"),
                (Held, ""),
                (Ending, ""),
                (Ended, ""),
                (Installing, ""),
            ],
        ),
        (
            "failed",
            Box::new(|_, ticket| Signal::Failed(ticket)),
            [
                (Unknown, ""),
                (Keeping, ""),
                (Held, ""),
                (Ending, ""),
                (Ended, ""),
                (Installing, ""),
            ],
        ),
    ];
    for (name, signal, cells) in signals {
        for (phase, (after, word)) in Phase::ALL.into_iter().zip(cells) {
            let (mut directory, ticket) = in_phase(phase);
            let highest = directory.highest(&entity()).copied().unwrap_or_else(spawn);
            let actions = step(&mut directory, SECOND * 20, signal(&highest, ticket));
            let found = actions.iter().find_map(|action| match action {
                Action::Keep { .. } => Some("keep"),
                Action::LeaseEnded { .. } => Some("ended"),
                Action::Install(_) => Some("install"),
                Action::TakenOver(_) => None,
                Action::Refused { .. } => Some("refused"),
                Action::Send { frame, .. } => Some(match frame.body {
                    Body::Higher(_) => "higher",
                    Body::LeaseOk { .. } => "lease",
                    Body::Unregistered { .. } => "unregistered",
                    _ => "other",
                }),
            });
            let found = (directory.phase(&entity()), found.unwrap_or(""));
            assert_eq!(found, (after, word), "{phase:?} and {name}: {actions:?}");
        }
    }
}

#[test]
fn of_two_spawns_at_once_exactly_one_wins() {
    let mut directory = empty();
    let first = step(&mut directory, SECOND, register(0, &[spawn_on(0)]));
    assert_eq!(step(&mut directory, SECOND, register(1, &[spawn_on(1)])), []);
    // Nothing is answered before it is durable.
    assert!(matches!(&first[..], [Action::Keep { writes, .. }] if writes == &[spawn_on(0).write()]));
    let won = step(&mut directory, SECOND, Signal::Kept(ticket(&first)));
    let registered = Body::Registered {
        entity: entity(),
        epoch: 1,
    };
    assert_eq!(said(&won), Some((node(0), &registered)));
    let lost = step(&mut directory, SECOND, register(1, &[spawn_on(1)]));
    assert_eq!(said(&lost), Some((node(1), &Body::Higher(spawn_on(0)))));
    // The winner may ask again, since the answer may be lost; no more when it has renewed, since then it has lost all.
    let again = step(&mut directory, SECOND, register(0, &[spawn_on(0)]));
    assert_eq!(said(&again), Some((node(0), &registered)));
    step(&mut directory, SECOND, renew(spawn_on(0)));
    let again = step(&mut directory, SECOND, register(0, &[spawn_on(0)]));
    assert_eq!(said(&again), Some((node(0), &Body::Higher(spawn_on(0)))));
}

#[test]
fn a_takeover_waits_for_the_last_lease_and_the_skew() {
    let mut directory = held();
    assert_eq!(step(&mut directory, SECOND * 2, take_over(1)), []);
    assert_eq!(
        step(&mut directory, SECOND * 2, renew(spawn())),
        [],
        "nothing is renewed"
    );
    let end = SECOND + lease();
    assert_eq!(directory.wake_at(), Some(end));
    assert_eq!(step(&mut directory, end - Duration::from_nanos(1), Signal::Timer), []);
    let early = step(
        &mut directory,
        end - Duration::from_nanos(1),
        Signal::Take(taken(&spawn(), 1)),
    );
    assert!(matches!(
        &early[..],
        [Action::Refused {
            phase: Phase::Ending,
            ..
        }]
    ));
    let ended = step(&mut directory, end, Signal::Timer);
    let (record, to) = (spawn(), node(1));
    assert_eq!(ended, [Action::LeaseEnded { record, to }]);
    for wrong in [taken(&spawn(), 2), restarted(&spawn()), taken(&restarted(&spawn()), 1)] {
        let refused = step(&mut directory, end, Signal::Take(wrong));
        assert!(matches!(&refused[..], [Action::Refused { .. }]));
    }
    let record = taken(&spawn(), 1);
    assert_eq!(
        record.epoch(),
        3,
        "one epoch is left for what the lost owner wrote last"
    );
    let kept = step(&mut directory, end, Signal::Take(record));
    assert_eq!(
        step(&mut directory, end, renew(spawn())),
        [],
        "nothing is answered before it is durable"
    );
    let installed = step(&mut directory, end, Signal::Kept(ticket(&kept)));
    assert_eq!(installed, [Action::Install(record)]);
    let zombie = step(&mut directory, end, renew(spawn()));
    assert_eq!(said(&zombie), Some((node(0), &Body::Higher(record))));
    let at = directory.wake_at().expect("it installs again");
    assert_eq!(step(&mut directory, at, Signal::Timer), [Action::Install(record)]);
    let done = step(&mut directory, at, renew(record));
    assert!(done.contains(&Action::TakenOver(record)) && said(&done).is_some());
    assert_eq!((directory.phase(&entity()), directory.wake_at()), (Phase::Held, None));
}

#[test]
fn after_a_restart_everybody_may_have_a_lease() {
    let at = SECOND * 100;
    let mut directory = Directory::restore(at, [spawn()], config());
    step(&mut directory, at, take_over(1));
    assert_eq!(step(&mut directory, at + lease() - SECOND, Signal::Timer), []);
    assert_eq!(step(&mut directory, at + lease(), Signal::Timer).len(), 1);
    // A takeover may have been installed, and lost: it is not installed again.
    let record = taken(&spawn(), 1);
    let mut directory = Directory::restore(at, [record], config());
    assert_eq!(step(&mut directory, at, Signal::Timer), []);
    assert_eq!((directory.phase(&entity()), directory.wake_at()), (Phase::Held, None));
    assert!(matches!(
        said(&step(&mut directory, at, renew(record))),
        Some((_, Body::LeaseOk { .. }))
    ));
    // A spawn may have been renewed before: its owner would have lost what it did.
    let mut directory = Directory::restore(at, [spawn()], config());
    let again = step(&mut directory, at, register(0, &[spawn()]));
    assert_eq!(said(&again), Some((node(0), &Body::Higher(spawn()))));
}

#[test]
fn what_was_begun_to_be_written_is_written_to_the_end() {
    let mut directory = empty();
    let first = ticket(&step(&mut directory, SECOND, register(0, &[spawn_on(0)])));
    assert_eq!(step(&mut directory, SECOND, Signal::Failed(first)), []);
    assert_eq!(
        step(&mut directory, SECOND, register(1, &[spawn_on(1)])),
        [],
        "the first may be durable"
    );
    let at = directory.wake_at().expect("it tries again");
    let again = step(&mut directory, at, Signal::Timer);
    assert!(matches!(&again[..], [Action::Keep { writes, .. }] if writes == &[spawn_on(0).write()]));
    assert_eq!(step(&mut directory, at, Signal::Kept(first)), []);
    assert_eq!(step(&mut directory, at, Signal::Kept(ticket(&again))).len(), 1);
    assert_eq!((directory.counters().failed, directory.counters().late), (1, 1));
}

#[test]
fn a_lineage_is_taken_over_whole_and_goes_on_from_what_is_known() {
    let mut directory = empty();
    let records = [spawn(), restarted(&spawn())];
    let unknown = step(&mut directory, SECOND, renew(records[1]));
    let reason = Unregistered::Unknown;
    let expected = Body::Unregistered {
        entity: entity(),
        reason,
    };
    assert_eq!(said(&unknown), Some((node(0), &expected)));
    let kept = step(&mut directory, SECOND, register(0, &records));
    let rows = records.map(|record| record.write());
    assert!(matches!(&kept[..], [Action::Keep { writes, .. }] if writes == &rows));
    assert!(rows.iter().all(|row| row.table == Table::Ownership));
    step(&mut directory, SECOND, Signal::Kept(ticket(&kept)));
    // Two records more than are known.
    let longer = [
        records[0],
        records[1],
        restarted(&records[1]),
        restarted(&restarted(&records[1])),
    ];
    let kept = step(&mut directory, SECOND, register(0, &longer));
    assert!(matches!(&kept[..], [Action::Keep { writes, .. }] if writes.len() == 2));
    step(&mut directory, SECOND, Signal::Kept(ticket(&kept)));
    assert_eq!(directory.highest(&entity()), Some(&longer[3]));
    // Nobody comes to own by a takeover that the directory did not make, and nobody by a shorter lineage.
    let around = [spawn(), taken(&spawn(), 1)];
    let refused = step(&mut directory, SECOND, register(1, &around));
    assert_eq!(said(&refused), Some((node(1), &Body::Higher(longer[3]))));
    let jumped = step(&mut directory, SECOND, renew(taken(&longer[3], 1)));
    assert_eq!(directory.highest(&entity()), Some(&longer[3]), "{jumped:?}");
}

#[test]
fn a_node_speaks_for_itself_alone_and_there_are_so_many_entities() {
    let mut directory = held();
    let foreign = Signal::Renew {
        from: node(1),
        ask: ASK,
        record: spawn(),
    };
    assert_eq!(step(&mut directory, SECOND, foreign), []);
    assert_eq!(step(&mut directory, SECOND, register(1, &[spawn_on(0)])), []);
    assert_eq!(directory.counters().foreign, 2);
    let others = [0x55, 0x66].map(|seed| {
        let pair = keypair(seed);
        let record = OwnershipRecord::spawn(&pair, node(0), Digest::from_bytes([7; 32])).expect("whole");
        Signal::Register {
            from: node(0),
            ask: ASK,
            lineage: Lineage::verify(&pair.entity_id(), vec![record], &[]).expect("good"),
        }
    });
    let [second, third] = others;
    ticket(&step(&mut directory, SECOND, second));
    let refused = step(&mut directory, SECOND, third);
    let reason = Unregistered::Full;
    let body = Body::Unregistered {
        entity: keypair(0x66).entity_id(),
        reason,
    };
    assert_eq!(said(&refused), Some((node(0), &body)));
    assert_eq!(directory.counters().full, 1);
}

#[test]
fn a_takeover_that_is_given_up_lets_the_owner_go_on() {
    for phase in [Phase::Ending, Phase::Ended] {
        let (mut directory, _) = in_phase(phase);
        assert_eq!(step(&mut directory, SECOND * 9, Signal::GiveUp(entity())), []);
        let renewed = step(&mut directory, SECOND * 9, renew(spawn()));
        assert!(matches!(said(&renewed), Some((_, Body::LeaseOk { epoch: 1, .. }))));
        assert_eq!(directory.wake_at(), None);
    }
}

#[test]
fn a_lineage_that_ends_with_a_takeover_begins_once() {
    let mut directory = empty();
    let records = [spawn(), taken(&spawn(), 1)];
    let registered = Body::Registered {
        entity: entity(),
        epoch: 3,
    };
    let kept = ticket(&step(&mut directory, SECOND, register(1, &records)));
    let actions = step(&mut directory, SECOND, Signal::Kept(kept));
    assert_eq!(said(&actions), Some((node(1), &registered)));
    // Its answer was lost.
    let again = step(&mut directory, SECOND, register(1, &records));
    assert_eq!(said(&again), Some((node(1), &registered)));
    // Once it was renewed, who registers it has lost what it did.
    step(&mut directory, SECOND, renew(records[1]));
    let late = step(&mut directory, SECOND, register(1, &records));
    assert_eq!(said(&late), Some((node(1), &Body::Higher(records[1]))));
}
