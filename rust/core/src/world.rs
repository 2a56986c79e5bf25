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
use crate::command::ChainId;
use crate::event::DaemonHealth;
use crate::finite::Share;
use crate::id::{NodeId, Origin};
use crate::loop_config::MeshOsConfig;
use crate::maintenance::{Machine, Progress};
use crate::maintenance_state::MaintenancePhase;
use crate::peer::{AvoidEntry, NodeHealth};
use crate::signal::{DaemonIntent, DaemonRef};
use crate::status::{ChainState, DaemonState, Lifecycle, PeerState, View};
use crate::supervision::Backoff;
use crate::time::UnixMs;

/// A holder that is unreachable for so long is counted as lost.
pub const UNREACHABLE_GRACE: Duration = Duration::from_secs(30);
/// What nobody wants and nobody has is forgotten after so long.
pub const FORGET_AFTER: Duration = Duration::from_secs(3600);
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
    pub envelope_id: Option<[u8; 32]>,
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
    /// What began it: something that concerns every chain, or the interval, which expects to find nothing.
    pub why: Option<Why>,
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
    /// Whether there is a scorer.
    pub scorer: bool,
    /// Scores said before are void.
    pub scores_valid_from: UnixMs,
    /// When the scorer's view of a node changed last.
    pub node_changed: BTreeMap<NodeId, UnixMs>,
    /// What the scorer said of each node it scored.
    pub fingerprints: BTreeMap<NodeId, Option<u64>>,
    /// Chains whose scores were asked for; `true`: to verify a move.
    pub asked: BTreeMap<ChainId, bool>,
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
            scorer: false,
            scores_valid_from: UnixMs::default(),
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
        self.sweep = Some(Sweep {
            after: None,
            why: Some(why),
        });
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
        let this_node = self.this_node;
        let here = |chain: &ChainState| chain.holders.binary_search(&this_node).is_ok();
        let (before, after) = if let Some(known) = self.view.chains.get_mut(&id) {
            let known = Arc::make_mut(known);
            let before = (here(known), known.moving.is_some());
            if !change(known) {
                return false;
            }
            (before, (here(known), known.moving.is_some()))
        } else {
            let mut made = ChainState::default();
            if !change(&mut made) {
                return false;
            }
            let after = (here(&made), made.moving.is_some());
            self.view.chains.insert(id, Arc::new(made));
            ((false, false), after)
        };
        self.count_chain(before, after);
        self.changed();
        self.mark(Key::Chain(id), why);
        true
    }

    fn count_chain(&mut self, before: (bool, bool), after: (bool, bool)) {
        match (before.1, after.1) {
            (false, true) => self.moves += 1,
            (true, false) => self.moves -= 1,
            _ => {}
        }
        match (before.0, after.0) {
            (false, true) => self.held += 1,
            (true, false) => self.held -= 1,
            _ => return,
        }
        self.show_progress();
    }

    /// Drops what is known of a chain; whether anything was.
    pub fn forget_chain(&mut self, id: ChainId) -> bool {
        self.forced.remove(&id);
        self.asked.remove(&id);
        let Some(known) = self.view.chains.remove(&id) else {
            return false;
        };
        let before = (
            known.holders.binary_search(&self.this_node).is_ok(),
            known.moving.is_some(),
        );
        self.count_chain(before, (false, false));
        self.alarms.set(Alarm::Look(Key::Chain(id)), None);
        self.changed();
        true
    }

    fn show_progress(&mut self) {
        self.view.daemons_left = self.daemons_live;
        self.view.replicas_left = self.held;
        self.mark(Key::Maintenance, Why::of(CauseKind::Event, "progress"));
    }

    /// Changes a peer, which is made when it is not known. `change` says whether anything shown did change.
    pub fn peer(&mut self, node: NodeId, why: Why, change: impl FnOnce(&mut PeerState) -> bool) {
        let now = self.now;
        let shown = if let Some(known) = self.view.peers.get_mut(&node) {
            let known = Arc::make_mut(known);
            known.seen_at = now;
            change(known)
        } else {
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
