//! Owners and a directory on a network that goes wrong, with the machines that a node uses. One seed gives one run.
//!
//! Three nodes run two daemons, each of which is spawned on two of them at once. Messages get lost, late, repeated and
//! overtaken; nodes and the directory are cut off, crash, and stop for longer than a lease; what was not synced is lost, but
//! for a random beginning; clocks run at different rates. An operator takes daemons over at random, and nodes show each
//! other what records they know. At every application and every acknowledgement the rules of `facts` are checked; when
//! everything is quiet again, each daemon has to run on exactly one node.
//!
//! [`run`] says which rule broke. A [`Mistake`] is planted around the machines, to show that the simulation would find it.

mod centre;
mod disk;
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
use crate::ownership::{Lineage, OwnershipRecord};
use crate::ownership_frame::OwnershipFrame;
use centre::Centre;
use facts::Facts;
use node::Node;

/// A mistake that a node or the directory could make around the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// An owner processes and acknowledges without a lease.
    IgnoresLease,
    /// An owner looks at its lease before it processes, and not again before it acknowledges.
    AcknowledgesUnasked,
    /// The directory grants leases under lower records.
    GrantsLowerEpochs,
    /// A takeover does not wait for the last lease.
    TakesOverAtOnce,
    /// A node that hears that it is the owner becomes it, without the state.
    AdoptsHearsay,
    /// A node that has lost everything spawns again in the epoch of the spawn before.
    ReusesEpoch,
    /// An owner that lost its state goes on in the same epoch.
    NoRestartRecord,
    /// Records are answered before they are durable.
    AnswersEarly,
}

impl Mistake {
    /// All mistakes.
    pub const ALL: [Self; 8] = [
        Self::IgnoresLease,
        Self::AcknowledgesUnasked,
        Self::GrantsLowerEpochs,
        Self::TakesOverAtOnce,
        Self::AdoptsHearsay,
        Self::ReusesEpoch,
        Self::NoRestartRecord,
        Self::AnswersEarly,
    ];
}

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether events are durable before they are acknowledged. Without, a crash loses them.
    pub journal: bool,
    /// Whether a crash of a node loses its whole store: it is one in memory.
    pub forgetful: bool,
    /// The network.
    pub network: network::Faults,
    /// What is done wrong.
    pub mistake: Option<Mistake>,
}

impl Options {
    /// Nodes with journals.
    #[must_use]
    pub fn journal() -> Self {
        Self {
            journal: true,
            forgetful: false,
            network: network::Faults::default(),
            mistake: None,
        }
    }

    /// Nodes that keep records, and no events.
    #[must_use]
    pub fn none() -> Self {
        Self {
            journal: false,
            ..Self::journal()
        }
    }

    /// Nodes that keep nothing at all.
    #[must_use]
    pub fn forgetful() -> Self {
        Self {
            forgetful: true,
            ..Self::none()
        }
    }

    /// The same with 30 % of the messages repeated and 40 % late.
    #[must_use]
    pub const fn late(mut self) -> Self {
        self.network.duplicate = 300;
        self.network.late = 400;
        self.network.late_max = Duration::from_secs(8);
        self
    }

    /// The same with a mistake.
    #[must_use]
    pub const fn with(mut self, mistake: Mistake) -> Self {
        self.mistake = Some(mistake);
        self
    }
}

/// What happened in a run without a violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Steps of the simulation.
    pub steps: u64,
    /// Events acknowledged.
    pub acknowledged: u64,
    /// Crashes of nodes and of the directory.
    pub crashes: u64,
    /// Takeovers that were recorded.
    pub takeovers: u64,
    /// Spawns that were refused.
    pub refused: u64,
    /// Restart records that were written.
    pub restarts: u64,
    /// Times at which a lease kept an event from being processed or acknowledged.
    pub held_back: u64,
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

const NODES: usize = 3;
const CENTRE: usize = 3;
const DAEMONS: usize = 2;
const FULL: &str = "every pair has its secret half";

/// Keys of the nodes and of the directory.
static NODE_KEYS: LazyLock<[Keypair; 4]> = LazyLock::new(|| [0x71, 0x72, 0x73, 0x74].map(keypair));
static DAEMON_KEYS: LazyLock<[Keypair; DAEMONS]> = LazyLock::new(|| [0x81, 0x82].map(keypair));
/// The ids of both: a key is not turned into its id again and again.
static NODE_IDS: LazyLock<[EntityId; 4]> =
    LazyLock::new(|| [0, 1, 2, 3].map(|node: usize| NODE_KEYS[node].entity_id()));
static DAEMON_IDS: LazyLock<[EntityId; DAEMONS]> =
    LazyLock::new(|| [0, 1].map(|one: usize| DAEMON_KEYS[one].entity_id()));

fn node_of(id: EntityId) -> usize {
    NODE_IDS.iter().position(|node| *node == id).expect("a node")
}

fn daemon_of(id: EntityId) -> usize {
    DAEMON_IDS.iter().position(|daemon| *daemon == id).expect("a daemon")
}

/// Faults begin no more after so many of them.
const CHAOS: usize = 40;
/// Everything has to be settled so long after the last one.
const QUIET: Duration = Duration::from_secs(120);
/// An operator looks so often after daemons that do not run.
const LOOK: Duration = Duration::from_secs(10);

/// What travels.
#[derive(Debug, Clone)]
enum Message {
    /// A frame, as bytes.
    Frame(Vec<u8>),
    /// A node shows another a record.
    Show(Box<OwnershipRecord>),
}

/// A clock that runs at its own rate.
#[derive(Debug, Clone, Copy)]
struct Clock {
    offset: u64,
    /// Millionths by which it is faster, and 5,000 more.
    rate: u64,
}

impl Clock {
    fn any(random: &mut SplitMix64) -> Self {
        Self {
            offset: random.below(1_000_000_000) as u64,
            rate: random.below(10_001) as u64,
        }
    }

    const fn local(self, at: Duration) -> Duration {
        let nanos = at.as_nanos() as u64;
        Duration::from_nanos(self.offset + (nanos / 1000 * (995_000 + self.rate)) / 1000)
    }

    /// The first moment at which it shows `local`.
    fn global(self, local: Duration) -> Duration {
        let since = (local.as_nanos() as u64).saturating_sub(self.offset);
        let mut at = Duration::from_micros(since * 1000 / (995_000 + self.rate));
        while self.local(at) < local {
            at += Duration::from_micros(1);
        }
        at
    }
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
    /// States of takeovers, which are kept with their records.
    images: BTreeMap<(usize, u64), Vec<u64>>,
    /// Which daemon an operator wants to have where.
    wanted: Vec<(usize, usize)>,
    /// Lineages that were checked, by their last record: a signature is not checked again and again.
    checked: BTreeMap<Digest, Lineage>,
}

impl Scene {
    fn makes(&self, mistake: Mistake) -> bool {
        self.options.mistake == Some(mistake)
    }

    fn send(&mut self, from: usize, to: usize, frame: &OwnershipFrame) {
        self.network.send(self.now, from, to, Message::Frame(frame.to_bytes()));
    }

    /// Checks a lineage, once.
    fn lineage(&mut self, records: Vec<OwnershipRecord>) -> Lineage {
        let last = records.last().map_or(Digest::ZERO, OwnershipRecord::digest_of);
        if let Some(lineage) = self.checked.get(&last).filter(|lineage| lineage.records() == records) {
            return lineage.clone();
        }
        let entity = records.last().map_or(NODE_IDS[CENTRE], OwnershipRecord::entity);
        let lineage = Lineage::verify(&entity, records, &[NODE_IDS[CENTRE]]).expect("nodes show good lineages");
        self.checked.insert(last, lineage.clone());
        lineage
    }

    /// A moment from now, at most so many milliseconds.
    fn soon(&mut self, millis_max: usize) -> Duration {
        self.now + Duration::from_micros(self.random.below(millis_max * 1000) as u64 + 1)
    }
}

struct World {
    scene: Scene,
    nodes: [Node; NODES],
    centre: Centre,
    /// Until when a node does nothing at all.
    stopped: [Duration; NODES + 1],
    heal_at: Option<Duration>,
    look_at: Duration,
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
        network: Network::new(NODES + 1, random.next_u64(), options.network),
        facts: Facts::new(options),
        report: Report::default(),
        is_calm: false,
        images: BTreeMap::new(),
        wanted: Vec::new(),
        checked: BTreeMap::new(),
        random,
    };
    let centre = Centre::new(&mut scene);
    let nodes = [0, 1, 2].map(|index| Node::new(index, &mut scene));
    let world = World {
        nodes,
        centre,
        stopped: [Duration::ZERO; NODES + 1],
        heal_at: None,
        look_at: Duration::ZERO,
        scene,
    };
    world.run()
}

impl World {
    fn run(mut self) -> Held<Report> {
        for daemon in 0..DAEMONS {
            let first = self.scene.random.below(NODES);
            let second = (first + 1 + self.scene.random.below(NODES - 1)) % NODES;
            for node in [first, second] {
                self.nodes[node].spawn(daemon, &mut self.scene)?;
            }
        }
        let mut chaos_left = CHAOS;
        let mut chaos_at = self.scene.soon(1000);
        let mut end = Duration::MAX;
        loop {
            let wake_at = self.wake_at();
            let mut next = wake_at.min(self.scene.network.next_at().unwrap_or(Duration::MAX));
            if chaos_left > 0 {
                next = next.min(chaos_at);
            }
            self.scene.now = self.scene.now.max(next);
            if self.scene.is_calm && (self.scene.now > end || self.is_done()) {
                return self.finish();
            }
            self.scene.report.steps += 1;
            let now = self.scene.now.as_nanos() as u64;
            self.scene.report.trace = mix::pair(self.scene.report.trace, now);
            if self.scene.network.next_at().is_some_and(|at| at <= self.scene.now) {
                self.arrive()?;
            } else if chaos_left > 0 && chaos_at <= self.scene.now {
                chaos_left -= 1;
                chaos_at = self.scene.soon(1500);
                self.chaos()?;
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
        if self.scene.is_calm {
            next = next.min(self.look_at);
        }
        for (index, node) in self.nodes.iter().enumerate() {
            next = next.min(node.wake_at().max(self.stopped[index]));
        }
        next.min(self.centre.wake_at().max(self.stopped[CENTRE]))
    }

    fn wake(&mut self) -> Held {
        let now = self.scene.now;
        if self.heal_at.is_some_and(|at| at <= now) {
            self.heal_at = None;
            self.scene.network.heal();
        }
        if self.scene.is_calm && self.look_at <= now {
            self.look()?;
        }
        for index in 0..NODES {
            if now >= self.stopped[index] && self.nodes[index].wake_at() <= now {
                self.nodes[index].wake(&mut self.scene)?;
                self.check_records()?;
            }
        }
        if now >= self.stopped[CENTRE] && self.centre.wake_at() <= now {
            self.centre.wake(&self.nodes, &mut self.scene)?;
            self.check_records()?;
        }
        Ok(())
    }

    /// Takes in which records are durable now.
    fn check_records(&mut self) -> Held {
        for disk in self.nodes.iter().map(|node| &node.disk).chain([&self.centre.disk]) {
            for record in disk.fresh() {
                self.scene.facts.record(record)?;
            }
        }
        for node in &mut self.nodes {
            node.disk.seen();
        }
        self.centre.disk.seen();
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
        match arrival.message {
            Message::Show(record) if to < NODES => self.nodes[to].show(*record, &mut self.scene),
            Message::Show(_) => Ok(()),
            Message::Frame(bytes) => {
                let Ok(frame) = OwnershipFrame::decode(&bytes) else {
                    return broken("Frames", "a frame cannot be read");
                };
                if to == CENTRE {
                    self.centre.hear(from, frame, &self.nodes, &mut self.scene)
                } else {
                    self.nodes[to].hear(frame, &mut self.scene)
                }
            }
        }
    }

    fn chaos(&mut self) -> Held {
        let scene = &mut self.scene;
        let (node, daemon) = (scene.random.below(NODES), scene.random.below(DAEMONS));
        match scene.random.below(20) {
            0..=3 => self.nodes[node].crash(scene),
            4 => self.centre.crash(scene),
            5..=8 => {
                let longest = [300, 6000][scene.random.below(2)];
                self.stopped[node] = scene.soon(longest);
            }
            9 => self.stopped[CENTRE] = scene.soon(4000),
            10..=12 => {
                let group = [node, scene.random.below(NODES + 1)];
                let both = scene.random.below(2) == 0;
                scene.network.cut(&group, both);
                self.heal_at = Some(scene.soon(6000));
            }
            13..=16 => {
                scene.wanted.push((daemon, node));
                self.centre.want(scene)?;
            }
            17 => self.centre.give_up(daemon, scene)?,
            _ => {
                let other = scene.random.below(NODES);
                let shown = if scene.random.below(2) == 0 {
                    self.centre.disk.highest(daemon)
                } else {
                    self.nodes[other].disk.highest(daemon)
                };
                if let Some(record) = shown {
                    let to = if scene.random.below(2) == 0 {
                        node_of(record.node())
                    } else {
                        node
                    };
                    scene
                        .network
                        .send(scene.now, other, to, Message::Show(Box::new(record)));
                }
            }
        }
        Ok(())
    }

    /// From now on nothing goes wrong any more.
    fn calm(&mut self) {
        self.scene.is_calm = true;
        self.scene.network.calm();
        self.heal_at = None;
        self.stopped = [Duration::ZERO; NODES + 1];
        self.look_at = self.scene.now + LOOK;
        self.scene.facts.calm();
    }

    /// The operator has those taken over that nobody runs.
    fn look(&mut self) -> Held {
        self.look_at = self.scene.now + LOOK;
        for daemon in 0..DAEMONS {
            let runs = self.nodes.iter().any(|node| node.runs(daemon, self.scene.now));
            if !runs {
                let to = self.scene.random.below(NODES);
                self.scene.wanted.push((daemon, to));
            }
        }
        // A directory that is down is asked again the next time.
        self.centre.want(&mut self.scene)
    }

    fn is_done(&self) -> bool {
        (0..DAEMONS).all(|daemon| {
            let now = self.scene.now;
            let mut running = self.nodes.iter().filter(|node| node.runs(daemon, now));
            let highest = self.scene.facts.highest(daemon);
            let one = running.next().and_then(|node| node.epoch(daemon));
            one.is_some() && one == highest && running.next().is_none() && self.scene.facts.went_on(daemon)
        }) && self.centre.is_quiet()
    }

    fn finish(self) -> Held<Report> {
        if !self.is_done() {
            let waits: Vec<_> = self.nodes.iter().map(Node::waits).collect();
            return broken("Ends", format!("{waits:?}, {}", self.centre.waits()));
        }
        Ok(self.scene.report)
    }
}
