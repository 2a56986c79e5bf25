//! The queue groups of a publisher.

use std::collections::BTreeMap;

use super::{Publisher, next_life};
use crate::channel_frame::{ChannelFrame, Event};
use crate::channel_log::Logged;
use crate::queue_group::{Action, QueueGroup, Signal};
use crate::testing::channels::{Held, Key, Mistake, Scene, daemon_id, daemon_of, name, node_of};

pub(super) struct Group {
    pub queue: QueueGroup,
    /// What was given and not taken.
    pub given: BTreeMap<u64, Logged>,
    /// The last turn of each member.
    pub turns: BTreeMap<usize, u64>,
}

impl Publisher {
    pub(super) fn send_turn(
        &self,
        channel: usize,
        daemon: usize,
        (term, turn): (u64, u64),
        logged: &Logged,
        scene: &mut Scene,
    ) {
        let subscriber = daemon_id(daemon);
        let member = self.roster.member(name(channel), &subscriber);
        let Some(node) = member.and_then(|member| node_of(&member.node)) else {
            return;
        };
        let (sealed, payload) = self.payload(channel, logged);
        let frame = ChannelFrame::Turn {
            channel: name(channel).clone(),
            subscriber,
            term,
            turn,
            event: Event {
                sequence: logged.sequence,
                emitter: logged.emitter,
                sealed,
                payload: &payload,
            },
        };
        scene.send(self.node, node, &frame);
    }

    pub(super) fn act(&mut self, channel: usize, actions: Vec<Action>, scene: &mut Scene) -> Held {
        let life = (self.node, channel, self.channels[channel].life);
        for action in actions {
            let found = &mut self.channels[channel];
            let Some(group) = &mut found.group else { return Ok(()) };
            match action {
                Action::Welcome { .. } => {}
                Action::Lost(gap) => {
                    group
                        .given
                        .retain(|sequence, _| !(gap.first..=gap.last).contains(sequence));
                    scene.facts.lost(life, gap);
                }
                Action::Give {
                    to,
                    term,
                    turn,
                    sequence,
                } => {
                    let daemon = daemon_of(&to).expect("all members are known");
                    group.turns.insert(daemon, turn);
                    if let Some(logged) = found.log.get(sequence) {
                        group.given.entry(sequence).or_insert_with(|| logged.clone());
                    }
                    let logged = group.given[&sequence].clone();
                    scene.facts.given(life, daemon, (term, turn), sequence)?;
                    self.send_turn(channel, daemon, (term, turn), &logged, scene);
                }
            }
        }
        Ok(())
    }

    /// Takes a member in, perhaps not for the first time; its term, and the next of its turns.
    pub(super) fn join(
        &mut self,
        channel: usize,
        daemon: usize,
        after: Option<(u64, u64)>,
        scene: &mut Scene,
    ) -> (u64, u64, Vec<Action>) {
        let term = next_life(&mut self.lives, scene);
        let found = &mut self.channels[channel];
        let last = found.log.last();
        let group = found.group.get_or_insert_with(|| Group {
            queue: QueueGroup::after(last, term),
            given: BTreeMap::new(),
            turns: BTreeMap::new(),
        });
        let who = daemon_id(daemon);
        let mut actions = Vec::new();
        if scene.makes(Mistake::GivesToTwo) && group.queue.term(&who).is_none() {
            for other in group.turns.keys() {
                let has = group.queue.open(&daemon_id(*other)).count();
                if has > 0 {
                    actions.extend(group.queue.step(Signal::Joined(who)));
                    actions.extend(group.queue.step(Signal::Left(daemon_id(*other))));
                    break;
                }
            }
        }
        let turn = group.turns.get(&daemon).copied().unwrap_or(0);
        actions.extend(group.queue.step(Signal::Joined(who)));
        let term = group.queue.term(&who).expect("it just joined");
        let goes_on = after.is_some_and(|(known, _)| known == term);
        let open = group.queue.open(&who).map(|(turn, _)| turn).find(|open| *open <= turn);
        let next = match open {
            Some(first) if !goes_on => first,
            _ => turn + 1,
        };
        (term, next, actions)
    }

    pub(super) fn remind(&self, channel: usize, daemon: usize, scene: &mut Scene) {
        let Some(group) = &self.channels[channel].group else {
            return;
        };
        let who = daemon_id(daemon);
        if let (Some(term), Some((turn, sequence))) = (group.queue.term(&who), group.queue.open(&who).last())
            && let Some(logged) = group.given.get(&sequence)
        {
            self.send_turn(channel, daemon, (term, turn), logged, scene);
        }
    }

    pub(super) fn took(&mut self, key: Key, term: u64, turn: u64, scene: &mut Scene) -> Held {
        let (_, channel, daemon) = key;
        let found = &mut self.channels[channel];
        let life = (self.node, channel, found.life);
        let Some(group) = &mut found.group else { return Ok(()) };
        let who = daemon_id(daemon);
        if group.queue.term(&who) == Some(term) {
            let taken = group.queue.open(&who).take_while(|(open, _)| *open <= turn);
            let taken: Vec<u64> = taken.map(|(_, sequence)| sequence).collect();
            taken.iter().for_each(|sequence| drop(group.given.remove(sequence)));
            scene.facts.taken(life, daemon, &taken)?;
        }
        let actions = group.queue.step(Signal::Taken { who, term, turn });
        self.act(channel, actions, scene)
    }
}
