//! A daemon with a journal on a bad disk, against a short model. `SIM_SEEDS` sets how many seeds are tried.
//!
//! Two senders number their events, and send each again until it is acknowledged. The daemon crashes, its disk fails, fills
//! up, tears and is slow. Whatever happens: what was acknowledged took effect once, with the receipt that was given, and the
//! chain goes on from where it was.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::catch_unwind;
use std::sync::mpsc;

use meshos_core::config::{DaemonHostConfig, Durability};
use meshos_core::cursors::{Cursors, Receipt};
use meshos_core::host::{Few, Host};
use meshos_core::id::{EntityId, Origin};
use meshos_core::ingress::{Admission, DIRECT, EventKey};
use meshos_core::journal::{Mark, Outcome, Pending, SnapshotRow, Step};
use meshos_core::link::CausalLink;
use meshos_core::resumption::{Place, Replay, plan};
use meshos_core::retention::Retention;
use meshos_core::rows::{KeyRange, Table, Write, entity_key, of_entity_key};
use meshos_core::snapshot;
use meshos_core::store::check::check;
use meshos_core::store::{Batch, Store, StoreError};
use meshos_core::stored::StoredDaemon;
use meshos_core::testing::random::SplitMix64;
use meshos_core::testing::samples;
use meshos_core::testing::store::{Faults, FaultyStore};
use meshos_core::time::UnixMs;

const SEEDS: u64 = 200;
const STEPS: usize = 150;

const FAULTS: Faults = Faults {
    full: 40,
    sync_fails: 40,
    slow: 150,
    snapshot_rots: 0,
};

/// A mistake that the node could make around a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    /// Cursors are not what they were when a daemon comes back.
    ForgetsCursors,
    /// Steps are taken twice when a daemon comes back.
    ReplaysTwice,
    /// A daemon goes on from its snapshot without the steps since, and uses sequences again.
    ReusesSequences,
    /// An event is acknowledged when it took effect.
    AnswersEarly,
    /// A duplicate is answered before the event itself is kept.
    AnswersDuplicatesEarly,
    /// Steps are let go that the snapshot before the newest needs.
    LetsGoTooMuch,
    /// A daemon goes on after a failed commit as if nothing had happened.
    StaysAhead,
}

const ALL: [Mistake; 7] = [
    Mistake::ForgetsCursors,
    Mistake::ReplaysTwice,
    Mistake::ReusesSequences,
    Mistake::AnswersEarly,
    Mistake::AnswersDuplicatesEarly,
    Mistake::LetsGoTooMuch,
    Mistake::StaysAhead,
];

type Key = (u64, u64);
type Answers = Vec<(Key, Option<Receipt>)>;

fn config() -> DaemonHostConfig {
    DaemonHostConfig {
        durability: Durability::Journal,
        ..DaemonHostConfig::default()
    }
}

/// User code: what an event does to the state, and what it emits.
fn process(state: &mut u64, (origin, sequence): Key) -> Few<Vec<u8>> {
    *state = state.wrapping_mul(31).wrapping_add(origin * 1000 + sequence);
    (0..sequence % 3).map(|_| state.to_le_bytes().to_vec()).collect()
}

struct Live {
    host: Host,
    state: u64,
    pending: Pending,
    rows: Vec<u64>,
    snapshots: Vec<SnapshotRow>,
    /// Who is answered when what waits is kept.
    answers: Answers,
}

struct Sim {
    entity: EntityId,
    store: FaultyStore,
    term: u64,
    random: SplitMix64,
    mistake: Option<Mistake>,
    live: Live,
    heard: (mpsc::Sender<Told>, mpsc::Receiver<Told>),
    /// Events that took effect, in order: now, and before each failure, since what failed may come back.
    histories: Vec<Vec<Key>>,
    acknowledged: BTreeMap<Key, Option<Receipt>>,
    next: [u64; 2],
}

type Told = (Answers, Result<u64, StoreError>);

impl Sim {
    fn new(seed: u64, mistake: Option<Mistake>) -> Self {
        let entity = samples::keypair(1).entity_id();
        // Damaged snapshots matter only to who would need the one before.
        let snapshot_rots = if seed.is_multiple_of(2) { 300 } else { 0 };
        let store = FaultyStore::new(
            seed,
            Faults {
                snapshot_rots,
                ..FAULTS
            },
        );
        let live = Live::fresh(entity);
        let mut sim = Self {
            entity,
            term: store.term(),
            store,
            random: SplitMix64::new(!seed),
            mistake,
            live,
            heard: mpsc::channel(),
            histories: vec![Vec::new()],
            acknowledged: BTreeMap::new(),
            next: [1, 1],
        };
        let stored = StoredDaemon {
            kind: "sum".to_owned(),
            config: config(),
            runs: true,
            key: None,
        };
        sim.live.pending.also(stored.write(&entity));
        sim.flush();
        sim
    }

    fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// A sender sends its newest event, perhaps not for the first time.
    fn send(&mut self) {
        let sender = self.random.below(2);
        let key = (sender as u64 + 1, self.next[sender]);
        let at = EventKey {
            origin: Origin::new(key.0),
            stream: DIRECT,
            sequence: key.1,
        };
        let live = &mut self.live;
        match live.host.admit(at) {
            Admission::NoNumber => unreachable!("numbers begin at 1"),
            Admission::Duplicate { receipt, .. } if self.mistake == Some(Mistake::AnswersDuplicatesEarly) => {
                self.acknowledge((key, receipt));
            }
            Admission::Duplicate { receipt, .. } => live.answers.push((key, receipt)),
            Admission::CallProcess => {
                let receipt = live.take(at, key);
                self.histories.last_mut().expect("there is one").push(key);
                if self.makes(Mistake::AnswersEarly) {
                    self.acknowledge((key, receipt));
                } else {
                    self.live.answers.push((key, receipt));
                }
            }
        }
    }

    fn acknowledge(&mut self, (key, receipt): (Key, Option<Receipt>)) {
        if let Some(before) = self.acknowledged.insert(key, receipt) {
            assert_eq!(before, receipt, "an event has one receipt");
        }
        let next = &mut self.next[(key.0 - 1) as usize];
        *next = (*next).max(key.1 + 1);
    }

    /// Submits what waits, and what has to wait for it.
    fn flush(&mut self) {
        let answers = std::mem::take(&mut self.live.answers);
        let first = self.live.first_waiting();
        let writes = self.live.pending.take();
        if writes.iter().any(|write| write.table == Table::Journal) {
            self.live.rows.extend(first);
        }
        let told = self.heard.0.clone();
        let batch = Batch {
            term: self.term,
            writes,
        };
        let done = move |outcome| drop(told.send((answers, outcome)));
        self.store.submit(batch, Box::new(done));
    }

    fn snapshot(&mut self) {
        self.flush();
        let live = &mut self.live;
        let meta = live.host.snapshot("sum".to_owned(), 1, UnixMs::new(1));
        let bytes = meta.to_bytes(&live.state.to_le_bytes());
        let Ok(name) = self.store.keep(&[&bytes]) else { return };
        let row = SnapshotRow {
            name,
            size: bytes.len() as u64,
            mark: *live.pending.mark(),
            processed: meta.stats.events_processed,
            epoch: 1,
            taken_at: UnixMs::new(1),
        };
        live.snapshots.retain(|before| before.mark.step != row.mark.step);
        live.snapshots.push(row);
        live.pending.also(row.write(&self.entity));
        let expired = Retention::default().expired(&live.snapshots, &[], UnixMs::new(1));
        live.snapshots.retain(|row| !expired.snapshots.contains(&row.mark.step));
        for step in expired.snapshots {
            live.pending
                .also(Write::remove(Table::Snapshots, entity_key(&self.entity, [step])));
        }
        let below = match self.mistake {
            Some(Mistake::LetsGoTooMuch) => row.mark.step + 1,
            _ => expired.steps_below,
        };
        let (gone, kept) = live.rows.iter().partition(|first| **first < below);
        live.rows = kept;
        let gone: Vec<u64> = gone;
        for first in gone {
            live.pending
                .also(Write::remove(Table::Journal, entity_key(&self.entity, [first])));
        }
        self.flush();
    }

    /// Hears what became of what was submitted.
    fn listen(&mut self) {
        let mut failed = false;
        while let Ok((answers, outcome)) = self.heard.1.try_recv() {
            match outcome {
                Ok(_) => answers.into_iter().for_each(|answer| self.acknowledge(answer)),
                Err(_) => failed = true,
            }
        }
        if failed {
            self.term = self.store.term();
            if !self.makes(Mistake::StaysAhead) {
                self.come_back();
            }
        }
    }

    fn crash(mut self) -> Self {
        let (store, _) = self.store.crash().expect("what a crash leaves can be opened");
        self.store = store;
        self.term = self.store.term();
        self.heard = mpsc::channel();
        self.come_back();
        self
    }

    fn rows(&self, table: Table) -> Vec<(u64, Vec<u8>)> {
        let range = KeyRange::beginning_with(self.entity.as_bytes());
        let rows = self.store.page(table, &range, usize::MAX).expect("readable");
        rows.into_iter()
            .map(|(key, value)| {
                let (_, [number]) = of_entity_key(&key).expect("a key of one number");
                (number, value)
            })
            .collect()
    }

    /// Brings the daemon back from the store, and compares it with the model.
    fn come_back(&mut self) {
        let snapshots: Vec<_> = self
            .rows(Table::Snapshots)
            .iter()
            .map(|(_, value)| SnapshotRow::decode(value).expect("as written"))
            .collect();
        let steps = self.rows(Table::Journal);
        let firsts: Vec<_> = steps.iter().map(|(first, _)| *first).collect();
        let mut whole = None;
        let found = plan(&self.entity, &snapshots, &firsts, |row| {
            whole = self.store.fetch(&row.name, row.size).ok();
            whole.is_some()
        });
        let both_rotten = snapshots.len() == 2
            && snapshots
                .iter()
                .all(|row| self.store.fetch(&row.name, row.size).is_err());
        if both_rotten || snapshots.len() == 1 && whole.is_none() && !firsts.contains(&1) {
            // Nobody could do better. The run is over: what was kept is gone.
            *self = Self::new(self.random.next_u64(), self.mistake);
            return;
        }
        let found = found.expect("every step is there");
        let mut live = Live::fresh(self.entity);
        let mut mark = *live.pending.mark();
        if let (Some(row), Some(bytes)) = (found.snapshot, whole) {
            let (mut meta, state) = snapshot::decode(&bytes, u64::MAX).expect("it is whole");
            live.state = u64::from_le_bytes(bytes[state].try_into().expect("eight bytes"));
            if self.makes(Mistake::ForgetsCursors) {
                meta.cursors = Cursors::default();
            }
            live.host = Host::resumed(self.entity, meta, config()).expect("it is of this entity");
            mark = row.mark;
        }
        let mut replay = Replay::after(self.entity, mark, 1);
        for (first, bytes) in steps.iter().filter(|(first, _)| *first >= found.first) {
            if self.makes(Mistake::ReusesSequences) {
                break;
            }
            let steps = replay.row(*first, bytes).expect("they follow");
            for (place, step) in Place::all(&steps).zip(&steps.steps) {
                live.take_again(&mut replay, place, step, self.makes(Mistake::ReplaysTwice));
            }
        }
        live.pending = Pending::after(self.entity, *replay.mark(), 1);
        (live.rows, live.snapshots) = (firsts, snapshots);
        self.live = live;
        self.compare();
    }

    fn compare(&mut self) {
        let processed = usize::try_from(self.live.host.position().processed).expect("few");
        let state = self.live.state;
        let is_it = |history: &&Vec<Key>| {
            let mut found = 0;
            history.len() >= processed && {
                history[..processed]
                    .iter()
                    .for_each(|key| drop(process(&mut found, *key)));
                found == state
            }
        };
        let history = self
            .histories
            .iter()
            .rev()
            .find(is_it)
            .expect("the state is that of its events");
        let history = history[..processed].to_vec();
        let once: BTreeSet<_> = history.iter().collect();
        assert_eq!(once.len(), history.len(), "every event takes effect once");
        for (key, receipt) in &self.acknowledged {
            assert!(once.contains(key), "what was acknowledged took effect: {key:?}");
            let known = self
                .live
                .host
                .cursors()
                .receipt(Origin::new(key.0), DIRECT, key.1)
                .copied();
            assert!(
                known.is_none() || known == *receipt,
                "with the receipt that was given: {key:?}"
            );
        }
        for sender in [1u64, 2] {
            let newest = history.iter().filter(|key| key.0 == sender).map(|key| key.1).max();
            let cursor = self.live.host.cursors().get(Origin::new(sender), DIRECT);
            assert_eq!(cursor, newest.unwrap_or(0), "cursors are those of the events");
        }
        self.histories.push(history);
    }

    /// Returns how many events were acknowledged, and how often the daemon came back.
    fn run(mut self) -> [usize; 2] {
        for _ in 0..STEPS {
            match self.random.below(20) {
                0..=7 => self.send(),
                8..=11 => self.flush(),
                12..=17 => self.store.turn(),
                18 => self.snapshot(),
                _ if self.random.below(3) == 0 => self = self.crash(),
                _ => {}
            }
            self.listen();
        }
        self = self.crash();
        let is_rotten =
            |error: &StoreError| matches!(error, StoreError::Damaged(meshos_core::store::Damage::Snapshot { .. }));
        if let Err(error) = check(&self.store) {
            assert!(is_rotten(&error), "{error}");
        }
        [self.acknowledged.len(), self.histories.len() - 1]
    }
}

impl Live {
    fn fresh(entity: EntityId) -> Self {
        let host = Host::new(entity, config());
        let mark = Mark::start(&entity, 0, host.position().digest);
        Self {
            host,
            state: 0,
            pending: Pending::after(entity, mark, 1),
            rows: Vec::new(),
            snapshots: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// First step that waits to be submitted, if one does: it is after the last that was.
    fn first_waiting(&self) -> Option<u64> {
        let mut copy = self.pending.clone();
        let writes = copy.take();
        let row = writes
            .iter()
            .find(|write| write.table == Table::Journal && write.value.is_some())?;
        of_entity_key::<1>(&row.key).map(|(_, [first])| first)
    }

    fn take(&mut self, at: EventKey, key: Key) -> Option<Receipt> {
        let outputs = process(&mut self.state, key);
        let count = u32::try_from(outputs.len()).expect("few");
        let pending = &mut self.pending;
        self.host
            .returned(at, outputs, |link, _, output| pending.output(&link, &output))
            .expect("there is room");
        let receipt = self.host.receipt(at);
        self.pending.step(&Step {
            outcome: Outcome::Processed,
            receipt: true,
            link: CausalLink {
                origin: at.origin,
                horizon: 0,
                sequence: at.sequence,
                parent: 0,
            },
            stream: DIRECT,
            received_ns: 0,
            payload: b"event",
            outputs: count,
            digest: self.host.position().digest,
        });
        Some(receipt)
    }

    fn take_again(&mut self, replay: &mut Replay, place: Place, step: &Step<'_>, twice: bool) {
        let key = (step.link.origin.get(), step.link.sequence);
        let at = EventKey {
            origin: step.link.origin,
            stream: step.stream,
            sequence: step.link.sequence,
        };
        let outputs = process(&mut self.state, key);
        if twice {
            process(&mut self.state, key);
        }
        let count = u32::try_from(outputs.len()).expect("few");
        self.host.returned(at, outputs, |_, _, _| ()).expect("there is room");
        let compared = replay.emitted(place, step, count, self.host.position().digest);
        compared.expect("it does what it did");
        if step.receipt {
            self.host.receipt(at);
        }
    }
}

fn seeds() -> u64 {
    std::env::var("SIM_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("a number"))
}

#[test]
fn what_was_acknowledged_took_effect_once_whatever_the_disk_does() {
    let (seeds, mut sum) = (seeds(), [0, 0]);
    for seed in 0..seeds {
        let found = catch_unwind(|| Sim::new(seed, None).run());
        let [events, returns] = found.unwrap_or_else(|_| panic!("seed {seed}: see above"));
        sum = [sum[0] + events, sum[1] + returns];
    }
    let each = sum.map(|sum| sum as u64 / seeds);
    assert!(each[0] >= 8 && each[1] >= 3, "too little happens in a run: {each:?}");
}

#[test]
fn a_node_with_a_mistake_is_found() {
    for mistake in ALL {
        let found = (0..300).any(|seed| catch_unwind(|| Sim::new(seed, Some(mistake)).run()).is_err());
        assert!(found, "{mistake:?} is not found");
    }
}
