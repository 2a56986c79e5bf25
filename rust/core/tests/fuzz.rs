//! The fuzz functions over mutations of good bytes and over random bytes. `FUZZ_ROUNDS` sets the rounds of each, and
//! `FUZZ_ENVELOPES` how many envelopes are changed and tried.

use std::collections::BTreeMap;

use meshos_core::armour;
use meshos_core::rows::put_all;
use meshos_core::testing::envelopes::Trial;
use meshos_core::testing::fuzz::FUZZERS;
use meshos_core::testing::random::SplitMix64;
use meshos_core::testing::samples;
use meshos_core::testing::trails;

const ROUNDS: usize = 5_000;

/// Values at which lengths and counts go wrong.
const EDGES: [u64; 10] = [
    0,
    1,
    0x7f,
    0xff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    u64::MAX - 12,
    u64::MAX,
];

fn number(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(number) => number.parse().expect("a number"),
        Err(_) => default,
    }
}

fn rounds() -> usize {
    number("FUZZ_ROUNDS", ROUNDS)
}

/// Changes bytes in one to four of the ways in which files and messages go bad.
fn mutate(bytes: &mut Vec<u8>, random: &mut SplitMix64) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len().max(1));
        let until = (at + random.below(16)).min(bytes.len());
        match random.below(8) {
            _ if bytes.is_empty() => bytes.push(random.byte()),
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.byte(),
            2 => bytes.truncate(at),
            3 => bytes.extend(random.bytes(until - at)),
            4 => bytes.splice(at..at, random.bytes(until - at)).for_each(drop),
            5 => bytes.drain(at..until).for_each(drop),
            6 => bytes.extend_from_within(at..until),
            _ => {
                let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&edge[..width]);
            }
        }
    }
}

fn seeds() -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    let mut seeds: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (name, bytes) in samples::golden() {
        seeds.entry(name).or_default().push(bytes);
    }
    seeds.insert("stats", vec![vec![7; 48]]);
    let mut writes = Vec::new();
    put_all(samples::journalled().iter(), &mut writes);
    seeds.insert("writes", vec![writes]);
    let records = trails::files().into_iter().map(|(_, bytes)| bytes);
    seeds.insert("records", records.collect());
    seeds.insert("channel_name", vec![b"sensors/lidar-3/_.x".to_vec(), b"a".to_vec()]);
    seeds.insert(
        "capability",
        vec![b"hardware.gpu\nsoftware.cuda:12\nb=http://x".to_vec()],
    );
    seeds.insert("armour", vec![armour::encode("MESHOS", &[7; 100]).into_bytes()]);
    let pair = samples::keypair(1);
    let signature = pair.sign(b"message").expect("a full pair");
    seeds.insert(
        "signature",
        vec![[pair.entity_id().as_bytes().as_slice(), &signature, b"message"].concat()],
    );
    seeds
}

#[test]
fn no_decoder_panics_and_what_decodes_encodes_to_the_same_bytes() {
    let seeds = seeds();
    for (index, (name, fuzz)) in FUZZERS.iter().enumerate() {
        let seeds = seeds.get(name).unwrap_or_else(|| panic!("no good bytes for {name}"));
        let mut random = SplitMix64::new(index as u64);
        for seed in seeds {
            fuzz(seed);
        }
        for round in 0..rounds() {
            let mut bytes = match round % 8 {
                0 => {
                    let length = random.below(300);
                    random.bytes(length)
                }
                _ => seeds[random.below(seeds.len())].clone(),
            };
            mutate(&mut bytes, &mut random);
            fuzz(&bytes);
        }
    }
}

#[test]
fn every_single_byte_changed_to_an_edge_is_survived() {
    let seeds = seeds();
    for (name, fuzz) in FUZZERS
        .iter()
        .filter(|(name, _)| !["signature", "fork_record", "chain_export", "ownership_records"].contains(name))
    {
        for seed in &seeds[name] {
            for at in 0..seed.len() {
                for byte in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut bytes = seed.clone();
                    bytes[at] = byte;
                    fuzz(&bytes);
                }
            }
        }
    }
}

/// Fields, lists and signatures are changed as what they are, so that the sums and hashes around them fit.
#[test]
fn no_changed_envelope_is_obeyed() {
    let envelopes = number("FUZZ_ENVELOPES", 100_000);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let trial = Trial::default();
    let obeyed: usize = std::thread::scope(|scope| {
        let work = |thread: usize| {
            let mut random = SplitMix64::new(thread as u64);
            let share = (envelopes + thread) / threads;
            let trial = &trial;
            move || (0..share).filter(|_| trial.mutated(&mut random)).count()
        };
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(work(thread))).collect();
        let counts = running
            .into_iter()
            .map(|thread| thread.join().expect("nothing forged is obeyed"));
        counts.sum()
    });
    // What is obeyed has good signatures of both, in another order or beside others.
    assert!(obeyed > 0 && obeyed < envelopes / 4, "{obeyed} of {envelopes}");
}

#[test]
fn the_same_seed_gives_the_same_numbers() {
    let mut random = SplitMix64::new(1_234_567);
    let first: Vec<_> = (0..3).map(|_| random.next_u64()).collect();
    assert_eq!(
        first,
        [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423
        ]
    );
}
