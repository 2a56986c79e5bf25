//! The door of a router: bodies that come in and wait for a turn, and outputs of the daemons of the node.

use std::sync::Weak;
use std::sync::atomic::Ordering;

use super::Inner;
use super::vacant::say_nobody;
use crate::mesh::{Delivered, Take};
use crate::outgoing::{Emitter, Outlet, Sending};

/// Bodies that wait for a turn at most.
pub const INBOX_MAX: usize = 16_384;
/// Bytes that wait for a turn at most; one body always has a place.
pub const INBOX_BYTES_MAX: usize = 64 << 20;
/// Bodies of one turn.
const TURN_MAX: usize = 256;

/// Where bodies come in from the carrier, and outputs from the daemons of the node.
pub(super) struct Door(pub(super) Weak<Inner>);

impl Take for Door {
    fn take(&self, delivered: Delivered) -> bool {
        let Some(inner) = self.0.upgrade() else {
            return false;
        };
        if inner.closed.load(Ordering::Acquire) {
            return say_nobody(&inner.carrier, &delivered);
        }
        let size = delivered.body().len();
        let is_taken = inner.inbox.lock().offer(delivered, size);
        if is_taken {
            inner.wake();
        }
        is_taken
    }
}

impl Outlet for Door {
    fn send(&self, emitter: &Emitter, outputs: Vec<Sending>) {
        if let Some(inner) = self.0.upgrade() {
            inner.send_outputs(emitter, outputs);
        }
    }

    fn unsettled(&self, emitter: &Emitter) -> Vec<Sending> {
        let inner = self.0.upgrade();
        inner.map_or_else(Vec::new, |inner| inner.ways.lock().unsettled(emitter.origin))
    }
}

impl Inner {
    /// Takes what waits for this turn.
    pub(super) fn bodies(&self) -> impl Iterator<Item = Delivered> + use<> {
        let mut inbox = self.inbox.lock();
        let bodies = inbox.take_some(TURN_MAX);
        let is_all = inbox.is_empty();
        drop(inbox);
        if !is_all {
            self.wake();
        }
        bodies
    }
}
