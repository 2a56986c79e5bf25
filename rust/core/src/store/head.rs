//! The two small files that a store begins with.
//!
//! ```text
//! meshos.store  "MESHSTOR" | version u16 = 1 | id 16 | entity id of the node 32 | made_at u64 | CRC-32 of all that u32
//! node.key      "MESHNKEY" | version u16 = 1 | seed 32 | CRC-32 of all that u32
//! ```

use zeroize::Zeroizing;

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::id::EntityId;
use crate::segment::StoreId;
use crate::time::UnixMs;

/// The version written, and the newest that is read.
pub const VERSION: u16 = 1;

const MAGIC: &[u8; 8] = b"MESHSTOR";
const KEY_MAGIC: &[u8; 8] = b"MESHNKEY";

/// What a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Which store it is; drawn when it was made.
    pub id: StoreId,
    /// Whose it is.
    pub node: EntityId,
    /// When it was made.
    pub made_at: UnixMs,
}

impl Head {
    /// Bytes of the file.
    pub const SIZE: usize = 8 + 2 + 16 + 32 + 8 + 4;

    /// The bytes of the file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::SIZE);
        bytes.put(MAGIC);
        bytes.put_u16(VERSION);
        bytes.put(&self.id);
        bytes.put(self.node.as_bytes());
        bytes.put_u64(self.made_at.get());
        bytes.put_u32(crc32fast::hash(&bytes));
        bytes
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`Fault::Magic`] and [`Fault::NewerVersion`] first, then [`Fault::Digest`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = opened(bytes, MAGIC)?;
        let head = Self {
            id: reader.array()?,
            node: EntityId::from_bytes(reader.array()?),
            made_at: UnixMs::new(reader.u64()?),
        };
        closed(reader, bytes)?;
        Ok(head)
    }
}

/// The bytes of the file with a node's seed.
#[must_use]
pub fn key_to_bytes(seed: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(8 + 2 + 32 + 4));
    bytes.put(KEY_MAGIC);
    bytes.put_u16(VERSION);
    bytes.put(seed);
    let sum = crc32fast::hash(&bytes);
    bytes.put_u32(sum);
    bytes
}

/// Reads the file with a node's seed.
///
/// # Errors
/// As [`Head::decode`].
pub fn decode_key(bytes: &[u8]) -> Result<Zeroizing<[u8; 32]>, DecodeError> {
    let mut reader = opened(bytes, KEY_MAGIC)?;
    let seed = Zeroizing::new(reader.array()?);
    closed(reader, bytes)?;
    Ok(seed)
}

fn opened<'a>(bytes: &'a [u8], magic: &[u8; 8]) -> Result<Reader<'a>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let at = reader.clone();
    if reader.array::<8>()? != *magic {
        return Err(at.fault(Fault::Magic));
    }
    let at = reader.clone();
    match reader.u16()? {
        VERSION => Ok(reader),
        0 => Err(at.fault(Fault::Invalid { field: "version" })),
        found => Err(at.fault(Fault::NewerVersion { found, known: VERSION })),
    }
}

fn closed(mut reader: Reader<'_>, bytes: &[u8]) -> Result<(), DecodeError> {
    let at = reader.clone();
    let covered = bytes.len() - reader.remaining();
    if reader.u32()? != crc32fast::hash(&bytes[..covered]) {
        return Err(at.fault(Fault::Digest));
    }
    reader.expect_end()
}
