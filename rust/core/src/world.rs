//! The tables of the loop, and what has to be looked at again.
//!
//! Invariants
//! * A change of anything shown raises the view's generation; a change of anything that decides marks its key dirty.
//! * Counters (copies on each node, daemons left, daemons missing, moves) are kept up with each change, never counted anew.
//! * Tables are bounded: what does not fit is refused and counted.
//! * `barred` and `fading` say of every known node what the rules need of it; a change of either has every chain looked
//!   at again, in slices.

mod alarms;
mod chains;
mod daemons;
mod peers;
mod sweep;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::action::{Cause, CauseKind};
use crate::authority::{Ledger, Policy};
use crate::command::{ChainId, Command};
use crate::control_state::ControlState;
use crate::id::{NodeId, Origin};
use crate::loop_config::MeshOsConfig;
use crate::maintenance::{Machine, Progress};
use crate::maintenance_state::MaintenancePhase;
use crate::status::{ChainState, Holders, View};
use crate::time::UnixMs;

pub use alarms::{Alarm, Alarms};
pub use daemons::fresh;
pub use sweep::Sweep;

/// A holder that is unreachable for so long is counted as lost.
pub const UNREACHABLE_GRACE: Duration = Duration::from_secs(30);

/// What nobody wants and nobody has is forgotten after so long.
pub const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// Most daemons, most chains and most peers that are known at a time; more are refused and counted.
pub const ENTITIES_MAX: usize = 4 << 20;

/// What reconcile looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// Maintenance of this node.
    Maintenance,
    /// One peer.
    Peer(NodeId),
    /// One daemon.
    Daemon(Origin),
    /// One chain.
    Chain(ChainId),
}

/// What led to a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Why {
    /// What sort of thing.
    pub kind: CauseKind,
    /// Which.
    pub detail: &'static str,
    /// The envelope, when an operator ordered it.
    pub envelope_id: Option<[u8; 16]>,
}

impl Why {
    /// An event or a result.
    #[must_use]
    pub const fn of(kind: CauseKind, detail: &'static str) -> Self {
        Self {
            kind,
            detail,
            envelope_id: None,
        }
    }

    /// As it is shown with an action.
    #[must_use]
    pub fn cause(&self) -> Cause {
        Cause {
            kind: self.kind,
            detail: Arc::from(self.detail),
            envelope_id: self.envelope_id,
        }
    }
}

/// Something an operator forces on a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Forced {
    /// The node.
    pub node: NodeId,
    /// When it is given up.
    pub until: UnixMs,
    /// What ordered it.
    pub why: Why,
}

/// What operators force on one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ForcedPair {
    /// A copy that shall go.
    pub evict: Option<Forced>,
    /// A copy that shall come.
    pub place: Option<Forced>,
}

/// What the scorer was asked of a chain, and not answered yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ask {
    /// The holders it was asked about.
    pub holders: Holders,
    /// Whether it is to verify a move.
    pub live: bool,
    /// How often the scorer's view had changed.
    pub changes: u64,
}

/// A command that takes effect when it is certain that its record and all records before it are kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Unrecorded {
    /// What is ordered.
    pub command: Command,
    /// The time of its record.
    pub at: UnixMs,
    /// Whether its record is kept; `None`: that is not known yet.
    pub kept: Option<bool>,
}

/// So many of one sort were refused because their table was full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Refused {
    /// Daemons.
    pub daemons: u64,
    /// Chains.
    pub chains: u64,
    /// Peers.
    pub peers: u64,
}

/// Everything the loop knows.
#[derive(Debug, Clone)]
pub struct World {
    /// The node it acts for.
    pub this_node: NodeId,
    /// Its options.
    pub config: MeshOsConfig,
    /// Seed of jitter.
    pub seed: u64,
    /// The time of the step.
    pub now: UnixMs,
    /// What is shown.
    pub view: View,
    /// Maintenance of this node.
    pub machine: Machine,
    /// What operators force on chains.
    pub forced: BTreeMap<ChainId, ForcedPair>,
    /// What commands in envelopes need, where somebody checks them.
    pub policy: Option<Policy>,
    /// Envelopes that were obeyed, and targets that are left alone.
    pub ledger: Ledger,
    /// What commands alone decide.
    pub control: ControlState,
    /// Whether a command takes effect only when its record is kept.
    pub audit_first: bool,
    /// Commands that wait for their records, in the order of those.
    pub unrecorded: VecDeque<Unrecorded>,
    /// Daemons that move.
    pub moving: Vec<Origin>,
    /// Whether there is a scorer.
    pub scorer: bool,
    /// How often the scorer's view changed. It is counted, because time may stand still.
    pub score_changes: u64,
    /// Scores that were asked for before this change are void.
    pub scores_valid_from: u64,
    /// With which change the scorer's view of a node changed last.
    pub node_changed: BTreeMap<NodeId, u64>,
    /// What the scorer said of each node it scored.
    pub fingerprints: BTreeMap<NodeId, Option<u64>>,
    /// Chains whose scores were asked for.
    pub asked: BTreeMap<ChainId, Ask>,
    /// Nodes that nothing new is placed on, and why.
    pub barred: BTreeMap<NodeId, &'static str>,
    /// Nodes whose copies do not count as lasting.
    pub fading: BTreeSet<NodeId>,
    /// Peers that each inventory probe spoke of.
    pub probed: BTreeMap<u64, BTreeSet<NodeId>>,
    /// What has to be looked at, and why.
    pub dirty: BTreeMap<Key, Why>,
    /// Deadlines.
    pub alarms: Alarms,
    /// The pass over everything that is under way.
    pub sweep: Option<Sweep>,
    /// Copies of chains on this node.
    pub held: u32,
    /// Daemons with an intent that do not rest.
    pub daemons_live: u32,
    /// Daemons that shall run here and do not, or are not healthy.
    pub daemons_missing: u32,
    /// Moves under way.
    pub moves: u32,
    /// Copies of chains on each node that has any.
    pub copies: BTreeMap<NodeId, u32>,
    /// Most daemons, most chains and most peers that are known at a time.
    pub entities_max: usize,
    /// What full tables refused.
    pub refused: Refused,
}

impl World {
    /// A world of which nothing is known yet.
    #[must_use]
    pub fn new(this_node: NodeId, config: MeshOsConfig, seed: u64, now: UnixMs) -> Self {
        Self {
            this_node,
            config,
            seed,
            now,
            view: View::default(),
            machine: Machine::default(),
            forced: BTreeMap::new(),
            policy: None,
            ledger: Ledger::default(),
            control: ControlState::default(),
            audit_first: false,
            unrecorded: VecDeque::new(),
            moving: Vec::new(),
            scorer: false,
            score_changes: 0,
            scores_valid_from: 0,
            node_changed: BTreeMap::new(),
            fingerprints: BTreeMap::new(),
            asked: BTreeMap::new(),
            barred: BTreeMap::new(),
            fading: BTreeSet::new(),
            probed: BTreeMap::new(),
            dirty: BTreeMap::new(),
            alarms: Alarms::default(),
            sweep: None,
            held: 0,
            daemons_live: 0,
            daemons_missing: 0,
            moves: 0,
            copies: BTreeMap::new(),
            entities_max: ENTITIES_MAX,
            refused: Refused::default(),
        }
    }

    /// Marks a key to be looked at. An operator's reason is kept before any other.
    pub fn mark(&mut self, key: Key, why: Why) {
        let kept = self.dirty.entry(key).or_insert(why);
        if why.kind == CauseKind::Operator {
            *kept = why;
        }
    }

    /// Has everything looked at, in slices.
    pub fn recheck(&mut self, why: Why) {
        let begun = self.sweep.map(|sweep| sweep.extended(why));
        self.sweep = begun.or(Some(Sweep::new(Some(why))));
    }

    /// Makes all scores void that were asked for before.
    pub const fn void_scores(&mut self) {
        self.score_changes += 1;
        self.scores_valid_from = self.score_changes;
    }

    /// What the scorer is asked of a chain now.
    #[must_use]
    pub fn ask(&self, chain: &ChainState, live: bool) -> Ask {
        Ask {
            holders: chain.holders.clone(),
            live,
            changes: self.score_changes,
        }
    }

    /// Says that something shown changed.
    pub const fn changed(&mut self) {
        self.view.generation += 1;
    }

    /// Whether the cluster is frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.view.freeze_until.is_some_and(|until| self.now < until)
    }

    /// Whether this node is on its way out of service: nothing starts here, and what is here leaves.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        matches!(
            self.machine.state.phase(),
            MaintenancePhase::Entering | MaintenancePhase::Maintenance | MaintenancePhase::DrainFailed
        )
    }

    /// What is left to do for maintenance.
    #[must_use]
    pub const fn progress(&self) -> Progress {
        Progress {
            daemons_left: self.daemons_live,
            replicas_left: self.held,
            daemons_missing: self.daemons_missing,
        }
    }

    fn show_progress(&mut self) {
        self.view.daemons_left = self.daemons_live;
        self.view.replicas_left = self.held;
        self.mark(Key::Maintenance, Why::of(CauseKind::Event, "progress"));
    }
}
