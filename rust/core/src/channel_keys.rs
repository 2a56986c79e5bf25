//! Decision: who has the key of a gated channel, and when it changes.
//!
//! | signal about somebody who | is unknown | subscribes | has left, and knows the key |
//! |---|---|---|---|
//! | Accepted | subscribes; the key is handed over | the key is handed over again | subscribes; the key is handed over again |
//! | Unsubscribed | – | has left | – |
//! | Asked | refused, counted | the key is handed over | refused, counted |
//! | Revoked | – | forgotten; the key changes | forgotten; the key changes |
//! | Rotate | – | gets the new key | forgotten |
//!
//! When the key changes, the next generation is made and handed to everybody who subscribes. Who has left is forgotten:
//! they do not know it. Whose permission ends, by a revocation or by its time, is Revoked.
//!
//! Invariants
//! * Whoever knows the key of the generation in force subscribes, or left while it was in force.
//! * Who was revoked knows the key of no later generation, unless accepted anew.
//! * Generations rise by one. Keys, and chance, are elsewhere: whoever steps makes a key when told to.
//! * What is remembered is bounded: of those who left at most [`LEFT_MAX`], then the key changes.

use std::collections::BTreeMap;

use crate::id::EntityId;

/// Those who left and are remembered because they know the key.
pub const LEFT_MAX: usize = 1_024;

/// What somebody who knows the key in force is to the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Reads it.
    Subscribed,
    /// Did.
    Left,
}

/// What happens to a gated channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// A subscription was accepted, perhaps not for the first time.
    Accepted(EntityId),
    /// A subscriber left of its own will.
    Unsubscribed(EntityId),
    /// Somebody lacks the key in force.
    Asked(EntityId),
    /// Nobody of these may read it any more.
    Revoked(Vec<EntityId>),
    /// The key has been in use for long enough.
    Rotate,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make a random key: what is sealed from now on is sealed under it.
    NewGeneration {
        /// Its number.
        generation: u64,
    },
    /// Hand the key in force to a subscriber.
    Hand {
        /// To whom.
        to: EntityId,
        /// Which it is.
        generation: u64,
    },
    /// Tell somebody that they do not subscribe.
    Refuse {
        /// Whom.
        to: EntityId,
    },
}

/// Who knows the key in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelKeys {
    generation: u64,
    known_by: BTreeMap<EntityId, Standing>,
    left: usize,
    refused: u64,
}

impl ChannelKeys {
    /// Opens the channel, in a generation above every one that it ever had. Where none was kept, the unix time in
    /// milliseconds is one.
    #[must_use]
    pub const fn open(generation: u64) -> (Self, Action) {
        let opened = Self {
            generation,
            known_by: BTreeMap::new(),
            left: 0,
            refused: 0,
        };
        (opened, Action::NewGeneration { generation })
    }

    /// Decides one step.
    #[must_use]
    pub fn step(&mut self, signal: &Signal) -> Vec<Action> {
        match signal {
            Signal::Accepted(who) => {
                if self.known_by.insert(*who, Standing::Subscribed) == Some(Standing::Left) {
                    self.left -= 1;
                }
                vec![self.hand(*who)]
            }
            Signal::Unsubscribed(who) => self.leave(who),
            Signal::Asked(who) => match self.known_by.get(who) {
                Some(Standing::Subscribed) => vec![self.hand(*who)],
                Some(Standing::Left) | None => {
                    self.refused += 1;
                    vec![Action::Refuse { to: *who }]
                }
            },
            Signal::Revoked(them) => {
                let knew = them.iter().filter(|who| self.known_by.remove(who).is_some()).count();
                if knew == 0 { Vec::new() } else { self.change() }
            }
            Signal::Rotate => self.change(),
        }
    }

    /// The generation in force.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// What somebody is who knows the key in force.
    #[must_use]
    pub fn standing(&self, who: &EntityId) -> Option<Standing> {
        self.known_by.get(who).copied()
    }

    /// Those who know the key in force.
    pub fn known_by(&self) -> impl Iterator<Item = (&EntityId, Standing)> {
        self.known_by.iter().map(|(who, standing)| (who, *standing))
    }

    /// How often a key was asked for by who does not subscribe.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    fn leave(&mut self, who: &EntityId) -> Vec<Action> {
        match self.known_by.get_mut(who) {
            Some(standing @ Standing::Subscribed) => {
                *standing = Standing::Left;
                self.left += 1;
                if self.left > LEFT_MAX {
                    self.change()
                } else {
                    Vec::new()
                }
            }
            Some(Standing::Left) | None => Vec::new(),
        }
    }

    /// The next generation, for all who subscribe.
    fn change(&mut self) -> Vec<Action> {
        self.known_by.retain(|_, standing| *standing == Standing::Subscribed);
        self.left = 0;
        self.generation = self
            .generation
            .checked_add(1)
            .expect("a key does not change 2^64 times");
        let generation = self.generation;
        let hand = self.known_by.keys().map(|to| Action::Hand { to: *to, generation });
        [Action::NewGeneration { generation }].into_iter().chain(hand).collect()
    }

    const fn hand(&self, to: EntityId) -> Action {
        let generation = self.generation;
        Action::Hand { to, generation }
    }
}
