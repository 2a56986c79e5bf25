//! The channels that daemons and streams of a node read: what arrives is checked, opened, put in order and handed out.
//!
//! Invariants
//! * Everybody who reads has a [`Subscription`] of their own: what one does or lacks disturbs nobody else.
//! * Who has no room is passed over and counted before anything is taken as arrived, and is sent it again later.
//! * A payload is opened once for all who have the key of its generation.
//! * Who hears nothing of a publisher for long asks anew, from where they were.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshos_core::channel_frame::{ChannelFrame, Event, Gap, Nonce, Reason, Subscribe};
use meshos_core::id::EntityId;
use meshos_core::identity::Keypair;
use meshos_core::name::ChannelName;
use meshos_core::sealed_channel::{HandedKey, Keyring, NotOpened};
use meshos_core::subscription::{Action, Phase, Signal, Subscription};
use meshos_core::time::UnixMs;

use crate::channel_out::Outgoing;
use crate::channel_publisher::{HEAD_MAX, less};
use crate::keys;
use crate::slot::SharedKey;

/// Subscriptions of one node at most.
pub const SUBSCRIPTIONS_MAX: usize = 65_536;

/// How long a publisher may be silent before it is asked anew.
const SILENCE: Duration = HEAD_MAX.saturating_mul(3);
/// How often a key that is lacking is asked for.
const KEY_PAUSE: Duration = Duration::from_millis(100);

/// One event of a channel, as it is handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its number on the channel.
    pub sequence: u64,
    /// The daemon that emitted it; `None`: the node itself.
    pub emitter: Option<EntityId>,
    /// The payload, shared with all who read it here.
    pub payload: Arc<[u8]>,
}

/// Who is handed what arrives. Calls come one after another, on the thread of all meshes: they are short and never wait.
pub trait Sink: Send + Sync {
    /// Whether there is room for one more. Who says no calls [`Channels::has_room`](crate::channels::Channels::has_room)
    /// when there is.
    fn has_room(&self) -> bool;
    /// An event: the life of the numbers, its number there, and it. For a member of a group these are term and turn.
    fn event(&self, log: u64, number: u64, item: Item);
    /// Numbers of this life that do not come any more.
    fn gap(&self, log: u64, gap: Gap);
    /// The publisher began another life of its numbers; `next` is the first to come.
    fn restart(&self, log: u64, next: u64);
    /// The publisher accepted.
    fn reading(&self);
    /// It is over; with a reason, if the publisher wanted it.
    fn ended(&self, reason: Option<Reason>);
}

/// Whose subscription it is, with the key that proves it.
#[derive(Clone)]
pub enum Subscriber {
    /// The node's own.
    Node(Arc<Keypair>),
    /// A daemon's.
    Daemon(EntityId, SharedKey),
}

impl Subscriber {
    /// Its key's public half.
    #[must_use]
    pub fn entity(&self) -> EntityId {
        match self {
            Self::Node(key) => key.entity_id(),
            Self::Daemon(entity, _) => *entity,
        }
    }

    fn with<R>(&self, body: impl FnOnce(&Keypair) -> R) -> R {
        match self {
            Self::Node(key) => body(key),
            Self::Daemon(_, key) => body(&key.lock()),
        }
    }
}

/// What is to be read, by whom.
#[derive(Clone)]
pub struct Wanted {
    /// The node that publishes.
    pub publisher: EntityId,
    /// The channel.
    pub channel: ChannelName,
    /// Who reads.
    pub subscriber: Subscriber,
    /// The term in which this node has the subscriber.
    pub epoch: u64,
    /// What was read before: a life of the numbers, and a number.
    pub after: Option<(u64, u64)>,
    /// The queue group.
    pub group: Option<ChannelName>,
    /// What permits it, as bytes.
    pub token: Vec<u8>,
}

/// What happened to the subscriptions of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReaderCounts {
    /// Events handed out.
    pub delivered: u64,
    /// Events that had arrived before.
    pub duplicates: u64,
    /// Events passed over since there was no room, to be sent again.
    pub crowded: u64,
    /// Numbers that did not come.
    pub missing: u64,
    /// Payloads that could not be opened.
    pub unopened: u64,
    /// Messages that could not be read.
    pub malformed: u64,
}

struct Sub {
    wanted: Wanted,
    machine: Subscription<Item>,
    keyring: Keyring,
    sink: Arc<dyn Sink>,
    due: Option<UnixMs>,
    /// The last number of the present life that was passed over.
    passed: Option<u64>,
    asked_key: Option<Instant>,
    /// The nonce that an answer has to have.
    nonce: Nonce,
    /// Of a member of a group: the last turn that it is done with, and when the publisher was heard about it.
    taken: Option<(u64, u64)>,
    heard: Option<Instant>,
}

#[derive(Default)]
struct Feed {
    subs: Vec<u64>,
    heard: Option<Instant>,
}

type Place = (EntityId, ChannelName);

/// Everything that a node reads.
pub(crate) struct Readers {
    own: EntityId,
    subs: HashMap<u64, Sub>,
    feeds: HashMap<Place, Feed>,
    /// Channels that are read of each publisher.
    publishers: BTreeMap<EntityId, usize>,
    nonces: HashMap<Nonce, u64>,
    due: BTreeSet<(UnixMs, u64)>,
    /// Who lacks what: the last word of each in this turn.
    lacking: BTreeMap<u64, (u64, u64, u64)>,
    made: u64,
    /// As many as read one channel at once, so far.
    widest: usize,
    counts: ReaderCounts,
    looked: Instant,
}

impl Readers {
    pub(crate) fn new(own: EntityId) -> Self {
        Self {
            own,
            subs: HashMap::new(),
            feeds: HashMap::new(),
            publishers: BTreeMap::new(),
            nonces: HashMap::new(),
            due: BTreeSet::new(),
            lacking: BTreeMap::new(),
            made: 0,
            widest: 0,
            counts: ReaderCounts::default(),
            looked: Instant::now(),
        }
    }

    /// Begins to read; `None`: there are as many as may be.
    pub(crate) fn begin(
        &mut self,
        wanted: Wanted,
        sink: Arc<dyn Sink>,
        now: UnixMs,
        out: &mut Outgoing,
    ) -> Option<u64> {
        if self.subs.len() >= SUBSCRIPTIONS_MAX {
            return None;
        }
        self.made += 1;
        let number = self.made;
        let (machine, actions) = Subscription::begin(keys::random_bytes(), wanted.after, now);
        let place = (wanted.publisher, wanted.channel.clone());
        let sub = Sub {
            machine,
            keyring: Keyring::new(place.0, place.1.clone()),
            wanted,
            sink,
            due: None,
            passed: None,
            asked_key: None,
            nonce: [0; 16],
            taken: None,
            heard: None,
        };
        self.subs.insert(number, sub);
        let publisher = place.0;
        let feed = self.feeds.entry(place).or_default();
        if feed.subs.is_empty() {
            *self.publishers.entry(publisher).or_default() += 1;
        }
        feed.subs.push(number);
        self.widest = self.widest.max(feed.subs.len());
        self.act(number, actions, out);
        Some(number)
    }

    /// Ends a subscription; the sink is not told.
    pub(crate) fn end(&mut self, number: u64, now: UnixMs, out: &mut Outgoing) {
        let Some(sub) = self.subs.get(&number) else { return };
        if self.has_sibling(number, sub) {
            // Another of the same subscriber goes on: the publisher sees one.
            self.forget(number);
            return;
        }
        self.step(number, Signal::Unsubscribe, now, out);
    }

    fn has_sibling(&self, number: u64, sub: &Sub) -> bool {
        let place = (sub.wanted.publisher, sub.wanted.channel.clone());
        let who = sub.wanted.subscriber.entity();
        let feed = self.feeds.get(&place);
        feed.into_iter().flat_map(|feed| &feed.subs).any(|other| {
            *other != number
                && self.subs.get(other).is_some_and(|other| {
                    other.wanted.subscriber.entity() == who && other.machine.phase() != Phase::Leaving
                })
        })
    }

    fn forget(&mut self, number: u64) -> Option<Sub> {
        let sub = self.subs.remove(&number)?;
        let place = (sub.wanted.publisher, sub.wanted.channel.clone());
        if let Some(feed) = self.feeds.get_mut(&place) {
            feed.subs.retain(|other| *other != number);
            if feed.subs.is_empty() {
                self.feeds.remove(&place);
                less(&mut self.publishers, &place.0);
            }
        }
        if let Some(due) = sub.due {
            self.due.remove(&(due, number));
        }
        self.nonces.remove(&sub.nonce);
        Some(sub)
    }

    /// Tells every sink that it is over.
    pub(crate) fn close(&mut self) -> Vec<Arc<dyn Sink>> {
        self.feeds.clear();
        self.publishers.clear();
        self.nonces.clear();
        self.due.clear();
        self.subs.drain().map(|(_, sub)| sub.sink).collect()
    }

    fn step(&mut self, number: u64, signal: Signal<Item>, now: UnixMs, out: &mut Outgoing) {
        let Some(sub) = self.subs.get_mut(&number) else { return };
        let needs_nonce = !matches!(signal, Signal::Event { .. });
        let fresh = if needs_nonce || sub.machine.cursor().is_none_or(|(log, _)| is_later(&signal, log)) {
            keys::random_bytes()
        } else {
            sub.nonce
        };
        let before = *sub.machine.counts();
        let actions = sub.machine.step(signal, fresh, now);
        let after = sub.machine.counts();
        self.counts.delivered += after.delivered - before.delivered;
        self.counts.duplicates += after.duplicates - before.duplicates;
        self.counts.crowded += after.crowded - before.crowded;
        self.counts.missing += after.missing - before.missing;
        self.act(number, actions, out);
    }

    fn act(&mut self, number: u64, actions: Vec<Action<Item>>, out: &mut Outgoing) {
        let mut is_over = None;
        if let Some(sub) = self.subs.get_mut(&number) {
            let log = sub.machine.cursor().map_or(0, |(log, _)| log);
            for action in actions {
                match action {
                    Action::Subscribe { nonce, after } => {
                        self.nonces.remove(&sub.nonce);
                        self.nonces.insert(nonce, number);
                        sub.nonce = nonce;
                        let frame = asked(&sub.wanted, nonce, after, &self.own);
                        out.frame(&sub.wanted.publisher, &ChannelFrame::Subscribe(frame));
                    }
                    Action::Leave { nonce } => {
                        self.nonces.remove(&sub.nonce);
                        self.nonces.insert(nonce, number);
                        sub.nonce = nonce;
                        let frame = ChannelFrame::Leave {
                            nonce,
                            channel: sub.wanted.channel.clone(),
                            subscriber: sub.wanted.subscriber.entity(),
                        };
                        out.frame(&sub.wanted.publisher, &frame);
                    }
                    // What is sent again would find no place: it is asked for when there is one.
                    Action::Repair { last, .. } if !sub.sink.has_room() => {
                        sub.passed = sub.passed.max(Some(last));
                    }
                    Action::Repair { log, first, last } => {
                        self.lacking.insert(number, (log, first, last));
                    }
                    Action::Deliver { sequence, payload } => sub.sink.event(log, sequence, payload),
                    Action::TellGap(gap) => sub.sink.gap(log, gap),
                    Action::TellRestart { log, next } => {
                        sub.passed = None;
                        sub.sink.restart(log, next);
                    }
                    Action::TellReading => sub.sink.reading(),
                    Action::TellEnded(reason) => is_over = Some(reason),
                }
            }
            let due = sub.machine.due();
            if due != sub.due {
                if let Some(before) = sub.due {
                    self.due.remove(&(before, number));
                }
                if let Some(due) = due {
                    self.due.insert((due, number));
                }
                sub.due = due;
            }
        }
        if let Some(reason) = is_over
            && let Some(sub) = self.forget(number)
        {
            sub.sink.ended(reason);
        }
    }

    /// Asks for what is missing. What is sent again goes to all who read here, so of those who lack the same one asks.
    pub(crate) fn ask_for_repairs(&mut self, out: &mut Outgoing) {
        let mut asked = BTreeSet::new();
        for (number, (log, first, last)) in std::mem::take(&mut self.lacking) {
            let Some(sub) = self.subs.get(&number) else { continue };
            let cursor = sub
                .machine
                .cursor()
                .map_or(0, |(known, cursor)| if known == log { cursor } else { last });
            let first = first.max(cursor.saturating_add(1));
            let channel = sub.wanted.channel.clone();
            if first > last || !asked.insert((sub.wanted.publisher, channel.clone(), log, first, last)) {
                continue;
            }
            let frame = ChannelFrame::Repair {
                channel,
                subscriber: sub.wanted.subscriber.entity(),
                log,
                numbers: Gap { first, last },
            };
            out.frame(&sub.wanted.publisher, &frame);
        }
    }

    /// What time brings.
    pub(crate) fn turn(&mut self, now: UnixMs, at: Instant, out: &mut Outgoing) {
        while let Some((due, number)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, number));
            if let Some(sub) = self.subs.get_mut(&number) {
                sub.due = None;
            }
            self.step(number, Signal::Timer, now, out);
        }
        if !self.feeds.is_empty() && at >= self.looked + SILENCE / 3 {
            self.looked = at;
            let is_silent = |feed: &Feed| feed.heard.is_none_or(|heard| at > heard + SILENCE);
            let silent = self.feeds.iter().filter(|(_, feed)| is_silent(feed));
            let mut silent: BTreeSet<u64> = silent.flat_map(|(_, feed)| feed.subs.clone()).collect();
            // What others here hear of the channel says nothing about a member of a group.
            let is_silent = |sub: &Sub| sub.heard.is_none_or(|heard| at > heard + SILENCE);
            let members = self
                .subs
                .iter()
                .filter(|(_, sub)| sub.wanted.group.is_some() && is_silent(sub));
            silent.extend(members.map(|(number, _)| *number));
            silent.into_iter().for_each(|number| self.ask_anew(number, now, out));
        }
    }

    /// When [`turn`](Self::turn) has something to do: by the clock of subscriptions, and by the instant.
    pub(crate) fn due(&self) -> (Option<UnixMs>, Option<Instant>) {
        let look = (!self.feeds.is_empty()).then(|| self.looked + SILENCE / 3);
        (self.due.first().map(|(due, _)| *due), look)
    }

    /// The publishers that are read.
    pub(crate) fn publishers(&self) -> impl Iterator<Item = &EntityId> {
        self.publishers.keys()
    }

    /// A publisher is there again: it may have forgotten who reads.
    pub(crate) fn returned(&mut self, publisher: &EntityId, now: UnixMs, out: &mut Outgoing) {
        let feeds = self.feeds.iter().filter(|((of, _), _)| of == publisher);
        let subs: Vec<u64> = feeds.flat_map(|(_, feed)| feed.subs.clone()).collect();
        subs.into_iter().for_each(|number| self.ask_anew(number, now, out));
    }

    fn ask_anew(&mut self, number: u64, now: UnixMs, out: &mut Outgoing) {
        let Some(sub) = self.subs.get_mut(&number) else { return };
        if sub.machine.phase() != Phase::Reading {
            return;
        }
        let (machine, actions) = Subscription::begin(keys::random_bytes(), sub.machine.cursor(), now);
        sub.machine = machine;
        self.act(number, actions, out);
    }

    /// A sink has room again.
    pub(crate) fn has_room(&mut self, number: u64, now: UnixMs, out: &mut Outgoing) {
        let Some(sub) = self.subs.get_mut(&number) else { return };
        if !sub.sink.has_room() {
            return;
        }
        let (Some(last), Some((log, _))) = (sub.passed.take(), sub.machine.cursor()) else {
            return;
        };
        let before = sub.machine.due();
        self.step(number, Signal::Head { log, last }, now, out);
        // What was asked for before came, and was passed over: it is asked for again, and at once.
        let due = self.subs.get(&number).and_then(|sub| sub.machine.due());
        if let Some(due) = due
            && before == Some(due)
        {
            self.step(number, Signal::Timer, now.max(due), out);
        }
    }

    /// How far a subscription has come.
    pub(crate) fn cursor(&self, number: u64) -> Option<(u64, u64)> {
        self.subs.get(&number)?.machine.cursor()
    }

    /// Says how far a member of a group is.
    pub(crate) fn taken(&mut self, number: u64, term: u64, turn: u64, out: &mut Outgoing) {
        let Some(sub) = self.subs.get_mut(&number) else { return };
        sub.taken = sub.taken.max(Some((term, turn)));
        let frame = ChannelFrame::Taken {
            channel: sub.wanted.channel.clone(),
            subscriber: sub.wanted.subscriber.entity(),
            term,
            turn,
        };
        out.frame(&sub.wanted.publisher, &frame);
    }

    fn answered(&mut self, from: &EntityId, nonce: &Nonce) -> Option<u64> {
        let number = *self.nonces.get(nonce)?;
        let sub = self.subs.get_mut(&number)?;
        if sub.wanted.publisher != *from {
            return None;
        }
        sub.heard = Some(Instant::now());
        let place = (*from, sub.wanted.channel.clone());
        if let Some(feed) = self.feeds.get_mut(&place) {
            feed.heard = Some(Instant::now());
        }
        Some(number)
    }

    /// Takes in a frame of a publisher.
    pub(crate) fn frame(
        &mut self,
        from: &EntityId,
        frame: ChannelFrame<'_>,
        (now, at): (UnixMs, Instant),
        out: &mut Outgoing,
    ) {
        match frame {
            ChannelFrame::Accepted { nonce, log, next } => {
                if let Some(number) = self.answered(from, &nonce) {
                    self.step(number, Signal::Accepted { nonce, log, next }, now, out);
                }
            }
            ChannelFrame::Rejected { nonce, reason } => {
                if let Some(number) = self.answered(from, &nonce) {
                    self.step(number, Signal::Rejected { nonce, reason }, now, out);
                }
            }
            ChannelFrame::Left { nonce } => {
                if let Some(number) = self.answered(from, &nonce) {
                    self.step(number, Signal::Left { nonce }, now, out);
                }
            }
            ChannelFrame::Turn {
                channel,
                subscriber,
                term,
                turn,
                event,
            } => {
                let place = (*from, channel);
                let is_for = |sub: &Sub| sub.wanted.group.is_some() && sub.wanted.subscriber.entity() == subscriber;
                let readers = self.readers(&place, at, is_for);
                if readers.is_empty() {
                    self.stray_turn(&place, subscriber, (now, at), out);
                }
                for number in &readers {
                    if let Some(sub) = self.subs.get_mut(number) {
                        sub.heard = Some(at);
                    }
                }
                self.event(&place, &readers, (term, turn), &event, (now, at), out);
            }
            ChannelFrame::Gap { channel, log, gap } => {
                for number in self.readers(&(*from, channel), at, |sub| sub.wanted.group.is_none()) {
                    self.step(number, Signal::Gap { log, gap }, now, out);
                }
            }
            ChannelFrame::Head { channel, log, last } => {
                for number in self.readers(&(*from, channel), at, |sub| sub.wanted.group.is_none()) {
                    self.head(number, log, last, now, out);
                }
            }
            ChannelFrame::Ended {
                channel,
                subscriber,
                reason,
            } => {
                let is_of = |sub: &Sub| sub.wanted.subscriber.entity() == subscriber;
                for number in self.readers(&(*from, channel), at, is_of) {
                    self.step(number, Signal::Ended { reason }, now, out);
                }
            }
            _ => self.counts.malformed += 1,
        }
    }

    /// Takes in an event of a channel, for everybody here who reads it.
    pub(crate) fn event_of(
        &mut self,
        place: &Place,
        log: u64,
        event: &Event<'_>,
        times: (UnixMs, Instant),
        out: &mut Outgoing,
    ) {
        let readers = self.readers(place, times.1, |sub| sub.wanted.group.is_none());
        self.event(place, &readers, (log, event.sequence), event, times, out);
    }

    fn readers(&mut self, place: &Place, at: Instant, is_meant: impl Fn(&Sub) -> bool) -> Vec<u64> {
        let Some(feed) = self.feeds.get_mut(place) else {
            return Vec::new();
        };
        feed.heard = Some(at);
        let meant = feed.subs.iter().copied();
        meant
            .filter(|number| self.subs.get(number).is_some_and(&is_meant))
            .collect()
    }

    /// A turn came for who is no member of a group here: the publisher takes it for one.
    fn stray_turn(&mut self, place: &Place, subscriber: EntityId, (now, at): (UnixMs, Instant), out: &mut Outgoing) {
        let alone = self.readers(place, at, |sub| sub.wanted.subscriber.entity() == subscriber);
        if alone.is_empty() {
            let frame = ChannelFrame::Leave {
                nonce: keys::random_bytes(),
                channel: place.1.clone(),
                subscriber,
            };
            out.frame(&place.0, &frame);
        }
        for number in alone {
            self.ask_anew(number, now, out);
        }
    }

    fn head(&mut self, number: u64, log: u64, last: u64, now: UnixMs, out: &mut Outgoing) {
        let Some(sub) = self.subs.get_mut(&number) else { return };
        let known = sub.machine.cursor().map_or(0, |(log, _)| log);
        if log == known && !sub.sink.has_room() {
            sub.passed = sub.passed.max(Some(last));
            return;
        }
        self.step(number, Signal::Head { log, last }, now, out);
    }

    fn event(
        &mut self,
        place: &Place,
        readers: &[u64],
        (log, number_there): (u64, u64),
        event: &Event<'_>,
        (now, at): (UnixMs, Instant),
        out: &mut Outgoing,
    ) {
        let mut opened: Option<Arc<[u8]>> = None;
        for number in readers {
            let Some(sub) = self.subs.get_mut(number) else { continue };
            let cursor = sub.machine.cursor();
            if cursor.is_some_and(|(known, last)| known == log && number_there <= last) {
                self.counts.duplicates += 1;
                // The publisher lacks the word that it was taken.
                if let Some((term, turn)) = sub.taken.filter(|(term, turn)| *term == log && *turn >= number_there) {
                    self.taken(*number, term, turn, out);
                }
                continue;
            }
            if sub.machine.phase() == Phase::Reading
                && cursor.is_some_and(|(known, _)| known == log)
                && !sub.sink.has_room()
            {
                sub.passed = sub.passed.max(Some(number_there));
                self.counts.crowded += 1;
                continue;
            }
            let payload = match &opened {
                Some(payload) if !event.sealed => Arc::clone(payload),
                _ if !event.sealed => Arc::clone(opened.insert(Arc::from(event.payload))),
                known => match open(&sub.keyring, event, known.as_ref()) {
                    Ok(payload) => Arc::clone(opened.insert(payload)),
                    Err(NotOpened::UnknownGeneration { .. }) => {
                        sub.passed = sub.passed.max(Some(number_there));
                        if sub.asked_key.is_none_or(|asked| at >= asked + KEY_PAUSE) {
                            sub.asked_key = Some(at);
                            let frame = ChannelFrame::AskKey {
                                channel: place.1.clone(),
                                subscriber: sub.wanted.subscriber.entity(),
                            };
                            out.frame(&place.0, &frame);
                        }
                        continue;
                    }
                    Err(_) => {
                        self.counts.unopened += 1;
                        continue;
                    }
                },
            };
            let item = Item {
                sequence: event.sequence,
                emitter: event.emitter,
                payload,
            };
            let bytes = item.payload.len() as u64;
            let signal = Signal::Event {
                log,
                sequence: number_there,
                bytes,
                payload: item,
            };
            self.step(*number, signal, now, out);
        }
    }

    /// Takes a key that a publisher handed over.
    pub(crate) fn key(&mut self, from: &EntityId, handed: &HandedKey, now: UnixMs, out: &mut Outgoing) {
        let place = (*from, handed.channel.clone());
        let is_for = |sub: &Sub| sub.wanted.subscriber.entity() == handed.subscriber;
        for number in self.readers(&place, Instant::now(), is_for) {
            let Some(sub) = self.subs.get_mut(&number) else {
                continue;
            };
            let subscriber = sub.wanted.subscriber.clone();
            let taken = subscriber.with(|key| sub.keyring.take(handed, key));
            match taken {
                Ok(true) => {
                    sub.asked_key = None;
                    self.has_room(number, now, out);
                }
                Ok(false) => {}
                Err(_) => self.counts.unopened += 1,
            }
        }
    }

    pub(crate) const fn malformed(&mut self) {
        self.counts.malformed += 1;
    }

    /// How many subscriptions there are, and what happened to them.
    /// As many as read one channel at once, so far.
    pub(crate) const fn widest(&self) -> usize {
        self.widest
    }

    pub(crate) fn counts(&self) -> (usize, ReaderCounts) {
        (self.subs.len(), self.counts)
    }
}

fn is_later(signal: &Signal<Item>, known: u64) -> bool {
    matches!(signal, Signal::Event { log, .. } if *log > known)
}

fn asked(wanted: &Wanted, nonce: Nonce, after: Option<(u64, u64)>, own: &EntityId) -> Subscribe {
    let mut asked = Subscribe {
        nonce,
        channel: wanted.channel.clone(),
        subscriber: wanted.subscriber.entity(),
        epoch: wanted.epoch,
        after,
        group: wanted.group.clone(),
        token: wanted.token.clone(),
        proof: None,
    };
    if !asked.token.is_empty() {
        // Without its secret half nobody believes it, which the publisher says.
        let _ = wanted.subscriber.with(|key| asked.sign(key, own, &wanted.publisher));
    }
    asked
}

/// Opens a payload for who has its key; another who has it may have done so.
fn open(keyring: &Keyring, event: &Event<'_>, opened: Option<&Arc<[u8]>>) -> Result<Arc<[u8]>, NotOpened> {
    if let Some(opened) = opened {
        let sealed = meshos_core::sealed_channel::Sealed::decode(event.payload)?;
        let generation = sealed.generation;
        return if keyring.generations().any(|known| known == generation) {
            Ok(Arc::clone(opened))
        } else {
            Err(NotOpened::UnknownGeneration { generation })
        };
    }
    keyring.open(event.sequence, event.payload).map(Arc::from)
}
