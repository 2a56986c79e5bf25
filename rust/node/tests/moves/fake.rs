//! Hands without daemons, which do what a script says and note what they were asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use meshos_core::digest::{self, Digest};
use meshos_core::id::{EntityId, Origin};
use meshos_core::identity::Keypair;
use meshos_core::move_frame::{Reason, Reject};
use meshos_core::move_rows::{Frozen, MoveOrder, Prepared, Queued};
use meshos_core::ownership::OwnershipRecord;
use meshos_core::rows::Write;
use meshos_core::store::Batch;
use meshos_node::hands::{Arrived, Copied, Done, FreezeOpts, Frost, Hands, Waits};
use meshos_node::image::Image;
use meshos_node::journal::Stores;
use meshos_node::ownership::{Hold, Ownership, Wish};
use meshos_node::sync::{Condvar, Mutex};

use crate::nodes::within;

/// A daemon of which there are bytes, a place in a chain, and what was done with it.
pub struct Thing {
    pub key: Arc<Keypair>,
    pub bytes: Arc<Vec<u8>>,
    _hold: Option<Hold>,
    is_frozen: bool,
    pub waits: Option<Arc<dyn Waits>>,
    has_copy: bool,
    /// Events that took effect.
    pub taken: Vec<Queued>,
}

/// A key, and the bytes that were restored.
type Restored = (Arc<Keypair>, Arc<Vec<u8>>);

/// A freeze that waits.
type Late = (MoveOrder, FreezeOpts, Arc<dyn Waits>, Done<Result<Frost, Reject>>);

#[derive(Default)]
pub struct Scripted {
    pub refusal: Option<Reject>,
    pub construct: Option<Reject>,
    /// An instance is made when somebody says so.
    pub constructs_late: bool,
    pub freeze: Option<Reject>,
    pub never_freezes: bool,
    /// A freeze waits until somebody says so.
    pub freezes_late: bool,
    pub restore: Option<Reject>,
    pub copy: Option<Reject>,
    pub hold: Option<Reject>,
    pub diverges: bool,
    pub refuses_installs: u32,
}

/// Hands that have no daemons.
pub struct Fake {
    pub node: Arc<Keypair>,
    pub ownership: Arc<Ownership>,
    pub stores: Stores,
    pub things: Mutex<BTreeMap<EntityId, Thing>>,
    pub standby: Mutex<BTreeMap<EntityId, Restored>>,
    pub held: Mutex<BTreeMap<EntityId, Arc<Vec<u8>>>>,
    pub keys: Arc<Mutex<BTreeMap<EntityId, Arc<Keypair>>>>,
    pub script: Mutex<Scripted>,
    pub late: Mutex<Vec<Late>>,
    pub constructing: Mutex<Vec<Done<Result<(), Reject>>>>,
    pub made: Mutex<BTreeSet<EntityId>>,
    pub log: Mutex<Vec<&'static str>>,
    pub bell: Condvar,
    pub me: Weak<Self>,
}

impl Fake {
    fn note(&self, what: &'static str) {
        self.log.lock().push(what);
        self.bell.notify_all();
    }

    /// Freezes what was to be frozen.
    pub fn go_on(&self) {
        let late = std::mem::take(&mut *self.late.lock());
        for (order, opts, waits, done) in late {
            self.freeze(&order, opts, waits, done);
        }
    }

    /// Says that what was to be made is there.
    pub fn constructed(&self) {
        self.script.lock().constructs_late = false;
        let constructing = std::mem::take(&mut *self.constructing.lock());
        constructing.into_iter().for_each(|done| done(Ok(())));
    }

    pub fn count(&self, what: &str) -> usize {
        self.log.lock().iter().filter(|noted| **noted == what).count()
    }

    pub fn until(&self, what: &str) {
        let deadline = within();
        let mut log = self.log.lock();
        while !log.contains(&what) {
            assert!(!deadline.passed(), "{what} never came: {log:?}");
            log = self.bell.wait_until(log, deadline.slice());
        }
    }

    /// Owns a new thing.
    pub fn make(&self, seed: u8, bytes: usize) -> EntityId {
        let key = Arc::new(Keypair::from_seed(&[seed; 32]));
        let entity = key.entity_id();
        let record = OwnershipRecord::spawn(&key, self.node.entity_id(), digest::genesis(&entity, &Digest::ZERO));
        let record = record.expect("its key is whole");
        let claim = self
            .ownership
            .claim(Wish::Begin(vec![record]), within(), &mut || false)
            .expect("it is free");
        self.ownership.keep(&[record]).expect("it is kept");
        claim.kept();
        claim.active(within(), &mut || false).expect("a lease");
        let (hold, fenced) = claim.hold(Arc::new(|_, _| {}));
        assert_eq!(fenced, None);
        self.keys.lock().insert(entity, Arc::clone(&key));
        let thing = Thing {
            key,
            bytes: Arc::new((0..bytes).map(|at| at.to_le_bytes()[0] ^ seed).collect()),
            _hold: Some(hold),
            is_frozen: false,
            waits: None,
            has_copy: false,
            taken: Vec::new(),
        };
        self.things.lock().insert(entity, thing);
        entity
    }

    pub fn has(&self, entity: &EntityId) -> bool {
        self.things.lock().get(entity).is_some_and(|thing| !thing.is_frozen)
    }

    pub fn frozen_of(bytes: &[u8], entity: &EntityId) -> Frozen {
        Frozen {
            sequence: 0,
            head: digest::genesis(entity, &Digest::ZERO),
            image: digest::plain(bytes),
        }
    }
}

struct Bytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Hands for Fake {
    fn refusal(&self, _: &MoveOrder) -> Option<Reject> {
        self.script.lock().refusal.clone()
    }

    fn kind(&self, entity: &EntityId) -> Option<(String, u64)> {
        let things = self.things.lock();
        things
            .get(entity)
            .map(|thing| ("thing".to_owned(), thing.bytes.len() as u64))
    }

    fn entity(&self, origin: Origin) -> Option<EntityId> {
        self.things
            .lock()
            .keys()
            .find(|entity| entity.origin() == origin)
            .copied()
    }

    fn construct(&self, order: &MoveOrder, done: Done<Result<(), Reject>>) {
        let (why, is_late) = {
            let script = self.script.lock();
            (script.construct.clone(), script.constructs_late)
        };
        if let Some(why) = why {
            return done(Err(why));
        }
        self.made.lock().insert(order.entity);
        if is_late {
            self.constructing.lock().push(done);
            return self.note("construct");
        }
        self.note("construct");
        done(Ok(()));
    }

    fn drop_made(&self, entity: &EntityId) {
        self.made.lock().remove(entity);
        self.note("drop_made");
    }

    fn freeze(&self, order: &MoveOrder, opts: FreezeOpts, waits: Arc<dyn Waits>, done: Done<Result<Frost, Reject>>) {
        self.note("freeze");
        if self.script.lock().freezes_late {
            self.late.lock().push((order.clone(), opts, waits, done));
            return;
        }
        {
            let script = self.script.lock();
            if script.never_freezes {
                return;
            }
            if let Some(why) = script.freeze.clone() {
                drop(script);
                return done(Err(why));
            }
        }
        let mut things = self.things.lock();
        let thing = things.get_mut(&order.entity).expect("it is here");
        thing.is_frozen = true;
        thing.waits = Some(Arc::clone(&waits));
        let lineage = self.ownership.lineage(&order.entity).expect("it is read");
        let (_, active) = self.ownership.owned(&order.entity).expect("it is owned");
        let thing_has_copy = thing.has_copy && order.terms.live;
        let since = Arc::new(b"what came since".to_vec());
        let travels = if thing_has_copy { &since } else { &thing.bytes };
        let frozen = Self::frozen_of(travels, &order.entity);
        let record = active.moved(order.target, order.mid, frozen.sequence, frozen.head, &thing.key);
        let image = Image::new(frozen.image, vec![Arc::new(Bytes(Arc::clone(travels)))]);
        drop(things);
        done(Ok(Frost {
            frozen_at: std::time::Instant::now(),
            frozen,
            image: Arc::new(image),
            lineage,
            record: Box::new(record.expect("the key is whole")),
            snapshot_took: Duration::from_micros(7),
            rounds: 1 + u32::from(thing_has_copy),
        }));
    }

    fn copy(&self, order: &MoveOrder, _: FreezeOpts, done: Done<Result<Copied, Reject>>) {
        self.note("copy");
        if let Some(why) = self.script.lock().copy.clone() {
            return done(Err(why));
        }
        let mut things = self.things.lock();
        let thing = things.get_mut(&order.entity).expect("it is here");
        thing.has_copy = true;
        let frozen = Self::frozen_of(&thing.bytes, &order.entity);
        let image = Image::new(frozen.image, vec![Arc::new(Bytes(Arc::clone(&thing.bytes)))]);
        drop(things);
        done(Ok(Copied {
            frozen,
            image: Arc::new(image),
            snapshot_took: Duration::from_micros(9),
        }));
    }

    fn drop_copy(&self, entity: &EntityId) {
        if let Some(thing) = self.things.lock().get_mut(entity) {
            thing.has_copy = false;
        }
        self.note("drop_copy");
    }

    fn hold_copy(&self, order: &MoveOrder, image: Arrived, done: Done<Result<(), Reject>>) {
        if let Some(why) = self.script.lock().hold.clone() {
            return done(Err(why));
        }
        self.held.lock().insert(order.entity, image.bytes);
        self.note("hold_copy");
        done(Ok(()));
    }

    fn drop_held(&self, entity: &EntityId) {
        self.held.lock().remove(entity);
        self.note("drop_held");
    }

    fn thaw(&self, entity: &EntityId, queue: Vec<Queued>) {
        if let Some(thing) = self.things.lock().get_mut(entity) {
            thing.is_frozen = false;
            thing.has_copy = false;
            thing.waits = None;
            thing.taken.extend(queue);
        }
        self.note("thaw");
    }

    fn hand_over(&self, record: &OwnershipRecord) {
        let thing = self.things.lock().remove(&record.entity());
        self.ownership.heard(record);
        drop(thing);
        self.note("hand_over");
    }

    fn dispose(&self, _: &EntityId, spent: Box<dyn Send>) {
        drop(spent);
    }

    fn retire(&self, _: &OwnershipRecord, done: Done<bool>) {
        self.note("retire");
        done(true);
    }

    fn restore(&self, order: &MoveOrder, image: Arrived, done: Done<Result<Frozen, Reject>>) {
        let image = image.bytes;
        if let Some(why) = self.script.lock().restore.clone() {
            return done(Err(why));
        }
        let frozen = Self::frozen_of(&image, &order.entity);
        let key = Arc::clone(&self.keys.lock()[&order.entity]);
        let held = self.held.lock().remove(&order.entity);
        let is_since = image.as_slice() == b"what came since";
        if is_since && self.script.lock().diverges {
            return done(Err(Reject::new(Reason::StateFailed, "another digest")));
        }
        let is_made = self.made.lock().remove(&order.entity);
        assert_eq!(is_made, !is_since, "of a copy it was made before");
        let image = held.filter(|_| is_since).unwrap_or(image);
        self.standby.lock().insert(order.entity, (key, image));
        self.note("restore");
        done(Ok(frozen));
    }

    fn discard(&self, entity: &EntityId, _: &Digest) {
        self.standby.lock().remove(entity);
        self.note("discard");
    }

    fn install(
        &self,
        record: &OwnershipRecord,
        prepared: &Prepared,
        writes: Vec<Write>,
        done: Done<Result<u64, String>>,
    ) {
        {
            let mut script = self.script.lock();
            if script.refuses_installs > 0 {
                script.refuses_installs -= 1;
                drop(script);
                self.note("refused");
                return done(Err("not now".to_owned()));
            }
        }
        let me = self.me.upgrade().expect("it is there");
        let mut lineage = prepared.lineage.clone();
        lineage.push(*record);
        let entity = record.entity();
        // On a thread, as a claim waits for the directory's turn.
        thread::spawn(move || {
            let (key, bytes) = me.standby.lock().remove(&entity).expect("it is in standby");
            let wish = Wish::Install(lineage.clone());
            let claim = me.ownership.claim(wish, within(), &mut || false).expect("it may");
            me.ownership.keep(&lineage).expect("they are kept");
            let mut store = (me.stores)();
            let term = store.term();
            store.submit(Batch { term, writes }, Box::new(|kept| assert!(kept.is_ok())));
            claim.kept();
            claim.active(within(), &mut || false).expect("a lease");
            let (hold, _) = claim.hold(Arc::new(|_, _| {}));
            let epoch = hold.lease().epoch();
            let thing = Thing {
                key,
                bytes,
                _hold: Some(hold),
                is_frozen: true,
                waits: None,
                has_copy: false,
                taken: Vec::new(),
            };
            me.things.lock().insert(entity, thing);
            me.note("install");
            done(Ok(epoch));
        });
    }

    fn go_live(&self, entity: &EntityId, queue: Vec<Queued>, done: Done<()>) {
        if let Some(thing) = self.things.lock().get_mut(entity) {
            thing.is_frozen = false;
            thing.taken.extend(queue);
        }
        self.note("go_live");
        done(());
    }

    fn close(&self) {}
}
