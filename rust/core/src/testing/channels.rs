//! Channels on a network that goes wrong, with the machines that a node uses. One seed gives one run.
//!
//! Two nodes publish on an open and on a gated channel each. Six daemons on three other nodes read them, alone or in a queue
//! group, and publish on them from where they are, with tokens, without, and with those of others. Messages get lost, late,
//! repeated and overtaken; nodes are cut off, stand still, crash and come back; tokens are issued, expire and are taken
//! back. After every step the rules of `facts` are checked; when everything is quiet again, everything has to be settled.
//!
//! [`run`] says which rule broke. A [`Mistake`] is planted around the machines, to show that the simulation would find it.

mod facts;
mod publisher;
mod reader;

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use super::network::{self, Network};
use super::random::SplitMix64;
use crate::channel_frame::ChannelFrame;
use crate::id::EntityId;
use crate::identity::Keypair;
use crate::name::ChannelName;
use crate::time::UnixMs;
use facts::Facts;
use publisher::Publisher;
use reader::Reader;

/// A mistake that a node could make around the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// Whoever publishes on a gated channel from elsewhere is not asked for a token.
    PublishUnchecked,
    /// Whoever subscribes to a gated channel is not asked for a token.
    SubscribeUnchecked,
    /// The key stays when a permission ends.
    KeyNotRotated,
    /// Who has left a gated channel is not looked at when a permission ends.
    ForgetsWhoLeft,
    /// A subscriber does not ask for what is missing.
    NoRepair,
    /// A request to publish that comes again is published again.
    PublishesRepeats,
    /// A subscriber passes over what does not come any more without a word.
    GapNotTold,
    /// When a daemon leaves, all of its node are forgotten.
    RemovesSiblings,
    /// A subscriber hands out what comes again.
    NoDedupe,
    /// When a member joins a group, it gets what another has.
    GivesToTwo,
    /// A member says once that it is done with a turn.
    TakenOnce,
    /// A member of a group that is none any more is not told to leave.
    KeepsGhosts,
    /// What a node hears for one member of a group counts as heard for all.
    HeardOfSiblings,
    /// Nobody says how far the numbers of a quiet channel go.
    NoHeads,
    /// A request to publish is sent again to a later run of the owner, which knows nothing of it.
    AsksLaterRuns,
}

impl Mistake {
    /// All mistakes.
    pub const ALL: [Self; 15] = [
        Self::PublishUnchecked,
        Self::SubscribeUnchecked,
        Self::KeyNotRotated,
        Self::ForgetsWhoLeft,
        Self::NoRepair,
        Self::PublishesRepeats,
        Self::GapNotTold,
        Self::RemovesSiblings,
        Self::NoDedupe,
        Self::GivesToTwo,
        Self::TakenOnce,
        Self::KeepsGhosts,
        Self::HeardOfSiblings,
        Self::NoHeads,
        Self::AsksLaterRuns,
    ];
}

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether nodes crash.
    pub crashes: bool,
    /// The network.
    pub network: network::Faults,
    /// What the nodes do wrong.
    pub mistake: Option<Mistake>,
}

impl Options {
    /// Everything goes wrong.
    #[must_use]
    pub fn rough() -> Self {
        Self {
            crashes: true,
            network: network::Faults::default(),
            mistake: None,
        }
    }

    /// The same, and nobody crashes.
    #[must_use]
    pub fn without_crashes() -> Self {
        Self {
            crashes: false,
            ..Self::rough()
        }
    }

    /// The same with 30 % of the messages repeated and 40 % late.
    #[must_use]
    pub const fn late(mut self) -> Self {
        self.network.duplicate = 300;
        self.network.late = 400;
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
    /// Events published.
    pub published: u64,
    /// Of these, from other nodes.
    pub from_elsewhere: u64,
    /// Events given out to subscribers.
    pub delivered: u64,
    /// Of these, to members of groups.
    pub turns: u64,
    /// Gaps that were told.
    pub gaps: u64,
    /// Requests that were refused, to subscribe or to publish.
    pub refused: u64,
    /// Keys that were made after the first ones.
    pub keys: u64,
    /// Crashes.
    pub crashes: u64,
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

const PUBLISHERS: usize = 2;
const READERS: usize = 3;
const NODES: usize = PUBLISHERS + READERS;
/// Two at each of the nodes that read.
const DAEMONS: usize = 2 * READERS;
/// Of the channels of a publisher, the second is gated.
const CHANNELS: usize = 2;
const GATED: usize = 1;

/// Keys of the nodes, then of the daemons.
static KEYS: LazyLock<Vec<Keypair>> = LazyLock::new(|| {
    (0..NODES + DAEMONS)
        .map(|at| Keypair::from_seed(&[small(at + 1); 32]))
        .collect()
});
static NAMES: LazyLock<[ChannelName; 3]> =
    LazyLock::new(|| ["open", "gated", "group"].map(|name| ChannelName::new(name).expect("a good name")));

fn small(at: usize) -> u8 {
    u8::try_from(at).expect("few")
}

fn node_key(node: usize) -> &'static Keypair {
    &KEYS[node]
}

fn node_id(node: usize) -> EntityId {
    KEYS[node].entity_id()
}

fn daemon_key(daemon: usize) -> &'static Keypair {
    &KEYS[NODES + daemon]
}

fn daemon_id(daemon: usize) -> EntityId {
    KEYS[NODES + daemon].entity_id()
}

fn node_of(id: &EntityId) -> Option<usize> {
    KEYS[..NODES].iter().position(|key| key.entity_id() == *id)
}

fn daemon_of(id: &EntityId) -> Option<usize> {
    KEYS[NODES..].iter().position(|key| key.entity_id() == *id)
}

fn name(channel: usize) -> &'static ChannelName {
    &NAMES[channel]
}

fn channel_of(name: &ChannelName) -> Option<usize> {
    NAMES[..CHANNELS].iter().position(|known| known == name)
}

fn group_name() -> &'static ChannelName {
    &NAMES[2]
}

/// A subscription: publisher, channel, daemon.
type Key = (usize, usize, usize);

/// Faults begin no more after so many of them.
const CHAOS: usize = 60;
/// Everything has to be settled so long after the last one.
const QUIET: Duration = Duration::from_secs(120);
/// How often a node says that it is there.
const BEAT: Duration = Duration::from_millis(250);
/// How long a publisher waits before it forgets a node that it does not hear.
const LOST_AFTER: Duration = Duration::from_millis(1_200);
/// When virtual time began.
const EPOCH_MS: u64 = 1_800_000_000_000;

/// A message, and the runs of its two nodes as its sender knows them. Without a body it says that the sender is there.
#[derive(Debug, Clone)]
struct Message {
    from_run: u64,
    to_run: u64,
    body: Vec<u8>,
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
    runs: [u64; NODES],
    /// Of each node, the runs of the others that it knows.
    known: [[u64; NODES]; NODES],
}

impl Scene {
    fn makes(&self, mistake: Mistake) -> bool {
        self.options.mistake == Some(mistake)
    }

    fn send(&mut self, from: usize, to: usize, frame: &ChannelFrame<'_>) {
        self.send_bytes(from, to, frame.to_bytes());
    }

    fn send_bytes(&mut self, from: usize, to: usize, body: Vec<u8>) {
        let message = Message {
            from_run: self.runs[from],
            to_run: self.known[from][to],
            body,
        };
        self.network.send(self.now, from, to, message);
    }

    /// A moment from now, at most so many microseconds.
    fn soon(&mut self, micros_max: usize) -> Duration {
        self.now + Duration::from_micros(self.random.below(micros_max) as u64 + 1)
    }

    fn wall(&self) -> UnixMs {
        UnixMs::new(EPOCH_MS).plus(self.now)
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        self.random.bytes(N).try_into().expect("as many as asked for")
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.random.below(many) == 0
    }
}

/// The moment of virtual time that a wall clock shows first.
fn moment(at: UnixMs) -> Duration {
    Duration::from_millis(at.get().saturating_sub(EPOCH_MS))
}

struct World {
    scene: Scene,
    publishers: [Publisher; PUBLISHERS],
    readers: [Reader; READERS],
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
        facts: Facts::default(),
        report: Report::default(),
        is_calm: false,
        runs: [1; NODES],
        known: [[1; NODES]; NODES],
        random,
    };
    World::new(scene)?.run()
}

impl World {
    fn new(mut scene: Scene) -> Held<Self> {
        let publishers = [0, 1].map(|node| Publisher::new(node, &mut scene));
        let readers = [0, 1, 2].map(|at| Reader::new(PUBLISHERS + at, scene.now));
        let mut world = Self {
            scene,
            publishers,
            readers,
            stopped: [Duration::ZERO; NODES],
            heal_at: None,
        };
        for daemon in 0..DAEMONS {
            for publisher in 0..PUBLISHERS {
                if !world.scene.one_in(3) {
                    world.issue(publisher, daemon);
                }
                let channel = world.scene.random.below(CHANNELS);
                world.subscribe((publisher, channel, daemon))?;
            }
        }
        Ok(world)
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
                chaos_at = self.scene.soon(160_000);
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
        for publisher in &self.publishers {
            next = next.min(publisher.wake_at().max(self.stopped[publisher.node]));
        }
        for reader in &self.readers {
            next = next.min(reader.wake_at().max(self.stopped[reader.node]));
        }
        next
    }

    fn wake(&mut self) -> Held {
        let now = self.scene.now;
        if self.heal_at.is_some_and(|at| at <= now) {
            self.heal_at = None;
            self.scene.network.heal();
        }
        for publisher in &mut self.publishers {
            if now >= self.stopped[publisher.node] && publisher.wake_at() <= now {
                publisher.wake(&mut self.scene)?;
            }
        }
        for reader in &mut self.readers {
            if now >= self.stopped[reader.node] && reader.wake_at() <= now {
                reader.wake(&mut self.scene)?;
            }
        }
        Ok(())
    }

    fn arrive(&mut self) -> Held {
        let Some(arrival) = self.scene.network.take_next() else {
            return Ok(());
        };
        let (from, to) = (arrival.from, arrival.to);
        let scene = &mut self.scene;
        if scene.now < self.stopped[to] {
            let until = self.stopped[to];
            scene.network.postpone(arrival, until);
            return Ok(());
        }
        let message = arrival.message;
        let what = scene.now.as_nanos() as u64 ^ (to as u64) << 56 ^ message.body.len() as u64;
        scene.report.trace = crate::mix::pair(scene.report.trace, what);
        if message.from_run < scene.known[to][from] {
            return Ok(());
        }
        if message.from_run > scene.known[to][from] {
            scene.known[to][from] = message.from_run;
            if to >= PUBLISHERS {
                self.readers[to - PUBLISHERS].restarted(from, scene)?;
            } else {
                self.publishers[to].restarted(from, scene)?;
            }
        }
        if message.to_run != scene.runs[to] {
            scene.send_bytes(to, from, Vec::new());
            return Ok(());
        }
        if to < PUBLISHERS {
            self.publishers[to].hear(from, &message.body, scene)
        } else {
            self.readers[to - PUBLISHERS].hear(from, &message.body, scene)
        }
    }

    fn chaos(&mut self) -> Held {
        let scene = &mut self.scene;
        let (publisher, channel) = (scene.random.below(PUBLISHERS), scene.random.below(CHANNELS));
        let (daemon, node) = (scene.random.below(DAEMONS), scene.random.below(NODES));
        let key = (publisher, channel, daemon);
        match scene.random.below(72) {
            0..=19 => {
                let many = if scene.one_in(8) { 60 } else { 5 };
                let count = scene.random.below(many) + 1;
                self.publishers[publisher].publish(channel, count, scene)
            }
            20..=29 => {
                let count = scene.random.below(4) + 1;
                self.readers[daemon / 2].publish(key, count, scene)
            }
            30..=41 => self.subscribe(key),
            42..=47 => self.readers[daemon / 2].unsubscribe(key, scene),
            48..=52 => {
                self.issue(publisher, daemon);
                Ok(())
            }
            53..=56 => self.publishers[publisher].revoke(daemon, scene),
            57..=60 => {
                self.stopped[node] = scene.soon(1_500_000);
                Ok(())
            }
            61..=65 => {
                let group = [node, scene.random.below(NODES)];
                let both = scene.one_in(2);
                scene.network.cut(&group, both);
                self.heal_at = Some(scene.soon(2_500_000));
                Ok(())
            }
            66..=67 if scene.options.crashes => self.publishers[publisher].crash(scene),
            68..=70 if scene.options.crashes => self.readers[daemon / 2].crash(scene),
            _ => self.publishers[publisher].rotate(scene),
        }
    }

    fn subscribe(&mut self, key: Key) -> Held {
        let grouped = self.scene.one_in(2);
        self.readers[key.2 / 2].subscribe(key, grouped, &mut self.scene)
    }

    /// A publisher permits a daemon something.
    fn issue(&mut self, publisher: usize, daemon: usize) {
        let token = self.publishers[publisher].issue(daemon, &mut self.scene);
        self.readers[daemon / 2].take_token(publisher, daemon, token);
    }

    /// From now on nothing goes wrong any more.
    fn calm(&mut self) {
        self.scene.is_calm = true;
        self.scene.network.calm();
        self.heal_at = None;
        self.stopped = [Duration::ZERO; NODES];
    }

    fn is_done(&self) -> bool {
        let at = |publisher: usize, channel: usize| self.publishers[publisher].at(channel);
        self.publishers.iter().all(Publisher::is_done)
            && self.readers.iter().all(|reader| {
                reader.is_done(at)
                    && reader
                        .members()
                        .all(|(key, term)| self.publishers[key.0].has_member(key, term))
            })
    }

    fn finish(mut self) -> Held<Report> {
        if !self.is_done() {
            let waits = [
                self.publishers.iter().map(Publisher::waits).collect::<Vec<_>>(),
                self.readers.iter().map(Reader::waits).collect(),
            ];
            return broken("Progress", format!("what waits: {waits:?}"));
        }
        self.scene.facts.at_the_end()?;
        self.scene.report.messages_lost = self.scene.network.counters().lost;
        Ok(self.scene.report)
    }
}
