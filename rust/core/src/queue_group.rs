//! Decision: which member of a queue group gets which event of a channel.
//!
//! | signal | who is a member | who is none |
//! |---|---|---|
//! | Joined | – | a member; gets events in turn |
//! | Taken, up to a turn | room for as many more | –, counted |
//! | Left | what they had not taken goes to others | – |
//! | Published | whoever has room and waited longest gets it | |
//! | Pruned | what nobody was given yet and is gone is a counted gap | |
//!
//! Each member has turns of its own, numbered from 1 in a term of its own: to the member they are a log like any other, so
//! that order, repetition and repair are those of a [`subscription`](crate::subscription).
//!
//! Invariants
//! * Each event is with one member at a time. It is with nobody any more when that member took it.
//! * What a member had not taken when it left goes to another, before what is newer. It may have been processed: a member that
//!   left has not said.
//! * A member has at most [`WINDOW`] events that it has not taken.
//! * A group whose last member left is over: what nobody took is counted as lost to it. Without a member it gets nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::channel_frame::Gap;
use crate::id::EntityId;

/// Events that a member may have without having taken them.
pub const WINDOW: usize = 64;

/// What happens to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Somebody becomes a member.
    Joined(EntityId),
    /// A member is done with its turns up to this one.
    Taken {
        /// Who.
        who: EntityId,
        /// In which term.
        term: u64,
        /// The turn.
        turn: u64,
    },
    /// A member is no more, whatever the reason.
    Left(EntityId),
    /// The channel has events up to this number.
    Published {
        /// The last.
        last: u64,
    },
    /// The channel keeps events from this number on.
    Pruned {
        /// The first that is kept.
        first: u64,
    },
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Tell somebody that it is a member, and of which term its turns are.
    Welcome {
        /// Whom.
        to: EntityId,
        /// The term.
        term: u64,
    },
    /// Send an event to a member.
    Give {
        /// To whom.
        to: EntityId,
        /// In which term.
        term: u64,
        /// As which turn.
        turn: u64,
        /// Its number on the channel.
        sequence: u64,
    },
    /// No member gets these.
    Lost(Gap),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    term: u64,
    /// The last turn that it was given.
    turn: u64,
    /// What it has not taken: numbers of the channel by turn.
    open: BTreeMap<u64, u64>,
}

/// One group of one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueGroup {
    members: BTreeMap<EntityId, Member>,
    /// Members, the one that waited longest first.
    order: VecDeque<EntityId>,
    /// Given once, and to be given again.
    again: BTreeSet<u64>,
    /// The first number that nobody was given.
    next: u64,
    last: u64,
    terms: u64,
    lost: u64,
    ignored: u64,
}

impl QueueGroup {
    /// A group that gets what comes after number `last`. Its terms begin above `term`.
    #[must_use]
    pub const fn after(last: u64, term: u64) -> Self {
        Self {
            members: BTreeMap::new(),
            order: VecDeque::new(),
            again: BTreeSet::new(),
            next: last + 1,
            last,
            terms: term,
            lost: 0,
            ignored: 0,
        }
    }

    /// Decides one step.
    #[must_use]
    pub fn step(&mut self, signal: Signal) -> Vec<Action> {
        let mut actions = Vec::new();
        match signal {
            Signal::Joined(who) => self.join(who, &mut actions),
            Signal::Taken { who, term, turn } => match self.members.get_mut(&who) {
                Some(member) if member.term == term && turn <= member.turn => {
                    member.open = member.open.split_off(&(turn + 1));
                }
                _ => self.ignored += 1,
            },
            Signal::Left(who) => self.leave(&who, &mut actions),
            Signal::Published { last } => {
                self.last = self.last.max(last);
                if self.members.is_empty() {
                    self.next = self.last + 1;
                }
            }
            Signal::Pruned { first } => self.prune(first, &mut actions),
        }
        self.give(&mut actions);
        actions
    }

    /// What a member has not taken: its turns, and the numbers of the channel. A repair is answered from it.
    pub fn open(&self, who: &EntityId) -> impl Iterator<Item = (u64, u64)> + '_ {
        let member = self.members.get(who);
        member
            .into_iter()
            .flat_map(|member| member.open.iter().map(|(turn, sequence)| (*turn, *sequence)))
    }

    /// The term of a member.
    #[must_use]
    pub fn term(&self, who: &EntityId) -> Option<u64> {
        self.members.get(who).map(|member| member.term)
    }

    /// Whether it has no member, and is over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Events that no member got.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Signals that came late, or from who is no member.
    #[must_use]
    pub const fn ignored(&self) -> u64 {
        self.ignored
    }

    fn join(&mut self, who: EntityId, actions: &mut Vec<Action>) {
        let term = match self.members.get(&who) {
            Some(member) => member.term,
            None => {
                self.terms += 1;
                let member = Member {
                    term: self.terms,
                    turn: 0,
                    open: BTreeMap::new(),
                };
                self.members.insert(who, member);
                self.order.push_front(who);
                self.terms
            }
        };
        actions.push(Action::Welcome { to: who, term });
    }

    fn leave(&mut self, who: &EntityId, actions: &mut Vec<Action>) {
        let Some(member) = self.members.remove(who) else {
            self.ignored += 1;
            return;
        };
        self.order.retain(|other| other != who);
        self.again.extend(member.open.into_values());
        if self.members.is_empty() {
            let waiting: Vec<u64> = std::mem::take(&mut self.again).into_iter().collect();
            waiting
                .iter()
                .for_each(|sequence| self.lose(*sequence, *sequence, actions));
            if self.next <= self.last {
                self.lose(self.next, self.last, actions);
                self.next = self.last + 1;
            }
        }
    }

    fn prune(&mut self, first: u64, actions: &mut Vec<Action>) {
        let kept = self.again.split_off(&first);
        let gone = std::mem::replace(&mut self.again, kept);
        gone.iter()
            .for_each(|sequence| self.lose(*sequence, *sequence, actions));
        if self.next < first {
            self.lose(self.next, first - 1, actions);
            self.next = first;
            self.last = self.last.max(first - 1);
        }
    }

    /// Counts numbers as lost, and tells them as few gaps.
    fn lose(&mut self, first: u64, last: u64, actions: &mut Vec<Action>) {
        self.lost += last - first + 1;
        if let Some(Action::Lost(gap)) = actions.last_mut()
            && gap.last + 1 == first
        {
            gap.last = last;
            return;
        }
        actions.push(Action::Lost(Gap { first, last }));
    }

    fn give(&mut self, actions: &mut Vec<Action>) {
        while let Some(at) = self.order.iter().position(|who| self.members[who].open.len() < WINDOW) {
            let sequence = match self.again.pop_first() {
                Some(sequence) => sequence,
                None if self.next <= self.last => {
                    self.next += 1;
                    self.next - 1
                }
                None => return,
            };
            let to = self.order.remove(at).expect("it was just found");
            self.order.push_back(to);
            let member = self.members.get_mut(&to).expect("who is in the order is a member");
            member.turn += 1;
            member.open.insert(member.turn, sequence);
            actions.push(Action::Give {
                to,
                term: member.term,
                turn: member.turn,
                sequence,
            });
        }
    }
}
