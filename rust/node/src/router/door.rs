//! The door of a router: bodies that come in and wait for a turn, and outputs of the daemons of the node.

use std::collections::VecDeque;
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

#[derive(Default)]
pub(super) struct Inbox {
    bodies: VecDeque<Delivered>,
    bytes: usize,
}

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
        let mut inbox = inner.inbox.lock();
        let is_full = inbox.bodies.len() >= INBOX_MAX || inbox.bytes + size > INBOX_BYTES_MAX;
        if is_full && !inbox.bodies.is_empty() {
            return false;
        }
        inbox.bodies.push_back(delivered);
        inbox.bytes += size;
        drop(inbox);
        inner.wake();
        true
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
    pub(super) fn bodies(&self) -> VecDeque<Delivered> {
        let mut inbox = self.inbox.lock();
        if inbox.bodies.len() <= TURN_MAX {
            inbox.bytes = 0;
            return std::mem::take(&mut inbox.bodies);
        }
        let bodies: VecDeque<_> = inbox.bodies.drain(..TURN_MAX).collect();
        inbox.bytes -= bodies.iter().map(|body| body.body().len()).sum::<usize>();
        drop(inbox);
        self.wake();
        bodies
    }
}
