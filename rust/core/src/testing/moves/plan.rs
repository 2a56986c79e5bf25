//! What is done in a run, and what goes wrong, where a caller says so: so many events, so many moves, and shares of faults.

use std::time::Duration;

use super::super::random::SplitMix64;
use crate::config::{ConfigError, DaemonHostConfig};

/// How often something happens, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Share {
    bits: u64,
}

impl Share {
    /// A share from 0 to 1; `None` for any other number.
    #[must_use]
    pub fn new(share: f64) -> Option<Self> {
        // A sum with zero has no minus.
        (0.0..=1.0).contains(&share).then(|| Self {
            bits: (share + 0.0).to_bits(),
        })
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> f64 {
        f64::from_bits(self.bits)
    }

    /// Whether it happens this time. What never happens takes no number.
    pub fn happens(self, random: &mut SplitMix64) -> bool {
        self.bits > 0 && ((random.next_u64() >> 11) as f64) < self.get() * (1_u64 << 53) as f64
    }
}

/// What goes wrong.
///
/// A round is a moment at which a few events may be sent, until all are sent and all moves have ended: after half of the
/// longest time of a message in the mean, 20 ms at least. A step is a round, an event that is taken in, or a message or write
/// of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Faults {
    /// Messages that are lost.
    pub loss: Share,
    /// Messages that arrive twice.
    pub duplicate: Share,
    /// The shortest and the longest time of a message.
    pub delay: (Duration, Duration),
    /// Steps at which a node crashes.
    pub crash: Share,
    /// Rounds at which some nodes are cut off for a while, if none are.
    pub partition: Share,
    /// Writes of moves that fail, and crashes after which a random beginning of what was not synced is there.
    pub torn_write: Share,
    /// Events that user code takes long for.
    pub slow_callback: Share,
    /// Rounds at which the wall clock of a node jumps.
    pub clock_jump: Share,
}

impl Faults {
    /// The longest time that a message may take.
    pub const DELAY_MAX: Duration = Duration::from_secs(3600);

    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError`] for a time of messages that is none.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let (shortest, longest) = self.delay;
        let rule = if shortest > longest {
            "the shortest time comes first"
        } else if longest > Self::DELAY_MAX {
            "must be at most an hour"
        } else {
            return Ok(());
        };
        Err(ConfigError { field: "delay", rule })
    }
}

/// What is done, and what goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    /// Events that are sent.
    pub events: u64,
    /// Moves that are ordered.
    pub moves: u64,
    /// How the daemon is kept.
    pub config: DaemonHostConfig,
    /// What goes wrong.
    pub faults: Faults,
}

impl Plan {
    /// Steps after which nothing goes wrong any more, so that every run ends.
    pub(super) const fn steps_max(&self) -> u64 {
        5_000 + 100 * self.events + 5_000 * self.moves
    }
}
