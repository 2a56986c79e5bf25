//! What waits to go into a loop, in lanes of their own so that a flood in one does not hold up another.
//!
//! Invariants
//! * Results of what the loop asked for are never refused: they are as many as were asked for.
//! * Signals of a registry are never refused while there is space for them; when there is none, the loop is told to
//!   compare itself with the registry, which makes up for what was lost.
//! * Published events are refused when their lane is full, and counted. A batch is taken whole or not at all.
//! * Who was told that an event is in can wait until it is folded.
//! * The lock is held for as long as it takes to put a batch in, or to swap lanes: never for as long as a lane is long.
//! * The first event after a calm is taken out at once. Events that follow closely are taken out together, unless
//!   something urgent comes: a result, a signal of a registry, a command, somebody who waits, or a lane that fills.

use std::collections::VecDeque;
use std::sync::MutexGuard;

use meshos_core::signal::{MeshOsEvent, Signal};

use crate::clock::Deadline;
use crate::sync::{Condvar, Mutex};

/// Signals of a registry that may wait.
pub const REGISTRY_MAX: usize = 65_536;
/// Signals that one step takes.
pub const BATCH_MAX: usize = 2048;

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
    /// What came in does not wait for more to come.
    urgent: bool,
    sleep: Sleep,
    /// How many wait for space, or for their event to be folded.
    waiting: usize,
    refused: u64,
    taken_in: [u64; PUBLISHED],
    folded: [u64; PUBLISHED],
}

/// Who wakes the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Sleep {
    /// Nobody: it is awake.
    #[default]
    Awake,
    /// Whoever brings something.
    UntilWork,
    /// Whoever brings something urgent.
    UntilUrgent,
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
        // What is refused already is only counted, and may come in floods.
        Signal::Sealed(sealed) if sealed.refused.is_none() => Lane::Commands,
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
        if state.sleep == Sleep::UntilUrgent {
            state.sleep = Sleep::Awake;
            self.work.notify_one();
        }
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
        let fills = |lane| state.length(lane) > self.capacity / 2;
        let urgent = state.length(Lane::Commands) > 0 || fills(Lane::Events) || fills(Lane::Telemetry);
        self.wake(state, urgent);
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

    fn wake(&self, mut state: MutexGuard<'_, State>, urgent: bool) {
        state.woken = true;
        state.urgent |= urgent;
        let wakes = match state.sleep {
            Sleep::Awake => false,
            Sleep::UntilWork => true,
            Sleep::UntilUrgent => urgent,
        };
        if wakes {
            state.sleep = Sleep::Awake;
        }
        // Not while it is locked: who wakes up needs the lock.
        drop(state);
        if wakes {
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
        self.wake(state, true);
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
        self.wake(state, true);
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
        self.wake(state, true);
    }

    /// Has the loop look around at once, though nothing came in.
    pub fn nudge(&self) {
        self.wake(self.state.lock(), true);
    }

    /// Has the loop look around soon, as after an event.
    pub fn hint(&self) {
        self.wake(self.state.lock(), false);
    }

    /// Waits until something came in or `deadline` passed, then fills `batch` up. What is not urgent is left to gather
    /// until `calm`.
    ///
    /// A lane is swapped for one that is empty in the batch. So what waits and what the batch has are together at most
    /// twice what a lane may hold, and no signal overtakes another of its lane.
    pub fn take(&self, deadline: Deadline, calm: Deadline, batch: &mut Batch) {
        let mut state = self.state.lock();
        while !deadline.passed() {
            let until = if !state.woken {
                state.sleep = Sleep::UntilWork;
                deadline
            } else if state.urgent || state.waiting > 0 || calm.passed() {
                break;
            } else {
                state.sleep = Sleep::UntilUrgent;
                deadline.sooner(calm)
            };
            state = match until.end() {
                Some(end) => self.work.wait_until(state, end),
                None => self.work.wait(state),
            };
        }
        (state.sleep, state.urgent) = (Sleep::Awake, false);
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
        self.wake(state, true);
        self.space.notify_all();
    }

    /// Ends at once; what is in is dropped.
    pub fn abort(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.ending = true;
        state.aborted = true;
        let dropped = std::mem::take(&mut state.lines);
        self.wake(state, true);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use meshos_core::command::{AdminEvent, Command, Order, Verdict};
    use meshos_core::id::NodeId;

    use super::*;

    fn rtt(micros: u64) -> Signal {
        Signal::Event(MeshOsEvent::RttSample {
            peer: NodeId::new(2),
            rtt: Duration::from_micros(micros),
        })
    }

    fn forget(chain: u64) -> Signal {
        Signal::Event(MeshOsEvent::ForgetChain {
            chain: meshos_core::id::Origin::new(chain),
        })
    }

    fn result(probe: u64) -> Signal {
        Signal::ProbeRemoved { probe }
    }

    fn far() -> Deadline {
        Deadline::after(Duration::from_secs(60))
    }

    fn put(intake: &Intake, signal: Signal) -> Ticket {
        intake.publish(signal, Deadline::now(), &mut || false).unwrap()
    }

    fn taken(intake: &Intake, calm: Deadline) -> Vec<Signal> {
        let mut batch = Batch::default();
        intake.take(far(), calm, &mut batch);
        let signals = batch.drain().collect();
        intake.folded(&batch);
        signals
    }

    #[test]
    fn the_urgent_come_first_and_each_lane_in_order() {
        let intake = Intake::new(8);
        put(&intake, rtt(1));
        put(&intake, forget(1));
        put(&intake, rtt(2));
        put(&intake, forget(2));
        intake.result(result(1));
        assert_eq!(taken(&intake, far()), [result(1), forget(1), forget(2), rtt(1), rtt(2)]);
    }

    #[test]
    fn after_a_calm_an_event_is_taken_at_once() {
        let intake = Intake::new(8);
        put(&intake, rtt(1));
        assert_eq!(taken(&intake, Deadline::now()), [rtt(1)]);
    }

    /// Whatever comes first, who takes or what is urgent: what came before it is taken with it.
    #[test]
    fn events_gather_until_something_urgent_comes() {
        for urgent in [
            |intake: &Intake| intake.result(result(1)),
            |intake: &Intake| intake.registry(result(1)),
            |intake: &Intake| intake.nudge(),
            |intake: &Intake| intake.close(),
            |intake: &Intake| {
                put(intake, forget(2));
                put(intake, forget(3));
            },
            |intake: &Intake| {
                let command = Command {
                    order: Order::Admin(AdminEvent::ExitMaintenance { node: NodeId::new(1) }),
                    verdict: Verdict::Open,
                    operators: Vec::new(),
                    reason: String::new(),
                    envelope_id: None,
                    issued_at: None,
                };
                put(intake, Signal::Command(command));
            },
        ] {
            let intake = Arc::new(Intake::new(4));
            put(&intake, forget(1));
            let taker = std::thread::spawn({
                let intake = Arc::clone(&intake);
                move || taken(&intake, far())
            });
            urgent(&intake);
            assert!(taker.join().unwrap().contains(&forget(1)));
        }
    }

    #[test]
    fn events_gather_no_longer_than_the_calm_lasts_nor_while_somebody_waits() {
        let intake = Arc::new(Intake::new(8));
        put(&intake, rtt(1));
        assert_eq!(taken(&intake, Deadline::after(Duration::from_millis(1))), [rtt(1)]);
        let ticket = put(&intake, rtt(2));
        let taker = std::thread::spawn({
            let intake = Arc::clone(&intake);
            move || taken(&intake, far())
        });
        let patience = Deadline::after(Duration::from_secs(10));
        assert_eq!(intake.wait_folded(ticket, patience, &mut || false), Ok(()));
        assert_eq!(taker.join().unwrap(), [rtt(2)]);
    }

    #[test]
    fn what_one_step_does_not_take_comes_before_what_came_later() {
        let intake = Intake::new(3 * BATCH_MAX);
        let first = (0..BATCH_MAX as u64 + 10).map(rtt).collect();
        intake.publish_all(first, Deadline::now(), &mut || false).unwrap();
        let mut batch = Batch::default();
        intake.take(far(), Deadline::now(), &mut batch);
        let mut seen: Vec<Signal> = batch.drain().collect();
        intake.folded(&batch);
        assert_eq!((seen.len(), batch.more), (BATCH_MAX, true));
        let ticket = put(&intake, rtt(BATCH_MAX as u64 + 10));
        let early = intake.wait_folded(ticket, Deadline::now(), &mut || false);
        assert_eq!(early, Err(Refused::Full));
        while batch.more {
            intake.take(Deadline::now(), Deadline::now(), &mut batch);
            seen.extend(batch.drain());
            intake.folded(&batch);
        }
        assert_eq!(seen, (0..BATCH_MAX as u64 + 11).map(rtt).collect::<Vec<_>>());
        assert_eq!(intake.wait_folded(ticket, Deadline::now(), &mut || false), Ok(()));
        assert_eq!((intake.depth(), intake.refused()), (0, 0));
    }

    fn sealed(refused: Option<meshos_core::refusal::Refused>) -> Signal {
        Signal::Sealed(Box::new(meshos_core::signal::Sealed {
            command: Command {
                order: Order::Admin(AdminEvent::ExitMaintenance { node: NodeId::new(1) }),
                verdict: Verdict::Accepted,
                operators: Vec::new(),
                reason: String::new(),
                envelope_id: Some([1; 16]),
                issued_at: None,
            },
            envelope_id: [1; 16],
            issued_at: meshos_core::time::UnixMs::new(1),
            blast: None,
            refused,
        }))
    }

    #[test]
    fn a_signed_command_waits_behind_no_event_and_a_forged_one_behind_all() {
        let intake = Intake::new(2);
        put(&intake, forget(1));
        put(&intake, forget(2));
        let forged = sealed(Some(meshos_core::refusal::Refused::Unsigned));
        let refused = intake.publish(forged.clone(), Deadline::now(), &mut || false);
        assert_eq!(refused, Err(Refused::Full));
        put(&intake, sealed(None));
        assert_eq!(taken(&intake, far()), [sealed(None), forget(1), forget(2)]);
        put(&intake, forget(3));
        put(&intake, forged.clone());
        assert_eq!(taken(&intake, far()), [forget(3), forged]);
    }

    #[test]
    fn a_batch_is_taken_whole_or_refused_and_counted() {
        let intake = Intake::new(4);
        put(&intake, forget(1));
        let batch: Vec<Signal> = (2..6).map(forget).collect();
        let refused = intake.publish_all(batch.clone(), Deadline::now(), &mut || false);
        assert_eq!((refused, intake.refused(), intake.depth()), (Err(Refused::Full), 4, 1));
        let (refused, back) = intake.try_publish_all(batch.clone()).unwrap_err();
        assert_eq!((refused, back, intake.refused()), (Refused::Full, batch.clone(), 4));
        assert_eq!(taken(&intake, Deadline::now()).len(), 1);
        // A batch above the capacity is taken when its lane is empty.
        let large: Vec<Signal> = (0..9).map(forget).collect();
        intake.publish_all(large, Deadline::now(), &mut || false).unwrap();
        assert_eq!(intake.depth(), 9);
    }
}
