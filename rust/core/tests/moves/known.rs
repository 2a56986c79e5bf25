//! What a node makes of its rows when it begins.

use std::time::Duration;

use meshos_core::move_known::{Known, Recovered, Unretired, recover, until};
use meshos_core::move_rows::{Item, Outcome, Prepared};
use meshos_core::ownership::OwnershipRecord;

use crate::common::{
    MID, OTHER_MID, WALL, entity, frozen, moved, orchestrator, order, queued, rows, source, spawn, taken_over, target,
};

fn prepared() -> Item {
    Item::Prepared(Box::new(Prepared {
        order: order(),
        frozen: frozen(),
        image_bytes: 10,
        lineage: vec![spawn()],
        queue: vec![queued(1)],
    }))
}

fn at_source(records: &[OwnershipRecord], items: &[Item]) -> Recovered {
    let items: Vec<_> = items.iter().map(|item| (MID, item.clone())).collect();
    recover(source(), entity(), records, &items)
}

fn at_target(records: &[OwnershipRecord], items: &[Item]) -> Recovered {
    let items: Vec<_> = items.iter().map(|item| (MID, item.clone())).collect();
    recover(target(), entity(), records, &items)
}

#[test]
fn an_intent_without_a_record_is_aborted_before_anything_else() {
    let found = at_source(&[spawn()], &[Item::Intent(order())]);
    assert_eq!(rows(&found.writes), "keep[done -1]");
    assert_eq!(found.known.outcome(&MID), Some(Outcome::Aborted));
    assert_eq!(found.unretired, None);
}

#[test]
fn a_record_that_names_the_target_is_gone_on_with_until_it_is_retired() {
    let found = at_source(&[spawn(), moved()], &[Item::Intent(order())]);
    let unretired = Unretired {
        record: moved(),
        orchestrator: Some(orchestrator()),
    };
    assert_eq!(
        (found.unretired, rows(&found.writes).as_str()),
        (Some(unretired), "keep[]")
    );
    assert_eq!(found.known.outcome(&MID), Some(Outcome::Committed));
    let retired = at_source(&[spawn(), moved()], &[Item::Intent(order()), Item::Retired]);
    assert_eq!(retired.unretired, None);
    let superseded = at_source(&[spawn(), moved(), taken_over()], &[Item::Intent(order())]);
    assert_eq!(
        (superseded.unretired, rows(&superseded.writes).as_str()),
        (None, "keep[retired -1]")
    );
}

#[test]
fn what_a_target_holds_is_in_doubt_until_something_was_decided() {
    for records in [vec![], vec![spawn()]] {
        let found = at_target(&records, &[prepared()]);
        assert_eq!(found.prepared.map(|prepared| prepared.idx()), Some(1));
        assert_eq!(rows(&found.writes), "keep[]");
    }
    for records in [vec![spawn(), moved()], vec![spawn(), moved(), taken_over()]] {
        let found = at_target(&records, &[prepared()]);
        assert_eq!((found.prepared, rows(&found.writes).as_str()), (None, "keep[-2]"));
    }
    let aborted = at_target(&[spawn()], &[prepared(), Item::Done(WALL)]);
    assert_eq!((aborted.prepared, rows(&aborted.writes).as_str()), (None, "keep[-2]"));
}

#[test]
fn an_order_without_an_outcome_is_asked_about() {
    let found = recover(orchestrator(), entity(), &[], &[(MID, Item::Ordered(order()))]);
    assert_eq!(found.ordered, [order()]);
    let ended = [
        (MID, Item::Ordered(order())),
        (MID, Item::Ended(Outcome::Aborted, WALL)),
    ];
    assert_eq!(recover(orchestrator(), entity(), &[], &ended).ordered, []);
}

#[test]
fn nothing_about_the_entity_is_nothing() {
    let found = at_target(&[], &[]);
    assert_eq!(found.known, Known::nothing(entity()));
    assert_eq!(
        (found.writes, found.unretired, found.prepared, found.ordered),
        (vec![], None, None, vec![])
    );
}

#[test]
fn what_was_aborted_is_forgotten_when_no_message_can_be_on_its_way_and_what_was_committed_never() {
    let mut known = Known::nothing(entity());
    known.learn(&moved());
    known.abort(OTHER_MID, until(&order()));
    assert!(until(&order()) > order().not_after.plus(Duration::from_secs(60)));
    assert_eq!(known.forget(until(&order())), []);
    assert_eq!(known.outcome(&OTHER_MID), Some(Outcome::Aborted));
    let over = until(&order()).plus(Duration::from_millis(1));
    assert_eq!(rows(&known.forget(over)), "keep[-3]");
    assert_eq!(known.outcome(&OTHER_MID), None);
    assert_eq!(known.outcome(&MID), Some(Outcome::Committed));
    assert_eq!(known.epoch(), 2);
}
