//! Decision: which actions are carried out now, which wait, and what becomes of them.
//!
//! Invariants
//! * One action of a key is under way at a time. What is emitted again changes nothing; what contradicts a waiting one
//!   replaces it; a running one is waited for.
//! * What waits is bounded; when there is no space, the least urgent goes, is counted, and is emitted again later.
//! * A throttle is a queue: who waits in it waits once, in order, and waiting is no failure.
//! * What is dispatched is checked once more against what is wanted at that moment, and has its details of then.
//! * A failed dispatch gives back exactly what its admission took.
//! * A dispatch that does not answer in time has failed, but may still take effect: until it ends it keeps its place and
//!   its key. What it answers then is ignored.

mod outcome;
mod pressure;
mod queue;
mod throttle;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::action::{ActionKey, Cause, CauseKind, MeshOsAction, Priority};
use crate::command::ChainId;
use crate::finite::Share;
use crate::status::{
    Disposed, Disposition, Emission, ExecutorStats, Failure, FailureSource, InFlight, Lifecycle, Part, Progress,
};
use crate::time::UnixMs;
use crate::world::{Alarm, Key, Why, World};

use queue::{Place, Queue, Ticket};
use throttle::Throttles;

/// Dispatches under way at once.
pub const RUNNING_MAX: usize = 16;
/// A dispatch without an answer for so long has failed; a stop has its own deadline besides.
pub const DISPATCH_TIMEOUT: Duration = Duration::from_secs(60);
/// What was carried out and does not show after so long is emitted again.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// Refused entities that are looked at again in one step.
const REVIVED_MAX: usize = 256;

/// An action to be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dispatch {
    /// Its number.
    pub id: u64,
    /// What it is.
    pub action: MeshOsAction,
    /// What led to it.
    pub cause: Cause,
}

/// What a last look before the dispatch finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// It is still wanted, in this form.
    Yes(MeshOsAction),
    /// Nobody wants it any more.
    No,
    /// It is wanted, and may not happen yet.
    Gated {
        /// Why, for people.
        reason: &'static str,
        /// Until when.
        until: UnixMs,
    },
}

/// Actions under way, besides what is shown of them.
#[derive(Debug, Clone, Default, Hash)]
pub struct Executor {
    queue: Queue,
    throttles: Throttles,
    running: BTreeSet<u64>,
    /// Those of the running that did not answer in time.
    hung: BTreeSet<u64>,
    refused: BTreeSet<Key>,
    ids: u64,
    asserted: Option<Share>,
    /// Counters.
    pub stats: ExecutorStats,
    /// What became of actions since the last step.
    pub disposed: Vec<Disposed>,
    /// What failed since the last step.
    pub failures: Vec<Failure>,
    /// Kind of the first action that was refused since the last step.
    pub first_refused: Option<&'static str>,
}

impl Executor {
    /// Actions that wait.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.queue.waiting()
    }

    /// Dispatches that have not ended.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Actions that wait and those that run, by kind: what a shutdown leaves undone.
    #[must_use]
    pub fn undone(&self, world: &World) -> BTreeMap<&'static str, u64> {
        let mut kinds = BTreeMap::new();
        for known in world.view.in_flight.values() {
            if matches!(
                known.progress,
                Progress::Queued | Progress::Deferred { .. } | Progress::Running { .. }
            ) {
                *kinds.entry(known.action.kind()).or_insert(0) += 1;
            }
        }
        kinds
    }

    /// Takes an action in, unless it is under way; whether it is under way now.
    pub fn emit(
        &mut self,
        world: &mut World,
        action: MeshOsAction,
        why: &Why,
        priority: Priority,
        entity: Key,
    ) -> bool {
        let key = action.key();
        let mut history = (0, 0);
        if let Some(known) = world.view.in_flight.get(&key) {
            let same = known.action.is_same_work(&action);
            // What an operator forces is another: it goes first, and says who ordered it.
            let as_urgent = || {
                self.queue
                    .ticket(known.id)
                    .is_none_or(|ticket| ticket.priority <= priority)
            };
            match known.progress {
                // What only tells something must not be taken for told: it is emitted again when this one has ended.
                Progress::Running { .. } => return known.action == action || action.is_confirmed_by_the_world(),
                Progress::Queued | Progress::Deferred { .. } if same && as_urgent() => {
                    if known.action != action && !matches!(action, MeshOsAction::CommitMaintenanceTransition { .. }) {
                        update(world, key, |known| known.action = action);
                    }
                    return true;
                }
                Progress::Queued | Progress::Deferred { .. } => self.withdraw(world, key, "another was wanted"),
                Progress::AwaitingConfirmation { until } | Progress::Cooling { until } if same => {
                    if world.now < until {
                        return true;
                    }
                    history = (known.attempts, known.failures);
                    if matches!(known.progress, Progress::AwaitingConfirmation { .. }) {
                        history.1 += 1;
                    }
                    self.remove(world, key);
                }
                Progress::AwaitingConfirmation { .. } | Progress::Cooling { .. } => {
                    self.remove(world, key);
                }
            }
        }
        let capacity = world.config.action_queue_capacity as usize;
        if self.depth() >= capacity && !self.make_room(world, priority) {
            self.refuse(action.kind(), entity);
            return false;
        }
        self.ids += 1;
        let flight = InFlight {
            id: self.ids,
            action,
            cause: why.cause(),
            emitted_at: world.now,
            progress: Progress::Queued,
            attempts: history.0,
            retries: 0,
            failures: history.1,
        };
        show_emission(world, &flight, capacity);
        let place = (priority, flight.id);
        world.view.in_flight.insert(key, Arc::new(flight));
        world.changed();
        self.queue.enter(place, Ticket { key, priority, entity });
        true
    }

    fn refuse(&mut self, kind: &'static str, entity: Key) {
        self.stats.dropped += 1;
        self.first_refused.get_or_insert(kind);
        self.refused.insert(entity);
    }

    /// Drops the least urgent that waits, if it is less urgent than `priority`.
    fn make_room(&mut self, world: &mut World, priority: Priority) -> bool {
        let Some((lowest, ticket)) = self.queue.least_urgent() else {
            return false;
        };
        if lowest <= priority {
            return false;
        }
        if let Some(known) = self.remove(world, ticket.key) {
            self.refuse(known.action.kind(), ticket.entity);
        }
        true
    }

    /// Takes back a waiting action that nobody wants any more.
    fn withdraw(&mut self, world: &mut World, key: ActionKey, reason: &'static str) {
        let Some(known) = self.remove(world, key) else { return };
        self.stats.superseded += 1;
        let disposition = Disposition::Superseded;
        self.dispose(known.id, known.action.kind(), disposition, Arc::from(reason), None);
    }

    fn remove(&mut self, world: &mut World, key: ActionKey) -> Option<Arc<InFlight>> {
        let known = world.view.in_flight.remove(&key)?;
        world.changed();
        world.alarms.set(Alarm::Action(key), None);
        if let Some(place) = self.queue.leave(known.id) {
            self.throttles.leave(place);
        }
        Some(known)
    }

    fn dispose(
        &mut self,
        action_id: u64,
        kind: &'static str,
        disposition: Disposition,
        reason: Arc<str>,
        retry_after: Option<Duration>,
    ) {
        self.disposed.push(Disposed {
            action_id,
            kind,
            disposition,
            reason,
            retry_after,
        });
    }

    fn fail(&mut self, known: &InFlight, reason: Arc<str>, traceback: Option<Arc<str>>) {
        self.failures.push(Failure {
            source: FailureSource {
                part: Part::Action,
                name: Arc::from(known.action.kind()),
                target: Some(known.action.target()),
                action_id: Some(known.id),
                envelope_id: known.cause.envelope_id,
            },
            reason,
            traceback,
        });
    }

    /// What an operator forced on a chain could not be carried out in time.
    pub fn given_up(&mut self, chain: ChainId, kind: &'static str, why: &Why) {
        self.failures.push(Failure {
            source: FailureSource {
                part: Part::Action,
                name: Arc::from(kind),
                target: Some(chain.get()),
                action_id: None,
                envelope_id: why.envelope_id,
            },
            reason: Arc::from("an operator forced it, and it could not be carried out in time"),
            traceback: None,
        });
    }

    /// Nobody wants the work of a key any more: what waits is taken back, what awaits confirmation is confirmed. Whether
    /// something was under way and is not any more.
    pub fn settle(&mut self, world: &mut World, key: ActionKey) -> bool {
        let Some(known) = world.view.in_flight.get(&key) else {
            return false;
        };
        match known.progress {
            // What only tells something is told once, and not taken back.
            _ if !known.action.is_confirmed_by_the_world() => return false,
            Progress::Running { .. } => return false,
            Progress::Queued | Progress::Deferred { .. } => self.withdraw(world, key, "no longer wanted"),
            Progress::AwaitingConfirmation { .. } | Progress::Cooling { .. } => {
                self.remove(world, key);
            }
        }
        true
    }

    /// Whether emitting `action` would change nothing: what the sweep asks.
    #[must_use]
    pub fn is_under_way(world: &World, action: &MeshOsAction) -> bool {
        world.view.in_flight.get(&action.key()).is_some_and(|known| {
            let same = known.action.is_same_work(action);
            match known.progress {
                // When it ends, its entity is looked at again.
                Progress::Running { .. } => true,
                Progress::Queued | Progress::Deferred { .. } => same,
                Progress::AwaitingConfirmation { until } | Progress::Cooling { until } => same && world.now < until,
            }
        })
    }

    /// Whether an entity is left alone because the queue was full.
    #[must_use]
    pub fn is_refused(&self, entity: Key) -> bool {
        self.refused.contains(&entity)
    }

    /// Dispatches what may be dispatched now. `wanted` looks at an action once more.
    pub fn run(&mut self, world: &mut World, wanted: impl Fn(&World, Key, &MeshOsAction) -> Wanted) -> Vec<Dispatch> {
        let mut dispatches = Vec::new();
        while self.running() < RUNNING_MAX {
            self.throttles.open(world, &mut self.queue);
            let Some((place, ticket)) = self.queue.next() else {
                break;
            };
            let Some(known) = world.view.in_flight.get(&ticket.key) else {
                continue;
            };
            match wanted(world, ticket.entity, &known.action) {
                Wanted::Yes(action) => {
                    let cause = known.cause.clone();
                    dispatches.extend(self.admit(world, place, &ticket, action, cause));
                }
                Wanted::No => self.withdraw(world, ticket.key, "no longer wanted"),
                Wanted::Gated { reason, until } => self.gate(world, &ticket, reason, until),
            }
        }
        self.throttles.set_alarm(world);
        self.revive(world);
        dispatches
    }

    /// Starts an action, or has it wait for a throttle.
    fn admit(
        &mut self,
        world: &mut World,
        place: Place,
        ticket: &Ticket,
        action: MeshOsAction,
        cause: Cause,
    ) -> Option<Dispatch> {
        if let Some(until) = self.throttles.admit(world, &action, place) {
            self.stats.deferred += 1;
            progress(world, ticket.key, Progress::Deferred { until });
            // Who waits in a throttle has no alarm of its own: the throttle opens for one at a time.
            if self.throttles.has(place) {
                world.alarms.set(Alarm::Action(ticket.key), None);
            }
            return None;
        }
        let id = place.1;
        let until = set_out(world, &action, ticket.entity);
        self.queue.start(place);
        self.running.insert(id);
        update(world, ticket.key, |flight| {
            flight.attempts += 1;
            flight.progress = Progress::Running { until };
            if flight.action != action {
                flight.action = action.clone();
            }
        });
        world.alarms.set(Alarm::Action(ticket.key), Some(until));
        Some(Dispatch { id, action, cause })
    }

    fn gate(&mut self, world: &mut World, ticket: &Ticket, reason: &'static str, until: UnixMs) {
        let Some(known) = self.remove(world, ticket.key) else {
            return;
        };
        self.stats.gated += 1;
        let wait = until.since(world.now);
        let told = format!("{reason}: not before {} ms", wait.as_millis());
        self.fail(&known, Arc::from(told), None);
        let disposition = Disposition::Gated;
        self.dispose(
            known.id,
            known.action.kind(),
            disposition,
            Arc::from(reason),
            Some(wait),
        );
        world.mark(ticket.entity, Why::of(CauseKind::Timer, reason));
    }

    /// Looks again at what the full queue refused, when there is space.
    fn revive(&mut self, world: &mut World) {
        let space = (world.config.action_queue_capacity as usize).saturating_sub(self.depth());
        for _ in 0..space.min(REVIVED_MAX) {
            let Some(entity) = self.refused.pop_first() else { break };
            world.mark(entity, Why::of(CauseKind::Timer, "the queue has space"));
        }
    }
}

fn show_emission(world: &mut World, flight: &InFlight, kept: usize) {
    let emission = Emission {
        id: flight.id,
        kind: flight.action.kind(),
        target: flight.action.target(),
        emitted_at: flight.emitted_at,
    };
    world.view.emissions.push_back(emission);
    while world.view.emissions.len() > kept {
        world.view.emissions.pop_front();
    }
}

fn update(world: &mut World, key: ActionKey, change: impl FnOnce(&mut InFlight)) {
    if let Some(known) = world.view.in_flight.get_mut(&key) {
        change(Arc::make_mut(known));
        world.changed();
    }
}

fn progress(world: &mut World, key: ActionKey, progress: Progress) {
    let until = match progress {
        Progress::Queued => None,
        Progress::Deferred { until }
        | Progress::Running { until }
        | Progress::AwaitingConfirmation { until }
        | Progress::Cooling { until } => Some(until),
    };
    update(world, key, |known| known.progress = progress);
    world.alarms.set(Alarm::Action(key), until);
}

/// Shows that an action is being carried out; when it is given up.
fn set_out(world: &mut World, action: &MeshOsAction, entity: Key) -> UnixMs {
    let until = world.now.plus(DISPATCH_TIMEOUT);
    match action {
        MeshOsAction::StartDaemon { daemon } => {
            let why = Why::of(CauseKind::Event, "start dispatched");
            world.daemon(daemon, why, |daemon| {
                let turns = daemon.lifecycle == Lifecycle::Stopped;
                if turns {
                    daemon.lifecycle = Lifecycle::Starting;
                }
                turns
            });
            until
        }
        MeshOsAction::StopDaemon { daemon, deadline, .. } => {
            let why = Why::of(CauseKind::Event, "stop dispatched");
            world.daemon(daemon, why, |daemon| {
                let turns = matches!(daemon.lifecycle, Lifecycle::Running | Lifecycle::Starting);
                if turns {
                    daemon.lifecycle = Lifecycle::Stopping;
                }
                turns
            });
            until.max(deadline.plus(DISPATCH_TIMEOUT))
        }
        // From now on the copy does not count as lasting.
        MeshOsAction::RequestEviction { .. } => {
            world.mark(entity, Why::of(CauseKind::Event, "eviction dispatched"));
            until
        }
        _ => until,
    }
}
