//! What one life of a daemon pushes to those who follow its chain: a [`Feed`] and a shelf of outputs for each reader.
//!
//! Who emits puts outputs on the shelves when they are kept. Turns of the node have the feeds decide, and pack what leaves.
//! What is behind a shelf is read from the daemon by who runs this.
//!
//! Invariants
//! * Nothing leaves that is not kept, or while the lease does not hold.
//! * A shelf, and what is on its way to one reader, are bounded in outputs and bytes; one output always has a place.
//! * A reader that is silent is forgotten after [`SILENT_MAX`].
//! * No lock is held while something is posted.
//!
//! Source: rules C2, C4, C6 and C7 of the move protocol.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use meshos_core::certificate::Certificate;
use meshos_core::digest::Digest;
use meshos_core::feed::{Action, Feed, Signal};
use meshos_core::feed_frame::{Body, FeedFrame, HEADER_SIZE};
use meshos_core::frame::BODY_BYTES_MAX;
use meshos_core::id::EntityId;
use meshos_core::link::CausalLink;
use meshos_core::parcel::{MESSAGE_OVERHEAD, Packer};
use meshos_core::remote_frame::CallId;
use meshos_core::stream::{Announce, Frame, Output, lineage_digest};

use crate::keys;
use crate::lease::{Lease, Unleased};
use crate::sync::Mutex;

/// Feeds of a node at a time.
pub const FEEDS_MAX: u64 = 4_096;

/// Outputs on one shelf.
pub const SHELF_MAX: usize = 1_024;

/// Bytes on one shelf, and on the way to one reader, unless one output has more.
pub const BYTES_MAX: usize = 4 << 20;

/// How long a reader may be silent.
pub const SILENT_MAX: Duration = Duration::from_secs(60);

/// After so many tries without an answer only the first output is sent again.
const REPEATS_MAX: u32 = 3;

/// When it is looked again whether a lease holds that ran out.
const LEASE_PAUSE: Duration = Duration::from_millis(50);

/// Largest frame of an output that fits into a body.
pub(crate) const FRAME_BYTES_MAX: usize = BODY_BYTES_MAX - HEADER_SIZE - 1 - MESSAGE_OVERHEAD;

/// A reader: its node, and the call with which it asked.
pub type Reader = (EntityId, CallId);

/// Something for another node.
pub(crate) type Post = (EntityId, Vec<u8>);

/// What happened to feeds of a node.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) open: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) pushed: AtomicU64,
    pub(crate) ignored: AtomicU64,
    pub(crate) forgotten: AtomicU64,
}

/// An output with its number, encoded.
#[derive(Debug, Clone)]
pub(crate) struct Shelved {
    pub(crate) n: u64,
    pub(crate) frame: Arc<[u8]>,
}

/// Why outputs cannot be read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Somebody is inside for long: later.
    Busy,
    /// They are not kept any more, or the daemon is gone.
    Gone,
}

/// Reads what a daemon keeps. It may wait, and is called on a lane with no lock held.
pub(crate) trait Shelves: Send + Sync {
    /// Outputs after a number, up to another, at most as many as a shelf takes.
    fn read(&self, fed: &Arc<Fed>, after: u64, through: u64) -> Result<Vec<Shelved>, Unread>;
}

/// Gives feeds their turns.
pub(crate) trait Hub: Send + Sync {
    /// Something changed; `may_wait`: more of it comes, and after a turn a moment ago the next need not come at once. It is
    /// short and never waits.
    fn mark(&self, fed: Arc<Fed>, may_wait: bool);
}

/// What a turn wants done.
#[derive(Default)]
pub(crate) struct Turned {
    pub(crate) posts: Vec<Post>,
    /// Whether outputs have to be read, after a number and up to another.
    pub(crate) read: Option<(u64, u64)>,
    /// When the next turn is due.
    pub(crate) due: Option<Duration>,
    /// Readers that are gone.
    pub(crate) gone: Vec<Reader>,
}

/// The outputs of one life of a daemon to everybody who follows it.
pub struct Fed {
    entity: EntityId,
    epoch: u64,
    lineage: Vec<Certificate>,
    digest: Digest,
    lease: Option<Arc<Lease>>,
    pub(crate) shelves: Box<dyn Shelves>,
    hub: Weak<dyn Hub>,
    counts: Arc<Counts>,
    this: Weak<Self>,
    is_marked: AtomicBool,
    is_over: AtomicBool,
    has_readers: AtomicBool,
    state: Mutex<State>,
}

struct State {
    published: u64,
    head: Digest,
    is_reading: bool,
    lines: BTreeMap<Reader, Line>,
}

/// What one reader gets.
struct Line {
    feed: Feed,
    shelf: VecDeque<Shelved>,
    bytes: usize,
    announces: bool,
    /// What the feed wants sent and what was not sent yet.
    owed: Option<(u64, u64)>,
    flying: VecDeque<(u64, usize)>,
    flying_bytes: usize,
    /// The highest number that was sent.
    sent: u64,
    repeats: u32,
    heard: Duration,
    /// What it waits for is not kept any more.
    is_gone: bool,
}

/// What a line has for its reader.
enum Flushed {
    Everything,
    /// The outputs after this number are not on the shelf.
    Behind(u64),
    /// The next output has no place in a body.
    TooLarge,
}

/// The lineage of an owner, and how far it may publish.
pub(crate) struct Owner {
    pub(crate) entity: EntityId,
    pub(crate) epoch: u64,
    pub(crate) lineage: Vec<Certificate>,
    pub(crate) lease: Option<Arc<Lease>>,
    pub(crate) published: u64,
    pub(crate) head: Digest,
}

impl Fed {
    /// Bytes of the frame of an output beside its payload.
    pub(crate) const FRAME_OVERHEAD: usize = 2 + 32 + 8 + 32 + 32 + 4;

    pub(crate) fn new(owner: Owner, shelves: Box<dyn Shelves>, hub: Weak<dyn Hub>, counts: Arc<Counts>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            entity: owner.entity,
            epoch: owner.epoch,
            digest: lineage_digest(&owner.lineage),
            lineage: owner.lineage,
            lease: owner.lease,
            shelves,
            hub,
            counts,
            this: Weak::clone(this),
            is_marked: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            has_readers: AtomicBool::new(false),
            state: Mutex::new(State {
                published: owner.published,
                head: owner.head,
                is_reading: false,
                lines: BTreeMap::new(),
            }),
        })
    }

    pub(crate) fn entity(&self) -> EntityId {
        self.entity
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether it speaks for this term.
    pub(crate) fn is_of(&self, epoch: u64, lineage: &[Certificate]) -> bool {
        self.epoch == epoch && self.lineage == lineage && !self.is_over()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Whether anybody follows; who emits need not ask for a lock.
    pub(crate) fn has_readers(&self) -> bool {
        self.has_readers.load(Ordering::Acquire)
    }

    /// Encodes an output.
    pub(crate) fn shelved(&self, link: CausalLink, payload: &[u8]) -> Shelved {
        let output = Output {
            entity: self.entity,
            epoch: self.epoch,
            lineage: self.digest,
            link,
            payload,
        };
        Shelved {
            n: link.sequence,
            frame: Frame::Output(output).to_bytes().into(),
        }
    }

    /// Takes an output that is kept, in the order of the chain.
    pub(crate) fn publish(&self, output: &Shelved, head: Digest) {
        {
            let mut state = self.state.lock();
            let state = &mut *state;
            if output.n <= state.published {
                return;
            }
            (state.published, state.head) = (output.n, head);
            for line in state.lines.values_mut() {
                line.put(output);
            }
        }
        self.mark_for(true);
    }

    /// Opens a feed, in place of the one before. Whoever calls this is inside the daemon.
    pub(crate) fn open(&self, reader: Reader, published: u64, head: Digest, now: Duration) {
        let mut state = self.state.lock();
        if published > state.published {
            (state.published, state.head) = (published, head);
        }
        let feed = Feed::new(self.epoch, state.published, keys::random_u64());
        let mut line = Line::new(feed, now);
        line.step(now, Signal::Started, &self.counts);
        if state.lines.insert(reader, line).is_none() {
            self.counts.open.fetch_add(1, Ordering::Relaxed);
        }
        self.has_readers.store(true, Ordering::Release);
        drop(state);
        self.mark();
    }

    /// Takes what a reader says; `false`: it is not known.
    pub(crate) fn hear(&self, reader: &Reader, now: Duration, frame: &Frame<'_>) -> bool {
        let signal = match frame {
            Frame::OutAck { entity, epoch, n } if *entity == self.entity => Signal::OutAck { epoch: *epoch, n: *n },
            Frame::Follow { entity, epoch, after } if *entity == self.entity => Signal::Follow {
                epoch: *epoch,
                after: *after,
            },
            _ => return false,
        };
        let mut state = self.state.lock();
        let Some(line) = state.lines.get_mut(reader) else {
            return false;
        };
        line.heard = now;
        line.step(now, signal, &self.counts);
        drop(state);
        self.mark();
        true
    }

    /// Whether it has this reader, who asks; `None`: it may not say so now.
    pub(crate) fn has(&self, reader: &Reader, now: Duration) -> Option<bool> {
        match self.leased() {
            Err(Unleased::Out { .. }) => return None,
            Err(Unleased::Fenced { .. }) => return Some(false),
            Ok(()) => {}
        }
        let mut state = self.state.lock();
        let line = state.lines.get_mut(reader);
        Some(line.map(|line| line.heard = now).is_some())
    }

    /// Forgets a reader.
    pub(crate) fn leave(&self, reader: &Reader) {
        let mut state = self.state.lock();
        let gone = state.lines.remove(reader);
        self.settle(&state, usize::from(gone.is_some()));
        drop(state);
        drop(gone);
        self.mark();
    }

    /// Tells everybody that it is over.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.mark();
    }

    fn leased(&self) -> Result<(), Unleased> {
        self.lease.as_ref().map_or(Ok(()), |lease| lease.check())
    }

    fn mark(&self) {
        self.mark_for(false);
    }

    fn mark_for(&self, may_wait: bool) {
        if !self.is_marked.swap(true, Ordering::AcqRel)
            && let Some((hub, this)) = self.hub.upgrade().zip(self.this.upgrade())
        {
            hub.mark(this, may_wait);
        }
    }

    fn settle(&self, state: &State, gone: usize) {
        self.counts.open.fetch_sub(gone as u64, Ordering::Relaxed);
        self.has_readers.store(!state.lines.is_empty(), Ordering::Release);
    }

    /// Has the feeds decide, and packs what may leave.
    pub(crate) fn turn(&self, now: Duration) -> Turned {
        self.is_marked.store(false, Ordering::Release);
        let mut turned = Turned::default();
        let leased = self.leased();
        let mut state = self.state.lock();
        if self.is_over() || matches!(leased, Err(Unleased::Fenced { .. })) {
            self.is_over.store(true, Ordering::Release);
            let lines = std::mem::take(&mut state.lines);
            self.settle(&state, lines.len());
            turned.gone = lines.into_keys().collect();
            let over = turned
                .gone
                .iter()
                .map(|reader| (reader.0, self.body(reader, Body::Over)));
            turned.posts.extend(over);
            return turned;
        }
        let state = &mut *state;
        let (published, head) = (state.published, state.head);
        let mut over = Vec::new();
        for (reader, line) in &mut state.lines {
            let is_silent = now >= line.heard + SILENT_MAX;
            if is_silent || line.is_gone {
                self.counts.forgotten.fetch_add(u64::from(is_silent), Ordering::Relaxed);
                over.push(*reader);
                continue;
            }
            line.step(now, Signal::Published { n: published }, &self.counts);
            line.step(now, Signal::Timer, &self.counts);
            let mut due = line.heard + SILENT_MAX;
            if leased.is_err() {
                due = now + LEASE_PAUSE;
            } else {
                let (body, flushed) = line.flush(|| self.announcement(published, head), &self.counts);
                if !body.is_empty() {
                    turned
                        .posts
                        .push((reader.0, self.body(reader, Body::Outputs(body.body()))));
                }
                match flushed {
                    Flushed::Everything => {}
                    Flushed::Behind(after) => turned.read = turned.read.or(Some((after, published))),
                    Flushed::TooLarge => over.push(*reader),
                }
            }
            due = line.feed.wake_at().map_or(due, |at| at.max(now).min(due));
            turned.due = Some(turned.due.map_or(due, |first| first.min(due)));
        }
        for reader in over {
            drop(state.lines.remove(&reader));
            self.settle(state, 1);
            turned.posts.push((reader.0, self.body(&reader, Body::Over)));
            turned.gone.push(reader);
        }
        // One at a time: a daemon is entered by one lane for all who are behind.
        turned.read = turned.read.filter(|_| !state.is_reading);
        state.is_reading |= turned.read.is_some();
        turned
    }

    /// Takes outputs that were read, for everybody who is there, or forgets those who wait for what is gone.
    pub(crate) fn was_read(&self, after: u64, read: Result<Vec<Shelved>, Unread>) {
        let mut state = self.state.lock();
        state.is_reading = false;
        let waits = |line: &Line| line.wants().is_some_and(|wanted| wanted == after + 1);
        match read {
            Ok(outputs) => {
                for line in state.lines.values_mut().filter(|line| waits(line)) {
                    line.restock(&outputs);
                }
            }
            Err(Unread::Busy) => {}
            Err(Unread::Gone) => {
                // Who is told that it is over asks anew, and hears why not.
                for line in state.lines.values_mut().filter(|line| waits(line)) {
                    line.is_gone = true;
                }
            }
        }
        drop(state);
        self.mark();
    }

    pub(crate) fn body(&self, reader: &Reader, body: Body<'_>) -> Vec<u8> {
        let (entity, reader) = (self.entity, reader.1);
        FeedFrame { entity, reader, body }.to_bytes()
    }

    fn announcement(&self, n: u64, head: Digest) -> Vec<u8> {
        let announce = Announce {
            entity: self.entity,
            epoch: self.epoch,
            n,
            head,
            lineage: self.lineage.clone(),
        };
        Frame::Announce(announce).to_bytes()
    }
}

/// Ends the feeds of a daemon when what is inside it ends.
pub(crate) struct Followed(Arc<Fed>);

impl Followed {
    pub(crate) const fn of(fed: Arc<Fed>) -> Self {
        Self(fed)
    }

    pub(crate) const fn fed(&self) -> &Arc<Fed> {
        &self.0
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Line {
    fn new(feed: Feed, now: Duration) -> Self {
        Self {
            feed,
            shelf: VecDeque::new(),
            bytes: 0,
            announces: false,
            owed: None,
            flying: VecDeque::new(),
            flying_bytes: 0,
            sent: 0,
            repeats: 0,
            heard: now,
            is_gone: false,
        }
    }

    fn step(&mut self, now: Duration, signal: Signal, counts: &Counts) {
        let before = self.feed.ignored();
        let mut actions = Vec::new();
        self.feed.step(now, signal, &mut actions);
        counts
            .ignored
            .fetch_add(self.feed.ignored() - before, Ordering::Relaxed);
        for action in actions {
            match action {
                Action::Announce => self.announces = true,
                Action::Send { first, last } => self.owe(first, last),
                Action::Release { through } => self.release(through),
            }
        }
    }

    fn owe(&mut self, first: u64, last: u64) {
        if let Some((from, through)) = self.owed
            && first == through + 1
        {
            self.owed = Some((from, last));
            return;
        }
        if first <= self.sent {
            (self.flying_bytes, self.repeats) = (0, self.repeats.saturating_add(1));
            self.flying.clear();
        }
        // Who does not read is not sent everything again and again.
        let last = if self.repeats > REPEATS_MAX { first } else { last };
        self.owed = Some((first, last));
    }

    fn release(&mut self, through: u64) {
        self.repeats = 0;
        while let Some((_, bytes)) = self.flying.front().copied().filter(|(n, _)| *n <= through) {
            self.flying.pop_front();
            self.flying_bytes -= bytes;
        }
        while self.shelf.front().is_some_and(|output| output.n <= through) {
            self.bytes -= self.shelf.pop_front().map_or(0, |output| output.frame.len());
        }
        self.owed = match self.owed {
            Some((first, last)) if last > through => Some((first.max(through + 1), last)),
            _ => None,
        };
    }

    /// Puts an output on the shelf, if it goes on from what is there and has a place.
    fn put(&mut self, output: &Shelved) {
        let fits = self.shelf.len() < SHELF_MAX && self.bytes + output.frame.len() <= BYTES_MAX;
        let goes_on = self.shelf.back().is_none_or(|last| last.n + 1 == output.n);
        if goes_on && (fits || self.shelf.is_empty()) {
            self.bytes += output.frame.len();
            self.shelf.push_back(output.clone());
        }
    }

    /// Takes outputs that were read, before or after those on the shelf.
    fn restock(&mut self, outputs: &[Shelved]) {
        let Some(first) = outputs.first() else { return };
        let goes_on = self.shelf.back().is_some_and(|last| last.n + 1 == first.n);
        let old = if goes_on {
            VecDeque::new()
        } else {
            std::mem::take(&mut self.shelf)
        };
        self.shelf.extend(outputs.iter().cloned());
        for output in old {
            if self.shelf.back().is_some_and(|last| last.n + 1 == output.n) {
                self.shelf.push_back(output);
            }
        }
        self.bytes = self.shelf.iter().map(|output| output.frame.len()).sum();
    }

    fn wants(&self) -> Option<u64> {
        self.owed.map(|(first, _)| first)
    }

    /// Packs what may leave now.
    fn flush(&mut self, announcement: impl FnOnce() -> Vec<u8>, counts: &Counts) -> (Packer, Flushed) {
        let mut body = Packer::new();
        if std::mem::take(&mut self.announces) {
            let bytes = announcement();
            body.put(|out| out.extend(bytes));
        }
        while let Some((first, last)) = self.owed {
            let begin = self.shelf.front().map_or(u64::MAX, |output| output.n);
            let at = first.checked_sub(begin).and_then(|at| usize::try_from(at).ok());
            let Some(output) = at.and_then(|at| self.shelf.get(at)) else {
                return (body, Flushed::Behind(first - 1));
            };
            let size = output.frame.len();
            if size > FRAME_BYTES_MAX {
                return (body, Flushed::TooLarge);
            }
            let has_room =
                self.flying_bytes + size <= BYTES_MAX && body.len() + size + MESSAGE_OVERHEAD <= FRAME_BYTES_MAX;
            if !has_room && !self.flying.is_empty() || body.len() + size > FRAME_BYTES_MAX {
                break;
            }
            body.put(|out| out.extend_from_slice(&output.frame));
            self.flying.push_back((first, size));
            self.flying_bytes += size;
            self.sent = self.sent.max(first);
            counts.pushed.fetch_add(1, Ordering::Relaxed);
            self.owed = (first < last).then_some((first + 1, last));
        }
        (body, Flushed::Everything)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use meshos_core::id::Origin;
    use meshos_core::parcel;

    use super::*;

    const ENTITY: EntityId = EntityId::from_bytes([9; 32]);
    const READER: Reader = (EntityId::from_bytes([1; 32]), [7; 16]);
    const SECOND: Duration = Duration::from_secs(1);

    struct Nothing;

    impl Shelves for Nothing {
        fn read(&self, _: &Arc<Fed>, _: u64, _: u64) -> Result<Vec<Shelved>, Unread> {
            Err(Unread::Gone)
        }
    }

    impl Hub for Nothing {
        fn mark(&self, _: Arc<Fed>, _: bool) {}
    }

    fn fed(lease: Option<Arc<Lease>>) -> Arc<Fed> {
        let owner = Owner {
            entity: ENTITY,
            epoch: 3,
            lineage: Vec::new(),
            lease,
            published: 0,
            head: Digest::ZERO,
        };
        let hub: Weak<Nothing> = Weak::new();
        Fed::new(owner, Box::new(Nothing), hub, Arc::default())
    }

    fn publish(fed: &Fed, numbers: std::ops::RangeInclusive<u64>, size: usize) {
        for sequence in numbers {
            let link = CausalLink {
                origin: Origin::new(9),
                horizon: 0,
                sequence,
                parent: 0,
            };
            fed.publish(&fed.shelved(link, &vec![0; size]), Digest::ZERO);
        }
    }

    fn follow(fed: &Fed, now: Duration, after: u64) {
        let (entity, epoch) = (ENTITY, 3);
        assert!(fed.hear(&READER, now, &Frame::Follow { entity, epoch, after }));
    }

    fn acknowledge(fed: &Fed, now: Duration, n: u64) {
        let (entity, epoch) = (ENTITY, 3);
        assert!(fed.hear(&READER, now, &Frame::OutAck { entity, epoch, n }));
    }

    /// Numbers of the outputs that a turn has for the reader; `None`: it is told that it is over.
    fn pushed(turned: &Turned) -> Option<Vec<u64>> {
        let mut numbers = Vec::new();
        for (_, body) in &turned.posts {
            match FeedFrame::decode(body).expect("whole").body {
                Body::Outputs(parcel) => {
                    for message in parcel::open(parcel).expect("whole") {
                        if let Frame::Output(output) = Frame::decode(message.expect("whole")).expect("whole") {
                            numbers.push(output.link.sequence);
                        }
                    }
                }
                Body::Over => return None,
                other => panic!("{other:?}"),
            }
        }
        Some(numbers)
    }

    fn followed(lease: Option<Arc<Lease>>) -> Arc<Fed> {
        let fed = fed(lease);
        fed.open(READER, 0, Digest::ZERO, Duration::ZERO);
        assert_eq!(pushed(&fed.turn(Duration::ZERO)), Some(vec![]));
        follow(&fed, Duration::ZERO, 0);
        fed
    }

    #[test]
    fn a_window_of_outputs_leaves_and_what_is_acknowledged_makes_room() {
        let fed = followed(None);
        publish(&fed, 1..=100, 10);
        assert_eq!(pushed(&fed.turn(Duration::ZERO)), Some((1..=64).collect()));
        assert_eq!(pushed(&fed.turn(Duration::ZERO)), Some(vec![]));
        acknowledge(&fed, Duration::ZERO, 10);
        assert_eq!(pushed(&fed.turn(Duration::ZERO)), Some((65..=74).collect()));
    }

    #[test]
    fn bytes_on_their_way_are_bounded_and_one_output_always_has_a_place() {
        let fed = followed(None);
        publish(&fed, 1..=3, BYTES_MAX - 1000);
        // The shelf has room for one of them: the others are to be read, once.
        let turned = fed.turn(Duration::ZERO);
        assert_eq!((pushed(&turned), turned.read), (Some(vec![1]), Some((1, 3))));
        acknowledge(&fed, Duration::ZERO, 1);
        let turned = fed.turn(Duration::ZERO);
        assert_eq!((pushed(&turned), turned.read), (Some(vec![]), None));
        let link = CausalLink {
            origin: Origin::new(9),
            horizon: 0,
            sequence: 2,
            parent: 0,
        };
        fed.was_read(1, Ok(vec![fed.shelved(link, &[0; 10])]));
        let turned = fed.turn(Duration::ZERO);
        assert_eq!((pushed(&turned), turned.read), (Some(vec![2]), Some((2, 3))));
        // What is gone ends it.
        fed.was_read(2, Err(Unread::Gone));
        assert_eq!(pushed(&fed.turn(Duration::ZERO)), None);
        assert!(!fed.has_readers());
    }

    #[test]
    fn who_does_not_answer_is_sent_less_and_forgotten_in_the_end() {
        let fed = followed(None);
        publish(&fed, 1..=100, 10);
        let (mut sent, mut now, mut is_told) = (0, Duration::ZERO, false);
        while now <= SILENT_MAX {
            let turned = fed.turn(now);
            match pushed(&turned) {
                Some(numbers) => sent += numbers.len(),
                None => is_told = true,
            }
            let Some(due) = turned.due else { break };
            now = due.max(now + Duration::from_millis(1));
        }
        assert!(is_told && now >= SILENT_MAX && !fed.has_readers());
        assert!(sent < 64 * 8, "{sent}");
        assert_eq!(fed.counts.forgotten.load(Ordering::Relaxed), 1);
        assert_eq!(fed.counts.open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_asks_whether_it_is_still_known_is_not_forgotten() {
        let fed = followed(None);
        for second in 1..200 {
            let now = SECOND * second;
            assert_eq!(fed.has(&READER, now), Some(true));
            assert_eq!(pushed(&fed.turn(now)), Some(vec![]));
        }
        fed.leave(&READER);
        assert_eq!(fed.has(&READER, SECOND * 200), Some(false));
        assert_eq!(fed.counts.open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn without_a_lease_nothing_leaves_and_after_a_later_term_it_is_over() {
        let node = EntityId::from_bytes([2; 32]);
        let lease = Arc::new(Lease::new(Instant::now(), node));
        let fed = followed(Some(Arc::clone(&lease)));
        publish(&fed, 1..=3, 10);
        let turned = fed.turn(Duration::ZERO);
        assert!(turned.posts.is_empty() && turned.due.is_some_and(|due| due <= LEASE_PAUSE));
        assert_eq!(fed.has(&READER, Duration::ZERO), None);
        lease.renew(3, Duration::MAX);
        assert_eq!(pushed(&fed.turn(Duration::ZERO)), Some(vec![1, 2, 3]));
        lease.fence(node, 5);
        publish(&fed, 4..=4, 10);
        assert_eq!(pushed(&fed.turn(Duration::ZERO)), None);
        assert_eq!(fed.has(&READER, Duration::ZERO), Some(false));
    }
}
