//! A slot holds one daemon: who enters it has host and user code for itself until it leaves.
//!
//! Invariants
//! * At most one is inside ([`Gate`]); whoever is inside owns [`Inside`] by value, so nothing of it needs a lock.
//! * The lock of the cell is held for moves of pointers only: never over user code, hashing or the end of a user object.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use crate::sync::Mutex;
use meshos_core::bindings::DaemonBindings;
use meshos_core::config::DaemonHostConfig;
use meshos_core::event::DaemonLifecycleSignal;
use meshos_core::gate::Gate;
use meshos_core::host::{HostView, Position};
use meshos_core::id::{EntityId, Origin};
use meshos_core::identity::Keypair;

use crate::archive::SharedArchive;
use crate::commit::Commit;
use crate::daemon::{Daemon, DeliverError};
use crate::dormant::Rest;
pub use crate::enter::EnterError;
use crate::enter::Waiter;
use crate::events::{Events, Presence};
use crate::inside::Inside;
use crate::lease::{Lease, Unleased};
pub use crate::leave::Entered;
use crate::linked::Waits;
use crate::mailbox::Mailbox;
use crate::outgoing::Exits;
use crate::ownership::Hold;
use crate::progress::Progress;

/// Somebody starts it again when it is down.
const SUPERVISED: u8 = 1;
/// It was stopped by force: what user code still does has no effect.
const FORCED: u8 = 2;
/// What would start it again is kept when it is closed.
const KEPT: u8 = 4;

/// A key that its owner may erase while a daemon uses it.
pub type SharedKey = Arc<Mutex<Keypair>>;

pub(crate) struct Cell<D: Daemon> {
    pub(crate) gate: Gate,
    pub(crate) inside: Option<Box<Inside<D>>>,
    /// What is inside while user code runs of which a forced stop must not wait for the end.
    pub(crate) parked: Option<Box<Inside<D>>>,
    pub(crate) view: HostView,
    pub(crate) failure: Option<Arc<str>>,
    pub(crate) waiters: VecDeque<Arc<Waiter>>,
    pub(crate) mailbox: Option<Box<Mailbox<D>>>,
    /// Where linked events go while it is frozen.
    pub(crate) waits: Option<Arc<dyn Waits>>,
    /// It was handed to another node: nothing is mailed to it any more.
    pub(crate) is_moved: bool,
}

/// One daemon on this node.
pub struct Slot<D: Daemon> {
    key: SharedKey,
    entity: EntityId,
    origin: Origin,
    node: Option<EntityId>,
    kind: Arc<str>,
    name: Arc<str>,
    stateful: bool,
    reports: bool,
    takes_control: bool,
    is_async: bool,
    config: DaemonHostConfig,
    events: OnceLock<Arc<Events>>,
    presence: Presence,
    flags: AtomicU8,
    /// Where what is left of the daemon goes when the slot is closed.
    archive: OnceLock<SharedArchive<D>>,
    /// What lets it take events; a node that is alone has none, and asks nobody.
    hold: OnceLock<Hold>,
    /// The ledger as last published, so that reading it never waits; `None`: empty.
    ledger: Mutex<Option<Arc<DaemonBindings>>>,
    progress: Progress,
    /// What becomes of what a forced stop has.
    left_behind: OnceLock<Arc<Commit>>,
    pub(crate) cell: Mutex<Cell<D>>,
}

impl<D: Daemon> Slot<D> {
    /// Makes a slot nobody is inside of. `node` is the key of the node that speaks for the daemon, if one does.
    #[must_use]
    pub fn new(key: SharedKey, node: Option<EntityId>, inside: Inside<D>) -> Arc<Self> {
        let daemon = Arc::clone(&inside.daemon);
        Arc::new(Self {
            key,
            entity: inside.host.entity(),
            origin: inside.host.origin(),
            node,
            kind: Arc::clone(daemon.kind()),
            name: Arc::clone(daemon.name()),
            stateful: daemon.is_stateful(),
            reports: daemon.reports(),
            takes_control: daemon.takes_control(),
            is_async: daemon.is_async(),
            config: *inside.host.config(),
            events: OnceLock::new(),
            presence: Presence::default(),
            flags: AtomicU8::new(0),
            archive: OnceLock::new(),
            hold: OnceLock::new(),
            ledger: Mutex::new(published(inside.host.bindings())),
            progress: Progress::default(),
            left_behind: OnceLock::new(),
            cell: Mutex::new(Cell {
                gate: Gate::Active,
                view: inside.host.view(),
                inside: Some(Box::new(inside)),
                parked: None,
                failure: None,
                waiters: VecDeque::new(),
                mailbox: None,
                waits: None,
                is_moved: false,
            }),
        })
    }

    /// The daemon's key.
    #[must_use]
    pub fn key(&self) -> &SharedKey {
        &self.key
    }

    /// Its entity.
    #[must_use]
    pub fn entity(&self) -> EntityId {
        self.entity
    }

    /// Its handle.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The node that speaks for it.
    #[must_use]
    pub fn node(&self) -> Option<EntityId> {
        self.node
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> &Arc<str> {
        &self.kind
    }

    /// Its label.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether it has state.
    #[must_use]
    pub fn is_stateful(&self) -> bool {
        self.stateful
    }

    /// Whether it reports health or load.
    #[must_use]
    pub fn reports(&self) -> bool {
        self.reports
    }

    /// Whether it takes controls.
    #[must_use]
    pub fn takes_control(&self) -> bool {
        self.takes_control
    }

    /// Whether its `process` is a coroutine, as far as its class tells.
    #[must_use]
    pub fn is_async(&self) -> bool {
        self.is_async
    }

    /// Its options.
    #[must_use]
    pub fn config(&self) -> &DaemonHostConfig {
        &self.config
    }

    /// The subscription ledger, as last published.
    #[must_use]
    pub fn bindings(&self) -> Arc<DaemonBindings> {
        self.ledger.lock().clone().unwrap_or_default()
    }

    /// Publishes a changed ledger.
    pub fn publish(&self, bindings: &DaemonBindings) {
        *self.ledger.lock() = published(bindings);
    }

    /// Shows what is inside to a collector, unless somebody is inside.
    pub fn peek<R>(&self, look: impl FnOnce(&Inside<D>) -> R) -> Option<R> {
        let cell = self.cell.try_lock()?;
        cell.inside.as_deref().map(look)
    }

    /// What others may know of it; while somebody is inside, as it was before. Never waits for user code.
    #[must_use]
    pub fn view(&self) -> HostView {
        self.cell.lock().view
    }

    /// How far it has come, as of the last time somebody left.
    #[must_use]
    pub fn position(&self) -> Position {
        let view = self.view();
        let (sequence, digest) = (view.head.sequence, view.digest);
        Position {
            sequence,
            digest,
            processed: view.stats.events_processed,
        }
    }

    pub(crate) fn waits(&self) -> &Progress {
        &self.progress
    }

    /// Whether nobody will ever enter it again.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.gate(), Gate::Stopped | Gate::Stopping | Gate::Failed)
    }

    /// State of the gate.
    #[must_use]
    pub fn gate(&self) -> Gate {
        self.cell.lock().gate
    }

    /// Registers where its lifecycle events go; only the first call counts.
    pub(crate) fn tell(&self, events: Arc<Events>) {
        let _ = self.events.set(events);
    }

    /// Says where its remains go; only the first call counts.
    pub(crate) fn bequeath(&self, archive: SharedArchive<D>) {
        let _ = self.archive.set(archive);
    }

    /// Says what lets it take events; only the first call counts.
    pub(crate) fn held_by(&self, hold: Hold) {
        let _ = self.hold.set(hold);
    }

    /// Whether it may take an event, or acknowledge one, now.
    ///
    /// # Errors
    /// [`Unleased`].
    #[inline]
    pub fn leased(&self) -> Result<(), Unleased> {
        self.hold.get().map_or(Ok(()), Hold::check)
    }

    /// Its lease, to be checked by who answers for it later; `None`: it needs none.
    #[must_use]
    pub fn lease(&self) -> Option<Arc<Lease>> {
        self.hold.get().map(|hold| Arc::clone(hold.lease()))
    }

    /// Why it is not here any more, as far as ownership says.
    pub(crate) fn gone(&self) -> DeliverError<D> {
        let fenced = self.hold.get().and_then(|hold| hold.lease().fenced());
        fenced.map_or(DeliverError::Stale, |(node, epoch)| {
            DeliverError::Unleased(Unleased::Fenced { node, epoch })
        })
    }

    /// Its lease is not renewed any more.
    pub(crate) fn let_go(&self) {
        if let Some(hold) = self.hold.get() {
            hold.release();
        }
    }

    /// Its events, once it is in a registry.
    pub(crate) fn events(&self) -> Option<&Arc<Events>> {
        self.events.get()
    }

    /// Where what it emits leaves the node, once it is in a registry.
    pub(crate) fn exits(&self) -> Option<&Arc<Exits>> {
        self.events.get().map(|events| events.exits())
    }

    /// Tells a lifecycle event, if it is in a registry; returns the event's number.
    pub(crate) fn emit(&self, signal: DaemonLifecycleSignal) -> Option<u64> {
        let events = self.events.get()?;
        events.emit(&self.presence, self.origin, &self.name, signal)
    }

    /// Whether it was told that it takes no events until it is started again.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.presence.is_down()
    }

    fn has(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Acquire) & flag != 0
    }

    /// Whether somebody starts it again when it is down.
    #[must_use]
    pub fn is_supervised(&self) -> bool {
        self.has(SUPERVISED)
    }

    pub(crate) fn mark_supervised(&self, supervised: bool) {
        if supervised {
            self.flags.fetch_or(SUPERVISED, Ordering::AcqRel);
        } else {
            self.flags.fetch_and(!SUPERVISED, Ordering::AcqRel);
        }
    }

    /// Whether it was stopped by force: what user code still does has no effect.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.has(FORCED)
    }

    pub(crate) fn mark_forced(&self) {
        self.flags.fetch_or(FORCED, Ordering::AcqRel);
    }

    /// Says that what would start it again is to be kept when it is closed.
    pub(crate) fn mark_kept(&self) {
        self.flags.fetch_or(KEPT, Ordering::AcqRel);
    }

    /// What becomes of what a forced stop has; settled once that was left behind, and is kept or is not.
    pub(crate) fn left_behind(&self) -> &Arc<Commit> {
        self.left_behind.get_or_init(Arc::default)
    }

    /// Hands what was in a closed slot to the archive.
    pub(crate) fn leave_behind(&self, inside: Option<Box<Inside<D>>>) {
        if let Some(exits) = self.exits().filter(|_| inside.is_some()) {
            exits.closed(self.origin, std::ptr::from_ref(self) as usize);
        }
        let Some(mut inside) = inside else { return };
        // Callers do not wait for what is submitted here; who asks again is told what became of it.
        let commit = inside.submit(self.exits());
        if self.is_forced() {
            let left = Arc::clone(self.left_behind());
            match commit {
                Some(commit) => commit.then(Box::new(move |outcome| left.settle(outcome))),
                None => left.settle(Ok(())),
            }
        }
        let Some(archive) = self.archive.get() else { return };
        let rest = self.has(KEPT).then(|| Rest::of(Arc::clone(&self.key), &mut inside));
        let mut archive = archive.lock();
        let outputs = archive.remember(&mut inside);
        let rests = match rest {
            Some(rest) => archive.dormant.put(rest),
            None => archive.dormant.remove(self.origin).into_iter().collect(),
        };
        drop(archive);
        // User objects end outside the lock.
        drop((outputs, rests));
    }
}

fn published(bindings: &DaemonBindings) -> Option<Arc<DaemonBindings>> {
    (!bindings.is_empty()).then(|| Arc::new(bindings.clone()))
}
