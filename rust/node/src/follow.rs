//! Following the chain of a daemon at another node: its outputs in order, each once, checked.
//!
//! Pages are asked for on the thread of who reads, one after the other; while there is nothing new they are asked for less
//! often. What a page shows is judged by [`Consumer`].
//!
//! Invariants
//! * Nothing is handed out that the signatures of the lineage do not vouch for, or that does not follow on what was.
//! * What was handed out is rolled back on a restart or takeover record only, and who reads is told.
//! * After an alarm nothing more is handed out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use meshos_core::chain::ChainError;
use meshos_core::consumer::{Action, Alarm, Consumer, Counters, Position, Signal};
use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::link::CausalLink;
use meshos_core::remote_frame::Request;
use meshos_core::stream::{Frame, lineage_digest};
use meshos_core::verify::verify;
use thiserror::Error;

use crate::clock::Deadline;
use crate::page;
use crate::remote::{CallError, Remote};
use crate::sync::{Condvar, Mutex};

/// The first wait while there is nothing new; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(1);

/// The longest.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Bytes of a page that are taken at most.
const PAGE_BYTES_MAX: u64 = 96 << 20;

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
    /// The call for a page came to nothing.
    #[error("the call came to nothing: {0:?}")]
    Call(CallError),
    /// What came is no page.
    #[error("what came is no page of a chain")]
    Malformed,
    /// The lineage does not hold.
    #[error(transparent)]
    Lineage(#[from] ChainError),
    /// The owner contradicts what was signed, or what it showed before.
    #[error("the owner contradicts itself: {0:?}")]
    Alarm(Alarm),
}

/// Who follows one chain.
pub struct Follower {
    remote: Remote,
    node: EntityId,
    entity: EntityId,
    consumer: Consumer,
    began: Instant,
    ready: VecDeque<Followed>,
    pause: Duration,
    /// The lineage whose signatures were checked last.
    checked: Digest,
}

impl Follower {
    /// Follows the chain of `entity`, which is at `node`, from a position on.
    #[must_use]
    pub fn new(remote: Remote, node: EntityId, entity: EntityId, position: Position) -> Self {
        Self {
            remote,
            node,
            entity,
            consumer: Consumer::new(entity, position),
            began: Instant::now(),
            ready: VecDeque::new(),
            pause: PAUSE_FIRST,
            checked: Digest::ZERO,
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
            let request = Request::Outputs {
                origin: self.entity.origin(),
                after: self.consumer.position().n,
            };
            let pending = self
                .remote
                .call(self.node, request, PAGE_BYTES_MAX)
                .map_err(FollowError::Call)?;
            let page = match pending.wait(deadline, &mut is_interrupted) {
                Ok(page) => page.ok_or(FollowError::Malformed)?,
                Err(CallError::Timeout) => return Ok(None),
                Err(error) => return Err(FollowError::Call(error)),
            };
            self.take(&page)?;
            if !self.ready.is_empty() {
                self.pause = PAUSE_FIRST;
                continue;
            }
            if deadline.passed() {
                return Ok(None);
            }
            self.rest(deadline);
            if is_interrupted() {
                return Err(FollowError::Call(CallError::Interrupted));
            }
        }
    }

    fn rest(&mut self, deadline: Deadline) {
        let (lock, bell) = (Mutex::new(()), Condvar::new());
        let pause = Deadline::after(self.pause).sooner(deadline);
        drop(bell.wait_until(lock.lock(), pause.slice()));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// Takes a page in.
    fn take(&mut self, page: &[u8]) -> Result<(), FollowError> {
        let frames = page::frames(page).map_err(|_| FollowError::Malformed)?;
        for frame in &frames {
            let mut actions = Vec::new();
            let payload = match frame {
                Frame::Announce(announce) => {
                    if announce.entity != self.entity {
                        return Err(FollowError::Malformed);
                    }
                    let lineage = lineage_digest(&announce.lineage);
                    if lineage != self.checked {
                        verify(&[], &[], &announce.lineage, &self.entity, &[])?;
                        self.checked = lineage;
                    }
                    self.consumer
                        .step(self.began.elapsed(), Signal::Announce(announce), &mut actions);
                    None
                }
                Frame::Output(output) => {
                    self.consumer
                        .step(self.began.elapsed(), Signal::Output(output), &mut actions);
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
                    Action::Alarm(alarm) => return Err(FollowError::Alarm(alarm)),
                    // A page is asked for when the reader wants one, and nothing is kept for this one in particular.
                    Action::Acknowledge { .. } | Action::Follow { .. } => {}
                }
            }
        }
        Ok(())
    }
}
