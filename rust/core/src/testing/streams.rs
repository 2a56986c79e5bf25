//! Linked streams on a network and on disks that go wrong, with the machines that a node uses. One seed gives one run.
//!
//! Two senders send to two daemons; the first daemon also sends some of its outputs to the second; consumers follow both
//! chains. Messages get lost, late, repeated and overtaken, nodes are cut off, crash, stop for a while; disks tear, fail and
//! fill up. A node that owned the daemons before, and one that remembers that, give wrong directions. After every step the
//! rules of `facts` are checked; when everything is quiet again, everything has to be settled.
//!
//! [`run`] says which rule broke. A [`Mistake`] is planted around the machines, to show that the simulation would find it.

mod facts;
mod owner;
mod reader;
mod sender;

use std::fmt;
use std::time::Duration;

use super::network::{self, Network};
use super::random::SplitMix64;
use super::store;
use crate::config::Durability;
use crate::id::EntityId;
use crate::stream::Frame;
use facts::Facts;
use owner::Owner;
use reader::Reader;
use sender::Sender;

/// A mistake that a node could make around the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// Events do not say which number was sent before them.
    NoPrev,
    /// Nothing is kept to answer a repeated event with.
    ReceiptsNotKept,
    /// The window counts open events, not the distance from the oldest.
    WindowCountsOpen,
    /// A sender begins at 1 again after a restart.
    SenderRestartsAtOne,
    /// A sender tries again under a new number.
    RetriesUnderNewNumber,
    /// An event is acknowledged when it took effect, and not yet when that is durable.
    AcknowledgesEarly,
    /// A repeated event is acknowledged before the event itself is durable.
    AcknowledgesDuplicatesEarly,
    /// An event is acknowledged when it is queued.
    AcknowledgesQueued,
    /// An event below the cursor of which nothing is known is acknowledged.
    AcknowledgesStale,
    /// A sender believes everybody who names an owner.
    BelievesLowerEpochs,
    /// An owner takes acknowledgements of outputs of any epoch.
    OutAckWithoutEpoch,
    /// A consumer takes the next number, whatever its parent.
    NoParentCheck,
    /// An owner that lost its state goes on in the same epoch.
    NoRestartRecord,
    /// Outputs are published before they are durable.
    PublishesEarly,
    /// What is due to another daemon is forgotten when it was sent.
    ForgetsDue,
    /// The row of an output that is due goes when that one is settled, whatever was sent before it, and the window does not
    /// wait for it.
    ForgetsRowsEarly,
}

impl Mistake {
    /// All mistakes.
    pub const ALL: [Self; 16] = [
        Self::NoPrev,
        Self::ReceiptsNotKept,
        Self::WindowCountsOpen,
        Self::SenderRestartsAtOne,
        Self::RetriesUnderNewNumber,
        Self::AcknowledgesEarly,
        Self::AcknowledgesDuplicatesEarly,
        Self::AcknowledgesQueued,
        Self::AcknowledgesStale,
        Self::BelievesLowerEpochs,
        Self::OutAckWithoutEpoch,
        Self::NoParentCheck,
        Self::NoRestartRecord,
        Self::PublishesEarly,
        Self::ForgetsDue,
        Self::ForgetsRowsEarly,
    ];
}

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// What the daemons promise.
    pub durability: Durability,
    /// Whether owners crash.
    pub owners_crash: bool,
    /// Whether an owner that comes back from its journal begins another epoch, at the head of its chain.
    pub new_epochs: bool,
    /// One in so many outputs of the first daemon is for the other.
    pub due_every: u8,
    /// The network.
    pub network: network::Faults,
    /// The disks of the owners.
    pub disk: store::Faults,
    /// What the nodes do wrong.
    pub mistakes: [Option<Mistake>; 2],
}

impl Options {
    /// Owners with journals that crash.
    #[must_use]
    pub fn journal() -> Self {
        Self {
            durability: Durability::Journal,
            owners_crash: true,
            new_epochs: false,
            due_every: 3,
            network: network::Faults::default(),
            disk: store::Faults {
                full: 20,
                sync_fails: 20,
                slow: 100,
                snapshot_rots: 0,
            },
            mistakes: [None; 2],
        }
    }

    /// The same, and an owner that comes back begins another epoch.
    #[must_use]
    pub fn journal_in_new_epochs() -> Self {
        Self {
            new_epochs: true,
            ..Self::journal()
        }
    }

    /// The same, and every output of the first daemon is for the other: windows are full.
    #[must_use]
    pub fn journal_all_due() -> Self {
        Self {
            due_every: 1,
            ..Self::journal_in_new_epochs()
        }
    }

    /// Owners that forget everything when they crash.
    #[must_use]
    pub fn none() -> Self {
        Self {
            durability: Durability::None,
            ..Self::journal()
        }
    }

    /// Owners that keep nothing, and do not crash.
    #[must_use]
    pub fn none_without_crashes() -> Self {
        Self {
            owners_crash: false,
            ..Self::none()
        }
    }

    /// The same with 30 % of the messages repeated and 40 % late.
    #[must_use]
    pub fn late(mut self) -> Self {
        self.network.duplicate = 300;
        self.network.late = 400;
        self
    }

    /// The same with a mistake.
    #[must_use]
    pub const fn with(mut self, mistake: Mistake) -> Self {
        let free = if self.mistakes[0].is_none() { 0 } else { 1 };
        self.mistakes[free] = Some(mistake);
        self
    }

    fn makes(&self, mistake: Mistake) -> bool {
        self.mistakes.contains(&Some(mistake))
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
    /// Crashes of owners, senders and consumers.
    pub crashes: u64,
    /// Acknowledged events that were reported as lost.
    pub lost: u64,
    /// Messages that were lost.
    pub messages_lost: u64,
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

const SENDERS: [usize; 2] = [0, 1];
const OWNERS: [usize; 2] = [2, 3];
const READERS: [usize; 2] = [4, 5];
/// Owned both daemons before the run.
const FORMER: usize = 6;
const NODES: usize = 7;
const FIRST_EPOCH: u64 = 2;

/// Key of a node.
fn node_key(node: usize) -> EntityId {
    EntityId::from_bytes([100 + u8::try_from(node).expect("few"); 32])
}

fn node_of(key: EntityId) -> Option<usize> {
    usize::from(key.as_bytes()[0])
        .checked_sub(100)
        .filter(|node| *node < NODES)
}

/// The daemons.
const DAEMONS: [EntityId; 2] = [EntityId::from_bytes([1; 32]), EntityId::from_bytes([2; 32])];

fn daemon_of(entity: EntityId) -> Option<usize> {
    DAEMONS.iter().position(|daemon| *daemon == entity)
}

/// Faults begin no more after so many of them.
const CHAOS: usize = 24;
/// Everything has to be settled so long after the last one.
const QUIET: Duration = Duration::from_secs(120);

/// What every part of the world uses.
struct Scene {
    now: Duration,
    options: Options,
    random: SplitMix64,
    network: Network<Vec<u8>>,
    facts: Facts,
    report: Report,
    is_calm: bool,
}

impl Scene {
    fn makes(&self, mistake: Mistake) -> bool {
        self.options.makes(mistake)
    }

    fn send(&mut self, from: usize, to: usize, frame: &Frame<'_>) {
        self.network.send(self.now, from, to, frame.to_bytes());
    }

    /// A moment from now, at most so many microseconds.
    fn soon(&mut self, micros_max: usize) -> Duration {
        self.now + Duration::from_micros(self.random.below(micros_max) as u64 + 1)
    }
}

struct World {
    scene: Scene,
    senders: [Sender; 2],
    owners: [Owner; 2],
    readers: [Reader; 2],
    /// Until when a node does nothing at all.
    stopped: [Duration; NODES],
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
    let scene = Scene {
        now: Duration::from_secs(1),
        options: *options,
        network: Network::new(NODES, random.next_u64(), options.network),
        facts: Facts::new(options.durability == Durability::Journal),
        report: Report::default(),
        is_calm: false,
        random,
    };
    World::new(scene).run()
}

impl World {
    fn new(mut scene: Scene) -> Self {
        let owners = [0, 1].map(|daemon| Owner::new(daemon, &mut scene));
        Self {
            senders: [0, 1].map(|sender| Sender::new(sender, &mut scene)),
            readers: [
                Reader::new(READERS[0], &[0, 1], &mut scene),
                Reader::new(READERS[1], &[0], &mut scene),
            ],
            owners,
            scene,
            stopped: [Duration::ZERO; NODES],
            heal_at: None,
        }
    }

    fn run(mut self) -> Held<Report> {
        let mut chaos_left = CHAOS;
        let mut chaos_at = self.scene.now;
        let mut end = None;
        loop {
            let wake_at = self.wake_at();
            let mut next = wake_at;
            if let Some(at) = self.scene.network.next_at() {
                next = next.min(at);
            }
            if chaos_left > 0 {
                next = next.min(chaos_at);
            }
            self.scene.now = self.scene.now.max(next);
            if let Some(end) = end
                && (next > end || self.is_done())
            {
                return self.finish();
            }
            self.scene.report.steps += 1;
            if self.scene.network.next_at().is_some_and(|at| at <= self.scene.now) {
                self.arrive()?;
            } else if chaos_left > 0 && chaos_at <= self.scene.now {
                chaos_left -= 1;
                chaos_at = self.scene.soon(60_000);
                self.chaos()?;
                if chaos_left == 0 {
                    self.calm();
                    end = Some(self.scene.now + QUIET);
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
        for sender in &self.senders {
            next = next.min(sender.wake_at().max(self.stopped[sender.node]));
        }
        for owner in &self.owners {
            next = next.min(owner.wake_at().max(self.stopped[owner.node]));
        }
        next
    }

    fn wake(&mut self) -> Held {
        let now = self.scene.now;
        if self.heal_at.is_some_and(|at| at <= now) {
            self.heal_at = None;
            self.scene.network.heal();
        }
        for sender in &mut self.senders {
            if now >= self.stopped[sender.node] && sender.wake_at() <= now {
                sender.wake(&mut self.scene)?;
            }
        }
        for owner in &mut self.owners {
            if now >= self.stopped[owner.node] && owner.wake_at() <= now {
                owner.wake(&mut self.scene)?;
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
        let Ok(frame) = Frame::decode(&arrival.message) else {
            return broken("Frames", "a frame cannot be read");
        };
        self.scene.report.trace = crate::mix::pair(
            self.scene.report.trace,
            self.scene.now.as_nanos() as u64 ^ (to as u64) << 56 ^ arrival.message.len() as u64,
        );
        match to {
            0 | 1 => self.senders[to].hear(&frame, &mut self.scene),
            2 | 3 => self.owners[to - OWNERS[0]].hear(from, &frame, &mut self.scene),
            4 | 5 => self.readers[to - READERS[0]].hear(from, &frame, &mut self.scene),
            _ => {
                direct_wrongly(to, from, &frame, &mut self.scene);
                Ok(())
            }
        }
    }

    fn chaos(&mut self) -> Held {
        let scene = &mut self.scene;
        match scene.random.below(40) {
            0..=23 => {
                let sender = scene.random.below(2);
                let many = if scene.random.below(30) == 0 { 100 } else { 5 };
                let count = scene.random.below(many) + 1;
                self.senders[sender].write(count, scene)
            }
            24..=27 => {
                let owner = scene.random.below(2);
                let until = scene.soon(150_000);
                self.owners[owner].pause(until);
                Ok(())
            }
            28..=29 => {
                let node = scene.random.below(NODES);
                self.stopped[node] = scene.soon(400_000);
                Ok(())
            }
            30..=32 => {
                let group = [scene.random.below(NODES), scene.random.below(NODES)];
                let both = scene.random.below(2) == 0;
                scene.network.cut(&group, both);
                self.heal_at = Some(scene.soon(500_000));
                Ok(())
            }
            33..=35 if scene.options.owners_crash => {
                let owner = scene.random.below(2);
                self.owners[owner].crash(scene);
                Ok(())
            }
            36..=37 => {
                let sender = scene.random.below(2);
                self.senders[sender].crash(scene);
                Ok(())
            }
            _ => {
                let reader = scene.random.below(2);
                self.readers[reader].crash(scene);
                Ok(())
            }
        }
    }

    /// From now on nothing goes wrong any more.
    fn calm(&mut self) {
        self.scene.is_calm = true;
        self.scene.network.calm();
        self.heal_at = None;
        self.stopped = [Duration::ZERO; NODES];
        self.owners.iter_mut().for_each(Owner::calm);
    }

    fn is_done(&self) -> bool {
        let epochs = [0, 1].map(|daemon| self.owners[daemon].announced());
        self.senders.iter().all(Sender::is_done)
            && self.owners.iter().all(Owner::is_done)
            && self.readers.iter().all(|reader| reader.is_at(&epochs))
    }

    fn finish(mut self) -> Held<Report> {
        if !self.is_done() {
            let waits = [
                self.senders.iter().map(Sender::waits).collect::<Vec<_>>(),
                self.owners.iter().map(Owner::waits).collect(),
                self.readers.iter().map(Reader::waits).collect(),
            ];
            return broken("Progress", format!("what waits: {waits:?}"));
        }
        self.scene.facts.at_the_end()?;
        self.scene.report.messages_lost = self.scene.network.counters().lost;
        Ok(self.scene.report)
    }
}

/// What a node says that is no owner any more, and one that remembers only that.
fn direct_wrongly(node: usize, from: usize, frame: &Frame<'_>, scene: &mut Scene) {
    let (flow, sequence, believed) = match frame {
        Frame::Event(event) => (event.flow, event.sequence, event.epoch),
        Frame::Locate { flow } => (*flow, 0, 0),
        _ => return,
    };
    let Some(daemon) = daemon_of(flow.entity) else { return };
    let known = if node == FORMER {
        (node_key(OWNERS[daemon]), FIRST_EPOCH)
    } else {
        (node_key(FORMER), FIRST_EPOCH - 1)
    };
    let answer = crate::inflow::elsewhere(Some(known), flow, sequence, believed);
    scene.send(node, from, &answer);
}
