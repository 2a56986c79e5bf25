//! What a node sends to daemons: an outbox for each flow, and where each daemon is.
//!
//! Nothing here waits, locks or sends: what is to be done is put into `Effects`, and done by the
//! [`router`](crate::router).
//!
//! Invariants
//! * What is not known to be anywhere waits, and has not left: who gives it up knows that it never took effect.
//! * Events of a flow leave in the order of their numbers.
//! * Everything is bounded: flows, events and bytes of each. What is refused is told, or counted, or stays in the store.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use meshos_core::cursors::Receipt;
use meshos_core::finder::{self, Finder, Known};
use meshos_core::id::{EntityId, Origin};
use meshos_core::mix;
use meshos_core::outbox::{self, Limits, Outbox, Outcome, Owner};
use meshos_core::parcel::Packer;
use meshos_core::stream::{Flow, Frame};

use crate::outgoing::Sending;

/// Flows at once.
pub const FLOWS_MAX: usize = 65_536;
/// Flows that are kept though nothing of them is open.
const IDLE_MAX: usize = 1024;
/// How long a flow is kept at least though nothing of it is open.
const IDLE_FOR: Duration = Duration::from_secs(10);
/// Wait before rows are removed again that the store did not let go.
const RELEASE_PAUSE: Duration = Duration::from_millis(500);
/// What is due that is done under one lock.
const TURN_MAX: usize = 64;
/// Bytes after which a parcel is closed.
const PARCEL_BYTES: usize = 1 << 20;

/// What became of an event that somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It took effect.
    Taken {
        /// The receipt of that.
        receipt: Receipt,
        /// Whether that was an earlier try.
        duplicate: bool,
    },
    /// Nobody knows any more; highest number applied, if that was told.
    Unknown {
        /// Highest number applied of its origin.
        cursor: u64,
    },
    /// It failed too often and was passed over.
    PassedOver,
    /// No node has the daemon; it never left.
    Nobody,
    /// As much waits as may; it never left.
    Full,
    /// Its number lies between numbers that were sent; it never left.
    OutOfOrder,
    /// The node was shut down; what became of it is not known.
    Closed,
}

/// Hears what became of events.
pub trait Hear: Send + Sync {
    /// Takes what became of some, each with its place: it is short, never waits, and calls no user code.
    fn hear(&self, heard: &mut dyn Iterator<Item = (usize, Sent)>);
}

/// Who waits for an event.
#[derive(Clone)]
pub struct Ticket {
    /// Where it is told.
    pub to: Arc<dyn Hear>,
    /// Its place there.
    pub place: usize,
}

/// Whose events go where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WayKey {
    /// The receiver.
    pub to: Origin,
    /// Who numbers the events.
    pub origin: Origin,
    /// What they belong to at the receiver.
    pub stream: u64,
}

/// An event to be sent.
pub(crate) struct Parting {
    pub(crate) sequence: u64,
    pub(crate) payload: Box<[u8]>,
    pub(crate) ticket: Option<Ticket>,
}

/// Where daemons are, as far as this node knows by itself.
pub(crate) trait Places {
    /// A daemon that is here.
    fn known(&self, origin: Origin) -> Option<Known>;
    /// The other nodes that are there.
    fn others(&self) -> Arc<Vec<EntityId>>;
    /// Whether a daemon is about to be here.
    fn arrives(&self, origin: Origin) -> bool;
}

/// What is to be sent, packed by node.
#[derive(Default)]
pub(crate) struct Outbound {
    open: HashMap<EntityId, Packer>,
    closed: Vec<(EntityId, Packer)>,
}

impl Outbound {
    /// Packs a frame.
    pub(crate) fn put(&mut self, to: EntityId, frame: &Frame<'_>) {
        let open = self.open.entry(to).or_default();
        if open.len() >= PARCEL_BYTES {
            self.closed.push((to, std::mem::take(open)));
        }
        open.put(|out| frame.put(out));
    }

    /// Takes everything out.
    pub(crate) fn take(&mut self, into: &mut Vec<(EntityId, Packer)>) {
        into.append(&mut self.closed);
        for (to, open) in &mut self.open {
            if !open.is_empty() {
                into.push((*to, std::mem::take(open)));
            }
        }
        if self.open.len() > IDLE_MAX {
            self.open.clear();
        }
    }
}

/// What is to be done when nothing is locked.
#[derive(Default)]
pub(crate) struct Effects {
    pub(crate) heard: Vec<(Ticket, Sent)>,
    /// Rows that may go: of which emitter, and which outputs.
    pub(crate) released: Vec<(WayKey, EntityId, Vec<u64>)>,
    /// Outputs that stayed in the store, to be read from after this number on.
    pub(crate) behind: Vec<(WayKey, EntityId, u64)>,
}

impl Effects {
    pub(crate) fn is_empty(&self) -> bool {
        self.heard.is_empty() && self.released.is_empty() && self.behind.is_empty()
    }
}

/// Outputs that stayed in the store since there was no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Behind {
    is_reading: bool,
    /// More came while they were read.
    more: bool,
}

/// The outputs of a daemon to another one.
struct Rows {
    emitter: EntityId,
    /// Those of which the store has a row, ascending.
    held: VecDeque<u64>,
    /// Up to which they may go, and whether that is under way.
    release: Option<u64>,
    is_releasing: bool,
    release_at: Option<Duration>,
    behind: Option<Behind>,
    /// The last that was taken in.
    last: u64,
}

#[derive(Default)]
struct Way {
    outbox: Option<Outbox<Box<[u8]>>>,
    early: VecDeque<Parting>,
    early_bytes: usize,
    tickets: VecDeque<(u64, Ticket)>,
    /// Of outputs: of which the store has rows.
    rows: Option<Box<Rows>>,
    /// Whether its target knows of it.
    is_listed: bool,
    /// Whether these are outputs, which wait for their daemon however long.
    is_output: bool,
    timer: Option<Duration>,
    used: Duration,
}

impl Way {
    fn is_idle(&self) -> bool {
        self.early.is_empty()
            && self.outbox.as_ref().is_none_or(Outbox::is_empty)
            && self
                .rows
                .as_ref()
                .is_none_or(|rows| rows.held.is_empty() && rows.behind.is_none())
    }

    /// Makes its outbox, now that it is known where its daemon is.
    fn open(&mut self, key: &WayKey, known: &Known, limits: Limits, seed: u64) {
        let flow = Flow {
            entity: known.entity,
            origin: key.origin,
            stream: key.stream,
        };
        let owner = Owner {
            node: known.node,
            epoch: known.epoch,
        };
        let outbox = Outbox::new(flow, limits, seed).with_owner(owner);
        self.outbox = Some(if self.rows.is_some() {
            outbox.with_rows()
        } else {
            outbox
        });
    }

    fn room_for(&self, bytes: usize, limits: &Limits) -> bool {
        self.early.is_empty() || self.early.len() < limits.events_max && self.early_bytes + bytes <= limits.bytes_max
    }

    fn ticket(&mut self, sequence: u64) -> Option<Ticket> {
        if self.tickets.front().is_some_and(|(first, _)| *first == sequence) {
            return self.tickets.pop_front().map(|(_, ticket)| ticket);
        }
        let at = self
            .tickets
            .binary_search_by_key(&sequence, |(sequence, _)| *sequence)
            .ok()?;
        self.tickets.remove(at).map(|(_, ticket)| ticket)
    }

    /// Notes who waits for an event, in the place of whoever did.
    fn expect(&mut self, sequence: u64, ticket: Ticket) {
        if self.tickets.back().is_none_or(|(last, _)| *last < sequence) {
            return self.tickets.push_back((sequence, ticket));
        }
        match self.tickets.binary_search_by_key(&sequence, |(sequence, _)| *sequence) {
            Ok(at) => self.tickets[at].1 = ticket,
            Err(at) => self.tickets.insert(at, (sequence, ticket)),
        }
    }
}

/// Keys are digests most often: hashing them well would cost more than looking them up.
#[derive(Debug, Clone, Copy, Default)]
struct Digests(u64);

impl Hasher for Digests {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

struct Target {
    finder: Finder,
    ways: Vec<WayKey>,
    timer: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Way(WayKey),
    Target(Origin),
}

/// What happened to what a node sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WayStats {
    /// Events that were settled.
    pub settled: u64,
    /// Events and outputs that nobody waited for and that came to nothing: there was no room, or no such daemon, or it
    /// passed them over, or nobody knows.
    pub unheard: u64,
    /// Times that a receiver went back behind what it had acknowledged.
    pub losses: u64,
}

/// All flows of a node.
pub(crate) struct Ways {
    ways: HashMap<WayKey, Way, BuildHasherDefault<Digests>>,
    targets: HashMap<Origin, Target, BuildHasherDefault<Digests>>,
    timers: BTreeSet<(Duration, Timer)>,
    limits: Limits,
    seed: u64,
    made: u64,
    actions: Vec<outbox::Action>,
    pub(crate) stats: WayStats,
}

impl Ways {
    pub(crate) fn new(seed: u64, limits: Limits) -> Self {
        Self {
            ways: HashMap::default(),
            targets: HashMap::default(),
            timers: BTreeSet::new(),
            limits,
            seed,
            made: 0,
            actions: Vec::new(),
            stats: WayStats::default(),
        }
    }

    /// Whether something of a flow is open.
    pub(crate) fn is_open(&self, key: &WayKey) -> bool {
        self.ways.get(key).is_some_and(|way| !way.is_idle())
    }

    pub(crate) fn len(&self) -> usize {
        self.ways.len()
    }

    pub(crate) fn wake_at(&self) -> Option<Duration> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Sends an event that a caller numbered.
    pub(crate) fn send(
        &mut self,
        now: Duration,
        key: WayKey,
        event: Parting,
        (places, out, effects): (&dyn Places, &mut Outbound, &mut Effects),
    ) {
        if !self.has_room(now, &key) {
            return self.refuse(event.ticket, Sent::Full, effects);
        }
        self.enter(now, key, event, (places, out, effects));
    }

    /// Sends an output of a daemon.
    pub(crate) fn send_output(
        &mut self,
        now: Duration,
        key: WayKey,
        (emitter, sequence, payload, has_row): (EntityId, u64, Vec<u8>, bool),
        (places, out, effects): (&dyn Places, &mut Outbound, &mut Effects),
    ) {
        if !self.has_room(now, &key) {
            // With a row it comes back with its daemon.
            self.stats.unheard += u64::from(!has_row);
            return;
        }
        let limits = self.limits;
        let way = self.ways.entry(key).or_default();
        way.is_output = true;
        let is_full = !way.room_for(payload.len(), &limits)
            || way
                .outbox
                .as_ref()
                .is_some_and(|outbox| outbox.bytes() + payload.len() > limits.bytes_max && !outbox.is_empty());
        if has_row {
            let rows = way.rows.get_or_insert_with(|| {
                Box::new(Rows {
                    emitter,
                    held: VecDeque::new(),
                    release: None,
                    is_releasing: false,
                    release_at: None,
                    behind: None,
                    last: 0,
                })
            });
            if let Some(behind) = &mut rows.behind {
                behind.more = true;
                return;
            }
            if is_full || rows.held.len() >= limits.events_max {
                rows.behind = Some(Behind::default());
                return;
            }
            rows.last = rows.last.max(sequence);
            if let Err(at) = rows.held.binary_search(&sequence) {
                rows.held.insert(at, sequence);
            }
        } else if is_full {
            self.stats.unheard += 1;
            return;
        }
        let event = Parting {
            sequence,
            payload: payload.into_boxed_slice(),
            ticket: None,
        };
        self.enter(now, key, event, (places, out, effects));
    }

    /// Outputs of a daemon that are not settled and have no rows, by their numbers.
    pub(crate) fn unsettled(&self, emitter: Origin) -> Vec<Sending> {
        let of_it = |(key, way): &(&WayKey, &Way)| key.origin == emitter && way.is_output && way.rows.is_none();
        let mut outputs = Vec::new();
        for (key, way) in self.ways.iter().filter(of_it) {
            let mut add = |sequence, payload: &[u8]| {
                outputs.push(Sending {
                    sequence,
                    to: key.to,
                    stream: key.stream,
                    payload: payload.to_vec(),
                    has_row: false,
                });
            };
            if let Some(outbox) = &way.outbox {
                outbox
                    .unsettled()
                    .for_each(|(sequence, payload)| add(sequence, payload));
            }
            way.early.iter().for_each(|event| add(event.sequence, &event.payload));
        }
        outputs.sort_by_key(|output| output.sequence);
        outputs
    }

    /// Goes on with outputs that had stayed in the store: `exhausted` if these are the last.
    pub(crate) fn read_again(
        &mut self,
        now: Duration,
        key: WayKey,
        outputs: Vec<(u64, Vec<u8>)>,
        exhausted: bool,
        (places, out, effects): (&dyn Places, &mut Outbound, &mut Effects),
    ) {
        let Some(rows) = self.ways.get_mut(&key).and_then(|way| way.rows.as_mut()) else {
            return;
        };
        let emitter = rows.emitter;
        let Some(behind) = rows.behind.take() else { return };
        for (sequence, payload) in outputs {
            self.send_output(
                now,
                key,
                (emitter, sequence, payload, true),
                (places, &mut *out, &mut *effects),
            );
        }
        let Some(way) = self.ways.get_mut(&key) else { return };
        let Some(rows) = &mut way.rows else { return };
        if !exhausted || behind.more {
            rows.behind.get_or_insert_default().is_reading = false;
        }
        self.catch_up(key, effects);
    }

    /// Whether one more flow may be begun.
    fn has_room(&mut self, now: Duration, key: &WayKey) -> bool {
        if self.ways.contains_key(key) {
            return true;
        }
        if self.ways.len() >= IDLE_MAX {
            self.forget_idle(now);
        }
        self.ways.len() < FLOWS_MAX
    }

    fn forget_idle(&mut self, now: Duration) {
        let old = now.saturating_sub(IDLE_FOR);
        let is_idle = |way: &Way| way.is_idle() && way.tickets.is_empty() && way.used < old;
        let idle: Vec<_> = self
            .ways
            .iter()
            .filter(|(_, way)| is_idle(way))
            .map(|(key, _)| *key)
            .collect();
        for key in idle {
            if let Some(timer) = self.ways.remove(&key).and_then(|way| way.timer) {
                self.timers.remove(&(timer, Timer::Way(key)));
            }
            let Some(target) = self.targets.get_mut(&key.to) else {
                continue;
            };
            target.ways.retain(|way| *way != key);
            if target.ways.is_empty()
                && let Some(target) = self.targets.remove(&key.to)
                && let Some(timer) = target.timer
            {
                self.timers.remove(&(timer, Timer::Target(key.to)));
            }
        }
    }

    fn refuse(&mut self, ticket: Option<Ticket>, sent: Sent, effects: &mut Effects) {
        match ticket {
            Some(ticket) => effects.heard.push((ticket, sent)),
            None => self.stats.unheard += 1,
        }
    }

    fn next_seed(&mut self) -> u64 {
        self.made += 1;
        mix::pair(self.seed, self.made)
    }

    fn enter(
        &mut self,
        now: Duration,
        key: WayKey,
        event: Parting,
        (places, out, effects): (&dyn Places, &mut Outbound, &mut Effects),
    ) {
        let limits = self.limits;
        if !self.targets.contains_key(&key.to) {
            let (finder, ways) = (Finder::new(self.next_seed()), Vec::new());
            let timer = None;
            self.targets.insert(key.to, Target { finder, ways, timer });
        }
        let target = self.targets.get_mut(&key.to).expect("just made");
        let known = target.finder.known();
        let way = self.ways.entry(key).or_default();
        if !std::mem::replace(&mut way.is_listed, true) {
            target.ways.push(key);
        }
        way.used = now;
        if let Some(known) = known.filter(|_| way.outbox.is_none() && way.early.is_empty()) {
            self.made += 1;
            let seed = mix::pair(self.seed, self.made);
            way.open(&key, &known, limits, seed);
        }
        if known.is_some() && way.early.is_empty() {
            return self.leave(now, key, event, (places, out, effects));
        }
        if !way.room_for(event.payload.len(), &limits) {
            return self.refuse(event.ticket, Sent::Full, effects);
        }
        way.early_bytes += event.payload.len();
        way.early.push_back(event);
        self.search(now, key.to, finder::Signal::Wanted, (places, out, effects));
    }

    /// Puts an event into the outbox of its flow.
    fn leave(
        &mut self,
        now: Duration,
        key: WayKey,
        event: Parting,
        (places, out, effects): (&dyn Places, &mut Outbound, &mut Effects),
    ) {
        let Parting {
            sequence,
            payload,
            ticket,
        } = event;
        if let (Some(way), Some(ticket)) = (self.ways.get_mut(&key), ticket) {
            way.expect(sequence, ticket);
        }
        let signal = outbox::Signal::Send {
            sequence,
            payload,
            deadline: None,
        };
        self.step(now, key, signal, 0, (places, out, effects));
    }

    /// Has an outbox decide, and does what comes of it. `cursor` is what an answer said.
    pub(crate) fn step(
        &mut self,
        now: Duration,
        key: WayKey,
        signal: outbox::Signal<Box<[u8]>>,
        cursor: u64,
        (places, out, effects): (&dyn Places, &mut Outbound, &mut Effects),
    ) {
        let Some(way) = self.ways.get_mut(&key) else { return };
        let Some(outbox) = &mut way.outbox else { return };
        let is_elsewhere = matches!(signal, outbox::Signal::NotHere);
        let mut actions = std::mem::take(&mut self.actions);
        outbox.step(now, signal, &mut actions);
        let mut is_sought = is_elsewhere;
        for action in actions.drain(..) {
            match action {
                outbox::Action::Transmit { sequence, to } => {
                    if let Some(event) = way.outbox.as_ref().and_then(|outbox| outbox.event(sequence)) {
                        out.put(to, &Frame::Event(event));
                    }
                }
                outbox::Action::Locate => is_sought = true,
                outbox::Action::Settled { sequence, outcome } => {
                    self.stats.settled += 1;
                    let sent = match outcome {
                        Outcome::Taken { receipt, duplicate } => Sent::Taken { receipt, duplicate },
                        Outcome::Unknown => Sent::Unknown { cursor },
                        Outcome::PassedOver => Sent::PassedOver,
                    };
                    match way.ticket(sequence) {
                        Some(ticket) => effects.heard.push((ticket, sent)),
                        None => self.stats.unheard += u64::from(!matches!(sent, Sent::Taken { .. })),
                    }
                }
                outbox::Action::Refused { sequence, why } => {
                    let sent = match why {
                        outbox::Refusal::Backpressure => Sent::Full,
                        outbox::Refusal::OutOfOrder => Sent::OutOfOrder,
                    };
                    match way.ticket(sequence) {
                        Some(ticket) => effects.heard.push((ticket, sent)),
                        None => self.stats.unheard += 1,
                    }
                }
                outbox::Action::Release { through } => {
                    if let Some(rows) = &mut way.rows {
                        rows.release = Some(through);
                    }
                }
                outbox::Action::Lost { .. } => self.stats.losses += 1,
                outbox::Action::TimedOut { .. } => {}
            }
        }
        self.actions = actions;
        self.let_go(now, key, effects);
        self.retime(key);
        if is_sought {
            let owner = self.owner(&key);
            let signal = match (owner, self.targets.get(&key.to)) {
                (Some(from), Some(target)) if target.finder.known().is_some() => finder::Signal::Lost { from },
                _ => finder::Signal::Wanted,
            };
            self.search(now, key.to, signal, (places, out, effects));
        }
    }

    fn owner(&self, key: &WayKey) -> Option<EntityId> {
        let outbox = self.ways.get(key)?.outbox.as_ref()?;
        outbox.owner().map(|owner| owner.node)
    }

    /// Has rows removed that may go, unless some are on their way.
    fn let_go(&mut self, now: Duration, key: WayKey, effects: &mut Effects) {
        let Some(rows) = self.ways.get_mut(&key).and_then(|way| way.rows.as_mut()) else {
            return;
        };
        if rows.is_releasing || rows.release_at.is_some_and(|at| at > now) {
            return;
        }
        let Some(through) = rows.release else { return };
        let gone: Vec<_> = rows.held.iter().copied().take_while(|held| *held <= through).collect();
        if !gone.is_empty() {
            (rows.is_releasing, rows.release_at) = (true, None);
            effects.released.push((key, rows.emitter, gone));
        }
    }

    /// Hears whether rows were removed.
    pub(crate) fn released(
        &mut self,
        now: Duration,
        key: WayKey,
        gone: &[u64],
        is_kept: bool,
        (places, out, effects): (&dyn Places, &mut Outbound, &mut Effects),
    ) {
        let Some(rows) = self.ways.get_mut(&key).and_then(|way| way.rows.as_mut()) else {
            return;
        };
        rows.is_releasing = false;
        if !is_kept {
            rows.release_at = Some(now + RELEASE_PAUSE);
            return self.retime(key);
        }
        rows.held.retain(|held| !gone.contains(held));
        if let Some(through) = gone.last() {
            let signal = outbox::Signal::Released { through: *through };
            self.step(now, key, signal, 0, (places, out, effects));
        }
        self.catch_up(key, effects);
    }

    /// Has outputs read that stayed in the store, when there is room.
    fn catch_up(&mut self, key: WayKey, effects: &mut Effects) {
        let half = self.limits.events_max / 2;
        let Some(rows) = self.ways.get_mut(&key).and_then(|way| way.rows.as_mut()) else {
            return;
        };
        if let Some(behind) = &mut rows.behind
            && !behind.is_reading
            && rows.held.len() <= half
        {
            *behind = Behind {
                is_reading: true,
                more: false,
            };
            effects.behind.push((key, rows.emitter, rows.last));
        }
    }

    fn retime(&mut self, key: WayKey) {
        let Some(way) = self.ways.get_mut(&key) else { return };
        let due = way.outbox.as_ref().and_then(Outbox::wake_at);
        let release = way.rows.as_ref().and_then(|rows| rows.release_at);
        let due = due.into_iter().chain(release).min();
        // One that comes too early finds nothing to do, and is set anew.
        if let Some(due) = due
            && way.timer.is_none_or(|timer| due < timer)
        {
            if let Some(timer) = way.timer.replace(due) {
                self.timers.remove(&(timer, Timer::Way(key)));
            }
            self.timers.insert((due, Timer::Way(key)));
        }
    }

    /// Has a finder decide, and does what comes of it.
    pub(crate) fn search(
        &mut self,
        now: Duration,
        origin: Origin,
        signal: finder::Signal,
        (places, out, effects): (&dyn Places, &mut Outbound, &mut Effects),
    ) {
        let Some(target) = self.targets.get_mut(&origin) else {
            return;
        };
        let was_asking = target.finder.is_asking();
        let others = if matches!(signal, finder::Signal::Found(_)) {
            Arc::default()
        } else {
            places.others()
        };
        let mut actions = Vec::new();
        target.finder.step(now, signal, &others, &mut actions);
        if target.finder.is_asking() && !was_asking || matches!(signal, finder::Signal::Timer) {
            // What the node knows by itself needs nobody to be asked.
            if let Some(known) = places.known(origin) {
                let before = actions.len();
                target
                    .finder
                    .step(now, finder::Signal::Found(known), &others, &mut actions);
                if actions.len() > before {
                    actions.drain(..before);
                }
            }
        }
        for action in actions {
            match action {
                finder::Action::Ask(node) => out.put(node, &Frame::Find { origin }),
                finder::Action::Told(known) => self.found(now, origin, known, (places, &mut *out, &mut *effects)),
                finder::Action::Absent => self.absent(now, origin, places.arrives(origin), effects),
            }
        }
        self.retime_target(origin);
    }

    fn retime_target(&mut self, origin: Origin) {
        let Some(target) = self.targets.get_mut(&origin) else {
            return;
        };
        if let Some(due) = target.finder.wake_at()
            && target.timer.is_none_or(|timer| due < timer)
        {
            if let Some(timer) = target.timer.replace(due) {
                self.timers.remove(&(timer, Timer::Target(origin)));
            }
            self.timers.insert((due, Timer::Target(origin)));
        }
    }

    fn found(
        &mut self,
        now: Duration,
        origin: Origin,
        known: Known,
        (places, out, effects): (&dyn Places, &mut Outbound, &mut Effects),
    ) {
        let keys = self
            .targets
            .get(&origin)
            .map(|target| target.ways.clone())
            .unwrap_or_default();
        let owner = Owner {
            node: known.node,
            epoch: known.epoch,
        };
        for key in keys {
            let seed = self.next_seed();
            let limits = self.limits;
            let Some(way) = self.ways.get_mut(&key) else { continue };
            if way.outbox.is_none() {
                way.open(&key, &known, limits, seed);
            } else {
                self.step(
                    now,
                    key,
                    outbox::Signal::Moved(owner),
                    0,
                    (places, &mut *out, &mut *effects),
                );
            }
            let Some(way) = self.ways.get_mut(&key) else { continue };
            way.early_bytes = 0;
            for event in std::mem::take(&mut way.early) {
                self.leave(now, key, event, (places, &mut *out, &mut *effects));
            }
        }
    }

    /// No node has the daemon: what has not left is told so, but outputs wait for it, and so does everything if it is about
    /// to be here.
    fn absent(&mut self, now: Duration, origin: Origin, arrives: bool, effects: &mut Effects) {
        let keys = self
            .targets
            .get(&origin)
            .map(|target| target.ways.clone())
            .unwrap_or_default();
        let mut waits = false;
        for key in keys {
            let Some(way) = self.ways.get_mut(&key) else { continue };
            if way.is_output || arrives {
                waits |= !way.early.is_empty();
                continue;
            }
            way.early_bytes = 0;
            for event in std::mem::take(&mut way.early) {
                self.refuse(event.ticket, Sent::Nobody, effects);
            }
        }
        if waits && let Some(target) = self.targets.get_mut(&origin) {
            let again = now + finder::ABSENT_FOR;
            if let Some(timer) = target.timer.replace(again) {
                self.timers.remove(&(timer, Timer::Target(origin)));
            }
            self.timers.insert((again, Timer::Target(origin)));
        }
    }

    /// Gives up waiting for an event: `false` if it had not left, and never takes effect.
    pub(crate) fn give_up(&mut self, key: &WayKey, sequence: u64) -> bool {
        let Some(way) = self.ways.get_mut(key) else {
            return true;
        };
        if let Some(at) = way.early.iter().position(|event| event.sequence == sequence)
            && let Some(event) = way.early.remove(at)
        {
            way.early_bytes -= event.payload.len();
            return false;
        }
        drop(way.ticket(sequence));
        true
    }

    /// Does what is due, or some of it.
    pub(crate) fn turn(&mut self, now: Duration, (places, out, effects): (&dyn Places, &mut Outbound, &mut Effects)) {
        for _ in 0..TURN_MAX {
            let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= now) else {
                return;
            };
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Way(key) => {
                    if let Some(way) = self.ways.get_mut(&key) {
                        way.timer = None;
                        if let Some(rows) = &mut way.rows {
                            rows.release_at = rows.release_at.filter(|at| *at > now);
                        }
                    }
                    self.step(now, key, outbox::Signal::Timer, 0, (places, &mut *out, &mut *effects));
                }
                Timer::Target(origin) => {
                    let Some(target) = self.targets.get_mut(&origin) else {
                        continue;
                    };
                    target.timer = None;
                    let signal = if target.finder.is_asking() {
                        finder::Signal::Timer
                    } else {
                        finder::Signal::Wanted
                    };
                    self.search(now, origin, signal, (places, &mut *out, &mut *effects));
                }
            }
        }
    }

    /// Forgets the outputs of a daemon: they go on from where it is now.
    pub(crate) fn forget_outputs(&mut self, emitter: Origin) {
        let of_it = |(key, way): &(&WayKey, &Way)| key.origin == emitter && way.is_output;
        let gone: Vec<_> = self.ways.iter().filter(of_it).map(|(key, _)| *key).collect();
        for key in gone {
            if let Some(timer) = self.ways.remove(&key).and_then(|way| way.timer) {
                self.timers.remove(&(timer, Timer::Way(key)));
            }
            if let Some(target) = self.targets.get_mut(&key.to) {
                target.ways.retain(|way| *way != key);
            }
        }
    }

    /// Forgets everything; returns those who wait.
    pub(crate) fn close(&mut self) -> Vec<Ticket> {
        let ways = std::mem::take(&mut self.ways);
        self.targets.clear();
        self.timers.clear();
        let waiting = ways.into_values().flat_map(|way| {
            let early = way.early.into_iter().filter_map(|event| event.ticket);
            early.chain(way.tickets.into_iter().map(|(_, ticket)| ticket))
        });
        waiting.collect()
    }

    /// Events that are open, by flow; for tests and people.
    pub(crate) fn open(&self) -> BTreeMap<WayKey, usize> {
        let open = |way: &Way| way.early.len() + way.outbox.as_ref().map_or(0, |outbox| outbox.open().count());
        self.ways.iter().map(|(key, way)| (*key, open(way))).collect()
    }
}
