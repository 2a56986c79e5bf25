//! Actions that wait, the most urgent first, then the oldest.

use std::collections::{BTreeMap, BTreeSet};

use crate::action::{ActionKey, Priority};
use crate::world::Key;

/// Where an action stands: how urgent it is, and its number.
pub(super) type Place = (Priority, u64);

/// What an action belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ticket {
    /// What it is the work of.
    pub(super) key: ActionKey,
    /// How urgent it is.
    pub(super) priority: Priority,
    /// What was looked at when it was emitted.
    pub(super) entity: Key,
}

/// Everything that waits, and of everything under way what it belongs to.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Queue {
    tickets: BTreeMap<u64, Ticket>,
    /// To be dispatched.
    ready: BTreeSet<Place>,
    /// To be dispatched, in a throttle, or until a time.
    waiting: BTreeSet<Place>,
}

impl Queue {
    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What an action belongs to.
    pub(super) fn ticket(&self, id: u64) -> Option<Ticket> {
        self.tickets.get(&id).copied()
    }

    /// Takes an action in that is to be dispatched.
    pub(super) fn enter(&mut self, place: Place, ticket: Ticket) {
        self.tickets.insert(place.1, ticket);
        self.ready.insert(place);
        self.waiting.insert(place);
    }

    /// Forgets an action; where it waited, if it did.
    pub(super) fn leave(&mut self, id: u64) -> Option<Place> {
        let ticket = self.tickets.remove(&id)?;
        let place = (ticket.priority, id);
        self.ready.remove(&place);
        self.waiting.remove(&place).then_some(place)
    }

    /// The next to be dispatched; it waits until it is started.
    pub(super) fn next(&mut self) -> Option<(Place, Ticket)> {
        let place = self.ready.pop_first()?;
        let ticket = self.ticket(place.1)?;
        Some((place, ticket))
    }

    /// Whether `place` would be the next.
    pub(super) fn is_next(&self, place: &Place) -> bool {
        self.ready.first().is_none_or(|first| place < first)
    }

    /// Lets an action that waits be dispatched.
    pub(super) fn make_ready(&mut self, place: Place) {
        self.ready.insert(place);
    }

    /// An action is dispatched: it waits no more.
    pub(super) fn start(&mut self, place: Place) {
        self.waiting.remove(&place);
    }

    /// An action that was dispatched waits for another try.
    pub(super) fn wait_again(&mut self, place: Place) {
        self.waiting.insert(place);
    }

    /// The least urgent that waits; of those the youngest.
    pub(super) fn least_urgent(&self) -> Option<(Priority, Ticket)> {
        let (priority, id) = *self.waiting.last()?;
        Some((priority, self.ticket(id)?))
    }
}
