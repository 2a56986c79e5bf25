//! What an owner pushes to a reader of a chain, and what the reader answers.
//!
//! A frame is the body of a message. Of which mesh it is, which node sent it and that nobody changed it is said by what
//! carries it. A reader is named by the call with which it asked.
//!
//! ```text
//! body      version u8 = 1 | kind u8 | entity 32 | reader 16 | rest
//! 1 outputs   a parcel of announce and output       to the reader
//! 2 answers   a parcel of out ack and follow        to the owner
//! 3 still     (nothing)                             to the owner
//! 4 here      (nothing)                             to the reader
//! 5 over      (nothing)                             to the reader
//! 6 leave     (nothing)                             to the owner
//! 7 find      (nothing)                             to every node
//! 8 found     node 32 | epoch u64                   to the reader
//! ```
//! Numbers are little endian.
//!
//! Invariants
//! * A frame has one encoding. What is read back is what was written, or it is refused.
//! * What is in a parcel is read by who takes it.

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::id::EntityId;
use crate::remote_frame::CallId;

/// The version written, and the newest that is read.
pub const VERSION: u8 = 1;

/// Bytes before the rest.
pub const HEADER_SIZE: usize = 2 + 32 + 16;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// A [`parcel`](crate::parcel) of announcements and outputs.
    Outputs(&'a [u8]),
    /// A [`parcel`](crate::parcel) of acknowledgements and questions.
    Answers(&'a [u8]),
    /// Does the owner know this reader?
    Still,
    /// It does.
    Here,
    /// It does not, or not any more.
    Over,
    /// The reader is gone.
    Leave,
    /// Who owns the entity?
    Find,
    /// This node does.
    Found {
        /// Its key.
        node: EntityId,
        /// Since which epoch.
        epoch: u64,
    },
}

/// A message between an owner and a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedFrame<'a> {
    /// Whose chain it is.
    pub entity: EntityId,
    /// Which reader of the node.
    pub reader: CallId,
    /// What it says.
    pub body: Body<'a>,
}

impl Body<'_> {
    /// Whether it is for a reader; else it is for an owner.
    #[must_use]
    pub const fn is_for_reader(&self) -> bool {
        match self {
            Self::Outputs(_) | Self::Here | Self::Over | Self::Found { .. } => true,
            Self::Answers(_) | Self::Still | Self::Leave | Self::Find => false,
        }
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Outputs(_) => 1,
            Self::Answers(_) => 2,
            Self::Still => 3,
            Self::Here => 4,
            Self::Over => 5,
            Self::Leave => 6,
            Self::Find => 7,
            Self::Found { .. } => 8,
        }
    }
}

impl<'a> FeedFrame<'a> {
    /// Reads exactly one frame.
    ///
    /// # Errors
    /// A [`DecodeError`] for the first bad field. A parcel is not looked into.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version_u8(VERSION)?;
        let at_kind = reader.clone();
        let kind = reader.u8()?;
        let entity = EntityId::from_bytes(reader.array()?);
        let name = reader.array()?;
        let body = match kind {
            1 => Body::Outputs(reader.take(reader.remaining())?),
            2 => Body::Answers(reader.take(reader.remaining())?),
            3 => Body::Still,
            4 => Body::Here,
            5 => Body::Over,
            6 => Body::Leave,
            7 => Body::Find,
            8 => Body::Found {
                node: EntityId::from_bytes(reader.array()?),
                epoch: reader.u64()?,
            },
            _ => return Err(at_kind.fault(Fault::Invalid { field: "kind" })),
        };
        reader.expect_end()?;
        let reader = name;
        Ok(Self { entity, reader, body })
    }

    /// The one encoding.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_SIZE + 64);
        out.put_u8(VERSION);
        out.put_u8(self.body.kind());
        out.put(self.entity.as_bytes());
        out.put(&self.reader);
        match &self.body {
            Body::Outputs(parcel) | Body::Answers(parcel) => out.put(parcel),
            Body::Found { node, epoch } => {
                out.put(node.as_bytes());
                out.put_u64(*epoch);
            }
            Body::Still | Body::Here | Body::Over | Body::Leave | Body::Find => {}
        }
        out
    }
}
