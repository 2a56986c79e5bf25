//! What comes in, waits for a turn, and is taken in there: frames of other nodes, and what became of rows.
//!
//! Invariants
//! * Every frame that arrives is judged, or refused for one reason and counted. Only the directory is heard, and only its
//!   node hears requests.

use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meshos_core::id::EntityId;
use meshos_core::owner::{Answer, Signal};
use meshos_core::ownership::OwnershipRecord;
use meshos_core::ownership_frame::{Body, OwnershipFrame};
use meshos_core::parcel;

use super::Ownership;
use super::records::{hear, offer};
use super::work::Work;
use crate::mesh::{Delivered, Take};
use crate::ownership_central::{self as central, Told};

/// Bodies that wait for a turn at most.
pub(super) const INBOX_MAX: usize = 16_384;
/// Bytes of them at most; one always has a place.
pub(super) const INBOX_BYTES_MAX: usize = 64 << 20;

pub(super) enum Item {
    Body(Delivered),
    /// Of the directory.
    Kept(Vec<u64>, bool),
    /// A record of another node that an owner keeps.
    Noted(EntityId, u64, u64, bool),
}

impl Ownership {
    /// Puts in what comes of work of this node.
    pub(super) fn put(&self, item: Item) {
        self.inbox.lock().put(item);
        self.place().wake();
    }

    pub(super) fn body(&self, delivered: &Delivered, work: &mut Work) {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        let Ok(messages) = parcel::open(delivered.body()) else {
            count(&self.malformed);
            return;
        };
        for message in messages {
            let Some(frame) = message.ok().and_then(|message| OwnershipFrame::decode(message).ok()) else {
                // The others are whole: of what cannot be read this is all that is lost.
                count(&self.malformed);
                continue;
            };
            let is_request = matches!(frame.body, Body::Register(_) | Body::Renew(_));
            let judged = match &self.central {
                Some(central) if is_request => central.hear(delivered.from, frame, &mut work.posts),
                _ if is_request || delivered.from != self.directory => {
                    count(&self.stranger);
                    continue;
                }
                _ => self.answer(frame, work),
            };
            if judged.is_err() {
                count(&self.forged);
            }
        }
    }

    /// Takes in what the directory says. `Err`: a signature does not fit.
    fn answer(&self, frame: OwnershipFrame, work: &mut Work) -> Result<(), ()> {
        let (ask, entity) = (frame.ask, frame.entity());
        let signal = match frame.body {
            Body::Registered { epoch, .. } => Signal::Answer {
                ask,
                answer: Answer::Registered { epoch },
            },
            Body::LeaseOk { epoch, lease_ms, .. } => {
                let lease = Duration::from_millis(u64::from(lease_ms));
                Signal::Answer {
                    ask,
                    answer: Answer::LeaseOk { epoch, lease },
                }
            }
            Body::Unregistered { reason, .. } => Signal::Answer {
                ask,
                answer: Answer::Unregistered(reason),
            },
            Body::Higher(record) => {
                if !self.verified.fits(&record) {
                    return Err(());
                }
                Signal::Higher { ask, record }
            }
            Body::Install { lineage, .. } => return self.install(ask.run, &entity, lineage, work),
            Body::Register(_) | Body::Renew(_) => return Ok(()),
        };
        self.step(&mut self.state.lock(), &entity, signal, work);
        Ok(())
    }

    /// Takes in that an entity is this node's. It is adopted when it is spawned here, with its state.
    fn install(&self, run: u64, entity: &EntityId, lineage: Vec<OwnershipRecord>, work: &mut Work) -> Result<(), ()> {
        let kept = || central::lineage(&*(self.stores)(), entity).unwrap_or_default();
        let lineage = self
            .verified
            .lineage(entity, lineage, &[self.directory], kept)
            .ok_or(())?;
        let record = *lineage.highest();
        let mut state = self.state.lock();
        if record.node() != self.node || run != self.run {
            state.late += 1;
            return Ok(());
        }
        match state.owners.get(entity).and_then(|entry| entry.owner.fence()) {
            // It is adopted, or is being: the directory hears of it.
            Some(known) if *known == record && !state.offered.contains_key(entity) => {
                self.step(&mut state, entity, Signal::Install { run, record }, work);
            }
            Some(known) if known.epoch() < record.epoch() => {
                self.step(&mut state, entity, Signal::Heard(record), work);
                offer(&mut state, &lineage);
            }
            Some(_) => {}
            None => offer(&mut state, &lineage),
        }
        hear(&mut state.heard, record);
        Ok(())
    }
}

impl Told for Ownership {
    fn kept(&self, tickets: Vec<u64>, is_kept: bool) {
        self.put(Item::Kept(tickets, is_kept));
    }
}

/// Where bodies come in.
pub(super) struct Inlet(pub(super) Weak<Ownership>);

impl Take for Inlet {
    fn take(&self, delivered: Delivered) -> bool {
        let Some(ownership) = self.0.upgrade() else {
            return false;
        };
        let bytes = delivered.body().len();
        let is_taken = ownership.inbox.lock().offer(Item::Body(delivered), bytes);
        if is_taken {
            ownership.place().wake();
        }
        is_taken
    }
}
