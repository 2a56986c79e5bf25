//! Daemons that are copied while they work, of which then only what came since has to travel.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use meshos_core::config::{DaemonHostConfig, Durability};
use meshos_core::control::DaemonControl;
use meshos_core::cursors::Receipt;
use meshos_core::id::EntityId;
use meshos_core::image;
use meshos_core::move_frame::{Reason, Reject};
use meshos_core::move_rows::{Item, MoveOrder};
use meshos_core::store::check::check;
use meshos_node::carrier::Carrier;
use meshos_node::clock::Deadline;
use meshos_node::controls;
use meshos_node::daemon::DeliverError;
use meshos_node::deliver::{self, Want};
use meshos_node::hands::{Copied, FreezeOpts, Hands};
use meshos_node::journal::Stores;
use meshos_node::mover::Mover;
use meshos_node::moves::{MoveEnd, MoveOpts, Moves};
use meshos_node::redb_store::{Options, RedbStore};
use meshos_node::slot::Slot;

use crate::common::{Event, Sum, key, never, until};
use crate::nodes::{
    self, Client, Frosted, Node, OPTS, PATIENCE, event, freeze_on, memory, order, seen_of, start, three, wait,
};
use crate::{exported, tempfolder};

const DURABILITIES: [Durability; 3] = [Durability::Journal, Durability::Snapshot, Durability::None];

fn copy(source: &Node, order: &MoveOrder) -> Result<Copied, Reject> {
    wait(|done| source.mover.copy(order, OPTS, done))
}

fn hold(target: &Node, order: &MoveOrder, copied: &Copied) -> Result<(), Reject> {
    let mut bytes = Vec::new();
    copied.image.slice(0..copied.image.len, &mut bytes);
    wait(|done| target.mover.hold_copy(order, Arc::new(bytes), done))
}

/// Has the target hold a copy.
fn copied(source: &Node, target: &Node, entity: EntityId) -> MoveOrder {
    let order = order(source, target, entity);
    let copied = copy(source, &order).expect("it goes on");
    hold(target, &order, &copied).expect("it is restored");
    order
}

/// Moves a daemon of which the target holds a copy.
fn since(source: &Node, target: &Node, order: MoveOrder) {
    let frosted = freeze_on(source, order);
    assert_eq!(frosted.frost.rounds, 2);
    finish(&frosted, target);
}

fn finish(frosted: &Frosted<'_>, target: &Node) {
    assert_eq!(frosted.restore(target), Ok(frosted.frost.frozen));
    let queue = frosted.hand_over();
    assert_eq!(frosted.install(target), Ok(frosted.frost.record.epoch()));
    frosted.go_live(target, queue);
    assert!(frosted.retire());
}

/// Delivers an event of an origin, asking for a receipt; tells whether it took effect before.
fn deliver(slot: &Arc<Slot<Sum>>, event: &Event) -> (Option<Receipt>, bool) {
    let mut entered = slot.enter(Deadline::after(PATIENCE), &mut never).expect("open");
    let delivered = deliver::deliver(&mut entered, event, Want::Receipt).expect("it takes effect");
    deliver::submit(&mut entered);
    (delivered.receipt, delivered.duplicate)
}

fn is_taped(slot: &Arc<Slot<Sum>>) -> bool {
    let mut is_taped = None;
    until(|| slot.peek(|_| ()).is_some());
    while is_taped.is_none() {
        is_taped = slot.peek(meshos_node::inside::Inside::is_taped);
    }
    is_taped == Some(true)
}

/// What the nodes saw, first the source and then the target, which took some again that the source had taken.
fn in_order(source: &Node, target: &Node, prefix: &str, count: usize) {
    let (first, then) = (seen_of(&[source], prefix), seen_of(&[target], prefix));
    assert_eq!(first, (0..first.len()).collect::<Vec<_>>(), "{prefix}");
    let from = then.first().copied().unwrap_or(count);
    assert!(from <= first.len(), "{prefix}: {from} after {}", first.len());
    assert_eq!(then, (from..count).collect::<Vec<_>>(), "{prefix}");
}

#[test]
fn what_came_since_a_copy_is_taken_again_and_nothing_is_lost_under_load() {
    for durability in DURABILITIES {
        let nodes = three();
        let (source, target) = (&nodes[1], &nodes[2]);
        let slot = source.spawn(&key(1), durability);
        let origin = slot.origin();
        let clients = [(source, "a"), (target, "b"), (&nodes[0], "c")];
        let clients =
            clients.map(|(node, prefix)| (Client::new(node, 70 + u64::from(prefix.as_bytes()[0]), origin), prefix));
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut receipts = BTreeMap::new();
        let counts: Vec<usize> = std::thread::scope(|scope| {
            let threads = clients.each_ref().map(|(client, prefix)| {
                let (stop, sent) = (&stop, &sent);
                scope.spawn(move || {
                    let mut next = 0;
                    while !stop.load(Ordering::SeqCst) {
                        for _ in 0..8 {
                            client.send(&format!("{prefix}{next}"));
                            next += 1;
                        }
                        sent.fetch_add(8, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    next
                })
            });
            let some_more = || {
                let after = sent.load(Ordering::SeqCst) + 60;
                until(|| sent.load(Ordering::SeqCst) > after);
            };
            let mut note = |number: u64, slot: &Arc<Slot<Sum>>| {
                let taken = deliver(slot, &event(5, number, "number"));
                assert!(!taken.1);
                receipts.insert(number, taken.0);
            };
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                some_more();
                note(1, &slot);
                let order = order(source, target, slot.entity());
                let copied = copy(source, &order).expect("it goes on");
                note(2, &slot);
                some_more();
                assert!(is_taped(&slot));
                hold(target, &order, &copied).expect("it is restored");
                note(3, &slot);
                some_more();
                since(source, target, order);
                note(4, &target.slot(origin));
                some_more();
            }));
            stop.store(true, Ordering::SeqCst);
            if let Err(panic) = ended {
                std::panic::resume_unwind(panic);
            }
            threads.map(|thread| thread.join().expect("no panic")).into()
        });
        for ((client, prefix), count) in clients.iter().zip(&counts) {
            assert_eq!(client.settle(), *count);
            in_order(source, target, prefix, *count);
        }
        let moved = target.slot(origin);
        for (number, receipt) in receipts {
            let again = deliver(&moved, &event(5, number, "number"));
            assert_eq!(again, (receipt, true), "{durability:?}: {number}");
            let epoch = if number < 4 { 1 } else { 2 };
            assert_eq!(receipt.map(|receipt| receipt.epoch), Some(epoch));
        }
        let total = counts.iter().sum::<usize>() + 4;
        let view = moved.view();
        assert_eq!(
            (view.stats.events_processed, view.epoch),
            (total as u64, 2),
            "{durability:?}"
        );
        assert_eq!(exported(target, origin).len(), total);
        if durability == Durability::Snapshot {
            // The snapshot that is kept is not that of before what came since.
            until(|| {
                moved.view().stats.snapshots_taken > 0 && crate::rows(target, meshos_core::rows::Table::Snapshots) == 2
            });
        }
        check(&*(target.stores)()).expect("everything is in order");
    }
}
