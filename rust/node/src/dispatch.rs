//! What carries out the loop's decisions, and who else is told: user code behind traits.
//!
//! Everything here is called on a lane and may block.

use std::sync::Arc;

use meshos_core::action::{Cause, MeshOsAction};
use meshos_core::control::DaemonControl;
use meshos_core::finite::Share;
use meshos_core::id::Origin;
use meshos_core::signal::Outcome;
use meshos_core::status::MigrationStatus;

use crate::callback::{CallFailed, isolated};

/// Carries out actions. Every action may come twice, and twice must be as once.
pub trait ActionDispatcher: Send + Sync {
    /// Carries out an action.
    fn dispatch(&self, id: u64, action: &MeshOsAction, cause: &Cause) -> Outcome;

    /// Tells that the queue of actions crossed its mark, on both edges.
    ///
    /// # Errors
    /// What it raised.
    fn on_cluster_backpressure(&self, _asserted: bool, _level: Share) -> Result<(), CallFailed> {
        Ok(())
    }

    /// Tells that the loop wants a daemon to run, or does not care for it any more.
    fn supervise(&self, _daemon: Origin, _wanted: bool) {}

    /// Whether it commits maintenance transitions itself, and publishes them back as observed.
    fn commits_maintenance(&self) -> bool {
        false
    }

    /// Its name, for people.
    fn name(&self) -> &str;
}

/// Dispatches an action; a panic of the dispatcher is a raise.
#[must_use]
pub fn dispatch(dispatcher: &dyn ActionDispatcher, id: u64, action: &MeshOsAction, cause: &Cause) -> Outcome {
    isolated(|| Ok(dispatcher.dispatch(id, action, cause))).unwrap_or_else(|failed| Outcome::Raised {
        reason: Arc::from(failed.reason),
        traceback: failed.traceback.map(Arc::from),
    })
}

/// Sees every control of a runtime.
pub trait ControlSink: Send + Sync {
    /// Takes a control.
    ///
    /// # Errors
    /// What it raised.
    fn emit(&self, control: DaemonControl) -> Result<(), CallFailed>;

    /// Its name, for people.
    fn name(&self) -> &str;
}

/// Ends moves on an operator's order.
pub trait MigrationAborter: Send + Sync {
    /// Ends the move of a daemon, if it is here; not being here is success.
    ///
    /// # Errors
    /// What it raised.
    fn abort(&self, daemon: Origin) -> Result<(), CallFailed>;

    /// Whether it does nothing: then an order to end a move is a failure.
    fn is_no_op(&self) -> bool {
        false
    }

    /// Its name, for people.
    fn name(&self) -> &str;
}

/// Lists the moves under way.
pub trait MigrationSnapshotSource: Send + Sync {
    /// The moves, as they are now.
    ///
    /// # Errors
    /// What it raised.
    fn list(&self) -> Result<Vec<MigrationStatus>, CallFailed>;

    /// Its name, for people.
    fn name(&self) -> &str;
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshos_core::action::CauseKind;
    use meshos_core::id::NodeId;

    struct Panics;

    impl ActionDispatcher for Panics {
        fn dispatch(&self, _id: u64, _action: &MeshOsAction, _cause: &Cause) -> Outcome {
            std::panic::resume_unwind(Box::new("on purpose"))
        }

        fn name(&self) -> &'static str {
            "Panics"
        }
    }

    #[test]
    fn a_panic_of_a_dispatcher_is_a_raise() {
        let action = MeshOsAction::PullReplica {
            chain: Origin::new(1),
            source: NodeId::new(2),
        };
        let cause = Cause {
            kind: CauseKind::Event,
            detail: Arc::from(""),
            envelope_id: None,
        };
        let outcome = Outcome::Raised {
            reason: Arc::from("panicked: on purpose"),
            traceback: None,
        };
        assert_eq!(dispatch(&Panics, 1, &action, &cause), outcome);
        assert!(!Panics.commits_maintenance());
    }
}
