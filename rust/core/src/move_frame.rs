//! Messages of a move, between the source, the target and the orchestrator.
//!
//! A frame is the body of a message. Of which mesh it is, which node sends it and that nobody changed it is said by what
//! carries it. Who may say what is decided by the machines that hear it.
//!
//! Invariants
//! * A frame has one encoding. What is read back is what was written, or it is refused.
//! * What a frame holds is of the entity and of the move in its header.
//! * A chunk has at most [`MAX_SNAPSHOT_CHUNK_SIZE`], and the digest that it names.
//!
//! ```text
//! frame         version u8 = 1 | kind u8 | mid 16 | entity 32 | epoch u64 | step u32 | body length u32 | body
//! 112 prepare   order; its epoch is that of the header, as everywhere: the epoch in which the order was written
//! 113 accept    (nothing)
//! 114 reject    reason u8 | length u32, text
//! 115 freeze    (nothing)
//! 116 final     frozen | image bytes u64 | count u32, records 355 each | count u32, queued each
//! 117 prepared  idx u64 | frozen
//! 118 commit    record | from u64 | count u32, queued each
//! 119 committed (nothing)
//! 120 retire    (nothing)
//! 121 abort     (nothing)
//! 122 abort req (nothing)
//! 123 outcome   outcome u8 (0: unknown, 1: committed, 2: aborted) | if committed: record
//! 124 pull      image 32 | index u32
//! 125 chunk     image 32 | index u32 | digest 32 | length u32, bytes
//! 126 show      record
//! 127 report    stage u8 | image bytes u64 | moved u64 | blackout, in us u64 | snapshot, in us u64 | waiting u64 | rounds u32
//!               | is refused u8 | if so: reason u8 | length u32, text
//! 128 describe  origin u64; the entity of the header is not known, and zero
//! 129 described entity 32 | owner 32 | epoch u64 (0: not known here) | size u64 | length u16, kind (empty: not here)
//! 130 copy      order
//! 131 offer     order | frozen | image bytes u64
//! 132 copied    image 32
//! ```
//! The last seven are between those who run the machines: they decide nothing.
//! `order`, `frozen` and `queued` are those of [`move_rows`](crate::move_rows). Numbers are little endian. A chunk begins at
//! its index times [`MAX_SNAPSHOT_CHUNK_SIZE`]; its digest is BLAKE3 of its bytes.

mod aside;

pub use aside::{Aside, Report, Stage};

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::digest::{self, Digest};
use crate::id::EntityId;
use crate::move_rows::{
    Frozen, MoveOrder, Outcome, QUEUED_MAX, Queued, put_lineage, put_queue, read_lineage, read_queue,
};
use crate::ownership::{LINEAGE_MAX, MigrationId, OwnershipRecord};

const VERSION: u8 = 1;

/// Bytes of a chunk at most; all but the last have as many.
pub const MAX_SNAPSHOT_CHUNK_SIZE: usize = 1 << 20;

/// Bytes of a text at most.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Bytes of the events that travel in one message at most.
pub const QUEUE_BYTES_MAX: usize = 1 << 20;

/// Why a move is not taken on, or cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Another move of the entity is under way.
    Busy = 1,
    /// The node does not take anything on yet, or no more.
    NotReady = 2,
    /// The node does not own the entity in that epoch.
    NotOwner = 3,
    /// The move is over.
    Finished = 4,
    /// The order came too late.
    Expired = 5,
    /// Who signed the order may not, or nothing is moved here.
    NotPermitted = 6,
    /// The node has no class of that kind.
    NoFactory = 7,
    /// The state is larger than the node takes.
    TooLarge = 8,
    /// The snapshot or the restore failed, or what was restored is not what was frozen.
    StateFailed = 9,
    /// The node runs no daemons.
    ComputeNotSupported = 10,
    /// The key of the daemon cannot travel, or came to nothing.
    IdentityTransportFailed = 11,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Busy,
        Self::NotReady,
        Self::NotOwner,
        Self::Finished,
        Self::Expired,
        Self::NotPermitted,
        Self::NoFactory,
        Self::TooLarge,
        Self::StateFailed,
        Self::ComputeNotSupported,
        Self::IdentityTransportFailed,
    ];

    /// Whether the same may be ordered again, under another id.
    #[must_use]
    pub const fn is_retriable(self) -> bool {
        matches!(self, Self::Busy | Self::NotReady)
    }
}

/// A refusal in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Why.
    pub reason: Reason,
    /// More of it; empty where the reason says all.
    pub text: String,
}

impl Reject {
    /// One whose text is cut to what fits.
    #[must_use]
    pub fn new(reason: Reason, text: &str) -> Self {
        let mut end = text.len().min(TEXT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = text[..end].to_owned();
        Self { reason, text }
    }

    fn put_into(&self, out: &mut Vec<u8>) {
        assert!(self.text.len() <= TEXT_BYTES_MAX, "a text is cut where it is made");
        out.put_u8(self.reason as u8);
        out.put_str_u32(&self.text);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at_reason = reader.clone();
        let code = reader.u8()?;
        let reason = Reason::ALL.into_iter().find(|reason| *reason as u8 == code);
        let reason = reason.ok_or_else(|| at_reason.fault(Fault::Invalid { field: "reason" }))?;
        let text = reader.str_u32(TEXT_BYTES_MAX)?.to_owned();
        Ok(Self { reason, text })
    }
}

impl From<Reason> for Reject {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            text: String::new(),
        }
    }
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body<'a> {
    /// Orchestrator to target and source: take part in this.
    Prepare(Box<MoveOrder>),
    /// The answer: yes.
    Accept,
    /// The answer: no. Also of a target that could not restore, to source and orchestrator.
    Reject(Reject),
    /// Orchestrator to source: freeze.
    Freeze,
    /// Source to target: this is what you own if I say so.
    Final {
        /// Where the daemon stands.
        frozen: Frozen,
        /// Size of the image, which is pulled.
        image_bytes: u64,
        /// All records up to that of the source.
        lineage: Vec<OwnershipRecord>,
        /// The events that wait, so far.
        queue: Vec<Queued>,
    },
    /// Target to source: I can go live after any crash. What became of it?
    Prepared {
        /// Events of the queue that are held.
        idx: u64,
        /// What was restored.
        frozen: Frozen,
    },
    /// Source to target: it is yours. To the orchestrator: it is done, without events.
    Commit {
        /// The record that says so.
        record: Box<OwnershipRecord>,
        /// Position in the queue of the first event here.
        from: u64,
        /// The events from there on.
        tail: Vec<Queued>,
    },
    /// Target to source and orchestrator: I own it, durably.
    Committed,
    /// Orchestrator to source: the target owns it.
    Retire,
    /// Source to target: it stays here.
    Abort,
    /// Orchestrator or operator to source: abort if that is still possible. What became of it?
    AbortReq,
    /// Source to orchestrator: this became of it. Target to source: a commit of something that is not known here.
    Outcome {
        /// What became of it; `None`: nothing is known.
        outcome: Option<Outcome>,
        /// The record, if it is committed.
        record: Option<Box<OwnershipRecord>>,
    },
    /// Target to source: send a chunk.
    Pull {
        /// Of this image.
        image: Digest,
        /// Which.
        index: u32,
    },
    /// Source to target: a chunk.
    Chunk {
        /// Of this image.
        image: Digest,
        /// Which.
        index: u32,
        /// It.
        bytes: &'a [u8],
    },
    /// What no machine decides.
    Aside(Box<Aside>),
}

/// Which roles of a node a message is for; one node may have several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// Whoever moves the entity away.
    pub source: bool,
    /// Whoever takes it on.
    pub target: bool,
    /// Whoever sees to it.
    pub orchestrator: bool,
}

/// A message of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveFrame<'a> {
    /// Which move.
    pub mid: MigrationId,
    /// Whom it is about.
    pub entity: EntityId,
    /// Epoch in which the order was written.
    pub epoch: u64,
    /// Which message of its sender about the move it is, in this run, from 1.
    pub step: u32,
    /// What it says.
    pub body: Body<'a>,
}

impl Body<'_> {
    /// Which roles of the node `me` it is for.
    #[must_use]
    pub fn roles(&self, me: &EntityId) -> Roles {
        let (source, target, orchestrator) = match self {
            Self::Prepare(order) => (order.source == *me, order.target == *me, false),
            Self::Accept => (false, false, true),
            Self::Freeze | Self::Prepared { .. } | Self::Retire | Self::AbortReq | Self::Pull { .. } => {
                (true, false, false)
            }
            Self::Final { .. } | Self::Abort | Self::Chunk { .. } => (false, true, false),
            Self::Commit { record, .. } => (false, record.node() == *me, true),
            Self::Reject(_) | Self::Committed => (true, false, true),
            Self::Outcome { outcome, .. } => (outcome.is_none(), false, outcome.is_some()),
            Self::Aside(_) => (false, false, false),
        };
        Roles {
            source,
            target,
            orchestrator,
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Prepare(_) => 112,
            Self::Accept => 113,
            Self::Reject(_) => 114,
            Self::Freeze => 115,
            Self::Final { .. } => 116,
            Self::Prepared { .. } => 117,
            Self::Commit { .. } => 118,
            Self::Committed => 119,
            Self::Retire => 120,
            Self::Abort => 121,
            Self::AbortReq => 122,
            Self::Outcome { .. } => 123,
            Self::Pull { .. } => 124,
            Self::Chunk { .. } => 125,
            Self::Aside(aside) => aside.kind(),
        }
    }

    fn put_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Prepare(order) => order.put_into(out),
            Self::Accept | Self::Freeze | Self::Committed | Self::Retire | Self::Abort | Self::AbortReq => {}
            Self::Reject(reject) => reject.put_into(out),
            Self::Aside(aside) => aside.put_into(out),
            Self::Final {
                frozen,
                image_bytes,
                lineage,
                queue,
            } => {
                assert!(
                    (1..=LINEAGE_MAX).contains(&lineage.len()),
                    "a lineage is bounded where it grows"
                );
                assert!(queue.len() <= QUEUED_MAX, "a queue is cut where it is shipped");
                frozen.put_into(out);
                out.put_u64(*image_bytes);
                put_lineage(lineage, out);
                put_queue(queue, out);
            }
            Self::Prepared { idx, frozen } => {
                out.put_u64(*idx);
                frozen.put_into(out);
            }
            Self::Commit { record, from, tail } => {
                assert!(tail.len() <= QUEUED_MAX, "a queue is cut where it is shipped");
                record.put_into(out);
                out.put_u64(*from);
                put_queue(tail, out);
            }
            Self::Outcome { outcome, record } => {
                out.put_u8(outcome.map_or(0, |outcome| outcome as u8));
                if let Some(record) = record {
                    record.put_into(out);
                }
            }
            Self::Pull { image, index } => {
                out.put(image.as_bytes());
                out.put_u32(*index);
            }
            Self::Chunk { image, index, bytes } => {
                put_chunk(out, image, *index, |out| out.put(bytes));
            }
        }
    }
}

impl MoveFrame<'_> {
    /// The wire form.
    ///
    /// # Panics
    /// If a chunk, a text, a lineage, a queue or a kind is too long; they are bounded where they are made.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        self.put_around(&mut out, |out| self.body.put_into(out));
        out
    }

    /// The wire form of a chunk behind what is in `out`, where `fill` puts its bytes: those in the frame are not looked at.
    ///
    /// # Panics
    /// If it is no chunk, or is too long.
    pub fn put_chunk(&self, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
        let Body::Chunk { image, index, .. } = &self.body else {
            panic!("only a chunk is filled");
        };
        self.put_around(out, |out| put_chunk(out, image, *index, fill));
    }

    fn put_around(&self, out: &mut Vec<u8>, put_body: impl FnOnce(&mut Vec<u8>)) {
        out.put_u8(VERSION);
        out.put_u8(self.body.kind());
        out.put(&self.mid);
        out.put(self.entity.as_bytes());
        out.put_u64(self.epoch);
        out.put_u32(self.step);
        put_counted(out, put_body);
    }
}

/// Puts something, and before it how long it is.
fn put_counted(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.put_u32(0);
    put(out);
    let length = u32::try_from(out.len() - at - 4).expect("what is in it is bounded");
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

fn put_chunk(out: &mut Vec<u8>, image: &Digest, index: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    out.put(image.as_bytes());
    out.put_u32(index);
    let at = out.len();
    out.put(Digest::ZERO.as_bytes());
    put_counted(out, fill);
    let bytes = &out[at + Digest::ZERO.as_bytes().len() + 4..];
    assert!(
        bytes.len() <= MAX_SNAPSHOT_CHUNK_SIZE,
        "a chunk is cut where it is made"
    );
    let named = digest::plain(bytes);
    out[at..at + named.as_bytes().len()].copy_from_slice(named.as_bytes());
}

impl<'a> MoveFrame<'a> {
    /// One about the move of an order, which no machine numbers.
    #[must_use]
    pub const fn about(order: &MoveOrder, body: Body<'a>) -> Self {
        Self {
            mid: order.mid,
            entity: order.entity,
            epoch: order.epoch,
            step: 1,
            body,
        }
    }

    /// Reads exactly one frame.
    ///
    /// # Errors
    /// A [`DecodeError`]; [`Fault::Digest`] for a chunk that was changed. Signatures are not checked.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version_u8(VERSION)?;
        let at_kind = reader.clone();
        let kind = reader.u8()?;
        let at_mid = reader.clone();
        let mid: MigrationId = reader.array()?;
        if mid == MigrationId::default() {
            return Err(at_mid.fault(Fault::Invalid { field: "migration id" }));
        }
        let entity = EntityId::from_bytes(reader.array()?);
        let at_epoch = reader.clone();
        let epoch = reader.u64()?;
        if epoch == 0 || epoch == u64::MAX {
            return Err(at_epoch.fault(Fault::Invalid { field: "epoch" }));
        }
        let step = reader.u32()?;
        let at_length = reader.clone();
        if reader.u32()? as usize != reader.remaining() {
            return Err(at_length.fault(Fault::Invalid { field: "body length" }));
        }
        let head = Head { mid, entity, epoch };
        let body = match kind {
            112 => head.prepare(&mut reader)?,
            113 => Body::Accept,
            114 => Body::Reject(Reject::read(&mut reader)?),
            115 => Body::Freeze,
            116 => Body::Final {
                frozen: Frozen::read(&mut reader)?,
                image_bytes: reader.u64()?,
                lineage: read_lineage(&mut reader, entity)?,
                queue: read_queue(&mut reader)?,
            },
            117 => Body::Prepared {
                idx: reader.u64()?,
                frozen: Frozen::read(&mut reader)?,
            },
            118 => Body::Commit {
                record: head.record(&mut reader)?,
                from: reader.u64()?,
                tail: read_queue(&mut reader)?,
            },
            119 => Body::Committed,
            120 => Body::Retire,
            121 => Body::Abort,
            122 => Body::AbortReq,
            123 => head.outcome(&mut reader)?,
            124 => Body::Pull {
                image: Digest::from_bytes(reader.array()?),
                index: reader.u32()?,
            },
            125 => read_chunk(&mut reader)?,
            _ => match Aside::read(kind, &mut reader)? {
                Some(aside) => Body::Aside(Box::new(aside)),
                None => return Err(at_kind.fault(Fault::Invalid { field: "kind" })),
            },
        };
        reader.expect_end()?;
        Ok(Self {
            mid,
            entity,
            epoch,
            step,
            body,
        })
    }
}

/// What everything in a frame is about.
struct Head {
    mid: MigrationId,
    entity: EntityId,
    epoch: u64,
}

impl Head {
    fn prepare<'a>(&self, reader: &mut Reader<'_>) -> Result<Body<'a>, DecodeError> {
        let at_order = reader.clone();
        let order = MoveOrder::read(reader)?;
        if (order.mid, order.entity, order.epoch) != (self.mid, self.entity, self.epoch) {
            return Err(at_order.fault(Fault::Invalid { field: "order" }));
        }
        Ok(Body::Prepare(Box::new(order)))
    }

    fn record(&self, reader: &mut Reader<'_>) -> Result<Box<OwnershipRecord>, DecodeError> {
        let at_record = reader.clone();
        let record = OwnershipRecord::read(reader)?;
        if (record.mid, record.entity(), record.epoch()) != (self.mid, self.entity, self.epoch + 1) {
            return Err(at_record.fault(Fault::Invalid { field: "record" }));
        }
        Ok(Box::new(record))
    }

    fn outcome<'a>(&self, reader: &mut Reader<'_>) -> Result<Body<'a>, DecodeError> {
        let mut outcome = None;
        if reader.clone().u8()? == 0 {
            reader.u8()?;
        } else {
            outcome = Some(Outcome::read(reader)?);
        }
        let record = match outcome {
            Some(Outcome::Committed) => Some(self.record(reader)?),
            _ => None,
        };
        Ok(Body::Outcome { outcome, record })
    }
}

fn read_chunk<'a>(reader: &mut Reader<'a>) -> Result<Body<'a>, DecodeError> {
    let image = Digest::from_bytes(reader.array()?);
    let index = reader.u32()?;
    let at_digest = reader.clone();
    let named = Digest::from_bytes(reader.array()?);
    let at_length = reader.clone();
    let length = reader.count_below(1, MAX_SNAPSHOT_CHUNK_SIZE)?;
    if length == 0 {
        return Err(at_length.fault(Fault::Invalid { field: "length" }));
    }
    let bytes = reader.take(length)?;
    if digest::plain(bytes) != named {
        return Err(at_digest.fault(Fault::Digest));
    }
    Ok(Body::Chunk { image, index, bytes })
}
