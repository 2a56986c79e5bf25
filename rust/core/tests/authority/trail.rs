//! Records in a file: what was changed, removed, moved or cut shows.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::command::{Command, IceAction, Order, Verdict};
use meshos_core::digest::Digest;
use meshos_core::event::Crash;
use meshos_core::id::{NodeId, Origin};
use meshos_core::refusal::{KINDS, Refused};
use meshos_core::signal::LogLevel;
use meshos_core::status::{AuditRecord, Disposed, Disposition, Failure, FailureRecord, FailureSource, LogRecord, Part};
use meshos_core::trail::{ActionEntry, Entry, Head, Kind, Proven, TrailError, read};

use crate::{ISSUED, cordon, key};

fn audit(seq: u64, verdict: Verdict) -> Entry {
    let order = match seq % 2 {
        0 => Order::Admin(cordon().event),
        _ => Order::Ice(IceAction::FreezeCluster {
            ttl: Duration::from_secs(60),
        }),
    };
    Entry::Audit(AuditRecord {
        seq,
        at: ISSUED.plus(Duration::from_millis(seq)),
        command: Command {
            order,
            verdict,
            operators: vec![1, 2],
            reason: "why".to_owned(),
            envelope_id: Some([7; 16]),
            issued_at: None,
        },
        chain_pending: false,
    })
}

fn entries() -> Vec<Entry> {
    let failure = Failure {
        source: FailureSource {
            part: Part::Probe,
            name: Arc::from("Pings"),
            target: Some(3),
            action_id: None,
            envelope_id: None,
        },
        reason: Arc::from("raised"),
        traceback: Some(Arc::from("File …")),
    };
    vec![
        audit(1, Verdict::Accepted),
        audit(2, Verdict::Open),
        audit(
            3,
            Verdict::Rejected {
                kind: "signature_invalid",
            },
        ),
        Entry::Log(LogRecord {
            seq: 4,
            at: ISSUED,
            level: LogLevel::Warn,
            node: NodeId::new(1),
            daemon: Some(Origin::new(9)),
            message: Arc::from("a line"),
            chain_pending: false,
        }),
        Entry::Failure(FailureRecord {
            seq: 5,
            at: ISSUED,
            failure,
            chain_pending: false,
        }),
        Entry::Action(ActionEntry {
            seq: 6,
            at: ISSUED,
            disposed: Disposed {
                action_id: 11,
                kind: "start_daemon",
                disposition: Disposition::Failed,
                reason: Arc::from("not yet"),
                retry_after: Some(Duration::from_millis(20)),
            },
        }),
        Entry::Run { run_id: 42, at: ISSUED },
    ]
}

fn head() -> Head {
    Head {
        kind: Kind::Audit,
        trail_id: [3; 16],
        at: ISSUED,
    }
}

fn file(entries: &[Entry]) -> (Vec<u8>, Digest) {
    let mut bytes = head().to_bytes().to_vec();
    let mut digest = head().digest();
    for entry in entries {
        let (frame, after) = entry.frame(&digest);
        bytes.extend_from_slice(&frame);
        digest = after;
    }
    (bytes, digest)
}

fn proven(bytes: &[u8]) -> Result<Proven, TrailError> {
    read(bytes, None, false, |_| {})
}

#[test]
fn entries_come_back() {
    let (bytes, digest) = file(&entries());
    let mut seen = Vec::new();
    let said = read(&bytes, None, false, |entry| seen.push(entry)).unwrap();
    assert_eq!(seen, entries());
    assert_eq!((said.records, said.first_seq, said.last_seq), (6, 1, 6));
    assert_eq!(
        (said.digest, said.bytes, said.head),
        (digest, bytes.len() as u64, head())
    );
}

#[test]
fn every_single_bit_counts() {
    let (bytes, _) = file(&entries()[..3]);
    for bit in 0..bytes.len() * 8 {
        let mut altered = bytes.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(proven(&altered).is_err(), "bit {bit}");
    }
}

#[test]
fn an_entry_that_was_taken_out_or_moved_is_named() {
    let all = entries();
    let frames: Vec<Vec<u8>> = {
        let mut digest = head().digest();
        let frame = |entry: &Entry| {
            let (frame, after) = entry.frame(&digest);
            digest = after;
            frame
        };
        all.iter().map(frame).collect()
    };
    let joined = |order: &[usize]| {
        let mut bytes = head().to_bytes().to_vec();
        order.iter().for_each(|place| bytes.extend_from_slice(&frames[*place]));
        bytes
    };
    assert_eq!(proven(&joined(&[0, 2, 3])), Err(TrailError::Broken { entry: 2 }));
    assert_eq!(proven(&joined(&[1, 0])), Err(TrailError::Broken { entry: 1 }));
    assert_eq!(proven(&joined(&[0, 1, 1])), Err(TrailError::Broken { entry: 3 }));
}

#[test]
fn what_a_crash_cut_is_read_up_to_the_last_whole_entry() {
    let (bytes, _) = file(&entries());
    let (two, digest) = file(&entries()[..2]);
    for length in two.len()..file(&entries()[..3]).0.len() {
        let said = read(&bytes[..length], None, true, |_| {}).unwrap();
        assert_eq!((said.records, said.digest, said.bytes), (2, digest, two.len() as u64));
        assert_eq!(proven(&bytes[..length]).is_ok(), length == two.len());
    }
}

#[test]
fn a_signed_head_vouches_for_what_stands_before_it() {
    let mut all = entries()[..2].to_vec();
    let (_, digest) = file(&all);
    all.push(Entry::sign(&digest, 2, ISSUED, &key(1)).unwrap());
    all.push(entries()[2].clone());
    let (bytes, _) = file(&all);
    let signer = key(1).entity_id();
    let said = read(&bytes, Some(&signer), false, |_| {}).unwrap();
    assert_eq!((said.records, said.signed_through), (3, 2));
    let other = key(2).entity_id();
    assert_eq!(read(&bytes, Some(&other), false, |_| {}).unwrap().signed_through, 0);
    // A signature for another place does not hold here.
    let (_, elsewhere) = file(&all[..1]);
    let moved = vec![
        all[0].clone(),
        all[1].clone(),
        Entry::sign(&elsewhere, 2, ISSUED, &key(1)).unwrap(),
    ];
    assert_eq!(proven(&file(&moved).0), Err(TrailError::BadSignature { entry: 3 }));
}

#[test]
fn every_refusal_can_be_kept() {
    for kind in KINDS {
        let entry = audit(1, Verdict::Rejected { kind });
        assert_eq!(Entry::decode(&entry.to_bytes()), Ok(entry));
    }
    assert!(KINDS.contains(&Refused::WrongCluster.kind()));
    assert!(Crash::default().event.is_none());
}
