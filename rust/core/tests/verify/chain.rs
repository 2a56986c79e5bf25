//! The builder.

use meshos_core::chain::{BrokenKind, CausalChainBuilder, ChainError};
use meshos_core::digest::{self, Digest};
use meshos_core::link::CausalLink;
use meshos_core::testing::samples::keypair;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::story::Story;

#[test]
fn a_chain_begins_at_a_virtual_genesis() {
    let id = keypair(1).entity_id();
    let chain = CausalChainBuilder::new(id);
    let genesis = CausalLink {
        origin: id.origin(),
        horizon: 0,
        sequence: 0,
        parent: 0,
    };
    assert_eq!((chain.head(), chain.sequence(), chain.entity()), (genesis, 0, id));
    assert_eq!(chain.digest(), digest::genesis(&id, &Digest::ZERO));
}

#[test]
fn a_head_of_another_entity_is_refused() {
    let head = CausalChainBuilder::new(keypair(1).entity_id()).head();
    let other = keypair(2).entity_id();
    let refused = CausalChainBuilder::from_head(other, head, Digest::ZERO).map(drop);
    let (expected, found) = (other.origin().get(), head.origin.get());
    let kind = BrokenKind::WrongOrigin;
    assert_eq!(
        refused,
        Err(ChainError::Broken {
            kind,
            origin: other.origin(),
            sequence: 0,
            expected,
            found
        })
    );
}

#[test]
fn the_last_number_can_be_used_and_then_the_chain_is_full() {
    let id = keypair(1).entity_id();
    let head = CausalLink {
        sequence: u64::MAX - 1,
        ..CausalChainBuilder::new(id).head()
    };
    let mut chain = CausalChainBuilder::from_head(id, head, Digest::ZERO).expect("own head");
    assert_eq!(chain.append(b"last", 0).map(|link| link.sequence), Ok(u64::MAX));
    let before = (chain.head(), chain.digest());
    assert_eq!(
        chain.append(b"one too many", 0),
        Err(ChainError::Exhausted { origin: id.origin() })
    );
    assert_eq!((chain.head(), chain.digest()), before);
}

#[test]
fn messages_carry_the_values() {
    let origin = meshos_core::id::Origin::new(7);
    let message = |kind| {
        ChainError::Broken {
            kind,
            origin,
            sequence: 4,
            expected: 4,
            found: 6,
        }
        .to_string()
    };
    assert_eq!(
        message(BrokenKind::Gap),
        "origin 0000000000000007: expected sequence 4, found 6"
    );
    for kind in [
        BrokenKind::Altered,
        BrokenKind::Forked,
        BrokenKind::WrongOrigin,
        BrokenKind::Receipt,
    ] {
        assert!(message(kind).contains('4') && message(kind).contains('6') && !message(kind).ends_with('.'));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_appended_verifies_and_is_described(
        payloads in vec(vec(any::<u8>(), 0..80), 0..20), checkpoints in vec(any::<bool>(), 20), long in 0..40_000_usize,
    ) {
        let node = keypair(1);
        let mut story = Story::spawned(&node);
        let mut signed = 0;
        for (payload, checkpoint) in payloads.iter().zip(checkpoints) {
            story.emit(payload);
            if checkpoint {
                story.checkpoint(1, &node);
                signed = story.chain.sequence();
            }
        }
        story.emit(&vec![0xa5; long]);
        let claims: Vec<_> = (0..story.digests.len()).map(|sequence| story.claim(sequence)).collect();
        let report = story.verify_with(&claims).expect("a good chain");
        prop_assert_eq!(report.events, payloads.len() as u64 + 1);
        prop_assert_eq!((report.first_sequence, report.last_sequence), (1, payloads.len() as u64 + 1));
        prop_assert_eq!(report.signed_through, signed);
        prop_assert_eq!(report.digest, story.chain.digest());
    }

    #[test]
    fn a_continued_chain_is_the_same_chain(payloads in vec(vec(any::<u8>(), 0..80), 1..12), at: prop::sample::Index) {
        let id = keypair(1).entity_id();
        let mut whole = CausalChainBuilder::new(id);
        let mut parted = whole.clone();
        let at = at.index(payloads.len());
        for (index, payload) in payloads.iter().enumerate() {
            if index == at {
                parted = CausalChainBuilder::from_head(id, parted.head(), parted.digest()).expect("own head");
            }
            let horizon = index as u64;
            prop_assert_eq!(whole.append(payload, horizon), parted.append(payload, horizon));
        }
        prop_assert_eq!(whole.digest(), parted.digest());
    }

    #[test]
    fn two_histories_never_share_a_digest(one: Vec<u8>, other: Vec<u8>, horizons: [u64; 2]) {
        prop_assume!(one != other || horizons[0] != horizons[1]);
        let start = CausalChainBuilder::new(keypair(1).entity_id());
        let (mut first, mut second) = (start.clone(), start);
        first.append(&one, horizons[0]).expect("not full");
        second.append(&other, horizons[1]).expect("not full");
        prop_assert_ne!(first.digest(), second.digest());
    }
}
