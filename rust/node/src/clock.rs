//! The node's clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use meshos_core::time::UnixMs;

/// Wall-clock time now.
#[must_use]
pub fn unix_ms() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    UnixMs::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// How long a wait may take. Waits end in slices, so that a signal is seen in time.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Longest single sleep of a wait that looks for signals in between.
    pub const SLICE: Duration = Duration::from_millis(50);

    /// No end.
    #[must_use]
    pub fn never() -> Self {
        Self(None)
    }

    /// So much time from now; a span too long for the clock never ends.
    #[must_use]
    pub fn after(span: Duration) -> Self {
        Self(Instant::now().checked_add(span))
    }

    /// Whether it has passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.0.is_some_and(|at| at <= Instant::now())
    }

    /// End of the next slice.
    #[must_use]
    pub fn slice(&self) -> Instant {
        let slice = Instant::now() + Self::SLICE;
        self.0.map_or(slice, |at| at.min(slice))
    }

    /// Time left; `None` without an end.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }
}
