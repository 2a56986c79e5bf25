//! What a node tells its daemons: shut down, drain, slow down, resume.

use crate::time::UnixMs;

/// One control, given to a daemon between two events.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DaemonControl {
    /// Finish in-flight work and leave before the deadline; after it the daemon is stopped.
    Shutdown {
        /// By the node's wall clock.
        deadline: UnixMs,
    },
    /// Take no new work on; what is in flight may go on until the deadline.
    DrainStart {
        /// By the node's wall clock.
        deadline: UnixMs,
    },
    /// Leave now; abandoning work is allowed.
    DrainFinish,
    /// The drain was called off, or the node is back in service.
    Resume,
    /// Shrink optional work in proportion to the level.
    BackpressureOn {
        /// 0 (none) to 1 (stop all optional work).
        level: f64,
    },
    /// Go on as usual.
    BackpressureOff,
}

/// Time left until `deadline`, in milliseconds; 0 when it has passed.
#[must_use]
pub fn grace_ms(deadline: UnixMs, now: UnixMs) -> u64 {
    deadline.get().saturating_sub(now.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_past_deadline_leaves_no_grace() {
        assert_eq!(grace_ms(UnixMs::new(5), UnixMs::new(9)), 0);
        assert_eq!(grace_ms(UnixMs::new(9), UnixMs::new(5)), 4);
    }
}
