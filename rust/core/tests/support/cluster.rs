//! A cluster that does what the loop tells it: at once or late, whole or not at all, and tells what changed.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meshos_core::action::{CauseKind, MeshOsAction};
use meshos_core::behaviour::{Behaviour, Step, digest_of};
use meshos_core::command::{AdminEvent, ChainId, Command, IceAction, Order, Verdict};
use meshos_core::digest::Digest;
use meshos_core::executor::Dispatch;
use meshos_core::finite::Finite;
use meshos_core::id::{NodeId, Origin};
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::peer::NodeHealth;
use meshos_core::reconcile;
use meshos_core::signal::{
    DaemonIntent, DaemonRef, DaemonSignal, LocalReplicaIntent, MeshOsEvent, Outcome, ReplicaChange, Scored, Signal,
};
use meshos_core::status::{ChainState, DaemonState, Progress};
use meshos_core::testing::random::SplitMix64;
use meshos_core::time::UnixMs;
use meshos_core::world::Key;

/// The node that the loop acts for.
pub const HERE: NodeId = NodeId::new(1);
/// When every run begins.
pub const START: UnixMs = UnixMs::new(1_700_000_000_000);

/// A span in milliseconds.
pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A span in seconds.
pub const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A node.
pub const fn node(id: u64) -> NodeId {
    NodeId::new(id)
}

/// A daemon with a name of its own.
pub fn daemon(id: u64) -> DaemonRef {
    DaemonRef {
        id: Origin::new(id),
        name: Arc::from(format!("daemon-{id}")),
    }
}

/// A command that was allowed.
pub fn order(order: Order) -> Signal {
    Signal::Command(Command {
        order,
        verdict: Verdict::Accepted,
        operators: vec![7],
        reason: "test".to_owned(),
        envelope_id: Some([9; 16]),
        issued_at: None,
    })
}

/// An ordinary command that was allowed.
pub fn admin(event: AdminEvent) -> Signal {
    order(Order::Admin(event))
}

/// A break-glass command that was allowed.
pub fn ice(action: IceAction) -> Signal {
    order(Order::Ice(action))
}

/// The break-glass command that restarts a daemon.
pub fn forced_restart(id: u64) -> IceAction {
    IceAction::ForceRestartDaemon {
        daemon: Origin::new(id),
        name: String::new(),
    }
}

/// The same, allowed.
pub fn restart(id: u64) -> Signal {
    ice(forced_restart(id))
}

/// Something happened to a daemon, now.
pub fn lifecycle(id: u64, signal: DaemonSignal) -> Signal {
    Signal::Event(MeshOsEvent::DaemonLifecycle {
        daemon: daemon(id),
        signal,
        at: None,
    })
}

/// A daemon crashed and is down.
pub fn crash(id: u64, reason: &str) -> Signal {
    let crash = meshos_core::event::Crash::because(reason);
    lifecycle(id, DaemonSignal::Crashed { crash, down: true })
}

/// Something is wanted of a daemon, no matter where.
pub fn intent(id: u64, intent: DaemonIntent) -> Signal {
    pinned(id, intent, None)
}

/// Something is wanted of a daemon on a node.
pub fn pinned(id: u64, intent: DaemonIntent, node: Option<u64>) -> Signal {
    Signal::Event(MeshOsEvent::DaemonIntentUpdate {
        daemon: daemon(id),
        intent,
        node: node.map(NodeId::new),
    })
}

/// A copy of a chain came or went.
pub fn replica(chain: u64, holder: u64, change: ReplicaChange) -> Signal {
    Signal::Event(MeshOsEvent::ReplicaUpdate {
        chain: ChainId::new(chain),
        holder: NodeId::new(holder),
        change,
    })
}

/// A copy of a chain came.
pub fn added(chain: u64, holder: u64) -> Signal {
    replica(chain, holder, ReplicaChange::Added)
}

/// A copy of a chain went.
pub fn removed(chain: u64, holder: u64) -> Signal {
    replica(chain, holder, ReplicaChange::Removed)
}

/// A chain has another leader.
pub fn leader(chain: u64, leader: Option<u64>, term: u64) -> Signal {
    Signal::Event(MeshOsEvent::ReplicaLeaderUpdate {
        chain: ChainId::new(chain),
        leader: leader.map(NodeId::new),
        term,
    })
}

/// So many copies are wanted.
pub fn desired(chain: u64, desired_replicas: u32) -> Signal {
    Signal::Event(MeshOsEvent::PlacementIntent {
        chain: ChainId::new(chain),
        desired_replicas,
    })
}

/// What is wanted of this node's copy.
pub fn local(chain: u64, intent: LocalReplicaIntent) -> Signal {
    Signal::Event(MeshOsEvent::LocalReplicaIntentUpdate {
        chain: ChainId::new(chain),
        intent,
    })
}

/// A measured round trip.
pub fn rtt(peer: u64, millis: u64) -> Signal {
    Signal::Event(MeshOsEvent::RttSample {
        peer: NodeId::new(peer),
        rtt: ms(millis),
    })
}

/// A node's health.
pub fn health(peer: u64, health: NodeHealth) -> Signal {
    Signal::Event(MeshOsEvent::NodeHealthUpdate {
        peer: NodeId::new(peer),
        health,
    })
}

/// A dispatch ended.
pub fn ended(id: u64, outcome: Outcome) -> Signal {
    Signal::Dispatched { id, outcome }
}

/// It was not carried out.
pub fn dropped() -> Outcome {
    Outcome::Drop {
        reason: Arc::from("on purpose"),
    }
}

/// It shall be tried again.
pub fn retry(after: Duration) -> Outcome {
    Outcome::Retry {
        reason: Arc::from("not yet"),
        after,
    }
}

/// Short spans, so that tests are about order and not about waiting.
pub fn quick() -> MeshOsConfig {
    let mut config = MeshOsConfig::default();
    config.backpressure.replica_stabilization_window = ms(100);
    config.backpressure.pull_cooldown = ms(20);
    config
}

/// Options that make waiting, refusing and moving common; which of them, the seed decides.
pub fn options(seed: u64) -> MeshOsConfig {
    let mut config = quick();
    config.scheduler.cooldown = s(5);
    config.scheduler.decision_interval = s(5);
    if seed & 1 == 1 {
        config.action_queue_capacity = 3;
        config.backpressure.cluster_backpressure_threshold = 3;
        config.backpressure.cluster_backpressure_release = 1;
    }
    if seed & 2 == 2 {
        config.backpressure.pull_cooldown = s(3);
        config.backpressure.replica_stabilization_window = s(20);
        config.backpressure.drain_rate_per_zone_per_sec = 1;
        config.backpressure.max_defer_count = 1;
    }
    config
}

/// A dispatch that has not ended.
struct Pending {
    at: UnixMs,
    dispatch: Dispatch,
    fails: Option<Outcome>,
}

/// See the module.
pub struct Cluster {
    /// The loop.
    pub behaviour: Behaviour,
    /// The time.
    pub now: UnixMs,
    /// What chance decides.
    pub random: SplitMix64,
    /// Daemons that run.
    pub running: BTreeSet<u64>,
    /// Who holds which chain.
    pub holders: BTreeMap<u64, BTreeSet<u64>>,
    /// Nodes that can hold one.
    pub nodes: Vec<u64>,
    /// What a scorer says of nodes; those that are missing have no score.
    pub scores: BTreeMap<u64, f64>,
    /// What is said to the loop with the next step.
    pub inbox: Vec<Signal>,
    /// Whether steps are logged and digested.
    pub logging: bool,
    /// Whether every step is checked, which costs more than the step.
    pub checking: bool,
    /// What was said.
    pub log: Vec<(UnixMs, Vec<Signal>)>,
    /// What came of it.
    pub digests: Vec<(Digest, Digest)>,
    /// Of a hundred dispatches, so many fail.
    pub failing: usize,
    /// Of a hundred dispatches, so many are late.
    pub late: usize,
    /// Of a thousand dispatches, so many never end by themselves.
    pub hanging: usize,
    /// Every action is carried out twice.
    pub twice: bool,
    /// Actions that were carried out.
    pub carried_out: Vec<MeshOsAction>,
    /// What the last step said.
    pub last: Step,
    pending: Vec<Pending>,
}

impl Cluster {
    /// One of six nodes.
    pub fn new(seed: u64, config: MeshOsConfig) -> Self {
        Self {
            behaviour: Behaviour::new(HERE, config, seed, START),
            now: START,
            random: SplitMix64::new(seed),
            running: BTreeSet::new(),
            holders: BTreeMap::new(),
            nodes: (1..=6).collect(),
            scores: BTreeMap::new(),
            inbox: Vec::new(),
            logging: true,
            checking: true,
            log: Vec::new(),
            digests: Vec::new(),
            failing: 0,
            late: 0,
            hanging: 0,
            twice: false,
            carried_out: Vec::new(),
            last: Step::default(),
            pending: Vec::new(),
        }
    }

    /// Says something with the next step.
    pub fn say(&mut self, signal: Signal) {
        self.inbox.push(signal);
    }

    /// One step, `after` the one before.
    pub fn step(&mut self, after: Duration) -> Step {
        self.now = self.now.plus(after);
        self.end_pending();
        let signals = std::mem::take(&mut self.inbox);
        let quiet = if self.checking { self.quiet_twin() } else { None };
        if self.logging {
            self.log.push((self.now, signals.clone()));
        }
        let twin_signals = quiet.is_some().then(|| signals.clone());
        let step = self.behaviour.step(self.now, signals);
        if let (Some(mut quiet), Some(signals)) = (quiet, twin_signals) {
            quiet.step(self.now, signals);
            assert_eq!(
                quiet.digest(),
                self.behaviour.digest(),
                "an idle step in between made a difference"
            );
        }
        if self.logging {
            self.digests.push((self.behaviour.digest(), digest_of(&step)));
        }
        if self.checking {
            self.check(&step);
        }
        for dispatch in step.dispatches.clone() {
            self.take(dispatch);
        }
        self.score(&step);
        self.last = step.clone();
        step
    }

    /// What every step holds.
    fn check(&self, step: &Step) {
        assert_eq!(step.sweep_repairs, 0, "the sweep found what nobody had looked at");
        if !step.more {
            let missed = self.behaviour.audit();
            assert!(missed.is_empty(), "at {}: {}", self.now, self.describe(&missed));
            let next = step.next.expect("the sweep is always to come");
            assert!(next > self.now, "the next deadline is past: {next}, now {}", self.now);
        }
        let mut keys = BTreeSet::new();
        for dispatch in &step.dispatches {
            assert!(keys.insert(dispatch.action.key()), "two of one key: {dispatch:?}");
            let again = |pending: &&Pending| pending.dispatch.action.key() == dispatch.action.key();
            let twice = self.pending.iter().find(again).map(|pending| &pending.dispatch);
            assert_eq!(twice, None, "under way twice: {dispatch:?}");
            self.check_copies_left(dispatch);
        }
    }

    /// What is known and wanted of keys, for people.
    fn describe(&self, keys: &[Key]) -> String {
        let world = self.behaviour.world();
        let of = |key: &Key| {
            let known = match key {
                Key::Chain(id) => format!("{:?}", world.view.chains.get(id)),
                Key::Daemon(id) => format!("{:?}", world.view.daemons.get(id)),
                Key::Peer(id) => format!("{:?}", world.view.peers.get(id)),
                Key::Maintenance => format!("{:?}", world.machine),
            };
            let wants = reconcile::wanted(world, *key);
            let flying = reconcile::under_way(world, *key);
            format!("{key:?}: {known}\nwanted: {wants:?}\nunder way: {flying:?}\n")
        };
        keys.iter().map(of).collect()
    }

    /// What nobody forced leaves as many lasting copies as are wanted.
    fn check_copies_left(&self, dispatch: &Dispatch) {
        let MeshOsAction::RequestEviction { chain, victim } = dispatch.action else {
            return;
        };
        if dispatch.cause.kind == CauseKind::Operator {
            return;
        }
        let world = self.behaviour.world();
        let known = &world.view.chains[&chain];
        let stays = |holder: &&NodeId| **holder != victim && !world.fading.contains(holder);
        let left = known.holders.iter().filter(stays).count();
        let wanted = known.desired.map_or(0, |desired| desired as usize);
        assert!(left >= wanted, "{left} copies left of {wanted} wanted: {known:?}");
    }

    /// The loop after an idle step just before its next deadline, or half way to now; it must not have done anything.
    fn quiet_twin(&self) -> Option<Behaviour> {
        let next = self.last.next?.get();
        let before = self.behaviour.world().now.get();
        if self.last.more || next <= before + 1 || self.now.get() <= before {
            return None;
        }
        let mut quiet = self.behaviour.clone();
        let at = UnixMs::new((next - 1).min(self.now.get()));
        let step = quiet.step(at, []);
        let nothing = Step {
            next: self.last.next,
            ..Step::default()
        };
        assert_eq!(step, nothing, "something happened before {next}, at {at}");
        assert_eq!(quiet.view().generation, self.behaviour.view().generation);
        Some(quiet)
    }

    /// Takes a dispatch: it ends with the next step, later, or never.
    fn take(&mut self, dispatch: Dispatch) {
        let fails = (self.random.below(100) < self.failing).then(|| match self.random.below(3) {
            0 => dropped(),
            1 => retry(ms(50)),
            _ => Outcome::Raised {
                reason: Arc::from("RuntimeError"),
                traceback: None,
            },
        });
        let hangs = self.random.below(1000) < self.hanging;
        let late = self.random.below(100) < self.late;
        let at = if hangs {
            UnixMs::new(u64::MAX)
        } else if late {
            self.now.plus(ms(self.random.below(20_000) as u64))
        } else {
            self.now
        };
        self.pending.push(Pending { at, dispatch, fails });
        if at == self.now {
            self.end_pending();
        }
    }

    fn end_pending(&mut self) {
        let now = self.now;
        let (due, left) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|pending| pending.at <= now);
        self.pending = left;
        for pending in due {
            self.end(pending);
        }
    }

    fn end(&mut self, pending: Pending) {
        let id = pending.dispatch.id;
        if let Some(outcome) = pending.fails {
            self.say(ended(id, outcome));
            return;
        }
        for _ in 0..if self.twice { 2 } else { 1 } {
            self.carry_out(&pending.dispatch.action);
        }
        self.say(ended(id, Outcome::Done));
    }

    /// Ends every dispatch that has not ended.
    pub fn wake(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            self.end(pending);
        }
    }

    /// Dispatches that have not ended.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Does what an action says.
    pub fn carry_out(&mut self, action: &MeshOsAction) {
        self.carried_out.push(action.clone());
        match action {
            MeshOsAction::StartDaemon { daemon: started } => {
                self.running.insert(started.id.get());
                self.say(lifecycle(started.id.get(), DaemonSignal::Started));
            }
            MeshOsAction::StopDaemon { daemon: stopped, .. } => {
                if self.running.remove(&stopped.id.get()) {
                    self.say(lifecycle(stopped.id.get(), DaemonSignal::ExitedCleanly));
                }
            }
            MeshOsAction::PullReplica { chain, .. } => self.hold(chain.get(), HERE.get()),
            MeshOsAction::DropReplica { chain } => self.drop_copy(chain.get(), HERE.get()),
            MeshOsAction::RequestPlacement { chain, exclude, target } => {
                let free = |node: &&u64| !exclude.contains(&NodeId::new(**node));
                let node = target
                    .map(NodeId::get)
                    .or_else(|| self.nodes.iter().find(free).copied());
                if let Some(node) = node {
                    self.hold(chain.get(), node);
                }
            }
            MeshOsAction::RequestEviction { chain, victim } => self.drop_copy(chain.get(), victim.get()),
            MeshOsAction::CommitMaintenanceTransition { node, target } => {
                self.say(Signal::Event(MeshOsEvent::MaintenanceTransitionObserved {
                    node: *node,
                    state: target.clone(),
                }));
            }
            MeshOsAction::ApplyBackoff { .. } | MeshOsAction::MarkAvoid { .. } => {}
        }
    }

    /// Answers what the step asks of a scorer.
    fn score(&mut self, step: &Step) {
        for request in &step.scores {
            let score = |node: NodeId| Some((node, Finite::new(*self.scores.get(&node.get())?)?));
            let free = |node: &&u64| !request.exclude.contains(&NodeId::new(**node));
            let free = self
                .nodes
                .iter()
                .filter(free)
                .filter_map(|node| score(NodeId::new(*node)));
            let scored = Scored {
                chain: request.chain,
                holders: request.holders.iter().filter_map(|node| score(*node)).collect(),
                best: free.max_by_key(|(_, score)| *score),
                cost: None,
                live: request.live,
            };
            self.inbox.push(Signal::Scored(scored));
        }
        if !step.fingerprints.is_empty() {
            let print = |node: &NodeId| (*node, self.scores.get(&node.get()).map(|score| score.to_bits()));
            let said = step.fingerprints.iter().map(print).collect();
            self.inbox.push(Signal::Fingerprints(said));
        }
    }

    /// A node holds a chain from now on.
    pub fn hold(&mut self, chain: u64, holder: u64) {
        self.holders.entry(chain).or_default().insert(holder);
        self.say(added(chain, holder));
    }

    /// A node holds a chain no more.
    pub fn drop_copy(&mut self, chain: u64, holder: u64) {
        if self.holders.entry(chain).or_default().remove(&holder) {
            self.say(removed(chain, holder));
        }
    }

    /// Steps until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            let step = self.step(ms(10));
            if step.more || !self.inbox.is_empty() {
                continue;
            }
            if self.behaviour.view().in_flight.is_empty() {
                return;
            }
            // Nothing happens before the next deadline.
            let ends = self.pending.iter().map(|pending| pending.at);
            let next = ends.chain(step.next).min().unwrap_or_default();
            self.now = self.now.max(UnixMs::new(next.get().saturating_sub(10)));
        }
        panic!("never settled: {:#?}", self.behaviour.view().in_flight);
    }

    /// Passes time, in steps of at most five seconds, and answers what comes up.
    pub fn pass(&mut self, span: Duration) {
        let until = self.now.plus(span);
        while self.now < until {
            let left = until.since(self.now);
            self.step(left.min(s(5)));
        }
    }

    /// This node leads a chain, and so many copies are wanted.
    pub fn lead(&mut self, chain: u64, copies: u32) {
        self.say(leader(chain, Some(HERE.get()), 1));
        self.say(desired(chain, copies));
    }

    /// Another node looks so.
    pub fn health(&mut self, node: u64, looks: NodeHealth) {
        self.say(health(node, looks));
    }

    /// How many hold a chain.
    pub fn copies(&self, chain: u64) -> usize {
        self.holders.get(&chain).map_or(0, BTreeSet::len)
    }

    /// What the loop knows of a daemon.
    pub fn daemon(&self, id: u64) -> &DaemonState {
        &self.behaviour.view().daemons[&Origin::new(id)]
    }

    /// What the loop knows of a chain.
    pub fn chain(&self, id: u64) -> &ChainState {
        &self.behaviour.view().chains[&ChainId::new(id)]
    }

    /// Where the actions under way are, by kind.
    pub fn flying(&self) -> Vec<(&'static str, Progress)> {
        let flights = self.behaviour.view().in_flight.values();
        flights
            .map(|flight| (flight.action.kind(), flight.progress.clone()))
            .collect()
    }

    /// Emissions so far.
    pub fn emitted(&self) -> u64 {
        self.behaviour.view().emissions.back().map_or(0, |emission| emission.id)
    }

    /// Steps for an hour; an action of any kind in it is one too many.
    pub fn assert_quiet(&mut self) {
        let emitted = self.emitted();
        for _ in 0..120 {
            self.step(s(30));
        }
        let emissions = &self.behaviour.view().emissions;
        assert_eq!(emitted, self.emitted(), "it oscillates: {emissions:?}");
    }
}
