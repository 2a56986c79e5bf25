//! What becomes of a dispatch: it was carried out, is tried again, failed, or did not answer in time.

use std::sync::Arc;
use std::time::Duration;

use crate::action::{ActionKey, CauseKind, MeshOsAction};
use crate::signal::Outcome;
use crate::status::{Disposition, Lifecycle, Progress};
use crate::world::{Alarm, Why, World};

use super::queue::Ticket;
use super::{CONFIRM_TIMEOUT, Executor, progress, update};

impl Executor {
    /// The deadline of an action has come.
    pub fn alarm(&mut self, world: &mut World, key: ActionKey) {
        let Some(known) = world.view.in_flight.get(&key).cloned() else {
            return;
        };
        let Some(ticket) = self.queue.ticket(known.id) else {
            return;
        };
        match known.progress {
            Progress::Queued => {}
            Progress::Deferred { .. } => {
                progress(world, key, Progress::Queued);
                self.queue.make_ready((ticket.priority, known.id));
            }
            Progress::Running { .. } => {
                self.hung.insert(known.id);
                let reason: Arc<str> = Arc::from("no answer in time");
                self.stats.failed += 1;
                self.fail(&known, Arc::clone(&reason), None);
                self.dispose(known.id, known.action.kind(), Disposition::Failed, reason, None);
            }
            Progress::AwaitingConfirmation { .. } => {
                turn_back(world, &known.action);
                world.mark(ticket.entity, Why::of(CauseKind::Timer, "not confirmed in time"));
            }
            Progress::Cooling { .. } => world.mark(ticket.entity, Why::of(CauseKind::Timer, "tried again")),
        }
    }

    /// A dispatch ended.
    pub fn ended(&mut self, world: &mut World, id: u64, outcome: Outcome) {
        if !self.running.remove(&id) {
            return;
        }
        let hung = self.hung.remove(&id);
        let Some(ticket) = self.queue.ticket(id) else {
            return;
        };
        // What is wanted may have changed while it ran, and the world may show already what it did.
        world.mark(ticket.entity, Why::of(CauseKind::Event, "dispatched"));
        match outcome {
            // It was told as failed when its time was over.
            _ if hung => self.cool(world, &ticket, id),
            Outcome::Done => self.done(world, &ticket, id),
            Outcome::Drop { reason } => self.failed(world, &ticket, id, reason, None),
            Outcome::Raised { reason, traceback } => self.failed(world, &ticket, id, reason, traceback),
            Outcome::Retry { reason, after } => self.retry(world, &ticket, id, reason, after),
        }
    }

    fn done(&mut self, world: &mut World, ticket: &Ticket, id: u64) {
        let Some(known) = world.view.in_flight.get(&ticket.key) else {
            return;
        };
        let (kind, confirmed) = (known.action.kind(), known.action.is_confirmed_by_the_world());
        self.stats.dispatched += 1;
        self.dispose(id, kind, Disposition::Dispatched, Arc::default(), None);
        if confirmed {
            let until = world.now.plus(CONFIRM_TIMEOUT);
            progress(world, ticket.key, Progress::AwaitingConfirmation { until });
        } else {
            self.remove(world, ticket.key);
        }
    }

    fn retry(&mut self, world: &mut World, ticket: &Ticket, id: u64, reason: Arc<str>, after: Duration) {
        let Some(known) = world.view.in_flight.get(&ticket.key).cloned() else {
            return;
        };
        if known.retries >= world.config.backpressure.max_defer_count {
            let reason = format!("given up after {} retries: {reason}", known.retries);
            self.failed(world, ticket, id, Arc::from(reason), None);
            return;
        }
        self.throttles.roll_back(world, &known.action, id);
        turn_back(world, &known.action);
        self.stats.dispatch_retries += 1;
        self.dispose(id, known.action.kind(), Disposition::Failed, reason, Some(after));
        let until = world.now.plus(after);
        update(world, ticket.key, |flight| {
            flight.retries += 1;
            flight.progress = Progress::Deferred { until };
        });
        world.alarms.set(Alarm::Action(ticket.key), Some(until));
        self.queue.wait_again((ticket.priority, id));
    }

    fn failed(&mut self, world: &mut World, ticket: &Ticket, id: u64, reason: Arc<str>, traceback: Option<Arc<str>>) {
        let Some(known) = world.view.in_flight.get(&ticket.key).cloned() else {
            return;
        };
        self.stats.failed += 1;
        self.fail(&known, Arc::clone(&reason), traceback);
        self.dispose(id, known.action.kind(), Disposition::Failed, reason, None);
        self.cool(world, ticket, id);
    }

    /// Lets an action that was not carried out wait before it is tried again.
    fn cool(&mut self, world: &mut World, ticket: &Ticket, id: u64) {
        let Some(known) = world.view.in_flight.get(&ticket.key).cloned() else {
            return;
        };
        self.throttles.roll_back(world, &known.action, id);
        turn_back(world, &known.action);
        if !known.action.is_confirmed_by_the_world() {
            self.remove(world, ticket.key);
            return;
        }
        let failures = known.failures + 1;
        let until = world.now.plus(cool_down(world, failures));
        update(world, ticket.key, |flight| {
            flight.failures = failures;
            flight.progress = Progress::Cooling { until };
        });
        world.alarms.set(Alarm::Action(ticket.key), Some(until));
    }
}

fn cool_down(world: &World, failures: u32) -> Duration {
    let config = &world.config.backoff;
    let factor = config
        .factor
        .get()
        .powi(i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX));
    let wait = config.initial.as_secs_f64() * factor;
    Duration::try_from_secs_f64(wait).map_or(config.maximum, |wait| wait.min(config.maximum))
}

/// A start or stop did not happen: the daemon is where it was before.
fn turn_back(world: &mut World, action: &MeshOsAction) {
    let (daemon, from, to) = match action {
        MeshOsAction::StartDaemon { daemon } => (daemon, Lifecycle::Starting, Lifecycle::Stopped),
        MeshOsAction::StopDaemon { daemon, .. } => (daemon, Lifecycle::Stopping, Lifecycle::Running),
        _ => return,
    };
    if world.view.daemons.contains_key(&daemon.id) {
        let why = Why::of(CauseKind::Event, "dispatch failed");
        world.daemon(daemon, why, |daemon| {
            let turns = daemon.lifecycle == from;
            if turns {
                daemon.lifecycle = to;
            }
            turns
        });
    }
}
