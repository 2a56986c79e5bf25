//! What commands alone decide: what the operators want of the cluster, apart from what became of it.
//!
//! [`ControlState::apply`] is the one way in which a command changes it. The loop applies each command as it takes
//! effect, and reads the effect off the state; who reads an audit back applies its records. So both come to the same
//! bytes, whatever happened meanwhile.
//!
//! In it: how often each kind was obeyed, the freeze, cordons, nodes that shall be out of service, what is forced on
//! chains, envelopes that were obeyed, and when each target was touched last. Not in it, because something besides
//! commands decides it: avoid lists, intents of daemons and of copies, phases of maintenance, whether anything was
//! carried out, and how long a target is left alone, which is configured. What is done once (restarts, flushes, moves
//! that are ended, scores that are void) leaves its count.
//!
//! ```text
//! "MOSC" | version u8 = 1 | obeyed: 16 × u64, in the order of KINDS
//! freeze: option (since, until) | cordoned: list of node
//! out of service: list of (node, since, option deadline, returns u8)
//! forced: list of (chain, option evict, option place), each (node, since, until, option envelope id)
//! envelopes: list of (id, issued at), in the order in which they were obeyed | forgotten through
//! touched: list of (bucket u8, number u64, at) | left out u64
//! ```
//! Numbers and times are u64, little endian; a list is its count as u32, then its entries, ascending unless said
//! otherwise; an option is a mark of 0 or 1, then the value. The digest is BLAKE3 in a context of its own.
//!
//! Invariants
//! * Nothing changes by the passing of time: what has run out stays until a later command, and whoever reads compares.
//! * A refused command changes nothing.
//! * It is bounded: the newest envelopes are kept and the horizon of the others; nodes and chains that do not fit are
//!   left out and counted.

use std::time::Duration;

use imbl::{OrdMap, OrdSet, Vector};

use crate::codec::Put;
use crate::command::{AdminEvent, ChainId, Command, IceAction, Order, Verdict};
use crate::digest::{self, Context, Digest};
use crate::id::NodeId;
use crate::refusal::{Bucket, bucket};
use crate::time::UnixMs;

/// A forced placement or eviction that could not be carried out for so long is given up.
pub const FORCED_TTL: Duration = Duration::from_secs(600);
/// A freeze ends after so long at the latest.
pub const FREEZE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Most nodes, most chains and most targets that are kept of each sort.
pub const ENTRIES_MAX: usize = 1 << 20;

/// Most envelopes that are kept.
pub const ENVELOPES_MAX: usize = 65_536;
/// A target that was touched so long ago is forgotten; no target is left alone for longer.
pub const TOUCHED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// Every kind of command, in the order in which they are counted.
pub const KINDS: [&str; 16] = [
    "enter_maintenance",
    "exit_maintenance",
    "drain",
    "cordon",
    "uncordon",
    "restart_all_daemons",
    "clear_avoid_list",
    "drop_replicas",
    "invalidate_placement",
    "freeze_cluster",
    "thaw_cluster",
    "flush_avoid_lists",
    "force_evict_replica",
    "force_restart_daemon",
    "force_cutover",
    "kill_migration",
];

const MAGIC: &[u8; 4] = b"MOSC";
const VERSION: u8 = 1;

/// Something that was ordered, and holds until a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Held {
    /// Since when.
    pub since: UnixMs,
    /// Until when.
    pub until: UnixMs,
}

/// A node that shall be out of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OutOfService {
    /// Since when.
    pub since: UnixMs,
    /// By when it shall be drained; `None`: as the node is configured.
    pub deadline: Option<UnixMs>,
    /// It comes back by itself, at the deadline at the latest.
    pub returns: bool,
}

/// Something forced on a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ForcedOrder {
    /// The node.
    pub node: NodeId,
    /// When it was ordered, and when it is given up.
    pub held: Held,
    /// The envelope it came in.
    pub envelope_id: Option<[u8; 16]>,
}

/// What is forced on one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ForcedOrders {
    /// A copy that shall go.
    pub evict: Option<ForcedOrder>,
    /// A copy that shall come.
    pub place: Option<ForcedOrder>,
}

/// What commands alone decide. A clone shares everything with the original.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ControlState {
    obeyed: [u64; KINDS.len()],
    freeze: Option<Held>,
    cordoned: OrdSet<NodeId>,
    out_of_service: OrdMap<NodeId, OutOfService>,
    forced: OrdMap<ChainId, ForcedOrders>,
    envelopes: Vector<([u8; 16], UnixMs)>,
    /// What was issued at or before it may have been obeyed and forgotten.
    forgotten: UnixMs,
    touched: OrdMap<Bucket, UnixMs>,
    left_out: u64,
    /// Nothing runs out before; it follows from the rest, and spares a look at everything.
    over_at: UnixMs,
}

impl ControlState {
    /// Applies a command with the verdict that it ended with, at the time of its record.
    pub fn apply(&mut self, at: UnixMs, command: &Command) {
        if matches!(command.verdict, Verdict::Rejected { .. }) {
            return;
        }
        self.forget(at);
        let place = KINDS.iter().position(|kind| *kind == command.order.kind());
        self.obeyed[place.expect("every kind is in the list")] += 1;
        if command.verdict == Verdict::Accepted
            && let (Some(envelope_id), Some(issued_at)) = (command.envelope_id, command.issued_at)
        {
            self.remember(envelope_id, issued_at);
        }
        match &command.order {
            Order::Admin(event) => self.admin(at, event),
            Order::Ice(action) => {
                if command.verdict == Verdict::Accepted
                    && let Some(bucket) = bucket(action)
                {
                    self.ends(at.plus(TOUCHED_FOR));
                    insert(&mut self.touched, &mut self.left_out, bucket, at);
                }
                self.ice(at, action, command.envelope_id);
            }
        }
    }

    /// Another run begins at that time. When the clock was set back meanwhile, how long ago something was ordered is not
    /// known: its span begins anew.
    pub fn begin_run(&mut self, at: UnixMs) {
        let again = |held: &mut Held| {
            if at < held.since {
                *held = Held {
                    since: at,
                    until: at.plus(held.until.since(held.since)),
                };
            }
        };
        self.freeze.iter_mut().for_each(again);
        self.forced = changed(&self.forced, |orders| {
            let both = [orders.evict.as_mut(), orders.place.as_mut()];
            both.into_iter().flatten().for_each(|order| again(&mut order.held));
        });
        self.out_of_service = changed(&self.out_of_service, |known| {
            if at < known.since {
                known.deadline = known.deadline.map(|until| at.plus(until.since(known.since)));
                known.since = at;
            }
        });
        self.touched = changed(&self.touched, |touched| *touched = (*touched).min(at));
        self.over_at = UnixMs::default();
    }

    fn admin(&mut self, at: UnixMs, event: &AdminEvent) {
        match event {
            AdminEvent::EnterMaintenance { node, drain_for } => {
                let deadline = drain_for.map(|span| at.plus(span));
                self.take_out(*node, at, deadline, false);
            }
            AdminEvent::Drain { node, drain_for } => self.take_out(*node, at, Some(at.plus(*drain_for)), true),
            AdminEvent::ExitMaintenance { node } => {
                self.out_of_service.remove(node);
            }
            AdminEvent::Cordon { node } => {
                if self.cordoned.len() < ENTRIES_MAX {
                    self.cordoned.insert(*node);
                } else if !self.cordoned.contains(node) {
                    self.left_out += 1;
                }
            }
            AdminEvent::Uncordon { node } => {
                self.cordoned.remove(node);
            }
            AdminEvent::RestartAllDaemons { .. }
            | AdminEvent::ClearAvoidList { .. }
            | AdminEvent::DropReplicas { .. }
            | AdminEvent::InvalidatePlacement { .. } => {}
        }
    }

    fn take_out(&mut self, node: NodeId, since: UnixMs, deadline: Option<UnixMs>, returns: bool) {
        let wanted = OutOfService {
            since,
            deadline,
            returns,
        };
        if let Some(deadline) = deadline.filter(|_| returns) {
            self.ends(deadline);
        }
        insert(&mut self.out_of_service, &mut self.left_out, node, wanted);
    }

    fn ice(&mut self, at: UnixMs, action: &IceAction, envelope_id: Option<[u8; 16]>) {
        let order = |node| ForcedOrder {
            node,
            held: Held {
                since: at,
                until: at.plus(FORCED_TTL),
            },
            envelope_id,
        };
        match action {
            IceAction::FreezeCluster { ttl } => {
                let until = at.plus((*ttl).min(FREEZE_MAX));
                self.ends(until);
                self.freeze = Some(Held { since: at, until });
            }
            IceAction::ThawCluster => self.freeze = None,
            IceAction::ForceEvictReplica { chain, victim } => {
                let mut orders = self.forced(*chain);
                orders.evict = Some(order(*victim));
                self.ends(at.plus(FORCED_TTL));
                insert(&mut self.forced, &mut self.left_out, *chain, orders);
            }
            IceAction::ForceCutover { chain, target } => {
                let mut orders = self.forced(*chain);
                orders.place = Some(order(*target));
                self.ends(at.plus(FORCED_TTL));
                insert(&mut self.forced, &mut self.left_out, *chain, orders);
            }
            IceAction::FlushAvoidLists { .. }
            | IceAction::ForceRestartDaemon { .. }
            | IceAction::KillMigration { .. } => {}
        }
    }

    fn remember(&mut self, envelope_id: [u8; 16], issued_at: UnixMs) {
        self.envelopes.push_back((envelope_id, issued_at));
        if self.envelopes.len() > ENVELOPES_MAX
            && let Some((_, issued_at)) = self.envelopes.pop_front()
        {
            self.forgotten = self.forgotten.max(issued_at);
        }
    }

    /// Something runs out then.
    fn ends(&mut self, at: UnixMs) {
        self.over_at = self.over_at.min(at);
    }

    /// Forgets what has run out at that time.
    fn forget(&mut self, at: UnixMs) {
        if at < self.over_at {
            return;
        }
        self.freeze = self.freeze.filter(|held| held.until > at);
        let over = |known: &OutOfService| known.returns && known.deadline.is_some_and(|deadline| deadline <= at);
        retain(&mut self.out_of_service, |known| !over(known));
        let in_time = |order: &ForcedOrder| order.held.until > at;
        retain(&mut self.forced, |orders| {
            orders.evict.as_ref().is_some_and(in_time) || orders.place.as_ref().is_some_and(in_time)
        });
        retain(&mut self.touched, |touched| touched.plus(TOUCHED_FOR) > at);
        let freeze = self.freeze.map(|held| held.until);
        let out = self.out_of_service.values().filter(|known| known.returns);
        let both = |orders: &ForcedOrders| [orders.evict, orders.place];
        let forced = self.forced.values().flat_map(both).flatten();
        let ends = freeze
            .into_iter()
            .chain(out.filter_map(|known| known.deadline))
            .chain(forced.map(|order| order.held.until).filter(|until| *until > at))
            .chain(self.touched.values().map(|touched| touched.plus(TOUCHED_FOR)));
        self.over_at = ends.min().unwrap_or(UnixMs::new(u64::MAX));
    }

    /// When a freeze ends; `None`: there is none, or it has ended.
    #[must_use]
    pub fn freeze_until(&self, now: UnixMs) -> Option<UnixMs> {
        self.freeze.map(|held| held.until).filter(|until| now < *until)
    }

    /// Nodes that nothing new is placed on, ascending.
    pub fn cordoned(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.cordoned.iter().copied()
    }

    /// Whether nothing new is placed on a node.
    #[must_use]
    pub fn is_cordoned(&self, node: NodeId) -> bool {
        self.cordoned.contains(&node)
    }

    /// Nodes that shall be out of service, ascending; but none that has come back by itself.
    pub fn out_of_service(&self, now: UnixMs) -> impl Iterator<Item = (NodeId, OutOfService)> + '_ {
        let here = move |known: &OutOfService| !known.returns || known.deadline.is_none_or(|deadline| now < deadline);
        let nodes = self.out_of_service.iter().map(|(node, known)| (*node, *known));
        nodes.filter(move |(_, known)| here(known))
    }

    /// What is wanted of one node that shall be out of service.
    #[must_use]
    pub fn wanted_of(&self, node: NodeId) -> Option<OutOfService> {
        self.out_of_service.get(&node).copied()
    }

    /// What is forced on a chain, be it out of time or carried out.
    #[must_use]
    pub fn forced(&self, chain: ChainId) -> ForcedOrders {
        self.forced.get(&chain).copied().unwrap_or_default()
    }

    /// What is forced on chains and not given up, ascending; it may have been carried out.
    pub fn all_forced(&self, now: UnixMs) -> impl Iterator<Item = (ChainId, ForcedOrders)> + '_ {
        self.forced.iter().filter_map(move |(chain, orders)| {
            let in_time = |order: &ForcedOrder| now < order.held.until;
            let kept = ForcedOrders {
                evict: orders.evict.filter(in_time),
                place: orders.place.filter(in_time),
            };
            (kept != ForcedOrders::default()).then_some((*chain, kept))
        })
    }

    /// How often each kind was obeyed, in the order of [`KINDS`].
    #[must_use]
    pub const fn obeyed(&self) -> &[u64; KINDS.len()] {
        &self.obeyed
    }

    /// Envelopes that are remembered.
    #[must_use]
    pub fn envelopes(&self) -> usize {
        self.envelopes.len()
    }

    /// Its one encoding.
    ///
    /// # Panics
    /// Never: every list is bounded.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256 + 24 * self.envelopes.len());
        bytes.put(MAGIC);
        bytes.put_u8(VERSION);
        self.obeyed.iter().for_each(|count| bytes.put_u64(*count));
        bytes.put_u8(u8::from(self.freeze.is_some()));
        if let Some(held) = &self.freeze {
            put_held(&mut bytes, held);
        }
        bytes.put_count_u32(self.cordoned.len());
        self.cordoned.iter().for_each(|node| bytes.put_u64(node.get()));
        bytes.put_count_u32(self.out_of_service.len());
        for (node, known) in &self.out_of_service {
            bytes.put_u64(node.get());
            bytes.put_u64(known.since.get());
            bytes.put_option_u64(known.deadline.map(UnixMs::get));
            bytes.put_u8(u8::from(known.returns));
        }
        bytes.put_count_u32(self.forced.len());
        for (chain, orders) in &self.forced {
            bytes.put_u64(chain.get());
            put_forced(&mut bytes, orders.evict.as_ref());
            put_forced(&mut bytes, orders.place.as_ref());
        }
        bytes.put_count_u32(self.envelopes.len());
        for (envelope_id, issued_at) in &self.envelopes {
            bytes.put(envelope_id);
            bytes.put_u64(issued_at.get());
        }
        bytes.put_u64(self.forgotten.get());
        bytes.put_count_u32(self.touched.len());
        for (bucket, at) in &self.touched {
            let (tag, number) = match bucket {
                Bucket::Freeze => (1, 0),
                Bucket::Flush => (2, 0),
                Bucket::Node(node) => (3, *node),
                Bucket::Daemon(daemon) => (4, *daemon),
                Bucket::Migration(migration) => (5, *migration),
            };
            bytes.put_u8(tag);
            bytes.put_u64(number);
            bytes.put_u64(at.get());
        }
        bytes.put_u64(self.left_out);
        bytes
    }

    /// Digest of its bytes: equal states have equal digests.
    #[must_use]
    pub fn digest(&self) -> Digest {
        digest::derive(Context::ControlState, &[&self.to_bytes()])
    }
}

fn insert<K: Ord + Clone, V: Clone>(map: &mut OrdMap<K, V>, left_out: &mut u64, key: K, value: V) {
    if map.len() < ENTRIES_MAX || map.contains_key(&key) {
        map.insert(key, value);
    } else {
        *left_out += 1;
    }
}

fn changed<K: Ord + Clone, V: Clone>(map: &OrdMap<K, V>, change: impl Fn(&mut V)) -> OrdMap<K, V> {
    let entries = map.iter().map(|(key, value)| {
        let mut value = value.clone();
        change(&mut value);
        (key.clone(), value)
    });
    entries.collect()
}

/// Takes out what is not kept; copies nothing when everything is.
fn retain<K: Ord + Clone, V: Clone>(map: &mut OrdMap<K, V>, keep: impl Fn(&V) -> bool) {
    let gone: Vec<K> = map
        .iter()
        .filter(|(_, value)| !keep(value))
        .map(|(key, _)| key.clone())
        .collect();
    for key in gone {
        map.remove(&key);
    }
}

fn put_held(bytes: &mut Vec<u8>, held: &Held) {
    bytes.put_u64(held.since.get());
    bytes.put_u64(held.until.get());
}

fn put_forced(bytes: &mut Vec<u8>, order: Option<&ForcedOrder>) {
    bytes.put_u8(u8::from(order.is_some()));
    let Some(order) = order else { return };
    bytes.put_u64(order.node.get());
    put_held(bytes, &order.held);
    bytes.put_u8(u8::from(order.envelope_id.is_some()));
    bytes.put(order.envelope_id.as_ref().map_or(&[][..], |id| &id[..]));
}
