//! Whether who has something to tell gives the turns itself, or leaves them to the thread of the [`reactor`](crate::reactor).
//!
//! While readers wait for what is told, each thing is told at once, by who has it: no sleeping thread has to be woken. Where
//! they are behind, or nobody waits, things are told together by the thread that is there for it: that costs the least.
//!
//! Invariants
//! * Once nobody waited, the turns are left to the thread for [`PAUSE`]; of what is told less often than that, each is told
//!   at once.
//! * Of the time of who tells, turns that take longer than a moment are a [`SHARE_MAX`]th at most.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the turns are left to the thread after nobody waited for what was told.
pub const PAUSE: Duration = Duration::from_micros(200);
/// What takes longer than [`PAUSE`] is followed by so many times as much that is left to the thread.
pub const SHARE_MAX: u32 = 64;

/// Decides who gives the turns.
#[derive(Debug)]
pub struct Prompt {
    began: Instant,
    /// Until when they are left to the thread, in nanoseconds since then.
    until: AtomicU64,
}

impl Prompt {
    /// Begins with who tells.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let until = AtomicU64::new(0);
        Self { began: now, until }
    }

    /// Whether who has something to tell gives the turns itself.
    #[must_use]
    pub fn is_own(&self, now: Instant) -> bool {
        self.after(now) >= self.until.load(Ordering::Relaxed)
    }

    /// It did, in this time; `awaited`: somebody waited for it.
    pub fn told(&self, now: Instant, took: Duration, awaited: bool) {
        let pause = if took > PAUSE {
            took.saturating_mul(SHARE_MAX)
        } else if awaited {
            return;
        } else {
            PAUSE
        };
        let pause = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        self.until
            .store(self.after(now).saturating_add(pause), Ordering::Relaxed);
    }

    fn after(&self, now: Instant) -> u64 {
        let after = now.saturating_duration_since(self.began);
        u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(10);

    #[test]
    fn while_somebody_waits_each_thing_is_told_at_once() {
        let mut now = Instant::now();
        let prompt = Prompt::new(now);
        for _ in 0..100 {
            assert!(prompt.is_own(now));
            now += SHORT;
            prompt.told(now, SHORT, true);
        }
    }

    #[test]
    fn where_nobody_waits_the_thread_tells_for_a_while() {
        let now = Instant::now();
        let prompt = Prompt::new(now);
        prompt.told(now, SHORT, false);
        assert!(!prompt.is_own(now));
        assert!(!prompt.is_own(now + PAUSE - Duration::from_nanos(1)));
        assert!(prompt.is_own(now + PAUSE));
    }

    #[test]
    fn what_takes_long_is_mostly_left_to_the_thread() {
        let now = Instant::now();
        for awaited in [false, true] {
            let prompt = Prompt::new(now);
            let took = Duration::from_millis(3);
            prompt.told(now, took, awaited);
            assert!(!prompt.is_own(now + took * (SHARE_MAX - 1)));
            assert!(prompt.is_own(now + took * SHARE_MAX));
        }
    }
}
