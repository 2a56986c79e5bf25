//! Rows of a store, and what changes them.
//!
//! Invariants
//! * A row is named by its table and its key; keys of a table are ordered by their bytes, so numbers in them are big
//!   endian.
//! * Writes have one encoding. What is read back is what was written, or it is refused.
//!
//! ```text
//! count u32, then each write: table u8 | key length u8 | key | mark u8 (0: removed, 1: put) | if put: length u32 | value
//! ```

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::id::EntityId;

/// Longest key.
pub const KEY_BYTES_MAX: usize = 255;

/// Longest value.
pub const VALUE_BYTES_MAX: usize = 1 << 30;

/// Bytes of a write without key and value, at least.
const WRITE_SIZE_MIN: usize = 3;

/// What rows are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// The node: its identity, its runs. Key: a name.
    Node = 1,
    /// What is known of each daemon. Key: entity.
    Daemons = 2,
    /// Steps of daemons. Key: entity, number of the first step.
    Journal = 3,
    /// Outputs of daemons. Key: entity, sequence of the first output.
    Outputs = 4,
    /// Snapshots of daemons. Key: entity, step.
    Snapshots = 5,
    /// Checkpoints. Key: entity, epoch, sequence.
    Checkpoints = 6,
    /// Certificates. Key: entity, epoch.
    Certificates = 7,
    /// Records of ownership. Key: entity, epoch.
    Ownership = 8,
    /// Events that failed too often. Key: entity, number.
    DeadLetters = 9,
    /// Records of commands, lines, failures and ends of actions. Key: kind, number.
    Trails = 10,
    /// Outputs that are due to other daemons. Key: entity, sequence of the output.
    Outbox = 11,
    /// What the streams of daemons are that come from channels, and their ledgers. Key: entity, stream.
    Streams = 12,
    /// What moves of daemons have decided. Key: entity, role, migration id.
    Moves = 13,
}

impl Table {
    /// All tables, by their codes.
    pub const ALL: [Self; 13] = [
        Self::Node,
        Self::Daemons,
        Self::Journal,
        Self::Outputs,
        Self::Snapshots,
        Self::Checkpoints,
        Self::Certificates,
        Self::Ownership,
        Self::DeadLetters,
        Self::Trails,
        Self::Outbox,
        Self::Streams,
        Self::Moves,
    ];

    /// Its number in files.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The table of a number.
    #[must_use]
    pub fn of(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }
}

/// One row put or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Its table.
    pub table: Table,
    /// Its key, at most [`KEY_BYTES_MAX`].
    pub key: Vec<u8>,
    /// Its value, at most [`VALUE_BYTES_MAX`]; `None`: the row goes.
    pub value: Option<Vec<u8>>,
}

impl Write {
    /// Puts a row in the place of whatever has its key.
    #[must_use]
    pub const fn put(table: Table, key: Vec<u8>, value: Vec<u8>) -> Self {
        Self {
            table,
            key,
            value: Some(value),
        }
    }

    /// Removes a row, if it is there.
    #[must_use]
    pub const fn remove(table: Table, key: Vec<u8>) -> Self {
        Self {
            table,
            key,
            value: None,
        }
    }

    /// Bytes of its encoding.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        WRITE_SIZE_MIN + self.key.len() + self.value.as_ref().map_or(0, |value| 4 + value.len())
    }

    /// Whether it can be written: its key and its value are not too long.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.key.len() <= KEY_BYTES_MAX && self.value.as_ref().is_none_or(|value| value.len() <= VALUE_BYTES_MAX)
    }

    /// Appends its encoding.
    ///
    /// # Panics
    /// If it does not [fit](Self::fits); a store checks that where a batch comes in.
    pub fn put_into(&self, out: &mut Vec<u8>) {
        out.put_u8(self.table.code());
        out.put_u8(u8::try_from(self.key.len()).expect("keys are bounded where a batch comes in"));
        out.put(&self.key);
        out.put_u8(u8::from(self.value.is_some()));
        if let Some(value) = &self.value {
            out.put_count_u32(value.len());
            out.put(value);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = reader.clone();
        let table = Table::of(reader.u8()?).ok_or_else(|| at.fault(Fault::Invalid { field: "table" }))?;
        let length = usize::from(reader.u8()?);
        let key = reader.take(length)?.to_vec();
        let at = reader.clone();
        let value = match reader.u8()? {
            0 => None,
            1 => {
                let length = reader.count_below(1, VALUE_BYTES_MAX)?;
                Some(reader.take(length)?.to_vec())
            }
            _ => return Err(at.fault(Fault::Invalid { field: "mark" })),
        };
        Ok(Self { table, key, value })
    }
}

/// Appends many writes.
///
/// # Panics
/// If one does not [fit](Write::fits).
pub fn put_all<'a>(writes: impl ExactSizeIterator<Item = &'a Write>, out: &mut Vec<u8>) {
    out.put_count_u32(writes.len());
    writes.for_each(|write| write.put_into(out));
}

/// Reads many writes, and nothing behind them; `base_offset` is where `bytes` begin in the whole input.
///
/// # Errors
/// A [`DecodeError`] for the first field that no writer writes.
pub fn read_all(bytes: &[u8], base_offset: u64) -> Result<Vec<Write>, DecodeError> {
    let mut reader = Reader::with_base(bytes, base_offset);
    let count = reader.count_u32(WRITE_SIZE_MIN)?;
    // A write is larger in memory than its shortest encoding.
    let mut writes = Vec::with_capacity(count.min(bytes.len() / size_of::<Write>()));
    for _ in 0..count {
        writes.push(Write::read(&mut reader)?);
    }
    reader.expect_end()?;
    Ok(writes)
}

/// Rows of one table from a key on, up to and without another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// First key that may be in it.
    pub from: Vec<u8>,
    /// First key that is not; `None`: there is no end.
    pub until: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every row.
    #[must_use]
    pub const fn all() -> Self {
        Self {
            from: Vec::new(),
            until: None,
        }
    }

    /// The rows whose keys begin like this.
    #[must_use]
    pub fn beginning_with(prefix: &[u8]) -> Self {
        let mut until = prefix.to_vec();
        while until.last() == Some(&u8::MAX) {
            until.pop();
        }
        let until = until.last_mut().map(|last| *last += 1).map(|()| until.clone());
        Self {
            from: prefix.to_vec(),
            until,
        }
    }

    /// The same rows, but only those after `key`.
    #[must_use]
    pub fn after(mut self, key: &[u8]) -> Self {
        let mut from = key.to_vec();
        from.push(0);
        if from > self.from {
            self.from = from;
        }
        self
    }

    /// Whether a key is in it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.from.as_slice() && self.until.as_deref().is_none_or(|until| key < until)
    }

    /// Whether no key can be in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.until.as_deref().is_some_and(|until| until <= self.from.as_slice())
    }
}

/// Key of a row of an entity: the entity, then numbers in their order.
#[must_use]
pub fn entity_key<const N: usize>(entity: &EntityId, numbers: [u64; N]) -> Vec<u8> {
    let mut key = Vec::with_capacity(32 + 8 * N);
    key.put(entity.as_bytes());
    for number in numbers {
        key.put(&number.to_be_bytes());
    }
    key
}

/// The entity and the numbers of a key, if it is one of `N` numbers.
#[must_use]
pub fn of_entity_key<const N: usize>(key: &[u8]) -> Option<(EntityId, [u64; N])> {
    let (entity, rest) = key.split_first_chunk::<32>()?;
    let (numbers, []) = rest.as_chunks::<8>() else {
        return None;
    };
    let numbers: [[u8; 8]; N] = numbers.try_into().ok()?;
    Some((EntityId::from_bytes(*entity), numbers.map(u64::from_be_bytes)))
}
