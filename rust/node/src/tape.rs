//! The steps of a daemon since a copy of it was made, in memory.
//!
//! Invariants
//! * It has every step since the copy, in their order, or nothing: what does not fit, or was not wanted any more, ends it.
//! * Steps are noted by whoever is inside. Anybody may end it.

use std::sync::Arc;

use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::journal::{Mark, Pending, Step};
use meshos_core::link::CausalLink;
use meshos_core::rows::Write;

use crate::sync::Mutex;

/// Steps of one tape at most.
const STEPS_MAX: u64 = 1_000_000;
/// Bytes of one tape at most.
const BYTES_MAX: usize = 64 << 20;
/// Bytes after which a row ends.
const ROW_BYTES: usize = 4 << 20;

struct Steps {
    pending: Pending,
    rows: Vec<Write>,
    bytes: usize,
}

impl Steps {
    fn end_row(&mut self) {
        let rows = self.pending.take();
        self.bytes += rows.iter().map(Write::encoded_len).sum::<usize>();
        self.rows.extend(rows);
    }
}

/// Steps that are noted for one copy, until somebody ends it.
pub struct Tape(Mutex<Option<Steps>>);

impl Tape {
    /// Begins where a copy was made.
    #[must_use]
    pub(crate) fn after(entity: EntityId, (sequence, digest): (u64, Digest), epoch: u64) -> Arc<Self> {
        let mark = Mark::start(&entity, sequence, digest);
        Arc::new(Self(Mutex::new(Some(Steps {
            pending: Pending::after(entity, mark, epoch),
            rows: Vec::new(),
            bytes: 0,
        }))))
    }

    /// Notes an output of the step that comes next.
    pub(crate) fn output(&self, link: &CausalLink, payload: &[u8]) {
        if let Some(steps) = &mut *self.0.lock() {
            steps.pending.output(link, payload);
        }
    }

    /// Notes a step, after its outputs; `false`: it was ended.
    pub(crate) fn step(&self, step: &Step<'_>) -> bool {
        let mut state = self.0.lock();
        let Some(steps) = &mut *state else { return false };
        steps.pending.step(step);
        if steps.pending.is_full() || steps.pending.bytes() >= ROW_BYTES {
            steps.end_row();
        }
        let fits = steps.bytes + steps.pending.bytes() <= BYTES_MAX && steps.pending.mark().step < STEPS_MAX;
        let ended = if fits { None } else { state.take() };
        drop(state);
        drop(ended);
        fits
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        let ended = self.0.lock().take();
        drop(ended);
    }

    /// Ends it, and gives the rows of all steps and their outputs; `None`: it was ended, or does not lead to where the chain
    /// is.
    pub(crate) fn finish(&self, (sequence, digest): (u64, Digest)) -> Option<Vec<Write>> {
        let mut steps = self.0.lock().take()?;
        let end = *steps.pending.mark();
        steps.end_row();
        ((end.sequence, end.digest) == (sequence, digest)).then_some(steps.rows)
    }
}
