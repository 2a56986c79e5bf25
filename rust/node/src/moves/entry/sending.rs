//! An image that is being sent.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::image::seal::{self, Agreement, Sealer, Transcript};
use meshos_core::move_rows::MoveOrder;

use super::Scene;
use crate::image::Image;
use crate::moves::buffers::Buffers;
use crate::moves::chunks::Seal;

/// Images that are sent with the word that they are there.
const PUSHED: u64 = 16 << 10;

/// An image that is being sent.
pub(in crate::moves) struct Sending {
    pub(in crate::moves) image: Arc<Image>,
    sealer: Arc<Sealer>,
    buffers: Arc<Buffers>,
    pub(in crate::moves) order: Arc<MoveOrder>,
    /// When the next chunk may leave.
    next_at: Option<Instant>,
    /// Chunks that were asked for, and wait for their turn.
    waiting: BTreeSet<u32>,
    /// When all of it was sent before anybody asked.
    pub(super) pushed_at: Option<Duration>,
}

impl Sending {
    pub(in crate::moves) fn new(image: Arc<Image>, order: MoveOrder, agreement: &Agreement) -> Self {
        let transcript = Transcript::of(&order, image.digest, image.len);
        Self {
            image,
            sealer: Arc::new(Sealer::new(&transcript, agreement)),
            buffers: Arc::default(),
            order: Arc::new(order),
            next_at: None,
            waiting: BTreeSet::new(),
            pushed_at: None,
        }
    }

    /// Sends all of a small image at once: whoever is told of it has not to ask.
    pub(super) fn push(&mut self, to: EntityId, scene: &mut Scene<'_>) {
        if self.image.len <= PUSHED && self.order.terms.rate_max == 0 {
            self.send(to, 0, scene);
            self.pushed_at = Some(scene.now);
        }
    }

    /// A chunk was sent, or could not be: who asks for it again gets it again.
    pub(super) fn left(&mut self, image: &Digest, index: u32) {
        if self.image.digest == *image {
            self.waiting.remove(&index);
        }
    }

    /// Has a chunk sent, as fast as it may be. Whoever asks again for one that waits for its turn gets it once.
    pub(in crate::moves) fn send(&mut self, to: EntityId, index: u32, scene: &mut Scene<'_>) {
        let is_chunk = seal::plain_range(self.image.len, index).is_some();
        if !is_chunk || !self.waiting.insert(index) {
            return;
        }
        let rate = self.order.terms.rate_max;
        let mut at = None;
        if rate > 0 {
            let now = Instant::now();
            let begin = self.next_at.map_or(now, |next| next.max(now));
            let takes = Duration::from_secs_f64(seal::CHUNK_PLAIN as f64 / rate as f64);
            self.next_at = begin.checked_add(takes);
            at = Some(begin);
        }
        scene.work.seals.push(Seal {
            to,
            order: Arc::clone(&self.order),
            image: Arc::clone(&self.image),
            sealer: Arc::clone(&self.sealer),
            buffers: Arc::clone(&self.buffers),
            index,
            at,
        });
    }
}
