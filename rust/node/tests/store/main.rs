//! A store in a folder: kept, opened again, damaged, failing, and killed.

mod damage;
mod faults;
mod kept;
mod killed;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use meshos_core::rows::{KeyRange, Table, Write};
use meshos_core::store::{Batch, Opened, Store, StoreError};
use meshos_node::redb_store::{OpenedStore, Options, RedbStore};

/// A folder that is removed with its value.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("meshos-store-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.join("state")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn open_with(path: &Path, options: &Options) -> Result<(RedbStore, Opened), StoreError> {
    let OpenedStore { store, opened, .. } = RedbStore::open(path, options)?;
    Ok((store, opened))
}

pub(crate) fn open(path: &Path) -> (RedbStore, Opened) {
    open_with(path, &Options::default()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The row of a number.
pub(crate) fn row(number: u64, bytes: usize) -> Write {
    let key = number.to_be_bytes().to_vec();
    let value = number.to_le_bytes().iter().copied().cycle().take(bytes).collect();
    Write::put(Table::Journal, key, value)
}

/// The numbers of all rows, each checked.
pub(crate) fn numbers(store: &RedbStore) -> Vec<u64> {
    let (mut range, mut numbers) = (KeyRange::all(), Vec::new());
    loop {
        let page = store.page(Table::Journal, &range, 1000).expect("it can be read");
        let Some((last, _)) = page.last() else { return numbers };
        range = range.after(last);
        for (key, value) in &page {
            let number = u64::from_be_bytes(key.as_slice().try_into().expect("eight bytes"));
            assert_eq!(Some(value), row(number, value.len()).value.as_ref());
            numbers.push(number);
        }
    }
}

/// Submits rows one by one, and waits for all of them.
pub(crate) fn submit_all(
    store: &mut RedbStore,
    numbers: impl Iterator<Item = u64>,
) -> Vec<(u64, Result<u64, StoreError>)> {
    let (told, heard) = mpsc::channel();
    for number in numbers {
        let told = told.clone();
        let batch = Batch {
            term: store.term(),
            writes: vec![row(number, 64)],
        };
        store.submit(
            batch,
            Box::new(move |outcome| told.send((number, outcome)).expect("somebody listens")),
        );
    }
    drop(told);
    heard.into_iter().collect()
}
