//! A queue group of a channel: its members, and what each was given.
//!
//! Invariants
//! * What a member was given is kept until it took it, so that it can be sent again whatever the log keeps.

use std::collections::BTreeMap;

use meshos_core::channel_frame::{ChannelFrame, Gap};
use meshos_core::channel_log::{ChannelLog, Logged};
use meshos_core::id::EntityId;
use meshos_core::queue_group::{Action, QueueGroup, Signal};
use meshos_core::roster::Roster;

use crate::channel_out::Outgoing;
use crate::channel_send::{At, with_event};

/// One group.
pub(crate) struct Group {
    queue: QueueGroup,
    /// What was given and not taken, by number.
    given: BTreeMap<u64, Logged>,
    /// The last turn of each member.
    turns: BTreeMap<EntityId, u64>,
}

impl Group {
    /// A group that gets what comes after a number.
    pub(crate) fn after(last: u64, term: u64) -> Self {
        Self {
            queue: QueueGroup::after(last, term),
            given: BTreeMap::new(),
            turns: BTreeMap::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes a member in, perhaps not for the first time: its term, the next of its turns, and what is to be done once it
    /// knows. `after` is what it took last.
    pub(crate) fn joined(&mut self, who: &EntityId, after: Option<(u64, u64)>) -> (u64, u64, Vec<Action>) {
        let last = self.turns.get(who).copied().unwrap_or(0);
        let actions = self.queue.step(Signal::Joined(*who));
        let term = self.queue.term(who).unwrap_or(0);
        let goes_on = after.is_some_and(|(known, _)| known == term);
        let first_open = self.queue.open(who).map(|(turn, _)| turn).find(|turn| *turn <= last);
        let next = match first_open {
            Some(first) if !goes_on => first,
            _ => last + 1,
        };
        (term, next, actions)
    }

    /// Gives out what was published. Returns how many events nobody gets.
    pub(crate) fn published(
        &mut self,
        kept: u64,
        last: u64,
        at: At<'_>,
        log: &ChannelLog,
        roster: &Roster,
        out: &mut Outgoing,
    ) -> u64 {
        let mut actions = self.queue.step(Signal::Pruned { first: kept });
        actions.extend(self.queue.step(Signal::Published { last }));
        self.act(actions, at, log, roster, out)
    }

    pub(crate) fn left(
        &mut self,
        who: &EntityId,
        at: At<'_>,
        log: &ChannelLog,
        roster: &Roster,
        out: &mut Outgoing,
    ) -> u64 {
        self.turns.remove(who);
        let actions = self.queue.step(Signal::Left(*who));
        self.act(actions, at, log, roster, out)
    }

    pub(crate) fn taken(
        &mut self,
        who: &EntityId,
        (term, turn): (u64, u64),
        at: At<'_>,
        log: &ChannelLog,
        roster: &Roster,
        out: &mut Outgoing,
    ) -> u64 {
        if self.queue.term(who) == Some(term) {
            let taken = self.queue.open(who).take_while(|(open, _)| *open <= turn);
            let taken: Vec<u64> = taken.map(|(_, sequence)| sequence).collect();
            for sequence in taken {
                self.given.remove(&sequence);
            }
        }
        let who = *who;
        let actions = self.queue.step(Signal::Taken { who, term, turn });
        self.act(actions, at, log, roster, out)
    }

    /// Carries out what was decided. Returns how many events nobody gets.
    pub(crate) fn act(
        &mut self,
        actions: Vec<Action>,
        at: At<'_>,
        log: &ChannelLog,
        roster: &Roster,
        out: &mut Outgoing,
    ) -> u64 {
        let mut lost = 0;
        for action in actions {
            match action {
                Action::Welcome { .. } => {}
                Action::Lost(gap) => {
                    lost += gap.len();
                    self.given
                        .retain(|sequence, _| !(gap.first..=gap.last).contains(sequence));
                }
                Action::Give {
                    to,
                    term,
                    turn,
                    sequence,
                } => {
                    self.turns.insert(to, turn);
                    if let Some(logged) = log.get(sequence) {
                        self.given.entry(sequence).or_insert_with(|| logged.clone());
                    }
                    let member = roster.member(at.0, &to);
                    if let (Some(member), Some(logged)) = (member, self.given.get(&sequence)) {
                        send(logged, &to, (term, turn), at, &member.node, out);
                    }
                }
            }
        }
        lost
    }

    /// Sends turns again that a member lacks.
    pub(crate) fn repair(
        &self,
        who: &EntityId,
        term: u64,
        turns: Gap,
        at: At<'_>,
        node: &EntityId,
        out: &mut Outgoing,
    ) {
        if self.queue.term(who) != Some(term) {
            // What it is sent is of a later term, at which it asks anew.
            return self.remind(who, at, node, out);
        }
        for (turn, sequence) in self.queue.open(who) {
            if let Some(logged) = self.given.get(&sequence).filter(|_| turn >= turns.first)
                && turn <= turns.last
            {
                send(logged, who, (term, turn), at, node, out);
            }
        }
    }

    /// Sends the last turn again that a member has not taken: what was lost on the way is missed then.
    fn remind(&self, who: &EntityId, at: At<'_>, node: &EntityId, out: &mut Outgoing) {
        if let (Some(term), Some((turn, sequence))) = (self.queue.term(who), self.queue.open(who).last())
            && let Some(logged) = self.given.get(&sequence)
        {
            send(logged, who, (term, turn), at, node, out);
        }
    }

    /// Reminds every member of what it has not taken.
    pub(crate) fn remind_all(&self, at: At<'_>, roster: &Roster, out: &mut Outgoing) {
        for who in self.turns.keys() {
            if let Some(member) = roster.member(at.0, who) {
                self.remind(who, at, &member.node, out);
            }
        }
    }
}

fn send(logged: &Logged, to: &EntityId, (term, turn): (u64, u64), at: At<'_>, node: &EntityId, out: &mut Outgoing) {
    let frame = with_event(logged, at, |event| {
        let frame = ChannelFrame::Turn {
            channel: at.0.clone(),
            subscriber: *to,
            term,
            turn,
            event,
        };
        frame.to_bytes()
    });
    out.put(node, &frame);
}
