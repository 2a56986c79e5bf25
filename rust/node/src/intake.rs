//! What waits to go into a loop, in lanes of their own so that a flood in one does not hold up another.
//!
//! Invariants
//! * Results of what the loop asked for are never refused: they are as many as were asked for.
//! * Signals of a registry are never refused while there is space for them; when there is none, the loop is told to
//!   compare itself with the registry, which makes up for what was lost.
//! * Published events are refused when their lane is full, and counted. A batch is taken whole or not at all.
//! * Who was told that an event is in can wait until it is folded.
//! * The lock is held for as long as it takes to put a batch in, or to swap lanes: never for as long as a lane is long.

use std::collections::VecDeque;
use std::sync::MutexGuard;

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
pub struct Ticket([u64; PUBLISHED]);

/// Lanes that are published to; they are the last ones.
const PUBLISHED: usize = 3;
const LANES: usize = 5;

/// Which lane a signal is in, the urgent ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Results,
    Registry,
    Commands,
    Events,
    Telemetry,
}

impl Lane {
    /// Its place among the lanes that are published to.
    const fn published(self) -> usize {
        self as usize - (LANES - PUBLISHED)
    }
}

type Lines = [VecDeque<Signal>; LANES];

fn is_empty(lines: &Lines) -> bool {
    lines.iter().all(VecDeque::is_empty)
}

#[derive(Default)]
struct State {
    lines: Lines,
    /// Signals of a registry were lost: compare with it.
    roster_wanted: bool,
    closed: bool,
    ending: bool,
    aborted: bool,
    woken: bool,
    /// The loop waits for work: who brings some wakes it.
    sleeps: bool,
    /// How many wait for space, or for their event to be folded.
    waiting: usize,
    refused: u64,
    taken_in: [u64; PUBLISHED],
    folded: [u64; PUBLISHED],
}

impl State {
    fn put(&mut self, lane: Lane, signal: Signal) {
        self.lines[lane as usize].push_back(signal);
    }

    fn length(&self, lane: Lane) -> usize {
        self.lines[lane as usize].len()
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

/// What the loop has taken out and not yet folded; the same one is filled again and again.
#[derive(Default)]
pub struct Batch {
    lines: Lines,
    /// Of each lane, how many belong to the present step.
    counts: [usize; LANES],
    /// Whether to compare with the registry.
    pub roster_wanted: bool,
    /// Whether there is more than the present step takes.
    pub more: bool,
    /// Nothing comes in any more.
    pub ending: bool,
    /// The loop shall end at once.
    pub aborted: bool,
}

impl Batch {
    /// The signals of the present step, the urgent ones first.
    pub fn signals(&self) -> impl Iterator<Item = &Signal> {
        let lines = self.lines.iter().zip(self.counts);
        lines.flat_map(|(line, count)| line.iter().take(count))
    }

    /// Takes the signals of the present step out.
    pub fn drain(&mut self) -> impl Iterator<Item = Signal> {
        let lines = self.lines.iter_mut().zip(self.counts);
        lines.flat_map(|(line, count)| line.drain(..count))
    }

    /// Shares a step of [`BATCH_MAX`] out, the urgent lanes first; whether that is all.
    fn share_out(&mut self) -> bool {
        let mut left = BATCH_MAX;
        for (line, count) in self.lines.iter().zip(&mut self.counts) {
            *count = line.len().min(left);
            left -= *count;
        }
        self.lines
            .iter()
            .zip(self.counts)
            .all(|(line, count)| line.len() == count)
    }
}

const fn lane_of(signal: &Signal) -> Lane {
    match signal {
        Signal::Command(_) => Lane::Commands,
        Signal::Event(MeshOsEvent::RttSample { .. } | MeshOsEvent::NodeHealthUpdate { .. }) => Lane::Telemetry,
        _ => Lane::Events,
    }
}

fn wanted(signals: &[Signal]) -> [usize; LANES] {
    let mut wanted = [0; LANES];
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
        let mut wanted = [0; LANES];
        wanted[lane_of(&signal) as usize] = 1;
        self.when_it_fits(&wanted, deadline, interrupted, std::iter::once(signal))
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
        self.when_it_fits(&wanted(&signals), deadline, interrupted, signals.into_iter())
    }

    fn when_it_fits(
        &self,
        wanted: &[usize; LANES],
        deadline: Deadline,
        interrupted: &mut dyn FnMut() -> bool,
        signals: impl Iterator<Item = Signal>,
    ) -> Result<Ticket, Refused> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return Err(Refused::Closed);
            }
            if self.fits(&state, wanted) {
                return Ok(self.put(state, signals));
            }
            if deadline.passed() {
                state.refused += wanted.iter().sum::<usize>() as u64;
                return Err(Refused::Full);
            }
            drop(self.wait_a_slice(state, deadline));
            if interrupted() {
                return Err(Refused::Interrupted);
            }
            state = self.state.lock();
        }
    }

    fn wait_a_slice<'a>(&'a self, mut state: MutexGuard<'a, State>, deadline: Deadline) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let mut state = self.space.wait_until(state, deadline.slice());
        state.waiting -= 1;
        state
    }

    /// Takes a batch in if there is space now. Who then waits for space is not counted as refused.
    ///
    /// # Errors
    /// [`Refused`], with the batch: nothing was taken in.
    pub fn try_publish_all(&self, signals: Vec<Signal>) -> Result<Ticket, (Refused, Vec<Signal>)> {
        let wanted = wanted(&signals);
        let state = self.state.lock();
        if state.closed {
            return Err((Refused::Closed, signals));
        }
        if !self.fits(&state, &wanted) {
            return Err((Refused::Full, signals));
        }
        Ok(self.put(state, signals.into_iter()))
    }

    fn put(&self, mut state: MutexGuard<'_, State>, signals: impl Iterator<Item = Signal>) -> Ticket {
        for signal in signals {
            let lane = lane_of(&signal);
            state.taken_in[lane.published()] += 1;
            state.put(lane, signal);
        }
        let ticket = Ticket(state.taken_in);
        self.wake(state);
        ticket
    }

    /// Counts signals that were refused without a wait.
    pub fn count_refused(&self, count: usize) {
        self.state.lock().refused += count as u64;
    }

    fn fits(&self, state: &State, wanted: &[usize; LANES]) -> bool {
        let fits = |(line, wanted): (&VecDeque<Signal>, &usize)| {
            *wanted == 0 || line.is_empty() || line.len() + wanted <= self.capacity
        };
        state.lines.iter().zip(wanted).all(fits)
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        state.woken = true;
        let sleeps = std::mem::take(&mut state.sleeps);
        // Not while it is locked: who wakes up needs the lock.
        drop(state);
        if sleeps {
            self.work.notify_one();
        }
    }

    fn tell_waiting(&self, state: MutexGuard<'_, State>) {
        let waiting = state.waiting > 0;
        drop(state);
        if waiting {
            self.space.notify_all();
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
        state.put(Lane::Results, signal);
        self.wake(state);
    }

    /// Takes what a registry tells. Never waits.
    pub fn registry(&self, signal: Signal) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        if state.length(Lane::Registry) >= REGISTRY_MAX {
            state.roster_wanted = true;
            state.refused += 1;
        } else {
            state.put(Lane::Registry, signal);
        }
        self.wake(state);
    }

    /// Takes all daemons of a registry in, after what it told before: what a roster reflects is folded before it. Where
    /// there is no space the loop is told to compare again.
    pub fn roster(&self, signal: Signal) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        if state.length(Lane::Registry) >= REGISTRY_MAX {
            state.roster_wanted = true;
        } else {
            state.put(Lane::Registry, signal);
        }
        self.wake(state);
    }

    /// Has the loop look around, though nothing came in.
    pub fn nudge(&self) {
        self.wake(self.state.lock());
    }

    /// Waits until something came in or `deadline` passed, unless `batch` still has some, then fills `batch` up.
    ///
    /// A lane is swapped for one that is empty in the batch. So what waits and what the batch has are together at most
    /// twice what a lane may hold, and no signal overtakes another of its lane.
    pub fn take(&self, deadline: Deadline, batch: &mut Batch) {
        let mut state = self.state.lock();
        while !state.woken && !deadline.passed() {
            state.sleeps = true;
            state = match deadline.end() {
                Some(end) => self.work.wait_until(state, end),
                None => self.work.wait(state),
            };
        }
        state.sleeps = false;
        let mut swapped = false;
        for (inside, taken) in state.lines.iter_mut().zip(&mut batch.lines) {
            if taken.is_empty() && !inside.is_empty() {
                std::mem::swap(inside, taken);
                swapped = true;
            }
        }
        state.woken = !is_empty(&state.lines);
        batch.roster_wanted = std::mem::take(&mut state.roster_wanted);
        (batch.ending, batch.aborted) = (state.ending, state.aborted);
        batch.more = !batch.share_out() || state.woken;
        if swapped {
            self.tell_waiting(state);
        }
    }

    /// Says that the signals of the present step of `batch` are folded.
    pub fn folded(&self, batch: &Batch) {
        let counts = &batch.counts[LANES - PUBLISHED..];
        if counts.iter().all(|count| *count == 0) {
            return;
        }
        let mut state = self.state.lock();
        for (folded, count) in state.folded.iter_mut().zip(counts) {
            *folded += *count as u64;
        }
        self.tell_waiting(state);
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
            drop(self.wait_a_slice(state, deadline));
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
        self.wake(state);
        self.space.notify_all();
    }

    /// Ends at once; what is in is dropped.
    pub fn abort(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.ending = true;
        state.aborted = true;
        let dropped = std::mem::take(&mut state.lines);
        self.wake(state);
        self.space.notify_all();
        drop(dropped);
    }

    /// Events that wait, besides those that the loop has taken out.
    #[must_use]
    pub fn depth(&self) -> usize {
        let state = self.state.lock();
        let results = state.length(Lane::Results);
        state.lines.iter().map(VecDeque::len).sum::<usize>() - results
    }

    /// Events that were refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.state.lock().refused
    }
}
