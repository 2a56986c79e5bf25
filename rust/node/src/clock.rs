//! The node's clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use meshos_core::time::UnixMs;

/// Wall-clock time now.
#[must_use]
pub fn unix_ms() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    UnixMs::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Wall-clock time now, in microseconds since 1970.
#[must_use]
pub fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
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

    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self(Some(Instant::now()))
    }

    /// So much time from now; a span too long for the clock never ends.
    #[must_use]
    pub fn after(span: Duration) -> Self {
        Self(Instant::now().checked_add(span))
    }

    /// At that instant.
    #[must_use]
    pub const fn at(instant: Instant) -> Self {
        Self(Some(instant))
    }

    /// Whichever of the two comes first.
    #[must_use]
    pub fn sooner(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(one), Some(two)) => Self(Some(one.min(two))),
            (one, two) => Self(one.or(two)),
        }
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

    /// The end; `None` without one.
    #[must_use]
    pub const fn end(&self) -> Option<Instant> {
        self.0
    }

    /// Time left; `None` without an end.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }
}

/// The clock of one loop: wall-clock time as it was at the start, plus the time that passed since. It never jumps.
#[derive(Debug, Clone, Copy)]
pub struct LoopClock {
    started: Instant,
    base: UnixMs,
}

impl LoopClock {
    /// Starts at the present time.
    #[must_use]
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            base: unix_ms(),
        }
    }

    /// Time now.
    #[must_use]
    pub fn now(&self) -> UnixMs {
        self.base.plus(self.started.elapsed())
    }

    /// The instant at which this clock shows `at`.
    #[must_use]
    pub fn instant(&self, at: UnixMs) -> Deadline {
        Deadline(self.started.checked_add(at.since(self.base)))
    }

    /// What this clock shows at an instant; at the start, if that is before it.
    #[must_use]
    pub fn at(&self, instant: Instant) -> UnixMs {
        self.base.plus(instant.saturating_duration_since(self.started))
    }

    /// What the wall clock shows when this one shows `at`: the wall clock may have been set since the start.
    #[must_use]
    pub fn wall(&self, at: UnixMs) -> UnixMs {
        let (wall, now) = (unix_ms().get(), self.now().get());
        UnixMs::new((at.get() + wall).saturating_sub(now))
    }
}
