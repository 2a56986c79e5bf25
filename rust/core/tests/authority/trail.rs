//! Records in a file: what was changed, removed, moved or cut shows.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::authority::{Bucket, FUTURE_SKEW_MAX, History, Ledger, Policy, USED_MAX};
use meshos_core::command::{Command, IceAction, Order, Verdict};
use meshos_core::digest::Digest;
use meshos_core::event::Crash;
use meshos_core::id::{NodeId, Origin};
use meshos_core::refusal::{KINDS, Refused};
use meshos_core::signal::LogLevel;
use meshos_core::status::{AuditRecord, Disposed, Disposition, Failure, FailureRecord, FailureSource, LogRecord, Part};
use meshos_core::testing::envelopes::policy;
use meshos_core::time::UnixMs;
use meshos_core::trail::{ActionEntry, Entry, Head, Kind, LENGTH_SIZE, Proven, TEXT_BYTES_MAX, TrailError, read};

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
            issued_at: Some(ISSUED),
        },
        times: seq,
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
    file_of(head(), entries)
}

fn file_of(head: Head, entries: &[Entry]) -> (Vec<u8>, Digest) {
    let mut bytes = head.to_bytes().to_vec();
    let mut digest = head.digest();
    for entry in entries {
        let (frame, after) = entry.frame(&digest).unwrap();
        bytes.extend_from_slice(&frame);
        digest = after;
    }
    (bytes, digest)
}

fn proven(bytes: &[u8]) -> Result<Proven, TrailError> {
    read(bytes, None, false, drop)
}

/// A place, with the record that stands there or comes next.
fn is_at(error: TrailError, at: u64, next: u64) -> bool {
    match error {
        TrailError::Broken { place, .. } | TrailError::BadSignature { place, .. } => {
            (place.entry, place.record) == (at, next)
        }
        TrailError::Unreadable { .. } | TrailError::WrongEnd { .. } => false,
    }
}

#[test]
fn entries_come_back() {
    for kind in [Kind::Audit, Kind::Log, Kind::Failure, Kind::Action] {
        let all: Vec<Entry> = entries()
            .into_iter()
            .filter(|entry| entry.kind().is_none_or(|of| of == kind))
            .collect();
        let head = Head { kind, ..head() };
        let (bytes, digest) = file_of(head, &all);
        let mut seen = Vec::new();
        let said = read(&bytes, None, false, |entry| seen.push(entry)).unwrap();
        assert_eq!(seen, all);
        assert_eq!(said.records, all.len() as u64 - 1);
        assert_eq!(
            (said.first_seq, said.last_seq),
            (all[0].seq(), all[all.len() - 2].seq())
        );
        assert_eq!((said.digest, said.bytes, said.head), (digest, bytes.len() as u64, head));
    }
}

#[test]
fn a_trail_keeps_records_of_one_kind() {
    let (bytes, _) = file(&entries());
    assert!(matches!(
        proven(&bytes),
        Err(TrailError::Unreadable { place, .. }) if place.entry == 4
    ));
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

/// A writer that continued a file would take everything away behind a length that it took for one that was cut short.
#[test]
fn a_changed_length_is_not_taken_for_a_cut_one() {
    let (bytes, _) = file(&entries()[..3]);
    let second = file(&entries()[..1]).0.len();
    for bit in second * 8..(second + LENGTH_SIZE) * 8 {
        let mut altered = bytes.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&altered, None, true, drop).is_err(), "bit {bit}");
    }
}

#[test]
fn what_a_system_that_died_left_as_zeros_is_no_entry() {
    let (two, digest) = file(&entries()[..2]);
    for zeros in 1..100 {
        let mut bytes = two.clone();
        bytes.resize(two.len() + zeros, 0);
        assert!(proven(&bytes).is_err());
        let said = read(&bytes, None, true, drop).unwrap();
        assert_eq!((said.digest, said.bytes), (digest, two.len() as u64));
        bytes.push(1);
        if zeros >= LENGTH_SIZE {
            assert!(read(&bytes, None, true, drop).is_err());
        }
    }
}

#[test]
fn an_entry_that_was_taken_out_or_moved_is_named() {
    let all = entries();
    let frames: Vec<Vec<u8>> = {
        let mut digest = head().digest();
        let frame = |entry: &Entry| {
            let (frame, after) = entry.frame(&digest).unwrap();
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
    for (order, at) in [(&[0, 2][..], 2), (&[1, 0], 1), (&[0, 1, 1], 3)] {
        assert!(is_at(proven(&joined(order)).unwrap_err(), at, at));
    }
}

#[test]
fn what_a_crash_cut_is_read_up_to_the_last_whole_entry() {
    let (bytes, _) = file(&entries()[..3]);
    let (two, digest) = file(&entries()[..2]);
    for length in two.len()..bytes.len() {
        let said = read(&bytes[..length], None, true, drop).unwrap();
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
    let said = read(&bytes, Some(&signer), false, drop).unwrap();
    assert_eq!((said.records, said.signed_through), (3, 2));
    let other = key(2).entity_id();
    assert_eq!(read(&bytes, Some(&other), false, drop).unwrap().signed_through, 0);
    // A signature for another place does not hold here.
    let (_, elsewhere) = file(&all[..1]);
    let moved = vec![
        all[0].clone(),
        all[1].clone(),
        Entry::sign(&elsewhere, 2, ISSUED, &key(1)).unwrap(),
    ];
    assert!(is_at(proven(&file(&moved).0).unwrap_err(), 3, 3));
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

#[test]
fn what_could_not_be_read_is_not_written() {
    let fits = "x".repeat(TEXT_BYTES_MAX);
    for (reason, writable) in [(fits.clone(), true), (fits + "x", false)] {
        let Entry::Action(mut action) = entries()[5].clone() else {
            panic!("an action");
        };
        action.disposed.reason = Arc::from(reason);
        let entry = Entry::Action(action);
        match entry.frame(&head().digest()) {
            Ok(_) => assert_eq!((Entry::decode(&entry.to_bytes()), writable), (Ok(entry.clone()), true)),
            Err(_) => assert!(!writable),
        }
    }
}

fn history(entries: impl IntoIterator<Item = Entry>) -> History {
    let mut history = History::default();
    for entry in entries {
        if let Entry::Audit(record) = &entry {
            history.add(record);
        }
    }
    history
}

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Whatever the clock says when a node starts again: what was obeyed is not obeyed once more.
#[test]
fn what_an_audit_tells_is_obeyed_by_no_later_run() {
    let policy = policy();
    let before = history([
        audit(1, Verdict::Accepted),
        audit(2, Verdict::Rejected { kind: "replayed" }),
    ]);
    let second = Duration::from_secs(1);
    for now in [
        ISSUED,
        ISSUED.plus(second),
        ISSUED.plus(DAY),
        UnixMs::new(ISSUED.get() - DAY.as_millis() as u64),
    ] {
        let mut ledger = Ledger::default();
        ledger.recall(&before, &policy, now);
        for at in [now, ISSUED, ISSUED.plus(second)] {
            let again = ledger.clone().obey([7; 16], ISSUED, None, &policy, at);
            assert_eq!(again, Err(Refused::Replayed { envelope_id: [7; 16] }), "{now} {at}");
        }
        let other = ledger.obey([8; 16], now.plus(second), None, &policy, now);
        assert_eq!(other, Ok(()), "{now}");
    }
}

#[test]
fn an_audit_without_the_time_of_issue_forgets_nothing_too_early() {
    let Entry::Audit(mut record) = audit(1, Verdict::Accepted) else {
        panic!("a command");
    };
    record.command.issued_at = None;
    let mut ledger = Ledger::default();
    let policy = Policy {
        future_skew: FUTURE_SKEW_MAX,
        ..policy()
    };
    ledger.recall(&history([Entry::Audit(record)]), &policy, ISSUED.plus(DAY));
    // It may have been made as far ahead of the clock as any policy allows.
    let made = ISSUED.plus(FUTURE_SKEW_MAX);
    let again = ledger.obey([7; 16], made, None, &policy, made);
    assert_eq!(again, Err(Refused::Replayed { envelope_id: [7; 16] }));
}

#[test]
fn cooldowns_are_rebuilt_and_a_clock_that_was_set_back_makes_them_no_longer() {
    let policy = policy();
    let before = history([audit(1, Verdict::Accepted)]);
    let cooling = |now: UnixMs| {
        let mut ledger = Ledger::default();
        ledger.recall(&before, &policy, now);
        ledger.cooldowns(now).collect::<Vec<_>>()
    };
    let acted = ISSUED.plus(Duration::from_millis(1));
    let until = acted.plus(policy.cooldown);
    assert_eq!(cooling(acted), [(Bucket::Freeze, until)]);
    assert_eq!(cooling(UnixMs::new(until.get() - 1)), [(Bucket::Freeze, until)]);
    assert_eq!(cooling(until), []);
    let earlier = UnixMs::new(ISSUED.get() - HOUR.as_millis() as u64);
    assert_eq!(cooling(earlier), [(Bucket::Freeze, earlier.plus(policy.cooldown))]);
}

#[test]
fn a_long_history_leaves_space_for_what_comes() {
    let policy = policy();
    let mut before = History::default();
    let Entry::Audit(record) = audit(2, Verdict::Accepted) else {
        panic!("a command");
    };
    for number in 0..USED_MAX as u64 + 1000 {
        let mut record = record.clone();
        record.command.envelope_id = Some(u128::from(number).to_be_bytes());
        record.command.issued_at = Some(ISSUED.plus(Duration::from_millis(number)));
        before.add(&record);
    }
    let mut ledger = Ledger::default();
    ledger.recall(&before, &policy, ISSUED);
    assert_eq!(ledger.len(), USED_MAX / 2);
    for number in [0, 1000, 40_000, USED_MAX as u64 + 999] {
        let issued_at = ISSUED.plus(Duration::from_millis(number));
        let again = ledger.check(u128::from(number).to_be_bytes(), issued_at, None, ISSUED);
        assert!(matches!(again, Err(Refused::Replayed { .. })), "{number}");
    }
    assert_eq!(ledger.obey([255; 16], ISSUED.plus(HOUR), None, &policy, ISSUED), Ok(()));
}
