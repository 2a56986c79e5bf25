//! Whole moves on a network that loses, repeats and delays what is sent: each ends, nothing is lost, nothing comes twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use meshos_core::config::Durability;
use meshos_core::ownership::Lineage;
use meshos_core::rows::{KeyRange, Table};
use meshos_node::clock::Deadline;
use meshos_node::hands::Hands;
use meshos_node::moves::{MoveOpts, Moves};

use crate::common::net::Weather;
use crate::common::{key, never, until};
use crate::exported;
use crate::nodes::{Client, Gate, Node, PATIENCE, freeze, freeze_with, memory, order, seen_of, start_in};

/// Lets the machines of all nodes see to moves.
fn joined(nodes: &[Node]) -> Vec<Arc<Moves>> {
    let join = |node: &Node| {
        let (key, stores) = (Arc::clone(&node.key), Arc::clone(&node.stores));
        let moves = Moves::join(node.carrier.clone(), key, stores, Arc::clone(&node.ownership));
        let moves = moves.expect("its rows are read");
        let hands: Arc<dyn Hands> = node.mover.clone();
        moves.serve(Arc::downgrade(&hands));
        moves.permit(nodes.iter().map(Node::id).collect());
        moves
    };
    nodes.iter().map(join).collect()
}

/// Rows of moves that are under way, which are not kept for long.
fn open_rows(node: &Node) -> usize {
    use meshos_core::move_rows::Item;
    let store = (node.stores)();
    let rows = store
        .page(Table::Moves, &KeyRange::all(), usize::MAX)
        .expect("in memory");
    let is_open = |item: &Item| matches!(item, Item::Intent(_) | Item::Prepared(_) | Item::Ordered(_));
    let items = rows
        .iter()
        .map(|(key, value)| Item::decode(key, value).expect("a row").2);
    items.filter(is_open).count()
}

fn there_and_back(seed: u64, durability: Durability) {
    let weather = Weather {
        seed,
        lost: 51,
        twice: 26,
        later: 26,
    };
    let nodes = start_in(&[memory(), memory(), memory()], weather);
    let moves = joined(&nodes);
    let slot = nodes[1].spawn(&key(1), durability);
    let (origin, entity) = (slot.origin(), slot.entity());
    drop(slot);
    let clients = [0, 1, 2].map(|node| Client::new(&nodes[node], 70 + node as u64, origin));
    let (stop, sent) = (AtomicBool::new(false), [0; 3].map(AtomicUsize::new));
    let mut came_about = 0;
    thread::scope(|scope| {
        for (client, sent) in clients.iter().zip(&sent) {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let number = sent.fetch_add(1, Ordering::SeqCst);
                    client.send(&format!("{}{number}", client.sender.origin.get() % 10));
                    thread::sleep(Duration::from_millis(2));
                }
            });
        }
        let mut here = 1;
        for leg in 0..6 {
            let there = [(here + 1) % 3, (here + 2) % 3][leg % 2];
            let by = &moves[(seed as usize + leg) % 3];
            let within = Deadline::after(PATIENCE);
            let found = by
                .describe(nodes[here].id(), origin, within, || false)
                .expect("it answers");
            let ordered = by
                .begin(found, nodes[there].id(), MoveOpts::default())
                .expect("it begins");
            // It may not come about in time, but comes to its end.
            if ordered.wait(within, || false).expect("it ends").is_ok() {
                came_about += 1;
                here = there;
            }
            until(|| nodes[here].runtime.registry().get(origin).is_some());
        }
        stop.store(true, Ordering::SeqCst);
    });
    for client in &clients {
        client.settle();
    }
    let all: Vec<_> = nodes.iter().collect();
    for (node, sent) in sent.iter().enumerate() {
        // One after the other: of one client no node sees anything before what another one saw.
        let mut seen = seen_of(&all, &node.to_string());
        let count = sent.load(Ordering::SeqCst);
        for one in &nodes {
            let part = seen_of(&[one], &node.to_string());
            assert!(part.is_sorted(), "seed {seed}, client {node}: {part:?}");
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..count).collect::<Vec<_>>(), "seed {seed}, client {node}");
    }
    assert!(came_about > 0, "seed {seed}");
    let owners = nodes.iter().filter(|node| node.ownership.owned(&entity).is_some());
    assert_eq!(owners.count(), 1, "seed {seed}");
    let owner = nodes.iter().find(|node| node.runtime.registry().get(origin).is_some());
    let owner = owner.expect("it is somewhere");
    let lineage = owner.ownership.lineage(&entity).expect("in memory");
    assert_eq!(lineage.len(), came_about + 1, "seed {seed}");
    Lineage::verify(&entity, lineage, &[]).expect("a good lineage");
    exported(owner, origin);
    until(|| nodes.iter().all(|node| open_rows(node) == 0));
    moves.iter().for_each(|moves| assert_eq!(moves.stats().waiting, 0));
    moves.iter().for_each(|moves| moves.close());
    for node in &nodes {
        node.runtime.shutdown(PATIENCE, &mut never);
    }
}

#[test]
fn moves_on_a_bad_network_lose_nothing_and_end() {
    for seed in 0..6 {
        there_and_back(
            seed,
            if seed % 3 == 2 {
                Durability::None
            } else {
                Durability::Journal
            },
        );
    }
}

#[test]
fn a_thaw_that_comes_late_does_not_thaw_the_next_freeze() {
    let nodes = start_in(&[memory(), memory(), memory()], Weather::default());
    let slot = nodes[1].spawn(&key(1), Durability::Journal);
    let client = Client::new(&nodes[2], 72, slot.origin());
    for round in 0..20 {
        let first = freeze(&nodes[1], &nodes[2], slot.entity());
        for at in 0..3 {
            client.send(&format!("t{}", round * 3 + at));
        }
        until(|| first.queue.len() == 3);
        // The next one is asked for before the first one is over.
        let waited = first.thaw();
        let (queue, frost) = freeze_with(&nodes[1], order(&nodes[1], &nodes[2], slot.entity()), PATIENCE);
        frost.recv_timeout(PATIENCE).expect("in time").expect("it is frozen");
        assert!(waited == 3 && slot.is_frozen(), "round {round}");
        nodes[1].mover.thaw(&slot.entity(), queue.take(Gate::Open));
        assert_eq!(client.settle(), 3);
    }
    assert_eq!(seen_of(&[&nodes[1]], "t"), (0..60).collect::<Vec<_>>());
}
