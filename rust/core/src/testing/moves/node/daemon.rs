//! The daemon of a node: what events do to it, its image, and its outputs.

use std::rc::Rc;

use super::super::disk::{Change, Daemon, Image, Input, Tag};
use super::super::facts::Uid;
use super::super::reference::shown;
use super::super::subject::Emitted;
use super::super::timeline::Note;
use super::super::{ENTITY, FULL, Held, Message, Mistake, NODE_KEYS, SPAWN, Scene, broken, id_of, node_of, number_of};
use super::{Node, config, flow};
use crate::certificate::Reason;
use crate::cursors::{Cursors, Receipt};
use crate::feed::{self, Feed};
use crate::host::Host;
use crate::inflow::{self, Admission};
use crate::ingress::{DIRECT, EventKey};
use crate::link::CausalLink;
use crate::move_frame::{self, Reject};
use crate::move_rows::Queued;
use crate::move_source::{self, Gate};
use crate::ownership::OwnershipRecord;
use crate::stream::{Announce, Event, Frame, Output, lineage_digest};
use crate::time::UnixMs;

/// How long an event may keep user code busy.
const SLOW_MICROS: usize = 2_000_000;

pub(super) fn content(payload: &[u8]) -> u64 {
    payload.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl Node {
    pub(super) fn event(&mut self, from: usize, event: &Event<'_>, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        let (flow, sequence) = (event.flow, event.sequence);
        let careless = scene.makes(Mistake::StaysActive) && live.daemon.is_some();
        let gate = live.source.gate();
        if gate == Gate::Wait {
            let queued = Queued {
                from: id_of(from),
                origin: flow.origin,
                stream: flow.stream,
                sequence,
                prev: event.prev,
                payload: event.payload.to_vec(),
            };
            return self.source(move_source::Signal::Event(queued), scene);
        }
        let runs = gate == Gate::Open && live.owner.may_process(scene.now) && live.daemon.is_some();
        if runs || careless {
            return self.begin_event(from, event, scene);
        }
        let answer = if live.target.is_busy() {
            Frame::Busy {
                flow,
                sequence,
                retry_after_ms: 20,
            }
        } else {
            let known = live.owner.elsewhere().map(|record| (record.node(), record.epoch()));
            inflow::elsewhere(known, flow, sequence, event.epoch)
        };
        scene.send(self.index, from, Message::Stream(answer.to_bytes()));
        Ok(())
    }

    /// Has user code take an event in, now or when it is done with it.
    fn begin_event(&mut self, from: usize, event: &Event<'_>, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        if let Some((until, ..)) = &live.slow {
            let message = Message::Stream(Frame::Event(*event).to_bytes());
            let until = *until;
            scene.network.put_off(until, from, self.index, message);
            return Ok(());
        }
        let is_slow = match scene.options.plan {
            Some(plan) if !scene.is_calm => plan.faults.slow_callback.happens(&mut scene.random),
            None if scene.options.strays => scene.one_in(30),
            _ => false,
        };
        if !is_slow {
            return self.take(from, event, scene);
        }
        let is_planned = scene.options.plan.is_some();
        let until = scene.soon(if is_planned { SLOW_MICROS } else { SLOW_MICROS / 10 });
        scene.report.slow += 1;
        scene.note(Note::Slow(self.index, until - scene.now));
        live.slow = Some((until, from, Frame::Event(*event).to_bytes()));
        live.pending += 1;
        Ok(())
    }

    /// User code is done with what kept it busy.
    pub(super) fn slow_ends(&mut self, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        let Some((_, from, bytes)) = live.slow.take_if(|(until, ..)| *until <= scene.now) else {
            return Ok(());
        };
        live.pending = live.pending.saturating_sub(1);
        let may_process = live.owner.may_process(scene.now);
        if let (true, Ok(Frame::Event(event))) = (may_process, Frame::decode(&bytes)) {
            self.take(from, &event, scene)?;
        }
        self.freeze_if_quiet(scene)
    }

    pub(super) fn take(&mut self, from: usize, event: &Event<'_>, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        let Some(daemon) = &mut live.daemon else { return Ok(()) };
        let (flow, sequence) = (event.flow, event.sequence);
        let key = EventKey {
            origin: flow.origin,
            stream: flow.stream,
            sequence,
        };
        let epoch = daemon.host.epoch();
        let admission = daemon.host.admit_linked(key, event.prev);
        let answer = match admission {
            Admission::CallProcess => {
                let uid = Uid {
                    origin: flow.origin,
                    sequence,
                    content: content(event.payload),
                };
                scene.facts.apply(self.index, epoch, &daemon.history, &uid)?;
                let before = (!scene.options.journal && scene.compares).then(|| daemon.history.clone());
                let (receipt, outputs) = apply(daemon, uid, scene)?;
                let input = Input {
                    uid,
                    digest: receipt.digest,
                    outputs,
                };
                if let Some(before) = before {
                    scene.took_effect(Some(&before), &input)?;
                }
                scene.took(self.index, &input, receipt.processed);
                let ack = Frame::Ack {
                    flow,
                    receipt,
                    duplicate: false,
                };
                let n = daemon.outputs.len() as u64;
                if !scene.options.journal || scene.makes(Mistake::AcknowledgesEarly) {
                    scene.send(self.index, from, Message::Stream(ack.to_bytes()));
                    self.publish(n, scene);
                }
                if scene.options.journal {
                    let Some(live) = &mut self.live else { return Ok(()) };
                    live.pending += 1;
                    let input = Change::Input(input);
                    self.disk
                        .submit(Vec::new(), Some(input), Tag::Event(Some((from, ack)), n), scene);
                }
                self.snapshot_if_due(scene)?;
                // A crash after an event took effect and before it is durable.
                return match scene.options.plan {
                    Some(_) => self.place(1, scene).map(|_| ()),
                    None => Ok(()),
                };
            }
            Admission::Malformed => return broken("Frames", "an event is malformed"),
            _ => admission.answer(flow, sequence, epoch),
        };
        let Some(answer) = answer else { return Ok(()) };
        if matches!(admission, Admission::Duplicate(_)) && live.pending > 0 {
            live.pending += 1;
            self.disk
                .submit(Vec::new(), None, Tag::Event(Some((from, answer)), 0), scene);
        } else {
            scene.send(self.index, from, Message::Stream(answer.to_bytes()));
        }
        Ok(())
    }

    pub(super) fn take_queued(&mut self, queue: Vec<Queued>, scene: &mut Scene) -> Held {
        for queued in queue {
            let event = Event {
                flow: flow(queued.origin, queued.stream),
                sequence: queued.sequence,
                prev: queued.prev,
                epoch: 0,
                payload: &queued.payload,
            };
            self.event(node_of(queued.from), &event, scene)?;
        }
        Ok(())
    }

    pub(super) fn freeze_if_quiet(&mut self, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        if live.pending > 0 {
            return Ok(());
        }
        let Some(order) = live.freezing.take() else {
            return Ok(());
        };
        let (Some(daemon), Some(active)) = (&mut live.daemon, live.owner.active()) else {
            let failed = Reject::from(move_frame::Reason::NotOwner);
            return self.source(move_source::Signal::FreezeFailed(failed), scene);
        };
        if scene.one_in(40) {
            let failed = Reject::from(move_frame::Reason::StateFailed);
            return self.source(move_source::Signal::FreezeFailed(failed), scene);
        }
        let mut image = daemon.rest()?;
        let frozen = image.frozen();
        scene.note(Note::Froze(number_of(&order.mid), self.index, frozen_after(&image)));
        scene.same_state(&image.history, image.state.as_deref(), "when a move takes it")?;
        if scene.makes(Mistake::CursorsNotShipped) || scene.makes(Mistake::ReceiptsNotShipped) {
            let mut meta = image.host.snapshot("counter".to_owned(), 1, UnixMs::new(1));
            let mut cursors = Cursors::default();
            if scene.makes(Mistake::ReceiptsNotShipped) {
                for (origin, stream, cursor) in meta.cursors.iter() {
                    cursors.advance(origin, stream, cursor);
                }
            }
            meta.cursors = cursors;
            image.host = Host::resumed(*ENTITY, meta, config(scene)).expect("of the entity");
        }
        if scene.makes(Mistake::OutputsNotShipped) {
            let acknowledged = live.feeds.values().map(Feed::acknowledged).max().unwrap_or(0);
            for (at, output) in image.outputs.iter_mut().enumerate() {
                if at as u64 >= acknowledged {
                    output.2 = Rc::from([]);
                }
            }
        }
        if scene.makes(Mistake::HeadNotShipped) {
            let mut meta = image.host.snapshot("counter".to_owned(), 1, UnixMs::new(1));
            meta.digest = crate::digest::Digest::from_bytes([7; 32]);
            image.host = Host::resumed(*ENTITY, meta, config(scene)).unwrap_or(image.host);
        }
        let (position, key) = ((frozen.sequence, frozen.head), &NODE_KEYS[self.index]);
        let record = if scene.makes(Mistake::EpochReused) {
            let statement = crate::certificate::Statement {
                entity: *ENTITY,
                epoch: active.epoch().max(2),
                node: order.target,
                from_sequence: position.0,
                digest: position.1,
                reason: Reason::Move,
            };
            OwnershipRecord::sign(statement, active.digest_of(), active.node(), order.mid, key)
        } else {
            active.moved(order.target, order.mid, position.0, position.1, key)
        };
        let image_bytes = image.size();
        scene.images.insert(frozen.image, image);
        scene.frozen.insert(frozen.image, frozen);
        let signal = move_source::Signal::Frozen {
            frozen,
            image_bytes,
            lineage: self.disk.lineage(),
            record: Box::new(record.expect(FULL)),
        };
        self.source(signal, scene)
    }

    /// Takes a snapshot of its own accord.
    fn snapshot_if_due(&mut self, scene: &mut Scene) -> Held {
        let keeps = config(scene).durability != crate::config::Durability::None;
        let Some(live) = &mut self.live else { return Ok(()) };
        let Some(daemon) = live
            .daemon
            .as_mut()
            .filter(|daemon| keeps && daemon.host.snapshot_is_due())
        else {
            return Ok(());
        };
        // It counts the events since.
        let _ = daemon.host.snapshot("counter".to_owned(), 1, UnixMs::new(1));
        let image = daemon.rest()?;
        scene.note(Note::Kept(self.index, frozen_after(&image)));
        self.disk
            .submit(Vec::new(), Some(Change::Base(Box::new(image))), Tag::Nothing, scene);
        Ok(())
    }

    /// The daemon as it is on the disk.
    pub fn rebuilt(&self, scene: &mut Scene) -> Held<Option<Box<Daemon>>> {
        let Some(base) = &self.disk.base else {
            return Ok(None);
        };
        scene.note(Note::Took(
            self.index,
            base.host.position().processed,
            self.disk.inputs.len() as u64,
        ));
        let mut daemon = base.wake(scene)?;
        if scene.compares && base.state.is_some() {
            let restored = daemon.subject.snapshot()?;
            if restored != base.state {
                return broken(
                    "SameState",
                    format!(
                        "after a restore the snapshot is {}, and what was restored is {}",
                        shown(restored.as_deref()),
                        shown(base.state.as_deref())
                    ),
                );
            }
        }
        for input in &self.disk.inputs {
            let (receipt, outputs) = apply(&mut daemon, input.uid, scene)?;
            if scene.compares && outputs != input.outputs {
                return broken(
                    "SameOutputs",
                    format!(
                        "event {} emitted {}, and {} when it is taken again after a restore",
                        scene.given(&input.uid).number,
                        shown(input.outputs.iter().map(AsRef::as_ref)),
                        shown(outputs.iter().map(AsRef::as_ref)),
                    ),
                );
            }
            if receipt.digest != input.digest {
                return broken("OneChain", format!("{:?} is replayed to another digest", input.uid));
            }
        }
        if scene.compares && !self.disk.inputs.is_empty() {
            let state = daemon.subject.snapshot()?;
            scene.same_state(&daemon.history, state.as_deref(), "when it runs again")?;
        }
        scene.facts.activated(&daemon.history)?;
        Ok(Some(daemon))
    }

    pub(super) fn feed(&mut self, reader: usize, signal: feed::Signal, scene: &mut Scene) {
        let Some(live) = &mut self.live else { return };
        let (Some(feed), Some(daemon)) = (live.feeds.get_mut(&reader), &live.daemon) else {
            return;
        };
        let mut actions = Vec::new();
        feed.step(scene.now, signal, &mut actions);
        let epoch = daemon.host.epoch();
        if actions.is_empty() {
            return;
        }
        let lineage = self.disk.lineage();
        let lineage = lineage.into_iter().map(|record| record.certificate);
        let lineage: Vec<_> = lineage.filter(|record| record.epoch <= epoch).collect();
        for action in actions {
            match action {
                feed::Action::Announce => {
                    let n = live.published;
                    let at = usize::try_from(n).unwrap_or(0).checked_sub(1);
                    let announce = Frame::Announce(Announce {
                        entity: *ENTITY,
                        epoch,
                        n,
                        head: at.map_or(SPAWN.certificate.digest, |at| daemon.outputs[at].1),
                        lineage: lineage.clone(),
                    });
                    scene.send(self.index, reader, Message::Stream(announce.to_bytes()));
                }
                feed::Action::Send { first, last } => {
                    let digest = lineage_digest(&lineage);
                    let (first, last) = (usize::try_from(first).unwrap_or(1), usize::try_from(last).unwrap_or(0));
                    for (link, _, payload) in &daemon.outputs[first - 1..last] {
                        let output = Frame::Output(Output {
                            entity: *ENTITY,
                            epoch,
                            lineage: digest,
                            link: *link,
                            payload,
                        });
                        scene.send(self.index, reader, Message::Stream(output.to_bytes()));
                    }
                }
                feed::Action::Release { .. } => {}
            }
        }
    }
}

/// Takes an event into effect.
pub(super) fn apply(daemon: &mut Daemon, uid: Uid, scene: &Scene) -> Held<(Receipt, Rc<[Emitted]>)> {
    let key = EventKey {
        origin: uid.origin,
        stream: DIRECT,
        sequence: uid.sequence,
    };
    let outputs = daemon.subject.process(&scene.given(&uid))?;
    let copy = Rc::from(&outputs[..]);
    let emitted = daemon
        .host
        .returned(key, outputs, |link: CausalLink, digest, output: Emitted| {
            (link, digest, output.payload)
        });
    daemon.outputs.extend(emitted.expect("there is room"));
    daemon.history.push(uid);
    Ok((daemon.host.receipt(key), copy))
}

/// After how many events an image was taken.
fn frozen_after(image: &Image) -> u64 {
    image.host.position().processed
}

/// A receipt that is made up.
pub(super) fn invented(daemon: &Daemon, sequence: u64) -> Receipt {
    let position = daemon.host.position();
    Receipt {
        sequence,
        epoch: daemon.host.epoch(),
        processed: position.processed,
        position: position.sequence,
        digest: position.digest,
    }
}
