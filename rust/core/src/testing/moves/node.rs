//! A node: the machines of every role, and the daemon while it is here.

use std::collections::BTreeMap;
use std::time::Duration;

use super::disk::{Change, Disk, Image, Input, Tag};
use super::facts::Uid;
use super::{
    CANDIDATES, CENTRE, ENTITY, FULL, Held, Message, Mistake, NODE_IDS, NODE_KEYS, READERS, SPAWN, Scene, broken,
    id_of, node_of,
};
use crate::certificate::Reason;
use crate::config::{DaemonHostConfig, Durability};
use crate::cursors::{Cursors, Receipt};
use crate::feed::{self, Feed};
use crate::host::{Few, Host};
use crate::inflow::{self, Admission};
use crate::ingress::{DIRECT, EventKey};
use crate::link::CausalLink;
use crate::mix;
use crate::move_chunks::{self, ChunkReceiver};
use crate::move_frame::{self, Body, MoveFrame, Reject};
use crate::move_known::{self, Known};
use crate::move_order::{self, MoveOrchestrator, OrderConfig};
use crate::move_rows::{MoveOrder, Outcome, Prepared, Queued};
use crate::move_source::{self, Gate, MoveSource, SourceConfig};
use crate::move_target::{self, Alarm, MoveTarget, TargetConfig};
use crate::owner::{self, Owner, OwnerConfig};
use crate::ownership::{MigrationId, OwnershipRecord};
use crate::ownership_frame::{self, OwnershipFrame};
use crate::rows::{Table, Write};
use crate::stream::{Announce, Event, Flow, Frame, Output, lineage_digest};
use crate::time::UnixMs;

/// An image in two chunks.
const IMAGE_BYTES: u64 = (1 << 20) + 7;

/// What is gone after a crash.
struct Live {
    known: Known,
    owner: Owner,
    source: MoveSource,
    target: MoveTarget,
    orders: BTreeMap<MigrationId, MoveOrchestrator>,
    daemon: Option<Box<Image>>,
    /// Writes of events that are not durable yet.
    pending: usize,
    /// Outputs that are durable, and those that were published.
    durable: u64,
    published: u64,
    feeds: BTreeMap<usize, Feed>,
    chunks: Option<(ChunkReceiver, Box<MoveOrder>)>,
    installing: Option<(Box<Prepared>, Vec<Write>)>,
    freezing: Option<Box<MoveOrder>>,
}

pub struct Node {
    index: usize,
    run: u64,
    places: u64,
    up_at: Duration,
    live: Option<Box<Live>>,
    pub disk: Disk,
}

impl Live {
    /// Whether a record is that of the move that is being installed.
    fn installs(&self, record: &OwnershipRecord) -> bool {
        let installing = self.installing.as_ref();
        installing.is_some_and(|(prepared, _)| prepared.order.mid == record.mid)
    }
}

/// User code: what an event does to the state, and what it emits.
fn process(state: &mut u64, content: u64) -> Few<Vec<u8>> {
    *state = mix::pair(*state, content);
    (0..*state % 3)
        .map(|output| mix::pair(*state, output).to_le_bytes().to_vec())
        .collect()
}

fn content(payload: &[u8]) -> u64 {
    payload.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn config(scene: &Scene) -> DaemonHostConfig {
    DaemonHostConfig {
        durability: if scene.options.journal {
            Durability::Journal
        } else {
            Durability::None
        },
        ..DaemonHostConfig::default()
    }
}

fn flow(origin: crate::id::Origin, stream: u64) -> Flow {
    Flow {
        entity: *ENTITY,
        origin,
        stream,
    }
}

impl Node {
    pub fn new(index: usize) -> Self {
        Self {
            index,
            run: 0,
            places: 0,
            up_at: Duration::MAX,
            live: None,
            disk: Disk::default(),
        }
    }

    /// Begins for the first time: the first node has the daemon.
    pub fn begin(&mut self, scene: &mut Scene) -> Held {
        if self.index == 0 {
            let image = Image {
                host: Host::new(*ENTITY, config(scene)),
                state: 1,
                history: Vec::new(),
                outputs: Vec::new(),
            };
            self.disk
                .apply(vec![SPAWN.write()], Some(Change::Base(Box::new(image))), scene)?;
        }
        self.restart(true, scene)
    }

    fn restart(&mut self, is_first: bool, scene: &mut Scene) -> Held {
        self.up_at = Duration::MAX;
        self.run += 1;
        let seed = mix::pair(self.run, self.index as u64);
        let me = NODE_IDS[self.index];
        let items: Vec<_> = self.disk.items.values().cloned().collect();
        let recovered = move_known::recover(me, *ENTITY, &self.disk.lineage(), &items);
        self.disk.apply(recovered.writes, None, scene)?;
        let owner = OwnerConfig {
            directory: scene.options.takeovers,
            margin: Duration::from_millis(100),
            renew_every: Duration::from_millis(300),
            resend: Duration::from_millis(100),
            seed,
        };
        scene.runs[self.index] = seed;
        let source = SourceConfig {
            reserved: Duration::from_millis(500),
            freeze: Duration::from_millis(300),
            queue_max: 40,
            seed,
            ..SourceConfig::default()
        };
        let target = TargetConfig {
            reserved: Duration::from_secs(3),
            ask_first: Duration::from_millis(100),
            ask_max: Duration::from_secs(2),
            alarm: Duration::from_secs(1),
            seed,
            ..TargetConfig::default()
        };
        let orders = recovered.ordered.into_iter().map(|order| {
            let config = order_config(seed);
            (order.mid, MoveOrchestrator::recovered(order, config))
        });
        self.live = Some(Box::new(Live {
            known: recovered.known,
            owner: Owner::new(me, seed, owner),
            source: MoveSource::new(me, *ENTITY, source, recovered.unretired),
            target: MoveTarget::new(me, *ENTITY, target, recovered.prepared),
            orders: orders.collect(),
            daemon: None,
            pending: 0,
            durable: 0,
            published: 0,
            feeds: BTreeMap::new(),
            chunks: None,
            installing: None,
            freezing: None,
        }));
        let Some(record) = self.disk.highest() else {
            return Ok(());
        };
        let loses = !scene.options.journal && !is_first && record.node() == me;
        let restart = match &self.disk.base {
            Some(base) if loses && !scene.makes(Mistake::NoRestartRecord) => {
                let position = base.host.position();
                let next = record.restarted(position.sequence, position.digest, &NODE_KEYS[self.index]);
                Some(Box::new(next.expect(FULL)))
            }
            _ => None,
        };
        self.owner(owner::Signal::Recover { record, restart }, scene)
    }

    pub fn crash(&mut self, scene: &mut Scene) -> Held {
        if self.live.take().is_some() {
            scene.report.crashes += 1;
            scene.facts.source_crashed(self.index);
            self.disk.crash(scene)?;
            self.up_at = scene.soon(400_000);
        }
        Ok(())
    }

    /// A place at which it may crash. Returns whether it did.
    fn place(&mut self, scene: &mut Scene) -> Held<bool> {
        if scene.is_counting {
            self.places += 1;
            scene.report.places[self.index] = self.places;
        }
        let here = match scene.options.scripted {
            Some((_, Some(crash))) => scene.is_counting && (crash.node, crash.place) == (self.index, self.places),
            Some(_) => false,
            None => scene.options.crashes && scene.one_in(500),
        };
        if here {
            self.crash(scene)?;
        }
        Ok(here)
    }

    pub fn wake_at(&self) -> Duration {
        let Some(live) = &self.live else { return self.up_at };
        let machines = [
            live.owner.wake_at(),
            live.source.wake_at(),
            live.target.wake_at(),
            live.chunks.as_ref().and_then(|(chunks, _)| chunks.wake_at()),
        ];
        let orders = live.orders.values().filter_map(MoveOrchestrator::wake_at);
        let feeds = live.feeds.values().filter_map(Feed::wake_at);
        let next = machines.into_iter().flatten().chain(orders).chain(feeds).min();
        next.unwrap_or(Duration::MAX).min(self.disk.wake_at())
    }

    pub fn wake(&mut self, scene: &mut Scene) -> Held {
        if self.live.is_none() {
            return if self.up_at <= scene.now {
                self.restart(false, scene)
            } else {
                Ok(())
            };
        }
        while let Some((tag, is_kept)) = self.disk.done(scene)? {
            let is_step = matches!(tag, Tag::Source(_) | Tag::Target(_) | Tag::Order(..) | Tag::Owner(..));
            if is_step && self.place(scene)? {
                return Ok(());
            }
            self.written(tag, is_kept, scene)?;
            if self.live.is_none() {
                return Ok(());
            }
        }
        let now = scene.now;
        self.owner(owner::Signal::Timer, scene)?;
        self.source(move_source::Signal::Timer, scene)?;
        self.target(move_target::Signal::Timer, scene)?;
        for mid in self.order_ids() {
            self.order_step(mid, move_order::Signal::Timer, scene)?;
        }
        let Some(live) = &mut self.live else { return Ok(()) };
        let readers: Vec<_> = live.feeds.keys().copied().collect();
        if live
            .chunks
            .as_ref()
            .is_some_and(|(chunks, _)| chunks.wake_at().is_some_and(|at| at <= now))
        {
            self.chunk(move_chunks::Signal::Timer, scene)?;
        }
        for reader in readers {
            self.feed(reader, feed::Signal::Timer, scene);
        }
        Ok(())
    }

    fn order_ids(&self) -> Vec<MigrationId> {
        self.live
            .as_ref()
            .map_or(Vec::new(), |live| live.orders.keys().copied().collect())
    }

    fn written(&mut self, tag: Tag, is_kept: bool, scene: &mut Scene) -> Held {
        match tag {
            Tag::Owner(ticket, record) => {
                self.owner(owner::Signal::Kept(ticket), scene)?;
                let Some(live) = &self.live else { return Ok(()) };
                if !live.installs(&record) {
                    self.source(move_source::Signal::Fenced(record.clone()), scene)?;
                    self.target(move_target::Signal::Fenced(record), scene)?;
                } else if let Some(live) = &mut self.live {
                    live.known.learn(&record);
                }
                Ok(())
            }
            Tag::Source(ticket) if is_kept => {
                self.source(move_source::Signal::Kept(ticket), scene)?;
                if let (true, Some(live)) = (scene.makes(Mistake::ForgetsAborted), &mut self.live) {
                    self.disk
                        .items
                        .retain(|_, (_, item)| !matches!(item, crate::move_rows::Item::Done(_)));
                    drop(live.known.forget(UnixMs::new(u64::MAX)));
                }
                Ok(())
            }
            Tag::Source(ticket) => self.source(move_source::Signal::Failed(ticket), scene),
            Tag::Target(ticket) if is_kept => self.target(move_target::Signal::Kept(ticket), scene),
            Tag::Target(ticket) => self.target(move_target::Signal::Failed(ticket), scene),
            Tag::Order(mid, ticket) if is_kept => self.order_step(mid, move_order::Signal::Kept(ticket), scene),
            Tag::Order(mid, ticket) => self.order_step(mid, move_order::Signal::Failed(ticket), scene),
            Tag::Event(answer, published) => self.event_kept(answer, published, scene),
            Tag::Nothing => Ok(()),
        }
    }

    fn event_kept(&mut self, answer: Option<(usize, Frame<'static>)>, published: u64, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        live.pending = live.pending.saturating_sub(1);
        live.durable = live.durable.max(published);
        if live.owner.may_process(scene.now) || scene.makes(Mistake::StaysActive) {
            if let Some((to, frame)) = answer {
                scene.send(self.index, to, Message::Stream(frame.to_bytes()));
            }
            self.publish(published, scene);
        }
        self.freeze_if_quiet(scene)
    }

    fn publish(&mut self, n: u64, scene: &mut Scene) {
        let Some(live) = &mut self.live else { return };
        live.published = live.published.max(n);
        for reader in READERS {
            self.feed(reader, feed::Signal::Published { n }, scene);
        }
    }

    // -- the daemon

    fn event(&mut self, from: usize, event: &Event<'_>, scene: &mut Scene) -> Held {
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
            return self.take(from, event, scene);
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

    fn take(&mut self, from: usize, event: &Event<'_>, scene: &mut Scene) -> Held {
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
                let receipt = apply(daemon, uid);
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
                    let input = Change::Input(Input {
                        uid,
                        digest: receipt.digest,
                    });
                    self.disk
                        .submit(Vec::new(), Some(input), Tag::Event(Some((from, ack)), n), scene);
                }
                return Ok(());
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

    fn take_queued(&mut self, queue: Vec<Queued>, scene: &mut Scene) -> Held {
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

    fn freeze_if_quiet(&mut self, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        if live.pending > 0 {
            return Ok(());
        }
        let Some(order) = live.freezing.take() else {
            return Ok(());
        };
        let (Some(daemon), Some(active)) = (&live.daemon, live.owner.active()) else {
            let failed = Reject::from(move_frame::Reason::NotOwner);
            return self.source(move_source::Signal::FreezeFailed(failed), scene);
        };
        if scene.one_in(40) {
            let failed = Reject::from(move_frame::Reason::StateFailed);
            return self.source(move_source::Signal::FreezeFailed(failed), scene);
        }
        let frozen = daemon.frozen();
        let mut image = (**daemon).clone();
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
                    output.2.clear();
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
        scene.images.insert(frozen.image, image);
        scene.frozen.insert(frozen.image, frozen);
        let signal = move_source::Signal::Frozen {
            frozen,
            image_bytes: IMAGE_BYTES,
            lineage: self.disk.lineage(),
            record: Box::new(record.expect(FULL)),
        };
        self.source(signal, scene)
    }

    /// The daemon as it is on the disk.
    pub fn rebuilt(&self, scene: &mut Scene) -> Held<Option<Box<Image>>> {
        let Some(mut image) = self.disk.base.clone() else {
            return Ok(None);
        };
        for input in &self.disk.inputs {
            let receipt = apply(&mut image, input.uid);
            if receipt.digest != input.digest {
                return broken("OneChain", format!("{:?} is replayed to another digest", input.uid));
            }
        }
        scene.facts.activated(&image.history)?;
        Ok(Some(image))
    }

    // -- ownership

    fn owner(&mut self, signal: owner::Signal, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        let mut actions = Vec::new();
        live.owner.step(scene.now, signal, &mut actions);
        for action in actions {
            self.do_owner(action, scene)?;
        }
        Ok(())
    }

    fn do_owner(&mut self, action: owner::Action, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        match action {
            owner::Action::Keep {
                ticket,
                record,
                mut writes,
            } => {
                let mut change = None;
                let is_mine = record.node() == NODE_IDS[self.index];
                if record.reason() == Reason::Takeover && is_mine {
                    let Some(image) = scene.takeovers.get(&record.epoch()) else {
                        return broken("OneLive", "what is to be taken over is gone");
                    };
                    let (mut image, lineage) = image.clone();
                    image.host = image.host.under(record.certificate);
                    change = Some(Change::Base(Box::new(image)));
                    writes.extend(lineage.iter().map(OwnershipRecord::write));
                } else if let (true, Some((prepared, rows))) = (live.installs(&record), &live.installing) {
                    let Some(image) = self.disk.images.get(&prepared.frozen.image) else {
                        return broken("OneLive", "what a target holds is gone");
                    };
                    let mut image = image.clone();
                    if image.host.position().digest != record.certificate.digest {
                        return broken("OneChain", "the chain that was restored is another");
                    }
                    image.host = image.host.under(record.certificate);
                    change = Some(Change::Base(Box::new(image)));
                    writes.extend(prepared.lineage.iter().map(OwnershipRecord::write));
                    writes.extend(rows.iter().cloned());
                } else if let (true, Some(base)) = (is_mine, &self.disk.base) {
                    let mut base = base.clone();
                    base.host = base.host.under(record.certificate);
                    change = Some(Change::Base(base));
                }
                if self.place(scene)? {
                    return Ok(());
                }
                self.disk
                    .submit(writes, change, Tag::Owner(ticket, Box::new(record)), scene);
                self.place(scene)?;
            }
            owner::Action::Activate { epoch } => {
                let daemon = self.rebuilt(scene)?;
                let Some(live) = &mut self.live else { return Ok(()) };
                live.published = daemon.as_ref().map_or(0, |daemon| daemon.outputs.len() as u64);
                live.durable = live.published;
                live.daemon = daemon;
                live.pending = 0;
                live.installing = None;
                for reader in READERS {
                    let feed = Feed::new(epoch, live.published, scene.random.next_u64());
                    live.feeds.insert(reader, feed);
                }
                for reader in READERS {
                    self.feed(reader, feed::Signal::Started, scene);
                }
                self.target(move_target::Signal::Activated { epoch }, scene)?;
            }
            owner::Action::Stop => live.feeds.clear(),
            owner::Action::Send(frame) => scene.send(self.index, CENTRE, Message::Own(Box::new(frame))),
            owner::Action::RegisterLineage(ask) => {
                let body = ownership_frame::Body::Register(self.disk.lineage());
                scene.send(self.index, CENTRE, Message::Own(Box::new(OwnershipFrame { ask, body })));
            }
            owner::Action::Resume => {
                let durable = live.durable;
                self.publish(durable, scene);
            }
            owner::Action::Refused(_) => {}
        }
        Ok(())
    }

    // -- moves

    fn source(&mut self, signal: move_source::Signal<'_>, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        let mut actions = Vec::new();
        let before = live.source.counters().shipped;
        live.source.step(scene.now, &mut live.known, signal, &mut actions);
        let shipped = live.source.counters().shipped - before;
        for action in actions {
            self.do_source(action, shipped, scene)?;
        }
        Ok(())
    }

    fn do_source(&mut self, action: move_source::Action, shipped: u64, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        match action {
            move_source::Action::Send { to, frame } => return self.say(to, frame, scene),
            move_source::Action::SendChunk { to, image, index } => {
                let range = move_chunks::range(IMAGE_BYTES, index);
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
            move_source::Action::Ended { outcome, .. } => {
                scene.report.aborted += u64::from(outcome == Outcome::Aborted);
            }
        }
        Ok(())
    }

    fn keep(&mut self, writes: Vec<Write>, tag: Tag, scene: &mut Scene) -> Held {
        if !self.place(scene)? {
            self.disk.submit(writes, None, tag, scene);
            self.place(scene)?;
        }
        Ok(())
    }

    fn say(&mut self, to: crate::id::EntityId, frame: MoveFrame<'static>, scene: &mut Scene) -> Held {
        if !self.place(scene)? {
            scene.send(self.index, node_of(to), Message::Move(Box::new(frame)));
            self.place(scene)?;
        }
        Ok(())
    }

    fn target(&mut self, signal: move_target::Signal<'_>, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        let mut actions = Vec::new();
        let order = live.target.order().cloned();
        live.target.step(scene.now, &mut live.known, signal, &mut actions);
        for action in actions {
            self.do_target(action, order.as_ref(), scene)?;
        }
        Ok(())
    }

    fn do_target(&mut self, action: move_target::Action, order: Option<&MoveOrder>, scene: &mut Scene) -> Held {
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
                return self.owner(signal, scene);
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
    fn in_doubt(&mut self, mid: MigrationId, scene: &mut Scene) -> Held {
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

    fn chunk(&mut self, signal: move_chunks::Signal, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        let Some((chunks, _)) = &mut live.chunks else {
            return Ok(());
        };
        let mut actions = Vec::new();
        chunks.step(scene.now, signal, &mut actions);
        self.do_chunks(actions, scene)
    }

    fn do_chunks(&mut self, actions: Vec<move_chunks::Action>, scene: &mut Scene) -> Held {
        for action in actions {
            let Some(live) = &mut self.live else { return Ok(()) };
            let Some((chunks, order)) = &live.chunks else {
                return Ok(());
            };
            match action {
                move_chunks::Action::Pull { index } => {
                    let frame = MoveFrame {
                        mid: order.mid,
                        entity: order.entity,
                        epoch: order.epoch,
                        step: 1,
                        body: Body::Pull {
                            image: chunks.image().0,
                            index,
                        },
                    };
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

    fn restore(&mut self, digest: crate::digest::Digest, scene: &mut Scene) -> Held {
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
    fn apply_early(&mut self, digest: crate::digest::Digest, scene: &mut Scene) -> Held {
        let Some(image) = self.disk.images.get_mut(&digest) else {
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
        apply(image, uid);
        Ok(())
    }

    pub fn order(&mut self, order: MoveOrder, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        let mid = order.mid;
        let seed = scene.random.next_u64();
        let (orchestrator, action) = MoveOrchestrator::begin(order, order_config(seed));
        live.orders.insert(mid, orchestrator);
        self.do_order(mid, action, scene)
    }

    fn order_step(&mut self, mid: MigrationId, signal: move_order::Signal<'_>, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        let Some(orchestrator) = live.orders.get_mut(&mid) else {
            return Ok(());
        };
        let mut actions = Vec::new();
        let before = orchestrator.phase();
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

    fn do_order(&mut self, mid: MigrationId, action: move_order::Action, scene: &mut Scene) -> Held {
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

    // -- messages

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

    fn heard_directory(&mut self, frame: OwnershipFrame, scene: &mut Scene) -> Held {
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

    fn heard_move(&mut self, from: usize, mut frame: MoveFrame<'static>, scene: &mut Scene) -> Held {
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
        let wall = scene.wall();
        if roles.target {
            let engaged = live.source.phase() != move_source::Phase::Idle;
            let is_taking = CANDIDATES > self.index && !scene.one_in(20);
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

    fn heard_source(
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

    fn abort_after_commit(&mut self, frame: MoveFrame<'static>, scene: &mut Scene) -> Held {
        let highest = self.disk.highest().map_or(0, |record| record.epoch());
        let key = self.disk.records.remove(&highest);
        let item = crate::move_rows::Item::Done(UnixMs::new(1 << 40));
        let mid = key.map_or(frame.mid, |record| record.mid);
        self.disk.apply(vec![item.write(&ENTITY, &mid)], None, scene)?;
        self.restart(false, scene)
    }

    fn heard_stream(&mut self, from: usize, frame: &Frame<'_>, scene: &mut Scene) -> Held {
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

    fn feed(&mut self, reader: usize, signal: feed::Signal, scene: &mut Scene) {
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

    // -- the end

    pub fn has_orders(&self) -> bool {
        self.live.as_ref().is_some_and(|live| !live.orders.is_empty())
    }

    /// Epoch and outputs, if it owns the daemon.
    pub fn announced(&self, now: Duration) -> Option<(u64, u64)> {
        let live = self.live.as_ref()?;
        let epoch = live.owner.active().filter(|_| live.owner.may_process(now))?.epoch();
        Some((epoch, live.published))
    }

    pub fn is_quiet(&self) -> bool {
        self.live.as_ref().is_some_and(|live| {
            live.source.phase() == move_source::Phase::Idle
                && live.target.phase() == move_target::Phase::Idle
                && live.orders.is_empty()
                && live.pending == 0
                && self.disk.wake_at() == Duration::MAX
        })
    }

    pub fn waits(&self) -> String {
        let Some(live) = &self.live else {
            return format!("node {} is down", self.index);
        };
        let orders: Vec<_> = live.orders.values().map(MoveOrchestrator::phase).collect();
        format!(
            "node {}: {:?} in {:?} of {}, source {:?} {:?}, target {:?} {:?}, orders {orders:?}",
            self.index,
            live.owner.phase(),
            live.owner.active().map(OwnershipRecord::epoch),
            live.known.epoch(),
            live.source.phase(),
            live.source.counters(),
            live.target.phase(),
            live.target.counters()
        )
    }

    /// What holds of a node when everything is quiet.
    pub fn check(&self, scene: &Scene) -> Held {
        let Some(live) = &self.live else { return Ok(()) };
        let counters = live.source.counters();
        let left = counters.shipped + counters.thawed + counters.redirected;
        if counters.queued != left + live.source.waits() as u64 {
            return broken("Conserved", format!("{counters:?}"));
        }
        match (&live.daemon, live.owner.active()) {
            (Some(daemon), Some(_)) => scene.facts.activated(&daemon.history),
            (None, Some(record)) => broken("OneLive", format!("the owner of epoch {} has no state", record.epoch())),
            _ => Ok(()),
        }
    }
}

/// Takes an event into effect.
fn apply(daemon: &mut Image, uid: Uid) -> Receipt {
    let key = EventKey {
        origin: uid.origin,
        stream: DIRECT,
        sequence: uid.sequence,
    };
    let outputs = process(&mut daemon.state, uid.content);
    let emitted = daemon
        .host
        .returned(key, outputs, |link: CausalLink, digest, output| (link, digest, output));
    daemon.outputs.extend(emitted.expect("there is room"));
    daemon.history.push(uid);
    daemon.host.receipt(key)
}

/// A receipt that is made up.
fn invented(daemon: &Image, sequence: u64) -> Receipt {
    let position = daemon.host.position();
    Receipt {
        sequence,
        epoch: daemon.host.epoch(),
        processed: position.processed,
        position: position.sequence,
        digest: position.digest,
    }
}

fn order_config(seed: u64) -> OrderConfig {
    OrderConfig {
        prepare: Duration::from_millis(500),
        drive: Duration::from_millis(500),
        freeze: Duration::from_millis(300),
        seed,
    }
}
