//! Where readers look: rows of commits that are not in the tree yet, over the tree.
//!
//! Invariants
//! * A row is visible once its commit is durable, and from then on.
//! * Rows stay here until the tree has them in a durable commit.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use meshos_core::rows::{KeyRange, Table, Write};
use meshos_core::segment::Position;
use meshos_core::store::{Row, StoreError};

use crate::redb_store::tree::Tree;
use crate::sync::RwLock;

/// Key of a row in the tree: the table, then the key.
#[must_use]
pub fn tree_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(1 + key.len());
    name.push(table.code());
    name.extend_from_slice(key);
    name
}

/// What commits changed, by the keys of the tree; `None`: the row goes.
#[derive(Debug, Default)]
pub struct Overlay(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl Overlay {
    /// Takes a change over.
    pub fn apply(&mut self, write: Write) {
        self.0.insert(tree_key(write.table, &write.key), write.value);
    }

    /// Everything that changed, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.0.iter().map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    fn after<'a>(
        &'a self,
        from: &[u8],
        until: &'a Bound<Vec<u8>>,
    ) -> impl Iterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)> {
        let from = Bound::Included(from.to_vec());
        self.0
            .range((from, Bound::Unbounded))
            .take_while(move |(key, _)| match until {
                Bound::Excluded(until) => *key < until,
                Bound::Included(until) => *key <= until,
                Bound::Unbounded => true,
            })
    }
}

/// What is being folded: the changes, and the position after them.
#[derive(Debug, Clone)]
pub struct Frozen {
    /// The changes.
    pub rows: Arc<Overlay>,
    /// The last commit among them.
    pub position: Position,
    /// The file of the log that came after them.
    pub newest: u64,
}

#[derive(Debug, Default)]
struct Layers {
    active: Overlay,
    frozen: Option<Frozen>,
}

/// Where readers look.
#[derive(Debug, Default)]
pub struct View(RwLock<Layers>);

impl View {
    /// Shows what was recovered.
    #[must_use]
    pub fn of(recovered: Overlay) -> Self {
        Self(RwLock::new(Layers {
            active: recovered,
            frozen: None,
        }))
    }

    /// Shows the changes of a commit.
    pub fn apply(&self, writes: impl Iterator<Item = Write>) {
        let mut layers = self.0.write();
        writes.for_each(|write| layers.active.apply(write));
    }

    /// Puts what changed so far aside to be folded. `false`: something is being folded.
    pub fn freeze(&self, position: Position, newest: u64) -> bool {
        let mut layers = self.0.write();
        if layers.frozen.is_some() {
            return false;
        }
        let rows = Arc::new(std::mem::take(&mut layers.active));
        layers.frozen = Some(Frozen { rows, position, newest });
        true
    }

    /// What is to be folded.
    #[must_use]
    pub fn frozen(&self) -> Option<Frozen> {
        self.0.read().frozen.clone()
    }

    /// Says that the tree has what was to be folded.
    pub fn folded(&self) {
        let frozen = self.0.write().frozen.take();
        // It may be large, and ends without the lock.
        drop(frozen);
    }

    /// The value of a row.
    ///
    /// # Errors
    /// [`StoreError`]: the tree cannot be read.
    pub fn get(&self, tree: &Tree, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let key = tree_key(table, key);
        {
            let layers = self.0.read();
            let frozen = layers.frozen.as_ref().map(|frozen| &*frozen.rows);
            let mut overlays = [Some(&layers.active), frozen].into_iter().flatten();
            if let Some(found) = overlays.find_map(|overlay| overlay.0.get(&key)) {
                return Ok(found.clone());
            }
        }
        tree.get(&key)
    }

    /// The first rows of a range, at most so many.
    ///
    /// # Errors
    /// [`StoreError`]: the tree cannot be read.
    pub fn page(&self, tree: &Tree, table: Table, range: &KeyRange, rows_max: usize) -> Result<Vec<Row>, StoreError> {
        if range.is_empty() || rows_max == 0 {
            return Ok(Vec::new());
        }
        let until = match &range.until {
            Some(until) => Bound::Excluded(tree_key(table, until)),
            None => Bound::Excluded(vec![table.code() + 1]),
        };
        let Bound::Excluded(end) = &until else {
            unreachable!("a range of one table ends before the next")
        };
        let mut from = tree_key(table, &range.from);
        let mut rows = Vec::new();
        // The tree is read first, and in one look; rows that leave the overlays meanwhile are in what it shows the next
        // time, so both are looked at under one lock.
        let layers = self.0.read();
        while rows.len() < rows_max {
            let wanted = rows_max - rows.len();
            let mut below = Vec::new();
            tree.each(&from, &mut |key, value| {
                if key >= end.as_slice() {
                    return false;
                }
                below.push((key.to_vec(), value.to_vec()));
                below.len() < wanted
            })?;
            // Beyond the last row that the tree showed it may have more.
            let is_last = below.len() < wanted;
            let through = match below.last() {
                Some((key, _)) if !is_last => Bound::Included(key.clone()),
                _ => until.clone(),
            };
            let mut merged: BTreeMap<Vec<u8>, Option<Vec<u8>>> =
                below.into_iter().map(|(key, value)| (key, Some(value))).collect();
            let frozen = layers.frozen.as_ref().map(|frozen| &*frozen.rows);
            for overlay in [frozen, Some(&layers.active)].into_iter().flatten() {
                for (key, value) in overlay.after(&from, &through) {
                    merged.insert(key.clone(), value.clone());
                }
            }
            let next = merged.last_key_value().map(|(key, _)| key.clone());
            let alive = merged
                .into_iter()
                .filter_map(|(key, value)| Some((key[1..].to_vec(), value?)));
            rows.extend(alive.take(wanted));
            match (is_last, next) {
                (false, Some(mut next)) => {
                    next.push(0);
                    from = next;
                }
                _ => break,
            }
        }
        Ok(rows)
    }
}
