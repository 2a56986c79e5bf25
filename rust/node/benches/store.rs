//! What keeping costs: journalled steps against redb alone and against one sync, opening after a crash, and disk use.
//!
//! `STORE_MIB` sets how much the store holds that is opened; the folder is made under `TMPDIR`.

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use common::{Sum, Switches, key, lanes};
use meshos_core::config::{DaemonHostConfig, Durability};
use meshos_core::digest::Digest;
use meshos_core::id::{EntityId, Origin};
use meshos_core::journal::{Mark, Outcome, Pending, Step};
use meshos_core::link::CausalLink;
use meshos_core::rows::Write;
use meshos_core::store::{Batch, Store};
use meshos_node::deliver::Want;
use meshos_node::keys;
use meshos_node::mailbox::Letter;
use meshos_node::redb_store::{Options, RedbStore};
use meshos_node::runtime::Runtime;
use redb::{Database, TableDefinition};

const IN_FLIGHT: usize = 64;
const SPAN: Duration = Duration::from_secs(2);
const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("meshos-bench-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Steps of a daemon that echoes, one batch each.
struct Echo {
    pending: Pending,
    next: u64,
    payload: Vec<u8>,
}

impl Echo {
    fn of(bytes: usize) -> Self {
        let entity = EntityId::from_bytes([1; 32]);
        Self {
            pending: Pending::after(entity, Mark::start(&entity, 0, Digest::ZERO), 1),
            next: 1,
            payload: vec![7; bytes],
        }
    }

    fn step(&mut self) -> Vec<Write> {
        let link = CausalLink {
            origin: Origin::new(1),
            horizon: 0,
            sequence: self.next,
            parent: 0,
        };
        self.pending.output(&link, &self.payload);
        self.pending.step(&Step {
            outcome: Outcome::Processed,
            receipt: true,
            link,
            stream: 0,
            received_ns: self.next,
            payload: &self.payload,
            outputs: 1,
            digest: Digest::from_bytes([9; 32]),
        });
        self.next += 1;
        self.pending.take()
    }
}

fn open(path: &Path, syncs: bool) -> RedbStore {
    let options = Options {
        syncs,
        ..Options::default()
    };
    RedbStore::open(path, &options).expect("it opens").store
}

/// Steps kept in a second, with so many submitted and not yet acknowledged.
fn in_flight(store: &mut RedbStore, bytes: usize) -> f64 {
    let mut echo = Echo::of(bytes);
    let (told, heard) = mpsc::channel();
    let (mut waiting, mut kept) = (0, 0u64);
    let start = Instant::now();
    while start.elapsed() < SPAN {
        while waiting < IN_FLIGHT {
            let told = told.clone();
            let batch = Batch {
                term: store.term(),
                writes: echo.step(),
            };
            // The last ones are answered when nobody listens any more.
            let done = move |outcome: Result<u64, _>| {
                let _ = told.send(outcome.is_ok());
            };
            store.submit(batch, Box::new(done));
            waiting += 1;
        }
        assert!(heard.recv().expect("it is answered"));
        waiting -= 1;
        kept += 1;
        while let Ok(is_kept) = heard.try_recv() {
            assert!(is_kept);
            waiting -= 1;
            kept += 1;
        }
    }
    kept as f64 / start.elapsed().as_secs_f64()
}

/// Steps that redb keeps in a second, as many in a commit as are in flight, with what opening soon needs.
fn redb_alone(path: &Path, bytes: usize) -> f64 {
    let database = Database::create(path).expect("a new file");
    let mut echo = Echo::of(bytes);
    let mut kept = 0u64;
    let start = Instant::now();
    while start.elapsed() < SPAN {
        let mut writing = database.begin_write().expect("nobody else writes");
        writing.set_quick_repair(true);
        {
            let mut rows = writing.open_table(ROWS).expect("a table");
            for _ in 0..IN_FLIGHT {
                for write in echo.step() {
                    let mut key = vec![write.table.code()];
                    key.extend(write.key);
                    rows.insert(&key[..], &write.value.expect("it is put")[..])
                        .expect("space");
                }
                kept += 1;
            }
        }
        writing.commit().expect("it is kept");
    }
    kept as f64 / start.elapsed().as_secs_f64()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// One append with a sync, one step kept by the thread that waits, and one submitted and waited for, in turns.
fn one_at_a_time(store: &mut RedbStore, plain: &Path) -> [Duration; 3] {
    let mut file = File::create_new(plain).expect("a new file");
    let mut echo = Echo::of(64);
    let mut times = [const { Vec::new() }; 3];
    let (told, heard) = mpsc::channel();
    for round in 0..2000 {
        let bytes = vec![7; echo.step().iter().map(Write::encoded_len).sum()];
        let start = Instant::now();
        file.write_all(&bytes).and_then(|()| file.sync_data()).expect("space");
        let synced = start.elapsed();

        let writes = echo.step();
        let start = Instant::now();
        store.commit(writes).expect("it is kept");
        let kept = start.elapsed();

        let (told, batch) = (
            told.clone(),
            Batch {
                term: store.term(),
                writes: echo.step(),
            },
        );
        let start = Instant::now();
        store.submit(
            batch,
            Box::new(move |outcome| told.send(outcome.is_ok()).expect("somebody listens")),
        );
        assert!(heard.recv().expect("it is answered"));
        let submitted = start.elapsed();
        if round >= 100 {
            for (times, time) in times.iter_mut().zip([synced, kept, submitted]) {
                times.push(time);
            }
        }
    }
    times.map(median)
}

/// Waits until no segment has been folded into the tree for a second: a copy of files that change is no crash.
fn rest(path: &Path) {
    let segments = || {
        let read = std::fs::read_dir(path.join("log")).expect("it is there");
        read.map(|entry| entry.expect("it can be read").file_name())
            .collect::<std::collections::BTreeSet<_>>()
    };
    let mut before = segments();
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = segments();
        if now == before {
            return;
        }
        before = now;
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("it can be made");
    for entry in std::fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it can be read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("it can be copied");
            // What the copy left to be written would be waited for by the syncs that are measured.
            File::open(target)
                .and_then(|file| file.sync_all())
                .expect("it is there");
        }
    }
}

fn fill(store: &RedbStore, mib: usize, echo: &mut Echo) -> u64 {
    let mut payload = 0;
    while payload < mib << 20 {
        let mut writes = Vec::new();
        for _ in 0..256 {
            writes.extend(echo.step());
            payload += 2 * echo.payload.len();
        }
        store.commit(writes).expect("space");
    }
    payload as u64
}

fn runtime(store: &RedbStore) -> Runtime<Sum> {
    let store = store.clone();
    let stores = Arc::new(move || Box::new(store.clone()) as Box<dyn Store>);
    let runtime = Runtime::with_store(Arc::new(keys::generate()), lanes(), stores);
    runtime.start().expect("fresh");
    runtime
}

/// Events of 64 B mailed to a daemon with a journal, so many waiting for their receipts: how many a second; then what it
/// takes to bring the daemon back, for each of them.
fn mailed(path: &Path) -> (f64, f64) {
    let config = DaemonHostConfig {
        durability: Durability::Journal,
        ..DaemonHostConfig::default()
    };
    let (store, switches) = (open(path, true), Arc::<Switches>::default());
    let live = runtime(&store);
    let slot = live.spawn(&key(1), config, Sum::new(&switches)).expect("new");
    let (reply, answers) = mpsc::channel();
    let (mut waiting, mut kept) = (0, 0u64);
    let start = Instant::now();
    while start.elapsed() < SPAN {
        while waiting < IN_FLIGHT {
            let letter = Letter::Draft(vec![b'x'; 64], 64);
            slot.post(
                live.lanes(),
                live.sender(),
                letter,
                Want::Receipt,
                Some(reply.clone()),
                None,
            )
            .map_err(|(error, _)| error)
            .expect("room");
            waiting += 1;
        }
        let first = answers.recv().expect("it is answered");
        for (_, settled) in std::iter::once(first).chain(answers.try_iter()) {
            assert!(settled.is_ok());
            waiting -= 1;
            kept += 1;
        }
        switches.seen.lock().clear();
    }
    let rate = kept as f64 / start.elapsed().as_secs_f64();
    drop((slot, live, store));
    let store = open(path, true);
    let start = Instant::now();
    let (_, report) = runtime(&store)
        .resume(&key(1), Sum::new(&switches))
        .expect("it is kept");
    (rate, start.elapsed().as_secs_f64() / report.replayed as f64)
}

/// Bounds of a figure.
enum Bar {
    None,
    AtLeast(f64),
    AtMost(f64),
}

/// Prints `store: NAME VALUE UNIT BAR ok|short`.
#[allow(clippy::print_stdout)]
fn line(name: &str, value: f64, unit: &str, bar: &Bar) {
    let (bar, is_met) = match bar {
        Bar::None => ("-".to_owned(), true),
        Bar::AtLeast(bar) => (format!(">={bar}"), value >= *bar),
        Bar::AtMost(bar) => (format!("<={bar}"), value <= *bar),
    };
    let verdict = if is_met { "ok" } else { "short" };
    println!("store: {name} {value:.2} {unit} {bar} {verdict}");
}

fn main() {
    for bytes in [64, 1024] {
        let folder = Folder::new("rates");
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let mut store = open(&folder.0.join("state"), true);
        for round in 0..3 {
            theirs.push(redb_alone(&folder.0.join(format!("alone-{round}.redb")), bytes));
            ours.push(in_flight(&mut store, bytes));
        }
        ours.sort_by(f64::total_cmp);
        theirs.sort_by(f64::total_cmp);
        line(&format!("redb_alone_{bytes}_b"), theirs[1], "echoes/s", &Bar::None);
        line(
            &format!("journal_{bytes}_b_64_in_flight"),
            ours[1],
            "echoes/s",
            &Bar::None,
        );
        line(
            &format!("journal_{bytes}_b_beside_redb"),
            ours[1] / theirs[1],
            "x",
            &Bar::AtLeast(0.5),
        );
    }

    let folder = Folder::new("mailed");
    let alone = redb_alone(&folder.0.join("alone.redb"), 64);
    let (rate, again) = mailed(&folder.0.join("state"));
    line("mailed_64_b_64_in_flight", rate, "events/s", &Bar::None);
    line("mailed_64_b_beside_redb", rate / alone, "x", &Bar::AtLeast(0.5));
    line("come_back_a_million", again * 1e6, "s", &Bar::AtMost(5.0));

    let folder = Folder::new("single");
    let mut store = open(&folder.0.join("state"), true);
    let times = one_at_a_time(&mut store, &folder.0.join("plain"));
    let [synced, kept, submitted] = times.map(|time| time.as_secs_f64() * 1e6);
    line("append_and_sync", synced, "us", &Bar::None);
    line("one_step_kept", kept, "us", &Bar::None);
    line("one_step_kept_beside_one_sync", kept / synced, "x", &Bar::AtMost(1.3));
    line("one_step_submitted", submitted, "us", &Bar::None);
    line(
        "one_step_submitted_beside_one_sync",
        submitted / synced,
        "x",
        &Bar::AtMost(1.3),
    );
    drop(store);

    let mib = std::env::var("STORE_MIB").map_or(256, |mib| mib.parse().expect("a number"));
    let (path, left) = (folder.0.join("large"), folder.0.join("left"));
    let store = open(&path, false);
    let mut echo = Echo::of(1024);
    let payload = fill(&store, mib, &mut echo);
    drop(store);
    let store = open(&path, false);
    let payload = payload + fill(&store, 12, &mut echo);
    rest(&path);
    copy(&path, &left);
    let start = Instant::now();
    let again = open(&left, true);
    let opened = start.elapsed().as_secs_f64();
    line(
        &format!("open_{mib}_mib_after_crash"),
        opened * 1e3,
        "ms",
        &Bar::AtMost(100.0),
    );
    drop(again);
    drop(store);
    let used = open(&path, false).stats().file_bytes as f64 / payload as f64;
    line("disk_beside_payload_1024_b", used, "x", &Bar::AtMost(3.0));
}
