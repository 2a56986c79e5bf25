//! User code rebuilt from the newest snapshot and the inputs since, and who asks for it.
//!
//! Invariants
//! * The event that user code failed on is not among the inputs, and neither is one that took no effect.
//! * User code takes the place of the old instance only when all of it succeeded.
//! * A daemon that nobody watches over does not stay down: its gate opens again, or fails.

use std::sync::Arc;

use meshos_core::event::Crash;
use meshos_core::gate::Gate;

use crate::daemon::{Daemon, Process};
use crate::deliver;
use crate::inside::{Inside, Snapshot};
use crate::lane::Job;
use crate::leave::Entered;
use crate::slot::Slot;

/// Why user code was not rebuilt.
#[derive(Debug)]
pub enum RebuildError<D: Daemon> {
    /// User code raised.
    Raised(D::Error),
    /// Snapshot and inputs do not lead to the present position, or there is no other instance: in one line.
    Lost(&'static str),
    /// It was stopped by force meanwhile.
    Stopped,
}

impl<D: Daemon> RebuildError<D> {
    /// In one line.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Raised(error) => D::describe(error),
            Self::Lost(reason) => (*reason).to_owned(),
            Self::Stopped => "it was stopped".to_owned(),
        }
    }

    fn crash(&self, what: &str) -> Crash {
        match self {
            Self::Raised(error) => deliver::crash::<D>(what, error, None),
            Self::Lost(_) | Self::Stopped => Crash::because(&format!("{what}{}", self.reason())),
        }
    }
}

/// What user code is rebuilt from.
pub struct Source<'a, D: Daemon> {
    /// Makes another instance.
    pub daemon: &'a Arc<D>,
    /// The newest snapshot.
    pub newest: Option<&'a Snapshot<D>>,
    /// The inputs since.
    pub log: &'a [D::Event],
    /// Whether the two lead to the present position.
    pub is_complete: bool,
    /// Whether a call of the old instance still runs.
    pub is_running: bool,
}

impl<D: Daemon> Source<'_, D> {
    /// Makes another instance and brings it to the present position; what it emits on the way is thrown away.
    ///
    /// # Errors
    /// [`RebuildError`].
    pub fn rebuild(&self) -> Result<Arc<D>, RebuildError<D>> {
        if self.daemon.is_stateful() && !self.is_complete {
            return Err(RebuildError::Lost("no snapshot leads to where it was"));
        }
        let daemon = match self.daemon.fresh().map_err(RebuildError::Raised)? {
            Some(fresh) => Arc::new(fresh),
            None if self.is_running => {
                return Err(RebuildError::Lost("its only instance was interrupted and still runs"));
            }
            None => Arc::clone(self.daemon),
        };
        if !daemon.is_stateful() {
            return Ok(daemon);
        }
        let raised = RebuildError::Raised;
        if let Some(newest) = self.newest {
            daemon.restore(&newest.state, newest.meta.schema).map_err(raised)?;
        }
        for event in self.log {
            let outputs = match daemon.process(event) {
                Process::Done(outputs) => outputs,
                Process::Later(later) => daemon.wait(later),
            };
            drop(outputs.map_err(RebuildError::Raised)?);
        }
        Ok(daemon)
    }
}

/// Rebuilds user code after a raise. If that fails the daemon takes no more events, which is told.
///
/// # Errors
/// Why it failed, in one line.
pub(crate) fn rebuild<D: Daemon>(entered: &mut Entered<D>) -> Result<(), Arc<str>> {
    if !entered.daemon.is_stateful() {
        return Ok(());
    }
    let inside: &Inside<D> = entered;
    let source = Source {
        daemon: &inside.daemon,
        newest: inside.newest.as_deref(),
        log: &inside.log,
        is_complete: inside.is_complete,
        is_running: inside.is_running,
    };
    match source.rebuild() {
        Ok(daemon) => {
            entered.daemon = daemon;
            entered.host.restarted();
            Ok(())
        }
        Err(error) => {
            let reason = error.reason();
            entered.lose(&reason, error.crash("not restored: "));
            Err(Arc::from(reason))
        }
    }
}

/// Starts user code again of a daemon that is down or failed; what is inside may be taken by a forced stop meanwhile.
///
/// # Errors
/// [`RebuildError`]: it stays as it was. After `Stopped` there is nothing inside any more.
pub(crate) fn revive<D: Daemon>(entered: &mut Entered<D>) -> Result<(), RebuildError<D>> {
    let newest = entered.newest.clone();
    let log = entered.log.clone();
    let daemon = Arc::clone(&entered.daemon);
    let source = Source {
        daemon: &daemon,
        newest: newest.as_deref(),
        log: &log,
        is_complete: entered.is_complete,
        is_running: entered.is_running,
    };
    let fresh = entered
        .lend_parked(|_| source.rebuild())
        .unwrap_or(Err(RebuildError::Stopped))?;
    entered.daemon = fresh;
    entered.is_running = false;
    entered.host.restarted();
    entered.revived();
    Ok(())
}

impl<D: Daemon> Slot<D> {
    /// Says whether somebody starts the daemon again when it is down; `false` when it is in no registry, where nobody
    /// would hear of it.
    ///
    /// While somebody does, a raise of `process` takes it down: those who call it wait, and its mail waits. Taken
    /// back while it is down, it is rebuilt on a lane as after a raise under `Restore`.
    pub fn supervise(self: &Arc<Self>, supervised: bool) -> bool {
        if self.events().is_none() {
            return false;
        }
        self.mark_supervised(supervised);
        if self.gate() == Gate::Down {
            self.rebuild_unless_supervised();
        }
        true
    }

    /// Called when it is down: nobody who waits may wait for nothing.
    pub(crate) fn rebuild_unless_supervised(self: &Arc<Self>) {
        if self.is_supervised() {
            return;
        }
        let job = Arc::new(Unattended(Arc::clone(self)));
        let submitted = self.events().is_some_and(|events| events.lanes().submit(job));
        if !submitted && let Ok(mut entered) = self.try_enter_down() {
            entered.fail("nobody is left to start it again");
        }
    }
}

/// A daemon that is down while nobody watches over it.
struct Unattended<D: Daemon>(Arc<Slot<D>>);

impl<D: Daemon> Job for Unattended<D> {
    fn run(self: Arc<Self>) {
        // Who is inside now calls for this again when leaving, if it is still needed.
        let Ok(mut entered) = self.0.try_enter_down() else {
            return;
        };
        if self.0.is_supervised() {
            return;
        }
        D::batch(|| {
            if let Err(error) = revive(&mut entered)
                && !matches!(error, RebuildError::Stopped)
            {
                entered.lose(&error.reason(), error.crash("not restored: "));
            }
            drop(entered);
        });
    }
}
