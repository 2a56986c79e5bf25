//! Horizons and their sketch.

use std::collections::BTreeMap;

use meshos_core::horizon::{ObservedHorizon, might_contain, potentially_concurrent, sketch_bits};
use meshos_core::id::Origin;
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn the_known_origins_set_the_known_bits() {
    assert_eq!(sketch_bits(Origin::new(0xaaaa)), 0x0020_0400_8000_0000);
    assert_eq!(sketch_bits(Origin::new(0xc162_c80d_a6be_3de4)), 0x0000_0000_0042_1000);
}

#[test]
fn false_positives_stay_near_the_documented_rates() {
    for (origins, at_most_percent) in [(2_u64, 1.0), (4, 2.0), (8, 6.0), (16, 20.0), (24, 38.0)] {
        let (mut positive, mut asked) = (0_u32, 0_u32);
        for round in 0..200 {
            let base = round * 1_000;
            let horizon: ObservedHorizon = (base..base + origins).map(|raw| (Origin::new(raw), 1)).collect();
            for other in base + 500..base + 520 {
                positive += u32::from(might_contain(horizon.sketch(), Origin::new(other)));
                asked += 1;
            }
        }
        let percent = 100.0 * f64::from(positive) / f64::from(asked);
        assert!(
            percent <= at_most_percent,
            "{origins} origins: {percent} % false positives"
        );
    }
}

#[test]
fn concurrency_is_sure_only_when_neither_knew_of_the_other() {
    let (a, b) = (Origin::new(1), Origin::new(2));
    let (of_a, of_b) = (sketch_bits(a), sketch_bits(b));
    assert!(potentially_concurrent(of_a, b, of_b, a));
    assert!(!potentially_concurrent(of_a | of_b, b, of_b, a));
    assert!(!potentially_concurrent(of_a, b, of_a | of_b, a));
}

#[test]
fn sequence_0_of_a_new_origin_is_an_observation() {
    let mut horizon = ObservedHorizon::default();
    horizon.observe(Origin::new(5), 0);
    assert_eq!(
        (horizon.get(Origin::new(5)), horizon.get(Origin::new(6))),
        (Some(0), None)
    );
    assert!(horizon.has_observed(Origin::new(5), 0) && !horizon.has_observed(Origin::new(6), 0));
    assert!(!horizon.is_empty());
}

fn observations() -> impl Strategy<Value = Vec<(u64, u64)>> {
    vec((prop_oneof![0..8_u64, any::<u64>()], any::<u64>()), 0..60)
}

fn horizon_of(observations: &[(u64, u64)]) -> ObservedHorizon {
    observations
        .iter()
        .map(|(origin, sequence)| (Origin::new(*origin), *sequence))
        .collect()
}

proptest! {
    #[test]
    fn every_origin_sets_exactly_three_bits(origin: u64) {
        prop_assert_eq!(sketch_bits(Origin::new(origin)).count_ones(), 3);
    }

    #[test]
    fn a_horizon_is_the_highest_sequence_of_each_origin(observations in observations()) {
        let horizon = horizon_of(&observations);
        let mut model = BTreeMap::new();
        for (origin, sequence) in &observations {
            let known = model.entry(Origin::new(*origin)).or_insert(0);
            *known = *sequence.max(known);
        }
        prop_assert_eq!(horizon.len(), model.len());
        prop_assert_eq!(horizon.iter().collect::<Vec<_>>(), model.clone().into_iter().collect::<Vec<_>>());
        for (origin, sequence) in model {
            prop_assert!(horizon.has_observed(origin, sequence));
            prop_assert_eq!(horizon.has_observed(origin, u64::MAX), sequence == u64::MAX);
        }
    }

    #[test]
    fn the_kept_sketch_is_the_computed_one_and_forgets_nobody(observations in observations()) {
        let horizon = horizon_of(&observations);
        let computed = horizon.iter().fold(0, |bits, (origin, _)| bits | sketch_bits(origin));
        prop_assert_eq!(horizon.sketch(), computed);
        for (origin, _) in horizon.iter() {
            prop_assert!(might_contain(horizon.sketch(), origin));
        }
    }

    #[test]
    fn merging_is_observing_both_in_any_order(first in observations(), second in observations()) {
        let (mut one, mut other) = (horizon_of(&first), horizon_of(&second));
        let both = horizon_of(&[first, second].concat());
        let first = one.clone();
        one.merge(&other);
        other.merge(&first);
        prop_assert_eq!(&one, &both);
        prop_assert_eq!(&other, &both);
        one.merge(&both);
        prop_assert_eq!(one, both);
    }
}
