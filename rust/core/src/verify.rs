//! Checks what a daemon emitted, in which order, and who spoke for it, with the public key alone.
//!
//! The signed records are judged first (see the private module `lineage`): certificates in epoch order, each by who may
//! sign it, and checkpoints by the node of their epoch. What of it survives every rollback *vouches* for the digest at
//! its sequence. Then the events are hashed one after another and compared with each parent and each voucher.
//!
//! Which event is named when event n+1 does not name the digest after event n: either event n was altered, or the
//! parent field of event n+1. It is n+1 if the digest after n is vouched for, or if the chain goes on consistently once
//! that field is corrected; else it is n. Where a voucher does not match, the event at its sequence is named: if the links
//! before it were made anew to fit each other, the change lies between the voucher before and that event.

mod lineage;

use std::collections::{BTreeMap, BTreeSet};

use crate::certificate::{Certificate, Reason};
use crate::chain::{BrokenKind, ChainError};
use crate::checkpoint::Checkpoint;
use crate::digest::{self, Digest};
use crate::id::{EntityId, Origin};
use crate::link::CausalLink;

use lineage::Lineage;
pub use lineage::may_follow;

/// One node's time as the speaker of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerSpan {
    /// Key of the node.
    pub node: EntityId,
    /// Its epoch.
    pub epoch: u64,
    /// First sequence it could emit.
    pub first_sequence: u64,
    /// Last of its events that stands, as far as this chain shows; `first_sequence - 1` if none does.
    pub last_sequence: u64,
    /// What it emitted after this sequence was declared rolled back by a restart or a takeover.
    pub rolled_back_from: Option<u64>,
}

/// What a chain proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReport {
    /// Owner of the chain.
    pub entity: EntityId,
    /// Number of events checked.
    pub events: u64,
    /// Sequence of the first; above 1 when older outputs were not retained, and then vouched for. Without events one
    /// more than `last_sequence`.
    pub first_sequence: u64,
    /// Sequence of the last; without events the highest that is vouched for.
    pub last_sequence: u64,
    /// Highest sequence that a checkpoint of the surviving line covers; 0 if there is none. Above `last_sequence` when
    /// the events given end earlier than what was signed.
    pub signed_through: u64,
    /// Digest of the chain at `last_sequence`.
    pub digest: Digest,
    /// Who could speak, by ascending epoch.
    pub owners: Vec<OwnerSpan>,
}

/// What a receipt says of the chain: its position and its digest there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Position.
    pub sequence: u64,
    /// Digest there.
    pub digest: Digest,
}

/// Checks a chain, oldest first, or a part of it that follows a vouched digest. Certificates are given in epoch order,
/// checkpoints in the order in which they were signed.
///
/// Claims are compared where the digest is known: from before the first event to the last, and at vouched sequences.
/// A claim about any other sequence is refused, since it cannot be checked.
///
/// # Errors
/// The first of: a bad certificate, a bad checkpoint, two of them that disagree, a bad event, a claim that does not fit.
pub fn verify(
    events: &[(CausalLink, &[u8])],
    checkpoints: &[Checkpoint],
    certificates: &[Certificate],
    entity: &EntityId,
    claims: &[Claim],
) -> Result<ChainReport, ChainError> {
    let lineage = Lineage::check(entity, certificates, checkpoints)?;
    let mut known: BTreeMap<u64, Digest> = lineage.vouched.clone();
    let (first_sequence, last_sequence, digest) = match events {
        [] => {
            let (sequence, digest) = lineage.highest();
            (sequence.saturating_add(1), sequence, digest)
        }
        events => {
            let wanted = claims.iter().map(|claim| claim.sequence).collect();
            Walk {
                lineage: &lineage,
                events,
                wanted,
            }
            .run(&mut known)?
        }
    };
    for claim in claims {
        let found = known.get(&claim.sequence);
        if found != Some(&claim.digest) {
            return Err(ChainError::Broken {
                kind: BrokenKind::Receipt,
                origin: lineage.origin,
                sequence: claim.sequence,
                expected: claim.digest.head8(),
                found: found.map_or(0, Digest::head8),
            });
        }
    }
    Ok(ChainReport {
        entity: *entity,
        events: events.len() as u64,
        first_sequence,
        last_sequence,
        signed_through: lineage.signed_through,
        digest,
        owners: owners(certificates, last_sequence),
    })
}

/// What the signed records of a chain vouch for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vouched {
    /// Digests of the surviving line, by sequence.
    pub digests: BTreeMap<u64, Digest>,
    /// Highest sequence that a checkpoint of the surviving line covers; 0 if there is none.
    pub signed_through: u64,
}

/// Judges certificates, in epoch order, and checkpoints, in the order in which they were signed.
///
/// # Errors
/// The first of: a bad certificate, a bad checkpoint, two of them that disagree.
pub fn vouched(
    entity: &EntityId,
    certificates: &[Certificate],
    checkpoints: &[Checkpoint],
) -> Result<Vouched, ChainError> {
    let lineage = Lineage::check(entity, certificates, checkpoints)?;
    Ok(Vouched {
        digests: lineage.vouched,
        signed_through: lineage.signed_through,
    })
}

struct Walk<'a, 'e> {
    lineage: &'a Lineage<'a>,
    events: &'a [(CausalLink, &'e [u8])],
    /// Sequences whose digests are to be noted.
    wanted: BTreeSet<u64>,
}

impl Walk<'_, '_> {
    /// Checks every event, of which there is one; returns the first and the last sequence and the last digest.
    fn run(&self, known: &mut BTreeMap<u64, Digest>) -> Result<(u64, u64, Digest), ChainError> {
        let origin = self.lineage.origin;
        let (anchor, mut digest) = self.lineage.anchor(&self.events[0].0)?;
        let mut sequence = anchor;
        for (index, (link, payload)) in self.events.iter().enumerate() {
            let expected = sequence.checked_add(1).ok_or(ChainError::Exhausted { origin })?;
            let broken = |kind, expected_value, found| {
                Err(ChainError::Broken {
                    kind,
                    origin,
                    sequence: expected,
                    expected: expected_value,
                    found,
                })
            };
            if link.origin != origin {
                return broken(BrokenKind::WrongOrigin, origin.get(), link.origin.get());
            }
            if link.sequence != expected {
                return broken(BrokenKind::Gap, expected, link.sequence);
            }
            if link.parent != digest.head8() {
                return Err(self.blame(index, sequence, &digest));
            }
            digest = digest::event(&digest, &link.to_bytes(), payload);
            sequence = expected;
            if let Some(vouched) = self.lineage.vouched.get(&sequence)
                && *vouched != digest
            {
                return broken(BrokenKind::Altered, vouched.head8(), digest.head8());
            }
            if self.wanted.contains(&sequence) {
                known.insert(sequence, digest);
            }
        }
        Ok((anchor + 1, sequence, digest))
    }

    /// The event at `index` does not name `before`, the digest after event `sequence`: says which of the two is bad.
    fn blame(&self, index: usize, sequence: u64, before: &Digest) -> ChainError {
        let (link, payload) = self.events[index];
        let vouched = &self.lineage.vouched;
        // The walk compares each voucher as it passes, so one at `sequence` has matched. The anchor is one.
        let parent_was_altered = vouched.contains_key(&sequence) || {
            let corrected = CausalLink {
                parent: before.head8(),
                ..link
            };
            let after = digest::event(before, &corrected.to_bytes(), payload);
            let next_names_it = self
                .events
                .get(index + 1)
                .is_some_and(|(next, _)| next.parent == after.head8());
            next_names_it || vouched.get(&link.sequence) == Some(&after)
        };
        let origin: Origin = self.lineage.origin;
        let (sequence, expected, found) = if parent_was_altered {
            (link.sequence, before.head8(), link.parent)
        } else {
            (sequence, link.parent, before.head8())
        };
        ChainError::Broken {
            kind: BrokenKind::Altered,
            origin,
            sequence,
            expected,
            found,
        }
    }
}

/// Who could speak for a chain that ends at `last_sequence`, given its certificates in epoch order.
#[must_use]
pub fn owners(certificates: &[Certificate], last_sequence: u64) -> Vec<OwnerSpan> {
    let mut spans = Vec::with_capacity(certificates.len());
    for (certificate, later) in certificates.iter().zip((1..).map(|index| &certificates[index..])) {
        let end = later
            .first()
            .map_or(last_sequence, |next| next.from_sequence.min(last_sequence));
        let mut rolled_back_from = None;
        for (distance, next) in later.iter().enumerate() {
            let declares = matches!(next.reason, Reason::Restart | Reason::Takeover);
            // The next owner always declares; a later one reaches back this far only if it begins before.
            let reaches = distance == 0 || next.from_sequence < rolled_back_from.unwrap_or(later[0].from_sequence);
            if declares && reaches {
                rolled_back_from = Some(next.from_sequence);
            }
        }
        spans.push(OwnerSpan {
            node: certificate.node,
            epoch: certificate.epoch,
            first_sequence: certificate.from_sequence.saturating_add(1),
            last_sequence: end
                .min(rolled_back_from.unwrap_or(u64::MAX))
                .max(certificate.from_sequence),
            rolled_back_from,
        });
    }
    spans
}
