//! The machines of moves on several nodes, over hands without daemons: messages, rows, ownership and time are real.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use meshos_core::digest::{self, Digest};
use meshos_core::directory::DirectoryConfig;
use meshos_core::frame::{Kind, MeshId};
use meshos_core::id::{EntityId, Origin};
use meshos_core::identity::Keypair;
use meshos_core::move_frame::{Aside, Body, MoveFrame, Reason, Reject, Report, Stage};
use meshos_core::move_rows::{Frozen, Item, MoveOrder, Outcome, Prepared, Queued};
use meshos_core::owner::OwnerConfig;
use meshos_core::ownership::OwnershipRecord;
use meshos_core::presence::{Members, PresenceConfig};
use meshos_core::rows::{KeyRange, Table, Write};
use meshos_core::store::Batch;
use meshos_core::store::memory::MemoryStore;
use meshos_node::carrier::Carrier;
use meshos_node::clock::Deadline;
use meshos_node::hands::{Arrived, Copied, Done, FreezeOpts, Frost, Hands, Waits};
use meshos_node::image::Image;
use meshos_node::journal::{SharedStore, Stores};
use meshos_node::local_engine::LocalNetwork;
use meshos_node::mesh::{Delivered, Mesh, MeshConfig, Take};
use meshos_node::moves::{BeginError, Cause, DescribeError, Described, FailedKind, Move, MoveEnd, MoveOpts, Moves};
use meshos_node::ownership::{Hold, Ownership, OwnershipConfig, Wish};
use meshos_node::sync::{Condvar, Mutex};

const PATIENCE: Duration = Duration::from_secs(20);

fn within() -> Deadline {
    Deadline::after(PATIENCE)
}

/// A daemon of which there are bytes, a place in a chain, and what was done with it.
struct Thing {
    key: Arc<Keypair>,
    bytes: Arc<Vec<u8>>,
    _hold: Option<Hold>,
    is_frozen: bool,
    waits: Option<Arc<dyn Waits>>,
    has_copy: bool,
    /// Events that took effect.
    taken: Vec<Queued>,
}

/// A key, and the bytes that were restored.
type Restored = (Arc<Keypair>, Arc<Vec<u8>>);

/// A freeze that waits.
type Late = (MoveOrder, FreezeOpts, Arc<dyn Waits>, Done<Result<Frost, Reject>>);

#[derive(Default)]
struct Scripted {
    refusal: Option<Reject>,
    construct: Option<Reject>,
    /// An instance is made when somebody says so.
    constructs_late: bool,
    freeze: Option<Reject>,
    never_freezes: bool,
    /// A freeze waits until somebody says so.
    freezes_late: bool,
    restore: Option<Reject>,
    copy: Option<Reject>,
    hold: Option<Reject>,
    diverges: bool,
    refuses_installs: u32,
}

/// Hands that have no daemons.
struct Fake {
    node: Arc<Keypair>,
    ownership: Arc<Ownership>,
    stores: Stores,
    things: Mutex<BTreeMap<EntityId, Thing>>,
    standby: Mutex<BTreeMap<EntityId, Restored>>,
    held: Mutex<BTreeMap<EntityId, Arc<Vec<u8>>>>,
    keys: Arc<Mutex<BTreeMap<EntityId, Arc<Keypair>>>>,
    script: Mutex<Scripted>,
    late: Mutex<Vec<Late>>,
    constructing: Mutex<Vec<Done<Result<(), Reject>>>>,
    made: Mutex<BTreeSet<EntityId>>,
    log: Mutex<Vec<&'static str>>,
    bell: Condvar,
    me: Weak<Self>,
}

impl Fake {
    fn note(&self, what: &'static str) {
        self.log.lock().push(what);
        self.bell.notify_all();
    }

    /// Freezes what was to be frozen.
    fn go_on(&self) {
        let late = std::mem::take(&mut *self.late.lock());
        for (order, opts, waits, done) in late {
            self.freeze(&order, opts, waits, done);
        }
    }

    /// Says that what was to be made is there.
    fn constructed(&self) {
        self.script.lock().constructs_late = false;
        let constructing = std::mem::take(&mut *self.constructing.lock());
        constructing.into_iter().for_each(|done| done(Ok(())));
    }

    fn count(&self, what: &str) -> usize {
        self.log.lock().iter().filter(|noted| **noted == what).count()
    }

    fn until(&self, what: &str) {
        let deadline = within();
        let mut log = self.log.lock();
        while !log.contains(&what) {
            assert!(!deadline.passed(), "{what} never came: {log:?}");
            log = self.bell.wait_until(log, deadline.slice());
        }
    }

    /// Owns a new thing.
    fn make(&self, seed: u8, bytes: usize) -> EntityId {
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

    fn has(&self, entity: &EntityId) -> bool {
        self.things.lock().get(entity).is_some_and(|thing| !thing.is_frozen)
    }

    fn frozen_of(bytes: &[u8], entity: &EntityId) -> Frozen {
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

struct Node {
    mesh: Mesh,
    ownership: Arc<Ownership>,
    moves: Arc<Moves>,
    fake: Arc<Fake>,
    key: Arc<Keypair>,
    stores: Stores,
}

fn cluster(nodes: u8) -> Vec<Node> {
    let (network, id) = (LocalNetwork::new(), MeshId::of(b"moves"));
    let pairs: Vec<_> = (0..nodes)
        .map(|node| Arc::new(Keypair::from_seed(&[150 + node; 32])))
        .collect();
    let members = Members::Listed(Arc::new(
        pairs.iter().map(|key| key.entity_id()).collect::<BTreeSet<_>>(),
    ));
    let directory = pairs[0].entity_id();
    let config = MeshConfig {
        presence: PresenceConfig {
            interval: Duration::from_millis(40),
            beats_per_second: 100_000,
            ..PresenceConfig::default()
        },
        ..MeshConfig::default()
    };
    let keys: Arc<Mutex<BTreeMap<EntityId, Arc<Keypair>>>> = Arc::default();
    let node = |key: &Arc<Keypair>| {
        let engine = Arc::new(network.join(key.entity_id()));
        let mesh = Mesh::join(Arc::clone(key), id, members.clone(), engine, &config).expect("it joins");
        let store = SharedStore::new(MemoryStore::new());
        let stores: Stores = Arc::new(move || Box::new(store.clone()));
        let carrier = Carrier::mesh(mesh.clone());
        let options = OwnershipConfig {
            owner: OwnerConfig::default(),
            directory: DirectoryConfig::default(),
        };
        let ownership = Ownership::join(
            carrier.clone(),
            Arc::clone(key),
            Arc::clone(&stores),
            directory,
            options,
        );
        let ownership = ownership.expect("its rows are read");
        let moves = Moves::join(carrier, Arc::clone(key), Arc::clone(&stores), Arc::clone(&ownership));
        let moves = moves.expect("its rows are read");
        let fake = Arc::new_cyclic(|me| Fake {
            node: Arc::clone(key),
            ownership: Arc::clone(&ownership),
            stores: Arc::clone(&stores),
            things: Mutex::default(),
            standby: Mutex::default(),
            held: Mutex::default(),
            keys: Arc::clone(&keys),
            script: Mutex::default(),
            late: Mutex::default(),
            constructing: Mutex::default(),
            made: Mutex::default(),
            log: Mutex::default(),
            bell: Condvar::new(),
            me: Weak::clone(me),
        });
        let hands: Arc<dyn Hands> = Arc::clone(&fake) as Arc<dyn Hands>;
        moves.serve(Arc::downgrade(&hands));
        Node {
            mesh,
            ownership,
            moves,
            fake,
            key: Arc::clone(key),
            stores,
        }
    };
    let made: Vec<_> = pairs.iter().map(node).collect();
    for one in &made {
        for other in &pairs {
            if other.entity_id() != one.key.entity_id() {
                one.mesh
                    .wait_for_peer(other.entity_id().node_id(), within(), &mut || false)
                    .expect("it is heard");
            }
        }
    }
    made
}

impl Node {
    fn id(&self) -> EntityId {
        self.key.entity_id()
    }

    fn describe(&self, node: &Self, entity: &EntityId) -> Described {
        let described = self.moves.describe(node.id(), entity.origin(), within(), || false);
        described.expect("it answers")
    }

    fn order(&self, entity: &EntityId, source: &Self, target: &Self, opts: MoveOpts) -> Arc<Move> {
        let found = self.describe(source, entity);
        self.moves.begin(found, target.id(), opts).expect("it begins")
    }

    fn rows(&self) -> Vec<Item> {
        let store = (self.stores)();
        let rows = store.page(Table::Moves, &KeyRange::all(), 100).expect("it is read");
        rows.iter()
            .map(|(key, value)| Item::decode(key, value).expect("it is a row").2)
            .collect()
    }
}

#[track_caller]
fn end(ordered: &Move) -> MoveEnd {
    ordered.wait(within(), || false).expect("it ends in time")
}

fn patient() -> MoveOpts {
    MoveOpts {
        freeze_max: PATIENCE,
        ..MoveOpts::default()
    }
}

fn quick() -> MoveOpts {
    MoveOpts {
        freeze_max: Duration::from_millis(300),
        ..MoveOpts::default()
    }
}

fn queued(from: EntityId, sequence: u64) -> Queued {
    Queued {
        from,
        origin: Origin::new(9),
        stream: 0,
        sequence,
        prev: sequence - 1,
        payload: sequence.to_le_bytes().to_vec(),
    }
}

#[test]
fn a_thing_moves_and_everybody_knows() {
    let nodes = cluster(3);
    let [one, two, _] = &nodes[..] else { unreachable!() };
    let entity = one.fake.make(1, 1_300_000);
    let ordered = one.order(&entity, one, two, patient());
    let outcome = end(&ordered).expect("it moves");
    assert_eq!((outcome.epoch, outcome.rounds, outcome.live), (2, 1, false));
    assert!(outcome.bytes_moved > 1_300_000 && !outcome.blackout.is_zero() && outcome.blackout <= outcome.took);
    assert_eq!(outcome.snapshot_took, Duration::from_micros(7));
    two.fake.until("go_live");
    one.fake.until("retire");
    assert!(two.fake.has(&entity) && !one.fake.things.lock().contains_key(&entity));
    let bytes = Arc::clone(&two.fake.things.lock()[&entity].bytes);
    assert!((0..1_300_000usize).all(|at| bytes[at] == at.to_le_bytes()[0] ^ 1));
    let record = one.ownership.record_of(entity.origin()).expect("it is known");
    assert_eq!((record.node(), record.epoch()), (two.id(), 2));
    assert_eq!(two.ownership.owned(&entity).map(|(epoch, _)| epoch), Some(2));
    let progress = ordered.progress();
    assert_eq!((progress.stage, progress.is_over), (Stage::Complete, true));
    assert!(one.moves.moves().is_empty());
    assert_eq!((one.moves.stats().committed, two.moves.stats().arrived), (1, 1));
    assert_eq!(two.rows(), []);
}

#[test]
fn it_goes_there_and_back_on_the_order_of_where_it_was_spawned() {
    let nodes = cluster(2);
    let entity = nodes[0].fake.make(2, 64);
    for leg in 0..20 {
        let (source, target) = (&nodes[leg % 2], &nodes[(leg + 1) % 2]);
        let ordered = nodes[0].order(&entity, source, target, MoveOpts::default());
        let outcome = end(&ordered).unwrap_or_else(|failed| panic!("leg {leg}: {failed:?}"));
        assert_eq!(outcome.epoch, leg as u64 + 2);
    }
    assert!(nodes[0].fake.has(&entity));
}

#[test]
fn who_is_not_permitted_moves_nothing() {
    let nodes = cluster(3);
    let [one, two, three] = &nodes[..] else { unreachable!() };
    let entity = one.fake.make(3, 64);
    let failed = end(&three.order(&entity, one, two, quick())).expect_err("it may not");
    let why = failed.why.expect("it is said why");
    assert_eq!((failed.kind, why.reason), (FailedKind::Rejected, Reason::NotPermitted));
    one.moves.permit([three.id()].into());
    assert_eq!(end(&three.order(&entity, one, two, quick())).expect("it may").epoch, 2);
    assert!(two.fake.has(&entity));
}

#[test]
fn what_refuses_or_fails_is_told_and_the_thing_stays() {
    let nodes = cluster(2);
    let [one, two] = &nodes[..] else { unreachable!() };
    let entity = one.fake.make(4, 64);
    let reject = |reason| Reject::new(reason, "ValueError: no");
    let fails = |kind, reason| {
        let failed = end(&one.order(&entity, one, two, quick())).expect_err("it fails");
        let why = failed.why.clone().expect("it is said why");
        assert_eq!((failed.kind, why.reason, failed.cause), (kind, reason, Cause::Reason));
        assert!(one.fake.has(&entity) && !two.fake.has(&entity));
        why
    };
    two.fake.script.lock().refusal = Some(reject(Reason::NoFactory));
    fails(FailedKind::Rejected, Reason::NoFactory);
    assert_eq!(one.fake.count("freeze"), 0);
    two.fake.script.lock().refusal = None;
    two.fake.script.lock().construct = Some(reject(Reason::StateFailed));
    assert_eq!(fails(FailedKind::Rejected, Reason::StateFailed).text, "ValueError: no");
    assert_eq!(one.fake.count("freeze"), 0);
    two.fake.script.lock().construct = None;
    one.fake.script.lock().freeze = Some(reject(Reason::StateFailed));
    assert_eq!(fails(FailedKind::Aborted, Reason::StateFailed).text, "ValueError: no");
    one.fake.script.lock().freeze = None;
    two.fake.script.lock().restore = Some(reject(Reason::StateFailed));
    assert_eq!(fails(FailedKind::Aborted, Reason::StateFailed).text, "ValueError: no");
    two.fake.script.lock().restore = None;
    one.fake.script.lock().never_freezes = true;
    let failed = end(&one.order(&entity, one, two, quick())).expect_err("it stands still for too long");
    assert_eq!(
        (failed.kind, failed.cause),
        (FailedKind::Aborted, Cause::FreezeDeadline)
    );
    one.fake.script.lock().never_freezes = false;
    assert_eq!(end(&one.order(&entity, one, two, quick())).expect("it moves").epoch, 2);
}

#[test]
fn a_daemon_stands_still_only_once_there_is_an_instance_for_it() {
    let nodes = cluster(2);
    let [one, two] = &nodes[..] else { unreachable!() };
    let entity = one.fake.make(61, 64);
    let made = |node: &Node| node.fake.made.lock().contains(&entity);
    two.fake.script.lock().constructs_late = true;
    let ordered = one.order(&entity, one, two, quick());
    two.fake.until("construct");
    // What the target said before it answers this has come here, and what followed from it.
    for _ in 0..3 {
        one.describe(two, &entity);
    }
    assert_eq!((one.fake.count("freeze"), one.fake.count("construct")), (0, 0));
    two.fake.constructed();
    assert_eq!(end(&ordered).expect("it moves").epoch, 2);
    assert_eq!(two.fake.count("construct"), 1);
    assert!(!made(two), "it is the daemon by now");

    // One that nobody takes is dropped: the order was taken back before it was there, or its source does not freeze.
    one.fake.script.lock().constructs_late = true;
    let ordered = one.order(&entity, two, one, quick());
    one.fake.until("construct");
    one.moves.abort(&ordered, false);
    let failed = end(&ordered).expect_err("nobody wants it");
    assert_eq!((failed.kind, failed.cause), (FailedKind::Aborted, Cause::Cancelled));
    one.fake.constructed();
    one.fake.until("drop_made");
    assert!(!made(one));

    // Nobody makes it any more: whoever asks is told so, and asks again.
    one.fake.log.lock().clear();
    one.fake.script.lock().constructs_late = true;
    let ordered = one.order(&entity, two, one, quick());
    one.fake.until("construct");
    one.fake.script.lock().constructs_late = false;
    drop(std::mem::take(&mut *one.fake.constructing.lock()));
    assert_eq!(
        (end(&ordered).expect("it moves").epoch, ordered.progress().retries),
        (3, 1)
    );
    assert_eq!(end(&one.order(&entity, one, two, quick())).expect("it moves").epoch, 4);

    one.fake.log.lock().clear();
    two.fake.script.lock().freeze = Some(Reject::new(Reason::StateFailed, "no"));
    end(&one.order(&entity, two, one, quick())).expect_err("it does not freeze");
    one.fake.until("drop_made");
    assert!(!made(one) && two.fake.has(&entity));
    two.fake.script.lock().freeze = None;
    assert_eq!(end(&one.order(&entity, two, one, quick())).expect("it moves").epoch, 5);
}

#[test]
fn a_target_knows_the_lineage_before_the_daemon_stands_still() {
    let nodes = cluster(3);
    let [one, two, three] = &nodes[..] else { unreachable!() };
    let entity = one.fake.make(6, 64);
    end(&one.order(&entity, one, two, quick())).expect("it moves");
    two.fake.script.lock().freezes_late = true;

    let ordered = two.order(&entity, two, three, quick());
    two.fake.until("freeze");
    let lineage = two.ownership.lineage(&entity).expect("it is read");
    assert_eq!(lineage.len(), 2);
    let deadline = within();
    while !lineage.iter().all(|record| three.ownership.verified().is_known(record)) {
        assert!(!deadline.passed(), "it was never told");
        thread::yield_now();
    }
    two.fake.script.lock().freezes_late = false;
    two.fake.go_on();
    end(&ordered).expect("it moves");
}

#[test]
fn a_target_that_is_not_ready_is_tried_again_as_long_as_was_said() {
    let nodes = cluster(2);
    let [one, two] = &nodes[..] else { unreachable!() };
    let entity = one.fake.make(5, 64);
    two.fake.script.lock().refusal = Some(Reject::from(Reason::NotReady));
    let opts = MoveOpts {
        retry_not_ready: Some(Duration::from_millis(100)),
        ..quick()
    };
    let failed = end(&one.order(&entity, one, two, opts)).expect_err("it is never ready");
    assert_eq!(failed.cause, Cause::NotReady);
    let none = MoveOpts {
        retry_not_ready: None,
        ..quick()
    };
    let ordered = one.order(&entity, one, two, none);
    let failed = end(&ordered).expect_err("it is not ready");
    let reason = failed.why.expect("it is said why").reason;
    assert_eq!((reason, ordered.progress().retries), (Reason::NotReady, 0));
    let ordered = one.order(&entity, one, two, quick());
    let first = ordered.attempt();
    let deadline = within();
    while ordered.progress().retries < 2 {
        assert!(!deadline.passed());
        thread::yield_now();
    }
    two.fake.script.lock().refusal = None;
    assert_eq!(end(&ordered).expect("it is ready by now").epoch, 2);
    assert_ne!(ordered.attempt(), first);
}

#[test]
fn events_that_wait_are_shipped_and_after_an_abort_they_are_given_back() {
    let nodes = cluster(2);
    let [one, two] = &nodes[..] else { unreachable!() };
    let entity = one.fake.make(6, 1_200_000);
    // It is sent slowly, so that there is time for events.
    let slow = MoveOpts {
        bytes_per_second_max: Some(20 << 20),
        ..patient()
    };
    let ordered = one.order(&entity, one, two, slow);
    let waits = || {
        one.fake.until("freeze");
        let deadline = within();
        loop {
            let waits = one
                .fake
                .things
                .lock()
                .get(&entity)
                .and_then(|thing| thing.waits.clone());
            if let Some(waits) = waits {
                return waits;
            }
            assert!(!deadline.passed());
            thread::yield_now();
        }
    };
    let found = waits();
    (1..=50).for_each(|sequence| found.event(queued(two.id(), sequence)));
    // The same once more, as a sender does that is not answered.
    found.event(queued(two.id(), 50));
    assert_eq!(end(&ordered).expect("it moves").epoch, 2);
    two.fake.until("go_live");
    let taken: Vec<_> = two.fake.things.lock()[&entity]
        .taken
        .iter()
        .map(|queued| queued.sequence)
        .collect();
    let stats = one.moves.stats();
    assert_eq!(stats.queued, 50);
    assert_eq!(stats.shipped + stats.redirected, 50);
    assert!(taken.iter().copied().eq(1..=taken.len() as u64), "{taken:?}");
    assert_eq!((stats.waiting, two.moves.stats().taken_in), (0, taken.len() as u64));

    let entity = one.fake.make(7, 1_200_000);
    one.fake.log.lock().clear();
    two.fake.script.lock().restore = Some(Reject::from(Reason::StateFailed));
    let ordered = one.order(&entity, one, two, slow);
    one.fake.until("freeze");
    let deadline = within();
    let found = loop {
        let waits = one
            .fake
            .things
            .lock()
            .get(&entity)
            .and_then(|thing| thing.waits.clone());
        if let Some(waits) = waits {
            break waits;
        }
        assert!(!deadline.passed());
        thread::yield_now();
    };
    (1..=5).for_each(|sequence| found.event(queued(two.id(), sequence)));
    end(&ordered).expect_err("it cannot be restored");
    one.fake.until("thaw");
    let taken: Vec<_> = one.fake.things.lock()[&entity]
        .taken
        .iter()
        .map(|queued| queued.sequence)
        .collect();
    assert_eq!(taken, [1, 2, 3, 4, 5]);
}

#[test]
fn who_does_not_want_it_any_more_ends_it_before_its_commit_point() {
    let nodes = cluster(2);
    let [one, two] = &nodes[..] else { unreachable!() };
    let entity = one.fake.make(8, 1_200_000);
    let slow = MoveOpts {
        bytes_per_second_max: Some(1 << 20),
        ..patient()
    };
    for (killed, cause) in [(false, Cause::Cancelled), (true, Cause::Killed)] {
        let ordered = one.order(&entity, one, two, slow);
        one.fake.until("freeze");
        one.moves.abort(&ordered, killed);
        let failed = end(&ordered).expect_err("nobody wants it");
        assert_eq!((failed.kind, failed.cause), (FailedKind::Aborted, cause));
        one.fake.until("thaw");
        assert!(one.fake.has(&entity));
        one.fake.log.lock().clear();
    }
    let ordered = one.order(&entity, one, two, patient());
    end(&ordered).expect("it moves");
    // It is too late.
    one.moves.abort(&ordered, false);
    assert!(end(&ordered).is_ok());
}

#[test]
fn an_install_that_is_refused_is_tried_again() {
    let nodes = cluster(2);
    let [one, two] = &nodes[..] else { unreachable!() };
    let entity = one.fake.make(9, 64);
    two.fake.script.lock().refuses_installs = 2;
    let ordered = one.order(&entity, one, two, MoveOpts::default());
    assert_eq!(end(&ordered).expect("it moves in the end").epoch, 2);
    assert_eq!(two.fake.count("refused"), 2);
}

#[test]
fn what_cannot_be_ordered_is_refused_at_once() {
    let nodes = cluster(3);
    let [one, two, three] = &nodes[..] else { unreachable!() };
    let entity = one.fake.make(10, 64);
    let begin = |node: &Node, found: Described, target: EntityId| {
        let begun = node.moves.begin(found, target, quick());
        begun.err().expect("it is refused")
    };
    let found = one.describe(one, &entity);
    assert_eq!((found.kind.as_str(), found.epoch, found.size), ("thing", 1, 64));
    assert_eq!(begin(one, found.clone(), one.id()), BeginError::SameNode);
    let nobody = Keypair::from_seed(&[1; 32]).entity_id();
    assert_eq!(begin(one, found.clone(), nobody), BeginError::NoTarget);
    let elsewhere = three.describe(two, &entity);
    assert!(matches!(begin(three, elsewhere, one.id()), BeginError::NotOwner { .. }));
    let unknown = three.moves.describe(nobody, entity.origin(), within(), || false);
    assert_eq!(unknown, Err(DescribeError::NoNode));
    one.fake.script.lock().never_freezes = true;
    let ordered = one.moves.begin(found.clone(), two.id(), quick()).expect("it begins");
    assert_eq!(begin(one, found, two.id()), BeginError::AlreadyMigrating);
    end(&ordered).expect_err("it never stands still");
    two.mesh.close();
}

#[test]
fn a_move_whose_source_is_lost_is_told_so_and_is_not_in_the_way_of_another() {
    let nodes = cluster(3);
    let [one, two, three] = &nodes[..] else { unreachable!() };
    let entity = two.fake.make(12, 64);
    two.moves.permit([one.id()].into());
    two.fake.script.lock().never_freezes = true;
    let found = one.describe(two, &entity);
    let opts = MoveOpts {
        deadline: Duration::from_millis(400),
        ..quick()
    };
    let ordered = one.moves.begin(found.clone(), three.id(), opts).expect("it begins");
    two.fake.until("freeze");
    two.mesh.close();
    // It is said after ten seconds without a word of the source.
    let lost = ordered
        .wait(Deadline::after(3 * PATIENCE), || false)
        .expect("it ends in time");
    let lost = lost.expect_err("nobody can tell");
    assert_eq!(lost.kind, FailedKind::SourceLost, "{lost:?}");
    assert!(one.moves.moves().is_empty() && one.moves.of(entity.origin()).is_none());
    // The machine goes on asking; another order is possible all the same.
    let again = one.moves.begin(found, three.id(), quick()).expect("it begins");
    assert_eq!(one.moves.moves().len(), 1);
    one.moves.abort(&again, false);
}

#[test]
fn two_orders_from_two_nodes_move_it_once() {
    let nodes = cluster(3);
    let [one, two, three] = &nodes[..] else { unreachable!() };
    for seed in 0..20 {
        let entity = one.fake.make(100 + seed, 64);
        one.moves.permit([three.id()].into());
        let (here, there) = (one.describe(one, &entity), three.describe(one, &entity));
        let both = [
            one.moves.begin(here, two.id(), patient()).expect("it begins"),
            three.moves.begin(there, three.id(), patient()).expect("it begins"),
        ];
        let ends: Vec<_> = both.iter().map(|ordered| end(ordered)).collect();
        let moved: Vec<_> = ends.iter().filter_map(|end| end.as_ref().ok()).collect();
        assert!(moved.len() <= 1, "{ends:?}");
        for failed in ends.iter().filter_map(|end| end.as_ref().err()) {
            let reason = failed.why.as_ref().map(|why| why.reason);
            assert!(
                matches!(reason, Some(Reason::Busy | Reason::NotOwner | Reason::Finished)),
                "{failed:?}"
            );
        }
        let owners = nodes.iter().filter(|node| node.ownership.owned(&entity).is_some());
        assert_eq!(owners.count(), 1);
    }
}

#[test]
fn what_is_no_frame_or_is_forged_changes_nothing() {
    let nodes = cluster(2);
    let [one, two] = &nodes[..] else { unreachable!() };
    let entity = one.fake.make(11, 64);
    let carrier = Carrier::mesh(two.mesh.clone());
    for frame in meshos_core::testing::move_frames::frames() {
        let bytes = frame.to_bytes();
        carrier.post(&one.id(), Kind::MOVE, &bytes).expect("it leaves");
        carrier.post(&one.id(), Kind::MOVE, &bytes[1..]).expect("it leaves");
    }
    let order = MoveOrder {
        entity,
        source: one.id(),
        target: two.id(),
        orchestrator: two.id(),
        ..meshos_core::testing::move_frames::order()
    };
    let forged = MoveFrame {
        mid: order.mid,
        entity,
        epoch: 1,
        step: 1,
        body: Body::Prepare(Box::new(order)),
    };
    carrier
        .post(&one.id(), Kind::MOVE, &forged.to_bytes())
        .expect("it leaves");
    let deadline = within();
    while one.moves.stats().malformed < 17 || one.moves.stats().forged == 0 {
        assert!(!deadline.passed(), "{:?}", one.moves.stats());
        thread::yield_now();
    }
    assert!(one.fake.has(&entity));
    assert_eq!(
        end(&one.order(&entity, one, two, MoveOpts::default()))
            .expect("it moves")
            .epoch,
        2
    );
}

fn live() -> MoveOpts {
    MoveOpts {
        live: true,
        ..patient()
    }
}

#[test]
fn a_copy_is_made_before_and_what_came_since_is_all_that_waits() {
    let nodes = cluster(3);
    let [one, two, three] = &nodes[..] else { unreachable!() };
    one.moves.permit([three.id()].into());
    let entity = one.fake.make(20, 1_200_000);
    let outcome = end(&three.order(&entity, one, two, live())).expect("it moves");
    assert_eq!((outcome.epoch, outcome.rounds, outcome.live), (2, 2, true));
    assert!(outcome.bytes_moved >= 1_200_000);
    assert_eq!(outcome.snapshot_took, Duration::from_micros(9));
    two.fake.until("go_live");
    assert_eq!(two.fake.things.lock()[&entity].bytes.len(), 1_200_000);
    let order = |node: &Node, what| node.fake.log.lock().iter().position(|noted| *noted == what);
    assert!(order(one, "copy") < order(one, "freeze"));
}

#[test]
fn without_a_copy_everything_is_sent() {
    let nodes = cluster(2);
    let [one, two] = &nodes[..] else { unreachable!() };
    let reject = || Some(Reject::new(Reason::StateFailed, "no"));
    let moves = |seed| {
        let entity = one.fake.make(seed, 64);
        let outcome = end(&one.order(&entity, one, two, live())).expect("it moves");
        assert_eq!((outcome.epoch, outcome.rounds, outcome.live), (2, 1, false));
        assert_eq!(two.fake.things.lock()[&entity].bytes.len(), 64);
    };
    one.fake.script.lock().copy = reject();
    moves(21);
    one.fake.script.lock().copy = None;
    two.fake.script.lock().hold = reject();
    moves(22);
    two.fake.script.lock().hold = None;
    two.fake.script.lock().diverges = true;
    moves(23);
}

#[test]
fn a_copy_of_a_move_that_is_not_wanted_is_dropped() {
    let nodes = cluster(2);
    let [one, two] = &nodes[..] else { unreachable!() };
    let entity = one.fake.make(24, 1_200_000);
    let slow = MoveOpts {
        bytes_per_second_max: Some(1 << 18),
        ..live()
    };
    let ordered = one.order(&entity, one, two, slow);
    one.fake.until("copy");
    one.moves.abort(&ordered, false);
    let failed = end(&ordered).expect_err("nobody wants it");
    assert_eq!((failed.kind, failed.cause), (FailedKind::Aborted, Cause::Cancelled));
    assert_eq!(end(&one.order(&entity, one, two, live())).expect("it moves").epoch, 2);
}

/// What a node says of a move in which it has no part, with the ids of that move.
fn foreign(order: &MoveOrder, image: Digest, lineage: &[OwnershipRecord], stranger: &Node) -> Vec<MoveFrame<'static>> {
    let frozen = Frozen {
        image,
        ..Fake::frozen_of(b"", &order.entity)
    };
    let last = lineage.last().expect("it was spawned");
    let record = |node: EntityId, signer: &Keypair| {
        let moved = last.moved(node, order.mid, 0, frozen.head, signer);
        Box::new(moved.expect("the key is whole"))
    };
    // Signed by somebody, but not by who may.
    let records = [
        record(order.target, &stranger.key),
        record(stranger.id(), &stranger.key),
    ];
    let own = MoveOrder {
        orchestrator: stranger.id(),
        ..order.clone()
    };
    let own = own.signed(&stranger.key).expect("the key is whole");
    let forged = MoveOrder {
        signer: order.source,
        ..own.clone()
    };
    let fresh = MoveOrder {
        mid: [9; 16],
        target: stranger.id(),
        ..own.clone()
    };
    let fresh = fresh.signed(&stranger.key).expect("the key is whole");
    let report = Report {
        stage: Stage::Complete,
        image_bytes: 1,
        moved: 1,
        blackout_us: 1,
        snapshot_us: 1,
        waiting: 1,
        rounds: 9,
        refused: Some(Reject::from(Reason::StateFailed)),
    };
    let tail = vec![queued(stranger.id(), 7)];
    let mut bodies = vec![
        Body::Accept,
        Body::Reject(Reject::from(Reason::StateFailed)),
        Body::Freeze,
        Body::Final {
            frozen,
            image_bytes: 5,
            lineage: lineage.to_vec(),
            queue: tail.clone(),
        },
        Body::Prepared { idx: 0, frozen },
        Body::Committed,
        Body::Retire,
        Body::Abort,
        Body::AbortReq,
        Body::Outcome {
            outcome: None,
            record: None,
        },
        Body::Outcome {
            outcome: Some(Outcome::Aborted),
            record: None,
        },
        Body::Pull { image, index: 0 },
        Body::Chunk {
            image,
            index: 0,
            bytes: &[7; 1 << 20],
        },
        Body::Chunk {
            image,
            index: 1,
            bytes: b"short",
        },
        Body::Aside(Box::new(Aside::Report(report))),
        Body::Aside(Box::new(Aside::Copied { image })),
    ];
    for record in records {
        bodies.push(Body::Commit {
            record: record.clone(),
            from: 0,
            tail: tail.clone(),
        });
        bodies.push(Body::Outcome {
            outcome: Some(Outcome::Committed),
            record: Some(record.clone()),
        });
        bodies.push(Body::Aside(Box::new(Aside::Show(record))));
    }
    for order in [order.clone(), own, forged, fresh] {
        bodies.push(Body::Aside(Box::new(Aside::Copy(Box::new(order.clone())))));
        bodies.push(Body::Aside(Box::new(Aside::Offer {
            order: Box::new(order.clone()),
            frozen,
            image_bytes: 5,
        })));
        bodies.push(Body::Prepare(Box::new(order)));
    }
    let frame = |body| MoveFrame {
        mid: order.mid,
        entity: order.entity,
        epoch: order.epoch,
        step: 1,
        body,
    };
    bodies.into_iter().map(frame).collect()
}

/// Counts bodies of moves that hold bytes of an image, or an order to pull some.
#[derive(Default)]
struct Sniffer(Mutex<usize>);

impl Take for Sniffer {
    fn take(&self, delivered: Delivered) -> bool {
        let frame = MoveFrame::decode(delivered.body()).expect("a frame");
        let is_loot = match frame.body {
            Body::Chunk { .. } | Body::Pull { .. } | Body::Final { .. } => true,
            Body::Aside(aside) => matches!(*aside, Aside::Offer { .. }),
            _ => false,
        };
        *self.0.lock() += usize::from(is_loot);
        true
    }
}

#[test]
fn a_node_without_a_part_changes_nothing_in_any_phase() {
    let nodes = cluster(4);
    let [one, two, three, four] = &nodes[..] else {
        unreachable!()
    };
    one.moves.permit([three.id()].into());
    let loot = Arc::new(Sniffer::default());
    let carrier = Carrier::mesh(four.mesh.clone());
    carrier.attach(Kind::MOVE, Arc::clone(&loot) as Arc<dyn Take>);
    let slow = MoveOpts {
        bytes_per_second_max: Some(2 << 20),
        ..patient()
    };
    for (seed, phase) in ["freeze", "frozen", "installing", "over"].into_iter().enumerate() {
        let seed = 60 + u8::try_from(seed).expect("few");
        let entity = one.fake.make(seed, 1_200_000);
        let image = digest::plain(&one.fake.things.lock()[&entity].bytes);
        let lineage = one.ownership.lineage(&entity).expect("it is read");
        nodes.iter().for_each(|node| node.fake.log.lock().clear());
        match phase {
            "freeze" => one.fake.script.lock().freezes_late = true,
            "installing" => two.fake.script.lock().refuses_installs = 1_000,
            _ => {}
        }
        let ordered = three.order(&entity, one, two, slow);
        let is_in_phase = || match phase {
            "freeze" => one.fake.count("freeze") > 0,
            "frozen" => ordered.progress().bytes_moved > 0,
            "installing" => two.fake.count("refused") > 0,
            _ => ordered.progress().is_over,
        };
        let deadline = within();
        while !is_in_phase() {
            assert!(!deadline.passed(), "{phase}");
            thread::yield_now();
        }
        let order = MoveOrder {
            mid: ordered.attempt(),
            entity,
            epoch: 1,
            source: one.id(),
            target: two.id(),
            orchestrator: three.id(),
            not_after: meshos_node::clock::unix_ms().plus(Duration::from_secs(60)),
            freeze_ms: 0,
            size: 1,
            kind: "thing".to_owned(),
            terms: meshos_core::move_rows::Terms::default(),
            signer: three.id(),
            signature: [0; 64],
        };
        let order = order.signed(&three.key).expect("the key is whole");
        // The target decides nothing about a move that it holds.
        let is_decided = || {
            let rows = two.rows();
            rows.iter().any(|row| matches!(row, Item::Done(_)))
        };
        for frame in foreign(&order, image, &lineage, four) {
            for node in [one, two, three] {
                carrier
                    .post(&node.id(), Kind::MOVE, &frame.to_bytes())
                    .expect("it leaves");
            }
        }
        // What is asked next is answered when all that was read.
        for node in [one, two, three] {
            let before = node.moves.stats();
            carrier.post(&node.id(), Kind::MOVE, b"the end").expect("it leaves");
            let deadline = within();
            while node.moves.stats().malformed == before.malformed {
                assert!(!deadline.passed(), "{phase}");
                thread::yield_now();
            }
        }
        assert!(phase == "over" || !is_decided(), "{phase}: {:?}", two.rows());
        two.fake.script.lock().refuses_installs = 0;
        one.fake.script.lock().freezes_late = false;
        one.fake.go_on();
        let outcome = end(&ordered).unwrap_or_else(|failed| panic!("{phase}: {failed:?}"));
        assert_eq!((outcome.epoch, outcome.rounds), (2, 1), "{phase}");
        two.fake.until("go_live");
        assert!(two.fake.has(&entity) && !four.fake.has(&entity), "{phase}");
        assert_eq!(two.fake.things.lock()[&entity].taken, [], "{phase}");
        assert_eq!(digest::plain(&two.fake.things.lock()[&entity].bytes), image, "{phase}");
        let record = one.ownership.record_of(entity.origin()).expect("it is known");
        assert_eq!((record.node(), record.epoch()), (two.id(), 2), "{phase}");
        assert_eq!(*loot.0.lock(), 0, "{phase}");
    }
}

/// Waits until a node has read all that another one sent.
fn has_read(node: &Node, sender: &Carrier) {
    let before = node.moves.stats().malformed;
    sender.post(&node.id(), Kind::MOVE, b"the end").expect("it leaves");
    let deadline = within();
    while node.moves.stats().malformed == before {
        assert!(!deadline.passed(), "it does not read");
        thread::yield_now();
    }
}

fn by_hand(mid: u8, entity: EntityId, source: &Node, target: &Node, orchestrator: &Node) -> MoveOrder {
    MoveOrder {
        mid: [mid; 16],
        entity,
        epoch: 1,
        source: source.id(),
        target: target.id(),
        orchestrator: orchestrator.id(),
        not_after: meshos_node::clock::unix_ms().plus(Duration::from_secs(60)),
        freeze_ms: 0,
        size: 64,
        kind: "thing".to_owned(),
        terms: meshos_core::move_rows::Terms::default(),
        signer: orchestrator.id(),
        signature: [0; 64],
    }
}

/// Says what whoever sees to a move says, until it is frozen.
fn drive(order: &MoveOrder, carrier: &Carrier, source: &Node, target: &Node) {
    let frame = |body| MoveFrame {
        mid: order.mid,
        entity: order.entity,
        epoch: order.epoch,
        step: 1,
        body,
    };
    let prepare = frame(Body::Prepare(Box::new(order.clone()))).to_bytes();
    for node in [target, source] {
        carrier.post(&node.id(), Kind::MOVE, &prepare).expect("it leaves");
        has_read(node, carrier);
    }
    let freeze = frame(Body::Freeze).to_bytes();
    carrier.post(&source.id(), Kind::MOVE, &freeze).expect("it leaves");
    has_read(source, carrier);
}

#[test]
fn an_order_that_is_late_or_repeated_or_forged_or_for_another_node_moves_nothing() {
    let nodes = cluster(4);
    let [one, two, three, four] = &nodes[..] else {
        unreachable!()
    };
    one.moves.permit([three.id()].into());
    let carrier = Carrier::mesh(three.mesh.clone());
    let entity = one.fake.make(40, 64);
    let unknown = Keypair::from_seed(&[41; 32]).entity_id();
    let good = |mid| by_hand(mid, entity, one, two, three);
    let signed = |order: MoveOrder| order.signed(&three.key).expect("the key is whole");
    let mut bad = vec![
        signed(MoveOrder {
            not_after: meshos_core::time::UnixMs::new(1_000),
            ..good(1)
        }),
        signed(MoveOrder { epoch: 2, ..good(2) }),
        signed(MoveOrder { epoch: 7, ..good(3) }),
        signed(MoveOrder {
            source: four.id(),
            ..good(4)
        }),
        signed(MoveOrder {
            target: four.id(),
            source: two.id(),
            ..good(5)
        }),
        signed(MoveOrder {
            entity: unknown,
            ..good(7)
        }),
        signed(MoveOrder {
            orchestrator: four.id(),
            ..good(8)
        }),
    ];
    let mut altered = signed(good(9));
    altered.size += 1;
    bad.push(altered);
    let stranger = MoveOrder {
        signer: four.id(),
        ..good(10)
    };
    bad.push(stranger.signed(&four.key).expect("the key is whole"));
    bad.push(MoveOrder {
        signer: one.id(),
        ..signed(good(11))
    });
    for order in &bad {
        drive(order, &carrier, one, two);
        assert!(one.fake.has(&entity) && one.fake.count("freeze") == 0, "{order:?}");
        let is_intent = |row: &Item| matches!(row, Item::Intent(_));
        assert!(!one.rows().iter().any(is_intent), "{order:?}");
    }
    // One that is not: nobody but source and target is needed for the rest.
    let order = signed(good(20));
    drive(&order, &carrier, one, two);
    two.fake.until("go_live");
    one.fake.until("retire");
    assert!(two.fake.has(&entity));
    for leg in 0..2 {
        // Again, also where it is back.
        let log = |node: &Node| node.fake.log.lock().len();
        let before = (log(one), log(two));
        drive(&order, &carrier, one, two);
        drive(&signed(good(21)), &carrier, one, two);
        assert_eq!((log(one), log(two)), before, "leg {leg}");
        if leg == 0 {
            assert_eq!(
                end(&one.order(&entity, two, one, patient())).expect("it moves").epoch,
                3
            );
            one.fake.until("go_live");
            two.fake.until("retire");
        }
    }
    assert!(one.fake.has(&entity) && !two.fake.has(&entity));
}

#[test]
fn chunks_that_are_none_change_nothing_and_an_altered_one_is_never_restored() {
    let nodes = cluster(2);
    let [one, two] = &nodes[..] else { unreachable!() };
    let slow = MoveOpts {
        bytes_per_second_max: Some(2 << 20),
        ..patient()
    };
    let from_source = Carrier::mesh(one.mesh.clone());
    let said = |entity: EntityId, ordered: &Move, image: Digest, index: u32, bytes: &[u8]| {
        let frame = MoveFrame {
            mid: ordered.attempt(),
            entity,
            epoch: 1,
            step: 1,
            body: Body::Chunk { image, index, bytes },
        };
        from_source
            .post(&two.id(), Kind::MOVE, &frame.to_bytes())
            .expect("it leaves");
    };
    let begun = |seed| {
        two.fake.log.lock().clear();
        let entity = one.fake.make(seed, 2_200_000);
        let image = digest::plain(&one.fake.things.lock()[&entity].bytes);
        let ordered = one.order(&entity, one, two, slow);
        let deadline = within();
        while ordered.progress().bytes_moved == 0 {
            assert!(!deadline.passed());
            thread::yield_now();
        }
        (entity, image, ordered)
    };
    let (entity, image, ordered) = begun(50);
    let whole = vec![7; 1 << 20];
    said(entity, &ordered, image, 0, &whole[1..]);
    said(entity, &ordered, image, 2, &whole);
    said(entity, &ordered, image, 3, &whole);
    said(entity, &ordered, image, u32::MAX, &whole);
    said(entity, &ordered, image, 1, b"");
    said(entity, &ordered, digest::plain(b"another"), 1, &whole);
    assert_eq!(end(&ordered).expect("it moves").epoch, 2);
    two.fake.until("go_live");
    assert_eq!(digest::plain(&two.fake.things.lock()[&entity].bytes), image);
    // What is repeated when it is whole already.
    said(entity, &ordered, image, 0, &whole);
    has_read(two, &from_source);
    assert!(two.fake.has(&entity));

    let (entity, image, ordered) = begun(51);
    said(entity, &ordered, image, 1, &whole);
    let failed = end(&ordered).expect_err("it cannot be opened");
    let why = failed.why.expect("it is said why");
    assert_eq!(
        (failed.kind, why.reason),
        (FailedKind::Aborted, Reason::IdentityTransportFailed)
    );
    assert_eq!(two.fake.count("restore"), 0);
    assert!(one.fake.has(&entity) && !two.fake.has(&entity));
    assert_eq!(
        end(&one.order(&entity, one, two, patient())).expect("it moves").epoch,
        2
    );
}

#[test]
fn talk_about_what_is_not_moved_takes_no_room() {
    let nodes = cluster(2);
    let [one, two] = &nodes[..] else { unreachable!() };
    let entity = one.fake.make(55, 64);
    let carrier = Carrier::mesh(two.mesh.clone());
    for seed in 0..200 {
        for body in [Body::Committed, Body::Abort, Body::Retire] {
            let frame = MoveFrame {
                mid: [seed; 16],
                entity: Keypair::from_seed(&[seed; 32]).entity_id(),
                epoch: 1,
                step: 1,
                body,
            };
            carrier
                .post(&one.id(), Kind::MOVE, &frame.to_bytes())
                .expect("it leaves");
        }
    }
    has_read(one, &carrier);
    assert_eq!((one.moves.known(), one.rows().len()), (0, 0));
    assert_eq!(
        end(&one.order(&entity, one, two, patient())).expect("it moves").epoch,
        2
    );
}

#[test]
fn a_chunk_that_waits_for_its_turn_is_sent_once() {
    let nodes = cluster(2);
    let [one, two] = &nodes[..] else { unreachable!() };
    let entity = one.fake.make(70, 3 << 20);
    // Chunks wait for longer than it takes until they are asked for again.
    let slow = MoveOpts {
        bytes_per_second_max: Some(1 << 20),
        ..patient()
    };
    let outcome = end(&one.order(&entity, one, two, slow)).expect("it moves");
    let twice = 2 << 20;
    assert!(
        outcome.bytes_moved <= (3 << 20) + twice,
        "{} bytes",
        outcome.bytes_moved
    );
}
