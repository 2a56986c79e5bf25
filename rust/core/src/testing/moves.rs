//! Moves of a daemon on a network and on disks that go wrong, with the machines that a node uses. One seed gives one run.
//!
//! Three nodes may own the daemon, a fourth only gives orders; two senders send to it, two consumers follow its chain.
//! Messages get lost, late, repeated and overtaken; nodes are cut off, crash at any message and any write, and stop for a
//! while; what was not synced is lost, but for a random beginning; writes fail. Orders name any source, target and
//! orchestrator. At every effect, every acknowledgement and every durable row the rules of `facts` are checked; when
//! everything is quiet again, exactly one node owns, and everything is settled.
//!
//! The daemon is a number, or whatever a [`Kind`] makes: then what it emits and what its snapshots are is compared with an
//! instance that never moved and never crashed. A [`Plan`] says how many events and moves there are, and what goes wrong.
//!
//! [`run`] says which rule broke. A [`Mistake`] is planted around the machines, to show that the simulation would find it.
//! A [`Crash`] stops a node exactly at one of its messages or writes.

mod centre;
mod coverage;
mod disk;
mod ends;
mod facts;
mod node;
mod plan;
mod reference;
mod subject;
mod timeline;
mod world;

pub use coverage::{Coverage, Pair};
pub use plan::{Faults, Plan, Share};
pub use subject::{Emitted, Fault, Given, Kind, Number, Numbers, Subject};

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use super::network::{self, Network};
use super::random::SplitMix64;
use super::samples::keypair;
use crate::config::Durability;
use crate::digest::Digest;
use crate::id::{EntityId, Origin};
use crate::identity::Keypair;
use crate::move_frame::MoveFrame;
use crate::move_rows::Frozen;
use crate::ownership::{MigrationId, OwnershipRecord};
use crate::ownership_frame::OwnershipFrame;
use crate::time::UnixMs;
use disk::Input;
use facts::Facts;
use reference::Reference;
use timeline::{Note, Timeline};
use world::World;

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
    /// Nodes that may own the daemon, 2 to 8.
    pub nodes: usize,
    /// What is done and what goes wrong; `None`: what is most likely to find something.
    pub plan: Option<Plan>,
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
    /// Whether nodes say again what they said before, orders are taken back, and user code takes long.
    pub strays: bool,
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
            nodes: 3,
            plan: None,
            journal: true,
            crashes: true,
            two_orders: false,
            pauses: false,
            takeovers: false,
            strays: false,
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

    /// What a plan says, with so many nodes.
    #[must_use]
    pub fn planned(nodes: usize, plan: Plan) -> Self {
        Self {
            nodes: nodes.clamp(2, NODES_MAX),
            plan: Some(plan),
            journal: plan.config.durability == Durability::Journal,
            crashes: plan.faults.crash != Share::default(),
            network: network::Faults {
                delay_min: plan.faults.delay.0,
                delay_max: plan.faults.delay.1,
                late_max: plan.faults.delay.1,
                queue_max: usize::MAX,
                ..network::Faults::CALM
            },
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

    /// The same, with messages that are said again, orders that are taken back, and user code that takes long.
    #[must_use]
    pub const fn strays(mut self) -> Self {
        self.strays = true;
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
    /// Acknowledged events that were lost with them.
    pub rolled_back: u64,
    /// Events that were sent.
    pub written: u64,
    /// Moves whose orchestrator reported that they were committed.
    pub moves_completed: u64,
    /// Moves whose orchestrator reported that they were aborted.
    pub moves_aborted: u64,
    /// Times at which nodes were cut off.
    pub partitions: u64,
    /// Messages that were lost or cut off.
    pub messages_lost: u64,
    /// Messages that arrived twice.
    pub messages_repeated: u64,
    /// Messages that arrived before one that was sent earlier to the same node.
    pub messages_overtook: u64,
    /// Writes that failed, and crashes after which something that was not synced was there.
    pub writes_failed: u64,
    /// Events that kept user code busy.
    pub slow: u64,
    /// Jumps of wall clocks.
    pub jumps: u64,
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

/// Why a run did not come to its end.
#[derive(Debug)]
pub enum Stop {
    /// A rule broke.
    Broken(Broken),
    /// User code failed, or whoever runs it wants no more.
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

type Held<T = ()> = Result<T, Stop>;

fn broken<T>(rule: &'static str, what: impl Into<String>) -> Held<T> {
    Err(Stop::Broken(Broken {
        rule,
        what: what.into(),
    }))
}

/// The most nodes that may own the daemon.
pub const NODES_MAX: usize = 8;

/// Which number is whose.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Nodes that may own the daemon.
    candidates: usize,
    /// Consumers of its chain.
    consumers: usize,
}

impl Layout {
    /// Nodes with machines: one more, for orders.
    const fn nodes(self) -> usize {
        self.candidates + 1
    }

    const fn senders(self) -> [usize; 2] {
        [self.candidates + 1, self.candidates + 2]
    }

    fn readers(self) -> Range<usize> {
        self.candidates + 3..self.candidates + 3 + self.consumers
    }

    /// The directory.
    const fn centre(self) -> usize {
        self.candidates + 5
    }

    const fn all(self) -> usize {
        self.candidates + 6
    }
}

/// Whose key signs takeovers.
const AUTHORITY: usize = NODES_MAX;
/// When a run begins.
const START: Duration = Duration::from_secs(1);
const FULL: &str = "every pair has its secret half";

static NODE_KEYS: LazyLock<[Keypair; NODES_MAX + 1]> =
    LazyLock::new(|| [0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79].map(keypair));
static NODE_IDS: LazyLock<[EntityId; NODES_MAX + 1]> =
    LazyLock::new(|| [0, 1, 2, 3, 4, 5, 6, 7, 8].map(|node: usize| NODE_KEYS[node].entity_id()));
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

/// The number of a move, from 1.
fn number_of(mid: &MigrationId) -> u64 {
    mid.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The time of day when a run begins, if nothing jumped: 2026.
const WALL_START: u64 = 1_767_225_600_000;
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
    layout: Layout,
    kind: Box<dyn Kind>,
    /// Every event that was sent, by its content.
    given: BTreeMap<u64, Rc<Given>>,
    reference: Reference,
    /// Whether the daemon is compared with one that never moves.
    compares: bool,
    timeline: Timeline,
    coverage: Coverage,
    /// What nodes said of moves, to be said again.
    said: Vec<(usize, usize, Message)>,
    /// By how many milliseconds the wall clock of each is off.
    walls: Vec<i64>,
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
    runs: Vec<u64>,
    /// What was copied for each takeover, and the records before it.
    takeovers: BTreeMap<u64, (disk::Image, Vec<OwnershipRecord>)>,
}

impl Scene {
    fn new(seed: u64, options: &Options, kind: Box<dyn Kind>) -> Self {
        let mut random = SplitMix64::new(seed);
        let layout = Layout {
            candidates: options.nodes,
            // A plan is about user code, and no user code sees a consumer.
            consumers: if options.plan.is_some() { 0 } else { 2 },
        };
        Self {
            now: START,
            options: *options,
            layout,
            kind,
            given: BTreeMap::new(),
            reference: Reference::default(),
            compares: options.mistake.is_none() && !options.takeovers,
            timeline: Timeline::new(options.plan.is_some()),
            coverage: Coverage::default(),
            said: Vec::new(),
            walls: vec![0; layout.all()],
            network: Network::new(layout.all(), random.next_u64(), options.network),
            facts: Facts::new(options),
            report: Report::default(),
            is_calm: false,
            is_counting: false,
            images: BTreeMap::new(),
            frozen: BTreeMap::new(),
            next_mid: 0,
            runs: vec![0; layout.nodes()],
            takeovers: BTreeMap::new(),
            random,
        }
    }

    fn makes(&self, mistake: Mistake) -> bool {
        self.options.mistake == Some(mistake)
    }

    fn note(&mut self, note: Note) {
        self.timeline.note(self.now, self.report.steps, note);
    }

    /// A node took an event in.
    fn took(&mut self, node: usize, input: &Input, processed: u64) {
        if self.options.plan.is_some() {
            let given = self.given(&input.uid);
            self.note(Note::Applied(node, given.number, processed));
            self.timeline.commit(&[
                &self.now.as_nanos().to_le_bytes(),
                &(node as u64).to_le_bytes(),
                &given.number.to_le_bytes(),
                &given.payload,
                input.digest.as_bytes(),
            ]);
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if let Some(plan) = self.options.plan.filter(|_| !self.is_calm) {
            if plan.faults.loss.happens(&mut self.random) {
                self.report.messages_lost += 1;
                return;
            }
            if plan.faults.duplicate.happens(&mut self.random) {
                self.report.messages_repeated += 1;
                self.network.send(self.now, from, to, message.clone());
            }
        }
        self.network.send(self.now, from, to, message);
    }

    /// A moment from now, at most so many microseconds.
    fn soon(&mut self, micros_max: usize) -> Duration {
        self.now + Duration::from_micros(self.random.below(micros_max) as u64 + 1)
    }

    /// The time of day, as a node sees it.
    fn wall(&self, node: usize) -> UnixMs {
        let off = self.walls.get(node).copied().unwrap_or(0);
        UnixMs::new(WALL_START.saturating_add_signed(off)).plus(self.now)
    }

    fn one_in(&mut self, many: usize) -> bool {
        let is_random = !self.is_calm && self.options.scripted.is_none() && self.options.plan.is_none();
        is_random && self.random.below(many) == 0
    }
}

/// The handle of the daemon that is simulated.
#[must_use]
pub fn origin() -> Origin {
    ENTITY.origin()
}

/// A run that came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// What happened.
    pub report: Report,
    /// Of everything that happened.
    pub digest: Digest,
    /// How long it took there.
    pub simulated: Duration,
}

/// A run that did not.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub why: Stop,
    /// At which step.
    pub step: u64,
    /// What led to it, newest last.
    pub timeline: Vec<String>,
}

/// Simulates one seed.
///
/// # Errors
/// The rule that broke first.
///
/// # Panics
/// Where a machine found a bug of its own.
pub fn run(seed: u64, options: &Options) -> Result<Report, Broken> {
    run_covering(seed, options).0
}

/// The same, with which machine was given which signal in which phase.
///
/// # Panics
/// Where a machine found a bug of its own.
pub fn run_covering(seed: u64, options: &Options) -> (Result<Report, Broken>, Coverage) {
    let (outcome, coverage) = simulated(seed, options, Box::new(Numbers));
    let outcome = outcome.map(|run| run.report).map_err(|failure| match failure.why {
        Stop::Broken(broken) => broken,
        Stop::Fault(fault) => Broken {
            rule: "Machines",
            what: fault.to_string(),
        },
    });
    (outcome, coverage)
}

/// Simulates one seed with daemons of a kind.
///
/// # Errors
/// The rule that broke first, or how user code failed.
///
/// # Panics
/// Where a machine found a bug of its own.
pub fn simulate(seed: u64, options: &Options, kind: Box<dyn Kind>) -> Result<Run, Failure> {
    simulated(seed, options, kind).0
}

fn simulated(seed: u64, options: &Options, kind: Box<dyn Kind>) -> (Result<Run, Failure>, Coverage) {
    let mut world = World::new(seed, options, kind);
    let outcome = world.begin().and_then(|()| world.run());
    let scene = &mut world.scene;
    let counters = *scene.network.counters();
    scene.report.messages_lost += counters.cut + counters.refused;
    scene.report.messages_overtook = counters.overtook;
    let ended = format!("{:?}", scene.report);
    scene.timeline.commit(&[ended.as_bytes()]);
    let outcome = match outcome {
        Ok(()) => Ok(Run {
            report: scene.report,
            digest: scene.timeline.digest(),
            simulated: scene.now - START,
        }),
        Err(why) => Err(Failure {
            why,
            step: scene.report.steps,
            timeline: scene.timeline.lines(),
        }),
    };
    (outcome, std::mem::take(&mut scene.coverage))
}
