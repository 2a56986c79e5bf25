//! Messages between owners and the directory.

use meshos_core::codec::Fault;
use meshos_core::ownership_frame::{Ask, Body, OwnershipFrame};
use meshos_core::testing::ownership;

use crate::support::{assert_exact, fault, patched};

#[test]
fn frames_survive_their_wire_form_and_nothing_else_is_read() {
    for frame in ownership::frames() {
        let bytes = frame.to_bytes();
        assert_eq!(OwnershipFrame::decode(&bytes), Ok(frame));
        assert_exact(&bytes, 0, OwnershipFrame::decode);
        let newer = Fault::NewerVersion { found: 2, known: 1 };
        assert_eq!(fault(OwnershipFrame::decode(&patched(&bytes, 0, &[2]))), newer);
        let kind = Fault::Invalid { field: "kind" };
        assert_eq!(fault(OwnershipFrame::decode(&patched(&bytes, 1, &[71]))), kind);
    }
}

#[test]
fn what_no_writer_writes_is_refused_by_its_name() {
    let frames: Vec<_> = ownership::frames().iter().map(OwnershipFrame::to_bytes).collect();
    let refused =
        |frame: usize, at: usize, bytes: &[u8]| fault(OwnershipFrame::decode(&patched(&frames[frame], at, bytes)));
    let invalid = |field| Fault::Invalid { field };
    assert_eq!(refused(0, 18, &[0]), invalid("count"));
    assert_eq!(
        refused(0, 18, &[0xff; 4]),
        Fault::Truncated {
            needed: 355 * 0xffff_ffff - 355
        }
    );
    assert_eq!(refused(1, 50, &[0; 8]), invalid("epoch"));
    assert_eq!(refused(3, 50, &[0; 8]), invalid("epoch"));
    assert_eq!(refused(5, 50, &[3]), invalid("reason"));
    assert_eq!(refused(8, 50, &[1]), invalid("bytes"));
}

#[test]
fn a_lineage_of_two_entities_or_out_of_order_is_refused() {
    let mut records = ownership::records();
    records.reverse();
    let frame = OwnershipFrame {
        ask: Ask { run: 1, number: 1 },
        body: Body::Register(records),
    };
    assert_eq!(
        fault(OwnershipFrame::decode(&frame.to_bytes())),
        Fault::Invalid { field: "lineage" }
    );
}
