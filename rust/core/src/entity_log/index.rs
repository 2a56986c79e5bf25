//! The logs of a store, by the entities that they are of.

use std::collections::VecDeque;

use super::EntityLog;
use crate::continuity::Genesis;
use crate::id::{EntityId, Origin};
use crate::rows::{KeyRange, Table, entity_key, of_entity_key};
use crate::store::{Damage, Store, StoreError};

/// Rows read at once.
const PAGE: usize = 1024;

/// The logs of a store.
#[derive(Clone, Copy)]
pub struct LogIndex<'s> {
    store: &'s dyn Store,
}

impl<'s> LogIndex<'s> {
    /// The logs of all entities that the store knows.
    #[must_use]
    pub const fn of(store: &'s dyn Store) -> Self {
        Self { store }
    }

    /// Whether the store knows an entity.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn contains(&self, entity: &EntityId) -> Result<bool, StoreError> {
        Ok(self.store.get(Table::Daemons, &entity_key(entity, []))?.is_some())
    }

    /// The log of an entity; `None`: the store does not know it. For a fork give what its record says.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn get(&self, genesis: Genesis) -> Result<Option<EntityLog<'s>>, StoreError> {
        if self.contains(&genesis.entity())? {
            EntityLog::open(self.store, genesis).map(Some)
        } else {
            Ok(None)
        }
    }

    /// The entities that have a handle: one, or none, unless somebody made two keys with the same handle.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn with_origin(&self, origin: Origin) -> Result<Vec<EntityId>, StoreError> {
        let found = self.iter().filter(|entity| match entity {
            Ok(entity) => entity.origin() == origin,
            Err(_) => true,
        });
        found.collect()
    }

    /// All entities, ascending by their keys.
    #[must_use]
    pub fn iter(&self) -> Entities<'s> {
        Entities {
            store: self.store,
            range: Some(KeyRange::all()),
            ready: VecDeque::new(),
        }
    }

    /// How many entities the store knows.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn count(&self) -> Result<u64, StoreError> {
        self.iter().try_fold(0, |count, entity| entity.map(|_| count + 1))
    }
}

/// The entities of a store. It ends behind an error.
pub struct Entities<'s> {
    store: &'s dyn Store,
    range: Option<KeyRange>,
    ready: VecDeque<EntityId>,
}

impl Entities<'_> {
    fn fill(&mut self, range: KeyRange) -> Result<(), StoreError> {
        let rows = self.store.page(Table::Daemons, &range, PAGE)?;
        for (key, _) in &rows {
            let entity = of_entity_key::<0>(key);
            let (entity, []) = entity.ok_or(Damage::BadKey { table: Table::Daemons })?;
            self.ready.push_back(entity);
        }
        self.range = rows.last().map(|(key, _)| range.after(key));
        Ok(())
    }
}

impl Iterator for Entities<'_> {
    type Item = Result<EntityId, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty() {
            let range = self.range.take()?;
            if let Err(error) = self.fill(range) {
                self.ready.clear();
                return Some(Err(error));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}
