//! A store on a bad disk against a short model. `SIM_SEEDS` sets how many seeds are tried.

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::{Arc, mpsc};

use meshos_core::digest;
use meshos_core::rows::{KeyRange, Table, Write};
use meshos_core::store::memory::MemoryStore;
use meshos_core::store::{Batch, Store, StoreError};
use meshos_core::testing::random::SplitMix64;
use meshos_core::testing::store::{Faults, FaultyStore, Mutant};

const SEEDS: u64 = 300;

fn seeds() -> u64 {
    std::env::var("SIM_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("a number"))
}

const FAULTS: Faults = Faults {
    full: 40,
    sync_fails: 40,
    slow: 100,
    snapshot_rots: 200,
};

/// What one batch is: the value of its number, in two rows.
fn writes(number: u64) -> Vec<Write> {
    let value = number.to_be_bytes().to_vec();
    let key = vec![u8::try_from(number % 7).expect("below 7")];
    vec![
        Write::put(Table::Journal, value.clone(), value.clone()),
        Write::put(Table::Node, key, value),
    ]
}

/// Numbers whose first row is there, checked against the second.
fn found(store: &FaultyStore) -> Vec<u64> {
    let number = |value: &[u8]| u64::from_be_bytes(value.try_into().expect("eight bytes"));
    let rows = store
        .page(Table::Journal, &KeyRange::all(), usize::MAX)
        .expect("readable");
    let numbers: Vec<_> = rows.iter().map(|(key, _)| number(key)).collect();
    let mut latest = BTreeMap::new();
    for number in &numbers {
        latest.insert(vec![(number % 7) as u8], number.to_be_bytes().to_vec());
    }
    let nodes = store.page(Table::Node, &KeyRange::all(), usize::MAX).expect("readable");
    assert_eq!(
        nodes.into_iter().collect::<BTreeMap<_, _>>(),
        latest,
        "a batch is kept whole"
    );
    numbers
}

struct Run {
    store: FaultyStore,
    random: SplitMix64,
    answers: (mpsc::Sender<Answer>, mpsc::Receiver<Answer>),
    next: u64,
    term: u64,
    /// What is kept, or waits to be, in order.
    submitted: Vec<u64>,
    /// What was submitted before each failure. Until something is kept after it, a crash may bring it back.
    ghosts: Vec<Vec<u64>>,
    acknowledged: Vec<u64>,
}

type Answer = (u64, Result<u64, StoreError>);

impl Run {
    fn new(seed: u64) -> Self {
        let store = FaultyStore::new(seed, FAULTS);
        Self {
            term: store.term(),
            store,
            random: SplitMix64::new(!seed),
            answers: mpsc::channel(),
            next: 1,
            submitted: Vec::new(),
            ghosts: Vec::new(),
            acknowledged: Vec::new(),
        }
    }

    fn submit(&mut self) {
        let (number, answers) = (self.next, self.answers.0.clone());
        self.next += 1;
        self.submitted.push(number);
        let batch = Batch {
            term: self.term,
            writes: writes(number),
        };
        let done = move |answer| answers.send((number, answer)).expect("somebody listens");
        self.store.submit(batch, Box::new(done));
    }

    /// Takes what was answered; after a failure goes back to what the store holds.
    fn listen(&mut self) {
        let mut failed = false;
        while let Ok((number, answer)) = self.answers.1.try_recv() {
            match answer {
                Ok(_) => {
                    assert!(!failed, "nothing is kept behind what is not");
                    self.acknowledged.push(number);
                    self.ghosts.clear();
                }
                Err(_) => failed = true,
            }
        }
        if failed && self.store.term() != self.term {
            self.term = self.store.term();
            let kept = found(&self.store);
            self.ghosts.push(std::mem::replace(&mut self.submitted, kept));
            assert_eq!(self.submitted, self.acknowledged, "a reader sees what is kept");
        }
    }

    fn crash(mut self) -> Self {
        let (store, opened) = self.store.crash().expect("what a crash leaves can be opened");
        self.store = store;
        let found = found(&self.store);
        assert!(found.starts_with(&self.acknowledged), "what was acknowledged is there");
        let is_known = self
            .ghosts
            .iter()
            .chain([&self.submitted])
            .any(|all| all.starts_with(&found));
        assert!(is_known, "nothing else is, and in order");
        assert!(opened.cut < 1 << 20);
        self.term = self.store.term();
        self.answers = mpsc::channel();
        self.ghosts.clear();
        (self.submitted, self.acknowledged) = (found.clone(), found);
        self
    }
}

/// A run of a store that is used, fails and crashes.
fn simulate(seed: u64, mutant: Option<Mutant>) {
    let mut run = Run::new(seed);
    if let Some(mutant) = mutant {
        run.store = run.store.with(mutant);
    }
    for _ in 0..200 {
        match run.random.below(10) {
            0..=4 => run.submit(),
            5..=8 => run.store.turn(),
            _ if run.random.below(4) == 0 => run = run.crash(),
            _ => {}
        }
        run.listen();
    }
    let kept = run.acknowledged.len();
    run = run.crash();
    assert!(run.acknowledged.len() >= kept, "seed {seed}");
}

#[test]
fn what_was_acknowledged_survives_any_crash_and_nothing_else_appears() {
    for seed in 0..seeds() {
        let found = catch_unwind(|| simulate(seed, None));
        assert!(found.is_ok(), "seed {seed}: see above");
    }
}

#[test]
fn a_store_with_a_mistake_is_found() {
    let mutants = [
        Mutant::AcknowledgesEarly,
        Mutant::SkipsSyncs,
        Mutant::KeepsTerm,
        Mutant::GoesOnInFile,
        Mutant::ShowsEarly,
        Mutant::RemovesEarly,
    ];
    let found = mutants.map(|mutant| (0..100).any(|seed| catch_unwind(|| simulate(seed, Some(mutant))).is_err()));
    for (mutant, found) in mutants.iter().zip(found) {
        assert!(found, "{mutant:?} is not found");
    }
}

#[test]
fn one_seed_gives_one_run() {
    let run = |seed| {
        let mut run = Run::new(seed);
        for _ in 0..100 {
            run.submit();
            run.store.turn();
            run.listen();
        }
        (run.acknowledged, run.store.stats())
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn damage_in_the_middle_is_refused() {
    for seed in 0..50 {
        let mut run = Run::new(seed);
        run.store = FaultyStore::new(seed, Faults::default());
        run.term = run.store.term();
        for _ in 0..3 {
            run.submit();
            run.store.turn();
        }
        while run.store.waiting() > 0 {
            run.store.turn();
        }
        run.listen();
        let longest = run.store.files_mut().max_by_key(|(_, bytes)| bytes.len());
        let (_, bytes) = longest.expect("there is a file");
        let last = bytes.len();
        bytes[meshos_core::segment::HEAD_SIZE.min(last - 1)] ^= 1;
        let kept = run.acknowledged.len();
        match run.store.crash() {
            Ok((store, opened)) => {
                // Only the last commit can be taken for a torn one.
                assert!(opened.cut > 0 || last <= meshos_core::segment::HEAD_SIZE);
                assert!(found(&store).len() + 3 > kept);
            }
            Err(error) => assert!(matches!(error, StoreError::Damaged(_)), "{error}"),
        }
    }
}

#[test]
fn a_damaged_snapshot_is_not_given_out() {
    let faults = Faults {
        snapshot_rots: 1000,
        ..Faults::default()
    };
    let mut store = FaultyStore::new(1, faults);
    let name = store.keep(&[b"some ", b"state"]).expect("there is space");
    assert_eq!(store.fetch(&name, 100).as_deref(), Ok(&b"some state"[..]));
    assert_eq!(store.fetch(&name, 9), Err(StoreError::TooLarge { size: 10, max: 9 }));
    let (mut store, _) = store.crash().expect("it opens");
    assert!(matches!(store.fetch(&name, 100), Err(StoreError::Damaged(_))));
    store.discard(&name).expect("it is there");
    assert_eq!(store.fetch(&name, 100), Err(StoreError::NoSnapshot { name }));
}

#[test]
fn a_store_in_memory_keeps_at_once() {
    let (told, heard) = mpsc::channel();
    let mut store = MemoryStore::new();
    let mut submit = |term, writes| {
        let told = told.clone();
        store.submit(
            Batch { term, writes },
            Box::new(move |answer| told.send(answer).expect("heard")),
        );
        heard.try_recv().expect("at once")
    };
    assert_eq!(submit(0, writes(3)), Ok(1));
    assert_eq!(submit(1, writes(4)), Err(StoreError::Superseded { term: 0 }));
    assert_eq!(submit(0, vec![Write::remove(Table::Node, vec![3])]), Ok(2));
    let long = Write::remove(Table::Node, vec![0; 256]);
    assert!(matches!(submit(0, vec![long]), Err(StoreError::TooLarge { .. })));
    assert_eq!(store.get(Table::Node, &[3]), Ok(None));
    assert_eq!(
        store.page(Table::Journal, &KeyRange::all(), 5).map(|rows| rows.len()),
        Ok(1)
    );
    let name = store.keep(&[b"state"]).expect("kept");
    assert_eq!(store.fetch(&name, 5).as_deref(), Ok(&b"state"[..]));
    let shared = Arc::new(b"shared".to_vec());
    let name = store.keep_whole(&shared).expect("kept");
    assert_eq!(name, digest::plain(&shared));
    assert_eq!(store.fetch(&name, 6).as_deref(), Ok(&b"shared"[..]));
    assert_eq!(Arc::strong_count(&shared), 2, "it is not copied");
    assert_eq!((store.stats().commits, store.stats().snapshot_bytes), (2, 11));
    store.discard(&name).expect("it is there");
    assert_eq!(Arc::strong_count(&shared), 1);
}
