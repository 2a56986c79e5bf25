//! Frames of channels.

use meshos_core::channel_frame::{ChannelFrame, Nonce, Publish, Subscribe, Unpublished};
use meshos_core::codec::Fault;
use meshos_core::identity::{IdentityError, Keypair};
use meshos_core::testing::samples::keypair;
use meshos_core::testing::tokens::{channel_frames, publish_frames};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{assert_exact, channel_names, entity_ids, fault, patched};

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
    for frame in channel_frames().into_iter().chain(publish_frames()) {
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
    let bytes_of = |frame: usize| publish_frames()[frame].to_bytes();
    let of_publish =
        |frame: usize, at: usize, new: &[u8]| fault(ChannelFrame::decode(&patched(&bytes_of(frame), at, new)));
    for reason in [0, 7, 255] {
        assert_eq!(of_publish(3, 18, &[reason]), Fault::Invalid { field: "reason" });
    }
    // Nonce, name, publisher, no token: then the mark of the signature, and the length of the payload.
    let mark = 2 + 16 + 14 + 32 + 2;
    assert_eq!(of_publish(1, mark, &[2]), Fault::Invalid { field: "mark" });
    assert_eq!(of_publish(1, mark + 1, &[1]), Fault::Truncated { needed: 1 });
    assert_eq!(of_publish(1, 18, &[0]), Fault::Invalid { field: "channel name" });
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

fn published() -> Publish<'static> {
    match publish_frames().swap_remove(0) {
        ChannelFrame::Publish(publish) => publish,
        other => panic!("{other:?} publishes nothing"),
    }
}

#[test]
fn what_is_published_elsewhere_is_of_its_publisher_from_its_node_to_its_owner() {
    let (node, owner) = (keypair(NODE).entity_id(), keypair(PUBLISHER).entity_id());
    let request = published();
    assert!(request.is_proven(&node, &owner));
    assert!(!request.is_proven(&owner, &owner));
    assert!(!request.is_proven(&node, &node));
    let changes: [fn(&mut Publish<'_>); 6] = [
        |request| request.nonce = [0; 16],
        |request| request.channel = meshos_core::name::ChannelName::new("sensors/other").expect("a good name"),
        |request| request.publisher = keypair(1).entity_id(),
        |request| request.token.clear(),
        |request| request.payload = b"cold",
        |request| request.proof = None,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut changed = published();
        change(&mut changed);
        assert!(!changed.is_proven(&node, &owner), "change {number}");
    }
    // Where a token ends and a payload begins is signed too.
    let mut moved = published();
    moved.payload = b"";
    moved.token.extend(b"hot");
    assert!(!moved.is_proven(&node, &owner));
    let public = Keypair::public_only(request.publisher);
    let mut unsigned = request;
    assert_eq!(unsigned.sign(&public, &node, &owner), Err(IdentityError::ReadOnly));
}

proptest! {
    #[test]
    fn any_frame_of_what_is_published_elsewhere_is_read_back(
        nonce in any::<Nonce>(),
        channel in channel_names(),
        publisher in entity_ids(),
        token in vec(any::<u8>(), 0..200),
        proof in any::<Option<[[u8; 32]; 2]>>(),
        payload in vec(any::<u8>(), 0..200),
        sequence in any::<u64>(),
        flipped in any::<prop::sample::Index>(),
    ) {
        let proof = proof.map(|halves| <[u8; 64]>::try_from(halves.concat()).expect("64 bytes"));
        let publish = Publish { nonce, channel, publisher, token, proof, payload: &payload };
        let frames = [
            ChannelFrame::Publish(publish),
            ChannelFrame::Published { nonce, sequence },
            ChannelFrame::NotPublished { nonce, reason: Unpublished::TooLarge },
        ];
        for frame in frames {
            let bytes = frame.to_bytes();
            let read = ChannelFrame::decode(&bytes);
            prop_assert_eq!(read.as_ref(), Ok(&frame));
            let mut changed = bytes.clone();
            changed[flipped.index(8 * bytes.len()) / 8] ^= 1 << (flipped.index(8 * bytes.len()) % 8);
            if let Ok(read) = ChannelFrame::decode(&changed) {
                prop_assert_eq!(read.to_bytes(), &changed[..]);
                prop_assert_ne!(read, frame);
            }
        }
    }
}
