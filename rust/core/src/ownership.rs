//! Who owns an entity: records of ownership, each bound to the one before.
//!
//! A record is a [`Certificate`] and what binds it: the record before, the owner before, and the move that made it. The
//! certificate is what a stranger needs, and says who speaks in which epoch, from which event on, and why; nothing of it is
//! repeated here. The record is what nodes need: it is the fence. A node runs a daemon only under the highest record that
//! it knows, and two records of one epoch cannot both be in one lineage. The certificate alone could not carry this: its
//! bytes are released, and it names neither the record before nor the move.
//!
//! Who signs: what signs the certificate, as [`may_follow`](crate::verify::may_follow) says. A spawn, the entity. A move,
//! the node that owned before, or the entity. A restart, the owner, or the entity. A takeover, the entity, or one of the
//! authorities that whoever checks has listed: the directory, operators.
//!
//! Invariants
//! * A move and a restart go one epoch up. A takeover goes up two or more: the owner before may have written one record
//!   that whoever takes over did not hear of, and never two.
//! * Only a spawn has nothing before it, and its epoch is 1. Only a move has a migration id.
//!
//! ```text
//! version u8 = 1 | previous 32 | source 32 | mid 16 | certificate 210 | signature 64
//! ```
//! Signed is `"meshos 2026 ownership record v1\0"` followed by everything before the signature, by the signer of the
//! certificate. `previous` is `derive_key("meshos 2026 ownership record v1")` over the whole record before; it and `source`
//! are zero in a spawn. `mid` is zero without a move.

use thiserror::Error;

use crate::certificate::{Certificate, Reason, Statement};
use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::digest::{self, Context, Digest};
use crate::id::EntityId;
use crate::identity::{self, IdentityError, Keypair};
use crate::rows::{Table, Write, entity_key};
use crate::verify::{self, OwnerSpan};

const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"meshos 2026 ownership record v1\0";
const NOBODY: EntityId = EntityId::from_bytes([0; 32]);

/// Most records of a lineage.
pub const LINEAGE_MAX: usize = 65_536;

/// Names one try to move an entity, for ever; zero: no move.
pub type MigrationId = [u8; 16];

/// Who owns an entity from an event on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnershipRecord {
    /// Entity, epoch, node, event, digest, reason and signer.
    pub certificate: Certificate,
    /// [`digest_of`](Self::digest_of) the record before; [`Digest::ZERO`] for a spawn.
    pub previous: Digest,
    /// The node that owned before; zero for a spawn.
    pub source: EntityId,
    /// The move; zero without one.
    pub mid: MigrationId,
    /// Signature of the certificate's signer.
    pub signature: [u8; 64],
}

impl OwnershipRecord {
    /// Bytes on the wire.
    pub const SIZE: usize = Self::SIGNED_SIZE + 64;
    const SIGNED_SIZE: usize = 1 + 32 + 32 + 16 + Certificate::SIZE;

    /// The first record of an entity, signed by it: `node` owns it. `digest` is that before the first event.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`] if the entity's pair has no secret half.
    pub fn spawn(entity: &Keypair, node: EntityId, digest: Digest) -> Result<Self, IdentityError> {
        let statement = Statement {
            entity: entity.entity_id(),
            epoch: 1,
            node,
            from_sequence: 0,
            digest,
            reason: Reason::Spawn,
        };
        Self::sign(statement, Digest::ZERO, NOBODY, MigrationId::default(), entity)
    }

    /// The record of a move after this one: `node` owns from the event after `from_sequence` on.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`] if the signer has no secret half.
    pub fn moved(
        &self,
        node: EntityId,
        mid: MigrationId,
        from_sequence: u64,
        digest: Digest,
        signer: &Keypair,
    ) -> Result<Self, IdentityError> {
        self.next(Reason::Move, 1, node, mid, (from_sequence, digest), signer)
    }

    /// The record of a restart after this one: the same node owns, and what came after `from_sequence` is rolled back.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`] if the signer has no secret half.
    pub fn restarted(&self, from_sequence: u64, digest: Digest, signer: &Keypair) -> Result<Self, IdentityError> {
        let none = MigrationId::default();
        self.next(Reason::Restart, 1, self.node(), none, (from_sequence, digest), signer)
    }

    /// The record of a takeover after this one, two epochs up: `node` owns, and what came after `from_sequence` is rolled
    /// back.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`] if the signer has no secret half.
    pub fn taken_over(
        &self,
        node: EntityId,
        from_sequence: u64,
        digest: Digest,
        signer: &Keypair,
    ) -> Result<Self, IdentityError> {
        let none = MigrationId::default();
        self.next(Reason::Takeover, 2, node, none, (from_sequence, digest), signer)
    }

    fn next(
        &self,
        reason: Reason,
        up: u64,
        node: EntityId,
        mid: MigrationId,
        (from_sequence, digest): (u64, Digest),
        signer: &Keypair,
    ) -> Result<Self, IdentityError> {
        let statement = Statement {
            entity: self.entity(),
            epoch: self.epoch().saturating_add(up),
            node,
            from_sequence,
            digest,
            reason,
        };
        Self::sign(statement, self.digest_of(), self.node(), mid, signer)
    }

    /// Signs a record.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`] if the signer has no secret half.
    pub fn sign(
        statement: Statement,
        previous: Digest,
        source: EntityId,
        mid: MigrationId,
        signer: &Keypair,
    ) -> Result<Self, IdentityError> {
        let mut record = Self {
            certificate: Certificate::sign(statement, signer)?,
            previous,
            source,
            mid,
            signature: [0; 64],
        };
        record.signature = signer.sign(&record.signed_message())?;
        Ok(record)
    }

    /// Whom it is about.
    #[must_use]
    pub const fn entity(&self) -> EntityId {
        self.certificate.entity
    }

    /// Its epoch.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.certificate.epoch
    }

    /// The owner.
    #[must_use]
    pub const fn node(&self) -> EntityId {
        self.certificate.node
    }

    /// Why it was made.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.certificate.reason
    }

    /// Digest of the record: the `previous` of the next.
    #[must_use]
    pub fn digest_of(&self) -> Digest {
        digest::derive(Context::Ownership, &[&self.to_bytes()])
    }

    /// Checks that it follows on `previous`, or on nothing, and that its signer may sign it. Whether the signatures fit is
    /// [`verify_signatures`](Self::verify_signatures).
    ///
    /// # Errors
    /// What is wrong.
    pub fn follows(&self, previous: Option<&Self>, authorities: &[EntityId]) -> Result<(), &'static str> {
        if previous.is_none() && self.reason() != Reason::Spawn {
            return Err("record: the one before is missing");
        }
        let before = previous.map(|previous| &previous.certificate);
        verify::may_follow(&self.entity(), before, &self.certificate, authorities)?;
        self.check().map_err(|field| match field {
            "epoch" => "record: its epoch does not fit its reason",
            "previous" | "source" => "record: only a spawn has nothing before it",
            _ => "record: only a move has a migration id",
        })?;
        let Some(previous) = previous else {
            return Ok(());
        };
        let up = self.epoch() - previous.epoch();
        let goes_up = match self.reason() {
            Reason::Takeover => up >= 2,
            _ => up == 1,
        };
        if self.entity() != previous.entity() {
            Err("record: of another entity")
        } else if self.previous != previous.digest_of() {
            Err("record: does not name the one before")
        } else if self.source != previous.node() {
            Err("record: does not name the owner before")
        } else if !goes_up {
            Err("record: its epoch does not fit its reason")
        } else if self.reason() == Reason::Restart && self.node() != previous.node() {
            Err("record: a restart of another node")
        } else {
            Ok(())
        }
    }

    /// Checks that the signer signed the record and its certificate.
    ///
    /// # Errors
    /// [`IdentityError::InvalidPublicKey`] or [`IdentityError::InvalidSignature`].
    pub fn verify_signatures(&self) -> Result<(), IdentityError> {
        identity::verify(&self.certificate.signer, &self.signed_message(), &self.signature)?;
        self.certificate.verify_signature()
    }

    /// The row that keeps it.
    #[must_use]
    pub fn write(&self) -> Write {
        let key = entity_key(&self.entity(), [self.epoch()]);
        Write::put(Table::Ownership, key, self.to_bytes())
    }

    /// The wire form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::SIZE);
        self.put_into(&mut out);
        out
    }

    /// Appends the wire form.
    pub fn put_into(&self, out: &mut Vec<u8>) {
        self.put_signed(out);
        out.put(&self.signature);
    }

    /// Reads exactly one record.
    ///
    /// # Errors
    /// A [`DecodeError`]; signatures are not checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let record = Self::read(&mut reader)?;
        reader.expect_end()?;
        Ok(record)
    }

    /// Reads one record of a longer input.
    ///
    /// # Errors
    /// A [`DecodeError`]; signatures are not checked.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = reader.clone();
        reader.version_u8(VERSION)?;
        let record = Self {
            previous: Digest::from_bytes(reader.array()?),
            source: EntityId::from_bytes(reader.array()?),
            mid: reader.array()?,
            certificate: Certificate::read(reader)?,
            signature: reader.array()?,
        };
        record.check().map_err(|field| start.fault(Fault::Invalid { field }))?;
        Ok(record)
    }

    /// Gives the first field that no writer writes like this.
    fn check(&self) -> Result<(), &'static str> {
        let is_spawn = self.reason() == Reason::Spawn;
        let first_epoch = match self.reason() {
            Reason::Spawn => 1,
            Reason::Move | Reason::Restart => 2,
            Reason::Takeover => 3,
        };
        if self.epoch() < first_epoch || (is_spawn && self.epoch() > 1) {
            Err("epoch")
        } else if is_spawn != (self.previous == Digest::ZERO) {
            Err("previous")
        } else if is_spawn != (self.source == NOBODY) {
            Err("source")
        } else if (self.reason() == Reason::Move) == (self.mid == MigrationId::default()) {
            Err("migration id")
        } else {
            Ok(())
        }
    }

    fn signed_message(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(DOMAIN.len() + Self::SIGNED_SIZE);
        message.put(DOMAIN);
        self.put_signed(&mut message);
        message
    }

    fn put_signed(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        out.put(self.previous.as_bytes());
        out.put(self.source.as_bytes());
        out.put(&self.mid);
        out.put(&self.certificate.to_bytes());
    }
}

/// A record that does not belong where it stands: the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("record {index}, of epoch {epoch}: {what}")]
pub struct LineageError {
    /// Its place, from 0.
    pub index: usize,
    /// Its epoch; 0 if there is none.
    pub epoch: u64,
    /// What is wrong with it.
    pub what: &'static str,
}

/// All records of an entity from its spawn on, in epoch order, each checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    records: Vec<OwnershipRecord>,
}

impl Lineage {
    /// Checks records, the oldest first: each follows on the one before, and is signed by one who may. Takeovers may be
    /// signed by one of `authorities`.
    ///
    /// # Errors
    /// [`LineageError`] for the first that is wrong, or if there are none or too many.
    pub fn verify(
        entity: &EntityId,
        records: Vec<OwnershipRecord>,
        authorities: &[EntityId],
    ) -> Result<Self, LineageError> {
        let is_signed = |record: &OwnershipRecord| record.verify_signatures().is_ok();
        Self::verify_by(entity, records, authorities, is_signed)
    }

    /// The same, where `is_signed` tells whether the signatures of a record fit: for who knows some of them.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn verify_by(
        entity: &EntityId,
        records: Vec<OwnershipRecord>,
        authorities: &[EntityId],
        mut is_signed: impl FnMut(&OwnershipRecord) -> bool,
    ) -> Result<Self, LineageError> {
        let bad = |index: usize, what| {
            let epoch = records.get(index).map_or(0, OwnershipRecord::epoch);
            Err(LineageError { index, epoch, what })
        };
        if records.is_empty() {
            return bad(0, "no record is given");
        }
        if records.len() > LINEAGE_MAX {
            return bad(LINEAGE_MAX, "more records than a lineage has");
        }
        let mut previous = None;
        for (index, record) in records.iter().enumerate() {
            if record.entity() != *entity {
                return bad(index, "record: of another entity");
            }
            if let Err(what) = record.follows(previous, authorities) {
                return bad(index, what);
            }
            if !is_signed(record) {
                return bad(index, "record: signature does not fit");
            }
            previous = Some(record);
        }
        Ok(Self { records })
    }

    /// The records, the oldest first.
    #[must_use]
    pub fn records(&self) -> &[OwnershipRecord] {
        &self.records
    }

    /// The newest record: the fence.
    ///
    /// # Panics
    /// Never: a lineage has a record.
    #[must_use]
    pub fn highest(&self) -> &OwnershipRecord {
        self.records.last().expect("a lineage has a record")
    }

    /// The record of an epoch.
    #[must_use]
    pub fn of_epoch(&self, epoch: u64) -> Option<&OwnershipRecord> {
        let index = self.records.binary_search_by_key(&epoch, OwnershipRecord::epoch);
        index.ok().map(|index| &self.records[index])
    }

    /// The certificates, in epoch order: what a stranger is shown.
    #[must_use]
    pub fn certificates(&self) -> Vec<Certificate> {
        self.records.iter().map(|record| record.certificate).collect()
    }

    /// Which node owned which events of a chain that ends at `last_sequence`.
    #[must_use]
    pub fn spans(&self, last_sequence: u64) -> Vec<OwnerSpan> {
        verify::owners(&self.certificates(), last_sequence)
    }
}
