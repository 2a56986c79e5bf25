//! When a daemon that crashed may start again.
//!
//! A pure machine: crashes, starts and clean exits go in with their times, and it says until when to wait. Waits grow
//! by a factor up to a bound, are shortened by a share that the seed decides, and start over after a long enough run.
//! Too many crashes in a window are a crash loop, which waits much longer.
//!
//! Source: Erlang/OTP supervisor, "restart intensity"; AWS Architecture Blog, "Exponential Backoff and Jitter", 2015.

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
}
