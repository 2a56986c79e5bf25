//! What comes in: frames of moves, judged before a machine sees them, and what is said beside the machines.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use meshos_core::id::{EntityId, Origin};
use meshos_core::move_frame::{Aside, Body, MoveFrame, Reason, Reject};
use meshos_core::move_rows::MoveOrder;
use meshos_core::ownership::{MigrationId, OwnershipRecord};
use meshos_core::rows::{KeyRange, Table};
use thiserror::Error;

use super::chunks::Sealed;
use super::entry::Scene;
use super::{Moves, Work, needs_no_hands};
use crate::clock::Deadline;
use crate::keys;
use crate::mesh::Delivered;
use crate::ownership_central as central;
use crate::sync::{Condvar, Mutex};

/// What a node says of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The node that said it.
    pub node: EntityId,
    /// The daemon.
    pub entity: EntityId,
    /// Who owns it, as far as that node knows.
    pub owner: EntityId,
    /// In which epoch; 0: it is not known there.
    pub epoch: u64,
    /// About how large its state is.
    pub size: u64,
    /// Name of its class; empty if it does not run there.
    pub kind: String,
}

/// Why a daemon was not described.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DescribeError {
    /// There is no such node, or it is not alive.
    #[error("the node is not there")]
    NoNode,
    /// It did not answer in time.
    #[error("the node did not answer in time")]
    Silent,
    /// Whoever waited does not want to any more.
    #[error("interrupted")]
    Interrupted,
    /// This node is closed.
    #[error("the node is closed")]
    Closed,
}

#[derive(Default)]
struct Answers {
    /// Who waits for which answer of which node.
    open: HashMap<MigrationId, (EntityId, Option<Described>)>,
    is_closed: bool,
}

/// Questions to other nodes that are open.
#[derive(Default)]
pub(super) struct Asks {
    answers: Mutex<Answers>,
    bell: Condvar,
}

impl Asks {
    pub(super) fn close(&self) {
        self.answers.lock().is_closed = true;
        self.bell.notify_all();
    }

    fn answered(&self, mid: &MigrationId, described: Described) {
        let mut answers = self.answers.lock();
        if let Some((node, answer)) = answers.open.get_mut(mid)
            && *node == described.node
        {
            *answer = Some(described);
            drop(answers);
            self.bell.notify_all();
        }
    }
}

impl Moves {
    /// Asks a node what it has under a handle, waiting on this thread. `interrupted` is asked between slices, without a lock.
    ///
    /// # Errors
    /// [`DescribeError`].
    pub fn describe(
        &self,
        node: EntityId,
        origin: Origin,
        deadline: Deadline,
        mut interrupted: impl FnMut() -> bool,
    ) -> Result<Described, DescribeError> {
        if !self.is_there(&node) {
            return Err(DescribeError::NoNode);
        }
        let mid: MigrationId = keys::random_bytes();
        self.asks.answers.lock().open.insert(mid, (node, None));
        let asked = MoveFrame {
            mid,
            entity: EntityId::from_bytes([0; 32]),
            epoch: 1,
            step: 1,
            body: Body::Aside(Box::new(Aside::Describe(origin))),
        };
        let body = asked.to_bytes();
        let outcome = loop {
            if self.is_closed() {
                break Err(DescribeError::Closed);
            }
            // What does not arrive is asked again, after a slice.
            let _ = self.carrier.post(&node, meshos_core::frame::Kind::MOVE, &body);
            let mut answers = self.asks.answers.lock();
            // Others are told too: whoever is not meant goes on waiting.
            let again = Deadline::after(Deadline::SLICE).sooner(deadline);
            while !again.passed() && !answers.is_closed && matches!(answers.open.get(&mid), Some((_, None))) {
                answers = self.asks.bell.wait_until(answers, again.slice());
            }
            if let Some((_, Some(described))) = answers.open.get(&mid) {
                break Ok(described.clone());
            }
            drop(answers);
            if deadline.passed() {
                break Err(DescribeError::Silent);
            }
            if interrupted() {
                break Err(DescribeError::Interrupted);
            }
        };
        self.asks.answers.lock().open.remove(&mid);
        outcome
    }

    /// Takes a frame in.
    pub(super) fn body(&self, delivered: &Delivered, work: &mut Work) {
        let Ok(frame) = MoveFrame::decode(delivered.body()) else {
            self.malformed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let from = delivered.from;
        let entity = frame.entity;
        if let Body::Chunk { image, index, bytes } = frame.body {
            let of = (frame.mid, image, index);
            let sealed = Sealed::of(delivered, bytes);
            return self.with(&entity, work, |entry, scene| entry.chunk(from, of, sealed, scene));
        }
        if self.hands().is_none() && !needs_no_hands(&frame.body) {
            return;
        }
        if !self.is_signed(&frame) {
            self.forged.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let roles = frame.body.roles(&self.node);
        if let Body::Aside(aside) = &frame.body {
            return self.aside(from, &frame, aside, work);
        }
        if roles.orchestrator {
            self.hear_order(from, &frame, work);
        }
        if roles.target {
            self.hear_target(from, frame.clone(), None, work);
        }
        if roles.source {
            self.hear_source(from, frame, work);
        }
    }

    /// Whether orders and records in a frame are signed as they say.
    fn is_signed(&self, frame: &MoveFrame<'_>) -> bool {
        let authorities = [self.ownership.directory()];
        match &frame.body {
            Body::Prepare(order) => order.verify_signature().is_ok(),
            Body::Final { lineage, .. } => self.is_lineage(&frame.entity, lineage, &authorities),
            Body::Commit { record, .. } => self.ownership.verified().fits(record),
            Body::Outcome {
                record: Some(record), ..
            } => self.ownership.verified().fits(record),
            Body::Aside(aside) => match &**aside {
                Aside::Show(record) => self.ownership.verified().fits(record),
                Aside::Copy(order) | Aside::Offer { order, .. } => order.verify_signature().is_ok(),
                _ => true,
            },
            _ => true,
        }
    }

    /// Whether a lineage is whole.
    fn is_lineage(&self, entity: &EntityId, lineage: &[OwnershipRecord], authorities: &[EntityId]) -> bool {
        let verified = self.ownership.verified();
        let kept = || central::lineage(&*(self.stores)(), entity).unwrap_or_default();
        verified.lineage(entity, lineage.to_vec(), authorities, kept).is_some()
    }

    /// `refusal`: why it is not taken on, as far as that is known.
    fn hear_target(&self, from: EntityId, frame: MoveFrame<'_>, refusal: Option<Reject>, work: &mut Work) {
        let refusal = refusal.or_else(|| match &frame.body {
            Body::Prepare(order) => self.target_refuses(order),
            _ => None,
        });
        let is_new = matches!(frame.body, Body::Prepare(_));
        if !self.bring(&frame.entity, is_new) {
            return;
        }
        self.with(&frame.entity.clone(), work, |entry, scene| {
            let busy = entry.is_engaged().then(|| Reject::from(Reason::Busy));
            entry.hear_target(from, frame, busy.or(refusal), scene);
        });
    }

    /// An instance was made for a daemon that is to come here, or could not be: whoever asked for it is answered.
    pub(super) fn made(&self, entity: &EntityId, made: Result<(), Reject>, work: &mut Work) {
        let mut asked = None;
        self.with(entity, work, |entry, scene| asked = entry.made(made.is_ok(), scene));
        if let Some((from, frame)) = asked {
            self.hear_target(from, frame, made.err(), work);
        }
    }

    fn hear_source(&self, from: EntityId, frame: MoveFrame<'_>, work: &mut Work) {
        let is_new = matches!(frame.body, Body::Prepare(_));
        if !self.bring(&frame.entity, is_new) {
            return;
        }
        let signer = match &frame.body {
            Body::Prepare(order) => Some(order.signer),
            Body::Freeze | Body::AbortReq => Some(from),
            // Of anything else no machine asks.
            _ => None,
        };
        let refusal = signer.and_then(|signer| self.source_refuses(signer, &frame.entity));
        self.with(&frame.entity.clone(), work, |entry, scene: &mut Scene<'_>| {
            entry.hear_source(from, frame, refusal, scene);
        });
    }

    /// Sees that there is an entry, with what the store knows by now if nothing is under way and `is_new`.
    fn bring(&self, entity: &EntityId, is_new: bool) -> bool {
        {
            let state = self.state.lock();
            if let Some(entry) = state.entries.get(entity)
                && !(is_new && entry.is_idle())
            {
                return true;
            }
        }
        // Who asks again is answered then.
        let Ok(made) = self.read(entity) else { return false };
        let mut state = self.state.lock();
        let super::State { entries, stats, .. } = &mut *state;
        let made = match entries.get_mut(entity) {
            Some(before) if !before.is_idle() => return true,
            Some(before) => made.after(before, stats),
            None => made,
        };
        entries.insert(*entity, Box::new(made));
        true
    }

    fn target_refuses(&self, order: &MoveOrder) -> Option<Reject> {
        match self.hands() {
            None => Some(Reject::from(Reason::NotReady)),
            Some(hands) => hands.refusal(order),
        }
    }

    /// Why a node may not have anything moved from here.
    fn source_refuses(&self, signer: EntityId, entity: &EntityId) -> Option<Reject> {
        if self.hands().is_none() {
            return Some(Reject::from(Reason::NotReady));
        }
        if self.may_order(&signer, None) || self.may_order(&signer, self.first_record(entity).as_ref()) {
            return None;
        }
        let text = format!("node {} may not order moves from here", signer.node_id());
        Some(Reject::new(Reason::NotPermitted, &text))
    }

    /// The first record of an entity, as the store has it: who spawned it, and where.
    fn first_record(&self, entity: &EntityId) -> Option<OwnershipRecord> {
        let range = KeyRange::beginning_with(entity.as_bytes());
        let rows = (self.stores)().page(Table::Ownership, &range, 1).ok()?;
        OwnershipRecord::decode(&rows.first()?.1).ok()
    }

    fn aside(&self, from: EntityId, frame: &MoveFrame<'_>, aside: &Aside, work: &mut Work) {
        match aside {
            Aside::Show(record) => {
                if record.entity() == frame.entity && self.may_show(&from, record) {
                    self.ownership.heard(record);
                }
            }
            Aside::Report(report) => self.reported(from, frame.mid, report.clone(), work),
            Aside::Describe(origin) => {
                let answer = MoveFrame {
                    mid: frame.mid,
                    entity: frame.entity,
                    epoch: frame.epoch,
                    step: frame.step,
                    body: Body::Aside(Box::new(self.described(*origin))),
                };
                work.posts.push((from, answer));
            }
            Aside::Described {
                entity,
                owner,
                epoch,
                size,
                kind,
            } => {
                let described = Described {
                    node: from,
                    entity: *entity,
                    owner: *owner,
                    epoch: *epoch,
                    size: *size,
                    kind: kind.clone(),
                };
                self.asks.answered(&frame.mid, described);
            }
            Aside::Copied { .. } => self.has_copy(from, frame.mid, work),
            Aside::Copy(order) if from == order.orchestrator && order.source == self.node => {
                let refusal = self.source_refuses(order.signer, &order.entity);
                if self.bring(&order.entity, true) {
                    self.with(&order.entity, work, |entry, scene| entry.copy(order, refusal, scene));
                }
            }
            Aside::Offer {
                order,
                frozen,
                image_bytes,
            } if from == order.source && order.target == self.node => {
                let refusal = self.target_refuses(order);
                if self.bring(&order.entity, true) {
                    let of = (frozen.image, *image_bytes);
                    self.with(&order.entity, work, |entry, scene| {
                        entry.offered(order, of, refusal, scene)
                    });
                }
            }
            Aside::Copy(_) | Aside::Offer { .. } => {}
        }
    }

    /// Whether what is shown is believed: who signed it may for every entity, or was its owner as far as is known here; or who
    /// shows it is, and so gives away what is its own.
    fn may_show(&self, from: &EntityId, record: &OwnershipRecord) -> bool {
        let signer = record.certificate.signer;
        if signer == record.entity() || signer == self.ownership.directory() {
            return true;
        }
        let owner = {
            let store = (self.stores)();
            let lineage = central::lineage(&*store, &record.entity()).unwrap_or_default();
            lineage.last().map(OwnershipRecord::node)
        };
        owner.is_some_and(|owner| owner != self.node && (owner == *from || owner == signer))
    }

    /// What there is of a handle.
    fn described(&self, origin: Origin) -> Aside {
        let hands = self.hands();
        let here = hands.as_ref().and_then(|hands| hands.entity(origin));
        if let Some((entity, hands)) = here.zip(hands)
            && let Some((kind, size)) = hands.kind(&entity)
        {
            let record = self.ownership.owned(&entity);
            return Aside::Described {
                entity,
                owner: self.node,
                epoch: record.map_or(0, |(epoch, _)| epoch),
                size,
                kind,
            };
        }
        let record = self.ownership.record_of(origin);
        Aside::Described {
            entity: record.map_or(EntityId::from_bytes([0; 32]), |record| record.entity()),
            owner: record.map_or(self.node, |record| record.node()),
            epoch: record.map_or(0, |record| record.epoch()),
            size: 0,
            kind: String::new(),
        }
    }
}
