//! The gate of a daemon: whether its host may be entered, by one at a time.
//!
//! Exclusion is a state, not a lock: who entered holds the host until it leaves, and no lock is held while user code
//! runs in between.

/// State of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gate {
    /// Nobody is inside.
    Active,
    /// Somebody is inside.
    Busy,
    /// Somebody is inside, and it closes when they leave.
    Stopping,
    /// User code crashed while somebody watches over it, and waits to be started again.
    Down,
    /// User code failed and its state could not be rebuilt: it takes no events.
    Failed,
    /// Closed for good.
    Stopped,
}

/// What can happen to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Somebody wants in, to have user code called.
    Enter,
    /// Somebody wants in, to look or to stop it, whatever became of user code.
    Inspect,
    /// Who was inside leaves.
    Leave,
    /// Who was inside leaves, and user code waits to be started again.
    LeaveDown,
    /// Who was inside leaves, and the state of user code is lost.
    LeaveFailed,
    /// Somebody wants in, to start user code again.
    Revive,
    /// It shall close.
    Stop,
}

/// Why a signal changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Somebody is inside, or user code will be started again: wait.
    Busy,
    /// The state of user code is lost.
    Failed,
    /// Closed.
    Stopped,
    /// User code works: there is nothing to start again.
    NotDown,
    /// Nobody is inside who could leave: only a bug of ours sends this.
    NobodyInside,
}

/// Every state, for tables.
pub const GATES: [Gate; 6] = [
    Gate::Active,
    Gate::Busy,
    Gate::Stopping,
    Gate::Down,
    Gate::Failed,
    Gate::Stopped,
];
/// Every signal, for tables.
pub const SIGNALS: [Signal; 7] = [
    Signal::Enter,
    Signal::Inspect,
    Signal::Leave,
    Signal::LeaveDown,
    Signal::LeaveFailed,
    Signal::Revive,
    Signal::Stop,
];

/// Decides one step.
///
/// # Errors
/// [`Refusal`]: the signal changes nothing.
pub fn step(gate: Gate, signal: Signal) -> Result<Gate, Refusal> {
    match (gate, signal) {
        (Gate::Active, Signal::Enter | Signal::Inspect)
        | (Gate::Down | Gate::Failed, Signal::Inspect | Signal::Revive) => Ok(Gate::Busy),
        // Who wants to use it waits until it is started again, as for somebody inside.
        (Gate::Busy, Signal::Enter | Signal::Inspect | Signal::Revive) | (Gate::Down, Signal::Enter) => {
            Err(Refusal::Busy)
        }
        (Gate::Active, Signal::Revive) => Err(Refusal::NotDown),
        (Gate::Failed, Signal::Enter) => Err(Refusal::Failed),
        // Who waits while it stops would wait for nothing.
        (Gate::Stopping | Gate::Stopped, Signal::Enter | Signal::Inspect | Signal::Revive) => Err(Refusal::Stopped),
        (Gate::Busy, Signal::Leave) => Ok(Gate::Active),
        (Gate::Busy, Signal::LeaveDown) => Ok(Gate::Down),
        (Gate::Busy, Signal::LeaveFailed) => Ok(Gate::Failed),
        (Gate::Stopping, Signal::Leave | Signal::LeaveDown | Signal::LeaveFailed) => Ok(Gate::Stopped),
        (
            Gate::Active | Gate::Down | Gate::Failed | Gate::Stopped,
            Signal::Leave | Signal::LeaveDown | Signal::LeaveFailed,
        ) => Err(Refusal::NobodyInside),
        (Gate::Busy | Gate::Stopping, Signal::Stop) => Ok(Gate::Stopping),
        (Gate::Active | Gate::Down | Gate::Failed | Gate::Stopped, Signal::Stop) => Ok(Gate::Stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair of (state, signal), in the order of [`GATES`] and [`SIGNALS`].
    #[test]
    fn table() {
        use Gate::{Active, Busy, Down, Failed, Stopped, Stopping};
        use Refusal::{NobodyInside, NotDown};
        let wait = Err(Refusal::Busy);
        let closed = Err(Refusal::Stopped);
        let nobody = Err(NobodyInside);
        let expected = [
            [Ok(Busy), Ok(Busy), nobody, nobody, nobody, Err(NotDown), Ok(Stopped)],
            [wait, wait, Ok(Active), Ok(Down), Ok(Failed), wait, Ok(Stopping)],
            [
                closed,
                closed,
                Ok(Stopped),
                Ok(Stopped),
                Ok(Stopped),
                closed,
                Ok(Stopping),
            ],
            [wait, Ok(Busy), nobody, nobody, nobody, Ok(Busy), Ok(Stopped)],
            [
                Err(Refusal::Failed),
                Ok(Busy),
                nobody,
                nobody,
                nobody,
                Ok(Busy),
                Ok(Stopped),
            ],
            [closed, closed, nobody, nobody, nobody, closed, Ok(Stopped)],
        ];
        for (gate, row) in GATES.into_iter().zip(expected) {
            for (signal, outcome) in SIGNALS.into_iter().zip(row) {
                assert_eq!(step(gate, signal), outcome, "{gate:?} + {signal:?}");
            }
        }
    }

    #[test]
    fn at_most_one_is_inside() {
        for gate in GATES {
            if matches!(gate, Gate::Busy | Gate::Stopping) {
                assert!(step(gate, Signal::Enter).is_err());
                assert!(step(gate, Signal::Inspect).is_err());
                assert!(step(gate, Signal::Revive).is_err());
            }
        }
    }

    #[test]
    fn nothing_reopens_a_closed_gate() {
        for signal in SIGNALS {
            assert_ne!(step(Gate::Stopped, signal), Ok(Gate::Active));
            assert_ne!(step(Gate::Stopped, signal), Ok(Gate::Busy));
        }
    }
}
