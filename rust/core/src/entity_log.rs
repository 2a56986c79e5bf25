//! What an entity emitted, as a store has it: from any place on, in pages, and how certain it is.
//!
//! Invariants
//! * An event is found by its key: one row is read, however long the log is. Nothing is read from the beginning on, except
//!   by [`EntityLog::assess`], which goes over everything.
//! * A reader holds one page of rows and one row of events, whatever it reads.
//! * What is read was hashed and follows on what was read before it. Damage is an error with its place.
//! * An event is appended only if it follows on the head. An event at or below the head is a duplicate, also when the log
//!   has no event any more.
//! * Entities are told apart by their public keys. A handle only finds candidates.

mod assess;
mod events;
mod index;
mod prune;

use std::collections::VecDeque;

use thiserror::Error;

use crate::chain::{BrokenKind, ChainError};
use crate::continuity::{Genesis, Point};
use crate::digest::{self, Digest};
use crate::id::{EntityId, Origin};
use crate::journal::{Emitted, OutputBounds, SnapshotRow, Steps, outputs_row};
use crate::link::CausalLink;
use crate::rows::{KeyRange, Table, Write, entity_key, of_entity_key};
use crate::store::{Damage, Row, Store, StoreError};

pub use events::{Cursor, Events};
pub use index::{Entities, LogIndex};
pub use prune::{PruneError, Pruning};

/// An event of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its link.
    pub link: CausalLink,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Why a log could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LogError {
    /// The store cannot be read, or what it has is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Signed records do not hold, or events were let go while they were read.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// Why an event was not appended. The log is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AppendError {
    /// It does not follow on the head: it is of another origin, leaves a gap, or names another parent.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The log had an event of this sequence already, or has it now.
    #[error("origin {origin}: event {sequence} is a duplicate, the head is {head}")]
    Duplicate {
        /// Owner of the log.
        origin: Origin,
        /// Sequence of the event.
        sequence: u64,
        /// Sequence of the head.
        head: u64,
    },
}

/// An event that is not in the store, and the digest after it.
#[derive(Debug, Clone)]
struct Appended {
    event: Event,
    digest: Digest,
}

/// The log of one entity: what a store had of it when it was opened, and what was appended since.
pub struct EntityLog<'s> {
    store: Option<&'s dyn Store>,
    genesis: Genesis,
    origin: Origin,
    base: Point,
    /// Where what the store has ends.
    stored: Point,
    appended: VecDeque<Appended>,
}

impl<'s> EntityLog<'s> {
    /// An empty log in memory, at its genesis.
    #[must_use]
    pub fn new(genesis: Genesis) -> Self {
        Self::after(genesis, genesis.point())
    }

    /// An empty log in memory that goes on after a point; what came before was let go.
    #[must_use]
    pub fn after(genesis: Genesis, base: Point) -> Self {
        Self {
            store: None,
            genesis,
            origin: genesis.entity().origin(),
            base,
            stored: base,
            appended: VecDeque::new(),
        }
    }

    /// The log of an entity in a store. Two rows are looked at, whatever the store has of it.
    ///
    /// # Errors
    /// [`StoreError`]: it cannot be read, or one of those rows is damaged.
    pub fn open(store: &'s dyn Store, genesis: Genesis) -> Result<Self, StoreError> {
        let entity = genesis.entity();
        let own = KeyRange::beginning_with(entity.as_bytes());
        let mut newest = store.last(Table::Outputs, &own)?;
        let mut end = None;
        if newest.is_none() {
            // All that there was, if there was any, is let go. What comes meanwhile comes after the journal was read.
            end = end_of_journal(store, &entity)?;
            newest = store.last(Table::Outputs, &own)?;
        }
        let (base, stored) = match newest {
            Some(newest) => {
                let oldest = store.page(Table::Outputs, &own, 1)?;
                let oldest = bounds(&entity, oldest.first().unwrap_or(&newest))?;
                let newest = bounds(&entity, &newest)?;
                let base = Point {
                    sequence: oldest.first - 1,
                    digest: oldest.before,
                };
                let stored = Point {
                    sequence: newest.last,
                    digest: newest.after,
                };
                (base, stored)
            }
            None => {
                let end = end.unwrap_or_else(|| genesis.point());
                (end, end)
            }
        };
        Ok(Self {
            store: Some(store),
            base,
            stored,
            ..Self::new(genesis)
        })
    }

    /// Whose it is.
    #[must_use]
    pub const fn entity(&self) -> EntityId {
        self.genesis.entity()
    }

    /// Handle of the entity.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// Where the chain begins, of which the log may have a later part.
    #[must_use]
    pub const fn genesis(&self) -> Genesis {
        self.genesis
    }

    /// Before the first event that it has.
    #[must_use]
    pub const fn base(&self) -> Point {
        self.base
    }

    /// After the last event. The same as [`EntityLog::base`] if it has none.
    #[must_use]
    pub fn head(&self) -> Point {
        self.appended.back().map_or(self.stored, |last| Point {
            sequence: last.event.link.sequence,
            digest: last.digest,
        })
    }

    /// How many events it has.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.head().sequence - self.base.sequence
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The event of a sequence; `None`: the log does not have it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn event(&self, sequence: u64) -> Result<Option<Event>, StoreError> {
        if let Some(appended) = self.appended_at(sequence) {
            return Ok(Some(appended.event.clone()));
        }
        let Some(row) = self.row_of(sequence)? else {
            return Ok(None);
        };
        let emitted = emitted(&self.entity(), self.origin, &row)?;
        let event = emitted.outputs.iter().find(|(link, _)| link.sequence == sequence);
        Ok(event.map(|(link, payload)| Event {
            link: *link,
            payload: payload.to_vec(),
        }))
    }

    /// The digest of the chain after an event, or at the base; `None`: the log does not know it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn digest_at(&self, sequence: u64) -> Result<Option<Digest>, StoreError> {
        if sequence == self.base.sequence {
            return Ok(Some(self.base.digest));
        }
        if let Some(appended) = self.appended_at(sequence) {
            return Ok(Some(appended.digest));
        }
        let Some(row) = self.row_of(sequence)? else {
            return Ok(None);
        };
        let emitted = emitted(&self.entity(), self.origin, &row)?;
        let upto = emitted.outputs.iter().take_while(|(link, _)| link.sequence <= sequence);
        Ok(Some(upto.fold(emitted.before, |before, (link, payload)| {
            digest::event(&before, &link.to_bytes(), payload)
        })))
    }

    /// The events from `first` to `last`, both included, as far as the log has them.
    #[must_use]
    pub fn range(&self, first: u64, last: u64) -> Events<'_> {
        Events::of(self, first, last)
    }

    /// The events behind `sequence`.
    #[must_use]
    pub fn after_event(&self, sequence: u64) -> Events<'_> {
        match sequence.checked_add(1) {
            Some(first) => Events::of(self, first, u64::MAX),
            None => Events::of(self, u64::MAX, 0),
        }
    }

    /// Appends an event that follows on the head, and returns the digest after it. It is in memory only; see
    /// [`EntityLog::writes`].
    ///
    /// # Errors
    /// [`AppendError`], in this order: another origin, a duplicate, a gap, another parent.
    pub fn append(&mut self, link: CausalLink, payload: Vec<u8>) -> Result<Digest, AppendError> {
        let (origin, head) = (self.origin, self.head());
        let broken = |kind, expected, found| {
            AppendError::Chain(ChainError::Broken {
                kind,
                origin,
                sequence: link.sequence,
                expected,
                found,
            })
        };
        if link.origin != origin {
            return Err(broken(BrokenKind::WrongOrigin, origin.get(), link.origin.get()));
        }
        // The genesis is virtual, and every log has it.
        if link.sequence <= head.sequence {
            return Err(AppendError::Duplicate {
                origin,
                sequence: link.sequence,
                head: head.sequence,
            });
        }
        let next = head.sequence + 1;
        if link.sequence != next {
            return Err(broken(BrokenKind::Gap, next, link.sequence));
        }
        if link.parent != head.digest.head8() {
            return Err(broken(BrokenKind::Altered, head.digest.head8(), link.parent));
        }
        let digest = digest::event(&head.digest, &link.to_bytes(), &payload);
        let event = Event { link, payload };
        self.appended.push_back(Appended { event, digest });
        Ok(digest)
    }

    /// The rows that keep what was appended; one if anything was. A log that is opened once they are kept has it.
    #[must_use]
    pub fn writes(&self) -> Vec<Write> {
        let events = self.appended.iter().map(|appended| &appended.event);
        let outputs: Vec<_> = events.map(|event| (event.link, &event.payload[..])).collect();
        let row = outputs_row(&self.entity(), &self.stored.digest, &outputs);
        row.into_iter().collect()
    }

    fn appended_at(&self, sequence: u64) -> Option<&Appended> {
        let index = sequence.checked_sub(self.stored.sequence)?.checked_sub(1)?;
        self.appended.get(usize::try_from(index).ok()?)
    }

    /// The row that has an event, if the store has it.
    fn row_of(&self, sequence: u64) -> Result<Option<Row>, StoreError> {
        let has_it = self.base.sequence < sequence && sequence <= self.stored.sequence;
        match self.store.filter(|_| has_it) {
            Some(store) => row_of(store, &self.entity(), sequence).map(Some),
            None => Ok(None),
        }
    }
}

/// The row in which an event must be: the last one that begins at or before it.
fn row_of(store: &dyn Store, entity: &EntityId, sequence: u64) -> Result<Row, StoreError> {
    let row = store.last(Table::Outputs, &rows_through(entity, 0, sequence))?;
    let row = row.ok_or_else(|| apart(entity, sequence))?;
    if bounds(entity, &row)?.last < sequence {
        return Err(apart(entity, sequence));
    }
    Ok(row)
}

/// The rows that begin from one sequence up to another, both included.
fn rows_through(entity: &EntityId, first: u64, last: u64) -> KeyRange {
    let mut until = entity_key(entity, [last]);
    until.push(0);
    KeyRange {
        from: entity_key(entity, [first]),
        until: Some(until),
    }
}

/// Where a row begins by its key.
fn number(key: &[u8]) -> Result<u64, StoreError> {
    let bad = StoreError::Damaged(Damage::BadKey { table: Table::Outputs });
    of_entity_key::<1>(key).map(|(_, [number])| number).ok_or(bad)
}

fn bounds(entity: &EntityId, (key, value): &Row) -> Result<OutputBounds, StoreError> {
    let number = number(key)?;
    let read = OutputBounds::read(value).map_err(|error| bad_row(Table::Outputs, entity, number, error))?;
    if read.first == number {
        Ok(read)
    } else {
        Err(apart(entity, number))
    }
}

/// The outputs of a row, which were hashed again.
fn emitted<'r>(entity: &EntityId, origin: Origin, (key, value): &'r Row) -> Result<Emitted<'r>, StoreError> {
    let number = number(key)?;
    let read = Emitted::decode(origin, value).map_err(|error| bad_row(Table::Outputs, entity, number, error))?;
    match read.outputs.first() {
        Some((link, _)) if link.sequence == number => Ok(read),
        _ => Err(apart(entity, number)),
    }
}

fn bad_row(table: Table, entity: &EntityId, number: u64, error: crate::codec::DecodeError) -> StoreError {
    StoreError::Damaged(Damage::Row {
        table,
        entity: *entity,
        number,
        error,
    })
}

/// A row of outputs does not fit the rows beside it.
fn apart(entity: &EntityId, number: u64) -> StoreError {
    StoreError::Damaged(Damage::Apart {
        table: Table::Outputs,
        entity: *entity,
        number,
    })
}

fn newest_snapshot(store: &dyn Store, entity: &EntityId) -> Result<Option<SnapshotRow>, StoreError> {
    let own = KeyRange::beginning_with(entity.as_bytes());
    let Some((key, value)) = store.last(Table::Snapshots, &own)? else {
        return Ok(None);
    };
    let number = of_entity_key::<1>(&key).map_or(0, |(_, [number])| number);
    let row = SnapshotRow::decode(&value).map_err(|error| bad_row(Table::Snapshots, entity, number, error));
    row.map(Some)
}

/// Where the journal says that the chain is: after its last steps, or where the newest snapshot is.
fn end_of_journal(store: &dyn Store, entity: &EntityId) -> Result<Option<Point>, StoreError> {
    let own = KeyRange::beginning_with(entity.as_bytes());
    let mark = match store.last(Table::Journal, &own)? {
        Some((key, value)) => {
            let number = of_entity_key::<1>(&key).map_or(0, |(_, [number])| number);
            let steps = Steps::decode(&value).map_err(|error| bad_row(Table::Journal, entity, number, error))?;
            Some(steps.after)
        }
        None => None,
    };
    let snapshot = newest_snapshot(store, entity)?.map(|row| row.mark);
    let newest = [mark, snapshot].into_iter().flatten().max_by_key(|mark| mark.step);
    Ok(newest.map(|mark| Point {
        sequence: mark.sequence,
        digest: mark.digest,
    }))
}
