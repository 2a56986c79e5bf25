//! The owners of a node, one for each daemon: signals in, actions out, and what falls due.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::id::EntityId;
use meshos_core::owner::{Action, Owner, Phase, Refused, Signal};
use meshos_core::ownership::OwnershipRecord;
use meshos_core::ownership_frame::{Body, OwnershipFrame};

use super::claim::{Denied, Desk, Stage};
use super::hold::Fenced;
use super::records::hear;
use super::work::Work;
use super::{Ownership, State, TOGETHER};
use crate::lease::Lease;

pub(super) struct Entry {
    /// Which owner of this node it is; later ones have higher numbers.
    pub(super) number: u64,
    pub(super) owner: Owner,
    pub(super) lease: Arc<Lease>,
    pub(super) desk: Arc<Desk>,
    pub(super) fenced: Option<Fenced>,
    /// What is registered, or what the store has.
    pub(super) lineage: Vec<OwnershipRecord>,
    pub(super) due: Option<Duration>,
}

impl Ownership {
    /// Ends the owner of an entity; what it counted and knew stays.
    pub(super) fn forget(&self, state: &mut State, entity: &EntityId) {
        if let Some(entry) = state.owners.remove(entity) {
            let counters = entry.owner.counters();
            state.lapses += counters.lapses;
            state.late += counters.late;
            if let Some(due) = entry.due {
                state.due.remove(&(due, *entity));
            }
        }
    }

    /// Ends this very owner.
    pub(super) fn release(&self, entity: &EntityId, number: u64) {
        let mut state = self.state.lock();
        if state.owners.get(entity).is_some_and(|entry| entry.number == number) {
            self.forget(&mut state, entity);
        }
    }

    pub(super) fn step(&self, state: &mut State, entity: &EntityId, signal: Signal, work: &mut Work) {
        let now = self.began.elapsed();
        let mut actions = Vec::new();
        let Some(entry) = state.owners.get_mut(entity) else {
            return;
        };
        let known = entry.owner.fence().map_or(0, OwnershipRecord::epoch);
        entry.owner.step(now, signal, &mut actions);
        for action in actions {
            match action {
                Action::Send(frame) => work.posts.push((self.directory, frame)),
                Action::RegisterLineage(ask) => {
                    let body = Body::Register(entry.lineage.clone());
                    work.posts.push((self.directory, OwnershipFrame { ask, body }));
                }
                Action::Keep { ticket, record, .. } if record.node() == self.node => {
                    entry.desk.say(Stage::Keep(ticket, Box::new(record)));
                }
                Action::Keep { ticket, writes, .. } => work.notes.push((*entity, entry.number, ticket, writes)),
                Action::Activate { .. } => entry.desk.say(Stage::Active),
                Action::Resume | Action::Stop => {}
                Action::Refused(Refused::DirectoryFull | Refused::Spawning) => {
                    entry.desk.say(Stage::Denied(Denied::Full));
                }
                Action::Refused(Refused::AlreadyOwned { node, epoch }) => {
                    entry.desk.say(Stage::Denied(Denied::NotOwner { node, epoch }));
                }
            }
        }
        if let Some(active) = entry.owner.active() {
            entry
                .lease
                .renew(active.epoch(), entry.owner.valid_until().unwrap_or_default());
        }
        let news = entry.owner.fence().filter(|fence| fence.epoch() > known).copied();
        if entry.owner.phase() == Phase::Fenced
            && let Some(record) = entry.owner.fence()
        {
            let (node, epoch) = (record.node(), record.epoch());
            if entry.lease.fenced().is_none() {
                entry.lease.fence(node, epoch);
                entry.desk.say(Stage::Denied(Denied::NotOwner { node, epoch }));
                if let Some(fenced) = entry.fenced.take() {
                    state.fenced += 1;
                    work.told.push((fenced, node, epoch));
                }
            }
        }
        let due = entry.owner.wake_at();
        if due != entry.due {
            let before = std::mem::replace(&mut entry.due, due);
            state.due.extend(due.map(|at| (at, *entity)));
            if let Some(before) = before {
                state.due.remove(&(before, *entity));
            }
        }
        if let Some(record) = news {
            hear(&mut state.heard, record);
        }
    }

    /// What fell due.
    pub(super) fn timers(&self, work: &mut Work) -> Option<Duration> {
        let now = self.began.elapsed();
        let mut state = self.state.lock();
        while let Some((_, entity)) = state.due.first().copied().filter(|(at, _)| *at <= now) {
            let before = state.due.first().copied();
            self.step(&mut state, &entity, Signal::Timer, work);
            if state.due.first().copied() == before {
                // It has nothing to do, and is not asked again.
                state.due.pop_first();
                if let Some(entry) = state.owners.get_mut(&entity) {
                    entry.due = None;
                }
            }
        }
        let first = state.due.first().map(|(at, _)| *at)?;
        Some(first.max(now + TOGETHER))
    }

    /// A record of another node is kept here, or is not known to be.
    pub(super) fn noted(&self, entity: EntityId, number: u64, ticket: u64, is_kept: bool, work: &mut Work) {
        let signal = if is_kept {
            Signal::Kept(ticket)
        } else {
            Signal::Failed(ticket)
        };
        let mut state = self.state.lock();
        if state.owners.get(&entity).is_none_or(|entry| entry.number != number) {
            return;
        }
        self.step(&mut state, &entity, signal, work);
        let record = state.owners.get(&entity).and_then(|entry| entry.owner.fence().copied());
        if is_kept {
            // There is nothing more to do for it.
            self.forget(&mut state, &entity);
        }
        drop(state);
        if let (true, Some(record), Some(recorded)) = (is_kept, record, self.recorded.get()) {
            recorded(&record);
        }
    }
}
