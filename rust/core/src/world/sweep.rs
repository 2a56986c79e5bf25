//! Where a pass over everything is.

use super::{Key, Why};

/// Where a pass over everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sweep {
    /// The key looked at last.
    pub after: Option<Key>,
    /// In a second round, the last key of it.
    pub stop: Option<Key>,
    /// There is a second round, up to this key: it was looked at before the newest change.
    pub again: Option<Key>,
    /// What began it: something that concerns every chain, or the interval, which expects to find nothing.
    pub why: Option<Why>,
}

impl Sweep {
    /// One that begins with the first key.
    #[must_use]
    pub const fn new(why: Option<Why>) -> Self {
        Self {
            after: None,
            stop: None,
            again: None,
            why,
        }
    }

    /// The same, after something changed that concerns every key. It goes on where it is: who began anew with each
    /// change would never come to the end.
    #[must_use]
    pub const fn extended(self, why: Why) -> Self {
        Self {
            after: self.after,
            stop: None,
            again: self.after,
            why: Some(why),
        }
    }

    /// What follows the last key; `None`: it is over.
    #[must_use]
    pub fn next_round(self) -> Option<Self> {
        let again = self.again?;
        Some(Self {
            after: None,
            stop: Some(again),
            again: None,
            why: self.why,
        })
    }
}
