//! Decision: what becomes of an event that failed while nobody waits for it.
//!
//! Invariants
//! * It is tried as often as the options say, later each time, and then passed over; never dropped.
//! * While there is no room for a dead letter it is tried on, and what comes after it of the same sender waits.

use std::time::Duration;

use crate::dead_letter::{LETTERS_BYTES_MAX, LETTERS_MAX};

/// Wait after the first failure; it doubles with each.
pub const WAIT_FIRST: Duration = Duration::from_millis(50);

/// The longest wait.
pub const WAIT_MAX: Duration = Duration::from_secs(5);

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try it again after so long.
    Retry(Duration),
    /// Pass it over.
    PassOver,
}

/// The dead letters that a daemon has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// How many.
    pub letters: usize,
    /// Their payload bytes.
    pub bytes: u64,
}

impl Held {
    /// Whether there is room for one more of so many bytes.
    #[must_use]
    pub fn has_room(&self, bytes: u64) -> bool {
        self.letters < LETTERS_MAX && (self.letters == 0 || self.bytes.saturating_add(bytes) <= LETTERS_BYTES_MAX)
    }
}

/// Decides after the `failed`-th try, counted from 1, at an event of so many payload bytes.
#[must_use]
pub fn after(failed: u32, attempts_max: u32, held: &Held, bytes: u64) -> Next {
    if failed >= attempts_max && held.has_room(bytes) {
        return Next::PassOver;
    }
    let doubled = 1u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX);
    Next::Retry(WAIT_FIRST.saturating_mul(doubled).min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_as_often_as_it_says_and_later_each_time() {
        let none = Held::default();
        let waits: Vec<Next> = (1..=5).map(|failed| after(failed, 5, &none, 10)).collect();
        let retry = |millis| Next::Retry(Duration::from_millis(millis));
        assert_eq!(waits, [retry(50), retry(100), retry(200), retry(400), Next::PassOver]);
        assert_eq!(after(1, 1, &none, 10), Next::PassOver);
        assert_eq!(after(8, 1000, &none, 10), Next::Retry(WAIT_MAX));
        assert_eq!(after(u32::MAX - 1, u32::MAX, &none, 10), Next::Retry(WAIT_MAX));
    }

    #[test]
    fn without_room_it_is_tried_on() {
        let by_count = Held {
            letters: LETTERS_MAX,
            bytes: 0,
        };
        let by_bytes = Held {
            letters: 1,
            bytes: LETTERS_BYTES_MAX,
        };
        for held in [by_count, by_bytes] {
            assert_eq!(after(6, 5, &held, 1), Next::Retry(Duration::from_millis(1600)));
        }
        assert_eq!(after(5, 5, &Held::default(), u64::MAX), Next::PassOver);
    }
}
