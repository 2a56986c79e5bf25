//! What a daemon subscribed to: a ledger that travels with its snapshots.
//!
//! ```text
//! nothing at all for an empty ledger, else
//! count u32 (from 1), then ascending by (publisher, channel):
//!   publisher u64 | channel_len u16 | channel | flags u8 (1: token, 2: group) | with 1: token_len u16 | token
//!   | with 2: group_len u16 | group
//! ```

use std::collections::BTreeMap;

use thiserror::Error;

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::id::NodeId;
use crate::name::ChannelName;

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 65_535;

/// An entry with a name of one byte and no token.
const ENTRY_SIZE_MIN: usize = 8 + 2 + 1 + 1;

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionBinding {
    /// Node that publishes.
    pub publisher: NodeId,
    /// What it publishes.
    pub channel: ChannelName,
    /// The token it was asked with, as it came: it is not read here, and outlives changes of its format.
    pub token: Option<Vec<u8>>,
    /// The queue group whose member the daemon is there.
    pub group: Option<ChannelName>,
}

/// Why a subscription is not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BindingError {
    /// The token does not fit the wire form.
    #[error("a token of {bytes} bytes, at most 65535 are allowed")]
    TokenTooLong {
        /// Length of the token.
        bytes: usize,
    },
}

/// The subscriptions of one daemon; one for each publisher and channel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DaemonBindings {
    bindings: BTreeMap<(NodeId, ChannelName), SubscriptionBinding>,
}

impl DaemonBindings {
    /// Records a subscription; an earlier one to the same channel of the same publisher is replaced.
    ///
    /// # Errors
    /// [`BindingError::TokenTooLong`]; the ledger is as before.
    pub fn record(
        &mut self,
        publisher: NodeId,
        channel: ChannelName,
        token: Option<Vec<u8>>,
    ) -> Result<(), BindingError> {
        self.record_in(publisher, channel, token, None)
    }

    /// As [`record`](Self::record), as a member of a queue group.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn record_in(
        &mut self,
        publisher: NodeId,
        channel: ChannelName,
        token: Option<Vec<u8>>,
        group: Option<ChannelName>,
    ) -> Result<(), BindingError> {
        let bytes = token.as_ref().map_or(0, Vec::len);
        if bytes > TOKEN_BYTES_MAX {
            return Err(BindingError::TokenTooLong { bytes });
        }
        self.insert(SubscriptionBinding {
            publisher,
            channel,
            token,
            group,
        });
        Ok(())
    }

    /// Removes a subscription; tells whether it was there.
    pub fn forget(&mut self, publisher: NodeId, channel: &ChannelName) -> bool {
        self.bindings.remove(&(publisher, channel.clone())).is_some()
    }

    /// All subscriptions, ascending by publisher and channel.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &SubscriptionBinding> {
        self.bindings.values()
    }

    /// Number of subscriptions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bindings.len()
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty()
    }

    /// Bytes of the wire form.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        let entry = |binding: &SubscriptionBinding| {
            let token = binding.token.as_ref().map_or(0, |token| 2 + token.len());
            let group = binding.group.as_ref().map_or(0, |group| 2 + group.as_str().len());
            8 + 2 + binding.channel.as_str().len() + 1 + token + group
        };
        4 + self.iter().map(entry).sum::<usize>()
    }

    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        self.put(&mut out);
        out
    }

    /// Appends the wire form.
    pub fn put(&self, out: &mut Vec<u8>) {
        if self.is_empty() {
            return;
        }
        out.put_count_u32(self.len());
        for binding in self.iter() {
            out.put_u64(binding.publisher.get());
            out.put_str_u16(binding.channel.as_str());
            out.put_u8(u8::from(binding.token.is_some()) | u8::from(binding.group.is_some()) << 1);
            if let Some(token) = &binding.token {
                out.put_u16(u16::try_from(token.len()).expect("record() bounds tokens"));
                out.put(token);
            }
            if let Some(group) = &binding.group {
                out.put_str_u16(group.as_str());
            }
        }
    }

    /// Reads exactly one ledger.
    ///
    /// # Errors
    /// A [`DecodeError`] for the first field that no writer writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::read_to_end(Reader::new(bytes))
    }

    pub(crate) fn read_to_end(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let mut ledger = Self::default();
        if reader.remaining() == 0 {
            return Ok(ledger);
        }
        let at_count = reader.clone();
        let count = reader.count_u32(ENTRY_SIZE_MIN)?;
        if count == 0 {
            return Err(at_count.fault(Fault::Invalid {
                field: "number of bindings",
            }));
        }
        for _ in 0..count {
            let at_entry = reader.clone();
            let binding = read_binding(&mut reader)?;
            let key = (binding.publisher, binding.channel.clone());
            if ledger.bindings.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(at_entry.fault(Fault::Invalid {
                    field: "order of bindings",
                }));
            }
            ledger.bindings.insert(key, binding);
        }
        reader.expect_end()?;
        Ok(ledger)
    }

    fn insert(&mut self, binding: SubscriptionBinding) {
        self.bindings
            .insert((binding.publisher, binding.channel.clone()), binding);
    }
}

fn read_binding(reader: &mut Reader<'_>) -> Result<SubscriptionBinding, DecodeError> {
    let publisher = NodeId::new(reader.u64()?);
    let at_channel = reader.clone();
    let channel = ChannelName::new(reader.str_u16()?);
    let channel = channel.map_err(|_| at_channel.fault(Fault::Invalid { field: "channel name" }))?;
    let at_flags = reader.clone();
    let flags = reader.u8()?;
    if flags > 3 {
        return Err(at_flags.fault(Fault::Invalid { field: "token flag" }));
    }
    let token = if flags & 1 == 0 {
        None
    } else {
        let length = reader.u16()?;
        Some(reader.take(usize::from(length))?.to_vec())
    };
    let group = if flags & 2 == 0 {
        None
    } else {
        let at_group = reader.clone();
        let group = ChannelName::new(reader.str_u16()?);
        Some(group.map_err(|_| at_group.fault(Fault::Invalid { field: "queue group" }))?)
    };
    Ok(SubscriptionBinding {
        publisher,
        channel,
        token,
        group,
    })
}
