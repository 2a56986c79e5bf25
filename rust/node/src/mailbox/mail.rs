//! An event that waits in a mailbox, and whose it is.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use meshos_core::ingress::EventKey;
use meshos_core::source::Source;

use crate::daemon::Daemon;
use crate::deliver::Want;
use crate::linked::{Arrived, Incoming};

pub(super) struct Mail<D: Daemon> {
    pub(super) letter: Written<D>,
    pub(super) sent: Sent<D>,
}

/// Everything of a mailed event but the event.
pub(super) struct Sent<D: Daemon> {
    pub(super) key: EventKey,
    pub(super) bytes: u64,
    pub(super) want: Want,
    pub(super) party: Party<D>,
    /// Events of one group stop at the first that fails.
    pub(super) group: Option<Arc<AtomicBool>>,
    /// Tries that failed.
    pub(super) failed: u32,
}

/// Whose event it is.
pub(super) enum Party<D: Daemon> {
    /// Somebody of this process.
    Caller(D::Reply),
    /// A linked stream.
    Link {
        /// With what it arrived.
        arrived: Arc<Arrived>,
        /// The number that was sent before it.
        prev: u64,
    },
    /// A channel, which hears what becomes of it.
    Channel(Arc<dyn Heard>),
}

pub(super) enum Written<D: Daemon> {
    Event(D::Event),
    Draft(D::Draft),
    /// The payload of a linked event, in what it arrived with.
    Linked(Range<usize>),
    /// The payload of an event of a channel, when it came in, and from where.
    Channel(Arc<[u8]>, u64, Arc<Source>),
}

/// Hears what becomes of events of a channel: it is short, never waits, and calls no user code.
pub trait Heard: Send + Sync {
    /// The event of this number took effect, or was passed over, and is kept where steps are.
    fn taken(&self, number: u64);
    /// The event of this number waits no more, and did not take effect, or is not kept: its daemon is gone.
    fn lost(&self, number: u64);
}

impl<D: Daemon> Mail<D> {
    /// An event of a linked stream, in what it arrived with.
    pub(super) fn linked(arrived: &Arc<Arrived>, event: &Incoming) -> Self {
        let sent = Sent {
            key: event.key,
            bytes: event.payload.len() as u64,
            want: Want::Receipt,
            party: Party::Link {
                arrived: Arc::clone(arrived),
                prev: event.prev,
            },
            group: None,
            failed: 0,
        };
        let letter = Written::Linked(event.payload.clone());
        Self { letter, sent }
    }
}

impl<D: Daemon> Sent<D> {
    /// Whether it is tried again when it fails, since nobody of this process waits for it.
    pub(super) fn is_retried(&self) -> bool {
        match &self.party {
            Party::Caller(reply) => D::is_unattended(reply),
            Party::Link { .. } | Party::Channel(_) => true,
        }
    }

    /// Whether it is lost when it comes to nothing: who sent a linked one tries again.
    pub(super) fn is_posted(&self) -> bool {
        match &self.party {
            Party::Caller(reply) => D::is_unattended(reply),
            Party::Channel(_) => true,
            Party::Link { .. } => false,
        }
    }

    /// Tells a channel that its event comes to nothing.
    pub(super) fn is_lost(&self) {
        if let Party::Channel(heard) = &self.party {
            heard.lost(self.key.sequence);
        }
    }

    pub(super) fn is_abandoned(&self) -> bool {
        matches!(&self.party, Party::Caller(reply) if D::is_abandoned(reply))
    }
}
