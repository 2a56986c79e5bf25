//! What the node that speaks for an entity signed: up to this sequence the chain has this digest.
//!
//! ```text
//! version u8 = 1 | entity 32 | epoch u64 | sequence u64 | digest 32 | unix_ms u64 | previous 32 | signature 64
//! ```
//! Numbers are little endian. Signed is `"meshos 2026 checkpoint v1\0"` followed by everything before the signature.
//! `previous` is `derive_key("meshos 2026 checkpoint v1")` over the whole checkpoint before, or 32 zero bytes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::codec::{DecodeError, Put, Reader};
use crate::digest::{self, Context, Digest};
use crate::id::EntityId;
use crate::identity::{self, IdentityError, Keypair};
use crate::time::UnixMs;

const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"meshos 2026 checkpoint v1\0";

/// A signed position of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Owner of the chain.
    pub entity: EntityId,
    /// Epoch whose certificate names the node that signed.
    pub epoch: u64,
    /// Events covered: those up to this one.
    pub sequence: u64,
    /// Chain digest there.
    pub digest: Digest,
    /// When it was signed, by the clock of the node.
    pub at: UnixMs,
    /// Digest of the checkpoint before; [`Digest::ZERO`] for the first.
    pub previous: Digest,
    /// Signature of the node.
    pub signature: [u8; 64],
}

impl Checkpoint {
    /// Bytes on the wire.
    pub const SIZE: usize = Self::SIGNED_SIZE + 64;
    const SIGNED_SIZE: usize = 1 + 32 + 8 + 8 + 32 + 8 + 32;

    /// Makes and signs a checkpoint.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`] if the node's pair has no secret half.
    pub fn sign(
        entity: EntityId,
        epoch: u64,
        sequence: u64,
        digest: Digest,
        at: UnixMs,
        previous: Digest,
        node: &Keypair,
    ) -> Result<Self, IdentityError> {
        let mut checkpoint = Self {
            entity,
            epoch,
            sequence,
            digest,
            at,
            previous,
            signature: [0; 64],
        };
        checkpoint.signature = node.sign(&checkpoint.signed_message())?;
        Ok(checkpoint)
    }

    /// Checks that `node` signed it; whether that node may is not judged here.
    ///
    /// # Errors
    /// [`IdentityError::InvalidPublicKey`] or [`IdentityError::InvalidSignature`].
    pub fn verify_signature(&self, node: &EntityId) -> Result<(), IdentityError> {
        identity::verify(node, &self.signed_message(), &self.signature)
    }

    /// Digest of the checkpoint itself: the `previous` of the next.
    #[must_use]
    pub fn digest_of(&self) -> Digest {
        digest::derive(Context::Checkpoint, &[&self.to_bytes()])
    }

    /// The wire form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::SIZE);
        self.put_signed(&mut out);
        out.put(&self.signature);
        out
    }

    /// Reads exactly one checkpoint.
    ///
    /// # Errors
    /// A [`DecodeError`]; the signature is not checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let checkpoint = Self::read(&mut reader)?;
        reader.expect_end()?;
        Ok(checkpoint)
    }

    /// Reads one checkpoint of a longer input.
    ///
    /// # Errors
    /// A [`DecodeError`]; the signature is not checked.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.version_u8(VERSION)?;
        Ok(Self {
            entity: EntityId::from_bytes(reader.array()?),
            epoch: reader.u64()?,
            sequence: reader.u64()?,
            digest: Digest::from_bytes(reader.array()?),
            at: UnixMs::new(reader.u64()?),
            previous: Digest::from_bytes(reader.array()?),
            signature: reader.array()?,
        })
    }

    /// Puts checkpoints of one chain into the order in which they were signed: each behind the one that it names. Where
    /// that leaves a choice, they stay as they came.
    #[must_use]
    pub fn in_order(checkpoints: Vec<Self>) -> Vec<Self> {
        let names: BTreeSet<Digest> = checkpoints.iter().map(Self::digest_of).collect();
        let mut behind: BTreeMap<Digest, VecDeque<Self>> = BTreeMap::new();
        let mut ready = VecDeque::new();
        let count = checkpoints.len();
        for checkpoint in checkpoints {
            if names.contains(&checkpoint.previous) {
                behind.entry(checkpoint.previous).or_default().push_back(checkpoint);
            } else {
                ready.push_back(checkpoint);
            }
        }
        let mut ordered = Vec::with_capacity(count);
        while let Some(next) = ready.pop_front() {
            ready.extend(behind.remove(&next.digest_of()).into_iter().flatten());
            ordered.push(next);
        }
        ordered
    }

    fn signed_message(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(DOMAIN.len() + Self::SIGNED_SIZE);
        message.put(DOMAIN);
        self.put_signed(&mut message);
        message
    }

    fn put_signed(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        out.put(self.entity.as_bytes());
        out.put_u64(self.epoch);
        out.put_u64(self.sequence);
        out.put(self.digest.as_bytes());
        out.put_u64(self.at.get());
        out.put(self.previous.as_bytes());
    }
}
