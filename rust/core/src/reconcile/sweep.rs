//! The pass over everything: what concerns every chain is found in slices, and what was missed is found at all.

use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;
use smallvec::SmallVec;

use crate::action::{ActionKey, CauseKind};
use crate::command::ChainId;
use crate::executor::Executor;
use crate::id::{NodeId, Origin};
use crate::status::{ChainState, Progress};
use crate::world::{Key, Why, World};

use super::chains::{chain, is_move_over};
use super::scores::needs_scores;
use super::{Wants, action_keys, wanted};

/// Keys that one step looks at in a sweep.
pub const SWEEP_SLICE: usize = 1024;

/// Goes on with the pass over everything. In a pass that expects to find nothing, what it finds is counted and
/// repaired.
pub fn sweep(world: &mut World, executor: &Executor) -> u64 {
    let Some(mut sweep) = world.sweep else { return 0 };
    let why = sweep.why;
    let mut left = SWEEP_SLICE;
    let mut news = Vec::new();
    world.sweep = loop {
        let mut scan = Scan::new(world, sweep.after, sweep.stop, left);
        scan.tables();
        (left, sweep.after) = (scan.left, scan.last);
        news.append(&mut scan.news);
        if left == 0 {
            break Some(sweep);
        }
        match sweep.next_round() {
            Some(round) => sweep = round,
            None => break None,
        }
    };
    let mut repairs = 0;
    for key in news {
        if world.dirty.contains_key(&key) || executor.is_refused(key) {
            continue;
        }
        if why.is_none() {
            repairs += 1;
        }
        world.mark(key, why.unwrap_or(Why::of(CauseKind::Sweep, "full sweep")));
    }
    repairs
}

/// Keys that a look would find something at though nobody marked them, and [`Key::Maintenance`] when a counter is wrong.
#[must_use]
pub fn missed(world: &World, executor: &Executor) -> Vec<Key> {
    let mut scan = Scan::new(world, None, None, usize::MAX);
    scan.tables();
    let mut keys = scan.news;
    keys.retain(|key| !world.dirty.contains_key(key) && !executor.is_refused(*key));
    let moving = |known: &&Arc<ChainState>| known.moving.is_some();
    let moves = world.view.chains.values().filter(moving).count();
    let copies = world.count_copies();
    let held = copies.get(&world.this_node).copied().unwrap_or(0);
    let counted = (moves, held, &copies) == (world.moves as usize, world.held, &world.copies);
    if !counted || world.count_daemons() != world.counted_daemons() {
        keys.push(Key::Maintenance);
    }
    keys
}

/// A walk over keys in their order.
struct Scan<'a> {
    world: &'a World,
    stop: Option<Key>,
    /// How many more are looked at.
    left: usize,
    last: Option<Key>,
    /// Those that a look would change something at.
    news: Vec<Key>,
}

impl<'a> Scan<'a> {
    const fn new(world: &'a World, after: Option<Key>, stop: Option<Key>, left: usize) -> Self {
        Self {
            world,
            stop,
            left,
            last: after,
            news: Vec::new(),
        }
    }

    fn tables(&mut self) {
        let world = self.world;
        if self.last.is_none() {
            self.visit(Key::Maintenance, || unsettled(world, Key::Maintenance));
        }
        self.table(&world.view.peers, Key::Peer, node_of, |node, _| {
            unsettled(world, Key::Peer(node))
        });
        self.table(&world.view.daemons, Key::Daemon, daemon_of, |id, _| {
            unsettled(world, Key::Daemon(id))
        });
        let from = after(self.last, chain_of);
        let mut flying = Flying::from(world, from);
        self.table(&world.view.chains, Key::Chain, chain_of, |id, known| {
            chain_has_news(world, id, known, flying.has(id))
        });
    }

    /// Looks at a key; whether to go on.
    fn visit(&mut self, key: Key, has_news: impl FnOnce() -> bool) -> bool {
        if self.left == 0 || self.stop.is_some_and(|stop| key > stop) {
            return false;
        }
        self.left -= 1;
        self.last = Some(key);
        if has_news() {
            self.news.push(key);
        }
        true
    }

    fn table<K: Ord + Copy, V>(
        &mut self,
        table: &OrdMap<K, Arc<V>>,
        key: fn(K) -> Key,
        id: fn(Key) -> Option<K>,
        mut has_news: impl FnMut(K, &V) -> bool,
    ) {
        let from = after(self.last, id);
        let behind = self.last.zip(table.keys().next()).is_some_and(|(last, first)| {
            // The walk is in a later table already.
            matches!(from, Bound::Unbounded) && last > key(*first)
        });
        if behind {
            return;
        }
        for (id, known) in table.range((from, Bound::Unbounded)) {
            if !self.visit(key(*id), || has_news(*id, known)) {
                return;
            }
        }
    }
}

const fn node_of(key: Key) -> Option<NodeId> {
    match key {
        Key::Peer(node) => Some(node),
        _ => None,
    }
}

const fn daemon_of(key: Key) -> Option<Origin> {
    match key {
        Key::Daemon(id) => Some(id),
        _ => None,
    }
}

const fn chain_of(key: Key) -> Option<ChainId> {
    match key {
        Key::Chain(id) => Some(id),
        _ => None,
    }
}

/// Where a table is entered, if `last` was looked at last.
fn after<K>(last: Option<Key>, id: fn(Key) -> Option<K>) -> Bound<K> {
    last.and_then(id).map_or(Bound::Unbounded, Bound::Excluded)
}

/// Work under way of chains, walked along with them.
struct Flying<I: Iterator<Item = ChainId>>([Peekable<I>; 3]);

impl<'a> Flying<Box<dyn Iterator<Item = ChainId> + 'a>> {
    fn from(world: &'a World, from: Bound<ChainId>) -> Self {
        let of = |key: fn(ChainId) -> ActionKey| -> Box<dyn Iterator<Item = ChainId> + 'a> {
            let first = match from {
                Bound::Excluded(id) => Bound::Excluded(key(id)),
                Bound::Included(_) | Bound::Unbounded => Bound::Included(key(ChainId::new(0))),
            };
            let flights = world.view.in_flight.range((first, Bound::Unbounded));
            Box::new(flights.map_while(move |(found, _)| {
                let id = match found {
                    ActionKey::Local(id) | ActionKey::Placement(id) | ActionKey::Eviction(id) => *id,
                    _ => return None,
                };
                (key(id) == *found).then_some(id)
            }))
        };
        Self([ActionKey::Local, ActionKey::Placement, ActionKey::Eviction].map(|key| of(key).peekable()))
    }
}

impl<I: Iterator<Item = ChainId>> Flying<I> {
    /// Whether anything of a chain is under way; asked of chains in their order.
    fn has(&mut self, chain: ChainId) -> bool {
        let mut found = false;
        for ids in &mut self.0 {
            while ids.next_if(|id| *id < chain).is_some() {}
            found |= ids.peek() == Some(&chain);
        }
        found
    }
}

/// Whether a look at a chain would emit, take back or end anything.
fn chain_has_news(world: &World, id: ChainId, known: &ChainState, flying: bool) -> bool {
    if is_move_over(world, id, known) || needs_scores(world, id, known) {
        return true;
    }
    if flying {
        unsettled(world, Key::Chain(id))
    } else {
        !chain(world, id, known, None).is_empty()
    }
}

/// Whether a look at a key would emit or take back anything.
fn unsettled(world: &World, key: Key) -> bool {
    differs(world, key, &wanted(world, key))
}

/// Whether what is under way is not what is wanted.
fn differs(world: &World, key: Key, wants: &Wants) -> bool {
    if !wants.iter().all(|want| Executor::is_under_way(world, &want.action)) {
        return true;
    }
    if world.view.in_flight.is_empty() {
        return false;
    }
    let unwanted: SmallVec<[ActionKey; 3]> = action_keys(key)
        .into_iter()
        .filter(|action_key| !wants.iter().any(|want| want.action.key() == *action_key))
        .collect();
    unwanted.iter().any(|action_key| {
        let known = world.view.in_flight.get(action_key);
        known.is_some_and(|known| {
            known.action.is_confirmed_by_the_world() && !matches!(known.progress, Progress::Running { .. })
        })
    })
}
