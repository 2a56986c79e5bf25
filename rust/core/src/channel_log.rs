//! What a publisher keeps of one channel: numbered from 1, up to a bound of bytes.
//!
//! Invariants
//! * Numbers rise by one and are never given twice.
//! * What is kept is the newest, without a hole. What had to go is a counted gap to who asks for it.
//! * The newest event is kept whatever its size.

use std::collections::VecDeque;
use std::sync::Arc;

use thiserror::Error;

use crate::channel_frame::Gap;
use crate::id::EntityId;

/// Bytes that an event counts beside its payload.
pub const EVENT_BYTES: u64 = 64;

/// One event of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Its number on the channel.
    pub sequence: u64,
    /// The daemon that emitted it; `None`: the node itself.
    pub emitter: Option<EntityId>,
    /// The payload, shared with all who read it.
    pub payload: Arc<[u8]>,
}

/// An event was not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotPublished {
    /// It has more bytes than the channel allows.
    #[error("a payload of {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        /// How many it has.
        bytes: u64,
        /// How many are allowed.
        max: u64,
    },
    /// There are no numbers left.
    #[error("the channel has no numbers left")]
    Exhausted,
}

/// The events of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelLog {
    bytes_max: u64,
    payload_bytes_max: u64,
    events: VecDeque<Logged>,
    bytes: u64,
    last: u64,
    pruned: u64,
}

impl ChannelLog {
    /// Begins after number `last`, with the bounds of a policy.
    #[must_use]
    pub const fn after(last: u64, bytes_max: u64, payload_bytes_max: u64) -> Self {
        Self {
            bytes_max,
            payload_bytes_max,
            events: VecDeque::new(),
            bytes: 0,
            last,
            pruned: 0,
        }
    }

    /// Takes in an event, and gives its number.
    ///
    /// # Errors
    /// [`NotPublished`]; then nothing has changed.
    pub fn publish(&mut self, emitter: Option<EntityId>, payload: Arc<[u8]>) -> Result<u64, NotPublished> {
        let bytes = payload.len() as u64;
        if bytes > self.payload_bytes_max {
            let max = self.payload_bytes_max;
            return Err(NotPublished::TooLarge { bytes, max });
        }
        let sequence = self.last.checked_add(1).ok_or(NotPublished::Exhausted)?;
        self.last = sequence;
        self.bytes += bytes + EVENT_BYTES;
        self.events.push_back(Logged {
            sequence,
            emitter,
            payload,
        });
        self.prune();
        Ok(sequence)
    }

    /// Keeps by other bounds from now on.
    pub fn set_bounds(&mut self, bytes_max: u64, payload_bytes_max: u64) {
        (self.bytes_max, self.payload_bytes_max) = (bytes_max, payload_bytes_max);
        self.prune();
    }

    /// The number given last; 0: none.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.last
    }

    /// The first number that is kept; one above the last: none is.
    #[must_use]
    pub fn first(&self) -> u64 {
        (self.last - self.events.len() as u64).saturating_add(1)
    }

    /// Bytes that are kept.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many events had to go.
    #[must_use]
    pub const fn pruned(&self) -> u64 {
        self.pruned
    }

    /// The event of a number, if it is kept.
    #[must_use]
    pub fn get(&self, sequence: u64) -> Option<&Logged> {
        let at = sequence.checked_sub(self.first())?;
        self.events.get(usize::try_from(at).ok()?)
    }

    /// What there is of the numbers from `first` to `last`: a gap of those that had to go, and the events after it.
    pub fn range(&self, first: u64, last: u64) -> (Option<Gap>, impl Iterator<Item = &Logged>) {
        let (first, last) = (first.max(1), last.min(self.last));
        let kept = self.first();
        let gone = Gap {
            first,
            last: last.min(kept - 1),
        };
        let gap = (gone.first <= gone.last).then_some(gone);
        let start = first.max(kept);
        let many = last.checked_sub(start).map_or(0, |more| more.saturating_add(1));
        let [from, many] = [start - kept, many].map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        (gap, self.events.iter().skip(from).take(many))
    }

    fn prune(&mut self) {
        while self.bytes > self.bytes_max && self.events.len() > 1 {
            let oldest = self.events.pop_front().expect("there are two");
            self.bytes -= oldest.payload.len() as u64 + EVENT_BYTES;
            self.pruned += 1;
        }
    }
}
