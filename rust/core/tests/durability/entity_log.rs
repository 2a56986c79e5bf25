//! The log of an entity: read from any place, appended to, pruned.

use meshos_core::certificate::Reason;
use meshos_core::chain::{BrokenKind, ChainError};
use meshos_core::codec::Fault;
use meshos_core::continuity::{Genesis, Point};
use meshos_core::digest::Digest;
use meshos_core::entity_log::{AppendError, EntityLog, Event, LogError, LogIndex, PruneError};
use meshos_core::id::Origin;
use meshos_core::link::CausalLink;
use meshos_core::rows::{Table, Write};
use meshos_core::store::{Damage, Store, StoreError};
use meshos_core::testing::random::SplitMix64;
use meshos_core::testing::samples;
use meshos_core::verify::verify;
use proptest::prelude::*;

use crate::shelf::Shelf;

fn all(events: meshos_core::entity_log::Events<'_>) -> Vec<Event> {
    events.collect::<Result<_, _>>().expect("nothing is damaged")
}

fn origin(shelf: &Shelf) -> Origin {
    shelf.key.entity_id().origin()
}

/// What a range of a vector has, of a log that begins after `base`.
fn of_vector(shelf: &Shelf, base: usize, first: u64, last: u64) -> Vec<Event> {
    let events = shelf.events[base..].iter();
    events
        .filter(|event| (first..=last).contains(&event.link.sequence))
        .cloned()
        .collect()
}

fn compare(shelf: &Shelf, base: usize, random: &mut SplitMix64) {
    let log = shelf.log();
    let head = shelf.events.len();
    assert_eq!((log.base(), log.head()), (shelf.at(base), shelf.at(head)));
    assert_eq!((log.len(), log.is_empty()), ((head - base) as u64, head == base));
    for _ in 0..6 {
        let (first, last) = (random.below(head + 3) as u64, random.below(head + 3) as u64);
        assert_eq!(all(log.range(first, last)), of_vector(shelf, base, first, last));
        assert_eq!(all(log.after_event(first)), of_vector(shelf, base, first + 1, u64::MAX));
        let one = of_vector(shelf, base, first, first).pop();
        assert_eq!(log.event(first), Ok(one));
        let known = (base as u64..=head as u64).contains(&first);
        let digest = known.then(|| shelf.digests[usize::try_from(first).expect("small")]);
        assert_eq!(log.digest_at(first), Ok(digest));
    }
    assert_eq!(all(log.after_event(u64::MAX)), vec![]);
    let events = all(log.range(0, u64::MAX));
    assert_eq!(events, of_vector(shelf, base, 0, u64::MAX));
    let whole = log.assess().expect("what is signed holds");
    assert!(whole.is_whole(), "{whole:?}");
    // A stranger with the public key comes to the same.
    let events: Vec<_> = events.iter().map(|event| (event.link, &event.payload[..])).collect();
    let (certificates, checkpoints) = shelf.signed();
    let report = verify(&events, &checkpoints, &certificates, &shelf.key.entity_id(), &[]).expect("proven");
    assert!(events.is_empty() || report.digest == log.head().digest);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_log_follows_a_vector(seed: u64) {
        let mut random = SplitMix64::new(seed);
        let mut shelf = if seed.is_multiple_of(3) { Shelf::fork() } else { Shelf::new(0x61) };
        let node = samples::keypair(0x62);
        shelf.certify(&node, 0, Reason::Spawn);
        let (mut base, mut signed, mut snapshot) = (0, vec![0], 0);
        for _ in 0..24 {
            match random.below(5) {
                0 => {
                    shelf.row(1 + random.below(9));
                }
                1 => {
                    // What is appended to the log itself is read like the rest, and kept as a row.
                    let kept = shelf.events.len();
                    for _ in 0..=random.below(4) {
                        shelf.emit(b"appended");
                    }
                    let mut log = shelf.log();
                    for event in &shelf.events[kept..] {
                        let digest = log.append(event.link, event.payload.clone());
                        prop_assert_eq!(digest, Ok(shelf.digests[usize::try_from(event.link.sequence).expect("small")]));
                    }
                    prop_assert_eq!(all(log.range(0, u64::MAX)), of_vector(&shelf, base, 0, u64::MAX));
                    prop_assert_eq!(log.head(), shelf.at(shelf.events.len()));
                    prop_assert!(log.assess().expect("what is signed holds").is_whole());
                    let writes = log.writes();
                    prop_assert_eq!(writes.len(), 1);
                    shelf.keep();
                    let kept = shelf.store.get(Table::Outputs, &writes[0].key);
                    prop_assert_eq!(kept, Ok(writes[0].value.clone()), "the same row");
                }
                2 => {
                    let at = base + random.below(shelf.events.len() - base + 1);
                    if !signed.contains(&at) {
                        shelf.sign(&node, at);
                        signed.push(at);
                    }
                }
                3 => {
                    snapshot = shelf.events.len();
                    shelf.snapshot_at(snapshot);
                }
                _ => {
                    let through = random.below(shelf.events.len() + 3);
                    let may = |at: usize| signed.contains(&at) && base < at && at <= snapshot;
                    let nearest = (base..=through).rev().find(|at| may(*at)).unwrap_or(base) as u64;
                    let pruned = shelf.prune(through as u64);
                    if through <= base {
                        prop_assert_eq!(pruned, Ok(0));
                    } else if may(through) {
                        prop_assert_eq!(pruned, Ok((through - base) as u64));
                        base = through;
                    } else if through > snapshot {
                        let (through, snapshot) = (through as u64, snapshot as u64);
                        let needed = PruneError::Needed { origin: origin(&shelf), through, snapshot, nearest };
                        prop_assert_eq!(pruned, Err(needed));
                    } else {
                        let through = through as u64;
                        let unprovable = PruneError::Unprovable { origin: origin(&shelf), through, nearest };
                        prop_assert_eq!(pruned, Err(unprovable));
                    }
                }
            }
            compare(&shelf, base, &mut random);
        }
    }
}

#[test]
fn any_place_is_read_with_one_seek() {
    let mut shelf = Shelf::new(0x63);
    for _ in 0..3000 {
        shelf.row(3);
    }
    shelf.store.reset();
    let log = shelf.log();
    let seen = || (shelf.store.seeks.replace(0), shelf.store.rows.replace(0));
    assert_eq!(seen(), (2, 2), "open");
    for place in [1, 2, 3, 4500, 8999, 9000] {
        log.event(place).expect("readable").expect("there");
        assert_eq!(seen(), (1, 1), "event {place}");
        log.digest_at(place).expect("readable").expect("there");
        assert_eq!(seen(), (1, 1), "digest at {place}");
        assert_eq!(log.range(place, place).count(), 1);
        assert_eq!(seen(), (1, 1), "range of one at {place}");
        assert_eq!(log.after_event(place - 1).next().map(|event| event.is_ok()), Some(true));
        assert_eq!(seen(), (1, 1), "first event behind {place}");
    }
    for nowhere in [0, 9001, u64::MAX] {
        assert_eq!(log.event(nowhere), Ok(None));
        assert_eq!(log.range(nowhere.max(9001), u64::MAX).count(), 0);
        assert_eq!(seen(), (0, 0), "nothing is looked for at {nowhere}");
    }
    // As many rows as have events of the range, in few pages.
    for (first, last) in [(1, 9000), (2, 8999), (4000, 4299), (8990, 9000)] {
        assert_eq!(log.range(first, last).count() as u64, last - first + 1);
        let (seeks, rows) = seen();
        let spanned = usize::try_from((last - 1) / 3 - (first - 1) / 3 + 1).expect("small");
        assert_eq!(rows, spanned, "{first} to {last}");
        assert!(seeks <= 7 + spanned / 64, "{first} to {last}: {seeks} seeks");
    }
    assert!(log.assess().expect("readable").is_whole());
    assert_eq!(
        shelf.store.largest.get(),
        64,
        "however much is read, a page is all that is held"
    );
}

#[test]
fn opening_costs_the_same_however_long_the_log_is() {
    for rows in [0, 1, 2, 500] {
        let mut shelf = Shelf::new(0x64);
        for _ in 0..rows {
            shelf.row(2);
        }
        shelf.store.reset();
        assert_eq!(shelf.log().len(), 2 * rows);
        assert!(shelf.store.seeks.get() <= 4);
        assert!(shelf.store.rows.get() <= 2);
    }
}

#[test]
fn an_event_is_appended_only_behind_the_head() {
    let mut shelf = Shelf::new(0x65);
    for _ in 0..4 {
        shelf.emit(b"x");
    }
    let mut log = EntityLog::new(shelf.genesis);
    assert_eq!(
        (log.base(), log.head(), log.is_empty()),
        (shelf.at(0), shelf.at(0), true)
    );
    for event in &shelf.events[..2] {
        log.append(event.link, event.payload.clone()).expect("it follows");
    }
    let broken = |kind, sequence, expected, found| {
        Err(AppendError::Chain(ChainError::Broken {
            kind,
            origin: origin(&shelf),
            sequence,
            expected,
            found,
        }))
    };
    let (third, fourth) = (shelf.events[2].link, shelf.events[3].link);
    let other = CausalLink {
        origin: Origin::new(9),
        ..third
    };
    let own = origin(&shelf).get();
    assert_eq!(log.append(other, vec![]), broken(BrokenKind::WrongOrigin, 3, own, 9));
    assert_eq!(log.append(fourth, vec![]), broken(BrokenKind::Gap, 4, 3, 4));
    let orphan = CausalLink { parent: 5, ..third };
    let parent = shelf.digests[2].head8();
    assert_eq!(log.append(orphan, vec![]), broken(BrokenKind::Altered, 3, parent, 5));
    for sequence in [0, 1, 2] {
        let old = CausalLink { sequence, ..third };
        let duplicate = AppendError::Duplicate {
            origin: origin(&shelf),
            sequence,
            head: 2,
        };
        assert_eq!(log.append(old, vec![]), Err(duplicate));
        assert!(
            duplicate
                .to_string()
                .contains(&format!("event {sequence} is a duplicate"))
        );
    }
    assert_eq!(log.head(), shelf.at(2), "nothing that was refused had an effect");
    assert_eq!(log.append(third, b"x".to_vec()), Ok(shelf.digests[3]));
    assert_eq!(log.event(3), Ok(Some(shelf.events[2].clone())));
}

#[test]
fn an_empty_log_knows_what_it_had() {
    let mut shelf = Shelf::new(0x66);
    let node = samples::keypair(0x67);
    shelf
        .certify(&node, 0, Reason::Spawn)
        .row(5)
        .sign(&node, 5)
        .snapshot_at(5);
    assert_eq!(shelf.prune(5), Ok(5));
    let mut restored = EntityLog::after(shelf.genesis, shelf.at(5));
    let mut opened = shelf.log();
    for log in [&mut restored, &mut opened] {
        assert_eq!(
            (log.base(), log.head(), log.is_empty()),
            (shelf.at(5), shelf.at(5), true)
        );
        for event in &shelf.events {
            let duplicate = AppendError::Duplicate {
                origin: origin(&shelf),
                sequence: event.link.sequence,
                head: 5,
            };
            assert_eq!(log.append(event.link, event.payload.clone()), Err(duplicate));
        }
    }
    let (kept, last) = (opened.digest_at(5), shelf.digests[5]);
    assert_eq!(kept, Ok(Some(last)));
}

#[test]
fn a_chain_ends_at_the_last_sequence_there_is() {
    let genesis = Genesis::of(samples::keypair(0x68).entity_id());
    let end = Point {
        sequence: u64::MAX,
        digest: Digest::from_bytes([3; 32]),
    };
    let mut log = EntityLog::after(genesis, end);
    let link = CausalLink {
        origin: log.origin(),
        horizon: 0,
        sequence: u64::MAX,
        parent: end.digest.head8(),
    };
    assert!(matches!(log.append(link, vec![]), Err(AppendError::Duplicate { .. })));
    assert_eq!(log.range(0, u64::MAX).count(), 0);
    assert_eq!(log.after_event(u64::MAX).count(), 0);
}

#[test]
fn a_fork_is_held_from_its_own_beginning() {
    let mut shelf = Shelf::fork();
    let mut log = EntityLog::new(shelf.genesis);
    assert!(log.genesis().is_fork());
    assert_eq!(log.base(), shelf.at(0));
    let first = shelf.emit(b"first").events[0].clone();
    assert_eq!(log.append(first.link, first.payload), Ok(shelf.digests[1]));
    // The plain genesis of the same entity is another beginning.
    let mut plain = EntityLog::new(Genesis::of(shelf.key.entity_id()));
    let refused = plain.append(first.link, vec![]);
    assert!(matches!(
        refused,
        Err(AppendError::Chain(ChainError::Broken {
            kind: BrokenKind::Altered,
            sequence: 1,
            ..
        }))
    ));
}

#[test]
fn a_log_is_pruned_only_where_something_signed_vouches() {
    let mut shelf = Shelf::new(0x69);
    let (first, second) = (samples::keypair(0x6a), samples::keypair(0x6b));
    shelf.certify(&first, 0, Reason::Spawn).row(4).row(4).sign(&first, 6);
    shelf.certify(&second, 8, Reason::Move).row(4).row(4).sign(&second, 14);
    let origin = origin(&shelf);
    let needed = |through, snapshot, nearest| {
        Err(PruneError::Needed {
            origin,
            through,
            snapshot,
            nearest,
        })
    };
    let unprovable = |through, nearest| {
        Err(PruneError::Unprovable {
            origin,
            through,
            nearest,
        })
    };
    assert_eq!(shelf.prune(6), needed(6, 0, 0), "without a snapshot nothing goes");
    shelf.snapshot_at(12);
    assert_eq!(shelf.prune(14), needed(14, 12, 8));
    assert_eq!(shelf.prune(99), needed(99, 12, 8));
    assert_eq!(shelf.prune(5), unprovable(5, 0));
    assert_eq!(shelf.prune(7), unprovable(7, 6));
    assert_eq!(shelf.prune(12), unprovable(12, 8));
    let text = unprovable(7, 6).map_err(|error: PruneError| error.to_string());
    let text: Result<u64, _> = text;
    assert!(text.is_err_and(|text| text.contains("vouches for event 7") && text.ends_with("is 6")));

    // In the middle of a row: the part that stays is a row of its own.
    assert_eq!(shelf.prune(6), Ok(6));
    assert_eq!(shelf.log().base(), shelf.at(6));
    assert_eq!(shelf.rows(Table::Outputs).len(), 3);
    assert_eq!(all(shelf.log().range(0, u64::MAX)), shelf.events[6..]);
    assert!(shelf.log().assess().expect("it holds").is_whole());
    assert_eq!(shelf.prune(3), Ok(0), "it begins later already");
    // Where a certificate begins, at the end of a row.
    assert_eq!(shelf.prune(8), Ok(2));
    assert_eq!(shelf.rows(Table::Outputs).len(), 2);
    assert!(shelf.log().assess().expect("it holds").is_whole());
    assert_eq!(shelf.prune(11), unprovable(11, 8));
}

#[test]
fn a_log_that_is_not_what_was_signed_is_not_pruned() {
    let mut shelf = Shelf::new(0x6c);
    let node = samples::keypair(0x6d);
    shelf.certify(&node, 0, Reason::Spawn).row(4).snapshot_at(4);
    let digest = std::mem::replace(&mut shelf.digests[3], Digest::from_bytes([1; 32]));
    shelf.sign(&node, 3);
    let refused = PruneError::Log(LogError::Chain(ChainError::Broken {
        kind: BrokenKind::Altered,
        origin: origin(&shelf),
        sequence: 3,
        expected: shelf.digests[3].head8(),
        found: digest.head8(),
    }));
    assert_eq!(shelf.prune(3), Err(refused));
    let unprovable = PruneError::Unprovable {
        origin: origin(&shelf),
        through: 4,
        nearest: 0,
    };
    assert_eq!(shelf.prune(4), Err(unprovable), "the bad position is no help");
}

#[test]
fn damage_has_its_place() {
    let build = || {
        let mut shelf = Shelf::new(0x6e);
        shelf.row(3).row(3).row(3);
        shelf
    };
    let entity = build().key.entity_id();
    let table = Table::Outputs;
    let flipped = |row: usize, at: usize| {
        let mut shelf = build();
        let (key, mut value) = shelf.rows(table).remove(row);
        let at = at.min(value.len() - 1);
        value[at] ^= 1;
        shelf.write(vec![Write::put(table, key, value)]);
        shelf
    };
    // In the payloads of the second row: what is before it is read, then comes the error, then nothing.
    let shelf = flipped(1, 60);
    let read: Vec<_> = shelf.log().range(1, 9).collect();
    assert_eq!(read.len(), 4);
    assert!(read[..3].iter().all(Result::is_ok));
    let Err(LogError::Store(StoreError::Damaged(Damage::Row {
        number: 4,
        error,
        entity: of,
        ..
    }))) = read[3]
    else {
        panic!("{:?}", read[3]);
    };
    assert_eq!((of, error.fault), (entity, Fault::Digest));
    assert_eq!(
        shelf.log().assess(),
        read[3].clone().map(|_| unreachable!("it is an error"))
    );
    assert_eq!(shelf.log().event(2), Ok(Some(shelf.events[1].clone())));
    assert!(matches!(
        shelf.log().event(5),
        Err(StoreError::Damaged(Damage::Row { number: 4, .. }))
    ));
    // Every byte of every row: nothing is read that is not what was emitted.
    for row in 0..3 {
        for at in 0..build().rows(table)[row].1.len() {
            let shelf = flipped(row, at);
            let log = EntityLog::open(&shelf.store, shelf.genesis);
            let read: Result<Vec<_>, LogError> = match &log {
                Ok(log) => log.range(0, u64::MAX).collect(),
                Err(error) => Err((*error).into()),
            };
            match read {
                Ok(events) => panic!("row {row} byte {at}: {events:?}"),
                Err(LogError::Store(StoreError::Damaged(_)) | LogError::Chain(_)) => {}
                Err(error) => panic!("row {row} byte {at}: {error}"),
            }
        }
    }
    // A row that is gone from the middle is damage, one that is gone from the beginning was let go.
    let mut shelf = build();
    let (key, _) = shelf.rows(table).remove(1);
    shelf.write(vec![Write::remove(table, key)]);
    let apart = StoreError::Damaged(Damage::Apart {
        table,
        entity,
        number: 4,
    });
    let read: Result<Vec<_>, _> = shelf.log().range(1, 9).collect();
    assert_eq!(read, Err(LogError::Store(apart)));
    assert_eq!(
        shelf.log().event(4),
        Err(StoreError::Damaged(Damage::Apart {
            table,
            entity,
            number: 4
        }))
    );
    let short = (shelf.rows(table)[0].0[..39].to_vec(), vec![1]);
    shelf.write(vec![Write::put(table, short.0, short.1)]);
    assert!(matches!(
        EntityLog::open(&shelf.store, shelf.genesis).map(|log| log.len()),
        Err(StoreError::Damaged(Damage::BadKey { table: Table::Outputs }))
    ));
}

#[test]
fn what_is_let_go_while_it_is_read_is_told_as_such() {
    let mut shelf = Shelf::new(0x6f);
    shelf.row(3).row(3).row(3);
    let mut cursor = shelf.log().cursor(1, 9);
    assert_eq!(cursor.read(&shelf.store), Ok(Some(shelf.events[0].clone())));
    let mut other = shelf.log().cursor(1, 9);
    for (key, _) in shelf.rows(Table::Outputs).drain(..2) {
        shelf.write(vec![Write::remove(Table::Outputs, key)]);
    }
    let gone = |sequence| {
        Err(LogError::Chain(ChainError::Broken {
            kind: BrokenKind::Gap,
            origin: origin(&shelf),
            sequence,
            expected: sequence,
            found: 7,
        }))
    };
    assert_eq!(other.read(&shelf.store), gone(1));
    assert_eq!(other.read(&shelf.store), Ok(None));
    assert_eq!(cursor.read(&shelf.store), Ok(Some(shelf.events[1].clone())));
    assert_eq!(cursor.read(&shelf.store), Ok(Some(shelf.events[2].clone())));
    assert_eq!(cursor.read(&shelf.store), gone(4));
}

#[test]
fn logs_are_found_by_the_whole_key() {
    let mut shelf = Shelf::new(0x70);
    shelf.row(2);
    let other = samples::keypair(0x71).entity_id();
    let (_, value) = shelf.rows(Table::Daemons).remove(0);
    shelf.write(vec![Write::put(Table::Daemons, other.as_bytes().to_vec(), value)]);
    let index = LogIndex::of(&shelf.store);
    let own = shelf.key.entity_id();
    let mut expected = vec![own, other];
    expected.sort();
    assert_eq!(index.iter().collect::<Result<Vec<_>, _>>(), Ok(expected));
    assert_eq!(index.count(), Ok(2));
    assert_eq!((index.contains(&own), index.contains(&other)), (Ok(true), Ok(true)));
    assert_eq!(
        index.get(shelf.genesis).expect("readable").map(|log| log.len()),
        Some(2)
    );
    assert_eq!(
        index.get(Genesis::of(other)).expect("readable").map(|log| log.len()),
        Some(0)
    );
    let stranger = samples::keypair(0x72).entity_id();
    assert!(index.get(Genesis::of(stranger)).expect("readable").is_none());
    assert_eq!(index.with_origin(own.origin()), Ok(vec![own]));
    assert_eq!(index.with_origin(stranger.origin()), Ok(vec![]));
    shelf.write(vec![Write::put(Table::Daemons, vec![1], vec![])]);
    let bad = StoreError::Damaged(Damage::BadKey { table: Table::Daemons });
    assert_eq!(LogIndex::of(&shelf.store).count(), Err(bad));
}
