//! Who waits for what becomes of a command.
//!
//! Invariants
//! * A verdict is told after the snapshot that shows its effect was published.
//! * Who waits is bounded, waits with a deadline, and is told when the loop ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshos_core::refusal::Refused;

use crate::clock::Deadline;
use crate::sync::{Condvar, Mutex};

/// Commands that may be waited for at once.
pub const WAITING_MAX: usize = 4096;

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Why it was refused; `None`: it took effect.
    pub refused: Option<Refused>,
    /// Number of its audit record.
    pub audit_seq: u64,
    /// Snapshots from this generation on show its effect.
    pub generation: u64,
}

/// Where one who waits is told.
type Place = Arc<Mutex<Option<Verdict>>>;

#[derive(Default)]
struct State {
    waiting: BTreeMap<[u8; 16], Vec<Place>>,
    count: usize,
    ended: bool,
}

/// The commands of one loop that somebody waits for.
#[derive(Default)]
pub struct Verdicts {
    state: Mutex<State>,
    bell: Condvar,
}

/// A place to be told at. Dropping it gives it up.
pub struct Waiting<'a> {
    verdicts: &'a Verdicts,
    envelope_id: [u8; 16],
    place: Place,
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// This became of it.
    Verdict(Verdict),
    /// Time was up; it may still take effect.
    TimedOut,
    /// The loop ended.
    Ended,
    /// The caller was interrupted.
    Interrupted,
}

impl Verdicts {
    /// A place to be told at what becomes of an envelope; `None`: too many wait.
    #[must_use]
    pub fn expect(&self, envelope_id: [u8; 16]) -> Option<Waiting<'_>> {
        let mut state = self.state.lock();
        if state.count >= WAITING_MAX {
            return None;
        }
        let place = Place::default();
        state.count += 1;
        state.waiting.entry(envelope_id).or_default().push(Arc::clone(&place));
        Some(Waiting {
            verdicts: self,
            envelope_id,
            place,
        })
    }

    /// Tells the one who has waited longest for an envelope: each attempt has one verdict.
    pub fn tell(&self, envelope_id: [u8; 16], verdict: Verdict) {
        let mut state = self.state.lock();
        let places = state.waiting.get_mut(&envelope_id).filter(|places| !places.is_empty());
        let place = places.map(|places| places.remove(0));
        if state.waiting.get(&envelope_id).is_some_and(Vec::is_empty) {
            state.waiting.remove(&envelope_id);
        }
        if let Some(place) = place {
            *place.lock() = Some(verdict);
            state.count -= 1;
            self.bell.notify_all();
        }
    }

    /// Tells everybody that nothing more comes.
    pub fn end(&self) {
        self.state.lock().ended = true;
        self.bell.notify_all();
    }
}

impl Waiting<'_> {
    /// Waits for the verdict. `interrupted` is asked about twenty times a second.
    pub fn wait(&self, deadline: Deadline, interrupted: &mut dyn FnMut() -> bool) -> Heard {
        let mut state = self.verdicts.state.lock();
        loop {
            if let Some(verdict) = self.place.lock().take() {
                return Heard::Verdict(verdict);
            }
            if state.ended {
                return Heard::Ended;
            }
            if deadline.passed() {
                return Heard::TimedOut;
            }
            state = self.verdicts.bell.wait_until(state, deadline.slice());
            drop(state);
            if interrupted() {
                return Heard::Interrupted;
            }
            state = self.verdicts.state.lock();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.verdicts.state.lock();
        let Some(places) = state.waiting.get_mut(&self.envelope_id) else {
            return;
        };
        let before = places.len();
        places.retain(|place| !Arc::ptr_eq(place, &self.place));
        let left = before - places.len();
        if places.is_empty() {
            state.waiting.remove(&self.envelope_id);
        }
        state.count -= left;
    }
}
