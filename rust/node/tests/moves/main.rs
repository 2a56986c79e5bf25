//! The machines of moves on several nodes, over hands without daemons: messages, rows, ownership and time are real.
#![allow(missing_docs)]

mod chunks;
mod fake;
mod freeze;
mod hostile;
mod live;
mod nodes;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use meshos_core::id::EntityId;
use meshos_core::identity::Keypair;
use meshos_core::move_frame::{Reason, Reject, Stage};
use meshos_node::clock::Deadline;
use meshos_node::moves::{BeginError, Cause, DescribeError, Described, FailedKind, MoveOpts};
use nodes::{Node, PATIENCE, cluster, end, patient, quick, within};

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
