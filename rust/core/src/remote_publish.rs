//! Decision: publishing on a channel of another node, on both sides: [`Requests`] where it is asked for, [`Answers`] where
//! the channel is.
//!
//! | signal about a request that | waits for its window | was sent | is settled, or unknown |
//! |---|---|---|---|
//! | Published, NotPublished, from its node | –, counted | Settled | –, counted |
//! | Published, NotPublished, from another | –, counted | –, counted | –, counted |
//! | Timer, and its deadline is over | Settled: never sent | Settled: not known | – |
//! | Timer, and its answer is late | – | sent again, later each time | – |
//! | Restarted, its node | – | Settled: not known | – |
//!
//! The other side does with a request what it did with the first of its nonce:
//!
//! | request | answer |
//! |---|---|
//! | answered before | the same answer; nothing is published |
//! | older than the answers that are kept | Forgotten; nothing is published |
//! | new, and no room to remember it | TooMany; nothing is published |
//! | new, and the publisher's signature is missing where a token is needed, or is wrong | Unauthorized |
//! | new, and refused by [`Roster::may_publish`](crate::roster::Roster::may_publish) | as that says |
//! | new | published, or why not |
//!
//! Nonces rise: a run of the sending node, and a number in it. A node sends, for one publisher to one node, at most
//! [`WINDOW`] requests from the oldest open one on, and as many answers are kept. So a request that is open is answered with
//! what became of it, and one that comes later than that is refused, and never published a second time.
//!
//! Invariants
//! * A request is published at most once in a run of the owner of the channel, however often it comes.
//! * Who is told a number has published under it. Who is told a refusal, or that it was never sent, has not published.
//! * A request that was sent is sent again until it is answered, its deadline is over, or its node begins anew.
//! * Everything is bounded: requests and their bytes, publishers that are remembered, in all and of one node, and their answers.

mod answers;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

pub use answers::{Answer, Answers, Asked, KEEP, Memory};

use crate::channel_frame::{Nonce, Unpublished};
use crate::id::EntityId;

/// Requests of one publisher to one node, counted from the oldest open one, that may be sent; answers that are kept.
pub const WINDOW: usize = 64;
/// How long a request waits for its answer the first time.
pub const ASK_FIRST: Duration = Duration::from_millis(50);
/// How long it waits at most.
pub const ASK_MAX: Duration = Duration::from_secs(2);
/// The longest time that a request may take. Answers are remembered for longer.
pub const DEADLINE_MAX: Duration = Duration::from_secs(300);

/// The nonce of a request: a run of the sending node, and a number in it, from 1.
#[must_use]
pub fn nonce(run: u64, number: u64) -> Nonce {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&run.to_le_bytes());
    nonce[8..].copy_from_slice(&number.to_le_bytes());
    nonce
}

/// Run and number of a nonce.
#[must_use]
pub fn run_and_number(nonce: &Nonce) -> (u64, u64) {
    let [run, number] = [&nonce[..8], &nonce[8..]].map(|half| u64::from_le_bytes(half.try_into().expect("8 bytes")));
    (run, number)
}

/// Bounds of what is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests.
    pub requests_max: usize,
    /// Bytes of their payloads.
    pub bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_max: 4_096,
            bytes_max: 64 << 20,
        }
    }
}

/// What happens to requests. `P` is a payload, and whatever else is sent with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal<P> {
    /// Somebody publishes.
    Publish {
        /// The owner of the channel.
        to: EntityId,
        /// Who: a daemon of this node, or this node.
        publisher: EntityId,
        /// Bytes that it counts.
        bytes: u64,
        /// What.
        payload: P,
        /// When it ends without an answer; at most [`DEADLINE_MAX`] from now.
        deadline: Duration,
    },
    /// A node says that it published.
    Published {
        /// Which node.
        from: EntityId,
        /// Of the request.
        nonce: Nonce,
        /// The number that it got.
        sequence: u64,
    },
    /// A node says that it did not.
    NotPublished {
        /// Which node.
        from: EntityId,
        /// Of the request.
        nonce: Nonce,
        /// Why.
        reason: Unpublished,
    },
    /// A node has begun another run: it remembers nothing. Signalled before anything is sent to that run.
    Restarted {
        /// Which.
        node: EntityId,
    },
    /// Time has passed.
    Timer,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is published, under this number.
    Published(u64),
    /// It is not, and will not be.
    Refused(Unpublished),
    /// It was never sent: it is not published.
    NotSent,
    /// It was sent, and no answer came: it may be published, also later.
    Unknown,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A request was taken in; it ends with [`Action::Settled`].
    Taken {
        /// Its name.
        nonce: Nonce,
    },
    /// There are as many requests as may be, or as many bytes.
    Full,
    /// Send a request, perhaps again.
    Send {
        /// Which.
        nonce: Nonce,
        /// The owner of the channel.
        to: EntityId,
    },
    /// A request is over.
    Settled {
        /// Which.
        nonce: Nonce,
        /// What became of it.
        outcome: Outcome,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Request<P> {
    to: EntityId,
    publisher: EntityId,
    bytes: u64,
    payload: P,
    deadline: Duration,
    /// When it is sent again, and how often it was; `None`: it waits for its window.
    again: Option<(Duration, u32)>,
}

/// What one node publishes on channels of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requests<P> {
    run: u64,
    last: u64,
    limits: Limits,
    requests: BTreeMap<u64, Request<P>>,
    bytes: u64,
    /// By node and publisher: what was sent since the oldest open one, and what waits.
    lines: BTreeMap<(EntityId, EntityId), Line>,
    ignored: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Line {
    sent: VecDeque<u64>,
    waiting: VecDeque<u64>,
}

impl<P> Requests<P> {
    /// Nothing is asked for yet. Runs of a node rise.
    #[must_use]
    pub const fn new(run: u64, limits: Limits) -> Self {
        Self {
            run,
            last: 0,
            limits,
            requests: BTreeMap::new(),
            bytes: 0,
            lines: BTreeMap::new(),
            ignored: 0,
        }
    }

    /// Decides one step.
    pub fn step(&mut self, now: Duration, signal: Signal<P>, actions: &mut Vec<Action>) {
        match signal {
            Signal::Publish {
                to,
                publisher,
                bytes,
                payload,
                deadline,
            } => {
                let request = Request {
                    to,
                    publisher,
                    bytes,
                    payload,
                    deadline: deadline.min(now.saturating_add(DEADLINE_MAX)),
                    again: None,
                };
                self.publish(now, request, actions);
            }
            Signal::Published { from, nonce, sequence } => {
                self.answered(now, &from, &nonce, Outcome::Published(sequence), actions);
            }
            Signal::NotPublished { from, nonce, reason } => {
                let outcome = match reason {
                    Unpublished::Forgotten => Outcome::Unknown,
                    reason => Outcome::Refused(reason),
                };
                self.answered(now, &from, &nonce, outcome, actions);
            }
            Signal::Restarted { node } => {
                let of_node = |request: &Request<P>| request.to == node && request.again.is_some();
                let over = self.requests.iter().filter(|(_, request)| of_node(request));
                for number in over.map(|(number, _)| *number).collect::<Vec<_>>() {
                    self.settle(now, number, Outcome::Unknown, actions);
                }
            }
            Signal::Timer => self.timer(now, actions),
        }
    }

    /// When a [`Signal::Timer`] is due.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        let due = |request: &Request<P>| match request.again {
            Some((again, _)) => again.min(request.deadline),
            None => request.deadline,
        };
        self.requests.values().map(due).min()
    }

    /// What is published by a request, while it is under way.
    #[must_use]
    pub fn payload(&self, nonce: &Nonce) -> Option<&P> {
        let (run, number) = run_and_number(nonce);
        let request = self.requests.get(&number).filter(|_| run == self.run);
        request.map(|request| &request.payload)
    }

    /// The same, to be changed: what is sent of it is up to whoever steps.
    #[must_use]
    pub fn payload_mut(&mut self, nonce: &Nonce) -> Option<&mut P> {
        let (run, number) = run_and_number(nonce);
        let request = self.requests.get_mut(&number).filter(|_| run == self.run);
        request.map(|request| &mut request.payload)
    }

    /// How many requests are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Answers that came late, repeated or from elsewhere.
    #[must_use]
    pub const fn ignored(&self) -> u64 {
        self.ignored
    }

    fn publish(&mut self, now: Duration, request: Request<P>, actions: &mut Vec<Action>) {
        let bytes = self.bytes.saturating_add(request.bytes);
        if self.requests.len() >= self.limits.requests_max || bytes > self.limits.bytes_max {
            actions.push(Action::Full);
            return;
        }
        self.bytes = bytes;
        self.last += 1;
        let (number, of) = (self.last, (request.to, request.publisher));
        let nonce = nonce(self.run, number);
        actions.push(Action::Taken { nonce });
        self.requests.insert(number, request);
        self.lines.entry(of).or_default().waiting.push_back(number);
        self.advance(now, &of, actions);
    }

    /// Sends what the window of a line has room for.
    fn advance(&mut self, now: Duration, of: &(EntityId, EntityId), actions: &mut Vec<Action>) {
        let Some(line) = self.lines.get_mut(of) else { return };
        while line
            .sent
            .front()
            .is_some_and(|oldest| !self.requests.contains_key(oldest))
        {
            line.sent.pop_front();
        }
        while line.sent.len() < WINDOW {
            let Some(number) = line.waiting.pop_front() else { break };
            let request = self.requests.get_mut(&number).expect("what waits is under way");
            request.again = Some((now.saturating_add(ASK_FIRST), 1));
            line.sent.push_back(number);
            let nonce = nonce(self.run, number);
            actions.push(Action::Send { nonce, to: of.0 });
        }
        if line.sent.is_empty() && line.waiting.is_empty() {
            self.lines.remove(of);
        }
    }

    fn answered(&mut self, now: Duration, from: &EntityId, nonce: &Nonce, outcome: Outcome, actions: &mut Vec<Action>) {
        let (run, number) = run_and_number(nonce);
        let request = self.requests.get(&number);
        let is_open = request.is_some_and(|request| run == self.run && request.to == *from && request.again.is_some());
        if is_open {
            self.settle(now, number, outcome, actions);
        } else {
            self.ignored += 1;
        }
    }

    fn settle(&mut self, now: Duration, number: u64, outcome: Outcome, actions: &mut Vec<Action>) {
        let Some(request) = self.requests.remove(&number) else {
            return;
        };
        self.bytes -= request.bytes;
        let (nonce, of) = (nonce(self.run, number), (request.to, request.publisher));
        actions.push(Action::Settled { nonce, outcome });
        if request.again.is_none()
            && let Some(line) = self.lines.get_mut(&of)
        {
            // The other side cannot know it: it takes no place in the window.
            line.waiting.retain(|waiting| *waiting != number);
        }
        self.advance(now, &of, actions);
    }

    fn timer(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let over = self.requests.iter().filter(|(_, request)| request.deadline <= now);
        let over: Vec<(u64, bool)> = over
            .map(|(number, request)| (*number, request.again.is_some()))
            .collect();
        let (sent, waiting): (Vec<_>, Vec<_>) = over.into_iter().partition(|(_, was_sent)| *was_sent);
        // What waits goes first: nothing of it is sent when its deadline is over.
        for (number, was_sent) in waiting.into_iter().chain(sent) {
            let outcome = if was_sent { Outcome::Unknown } else { Outcome::NotSent };
            self.settle(now, number, outcome, actions);
        }
        for (number, request) in &mut self.requests {
            let Some((at, tries)) = request.again.filter(|(at, _)| *at <= now) else {
                continue;
            };
            request.again = Some((at.max(now).saturating_add(pause(tries)), tries.saturating_add(1)));
            let nonce = nonce(self.run, *number);
            actions.push(Action::Send { nonce, to: request.to });
        }
    }
}

fn pause(tries: u32) -> Duration {
    ASK_FIRST.saturating_mul(1 << tries.min(10)).min(ASK_MAX)
}
