//! Events of linked streams on their way into daemons of this node, and their answers on the way back.
//!
//! Invariants
//! * An event is answered once it is decided: when its commit is kept, if it took effect or had before.
//! * Who is not answered tries again.

use std::ops::Range;
use std::sync::Arc;

use meshos_core::id::EntityId;
use meshos_core::ingress::EventKey;
use meshos_core::move_rows::Queued;
use meshos_core::stream::{Flow, Frame};

use crate::mesh::Delivered;

/// Takes answers back to where events came from.
pub trait Back: Send + Sync {
    /// Takes answers, on whatever thread that is: it is short, never waits, and calls no user code.
    fn answer(&self, answers: &[Answer]);
}

/// Takes the events that come while a daemon is frozen, in order. It is short and never waits.
pub trait Waits: Send + Sync {
    /// An event came.
    fn event(&self, queued: Queued);
}

/// A body with events that arrived here together.
pub struct Arrived {
    /// The body.
    pub body: Delivered,
    /// When it came in, in nanoseconds since 1970.
    pub received_ns: u64,
    /// Where its answers go.
    pub back: Arc<dyn Back>,
}

impl Arrived {
    /// Key of the node that it is from.
    #[must_use]
    pub fn from(&self) -> EntityId {
        self.body.from
    }

    /// A payload within it.
    #[must_use]
    pub fn payload(&self, at: &Range<usize>) -> &[u8] {
        self.body.body().get(at.clone()).unwrap_or_default()
    }
}

/// One event in a body that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Its origin, stream and number.
    pub key: EventKey,
    /// The number that was sent before it.
    pub prev: u64,
    /// Where its payload is in the body.
    pub payload: Range<usize>,
}

impl Incoming {
    /// As it travels with its daemon.
    pub(crate) fn queued(&self, arrived: &Arrived) -> Queued {
        Queued {
            from: arrived.from(),
            origin: self.key.origin,
            stream: self.key.stream,
            sequence: self.key.sequence,
            prev: self.prev,
            payload: arrived.payload(&self.payload).to_vec(),
        }
    }
}

/// Events that travelled with their daemon, as if they had just arrived: those that follow on each other from one node
/// together.
pub(crate) fn arrive(queue: Vec<Queued>, received_ns: u64, back: &Arc<dyn Back>) -> Vec<(Arc<Arrived>, Vec<Incoming>)> {
    let mut groups = Vec::new();
    for together in queue.chunk_by(|a, b| a.from == b.from) {
        let mut bytes = Vec::with_capacity(together.iter().map(|queued| queued.payload.len()).sum());
        let mut events = Vec::with_capacity(together.len());
        for queued in together {
            let begin = bytes.len();
            bytes.extend_from_slice(&queued.payload);
            events.push(Incoming {
                key: EventKey {
                    origin: queued.origin,
                    stream: queued.stream,
                    sequence: queued.sequence,
                },
                prev: queued.prev,
                payload: begin..bytes.len(),
            });
        }
        let arrived = Arrived {
            body: Delivered::of(together[0].from, bytes),
            received_ns,
            back: Arc::clone(back),
        };
        groups.push((Arc::new(arrived), events));
    }
    groups
}

/// The answer to an event.
pub struct Answer {
    /// With what the event arrived.
    pub arrived: Arc<Arrived>,
    /// The answer.
    pub frame: Frame<'static>,
}

/// What a mailbox made of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mailed {
    /// It waits.
    Taken,
    /// It waited already.
    Repeated,
    /// There is no room.
    Full,
    /// The daemon was removed, or its lanes were stopped.
    Gone,
}

/// The flow of an event to `entity`.
#[must_use]
pub const fn flow(entity: EntityId, key: &EventKey) -> Flow {
    Flow {
        entity,
        origin: key.origin,
        stream: key.stream,
    }
}

/// Hands answers on, those of one way together.
pub(crate) fn answer(answers: &[Answer]) {
    let same = |a: &Answer, b: &Answer| Arc::ptr_eq(&a.arrived.back, &b.arrived.back);
    for together in answers.chunk_by(same) {
        together[0].arrived.back.answer(together);
    }
}
