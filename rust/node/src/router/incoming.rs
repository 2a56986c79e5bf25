//! What is in a body that came in: events for mailboxes, answers for flows, and questions where a daemon is.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use meshos_core::finder::{self, Known};
use meshos_core::id::EntityId;
use meshos_core::inflow;
use meshos_core::ingress::EventKey;
use meshos_core::outbox;
use meshos_core::parcel;
use meshos_core::stream::{Flow, Frame};

use super::Inner;
use crate::clock;
use crate::linked::{Arrived, Back, Incoming, Mailed};
use crate::mesh::Delivered;
use crate::ways::{Effects, Places, WayKey};

/// Answers that are taken in under one lock, which callers wait for.
const ANSWERS_MAX: usize = 64;
/// When an event is tried again for which the mailbox of its daemon had no room, in milliseconds.
const MAILBOX_RETRY_MS: u32 = 50;
/// When an event is tried again whose daemon is about to be here, in milliseconds.
const ARRIVING_RETRY_MS: u32 = 5;

impl Inner {
    /// Takes the messages of a body in.
    pub(super) fn hear(&self, body: Delivered, effects: &mut Effects) {
        let arrived = Arc::new(Arrived {
            body,
            received_ns: clock::unix_us() * 1000,
            back: self.this.upgrade().expect("who has a turn is there") as Arc<dyn Back>,
        });
        let bytes = arrived.body.body();
        let Ok(messages) = parcel::open(bytes) else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let mut events = Vec::new();
        let mut to: Option<EntityId> = None;
        let mut answers = Vec::new();
        for message in messages {
            let Ok(frame) = message.and_then(Frame::decode) else {
                self.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            if let Frame::Event(event) = frame {
                if to.is_some_and(|to| to != event.flow.entity) {
                    self.mail(to, &arrived, &mut events);
                }
                to = Some(event.flow.entity);
                let begin = event.payload.as_ptr().addr() - bytes.as_ptr().addr();
                let payload: Range<usize> = begin..begin + event.payload.len();
                let (prev, flow) = (event.prev, event.flow);
                let key = EventKey {
                    origin: flow.origin,
                    stream: flow.stream,
                    sequence: event.sequence,
                };
                events.push(Incoming { key, prev, payload });
            } else {
                answers.push(frame);
            }
        }
        self.mail(to, &arrived, &mut events);
        for some in answers.chunks(ANSWERS_MAX) {
            self.hear_answers(arrived.from(), some, effects);
        }
    }

    /// Puts events into the mailbox of a daemon, and answers those that have no place there.
    fn mail(&self, to: Option<EntityId>, arrived: &Arc<Arrived>, events: &mut Vec<Incoming>) {
        let Some(entity) = to.filter(|_| !events.is_empty()) else {
            return;
        };
        self.arrived.fetch_add(events.len() as u64, Ordering::Relaxed);
        let mut refused = Vec::new();
        let is_here = self.home.mail(&entity, arrived, events, &mut |event, mailed| {
            if mailed != Mailed::Taken {
                refused.push((event.key, mailed));
            }
        });
        if !is_here {
            refused = events.iter().map(|event| (event.key, Mailed::Gone)).collect();
        }
        events.clear();
        if refused.is_empty() {
            return;
        }
        let arrives = self.arrives(entity.origin());
        let known = self.guided(&entity);
        let mut outbound = self.outbound.lock();
        for (key, mailed) in refused {
            let sequence = key.sequence;
            let flow = Flow {
                entity,
                origin: key.origin,
                stream: key.stream,
            };
            let frame = match mailed {
                Mailed::Taken => continue,
                Mailed::Repeated => Frame::Queued { flow, sequence },
                Mailed::Full => Frame::Busy {
                    flow,
                    sequence,
                    retry_after_ms: MAILBOX_RETRY_MS,
                },
                Mailed::Gone if arrives => Frame::Busy {
                    flow,
                    sequence,
                    retry_after_ms: ARRIVING_RETRY_MS,
                },
                Mailed::Gone => inflow::elsewhere(known.map(|known| (known.node, known.epoch)), flow, sequence, 0),
            };
            outbound.put(arrived.from(), &frame);
        }
    }

    /// Takes in what is not an event.
    fn hear_answers(&self, from: EntityId, frames: &[Frame<'_>], effects: &mut Effects) {
        let now = self.now();
        let mut ways = self.ways.lock();
        let mut outbound = self.outbound.lock();
        // Of one flow most often: a handle is a digest.
        let mut last: Option<(Flow, WayKey)> = None;
        for frame in frames {
            let place = (self as &dyn Places, &mut *outbound, &mut *effects);
            match frame {
                Frame::Find { origin } => {
                    // While it is about to be here nobody may conclude that it is nowhere.
                    if let Some(answer) = self.found(*origin) {
                        outbound.put(from, &answer);
                    }
                }
                Frame::Found { entity, node, epoch } => {
                    let known = Known {
                        entity: *entity,
                        node: *node,
                        epoch: *epoch,
                    };
                    ways.search(now, entity.origin(), finder::Signal::Found(known), place);
                }
                Frame::Nobody { origin } => ways.search(now, *origin, finder::Signal::Nobody { from }, place),
                Frame::Locate { flow } => {
                    let answer = self.located(*flow);
                    outbound.put(from, &answer);
                }
                Frame::Ack { flow, .. }
                | Frame::Busy { flow, .. }
                | Frame::Queued { flow, .. }
                | Frame::Gap { flow, .. }
                | Frame::Stale { flow, .. }
                | Frame::Moved { flow, .. }
                | Frame::NotHere { flow, .. }
                | Frame::PassedOver { flow, .. } => {
                    let key = match last {
                        Some((known, key)) if known == *flow => key,
                        _ => WayKey {
                            to: flow.entity.origin(),
                            origin: flow.origin,
                            stream: flow.stream,
                        },
                    };
                    last = Some((*flow, key));
                    let cursor = if let Frame::Stale { cursor, .. } = frame {
                        *cursor
                    } else {
                        0
                    };
                    if let Frame::Moved { node, epoch, .. } = frame {
                        let known = Known {
                            entity: flow.entity,
                            node: *node,
                            epoch: *epoch,
                        };
                        ways.search(now, key.to, finder::Signal::Found(known), place);
                    } else if let Some(signal) = outbox::Signal::of(frame) {
                        ways.step(now, key, signal, cursor, place);
                    }
                }
                Frame::Event(_)
                | Frame::Output(_)
                | Frame::OutAck { .. }
                | Frame::Follow { .. }
                | Frame::Announce(_) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}
