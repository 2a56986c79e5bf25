//! What was decided under the lock, and is done without it: frames, records that are kept, and who is told.
//!
//! Invariants
//! * Requests and answers of one turn to one node are one body.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use meshos_core::frame::Kind;
use meshos_core::id::EntityId;
use meshos_core::ownership_frame::Body;
use meshos_core::parcel::Packer;
use meshos_core::rows::Write;

use super::hold::Fenced;
use super::inbox::Item;
use super::{Ownership, TOGETHER};
use crate::keeping::Stores;
use crate::lane::Job;
use crate::ownership_central::{self as central, Posts};
use crate::sync::Mutex;

/// Bytes after which a body is sent though more goes to the same node.
const BODY_BYTES: usize = 1 << 20;

/// What is to be done when no lock is held.
#[derive(Default)]
pub(super) struct Work {
    pub(super) posts: Posts,
    pub(super) notes: Vec<(EntityId, u64, u64, Vec<Write>)>,
    pub(super) told: Vec<(Fenced, EntityId, u64)>,
}

impl Ownership {
    /// Does what may only be done when no lock is held.
    pub(super) fn carry_out(&self, work: Work) {
        let Work { posts, notes, told } = work;
        for (fenced, node, epoch) in told {
            fenced(node, epoch);
        }
        for (entity, number, ticket, writes) in notes {
            let note = Note {
                ownership: self.me.clone(),
                entity,
                number,
                ticket,
                stores: Arc::clone(&self.stores),
                writes: Mutex::new(writes),
            };
            self.lanes.submit(Arc::new(note));
        }
        let mut bodies: BTreeMap<EntityId, Packer> = BTreeMap::new();
        for (to, mut frame) in posts {
            if matches!(frame.body, Body::Install { .. }) {
                // Nobody is told who is not there.
                let Some(run) = self.run_of(&to) else { continue };
                frame.ask.run = run;
            }
            let packer = bodies.entry(to).or_default();
            packer.put(|out| out.extend(frame.to_bytes()));
            if packer.len() >= BODY_BYTES {
                self.post(&to, packer);
            }
        }
        for (to, mut packer) in bodies {
            self.post(&to, &mut packer);
        }
    }

    /// Carries out what was decided outside of a turn, and asks for one when the next thing is due.
    pub(super) fn carry_out_now(&self, work: Work) {
        self.carry_out(work);
        let due = self.state.lock().due.first().map(|(at, _)| *at);
        let due = due.map(|at| at.max(self.began.elapsed() + TOGETHER));
        if let Some(at) = due.and_then(|at| self.began.checked_add(at)) {
            self.place().wake_by(at);
        }
    }

    fn post(&self, to: &EntityId, packer: &mut Packer) {
        if !packer.is_empty() {
            // What does not arrive is asked again.
            let _ = self.carrier.post(to, Kind::OWNERSHIP, packer.body());
            packer.clear();
        }
    }

    /// In which run a node is.
    fn run_of(&self, node: &EntityId) -> Option<u64> {
        if *node == self.node {
            return Some(self.run);
        }
        let peer = self.carrier.as_mesh()?.peer(node.node_id())?;
        Some(peer.beat.run)
    }
}

/// Keeps a record of another node.
struct Note {
    ownership: Weak<Ownership>,
    entity: EntityId,
    number: u64,
    ticket: u64,
    stores: Stores,
    writes: Mutex<Vec<Write>>,
}

impl Job for Note {
    fn run(self: Arc<Self>) {
        let writes = std::mem::take(&mut *self.writes.lock());
        let is_kept = central::written(&self.stores, writes).is_ok();
        if let Some(ownership) = self.ownership.upgrade() {
            ownership.put(Item::Noted(self.entity, self.number, self.ticket, is_kept));
        }
    }
}
