//! Changes of daemons, with the counters that hang on them.

use std::sync::Arc;

use crate::event::DaemonHealth;
use crate::finite::Share;
use crate::id::{NodeId, Origin};
use crate::signal::{DaemonIntent, DaemonRef};
use crate::status::{DaemonState, Lifecycle};
use crate::supervision::Backoff;

use super::{Alarm, Key, Why, World};

impl World {
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

    /// Whether a daemon shall be watched over now: as long as it shall run here, and until it has stopped. One that is
    /// on its way out is watched over too, since a stop by force loses what nobody keeps.
    #[must_use]
    pub fn shall_be_supervised(&self, known: &DaemonState) -> bool {
        let here = known.pin.is_none_or(|pin| pin == self.this_node);
        match known.intent {
            None => false,
            Some(DaemonIntent::Run) if here => true,
            Some(DaemonIntent::Run | DaemonIntent::Stop) => known.lifecycle != Lifecycle::Stopped,
        }
    }

    /// Whether a daemon shall be watched over, which is told now; `None`: nothing is known of it.
    pub fn supervise(&mut self, id: Origin) -> Option<(Origin, bool)> {
        let wanted = self.shall_be_supervised(self.view.daemons.get(&id)?);
        let known = self.view.daemons.get_mut(&id)?;
        if known.supervised != wanted {
            Arc::make_mut(known).supervised = wanted;
        }
        Some((id, wanted))
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
        capabilities: None,
        backoff: Backoff::default(),
        restarts: 0,
        last_crash: None,
        started_at: None,
        stopped_at: None,
        restart_wanted: false,
        supervised: false,
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
