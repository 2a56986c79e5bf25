//! Events that wait.

use super::{Action, Gate, MoveSource, Waiting};
use crate::move_frame::QUEUE_BYTES_MAX;
use crate::move_rows::{QUEUED_MAX, Queued};

impl MoveSource {
    pub(super) fn event(&mut self, queued: Queued, actions: &mut Vec<Action>) {
        let waiting = Waiting {
            from: queued.from,
            origin: queued.origin,
            stream: queued.stream,
            sequence: queued.sequence,
        };
        let key = (queued.origin, queued.stream, queued.sequence);
        let bytes = queued.encoded_len();
        let is_full = self.queue.len() >= self.config.queue_max
            || (self.queue_bytes + bytes > self.config.queue_bytes_max && !self.queue.is_empty());
        if self.gate() != Gate::Wait {
            self.counters.late += 1;
        } else if self.waiting.contains(&key) {
            self.counters.repeated += 1;
            actions.push(Action::Waits(waiting));
        } else if is_full {
            self.counters.refused += 1;
            actions.push(Action::Busy(waiting));
        } else {
            self.counters.queued += 1;
            self.waiting.insert(key);
            self.queue_bytes += bytes;
            self.queue.push_back(queued);
            actions.push(Action::Waits(waiting));
        }
    }

    pub(super) fn take_queue(&mut self) -> Vec<Queued> {
        self.waiting.clear();
        self.queue_bytes = 0;
        std::mem::take(&mut self.queue).into()
    }
}

/// How many of the first events travel in one message.
pub(super) fn shipped(queue: &[Queued]) -> usize {
    let mut bytes = 0;
    let fits = |queued: &&Queued| {
        bytes += queued.encoded_len();
        bytes <= QUEUE_BYTES_MAX
    };
    queue.iter().take(QUEUED_MAX).take_while(fits).count()
}
