//! Where daemons are: here, about to be here, or where another part of the node says; and which other nodes there are.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::finder::Known;
use meshos_core::id::{EntityId, Origin};
use meshos_core::inflow;
use meshos_core::stream::{Flow, Frame};

use super::Inner;
use crate::mesh::Mesh;
use crate::ways::Places;

/// How long nodes that belong to the mesh by name are waited for that were not heard yet.
const JOIN_TIME: Duration = Duration::from_secs(2);

/// Knows where daemons are that are not here.
pub trait Guide: Send + Sync {
    /// The owner of a daemon, as far as this node knows; it never waits.
    fn owner_of(&self, origin: Origin) -> Option<Known>;

    /// The owner of a daemon that this node gave away, as far as it knows; it never waits.
    fn handed_on(&self, _origin: Origin) -> Option<Known> {
        None
    }
}

/// The other nodes, as they were.
#[derive(Default)]
pub(super) struct Others {
    /// At which change of the mesh, and whether nodes were still waited for that were not heard.
    as_of: Option<(u64, bool)>,
    nodes: Arc<Vec<EntityId>>,
}

impl Places for Inner {
    fn known(&self, origin: Origin) -> Option<Known> {
        // What others say of it is not enough: a daemon that was stopped still has an owner.
        let (entity, epoch) = self.home.here(origin)?;
        let node = self.own;
        Some(Known { entity, node, epoch })
    }

    fn others(&self) -> Arc<Vec<EntityId>> {
        let mesh = self.carrier.as_mesh();
        let changes = mesh.map_or(0, Mesh::changes);
        // Who is about to join may have what is looked for.
        let is_early = self.now() < JOIN_TIME;
        let mut others = self.others.lock();
        if others.as_of != Some((changes, is_early)) {
            let mut there = self.carrier.others();
            there.extend(mesh.filter(|_| is_early).map(Mesh::unheard).unwrap_or_default());
            others.as_of = Some((changes, is_early));
            others.nodes = Arc::new(there);
        }
        Arc::clone(&others.nodes)
    }

    fn arrives(&self, origin: Origin) -> bool {
        self.arriving.read().contains_key(&origin)
    }
}

impl Inner {
    pub(super) fn found(&self, origin: Origin) -> Option<Frame<'static>> {
        match self.known(origin) {
            // It comes here, or was given away: whoever hears of nobody from all nodes, one after the other, while it is on
            // its way would conclude that there is none.
            None if self.arrives(origin) => None,
            None => Some(match self.handed_on(origin) {
                Some(Known { entity, node, epoch }) => Frame::Found { entity, node, epoch },
                None => Frame::Nobody { origin },
            }),
            Some(Known { entity, node, epoch }) => Some(Frame::Found { entity, node, epoch }),
        }
    }

    /// Where a daemon is that left this node in a move.
    fn handed_on(&self, origin: Origin) -> Option<Known> {
        let guide = self.guide.read().clone();
        guide.and_then(|guide| guide.handed_on(origin))
    }

    /// Where a daemon is that is not here, as far as another part of the node knows.
    pub(super) fn guided(&self, entity: &EntityId) -> Option<Known> {
        let guide = self.guide.read().clone();
        let known = guide?.owner_of(entity.origin())?;
        (known.entity == *entity && known.node != self.own).then_some(known)
    }

    pub(super) fn located(&self, flow: Flow) -> Frame<'static> {
        let known = self.known(flow.entity.origin());
        let known = known.filter(|known| known.entity == flow.entity);
        let known = known.or_else(|| self.guided(&flow.entity));
        inflow::elsewhere(known.map(|known| (known.node, known.epoch)), flow, 0, 0)
    }
}
