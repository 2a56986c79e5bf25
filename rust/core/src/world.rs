//! The tables of the loop, and what has to be looked at again.
//!
//! Invariants
//! * A change of anything shown raises the view's generation; a change of anything that decides marks its key dirty.
//! * Counters (copies here, daemons left, daemons missing, moves) are kept up with each change, never counted anew.
//! * `barred` and `fading` say of every known node what the rules need of it; a change of either has every chain looked
//!   at again, in slices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::action::{Cause, CauseKind};
use crate::authority::{Ledger, Policy};
use crate::command::{ChainId, Command};
use crate::event::DaemonHealth;
use crate::finite::Share;
use crate::id::{NodeId, Origin};
use crate::loop_config::MeshOsConfig;
use crate::maintenance::{Machine, Progress};
use crate::maintenance_state::MaintenancePhase;
use crate::peer::{AvoidEntry, NodeHealth};
use crate::signal::{DaemonIntent, DaemonRef};
use crate::status::{ChainState, DaemonState, Holders, Lifecycle, PeerState, View};
use crate::supervision::Backoff;
use crate::time::UnixMs;

/// A holder that is unreachable for so long is counted as lost.
pub const UNREACHABLE_GRACE: Duration = Duration::from_secs(30);
/// What nobody wants and nobody has is forgotten after so long.
pub const FORGET_AFTER: Duration = Duration::from_secs(3600);
/// Deadlines for forgetting peers are multiples of this.
const FORGET_STEP: Duration = Duration::from_secs(60);
/// Most daemons, most chains and most peers that are known at a time; more are refused and counted.
pub const ENTITIES_MAX: usize = 4 << 20;
/// A forced placement or eviction that could not be carried out for so long is given up.
pub const FORCED_TTL: Duration = Duration::from_secs(600);
/// A freeze ends after so long at the latest.
pub const FREEZE_MAX: Duration = Duration::from_secs(24 * 3600);

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

/// What has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Alarm {
    /// Something to look at.
    Look(Key),
    /// An action under way.
    Action(crate::action::ActionKey),
    /// A throttle opens.
    Throttle,
    /// A freeze ends.
    Freeze,
    /// Fingerprints are asked for.
    Fingerprints,
    /// The full sweep begins.
    Sweep,
}

/// Deadlines, one for each alarm.
#[derive(Debug, Clone, Default, Hash)]
pub struct Alarms {
    due: BTreeSet<(UnixMs, Alarm)>,
    at: BTreeMap<Alarm, UnixMs>,
}

impl Alarms {
    /// Sets the deadline of an alarm, or takes it away.
    pub fn set(&mut self, alarm: Alarm, at: Option<UnixMs>) {
        let before = match at {
            Some(at) => self.at.insert(alarm, at),
            None => self.at.remove(&alarm),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.due.remove(&(before, alarm));
        }
        if let Some(at) = at {
            self.due.insert((at, alarm));
        }
    }

    /// Takes the next alarm that is due.
    pub fn pop(&mut self, now: UnixMs) -> Option<Alarm> {
        let (at, alarm) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        self.at.remove(&alarm);
        Some(alarm)
    }

    /// When the next is due.
    #[must_use]
    pub fn next(&self) -> Option<UnixMs> {
        self.due.first().map(|(at, _)| *at)
    }
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

/// Where a pass over everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sweep {
    /// The key looked at last.
    pub after: Option<Key>,
    /// In a second round, the last key of it.
    pub stop: Option<Key>,
    /// There is a second round, up to this key: it was looked at before the newest change.
    pub again: Option<Key>,
    /// What began it: something that concerns every chain, or the interval, which expects to find nothing.
    pub why: Option<Why>,
}

impl Sweep {
    /// One that begins with the first key.
    #[must_use]
    pub const fn new(why: Option<Why>) -> Self {
        Self {
            after: None,
            stop: None,
            again: None,
            why,
        }
    }

    /// The same, after something changed that concerns every key. It goes on where it is: who began anew with each
    /// change would never come to the end.
    #[must_use]
    pub const fn extended(self, why: Why) -> Self {
        Self {
            after: self.after,
            stop: None,
            again: self.after,
            why: Some(why),
        }
    }

    /// What follows the last key; `None`: it is over.
    #[must_use]
    pub fn next_round(self) -> Option<Self> {
        let again = self.again?;
        Some(Self {
            after: None,
            stop: Some(again),
            again: None,
            why: self.why,
        })
    }
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
    /// Whether a command takes effect only when its record is kept.
    pub audit_first: bool,
    /// Commands that wait for their records.
    pub unrecorded: BTreeMap<[u8; 16], Command>,
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
            audit_first: false,
            unrecorded: BTreeMap::new(),
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

    /// Changes a daemon, which is made when it is not known. `change` says whether anything did change.
    pub fn daemon(&mut self, daemon: &DaemonRef, why: Why, change: impl FnOnce(&mut DaemonState) -> bool) -> bool {
        let this_node = self.this_node;
        let count = |known: &DaemonState| (is_live(known), is_missing(known, this_node));
        let (before, after) = if let Some(known) = self.view.daemons.get_mut(&daemon.id) {
            let known = Arc::make_mut(known);
            let before = count(known);
            let mut changed = change(known);
            if !daemon.name.is_empty() && known.daemon.name != daemon.name {
                known.daemon.name = Arc::clone(&daemon.name);
                changed = true;
            }
            if !changed {
                return false;
            }
            (before, count(known))
        } else {
            if self.view.daemons.len() >= self.entities_max {
                self.refused.daemons += 1;
                return false;
            }
            let mut made = fresh(daemon.clone());
            change(&mut made);
            let after = count(&made);
            self.view.daemons.insert(daemon.id, Arc::new(made));
            ((false, false), after)
        };
        self.count_daemon(before, after);
        self.changed();
        self.mark(Key::Daemon(daemon.id), why);
        true
    }

    fn count_daemon(&mut self, before: (bool, bool), after: (bool, bool)) {
        fn count(counter: &mut u32, before: bool, after: bool) -> bool {
            match (before, after) {
                (false, true) => *counter += 1,
                (true, false) => *counter -= 1,
                _ => return false,
            }
            true
        }
        let live = count(&mut self.daemons_live, before.0, after.0);
        let missing = count(&mut self.daemons_missing, before.1, after.1);
        if live || missing {
            self.show_progress();
        }
    }

    /// Daemons that live and that are missing, counted anew.
    #[must_use]
    pub fn count_daemons(&self) -> (usize, usize) {
        let live = self.view.daemons.values().filter(|known| is_live(known)).count();
        let missing = self.view.daemons.values();
        let missing = missing.filter(|known| is_missing(known, self.this_node)).count();
        (live, missing)
    }

    /// Daemons that live and that are missing, as they were counted with each change.
    #[must_use]
    pub const fn counted_daemons(&self) -> (usize, usize) {
        (self.daemons_live as usize, self.daemons_missing as usize)
    }

    /// Drops what is known of a daemon; whether anything was.
    pub fn forget_daemon(&mut self, id: Origin) -> bool {
        let Some(known) = self.view.daemons.remove(&id) else {
            return false;
        };
        let before = (is_live(&known), is_missing(&known, self.this_node));
        self.count_daemon(before, (false, false));
        self.alarms.set(Alarm::Look(Key::Daemon(id)), None);
        self.changed();
        true
    }

    /// Changes a chain, which is made when it is not known. `change` says whether anything did change.
    pub fn chain(&mut self, id: ChainId, why: Why, change: impl FnOnce(&mut ChainState) -> bool) -> bool {
        let count = |chain: &ChainState| (chain.holders.clone(), chain.moving.is_some());
        let (before, after) = if let Some(known) = self.view.chains.get_mut(&id) {
            let known = Arc::make_mut(known);
            let before = count(known);
            if !change(known) {
                return false;
            }
            (before, count(known))
        } else {
            if self.view.chains.len() >= self.entities_max {
                self.refused.chains += 1;
                return false;
            }
            let mut made = ChainState::default();
            if !change(&mut made) {
                return false;
            }
            let after = count(&made);
            self.view.chains.insert(id, Arc::new(made));
            ((Holders::new(), false), after)
        };
        self.count_chain(&before, &after);
        self.changed();
        self.mark(Key::Chain(id), why);
        true
    }

    fn count_chain(&mut self, before: &(Holders, bool), after: &(Holders, bool)) {
        match (before.1, after.1) {
            (false, true) => self.moves += 1,
            (true, false) => self.moves -= 1,
            _ => {}
        }
        let (before, after) = (&before.0, &after.0);
        if before == after {
            return;
        }
        for node in after.iter().filter(|node| before.binary_search(node).is_err()) {
            *self.copies.entry(*node).or_insert(0) += 1;
        }
        for node in before.iter().filter(|node| after.binary_search(node).is_err()) {
            self.lost_copy(*node);
        }
        let held = self.copies.get(&self.this_node).copied().unwrap_or(0);
        if self.held != held {
            self.held = held;
            self.show_progress();
        }
    }

    fn lost_copy(&mut self, node: NodeId) {
        if let Some(copies) = self.copies.get_mut(&node).filter(|copies| **copies > 1) {
            *copies -= 1;
            return;
        }
        self.copies.remove(&node);
        // Nobody asks for its fingerprint any more.
        self.fingerprints.remove(&node);
        self.node_changed.remove(&node);
        if self.view.peers.contains_key(&node) {
            // Now it may be forgotten.
            self.mark(Key::Peer(node), Why::of(CauseKind::Event, "last copy gone"));
        }
    }

    /// Copies of chains on each node that has any, counted anew.
    #[must_use]
    pub fn count_copies(&self) -> BTreeMap<NodeId, u32> {
        let mut copies = BTreeMap::new();
        for node in self.view.chains.values().flat_map(|chain| &chain.holders) {
            *copies.entry(*node).or_insert(0) += 1;
        }
        copies
    }

    /// Drops what is known of a chain; whether anything was.
    pub fn forget_chain(&mut self, id: ChainId) -> bool {
        self.forced.remove(&id);
        self.asked.remove(&id);
        let Some(known) = self.view.chains.remove(&id) else {
            return false;
        };
        let before = (known.holders.clone(), known.moving.is_some());
        self.count_chain(&before, &(Holders::new(), false));
        self.alarms.set(Alarm::Look(Key::Chain(id)), None);
        self.changed();
        true
    }

    fn show_progress(&mut self) {
        self.view.daemons_left = self.daemons_live;
        self.view.replicas_left = self.held;
        self.mark(Key::Maintenance, Why::of(CauseKind::Event, "progress"));
    }

    /// When a peer is forgotten, if nothing is heard of it until then; `None`: somebody needs what is known of it.
    #[must_use]
    pub fn forget_peer_at(&self, node: NodeId) -> Option<UnixMs> {
        let known = self.view.peers.get(&node)?;
        let serves = matches!(known.maintenance, None | Some(MaintenancePhase::Active));
        let needed = self.copies.contains_key(&node) || self.view.avoid.contains_key(&node);
        if needed || known.cordoned || !serves {
            return None;
        }
        // In steps, so that not every sample moves a deadline.
        let at = known.seen_at.plus(FORGET_AFTER).get();
        let step = FORGET_STEP.as_millis() as u64;
        Some(UnixMs::new(at.div_ceil(step).saturating_mul(step)))
    }

    /// Changes a peer, which is made when it is not known. `change` says whether anything shown did change.
    pub fn peer(&mut self, node: NodeId, why: Why, change: impl FnOnce(&mut PeerState) -> bool) {
        let now = self.now;
        let shown = if let Some(known) = self.view.peers.get_mut(&node) {
            let known = Arc::make_mut(known);
            known.seen_at = now;
            change(known)
        } else {
            if self.view.peers.len() >= self.entities_max {
                self.refused.peers += 1;
                return;
            }
            let mut made = PeerState {
                seen_at: now,
                ..PeerState::default()
            };
            change(&mut made);
            self.view.peers.insert(node, Arc::new(made));
            true
        };
        if shown {
            self.changed();
        }
        self.mark(Key::Peer(node), why);
    }

    /// Drops what is known of a peer.
    pub fn forget_peer(&mut self, node: NodeId) {
        if self.view.peers.remove(&node).is_some() {
            self.alarms.set(Alarm::Look(Key::Peer(node)), None);
            self.probed.values_mut().for_each(|spoken| {
                spoken.remove(&node);
            });
            self.changed();
        }
        self.judge(node, Why::of(CauseKind::Timer, "peer forgotten"));
    }

    /// Puts a peer on the avoid list, or takes it off.
    pub fn avoid(&mut self, node: NodeId, entry: Option<AvoidEntry>, why: Why) {
        let changed = match entry {
            Some(entry) => self.view.avoid.insert(node, entry.clone()) != Some(entry),
            None => self.view.avoid.remove(&node).is_some(),
        };
        if changed {
            self.changed();
            self.mark(Key::Peer(node), why);
            self.judge(node, why);
        }
    }

    /// Decides anew whether a node is barred or fading; if that changed, every chain is looked at.
    pub fn judge(&mut self, node: NodeId, why: Why) {
        let (barred, fading) = self.judged(node);
        let was_barred = match barred {
            Some(reason) => self.barred.insert(node, reason) == Some(reason),
            None => self.barred.remove(&node).is_none(),
        };
        let was_fading = if fading {
            !self.fading.insert(node)
        } else {
            !self.fading.remove(&node)
        };
        if !was_barred || !was_fading {
            self.recheck(why);
        }
    }

    fn judged(&self, node: NodeId) -> (Option<&'static str>, bool) {
        if node == self.this_node {
            let phase = self.machine.state.phase();
            let barred = if phase != MaintenancePhase::Active {
                Some("maintenance")
            } else if self.view.cordoned {
                Some("cordoned")
            } else {
                None
            };
            return (barred, self.is_draining());
        }
        let Some(peer) = self.view.peers.get(&node) else {
            return (self.view.avoid.contains_key(&node).then_some("avoided"), false);
        };
        let phase = peer.maintenance.unwrap_or_default();
        let gone = peer
            .unreachable_since
            .is_some_and(|since| since.plus(UNREACHABLE_GRACE) <= self.now);
        let draining = matches!(
            phase,
            MaintenancePhase::Entering | MaintenancePhase::Maintenance | MaintenancePhase::DrainFailed
        );
        let barred = if peer.health == Some(NodeHealth::Unreachable) {
            Some("unreachable")
        } else if phase != MaintenancePhase::Active {
            Some("maintenance")
        } else if peer.cordoned {
            Some("cordoned")
        } else if self.view.avoid.contains_key(&node) {
            Some("avoided")
        } else {
            None
        };
        (barred, gone || draining)
    }
}

/// A daemon of which nothing is known but its name.
#[must_use]
pub fn fresh(daemon: DaemonRef) -> DaemonState {
    DaemonState {
        daemon,
        intent: None,
        pin: None,
        lifecycle: Lifecycle::Stopped,
        health: None,
        saturation: Share::default(),
        backoff: Backoff::default(),
        restarts: 0,
        last_crash: None,
        started_at: None,
        stopped_at: None,
        restart_wanted: false,
        registry_number: 0,
        told_backoff: None,
        idle_since: None,
    }
}

fn is_live(daemon: &DaemonState) -> bool {
    daemon.intent.is_some() && daemon.lifecycle != Lifecycle::Stopped
}

fn is_missing(daemon: &DaemonState, this_node: NodeId) -> bool {
    let wanted = daemon.intent == Some(DaemonIntent::Run) && daemon.pin.is_none_or(|pin| pin == this_node);
    let well = matches!(daemon.health, None | Some(DaemonHealth::Healthy));
    wanted && !(daemon.lifecycle == Lifecycle::Running && well)
}
