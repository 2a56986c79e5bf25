//! Cursors and receipts.

use std::collections::BTreeMap;

use meshos_core::codec::Fault;
use meshos_core::cursors::{Cursors, RECEIPTS_MAX, Receipt};
use meshos_core::digest::Digest;
use meshos_core::horizon::sketch_bits;
use meshos_core::id::Origin;
use proptest::prelude::*;

use crate::support::{CursorStep, assert_exact, cursor_steps, cursors_after, fault, patched};

const ORIGIN: Origin = Origin::new(7);

fn receipt(sequence: u64) -> Receipt {
    Receipt {
        sequence,
        epoch: 1,
        processed: sequence,
        position: 2 * sequence,
        digest: Digest::ZERO,
    }
}

#[test]
fn nothing_was_applied_at_first() {
    let cursors = Cursors::default();
    assert_eq!((cursors.get(ORIGIN, 0), cursors.len(), cursors.sketch()), (0, 0, 0));
    assert_eq!(cursors.encode(), [0; 4]);
}

#[test]
fn streams_of_one_origin_are_apart() {
    let mut cursors = Cursors::default();
    cursors.advance(ORIGIN, 0, 5);
    cursors.advance(ORIGIN, 1, 3);
    cursors.advance(ORIGIN, 1, 2);
    assert_eq!(
        (cursors.get(ORIGIN, 0), cursors.get(ORIGIN, 1), cursors.get(ORIGIN, 2)),
        (5, 3, 0)
    );
    assert_eq!(cursors.horizon().get(ORIGIN), Some(5));
}

#[test]
fn the_last_64_receipts_are_kept() {
    let mut cursors = Cursors::default();
    for sequence in 1..=100 {
        cursors.keep_receipt(ORIGIN, 0, receipt(sequence));
    }
    let kept: Vec<_> = (1..=100)
        .filter(|sequence| cursors.receipt(ORIGIN, 0, *sequence).is_some())
        .collect();
    assert_eq!(kept, (100 - RECEIPTS_MAX as u64 + 1..=100).collect::<Vec<_>>());
    assert_eq!(cursors.get(ORIGIN, 0), 100);
    assert_eq!(cursors.receipt(ORIGIN, 1, 100), None);
}

#[test]
fn a_repeated_event_replaces_its_receipt_and_one_too_old_is_not_kept() {
    let mut cursors = Cursors::default();
    for sequence in 10..10 + RECEIPTS_MAX as u64 {
        cursors.keep_receipt(ORIGIN, 0, receipt(sequence));
    }
    let again = Receipt {
        processed: 999,
        ..receipt(20)
    };
    cursors.keep_receipt(ORIGIN, 0, again);
    cursors.keep_receipt(ORIGIN, 0, receipt(3));
    assert_eq!(cursors.receipt(ORIGIN, 0, 20), Some(&again));
    assert_eq!(cursors.receipt(ORIGIN, 0, 3), None);
    assert_eq!(cursors.receipt(ORIGIN, 0, 10), Some(&receipt(10)));
}

#[test]
fn bytes_that_break_an_invariant_are_refused() {
    let mut cursors = Cursors::default();
    cursors.keep_receipt(ORIGIN, 0, receipt(5));
    cursors.keep_receipt(ORIGIN, 0, receipt(6));
    cursors.advance(ORIGIN, 1, 9);
    let bytes = cursors.encode();
    let (cursor_at, count_at, first_receipt_at) = (20, 28, 29);
    let second_key_at = first_receipt_at + 2 * 64;
    let order = Fault::Invalid {
        field: "order of cursors",
    };
    let sequence = Fault::Invalid {
        field: "sequence of a receipt",
    };
    let cases = [
        (patched(&bytes, second_key_at + 8, &[0]), order),
        (patched(&bytes, second_key_at, &[6]), order),
        (patched(&bytes, cursor_at, &[5]), sequence),
        (patched(&bytes, first_receipt_at, &[6]), sequence),
        (patched(&bytes, first_receipt_at, &[0xff; 8]), sequence),
        (
            patched(&bytes, count_at, &[65]),
            Fault::Invalid {
                field: "number of receipts",
            },
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(fault(Cursors::decode(&bytes)), expected);
    }
    for count in [3_u32, 1 << 31, u32::MAX] {
        assert!(Cursors::decode(&patched(&bytes, 0, &count.to_le_bytes())).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cursors_follow_a_short_model(steps in cursor_steps()) {
        let cursors = cursors_after(&steps);
        let mut highest = BTreeMap::new();
        for step in &steps {
            let (key, sequence) = match *step {
                CursorStep::Advance(origin, stream, sequence) => ((origin, stream), sequence),
                CursorStep::Keep(origin, stream, receipt) => ((origin, stream), receipt.sequence),
            };
            let known = highest.entry(key).or_insert(0);
            *known = sequence.max(*known);
        }
        let found: Vec<_> = cursors.iter().collect();
        let expected: Vec<_> = highest.iter().map(|((origin, stream), cursor)| (*origin, *stream, *cursor)).collect();
        prop_assert_eq!(found, expected);
        let computed = highest.keys().fold(0, |bits, (origin, _)| bits | sketch_bits(*origin));
        prop_assert_eq!(cursors.sketch(), computed);
        prop_assert_eq!(cursors.horizon().sketch(), computed);
        for step in &steps {
            if let CursorStep::Keep(origin, stream, receipt) = step
                && let Some(kept) = cursors.receipt(*origin, *stream, receipt.sequence)
            {
                prop_assert_eq!(kept.sequence, receipt.sequence);
            }
        }
    }

    #[test]
    fn cursors_survive_their_wire_form(steps in cursor_steps(), extra: u8) {
        let cursors = cursors_after(&steps);
        let bytes = cursors.encode();
        prop_assert_eq!(bytes.len(), cursors.encoded_len());
        prop_assert_eq!(Cursors::decode(&bytes), Ok(cursors));
        prop_assert!(Cursors::decode(&[bytes.as_slice(), &[extra]].concat()).is_err());
    }

    #[test]
    fn no_beginning_of_cursors_is_accepted(steps in cursor_steps(), at: prop::sample::Index) {
        let bytes = cursors_after(&steps).encode();
        prop_assert!(Cursors::decode(&bytes[..at.index(bytes.len())]).is_err());
    }
}

#[test]
fn no_beginning_of_the_sample_is_accepted() {
    assert_exact(&meshos_core::testing::samples::cursors().encode(), 0, Cursors::decode);
}
