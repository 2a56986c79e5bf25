//! A page of what a daemon emitted, for who follows its chain at another node: an announcement of its owner, and outputs.
//!
//! A page is a [`parcel`] of [`Frame`]s: one [`Announce`], then [`Output`]s that follow on each other.
//!
//! Invariants
//! * Only what is kept is in a page, where steps are kept.
//! * A page is bounded, in outputs and in bytes; one output always has a place.

use meshos_core::certificate::Certificate;
use meshos_core::codec::DecodeError;
use meshos_core::identity::IdentityError;
use meshos_core::parcel::{self, Packer};
use meshos_core::store::StoreError;
use meshos_core::stream::{Announce, Frame, Output, lineage_digest};
use thiserror::Error;

use crate::daemon::Daemon;
use crate::runtime::Runtime;
use crate::slot::Entered;

/// Outputs of a page.
pub const OUTPUTS_MAX: usize = 1024;

/// Bytes of payloads of a page, unless one output has more.
pub const BYTES_MAX: usize = 4 << 20;

/// Why there is no page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PageError {
    /// What comes after that output is not kept any more.
    #[error("outputs up to {base} are not kept any more")]
    Gone {
        /// The last that is not kept.
        base: u64,
    },
    /// The daemon's key was erased before it signed who may speak.
    #[error(transparent)]
    Key(#[from] IdentityError),
    /// The store did not keep what the page would show.
    #[error(transparent)]
    NotKept(#[from] StoreError),
}

impl<D: Daemon> Runtime<D> {
    /// Makes a page of what a daemon emitted after an output; the disk is waited for, if something is not kept yet.
    ///
    /// # Errors
    /// [`PageError`].
    pub fn page(&self, entered: &mut Entered<D>, after: u64) -> Result<Vec<u8>, PageError> {
        let key = std::sync::Arc::clone(entered.slot().key());
        self.certify(&key, entered)?;
        if let Some(journal) = &mut entered.journal {
            D::apart(|| journal.drain())?;
        }
        let base = entered.outputs.base_sequence;
        let position = entered.host.position();
        if after < base && position.sequence > after {
            return Err(PageError::Gone { base });
        }
        let lineage: Vec<Certificate> = entered.host.lineage().to_vec();
        let (entity, epoch) = (entered.host.entity(), entered.host.epoch());
        let digest = lineage_digest(&lineage);
        let announce = Announce {
            entity,
            epoch,
            n: position.sequence,
            head: position.digest,
            lineage,
        };
        let mut packer = Packer::new();
        packer.put(|out| out.extend(Frame::Announce(announce).to_bytes()));
        let mut bytes = 0;
        let skipped = usize::try_from(after.saturating_sub(base)).unwrap_or(usize::MAX);
        for kept in entered.outputs.kept.iter().skip(skipped).take(OUTPUTS_MAX) {
            let (link, payload) = D::parts(&kept.event);
            if bytes > 0 && bytes + payload.len() > BYTES_MAX {
                break;
            }
            bytes += payload.len();
            let output = Output {
                entity,
                epoch,
                lineage: digest,
                link,
                payload,
            };
            packer.put(|out| out.extend(Frame::Output(output).to_bytes()));
        }
        Ok(packer.body().to_vec())
    }
}

/// The frames of a page.
///
/// # Errors
/// The first that cannot be read.
pub fn frames(page: &[u8]) -> Result<Vec<Frame<'_>>, DecodeError> {
    parcel::open(page)?.map(|message| Frame::decode(message?)).collect()
}
