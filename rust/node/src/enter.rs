//! Entering a slot: who waits for it, and in which order.
//!
//! Invariants
//! * Those who wait are bounded in number, wait with a deadline, and enter in the order they came once they waited
//!   [`FAIR`]; before that, who comes by at the right moment may go first, which is what keeps an interpreter with one
//!   lock from changing threads at each event. Who looks at it, stops it or starts it again goes before those who use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::sync::Condvar;
use meshos_core::gate::{self, Gate, Refusal, Signal};

use crate::clock::Deadline;
use crate::daemon::Daemon;
use crate::inside::Inside;
use crate::leave::{Entered, Leaving};
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

/// What somebody takes along who enters.
pub(crate) type Admitted<D> = (Box<Inside<D>>, Leaving);

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

    /// Lets the next one in.
    pub(crate) fn pass_on(self: &Arc<Self>, cell: &mut Cell<D>) {
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
    pub(crate) fn sort_out(cell: &mut Cell<D>) {
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
}
