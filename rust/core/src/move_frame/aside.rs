//! What the nodes of a move say to each other beside what the machines decide: how far it is, what there is to be moved,
//! and copies that are made before a move begins.
//!
//! Invariants
//! * Nothing of it decides what becomes of a move: what is lost, late or repeated changes no outcome.

use super::Reject;
use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::digest::Digest;
use crate::id::{EntityId, Origin};
use crate::move_rows::{Frozen, MoveOrder};
use crate::ownership::OwnershipRecord;

/// How far a move is, as its orchestrator is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Stage {
    /// The image is being taken.
    Snapshot = 1,
    /// It is being sent.
    Transfer = 2,
    /// The target has it, and restores it.
    Restore = 3,
    /// What came since a copy is being done again.
    Replay = 4,
    /// The record is being kept.
    Cutover = 5,
    /// The target owns.
    Complete = 6,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 6] = [
        Self::Snapshot,
        Self::Transfer,
        Self::Restore,
        Self::Replay,
        Self::Cutover,
        Self::Complete,
    ];
}

/// What a source knows of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How far it is.
    pub stage: Stage,
    /// Size of the image; 0: not known.
    pub image_bytes: u64,
    /// Bytes that were sent, also twice.
    pub moved: u64,
    /// From the freeze until the target said that it owns, in microseconds; 0: not known.
    pub blackout_us: u64,
    /// How long user code took for its snapshot, in microseconds.
    pub snapshot_us: u64,
    /// Events that wait.
    pub waiting: u64,
    /// How often something was copied.
    pub rounds: u32,
    /// Why it was aborted, if it was.
    pub refused: Option<Reject>,
}

/// What is said beside the machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aside {
    /// Target to source: a record above the one that it commits.
    Show(Box<OwnershipRecord>),
    /// Source to orchestrator: how far it is.
    Report(Report),
    /// To a node: what is there of this handle?
    Describe(Origin),
    /// The answer.
    Described {
        /// The entity.
        entity: EntityId,
        /// Who owns it, as far as the node knows.
        owner: EntityId,
        /// In which epoch; 0: it is not known there.
        epoch: u64,
        /// About how large its state is.
        size: u64,
        /// Name of the class; empty if it does not run there.
        kind: String,
    },
    /// Orchestrator to source: copy it to the target while it works.
    Copy(Box<MoveOrder>),
    /// Source to target: there is a copy.
    Offer {
        /// What it is for.
        order: Box<MoveOrder>,
        /// Where the daemon stood.
        frozen: Frozen,
        /// Its size.
        image_bytes: u64,
    },
    /// Target to source and orchestrator: it holds the copy.
    Copied {
        /// Its digest.
        image: Digest,
    },
}

impl Aside {
    pub(super) const fn kind(&self) -> u8 {
        match self {
            Self::Show(_) => 126,
            Self::Report(_) => 127,
            Self::Describe(_) => 128,
            Self::Described { .. } => 129,
            Self::Copy(_) => 130,
            Self::Offer { .. } => 131,
            Self::Copied { .. } => 132,
        }
    }

    pub(super) fn put_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Show(record) => record.put_into(out),
            Self::Report(report) => report.put_into(out),
            Self::Describe(origin) => out.put_u64(origin.get()),
            Self::Described {
                entity,
                owner,
                epoch,
                size,
                kind,
            } => {
                out.put(entity.as_bytes());
                out.put(owner.as_bytes());
                out.put_u64(*epoch);
                out.put_u64(*size);
                out.put_str_u16(kind);
            }
            Self::Copy(order) => order.put_into(out),
            Self::Offer {
                order,
                frozen,
                image_bytes,
            } => {
                order.put_into(out);
                frozen.put_into(out);
                out.put_u64(*image_bytes);
            }
            Self::Copied { image } => out.put(image.as_bytes()),
        }
    }

    /// Reads the body of that kind; `None`: there is no such kind.
    pub(super) fn read(kind: u8, reader: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        Ok(Some(match kind {
            126 => Self::Show(Box::new(OwnershipRecord::read(reader)?)),
            127 => Self::Report(Report::read(reader)?),
            128 => Self::Describe(Origin::new(reader.u64()?)),
            129 => Self::Described {
                entity: EntityId::from_bytes(reader.array()?),
                owner: EntityId::from_bytes(reader.array()?),
                epoch: reader.u64()?,
                size: reader.u64()?,
                kind: read_kind(reader)?,
            },
            130 => Self::Copy(Box::new(MoveOrder::read(reader)?)),
            131 => Self::Offer {
                order: Box::new(MoveOrder::read(reader)?),
                frozen: Frozen::read(reader)?,
                image_bytes: reader.u64()?,
            },
            132 => Self::Copied {
                image: Digest::from_bytes(reader.array()?),
            },
            _ => return Ok(None),
        }))
    }
}

fn read_kind(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    let start = reader.clone();
    let kind = reader.str_u16()?;
    if kind.len() > 255 {
        return Err(start.fault(Fault::Invalid {
            field: "length of the kind",
        }));
    }
    Ok(kind.to_owned())
}

impl Report {
    fn put_into(&self, out: &mut Vec<u8>) {
        out.put_u8(self.stage as u8);
        for number in [
            self.image_bytes,
            self.moved,
            self.blackout_us,
            self.snapshot_us,
            self.waiting,
        ] {
            out.put_u64(number);
        }
        out.put_u32(self.rounds);
        out.put_u8(u8::from(self.refused.is_some()));
        if let Some(reject) = &self.refused {
            reject.put_into(out);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = reader.clone();
        let code = reader.u8()?;
        let stage = Stage::ALL.into_iter().find(|stage| *stage as u8 == code);
        let stage = stage.ok_or_else(|| start.fault(Fault::Invalid { field: "stage" }))?;
        let mut report = Self {
            stage,
            image_bytes: reader.u64()?,
            moved: reader.u64()?,
            blackout_us: reader.u64()?,
            snapshot_us: reader.u64()?,
            waiting: reader.u64()?,
            rounds: reader.u32()?,
            refused: None,
        };
        let at_flag = reader.clone();
        report.refused = match reader.u8()? {
            0 => None,
            1 => Some(Reject::read(reader)?),
            _ => return Err(at_flag.fault(Fault::Invalid { field: "flag" })),
        };
        Ok(report)
    }
}
