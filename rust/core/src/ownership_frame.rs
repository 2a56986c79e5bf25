//! Messages between owners and the directory.
//!
//! A frame is the body of a message. Of which mesh it is, which node sends it and that nobody changed it is said by what
//! carries it. An answer repeats the run and the number of what it answers.
//!
//! Invariants
//! * A frame has one encoding. What is read back is what was written, or it is refused.
//! * A lineage has at least one record, all of one entity, with rising epochs, and at most
//!   [`LINEAGE_MAX`]. That it is good is not checked here.
//!
//! ```text
//! frame            version u8 = 1 | kind u8 | run u64 | number u64 | body
//! 64 register      count u32 | records, 355 bytes each
//! 65 registered    entity 32 | epoch u64
//! 66 renew         record
//! 67 lease ok      entity 32 | epoch u64 | lease, in ms u32
//! 68 higher        record
//! 69 unregistered  entity 32 | reason u8 (1: unknown, 2: full)
//! 70 install       snapshot 32 | bytes u64 | count u32 | records, 355 bytes each
//! ```
//! Numbers are little endian. The kinds follow those of streams and channels.

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::digest::Digest;
use crate::id::EntityId;
use crate::ownership::{LINEAGE_MAX, OwnershipRecord};

const VERSION: u8 = 1;

/// Names a request: the run of a node, and a number in it. Neither is used again, so that no answer is taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ask {
    /// The run of the node that asks.
    pub run: u64,
    /// Its number in that run.
    pub number: u64,
}

/// Why the directory cannot judge a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Unregistered {
    /// It does not know the record before: the whole lineage has to be registered.
    Unknown = 1,
    /// It looks after as many entities as it may.
    Full = 2,
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Owner to directory: this is who owns the entity. A spawn has one record.
    Register(Vec<OwnershipRecord>),
    /// Directory to owner: it is so, and durable. No lease comes with it.
    Registered {
        /// The entity.
        entity: EntityId,
        /// Epoch of the highest record.
        epoch: u64,
    },
    /// Owner to directory: I own under this record, which is durable here; let me go on.
    Renew(OwnershipRecord),
    /// Directory to owner: go on, for so long after you asked.
    LeaseOk {
        /// The entity.
        entity: EntityId,
        /// Epoch of the record that was renewed.
        epoch: u64,
        /// How long.
        lease_ms: u32,
    },
    /// Directory to owner: no; this record is the highest.
    Higher(OwnershipRecord),
    /// Directory to owner: the record cannot be judged.
    Unregistered {
        /// The entity.
        entity: EntityId,
        /// Why.
        reason: Unregistered,
    },
    /// Directory to the new owner after a takeover: the last record of the lineage is yours, with the state in this
    /// snapshot. Again until the owner renews. Its `ask` names the run of the owner that it is for.
    Install {
        /// Name of the snapshot, by its content; [`Digest::ZERO`] for none.
        snapshot: Digest,
        /// Its size.
        snapshot_bytes: u64,
        /// All records.
        lineage: Vec<OwnershipRecord>,
    },
}

/// A message between an owner and the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnershipFrame {
    /// What it asks, or answers; the number is zero where nobody asked.
    pub ask: Ask,
    /// What it says.
    pub body: Body,
}

impl OwnershipFrame {
    /// Whom it is about.
    ///
    /// # Panics
    /// If its lineage is empty, which is neither written nor read.
    #[must_use]
    pub fn entity(&self) -> EntityId {
        match &self.body {
            Body::Register(lineage) | Body::Install { lineage, .. } => {
                lineage.last().expect("a lineage has a record").entity()
            }
            Body::Renew(record) | Body::Higher(record) => record.entity(),
            Body::Registered { entity, .. } | Body::LeaseOk { entity, .. } | Body::Unregistered { entity, .. } => {
                *entity
            }
        }
    }

    /// The wire form.
    ///
    /// # Panics
    /// If a lineage is empty or too long.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        let kind = match &self.body {
            Body::Register(_) => 64,
            Body::Registered { .. } => 65,
            Body::Renew(_) => 66,
            Body::LeaseOk { .. } => 67,
            Body::Higher(_) => 68,
            Body::Unregistered { .. } => 69,
            Body::Install { .. } => 70,
        };
        out.put(&[VERSION, kind]);
        out.put_u64(self.ask.run);
        out.put_u64(self.ask.number);
        match &self.body {
            Body::Register(lineage) => put_lineage(&mut out, lineage),
            Body::Registered { entity, epoch } => {
                out.put(entity.as_bytes());
                out.put_u64(*epoch);
            }
            Body::Renew(record) | Body::Higher(record) => record.put_into(&mut out),
            Body::LeaseOk {
                entity,
                epoch,
                lease_ms,
            } => {
                out.put(entity.as_bytes());
                out.put_u64(*epoch);
                out.put_u32(*lease_ms);
            }
            Body::Unregistered { entity, reason } => {
                out.put(entity.as_bytes());
                out.put_u8(*reason as u8);
            }
            Body::Install {
                snapshot,
                snapshot_bytes,
                lineage,
            } => {
                out.put(snapshot.as_bytes());
                out.put_u64(*snapshot_bytes);
                put_lineage(&mut out, lineage);
            }
        }
        out
    }

    /// Reads exactly one frame.
    ///
    /// # Errors
    /// A [`DecodeError`]; signatures are not checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version_u8(VERSION)?;
        let at_kind = reader.clone();
        let kind = reader.u8()?;
        let ask = Ask {
            run: reader.u64()?,
            number: reader.u64()?,
        };
        let body = match kind {
            64 => Body::Register(read_lineage(&mut reader)?),
            65 => Body::Registered {
                entity: EntityId::from_bytes(reader.array()?),
                epoch: read_epoch(&mut reader)?,
            },
            66 => Body::Renew(OwnershipRecord::read(&mut reader)?),
            67 => Body::LeaseOk {
                entity: EntityId::from_bytes(reader.array()?),
                epoch: read_epoch(&mut reader)?,
                lease_ms: reader.u32()?,
            },
            68 => Body::Higher(OwnershipRecord::read(&mut reader)?),
            69 => {
                let entity = EntityId::from_bytes(reader.array()?);
                let at_reason = reader.clone();
                let reason = match reader.u8()? {
                    1 => Unregistered::Unknown,
                    2 => Unregistered::Full,
                    _ => return Err(at_reason.fault(Fault::Invalid { field: "reason" })),
                };
                Body::Unregistered { entity, reason }
            }
            70 => read_install(&mut reader)?,
            _ => return Err(at_kind.fault(Fault::Invalid { field: "kind" })),
        };
        reader.expect_end()?;
        Ok(Self { ask, body })
    }
}

fn put_lineage(out: &mut Vec<u8>, lineage: &[OwnershipRecord]) {
    let count = lineage.len();
    assert!(
        (1..=LINEAGE_MAX).contains(&count),
        "a lineage is bounded where it grows"
    );
    out.reserve(4 + count * OwnershipRecord::SIZE);
    out.put_count_u32(count);
    lineage.iter().for_each(|record| record.put_into(out));
}

fn read_lineage(reader: &mut Reader<'_>) -> Result<Vec<OwnershipRecord>, DecodeError> {
    let at_count = reader.clone();
    let count = reader.count_below(OwnershipRecord::SIZE, LINEAGE_MAX)?;
    if count == 0 {
        return Err(at_count.fault(Fault::Invalid { field: "count" }));
    }
    let mut lineage: Vec<OwnershipRecord> = Vec::with_capacity(count);
    for _ in 0..count {
        let at_record = reader.clone();
        let record = OwnershipRecord::read(reader)?;
        let follows = |before: &OwnershipRecord| before.entity() == record.entity() && before.epoch() < record.epoch();
        if !lineage.last().is_none_or(follows) {
            return Err(at_record.fault(Fault::Invalid { field: "lineage" }));
        }
        lineage.push(record);
    }
    Ok(lineage)
}

fn read_install(reader: &mut Reader<'_>) -> Result<Body, DecodeError> {
    let snapshot = Digest::from_bytes(reader.array()?);
    let at_size = reader.clone();
    let snapshot_bytes = reader.u64()?;
    if snapshot == Digest::ZERO && snapshot_bytes > 0 {
        return Err(at_size.fault(Fault::Invalid { field: "bytes" }));
    }
    Ok(Body::Install {
        snapshot,
        snapshot_bytes,
        lineage: read_lineage(reader)?,
    })
}

/// Reads the epoch of an owner, which is never 0.
fn read_epoch(reader: &mut Reader<'_>) -> Result<u64, DecodeError> {
    let at = reader.clone();
    match reader.u64()? {
        0 => Err(at.fault(Fault::Invalid { field: "epoch" })),
        epoch => Ok(epoch),
    }
}
