//! Controls that wait for a daemon: the newest of each sort, so that they need no bound.
//!
//! Invariants
//! * A shutdown goes before a drain, a drain before back-pressure, and none takes the place of one of another sort.
//! * They are given on a lane, between two events, and stay while a daemon is down: it hears them when it runs again.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::control::DaemonControl;
use meshos_core::event::DaemonLifecycleSignal;

use crate::clock::Deadline;
use crate::daemon::Daemon;
use crate::deliver;
use crate::enter::EnterError;
use crate::lane::Lanes;
use crate::leave::Entered;
use crate::slot::Slot;

/// How long a lane waits to give one while others use the daemon.
const PATIENCE: Duration = Duration::from_secs(1);

/// The newest control of each sort.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Controls {
    shutdown: Option<DaemonControl>,
    drain: Option<DaemonControl>,
    pressure: Option<DaemonControl>,
}

impl Controls {
    /// Adds one, in the place of an older one of its sort.
    pub fn put(&mut self, control: DaemonControl) {
        let place = match control {
            DaemonControl::Shutdown { .. } => &mut self.shutdown,
            DaemonControl::DrainStart { .. } | DaemonControl::DrainFinish | DaemonControl::Resume => &mut self.drain,
            DaemonControl::BackpressureOn { .. } | DaemonControl::BackpressureOff => &mut self.pressure,
        };
        *place = Some(control);
    }

    /// Takes the most urgent one out.
    pub fn take(&mut self) -> Option<DaemonControl> {
        self.shutdown
            .take()
            .or_else(|| self.drain.take())
            .or_else(|| self.pressure.take())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Gives a daemon a control. `None`: it was stopped by force meanwhile, and there is nothing inside any more.
///
/// # Errors
/// User code raised, which was counted and told.
pub fn give<D: Daemon>(entered: &mut Entered<D>, control: DaemonControl) -> Option<Result<(), D::Error>> {
    let given = entered.lend(|daemon| daemon.control(control))?;
    // No step says what it changed.
    entered.untape();
    Some(given.inspect_err(|error| complain(entered, error)))
}

/// Counts and tells that a control made user code raise.
pub(crate) fn complain<D: Daemon>(entered: &mut Entered<D>, error: &D::Error) {
    entered.host.raised();
    entered.slot().emit(DaemonLifecycleSignal::Crashed {
        crash: deliver::crash::<D>("", error, None),
        down: false,
    });
}

impl<D: Daemon> Slot<D> {
    /// Gives the daemon a control as soon as nobody is inside, on a lane. An older one of the same sort that still
    /// waits is dropped. `false`: it takes no controls, was stopped, or the lanes were.
    pub fn control_soon(self: &Arc<Self>, lanes: &Lanes, control: DaemonControl) -> bool {
        self.takes_control() && self.post_control(lanes, control)
    }

    /// Enters to give what waits, before those who wait with events.
    pub(crate) fn enter_with_controls(self: &Arc<Self>) -> Result<Entered<D>, EnterError> {
        self.enter_first(Deadline::after(PATIENCE))
    }

    /// Gives what waits, at most one of each sort. `false`: the daemon was stopped by force meanwhile.
    pub(crate) fn give_controls(&self, entered: &mut Entered<D>) -> bool {
        for _ in 0..3 {
            let Some(control) = self.next_control() else { break };
            if give(entered, control).is_none() {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshos_core::time::UnixMs;

    #[test]
    fn the_newest_of_each_sort_waits_and_a_shutdown_goes_first() {
        let at = |ms| UnixMs::new(ms);
        let mut controls = Controls::default();
        for control in [
            DaemonControl::BackpressureOn { level: 0.5 },
            DaemonControl::DrainStart { deadline: at(1) },
            DaemonControl::Shutdown { deadline: at(2) },
            DaemonControl::BackpressureOff,
            DaemonControl::Resume,
            DaemonControl::Shutdown { deadline: at(3) },
        ] {
            controls.put(control);
        }
        let given: Vec<_> = std::iter::from_fn(|| controls.take()).collect();
        assert_eq!(
            given,
            [
                DaemonControl::Shutdown { deadline: at(3) },
                DaemonControl::Resume,
                DaemonControl::BackpressureOff
            ]
        );
        assert!(controls.is_empty());
    }
}
