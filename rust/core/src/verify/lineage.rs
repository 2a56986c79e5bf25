//! Judges certificates and checkpoints, and tells which digests they vouch for.
//!
//! Who may sign a certificate: a spawn, the entity. A move, the node of the certificate before, or the entity. A restart,
//! the node it names if that is the node of the certificate before, or the entity. A takeover, the entity.
//! The first certificate given may be a later one only if the entity signed it, since nothing tells who else may.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::certificate::{Certificate, Reason};
use crate::chain::{BrokenKind, ChainError};
use crate::checkpoint::Checkpoint;
use crate::digest::Digest;
use crate::id::{EntityId, Origin};
use crate::link::CausalLink;

/// Signed records that were found good.
pub struct Lineage<'a> {
    /// Handle of the entity.
    pub origin: Origin,
    /// Digests that a record of the surviving line vouches for, by sequence; never empty.
    pub vouched: BTreeMap<u64, Digest>,
    /// Highest sequence vouched for by a checkpoint of the surviving line.
    pub signed_through: u64,
    certificates: &'a [Certificate],
}

impl<'a> Lineage<'a> {
    /// Checks all records, certificates first.
    pub fn check(
        entity: &EntityId,
        certificates: &'a [Certificate],
        checkpoints: &[Checkpoint],
    ) -> Result<Self, ChainError> {
        let mut lineage = Self {
            origin: entity.origin(),
            vouched: BTreeMap::new(),
            signed_through: 0,
            certificates,
        };
        if certificates.is_empty() {
            return Err(lineage.bad(0, "no certificate is given"));
        }
        let mut previous = None;
        for certificate in certificates {
            may_follow(entity, previous, certificate, &[])
                .and_then(|()| {
                    let signed = certificate.verify_signature();
                    signed.map_err(|_| "certificate: signature does not fit")
                })
                .map_err(|what| lineage.bad(certificate.from_sequence, what))?;
            previous = Some(certificate);
        }
        let mut previous = None;
        for checkpoint in checkpoints {
            lineage
                .check_checkpoint(entity, previous, checkpoint)
                .map_err(|what| lineage.bad(checkpoint.sequence, what))?;
            previous = Some(checkpoint);
        }
        for certificate in certificates {
            lineage.vouch(certificate.epoch, certificate.from_sequence, certificate.digest)?;
        }
        for checkpoint in checkpoints {
            if lineage.vouch(checkpoint.epoch, checkpoint.sequence, checkpoint.digest)? {
                lineage.signed_through = lineage.signed_through.max(checkpoint.sequence);
            }
        }
        Ok(lineage)
    }

    /// Sequence and digest before the first of the events given. If its sequence was altered, its parent still tells.
    pub fn anchor(&self, first: &CausalLink) -> Result<(u64, Digest), ChainError> {
        let by_sequence = first
            .sequence
            .checked_sub(1)
            .and_then(|before| self.vouched.get_key_value(&before));
        let by_parent = || self.vouched.iter().find(|(_, digest)| digest.head8() == first.parent);
        let anchor = match by_sequence {
            Some((_, digest)) if digest.head8() == first.parent => by_sequence,
            _ => by_parent().or(by_sequence),
        };
        let has_spawn = self.certificates[0].reason == Reason::Spawn;
        let missing_spawn = self.bad(0, "spawn certificate: missing for a chain that begins at 1");
        match anchor {
            Some((sequence, digest)) if *sequence > 0 || has_spawn => Ok((*sequence, *digest)),
            Some(_) => Err(missing_spawn),
            None if first.sequence == 1 => Err(missing_spawn),
            None => Err(ChainError::Broken {
                kind: BrokenKind::Gap,
                origin: self.origin,
                sequence: 1,
                expected: 1,
                found: first.sequence,
            }),
        }
    }

    /// Highest sequence vouched for, and its digest.
    pub fn highest(&self) -> (u64, Digest) {
        let (sequence, digest) = self
            .vouched
            .last_key_value()
            .expect("the last certificate is never rolled back");
        (*sequence, *digest)
    }

    fn check_checkpoint(
        &self,
        entity: &EntityId,
        previous: Option<&Checkpoint>,
        checkpoint: &Checkpoint,
    ) -> Result<(), &'static str> {
        if checkpoint.entity != *entity {
            return Err("checkpoint: of another entity");
        }
        let epoch = self
            .certificates
            .binary_search_by_key(&checkpoint.epoch, |certificate| certificate.epoch);
        let certificate = &self.certificates[epoch.map_err(|_| "checkpoint: no certificate of its epoch")?];
        checkpoint
            .verify_signature(&certificate.node)
            .map_err(|_| "checkpoint: not signed by the node of its epoch")?;
        if checkpoint.sequence < certificate.from_sequence {
            return Err("checkpoint: before the first event of its epoch");
        }
        match previous {
            Some(previous) if previous.digest_of() != checkpoint.previous => {
                Err("checkpoint: does not follow the one before")
            }
            _ => Ok(()),
        }
    }

    /// Takes in what a record says; tells whether it is on the surviving line.
    fn vouch(&mut self, epoch: u64, sequence: u64, digest: Digest) -> Result<bool, ChainError> {
        let disagree = |expected, found| {
            Err(ChainError::Broken {
                kind: BrokenKind::Forked,
                origin: self.origin,
                sequence,
                expected,
                found,
            })
        };
        let later = self.certificates.iter().filter(|later| later.epoch > epoch);
        match later.into_iter().find(|later| later.from_sequence < sequence) {
            None => {}
            Some(later) if later.reason == Reason::Move => return disagree(later.from_sequence, sequence),
            Some(_) => return Ok(false),
        }
        match self.vouched.entry(sequence) {
            Entry::Vacant(unknown) => {
                unknown.insert(digest);
                Ok(true)
            }
            Entry::Occupied(known) if *known.get() == digest => Ok(true),
            Entry::Occupied(known) => disagree(known.get().head8(), digest.head8()),
        }
    }

    fn bad(&self, sequence: u64, what: &'static str) -> ChainError {
        ChainError::BadSignature {
            origin: self.origin,
            sequence,
            what,
        }
    }
}

/// Checks that a certificate may follow on the one before, and that its signer is one who may sign it. Takeovers may also be
/// signed by one of `authorities`. Whether the signature fits is not checked.
///
/// # Errors
/// What is wrong.
pub fn may_follow(
    entity: &EntityId,
    previous: Option<&Certificate>,
    certificate: &Certificate,
    authorities: &[EntityId],
) -> Result<(), &'static str> {
    if certificate.entity != *entity {
        return Err("certificate: of another entity");
    }
    if certificate.epoch <= previous.map_or(0, |previous| previous.epoch) {
        return Err("certificate: epoch does not rise");
    }
    let by_entity = certificate.signer == *entity;
    let by_owner = previous.is_some_and(|previous| previous.node == certificate.signer);
    let allowed = match certificate.reason {
        Reason::Spawn if previous.is_some() || certificate.from_sequence != 0 => {
            return Err("spawn certificate: not at the beginning");
        }
        Reason::Spawn => by_entity,
        Reason::Takeover => by_entity || authorities.contains(&certificate.signer),
        Reason::Move => by_entity || by_owner,
        Reason::Restart => by_entity || (by_owner && certificate.node == certificate.signer),
    };
    if allowed {
        Ok(())
    } else {
        Err("certificate: signed by one who may not")
    }
}
