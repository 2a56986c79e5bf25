//! What a caller waits for: room in the queue, that something is folded, that a daemon is gone.

use meshos_core::control::DaemonControl;
use meshos_core::signal::{DaemonIntent, DaemonRef, MeshOsEvent, Signal};
use meshos_node::clock::Deadline;
use meshos_node::intake::{Refused, Ticket};
use meshos_node::published::Waited;
use pyo3::prelude::*;

use super::{ANSWER_TIMEOUT, PyLoop, raised};
use crate::errors::{self, LoopClosed, QueueFull};
use crate::guard::{self, may_wait};

impl PyLoop {
    pub(super) fn take_in(&self, py: Python<'_>, signals: Vec<Signal>, deadline: Deadline) -> PyResult<Ticket> {
        let mut signal = None;
        let intake = &self.shared.intake;
        let taken = match intake.try_publish_all(signals) {
            Ok(ticket) => Ok(ticket),
            Err((Refused::Full, signals)) if !deadline.passed() => {
                may_wait("MeshOsHandle.publish")?;
                py.detach(|| intake.publish_all(signals, deadline, &mut || guard::interrupted(&mut signal)))
            }
            Err((refused, signals)) => {
                if refused == Refused::Full {
                    intake.count_refused(signals.len());
                }
                Err(refused)
            }
        };
        taken.map_err(|refused| self.refused(refused, signal))
    }

    pub(super) fn refused(&self, refused: Refused, signal: Option<PyErr>) -> PyErr {
        match refused {
            Refused::Full => QueueFull::new_err(("the loop's queue", self.shared.config.event_queue_capacity)),
            Refused::Closed => LoopClosed::new_err(("MeshOsRuntime",)),
            Refused::Interrupted => raised(signal),
        }
    }

    pub(super) fn wait_folded(&self, py: Python<'_>, ticket: Ticket, deadline: Deadline) -> PyResult<()> {
        let mut signal = None;
        let intake = &self.shared.intake;
        let folded = py.detach(|| intake.wait_folded(ticket, deadline, &mut || guard::interrupted(&mut signal)));
        folded.map_err(|refused| match refused {
            Refused::Full => errors::waited("the loop to take it in", ANSWER_TIMEOUT, py),
            other => self.refused(other, signal),
        })
    }

    /// Tells a daemon to leave, waits until it is gone, and takes it out when time is up.
    pub(super) fn see_off(
        &self,
        daemon: &DaemonRef,
        until: meshos_core::time::UnixMs,
        deadline: Deadline,
        signal: &mut Option<PyErr>,
    ) {
        let shared = &self.shared;
        let told = DaemonControl::Shutdown { deadline: until };
        let _leaving = shared.leave_by(daemon.id, until);
        shared.ears.tell(Some(daemon.id), told);
        let keeper = &shared.parts.keeper;
        keeper.control(daemon.id, told);
        // Nobody starts it again, also when it is not here at this moment.
        let event = MeshOsEvent::DaemonIntentUpdate {
            daemon: daemon.clone(),
            intent: DaemonIntent::Stop,
            node: None,
        };
        shared.intake.result(Signal::Event(event));
        let registry = &self.registry.get().registry;
        let mut snapshot = shared.published.load();
        while registry.get(daemon.id).is_some() && signal.is_none() && !deadline.passed() {
            match shared
                .published
                .wait(snapshot.generation, deadline, &mut || guard::interrupted(signal))
            {
                Waited::Changed(newer) => snapshot = newer,
                Waited::Ended | Waited::TimedOut | Waited::Interrupted => break,
            }
        }
        if signal.is_none() {
            keeper.remove(daemon.id);
        }
    }
}
