//! A disk that is full, or fails to sync.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use meshos_core::store::{Batch, Step, Store, StoreError};
use meshos_node::redb_store::{Options, RedbStore};

use crate::{Scratch, numbers, open, open_with, row, submit_all};

const GOOD: u8 = 0;
const FULL: u8 = 1;
const NO_SYNC: u8 = 2;
const TREE_FULL: u8 = 3;
const TREE_NO_SYNC: u8 = 4;

/// A store whose disk fails as the number says.
fn failing(scratch: &Scratch) -> (RedbStore, Arc<AtomicU8>) {
    let how = Arc::new(AtomicU8::new(GOOD));
    let asked = Arc::clone(&how);
    let hook = move |step: Step, path: &Path| {
        let of_tree = path.extension().is_some_and(|extension| extension == "redb");
        match (asked.load(Ordering::SeqCst), step, of_tree) {
            (FULL, Step::Write | Step::Open, false) | (TREE_FULL, Step::Write, true) => {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            (NO_SYNC, Step::Sync, false) | (TREE_NO_SYNC, Step::Sync, true) => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        }
    };
    let options = Options {
        hook: Some(Arc::new(hook)),
        ..Options::default()
    };
    let (store, _) = open_with(&scratch.path(), &options).expect("the disk is good");
    (store, how)
}

#[test]
fn a_full_disk_refuses_loses_nothing_and_goes_on_when_there_is_space() {
    let scratch = Scratch::new();
    let (mut store, how) = failing(&scratch);
    for number in 0..10 {
        store.commit(vec![row(number, 64)]).expect("kept");
    }
    let term = store.term();
    how.store(FULL, Ordering::SeqCst);
    for number in 10..15 {
        assert_eq!(store.commit(vec![row(number, 64)]), Err(StoreError::Full));
    }
    assert_eq!(store.keep(&[b"state"]), Err(StoreError::Full));
    assert_eq!((store.term(), store.stats().failures), (term + 5, 5));
    assert_eq!(numbers(&store).len(), 10);

    how.store(GOOD, Ordering::SeqCst);
    for number in 20..25 {
        store.commit(vec![row(number, 64)]).expect("there is space again");
    }
    let kept: Vec<_> = (0..10).chain(20..25).collect();
    assert_eq!(numbers(&store), kept);
    drop(store);
    assert_eq!(numbers(&open(&scratch.path()).0), kept);
}

#[test]
fn a_failed_sync_is_not_repeated_on_its_file() {
    let scratch = Scratch::new();
    let (store, how) = failing(&scratch);
    let log = || {
        let files = std::fs::read_dir(scratch.path().join("log")).expect("it is there");
        let mut files: Vec<_> = files.map(|file| file.expect("readable").path()).collect();
        files.sort();
        files
    };
    store.commit(vec![row(1, 64)]).expect("kept");
    how.store(NO_SYNC, Ordering::SeqCst);
    let refused = store.commit(vec![row(2, 64)]);
    assert_eq!(
        refused,
        Err(StoreError::Io {
            step: Step::Sync,
            code: Some(5)
        })
    );
    let spoiled = log().pop().expect("there is one");
    let before = std::fs::read(&spoiled).expect("it is there");
    how.store(GOOD, Ordering::SeqCst);
    store.commit(vec![row(3, 64)]).expect("kept in another file");
    assert_eq!(std::fs::read(&spoiled).expect("it is there"), before);
    assert!(log().len() > 1);
    assert_eq!(numbers(&store), [1, 3]);

    let left = scratch.path().with_extension("left");
    crate::damage::copy(&scratch.path(), &left);
    assert_eq!(numbers(&open(&left).0), [1, 3], "what was refused is void");
}

#[test]
fn what_waits_behind_a_failure_fails_with_it() {
    let scratch = Scratch::new();
    let (mut store, how) = failing(&scratch);
    how.store(NO_SYNC, Ordering::SeqCst);
    let answers = submit_all(&mut store, 0..100);
    assert_eq!(answers.len(), 100);
    assert!(answers.iter().all(|(_, outcome)| outcome.is_err()));
    assert_eq!(numbers(&store), []);
    how.store(GOOD, Ordering::SeqCst);
    let answers = submit_all(&mut store, 0..100);
    assert!(answers.iter().all(|(_, outcome)| outcome.is_ok()));
    assert_eq!(numbers(&store).len(), 100);
}

#[test]
fn a_tree_that_cannot_be_written_holds_up_nobody_and_is_made_good() {
    for fault in [TREE_FULL, TREE_NO_SYNC] {
        let scratch = Scratch::new();
        let (store, how) = failing(&scratch);
        how.store(fault, Ordering::SeqCst);
        for number in 0..40 {
            store.commit(vec![row(number, 600_000)]).expect("the log takes it");
        }
        assert_eq!(numbers(&store).len(), 40);
        how.store(GOOD, Ordering::SeqCst);
        for number in 40..60 {
            store.commit(vec![row(number, 600_000)]).expect("the log takes it");
        }
        store.close().expect("the tree takes it now");
        drop(store);
        let (store, opened) = open(&scratch.path());
        assert_eq!((numbers(&store).len(), opened.was_closed), (60, true));
        store.verify().expect("nothing is damaged");
    }
}

#[test]
fn a_store_that_cannot_be_made_is_made_the_next_time() {
    // The disk fails after so many operations; in the end it is enough for all of them.
    for enough in 0.. {
        let scratch = Scratch::new();
        let left = AtomicU32::new(enough);
        let hook = move |_: Step, _: &Path| {
            let counted = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            counted.map(drop).map_err(|_| io::Error::from_raw_os_error(5))
        };
        let options = Options {
            hook: Some(Arc::new(hook)),
            ..Options::default()
        };
        let made = open_with(&scratch.path(), &options);
        let is_made = made.is_ok();
        drop(made);
        let (store, _) = open(&scratch.path());
        assert_eq!(numbers(&store), []);
        store.commit(vec![row(1, 5)]).expect("kept");
        drop(store);
        assert_eq!(numbers(&open(&scratch.path()).0), [1]);
        if is_made {
            assert!(enough > 10);
            break;
        }
    }
}

#[test]
fn who_hears_of_a_failure_finds_the_next_term() {
    let scratch = Scratch::new();
    let (mut store, how) = failing(&scratch);
    how.store(NO_SYNC, Ordering::SeqCst);
    for _ in 0..50 {
        let (term, other) = (store.term(), store.clone());
        let (told, heard) = std::sync::mpsc::channel();
        let batch = Batch {
            term,
            writes: vec![row(1, 10)],
        };
        let done = move |outcome: Result<u64, StoreError>| told.send((outcome.is_err(), other.term())).expect("heard");
        store.submit(batch, Box::new(done));
        assert_eq!(heard.recv(), Ok((true, term + 1)));
    }
}
