//! Source and target of a move as functions of messages and time: no clock, no socket, no store.
//!
//! What the tables want durable is put into rows in memory at once. A handler that is made anew with the rows of another
//! one goes on as that node would after a crash.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meshos_core::digest::{self, Digest};
use meshos_core::id::EntityId;
use meshos_core::identity::Keypair;
use meshos_core::move_chunks::{self, ChunkReceiver};
use meshos_core::move_frame::{Aside, Body, MoveFrame, Reason, Reject};
use meshos_core::move_known::{Known, recover};
use meshos_core::move_rows::{Frozen, Item, MoveOrder, Outcome};
use meshos_core::move_source::{self, MoveSource, SourceConfig};
use meshos_core::move_target::{self, MoveTarget, TargetConfig};
use meshos_core::ownership::{MigrationId, OwnershipRecord};
use meshos_core::rows::{Table, Write};
use meshos_core::snapshot;
use meshos_core::time::UnixMs;
use meshos_node::slot::SharedKey;
use meshos_node::sync::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::args;
use crate::errors::InvalidArgument;
use crate::guard::entry;
use crate::identity::PyIdentity;
use crate::migration::MigrationPhase;
use crate::move_frame::PyMigrationMessage;
use crate::ownership::PyOwnershipRecord;
use crate::record::field::{Field, Given, items, read};
use crate::record::moment::Moment;
use crate::snapshot::PyStateSnapshot;

/// Rows as Python keeps them: table, key and value.
type Row = (u8, Vec<u8>, Vec<u8>);

/// What a node has decided durably, in memory.
#[derive(Default, Clone)]
struct Rows(BTreeMap<(u8, Vec<u8>), Vec<u8>>);

impl Rows {
    fn apply(&mut self, writes: &[Write]) {
        for write in writes {
            let key = (write.table as u8, write.key.clone());
            match &write.value {
                Some(value) => drop(self.0.insert(key, value.clone())),
                None => drop(self.0.remove(&key)),
            }
        }
    }

    fn of(&self, table: Table) -> impl Iterator<Item = (&[u8], &[u8])> {
        let all = self.0.iter();
        all.filter(move |((code, _), _)| *code == table as u8)
            .map(|((_, key), value)| (key.as_slice(), value.as_slice()))
    }

    fn records(&self) -> Result<Vec<OwnershipRecord>, String> {
        let rows = self.of(Table::Ownership);
        rows.map(|(_, value)| OwnershipRecord::decode(value).map_err(|error| error.to_string()))
            .collect()
    }

    fn items(&self, entity: &EntityId) -> Result<Vec<(MigrationId, Item)>, String> {
        let mut found = Vec::new();
        for (key, value) in self.of(Table::Moves) {
            let (of, mid, item) = Item::decode(key, value).map_err(|error| error.to_string())?;
            if of == *entity {
                found.push((mid, item));
            }
        }
        Ok(found)
    }

    fn read(given: &Given<'_>) -> PyResult<Self> {
        let rows: Vec<Row> = given.map_or(Vec::new(), |given| {
            items(given, "rows", "an iterable of rows", |row| {
                row.extract()
                    .map_err(|_| args::wrong_type("rows", "an iterable of rows", row))
            })
        })?;
        Ok(Self(
            rows.into_iter()
                .map(|(table, key, value)| ((table, key), value))
                .collect(),
        ))
    }

    fn show<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let rows = self.0.iter();
        let rows = rows.map(|((table, key), value)| (*table, PyBytes::new(py, key), PyBytes::new(py, value)));
        PyTuple::new(py, rows)
    }
}

/// The time of a step, which does not go back.
#[derive(Default)]
struct Time(Duration);

impl Time {
    fn at(&mut self, wall: UnixMs) -> Duration {
        self.0 = self.0.max(Duration::from_millis(wall.get()));
        self.0
    }
}

/// What is heard in a step.
struct Heard {
    from: EntityId,
    bytes: Vec<u8>,
}

fn heard(message: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Heard>> {
    let Some(message) = message.filter(|message| !message.is_none()) else {
        return Ok(None);
    };
    let message = args::instance::<PyMigrationMessage>(message, "message", "a MigrationMessage or None")?.get();
    let sender = message.sender.0;
    let from = sender.ok_or_else(|| InvalidArgument::new_err(("message", "must say its sender")))?;
    Ok(Some(Heard {
        from,
        bytes: message.frame(),
    }))
}

/// Whether who signed an order did.
fn refusal(frame: &MoveFrame<'_>) -> Option<Reject> {
    match &frame.body {
        Body::Prepare(order) if order.verify_signature().is_err() => Some(Reject {
            reason: Reason::NotPermitted,
            text: "its signature does not fit".to_owned(),
        }),
        _ => None,
    }
}

fn shown<'py>(py: Python<'py>, me: EntityId, sent: &[(EntityId, Vec<u8>)]) -> PyResult<Bound<'py, PyTuple>> {
    let messages = sent.iter().map(|(to, bytes)| PyMigrationMessage::of(bytes, me, *to));
    PyTuple::new(py, messages.collect::<PyResult<Vec<_>>>()?)
}

/// What becomes of rows that cannot be read.
fn bad_rows(error: String) -> PyErr {
    InvalidArgument::new_err(("rows", error))
}

struct Source {
    machine: MoveSource,
    known: Known,
    rows: Rows,
    time: Time,
    lineage: Vec<OwnershipRecord>,
    image: Arc<Vec<u8>>,
    frozen: Frozen,
    ended: Option<Outcome>,
}

impl Source {
    /// Signs the next record, as the answer to a freeze.
    fn freeze(&self, key: &Keypair, order: &MoveOrder) -> move_source::Signal<'static> {
        let last = self.lineage.last().expect("a handler is made with a lineage");
        let Frozen { sequence, head, .. } = self.frozen;
        match last.moved(order.target, order.mid, sequence, head, key) {
            Ok(record) => move_source::Signal::Frozen {
                frozen: self.frozen,
                image_bytes: self.image.len() as u64,
                lineage: self.lineage.clone(),
                record: Box::new(record),
            },
            Err(error) => move_source::Signal::FreezeFailed(Reject {
                reason: Reason::IdentityTransportFailed,
                text: error.to_string(),
            }),
        }
    }

    /// Epoch in which the node may act: that of the newest record, if that names it.
    fn owned(&self, node: EntityId) -> Option<u64> {
        let highest = self.known.highest();
        highest
            .filter(|record| record.node() == node)
            .map(OwnershipRecord::epoch)
    }

    fn step(
        &mut self,
        (node, key): (EntityId, &SharedKey),
        wall: UnixMs,
        heard: Option<&Heard>,
    ) -> Vec<(EntityId, Vec<u8>)> {
        let now = self.time.at(wall);
        let mut actions = Vec::new();
        let signal = heard.and_then(|heard| {
            let frame = MoveFrame::decode(&heard.bytes).ok()?;
            if let Body::Aside(aside) = &frame.body {
                return self.shown(aside);
            }
            Some(move_source::Signal::Heard {
                from: heard.from,
                refusal: refusal(&frame),
                frame: Box::new(frame),
                wall,
                owned: self.owned(node),
            })
        });
        let signal = signal.unwrap_or(move_source::Signal::Timer);
        self.machine.step(now, &mut self.known, signal, &mut actions);
        let mut sent = Vec::new();
        let mut next = actions.into_iter().collect::<std::collections::VecDeque<_>>();
        while let Some(action) = next.pop_front() {
            let answer = match action {
                move_source::Action::Send { to, frame } => {
                    sent.push((to, frame.to_bytes()));
                    continue;
                }
                move_source::Action::Keep { ticket, writes } => {
                    self.rows.apply(&writes);
                    move_source::Signal::Kept(ticket)
                }
                move_source::Action::Freeze { order } => self.freeze(&key.lock(), &order),
                move_source::Action::SendChunk { to, image, index } => {
                    sent.extend(self.chunk(to, image, index));
                    continue;
                }
                move_source::Action::Ended { outcome, .. } => {
                    self.ended = Some(outcome);
                    continue;
                }
                move_source::Action::Waits(_)
                | move_source::Action::Busy(_)
                | move_source::Action::Thaw { .. }
                | move_source::Action::Redirect { .. }
                | move_source::Action::Fence(_)
                | move_source::Action::Retire { .. } => continue,
            };
            let mut more = Vec::new();
            self.machine.step(now, &mut self.known, answer, &mut more);
            next.extend(more);
        }
        sent
    }

    /// A record above the one that it committed: kept, and then told to the table.
    fn shown(&mut self, aside: &Aside) -> Option<move_source::Signal<'static>> {
        let Aside::Show(record) = aside else { return None };
        let is_above = record.entity() == self.lineage[0].entity() && record.epoch() > self.known.epoch();
        if !is_above || record.verify_signatures().is_err() {
            return None;
        }
        self.rows.apply(&[record.write()]);
        Some(move_source::Signal::Fenced(record.clone()))
    }

    fn chunk(&self, to: EntityId, image: Digest, index: u32) -> Option<(EntityId, Vec<u8>)> {
        let range = move_chunks::range(self.image.len() as u64, index)?;
        let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        let order = self.machine.order()?;
        let frame = MoveFrame {
            mid: order.mid,
            entity: order.entity,
            epoch: order.epoch,
            step: 0,
            body: Body::Chunk {
                image,
                index,
                bytes: self.image.get(start..end)?,
            },
        };
        Some((to, frame.to_bytes()))
    }

    fn phase(&self) -> Option<MigrationPhase> {
        Some(match self.machine.phase() {
            move_source::Phase::Idle => {
                return (self.ended == Some(Outcome::Committed)).then_some(MigrationPhase::Complete);
            }
            move_source::Phase::Reserved
            | move_source::Phase::Intending
            | move_source::Phase::Freezing
            | move_source::Phase::Aborting => MigrationPhase::Snapshot,
            move_source::Phase::Frozen => MigrationPhase::Transfer,
            move_source::Phase::Committing | move_source::Phase::Committed | move_source::Phase::Retiring => {
                MigrationPhase::Cutover
            }
        })
    }
}

/// The source's table of the protocol as a function.
#[pyclass(frozen, name = "MigrationSourceHandler", module = "meshos.migration")]
pub struct PyMigrationSourceHandler {
    node: EntityId,
    key: SharedKey,
    source: Mutex<Source>,
}

#[pymethods]
impl PyMigrationSourceHandler {
    #[new]
    #[pyo3(signature = (node, identity, snapshot, lineage, *, rows = Given::Not),
        text_signature = "(node, identity, snapshot, lineage, *, rows=())")]
    fn new(
        node: &Bound<'_, PyAny>,
        identity: &Bound<'_, PyAny>,
        snapshot: &Bound<'_, PyAny>,
        lineage: &Bound<'_, PyAny>,
        rows: Given<'_>,
    ) -> PyResult<Self> {
        entry("MigrationSourceHandler", || {
            let node: EntityId = read(node, "node")?;
            let key = &args::instance::<PyIdentity>(identity, "identity", "an Identity")?
                .get()
                .key;
            let taken = args::instance::<PyStateSnapshot>(snapshot, "snapshot", "a StateSnapshot")?;
            let meta = &taken.get().snapshot.meta;
            let entity = meta.entity;
            let lineage: Vec<OwnershipRecord> =
                items(lineage, "lineage", "an iterable of OwnershipRecord", |record| {
                    let record =
                        args::instance::<PyOwnershipRecord>(record, "lineage", "an iterable of OwnershipRecord")?;
                    Ok(record.get().0)
                })?;
            if lineage.is_empty() || lineage.iter().any(|record| record.entity() != entity) {
                let rule = "must be the records of the daemon of the snapshot, at least one";
                return Err(InvalidArgument::new_err(("lineage", rule)));
            }
            let bytes = taken.call_method0("to_bytes")?.cast_into::<PyBytes>()?;
            let image = Arc::new(bytes.as_bytes().to_vec());
            let frozen = Frozen {
                sequence: meta.head.sequence,
                head: meta.digest,
                image: digest::plain(&image),
            };
            let mut rows = Rows::read(&rows)?;
            rows.apply(&lineage.iter().map(OwnershipRecord::write).collect::<Vec<_>>());
            let records = rows.records().map_err(bad_rows)?;
            let items = rows.items(&entity).map_err(bad_rows)?;
            let recovered = recover(node, entity, &records, &items);
            rows.apply(&recovered.writes);
            let machine = MoveSource::new(node, entity, SourceConfig::default(), recovered.unretired);
            Ok(Self {
                node,
                key: Arc::clone(key),
                source: Mutex::new(Source {
                    machine,
                    known: recovered.known,
                    rows,
                    time: Time::default(),
                    lineage,
                    image,
                    frozen,
                    ended: None,
                }),
            })
        })
    }

    /// Take a message, or only the time, and return what to send.
    #[pyo3(signature = (now, message = None))]
    fn step<'py>(&self, now: &Bound<'py, PyAny>, message: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyTuple>> {
        entry("MigrationSourceHandler.step", || {
            let py = now.py();
            let wall = Moment::from_python(now, "now")?.unix_ms();
            let heard = heard(message)?;
            let sent = py.detach(|| self.source.lock().step((self.node, &self.key), wall, heard.as_ref()));
            shown(py, self.node, &sent)
        })
    }

    /// Where it is; "complete" once a move ended with the target as the owner.
    fn phase<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        entry("MigrationSourceHandler.phase", || {
            py.detach(|| self.source.lock().phase()).to_python(py)
        })
    }

    /// What is durable: table, key and value of each row.
    fn rows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        entry("MigrationSourceHandler.rows", || {
            let rows = py.detach(|| self.source.lock().rows.clone());
            rows.show(py)
        })
    }
}

/// Where images are kept among the rows: by digest.
const IMAGES: u8 = 0;

struct Pulling {
    order: Box<MoveOrder>,
    image: Digest,
    receiver: ChunkReceiver,
    bytes: Vec<u8>,
}

struct Target {
    machine: MoveTarget,
    known: Known,
    rows: Rows,
    time: Time,
    pulling: Option<Pulling>,
    bytes_max: u64,
    /// Digest of the image that it went live with.
    live: Option<Digest>,
    step: u32,
}

type Sent = Vec<(EntityId, Vec<u8>)>;

impl Target {
    fn step(&mut self, node: EntityId, wall: UnixMs, heard: Option<&Heard>) -> Sent {
        let now = self.time.at(wall);
        let mut sent = Sent::new();
        let frame = heard.and_then(|heard| Some((heard.from, MoveFrame::decode(&heard.bytes).ok()?)));
        if let Some((
            from,
            MoveFrame {
                mid,
                body: Body::Chunk { image, index, bytes },
                ..
            },
        )) = &frame
        {
            self.chunk(now, (*from, *mid), (*image, *index, bytes), &mut sent);
            return sent;
        }
        let signal = frame.map(|(from, frame)| {
            let highest = self.known.highest();
            move_target::Signal::Heard {
                from,
                refusal: refusal(&frame),
                frame: Box::new(frame),
                wall,
                owned: highest
                    .filter(|record| record.node() == node)
                    .map(OwnershipRecord::epoch),
            }
        });
        let is_timer = signal.is_none();
        self.run(now, signal.unwrap_or(move_target::Signal::Timer), &mut sent);
        if is_timer {
            self.pull(now, None, &mut sent);
        }
        sent
    }

    fn run(&mut self, now: Duration, signal: move_target::Signal<'_>, sent: &mut Sent) {
        let mut actions = Vec::new();
        self.machine.step(now, &mut self.known, signal, &mut actions);
        for action in actions {
            let answer = match action {
                move_target::Action::Send { to, frame } => {
                    sent.push((to, frame.to_bytes()));
                    continue;
                }
                move_target::Action::Keep { ticket, writes } => {
                    self.rows.apply(&writes);
                    move_target::Signal::Kept(ticket)
                }
                move_target::Action::Restore {
                    order,
                    image,
                    image_bytes,
                } => {
                    self.restore(now, order, (image, image_bytes), sent);
                    continue;
                }
                move_target::Action::Discard { image } => {
                    self.pulling = None;
                    self.rows.0.remove(&(IMAGES, image.as_bytes().to_vec()));
                    continue;
                }
                move_target::Action::Install {
                    record,
                    prepared,
                    mut writes,
                } => {
                    writes.extend(prepared.lineage.iter().map(OwnershipRecord::write));
                    writes.push(record.write());
                    self.rows.apply(&writes);
                    self.live = Some(prepared.frozen.image);
                    move_target::Signal::Activated { epoch: record.epoch() }
                }
                move_target::Action::Show { to, record } => {
                    sent.push((to, self.say(record.mid, &record, Aside::Show(record.clone()))));
                    continue;
                }
                move_target::Action::GoLive { .. }
                | move_target::Action::Redirect { .. }
                | move_target::Action::Alarm(_) => continue,
            };
            self.run(now, answer, sent);
        }
    }

    fn say(&mut self, mid: MigrationId, record: &OwnershipRecord, aside: Aside) -> Vec<u8> {
        self.step += 1;
        let frame = MoveFrame {
            mid,
            entity: record.entity(),
            epoch: record.epoch(),
            step: self.step,
            body: Body::Aside(Box::new(aside)),
        };
        frame.to_bytes()
    }

    fn restore(&mut self, now: Duration, order: Box<MoveOrder>, (image, size): (Digest, u64), sent: &mut Sent) {
        let mut pulls = Vec::new();
        let began = ChunkReceiver::begin(now, (image, size), self.bytes_max, [], 0, &mut pulls);
        match began {
            Ok(receiver) => {
                self.pulling = Some(Pulling {
                    order,
                    image,
                    receiver,
                    bytes: Vec::new(),
                });
                self.pulled(now, pulls, &[], sent);
            }
            Err(error) => self.failed(now, Reason::TooLarge, &error.to_string(), sent),
        }
    }

    fn chunk(
        &mut self,
        now: Duration,
        (from, mid): (EntityId, MigrationId),
        (image, index, bytes): (Digest, u32, &[u8]),
        sent: &mut Sent,
    ) {
        let is_of_it = |pulling: &Pulling| pulling.order.source == from && pulling.order.mid == mid;
        if self.pulling.as_ref().is_some_and(is_of_it) {
            let length = bytes.len();
            self.pull(
                now,
                Some((move_chunks::Signal::Chunk { image, index, length }, bytes)),
                sent,
            );
        }
    }

    /// Has the receiver take a chunk, or look at the time.
    fn pull(&mut self, now: Duration, chunk: Option<(move_chunks::Signal, &[u8])>, sent: &mut Sent) {
        let Some(pulling) = &mut self.pulling else { return };
        let (signal, bytes) = chunk.unwrap_or((move_chunks::Signal::Timer, &[]));
        let mut actions = Vec::new();
        pulling.receiver.step(now, signal, &mut actions);
        self.pulled(now, actions, bytes, sent);
    }

    fn pulled(&mut self, now: Duration, actions: Vec<move_chunks::Action>, chunk: &[u8], sent: &mut Sent) {
        for action in actions {
            let Some(pulling) = &mut self.pulling else { return };
            match action {
                move_chunks::Action::Pull { index } => {
                    self.step += 1;
                    let frame = MoveFrame {
                        mid: pulling.order.mid,
                        entity: pulling.order.entity,
                        epoch: pulling.order.epoch,
                        step: self.step,
                        body: Body::Pull {
                            image: pulling.image,
                            index,
                        },
                    };
                    sent.push((pulling.order.source, frame.to_bytes()));
                }
                move_chunks::Action::Take { offset } => {
                    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                    let end = offset.saturating_add(chunk.len());
                    if pulling.bytes.len() < end {
                        pulling.bytes.resize(end, 0);
                    }
                    pulling.bytes[offset..end].copy_from_slice(chunk);
                }
                move_chunks::Action::Whole => return self.whole(now, sent),
            }
        }
    }

    /// The image is there: keeps it, and says where what was read of it stands.
    fn whole(&mut self, now: Duration, sent: &mut Sent) {
        let Some(pulling) = self.pulling.take() else { return };
        let Pulling {
            order, image, bytes, ..
        } = pulling;
        let read = snapshot::decode(&bytes, self.bytes_max);
        let refused = match read {
            _ if digest::plain(&bytes) != image => "its digest is another one".to_owned(),
            Err(error) => error.to_string(),
            Ok((meta, _)) if meta.entity != order.entity => "it is of another daemon".to_owned(),
            Ok((meta, _)) => {
                self.rows.0.insert((IMAGES, image.as_bytes().to_vec()), bytes);
                let frozen = Frozen {
                    sequence: meta.head.sequence,
                    head: meta.digest,
                    image,
                };
                return self.run(now, move_target::Signal::Restored(frozen), sent);
            }
        };
        self.failed(now, Reason::StateFailed, &refused, sent);
    }

    fn failed(&mut self, now: Duration, reason: Reason, text: &str, sent: &mut Sent) {
        let reject = Reject::new(reason, text);
        self.run(now, move_target::Signal::RestoreFailed(reject), sent);
    }

    fn phase(&self) -> Option<MigrationPhase> {
        Some(match self.machine.phase() {
            move_target::Phase::Idle => return self.live.map(|_| MigrationPhase::Complete),
            move_target::Phase::Reserved => MigrationPhase::Snapshot,
            move_target::Phase::Restoring => MigrationPhase::Transfer,
            move_target::Phase::Keeping | move_target::Phase::Prepared | move_target::Phase::Erasing => {
                MigrationPhase::Restore
            }
            move_target::Phase::Installing => MigrationPhase::Cutover,
        })
    }
}

/// The target's table of the protocol as a function.
#[pyclass(frozen, name = "MigrationTargetHandler", module = "meshos.migration")]
pub struct PyMigrationTargetHandler {
    node: EntityId,
    target: Mutex<Target>,
}

#[pymethods]
impl PyMigrationTargetHandler {
    #[new]
    #[pyo3(signature = (node, entity_id, *, bytes_max = Given::Not, rows = Given::Not),
        text_signature = "(node, entity_id, *, bytes_max=1073741824, rows=())")]
    fn new(
        node: &Bound<'_, PyAny>,
        entity_id: &Bound<'_, PyAny>,
        bytes_max: Given<'_>,
        rows: Given<'_>,
    ) -> PyResult<Self> {
        entry("MigrationTargetHandler", || {
            let (node, entity): (EntityId, EntityId) = (read(node, "node")?, read(entity_id, "entity_id")?);
            let bytes_max = bytes_max.read_or("bytes_max", TargetConfig::default().image_max)?;
            let mut rows = Rows::read(&rows)?;
            let records = rows.records().map_err(bad_rows)?;
            let items = rows.items(&entity).map_err(bad_rows)?;
            let recovered = recover(node, entity, &records, &items);
            rows.apply(&recovered.writes);
            let config = TargetConfig {
                image_max: bytes_max,
                ..TargetConfig::default()
            };
            let machine = MoveTarget::new(node, entity, config, recovered.prepared);
            Ok(Self {
                node,
                target: Mutex::new(Target {
                    machine,
                    known: recovered.known,
                    rows,
                    time: Time::default(),
                    pulling: None,
                    bytes_max,
                    live: None,
                    step: 0,
                }),
            })
        })
    }

    /// Take a message, or only the time, and return what to send.
    #[pyo3(signature = (now, message = None))]
    fn step<'py>(&self, now: &Bound<'py, PyAny>, message: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyTuple>> {
        entry("MigrationTargetHandler.step", || {
            let py = now.py();
            let wall = Moment::from_python(now, "now")?.unix_ms();
            let heard = heard(message)?;
            let sent = py.detach(|| self.target.lock().step(self.node, wall, heard.as_ref()));
            shown(py, self.node, &sent)
        })
    }

    /// Where it is; "complete" once it owns.
    fn phase<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        entry("MigrationTargetHandler.phase", || {
            py.detach(|| self.target.lock().phase()).to_python(py)
        })
    }

    /// The snapshot that it went live with.
    fn snapshot(&self, py: Python<'_>) -> PyResult<Option<PyStateSnapshot>> {
        entry("MigrationTargetHandler.snapshot", || {
            let kept = py.detach(|| {
                let target = self.target.lock();
                let image = target.live?;
                target.rows.0.get(&(IMAGES, image.as_bytes().to_vec())).cloned()
            });
            let read = kept.map(|bytes| PyStateSnapshot::read(&PyBytes::new(py, &bytes), u64::MAX));
            read.transpose()
        })
    }

    /// What is durable: table, key and value of each row.
    fn rows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        entry("MigrationTargetHandler.rows", || {
            let rows = py.detach(|| self.target.lock().rows.clone());
            rows.show(py)
        })
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyMigrationSourceHandler>()?;
    module.add_class::<PyMigrationTargetHandler>()
}
