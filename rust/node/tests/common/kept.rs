//! A node on a disk that can be full, slow and held back, whose process can be killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meshos_core::config::{DaemonHostConfig, Durability};
use meshos_core::digest::Digest;
use meshos_core::event::DaemonLifecycleEvent;
use meshos_core::identity::Keypair;
use meshos_core::journal::SnapshotRow;
use meshos_core::rows::{KeyRange, Table, Write};
use meshos_core::store::memory::MemoryStore;
use meshos_core::store::{Batch, Done, Row, Step, Store, StoreError, StoreStats};
use meshos_node::clock::{self, Deadline};
use meshos_node::deliver::{self, Want};
use meshos_node::events::Watch;
use meshos_node::journal::{Stores, Waited};
use meshos_node::resumption::Report;
use meshos_node::runtime::Runtime;
use meshos_node::slot::Slot;
use meshos_node::sync::Mutex;

use super::{Event, Sum, Switches, key, lanes, never};

pub const FULL: StoreError = StoreError::Full;

/// A disk that can be full, and that keeps what is submitted until it is told to go on.
#[derive(Default)]
pub struct Disk {
    pub store: MemoryStore,
    pub term: u64,
    pub held: Vec<(Batch, Done)>,
    pub is_full: bool,
    pub is_held: bool,
    /// Files wait here.
    pub gate: Arc<Mutex<()>>,
    /// Files that were begun.
    pub files: Arc<AtomicUsize>,
    pub refuses_files: bool,
    /// So many files cannot be read.
    pub unreadable: AtomicUsize,
}

impl Disk {
    fn write(&mut self, writes: Vec<Write>) {
        let term = self.store.term();
        let batch = Batch { term, writes };
        self.store.submit(batch, Box::new(|outcome| assert!(outcome.is_ok())));
    }

    fn all(&self, table: Table) -> Vec<Row> {
        self.page(table, &KeyRange::all(), usize::MAX).expect("in memory")
    }

    pub fn remove_all(&mut self, table: Table) {
        let rows = self.all(table).into_iter();
        self.write(rows.map(|(key, _)| Write::remove(table, key)).collect());
    }

    /// Changes the value of the first row.
    pub fn change(&mut self, table: Table, change: impl FnOnce(&mut Vec<u8>)) {
        let (key, mut value) = self.all(table).swap_remove(0);
        change(&mut value);
        self.write(vec![Write::put(table, key, value)]);
    }

    /// What another process finds.
    pub fn copied(&self) -> Self {
        let mut copy = Self::default();
        for table in Table::ALL {
            let rows = self.all(table).into_iter();
            copy.write(rows.map(|(key, value)| Write::put(table, key, value)).collect());
        }
        for (_, value) in self.all(Table::Snapshots) {
            let row = SnapshotRow::decode(&value).expect("whole");
            let bytes = self.fetch(&row.name, row.size).expect("whole");
            copy.store.keep(&[&bytes]).expect("in memory");
        }
        copy
    }

    /// Milliseconds since the newest snapshot was taken.
    pub fn age_of_snapshot(&self) -> u64 {
        let rows = self.all(Table::Snapshots);
        let (_, value) = rows.last().expect("one");
        let row = SnapshotRow::decode(value).expect("whole");
        clock::unix_ms().get() - row.taken_at.get()
    }

    pub fn go_on(&mut self) {
        self.is_held = false;
        for (batch, done) in std::mem::take(&mut self.held) {
            self.submit(batch, done);
        }
    }
}

impl Store for Disk {
    fn term(&self) -> u64 {
        self.term
    }
    fn submit(&mut self, mut batch: Batch, done: Done) {
        if self.is_held {
            self.held.push((batch, done));
            return;
        }
        if batch.term != self.term {
            return done(Err(StoreError::Superseded { term: self.term }));
        }
        if self.is_full {
            self.term += 1;
            return done(Err(FULL));
        }
        batch.term = self.store.term();
        self.store.submit(batch, done);
    }
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(table, key)
    }
    fn page(&self, table: Table, range: &KeyRange, rows_max: usize) -> Result<Vec<Row>, StoreError> {
        self.store.page(table, range, rows_max)
    }
    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Row>, StoreError> {
        self.store.last(table, range)
    }
    fn keep(&mut self, parts: &[&[u8]]) -> Result<Digest, StoreError> {
        if self.is_full || self.refuses_files {
            Err(FULL)
        } else {
            self.store.keep(parts)
        }
    }
    fn fetch(&self, name: &Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let less = |left: usize| left.checked_sub(1);
        if self
            .unreadable
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .is_ok()
        {
            let (step, code) = (Step::Read, Some(24));
            return Err(StoreError::Io { step, code });
        }
        self.store.fetch(name, bytes_max)
    }
    fn discard(&mut self, name: &Digest) -> Result<(), StoreError> {
        self.store.discard(name)
    }
    fn stats(&self) -> StoreStats {
        self.store.stats()
    }
}

/// What a node told of its daemons.
#[derive(Default)]
pub struct Told(pub Mutex<Vec<DaemonLifecycleEvent>>);

impl Watch for Told {
    fn watch(&self, event: &DaemonLifecycleEvent) {
        self.0.lock().push(event.clone());
    }
}

/// A node whose process ends when it is dropped, and whose disk stays.
pub struct Node {
    pub told: Arc<Told>,
    pub disk: Arc<Mutex<Disk>>,
    pub node: Arc<Keypair>,
    pub runtime: Arc<Runtime<Sum>>,
    pub switches: Arc<Switches>,
}

pub struct Handle(pub Arc<Mutex<Disk>>);

impl Store for Handle {
    fn term(&self) -> u64 {
        self.0.lock().term()
    }
    fn submit(&mut self, batch: Batch, done: Done) {
        self.0.lock().submit(batch, done);
    }
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.lock().get(table, key)
    }
    fn page(&self, table: Table, range: &KeyRange, rows_max: usize) -> Result<Vec<Row>, StoreError> {
        self.0.lock().page(table, range, rows_max)
    }
    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Row>, StoreError> {
        self.0.lock().last(table, range)
    }
    fn keep(&mut self, parts: &[&[u8]]) -> Result<Digest, StoreError> {
        let (gate, files) = {
            let disk = self.0.lock();
            (Arc::clone(&disk.gate), Arc::clone(&disk.files))
        };
        files.fetch_add(1, Ordering::SeqCst);
        drop(gate.lock());
        self.0.lock().keep(parts)
    }
    fn fetch(&self, name: &Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.0.lock().fetch(name, bytes_max)
    }
    fn discard(&mut self, name: &Digest) -> Result<(), StoreError> {
        self.0.lock().discard(name)
    }
    fn stats(&self) -> StoreStats {
        self.0.lock().stats()
    }
}

impl Node {
    pub fn new() -> Self {
        Self::on(Arc::default(), Arc::new(Keypair::from_seed(&[9; 32])))
    }

    pub fn on(disk: Arc<Mutex<Disk>>, node: Arc<Keypair>) -> Self {
        let held = Arc::clone(&disk);
        let stores: Stores = Arc::new(move || Box::new(Handle(Arc::clone(&held))));
        let runtime = Arc::new(Runtime::with_store(Arc::clone(&node), lanes(), stores));
        runtime.start().expect("fresh");
        let told = Arc::new(Told::default());
        runtime.registry().add_watch(Arc::clone(&told) as Arc<dyn Watch>);
        Self {
            told,
            disk,
            node,
            runtime,
            switches: Arc::default(),
        }
    }

    /// The process ends without a word, and another one opens the disk.
    pub fn killed(self) -> Self {
        let Self {
            disk, node, runtime, ..
        } = self;
        // What was not on the disk is lost with the process.
        disk.lock().held.clear();
        disk.lock().is_held = false;
        drop(runtime);
        Self::on(disk, node)
    }

    pub fn spawn(&self, config: DaemonHostConfig) -> Arc<Slot<Sum>> {
        self.runtime
            .spawn(&key(1), config, Sum::new(&self.switches))
            .expect("new")
    }

    pub fn resume(&self) -> (Arc<Slot<Sum>>, Report) {
        self.runtime.resume(&key(1), Sum::new(&self.switches)).expect("kept")
    }
}

pub fn journal() -> DaemonHostConfig {
    DaemonHostConfig {
        durability: Durability::Journal,
        ..DaemonHostConfig::default()
    }
}

/// Delivers as a binding does: leaves, then waits for the commit.
pub fn send(slot: &Arc<Slot<Sum>>, sequence: u64, payload: &[u8]) -> Result<Vec<Event>, String> {
    let mut entered = slot
        .enter(Deadline::never(), &mut never)
        .map_err(|error| format!("{error:?}"))?;
    let delivered = deliver::deliver(&mut entered, &Event::outside(7, sequence, payload), Want::Receipt)
        .map_err(|error| format!("{error:?}"))?;
    let commit = deliver::submit(&mut entered);
    drop(entered);
    match commit.map(|commit| commit.wait(Deadline::after(Duration::from_secs(10)), &mut never)) {
        None | Some(Waited::Settled(Ok(()))) => Ok(delivered.outputs.into_vec()),
        Some(Waited::Settled(Err(error))) => Err(format!("{error:?}")),
        Some(other) => Err(format!("{other:?}")),
    }
}

/// Waits until the snapshots that were taken are kept.
pub fn settle(slot: &Arc<Slot<Sum>>) {
    let entered = slot.enter(Deadline::never(), &mut never).expect("free");
    let keeping = Arc::clone(entered.journal.as_ref().expect("kept").keeping());
    drop(entered);
    let settled = keeping.settle(Deadline::after(Duration::from_secs(10)), &mut never);
    assert_eq!(settled, Waited::Settled(Ok(())));
}

pub fn total(slot: &Arc<Slot<Sum>>) -> u64 {
    slot.try_enter().expect("free").daemon.total.load(Ordering::SeqCst)
}

pub fn rows(node: &Node, table: Table) -> usize {
    node.disk
        .lock()
        .page(table, &KeyRange::all(), usize::MAX)
        .expect("in memory")
        .len()
}
