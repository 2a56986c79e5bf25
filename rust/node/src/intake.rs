//! What waits to go into a loop, in lanes of their own so that a flood in one does not hold up another.
//!
//! Invariants
//! * Results of what the loop asked for are never refused: they are as many as were asked for.
//! * Signals of a registry are never refused while there is space for them; when there is none, the loop is told to
//!   compare itself with the registry, which makes up for what was lost.
//! * Published events are refused when their lane is full, and counted. A batch is taken whole or not at all.
//! * Who was told that an event is in can wait until it is folded.

use std::collections::VecDeque;

use meshos_core::signal::{MeshOsEvent, Signal};

use crate::clock::Deadline;
use crate::sync::{Condvar, Mutex};

/// Signals of a registry that may wait.
pub const REGISTRY_MAX: usize = 65_536;
/// Signals that one step takes.
pub const BATCH_MAX: usize = 8192;

/// Why nothing was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is no space.
    Full,
    /// The loop has ended, or is about to.
    Closed,
    /// The caller was interrupted.
    Interrupted,
}

/// How many signals were in each lane's whole life when an event was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket([u64; 3]);

#[derive(Default)]
struct State {
    results: VecDeque<Signal>,
    registry: VecDeque<Signal>,
    commands: VecDeque<Signal>,
    events: VecDeque<Signal>,
    telemetry: VecDeque<Signal>,
    /// Signals of a registry were lost: compare with it.
    roster_wanted: bool,
    closed: bool,
    ending: bool,
    aborted: bool,
    woken: bool,
    refused: u64,
    taken_in: [u64; 3],
    taken_out: [u64; 3],
    folded: [u64; 3],
}

impl State {
    fn is_empty(&self) -> bool {
        self.results.is_empty()
            && self.registry.is_empty()
            && self.commands.is_empty()
            && self.events.is_empty()
            && self.telemetry.is_empty()
    }

    fn depth(&self) -> usize {
        self.registry.len() + self.commands.len() + self.events.len() + self.telemetry.len()
    }
}

/// The lanes into one loop.
pub struct Intake {
    capacity: usize,
    state: Mutex<State>,
    /// Wakes the loop.
    work: Condvar,
    /// Wakes those who wait for space, or for their event to be folded.
    space: Condvar,
}

/// What the loop takes out at once.
pub struct Batch {
    /// The signals, the urgent ones first.
    pub signals: Vec<Signal>,
    /// Whether to compare with the registry.
    pub roster_wanted: bool,
    /// Whether there is more.
    pub more: bool,
    /// Nothing comes in any more.
    pub ending: bool,
    /// The loop shall end at once.
    pub aborted: bool,
}

/// Which lane a signal is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Commands,
    Events,
    Telemetry,
}

const fn lane_of(signal: &Signal) -> Lane {
    match signal {
        Signal::Command(_) => Lane::Commands,
        Signal::Event(MeshOsEvent::RttSample { .. } | MeshOsEvent::NodeHealthUpdate { .. }) => Lane::Telemetry,
        _ => Lane::Events,
    }
}

fn wanted(signals: &[Signal]) -> [usize; 3] {
    let mut wanted = [0; 3];
    for signal in signals {
        wanted[lane_of(signal) as usize] += 1;
    }
    wanted
}

impl Intake {
    /// Lanes of so many events each.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            state: Mutex::default(),
            work: Condvar::new(),
            space: Condvar::new(),
        }
    }

    /// Takes one event in, waiting for space.
    ///
    /// # Errors
    /// [`Refused`], and nothing was taken in.
    pub fn publish(
        &self,
        signal: Signal,
        deadline: Deadline,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Ticket, Refused> {
        self.publish_all(vec![signal], deadline, interrupted)
    }

    /// Takes a batch in, all or none, waiting for space. A batch above the capacity waits until its lanes are empty.
    ///
    /// # Errors
    /// [`Refused`], and nothing was taken in.
    pub fn publish_all(
        &self,
        signals: Vec<Signal>,
        deadline: Deadline,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Ticket, Refused> {
        let wanted = wanted(&signals);
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return Err(Refused::Closed);
            }
            if self.fits(&state, wanted) {
                return Ok(self.put(&mut state, signals));
            }
            if deadline.passed() {
                state.refused += signals.len() as u64;
                return Err(Refused::Full);
            }
            state = self.space.wait_until(state, deadline.slice());
            drop(state);
            if interrupted() {
                return Err(Refused::Interrupted);
            }
            state = self.state.lock();
        }
    }

    /// Takes a batch in if there is space now. Who then waits for space is not counted as refused.
    ///
    /// # Errors
    /// [`Refused`], with the batch: nothing was taken in.
    pub fn try_publish_all(&self, signals: Vec<Signal>) -> Result<Ticket, (Refused, Vec<Signal>)> {
        let wanted = wanted(&signals);
        let mut state = self.state.lock();
        if state.closed {
            return Err((Refused::Closed, signals));
        }
        if !self.fits(&state, wanted) {
            return Err((Refused::Full, signals));
        }
        Ok(self.put(&mut state, signals))
    }

    fn put(&self, state: &mut State, signals: Vec<Signal>) -> Ticket {
        for signal in signals {
            let lane = lane_of(&signal);
            state.taken_in[lane as usize] += 1;
            match lane {
                Lane::Commands => state.commands.push_back(signal),
                Lane::Events => state.events.push_back(signal),
                Lane::Telemetry => state.telemetry.push_back(signal),
            }
        }
        self.wake(state);
        Ticket(state.taken_in)
    }

    /// Counts signals that were refused without a wait.
    pub fn count_refused(&self, count: usize) {
        self.state.lock().refused += count as u64;
    }

    fn fits(&self, state: &State, wanted: [usize; 3]) -> bool {
        let lengths = [state.commands.len(), state.events.len(), state.telemetry.len()];
        let fits = |(length, wanted): (usize, usize)| wanted == 0 || length == 0 || length + wanted <= self.capacity;
        lengths.into_iter().zip(wanted).all(fits)
    }

    fn wake(&self, state: &mut State) {
        if !std::mem::replace(&mut state.woken, true) {
            self.work.notify_one();
        }
    }

    /// Takes the result of something the loop asked for. Never refused, except after the end.
    pub fn result(&self, signal: Signal) {
        let mut state = self.state.lock();
        if state.aborted {
            drop(state);
            drop(signal);
            return;
        }
        state.results.push_back(signal);
        self.wake(&mut state);
    }

    /// Takes what a registry tells. Never waits.
    pub fn registry(&self, signal: Signal) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        if state.registry.len() >= REGISTRY_MAX {
            state.roster_wanted = true;
            state.refused += 1;
        } else {
            state.registry.push_back(signal);
        }
        self.wake(&mut state);
    }

    /// Has the loop look around, though nothing came in.
    pub fn nudge(&self) {
        self.wake(&mut self.state.lock());
    }

    /// Waits until something came in or `deadline` passed, then takes up to [`BATCH_MAX`] signals out.
    #[must_use]
    pub fn take(&self, deadline: Deadline) -> Batch {
        let mut state = self.state.lock();
        while !state.woken && !deadline.passed() {
            state = match deadline.end() {
                Some(end) => self.work.wait_until(state, end),
                None => self.work.wait(state),
            };
        }
        let mut signals = Vec::with_capacity(state.depth().min(BATCH_MAX));
        let State {
            results,
            registry,
            commands,
            events,
            telemetry,
            ..
        } = &mut *state;
        let mut taken = [0; 3];
        for (line, lane) in [
            (results, None),
            (registry, None),
            (commands, Some(Lane::Commands)),
            (events, Some(Lane::Events)),
            (telemetry, Some(Lane::Telemetry)),
        ] {
            let count = line.len().min(BATCH_MAX - signals.len());
            signals.extend(line.drain(..count));
            if let Some(lane) = lane {
                taken[lane as usize] = count as u64;
            }
        }
        for (total, taken) in state.taken_out.iter_mut().zip(taken) {
            *total += taken;
        }
        let published: u64 = taken.into_iter().sum();
        let more = !state.is_empty();
        state.woken = more;
        let roster_wanted = std::mem::take(&mut state.roster_wanted);
        let (ending, aborted) = (state.ending, state.aborted);
        if published > 0 {
            self.space.notify_all();
        }
        drop(state);
        Batch {
            signals,
            roster_wanted,
            more,
            ending,
            aborted,
        }
    }

    /// Says that everything taken out so far is folded.
    pub fn folded(&self) {
        let mut state = self.state.lock();
        if state.folded != state.taken_out {
            state.folded = state.taken_out;
            self.space.notify_all();
        }
    }

    /// Waits until everything that was in when the ticket was given is folded.
    ///
    /// # Errors
    /// [`Refused::Full`]: not in time; [`Refused::Closed`]: the loop ended before.
    pub fn wait_folded(
        &self,
        ticket: Ticket,
        deadline: Deadline,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<(), Refused> {
        let mut state = self.state.lock();
        loop {
            if state
                .folded
                .iter()
                .zip(ticket.0)
                .all(|(folded, wanted)| *folded >= wanted)
            {
                return Ok(());
            }
            if state.aborted {
                return Err(Refused::Closed);
            }
            if deadline.passed() {
                return Err(Refused::Full);
            }
            state = self.space.wait_until(state, deadline.slice());
            drop(state);
            if interrupted() {
                return Err(Refused::Interrupted);
            }
            state = self.state.lock();
        }
    }

    /// Takes nothing more in; what is in is still taken out.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.ending = true;
        self.wake(&mut state);
        self.space.notify_all();
    }

    /// Ends at once; what is in is dropped.
    pub fn abort(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.ending = true;
        state.aborted = true;
        let dropped = std::mem::take(&mut state.results);
        self.wake(&mut state);
        self.space.notify_all();
        drop(state);
        drop(dropped);
    }

    /// Events that wait.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.state.lock().depth()
    }

    /// Events that were refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.state.lock().refused
    }
}
