//! Signed descent of one entity from another.
//!
//! ```text
//! version u8 = 1 | has_snapshot u8 (0 or 1) | parent 32 | child 32 | fork_sequence u64 | parent_digest 32
//! | from_snapshot_sequence u64 (0 without) | signer 32 | signature of the signer 64 | signature of the child 64
//! ```
//! Numbers are little endian. Both sign `"meshos 2026 fork v1\0"` followed by everything before the signatures.
//! The signer is the parent, or an operator; whether that operator may is for who holds the operator keys to say.

use crate::chain::{CausalChainBuilder, ChainError};
use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::digest::{self, Digest};
use crate::id::EntityId;
use crate::identity::{self, IdentityError, Keypair};

const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"meshos 2026 fork v1\0";

/// Where a child left its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForkRecord {
    /// The entity that was forked.
    pub parent: EntityId,
    /// The entity that came to be.
    pub child: EntityId,
    /// Last event of the parent that the child descends from.
    pub fork_sequence: u64,
    /// Chain digest of the parent there.
    pub parent_digest: Digest,
    /// Chain position of the parent's snapshot that the child's state began with, if it did.
    pub from_snapshot_sequence: Option<u64>,
    /// The parent, or an operator.
    pub signer: EntityId,
    /// Of the signer and of the child.
    pub signatures: [[u8; 64]; 2],
}

impl ForkRecord {
    /// Bytes on the wire.
    pub const SIZE: usize = Self::SIGNED_SIZE + 128;
    const SIGNED_SIZE: usize = 2 + 32 + 32 + 8 + 32 + 8 + 32;

    /// Lineage of the child: what the genesis of its chain is derived from.
    #[must_use]
    pub fn lineage(&self) -> Digest {
        digest::fork_lineage(&self.parent, self.fork_sequence, &self.parent_digest, &self.child)
    }

    /// Checks that the record makes sense and that both signed it.
    ///
    /// # Errors
    /// [`ChainError::BadSignature`], at the fork sequence of the parent's chain.
    pub fn verify(&self) -> Result<(), ChainError> {
        self.check().map_err(|what| ChainError::BadSignature {
            origin: self.parent.origin(),
            sequence: self.fork_sequence,
            what,
        })
    }

    /// The wire form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::SIZE);
        self.put_signed(&mut out);
        out.put(&self.signatures[0]);
        out.put(&self.signatures[1]);
        out
    }

    /// Reads exactly one record and checks it as [`verify`](Self::verify) does.
    ///
    /// # Errors
    /// A [`DecodeError`]; [`Fault::Invalid`] names what [`verify`](Self::verify) would.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let start = reader.clone();
        reader.version_u8(VERSION)?;
        let at_flag = reader.clone();
        let has_snapshot = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(at_flag.fault(Fault::Invalid { field: "snapshot flag" })),
        };
        let parent = EntityId::from_bytes(reader.array()?);
        let child = EntityId::from_bytes(reader.array()?);
        let fork_sequence = reader.u64()?;
        let parent_digest = Digest::from_bytes(reader.array()?);
        let at_snapshot = reader.clone();
        let from_snapshot_sequence = match (has_snapshot, reader.u64()?) {
            (true, sequence) => Some(sequence),
            (false, 0) => None,
            (false, _) => {
                return Err(at_snapshot.fault(Fault::Invalid {
                    field: "snapshot sequence",
                }));
            }
        };
        let signer = EntityId::from_bytes(reader.array()?);
        let signatures = [reader.array()?, reader.array()?];
        reader.expect_end()?;
        let record = Self {
            parent,
            child,
            fork_sequence,
            parent_digest,
            from_snapshot_sequence,
            signer,
            signatures,
        };
        record.check().map_err(|field| start.fault(Fault::Invalid { field }))?;
        Ok(record)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.parent == self.child {
            return Err("fork record: child is the parent");
        }
        if self
            .from_snapshot_sequence
            .is_some_and(|snapshot| snapshot > self.fork_sequence)
        {
            return Err("fork record: snapshot after the fork");
        }
        let message = self.signed_message();
        identity::verify(&self.signer, &message, &self.signatures[0])
            .map_err(|_| "fork record: signature of the signer")?;
        identity::verify(&self.child, &message, &self.signatures[1]).map_err(|_| "fork record: signature of the child")
    }

    fn signed_message(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(DOMAIN.len() + Self::SIGNED_SIZE);
        message.put(DOMAIN);
        self.put_signed(&mut message);
        message
    }

    fn put_signed(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        out.put_u8(u8::from(self.from_snapshot_sequence.is_some()));
        out.put(self.parent.as_bytes());
        out.put(self.child.as_bytes());
        out.put_u64(self.fork_sequence);
        out.put(self.parent_digest.as_bytes());
        out.put_u64(self.from_snapshot_sequence.unwrap_or(0));
        out.put(self.signer.as_bytes());
    }
}

/// Signs the descent of `child` from `parent` after its event `fork_sequence`, and begins the chain of the child.
///
/// # Errors
/// [`IdentityError::ReadOnly`] if either pair has no secret half.
pub fn fork_entity(
    parent: &Keypair,
    child: &Keypair,
    fork_sequence: u64,
    parent_digest: &Digest,
    from_snapshot_sequence: Option<u64>,
) -> Result<(ForkRecord, CausalChainBuilder), IdentityError> {
    let mut record = ForkRecord {
        parent: parent.entity_id(),
        child: child.entity_id(),
        fork_sequence,
        parent_digest: *parent_digest,
        from_snapshot_sequence,
        signer: parent.entity_id(),
        signatures: [[0; 64]; 2],
    };
    let message = record.signed_message();
    record.signatures = [parent.sign(&message)?, child.sign(&message)?];
    let chain = CausalChainBuilder::with_lineage(record.child, &record.lineage());
    Ok((record, chain))
}
