//! The node's clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use meshos_core::time::UnixMs;

/// Wall-clock time now.
#[must_use]
pub fn unix_ms() -> UnixMs {
    shown(since_1970())
}

/// Wall-clock time now, in microseconds since 1970.
#[must_use]
pub fn unix_us() -> u64 {
    u64::try_from(since_1970().as_micros()).unwrap_or(u64::MAX)
}

/// How often both clocks are read where they are to be read at once.
const READINGS: usize = 5;

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
    /// Time since 1970 at the start, as exact as the system has it: what is shown is cut to milliseconds only then.
    base: Duration,
}

impl LoopClock {
    /// Starts at the present time.
    #[must_use]
    pub fn start() -> Self {
        // A thread that is held up between the two readings would show another time than the next clock does, and a restart
        // would look as if the wall clock had been set.
        let readings = (0..READINGS).map(|_| {
            let started = Instant::now();
            let base = since_1970();
            (started.elapsed(), Self { started, base })
        });
        let best = readings.min_by_key(|(apart, _)| *apart);
        best.map(|(_, clock)| clock).expect("there are some")
    }

    /// Time now.
    #[must_use]
    pub fn now(&self) -> UnixMs {
        shown(self.base + self.started.elapsed())
    }

    /// The instant at which this clock shows `at`.
    #[must_use]
    pub fn instant(&self, at: UnixMs) -> Deadline {
        let after = Duration::from_millis(at.get()).saturating_sub(self.base);
        Deadline(self.started.checked_add(after))
    }

    /// What this clock shows at an instant; at the start, if that is before it.
    #[must_use]
    pub fn at(&self, instant: Instant) -> UnixMs {
        shown(self.base + instant.saturating_duration_since(self.started))
    }

    /// What the wall clock shows when this one shows `at`: the wall clock may have been set since the start.
    #[must_use]
    pub fn wall(&self, at: UnixMs) -> UnixMs {
        Self::wall_beside(at, self.base + self.started.elapsed(), since_1970())
    }

    /// The same, when this one shows `now` and the wall clock `wall`. They are read one after the other: what they differ by
    /// is rounded, so that it is nothing where nobody set the wall clock.
    fn wall_beside(at: UnixMs, now: Duration, wall: Duration) -> UnixMs {
        let half = Duration::from_micros(500);
        match wall.checked_sub(now) {
            Some(ahead) => at.plus(whole(ahead + half)),
            None => UnixMs::new(at.get().saturating_sub(shown(now - wall + half).get())),
        }
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

/// Cut to milliseconds.
fn shown(since: Duration) -> UnixMs {
    UnixMs::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn whole(span: Duration) -> Duration {
    Duration::from_millis(shown(span).get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nobody_sets_the_wall_clock_a_time_is_the_same_on_both() {
        let at = UnixMs::new(5_000);
        let beside = |now: u64, wall: u64| {
            LoopClock::wall_beside(at, Duration::from_micros(now), Duration::from_micros(wall)).get()
        };
        // Read one after the other, at any place of a millisecond.
        for now in 1_000_000..1_002_000 {
            assert_eq!(beside(now, now + 3), 5_000);
            assert_eq!(beside(now, now - 3), 5_000);
        }
        assert_eq!(beside(1_000_999, 3_001_001), 7_000);
        assert_eq!(beside(3_001_001, 1_000_999), 3_000);
        assert_eq!(beside(9_000_000, 0), 0, "no time is before 1970");
    }

    #[test]
    fn a_clock_shows_a_time_from_its_instant_on() {
        let clock = LoopClock::start();
        let at = clock.now().plus(Duration::from_millis(7));
        let instant = clock.instant(at).end().expect("it is soon");
        assert_eq!(clock.at(instant), at);
        assert_eq!(clock.at(instant - Duration::from_nanos(1)).get(), at.get() - 1);
        assert_eq!(clock.at(clock.started - Duration::from_millis(1)), shown(clock.base));
    }
}
