//! A claim: what a node asks for before it runs a daemon, and waiting for the answer.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::id::EntityId;
use meshos_core::owner::{Owner, OwnerConfig, Signal};
use meshos_core::ownership::OwnershipRecord;
use meshos_core::presence::PeerState;

use super::Ownership;
use super::hold::{Fenced, Hold};
use super::owners::Entry;
use super::work::Work;
use crate::clock::Deadline;
use crate::keys;
use crate::lease::Lease;
use crate::mesh::PeerWaitError;
use crate::reactor::Reactor;
use crate::sync::{Condvar, Mutex};

/// How long a claim waits for the directory.
pub const CLAIM_WAIT: Duration = Duration::from_secs(5);
/// Requests of one owner are numbered below this; the next owner of the node goes on above.
const NUMBERS: u64 = 1 << 32;

/// Why a node does not get what it claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// Another node owns it, or this one does and has lost what it did.
    NotOwner {
        /// Who owns it.
        node: EntityId,
        /// In which epoch.
        epoch: u64,
    },
    /// The directory looks after as many daemons as it may.
    Full,
    /// The directory was silent for too long.
    Silent,
    /// The mesh is closed.
    Closed,
    /// Whoever waited does not want to any more.
    Interrupted,
    /// A later claim of this node for the same entity took its place.
    Replaced,
    /// What is claimed has no record.
    NoRecord,
}

/// What is claimed.
#[derive(Debug, Clone)]
pub enum Wish {
    /// An entity that the directory does not know: the whole lineage, of which the last record names this node.
    Begin(Vec<OwnershipRecord>),
    /// One that this node owned before, by the lineage that its store has; with the next record, if what it did is lost.
    GoOn(Vec<OwnershipRecord>, Option<Box<OwnershipRecord>>),
    /// One that this node was given by a takeover.
    Install(Vec<OwnershipRecord>),
}

/// How far a claim is.
#[derive(Debug)]
pub(super) enum Stage {
    Waiting,
    /// This is to be kept under this number.
    Keep(u64, Box<OwnershipRecord>),
    Active,
    Denied(Denied),
}

pub(super) struct Desk {
    pub(super) stage: Mutex<Stage>,
    pub(super) bell: Condvar,
}

impl Ownership {
    /// Claims an entity, waiting on this thread: until something is to be kept, or this node may go on. An earlier claim of
    /// this node for the entity ends; a daemon that runs by it is not given a lease again.
    ///
    /// # Errors
    /// [`Denied`]: nothing happened, except that the directory may have registered it for this node.
    pub fn claim(
        &self,
        wish: Wish,
        deadline: Deadline,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Claim, Denied> {
        let (signal, lineage) = match wish {
            Wish::Begin(lineage) => (lineage.last().copied().map(Signal::Spawn), lineage),
            Wish::GoOn(lineage, restart) => {
                let record = lineage.last().copied();
                (record.map(|record| Signal::Recover { record, restart }), lineage)
            }
            Wish::Install(lineage) => {
                let (record, run) = (lineage.last().copied(), self.run);
                (record.map(|record| Signal::Install { run, record }), lineage)
            }
        };
        let (Some(signal), Some(last)) = (signal, lineage.last()) else {
            return Err(Denied::NoRecord);
        };
        self.reach_directory(deadline, interrupted)?;
        let entity = last.entity();
        let lease = Arc::new(Lease::new(self.began, self.directory));
        let desk = Arc::new(Desk {
            stage: Mutex::new(Stage::Waiting),
            bell: Condvar::new(),
        });
        let mut work = Work::default();
        let mut state = self.state.lock();
        state.made += 1;
        let number = state.made;
        let config = OwnerConfig {
            seed: keys::random_u64(),
            ..self.config
        };
        let owner = Owner::new(self.node, self.run, config).numbered_after(number * NUMBERS);
        let entry = Entry {
            number,
            owner,
            lease: Arc::clone(&lease),
            desk: Arc::clone(&desk),
            fenced: None,
            lineage,
            due: None,
        };
        if let Some(before) = state.owners.get(&entity) {
            before.desk.deny(Denied::Replaced);
        }
        self.forget(&mut state, &entity);
        state.owners.insert(entity, entry);
        self.step(&mut state, &entity, signal, &mut work);
        drop(state);
        // Where the directory is near, its answer is there then.
        Reactor::of_process().tell(|| self.carry_out_now(work));
        let claim = Claim {
            ownership: self.me.upgrade().ok_or(Denied::Closed)?,
            entity,
            number,
            lease,
            desk,
            is_held: false,
        };
        claim.wait(deadline, interrupted, |stage| matches!(stage, Stage::Waiting))?;
        Ok(claim)
    }

    /// Waits until the directory's node is there.
    fn reach_directory(&self, deadline: Deadline, interrupted: &mut dyn FnMut() -> bool) -> Result<(), Denied> {
        if self.carrier.is_closed() {
            return Err(Denied::Closed);
        }
        let Some(mesh) = self.carrier.as_mesh().filter(|_| self.node != self.directory) else {
            return Ok(());
        };
        let directory = self.directory.node_id();
        if mesh.peer(directory).is_some_and(|peer| peer.state != PeerState::Dead) {
            return Ok(());
        }
        match mesh.wait_for_peer(directory, deadline, interrupted) {
            Ok(_) => Ok(()),
            Err(PeerWaitError::Timeout) => Err(Denied::Silent),
            Err(PeerWaitError::Closed) => Err(Denied::Closed),
            Err(PeerWaitError::Interrupted) => Err(Denied::Interrupted),
        }
    }
}

impl Desk {
    pub(super) fn say(&self, stage: Stage) {
        *self.stage.lock() = stage;
        self.bell.notify_all();
    }

    /// Says that it comes to nothing, unless that was said for another reason.
    pub(super) fn deny(&self, denied: Denied) {
        let mut stage = self.stage.lock();
        if !matches!(*stage, Stage::Denied(_)) {
            *stage = Stage::Denied(denied);
            self.bell.notify_all();
        }
    }
}

/// What a node was promised for one entity, while it brings that to be.
pub struct Claim {
    ownership: Arc<Ownership>,
    entity: EntityId,
    number: u64,
    lease: Arc<Lease>,
    desk: Arc<Desk>,
    is_held: bool,
}

impl Claim {
    /// The record that is to be kept with the daemon, if it was not before.
    #[must_use]
    pub fn to_keep(&self) -> Option<OwnershipRecord> {
        match &*self.desk.stage.lock() {
            Stage::Keep(_, record) => Some(**record),
            _ => None,
        }
    }

    /// Says that the record is durable, with the daemon; the directory is asked for a lease.
    pub fn kept(&self) {
        let ticket = {
            let mut stage = self.desk.stage.lock();
            let Stage::Keep(ticket, _) = *stage else { return };
            *stage = Stage::Waiting;
            ticket
        };
        let mut work = Work::default();
        let mut state = self.ownership.state.lock();
        if state
            .owners
            .get(&self.entity)
            .is_some_and(|entry| entry.number == self.number)
        {
            state.offered.remove(&self.entity);
            self.ownership
                .step(&mut state, &self.entity, Signal::Kept(ticket), &mut work);
        }
        drop(state);
        Reactor::of_process().tell(|| self.ownership.carry_out_now(work));
    }

    /// Waits until this node has a lease.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn active(&self, deadline: Deadline, interrupted: &mut dyn FnMut() -> bool) -> Result<(), Denied> {
        self.wait(deadline, interrupted, |stage| !matches!(stage, Stage::Active))
    }

    fn wait(
        &self,
        deadline: Deadline,
        interrupted: &mut dyn FnMut() -> bool,
        waits: impl Fn(&Stage) -> bool,
    ) -> Result<(), Denied> {
        let mut stage = self.desk.stage.lock();
        loop {
            match &*stage {
                Stage::Denied(denied) => return Err(*denied),
                found if !waits(found) => return Ok(()),
                _ => {}
            }
            if self.ownership.carrier.is_closed() {
                return Err(Denied::Closed);
            }
            if deadline.passed() {
                return Err(Denied::Silent);
            }
            drop(self.desk.bell.wait_until(stage, deadline.slice()));
            if interrupted() {
                return Err(Denied::Interrupted);
            }
            stage = self.desk.stage.lock();
        }
    }

    /// The daemon runs: `fenced` is told if another node owns it in a later term. `None` beside it: it is so already.
    #[must_use]
    pub fn hold(mut self, fenced: Fenced) -> (Hold, Option<(EntityId, u64)>) {
        self.is_held = true;
        let mut state = self.ownership.state.lock();
        let entry = state.owners.get_mut(&self.entity);
        if let Some(entry) = entry.filter(|entry| entry.number == self.number) {
            entry.fenced = Some(fenced);
        }
        // Under the lock: who is fenced from here on is told.
        let known = self.lease.fenced();
        drop(state);
        let hold = Hold {
            ownership: Arc::downgrade(&self.ownership),
            entity: self.entity,
            number: self.number,
            lease: Arc::clone(&self.lease),
        };
        (hold, known)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.is_held {
            self.ownership.release(&self.entity, self.number);
        }
    }
}
