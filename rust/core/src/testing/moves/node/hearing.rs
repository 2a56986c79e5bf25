//! What comes in.

use super::Node;
use std::time::Duration;

use super::super::{ENTITY, Held, Message, Mistake, NODE_IDS, Scene, broken, id_of};
use crate::feed;
use crate::inflow;
use crate::move_chunks;
use crate::move_frame::{self, Body, MoveFrame, Reject};
use crate::move_order;
use crate::move_source;
use crate::move_target;
use crate::owner;
use crate::ownership::OwnershipRecord;
use crate::ownership_frame::{self, OwnershipFrame};
use crate::stream::Frame;
use crate::time::UnixMs;

impl Node {
    pub fn hear(&mut self, from: usize, message: Message, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        match message {
            Message::Move(frame) => self.heard_move(from, *frame, scene),
            Message::Chunk {
                mid,
                image,
                index,
                length,
            } => {
                if live.chunks.as_ref().is_some_and(|(_, order)| order.mid == mid) {
                    return self.chunk(move_chunks::Signal::Chunk { image, index, length }, scene);
                }
                Ok(())
            }
            Message::Own(frame) => self.heard_directory(*frame, scene),
            Message::Show(record) => self.owner(owner::Signal::Heard(*record), scene),
            Message::Stream(bytes) => {
                let Ok(frame) = Frame::decode(&bytes) else {
                    return broken("Frames", "a frame cannot be read");
                };
                self.heard_stream(from, &frame, scene)
            }
        }
    }

    pub(super) fn heard_directory(&mut self, frame: OwnershipFrame, scene: &mut Scene) -> Held {
        let ask = frame.ask;
        let answer = match frame.body {
            ownership_frame::Body::Registered { epoch, .. } => owner::Answer::Registered { epoch },
            ownership_frame::Body::LeaseOk { epoch, lease_ms, .. } => owner::Answer::LeaseOk {
                epoch,
                lease: Duration::from_millis(u64::from(lease_ms)),
            },
            ownership_frame::Body::Unregistered { reason, .. } => owner::Answer::Unregistered(reason),
            ownership_frame::Body::Higher(record) => return self.owner(owner::Signal::Higher { ask, record }, scene),
            ownership_frame::Body::Install { lineage, .. } => {
                let Some(record) = lineage.last().copied() else {
                    return Ok(());
                };
                return self.owner(owner::Signal::Install { run: ask.run, record }, scene);
            }
            _ => return Ok(()),
        };
        self.owner(owner::Signal::Answer { ask, answer }, scene)
    }

    pub(super) fn heard_move(&mut self, from: usize, mut frame: MoveFrame<'static>, scene: &mut Scene) -> Held {
        let me = NODE_IDS[self.index];
        let roles = frame.body.roles(&me);
        let sender = id_of(from);
        if roles.orchestrator {
            let body = frame.body.clone();
            self.order_step(frame.mid, move_order::Signal::Heard { from: sender, body }, scene)?;
        }
        let Some(live) = &mut self.live else { return Ok(()) };
        let owned = live
            .owner
            .may_process(scene.now)
            .then(|| live.owner.active().map(OwnershipRecord::epoch));
        let owned = owned.flatten();
        let wall = scene.wall(self.index);
        if roles.target {
            let engaged = live.source.phase() != move_source::Phase::Idle;
            let is_taking = scene.layout.candidates > self.index && !scene.one_in(20);
            let refusal = match (engaged, is_taking) {
                (true, _) => Some(Reject::from(move_frame::Reason::Busy)),
                (_, false) => Some(Reject::from(move_frame::Reason::NotReady)),
                _ => None,
            };
            let signal = move_target::Signal::Heard {
                from: sender,
                frame: Box::new(frame.clone()),
                wall,
                owned,
                refusal,
            };
            self.target(signal, scene)?;
        }
        let Some(live) = &mut self.live else { return Ok(()) };
        if roles.source {
            match (&mut frame.body, live.source.phase()) {
                (Body::Committed, move_source::Phase::Committed) if scene.makes(Mistake::WaitsForRetire) => {
                    return Ok(());
                }
                (Body::Committed, move_source::Phase::Committed) if scene.makes(Mistake::AnyCommitted) => {
                    if let (Some(order), Some(record)) = (live.source.order(), live.known.highest()) {
                        frame.mid = order.mid;
                        let from = record.node();
                        return self.heard_source(from, frame, wall, owned, scene);
                    }
                }
                (Body::AbortReq, move_source::Phase::Committed) if scene.makes(Mistake::AbortsAfterCommit) => {
                    return self.abort_after_commit(frame, scene);
                }
                _ => {}
            }
            return self.heard_source(sender, frame, wall, owned, scene);
        }
        Ok(())
    }

    pub(super) fn heard_source(
        &mut self,
        from: crate::id::EntityId,
        frame: MoveFrame<'static>,
        wall: UnixMs,
        owned: Option<u64>,
        scene: &mut Scene,
    ) -> Held {
        let signal = move_source::Signal::Heard {
            from,
            frame: Box::new(frame),
            wall,
            owned,
            refusal: None,
        };
        self.source(signal, scene)
    }

    pub(super) fn abort_after_commit(&mut self, frame: MoveFrame<'static>, scene: &mut Scene) -> Held {
        let highest = self.disk.highest().map_or(0, |record| record.epoch());
        let key = self.disk.records.remove(&highest);
        let item = crate::move_rows::Item::Done(UnixMs::new(1 << 40));
        let mid = key.map_or(frame.mid, |record| record.mid);
        self.disk.apply(vec![item.write(&ENTITY, &mid)], None, scene)?;
        self.restart(false, scene)
    }

    pub(super) fn heard_stream(&mut self, from: usize, frame: &Frame<'_>, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        match frame {
            Frame::Event(event) => self.event(from, event, scene),
            Frame::Locate { flow } => {
                let active = live.owner.active().or(live.owner.elsewhere());
                let known = active.map(|record| (record.node(), record.epoch()));
                let answer = inflow::elsewhere(known, *flow, 0, 0);
                scene.send(self.index, from, Message::Stream(answer.to_bytes()));
                Ok(())
            }
            Frame::OutAck { epoch, n, .. } => {
                self.feed(from, feed::Signal::OutAck { epoch: *epoch, n: *n }, scene);
                Ok(())
            }
            Frame::Follow { epoch, after, .. } => {
                let signal = feed::Signal::Follow {
                    epoch: *epoch,
                    after: *after,
                };
                self.feed(from, signal, scene);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
