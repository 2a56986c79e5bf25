//! What must hold, whatever goes wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{DAEMONS, Held, Options, broken, daemon_of};
use crate::digest::Digest;
use crate::ownership::OwnershipRecord;

/// What happened so far.
pub struct Facts {
    /// Whether nothing acknowledged may be lost.
    keeps_all: bool,
    /// The record of each epoch.
    records: BTreeMap<(usize, u64), Digest>,
    /// The highest epoch that is durable anywhere.
    highest: [u64; DAEMONS],
    /// Which node applied events in each epoch.
    appliers: BTreeMap<(usize, u64), usize>,
    /// What was emitted at each position of each epoch.
    emitted: BTreeMap<(usize, u64, usize), u64>,
    /// Until when a lease of each epoch was granted.
    leases: BTreeMap<(usize, u64), Duration>,
    /// What was acknowledged, and not rolled back.
    acknowledged: [Vec<u64>; DAEMONS],
    went_on: [bool; DAEMONS],
}

impl Facts {
    pub const fn new(options: &Options) -> Self {
        Self {
            keeps_all: options.journal && !options.forgetful,
            records: BTreeMap::new(),
            highest: [0; DAEMONS],
            appliers: BTreeMap::new(),
            emitted: BTreeMap::new(),
            leases: BTreeMap::new(),
            acknowledged: [const { Vec::new() }; DAEMONS],
            went_on: [false; DAEMONS],
        }
    }

    pub const fn calm(&mut self) {
        self.went_on = [false; DAEMONS];
    }

    pub const fn went_on(&self, daemon: usize) -> bool {
        self.went_on[daemon]
    }

    pub fn highest(&self, daemon: usize) -> Option<u64> {
        Some(self.highest[daemon]).filter(|epoch| *epoch > 0)
    }

    /// A record is durable somewhere.
    pub fn record(&mut self, record: &OwnershipRecord) -> Held {
        let daemon = daemon_of(record.entity());
        let digest = record.digest_of();
        if *self.records.entry((daemon, record.epoch())).or_insert(digest) != digest {
            return broken(
                "Epoch",
                format!("daemon {daemon} has two records of epoch {}", record.epoch()),
            );
        }
        self.highest[daemon] = self.highest[daemon].max(record.epoch());
        Ok(())
    }

    /// The directory grants a lease.
    pub fn grant(&mut self, daemon: usize, epoch: u64, until: Duration) {
        let lease = self.leases.entry((daemon, epoch)).or_default();
        *lease = until.max(*lease);
    }

    /// A node runs a daemon from these events on.
    pub fn activate(&mut self, daemon: usize, epoch: u64, log: &[u64]) -> Held {
        let acknowledged = &mut self.acknowledged[daemon];
        if self.keeps_all && !log.starts_with(acknowledged) {
            let (kept, lost) = (log.len(), acknowledged.len());
            return broken(
                "NotLost",
                format!("daemon {daemon} begins epoch {epoch} with {kept} of {lost}"),
            );
        }
        // What is durable and was not acknowledged is published by whoever owns now.
        *acknowledged = log.to_vec();
        Ok(())
    }

    /// A node applies an event.
    pub fn apply(&mut self, node: usize, daemon: usize, epoch: u64) -> Held {
        if *self.appliers.entry((daemon, epoch)).or_insert(node) != node {
            return broken("OneOwner", format!("daemon {daemon}, epoch {epoch}: two nodes apply"));
        }
        self.fence(node, daemon, epoch)
    }

    fn fence(&self, node: usize, daemon: usize, epoch: u64) -> Held {
        let highest = self.highest[daemon];
        if highest > epoch {
            return broken(
                "Fence",
                format!("node {node} runs daemon {daemon} in epoch {epoch}, not {highest}"),
            );
        }
        Ok(())
    }

    /// A node acknowledges an event and publishes it, at a position from 1.
    pub fn acknowledge(
        &mut self,
        now: Duration,
        node: usize,
        daemon: usize,
        epoch: u64,
        position: usize,
        event: u64,
    ) -> Held {
        self.fence(node, daemon, epoch)?;
        let lease = self.leases.get(&(daemon, epoch)).copied().unwrap_or_default();
        if now >= lease {
            return broken(
                "Lease",
                format!("node {node} acknowledges for daemon {daemon} at {now:?}, not {lease:?}"),
            );
        }
        if *self.emitted.entry((daemon, epoch, position)).or_insert(event) != event {
            return broken(
                "OneChain",
                format!("daemon {daemon}, epoch {epoch}: two events at {position}"),
            );
        }
        let acknowledged = &mut self.acknowledged[daemon];
        acknowledged.truncate(position - 1);
        acknowledged.push(event);
        self.went_on[daemon] = true;
        Ok(())
    }
}
