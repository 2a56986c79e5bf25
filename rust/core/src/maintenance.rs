//! How a node leaves service and comes back.
//!
//! | from | to | when | daemons hear |
//! |---|---|---|---|
//! | Active, Exiting, DrainFailed, Recovery | Entering | `Enter`, `Drain` | DrainStart |
//! | Entering | Entering | `Enter`, `Drain` with another deadline | DrainStart |
//! | Entering | Maintenance | nothing is left | DrainFinish |
//! | Entering | DrainFailed | deadline of `Enter` | DrainFinish |
//! | Entering | Exiting | `Exit`; deadline of `Drain` | Resume |
//! | Maintenance | DrainFailed | only if told so | |
//! | DrainFailed | Maintenance | nothing is left any more | |
//! | Maintenance, DrainFailed | Exiting | `Exit`; after `Drain` at once | |
//! | Exiting | Recovery | every daemon runs; deadline | Resume, unless they heard it |
//! | Recovery | Active | end of the ramp | |
//!
//! One machine, and all that happens to it is a [`MaintenanceSignal`]: what operators order, and transitions that
//! were committed. It never goes on by itself. [`Machine::due`] says what is due; who asked commits it and gives it
//! back as [`MaintenanceSignal::Observed`], perhaps more than once and perhaps late.
//!
//! Invariants
//! * Only arcs of the table are taken; the rest is refused, or an order that is already obeyed.
//! * A committed transition that is late never undoes an order: Exiting does not become DrainFailed, and a drain is
//!   called off by a transition only if it was to end by itself.
//! * A transition that is told again changes nothing, unless it began later than the one that is known.
//! * Every state but Active, Maintenance and DrainFailed ends: by its work, or by its deadline.
//! * Daemons that heard of a drain hear exactly one Resume when it is over.

use std::sync::Arc;

use crate::loop_config::MaintenanceConfig;
use crate::maintenance_state::{MaintenancePhase, MaintenanceState};
use crate::time::UnixMs;

/// What can happen to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MaintenanceSignal {
    /// An operator wants it out of service.
    Enter {
        /// When the drain has failed.
        deadline: UnixMs,
    },
    /// An operator wants it drained; then, or at the deadline, it comes back into service by itself.
    Drain {
        /// When it comes back, drained or not.
        deadline: UnixMs,
    },
    /// An operator wants it in service; a drain that is under way is called off.
    Exit,
    /// A transition was committed.
    Observed(MaintenanceState),
}

/// What is left to do, as the loop counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Progress {
    /// Daemons that run and shall not.
    pub daemons_left: u32,
    /// Copies of chains that are still needed here.
    pub replicas_left: u32,
    /// Daemons that shall run and do not, or are not healthy.
    pub daemons_missing: u32,
}

impl Progress {
    const fn is_drained(&self) -> bool {
        self.daemons_left == 0 && self.replicas_left == 0
    }
}

/// What daemons must hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ControlEdge {
    /// The node drains, or goes on draining until another deadline.
    DrainStart {
        /// When the drain has failed.
        deadline: UnixMs,
    },
    /// The drain ended, with or without success.
    DrainFinish,
    /// The drain was called off, or the node is back in service.
    Resume,
}

/// What a signal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Change {
    /// Phase before.
    pub before: MaintenancePhase,
    /// Phase afterwards.
    pub after: MaintenancePhase,
    /// Whether anything is different, be it only a deadline.
    pub changed: bool,
    /// What daemons must hear.
    pub control: Option<ControlEdge>,
}

/// A transition that was committed, but leads nowhere from here: it is late. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("maintenance does not go from {} to {}", from.name(), to.name())]
pub struct Refused {
    /// Phase it is in.
    pub from: MaintenancePhase,
    /// Phase of the transition.
    pub to: MaintenancePhase,
}

/// Maintenance of this node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Machine {
    /// Where it is.
    pub state: MaintenanceState,
    /// It comes back into service by itself.
    pub auto_exit: bool,
    /// Daemons heard of a drain, and not yet that it is over.
    pub drain_told: bool,
}

impl Machine {
    /// Takes one signal.
    ///
    /// # Errors
    /// [`Refused`]: a committed transition leads nowhere from here, and nothing changes.
    pub fn signal(&mut self, signal: MaintenanceSignal, now: UnixMs) -> Result<Change, Refused> {
        let mut next = self.clone();
        match signal {
            MaintenanceSignal::Enter { deadline } => next.enter(deadline, false, now),
            MaintenanceSignal::Drain { deadline } => next.enter(deadline, true, now),
            MaintenanceSignal::Exit => next.exit(now),
            MaintenanceSignal::Observed(state) => next.observe(state)?,
        }
        let control = control(&self.state, &next.state, self.drain_told);
        match control {
            Some(ControlEdge::DrainStart { .. }) => next.drain_told = true,
            Some(ControlEdge::Resume) => next.drain_told = false,
            Some(ControlEdge::DrainFinish) | None => {}
        }
        let change = Change {
            before: self.state.phase(),
            after: next.state.phase(),
            changed: *self != next,
            control,
        };
        *self = next;
        Ok(change)
    }

    /// The transition that is due now; `None`: nothing is.
    #[must_use]
    pub fn due(&self, now: UnixMs, progress: &Progress, config: &MaintenanceConfig) -> Option<MaintenanceState> {
        use MaintenanceState as State;
        let time_is_up = self.next_deadline(config).is_some_and(|deadline| deadline <= now);
        let exiting = State::ExitingMaintenance { since: now };
        match &self.state {
            // Success counts before the deadline.
            State::EnteringMaintenance { .. } if progress.is_drained() => Some(State::Maintenance { since: now }),
            State::EnteringMaintenance { .. } if time_is_up && self.auto_exit => Some(exiting),
            State::EnteringMaintenance { since, .. } if time_is_up => Some(State::DrainFailed {
                since: now,
                reason: not_drained(*since, now, progress),
            }),
            State::Maintenance { .. } | State::DrainFailed { .. } if self.auto_exit => Some(exiting),
            State::DrainFailed { .. } if progress.is_drained() => Some(State::Maintenance { since: now }),
            // A daemon that does not start must not keep the node out of service.
            State::ExitingMaintenance { .. } if progress.daemons_missing == 0 || time_is_up => {
                Some(State::Recovery { since: now })
            }
            State::Recovery { .. } if time_is_up => Some(State::Active),
            _ => None,
        }
    }

    /// When `due` changes by time alone, be it past; `None`: it does not.
    #[must_use]
    pub fn next_deadline(&self, config: &MaintenanceConfig) -> Option<UnixMs> {
        match &self.state {
            MaintenanceState::EnteringMaintenance { deadline, .. } => Some(*deadline),
            MaintenanceState::ExitingMaintenance { since } => Some(since.plus(config.exit_deadline)),
            MaintenanceState::Recovery { since } => Some(since.plus(config.recovery_ramp_window)),
            MaintenanceState::Active | MaintenanceState::Maintenance { .. } | MaintenanceState::DrainFailed { .. } => {
                None
            }
        }
    }

    /// Whether daemons have taken longer to start again than they may. The node then goes on without those that are
    /// missing, which is a failure to be told.
    #[must_use]
    pub fn is_overdue(&self, now: UnixMs, config: &MaintenanceConfig) -> bool {
        self.state.phase() == MaintenancePhase::Exiting
            && self.next_deadline(config).is_some_and(|deadline| deadline <= now)
    }

    fn enter(&mut self, deadline: UnixMs, auto_exit: bool, now: UnixMs) {
        self.auto_exit = auto_exit;
        let since = match &self.state {
            MaintenanceState::Maintenance { .. } => return,
            MaintenanceState::EnteringMaintenance { since, .. } => *since,
            _ => now,
        };
        self.state = MaintenanceState::EnteringMaintenance { since, deadline };
    }

    fn exit(&mut self, now: UnixMs) {
        use MaintenancePhase as Phase;
        self.auto_exit = false;
        match self.state.phase() {
            Phase::Active | Phase::Exiting | Phase::Recovery => {}
            Phase::Entering | Phase::Maintenance | Phase::DrainFailed => {
                self.state = MaintenanceState::ExitingMaintenance { since: now };
            }
        }
    }

    fn observe(&mut self, state: MaintenanceState) -> Result<(), Refused> {
        let (from, to) = (self.state.phase(), state.phase());
        if from == to {
            // Told again. An order may have changed the deadline meanwhile, so only what began later replaces it.
            if state.since() > self.state.since() {
                self.state = state;
            }
            return Ok(());
        }
        if !may_follow(from, to, self.auto_exit) {
            return Err(Refused { from, to });
        }
        self.auto_exit &= to != MaintenancePhase::Active;
        self.state = state;
        Ok(())
    }
}

/// Whether a committed transition may lead from one phase to another.
const fn may_follow(from: MaintenancePhase, to: MaintenancePhase, auto_exit: bool) -> bool {
    use MaintenancePhase::{Active, DrainFailed, Entering, Exiting, Maintenance, Recovery};
    match (from, to) {
        (Active, Entering)
        | (Entering, Maintenance | DrainFailed)
        | (Maintenance, Exiting | DrainFailed)
        // What was left went away after the deadline: the drain succeeded late.
        | (DrainFailed, Exiting | Maintenance)
        | (Exiting, Recovery)
        | (Recovery, Active) => true,
        // Only who drains to come back comes back undrained; else it is of an earlier drain, and late.
        (Entering, Exiting) => auto_exit,
        _ => false,
    }
}

fn control(before: &MaintenanceState, after: &MaintenanceState, drain_told: bool) -> Option<ControlEdge> {
    use MaintenanceState as State;
    match (before, after) {
        (State::EnteringMaintenance { deadline: known, .. }, State::EnteringMaintenance { deadline, .. })
            if known == deadline =>
        {
            None
        }
        (_, State::EnteringMaintenance { deadline, .. }) => Some(ControlEdge::DrainStart { deadline: *deadline }),
        (State::EnteringMaintenance { .. }, State::Maintenance { .. } | State::DrainFailed { .. }) => {
            Some(ControlEdge::DrainFinish)
        }
        (State::EnteringMaintenance { .. }, State::ExitingMaintenance { .. })
        | (_, State::Recovery { .. } | State::Active) => drain_told.then_some(ControlEdge::Resume),
        _ => None,
    }
}

fn not_drained(since: UnixMs, now: UnixMs, progress: &Progress) -> Arc<str> {
    format!(
        "not drained after {} ms: daemons left {}, replicas left {}",
        now.since(since).as_millis(),
        progress.daemons_left,
        progress.replicas_left
    )
    .into()
}
