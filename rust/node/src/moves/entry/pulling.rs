//! An image that is being pulled.

use std::sync::Arc;

use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::image::seal::{self, Opener, Transcript};
use meshos_core::move_chunks::{self, ChunkReceiver};
use meshos_core::move_frame::{Body, MoveFrame, Reason, Reject};
use meshos_core::move_rows::MoveOrder;
use meshos_core::ownership::MigrationId;

use super::Scene;
use crate::hands::Arrived;
use crate::keys;
use crate::moves::chunks::Spool;
use crate::sync::Mutex;

/// The largest image that is taken on.
pub(super) const IMAGE_MAX: u64 = 1 << 34;

/// An image that is being pulled.
pub(in crate::moves) struct Pulling {
    pub(in crate::moves) receiver: ChunkReceiver,
    pub(in crate::moves) order: Arc<MoveOrder>,
    pub(in crate::moves) image: Digest,
    pub(super) opener: Arc<Opener>,
    pub(super) spool: Arc<Spool>,
}

impl Pulling {
    pub(in crate::moves) fn begin(
        order: MoveOrder,
        digest: Digest,
        image_bytes: u64,
        scene: &Scene<'_>,
    ) -> Result<(Self, Vec<move_chunks::Action>), Reject> {
        let no_size = || Reject::new(Reason::TooLarge, "the image is of no size that there is");
        let plain = seal::plain_len(image_bytes).ok_or_else(no_size)?;
        let size = usize::try_from(plain).map_err(|_| no_size())?;
        let opener = Opener::new(&Transcript::of(&order, digest, plain), &scene.moves.key);
        let opener = opener.map_err(|_| Reject::from(Reason::IdentityTransportFailed))?;
        let mut actions = Vec::new();
        let seed = keys::random_u64();
        let begun = ChunkReceiver::begin(scene.now, (digest, image_bytes), IMAGE_MAX, [], seed, &mut actions);
        let pulling = Self {
            receiver: begun.map_err(|_| Reject::from(Reason::TooLarge))?,
            order: Arc::new(order),
            image: digest,
            opener: Arc::new(opener),
            spool: Arc::new(Spool(Mutex::new(vec![0; size]))),
        };
        Ok((pulling, actions))
    }

    /// Whether a node sends chunks of this.
    pub(super) fn is_of(&self, from: EntityId, mid: MigrationId, image: Digest) -> bool {
        (self.order.source, self.order.mid, self.image) == (from, mid, image)
    }

    /// Asks the source for a chunk.
    pub(in crate::moves) fn ask(&self, index: u32, scene: &mut Scene<'_>) {
        let body = Body::Pull {
            image: self.image,
            index,
        };
        let frame = MoveFrame::about(&self.order, body);
        scene.work.posts.push((self.order.source, frame));
    }

    /// The bytes, when they are whole.
    pub(in crate::moves) fn arrived(&self) -> Arrived {
        Arrived {
            bytes: Arc::new(std::mem::take(&mut *self.spool.0.lock())),
            opener: Some(Arc::clone(&self.opener)),
            active: None,
        }
    }
}
