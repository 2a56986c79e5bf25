//! Calls to other nodes about their daemons, and what other nodes ask of this one: spawn, stop, snapshot.
//!
//! Bodies are put into a queue; turns of the [`reactor`](crate::reactor) have
//! [`remote_call`] and [`remote_desk`] decide what they mean. What is
//! asked of this node is done by a [`Steward`], on a lane: it may run user code, and wait.
//!
//! Invariants
//! * Only nodes that are listed as managers have anything done; nobody is, unless the user says so. The list counts when a
//!   call is asked for, also again.
//! * A call is run once, however often it is asked for.
//! * A call ends: with an answer, at its caller's deadline, at a signal, at the close.
//! * No lock is held while a body is posted or a steward works.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use meshos_core::config::DaemonHostConfig;
use meshos_core::frame::Kind;
use meshos_core::id::{EntityId, Origin};
use meshos_core::ownership::OwnershipRecord;
use meshos_core::remote_call::{self, Outcome, RemoteCall};
use meshos_core::remote_desk::{self, Key, RemoteDesk};
use meshos_core::remote_frame::{Answer, Body, CallId, Reason, Refused, RemoteFrame, Request, cut, snapshot_digest};

use crate::carrier::Carrier;
use crate::clock::Deadline;
use crate::fed::Reader;
use crate::inbox::Inbox;
use crate::keys;
use crate::lane::{Job, Lanes};
use crate::mesh::{Delivered, Take};
use crate::reactor::{Place, Reactor, Turn};
use crate::sync::{Condvar, Mutex, RwLock};

/// Bodies that wait for a turn at most.
pub const INBOX_MAX: usize = 4_096;

/// Bytes that wait for a turn at most; one body always has a place.
pub const INBOX_BYTES_MAX: usize = 64 << 20;

/// Calls of this node that are open at a time.
pub const CALLS_MAX: usize = 4_096;

/// Does what other nodes ask of this one. Called on a lane; user code may run in it.
pub trait Steward: Send + Sync {
    /// Starts a daemon, which this node owns by `record`. Its signatures were not checked.
    ///
    /// # Errors
    /// Why not; then nothing happened.
    fn spawn(&self, record: &OwnershipRecord, kind: &str, config: DaemonHostConfig) -> Result<(), Refused>;

    /// Stops a daemon.
    ///
    /// # Errors
    /// Why not.
    fn stop(&self, origin: Origin) -> Result<(), Refused>;

    /// Takes a snapshot and encodes it; `None` of a daemon without state.
    ///
    /// # Errors
    /// Why not.
    fn snapshot(&self, origin: Origin) -> Result<Option<Vec<u8>>, Refused>;

    /// Has the outputs of a daemon that come after a number pushed to a reader; see [`feeding`](crate::feeding).
    ///
    /// # Errors
    /// Why not.
    fn outputs(&self, reader: Reader, origin: Origin, after: u64) -> Result<(), Refused>;
}

/// A refusal without an owner.
#[must_use]
pub fn refused(reason: Reason, text: &str) -> Refused {
    Refused {
        reason,
        owner: None,
        text: cut(text),
    }
}

/// Why a call came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The other node does not do it.
    Refused(Refused),
    /// The snapshot is larger than is taken here.
    TooLarge {
        /// Its size.
        size: u64,
    },
    /// What was fetched is not what was taken.
    Damaged,
    /// There was no answer in time. It may be done, or come to be done.
    Timeout,
    /// Whoever waited does not want to any more. It may be done, or come to be done.
    Interrupted,
    /// This node is closed.
    Closed,
    /// As many calls are open as may be.
    Full,
}

/// What happened to calls, and to what others asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoteStats {
    /// Calls of this node.
    pub called: u64,
    /// Calls of other nodes that were run here.
    pub ran: u64,
    /// Calls of other nodes that were refused without being run.
    pub refused: u64,
    /// Bodies that could not be read.
    pub malformed: u64,
    /// Bodies for which there was no place.
    pub full: u64,
    /// Messages that were late, repeated or from elsewhere.
    pub ignored: u64,
}

/// A call of this node that is open.
struct Open {
    to: EntityId,
    ask: Vec<u8>,
    call: RemoteCall,
    fetched: Vec<u8>,
    done: Arc<Done>,
}

/// Where the end of a call is waited for.
#[derive(Default)]
struct Done {
    ended: Mutex<Option<Over>>,
    bell: Condvar,
}

/// What came of a call, and what was fetched; or why nothing will.
type Over = Result<(Outcome, Vec<u8>), CallError>;

type Ended = Result<Option<Vec<u8>>, CallError>;

#[derive(Default)]
struct Desk {
    decides: RemoteDesk,
    /// Snapshots at hand.
    held: BTreeMap<Key, Arc<Vec<u8>>>,
}

struct Inner {
    carrier: Carrier,
    lanes: Lanes,
    started: Instant,
    managers: RwLock<BTreeSet<EntityId>>,
    steward: OnceLock<Weak<dyn Steward>>,
    inbox: Mutex<Inbox<Delivered>>,
    desk: Mutex<Desk>,
    calls: Mutex<HashMap<CallId, Open>>,
    place: OnceLock<Place>,
    me: Weak<Self>,
    closed: AtomicBool,
    called: AtomicU64,
    ran: AtomicU64,
    malformed: AtomicU64,
    ignored: AtomicU64,
}

/// Calls between a node and the others; a clone is the same.
#[derive(Clone)]
pub struct Remote {
    inner: Arc<Inner>,
}

/// A call that was made.
pub struct Pending {
    inner: Arc<Inner>,
    id: CallId,
    done: Arc<Done>,
}

/// Something for the other side.
type Post = (EntityId, Vec<u8>);

impl Take for Inner {
    fn take(&self, delivered: Delivered) -> bool {
        let size = delivered.body().len();
        let is_taken = self.inbox.lock().offer(delivered, size);
        if is_taken {
            self.wake();
        }
        is_taken
    }
}

impl Turn for Inner {
    fn turn(&self) -> Option<Instant> {
        if self.closed.load(Ordering::Acquire) {
            return None;
        }
        let bodies = self.inbox.lock().take();
        for delivered in bodies {
            match RemoteFrame::decode(delivered.body()) {
                Ok(frame) => self.hear(delivered.from, frame),
                Err(_) => {
                    self.malformed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.pass_time();
        let calls = self.calls.lock().values().filter_map(|open| open.call.wake_at()).min();
        let desk = self.desk.lock().decides.wake_at();
        let due = calls.into_iter().chain(desk).min()?;
        self.started.checked_add(due)
    }
}

impl Inner {
    fn wake(&self) {
        let place = self.place.get_or_init(|| {
            let turn: Weak<dyn Turn> = self.me.clone();
            Reactor::of_process().place(turn).0
        });
        place.wake();
    }

    fn hear(&self, from: EntityId, frame: RemoteFrame<'_>) {
        let key = (from, frame.call);
        match frame.body {
            Body::Ask(request) => {
                let permitted = self.managers.read().contains(&from);
                self.at_desk(remote_desk::Signal::Ask { key, permitted }, Some(request));
            }
            Body::Fetch { offset } => self.at_desk(remote_desk::Signal::Fetch { key, offset }, None),
            Body::Answer(answer) => self.answered(key, remote_call::Signal::Answer(answer), &[]),
            Body::Part { offset, bytes } => {
                let length = bytes.len();
                self.answered(key, remote_call::Signal::Part { offset, length }, bytes);
            }
        }
    }

    fn pass_time(&self) {
        self.at_desk(remote_desk::Signal::Timer, None);
        let now = self.started.elapsed();
        let is_due = |open: &Open| open.call.wake_at().is_some_and(|at| at <= now);
        let due: Vec<Key> = {
            let calls = self.calls.lock();
            let due = calls.iter().filter(|(_, open)| is_due(open));
            due.map(|(id, open)| (open.to, *id)).collect()
        };
        for key in due {
            self.answered(key, remote_call::Signal::Timer, &[]);
        }
    }

    /// Steps a call of this node that `from` answers.
    fn answered(&self, (from, id): Key, signal: remote_call::Signal, part: &[u8]) {
        let now = self.started.elapsed();
        let mut posts: Vec<Post> = Vec::new();
        let mut over = None;
        {
            let mut calls = self.calls.lock();
            let Some(open) = calls.get_mut(&id).filter(|open| open.to == from) else {
                self.ignored.fetch_add(1, Ordering::Relaxed);
                return;
            };
            let (mut actions, mut outcome) = (Vec::new(), None);
            open.call.step(now, signal, &mut actions);
            for action in actions {
                match action {
                    remote_call::Action::Ask => posts.push((open.to, open.ask.clone())),
                    remote_call::Action::Fetch { offset } => {
                        let body = Body::Fetch { offset };
                        posts.push((open.to, RemoteFrame { call: id, body }.to_bytes()));
                    }
                    remote_call::Action::Take => open.fetched.extend(part),
                    remote_call::Action::Ended(ended) => outcome = Some(ended),
                }
            }
            if let Some(outcome) = outcome {
                over = calls.remove(&id).map(|open| (outcome, open));
            }
        }
        if let Some((outcome, open)) = over {
            open.done.end(Ok((outcome, open.fetched)));
        }
        self.post(posts);
    }

    /// Steps the desk; what it wants run is run on a lane.
    fn at_desk(&self, signal: remote_desk::Signal, request: Option<Request>) {
        let now = self.started.elapsed();
        let (mut posts, mut run, mut gone) = (Vec::new(), None, Vec::new());
        {
            let mut desk = self.desk.lock();
            let mut actions = Vec::new();
            desk.decides.step(now, signal, &mut actions);
            for action in actions {
                match action {
                    remote_desk::Action::Run(key) => run = Some(key),
                    remote_desk::Action::Answer((to, call), answer) => {
                        let body = Body::Answer(answer);
                        posts.push((to, RemoteFrame { call, body }.to_bytes()));
                    }
                    remote_desk::Action::Part { key, offset, length } => {
                        let Some(held) = desk.held.get(&key) else { continue };
                        let Some(bytes) = usize::try_from(offset).ok().and_then(|at| held.get(at..at + length)) else {
                            continue;
                        };
                        let body = Body::Part { offset, bytes };
                        posts.push((key.0, RemoteFrame { call: key.1, body }.to_bytes()));
                    }
                    remote_desk::Action::LetGo(key) => gone.extend(desk.held.remove(&key)),
                }
            }
        }
        drop(gone);
        self.post(posts);
        if let Some((key, request)) = run.zip(request) {
            self.ran.fetch_add(1, Ordering::Relaxed);
            let job = Arc::new(Errand {
                inner: self.me.clone(),
                key,
                request: Mutex::new(Some(request)),
            });
            if !self.lanes.submit(job) {
                self.finished(key, Err(refused(Reason::NotReady, "the lanes were stopped")));
            }
        }
    }

    fn finished(&self, key: Key, outcome: Result<Option<Vec<u8>>, Refused>) {
        let answer = match outcome {
            Ok(None) => Answer::Done,
            Err(refused) => Answer::Refused(refused),
            Ok(Some(bytes)) => {
                let (size, digest) = (bytes.len() as u64, snapshot_digest(&bytes));
                let before = self.desk.lock().held.insert(key, Arc::new(bytes));
                drop(before);
                Answer::Taken { size, digest }
            }
        };
        self.at_desk(remote_desk::Signal::Finished { key, answer }, None);
        self.wake();
    }

    fn post(&self, posts: Vec<Post>) {
        for (to, body) in posts {
            // What is not sent is asked for, or answered, again.
            let _ = self.carrier.post(&to, Kind::REMOTE, &body);
        }
    }
}

/// Hashes what was fetched: on the thread of who waits for it.
fn result(outcome: Outcome, fetched: Vec<u8>) -> Ended {
    match outcome {
        Outcome::Done => Ok(None),
        Outcome::Fetched { digest } if snapshot_digest(&fetched) == digest => Ok(Some(fetched)),
        Outcome::Fetched { .. } => Err(CallError::Damaged),
        Outcome::Refused(refused) => Err(CallError::Refused(refused)),
        Outcome::TooLarge { size } => Err(CallError::TooLarge { size }),
    }
}

impl Done {
    fn end(&self, over: Over) {
        *self.ended.lock() = Some(over);
        self.bell.notify_all();
    }
}

/// Something that another node asked for, on a lane.
struct Errand {
    inner: Weak<Inner>,
    key: Key,
    request: Mutex<Option<Request>>,
}

impl Job for Errand {
    fn run(self: Arc<Self>) {
        let Some(request) = self.request.lock().take() else {
            return;
        };
        let Some(inner) = self.inner.upgrade() else { return };
        let steward = inner.steward.get().and_then(Weak::upgrade);
        let outcome = match (steward, request) {
            (None, _) => Err(refused(Reason::NotReady, "it has no runtime")),
            (Some(steward), Request::Spawn { record, kind, config }) => {
                steward.spawn(&record, &kind, config).map(|()| None)
            }
            (Some(steward), Request::Stop(origin)) => steward.stop(origin).map(|()| None),
            (Some(steward), Request::Snapshot(origin)) => steward.snapshot(origin),
            (Some(steward), Request::Outputs { origin, after }) => {
                steward.outputs(self.key, origin, after).map(|()| None)
            }
        };
        inner.finished(self.key, outcome);
    }
}

impl Remote {
    /// Takes what other nodes ask from `carrier`. `lanes` run what is done for them.
    #[must_use]
    pub fn new(carrier: Carrier, lanes: Lanes) -> Self {
        let inner = Arc::new_cyclic(|me: &Weak<Inner>| Inner {
            carrier: carrier.clone(),
            lanes,
            started: Instant::now(),
            managers: RwLock::default(),
            steward: OnceLock::new(),
            inbox: Mutex::new(Inbox::new(INBOX_MAX, INBOX_BYTES_MAX)),
            desk: Mutex::default(),
            calls: Mutex::default(),
            place: OnceLock::new(),
            me: me.clone(),
            closed: AtomicBool::new(false),
            called: AtomicU64::new(0),
            ran: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            ignored: AtomicU64::new(0),
        });
        carrier.attach(Kind::REMOTE, Arc::new(Attached(Arc::downgrade(&inner))));
        Self { inner }
    }

    /// Who does what others ask; the first counts.
    pub fn serve(&self, steward: Weak<dyn Steward>) {
        let _ = self.inner.steward.set(steward);
    }

    /// Lets these nodes, and no others, ask for something from now on.
    pub fn permit(&self, managers: BTreeSet<EntityId>) {
        let before = std::mem::replace(&mut *self.inner.managers.write(), managers);
        drop(before);
    }

    /// The nodes that may ask for something.
    #[must_use]
    pub fn managers(&self) -> BTreeSet<EntityId> {
        self.inner.managers.read().clone()
    }

    /// Asks a node, perhaps this one. What is fetched has at most `size_max` bytes.
    ///
    /// # Errors
    /// [`CallError::Closed`], [`CallError::Full`].
    pub fn call(&self, to: EntityId, request: Request, size_max: u64) -> Result<Pending, CallError> {
        self.call_named(keys::random_bytes(), to, request, size_max)
    }

    /// As [`Remote::call`], for who knows its name before; it must be random.
    pub(crate) fn call_named(
        &self,
        id: CallId,
        to: EntityId,
        request: Request,
        size_max: u64,
    ) -> Result<Pending, CallError> {
        let inner = &self.inner;
        if inner.closed.load(Ordering::Acquire) || inner.carrier.is_closed() {
            return Err(CallError::Closed);
        }
        let body = Body::Ask(request);
        let ask = RemoteFrame { call: id, body }.to_bytes();
        let (call, _) = RemoteCall::begin(inner.started.elapsed(), size_max, keys::random_u64());
        let done = Arc::new(Done::default());
        let open = Open {
            to,
            ask: ask.clone(),
            call,
            fetched: Vec::new(),
            done: Arc::clone(&done),
        };
        {
            let mut calls = inner.calls.lock();
            if calls.len() >= CALLS_MAX {
                return Err(CallError::Full);
            }
            calls.insert(id, open);
        }
        inner.called.fetch_add(1, Ordering::Relaxed);
        inner.post(vec![(to, ask)]);
        inner.wake();
        let inner = Arc::clone(inner);
        Ok(Pending { inner, id, done })
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> RemoteStats {
        let inner = &self.inner;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (refused, at_desk) = {
            let desk = inner.desk.lock();
            (desk.decides.refused(), desk.decides.ignored())
        };
        RemoteStats {
            called: of(&inner.called),
            ran: of(&inner.ran),
            refused,
            malformed: of(&inner.malformed),
            full: inner.inbox.lock().refused(),
            ignored: of(&inner.ignored) + at_desk,
        }
    }

    /// Whether nothing can be asked any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.inner.closed.load(Ordering::Acquire) || self.inner.carrier.is_closed()
    }

    /// Ends every call; does nothing the second time.
    pub fn close(&self) {
        if self.inner.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let calls = std::mem::take(&mut *self.inner.calls.lock());
        for open in calls.into_values() {
            open.done.end(Err(CallError::Closed));
        }
    }
}

/// What a carrier holds: it does not keep the node alive.
struct Attached(Weak<Inner>);

impl Take for Attached {
    fn take(&self, delivered: Delivered) -> bool {
        self.0.upgrade().is_some_and(|inner| inner.take(delivered))
    }
}

impl Pending {
    /// Its name.
    #[must_use]
    pub const fn name(&self) -> CallId {
        self.id
    }

    /// What came of it, if that is known.
    pub(crate) fn poll(&self) -> Option<Ended> {
        let over = self.done.ended.lock().take()?;
        Some(over.and_then(|(outcome, fetched)| result(outcome, fetched)))
    }

    /// Waits for the end; the encoded snapshot, if one was asked for. `is_interrupted` is asked between slices, without a
    /// lock.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn wait(self, deadline: Deadline, mut is_interrupted: impl FnMut() -> bool) -> Ended {
        loop {
            let mut ended = self.done.ended.lock();
            if let Some(over) = ended.take() {
                drop(ended);
                return over.and_then(|(outcome, fetched)| result(outcome, fetched));
            }
            if deadline.passed() {
                return Err(CallError::Timeout);
            }
            drop(self.done.bell.wait_until(ended, deadline.slice()));
            if is_interrupted() {
                return Err(CallError::Interrupted);
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let left = self.inner.calls.lock().remove(&self.id);
        drop(left);
    }
}
