//! Who reads the channels of a publisher, and who has their keys.

use std::time::Duration;

use zeroize::Zeroizing;

use super::{Publisher, QUIET};
use crate::channel_frame::{ChannelFrame, Reason, Subscribe};
use crate::channel_keys;
use crate::id::EntityId;
use crate::queue_group::Signal;
use crate::roster::{Change, Request, Why};
use crate::sealed_channel::{ChannelKey, HandedKey};
use crate::testing::channels::facts::SWEEP;
use crate::testing::channels::{
    GATED, Held, Mistake, Scene, channel_of, daemon_id, daemon_of, name, node_id, node_key, node_of,
};
use crate::token::{PermissionToken, Right, Scope, Terms};

impl Publisher {
    pub(super) fn subscribe(&mut self, from: usize, asked: &Subscribe, scene: &mut Scene) -> Held {
        let (Some(channel), Some(daemon)) = (channel_of(&asked.channel), daemon_of(&asked.subscriber)) else {
            return Ok(());
        };
        let nonce = asked.nonce;
        let mut request = Request {
            node: node_id(from),
            subscriber: asked.subscriber,
            epoch: asked.epoch,
            proven: asked.is_proven(&node_id(from), &node_id(self.node)),
            channel: asked.channel.clone(),
            group: asked.group.clone(),
            token: PermissionToken::decode(&asked.token).ok(),
        };
        if scene.makes(Mistake::SubscribeUnchecked) && channel == GATED {
            let terms = Terms {
                subject: asked.subscriber,
                scope: Scope::All,
                rights: [Right::Subscribe].into_iter().collect(),
                delegations: 0,
            };
            let hour = Duration::from_secs(3_600);
            let made = PermissionToken::issue(node_key(self.node), terms, scene.wall(), hour, scene.bytes());
            (request.proven, request.token) = (true, made.ok());
        }
        let change = match self.roster.subscribe(request, scene.wall(), &self.revocations) {
            Ok(change) => change,
            Err(reason) => {
                scene.report.refused += 1;
                scene.send(self.node, from, &ChannelFrame::Rejected { nonce, reason });
                return Ok(());
            }
        };
        if let Some(Change::Moved {
            before: (_, Some(_)), ..
        }) = &change
        {
            self.leave_group(channel, daemon, scene)?;
        }
        let (log, next, actions) = if asked.group.is_some() {
            self.join(channel, daemon, asked.after, scene)
        } else {
            let found = &self.channels[channel];
            (found.life, found.log.last() + 1, Vec::new())
        };
        scene.facts.accepted(nonce, log, next);
        scene.send(self.node, from, &ChannelFrame::Accepted { nonce, log, next });
        self.act(channel, actions, scene)?;
        self.channels[channel].head = (scene.now + QUIET, QUIET);
        self.keys(channel, &channel_keys::Signal::Accepted(asked.subscriber), scene)
    }

    pub(super) fn leave_group(&mut self, channel: usize, daemon: usize, scene: &mut Scene) -> Held {
        let found = &mut self.channels[channel];
        let life = (self.node, channel, found.life);
        scene.facts.member_left(life, daemon);
        let Some(group) = &mut found.group else { return Ok(()) };
        group.turns.remove(&daemon);
        let actions = group.queue.step(Signal::Left(daemon_id(daemon)));
        self.act(channel, actions, scene)?;
        let found = &mut self.channels[channel];
        if found.group.as_ref().is_some_and(|group| group.queue.is_empty()) {
            found.group = None;
        }
        Ok(())
    }

    pub(super) fn removed(&mut self, changes: Vec<Change>, scene: &mut Scene) -> Held {
        for change in changes {
            if let Change::Lapsed { subscriber, .. } = change {
                if !scene.makes(Mistake::ForgetsWhoLeft) {
                    self.keys(GATED, &channel_keys::Signal::Revoked(vec![subscriber]), scene)?;
                }
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
            let (Some(channel), Some(daemon)) = (channel_of(&channel), daemon_of(&subscriber)) else {
                continue;
            };
            if member.group.is_some() {
                self.leave_group(channel, daemon, scene)?;
            }
            if why == Why::Unauthorized {
                self.ended(channel, &subscriber, &member.node, scene);
                self.keys(channel, &channel_keys::Signal::Revoked(vec![subscriber]), scene)?;
                continue;
            }
            if why == Why::Unsubscribed {
                scene.facts.removed((self.node, channel, daemon))?;
            }
            self.keys(channel, &channel_keys::Signal::Unsubscribed(subscriber), scene)?;
        }
        Ok(())
    }

    pub(super) fn ended(&self, channel: usize, subscriber: &EntityId, node: &EntityId, scene: &mut Scene) {
        let frame = ChannelFrame::Ended {
            channel: name(channel).clone(),
            subscriber: *subscriber,
            reason: Reason::Unauthorized,
        };
        scene.send(self.node, node_of(node).expect("all nodes are known"), &frame);
    }

    /// Removes whose permission is over; what is published now is kept from those who left before theirs was.
    pub(super) fn sweep(&mut self, scene: &mut Scene) -> Held {
        self.next_sweep = scene.now + SWEEP;
        let changes = self.roster.sweep(scene.wall(), &self.revocations);
        self.removed(changes, scene)
    }

    pub(super) fn keys(&mut self, channel: usize, signal: &channel_keys::Signal, scene: &mut Scene) -> Held {
        let Some(keys) = &mut self.channels[channel].keys else {
            return Ok(());
        };
        if scene.makes(Mistake::KeyNotRotated) && matches!(signal, channel_keys::Signal::Revoked(_)) {
            return Ok(());
        }
        for action in keys.machine.step(signal) {
            match action {
                channel_keys::Action::NewGeneration { .. } => {
                    scene.report.keys += 1;
                    keys.key = ChannelKey::new(scene.bytes());
                    self.roster.forget_left(name(channel));
                }
                channel_keys::Action::Hand { to, generation } => {
                    let (Some(member), Some(daemon)) = (self.roster.member(name(channel), &to), daemon_of(&to)) else {
                        continue;
                    };
                    scene
                        .facts
                        .handed((self.node, channel, daemon), generation, scene.wall())?;
                    let ephemeral = Zeroizing::new(scene.bytes());
                    let own = node_key(self.node);
                    let handed = HandedKey::seal(&keys.key, generation, name(channel), own, &to, &ephemeral);
                    let node = node_of(&member.node).expect("all nodes are known");
                    scene.send_bytes(self.node, node, handed.expect("good keys").to_bytes());
                }
                channel_keys::Action::Refuse { .. } => {}
            }
        }
        Ok(())
    }
}
