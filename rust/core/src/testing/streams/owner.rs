//! A node that owns a daemon: its host, its journal, its outputs to consumers and to the other daemon.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc;
use std::time::Duration;

use super::facts::Uid;
use super::{
    DAEMONS, FIRST_EPOCH, FORMER, Held, Mistake, NODES, OWNERS, READERS, Scene, broken, daemon_of, node_key, node_of,
};
use crate::certificate::{Certificate, Reason};
use crate::config::{DaemonHostConfig, Durability};
use crate::cursors::Receipt;
use crate::digest::Digest;
use crate::due::{self, Due};
use crate::feed::{self, Feed};
use crate::host::{Few, Host};
use crate::id::EntityId;
use crate::inflow::Admission;
use crate::ingress::EventKey;
use crate::journal::{Mark, Outcome, Pending, Step};
use crate::link::CausalLink;
use crate::mix;
use crate::outbox::{self, Limits, Outbox};
use crate::resumption::{self, Place, Replay};
use crate::rows::{KeyRange, Table, of_entity_key};
use crate::store::memory::MemoryStore;
use crate::store::{Batch, Store, StoreError};
use crate::stream::{Announce, Event, Flow, Frame, Output, lineage_digest};
use crate::testing::store::FaultyStore;

/// Events that wait for a daemon that is busy.
const INBOX_MAX: usize = 40;

const NEVER: Duration = Duration::MAX;

enum Disk {
    Memory(MemoryStore),
    Faulty(Box<FaultyStore>),
}

impl Disk {
    fn store(&mut self) -> &mut dyn Store {
        match self {
            Self::Memory(store) => store,
            Self::Faulty(store) => &mut **store,
        }
    }
}

/// Who is answered when what was done is kept.
type Answer = (usize, Frame<'static>);

struct Submitted {
    number: u64,
    answers: Vec<Answer>,
    published: u64,
    due: Vec<(u64, Vec<u8>)>,
    released: Option<u64>,
}

type Told = (u64, Result<u64, StoreError>);

/// What is gone after a crash.
struct Live {
    host: Host,
    pending: Pending,
    state: u64,
    outputs: Vec<(CausalLink, Vec<u8>)>,
    published: u64,
    answers: Vec<Answer>,
    /// Outputs for the other daemon that were not submitted yet.
    due: Vec<(u64, Vec<u8>)>,
    /// Settled outputs for the other daemon whose rows are there.
    settled: Vec<u64>,
    /// The last of them whose removal was not submitted yet.
    released: Option<u64>,
    submitted: VecDeque<Submitted>,
    next_batch: u64,
    heard: (mpsc::Sender<Told>, mpsc::Receiver<Told>),
    feeds: BTreeMap<usize, Feed>,
    outbox: Outbox<Vec<u8>>,
    inbox: VecDeque<(usize, Vec<u8>)>,
    busy_until: Option<Duration>,
    commit_at: Duration,
    turn_at: Duration,
}

pub(super) struct Owner {
    pub node: usize,
    daemon: usize,
    entity: EntityId,
    disk: Option<Disk>,
    epoch: u64,
    /// Durable at every level.
    lineage: Vec<Certificate>,
    lineage_digest: Digest,
    live: Option<Box<Live>>,
    restart_at: Duration,
}

/// User code: what an event does to the state, and what it emits; every few outputs of the first daemon are for the other.
fn process(state: &mut u64, daemon: usize, uid: &Uid) -> Few<Vec<u8>> {
    *state = mix::pair(*state, mix::pair(uid.sequence ^ uid.origin.get(), uid.content));
    let outputs = (uid.content ^ daemon as u64) % 3;
    (0..outputs)
        .map(|output| mix::pair(*state, output).to_le_bytes().to_vec())
        .collect()
}

fn is_due(daemon: usize, payload: &[u8], scene: &Scene) -> bool {
    daemon == 0 && payload[0].is_multiple_of(scene.options.due_every)
}

fn content(payload: &[u8]) -> u64 {
    payload.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn config(durability: Durability) -> DaemonHostConfig {
    DaemonHostConfig {
        durability,
        ..DaemonHostConfig::default()
    }
}

impl Live {
    fn new(entity: EntityId, epoch: u64, rewound: u64, scene: &mut Scene) -> Self {
        let host = Host::new(entity, config(scene.options.durability)).rewound(epoch);
        let mark = Mark::start(&entity, 0, host.position().digest);
        let flow = Flow {
            entity: DAEMONS[1],
            origin: entity.origin(),
            stream: due::stream(rewound),
        };
        let outbox = Outbox::new(flow, Limits::default(), scene.random.next_u64());
        Self {
            pending: Pending::after(entity, mark, epoch),
            host,
            // Another epoch is another history.
            state: epoch,
            outputs: Vec::new(),
            published: 0,
            answers: Vec::new(),
            due: Vec::new(),
            settled: Vec::new(),
            released: None,
            submitted: VecDeque::new(),
            next_batch: 0,
            heard: mpsc::channel(),
            feeds: BTreeMap::new(),
            outbox: if scene.makes(Mistake::ForgetsRowsEarly) {
                outbox
            } else {
                outbox.with_rows()
            },
            inbox: VecDeque::new(),
            busy_until: None,
            commit_at: NEVER,
            turn_at: NEVER,
        }
    }

    fn enter(&mut self, epoch: u64) {
        if epoch > self.host.epoch() {
            self.host = self.host.clone().rewound(epoch);
        }
    }

    fn waits(&self) -> bool {
        !self.answers.is_empty() || !self.pending.is_empty()
    }
}

impl Owner {
    pub(super) fn new(daemon: usize, scene: &mut Scene) -> Self {
        let entity = DAEMONS[daemon];
        let genesis = Host::new(entity, config(Durability::None)).position().digest;
        let certificate = |epoch, node, reason| Certificate {
            entity,
            epoch,
            node: node_key(node),
            from_sequence: 0,
            digest: genesis,
            reason,
            signer: entity,
            // Who takes a lineage in checks the signatures before; here nobody does.
            signature: [0; 64],
        };
        let lineage = vec![
            certificate(1, FORMER, Reason::Spawn),
            certificate(FIRST_EPOCH, OWNERS[daemon], Reason::Move),
        ];
        let mut owner = Self {
            node: OWNERS[daemon],
            daemon,
            entity,
            disk: None,
            epoch: FIRST_EPOCH,
            lineage_digest: lineage_digest(&lineage),
            lineage,
            live: None,
            restart_at: NEVER,
        };
        owner.disk = Some(owner.fresh_disk(scene));
        owner.begin(Live::new(entity, FIRST_EPOCH, 0, scene), scene);
        owner
    }

    fn fresh_disk(&self, scene: &mut Scene) -> Disk {
        match scene.options.durability {
            Durability::Journal => {
                let faults = scene.options.disk;
                Disk::Faulty(Box::new(FaultyStore::new(scene.random.next_u64(), faults)))
            }
            _ => Disk::Memory(MemoryStore::new()),
        }
    }

    fn begin(&mut self, mut live: Live, scene: &mut Scene) {
        live.published = live.outputs.len() as u64;
        let readers: &[usize] = if self.daemon == 0 { &READERS } else { &READERS[..1] };
        for reader in readers {
            let feed = Feed::new(self.epoch, live.published, scene.random.next_u64());
            live.feeds.insert(*reader, feed);
        }
        self.live = Some(Box::new(live));
        for reader in readers {
            self.feed(*reader, feed::Signal::Started, scene);
        }
    }

    pub(super) fn pause(&mut self, until: Duration) {
        if let Some(live) = &mut self.live {
            live.busy_until = Some(until);
        }
    }

    pub(super) fn calm(&mut self) {
        if let Some(Disk::Faulty(store)) = &mut self.disk {
            store.calm();
        }
    }

    pub(super) fn crash(&mut self, scene: &mut Scene) {
        if self.live.take().is_none() {
            return;
        }
        scene.report.crashes += 1;
        scene.facts.crashed(self.daemon);
        self.restart_at = scene.soon(300_000);
        self.disk = Some(match self.disk.take() {
            Some(Disk::Faulty(store)) => {
                let (mut store, _) = store.crash().expect("what a crash leaves can be opened");
                if scene.is_calm {
                    store.calm();
                }
                Disk::Faulty(Box::new(store))
            }
            _ => self.fresh_disk(scene),
        });
    }

    fn restart(&mut self, scene: &mut Scene) -> Held {
        self.restart_at = NEVER;
        if scene.options.durability == Durability::Journal {
            return self.come_back(scene);
        }
        let mut rewound = self.epoch;
        if !scene.makes(Mistake::NoRestartRecord) {
            // Nothing is left, and that is said before anything is done in the new epoch.
            let genesis = Host::new(self.entity, config(Durability::None)).position().digest;
            rewound = self.declare(0, genesis);
        }
        scene.facts.emptied(self.daemon, self.epoch);
        let mut live = Live::new(self.entity, self.epoch, rewound, scene);
        // What the next life does is not what the last one did.
        live.state = scene.random.next_u64();
        self.begin(live, scene);
        Ok(())
    }

    /// Begins another epoch after the output `from_sequence`, durably.
    fn declare(&mut self, from_sequence: u64, digest: Digest) -> u64 {
        self.epoch += 1;
        self.lineage.push(Certificate {
            epoch: self.epoch,
            node: node_key(self.node),
            reason: Reason::Restart,
            from_sequence,
            digest,
            ..self.lineage[0]
        });
        self.lineage_digest = lineage_digest(&self.lineage);
        self.epoch
    }

    /// Rebuilds the daemon from its journal.
    fn come_back(&mut self, scene: &mut Scene) -> Held {
        let steps = self.rows(Table::Journal);
        let firsts: Vec<_> = steps.iter().map(|(first, _)| *first).collect();
        resumption::plan(&self.entity, &[], &firsts, |_| false).expect("every step is there");
        scene.facts.emptied(self.daemon, self.epoch);
        let mut live = Live::new(self.entity, FIRST_EPOCH, 0, scene);
        let mut replay = Replay::after(self.entity, *live.pending.mark(), FIRST_EPOCH);
        for (first, bytes) in &steps {
            let steps = replay.row(*first, bytes).expect("rows follow");
            // Receipts are made again, in the epoch in which they were given.
            live.enter(steps.epoch);
            for (place, step) in Place::all(&steps).zip(&steps.steps) {
                let uid = Uid {
                    origin: step.link.origin,
                    stream: step.stream,
                    sequence: step.link.sequence,
                    content: content(step.payload),
                };
                let emitted = self.apply(&mut live, uid, scene)?;
                let digest = live.host.position().digest;
                let count = u32::try_from(emitted.len()).expect("few");
                replay.emitted(place, step, count, digest).expect("it does what it did");
            }
        }
        if scene.options.new_epochs {
            let position = live.host.position();
            self.declare(position.sequence, position.digest);
            scene.facts.daemons[self.daemon].epoch = self.epoch;
        }
        live.enter(self.epoch);
        live.pending = Pending::after(self.entity, *replay.mark(), self.epoch);
        scene.facts.came_back(self.daemon)?;
        let now = scene.now;
        let mut actions = Vec::new();
        for (sequence, bytes) in self.rows(Table::Outbox) {
            let due = Due::decode(&bytes).expect("as written");
            let signal = outbox::Signal::Send {
                sequence,
                payload: due.payload,
                deadline: None,
            };
            live.outbox.step(now, signal, &mut actions);
        }
        self.begin(live, scene);
        self.do_outbox(actions, scene)
    }

    fn rows(&mut self, table: Table) -> Vec<(u64, Vec<u8>)> {
        let mut range = KeyRange::beginning_with(self.entity.as_bytes());
        let mut all = Vec::new();
        let store = self.disk.as_mut().expect("there is one").store();
        loop {
            let page = store.page(table, &range, usize::MAX).expect("readable");
            let Some((last, _)) = page.last() else { return all };
            range = range.after(last);
            all.extend(page.into_iter().map(|(key, value)| {
                let (_, [number]) = of_entity_key(&key).expect("a key of one number");
                (number, value)
            }));
        }
    }

    /// Takes an event into effect; returns its outputs.
    fn apply(&self, live: &mut Live, uid: Uid, scene: &mut Scene) -> Held<Vec<(CausalLink, Vec<u8>)>> {
        let key = EventKey {
            origin: uid.origin,
            stream: uid.stream,
            sequence: uid.sequence,
        };
        let outputs = process(&mut live.state, self.daemon, &uid);
        let emitted = live
            .host
            .returned(key, outputs, |link, digest, output| (link, digest, output));
        let emitted = emitted.expect("there is room");
        let receipt = if scene.makes(Mistake::ReceiptsNotKept) {
            let (position, view) = (live.host.position(), live.host.view());
            Receipt {
                sequence: uid.sequence,
                epoch: view.epoch,
                processed: position.processed,
                position: position.sequence,
                digest: position.digest,
            }
        } else {
            live.host.receipt(key)
        };
        scene.facts.applied(self.daemon, uid, receipt)?;
        let mut outputs = Vec::with_capacity(emitted.len());
        for (link, digest, output) in emitted {
            let is_due = is_due(self.daemon, &output, scene);
            let facts = &mut scene.facts.daemons[self.daemon];
            facts.chain.push(digest);
            if is_due {
                facts.due.push((link.sequence, content(&output)));
            }
            live.outputs.push((link, output.clone()));
            outputs.push((link, output));
        }
        Ok(outputs)
    }

    pub(super) fn hear(&mut self, from: usize, frame: &Frame<'_>, scene: &mut Scene) -> Held {
        let Some(live) = &mut self.live else { return Ok(()) };
        match frame {
            Frame::Event(event) if event.flow.entity == self.entity => {
                if live.busy_until.is_none() && live.inbox.is_empty() {
                    return self.event(from, event, scene);
                }
                let (flow, sequence) = (event.flow, event.sequence);
                let answer = if live.inbox.len() < INBOX_MAX {
                    live.inbox.push_back((from, frame.to_bytes()));
                    if scene.makes(Mistake::AcknowledgesQueued) {
                        let receipt = self.invented(sequence);
                        Frame::Ack {
                            flow,
                            receipt,
                            duplicate: false,
                        }
                    } else {
                        Frame::Queued { flow, sequence }
                    }
                } else {
                    Frame::Busy {
                        flow,
                        sequence,
                        retry_after_ms: 100,
                    }
                };
                scene.send(self.node, from, &answer);
            }
            Frame::Locate { flow } if flow.entity == self.entity => {
                let moved = Frame::Moved {
                    flow: *flow,
                    sequence: 0,
                    node: node_key(self.node),
                    epoch: self.epoch,
                };
                scene.send(self.node, from, &moved);
            }
            Frame::Event(Event { flow, sequence, .. }) => {
                let not_here = crate::inflow::elsewhere(None, *flow, *sequence, 0);
                scene.send(self.node, from, &not_here);
            }
            Frame::OutAck { entity, epoch, n } if *entity == self.entity => {
                let epoch = if scene.makes(Mistake::OutAckWithoutEpoch) {
                    self.epoch
                } else {
                    *epoch
                };
                self.feed(from, feed::Signal::OutAck { epoch, n: *n }, scene);
            }
            Frame::Follow { entity, epoch, after } if *entity == self.entity => {
                let signal = feed::Signal::Follow {
                    epoch: *epoch,
                    after: *after,
                };
                self.feed(from, signal, scene);
            }
            answer => return self.answered(answer, scene),
        }
        Ok(())
    }

    /// A receipt that is made up.
    fn invented(&self, sequence: u64) -> Receipt {
        let position = self.live.as_ref().expect("it is up").host.position();
        Receipt {
            sequence,
            epoch: self.epoch,
            processed: position.processed,
            position: position.sequence,
            digest: position.digest,
        }
    }

    fn event(&mut self, from: usize, event: &Event<'_>, scene: &mut Scene) -> Held {
        let mut live = self.live.take().expect("it is up");
        let (flow, sequence) = (event.flow, event.sequence);
        let key = EventKey {
            origin: flow.origin,
            stream: flow.stream,
            sequence,
        };
        let prev = if scene.makes(Mistake::NoPrev) { 0 } else { event.prev };
        let admission = live.host.admit_linked(key, prev);
        let mut held = Ok(());
        match admission {
            Admission::CallProcess => held = self.take(&mut live, from, event, scene),
            Admission::Duplicate(_) => {
                let answer = admission.answer(flow, sequence, self.epoch).expect("it has one");
                let is_kept = live.submitted.is_empty() && !live.waits();
                if is_kept || scene.makes(Mistake::AcknowledgesDuplicatesEarly) {
                    scene.send(self.node, from, &answer);
                } else {
                    live.answers.push((from, answer));
                    self.commit_soon(&mut live, scene);
                }
            }
            Admission::Stale { .. } if scene.makes(Mistake::AcknowledgesStale) => {
                self.live = Some(live);
                let receipt = self.invented(sequence);
                let answer = Frame::Ack {
                    flow,
                    receipt,
                    duplicate: true,
                };
                scene.send(self.node, from, &answer);
                return Ok(());
            }
            Admission::Stale { .. } | Admission::Gap { .. } => {
                let answer = admission.answer(flow, sequence, self.epoch).expect("it has one");
                scene.send(self.node, from, &answer);
            }
            Admission::Malformed => held = broken("Frames", "an event is malformed"),
        }
        self.live = Some(live);
        held
    }

    fn take(&mut self, live: &mut Live, from: usize, event: &Event<'_>, scene: &mut Scene) -> Held {
        let uid = Uid {
            origin: event.flow.origin,
            stream: event.flow.stream,
            sequence: event.sequence,
            content: content(event.payload),
        };
        let outputs = self.apply(live, uid, scene)?;
        for (link, output) in &outputs {
            live.pending.output(link, output);
            if is_due(self.daemon, output, scene) {
                let due = Due {
                    to: DAEMONS[1].origin(),
                    stream: live.outbox.flow().stream,
                    payload: output.clone(),
                };
                live.pending.also(due.write(&self.entity, link.sequence));
                live.due.push((link.sequence, due.payload));
            }
        }
        live.pending.step(&Step {
            outcome: Outcome::Processed,
            receipt: true,
            link: CausalLink {
                origin: uid.origin,
                horizon: 0,
                sequence: uid.sequence,
                parent: 0,
            },
            stream: uid.stream,
            received_ns: 0,
            payload: event.payload,
            outputs: u32::try_from(outputs.len()).expect("few"),
            digest: live.host.position().digest,
        });
        let receipt = scene.facts.daemons[self.daemon]
            .history
            .last()
            .expect("it was just applied")
            .1;
        let answer = Frame::Ack {
            flow: event.flow,
            receipt,
            duplicate: false,
        };
        if scene.makes(Mistake::AcknowledgesEarly) {
            scene.send(self.node, from, &answer);
        } else {
            live.answers.push((from, answer));
        }
        self.commit_soon(live, scene);
        if scene.makes(Mistake::PublishesEarly) {
            self.publish(live, live.outputs.len() as u64, scene);
        }
        Ok(())
    }

    fn commit_soon(&self, live: &mut Live, scene: &mut Scene) {
        if live.commit_at == NEVER {
            live.commit_at = scene.soon(3_000);
        }
    }

    /// Submits what was done, and what has to wait for it.
    fn submit(&mut self, live: &mut Live, scene: &mut Scene) {
        live.commit_at = NEVER;
        live.next_batch += 1;
        let number = live.next_batch;
        live.submitted.push_back(Submitted {
            number,
            answers: std::mem::take(&mut live.answers),
            published: live.outputs.len() as u64,
            due: std::mem::take(&mut live.due),
            released: live.released.take(),
        });
        let told = live.heard.0.clone();
        let store = self.disk.as_mut().expect("there is one").store();
        let batch = Batch {
            term: store.term(),
            writes: live.pending.take(),
        };
        store.submit(
            batch,
            Box::new(move |outcome| {
                let _ = told.send((number, outcome));
            }),
        );
        if live.turn_at == NEVER {
            live.turn_at = scene.soon(4_000);
        }
    }

    /// Hears what became of what was submitted. Returns whether something was not kept.
    fn listen(&mut self, live: &mut Live, scene: &mut Scene) -> Held<bool> {
        while let Ok((number, outcome)) = live.heard.1.try_recv() {
            if outcome.is_err() {
                return Ok(true);
            }
            let submitted = live.submitted.pop_front().expect("it was submitted");
            assert_eq!(submitted.number, number, "batches are kept in their order");
            for (to, answer) in &submitted.answers {
                scene.send(self.node, *to, answer);
            }
            self.publish(live, submitted.published, scene);
            let mut actions = Vec::new();
            for (sequence, payload) in submitted.due {
                let signal = outbox::Signal::Send {
                    sequence,
                    payload,
                    deadline: None,
                };
                live.outbox.step(scene.now, signal, &mut actions);
            }
            if let Some(through) = submitted.released {
                live.outbox
                    .step(scene.now, outbox::Signal::Released { through }, &mut actions);
            }
            self.act(live, actions, scene)?;
        }
        Ok(false)
    }

    fn publish(&self, live: &mut Live, n: u64, scene: &mut Scene) {
        live.published = live.published.max(n);
        let readers: Vec<_> = live.feeds.keys().copied().collect();
        for reader in readers {
            self.feed_one(live, reader, feed::Signal::Published { n }, scene);
        }
    }

    fn feed(&mut self, reader: usize, signal: feed::Signal, scene: &mut Scene) {
        if let Some(mut live) = self.live.take() {
            self.feed_one(&mut live, reader, signal, scene);
            self.live = Some(live);
        }
    }

    fn feed_one(&self, live: &mut Live, reader: usize, signal: feed::Signal, scene: &mut Scene) {
        let Some(feed) = live.feeds.get_mut(&reader) else {
            return;
        };
        let mut actions = Vec::new();
        feed.step(scene.now, signal, &mut actions);
        for action in actions {
            match action {
                feed::Action::Announce => {
                    let n = live.published;
                    let chain = &scene.facts.daemons[self.daemon].chain;
                    let head = match n {
                        0 => self.lineage[0].digest,
                        n => chain[n as usize - 1],
                    };
                    let announce = Frame::Announce(Announce {
                        entity: self.entity,
                        epoch: self.epoch,
                        n,
                        head,
                        lineage: self.lineage.clone(),
                    });
                    scene.send(self.node, reader, &announce);
                }
                feed::Action::Send { first, last } => {
                    for (link, payload) in &live.outputs[first as usize - 1..last as usize] {
                        let output = Frame::Output(Output {
                            entity: self.entity,
                            epoch: self.epoch,
                            lineage: self.lineage_digest,
                            link: *link,
                            payload,
                        });
                        scene.send(self.node, reader, &output);
                    }
                }
                feed::Action::Release { .. } => {}
            }
        }
    }

    /// An answer to what was sent to the other daemon.
    fn answered(&mut self, frame: &Frame<'_>, scene: &mut Scene) -> Held {
        let Some(mut live) = self.live.take() else {
            return Ok(());
        };
        let mut actions = Vec::new();
        let before = live.outbox.owner();
        let mut held = Ok(());
        if let Some(signal) = outbox::Signal::of(frame)
            && flow_of(frame) == Some(live.outbox.flow())
        {
            if let outbox::Signal::Ack { receipt, .. } = signal {
                held = self.acknowledged(&live, receipt, scene);
            }
            live.outbox.step(scene.now, signal, &mut actions);
        }
        let held = held
            .and_then(|()| scene.facts.believed(1, before, live.outbox.owner()))
            .and_then(|()| self.act(&mut live, actions, scene));
        self.live = Some(live);
        held
    }

    fn acknowledged(&self, live: &Live, receipt: Receipt, scene: &mut Scene) -> Held {
        let at = usize::try_from(receipt.sequence)
            .ok()
            .and_then(|at| live.outputs.get(at.checked_sub(1)?));
        // An answer to what this life has not emitted is one to the life before.
        let Some((_, payload)) = at else { return Ok(()) };
        let flow = live.outbox.flow();
        let uid = Uid {
            origin: flow.origin,
            stream: flow.stream,
            sequence: receipt.sequence,
            content: content(payload),
        };
        scene.facts.acknowledged(1, uid, receipt).map(drop)
    }

    fn do_outbox(&mut self, actions: Vec<outbox::Action>, scene: &mut Scene) -> Held {
        let Some(mut live) = self.live.take() else {
            return Ok(());
        };
        let held = self.act(&mut live, actions, scene);
        self.live = Some(live);
        held
    }

    fn act(&self, live: &mut Live, actions: Vec<outbox::Action>, scene: &mut Scene) -> Held {
        for action in actions {
            match action {
                outbox::Action::Transmit { sequence, to } => {
                    let (Some(event), Some(to)) = (live.outbox.event(sequence), node_of(to)) else {
                        continue;
                    };
                    scene.send(self.node, to, &Frame::Event(event));
                    if scene.makes(Mistake::ForgetsDue) {
                        live.pending.also(due::settled(&self.entity, sequence));
                        self.commit_soon(live, scene);
                    }
                }
                outbox::Action::Locate => {
                    let flow = live.outbox.flow();
                    for node in (OWNERS[0]..NODES).filter(|node| *node != self.node) {
                        scene.send(self.node, node, &Frame::Locate { flow });
                    }
                }
                outbox::Action::Settled { sequence, outcome } => {
                    if outcome == outbox::Outcome::Unknown && scene.options.durability == Durability::Journal {
                        return broken("Receipt", format!("output {sequence} is open, and got Stale"));
                    }
                    live.settled.push(sequence);
                    if scene.makes(Mistake::ForgetsRowsEarly) {
                        self.release(live, sequence, scene);
                    }
                }
                outbox::Action::Release { through } => self.release(live, through, scene),
                outbox::Action::Lost { after, through, epoch } => {
                    let flow = live.outbox.flow();
                    scene.report.lost += scene.facts.lost(&flow, after, through, epoch)?;
                }
                outbox::Action::TimedOut { sequence } | outbox::Action::Refused { sequence, .. } => {
                    return broken("Due", format!("output {sequence} is refused"));
                }
            }
        }
        Ok(())
    }

    /// The rows of settled outputs up to this one go.
    fn release(&self, live: &mut Live, through: u64, scene: &mut Scene) {
        for sequence in live.settled.extract_if(.., |sequence| *sequence <= through) {
            live.pending.also(due::settled(&self.entity, sequence));
        }
        live.released = Some(through);
        self.commit_soon(live, scene);
    }

    pub(super) fn wake_at(&self) -> Duration {
        let Some(live) = &self.live else { return self.restart_at };
        let feeds = live.feeds.values().filter_map(Feed::wake_at);
        let others = [
            live.commit_at,
            live.turn_at,
            live.outbox.wake_at().unwrap_or(NEVER),
            live.busy_until.unwrap_or(NEVER),
        ];
        others.into_iter().chain(feeds).min().unwrap_or(NEVER)
    }

    pub(super) fn wake(&mut self, scene: &mut Scene) -> Held {
        let now = scene.now;
        if self.restart_at <= now {
            return self.restart(scene);
        }
        let Some(mut live) = self.live.take() else {
            return Ok(());
        };
        if live.commit_at <= now {
            self.submit(&mut live, scene);
        }
        if live.turn_at <= now {
            live.turn_at = NEVER;
            if let Some(Disk::Faulty(store)) = &mut self.disk {
                store.turn();
                if store.waiting() > 0 {
                    live.turn_at = scene.soon(4_000);
                }
            }
        }
        if self.listen(&mut live, scene)? {
            // The daemon is ahead of its store: it is made anew from what is kept.
            return self.come_back(scene);
        }
        let mut actions = Vec::new();
        live.outbox.step(now, outbox::Signal::Timer, &mut actions);
        self.act(&mut live, actions, scene)?;
        let readers: Vec<_> = live.feeds.keys().copied().collect();
        for reader in readers {
            self.feed_one(&mut live, reader, feed::Signal::Timer, scene);
        }
        let is_free = live.busy_until.is_some_and(|until| until <= now);
        if is_free {
            live.busy_until = None;
        }
        let waiting = if is_free {
            std::mem::take(&mut live.inbox)
        } else {
            VecDeque::new()
        };
        self.live = Some(live);
        for (from, bytes) in waiting {
            let Ok(Frame::Event(event)) = Frame::decode(&bytes) else {
                continue;
            };
            self.event(from, &event, scene)?;
        }
        Ok(())
    }

    /// Where consumers have to be: epoch, last output, digest there.
    pub(super) fn announced(&self) -> (u64, u64) {
        (self.epoch, self.live.as_ref().map_or(0, |live| live.published))
    }

    pub(super) fn is_done(&self) -> bool {
        self.live.as_ref().is_some_and(|live| {
            let is_published = live.published == live.outputs.len() as u64;
            let is_quiet = live.submitted.is_empty() && !live.waits() && live.inbox.is_empty();
            is_published && is_quiet && live.outbox.is_empty() && live.feeds.values().all(Feed::is_done)
        })
    }

    pub(super) fn waits(&self) -> String {
        let Some(live) = &self.live else {
            return "down".to_owned();
        };
        let outbox: Vec<_> = live.outbox.open().collect();
        format!(
            "epoch {} published {} of {}, due {outbox:?}, feeds {:?}",
            self.epoch,
            live.published,
            live.outputs.len(),
            live.feeds
        )
    }
}

/// Which flow an answer is about.
pub(super) fn flow_of(frame: &Frame<'_>) -> Option<Flow> {
    Some(match frame {
        Frame::Event(event) => event.flow,
        Frame::Ack { flow, .. }
        | Frame::Busy { flow, .. }
        | Frame::Queued { flow, .. }
        | Frame::Gap { flow, .. }
        | Frame::Stale { flow, .. }
        | Frame::Moved { flow, .. }
        | Frame::NotHere { flow, .. }
        | Frame::PassedOver { flow, .. }
        | Frame::Locate { flow } => *flow,
        _ => return None,
    })
    .filter(|flow: &Flow| daemon_of(flow.entity).is_some())
}
