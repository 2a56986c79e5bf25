//! Moves the daemons of a runtime: what the machines of moves have done with them.
//!
//! What waits, for user code, the store or the directory, does so on threads of its own, so that it takes no lane from daemons
//! that go on.
//!
//! Invariants
//! * A daemon is frozen by being inside of it: its gate is busy, and everybody else waits or is told so.
//! * Nothing is held locked while user code runs, the store works, or somebody is told.
//! * What is taken on is known to nobody before [`Hands::go_live`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use meshos_core::config::DaemonHostConfig;
use meshos_core::digest::Digest;
use meshos_core::id::{EntityId, NodeId, Origin};
use meshos_core::lifecycle::Lifecycle;
use meshos_core::move_frame::{Reason, Reject, TEXT_BYTES_MAX};
use meshos_core::move_rows::{Frozen, MoveOrder, Prepared, Queued};
use meshos_core::ownership::OwnershipRecord;
use meshos_core::rows::Write;

use crate::daemon::Daemon;
use crate::hands::{Arrived, Copied, Done, FreezeOpts, Frost, Hands, Waits};
use crate::move_lanes::{self, MoveLanes};
use crate::mover_copy::{Copying, Held};
use crate::mover_source::{Freeze, Leaving};
use crate::mover_target::{Arrival, Made};
use crate::runtime::Runtime;
use crate::slot::SharedKey;
use crate::sync::Mutex;

/// Makes daemons of kinds that are taken on.
pub trait Factories<D>: Send + Sync {
    /// Whether daemons of a kind can be made; no user code, no waiting.
    fn has(&self, kind: &str) -> bool;

    /// Makes a daemon, fresh and without state. User code.
    ///
    /// # Errors
    /// [`Reject`]: there is no such kind, or user code raised.
    fn make(&self, kind: &str) -> Result<D, Reject>;

    /// Options of daemons of a kind here; `None`: they keep theirs.
    fn config(&self, _kind: &str) -> Option<DaemonHostConfig> {
        None
    }
}

/// Which daemons are taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accept {
    /// Those whose kind can be made.
    #[default]
    Kinds,
    /// Of those only the ones that were named before.
    Expected,
}

/// A daemon that was named before it came.
#[derive(Clone)]
pub(crate) struct Expected {
    pub(crate) kind: String,
    pub(crate) config: Option<DaemonHostConfig>,
    pub(crate) key: Option<SharedKey>,
    /// The only node that may order it here; `None`: whoever may order moves.
    pub(crate) orchestrator: Option<NodeId>,
}

/// What is said of a daemon that is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Name of its class.
    pub kind: String,
    /// Options in place of its own.
    pub config: Option<DaemonHostConfig>,
    /// Whether its secret key is here already.
    pub has_key: bool,
    /// The only node that may order it here.
    pub orchestrator: Option<NodeId>,
}

#[derive(Default)]
struct Policy {
    accept: Accept,
    is_not_ready: bool,
    expected: BTreeMap<Origin, Expected>,
}

/// Moves the daemons of one runtime.
pub struct Mover<D: Daemon> {
    pub(crate) runtime: Weak<Runtime<D>>,
    pub(crate) factories: Arc<dyn Factories<D>>,
    pub(crate) frozen: Mutex<BTreeMap<EntityId, Arc<Freeze<D>>>>,
    pub(crate) arrivals: Mutex<BTreeMap<EntityId, Arc<Arrival<D>>>>,
    pub(crate) made: Mutex<BTreeMap<EntityId, Made<D>>>,
    pub(crate) copies: Mutex<BTreeMap<EntityId, Arc<Copying>>>,
    pub(crate) held: Mutex<BTreeMap<EntityId, Held<D>>>,
    pub(crate) leaving: Mutex<BTreeMap<EntityId, Leaving<D>>>,
    pub(crate) is_closed: AtomicBool,
    policy: Mutex<Policy>,
    lanes: Arc<MoveLanes>,
    me: Weak<Self>,
}

impl<D: Daemon> Mover<D> {
    /// Moves the daemons of a runtime, and takes on those whose kind is made by `factories`. Its shutdown closes this.
    #[must_use]
    pub fn new(runtime: &Arc<Runtime<D>>, factories: Arc<dyn Factories<D>>) -> Arc<Self> {
        let made = Arc::new_cyclic(|me| Self {
            runtime: Arc::downgrade(runtime),
            factories,
            frozen: Mutex::default(),
            arrivals: Mutex::default(),
            made: Mutex::default(),
            copies: Mutex::default(),
            held: Mutex::default(),
            leaving: Mutex::default(),
            is_closed: AtomicBool::new(false),
            policy: Mutex::default(),
            lanes: MoveLanes::of_process(),
            me: Weak::clone(me),
        });
        runtime.moved_by(Arc::clone(&made) as Arc<dyn Hands>);
        made
    }

    /// Says which daemons are taken on.
    pub fn accept(&self, accept: Accept) {
        self.policy.lock().accept = accept;
    }

    /// Takes on this daemon, with these options in place of its own.
    pub fn expect(&self, kind: &str, origin: Origin, config: Option<DaemonHostConfig>) {
        self.name(origin, kind, config, None);
    }

    /// Takes on the daemon of this key, which need not come with it.
    pub fn provide(&self, kind: &str, key: SharedKey, config: Option<DaemonHostConfig>) {
        let origin = key.lock().origin();
        self.name(origin, kind, config, Some(key));
    }

    /// What was said before of the same kind and is not said now stays: its key, and who may order it.
    fn name(&self, origin: Origin, kind: &str, config: Option<DaemonHostConfig>, key: Option<SharedKey>) {
        let mut policy = self.policy.lock();
        let before = policy.expected.remove(&origin).filter(|before| before.kind == kind);
        let (known, orchestrator) = before.map_or((None, None), |before| (before.key, before.orchestrator));
        let expected = Expected {
            kind: kind.to_owned(),
            config,
            key: key.or(known),
            orchestrator,
        };
        policy.expected.insert(origin, expected);
    }

    /// Takes a daemon that is expected on only if this node orders its move; `false`: it is not expected, or another node was
    /// said before.
    pub fn bind_orchestrator(&self, origin: Origin, node: NodeId) -> bool {
        let mut policy = self.policy.lock();
        let Some(expected) = policy.expected.get_mut(&origin) else {
            return false;
        };
        *expected.orchestrator.get_or_insert(node) == node
    }

    /// What is said of a daemon that is expected.
    pub fn named(&self, origin: Origin) -> Option<Named> {
        let expected = self.policy.lock().expected.get(&origin).cloned()?;
        let has_key = expected.key.is_some_and(|key| !key.lock().is_read_only());
        Some(Named {
            kind: expected.kind,
            config: expected.config,
            has_key,
            orchestrator: expected.orchestrator,
        })
    }

    /// Forgets a daemon that was named; `false`: it was not.
    pub fn forget(&self, origin: Origin) -> bool {
        let before = self.policy.lock().expected.remove(&origin);
        before.is_some()
    }

    /// Has every daemon that comes refused as by a node that is not ready, or not any more.
    pub fn simulate_not_ready(&self, is_not_ready: bool) {
        self.policy.lock().is_not_ready = is_not_ready;
    }

    /// What was said of a daemon before it came.
    pub(crate) fn expected(&self, origin: Origin, kind: &str) -> Option<Expected> {
        let policy = self.policy.lock();
        let expected = policy.expected.get(&origin);
        expected.filter(|expected| expected.kind == kind).cloned()
    }

    /// Has something done on a thread that may wait; on this one where none is left.
    pub(crate) fn later(&self, run: impl FnOnce(&Arc<Self>) + Send + 'static) {
        if let Some(me) = self.me.upgrade() {
            self.lanes.later(move || run(&me));
        }
    }

    /// The same, for what a daemon that stands still waits for.
    fn next(&self, run: impl FnOnce(&Arc<Self>) + Send + 'static) {
        if let Some(me) = self.me.upgrade() {
            self.lanes.next(move || run(&me));
        }
    }

    /// Has something done after a while, on a thread that may wait; never, if this closes first.
    pub(crate) fn after(&self, span: Duration, run: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let me = Weak::clone(&self.me);
        let run = move || {
            if let Some(me) = me.upgrade() {
                run(&me);
            }
        };
        self.lanes.after(span, run);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    fn refused(&self, order: &MoveOrder) -> Option<Reject> {
        let Some(runtime) = self.runtime.upgrade() else {
            return Some(Reason::ComputeNotSupported.into());
        };
        if self.is_closed() || runtime.lifecycle() == Lifecycle::ShuttingDown || runtime.ownership().is_none() {
            return Some(Reason::ComputeNotSupported.into());
        }
        let (origin, policy) = (order.entity.origin(), self.policy.lock());
        if policy.is_not_ready || runtime.lifecycle() != Lifecycle::Ready {
            return Some(Reason::NotReady.into());
        }
        let expected = policy.expected.get(&origin);
        if policy.accept == Accept::Expected && expected.is_none_or(|expected| expected.kind != order.kind) {
            return Some(Reason::NotPermitted.into());
        }
        let bound = expected.and_then(|expected| expected.orchestrator);
        drop(policy);
        if let Some(bound) = bound.filter(|bound| *bound != order.orchestrator.node_id()) {
            let text = format!("only node {bound} may order that it comes here");
            return Some(reject(Reason::NotPermitted, text));
        }
        if !self.factories.has(&order.kind) {
            let text = format!("there is no kind {:?} here", order.kind);
            return Some(reject(Reason::NoFactory, text));
        }
        if runtime.is_taken(&order.entity) && !self.arrivals.lock().contains_key(&order.entity) {
            return Some(reject(Reason::Busy, "it is here, or is being spawned"));
        }
        None
    }
}

/// A refusal with a text that is cut to fit.
pub(crate) fn reject(reason: Reason, text: impl Into<String>) -> Reject {
    let mut text: String = text.into();
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    Reject { reason, text }
}

/// Says what came of something as the last thing of a job, and takes the turns that follow.
pub(crate) fn tell<T>(done: Done<T>, outcome: T) {
    move_lanes::tell_last(|| done(outcome));
}

impl<D: Daemon> Hands for Mover<D> {
    fn refusal(&self, order: &MoveOrder) -> Option<Reject> {
        self.refused(order)
    }

    fn kind(&self, entity: &EntityId) -> Option<(String, u64)> {
        let slot = self.runtime.upgrade()?.registry().get(entity.origin())?;
        let size = slot.peek(|inside| {
            let newest = inside.newest.as_ref();
            newest.map_or(0, |newest| newest.state.as_ref().len() as u64)
        });
        (slot.entity() == *entity).then(|| (slot.kind().to_string(), size.unwrap_or(0)))
    }

    fn entity(&self, origin: Origin) -> Option<EntityId> {
        Some(self.runtime.upgrade()?.registry().get(origin)?.entity())
    }

    fn construct(&self, order: &MoveOrder, done: Done<Result<(), Reject>>) {
        let order = order.clone();
        self.next(move |mover| {
            let made = mover.make_ready(&order);
            tell(done, made);
        });
    }

    fn drop_made(&self, entity: &EntityId) {
        let made = self.made.lock().remove(entity);
        if made.is_some() {
            self.later(move |_| D::batch(|| drop(made)));
        }
    }

    fn copy(&self, order: &MoveOrder, opts: FreezeOpts, done: Done<Result<Copied, Reject>>) {
        self.begin_copy(order, opts, done);
    }

    fn drop_copy(&self, entity: &EntityId) {
        self.end_copy(entity);
    }

    fn hold_copy(&self, order: &MoveOrder, image: Arrived, done: Done<Result<(), Reject>>) {
        self.begin_hold(order, image, done);
    }

    fn drop_held(&self, entity: &EntityId) {
        self.end_hold(entity);
    }

    fn freeze(&self, order: &MoveOrder, opts: FreezeOpts, waits: Arc<dyn Waits>, done: Done<Result<Frost, Reject>>) {
        self.begin_freeze(order, opts, waits, done);
    }

    fn thaw(&self, entity: &EntityId, queue: Vec<Queued>) {
        self.end_freeze(entity, queue);
    }

    fn hand_over(&self, record: &OwnershipRecord) {
        self.give_away(record);
    }

    fn dispose(&self, entity: &EntityId, spent: Box<dyn Send>) {
        self.keep_remains(entity, spent);
    }

    fn retire(&self, record: &OwnershipRecord, done: Done<bool>) {
        let record = *record;
        self.once_it_left(&record.entity(), move |mover| {
            let is_kept = mover.drop_rows(&record);
            mover.end_leaving(&record.entity());
            tell(done, is_kept);
        });
    }

    fn restore(&self, order: &MoveOrder, image: Arrived, done: Done<Result<Frozen, Reject>>) {
        let order = order.clone();
        self.next(move |mover| {
            let restored = mover.stand_by(&order, &image);
            tell(done, restored);
        });
    }

    fn discard(&self, entity: &EntityId, image: &Digest) {
        let (entity, image) = (*entity, *image);
        self.later(move |mover| mover.let_go(&entity, &image));
    }

    fn install(
        &self,
        record: &OwnershipRecord,
        prepared: &Prepared,
        writes: Vec<Write>,
        done: Done<Result<u64, String>>,
    ) {
        let (record, prepared) = (*record, prepared.clone());
        self.next(move |mover| {
            let installed = mover.take_on(&record, &prepared, writes);
            tell(done, installed);
        });
    }

    fn go_live(&self, entity: &EntityId, queue: Vec<Queued>, done: Done<()>) {
        let entity = *entity;
        self.next(move |mover| {
            mover.place(&entity, queue);
            tell(done, ());
        });
    }

    fn close(&self) {
        if self.is_closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let frozen: Vec<_> = self.frozen.lock().keys().copied().collect();
        for entity in frozen {
            self.end_freeze(&entity, Vec::new());
        }
        let copies: Vec<_> = self.copies.lock().keys().copied().collect();
        copies.iter().for_each(|entity| self.end_copy(entity));
        let arrivals = std::mem::take(&mut *self.arrivals.lock());
        let made = std::mem::take(&mut *self.made.lock());
        let held = std::mem::take(&mut *self.held.lock());
        let leaving = std::mem::take(&mut *self.leaving.lock());
        D::batch(|| drop((arrivals, made, held, leaving)));
    }
}
