//! `MigrationMessage`: one message of a move, as its bytes on the wire say it.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::id::EntityId;
use meshos_core::move_frame::{Body, MoveFrame};
use meshos_core::move_rows::{MoveOrder, Terms};
use meshos_core::ownership::MigrationId;
use meshos_core::time::UnixMs;
use meshos_node::keys;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};

use crate::args;
use crate::channels::Shared;
use crate::errors::{self, InvalidArgument};
use crate::factory::kind_name;
use crate::guard::entry;
use crate::identity::PyIdentity;
use crate::record::field::{Field, Given, read};
use crate::record::moment::Moment;
use crate::record::word::choice;
use crate::record::{self, Beside, Record, Reduced};

/// Where the body of a frame begins.
const BODY_AT: usize = 1 + 1 + 16 + 32 + 8 + 4 + 4;
const VERSION: u8 = 1;

/// The kinds by their codes.
const KINDS: &[(u8, &str)] = &[
    (112, "prepare"),
    (113, "accept"),
    (114, "reject"),
    (115, "freeze"),
    (116, "final"),
    (117, "prepared"),
    (118, "commit"),
    (119, "committed"),
    (120, "retire"),
    (121, "abort"),
    (122, "abort_request"),
    (123, "outcome"),
    (124, "pull"),
    (125, "chunk"),
    (126, "show"),
    (127, "report"),
    (128, "describe"),
    (129, "described"),
    (130, "copy"),
    (131, "offer"),
    (132, "copied"),
];

/// One message of a move. Who sent it and who gets it is said by what carries it, and not compared.
#[pyclass(frozen, eq, name = "MigrationMessage", module = "meshos.migration")]
#[derive(Debug, Clone, PartialEq)]
pub struct PyMigrationMessage {
    kind: u8,
    mid: MigrationId,
    entity: EntityId,
    epoch: u64,
    step: u32,
    body: Shared,
    /// The node that sent it.
    pub sender: Beside<Option<EntityId>>,
    /// The node that gets it.
    pub receiver: Beside<Option<EntityId>>,
}

impl Record for PyMigrationMessage {
    const FIELDS: &'static [&'static str] = &["kind", "attempt", "entity_id", "epoch", "step", "body"];
    const BESIDE: &'static [&'static str] = &["sender", "receiver"];
}

impl PyMigrationMessage {
    fn bytes(&self) -> Vec<u8> {
        let body = &self.body.0;
        let mut out = Vec::with_capacity(BODY_AT + body.len());
        out.extend([VERSION, self.kind]);
        out.extend(self.mid);
        out.extend(self.entity.as_bytes());
        out.extend(self.epoch.to_le_bytes());
        out.extend(self.step.to_le_bytes());
        out.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(&body[..]);
        out
    }

    /// Takes over bytes, which have to be one message.
    fn read(bytes: &[u8], name: &'static str) -> PyResult<Self> {
        let frame = MoveFrame::decode(bytes).map_err(|error| InvalidArgument::new_err((name, error.to_string())))?;
        Ok(Self {
            kind: bytes[1],
            mid: frame.mid,
            entity: frame.entity,
            epoch: frame.epoch,
            step: frame.step,
            body: Shared(Arc::from(&bytes[BODY_AT..])),
            sender: Beside(None),
            receiver: Beside(None),
        })
    }

    /// What a node says to another.
    pub fn of(bytes: &[u8], sender: EntityId, receiver: EntityId) -> PyResult<Self> {
        let mut message = Self::read(bytes, "message")?;
        message.sender = Beside(Some(sender));
        message.receiver = Beside(Some(receiver));
        Ok(message)
    }

    /// The order in it; `None`: it is of another kind.
    pub fn order(&self) -> Option<MoveOrder> {
        match MoveFrame::decode(&self.bytes()).ok()?.body {
            Body::Prepare(order) => Some(*order),
            _ => None,
        }
    }

    /// Its bytes, which are one frame.
    pub fn frame(&self) -> Vec<u8> {
        self.bytes()
    }
}

#[pymethods]
impl PyMigrationMessage {
    #[new]
    #[pyo3(signature = (kind, attempt, entity_id, epoch, step, body, *, sender = Given::Not, receiver = Given::Not),
        text_signature = "(kind, attempt, entity_id, epoch, step, body, *, sender=None, receiver=None)")]
    #[expect(clippy::too_many_arguments, reason = "one for each field")]
    fn new(
        kind: &Bound<'_, PyAny>,
        attempt: &Bound<'_, PyAny>,
        entity_id: &Bound<'_, PyAny>,
        epoch: &Bound<'_, PyAny>,
        step: &Bound<'_, PyAny>,
        body: &Bound<'_, PyAny>,
        sender: Given<'_>,
        receiver: Given<'_>,
    ) -> PyResult<Self> {
        entry("MigrationMessage", || {
            let message = Self {
                kind: choice(kind, "kind", KINDS)?,
                mid: read(attempt, "attempt")?,
                entity: read(entity_id, "entity_id")?,
                epoch: read(epoch, "epoch")?,
                step: read(step, "step")?,
                body: read(body, "body")?,
                sender: Beside(sender.read_or("sender", None)?),
                receiver: Beside(receiver.read_or("receiver", None)?),
            };
            Self::read(&message.bytes(), "message")?;
            Ok(message)
        })
    }

    /// Order a move: the message with which an orchestrator begins, signed by `signer`.
    #[classmethod]
    #[pyo3(signature = (signer, entity_id, epoch, source, target, *, kind, not_after, orchestrator = Given::Not,
        freeze_max = Given::Not, state_bytes = Given::Not),
        text_signature = "($type, signer, entity_id, epoch, source, target, *, kind, not_after, orchestrator=None, \
            freeze_max=None, state_bytes=0)")]
    #[expect(clippy::too_many_arguments, reason = "what an order says")]
    fn prepare(
        _class: &Bound<'_, PyType>,
        signer: &Bound<'_, PyAny>,
        entity_id: &Bound<'_, PyAny>,
        epoch: &Bound<'_, PyAny>,
        source: &Bound<'_, PyAny>,
        target: &Bound<'_, PyAny>,
        kind: &Bound<'_, PyAny>,
        not_after: &Bound<'_, PyAny>,
        orchestrator: Given<'_>,
        freeze_max: Given<'_>,
        state_bytes: Given<'_>,
    ) -> PyResult<Self> {
        entry("MigrationMessage.prepare", || {
            let signer = args::instance::<PyIdentity>(signer, "signer", "an Identity")?.get();
            let not_after: Moment = read(not_after, "not_after")?;
            let freeze: Option<Duration> = freeze_max.read_or("freeze_max", None)?;
            let freeze_ms = u32::try_from(freeze.map_or(0, |span| span.as_millis()))
                .map_err(|_| InvalidArgument::new_err(("freeze_max", "must be at most 2^32 - 1 milliseconds")))?;
            let orchestrator: Option<EntityId> = orchestrator.read_or("orchestrator", None)?;
            let order = MoveOrder {
                mid: keys::random_bytes::<16>(),
                entity: read(entity_id, "entity_id")?,
                epoch: read(epoch, "epoch")?,
                source: read(source, "source")?,
                target: read(target, "target")?,
                orchestrator: orchestrator.unwrap_or_else(|| signer.id()),
                not_after: UnixMs::new(not_after.unix_ms().get()),
                freeze_ms,
                size: state_bytes.read_or("state_bytes", 0)?,
                kind: kind_name(kind)?,
                terms: Terms::default(),
                signer: signer.id(),
                signature: [0; 64],
            };
            let signed = order.signed(&signer.key.lock());
            let order = signed.map_err(|error| errors::identity(&error))?;
            let sender = order.orchestrator;
            let frame = MoveFrame {
                mid: order.mid,
                entity: order.entity,
                epoch: order.epoch,
                step: 1,
                body: Body::Prepare(Box::new(order)),
            };
            let mut message = Self::read(&frame.to_bytes(), "order")?;
            message.sender = Beside(Some(sender));
            Ok(message)
        })
    }

    /// Read exactly one.
    #[classmethod]
    #[pyo3(signature = (data, *, sender = Given::Not, receiver = Given::Not),
        text_signature = "($type, data, *, sender=None, receiver=None)")]
    fn from_bytes(
        _class: &Bound<'_, PyType>,
        data: &Bound<'_, PyAny>,
        sender: Given<'_>,
        receiver: Given<'_>,
    ) -> PyResult<Self> {
        entry("MigrationMessage.from_bytes", || {
            let data = args::payload(data, "data")?;
            let mut message = Self::read(data.as_bytes(), "data")?;
            message.sender = Beside(sender.read_or("sender", None)?);
            message.receiver = Beside(receiver.read_or("receiver", None)?);
            Ok(message)
        })
    }

    /// Return its form on the wire.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.bytes())
    }

    /// What it is.
    #[getter]
    fn kind(&self) -> &'static str {
        let found = KINDS.iter().find(|(code, _)| *code == self.kind);
        found.map_or("", |(_, name)| name)
    }

    /// 16 bytes that name the attempt.
    #[getter]
    fn attempt<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.mid.to_python(py)
    }

    /// The daemon.
    #[getter]
    fn entity_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.entity.to_python(py)
    }

    /// The owner's term when the order was written.
    #[getter]
    fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Which message of its sender about the move it is, from 1.
    #[getter]
    fn step(&self) -> u32 {
        self.step
    }

    /// What it says.
    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.body.to_python(py)
    }

    /// The node that sent it, as what carried it says.
    #[getter]
    fn sender<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.sender.to_python(py)
    }

    /// The node that gets it.
    #[getter]
    fn receiver<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.receiver.to_python(py)
    }

    #[classattr]
    fn __match_args__(py: Python<'_>) -> PyResult<Bound<'_, pyo3::types::PyTuple>> {
        record::match_args::<Self>(py)
    }

    fn __hash__(slf: &Bound<'_, Self>) -> PyResult<isize> {
        record::hash(slf)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        record::repr(slf)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        record::reduce(slf)
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyMigrationMessage>()
}
