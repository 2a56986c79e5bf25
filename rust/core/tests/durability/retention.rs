//! What may go.

use meshos_core::digest::Digest;
use meshos_core::journal::SnapshotRow;
use meshos_core::retention::{Expired, OutputsHeld, Retention};
use meshos_core::testing::samples;
use meshos_core::time::UnixMs;
use proptest::prelude::*;

fn snapshot(step: u64, sequence: u64) -> SnapshotRow {
    let mut row = samples::snapshot_row();
    (row.mark.step, row.mark.sequence) = (step, sequence);
    row.name = Digest::from_bytes([u8::try_from(step % 251).expect("below 256"); 32]);
    row
}

fn outputs(first: u64, count: u32) -> OutputsHeld {
    OutputsHeld {
        first,
        count,
        bytes: u64::from(count) * 100,
        at: UnixMs::new(first),
    }
}

const ALL: Retention = Retention {
    snapshots: 2,
    outputs_max: u64::MAX,
    outputs_bytes_max: u64::MAX,
    outputs_age_max_ms: None,
};

#[test]
fn without_a_snapshot_nothing_goes() {
    let none = Retention {
        snapshots: 0,
        outputs_max: 0,
        outputs_bytes_max: 0,
        outputs_age_max_ms: Some(0),
    };
    let expired = none.expired(&[], &[outputs(1, 5)], UnixMs::new(u64::MAX));
    assert_eq!(expired, Expired::default());
}

#[test]
fn the_newest_two_snapshots_stay_with_the_steps_after_the_older() {
    let rows = [snapshot(10, 5), snapshot(20, 9), snapshot(30, 14)];
    let expired = ALL.expired(&rows, &[], UnixMs::new(0));
    assert_eq!((expired.snapshots, expired.files), (vec![10], vec![rows[0].name]));
    assert_eq!((expired.steps_below, expired.outputs_below), (21, 0));
}

#[test]
fn a_file_of_two_snapshots_goes_with_the_last() {
    let mut rows = [snapshot(10, 5), snapshot(20, 9), snapshot(30, 14)];
    rows[0].name = rows[2].name;
    let expired = ALL.expired(&rows, &[], UnixMs::new(0));
    assert_eq!((expired.snapshots, expired.files), (vec![10], vec![]));
}

#[test]
fn outputs_go_by_number_bytes_and_age_but_not_those_after_the_newest_snapshot() {
    let rows = [snapshot(10, 20)];
    let held = [outputs(1, 10), outputs(11, 10), outputs(21, 10)];
    let below = |retention: Retention, now| retention.expired(&rows, &held, UnixMs::new(now)).outputs_below;
    assert_eq!(below(ALL, 1000), 0);
    let by_number = |outputs_max| Retention { outputs_max, ..ALL };
    assert_eq!(
        [30, 29, 20, 19, 0].map(|max| below(by_number(max), 0)),
        [0, 2, 2, 12, 12]
    );
    let by_bytes = |outputs_bytes_max| Retention {
        outputs_bytes_max,
        ..ALL
    };
    assert_eq!([3000, 2000, 1999, 0].map(|max| below(by_bytes(max), 0)), [0, 2, 12, 12]);
    let by_age = |max| Retention {
        outputs_age_max_ms: Some(max),
        ..ALL
    };
    assert_eq!([99, 98, 88, 0].map(|max| below(by_age(max), 100)), [0, 2, 12, 12]);
    // A clock that went back.
    assert_eq!(below(by_age(0), 0), 0);
}

proptest! {
    #[test]
    fn what_is_needed_stays(
        steps in prop::collection::btree_set(1u64..200, 1..6),
        counts in prop::collection::vec(1u32..9, 0..30),
        keep in 0u32..4,
        most in 0u64..100,
    ) {
        let rows: Vec<_> = steps.iter().map(|step| snapshot(*step, *step)).collect();
        let mut first = 1;
        let held: Vec<_> = counts.iter().map(|count| { let row = outputs(first, *count); first += u64::from(*count); row }).collect();
        let policy = Retention { snapshots: keep, outputs_max: most, ..ALL };
        let expired = policy.expired(&rows, &held, UnixMs::new(0));

        let kept: Vec<_> = rows.iter().filter(|row| !expired.snapshots.contains(&row.mark.step)).collect();
        prop_assert_eq!(kept.len(), rows.len().min(keep.max(1) as usize));
        prop_assert_eq!(kept.last().map(|row| row.mark.step), steps.last().copied());
        prop_assert!(kept.iter().all(|row| expired.steps_below <= row.mark.step + 1));
        prop_assert!(kept.iter().all(|row| !expired.files.contains(&row.name)));
        let newest = kept.last().expect("at least one").mark.sequence;
        for row in held.iter().filter(|row| row.first < expired.outputs_below) {
            prop_assert!(row.first + u64::from(row.count) - 1 <= newest);
        }
        let left: u64 = held.iter().filter(|row| row.first >= expired.outputs_below).map(|row| u64::from(row.count)).sum();
        let after: u64 = held.iter().filter(|row| row.first + u64::from(row.count) - 1 > newest).map(|row| u64::from(row.count)).sum();
        prop_assert!(left <= most.max(after) || expired.outputs_below == 0 && left <= most);
    }
}
