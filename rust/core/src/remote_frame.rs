//! What a node asks of another about its daemons, and what is answered: spawn, stop, snapshot, outputs.
//!
//! A frame is the body of a message. Of which mesh it is, which node sent it and that nobody changed it is said by what
//! carries it.
//!
//! ```text
//! frame          version u8 = 1 | kind u8 | call 16 | body
//!  96 spawn      ownership record | length u32 | stored daemon, without a key
//!  97 stop       origin u64
//!  98 snapshot   origin u64
//!  99 fetch      offset u64
//! 100 done       (nothing)
//! 101 taken      size u64 | digest 32
//! 102 part       offset u64 | length u32 | bytes
//! 103 refused    reason u8 | owner u8 (0, 1) | if 1: node 32, epoch u64 | length u32 | text
//! 104 working    (nothing)
//! 105 outputs    origin u64 | after u64
//! digest = derive_key("meshos 2026 remote snapshot v1")(the encoded snapshot)
//! ```
//! Numbers are little endian. A call is named by 16 random bytes; its answers carry the same name.
//!
//! Invariants
//! * A frame has one encoding. What is read back is what was written, or it is refused.
//! * A part has at most [`PART_BYTES_MAX`], a text at most [`TEXT_BYTES_MAX`], a stored daemon at most 4 KiB.
//! * The key of a daemon does not travel: who asks to spawn sends the record that the daemon's key has signed.

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::config::DaemonHostConfig;
use crate::digest::{self, Context, Digest};
use crate::id::{EntityId, Origin};
use crate::ownership::OwnershipRecord;
use crate::stored::StoredDaemon;

/// The version written, and the newest that is read.
pub const VERSION: u8 = 1;

/// Bytes of a part at most.
pub const PART_BYTES_MAX: usize = 1 << 20;

/// Bytes of a text at most.
pub const TEXT_BYTES_MAX: usize = 1024;

const STORED_BYTES_MAX: usize = 4096;

/// Names a call: random.
pub type CallId = [u8; 16];

/// Why a node does not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// It does not let the node that asks do so.
    NotPermitted = 1,
    /// It has as many calls as it takes.
    Busy = 2,
    /// It has no such daemon.
    NotFound = 3,
    /// Another node owns it.
    NotOwner = 4,
    /// It has no class of that kind.
    NoFactory = 5,
    /// A daemon of that identity is there.
    Occupied = 6,
    /// Its store has a daemon of that identity.
    Stored = 7,
    /// Its runtime was not started, or is shut down.
    NotReady = 8,
    /// User code raised, or something else went wrong.
    Failed = 9,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::NotPermitted,
        Self::Busy,
        Self::NotFound,
        Self::NotOwner,
        Self::NoFactory,
        Self::Occupied,
        Self::Stored,
        Self::NotReady,
        Self::Failed,
    ];
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Start a daemon.
    Spawn {
        /// Signed by the daemon's key: the node that is asked owns it.
        record: Box<OwnershipRecord>,
        /// Name of its class.
        kind: String,
        /// Its options.
        config: DaemonHostConfig,
    },
    /// Stop a daemon.
    Stop(Origin),
    /// Take a snapshot of a daemon.
    Snapshot(Origin),
    /// Push a daemon's outputs to the reader that has the name of this call, in [`feed_frame`](crate::feed_frame)s.
    Outputs {
        /// The daemon.
        origin: Origin,
        /// The output before the first.
        after: u64,
    },
}

/// A refusal, with what is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// Who owns the daemon, and in which epoch.
    pub owner: Option<(EntityId, u64)>,
    /// In one line.
    pub text: String,
}

/// What comes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is done. Of a snapshot: the daemon has no state.
    Done,
    /// The snapshot was taken, and can be fetched.
    Taken {
        /// Bytes of its encoding.
        size: u64,
        /// Their [`snapshot_digest`].
        digest: Digest,
    },
    /// It is not done.
    Refused(Refused),
    /// It is under way.
    Working,
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body<'a> {
    /// Do this.
    Ask(Request),
    /// Send the part of the snapshot that begins here.
    Fetch {
        /// Where.
        offset: u64,
    },
    /// What came of it.
    Answer(Answer),
    /// A part of the snapshot.
    Part {
        /// Where it begins.
        offset: u64,
        /// It.
        bytes: &'a [u8],
    },
}

/// A message about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFrame<'a> {
    /// Which call.
    pub call: CallId,
    /// What it says.
    pub body: Body<'a>,
}

/// The digest by which a fetched snapshot is known to be whole.
#[must_use]
pub fn snapshot_digest(encoded: &[u8]) -> Digest {
    digest::derive(Context::RemoteSnapshot, &[encoded])
}

/// A text, cut to what a frame takes.
#[must_use]
pub fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

impl RemoteFrame<'_> {
    /// The wire form.
    ///
    /// # Panics
    /// If a part, a text or a kind is too long; they are bounded where they are made.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.put_u8(VERSION);
        out.put_u8(self.kind());
        out.put(&self.call);
        match &self.body {
            Body::Ask(Request::Spawn { record, kind, config }) => {
                record.put_into(&mut out);
                let stored = StoredDaemon {
                    kind: kind.clone(),
                    config: *config,
                    runs: true,
                    key: None,
                };
                let stored = stored.to_bytes();
                out.put_count_u32(stored.len());
                out.put(&stored);
            }
            Body::Ask(Request::Stop(origin) | Request::Snapshot(origin)) => out.put_u64(origin.get()),
            Body::Ask(Request::Outputs { origin, after }) => {
                out.put_u64(origin.get());
                out.put_u64(*after);
            }
            Body::Fetch { offset } => out.put_u64(*offset),
            Body::Answer(Answer::Done | Answer::Working) => {}
            Body::Answer(Answer::Taken { size, digest }) => {
                out.put_u64(*size);
                out.put(digest.as_bytes());
            }
            Body::Answer(Answer::Refused(refused)) => {
                assert!(refused.text.len() <= TEXT_BYTES_MAX, "a text is cut where it is made");
                out.put_u8(refused.reason as u8);
                out.put_u8(u8::from(refused.owner.is_some()));
                if let Some((node, epoch)) = &refused.owner {
                    out.put(node.as_bytes());
                    out.put_u64(*epoch);
                }
                out.put_count_u32(refused.text.len());
                out.put(refused.text.as_bytes());
            }
            Body::Part { offset, bytes } => {
                assert!(bytes.len() <= PART_BYTES_MAX, "a part is cut where it is made");
                out.put_u64(*offset);
                out.put_count_u32(bytes.len());
                out.put(bytes);
            }
        }
        out
    }

    const fn kind(&self) -> u8 {
        match &self.body {
            Body::Ask(Request::Spawn { .. }) => 96,
            Body::Ask(Request::Stop(_)) => 97,
            Body::Ask(Request::Snapshot(_)) => 98,
            Body::Fetch { .. } => 99,
            Body::Answer(Answer::Done) => 100,
            Body::Answer(Answer::Taken { .. }) => 101,
            Body::Part { .. } => 102,
            Body::Answer(Answer::Refused(_)) => 103,
            Body::Answer(Answer::Working) => 104,
            Body::Ask(Request::Outputs { .. }) => 105,
        }
    }
}

impl<'a> RemoteFrame<'a> {
    /// Reads exactly one frame.
    ///
    /// # Errors
    /// A [`DecodeError`]; signatures are not checked.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version_u8(VERSION)?;
        let at_kind = reader.clone();
        let kind = reader.u8()?;
        let call = reader.array()?;
        let body = match kind {
            96 => Body::Ask(read_spawn(&mut reader)?),
            97 => Body::Ask(Request::Stop(Origin::new(reader.u64()?))),
            98 => Body::Ask(Request::Snapshot(Origin::new(reader.u64()?))),
            99 => Body::Fetch { offset: reader.u64()? },
            100 => Body::Answer(Answer::Done),
            101 => Body::Answer(Answer::Taken {
                size: reader.u64()?,
                digest: Digest::from_bytes(reader.array()?),
            }),
            102 => {
                let offset = reader.u64()?;
                let length = reader.count_below(1, PART_BYTES_MAX)?;
                let bytes = reader.take(length)?;
                Body::Part { offset, bytes }
            }
            103 => Body::Answer(Answer::Refused(read_refused(&mut reader)?)),
            104 => Body::Answer(Answer::Working),
            105 => Body::Ask(Request::Outputs {
                origin: Origin::new(reader.u64()?),
                after: reader.u64()?,
            }),
            _ => return Err(at_kind.fault(Fault::Invalid { field: "kind" })),
        };
        reader.expect_end()?;
        Ok(Self { call, body })
    }
}

fn read_spawn(reader: &mut Reader<'_>) -> Result<Request, DecodeError> {
    let record = Box::new(OwnershipRecord::read(reader)?);
    let length = reader.count_below(1, STORED_BYTES_MAX)?;
    let begin = reader.offset();
    let bytes = reader.take(length)?;
    let stored = StoredDaemon::decode(bytes).map_err(|error| DecodeError {
        offset: begin + error.offset,
        ..error
    })?;
    let invalid = |field| DecodeError {
        offset: begin,
        fault: Fault::Invalid { field },
    };
    // An older version of the row has another encoding.
    if !stored.runs || stored.key.is_some() || stored.to_bytes() != bytes {
        return Err(invalid("stored daemon"));
    }
    stored.config.validate().map_err(|_| invalid("options"))?;
    Ok(Request::Spawn {
        record,
        kind: stored.kind,
        config: stored.config,
    })
}

fn read_refused(reader: &mut Reader<'_>) -> Result<Refused, DecodeError> {
    let at_reason = reader.clone();
    let code = reader.u8()?;
    let reason = Reason::ALL.into_iter().find(|reason| *reason as u8 == code);
    let reason = reason.ok_or_else(|| at_reason.fault(Fault::Invalid { field: "reason" }))?;
    let at_owner = reader.clone();
    let owner = match reader.u8()? {
        0 => None,
        1 => Some((EntityId::from_bytes(reader.array()?), reader.u64()?)),
        _ => return Err(at_owner.fault(Fault::Invalid { field: "owner" })),
    };
    let text = reader.str_u32(TEXT_BYTES_MAX)?.to_owned();
    Ok(Refused { reason, owner, text })
}
