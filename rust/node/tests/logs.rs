//! Logs of daemons that ran: read from their store, judged, and pruned.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Event, Sum, Switches, key, lanes, never};
use meshos_core::config::{DaemonHostConfig, Durability};
use meshos_core::continuity::{Anchor, Continuity, Genesis};
use meshos_core::entity_log::{EntityLog, LogIndex, PruneError};
use meshos_core::identity::Keypair;
use meshos_core::rows::Table;
use meshos_core::store::check::check;
use meshos_core::store::memory::MemoryStore;
use meshos_core::store::{Batch, Done, Row, Store, StoreError, StoreStats};
use meshos_core::verify::verify;
use meshos_node::clock::Deadline;
use meshos_node::deliver::{self, Want};
use meshos_node::journal::{SharedStore, Stores};
use meshos_node::logs::{Pruned, prune};
use meshos_node::runtime::{Exported, Runtime};
use meshos_node::slot::Slot;

struct Node {
    store: SharedStore<MemoryStore>,
    runtime: Arc<Runtime<Sum>>,
    switches: Arc<Switches>,
}

impl Node {
    fn on(store: SharedStore<MemoryStore>) -> Self {
        let held = store.clone();
        let stores: Stores = Arc::new(move || Box::new(held.clone()));
        let runtime = Runtime::with_store(Arc::new(Keypair::from_seed(&[9; 32])), lanes(), stores);
        runtime.start().expect("fresh");
        Self {
            store,
            runtime: Arc::new(runtime),
            switches: Arc::default(),
        }
    }

    fn new() -> Self {
        Self::on(SharedStore::new(MemoryStore::new()))
    }

    fn spawn(&self, config: DaemonHostConfig) -> Arc<Slot<Sum>> {
        let spawned = self.runtime.spawn(&key(1), config, Sum::new(&self.switches));
        spawned.expect("new")
    }

    /// Shuts down and starts again.
    fn again(self) -> (Self, Arc<Slot<Sum>>) {
        self.runtime.shutdown(Duration::from_secs(10), &mut never);
        let next = Self::on(self.store);
        let (slot, _) = next.runtime.resume(&key(1), Sum::new(&next.switches)).expect("kept");
        (next, slot)
    }

    fn export(&self, slot: &Arc<Slot<Sum>>) -> Exported<Sum> {
        self.runtime
            .export(&mut slot.try_enter().expect("free"))
            .expect("a whole key")
    }
}

fn genesis() -> Genesis {
    Genesis::of(key(1).lock().entity_id())
}

fn journal(auto_snapshot_interval: u64, outputs_max: u32) -> DaemonHostConfig {
    DaemonHostConfig {
        durability: Durability::Journal,
        auto_snapshot_interval,
        outputs_max,
        ..DaemonHostConfig::default()
    }
}

fn send(slot: &Arc<Slot<Sum>>, sequence: u64) -> Event {
    let mut entered = slot.enter(Deadline::never(), &mut never).expect("free");
    let event = Event::outside(7, sequence, b"abc");
    let mut delivered = deliver::deliver(&mut entered, &event, Want::Receipt).expect("new");
    deliver::submit(&mut entered);
    delivered.outputs.pop().expect("it says what it has")
}

fn checked(exported: &Exported<Sum>) {
    let events = exported.events.iter();
    let events: Vec<_> = events.map(|event| (event.link, event.payload.as_slice())).collect();
    verify(
        &events,
        &exported.checkpoints,
        &exported.certificates,
        &exported.entity,
        &[],
    )
    .expect("unbroken");
}

#[test]
fn a_log_has_what_a_daemon_emitted() {
    let node = Node::new();
    let slot = node.spawn(journal(10, 100));
    let emitted: Vec<_> = (1..=35).map(|sequence| send(&slot, sequence)).collect();
    let log = LogIndex::of(&node.store)
        .get(genesis())
        .expect("readable")
        .expect("known");
    assert_eq!((log.len(), log.head().digest), (35, slot.view().digest));
    for (event, read) in emitted.iter().zip(log.range(1, 35)) {
        let read = read.expect("whole");
        assert_eq!(
            (read.link, read.payload.as_slice()),
            (event.link, event.payload.as_slice())
        );
    }
    let Ok(Continuity::Continuous {
        anchor: Anchor::Genesis,
        signed_through: 0,
        ..
    }) = log.assess()
    else {
        panic!("{:?}", log.assess());
    };
    assert_eq!(log.spans().expect("certified").len(), 1);
    node.export(&slot);
    let log = EntityLog::open(&node.store, genesis()).expect("readable");
    let Ok(Continuity::Continuous { signed_through: 35, .. }) = log.assess() else {
        panic!("{:?}", log.assess());
    };
    let spans = log.spans().expect("signed");
    assert_eq!((spans.len(), spans[0].epoch, spans[0].to), (1, 1, log.head()));
}

#[test]
fn a_log_is_judged_as_it_is_now() {
    let node = Node::new();
    let slot = node.spawn(journal(10, 100));
    send(&slot, 1);
    let store = node.store.clone();
    let log = EntityLog::open(&store, genesis()).expect("readable");
    // What is emitted and signed later is not missing.
    for sequence in 2..=15 {
        send(&slot, sequence);
    }
    node.export(&slot);
    let Ok(Continuity::Continuous {
        head,
        signed_through: 15,
        ..
    }) = log.assess()
    else {
        panic!("{:?}", log.assess());
    };
    assert_eq!((log.head().sequence, head.sequence), (1, 15));
}

#[test]
fn a_log_is_whole_at_every_moment_of_its_daemon() {
    let node = Node::new();
    let slot = node.spawn(journal(7, 10_000));
    let store = node.store.clone();
    std::thread::scope(|scope| {
        let emitting = scope.spawn(|| {
            for sequence in 1..=600 {
                send(&slot, sequence);
                if sequence % 50 == 0 {
                    node.export(&slot);
                }
            }
        });
        let mut seen = 0;
        loop {
            let is_last = emitting.is_finished();
            let log = EntityLog::open(&store, genesis()).expect("readable");
            let events = log.range(1, u64::MAX);
            let count = events
                .map(|event| event.expect("whole").link.sequence)
                .fold(0, |last, next| {
                    assert_eq!(next, last + 1);
                    next
                });
            assert_eq!(count, log.head().sequence);
            assert!(count >= seen);
            seen = count;
            let found = log.assess().expect("what is signed holds");
            assert!(found.is_whole(), "{found:?}");
            if is_last {
                assert_eq!(count, 600);
                break;
            }
        }
    });
}

#[test]
fn a_daemon_whose_log_was_pruned_goes_on() {
    let node = Node::new();
    let slot = node.spawn(journal(10, 100));
    for sequence in 1..=20 {
        send(&slot, sequence);
    }
    node.export(&slot);
    for sequence in 21..=33 {
        send(&slot, sequence);
    }
    drop(slot);
    node.runtime.shutdown(Duration::from_secs(10), &mut never);
    let mut store = node.store.clone();
    let refused = prune(&mut store, genesis(), 25);
    assert!(matches!(
        refused,
        Err(PruneError::Unprovable {
            through: 25,
            nearest: 20,
            ..
        })
    ));
    let needed = prune(&mut store, genesis(), 33);
    assert!(
        matches!(
            needed,
            Err(PruneError::Needed {
                snapshot: 30,
                nearest: 20,
                ..
            })
        ),
        "{needed:?}"
    );
    let before = EntityLog::open(&store, genesis()).expect("readable").digest_at(20);
    let pruned = prune(&mut store, genesis(), 20).expect("signed, and not needed");
    assert_eq!(
        (pruned.events, pruned.base.sequence, Ok(Some(pruned.base.digest))),
        (20, 20, before)
    );
    let again = prune(&mut store, genesis(), 20);
    assert_eq!(again, Ok(Pruned { events: 0, ..pruned }));
    assert!(check(&store).is_ok());

    let (node, slot) = Node::on(store).again_from_here();
    for sequence in 34..=40 {
        send(&slot, sequence);
    }
    checked(&node.export(&slot));
    assert!(check(&node.store).is_ok());
    let log = EntityLog::open(&node.store, genesis()).expect("readable");
    assert_eq!((log.base().sequence, log.head().sequence), (20, 40));
    assert!(log.assess().expect("signed").is_whole());
}

impl Node {
    fn again_from_here(self) -> (Self, Arc<Slot<Sum>>) {
        let (slot, _) = self.runtime.resume(&key(1), Sum::new(&self.switches)).expect("kept");
        (self, slot)
    }
}

#[test]
fn what_was_signed_stays_in_order_over_lives() {
    // Few outputs are kept for an export, which therefore signs where they begin, before what it signed last.
    let mut node = Node::new();
    let mut slot = node.spawn(journal(3, 5));
    let mut sequence = 0;
    for life in 0..6 {
        for _ in 0..3 {
            for _ in 0..=life {
                sequence += 1;
                send(&slot, sequence);
            }
            checked(&node.export(&slot));
        }
        drop(slot);
        (node, slot) = node.again();
        let log = EntityLog::open(&node.store, genesis()).expect("readable");
        assert!(log.assess().expect("every record holds").is_whole());
    }
    checked(&node.export(&slot));
}

#[test]
fn a_snapshot_brings_the_certificates_of_all_its_terms() {
    let first = Node::new();
    let slot = first.spawn(DaemonHostConfig::default());
    send(&slot, 1);
    let taken = first
        .runtime
        .snapshot(&mut slot.try_enter().expect("free"))
        .expect("whole");
    let taken = taken.expect("it has a state").snapshot;
    // Another node, which cannot know whether anything was emitted since.
    let next = Node::new();
    let daemon = Sum::new(&next.switches);
    let config = journal(10, 100);
    let slot = next
        .runtime
        .spawn_from_snapshot(&key(1), taken, config, daemon, false)
        .expect("new");
    send(&slot, 2);
    next.export(&slot);
    let log = EntityLog::open(&next.store, genesis()).expect("readable");
    let spans = log.spans().expect("signed");
    let terms: Vec<_> = spans
        .iter()
        .map(|span| (span.epoch, span.from.sequence, span.to.sequence))
        .collect();
    assert_eq!(terms, [(1, 0, 1), (2, 1, 2)]);
    let Ok(Continuity::Continuous {
        anchor: Anchor::Certificate,
        anchored_at: 1,
        genesis: digest,
        ..
    }) = log.assess()
    else {
        panic!("{:?}", log.assess());
    };
    assert_eq!(digest, genesis().point().digest);
}

/// A store that takes nothing any more.
struct Refusing(SharedStore<MemoryStore>);

impl Store for Refusing {
    fn term(&self) -> u64 {
        self.0.term()
    }
    fn submit(&mut self, _: Batch, done: Done) {
        done(Err(StoreError::Full));
    }
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get(table, key)
    }
    fn page(&self, table: Table, range: &meshos_core::rows::KeyRange, rows_max: usize) -> Result<Vec<Row>, StoreError> {
        self.0.page(table, range, rows_max)
    }
    fn last(&self, table: Table, range: &meshos_core::rows::KeyRange) -> Result<Option<Row>, StoreError> {
        self.0.last(table, range)
    }
    fn keep(&mut self, parts: &[&[u8]]) -> Result<meshos_core::digest::Digest, StoreError> {
        self.0.keep(parts)
    }
    fn fetch(&self, name: &meshos_core::digest::Digest, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.0.fetch(name, bytes_max)
    }
    fn discard(&mut self, name: &meshos_core::digest::Digest) -> Result<(), StoreError> {
        self.0.discard(name)
    }
    fn stats(&self) -> StoreStats {
        self.0.stats()
    }
}

#[test]
fn what_cannot_be_written_leaves_the_log_as_it_was() {
    let node = Node::new();
    let slot = node.spawn(journal(2, 100));
    for sequence in 1..=4 {
        send(&slot, sequence);
    }
    node.export(&slot);
    drop(slot);
    node.runtime.shutdown(Duration::from_secs(10), &mut never);
    let refused = prune(&mut Refusing(node.store.clone()), genesis(), 4);
    assert_eq!(refused, Err(StoreError::Full.into()));
    let log = EntityLog::open(&node.store, genesis()).expect("readable");
    assert_eq!((log.base().sequence, log.len()), (0, 4));
}
