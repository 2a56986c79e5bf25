//! Where events of a channel come from, as a daemon that reads it keeps it: so an event that is processed again shows its
//! channel, and a daemon that comes back goes on where it was.
//!
//! Events of a channel are, to a daemon, a stream of their own: the origin is the node that publishes, the stream is made of
//! publisher, life of the numbers and name, and the numbers are those of the channel. So the cursor of the daemon is how far
//! it has read.
//!
//! ```text
//! version u8 = 1 | publisher 32 | log u64 | name length u8 | name
//! stream = first 8 bytes of derive_key("meshos 2026 channel stream v1")(publisher 32 | log u64 | name), 1 in place of 0
//! ```
//! Numbers are little endian; the key is that of [`Table::Streams`]: entity, stream. Under stream 0 is the ledger of the
//! daemon, see [`bindings`](crate::bindings).

use crate::bindings::DaemonBindings;
use crate::codec::{DecodeError, Put, Reader};
use crate::digest::{self, Context};
use crate::id::EntityId;
use crate::name::ChannelName;
use crate::rows::{Table, Write, entity_key};

/// The version written, and the newest that is read.
pub const VERSION: u8 = 1;

/// Stream under which the ledger of a daemon is kept.
pub const LEDGER: u64 = 0;

/// One life of the numbers of one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The node that publishes.
    pub publisher: EntityId,
    /// Life of the numbers; to a member of a queue group, the term of its turns.
    pub log: u64,
    /// The channel.
    pub channel: ChannelName,
}

impl Source {
    /// The stream that its events are to a daemon; never 0, which is that of direct sends.
    #[must_use]
    pub fn stream(&self) -> u64 {
        let parts: [&[u8]; 3] = [
            self.publisher.as_bytes(),
            &self.log.to_le_bytes(),
            self.channel.as_str().as_bytes(),
        ];
        let digest = digest::derive(Context::ChannelStream, &parts);
        let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h]).max(1)
    }

    /// The row of a store that says what this stream of a daemon is.
    #[must_use]
    pub fn write(&self, entity: &EntityId) -> Write {
        Write::put(Table::Streams, entity_key(entity, [self.stream()]), self.to_bytes())
    }

    /// The one encoding.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + 32 + 8 + 1 + self.channel.as_str().len());
        out.put_u8(VERSION);
        out.put(self.publisher.as_bytes());
        out.put_u64(self.log);
        self.channel.put(&mut out);
        out
    }

    /// Reads exactly one.
    ///
    /// # Errors
    /// A [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version_u8(VERSION)?;
        let read = Self {
            publisher: EntityId::from_bytes(reader.array()?),
            log: reader.u64()?,
            channel: ChannelName::read(&mut reader)?,
        };
        reader.expect_end()?;
        Ok(read)
    }
}

/// The row of a store that has the ledger of a daemon.
#[must_use]
pub fn ledger(entity: &EntityId, bindings: &DaemonBindings) -> Write {
    Write::put(Table::Streams, entity_key(entity, [LEDGER]), bindings.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(log: u64, name: &str) -> Source {
        Source {
            publisher: EntityId::from_bytes([7; 32]),
            log,
            channel: ChannelName::new(name).unwrap(),
        }
    }

    #[test]
    fn what_was_written_is_read_back_and_nothing_else() {
        let source = source(9, "a/b");
        let bytes = source.to_bytes();
        assert_eq!(Source::decode(&bytes), Ok(source));
        for end in 0..bytes.len() {
            assert!(Source::decode(&bytes[..end]).is_err());
        }
        assert!(Source::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn each_life_of_each_channel_is_a_stream_of_its_own() {
        let streams = [source(1, "a"), source(2, "a"), source(1, "b")].map(|source| source.stream());
        assert!(streams[0] != streams[1] && streams[0] != streams[2] && streams[1] != streams[2]);
        assert!(!streams.contains(&0));
    }
}
