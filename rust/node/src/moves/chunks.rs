//! Chunks of images: sealed where they are, opened where they go, on threads of their own unless they are short.
//!
//! Invariants
//! * A chunk is sealed when it is asked for, and opened when it came: only as many are in memory as the window has.

use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use meshos_core::digest::Digest;
use meshos_core::frame::Kind;
use meshos_core::id::EntityId;
use meshos_core::image::seal::{Opener, SEAL_SIZE, Sealer, plain_range};
use meshos_core::move_frame::{Body, MoveFrame};
use meshos_core::move_rows::MoveOrder;
use meshos_core::ownership::MigrationId;

use super::{Item, Moves};
use crate::image::Image;
use crate::lane::{Job, Lanes};
use crate::mesh::Delivered;
use crate::sync::Mutex;

/// What is so short is sealed and opened at once: handing it to another thread takes longer.
const AT_ONCE: u64 = 16 << 10;

/// Bytes that a frame has beside the bytes of a chunk, or more.
const FRAME_SIZE: usize = 256;

/// A chunk that is to be sent.
pub(super) struct Seal {
    pub(super) to: EntityId,
    pub(super) order: Arc<MoveOrder>,
    pub(super) image: Arc<Image>,
    pub(super) sealer: Arc<Sealer>,
    pub(super) index: u32,
    /// Not before.
    pub(super) at: Option<Instant>,
}

/// A chunk that came.
pub(super) struct Open {
    pub(super) entity: EntityId,
    pub(super) mid: MigrationId,
    pub(super) image: Digest,
    pub(super) index: u32,
    pub(super) sealed: Sealed,
    pub(super) opener: Arc<Opener>,
    pub(super) spool: Arc<Spool>,
}

/// A chunk in the message that it came in.
pub(super) struct Sealed {
    delivered: Delivered,
    place: Range<usize>,
}

impl Sealed {
    /// `bytes` lie in the body of what was delivered.
    pub(super) fn of(delivered: &Delivered, bytes: &[u8]) -> Self {
        let start = bytes.as_ptr().addr() - delivered.body().as_ptr().addr();
        Self {
            delivered: delivered.clone(),
            place: start..start + bytes.len(),
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.delivered.body()[self.place.clone()]
    }
}

/// What became of it.
pub(super) struct Opened {
    pub(super) mid: MigrationId,
    pub(super) image: Digest,
    pub(super) index: u32,
    /// How long it was when it came.
    pub(super) length: usize,
    pub(super) is_whole: bool,
}

/// Where the bytes of an image are put together.
pub(super) struct Spool(pub(super) Mutex<Vec<u8>>);

pub(super) struct Chunks {
    lanes: Lanes,
    moves: Weak<Moves>,
}

impl Chunks {
    pub(super) fn new(moves: Weak<Moves>) -> Self {
        Self {
            lanes: Lanes::new("meshos-chunks", 2, |body| body()),
            moves,
        }
    }

    pub(super) fn seal(&self, seal: Seal) {
        let (at, is_small) = (seal.at, seal.image.len <= AT_ONCE);
        let job: Arc<dyn Job> = Arc::new(Sealing {
            moves: Weak::clone(&self.moves),
            seal,
        });
        match at {
            Some(at) => {
                self.lanes.submit_at(at, job);
            }
            None if is_small => job.run(),
            None => {
                self.lanes.submit(job);
            }
        }
    }

    pub(super) fn open(&self, open: Open) {
        let moves = Weak::clone(&self.moves);
        let is_small = open.sealed.place.len() as u64 <= AT_ONCE;
        let job: Arc<dyn Job> = Arc::new(Opening { moves, open });
        if is_small {
            job.run();
        } else {
            self.lanes.submit(job);
        }
    }

    pub(super) fn stop(&self) {
        self.lanes.stop(Duration::ZERO);
    }
}

struct Sealing {
    moves: Weak<Moves>,
    seal: Seal,
}

impl Job for Sealing {
    fn run(self: Arc<Self>) {
        let Some(moves) = self.moves.upgrade() else { return };
        let seal = &self.seal;
        let Some(range) = plain_range(seal.image.len, seal.index) else {
            return;
        };
        let order = &seal.order;
        let frame = MoveFrame {
            mid: order.mid,
            entity: order.entity,
            epoch: order.epoch,
            step: 1,
            body: Body::Chunk {
                image: seal.image.digest,
                index: seal.index,
                bytes: &[],
            },
        };
        let length = range.end - range.start + SEAL_SIZE as u64;
        let bytes_max = usize::try_from(length).expect("a chunk has at most 1 MiB") + FRAME_SIZE;
        let fill = |out: &mut Vec<u8>| {
            let fill = |out: &mut Vec<u8>| seal.image.slice(range, out);
            frame.put_chunk(out, |out| seal.sealer.seal_onto(out, seal.index, fill));
        };
        // What does not arrive is asked for again.
        let is_sent = moves.carrier.post_filled(&seal.to, Kind::MOVE, bytes_max, fill).is_ok();
        let bytes = if is_sent { length } else { 0 };
        let sent = (seal.image.digest, seal.index, bytes);
        moves.put(Item::Sent(order.entity, order.mid, sent), 0);
    }
}

struct Opening {
    moves: Weak<Moves>,
    open: Open,
}

impl Job for Opening {
    fn run(self: Arc<Self>) {
        let Some(moves) = self.moves.upgrade() else { return };
        let open = &self.open;
        let mut spool = open.spool.0.lock();
        let range = plain_range(spool.len() as u64, open.index).unwrap_or(0..0);
        let bounds = [range.start, range.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
        let place = spool.get_mut(bounds[0]..bounds[1]).unwrap_or_default();
        let sealed = open.sealed.bytes();
        if place.len() + SEAL_SIZE != sealed.len() {
            // The image is whole already, or the chunk is no part of it: who counts chunks sees its length.
            return;
        }
        let is_whole = open.opener.open(open.index, sealed, place).is_ok();
        drop(spool);
        let opened = Opened {
            mid: open.mid,
            image: open.image,
            index: open.index,
            length: sealed.len(),
            is_whole,
        };
        moves.put(Item::Opened(open.entity, opened), 0);
    }
}
