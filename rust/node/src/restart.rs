//! Starting and stopping a daemon that somebody watches over, so that a stop loses nothing that a start needs.
//!
//! Invariants
//! * Both may be asked for twice, and twice is as once.
//! * A start continues the same chain in the same epoch, at the position that is remembered, or is refused.
//! * A stop ends at its deadline, whatever user code does. What that code does afterwards has no effect.

use std::sync::Arc;
use std::time::Duration;

use crate::sync::{Condvar, Mutex};
use meshos_core::control::{DaemonControl, grace_ms};
use meshos_core::event::DaemonLifecycleSignal;
use meshos_core::host::Host;
use meshos_core::id::Origin;
use meshos_core::identity::IdentityError;
use meshos_core::lifecycle::{Call, LifecycleError};
use meshos_core::time::UnixMs;

use crate::clock::{self, Deadline};
use crate::controls;
use crate::daemon::{Daemon, DeliverError};
use crate::deliver;
use crate::dormant::Rest;
use crate::enter::EnterError;
use crate::inside::Inside;
use crate::lane::Job;
use crate::leave::Entered;
use crate::revive::{self, RebuildError, Source};
use crate::runtime::{Runtime, SpawnError};
use crate::slot::Slot;

/// How long a start waits for whoever looks at the daemon or starts it too.
const START_WAIT: Duration = Duration::from_secs(1);
/// How long a stop waits for a lane before it calls user code on its own thread.
const LANE_WAIT: Duration = Duration::from_millis(250);

/// What a start came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It ran already.
    AlreadyRunning,
    /// It was down, and runs again.
    Revived,
    /// It was stopped, and was spawned again.
    Spawned,
}

/// Why a daemon was not started again. Nothing changed.
#[derive(Debug)]
pub enum StartError<D: Daemon> {
    /// The runtime is not Ready.
    Lifecycle(LifecycleError),
    /// This node knows nothing of it.
    NotFound(Origin),
    /// It was here, and what would start it again is not kept: a user stopped it, or many were stopped since.
    Forgotten(Origin),
    /// Somebody else starts it, or is still inside: later.
    Busy(Origin),
    /// No snapshot leads to where it was, in one line.
    Lost(&'static str),
    /// Its key cannot sign what lets this node speak for it.
    Key(IdentityError),
    /// User code raised.
    Raised(D::Error),
}

/// What a stop came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It was not here.
    NotThere,
    /// It was told, and nobody is inside any more.
    InTime,
    /// The deadline passed while user code ran. A start goes on from the newest snapshot and the inputs since.
    ByForce,
}

/// Why a daemon was not stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopError {
    /// The runtime was not started.
    Lifecycle(LifecycleError),
    /// The caller was interrupted.
    Interrupted,
    /// It stood still at the deadline, since it is being moved.
    Moving,
}

impl<D: Daemon> Runtime<D> {
    /// Starts a daemon that is down, that failed, or that was stopped by [`Runtime::stop_daemon`]. User code runs on
    /// this thread.
    ///
    /// # Errors
    /// [`StartError`]: it is as it was, and nothing was told.
    pub fn start_daemon(&self, origin: Origin) -> Result<Started, StartError<D>> {
        self.allow(Call::Work).map_err(StartError::Lifecycle)?;
        match self.registry().get(origin) {
            Some(slot) => run_again(&slot),
            // All of it, so that the objects of the user end where its code may run.
            None => D::batch(|| self.wake(origin)),
        }
    }

    /// Spawns a stopped daemon again.
    fn wake(&self, origin: Origin) -> Result<Started, StartError<D>> {
        let rest = self.rest(origin)?;
        let _starting = match self.admit(&rest.key) {
            Ok(starting) => starting,
            Err(SpawnError::Occupied(_)) if self.registry().get(origin).is_some() => {
                return Ok(Started::AlreadyRunning);
            }
            Err(error) => return Err(refused(error, origin)),
        };
        // Another start may have come and gone before this one had the identity for itself.
        if !Arc::ptr_eq(&rest, &self.rest(origin)?) {
            return Err(StartError::Busy(origin));
        }
        let source = Source {
            daemon: &rest.daemon,
            newest: rest.newest.as_deref(),
            log: &rest.log,
            is_complete: rest.is_complete,
            is_running: rest.is_running,
        };
        let daemon = source.rebuild().map_err(|error| not_rebuilt(error, origin))?;
        let mut inside = self.continued(&rest, daemon)?;
        if let Err(error) = self.check_key(&rest.key, &inside.host) {
            self.remember(&mut inside);
            return Err(refused(error, origin));
        }
        let claimed = match self.claim(&rest.key, &mut inside.host, None) {
            Ok(claimed) => claimed,
            Err(error) => {
                self.remember(&mut inside);
                return Err(refused(error, origin));
            }
        };
        if claimed.is_some()
            && let Err(error) = self.claimed(claimed.as_ref(), &mut inside)
        {
            self.remember(&mut inside);
            return Err(refused(error, origin));
        }
        inside.host.restarted();
        self.spawned(&rest.key, inside, claimed)
            .map_err(|error| refused(error, origin))?;
        Ok(Started::Spawned)
    }

    fn rest(&self, origin: Origin) -> Result<Arc<Rest<D>>, StartError<D>> {
        let archive = self.archive.lock();
        archive.dormant.get(origin).ok_or_else(|| {
            if archive.awaits(origin) {
                // What starts it again comes when they leave.
                StartError::Busy(origin)
            } else if archive.knows(origin) {
                StartError::Forgotten(origin)
            } else {
                StartError::NotFound(origin)
            }
        })
    }

    /// What goes into the slot of a daemon that is started again.
    fn continued(&self, rest: &Rest<D>, daemon: Arc<D>) -> Result<Inside<D>, StartError<D>> {
        let entity = rest.key.lock().entity_id();
        let remains = self.archive.lock().take(&entity);
        let mut inside = match remains {
            None => Inside::new(Host::new(entity, rest.config), daemon, None),
            Some(remains) => Self::revived(remains, rest.config, daemon),
        };
        if inside.host.position() != rest.position {
            // It ran here since, behind the runtime's back.
            self.remember(&mut inside);
            return Err(StartError::Forgotten(rest.origin));
        }
        inside.newest = rest.newest.clone();
        inside.log = rest.log.clone();
        inside.letters = rest.letters.clone();
        inside.is_complete = rest.is_complete;
        Ok(inside)
    }

    /// Shows each daemon that is kept to be started again to `look`, unless a lock is held.
    ///
    /// # Errors
    /// The first error of `look`.
    pub fn peek_dormant<E>(&self, mut look: impl FnMut(&D) -> Result<(), E>) -> Result<(), E> {
        match self.archive.try_lock() {
            Some(archive) => archive.dormant.iter().try_for_each(|rest| look(&rest.daemon)),
            None => Ok(()),
        }
    }

    /// Stops a daemon so that [`Runtime::start_daemon`] can start it again: tells it between two events, takes a last
    /// snapshot, and signs a checkpoint. After the deadline it is stopped without all that, whatever its code does.
    ///
    /// User code runs on a lane. Only where none is free for a while it runs on this thread, and is waited for.
    ///
    /// # Errors
    /// [`StopError`]: it may have been told, and runs on.
    pub fn stop_daemon(
        &self,
        origin: Origin,
        deadline: UnixMs,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Stopped, StopError> {
        self.allow(Call::Stop).map_err(StopError::Lifecycle)?;
        let Some(slot) = self.registry().get(origin) else {
            return Ok(Stopped::NotThere);
        };
        let until = Deadline::after(Duration::from_millis(grace_ms(deadline, clock::unix_ms())));
        let mut entered = match slot.inspect_later(until, interrupted) {
            Ok(entered) => entered,
            Err(EnterError::Interrupted) => return Err(StopError::Interrupted),
            Err(EnterError::Stale) => return Ok(Stopped::NotThere),
            Err(_) if slot.is_frozen() => return Err(StopError::Moving),
            Err(_) => return Ok(D::batch(|| self.stop_now(&slot))),
        };
        self.seal(&slot, &mut entered);
        if !entered.is_open() || !(slot.takes_control() || slot.is_stateful()) {
            return Ok(D::batch(|| self.retire(entered, Stopped::InTime)));
        }
        let farewell = Arc::new(Farewell {
            deadline,
            stage: Mutex::new(Stage::Waiting(entered)),
            bell: Condvar::new(),
        });
        let waits = self.lanes().submit(Arc::clone(&farewell) as Arc<dyn Job>);
        let finished = farewell.finish(until, waits, interrupted);
        D::batch(|| match finished {
            Finished::Said(entered) => Ok(self.retire(entered, Stopped::InTime)),
            Finished::Late(entered) => Ok(self.retire(entered, Stopped::ByForce)),
            Finished::Gone => Ok(Stopped::NotThere),
            Finished::Stuck => Ok(self.stop_now(&slot)),
            Finished::Interrupted => {
                // Unless user code runs, nothing was said yet.
                drop(farewell.take());
                Err(StopError::Interrupted)
            }
        })
    }

    /// Closes a daemon that was entered, and keeps what starts it again.
    fn retire(&self, entered: Entered<D>, stopped: Stopped) -> Stopped {
        let slot = Arc::clone(entered.slot());
        let found = self.registry().remove_exactly(&slot);
        if found {
            slot.mark_kept();
        }
        slot.stop();
        drop(entered);
        if found { stopped } else { Stopped::NotThere }
    }

    /// Closes a daemon while user code runs in it.
    fn stop_now(&self, slot: &Arc<Slot<D>>) -> Stopped {
        if !self.registry().remove_exactly(slot) {
            return Stopped::NotThere;
        }
        slot.mark_kept();
        if let Some(mut inside) = slot.stop_by_force() {
            inside.is_running = true;
            self.seal(slot, &mut inside);
            slot.leave_behind(Some(inside));
        }
        // The lane that worked on them may never come back.
        slot.refuse_all(|| DeliverError::Stale);
        Stopped::ByForce
    }
}

/// Starts a daemon again that is in the registry.
fn run_again<D: Daemon>(slot: &Arc<Slot<D>>) -> Result<Started, StartError<D>> {
    if !slot.is_down() {
        return Ok(Started::AlreadyRunning);
    }
    let mut entered = match slot.enter_down(Deadline::after(START_WAIT)) {
        Ok(entered) => entered,
        Err(EnterError::NotDown) => return Ok(Started::AlreadyRunning),
        Err(_) => return Err(StartError::Busy(slot.origin())),
    };
    D::batch(|| {
        let revived = revive::revive(&mut entered);
        drop(entered);
        revived.map_err(|error| not_rebuilt(error, slot.origin()))
    })?;
    Ok(Started::Revived)
}

fn not_rebuilt<D: Daemon>(error: RebuildError<D>, origin: Origin) -> StartError<D> {
    match error {
        RebuildError::Raised(error) => StartError::Raised(error),
        RebuildError::Lost(reason) => StartError::Lost(reason),
        RebuildError::Stopped => StartError::Busy(origin),
    }
}

fn refused<D: Daemon>(error: SpawnError<D>, origin: Origin) -> StartError<D> {
    match error {
        SpawnError::Lifecycle(error) => StartError::Lifecycle(error),
        SpawnError::Key(error) => StartError::Key(error),
        SpawnError::RestoreFailed(error) | SpawnError::SnapshotFailed(error) => StartError::Raised(error),
        // A start spawns from what this process has of it: the store is not asked.
        SpawnError::Occupied(_)
        | SpawnError::Known(_)
        | SpawnError::Stored(_)
        | SpawnError::NotStored(_)
        | SpawnError::BadRecord(_)
        | SpawnError::NotOwner { .. }
        | SpawnError::Unavailable { .. }
        | SpawnError::Interrupted(_)
        | SpawnError::NotKept(_)
        | SpawnError::NotResumed(_)
        | SpawnError::Resume(_)
        | SpawnError::WrongKind { .. }
        | SpawnError::Stateless { .. } => StartError::Busy(origin),
    }
}

/// The last calls of user code before a stop, on a lane.
struct Farewell<D: Daemon> {
    deadline: UnixMs,
    stage: Mutex<Stage<D>>,
    bell: Condvar,
}

enum Stage<D: Daemon> {
    /// No lane has it.
    Waiting(Entered<D>),
    /// User code runs, or the stop waits no more.
    Taken,
    /// Everything was said.
    Said(Entered<D>),
    /// The daemon was stopped meanwhile.
    Gone,
}

enum Finished<D: Daemon> {
    Said(Entered<D>),
    Late(Entered<D>),
    Gone,
    Stuck,
    Interrupted,
}

impl<D: Daemon> Farewell<D> {
    fn take(&self) -> Stage<D> {
        std::mem::replace(&mut *self.stage.lock(), Stage::Taken)
    }

    /// Waits until everything was said, calling user code here if no lane comes.
    fn finish(&self, until: Deadline, waits: bool, interrupted: &mut dyn FnMut() -> bool) -> Finished<D> {
        let here = if waits {
            Deadline::after(LANE_WAIT)
        } else {
            Deadline::now()
        };
        let mut stage = self.stage.lock();
        loop {
            match std::mem::replace(&mut *stage, Stage::Taken) {
                Stage::Said(entered) => return Finished::Said(entered),
                Stage::Gone => return Finished::Gone,
                Stage::Waiting(entered) if until.passed() => return Finished::Late(entered),
                Stage::Waiting(entered) if here.passed() => {
                    drop(stage);
                    self.say(entered);
                    stage = self.stage.lock();
                    continue;
                }
                Stage::Taken if until.passed() => return Finished::Stuck,
                other @ (Stage::Waiting(_) | Stage::Taken) => *stage = other,
            }
            stage = self.bell.wait_until(stage, until.slice().min(here.slice()));
            drop(stage);
            if interrupted() {
                return Finished::Interrupted;
            }
            stage = self.stage.lock();
        }
    }

    /// Tells the daemon to shut down and takes its last snapshot.
    fn say(&self, mut entered: Entered<D>) {
        let said = D::batch(|| said(&mut entered, self.deadline));
        let stage = if said.is_some() {
            Stage::Said(entered)
        } else {
            Stage::Gone
        };
        *self.stage.lock() = stage;
        self.bell.notify_all();
    }
}

/// `None`: it was stopped meanwhile, and there is nothing inside any more.
fn said<D: Daemon>(entered: &mut Entered<D>, deadline: UnixMs) -> Option<()> {
    if entered.slot().takes_control() {
        let slot = Arc::clone(entered.slot());
        // What it was told before, it hears before.
        let waiting = std::iter::from_fn(|| slot.next_control());
        let waiting = waiting.filter(|control| !matches!(control, DaemonControl::Shutdown { .. }));
        for control in waiting.chain([DaemonControl::Shutdown { deadline }]) {
            let told = entered.lend_parked(|daemon| daemon.control(control))?;
            if let Err(error) = told {
                controls::complain(entered, &error);
            }
        }
    }
    if entered.slot().is_stateful() {
        let state = entered.lend_parked(D::snapshot)?;
        if let Err(error) = deliver::take_over(entered, state) {
            // The newest snapshot and the inputs since lead there too, where they were kept.
            entered.slot().emit(DaemonLifecycleSignal::Crashed {
                crash: deliver::crash::<D>("last snapshot: ", &error, None),
                down: false,
            });
        }
    }
    Some(())
}

impl<D: Daemon> Job for Farewell<D> {
    fn run(self: Arc<Self>) {
        match self.take() {
            Stage::Waiting(entered) => self.say(entered),
            other @ (Stage::Taken | Stage::Said(_) | Stage::Gone) => *self.stage.lock() = other,
        }
    }
}
