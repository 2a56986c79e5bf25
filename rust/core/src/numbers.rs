//! Decision: which number an event of a sender gets.
//!
//! A sender that lives longer than its process reserves numbers in blocks, durably, before it uses them. After a restart it
//! skips what was left of the last block: it cannot know how many were used. A sender that is new in each process reserves
//! nothing and begins at 1.
//!
//! | state | take | kept | failed |
//! |---|---|---|---|
//! | Plenty: more than half a block is left | a number | – | – |
//! | Low: less is left, a reservation is under way | a number | Plenty | asked again at the next take |
//! | Dry: none is left, a reservation is under way | wait | Plenty | asked again at the next take |
//! | Spent: 2^64 - 1 was used | exhausted | – | – |
//!
//! Invariants
//! * Numbers rise, and none is given twice, whatever happens to the process.
//! * No number is given above what is known to be kept.
//! * At most one reservation is under way.
//!
//! Source: rule R1 of the move protocol.

/// Numbers reserved at once.
pub const BLOCK: u64 = 4096;

/// What happens to the numbers of a sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// An event needs a number.
    Take,
    /// It is durable that numbers up to this one may have been used.
    Kept {
        /// The last of them.
        up_to: u64,
    },
    /// A reservation was not kept.
    Failed,
}

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The number of the event.
    Number(u64),
    /// No number may be used yet: take again when a reservation is kept.
    Wait,
    /// There is no number after 2^64 - 1.
    Exhausted,
    /// Make durable that numbers up to this one may have been used, then say so.
    Reserve {
        /// The last of them.
        up_to: u64,
    },
}

/// The numbers of one sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    /// The last that was given.
    last: u64,
    /// The last that may be given.
    kept: u64,
    /// The reservation under way.
    asked: Option<u64>,
    block: u64,
}

impl Numbers {
    /// Numbers of a sender that does not outlive its process.
    #[must_use]
    pub const fn fresh() -> Self {
        Self {
            last: 0,
            kept: u64::MAX,
            asked: None,
            block: BLOCK,
        }
    }

    /// Numbers of a sender that had durably reserved up to `kept` when its process ended; 0 for a new one.
    ///
    /// # Panics
    /// If `block` is 0.
    #[must_use]
    pub const fn after(kept: u64, block: u64) -> Self {
        assert!(block > 0, "a block has numbers");
        Self {
            last: kept,
            kept,
            asked: None,
            block,
        }
    }

    /// Numbers that may still be given without a reservation.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.kept - self.last
    }

    /// Decides one step.
    pub fn step(&mut self, signal: Signal, actions: &mut Vec<Action>) {
        match signal {
            Signal::Take if self.last == u64::MAX => actions.push(Action::Exhausted),
            Signal::Take => {
                if self.left() > 0 {
                    self.last += 1;
                    actions.push(Action::Number(self.last));
                } else {
                    actions.push(Action::Wait);
                }
                if self.left() <= self.block / 2 && self.kept < u64::MAX && self.asked.is_none() {
                    let up_to = self.kept.saturating_add(self.block);
                    self.asked = Some(up_to);
                    actions.push(Action::Reserve { up_to });
                }
            }
            Signal::Kept { up_to } => {
                // Only what was asked for counts: a late answer of another incarnation says nothing of this one.
                if self.asked == Some(up_to) {
                    (self.kept, self.asked) = (up_to, None);
                }
            }
            Signal::Failed => self.asked = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(numbers: &mut Numbers, signal: Signal) -> Vec<Action> {
        let mut actions = Vec::new();
        numbers.step(signal, &mut actions);
        actions
    }

    const KEPT: Signal = Signal::Kept { up_to: 14 };

    /// Every pair of state and signal.
    #[test]
    fn table() {
        let state = |last, kept, asked| Numbers {
            last,
            kept,
            asked,
            block: 4,
        };
        let (plenty, low, dry) = (state(6, 10, None), state(9, 10, Some(14)), state(10, 10, Some(14)));
        let spent = state(u64::MAX, u64::MAX, None);
        let reserve = Action::Reserve { up_to: 14 };
        let table: [(&Numbers, Signal, Vec<Action>, Numbers); 12] = [
            (&plenty, Signal::Take, vec![Action::Number(7)], state(7, 10, None)),
            (&plenty, KEPT, vec![], plenty.clone()),
            (&plenty, Signal::Failed, vec![], plenty.clone()),
            (&low, Signal::Take, vec![Action::Number(10)], dry.clone()),
            (&low, KEPT, vec![], state(9, 14, None)),
            (&low, Signal::Failed, vec![], state(9, 10, None)),
            (&dry, Signal::Take, vec![Action::Wait], dry.clone()),
            (&dry, KEPT, vec![], state(10, 14, None)),
            (&dry, Signal::Failed, vec![], state(10, 10, None)),
            (&spent, Signal::Take, vec![Action::Exhausted], spent.clone()),
            (&spent, KEPT, vec![], spent.clone()),
            (&spent, Signal::Failed, vec![], spent.clone()),
        ];
        for (before, signal, actions, after) in table {
            let mut numbers = before.clone();
            assert_eq!(step(&mut numbers, signal), actions, "{before:?} {signal:?}");
            assert_eq!(numbers, after, "{before:?} {signal:?}");
        }
        let mut asks = state(7, 10, None);
        assert_eq!(step(&mut asks, Signal::Take), [Action::Number(8), reserve]);
        let mut failed = state(10, 10, None);
        assert_eq!(step(&mut failed, Signal::Take), [Action::Wait, reserve]);
    }

    #[test]
    fn a_restart_skips_what_was_left_of_the_block() {
        let mut numbers = Numbers::after(0, 8);
        assert_eq!(
            step(&mut numbers, Signal::Take),
            [Action::Wait, Action::Reserve { up_to: 8 }]
        );
        step(&mut numbers, Signal::Kept { up_to: 8 });
        assert_eq!(step(&mut numbers, Signal::Take), [Action::Number(1)]);
        let mut numbers = Numbers::after(8, 8);
        step(&mut numbers, Signal::Take);
        // A late answer to the process before changes nothing.
        step(&mut numbers, Signal::Kept { up_to: 12 });
        assert_eq!(numbers.left(), 0);
        step(&mut numbers, Signal::Kept { up_to: 16 });
        assert_eq!(step(&mut numbers, Signal::Take), [Action::Number(9)]);
    }

    #[test]
    fn a_sender_of_one_process_reserves_nothing() {
        let mut numbers = Numbers::fresh();
        for number in 1..=3 {
            assert_eq!(step(&mut numbers, Signal::Take), [Action::Number(number)]);
        }
    }

    #[test]
    fn the_last_number_is_given_once() {
        let mut numbers = Numbers::after(u64::MAX - 2, 8);
        assert_eq!(
            step(&mut numbers, Signal::Take),
            [Action::Wait, Action::Reserve { up_to: u64::MAX }]
        );
        step(&mut numbers, Signal::Kept { up_to: u64::MAX });
        assert_eq!(step(&mut numbers, Signal::Take), [Action::Number(u64::MAX - 1)]);
        assert_eq!(step(&mut numbers, Signal::Take), [Action::Number(u64::MAX)]);
        assert_eq!(step(&mut numbers, Signal::Take), [Action::Exhausted]);
    }
}
