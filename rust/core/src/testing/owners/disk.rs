//! A disk: what was written becomes durable in its order, after a while. A crash keeps a random beginning of the rest.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{DAEMONS, Scene};
use crate::ownership::OwnershipRecord;
use crate::rows::{Table, Write};

/// What a write is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// A record, under the ticket of the machine.
    Record(usize, u64),
    /// An event of a daemon.
    Event(usize),
}

/// What becomes of the state of a daemon.
#[derive(Debug, Clone)]
pub enum Change {
    /// It is this.
    Base(usize, Vec<u64>),
    /// One event more.
    Event(usize, u64),
}

struct Pending {
    writes: Vec<Write>,
    change: Option<Change>,
    tag: Tag,
    at: Duration,
    fails: bool,
}

/// The disk of a node.
pub struct Disk {
    records: [BTreeMap<u64, OwnershipRecord>; DAEMONS],
    /// The events of each daemon.
    pub logs: [Vec<u64>; DAEMONS],
    queue: VecDeque<Pending>,
    fresh: Vec<OwnershipRecord>,
}

impl Disk {
    pub const fn new() -> Self {
        Self {
            records: [const { BTreeMap::new() }; DAEMONS],
            logs: [const { Vec::new() }; DAEMONS],
            queue: VecDeque::new(),
            fresh: Vec::new(),
        }
    }

    pub fn submit(&mut self, writes: Vec<Write>, change: Option<Change>, tag: Tag, scene: &mut Scene) {
        let slow = if scene.random.below(20) == 0 && !scene.is_calm {
            3500
        } else {
            20
        };
        let last = self.queue.back().map_or(Duration::ZERO, |pending| pending.at);
        let at = scene.soon(slow).max(last);
        let fails = matches!(tag, Tag::Record(..)) && !scene.is_calm && scene.random.below(30) == 0;
        self.queue.push_back(Pending {
            writes,
            change,
            tag,
            at,
            fails,
        });
    }

    pub fn wake_at(&self) -> Duration {
        self.queue.front().map_or(Duration::MAX, |pending| pending.at)
    }

    /// What is durable by now, or failed.
    pub fn done(&mut self, scene: &mut Scene) -> Option<(Tag, bool)> {
        if self.wake_at() > scene.now {
            return None;
        }
        let pending = self.queue.pop_front()?;
        // What failed may be durable after all.
        let (tag, fails) = (pending.tag, pending.fails);
        if !fails || scene.random.below(2) == 0 {
            self.apply(pending);
        }
        Some((tag, !fails))
    }

    fn apply(&mut self, pending: Pending) {
        for write in pending.writes {
            assert_eq!(write.table, Table::Ownership);
            let value = write.value.expect("records are put");
            let record = OwnershipRecord::decode(&value).expect("what was written can be read");
            self.records[super::daemon_of(record.entity())].insert(record.epoch(), record);
            self.fresh.push(record);
        }
        match pending.change {
            Some(Change::Base(daemon, log)) => self.logs[daemon] = log,
            Some(Change::Event(daemon, event)) => self.logs[daemon].push(event),
            None => {}
        }
    }

    pub fn crash(&mut self, forgets: bool, scene: &mut Scene) {
        let kept = scene.random.below(self.queue.len() + 1);
        let queue = std::mem::take(&mut self.queue);
        if forgets {
            *self = Self::new();
            return;
        }
        queue.into_iter().take(kept).for_each(|pending| self.apply(pending));
    }

    pub fn highest(&self, daemon: usize) -> Option<OwnershipRecord> {
        self.records[daemon].last_key_value().map(|(_, record)| *record)
    }

    pub fn has(&self, daemon: usize, record: &OwnershipRecord) -> bool {
        self.records[daemon].get(&record.epoch()) == Some(record)
    }

    pub fn lineage(&self, daemon: usize) -> Vec<OwnershipRecord> {
        self.records[daemon].values().copied().collect()
    }

    /// Records that became durable since [`seen`](Self::seen).
    pub fn fresh(&self) -> impl Iterator<Item = &OwnershipRecord> {
        self.fresh.iter()
    }

    pub fn seen(&mut self) {
        self.fresh.clear();
    }
}
