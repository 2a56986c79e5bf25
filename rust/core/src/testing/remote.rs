//! One of each message about calls to other nodes.

use super::ownership;
use crate::config::{DaemonHostConfig, Durability};
use crate::digest::Digest;
use crate::feed_frame::{self, FeedFrame};
use crate::id::{EntityId, Origin};
use crate::remote_frame::{Answer, Body, CallId, Reason, Refused, RemoteFrame, Request};

const CALL: CallId = *b"a call, 16 bytes";

/// One of each frame.
///
/// # Panics
/// Never: there is a first record.
#[must_use]
pub fn frames() -> Vec<RemoteFrame<'static>> {
    let config = DaemonHostConfig {
        durability: Durability::Journal,
        ..DaemonHostConfig::default()
    };
    let refused = |reason, owner, text: &str| {
        Body::Answer(Answer::Refused(Refused {
            reason,
            owner,
            text: text.to_owned(),
        }))
    };
    let bodies = vec![
        Body::Ask(Request::Spawn {
            record: Box::new(ownership::records()[0]),
            kind: "counter".to_owned(),
            config,
        }),
        Body::Ask(Request::Stop(Origin::new(7))),
        Body::Ask(Request::Snapshot(Origin::new(8))),
        Body::Fetch { offset: 1 << 20 },
        Body::Answer(Answer::Done),
        Body::Answer(Answer::Taken {
            size: 5,
            digest: Digest::from_bytes([9; 32]),
        }),
        Body::Part {
            offset: 3,
            bytes: b"part",
        },
        refused(Reason::NotOwner, Some((EntityId::from_bytes([4; 32]), 3)), ""),
        refused(Reason::Failed, None, "ValueError: no"),
        Body::Answer(Answer::Working),
    ];
    bodies
        .into_iter()
        .map(|body| RemoteFrame { call: CALL, body })
        .collect()
}

/// The request for outputs, which came later than [`frames`].
#[must_use]
pub fn outputs() -> RemoteFrame<'static> {
    let (origin, after) = (Origin::new(9), 1 << 40);
    RemoteFrame {
        call: CALL,
        body: Body::Ask(Request::Outputs { origin, after }),
    }
}

/// Each of [`frames`] after its length as a 32-bit number.
///
/// # Panics
/// Never: they are short.
#[must_use]
pub fn frame_bytes() -> Vec<u8> {
    let framed = |frame: RemoteFrame<'_>| {
        let bytes = frame.to_bytes();
        let length = u32::try_from(bytes.len()).expect("it is short");
        [length.to_le_bytes().as_slice(), &bytes].concat()
    };
    frames().into_iter().flat_map(framed).collect()
}

/// A parcel as it is in frames of feeds.
const PARCEL: &[u8] = b"\x01\x03\0\0\0one";

/// One of each frame between an owner and a reader.
#[must_use]
pub fn feed_frames() -> Vec<FeedFrame<'static>> {
    let bodies = [
        feed_frame::Body::Outputs(PARCEL),
        feed_frame::Body::Answers(PARCEL),
        feed_frame::Body::Still,
        feed_frame::Body::Here,
        feed_frame::Body::Over,
        feed_frame::Body::Leave,
        feed_frame::Body::Find,
        feed_frame::Body::Found {
            node: EntityId::from_bytes([4; 32]),
            epoch: 7,
        },
    ];
    let (entity, reader) = (EntityId::from_bytes([9; 32]), CALL);
    let frames = bodies.into_iter().map(|body| FeedFrame { entity, reader, body });
    frames.collect()
}

/// Each of [`feed_frames`] after its length as a 32-bit number.
///
/// # Panics
/// Never: they are short.
#[must_use]
pub fn feed_frame_bytes() -> Vec<u8> {
    let framed = |frame: FeedFrame<'_>| {
        let bytes = frame.to_bytes();
        let length = u32::try_from(bytes.len()).expect("it is short");
        [length.to_le_bytes().as_slice(), &bytes].concat()
    };
    feed_frames().into_iter().flat_map(framed).collect()
}

/// [`FeedFrame::decode`], of frames after their lengths.
pub fn fuzz_feed_frames(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (frame, after) = after.split_at(length.min(after.len()));
        if let Ok(found) = FeedFrame::decode(frame) {
            assert_eq!(found.to_bytes(), frame);
        }
        rest = after;
    }
}

/// [`RemoteFrame::decode`], of frames after their lengths.
pub fn fuzz_frames(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (frame, after) = after.split_at(length.min(after.len()));
        if let Ok(found) = RemoteFrame::decode(frame) {
            assert_eq!(found.to_bytes(), frame);
        }
        rest = after;
    }
}

/// [`RemoteFrame::decode`], of one frame.
pub fn fuzz_frame(bytes: &[u8]) {
    if let Ok(found) = RemoteFrame::decode(bytes) {
        assert_eq!(found.to_bytes(), bytes);
    }
}
