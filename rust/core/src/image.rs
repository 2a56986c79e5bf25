//! The image of a daemon that moves: its snapshot, and what else of it a store has.
//!
//! ```text
//! whole  version u8 = 1 | tag u8 = 1 | length u16, stored daemon | identity u8 (0, 1) | if 1: sealed identity 80
//!        | length u64, rows | snapshot
//! since  version u8 = 1 | tag u8 = 2 | name of a whole image, the copy 32 | the rest as in a whole one, with an empty state
//! ```
//! Numbers are little endian. The stored daemon is as in [`stored`](crate::stored), as one that runs, and without a key; the
//! identity as in [`seal`]; rows are as in [`rows`], the snapshot is as in [`snapshot`].
//!
//! An image of what came since a copy has the rows of all steps since, and of their outputs: the steps are numbered from 1, and
//! are bound from [`Mark::start`](crate::journal::Mark::start) at the copy. Everything else in it is as of the end. The outputs
//! before are in the copy.
//!
//! An image is named by [`digest::plain`] of it, which its readers compare before they read anything.
//!
//! Invariants
//! * An image has one encoding. What is read back is what was written, or it is refused.
//! * Rows are of the daemon, in tables that travel, put and not removed, ascending by table and key.
//! * The state stands next to the end, so that neither who writes nor who reads has to copy it.

pub mod seal;

use std::ops::Range;

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::digest::{self, Digest};
use crate::id::EntityId;
use crate::rows::{self, Table, Write, of_entity_key};
use crate::snapshot::{self, SnapshotMeta};
use crate::stored::StoredDaemon;

use seal::SealedIdentity;

/// The version written, and the newest that is read.
pub const VERSION: u8 = 1;

const WHOLE: u8 = 1;
const SINCE: u8 = 2;

/// What travels beside a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baggage {
    /// The image that this one goes on from; `None`: it is whole.
    pub copy: Option<Digest>,
    /// Its kind and its options.
    pub stored: StoredDaemon,
    /// Its key, which the target alone can open; `None`: it stays.
    pub identity: Option<SealedIdentity>,
    /// Outputs, checkpoints, dead letters, outputs that are due, and sources; and steps, since a copy.
    pub rows: Vec<Write>,
}

/// An image, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// What is beside the snapshot.
    pub baggage: Baggage,
    /// Everything of the snapshot but the state.
    pub meta: SnapshotMeta,
    /// Where in the image the state is.
    pub state: Range<usize>,
}

/// Whether rows of a table travel, and how many numbers their keys have.
const fn numbers(table: Table, is_whole: bool) -> Option<usize> {
    match table {
        Table::Journal if !is_whole => Some(1),
        Table::Outputs | Table::DeadLetters | Table::Outbox | Table::Streams => Some(1),
        Table::Checkpoints => Some(2),
        Table::Node
        | Table::Daemons
        | Table::Journal
        | Table::Snapshots
        | Table::Certificates
        | Table::Ownership
        | Table::Trails
        | Table::Moves => None,
    }
}

fn is_of(key: &[u8], entity: &EntityId, numbers: usize) -> bool {
    let of = match numbers {
        1 => of_entity_key::<1>(key).map(|(of, _)| of),
        _ => of_entity_key::<2>(key).map(|(of, _)| of),
    };
    of == Some(*entity)
}

impl Baggage {
    /// Brings the rows into their order.
    pub fn sort(&mut self) {
        self.rows
            .sort_by(|a, b| (a.table.code(), &a.key).cmp(&(b.table.code(), &b.key)));
    }

    /// What stands before the state and what stands behind it.
    ///
    /// # Panics
    /// If there is something in the baggage that does not travel, or its rows are not in their order, or there is a state and
    /// a copy.
    #[must_use]
    pub fn around(&self, meta: &SnapshotMeta, state: &[u8]) -> (Vec<u8>, [u8; 32]) {
        if let Err(field) = self.check(meta, state.len()) {
            panic!("{field}: it does not travel like this");
        }
        let mut out = Vec::new();
        out.put_u8(VERSION);
        match &self.copy {
            None => out.put_u8(WHOLE),
            Some(copy) => {
                out.put_u8(SINCE);
                out.put(copy.as_bytes());
            }
        }
        let stored = self.stored.to_bytes();
        out.put_u16(u16::try_from(stored.len()).expect("a kind has 255 bytes at most"));
        out.put(&stored);
        out.put_u8(u8::from(self.identity.is_some()));
        if let Some(identity) = &self.identity {
            out.put(&identity.to_bytes());
        }
        let length = 4 + self.rows.iter().map(Write::encoded_len).sum::<usize>();
        out.put_u64(length as u64);
        rows::put_all(self.rows.iter(), &mut out);
        let begin = out.len();
        meta.put_before_state(state.len(), &mut out);
        let closing = digest::plain_of_parts(&[&out[begin..], state]);
        (out, *closing.as_bytes())
    }

    /// Gives the first field that no writer writes like this.
    fn check(&self, meta: &SnapshotMeta, state_len: usize) -> Result<(), &'static str> {
        if !self.stored.runs || self.stored.key.is_some() {
            return Err("stored daemon");
        }
        if self.stored.kind != meta.kind {
            return Err("kind");
        }
        let fits = |row: &Write| {
            let numbers = numbers(row.table, self.copy.is_none());
            row.value.is_some() && numbers.is_some_and(|numbers| is_of(&row.key, &meta.entity, numbers))
        };
        let ascends = |pair: &[Write]| (pair[0].table, &pair[0].key) < (pair[1].table, &pair[1].key);
        if !self.rows.iter().all(fits) || !self.rows.windows(2).all(ascends) {
            return Err("rows");
        }
        if self.copy.is_some() && state_len > 0 {
            return Err("state");
        }
        Ok(())
    }
}

/// Reads exactly one image. That it has the digest by which it is named is not checked; that of the snapshot is.
///
/// # Errors
/// A [`DecodeError`] for the first field that no writer writes; what does not fit together is a fault of its field.
pub fn decode(bytes: &[u8]) -> Result<Unpacked, DecodeError> {
    let mut reader = Reader::new(bytes);
    let parts = Parts::read(&mut reader)?;
    let Parts {
        copy,
        stored,
        identity,
        rows,
    } = parts;
    let read = StoredDaemon::decode(stored.1).map_err(|error| behind(error, stored.0))?;
    if read.to_bytes() != stored.1 {
        return Err(invalid(stored.0, "stored daemon"));
    }
    let baggage = Baggage {
        copy,
        stored: read,
        identity,
        rows: rows::read_all(rows.1, rows.0)?,
    };
    let (begin, rest) = (reader.offset(), reader.take(reader.remaining())?);
    let (meta, state) = snapshot::decode(rest, u64::MAX).map_err(|error| behind(error, begin))?;
    let at_snapshot = begin;
    let begin = bytes.len() - rest.len();
    baggage.check(&meta, state.len()).map_err(|field| {
        let at = match field {
            "rows" => rows.0,
            "state" => at_snapshot + state.start as u64,
            _ => stored.0,
        };
        invalid(at, field)
    })?;
    Ok(Unpacked {
        baggage,
        meta,
        state: begin + state.start..begin + state.end,
    })
}

/// Reads the snapshot in what a row of [`Table::Snapshots`] names: a snapshot, or the image in which the daemon came. Gives
/// everything but the state, and where in `bytes` the state is.
///
/// # Errors
/// A [`DecodeError`].
pub fn read_snapshot(bytes: &[u8], bytes_max: u64) -> Result<(SnapshotMeta, Range<usize>), DecodeError> {
    if bytes.first() != Some(&VERSION) {
        return snapshot::decode(bytes, bytes_max);
    }
    if copy_of(bytes).is_some() {
        return Err(invalid(1, "tag"));
    }
    let begin = snapshot_at(bytes)?;
    let snapshot = snapshot::decode(&bytes[begin..], bytes_max);
    let (meta, state) = snapshot.map_err(|error| behind(error, begin as u64))?;
    Ok((meta, begin + state.start..begin + state.end))
}

/// The image that an image goes on from, which is all that is looked at; `None`: it is whole, or none at all.
#[must_use]
pub fn copy_of(bytes: &[u8]) -> Option<Digest> {
    let rest = bytes.strip_prefix(&[VERSION, SINCE])?;
    rest.first_chunk().map(|copy| Digest::from_bytes(*copy))
}

/// Where in an image its snapshot begins.
///
/// # Errors
/// A [`DecodeError`].
pub fn snapshot_at(bytes: &[u8]) -> Result<usize, DecodeError> {
    let mut reader = Reader::new(bytes);
    Parts::read(&mut reader)?;
    Ok(bytes.len() - reader.remaining())
}

/// What stands before the snapshot, each with where it begins.
struct Parts<'a> {
    copy: Option<Digest>,
    stored: (u64, &'a [u8]),
    identity: Option<SealedIdentity>,
    rows: (u64, &'a [u8]),
}

impl<'a> Parts<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.version_u8(VERSION)?;
        let at = reader.clone();
        let copy = match reader.u8()? {
            WHOLE => None,
            SINCE => Some(Digest::from_bytes(reader.array()?)),
            _ => return Err(at.fault(Fault::Invalid { field: "tag" })),
        };
        let length = usize::from(reader.u16()?);
        let stored = (reader.offset(), reader.take(length)?);
        let at = reader.clone();
        let identity = match reader.u8()? {
            0 => None,
            1 => Some(SealedIdentity::from_bytes(&reader.array()?)),
            _ => return Err(at.fault(Fault::Invalid { field: "identity" })),
        };
        let length = reader.u64()?;
        let rows = (reader.offset(), reader.take_long(length)?);
        Ok(Self {
            copy,
            stored,
            identity,
            rows,
        })
    }
}

fn behind(error: DecodeError, base: u64) -> DecodeError {
    DecodeError {
        offset: base + error.offset,
        ..error
    }
}

const fn invalid(offset: u64, field: &'static str) -> DecodeError {
    DecodeError {
        offset,
        fault: Fault::Invalid { field },
    }
}
