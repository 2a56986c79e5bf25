//! The image of a daemon that travels: taken from one that is frozen, and restored at the node that it goes to.
//!
//! Invariants
//! * What came since a copy is taken without user code, and restored by having user code take the same steps again: if it does
//!   something else, nothing of it is.
//! * Taking an image changes nothing of the daemon: if it is thawed it goes on as if nothing had been.
//! * The state is not copied for it: an image is read in pieces.
//! * What is restored stands exactly where the daemon was frozen, and does nothing before it is installed.
//! * What is installed is kept in one commit, or nothing of it is. The image is its first snapshot.

mod installing;
mod restoring;
mod taking;

use std::ops::Range;
use std::sync::Arc;

use meshos_core::config::{DaemonHostConfig, Durability, OnDivergence};
use meshos_core::dead_letter::cut;
use meshos_core::digest::Digest;
use meshos_core::journal::{Mark, SnapshotRow};
use meshos_core::move_frame::{Reason, Reject};
use meshos_core::move_rows::Frozen;
use meshos_core::rows::Write;
use meshos_core::stored::StoredDaemon;

use crate::daemon::Daemon;
use crate::inside::Inside;
use crate::outgoing::Sending;
use crate::slot::SharedKey;

pub use self::installing::NotInstalled;
pub use self::restoring::{catch_up, restore};
pub use self::taking::{Gathered, gather, since, take};

/// Bytes of a text that says why something was refused.
const TEXT_MAX: usize = 1024;

/// Bytes that an image is made of.
pub type Part = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The plain bytes of what travels, in parts.
pub struct Image {
    /// BLAKE3 of the bytes; the name under which a store keeps them.
    pub digest: Digest,
    /// How many they are.
    pub len: u64,
    parts: Vec<Part>,
}

impl Image {
    /// An image of these parts, which are one after the other.
    #[must_use]
    pub fn new(digest: Digest, parts: Vec<Part>) -> Self {
        let len = parts.iter().map(|part| (**part).as_ref().len() as u64).sum();
        Self { digest, len, parts }
    }

    /// Appends the bytes of a range, as far as there are so many.
    pub fn slice(&self, range: Range<u64>, out: &mut Vec<u8>) {
        let mut at = 0;
        for part in self.parts() {
            let (begin, end) = (at, at + part.len() as u64);
            let cut = |place: u64| usize::try_from(place.clamp(begin, end) - begin).expect("it is within a slice");
            let (first, last) = (cut(range.start), cut(range.end));
            if first < last {
                out.extend_from_slice(&part[first..last]);
            }
            at = end;
        }
    }

    /// The parts, in order.
    #[must_use]
    pub fn parts(&self) -> Vec<&[u8]> {
        self.parts.iter().map(|part| (**part).as_ref()).collect()
    }
}

fn refused(reason: Reason, why: impl std::fmt::Display) -> Reject {
    let text = why.to_string();
    Reject {
        reason,
        text: cut(&text, TEXT_MAX).to_owned(),
    }
}

fn failed(why: impl std::fmt::Display) -> Reject {
    refused(Reason::StateFailed, why)
}

/// An error of user code, as another node is told of it.
fn raised<D: Daemon>(error: &D::Error) -> Reject {
    let (exception, message) = D::blame(error);
    if exception.is_empty() {
        failed(D::describe(error))
    } else {
        failed(format_args!("{exception}: {message}"))
    }
}

/// A daemon that was restored from an image, and is not installed.
pub struct Standby<D: Daemon> {
    /// Everything of it; it stands where it was frozen, and has no journal.
    pub inside: Inside<D>,
    /// Its key; public only if it did not travel.
    pub key: SharedKey,
    /// Where it stands.
    pub frozen: Frozen,
    /// Outputs that are due to other daemons, in their order; they leave when it is live.
    pub due: Vec<Sending>,
    stored: StoredDaemon,
    rows: Vec<Write>,
    /// Its first snapshot, and how far the steps lead that were taken since.
    base: SnapshotRow,
    mark: Mark,
}

impl<D: Daemon> Standby<D> {
    /// Whether each step of it is kept.
    #[must_use]
    pub fn keeps_steps(&self) -> bool {
        self.stored.config.durability == Durability::Journal
    }

    /// Whether each step of it is kept together with a snapshot.
    #[must_use]
    pub fn keeps_every(&self) -> bool {
        self.keeps_steps() && self.stored.config.on_divergence == OnDivergence::SnapshotEveryEvent
    }

    /// Whether anything of it is kept: then the image is its first snapshot once it is installed.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.stored.config.durability != Durability::None
    }

    /// The image that it was restored from, and that of what came since, if there is one.
    #[must_use]
    pub fn images(&self) -> (Digest, Option<Digest>) {
        let (whole, last) = (self.base.name, self.frozen.image);
        (whole, Some(last).filter(|last| *last != whole))
    }

    /// Gives it other options.
    pub fn configure(&mut self, config: DaemonHostConfig) {
        self.inside.host = self.inside.host.clone().with_config(config);
        self.stored.config = config;
        let has_row = self.keeps_steps();
        self.due.iter_mut().for_each(|due| due.has_row = has_row);
    }

    /// The options that it has.
    #[must_use]
    pub const fn config(&self) -> &DaemonHostConfig {
        &self.stored.config
    }
}

fn last_number(key: &[u8]) -> u64 {
    key.last_chunk::<8>().map_or(0, |number| u64::from_be_bytes(*number))
}
