//! What channels send in one turn, packed by node.
//!
//! Invariants
//! * Messages to one node go out in the order in which they were put in.
//! * A body has no more than [`PARCEL_BYTES`] unless one message alone is longer.

use std::collections::HashMap;

use meshos_core::channel_frame::ChannelFrame;
use meshos_core::frame::Kind;
use meshos_core::id::EntityId;
use meshos_core::parcel::Packer;

use crate::carrier::Carrier;

/// Bytes after which a body is sent and another begun.
pub(crate) const PARCEL_BYTES: usize = 64 << 10;
/// Bodies that were sent whose room is kept.
const SPARE_MAX: usize = 8;
/// Nodes whose room is kept from turn to turn.
const KEPT_MAX: usize = 64;

/// Messages on their way out.
#[derive(Default)]
pub(crate) struct Outgoing {
    packers: HashMap<EntityId, Packer>,
    full: Vec<(EntityId, Packer)>,
    /// Sent, and kept for their room.
    spare: Vec<Packer>,
    sent: u64,
    lost: u64,
}

impl Outgoing {
    /// Puts in a message.
    pub(crate) fn put(&mut self, to: &EntityId, message: &[u8]) {
        self.write(to, message.len(), |out| out.extend_from_slice(message));
    }

    /// Puts in a frame.
    pub(crate) fn frame(&mut self, to: &EntityId, frame: &ChannelFrame<'_>) {
        self.write(to, 0, |out| frame.put(out));
    }

    /// Puts in the message that `write` appends, of about so many bytes.
    pub(crate) fn write(&mut self, to: &EntityId, bytes: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let packer = self.packers.entry(*to).or_default();
        if !packer.is_empty() && packer.len() + bytes > PARCEL_BYTES {
            let spare = self.spare.pop().unwrap_or_default();
            self.full.push((*to, std::mem::replace(packer, spare)));
        }
        packer.put(write);
    }

    /// Sends everything. What the carrier refuses is lost, as anything may be on the way.
    pub(crate) fn send(&mut self, carrier: &Carrier) {
        for (to, mut packer) in self.full.drain(..) {
            self.sent += packer.messages() as u64;
            self.lost += u64::from(carrier.post(&to, Kind::CHANNEL, packer.body()).is_err());
            if self.spare.len() < SPARE_MAX && packer.len() <= 2 * PARCEL_BYTES {
                packer.clear();
                self.spare.push(packer);
            }
        }
        for (to, packer) in &mut self.packers {
            if packer.is_empty() {
                continue;
            }
            self.sent += packer.messages() as u64;
            self.lost += u64::from(carrier.post(to, Kind::CHANNEL, packer.body()).is_err());
            packer.clear();
        }
        if self.packers.len() > KEPT_MAX {
            self.packers.clear();
        }
    }

    /// Takes over what another has; `true`: there was something.
    pub(crate) fn merge(&mut self, other: Self) -> bool {
        let waiting = other.packers.into_iter().filter(|(_, packer)| !packer.is_empty());
        let before = self.full.len();
        self.full.extend(other.full);
        self.full.extend(waiting);
        self.full.len() > before
    }

    /// Messages that were sent, and bodies that the carrier refused, so far.
    pub(crate) const fn counts(&self) -> (u64, u64) {
        (self.sent, self.lost)
    }
}
