//! Numbers from user code, made safe to compare, hash and keep: never NaN, never infinite.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

/// A finite number. Equal numbers have equal hashes; 0 and -0 are one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Finite(f64);

impl Finite {
    /// Takes a number; `None` when it is not finite.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        // Adding 0 turns -0 into 0.
        value.is_finite().then_some(Self(value + 0.0))
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl PartialEq for Finite {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Finite {}

impl PartialOrd for Finite {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Finite {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Hash for Finite {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

/// A share of a whole, 0 to 1 in steps of 1/10,000: smaller changes are noise, and no news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Share(u16);

impl Share {
    const STEPS: f64 = 10_000.0;
    /// All of it.
    pub const WHOLE: Self = Self(10_000);

    /// Takes a number, clamped to 0..=1; `None` when it is not finite.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        let value = Finite::new(value)?.get().clamp(0.0, 1.0);
        // In range by the clamp.
        Some(Self((value * Self::STEPS).round() as u16))
    }

    /// The share, 0 to 1.
    #[must_use]
    pub fn get(self) -> f64 {
        f64::from(self.0) / Self::STEPS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_refused() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(Finite::new(value), None);
            assert_eq!(Share::new(value), None);
        }
    }

    #[test]
    fn the_two_zeros_are_one() {
        assert_eq!(Finite::new(0.0), Finite::new(-0.0));
    }

    #[test]
    fn a_share_is_clamped_and_comes_back_as_it_was_written() {
        assert_eq!(Share::new(7.0), Some(Share::WHOLE));
        assert_eq!(Share::new(-7.0), Some(Share::default()));
        for step in 0..=10_000_u16 {
            let share = Share(step);
            assert_eq!(Share::new(share.get()), Some(share));
        }
    }
}
