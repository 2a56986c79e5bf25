//! Judges a whole log: every row of it, and what was signed of it.

use super::{EntityLog, LogError, apart, bad_row, emitted, end_of_journal, rows_through};
use crate::certificate::Certificate;
use crate::checkpoint::Checkpoint;
use crate::continuity::{Anchors, Continuity, Point, Span, Walk};
use crate::rows::{KeyRange, Table, of_entity_key};
use crate::store::{Damage, Store, StoreError};

/// Rows read at once.
const PAGE: usize = 64;
/// How often a log is gone over whose beginning is let go meanwhile.
const TRIES: u32 = 3;

impl EntityLog<'_> {
    /// What makes it certain: where it begins, and every certificate and checkpoint that the store has of it.
    ///
    /// # Errors
    /// [`LogError::Chain`]: a record is signed by one who may not, or two disagree.
    pub fn anchors(&self) -> Result<Anchors, LogError> {
        let (mut certificates, mut checkpoints) = (Vec::new(), Vec::new());
        let entity = self.entity();
        if let Some(store) = self.store {
            self.each::<1>(store, Table::Certificates, |[epoch], value| {
                let read =
                    Certificate::decode(value).map_err(|error| bad_row(Table::Certificates, &entity, epoch, error))?;
                certificates.push(read);
                Ok(read.entity == entity && read.epoch == epoch)
            })?;
            self.each::<2>(store, Table::Checkpoints, |[epoch, sequence], value| {
                let read =
                    Checkpoint::decode(value).map_err(|error| bad_row(Table::Checkpoints, &entity, sequence, error))?;
                checkpoints.push(read);
                Ok((read.entity, read.epoch, read.sequence) == (entity, epoch, sequence))
            })?;
        }
        Ok(Anchors::judge(self.genesis, certificates, checkpoints)?)
    }

    /// Who spoke for it, by ascending epoch, with the digests at both ends of each span.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn spans(&self) -> Result<Vec<Span>, LogError> {
        Ok(self.anchors()?.spans(self.head()))
    }

    /// Hashes every event of it, as the store has it now, and says whether it is whole and what makes that certain.
    ///
    /// # Errors
    /// [`LogError`]: a row cannot be read, or what is signed does not hold. What is missing or of another history is no
    /// error, but what is said.
    pub fn assess(&self) -> Result<Continuity, LogError> {
        let Some(store) = self.store else {
            let anchors = self.anchors()?;
            let mut walk = Walk::begin(&anchors, self.base);
            self.go_over_appended(&mut walk);
            return Ok(walk.end(None));
        };
        let mut tries = 1;
        loop {
            let began = Self::open(store, self.genesis)?.base;
            // What the records and the journal tell of was kept before them, so events are looked at last.
            let anchors = self.anchors()?;
            let told = end_of_journal(store, &self.entity())?;
            let now = Self::open(store, self.genesis)?;
            let end = if self.appended.is_empty() {
                now.stored
            } else {
                self.stored
            };
            let mut walk = self.go_along(store, &anchors, now.base, end)?;
            self.go_over_appended(&mut walk);
            let found = walk.end(told.filter(|told| self.appended.is_empty() || told.sequence > self.head().sequence));
            // Rows that were let go behind its back look like a hole, and what vouches for the rest is newer.
            let is_hole = matches!(found, Continuity::Unverifiable { .. });
            if !is_hole || tries == TRIES || Self::open(store, self.genesis)?.base == began {
                return Ok(found);
            }
            tries += 1;
        }
    }

    fn go_over_appended(&self, walk: &mut Walk<'_>) {
        let events = self.appended.iter().map(|appended| &appended.event);
        let appended: Vec<_> = events.map(|event| (event.link, &event.payload[..])).collect();
        if !appended.is_empty() {
            walk.row(self.stored, &appended, self.head());
        }
    }

    /// Goes along what the store has, from `base` to `end`.
    fn go_along<'a>(
        &self,
        store: &dyn Store,
        anchors: &'a Anchors,
        base: Point,
        end: Point,
    ) -> Result<Walk<'a>, StoreError> {
        let entity = self.entity();
        let mut walk = Walk::begin(anchors, base);
        let mut range = rows_through(&entity, 0, end.sequence);
        while !walk.is_over() {
            let rows = store.page(Table::Outputs, &range, PAGE)?;
            let Some((key, _)) = rows.last() else { break };
            range = range.after(key);
            for row in &rows {
                let emitted = emitted(&entity, self.origin, row)?;
                let count = emitted.outputs.len() as u64;
                let before = Point {
                    sequence: super::number(&row.0)? - 1,
                    digest: emitted.before,
                };
                if before.sequence < walk.at().sequence && !walk.is_over() {
                    return Err(apart(&entity, before.sequence + 1));
                }
                let after = Point {
                    sequence: before.sequence + count,
                    digest: emitted.after,
                };
                walk.row(before, &emitted.outputs, after);
            }
        }
        Ok(walk)
    }

    /// Shows each row of the entity in a table, which says whether it is the one that its key says.
    fn each<const N: usize>(
        &self,
        store: &dyn Store,
        table: Table,
        mut see: impl FnMut([u64; N], &[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let mut range = KeyRange::beginning_with(self.entity().as_bytes());
        loop {
            let rows = store.page(table, &range, PAGE)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            range = range.after(last);
            for (key, value) in &rows {
                let (_, numbers) = of_entity_key::<N>(key).ok_or(Damage::BadKey { table })?;
                if !see(numbers, value)? {
                    return Err(StoreError::Damaged(Damage::Apart {
                        table,
                        entity: self.entity(),
                        number: numbers.last().copied().unwrap_or(0),
                    }));
                }
            }
        }
    }
}
