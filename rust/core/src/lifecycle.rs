//! The life of a runtime: Registering, then Ready, then ShuttingDown; there is no way back.

/// State of a runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Lifecycle {
    /// Factories are registered; daemons are not spawned yet.
    Registering = 0,
    /// Everything is allowed.
    Ready = 1,
    /// Nothing new is taken on.
    ShuttingDown = 2,
}

/// What a caller wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// Name a kind.
    RegisterFactory,
    /// Become Ready.
    Start,
    /// Shut down.
    Shutdown,
    /// Spawn, deliver, send, snapshot, control: anything that needs a running daemon.
    Work,
    /// Stop one daemon.
    Stop,
    /// Read something.
    Read,
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum LifecycleError {
    /// It was not started yet.
    #[error("the runtime was not started")]
    NotReady,
    /// It shuts down or was shut down.
    #[error("the runtime is shutting down")]
    ShuttingDown,
}

/// Every state, for tables.
pub const STATES: [Lifecycle; 3] = [Lifecycle::Registering, Lifecycle::Ready, Lifecycle::ShuttingDown];
/// Every call, for tables.
pub const CALLS: [Call; 6] = [
    Call::RegisterFactory,
    Call::Start,
    Call::Shutdown,
    Call::Work,
    Call::Stop,
    Call::Read,
];

/// Decides about one call: the state afterwards, or why it is refused.
///
/// # Errors
/// [`LifecycleError`]: the call is refused, and the state stays.
pub fn step(state: Lifecycle, call: Call) -> Result<Lifecycle, LifecycleError> {
    match (state, call) {
        (Lifecycle::Registering | Lifecycle::Ready, Call::Start) => Ok(Lifecycle::Ready),
        (_, Call::Shutdown) => Ok(Lifecycle::ShuttingDown),
        (state, Call::Read) => Ok(state),
        (Lifecycle::Registering | Lifecycle::Ready, Call::RegisterFactory) => Ok(state),
        (Lifecycle::Ready, Call::Work | Call::Stop) => Ok(state),
        (Lifecycle::Registering, Call::Work | Call::Stop) => Err(LifecycleError::NotReady),
        // The shutdown stops every daemon itself, so stopping one more is already done.
        (Lifecycle::ShuttingDown, Call::Stop) => Ok(state),
        (Lifecycle::ShuttingDown, Call::RegisterFactory | Call::Start | Call::Work) => {
            Err(LifecycleError::ShuttingDown)
        }
    }
}

impl Lifecycle {
    /// Reads a state back from its number.
    ///
    /// # Panics
    /// For a number that is no state; only a bug of ours stores one.
    #[must_use]
    pub fn from_u8(raw: u8) -> Self {
        STATES
            .into_iter()
            .find(|state| *state as u8 == raw)
            .expect("only states are stored")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair of (state, call), in the order of [`STATES`] and [`CALLS`].
    #[test]
    fn table() {
        use Lifecycle::{Ready, Registering, ShuttingDown};
        let early = Err(LifecycleError::NotReady);
        let late = Err(LifecycleError::ShuttingDown);
        let expected = [
            [
                Ok(Registering),
                Ok(Ready),
                Ok(ShuttingDown),
                early,
                early,
                Ok(Registering),
            ],
            [Ok(Ready), Ok(Ready), Ok(ShuttingDown), Ok(Ready), Ok(Ready), Ok(Ready)],
            [late, late, Ok(ShuttingDown), late, Ok(ShuttingDown), Ok(ShuttingDown)],
        ];
        for (state, row) in STATES.into_iter().zip(expected) {
            for (call, outcome) in CALLS.into_iter().zip(row) {
                assert_eq!(step(state, call), outcome, "{state:?} + {call:?}");
            }
        }
    }

    #[test]
    fn states_survive_their_number() {
        for state in STATES {
            assert_eq!(Lifecycle::from_u8(state as u8), state);
        }
    }
}
