//! Moves of a daemon on a network and on disks that go wrong, with the machines that a node uses. One seed gives one run.
//!
//! Three nodes may own the daemon, a fourth only gives orders; two senders send to it, two consumers follow its chain.
//! Messages get lost, late, repeated and overtaken; nodes are cut off, crash at any message and any write, and stop for a
//! while; what was not synced is lost, but for a random beginning; writes fail. Orders name any source, target and
//! orchestrator. At every effect, every acknowledgement and every durable row the rules of `facts` are checked; when
//! everything is quiet again, exactly one node owns, and everything is settled.
//!
//! [`run`] says which rule broke. A [`Mistake`] is planted around the machines, to show that the simulation would find it.
//! A [`Crash`] stops a node exactly at one of its messages or writes.

mod centre;
mod disk;
mod ends;
mod facts;
mod node;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use super::network::{self, Network};
use super::random::SplitMix64;
use super::samples::keypair;
use crate::digest::Digest;
use crate::id::EntityId;
use crate::identity::Keypair;
use crate::mix;
use crate::move_frame::MoveFrame;
use crate::move_rows::{Frozen, MoveOrder, Terms};
use crate::ownership::{MigrationId, OwnershipRecord};
use crate::ownership_frame::OwnershipFrame;
use crate::stream::Frame;
use crate::time::UnixMs;
use centre::Centre;
use ends::{Reader, Sender};
use facts::Facts;
use node::Node;

/// A mistake that a node could make around the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// A source goes on after its record names the target.
    StaysActive,
    /// An event is acknowledged before it is durable.
    AcknowledgesEarly,
    /// An event is acknowledged when it waits.
    AcknowledgesQueued,
    /// The cursors do not travel.
    CursorsNotShipped,
    /// The receipts do not travel.
    ReceiptsNotShipped,
    /// The digest of the chain does not travel.
    HeadNotShipped,
    /// Outputs that are not acknowledged do not travel.
    OutputsNotShipped,
    /// A target says that it is prepared before that is durable.
    PreparesEarly,
    /// A source commits before the record is durable.
    CommitsEarly,
    /// A target takes the events in that came with the image before it is told that it owns.
    AppliesWhilePrepared,
    /// A target forgets the events that came with the commit.
    TailDropped,
    /// A source aborts after it has committed, if it is asked to.
    AbortsAfterCommit,
    /// A move begins no new epoch.
    EpochReused,
    /// A target in doubt for long takes itself for the owner.
    ActivatesInDoubt,
    /// A target in doubt for long gives up.
    GivesUpInDoubt,
    /// A source forgets the record when it drops the state.
    ForgetsRecord,
    /// A source takes the confirmation of any move.
    AnyCommitted,
    /// A move that is aborted is not remembered.
    ForgetsAborted,
    /// An orchestrator whose deadline is over reports what it wishes.
    ReportsItsWish,
    /// An owner that lost what it did goes on in the same epoch.
    NoRestartRecord,
    /// A source waits for the orchestrator alone.
    WaitsForRetire,
    /// A source that aborts forgets the events that wait, and tells their senders that they took effect.
    AcknowledgesThawed,
}

impl Mistake {
    /// All mistakes.
    pub const ALL: [Self; 22] = [
        Self::StaysActive,
        Self::AcknowledgesEarly,
        Self::AcknowledgesQueued,
        Self::CursorsNotShipped,
        Self::ReceiptsNotShipped,
        Self::HeadNotShipped,
        Self::OutputsNotShipped,
        Self::PreparesEarly,
        Self::CommitsEarly,
        Self::AppliesWhilePrepared,
        Self::TailDropped,
        Self::AbortsAfterCommit,
        Self::EpochReused,
        Self::ActivatesInDoubt,
        Self::GivesUpInDoubt,
        Self::ForgetsRecord,
        Self::AnyCommitted,
        Self::ForgetsAborted,
        Self::ReportsItsWish,
        Self::NoRestartRecord,
        Self::WaitsForRetire,
        Self::AcknowledgesThawed,
    ];
}

/// Stops a node at one of its messages or writes, counted from the first order on: before or after each there is a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// Which node.
    pub node: usize,
    /// At which place, from 1.
    pub place: u64,
}

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether events are durable before they are acknowledged. Without, a crash loses them.
    pub journal: bool,
    /// Whether nodes crash.
    pub crashes: bool,
    /// Whether several orders are under way at once.
    pub two_orders: bool,
    /// Whether nodes stop for a while.
    pub pauses: bool,
    /// Whether there is a directory, which has the daemon taken over at random.
    pub takeovers: bool,
    /// The network.
    pub network: network::Faults,
    /// Nothing goes wrong but this, and one move is ordered, from the first node to the second, by the node that is named.
    pub scripted: Option<(usize, Option<Crash>)>,
    /// What is done wrong.
    pub mistake: Option<Mistake>,
}

impl Options {
    /// Daemons with journals, one order at a time.
    #[must_use]
    pub fn journal() -> Self {
        Self {
            journal: true,
            crashes: true,
            two_orders: false,
            pauses: false,
            takeovers: false,
            network: network::Faults::default(),
            scripted: None,
            mistake: None,
        }
    }

    /// Daemons that keep nothing but records and what a move brings.
    #[must_use]
    pub fn none() -> Self {
        Self {
            journal: false,
            ..Self::journal()
        }
    }

    /// One move in a world in which nothing goes wrong, ordered by a node, with a crash.
    #[must_use]
    pub fn scripted(orchestrator: usize, crash: Option<Crash>) -> Self {
        Self {
            crashes: false,
            network: network::Faults::CALM,
            scripted: Some((orchestrator, crash)),
            ..Self::journal()
        }
    }

    /// The same, with several orders at once.
    #[must_use]
    pub const fn two_orders(mut self) -> Self {
        self.two_orders = true;
        self
    }

    /// The same, with nodes that stop for a while.
    #[must_use]
    pub const fn pauses(mut self) -> Self {
        self.pauses = true;
        self
    }

    /// The same, with a directory and takeovers.
    #[must_use]
    pub const fn takeovers(mut self) -> Self {
        self.takeovers = true;
        self
    }

    /// The same, without crashes.
    #[must_use]
    pub const fn without_crashes(mut self) -> Self {
        self.crashes = false;
        self
    }

    /// The same with 30 % of the messages repeated and 40 % late, by up to five times the time that a daemon stands still.
    #[must_use]
    pub const fn late(mut self) -> Self {
        self.network.duplicate = 300;
        self.network.late = 400;
        self.network.late_max = Duration::from_millis(1500);
        self
    }

    /// The same with a mistake.
    #[must_use]
    pub const fn with(mut self, mistake: Mistake) -> Self {
        self.mistake = Some(mistake);
        self
    }

    /// Whether nothing that was acknowledged may be lost.
    #[must_use]
    pub const fn keeps_all(&self) -> bool {
        self.journal || !self.crashes
    }
}

/// What happened in a run without a violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Steps of the simulation.
    pub steps: u64,
    /// Events acknowledged.
    pub acknowledged: u64,
    /// Outputs that consumers took.
    pub taken: u64,
    /// Crashes of nodes.
    pub crashes: u64,
    /// Orders given.
    pub orders: u64,
    /// Takeovers that were installed.
    pub takeovers: u64,
    /// Moves that were committed.
    pub committed: u64,
    /// Moves that were aborted by their source.
    pub aborted: u64,
    /// Events that were shipped.
    pub shipped: u64,
    /// Events that waited for a move that was aborted.
    pub thawed: u64,
    /// Losses that were told.
    pub lost: u64,
    /// Places of each node at which a scripted crash can be.
    pub places: [u64; 4],
    /// A number of everything that happened: the same seed gives the same.
    pub trace: u64,
}

/// A rule that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Its name.
    pub rule: &'static str,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

type Held<T = ()> = Result<T, Broken>;

fn broken<T>(rule: &'static str, what: impl Into<String>) -> Held<T> {
    Err(Broken {
        rule,
        what: what.into(),
    })
}

/// Nodes that may own the daemon.
const CANDIDATES: usize = 3;
/// Nodes with machines: one more, for orders.
const NODES: usize = 4;
const SENDERS: [usize; 2] = [4, 5];
const READERS: [usize; 2] = [6, 7];
/// The directory.
const CENTRE: usize = 8;
const ALL: usize = 9;
const FULL: &str = "every pair has its secret half";

static NODE_KEYS: LazyLock<[Keypair; NODES]> = LazyLock::new(|| [0x71, 0x72, 0x73, 0x74].map(keypair));
static NODE_IDS: LazyLock<[EntityId; NODES]> =
    LazyLock::new(|| [0, 1, 2, 3].map(|node: usize| NODE_KEYS[node].entity_id()));
static DAEMON: LazyLock<Keypair> = LazyLock::new(|| keypair(0x81));
static ENTITY: LazyLock<EntityId> = LazyLock::new(|| DAEMON.entity_id());
/// The record of the spawn on the first node.
static SPAWN: LazyLock<OwnershipRecord> = LazyLock::new(|| {
    let digest = crate::digest::genesis(&ENTITY, &Digest::ZERO);
    OwnershipRecord::spawn(&DAEMON, NODE_IDS[0], digest).expect(FULL)
});

/// Key of any node: senders and consumers have made-up ones.
fn id_of(node: usize) -> EntityId {
    match NODE_IDS.get(node) {
        Some(id) => *id,
        None => EntityId::from_bytes([100 + u8::try_from(node).unwrap_or(0); 32]),
    }
}

fn node_of(id: EntityId) -> usize {
    let known = NODE_IDS.iter().position(|node| *node == id);
    known.unwrap_or_else(|| usize::from(id.as_bytes()[0] - 100))
}

/// Faults begin no more after so many of them.
const CHAOS: usize = 60;
/// Everything has to be settled so long after the last one.
const QUIET: Duration = Duration::from_secs(120);

/// What travels.
#[derive(Debug, Clone)]
enum Message {
    /// A message of a move.
    Move(Box<MoveFrame<'static>>),
    /// A chunk of an image: what is in it stands elsewhere.
    Chunk {
        mid: MigrationId,
        image: Digest,
        index: u32,
        length: usize,
    },
    /// A frame of a linked stream.
    Stream(Vec<u8>),
    /// A message between an owner and the directory.
    Own(Box<OwnershipFrame>),
    /// A node shows another a record.
    Show(Box<OwnershipRecord>),
}

/// What every part of the world uses.
struct Scene {
    now: Duration,
    options: Options,
    random: SplitMix64,
    network: Network<Message>,
    facts: Facts,
    report: Report,
    is_calm: bool,
    /// Whether places are counted.
    is_counting: bool,
    /// Every image that was taken, and where its daemon stood.
    images: BTreeMap<Digest, disk::Image>,
    frozen: BTreeMap<Digest, Frozen>,
    next_mid: u64,
    /// In which run each node is.
    runs: [u64; NODES],
    /// What was copied for each takeover, and the records before it.
    takeovers: BTreeMap<u64, (disk::Image, Vec<OwnershipRecord>)>,
}

impl Scene {
    fn makes(&self, mistake: Mistake) -> bool {
        self.options.mistake == Some(mistake)
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        self.network.send(self.now, from, to, message);
    }

    /// A moment from now, at most so many microseconds.
    fn soon(&mut self, micros_max: usize) -> Duration {
        self.now + Duration::from_micros(self.random.below(micros_max) as u64 + 1)
    }

    fn wall(&self) -> UnixMs {
        UnixMs::new(1_000_000).plus(self.now)
    }

    fn one_in(&mut self, many: usize) -> bool {
        !self.is_calm && self.options.scripted.is_none() && self.random.below(many) == 0
    }
}

struct World {
    scene: Scene,
    nodes: [Node; NODES],
    senders: [Sender; 2],
    readers: [Reader; 2],
    centre: Centre,
    /// Until when a node does nothing at all.
    stopped: [Duration; ALL],
    heal_at: Option<Duration>,
}

/// Simulates one seed.
///
/// # Errors
/// The rule that broke first.
///
/// # Panics
/// Where a machine found a bug of its own.
pub fn run(seed: u64, options: &Options) -> Result<Report, Broken> {
    let mut random = SplitMix64::new(seed);
    let mut scene = Scene {
        now: Duration::from_secs(1),
        options: *options,
        network: Network::new(ALL, random.next_u64(), options.network),
        facts: Facts::new(options),
        report: Report::default(),
        is_calm: false,
        is_counting: false,
        images: BTreeMap::new(),
        frozen: BTreeMap::new(),
        next_mid: 0,
        runs: [0; NODES],
        takeovers: BTreeMap::new(),
        random,
    };
    let mut nodes = [0, 1, 2, 3].map(Node::new);
    for node in &mut nodes {
        node.begin(&mut scene)?;
    }
    let senders = SENDERS.map(|node| Sender::new(node, &mut scene));
    let readers = [
        Reader::new(READERS[0], &mut scene)?,
        Reader::new(READERS[1], &mut scene)?,
    ];
    let world = World {
        nodes,
        senders,
        readers,
        centre: Centre::new(scene.now),
        stopped: [Duration::ZERO; ALL],
        heal_at: None,
        scene,
    };
    world.run()
}

impl World {
    fn run(mut self) -> Held<Report> {
        let mut chaos_left = CHAOS;
        let mut chaos_at = self.scene.soon(20_000);
        let mut end = Duration::MAX;
        let mut look_at = Duration::ZERO;
        loop {
            let wake_at = self.wake_at();
            let mut next = wake_at.min(self.scene.network.next_at().unwrap_or(Duration::MAX));
            if chaos_left > 0 {
                next = next.min(chaos_at);
            }
            if self.scene.is_calm && next > look_at {
                if next > end || self.is_done() {
                    return self.finish();
                }
                look_at = next + Duration::from_millis(20);
                self.show();
            }
            self.scene.now = self.scene.now.max(next);
            self.scene.report.steps += 1;
            let now = self.scene.now.as_nanos() as u64;
            self.scene.report.trace = mix::pair(self.scene.report.trace, now);
            if self.scene.network.next_at().is_some_and(|at| at <= self.scene.now) {
                self.arrive()?;
            } else if chaos_left > 0 && chaos_at <= self.scene.now {
                chaos_left -= 1;
                chaos_at = self.scene.soon(160_000);
                match self.scene.options.scripted {
                    Some((orchestrator, _)) => self.script(orchestrator, CHAOS - chaos_left)?,
                    None => self.chaos()?,
                }
                if chaos_left == 0 {
                    self.calm();
                    end = self.scene.now + QUIET;
                }
            }
            if wake_at <= self.scene.now {
                self.wake()?;
            }
        }
    }

    /// When something of the nodes themselves is due.
    fn wake_at(&self) -> Duration {
        let mut next = self.heal_at.unwrap_or(Duration::MAX);
        for (index, node) in self.nodes.iter().enumerate() {
            next = next.min(node.wake_at().max(self.stopped[index]));
        }
        for sender in &self.senders {
            next = next.min(sender.wake_at().max(self.stopped[sender.node]));
        }
        next.min(self.centre.wake_at().max(self.stopped[CENTRE]))
    }

    fn wake(&mut self) -> Held {
        let now = self.scene.now;
        if self.heal_at.is_some_and(|at| at <= now) {
            self.heal_at = None;
            self.scene.network.heal();
        }
        for index in 0..NODES {
            if now >= self.stopped[index] && self.nodes[index].wake_at() <= now {
                self.nodes[index].wake(&mut self.scene)?;
            }
        }
        if now >= self.stopped[CENTRE] && self.centre.wake_at() <= now {
            self.centre.wake(&self.nodes, &mut self.scene)?;
        }
        for sender in &mut self.senders {
            if now >= self.stopped[sender.node] && sender.wake_at() <= now {
                sender.step(crate::outbox::Signal::Timer, &mut self.scene)?;
            }
        }
        Ok(())
    }

    fn arrive(&mut self) -> Held {
        let Some(arrival) = self.scene.network.take_next() else {
            return Ok(());
        };
        let (from, to) = (arrival.from, arrival.to);
        if self.scene.now < self.stopped[to] {
            let until = self.stopped[to];
            self.scene.network.postpone(arrival, until);
            return Ok(());
        }
        if to < NODES {
            return self.nodes[to].hear(from, arrival.message, &mut self.scene);
        }
        if let Message::Own(frame) = arrival.message {
            return self.centre.hear(from, *frame, &self.nodes, &mut self.scene);
        }
        let Message::Stream(bytes) = arrival.message else {
            return Ok(());
        };
        let Ok(frame) = Frame::decode(&bytes) else {
            return broken("Frames", "a frame cannot be read");
        };
        match SENDERS.iter().position(|sender| *sender == to) {
            Some(sender) => self.senders[sender].hear(&frame, &mut self.scene),
            None => self.readers[to - READERS[0]].hear(&frame, &mut self.scene),
        }
    }

    fn chaos(&mut self) -> Held {
        let scene = &mut self.scene;
        let node = scene.random.below(NODES);
        match scene.random.below(40) {
            0..=17 => {
                let (sender, count) = (scene.random.below(2), scene.random.below(5) + 1);
                self.senders[sender].write(count, scene)
            }
            18..=29 if !scene.options.two_orders || node == 0 => self.order(),
            18..=29 => Ok(()),
            30..=32 if scene.options.crashes => self.nodes[node].crash(scene),
            33 if scene.options.pauses => {
                let stopped = scene.random.below(ALL);
                self.stopped[stopped] = scene.soon([50_000, 700_000][node % 2]);
                Ok(())
            }
            34 if scene.options.takeovers => {
                let to = scene.random.below(CANDIDATES);
                self.centre.take_over(to, &self.nodes, scene)
            }
            35..=36 => {
                let group = [node, scene.random.below(ALL)];
                let both = scene.random.below(2) == 0;
                scene.network.cut(&group, both);
                self.heal_at = Some(scene.soon(500_000));
                Ok(())
            }
            _ => {
                let (from, to) = (scene.random.below(CANDIDATES), scene.random.below(CANDIDATES));
                if let Some(record) = self.nodes[from].disk.highest() {
                    scene.send(from, to, Message::Show(Box::new(record)));
                }
                Ok(())
            }
        }
    }

    /// Orders a move, most often of the node that owns.
    fn order(&mut self) -> Held {
        let scene = &mut self.scene;
        let is_under_way = self.nodes.iter().any(Node::has_orders);
        if is_under_way && !scene.options.two_orders {
            return Ok(());
        }
        let Some(highest) = scene.facts.highest().copied() else {
            return Ok(());
        };
        let many = if scene.options.two_orders { 2 } else { 1 };
        for _ in 0..many {
            let owner = node_of(highest.node());
            let source = if scene.random.below(12) == 0 {
                scene.random.below(CANDIDATES)
            } else {
                owner
            };
            let target = (source + 1 + scene.random.below(CANDIDATES - 1)) % CANDIDATES;
            let orchestrator = scene.random.below(NODES);
            let order = new_order(highest.epoch(), (source, target, orchestrator), scene);
            self.nodes[orchestrator].order(order, scene)?;
        }
        Ok(())
    }

    /// Events all the time, and one move.
    fn script(&mut self, orchestrator: usize, at: usize) -> Held {
        let scene = &mut self.scene;
        if at == 5 {
            scene.is_counting = true;
            let order = new_order(1, (0, 1, orchestrator), scene);
            self.nodes[orchestrator].order(order, scene)?;
        }
        let count = scene.random.below(4) + 1;
        self.senders[at % 2].write(count, scene)
    }

    /// From now on nothing goes wrong any more.
    fn calm(&mut self) {
        self.scene.is_calm = true;
        self.scene.network.calm();
        self.heal_at = None;
        self.stopped = [Duration::ZERO; ALL];
    }

    /// Nodes that run without faults hear who owns, sooner or later.
    fn show(&mut self) {
        let owner = (0..CANDIDATES).find(|node| self.nodes[*node].announced(self.scene.now).is_some());
        let record = owner.and_then(|owner| self.nodes[owner].disk.highest());
        let is_due = self.scene.options.takeovers && self.scene.random.below(20) == 0;
        if let (Some(owner), Some(record), true) = (owner, record, is_due) {
            for node in (0..CANDIDATES).filter(|node| *node != owner) {
                self.scene.send(owner, node, Message::Show(Box::new(record)));
            }
        }
    }

    fn is_done(&self) -> bool {
        let mut owners = self.nodes.iter().filter_map(|node| node.announced(self.scene.now));
        let (Some((epoch, n)), None) = (owners.next(), owners.next()) else {
            return false;
        };
        self.senders.iter().all(Sender::is_done)
            && self.scene.facts.highest().map(OwnershipRecord::epoch) == Some(epoch)
            && self.readers.iter().all(|reader| reader.is_at(epoch, n))
            && self.nodes.iter().all(Node::is_quiet)
            && self.centre.is_quiet()
    }

    fn finish(self) -> Held<Report> {
        if !self.is_done() {
            let waits = [
                self.nodes.iter().map(Node::waits).collect::<Vec<_>>(),
                self.senders.iter().map(Sender::waits).collect(),
                self.readers.iter().map(Reader::waits).collect(),
            ];
            return broken("Ends", format!("{waits:#?}"));
        }
        for node in &self.nodes {
            node.check(&self.scene)?;
        }
        Ok(self.scene.report)
    }
}

fn new_order(epoch: u64, (source, target, orchestrator): (usize, usize, usize), scene: &mut Scene) -> MoveOrder {
    scene.next_mid += 1;
    scene.report.orders += 1;
    let mut mid = MigrationId::default();
    mid[..8].copy_from_slice(&scene.next_mid.to_le_bytes());
    MoveOrder {
        mid,
        entity: *ENTITY,
        epoch,
        source: NODE_IDS[source],
        target: NODE_IDS[target],
        orchestrator: NODE_IDS[orchestrator],
        not_after: scene.wall().plus(Duration::from_secs(3)),
        freeze_ms: 0,
        size: 0,
        kind: "counter".to_owned(),
        terms: Terms::default(),
        signer: NODE_IDS[orchestrator],
        // Who takes an order in checks its signature before; here nobody does.
        signature: [0; 64],
    }
}
