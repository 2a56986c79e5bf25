//! How a daemon comes back.

use meshos_core::digest::{self, Digest};
use meshos_core::journal::{Damage, Mark, SnapshotRow, Steps};
use meshos_core::resumption::{Divergence, Place, Plan, Replay, plan};
use meshos_core::testing::samples;
use proptest::prelude::*;

use crate::journal::{Input, entity, inputs, rows};

fn row(step: u64) -> SnapshotRow {
    let mut row = samples::snapshot_row();
    row.mark.step = step;
    row
}

fn first(plan: Result<Plan, Damage>) -> Result<(Option<u64>, u32, u64), Damage> {
    plan.map(|plan| (plan.snapshot.map(|row| row.mark.step), plan.skipped, plan.first))
}

#[test]
fn table() {
    let (entity, snapshots) = (entity(), [row(10), row(20)]);
    let missing = |step, found| Err(Damage::Gap { entity, step, found });
    let nothing = |snapshots, found| {
        Err(Damage::NoBeginning {
            entity,
            snapshots,
            found,
        })
    };
    type Case<'a> = (
        &'a [SnapshotRow],
        &'a [u64],
        &'a [u64],
        Result<(Option<u64>, u32, u64), Damage>,
    );
    let cases: &[Case<'_>] = &[
        // snapshots, rows of steps, steps of the snapshots that are whole
        (&[], &[], &[], Ok((None, 0, 1))),
        (&[], &[1, 5, 9], &[], Ok((None, 0, 1))),
        (&[], &[2, 5], &[], nothing(0, Some(2))),
        (&snapshots, &[11, 15, 21], &[10, 20], Ok((Some(20), 0, 21))),
        (&snapshots, &[11, 15], &[10, 20], Ok((Some(20), 0, 21))),
        (&snapshots, &[11, 15, 23], &[10, 20], missing(21, 23)),
        (&snapshots, &[11, 15, 21], &[10], Ok((Some(10), 1, 11))),
        (&snapshots, &[15, 21], &[10], missing(11, 15)),
        (&snapshots, &[], &[10], missing(11, 20)),
        (&snapshots, &[1, 11, 21], &[], Ok((None, 2, 1))),
        (&snapshots, &[11, 21], &[], nothing(2, Some(11))),
        (&snapshots, &[], &[], nothing(2, None)),
    ];
    for (index, (snapshots, rows, whole, expected)) in cases.iter().enumerate() {
        let found = plan(&entity, snapshots, rows, |row| whole.contains(&row.mark.step));
        assert_eq!(first(found), *expected, "case {index}");
    }
}

#[test]
fn no_older_snapshot_is_read_than_needed() {
    let mut asked = Vec::new();
    let snapshots = [row(10), row(20), row(30)];
    plan(&entity(), &snapshots, &[], |row| {
        asked.push(row.mark.step);
        true
    })
    .expect("the newest is whole");
    assert_eq!(asked, [30]);
}

fn start() -> Mark {
    let entity = entity();
    Mark::start(&entity, 0, digest::genesis(&entity, &Digest::ZERO))
}

/// Takes rows again as far as they follow.
fn replayed(rows: &[(u64, Vec<u8>)]) -> Result<Replay, Damage> {
    let mut replay = Replay::after(entity(), start(), 1);
    for (first, bytes) in rows {
        let steps = replay.row(*first, bytes)?;
        for (place, step) in Place::all(&steps).zip(&steps.steps) {
            replay
                .emitted(place, step, step.outputs, step.digest)
                .expect("the same again");
        }
    }
    Ok(replay)
}

proptest! {
    #[test]
    fn every_step_is_taken_once(inputs in inputs(), each in 1usize..5) {
        let replay = replayed(&rows(&inputs, each)).expect("all rows are there");
        prop_assert_eq!(replay.steps(), inputs.len() as u64);
        prop_assert_eq!(replay.mark().step, inputs.len() as u64);
        let outputs: usize = inputs.iter().map(|(_, outputs)| outputs.len()).sum();
        prop_assert_eq!((replay.suppressed(), replay.mark().sequence), (outputs as u64, outputs as u64));
    }

    #[test]
    fn a_row_removed_moved_or_of_another_history_is_found(inputs in inputs(), at in any::<prop::sample::Index>()) {
        let rows = rows(&inputs, 1);
        let at = at.index(rows.len());

        let mut without = rows.clone();
        without.remove(at);
        let missing = replayed(&without);
        if at + 1 < rows.len() {
            let (step, found) = (at as u64 + 1, at as u64 + 2);
            prop_assert_eq!(missing.expect_err("a row is missing"), Damage::Gap { entity: entity(), step, found });
        } else {
            prop_assert!(missing.is_ok());
        }

        let mut moved = rows.clone();
        moved[at].0 += 1;
        prop_assert_eq!(replayed(&moved).expect_err("moved"), Damage::Unbound { entity: entity(), step: at as u64 + 2 });

        let mut others: Vec<Input> = inputs.clone();
        others[at].0.push(1);
        let others = crate::journal::rows(&others, 1);
        let mut mixed = rows.clone();
        mixed[at] = others[at].clone();
        let mixed = replayed(&mixed);
        if at + 1 < rows.len() {
            prop_assert_eq!(mixed.expect_err("of another history"), Damage::Unbound { entity: entity(), step: at as u64 + 2 });
        }
    }

    #[test]
    fn what_differs_is_named(inputs in inputs(), at in any::<prop::sample::Index>()) {
        let rows = rows(&inputs, inputs.len());
        let mut replay = Replay::after(entity(), start(), 1);
        let steps: Steps<'_> = replay.row(1, &rows[0].1).expect("a whole row");
        let (at, before) = (at.index(inputs.len()), Digest::ZERO);
        let (place, step) = Place::all(&steps).zip(&steps.steps).nth(at).expect("it is one of them");
        let earlier: usize = inputs[..at].iter().map(|(_, outputs)| outputs.len()).sum();
        prop_assert_eq!(place, Place { step: at as u64 + 1, sequence: earlier as u64 + 1 });
        let found = step.outputs + 1;
        prop_assert_eq!(
            replay.emitted(place, step, found, before),
            Err(Divergence {
                step: place.step,
                sequence: place.sequence,
                expected: step.outputs,
                found,
                expected_digest: step.digest,
                found_digest: before,
            })
        );
        prop_assert!(replay.emitted(place, step, step.outputs, before).is_err());
    }
}

#[test]
fn an_epoch_does_not_go_back() {
    let rows = rows(&[(vec![1], vec![])], 1);
    let mut replay = Replay::after(entity(), start(), 2);
    assert_eq!(
        replay.row(1, &rows[0].1),
        Err(Damage::Unbound {
            entity: entity(),
            step: 1
        })
    );
}
