//! Where an output goes besides the chain, which it always goes to.

use crate::id::Origin;
use crate::name::ChannelName;

/// Where an output goes besides the chain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Route {
    /// Nowhere else.
    #[default]
    Chain,
    /// To all who subscribe to this channel of the node.
    Channel(ChannelName),
    /// To this daemon, wherever it lives.
    To(Origin),
}

impl Route {
    /// Whether it goes nowhere else.
    #[must_use]
    pub const fn is_chain(&self) -> bool {
        matches!(self, Self::Chain)
    }
}
