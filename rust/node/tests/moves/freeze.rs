//! What is done before a daemon stands still, and what becomes of events while it does.

use std::thread;

use meshos_core::move_frame::{Reason, Reject};
use meshos_node::moves::{Cause, FailedKind, MoveOpts};

use crate::nodes::{Node, cluster, end, patient, queued, quick, within};

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
