//! What daemons emit for elsewhere, until it may leave: for a channel of the node, for another daemon, or for those who
//! follow the chain.
//!
//! Invariants
//! * Where steps are kept, nothing leaves before the commit of its step is kept; what is not kept never leaves.
//! * What is for another daemon is a row in the commit of its step, where steps are kept.
//! * What one daemon emits leaves in the order of its chain.
//! * No lock is held while something leaves.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use meshos_core::config::Durability;
use meshos_core::digest::Digest;
use meshos_core::due::{self, Due};
use meshos_core::host::Host;
use meshos_core::id::{EntityId, Origin};
use meshos_core::mix;
use meshos_core::name::ChannelName;
use meshos_core::route::Route;

use crate::commit::Commit;
use crate::daemon::Daemon;
use crate::fed::{Fed, Shelved};
use crate::inside::Inside;
use crate::keys;
use crate::sync::{Mutex, RwLock};

/// Takes what daemons of the node emit for its channels.
pub trait Publish: Send + Sync {
    /// Takes one output, on whatever thread that is: it is short, never waits, and calls no user code.
    fn publish(&self, emitter: &EntityId, channel: &ChannelName, payload: &[u8]);
}

/// Takes what daemons of the node emit for others.
pub trait Outlet: Send + Sync {
    /// Takes outputs of one daemon, in their order: it is short, never waits, and calls no user code.
    fn send(&self, emitter: &Emitter, outputs: Vec<Sending>);

    /// Outputs of a daemon that are not settled and have no rows, by their numbers. As short as `send`.
    fn unsettled(&self, _emitter: &Emitter) -> Vec<Sending> {
        Vec::new()
    }
}

/// Is told of daemons that are gone.
pub trait Closed: Send + Sync {
    /// A daemon is gone, whose slot was at this address: it is short, never waits, and calls no user code.
    fn closed(&self, daemon: Origin, slot: usize);
}

/// Who emitted something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emitter {
    /// The daemon.
    pub entity: EntityId,
    /// Its handle.
    pub origin: Origin,
}

/// An output for another daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sending {
    /// Its number in the chain of its emitter.
    pub sequence: u64,
    /// To whom.
    pub to: Origin,
    /// In which stream.
    pub stream: u64,
    /// The output.
    pub payload: Vec<u8>,
    /// Whether the store has its row, which goes when it is settled.
    pub has_row: bool,
}

/// An output that has not left yet.
pub(crate) enum Leaving {
    Channel(ChannelName, Vec<u8>),
    Daemon(Sending),
    /// For those who follow the chain, with its digest there.
    Followers(Arc<Fed>, Shelved, Digest),
}

/// Where what daemons of a node emit leaves it.
pub struct Exits {
    publish: RwLock<Option<Arc<dyn Publish>>>,
    outlet: RwLock<Option<Arc<dyn Outlet>>>,
    /// Streams of daemons of which nothing is kept: in another process their numbers begin anew.
    incarnation: u64,
    unpublished: AtomicU64,
    closed: RwLock<Option<Weak<dyn Closed>>>,
}

impl Default for Exits {
    fn default() -> Self {
        Self {
            publish: RwLock::new(None),
            outlet: RwLock::new(None),
            incarnation: keys::random_u64(),
            unpublished: AtomicU64::new(0),
            closed: RwLock::new(None),
        }
    }
}

impl Exits {
    /// Has outputs for channels handed to this, in place of what was there.
    pub fn publish_with(&self, publish: Arc<dyn Publish>) {
        let before = self.publish.write().replace(publish);
        drop(before);
    }

    /// Has this told of daemons that are gone, in place of what was there.
    pub fn tell_of_closed(&self, closed: Weak<dyn Closed>) {
        let before = self.closed.write().replace(closed);
        drop(before);
    }

    pub(crate) fn closed(&self, daemon: Origin, slot: usize) {
        let told = self.closed.read().as_ref().and_then(Weak::upgrade);
        if let Some(told) = told {
            told.closed(daemon, slot);
        }
    }

    /// Has outputs for other daemons handed to this, in place of what was there.
    pub fn send_with(&self, outlet: Arc<dyn Outlet>) {
        let before = self.outlet.write().replace(outlet);
        drop(before);
    }

    /// Outputs for channels while nobody took them.
    #[must_use]
    pub fn unpublished(&self) -> u64 {
        self.unpublished.load(Ordering::Relaxed)
    }

    /// In which stream a daemon sends.
    fn stream(&self, host: &Host) -> u64 {
        match host.config().durability {
            Durability::None => mix::pair(self.incarnation, host.epoch()).max(1),
            Durability::Snapshot | Durability::Journal => due::stream(host.went_back_in()),
        }
    }

    fn leave(&self, emitter: &Emitter, leaving: Vec<Leaving>) {
        let mut outputs = Vec::new();
        for one in leaving {
            match one {
                Leaving::Daemon(sending) => outputs.push(sending),
                Leaving::Followers(fed, output, head) => fed.publish(&output, head),
                Leaving::Channel(channel, payload) => {
                    let publish = self.publish.read().clone();
                    match publish {
                        Some(publish) => publish.publish(&emitter.entity, &channel, &payload),
                        None => {
                            self.unpublished.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            }
        }
        self.send(emitter, outputs);
    }

    /// Outputs of a daemon that left, are not settled and have no rows.
    pub(crate) fn unsettled(&self, emitter: &Emitter) -> Vec<Sending> {
        let outlet = self.outlet.read().clone();
        outlet.map_or_else(Vec::new, |outlet| outlet.unsettled(emitter))
    }

    /// Sends outputs of a daemon that may leave.
    pub(crate) fn send(&self, emitter: &Emitter, outputs: Vec<Sending>) {
        if outputs.is_empty() {
            return;
        }
        let outlet = self.outlet.read().clone();
        if let Some(outlet) = outlet {
            outlet.send(emitter, outputs);
        }
    }
}

#[derive(Default)]
struct Waiting {
    /// Each with the commit that it waits for.
    queue: VecDeque<(Option<Arc<Commit>>, Vec<Leaving>)>,
    is_leaving: bool,
}

/// What one daemon emitted and has not left, in its order.
#[derive(Default)]
pub(crate) struct Line {
    /// Of the step that is about to be submitted.
    fresh: Vec<Leaving>,
    waiting: Arc<Mutex<Waiting>>,
}

impl Line {
    /// Whether everything was handed on, or waits for its commit.
    pub(crate) fn is_submitted(&self) -> bool {
        self.fresh.is_empty()
    }
}

/// Has everything leave that may.
fn go(waiting: &Mutex<Waiting>, exits: &Exits, emitter: &Emitter) {
    loop {
        let mut state = waiting.lock();
        if state.is_leaving {
            // Whoever is at it looks again.
            return;
        }
        let Some((commit, _)) = state.queue.front() else { return };
        let outcome = commit.as_ref().map(|commit| commit.outcome());
        if outcome == Some(None) {
            return;
        }
        let (_, leaving) = state.queue.pop_front().expect("just seen");
        state.is_leaving = true;
        drop(state);
        if !matches!(outcome, Some(Some(Err(_)))) {
            exits.leave(emitter, leaving);
        }
        waiting.lock().is_leaving = false;
    }
}

impl<D: Daemon> Inside<D> {
    /// Notes an output that goes elsewhere too, after it was linked and before its step is added.
    pub(crate) fn route(&mut self, exits: &Exits, sequence: u64, route: Route, payload: &[u8]) {
        let leaving = match route {
            Route::Chain => return,
            Route::Channel(channel) => Leaving::Channel(channel, payload.to_vec()),
            Route::To(to) => {
                let stream = exits.stream(&self.host);
                let payload = payload.to_vec();
                let journal = self.journal.as_mut().filter(|journal| journal.keeps_steps());
                let has_row = journal.is_some();
                let due = Due { to, stream, payload };
                if let Some(journal) = journal {
                    journal.also(due.write(&self.host.entity(), sequence));
                }
                Leaving::Daemon(Sending {
                    sequence,
                    to,
                    stream,
                    payload: due.payload,
                    has_row,
                })
            }
        };
        self.line.get_or_insert_default().fresh.push(leaving);
    }

    /// Notes outputs for those who follow the chain, after they were linked and before their step is added.
    pub(crate) fn follow(&mut self, outputs: Vec<(Shelved, Digest)>) {
        let Some(fed) = self.followed.as_ref().map(|followed| Arc::clone(followed.fed())) else {
            return;
        };
        let leaving = outputs
            .into_iter()
            .map(|(output, head)| Leaving::Followers(Arc::clone(&fed), output, head));
        self.line.get_or_insert_default().fresh.extend(leaving);
    }

    /// Submits what the journal has of the events so far, and has what they emitted leave when it may. Returns what who is
    /// told of them waits for; `None`: there is none, or everything is kept.
    pub(crate) fn submit(&mut self, exits: Option<&Arc<Exits>>) -> Option<Arc<Commit>> {
        let commit = self.journal.as_mut().and_then(|journal| journal.submit());
        let (Some(line), Some(exits)) = (&mut self.line, exits) else {
            return commit;
        };
        if line.is_submitted() {
            return commit;
        }
        let emitter = Emitter {
            entity: self.host.entity(),
            origin: self.host.origin(),
        };
        let fresh = std::mem::take(&mut line.fresh);
        line.waiting.lock().queue.push_back((commit.clone(), fresh));
        match &commit {
            None => go(&line.waiting, exits, &emitter),
            Some(commit) => {
                let (waiting, exits) = (Arc::clone(&line.waiting), Arc::clone(exits));
                commit.then(Box::new(move |_| go(&waiting, &exits, &emitter)));
            }
        }
        commit
    }
}
