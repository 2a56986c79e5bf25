//! What was kept is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use meshos_core::digest;
use meshos_core::journal::SnapshotRow;
use meshos_core::move_rows::{self, Item};
use meshos_core::rows::{KeyRange, Table, Write};
use meshos_core::store::{Batch, Store, StoreError};
use meshos_core::testing::random::SplitMix64;
use meshos_core::testing::{images, move_frames, samples};
use meshos_node::redb_store::{Options, RedbStore};

use crate::{Scratch, numbers, open, open_with, row, submit_all};

#[test]
fn a_new_store_is_empty_and_private_and_keeps_its_node() {
    let scratch = Scratch::new();
    let made = RedbStore::open(&scratch.path(), &Options::default()).expect("a new store");
    assert!(made.opened.is_new && made.opened.commits == 0);
    let key = made.key.expect("it makes a key");
    assert_eq!(key.entity_id(), made.store.node());
    assert_eq!(numbers(&made.store), []);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |name: &str| {
            let found = std::fs::metadata(scratch.path().join(name)).expect("it is there");
            found.permissions().mode() & 0o777
        };
        assert_eq!(
            [mode("."), mode("node.key"), mode("meshos.store")],
            [0o700, 0o600, 0o600]
        );
    }
    drop(made.store);

    let again = RedbStore::open(&scratch.path(), &Options::default()).expect("it is there");
    assert!(!again.opened.is_new && again.opened.was_closed);
    assert_eq!(again.key.expect("it is kept").entity_id(), key.entity_id());
}

#[test]
fn a_node_that_is_given_keeps_its_key_to_itself() {
    let scratch = Scratch::new();
    let mine = samples::keypair(1).entity_id();
    let options = Options {
        node: Some(mine),
        ..Options::default()
    };
    let made = RedbStore::open(&scratch.path(), &options).expect("a new store");
    assert!(made.key.is_none() && made.store.node() == mine);
    drop(made);
    assert!(!scratch.path().join("node.key").exists());

    let other = Options {
        node: Some(samples::keypair(2).entity_id()),
        ..Options::default()
    };
    let refused = open_with(&scratch.path(), &other).err().expect("of another node");
    assert_eq!(
        refused,
        StoreError::OtherNode {
            found: mine,
            expected: samples::keypair(2).entity_id()
        }
    );
}

#[test]
fn rows_are_there_after_a_close_and_without_one() {
    for closes in [true, false] {
        let scratch = Scratch::new();
        let (mut store, _) = open(&scratch.path());
        assert_eq!(store.commit(vec![row(1, 64), row(2, 64)]), Ok(1));
        let answers = submit_all(&mut store, 3..100);
        assert!(answers.iter().all(|(_, outcome)| outcome.is_ok()));
        assert_eq!(numbers(&store), (1..100).collect::<Vec<_>>());
        if closes {
            store.close().expect("it is closed");
            assert_eq!(store.commit(vec![row(5, 1)]), Err(StoreError::Closed));
            assert_eq!(store.get(Table::Journal, &[]), Err(StoreError::Closed));
            store.close().expect("a second time does nothing");
        } else {
            crash(store, &scratch);
        }
        let (store, opened) = open(&scratch.path());
        assert_eq!((opened.was_closed, opened.cut), (closes, 0));
        assert_eq!(opened.commits > 0, !closes);
        assert_eq!(numbers(&store), (1..100).collect::<Vec<_>>());
        store.verify().expect("nothing is damaged");
    }
}

/// Leaves the files as they are now, as a killed process does.
fn crash(store: RedbStore, scratch: &Scratch) {
    let copy = scratch.path().with_extension("copy");
    crate::damage::copy(&scratch.path(), &copy);
    drop(store);
    std::fs::remove_dir_all(scratch.path()).expect("it is there");
    std::fs::rename(&copy, scratch.path()).expect("it is there");
}

#[test]
fn one_process_has_it_at_a_time() {
    let scratch = Scratch::new();
    let (store, _) = open(&scratch.path());
    let handle = store.clone();
    assert_eq!(
        open_with(&scratch.path(), &Options::default()).err(),
        Some(StoreError::Locked)
    );
    drop(store);
    assert_eq!(
        open_with(&scratch.path(), &Options::default()).err(),
        Some(StoreError::Locked)
    );
    drop(handle);
    open(&scratch.path());
}

#[test]
fn the_last_handle_may_go_where_a_commit_is_told() {
    let scratch = Scratch::new();
    let (mut store, _) = open(&scratch.path());
    let (told, heard) = std::sync::mpsc::channel();
    let batch = Batch {
        term: store.term(),
        writes: vec![row(0, 5)],
    };
    let (handle, gate) = (store.clone(), Arc::new(std::sync::Barrier::new(2)));
    let waits = Arc::clone(&gate);
    let done = move |outcome: Result<u64, StoreError>| {
        waits.wait();
        drop(handle);
        told.send(outcome).expect("heard");
    };
    store.submit(batch, Box::new(done));
    drop(store);
    gate.wait();
    assert_eq!(heard.recv(), Ok(Ok(1)));
    // Its thread is ending.
    let again = loop {
        match open_with(&scratch.path(), &Options::default()) {
            Err(StoreError::Locked) => std::thread::yield_now(),
            opened => break opened.expect("it is let go").0,
        }
    };
    assert_eq!(numbers(&again), [0]);
}

#[test]
fn what_was_submitted_in_an_older_term_is_refused() {
    let scratch = Scratch::new();
    let (mut store, _) = open(&scratch.path());
    let (told, heard) = std::sync::mpsc::channel();
    let batch = Batch {
        term: store.term() + 1,
        writes: vec![row(1, 1)],
    };
    store.submit(batch, Box::new(move |outcome| told.send(outcome).expect("heard")));
    assert_eq!(heard.recv(), Ok(Err(StoreError::Superseded { term: store.term() })));
    assert_eq!(numbers(&store), []);
}

#[test]
fn every_thread_reads_what_it_wrote() {
    let scratch = Scratch::new();
    let (store, _) = open(&scratch.path());
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let store = store.clone();
            scope.spawn(move || {
                for number in 0..50 {
                    let number = thread * 1000 + number;
                    store.commit(vec![row(number, 40)]).expect("kept");
                    let found = store.get(Table::Journal, &number.to_be_bytes()).expect("readable");
                    assert_eq!(found, row(number, 40).value);
                }
            });
        }
    });
    assert_eq!(numbers(&store).len(), 200);
}

#[test]
fn snapshots_are_files_named_by_what_is_in_them() {
    let scratch = Scratch::new();
    let (mut store, _) = open(&scratch.path());
    let name = store.keep(&[b"some ", b"", b"state"]).expect("kept");
    assert_eq!(name, digest::plain(b"some state"));
    assert_eq!(store.keep(&[b"some state"]), Ok(name));
    assert_eq!(store.keep_whole(&Arc::new(b"some state".to_vec())), Ok(name));
    let unnamed = store.keep(&[b"of no row"]).expect("kept");
    let row = SnapshotRow {
        name,
        ..samples::snapshot_row()
    };
    store
        .commit(vec![row.write(&samples::keypair(1).entity_id())])
        .expect("kept");
    drop(store);
    let (mut store, _) = open(&scratch.path());
    assert_eq!(store.fetch(&name, 10).as_deref(), Ok(&b"some state"[..]));
    assert_eq!(store.fetch(&name, 9), Err(StoreError::TooLarge { size: 10, max: 9 }));
    assert_eq!(store.fetch(&unnamed, 9), Err(StoreError::NoSnapshot { name: unnamed }));
    assert_eq!(store.stats().snapshot_bytes, 10);
    store.discard(&name).expect("it goes");
    store.discard(&name).expect("it is gone");
    assert_eq!(store.fetch(&name, 10), Err(StoreError::NoSnapshot { name }));
}

#[test]
fn a_snapshot_that_no_row_names_goes_after_a_crash() {
    let scratch = Scratch::new();
    let (mut store, _) = open(&scratch.path());
    let names = [b"one", b"two"].map(|state| store.keep(&[state]).expect("kept"));
    let row = SnapshotRow {
        name: names[0],
        ..samples::snapshot_row()
    };
    let entity = samples::keypair(1).entity_id();
    store.commit(vec![row.write(&entity)]).expect("kept");
    std::fs::write(scratch.path().join("snapshots/half.new"), "hal").expect("written");
    crash(store, &scratch);
    let (store, _) = open(&scratch.path());
    assert_eq!(store.fetch(&names[0], 9).as_deref(), Ok(&b"one"[..]));
    assert_eq!(
        store.fetch(&names[1], 9),
        Err(StoreError::NoSnapshot { name: names[1] })
    );
    assert!(!scratch.path().join("snapshots/half.new").exists());
}

#[test]
fn what_is_checked_while_commits_go_on_is_not_taken_for_damage() {
    let scratch = Scratch::new();
    let (store, _) = open(&scratch.path());
    let entity = samples::keypair(0x42).entity_id();
    let rows: Vec<_> = samples::journalled();
    store
        .commit(vec![samples::stored_daemon().write(&entity)])
        .expect("kept");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (writer, stop) = (store.clone(), &stop);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                writer.commit(rows.clone()).expect("kept");
                let gone = rows.iter().map(|row| Write::remove(row.table, row.key.clone()));
                writer.commit(gone.collect()).expect("kept");
            }
        });
        for _ in 0..20 {
            store.verify().expect("nothing is damaged");
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Enough to fold several times, with rows put, changed and removed, against a map.
#[test]
fn what_is_folded_reads_as_before() {
    let scratch = Scratch::new();
    let options = Options {
        syncs: false,
        ..Options::default()
    };
    let (mut store, _) = open_with(&scratch.path(), &options).expect("a new store");
    let (mut random, mut model) = (SplitMix64::new(3), BTreeMap::new());
    for round in 0..60 {
        let writes: Vec<_> = (0..100)
            .map(|_| {
                let key = vec![random.byte(), random.byte() % 8];
                let table = if random.below(2) == 0 {
                    Table::Outputs
                } else {
                    Table::Node
                };
                if random.below(4) == 0 {
                    Write::remove(table, key)
                } else {
                    let length = random.below(6000);
                    Write::put(table, key, vec![random.byte(); length])
                }
            })
            .collect();
        for write in &writes {
            let key = (write.table, write.key.clone());
            match &write.value {
                Some(value) => drop(model.insert(key, value.clone())),
                None => drop(model.remove(&key)),
            }
        }
        store.commit(writes).expect("kept");
        if round % 20 == 7 {
            crash(store, &scratch);
            store = open_with(&scratch.path(), &options).expect("it opens").0;
        }
        let range = KeyRange {
            from: vec![random.byte()],
            until: (round % 3 != 0).then(|| vec![random.byte(), random.byte()]),
        };
        let most = random.below(300);
        for table in [Table::Outputs, Table::Node] {
            let expected: Vec<_> = model
                .iter()
                .filter(|((of, key), _)| *of == table && range.contains(key))
                .map(|((_, key), value)| (key.clone(), value.clone()))
                .take(most)
                .collect();
            let found = store.page(table, &range, most).expect("readable");
            assert!(
                found == expected,
                "round {round}: {} rows, {} expected",
                found.len(),
                expected.len()
            );
            let last = model
                .iter()
                .rfind(|((of, key), _)| *of == table && range.contains(key))
                .map(|((_, key), value)| (key.clone(), value.clone()));
            assert_eq!(store.last(table, &range), Ok(last), "round {round}");
        }
    }
    assert_eq!(store.page(Table::Trails, &KeyRange::all(), 5), Ok(vec![]));
}

#[test]
fn an_image_that_a_target_in_doubt_holds_survives_a_crash() {
    let scratch = Scratch::new();
    let (mut store, _) = open(&scratch.path());
    let (held, stray) = (images::image(), b"stray");
    let name = store.keep(&[&held[..7], &held[7..]]).expect("kept");
    assert_eq!(name, digest::plain(&held));
    let unnamed = store.keep(&[stray]).expect("kept");
    let mut prepared = move_frames::prepared();
    prepared.frozen.image = name;
    prepared.image_bytes = held.len() as u64;
    let (entity, mid) = (prepared.order.entity, prepared.order.mid);
    let item = Item::Prepared(Box::new(prepared));
    store.commit(vec![item.write(&entity, &mid)]).expect("kept");
    crash(store, &scratch);
    let (store, _) = open(&scratch.path());
    assert_eq!(store.fetch(&name, 1 << 20).as_deref(), Ok(&held[..]));
    assert_eq!(store.fetch(&unnamed, 9), Err(StoreError::NoSnapshot { name: unnamed }));
    assert!(store.verify().is_ok());
    // Once the row is gone, so is the image, also when the store is closed in between.
    store
        .commit(vec![move_rows::remove_prepared(&entity, &mid)])
        .expect("kept");
    drop(store);
    let (store, _) = open(&scratch.path());
    assert_eq!(store.fetch(&name, 1 << 20), Err(StoreError::NoSnapshot { name }));
}

#[test]
fn no_file_goes_while_a_row_of_a_move_cannot_be_read() {
    let scratch = Scratch::new();
    let (mut store, _) = open(&scratch.path());
    let name = store.keep(&[b"one"]).expect("kept");
    let (entity, mid) = (samples::keypair(1).entity_id(), move_frames::MID);
    let mut row = Item::Retired.write(&entity, &mid);
    row.value = Some(b"?".to_vec());
    store.commit(vec![row]).expect("kept");
    crash(store, &scratch);
    let (store, _) = open(&scratch.path());
    assert_eq!(store.fetch(&name, 9).as_deref(), Ok(&b"one"[..]));
}
