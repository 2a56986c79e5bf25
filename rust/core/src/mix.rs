//! Numbers that look random and are a function of their arguments. Not for keys.
//!
//! Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014 (SplitMix64).

/// What a stream adds to its state for each number: 2^64 divided by the golden ratio, made odd.
pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads a number over all 64 bits; two numbers never become one.
#[must_use]
pub const fn spread(value: u64) -> u64 {
    let mut mixed = value;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The number at `position`, from 0, of the stream of `seed`.
#[must_use]
pub const fn of_stream(seed: u64, position: u64) -> u64 {
    spread(seed.wrapping_add(position.wrapping_add(1).wrapping_mul(STEP)))
}

/// One number of two: for a seed of its own for each of many, or a number of its own for each step of one.
#[must_use]
pub const fn pair(seed: u64, value: u64) -> u64 {
    // Streams of neighbouring seeds must not overlap, so the seed is spread first.
    of_stream(of_stream(seed, 0), value)
}

/// The same as a number from 0 up to, but not including, 1.
#[must_use]
pub fn pair_as_share(seed: u64, value: u64) -> f64 {
    // 53 bits are what a number of this type holds exactly.
    (pair(seed, value) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers of the stream of 1234567 in the authors' reference program.
    #[test]
    fn a_stream_is_the_published_one() {
        let published = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        for (position, number) in (0..).zip(published) {
            assert_eq!(of_stream(1_234_567, position), number);
        }
    }

    #[test]
    fn neighbours_share_nothing() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..32 {
            for value in 0..32 {
                assert!(seen.insert(pair(seed, value)), "{seed} {value}");
            }
        }
    }

    #[test]
    fn shares_are_spread_over_the_whole_range() {
        let mut tenths = [0; 10];
        for value in 0..10_000 {
            let share = pair_as_share(7, value);
            assert!((0.0..1.0).contains(&share));
            tenths[(share * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (900..1100).contains(count)), "{tenths:?}");
    }
}
