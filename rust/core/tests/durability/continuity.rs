//! What is said of a chain, and what makes it certain.

use meshos_core::certificate::Reason;
use meshos_core::chain::ChainError;
use meshos_core::checkpoint::Checkpoint;
use meshos_core::continuity::{Anchor, Continuity, Genesis, Point, Span};
use meshos_core::digest::{self, Digest};
use meshos_core::entity_log::{EntityLog, LogError};
use meshos_core::identity::Keypair;
use meshos_core::journal::{Emitted, outputs_row};
use meshos_core::rows::{Table, Write};
use meshos_core::store::{Damage, StoreError};
use meshos_core::testing::samples;

use crate::shelf::Shelf;

fn nodes() -> [Keypair; 2] {
    [samples::keypair(0x21), samples::keypair(0x22)]
}

fn assess(shelf: &Shelf) -> Continuity {
    shelf.log().assess().expect("what is signed holds")
}

fn whole(shelf: &Shelf, anchor: Anchor, anchored_at: u64, signed_through: u64) -> Continuity {
    Continuity::Continuous {
        genesis: shelf.digests[0],
        head: shelf.at(shelf.events.len()),
        anchor,
        anchored_at,
        signed_through,
    }
}

const fn missing(last_verified: u64, gap_start: u64) -> Continuity {
    Continuity::Unverifiable {
        last_verified,
        gap_start,
    }
}

/// Removes the row of outputs at an index.
fn lose(shelf: &mut Shelf, index: usize) {
    let (key, _) = shelf.rows(Table::Outputs).remove(index);
    shelf.write(vec![Write::remove(Table::Outputs, key)]);
}

/// Puts another history in the place of a row: it has other payloads, and fits in itself.
fn forge(shelf: &mut Shelf, index: usize, before: Option<Digest>) -> Digest {
    let entity = shelf.key.entity_id();
    let (_, value) = shelf.rows(Table::Outputs).remove(index);
    let row = Emitted::decode(entity.origin(), &value).expect("it is whole");
    let mut at = before.unwrap_or(row.before);
    let before = at;
    let mut outputs = Vec::new();
    for (mut link, _) in row.outputs {
        link.parent = at.head8();
        at = digest::event(&at, &link.to_bytes(), b"forged");
        outputs.push((link, &b"forged"[..]));
    }
    let write = outputs_row(&entity, &before, &outputs).expect("it has outputs");
    shelf.write(vec![write]);
    at
}

#[test]
fn a_chain_is_certain_from_its_genesis() {
    let mut shelf = Shelf::new(0x23);
    assert_eq!(
        assess(&shelf),
        whole(&shelf, Anchor::Genesis, 0, 0),
        "before its first event"
    );
    shelf.row(3).row(2);
    assert_eq!(
        assess(&shelf),
        whole(&shelf, Anchor::Genesis, 0, 0),
        "nothing is signed yet"
    );
    assert_eq!(shelf.log().spans(), Ok(vec![]));
    let [node, _] = nodes();
    shelf.certify(&node, 0, Reason::Spawn).sign(&node, 4);
    assert_eq!(assess(&shelf), whole(&shelf, Anchor::Genesis, 0, 4));
}

#[test]
fn a_fork_is_certain_from_its_record_or_its_spawn() {
    let mut shelf = Shelf::fork();
    shelf.row(3).row(2);
    assert_eq!(assess(&shelf), whole(&shelf, Anchor::Fork, 0, 0));
    // Who does not know that it is a fork expects another beginning.
    let plain = Genesis::of(shelf.key.entity_id());
    let without = |shelf: &Shelf| {
        let log = EntityLog::open(&shelf.store, plain).expect("readable");
        log.assess().expect("what is signed holds")
    };
    let forked = Continuity::Forked {
        sequence: 1,
        expected: plain.point().digest,
        found: shelf.digests[0],
    };
    assert_eq!(without(&shelf), forked);
    let [node, _] = nodes();
    shelf.certify(&node, 0, Reason::Spawn);
    assert_eq!(without(&shelf), whole(&shelf, Anchor::Certificate, 0, 0));
    assert_eq!(assess(&shelf), whole(&shelf, Anchor::Fork, 0, 0));
}

#[test]
fn a_record_of_a_fork_that_contradicts_the_spawn_is_told() {
    let mut shelf = Shelf::fork();
    let genesis = std::mem::replace(&mut shelf.digests[0], Digest::from_bytes([4; 32]));
    shelf.certify(&nodes()[0], 0, Reason::Spawn);
    let forked = Continuity::Forked {
        sequence: 0,
        expected: genesis,
        found: shelf.digests[0],
    };
    assert_eq!(assess(&shelf), forked);
}

#[test]
fn a_log_without_its_beginning_is_proven_by_any_signed_digest() {
    let [node, _] = nodes();
    let build = |signed: &[usize]| {
        let mut shelf = Shelf::new(0x24);
        shelf.row(3).row(4).row(3).certify(&node, 0, Reason::Spawn);
        for at in signed {
            shelf.sign(&node, *at);
        }
        lose(&mut shelf, 0);
        shelf
    };
    assert_eq!(assess(&build(&[])), missing(0, 1), "nothing vouches for what is there");
    assert_eq!(assess(&build(&[1])), missing(0, 1), "nor does what is before it");
    for at in [3, 5, 7, 9, 10] {
        let shelf = build(&[at]);
        let expected = whole(&shelf, Anchor::Checkpoint, at as u64, at as u64);
        assert_eq!(assess(&shelf), expected, "a digest is made of all before it");
    }
    // Another history that fits in itself is not what was signed.
    let mut shelf = build(&[9]);
    let found = forge(&mut shelf, 1, Some(forge(&mut build(&[9]), 0, None)));
    forge(&mut shelf, 0, None);
    let Continuity::Forked {
        sequence: 9, expected, ..
    } = assess(&shelf)
    else {
        panic!("{:?}", assess(&shelf));
    };
    assert_eq!(expected, shelf.digests[9]);
    assert_ne!(found, expected);
}

#[test]
fn a_log_that_was_let_go_altogether_ends_where_its_journal_ends() {
    let [node, _] = nodes();
    let mut shelf = Shelf::new(0x25);
    shelf.row(4).certify(&node, 0, Reason::Spawn).snapshot_at(4);
    lose(&mut shelf, 0);
    assert_eq!(shelf.log().base(), shelf.at(4));
    assert_eq!(assess(&shelf), missing(0, 1));
    shelf.sign(&node, 4);
    assert_eq!(assess(&shelf), whole(&shelf, Anchor::Checkpoint, 4, 4));
}

#[test]
fn what_is_missing_is_named() {
    let [node, _] = nodes();
    let build = || {
        let mut shelf = Shelf::new(0x26);
        shelf.row(3).row(4).row(3).certify(&node, 0, Reason::Spawn);
        shelf
    };
    let mut shelf = build();
    lose(&mut shelf, 1);
    assert_eq!(assess(&shelf), missing(3, 4));
    let mut shelf = build();
    shelf.sign(&node, 10);
    lose(&mut shelf, 2);
    assert_eq!(assess(&shelf), missing(7, 8), "more was signed than is there");
    let mut shelf = build();
    shelf.snapshot_at(10);
    lose(&mut shelf, 2);
    assert_eq!(assess(&shelf), missing(7, 8), "the journal says that there was more");
    // Two histories of one event.
    let mut shelf = build();
    shelf.snapshot_at(10);
    let found = forge(&mut shelf, 2, None);
    let forked = Continuity::Forked {
        sequence: 10,
        expected: shelf.digests[10],
        found,
    };
    assert_eq!(assess(&shelf), forked);
}

#[test]
fn every_altered_row_is_found() {
    let [node, _] = nodes();
    for index in 0..3 {
        let mut shelf = Shelf::new(0x27);
        shelf
            .row(3)
            .row(4)
            .row(3)
            .certify(&node, 0, Reason::Spawn)
            .sign(&node, 10);
        let found = forge(&mut shelf, index, None);
        let end = [3, 7, 10][index];
        let forked = Continuity::Forked {
            sequence: if index == 2 { 10 } else { end + 1 },
            expected: if index == 2 { shelf.digests[10] } else { found },
            found: if index == 2 {
                found
            } else {
                shelf.digests[usize::try_from(end).expect("small")]
            },
        };
        assert_eq!(assess(&shelf), forked, "row {index}");
    }
    // All rows made anew to fit each other: the first signed digest tells.
    let mut shelf = Shelf::new(0x27);
    shelf
        .row(3)
        .row(4)
        .row(3)
        .certify(&node, 0, Reason::Spawn)
        .sign(&node, 5);
    let mut before = shelf.digests[0];
    for index in 0..3 {
        before = forge(&mut shelf, index, Some(before));
    }
    let Continuity::Forked {
        sequence: 5, expected, ..
    } = assess(&shelf)
    else {
        panic!("{:?}", assess(&shelf));
    };
    assert_eq!(expected, shelf.digests[5]);
    // A beginning that is not the entity's.
    let mut shelf = Shelf::new(0x27);
    shelf.row(3);
    let other = Digest::from_bytes([6; 32]);
    forge(&mut shelf, 0, Some(other));
    let forked = Continuity::Forked {
        sequence: 1,
        expected: shelf.digests[0],
        found: other,
    };
    assert_eq!(assess(&shelf), forked);
}

#[test]
fn who_spoke_when_follows_from_the_certificates() {
    let [first, second] = nodes();
    let mut shelf = Shelf::new(0x28);
    shelf.certify(&first, 0, Reason::Spawn).row(4).sign(&first, 4);
    let span = |shelf: &Shelf, epoch, node: &Keypair, reason, from, to, rolled_back_from| Span {
        epoch,
        node: node.entity_id(),
        reason,
        from: shelf.at(from),
        to: shelf.at(to),
        rolled_back_from,
    };
    let spawned = |to, rolled_back| span(&Shelf::new(0x28), 1, &first, Reason::Spawn, 0, to, rolled_back);
    let with_ends = |mut span: Span, to: Point| {
        span.to = to;
        span
    };
    let one = with_ends(spawned(0, None), shelf.at(4));
    assert_eq!(shelf.log().spans(), Ok(vec![one]));
    assert!(matches!(
        assess(&shelf),
        Continuity::Continuous { signed_through: 4, .. }
    ));

    shelf.certify(&second, 4, Reason::Move).row(3);
    let two = span(&shelf, 2, &second, Reason::Move, 4, 7, None);
    assert_eq!(shelf.log().spans(), Ok(vec![one, two]));
    let migrated =
        |shelf: &Shelf, epoch, sequence, source: &Keypair, target: &Keypair, signed_through| Continuity::Migrated {
            genesis: shelf.digests[0],
            head: shelf.at(shelf.events.len()),
            anchor: Anchor::Genesis,
            anchored_at: 0,
            signed_through,
            epoch,
            sequence,
            source: source.entity_id(),
            target: target.entity_id(),
        };
    assert_eq!(assess(&shelf), migrated(&shelf, 2, 4, &first, &second, 4));

    // A restart on the same node is no move; it takes the end of the span before.
    shelf.certify(&second, 7, Reason::Restart).row(2).sign(&second, 9);
    let two = span(&shelf, 2, &second, Reason::Move, 4, 7, Some(7));
    let three = span(&shelf, 3, &second, Reason::Restart, 7, 9, None);
    assert_eq!(shelf.log().spans(), Ok(vec![one, two, three]));
    assert_eq!(assess(&shelf), migrated(&shelf, 2, 4, &first, &second, 9));

    shelf.certify(&first, 9, Reason::Takeover);
    let three = span(&shelf, 3, &second, Reason::Restart, 7, 9, Some(9));
    let four = span(&shelf, 4, &first, Reason::Takeover, 9, 9, None);
    assert_eq!(shelf.log().spans(), Ok(vec![one, two, three, four]));
    assert_eq!(assess(&shelf), migrated(&shelf, 4, 9, &second, &first, 9));
    assert!(assess(&shelf).is_whole());
}

#[test]
fn what_is_signed_by_another_is_refused() {
    let [node, other] = nodes();
    let mut shelf = Shelf::new(0x29);
    shelf.certify(&node, 0, Reason::Spawn).row(3).sign(&other, 3);
    let bad = |result: Result<Continuity, LogError>| {
        assert!(
            matches!(
                result,
                Err(LogError::Chain(ChainError::BadSignature { sequence: 3, .. }))
            ),
            "{result:?}"
        );
    };
    bad(shelf.log().assess());
    assert!(shelf.log().spans().is_err());
    // A record that lies under the key of another one, or cannot be read.
    for table in [Table::Checkpoints, Table::Certificates] {
        let mut shelf = Shelf::new(0x29);
        shelf.certify(&node, 0, Reason::Spawn).row(3).sign(&node, 3);
        let (key, value) = shelf.rows(table).remove(0);
        let mut moved = key.clone();
        let last = moved.len() - 1;
        moved[last] += 1;
        shelf.write(vec![Write::remove(table, key.clone()), Write::put(table, moved, value)]);
        assert!(matches!(
            shelf.log().assess(),
            Err(LogError::Store(StoreError::Damaged(Damage::Apart { .. })))
        ));
        shelf.write(vec![Write::put(table, key, vec![1])]);
        assert!(matches!(
            shelf.log().assess(),
            Err(LogError::Store(StoreError::Damaged(Damage::Row { .. })))
        ));
    }
}

#[test]
fn checkpoints_are_put_into_the_order_of_their_signing() {
    let [node, _] = nodes();
    let mut shelf = Shelf::new(0x2a);
    shelf.certify(&node, 0, Reason::Spawn).row(9);
    // An export signs where its events begin, which may be before what was signed last.
    for at in [2, 7, 3, 9, 5] {
        shelf.sign(&node, at);
    }
    let kept = |shelf: &Shelf| -> Vec<Checkpoint> {
        let rows = shelf.rows(Table::Checkpoints);
        let read = rows.iter().map(|(_, value)| Checkpoint::decode(value).expect("whole"));
        read.collect()
    };
    let by_key = kept(&shelf);
    let order = |checkpoints: Vec<Checkpoint>| -> Vec<u64> {
        let ordered = Checkpoint::in_order(checkpoints);
        ordered.iter().map(|checkpoint| checkpoint.sequence).collect()
    };
    assert_eq!(
        by_key.iter().map(|made| made.sequence).collect::<Vec<_>>(),
        [2, 3, 5, 7, 9]
    );
    assert_eq!(order(by_key.clone()), [2, 7, 3, 9, 5]);
    assert_eq!(order(by_key[1..].to_vec()), [7, 3, 9, 5], "the oldest are let go");
    assert_eq!(order(vec![]), [0; 0]);
    assert_eq!(assess(&shelf), whole(&shelf, Anchor::Genesis, 0, 9));
}
