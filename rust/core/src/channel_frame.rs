//! Frames of channels: who subscribes, what is published, what is missing.
//!
//! As with [`stream`](crate::stream), a frame is the body of a message; who sent it is said by what carries it. Kinds of both
//! differ, so that one reader can tell them apart.
//!
//! ```text
//! frame         version u8 = 1 | kind u8 | body
//! name          length u8 | text
//! option        0 u8, or 1 u8 and the value
//! 32 subscribe  nonce 16 | channel name | subscriber 32 | epoch u64 | option of (log u64 | after u64)
//!               | option of group name | token length u16 | token | option of signature 64
//! 33 accepted   nonce 16 | log u64 | next u64
//! 34 rejected   nonce 16 | reason u8 (1 unauthorized, 2 rate limited, 3 too many, 4 closed)
//! 35 leave      nonce 16 | channel name | subscriber 32
//! 36 left       nonce 16
//! 37 event      channel name | log u64 | event
//! 38 turn       channel name | subscriber 32 | term u64 | turn u64 | event
//! 39 gap        channel name | log u64 | first u64 | last u64
//! 40 head       channel name | log u64 | last u64
//! 41 repair     channel name | subscriber 32 | log u64 | first u64 | last u64
//! 42 taken      channel name | subscriber 32 | term u64 | turn u64
//! 43 ended      channel name | subscriber 32 | reason u8
//! 44 ask key    channel name | subscriber 32
//! 45 publish    nonce 16 | channel name | publisher 32 | token length u16 | token | option of signature 64
//!               | length u32 | payload
//! 46 published  nonce 16 | sequence u64
//! 47 not published  nonce 16 | reason u8 (1 to 4 as in rejected, 5 too large, 6 forgotten)
//! event         sequence u64 | option of emitter 32 | sealed u8 (0, 1) | length u32 | payload
//! ```
//! Numbers are little endian. A subscriber signs `"meshos 2026 subscription v1\0" ‖ publisher 32 ‖ node 32` and the body of
//! its request up to and with the token: so the request is of this daemon, from this node, to this publisher. Who publishes
//! on a channel of another node signs [`Publish`] likewise.
//! A handed key is a message of its own: a [`HandedKey`](crate::sealed_channel::HandedKey).
//!
//! Invariants
//! * A frame has one encoding. What is read back is what was written, or it is refused.
//! * An empty token is none; numbers of a gap are in order.

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::id::EntityId;
use crate::identity::{self, IdentityError, Keypair};
use crate::name::ChannelName;

mod publish;
pub use publish::{Publish, Unpublished};

/// The version written, and the newest that is read.
pub const VERSION: u8 = 1;

/// Longest payload.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;

const DOMAIN: &[u8] = b"meshos 2026 subscription v1\0";

/// Proves that an answer is to a question: random.
pub type Nonce = [u8; 16];

/// Why a publisher says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A token is needed that permits it.
    Unauthorized,
    /// Too many were refused in a short time.
    RateLimited,
    /// There are as many subscriptions as may be.
    TooMany,
    /// The channel was closed.
    Closed,
}

/// Numbers from one to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

impl Gap {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.last - self.first + 1
    }

    /// Never: a gap has at least one number.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }
}

/// A request to subscribe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// Its answer has the same.
    pub nonce: Nonce,
    /// What is to be read.
    pub channel: ChannelName,
    /// The daemon that reads.
    pub subscriber: EntityId,
    /// Term in which the sending node owns it.
    pub epoch: u64,
    /// What was read before: a log, and a number.
    pub after: Option<(u64, u64)>,
    /// The queue group.
    pub group: Option<ChannelName>,
    /// What permits it, as bytes.
    pub token: Vec<u8>,
    /// Signature of the subscriber.
    pub proof: Option<[u8; 64]>,
}

impl Subscribe {
    /// Signs the request as the subscriber, from a node to a publisher.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`] without the secret half.
    pub fn sign(&mut self, subscriber: &Keypair, node: &EntityId, publisher: &EntityId) -> Result<(), IdentityError> {
        self.proof = Some(subscriber.sign(&self.signed_message(node, publisher))?);
        Ok(())
    }

    /// Whether the subscriber signed it, from this node to this publisher.
    #[must_use]
    pub fn is_proven(&self, node: &EntityId, publisher: &EntityId) -> bool {
        let message = self.signed_message(node, publisher);
        self.proof
            .is_some_and(|proof| identity::verify(&self.subscriber, &message, &proof).is_ok())
    }

    fn signed_message(&self, node: &EntityId, publisher: &EntityId) -> Vec<u8> {
        let mut message = [DOMAIN, publisher.as_bytes(), node.as_bytes()].concat();
        self.put_signed(&mut message);
        message
    }

    fn put_signed(&self, out: &mut Vec<u8>) {
        out.put(&self.nonce);
        self.channel.put(out);
        out.put(self.subscriber.as_bytes());
        out.put_u64(self.epoch);
        out.put_u8(u8::from(self.after.is_some()));
        if let Some((log, after)) = self.after {
            out.put_u64(log);
            out.put_u64(after);
        }
        out.put_u8(u8::from(self.group.is_some()));
        if let Some(group) = &self.group {
            group.put(out);
        }
        put_token(out, &self.token);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (nonce, channel) = (reader.array()?, ChannelName::read(reader)?);
        let (subscriber, epoch) = (read_id(reader)?, reader.u64()?);
        let after = option(reader, |reader| Ok((reader.u64()?, reader.u64()?)))?;
        let group = option(reader, ChannelName::read)?;
        Ok(Self {
            nonce,
            channel,
            subscriber,
            epoch,
            after,
            group,
            token: read_token(reader)?,
            proof: option(reader, Reader::array)?,
        })
    }
}

/// An event on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its number on the channel.
    pub sequence: u64,
    /// The daemon that emitted it; `None`: the node itself.
    pub emitter: Option<EntityId>,
    /// Whether the payload is sealed.
    pub sealed: bool,
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> Event<'a> {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.sequence);
        out.put_u8(u8::from(self.emitter.is_some()));
        if let Some(emitter) = &self.emitter {
            out.put(emitter.as_bytes());
        }
        out.put_u8(u8::from(self.sealed));
        out.put_count_u32(self.payload.len());
        out.put(self.payload);
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let (sequence, emitter) = (reader.u64()?, option(reader, read_id)?);
        let sealed = mark(reader)?;
        let length = reader.count_below(1, PAYLOAD_BYTES_MAX)?;
        Ok(Self {
            sequence,
            emitter,
            sealed,
            payload: reader.take(length)?,
        })
    }
}

/// A frame of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelFrame<'a> {
    /// A daemon is to read a channel.
    Subscribe(Subscribe),
    /// It is; the first number to come is `next` of `log`.
    Accepted {
        /// Of the question.
        nonce: Nonce,
        /// Life of the numbers.
        log: u64,
        /// The first number.
        next: u64,
    },
    /// It is not.
    Rejected {
        /// Of the question.
        nonce: Nonce,
        /// Why.
        reason: Reason,
    },
    /// A daemon is to read it no more.
    Leave {
        /// Its answer has the same.
        nonce: Nonce,
        /// The channel.
        channel: ChannelName,
        /// The daemon.
        subscriber: EntityId,
    },
    /// It does not.
    Left {
        /// Of the question.
        nonce: Nonce,
    },
    /// An event, for everybody who reads.
    Event {
        /// The channel.
        channel: ChannelName,
        /// Life of the numbers.
        log: u64,
        /// It.
        event: Event<'a>,
    },
    /// An event, for one member of a queue group.
    Turn {
        /// The channel.
        channel: ChannelName,
        /// The member.
        subscriber: EntityId,
        /// Its term.
        term: u64,
        /// Its turn.
        turn: u64,
        /// It.
        event: Event<'a>,
    },
    /// Numbers that do not come any more.
    Gap {
        /// The channel.
        channel: ChannelName,
        /// Life of the numbers.
        log: u64,
        /// Which.
        gap: Gap,
    },
    /// Numbers up to this one were given.
    Head {
        /// The channel.
        channel: ChannelName,
        /// Life of the numbers.
        log: u64,
        /// The last.
        last: u64,
    },
    /// A subscriber lacks numbers.
    Repair {
        /// The channel.
        channel: ChannelName,
        /// Who.
        subscriber: EntityId,
        /// Life of the numbers.
        log: u64,
        /// Which.
        numbers: Gap,
    },
    /// A member of a queue group is done with its turns up to this one.
    Taken {
        /// The channel.
        channel: ChannelName,
        /// Who.
        subscriber: EntityId,
        /// In which term.
        term: u64,
        /// The turn.
        turn: u64,
    },
    /// The publisher ended a subscription.
    Ended {
        /// The channel.
        channel: ChannelName,
        /// Whose.
        subscriber: EntityId,
        /// Why.
        reason: Reason,
    },
    /// A subscriber lacks the key in force.
    AskKey {
        /// The channel.
        channel: ChannelName,
        /// Who.
        subscriber: EntityId,
    },
    /// A node, or a daemon of it, publishes on a channel of another node.
    Publish(Publish<'a>),
    /// It is published.
    Published {
        /// Of the request.
        nonce: Nonce,
        /// The number that it got on the channel.
        sequence: u64,
    },
    /// It is not.
    NotPublished {
        /// Of the request.
        nonce: Nonce,
        /// Why.
        reason: Unpublished,
    },
}

const REASONS: [(u8, Reason); 4] = [
    (1, Reason::Unauthorized),
    (2, Reason::RateLimited),
    (3, Reason::TooMany),
    (4, Reason::Closed),
];

/// Looks into a frame that may be an event, for the text of its channel, life and event. `None`: it is another frame, or none.
/// Whether the text is a name is not checked: who knows the channel compares it.
#[must_use]
pub fn as_event(bytes: &[u8]) -> Option<(&[u8], u64, Event<'_>)> {
    let [VERSION, 37, length, rest @ ..] = bytes else {
        return None;
    };
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    let mut reader = Reader::new(rest);
    let log = reader.u64().ok()?;
    let event = Event::read(&mut reader).ok()?;
    reader.expect_end().ok()?;
    Some((name, log, event))
}

impl<'a> ChannelFrame<'a> {
    /// The first kind of these frames, and the last.
    pub const KINDS: (u8, u8) = (32, 47);

    /// The wire form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    /// Appends the wire form.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.put(&[VERSION, self.kind()]);
        match self {
            Self::Subscribe(subscribe) => {
                subscribe.put_signed(out);
                out.put_u8(u8::from(subscribe.proof.is_some()));
                out.put(subscribe.proof.as_ref().map_or(&[], |proof| proof));
            }
            Self::Accepted { nonce, log, next } => {
                out.put(nonce);
                put_numbers(out, &[*log, *next]);
            }
            Self::Rejected { nonce, reason } => {
                out.put(nonce);
                put_reason(out, *reason);
            }
            Self::Leave {
                nonce,
                channel,
                subscriber,
            } => {
                out.put(nonce);
                put_who(out, channel, subscriber);
            }
            Self::Left { nonce } => out.put(nonce),
            Self::Event { channel, log, event } => {
                channel.put(out);
                out.put_u64(*log);
                event.put(out);
            }
            Self::Turn {
                channel,
                subscriber,
                term,
                turn,
                event,
            } => {
                put_who(out, channel, subscriber);
                put_numbers(out, &[*term, *turn]);
                event.put(out);
            }
            Self::Gap { channel, log, gap } => {
                channel.put(out);
                put_numbers(out, &[*log, gap.first, gap.last]);
            }
            Self::Head { channel, log, last } => {
                channel.put(out);
                put_numbers(out, &[*log, *last]);
            }
            Self::Repair {
                channel,
                subscriber,
                log,
                numbers,
            } => {
                put_who(out, channel, subscriber);
                put_numbers(out, &[*log, numbers.first, numbers.last]);
            }
            Self::Taken {
                channel,
                subscriber,
                term,
                turn,
            } => {
                put_who(out, channel, subscriber);
                put_numbers(out, &[*term, *turn]);
            }
            Self::Ended {
                channel,
                subscriber,
                reason,
            } => {
                put_who(out, channel, subscriber);
                put_reason(out, *reason);
            }
            Self::AskKey { channel, subscriber } => put_who(out, channel, subscriber),
            Self::Publish(publish) => publish.put(out),
            Self::Published { nonce, sequence } => {
                out.put(nonce);
                out.put_u64(*sequence);
            }
            Self::NotPublished { nonce, reason } => {
                out.put(nonce);
                reason.put(out);
            }
        }
    }

    /// Reads exactly one.
    ///
    /// # Errors
    /// A [`DecodeError`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version_u8(VERSION)?;
        let at = reader.clone();
        let kind = reader.u8()?;
        let read = &mut reader;
        let frame = match kind {
            32 => Self::Subscribe(Subscribe::read(read)?),
            33 => Self::Accepted {
                nonce: read.array()?,
                log: read.u64()?,
                next: read.u64()?,
            },
            34 => Self::Rejected {
                nonce: read.array()?,
                reason: read_reason(read)?,
            },
            35 => Self::Leave {
                nonce: read.array()?,
                channel: ChannelName::read(read)?,
                subscriber: read_id(read)?,
            },
            36 => Self::Left { nonce: read.array()? },
            37 => Self::Event {
                channel: ChannelName::read(read)?,
                log: read.u64()?,
                event: Event::read(read)?,
            },
            38 => Self::Turn {
                channel: ChannelName::read(read)?,
                subscriber: read_id(read)?,
                term: read.u64()?,
                turn: read.u64()?,
                event: Event::read(read)?,
            },
            39 => Self::Gap {
                channel: ChannelName::read(read)?,
                log: read.u64()?,
                gap: read_gap(read)?,
            },
            40 => Self::Head {
                channel: ChannelName::read(read)?,
                log: read.u64()?,
                last: read.u64()?,
            },
            41 => Self::Repair {
                channel: ChannelName::read(read)?,
                subscriber: read_id(read)?,
                log: read.u64()?,
                numbers: read_gap(read)?,
            },
            42 => Self::Taken {
                channel: ChannelName::read(read)?,
                subscriber: read_id(read)?,
                term: read.u64()?,
                turn: read.u64()?,
            },
            43 => Self::Ended {
                channel: ChannelName::read(read)?,
                subscriber: read_id(read)?,
                reason: read_reason(read)?,
            },
            44 => Self::AskKey {
                channel: ChannelName::read(read)?,
                subscriber: read_id(read)?,
            },
            45 => Self::Publish(Publish::read(read)?),
            46 => Self::Published {
                nonce: read.array()?,
                sequence: read.u64()?,
            },
            47 => Self::NotPublished {
                nonce: read.array()?,
                reason: Unpublished::read(read)?,
            },
            _ => return Err(at.fault(Fault::Invalid { field: "kind" })),
        };
        reader.expect_end()?;
        Ok(frame)
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Subscribe(_) => 32,
            Self::Accepted { .. } => 33,
            Self::Rejected { .. } => 34,
            Self::Leave { .. } => 35,
            Self::Left { .. } => 36,
            Self::Event { .. } => 37,
            Self::Turn { .. } => 38,
            Self::Gap { .. } => 39,
            Self::Head { .. } => 40,
            Self::Repair { .. } => 41,
            Self::Taken { .. } => 42,
            Self::Ended { .. } => 43,
            Self::AskKey { .. } => 44,
            Self::Publish(_) => 45,
            Self::Published { .. } => 46,
            Self::NotPublished { .. } => 47,
        }
    }
}

fn put_numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|number| out.put_u64(*number));
}

fn put_who(out: &mut Vec<u8>, channel: &ChannelName, subscriber: &EntityId) {
    channel.put(out);
    out.put(subscriber.as_bytes());
}

fn put_token(out: &mut Vec<u8>, token: &[u8]) {
    let length = u16::try_from(token.len()).expect("a token has at most 3,610 bytes");
    out.put_u16(length);
    out.put(token);
}

fn read_token(reader: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let length = reader.u16()?;
    Ok(reader.take(usize::from(length))?.to_vec())
}

fn put_reason(out: &mut Vec<u8>, reason: Reason) {
    let known = REASONS.iter().find(|(_, known)| *known == reason);
    out.put_u8(known.expect("every reason has a number").0);
}

fn read_id(reader: &mut Reader<'_>) -> Result<EntityId, DecodeError> {
    reader.array().map(EntityId::from_bytes)
}

fn read_reason(reader: &mut Reader<'_>) -> Result<Reason, DecodeError> {
    let at = reader.clone();
    let number = reader.u8()?;
    let known = REASONS.iter().find(|(known, _)| *known == number);
    known
        .map(|(_, reason)| *reason)
        .ok_or_else(|| at.fault(Fault::Invalid { field: "reason" }))
}

fn read_gap(reader: &mut Reader<'_>) -> Result<Gap, DecodeError> {
    let at = reader.clone();
    let (first, last) = (reader.u64()?, reader.u64()?);
    if first == 0 || first > last {
        return Err(at.fault(Fault::Invalid { field: "numbers" }));
    }
    Ok(Gap { first, last })
}

fn mark(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    let at = reader.clone();
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(at.fault(Fault::Invalid { field: "mark" })),
    }
}

fn option<'a, T>(
    reader: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    if mark(reader)? {
        read(reader).map(Some)
    } else {
        Ok(None)
    }
}
