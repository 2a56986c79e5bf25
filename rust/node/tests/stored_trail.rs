//! Records in a store: a store that refuses them for a time loses those and no others.
#![allow(missing_docs)]

use std::sync::Arc;

use meshos_core::digest::Digest;
use meshos_core::id::NodeId;
use meshos_core::rows::{KeyRange, Table, Write};
use meshos_core::signal::LogLevel;
use meshos_core::status::LogRecord;
use meshos_core::store::memory::MemoryStore;
use meshos_core::store::{Batch, Done, Row, Store, StoreError, StoreStats};
use meshos_core::time::UnixMs;
use meshos_core::trail::{Entry, Kind};
use meshos_node::medium::Rows;
use meshos_node::sync::Mutex;
use meshos_node::trail_file::{self, KeepError, OpenError, TrailFile, VerifyError};

/// A store that can be full: then it loses what is submitted, and begins a new term.
#[derive(Default)]
struct Disk {
    store: MemoryStore,
    term: u64,
    is_full: bool,
    /// What is submitted waits here, if it is to wait.
    held: Option<Vec<Done>>,
}

#[derive(Clone, Default)]
struct Handle(Arc<Mutex<Disk>>);

impl Store for Handle {
    fn term(&self) -> u64 {
        self.0.lock().term
    }
    fn submit(&mut self, mut batch: Batch, done: Done) {
        let mut disk = self.0.lock();
        if let Some(held) = &mut disk.held {
            return held.push(done);
        }
        if batch.term != disk.term {
            let term = disk.term;
            drop(disk);
            return done(Err(StoreError::Superseded { term }));
        }
        if disk.is_full {
            disk.term += 1;
            drop(disk);
            return done(Err(StoreError::Full));
        }
        batch.term = disk.store.term();
        disk.store.submit(batch, done);
    }
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.lock().store.get(table, key)
    }
    fn page(&self, table: Table, range: &KeyRange, rows_max: usize) -> Result<Vec<Row>, StoreError> {
        self.0.lock().store.page(table, range, rows_max)
    }
    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Row>, StoreError> {
        self.0.lock().store.last(table, range)
    }
    fn keep(&mut self, parts: &[&[u8]]) -> Result<Digest, StoreError> {
        self.0.lock().store.keep(parts)
    }
    fn fetch(&self, name: &Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.0.lock().store.fetch(name, bytes_max)
    }
    fn discard(&mut self, name: &Digest) -> Result<(), StoreError> {
        self.0.lock().store.discard(name)
    }
    fn stats(&self) -> StoreStats {
        self.0.lock().store.stats()
    }
}

fn line(seq: u64) -> Entry {
    Entry::Log(LogRecord {
        seq,
        at: UnixMs::new(seq),
        level: LogLevel::Info,
        node: NodeId::new(7),
        daemon: None,
        message: Arc::from(format!("line {seq}")),
        chain_pending: false,
    })
}

fn open(disk: &Handle, kind: Kind) -> Result<TrailFile, OpenError> {
    TrailFile::in_store(Box::new(disk.clone()), "a disk", kind, "test", 1, None, &mut || false)
}

fn kept(disk: &Handle) -> Result<Vec<u64>, VerifyError> {
    let mut seqs = Vec::new();
    trail_file::verify(Rows::of(disk, Kind::Log), None, None, &mut || false, |entry| {
        if let Entry::Log(record) = entry {
            seqs.push(record.seq);
        }
    })?;
    Ok(seqs)
}

#[test]
fn what_a_full_store_refused_is_lost_alone() {
    let disk = Handle::default();
    let trail = open(&disk, Kind::Log).expect("new");
    trail.keep(&line(1), true).expect("room");
    disk.0.lock().is_full = true;
    assert!(matches!(trail.keep(&line(2), true), Err(KeepError::Io(_))));
    assert!(trail.keep(&line(3), true).is_err());
    disk.0.lock().is_full = false;
    trail.keep(&line(4), true).expect("space again");
    trail.finish().expect("open");
    assert_eq!(kept(&disk).expect("whole"), [1, 4]);
    let trail = open(&disk, Kind::Log).expect("continued");
    trail.keep(&line(5), true).expect("room");
    assert_eq!(kept(&disk).expect("whole"), [1, 4, 5]);
    assert_eq!(trail_file::verify_store(&disk).expect("whole"), 3);
}

#[test]
fn a_failure_that_is_found_out_later_takes_what_came_since_the_last_sync() {
    let disk = Handle::default();
    let trail = open(&disk, Kind::Log).expect("new");
    trail.keep(&line(1), true).expect("room");
    disk.0.lock().is_full = true;
    trail.keep(&line(2), false).expect("nobody has waited for it");
    disk.0.lock().is_full = false;
    assert!(trail.keep(&line(3), false).is_err(), "the one before was refused");
    trail.keep(&line(4), true).expect("it goes on after the first");
    assert_eq!(kept(&disk).expect("whole"), [1, 4]);
}

#[test]
fn a_row_that_was_changed_or_removed_is_found() {
    for bad in [Some(3), None] {
        let disk = Handle::default();
        let trail = open(&disk, Kind::Log).expect("new");
        for seq in 1..=4 {
            trail.keep(&line(seq), true).expect("room");
        }
        drop(trail);
        let rows = disk.page(Table::Trails, &KeyRange::all(), 99).expect("readable");
        let (key, value) = rows[3].clone();
        let change = match bad {
            Some(at) => {
                let mut value = value;
                let at = value.len() - at;
                value[at] ^= 1;
                Write::put(Table::Trails, key, value)
            }
            None => Write::remove(Table::Trails, key),
        };
        let batch = Batch {
            term: disk.term(),
            writes: vec![change],
        };
        disk.clone().submit(batch, Box::new(|outcome| assert!(outcome.is_ok())));
        assert!(kept(&disk).is_err());
        assert!(trail_file::verify_store(&disk).is_err());
        assert!(open(&disk, Kind::Log).is_err());
        assert!(open(&disk, Kind::Audit).is_ok(), "others are not concerned");
    }
}

#[test]
fn audit_records_count_as_kept_together_only_if_all_of_them_are() {
    let disk = Handle::default();
    let trail = open(&disk, Kind::Audit).expect("new");
    disk.0.lock().held = Some(Vec::new());
    trail.keep(&line(1), false).expect("on its way");
    let held = {
        let mut disk = disk.0.lock();
        disk.term += 1;
        disk.held.take()
    };
    held.into_iter().flatten().for_each(|done| done(Err(StoreError::Full)));
    trail.keep(&line(2), false).expect_err("what stands before is not kept");
    trail.keep(&line(3), false).expect("space again");
    trail.sync().expect_err("the first is not kept");
    trail.keep(&line(4), true).expect("kept");
    trail.finish().expect("open");
}
