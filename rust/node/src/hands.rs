//! What a move does with a daemon: contract between who runs the machines of moves and who has the daemons.
//!
//! Invariants
//! * No call waits. What needs user code, the store or the directory is done on a lane.
//! * [`Done`] is called exactly once, from any thread, with no lock held.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meshos_core::digest::Digest;
use meshos_core::id::{EntityId, Origin};
use meshos_core::image::seal::{Agreement, Opener};
use meshos_core::move_frame::Reject;
use meshos_core::move_rows::{Frozen, MoveOrder, Prepared, Queued};
use meshos_core::ownership::OwnershipRecord;
use meshos_core::rows::Write;

use crate::image::Image;
pub use crate::linked::Waits;

/// Hears once what came of something.
pub type Done<T> = Box<dyn FnOnce(T) + Send>;

/// A daemon that is frozen.
pub struct Frost {
    /// Where it stands.
    pub frozen: Frozen,
    /// Since when nothing is processed.
    pub frozen_at: Instant,
    /// What travels.
    pub image: Arc<Image>,
    /// The records up to that of this node.
    pub lineage: Vec<OwnershipRecord>,
    /// The record that gives it to the target, signed. It is kept nowhere yet.
    pub record: Box<OwnershipRecord>,
    /// How long user code took for its snapshot.
    pub snapshot_took: Duration,
    /// How often something of it was copied: 1, or 2 if this is what came since a copy.
    pub rounds: u32,
}

/// A copy of a daemon that goes on working.
pub struct Copied {
    /// Where it stood.
    pub frozen: Frozen,
    /// What travels.
    pub image: Arc<Image>,
    /// How long user code took for its snapshot.
    pub snapshot_took: Duration,
}

/// Bytes of an image that came.
pub struct Arrived {
    /// All of them.
    pub bytes: Arc<Vec<u8>>,
    /// What opened the chunks: it knows what was agreed with the source.
    pub opener: Option<Arc<Opener>>,
    /// The record under which the source has it, as it says.
    pub active: Option<OwnershipRecord>,
}

impl Arrived {
    /// What was agreed with the source, if anything was opened.
    #[must_use]
    pub fn agreement(&self) -> Option<&Agreement> {
        self.opener.as_ref().and_then(|opener| opener.agreement())
    }
}

/// Bytes that came from elsewhere than a source, as from the store.
impl From<Vec<u8>> for Arrived {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes: Arc::new(bytes),
            opener: None,
            active: None,
        }
    }
}

/// Options of a freeze.
#[derive(Clone)]
pub struct FreezeOpts {
    /// What the key of the daemon is sealed with; `None`: it does not travel.
    pub sealing: Option<Arc<Agreement>>,
    /// How long user code that is inside may take until it is given up.
    pub within: Duration,
}

/// What a move does with the daemons of a node.
pub trait Hands: Send + Sync {
    /// Whether a daemon of this order could be taken on here; `None`: yes. No user code, no waiting.
    fn refusal(&self, order: &MoveOrder) -> Option<Reject>;

    /// Kind and rough size of the state of a daemon that runs here.
    fn kind(&self, entity: &EntityId) -> Option<(String, u64)>;

    /// The daemon of that handle that runs here.
    fn entity(&self, origin: Origin) -> Option<EntityId>;

    /// Makes an instance for a daemon of this order, before its source is asked to stand still: user code.
    /// [`restore`](Self::restore) takes it. One that was made before and is of the same kind stays.
    fn construct(&self, order: &MoveOrder, done: Done<Result<(), Reject>>);

    /// Lets go of an instance that was made and not taken.
    fn drop_made(&self, entity: &EntityId);

    /// Takes an image of a daemon that goes on, and notes from then on what takes effect: a freeze for the same move takes
    /// that, instead of everything, if its order is live. A copy that is there for another move is dropped.
    fn copy(&self, order: &MoveOrder, opts: FreezeOpts, done: Done<Result<Copied, Reject>>);

    /// Notes nothing any more for a copy.
    fn drop_copy(&self, entity: &EntityId);

    /// Keeps a copy, and restores the daemon from it, for an image of what came since.
    fn hold_copy(&self, order: &MoveOrder, image: Arrived, done: Done<Result<(), Reject>>);

    /// Lets go of a copy that is held, and not used yet.
    fn drop_held(&self, entity: &EntityId);

    /// Lets the event in flight finish; then nothing is processed. From then on linked events that wait or come go to
    /// `waits`, in the order of the mailbox. The daemon stays so until [`thaw`](Self::thaw) or
    /// [`hand_over`](Self::hand_over). If it is thawed before it is frozen, it leaves at once.
    fn freeze(&self, order: &MoveOrder, opts: FreezeOpts, waits: Arc<dyn Waits>, done: Done<Result<Frost, Reject>>);

    /// Puts the events before what came since, and lets the daemon go on; also while the freeze is under way.
    fn thaw(&self, entity: &EntityId, queue: Vec<Queued>);

    /// The record is kept here and gives the daemon to another node: it leaves, and its lease is no more.
    fn hand_over(&self, record: &OwnershipRecord);

    /// Lets go of something large that was for a daemon that was handed over: when it is retired, or after a while.
    fn dispose(&self, entity: &EntityId, spent: Box<dyn Send>);

    /// Drops what is left of the epochs before a record that gave the daemon away: rows, except records, certificates and
    /// moves, and those of a later term here; and the key. Tells whether it is kept that they are gone.
    fn retire(&self, record: &OwnershipRecord, done: Done<bool>);

    /// Keeps an image under its digest, and restores the daemon in standby. Tells where it stands.
    fn restore(&self, order: &MoveOrder, image: Arrived, done: Done<Result<Frozen, Reject>>);

    /// Lets go of a standby, and of its image.
    fn discard(&self, entity: &EntityId, image: &Digest);

    /// Claims the entity for this node and keeps everything of it in one commit, with `writes`; then has a lease. Tells the
    /// epoch: the daemon is there, not yet for others. An error: not now, the standby stays.
    fn install(
        &self,
        record: &OwnershipRecord,
        prepared: &Prepared,
        writes: Vec<Write>,
        done: Done<Result<u64, String>>,
    );

    /// Gives the events to a daemon that is installed, first of all, and lets others have it.
    fn go_live(&self, entity: &EntityId, queue: Vec<Queued>, done: Done<()>);

    /// The node closes: what is frozen or in standby is let go of.
    fn close(&self);
}
