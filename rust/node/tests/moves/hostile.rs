//! What is forged, late, repeated or no frame, and what nodes without a part say: nothing comes of it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use meshos_core::digest::{self, Digest};
use meshos_core::frame::Kind;
use meshos_core::id::EntityId;
use meshos_core::identity::Keypair;
use meshos_core::move_frame::{Aside, Body, MoveFrame, Reason, Reject, Report, Stage};
use meshos_core::move_rows::{Frozen, Item, MoveOrder, Outcome};
use meshos_core::ownership::OwnershipRecord;
use meshos_node::carrier::Carrier;
use meshos_node::mesh::{Delivered, Take};
use meshos_node::moves::MoveOpts;
use meshos_node::sync::Mutex;

use crate::fake::Fake;
use crate::nodes::{Node, cluster, end, has_read, patient, queued, within};

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
