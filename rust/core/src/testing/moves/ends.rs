//! Senders and consumers.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::disk::answer_of;
use super::facts::Uid;
use super::subject::Given;
use super::{ENTITY, Held, Message, Scene, broken, node_of};
use crate::consumer::{self, Consumer, Position};
use crate::id::Origin;
use crate::ingress::DIRECT;
use crate::outbox::{Action, Limits, Outbox, Outcome, Signal};
use crate::stream::{Flow, Frame};

/// A node that sends.
pub struct Sender {
    pub node: usize,
    outbox: Outbox<Vec<u8>>,
    contents: BTreeMap<u64, u64>,
    next: u64,
}

impl Sender {
    pub fn new(node: usize, scene: &mut Scene) -> Self {
        let flow = Flow {
            entity: *ENTITY,
            origin: Origin::new(node as u64),
            stream: DIRECT,
        };
        Self {
            node,
            outbox: Outbox::new(flow, Limits::default(), scene.random.next_u64()),
            contents: BTreeMap::new(),
            next: 0,
        }
    }

    pub fn write(&mut self, count: usize, scene: &mut Scene) -> Held {
        for _ in 0..count {
            self.next += 1;
            let content = (self.node as u64) << 32 | self.next;
            self.contents.insert(self.next, content);
            scene.report.written += 1;
            let number = scene.report.written;
            let payload = scene.kind.payload(number)?;
            let sent = [content.to_le_bytes().as_slice(), &payload].concat();
            let given = Given {
                number,
                origin: Origin::new(self.node as u64),
                sequence: self.next,
                content,
                payload,
                at: scene.wall(self.node),
            };
            scene.given.insert(content, Rc::new(given));
            let signal = Signal::Send {
                sequence: self.next,
                payload: sent,
                deadline: None,
            };
            self.step(signal, scene)?;
        }
        Ok(())
    }

    pub fn hear(&mut self, frame: &Frame<'_>, scene: &mut Scene) -> Held {
        let Some(signal) = answer_of(frame) else { return Ok(()) };
        if let Signal::Ack { receipt, .. } = signal {
            let sequence = receipt.sequence;
            let Some(content) = self.contents.get(&sequence).copied() else {
                return broken("Receipt", format!("{sequence} was never sent"));
            };
            let uid = Uid {
                origin: Origin::new(self.node as u64),
                sequence,
                content,
            };
            if scene.facts.acknowledged(uid, receipt)? {
                scene.report.acknowledged += 1;
            }
        }
        self.step(signal, scene)
    }

    pub fn step(&mut self, signal: Signal<Vec<u8>>, scene: &mut Scene) -> Held {
        let mut actions = Vec::new();
        self.outbox.step(scene.now, signal, &mut actions);
        for action in actions {
            match action {
                Action::Transmit { sequence, to } => {
                    if let Some(event) = self.outbox.event(sequence) {
                        let bytes = Frame::Event(event).to_bytes();
                        scene.send(self.node, node_of(to), Message::Stream(bytes));
                    }
                }
                Action::Locate => {
                    let bytes = Frame::Locate {
                        flow: self.outbox.flow(),
                    };
                    for node in 0..scene.layout.candidates {
                        scene.send(self.node, node, Message::Stream(bytes.to_bytes()));
                    }
                }
                Action::Settled { sequence, outcome } => {
                    if outcome == Outcome::Unknown && scene.facts.keeps_all() {
                        return broken("Receipt", format!("{sequence} is open, and got Stale"));
                    }
                }
                Action::Lost { after, through, .. } => {
                    if scene.facts.keeps_all() {
                        return broken("NotLost", format!("{action:?} is told"));
                    }
                    scene.report.lost += 1;
                    scene.report.rolled_back += through - after;
                }
                Action::Release { .. } | Action::TimedOut { .. } | Action::Refused { .. } => {}
            }
        }
        Ok(())
    }

    pub fn wake_at(&self) -> Duration {
        self.outbox.wake_at().unwrap_or(Duration::MAX)
    }

    pub fn is_done(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Events that are not settled.
    pub fn open(&self) -> usize {
        self.outbox.open().count()
    }

    pub fn waits(&self) -> String {
        format!(
            "{:?} to {:?}",
            self.outbox.open().collect::<Vec<_>>(),
            self.outbox.owner()
        )
    }
}

/// A node that follows the chain.
pub struct Reader {
    pub node: usize,
    consumer: Consumer,
}

impl Reader {
    pub fn new(node: usize, scene: &mut Scene) -> Held<Self> {
        let mut reader = Self {
            node,
            consumer: Consumer::new(*ENTITY, Position::start(&ENTITY)),
        };
        reader.step(consumer::Signal::Started, scene)?;
        Ok(reader)
    }

    pub fn hear(&mut self, frame: &Frame<'_>, scene: &mut Scene) -> Held {
        match frame {
            Frame::Announce(announce) => self.step(consumer::Signal::Announce(announce), scene),
            Frame::Output(output) => self.step(consumer::Signal::Output(output), scene),
            _ => Ok(()),
        }
    }

    fn step(&mut self, signal: consumer::Signal<'_>, scene: &mut Scene) -> Held {
        let mut actions = Vec::new();
        self.consumer.step(scene.now, signal, &mut actions);
        let position = *self.consumer.position();
        for action in actions {
            let frame = match action {
                consumer::Action::Take { sequence } => {
                    scene.report.taken += 1;
                    scene.facts.taken(position.epoch, sequence, position.head)?;
                    continue;
                }
                consumer::Action::Alarm(alarm) => {
                    return broken("OneChain", format!("a consumer at {position:?}: {alarm:?}"));
                }
                consumer::Action::RolledBack { .. } if scene.facts.keeps_all() => {
                    return broken("OneChain", format!("a consumer at {position:?} goes back"));
                }
                consumer::Action::Acknowledge { epoch, n } => Frame::OutAck {
                    entity: *ENTITY,
                    epoch,
                    n,
                },
                consumer::Action::Follow { epoch, after } => Frame::Follow {
                    entity: *ENTITY,
                    epoch,
                    after,
                },
                _ => continue,
            };
            for node in 0..scene.layout.candidates {
                scene.send(self.node, node, Message::Stream(frame.to_bytes()));
            }
        }
        Ok(())
    }

    pub fn is_at(&self, epoch: u64, n: u64) -> bool {
        let position = self.consumer.position();
        (position.epoch, position.n) == (epoch, n)
    }

    pub fn waits(&self) -> String {
        format!("{:?}", self.consumer.position())
    }
}
