//! Following the chain of a daemon at another node: its outputs in order, each once, checked.
//!
//! | stage | what it waits for | then |
//! |---|---|---|
//! | Asking | the owner opens a feed for it | Open; or Looking, if it is not there any more |
//! | Open | bodies of the owner; after [`STILL_EVERY`] it asks whether it is still followed | Asking when that is over, Looking without an answer |
//! | Looking | a node says that it owns the daemon | Asking |
//!
//! All of it is done on the thread of who reads; in between, what the owner pushes waits in a letterbox. What comes is judged
//! by [`Consumer`], and where the owner is by [`Finder`].
//!
//! Invariants
//! * Nothing is handed out that the signatures of the lineage do not vouch for, or that does not follow on what was.
//! * Only the node that the lineage names is listened to.
//! * What was handed out is rolled back on a restart or takeover record only, and who reads is told.
//! * Nothing is acknowledged while what came before waits to be read. After an alarm nothing more is handed out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshos_core::chain::ChainError;
use meshos_core::consumer::{Action, Alarm, Consumer, Counters, Position, Signal};
use meshos_core::digest::Digest;
use meshos_core::feed_frame::{Body, FeedFrame};
use meshos_core::finder::{self, Finder, Known};
use meshos_core::id::EntityId;
use meshos_core::link::CausalLink;
use meshos_core::parcel::{self, Packer};
use meshos_core::remote_frame::{CallId, Reason, Refused, Request};
use meshos_core::stream::{Announce, Frame, lineage_digest};
use meshos_core::verify::verify;
use thiserror::Error;

use crate::clock::Deadline;
use crate::feeds::{Feeds, Letters};
use crate::keys;
use crate::mesh::Delivered;
use crate::remote::{CallError, Pending, Remote};

/// How long who waits hears nothing before it asks whether it is still followed.
pub const STILL_EVERY: Duration = Duration::from_secs(2);

/// How long it waits for the answer.
pub const STILL_WAIT: Duration = Duration::from_millis(300);

/// How often it asks before it looks for another owner.
const STILL_TRIES: u32 = 3;

/// How long a node may take to open a feed before the owner is looked for.
const OPEN_WAIT: Duration = Duration::from_secs(3);

/// The first pause before a node is asked again that refused; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(20);

/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How often an answer to a call is looked for.
const POLL: Duration = Duration::from_millis(2);

/// Something of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// The next output.
    Output {
        /// Its link.
        link: CausalLink,
        /// Its payload.
        payload: Vec<u8>,
    },
    /// Outputs after the first number, up to the second, are rolled back by a record of this epoch.
    RolledBack {
        /// The last that stands.
        after: u64,
        /// The last that was handed out.
        through: u64,
        /// Epoch of the record.
        epoch: u64,
    },
}

/// Why a chain cannot be followed on.
#[derive(Debug, Error)]
pub enum FollowError {
    /// The owner does not push its outputs to this node.
    #[error("the call came to nothing: {0:?}")]
    Call(CallError),
    /// What came are no frames of a chain.
    #[error("what came are no frames of a chain")]
    Malformed,
    /// The lineage does not hold.
    #[error(transparent)]
    Lineage(#[from] ChainError),
    /// The owner contradicts what was signed, or what it showed before.
    #[error("the owner contradicts itself: {0:?}")]
    Alarm(Alarm),
}

enum Stage {
    /// Nobody was asked yet, or not again; not before that time.
    Resting(Instant),
    Asking {
        pending: Pending,
        since: Instant,
    },
    Open {
        heard: Instant,
        asked: Option<Instant>,
        tries: u32,
    },
    Looking {
        not_before: Instant,
    },
}

/// Who follows one chain.
pub struct Follower {
    remote: Remote,
    feeds: Feeds,
    node: EntityId,
    entity: EntityId,
    consumer: Consumer,
    began: Instant,
    ready: VecDeque<Followed>,
    /// The lineage whose signatures were checked last.
    checked: Digest,
    letters: Arc<Letters>,
    name: CallId,
    stage: Stage,
    finder: Finder,
    pause: Duration,
    /// Whether an owner ever opened a feed.
    was_open: bool,
    foreign: u64,
}

impl Follower {
    /// Follows the chain of `entity`, which is at `node` now, from a position on.
    #[must_use]
    pub fn new(feeds: Feeds, remote: Remote, node: EntityId, entity: EntityId, position: Position) -> Self {
        let now = Instant::now();
        Self {
            remote,
            feeds,
            node,
            entity,
            consumer: Consumer::new(entity, position),
            began: now,
            ready: VecDeque::new(),
            checked: Digest::ZERO,
            letters: Arc::default(),
            name: keys::random_bytes(),
            stage: Stage::Resting(now),
            finder: Finder::new(keys::random_u64()),
            pause: PAUSE_FIRST,
            was_open: false,
            foreign: 0,
        }
    }

    /// Where it is, with what was taken and not handed out yet.
    #[must_use]
    pub const fn position(&self) -> &Position {
        self.consumer.position()
    }

    /// What was not taken.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        self.consumer.counters()
    }

    /// The node that is believed to be the owner's.
    #[must_use]
    pub const fn node(&self) -> EntityId {
        self.node
    }

    /// Bodies of nodes that are not the owner's, which were not looked into.
    #[must_use]
    pub const fn foreign(&self) -> u64 {
        self.foreign
    }

    /// Waits for what is next; `None`: the time is over. `is_interrupted` is asked between slices, without a lock.
    ///
    /// # Errors
    /// [`FollowError`].
    pub fn next(
        &mut self,
        deadline: Deadline,
        mut is_interrupted: impl FnMut() -> bool,
    ) -> Result<Option<Followed>, FollowError> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                return Ok(Some(next));
            }
            // One body at a time: what it brings is acknowledged, and the others wait until it is read.
            if let Some(delivered) = self.letters.pop() {
                self.take(&delivered)?;
                continue;
            }
            if self.feeds.is_closed() || self.remote.is_closed() {
                return Err(FollowError::Call(CallError::Closed));
            }
            let again = self.tend()?;
            if deadline.passed() {
                return Ok(None);
            }
            self.letters.wait(deadline.slice().min(again));
            if is_interrupted() {
                return Err(FollowError::Call(CallError::Interrupted));
            }
        }
    }

    /// Does what is due; returns when something is due again.
    fn tend(&mut self) -> Result<Instant, FollowError> {
        let now = Instant::now();
        match &mut self.stage {
            Stage::Resting(until) if *until > now => return Ok(*until),
            Stage::Resting(_) => self.ask(now)?,
            Stage::Asking { pending, since } => match pending.poll() {
                Some(Ok(_)) => self.opened(now),
                Some(Err(CallError::Refused(refused))) => self.refused(now, refused)?,
                Some(Err(error)) => return Err(FollowError::Call(error)),
                None if now >= *since + OPEN_WAIT => self.look(now),
                None => {}
            },
            Stage::Open { heard, asked, tries } => {
                let due = asked.map_or(*heard + STILL_EVERY, |asked| asked + STILL_WAIT);
                if due > now {
                    return Ok(due);
                }
                if *tries >= STILL_TRIES {
                    self.look(now);
                } else {
                    (*asked, *tries) = (Some(now), *tries + 1);
                    self.say(self.node, Body::Still);
                }
            }
            Stage::Looking { not_before } if *not_before > now => return Ok(*not_before),
            Stage::Looking { .. } => {
                let signal = if self.finder.is_asking() {
                    finder::Signal::Timer
                } else {
                    finder::Signal::Wanted
                };
                self.find(now, signal);
                if let Some(known) = self.feeds.router().place_of(&self.entity) {
                    self.find(now, finder::Signal::Found(known));
                }
                // Who is found wakes it.
                return Ok(now + PAUSE_FIRST);
            }
        }
        Ok(now + POLL)
    }

    /// Asks the node to push.
    fn ask(&mut self, now: Instant) -> Result<(), FollowError> {
        // The letters of another name are late.
        self.feeds.withdraw(&self.name);
        self.name = keys::random_bytes();
        self.feeds.enter(self.name, &self.letters);
        let (origin, after) = (self.entity.origin(), self.consumer.position().n);
        let request = Request::Outputs { origin, after };
        let pending = self.remote.call_named(self.name, self.node, request, 0);
        let pending = pending.map_err(FollowError::Call)?;
        self.stage = Stage::Asking { pending, since: now };
        Ok(())
    }

    fn opened(&mut self, now: Instant) {
        (self.was_open, self.pause) = (true, PAUSE_FIRST);
        self.stage = Stage::Open {
            heard: now,
            asked: None,
            tries: 0,
        };
    }

    fn rest(&mut self, now: Instant) -> Instant {
        let until = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        until
    }

    /// The node does not push.
    fn refused(&mut self, now: Instant, refused: Refused) -> Result<(), FollowError> {
        if let (Reason::NotOwner, Some((node, epoch))) = (refused.reason, refused.owner)
            && node != self.node
        {
            self.stage = Stage::Looking { not_before: now };
            let entity = self.entity;
            self.find(now, finder::Signal::Found(Known { entity, node, epoch }));
            return Ok(());
        }
        match refused.reason {
            Reason::NotOwner | Reason::NotFound | Reason::NotReady if self.was_open => self.look(now),
            Reason::Busy if self.was_open => self.stage = Stage::Resting(self.rest(now)),
            _ => {
                self.stage = Stage::Resting(now);
                return Err(FollowError::Call(CallError::Refused(refused)));
            }
        }
        Ok(())
    }

    /// Looks for the owner, since the node that was believed is none, or is silent.
    fn look(&mut self, now: Instant) {
        let not_before = self.rest(now);
        self.stage = Stage::Looking { not_before };
        self.find(now, finder::Signal::Lost { from: self.node });
    }

    fn find(&mut self, now: Instant, signal: finder::Signal) {
        // An owner of an epoch that is over may not know it.
        let in_force = self.consumer.position().epoch;
        if matches!(signal, finder::Signal::Found(known) if known.epoch < in_force) {
            return;
        }
        let mut actions = Vec::new();
        let others = self.feeds.router().others();
        self.finder.step(self.began.elapsed(), signal, &others, &mut actions);
        for action in actions {
            match action {
                finder::Action::Ask(node) => self.say(node, Body::Find),
                finder::Action::Told(known) => {
                    self.node = known.node;
                    self.stage = match self.stage {
                        Stage::Looking { not_before } => Stage::Resting(not_before.max(now)),
                        _ => Stage::Resting(now),
                    };
                }
                finder::Action::Absent => {}
            }
        }
    }

    fn say(&self, to: EntityId, body: Body<'_>) {
        let (entity, reader) = (self.entity, self.name);
        self.feeds.post(to, &FeedFrame { entity, reader, body });
    }

    /// Takes a body in.
    fn take(&mut self, delivered: &Delivered) -> Result<(), FollowError> {
        let now = Instant::now();
        let frame = FeedFrame::decode(delivered.body()).map_err(|_| FollowError::Malformed)?;
        if frame.entity != self.entity || frame.reader != self.name {
            return Ok(());
        }
        if let Body::Found { node, epoch } = frame.body {
            let entity = self.entity;
            self.find(now, finder::Signal::Found(Known { entity, node, epoch }));
            return Ok(());
        }
        if delivered.from != self.node {
            self.foreign += 1;
            return Ok(());
        }
        match frame.body {
            Body::Outputs(parcel) => {
                self.opened(now);
                self.read(parcel)
            }
            Body::Here => {
                self.opened(now);
                Ok(())
            }
            Body::Over => {
                // Most often it begins again where it was.
                self.stage = Stage::Resting(self.rest(now));
                Ok(())
            }
            Body::Answers(_) | Body::Still | Body::Leave | Body::Find | Body::Found { .. } => Ok(()),
        }
    }

    /// Takes what the owner pushed, and answers the last of it.
    fn read(&mut self, parcel: &[u8]) -> Result<(), FollowError> {
        let messages = parcel::open(parcel).map_err(|_| FollowError::Malformed)?;
        let (mut acknowledged, mut asked, mut is_late) = (None, None, false);
        for message in messages {
            let frame = message.and_then(Frame::decode).map_err(|_| FollowError::Malformed)?;
            let mut actions = Vec::new();
            let now = self.began.elapsed();
            let payload = match &frame {
                Frame::Announce(announce) => {
                    self.check(announce)?;
                    is_late |= announce.epoch < self.consumer.position().epoch;
                    self.consumer.step(now, Signal::Announce(announce), &mut actions);
                    None
                }
                Frame::Output(output) => {
                    self.consumer.step(now, Signal::Output(output), &mut actions);
                    Some((output.link, output.payload))
                }
                _ => return Err(FollowError::Malformed),
            };
            for action in actions {
                match action {
                    Action::Take { .. } => {
                        let (link, payload) = payload.ok_or(FollowError::Malformed)?;
                        let payload = payload.to_vec();
                        self.ready.push_back(Followed::Output { link, payload });
                    }
                    Action::RolledBack { after, through, epoch } => {
                        self.ready.push_back(Followed::RolledBack { after, through, epoch });
                    }
                    Action::Acknowledge { epoch, n } => acknowledged = Some((epoch, n)),
                    Action::Follow { epoch, after } => asked = Some((epoch, after)),
                    Action::Alarm(alarm) => return Err(FollowError::Alarm(alarm)),
                }
            }
        }
        if is_late {
            self.look(Instant::now());
            return Ok(());
        }
        let entity = self.entity;
        let mut answers = Packer::new();
        if let Some((epoch, after)) = asked {
            answers.put(|out| Frame::Follow { entity, epoch, after }.put(out));
        }
        // What is asked for says how far it is, and what is acknowledged after that.
        if let Some((epoch, n)) =
            acknowledged.filter(|(epoch, n)| asked.is_none_or(|(of, after)| of == *epoch && *n > after))
        {
            answers.put(|out| Frame::OutAck { entity, epoch, n }.put(out));
        }
        if !answers.is_empty() {
            self.say(self.node, Body::Answers(answers.body()));
        }
        Ok(())
    }

    /// Checks who speaks.
    fn check(&mut self, announce: &Announce) -> Result<(), FollowError> {
        if announce.entity != self.entity {
            return Err(FollowError::Malformed);
        }
        let lineage = lineage_digest(&announce.lineage);
        if lineage != self.checked {
            verify(&[], &[], &announce.lineage, &self.entity, &[])?;
            self.checked = lineage;
        }
        if announce.lineage.last().is_none_or(|last| last.node != self.node) {
            let epoch = announce.epoch;
            return Err(FollowError::Alarm(Alarm::Lineage { epoch }));
        }
        Ok(())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.feeds.withdraw(&self.name);
        if self.was_open {
            self.say(self.node, Body::Leave);
        }
    }
}
