//! A store with the log of one entity in it, and a model of the log.

use std::cell::Cell;

use meshos_core::certificate::{Certificate, Reason, Statement};
use meshos_core::chain::CausalChainBuilder;
use meshos_core::checkpoint::Checkpoint;
use meshos_core::continuity::{Genesis, Point};
use meshos_core::digest::Digest;
use meshos_core::entity_log::{EntityLog, Event};
use meshos_core::identity::Keypair;
use meshos_core::journal::{Mark, SnapshotRow, outputs_row};
use meshos_core::link::CausalLink;
use meshos_core::rows::{KeyRange, Table, Write, entity_key};
use meshos_core::store::memory::MemoryStore;
use meshos_core::store::{Batch, Done, Row, Store, StoreError, StoreStats};
use meshos_core::stored::StoredDaemon;
use meshos_core::testing::samples;
use meshos_core::time::UnixMs;

/// A store that counts what is read of it.
#[derive(Default)]
pub struct Counting {
    pub store: MemoryStore,
    pub seeks: Cell<usize>,
    pub rows: Cell<usize>,
    /// Rows of the largest page.
    pub largest: Cell<usize>,
}

impl Counting {
    pub fn reset(&self) {
        self.seeks.set(0);
        self.rows.set(0);
    }

    fn saw(&self, rows: usize) {
        self.seeks.set(self.seeks.get() + 1);
        self.rows.set(self.rows.get() + rows);
        self.largest.set(self.largest.get().max(rows));
    }
}

impl Store for Counting {
    fn term(&self) -> u64 {
        self.store.term()
    }

    fn submit(&mut self, batch: Batch, done: Done) {
        self.store.submit(batch, done);
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.store.get(table, key)?;
        self.saw(usize::from(found.is_some()));
        Ok(found)
    }

    fn page(&self, table: Table, range: &KeyRange, rows_max: usize) -> Result<Vec<Row>, StoreError> {
        let rows = self.store.page(table, range, rows_max)?;
        self.saw(rows.len());
        Ok(rows)
    }

    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Row>, StoreError> {
        let row = self.store.last(table, range)?;
        self.saw(usize::from(row.is_some()));
        Ok(row)
    }

    fn keep(&mut self, parts: &[&[u8]]) -> Result<Digest, StoreError> {
        self.store.keep(parts)
    }

    fn fetch(&self, name: &Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.store.fetch(name, bytes_max)
    }

    fn discard(&mut self, name: &Digest) -> Result<(), StoreError> {
        self.store.discard(name)
    }

    fn stats(&self) -> StoreStats {
        self.store.stats()
    }
}

/// One entity, its node, its chain, and the store that has it.
pub struct Shelf {
    pub store: Counting,
    pub key: Keypair,
    pub genesis: Genesis,
    /// Everything that was ever emitted.
    pub events: Vec<Event>,
    /// Digests before the first event and after each.
    pub digests: Vec<Digest>,
    chain: CausalChainBuilder,
    /// Events that are in the store.
    kept: usize,
    certificates: Vec<Certificate>,
    previous: Digest,
}

impl Shelf {
    pub fn new(seed: u8) -> Self {
        let key = samples::keypair(seed);
        let genesis = Genesis::of(key.entity_id());
        let chain = CausalChainBuilder::new(key.entity_id());
        Self::on_chain(key, genesis, chain)
    }

    /// The child of a fork of another entity after its event 7.
    pub fn fork() -> Self {
        let (parent, child) = (samples::keypair(0x50), samples::keypair(0x51));
        let digest = Digest::from_bytes([7; 32]);
        let (record, chain) = meshos_core::fork::fork_entity(&parent, &child, 7, &digest, None).expect("both can sign");
        Self::on_chain(child, Genesis::of_fork(&record).expect("it is signed"), chain)
    }

    fn on_chain(key: Keypair, genesis: Genesis, chain: CausalChainBuilder) -> Self {
        let mut shelf = Self {
            store: Counting::default(),
            key,
            genesis,
            events: Vec::new(),
            digests: vec![chain.digest()],
            chain,
            kept: 0,
            certificates: Vec::new(),
            previous: Digest::ZERO,
        };
        let stored = StoredDaemon {
            kind: "echo".to_owned(),
            config: meshos_core::config::DaemonHostConfig::default(),
            runs: true,
            key: None,
        };
        shelf.write(vec![stored.write(&shelf.key.entity_id())]);
        shelf
    }

    pub fn write(&mut self, writes: Vec<Write>) {
        let batch = Batch {
            term: self.store.term(),
            writes,
        };
        self.store.submit(batch, Box::new(|outcome| assert!(outcome.is_ok())));
    }

    pub fn emit(&mut self, payload: &[u8]) -> &mut Self {
        let link = self.chain.append(payload, payload.len() as u64).expect("there is room");
        self.digests.push(self.chain.digest());
        self.events.push(Event {
            link,
            payload: payload.to_vec(),
        });
        self
    }

    /// Emits so many events, and keeps them in one row.
    pub fn row(&mut self, count: usize) -> &mut Self {
        for _ in 0..count {
            let payload = vec![self.events.len().to_le_bytes()[0]; self.events.len() % 5];
            self.emit(&payload);
        }
        self.keep()
    }

    /// Keeps in one row what was emitted since the last.
    pub fn keep(&mut self) -> &mut Self {
        let outputs: Vec<(CausalLink, &[u8])> = self.events[self.kept..]
            .iter()
            .map(|event| (event.link, &event.payload[..]))
            .collect();
        let row = outputs_row(&self.key.entity_id(), &self.digests[self.kept], &outputs);
        self.kept = self.events.len();
        self.write(row.into_iter().collect());
        self
    }

    pub fn at(&self, sequence: usize) -> Point {
        Point {
            sequence: sequence as u64,
            digest: self.digests[sequence],
        }
    }

    pub fn snapshot_at(&mut self, sequence: usize) -> &mut Self {
        let mut row: SnapshotRow = samples::snapshot_row();
        row.mark = Mark {
            step: sequence as u64,
            sequence: sequence as u64,
            digest: self.digests[sequence],
            ..row.mark
        };
        self.write(vec![row.write(&self.key.entity_id())]);
        self
    }

    /// Says that a node speaks from an event on.
    pub fn certify(&mut self, node: &Keypair, sequence: usize, reason: Reason) -> &mut Self {
        let statement = Statement {
            entity: self.key.entity_id(),
            epoch: self.certificates.len() as u64 + 1,
            node: node.entity_id(),
            from_sequence: sequence as u64,
            digest: self.digests[sequence],
            reason,
        };
        let made = Certificate::sign(statement, &self.key).expect("it can sign");
        self.certificates.push(made);
        let key = entity_key(&made.entity, [made.epoch]);
        self.write(vec![Write::put(Table::Certificates, key, made.to_bytes())]);
        self
    }

    /// Has a node sign a position, in the newest epoch.
    pub fn sign(&mut self, node: &Keypair, sequence: usize) -> &mut Self {
        let (entity, epoch) = (self.key.entity_id(), self.certificates.len() as u64);
        let (at, digest) = (UnixMs::new(5), self.digests[sequence]);
        let made = Checkpoint::sign(entity, epoch, sequence as u64, digest, at, self.previous, node);
        let made = made.expect("it can sign");
        self.previous = made.digest_of();
        let key = entity_key(&entity, [epoch, sequence as u64]);
        self.write(vec![Write::put(Table::Checkpoints, key, made.to_bytes())]);
        self
    }

    /// Its certificates, and its checkpoints in the order in which they were signed.
    pub fn signed(&self) -> (Vec<Certificate>, Vec<Checkpoint>) {
        let rows = self.rows(Table::Checkpoints);
        let read = rows.iter().map(|(_, value)| Checkpoint::decode(value).expect("whole"));
        (self.certificates.clone(), Checkpoint::in_order(read.collect()))
    }

    pub fn log(&self) -> EntityLog<'_> {
        EntityLog::open(&self.store, self.genesis).expect("it can be read")
    }

    pub fn rows(&self, table: Table) -> Vec<Row> {
        self.store
            .store
            .page(table, &KeyRange::all(), usize::MAX)
            .expect("readable")
    }

    /// Prunes, and returns how many events went.
    pub fn prune(&mut self, through: u64) -> Result<u64, meshos_core::entity_log::PruneError> {
        let pruning = self.log().prune(through)?;
        self.write(pruning.writes);
        Ok(pruning.events)
    }
}
