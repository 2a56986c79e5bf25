//! Outputs that are due to another daemon: what `Output(to=…)` leaves in the store until it is acknowledged.
//!
//! Such an output is an event of the emitting daemon to the other one: its origin is the emitter, its number the sequence
//! of the output in the emitter's chain. So it needs no numbers of its own, and a chain that never goes back never uses one
//! twice. A chain that did go back, declared by a restart or takeover, goes on in another stream: that of its epoch.
//!
//! Invariants
//! * The row is in the commit of the step that emitted the output. It goes in a commit after the answer to it and to all
//!   that was sent before it in its flow, and the window moves on after that commit; see
//!   [`Outbox::with_rows`](crate::outbox::Outbox::with_rows).
//! * A row may outlive its answer by a crash. If it took effect, its receipt is kept: its receiver has taken at most a window
//!   of events from it on.
//! * Rows of one emitter are named by the sequence of the output, so they come back in the order in which they were sent.
//!
//! ```text
//! version u8 = 2 | to u64 | stream u64 | length u32 | payload | CRC-32 of all that u32
//! ```
//! In version 1 `to` is the entity itself, 32 bytes; its handle is what is read. Numbers are little endian; the key is that
//! of [`Table::Outbox`]: entity, sequence.

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::id::{EntityId, Origin};
use crate::rows::{Table, Write, entity_key};
use crate::stream::PAYLOAD_BYTES_MAX;

/// The version written, and the newest that is read.
pub const VERSION: u8 = 2;
/// The version in which a whole entity is named.
const VERSION_ENTITY: u8 = 1;

/// An output on its way to another daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// To whom.
    pub to: Origin,
    /// In which stream; see [`stream`].
    pub stream: u64,
    /// The output.
    pub payload: Vec<u8>,
}

/// The stream of outputs of a chain that last went back in the epoch `rewound`; 0: it never did.
#[must_use]
pub const fn stream(rewound: u64) -> u64 {
    rewound
}

/// What removes the row of the output `sequence` of `entity`, when its outbox releases it.
#[must_use]
pub fn settled(entity: &EntityId, sequence: u64) -> Write {
    Write::remove(Table::Outbox, entity_key(entity, [sequence]))
}

impl Due {
    /// The row of a store that holds the output `sequence` of `entity`.
    ///
    /// # Panics
    /// If the payload is longer than [`PAYLOAD_BYTES_MAX`]; payloads are bounded where they enter.
    #[must_use]
    pub fn write(&self, entity: &EntityId, sequence: u64) -> Write {
        Write::put(Table::Outbox, entity_key(entity, [sequence]), self.to_bytes())
    }

    /// The one encoding.
    ///
    /// # Panics
    /// As [`Due::write`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        assert!(
            self.payload.len() <= PAYLOAD_BYTES_MAX,
            "a payload is bounded where it enters"
        );
        let mut out = Vec::with_capacity(1 + 8 + 8 + 4 + self.payload.len() + 4);
        out.put_u8(VERSION);
        out.put_u64(self.to.get());
        out.put_u64(self.stream);
        out.put_count_u32(self.payload.len());
        out.put(&self.payload);
        out.put_u32(crc32fast::hash(&out));
        out
    }

    /// Reads exactly one.
    ///
    /// # Errors
    /// [`Fault::Digest`] when the sum does not fit; otherwise the first bad field.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.version_u8(VERSION)?;
        let Some((covered, sum)) = bytes.split_last_chunk::<4>() else {
            return Err(reader.fault(Fault::Truncated { needed: 4 }));
        };
        if u32::from_le_bytes(*sum) != crc32fast::hash(covered) {
            return Err(DecodeError {
                offset: covered.len() as u64,
                fault: Fault::Digest,
            });
        }
        let to = if version == VERSION_ENTITY {
            EntityId::from_bytes(reader.array()?).origin()
        } else {
            Origin::new(reader.u64()?)
        };
        let stream = reader.u64()?;
        let length = reader.count_below(1, PAYLOAD_BYTES_MAX)?;
        let payload = reader.take(length)?.to_vec();
        reader.take(4)?;
        reader.expect_end()?;
        Ok(Self { to, stream, payload })
    }
}
