//! Messages and rows of a move.

use meshos_core::codec::Fault;
use meshos_core::move_frame::{Body, MAX_SNAPSHOT_CHUNK_SIZE, MoveFrame, QUEUE_BYTES_MAX, Reason};
use meshos_core::move_rows::{Item, QUEUED_MAX};
use meshos_core::testing::move_frames::{self, MID};
use meshos_core::testing::samples::keypair;

use crate::support::{assert_exact, fault, patched};

/// Bytes before the body.
const HEADER: usize = 66;

#[test]
fn frames_survive_their_wire_form_and_nothing_else_is_read() {
    for frame in [move_frames::frames(), move_frames::asides()].concat() {
        let bytes = frame.to_bytes();
        assert_eq!(MoveFrame::decode(&bytes), Ok(frame));
        assert_exact(&bytes, 0, |bytes| {
            MoveFrame::decode(bytes).map(|frame| frame.to_bytes())
        });
        let newer = Fault::NewerVersion { found: 2, known: 1 };
        assert_eq!(fault(MoveFrame::decode(&patched(&bytes, 0, &[2]))), newer);
        for kind in [0, 111, 133, 255] {
            let kind = fault(MoveFrame::decode(&patched(&bytes, 1, &[kind])));
            assert_eq!(kind, Fault::Invalid { field: "kind" });
        }
    }
}

#[test]
fn what_no_writer_writes_is_refused_by_its_name() {
    let frames: Vec<_> = move_frames::frames().iter().map(MoveFrame::to_bytes).collect();
    let refused = |frame: usize, at: usize, bytes: &[u8]| fault(MoveFrame::decode(&patched(&frames[frame], at, bytes)));
    let invalid = |field| Fault::Invalid { field };
    assert_eq!(refused(1, 2, &[0; 16]), invalid("migration id"));
    assert_eq!(refused(1, 50, &0u64.to_le_bytes()), invalid("epoch"));
    assert_eq!(refused(1, 50, &u64::MAX.to_le_bytes()), invalid("epoch"));
    assert_eq!(refused(1, 62, &[1]), invalid("body length"));
    // The header and what is in the body are about one move.
    assert_eq!(refused(0, 2, &[1; 16]), invalid("order"));
    assert_eq!(refused(0, 18, &[1; 32]), invalid("order"));
    assert_eq!(refused(0, 50, &[2]), invalid("order"));
    assert_eq!(refused(5, 18, &[1; 32]), invalid("lineage"));
    assert_eq!(refused(7, 2, &[1; 16]), invalid("record"));
    assert_eq!(refused(7, 50, &[2]), invalid("record"));
    assert_eq!(refused(13, 2, &[1; 16]), invalid("record"));
    assert_eq!(refused(2, HEADER, &[0]), invalid("reason"));
    assert_eq!(refused(2, HEADER, &[12]), invalid("reason"));
    assert_eq!(refused(3, HEADER + 5, &[0xff]), Fault::Utf8);
    assert_eq!(refused(12, HEADER, &[3]), invalid("outcome"));
    let last = frames[5].len() - 12;
    assert_eq!(refused(5, last, &6u64.to_le_bytes()), invalid("prev"));
    let huge = u32::try_from(QUEUED_MAX + 1).unwrap().to_le_bytes();
    assert!(matches!(
        refused(5, HEADER + 80 + 4 + 355, &huge),
        Fault::Truncated { .. }
    ));
}

#[test]
fn a_chunk_that_was_altered_is_refused() {
    let chunk = move_frames::frames().pop().unwrap().to_bytes();
    let last = chunk.len() - 1;
    assert_eq!(fault(MoveFrame::decode(&patched(&chunk, last, b"E"))), Fault::Digest);
    assert_eq!(
        fault(MoveFrame::decode(&patched(&chunk, HEADER + 36, &[0]))),
        Fault::Digest
    );
}

#[test]
fn a_chunk_that_is_filled_where_it_goes_has_the_same_bytes() {
    let frame = move_frames::frames().pop().unwrap();
    let Body::Chunk { bytes, .. } = frame.body else {
        panic!("the last is a chunk")
    };
    let mut out = b"before".to_vec();
    frame.put_chunk(&mut out, |out| out.extend_from_slice(bytes));
    assert_eq!(out, [&b"before"[..], &frame.to_bytes()].concat());
}

#[test]
fn a_chunk_that_is_empty_or_too_long_is_refused() {
    let frames = move_frames::frames();
    let template = frames.last().unwrap();
    let Body::Chunk { image, .. } = template.body else {
        panic!("the last is a chunk")
    };
    let of = |bytes: &'static [u8]| {
        let body = Body::Chunk { image, index: 0, bytes };
        MoveFrame {
            body,
            ..template.clone()
        }
        .to_bytes()
    };
    let field = Fault::Invalid { field: "length" };
    assert_eq!(fault(MoveFrame::decode(&of(b""))), field);
    let mut long = of(vec![7; MAX_SNAPSHOT_CHUNK_SIZE].leak());
    assert!(MoveFrame::decode(&long).is_ok());
    long.push(7);
    let body = u32::try_from(long.len() - HEADER).unwrap().to_le_bytes();
    let length = u32::try_from(MAX_SNAPSHOT_CHUNK_SIZE + 1).unwrap().to_le_bytes();
    let long = patched(&patched(&long, 62, &body), HEADER + 68, &length);
    assert_eq!(fault(MoveFrame::decode(&long)), Fault::Invalid { field: "count" });
}

#[test]
fn an_order_is_signed_by_its_signer() {
    let order = move_frames::order();
    assert!(order.verify_signature().is_ok());
    for forged in [
        meshos_core::move_rows::MoveOrder {
            epoch: 2,
            ..order.clone()
        },
        meshos_core::move_rows::MoveOrder {
            kind: "other".to_owned(),
            ..order.clone()
        },
        meshos_core::move_rows::MoveOrder {
            signer: keypair(9).entity_id(),
            ..order.clone()
        },
        meshos_core::move_rows::MoveOrder {
            freeze_ms: 0,
            ..order.clone()
        },
        meshos_core::move_rows::MoveOrder {
            target: order.orchestrator,
            ..order.clone()
        },
    ] {
        assert!(forged.verify_signature().is_err(), "{forged:?}");
    }
}

#[test]
fn rows_survive_their_encoding_and_nothing_else_is_read() {
    for write in move_frames::rows() {
        let (key, value) = (write.key, write.value.unwrap());
        let (entity, mid, item) = Item::decode(&key, &value).unwrap();
        assert_eq!((entity, mid), (move_frames::order().entity, MID));
        assert_eq!(item.to_bytes(), value);
        assert_exact(&value, 0, |value| Item::decode(&key, value));
        assert_exact(&key, 0, |key| Item::decode(key, &value));
        for at in 1..value.len() {
            let flipped = patched(&value, at, &[value[at] ^ 1]);
            assert_eq!(fault(Item::decode(&key, &flipped)), Fault::Digest, "byte {at}");
        }
        for role in [0, 7] {
            let role = fault(Item::decode(&patched(&key, 32, &[role]), &value));
            assert_eq!(role, Fault::Invalid { field: "role" });
        }
    }
    let rows = move_frames::rows();
    let (key, value) = (&rows[0].key, rows[0].value.as_ref().unwrap());
    let moved = fault(Item::decode(&patched(key, 33, &[1; 16]), value));
    assert_eq!(moved, Fault::Invalid { field: "key" });
}

#[test]
fn reasons_have_their_codes_and_two_may_be_tried_again() {
    for (code, reason) in (1..).zip(Reason::ALL) {
        assert_eq!(reason as u8, code);
    }
    let retriable: Vec<_> = Reason::ALL.into_iter().filter(|reason| reason.is_retriable()).collect();
    assert_eq!(retriable, [Reason::Busy, Reason::NotReady]);
    const { assert!(QUEUE_BYTES_MAX < meshos_core::frame::BODY_BYTES_MAX / 2) };
}
