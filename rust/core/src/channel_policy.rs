//! How a node keeps one of its channels.

use std::collections::BTreeSet;

use crate::config::ConfigError;
use crate::id::EntityId;

/// Issuers that one channel may trust.
pub const ROOTS_MAX: usize = 1_024;
/// The largest payload that any channel may allow.
pub const PAYLOAD_BYTES_MAX: u64 = 1 << 30;

/// Options of one channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChannelPolicy {
    /// Whether subscribers, and publishers on other nodes, need a token, and payloads are encrypted.
    pub requires_token: bool,
    /// Issuers of tokens trusted besides the node's own key.
    pub roots: BTreeSet<EntityId>,
    /// Bytes kept for subscribers that fell behind. The newest event is kept whatever its size.
    pub retain_bytes_max: u64,
    /// Bytes of the largest payload; 1 to [`PAYLOAD_BYTES_MAX`].
    pub payload_bytes_max: u64,
}

impl Default for ChannelPolicy {
    fn default() -> Self {
        Self {
            requires_token: false,
            roots: BTreeSet::new(),
            retain_bytes_max: 64 << 20,
            payload_bytes_max: 16 << 20,
        }
    }
}

impl ChannelPolicy {
    /// Checks the ranges that the types do not.
    ///
    /// # Errors
    /// [`ConfigError`] for the first option out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refused = |field, rule| Err(ConfigError { field, rule });
        if self.roots.len() > ROOTS_MAX {
            return refused("roots", "must be at most 1024");
        }
        if !(1..=PAYLOAD_BYTES_MAX).contains(&self.payload_bytes_max) {
            return refused("payload_bytes_max", "must be from 1 to 2^30");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked() {
        let policy = ChannelPolicy::default();
        assert_eq!(policy.validate(), Ok(()));
        for payload_bytes_max in [0, PAYLOAD_BYTES_MAX + 1] {
            let bad = ChannelPolicy {
                payload_bytes_max,
                ..policy.clone()
            };
            assert_eq!(bad.validate().map_err(|error| error.field), Err("payload_bytes_max"));
        }
        let roots = (0..=ROOTS_MAX).map(|number| {
            let mut raw = [0; 32];
            raw[..8].copy_from_slice(&number.to_le_bytes());
            EntityId::from_bytes(raw)
        });
        let bad = ChannelPolicy {
            roots: roots.collect(),
            ..policy
        };
        assert_eq!(bad.validate().map_err(|error| error.field), Err("roots"));
    }
}
