//! The side of the channel: what became of requests, remembered.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{WINDOW, run_and_number};
use crate::channel_frame::{Publish, Reason, Unpublished};
use crate::id::EntityId;
use crate::revocation::Revocations;
use crate::roster::Roster;
use crate::time::UnixMs;
use crate::token::PermissionToken;

/// What became of a request: its number, or why it has none.
pub type Answer = Result<u64, Unpublished>;

/// For how long answers are remembered of a publisher that asks for nothing.
pub const KEEP: Duration = Duration::from_secs(600);

/// Bounds of what is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Publishers, each at its node.
    pub publishers_max: usize,
    /// Publishers at one node.
    pub per_node_max: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            publishers_max: 16_384,
            per_node_max: 1_024,
        }
    }
}

/// A request, where it comes from, and what it is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The node that sent it.
    pub from: &'a EntityId,
    /// The node whose channel it is.
    pub own: &'a EntityId,
    /// It.
    pub request: &'a Publish<'a>,
    /// The time of the wall clock.
    pub now: UnixMs,
    /// Who may publish.
    pub roster: &'a Roster,
    /// What was taken back.
    pub revocations: &'a Revocations,
}

/// The last answers to one publisher at one node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    run: u64,
    /// Answers up to this number are forgotten.
    floor: u64,
    answers: BTreeMap<u64, Answer>,
    used: UnixMs,
}

/// The last request of a node that is forgotten with its publisher: run, number, and when it was answered.
type Floor = (u64, u64, UnixMs);

/// What one node answered to those who publish on its channels from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    memory: Memory,
    known: BTreeMap<(EntityId, EntityId), Known>,
    /// By node. Numbers of a node rise over all its publishers, so what is not above was asked for before that.
    floors: BTreeMap<EntityId, Floor>,
    repeated: u64,
    forgotten: u64,
}

impl Answers {
    /// Nothing was answered yet.
    #[must_use]
    pub const fn new(memory: Memory) -> Self {
        Self {
            memory,
            known: BTreeMap::new(),
            floors: BTreeMap::new(),
            repeated: 0,
            forgotten: 0,
        }
    }

    /// Answers a request. `publish` is called at most once, and publishes on the spot, or says why not; it is not called for
    /// what was answered before or is not permitted.
    pub fn request(&mut self, asked: &Asked<'_>, publish: impl FnOnce() -> Answer) -> Answer {
        let of = (*asked.from, asked.request.publisher);
        let (run, number) = run_and_number(&asked.request.nonce);
        match self.known.get(&of) {
            Some(known) if run < known.run || number == 0 => return self.forgot(),
            Some(known) if run == known.run => {
                if let Some(answer) = known.answers.get(&number) {
                    self.repeated += 1;
                    return *answer;
                }
                if number <= known.floor {
                    return self.forgot();
                }
            }
            Some(_) => {}
            None => {
                let floor = self
                    .floors
                    .get(asked.from)
                    .map_or((0, 0), |(run, number, _)| (*run, *number));
                if number == 0 || (run, number) <= floor {
                    return self.forgot();
                }
                self.make_room(asked)?;
            }
        }
        let answer = judge(asked).map_err(Unpublished::Refused).and_then(|()| publish());
        self.remember(of, run, number, answer, asked.now);
        answer
    }

    /// Forgets those who have asked for nothing for [`KEEP`].
    pub fn forget(&mut self, now: UnixMs) {
        let Self {
            memory, known, floors, ..
        } = self;
        known.retain(|(node, _), known| {
            let is_kept = known.used.plus(KEEP) > now;
            if !is_kept {
                let last = known.answers.last_key_value().map_or(known.floor, |(last, _)| *last);
                let floor = floors.entry(*node).or_insert((0, 0, known.used));
                *floor = (*floor).max((known.run, last, known.used));
            }
            is_kept
        });
        while floors.len() > memory.publishers_max {
            let oldest = floors
                .iter()
                .min_by_key(|(_, (_, _, used))| *used)
                .map(|(node, _)| *node);
            oldest.map(|node| floors.remove(&node));
        }
    }

    /// How many publishers are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// How many requests were answered as before.
    #[must_use]
    pub const fn repeated(&self) -> u64 {
        self.repeated
    }

    /// How many requests came after their answers were forgotten.
    #[must_use]
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn forgot(&mut self) -> Answer {
        self.forgotten += 1;
        Err(Unpublished::Forgotten)
    }

    fn make_room(&mut self, asked: &Asked<'_>) -> Result<(), Unpublished> {
        if self.has_room(asked.from) {
            return Ok(());
        }
        self.forget(asked.now);
        if self.has_room(asked.from) {
            return Ok(());
        }
        Err(Unpublished::Refused(Reason::TooMany))
    }

    fn has_room(&self, node: &EntityId) -> bool {
        let first = (*node, EntityId::from_bytes([0; 32]));
        let last = (*node, EntityId::from_bytes([0xff; 32]));
        self.known.len() < self.memory.publishers_max
            && self.known.range(first..=last).count() < self.memory.per_node_max
    }

    fn remember(&mut self, of: (EntityId, EntityId), run: u64, number: u64, answer: Answer, now: UnixMs) {
        let new = || Known {
            run,
            floor: 0,
            answers: BTreeMap::new(),
            used: now,
        };
        let known = self.known.entry(of).or_insert_with(new);
        if known.run != run {
            *known = new();
        }
        known.used = now;
        known.answers.insert(number, answer);
        while known.answers.len() > WINDOW {
            let (oldest, _) = known.answers.pop_first().expect("there are more than none");
            known.floor = oldest;
        }
    }
}

/// Whether the publisher may, by its signature and its token.
fn judge(asked: &Asked<'_>) -> Result<(), Reason> {
    let Asked { request, roster, .. } = asked;
    let is_gated = roster.policy(&request.channel).requires_token;
    if (is_gated || request.proof.is_some()) && !request.is_proven(asked.from, asked.own) {
        return Err(Reason::Unauthorized);
    }
    // Of an open channel nothing is asked: what is no token does no harm.
    let token = PermissionToken::decode(&request.token).ok();
    roster.may_publish(
        &request.channel,
        &request.publisher,
        token.as_ref(),
        asked.now,
        asked.revocations,
    )
}
