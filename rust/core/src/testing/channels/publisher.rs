//! A node that publishes: its logs, who reads them, its keys, and what others publish on its channels.

mod groups;
mod members;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::facts::SWEEP;
use super::{
    BEAT, CHANNELS, DAEMONS, GATED, Held, Key, LOST_AFTER, Mistake, NODES, PUBLISHERS, Scene, channel_of, daemon_id,
    daemon_of, name, node_id, node_key, node_of,
};
use crate::channel_frame::{ChannelFrame, Event, Gap, Publish, Unpublished};
use crate::channel_keys::{self, ChannelKeys};
use crate::channel_log::{ChannelLog, Logged};
use crate::channel_policy::ChannelPolicy;
use crate::id::EntityId;
use crate::queue_group::Signal;
use crate::remote_publish::{Answers, Asked, Memory};
use crate::revocation::{Revocation, Revocations, Target};
use crate::roster::{Change, Limits, Roster};
use crate::sealed_channel::{ChannelKey, Place, seal};
use crate::token::{PermissionToken, Right, Scope, Terms};

use groups::Group;

/// Payloads that a channel takes.
const PAYLOAD_MAX: u64 = 64;
const QUIET: Duration = Duration::from_millis(20);
const HEAD_MAX: Duration = Duration::from_secs(1);

struct Keys {
    machine: ChannelKeys,
    key: ChannelKey,
}

struct Channel {
    life: u64,
    log: ChannelLog,
    group: Option<Group>,
    keys: Option<Keys>,
    /// When it says next how far its numbers go, and how long it waits then.
    head: (Duration, Duration),
}

pub(super) struct Publisher {
    pub node: usize,
    roster: Roster,
    revocations: Revocations,
    channels: [Channel; CHANNELS],
    answers: Answers,
    heard: [Duration; NODES],
    gone: [bool; NODES],
    next_beat: Duration,
    next_sweep: Duration,
    lives: u64,
    contents: u64,
}

fn content_of(logged: &Logged) -> u64 {
    let (content, _) = logged
        .payload
        .split_first_chunk()
        .expect("a payload begins with its content");
    u64::from_le_bytes(*content)
}

impl Publisher {
    pub(super) fn new(node: usize, scene: &mut Scene) -> Self {
        Self::begin(node, Revocations::default(), 0, (node as u64 + 1) << 32, scene)
    }

    fn begin(node: usize, revocations: Revocations, lives: u64, contents: u64, scene: &mut Scene) -> Self {
        let mut roster = Roster::new(node_id(node), Limits::default());
        let mut lives = lives;
        let channels = [0, 1].map(|channel| {
            let policy = ChannelPolicy {
                requires_token: channel == GATED,
                retain_bytes_max: 2_400,
                payload_bytes_max: PAYLOAD_MAX,
                ..ChannelPolicy::default()
            };
            let opened = roster.open(name(channel), policy.clone(), scene.wall(), &revocations);
            opened.expect("there is room");
            let keys = (channel == GATED).then(|| Keys {
                machine: ChannelKeys::open(scene.wall().get()).0,
                key: ChannelKey::new(scene.bytes()),
            });
            Channel {
                life: next_life(&mut lives, scene),
                log: ChannelLog::after(0, policy.retain_bytes_max, policy.payload_bytes_max),
                group: None,
                keys,
                head: (scene.now + QUIET, QUIET),
            }
        });
        Self {
            node,
            roster,
            revocations,
            channels,
            answers: Answers::new(Memory::default()),
            heard: [scene.now; NODES],
            gone: [false; NODES],
            next_beat: scene.now,
            next_sweep: scene.now + SWEEP,
            lives,
            contents,
        }
    }

    /// Revocations are kept, and how far numbers of lives went; everything else is gone.
    pub(super) fn crash(&mut self, scene: &mut Scene) -> Held {
        scene.report.crashes += 1;
        for (channel, found) in self.channels.iter().enumerate() {
            scene.facts.life_over((self.node, channel, found.life));
        }
        scene.runs[self.node] += 1;
        scene.known[self.node] = [0; NODES];
        *self = Self::begin(self.node, self.revocations.clone(), self.lives, self.contents, scene);
        Ok(())
    }

    /// Another node runs anew: who read there asks again.
    #[allow(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "both sorts of nodes are told"
    )]
    pub(super) fn restarted(&mut self, _: usize, _: &mut Scene) -> Held {
        Ok(())
    }

    /// Permits a daemon to read, to publish, or both.
    pub(super) fn issue(&self, daemon: usize, scene: &mut Scene) -> Vec<u8> {
        let (read, write) = [(true, false), (false, true), (true, true)][scene.random.below(3)];
        let ttl = Duration::from_millis(1_000 + scene.random.below(14_000) as u64);
        let rights = [(read, Right::Subscribe), (write, Right::Publish)];
        let terms = Terms {
            subject: daemon_id(daemon),
            scope: Scope::Channel(name(GATED).clone()),
            rights: rights
                .into_iter()
                .filter_map(|(may, right)| may.then_some(right))
                .collect(),
            delegations: 0,
        };
        let (from, of) = (scene.wall(), (self.node, daemon));
        scene.facts.granted(of, read, write, from, from.plus(ttl));
        let issued = PermissionToken::issue(node_key(self.node), terms, from, ttl, scene.bytes());
        issued.expect("good terms").to_bytes()
    }

    /// Takes back what a daemon has.
    pub(super) fn revoke(&mut self, daemon: usize, scene: &mut Scene) -> Held {
        let now = scene.wall();
        let said = Revocation::sign(Target::Subject(daemon_id(daemon)), now, node_key(self.node));
        self.revocations
            .add(&said.expect("a full pair"))
            .expect("there is room");
        scene.facts.took_back((self.node, daemon), now);
        self.sweep(scene)
    }

    pub(super) fn rotate(&mut self, scene: &mut Scene) -> Held {
        self.look(scene)?;
        self.keys(GATED, &channel_keys::Signal::Rotate, scene)
    }

    /// The node itself publishes so many events.
    pub(super) fn publish(&mut self, channel: usize, count: usize, scene: &mut Scene) -> Held {
        self.look(scene)?;
        for _ in 0..count {
            self.contents += 1;
            let payload: Arc<[u8]> = [self.contents, 0].iter().flat_map(|half| half.to_le_bytes()).collect();
            let log = &mut self.channels[channel].log;
            let sequence = log.publish(None, payload).expect("it is small");
            self.spread(channel, sequence, scene)?;
        }
        Ok(())
    }

    /// Sends what was just published to all who read it.
    fn spread(&mut self, channel: usize, sequence: u64, scene: &mut Scene) -> Held {
        let found = &self.channels[channel];
        let life = (self.node, channel, found.life);
        let logged = found.log.get(sequence).expect("the newest is kept").clone();
        let kept = found.log.first();
        scene.report.published += 1;
        scene.facts.published(life, sequence, content_of(&logged), kept)?;
        if let Some(keys) = &found.keys {
            let generation = keys.machine.generation();
            scene.facts.sealed(self.node, channel, generation, scene.wall())?;
        }
        for node in self.plain_nodes(channel) {
            self.send_event(channel, &logged, node, scene);
        }
        let found = &mut self.channels[channel];
        if let Some(group) = &mut found.group {
            if !group.queue.is_empty() {
                scene.facts.owed(life, sequence);
            }
            let mut actions = group.queue.step(Signal::Pruned { first: kept });
            actions.extend(group.queue.step(Signal::Published { last: sequence }));
            self.act(channel, actions, scene)?;
        }
        self.channels[channel].head = (scene.now + QUIET, QUIET);
        Ok(())
    }

    /// The nodes at which somebody reads a channel alone.
    fn plain_nodes(&self, channel: usize) -> BTreeSet<usize> {
        let members = self.roster.members(name(channel));
        let plain = members.filter(|(_, member)| member.group.is_none());
        plain.filter_map(|(_, member)| node_of(&member.node)).collect()
    }

    fn payload(&self, channel: usize, logged: &Logged) -> (bool, Vec<u8>) {
        let Some(keys) = &self.channels[channel].keys else {
            return (false, logged.payload.to_vec());
        };
        let place = Place {
            channel: name(channel),
            publisher: &node_id(self.node),
            sequence: logged.sequence,
        };
        let sealed = seal(&keys.key, keys.machine.generation(), &place, &logged.payload);
        (true, sealed)
    }

    fn send_event(&self, channel: usize, logged: &Logged, to: usize, scene: &mut Scene) {
        let (sealed, payload) = self.payload(channel, logged);
        let frame = ChannelFrame::Event {
            channel: name(channel).clone(),
            log: self.channels[channel].life,
            event: Event {
                sequence: logged.sequence,
                emitter: logged.emitter,
                sealed,
                payload: &payload,
            },
        };
        scene.send(self.node, to, &frame);
    }

    // -- what arrives

    pub(super) fn hear(&mut self, from: usize, body: &[u8], scene: &mut Scene) -> Held {
        self.heard[from] = scene.now;
        self.gone[from] = false;
        self.look(scene)?;
        let Ok(frame) = ChannelFrame::decode(body) else {
            return Ok(());
        };
        let node = node_id(from);
        match frame {
            ChannelFrame::Subscribe(asked) => self.subscribe(from, &asked, scene),
            ChannelFrame::Leave {
                nonce,
                channel,
                subscriber,
            } => {
                let mut changes: Vec<Change> = Vec::new();
                changes.extend(self.roster.unsubscribe(&node, &channel, &subscriber));
                if scene.makes(Mistake::RemovesSiblings) {
                    let siblings = self.roster.members(&channel);
                    let siblings = siblings.filter(|(_, member)| member.node == node);
                    for who in siblings.map(|(who, _)| *who).collect::<Vec<_>>() {
                        changes.extend(self.roster.unsubscribe(&node, &channel, &who));
                    }
                }
                self.removed(changes, scene)?;
                scene.send(self.node, from, &ChannelFrame::Left { nonce });
                Ok(())
            }
            ChannelFrame::Repair {
                channel,
                subscriber,
                log,
                numbers,
            } => {
                if let Some(key) = self.reader(from, &channel, &subscriber) {
                    self.repair(key, from, log, numbers, scene);
                }
                Ok(())
            }
            ChannelFrame::Taken {
                channel,
                subscriber,
                term,
                turn,
            } => match self.reader(from, &channel, &subscriber) {
                Some(key) => self.took(key, term, turn, scene),
                None => Ok(()),
            },
            ChannelFrame::AskKey { channel, subscriber } => match self.reader(from, &channel, &subscriber) {
                Some(key) => self.keys(key.1, &channel_keys::Signal::Asked(subscriber), scene),
                None => {
                    let Some(channel) = channel_of(&channel) else {
                        return Ok(());
                    };
                    self.ended(channel, &subscriber, &node, scene);
                    Ok(())
                }
            },
            ChannelFrame::Publish(request) => self.asked(from, &request, scene),
            _ => Ok(()),
        }
    }

    /// A subscription that is of that node.
    fn reader(&self, from: usize, channel: &crate::name::ChannelName, who: &EntityId) -> Option<Key> {
        let member = self.roster.member(channel, who)?;
        let is_of = member.node == node_id(from);
        is_of.then_some((self.node, channel_of(channel)?, daemon_of(who)?))
    }

    fn repair(&self, key: Key, from: usize, log: u64, numbers: Gap, scene: &mut Scene) {
        let (_, channel, daemon) = key;
        let found = &self.channels[channel];
        let who = daemon_id(daemon);
        let member = self.roster.member(name(channel), &who);
        if member.is_some_and(|member| member.group.is_some()) {
            let Some(group) = &found.group else { return };
            if group.queue.term(&who) != Some(log) {
                return self.remind(channel, daemon, scene);
            }
            for (turn, sequence) in group.queue.open(&who) {
                if (numbers.first..=numbers.last).contains(&turn)
                    && let Some(logged) = group.given.get(&sequence)
                {
                    self.send_turn(channel, daemon, (log, turn), logged, scene);
                }
            }
            return;
        }
        let channel_name = name(channel).clone();
        if log != found.life {
            let (log, last) = (found.life, found.log.last());
            let channel = channel_name;
            return scene.send(self.node, from, &ChannelFrame::Head { channel, log, last });
        }
        let (gap, events) = found.log.range(numbers.first, numbers.last);
        if let Some(gap) = gap {
            let channel = channel_name;
            scene.send(self.node, from, &ChannelFrame::Gap { channel, log, gap });
        }
        for logged in events.take(40) {
            self.send_event(channel, logged, from, scene);
        }
    }

    /// Somebody publishes from elsewhere.
    fn asked(&mut self, from: usize, request: &Publish<'_>, scene: &mut Scene) -> Held {
        let (Some(channel), Some(daemon)) = (channel_of(&request.channel), daemon_of(&request.publisher)) else {
            return Ok(());
        };
        let log = &mut self.channels[channel].log;
        let mut fresh = None;
        let mut publish = || {
            let published = log.publish(Some(request.publisher), Arc::from(request.payload));
            fresh = published.ok();
            published.map_err(|_| Unpublished::TooLarge)
        };
        let answer = if scene.makes(Mistake::PublishUnchecked) && channel == GATED {
            publish()
        } else {
            let asked = Asked {
                from: &node_id(from),
                own: &node_id(self.node),
                request,
                now: scene.wall(),
                roster: &self.roster,
                revocations: &self.revocations,
            };
            let mut forgetful = Answers::new(Memory::default());
            let forgets = scene.makes(Mistake::PublishesRepeats);
            let answers = if forgets { &mut forgetful } else { &mut self.answers };
            answers.request(&asked, publish)
        };
        if let Some(sequence) = fresh {
            scene.report.from_elsewhere += 1;
            scene.facts.publishes((self.node, channel, daemon), scene.wall())?;
            self.spread(channel, sequence, scene)?;
        }
        scene.report.refused += u64::from(answer.is_err());
        let nonce = request.nonce;
        let frame = match answer {
            Ok(sequence) => ChannelFrame::Published { nonce, sequence },
            Err(reason) => ChannelFrame::NotPublished { nonce, reason },
        };
        scene.send(self.node, from, &frame);
        Ok(())
    }

    // -- time

    /// Looks at permissions, if it is time.
    fn look(&mut self, scene: &mut Scene) -> Held {
        if scene.now >= self.next_sweep {
            return self.sweep(scene);
        }
        Ok(())
    }

    pub(super) fn wake_at(&self) -> Duration {
        let heads = self.channels.iter().map(|found| found.head.0);
        heads
            .chain([self.next_beat, self.next_sweep])
            .min()
            .expect("there are some")
    }

    pub(super) fn wake(&mut self, scene: &mut Scene) -> Held {
        self.look(scene)?;
        if scene.now >= self.next_beat {
            self.next_beat = scene.now + BEAT;
            for node in PUBLISHERS..NODES {
                scene.send_bytes(self.node, node, Vec::new());
                if !self.gone[node] && scene.now > self.heard[node] + LOST_AFTER {
                    self.gone[node] = true;
                    let changes = self.roster.node_lost(&node_id(node));
                    self.removed(changes, scene)?;
                }
            }
        }
        for channel in 0..CHANNELS {
            let (at, wait) = self.channels[channel].head;
            if at > scene.now {
                continue;
            }
            let wait = (wait * 2).min(HEAD_MAX);
            self.channels[channel].head = (scene.now + wait, wait);
            if scene.makes(Mistake::NoHeads) {
                continue;
            }
            let found = &self.channels[channel];
            for node in self.plain_nodes(channel) {
                let (log, last) = (found.life, found.log.last());
                let channel = name(channel).clone();
                scene.send(self.node, node, &ChannelFrame::Head { channel, log, last });
            }
            (0..DAEMONS).for_each(|daemon| self.remind(channel, daemon, scene));
        }
        Ok(())
    }

    /// Life of a channel, and its last number.
    pub(super) fn at(&self, channel: usize) -> (u64, u64) {
        let found = &self.channels[channel];
        (found.life, found.log.last())
    }

    /// Whether a daemon is a member of the group in this term.
    pub(super) fn has_member(&self, key: Key, term: u64) -> bool {
        let group = self.channels[key.1].group.as_ref();
        group.is_some_and(|group| group.queue.term(&daemon_id(key.2)) == Some(term))
    }

    pub(super) fn is_done(&self) -> bool {
        self.channels
            .iter()
            .filter_map(|found| found.group.as_ref())
            .all(|group| (0..DAEMONS).all(|daemon| group.queue.open(&daemon_id(daemon)).next().is_none()))
    }

    pub(super) fn waits(&self) -> String {
        let groups = self.channels.iter().map(|found| {
            let group = found.group.as_ref();
            group.map(|group| [0, 1, 2, 3, 4, 5].map(|daemon| group.queue.open(&daemon_id(daemon)).count()))
        });
        let at = [0, 1].map(|channel| self.at(channel));
        format!("at {at:?}, open {:?}", groups.collect::<Vec<_>>())
    }
}

/// The next life of numbers, above all before it.
fn next_life(lives: &mut u64, scene: &Scene) -> u64 {
    let micros = u64::try_from(scene.now.as_micros()).expect("a run is short");
    *lives = (*lives + (1 << 12)).max(micros << 12);
    *lives
}
