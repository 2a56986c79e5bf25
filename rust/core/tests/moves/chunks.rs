//! Chunks of an image: which are asked for, and which are taken.

use std::collections::BTreeSet;
use std::time::Duration;

use meshos_core::digest::Digest;
use meshos_core::move_chunks::{Action, ChunkReceiver, RESEND_FIRST, RESEND_MAX, Signal, TooLarge, WINDOW, range};
use meshos_core::move_frame::MAX_SNAPSHOT_CHUNK_SIZE;
use meshos_core::testing::random::SplitMix64;

const CHUNK: usize = MAX_SNAPSHOT_CHUNK_SIZE;
const IMAGE: Digest = Digest::from_bytes([1; 32]);
const START: Duration = Duration::from_secs(1);

fn begin(size: u64, held: &[u32]) -> (ChunkReceiver, Vec<Action>) {
    let mut actions = Vec::new();
    let held = held.iter().copied();
    let receiver = ChunkReceiver::begin(START, (IMAGE, size), 1 << 40, held, 7, &mut actions).unwrap();
    (receiver, actions)
}

fn pulled(actions: &[Action]) -> Vec<u32> {
    let pulls = actions.iter().filter_map(|action| match action {
        Action::Pull { index } => Some(*index),
        _ => None,
    });
    pulls.collect()
}

fn chunk(index: u32, length: usize) -> Signal {
    Signal::Chunk {
        image: IMAGE,
        index,
        length,
    }
}

fn step(receiver: &mut ChunkReceiver, signal: Signal) -> Vec<Action> {
    let mut actions = Vec::new();
    receiver.step(START, signal, &mut actions);
    actions
}

#[test]
fn a_chunk_lies_at_its_index() {
    let chunk = CHUNK as u64;
    assert_eq!(range(2 * chunk + 1, 0), Some(0..chunk));
    assert_eq!(range(2 * chunk + 1, 2), Some(2 * chunk..2 * chunk + 1));
    assert_eq!(range(2 * chunk, 2), None);
    assert_eq!(range(0, 0), None);
    assert_eq!(
        range(u64::MAX, u32::MAX).map(|range| range.end - range.start),
        Some(chunk)
    );
}

#[test]
fn table() {
    let (mut receiver, actions) = begin(6 * CHUNK as u64 + 5, &[]);
    assert_eq!(pulled(&actions), [0, 1, 2, 3]);
    let other = Signal::Chunk {
        image: Digest::from_bytes([2; 32]),
        index: 0,
        length: CHUNK,
    };
    for unfit in [
        other,
        chunk(4, CHUNK),
        chunk(99, CHUNK),
        chunk(0, CHUNK - 1),
        chunk(0, CHUNK + 1),
        chunk(0, 0),
    ] {
        let before = receiver.clone();
        assert_eq!(step(&mut receiver, unfit), [], "{unfit:?}");
        assert_eq!(
            (receiver.taken(), receiver.wake_at()),
            (before.taken(), before.wake_at())
        );
    }
    assert_eq!(
        step(&mut receiver, chunk(2, CHUNK)),
        [
            Action::Take {
                offset: 2 * CHUNK as u64
            },
            Action::Pull { index: 4 }
        ]
    );
    assert_eq!(step(&mut receiver, chunk(2, CHUNK)), [], "held");
    let counters = *receiver.counters();
    assert_eq!((counters.foreign, counters.unfit, counters.repeated), (1, 5, 1));
}

#[test]
fn an_image_that_is_empty_is_whole() {
    let (receiver, actions) = begin(0, &[]);
    assert_eq!(actions, [Action::Whole]);
    assert!(receiver.is_whole());
    assert_eq!(receiver.wake_at(), None);
}

#[test]
fn an_image_that_is_too_large_is_not_pulled() {
    let refused = ChunkReceiver::begin(START, (IMAGE, 11), 10, [], 7, &mut Vec::new());
    assert_eq!(refused, Err(TooLarge { size: 11, max: 10 }));
    let endless = ChunkReceiver::begin(START, (IMAGE, u64::MAX), u64::MAX, [], 7, &mut Vec::new());
    assert!(endless.is_err());
}

#[test]
fn what_is_held_is_not_asked_for() {
    let (receiver, actions) = begin(6 * CHUNK as u64, &[0, 1, 3, 99]);
    assert_eq!(pulled(&actions), [2, 4, 5]);
    assert_eq!(receiver.taken(), 3 * CHUNK as u64);
    let (receiver, actions) = begin(2 * CHUNK as u64, &[0, 1]);
    assert_eq!(actions, [Action::Whole]);
    assert!(receiver.is_whole());
}

#[test]
fn what_does_not_come_is_asked_for_again_later_each_time() {
    let (mut receiver, _) = begin(2 * CHUNK as u64, &[]);
    let mut now = START;
    let mut waits = Vec::new();
    for _ in 0..8 {
        let at = receiver.wake_at().unwrap();
        waits.push(at - now);
        let mut actions = Vec::new();
        receiver.step(at - Duration::from_nanos(1), Signal::Timer, &mut actions);
        assert_eq!(actions, [], "it is not due");
        receiver.step(at, Signal::Timer, &mut actions);
        assert_eq!(pulled(&actions), [0, 1]);
        now = at;
    }
    assert!(waits[0] <= RESEND_FIRST && waits[0] > RESEND_FIRST / 2);
    assert!(waits[7] <= RESEND_MAX && waits[7] > RESEND_MAX / 2);
}

/// Chunks get lost, repeated, overtaken, altered in length: the image is put together once.
#[test]
fn any_network_brings_each_chunk_once() {
    for seed in 0..200 {
        let mut random = SplitMix64::new(seed);
        let count = random.below(20) as u32;
        let size = u64::from(count) * CHUNK as u64 + random.below(2) as u64;
        let (mut receiver, mut actions) = begin(size, &[]);
        let (mut now, mut flying, mut taken, mut wholes) = (START, Vec::new(), BTreeSet::new(), 0);
        let mut asked = BTreeSet::new();
        while wholes == 0 {
            for action in std::mem::take(&mut actions) {
                match action {
                    Action::Pull { index } => {
                        asked.insert(u64::from(index) * CHUNK as u64);
                        flying.push(index);
                    }
                    Action::Take { offset } => {
                        assert!(asked.remove(&offset), "{offset} was not asked for");
                        assert!(taken.insert(offset), "{offset} is taken again");
                    }
                    Action::Whole => wholes += 1,
                }
            }
            assert!(asked.len() <= WINDOW);
            match random.below(4) {
                0 if !flying.is_empty() => drop(flying.swap_remove(random.below(flying.len()))),
                1..=2 if !flying.is_empty() => {
                    let index = flying[random.below(flying.len())];
                    let length = range(size, index).map_or(0, |range| range.end - range.start);
                    let length = usize::try_from(length).unwrap() + usize::from(random.below(5) == 0);
                    receiver.step(now, chunk(index, length), &mut actions);
                }
                _ => {
                    now = receiver.wake_at().unwrap_or(now);
                    receiver.step(now, Signal::Timer, &mut actions);
                }
            }
        }
        assert_eq!(receiver.taken(), size);
        assert_eq!(taken.len() as u64, size.div_ceil(CHUNK as u64));
    }
}
