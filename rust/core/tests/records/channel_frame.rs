//! Frames of channels.

use meshos_core::channel_frame::{ChannelFrame, Subscribe};
use meshos_core::codec::Fault;
use meshos_core::identity::{IdentityError, Keypair};
use meshos_core::testing::samples::keypair;
use meshos_core::testing::tokens::channel_frames;

use crate::support::{assert_exact, fault, patched};

const NODE: u8 = 0x22;
const PUBLISHER: u8 = 0x11;

fn signed() -> Subscribe {
    match channel_frames().swap_remove(0) {
        ChannelFrame::Subscribe(subscribe) => subscribe,
        other => panic!("{other:?} is no request"),
    }
}

#[test]
fn every_frame_is_read_as_it_was_written_and_in_no_other_way() {
    let (first, last) = ChannelFrame::KINDS;
    let mut kinds = Vec::new();
    for frame in channel_frames() {
        let bytes = frame.to_bytes();
        kinds.push(bytes[1]);
        assert_eq!(ChannelFrame::decode(&bytes).as_ref(), Ok(&frame));
        assert_exact(&bytes, 0, |bytes| ChannelFrame::decode(bytes).map(drop));
        for other in (0..=255).filter(|kind| !(first..=last).contains(kind)) {
            let refused = fault(ChannelFrame::decode(&patched(&bytes, 1, &[other])));
            assert_eq!(refused, Fault::Invalid { field: "kind" });
        }
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = ChannelFrame::decode(&flipped) {
                assert_eq!(read.to_bytes(), flipped);
                assert_ne!(read, frame);
            }
        }
    }
    kinds.dedup();
    assert!(kinds.into_iter().eq(first..=last));
}

#[test]
fn marks_reasons_and_numbers_are_strict() {
    let bytes: Vec<Vec<u8>> = channel_frames().iter().map(ChannelFrame::to_bytes).collect();
    let invalid = |frame: usize, at: usize, new: &[u8]| fault(ChannelFrame::decode(&patched(&bytes[frame], at, new)));
    for reason in [0, 5] {
        assert_eq!(invalid(3, 18, &[reason]), Fault::Invalid { field: "reason" });
    }
    // After the name and the number of the log: the first of the numbers.
    let numbers = 2 + 14 + 8;
    assert_eq!(invalid(8, numbers, &[0; 8]), Fault::Invalid { field: "numbers" });
    assert_eq!(
        invalid(8, numbers, &10u64.to_le_bytes()),
        Fault::Invalid { field: "numbers" }
    );
    assert_eq!(invalid(6, numbers + 8, &[2]), Fault::Invalid { field: "mark" });
    assert_eq!(invalid(6, 2, &[0]), Fault::Invalid { field: "channel name" });
}

#[test]
fn a_request_is_of_its_daemon_from_its_node_to_its_publisher() {
    let (node, publisher) = (keypair(NODE).entity_id(), keypair(PUBLISHER).entity_id());
    let request = signed();
    assert!(request.is_proven(&node, &publisher));
    assert!(!request.is_proven(&publisher, &publisher));
    assert!(!request.is_proven(&node, &node));
    let changes: [fn(&mut Subscribe); 7] = [
        |request| request.nonce = [0; 16],
        |request| request.epoch += 1,
        |request| request.after = None,
        |request| request.group = None,
        |request| request.token.clear(),
        |request| request.subscriber = keypair(1).entity_id(),
        |request| request.proof = None,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut changed = signed();
        change(&mut changed);
        assert!(!changed.is_proven(&node, &publisher), "change {number}");
    }
    let public = Keypair::public_only(request.subscriber);
    let mut unsigned = request;
    assert_eq!(unsigned.sign(&public, &node, &publisher), Err(IdentityError::ReadOnly));
}
