//! The channels that a node publishes on: their logs, who reads them, their keys.
//!
//! Invariants
//! * What is published is in the log before anybody hears of it.
//! * A publish costs as much as there are nodes that read the channel, and members of its groups that get it.
//! * An event is encoded, and sealed, once, however many nodes it goes to.
//! * Nothing is sent from here: what is to be sent goes into what the turn sends when nothing is locked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshos_core::channel_frame::{ChannelFrame, Gap, Publish, Reason, Subscribe, Unpublished};
use meshos_core::channel_keys::{self, ChannelKeys};
use meshos_core::channel_log::{ChannelLog, EVENT_BYTES, Logged, NotPublished};
use meshos_core::channel_policy::ChannelPolicy;
use meshos_core::frame::BODY_BYTES_MAX;
use meshos_core::id::EntityId;
use meshos_core::identity::Keypair;
use meshos_core::name::ChannelName;
use meshos_core::remote_publish::{Answer, Answers, Asked};
use meshos_core::revocation::{NotRevoked, Revocation, Revocations};
use meshos_core::roster::{Change, Limits, Member, Request, Roster, Why};
use meshos_core::sealed_channel::{ChannelKey, HandedKey};
use meshos_core::subscription::REPAIR_MAX;
use meshos_core::time::UnixMs;
use meshos_core::token::PermissionToken;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::channel_group::Group;
use crate::channel_out::Outgoing;
use crate::channel_send::{Batch, Seal};
use crate::{clock, keys};

/// Channels of one node at most.
pub const CHANNELS_MAX: usize = 65_536;
/// Events of one channel that wait to be sent at most.
pub const UNSENT_MAX: usize = 16_384;
/// Bytes of them at most; one always has a place.
pub const UNSENT_BYTES_MAX: u64 = 16 << 20;

/// Bytes that a frame takes beside the payload, and more.
const FRAME_BYTES: u64 = 1_024;
/// Bytes of one answer to who lacks numbers; one event always has a place.
const REPAIR_BYTES: u64 = 1 << 20;
/// How long a channel is quiet before it says how far its numbers go; each time it is said again, the wait doubles.
const QUIET: Duration = Duration::from_millis(20);
/// How often a channel says so at least.
pub(crate) const HEAD_MAX: Duration = Duration::from_secs(5);
/// How often permissions are looked at again.
const SWEEP: Duration = Duration::from_secs(1);
/// How long a key is used.
const KEY_AGE: Duration = Duration::from_secs(3_600);
/// Keys handed out in one turn.
const HANDED_MAX: usize = 16;

/// An event was not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PublishError {
    /// The log does not take it.
    #[error(transparent)]
    NotPublished(#[from] NotPublished),
    /// As much waits to be sent as may.
    #[error("as much waits to be sent as may")]
    Full,
    /// There are as many channels as may be.
    #[error("the node has {CHANNELS_MAX} channels, and no more")]
    TooManyChannels,
    /// The node was closed.
    #[error("the node is closed")]
    Closed,
}

struct Keys {
    machine: ChannelKeys,
    key: ChannelKey,
    since: Instant,
}

struct Channel {
    life: u64,
    log: ChannelLog,
    /// Up to where events were handed over to be sent.
    sent: u64,
    unsent_bytes: u64,
    is_dirty: bool,
    /// How many read it at each node; members of groups are not counted.
    nodes: BTreeMap<EntityId, usize>,
    groups: BTreeMap<ChannelName, Group>,
    keys: Option<Keys>,
    published: Instant,
    /// When it says next how far its numbers go, and how long it waits then.
    head: Option<(Instant, Duration)>,
}

impl Channel {
    fn is_read(&self) -> bool {
        !(self.nodes.is_empty() && self.groups.is_empty())
    }

    fn seal(&self) -> Option<Seal> {
        self.keys.as_ref().map(|keys| Seal {
            key: keys.key.clone(),
            generation: keys.machine.generation(),
        })
    }
}

/// The channels of one node.
pub(crate) struct Publisher {
    own: EntityId,
    key: Arc<Keypair>,
    roster: Roster,
    revocations: Revocations,
    channels: HashMap<ChannelName, Channel>,
    dirty: Vec<ChannelName>,
    heads: BTreeSet<(Instant, ChannelName)>,
    /// Who is to be handed the key in force.
    to_hand: BTreeSet<(ChannelName, EntityId)>,
    /// Subscriptions of each node.
    of_node: BTreeMap<EntityId, usize>,
    gated: usize,
    swept: Instant,
    lives: u64,
    /// Events that no member of a group got.
    lost: u64,
}

impl Publisher {
    pub(crate) fn new(key: Arc<Keypair>, revocations: Revocations) -> Self {
        let own = key.entity_id();
        Self {
            own,
            key,
            roster: Roster::new(own, Limits::default()),
            revocations,
            channels: HashMap::new(),
            dirty: Vec::new(),
            heads: BTreeSet::new(),
            to_hand: BTreeSet::new(),
            of_node: BTreeMap::new(),
            gated: 0,
            swept: Instant::now(),
            lives: 0,
            lost: 0,
        }
    }

    /// Numbers of the lives of logs, and terms of groups: each above all before it, also of earlier processes.
    fn next_life(&mut self) -> u64 {
        self.lives = (self.lives + (1 << 12)).max(clock::unix_us() << 12);
        self.lives
    }

    /// The channel, made if there is none.
    fn channel(&mut self, name: &ChannelName) -> Option<&mut Channel> {
        if !self.channels.contains_key(name) {
            if self.channels.len() >= CHANNELS_MAX {
                return None;
            }
            let policy = self.roster.policy(name);
            let made = Channel {
                life: self.next_life(),
                log: ChannelLog::after(0, policy.retain_bytes_max, payload_bytes_max(&policy)),
                sent: 0,
                unsent_bytes: 0,
                is_dirty: false,
                nodes: BTreeMap::new(),
                groups: BTreeMap::new(),
                keys: None,
                published: Instant::now(),
                head: None,
            };
            self.channels.insert(name.clone(), made);
        }
        self.channels.get_mut(name)
    }

    /// Takes an event into the log, and tells its number and whether it is to be sent. One that `must` be taken is not
    /// refused for what waits.
    pub(crate) fn publish(
        &mut self,
        name: &ChannelName,
        emitter: Option<EntityId>,
        payload: Arc<[u8]>,
        must: bool,
    ) -> Result<(u64, bool), PublishError> {
        let bytes = payload.len() as u64 + EVENT_BYTES;
        let found = self.channel(name).ok_or(PublishError::TooManyChannels)?;
        let waiting = found.log.last() - found.sent;
        let is_full = waiting >= UNSENT_MAX as u64 || found.unsent_bytes + bytes > UNSENT_BYTES_MAX;
        if is_full && waiting > 0 && !must && found.is_read() {
            return Err(PublishError::Full);
        }
        let sequence = found.log.publish(emitter, payload)?;
        if !found.is_read() {
            (found.sent, found.unsent_bytes) = (sequence, 0);
            return Ok((sequence, false));
        }
        found.unsent_bytes += bytes;
        let wakes = !std::mem::replace(&mut found.is_dirty, true);
        if wakes {
            self.dirty.push(name.clone());
        }
        Ok((sequence, wakes))
    }

    /// Judges a request of another node to publish, and does so; a repeated one is answered as before. With whether
    /// something is to be sent.
    pub(crate) fn publish_for(
        &mut self,
        answers: &mut Answers,
        from: &EntityId,
        request: &Publish<'_>,
    ) -> (Answer, bool) {
        // Made before it is judged: its policy is the default then, as that of one that nobody opened.
        if self.channel(&request.channel).is_none() {
            return (Err(Unpublished::Refused(Reason::TooMany)), false);
        }
        let roster = std::mem::replace(&mut self.roster, Roster::new(self.own, Limits::default()));
        let revocations = std::mem::take(&mut self.revocations);
        let own = self.own;
        let asked = Asked {
            from,
            own: &own,
            request,
            now: clock::unix_ms(),
            roster: &roster,
            revocations: &revocations,
        };
        let mut wakes = false;
        let answer = answers.request(&asked, || {
            let published = self.publish(&request.channel, Some(request.publisher), request.payload.into(), false);
            let (sequence, is_fresh) = published.map_err(|error| match error {
                PublishError::NotPublished(NotPublished::TooLarge { .. }) => Unpublished::TooLarge,
                PublishError::TooManyChannels => Unpublished::Refused(Reason::TooMany),
                PublishError::Full => Unpublished::Refused(Reason::RateLimited),
                PublishError::NotPublished(_) | PublishError::Closed => Unpublished::Refused(Reason::Closed),
            })?;
            wakes = is_fresh;
            Ok(sequence)
        });
        (self.roster, self.revocations) = (roster, revocations);
        (answer, wakes)
    }

    /// What was published since it was asked for last.
    pub(crate) fn fresh(&mut self, now: Instant, out: &mut Outgoing) -> Vec<Batch> {
        let mut batches = Vec::new();
        for name in std::mem::take(&mut self.dirty) {
            let Some(found) = self.channels.get_mut(&name) else {
                continue;
            };
            let (first, last) = (found.sent + 1, found.log.last());
            found.is_dirty = false;
            found.sent = last;
            found.unsent_bytes = 0;
            found.published = now;
            if !found.nodes.is_empty() {
                let (_, events) = found.log.range(first, last);
                batches.push(Batch {
                    channel: name.clone(),
                    life: found.life,
                    events: events.cloned().collect(),
                    to: found.nodes.keys().copied().collect(),
                    seal: found.seal(),
                });
            }
            let (kept, seal) = (found.log.first(), found.seal());
            for group in found.groups.values_mut() {
                let at = (&name, &self.own, seal.as_ref());
                self.lost += group.published(kept, last, at, &found.log, &self.roster, out);
            }
            self.head_after(&name, now, QUIET);
        }
        batches
    }

    fn head_after(&mut self, name: &ChannelName, now: Instant, wait: Duration) {
        let Some(found) = self.channels.get_mut(name) else {
            return;
        };
        let soon = now + wait;
        match found.head {
            // Whoever looks at it then sees when it was published last.
            Some((due, _)) if due <= soon => found.head = Some((due, wait)),
            before => {
                if let Some((due, _)) = before {
                    self.heads.remove(&(due, name.clone()));
                }
                found.head = Some((soon, wait));
                self.heads.insert((soon, name.clone()));
            }
        }
    }

    /// Says how far the numbers of quiet channels go, looks at permissions again, and hands out keys.
    pub(crate) fn turn(&mut self, now: Instant, out: &mut Outgoing) {
        while let Some((at, name)) = self.heads.first().cloned() {
            if at > now {
                break;
            }
            self.heads.remove(&(at, name.clone()));
            let Some(found) = self.channels.get_mut(&name) else {
                continue;
            };
            let Some((_, wait)) = found.head.take() else { continue };
            if !found.is_read() {
                continue;
            }
            if found.published + wait > now {
                let due = found.published + wait;
                found.head = Some((due, wait));
                self.heads.insert((due, name));
                continue;
            }
            let last = found.sent;
            let head = ChannelFrame::Head {
                channel: name.clone(),
                log: found.life,
                last,
            };
            let head = head.to_bytes();
            found.nodes.keys().for_each(|node| out.put(node, &head));
            let seal = found.seal();
            for group in found.groups.values() {
                group.remind_all((&name, &self.own, seal.as_ref()), &self.roster, out);
            }
            let wait = (wait * 2).min(HEAD_MAX);
            found.head = Some((now + wait, wait));
            self.heads.insert((now + wait, name));
        }
        if self.gated > 0 && now >= self.swept + SWEEP {
            self.swept = now;
            self.sweep(now, out);
        }
        for _ in 0..HANDED_MAX {
            let Some((name, to)) = self.to_hand.pop_first() else {
                break;
            };
            self.hand(&name, &to, out);
        }
    }

    /// When [`turn`](Self::turn) has something to do.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let keys = (!self.to_hand.is_empty()).then_some(now);
        let sweep = (self.gated > 0).then(|| self.swept + SWEEP);
        let head = self.heads.first().map(|(at, _)| *at);
        keys.into_iter().chain(sweep).chain(head).min()
    }

    /// The other nodes that subscribe to something.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &EntityId> {
        self.of_node.keys().filter(|node| **node != self.own)
    }

    pub(crate) fn node_lost(&mut self, node: &EntityId, out: &mut Outgoing) {
        let changes = self.roster.node_lost(node);
        self.removed(changes, out);
    }

    /// Sets the policy of a channel; whom it does not permit is told so.
    pub(crate) fn open(
        &mut self,
        name: &ChannelName,
        policy: &ChannelPolicy,
        out: &mut Outgoing,
    ) -> Result<(), PublishError> {
        if self.channel(name).is_none() {
            return Err(PublishError::TooManyChannels);
        }
        let opened = self
            .roster
            .open(name, policy.clone(), clock::unix_ms(), &self.revocations);
        let changes = opened.map_err(|_| PublishError::TooManyChannels)?;
        self.removed(changes, out);
        let found = self.channels.get_mut(name).expect("it was just made");
        found.log.set_bounds(policy.retain_bytes_max, payload_bytes_max(policy));
        match (policy.requires_token, found.keys.is_some()) {
            (true, false) => {
                let (machine, _) = ChannelKeys::open(clock::unix_ms().get());
                let key = ChannelKey::new(keys::random_bytes());
                let since = Instant::now();
                found.keys = Some(Keys { machine, key, since });
                self.gated += 1;
                let staying: Vec<EntityId> = self.roster.members(name).map(|(who, _)| *who).collect();
                for who in staying {
                    self.keys(name, &channel_keys::Signal::Accepted(who), out);
                }
            }
            (false, true) => {
                found.keys = None;
                self.gated -= 1;
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends all subscriptions of a channel, and drops its log.
    pub(crate) fn close(&mut self, name: &ChannelName, out: &mut Outgoing) {
        let changes = self.roster.close(name);
        self.removed(changes, out);
        let gone = self.channels.remove(name);
        self.gated -= usize::from(gone.is_some_and(|gone| gone.keys.is_some()));
        self.to_hand.retain(|(of, _)| of != name);
    }

    /// Takes in a statement about tokens; whoever may not read any more is told so, and keys change.
    pub(crate) fn revoke(&mut self, revocation: &Revocation, out: &mut Outgoing) -> Result<(), NotRevoked> {
        self.revocations.forget(clock::unix_ms());
        self.revocations.add(revocation)?;
        self.sweep(Instant::now(), out);
        if let meshos_core::revocation::Target::Subject(subject) = revocation.target {
            // Who has left may still have the key.
            let gated = self.channels.iter().filter(|(_, found)| found.keys.is_some());
            let gated: Vec<ChannelName> = gated.map(|(name, _)| name.clone()).collect();
            for name in gated {
                if self.roster.member(&name, &subject).is_none() {
                    self.keys(&name, &channel_keys::Signal::Revoked(vec![subject]), out);
                }
            }
        }
        Ok(())
    }

    fn sweep(&mut self, now: Instant, out: &mut Outgoing) {
        let changes = self.roster.sweep(clock::unix_ms(), &self.revocations);
        self.removed(changes, out);
        let is_old = |found: &Channel| found.keys.as_ref().is_some_and(|keys| now >= keys.since + KEY_AGE);
        let old = self.channels.iter().filter(|(_, found)| is_old(found));
        let old: Vec<ChannelName> = old.map(|(name, _)| name.clone()).collect();
        for name in old {
            self.keys(&name, &channel_keys::Signal::Rotate, out);
        }
    }

    fn removed(&mut self, changes: Vec<Change>, out: &mut Outgoing) {
        let mut revoked: BTreeMap<ChannelName, Vec<EntityId>> = BTreeMap::new();
        for change in changes {
            if let Change::Lapsed { channel, subscriber } = change {
                revoked.entry(channel).or_default().push(subscriber);
                continue;
            }
            let Change::Removed {
                channel,
                subscriber,
                member,
                why,
            } = change
            else {
                continue;
            };
            self.gone(&channel, &subscriber, &member.node, member.group.as_ref(), out);
            let reason = match why {
                Why::Unauthorized => {
                    revoked.entry(channel.clone()).or_default().push(subscriber);
                    Some(Reason::Unauthorized)
                }
                Why::Closed => Some(Reason::Closed),
                Why::Unsubscribed | Why::NodeLost => {
                    self.keys(&channel, &channel_keys::Signal::Unsubscribed(subscriber), out);
                    None
                }
            };
            if let Some(reason) = reason {
                let node = member.node;
                let ended = ChannelFrame::Ended {
                    channel,
                    subscriber,
                    reason,
                };
                out.frame(&node, &ended);
            }
        }
        for (channel, them) in revoked {
            self.keys(&channel, &channel_keys::Signal::Revoked(them), out);
        }
    }

    /// Somebody does not read any more at a node, or in a group.
    fn gone(
        &mut self,
        name: &ChannelName,
        who: &EntityId,
        node: &EntityId,
        group: Option<&ChannelName>,
        out: &mut Outgoing,
    ) {
        less(&mut self.of_node, node);
        let Some(found) = self.channels.get_mut(name) else {
            return;
        };
        let Some(group_name) = group else {
            less(&mut found.nodes, node);
            return;
        };
        let seal = found.seal();
        if let Some(group) = found.groups.get_mut(group_name) {
            let at = (name, &self.own, seal.as_ref());
            self.lost += group.left(who, at, &found.log, &self.roster, out);
            if group.is_empty() {
                found.groups.remove(group_name);
            }
        }
    }

    /// Judges a request to subscribe, and answers it.
    pub(crate) fn subscribe(&mut self, from: &EntityId, asked: Subscribe, now: Instant, out: &mut Outgoing) {
        let refused = |reason| ChannelFrame::Rejected {
            nonce: asked.nonce,
            reason,
        };
        let (name, who) = (asked.channel.clone(), asked.subscriber);
        let is_gated = self.roster.policy(&name).requires_token;
        // Signatures are checked where they matter, or may matter later.
        let is_asked_for = is_gated || !asked.token.is_empty();
        let request = Request {
            node: *from,
            subscriber: who,
            epoch: asked.epoch,
            proven: is_asked_for && asked.is_proven(from, &self.own),
            channel: name.clone(),
            group: asked.group.clone(),
            token: PermissionToken::decode(&asked.token).ok(),
        };
        if self.channel(&name).is_none() {
            return out.frame(from, &refused(Reason::TooMany));
        }
        let change = match self.roster.subscribe(request, clock::unix_ms(), &self.revocations) {
            Ok(change) => change,
            Err(reason) => return out.frame(from, &refused(reason)),
        };
        if let Some(Change::Moved { before, .. }) = &change {
            self.gone(&name, &who, &before.0, before.1.as_ref(), out);
        }
        if change.is_some() {
            *self.of_node.entry(*from).or_default() += 1;
        }
        let base = match &asked.group {
            Some(_) => self.next_life(),
            None => 0,
        };
        let found = self.channels.get_mut(&name).expect("it was just made");
        let accepted = |log, next| ChannelFrame::Accepted {
            nonce: asked.nonce,
            log,
            next,
        };
        match &asked.group {
            None => {
                if change.is_some() {
                    *found.nodes.entry(*from).or_default() += 1;
                }
                out.frame(from, &accepted(found.life, found.log.last() + 1));
            }
            Some(group) => {
                let seal = found.seal();
                let last = found.log.last();
                let group = found.groups.entry(group.clone());
                let group = group.or_insert_with(|| Group::after(last, base));
                let (log, next, actions) = group.joined(&who, asked.after);
                out.frame(from, &accepted(log, next));
                let at = (&name, &self.own, seal.as_ref());
                self.lost += group.act(actions, at, &found.log, &self.roster, out);
            }
        }
        self.keys(&name, &channel_keys::Signal::Accepted(who), out);
        self.head_after(&name, now, QUIET);
    }

    pub(crate) fn leave(&mut self, from: &EntityId, name: &ChannelName, who: &EntityId, out: &mut Outgoing) {
        let change = self.roster.unsubscribe(from, name, who);
        self.removed(change.into_iter().collect(), out);
    }

    /// A subscription that is of that node.
    fn member(&self, from: &EntityId, name: &ChannelName, who: &EntityId) -> Option<&Member> {
        let member = self.roster.member(name, who);
        member.filter(|member| member.node == *from)
    }

    /// Sends numbers again that somebody lacks.
    pub(crate) fn repair(
        &mut self,
        from: &EntityId,
        name: &ChannelName,
        who: &EntityId,
        (log, numbers): (u64, Gap),
        out: &mut Outgoing,
    ) -> Option<Batch> {
        let group = self.member(from, name, who)?.group.clone();
        let found = self.channels.get(name)?;
        if let Some(group) = group {
            let at = (name, &self.own, found.seal());
            let at = (at.0, at.1, at.2.as_ref());
            found.groups.get(&group)?.repair(who, log, numbers, at, from, out);
            return None;
        }
        if log != found.life {
            let (log, last) = (found.life, found.sent);
            let channel = name.clone();
            out.frame(from, &ChannelFrame::Head { channel, log, last });
            return None;
        }
        let last = numbers.last.min(numbers.first.saturating_add(REPAIR_MAX - 1));
        let (gap, events) = found.log.range(numbers.first, last);
        if let Some(gap) = gap {
            let channel = name.clone();
            out.frame(from, &ChannelFrame::Gap { channel, log, gap });
        }
        let mut bytes = 0;
        let fits = |event: &&Logged| {
            let fits = bytes == 0 || bytes + event.payload.len() as u64 <= REPAIR_BYTES;
            bytes += event.payload.len() as u64 + EVENT_BYTES;
            fits
        };
        Some(Batch {
            channel: name.clone(),
            life: found.life,
            events: events.take_while(fits).cloned().collect(),
            to: vec![*from],
            seal: found.seal(),
        })
    }

    /// A member of a group is done with its turns up to one.
    pub(crate) fn taken(
        &mut self,
        from: &EntityId,
        name: &ChannelName,
        who: &EntityId,
        (term, turn): (u64, u64),
        out: &mut Outgoing,
    ) -> Option<()> {
        let group = self.member(from, name, who)?.group.clone()?;
        let found = self.channels.get_mut(name)?;
        let seal = found.seal();
        let at = (name, &self.own, seal.as_ref());
        let group = found.groups.get_mut(&group)?;
        self.lost += group.taken(who, (term, turn), at, &found.log, &self.roster, out);
        Some(())
    }

    /// Somebody lacks the key in force.
    pub(crate) fn asked_key(&mut self, from: &EntityId, name: &ChannelName, who: &EntityId, out: &mut Outgoing) {
        if self.member(from, name, who).is_some() {
            self.keys(name, &channel_keys::Signal::Asked(*who), out);
        } else {
            let ended = ChannelFrame::Ended {
                channel: name.clone(),
                subscriber: *who,
                reason: Reason::Unauthorized,
            };
            out.frame(from, &ended);
        }
    }

    fn keys(&mut self, name: &ChannelName, signal: &channel_keys::Signal, out: &mut Outgoing) {
        let Some(keys) = self.channels.get_mut(name).and_then(|found| found.keys.as_mut()) else {
            return;
        };
        for action in keys.machine.step(signal) {
            match action {
                channel_keys::Action::NewGeneration { .. } => {
                    keys.key = ChannelKey::new(keys::random_bytes());
                    keys.since = Instant::now();
                    self.roster.forget_left(name);
                }
                channel_keys::Action::Hand { to, .. } => {
                    self.to_hand.insert((name.clone(), to));
                }
                channel_keys::Action::Refuse { to } => {
                    if let Some(member) = self.roster.member(name, &to) {
                        let ended = ChannelFrame::Ended {
                            channel: name.clone(),
                            subscriber: to,
                            reason: Reason::Unauthorized,
                        };
                        out.frame(&member.node, &ended);
                    }
                }
            }
        }
    }

    fn hand(&self, name: &ChannelName, to: &EntityId, out: &mut Outgoing) -> Option<()> {
        let member = self.roster.member(name, to)?;
        let keys = self.channels.get(name)?.keys.as_ref()?;
        let ephemeral = Zeroizing::new(keys::random_bytes());
        let generation = keys.machine.generation();
        let handed = HandedKey::seal(&keys.key, generation, name, &self.key, to, &ephemeral).ok()?;
        out.put(&member.node, &handed.to_bytes());
        Some(())
    }

    /// The bounds of a channel's payloads.
    pub(crate) fn payload_bytes_max(&self, name: &ChannelName) -> u64 {
        payload_bytes_max(&self.roster.policy(name))
    }

    /// Channels, subscriptions, requests that were refused, and events that no member of a group got.
    pub(crate) fn counts(&self) -> (usize, usize, u64, u64) {
        let subscriptions = self.of_node.values().sum();
        (self.channels.len(), subscriptions, self.roster.refused(), self.lost)
    }

    /// When the newest statement about a subject was made, if there is one of this node.
    pub(crate) fn revoked_at(&self, subject: &EntityId) -> Option<UnixMs> {
        use meshos_core::revocation::Target;
        let of_us = self.revocations.iter().filter(|said| said.issuer == self.own);
        let about = of_us.filter(|said| match said.target {
            Target::Subject(about) => about == *subject,
            Target::Everything => true,
            Target::Token(_) => false,
        });
        about.map(|said| said.at).max()
    }
}

/// What fits into one body.
fn payload_bytes_max(policy: &ChannelPolicy) -> u64 {
    policy.payload_bytes_max.min(BODY_BYTES_MAX as u64 - FRAME_BYTES)
}

/// Takes one off the count of a node; one that has none is left out.
pub(crate) fn less(counts: &mut BTreeMap<EntityId, usize>, node: &EntityId) {
    if let Some(count) = counts.get_mut(node) {
        *count -= 1;
        if *count == 0 {
            counts.remove(node);
        }
    }
}
