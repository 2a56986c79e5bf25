//! Records on the disk.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use meshos_core::command::{AdminEvent, Command, Order, Verdict};
use meshos_core::digest::Digest;
use meshos_core::id::{EntityId, NodeId};
use meshos_core::status::{AuditRecord, FailureRecord};
use meshos_core::time::UnixMs;
use meshos_core::trail::{Kind, Proven, TEXT_BYTES_MAX, TrailError};
use meshos_node::appender::Appender;
use meshos_node::keys;
use meshos_node::slot::SharedKey;
use meshos_node::sync::Mutex;
use meshos_node::trail_file::{ClaimError, OpenError, TrailFile, VerifyError, verify};

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("meshos-{name}-{}-{:x}", std::process::id(), keys::random_u64()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("audit.chain")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn record(seq: u64) -> AuditRecord {
    AuditRecord {
        seq,
        at: UnixMs::new(1_700_000_000_000 + seq),
        command: Command {
            order: Order::Admin(AdminEvent::Cordon { node: NodeId::new(seq) }),
            verdict: Verdict::Accepted,
            operators: vec![1],
            reason: "test".to_owned(),
            envelope_id: Some([9; 16]),
            issued_at: None,
        },
        times: 1,
        chain_pending: false,
    }
}

fn open(folder: &Folder) -> Result<TrailFile, OpenError> {
    opened(folder, Kind::Audit, None)
}

fn opened(folder: &Folder, kind: Kind, signer: Option<SharedKey>) -> Result<TrailFile, OpenError> {
    TrailFile::open(&folder.file(), kind, "test", 1, signer, &mut || false)
}

fn checked(folder: &Folder, signer: Option<EntityId>, end: Option<&Digest>) -> Result<Proven, VerifyError> {
    let file = fs::File::open(folder.file()).unwrap();
    verify(file, signer, end, &mut || false, drop)
}

fn records(folder: &Folder) -> u64 {
    checked(folder, None, None).unwrap().records
}

#[test]
fn what_append_took_is_in_the_file_and_a_later_run_goes_on() {
    let folder = Folder::new("goes-on");
    let first = open(&folder).unwrap();
    for seq in 1..=10 {
        first.append(&record(seq)).unwrap();
        assert_eq!(records(&folder), seq);
    }
    Appender::<AuditRecord>::close(&first).unwrap();
    assert!(first.append(&record(11)).is_err(), "it is closed");
    let second = open(&folder).unwrap();
    second.append(&record(1)).unwrap();
    assert_eq!(records(&folder), 11);
}

#[test]
fn one_writer_at_a_time() {
    let folder = Folder::new("one-writer");
    let first = open(&folder).unwrap();
    assert!(matches!(open(&folder), Err(OpenError::Locked)));
    drop(first);
    assert!(open(&folder).is_ok());
}

#[test]
fn a_cut_entry_is_taken_away_and_a_broken_file_is_left_alone() {
    let folder = Folder::new("cut");
    let trail = open(&folder).unwrap();
    (1..=3).for_each(|seq| trail.append(&record(seq)).unwrap());
    drop(trail);
    let whole = fs::read(folder.file()).unwrap();
    fs::write(folder.file(), &whole[..whole.len() - 5]).unwrap();
    let trail = open(&folder).unwrap();
    trail.append(&record(9)).unwrap();
    drop(trail);
    assert_eq!(records(&folder), 3);
    let mut altered = fs::read(folder.file()).unwrap();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    fs::write(folder.file(), &altered).unwrap();
    assert!(matches!(open(&folder), Err(OpenError::Trail(_))));
    assert_eq!(fs::read(folder.file()).unwrap(), altered);
    assert!(matches!(
        checked(&folder, None, None),
        Err(VerifyError::Trail(
            TrailError::Broken { .. } | TrailError::Unreadable { .. }
        ))
    ));
}

#[test]
fn another_kind_of_file_is_refused() {
    let folder = Folder::new("kind");
    drop(open(&folder).unwrap());
    let wrong = opened(&folder, Kind::Failure, None);
    assert!(matches!(wrong, Err(OpenError::WrongKind { .. })));
    fs::write(folder.file(), b"something else entirely, long enough to be a head").unwrap();
    assert!(matches!(open(&folder), Err(OpenError::Trail(_))));
}

#[test]
fn a_signer_vouches_at_the_end_and_a_cut_tail_shows() {
    let folder = Folder::new("signed");
    let key = keys::generate();
    let signer = key.entity_id();
    let key = Arc::new(Mutex::new(key));
    let trail = opened(&folder, Kind::Audit, Some(key)).unwrap();
    (1..=5).for_each(|seq| trail.append(&record(seq)).unwrap());
    trail.finish().unwrap();
    let proven = checked(&folder, Some(signer), None).unwrap();
    assert_eq!((proven.records, proven.signed_through), (5, 5));
    assert!(checked(&folder, None, Some(&proven.digest)).is_ok());
    let whole = fs::read(folder.file()).unwrap();
    fs::write(folder.file(), &whole[..whole.len() - 8 - 17 - 96 - 32]).unwrap();
    let cut = checked(&folder, Some(signer), None).unwrap();
    assert_eq!((cut.records, cut.signed_through), (5, 0));
    assert!(matches!(
        checked(&folder, None, Some(&proven.digest)),
        Err(VerifyError::Trail(TrailError::WrongEnd { .. }))
    ));
}

#[cfg(unix)]
#[test]
fn nobody_else_can_read_a_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("private");
    drop(open(&folder).unwrap());
    assert_eq!(fs::metadata(folder.file()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_million_bytes_of_failures_are_kept_quickly() {
    let folder = Folder::new("quick");
    let trail = opened(&folder, Kind::Failure, None).unwrap();
    let failure = |seq| {
        Arc::new(FailureRecord {
            seq,
            at: UnixMs::new(seq),
            failure: meshos_core::status::Failure {
                source: meshos_core::status::FailureSource {
                    part: meshos_core::status::Part::Loop,
                    name: Arc::from("test"),
                    target: None,
                    action_id: None,
                    envelope_id: None,
                },
                reason: Arc::from("on purpose"),
                traceback: None,
            },
            chain_pending: false,
        })
    };
    let began = Instant::now();
    for seq in 1..=2000 {
        trail.append(&failure(seq)).unwrap();
    }
    Appender::<Arc<FailureRecord>>::close(&trail).unwrap();
    assert_eq!(records(&folder), 2000);
    assert!(began.elapsed().as_secs() < 60);
}

#[test]
fn a_file_keeps_the_records_of_one_loop() {
    let folder = Folder::new("claim");
    let trail = Arc::new(open(&folder).unwrap());
    let first = trail.claim().unwrap();
    assert_eq!(trail.claim().err(), Some(ClaimError::Taken));
    drop(first);
    // The loop did not start.
    let second = trail.claim().unwrap();
    second.keep();
    assert_eq!(trail.claim().err(), Some(ClaimError::Taken));
    trail.finish().unwrap();
    assert_eq!(trail.claim().err(), Some(ClaimError::Closed));
}

#[test]
fn what_has_no_encoding_leaves_the_file_as_it_was() {
    let folder = Folder::new("unwritable");
    let trail = open(&folder).unwrap();
    trail.append(&record(1)).unwrap();
    let mut long = record(2);
    long.command.reason = "x".repeat(TEXT_BYTES_MAX + 1);
    assert!(trail.append(&long).is_err());
    trail.append(&record(3)).unwrap();
    assert_eq!(records(&folder), 2);
}

#[test]
fn a_long_failure_is_cut_and_kept() {
    let folder = Folder::new("long");
    let trail = opened(&folder, Kind::Failure, None).unwrap();
    let long: Arc<str> = Arc::from("ü".repeat(TEXT_BYTES_MAX));
    trail
        .append(&Arc::new(FailureRecord {
            seq: 1,
            at: UnixMs::new(1),
            failure: meshos_core::status::Failure {
                source: meshos_core::status::FailureSource {
                    part: meshos_core::status::Part::Loop,
                    name: Arc::clone(&long),
                    target: None,
                    action_id: None,
                    envelope_id: None,
                },
                reason: Arc::clone(&long),
                traceback: Some(long),
            },
            chain_pending: false,
        }))
        .unwrap();
    assert_eq!(records(&folder), 1);
}
