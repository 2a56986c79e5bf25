//! The hold of a daemon that runs: its lease, renewed until it is released.

use std::sync::{Arc, Weak};

use meshos_core::id::EntityId;

use super::Ownership;
use crate::lease::{Lease, Unleased};

/// Hears that another node owns in a later term. It is short and never waits.
pub type Fenced = Arc<dyn Fn(EntityId, u64) + Send + Sync>;

/// The lease of a daemon that runs, and what renews it.
pub struct Hold {
    pub(super) ownership: Weak<Ownership>,
    pub(super) entity: EntityId,
    pub(super) number: u64,
    pub(super) lease: Arc<Lease>,
}

impl Hold {
    /// The lease.
    #[must_use]
    pub const fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// Checks that an event may be processed, or acknowledged, now.
    ///
    /// # Errors
    /// [`Unleased`].
    #[inline]
    pub fn check(&self) -> Result<(), Unleased> {
        self.lease.check()
    }

    /// Renews it no more. What was promised stays, until it runs out: the daemon may still answer for what it did.
    pub fn release(&self) {
        if let Some(ownership) = self.ownership.upgrade() {
            ownership.release(&self.entity, self.number);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}
