//! Decision: what becomes of an event that comes in as part of a linked stream, and what a node that is not the owner says.
//!
//! There are two ways into a daemon. [`ingress`](crate::ingress) is for callers of `deliver`: the caller's order is the
//! order, so numbers may be skipped. This one is for the network, which loses and reorders: each event names the number
//! that its origin sent before it, and is applied only if that one was. Both use the same cursors, so a number is applied
//! once whichever way it comes; a direct delivery that skips numbers closes the gap for linked ones. Under
//! `at_least_once` a caller of `deliver` may repeat; a linked event never is repeated, since only its sender's link retries.
//!
//! | number of the event | `prev` | receipt kept | admission |
//! |---|---|---|---|
//! | 0, or not above `prev` | any | any | Malformed |
//! | at or below the cursor | below it | yes | Duplicate, with the original receipt |
//! | at or below the cursor | below it | no | Stale: never an acknowledgement |
//! | above the cursor | above the cursor | any | Gap |
//! | above the cursor | at or below the cursor | any | CallProcess |
//!
//! Invariants
//! * No event is applied before an event that its origin sent before it in the same flow.
//! * An event is acknowledged with the receipt of its first application, or not at all.
//!
//! Source: rules R2, R4, R5 and R7 of the move protocol.

use crate::cursors::{Cursors, RECEIPTS_MAX, Receipt};
use crate::id::EntityId;
use crate::ingress::EventKey;
use crate::stream::{Flow, Frame};

/// The decision about one linked event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is new, and nothing before it is missing: call `process`, and keep a receipt.
    CallProcess,
    /// It took effect before. It is answered when that is durable.
    Duplicate(Receipt),
    /// It is at or below the cursor, and its receipt is not kept.
    Stale {
        /// Highest number applied of its origin.
        cursor: u64,
    },
    /// Events before it are missing.
    Gap {
        /// Highest number applied of its origin.
        cursor: u64,
    },
    /// It has no number, or names a later one as the one before.
    Malformed,
}

/// Decides about one linked event.
#[must_use]
pub fn admit(cursors: &Cursors, key: EventKey, prev: u64) -> Admission {
    if key.sequence <= prev {
        return Admission::Malformed;
    }
    let cursor = cursors.get(key.origin, key.stream);
    if key.sequence <= cursor {
        return match cursors.receipt(key.origin, key.stream, key.sequence) {
            Some(receipt) => Admission::Duplicate(*receipt),
            None => Admission::Stale { cursor },
        };
    }
    if prev > cursor {
        return Admission::Gap { cursor };
    }
    Admission::CallProcess
}

impl Admission {
    /// The answer of an owner of this epoch. `None`: it is answered when it took effect, or never.
    #[must_use]
    pub const fn answer(self, flow: Flow, sequence: u64, epoch: u64) -> Option<Frame<'static>> {
        match self {
            Self::CallProcess | Self::Malformed => None,
            Self::Duplicate(receipt) => Some(Frame::Ack {
                flow,
                receipt,
                duplicate: true,
            }),
            Self::Stale { cursor } => Some(Frame::Stale {
                flow,
                sequence,
                cursor,
                epoch,
            }),
            Self::Gap { cursor } => Some(Frame::Gap {
                flow,
                sequence,
                cursor,
                epoch,
            }),
        }
    }
}

/// What a node that does not own the entity answers: the highest record that it knows, if that is news to the sender.
/// `believed` is the epoch that the event carries, `sequence` 0 answers the question who the owner is.
#[must_use]
pub fn elsewhere(known: Option<(EntityId, u64)>, flow: Flow, sequence: u64, believed: u64) -> Frame<'static> {
    match known {
        // A record that the sender knows, or knows better, would send it round in circles.
        Some((node, epoch)) if epoch > believed => Frame::Moved {
            flow,
            sequence,
            node,
            epoch,
        },
        _ => Frame::NotHere { flow, sequence },
    }
}

/// A sender has at most so many events from its oldest open one on their way: as many receipts are kept.
pub const WINDOW: usize = RECEIPTS_MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::id::Origin;

    const ORIGIN: Origin = Origin::new(7);

    fn key(sequence: u64) -> EventKey {
        EventKey {
            origin: ORIGIN,
            stream: 3,
            sequence,
        }
    }

    fn flow() -> Flow {
        Flow {
            entity: EntityId::from_bytes([1; 32]),
            origin: ORIGIN,
            stream: 3,
        }
    }

    fn receipt(sequence: u64) -> Receipt {
        Receipt {
            sequence,
            epoch: 1,
            processed: 3,
            position: 9,
            digest: Digest::ZERO,
        }
    }

    /// Applied up to 5; the receipt of 4 is kept, that of 5 is not.
    fn at_five() -> Cursors {
        let mut cursors = Cursors::default();
        cursors.keep_receipt(ORIGIN, 3, receipt(4));
        cursors.advance(ORIGIN, 3, 5);
        cursors
    }

    #[test]
    fn table() {
        let (stale, gap) = (Admission::Stale { cursor: 5 }, Admission::Gap { cursor: 5 });
        let table = [
            (0, 0, Admission::Malformed),
            (6, 6, Admission::Malformed),
            (6, 7, Admission::Malformed),
            (4, 3, Admission::Duplicate(receipt(4))),
            (4, 0, Admission::Duplicate(receipt(4))),
            (5, 4, stale),
            (3, 0, stale),
            (6, 5, Admission::CallProcess),
            (6, 3, Admission::CallProcess),
            (9, 0, Admission::CallProcess),
            (u64::MAX, 5, Admission::CallProcess),
            (8, 7, gap),
            (8, 6, gap),
            (u64::MAX, u64::MAX - 1, gap),
        ];
        for (sequence, prev, decision) in table {
            assert_eq!(
                admit(&at_five(), key(sequence), prev),
                decision,
                "{sequence} after {prev}"
            );
        }
    }

    #[test]
    fn every_admission_has_its_answer() {
        let answer = |admission: Admission| admission.answer(flow(), 9, 2);
        assert_eq!(answer(Admission::CallProcess), None);
        assert_eq!(answer(Admission::Malformed), None);
        let ack = Frame::Ack {
            flow: flow(),
            receipt: receipt(9),
            duplicate: true,
        };
        assert_eq!(answer(Admission::Duplicate(receipt(9))), Some(ack));
        let (flow, sequence, cursor, epoch) = (flow(), 9, 5, 2);
        let stale = Frame::Stale {
            flow,
            sequence,
            cursor,
            epoch,
        };
        assert_eq!(answer(Admission::Stale { cursor }), Some(stale));
        let gap = Frame::Gap {
            flow,
            sequence,
            cursor,
            epoch,
        };
        assert_eq!(answer(Admission::Gap { cursor }), Some(gap));
    }

    #[test]
    fn only_a_record_that_is_news_is_told() {
        let node = EntityId::from_bytes([2; 32]);
        let (flow, sequence) = (flow(), 9);
        let not_here = Frame::NotHere { flow, sequence };
        assert_eq!(elsewhere(None, flow, sequence, 0), not_here);
        for (epoch, believed) in [(2, 2), (2, 3)] {
            assert_eq!(elsewhere(Some((node, epoch)), flow, sequence, believed), not_here);
        }
        let moved = Frame::Moved {
            flow,
            sequence,
            node,
            epoch: 2,
        };
        assert_eq!(elsewhere(Some((node, 2)), flow, sequence, 1), moved);
    }

    #[test]
    fn a_direct_delivery_that_skips_numbers_closes_the_gap() {
        let mut cursors = at_five();
        assert_eq!(admit(&cursors, key(8), 7), Admission::Gap { cursor: 5 });
        cursors.advance(ORIGIN, 3, 7);
        assert_eq!(admit(&cursors, key(8), 7), Admission::CallProcess);
        assert_eq!(admit(&cursors, key(6), 5), Admission::Stale { cursor: 7 });
    }
}
