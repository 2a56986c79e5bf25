//! Buffers of the frames in which the chunks of one image travel, each used again for the next chunk.
//!
//! Invariants
//! * As many are kept as chunks are on their way at a time, and none once the image is sent: what the allocator keeps of
//!   freed frames does not grow with the threads that seal them.

use std::sync::Arc;

use meshos_core::buffer::{Buffer, Home};
use meshos_core::move_chunks::WINDOW;

use crate::sync::Mutex;

/// Those of one image.
#[derive(Default)]
pub(super) struct Buffers {
    free: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// One that comes back here.
    pub(super) fn lend(self: &Arc<Self>) -> Buffer {
        let free = self.free.lock().pop();
        Buffer::lent(free.unwrap_or_default(), Arc::clone(self) as Arc<dyn Home>)
    }
}

impl Home for Buffers {
    fn take_back(&self, buffer: Vec<u8>) {
        let mut free = self.free.lock();
        if free.len() < WINDOW {
            free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_no_more_are_kept_than_travel_at_a_time() {
        let buffers = Arc::new(Buffers::default());
        let mut first = buffers.lend();
        first.bytes_mut().reserve_exact(1000);
        let place = first.as_ptr();
        drop(first);
        let again = buffers.lend();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        let many: Vec<_> = (0..2 * WINDOW).map(|_| buffers.lend()).collect();
        drop((again, many));
        assert_eq!(buffers.free.lock().len(), WINDOW);
    }
}
