//! Copies that are made before a move.

use std::time::Duration;

use meshos_core::move_frame::{Reason, Reject};
use meshos_node::moves::{Cause, FailedKind, MoveOpts};

use crate::nodes::{Node, cluster, end, patient};

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
