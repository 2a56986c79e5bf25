//! Files of commits.

use meshos_core::codec::Fault;
use meshos_core::rows::{KeyRange, Table, Write, entity_key, of_entity_key, read_all};
use meshos_core::segment::{self, Damage, HEAD_SIZE, Head, Position, Recovered, StoreId};
use meshos_core::testing::samples;
use proptest::prelude::*;

const STORE: StoreId = [3; 16];

/// One file with commits, one write each: the file, where its frames begin, and the position after each commit.
struct Log {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    positions: Vec<Position>,
}

fn write(number: u64) -> Write {
    Write::put(
        Table::Journal,
        number.to_be_bytes().to_vec(),
        vec![7; number as usize % 40],
    )
}

fn log(ordinal: u64, after: Position, commits: u64) -> Log {
    let head = Head {
        store: STORE,
        ordinal,
        after,
    };
    let mut log = Log {
        bytes: head.to_bytes(),
        starts: Vec::new(),
        positions: vec![after],
    };
    for _ in 0..commits {
        log.starts.push(log.bytes.len());
        let before = log.positions.last().copied().expect("it has the first");
        let one = [write(before.number + 1)];
        log.positions
            .push(segment::put_frame(&head, &before, one.iter(), &mut log.bytes));
    }
    log
}

type Commits = Vec<(u64, Vec<Write>)>;

fn recover(folded: Position, newest: u64, files: &[(u64, &[u8])]) -> Result<(Recovered, Commits), Damage> {
    let mut seen = Vec::new();
    let recovered = segment::recover(&STORE, folded, newest, files, |number, writes| {
        seen.push((number, writes))
    })?;
    Ok((recovered, seen))
}

fn expected(from: u64, through: u64) -> Commits {
    (from..=through).map(|number| (number, vec![write(number)])).collect()
}

#[test]
fn what_was_committed_is_read_back_in_order() {
    let start = Position::start(&STORE);
    let log = log(1, start, 5);
    for folded in 0..=5 {
        let (recovered, seen) = recover(log.positions[folded], 1, &[(1, &log.bytes)]).expect("a whole file");
        assert_eq!(seen, expected(folded as u64 + 1, 5));
        assert_eq!((recovered.position, recovered.cut), (log.positions[5], 0));
        assert_eq!((recovered.next_ordinal, recovered.needed_from), (2, 1));
    }
}

#[test]
fn nothing_is_recovered_from_nothing() {
    let start = Position::start(&STORE);
    let (recovered, seen) = recover(start, 0, &[]).expect("a new store");
    assert_eq!((recovered.position, recovered.next_ordinal, seen.len()), (start, 1, 0));
}

#[test]
fn a_torn_tail_is_cut_at_the_last_commit() {
    let start = Position::start(&STORE);
    let log = log(1, start, 4);
    for length in HEAD_SIZE..log.bytes.len() {
        let whole = log.starts[1..].iter().filter(|start| **start <= length).count();
        let boundary = if whole == 0 { HEAD_SIZE } else { log.starts[whole] };
        let (recovered, seen) = recover(start, 1, &[(1, &log.bytes[..length])]).expect("a torn tail");
        assert_eq!(seen, expected(1, whole as u64), "{length} bytes");
        assert!(recovered.cut <= (length - boundary) as u64);
    }
}

#[test]
fn zeros_at_the_end_are_no_tail() {
    let start = Position::start(&STORE);
    let mut log = log(1, start, 3);
    log.bytes.extend([0; 100]);
    let (recovered, seen) = recover(start, 1, &[(1, &log.bytes)]).expect("a whole file");
    assert_eq!((seen.len(), recovered.cut), (3, 0));
}

#[test]
fn a_flipped_bit_before_the_last_commit_is_refused_with_its_place() {
    let start = Position::start(&STORE);
    let log = log(1, start, 4);
    for at in HEAD_SIZE..log.starts[3] {
        let mut bytes = log.bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        let frame = log
            .starts
            .iter()
            .rposition(|start| *start <= at)
            .expect("it is behind the head");
        assert_eq!(
            recover(start, 1, &[(1, &bytes)]).expect_err("a flipped bit"),
            Damage::Altered {
                ordinal: 1,
                offset: log.starts[frame] as u64,
                number: frame as u64 + 1
            },
            "byte {at}"
        );
    }
}

#[test]
fn a_flipped_bit_in_the_last_commit_never_changes_what_is_read() {
    let start = Position::start(&STORE);
    let log = log(1, start, 4);
    for at in log.starts[3]..log.bytes.len() {
        let mut bytes = log.bytes.clone();
        bytes[at] ^= 1;
        let (recovered, seen) = recover(start, 1, &[(1, &bytes)]).expect("it may be a torn one");
        assert_eq!((seen, recovered.position), (expected(1, 3), log.positions[3]));
        assert!(recovered.cut > 0);
    }
}

#[test]
fn a_head_that_was_changed_is_refused() {
    let start = Position::start(&STORE);
    let log = log(1, start, 2);
    for at in 0..HEAD_SIZE {
        let mut bytes = log.bytes.clone();
        bytes[at] ^= 1;
        let error = recover(start, 1, &[(1, &bytes)]).expect_err("a flipped bit");
        assert!(matches!(error, Damage::Unreadable { ordinal: 1, .. }), "{at}: {error}");
    }
    let mut newer = log.bytes.clone();
    newer[8] = 2;
    let error = recover(start, 1, &[(1, &newer)]).expect_err("a newer version");
    assert!(matches!(error, Damage::Unreadable { error, .. } if matches!(error.fault, Fault::NewerVersion { .. })));
}

#[test]
fn a_file_that_was_being_made_is_cut() {
    let start = Position::start(&STORE);
    let (first, second) = (log(1, start, 3), log(2, log(1, start, 3).positions[3], 0));
    for length in 0..HEAD_SIZE {
        let files: [(u64, &[u8]); 2] = [(1, &first.bytes), (2, &second.bytes[..length])];
        let (recovered, seen) = recover(start, 1, &files).expect("it was being made");
        assert_eq!(
            (seen.len(), recovered.cut, recovered.next_ordinal),
            (3, length as u64, 3)
        );
        let error = recover(start, 2, &files).expect_err("it is known to have been made");
        assert!(matches!(error, Damage::Unreadable { ordinal: 2, .. }));
    }
}

#[test]
fn a_file_that_was_never_made_is_passed_over_for_ever() {
    let start = Position::start(&STORE);
    let first = log(1, start, 3);
    let third = log(3, first.positions[3], 2);
    for length in 0..HEAD_SIZE {
        let half = &log(2, first.positions[3], 0).bytes[..length];
        let files: [(u64, &[u8]); 3] = [(1, &first.bytes), (2, half), (3, &third.bytes)];
        let (recovered, seen) = recover(start, 3, &files).expect("nothing was in it");
        assert_eq!((seen, recovered.next_ordinal), (expected(1, 5), 4));
        // Something was in it: what follows does not go on from what is before.
        let later = log(3, log(2, first.positions[3], 1).positions[1], 1);
        let files: [(u64, &[u8]); 3] = [(1, &first.bytes), (2, half), (3, &later.bytes)];
        assert_eq!(
            recover(start, 3, &files),
            Err(Damage::Missing { ordinal: 3, number: 4 })
        );
    }
}

#[test]
fn what_a_failed_file_has_beyond_the_next_one_is_void() {
    let start = Position::start(&STORE);
    let first = log(1, start, 4);
    let second = log(2, first.positions[2], 3);
    let (recovered, seen) = recover(start, 2, &[(1, &first.bytes), (2, &second.bytes)]).expect("whole files");
    assert_eq!(seen, expected(1, 5));
    assert_eq!(recovered.position, second.positions[3]);
}

#[test]
fn files_missing_swapped_or_foreign_are_refused() {
    let start = Position::start(&STORE);
    let first = log(1, start, 3);
    let second = log(2, first.positions[3], 3);
    let third = log(3, second.positions[3], 3);
    let [one, two, three] = [&first.bytes[..], &second.bytes[..], &third.bytes[..]];

    let missing = |number, ordinal| Damage::Missing { ordinal, number };
    let at_all = recover(start, 3, &[(1, one), (2, two), (3, three)]).expect("whole files");
    assert_eq!(at_all.1, expected(1, 9));
    assert_eq!(recover(start, 3, &[(2, two), (3, three)]), Err(missing(1, 2)));
    assert_eq!(recover(start, 3, &[(1, one), (3, three)]), Err(missing(4, 3)));
    assert_eq!(
        recover(start, 3, &[(1, one), (2, two)]),
        Err(Damage::NoSegment { ordinal: 3 })
    );
    assert_eq!(
        recover(start, 3, &[(1, two), (2, one), (3, three)]),
        Err(Damage::Foreign { ordinal: 1 })
    );
    assert_eq!(
        recover(start, 3, &[(1, &one[..one.len() - 1]), (2, two), (3, three)]),
        Err(missing(3, 2))
    );
    assert_eq!(
        segment::recover(&[4; 16], start, 0, &[(1, one)], |_, _| {}),
        Err(Damage::Foreign { ordinal: 1 })
    );
    // The tree is of another history.
    let mut other = first.positions[2];
    other.digest = first.positions[1].digest;
    assert!(matches!(
        recover(other, 1, &[(1, one)]),
        Err(Damage::Altered { number: 2, .. })
    ));
}

#[test]
fn what_is_in_the_tree_is_not_needed() {
    let start = Position::start(&STORE);
    let first = log(1, start, 3);
    let second = log(2, first.positions[3], 3);
    let files: [(u64, &[u8]); 2] = [(1, &first.bytes[..HEAD_SIZE + 3]), (2, &second.bytes)];
    let (recovered, seen) = recover(first.positions[3], 2, &files).expect("the first is not needed");
    assert_eq!((seen, recovered.needed_from), (expected(4, 6), 2));
}

#[test]
fn ranges_of_keys_hold_what_they_say() {
    assert!(KeyRange::all().contains(b""));
    let range = KeyRange::beginning_with(&[1, 255]);
    assert_eq!(range.until, Some(vec![2]));
    assert!(range.contains(&[1, 255]) && range.contains(&[1, 255, 255]) && !range.contains(&[2]));
    assert_eq!(KeyRange::beginning_with(&[255, 255]).until, None);
    let rest = range.after(&[1, 255, 3]);
    assert!(!rest.contains(&[1, 255, 3]) && rest.contains(&[1, 255, 3, 0]) && rest.contains(&[1, 255, 4]));
    assert!(
        !rest.is_empty()
            && KeyRange {
                from: vec![2],
                until: Some(vec![1])
            }
            .is_empty()
    );
    let entity = samples::keypair(1).entity_id();
    assert_eq!(of_entity_key(&entity_key(&entity, [5, 6])), Some((entity, [5, 6])));
    assert_eq!(of_entity_key::<1>(&entity_key(&entity, [5, 6])), None);
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let one = (
        0usize..Table::ALL.len(),
        prop::collection::vec(any::<u8>(), 0..60),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..200)),
    );
    let one = one.prop_map(|(table, key, value)| Write {
        table: Table::ALL[table],
        key,
        value,
    });
    prop::collection::vec(one, 0..8)
}

proptest! {
    #[test]
    fn every_commit_is_read_back(commits in prop::collection::vec(writes(), 0..6), cut in any::<prop::sample::Index>()) {
        let start = Position::start(&STORE);
        let head = Head { store: STORE, ordinal: 1, after: start };
        let (mut bytes, mut position) = (head.to_bytes(), start);
        for commit in &commits {
            position = segment::put_frame(&head, &position, commit.iter(), &mut bytes);
        }
        let (recovered, seen) = recover(start, 1, &[(1, &bytes)]).expect("a whole file");
        prop_assert_eq!(recovered.position, position);
        let seen: Vec<_> = seen.into_iter().map(|(_, writes)| writes).collect();
        prop_assert_eq!(&seen, &commits);

        let length = HEAD_SIZE + cut.index(bytes.len() - HEAD_SIZE + 1);
        let (_, fewer) = recover(start, 1, &[(1, &bytes[..length])]).expect("a torn tail");
        let fewer: Vec<_> = fewer.into_iter().map(|(_, writes)| writes).collect();
        prop_assert!(commits.starts_with(&fewer));
    }

    #[test]
    fn writes_have_one_encoding(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(writes) = read_all(&bytes, 0) {
            let mut again = Vec::new();
            meshos_core::rows::put_all(writes.iter(), &mut again);
            prop_assert_eq!(again, bytes);
        }
    }
}
