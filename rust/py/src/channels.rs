//! Channels of a node: publishing on them, reading them without a daemon, and who may.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::channel_frame::{Reason, Unpublished};
use meshos_core::id::{EntityId, NodeId, Origin};
use meshos_core::name::ChannelName;
use meshos_core::token::{PermissionToken, Rights, Scope, Terms};
use meshos_node::channel_rows;
use meshos_node::channel_stream::{ANSWER, Arrived, ChannelStream, NoItem, NotSubscribed};
use meshos_node::channels::{Channels, PublishError, RequestError, RevokeError};
use meshos_node::clock::Deadline;
use meshos_node::journal::Stores;
use meshos_node::lane::{Job, Lanes};
use meshos_node::sync::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::args;
use crate::errors::{self, InvalidArgument, LoopClosed, PublishRejected, QueueFull, SubscribeRejected, Unavailable};
use crate::guard::{self, Born, entry, may_wait};
use crate::name::channel_name;
use crate::record::field::Field;
use crate::record::record;
use crate::send::Timeout;
use crate::stream::PyGap;
use crate::threads;
use crate::token::PyPermissionToken;

/// Items handed to a reader at once.
const BATCH_MAX: usize = 1_024;

/// A payload that is shared with other readers until Python asks for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Shared(pub Arc<[u8]>);

impl Field for Shared {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        args::payload(value, name).map(|bytes| Self(Arc::from(bytes.as_bytes())))
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(PyBytes::new(py, &self.0).into_any())
    }
}

record! {
    /// One payload on a channel.
    pub struct PyChannelMessage in "meshos.mesh" as "ChannelMessage" {
        /// The channel.
        channel: ChannelName,
        /// The node that published it.
        publisher: NodeId,
        /// Its number at this publisher on this channel.
        sequence: u64,
        /// The payload.
        payload: Shared,
        /// The daemon that emitted it; `None`: the node itself.
        origin_hash: Option<Origin>,
    }
}

/// What a publisher said no with.
pub fn rejected(py: Python<'_>, reason: Reason, publisher: NodeId, channel: &ChannelName) -> PyErr {
    let kind = match reason {
        Reason::Unauthorized => "unauthorized",
        Reason::RateLimited => "rate_limited",
        Reason::TooMany => "too_many_channels",
        Reason::Closed => return LoopClosed::new_err((format!("channel {channel}"),)),
    };
    match channel_name(py, channel) {
        Ok(name) => SubscribeRejected::new_err((kind, publisher.get(), name.unbind())),
        Err(error) => error,
    }
}

/// A node did not answer.
pub fn unavailable(publisher: NodeId) -> PyErr {
    Unavailable::new_err((publisher.get(), format!("node {publisher} did not answer in time")))
}

/// A subscription did not begin.
pub fn not_subscribed(py: Python<'_>, error: NotSubscribed, publisher: NodeId, channel: &ChannelName) -> PyErr {
    match error {
        NotSubscribed::Rejected(reason) => rejected(py, reason, publisher, channel),
        NotSubscribed::Unavailable | NotSubscribed::Interrupted => unavailable(publisher),
        NotSubscribed::Refused(error) => not_published(py, &error),
    }
}

/// An event was not published, or a channel not opened.
pub fn not_published(py: Python<'_>, error: &PublishError) -> PyErr {
    match error {
        PublishError::NotPublished(error) => InvalidArgument::new_err(("payload", error.to_string())),
        PublishError::Full => errors::backpressure(py),
        PublishError::TooManyChannels => QueueFull::new_err((error.to_string(),)),
        PublishError::Closed => LoopClosed::new_err(("Mesh",)),
    }
}

/// Publishes as the node.
pub fn publish(channels: &Channels, channel: &Bound<'_, PyAny>, payload: &Bound<'_, PyAny>) -> PyResult<u64> {
    let py = channel.py();
    let channel = ChannelName::from_python(channel, "channel")?;
    let payload = args::payload(payload, "payload")?;
    let payload: Arc<[u8]> = Arc::from(payload.as_bytes());
    let published = match channels.try_publish(&channel, payload) {
        Ok(published) => published,
        // Turns are given, or somebody is waited for: without the interpreter.
        Err(payload) => py.detach(|| channels.publish(&channel, payload)),
    };
    published.map_err(|error| not_published(py, &error))
}

/// Asks another node to publish on a channel of its own, as this node.
pub fn publish_to(
    py: Python<'_>,
    channels: &Channels,
    node: NodeId,
    channel: &ChannelName,
    payload: Arc<[u8]>,
    token: Option<&PermissionToken>,
    timeout: &Timeout,
) -> PyResult<u64> {
    let deadline = timeout.deadline();
    let span = timeout.span().unwrap_or(REQUEST_MAX).min(REQUEST_MAX);
    let mut signal = None;
    let published = py.detach(|| {
        let mut interrupted = || guard::interrupted(&mut signal);
        let of = publisher(channels, node, deadline, &mut interrupted).map_err(|error| match error {
            NotSubscribed::Interrupted => RequestError::Interrupted,
            NotSubscribed::Refused(_) => RequestError::Closed,
            NotSubscribed::Unavailable | NotSubscribed::Rejected(_) => RequestError::NotSent,
        })?;
        let requested = channels.publish_at(of, channel, token_bytes(token), payload, span)?;
        requested.wait(Deadline::never(), interrupted)
    });
    if let Some(raised) = signal {
        return Err(raised);
    }
    published.map_err(|error| not_requested(py, error, node, channel))
}

/// Another node did not publish something, or it is not known.
fn not_requested(py: Python<'_>, error: RequestError, node: NodeId, channel: &ChannelName) -> PyErr {
    let kind = match error {
        RequestError::Refused(Unpublished::Refused(Reason::RateLimited)) | RequestError::Full => {
            return errors::backpressure(py);
        }
        RequestError::Refused(Unpublished::Refused(reason)) => match reason {
            Reason::Unauthorized => "unauthorized",
            Reason::TooMany => "too_many_channels",
            Reason::Closed | Reason::RateLimited => "closed",
        },
        RequestError::Refused(Unpublished::TooLarge) => "too_large",
        RequestError::NotSent => {
            let text = format!("node {node} was not there in time; nothing was published");
            return Unavailable::new_err((node.get(), text));
        }
        RequestError::Refused(Unpublished::Forgotten) | RequestError::Unknown | RequestError::Interrupted => {
            let text = format!("node {node} did not answer in time; it may have been published");
            return Unavailable::new_err((node.get(), text));
        }
        RequestError::Closed => return LoopClosed::new_err(("Mesh",)),
    };
    match channel.to_python(py) {
        Ok(channel) => PublishRejected::new_err((kind, node.get(), channel.unbind())),
        Err(error) => error,
    }
}

/// Issues a token.
pub fn issue(
    channels: &Channels,
    subject: EntityId,
    channel: ChannelName,
    rights: Rights,
    ttl: Duration,
    delegations: u8,
) -> PyResult<PyPermissionToken> {
    let terms = Terms {
        subject,
        scope: Scope::Channel(channel),
        rights,
        delegations,
    };
    let issued = channels.issue(terms, ttl).map(PyPermissionToken);
    issued.map_err(|error| errors::token(&error))
}

/// Takes all tokens of a subject back; waits until the store has that.
pub fn revoke(py: Python<'_>, channels: &Channels, stores: &Stores, subject: EntityId) -> PyResult<()> {
    let refused = |error: RevokeError| match error {
        RevokeError::Identity(error) => errors::identity(&error),
        RevokeError::NotRevoked(error) => QueueFull::new_err((error.to_string(),)),
    };
    let revocation = channels.sign_revocation(subject).map_err(refused)?;
    let kept = py.detach(|| channel_rows::keep(stores, &revocation));
    kept.map_err(|error| errors::store(&error, ""))?;
    py.detach(|| channels.revoke(&revocation)).map_err(refused)
}

/// Reads an optional token.
pub fn token_bytes(token: Option<&PermissionToken>) -> Vec<u8> {
    token.map_or_else(Vec::new, PermissionToken::to_bytes)
}

/// How long a request to publish is asked for at most.
const REQUEST_MAX: Duration = Duration::from_secs(300);

/// The key of a node; waits until it was heard of.
pub fn publisher(
    channels: &Channels,
    node: NodeId,
    deadline: Deadline,
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<EntityId, NotSubscribed> {
    if let Some(entity) = channels.node(node) {
        return Ok(entity);
    }
    let Some(mesh) = channels.carrier().as_mesh() else {
        return Err(NotSubscribed::Unavailable);
    };
    use meshos_node::mesh::PeerWaitError;
    match mesh.wait_for_peer(node, deadline, interrupted) {
        Ok(peer) => Ok(peer.entity),
        Err(PeerWaitError::Timeout) => Err(NotSubscribed::Unavailable),
        Err(PeerWaitError::Interrupted) => Err(NotSubscribed::Interrupted),
        Err(PeerWaitError::Closed) => Err(NotSubscribed::Refused(PublishError::Closed)),
    }
}

/// Subscribes as the node, and waits for the publisher.
pub fn subscribe(
    py: Python<'_>,
    channels: &Channels,
    node: NodeId,
    channel: &ChannelName,
    token: Option<&PermissionToken>,
    buffer_max: usize,
) -> PyResult<PyChannelReader> {
    let mut signal = None;
    let opened = py.detach(|| {
        let deadline = Deadline::after(ANSWER);
        let mut interrupted = || guard::interrupted(&mut signal);
        let of = publisher(channels, node, deadline, &mut interrupted)?;
        let token = token_bytes(token);
        ChannelStream::open(channels, of, channel, token, buffer_max, deadline, &mut interrupted)
    });
    match (opened, signal) {
        (_, Some(raised)) => Err(raised),
        (Err(error), None) => Err(not_subscribed(py, error, node, channel)),
        (Ok(stream), None) => Ok(PyChannelReader {
            stream: Some(stream),
            channel: channel.clone(),
            publisher: node,
            lanes: threads::wake_lanes(py)?,
            born: Born::now(),
        }),
    }
}

/// Where the items of a stream of a channel come from.
#[pyclass(frozen, name = "ChannelReader", module = "meshos._core")]
pub struct PyChannelReader {
    /// There until it is dropped.
    stream: Option<ChannelStream>,
    channel: ChannelName,
    publisher: NodeId,
    lanes: Lanes,
    born: Born,
}

impl Drop for PyChannelReader {
    fn drop(&mut self) {
        // In a forked child another thread may have held its locks.
        if !self.born.is_here() {
            std::mem::forget(self.stream.take());
        }
    }
}

impl PyChannelReader {
    fn stream(&self) -> PyResult<&ChannelStream> {
        self.born.check("Stream")?;
        self.stream.as_ref().ok_or_else(|| LoopClosed::new_err(("Stream",)))
    }

    fn items<'py>(&self, py: Python<'py>, arrived: Vec<Arrived>) -> PyResult<Bound<'py, PyList>> {
        let items = arrived.into_iter().map(|item| match item {
            Arrived::Event(item) => {
                let message = PyChannelMessage {
                    channel: self.channel.clone(),
                    publisher: self.publisher,
                    sequence: item.sequence,
                    payload: Shared(item.payload),
                    origin_hash: item.emitter.map(|emitter| emitter.origin()),
                };
                Bound::new(py, message).map(Bound::into_any)
            }
            Arrived::Gap(gap) => {
                let (first, last) = (gap.first, gap.last);
                Bound::new(py, PyGap { first, last }).map(Bound::into_any)
            }
        });
        PyList::new(py, items.collect::<PyResult<Vec<_>>>()?)
    }

    fn ended(&self, py: Python<'_>, reason: Option<Reason>) -> PyErr {
        match reason {
            Some(reason) => rejected(py, reason, self.publisher, &self.channel),
            None => LoopClosed::new_err((format!("channel {}", self.channel),)),
        }
    }
}

#[pymethods]
impl PyChannelReader {
    /// Waits for items and takes them; none: time is up.
    fn take_many<'py>(&self, py: Python<'py>, timeout: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        entry("Stream", || {
            let stream = self.stream()?;
            let now = stream.take(BATCH_MAX, Deadline::now(), &mut || false);
            match now {
                Ok(items) => return self.items(py, items),
                Err(NoItem::Ended(reason)) => return Err(self.ended(py, reason)),
                Err(NoItem::Timeout | NoItem::Interrupted) => {}
            }
            let span = args::span(Some(timeout), "timeout")?;
            if span == Some(Duration::ZERO) {
                return Ok(PyList::empty(py));
            }
            may_wait("Stream.receive")?;
            let deadline = span.map_or_else(Deadline::never, Deadline::after);
            let mut signal = None;
            let taken = py.detach(|| {
                let mut interrupted = || guard::interrupted(&mut signal);
                stream.take(BATCH_MAX, deadline, &mut interrupted)
            });
            match (taken, signal) {
                (Ok(items), None) => self.items(py, items),
                (_, Some(raised)) => Err(raised),
                (Err(NoItem::Ended(reason)), None) => Err(self.ended(py, reason)),
                (Err(NoItem::Timeout | NoItem::Interrupted), None) => Ok(PyList::empty(py)),
            }
        })
    }

    /// Has `wake` called on a lane when there are items; `False`: there are, or there will be none.
    fn when_there(&self, wake: Py<PyAny>) -> PyResult<bool> {
        let job = Arc::new(Waking(Mutex::new(Some(wake))));
        Ok(self.stream()?.when_there(&self.lanes, job))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let stream = self.stream()?;
        py.detach(|| stream.close());
        Ok(())
    }
}

/// Calls a Python object once, on a lane.
struct Waking(Mutex<Option<Py<PyAny>>>);

impl Job for Waking {
    fn run(self: Arc<Self>) {
        let wake = self.0.lock().take();
        // `None`: the interpreter is going away, and nobody waits any more.
        let _ = Python::try_attach(|py| {
            if let Some(wake) = wake
                && let Err(error) = wake.bind(py).call0()
            {
                crate::registry::log(py, "waking a reader", error);
            }
        });
    }
}

/// The stream of a reader, as Python sees it.
pub fn stream<'py>(py: Python<'py>, reader: PyChannelReader) -> PyResult<Bound<'py, PyAny>> {
    let name = format!("channel {}", reader.channel);
    let reader = Bound::new(py, reader)?;
    let source = py.import(intern!(py, "meshos._channels"))?;
    source.call_method1(intern!(py, "stream"), (reader, name))
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyChannelMessage>()?;
    module.add_class::<PyChannelReader>()
}
