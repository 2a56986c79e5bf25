//! The loop's hands on a runtime of daemons: what it watches, and the dispatcher that starts and stops.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::action::{Cause, MeshOsAction};
use meshos_core::control::DaemonControl;
use meshos_core::event::{DaemonLifecycleEvent, DaemonLifecycleSignal};
use meshos_core::finite::Share;
use meshos_core::id::Origin;
use meshos_core::signal::{DaemonRef, DaemonSignal, Outcome, RosterEntry, Signal};

use crate::behaviour::Keeper;
use crate::daemon::Daemon;
use crate::dispatch::ActionDispatcher;
use crate::events::Watch;
use crate::lane::Lanes;
use crate::registry::Registry;
use crate::restart::{StartError, Started, StopError};
use crate::runtime::Runtime;

/// How much later a start is tried again that somebody is in the way of.
const BUSY_WAIT: Duration = Duration::from_millis(50);

/// A registry, as a loop watches and talks to it.
pub struct Kept<D: Daemon> {
    registry: Arc<Registry<D>>,
    lanes: Lanes,
}

impl<D: Daemon> Kept<D> {
    /// Talks to the daemons of `registry` on `lanes`.
    #[must_use]
    pub const fn new(registry: Arc<Registry<D>>, lanes: Lanes) -> Self {
        Self { registry, lanes }
    }
}

struct Teller(Box<dyn Fn(Signal) + Send + Sync>);

impl Watch for Teller {
    fn watch(&self, event: &DaemonLifecycleEvent) {
        let signal = match &event.signal {
            DaemonLifecycleSignal::Registered | DaemonLifecycleSignal::Started => DaemonSignal::Started,
            DaemonLifecycleSignal::Unregistered => DaemonSignal::ExitedCleanly,
            DaemonLifecycleSignal::Crashed { crash, down } => DaemonSignal::Crashed {
                crash: crash.clone(),
                down: *down,
            },
            // Where it goes on is no matter of the loop.
            DaemonLifecycleSignal::PassedOver { .. } => return,
            DaemonLifecycleSignal::HealthChanged { health } => DaemonSignal::HealthChanged(health.clone()),
            DaemonLifecycleSignal::SaturationChanged { saturation } => match Share::new(*saturation) {
                Some(share) => DaemonSignal::SaturationChanged(share),
                None => return,
            },
        };
        (self.0)(Signal::Registry {
            daemon: DaemonRef {
                id: event.origin,
                name: Arc::from(&*event.name),
            },
            signal,
            at: event.at,
            number: event.number,
        });
    }
}

impl<D: Daemon> Keeper for Kept<D> {
    fn watch(&self, tell: Box<dyn Fn(Signal) + Send + Sync>) -> u64 {
        self.registry.add_watch(Arc::new(Teller(tell)))
    }

    fn unwatch(&self, watch: u64) {
        self.registry.remove_watch(watch);
    }

    fn roster(&self) -> (Vec<RosterEntry>, u64) {
        self.registry.roster()
    }

    fn broadcast(&self, control: DaemonControl) {
        self.registry.broadcast(&self.lanes, control);
    }

    fn control(&self, daemon: Origin, control: DaemonControl) -> bool {
        let slot = self.registry.get(daemon);
        slot.is_some_and(|slot| {
            slot.control_soon(&self.lanes, control);
            true
        })
    }

    fn remove(&self, daemon: Origin) -> bool {
        self.registry.unregister(daemon).is_some()
    }

    fn poll(&self) {
        self.registry.poll();
    }
}

/// Carries actions out on a runtime: starts from the newest snapshot and the inputs since, stops with a last snapshot.
pub struct ComputeDispatcher<D: Daemon> {
    runtime: Arc<Runtime<D>>,
}

impl<D: Daemon> ComputeDispatcher<D> {
    /// Acts on `runtime`.
    #[must_use]
    pub const fn new(runtime: Arc<Runtime<D>>) -> Self {
        Self { runtime }
    }

    fn start(&self, origin: Origin) -> Outcome {
        match self.runtime.start_daemon(origin) {
            Ok(Started::AlreadyRunning) => {
                // Whoever asked for it did not know: tell again.
                if let Some(slot) = self.runtime.registry().get(origin) {
                    slot.affirm();
                }
                Outcome::Done
            }
            Ok(Started::Revived | Started::Spawned) => Outcome::Done,
            Err(StartError::Busy(_)) => Outcome::Retry {
                reason: Arc::from("somebody else is at it"),
                after: BUSY_WAIT,
            },
            Err(error) => Outcome::Drop {
                reason: Arc::from(why(error)),
            },
        }
    }
}

fn why<D: Daemon>(error: StartError<D>) -> String {
    match error {
        StartError::Lifecycle(error) => error.to_string(),
        StartError::NotFound(origin) => format!("this node knows nothing of {origin}"),
        StartError::Forgotten(origin) => format!("what would start {origin} again is not kept"),
        StartError::Busy(origin) => format!("somebody else is at {origin}"),
        StartError::Lost(reason) => reason.to_owned(),
        StartError::Key(error) => error.to_string(),
        StartError::Raised(error) => D::describe(&error),
    }
}

impl<D: Daemon> ActionDispatcher for ComputeDispatcher<D> {
    fn dispatch(&self, _id: u64, action: &MeshOsAction, _cause: &Cause) -> Outcome {
        match action {
            MeshOsAction::StartDaemon { daemon } => self.start(daemon.id),
            MeshOsAction::StopDaemon { daemon, deadline, .. } => {
                match self.runtime.stop_daemon(daemon.id, *deadline, &mut || false) {
                    Ok(_) => Outcome::Done,
                    Err(StopError::Lifecycle(error)) => Outcome::Drop {
                        reason: Arc::from(error.to_string()),
                    },
                    Err(StopError::Interrupted) => Outcome::Drop {
                        reason: Arc::from("interrupted"),
                    },
                    Err(StopError::Moving) => Outcome::Drop {
                        reason: Arc::from("it is being moved"),
                    },
                }
            }
            // The loop holds the backoff, the avoid list and the state of maintenance itself.
            MeshOsAction::ApplyBackoff { .. }
            | MeshOsAction::MarkAvoid { .. }
            | MeshOsAction::CommitMaintenanceTransition { .. } => Outcome::Done,
            MeshOsAction::PullReplica { .. }
            | MeshOsAction::DropReplica { .. }
            | MeshOsAction::RequestPlacement { .. }
            | MeshOsAction::RequestEviction { .. } => Outcome::Drop {
                reason: Arc::from("a runtime of daemons keeps no replicated chains"),
            },
        }
    }

    fn supervise(&self, daemon: Origin, wanted: bool) {
        self.runtime.registry().supervise(daemon, wanted);
    }

    fn commits_maintenance(&self) -> bool {
        true
    }

    fn name(&self) -> &str {
        "ComputeDispatcher"
    }
}
