//! Decision: who subscribes to the channels of a node, who is refused, and who may publish on them from elsewhere.
//!
//! A subscription is refused for the first of these that holds:
//!
//! | what is asked | answer |
//! |---|---|
//! | by a node that was refused too often lately | RateLimited |
//! | for a daemon that a later owner has subscribed | Unauthorized |
//! | beyond the bound of the node or of the channel, and not there yet | TooMany |
//! | of a channel that needs a token, not signed by the subscriber, or without a token that permits it | Unauthorized |
//!
//! Anything else is accepted. An open channel is made when it is first asked for.
//!
//! | signal | what changes |
//! |---|---|
//! | Subscribe, accepted | added; or where it was, with the new node, group and token |
//! | Unsubscribe, by the node that it is of | removed; repeated, nothing |
//! | NodeLost | all of the node are removed |
//! | Sweep, Open | whose token does not permit it any more is removed; of who left, told |
//! | Close | all of the channel are removed |
//!
//! Invariants
//! * A subscription is of a daemon, wherever it is: two daemons of one node do not disturb each other.
//! * Who is there was permitted when asked, and at every sweep since. A repeated request is judged anew.
//! * Who left a gated channel is looked at until its token ends, or [`Roster::forget_left`]: it knows the key in force.
//! * A gated channel without a token that permits is refused, never accepted and left without events.
//! * Everything is bounded: subscriptions of a node and of a channel, channels, and the nodes whose refusals are counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::channel_frame::Reason;
use crate::channel_keys::LEFT_MAX;
use crate::channel_policy::ChannelPolicy;
use crate::id::EntityId;
use crate::name::ChannelName;
use crate::revocation::Revocations;
use crate::time::UnixMs;
use crate::token::{Demand, PermissionToken, Right, TokenError};

/// How far the clocks of nodes may be apart for a token to begin.
pub const SKEW: Duration = Duration::from_secs(10);

/// Bounds of a roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Subscriptions of one node.
    pub per_node_max: usize,
    /// Subscriptions of one channel.
    pub per_channel_max: usize,
    /// Channels.
    pub channels_max: usize,
    /// Refusals of one node after which it is not listened to, within the pause.
    pub refusals_max: u32,
    /// For how long.
    pub pause: Duration,
    /// Nodes whose refusals are counted.
    pub counted_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_node_max: 65_536,
            per_channel_max: 1 << 20,
            channels_max: 65_536,
            refusals_max: 64,
            pause: Duration::from_secs(10),
            counted_max: 4_096,
        }
    }
}

/// What a node asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who asks; the frame proves it.
    pub node: EntityId,
    /// The daemon that it asks for.
    pub subscriber: EntityId,
    /// Term in which the node owns the daemon.
    pub epoch: u64,
    /// Whether the daemon signed the request.
    pub proven: bool,
    /// The channel.
    pub channel: ChannelName,
    /// The queue group, if it is one of several that share the events.
    pub group: Option<ChannelName>,
    /// What permits it.
    pub token: Option<PermissionToken>,
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where the daemon is.
    pub node: EntityId,
    /// Term in which that node owns it.
    pub epoch: u64,
    /// The queue group.
    pub group: Option<ChannelName>,
    /// What permits it.
    pub token: Option<PermissionToken>,
    /// Whether the daemon signed the request.
    pub proven: bool,
    /// Whether the signatures of the token were checked.
    checked: bool,
}

/// Why a subscription is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It was unsubscribed.
    Unsubscribed,
    /// Its node is gone.
    NodeLost,
    /// It is not permitted any more.
    Unauthorized,
    /// The channel was closed.
    Closed,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Somebody subscribes.
    Added {
        /// The channel.
        channel: ChannelName,
        /// Who.
        subscriber: EntityId,
    },
    /// Somebody subscribes from another node, or in another group; what it was before.
    Moved {
        /// The channel.
        channel: ChannelName,
        /// Who.
        subscriber: EntityId,
        /// Node and group before.
        before: (EntityId, Option<ChannelName>),
    },
    /// Somebody does not subscribe any more; what it was.
    Removed {
        /// The channel.
        channel: ChannelName,
        /// Who.
        subscriber: EntityId,
        /// What it was.
        member: Member,
        /// Why.
        why: Why,
    },
    /// Somebody who left a gated channel is not permitted to read it any more: its key has to change.
    Lapsed {
        /// The channel.
        channel: ChannelName,
        /// Who.
        subscriber: EntityId,
    },
}

#[derive(Debug, Clone, Default)]
struct Channel {
    policy: ChannelPolicy,
    members: BTreeMap<EntityId, Member>,
    /// Who left while it was gated, and what permits them to read it.
    left: BTreeMap<EntityId, PermissionToken>,
    /// Whether somebody set its policy: then it stays without members.
    opened: bool,
}

#[derive(Debug, Clone, Copy)]
struct Refusals {
    since: UnixMs,
    count: u32,
}

/// Who subscribes to the channels of one node.
#[derive(Debug, Clone)]
pub struct Roster {
    own: EntityId,
    limits: Limits,
    channels: BTreeMap<ChannelName, Channel>,
    of_node: BTreeMap<EntityId, BTreeSet<(ChannelName, EntityId)>>,
    refusals: BTreeMap<EntityId, Refusals>,
    refused: u64,
}

impl Roster {
    /// Nobody subscribes to a channel of this node.
    #[must_use]
    pub const fn new(own: EntityId, limits: Limits) -> Self {
        Self {
            own,
            limits,
            channels: BTreeMap::new(),
            of_node: BTreeMap::new(),
            refusals: BTreeMap::new(),
            refused: 0,
        }
    }

    /// Sets the policy of a channel; whom it does not permit is removed.
    ///
    /// # Errors
    /// [`Reason::TooMany`]: there are as many channels as may be.
    pub fn open(
        &mut self,
        channel: &ChannelName,
        policy: ChannelPolicy,
        now: UnixMs,
        revocations: &Revocations,
    ) -> Result<Vec<Change>, Reason> {
        let found = self.channel_mut(channel).ok_or(Reason::TooMany)?;
        (found.policy, found.opened) = (policy, true);
        Ok(self.sweep_channel(channel, now, revocations))
    }

    /// Ends all subscriptions of a channel, and forgets its policy.
    pub fn close(&mut self, channel: &ChannelName) -> Vec<Change> {
        let members = self
            .channels
            .get(channel)
            .map(|found| found.members.keys().copied().collect());
        let members: Vec<EntityId> = members.unwrap_or_default();
        let removed = members.iter().filter_map(|who| self.remove(channel, who, Why::Closed));
        let removed = removed.collect();
        self.channels.remove(channel);
        removed
    }

    /// Judges a request.
    ///
    /// # Errors
    /// Why it is refused; then nothing has changed but the count of refusals.
    pub fn subscribe(
        &mut self,
        request: Request,
        now: UnixMs,
        revocations: &Revocations,
    ) -> Result<Option<Change>, Reason> {
        match self.judge(&request, now, revocations) {
            Ok(()) => {
                self.refusals.remove(&request.node);
                Ok(self.accept(request))
            }
            Err(reason) => {
                self.refused += 1;
                if reason == Reason::Unauthorized {
                    self.count_refusal(request.node, now);
                }
                Err(reason)
            }
        }
    }

    /// Removes a subscription, if it is of that node. It is always accepted.
    pub fn unsubscribe(&mut self, node: &EntityId, channel: &ChannelName, subscriber: &EntityId) -> Option<Change> {
        let member = self.member(channel, subscriber)?;
        if member.node != *node {
            return None;
        }
        self.remove(channel, subscriber, Why::Unsubscribed)
    }

    /// Removes all subscriptions of a node that is gone.
    pub fn node_lost(&mut self, node: &EntityId) -> Vec<Change> {
        let all = self.of_node.get(node).cloned().unwrap_or_default();
        let removed = all
            .iter()
            .filter_map(|(channel, who)| self.remove(channel, who, Why::NodeLost));
        removed.collect()
    }

    /// The key of a channel has changed: who left does not know it.
    pub fn forget_left(&mut self, channel: &ChannelName) {
        if let Some(found) = self.channels.get_mut(channel) {
            found.left.clear();
        }
    }

    /// Removes all that is not permitted any more.
    pub fn sweep(&mut self, now: UnixMs, revocations: &Revocations) -> Vec<Change> {
        let pause = self.limits.pause;
        self.refusals.retain(|_, refusals| refusals.since.plus(pause) > now);
        let channels: Vec<ChannelName> = self.channels.keys().cloned().collect();
        let swept = channels
            .iter()
            .flat_map(|channel| self.sweep_channel(channel, now, revocations));
        swept.collect()
    }

    /// Whether somebody at another node may publish on a channel; of this node's own daemons nothing is asked.
    ///
    /// # Errors
    /// [`Reason::Unauthorized`]; [`Reason::TooMany`] for a channel more than may be.
    pub fn may_publish(
        &self,
        channel: &ChannelName,
        publisher: &EntityId,
        token: Option<&PermissionToken>,
        now: UnixMs,
        revocations: &Revocations,
    ) -> Result<(), Reason> {
        let Some(found) = self.channels.get(channel) else {
            return if self.channels.len() < self.limits.channels_max {
                Ok(())
            } else {
                Err(Reason::TooMany)
            };
        };
        if !found.policy.requires_token {
            return Ok(());
        }
        let demand = Demanded {
            right: Right::Publish,
            channel,
            presenter: publisher,
            now,
            revocations,
        };
        let token = token.ok_or(Reason::Unauthorized)?;
        let permitted = demand.of(&self.own, &found.policy, token, true);
        permitted.map_err(|_| Reason::Unauthorized)
    }

    /// One subscription.
    #[must_use]
    pub fn member(&self, channel: &ChannelName, subscriber: &EntityId) -> Option<&Member> {
        self.channels.get(channel)?.members.get(subscriber)
    }

    /// The subscriptions of a channel.
    pub fn members<'a>(&'a self, channel: &ChannelName) -> impl Iterator<Item = (&'a EntityId, &'a Member)> + use<'a> {
        self.channels.get(channel).into_iter().flat_map(|found| &found.members)
    }

    /// The policy of a channel; that of one that nobody opened is the default.
    #[must_use]
    pub fn policy(&self, channel: &ChannelName) -> ChannelPolicy {
        self.channels
            .get(channel)
            .map_or_else(ChannelPolicy::default, |found| found.policy.clone())
    }

    /// How many requests were refused.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// How many channels it knows, and how many nodes whose refusals it counts.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.channels.len(), self.refusals.len())
    }

    fn judge(&self, request: &Request, now: UnixMs, revocations: &Revocations) -> Result<(), Reason> {
        if self.refusals.get(&request.node).is_some_and(|refusals| {
            refusals.count >= self.limits.refusals_max && refusals.since.plus(self.limits.pause) > now
        }) {
            return Err(Reason::RateLimited);
        }
        let channel = self.channels.get(&request.channel);
        match channel.and_then(|found| found.members.get(&request.subscriber)) {
            Some(member) if member.epoch > request.epoch => return Err(Reason::Unauthorized),
            Some(member) if member.epoch == request.epoch && member.node != request.node => {
                return Err(Reason::Unauthorized);
            }
            Some(member) if member.node == request.node => {}
            Some(_) => self.room_of_node(&request.node)?,
            None => {
                self.room_of_node(&request.node)?;
                let full = match channel {
                    Some(found) => found.members.len() >= self.limits.per_channel_max,
                    None => self.channels.len() >= self.limits.channels_max,
                };
                if full {
                    return Err(Reason::TooMany);
                }
            }
        }
        let Some(found) = channel.filter(|found| found.policy.requires_token) else {
            return Ok(());
        };
        let token = request.token.as_ref().filter(|_| request.proven);
        let demand = Demanded::to_read(&request.channel, &request.subscriber, now, revocations);
        let permitted = demand.of(&self.own, &found.policy, token.ok_or(Reason::Unauthorized)?, true);
        permitted.map_err(|_| Reason::Unauthorized)
    }

    fn room_of_node(&self, node: &EntityId) -> Result<(), Reason> {
        let has = self.of_node.get(node).map_or(0, BTreeSet::len);
        if has >= self.limits.per_node_max {
            Err(Reason::TooMany)
        } else {
            Ok(())
        }
    }

    fn accept(&mut self, request: Request) -> Option<Change> {
        let Request {
            node,
            subscriber,
            epoch,
            channel,
            group,
            token,
            proven,
        } = request;
        let found = self.channels.entry(channel.clone()).or_default();
        let checked = found.policy.requires_token;
        let member = Member {
            node,
            epoch,
            group: group.clone(),
            token,
            proven,
            checked,
        };
        found.left.remove(&subscriber);
        let before = found.members.insert(subscriber, member);
        if let Some(before) = &before {
            self.forget_at_node(&before.node, &channel, &subscriber);
        }
        self.of_node
            .entry(node)
            .or_default()
            .insert((channel.clone(), subscriber));
        match before {
            None => Some(Change::Added { channel, subscriber }),
            Some(before) if before.node == node && before.group == group => None,
            Some(before) => Some(Change::Moved {
                channel,
                subscriber,
                before: (before.node, before.group),
            }),
        }
    }

    fn remove(&mut self, channel: &ChannelName, subscriber: &EntityId, why: Why) -> Option<Change> {
        let found = self.channels.get_mut(channel)?;
        let member = found.members.remove(subscriber)?;
        let is_permitted = matches!(why, Why::Unsubscribed | Why::NodeLost) && found.policy.requires_token;
        if let Some(token) = member.token.as_ref().filter(|_| is_permitted) {
            found.left.insert(*subscriber, token.clone());
            // The key changes before so many have left.
            if found.left.len() > 2 * LEFT_MAX {
                found.left.pop_first();
            }
        }
        if found.members.is_empty() && !found.opened {
            self.channels.remove(channel);
        }
        self.forget_at_node(&member.node, channel, subscriber);
        Some(Change::Removed {
            channel: channel.clone(),
            subscriber: *subscriber,
            member,
            why,
        })
    }

    fn forget_at_node(&mut self, node: &EntityId, channel: &ChannelName, subscriber: &EntityId) {
        if let Some(all) = self.of_node.get_mut(node) {
            all.remove(&(channel.clone(), *subscriber));
            if all.is_empty() {
                self.of_node.remove(node);
            }
        }
    }

    fn sweep_channel(&mut self, channel: &ChannelName, now: UnixMs, revocations: &Revocations) -> Vec<Change> {
        let Some(found) = self.channels.get_mut(channel) else {
            return Vec::new();
        };
        let Channel {
            policy, members, left, ..
        } = found;
        if !policy.requires_token {
            left.clear();
            return Vec::new();
        }
        let mut changes = Vec::new();
        left.retain(|who, token| {
            let demand = Demanded::to_read(channel, who, now, revocations);
            let is_permitted = demand.of(&self.own, policy, token, false).is_ok();
            if !is_permitted {
                let (channel, subscriber) = (channel.clone(), *who);
                changes.push(Change::Lapsed { channel, subscriber });
            }
            is_permitted
        });
        let mut refused = Vec::new();
        for (who, member) in members {
            let demand = Demanded::to_read(channel, who, now, revocations);
            // Who subscribed while the channel was open may not have signed, and its token was not looked at.
            let token = member.token.as_ref().filter(|_| member.proven);
            if token.is_some_and(|token| demand.of(&self.own, policy, token, !member.checked).is_ok()) {
                member.checked = true;
            } else {
                refused.push(*who);
            }
        }
        let removed = refused
            .iter()
            .filter_map(|who| self.remove(channel, who, Why::Unauthorized));
        changes.extend(removed);
        changes
    }

    fn channel_mut(&mut self, channel: &ChannelName) -> Option<&mut Channel> {
        if !self.channels.contains_key(channel) && self.channels.len() >= self.limits.channels_max {
            return None;
        }
        Some(self.channels.entry(channel.clone()).or_default())
    }

    fn count_refusal(&mut self, node: EntityId, now: UnixMs) {
        let (pause, counted_max) = (self.limits.pause, self.limits.counted_max);
        if self.refusals.len() >= counted_max && !self.refusals.contains_key(&node) {
            self.refusals.retain(|_, refusals| refusals.since.plus(pause) > now);
            if self.refusals.len() >= counted_max {
                return;
            }
        }
        let refusals = self.refusals.entry(node).or_insert(Refusals { since: now, count: 0 });
        if refusals.since.plus(pause) <= now {
            *refusals = Refusals { since: now, count: 0 };
        }
        refusals.count = refusals.count.saturating_add(1);
    }
}

/// What is asked of a token, but for who is trusted.
struct Demanded<'a> {
    right: Right,
    channel: &'a ChannelName,
    presenter: &'a EntityId,
    now: UnixMs,
    revocations: &'a Revocations,
}

impl<'a> Demanded<'a> {
    const fn to_read(
        channel: &'a ChannelName,
        presenter: &'a EntityId,
        now: UnixMs,
        revocations: &'a Revocations,
    ) -> Self {
        Self {
            right: Right::Subscribe,
            channel,
            presenter,
            now,
            revocations,
        }
    }

    fn of(
        &self,
        own: &EntityId,
        policy: &ChannelPolicy,
        token: &PermissionToken,
        signatures: bool,
    ) -> Result<(), TokenError> {
        let roots: BTreeSet<EntityId> = policy.roots.iter().copied().chain([*own]).collect();
        let demand = Demand {
            roots: &roots,
            right: self.right,
            channel: self.channel,
            presenter: self.presenter,
            now: self.now,
            skew: SKEW,
            revocations: self.revocations,
        };
        if signatures {
            token.verify(&demand)
        } else {
            token.recheck(&demand)
        }
    }
}
