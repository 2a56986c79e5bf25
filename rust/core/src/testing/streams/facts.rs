//! What is true in a run, and the rules that it must not break.
//!
//! | rule | what it says |
//! |---|---|
//! | NotTwice | an event is in the history of a state at most once |
//! | Order | of one origin, numbers in a history rise |
//! | NotLost | what was acknowledged is in the history, where that is promised |
//! | Receipt | all receipts of an event are equal, and say where it is in the history; an open event never gets Stale |
//! | OneChain | all consumers take the same outputs, those of the owner, and go back only where it does |
//! | Directions | a sender believes only owners that there were, and never an earlier one |
//! | Lost | only what is lost is reported as lost |
//! | Due | every output for the other daemon is in that one's history, in order |
//! | Progress | when nothing goes wrong any more, everything is settled |

use std::collections::{BTreeMap, BTreeSet};

use super::{DAEMONS, FIRST_EPOCH, Held, OWNERS, broken, node_key};
use crate::cursors::Receipt;
use crate::digest::Digest;
use crate::id::Origin;
use crate::outbox::Owner;
use crate::stream::Flow;

/// Which event: its origin, stream and number, and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Uid {
    pub origin: Origin,
    pub stream: u64,
    pub sequence: u64,
    pub content: u64,
}

/// What is true of one daemon.
#[derive(Debug, Default)]
pub(super) struct Daemon {
    pub epoch: u64,
    /// Events that are in its state, with their receipts.
    pub history: Vec<(Uid, Receipt)>,
    contents: BTreeSet<u64>,
    newest: BTreeMap<(Origin, u64), u64>,
    /// Digests after each output.
    pub chain: Vec<Digest>,
    /// Events from the other daemon that its chain owes, in order.
    pub due: Vec<(u64, u64)>,
    acknowledged: BTreeMap<(Origin, u64, u64), (u64, Receipt)>,
    taken: BTreeMap<(u64, u64), Digest>,
    crashes: u32,
}

#[derive(Debug)]
pub(super) struct Facts {
    is_durable: bool,
    pub daemons: [Daemon; 2],
}

impl Facts {
    pub(super) fn new(is_durable: bool) -> Self {
        let daemon = || Daemon {
            epoch: FIRST_EPOCH,
            ..Daemon::default()
        };
        Self {
            is_durable,
            daemons: [daemon(), daemon()],
        }
    }

    /// An event took effect.
    pub(super) fn applied(&mut self, daemon: usize, uid: Uid, receipt: Receipt) -> Held {
        let facts = &mut self.daemons[daemon];
        if !facts.contents.insert(uid.content) {
            return broken("NotTwice", format!("{uid:?} took effect again"));
        }
        let newest = facts.newest.entry((uid.origin, uid.stream)).or_default();
        if uid.sequence <= *newest {
            return broken("Order", format!("{uid:?} after {newest}"));
        }
        *newest = uid.sequence;
        facts.history.push((uid, receipt));
        Ok(())
    }

    /// A daemon began with nothing, in this epoch.
    pub(super) fn emptied(&mut self, daemon: usize, epoch: u64) {
        let facts = &mut self.daemons[daemon];
        facts.epoch = epoch;
        facts.history.clear();
        facts.contents.clear();
        facts.newest.clear();
        facts.chain.clear();
        facts.due.clear();
    }

    pub(super) fn crashed(&mut self, daemon: usize) {
        self.daemons[daemon].crashes += 1;
    }

    /// A daemon with a journal came back.
    pub(super) fn came_back(&self, daemon: usize) -> Held {
        self.nothing_acknowledged_is_lost(daemon)?;
        let facts = &self.daemons[daemon];
        for ((_, n), digest) in &facts.taken {
            if facts.chain.get(*n as usize - 1) != Some(digest) {
                return broken(
                    "OneChain",
                    format!("output {n} of daemon {daemon} was taken, and is another now"),
                );
            }
        }
        Ok(())
    }

    fn nothing_acknowledged_is_lost(&self, daemon: usize) -> Held {
        let facts = &self.daemons[daemon];
        for ((origin, stream, sequence), (content, receipt)) in &facts.acknowledged {
            let uid = Uid {
                origin: *origin,
                stream: *stream,
                sequence: *sequence,
                content: *content,
            };
            facts.is_where(&uid, receipt, "NotLost")?;
        }
        Ok(())
    }

    /// A sender got a receipt, perhaps late or repeated. Returns whether it is the first.
    pub(super) fn acknowledged(&mut self, daemon: usize, uid: Uid, receipt: Receipt) -> Held<bool> {
        let is_durable = self.is_durable;
        let facts = &mut self.daemons[daemon];
        let key = (uid.origin, uid.stream, uid.sequence);
        if let Some((content, before)) = facts.acknowledged.get(&key) {
            let differs = *before != receipt && (is_durable || before.epoch == receipt.epoch);
            if differs || (*content != uid.content && is_durable) {
                return broken("Receipt", format!("{uid:?} has {before:?} and {receipt:?}"));
            }
        }
        if is_durable || receipt.epoch == facts.epoch {
            facts.is_where(&uid, &receipt, "Receipt")?;
        }
        Ok(facts.acknowledged.insert(key, (uid.content, receipt)).is_none())
    }

    /// A consumer took an output.
    pub(super) fn taken(&mut self, daemon: usize, epoch: u64, n: u64, head: Digest) -> Held {
        let facts = &mut self.daemons[daemon];
        let span = if self.is_durable { 0 } else { epoch };
        let known = *facts.taken.entry((span, n)).or_insert(head);
        let of_owner = (epoch == facts.epoch).then(|| facts.chain.get(n as usize - 1).copied());
        // A daemon that is down has no chain to compare with; it is compared when it comes back.
        if known != head || of_owner.flatten().is_some_and(|of_owner| of_owner != head) {
            return broken(
                "OneChain",
                format!("output {n} of daemon {daemon} in epoch {epoch} is two outputs"),
            );
        }
        Ok(())
    }

    /// A sender believes an owner.
    pub(super) fn believed(&self, daemon: usize, before: Option<Owner>, now: Option<Owner>) -> Held {
        let Some(owner) = now else { return Ok(()) };
        let is_later = before.is_none_or(|before| before == owner || before.epoch < owner.epoch);
        let at = node_key(OWNERS[daemon]);
        let was_there = owner.epoch < FIRST_EPOCH || (owner.node == at && owner.epoch <= self.daemons[daemon].epoch);
        if is_later && was_there {
            return Ok(());
        }
        broken("Directions", format!("{owner:?} is believed after {before:?}"))
    }

    /// A sender reports events as lost. Returns how many that it had a receipt for.
    pub(super) fn lost(&self, flow: &Flow, after: u64, through: u64, epoch: u64) -> Held<u64> {
        let Some(daemon) = super::daemon_of(flow.entity) else {
            return Ok(0);
        };
        let facts = &self.daemons[daemon];
        if self.is_durable || facts.crashes == 0 || epoch == FIRST_EPOCH {
            return broken(
                "Lost",
                format!("{flow:?} ({after}, {through}] is reported, and nothing was lost"),
            );
        }
        let from = (flow.origin, flow.stream, after + 1);
        let range = facts.acknowledged.range(from..=(flow.origin, flow.stream, through));
        // A message that comes late may bring one of them again.
        Ok(range.count() as u64)
    }

    pub(super) fn at_the_end(&self) -> Held {
        for daemon in 0..DAEMONS.len() {
            if self.is_durable || self.daemons[daemon].crashes == 0 {
                self.nothing_acknowledged_is_lost(daemon)?;
            }
        }
        if self.is_durable || self.daemons.iter().all(|daemon| daemon.crashes == 0) {
            let emitter = DAEMONS[0].origin();
            let arrived: Vec<_> = self.daemons[1]
                .history
                .iter()
                .filter(|(uid, _)| uid.origin == emitter)
                .map(|(uid, _)| (uid.sequence, uid.content))
                .collect();
            if arrived != self.daemons[0].due {
                return broken(
                    "Due",
                    format!("{:?} were due, {arrived:?} arrived", self.daemons[0].due),
                );
            }
        }
        Ok(())
    }
}

impl Daemon {
    /// Whether the event is where its receipt says.
    fn is_where(&self, uid: &Uid, receipt: &Receipt, rule: &'static str) -> Held {
        let found = usize::try_from(receipt.processed)
            .ok()
            .and_then(|at| self.history.get(at.checked_sub(1)?));
        if found == Some(&(*uid, *receipt)) {
            return Ok(());
        }
        broken(rule, format!("{uid:?} has {receipt:?}, and there is {found:?}"))
    }
}
