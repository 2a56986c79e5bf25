//! Which events are new: the decision at the door of a daemon.
//!
//! Invariants
//! * A cursor is the highest number applied of one (origin, stream); it never moves back.
//! * Under [`Delivery::Once`] a number at or below the cursor is never applied again.
//! * Number 0 does not exist.
//!
//! Source: the receiving half of the rules R2, R4 and R5 of the move protocol; callers of `deliver` may skip numbers.

use crate::config::Delivery;
use crate::cursors::{Cursors, Receipt};
use crate::id::Origin;

/// Stream of direct sends and deliveries.
pub const DIRECT: u64 = 0;

/// What is known of an event before it is processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventKey {
    /// Who emitted it.
    pub origin: Origin,
    /// What it belongs to at its receiver; [`DIRECT`] for direct sends.
    pub stream: u64,
    /// Its number at its origin, from 1.
    pub sequence: u64,
}

/// The decision about one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is new, or may be repeated: call `process`.
    CallProcess,
    /// It took effect before. The receipt of that time, as long as it is kept.
    Duplicate {
        /// `None`: it is older than the receipts kept, or was delivered without one.
        receipt: Option<Receipt>,
        /// Highest number applied of its origin.
        cursor: u64,
    },
    /// Its number is 0, which no event has.
    NoNumber,
}

/// Decides about one event.
#[must_use]
pub fn admit(cursors: &Cursors, delivery: Delivery, key: EventKey) -> Admission {
    if key.sequence == 0 {
        return Admission::NoNumber;
    }
    let cursor = cursors.get(key.origin, key.stream);
    match delivery {
        Delivery::Once if key.sequence <= cursor => Admission::Duplicate {
            receipt: cursors.receipt(key.origin, key.stream, key.sequence).copied(),
            cursor,
        },
        Delivery::Once | Delivery::AtLeastOnce => Admission::CallProcess,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn key(sequence: u64) -> EventKey {
        EventKey {
            origin: Origin::new(7),
            stream: DIRECT,
            sequence,
        }
    }

    fn at_five() -> Cursors {
        let mut cursors = Cursors::default();
        cursors.advance(Origin::new(7), DIRECT, 5);
        cursors
    }

    /// Every pair of (delivery, position of the number relative to the cursor).
    #[test]
    fn table() {
        let duplicate = Admission::Duplicate {
            receipt: None,
            cursor: 5,
        };
        let table = [
            (Delivery::Once, 0, Admission::NoNumber),
            (Delivery::Once, 4, duplicate),
            (Delivery::Once, 5, duplicate),
            (Delivery::Once, 6, Admission::CallProcess),
            (Delivery::Once, u64::MAX, Admission::CallProcess),
            (Delivery::AtLeastOnce, 0, Admission::NoNumber),
            (Delivery::AtLeastOnce, 4, Admission::CallProcess),
            (Delivery::AtLeastOnce, 5, Admission::CallProcess),
            (Delivery::AtLeastOnce, 6, Admission::CallProcess),
            (Delivery::AtLeastOnce, u64::MAX, Admission::CallProcess),
        ];
        for (delivery, sequence, decision) in table {
            assert_eq!(
                admit(&at_five(), delivery, key(sequence)),
                decision,
                "{delivery:?} {sequence}"
            );
        }
    }

    #[test]
    fn a_duplicate_gets_its_own_receipt() {
        let mut cursors = at_five();
        let receipt = Receipt {
            sequence: 5,
            epoch: 1,
            processed: 3,
            position: 9,
            digest: Digest::ZERO,
        };
        cursors.keep_receipt(Origin::new(7), DIRECT, receipt);
        assert_eq!(
            admit(&cursors, Delivery::Once, key(5)),
            Admission::Duplicate {
                receipt: Some(receipt),
                cursor: 5
            }
        );
        assert_eq!(
            admit(&cursors, Delivery::Once, key(4)),
            Admission::Duplicate {
                receipt: None,
                cursor: 5
            }
        );
    }

    #[test]
    fn origins_and_streams_do_not_disturb_each_other() {
        let other_origin = EventKey {
            origin: Origin::new(8),
            ..key(1)
        };
        let other_stream = EventKey { stream: 1, ..key(1) };
        assert_eq!(admit(&at_five(), Delivery::Once, other_origin), Admission::CallProcess);
        assert_eq!(admit(&at_five(), Delivery::Once, other_stream), Admission::CallProcess);
    }
}
