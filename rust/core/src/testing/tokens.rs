//! A permission token, a revocation and a sealed payload with fixed keys, those of [`samples`](super::samples), and their
//! fuzz functions.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use zeroize::Zeroizing;

use super::samples::keypair;
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
