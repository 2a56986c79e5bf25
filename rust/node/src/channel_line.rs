//! Events of one channel on their way to one daemon.
//!
//! Invariants
//! * At most [`WAITING_MAX`] of them wait for the daemon at a time. Beyond that nothing is taken as arrived, and it is sent
//!   again when there is room.
//! * What a full mailbox does not take waits here, and goes before what comes later.
//! * A member of a queue group is done with a turn when its event took effect, and is kept where steps are.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use meshos_core::id::{EntityId, Origin};
use meshos_core::ingress::EventKey;
use meshos_core::name::ChannelName;
use meshos_core::source::Source;

use crate::channel_reader::Item;
use crate::channels::{Channels, WeakChannels};
use crate::daemon::Daemon;
use crate::lane::{Job, Lanes};
use crate::linked::Mailed;
use crate::mailbox::Heard;
use crate::slot::Slot;
use crate::sync::Mutex;

/// Events of one channel that wait for one daemon at most.
pub const WAITING_MAX: usize = 4_096;
/// How long a full mailbox is left alone.
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Default)]
struct State {
    /// The subscription that brings them.
    subscription: Option<u64>,
    /// Where those of the present life come from.
    source: Option<(u64, Arc<Source>)>,
    /// In the mailbox, or on their way through the daemon.
    open: usize,
    /// Those that the mailbox did not take.
    waiting: VecDeque<(EventKey, Arc<[u8]>, Arc<Source>)>,
    /// Somebody found no room since there was some.
    is_full: bool,
    is_gone: bool,
}

/// The way of one channel to one daemon.
pub(crate) struct Line<D: Daemon> {
    pub(crate) slot: Weak<Slot<D>>,
    pub(crate) channel: ChannelName,
    pub(crate) publisher: EntityId,
    origin: Origin,
    is_member: bool,
    lanes: Lanes,
    channels: WeakChannels,
    state: Mutex<State>,
    me: Weak<Self>,
}

impl<D: Daemon> Line<D> {
    pub(crate) fn new(
        slot: &Arc<Slot<D>>,
        publisher: EntityId,
        channel: &ChannelName,
        is_member: bool,
        channels: &Channels,
        lanes: &Lanes,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            slot: Arc::downgrade(slot),
            channel: channel.clone(),
            publisher,
            origin: publisher.origin(),
            is_member,
            lanes: lanes.clone(),
            channels: channels.downgrade(),
            state: Mutex::default(),
            me: me.clone(),
        })
    }

    /// Says which subscription brings what comes from now on.
    pub(crate) fn brought_by(&self, subscription: u64) {
        self.state.lock().subscription = Some(subscription);
    }

    /// Whether the daemon is a member of a queue group here.
    pub(crate) const fn is_member(&self) -> bool {
        self.is_member
    }

    pub(crate) fn has_room(&self) -> bool {
        let mut state = self.state.lock();
        let has_room = state.open < WAITING_MAX && state.waiting.is_empty();
        state.is_full |= !has_room;
        has_room
    }

    pub(crate) fn event(&self, log: u64, number: u64, item: &Item) {
        let mut state = self.state.lock();
        if state.is_gone {
            return;
        }
        let known = state.source.clone().filter(|(_, source)| source.log == log);
        let (stream, source) = known.unwrap_or_else(|| {
            let source = Arc::new(Source {
                publisher: self.publisher,
                log,
                channel: self.channel.clone(),
            });
            (source.stream(), source)
        });
        let key = EventKey {
            origin: self.origin,
            stream,
            sequence: number,
        };
        state.open += 1;
        if state.waiting.is_empty() && self.mailed(&mut state, key, &item.payload, &source) {
            state.source = Some((stream, source));
            return;
        }
        if !state.is_gone {
            let is_first = state.waiting.is_empty();
            state
                .waiting
                .push_back((key, Arc::clone(&item.payload), Arc::clone(&source)));
            state.source = Some((stream, source));
            drop(state);
            if is_first {
                self.later();
            }
        }
    }

    /// Puts an event into the mailbox; `false`: it is full, or gone.
    fn mailed(&self, state: &mut State, key: EventKey, payload: &Arc<[u8]>, source: &Arc<Source>) -> bool {
        let Some(slot) = self.slot.upgrade() else {
            state.is_gone = true;
            return false;
        };
        let Some(me) = self.me.upgrade() else { return false };
        let heard = Arc::new(Way {
            line: me,
            log: source.log,
        });
        match slot.post_channel(&self.lanes, key, payload, source, heard) {
            Mailed::Taken | Mailed::Repeated => true,
            Mailed::Full => false,
            Mailed::Gone => {
                state.is_gone = true;
                state.waiting.clear();
                false
            }
        }
    }

    fn later(&self) {
        if let Some(me) = self.me.upgrade() {
            self.lanes.submit_at(Instant::now() + PAUSE, me);
        }
    }

    fn done(&self) {
        let mut state = self.state.lock();
        state.open = state.open.saturating_sub(1);
        let asks = state.is_full && state.waiting.is_empty() && state.open <= WAITING_MAX / 2;
        if asks {
            state.is_full = false;
        }
        let subscription = state.subscription;
        drop(state);
        self.ask(subscription.filter(|_| asks));
    }

    fn ask(&self, subscription: Option<u64>) {
        if let (Some(subscription), Some(channels)) = (subscription, self.channels.upgrade()) {
            channels.has_room(subscription);
        }
    }
}

impl<D: Daemon> Job for Line<D> {
    /// Tries again what a full mailbox did not take.
    fn run(self: Arc<Self>) {
        let mut state = self.state.lock();
        while let Some((key, payload, source)) = state.waiting.pop_front() {
            if self.mailed(&mut state, key, &payload, &source) {
                continue;
            }
            if !state.is_gone {
                state.waiting.push_front((key, payload, source));
                drop(state);
                return self.later();
            }
        }
        let asks = state.is_full && state.open <= WAITING_MAX / 2;
        let subscription = state.subscription.filter(|_| asks);
        drop(state);
        self.ask(subscription);
    }
}

/// What hears of the events of one life.
struct Way<D: Daemon> {
    line: Arc<Line<D>>,
    log: u64,
}

impl<D: Daemon> Heard for Way<D> {
    fn taken(&self, number: u64) {
        let subscription = self.line.state.lock().subscription;
        if let Some(subscription) = subscription.filter(|_| self.line.is_member)
            && let Some(channels) = self.line.channels.upgrade()
        {
            channels.taken(subscription, self.log, number);
        }
        self.line.done();
    }

    fn lost(&self, _number: u64) {
        self.line.done();
    }
}
