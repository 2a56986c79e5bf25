//! Opening a feed of a daemon's chain for a reader, and reading what the daemon keeps for those who are behind.
//!
//! Invariants
//! * A feed begins while somebody is inside, with what is kept by then: no output is between it and what comes.
//! * Only the present owner opens a feed, and reads.

use std::sync::{Arc, Weak};
use std::time::Duration;

use meshos_core::identity::IdentityError;
use meshos_core::parcel::MESSAGE_OVERHEAD;
use meshos_core::remote_frame::{Reason, Refused, cut};
use meshos_core::store::StoreError;
use thiserror::Error;

use crate::clock::Deadline;
use crate::daemon::Daemon;
use crate::fed::{BYTES_MAX, FRAME_BYTES_MAX, Fed, Followed, Owner, Reader, SHELF_MAX, Shelved, Shelves, Unread};
use crate::lease::Unleased;
use crate::runtime::Runtime;
use crate::slot::{EnterError, Entered, Slot};

/// How long a lane waits for a daemon that is busy before it lets others have their turn.
const BUSY_MAX: Duration = Duration::from_secs(1);

/// Why no feed was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FeedError {
    /// What comes after that output is not kept any more.
    #[error("outputs up to {base} are not kept any more")]
    Gone {
        /// The last that is not kept.
        base: u64,
    },
    /// The next output has no place in a message.
    #[error("output {sequence} is larger than a message between nodes")]
    TooLarge {
        /// Its number.
        sequence: u64,
    },
    /// The daemon's key was erased before it signed who may speak.
    #[error(transparent)]
    Key(#[from] IdentityError),
    /// The store did not keep what would be pushed.
    #[error(transparent)]
    NotKept(#[from] StoreError),
    /// This node may not speak for the daemon now.
    #[error("this node may not speak for the daemon now")]
    Unleased(Unleased),
    /// There are as many feeds as may be.
    #[error("there are as many feeds as may be")]
    Full,
}

impl From<FeedError> for Refused {
    fn from(error: FeedError) -> Self {
        let (reason, owner) = match error {
            FeedError::Gone { .. } | FeedError::TooLarge { .. } | FeedError::Key(_) | FeedError::NotKept(_) => {
                (Reason::Failed, None)
            }
            FeedError::Unleased(Unleased::Out { .. }) => (Reason::NotReady, None),
            FeedError::Unleased(Unleased::Fenced { node, epoch }) => (Reason::NotOwner, Some((node, epoch))),
            FeedError::Full => (Reason::Busy, None),
        };
        Self {
            reason,
            owner,
            text: cut(&error.to_string()),
        }
    }
}

impl<D: Daemon> Runtime<D> {
    /// Has what a daemon emitted after an output, and what it emits, pushed to a reader. The disk is waited for, if
    /// something is not kept yet.
    ///
    /// # Errors
    /// [`FeedError`].
    pub fn feed(&self, entered: &mut Entered<D>, reader: Reader, after: u64) -> Result<(), FeedError> {
        entered.slot().leased().map_err(FeedError::Unleased)?;
        let key = Arc::clone(entered.slot().key());
        self.certify(&key, entered)?;
        if let Some(journal) = &mut entered.journal {
            D::apart(|| journal.drain())?;
        }
        let position = entered.host.position();
        let outputs = &entered.outputs;
        let base = outputs.base_sequence;
        if after < base && position.sequence > after {
            return Err(FeedError::Gone { base });
        }
        let skipped = usize::try_from(after.saturating_sub(base)).unwrap_or(usize::MAX);
        if let Some(next) = outputs.kept.get(skipped)
            && D::payload_len(&next.event) + Fed::FRAME_OVERHEAD > FRAME_BYTES_MAX
        {
            let sequence = after + 1;
            return Err(FeedError::TooLarge { sequence });
        }
        if !self.feeds().has_room() {
            return Err(FeedError::Full);
        }
        let (epoch, lineage) = (entered.host.epoch(), entered.host.lineage());
        let present = entered.followed.as_ref().map(Followed::fed);
        let fed = match present.filter(|fed| fed.is_of(epoch, lineage)) {
            Some(fed) => Arc::clone(fed),
            None => {
                let owner = Owner {
                    entity: entered.host.entity(),
                    epoch,
                    lineage: lineage.to_vec(),
                    lease: entered.slot().lease(),
                    published: position.sequence,
                    head: position.digest,
                };
                let slot = Arc::downgrade(entered.slot());
                let fed = self.feeds().begin(owner, Box::new(Kept { slot }));
                let before = entered.followed.replace(Followed::of(Arc::clone(&fed)));
                drop(before);
                fed
            }
        };
        fed.open(reader, position.sequence, position.digest, self.feeds().now());
        Ok(())
    }
}

/// What one daemon keeps.
struct Kept<D: Daemon> {
    slot: Weak<Slot<D>>,
}

impl<D: Daemon> Shelves for Kept<D> {
    fn read(&self, fed: &Arc<Fed>, after: u64, through: u64) -> Result<Vec<Shelved>, Unread> {
        let slot = self.slot.upgrade().ok_or(Unread::Gone)?;
        let entered = match slot.inspect() {
            Err(EnterError::Busy) => D::apart(|| slot.inspect_later(Deadline::after(BUSY_MAX), &mut || false))
                .map_err(|error| match error {
                    EnterError::Busy | EnterError::Timeout => Unread::Busy,
                    _ => Unread::Gone,
                })?,
            entered => entered.map_err(|_| Unread::Gone)?,
        };
        let is_same = |followed: &Followed| Arc::ptr_eq(followed.fed(), fed);
        if !entered.followed.as_ref().is_some_and(is_same) || after < entered.outputs.base_sequence {
            return Err(Unread::Gone);
        }
        let skipped = usize::try_from(after - entered.outputs.base_sequence).unwrap_or(usize::MAX);
        let (mut read, mut bytes) = (Vec::new(), 0);
        for kept in entered.outputs.kept.iter().skip(skipped).take(SHELF_MAX) {
            let (link, payload) = D::parts(&kept.event);
            bytes += payload.len() + Fed::FRAME_OVERHEAD + MESSAGE_OVERHEAD;
            if link.sequence > through || bytes > BYTES_MAX && !read.is_empty() {
                break;
            }
            read.push(fed.shelved(link, payload));
        }
        if read.is_empty() { Err(Unread::Gone) } else { Ok(read) }
    }
}
