//! Changes of chains, with the counters that hang on them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::action::CauseKind;
use crate::command::ChainId;
use crate::id::NodeId;
use crate::status::{ChainState, Holders};

use super::{Alarm, Key, Why, World};

impl World {
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
}
