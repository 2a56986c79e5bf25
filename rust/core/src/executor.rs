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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::action::{ActionKey, Cause, CauseKind, MeshOsAction, Priority};
use crate::finite::Share;
use crate::signal::Outcome;
use crate::status::{
    Disposed, Disposition, Emission, ExecutorStats, Failure, FailureSource, InFlight, Lifecycle, Part, Progress,
};
use crate::time::UnixMs;
use crate::world::{Alarm, Key, Why, World};

/// Dispatches under way at once.
pub const RUNNING_MAX: usize = 16;
/// A dispatch without an answer for so long has failed; a stop has its own deadline besides.
pub const DISPATCH_TIMEOUT: Duration = Duration::from_secs(60);
/// What was carried out and does not show after so long is emitted again.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// Span over which evictions are counted.
const EVICTION_WINDOW: Duration = Duration::from_secs(1);
/// A change of level below this is no news.
const LEVEL_STEP: f64 = 0.1;
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Ticket {
    key: ActionKey,
    priority: Priority,
    entity: Key,
}

type Line = BTreeSet<(Priority, u64)>;

/// Actions under way, besides what is shown of them.
#[derive(Debug, Clone, Default, Hash)]
pub struct Executor {
    tickets: BTreeMap<u64, Ticket>,
    ready: Line,
    pulls: Line,
    pull_after: UnixMs,
    pull_by: Option<(u64, UnixMs)>,
    evictions: Line,
    evicted: VecDeque<(UnixMs, u64)>,
    running: BTreeSet<u64>,
    /// Those of the running that did not answer in time.
    hung: BTreeSet<u64>,
    /// Everything that waits, be it in a line, for a time, or to be dispatched.
    waiting: Line,
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
        self.waiting.len()
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
            match known.progress {
                // What only tells something must not be taken for told: it is emitted again when this one has ended.
                Progress::Running { .. } => return known.action == action || action.is_confirmed_by_the_world(),
                Progress::Queued | Progress::Deferred { .. } if same => {
                    if known.action != action && !matches!(action, MeshOsAction::CommitMaintenanceTransition { .. }) {
                        self.amend(world, key, action);
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
        if self.waiting.len() >= world.config.action_queue_capacity as usize && !self.make_room(world, priority) {
            self.refuse(action.kind(), entity);
            return false;
        }
        self.ids += 1;
        let id = self.ids;
        let emission = Emission {
            id,
            kind: action.kind(),
            target: action.target(),
            emitted_at: world.now,
        };
        world.view.emissions.push_back(emission);
        while world.view.emissions.len() > world.config.action_queue_capacity as usize {
            world.view.emissions.pop_front();
        }
        let flight = InFlight {
            id,
            action,
            cause: why.cause(),
            emitted_at: world.now,
            progress: Progress::Queued,
            attempts: history.0,
            retries: 0,
            failures: history.1,
        };
        world.view.in_flight.insert(key, Arc::new(flight));
        world.changed();
        self.tickets.insert(id, Ticket { key, priority, entity });
        self.ready.insert((priority, id));
        self.waiting.insert((priority, id));
        true
    }

    fn refuse(&mut self, kind: &'static str, entity: Key) {
        self.stats.dropped += 1;
        self.first_refused.get_or_insert(kind);
        self.refused.insert(entity);
    }

    /// Drops the least urgent that waits, if it is less urgent than `priority`.
    fn make_room(&mut self, world: &mut World, priority: Priority) -> bool {
        let Some((lowest, id)) = self.waiting.last().copied() else {
            return false;
        };
        if lowest <= priority {
            return false;
        }
        let ticket = self.tickets[&id];
        let kind = world
            .view
            .in_flight
            .get(&ticket.key)
            .map_or("", |known| known.action.kind());
        self.remove(world, ticket.key);
        self.refuse(kind, ticket.entity);
        true
    }

    fn amend(&mut self, world: &mut World, key: ActionKey, action: MeshOsAction) {
        if let Some(known) = world.view.in_flight.get_mut(&key) {
            Arc::make_mut(known).action = action;
            world.changed();
        }
    }

    /// Takes back a waiting action that nobody wants any more.
    fn withdraw(&mut self, world: &mut World, key: ActionKey, reason: &'static str) {
        let Some(known) = self.remove(world, key) else { return };
        self.stats.superseded += 1;
        self.dispose(&known, Disposition::Superseded, Arc::from(reason), None);
    }

    fn remove(&mut self, world: &mut World, key: ActionKey) -> Option<Arc<InFlight>> {
        let known = world.view.in_flight.remove(&key)?;
        world.changed();
        world.alarms.set(Alarm::Action(key), None);
        if let Some(ticket) = self.tickets.remove(&known.id) {
            let place = (ticket.priority, known.id);
            if self.waiting.remove(&place) {
                for line in [&mut self.ready, &mut self.pulls, &mut self.evictions] {
                    line.remove(&place);
                }
            }
        }
        Some(known)
    }

    fn dispose(&mut self, known: &InFlight, disposition: Disposition, reason: Arc<str>, retry_after: Option<Duration>) {
        self.disposed.push(Disposed {
            action_id: known.id,
            kind: known.action.kind(),
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
    pub fn given_up(&mut self, chain: crate::command::ChainId, kind: &'static str, why: &Why) {
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

    /// Nobody wants the work of a key any more: what waits is taken back, what awaits confirmation is confirmed.
    pub fn settle(&mut self, world: &mut World, key: ActionKey) {
        let Some(known) = world.view.in_flight.get(&key) else {
            return;
        };
        match known.progress {
            // What only tells something is told once, and not taken back.
            _ if !known.action.is_confirmed_by_the_world() => {}
            Progress::Queued | Progress::Deferred { .. } => self.withdraw(world, key, "no longer wanted"),
            Progress::AwaitingConfirmation { .. } | Progress::Cooling { .. } => {
                self.remove(world, key);
            }
            Progress::Running { .. } => {}
        }
    }

    /// Whether emitting `action` would change anything: what the sweep asks.
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

    fn progress(&mut self, world: &mut World, key: ActionKey, progress: Progress) {
        let until = match progress {
            Progress::Queued => None,
            Progress::Deferred { until }
            | Progress::Running { until }
            | Progress::AwaitingConfirmation { until }
            | Progress::Cooling { until } => Some(until),
        };
        if let Some(known) = world.view.in_flight.get_mut(&key) {
            Arc::make_mut(known).progress = progress;
            world.changed();
        }
        world.alarms.set(Alarm::Action(key), until);
    }

    /// The deadline of an action has come.
    pub fn alarm(&mut self, world: &mut World, key: ActionKey) {
        let Some(known) = world.view.in_flight.get(&key).cloned() else {
            return;
        };
        let Some(ticket) = self.tickets.get(&known.id).copied() else {
            return;
        };
        match known.progress {
            Progress::Queued => {}
            Progress::Deferred { .. } => {
                self.progress(world, key, Progress::Queued);
                self.ready.insert((ticket.priority, known.id));
            }
            Progress::Running { .. } => {
                self.hung.insert(known.id);
                let reason: Arc<str> = Arc::from("no answer in time");
                self.stats.failed += 1;
                self.fail(&known, Arc::clone(&reason), None);
                self.dispose(&known, Disposition::Failed, reason, None);
            }
            Progress::AwaitingConfirmation { .. } => {
                self.give_up_waiting(world, &known);
                world.mark(ticket.entity, Why::of(CauseKind::Timer, "not confirmed in time"));
            }
            Progress::Cooling { .. } => world.mark(ticket.entity, Why::of(CauseKind::Timer, "tried again")),
        }
    }

    fn give_up_waiting(&mut self, world: &mut World, known: &InFlight) {
        if let MeshOsAction::StartDaemon { .. } | MeshOsAction::StopDaemon { .. } = known.action {
            turn_back(world, known);
        }
    }

    /// Dispatches what may be dispatched now. `wanted` looks at an action once more.
    pub fn run(&mut self, world: &mut World, wanted: impl Fn(&World, Key, &MeshOsAction) -> Wanted) -> Vec<Dispatch> {
        let mut dispatches = Vec::new();
        while self.running() < RUNNING_MAX {
            self.open_throttles(world);
            let Some((priority, id)) = self.ready.pop_first() else {
                break;
            };
            let Some(ticket) = self.tickets.get(&id).copied() else {
                continue;
            };
            let Some(known) = world.view.in_flight.get(&ticket.key).cloned() else {
                continue;
            };
            let action = match wanted(world, ticket.entity, &known.action) {
                Wanted::Yes(action) => action,
                Wanted::No => {
                    self.withdraw(world, ticket.key, "no longer wanted");
                    continue;
                }
                Wanted::Gated { reason, until } => {
                    self.remove(world, ticket.key);
                    self.stats.gated += 1;
                    let wait = until.since(world.now);
                    self.fail(
                        &known,
                        Arc::from(format!("{reason}: not before {} ms", wait.as_millis())),
                        None,
                    );
                    self.dispose(&known, Disposition::Gated, Arc::from(reason), Some(wait));
                    world.mark(ticket.entity, Why::of(CauseKind::Timer, reason));
                    continue;
                }
            };
            if let Some(until) = self.throttled(world, &known, (priority, id)) {
                self.stats.deferred += 1;
                // Who waits in a throttle has no alarm of its own: the throttle opens for one at a time.
                let lined = self.pulls.contains(&(priority, id)) || self.evictions.contains(&(priority, id));
                self.progress(world, ticket.key, Progress::Deferred { until });
                if lined {
                    world.alarms.set(Alarm::Action(ticket.key), None);
                }
                continue;
            }
            self.start(world, &action, &ticket, id);
            dispatches.push(Dispatch {
                id,
                action,
                cause: known.cause.clone(),
            });
        }
        self.set_throttle_alarm(world);
        self.revive(world);
        dispatches
    }

    fn open_throttles(&mut self, world: &World) {
        // One at a time, and only when it would be next: who was let out and has to wait again would wait twice.
        if self.pull_after <= world.now && is_next(&self.pulls, &self.ready) {
            self.ready.extend(self.pulls.pop_first());
        }
        if self.eviction_open_at(world) <= world.now && is_next(&self.evictions, &self.ready) {
            self.ready.extend(self.evictions.pop_first());
        }
    }

    fn eviction_open_at(&self, world: &World) -> UnixMs {
        let rate = world.config.backpressure.drain_rate_per_zone_per_sec as usize;
        match self.evicted.len().checked_sub(rate) {
            Some(index) => self.evicted[index].0.plus(EVICTION_WINDOW),
            None => UnixMs::default(),
        }
    }

    fn set_throttle_alarm(&self, world: &mut World) {
        let pulls = (!self.pulls.is_empty()).then_some(self.pull_after);
        let evictions = (!self.evictions.is_empty()).then(|| self.eviction_open_at(world));
        // Who waits at an open throttle waits for a place, and a place is free when a dispatch ends.
        let next = [pulls, evictions].into_iter().flatten().filter(|at| *at > world.now);
        world.alarms.set(Alarm::Throttle, next.min());
    }

    /// Until when an action waits for a throttle; `None`: it is admitted, and has taken what it takes.
    fn throttled(&mut self, world: &mut World, known: &InFlight, place: (Priority, u64)) -> Option<UnixMs> {
        let now = world.now;
        let window = world.config.backpressure.replica_stabilization_window;
        match known.action {
            MeshOsAction::PullReplica { chain, .. } | MeshOsAction::DropReplica { chain } => {
                let pulls = matches!(known.action, MeshOsAction::PullReplica { .. });
                let stable = world.view.chains.get(&chain).and_then(|known| known.stable_after);
                if let Some(stable) = stable.filter(|stable| *stable > now) {
                    return Some(stable);
                }
                if pulls && (self.pull_after > now || self.pulls.first().is_some_and(|first| *first < place)) {
                    self.pulls.insert(place);
                    return Some(self.pull_after.max(now));
                }
                if pulls {
                    self.pull_by = Some((known.id, self.pull_after));
                    self.pull_after = now.plus(world.config.backpressure.pull_cooldown);
                }
                stabilize(world, chain, Some(now.plus(window)));
            }
            MeshOsAction::RequestEviction { .. } => {
                while self
                    .evicted
                    .front()
                    .is_some_and(|(at, _)| at.plus(EVICTION_WINDOW) <= now)
                {
                    self.evicted.pop_front();
                }
                let open_at = self.eviction_open_at(world);
                if open_at > now {
                    self.evictions.insert(place);
                    return Some(open_at);
                }
                self.evicted.push_back((now, known.id));
            }
            _ => {}
        }
        None
    }

    fn start(&mut self, world: &mut World, action: &MeshOsAction, ticket: &Ticket, id: u64) {
        let mut until = world.now.plus(DISPATCH_TIMEOUT);
        match action {
            MeshOsAction::StartDaemon { daemon } => {
                let why = Why::of(CauseKind::Event, "start dispatched");
                world.daemon(&daemon.clone(), why, |daemon| {
                    let turns = daemon.lifecycle == Lifecycle::Stopped;
                    if turns {
                        daemon.lifecycle = Lifecycle::Starting;
                    }
                    turns
                });
            }
            MeshOsAction::StopDaemon { daemon, deadline, .. } => {
                until = until.max(deadline.plus(DISPATCH_TIMEOUT));
                let why = Why::of(CauseKind::Event, "stop dispatched");
                world.daemon(&daemon.clone(), why, |daemon| {
                    let turns = matches!(daemon.lifecycle, Lifecycle::Running | Lifecycle::Starting);
                    if turns {
                        daemon.lifecycle = Lifecycle::Stopping;
                    }
                    turns
                });
            }
            // From now on the copy does not count as lasting.
            MeshOsAction::RequestEviction { .. } => {
                world.mark(ticket.entity, Why::of(CauseKind::Event, "eviction dispatched"));
            }
            _ => {}
        }
        self.waiting.remove(&(ticket.priority, id));
        self.running.insert(id);
        if let Some(flight) = world.view.in_flight.get_mut(&ticket.key) {
            let flight = Arc::make_mut(flight);
            flight.attempts += 1;
            if flight.action != *action {
                flight.action = action.clone();
            }
        }
        self.progress(world, ticket.key, Progress::Running { until });
    }

    /// A dispatch ended.
    pub fn ended(&mut self, world: &mut World, id: u64, outcome: Outcome) {
        if !self.running.remove(&id) {
            return;
        }
        let hung = self.hung.remove(&id);
        let Some(ticket) = self.tickets.get(&id).copied() else {
            return;
        };
        let Some(known) = world.view.in_flight.get(&ticket.key).cloned() else {
            return;
        };
        // What is wanted may have changed while it ran, and the world may show already what it did.
        world.mark(ticket.entity, Why::of(CauseKind::Event, "dispatched"));
        match outcome {
            // It was told as failed when its time was over.
            _ if hung => self.cool(world, &known),
            Outcome::Done => self.done(world, &known, &ticket),
            Outcome::Drop { reason } => self.failed(world, &known, reason, None),
            Outcome::Raised { reason, traceback } => self.failed(world, &known, reason, traceback),
            Outcome::Retry { reason, after } => self.retry(world, &known, &ticket, reason, after),
        }
    }

    fn done(&mut self, world: &mut World, known: &InFlight, ticket: &Ticket) {
        self.stats.dispatched += 1;
        self.dispose(known, Disposition::Dispatched, Arc::from(""), None);
        if known.action.is_confirmed_by_the_world() {
            let until = world.now.plus(CONFIRM_TIMEOUT);
            self.progress(world, ticket.key, Progress::AwaitingConfirmation { until });
        } else {
            self.remove(world, ticket.key);
        }
    }

    fn retry(&mut self, world: &mut World, known: &InFlight, ticket: &Ticket, reason: Arc<str>, after: Duration) {
        if known.retries >= world.config.backpressure.max_defer_count {
            let reason = Arc::from(format!("given up after {} retries: {reason}", known.retries));
            self.failed(world, known, reason, None);
            return;
        }
        self.roll_back(world, known);
        turn_back(world, known);
        self.stats.dispatch_retries += 1;
        self.dispose(known, Disposition::Failed, reason, Some(after));
        if let Some(flight) = world.view.in_flight.get_mut(&ticket.key) {
            Arc::make_mut(flight).retries += 1;
        }
        let until = world.now.plus(after);
        self.progress(world, ticket.key, Progress::Deferred { until });
        self.waiting.insert((ticket.priority, known.id));
    }

    fn failed(&mut self, world: &mut World, known: &InFlight, reason: Arc<str>, traceback: Option<Arc<str>>) {
        self.stats.failed += 1;
        self.fail(known, Arc::clone(&reason), traceback);
        self.dispose(known, Disposition::Failed, reason, None);
        self.cool(world, known);
    }

    /// Lets an action that was not carried out wait before it is tried again.
    fn cool(&mut self, world: &mut World, known: &InFlight) {
        self.roll_back(world, known);
        turn_back(world, known);
        let failures = known.failures + 1;
        let wait = cool_down(world, failures);
        let key = known.action.key();
        if let Some(flight) = world.view.in_flight.get_mut(&key) {
            Arc::make_mut(flight).failures = failures;
        }
        if known.action.is_confirmed_by_the_world() {
            let until = world.now.plus(wait);
            self.progress(world, key, Progress::Cooling { until });
        } else {
            self.remove(world, key);
        }
    }

    /// Gives back what the admission of a dispatch took.
    fn roll_back(&mut self, world: &mut World, known: &InFlight) {
        match known.action {
            MeshOsAction::PullReplica { chain, .. } => {
                if let Some((_, before)) = self.pull_by.filter(|(by, _)| *by == known.id) {
                    self.pull_after = before;
                    self.pull_by = None;
                }
                stabilize(world, chain, None);
            }
            MeshOsAction::DropReplica { chain } => stabilize(world, chain, None),
            MeshOsAction::RequestEviction { .. } => self.evicted.retain(|(_, by)| *by != known.id),
            _ => {}
        }
    }

    /// Looks again at what the full queue refused, when there is space.
    fn revive(&mut self, world: &mut World) {
        let space = (world.config.action_queue_capacity as usize).saturating_sub(self.waiting.len());
        for _ in 0..space.min(REVIVED_MAX) {
            let Some(entity) = self.refused.pop_first() else { break };
            world.mark(entity, Why::of(CauseKind::Timer, "the queue has space"));
        }
    }

    /// Decides whether back-pressure is asserted; tells an edge, or a level that moved.
    pub fn pressure(&mut self, world: &World) -> Option<Option<Share>> {
        let config = &world.config.backpressure;
        let (high, low) = (
            config.cluster_backpressure_threshold as usize,
            config.cluster_backpressure_release as usize,
        );
        // A threshold above the capacity could never be reached.
        let capacity = world.config.action_queue_capacity as usize;
        let high = high.min(capacity);
        let low = low.min(high - 1);
        let level = || {
            let over = self.depth().saturating_sub(low) as f64;
            Share::new(over / (capacity.max(high) - low) as f64).unwrap_or_default()
        };
        match self.asserted {
            None if self.depth() >= high => {
                let level = level();
                self.asserted = Some(level);
                self.stats.cluster_backpressure_asserts += 1;
                Some(Some(level))
            }
            Some(_) if self.depth() <= low => {
                self.asserted = None;
                self.stats.cluster_backpressure_releases += 1;
                Some(None)
            }
            Some(told) => {
                let level = level();
                ((level.get() - told.get()).abs() >= LEVEL_STEP).then(|| {
                    self.asserted = Some(level);
                    Some(level)
                })
            }
            None => None,
        }
    }
}

fn is_next(line: &Line, ready: &Line) -> bool {
    line.first()
        .is_some_and(|first| ready.first().is_none_or(|other| first < other))
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

fn stabilize(world: &mut World, chain: crate::command::ChainId, until: Option<UnixMs>) {
    if let Some(known) = world.view.chains.get_mut(&chain) {
        Arc::make_mut(known).stable_after = until;
    }
}

/// A start or stop did not happen: the daemon is where it was before.
fn turn_back(world: &mut World, known: &InFlight) {
    let (daemon, from, to) = match &known.action {
        MeshOsAction::StartDaemon { daemon } => (daemon, Lifecycle::Starting, Lifecycle::Stopped),
        MeshOsAction::StopDaemon { daemon, .. } => (daemon, Lifecycle::Stopping, Lifecycle::Running),
        _ => return,
    };
    if world.view.daemons.contains_key(&daemon.id) {
        let why = Why::of(CauseKind::Event, "dispatch failed");
        world.daemon(&daemon.clone(), why, |daemon| {
            let turns = daemon.lifecycle == from;
            if turns {
                daemon.lifecycle = to;
            }
            turns
        });
    }
}
