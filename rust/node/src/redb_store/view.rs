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
use meshos_core::store::{PAGE_BYTES, Row, StoreError};

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

    fn range<'a>(
        &'a self,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
    ) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let changed = self.0.range::<[u8], _>(bounds);
        changed.map(|(key, value)| (key.as_slice(), value.as_deref()))
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

    /// The first rows of a range, as [`Store::page`](meshos_core::store::Store::page) gives them.
    ///
    /// # Errors
    /// [`StoreError`]: the tree cannot be read.
    pub fn page(&self, tree: &Tree, table: Table, range: &KeyRange, rows_max: usize) -> Result<Vec<Row>, StoreError> {
        let mut page = Page::of(rows_max);
        if range.is_empty() {
            return Ok(page.rows);
        }
        let until = match &range.until {
            Some(until) => tree_key(table, until),
            None => vec![table.code() + 1],
        };
        let mut from = tree_key(table, &range.from);
        // Rows that leave the layers are in what the tree shows from then on, so both are looked at under one lock.
        let layers = self.0.read();
        loop {
            let below = chunk(tree, &from, &until, page.room())?;
            // Behind the last row that the tree showed it may have more.
            let through = match below.rows.last() {
                Some((key, _)) if !below.is_all => Bound::Included(key.as_slice()),
                _ => Bound::Excluded(until.as_slice()),
            };
            let last = below.rows.last().map(|(key, _)| key.clone());
            let bounds = (Bound::Included(from.as_slice()), through);
            let frozen = layers.frozen.as_ref().map(|frozen| &*frozen.rows);
            let tree_rows = below
                .rows
                .iter()
                .map(|(key, value)| (key.as_slice(), Some(value.as_slice())));
            page.merge([
                Box::new(layers.active.range(bounds)),
                Box::new(frozen.into_iter().flat_map(|frozen| frozen.range(bounds))),
                Box::new(tree_rows),
            ]);
            match last {
                Some(mut last) if !below.is_all && !page.is_full() => {
                    last.push(0);
                    from = last;
                }
                _ => return Ok(page.rows),
            }
        }
    }

    /// The last row of a range, as [`Store::last`](meshos_core::store::Store::last) gives it.
    ///
    /// # Errors
    /// [`StoreError`]: the tree cannot be read.
    pub fn last(&self, tree: &Tree, table: Table, range: &KeyRange) -> Result<Option<Row>, StoreError> {
        if range.is_empty() {
            return Ok(None);
        }
        let from = tree_key(table, &range.from);
        let mut until = match &range.until {
            Some(until) => tree_key(table, until),
            None => vec![table.code() + 1],
        };
        let layers = self.0.read();
        let frozen = layers.frozen.as_ref().map(|frozen| &*frozen.rows);
        let mut below = tree.last(&from, &until)?;
        loop {
            let bounds = (Bound::Included(from.as_slice()), Bound::Excluded(until.as_slice()));
            let tree_row = below
                .as_ref()
                .map(|(key, value)| (key.as_slice(), Some(value.as_slice())));
            let rows = [
                last_of(&layers.active, bounds),
                frozen.and_then(|frozen| last_of(frozen, bounds)),
                tree_row,
            ];
            // Where several layers have the row, the first of them counts.
            let Some(last) = rows.iter().flatten().map(|(key, _)| *key).max() else {
                return Ok(None);
            };
            let found = rows.iter().flatten().find(|(key, _)| *key == last);
            if let Some((key, Some(value))) = found {
                return Ok(Some((key[1..].to_vec(), value.to_vec())));
            }
            until = last.to_vec();
            if below.as_ref().is_some_and(|(key, _)| *key >= until) {
                below = tree.last(&from, &until)?;
            }
        }
    }
}

/// The last row of a layer within bounds, and whether it is one that goes.
fn last_of<'a>(overlay: &'a Overlay, bounds: (Bound<&[u8]>, Bound<&[u8]>)) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let last = overlay.0.range::<[u8], _>(bounds).next_back();
    last.map(|(key, value)| (key.as_slice(), value.as_deref()))
}

type Rows<'a> = Box<dyn Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + 'a>;

/// Rows of the tree, and whether there are no more of the range.
struct Chunk {
    rows: Vec<(Vec<u8>, Vec<u8>)>,
    is_all: bool,
}

fn chunk(tree: &Tree, from: &[u8], until: &[u8], rows_max: usize) -> Result<Chunk, StoreError> {
    let (mut rows, mut bytes, mut is_all) = (Vec::new(), 0, true);
    tree.each(from, &mut |key, value| {
        if key >= until {
            return false;
        }
        bytes += key.len() + value.len();
        rows.push((key.to_vec(), value.to_vec()));
        is_all = rows.len() < rows_max && bytes < PAGE_BYTES;
        is_all
    })?;
    Ok(Chunk { rows, is_all })
}

/// A page that is being filled.
struct Page {
    rows: Vec<Row>,
    bytes: usize,
    rows_max: usize,
}

impl Page {
    const fn of(rows_max: usize) -> Self {
        Self {
            rows: Vec::new(),
            bytes: 0,
            rows_max,
        }
    }

    /// Rows that may still come; at least 1, so that a look at the tree shows something.
    fn room(&self) -> usize {
        (self.rows_max - self.rows.len()).max(1)
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= self.rows_max || self.bytes >= PAGE_BYTES
    }

    /// Adds rows until it is full. Where several layers have a row, the first of them counts.
    fn merge(&mut self, layers: [Rows<'_>; 3]) {
        let mut layers = layers.map(Iterator::peekable);
        while !self.is_full() {
            let first = layers
                .iter_mut()
                .filter_map(|layer| layer.peek().map(|(key, _)| *key))
                .min();
            let Some(first) = first else { return };
            let mut found = None;
            for layer in &mut layers {
                if let Some((_, value)) = layer.next_if(|(key, _)| *key == first) {
                    found = found.or(Some(value));
                }
            }
            if let Some(Some(value)) = found {
                self.bytes += first.len() + value.len();
                // Without the number of the table.
                self.rows.push((first[1..].to_vec(), value.to_vec()));
            }
        }
    }
}
