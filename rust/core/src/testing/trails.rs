//! Files of records of every kind, and the fuzz function that reads them.

use std::sync::Arc;
use std::time::Duration;

use super::envelopes::{self, ISSUED};
use super::samples::keypair;
use crate::command::{Command, IceAction, Order, Verdict};
use crate::digest::{Context, derive};
use crate::id::{NodeId, Origin};
use crate::signal::LogLevel;
use crate::status::{AuditRecord, Disposed, Disposition, Failure, FailureRecord, FailureSource, LogRecord, Part};
use crate::time::UnixMs;
use crate::trail::{ActionEntry, BODY_BYTES_MAX, Entry, HEAD_SIZE, Head, Kind, LENGTH_SIZE, read};

fn at(seq: u64) -> UnixMs {
    ISSUED.plus(Duration::from_millis(seq))
}

fn audits() -> Vec<Entry> {
    let command = |order, verdict, envelope_id: Option<[u8; 16]>| Command {
        order,
        verdict,
        operators: vec![7, u64::MAX],
        reason: "naïve ☠".to_owned(),
        envelope_id,
        issued_at: envelope_id.map(|_| ISSUED),
    };
    let drain = envelopes::admin();
    let freeze = IceAction::FreezeCluster {
        ttl: Duration::from_secs(300),
    };
    let kind = "signature_invalid";
    let record = |seq, command, times| {
        Entry::Audit(AuditRecord {
            seq,
            at: at(seq),
            command,
            times,
            chain_pending: false,
        })
    };
    let (admin, id) = (Order::Admin(drain.event), drain.header.envelope_id);
    vec![
        record(1, command(admin.clone(), Verdict::Accepted, Some(id)), 1),
        record(2, command(Order::Ice(freeze), Verdict::Rejected { kind }, None), 3),
        record(3, command(admin, Verdict::Open, None), 1),
    ]
}

fn lines() -> Vec<Entry> {
    let line = |seq, level, daemon, message: &str| {
        Entry::Log(LogRecord {
            seq,
            at: at(seq),
            level,
            node: NodeId::new(1),
            daemon,
            message: Arc::from(message),
            chain_pending: false,
        })
    };
    vec![
        line(1, LogLevel::Warn, None, "line 1"),
        line(2, LogLevel::Trace, Some(Origin::new(9)), ""),
    ]
}

fn failures() -> Vec<Entry> {
    let failure = |seq, name: &str, target, envelope_id, traceback: Option<&str>| {
        Entry::Failure(FailureRecord {
            seq,
            at: at(seq),
            failure: Failure {
                source: FailureSource {
                    part: if target { Part::Probe } else { Part::Loop },
                    name: Arc::from(name),
                    target: target.then_some(3),
                    action_id: (!target).then_some(11),
                    envelope_id,
                },
                reason: Arc::from("raised"),
                traceback: traceback.map(Arc::from),
            },
            chain_pending: false,
        })
    };
    vec![
        failure(1, "Pings", true, Some([8; 16]), Some("File …\n")),
        failure(2, "", false, None, None),
    ]
}

fn actions() -> Vec<Entry> {
    let action = |seq, kind, disposition, retry_after| {
        Entry::Action(ActionEntry {
            seq,
            at: at(seq),
            disposed: Disposed {
                action_id: 11,
                kind,
                disposition,
                reason: Arc::from("not yet"),
                retry_after,
            },
        })
    };
    vec![
        action(1, "start_daemon", Disposition::Failed, Some(Duration::from_millis(20))),
        action(2, "commit_maintenance_transition", Disposition::Dispatched, None),
    ]
}

/// A file of each kind by its name: a mark, records, and a head that the sample pair 1 signed.
///
/// # Panics
/// Never: the records can be written, and the pair can sign.
#[must_use]
pub fn files() -> Vec<(&'static str, Vec<u8>)> {
    let all = [
        ("audit_records", Kind::Audit, audits()),
        ("log_records", Kind::Log, lines()),
        ("failure_records", Kind::Failure, failures()),
        ("action_records", Kind::Action, actions()),
    ];
    all.into_iter()
        .map(|(name, kind, records)| {
            let head = Head {
                kind,
                trail_id: [0x55; 16],
                at: ISSUED,
            };
            let (mut bytes, mut digest) = (head.to_bytes().to_vec(), head.digest());
            let run = Entry::Run { run_id: 42, at: ISSUED };
            let seq = records.last().map_or(0, Entry::seq);
            for entry in [run].iter().chain(&records) {
                digest = entry.put_frame(&mut bytes, &digest).expect("a record that fits");
            }
            let signed = Entry::sign(&digest, seq, at(9), &keypair(1)).expect("a full pair");
            signed.put_frame(&mut bytes, &digest).expect("it fits");
            (name, bytes)
        })
        .collect()
}

/// The same entries, with lengths and digests made to fit, so that what is behind them is reached.
fn bound(bytes: &[u8]) -> Vec<u8> {
    let Ok(head) = Head::decode(bytes) else {
        return bytes.to_vec();
    };
    let (mut written, mut digest) = (bytes[..HEAD_SIZE].to_vec(), head.digest());
    let mut rest = &bytes[HEAD_SIZE..];
    while let Some((length, _)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length);
        let end = LENGTH_SIZE + length as usize;
        if length as usize > BODY_BYTES_MAX || rest.len() < end + 32 {
            break;
        }
        digest = derive(Context::TrailEntry, &[digest.as_bytes(), &rest[LENGTH_SIZE..end]]);
        written.extend_from_slice(&length.to_le_bytes());
        written.extend_from_slice(&(!length).to_le_bytes());
        written.extend_from_slice(&rest[LENGTH_SIZE..end]);
        written.extend_from_slice(digest.as_bytes());
        rest = &rest[end + 32..];
    }
    written.extend_from_slice(rest);
    written
}

/// Reads any bytes as a trail; what is read is written the same, and a cut one is no whole one.
///
/// # Panics
/// Where the reader is wrong.
pub fn records(bytes: &[u8]) {
    for bytes in [bytes.to_vec(), bound(bytes)] {
        let mut entries = Vec::new();
        let Ok(proven) = read(&bytes, None, true, |entry| entries.push(entry)) else {
            continue;
        };
        let (mut written, mut digest) = (proven.head.to_bytes().to_vec(), proven.head.digest());
        for entry in &entries {
            digest = entry
                .put_frame(&mut written, &digest)
                .expect("what was read can be written");
        }
        assert_eq!((written.len() as u64, digest), (proven.bytes, proven.digest));
        assert_eq!(written, bytes[..written.len()]);
        let whole = read(&bytes, None, false, drop);
        assert_eq!(whole.is_ok(), written.len() == bytes.len());
    }
}
