//! What goes into the behaviour loop: published events, commands with their verdicts, and results of user code.
//!
//! Everything the loop ever learns comes in as a [`Signal`], so a log of them with their times replays a run.

use std::sync::Arc;
use std::time::Duration;

use crate::blast::BlastRadius;
use crate::capability::CapabilitySet;
use crate::command::{ChainId, Command};
use crate::event::{Crash, DaemonHealth};
use crate::finite::{Finite, Share};
use crate::id::{NodeId, Origin};
use crate::maintenance_state::MaintenanceState;
use crate::peer::{NodeHealth, Samples};
use crate::refusal::Refused;
use crate::time::UnixMs;

/// Names a daemon: `id` decides, `name` is for people.
#[derive(Debug, Clone)]
pub struct DaemonRef {
    /// The daemon's handle.
    pub id: Origin,
    /// Its label; may be empty.
    pub name: Arc<str>,
}

impl PartialEq for DaemonRef {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for DaemonRef {}

impl std::hash::Hash for DaemonRef {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

/// What is wanted of a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DaemonIntent {
    /// It shall run.
    Run,
    /// It shall not.
    Stop,
}

/// What is wanted of this node's copy of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LocalReplicaIntent {
    /// It shall be here.
    Hold,
    /// It shall not.
    Drop,
}

/// What happened to a copy of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReplicaChange {
    /// It is there.
    Added,
    /// It is there again.
    Repaired,
    /// It was taken away.
    Removed,
    /// It is gone.
    Lost,
}

/// Severity of a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LogLevel {
    /// Of interest to who reads the code.
    Trace,
    /// Of interest while looking for a fault.
    Debug,
    /// Worth knowing.
    Info,
    /// Not as it should be.
    Warn,
    /// Something failed.
    Error,
}

/// What happened to a daemon.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DaemonSignal {
    /// It runs.
    Started,
    /// It was stopped as intended.
    ExitedCleanly,
    /// It crashed. `down`: it takes no events until it is started again; else it went on by itself.
    Crashed {
        /// Why.
        crash: Crash,
        /// Whether it is down.
        down: bool,
    },
    /// It reports another health.
    HealthChanged(DaemonHealth),
    /// It reports another load.
    SaturationChanged(Share),
}

/// A published event. Ticks, the end and what operators order come in elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MeshOsEvent {
    /// A signal of a daemon; `at` may lie in the past, never in the future.
    DaemonLifecycle {
        /// Which.
        daemon: DaemonRef,
        /// What happened.
        signal: DaemonSignal,
        /// When; `None`: now.
        at: Option<UnixMs>,
    },
    /// What is wanted of a daemon from now on.
    DaemonIntentUpdate {
        /// Which.
        daemon: DaemonRef,
        /// What is wanted.
        intent: DaemonIntent,
        /// Where it shall run; `None`: no matter where.
        node: Option<NodeId>,
    },
    /// Nothing is wanted of the daemon any more, and what was known of it is dropped.
    ForgetDaemon {
        /// Which.
        daemon: Origin,
    },
    /// Nothing is wanted of the chain any more, and what was known of it is dropped.
    ForgetChain {
        /// Which.
        chain: ChainId,
    },
    /// A copy of a chain came or went.
    ReplicaUpdate {
        /// Which.
        chain: ChainId,
        /// Where.
        holder: NodeId,
        /// What happened.
        change: ReplicaChange,
    },
    /// A chain has another leader, or none.
    ReplicaLeaderUpdate {
        /// Which.
        chain: ChainId,
        /// Who leads.
        leader: Option<NodeId>,
        /// Term of the election; a lower one than the known is ignored.
        term: u64,
    },
    /// A node holds a chain and leads it, at once.
    ReplicaBecameHolderAndLeader {
        /// Which.
        chain: ChainId,
        /// Who.
        holder: NodeId,
        /// Term of the election.
        term: u64,
    },
    /// A node neither leads nor holds a chain any more, at once.
    ReplicaLeaderLostAndRemoved {
        /// Which.
        chain: ChainId,
        /// Who.
        holder: NodeId,
    },
    /// How many copies of a chain are wanted in the cluster.
    PlacementIntent {
        /// Which.
        chain: ChainId,
        /// How many.
        desired_replicas: u32,
    },
    /// Whether this node is to hold a copy of a chain.
    LocalReplicaIntentUpdate {
        /// Which.
        chain: ChainId,
        /// What is wanted.
        intent: LocalReplicaIntent,
    },
    /// A measured round trip.
    RttSample {
        /// To whom.
        peer: NodeId,
        /// How long it took.
        rtt: Duration,
    },
    /// Another node's health.
    NodeHealthUpdate {
        /// Whose.
        peer: NodeId,
        /// How it is.
        health: NodeHealth,
    },
    /// A committed maintenance transition.
    MaintenanceTransitionObserved {
        /// Whose.
        node: NodeId,
        /// The state it is in now.
        state: MaintenanceState,
    },
}

/// How a dispatch ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Carried out.
    Done,
    /// Not carried out; decide anew.
    Drop {
        /// Why.
        reason: Arc<str>,
    },
    /// Not carried out; the same again later.
    Retry {
        /// Why.
        reason: Arc<str>,
        /// How much later.
        after: Duration,
    },
    /// The dispatcher raised something else.
    Raised {
        /// What, in one line.
        reason: Arc<str>,
        /// Where, for people.
        traceback: Option<Arc<str>>,
    },
}

/// One daemon of a registry, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RosterEntry {
    /// Which.
    pub daemon: DaemonRef,
    /// Whether it takes no events until it is started again.
    pub down: bool,
}

/// What a scorer said of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scored {
    /// Which chain.
    pub chain: ChainId,
    /// Score of each holder; those without an opinion are left out.
    pub holders: Vec<(NodeId, Finite)>,
    /// The best node that is not excluded, and its score.
    pub best: Option<(NodeId, Finite)>,
    /// What moving a copy there costs, as a score.
    pub cost: Option<Finite>,
    /// Whether it was asked without any cache, to verify an eviction.
    pub live: bool,
}

/// A command in its envelope, whose signatures were checked elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sealed {
    /// The command, with the envelope's id.
    pub command: Command,
    /// The envelope.
    pub envelope_id: [u8; 16],
    /// When it was made.
    pub issued_at: UnixMs,
    /// What the operators saw that it would touch; of break-glass actions.
    pub blast: Option<BlastRadius>,
    /// Why it is refused already.
    pub refused: Option<Refused>,
}

/// Anything that goes into the loop.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Signal {
    /// A published event.
    Event(MeshOsEvent),
    /// A command with its verdict.
    Command(Command),
    /// A command in its envelope.
    Sealed(Box<Sealed>),
    /// The record of a held command was kept, or could not be.
    Recorded {
        /// Which command.
        envelope_id: [u8; 16],
        /// Whether it was kept.
        kept: bool,
    },
    /// Daemons that move, as this node knows.
    Moving(Vec<Origin>),
    /// A registry told of a daemon; `number` is its position in the registry's sequence of events.
    Registry {
        /// Which.
        daemon: DaemonRef,
        /// What happened.
        signal: DaemonSignal,
        /// When.
        at: UnixMs,
        /// Position in the sequence.
        number: u64,
    },
    /// The author of a daemon said what it adds to its node.
    Offered {
        /// Which daemon.
        daemon: DaemonRef,
        /// All that it adds.
        capabilities: Arc<CapabilitySet>,
    },
    /// All daemons of the registry, after its event `number`.
    Roster {
        /// Those that are there, in the order of their handles.
        daemons: Vec<RosterEntry>,
        /// Position in the sequence.
        number: u64,
    },
    /// A probe answered.
    Samples {
        /// Which probe, by its number.
        probe: u64,
        /// What it said.
        samples: Samples,
    },
    /// A probe was taken out: what it alone said is dropped.
    ProbeRemoved {
        /// Which.
        probe: u64,
    },
    /// The scorer said how the nodes changed: `None` is always another value.
    Fingerprints(Vec<(NodeId, Option<u64>)>),
    /// The scorer scored a chain.
    Scored(Scored),
    /// Another scorer was installed, or the first: what the old one said is void.
    ScorerChanged {
        /// Whether there is one now.
        installed: bool,
    },
    /// A dispatch ended.
    Dispatched {
        /// Which action.
        id: u64,
        /// How.
        outcome: Outcome,
    },
    /// A recovery handler placed slots again.
    Recovered {
        /// Which handler.
        name: Arc<str>,
        /// Which slots.
        slots: Vec<u8>,
    },
}
