//! Causal hash chain: one link per event, each naming the digest before it.
//!
//! Invariants
//! * `sequence` starts at 1 (genesis, 0, is virtual) and rises by exactly one.
//! * `parent` of a link is the first 8 bytes of the 32-byte digest before it; the digest commits to everything before.
//! * The head digest is all that is needed to continue: neither the payload of the head nor any older event.
//!
//! Source: Haber and Stornetta, "How to Time-Stamp a Digital Document", Journal of Cryptology 3(2), 1991.

use std::fmt;

use thiserror::Error;

use crate::digest::{self, Digest};
use crate::id::{EntityId, Origin};
use crate::link::CausalLink;

/// How a chain is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BrokenKind {
    /// An event is not where it should be: `expected` and `found` are sequences.
    Gap,
    /// An event is not the one that was emitted: `expected` and `found` are first halves of digests.
    Altered,
    /// Two signed records disagree about one sequence, or a former owner signed beyond its end.
    Forked,
    /// An event is of another chain: `expected` and `found` are origins.
    WrongOrigin,
    /// A receipt does not fit: `expected` is of the receipt, `found` of the chain, 0 if it is not known there.
    Receipt,
}

/// Why a chain cannot be believed or continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChainError {
    /// An event does not fit.
    #[error("origin {origin}: {}", Mismatch { kind: *kind, sequence: *sequence, expected: *expected, found: *found })]
    Broken {
        /// In which way.
        kind: BrokenKind,
        /// Owner of the chain.
        origin: Origin,
        /// Position of the bad event.
        sequence: u64,
        /// What should be there; see [`BrokenKind`].
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// A certificate, checkpoint or fork record is not signed by who may sign it.
    #[error("origin {origin}: at sequence {sequence}: {what}")]
    BadSignature {
        /// Owner of the chain.
        origin: Origin,
        /// Position that the record is about.
        sequence: u64,
        /// What is wrong with which record.
        what: &'static str,
    },
    /// There is no sequence after 2^64 - 1.
    #[error("origin {origin}: the chain is full")]
    Exhausted {
        /// Owner of the chain.
        origin: Origin,
    },
}

struct Mismatch {
    kind: BrokenKind,
    sequence: u64,
    expected: u64,
    found: u64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            sequence,
            expected,
            found,
        } = self;
        match kind {
            BrokenKind::Gap => write!(f, "expected sequence {expected}, found {found}"),
            BrokenKind::Altered => {
                write!(
                    f,
                    "event {sequence} is altered: expected digest {expected:016x}…, found {found:016x}…"
                )
            }
            BrokenKind::Forked => {
                write!(
                    f,
                    "signed records disagree about sequence {sequence}: {expected:016x} and {found:016x}"
                )
            }
            BrokenKind::WrongOrigin => {
                write!(
                    f,
                    "event {sequence} is of another chain: expected origin {expected:016x}, found {found:016x}"
                )
            }
            BrokenKind::Receipt => {
                write!(
                    f,
                    "the receipt for sequence {sequence} does not fit: digest {expected:016x}…, found {found:016x}…"
                )
            }
        }
    }
}

/// Appends to one chain.
#[derive(Debug, Clone)]
pub struct CausalChainBuilder {
    entity: EntityId,
    head: CausalLink,
    digest: Digest,
}

impl CausalChainBuilder {
    /// Begins the chain of `entity` at its virtual genesis.
    #[must_use]
    pub fn new(entity: EntityId) -> Self {
        Self::with_lineage(entity, &Digest::ZERO)
    }

    /// Begins the chain of a fork; the genesis link carries the first 8 bytes of the lineage as its parent.
    #[must_use]
    pub fn with_lineage(entity: EntityId, lineage: &Digest) -> Self {
        let head = CausalLink {
            origin: entity.origin(),
            horizon: 0,
            sequence: 0,
            parent: lineage.head8(),
        };
        Self {
            entity,
            head,
            digest: digest::genesis(&entity, lineage),
        }
    }

    /// Continues after `head`, where the chain has `digest`.
    ///
    /// # Errors
    /// [`BrokenKind::WrongOrigin`] if the head is of another entity.
    pub fn from_head(entity: EntityId, head: CausalLink, digest: Digest) -> Result<Self, ChainError> {
        let origin = entity.origin();
        if head.origin != origin {
            return Err(ChainError::Broken {
                kind: BrokenKind::WrongOrigin,
                origin,
                sequence: head.sequence,
                expected: origin.get(),
                found: head.origin.get(),
            });
        }
        Ok(Self { entity, head, digest })
    }

    /// Appends one event and returns its link.
    ///
    /// # Errors
    /// [`ChainError::Exhausted`] after 2^64 - 1 events; the builder is as before.
    pub fn append(&mut self, payload: &[u8], horizon: u64) -> Result<CausalLink, ChainError> {
        let origin = self.head.origin;
        let sequence = self
            .head
            .sequence
            .checked_add(1)
            .ok_or(ChainError::Exhausted { origin })?;
        self.head = CausalLink {
            origin,
            horizon,
            sequence,
            parent: self.digest.head8(),
        };
        self.digest = digest::event(&self.digest, &self.head.to_bytes(), payload);
        Ok(self.head)
    }

    /// Owner of the chain.
    #[must_use]
    pub const fn entity(&self) -> EntityId {
        self.entity
    }

    /// Handle of the owner; kept, not computed.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.head.origin
    }

    /// Sequence of the last event; 0 before the first.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.head.sequence
    }

    /// Link of the last event, or the genesis link.
    #[must_use]
    pub const fn head(&self) -> CausalLink {
        self.head
    }

    /// Digest of everything so far.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }
}
