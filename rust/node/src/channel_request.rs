//! Publishing on channels of other nodes: what this node asks for, and what it answers.
//!
//! Invariants
//! * A request is signed once, by the key of the node; it is the same bytes each time that it is sent.
//! * Who waits is told once, or reaches the end of the wait. What nobody waits for any more goes on to its end.
//! * After the other node began anew nothing is asked again of which it may have published already.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshos_core::channel_frame::{ChannelFrame, Nonce, Publish, Unpublished};
use meshos_core::id::EntityId;
use meshos_core::identity::Keypair;
use meshos_core::name::ChannelName;
use meshos_core::remote_publish::{Action, Answers, Limits, Memory, Outcome, Requests, Signal};

use crate::carrier::Carrier;
use crate::channel_out::Outgoing;
use crate::clock::{self, Deadline};
use crate::sync::{Condvar, Mutex};

/// Something was not published on a channel of another node, or it is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// The other node refuses.
    Refused(Unpublished),
    /// The other node was not there: nothing was published.
    NotSent,
    /// There was no answer: it may have been published.
    Unknown,
    /// As many requests are open as may be.
    Full,
    /// Whoever waited does not want to any more. It may be published.
    Interrupted,
    /// The node was closed.
    Closed,
}

/// What is to be published.
struct Wish {
    channel: ChannelName,
    token: Vec<u8>,
    payload: Arc<[u8]>,
    /// Signed, once it was sent.
    frame: Option<Arc<[u8]>>,
}

/// Where the end of a request is waited for.
#[derive(Default)]
struct Ending {
    ended: Mutex<Option<Result<u64, RequestError>>>,
    bell: Condvar,
}

impl Ending {
    fn end(&self, ended: Result<u64, RequestError>) {
        *self.ended.lock() = Some(ended);
        self.bell.notify_all();
    }
}

/// A request that was made.
pub struct Requested(Arc<Ending>);

impl Requested {
    /// Waits for the number that was given. `is_interrupted` is asked between slices, without a lock.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn wait(&self, deadline: Deadline, mut is_interrupted: impl FnMut() -> bool) -> Result<u64, RequestError> {
        loop {
            let ended = self.0.ended.lock();
            if let Some(ended) = *ended {
                return ended;
            }
            if deadline.passed() {
                return Err(RequestError::Unknown);
            }
            drop(self.0.bell.wait_until(ended, deadline.slice()));
            if is_interrupted() {
                return Err(RequestError::Interrupted);
            }
        }
    }
}

/// Both sides of publishing elsewhere.
pub(crate) struct Publishing {
    key: Arc<Keypair>,
    own: EntityId,
    began: Instant,
    requests: Requests<Wish>,
    endings: HashMap<Nonce, Arc<Ending>>,
    /// The run of each node that something was asked of.
    runs: HashMap<EntityId, u64>,
    /// What became of requests of others.
    pub(crate) answers: Answers,
}

impl Publishing {
    pub(crate) fn new(key: Arc<Keypair>, carrier: &Carrier) -> Self {
        let run = carrier
            .as_mesh()
            .map_or_else(|| clock::unix_us() << 12, crate::mesh::Mesh::run);
        Self {
            own: key.entity_id(),
            key,
            began: Instant::now(),
            requests: Requests::new(run, Limits::default()),
            endings: HashMap::new(),
            runs: HashMap::new(),
            answers: Answers::new(Memory::default()),
        }
    }

    /// Asks a node to publish.
    pub(crate) fn ask(
        &mut self,
        to: EntityId,
        (channel, token, payload): (ChannelName, Vec<u8>, Arc<[u8]>),
        timeout: Duration,
        carrier: &Carrier,
        out: &mut Outgoing,
    ) -> Result<Requested, RequestError> {
        let now = self.began.elapsed();
        let bytes = payload.len() as u64 + token.len() as u64 + 512;
        let wish = Wish {
            channel,
            token,
            payload,
            frame: None,
        };
        let signal = Signal::Publish {
            to,
            publisher: self.own,
            bytes,
            payload: wish,
            deadline: now.saturating_add(timeout),
        };
        let mut actions = Vec::new();
        self.requests.step(now, signal, &mut actions);
        let taken = actions.iter().find_map(|action| match action {
            Action::Taken { nonce } => Some(*nonce),
            _ => None,
        });
        let Some(nonce) = taken else {
            return Err(RequestError::Full);
        };
        let ending = Arc::new(Ending::default());
        self.endings.insert(nonce, Arc::clone(&ending));
        self.carry_out(actions, carrier, out);
        Ok(Requested(ending))
    }

    /// Takes an answer in.
    pub(crate) fn answered(
        &mut self,
        from: &EntityId,
        nonce: Nonce,
        answer: Result<u64, Unpublished>,
        carrier: &Carrier,
        out: &mut Outgoing,
    ) {
        let from = *from;
        let signal = match answer {
            Ok(sequence) => Signal::Published { from, nonce, sequence },
            Err(reason) => Signal::NotPublished { from, nonce, reason },
        };
        self.step(signal, carrier, out);
    }

    /// Does what time brings; returns when the next is due.
    pub(crate) fn turn(&mut self, carrier: &Carrier, out: &mut Outgoing) -> Option<Instant> {
        if self.requests.due().is_some_and(|due| due <= self.began.elapsed()) {
            self.step(Signal::Timer, carrier, out);
        }
        self.requests.due().and_then(|due| self.began.checked_add(due))
    }

    /// Tells everybody that waits.
    pub(crate) fn close(&mut self) {
        for (_, ending) in self.endings.drain() {
            ending.end(Err(RequestError::Closed));
        }
    }

    fn step(&mut self, signal: Signal<Wish>, carrier: &Carrier, out: &mut Outgoing) {
        let mut actions = Vec::new();
        self.requests.step(self.began.elapsed(), signal, &mut actions);
        self.carry_out(actions, carrier, out);
    }

    fn carry_out(&mut self, actions: Vec<Action>, carrier: &Carrier, out: &mut Outgoing) {
        let mut restarted = Vec::new();
        for action in actions {
            match action {
                Action::Taken { .. } | Action::Full => {}
                // Of which run it is was found with the first of them.
                Action::Send { to, .. } if restarted.contains(&to) => {}
                Action::Send { nonce, to } => {
                    if self.is_another_run(&to, carrier) {
                        restarted.push(to);
                    } else if let Some(frame) = self.frame(&nonce, &to) {
                        out.put(&to, &frame);
                    }
                }
                Action::Settled { nonce, outcome } => {
                    let ended = match outcome {
                        Outcome::Published(sequence) => Ok(sequence),
                        Outcome::Refused(reason) => Err(RequestError::Refused(reason)),
                        Outcome::NotSent => Err(RequestError::NotSent),
                        Outcome::Unknown => Err(RequestError::Unknown),
                    };
                    if let Some(ending) = self.endings.remove(&nonce) {
                        ending.end(ended);
                    }
                }
            }
        }
        for node in restarted {
            self.step(Signal::Restarted { node }, carrier, out);
        }
    }

    /// Whether a node began anew since something was asked of it.
    fn is_another_run(&mut self, node: &EntityId, carrier: &Carrier) -> bool {
        let Some(peer) = carrier.as_mesh().and_then(|mesh| mesh.peer(node.node_id())) else {
            return false;
        };
        let before = self.runs.insert(*node, peer.beat.run);
        before.is_some_and(|before| before != peer.beat.run)
    }

    /// The bytes of a request.
    fn frame(&mut self, nonce: &Nonce, to: &EntityId) -> Option<Arc<[u8]>> {
        let wish = self.requests.payload_mut(nonce)?;
        if let Some(frame) = &wish.frame {
            return Some(Arc::clone(frame));
        }
        let mut publish = Publish {
            nonce: *nonce,
            channel: wish.channel.clone(),
            publisher: self.own,
            token: wish.token.clone(),
            proof: None,
            payload: &wish.payload,
        };
        publish.sign(&self.key, &self.own, to).ok()?;
        let frame: Arc<[u8]> = ChannelFrame::Publish(publish).to_bytes().into();
        wish.frame = Some(Arc::clone(&frame));
        Some(frame)
    }
}
