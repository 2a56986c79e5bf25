//! The lease of a daemon: whether this node may let it take events now, and answer for them.
//!
//! It is read without a lock before an event is processed, and again before it is acknowledged: a lease may end in between.
//! Whoever looks after it ([`ownership`](crate::ownership)) moves its end.
//!
//! Invariants
//! * A lease is of one term of ownership. Once a later term was heard of it is never valid again.
//! * Its end only rises, except to nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meshos_core::id::EntityId;

/// Why a daemon may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unleased {
    /// It ran out, and was not renewed yet by this node, which has the directory.
    Out {
        /// The node that is to renew it.
        directory: EntityId,
    },
    /// A later term was heard of.
    Fenced {
        /// Who owns in it.
        node: EntityId,
        /// Its epoch.
        epoch: u64,
    },
}

/// The lease of one daemon in one term.
#[derive(Debug)]
pub struct Lease {
    began: Instant,
    directory: EntityId,
    epoch: AtomicU64,
    /// Nanoseconds after `began`; 0: it was never valid, or is no more.
    until: AtomicU64,
    fence: OnceLock<(EntityId, u64)>,
}

impl Lease {
    /// One that is not valid yet. Times are counted from `began`.
    #[must_use]
    pub const fn new(began: Instant, directory: EntityId) -> Self {
        Self {
            began,
            directory,
            epoch: AtomicU64::new(0),
            until: AtomicU64::new(0),
            fence: OnceLock::new(),
        }
    }

    /// Checks that an event may be processed, or acknowledged, now.
    ///
    /// # Errors
    /// [`Unleased`].
    #[inline]
    pub fn check(&self) -> Result<(), Unleased> {
        if nanos(self.began.elapsed()) < self.until.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(self.why())
    }

    #[cold]
    fn why(&self) -> Unleased {
        match self.fence.get() {
            Some(&(node, epoch)) => Unleased::Fenced { node, epoch },
            None => Unleased::Out {
                directory: self.directory,
            },
        }
    }

    /// The term of ownership that it is of; 0 before it began.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Who owns in a later term, if one was heard of.
    #[must_use]
    pub fn fenced(&self) -> Option<(EntityId, u64)> {
        self.fence.get().copied()
    }

    /// It is valid in this epoch until so long after it began to count.
    pub(crate) fn renew(&self, epoch: u64, until: Duration) {
        self.epoch.store(epoch, Ordering::Release);
        if self.fence.get().is_none() {
            self.until.fetch_max(nanos(until), Ordering::AcqRel);
        }
        if self.fence.get().is_some() {
            self.until.store(0, Ordering::Release);
        }
    }

    /// It is not valid any more, since another node owns.
    pub(crate) fn fence(&self, node: EntityId, epoch: u64) {
        let _ = self.fence.set((node, epoch));
        self.until.store(0, Ordering::Release);
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: EntityId = EntityId::from_bytes([1; 32]);
    const OTHER: EntityId = EntityId::from_bytes([2; 32]);

    #[test]
    fn it_is_valid_until_its_end_and_never_after_a_later_term() {
        let lease = Lease::new(Instant::now(), NODE);
        assert_eq!(lease.check(), Err(Unleased::Out { directory: NODE }));
        lease.renew(3, Duration::MAX);
        assert_eq!((lease.check(), lease.epoch(), lease.fenced()), (Ok(()), 3, None));
        // What comes late shortens nothing.
        lease.renew(3, Duration::from_nanos(1));
        assert_eq!(lease.check(), Ok(()));
        lease.fence(OTHER, 5);
        let fenced = Err(Unleased::Fenced { node: OTHER, epoch: 5 });
        assert_eq!((lease.check(), lease.fenced()), (fenced, Some((OTHER, 5))));
        lease.renew(3, Duration::MAX);
        assert_eq!(lease.check(), fenced);
    }

    #[test]
    fn it_runs_out() {
        let lease = Lease::new(Instant::now(), NODE);
        lease.renew(1, Duration::from_nanos(1));
        assert_eq!(lease.check(), Err(Unleased::Out { directory: NODE }));
    }
}
