//! Entering and leaving a slot: who waits for it, in which order, and what becomes of the gate afterwards.
//!
//! Invariants
//! * Those who wait are bounded in number, wait with a deadline, and enter in the order they came once they waited
//!   [`FAIR`]; before that, who comes by at the right moment may go first, which is what keeps an interpreter with one
//!   lock from changing threads at each event. Who looks at it, stops it or starts it again goes before those who use it.
//! * That it went down, failed or runs again is told under the lock of the cell: who hears of it finds the gate so.
//! * While user code of a watched-over daemon runs, everything but user code itself is where a forced stop can take
//!   it. Who was inside finds it gone, and what user code did has no effect.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use crate::sync::Condvar;
use meshos_core::event::{Crash, DaemonLifecycleSignal};
use meshos_core::gate::{self, Gate, Refusal, Signal};

use crate::clock::Deadline;
use crate::daemon::Daemon;
use crate::inside::Inside;
use crate::slot::{Cell, Slot};

/// Callers that may wait for one daemon.
pub const WAITERS_MAX: usize = 4096;
/// A caller that waited so long enters next.
pub const FAIR: Duration = Duration::from_millis(2);

/// Somebody who waits.
pub(crate) struct Waiter {
    since: Instant,
    wants: Signal,
    bell: Condvar,
    /// It was woken and has not looked yet: it need not be woken again for each event that goes by meanwhile.
    woken: AtomicBool,
    /// The gate was handed over: it is busy on this waiter's behalf.
    granted: AtomicBool,
}

/// Why nobody could enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnterError {
    /// Somebody is inside, or user code waits to be started again.
    Busy,
    /// The daemon was removed or replaced.
    Stale,
    /// User code failed and could not be rebuilt; the reason in one line.
    Failed(Arc<str>),
    /// It was to be started again, and runs.
    NotDown,
    /// As many wait as may.
    Crowded,
    /// The deadline passed.
    Timeout,
    /// The caller was interrupted.
    Interrupted,
}

/// What becomes of the gate when somebody leaves.
#[derive(Default)]
enum Leaving {
    /// It opens.
    #[default]
    Open,
    /// It opens, and user code was started again.
    Revived,
    /// User code waits to be started again; with the crash, if that is news.
    Down(Option<Box<Crash>>),
    /// User code is lost, for this reason; with the crash, if that is news.
    Failed(Arc<str>, Option<Box<Crash>>),
}

impl Leaving {
    fn signal(&self) -> Signal {
        match self {
            Self::Open | Self::Revived => Signal::Leave,
            Self::Down(_) => Signal::LeaveDown,
            Self::Failed(..) => Signal::LeaveFailed,
        }
    }
}

/// What somebody takes along who enters.
type Admitted<D> = (Box<Inside<D>>, Leaving);

impl<D: Daemon> Slot<D> {
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
        let admitted = Self::admit(&mut self.cell.lock(), Signal::Enter);
        match admitted {
            Ok(admitted) => Ok(Entered::new(self, admitted)),
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
        self.wait_for(Signal::Enter, false, deadline, interrupted)
    }

    /// Enters before all who wait, for what must not wait behind events.
    ///
    /// # Errors
    /// [`EnterError`], but never `Busy`.
    pub(crate) fn enter_first(self: &Arc<Self>, deadline: Deadline) -> Result<Entered<D>, EnterError> {
        self.wait_for(Signal::Enter, true, deadline, &mut || false)
    }

    /// Enters to look or to stop, if nobody is inside, also when user code is down or lost; it stays so.
    ///
    /// # Errors
    /// [`EnterError::Busy`] or [`EnterError::Stale`].
    pub fn inspect(self: &Arc<Self>) -> Result<Entered<D>, EnterError> {
        let admitted = Self::admit(&mut self.cell.lock(), Signal::Inspect);
        admitted.map(|admitted| Entered::new(Arc::clone(self), admitted))
    }

    /// Enters to look or to stop, waiting for whoever is inside.
    ///
    /// # Errors
    /// [`EnterError`], but neither `Busy` nor `Failed`.
    pub fn inspect_later(
        self: &Arc<Self>,
        deadline: Deadline,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Entered<D>, EnterError> {
        self.wait_for(Signal::Inspect, true, deadline, interrupted)
    }

    /// Enters to start user code again, if nobody is inside.
    ///
    /// # Errors
    /// [`EnterError::Busy`], [`EnterError::NotDown`] or [`EnterError::Stale`].
    pub(crate) fn try_enter_down(self: &Arc<Self>) -> Result<Entered<D>, EnterError> {
        let admitted = Self::admit(&mut self.cell.lock(), Signal::Revive);
        admitted.map(|admitted| Entered::new(Arc::clone(self), admitted))
    }

    /// Enters to start user code again, waiting for whoever looks at it.
    ///
    /// # Errors
    /// [`EnterError::NotDown`]: it runs. Else as [`Slot::inspect_later`].
    pub(crate) fn enter_down(self: &Arc<Self>, deadline: Deadline) -> Result<Entered<D>, EnterError> {
        self.wait_for(Signal::Revive, true, deadline, &mut || false)
    }

    fn wait_for(
        self: &Arc<Self>,
        wants: Signal,
        first: bool,
        deadline: Deadline,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Entered<D>, EnterError> {
        let entered = |admitted| Entered::new(Arc::clone(self), admitted);
        let mut cell = self.cell.lock();
        match Self::admit(&mut cell, wants) {
            Err(EnterError::Busy) => {}
            outcome => return outcome.map(entered),
        }
        if cell.waiters.len() >= WAITERS_MAX {
            return Err(EnterError::Crowded);
        }
        let me = Arc::new(Waiter {
            since: Instant::now(),
            wants,
            bell: Condvar::new(),
            woken: AtomicBool::new(false),
            granted: AtomicBool::new(false),
        });
        if first {
            cell.waiters.push_front(Arc::clone(&me));
        } else {
            cell.waiters.push_back(Arc::clone(&me));
        }
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
                cell.waiters.retain(|waiter| !Arc::ptr_eq(waiter, &me));
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

    fn wake(cell: &mut Cell<D>, me: &Arc<Waiter>) -> Result<Admitted<D>, EnterError> {
        if me.granted.load(Ordering::Relaxed) {
            let inside = cell.inside.take().expect("a gate handed over has its host in the slot");
            return Ok((inside, Leaving::Open));
        }
        let outcome = Self::admit(cell, me.wants);
        if !matches!(outcome, Err(EnterError::Busy)) {
            cell.waiters.retain(|waiter| !Arc::ptr_eq(waiter, me));
        }
        outcome
    }

    fn admit(cell: &mut Cell<D>, wants: Signal) -> Result<Admitted<D>, EnterError> {
        let failure = |cell: &Cell<D>| cell.failure.clone().expect("a failed gate has its reason");
        match gate::step(cell.gate, wants) {
            Ok(gate) => {
                let leaving = match cell.gate {
                    Gate::Down => Leaving::Down(None),
                    Gate::Failed => Leaving::Failed(failure(cell), None),
                    Gate::Active | Gate::Busy | Gate::Stopping | Gate::Stopped => Leaving::Open,
                };
                cell.gate = gate;
                let inside = cell.inside.take().expect("an open gate has its host in the slot");
                Ok((inside, leaving))
            }
            Err(Refusal::Busy) => Err(EnterError::Busy),
            Err(Refusal::Failed) => Err(EnterError::Failed(failure(cell))),
            Err(Refusal::NotDown) => Err(EnterError::NotDown),
            Err(Refusal::Stopped | Refusal::NobodyInside) => Err(EnterError::Stale),
        }
    }

    /// Closes the slot: at once, or when whoever is inside leaves. Those who wait are turned away.
    pub fn stop(self: &Arc<Self>) {
        let mut cell = self.cell.lock();
        cell.gate = gate::step(cell.gate, Signal::Stop).expect("stopping is always possible");
        let ended = self.close(cell);
        self.leave_behind(ended);
    }

    /// Closes the slot, and takes what is in it even if user code runs: what that code still does has no effect.
    /// `None`: who is inside holds it, and leaves it behind when leaving.
    pub(crate) fn stop_by_force(self: &Arc<Self>) -> Option<Box<Inside<D>>> {
        self.mark_forced();
        let mut cell = self.cell.lock();
        cell.gate = gate::step(cell.gate, Signal::Stop).expect("stopping is always possible");
        let parked = cell.parked.take();
        let ended = self.close(cell);
        parked.or(ended)
    }

    fn leave(self: &Arc<Self>, inside: Option<Box<Inside<D>>>, leaving: Leaving) {
        let mut cell = self.cell.lock();
        cell.gate = gate::step(cell.gate, leaving.signal()).expect("who leaves is inside");
        if let Some(inside) = inside {
            cell.view = inside.host.view();
            cell.inside = Some(inside);
        }
        self.tell_of(&mut cell, leaving);
        match cell.gate {
            Gate::Active => self.pass_on(&mut cell),
            Gate::Down => {
                Self::sort_out(&mut cell);
                drop(cell);
                self.rebuild_unless_supervised();
            }
            Gate::Busy | Gate::Stopping | Gate::Failed | Gate::Stopped => {
                let ended = self.close(cell);
                self.leave_behind(ended);
            }
        }
    }

    fn tell_of(&self, cell: &mut Cell<D>, leaving: Leaving) {
        let crash = match leaving {
            Leaving::Open => None,
            Leaving::Revived => {
                if cell.gate == Gate::Active {
                    self.emit(DaemonLifecycleSignal::Started);
                }
                None
            }
            Leaving::Down(crash) => crash,
            Leaving::Failed(reason, crash) => {
                cell.failure = Some(reason);
                crash
            }
        };
        if let Some(crash) = crash {
            let down = matches!(cell.gate, Gate::Down | Gate::Failed);
            self.emit(DaemonLifecycleSignal::Crashed { crash: *crash, down });
        }
    }

    /// Lets the next one in.
    fn pass_on(self: &Arc<Self>, cell: &mut Cell<D>) {
        while let Some(waiter) = cell.waiters.front() {
            let waiter = Arc::clone(waiter);
            let Ok(gate) = gate::step(cell.gate, waiter.wants) else {
                // It was to start again what runs.
                cell.waiters.pop_front();
                waiter.bell.notify_one();
                continue;
            };
            let waited = waiter.since.elapsed() >= FAIR;
            if waited {
                cell.waiters.pop_front();
                cell.gate = gate;
                waiter.granted.store(true, Ordering::Relaxed);
            }
            if !waiter.woken.swap(true, Ordering::Relaxed) || waited {
                waiter.bell.notify_one();
            }
            break;
        }
        if cell.mailbox.is_some() {
            self.schedule(cell);
        }
    }

    /// Turns away those whom the gate will not let in, and wakes the first of those whom it lets in now.
    fn sort_out(cell: &mut Cell<D>) {
        let gate = cell.gate;
        let mut woken = false;
        cell.waiters.retain(|waiter| match gate::step(gate, waiter.wants) {
            Ok(_) => {
                if !std::mem::replace(&mut woken, true) {
                    waiter.bell.notify_one();
                }
                true
            }
            Err(Refusal::Busy) => true,
            Err(_) => {
                waiter.bell.notify_one();
                false
            }
        });
    }

    /// Turns everybody away whom a closed or failed gate will not let in, and returns what is in a closed slot.
    fn close(self: &Arc<Self>, mut cell: MutexGuard<'_, Cell<D>>) -> Option<Box<Inside<D>>> {
        Self::sort_out(&mut cell);
        if cell.mailbox.is_some() {
            self.schedule(&mut cell);
        }
        // User objects end outside the lock.
        if cell.gate == Gate::Stopped {
            cell.inside.take()
        } else {
            None
        }
    }
}

/// The right to be inside a slot; leaving is dropping it.
pub struct Entered<D: Daemon> {
    slot: Arc<Slot<D>>,
    inside: Option<Box<Inside<D>>>,
    leaving: Leaving,
}

impl<D: Daemon> Entered<D> {
    fn new(slot: Arc<Slot<D>>, (inside, leaving): Admitted<D>) -> Self {
        Self {
            slot,
            inside: Some(inside),
            leaving,
        }
    }

    /// The slot.
    #[must_use]
    pub fn slot(&self) -> &Arc<Slot<D>> {
        &self.slot
    }

    /// Leaves with user code lost: the daemon takes no more events, which is told as a crash.
    pub fn fail(&mut self, reason: &str) {
        self.lose(reason, Crash::because(reason));
    }

    /// Leaves with user code lost, which is told as this crash.
    pub(crate) fn lose(&mut self, reason: &str, crash: Crash) {
        self.leaving = Leaving::Failed(Arc::from(reason), Some(Box::new(crash)));
    }

    /// Leaves with user code waiting to be started again, which is told as this crash.
    pub(crate) fn go_down(&mut self, crash: Crash) {
        self.leaving = Leaving::Down(Some(Box::new(crash)));
    }

    /// Leaves with user code started again, which is told.
    pub(crate) fn revived(&mut self) {
        self.leaving = Leaving::Revived;
    }

    /// Whether user code may be called.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.leaving, Leaving::Open | Leaving::Revived)
    }

    /// Why user code may not be called, if it may not.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<str>> {
        match &self.leaving {
            Leaving::Open | Leaving::Revived => None,
            Leaving::Down(Some(crash)) => Some(Arc::clone(&crash.reason)),
            Leaving::Down(None) => Some(Arc::from("it waits to be started again")),
            Leaving::Failed(reason, _) => Some(Arc::clone(reason)),
        }
    }

    /// Calls user code. `None`: the daemon was stopped by force meanwhile, what user code did has no effect, and there
    /// is nothing inside any more.
    pub(crate) fn lend<R>(&mut self, call: impl FnOnce(&D) -> R) -> Option<R> {
        if self.slot.is_supervised() {
            self.lend_parked(call)
        } else {
            Some(call(&self.daemon))
        }
    }

    /// As [`Entered::lend`], also of a daemon that nobody watches over.
    pub(crate) fn lend_parked<R>(&mut self, call: impl FnOnce(&D) -> R) -> Option<R> {
        let daemon = Arc::clone(&self.daemon);
        if !self.park() {
            self.slot.leave_behind(self.inside.take());
            return None;
        }
        let result = call(&daemon);
        self.unpark().then_some(result)
    }

    /// Puts what is inside where a forced stop can take it. Until [`Entered::unpark`] nothing of it may be used.
    /// `false`: it was stopped by force before, and nothing was put away.
    pub(crate) fn park(&mut self) -> bool {
        let mut cell = self.slot.cell.lock();
        if self.slot.is_forced() {
            return false;
        }
        cell.parked = self.inside.take();
        true
    }

    /// Takes it back; `false`: it is gone.
    pub(crate) fn unpark(&mut self) -> bool {
        if self.inside.is_none() {
            self.inside = self.slot.cell.lock().parked.take();
        }
        self.inside.is_some()
    }
}

impl<D: Daemon> std::ops::Deref for Entered<D> {
    type Target = Inside<D>;

    fn deref(&self) -> &Inside<D> {
        self.inside
            .as_deref()
            .expect("held until dropped, or until a forced stop")
    }
}

impl<D: Daemon> std::ops::DerefMut for Entered<D> {
    fn deref_mut(&mut self) -> &mut Inside<D> {
        self.inside
            .as_deref_mut()
            .expect("held until dropped, or until a forced stop")
    }
}

impl<D: Daemon> Drop for Entered<D> {
    fn drop(&mut self) {
        self.unpark();
        let mut inside = self.inside.take();
        if std::thread::panicking() && self.is_open() {
            self.fail("a bug in meshos stopped it half way");
            if let Some(inside) = &mut inside {
                inside.is_complete = false;
            }
        }
        self.slot.leave(inside, std::mem::take(&mut self.leaving));
    }
}
