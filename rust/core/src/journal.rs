//! What one daemon did, as rows of a store: steps with their inputs, and outputs.
//!
//! Invariants
//! * Steps are numbered from 1 without a gap. A step is an event that took effect, or one that was passed over.
//! * Each row of steps is bound by a digest to all rows before it, so that one that was changed, removed or moved is
//!   found. Each row of outputs ends with the digest of the chain after them.
//! * Cursor, step, outputs and receipt of an event are written together: [`Pending::take`] gives them all.
//!
//! ```text
//! steps    version u8 = 1 | epoch u64 | first u64 | binding before 32 | sequence u64 and digest 32 of the chain before
//!          | count u32 | steps | binding 32
//!   step   kind u8 (1 processed, 2 passed over) | receipt u8 (0, 1) | link 32 | stream u64 | received_ns u64
//!          | outputs u32 | if outputs: digest of the chain after them 32 | length u32 | payload
//! outputs  version u8 = 1 | first sequence u64 | digest before 32 | count u32
//!          | each: horizon u64 | length u32 | payload | digest of the chain after the last 32
//! snapshot version u8 = 1 | name 32 | size u64 | step u64 | binding 32 | processed u64 | epoch u64
//!          | sequence u64 | digest 32 | taken_at u64 | CRC-32 of all that u32
//! b(0) = derive_key("meshos 2026 journal genesis v1")(entity)
//! b(n) = derive_key("meshos 2026 journal steps v1")(b(n-1) ‖ the row without its last 32 bytes)
//! ```

use thiserror::Error;

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::digest::{self, Context, Digest};
use crate::id::{EntityId, Origin};
use crate::link::CausalLink;
use crate::rows::{Table, Write, entity_key};
use crate::time::UnixMs;

/// The version written, and the newest that is read.
pub const VERSION: u8 = 1;

/// Steps of one row at most.
pub const STEPS_MAX: usize = 65_536;

const STEP_SIZE_MIN: usize = 2 + 32 + 8 + 8 + 4 + 4;
const OUTPUT_SIZE_MIN: usize = 8 + 4;
const STEPS_HEAD_SIZE: usize = 1 + 8 + 8 + 32 + 8 + 32 + 4;
const OUTPUTS_HEAD_SIZE: usize = 1 + 8 + 32 + 4;

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Processed,
    /// It failed too often: its cursor moved, and nothing else.
    PassedOver,
}

/// One step of a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<'a> {
    /// What became of the event.
    pub outcome: Outcome,
    /// Whether a receipt of it is kept.
    pub receipt: bool,
    /// Link of the event.
    pub link: CausalLink,
    /// What it belongs to at its receiver.
    pub stream: u64,
    /// When it came in, in nanoseconds since 1970.
    pub received_ns: u64,
    /// Its payload.
    pub payload: &'a [u8],
    /// Outputs that it caused.
    pub outputs: u32,
    /// Digest of the chain after it.
    pub digest: Digest,
}

/// How far the journal of a daemon has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Number of the last step.
    pub step: u64,
    /// What binds all rows of steps so far.
    pub binding: Digest,
    /// Last output.
    pub sequence: u64,
    /// Digest of the chain there.
    pub digest: Digest,
}

impl Mark {
    /// Before the first step of a daemon whose chain is at `sequence`, with this digest.
    #[must_use]
    pub fn start(entity: &EntityId, sequence: u64, digest: Digest) -> Self {
        Self {
            step: 0,
            binding: digest::derive(Context::JournalGenesis, &[entity.as_bytes()]),
            sequence,
            digest,
        }
    }
}

/// Steps and outputs that are not submitted yet, in the form in which they are kept.
#[derive(Debug, Clone)]
pub struct Pending {
    entity: EntityId,
    mark: Mark,
    epoch: u64,
    steps: Vec<u8>,
    steps_count: u32,
    outputs: Vec<u8>,
    outputs_count: u32,
    outputs_before: (u64, Digest),
    others: Vec<Write>,
}

impl Pending {
    /// Goes on after `mark`.
    #[must_use]
    pub const fn after(entity: EntityId, mark: Mark, epoch: u64) -> Self {
        Self {
            entity,
            mark,
            epoch,
            steps: Vec::new(),
            steps_count: 0,
            outputs: Vec::new(),
            outputs_count: 0,
            outputs_before: (mark.sequence, mark.digest),
            others: Vec::new(),
        }
    }

    /// How far it has come. Its binding is that of the rows that were taken.
    #[must_use]
    pub const fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Whether there is nothing to take.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.steps_count == 0 && self.others.is_empty()
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let others: usize = self.others.iter().map(Write::encoded_len).sum();
        self.steps.len() + self.outputs.len() + others
    }

    /// Whether the row is full: it must be taken before one more step.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.steps_count as usize >= STEPS_MAX
    }

    /// Adds an output of the step that is added next.
    pub fn output(&mut self, link: &CausalLink, payload: &[u8]) {
        self.outputs.put_u64(link.horizon);
        self.outputs.put_count_u32(payload.len());
        self.outputs.put(payload);
        self.outputs_count += 1;
    }

    /// Adds a step, after its outputs.
    ///
    /// # Panics
    /// If as many steps wait as a row holds, or their outputs were not added.
    pub fn step(&mut self, step: &Step<'_>) {
        assert!(!self.is_full(), "who adds steps takes a full row first");
        let sequence = self.mark.sequence + u64::from(step.outputs);
        let added = self.outputs_before.0 + u64::from(self.outputs_count);
        assert_eq!(sequence, added, "outputs are added before their step");
        put_step(step, &mut self.steps);
        self.steps_count += 1;
        self.mark.step += 1;
        self.mark.sequence = sequence;
        self.mark.digest = step.digest;
    }

    /// Adds a row that must be there when the steps are, and not before.
    pub fn also(&mut self, write: Write) {
        self.others.push(write);
    }

    /// Goes on in a later epoch. What waits was done in the earlier one, and must be taken before.
    ///
    /// # Panics
    /// If steps wait.
    pub fn enter_epoch(&mut self, epoch: u64) {
        assert_eq!(self.steps_count, 0, "steps of one row are of one epoch");
        self.epoch = epoch;
    }

    /// Takes everything that waits, as one batch.
    #[must_use]
    pub fn take(&mut self) -> Vec<Write> {
        let mut writes = std::mem::take(&mut self.others);
        if self.steps_count == 0 {
            return writes;
        }
        let first = self.mark.step + 1 - u64::from(self.steps_count);
        let mut row = Vec::with_capacity(STEPS_HEAD_SIZE + self.steps.len() + 32);
        row.put_u8(VERSION);
        row.put_u64(self.epoch);
        row.put_u64(first);
        row.put(self.mark.binding.as_bytes());
        row.put_u64(self.outputs_before.0);
        row.put(self.outputs_before.1.as_bytes());
        row.put_u32(self.steps_count);
        row.put(&self.steps);
        self.mark.binding = bind(&self.mark.binding, &row);
        row.put(self.mark.binding.as_bytes());
        writes.push(Write::put(Table::Journal, entity_key(&self.entity, [first]), row));
        if self.outputs_count > 0 {
            let first = self.outputs_before.0 + 1;
            let mut row = Vec::with_capacity(OUTPUTS_HEAD_SIZE + self.outputs.len() + 32);
            row.put_u8(VERSION);
            row.put_u64(first);
            row.put(self.outputs_before.1.as_bytes());
            row.put_u32(self.outputs_count);
            row.put(&self.outputs);
            row.put(self.mark.digest.as_bytes());
            writes.push(Write::put(Table::Outputs, entity_key(&self.entity, [first]), row));
        }
        self.steps.clear();
        self.outputs.clear();
        (self.steps_count, self.outputs_count) = (0, 0);
        self.outputs_before = (self.mark.sequence, self.mark.digest);
        writes
    }
}

fn bind(before: &Digest, row: &[u8]) -> Digest {
    digest::derive(Context::JournalSteps, &[before.as_bytes(), row])
}

fn put_step(step: &Step<'_>, out: &mut Vec<u8>) {
    out.put_u8(match step.outcome {
        Outcome::Processed => 1,
        Outcome::PassedOver => 2,
    });
    out.put_u8(u8::from(step.receipt));
    out.put(&step.link.to_bytes());
    out.put_u64(step.stream);
    out.put_u64(step.received_ns);
    out.put_u32(step.outputs);
    if step.outputs > 0 {
        out.put(step.digest.as_bytes());
    }
    out.put_count_u32(step.payload.len());
    out.put(step.payload);
}

/// A row of steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steps<'a> {
    /// Epoch of the owner that took them.
    pub epoch: u64,
    /// Number of the first.
    pub first: u64,
    /// Where the journal was before them.
    pub before: Mark,
    /// Where it is after them.
    pub after: Mark,
    /// The steps.
    pub steps: Vec<Step<'a>>,
}

impl<'a> Steps<'a> {
    /// Reads a row. That its binding fits the row is checked; that it follows on what came before is for its reader.
    ///
    /// # Errors
    /// [`Fault::NewerVersion`] first, then [`Fault::Digest`] when the binding does not fit, then the first bad field.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version_u8(VERSION)?;
        let epoch = reader.u64()?;
        let at_first = reader.clone();
        let first = reader.u64()?;
        let binding = Digest::from_bytes(reader.array()?);
        let (sequence, digest) = (reader.u64()?, Digest::from_bytes(reader.array()?));
        let Some((row, closing)) = bytes.split_last_chunk::<32>() else {
            return Err(reader.fault(Fault::Truncated { needed: 32 }));
        };
        let bound = bind(&binding, row);
        if bound.as_bytes() != closing {
            return Err(DecodeError {
                offset: row.len() as u64,
                fault: Fault::Digest,
            });
        }
        let at_count = reader.clone();
        let count = reader.count_below(STEP_SIZE_MIN, STEPS_MAX)?;
        let last = first.checked_sub(1).and_then(|before| before.checked_add(count as u64));
        let Some(last) = last.filter(|_| epoch > 0) else {
            return Err(at_first.fault(Fault::Invalid { field: "first step" }));
        };
        if count == 0 {
            return Err(at_count.fault(Fault::Invalid { field: "count" }));
        }
        let before = Mark {
            step: first - 1,
            binding,
            sequence,
            digest,
        };
        let mut after = before;
        let mut steps = Vec::with_capacity(count);
        for _ in 0..count {
            let at = reader.clone();
            let step = read_step(&mut reader, after.digest)?;
            let Some(sequence) = after.sequence.checked_add(u64::from(step.outputs)) else {
                return Err(at.fault(Fault::Invalid { field: "outputs" }));
            };
            (after.sequence, after.digest) = (sequence, step.digest);
            steps.push(step);
        }
        reader.take(32)?;
        reader.expect_end()?;
        (after.step, after.binding) = (last, bound);
        Ok(Self {
            epoch,
            first,
            before,
            after,
            steps,
        })
    }
}

fn read_step<'a>(reader: &mut Reader<'a>, before: Digest) -> Result<Step<'a>, DecodeError> {
    let at = reader.clone();
    let outcome = match reader.u8()? {
        1 => Outcome::Processed,
        2 => Outcome::PassedOver,
        _ => return Err(at.fault(Fault::Invalid { field: "outcome" })),
    };
    let at = reader.clone();
    let receipt = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return Err(at.fault(Fault::Invalid { field: "receipt" })),
    };
    let link = CausalLink::read(reader)?;
    let (stream, received_ns) = (reader.u64()?, reader.u64()?);
    let at = reader.clone();
    let outputs = reader.u32()?;
    if outputs > 0 && outcome == Outcome::PassedOver {
        return Err(at.fault(Fault::Invalid { field: "outputs" }));
    }
    let digest = if outputs > 0 {
        Digest::from_bytes(reader.array()?)
    } else {
        before
    };
    let length = reader.count_u32(1)?;
    Ok(Step {
        outcome,
        receipt,
        link,
        stream,
        received_ns,
        payload: reader.take(length)?,
        outputs,
        digest,
    })
}

/// A row of outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted<'a> {
    /// The outputs, with their links.
    pub outputs: Vec<(CausalLink, &'a [u8])>,
    /// Digest of the chain before the first.
    pub before: Digest,
    /// Digest of the chain after the last.
    pub after: Digest,
}

impl<'a> Emitted<'a> {
    /// Reads a row of outputs of a chain. Links are made again, and the digest after the last must be the one written.
    ///
    /// # Errors
    /// [`Fault::Digest`] when it is not; otherwise the first bad field.
    pub fn decode(origin: Origin, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version_u8(VERSION)?;
        let at_first = reader.clone();
        let first = reader.u64()?;
        let before = Digest::from_bytes(reader.array()?);
        let at_count = reader.clone();
        let count = reader.count_u32(OUTPUT_SIZE_MIN)?;
        if count == 0 {
            return Err(at_count.fault(Fault::Invalid { field: "count" }));
        }
        if first == 0 || first.checked_add(count as u64).is_none() {
            return Err(at_first.fault(Fault::Invalid { field: "sequence" }));
        }
        let mut after = before;
        let mut outputs = Vec::with_capacity(count);
        for sequence in first..first + count as u64 {
            let link = CausalLink {
                origin,
                horizon: reader.u64()?,
                sequence,
                parent: after.head8(),
            };
            let length = reader.count_u32(1)?;
            let payload = reader.take(length)?;
            after = digest::event(&after, &link.to_bytes(), payload);
            outputs.push((link, payload));
        }
        let at = reader.clone();
        if reader.array()? != *after.as_bytes() {
            return Err(at.fault(Fault::Digest));
        }
        reader.expect_end()?;
        Ok(Self { outputs, before, after })
    }
}

/// Where a row of outputs says that it begins and ends. Neither is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputBounds {
    /// Sequence of the first output.
    pub first: u64,
    /// Sequence of the last.
    pub last: u64,
    /// Digest of the chain before the first.
    pub before: Digest,
    /// Digest of the chain after the last.
    pub after: Digest,
}

impl OutputBounds {
    /// Reads them from both ends of a row, whatever is between.
    ///
    /// # Errors
    /// A [`DecodeError`] for the first field that no writer writes.
    pub fn read(row: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(row);
        reader.version_u8(VERSION)?;
        let at_first = reader.clone();
        let first = reader.u64()?;
        let before = Digest::from_bytes(reader.array()?);
        let at_count = reader.clone();
        let count = reader.count_u32(OUTPUT_SIZE_MIN)?;
        if count == 0 {
            return Err(at_count.fault(Fault::Invalid { field: "count" }));
        }
        let last = first.checked_sub(1).and_then(|before| before.checked_add(count as u64));
        let Some(last) = last else {
            return Err(at_first.fault(Fault::Invalid { field: "sequence" }));
        };
        let Some((_, after)) = row.split_last_chunk::<32>() else {
            return Err(reader.fault(Fault::Truncated { needed: 32 }));
        };
        Ok(Self {
            first,
            last,
            before,
            after: Digest::from_bytes(*after),
        })
    }
}

/// The row that keeps outputs which follow on each other, the first after the digest `before`. Nothing is kept of none.
#[must_use]
pub fn outputs_row(entity: &EntityId, before: &Digest, outputs: &[(CausalLink, &[u8])]) -> Option<Write> {
    let (first, _) = outputs.first()?;
    let mut row = Vec::new();
    row.put_u8(VERSION);
    row.put_u64(first.sequence);
    row.put(before.as_bytes());
    row.put_count_u32(outputs.len());
    let mut after = *before;
    for (link, payload) in outputs {
        row.put_u64(link.horizon);
        row.put_count_u32(payload.len());
        row.put(payload);
        after = digest::event(&after, &link.to_bytes(), payload);
    }
    row.put(after.as_bytes());
    Some(Write::put(Table::Outputs, entity_key(entity, [first.sequence]), row))
}

/// How many outputs a row of outputs says that it has, which is all that is looked at.
#[must_use]
pub fn outputs_in(row: &[u8]) -> Option<u32> {
    let count = row.get(OUTPUTS_HEAD_SIZE - 4..OUTPUTS_HEAD_SIZE)?;
    Some(u32::from_le_bytes(count.try_into().ok()?))
}

/// Where the snapshot of a daemon is, and of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotRow {
    /// Name of its file: the digest of what is in it.
    pub name: Digest,
    /// Bytes of the file.
    pub size: u64,
    /// Where journal and chain were.
    pub mark: Mark,
    /// Events that had taken effect.
    pub processed: u64,
    /// Epoch of the owner that took it.
    pub epoch: u64,
    /// When it was taken.
    pub taken_at: UnixMs,
}

impl SnapshotRow {
    /// Bytes of its encoding.
    pub const SIZE: usize = 1 + 32 + 8 + 8 + 32 + 8 + 8 + 8 + 32 + 8 + 4;

    /// The row of a store that says so.
    #[must_use]
    pub fn write(&self, entity: &EntityId) -> Write {
        Write::put(Table::Snapshots, entity_key(entity, [self.mark.step]), self.to_bytes())
    }

    /// The one encoding.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::SIZE);
        bytes.put_u8(VERSION);
        bytes.put(self.name.as_bytes());
        bytes.put_u64(self.size);
        bytes.put_u64(self.mark.step);
        bytes.put(self.mark.binding.as_bytes());
        bytes.put_u64(self.processed);
        bytes.put_u64(self.epoch);
        bytes.put_u64(self.mark.sequence);
        bytes.put(self.mark.digest.as_bytes());
        bytes.put_u64(self.taken_at.get());
        bytes.put_u32(crc32fast::hash(&bytes));
        bytes
    }

    /// Reads exactly one row.
    ///
    /// # Errors
    /// [`Fault::Digest`] when the sum does not fit; otherwise the first bad field.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version_u8(VERSION)?;
        let name = Digest::from_bytes(reader.array()?);
        let size = reader.u64()?;
        let (step, binding) = (reader.u64()?, Digest::from_bytes(reader.array()?));
        let (processed, epoch) = (reader.u64()?, reader.u64()?);
        let (sequence, digest) = (reader.u64()?, Digest::from_bytes(reader.array()?));
        let taken_at = UnixMs::new(reader.u64()?);
        let at = reader.clone();
        if reader.u32()? != crc32fast::hash(&bytes[..Self::SIZE - 4]) {
            return Err(at.fault(Fault::Digest));
        }
        reader.expect_end()?;
        Ok(Self {
            name,
            size,
            mark: Mark {
                step,
                binding,
                sequence,
                digest,
            },
            processed,
            epoch,
            taken_at,
        })
    }
}

/// What is wrong with what a store has of a daemon, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Damage {
    /// A row cannot be read.
    #[error("{entity}, step {step}: {error}")]
    Unreadable {
        /// Whose row it is.
        entity: EntityId,
        /// Number of its first step.
        step: u64,
        /// Where in it, and why.
        error: DecodeError,
    },
    /// A row does not follow on the one before it.
    #[error("{entity}, step {step}: it does not follow on the steps before it")]
    Unbound {
        /// Whose row it is.
        entity: EntityId,
        /// Number of its first step.
        step: u64,
    },
    /// Steps are missing.
    #[error("{entity}: steps from {step} on are missing, the next is {found}")]
    Gap {
        /// Whose they are.
        entity: EntityId,
        /// The first that is not there.
        step: u64,
        /// The first that is.
        found: u64,
    },
    /// No snapshot is whole, and the steps do not reach back to the first.
    #[error("{entity}: none of {snapshots} snapshots is whole, and the first step kept is {found:?}")]
    NoBeginning {
        /// Whose they are.
        entity: EntityId,
        /// Snapshots that the store has of it.
        snapshots: u32,
        /// First step that is there.
        found: Option<u64>,
    },
}
