//! Messages about calls.

use meshos_core::codec::Fault;
use meshos_core::feed_frame::{Body, FeedFrame, HEADER_SIZE};
use meshos_core::remote_frame::{PART_BYTES_MAX, RemoteFrame, TEXT_BYTES_MAX, cut};
use meshos_core::testing::remote;

use crate::support::{assert_exact, fault, patched};

#[test]
fn frames_survive_their_wire_form_and_nothing_else_is_read() {
    for frame in remote::frames().into_iter().chain([remote::outputs()]) {
        let bytes = frame.to_bytes();
        assert_eq!(RemoteFrame::decode(&bytes), Ok(frame));
        assert_exact(&bytes, 0, |bytes| {
            RemoteFrame::decode(bytes).map(|frame| frame.to_bytes())
        });
        let newer = Fault::NewerVersion { found: 2, known: 1 };
        assert_eq!(fault(RemoteFrame::decode(&patched(&bytes, 0, &[2]))), newer);
        let kind = Fault::Invalid { field: "kind" };
        assert_eq!(fault(RemoteFrame::decode(&patched(&bytes, 1, &[106]))), kind);
    }
}

#[test]
fn frames_of_feeds_survive_their_wire_form_and_nothing_else_is_read() {
    for frame in remote::feed_frames() {
        let bytes = frame.to_bytes();
        assert_eq!(FeedFrame::decode(&bytes), Ok(frame));
        let is_open = matches!(frame.body, Body::Outputs(_) | Body::Answers(_));
        if !is_open {
            assert_exact(&bytes, 0, |bytes| {
                FeedFrame::decode(bytes).map(|frame| frame.to_bytes())
            });
        }
        let newer = Fault::NewerVersion { found: 2, known: 1 };
        assert_eq!(fault(FeedFrame::decode(&patched(&bytes, 0, &[2]))), newer);
        for kind in [0, 9] {
            let refused = fault(FeedFrame::decode(&patched(&bytes, 1, &[kind])));
            assert_eq!(refused, Fault::Invalid { field: "kind" });
        }
        for end in 0..HEADER_SIZE {
            assert!(matches!(
                fault(FeedFrame::decode(&bytes[..end])),
                Fault::Truncated { .. }
            ));
        }
    }
}

#[test]
fn what_no_writer_writes_is_refused_by_its_name() {
    let frames: Vec<_> = remote::frames().iter().map(RemoteFrame::to_bytes).collect();
    let refused =
        |frame: usize, at: usize, bytes: &[u8]| fault(RemoteFrame::decode(&patched(&frames[frame], at, bytes)));
    let invalid = |field| Fault::Invalid { field };
    assert_eq!(refused(7, 18, &[0]), invalid("reason"));
    assert_eq!(refused(7, 18, &[10]), invalid("reason"));
    assert_eq!(refused(7, 19, &[2]), invalid("owner"));
    assert_eq!(refused(8, 24, &[0xff]), Fault::Utf8);
    let length = u32::try_from(PART_BYTES_MAX + 1).unwrap().to_le_bytes();
    assert!(matches!(
        refused(6, 26, &length),
        Fault::Truncated { .. } | Fault::TooLarge { .. }
    ));
}

#[test]
fn a_spawn_with_other_options_than_may_be_is_refused() {
    let frame = remote::frames()[0].to_bytes();
    let stored = frame.len() - 1;
    // The last byte is of the sum of the stored daemon.
    assert_eq!(
        fault(RemoteFrame::decode(&patched(&frame, stored, &[frame[stored] ^ 1]))),
        Fault::Digest
    );
}

#[test]
fn a_text_is_cut_between_letters() {
    assert_eq!(cut("short"), "short");
    let long = "é".repeat(TEXT_BYTES_MAX);
    let cut = cut(&format!("x{long}"));
    assert_eq!(cut.len(), TEXT_BYTES_MAX - 1);
}
