//! What the loop knows, in the form in which it is shown.
//!
//! The loop's own tables are made of these values, in persistent maps: a snapshot is a clone of the maps, which shares
//! everything that did not change with the one before. Points in time are absolute, so nothing changes by the mere
//! passing of time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, Vector};
use smallvec::SmallVec;

use crate::action::{ActionKey, Cause, MeshOsAction};
use crate::capability::CapabilitySet;
use crate::command::{ChainId, Command};
use crate::control_state::ControlState;
use crate::event::{Crash, DaemonHealth};
use crate::finite::{Finite, Share};
use crate::id::{NodeId, Origin};
use crate::maintenance_state::{MaintenancePhase, MaintenanceState};
use crate::peer::{AvoidEntry, NodeHealth, PeerInventory};
use crate::signal::{DaemonIntent, DaemonRef, LocalReplicaIntent, LogLevel};
use crate::supervision::Backoff;
use crate::time::UnixMs;

/// Where a daemon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Lifecycle {
    /// It does not run.
    #[default]
    Stopped,
    /// Its start is under way.
    Starting,
    /// It runs.
    Running,
    /// Its stop is under way.
    Stopping,
}

impl Lifecycle {
    /// Stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
        }
    }
}

/// One daemon that runs, ran or is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DaemonState {
    /// Which.
    pub daemon: DaemonRef,
    /// What is wanted.
    pub intent: Option<DaemonIntent>,
    /// Where it shall run.
    pub pin: Option<NodeId>,
    /// Where it is.
    pub lifecycle: Lifecycle,
    /// What it said of itself since it started last.
    pub health: Option<DaemonHealth>,
    /// Its load since it started last.
    pub saturation: Share,
    /// What it adds to its node, as its author said last; kept while the daemon is known.
    pub capabilities: Option<Arc<CapabilitySet>>,
    /// Whether it may start.
    pub backoff: Backoff,
    /// Starts after a crash.
    pub restarts: u64,
    /// Why it crashed last, and when.
    pub last_crash: Option<(Crash, UnixMs)>,
    /// When it started last.
    pub started_at: Option<UnixMs>,
    /// When it stopped or crashed last.
    pub stopped_at: Option<UnixMs>,
    /// An operator wants it stopped and started again: the stop is still to come.
    pub restart_wanted: bool,
    /// Whether whoever carries actions out was told to watch over it.
    pub supervised: bool,
    /// Number of the registry's event that was folded last.
    pub registry_number: u64,
    /// Release of the backoff that was told last.
    pub told_backoff: Option<UnixMs>,
    /// When nobody wanted it and it did not run any more, to be forgotten later.
    pub idle_since: Option<UnixMs>,
}

/// A move of one copy of a chain: first added there, then taken away here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Move {
    /// Who loses its copy.
    pub victim: NodeId,
    /// Who gets one.
    pub target: NodeId,
    /// When it is given up.
    pub until: UnixMs,
}

/// Holders of a chain, ascending and without repetition.
pub type Holders = SmallVec<[NodeId; 4]>;

/// What scorers said of a chain that this node leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scores {
    /// The holders that were asked about.
    pub of: Holders,
    /// Score of each holder that has one, ascending by node.
    pub holders: Vec<(NodeId, Finite)>,
    /// Best node that is no holder.
    pub best: Option<(NodeId, Finite)>,
    /// What a move there costs.
    pub cost: Option<Finite>,
    /// Whether they were the last word before a move.
    pub live: bool,
    /// When they were said.
    pub sampled_at: UnixMs,
    /// How often the scorer's view had changed when it was asked.
    pub changes: u64,
}

/// One replicated chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ChainState {
    /// Who holds a copy.
    pub holders: Holders,
    /// How many copies are wanted.
    pub desired: Option<u32>,
    /// What is wanted here.
    pub local: Option<LocalReplicaIntent>,
    /// Who leads.
    pub leader: Option<NodeId>,
    /// Term of the election that said so.
    pub term: u64,
    /// No move before.
    pub rebalance_after: Option<UnixMs>,
    /// The move under way.
    pub moving: Option<Move>,
    /// What scorers said; only of chains that this node leads.
    pub scores: Option<Arc<Scores>>,
    /// When it was last pulled or dropped here; left alone for a while.
    pub stable_after: Option<UnixMs>,
    /// When nothing was wanted of it and nobody held it any more, to be forgotten later.
    pub idle_since: Option<UnixMs>,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PeerState {
    /// Round trip as sampled last.
    pub rtt: Option<Duration>,
    /// Round trip, smoothed.
    pub rtt_smooth: Option<Duration>,
    /// Samples in a row above the threshold.
    pub slow_samples: u32,
    /// How it looks.
    pub health: Option<NodeHealth>,
    /// Since when it is unreachable.
    pub unreachable_since: Option<UnixMs>,
    /// Its maintenance.
    pub maintenance: Option<MaintenancePhase>,
    /// Nothing new is placed on it.
    pub cordoned: bool,
    /// What it has, merged of all probes.
    pub inventory: PeerInventory,
    /// What each probe said, by the probe's number.
    pub inventories: BTreeMap<u64, PeerInventory>,
    /// When something was heard of it last.
    pub seen_at: UnixMs,
}

/// Where an action is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Progress {
    /// It waits to be dispatched.
    Queued,
    /// It waits for a throttle or for its next try.
    Deferred {
        /// Not before.
        until: UnixMs,
    },
    /// A dispatcher has it.
    Running {
        /// When it is given up.
        until: UnixMs,
    },
    /// It was carried out; the world does not show it yet.
    AwaitingConfirmation {
        /// When it is emitted again.
        until: UnixMs,
    },
    /// It failed, and is not tried again before.
    Cooling {
        /// Not before.
        until: UnixMs,
    },
}

impl Progress {
    /// Stable name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Deferred { .. } => "deferred",
            Self::Running { .. } => "running",
            Self::AwaitingConfirmation { .. } => "awaiting_confirmation",
            Self::Cooling { .. } => "failed",
        }
    }
}

/// An action under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InFlight {
    /// Its number, rising from 1 in a run.
    pub id: u64,
    /// What it is.
    pub action: MeshOsAction,
    /// What led to it.
    pub cause: Cause,
    /// When it was emitted.
    pub emitted_at: UnixMs,
    /// Where it is.
    pub progress: Progress,
    /// Dispatches so far.
    pub attempts: u32,
    /// Retries asked for by the dispatcher.
    pub retries: u32,
    /// Failures in a row, which lengthen the wait before the next try.
    pub failures: u32,
}

/// An action that was emitted, in short.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Emission {
    /// Its number.
    pub id: u64,
    /// Its stable name.
    pub kind: &'static str,
    /// The daemon, chain or node it is about.
    pub target: u64,
    /// When.
    pub emitted_at: UnixMs,
}

/// Counters of the executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ExecutorStats {
    /// Carried out.
    pub dispatched: u64,
    /// Failed for good, each once.
    pub failed: u64,
    /// Waited for a throttle.
    pub deferred: u64,
    /// Refused by a gate at the last moment.
    pub gated: u64,
    /// Tried again because the dispatcher asked for it.
    pub dispatch_retries: u64,
    /// Taken back because nobody wanted it any more.
    pub superseded: u64,
    /// Rising edges of back-pressure.
    pub cluster_backpressure_asserts: u64,
    /// Falling edges.
    pub cluster_backpressure_releases: u64,
    /// Action records that the appender could not keep.
    pub chain_append_failures: u64,
    /// Emissions that the full queue refused.
    pub dropped: u64,
}

/// Part of the runtime that something went wrong in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Carrying out an action.
    Action,
    /// Other user code.
    Callback,
    /// A probe.
    Probe,
    /// A recovery handler.
    Recovery,
    /// An appender.
    Appender,
    /// A move.
    Migration,
    /// The loop itself.
    Loop,
}

impl Part {
    /// Stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Callback => "callback",
            Self::Probe => "probe",
            Self::Recovery => "recovery",
            Self::Appender => "appender",
            Self::Migration => "migration",
            Self::Loop => "loop",
        }
    }
}

/// Where a failure came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FailureSource {
    /// Which part.
    pub part: Part,
    /// Kind of the action, or name of the callback.
    pub name: Arc<str>,
    /// The daemon, chain or node it was about.
    pub target: Option<u64>,
    /// The action.
    pub action_id: Option<u64>,
    /// The envelope, when an operator ordered it.
    pub envelope_id: Option<[u8; 16]>,
}

/// Something that did not work, before it is numbered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Failure {
    /// Where it came from.
    pub source: FailureSource,
    /// Why, for people.
    pub reason: Arc<str>,
    /// Where in user code, for people.
    pub traceback: Option<Arc<str>>,
}

/// Something that did not work.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FailureRecord {
    /// Its number, from 1 in a run.
    pub seq: u64,
    /// When.
    pub at: UnixMs,
    /// What.
    pub failure: Failure,
    /// Whether an appender could not keep it.
    pub chain_pending: bool,
}

/// One line of a daemon or of the node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogRecord {
    /// Its number, from 1 in a run.
    pub seq: u64,
    /// When.
    pub at: UnixMs,
    /// How severe.
    pub level: LogLevel,
    /// Which node.
    pub node: NodeId,
    /// Which daemon.
    pub daemon: Option<Origin>,
    /// The line.
    pub message: Arc<str>,
    /// Whether an appender could not keep it.
    pub chain_pending: bool,
}

/// One attempt at a command.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AuditRecord {
    /// Its number, from 1 in a run.
    pub seq: u64,
    /// When.
    pub at: UnixMs,
    /// What, and what was found out about it.
    pub command: Command,
    /// How often the very same was refused; 1 of what was obeyed.
    pub times: u64,
    /// Whether an appender could not keep it.
    pub chain_pending: bool,
}

/// What became of one action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Disposition {
    /// Carried out.
    Dispatched,
    /// It failed, or is to be tried again.
    Failed,
    /// Refused by a gate.
    Gated,
    /// Taken back.
    Superseded,
}

impl Disposition {
    /// Stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dispatched => "dispatched",
            Self::Failed => "failed",
            Self::Gated => "gated",
            Self::Superseded => "superseded",
        }
    }
}

/// What became of one action, for the action chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Disposed {
    /// The action.
    pub action_id: u64,
    /// Its stable name.
    pub kind: &'static str,
    /// What became of it.
    pub disposition: Disposition,
    /// Why, for people; empty when it was carried out.
    pub reason: Arc<str>,
    /// When it is tried again.
    pub retry_after: Option<Duration>,
}

/// Persistent tables of the loop, with a count of their changes.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Rises with each change of anything below; never by the passing of time.
    pub generation: u64,
    /// Daemons by handle.
    pub daemons: OrdMap<Origin, Arc<DaemonState>>,
    /// Chains by origin.
    pub chains: OrdMap<ChainId, Arc<ChainState>>,
    /// Other nodes.
    pub peers: OrdMap<NodeId, Arc<PeerState>>,
    /// Peers that nothing new is placed on.
    pub avoid: OrdMap<NodeId, AvoidEntry>,
    /// Actions under way.
    pub in_flight: OrdMap<ActionKey, Arc<InFlight>>,
    /// The newest emissions, oldest first.
    pub emissions: Vector<Emission>,
    /// Maintenance of this node.
    pub maintenance: MaintenanceState,
    /// Daemons that a drain still waits for.
    pub daemons_left: u32,
    /// Copies that a drain still waits for.
    pub replicas_left: u32,
    /// When a freeze ends.
    pub freeze_until: Option<UnixMs>,
    /// Nothing new is placed on this node.
    pub cordoned: bool,
}

/// One thing that holds a daemon or a chain where it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reason {
    /// Stable name.
    pub kind: &'static str,
    /// For people.
    pub text: String,
    /// Until when it holds.
    pub until: Option<UnixMs>,
}

/// Why a daemon or a chain is as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Explanation {
    /// What is wanted, for people.
    pub desired: String,
    /// What is, for people.
    pub actual: String,
    /// Stable name of the rule that decides.
    pub rule: &'static str,
    /// What holds it.
    pub reasons: Vec<Reason>,
}

/// How one piece of user code is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallbackStatus {
    /// Calls that ended.
    pub calls: u64,
    /// Calls that raised or gave back rubbish.
    pub failures: u64,
    /// Answers that came after the budget, and calls that are out longer than it now.
    pub late: u64,
    /// It failed too often in a row and is left alone for a while.
    pub disabled: bool,
    /// Longest call.
    pub slowest: Duration,
    /// What it raised last.
    pub last_error: Option<Arc<str>>,
}

/// How one recovery handler is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Calls that ended.
    pub runs: u64,
    /// Slots it placed again.
    pub recovered: u64,
    /// Raises in a row.
    pub strikes: u32,
    /// What it raised last.
    pub last_error: Option<Arc<str>>,
    /// When it ran last.
    pub last_run_at: Option<UnixMs>,
    /// How long that took.
    pub last_took: Duration,
}

/// One move, as its source or target sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MigrationStatus {
    /// The daemon that moves.
    pub daemon: Origin,
    /// Name of the phase.
    pub phase: &'static str,
    /// When it began.
    pub started_at: UnixMs,
    /// When its phase began.
    pub phase_at: UnixMs,
    /// From where.
    pub source_node: NodeId,
    /// To where.
    pub target_node: NodeId,
    /// Size of the snapshot.
    pub snapshot_bytes: Option<u64>,
    /// Bytes that reached the target.
    pub bytes_moved: u64,
    /// Steps that were repeated.
    pub retries: u32,
    /// Events that wait for it; `None` where this node cannot know.
    pub buffered_events: Option<u64>,
}

/// How the loop is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoopMetrics {
    /// Time of the last pass.
    pub tick_took: Duration,
    /// Events that wait.
    pub event_queue_depth: u64,
    /// Actions that wait.
    pub action_queue_depth: u64,
    /// Emissions that the full queue refused.
    pub dropped_actions: u64,
    /// Events that a full queue refused.
    pub refused_events: u64,
    /// Things that the full sweep found and the dirty sets had missed; 0 unless we have a bug.
    pub sweep_repairs: u64,
    /// Daemons, chains and peers that a full table refused.
    pub refused_entities: u64,
}

/// What commands need to be obeyed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AuthorityStatus {
    /// A verifier's word.
    Verified,
    /// There is no verifier: every command is refused.
    Refused,
    /// Nothing.
    Open,
}

/// One node's view after a pass of its loop.
#[derive(Debug, Clone)]
pub struct MeshOsSnapshot {
    /// Random for each start.
    pub runtime_epoch_id: u64,
    /// Rises by one with each change of content.
    pub generation: u64,
    /// Passes so far.
    pub tick: u64,
    /// When it was published.
    pub published_at: UnixMs,
    /// The node.
    pub this_node: NodeId,
    /// What commands need to be obeyed.
    pub authority: AuthorityStatus,
    /// What commands alone decided.
    pub control: ControlState,
    /// The loop's tables.
    pub view: View,
    /// The newest failures, oldest first.
    pub failures: Vector<Arc<FailureRecord>>,
    /// Moves under way.
    pub migrations: Arc<[MigrationStatus]>,
    /// Recovery handlers.
    pub recovery: Arc<[RecoveryStatus]>,
    /// Other user code, by name.
    pub callbacks: Arc<BTreeMap<Arc<str>, CallbackStatus>>,
    /// Number of the newest audit record; 0: none.
    pub audit_head_seq: u64,
    /// Number of the newest line of the log; 0: none.
    pub log_head_seq: u64,
    /// Number of the newest failure; 0: none.
    pub failure_head_seq: u64,
    /// How the loop is doing.
    pub metrics: LoopMetrics,
}
