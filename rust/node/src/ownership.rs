//! Which daemons a node may run: its owners, their leases, and the directory, if it is at this node.
//!
//! A node that is alone has none of this. In a mesh, whoever spawns a daemon makes a *claim* first, on its own thread: the
//! directory is asked, and a record is to be kept together with the daemon. Once it is kept the directory is asked for a
//! lease; then the daemon runs, and its *hold* renews the lease in turns on the thread of all meshes.
//!
//! Invariants
//! * No lock is held while a frame is sent, the store works, or somebody is told.

mod claim;
mod hold;
mod inbox;
mod owners;
mod records;
mod work;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use meshos_core::directory::DirectoryConfig;
use meshos_core::frame::Kind;
use meshos_core::id::{EntityId, Origin};
use meshos_core::identity::Keypair;
use meshos_core::owner::OwnerConfig;
use meshos_core::ownership::OwnershipRecord;
use meshos_core::store::StoreError;

use crate::carrier::Carrier;
use crate::inbox::Inbox;
use crate::keeping::Stores;
use crate::keys;
use crate::lane::Lanes;
use crate::ownership_central::{Central, Told};
use crate::reactor::{Place, Reactor, Turn};
use crate::sync::Mutex;
use crate::verified::Verified;

use claim::Stage;
pub use claim::{CLAIM_WAIT, Claim, Denied, Wish};
pub use hold::{Fenced, Hold};
use inbox::{INBOX_BYTES_MAX, INBOX_MAX, Inlet, Item};
use owners::Entry;
pub use records::Recorded;
pub(crate) use records::rows;
use work::Work;

/// Renewals that fall due so close to each other are asked for together.
const TOGETHER: Duration = Duration::from_millis(20);

/// Options of ownership.
#[derive(Debug, Clone, Default)]
pub struct OwnershipConfig {
    /// Of owners.
    pub owner: OwnerConfig,
    /// Of the directory.
    pub directory: DirectoryConfig,
}

/// What became of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnershipStats {
    /// Daemons whose leases this node renews.
    pub held: u64,
    /// Leases that ran out, and came back.
    pub lapses: u64,
    /// Daemons that were stopped since another node owns them.
    pub fenced: u64,
    /// Messages that cannot be read.
    pub refused_malformed: u64,
    /// Messages of nodes that have no say.
    pub refused_stranger: u64,
    /// Messages with signatures that do not fit.
    pub refused_forged: u64,
    /// Answers that came late or twice.
    pub late: u64,
    /// What became of requests at the directory, where it is.
    pub directory: Option<meshos_core::directory::Counters>,
}

#[derive(Default)]
struct State {
    owners: HashMap<EntityId, Entry>,
    due: BTreeSet<(Duration, EntityId)>,
    /// The highest records heard of, by handle.
    heard: HashMap<Origin, OwnershipRecord>,
    offered: HashMap<EntityId, Vec<OwnershipRecord>>,
    made: u64,
    lapses: u64,
    late: u64,
    fenced: u64,
}

/// Which daemons one node may run.
pub struct Ownership {
    carrier: Carrier,
    node: EntityId,
    directory: EntityId,
    run: u64,
    began: Instant,
    config: OwnerConfig,
    stores: Stores,
    central: Option<Central>,
    verified: Arc<Verified>,
    state: Mutex<State>,
    inbox: Mutex<Inbox<Item>>,
    place: OnceLock<Place>,
    lanes: Lanes,
    malformed: AtomicU64,
    stranger: AtomicU64,
    forged: AtomicU64,
    recorded: OnceLock<Recorded>,
    me: Weak<Self>,
}

impl Ownership {
    /// Begins at a node. `directory` is the node that has the directory; if it is this one, its rows are read.
    ///
    /// # Errors
    /// [`StoreError`]: the rows of the directory cannot be read.
    pub fn join(
        carrier: Carrier,
        key: Arc<Keypair>,
        stores: Stores,
        directory: EntityId,
        config: OwnershipConfig,
    ) -> Result<Arc<Self>, StoreError> {
        let (node, began) = (carrier.entity_id(), Instant::now());
        let verified: Arc<Verified> = Arc::default();
        let central = if node == directory {
            let known = Arc::clone(&verified);
            Some(Central::open(key, Arc::clone(&stores), known, began, config.directory)?)
        } else {
            None
        };
        let run = carrier.as_mesh().map_or_else(keys::random_u64, crate::mesh::Mesh::run);
        let made = Arc::new_cyclic(|me: &Weak<Self>| Self {
            carrier,
            node,
            directory,
            run,
            began,
            config: config.owner,
            stores,
            central,
            verified,
            state: Mutex::default(),
            inbox: Mutex::new(Inbox::new(INBOX_MAX, INBOX_BYTES_MAX)),
            place: OnceLock::new(),
            lanes: Lanes::new("meshos-owner", 1, |body| body()),
            malformed: AtomicU64::new(0),
            stranger: AtomicU64::new(0),
            forged: AtomicU64::new(0),
            recorded: OnceLock::new(),
            me: me.clone(),
        });
        if let Some(central) = &made.central {
            let told: Weak<dyn Told> = made.me.clone();
            central.tell(told);
        }
        made.carrier.attach(Kind::OWNERSHIP, Arc::new(Inlet(made.me.clone())));
        Ok(made)
    }

    /// This node.
    #[must_use]
    pub const fn node(&self) -> EntityId {
        self.node
    }

    /// The node that has the directory.
    #[must_use]
    pub const fn directory(&self) -> EntityId {
        self.directory
    }

    /// The directory, if this node has it.
    #[must_use]
    pub const fn central(&self) -> Option<&Central> {
        self.central.as_ref()
    }

    /// The records that this node knows to be signed as they say.
    #[must_use]
    pub const fn verified(&self) -> &Arc<Verified> {
        &self.verified
    }

    /// What became of requests.
    #[must_use]
    pub fn stats(&self) -> OwnershipStats {
        let state = self.state.lock();
        let active = state.owners.values();
        let (held, lapses, late) = active.fold((0, state.lapses, state.late), |(held, lapses, late), entry| {
            let counters = entry.owner.counters();
            (held + 1, lapses + counters.lapses, late + counters.late)
        });
        OwnershipStats {
            held,
            lapses,
            fenced: state.fenced,
            refused_malformed: self.malformed.load(Ordering::Relaxed),
            refused_stranger: self.stranger.load(Ordering::Relaxed),
            refused_forged: self.forged.load(Ordering::Relaxed),
            late,
            directory: self.central.as_ref().map(Central::counters),
        }
    }

    fn place(&self) -> &Place {
        self.place.get_or_init(|| {
            let turn: Weak<dyn Turn> = self.me.clone();
            Reactor::of_process().place(turn).0
        })
    }
}

impl Turn for Ownership {
    fn turn(&self) -> Option<Instant> {
        if self.carrier.is_closed() {
            self.end();
            return None;
        }
        let items = self.inbox.lock().take();
        let mut work = Work::default();
        for item in items {
            match item {
                Item::Body(delivered) => self.body(&delivered, &mut work),
                Item::Kept(tickets, is_kept) => {
                    if let Some(central) = &self.central {
                        central.kept(tickets, is_kept, &mut work.posts);
                    }
                }
                Item::Noted(entity, number, ticket, is_kept) => self.noted(entity, number, ticket, is_kept, &mut work),
            }
        }
        let owners = self.timers(&mut work);
        let listed = self.central.as_ref().and_then(|central| central.timer(&mut work.posts));
        self.carry_out(work);
        let due = owners.into_iter().chain(listed).min()?;
        self.began.checked_add(due)
    }
}

impl Ownership {
    /// Tells everybody who waits that nothing comes any more.
    fn end(&self) {
        let state = self.state.lock();
        for entry in state.owners.values() {
            let mut stage = entry.desk.stage.lock();
            if matches!(*stage, Stage::Waiting) {
                *stage = Stage::Denied(Denied::Closed);
                drop(stage);
                entry.desk.bell.notify_all();
            }
        }
        drop(state);
        if let Some(central) = &self.central {
            central.close();
        }
        self.lanes.stop(Duration::ZERO);
    }

    /// Has everybody who waits told that the mesh is closed, if it is.
    pub fn closed(&self) {
        if self.carrier.is_closed() {
            self.end();
        }
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        self.lanes.stop(Duration::ZERO);
    }
}
