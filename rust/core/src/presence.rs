//! Presence: which nodes are there, as one node sees it.
//!
//! | state | next heartbeat | heartbeat of a new run | repeated heartbeat, or of an old run | the engine says it left | silent: suspect | silent: dead |
//! |---|---|---|---|---|---|---|
//! | Unknown | – | Alive, greet | – | – | – | – |
//! | Alive | Alive | Alive, greet | refused | Suspect | Suspect | Dead |
//! | Suspect | Alive | Alive, greet | refused | Suspect | Suspect | Dead |
//! | Dead | Alive | Alive, greet | refused | Dead | Dead | Dead |
//!
//! A node beats at intervals with a seeded jitter, and says in each heartbeat when the next one will come: where there are
//! many nodes they beat more rarely, so that what each hears stays bounded. Who misses three intervals is suspect, who
//! misses ten is dead. Only heartbeats count: what an engine says of who left is a hint, which makes suspect and never
//! dead, and what it says of who came is nothing.
//!
//! Invariants
//! * Same state, same signals, same times: same actions, in the same order. Time is a span since the start of the node.
//! * Only a heartbeat that is newer than all before makes a node alive. Runs rise; in a run, counters do.
//! * There are at most so many peers. A dead one gives way to a new one, the longest dead first; beyond that new ones are
//!   refused. No run is forgotten otherwise: an old heartbeat does not raise the dead.
//! * A node that was held up itself blames nobody: the time that it lost counts for no peer.
//!
//! Source: Dadgar, Phillips, Currey, "Lifeguard: Local Health Awareness for More Accurate Failure Detection", DSN 2018,
//! for the last; Chandra, Toueg, "Unreliable Failure Detectors for Reliable Distributed Systems", J. ACM 43(2), 1996.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use crate::capability::CapabilitySet;
use crate::frame::Refusal;
use crate::heartbeat::{Beat, ECHOES_MAX, Echo, Heartbeat, INTERVAL_MS};
use crate::id::{EntityId, NodeId};
use crate::mix;

/// Heartbeats of one's own whose time is remembered.
const SENT_MAX: usize = 16;

/// How a peer looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerState {
    /// It beats.
    Alive,
    /// It missed some heartbeats, or the engine says that it left.
    Suspect,
    /// It missed many.
    Dead,
}

impl PeerState {
    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
        }
    }
}

/// What may happen to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A heartbeat of its run, with a higher counter than all before.
    Next,
    /// A heartbeat of a later run.
    NewRun,
    /// A heartbeat that is not newer than all before.
    Repeated,
    /// A heartbeat of an earlier run.
    OldRun,
    /// The engine says that it left.
    Left,
    /// It was silent for as long as makes a node suspect.
    Silent,
    /// It was silent for as long as makes a node dead.
    Gone,
}

/// Decides what becomes of a peer; `None` is one that was never heard of.
///
/// # Errors
/// [`Refusal`]: nothing changes.
pub const fn next(state: Option<PeerState>, event: Event) -> Result<Option<PeerState>, Refusal> {
    use PeerState::{Alive, Dead, Suspect};
    Ok(match (state, event) {
        (_, Event::Next | Event::NewRun) => Some(Alive),
        (_, Event::Repeated) => return Err(Refusal::Replayed),
        (_, Event::OldRun) => return Err(Refusal::OtherRun),
        (None, Event::Left | Event::Silent | Event::Gone) => None,
        (Some(Dead), Event::Left | Event::Silent) => Some(Dead),
        // A hint may be false: it takes silence to make a node dead.
        (Some(Alive | Suspect), Event::Left | Event::Silent) => Some(Suspect),
        (Some(_), Event::Gone) => Some(Dead),
    })
}

/// Options of presence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PresenceConfig {
    /// Time between heartbeats, where there are few nodes.
    pub interval: Duration,
    /// Share of the interval by which heartbeats come earlier or later.
    pub jitter: f64,
    /// Intervals without a heartbeat after which a node is suspect.
    pub suspect_after: u32,
    /// Intervals without a heartbeat after which a node is dead.
    pub dead_after: u32,
    /// Peers that are looked after at most.
    pub peers_max: usize,
    /// Heartbeats that one node should hear in a second at most: where there are more nodes, each beats more rarely.
    pub beats_per_second: u32,
    /// Seed of the jitter.
    pub seed: u64,
}

impl Default for PresenceConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            jitter: 0.1,
            suspect_after: 3,
            dead_after: 10,
            peers_max: 4096,
            beats_per_second: 30,
            seed: 0,
        }
    }
}

/// Whose heartbeats are heard.
#[derive(Debug, Clone)]
pub enum Members {
    /// Those of these nodes.
    Listed(Arc<BTreeSet<EntityId>>),
    /// Those of everybody who can send: the engine lets in nobody else.
    Anybody,
}

impl Members {
    /// Whether a node is one.
    #[must_use]
    pub fn has(&self, node: &EntityId) -> bool {
        match self {
            Self::Listed(listed) => listed.contains(node),
            Self::Anybody => true,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Listed(listed) => listed.len(),
            Self::Anybody => 0,
        }
    }
}

/// Another node, as this one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The newest heartbeat.
    pub beat: Arc<Beat>,
    /// When it was heard.
    pub heard: Duration,
    /// Since when its silence counts: time in which this node was held up itself does not.
    pub silent_since: Duration,
    /// How it looks.
    pub state: PeerState,
    /// The last round trip measured.
    pub rtt: Option<Duration>,
}

/// What goes into presence.
#[derive(Debug, Clone)]
pub enum Signal {
    /// A heartbeat whose signature was checked.
    Heard(Arc<Beat>),
    /// The engine says that a node left.
    Left(EntityId),
    /// What this node offers from now on.
    Announce(Arc<CapabilitySet>),
    /// Time passed.
    Turn,
}

/// What presence decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Say this to everybody, under this counter.
    Beat {
        /// The number of the heartbeat.
        counter: u64,
        /// Time until the next, about.
        interval_ms: u32,
        /// What was heard of others.
        echoes: Vec<Echo>,
        /// What this node offers.
        capabilities: Arc<CapabilitySet>,
    },
    /// Send the last heartbeat, if there is one, to a node that just began to run: it has not heard it.
    Greet(EntityId),
    /// A peer looks different.
    Changed {
        /// Which.
        node: NodeId,
        /// How it looked; `None`: it was never heard of.
        from: Option<PeerState>,
        /// How it looks.
        to: PeerState,
    },
    /// A heartbeat was refused.
    Refuse(Refusal),
}

/// What happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PresenceStats {
    /// Heartbeats taken.
    pub heard: u64,
    /// Heartbeats that this node was to send.
    pub beats: u64,
    /// Times that this node was held up so long that it could not judge others.
    pub stalls: u64,
    /// Dead peers that gave way to new ones.
    pub replaced: u64,
}

/// Which nodes are there.
#[derive(Debug, Clone)]
pub struct Presence {
    config: PresenceConfig,
    node: NodeId,
    run: u64,
    members: Members,
    peers: BTreeMap<NodeId, Peer>,
    counter: u64,
    /// When the newest heartbeats of this node were sent, the newest last.
    sent: Vec<(u64, Duration)>,
    next_beat: Duration,
    /// Before this no peer can be late.
    next_look: Duration,
    /// Whose echo was sent last.
    echoed: Option<NodeId>,
    capabilities: Arc<CapabilitySet>,
    stats: PresenceStats,
}

impl Presence {
    /// Begins, with a heartbeat at once.
    #[must_use]
    pub fn new(config: PresenceConfig, node: NodeId, run: u64, members: Members) -> Self {
        Self {
            config,
            node,
            run,
            members,
            peers: BTreeMap::new(),
            counter: 0,
            sent: Vec::with_capacity(SENT_MAX),
            next_beat: Duration::ZERO,
            next_look: Duration::MAX,
            echoed: None,
            capabilities: Arc::default(),
            stats: PresenceStats::default(),
        }
    }

    /// The peers.
    #[must_use]
    pub const fn peers(&self) -> &BTreeMap<NodeId, Peer> {
        &self.peers
    }

    /// One peer. Its full id decides.
    #[must_use]
    pub fn peer(&self, node: &EntityId) -> Option<&Peer> {
        let peer = self.peers.get(&node.node_id())?;
        (peer.beat.from == *node).then_some(peer)
    }

    /// Whose heartbeats are heard.
    #[must_use]
    pub const fn members(&self) -> &Members {
        &self.members
    }

    /// What this node offers.
    #[must_use]
    pub const fn capabilities(&self) -> &Arc<CapabilitySet> {
        &self.capabilities
    }

    /// The counters.
    #[must_use]
    pub const fn stats(&self) -> &PresenceStats {
        &self.stats
    }

    /// When it has to be given [`Signal::Turn`] next.
    #[must_use]
    pub fn due(&self) -> Duration {
        self.next_beat.min(self.next_look)
    }

    /// Time between heartbeats of this node now.
    #[must_use]
    pub fn interval(&self) -> Duration {
        let nodes = self.peers.len().max(self.members.len()) as u32;
        let per_second = self.config.beats_per_second.max(1);
        self.config.interval.max(Duration::from_secs(1) * nodes / per_second)
    }

    /// Decides one step.
    pub fn step(&mut self, now: Duration, signal: Signal) -> Vec<Action> {
        let mut actions = Vec::new();
        match signal {
            Signal::Heard(beat) => self.hear(now, beat, &mut actions),
            Signal::Left(entity) => {
                let node = entity.node_id();
                if self.peer(&entity).is_some() {
                    self.change(node, Event::Left, &mut actions);
                }
            }
            Signal::Announce(capabilities) => {
                self.capabilities = capabilities;
                // Who announces again and again does not flood the others.
                let last = self.sent.last().map_or(Duration::ZERO, |(_, at)| *at);
                let soon = last.saturating_add(self.config.interval / 10).max(now);
                self.next_beat = self.next_beat.min(soon);
            }
            Signal::Turn => self.turn(now, &mut actions),
        }
        actions
    }

    fn hear(&mut self, now: Duration, beat: Arc<Beat>, actions: &mut Vec<Action>) {
        let known = self.peers.get(&beat.node);
        // A handle finds an entry; the id found there decides.
        if known.is_none_or(|peer| peer.beat.from != beat.from) {
            let refused = match known {
                Some(_) => Some(Refusal::UnknownSender),
                None if beat.node == self.node => Some(Refusal::Ourselves),
                None if !self.members.has(&beat.from) => Some(Refusal::UnknownSender),
                None => self.make_room().err(),
            };
            if let Some(refusal) = refused {
                actions.push(Action::Refuse(refusal));
                return;
            }
        }
        let known = self.peers.get(&beat.node);
        let event = match known.map(|peer| (peer.beat.run, peer.beat.counter)) {
            None => Event::NewRun,
            Some((run, _)) if beat.run > run => Event::NewRun,
            Some((run, _)) if beat.run < run => Event::OldRun,
            Some((_, counter)) if beat.counter > counter => Event::Next,
            Some(_) => Event::Repeated,
        };
        let from = known.map(|peer| peer.state);
        let to = match next(from, event) {
            Ok(Some(to)) => to,
            Ok(None) => return,
            Err(refusal) => {
                actions.push(Action::Refuse(refusal));
                return;
            }
        };
        let before = known.filter(|_| event == Event::Next).and_then(|peer| peer.rtt);
        let rtt = self.round_trip(now, &beat.heartbeat).or(before);
        let (node, entity) = (beat.node, beat.from);
        let first = self.silence(&beat, self.config.suspect_after);
        self.next_look = self.next_look.min(now.saturating_add(first));
        match self.peers.get_mut(&node) {
            Some(peer) => {
                peer.beat = beat;
                (peer.heard, peer.silent_since) = (now, now);
                (peer.state, peer.rtt) = (to, rtt);
            }
            None => {
                let peer = Peer {
                    beat,
                    heard: now,
                    silent_since: now,
                    state: to,
                    rtt,
                };
                self.peers.insert(node, peer);
            }
        }
        self.stats.heard += 1;
        if event == Event::NewRun {
            actions.push(Action::Greet(entity));
        }
        if from != Some(to) {
            actions.push(Action::Changed { node, from, to });
        }
    }

    /// Makes room for one more peer.
    fn make_room(&mut self) -> Result<(), Refusal> {
        if self.peers.len() < self.config.peers_max {
            return Ok(());
        }
        let dead = self.peers.iter().filter(|(_, peer)| peer.state == PeerState::Dead);
        let longest = dead.min_by_key(|(_, peer)| peer.heard).map(|(node, _)| *node);
        let longest = longest.ok_or(Refusal::Crowded)?;
        self.peers.remove(&longest);
        self.stats.replaced += 1;
        Ok(())
    }

    /// What a heartbeat says of when one of this node's was heard.
    fn round_trip(&self, now: Duration, heartbeat: &Heartbeat) -> Option<Duration> {
        let ours = |echo: &&Echo| echo.node == self.node && echo.run == self.run;
        let echo = heartbeat.echoes.iter().find(ours)?;
        let (_, sent) = self.sent.iter().find(|(counter, _)| *counter == echo.counter)?;
        now.checked_sub(*sent)?
            .checked_sub(Duration::from_micros(u64::from(echo.held_us)))
    }

    /// For how long a node may be silent: so many of the intervals that it stated.
    fn silence(&self, beat: &Beat, intervals: u32) -> Duration {
        let interval = Duration::from_millis(u64::from(beat.heartbeat.interval_ms));
        interval
            .saturating_mul(intervals)
            .saturating_add(interval.mul_f64(self.config.jitter))
    }

    fn turn(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let late = now.saturating_sub(self.due());
        if late > self.config.interval / 2 {
            self.stats.stalls += 1;
            for peer in self.peers.values_mut() {
                peer.silent_since = peer.silent_since.saturating_add(late).min(now);
            }
        }
        if now >= self.next_look {
            self.look(now, actions);
        }
        if now >= self.next_beat {
            self.beat(now, actions);
        }
    }

    /// Looks at each peer: who is late, and who can be late next.
    fn look(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let mut changes = Vec::new();
        self.next_look = Duration::MAX;
        for (node, peer) in &self.peers {
            let times = [
                (self.config.dead_after, Event::Gone),
                (self.config.suspect_after, Event::Silent),
            ];
            for (intervals, event) in times {
                let at = peer.silent_since.saturating_add(self.silence(&peer.beat, intervals));
                if now >= at {
                    changes.push((*node, event));
                    break;
                }
                self.next_look = self.next_look.min(at);
            }
        }
        for (node, event) in changes {
            self.change(node, event, actions);
        }
    }

    fn change(&mut self, node: NodeId, event: Event, actions: &mut Vec<Action>) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let from = peer.state;
        if let Ok(Some(to)) = next(Some(from), event)
            && to != from
        {
            peer.state = to;
            let from = Some(from);
            actions.push(Action::Changed { node, from, to });
        }
    }

    fn beat(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.counter += 1;
        self.stats.beats += 1;
        if self.sent.len() == SENT_MAX {
            self.sent.remove(0);
        }
        self.sent.push((self.counter, now));
        let interval = self.interval();
        let share = mix::pair_as_share(self.config.seed, self.counter);
        let jittered = interval.mul_f64(1.0 + self.config.jitter * (2.0 * share - 1.0));
        self.next_beat = now.saturating_add(jittered);
        actions.push(Action::Beat {
            counter: self.counter,
            interval_ms: u32::try_from(interval.as_millis())
                .unwrap_or(u32::MAX)
                .clamp(*INTERVAL_MS.start(), *INTERVAL_MS.end()),
            echoes: self.echoes(now),
            capabilities: Arc::clone(&self.capabilities),
        });
    }

    /// What was heard of the next few peers, in turn.
    fn echoes(&mut self, now: Duration) -> Vec<Echo> {
        let after = self.echoed.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.peers.range((after, Bound::Unbounded));
        let first = self
            .peers
            .range((Bound::Unbounded, self.echoed.map_or(Bound::Unbounded, Bound::Included)));
        let first = first.take(if self.echoed.is_some() { usize::MAX } else { 0 });
        let alive = rest.chain(first).filter(|(_, peer)| peer.state == PeerState::Alive);
        let echo = |(node, peer): (&NodeId, &Peer)| Echo {
            node: *node,
            run: peer.beat.run,
            counter: peer.beat.counter,
            held_us: u32::try_from(now.saturating_sub(peer.heard).as_micros()).unwrap_or(u32::MAX),
        };
        let echoes: Vec<_> = alive.take(ECHOES_MAX).map(echo).collect();
        self.echoed = echoes.last().map(|echo| echo.node).or(self.echoed);
        echoes
    }
}
