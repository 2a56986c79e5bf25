//! When a daemon that crashed may start again.
//!
//! A pure machine: crashes, starts and clean exits go in with their times, and it says until when to wait. Waits grow
//! by a factor up to a bound, are shortened by a share that the seed decides, and start over after a long enough run.
//! Too many crashes in a window are a crash loop, which waits much longer.
//!
//! | state | crash below the threshold | crash at it | start, clean exit | release, too early | release in time | forced |
//! |---|---|---|---|---|---|---|
//! | Idle | BackingOff | CrashLooping | Idle | Idle | Idle | Idle |
//! | BackingOff | BackingOff | CrashLooping | Idle | BackingOff | Idle | Idle |
//! | CrashLooping | BackingOff, if that waits longer | CrashLooping | Idle | CrashLooping | Idle | Idle |
//!
//! Invariants
//! * The history is ascending, within the window before its newest crash, and never longer than the threshold.
//! * Without a history, waits start over.
//! * A crash never makes a wait that is under way end earlier.
//! * Signals may come late: one that is older than the newest crash opens nothing.
//!
//! Source: Erlang/OTP supervisor, "restart intensity"; AWS Architecture Blog, "Exponential Backoff and Jitter", 2015.

use std::time::Duration;

use crate::finite::Share;
use crate::loop_config::BackoffConfig;
use crate::mix;
use crate::time::UnixMs;

/// Whether a daemon may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RestartState {
    /// At once.
    #[default]
    Idle,
    /// It waits after a crash.
    BackingOff {
        /// Until when.
        until: UnixMs,
    },
    /// It crashed too often and cools down.
    CrashLooping {
        /// Until when.
        until: UnixMs,
    },
}

/// The backoff of one daemon.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Backoff {
    /// Whether it may start.
    pub state: RestartState,
    /// Crashes in the window, ascending.
    history: Vec<UnixMs>,
    /// The next wait before it is shortened; zero: waits start over.
    next_wait: Duration,
    /// Crashes ever: it picks the share by which a wait is shortened.
    total: u64,
}

impl Backoff {
    /// Whether it may start now.
    #[must_use]
    pub fn is_admissible(&self, now: UnixMs) -> bool {
        self.release_at().is_none_or(|until| until <= now)
    }

    /// Until when it waits; `None`: it does not.
    #[must_use]
    pub const fn release_at(&self) -> Option<UnixMs> {
        match self.state {
            RestartState::Idle => None,
            RestartState::BackingOff { until } | RestartState::CrashLooping { until } => Some(until),
        }
    }

    /// Crashes within the window before the newest one.
    #[must_use]
    pub const fn crashes(&self) -> usize {
        self.history.len()
    }

    /// It crashed at `at`, in a run that began at `started_at`; `None`: its start failed. `salt` differs for each
    /// daemon, so that those that crash together do not start together.
    pub fn crashed(&mut self, at: UnixMs, started_at: Option<UnixMs>, config: &BackoffConfig, salt: u64) {
        self.forgive(at, started_at, config);
        self.remember(at, config);
        let number = self.total;
        self.total = self.total.saturating_add(1);
        // A crash that is told late must not end a wait that is under way.
        let known = self.release_at().unwrap_or_default();
        if self.history.len() >= threshold(config) {
            self.next_wait = Duration::ZERO;
            // It is not shortened: the waits that led here have already spread those that crash together.
            let until = at.plus(config.crash_loop_cooldown).max(known);
            self.state = RestartState::CrashLooping { until };
        } else {
            let wait = self.next_wait.max(config.initial).min(config.maximum);
            self.next_wait = longer(wait, config);
            let until = at.plus(shortened(wait, config.jitter, salt, number));
            if until > known {
                self.state = RestartState::BackingOff { until };
            }
        }
    }

    /// It started at `at`: it need not wait any more.
    pub fn started(&mut self, at: UnixMs) {
        if self.is_news(at) {
            self.state = RestartState::Idle;
        }
    }

    /// It stopped as intended at `at`, after a run that began at `started_at`: it need not wait any more.
    pub fn exited(&mut self, at: UnixMs, started_at: Option<UnixMs>, config: &BackoffConfig) {
        self.forgive(at, started_at, config);
        if self.is_news(at) {
            self.state = RestartState::Idle;
        }
    }

    /// Ends a wait whose time has come. Whether there was one.
    pub fn release(&mut self, now: UnixMs) -> bool {
        let due = self.release_at().is_some_and(|until| until <= now);
        if due {
            self.state = RestartState::Idle;
        }
        due
    }

    /// Lets waits start over if a run that began at `started_at` has lasted long enough. Whether something changed.
    pub fn proven(&mut self, now: UnixMs, started_at: UnixMs, config: &BackoffConfig) -> bool {
        let due = self.proven_at(started_at, config).is_some_and(|at| at <= now);
        if due {
            self.start_over();
        }
        due
    }

    /// When a run that began at `started_at` has lasted long enough for waits to start over; `None`: nothing would
    /// change.
    #[must_use]
    pub fn proven_at(&self, started_at: UnixMs, config: &BackoffConfig) -> Option<UnixMs> {
        let newest = *self.history.last()?;
        // A daemon may survive a crash: then it has run without one only since.
        Some(started_at.max(newest).plus(config.stable_run_threshold))
    }

    /// Ends any wait and forgets crashes: an operator wants it to start. Whether it waited.
    pub fn force_release(&mut self) -> bool {
        let waited = self.state != RestartState::Idle;
        self.state = RestartState::Idle;
        self.start_over();
        waited
    }

    /// Forgets what came before a long enough run that ended at `at`.
    fn forgive(&mut self, at: UnixMs, started_at: Option<UnixMs>, config: &BackoffConfig) {
        let Some(started_at) = started_at else { return };
        let earlier = self.history.partition_point(|crash| *crash <= at);
        // As in `proven_at`: a crash after the start is where the run without a crash began.
        let since = match self.history[..earlier].last() {
            Some(crash) => started_at.max(*crash),
            None => started_at,
        };
        if at.since(since) >= config.stable_run_threshold {
            self.history.drain(..earlier);
            if self.history.is_empty() {
                self.start_over();
            }
        }
    }

    fn start_over(&mut self) {
        self.history.clear();
        self.next_wait = Duration::ZERO;
    }

    /// Keeps the newest crashes of the window, as many as the threshold needs.
    fn remember(&mut self, at: UnixMs, config: &BackoffConfig) {
        let place = self.history.partition_point(|crash| *crash <= at);
        self.history.insert(place, at);
        let newest = self.history[self.history.len() - 1];
        let in_window = |crash: &UnixMs| newest.since(*crash) <= config.crash_loop_window;
        let outside = self.history.partition_point(|crash| !in_window(crash));
        let surplus = self.history.len().saturating_sub(threshold(config));
        self.history.drain(..outside.max(surplus));
    }

    /// Whether something that happened at `at` came after the newest crash.
    fn is_news(&self, at: UnixMs) -> bool {
        self.history.last().is_none_or(|newest| *newest <= at)
    }
}

fn threshold(config: &BackoffConfig) -> usize {
    config.crash_loop_threshold.max(1) as usize
}

fn longer(wait: Duration, config: &BackoffConfig) -> Duration {
    let grown = Duration::try_from_secs_f64(wait.as_secs_f64() * config.factor.get());
    // What is too long for a span is longer than the longest wait.
    grown.map_or(config.maximum, |grown| grown.clamp(wait, config.maximum.max(wait)))
}

/// A wait in whole milliseconds, shortened by up to `jitter` of it.
fn shortened(wait: Duration, jitter: Share, salt: u64, number: u64) -> Duration {
    let whole = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let cut = whole as f64 * jitter.get() * mix::pair_as_share(salt, number);
    Duration::from_millis(whole.saturating_sub(cut as u64).max(1))
}
