//! What moves bodies between the nodes of a mesh, this one included. A node that is alone has one too.
//!
//! Invariants
//! * A body to this node itself is handed to the taker of its kind on the thread of who posts it, without a seal: it does
//!   not leave the process.
//! * As between nodes, that it is taken is not promised; what is not taken is counted.
//! * No lock is held while a body is handed on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use meshos_core::codec::Put;
use meshos_core::engine::EngineError;
use meshos_core::frame::{BODY_BYTES_MAX, Draft, Kind};
use meshos_core::id::EntityId;
use meshos_core::presence::PeerState;

use crate::mesh::{Delivered, Mesh, PostError, Take};
use crate::sync::RwLock;

struct Alone {
    entity: EntityId,
    takers: RwLock<HashMap<Kind, Arc<dyn Take>>>,
    refused: AtomicU64,
    closed: AtomicBool,
}

#[derive(Clone)]
enum Way {
    Mesh(Mesh),
    Alone(Arc<Alone>),
}

/// The way from a node to the others, and to itself; a clone is the same.
#[derive(Clone)]
pub struct Carrier {
    way: Way,
}

impl Carrier {
    /// That of a node among others.
    #[must_use]
    pub const fn mesh(mesh: Mesh) -> Self {
        Self { way: Way::Mesh(mesh) }
    }

    /// That of a node without others.
    #[must_use]
    pub fn alone(entity: EntityId) -> Self {
        let alone = Alone {
            entity,
            takers: RwLock::default(),
            refused: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        };
        Self {
            way: Way::Alone(Arc::new(alone)),
        }
    }

    /// Key of this node.
    #[must_use]
    pub fn entity_id(&self) -> EntityId {
        match &self.way {
            Way::Mesh(mesh) => mesh.entity_id(),
            Way::Alone(alone) => alone.entity,
        }
    }

    /// The mesh, if the node is among others.
    #[must_use]
    pub const fn as_mesh(&self) -> Option<&Mesh> {
        match &self.way {
            Way::Mesh(mesh) => Some(mesh),
            Way::Alone(_) => None,
        }
    }

    /// Sends a body to a node, perhaps to this one. That it arrives is not promised, nor that it does so once or in order.
    ///
    /// # Errors
    /// [`PostError`].
    pub fn post(&self, to: &EntityId, kind: Kind, body: &[u8]) -> Result<(), PostError> {
        self.post_draft(to, kind, Draft::new(body.len(), |out| out.put(body)))
    }

    /// The same, of a body that is not copied.
    ///
    /// # Errors
    /// [`PostError`].
    pub fn post_draft(&self, to: &EntityId, kind: Kind, draft: Draft) -> Result<(), PostError> {
        match &self.way {
            Way::Mesh(mesh) => mesh.post_draft(to, kind, draft),
            Way::Alone(alone) => alone.post(to, kind, draft),
        }
    }

    /// Has bodies of a kind handed to a taker, in place of the one before.
    pub fn attach(&self, kind: Kind, taker: Arc<dyn Take>) {
        match &self.way {
            Way::Mesh(mesh) => mesh.attach(kind, taker),
            Way::Alone(alone) => {
                let before = alone.takers.write().insert(kind, taker);
                drop(before);
            }
        }
    }

    /// The other nodes that are not dead, ascending by handle.
    #[must_use]
    pub fn others(&self) -> Vec<EntityId> {
        let Way::Mesh(mesh) = &self.way else {
            return Vec::new();
        };
        let peers = mesh.peers().into_iter();
        let living = peers.filter(|peer| peer.state != PeerState::Dead);
        living.map(|peer| peer.entity).collect()
    }

    /// Bodies of this node to itself that nobody took, where it is alone.
    #[must_use]
    pub fn refused(&self) -> u64 {
        match &self.way {
            Way::Mesh(_) => 0,
            Way::Alone(alone) => alone.refused.load(Ordering::Relaxed),
        }
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match &self.way {
            Way::Mesh(mesh) => mesh.is_closed(),
            Way::Alone(alone) => alone.closed.load(Ordering::Acquire),
        }
    }

    /// Moves nothing any more; does nothing the second time.
    pub fn close(&self) {
        match &self.way {
            Way::Mesh(mesh) => mesh.close(),
            Way::Alone(alone) => {
                alone.closed.store(true, Ordering::Release);
                let takers = std::mem::take(&mut *alone.takers.write());
                drop(takers);
            }
        }
    }
}

impl Alone {
    fn post(&self, to: &EntityId, kind: Kind, draft: Draft) -> Result<(), PostError> {
        let (size, max) = (draft.body().len(), BODY_BYTES_MAX);
        if size > max {
            return Err(EngineError::TooLarge { size, max }.into());
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(EngineError::Closed.into());
        }
        if *to != self.entity {
            return Err(PostError::NotThere);
        }
        let taker = self.takers.read().get(&kind).map(Arc::clone);
        let delivered = Delivered::to_oneself(self.entity, draft);
        if !taker.is_some_and(|taker| taker.take(delivered)) {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Mutex;

    #[derive(Default)]
    struct Kept(Mutex<Vec<Vec<u8>>>);

    impl Take for Kept {
        fn take(&self, delivered: Delivered) -> bool {
            let mut kept = self.0.lock();
            kept.push(delivered.body().to_vec());
            kept.len() < 3
        }
    }

    #[test]
    fn a_node_that_is_alone_sends_to_itself_only() {
        let own = EntityId::from_bytes([1; 32]);
        let (carrier, kept) = (Carrier::alone(own), Arc::new(Kept::default()));
        assert_eq!(carrier.post(&own, Kind::DATA, b"nobody takes it"), Ok(()));
        carrier.attach(Kind::DATA, kept.clone());
        for _ in 0..3 {
            assert_eq!(carrier.post(&own, Kind::DATA, b"one"), Ok(()));
        }
        assert_eq!((kept.0.lock().len(), carrier.refused()), (3, 2));
        let other = EntityId::from_bytes([2; 32]);
        assert_eq!(carrier.post(&other, Kind::DATA, b"two"), Err(PostError::NotThere));
        assert!(carrier.others().is_empty());
        carrier.close();
        assert_eq!(
            carrier.post(&own, Kind::DATA, b"three"),
            Err(EngineError::Closed.into())
        );
        assert!(carrier.is_closed());
    }
}
