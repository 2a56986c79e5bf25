//! Decision: who is asked for the daemon of a handle, and who is believed.
//!
//! | state | Wanted, Timer | Found, later or first | Found, otherwise | Nobody | Lost, of that node |
//! |---|---|---|---|---|---|
//! | Idle | Asking: all are asked | Known: told | – | – | – |
//! | Asking | those are asked again who were silent, later each time; Absent when all said so for long enough | Known: told | nothing | noted; Absent when all said so for long enough | nothing |
//! | Known | told again (Wanted) | told | nothing | nothing | Asking: all are asked |
//! | Absent | told again, until that is old: then Asking | Known: told | – | nothing | nothing |
//!
//! Invariants
//! * Of two that are found the one of the later epoch is believed, whatever the order in which they were heard.
//! * Nobody is called absent before every node that is there said so, and not before the search took
//!   [`SURE_AFTER`]: who joined a moment ago may not be known yet.
//! * While somebody is silent, the search goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::id::EntityId;
use crate::mix;

/// The first wait for answers; it doubles with each try.
pub const ASK_FIRST: Duration = Duration::from_millis(50);

/// The longest wait for answers.
pub const ASK_MAX: Duration = Duration::from_secs(1);

/// How long a search takes at least before its daemon is called absent.
pub const SURE_AFTER: Duration = Duration::from_millis(100);

/// How long a daemon is called absent before it is looked for again.
pub const ABSENT_FOR: Duration = Duration::from_secs(1);

/// Where a daemon is, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The daemon.
    pub entity: EntityId,
    /// Key of the node that owns it.
    pub node: EntityId,
    /// Since which epoch.
    pub epoch: u64,
}

/// What happens to a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Somebody wants to know.
    Wanted,
    /// Time has passed.
    Timer,
    /// A node says where it is.
    Found(Known),
    /// A node knows nobody with that handle.
    Nobody {
        /// Which node.
        from: EntityId,
    },
    /// The node that was believed says that it is not there.
    Lost {
        /// Which node.
        from: EntityId,
    },
}

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask this node.
    Ask(EntityId),
    /// It is there.
    Told(Known),
    /// It is nowhere.
    Absent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Idle,
    Asking {
        since: Duration,
        at: Duration,
        wait: Duration,
        /// Those who know nobody with that handle.
        said: BTreeSet<EntityId>,
    },
    Known,
    Absent {
        until: Duration,
    },
}

/// The search for the daemon of one handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finder {
    state: State,
    /// The newest that was heard of it, also while it is looked for again.
    known: Option<Known>,
    seed: u64,
    tries: u64,
}

impl Finder {
    /// Nothing is known, and nobody asked. `seed` spreads the tries.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            state: State::Idle,
            known: None,
            seed,
            tries: 0,
        }
    }

    /// Where it is, if that is certain enough to send something there.
    #[must_use]
    pub fn known(&self) -> Option<Known> {
        self.known.filter(|_| self.state == State::Known)
    }

    /// Whether it is looked for.
    #[must_use]
    pub const fn is_asking(&self) -> bool {
        matches!(self.state, State::Asking { .. })
    }

    /// When [`Signal::Timer`] is due.
    #[must_use]
    pub const fn wake_at(&self) -> Option<Duration> {
        match &self.state {
            State::Asking { at, .. } => Some(*at),
            State::Idle | State::Known | State::Absent { .. } => None,
        }
    }

    /// Decides one step. `others` are the nodes that are there, but this one.
    pub fn step(&mut self, now: Duration, signal: Signal, others: &[EntityId], actions: &mut Vec<Action>) {
        match (signal, &mut self.state) {
            (Signal::Wanted, State::Known) => actions.extend(self.known.map(Action::Told)),
            (Signal::Wanted, State::Absent { until }) if now < *until => actions.push(Action::Absent),
            (Signal::Wanted, State::Idle | State::Absent { .. }) => self.ask_all(now, others, actions),
            (Signal::Found(found), state) => {
                let is_news = self.known.is_none_or(|known| found.epoch > known.epoch);
                // The same place again ends a search that began when it was silent.
                if is_news || self.known == Some(found) && *state != State::Known {
                    (self.known, self.state) = (Some(found), State::Known);
                    actions.push(Action::Told(found));
                }
            }
            (Signal::Nobody { from }, State::Asking { said, .. }) => {
                said.insert(from);
                self.conclude(now, others, actions);
            }
            (Signal::Lost { from }, State::Known) if self.known.is_some_and(|known| known.node == from) => {
                self.ask_all(now, others, actions);
            }
            (Signal::Timer, State::Asking { at, .. }) if *at <= now => {
                if !self.conclude(now, others, actions) {
                    self.ask_again(now, others, actions);
                }
            }
            (Signal::Wanted, State::Asking { .. })
            | (Signal::Timer | Signal::Nobody { .. } | Signal::Lost { .. }, _) => {}
        }
    }

    fn ask_all(&mut self, now: Duration, others: &[EntityId], actions: &mut Vec<Action>) {
        self.state = State::Asking {
            since: now,
            at: now + self.jitter(ASK_FIRST),
            wait: ASK_FIRST,
            said: BTreeSet::new(),
        };
        actions.extend(others.iter().copied().map(Action::Ask));
    }

    /// Ends the search if everybody said that they know nobody.
    fn conclude(&mut self, now: Duration, others: &[EntityId], actions: &mut Vec<Action>) -> bool {
        let State::Asking { since, at, said, .. } = &mut self.state else {
            return false;
        };
        if !others.iter().all(|other| said.contains(other)) {
            return false;
        }
        let sure = *since + SURE_AFTER;
        if now < sure {
            *at = sure;
            return true;
        }
        self.state = State::Absent {
            until: now + ABSENT_FOR,
        };
        actions.push(Action::Absent);
        true
    }

    fn ask_again(&mut self, now: Duration, others: &[EntityId], actions: &mut Vec<Action>) {
        let State::Asking { wait, said, .. } = &mut self.state else {
            return;
        };
        *wait = (*wait * 2).min(ASK_MAX);
        let next = *wait;
        let silent = others.iter().filter(|other| !said.contains(other));
        actions.extend(silent.copied().map(Action::Ask));
        let pause = self.jitter(next);
        if let State::Asking { at, .. } = &mut self.state {
            *at = now + pause;
        }
    }

    /// A wait, shortened by up to a quarter, so that those who lost the same node do not come back together.
    fn jitter(&mut self, wait: Duration) -> Duration {
        self.tries += 1;
        wait - wait.mul_f64(mix::pair_as_share(self.seed, self.tries) / 4.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(10);

    fn node(byte: u8) -> EntityId {
        EntityId::from_bytes([byte; 32])
    }

    fn known(at: u8, epoch: u64) -> Known {
        Known {
            entity: node(9),
            node: node(at),
            epoch,
        }
    }

    fn others() -> [EntityId; 2] {
        [node(1), node(2)]
    }

    fn step(finder: &mut Finder, now: Duration, signal: Signal) -> Vec<Action> {
        let mut actions = Vec::new();
        finder.step(now, signal, &others(), &mut actions);
        actions
    }

    fn in_state(state: State, known: Option<Known>) -> Finder {
        Finder {
            state,
            known,
            ..Finder::new(7)
        }
    }

    fn asking(since: Duration, said: &[u8]) -> State {
        State::Asking {
            since,
            at: NOW,
            wait: ASK_FIRST,
            said: said.iter().map(|byte| node(*byte)).collect(),
        }
    }

    /// Every pair of state and signal: what comes of it, and the name of the state after it.
    #[test]
    fn table() {
        let early = NOW - SURE_AFTER / 2;
        let long_ago = NOW - SURE_AFTER;
        let states = [
            ("idle", in_state(State::Idle, None)),
            ("asking", in_state(asking(long_ago, &[]), None)),
            ("one said", in_state(asking(long_ago, &[1]), Some(known(1, 4)))),
            ("one said early", in_state(asking(early, &[1]), None)),
            ("known", in_state(State::Known, Some(known(1, 4)))),
            (
                "absent",
                in_state(
                    State::Absent {
                        until: NOW + ABSENT_FOR,
                    },
                    None,
                ),
            ),
            ("absent long", in_state(State::Absent { until: NOW }, None)),
        ];
        let signals = [
            Signal::Wanted,
            Signal::Timer,
            Signal::Found(known(2, 5)),
            Signal::Found(known(1, 4)),
            Signal::Found(known(2, 3)),
            Signal::Nobody { from: node(2) },
            Signal::Lost { from: node(1) },
            Signal::Lost { from: node(2) },
        ];
        let ask = || vec![Action::Ask(node(1)), Action::Ask(node(2))];
        let told = |at, epoch| vec![Action::Told(known(at, epoch))];
        let none = Vec::new;
        let table: [[(Vec<Action>, &str); 8]; 7] = [
            [
                (ask(), "asking"),
                (none(), "idle"),
                (told(2, 5), "known"),
                (told(1, 4), "known"),
                (told(2, 3), "known"),
                (none(), "idle"),
                (none(), "idle"),
                (none(), "idle"),
            ],
            [
                (none(), "asking"),
                (ask(), "asking"),
                (told(2, 5), "known"),
                (told(1, 4), "known"),
                (told(2, 3), "known"),
                (none(), "asking"),
                (none(), "asking"),
                (none(), "asking"),
            ],
            [
                (none(), "asking"),
                (vec![Action::Ask(node(2))], "asking"),
                (told(2, 5), "known"),
                (told(1, 4), "known"),
                (none(), "asking"),
                (vec![Action::Absent], "absent"),
                (none(), "asking"),
                (none(), "asking"),
            ],
            [
                (none(), "asking"),
                (vec![Action::Ask(node(2))], "asking"),
                (told(2, 5), "known"),
                (told(1, 4), "known"),
                (told(2, 3), "known"),
                (none(), "asking"),
                (none(), "asking"),
                (none(), "asking"),
            ],
            [
                (told(1, 4), "known"),
                (none(), "known"),
                (told(2, 5), "known"),
                (none(), "known"),
                (none(), "known"),
                (none(), "known"),
                (ask(), "asking"),
                (none(), "known"),
            ],
            [
                (vec![Action::Absent], "absent"),
                (none(), "absent"),
                (told(2, 5), "known"),
                (told(1, 4), "known"),
                (told(2, 3), "known"),
                (none(), "absent"),
                (none(), "absent"),
                (none(), "absent"),
            ],
            [
                (ask(), "asking"),
                (none(), "absent"),
                (told(2, 5), "known"),
                (told(1, 4), "known"),
                (told(2, 3), "known"),
                (none(), "absent"),
                (none(), "absent"),
                (none(), "absent"),
            ],
        ];
        for ((name, before), row) in states.iter().zip(&table) {
            for (signal, (actions, after)) in signals.iter().zip(row) {
                let mut finder = before.clone();
                assert_eq!(step(&mut finder, NOW, *signal), *actions, "{name}, {signal:?}");
                let state = match finder.state {
                    State::Idle => "idle",
                    State::Asking { .. } => "asking",
                    State::Known => "known",
                    State::Absent { .. } => "absent",
                };
                assert_eq!(state, *after, "{name}, {signal:?}");
            }
        }
    }

    #[test]
    fn a_node_that_is_alone_is_sure_after_a_moment() {
        let mut finder = Finder::new(1);
        let mut actions = Vec::new();
        finder.step(NOW, Signal::Wanted, &[], &mut actions);
        assert_eq!((actions.len(), finder.is_asking()), (0, true));
        let mut now = NOW;
        while let Some(at) = finder.wake_at() {
            now = at;
            finder.step(now, Signal::Timer, &[], &mut actions);
        }
        assert_eq!(actions, [Action::Absent]);
        assert_eq!(now, NOW + SURE_AFTER);
    }

    #[test]
    fn who_is_silent_is_asked_later_each_time() {
        let mut finder = Finder::new(1);
        step(&mut finder, NOW, Signal::Wanted);
        let mut before = NOW;
        let mut waits = Vec::new();
        for _ in 0..8 {
            let at = finder.wake_at().expect("it goes on");
            waits.push(at - before);
            before = at;
            assert_eq!(step(&mut finder, at, Signal::Timer).len(), 2);
        }
        assert!(waits[0] <= ASK_FIRST && waits.iter().all(|wait| *wait <= ASK_MAX));
        assert!(waits[7] >= ASK_MAX.mul_f64(0.75));
    }
}
