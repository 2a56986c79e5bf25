//! A node: the machines of every role, and the daemon while it is here.

mod daemon;
mod hearing;
mod moving;
mod owning;

use std::collections::BTreeMap;
use std::time::Duration;

use super::disk::{Change, Daemon, Disk, Image, Tag};
use super::timeline::Note;
use super::{ENTITY, FULL, Held, Message, Mistake, NODE_IDS, NODE_KEYS, SPAWN, Scene, broken};
use crate::config::{DaemonHostConfig, Durability};
use crate::feed::{self, Feed};
use crate::host::Host;
use crate::mix;
use crate::move_chunks::{self, ChunkReceiver};
use crate::move_known::{self, Known};
use crate::move_order::{self, MoveOrchestrator, OrderConfig};
use crate::move_rows::{MoveOrder, Prepared};
use crate::move_source::{self, MoveSource, SourceConfig};
use crate::move_target::{self, MoveTarget, TargetConfig};
use crate::owner::{self, Owner, OwnerConfig};
use crate::ownership::{MigrationId, OwnershipRecord};
use crate::rows::Write;
use crate::stream::{Flow, Frame};
use crate::time::UnixMs;

/// Places of a message and of a write: before it, after it, and where it is durable or failed.
const MESSAGE: usize = 2;
const WRITE: usize = 3;

/// Times of the slowest message that the machines of a plan wait longer.
const PATIENCE: u32 = 16;

/// What is gone after a crash.
struct Live {
    known: Known,
    owner: Owner,
    source: MoveSource,
    target: MoveTarget,
    orders: BTreeMap<MigrationId, MoveOrchestrator>,
    daemon: Option<Box<Daemon>>,
    /// Writes of events that are not durable yet.
    pending: usize,
    /// Outputs that are durable, and those that were published.
    durable: u64,
    published: u64,
    feeds: BTreeMap<usize, Feed>,
    chunks: Option<(ChunkReceiver, Box<MoveOrder>)>,
    installing: Option<(Box<Prepared>, Vec<Write>)>,
    freezing: Option<Box<MoveOrder>>,
    /// An event that user code is busy with, until then.
    slow: Option<(Duration, usize, Vec<u8>)>,
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

fn config(scene: &Scene) -> DaemonHostConfig {
    if let Some(plan) = scene.options.plan {
        return plan.config;
    }
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
                state: None,
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
        // Also a record that lost to a takeover: its move was committed.
        let records: Vec<_> = self.disk.records.values().copied().collect();
        let recovered = move_known::recover(me, *ENTITY, &records, &items);
        self.disk.apply(recovered.writes, None, scene)?;
        scene.runs[self.index] = seed;
        let (owner, source, target) = configs(seed, scene);
        let config = order_config(seed, scene);
        let orders = recovered.ordered.into_iter();
        let orders = orders.map(|order| (order.mid, MoveOrchestrator::recovered(order, config)));
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
            slow: None,
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
            scene.note(Note::Crashed(self.index));
            scene.facts.source_crashed(self.index);
            let survived = self.disk.crash(scene)?;
            if survived > 0 {
                scene.note(Note::Torn(self.index, survived));
            }
            self.up_at = scene.soon(400_000);
        }
        Ok(())
    }

    /// A place at which it may crash, one of so many of a step. Returns whether it did.
    fn place(&mut self, of: usize, scene: &mut Scene) -> Held<bool> {
        if scene.is_counting {
            self.places += 1;
            if let Some(places) = scene.report.places.get_mut(self.index) {
                *places = self.places;
            }
        }
        let here = match scene.options.scripted {
            Some((_, Some(crash))) => scene.is_counting && (crash.node, crash.place) == (self.index, self.places),
            Some(_) => false,
            None => match scene.options.plan {
                Some(plan) => {
                    !scene.is_calm && plan.faults.crash.happens(&mut scene.random) && scene.random.below(of) == 0
                }
                None => scene.options.crashes && scene.one_in(500),
            },
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
            live.slow.as_ref().map(|(until, ..)| *until),
        ];
        let orders = live.orders.values().filter_map(MoveOrchestrator::wake_at);
        let feeds = live.feeds.values().filter_map(Feed::wake_at);
        let next = machines.into_iter().flatten().chain(orders).chain(feeds).min();
        next.unwrap_or(Duration::MAX).min(self.disk.wake_at())
    }

    pub fn wake(&mut self, scene: &mut Scene) -> Held {
        if self.live.is_none() {
            return if self.up_at <= scene.now {
                scene.note(Note::Began(self.index));
                self.restart(false, scene)
            } else {
                Ok(())
            };
        }
        while let Some((tag, is_kept)) = self.disk.done(scene)? {
            if !is_kept {
                scene.note(Note::WriteFailed(self.index));
            }
            let is_step = matches!(tag, Tag::Source(_) | Tag::Target(_) | Tag::Order(..) | Tag::Owner(..));
            if is_step && self.place(WRITE, scene)? {
                return Ok(());
            }
            self.written(tag, is_kept, scene)?;
            if self.live.is_none() {
                return Ok(());
            }
        }
        let now = scene.now;
        self.slow_ends(scene)?;
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
        for reader in scene.layout.readers() {
            self.feed(reader, feed::Signal::Published { n }, scene);
        }
    }

    pub fn has_orders(&self) -> bool {
        self.live.as_ref().is_some_and(|live| !live.orders.is_empty())
    }

    /// Epoch and outputs, if it owns the daemon.
    pub fn announced(&self, now: Duration) -> Option<(u64, u64)> {
        let live = self.live.as_ref()?;
        let epoch = live.owner.active().filter(|_| live.owner.may_process(now))?.epoch();
        Some((epoch, live.published))
    }

    /// Whether it crashed.
    pub fn is_down(&self) -> bool {
        self.live.is_none()
    }

    /// Whether it sees to a move.
    pub fn sees_to(&self, mid: &MigrationId) -> bool {
        self.live.as_ref().is_some_and(|live| live.orders.contains_key(mid))
    }

    /// The daemon, if it owns it.
    pub fn owned(&mut self, now: Duration) -> Option<&mut Daemon> {
        let live = self.live.as_mut()?;
        live.owner.active().filter(|_| live.owner.may_process(now))?;
        live.daemon.as_deref_mut()
    }

    pub fn is_quiet(&self) -> bool {
        self.live.as_ref().is_some_and(|live| {
            live.source.phase() == move_source::Phase::Idle
                && live.target.phase() == move_target::Phase::Idle
                && live.orders.is_empty()
                && live.slow.is_none()
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
        // One whose lease is over runs nothing, and is about to hear who owns.
        let active = live.owner.active().filter(|_| live.owner.may_process(scene.now));
        match (&live.daemon, active) {
            (Some(daemon), Some(_)) => scene.facts.activated(&daemon.history),
            (None, Some(record)) => broken("OneLive", format!("the owner of epoch {} has no state", record.epoch())),
            _ => Ok(()),
        }
    }
}

/// How much longer than those of a node the machines of a plan wait: messages that take long are many times lost.
fn patience(scene: &Scene) -> Option<Duration> {
    let plan = scene.options.plan?;
    Some(PATIENCE * plan.faults.delay.1)
}

/// How long the machines of a node wait: less than a node's do by themselves, so that more happens, but where a plan says how
/// late messages are.
fn configs(seed: u64, scene: &Scene) -> (OwnerConfig, SourceConfig, TargetConfig) {
    let owner = OwnerConfig {
        directory: scene.options.takeovers,
        margin: Duration::from_millis(100),
        renew_every: Duration::from_millis(300),
        resend: Duration::from_millis(100),
        seed,
    };
    if let Some(patience) = patience(scene) {
        let source = SourceConfig::default();
        let source = SourceConfig {
            reserved: source.reserved + patience,
            freeze: source.freeze + patience,
            seed,
            ..source
        };
        let target = TargetConfig::default();
        let target = TargetConfig {
            reserved: target.reserved + patience,
            seed,
            ..target
        };
        return (owner, source, target);
    }
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
    (owner, source, target)
}

fn order_config(seed: u64, scene: &Scene) -> OrderConfig {
    if let Some(patience) = patience(scene) {
        let order = OrderConfig::default();
        return OrderConfig {
            prepare: order.prepare + patience,
            drive: order.drive + patience,
            freeze: order.freeze + patience,
            seed,
        };
    }
    OrderConfig {
        prepare: Duration::from_millis(500),
        drive: Duration::from_millis(500),
        freeze: Duration::from_millis(300),
        seed,
    }
}
