//! Chunks of images: sent once, and restored only as what they were.

use std::thread;

use meshos_core::digest::{self, Digest};
use meshos_core::frame::Kind;
use meshos_core::id::EntityId;
use meshos_core::move_frame::{Body, MoveFrame, Reason};
use meshos_node::carrier::Carrier;
use meshos_node::moves::{FailedKind, Move, MoveOpts};

use crate::nodes::{cluster, end, has_read, patient, within};

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
