//! Fork records: descent that both sides signed.

use meshos_core::chain::{CausalChainBuilder, ChainError};
use meshos_core::codec::Fault;
use meshos_core::digest::{self, Digest};
use meshos_core::fork::{ForkRecord, fork_entity};
use meshos_core::identity::{IdentityError, Keypair};
use meshos_core::testing::samples::keypair;
use proptest::prelude::*;

use crate::support::{assert_exact, digests, fault, patched};

fn record(from_snapshot: Option<u64>) -> ForkRecord {
    let digest = Digest::from_bytes([5; 32]);
    fork_entity(&keypair(1), &keypair(2), 42, &digest, from_snapshot)
        .expect("full pairs")
        .0
}

#[test]
fn a_child_begins_at_a_genesis_that_names_its_descent() {
    let digest = Digest::from_bytes([5; 32]);
    let (record, chain) = fork_entity(&keypair(1), &keypair(2), 42, &digest, None).expect("full pairs");
    let child = keypair(2).entity_id();
    let lineage = digest::fork_lineage(&keypair(1).entity_id(), 42, &digest, &child);
    assert_eq!(record.lineage(), lineage);
    assert_eq!(
        (chain.sequence(), chain.head().parent, chain.head().horizon),
        (0, lineage.head8(), 0)
    );
    assert_eq!(chain.digest(), digest::genesis(&child, &lineage));
    assert_ne!(chain.digest(), CausalChainBuilder::new(child).digest());
    assert_eq!(record.verify(), Ok(()));
}

#[test]
fn both_sides_must_be_able_to_sign() {
    let public = Keypair::public_only(keypair(1).entity_id());
    for (parent, child) in [(&public, &keypair(2)), (&keypair(2), &public)] {
        let refused = fork_entity(parent, child, 1, &Digest::ZERO, None).map(drop);
        assert_eq!(refused, Err(IdentityError::ReadOnly));
    }
}

#[test]
fn an_operator_may_sign_for_the_parent() {
    let operator = keypair(9);
    let mut by_operator = record(None);
    by_operator.signer = operator.entity_id();
    assert!(by_operator.verify().is_err());
    let message = [
        b"meshos 2026 fork v1\0",
        &by_operator.to_bytes()[..ForkRecord::SIZE - 128],
    ]
    .concat();
    by_operator.signatures = [&operator, &keypair(2)].map(|pair| pair.sign(&message).expect("a full pair"));
    assert_eq!(by_operator.verify(), Ok(()));
}

#[test]
fn every_flipped_bit_is_refused_while_reading() {
    for record in [record(None), record(Some(41))] {
        let bytes = record.to_bytes();
        assert_eq!(ForkRecord::decode(&bytes), Ok(record));
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(ForkRecord::decode(&flipped).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn records_that_make_no_sense_are_refused() {
    let bytes = record(None).to_bytes();
    let snapshot_at = 2 + 32 + 32 + 8 + 32;
    let cases = [
        (patched(&bytes, 0, &[2]), Fault::NewerVersion { found: 2, known: 1 }),
        (patched(&bytes, 1, &[2]), Fault::Invalid { field: "snapshot flag" }),
        (
            patched(&bytes, snapshot_at, &[1]),
            Fault::Invalid {
                field: "snapshot sequence",
            },
        ),
        (
            record(Some(43)).to_bytes(),
            Fault::Invalid {
                field: "fork record: snapshot after the fork",
            },
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(fault(ForkRecord::decode(&bytes)), expected);
    }
    let (own, _) = fork_entity(&keypair(1), &keypair(1), 1, &Digest::ZERO, None).expect("a full pair");
    let origin = keypair(1).origin();
    let what = "fork record: child is the parent";
    assert_eq!(
        own.verify(),
        Err(ChainError::BadSignature {
            origin,
            sequence: 1,
            what
        })
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_record_survives_its_wire_form(
        sequence: u64, digest in digests(), from_snapshot: Option<u64>, seeds: [u8; 2],
    ) {
        prop_assume!(seeds[0] != seeds[1]);
        let from_snapshot = from_snapshot.map(|snapshot| snapshot.min(sequence));
        let (parent, child) = (keypair(seeds[0]), keypair(seeds[1]));
        let (record, _) = fork_entity(&parent, &child, sequence, &digest, from_snapshot).expect("full pairs");
        let bytes = record.to_bytes();
        prop_assert_eq!(ForkRecord::decode(&bytes), Ok(record));
        assert_exact(&bytes, 0, ForkRecord::decode);
    }
}
