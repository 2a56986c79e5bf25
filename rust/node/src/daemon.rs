//! What a node needs of user code.
//!
//! The binding implements [`Daemon`] for a Python object; tests implement it for a Rust value. Calls for one daemon
//! never overlap, except questions about its class, which touch no state.

use std::fmt::Debug;
use std::sync::Arc;

use meshos_core::control::DaemonControl;
use meshos_core::cursors::Receipt;
use meshos_core::event::DaemonHealth;
use meshos_core::host::Few;
use meshos_core::ingress::EventKey;
use meshos_core::link::CausalLink;
use meshos_core::route::Route;
use meshos_core::source::Source;
use meshos_core::store::StoreError;

use crate::lease::Unleased;

/// What `process` gave back.
pub type Outputs<D> = Result<Few<<D as Daemon>::Output>, <D as Daemon>::Error>;

/// What comes of a mailed event.
pub type Settled<D> = Result<Delivered<D>, DeliverError<D>>;

/// Runs once the outputs of a pending call are there.
pub type Continuation<D> = Box<dyn FnOnce(Outputs<D>) + Send>;

/// A call of `process`: done, or still running somewhere else.
pub enum Process<D: Daemon> {
    /// It returned or raised.
    Done(Outputs<D>),
    /// It is a coroutine, and runs on its loop.
    Later(D::Later),
}

/// What came of an event.
pub struct Delivered<D: Daemon> {
    /// What it emitted, linked; empty for a duplicate.
    pub outputs: Few<D::Event>,
    /// The acknowledgement, when one was asked for.
    pub receipt: Option<Receipt>,
    /// Whether it took effect at an earlier try.
    pub duplicate: bool,
}

/// Why an event did not take effect.
#[derive(Debug)]
pub enum DeliverError<D: Daemon> {
    /// Its number is 0.
    NoNumber,
    /// It is at or below the cursor, and its receipt is not kept: whether it took effect cannot be told.
    Unknown {
        /// Highest number applied of its origin.
        cursor: u64,
    },
    /// User code raised.
    Raised(D::Error),
    /// User code raised, and its state could not be rebuilt: it takes no more events.
    Lost {
        /// What `process` raised.
        error: D::Error,
        /// Why the rebuilding failed, in one line.
        reason: Arc<str>,
    },
    /// A snapshot had to be taken first, and user code raised in it.
    SnapshotFailed(D::Error),
    /// The chain has no numbers left.
    Exhausted,
    /// The daemon was removed or replaced before it took the event.
    Stale,
    /// User code was lost earlier; the reason in one line.
    Failed(Arc<str>),
    /// An event before it in the same batch failed.
    Skipped,
    /// The store did not keep it. It may come back when the process ends before something else was kept: then a second
    /// try finds a duplicate.
    NotKept(StoreError),
    /// It was ahead of the store, and could not be brought back from it: in one line.
    NotResumed(Arc<str>),
    /// Its daemon moved away while it waited, and it was sent on.
    SentOn(NotTaken),
    /// This node may not let it take events now, or not acknowledge them: what was processed before is acknowledged when it
    /// is tried again.
    Unleased(Unleased),
}

/// What became of an event that was sent on to another node, other than that it took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// It failed too often and was passed over.
    PassedOver,
    /// No node has the daemon any more.
    Nobody,
    /// As much waits for the daemon as may.
    Full,
    /// Its number lies between numbers that were sent.
    OutOfOrder,
    /// The node was shut down; what became of it is not known.
    Closed,
}

/// User code, as a node sees it. Every method may be called on any thread, with no lock held.
pub trait Daemon: Send + Sync + Sized + 'static {
    /// An event as the embedding language holds it; cloning is cheap and copies no payload.
    type Event: Clone + Send + Sync + 'static;
    /// One payload that `process` returned.
    type Output: AsRef<[u8]> + Send;
    /// State bytes.
    type State: AsRef<[u8]> + Clone + Send + Sync + 'static;
    /// Failure of user code, with its original.
    type Error: Debug + Send + 'static;
    /// A call of `process` that goes on elsewhere.
    type Later: Send + 'static;
    /// A payload that becomes an event when it is numbered.
    type Draft: Send + 'static;
    /// Who waits for a mailed event.
    type Reply: Send + 'static;

    /// Runs `body` so that many calls of user code in it are cheap.
    fn batch<R>(body: impl FnOnce() -> R) -> R {
        body()
    }

    /// Runs `body`, which waits for the system, so that it holds up no other user code.
    fn apart<R: Send>(body: impl FnOnce() -> R + Send) -> R {
        body()
    }

    /// What a signal raised on this thread, if one did: who waits gives up.
    fn interrupted() -> Option<Self::Error> {
        None
    }

    /// Number and origin of an event.
    fn key(event: &Self::Event) -> EventKey;
    /// Length of an event's payload in bytes.
    fn payload_len(event: &Self::Event) -> usize;
    /// Link and payload of an event that [`Daemon::emitted`] made.
    fn parts(event: &Self::Event) -> (CausalLink, &[u8]);
    /// Makes an event of an output and its link, and another reference to it if it is to be kept.
    fn emitted(link: CausalLink, output: Self::Output, keep: bool) -> (Self::Event, Option<Self::Event>);
    /// Where an output goes besides the chain.
    fn route(_output: &Self::Output) -> Route {
        Route::Chain
    }
    /// Makes the event of a draft that was given a number.
    fn numbered(draft: Self::Draft, key: EventKey) -> Self::Event;
    /// Payload of a draft.
    fn drafted(draft: &Self::Draft) -> &[u8];
    /// When an event came in, in nanoseconds since 1970.
    fn received_ns(event: &Self::Event) -> u64;
    /// Makes an event that came in before.
    fn received(link: CausalLink, payload: &[u8], received_ns: u64) -> Self::Event;
    /// Makes an event of a channel, of which it shows where it comes from.
    fn arrived(link: CausalLink, payload: &[u8], received_ns: u64, _source: &Arc<Source>) -> Self::Event {
        Self::received(link, payload, received_ns)
    }
    /// Makes a state of bytes that [`Daemon::snapshot`] gave before.
    fn state(bytes: Vec<u8>) -> Self::State;
    /// As [`Daemon::state`], of a part of a larger buffer.
    fn state_in(bytes: &[u8]) -> Self::State {
        Self::state(bytes.to_vec())
    }
    /// An error in one line.
    fn describe(error: &Self::Error) -> String;
    /// Class name of the exception behind an error, empty when there is none; and its text.
    fn blame(error: &Self::Error) -> (Arc<str>, Arc<str>);

    /// Whether the call was refused before any of it ran: nothing happened, and nothing is counted.
    fn never_ran(error: &Self::Error) -> bool;
    /// Whether an error is to end the process, and so says nothing of its daemon.
    fn ends_process(_error: &Self::Error) -> bool {
        false
    }
    /// Whether a call was given up while it still runs: its daemon must not be called again.
    fn still_runs(error: &Self::Error) -> bool;

    /// Whether nobody wants a reply any more, and the event need not be tried.
    fn is_abandoned(reply: &Self::Reply) -> bool;
    /// Whether nobody ever waited: the event is tried until it takes effect or is passed over.
    fn is_unattended(reply: &Self::Reply) -> bool;
    /// Answers those who wait, in order.
    fn settle(replies: Vec<(Self::Reply, EventKey, Settled<Self>)>);

    /// Name of its class among all nodes; travels in snapshots.
    fn kind(&self) -> &Arc<str>;
    /// Version of its state's format.
    fn schema(&self) -> u32;
    /// Label for people.
    fn name(&self) -> &Arc<str>;
    /// Whether it has state to snapshot and restore.
    fn is_stateful(&self) -> bool;
    /// Whether it reports health or load.
    fn reports(&self) -> bool;
    /// Whether `process` is a coroutine, as far as its class tells.
    fn is_async(&self) -> bool;
    /// Whether it takes controls.
    fn takes_control(&self) -> bool;

    /// Takes one event.
    fn process(&self, event: &Self::Event) -> Process<Self>;
    /// Waits for a pending call on this thread.
    fn wait(&self, later: Self::Later) -> Outputs<Self>;
    /// Calls `then` when a pending call is done, on whatever thread that is.
    fn on_done(&self, later: Self::Later, then: Continuation<Self>);
    /// Returns the whole state; called only when it is stateful.
    ///
    /// # Errors
    /// User code raised, or gave back something else than bytes.
    fn snapshot(&self) -> Result<Self::State, Self::Error>;
    /// Takes over a whole state, written under `schema`.
    ///
    /// # Errors
    /// User code raised, or the state is of a newer schema.
    fn restore(&self, state: &Self::State, schema: u32) -> Result<(), Self::Error>;
    /// Makes another instance, without state; `None` when only this instance can be had.
    ///
    /// # Errors
    /// The factory raised, or made something else.
    fn fresh(&self) -> Result<Option<Self>, Self::Error>;
    /// Reports health and load.
    ///
    /// # Errors
    /// User code raised, or gave back something else. The other half of the report is lost with it.
    fn report(&self) -> Result<(DaemonHealth, f64), Self::Error>;
    /// Takes one control.
    ///
    /// # Errors
    /// User code raised.
    fn control(&self, control: DaemonControl) -> Result<(), Self::Error>;
}
