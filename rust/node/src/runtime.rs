//! The runtime that keeps a node's daemons.
//!
//! Invariants
//! * Registering, then Ready, then ShuttingDown ([`meshos_core::lifecycle`]); a spawn that loses the race with a
//!   shutdown leaves nothing behind.
//! * A refused spawn has no effect: not on the daemon that is there, nor on what is remembered.
//! * No daemon continues below a position this node knows it reached, unless the caller says `rewind`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::sync::Mutex;
use meshos_core::certificate::{Certificate, Reason};
use meshos_core::checkpoint::Checkpoint;
use meshos_core::codec::DecodeError;
use meshos_core::config::{DaemonHostConfig, Durability, OnError};
use meshos_core::control::{DaemonControl, grace_ms};
use meshos_core::digest::{self, Digest};
use meshos_core::event::{Crash, DaemonLifecycleSignal};
use meshos_core::host::{Host, ResumeError};
use meshos_core::id::{EntityId, Origin};
use meshos_core::identity::{IdentityError, Keypair};
use meshos_core::journal::{self, Mark};
use meshos_core::lifecycle::{self, Call, Lifecycle, LifecycleError};
use meshos_core::ownership::OwnershipRecord;
use meshos_core::rows::{KeyRange, Table, entity_key, of_entity_key};
use meshos_core::store::StoreError;
use meshos_core::store::memory::MemoryStore;
use meshos_core::stored::{SealedKey, StoredDaemon, UnsealError};
use meshos_core::time::UnixMs;

use crate::archive::{Remains, SharedArchive};
use crate::carrier::Carrier;
use crate::channel_desk::Desk;
use crate::channels::Channels;
use crate::claims::Claimed;
use crate::clock::{self, Deadline};
use crate::controls;
use crate::daemon::Daemon;
use crate::deliver::{self, Taken};
use crate::feeds::Feeds;
use crate::hands::Hands;
use crate::inside::{Inside, Snapshot};
use crate::journal::{Content, Journal, Rows, SharedStore, Stores};
use crate::keys;
use crate::lane::Lanes;
use crate::mailbox::Sender;
use crate::outgoing::{Emitter, Exits};
use crate::ownership::Ownership;
use crate::registry::Registry;
use crate::resume;
use crate::resumption::{self, Report, ResumeFailed};
use crate::router::Router;
use crate::slot::{EnterError, Entered, SharedKey, Slot};

/// How long a stop waits at least for the store, which holds up nobody but its caller.
const KEEP_WAIT: Duration = Duration::from_secs(1);

/// Why a daemon was not started.
#[derive(Debug)]
pub enum SpawnError<D: Daemon> {
    /// The runtime is not Ready.
    Lifecycle(LifecycleError),
    /// A daemon of that identity is live here.
    Occupied(Origin),
    /// The identity has emitted or processed here, and its state would be lost.
    Known(Origin),
    /// The key cannot sign the certificate that lets this node speak for it.
    Key(IdentityError),
    /// The snapshot cannot be continued from.
    Resume(ResumeError),
    /// The snapshot is of another kind.
    WrongKind {
        /// Kind in the snapshot.
        snapshot: String,
        /// Kind of the daemon.
        daemon: Arc<str>,
    },
    /// The snapshot has state, and the daemon takes none.
    Stateless {
        /// Bytes of state in the snapshot.
        bytes: usize,
    },
    /// User code raised in `restore`.
    RestoreFailed(D::Error),
    /// User code raised in the first `snapshot`, which `on_error="restore"` and a journal need.
    SnapshotFailed(D::Error),
    /// The store has a daemon of that identity, which would be lost.
    Stored(Origin),
    /// The store has none of that identity.
    NotStored(Origin),
    /// The record under which it is to begin is none for it, or for this node: in one line.
    BadRecord(&'static str),
    /// The store did not keep that it begins.
    NotKept(StoreError),
    /// What the store has of it cannot be continued.
    NotResumed(ResumeFailed<D>),
    /// Another node owns it, or this one does and has lost what it did.
    NotOwner {
        /// Who owns it.
        node: EntityId,
        /// In which epoch.
        epoch: u64,
    },
    /// The directory did not say that this node may run it.
    Unavailable {
        /// The node of the directory.
        directory: EntityId,
        /// In one line.
        why: &'static str,
    },
    /// A signal raised while the directory was asked.
    Interrupted(D::Error),
}

/// Why a chain was not exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// The daemon's key was erased before it signed who may speak.
    #[error(transparent)]
    Key(#[from] IdentityError),
    /// The store did not keep what was signed.
    #[error(transparent)]
    NotKept(#[from] StoreError),
}

/// Why a daemon could not be reached.
#[derive(Debug)]
pub enum ReachError {
    /// The runtime is not Ready.
    Lifecycle(LifecycleError),
    /// No daemon with that handle is here.
    NotFound(Origin),
    /// Another node owns it, as far as this one knows.
    NotOwner {
        /// Its handle.
        origin: Origin,
        /// Who owns it.
        node: EntityId,
        /// In which epoch.
        epoch: u64,
    },
    /// It could not be entered.
    Enter(EnterError),
}

/// A chain with what vouches for it.
pub struct Exported<D: Daemon> {
    /// Whose chain it is.
    pub entity: EntityId,
    /// Who could speak for it.
    pub certificates: Vec<Certificate>,
    /// What they signed.
    pub checkpoints: Vec<Checkpoint>,
    /// The outputs, oldest first.
    pub events: Vec<D::Event>,
}

/// What a shutdown came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shutdown {
    /// Daemons that user code did not let go of in time; they are closed to everybody else.
    pub stuck: Vec<Origin>,
}

/// A daemon that a store has, or the row of one that cannot be read.
pub type Found = (EntityId, Result<StoredDaemon, DecodeError>);

/// Keeps the daemons of one node.
pub struct Runtime<D: Daemon> {
    node: Arc<Keypair>,
    state: AtomicU8,
    registry: Arc<Registry<D>>,
    pub(crate) archive: SharedArchive<D>,
    /// Identities whose spawn is under way: user code may run in it for long.
    starting: Mutex<BTreeSet<EntityId>>,
    sender: Sender,
    lanes: Lanes,
    stores: Stores,
    router: Router,
    feeds: Feeds,
    ownership: Option<Arc<Ownership>>,
    desk: OnceLock<Desk<D>>,
    /// What moves its daemons.
    hands: OnceLock<Arc<dyn Hands>>,
}

impl<D: Daemon> Runtime<D> {
    /// Makes a runtime in the state Registering. `node` is the node's key, `lanes` run user code.
    #[must_use]
    pub fn new(node: Arc<Keypair>, lanes: Lanes) -> Self {
        let memory = SharedStore::new(MemoryStore::new());
        Self::with_store(node, lanes, Arc::new(move || Box::new(memory.clone())))
    }

    /// Makes a runtime that keeps journals in a store, of a node without others.
    #[must_use]
    pub fn with_store(node: Arc<Keypair>, lanes: Lanes, stores: Stores) -> Self {
        let carrier = Carrier::alone(node.entity_id());
        Self::with_carrier(node, lanes, stores, carrier)
    }

    /// Makes a runtime that keeps journals in a store, of a node whose carrier this is.
    #[must_use]
    pub fn with_carrier(node: Arc<Keypair>, lanes: Lanes, stores: Stores, carrier: Carrier) -> Self {
        let archive = SharedArchive::<D>::default();
        let registry = Arc::new(Registry::new(lanes.clone(), Some(Arc::clone(&archive))));
        let router = Router::new(carrier.clone(), &registry, lanes.clone(), Arc::clone(&stores));
        let feeds = Feeds::new(carrier, router.clone(), lanes.clone());
        Self {
            node,
            state: AtomicU8::new(Lifecycle::Registering as u8),
            registry,
            archive,
            starting: Mutex::default(),
            // A fresh sender at each start: its numbers begin at 1 and no receiver has seen them.
            sender: Sender::new(keys::generate().origin()),
            lanes,
            stores,
            router,
            feeds,
            ownership: None,
            desk: OnceLock::new(),
            hands: OnceLock::new(),
        }
    }

    /// The same, which asks who may run a daemon before it does.
    #[must_use]
    pub fn owned_by(mut self, ownership: Arc<Ownership>) -> Self {
        self.router.guide_with(ownership.clone());
        self.ownership = Some(ownership);
        self
    }

    /// Who may run which daemon; `None`: nobody else could.
    #[must_use]
    pub const fn ownership(&self) -> Option<&Arc<Ownership>> {
        self.ownership.as_ref()
    }

    /// State of its life.
    #[must_use]
    pub fn lifecycle(&self) -> Lifecycle {
        Lifecycle::from_u8(self.state.load(Ordering::Acquire))
    }

    /// Checks that a call is allowed now.
    ///
    /// # Errors
    /// [`LifecycleError`]: it is not.
    pub fn allow(&self, call: Call) -> Result<Lifecycle, LifecycleError> {
        let state = self.lifecycle();
        lifecycle::step(state, call).map(|_| state)
    }

    /// Becomes Ready.
    ///
    /// # Errors
    /// [`LifecycleError::ShuttingDown`].
    pub fn start(&self) -> Result<(), LifecycleError> {
        self.advance(Call::Start)?;
        self.router.open_door();
        Ok(())
    }

    fn advance(&self, call: Call) -> Result<Lifecycle, LifecycleError> {
        loop {
            let state = self.lifecycle();
            let next = lifecycle::step(state, call)?;
            let swapped = self
                .state
                .compare_exchange(state as u8, next as u8, Ordering::AcqRel, Ordering::Acquire)
                .is_ok();
            if swapped {
                return Ok(state);
            }
        }
    }

    /// The node's key, which never leaves the extension.
    #[must_use]
    pub fn node(&self) -> &Keypair {
        &self.node
    }

    /// The daemons.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry<D>> {
        &self.registry
    }

    /// Sends to daemons of all nodes, and takes what they send to those of this one.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Pushes what daemons emit to those who follow their chains, and takes what is pushed to this node.
    #[must_use]
    pub const fn feeds(&self) -> &Feeds {
        &self.feeds
    }

    /// Where what the daemons emit leaves the node.
    #[must_use]
    pub fn exits(&self) -> &Arc<Exits> {
        self.registry.exits()
    }

    /// Numbers what this runtime sends.
    #[must_use]
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// Where user code runs.
    #[must_use]
    pub fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// Outputs of stopped daemons that were dropped for their bytes.
    #[must_use]
    pub fn outputs_dropped(&self) -> u64 {
        self.archive.lock().outputs_dropped()
    }

    /// Starts a daemon that has no history, or continues the chain of one without state.
    ///
    /// # Errors
    /// [`SpawnError`]: nothing happened.
    pub fn spawn(&self, key: &SharedKey, config: DaemonHostConfig, daemon: D) -> Result<Arc<Slot<D>>, SpawnError<D>> {
        self.begin(key, config, daemon, None)
    }

    /// As [`spawn`](Self::spawn), for a daemon whose key is elsewhere: with it was signed that this node owns the daemon.
    ///
    /// # Errors
    /// [`SpawnError`]: nothing happened.
    pub fn spawn_given(
        &self,
        record: &OwnershipRecord,
        config: DaemonHostConfig,
        daemon: D,
    ) -> Result<Arc<Slot<D>>, SpawnError<D>> {
        let entity = record.entity();
        let genesis = digest::genesis(&entity, &Digest::ZERO);
        let why = if record.node() != self.node.entity_id() {
            Some("it names another node")
        } else if record.reason() != Reason::Spawn || record.certificate.digest != genesis {
            Some("it is not the first of its entity")
        } else if record.verify_signatures().is_err() {
            Some("its signature does not fit")
        } else {
            record.follows(None, &[]).err()
        };
        if let Some(why) = why {
            return Err(SpawnError::BadRecord(why));
        }
        let key = Arc::new(Mutex::new(Keypair::public_only(entity)));
        self.begin(&key, config, daemon, Some(record))
    }

    fn begin(
        &self,
        key: &SharedKey,
        config: DaemonHostConfig,
        daemon: D,
        given: Option<&OwnershipRecord>,
    ) -> Result<Arc<Slot<D>>, SpawnError<D>> {
        let starting = self.admit(key)?;
        let entity = starting.entity;
        let stored = D::apart(|| self.stored_daemon(&entity));
        if stored.map_err(SpawnError::NotKept)?.is_some() {
            return Err(SpawnError::Stored(entity.origin()));
        }
        let known = {
            let mut archive = self.archive.lock();
            match archive.get(&entity) {
                Some(remains) if daemon.is_stateful() && remains.host.position().processed > 0 => {
                    return Err(SpawnError::Known(entity.origin()));
                }
                _ => archive.take(&entity),
            }
        };
        let mut inside = match known {
            Some(remains) => Self::revived(remains, config, Arc::new(daemon)),
            None => {
                let host = Host::new(entity, config);
                let host = match given {
                    Some(record) => host.under(record.certificate),
                    None => host,
                };
                Inside::new(host, Arc::new(daemon), None)
            }
        };
        let checked = self
            .check_key(key, &inside.host)
            .and_then(|()| self.claim(key, &mut inside.host, given))
            .and_then(|claimed| {
                self.begin_journal(key, &mut inside)?;
                Self::first_snapshot(&mut inside, config)?;
                self.claimed(claimed.as_ref(), &mut inside)?;
                Ok(claimed)
            });
        match checked {
            Ok(claimed) => self.spawned(key, inside, claimed),
            Err(error) => {
                // The store has nothing of it that a journal could go on from.
                inside.journal = None;
                self.remember(&mut inside);
                Err(error)
            }
        }
    }

    /// Starts a daemon after a snapshot. `restore` is called last, when nothing else can refuse it.
    ///
    /// # Errors
    /// [`SpawnError`]: nothing happened, except that user code may have seen the state.
    pub fn spawn_from_snapshot(
        &self,
        key: &SharedKey,
        snapshot: Arc<Snapshot<D>>,
        config: DaemonHostConfig,
        daemon: D,
        rewind: bool,
    ) -> Result<Arc<Slot<D>>, SpawnError<D>> {
        let entity = key.lock().entity_id();
        let meta = &snapshot.meta;
        if meta.entity != entity {
            return Err(SpawnError::Resume(ResumeError::Identity {
                snapshot: meta.entity,
                identity: entity,
            }));
        }
        let _starting = self.admit(key)?;
        let stored = D::apart(|| self.stored_daemon(&entity));
        if stored.map_err(SpawnError::NotKept)?.is_some() {
            return Err(SpawnError::Stored(entity.origin()));
        }
        resume::check_state(&snapshot, &daemon)?;
        let known = self
            .archive
            .lock()
            .get(&entity)
            .map(|remains| (remains.host.position(), remains.host.epoch()));
        let (mut host, continues) = resume::after(meta, known, config, rewind).map_err(SpawnError::Resume)?;
        self.check_key(key, &host)?;
        let claimed = self.claim(key, &mut host, None)?;
        if daemon.is_stateful() {
            daemon
                .restore(&snapshot.state, meta.schema)
                .map_err(SpawnError::RestoreFailed)?;
        }
        let mut inside = Inside::new(host, Arc::new(daemon), Some(Arc::clone(&snapshot)));
        self.begin_journal(key, &mut inside)?;
        if let Some(journal) = &mut inside.journal {
            let content: Arc<dyn Content> = Arc::clone(&snapshot) as Arc<dyn Content>;
            D::apart(|| journal.snapshot(content)).map_err(SpawnError::NotKept)?;
        }
        self.claimed(claimed.as_ref(), &mut inside)?;
        // From here on nothing refuses it.
        let remains = self.archive.lock().take(&entity);
        if continues && let Some(remains) = remains {
            // Same position, same epoch: the outputs kept before the stop belong to the same unbroken chain.
            inside.outputs = remains.outputs;
            inside.checkpoints = remains.checkpoints;
        }
        self.spawned(key, inside, claimed)
    }

    /// Continues a daemon that the store has, where its last kept step left it.
    ///
    /// # Errors
    /// [`SpawnError`]: nothing happened, except that user code may have seen the state and the inputs.
    pub fn resume(&self, key: &SharedKey, daemon: D) -> Result<(Arc<Slot<D>>, Report), SpawnError<D>> {
        let starting = self.admit(key)?;
        let entity = starting.entity;
        let stored = D::apart(|| self.stored_daemon(&entity)).map_err(SpawnError::NotKept)?;
        let mut stored = stored.ok_or(SpawnError::NotStored(entity.origin()))?;
        let mut claimed = self.claim_stored(&entity)?;
        let remains = self.archive.lock().take(&entity);
        if let Some(mut journal) = remains.and_then(|remains| remains.journal) {
            // It ran here before: its last batch may still be on its way, and its last snapshot be written.
            let _ = D::apart(|| journal.settle(Deadline::never()).and(journal.drain()));
        }
        let ran = std::mem::replace(&mut stored.runs, true);
        let (mut inside, report) = resumption::resume(Arc::clone(&self.stores), entity, stored, Arc::new(daemon))
            .map_err(SpawnError::NotResumed)?;
        self.check_key(key, &inside.host)?;
        if self.ownership.is_some() && (claimed.is_none() || inside.host.owes_certificate()) {
            claimed = self.claim(key, &mut inside.host, None)?;
        } else if report.rolled_back_from.is_some() {
            // Nobody hears of the new epoch before it is kept that it began.
            self.certify(key, &mut inside).map_err(SpawnError::Key)?;
        }
        if !ran && let Some(journal) = &mut inside.journal {
            journal.declare(true);
        }
        self.claimed(claimed.as_ref(), &mut inside)?;
        let origin = entity.origin();
        // What it emitted before leaves before what it emits now.
        D::apart(|| self.router.resume(&Emitter { entity, origin }))
            .map_err(|error| SpawnError::NotResumed(ResumeFailed::Store(error)))?;
        let slot = self.spawned(key, inside, claimed)?;
        if let Some(divergence) = &report.divergence {
            let crash = divergence.crash();
            slot.emit(DaemonLifecycleSignal::Crashed { crash, down: false });
        }
        slot.retry_marked(&self.lanes);
        Ok((slot, report))
    }

    /// What the store has of the daemons of this node, ascending by entity. A row that cannot be read is an error of its
    /// own.
    ///
    /// # Errors
    /// [`StoreError`]: the store cannot be read.
    pub fn stored(&self) -> Result<Vec<Found>, StoreError> {
        let mut found = Vec::new();
        resumption::each(&*(self.stores)(), Table::Daemons, KeyRange::all(), |key, value| {
            if let Some((entity, [])) = of_entity_key::<0>(key) {
                found.push((entity, StoredDaemon::decode(value)));
            }
        })?;
        Ok(found)
    }

    /// Opens the key of a stored daemon; a public one if no other was given.
    ///
    /// # Errors
    /// [`UnsealError`]: this node did not seal it.
    pub fn unseal(&self, entity: &EntityId, stored: &StoredDaemon) -> Result<Keypair, UnsealError> {
        match &stored.key {
            Some(sealed) => sealed.open(entity, &self.node),
            None => Ok(Keypair::public_only(*entity)),
        }
    }

    fn stored_daemon(&self, entity: &EntityId) -> Result<Option<StoredDaemon>, StoreError> {
        let row = (self.stores)().get(Table::Daemons, &entity_key(entity, []))?;
        let Some(row) = row else { return Ok(None) };
        let read = StoredDaemon::decode(&row).map_err(|error| journal::Damage::Unreadable {
            entity: *entity,
            step: 0,
            error,
        });
        read.map(Some).map_err(|damage| StoreError::Damaged(damage.into()))
    }

    fn begin_journal(&self, key: &SharedKey, inside: &mut Inside<D>) -> Result<(), SpawnError<D>> {
        if inside.host.config().durability == Durability::None {
            return Ok(());
        }
        let entity = inside.host.entity();
        let sealed = {
            let key = key.lock();
            let whole = !key.is_read_only();
            whole.then(|| SealedKey::seal(&key, &self.node, keys::random_bytes()))
        };
        let stored = StoredDaemon {
            kind: inside.daemon.kind().to_string(),
            config: *inside.host.config(),
            runs: true,
            key: sealed.transpose().map_err(SpawnError::Key)?,
        };
        let position = inside.host.position();
        let mark = Mark::start(&entity, position.sequence, position.digest);
        let epoch = inside.host.epoch();
        let mut journal = Journal::after(entity, Arc::clone(&self.stores), stored, mark, epoch, Rows::default());
        journal.declare(true);
        for certificate in inside.host.lineage() {
            journal.certificate(certificate);
        }
        inside.journal = Some(Box::new(journal));
        // Who spoke is known of every output that the store has, also when the process ends before one leaves it.
        self.certify(key, inside).map_err(SpawnError::Key)
    }

    pub(crate) fn first_commit(inside: &mut Inside<D>) -> Result<(), SpawnError<D>> {
        let Some(journal) = &mut inside.journal else {
            return Ok(());
        };
        let failed = journal.take_snapshot_error();
        let kept = failed.map_or_else(|| D::apart(|| journal.drain()), Err);
        kept.map_err(SpawnError::NotKept)
    }

    /// Reserves an identity for one spawn; another call for it is refused until the reservation ends.
    pub(crate) fn admit(&self, key: &SharedKey) -> Result<Starting<'_>, SpawnError<D>> {
        self.allow(Call::Work).map_err(SpawnError::Lifecycle)?;
        let entity = key.lock().entity_id();
        let reserved = self.starting.lock().insert(entity);
        if !reserved {
            return Err(SpawnError::Occupied(entity.origin()));
        }
        let starting = Starting {
            entity,
            reserved: &self.starting,
        };
        if self.registry.get(entity.origin()).is_some() || self.archive.lock().is_leaving(&entity) {
            return Err(SpawnError::Occupied(entity.origin()));
        }
        match self.elsewhere(entity.origin()) {
            ReachError::NotOwner { node, epoch, .. } => Err(SpawnError::NotOwner { node, epoch }),
            _ => Ok(starting),
        }
    }

    pub(crate) fn check_key(&self, key: &SharedKey, host: &Host) -> Result<(), SpawnError<D>> {
        let node = self.node.entity_id();
        let certified = !host.owes_certificate() && host.certified_node() == Some(node);
        if !certified && !host.owes_restart_by(node) && key.lock().is_read_only() {
            return Err(SpawnError::Key(IdentityError::ReadOnly));
        }
        Ok(())
    }

    pub(crate) fn revived(remains: Remains<D>, config: DaemonHostConfig, daemon: Arc<D>) -> Inside<D> {
        let host = remains.host.with_config(config);
        let mut inside = Inside::new(host, daemon, None);
        inside.outputs = remains.outputs;
        inside.checkpoints = remains.checkpoints;
        inside.journal = remains.journal;
        inside
    }

    fn first_snapshot(inside: &mut Inside<D>, config: DaemonHostConfig) -> Result<(), SpawnError<D>> {
        let is_restored = config.on_error == OnError::Restore && inside.daemon.is_stateful();
        if is_restored || inside.journal.is_some() {
            deliver::snapshot(inside).map_err(SpawnError::SnapshotFailed)?;
        }
        Ok(())
    }

    pub(crate) fn spawned(
        &self,
        key: &SharedKey,
        inside: Inside<D>,
        claimed: Option<Claimed>,
    ) -> Result<Arc<Slot<D>>, SpawnError<D>> {
        let slot = Slot::new(Arc::clone(key), Some(self.node.entity_id()), inside);
        if let Some(claimed) = claimed {
            self.hold(&slot, claimed.claim);
        }
        self.place(Arc::clone(&slot)).map(|()| slot)
    }

    /// Puts a daemon into the registry. What was kept to start it again is dropped.
    pub(crate) fn place(&self, slot: Arc<Slot<D>>) -> Result<(), SpawnError<D>> {
        let rest = self.archive.lock().dormant.get(slot.origin());
        // While nobody is inside, since nobody finds it yet.
        let subscriptions = self.desk.get().map(|desk| desk.of(&slot));
        if let Err(occupied) = self.registry.register(Arc::clone(&slot)) {
            if let Ok(mut entered) = slot.try_enter() {
                self.remember(&mut entered);
            }
            return Err(SpawnError::Occupied(occupied.0));
        }
        // A shutdown that began meanwhile may have listed the daemons before this one was there.
        if let Err(error) = self.allow(Call::Work) {
            self.registry.unregister(slot.origin());
            return Err(SpawnError::Lifecycle(error));
        }
        let dropped = rest.map(|rest| self.archive.lock().dormant.remove_exactly(&rest));
        drop(dropped);
        if let Some(subscriptions) = subscriptions {
            subscriptions.resume();
        }
        Ok(())
    }

    /// Has its daemons moved by this, which is closed when the runtime is shut down; only the first call counts.
    pub(crate) fn moved_by(&self, hands: Arc<dyn Hands>) {
        let _ = self.hands.set(hands);
    }

    /// What moves its daemons; `None`: nothing does.
    #[must_use]
    pub fn hands(&self) -> Option<&Arc<dyn Hands>> {
        self.hands.get()
    }

    /// What gives handles on its store.
    #[must_use]
    pub const fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Whether a daemon is here, is being spawned, or somebody is still inside of it.
    pub(crate) fn is_taken(&self, entity: &EntityId) -> bool {
        self.registry.get(entity.origin()).is_some()
            || self.starting.lock().contains(entity)
            || self.archive.lock().is_leaving(entity)
    }

    /// Reserves an identity for a daemon that is installed; `false`: it is here, or is being spawned.
    pub(crate) fn reserve(&self, entity: &EntityId) -> bool {
        if self.registry.get(entity.origin()).is_some() || self.archive.lock().is_leaving(entity) {
            return false;
        }
        self.starting.lock().insert(*entity)
    }

    pub(crate) fn unreserve(&self, entity: &EntityId) {
        self.starting.lock().remove(entity);
    }

    /// Lets its daemons use the channels of the node; only the first call counts.
    pub fn with_channels(&self, channels: &Channels) -> &Desk<D> {
        self.desk
            .get_or_init(|| Desk::new(channels.clone(), self.lanes.clone(), self.registry.exits()))
    }

    /// The subscriptions of its daemons; `None`: it has no channels.
    #[must_use]
    pub fn desk(&self) -> Option<&Desk<D>> {
        self.desk.get()
    }

    pub(crate) fn remember(&self, inside: &mut Inside<D>) {
        let dropped = self.archive.lock().remember(inside);
        drop(dropped);
    }

    /// Finds a daemon for a call that works with it.
    ///
    /// # Errors
    /// [`ReachError`].
    pub fn reach(&self, origin: Origin) -> Result<Arc<Slot<D>>, ReachError> {
        self.allow(Call::Work).map_err(ReachError::Lifecycle)?;
        self.registry.get(origin).ok_or_else(|| self.elsewhere(origin))
    }

    /// Takes a snapshot between two events, with the certificates of who may speak; `None` of a daemon without state.
    /// Whoever shows it to others waits first until it is kept, outside.
    ///
    /// # Errors
    /// User code raised.
    pub fn snapshot(&self, entered: &mut Entered<D>) -> Result<Option<Taken<D>>, D::Error> {
        if !entered.slot().is_stateful() {
            return Ok(None);
        }
        let key = Arc::clone(entered.slot().key());
        // A key that was erased since cannot sign; the snapshot is good without the certificate.
        let _ = self.certify(&key, entered);
        deliver::snapshot_later(entered).map(Some)
    }

    pub(crate) fn certify(&self, key: &SharedKey, inside: &mut Inside<D>) -> Result<(), IdentityError> {
        if !inside.host.owes_certificate() {
            return Ok(());
        }
        let node = self.node.entity_id();
        {
            let key = key.lock();
            let by_node = key.is_read_only() && inside.host.owes_restart_by(node);
            inside.host.certify(if by_node { &self.node } else { &key }, node)?;
        }
        if let (Some(journal), Some(certificate)) = (&mut inside.journal, inside.host.lineage().last()) {
            journal.certificate(certificate);
        }
        Ok(())
    }

    /// Signs a checkpoint at the head and returns the kept outputs with everything that vouches for them. What was signed
    /// is kept before it leaves the process.
    ///
    /// # Errors
    /// [`ExportError`]: nothing left.
    pub fn export(&self, entered: &mut Entered<D>) -> Result<Exported<D>, ExportError> {
        let key = Arc::clone(entered.slot().key());
        self.certify(&key, entered)?;
        let config = *entered.host.config();
        entered.outputs.age(&config);
        deliver::anchor(entered, &self.node)?;
        deliver::checkpoint(entered, &self.node)?;
        if let Some(journal) = &mut entered.journal {
            D::apart(|| journal.drain())?;
        }
        Ok(Exported {
            entity: entered.host.entity(),
            certificates: entered.host.lineage().to_vec(),
            checkpoints: entered.checkpoints.clone(),
            events: entered.outputs.kept.iter().map(|kept| kept.event.clone()).collect(),
        })
    }

    /// Stops a daemon that was entered: tells it, signs a checkpoint, and remembers how far it came. User code that
    /// raises on the way is told as an event, and stops all the same.
    pub fn stop(&self, mut entered: Entered<D>, deadline: UnixMs) {
        if let Some(journal) = &mut entered.journal {
            journal.declare(false);
        }
        self.end(entered, deadline);
    }

    /// As [`Runtime::stop`], but a daemon that is kept runs again when its node starts.
    fn end(&self, mut entered: Entered<D>, deadline: UnixMs) {
        let slot = Arc::clone(entered.slot());
        if entered.is_open()
            && slot.takes_control()
            && controls::give(&mut entered, DaemonControl::Shutdown { deadline }).is_none()
        {
            return;
        }
        let keeps_steps = entered.journal.as_ref().is_none_or(|journal| journal.keeps_steps());
        if !keeps_steps
            && entered.is_open()
            && let Err(error) = deliver::snapshot(&mut entered)
        {
            // It goes on from the one before.
            let crash = deliver::crash::<D>("last snapshot: ", &error, None);
            slot.emit(DaemonLifecycleSignal::Crashed { crash, down: false });
        }
        self.seal(&slot, &mut entered);
        if let Some(journal) = &mut entered.journal {
            let grace = Duration::from_millis(grace_ms(deadline, clock::unix_ms())).max(KEEP_WAIT);
            if let Err(error) = D::apart(|| journal.settle(Deadline::after(grace))) {
                let crash = Crash::because(&format!("not kept: {error}"));
                slot.emit(DaemonLifecycleSignal::Crashed { crash, down: false });
            }
        }
        // What is left of it goes to the archive when it is left, here at the end.
        self.registry.remove_exactly(&slot);
        slot.stop();
    }

    /// Signs what vouches for the head of the chain.
    pub(crate) fn seal(&self, slot: &Slot<D>, inside: &mut Inside<D>) {
        if inside.host.position().sequence > 0 && self.certify(slot.key(), inside).is_ok() {
            let signed = deliver::checkpoint(inside, &self.node);
            debug_assert!(signed.is_ok(), "the node's key is whole");
        }
    }

    /// Shuts down: takes nothing new on, then stops every daemon within `timeout`. Does nothing the second time.
    pub fn shutdown(&self, timeout: Duration, interrupted: &mut dyn FnMut() -> bool) -> Shutdown {
        if self.advance(Call::Shutdown) == Ok(Lifecycle::ShuttingDown) {
            return Shutdown::default();
        }
        if let Some(hands) = self.hands.get() {
            hands.close();
        }
        let deadline = Deadline::after(timeout);
        let grace = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let until = UnixMs::new(clock::unix_ms().get().saturating_add(grace));
        let mut stuck = Vec::new();
        let mut busy = Vec::new();
        D::batch(|| {
            for slot in self.registry.list() {
                match slot.inspect() {
                    Ok(entered) => self.end(entered, until),
                    Err(EnterError::Busy) => busy.push(slot),
                    Err(_) => {
                        self.registry.unregister(slot.origin());
                    }
                }
            }
        });
        for slot in busy {
            match slot.inspect_later(deadline, interrupted) {
                Ok(entered) => D::batch(|| self.end(entered, until)),
                Err(EnterError::Stale) => {}
                Err(_) => {
                    self.registry.unregister(slot.origin());
                    stuck.push(slot.origin());
                }
            }
        }
        self.router.close();
        let rests = self.archive.lock().dormant.clear();
        D::batch(|| drop(rests));
        Shutdown { stuck }
    }
}

/// An identity reserved for one spawn.
pub(crate) struct Starting<'a> {
    entity: EntityId,
    reserved: &'a Mutex<BTreeSet<EntityId>>,
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.reserved.lock().remove(&self.entity);
    }
}
