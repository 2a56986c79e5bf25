//! What travels of a daemon that moves: taken, sealed, opened, restored and installed, it is the same daemon.
#![allow(missing_docs)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::kept::{Node, journal, send};
use common::net::{Net, Weather, forward};
use common::{Event, Sum, config, key, never};
use meshos_core::config::{DaemonHostConfig, Durability};
use meshos_core::digest;
use meshos_core::due::Due;
use meshos_core::id::{EntityId, Origin};
use meshos_core::identity::Keypair;
use meshos_core::image::seal::{Agreement, Opener, Sealer, Transcript, plain_range, sealed_len};
use meshos_core::image::{Baggage, Unpacked, decode};
use meshos_core::ingress::{DIRECT, EventKey};
use meshos_core::journal::SnapshotRow;
use meshos_core::move_frame::{Reason, Reject};
use meshos_core::move_rows::{Frozen, Item, MoveOrder, Prepared, Terms};
use meshos_core::name::ChannelName;
use meshos_core::ownership::OwnershipRecord;
use meshos_core::rows::{KeyRange, Table, Write, entity_key};
use meshos_core::source::Source;
use meshos_core::store::check::check;
use meshos_core::store::{Batch, Damage, Store, StoreError};
use meshos_core::time::UnixMs;
use meshos_core::verify::verify;
use meshos_node::clock::Deadline;
use meshos_node::deliver::{self, Want};
use meshos_node::image::{self, Image, NotInstalled, Standby};
use meshos_node::journal::Stores;
use meshos_node::leave::Entered;
use meshos_node::letters::{Letter, Letters};
use meshos_node::slot::Slot;
use zeroize::Zeroizing;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The allocator of the system, noting what each thread holds.
struct Noting;

fn note(bytes: isize) {
    let now = NOW.get() + bytes;
    NOW.set(now);
    PEAK.set(PEAK.get().max(now));
}

// SAFETY: every call goes to the allocator of the system as it came.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(isize::try_from(layout.size()).unwrap_or(0));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(-isize::try_from(layout.size()).unwrap_or(0));
        // SAFETY: the pointer came from `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Noting = Noting;

/// The most bytes that this thread held meanwhile, beyond those from before.
fn most_held<R>(body: impl FnOnce() -> R) -> (R, usize) {
    let before = NOW.get();
    PEAK.set(before);
    let result = body();
    (result, usize::try_from(PEAK.get() - before).unwrap_or(0))
}

const MIB: usize = 1 << 20;

fn target() -> Keypair {
    Keypair::from_seed(&[10; 32])
}

fn entity() -> EntityId {
    key(1).lock().entity_id()
}

fn order(source: &Keypair) -> MoveOrder {
    let order = MoveOrder {
        mid: [7; 16],
        entity: entity(),
        epoch: 1,
        source: source.entity_id(),
        target: target().entity_id(),
        orchestrator: source.entity_id(),
        not_after: UnixMs::new(u64::MAX),
        freeze_ms: 0,
        size: 8,
        kind: "sum".to_owned(),
        terms: Terms::default(),
        signer: source.entity_id(),
        signature: [0; 64],
    };
    order.signed(source).expect("a whole key")
}

fn enter(slot: &Arc<Slot<Sum>>) -> Entered<Sum> {
    slot.enter(Deadline::after(Duration::from_secs(10)), &mut never)
        .expect("free")
}

fn agreement() -> Agreement {
    Agreement::with(&target().entity_id(), &Zeroizing::new([3; 32])).expect("a key")
}

fn take(node: &Keypair, slot: &Arc<Slot<Sum>>) -> (Image, Frozen) {
    let (image, frozen, _) =
        image::take(&mut enter(slot), &order(node), &key(1), Some(&agreement())).expect("it is well");
    (image, frozen)
}

/// Seals all chunks, and opens them at the target.
fn travelled(image: &Image, order: &MoveOrder) -> Vec<u8> {
    let transcript = Transcript::of(order, image.digest, image.len);
    let sealer = Sealer::new(&transcript, &agreement());
    let opener = Opener::new(&transcript, &target()).expect("a whole key");
    let mut plain = vec![0; usize::try_from(image.len).expect("it is in memory")];
    let (mut index, mut sealed_bytes) = (0, 0);
    while let Some(range) = plain_range(image.len, index) {
        let mut part = Vec::new();
        image.slice(range.clone(), &mut part);
        let sealed = sealer.seal(index, &part);
        sealed_bytes += sealed.len() as u64;
        let at = usize::try_from(range.start).expect("it is in memory");
        let opened = opener.open(index, &sealed, &mut plain[at..]).expect("it was sealed so");
        assert_eq!(opened, part.len());
        index += 1;
    }
    assert_eq!(sealed_bytes, sealed_len(image.len));
    plain
}

fn restore(bytes: Vec<u8>, source: &Keypair, make: impl FnOnce() -> Sum) -> Result<Standby<Sum>, Reject> {
    let name = digest::plain(&bytes);
    image::restore(Arc::new(bytes), name, &order(source), (&target(), None), |_| Ok(make()))
}

/// The records of a daemon that was begun at the source, up to the one that gives it to the target.
fn records(source: &Keypair, frozen: &Frozen) -> (OwnershipRecord, OwnershipRecord) {
    let genesis = digest::genesis(&entity(), &digest::Digest::ZERO);
    let first = OwnershipRecord::spawn(&key(1).lock(), source.entity_id(), genesis).expect("a whole key");
    let (to, signer) = (target().entity_id(), key(1));
    let moved = first.moved(to, [7; 16], frozen.sequence, frozen.head, &signer.lock());
    (first, moved.expect("a whole key"))
}

fn stores(node: &Node) -> Stores {
    let disk = Arc::clone(&node.disk);
    Arc::new(move || Box::new(common::kept::Handle(Arc::clone(&disk))))
}

fn commit(node: &Node, writes: Vec<Write>) {
    let mut disk = node.disk.lock();
    let term = disk.term();
    disk.submit(Batch { term, writes }, Box::new(|outcome| assert!(outcome.is_ok())));
}

/// A daemon that moved, at the target.
struct Moved {
    node: Node,
    slot: Arc<Slot<Sum>>,
}

/// Moves a daemon to a target that has the padding of the source.
fn moved(source: &Node, slot: &Arc<Slot<Sum>>, make: fn(&Arc<common::Switches>) -> Sum) -> Moved {
    let (image, frozen) = take(&source.node, slot);
    let bytes = travelled(&image, &order(&source.node));
    assert_eq!(bytes, image.parts().concat());
    let node = Node::on(Arc::default(), Arc::new(target()));
    let kept = node.disk.lock().keep(&[&bytes]).expect("in memory");
    assert_eq!(kept, frozen.image);
    let mut standby = restore(bytes, &source.node, || make(&node.switches)).expect("it is well");
    assert_eq!(standby.frozen, frozen);
    let (first, record) = records(&source.node, &frozen);
    let writes = standby
        .install(&[first], &record, &stores(&node), &node.node)
        .expect("it fits");
    commit(&node, writes);
    let key = Arc::clone(&standby.key);
    let slot = Slot::new(key, Some(node.node.entity_id()), standby.inside);
    Moved { node, slot }
}

fn outputs(events: &[Event]) -> Vec<(u64, Vec<u8>)> {
    events
        .iter()
        .map(|event| (event.link.sequence, event.payload.to_vec()))
        .collect()
}

/// What both say of the same event from now on, and of one from before.
fn same_from_here(source: &Arc<Slot<Sum>>, moved: &Arc<Slot<Sum>>, last: u64) {
    let (before, after) = (source.view(), moved.view());
    assert_eq!((before.head, before.digest), (after.head, after.digest));
    assert_eq!(before.stats, after.stats);
    let again = |slot: &Arc<Slot<Sum>>| {
        let event = Event::outside(7, last, b"abc");
        let again = deliver::deliver(&mut enter(slot), &event, Want::Receipt).expect("known");
        (again.duplicate, again.receipt)
    };
    assert_eq!(again(moved), again(source));
    for sequence in last + 1..last + 4 {
        let there = send(moved, sequence, b"four").expect("new");
        let here = send(source, sequence, b"four").expect("new");
        assert_eq!(outputs(&there), outputs(&here));
    }
    assert_eq!(source.view().digest, moved.view().digest);
    assert_eq!((source.view().epoch, moved.view().epoch), (1, 2));
}

fn events_of(node: &Node, slot: &Arc<Slot<Sum>>) -> Vec<Event> {
    let exported = node.runtime.export(&mut enter(slot)).expect("it can sign");
    let events: Vec<_> = exported
        .events
        .iter()
        .map(|event| (event.link, event.payload.as_slice()))
        .collect();
    verify(
        &events,
        &exported.checkpoints,
        &exported.certificates,
        &exported.entity,
        &[],
    )
    .expect("unbroken");
    exported.events
}

#[test]
fn a_daemon_goes_on_where_it_was_frozen() {
    for durability in [Durability::Journal, Durability::Snapshot, Durability::None] {
        let source = Node::new();
        let config = DaemonHostConfig { durability, ..config() };
        let slot = source.spawn(config);
        for sequence in 1..=20 {
            send(&slot, sequence, b"abc").expect("kept");
        }
        let exported = events_of(&source, &slot);
        assert_eq!(exported.len(), 20);
        let moved = moved(&source, &slot, Sum::new);
        assert!(!moved.slot.key().lock().is_read_only(), "its key came with it");
        assert_eq!(outputs(&events_of(&moved.node, &moved.slot)), outputs(&exported));
        same_from_here(&slot, &moved.slot, 20);
        let all = events_of(&moved.node, &moved.slot);
        assert_eq!(all.len(), 23);
    }
}

#[test]
fn a_daemon_without_state_or_outputs_moves_too() {
    let source = Node::new();
    let spawned = source
        .runtime
        .spawn(&key(1), journal(), Sum::stateless(&source.switches));
    let slot = spawned.expect("new");
    let moved = moved(&source, &slot, Sum::stateless);
    assert_eq!(moved.slot.view().head.sequence, 0);
    send(&moved.slot, 1, b"abc").expect("new");
    assert_eq!(check(&*moved.node.disk.lock()).expect("whole").steps, 1);
}

#[test]
fn what_was_installed_comes_back_in_its_epoch_with_equal_receipts() {
    let source = Node::new();
    let slot = source.spawn(journal());
    for sequence in 1..=5 {
        send(&slot, sequence, b"abc").expect("kept");
    }
    let Moved { node, slot } = moved(&source, &slot, Sum::new);
    // Before its first event there, and after.
    let key = Arc::clone(slot.key());
    drop(slot);
    let node = node.killed();
    let (slot, report) = node.runtime.resume(&key, Sum::new(&node.switches)).expect("kept");
    assert_eq!((report.epoch, report.sequence, report.replayed), (2, 5, 0));
    for sequence in 6..=8 {
        send(&slot, sequence, b"abc").expect("kept");
    }
    let receipt = |slot: &Arc<Slot<Sum>>| {
        let event = Event::outside(7, 7, b"abc");
        let again = deliver::deliver(&mut enter(slot), &event, Want::Receipt).expect("known");
        again.receipt.expect("kept")
    };
    let before = receipt(&slot);
    assert_eq!((before.epoch, before.position), (2, 7));
    drop(slot);
    let node = node.killed();
    let (slot, report) = node.runtime.resume(&key, Sum::new(&node.switches)).expect("kept");
    assert_eq!((report.epoch, report.sequence, report.replayed), (2, 8, 3));
    assert_eq!(receipt(&slot), before);
    let checked = check(&*node.disk.lock()).expect("nothing is damaged");
    assert_eq!((checked.outputs, checked.steps), (8, 3));
    // The store was told its key.
    let stored = node.runtime.stored().expect("whole").remove(0).1.expect("whole");
    let unsealed = node.runtime.unseal(&entity(), &stored).expect("sealed here");
    assert!(!unsealed.is_read_only() && stored.runs);
}

#[test]
fn what_the_target_had_of_an_earlier_time_is_gone() {
    let source = Node::new();
    let slot = source.spawn(journal());
    send(&slot, 1, b"abc").expect("kept");
    let (image, frozen) = take(&source.node, &slot);
    let node = Node::on(Arc::default(), Arc::new(target()));
    let old = node.spawn(journal());
    for sequence in 1..=9 {
        send(&old, sequence, b"other").expect("kept");
    }
    drop(old);
    let node = node.killed();
    node.disk.lock().keep(&image.parts()).expect("in memory");
    let bytes = image.parts().concat();
    let mut standby = restore(bytes, &source.node, || Sum::new(&node.switches)).expect("it is well");
    let (first, record) = records(&source.node, &frozen);
    let writes = standby
        .install(&[first], &record, &stores(&node), &node.node)
        .expect("it fits");
    // Once more, as after a commit that failed.
    let again = standby
        .install(&[first], &record, &stores(&node), &node.node)
        .expect("it fits");
    assert_eq!(again.len(), writes.len());
    commit(&node, again);
    let checked = check(&*node.disk.lock()).expect("nothing is damaged");
    assert_eq!(
        (checked.daemons, checked.steps, checked.outputs, checked.snapshots),
        (1, 0, 1, 1)
    );
}

#[test]
fn everything_else_of_it_travels() {
    let source = Node::new();
    let slot = source.spawn(journal());
    let to = Origin::new(0x0102_0304_0506_0708);
    send(&slot, 1, &forward(to, b"x")).expect("kept");
    send(&slot, 2, b"abc").expect("kept");
    events_of(&source, &slot);
    let letter = Letter {
        event: Event::outside(8, 5, b"poison"),
        key: EventKey {
            origin: Origin::new(8),
            stream: DIRECT,
            sequence: 5,
        },
        attempts: 5,
        retry: true,
        exception: Arc::from("ValueError"),
        message: Arc::from("no"),
        at: UnixMs::new(9),
    };
    let mut letters = Letters::default();
    letters.put(3, letter);
    enter(&slot).letters = Some(Box::new(letters));
    let (image, _) = take(&source.node, &slot);
    // A source of a channel is put in by hand.
    let bytes = image.parts().concat();
    let Unpacked {
        mut baggage,
        meta,
        state,
    } = decode(&bytes).expect("just made");
    let origin = Source {
        publisher: source.node.entity_id(),
        log: 4,
        channel: ChannelName::new("a/b").expect("a good name"),
    };
    baggage.rows.push(origin.write(&entity()));
    baggage.sort();
    let tables: Vec<_> = baggage.rows.iter().map(|row| row.table).collect();
    let expected = [
        Table::Outputs,
        Table::Outputs,
        Table::Checkpoints,
        Table::DeadLetters,
        Table::Outbox,
        Table::Streams,
    ];
    assert_eq!(tables, expected);
    let (before, behind) = baggage.around(&meta, &bytes[state.clone()]);
    let bytes = [&before[..], &bytes[state], &behind].concat();

    let node = Node::on(Arc::default(), Arc::new(target()));
    let name = node.disk.lock().keep(&[&bytes]).expect("in memory");
    let mut standby = restore(bytes, &source.node, || Sum::new(&node.switches)).expect("it is well");
    let due: Vec<_> = standby
        .due
        .iter()
        .map(|due| (due.sequence, due.to, due.has_row))
        .collect();
    assert_eq!(due, [(1, to, true)]);
    let (first, record) = records(&source.node, &standby.frozen);
    let writes = standby
        .install(&[first], &record, &stores(&node), &node.node)
        .expect("it fits");
    commit(&node, writes);
    let slot = Slot::new(Arc::clone(&standby.key), Some(node.node.entity_id()), standby.inside);
    assert_eq!(enter(&slot).checkpoints.len(), 1);
    // Taken again, the same travels on.
    let onward = MoveOrder {
        epoch: 2,
        ..order(&node.node)
    };
    let (image, frozen, _) = image::take(&mut enter(&slot), &onward, &key(1), None).expect("it is well");
    let again = decode(&image.parts().concat()).expect("just made");
    assert_eq!(again.baggage.rows, baggage.rows);
    assert_eq!(again.baggage.identity, None);
    assert_ne!(frozen.image, name);
    assert_eq!(check(&*node.disk.lock()).expect("whole").outputs, 2);
}

#[test]
fn outputs_that_are_due_travel_also_without_rows() {
    let (_net, nodes) = Net::of(2, Weather::default());
    let slot = nodes[0].spawn(1, config());
    let nobody = Origin::new(77);
    for sequence in 1..=3 {
        let event = Event::outside(7, sequence, &forward(nobody, b"x"));
        let mut entered = enter(&slot);
        deliver::deliver(&mut entered, &event, Want::Outputs).expect("new");
        deliver::submit(&mut entered);
    }
    let source = nodes[0].runtime.node();
    let (image, _) = take(source, &slot);
    let bytes = image.parts().concat();
    let rows = decode(&bytes).expect("just made").baggage.rows;
    let due: Vec<_> = rows.iter().filter(|row| row.table == Table::Outbox).collect();
    assert_eq!(due.len(), 3);
    let read = Due::decode(due[0].value.as_ref().expect("put")).expect("just made");
    assert_eq!(read.to, nobody);
    let standby = restore(bytes, source, || Sum::new(&nodes[1].switches)).expect("it is well");
    let due: Vec<_> = standby.due.iter().map(|due| (due.sequence, due.has_row)).collect();
    assert_eq!(due, [(1, false), (2, false), (3, false)]);
    assert!(!standby.is_kept());
}

#[test]
fn a_daemon_that_is_thawed_was_not_touched() {
    let source = Node::new();
    let slot = source.spawn(journal());
    send(&slot, 1, b"abc").expect("kept");
    let before = (
        slot.view(),
        source.disk.lock().page(Table::Journal, &KeyRange::all(), 9),
    );
    let (image, frozen) = take(&source.node, &slot);
    let (again, same) = take(&source.node, &slot);
    assert_eq!((frozen.sequence, frozen.head), (same.sequence, same.head));
    assert_eq!(image.len, again.len);
    assert_eq!(
        (
            slot.view(),
            source.disk.lock().page(Table::Journal, &KeyRange::all(), 9)
        ),
        before
    );
    send(&slot, 2, b"abc").expect("it goes on");
}

#[test]
fn what_cannot_be_taken_is_told() {
    let source = Node::new();
    let slot = source.spawn(journal());
    source.switches.fail_snapshot.store(true, Ordering::SeqCst);
    let taken = |order: &MoveOrder| image::take(&mut enter(&slot), order, &key(1), Some(&agreement())).map(drop);
    let refused = taken(&order(&source.node)).expect_err("it raises");
    assert_eq!(
        (refused.reason, &*refused.text),
        (Reason::StateFailed, "Error: no snapshot")
    );
    assert_eq!(slot.view().stats.errors, 1);
    source.switches.fail_snapshot.store(false, Ordering::SeqCst);
    let mut other = order(&source.node);
    other.entity = target().entity_id();
    assert_eq!(taken(&other).expect_err("another daemon").reason, Reason::StateFailed);
    // No point of the curve.
    let nobody = EntityId::from_bytes([2; 32]);
    assert!(Agreement::with(&nobody, &Zeroizing::new([3; 32])).is_err());
    source.disk.lock().is_full = true;
    let mut entered = enter(&slot);
    deliver::deliver(&mut entered, &Event::outside(7, 1, b"abc"), Want::Outputs).expect("new");
    let refused = image::take(&mut entered, &order(&source.node), &key(1), Some(&agreement())).map(drop);
    assert_eq!(refused.expect_err("it is not kept").reason, Reason::StateFailed);
}

#[test]
fn what_cannot_be_restored_is_told() {
    let source = Node::new();
    let slot = source.spawn(journal());
    send(&slot, 1, b"abc").expect("kept");
    let (image, _) = take(&source.node, &slot);
    let bytes = image.parts().concat();
    let node = Node::on(Arc::default(), Arc::new(target()));
    let make = || Sum::new(&node.switches);
    let refused = |bytes: Vec<u8>| restore(bytes, &source.node, make).map(drop).expect_err("it is refused");
    for end in (0..bytes.len()).step_by(7) {
        assert_eq!(
            refused(bytes[..end].to_vec()).reason,
            Reason::StateFailed,
            "cut at {end}"
        );
    }
    node.switches.fail_restore.store(true, Ordering::SeqCst);
    let raised = refused(bytes.clone());
    assert_eq!(
        (raised.reason, &*raised.text),
        (Reason::StateFailed, "Error: no restore")
    );
    node.switches.fail_restore.store(false, Ordering::SeqCst);
    let none = image::restore::<Sum>(
        Arc::new(bytes.clone()),
        digest::plain(&bytes),
        &order(&source.node),
        (&target(), None),
        |_| Err(Reject::from(Reason::NoFactory)),
    );
    assert_eq!(none.map(drop).expect_err("no class").reason, Reason::NoFactory);
    // Another node has not the key that the daemon's was sealed to.
    let stranger = Keypair::from_seed(&[11; 32]);
    let opened = image::restore(
        Arc::new(bytes.clone()),
        digest::plain(&bytes),
        &order(&source.node),
        (&stranger, None),
        |_| Ok(make()),
    );
    assert_eq!(
        opened.map(drop).expect_err("not for it").reason,
        Reason::IdentityTransportFailed
    );
    let mut earlier = order(&source.node);
    earlier.kind = "other".to_owned();
    let other = image::restore(
        Arc::new(bytes.clone()),
        digest::plain(&bytes),
        &earlier,
        (&target(), None),
        |_| Ok(make()),
    );
    assert_eq!(other.map(drop).expect_err("another kind").reason, Reason::StateFailed);
    // Outputs that are not the end of the chain are not taken for it.
    let Unpacked {
        mut baggage,
        meta,
        state,
    } = decode(&bytes).expect("just made");
    let row = baggage
        .rows
        .iter_mut()
        .find(|row| row.table == Table::Outputs)
        .expect("one");
    let foreign = Keypair::from_seed(&[5; 32]).entity_id();
    let mut builder = meshos_core::chain::CausalChainBuilder::new(foreign);
    let link = builder.append(b"3", 0).expect("room");
    let forged = meshos_core::journal::outputs_row(&entity(), &digest::Digest::ZERO, &[(link, b"3")]);
    row.value = forged.expect("one").value;
    let (before, behind) = baggage.around(&meta, &bytes[state.clone()]);
    assert_eq!(
        refused([&before[..], &bytes[state], &behind].concat()).reason,
        Reason::StateFailed
    );
}

#[test]
fn it_is_installed_only_under_a_record_that_begins_where_it_stands() {
    let source = Node::new();
    let slot = source.spawn(journal());
    send(&slot, 1, b"abc").expect("kept");
    let (image, frozen) = take(&source.node, &slot);
    let node = Node::on(Arc::default(), Arc::new(target()));
    let bytes = image.parts().concat();
    let mut standby = restore(bytes, &source.node, || Sum::new(&node.switches)).expect("it is well");
    let elsewhere = Frozen { sequence: 2, ..frozen };
    let (first, record) = records(&source.node, &elsewhere);
    let refused = standby.install(&[first], &record, &stores(&node), &node.node);
    assert!(matches!(refused, Err(NotInstalled::Record(_))));
    let (first, record) = records(&source.node, &frozen);
    let other = Keypair::from_seed(&[12; 32]);
    let refused = standby.install(&[first], &record, &stores(&node), &other);
    assert!(matches!(refused, Err(NotInstalled::Record(_))));
    assert_eq!(standby.inside.host.epoch(), 1);
    let public = Keypair::public_only(node.node.entity_id());
    let refused = standby.install(&[first], &record, &stores(&node), &public);
    assert!(matches!(refused, Err(NotInstalled::Key(_))));
    standby
        .install(&[first], &record, &stores(&node), &node.node)
        .expect("it fits");
    assert_eq!(standby.inside.host.epoch(), 2);
}

#[test]
fn a_key_that_does_not_travel_leaves_a_daemon_that_its_node_signs_for() {
    let source = Node::new();
    let slot = source.spawn(journal());
    let (image, _, _) = image::take(&mut enter(&slot), &order(&source.node), &key(1), None).expect("it is well");
    let bytes = image.parts().concat();
    let node = Node::on(Arc::default(), Arc::new(target()));
    let mut standby = restore(bytes, &source.node, || Sum::new(&node.switches)).expect("it is well");
    assert!(standby.key.lock().is_read_only());
    let (first, record) = records(&source.node, &standby.frozen);
    standby
        .install(&[first], &record, &stores(&node), &node.node)
        .expect("it fits");
    let slot = Slot::new(Arc::clone(&standby.key), Some(node.node.entity_id()), standby.inside);
    send(&slot, 1, b"abc").expect("new");
    assert_eq!(events_of(&node, &slot).len(), 1);
}

#[test]
fn an_image_of_a_target_in_doubt_is_checked() {
    let source = Node::new();
    let slot = source.spawn(journal());
    send(&slot, 1, b"abc").expect("kept");
    let (image, frozen) = take(&source.node, &slot);
    let (first, _) = records(&source.node, &frozen);
    let prepared = Prepared {
        order: order(&source.node),
        frozen,
        image_bytes: sealed_len(image.len),
        lineage: vec![first],
        queue: Vec::new(),
    };
    let node = Node::on(Arc::default(), Arc::new(target()));
    let item = Item::Prepared(Box::new(prepared.clone()));
    commit(&node, vec![item.write(&entity(), &[7; 16])]);
    let found = check(&*node.disk.lock());
    assert_eq!(found, Err(StoreError::NoSnapshot { name: frozen.image }));
    node.disk.lock().keep(&image.parts()).expect("in memory");
    assert!(check(&*node.disk.lock()).is_ok());
    // A row that names another place than its image has.
    let elsewhere = Frozen { sequence: 9, ..frozen };
    let item = Item::Prepared(Box::new(Prepared {
        frozen: elsewhere,
        ..prepared
    }));
    commit(&node, vec![item.write(&entity(), &[7; 16])]);
    let found = check(&*node.disk.lock());
    assert!(matches!(
        found,
        Err(StoreError::Damaged(Damage::Apart {
            table: Table::Moves,
            ..
        }))
    ));
    commit(
        &node,
        vec![Write::put(Table::Moves, entity_key(&entity(), []), b"x".to_vec())],
    );
    let found = check(&*node.disk.lock());
    assert!(matches!(
        found,
        Err(StoreError::Damaged(Damage::Row {
            table: Table::Moves,
            ..
        }))
    ));
}

#[test]
fn a_large_state_is_held_once_at_the_source_and_once_beside_its_image_at_the_target() {
    let source = Node::new();
    let slot = source.spawn(config());
    send(&slot, 1, b"abc").expect("new");
    source.switches.padding.store(64 * MIB, Ordering::SeqCst);
    let ((image, frozen), most) = most_held(|| take(&source.node, &slot));
    assert!(most < 65 * MIB, "{most} bytes to take it");
    let transcript = Transcript::of(&order(&source.node), image.digest, image.len);
    let sealer = Sealer::new(&transcript, &agreement());
    let (_, most) = most_held(|| {
        let mut part = Vec::new();
        image.slice(plain_range(image.len, 1).expect("it is large"), &mut part);
        sealer.seal(1, &part)
    });
    assert!(most < 4 * MIB, "{most} bytes to seal a chunk");
    let bytes = Arc::new(image.parts().concat());
    let node = Node::on(Arc::default(), Arc::new(target()));
    node.switches.padding.store(64 * MIB, Ordering::SeqCst);
    let order = order(&source.node);
    let (standby, most) = most_held(|| {
        image::restore(bytes, frozen.image, &order, (&target(), None), |_| {
            Ok(Sum::new(&node.switches))
        })
    });
    assert!(most < 65 * MIB, "{most} bytes to restore it");
    assert_eq!(standby.expect("it is well").frozen, frozen);
}

#[test]
fn a_snapshot_row_may_name_an_image() {
    let source = Node::new();
    let slot = source.spawn(journal());
    send(&slot, 1, b"abc").expect("kept");
    let moved = moved(&source, &slot, Sum::new);
    let rows = moved
        .node
        .disk
        .lock()
        .page(Table::Snapshots, &KeyRange::all(), 9)
        .expect("in memory");
    let row = SnapshotRow::decode(&rows[0].1).expect("whole");
    let kept = moved.node.disk.lock().fetch(&row.name, row.size).expect("kept");
    assert_eq!(decode(&kept).expect("it is the image").meta.epoch, 1);
    let Baggage { stored, .. } = decode(&kept).expect("it is the image").baggage;
    assert_eq!((stored.key, stored.runs), (None, true));
}
