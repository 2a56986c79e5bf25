//! Ears: how authors of daemons hear the controls of their daemon without being it.
//!
//! Invariants
//! * An ear holds the newest control of each sort: it is bounded by construction, and nothing newer is lost.
//! * A shutdown is heard first, and no back-pressure pushes it out.
//! * Who begins to listen late hears what holds: a drain that goes on, and back-pressure.
//! * An ear ends with its daemon, and then has nothing more to say than what it holds.
//! * Who waits is called on a lane, and can be taken back: nothing is left of a wait that was given up.

use std::sync::{Arc, Weak};

use meshos_core::control::DaemonControl;
use meshos_core::id::Origin;

use crate::clock::Deadline;
use crate::lane::Lanes;
use crate::published::{Wake, wake_on};
use crate::sync::{Condvar, Mutex};

#[derive(Default)]
struct State {
    shutdown: Option<DaemonControl>,
    drain: Option<DaemonControl>,
    pressure: Option<DaemonControl>,
    ended: bool,
    wakes: Vec<(u64, Wake)>,
    tickets: u64,
}

impl State {
    fn put(&mut self, control: DaemonControl) {
        let place = match control {
            DaemonControl::Shutdown { .. } => &mut self.shutdown,
            DaemonControl::DrainStart { .. } | DaemonControl::DrainFinish | DaemonControl::Resume => &mut self.drain,
            DaemonControl::BackpressureOn { .. } | DaemonControl::BackpressureOff => &mut self.pressure,
        };
        *place = Some(control);
    }

    fn take(&mut self) -> Option<DaemonControl> {
        let Self {
            shutdown,
            drain,
            pressure,
            ..
        } = self;
        [shutdown, drain, pressure].into_iter().find_map(Option::take)
    }
}

/// Hears the controls of one daemon.
pub struct Ear {
    origin: Origin,
    state: Mutex<State>,
    bell: Condvar,
    lanes: Lanes,
}

/// What came of listening.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Listened {
    /// A control.
    Control(DaemonControl),
    /// The daemon is gone, or the ear was closed.
    Ended,
    /// Time was up.
    TimedOut,
    /// The caller was interrupted.
    Interrupted,
}

impl Ear {
    /// Waits for the next control. `interrupted` is asked about twenty times a second.
    pub fn listen(&self, deadline: Deadline, interrupted: &mut dyn FnMut() -> bool) -> Listened {
        let mut state = self.state.lock();
        loop {
            if let Some(control) = state.take() {
                return Listened::Control(control);
            }
            if state.ended {
                return Listened::Ended;
            }
            if deadline.passed() {
                return Listened::TimedOut;
            }
            state = self.bell.wait_until(state, deadline.slice());
            drop(state);
            if interrupted() {
                return Listened::Interrupted;
            }
            state = self.state.lock();
        }
    }

    /// Has `wake` called on a lane once there is something to hear, or the end; returns a ticket to take it back with.
    ///
    /// # Errors
    /// Gives `wake` back when there is already.
    pub fn on_control(&self, wake: Wake) -> Result<u64, Wake> {
        let mut state = self.state.lock();
        if state.ended || state.shutdown.is_some() || state.drain.is_some() || state.pressure.is_some() {
            return Err(wake);
        }
        state.tickets += 1;
        let ticket = state.tickets;
        state.wakes.push((ticket, wake));
        Ok(ticket)
    }

    /// Takes a wake back; `false` when it was called, or is about to be.
    pub fn forget(&self, ticket: u64) -> bool {
        let mut state = self.state.lock();
        let place = state.wakes.iter().position(|(known, _)| *known == ticket);
        let taken = place.map(|place| state.wakes.swap_remove(place));
        drop(state);
        taken.is_some()
    }

    /// Ends it, and wakes who listens.
    pub fn close(&self) {
        self.ring(|state| state.ended = true);
    }

    fn ring(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let wakes = std::mem::take(&mut state.wakes);
        self.bell.notify_all();
        drop(state);
        wake_on(&self.lanes, wakes.into_iter().map(|(_, wake)| wake).collect());
    }
}

/// What was told to all daemons and holds on.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Holding {
    drain: Option<DaemonControl>,
    pressure: Option<DaemonControl>,
}

impl Holding {
    fn note(&mut self, control: DaemonControl) {
        match control {
            DaemonControl::DrainStart { .. } => self.drain = Some(control),
            DaemonControl::DrainFinish | DaemonControl::Resume => self.drain = None,
            DaemonControl::BackpressureOn { .. } => self.pressure = Some(control),
            DaemonControl::BackpressureOff => self.pressure = None,
            DaemonControl::Shutdown { .. } => {}
        }
    }

    /// The controls that say so.
    pub fn controls(self) -> impl Iterator<Item = DaemonControl> {
        [self.drain, self.pressure].into_iter().flatten()
    }
}

/// The ears of one loop.
pub struct Ears {
    ears: Mutex<(Vec<Weak<Ear>>, Holding)>,
    lanes: Lanes,
}

impl Ears {
    /// None yet; who waits is called on `lanes`.
    #[must_use]
    pub const fn new(lanes: Lanes) -> Self {
        Self {
            ears: Mutex::new((
                Vec::new(),
                Holding {
                    drain: None,
                    pressure: None,
                },
            )),
            lanes,
        }
    }

    /// A new ear for a daemon; it hears as long as somebody holds it.
    #[must_use]
    pub fn open(&self, origin: Origin) -> Arc<Ear> {
        let ear = Arc::new(Ear {
            origin,
            state: Mutex::default(),
            bell: Condvar::new(),
            lanes: self.lanes.clone(),
        });
        let mut known = self.ears.lock();
        let (ears, holding) = &mut *known;
        holding.controls().for_each(|control| ear.state.lock().put(control));
        ears.retain(|ear| ear.strong_count() > 0);
        ears.push(Arc::downgrade(&ear));
        drop(known);
        ear
    }

    /// What was told to all and holds on.
    #[must_use]
    pub fn holding(&self) -> Holding {
        self.ears.lock().1
    }

    fn each(&self, of: Option<Origin>, note: Option<DaemonControl>, tell: impl Fn(&Ear)) {
        let mut known = self.ears.lock();
        if let Some(control) = note {
            known.1.note(control);
        }
        let ears: Vec<_> = known.0.iter().filter_map(Weak::upgrade).collect();
        drop(known);
        for ear in ears {
            if of.is_none_or(|origin| ear.origin == origin) {
                tell(&ear);
            }
        }
    }

    /// Tells the ears of one daemon, or all.
    pub fn tell(&self, of: Option<Origin>, control: DaemonControl) {
        let to_all = of.is_none().then_some(control);
        self.each(of, to_all, |ear| ear.ring(|state| state.put(control)));
    }

    /// Ends the ears of one daemon, or all.
    pub fn close(&self, of: Option<Origin>) {
        self.each(of, None, Ear::close);
    }

    /// Whether nobody listens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ears.lock().0.is_empty()
    }
}
