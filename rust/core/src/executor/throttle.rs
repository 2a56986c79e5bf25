//! What goes only so often: pulls with a pause between them, evictions so many in any second, and the copy of a chain
//! here, which is left alone for a while after each change.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::action::MeshOsAction;
use crate::command::ChainId;
use crate::time::UnixMs;
use crate::world::{Alarm, World};

use super::queue::{Place, Queue};

/// Span over which evictions are counted.
const EVICTION_WINDOW: Duration = Duration::from_secs(1);

/// Lines of those that wait, and what opens them.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Throttles {
    pulls: BTreeSet<Place>,
    pull_after: UnixMs,
    /// Who was admitted last, and what was before.
    pull_by: Option<(u64, UnixMs)>,
    evictions: BTreeSet<Place>,
    evicted: VecDeque<(UnixMs, u64)>,
}

impl Throttles {
    /// Whether somebody waits in a line.
    pub(super) fn has(&self, place: Place) -> bool {
        self.pulls.contains(&place) || self.evictions.contains(&place)
    }

    /// Takes somebody out of the line.
    pub(super) fn leave(&mut self, place: Place) {
        self.pulls.remove(&place);
        self.evictions.remove(&place);
    }

    /// Lets the first of each line out, if the line is open and nobody more urgent is ready: who was let out and has to
    /// wait again would wait twice.
    pub(super) fn open(&mut self, world: &World, queue: &mut Queue) {
        let next = |line: &BTreeSet<Place>, queue: &Queue| line.first().is_some_and(|first| queue.is_next(first));
        if self.pull_after <= world.now && next(&self.pulls, queue) {
            self.pulls
                .pop_first()
                .into_iter()
                .for_each(|place| queue.make_ready(place));
        }
        if self.eviction_open_at(world) <= world.now && next(&self.evictions, queue) {
            self.evictions
                .pop_first()
                .into_iter()
                .for_each(|place| queue.make_ready(place));
        }
    }

    fn eviction_open_at(&self, world: &World) -> UnixMs {
        let rate = world.config.backpressure.drain_rate_per_zone_per_sec as usize;
        match self.evicted.len().checked_sub(rate) {
            Some(index) => self.evicted[index].0.plus(EVICTION_WINDOW),
            None => UnixMs::default(),
        }
    }

    /// Sets the alarm for the next line that opens.
    pub(super) fn set_alarm(&self, world: &mut World) {
        let pulls = (!self.pulls.is_empty()).then_some(self.pull_after);
        let evictions = (!self.evictions.is_empty()).then(|| self.eviction_open_at(world));
        // Who waits at an open throttle waits for a place, and a place is free when a dispatch ends.
        let next = [pulls, evictions].into_iter().flatten().filter(|at| *at > world.now);
        world.alarms.set(Alarm::Throttle, next.min());
    }

    /// Until when an action has to wait; `None`: it is admitted, and has taken what it takes.
    pub(super) fn admit(&mut self, world: &mut World, action: &MeshOsAction, place: Place) -> Option<UnixMs> {
        match action {
            MeshOsAction::PullReplica { chain, .. } => {
                self.stable(world, *chain).or_else(|| self.pull(world, *chain, place))
            }
            MeshOsAction::DropReplica { chain } => {
                let stable = self.stable(world, *chain);
                if stable.is_none() {
                    leave_alone(world, *chain);
                }
                stable
            }
            MeshOsAction::RequestEviction { .. } => self.evict(world, place),
            _ => None,
        }
    }

    fn stable(&self, world: &World, chain: ChainId) -> Option<UnixMs> {
        let after = world.view.chains.get(&chain)?.stable_after?;
        (after > world.now).then_some(after)
    }

    fn pull(&mut self, world: &mut World, chain: ChainId, place: Place) -> Option<UnixMs> {
        let now = world.now;
        if self.pull_after > now || self.pulls.first().is_some_and(|first| *first < place) {
            self.pulls.insert(place);
            return Some(self.pull_after.max(now));
        }
        self.pull_by = Some((place.1, self.pull_after));
        self.pull_after = now.plus(world.config.backpressure.pull_cooldown);
        leave_alone(world, chain);
        None
    }

    fn evict(&mut self, world: &World, place: Place) -> Option<UnixMs> {
        let now = world.now;
        let over = |(at, _): &(UnixMs, u64)| at.plus(EVICTION_WINDOW) <= now;
        while self.evicted.front().is_some_and(over) {
            self.evicted.pop_front();
        }
        let open_at = self.eviction_open_at(world);
        if open_at > now {
            self.evictions.insert(place);
            return Some(open_at);
        }
        self.evicted.push_back((now, place.1));
        None
    }

    /// Gives back what the admission of action `id` took.
    pub(super) fn roll_back(&mut self, world: &mut World, action: &MeshOsAction, id: u64) {
        match action {
            MeshOsAction::PullReplica { chain, .. } => {
                if let Some((_, before)) = self.pull_by.filter(|(by, _)| *by == id) {
                    self.pull_after = before;
                    self.pull_by = None;
                }
                stabilize(world, *chain, None);
            }
            MeshOsAction::DropReplica { chain } => stabilize(world, *chain, None),
            MeshOsAction::RequestEviction { .. } => self.evicted.retain(|(_, by)| *by != id),
            _ => {}
        }
    }
}

/// Leaves the copy of a chain here alone for a while.
fn leave_alone(world: &mut World, chain: ChainId) {
    let until = world.now.plus(world.config.backpressure.replica_stabilization_window);
    stabilize(world, chain, Some(until));
}

fn stabilize(world: &mut World, chain: ChainId, until: Option<UnixMs>) {
    if let Some(known) = world.view.chains.get_mut(&chain) {
        Arc::make_mut(known).stable_after = until;
    }
}
