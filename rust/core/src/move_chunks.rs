//! Decision: which chunks of an image a target asks for, and which it takes.
//!
//! | a chunk | what comes of it |
//! |---|---|
//! | of another image | nothing; counted |
//! | that was not asked for, or of another length than at its place | nothing; counted |
//! | that is held | nothing; counted |
//! | that is asked for | taken; the next one is asked for; after the last the image is whole |
//!
//! A chunk that was altered does not get here: [`MoveFrame::decode`](crate::move_frame::MoveFrame::decode) refuses it, and it
//! is asked for again. Whoever runs it compares the digest of the whole image.
//!
//! Invariants
//! * At most [`WINDOW`] chunks are asked for and not taken.
//! * A chunk is taken once. What is refused changes nothing.
//! * It never gives up: whoever waits for it does, at a deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use crate::digest::Digest;
use crate::mix;
use crate::move_frame::MAX_SNAPSHOT_CHUNK_SIZE;

/// Chunks that are asked for and not taken.
pub const WINDOW: usize = 4;

/// The first wait for a chunk; it doubles with each try.
pub const RESEND_FIRST: Duration = Duration::from_millis(100);

/// The longest wait for one.
pub const RESEND_MAX: Duration = Duration::from_secs(1);

const CHUNK: u64 = MAX_SNAPSHOT_CHUNK_SIZE as u64;

/// Where in an image of so many bytes a chunk lies; `None`: it has none of that index.
#[must_use]
pub fn range(image_bytes: u64, index: u32) -> Option<Range<u64>> {
    let start = u64::from(index) * CHUNK;
    (start < image_bytes).then(|| start..(start + CHUNK).min(image_bytes))
}

/// An image that is not pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an image of {size} bytes, at most {max} are taken")]
pub struct TooLarge {
    /// Its size.
    pub size: u64,
    /// The size allowed.
    pub max: u64,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// A chunk came.
    Chunk {
        /// Of this image.
        image: Digest,
        /// Which.
        index: u32,
        /// How long it is.
        length: usize,
    },
    /// Time has passed.
    Timer,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask for a chunk.
    Pull {
        /// Which.
        index: u32,
    },
    /// Put the chunk where it belongs.
    Take {
        /// Where in the image.
        offset: u64,
    },
    /// Nothing is missing: compare the digest.
    Whole,
}

/// What was of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Chunks of other images.
    pub foreign: u64,
    /// Chunks that nobody asked for, or of a length that does not fit.
    pub unfit: u64,
    /// Chunks that are held.
    pub repeated: u64,
}

/// An image on its way to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkReceiver {
    image: Digest,
    size: u64,
    count: u32,
    /// All below are held.
    below: u32,
    /// Those above that are held too.
    held: BTreeSet<u32>,
    taken: u64,
    /// Asked for, and when last.
    asked: BTreeMap<u32, Duration>,
    wait: Duration,
    tries: u64,
    seed: u64,
    counters: Counters,
}

impl ChunkReceiver {
    /// Begins, with what is `held` from before; `seed` spreads the tries.
    ///
    /// # Errors
    /// [`TooLarge`]: it has more than `size_max` bytes.
    pub fn begin(
        now: Duration,
        (image, size): (Digest, u64),
        size_max: u64,
        held: impl IntoIterator<Item = u32>,
        seed: u64,
        actions: &mut Vec<Action>,
    ) -> Result<Self, TooLarge> {
        // An index has 32 bits.
        let max = size_max.min(u64::from(u32::MAX) * CHUNK);
        if size > max {
            return Err(TooLarge { size, max });
        }
        let count = u32::try_from(size.div_ceil(CHUNK)).unwrap_or(u32::MAX);
        let mut receiver = Self {
            image,
            size,
            count,
            below: 0,
            held: held.into_iter().filter(|index| *index < count).collect(),
            taken: 0,
            asked: BTreeMap::new(),
            wait: RESEND_FIRST,
            tries: 0,
            seed,
            counters: Counters::default(),
        };
        receiver.taken = receiver.held.iter().map(|index| receiver.length(*index)).sum();
        receiver.go_on(now, actions);
        Ok(receiver)
    }

    /// Of which image, and how large it is.
    #[must_use]
    pub const fn image(&self) -> (Digest, u64) {
        (self.image, self.size)
    }

    /// Bytes that are held.
    #[must_use]
    pub const fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether nothing is missing.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.below == self.count
    }

    /// What was of no use.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// When [`Signal::Timer`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        let oldest = self.asked.values().min()?;
        let shortened = self.wait.mul_f64(mix::pair_as_share(self.seed, self.tries) / 4.0);
        Some(*oldest + self.wait - shortened)
    }

    /// Decides one step. `now` is the time of a clock that never goes back.
    pub fn step(&mut self, now: Duration, signal: Signal, actions: &mut Vec<Action>) {
        match signal {
            Signal::Chunk { image, index, length } => self.chunk(now, image, index, length, actions),
            Signal::Timer => self.timer(now, actions),
        }
    }

    fn chunk(&mut self, now: Duration, image: Digest, index: u32, length: usize, actions: &mut Vec<Action>) {
        if image != self.image {
            self.counters.foreign += 1;
        } else if index < self.below || self.held.contains(&index) {
            self.counters.repeated += 1;
        } else if !self.asked.contains_key(&index) || length as u64 != self.length(index) {
            self.counters.unfit += 1;
        } else {
            self.asked.remove(&index);
            self.held.insert(index);
            self.taken += length as u64;
            self.wait = RESEND_FIRST;
            let offset = u64::from(index) * CHUNK;
            actions.push(Action::Take { offset });
            self.go_on(now, actions);
        }
    }

    /// Asks for as many as the window takes.
    fn go_on(&mut self, now: Duration, actions: &mut Vec<Action>) {
        while self.held.remove(&self.below) {
            self.below += 1;
        }
        if self.is_whole() {
            return actions.push(Action::Whole);
        }
        let mut index = self.below;
        while self.asked.len() < WINDOW && index < self.count {
            if !self.held.contains(&index) && !self.asked.contains_key(&index) {
                self.asked.insert(index, now);
                actions.push(Action::Pull { index });
            }
            index += 1;
        }
    }

    fn timer(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.wake_at().is_none_or(|at| now < at) {
            return;
        }
        // What was asked for a moment ago is not late yet.
        let late = now.saturating_sub(self.wait / 2);
        for (index, asked_at) in self.asked.iter_mut().filter(|(_, asked_at)| **asked_at <= late) {
            *asked_at = now;
            actions.push(Action::Pull { index: *index });
        }
        self.tries += 1;
        self.wait = (self.wait * 2).min(RESEND_MAX);
    }

    fn length(&self, index: u32) -> u64 {
        range(self.size, index).map_or(0, |range| range.end - range.start)
    }
}
