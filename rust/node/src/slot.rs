//! A slot holds one daemon: who enters it has host and user code for itself until it leaves.
//!
//! Invariants
//! * At most one is inside ([`Gate`]); whoever is inside owns [`Inside`] by value, so nothing of it needs a lock.
//! * The lock of the cell is held for moves of pointers only: never over user code, hashing or the end of a user object.
//! * Those who wait are bounded in number, wait with a deadline, and enter in the order they came once they waited
//!   [`FAIR`]; before that, who comes by at the right moment may go first, which is what keeps an interpreter with one
//!   lock from changing threads at each event.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};
use meshos_core::bindings::DaemonBindings;
use meshos_core::config::DaemonHostConfig;
use meshos_core::event::DaemonLifecycleSignal;
use meshos_core::gate::{self, Gate, Refusal, Signal};
use meshos_core::host::{HostView, Position};
use meshos_core::id::{EntityId, Origin};
use meshos_core::identity::Keypair;

use crate::archive::SharedArchive;
use crate::clock::Deadline;
use crate::daemon::Daemon;
use crate::events::{Events, Presence};
use crate::inside::Inside;
use crate::mailbox::Mailbox;

/// Callers that may wait for one daemon.
pub const WAITERS_MAX: usize = 4096;
/// A caller that waited so long enters next.
pub const FAIR: Duration = Duration::from_millis(2);

/// A key that its owner may erase while a daemon uses it.
pub type SharedKey = Arc<Mutex<Keypair>>;

#[derive(Default)]
pub(crate) struct Waiter {
    bell: Condvar,
    /// It was woken and has not looked yet: it need not be woken again for each event that goes by meanwhile.
    woken: AtomicBool,
    /// The gate was handed over: it is busy on this waiter's behalf.
    granted: AtomicBool,
}

pub(crate) struct Cell<D: Daemon> {
    pub(crate) gate: Gate,
    inside: Option<Box<Inside<D>>>,
    view: HostView,
    failure: Option<Arc<str>>,
    waiters: VecDeque<(Instant, Arc<Waiter>)>,
    pub(crate) mailbox: Option<Box<Mailbox<D>>>,
}

/// Why nobody could enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnterError {
    /// Somebody is inside.
    Busy,
    /// The daemon was removed or replaced.
    Stale,
    /// User code failed and could not be rebuilt; the reason in one line.
    Failed(Arc<str>),
    /// As many wait as may.
    Crowded,
    /// The deadline passed.
    Timeout,
    /// The caller was interrupted.
    Interrupted,
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
    /// Where what is left of the daemon goes when the slot is closed.
    archive: OnceLock<SharedArchive<D>>,
    /// The ledger as last published, so that reading it never waits; `None`: empty.
    ledger: Mutex<Option<Arc<DaemonBindings>>>,
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
            archive: OnceLock::new(),
            ledger: Mutex::new(published(inside.host.bindings())),
            cell: Mutex::new(Cell {
                gate: Gate::Active,
                view: inside.host.view(),
                inside: Some(Box::new(inside)),
                failure: None,
                waiters: VecDeque::new(),
                mailbox: None,
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

    /// Tells a lifecycle event, if it is in a registry; returns the event's number.
    pub fn emit(&self, signal: DaemonLifecycleSignal) -> Option<u64> {
        let events = self.events.get()?;
        events.emit(&self.presence, self.origin, &self.name, signal)
    }

    /// Whether it was told that it takes no events until it is started again.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.presence.is_down()
    }

    /// Enters if nobody is inside.
    ///
    /// # Errors
    /// [`EnterError::Busy`], [`EnterError::Stale`] or [`EnterError::Failed`].
    pub fn try_enter(self: &Arc<Self>) -> Result<Entered<D>, EnterError> {
        Arc::clone(self).try_enter_owned().map_err(|(_, error)| error)
    }

    /// Enters if nobody is inside, with the caller's own reference: the hot path saves a count.
    ///
    /// # Errors
    /// As [`Slot::try_enter`], with the reference.
    pub fn try_enter_owned(self: Arc<Self>) -> Result<Entered<D>, (Arc<Self>, EnterError)> {
        let admitted = Self::admit(&mut self.cell.lock());
        match admitted {
            Ok(inside) => Ok(Entered {
                slot: self,
                inside: Some(inside),
                failure: None,
            }),
            Err(error) => Err((self, error)),
        }
    }

    /// Enters, waiting for whoever is inside. `interrupted` is asked about twenty times a second, with no lock held.
    ///
    /// # Errors
    /// [`EnterError`], but never `Busy`.
    pub fn enter(
        self: &Arc<Self>,
        deadline: Deadline,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Entered<D>, EnterError> {
        let entered = |inside| Entered {
            slot: Arc::clone(self),
            inside: Some(inside),
            failure: None,
        };
        let mut cell = self.cell.lock();
        match Self::admit(&mut cell) {
            Err(EnterError::Busy) => {}
            outcome => return outcome.map(entered),
        }
        if cell.waiters.len() >= WAITERS_MAX {
            return Err(EnterError::Crowded);
        }
        let me = Arc::new(Waiter::default());
        cell.waiters.push_back((Instant::now(), Arc::clone(&me)));
        loop {
            cell = me.bell.wait_until(cell, deadline.slice());
            me.woken.store(false, Ordering::Relaxed);
            let outcome = Self::wake(&mut cell, &me);
            if !matches!(outcome, Err(EnterError::Busy)) {
                return outcome.map(entered);
            }
            // Signal handlers are user code: they run with nothing locked.
            drop(cell);
            let timed_out = deadline.passed();
            let give_up = timed_out || interrupted();
            cell = self.cell.lock();
            if give_up {
                // The gate may have been handed over in the meantime: then it must be passed on.
                let outcome = Self::wake(&mut cell, &me);
                cell.waiters.retain(|(_, waiter)| !Arc::ptr_eq(waiter, &me));
                drop(cell);
                drop(outcome.map(entered));
                return Err(if timed_out {
                    EnterError::Timeout
                } else {
                    EnterError::Interrupted
                });
            }
        }
    }

    fn wake(cell: &mut Cell<D>, me: &Arc<Waiter>) -> Result<Box<Inside<D>>, EnterError> {
        if me.granted.load(Ordering::Relaxed) {
            return Ok(cell.inside.take().expect("a gate handed over has its host in the slot"));
        }
        let outcome = Self::admit(cell);
        if !matches!(outcome, Err(EnterError::Busy)) {
            cell.waiters.retain(|(_, waiter)| !Arc::ptr_eq(waiter, me));
        }
        outcome
    }

    /// Enters to look or to stop, also when user code is lost; the failure stays.
    ///
    /// # Errors
    /// [`EnterError::Busy`] or [`EnterError::Stale`].
    pub fn inspect(self: &Arc<Self>) -> Result<Entered<D>, EnterError> {
        let mut cell = self.cell.lock();
        let failure = if cell.gate == Gate::Failed {
            cell.failure.clone()
        } else {
            None
        };
        match gate::step(cell.gate, Signal::Inspect) {
            Ok(gate) => {
                cell.gate = gate;
                let inside = cell.inside.take();
                Ok(Entered {
                    slot: Arc::clone(self),
                    inside,
                    failure,
                })
            }
            Err(Refusal::Busy) => Err(EnterError::Busy),
            Err(Refusal::Failed | Refusal::Stopped | Refusal::NotDown | Refusal::NobodyInside) => {
                Err(EnterError::Stale)
            }
        }
    }

    fn admit(cell: &mut Cell<D>) -> Result<Box<Inside<D>>, EnterError> {
        match gate::step(cell.gate, Signal::Enter) {
            Ok(gate) => {
                cell.gate = gate;
                Ok(cell.inside.take().expect("an open gate has its host in the slot"))
            }
            Err(Refusal::Busy) => Err(EnterError::Busy),
            Err(Refusal::Failed) => Err(EnterError::Failed(
                cell.failure.clone().expect("a failed gate has its reason"),
            )),
            Err(Refusal::Stopped | Refusal::NotDown | Refusal::NobodyInside) => Err(EnterError::Stale),
        }
    }

    /// Closes the slot: at once, or when whoever is inside leaves. Those who wait are turned away.
    pub fn stop(self: &Arc<Self>) {
        let mut cell = self.cell.lock();
        cell.gate = gate::step(cell.gate, Signal::Stop).expect("stopping is always possible");
        self.close(cell);
    }

    fn leave(self: &Arc<Self>, inside: Box<Inside<D>>, failure: Option<Arc<str>>) {
        let mut cell = self.cell.lock();
        let signal = if failure.is_some() {
            Signal::LeaveFailed
        } else {
            Signal::Leave
        };
        cell.gate = gate::step(cell.gate, signal).expect("who leaves is inside");
        cell.view = inside.host.view();
        cell.inside = Some(inside);
        if failure.is_some() {
            cell.failure = failure;
        }
        if cell.gate != Gate::Active {
            self.close(cell);
            return;
        }
        if let Some((since, waiter)) = cell.waiters.front() {
            let waiter = Arc::clone(waiter);
            if since.elapsed() >= FAIR {
                cell.waiters.pop_front();
                cell.gate = Gate::Busy;
                waiter.granted.store(true, Ordering::Relaxed);
            }
            if !waiter.woken.swap(true, Ordering::Relaxed) || cell.gate == Gate::Busy {
                waiter.bell.notify_one();
            }
        }
        if cell.mailbox.is_some() {
            self.schedule(&mut cell);
        }
    }

    /// Turns everybody away whom a closed or failed gate will not let in, and ends what is in a closed slot.
    fn close(self: &Arc<Self>, mut cell: MutexGuard<'_, Cell<D>>) {
        let waiters = std::mem::take(&mut cell.waiters);
        for (_, waiter) in &waiters {
            waiter.bell.notify_one();
        }
        // User objects end outside the lock.
        let inside = if cell.gate == Gate::Stopped {
            cell.inside.take()
        } else {
            None
        };
        if cell.mailbox.is_some() {
            self.schedule(&mut cell);
        }
        drop(cell);
        if let Some(mut inside) = inside {
            let dropped = self.archive.get().map(|archive| archive.lock().remember(&mut inside));
            drop(dropped);
        }
    }
}

fn published(bindings: &DaemonBindings) -> Option<Arc<DaemonBindings>> {
    (!bindings.is_empty()).then(|| Arc::new(bindings.clone()))
}

/// The right to be inside a slot; leaving is dropping it.
pub struct Entered<D: Daemon> {
    slot: Arc<Slot<D>>,
    inside: Option<Box<Inside<D>>>,
    failure: Option<Arc<str>>,
}

impl<D: Daemon> Entered<D> {
    /// The slot.
    #[must_use]
    pub fn slot(&self) -> &Arc<Slot<D>> {
        &self.slot
    }

    /// Leaves with user code lost: the daemon takes no more events.
    pub fn fail(&mut self, reason: &str) {
        self.failure = Some(Arc::from(reason));
    }

    /// Why user code is lost, if it is.
    #[must_use]
    pub fn failure(&self) -> Option<&Arc<str>> {
        self.failure.as_ref()
    }
}

impl<D: Daemon> std::ops::Deref for Entered<D> {
    type Target = Inside<D>;

    fn deref(&self) -> &Inside<D> {
        self.inside.as_deref().expect("held until dropped")
    }
}

impl<D: Daemon> std::ops::DerefMut for Entered<D> {
    fn deref_mut(&mut self) -> &mut Inside<D> {
        self.inside.as_deref_mut().expect("held until dropped")
    }
}

impl<D: Daemon> Drop for Entered<D> {
    fn drop(&mut self) {
        if let Some(inside) = self.inside.take() {
            if std::thread::panicking() && self.failure.is_none() {
                self.failure = Some(Arc::from("a bug in meshos stopped it half way"));
            }
            self.slot.leave(inside, self.failure.take());
        }
    }
}
