//! What it costs to keep records in a file, and to check them.
//!
//! Every figure is a line `records: NAME VALUE UNIT BAR ok|short`: the median of [`RUNS`] runs, with the runs above it. A
//! figure without a bar has a dash there. `cargo bench -p meshos-node --bench records`.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "it measures, and reports"
)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshos_core::command::{AdminEvent, Command, Order, Verdict};
use meshos_core::id::NodeId;
use meshos_core::signal::LogLevel;
use meshos_core::status::{AuditRecord, LogRecord, Part};
use meshos_core::time::UnixMs;
use meshos_core::trail::{Entry, Kind};
use meshos_node::appender::{Appender, Writer};
use meshos_node::callback::Callback;
use meshos_node::clock::Deadline;
use meshos_node::keys;
use meshos_node::lane::Lanes;
use meshos_node::slot::SharedKey;
use meshos_node::sync::Mutex;
use meshos_node::trail_file::{TrailFile, verify};

/// Runs of one figure.
const RUNS: usize = 5;
/// Records of one run.
const RECORDS: u64 = 200_000;
/// Records of one run that are synced one by one.
const SYNCED: u64 = 500;

/// A folder that goes away with the bench.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("meshos-bench-{:x}", keys::random_u64()));
        fs::create_dir(&path).expect("a folder for what is temporary");
        Self(path)
    }

    fn open(&self, kind: Kind, signer: Option<SharedKey>) -> TrailFile {
        TrailFile::open(&self.file(), kind, "bench", 1, signer, &mut || false).expect("a new file")
    }

    fn file(&self) -> PathBuf {
        self.0.join("records.chain")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn audit(seq: u64) -> AuditRecord {
    AuditRecord {
        seq,
        at: UnixMs::new(1_700_000_000_000 + seq),
        command: Command {
            order: Order::Admin(AdminEvent::Cordon { node: NodeId::new(seq) }),
            verdict: Verdict::Accepted,
            operators: vec![7, 8],
            reason: "its disk is failing".to_owned(),
            envelope_id: Some(u128::from(seq).to_be_bytes()),
            issued_at: Some(UnixMs::new(1_700_000_000_000)),
        },
        times: 1,
        chain_pending: false,
    }
}

fn line(seq: u64) -> LogRecord {
    LogRecord {
        seq,
        at: UnixMs::new(1_700_000_000_000 + seq),
        level: LogLevel::Info,
        node: NodeId::new(1),
        daemon: None,
        message: Arc::from("a line of the log of some sixty bytes, as daemons write them"),
        chain_pending: false,
    }
}

fn rate(count: u64, work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    count as f64 / began.elapsed().as_secs_f64()
}

/// Audit records as they are written; the disk has them when the file is closed.
fn append_buffered() -> f64 {
    let folder = Folder::new();
    let file = folder.open(Kind::Audit, None);
    let records: Vec<Entry> = (1..=RECORDS).map(|seq| Entry::Audit(audit(seq))).collect();
    rate(RECORDS, || {
        for record in &records {
            file.keep(record, false).expect("there is space");
        }
        file.finish().expect("there is space");
    })
}

/// Audit records as a loop writes them: those that wait are synced together before they count as kept.
fn append_by_a_loop() -> f64 {
    let folder = Folder::new();
    let file: Arc<dyn Appender<AuditRecord>> = Arc::new(folder.open(Kind::Audit, None));
    let callback = Callback::new("bench", Part::Appender);
    let lost = Arc::new(|seq, lost| panic!("record {seq} is lost: {lost:?}"));
    let lanes = Lanes::new("bench-lane", 2, |body| body());
    let writer = Writer::new(file, callback, lanes, Duration::from_secs(60), lost);
    let records: Vec<AuditRecord> = (1..=RECORDS).map(audit).collect();
    rate(RECORDS, || {
        for record in records {
            while !writer.push(record.clone()) {
                // The queue is full: the writer is the slower one.
                writer.flush(Deadline::after(Duration::from_secs(60)));
            }
        }
        assert!(writer.close(Deadline::after(Duration::from_secs(60))));
    })
}

/// Audit records of which each is on the disk before the next is made.
fn append_one_by_one() -> f64 {
    let folder = Folder::new();
    let file = folder.open(Kind::Audit, None);
    rate(SYNCED, || {
        for seq in 1..=SYNCED {
            file.keep(&Entry::Audit(audit(seq)), true).expect("there is space");
        }
    })
}

fn append_lines(signer: Option<SharedKey>) -> f64 {
    let folder = Folder::new();
    let file = folder.open(Kind::Log, signer);
    let records: Vec<Entry> = (1..=RECORDS).map(|seq| Entry::Log(line(seq))).collect();
    rate(RECORDS, || {
        for record in &records {
            file.keep(record, false).expect("there is space");
        }
        file.finish().expect("there is space");
    })
}

fn filled(folder: &Folder, signer: Option<SharedKey>) -> PathBuf {
    let file = folder.open(Kind::Audit, signer);
    for seq in 1..=RECORDS {
        file.keep(&Entry::Audit(audit(seq)), false).expect("there is space");
    }
    file.finish().expect("there is space");
    folder.file()
}

fn checked(file: &Path) -> f64 {
    rate(RECORDS, || {
        let opened = File::open(file).expect("just written");
        let proven = verify(opened, None, None, &mut || false, drop).expect("a good file");
        assert_eq!(proven.records, RECORDS);
    })
}

fn verify_audits() -> f64 {
    let folder = Folder::new();
    checked(&filled(&folder, None))
}

fn verify_signed() -> f64 {
    let folder = Folder::new();
    checked(&filled(&folder, Some(key())))
}

fn open_again() -> f64 {
    let folder = Folder::new();
    filled(&folder, None);
    rate(RECORDS, || drop(folder.open(Kind::Audit, None)))
}

fn key() -> SharedKey {
    Arc::new(Mutex::new(keys::generate()))
}

fn report(name: &str, bar: Option<f64>, run: &dyn Fn() -> f64) {
    let mut runs: Vec<f64> = (0..RUNS).map(|_| run()).collect();
    runs.sort_unstable_by(f64::total_cmp);
    let value = runs[RUNS / 2];
    let spread: Vec<String> = runs.iter().map(|run| format!("{run:.0}")).collect();
    let shown = bar.map_or("-".to_owned(), |bar| bar.to_string());
    let met = if bar.is_none_or(|bar| value >= bar) {
        "ok"
    } else {
        "short"
    };
    println!("{name}: {} /s", spread.join(" "));
    println!("records: {name} {value:.0} /s {shown} {met}");
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    type Figure = (&'static str, Option<f64>, fn() -> f64);
    let figures: [Figure; 8] = [
        ("append_audit_buffered", Some(50_000.0), append_buffered),
        ("append_audit_by_a_loop", Some(50_000.0), append_by_a_loop),
        ("append_audit_one_by_one", None, append_one_by_one),
        ("append_log", None, || append_lines(None)),
        ("append_log_signed", None, || append_lines(Some(key()))),
        ("verify", Some(500_000.0), verify_audits),
        ("verify_signed", None, verify_signed),
        ("continue_a_file", None, open_again),
    ];
    for (name, bar, run) in figures {
        if wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            report(name, bar, &run);
        }
    }
}
