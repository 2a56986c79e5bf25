//! Folders that are no store, of another version, or damaged.

use std::path::{Path, PathBuf};

use meshos_core::segment;
use meshos_core::store::{Damage, Store, StoreError};
use meshos_node::redb_store::Options;

use crate::{Scratch, numbers, open, open_with, row};

/// Copies a folder with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("it can be made");
    for entry in std::fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it can be read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("it can be copied");
        }
    }
}

fn refused(path: &Path) -> StoreError {
    open_with(path, &Options::default()).err().expect("it is refused")
}

/// A store as a killed process leaves it: 20 rows in the log.
fn left_behind(scratch: &Scratch) -> PathBuf {
    let (store, _) = open(&scratch.path());
    for number in 0..20 {
        store.commit(vec![row(number, 64)]).expect("kept");
    }
    let left = scratch.path().with_extension("left");
    copy(&scratch.path(), &left);
    left
}

/// The newest file of the log.
fn segment_of(path: &Path) -> PathBuf {
    let files = std::fs::read_dir(path.join("log")).expect("it is there");
    let mut files: Vec<_> = files.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files.pop().expect("there is one")
}

fn change(path: &Path, with: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("it is there");
    with(&mut bytes);
    std::fs::write(path, bytes).expect("it can be written");
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let scratch = Scratch::new();
    let none = Options {
        create: false,
        ..Options::default()
    };
    assert_eq!(open_with(&scratch.path(), &none).err(), Some(StoreError::Missing));
    assert!(!scratch.path().exists());

    std::fs::create_dir(scratch.path()).expect("a folder");
    assert_eq!(open_with(&scratch.path(), &none).err(), Some(StoreError::Missing));
    std::fs::write(scratch.path().join("letter.txt"), "dear").expect("a file");
    assert_eq!(refused(&scratch.path()), StoreError::NotAStore);
    let names: Vec<_> = std::fs::read_dir(scratch.path()).expect("it is there").collect();
    assert_eq!(names.len(), 1);

    let file = scratch.path().join("letter.txt");
    assert_eq!(refused(&file), StoreError::NotAStore);
    std::fs::write(scratch.path().join("meshos.store"), "something else").expect("a file");
    assert_eq!(refused(&scratch.path()), StoreError::NotAStore);
}

#[test]
fn a_folder_where_nothing_may_be_written_is_read_only() {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let scratch = Scratch::new();
        let (store, _) = open(&scratch.path());
        drop(store);
        for name in ["lock", "."] {
            let path = scratch.path().join(name);
            let mode = if name == "." { 0o500 } else { 0o400 };
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
        }
        // The superuser may write everywhere.
        if std::fs::write(scratch.path().join("probe"), "").is_err() {
            assert_eq!(refused(&scratch.path()), StoreError::ReadOnly);
        }
        std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o700)).expect("it is ours");
    }
}

#[test]
fn a_newer_version_is_told_from_damage() {
    let scratch = Scratch::new();
    drop(open(&scratch.path()));
    let head = scratch.path().join("meshos.store");
    change(&head, |bytes| bytes[8] = 2);
    assert_eq!(
        refused(&scratch.path()),
        StoreError::NewerVersion { found: 2, known: 1 }
    );
    change(&head, |bytes| (bytes[8], bytes[20]) = (1, bytes[20] ^ 1));
    assert!(matches!(refused(&scratch.path()), StoreError::Damaged(Damage::Head(_))));
    change(&head, |bytes| bytes.truncate(30));
    assert!(matches!(refused(&scratch.path()), StoreError::Damaged(Damage::Head(_))));
    std::fs::remove_file(&head).expect("it is there");
    assert!(matches!(refused(&scratch.path()), StoreError::Damaged(Damage::Head(_))));
}

#[test]
fn a_damaged_or_swapped_key_is_refused() {
    let scratch = Scratch::new();
    drop(open(&scratch.path()));
    let key = scratch.path().join("node.key");
    change(&key, |bytes| bytes[20] ^= 1);
    assert!(matches!(refused(&scratch.path()), StoreError::Damaged(Damage::Key(_))));
    let other = Scratch::new();
    drop(open(&other.path()));
    std::fs::copy(other.path().join("node.key"), &key).expect("copied");
    assert!(matches!(refused(&scratch.path()), StoreError::OtherNode { .. }));
}

#[test]
fn a_torn_log_is_cut_and_damage_before_its_end_is_refused_with_its_place() {
    let scratch = Scratch::new();
    let left = left_behind(&scratch);
    let length = std::fs::metadata(segment_of(&left)).expect("it is there").len();
    for cut in [1, 30, 31, 90] {
        let torn = scratch.path().with_extension("torn");
        copy(&left, &torn);
        change(&segment_of(&torn), |bytes| bytes.truncate(bytes.len() - cut));
        let (store, opened) = open(&torn);
        assert!(opened.cut > 0 && opened.cut < length);
        let found = numbers(&store);
        assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>());
        assert_eq!((found.len() as u64, opened.commits), (19, 19));
        drop(store);
        let (store, opened) = open(&torn);
        assert_eq!((numbers(&store).len(), opened.cut), (19, 0));
        drop(store);
        std::fs::remove_dir_all(torn).expect("it is there");
    }
    let (first, last) = (segment::HEAD_SIZE, usize::try_from(length).expect("small") - 200);
    for at in [0, 9, 40, first, first + 5, first + 60, last] {
        let flipped = scratch.path().with_extension("flipped");
        copy(&left, &flipped);
        change(&segment_of(&flipped), |bytes| bytes[at] ^= 1);
        match refused(&flipped) {
            StoreError::Damaged(Damage::Log(segment::Damage::Altered { offset, .. })) => {
                assert!(at >= first && offset as usize <= at && at < offset as usize + 200);
            }
            StoreError::Damaged(Damage::Log(segment::Damage::Unreadable { .. })) => assert!(at < first),
            error => panic!("byte {at}: {error}"),
        }
        std::fs::remove_dir_all(flipped).expect("it is there");
    }
}

#[test]
fn a_missing_or_foreign_log_is_refused() {
    let scratch = Scratch::new();
    let left = left_behind(&scratch);
    let segment = segment_of(&left);
    let kept = std::fs::read(&segment).expect("it is there");
    std::fs::remove_file(&segment).expect("it is there");
    let missing = StoreError::Damaged(Damage::Log(segment::Damage::NoSegment { ordinal: 1 }));
    assert_eq!(refused(&left), missing);
    let other = Scratch::new();
    let (store, _) = open(&other.path());
    store.commit(vec![row(1, 5)]).expect("kept");
    std::fs::copy(segment_of(&other.path()), &segment).expect("copied");
    let foreign = StoreError::Damaged(Damage::Log(segment::Damage::Foreign { ordinal: 1 }));
    assert_eq!(refused(&left), foreign);
    std::fs::write(&segment, kept).expect("as it was");
    assert_eq!(numbers(&open(&left).0).len(), 20);
}

#[test]
fn a_damaged_tree_is_an_error_and_no_panic() {
    let scratch = Scratch::new();
    let (store, _) = open(&scratch.path());
    for number in 0..200 {
        store.commit(vec![row(number, 500)]).expect("kept");
    }
    drop(store);
    let tree = scratch.path().join("tree.redb");
    let good = std::fs::read(&tree).expect("it is there");
    let mut outcomes = [0, 0];
    let lengths = [0, 1, 320, 4096, good.len() / 2, good.len() - 1];
    let steps = (0..good.len()).step_by((good.len() / 60).max(1));
    let cases = lengths
        .map(|length| (Some(length), 0))
        .into_iter()
        .chain(steps.map(|at| (None, at)));
    for (length, at) in cases {
        let mut bad = good.clone();
        match length {
            Some(length) => bad.truncate(length),
            None => bad[at] ^= 0x10,
        }
        std::fs::write(&tree, &bad).expect("written");
        // What is not read by opening is found by a check of everything.
        let outcome = open_with(&scratch.path(), &Options::default()).and_then(|(store, _)| store.verify());
        match outcome {
            Ok(_) => outcomes[0] += 1,
            Err(_) => outcomes[1] += 1,
        }
    }
    assert!(outcomes[1] > 6, "{outcomes:?}");
}

#[test]
fn a_missing_tree_is_no_empty_one() {
    for closes in [true, false] {
        let scratch = Scratch::new();
        let left = left_behind(&scratch);
        if closes {
            drop(open(&left));
        }
        std::fs::remove_file(left.join("tree.redb")).expect("it is there");
        assert_eq!(refused(&left), StoreError::Damaged(Damage::Tree));
    }
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let scratch = Scratch::new();
    let (mut store, _) = open(&scratch.path());
    let name = store.keep(&[&[7; 5000]]).expect("kept");
    let file = scratch.path().join("snapshots").join(name.to_string());
    change(&file, |bytes| bytes[4000] ^= 1);
    let damaged = Err(StoreError::Damaged(Damage::Snapshot { name }));
    assert_eq!(store.fetch(&name, 10_000), damaged);
    std::fs::remove_file(&file).expect("it is there");
    assert_eq!(store.fetch(&name, 10_000), Err(StoreError::NoSnapshot { name }));
}
