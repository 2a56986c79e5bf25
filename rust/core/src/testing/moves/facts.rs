//! What is true in a run, and the rules that it must not break.
//!
//! | rule | what it says |
//! |---|---|
//! | OneOwner | all events of an epoch take effect on one node |
//! | Fence | nothing takes effect in an epoch below a durable record |
//! | Epoch | no epoch has two records |
//! | NotTwice | an event is in the history of a state at most once |
//! | Order | of one origin, numbers in a history rise |
//! | NotLost | what was acknowledged is in the history, where that is promised |
//! | Receipt | all receipts of an event are equal, and an open event never gets Stale |
//! | OneChain | all consumers take the same outputs |
//! | Outcome | a move is reported as committed exactly if a record carries it, and never both ended |
//! | Conserved | what was shipped is taken in |
//! | SameOutputs | an event emits what it emits at a daemon that never moved, also when it is taken in again |
//! | SameState | so does a snapshot: when it is taken, after it was restored, and in the end |
//! | Ends, OneLive, Progress | when nothing goes wrong any more, everything is settled, and one node owns |

use std::collections::{BTreeMap, BTreeSet};

use super::{Held, Options, broken};
use crate::cursors::Receipt;
use crate::digest::Digest;
use crate::id::Origin;
use crate::move_rows::{Item, Outcome};
use crate::ownership::{MigrationId, OwnershipRecord};

/// Which event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uid {
    pub origin: Origin,
    pub sequence: u64,
    pub content: u64,
}

#[derive(Debug, Default)]
pub struct Facts {
    keeps_all: bool,
    records: BTreeMap<u64, OwnershipRecord>,
    committed: BTreeSet<MigrationId>,
    aborted: BTreeSet<MigrationId>,
    pub outcomes: BTreeMap<MigrationId, Outcome>,
    appliers: BTreeMap<u64, usize>,
    acknowledged: BTreeMap<(Origin, u64), (u64, Receipt)>,
    taken: BTreeMap<(u64, u64), Digest>,
    shipped: BTreeMap<MigrationId, u64>,
}

impl Facts {
    pub fn new(options: &Options) -> Self {
        Self {
            keeps_all: options.keeps_all(),
            ..Self::default()
        }
    }

    pub fn highest(&self) -> Option<&OwnershipRecord> {
        self.records.last_key_value().map(|(_, record)| record)
    }

    /// A record is durable somewhere.
    pub fn record(&mut self, record: &OwnershipRecord) -> Held {
        if self.records.entry(record.epoch()).or_insert(*record) != record {
            return broken("Epoch", format!("epoch {} has two records", record.epoch()));
        }
        if record.mid != MigrationId::default() {
            self.committed.insert(record.mid);
            return self.once(&record.mid);
        }
        Ok(())
    }

    /// A row of a move is durable somewhere.
    pub fn item(&mut self, mid: MigrationId, item: &Item) -> Held {
        match item {
            Item::Done(_) => {
                self.aborted.insert(mid);
                self.once(&mid)
            }
            Item::Ended(outcome, _) => self.outcome(mid, *outcome),
            _ => Ok(()),
        }
    }

    fn once(&self, mid: &MigrationId) -> Held {
        if self.committed.contains(mid) && self.aborted.contains(mid) {
            return broken("Outcome", format!("move {} is committed and aborted", mid[0]));
        }
        Ok(())
    }

    /// An orchestrator reports what became of a move.
    pub fn outcome(&mut self, mid: MigrationId, outcome: Outcome) -> Held {
        let before = *self.outcomes.entry(mid).or_insert(outcome);
        let is_committed = self.committed.contains(&mid);
        if before != outcome || (outcome == Outcome::Committed) != is_committed {
            return broken("Outcome", format!("{outcome:?} is reported, committed: {is_committed}"));
        }
        Ok(())
    }

    /// A source committed, with so many events.
    pub fn ship(&mut self, mid: MigrationId, events: u64) {
        self.shipped.insert(mid, events);
    }

    /// The node that committed a move lost what it was about to ship.
    pub fn source_crashed(&mut self, node: usize) {
        let lost = |record: &&OwnershipRecord| record.source == super::id_of(node);
        for record in self.records.values().filter(lost) {
            self.shipped.remove(&record.mid);
        }
    }

    /// A target went live with so many events.
    pub fn went_live(&mut self, mid: &MigrationId, events: u64) -> Held {
        match self.shipped.get(mid) {
            Some(shipped) if *shipped != events => broken(
                "Conserved",
                format!("{shipped} events were shipped, {events} are taken in"),
            ),
            _ => Ok(()),
        }
    }

    /// An event takes effect.
    pub fn apply(&mut self, node: usize, epoch: u64, history: &[Uid], uid: &Uid) -> Held {
        if *self.appliers.entry(epoch).or_insert(node) != node {
            return broken("OneOwner", format!("epoch {epoch}: node {node} also applies"));
        }
        let highest = self.highest().map_or(0, OwnershipRecord::epoch);
        if highest > epoch {
            return broken("Fence", format!("node {node} applies in epoch {epoch}, not {highest}"));
        }
        if history.iter().any(|before| before.content == uid.content) {
            return broken("NotTwice", format!("{uid:?} takes effect again"));
        }
        let newest = history.iter().rev().find(|before| before.origin == uid.origin);
        if newest.is_some_and(|newest| newest.sequence >= uid.sequence) {
            return broken("Order", format!("{uid:?} after {newest:?}"));
        }
        Ok(())
    }

    /// A node runs the daemon with this history.
    pub fn activated(&self, history: &[Uid]) -> Held {
        if !self.keeps_all {
            return Ok(());
        }
        for ((origin, sequence), (content, receipt)) in &self.acknowledged {
            let at = usize::try_from(receipt.processed).unwrap_or(0).wrapping_sub(1);
            let uid = Uid {
                origin: *origin,
                sequence: *sequence,
                content: *content,
            };
            if history.get(at) != Some(&uid) {
                return broken("NotLost", format!("{uid:?} is not at {at} of {}", history.len()));
            }
        }
        Ok(())
    }

    /// A sender got a receipt.
    pub fn acknowledged(&mut self, uid: Uid, receipt: Receipt) -> Held<bool> {
        let key = (uid.origin, uid.sequence);
        if let Some((_, before)) = self.acknowledged.get(&key) {
            if *before != receipt && (self.keeps_all || before.epoch == receipt.epoch) {
                return broken("Receipt", format!("{uid:?} has {before:?} and {receipt:?}"));
            }
            return Ok(false);
        }
        self.acknowledged.insert(key, (uid.content, receipt));
        Ok(true)
    }

    pub const fn keeps_all(&self) -> bool {
        self.keeps_all
    }

    /// A consumer took an output.
    pub fn taken(&mut self, epoch: u64, n: u64, head: Digest) -> Held {
        let span = if self.keeps_all { 0 } else { epoch };
        if *self.taken.entry((span, n)).or_insert(head) != head {
            return broken("OneChain", format!("output {n} is two outputs"));
        }
        Ok(())
    }
}
