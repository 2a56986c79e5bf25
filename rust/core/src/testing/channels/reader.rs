//! A node whose daemons read channels of other nodes, and publish on them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    BEAT, GATED, Held, Key, Mistake, NODES, PUBLISHERS, Scene, broken, channel_of, daemon_id, daemon_key, daemon_of,
    group_name, moment, name, node_id,
};
use crate::channel_frame::{ChannelFrame, Event, Nonce, Publish, Subscribe};
use crate::name::ChannelName;
use crate::remote_publish::{self, Limits, Requests};
use crate::sealed_channel::{HandedKey, Keyring, NotOpened};
use crate::subscription::{Action, Phase, Signal, Subscription};

/// How long a subscription hears nothing before it asks whether it still is one.
const SILENCE: Duration = Duration::from_secs(3);
/// How long it waits for a key before it asks again.
const KEY_PAUSE: Duration = Duration::from_millis(100);

/// Number on the channel, and content.
type Item = (u64, u64);

struct Sub {
    machine: Subscription<Item>,
    keyring: Keyring,
    is_grouped: bool,
    token: Vec<u8>,
    nonce: Nonce,
    asked_key: Option<Duration>,
    heard: Duration,
}

#[derive(Clone)]
struct Ask {
    key: Key,
    payload: Vec<u8>,
    token: Vec<u8>,
}

pub(super) struct Reader {
    pub node: usize,
    subs: BTreeMap<Key, Sub>,
    /// Durable: where each daemon is, and whether in a group.
    positions: BTreeMap<Key, (bool, (u64, u64))>,
    /// By publisher and daemon.
    tokens: BTreeMap<(usize, usize), Vec<u8>>,
    requests: Requests<Ask>,
    asks: BTreeMap<Nonce, Ask>,
    contents: u64,
    next_beat: Duration,
}

impl Reader {
    pub(super) fn new(node: usize, now: Duration) -> Self {
        Self {
            node,
            subs: BTreeMap::new(),
            positions: BTreeMap::new(),
            tokens: BTreeMap::new(),
            requests: Requests::new(1, Limits::default()),
            asks: BTreeMap::new(),
            contents: (node as u64 + 1) << 32,
            next_beat: now,
        }
    }

    pub(super) fn take_token(&mut self, publisher: usize, daemon: usize, token: Vec<u8>) {
        self.tokens.insert((publisher, daemon), token);
    }

    /// What a daemon shows: mostly its own token, sometimes that of another, or none.
    fn token(&self, key: Key, scene: &mut Scene) -> Vec<u8> {
        if key.1 != GATED || scene.one_in(8) {
            return Vec::new();
        }
        let whose = if scene.one_in(6) { key.2 ^ 1 } else { key.2 };
        self.tokens.get(&(key.0, whose)).cloned().unwrap_or_default()
    }

    // -- what daemons want

    pub(super) fn subscribe(&mut self, key: Key, is_grouped: bool, scene: &mut Scene) -> Held {
        if self.subs.contains_key(&key) {
            return Ok(());
        }
        let forgets = scene.one_in(2);
        let before = self
            .positions
            .get(&key)
            .filter(|(grouped, _)| *grouped == is_grouped && !forgets);
        let token = self.token(key, scene);
        self.begin(key, is_grouped, before.map(|(_, at)| *at), token, scene)
    }

    fn begin(
        &mut self,
        key: Key,
        is_grouped: bool,
        after: Option<(u64, u64)>,
        token: Vec<u8>,
        scene: &mut Scene,
    ) -> Held {
        if after.is_none() {
            self.positions.remove(&key);
            scene.facts.anew(key);
        }
        let nonce = scene.bytes();
        let (machine, actions) = Subscription::begin(nonce, after, scene.wall());
        let sub = Sub {
            machine,
            keyring: Keyring::new(node_id(key.0), name(key.1).clone()),
            is_grouped,
            token,
            nonce,
            asked_key: None,
            heard: scene.now,
        };
        self.subs.insert(key, sub);
        self.act(key, actions, None, scene)
    }

    pub(super) fn unsubscribe(&mut self, key: Key, scene: &mut Scene) -> Held {
        scene.facts.left(key);
        self.step(key, Signal::Unsubscribe, None, scene)
    }

    /// A daemon publishes so many events on a channel of another node.
    pub(super) fn publish(&mut self, key: Key, count: usize, scene: &mut Scene) -> Held {
        for _ in 0..count {
            self.contents += 1;
            let size = if scene.one_in(16) { 100 } else { 16 };
            let mut payload = self.contents.to_le_bytes().to_vec();
            payload.resize(size, 0);
            let token = self.token(key, scene);
            let ask = Ask { key, payload, token };
            let signal = remote_publish::Signal::Publish {
                to: node_id(key.0),
                publisher: daemon_id(key.2),
                bytes: size as u64,
                payload: ask.clone(),
                deadline: scene.soon(4_000_000),
            };
            self.request(signal, Some(ask), scene)?;
        }
        Ok(())
    }

    fn request(&mut self, signal: remote_publish::Signal<Ask>, new: Option<Ask>, scene: &mut Scene) -> Held {
        let mut actions = Vec::new();
        self.requests.step(scene.now, signal, &mut actions);
        for action in actions {
            match action {
                remote_publish::Action::Taken { nonce } => {
                    new.iter().for_each(|ask| drop(self.asks.insert(nonce, ask.clone())));
                }
                remote_publish::Action::Full => return broken("Progress", "there is no room for a request"),
                remote_publish::Action::Send { nonce, .. } => {
                    let ask = self.requests.payload(&nonce).expect("it is under way");
                    let mut request = Publish {
                        nonce,
                        channel: name(ask.key.1).clone(),
                        publisher: daemon_id(ask.key.2),
                        token: ask.token.clone(),
                        proof: None,
                        payload: &ask.payload,
                    };
                    let (owner, daemon) = (ask.key.0, daemon_key(ask.key.2));
                    if !request.token.is_empty() {
                        let signed = request.sign(daemon, &node_id(self.node), &node_id(owner));
                        signed.expect("a full pair");
                    }
                    scene.send(self.node, owner, &ChannelFrame::Publish(request));
                }
                remote_publish::Action::Settled { nonce, outcome } => {
                    let ask = self.asks.remove(&nonce).expect("it was taken in");
                    let (content, _) = ask.payload.split_first_chunk().expect("it begins with its content");
                    let of = (ask.key.0, ask.key.1);
                    scene.facts.settled(u64::from_le_bytes(*content), of, outcome)?;
                }
            }
        }
        Ok(())
    }

    /// What is durable stays: where daemons are, and what they want.
    pub(super) fn crash(&mut self, scene: &mut Scene) -> Held {
        scene.report.crashes += 1;
        scene.runs[self.node] += 1;
        scene.known[self.node] = [0; NODES];
        self.requests = Requests::new(scene.runs[self.node], Limits::default());
        self.asks.clear();
        for (key, sub) in std::mem::take(&mut self.subs) {
            if sub.machine.phase() == Phase::Leaving {
                continue;
            }
            let before = self
                .positions
                .get(&key)
                .filter(|(grouped, _)| *grouped == sub.is_grouped);
            let after = before.map(|(_, at)| *at);
            self.begin(key, sub.is_grouped, after, sub.token, scene)?;
        }
        Ok(())
    }

    /// A publisher runs anew: it has forgotten who reads.
    pub(super) fn restarted(&mut self, from: usize, scene: &mut Scene) -> Held {
        let node = node_id(from);
        if !scene.makes(Mistake::AsksLaterRuns) {
            self.request(remote_publish::Signal::Restarted { node }, None, scene)?;
        }
        for key in self.of(|key, _| key.0 == from) {
            self.ask_anew(key, scene)?;
        }
        Ok(())
    }

    fn of(&self, is_meant: impl Fn(&Key, &Sub) -> bool) -> Vec<Key> {
        let meant = self.subs.iter().filter(|(key, sub)| is_meant(key, sub));
        meant.map(|(key, _)| *key).collect()
    }

    fn ask_anew(&mut self, key: Key, scene: &mut Scene) -> Held {
        let nonce = scene.bytes();
        let Some(sub) = self.subs.get_mut(&key) else {
            return Ok(());
        };
        if sub.machine.phase() != Phase::Reading {
            return Ok(());
        }
        sub.heard = scene.now;
        let (machine, actions) = Subscription::begin(nonce, sub.machine.cursor(), scene.wall());
        sub.machine = machine;
        self.act(key, actions, None, scene)
    }

    // -- what subscriptions want

    fn step(&mut self, key: Key, signal: Signal<Item>, told: Option<(u64, u64)>, scene: &mut Scene) -> Held {
        let fresh = scene.bytes();
        let Some(sub) = self.subs.get_mut(&key) else {
            return Ok(());
        };
        let actions = sub.machine.step(signal, fresh, scene.wall());
        self.act(key, actions, told, scene)
    }

    /// `told` is what the publisher said: a log and a number.
    fn act(&mut self, key: Key, actions: Vec<Action<Item>>, told: Option<(u64, u64)>, scene: &mut Scene) -> Held {
        let (publisher, channel, daemon) = key;
        let mut is_over = false;
        let Some(sub) = self.subs.get_mut(&key) else {
            return Ok(());
        };
        let log = sub.machine.cursor().map_or(0, |(log, _)| log);
        for action in actions {
            match action {
                Action::Subscribe { nonce, after } => {
                    sub.nonce = nonce;
                    let mut asked = Subscribe {
                        nonce,
                        channel: name(channel).clone(),
                        subscriber: daemon_id(daemon),
                        epoch: 1,
                        after,
                        group: sub.is_grouped.then(|| group_name().clone()),
                        token: sub.token.clone(),
                        proof: None,
                    };
                    if !asked.token.is_empty() {
                        let signed = asked.sign(daemon_key(daemon), &node_id(self.node), &node_id(publisher));
                        signed.expect("a full pair");
                    }
                    scene.send(self.node, publisher, &ChannelFrame::Subscribe(asked));
                }
                Action::Leave { nonce } => {
                    sub.nonce = nonce;
                    leave(self.node, key, nonce, scene);
                }
                Action::Repair { log, first, last } => {
                    if !scene.makes(Mistake::NoRepair) {
                        let frame = ChannelFrame::Repair {
                            channel: name(channel).clone(),
                            subscriber: daemon_id(daemon),
                            log,
                            numbers: crate::channel_frame::Gap { first, last },
                        };
                        scene.send(self.node, publisher, &frame);
                    }
                }
                Action::Deliver { sequence, payload } => {
                    scene.report.delivered += 1;
                    scene.facts.delivered(key, sub.is_grouped, sequence, payload)?;
                    if sub.is_grouped {
                        scene.report.turns += 1;
                        taken(self.node, key, log, sequence, scene);
                    }
                }
                Action::TellGap(gap) => {
                    scene.report.gaps += 1;
                    if !scene.makes(Mistake::GapNotTold) {
                        scene.facts.gap(key, sub.is_grouped, gap)?;
                    }
                }
                Action::TellRestart { log, next } => scene.facts.restarted(key, log, next)?,
                Action::TellReading => {
                    let (log, next) = told.expect("it is the answer to a question");
                    scene.facts.reading(key, &sub.nonce, log, next)?;
                }
                Action::TellEnded(_) => is_over = true,
            }
        }
        if let Some(cursor) = sub.machine.cursor() {
            self.positions.insert(key, (sub.is_grouped, cursor));
        }
        if is_over {
            scene.facts.left(key);
            self.subs.remove(&key);
        }
        Ok(())
    }

    // -- what arrives

    fn answered(&self, from: usize, nonce: &Nonce) -> Option<Key> {
        let mut all = self
            .subs
            .iter()
            .filter(|(key, sub)| key.0 == from && sub.nonce == *nonce);
        all.next().map(|(key, _)| *key)
    }

    pub(super) fn hear(&mut self, from: usize, body: &[u8], scene: &mut Scene) -> Held {
        if body.get(1..33) == Some(node_id(from).as_bytes()) {
            return match HandedKey::decode(body) {
                Ok(handed) => self.key(from, &handed),
                Err(_) => broken("Frames", "a key cannot be read"),
            };
        }
        if body.is_empty() || from >= PUBLISHERS {
            return Ok(());
        }
        let Ok(frame) = ChannelFrame::decode(body) else {
            return broken("Frames", "a frame cannot be read");
        };
        let node = node_id(from);
        match frame {
            ChannelFrame::Accepted { nonce, log, next } => match self.answered(from, &nonce) {
                Some(key) => {
                    self.heard(key, scene);
                    self.step(key, Signal::Accepted { nonce, log, next }, Some((log, next)), scene)
                }
                None => Ok(()),
            },
            ChannelFrame::Rejected { nonce, reason } => match self.answered(from, &nonce) {
                Some(key) => self.step(key, Signal::Rejected { nonce, reason }, None, scene),
                None => Ok(()),
            },
            ChannelFrame::Left { nonce } => match self.answered(from, &nonce) {
                Some(key) => self.step(key, Signal::Left { nonce }, None, scene),
                None => Ok(()),
            },
            ChannelFrame::Event { channel, log, event } => {
                for key in self.plain(from, &channel, scene) {
                    self.event(key, log, event.sequence, &event, scene)?;
                }
                Ok(())
            }
            ChannelFrame::Turn {
                channel,
                subscriber,
                term,
                turn,
                event,
            } => self.turn(from, &channel, &subscriber, (term, turn), &event, scene),
            ChannelFrame::Gap { channel, log, gap } => {
                for key in self.plain(from, &channel, scene) {
                    self.step(key, Signal::Gap { log, gap }, None, scene)?;
                }
                Ok(())
            }
            ChannelFrame::Head { channel, log, last } => {
                for key in self.plain(from, &channel, scene) {
                    self.step(key, Signal::Head { log, last }, None, scene)?;
                }
                Ok(())
            }
            ChannelFrame::Ended {
                channel,
                subscriber,
                reason,
            } => match (channel_of(&channel), daemon_of(&subscriber)) {
                (Some(channel), Some(daemon)) => {
                    self.step((from, channel, daemon), Signal::Ended { reason }, None, scene)
                }
                _ => Ok(()),
            },
            ChannelFrame::Published { nonce, sequence } => {
                let signal = remote_publish::Signal::Published {
                    from: node,
                    nonce,
                    sequence,
                };
                self.request(signal, None, scene)
            }
            ChannelFrame::NotPublished { nonce, reason } => {
                let signal = remote_publish::Signal::NotPublished {
                    from: node,
                    nonce,
                    reason,
                };
                self.request(signal, None, scene)
            }
            _ => broken("Frames", "a publisher asks"),
        }
    }

    fn heard(&mut self, key: Key, scene: &Scene) {
        if let Some(sub) = self.subs.get_mut(&key) {
            sub.heard = scene.now;
        }
    }

    /// Those who read a channel alone: something of it was heard.
    fn plain(&mut self, from: usize, channel: &ChannelName, scene: &Scene) -> Vec<Key> {
        let place = (from, channel_of(channel));
        let of_place = |key: &Key| (key.0, Some(key.1)) == place;
        for (_, sub) in self.subs.iter_mut().filter(|(key, _)| of_place(key)) {
            if !sub.is_grouped || scene.makes(Mistake::HeardOfSiblings) {
                sub.heard = scene.now;
            }
        }
        self.of(|key, sub| of_place(key) && !sub.is_grouped)
    }

    fn turn(
        &mut self,
        from: usize,
        channel: &ChannelName,
        subscriber: &crate::id::EntityId,
        (term, turn): (u64, u64),
        event: &Event<'_>,
        scene: &mut Scene,
    ) -> Held {
        let (Some(channel), Some(daemon)) = (channel_of(channel), daemon_of(subscriber)) else {
            return Ok(());
        };
        let key = (from, channel, daemon);
        let Some(sub) = self.subs.get(&key) else {
            // The publisher takes it for a member that it is not.
            if !scene.makes(Mistake::KeepsGhosts) {
                scene.facts.left(key);
                leave(self.node, key, [0; 16], scene);
            }
            return Ok(());
        };
        if !sub.is_grouped {
            return if scene.makes(Mistake::KeepsGhosts) {
                Ok(())
            } else {
                self.ask_anew(key, scene)
            };
        }
        self.heard(key, scene);
        if scene.makes(Mistake::HeardOfSiblings) {
            let _ = self.plain(from, name(channel), scene);
        }
        self.event(key, term, turn, event, scene)
    }

    fn event(&mut self, key: Key, log: u64, number: u64, event: &Event<'_>, scene: &mut Scene) -> Held {
        let Some(sub) = self.subs.get_mut(&key) else {
            return Ok(());
        };
        let cursor = sub.machine.cursor();
        let is_reading = sub.machine.phase() == Phase::Reading;
        let is_repeated = cursor.is_some_and(|(known, last)| known == log && number <= last);
        if let Some((known, last)) = cursor
            && is_repeated
            && is_reading
            && sub.is_grouped
            && !scene.makes(Mistake::TakenOnce)
        {
            taken(self.node, key, known, last, scene);
        }
        let payload = if event.sealed {
            match sub.keyring.open(event.sequence, event.payload) {
                Ok(payload) => payload,
                Err(NotOpened::UnknownGeneration { .. }) => {
                    if is_reading && sub.asked_key.is_none_or(|asked| scene.now >= asked + KEY_PAUSE) {
                        sub.asked_key = Some(scene.now);
                        let frame = ChannelFrame::AskKey {
                            channel: name(key.1).clone(),
                            subscriber: daemon_id(key.2),
                        };
                        scene.send(self.node, key.0, &frame);
                    }
                    return Ok(());
                }
                Err(error) => return broken("Frames", format!("{key:?} cannot open {number}: {error}")),
            }
        } else {
            event.payload.to_vec()
        };
        let (content, _) = payload.split_first_chunk().expect("it begins with its content");
        let item = (event.sequence, u64::from_le_bytes(*content));
        if scene.makes(Mistake::NoDedupe) && is_repeated && is_reading {
            return scene.facts.delivered(key, sub.is_grouped, number, item);
        }
        let signal = Signal::Event {
            log,
            sequence: number,
            bytes: payload.len() as u64,
            payload: item,
        };
        self.step(key, signal, None, scene)
    }

    fn key(&mut self, from: usize, handed: &HandedKey) -> Held {
        let (Some(channel), Some(daemon)) = (channel_of(&handed.channel), daemon_of(&handed.subscriber)) else {
            return Ok(());
        };
        if let Some(sub) = self.subs.get_mut(&(from, channel, daemon))
            && sub.keyring.take(handed, daemon_key(daemon)).is_ok()
        {
            sub.asked_key = None;
        }
        Ok(())
    }

    // -- time

    pub(super) fn wake_at(&self) -> Duration {
        let subs = self.subs.values();
        let due = subs.clone().filter_map(|sub| sub.machine.due()).map(moment);
        let silent = subs.filter(|sub| sub.machine.phase() == Phase::Reading);
        let silent = silent.map(|sub| sub.heard + SILENCE);
        let all = due.chain(silent).chain(self.requests.due()).chain([self.next_beat]);
        all.min().expect("there is the next beat")
    }

    pub(super) fn wake(&mut self, scene: &mut Scene) -> Held {
        let now = scene.now;
        if now >= self.next_beat {
            self.next_beat = now + BEAT;
            (0..PUBLISHERS).for_each(|node| scene.send_bytes(self.node, node, Vec::new()));
        }
        for key in self.of(|_, sub| sub.machine.due().is_some_and(|due| moment(due) <= now)) {
            self.step(key, Signal::Timer, None, scene)?;
        }
        for key in self.of(|_, sub| sub.machine.phase() == Phase::Reading && now >= sub.heard + SILENCE) {
            self.ask_anew(key, scene)?;
        }
        self.request(remote_publish::Signal::Timer, None, scene)
    }

    /// Members of groups, and their terms.
    pub(super) fn members(&self) -> impl Iterator<Item = (Key, u64)> + '_ {
        let members = self.subs.iter().filter(|(_, sub)| sub.is_grouped);
        members.map(|(key, sub)| (*key, sub.machine.cursor().map_or(0, |(term, _)| term)))
    }

    /// Whether everybody is where the publisher of a channel is.
    pub(super) fn is_done(&self, at: impl Fn(usize, usize) -> (u64, u64)) -> bool {
        let is_there = |(key, sub): (&Key, &Sub)| {
            let is_last = sub.is_grouped || sub.machine.cursor() == Some(at(key.0, key.1));
            sub.machine.phase() == Phase::Reading && is_last
        };
        self.requests.is_empty() && self.subs.iter().all(is_there)
    }

    pub(super) fn waits(&self) -> String {
        let subs = self.subs.iter().map(|(key, sub)| {
            let machine = &sub.machine;
            (
                *key,
                sub.is_grouped,
                machine.phase(),
                machine.cursor(),
                machine.due().map(moment),
            )
        });
        format!("{} requests, {:?}", self.requests.len(), subs.collect::<Vec<_>>())
    }
}

fn leave(node: usize, key: Key, nonce: Nonce, scene: &mut Scene) {
    let frame = ChannelFrame::Leave {
        nonce,
        channel: name(key.1).clone(),
        subscriber: daemon_id(key.2),
    };
    scene.send(node, key.0, &frame);
}

fn taken(node: usize, key: Key, term: u64, turn: u64, scene: &mut Scene) {
    let frame = ChannelFrame::Taken {
        channel: name(key.1).clone(),
        subscriber: daemon_id(key.2),
        term,
        turn,
    };
    scene.send(node, key.0, &frame);
}
