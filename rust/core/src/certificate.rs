//! Who may speak for an entity: this node, in this epoch, from this sequence on.
//!
//! The lineage of an entity is its certificates in epoch order. Who may sign which certificate is judged by
//! [`verify`](crate::verify), since it depends on the certificate before; here only the bytes and the signature are.
//!
//! ```text
//! version u8 = 1 | reason u8 | entity 32 | epoch u64 | node 32 | from_sequence u64 | digest 32 | signer 32 | signature 64
//! ```
//! Numbers are little endian. Signed is `"meshos 2026 certificate v1\0"` followed by everything before the signature.

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::digest::Digest;
use crate::id::EntityId;
use crate::identity::{self, IdentityError, Keypair};

const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"meshos 2026 certificate v1\0";

/// Why a certificate was made; its byte on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The entity came to be, at sequence 0.
    Spawn = 1,
    /// The owner handed the entity on.
    Move = 2,
    /// The owner went back: what was emitted after the sequence is rolled back.
    Restart = 3,
    /// A lost owner was replaced: what it emitted after the sequence is rolled back.
    Takeover = 4,
}

/// What a certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// Whom the node speaks for.
    pub entity: EntityId,
    /// Term of ownership, from 1.
    pub epoch: u64,
    /// Key of the node that speaks.
    pub node: EntityId,
    /// Last sequence of the term before; the node emits what follows.
    pub from_sequence: u64,
    /// Chain digest at `from_sequence`.
    pub digest: Digest,
    /// Why.
    pub reason: Reason,
}

/// A signed [`Statement`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate {
    /// Whom the node speaks for.
    pub entity: EntityId,
    /// Term of ownership, from 1.
    pub epoch: u64,
    /// Key of the node that speaks.
    pub node: EntityId,
    /// Last sequence of the term before; the node emits what follows.
    pub from_sequence: u64,
    /// Chain digest at `from_sequence`.
    pub digest: Digest,
    /// Why.
    pub reason: Reason,
    /// Who says so.
    pub signer: EntityId,
    /// Signature of the signer.
    pub signature: [u8; 64],
}

impl Certificate {
    /// Bytes on the wire.
    pub const SIZE: usize = Self::SIGNED_SIZE + 64;
    const SIGNED_SIZE: usize = 2 + 32 + 8 + 32 + 8 + 32 + 32;

    /// Signs a statement.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`] if the signer has no secret half.
    pub fn sign(statement: Statement, signer: &Keypair) -> Result<Self, IdentityError> {
        let Statement {
            entity,
            epoch,
            node,
            from_sequence,
            digest,
            reason,
        } = statement;
        let signer_id = signer.entity_id();
        let mut certificate = Self {
            entity,
            epoch,
            node,
            from_sequence,
            digest,
            reason,
            signer: signer_id,
            signature: [0; 64],
        };
        certificate.signature = signer.sign(&certificate.signed_message())?;
        Ok(certificate)
    }

    /// Checks that `signer` signed it; whether that signer may is not judged here.
    ///
    /// # Errors
    /// [`IdentityError::InvalidPublicKey`] or [`IdentityError::InvalidSignature`].
    pub fn verify_signature(&self) -> Result<(), IdentityError> {
        identity::verify(&self.signer, &self.signed_message(), &self.signature)
    }

    /// The wire form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::SIZE);
        self.put_signed(&mut out);
        out.put(&self.signature);
        out
    }

    /// Reads exactly one certificate.
    ///
    /// # Errors
    /// A [`DecodeError`]; signatures are not checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let certificate = Self::read(&mut reader)?;
        reader.expect_end()?;
        Ok(certificate)
    }

    /// Reads one certificate of a longer input.
    ///
    /// # Errors
    /// A [`DecodeError`]; signatures are not checked.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.version_u8(VERSION)?;
        let at_reason = reader.clone();
        let reason = match reader.u8()? {
            1 => Reason::Spawn,
            2 => Reason::Move,
            3 => Reason::Restart,
            4 => Reason::Takeover,
            _ => return Err(at_reason.fault(Fault::Invalid { field: "reason" })),
        };
        Ok(Self {
            reason,
            entity: EntityId::from_bytes(reader.array()?),
            epoch: reader.u64()?,
            node: EntityId::from_bytes(reader.array()?),
            from_sequence: reader.u64()?,
            digest: Digest::from_bytes(reader.array()?),
            signer: EntityId::from_bytes(reader.array()?),
            signature: reader.array()?,
        })
    }

    fn signed_message(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(DOMAIN.len() + Self::SIGNED_SIZE);
        message.put(DOMAIN);
        self.put_signed(&mut message);
        message
    }

    fn put_signed(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        out.put_u8(self.reason as u8);
        out.put(self.entity.as_bytes());
        out.put_u64(self.epoch);
        out.put(self.node.as_bytes());
        out.put_u64(self.from_sequence);
        out.put(self.digest.as_bytes());
        out.put(self.signer.as_bytes());
    }
}
