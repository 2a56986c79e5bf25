//! A channel read without a daemon: what arrived waits in a bounded queue for one reader.
//!
//! Invariants
//! * At most `buffer_max` items wait, and what came too early for the last of them. Beyond that nothing is taken as
//!   arrived: it is sent again when there is room, or is a gap when its publisher does not keep it any more.
//! * Items come out in order, each once. After the last of them the end is told.
//! * Who waits is woken once for all that came; nothing of the reader's runs on the thread of all meshes.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use meshos_core::channel_frame::{Gap, Reason};
use meshos_core::id::EntityId;
use meshos_core::name::ChannelName;

use crate::channel_reader::{Item, Sink, Subscriber, Wanted};
use crate::channels::{Channels, PublishError};
use crate::clock::Deadline;
use crate::lane::{Job, Lanes};
use crate::reactor;
use crate::sync::{Condvar, Mutex};

/// How long a publisher may take to answer who subscribes, unless told otherwise.
pub const ANSWER: Duration = Duration::from_secs(5);

/// What comes out of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrived {
    /// An event.
    Event(Item),
    /// Numbers that do not come.
    Gap(Gap),
}

/// Why a wait ended without an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoItem {
    /// The time is over.
    Timeout,
    /// Whoever waited does not want to any more.
    Interrupted,
    /// There will be none: why, if the publisher wanted it.
    Ended(Option<Reason>),
}

/// Why a subscription did not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotSubscribed {
    /// The publisher says no.
    Rejected(Reason),
    /// The publisher did not answer in time.
    Unavailable,
    /// Whoever waited does not want to any more.
    Interrupted,
    /// The node has as many subscriptions as may be, or is closed.
    Refused(PublishError),
}

/// Waits for what a publisher answers.
#[derive(Default)]
pub(crate) struct Answer {
    told: Mutex<Option<Result<(), Option<Reason>>>>,
    changed: Condvar,
}

impl Answer {
    /// The publisher's first word counts.
    pub(crate) fn tell(&self, answer: Result<(), Option<Reason>>) {
        let mut told = self.told.lock();
        if told.is_none() {
            *told = Some(answer);
            drop(told);
            self.changed.notify_all();
        }
    }

    /// Why it is not to be, if that was said.
    pub(crate) fn refusal(&self) -> Option<Reason> {
        self.told.lock().and_then(Result::err).flatten()
    }

    /// Waits for it; no lock is held while `is_interrupted` is asked.
    pub(crate) fn wait(
        &self,
        deadline: Deadline,
        is_interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<(), NotSubscribed> {
        loop {
            let told = self.told.lock();
            match *told {
                Some(Ok(())) => return Ok(()),
                Some(Err(Some(reason))) => return Err(NotSubscribed::Rejected(reason)),
                Some(Err(None)) => return Err(NotSubscribed::Refused(PublishError::Closed)),
                None if deadline.passed() => return Err(NotSubscribed::Unavailable),
                None => {}
            }
            drop(self.changed.wait_until(told, deadline.slice()));
            if is_interrupted() {
                return Err(NotSubscribed::Interrupted);
            }
        }
    }
}

#[derive(Default)]
struct State {
    items: VecDeque<Arrived>,
    ended: Option<Option<Reason>>,
    /// Somebody found no room since the reader took something out.
    is_full: bool,
    /// The reader waits on its thread.
    is_waiting: bool,
    /// The reader waits elsewhere: what is to be run, and where.
    bell: Option<(Lanes, Arc<dyn Job>)>,
}

struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    items_max: usize,
    answer: Answer,
}

/// A stream of what arrives on one channel.
pub struct ChannelStream {
    queue: Arc<Queue>,
    channels: Channels,
    number: OnceLock<u64>,
}

impl Queue {
    fn put(&self, item: Arrived) {
        let mut state = self.state.lock();
        if state.items.is_empty() {
            reactor::awaited();
        }
        state.items.push_back(item);
        let (waiting, bell) = (std::mem::take(&mut state.is_waiting), state.bell.take());
        drop(state);
        self.ring(waiting, bell);
    }

    fn ring(&self, waiting: bool, bell: Option<(Lanes, Arc<dyn Job>)>) {
        if waiting {
            self.changed.notify_all();
        }
        if let Some((lanes, job)) = bell {
            lanes.submit(job);
        }
    }
}

impl Sink for Queue {
    fn has_room(&self) -> bool {
        let mut state = self.state.lock();
        let has_room = state.items.len() < self.items_max;
        state.is_full |= !has_room;
        has_room
    }

    fn event(&self, _log: u64, _number: u64, item: Item) {
        self.put(Arrived::Event(item));
    }

    fn gap(&self, _log: u64, gap: Gap) {
        self.put(Arrived::Gap(gap));
    }

    fn restart(&self, _log: u64, next: u64) {
        if next > 1 {
            let (first, last) = (1, next - 1);
            self.put(Arrived::Gap(Gap { first, last }));
        }
    }

    fn reading(&self) {
        self.answer.tell(Ok(()));
    }

    fn ended(&self, reason: Option<Reason>) {
        self.answer.tell(Err(reason));
        let mut state = self.state.lock();
        state.ended = state.ended.or(Some(reason));
        let (waiting, bell) = (std::mem::take(&mut state.is_waiting), state.bell.take());
        drop(state);
        self.ring(waiting, bell);
    }
}

impl ChannelStream {
    /// Subscribes as the node, from now on, and waits until the publisher accepted.
    ///
    /// # Errors
    /// [`NotSubscribed`].
    pub fn open(
        channels: &Channels,
        publisher: EntityId,
        channel: &ChannelName,
        token: Vec<u8>,
        items_max: usize,
        deadline: Deadline,
        is_interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Self, NotSubscribed> {
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            changed: Condvar::new(),
            items_max: items_max.max(1),
            answer: Answer::default(),
        });
        let wanted = Wanted {
            publisher,
            channel: channel.clone(),
            subscriber: Subscriber::Node(Arc::clone(channels.key())),
            epoch: 1,
            after: None,
            group: None,
            token,
        };
        let stream = Self {
            queue: Arc::clone(&queue),
            channels: channels.clone(),
            number: OnceLock::new(),
        };
        let number = channels
            .subscribe(wanted, queue.clone())
            .map_err(NotSubscribed::Refused)?;
        let _ = stream.number.set(number);
        // Dropped where it did not begin, it takes the question back.
        queue.answer.wait(deadline, is_interrupted)?;
        Ok(stream)
    }

    /// Takes up to `most` items out, waiting for the first. No lock is held while `is_interrupted` is asked.
    ///
    /// # Errors
    /// [`NoItem`].
    pub fn take(
        &self,
        most: usize,
        deadline: Deadline,
        is_interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<Arrived>, NoItem> {
        loop {
            let mut state = self.queue.state.lock();
            if !state.items.is_empty() {
                return Ok(self.taken(state, most));
            }
            if let Some(reason) = state.ended {
                return Err(NoItem::Ended(reason));
            }
            if deadline.passed() {
                return Err(NoItem::Timeout);
            }
            state.is_waiting = true;
            state = self.queue.changed.wait_until(state, deadline.slice());
            state.is_waiting = false;
            if state.items.is_empty() {
                drop(state);
                if is_interrupted() {
                    return Err(NoItem::Interrupted);
                }
            }
        }
    }

    fn taken(&self, mut state: std::sync::MutexGuard<'_, State>, most: usize) -> Vec<Arrived> {
        let items: Vec<Arrived> = if state.items.len() <= most {
            std::mem::take(&mut state.items).into()
        } else {
            state.items.drain(..most).collect()
        };
        let asks = state.is_full && state.items.len() <= self.queue.items_max / 2;
        if asks {
            state.is_full = false;
        }
        drop(state);
        if let Some(number) = self.number.get().filter(|_| asks) {
            self.channels.has_room(*number);
        }
        items
    }

    /// Has a job run on a lane when something is there; `false`: something is there already. The newest such wish counts.
    #[must_use]
    pub fn when_there(&self, lanes: &Lanes, job: Arc<dyn Job>) -> bool {
        let mut state = self.queue.state.lock();
        if !state.items.is_empty() || state.ended.is_some() {
            return false;
        }
        let before = state.bell.replace((lanes.clone(), job));
        drop(state);
        drop(before);
        true
    }

    /// Ends it: who waits is told. Does nothing the second time.
    pub fn close(&self) {
        if let Some(number) = self.number.get() {
            self.channels.unsubscribe(*number);
        }
        self.queue.ended(None);
        let items = std::mem::take(&mut self.queue.state.lock().items);
        drop(items);
    }
}

impl Drop for ChannelStream {
    fn drop(&mut self) {
        self.close();
    }
}
