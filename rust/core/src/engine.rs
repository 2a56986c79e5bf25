//! The contract of an engine: what moves bytes between the nodes of a mesh.
//!
//! What an engine promises:
//! * What is published reaches, unless it is lost, each receiver that subscribed to its topic at another node before.
//!   A node gets nothing from itself.
//! * A request is answered once: by the service, or with why there is no answer, at the latest when its time is over.
//! * It calls receivers, services and watches on threads of its own or of who publishes, with no lock held. They only put
//!   what they get into a bounded queue of theirs, and say when that is full; the engine counts it.
//! * Nothing that it keeps is unbounded: open requests and declarations are refused beyond a bound.
//! * After [`Engine::close`] every open request is told so, nothing is handed over any more, and every call is refused.
//!
//! What it does not promise: that something arrives, that it arrives once, in order, or soon, that it is what was sent,
//! that who is said to have sent it did, or that a node that is here lives. Frames, heartbeats, numbers, acknowledgements and
//! resends, all above the engine, see to that. So it need not be trusted.
//!
//! An engine belongs to one node. Topics are compared as they are; there are no patterns.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use thiserror::Error;

use crate::buffer::Buffer;
use crate::frame::FRAME_BYTES_MAX;
use crate::id::EntityId;
use crate::name::ChannelName;

/// Bytes of a payload at most.
pub const PAYLOAD_BYTES_MAX: usize = FRAME_BYTES_MAX;

/// Requests of one engine that are open at a time.
pub const REQUESTS_MAX: usize = 65_536;

/// Subscriptions, services and watches of one engine.
pub const DECLARED_MAX: usize = 1 << 20;

/// Where something is published, or asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// The heartbeats of all nodes.
    Beats,
    /// What is for one node.
    Node(EntityId),
    /// A channel of a node.
    Channel(EntityId, ChannelName),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beats => f.write_str("beats"),
            Self::Node(node) => write!(f, "node/{}", node.to_hex()),
            Self::Channel(node, name) => write!(f, "channel/{}/{name}", node.to_hex()),
        }
    }
}

/// Bytes on their way. A clone is the same bytes.
#[derive(Clone)]
pub struct Payload(Arc<Inner>);

struct Inner {
    bytes: Buffer,
    found: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Payload {
    /// Takes bytes; copies nothing.
    #[must_use]
    pub fn new(bytes: impl Into<Buffer>) -> Self {
        let (bytes, found) = (bytes.into(), OnceLock::new());
        Self(Arc::new(Inner { bytes, found }))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// What was found in the bytes before, if it is a `T`.
    #[must_use]
    pub fn found<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.0.found.get()?.downcast_ref()
    }

    /// What `find` makes of the bytes, found once for all receivers in this process that look for a `T`. It must depend
    /// on nothing but the bytes.
    pub fn find<T: Any + Send + Sync>(&self, find: impl Fn(&[u8]) -> T) -> Arc<T> {
        let found = self.0.found.get_or_init(|| Arc::new(find(&self.0.bytes)));
        Arc::clone(found)
            .downcast()
            .unwrap_or_else(|_| Arc::new(find(&self.0.bytes)))
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.bytes.len())
    }
}

/// Why an engine refuses a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EngineError {
    /// It is closed.
    #[error("the engine is closed")]
    Closed,
    /// There are too many of these.
    #[error("there are too many, at most {max} are allowed")]
    Crowded {
        /// How many there may be.
        max: usize,
    },
    /// It is larger than may be.
    #[error("{size} bytes, at most {max} are allowed")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The size allowed.
        max: usize,
    },
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RequestError {
    /// Nobody serves the topic, or who does takes nothing now. Asking again may help.
    #[error("nobody answers there now")]
    Unavailable,
    /// The time is over. Whether it was served is not known.
    #[error("there was no answer in time")]
    Timeout,
    /// The engine refused it, or was closed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Gets what is published.
pub trait Receive: Send + Sync {
    /// Puts a payload into a queue; `false` when that is full, and the payload is lost.
    fn receive(&self, topic: &Topic, payload: &Payload) -> bool;
}

/// Is told once what became of a request.
pub type Answered = Box<dyn FnOnce(Result<Payload, RequestError>) + Send>;

/// Answers one request, once. Who drops it says that nobody answers.
pub struct Responder(Option<Answered>);

impl Responder {
    /// Will tell `answered`.
    #[must_use]
    pub fn new(answered: Answered) -> Self {
        Self(Some(answered))
    }

    /// Answers.
    pub fn answer(mut self, payload: Payload) {
        if let Some(answered) = self.0.take() {
            answered(Ok(payload));
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(answered) = self.0.take() {
            answered(Err(RequestError::Unavailable));
        }
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Responder")
    }
}

/// Answers what is asked.
pub trait Serve: Send + Sync {
    /// Puts a request into a queue; drops it when that is full.
    fn serve(&self, topic: &Topic, payload: &Payload, responder: Responder);
}

/// Learns which nodes have an engine.
pub trait Watch: Send + Sync {
    /// A node is there, as far as the engine knows.
    fn here(&self, node: &EntityId);

    /// A node left, as far as the engine knows.
    fn left(&self, node: &EntityId);
}

/// Something that was declared, until it is dropped.
#[must_use = "what is declared ends when this is dropped"]
pub struct Declared(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Declared {
    /// Runs `end` when it is dropped.
    pub fn new(end: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(end)))
    }
}

impl Drop for Declared {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

impl fmt::Debug for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Declared")
    }
}

/// What an engine did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Payloads published.
    pub published: u64,
    /// Payloads handed to receivers of this node.
    pub received: u64,
    /// Payloads that receivers of this node had no place for.
    pub refused: u64,
    /// Requests made.
    pub requests: u64,
    /// Requests without an answer.
    pub unanswered: u64,
    /// Requests for services of this node.
    pub served: u64,
}

/// Moves bytes between one node and the others of its mesh.
pub trait Engine: Send + Sync {
    /// The node that it is of.
    fn node(&self) -> EntityId;

    /// Sends to whoever subscribes to a topic. Never waits for a receiver.
    ///
    /// # Errors
    /// [`EngineError::Closed`], [`EngineError::TooLarge`].
    fn publish(&self, topic: &Topic, payload: Payload) -> Result<(), EngineError>;

    /// Has what is published on a topic handed to a receiver.
    ///
    /// # Errors
    /// [`EngineError::Closed`], [`EngineError::Crowded`].
    fn subscribe(&self, topic: &Topic, receiver: Arc<dyn Receive>) -> Result<Declared, EngineError>;

    /// Asks whoever serves a topic at another node. `answered` is told once, perhaps before this returns.
    fn request(&self, topic: &Topic, payload: Payload, timeout: Duration, answered: Answered);

    /// Answers what is asked on a topic.
    ///
    /// # Errors
    /// [`EngineError::Closed`], [`EngineError::Crowded`]: also when this node serves the topic already.
    fn serve(&self, topic: &Topic, service: Arc<dyn Serve>) -> Result<Declared, EngineError>;

    /// Tells which other nodes are there now, and then who comes and who leaves.
    ///
    /// # Errors
    /// [`EngineError::Closed`], [`EngineError::Crowded`].
    fn watch(&self, watch: Arc<dyn Watch>) -> Result<Declared, EngineError>;

    /// Leaves; does nothing the second time.
    fn close(&self);

    /// What it did.
    fn stats(&self) -> EngineStats;
}
