//! The feeds of a node, to readers of its daemons' chains, and what comes in for its own readers.
//!
//! What owners are told waits in a bounded queue until the node has its turn at the [`reactor`](crate::reactor), where the
//! [`Fed`]s of its daemons decide. What readers are told goes into the letterbox of the reader at once: a reader works on
//! its own thread.
//!
//! Invariants
//! * Who reads for a daemon on a lane enters it once at a time.
//! * Feeds, queues and letterboxes are bounded, and what has no place is counted: who sent it sends it again.
//! * No lock is held while a body is posted or a daemon is entered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use meshos_core::feed_frame::{Body, FeedFrame};
use meshos_core::finder::Known;
use meshos_core::frame::Kind;
use meshos_core::id::EntityId;
use meshos_core::parcel;
use meshos_core::remote_frame::CallId;
use meshos_core::stream::Frame;

use crate::carrier::Carrier;
use crate::fed::{Counts, FEEDS_MAX, Fed, Hub, Owner, Post, Shelves, Unread};
use crate::inbox::Inbox;
use crate::lane::{Job, Lanes};
use crate::mesh::{Delivered, Take};
use crate::reactor::{Place, Reactor, Turn};
use crate::router::Router;
use crate::sync::{Condvar, Mutex};

/// Bodies that wait for a turn at most.
pub const INBOX_MAX: usize = 16_384;

/// Bytes that wait for a turn at most; one body always has a place.
pub const INBOX_BYTES_MAX: usize = 16 << 20;

/// Bodies that wait for one reader at most.
pub const LETTERS_MAX: usize = 256;

/// Bytes that wait for one reader at most; one body always has a place.
pub const LETTERS_BYTES_MAX: usize = 8 << 20;

/// Wait before a daemon is read again that was busy.
const READ_PAUSE: Duration = Duration::from_millis(5);

/// Turns for what is emitted are at least so far apart; the first output after a pause leaves at once.
const TURN_PAUSE: Duration = Duration::from_millis(1);

/// What happened to feeds, and to readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FeedStats {
    /// Feeds that are open here.
    pub open: u64,
    /// Feeds that were not opened, since there were as many as may be.
    pub refused: u64,
    /// Outputs that were pushed, also again.
    pub pushed: u64,
    /// Acknowledgements of another epoch, of what was never pushed, or of nobody who is known.
    pub ignored: u64,
    /// Readers that were silent for too long.
    pub forgotten: u64,
    /// Bodies that could not be read.
    pub malformed: u64,
    /// Bodies for which there was no place, at owners and at readers.
    pub full: u64,
    /// Readers of this node.
    pub readers: u64,
}

/// What waits for a reader.
pub(crate) struct Letters {
    waiting: Mutex<Inbox<Delivered>>,
    bell: Condvar,
}

impl Default for Letters {
    fn default() -> Self {
        Self {
            waiting: Mutex::new(Inbox::new(LETTERS_MAX, LETTERS_BYTES_MAX)),
            bell: Condvar::new(),
        }
    }
}

impl Letters {
    /// What came first.
    pub(crate) fn pop(&self) -> Option<Delivered> {
        self.waiting.lock().pop()
    }

    /// Waits until something is there, or until a time.
    pub(crate) fn wait(&self, until: Instant) {
        let waiting = self.waiting.lock();
        if waiting.is_empty() {
            drop(self.bell.wait_until(waiting, until));
        }
    }
}

#[derive(Default)]
struct Book {
    feds: BTreeMap<EntityId, (Arc<Fed>, Option<Duration>)>,
    due: BTreeSet<(Duration, EntityId)>,
}

pub(crate) struct Inner {
    carrier: Carrier,
    router: Router,
    lanes: Lanes,
    started: Instant,
    counts: Arc<Counts>,
    inbox: Mutex<Inbox<Delivered>>,
    book: Mutex<Book>,
    marked: Mutex<Vec<Arc<Fed>>>,
    /// When the last turn began, in nanoseconds.
    turned: AtomicU64,
    readers: Mutex<HashMap<CallId, Arc<Letters>>>,
    place: OnceLock<Place>,
    this: Weak<Self>,
    closed: AtomicBool,
    malformed: AtomicU64,
    full: AtomicU64,
}

/// The feeds of a node; a clone is the same.
#[derive(Clone)]
pub struct Feeds {
    inner: Arc<Inner>,
}

/// What a carrier holds: it does not keep the node alive.
struct Attached(Weak<Inner>);

impl Take for Attached {
    fn take(&self, delivered: Delivered) -> bool {
        self.0.upgrade().is_some_and(|inner| inner.take(delivered))
    }
}

impl Hub for Inner {
    fn mark(&self, fed: Arc<Fed>, may_wait: bool) {
        self.marked.lock().push(fed);
        let next = Duration::from_nanos(self.turned.load(Ordering::Acquire)) + TURN_PAUSE;
        match self.place.get() {
            // A daemon that emits all the time does not wake the thread each time.
            Some(place) if may_wait && self.started.elapsed() < next => place.wake_by(self.started + next),
            _ => self.wake(),
        }
    }
}

impl Turn for Inner {
    fn turn(&self) -> Option<Instant> {
        if self.closed.load(Ordering::Acquire) {
            return None;
        }
        let bodies = self.inbox.lock().take();
        let began = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.turned.store(began, Ordering::Release);
        let mut posts = Vec::new();
        for delivered in bodies {
            self.hear(&delivered, &mut posts);
        }
        let now = self.started.elapsed();
        let mut feds = std::mem::take(&mut *self.marked.lock());
        let due = {
            let mut book = self.book.lock();
            while let Some((at, entity)) = book.due.first().copied().filter(|(at, _)| *at <= now) {
                book.due.remove(&(at, entity));
                if let Some((fed, timer)) = book.feds.get_mut(&entity) {
                    *timer = None;
                    feds.push(Arc::clone(fed));
                }
            }
            book.due.first().map(|(at, _)| *at)
        };
        let dues = feds.iter().filter_map(|fed| self.turn_of(fed, now, &mut posts));
        let due = dues.chain(due).min();
        self.post(posts);
        due.and_then(|due| self.started.checked_add(due))
    }
}

impl Inner {
    fn wake(&self) {
        let place = self.place.get_or_init(|| {
            let turn: Weak<dyn Turn> = self.this.clone();
            Reactor::of_process().place(turn).0
        });
        place.wake();
    }

    fn take(&self, delivered: Delivered) -> bool {
        if self.closed.load(Ordering::Acquire) {
            return false;
        }
        let Ok(frame) = FeedFrame::decode(delivered.body()) else {
            self.malformed.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        if frame.body.is_for_reader() {
            return self.take_letter(frame.entity, frame.reader, &frame.body, &delivered);
        }
        let size = delivered.body().len();
        let is_taken = self.inbox.lock().offer(delivered, size);
        if is_taken {
            self.wake();
        } else {
            self.full.fetch_add(1, Ordering::Relaxed);
        }
        is_taken
    }

    /// Puts a body where its reader looks for it.
    fn take_letter(&self, entity: EntityId, reader: CallId, body: &Body<'_>, delivered: &Delivered) -> bool {
        let letters = self.readers.lock().get(&reader).map(Arc::clone);
        let Some(letters) = letters else {
            if matches!(body, Body::Outputs(_)) {
                // Who is gone is told to be gone until the owner has heard it.
                let body = Body::Leave;
                let leave = FeedFrame { entity, reader, body }.to_bytes();
                self.post(vec![(delivered.from, leave)]);
            }
            return true;
        };
        let size = delivered.body().len();
        let is_taken = letters.waiting.lock().offer(delivered.clone(), size);
        if is_taken {
            letters.bell.notify_all();
        } else {
            self.full.fetch_add(1, Ordering::Relaxed);
        }
        is_taken
    }

    /// Takes in what a reader says.
    fn hear(&self, delivered: &Delivered, posts: &mut Vec<Post>) {
        let Ok(FeedFrame { entity, reader, body }) = FeedFrame::decode(delivered.body()) else {
            return;
        };
        let now = self.started.elapsed();
        let from = (delivered.from, reader);
        let answer = |body| (delivered.from, FeedFrame { entity, reader, body }.to_bytes());
        let fed = || self.book.lock().feds.get(&entity).map(|(fed, _)| Arc::clone(fed));
        match body {
            Body::Answers(parcel) => {
                let Ok(messages) = parcel::open(parcel) else {
                    self.malformed.fetch_add(1, Ordering::Relaxed);
                    return;
                };
                let (fed, mut ignored) = (fed(), 0);
                for frame in messages.map(|message| message.and_then(Frame::decode)) {
                    match &frame {
                        Ok(frame) if fed.as_ref().is_some_and(|fed| fed.hear(&from, now, frame)) => {}
                        Ok(_) => ignored += 1,
                        // The others are whole.
                        Err(_) => _ = self.malformed.fetch_add(1, Ordering::Relaxed),
                    }
                }
                if ignored > 0 {
                    self.counts.ignored.fetch_add(ignored, Ordering::Relaxed);
                    posts.push(answer(Body::Over));
                }
            }
            Body::Still => match fed().map_or(Some(false), |fed| fed.has(&from, now)) {
                Some(true) => posts.push(answer(Body::Here)),
                Some(false) => posts.push(answer(Body::Over)),
                None => {}
            },
            Body::Leave => {
                if let Some(fed) = fed() {
                    fed.leave(&from);
                }
            }
            Body::Find => {
                if let Some(Known { node, epoch, .. }) = self.router.place_of(&entity) {
                    posts.push(answer(Body::Found { node, epoch }));
                }
            }
            Body::Outputs(_) | Body::Here | Body::Over | Body::Found { .. } => {}
        }
    }

    /// Gives one daemon its turn; returns when the next is due.
    fn turn_of(&self, fed: &Arc<Fed>, now: Duration, posts: &mut Vec<Post>) -> Option<Duration> {
        let turned = fed.turn(now);
        posts.extend(turned.posts);
        if let Some((after, through)) = turned.read {
            self.read(fed, after, through, None);
        }
        let entity = fed.entity();
        let mut book = self.book.lock();
        let Book { feds, due } = &mut *book;
        let (known, timer) = feds.get_mut(&entity).filter(|(known, _)| Arc::ptr_eq(known, fed))?;
        if let Some(timer) = timer.take() {
            due.remove(&(timer, entity));
        }
        if fed.is_over() {
            let gone = Arc::clone(known);
            feds.remove(&entity);
            drop(book);
            drop(gone);
            return None;
        }
        let next = turned.due?;
        *timer = Some(next);
        due.insert((next, entity));
        Some(next)
    }

    /// Has a lane read what a daemon keeps.
    fn read(&self, fed: &Arc<Fed>, after: u64, through: u64, at: Option<Instant>) {
        let reading = Arc::new(Reading {
            inner: Weak::clone(&self.this),
            fed: Arc::clone(fed),
            after,
            through,
        });
        let is_taken = match at {
            None => self.lanes.submit(reading),
            Some(at) => self.lanes.submit_at(at, reading),
        };
        if !is_taken {
            fed.was_read(after, Err(Unread::Gone));
        }
    }

    fn post(&self, posts: Vec<Post>) {
        for (to, body) in posts {
            // What is not sent is sent, or asked for, again.
            let _ = self.carrier.post(&to, Kind::FEED, &body);
        }
    }
}

/// Reads what a daemon keeps, on a lane.
struct Reading {
    inner: Weak<Inner>,
    fed: Arc<Fed>,
    after: u64,
    through: u64,
}

impl Job for Reading {
    fn run(self: Arc<Self>) {
        let Some(inner) = self.inner.upgrade() else { return };
        match self.fed.shelves.read(&self.fed, self.after, self.through) {
            Err(Unread::Busy) => {
                let again = Instant::now() + READ_PAUSE;
                inner.read(&self.fed, self.after, self.through, Some(again));
            }
            read => self.fed.was_read(self.after, read),
        }
    }
}

impl Feeds {
    /// Takes what readers and owners send from `carrier`. `lanes` read what daemons keep.
    #[must_use]
    pub fn new(carrier: Carrier, router: Router, lanes: Lanes) -> Self {
        let inner = Arc::new_cyclic(|this: &Weak<Inner>| Inner {
            carrier: carrier.clone(),
            router,
            lanes,
            started: Instant::now(),
            counts: Arc::default(),
            inbox: Mutex::new(Inbox::new(INBOX_MAX, INBOX_BYTES_MAX)),
            book: Mutex::default(),
            marked: Mutex::default(),
            turned: AtomicU64::new(0),
            readers: Mutex::default(),
            place: OnceLock::new(),
            this: Weak::clone(this),
            closed: AtomicBool::new(false),
            malformed: AtomicU64::new(0),
            full: AtomicU64::new(0),
        });
        carrier.attach(Kind::FEED, Arc::new(Attached(Arc::downgrade(&inner))));
        Self { inner }
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> FeedStats {
        let inner = &*self.inner;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FeedStats {
            open: of(&inner.counts.open),
            refused: of(&inner.counts.refused),
            pushed: of(&inner.counts.pushed),
            ignored: of(&inner.counts.ignored),
            forgotten: of(&inner.counts.forgotten),
            malformed: of(&inner.malformed),
            full: of(&inner.full),
            readers: inner.readers.lock().len() as u64,
        }
    }

    /// Pushes and takes nothing any more.
    pub fn close(&self) {
        self.inner.closed.store(true, Ordering::Release);
        let book = std::mem::take(&mut *self.inner.book.lock());
        let marked = std::mem::take(&mut *self.inner.marked.lock());
        drop((book, marked));
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inner.closed.load(Ordering::Acquire) || self.inner.carrier.is_closed()
    }

    pub(crate) fn router(&self) -> &Router {
        &self.inner.router
    }

    /// Whether there is a place for one more feed; if not, that is counted.
    pub(crate) fn has_room(&self) -> bool {
        let has_room = self.inner.counts.open.load(Ordering::Relaxed) < FEEDS_MAX;
        self.inner
            .counts
            .refused
            .fetch_add(u64::from(!has_room), Ordering::Relaxed);
        has_room
    }

    /// Makes the feeds of one life of a daemon.
    pub(crate) fn begin(&self, owner: Owner, shelves: Box<dyn Shelves>) -> Arc<Fed> {
        let inner: Weak<Inner> = Arc::downgrade(&self.inner);
        let fed = Fed::new(owner, shelves, inner, Arc::clone(&self.inner.counts));
        let before = self
            .inner
            .book
            .lock()
            .feds
            .insert(fed.entity(), (Arc::clone(&fed), None));
        if let Some((before, _)) = before {
            before.end();
        }
        fed
    }

    pub(crate) fn now(&self) -> Duration {
        self.inner.started.elapsed()
    }

    /// Has bodies for a reader put into its letterbox from now on.
    pub(crate) fn enter(&self, reader: CallId, letters: &Arc<Letters>) {
        let before = self.inner.readers.lock().insert(reader, Arc::clone(letters));
        drop(before);
    }

    /// Forgets a reader.
    pub(crate) fn withdraw(&self, reader: &CallId) {
        let gone = self.inner.readers.lock().remove(reader);
        drop(gone);
    }

    pub(crate) fn post(&self, to: EntityId, frame: &FeedFrame<'_>) {
        self.inner.post(vec![(to, frame.to_bytes())]);
    }
}
