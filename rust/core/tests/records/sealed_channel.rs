//! Sealed payloads and the keys handed out for them.

use std::collections::BTreeSet;

use meshos_core::codec::Fault;
use meshos_core::id::EntityId;
use meshos_core::identity::{IdentityError, Keypair};
use meshos_core::name::ChannelName;
use meshos_core::sealed_channel::{
    ChannelKey, GENERATIONS_MAX, HandedKey, KEY_SIZE, Keyring, NotOpened, NotTaken, Place, SEAL_SIZE, Sealed, seal,
};
use meshos_core::testing::samples::keypair;
use proptest::prelude::*;
use zeroize::Zeroizing;

use crate::support::{assert_exact, fault, patched};

const NODE: u8 = 1;
const READER: u8 = 2;

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).expect("a good name")
}

fn key(byte: u8) -> ChannelKey {
    ChannelKey::new([byte; KEY_SIZE])
}

fn handed(generation: u64, byte: u8) -> HandedKey {
    let (node, reader) = (keypair(NODE), keypair(READER).entity_id());
    let ephemeral = Zeroizing::new([byte; 32]);
    HandedKey::seal(&key(byte), generation, &name("a/b"), &node, &reader, &ephemeral).expect("full keys")
}

fn keyring() -> Keyring {
    Keyring::new(keypair(NODE).entity_id(), name("a/b"))
}

fn sealed(byte: u8, generation: u64, sequence: u64, payload: &[u8]) -> Vec<u8> {
    let (channel, publisher) = (name("a/b"), keypair(NODE).entity_id());
    let place = Place {
        channel: &channel,
        publisher: &publisher,
        sequence,
    };
    seal(&key(byte), generation, &place, payload)
}

#[test]
fn a_reader_with_the_key_opens_what_was_sealed() {
    let mut keys = keyring();
    assert_eq!(keys.take(&handed(7, 9), &keypair(READER)), Ok(true));
    assert_eq!(keys.take(&handed(7, 9), &keypair(READER)), Ok(false));
    for payload in [&b""[..], b"hot", &[0xa5; 3000]] {
        let bytes = sealed(9, 7, 41, payload);
        assert_eq!(bytes.len(), payload.len() + SEAL_SIZE);
        assert_eq!(keys.open(41, &bytes).as_deref(), Ok(payload));
    }
}

#[test]
fn a_payload_opens_only_where_it_was_sealed() {
    let mut keys = keyring();
    keys.take(&handed(7, 9), &keypair(READER)).expect("ours");
    let bytes = sealed(9, 7, 41, b"hot");
    let forged = Err(NotOpened::Forged { generation: 7 });
    assert_eq!(keys.open(40, &bytes), forged);
    let read = Sealed::decode(&bytes).expect("in form");
    let (channel, publisher) = (name("a/b"), keypair(NODE).entity_id());
    let place = Place {
        channel: &channel,
        publisher: &publisher,
        sequence: 41,
    };
    assert_eq!(read.open(&key(9), &place).as_deref(), Some(&b"hot"[..]));
    assert_eq!(read.open(&key(8), &place), None);
    let (elsewhere, another) = (name("a/c"), keypair(3).entity_id());
    assert_eq!(
        read.open(
            &key(9),
            &Place {
                channel: &elsewhere,
                ..place
            }
        ),
        None
    );
    assert_eq!(
        read.open(
            &key(9),
            &Place {
                publisher: &another,
                ..place
            }
        ),
        None
    );
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(keys.open(41, &flipped).is_err(), "bit {bit}");
    }
    for end in 0..bytes.len() {
        assert!(keys.open(41, &bytes[..end]).is_err());
    }
    assert_eq!(keys.open(41, &[&bytes[..], b"x"].concat()), forged);
}

/// A publisher that forgot its numbers does not take one nonce for two payloads.
#[test]
fn a_number_used_twice_is_no_nonce_used_twice() {
    let nonces: BTreeSet<Vec<u8>> = (0..200u32)
        .map(|number| sealed(9, 7, 1, &number.to_le_bytes())[9..33].to_vec())
        .collect();
    assert_eq!(nonces.len(), 200);
    assert_eq!(sealed(9, 7, 1, b"hot"), sealed(9, 7, 1, b"hot"));
    let other = [
        sealed(8, 7, 1, b"hot"),
        sealed(9, 8, 1, b"hot"),
        sealed(9, 7, 2, b"hot"),
    ];
    for other in other {
        assert_ne!(other[9..], sealed(9, 7, 1, b"hot")[9..]);
    }
}

#[test]
fn a_handed_key_is_for_one_subscriber_of_one_channel_of_one_publisher() {
    let handed = handed(7, 9);
    assert_eq!(handed.open(&keypair(3)).map(drop), Err(NotTaken::NotForUs));
    let public = Keypair::public_only(keypair(READER).entity_id());
    assert_eq!(
        handed.open(&public).map(drop),
        Err(NotTaken::Identity(IdentityError::ReadOnly))
    );
    let mut elsewhere = [
        Keyring::new(keypair(3).entity_id(), name("a/b")),
        Keyring::new(keypair(NODE).entity_id(), name("a/b/c")),
    ];
    for keys in &mut elsewhere {
        assert_eq!(keys.take(&handed, &keypair(READER)), Err(NotTaken::WrongChannel));
        assert_eq!(keys.generations().count(), 0);
    }
    // A stranger signs with its own key, under the publisher's name.
    let reader = keypair(READER).entity_id();
    let ephemeral = Zeroizing::new([1; 32]);
    let theirs = HandedKey::seal(&key(9), 7, &name("a/b"), &keypair(3), &reader, &ephemeral).expect("full keys");
    let forged = patched(&theirs.to_bytes(), 1, keypair(NODE).entity_id().as_bytes());
    let forged = HandedKey::decode(&forged).expect("in form");
    let refused = Err(NotTaken::Identity(IdentityError::InvalidSignature));
    assert_eq!(keyring().take(&forged, &keypair(READER)), refused);
}

#[test]
fn who_cannot_sign_or_be_sealed_for_gets_nothing() {
    let ephemeral = Zeroizing::new([1; 32]);
    let hand = |node: &Keypair, reader: &EntityId| {
        HandedKey::seal(&key(9), 7, &name("a/b"), node, reader, &ephemeral).map(drop)
    };
    let reader = keypair(READER).entity_id();
    let public = Keypair::public_only(keypair(NODE).entity_id());
    assert_eq!(hand(&public, &reader), Err(IdentityError::ReadOnly));
    for none in [[0; 32], [0xff; 32]] {
        let none = EntityId::from_bytes(none);
        assert_eq!(hand(&keypair(NODE), &none), Err(IdentityError::InvalidPublicKey));
    }
    // A public key of small order would make a secret that everybody knows.
    assert_eq!(
        keypair(READER).agree(&[0; 32]).map(drop),
        Err(IdentityError::InvalidPublicKey)
    );
}

#[test]
fn handed_keys_are_exact() {
    let handed = handed(7, 9);
    let bytes = handed.to_bytes();
    assert_eq!(HandedKey::decode(&bytes).as_ref(), Ok(&handed));
    assert_exact(&bytes, 0, HandedKey::decode);
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let refused = HandedKey::decode(&flipped).map_or(true, |key| key.open(&keypair(READER)).is_err());
        assert!(refused, "bit {bit}");
    }
    let invalid = |at, new: &[u8]| fault(HandedKey::decode(&patched(&bytes, at, new)));
    assert_eq!(invalid(0, &[0]), Fault::Invalid { field: "version" });
    assert_eq!(invalid(0, &[2]), Fault::NewerVersion { found: 2, known: 1 });
    assert_eq!(invalid(74, b"A"), Fault::Invalid { field: "channel name" });
    assert_eq!(
        fault(Sealed::decode(&sealed(9, 7, 1, b"")[..SEAL_SIZE - 1])),
        Fault::Truncated { needed: 1 }
    );
}

#[test]
fn a_key_is_shown_nowhere() {
    let mut keys = keyring();
    keys.take(&handed(7, 0x42), &keypair(READER)).expect("ours");
    let shown = format!("{:?} {keys:?}", key(0x42));
    assert!(
        shown.contains("ChannelKey") && !shown.contains("66, 66") && !shown.contains("4242"),
        "{shown}"
    );
}

#[test]
fn a_generation_has_one_key_and_the_oldest_are_forgotten() {
    let (mut keys, reader) = (keyring(), keypair(READER));
    let conflict = Err(NotTaken::Conflict { generation: 7 });
    assert_eq!(keys.take(&handed(7, 9), &reader), Ok(true));
    assert_eq!(keys.take(&handed(7, 8), &reader), conflict);
    for generation in [9, 8, 10, 11] {
        assert_eq!(keys.take(&handed(generation, 1), &reader), Ok(true));
    }
    assert_eq!(keys.generations().collect::<Vec<_>>(), [8, 9, 10, 11]);
    // What was forgotten does not come back, not even with another key.
    let old = Err(NotTaken::Old { generation: 7 });
    assert_eq!(keys.take(&handed(7, 9), &reader), old);
    assert_eq!(keys.take(&handed(7, 8), &reader), old);
    let unknown = Err(NotOpened::UnknownGeneration { generation: 7 });
    assert_eq!(keys.open(1, &sealed(9, 7, 1, b"late")), unknown);
}

proptest! {
    /// Whatever keys come in whatever order, the newest are known, and each opens what was sealed under it.
    #[test]
    fn the_newest_generations_are_known(order in prop::collection::vec(1u64..9, 1..16)) {
        let (mut keys, reader) = (keyring(), keypair(READER));
        let mut known: BTreeSet<u64> = BTreeSet::new();
        let mut first = 0;
        for generation in order {
            let byte = u8::try_from(generation).expect("small");
            let expected = if generation < first {
                Err(NotTaken::Old { generation })
            } else {
                Ok(known.insert(generation))
            };
            prop_assert_eq!(keys.take(&handed(generation, byte), &reader), expected);
            while known.len() > GENERATIONS_MAX {
                known.pop_first();
            }
            if known.len() == GENERATIONS_MAX {
                first = *known.first().expect("it is full");
            }
            prop_assert_eq!(keys.generations().collect::<BTreeSet<_>>(), known.clone());
        }
        for generation in 1..9 {
            let byte = u8::try_from(generation).expect("small");
            let opened = keys.open(3, &sealed(byte, generation, 3, b"hot"));
            prop_assert_eq!(opened.is_ok(), known.contains(&generation));
        }
    }
}
