//! What happened in a run, newest last, and a digest of all of it.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::digest::Digest;

/// Entries that are kept.
const KEPT: usize = 24;

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// A node stopped.
    Crashed(usize),
    /// It began again.
    Began(usize),
    /// Nodes are cut off.
    CutOff(usize),
    /// They are not any longer.
    Healed,
    /// The wall clock of a node is off by so many milliseconds.
    Jumped(usize, i64),
    /// A write failed.
    WriteFailed(usize),
    /// A beginning of what was not synced was there after a crash.
    Torn(usize, usize),
    /// User code takes this long.
    Slow(usize, Duration),
    /// A move is ordered, from a node to another, by a third.
    Ordered(u64, usize, usize, usize),
    /// The source of a move stopped the daemon after so many events.
    Froze(u64, usize, u64),
    /// A snapshot was taken after so many events.
    Kept(usize, u64),
    /// What became of a move.
    Committed(u64),
    /// What became of a move.
    Aborted(u64),
    /// A fresh instance took over: after a snapshot after so many events, and so many events that were taken again.
    Took(usize, u64, u64),
    /// A node took an event in, as the n-th.
    Applied(usize, u64, u64),
    /// From now on nothing goes wrong any more.
    Calm,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Crashed(node) => write!(f, "node {node} crashes"),
            Self::Began(node) => write!(f, "node {node} starts again"),
            Self::CutOff(node) => write!(f, "node {node} is cut off"),
            Self::Healed => f.write_str("all nodes hear each other again"),
            Self::Jumped(node, by) => write!(f, "the wall clock of node {node} is off by {by} ms"),
            Self::WriteFailed(node) => write!(f, "a write of node {node} fails"),
            Self::Torn(node, count) => write!(f, "{count} writes of node {node} survive, though they were not synced"),
            Self::Slow(node, time) => write!(f, "process takes {time:?} on node {node}"),
            Self::Ordered(number, from, to, by) => {
                write!(
                    f,
                    "move {number} is ordered: from node {from} to node {to}, by node {by}"
                )
            }
            Self::Froze(number, node, after) => {
                write!(f, "move {number}: node {node} takes a snapshot after {after} events")
            }
            Self::Kept(node, after) => write!(f, "node {node} takes a snapshot after {after} events"),
            Self::Committed(number) => write!(f, "move {number} is committed"),
            Self::Aborted(number) => write!(f, "move {number} is aborted"),
            Self::Took(node, after, 0) => write!(f, "node {node} restores the snapshot after {after} events"),
            Self::Took(node, after, again) => {
                write!(
                    f,
                    "node {node} restores the snapshot after {after} events, and takes {again} again"
                )
            }
            Self::Applied(node, number, at) => write!(f, "node {node} takes event {number} in, as number {at}"),
            Self::Calm => f.write_str("nothing goes wrong any more"),
        }
    }
}

/// The notes of a run.
pub struct Timeline {
    newest: VecDeque<(Duration, u64, Note)>,
    hasher: blake3::Hasher,
    is_kept: bool,
}

impl Timeline {
    pub fn new(is_kept: bool) -> Self {
        Self {
            newest: VecDeque::new(),
            hasher: blake3::Hasher::new(),
            is_kept,
        }
    }

    pub fn note(&mut self, now: Duration, step: u64, note: Note) {
        if !self.is_kept {
            return;
        }
        // Events that were taken in one after the other are one entry: the last.
        let is_row = |(.., last): &(Duration, u64, Note)| match (last, &note) {
            (Note::Applied(before, ..), Note::Applied(node, ..)) => before == node,
            _ => false,
        };
        if self.newest.back().is_some_and(is_row) {
            self.newest.pop_back();
        } else if self.newest.len() == KEPT {
            self.newest.pop_front();
        }
        self.newest.push_back((now, step, note));
    }

    /// Adds to the digest.
    pub fn commit(&mut self, parts: &[&[u8]]) {
        for part in parts.iter().filter(|_| self.is_kept) {
            self.hasher.update(&(part.len() as u64).to_le_bytes());
            self.hasher.update(part);
        }
    }

    pub fn digest(&self) -> Digest {
        Digest::from_bytes(*self.hasher.finalize().as_bytes())
    }

    pub fn lines(&self) -> Vec<String> {
        let line = |(at, step, note): &(Duration, u64, Note)| {
            format!(
                "{:.3} s, step {step}: {note}",
                at.saturating_sub(super::START).as_secs_f64()
            )
        };
        self.newest.iter().map(line).collect()
    }
}
