//! What is done in a run, and what goes wrong, where a caller says so: so many events, so many moves, and shares of faults.

use crate::config::DaemonHostConfig;

use super::super::random::SplitMix64;

/// How often something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share(u64);

impl Share {
    const ONE: u64 = 1 << 53;

    /// A share from 0 to 1; `None` for any other number.
    #[must_use]
    pub fn new(share: f64) -> Option<Self> {
        (0.0..=1.0)
            .contains(&share)
            .then(|| Self((share * Self::ONE as f64) as u64))
    }

    /// Whether it happens this time. What never happens takes no number.
    pub const fn happens(self, random: &mut SplitMix64) -> bool {
        self.0 > 0 && random.next_u64() >> 11 < self.0
    }
}

/// What is done, and what goes wrong. How long messages take stands in the faults of the network.
///
/// A step is a few events that are sent, an event that is taken in, or a message or write of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    /// Events that are sent.
    pub events: u64,
    /// Moves that are ordered.
    pub moves: u64,
    /// How the daemon is kept.
    pub config: DaemonHostConfig,
    /// Messages that are lost.
    pub loss: Share,
    /// Messages that arrive twice.
    pub duplicate: Share,
    /// Steps at which a node crashes.
    pub crash: Share,
    /// Steps at which some nodes are cut off for a while.
    pub partition: Share,
    /// Writes of moves that fail, and crashes after which a random beginning of what was not synced is there.
    pub torn_write: Share,
    /// Events that user code takes long for.
    pub slow_callback: Share,
    /// Steps at which the wall clock of a node jumps.
    pub clock_jump: Share,
}

impl Plan {
    /// Steps after which nothing goes wrong any more, so that every run ends.
    pub(super) const fn steps_max(&self) -> u64 {
        5_000 + 100 * self.events + 5_000 * self.moves
    }
}
