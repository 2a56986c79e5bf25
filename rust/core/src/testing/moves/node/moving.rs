//! What the machines of moves decide.

use super::super::disk::{Change, Image, Tag};
use super::super::facts::Uid;
use super::super::timeline::Note;
use super::super::{ENTITY, FULL, Held, Message, Mistake, NODE_IDS, NODE_KEYS, Scene, broken, node_of, number_of};
use super::daemon::{apply, invented};
use super::{Live, MESSAGE, Node, WRITE, flow, order_config};
use crate::move_chunks::{self, ChunkReceiver};
use crate::move_frame::{self, Body, MoveFrame, Reject};
use crate::move_order::{self, MoveOrchestrator};
use crate::move_rows::{MoveOrder, Outcome};
use crate::move_source;
use crate::move_target::{self, Alarm};
use crate::owner;
use crate::ownership::MigrationId;
use crate::rows::{Table, Write};
use crate::stream::Frame;

impl Node {
    pub(super) fn source(&mut self, signal: move_source::Signal<'_>, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        let mut actions = Vec::new();
        let before = live.source.counters().shipped;
        let under_way = live.source.order().map(|order| order.mid);
        scene.coverage.source(live.source.phase(), under_way, &signal);
        live.source.step(scene.now, &mut live.known, signal, &mut actions);
        let shipped = live.source.counters().shipped - before;
        for action in actions {
            self.do_source(action, shipped, scene)?;
        }
        Ok(())
    }

    pub(super) fn do_source(&mut self, action: move_source::Action, shipped: u64, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        match action {
            move_source::Action::Send { to, frame } => return self.say(to, frame, scene),
            move_source::Action::SendChunk { to, image, index } => {
                let size = scene.images.get(&image).map_or(0, Image::size);
                let range = move_chunks::range(size, index);
                let mid = live.source.order().map_or(MigrationId::default(), |order| order.mid);
                if let Some(range) = range {
                    let length = usize::try_from(range.end - range.start).unwrap_or(0);
                    let message = Message::Chunk {
                        mid,
                        image,
                        index,
                        length,
                    };
                    scene.send(self.index, node_of(to), message);
                }
            }
            move_source::Action::Keep { ticket, writes } => {
                let early =
                    scene.makes(Mistake::CommitsEarly) && writes.iter().any(|row| row.table == Table::Ownership);
                self.keep(writes, Tag::Source(ticket), scene)?;
                if early {
                    return self.source(move_source::Signal::Kept(ticket), scene);
                }
            }
            move_source::Action::Freeze { order } => {
                live.freezing = Some(order);
                return self.freeze_if_quiet(scene);
            }
            move_source::Action::Waits(waiting) => {
                let flow = flow(waiting.origin, waiting.stream);
                let sequence = waiting.sequence;
                let answer = match (&live.daemon, scene.makes(Mistake::AcknowledgesQueued)) {
                    (Some(daemon), true) => Frame::Ack {
                        flow,
                        receipt: invented(daemon, sequence),
                        duplicate: false,
                    },
                    _ => Frame::Queued { flow, sequence },
                };
                scene.send(self.index, node_of(waiting.from), Message::Stream(answer.to_bytes()));
            }
            move_source::Action::Busy(waiting) => {
                let answer = Frame::Busy {
                    flow: flow(waiting.origin, waiting.stream),
                    sequence: waiting.sequence,
                    retry_after_ms: 20,
                };
                scene.send(self.index, node_of(waiting.from), Message::Stream(answer.to_bytes()));
            }
            move_source::Action::Thaw { queue } => {
                live.freezing = None;
                scene.report.thawed += queue.len() as u64;
                if let (true, Some(daemon)) = (scene.makes(Mistake::AcknowledgesThawed), &live.daemon) {
                    for queued in queue {
                        let answer = Frame::Ack {
                            flow: flow(queued.origin, queued.stream),
                            receipt: invented(daemon, queued.sequence),
                            duplicate: false,
                        };
                        scene.send(self.index, node_of(queued.from), Message::Stream(answer.to_bytes()));
                    }
                    return Ok(());
                }
                return self.take_queued(queue, scene);
            }
            move_source::Action::Redirect { queue } => return self.take_queued(queue, scene),
            move_source::Action::Fence(record) => {
                scene.report.committed += 1;
                scene.note(Note::Committed(number_of(&record.mid)));
                scene.report.shipped += shipped;
                scene.facts.ship(record.mid, shipped);
                if !scene.makes(Mistake::StaysActive) {
                    return self.owner(owner::Signal::Heard(*record), scene);
                }
            }
            move_source::Action::Retire { .. } => {
                if !scene.makes(Mistake::StaysActive) {
                    live.daemon = None;
                }
                if scene.makes(Mistake::ForgetsRecord) {
                    let highest = self.disk.highest().map_or(0, |record| record.epoch());
                    self.disk.records.remove(&highest);
                    self.disk.items.clear();
                } else {
                    self.disk.submit(
                        Vec::new(),
                        Some(Change::Drop(NODE_IDS[self.index])),
                        Tag::Nothing,
                        scene,
                    );
                }
            }
            move_source::Action::Ended { mid, outcome, .. } => {
                if outcome == Outcome::Aborted {
                    scene.report.aborted += 1;
                    scene.note(Note::Aborted(number_of(&mid)));
                }
            }
        }
        Ok(())
    }

    pub(super) fn keep(&mut self, writes: Vec<Write>, tag: Tag, scene: &mut Scene) -> Held {
        if !self.place(WRITE, scene)? {
            self.disk.submit(writes, None, tag, scene);
            self.place(WRITE, scene)?;
        }
        Ok(())
    }

    pub(super) fn say(&mut self, to: crate::id::EntityId, frame: MoveFrame<'static>, scene: &mut Scene) -> Held {
        if !self.place(MESSAGE, scene)? {
            let message = Message::Move(Box::new(frame));
            if scene.options.strays {
                scene.said.push((self.index, node_of(to), message.clone()));
            }
            scene.send(self.index, node_of(to), message);
            self.place(MESSAGE, scene)?;
        }
        Ok(())
    }

    pub(super) fn target(&mut self, signal: move_target::Signal<'_>, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        let mut actions = Vec::new();
        let order = live.target.order().cloned();
        let under_way = order.as_ref().map(|order| order.mid);
        scene.coverage.target(live.target.phase(), under_way, &signal);
        live.target.step(scene.now, &mut live.known, signal, &mut actions);
        for action in actions {
            self.do_target(action, order.as_ref(), scene)?;
        }
        Ok(())
    }

    pub(super) fn do_target(
        &mut self,
        action: move_target::Action,
        order: Option<&MoveOrder>,
        scene: &mut Scene,
    ) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        match action {
            move_target::Action::Send { to, frame } => return self.say(to, frame, scene),
            move_target::Action::Keep { ticket, writes } => {
                let early = scene.makes(Mistake::PreparesEarly) && live.target.phase() == move_target::Phase::Keeping;
                self.keep(writes, Tag::Target(ticket), scene)?;
                if early {
                    return self.target(move_target::Signal::Kept(ticket), scene);
                }
            }
            move_target::Action::Restore {
                order,
                image,
                image_bytes,
            } => {
                let mut actions = Vec::new();
                let seed = scene.random.next_u64();
                let begun = ChunkReceiver::begin(scene.now, (image, image_bytes), 1 << 30, [], seed, &mut actions);
                live.chunks = begun.ok().map(|chunks| (chunks, order));
                return self.do_chunks(actions, scene);
            }
            move_target::Action::Discard { image } => {
                live.chunks = None;
                self.disk.images.remove(&image);
            }
            move_target::Action::Install {
                record,
                prepared,
                writes,
            } => {
                live.installing = Some((prepared, writes));
                let signal = owner::Signal::Install {
                    run: scene.runs[self.index],
                    record: *record,
                };
                self.owner(signal, scene)?;
                let is_refused = |live: &Live| live.owner.phase() == owner::Phase::Fenced;
                if self.live.as_deref().is_some_and(is_refused) {
                    return self.target(move_target::Signal::InstallRefused, scene);
                }
            }
            move_target::Action::GoLive { mut queue } => {
                if scene.makes(Mistake::TailDropped) {
                    queue.pop();
                }
                if let Some(order) = order {
                    scene.facts.went_live(&order.mid, queue.len() as u64)?;
                }
                return self.take_queued(queue, scene);
            }
            move_target::Action::Redirect { queue } => return self.take_queued(queue, scene),
            move_target::Action::Show { to, record } => scene.send(self.index, node_of(to), Message::Show(record)),
            move_target::Action::Alarm(Alarm::Unknown { mid }) => {
                return broken("OneLive", format!("move {} is not known to its target", mid[0]));
            }
            move_target::Action::Alarm(Alarm::InDoubt { mid }) => return self.in_doubt(mid, scene),
        }
        Ok(())
    }

    /// What a node does wrongly when it has been in doubt for long.
    pub(super) fn in_doubt(&mut self, mid: MigrationId, scene: &mut Scene) -> Held {
        if scene.makes(Mistake::GivesUpInDoubt) {
            self.disk.items.retain(|_, (of, _)| *of != mid);
            return self.restart(false, scene);
        }
        let prepared = self.disk.items.values().find_map(|(of, item)| match item {
            crate::move_rows::Item::Prepared(prepared) if *of == mid => Some(prepared.clone()),
            _ => None,
        });
        if let (true, Some(prepared)) = (scene.makes(Mistake::ActivatesInDoubt), prepared) {
            let (frozen, me) = (prepared.frozen, NODE_IDS[self.index]);
            let Some(last) = prepared.lineage.last() else {
                return Ok(());
            };
            let key = &NODE_KEYS[node_of(last.node())];
            let record = last.moved(me, mid, frozen.sequence, frozen.head, key);
            let frame = MoveFrame {
                mid,
                entity: *ENTITY,
                epoch: prepared.order.epoch,
                step: 1,
                body: Body::Commit {
                    record: Box::new(record.expect(FULL)),
                    from: prepared.idx(),
                    tail: Vec::new(),
                },
            };
            return self.heard_move(node_of(prepared.order.source), frame, scene);
        }
        Ok(())
    }

    pub(super) fn chunk(&mut self, signal: move_chunks::Signal, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        let Some((chunks, _)) = &mut live.chunks else {
            return Ok(());
        };
        let mut actions = Vec::new();
        let (before, is_chunk) = (*chunks.counters(), signal != move_chunks::Signal::Timer);
        chunks.step(scene.now, signal, &mut actions);
        scene.coverage.chunk(before, *chunks.counters(), is_chunk);
        self.do_chunks(actions, scene)
    }

    pub(super) fn do_chunks(&mut self, actions: Vec<move_chunks::Action>, scene: &mut Scene) -> Held {
        for action in actions {
            let Some(live) = &mut self.live else { return Ok(()) };
            let Some((chunks, order)) = &live.chunks else {
                return Ok(());
            };
            match action {
                move_chunks::Action::Pull { index } => {
                    let body = Body::Pull {
                        image: chunks.image().0,
                        index,
                    };
                    let frame = MoveFrame::about(order, body);
                    let source = order.source;
                    self.say(source, frame, scene)?;
                }
                move_chunks::Action::Take { .. } => {}
                move_chunks::Action::Whole => {
                    let image = chunks.image().0;
                    live.chunks = None;
                    return self.restore(image, scene);
                }
            }
        }
        Ok(())
    }

    pub(super) fn restore(&mut self, digest: crate::digest::Digest, scene: &mut Scene) -> Held {
        let image = scene.images.get(&digest).cloned();
        let Some(image) = image.filter(|_| !scene.one_in(40)) else {
            let failed = Reject::from(move_frame::Reason::StateFailed);
            return self.target(move_target::Signal::RestoreFailed(failed), scene);
        };
        let mut frozen = image.frozen();
        // Whoever plants a mistake in an image makes it look whole.
        if let (true, Some(named)) = (scene.options.mistake.is_some(), scene.frozen.get(&digest)) {
            frozen = *named;
        }
        self.disk.images.insert(digest, image);
        let before = self.live.as_ref().map(|live| live.target.phase());
        self.target(move_target::Signal::Restored(frozen), scene)?;
        if scene.makes(Mistake::AppliesWhilePrepared) && before == Some(move_target::Phase::Restoring) {
            self.apply_early(digest, scene)?;
        }
        Ok(())
    }

    /// Takes events of another daemon's queue in before it is told.
    pub(super) fn apply_early(&mut self, digest: crate::digest::Digest, scene: &mut Scene) -> Held {
        let Some(image) = self.disk.images.get(&digest) else {
            return Ok(());
        };
        let Some(live) = &self.live else { return Ok(()) };
        let Some(order) = live.target.order() else {
            return Ok(());
        };
        let epoch = order.epoch + 1;
        let uid = Uid {
            origin: crate::id::Origin::new(4),
            sequence: image.host.position().processed + 1000,
            content: digest.head8(),
        };
        scene.facts.apply(self.index, epoch, &image.history, &uid)?;
        let mut daemon = image.clone().wake(scene)?;
        apply(&mut daemon, uid, scene)?;
        self.disk.images.insert(digest, daemon.rest()?);
        Ok(())
    }

    pub fn order(&mut self, order: MoveOrder, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        let mid = order.mid;
        let seed = scene.random.next_u64();
        let (orchestrator, action) = MoveOrchestrator::begin(order, order_config(seed, scene));
        live.orders.insert(mid, orchestrator);
        self.do_order(mid, action, scene)
    }

    /// Whoever ordered the moves that it sees to does not want them any more.
    pub fn take_back(&mut self, scene: &mut Scene) -> Held {
        for mid in self.order_ids() {
            self.order_step(mid, move_order::Signal::Abort, scene)?;
        }
        Ok(())
    }

    pub(super) fn order_step(&mut self, mid: MigrationId, signal: move_order::Signal<'_>, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        let Some(orchestrator) = live.orders.get_mut(&mid) else {
            return Ok(());
        };
        let mut actions = Vec::new();
        let before = orchestrator.phase();
        scene.coverage.order(before, &signal);
        orchestrator.step(scene.now, signal, &mut actions);
        let asks = before == move_order::Phase::Driving && orchestrator.phase() == move_order::Phase::Asking;
        if asks && scene.makes(Mistake::ReportsItsWish) {
            live.orders.remove(&mid);
            return scene.facts.outcome(mid, Outcome::Aborted);
        }
        for action in actions {
            self.do_order(mid, action, scene)?;
        }
        Ok(())
    }

    pub(super) fn do_order(&mut self, mid: MigrationId, action: move_order::Action, scene: &mut Scene) -> Held {
        match action {
            move_order::Action::Send { to, frame } => self.say(to, frame, scene),
            move_order::Action::Keep { ticket, writes } => self.keep(writes, Tag::Order(mid, ticket), scene),
            move_order::Action::Ended { outcome, .. } => {
                if let Some(live) = &mut self.live {
                    live.orders.remove(&mid);
                }
                scene.facts.outcome(mid, outcome)
            }
        }
    }
}
