//! Dead letters: events that failed too often and were passed over, kept until somebody decides about them.
//!
//! Invariants
//! * A letter is numbered by its daemon, from 1, and no number is used twice.
//! * The event of a letter took no effect. It may still be taken once, out of its order; then the letter goes.
//!
//! ```text
//! version u8 = 1 | link 32 | stream u64 | received_ns u64 | at u64 | attempts u32 | retry u8 (0, 1)
//!   | exception length u16, text | message length u16, text | payload length u32, payload | CRC-32 of all that u32
//! ```

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::id::EntityId;
use crate::link::CausalLink;
use crate::rows::{Table, Write, entity_key};
use crate::time::UnixMs;

/// The version written, and the newest that is read.
pub const VERSION: u8 = 1;

/// Bytes of the text of an exception that are kept.
pub const MESSAGE_MAX: usize = 4096;

/// Letters of one daemon at most. When there are as many, nothing more is passed over.
pub const LETTERS_MAX: usize = 10_000;

/// Payload bytes of the letters of one daemon at most, unless there is only one.
pub const LETTERS_BYTES_MAX: u64 = 64 << 20;

/// An event that was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter<P = Vec<u8>> {
    /// Link of the event.
    pub link: CausalLink,
    /// What it belongs to at its receiver.
    pub stream: u64,
    /// When it came in, in nanoseconds since 1970.
    pub received_ns: u64,
    /// When it was passed over.
    pub at: UnixMs,
    /// Tries so far.
    pub attempts: u32,
    /// Whether it is to be tried again when its daemon comes back.
    pub retry: bool,
    /// Class name of the last exception, empty when there was none.
    pub exception: String,
    /// Its text, cut at [`MESSAGE_MAX`] bytes.
    pub message: String,
    /// Payload of the event.
    pub payload: P,
}

/// A text without what is beyond so many bytes.
#[must_use]
pub fn cut(text: &str, bytes_max: usize) -> &str {
    let ends_in_one = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=text.len().min(bytes_max)).rev().find(ends_in_one);
    &text[..end.unwrap_or(0)]
}

impl<P: AsRef<[u8]>> DeadLetter<P> {
    /// The row of a store that has it.
    #[must_use]
    pub fn write(&self, entity: &EntityId, number: u64) -> Write {
        Write::put(Table::DeadLetters, entity_key(entity, [number]), self.to_bytes())
    }

    /// The one encoding. Texts are cut at their bounds.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let payload = self.payload.as_ref();
        let mut out = Vec::with_capacity(96 + self.exception.len() + self.message.len() + payload.len());
        out.put_u8(VERSION);
        out.put(&self.link.to_bytes());
        out.put_u64(self.stream);
        out.put_u64(self.received_ns);
        out.put_u64(self.at.get());
        out.put_u32(self.attempts);
        out.put_u8(u8::from(self.retry));
        out.put_str_u16(cut(&self.exception, MESSAGE_MAX));
        out.put_str_u16(cut(&self.message, MESSAGE_MAX));
        out.put_count_u32(payload.len());
        out.put(payload);
        out.put_u32(crc32fast::hash(&out));
        out
    }
}

impl DeadLetter {
    /// Reads exactly one.
    ///
    /// # Errors
    /// [`Fault::Digest`] when the sum does not fit; otherwise the first bad field.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version_u8(VERSION)?;
        let Some((covered, sum)) = bytes.split_last_chunk::<4>() else {
            return Err(reader.fault(Fault::Truncated { needed: 4 }));
        };
        if u32::from_le_bytes(*sum) != crc32fast::hash(covered) {
            return Err(DecodeError {
                offset: covered.len() as u64,
                fault: Fault::Digest,
            });
        }
        let link = CausalLink::read(&mut reader)?;
        let (stream, received_ns, at) = (reader.u64()?, reader.u64()?, UnixMs::new(reader.u64()?));
        let attempts = reader.u32()?;
        let at_retry = reader.clone();
        let retry = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(at_retry.fault(Fault::Invalid { field: "retry" })),
        };
        let exception = read_text(&mut reader, "exception")?;
        let message = read_text(&mut reader, "message")?;
        let length = reader.count_u32(1)?;
        let payload = reader.take(length)?.to_vec();
        reader.take(4)?;
        reader.expect_end()?;
        Ok(Self {
            link,
            stream,
            received_ns,
            at,
            attempts,
            retry,
            exception,
            message,
            payload,
        })
    }
}

fn read_text(reader: &mut Reader<'_>, field: &'static str) -> Result<String, DecodeError> {
    let at = reader.clone();
    let text = reader.str_u16()?;
    if text.len() > MESSAGE_MAX {
        return Err(at.fault(Fault::Invalid { field }));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Origin;

    fn letter() -> DeadLetter {
        DeadLetter {
            link: CausalLink {
                origin: Origin::new(7),
                horizon: 1,
                sequence: 9,
                parent: 3,
            },
            stream: 0,
            received_ns: 5,
            at: UnixMs::new(6),
            attempts: 5,
            retry: true,
            exception: "ValueError".to_owned(),
            message: "not a number: \u{e9}".to_owned(),
            payload: b"poison".to_vec(),
        }
    }

    #[test]
    fn what_is_written_is_read_and_every_flipped_bit_is_found() {
        let bytes = letter().to_bytes();
        assert_eq!(DeadLetter::decode(&bytes), Ok(letter()));
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(DeadLetter::decode(&changed).is_err(), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(DeadLetter::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let long = DeadLetter {
            message: "\u{e9}".repeat(MESSAGE_MAX),
            exception: format!("x{}", "\u{e9}".repeat(MESSAGE_MAX)),
            ..letter()
        };
        let read = DeadLetter::decode(&long.to_bytes()).expect("what is written is read");
        assert_eq!(
            (read.message.len(), read.exception.len()),
            (MESSAGE_MAX, MESSAGE_MAX - 1)
        );
    }
}
