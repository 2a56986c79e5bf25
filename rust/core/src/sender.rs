//! Who numbers events: the identity of a sender, the node that it sends from, and the numbers that it reserved.
//!
//! A node that shows this record speaks for the sender; the events themselves are not signed. Both have signed: the node,
//! that it is its sender, and the sender, so that nobody takes the numbers of another.
//!
//! ```text
//! version u8 = 1 | sender 32 | node 32 | since u64 | signature of the node 64 | signature of the sender 64
//! reservation: version u8 = 1 | up to u64 | CRC-32 of all that u32
//! ```
//! Numbers are little endian. Signed is `"meshos 2026 sender v1\0"` followed by everything before the signatures. A
//! reservation is a row of [`Table::Node`] named `"numbers/"` and the 64 hexadecimal digits of the sender.

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::id::EntityId;
use crate::identity::{self, IdentityError, Keypair};
use crate::rows::{Table, Write};
use crate::time::UnixMs;

const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"meshos 2026 sender v1\0";

/// Whose events a node may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderRecord {
    /// Who numbers the events; its handle is their origin.
    pub sender: EntityId,
    /// The node that it sends from.
    pub node: EntityId,
    /// Since when. Of two records of one sender the later one holds.
    pub since: UnixMs,
    /// Signature of the node.
    pub by_node: [u8; 64],
    /// Signature of the sender.
    pub by_sender: [u8; 64],
}

impl SenderRecord {
    /// Bytes on the wire.
    pub const SIZE: usize = 1 + 32 + 32 + 8 + 64 + 64;

    /// Makes the record of a sender at a node.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`]: one of the two is public only.
    pub fn sign(sender: &Keypair, node: &Keypair, since: UnixMs) -> Result<Self, IdentityError> {
        let mut record = Self {
            sender: sender.entity_id(),
            node: node.entity_id(),
            since,
            by_node: [0; 64],
            by_sender: [0; 64],
        };
        let message = record.signed_message();
        record.by_node = node.sign(&message)?;
        record.by_sender = sender.sign(&message)?;
        Ok(record)
    }

    /// Checks both signatures.
    ///
    /// # Errors
    /// [`IdentityError::InvalidPublicKey`] or [`IdentityError::InvalidSignature`].
    pub fn verify(&self) -> Result<(), IdentityError> {
        let message = self.signed_message();
        identity::verify(&self.node, &message, &self.by_node)?;
        identity::verify(&self.sender, &message, &self.by_sender)
    }

    /// The wire form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::SIZE);
        self.put_signed(&mut out);
        out.put(&self.by_node);
        out.put(&self.by_sender);
        out
    }

    /// Reads exactly one record.
    ///
    /// # Errors
    /// A [`DecodeError`]; signatures are not checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version_u8(VERSION)?;
        let record = Self {
            sender: EntityId::from_bytes(reader.array()?),
            node: EntityId::from_bytes(reader.array()?),
            since: UnixMs::new(reader.u64()?),
            by_node: reader.array()?,
            by_sender: reader.array()?,
        };
        reader.expect_end()?;
        Ok(record)
    }

    fn signed_message(&self) -> Vec<u8> {
        let mut message = DOMAIN.to_vec();
        self.put_signed(&mut message);
        message
    }

    fn put_signed(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        out.put(self.sender.as_bytes());
        out.put(self.node.as_bytes());
        out.put_u64(self.since.get());
    }
}

/// How the names of all reservations begin, in [`Table::Node`].
pub const RESERVATIONS: &[u8] = b"numbers/";

/// Name of the row with the reservation of a sender, in [`Table::Node`].
#[must_use]
pub fn reservation_name(sender: &EntityId) -> Vec<u8> {
    [RESERVATIONS, sender.to_hex().as_bytes()].concat()
}

/// Whose reservation has this name; `None`: it is the name of none.
#[must_use]
pub fn of_reservation_name(name: &[u8]) -> Option<EntityId> {
    let digits = std::str::from_utf8(name.strip_prefix(RESERVATIONS)?).ok()?;
    let mut sender = [0; 32];
    for (at, byte) in sender.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    let sender = EntityId::from_bytes(sender);
    // One name each: no capitals, no signs, nothing behind.
    (reservation_name(&sender) == name).then_some(sender)
}

/// The row that says that a sender may have used numbers up to `up_to`.
#[must_use]
pub fn reserve(sender: &EntityId, up_to: u64) -> Write {
    let mut value = vec![VERSION];
    value.put_u64(up_to);
    value.put_u32(crc32fast::hash(&value));
    Write::put(Table::Node, reservation_name(sender), value)
}

/// Reads up to which number a sender may have used them.
///
/// # Errors
/// [`Fault::Digest`] when the sum does not fit; otherwise the first bad field.
pub fn reserved(bytes: &[u8]) -> Result<u64, DecodeError> {
    let mut reader = Reader::new(bytes);
    reader.version_u8(VERSION)?;
    let up_to = reader.u64()?;
    let at_sum = reader.clone();
    let sum = reader.u32()?;
    reader.expect_end()?;
    if sum != crc32fast::hash(&bytes[..bytes.len() - 4]) {
        return Err(at_sum.fault(Fault::Digest));
    }
    Ok(up_to)
}
