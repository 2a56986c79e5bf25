//! Leaving a slot: what becomes of the gate, and what is told of it.
//!
//! Invariants
//! * That it went down, failed or runs again is told under the lock of the cell: who hears of it finds the gate so.
//! * While user code of a supervised daemon runs, everything but user code itself is where a forced stop can take it.
//!   Who was inside finds it gone, and what user code did has no effect.

use std::sync::{Arc, MutexGuard};

use meshos_core::event::{Crash, DaemonLifecycleSignal};
use meshos_core::gate::{self, Gate, Signal};

use crate::daemon::Daemon;
use crate::enter::Admitted;
use crate::inside::Inside;
use crate::slot::{Cell, Slot};

/// What becomes of the gate when somebody leaves.
#[derive(Default)]
pub(crate) enum Leaving {
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

impl<D: Daemon> Slot<D> {
    /// Closes the slot: at once, or when whoever is inside leaves. Those who wait are turned away.
    pub fn stop(self: &Arc<Self>) {
        let mut cell = self.cell.lock();
        cell.gate = gate::step(cell.gate, Signal::Stop).expect("stopping is always possible");
        let ended = self.close(cell);
        self.leave_behind(ended);
        self.waits().tell();
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
            Gate::Active => {
                self.pass_on(&mut cell);
                drop(cell);
            }
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
        self.waits().tell();
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

    /// Tells again that it runs, if it does, for who did not know.
    pub fn affirm(&self) {
        // Under the lock, so that it does not go down in between.
        let cell = self.cell.lock();
        if matches!(cell.gate, Gate::Active | Gate::Busy) && !self.is_down() {
            self.emit(DaemonLifecycleSignal::Started);
        }
    }

    /// Turns everybody away whom a closed or failed gate will not let in, and returns what is in a closed slot.
    fn close(self: &Arc<Self>, mut cell: MutexGuard<'_, Cell<D>>) -> Option<Box<Inside<D>>> {
        Self::sort_out(&mut cell);
        if cell.mailbox.is_some() {
            self.schedule(&mut cell);
        }
        if cell.gate != Gate::Stopped {
            return None;
        }
        // User objects end outside the lock.
        let ended = cell.inside.take();
        drop(cell);
        self.let_go();
        ended
    }
}

/// The right to be inside a slot; leaving is dropping it.
pub struct Entered<D: Daemon> {
    slot: Arc<Slot<D>>,
    inside: Option<Box<Inside<D>>>,
    leaving: Leaving,
}

impl<D: Daemon> Entered<D> {
    pub(crate) fn new(slot: Arc<Slot<D>>, (inside, leaving): Admitted<D>) -> Self {
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

    /// Whether there is anything inside: a forced stop may have taken it.
    #[must_use]
    pub const fn is_present(&self) -> bool {
        self.inside.is_some()
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

    /// Takes what is inside out for good: nothing is left behind when it is left.
    pub(crate) fn take_away(&mut self) -> Option<Box<Inside<D>>> {
        self.inside.take()
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
