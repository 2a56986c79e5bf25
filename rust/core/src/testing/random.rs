//! Repeatable randomness for tests. Not for keys.
//!
//! Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014 (SplitMix64).

use crate::mix;

/// A stream of numbers that is the same for the same seed.
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Begins the stream of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next_u64(&mut self) -> u64 {
        let number = mix::of_stream(self.0, 0);
        self.0 = self.0.wrapping_add(mix::STEP);
        number
    }

    /// A number below `bound`; 0 for a bound of 0. Slightly uneven for bounds near 2^64.
    pub const fn below(&mut self, bound: usize) -> usize {
        match bound {
            0 => 0,
            bound => (self.next_u64() % bound as u64) as usize,
        }
    }

    /// A byte.
    pub const fn byte(&mut self) -> u8 {
        self.next_u64().to_le_bytes()[0]
    }

    /// So many bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }
}
