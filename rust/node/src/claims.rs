//! What a runtime claims before it runs a daemon in a mesh, and what becomes of a daemon that another node owns.
//!
//! | this node's store has | the daemon | what is claimed |
//! |---|---|---|
//! | no record | begins | a spawn |
//! | no record | spoke before, elsewhere or alone | a takeover, two epochs up, on the word of the entity |
//! | a record of another node | any | nothing: the other one owns it |
//! | a record of this node | is where that term left it | to go on in the same epoch |
//! | a record of this node | went back, or is not known here any more | a restart, one epoch up |
//! | any, and a takeover gives it to this node | is where that begins | to go on under it |
//!
//! Invariants
//! * The certificate of a record is in the lineage of the host before anything is signed or kept in its epoch, and both are
//!   kept in the same commit, with the state that they need, if the daemon has a journal.
//! * A daemon is there for nobody before this node has a lease of it.

use std::sync::{Arc, Weak};

use meshos_core::certificate::{Reason, Statement};
use meshos_core::digest::{self, Digest};
use meshos_core::event::{Crash, DaemonLifecycleSignal};
use meshos_core::host::{Host, ResumeError};
use meshos_core::id::{EntityId, Origin};
use meshos_core::identity::{IdentityError, Keypair};
use meshos_core::ownership::{MigrationId, OwnershipRecord};

use crate::clock::Deadline;
use crate::daemon::Daemon;
use crate::inside::Inside;
use crate::lane::Job;
use crate::ownership::{CLAIM_WAIT, Claim, Denied, Ownership, Wish};
use crate::registry::Registry;
use crate::runtime::{ReachError, Runtime, SpawnError};
use crate::slot::{SharedKey, Slot};

/// What a daemon that is being brought to be was promised.
pub(crate) struct Claimed {
    pub(crate) claim: Claim,
    /// The records that are to be kept with it.
    records: Vec<OwnershipRecord>,
}

impl<D: Daemon> Runtime<D> {
    /// Claims the daemon of a host, which goes on under the record that is claimed; of one that begins, `given` takes the
    /// place of a record that its key would sign here. `None`: nobody else could run it.
    ///
    /// # Errors
    /// [`SpawnError`]: the host is as it was.
    pub(crate) fn claim(
        &self,
        key: &SharedKey,
        host: &mut Host,
        given: Option<&OwnershipRecord>,
    ) -> Result<Option<Claimed>, SpawnError<D>> {
        let Some(ownership) = self.ownership() else {
            return Ok(None);
        };
        let entity = host.entity();
        let known = D::apart(|| ownership.lineage(&entity)).map_err(SpawnError::NotKept)?;
        let offered = ownership.offered(&entity);
        let epoch = |records: &[OwnershipRecord]| records.last().map_or(0, OwnershipRecord::epoch);
        let (wish, next) = match (offered, known.last().copied()) {
            (Some(offered), _) if epoch(&offered) > epoch(&known) => {
                let last = offered.last().copied();
                (Wish::Install(offered), last)
            }
            (_, None) => {
                let lineage = match given {
                    Some(given) => vec![*given],
                    None => first(&key.lock(), ownership.node(), host).map_err(SpawnError::Key)?,
                };
                let last = lineage.last().copied();
                (Wish::Begin(lineage), last)
            }
            (_, Some(last)) if last.node() != ownership.node() => {
                let (node, epoch) = (last.node(), last.epoch());
                return Err(SpawnError::NotOwner { node, epoch });
            }
            (_, Some(last)) if is_under(host, &last) => (Wish::GoOn(known.clone(), None), None),
            (_, Some(last)) => {
                let key = key.lock();
                let signer = if key.is_read_only() { self.node() } else { &key };
                let position = host.position();
                let restart = last.restarted(position.sequence, position.digest, signer);
                let restart = restart.map_err(SpawnError::Key)?;
                (Wish::GoOn(known.clone(), Some(Box::new(restart))), Some(restart))
            }
        };
        if let Some(next) = &next
            && !may_begin(host, next)
        {
            let sequence = host.position().sequence;
            return Err(SpawnError::Resume(ResumeError::WrongChain { sequence }));
        }
        let records = match &wish {
            Wish::Begin(lineage) | Wish::Install(lineage) => lineage.clone(),
            Wish::GoOn(_, restart) => restart.iter().map(|restart| **restart).collect(),
        };
        let claim = self.ask(ownership, wish)?;
        if let Some(next) = next {
            let before = known
                .iter()
                .chain(&records)
                .filter(|record| record.epoch() < next.epoch());
            for record in before {
                *host = host.clone().certified(record.certificate);
            }
            *host = host.clone().under(next.certificate);
        }
        Ok(Some(Claimed { claim, records }))
    }

    /// Claims a stored daemon before any of its code runs, if this node's store has a record of it.
    ///
    /// # Errors
    /// [`SpawnError`]: nothing happened.
    pub(crate) fn claim_stored(&self, entity: &EntityId) -> Result<Option<Claimed>, SpawnError<D>> {
        let Some(ownership) = self.ownership() else {
            return Ok(None);
        };
        let known = D::apart(|| ownership.lineage(entity)).map_err(SpawnError::NotKept)?;
        let Some(last) = known.last().copied() else {
            return Ok(None);
        };
        if last.node() != ownership.node() {
            let (node, epoch) = (last.node(), last.epoch());
            return Err(SpawnError::NotOwner { node, epoch });
        }
        let claim = self.ask(ownership, Wish::GoOn(known, None))?;
        let records = Vec::new();
        Ok(Some(Claimed { claim, records }))
    }

    fn ask(&self, ownership: &Arc<Ownership>, wish: Wish) -> Result<Claim, SpawnError<D>> {
        self.wait(ownership, |deadline, interrupted| {
            ownership.claim(wish, deadline, interrupted)
        })
    }

    fn wait<R: Send>(
        &self,
        ownership: &Ownership,
        wait: impl FnOnce(Deadline, &mut dyn FnMut() -> bool) -> Result<R, Denied> + Send,
    ) -> Result<R, SpawnError<D>> {
        let mut raised = None;
        let waited = D::apart(|| {
            wait(Deadline::after(CLAIM_WAIT), &mut || {
                raised = D::interrupted();
                raised.is_some()
            })
        });
        waited.map_err(|denied| match (denied, raised) {
            (_, Some(error)) => SpawnError::Interrupted(error),
            (Denied::NotOwner { node, epoch }, None) => SpawnError::NotOwner { node, epoch },
            (denied, None) => SpawnError::Unavailable {
                directory: ownership.directory(),
                why: why(denied),
            },
        })
    }

    /// Keeps what was claimed, with everything else that is there of the daemon, and waits for a lease.
    ///
    /// # Errors
    /// [`SpawnError`].
    pub(crate) fn claimed(&self, claimed: Option<&Claimed>, inside: &mut Inside<D>) -> Result<(), SpawnError<D>> {
        let (Some(ownership), Some(claimed)) = (self.ownership(), claimed) else {
            return Self::first_commit(inside);
        };
        if let Some(journal) = &mut inside.journal {
            for record in &claimed.records {
                journal.also(record.write());
            }
            for certificate in inside.host.lineage() {
                if claimed.records.iter().any(|record| record.certificate == *certificate) {
                    journal.certificate(certificate);
                }
            }
        } else if !claimed.records.is_empty() {
            D::apart(|| ownership.keep(&claimed.records)).map_err(SpawnError::NotKept)?;
        }
        Self::first_commit(inside)?;
        claimed.claim.kept();
        self.wait(ownership, |deadline, interrupted| {
            claimed.claim.active(deadline, interrupted)
        })
    }

    /// Has a daemon that runs stopped when another node is heard to own it.
    pub(crate) fn hold(&self, slot: &Arc<Slot<D>>, claim: Claim) {
        let (lanes, registry) = (self.lanes().clone(), Arc::downgrade(self.registry()));
        let ousted = Arc::downgrade(slot);
        let oust = move |node: EntityId, epoch: u64| {
            let ousted = Ousted {
                slot: Weak::clone(&ousted),
                registry: Weak::clone(&registry),
                node,
                epoch,
            };
            lanes.submit(Arc::new(ousted));
        };
        let oust = Arc::new(oust);
        let (hold, known) = claim.hold(oust.clone());
        slot.held_by(hold);
        if let Some((node, epoch)) = known {
            oust(node, epoch);
        }
    }

    /// Why a daemon is not found here.
    pub(crate) fn elsewhere(&self, origin: Origin) -> ReachError {
        let owner = self.ownership().and_then(|ownership| ownership.record_of(origin));
        match owner.filter(|record| record.node() != self.node().entity_id()) {
            Some(record) => ReachError::NotOwner {
                origin,
                node: record.node(),
                epoch: record.epoch(),
            },
            None => ReachError::NotFound(origin),
        }
    }
}

/// A daemon that another node owns now.
struct Ousted<D: Daemon> {
    slot: Weak<Slot<D>>,
    registry: Weak<Registry<D>>,
    node: EntityId,
    epoch: u64,
}

impl<D: Daemon> Job for Ousted<D> {
    fn run(self: Arc<Self>) {
        let (Some(slot), Some(registry)) = (self.slot.upgrade(), self.registry.upgrade()) else {
            return;
        };
        D::batch(|| {
            if let Ok(mut entered) = slot.inspect()
                && let Some(journal) = &mut entered.journal
            {
                // It does not run again when this node starts.
                journal.declare(false);
            }
            if registry
                .get(slot.origin())
                .is_some_and(|here| Arc::ptr_eq(&here, &slot))
            {
                let why = format!("node {} owns it, in epoch {}", self.node.node_id(), self.epoch);
                let crash = Crash::because(&why);
                slot.emit(DaemonLifecycleSignal::Crashed { crash, down: false });
                registry.remove_exactly(&slot);
            }
            slot.stop();
        });
    }
}

const fn why(denied: Denied) -> &'static str {
    match denied {
        Denied::Full => "the directory looks after as many daemons as it may",
        Denied::Closed => "the mesh is closed",
        Denied::Replaced => "it was claimed here once more",
        Denied::NoRecord => "there is no record to claim it by",
        Denied::NotOwner { .. } | Denied::Silent | Denied::Interrupted => "the directory did not answer within 5 s",
    }
}

/// Why a node does not get what it claimed, in one line.
pub(crate) fn denied(denied: Denied, directory: EntityId) -> String {
    match denied {
        Denied::NotOwner { node, epoch } => format!("node {} owns it, in epoch {epoch}", node.node_id()),
        denied => format!("{} (node {})", why(denied), directory.node_id()),
    }
}

/// Whether a host is in the term of a record, which nothing of it was lost of.
fn is_under(host: &Host, record: &OwnershipRecord) -> bool {
    !host.owes_certificate() && host.epoch() == record.epoch() && host.lineage().last() == Some(&record.certificate)
}

/// Whether a host may go on under a record.
fn may_begin(host: &Host, record: &OwnershipRecord) -> bool {
    let position = host.position();
    let begins_here =
        (record.certificate.from_sequence, record.certificate.digest) == (position.sequence, position.digest);
    is_under(host, record) || begins_here && host.epoch() <= record.epoch()
}

/// The lineage by which an entity becomes known.
fn first(key: &Keypair, node: EntityId, host: &Host) -> Result<Vec<OwnershipRecord>, IdentityError> {
    let position = host.position();
    let spoken = host.lineage();
    let spawned = spoken.first().filter(|first| {
        let by_entity = first.signer == key.entity_id();
        first.reason == Reason::Spawn && first.epoch == 1 && by_entity
    });
    let is_first = match spoken {
        [] => position.sequence == 0 && host.epoch() == 1 && position.processed == 0,
        [only] => host.epoch() == 1 && !host.owes_certificate() && spawned.is_some() && only.node == node,
        _ => false,
    };
    if is_first {
        let digest = spawned.map_or(position.digest, |first| first.digest);
        return Ok(vec![OwnershipRecord::spawn(key, node, digest)?]);
    }
    let begun = match spawned {
        Some(first) => OwnershipRecord::spawn(key, first.node, first.digest)?,
        None => OwnershipRecord::spawn(key, node, digest::genesis(&key.entity_id(), &Digest::ZERO))?,
    };
    let statement = Statement {
        entity: key.entity_id(),
        epoch: host.epoch().saturating_add(1).max(3),
        node,
        from_sequence: position.sequence,
        digest: position.digest,
        reason: Reason::Takeover,
    };
    let taken = OwnershipRecord::sign(statement, begun.digest_of(), begun.node(), MigrationId::default(), key)?;
    Ok(vec![begun, taken])
}
