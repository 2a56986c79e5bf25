//! Reads a log from a place on, in order.

use std::collections::VecDeque;

use super::{EntityLog, Event, LogError, apart, emitted, row_of, rows_through};
use crate::chain::{BrokenKind, ChainError};
use crate::digest::Digest;
use crate::id::{EntityId, Origin};
use crate::rows::{KeyRange, Table};
use crate::store::{Row, Store, StoreError};

/// Rows of a page at most. A page ends before that when it is large.
const ROWS_MAX: usize = 64;

/// A place in a log, and what was read ahead of it: one page of rows, and the events of one row.
#[derive(Debug, Clone)]
pub struct Cursor {
    entity: EntityId,
    origin: Origin,
    /// Sequence of the next event that is not in `ready`.
    next: u64,
    last: u64,
    is_over: bool,
    /// Digest before `next`, once something was read.
    before: Option<Digest>,
    rows_max: usize,
    rows: VecDeque<Row>,
    ready: VecDeque<Event>,
}

impl Cursor {
    /// The next event; `None`: there is none any more. After an error there is none either.
    ///
    /// # Errors
    /// [`LogError::Store`]: it cannot be read. [`LogError::Chain`]: it was let go since the log was opened.
    pub fn read(&mut self, store: &dyn Store) -> Result<Option<Event>, LogError> {
        let event = self.step(store);
        self.is_over |= event.is_err();
        event
    }

    fn step(&mut self, store: &dyn Store) -> Result<Option<Event>, LogError> {
        if self.ready.is_empty() && !self.is_over {
            let row = self.row(store)?;
            self.take(&row)?;
        }
        Ok(self.ready.pop_front())
    }

    /// The row that has the next event.
    fn row(&mut self, store: &dyn Store) -> Result<Row, LogError> {
        if self.rows.is_empty() {
            if self.before.is_none() {
                return self.first_row(store);
            }
            let range = rows_through(&self.entity, self.next, self.last);
            self.rows = store.page(Table::Outputs, &range, self.rows_max)?.into();
            self.rows_max = (self.rows_max * 2).min(ROWS_MAX);
        }
        match self.rows.pop_front() {
            Some(row) if super::number(&row.0)? == self.next => Ok(row),
            _ => Err(self.missing(store)),
        }
    }

    fn first_row(&self, store: &dyn Store) -> Result<Row, LogError> {
        row_of(store, &self.entity, self.next).map_err(|error| match error {
            error if error == apart(&self.entity, self.next) => self.missing(store),
            error => error.into(),
        })
    }

    /// The next event is not there: it was let go, with all before it, or the store lost it.
    fn missing(&self, store: &dyn Store) -> LogError {
        let lost = LogError::Store(apart(&self.entity, self.next));
        let own = KeyRange::beginning_with(self.entity.as_bytes());
        let oldest = match store.page(Table::Outputs, &own, 1) {
            Ok(rows) => rows.first().map_or(Ok(u64::MAX), |(key, _)| super::number(key)),
            Err(error) => Err(error),
        };
        match oldest {
            Ok(oldest) if oldest > self.next => LogError::Chain(ChainError::Broken {
                kind: BrokenKind::Gap,
                origin: self.origin,
                sequence: self.next,
                expected: self.next,
                found: oldest,
            }),
            Ok(_) => lost,
            Err(error) => error.into(),
        }
    }

    fn take(&mut self, row: &Row) -> Result<(), StoreError> {
        let emitted = emitted(&self.entity, self.origin, row)?;
        if self.before.is_some_and(|before| before != emitted.before) {
            return Err(apart(&self.entity, self.next));
        }
        let (first, last) = (self.next, self.last);
        let wanted = emitted
            .outputs
            .iter()
            .filter(|(link, _)| (first..=last).contains(&link.sequence));
        self.ready.extend(wanted.map(|(link, payload)| Event {
            link: *link,
            payload: payload.to_vec(),
        }));
        let end = emitted.outputs.last().map_or(last, |(link, _)| link.sequence);
        self.before = Some(emitted.after);
        self.is_over = end >= last;
        self.next = end.saturating_add(1);
        Ok(())
    }
}

/// Events of a log, in order. It ends behind an error.
pub struct Events<'l> {
    log: &'l EntityLog<'l>,
    cursor: Cursor,
    /// What is wanted of the events that are not in the store.
    appended: std::ops::Range<usize>,
}

impl<'l> Events<'l> {
    pub(super) fn of(log: &'l EntityLog<'_>, first: u64, last: u64) -> Self {
        let stored = log.stored.sequence;
        let index = |sequence: u64| {
            let index = sequence.saturating_sub(stored);
            usize::try_from(index).unwrap_or(usize::MAX).min(log.appended.len())
        };
        let appended = index(first.saturating_sub(1))..index(last);
        Self {
            log,
            cursor: log.cursor(first, last),
            appended,
        }
    }
}

impl EntityLog<'_> {
    /// A place from which the store is read, without what was appended.
    #[must_use]
    pub fn cursor(&self, first: u64, last: u64) -> Cursor {
        let first = first.max(self.base.sequence.saturating_add(1));
        let last = last.min(self.stored.sequence);
        Cursor {
            entity: self.entity(),
            origin: self.origin,
            next: first,
            last,
            is_over: self.store.is_none() || first > last || self.base == self.stored,
            before: None,
            rows_max: 2,
            rows: VecDeque::new(),
            ready: VecDeque::new(),
        }
    }
}

impl Iterator for Events<'_> {
    type Item = Result<Event, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(store) = self.log.store {
            match self.cursor.read(store) {
                Ok(None) => {}
                Ok(Some(event)) => return Some(Ok(event)),
                Err(error) => {
                    self.appended = 0..0;
                    return Some(Err(error));
                }
            }
        }
        let index = self.appended.next()?;
        self.log.appended.get(index).map(|appended| Ok(appended.event.clone()))
    }
}
