//! A permission token, a revocation and a sealed payload with fixed keys, those of [`samples`](super::samples), and their
//! fuzz functions.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use zeroize::Zeroizing;

use super::samples::keypair;
use crate::channel_frame::{ChannelFrame, Event, Gap, Publish, Reason, Subscribe, Unpublished};
use crate::name::ChannelName;
use crate::revocation::{Revocation, Revocations, Target};
use crate::sealed_channel::{ChannelKey, HandedKey, Place, Sealed, seal};
use crate::time::UnixMs;
use crate::token::{Demand, PermissionToken, Right, Scope, Share, Terms};

const FULL: &str = "sample pairs have their secret half";

/// The channel of the golden token.
///
/// # Panics
/// Never: the name is good.
#[must_use]
pub fn channel() -> ChannelName {
    ChannelName::new("sensors/lidar").expect("a good name")
}

/// When the second grant of the golden token begins.
pub const PASSED_ON: UnixMs = UnixMs::new(1_767_225_601_000);

/// A token of one channel: the first node lets the entity publish, read and pass on, and the entity lets its fork read.
///
/// # Panics
/// Never: sample pairs have their secret half.
#[must_use]
pub fn token() -> PermissionToken {
    let terms = Terms {
        subject: keypair(0x42).entity_id(),
        scope: Scope::Channel(channel()),
        rights: [Right::Publish, Right::Subscribe, Right::Delegate]
            .into_iter()
            .collect(),
        delegations: 2,
    };
    let begin = UnixMs::new(PASSED_ON.get() - 1_000);
    let root = PermissionToken::issue(&keypair(0x11), terms, begin, Duration::from_secs(3_600), [0x66; 16]);
    let share = Share {
        rights: Some([Right::Subscribe].into_iter().collect()),
        ..Share::all(keypair(0x33).entity_id())
    };
    let passed = root.and_then(|root| root.delegate(&keypair(0x42), share, PASSED_ON, [0x77; 16]));
    passed.expect(FULL)
}

/// The first node takes back what the fork of the entity has.
///
/// # Panics
/// Never: sample pairs have their secret half.
#[must_use]
pub fn stated() -> Revocation {
    let target = Target::Subject(keypair(0x33).entity_id());
    Revocation::sign(target, UnixMs::new(PASSED_ON.get() + 500), &keypair(0x11)).expect(FULL)
}

static GOLDEN_TOKEN: LazyLock<Vec<u8>> = LazyLock::new(|| token().to_bytes());

/// [`PermissionToken::decode`]; what is not the golden token, byte by byte, does not permit what it permits.
pub fn permission_token(bytes: &[u8]) {
    let Ok(token) = PermissionToken::decode(bytes) else {
        return;
    };
    assert_eq!(token.to_bytes(), bytes);
    let demand = Demand {
        roots: &BTreeSet::from([keypair(0x11).entity_id()]),
        right: Right::Subscribe,
        channel: &channel(),
        presenter: &keypair(0x33).entity_id(),
        now: PASSED_ON,
        skew: Duration::MAX,
        revocations: &Revocations::default(),
    };
    assert_eq!(token.verify(&demand).is_ok(), *GOLDEN_TOKEN == bytes);
}

/// [`Revocation::decode`]; a set takes in what was signed, and nothing else.
pub fn revocation(bytes: &[u8]) {
    let Ok(revocation) = Revocation::decode(bytes) else {
        return;
    };
    assert_eq!(revocation.to_bytes(), bytes);
    let mut known = Revocations::default();
    assert_eq!(known.add(&revocation).is_ok(), revocation.verify_signature().is_ok());
    assert_eq!(known.add(&revocation).is_ok(), known.len() == 1);
}

/// Key of the golden channel in generation 7.
#[must_use]
pub fn channel_key() -> ChannelKey {
    ChannelKey::new([0x88; 32])
}

/// The key of the golden channel, handed by the first node to the entity.
///
/// # Panics
/// Never: sample pairs have their secret half.
#[must_use]
pub fn handed_key() -> HandedKey {
    let (node, subscriber) = (keypair(0x11), keypair(0x42).entity_id());
    let ephemeral = Zeroizing::new([0x99; 32]);
    HandedKey::seal(&channel_key(), 7, &channel(), &node, &subscriber, &ephemeral).expect(FULL)
}

/// The third payload of the golden channel, sealed.
#[must_use]
pub fn sealed_payload() -> Vec<u8> {
    let place = Place {
        channel: &channel(),
        publisher: &keypair(0x11).entity_id(),
        sequence: 3,
    };
    seal(&channel_key(), 7, &place, b"hot")
}

static HANDED_KEY: LazyLock<HandedKey> = LazyLock::new(handed_key);

/// [`HandedKey::decode`]; what was not handed so is not opened.
pub fn fuzz_handed_key(bytes: &[u8]) {
    let Ok(handed) = HandedKey::decode(bytes) else { return };
    assert_eq!(handed.to_bytes(), bytes);
    assert_eq!(handed.open(&keypair(0x42)).is_ok(), handed == *HANDED_KEY);
}

static SEALED: LazyLock<Vec<u8>> = LazyLock::new(sealed_payload);

/// [`Sealed::decode`]; what was not sealed so is not opened.
pub fn fuzz_sealed_payload(bytes: &[u8]) {
    let Ok(sealed) = Sealed::decode(bytes) else { return };
    assert_eq!(sealed.to_bytes(), bytes);
    let place = Place {
        channel: &channel(),
        publisher: &keypair(0x11).entity_id(),
        sequence: 3,
    };
    assert_eq!(sealed.open(&channel_key(), &place).is_some(), *SEALED == bytes);
}

/// One of each frame of a channel.
///
/// # Panics
/// Never: sample pairs have their secret half.
#[must_use]
pub fn channel_frames() -> Vec<ChannelFrame<'static>> {
    let (channel, subscriber) = (channel(), keypair(0x42).entity_id());
    let nonce = [0xaa; 16];
    let mut subscribe = Subscribe {
        nonce,
        channel: channel.clone(),
        subscriber,
        epoch: 2,
        after: Some((5, 3)),
        group: Some(ChannelName::new("pagers").expect("a good name")),
        token: token().to_bytes(),
        proof: None,
    };
    let plain = Subscribe {
        after: None,
        group: None,
        token: Vec::new(),
        ..subscribe.clone()
    };
    let (node, publisher) = (keypair(0x22).entity_id(), keypair(0x11).entity_id());
    subscribe.sign(&keypair(0x42), &node, &publisher).expect(FULL);
    let event = Event {
        sequence: 3,
        emitter: Some(keypair(0x33).entity_id()),
        sealed: false,
        payload: b"hot",
    };
    let own = Event {
        emitter: None,
        sealed: true,
        payload: b"",
        ..event
    };
    let reason = Reason::Unauthorized;
    let numbers = Gap { first: 4, last: 9 };
    vec![
        ChannelFrame::Subscribe(subscribe),
        ChannelFrame::Subscribe(plain),
        ChannelFrame::Accepted { nonce, log: 5, next: 4 },
        ChannelFrame::Rejected { nonce, reason },
        ChannelFrame::Leave {
            nonce,
            channel: channel.clone(),
            subscriber,
        },
        ChannelFrame::Left { nonce },
        ChannelFrame::Event {
            channel: channel.clone(),
            log: 5,
            event,
        },
        ChannelFrame::Turn {
            channel: channel.clone(),
            subscriber,
            term: 6,
            turn: 7,
            event: own,
        },
        ChannelFrame::Gap {
            channel: channel.clone(),
            log: 5,
            gap: numbers,
        },
        ChannelFrame::Head {
            channel: channel.clone(),
            log: 5,
            last: 9,
        },
        ChannelFrame::Repair {
            channel: channel.clone(),
            subscriber,
            log: 5,
            numbers,
        },
        ChannelFrame::Taken {
            channel: channel.clone(),
            subscriber,
            term: 6,
            turn: 7,
        },
        ChannelFrame::Ended {
            channel: channel.clone(),
            subscriber,
            reason: Reason::Closed,
        },
        ChannelFrame::AskKey { channel, subscriber },
    ]
}

/// Each of [`channel_frames`] after its length as a 32-bit number.
#[must_use]
pub fn channel_frame_bytes() -> Vec<u8> {
    after_lengths(channel_frames())
}

/// One of each frame about what is published on a channel of another node.
///
/// # Panics
/// Never: sample pairs have their secret half.
#[must_use]
pub fn publish_frames() -> Vec<ChannelFrame<'static>> {
    let nonce = [0xaa; 16];
    let mut publish = Publish {
        nonce,
        channel: channel(),
        publisher: keypair(0x42).entity_id(),
        token: token().to_bytes(),
        proof: None,
        payload: b"hot",
    };
    let plain = Publish {
        token: Vec::new(),
        payload: b"",
        ..publish.clone()
    };
    let (node, owner) = (keypair(0x22).entity_id(), keypair(0x11).entity_id());
    publish.sign(&keypair(0x42), &node, &owner).expect(FULL);
    let reasons = [
        Unpublished::Refused(Reason::Unauthorized),
        Unpublished::Refused(Reason::RateLimited),
        Unpublished::Refused(Reason::TooMany),
        Unpublished::Refused(Reason::Closed),
        Unpublished::TooLarge,
        Unpublished::Forgotten,
    ];
    let mut frames = vec![
        ChannelFrame::Publish(publish),
        ChannelFrame::Publish(plain),
        ChannelFrame::Published { nonce, sequence: 3 },
    ];
    frames.extend(reasons.map(|reason| ChannelFrame::NotPublished { nonce, reason }));
    frames
}

/// Each of [`publish_frames`] after its length as a 32-bit number.
#[must_use]
pub fn publish_frame_bytes() -> Vec<u8> {
    after_lengths(publish_frames())
}

fn after_lengths(frames: Vec<ChannelFrame<'_>>) -> Vec<u8> {
    let framed = |frame: ChannelFrame<'_>| {
        let bytes = frame.to_bytes();
        let length = u32::try_from(bytes.len()).expect("small");
        [&length.to_le_bytes()[..], &bytes].concat()
    };
    frames.into_iter().flat_map(framed).collect()
}

/// [`ChannelFrame::decode`] of each frame after its length, and of the bytes as one frame.
pub fn fuzz_channel_frames(bytes: &[u8]) {
    let one = |bytes: &[u8]| {
        if let Ok(frame) = ChannelFrame::decode(bytes) {
            assert_eq!(frame.to_bytes(), bytes);
        }
    };
    one(bytes);
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some((frame, after)) = after.split_at_checked(length) else {
            return;
        };
        one(frame);
        rest = after;
    }
}
