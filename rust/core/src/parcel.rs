//! Several messages in one body: what goes to one node at one time is sealed once.
//!
//! ```text
//! parcel        version u8 = 1 | messages
//! message       length u32 | bytes
//! ```
//! Numbers are little endian.
//!
//! Invariants
//! * A parcel has one encoding. It has at least one message, and none is empty.
//! * Nothing is copied or allocated to read one; a bad length is found when its message is reached.

use crate::codec::{DecodeError, Fault, Put, Reader};

/// The version written, and the newest that is read.
pub const VERSION: u8 = 1;

/// Bytes that a message takes beside its own.
pub const MESSAGE_OVERHEAD: usize = 4;

/// A parcel that is being packed.
#[derive(Debug, Clone, Default)]
pub struct Packer {
    bytes: Vec<u8>,
    messages: usize,
}

impl Packer {
    /// An empty parcel, which is none yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            messages: 0,
        }
    }

    /// Puts in the message that `write` appends; one without bytes is left out.
    ///
    /// # Panics
    /// If it is longer than 4 GiB; messages are bounded where they are made.
    pub fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.bytes.is_empty() {
            self.bytes.put_u8(VERSION);
        }
        let at = self.bytes.len();
        self.bytes.put_u32(0);
        write(&mut self.bytes);
        let begin = at + MESSAGE_OVERHEAD;
        let length = self.bytes.len() - begin;
        if length == 0 {
            self.bytes.truncate(at);
            return;
        }
        let length = u32::try_from(length).expect("a message is bounded where it is made");
        self.bytes[at..begin].copy_from_slice(&length.to_le_bytes());
        self.messages += 1;
    }

    /// Messages in it.
    #[must_use]
    pub const fn messages(&self) -> usize {
        self.messages
    }

    /// Bytes of it so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// The body so far.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes everything out; the room is kept.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.messages = 0;
    }
}

/// The messages of a parcel, in order. After the first fault there are no more.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    reader: Option<Reader<'a>>,
}

/// Opens a body.
///
/// # Errors
/// It is of another version, or has no message.
pub fn open(body: &[u8]) -> Result<Messages<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    reader.version_u8(VERSION)?;
    if body.len() == 1 {
        return Err(reader.fault(Fault::Truncated {
            needed: MESSAGE_OVERHEAD as u64,
        }));
    }
    Ok(Messages { reader: Some(reader) })
}

impl<'a> Messages<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
        let before = reader.clone();
        let length = reader.u32()?;
        if length == 0 {
            return Err(before.fault(Fault::Invalid { field: "length" }));
        }
        reader.take_long(u64::from(length))
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<&'a [u8], DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = self.reader.take()?;
        if reader.remaining() == 0 {
            return None;
        }
        let message = Self::read(&mut reader);
        if message.is_ok() {
            self.reader = Some(reader);
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed(messages: &[Vec<u8>]) -> Packer {
        let mut packer = Packer::new();
        for message in messages {
            packer.put(|out| out.extend(message));
        }
        packer
    }

    fn read(body: &[u8]) -> Result<Vec<Vec<u8>>, DecodeError> {
        open(body)?.map(|message| message.map(<[u8]>::to_vec)).collect()
    }

    proptest! {
        #[test]
        fn what_was_packed_is_read_back(messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 1..20)) {
            let packer = packed(&messages);
            prop_assert_eq!(packer.messages(), messages.len());
            prop_assert_eq!(read(packer.body()).unwrap(), messages);
        }

        #[test]
        fn a_parcel_has_one_encoding(body in proptest::collection::vec(0_u8..4, 0..40)) {
            if let Ok(messages) = read(&body) {
                let packer = packed(&messages);
                prop_assert_eq!(packer.body(), &body[..]);
            }
        }

        #[test]
        fn a_cut_parcel_gives_whole_messages_only(messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..9), 1..5), cut in 0_usize..60) {
            let packer = packed(&messages);
            let body = &packer.body()[..cut.min(packer.len() - 1)];
            if let Ok(some) = open(body) {
                for (got, message) in some.map_while(Result::ok).zip(&messages) {
                    prop_assert_eq!(got, &message[..]);
                }
            }
        }
    }

    #[test]
    fn bad_parcels_are_refused_where_they_are_bad() {
        let fault = |body: &[u8]| read(body).unwrap_err();
        assert_eq!(fault(&[]).offset, 0);
        assert_eq!(
            fault(&[2, 1, 0, 0, 0, 7]).fault,
            Fault::NewerVersion { found: 2, known: 1 }
        );
        assert_eq!(
            fault(&[1]),
            DecodeError {
                offset: 1,
                fault: Fault::Truncated { needed: 4 }
            }
        );
        assert_eq!(
            fault(&[1, 0, 0, 0, 0]),
            DecodeError {
                offset: 1,
                fault: Fault::Invalid { field: "length" }
            }
        );
        assert_eq!(
            fault(&[1, 255, 255, 255, 255, 0]).fault,
            Fault::Truncated {
                needed: u64::from(u32::MAX) - 1
            }
        );
        let mut messages = open(&[1, 1, 0, 0, 0, 9, 3, 0]).unwrap();
        assert_eq!(messages.next(), Some(Ok(&[9][..])));
        assert!(messages.next().unwrap().is_err());
        assert_eq!(messages.next(), None);
    }

    #[test]
    fn an_emptied_one_begins_anew() {
        let mut packer = packed(&[vec![1, 2]]);
        packer.put(|_| ());
        assert_eq!((packer.messages(), packer.len()), (1, 7));
        packer.clear();
        assert!(packer.is_empty());
        packer.put(|out| out.push(5));
        assert_eq!(packer.body(), [1, 1, 0, 0, 0, 5]);
    }
}
