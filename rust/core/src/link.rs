//! One link of a causal chain: who, having seen what, as which event, after which event.
//!
//! Invariants
//! * A link is 32 bytes on the wire, four little-endian numbers, written field by field.
//! * `sequence` starts at 1; sequence 0 is the virtual genesis and never travels.

use crate::codec::{DecodeError, Reader};
use crate::id::Origin;

/// What is hashed and sent with every payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CausalLink {
    /// Owner of the chain.
    pub origin: Origin,
    /// Sketch of the origins seen before; see [`horizon`](crate::horizon).
    pub horizon: u64,
    /// Position in the chain, from 1.
    pub sequence: u64,
    /// First 8 bytes, little endian, of the digest before this event.
    pub parent: u64,
}

impl CausalLink {
    /// Bytes on the wire.
    pub const SIZE: usize = 32;

    /// The wire form.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let fields = [self.origin.get(), self.horizon, self.sequence, self.parent];
        for (place, field) in bytes.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// Reads the wire form; every 32 bytes are a link.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let (fields, []) = bytes.as_chunks::<8>() else {
            unreachable!("32 bytes are four numbers")
        };
        let [origin, horizon, sequence, parent] = [0, 1, 2, 3].map(|i| u64::from_le_bytes(fields[i]));
        Self {
            origin: Origin::new(origin),
            horizon,
            sequence,
            parent,
        }
    }

    /// Reads exactly one link.
    ///
    /// # Errors
    /// A [`DecodeError`] if there are more or fewer than 32 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let link = Self::read(&mut reader)?;
        reader.expect_end()?;
        Ok(link)
    }

    /// Reads one link of a longer input.
    ///
    /// # Errors
    /// A [`DecodeError`] if there are fewer than 32 bytes.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self::from_bytes(&reader.array()?))
    }
}
