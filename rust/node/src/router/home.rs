//! The daemons of this node, whatever their type: who is here, and mail for them.

use std::sync::{Arc, Weak};
use std::time::Instant;

use meshos_core::id::{EntityId, Origin};

use crate::daemon::Daemon;
use crate::lane::{Job, Lanes};
use crate::linked::{Arrived, Incoming, Mailed};
use crate::registry::Registry;

/// The daemons of this node, as the router sees them.
pub(super) trait Home: Send + Sync {
    fn here(&self, origin: Origin) -> Option<(EntityId, u64)>;
    /// Mails events; `false`: the daemon is not here.
    fn mail(
        &self,
        to: &EntityId,
        arrived: &Arc<Arrived>,
        events: &[Incoming],
        told: &mut dyn FnMut(&Incoming, Mailed),
    ) -> bool;
    fn later(&self, at: Instant, job: Arc<dyn Job>);
}

pub(super) struct Local<D: Daemon> {
    pub(super) registry: Weak<Registry<D>>,
    pub(super) lanes: Lanes,
}

impl<D: Daemon> Home for Local<D> {
    fn here(&self, origin: Origin) -> Option<(EntityId, u64)> {
        let slot = self.registry.upgrade()?.get(origin)?;
        Some((slot.entity(), slot.view().epoch))
    }

    fn mail(
        &self,
        to: &EntityId,
        arrived: &Arc<Arrived>,
        events: &[Incoming],
        told: &mut dyn FnMut(&Incoming, Mailed),
    ) -> bool {
        let slot = self.registry.upgrade().and_then(|registry| registry.get(to.origin()));
        let Some(slot) = slot.filter(|slot| slot.entity() == *to) else {
            return false;
        };
        slot.post_linked(&self.lanes, arrived, events, told);
        true
    }

    fn later(&self, at: Instant, job: Arc<dyn Job>) {
        // Lanes that were stopped run nothing any more.
        let _ = self.lanes.submit_at(at, job);
    }
}
