//! Wall-clock time as a value. The core never reads a clock.

use std::fmt;
use std::time::Duration;

/// Milliseconds since 1970-01-01 00:00:00 UTC, without leap seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMs(u64);

impl UnixMs {
    /// Wraps a number of milliseconds.
    #[must_use]
    pub const fn new(unix_ms: u64) -> Self {
        Self(unix_ms)
    }

    /// The number of milliseconds.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The time `span` later, at most the latest there is. A part of a millisecond counts as a whole one.
    #[must_use]
    pub const fn plus(self, span: Duration) -> Self {
        let nanos = span.as_nanos();
        let whole = nanos.div_ceil(1_000_000);
        if whole > u64::MAX as u128 {
            Self(u64::MAX)
        } else {
            Self(self.0.saturating_add(whole as u64))
        }
    }

    /// How long after `earlier` it is; zero if it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plus_rounds_up_and_saturates() {
        let at = UnixMs::new(1000);
        assert_eq!(at.plus(Duration::ZERO), at);
        assert_eq!(at.plus(Duration::from_millis(5)), UnixMs::new(1005));
        assert_eq!(at.plus(Duration::from_nanos(1)), UnixMs::new(1001));
        assert_eq!(at.plus(Duration::from_nanos(1_000_001)), UnixMs::new(1002));
        assert_eq!(at.plus(Duration::MAX), UnixMs::new(u64::MAX));
        assert_eq!(
            UnixMs::new(u64::MAX).plus(Duration::from_millis(1)),
            UnixMs::new(u64::MAX)
        );
    }

    #[test]
    fn since_is_the_way_back_and_never_negative() {
        let earlier = UnixMs::new(1000);
        assert_eq!(
            earlier.plus(Duration::from_millis(7)).since(earlier),
            Duration::from_millis(7)
        );
        assert_eq!(earlier.since(UnixMs::new(1001)), Duration::ZERO);
    }
}
