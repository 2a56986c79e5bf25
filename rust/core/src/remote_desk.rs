//! Decision: what a node does about what other nodes ask of it.
//!
//! | signal | a call that is not known | Working | Answered | Holding a snapshot |
//! |---|---|---|---|---|
//! | Ask | run; refused, if it is not permitted or there are too many | Working is answered | answered as before | answered as before |
//! | Finished | – | answered | – | – |
//! | Fetch | refused: not found | – | – | the part is sent; refused: failed, behind the end |
//! | Timer, long after it was heard of | – | – | forgotten | forgotten, with the snapshot |
//!
//! A dash: nothing happens, and it is counted. A call is named by the node that asks and the number that it chose.
//!
//! Invariants
//! * A call is run once, however often it is asked for, as long as it is remembered: [`KEPT`] after it was last heard of.
//! * Nothing is run for a node that is not permitted, and of that nothing is remembered.
//! * Calls, and the bytes of snapshots that are held, are bounded; beyond that they are refused.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::EntityId;
use crate::remote_frame::{Answer, CallId, PART_BYTES_MAX, Reason, Refused};

/// How long a call is remembered after it was last heard of. No caller asks again so late.
pub const KEPT: Duration = Duration::from_secs(60);

/// Calls remembered.
pub const CALLS_MAX: usize = 4_096;

/// Calls of one node remembered.
pub const CALLS_PER_NODE_MAX: usize = 256;

/// Bytes of snapshots held; one always has a place.
pub const HELD_BYTES_MAX: u64 = 256 << 20;

/// Which call, of which node.
pub type Key = (EntityId, CallId);

/// What happens at a desk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// A node asks.
    Ask {
        /// Which call.
        key: Key,
        /// Whether the node may.
        permitted: bool,
    },
    /// What was run came to an end. With [`Answer::Taken`] the snapshot is kept at hand.
    Finished {
        /// Which call.
        key: Key,
        /// What came of it.
        answer: Answer,
    },
    /// A node asks for a part of a snapshot.
    Fetch {
        /// Which call.
        key: Key,
        /// Where the part begins.
        offset: u64,
    },
    /// Time has passed.
    Timer,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run the call.
    Run(Key),
    /// Answer.
    Answer(Key, Answer),
    /// Send this part of the snapshot at hand.
    Part {
        /// Which call.
        key: Key,
        /// Where it begins.
        offset: u64,
        /// How long it is.
        length: usize,
    },
    /// Let go of the snapshot at hand.
    LetGo(Key),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    answer: Answer,
    heard: Duration,
}

/// What other nodes ask of this one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteDesk {
    calls: BTreeMap<Key, Call>,
    held: u64,
    refused: u64,
    ignored: u64,
}

fn refusal(reason: Reason, text: &str) -> Answer {
    Answer::Refused(Refused {
        reason,
        owner: None,
        text: text.to_owned(),
    })
}

impl RemoteDesk {
    /// When a [`Signal::Timer`] is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        let done = self.calls.values().filter(|call| call.answer != Answer::Working);
        done.map(|call| call.heard + KEPT).min()
    }

    /// Calls remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Calls that were refused here, without being run.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Signals that were of no use.
    #[must_use]
    pub const fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Decides one step. `now` is the time of a clock that never goes back.
    pub fn step(&mut self, now: Duration, signal: Signal, actions: &mut Vec<Action>) {
        match signal {
            Signal::Ask { key, permitted } => self.ask(now, key, permitted, actions),
            Signal::Finished { key, answer } => self.finished(now, key, answer, actions),
            Signal::Fetch { key, offset } => self.fetch(now, key, offset, actions),
            Signal::Timer => {
                let is_over = |call: &Call| call.answer != Answer::Working && now >= call.heard + KEPT;
                let over = self.calls.iter().filter(|(_, call)| is_over(call));
                let over: Vec<Key> = over.map(|(key, _)| *key).collect();
                for key in over {
                    self.forget(&key, actions);
                }
            }
        }
    }

    fn ask(&mut self, now: Duration, key: Key, permitted: bool, actions: &mut Vec<Action>) {
        if let Some(call) = self.calls.get_mut(&key).filter(|_| permitted) {
            call.heard = now;
            actions.push(Action::Answer(key, call.answer.clone()));
            return;
        }
        let of_node = (key.0, [0; 16])..=(key.0, [255; 16]);
        let has_room = self.calls.len() < CALLS_MAX && self.calls.range(of_node).count() < CALLS_PER_NODE_MAX;
        if permitted && has_room {
            let answer = Answer::Working;
            self.calls.insert(key, Call { answer, heard: now });
            actions.push(Action::Run(key));
            return;
        }
        self.refused += 1;
        let answer = if permitted {
            refusal(Reason::Busy, "it has as many calls as it takes")
        } else {
            refusal(Reason::NotPermitted, "it does not let this node do so")
        };
        actions.push(Action::Answer(key, answer));
    }

    fn finished(&mut self, now: Duration, key: Key, answer: Answer, actions: &mut Vec<Action>) {
        let Some(call) = self
            .calls
            .get_mut(&key)
            .filter(|call| call.answer == Answer::Working && answer != Answer::Working)
        else {
            self.ignored += 1;
            return;
        };
        call.heard = now;
        call.answer = answer;
        if let Answer::Taken { size, .. } = call.answer {
            if self.held > 0 && self.held.saturating_add(size) > HELD_BYTES_MAX {
                call.answer = refusal(Reason::Busy, "it holds as many bytes of snapshots as it takes");
                actions.push(Action::LetGo(key));
            } else {
                self.held += size;
            }
        }
        actions.push(Action::Answer(key, call.answer.clone()));
    }

    fn fetch(&mut self, now: Duration, key: Key, offset: u64, actions: &mut Vec<Action>) {
        let Some(call) = self.calls.get_mut(&key) else {
            let answer = refusal(Reason::NotFound, "the call is not known any more");
            actions.push(Action::Answer(key, answer));
            return;
        };
        let Answer::Taken { size, .. } = call.answer else {
            self.ignored += 1;
            return;
        };
        call.heard = now;
        let Some(left) = size.checked_sub(offset).filter(|left| *left > 0) else {
            let answer = refusal(Reason::Failed, "the snapshot ends before");
            actions.push(Action::Answer(key, answer));
            return;
        };
        let length = usize::try_from(left).map_or(PART_BYTES_MAX, |left| left.min(PART_BYTES_MAX));
        actions.push(Action::Part { key, offset, length });
    }

    fn forget(&mut self, key: &Key, actions: &mut Vec<Action>) {
        let Some(call) = self.calls.remove(key) else { return };
        if let Answer::Taken { size, .. } = call.answer {
            self.held -= size;
            actions.push(Action::LetGo(*key));
        }
    }
}
