//! A node with consumers.

use std::collections::BTreeMap;

use super::{DAEMONS, Held, Mistake, OWNERS, Scene, broken, daemon_of, direct_wrongly};
use crate::config::Durability;
use crate::consumer::{Action, Consumer, Position, Signal};
use crate::link::CausalLink;
use crate::stream::{Frame, Output};

pub(super) struct Reader {
    node: usize,
    consumers: BTreeMap<usize, Consumer>,
}

impl Reader {
    pub(super) fn new(node: usize, daemons: &[usize], scene: &mut Scene) -> Self {
        let consumer = |daemon: &usize| {
            let entity = DAEMONS[*daemon];
            (*daemon, Consumer::new(entity, Position::start(&entity)))
        };
        let mut reader = Self {
            node,
            consumers: daemons.iter().map(consumer).collect(),
        };
        reader.begin(scene);
        reader
    }

    fn begin(&mut self, scene: &mut Scene) {
        for (daemon, consumer) in &mut self.consumers {
            let mut actions = Vec::new();
            consumer.step(scene.now, Signal::Started, &mut actions);
            for action in actions {
                answer(self.node, *daemon, &action, scene);
            }
        }
    }

    /// What it has done is durable, and everything else is gone.
    pub(super) fn crash(&mut self, scene: &mut Scene) {
        scene.report.crashes += 1;
        for (daemon, consumer) in &mut self.consumers {
            *consumer = Consumer::new(DAEMONS[*daemon], *consumer.position());
        }
        self.begin(scene);
    }

    pub(super) fn hear(&mut self, from: usize, frame: &Frame<'_>, scene: &mut Scene) -> Held {
        match frame {
            Frame::Announce(announce) => {
                let Some(daemon) = daemon_of(announce.entity) else {
                    return Ok(());
                };
                self.step(daemon, Signal::Announce(announce), scene)
            }
            Frame::Output(output) => {
                let Some(daemon) = daemon_of(output.entity) else {
                    return Ok(());
                };
                let mut output = *output;
                if scene.makes(Mistake::NoParentCheck)
                    && let Some(consumer) = self.consumers.get(&daemon)
                {
                    output = believing(&output, consumer.position());
                }
                self.step(daemon, Signal::Output(&output), scene)
            }
            _ => {
                direct_wrongly(self.node, from, frame, scene);
                Ok(())
            }
        }
    }

    fn step(&mut self, daemon: usize, signal: Signal<'_>, scene: &mut Scene) -> Held {
        let Some(consumer) = self.consumers.get_mut(&daemon) else {
            return Ok(());
        };
        let before = consumer.position().n;
        let mut actions = Vec::new();
        consumer.step(scene.now, signal, &mut actions);
        let position = *consumer.position();
        let went_back = actions.iter().any(|action| matches!(action, Action::RolledBack { .. }));
        let may_go_back = scene.options.durability == Durability::None && scene.options.owners_crash;
        if (position.n < before || went_back) && !(went_back && may_go_back) {
            return broken(
                "OneChain",
                format!("a consumer went back from {before} to {}", position.n),
            );
        }
        for action in actions {
            match action {
                Action::Take { sequence } => {
                    scene.report.taken += 1;
                    scene.facts.taken(daemon, position.epoch, sequence, position.head)?;
                }
                Action::Alarm(alarm) => {
                    return broken("OneChain", format!("a consumer of {daemon} at {position:?}: {alarm:?}"));
                }
                action => answer(self.node, daemon, &action, scene),
            }
        }
        Ok(())
    }

    /// Whether all consumers are where the owners are.
    pub(super) fn is_at(&self, announced: &[(u64, u64); 2]) -> bool {
        self.consumers.iter().all(|(daemon, consumer)| {
            let position = consumer.position();
            (position.epoch, position.n) == announced[*daemon]
        })
    }

    pub(super) fn waits(&self) -> String {
        let positions: Vec<_> = self.consumers.values().map(Consumer::position).collect();
        format!("{positions:?}")
    }
}

fn answer(node: usize, daemon: usize, action: &Action, scene: &mut Scene) {
    let entity = DAEMONS[daemon];
    let frame = match *action {
        Action::Acknowledge { epoch, n } => Frame::OutAck { entity, epoch, n },
        Action::Follow { epoch, after } => Frame::Follow { entity, epoch, after },
        _ => return,
    };
    scene.send(node, OWNERS[daemon], &frame);
}

/// The output as a consumer sees it that does not look at parents.
fn believing<'a>(output: &Output<'a>, position: &Position) -> Output<'a> {
    let is_next = output.link.sequence == position.n + 1;
    Output {
        link: CausalLink {
            parent: if is_next {
                position.head.head8()
            } else {
                output.link.parent
            },
            ..output.link
        },
        ..*output
    }
}
