//! Links, certificates, checkpoints and counters: records of a fixed size.

use meshos_core::certificate::{Certificate, Reason, Statement};
use meshos_core::checkpoint::Checkpoint;
use meshos_core::codec::{Fault, Reader};
use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::identity::{IdentityError, Keypair};
use meshos_core::link::CausalLink;
use meshos_core::stats::DaemonStats;
use meshos_core::testing::samples::keypair;
use meshos_core::time::UnixMs;
use proptest::prelude::*;

use crate::support::{assert_exact, certificates, checkpoints, fault, links, patched};

fn statement() -> Statement {
    Statement {
        entity: keypair(1).entity_id(),
        epoch: 7,
        node: keypair(2).entity_id(),
        from_sequence: 9,
        digest: Digest::from_bytes([5; 32]),
        reason: Reason::Move,
    }
}

fn checkpoint(node: &Keypair) -> Checkpoint {
    let (entity, digest) = (keypair(1).entity_id(), Digest::from_bytes([5; 32]));
    Checkpoint::sign(entity, 7, 9, digest, UnixMs::new(11), Digest::ZERO, node).expect("a full pair")
}

#[test]
fn sizes_are_the_documented_ones() {
    assert_eq!([CausalLink::SIZE, Certificate::SIZE, Checkpoint::SIZE], [32, 210, 185]);
}

#[test]
fn fields_of_a_link_are_little_endian_in_order() {
    let bytes: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).expect("small"));
    let link = CausalLink::from_bytes(&bytes);
    assert_eq!(link.origin.get(), 0x0706_0504_0302_0100);
    assert_eq!(link.horizon, 0x0f0e_0d0c_0b0a_0908);
    assert_eq!(link.sequence, 0x1716_1514_1312_1110);
    assert_eq!(link.parent, 0x1f1e_1d1c_1b1a_1918);
}

#[test]
fn a_certificate_of_a_public_half_is_not_made() {
    let refused = Certificate::sign(statement(), &Keypair::public_only(keypair(2).entity_id()));
    assert_eq!(refused, Err(IdentityError::ReadOnly));
}

#[test]
fn every_flipped_bit_of_a_certificate_breaks_its_signature() {
    let bytes = Certificate::sign(statement(), &keypair(3))
        .expect("a full pair")
        .to_bytes();
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(certificate) = Certificate::decode(&flipped) {
            assert!(certificate.verify_signature().is_err(), "bit {bit}");
        }
    }
}

#[test]
fn every_flipped_bit_of_a_checkpoint_breaks_its_signature_and_changes_its_digest() {
    let node = keypair(2);
    let whole = checkpoint(&node);
    let bytes = whole.to_bytes();
    assert_eq!(whole.verify_signature(&node.entity_id()), Ok(()));
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(checkpoint) = Checkpoint::decode(&flipped) {
            assert!(checkpoint.verify_signature(&node.entity_id()).is_err(), "bit {bit}");
            assert_ne!(checkpoint.digest_of(), whole.digest_of(), "bit {bit}");
        }
    }
}

#[test]
fn a_checkpoint_is_only_of_the_node_that_signed() {
    let refused = checkpoint(&keypair(2)).verify_signature(&keypair(3).entity_id());
    assert_eq!(refused, Err(IdentityError::InvalidSignature));
    let no_key = EntityId::from_bytes([0; 32]);
    assert_eq!(
        checkpoint(&keypair(2)).verify_signature(&no_key),
        Err(IdentityError::InvalidPublicKey)
    );
}

#[test]
fn a_signature_of_one_record_is_none_of_another() {
    // Each signed message begins with the name of its format.
    let (entity, node) = (keypair(1), keypair(2));
    let certificate = Certificate::sign(statement(), &node).expect("a full pair");
    let body = &certificate.to_bytes()[..Certificate::SIZE - 64];
    let mut forged = certificate;
    forged.signature = node.sign(body).expect("a full pair");
    assert!(forged.verify_signature().is_err());
    let mut forged = checkpoint(&entity);
    forged.signature = entity
        .sign(&forged.to_bytes()[..Checkpoint::SIZE - 64])
        .expect("a full pair");
    assert!(forged.verify_signature(&entity.entity_id()).is_err());
}

#[test]
fn unknown_versions_and_reasons_are_refused() {
    let certificate = Certificate::sign(statement(), &keypair(3))
        .expect("a full pair")
        .to_bytes();
    let checkpoint = checkpoint(&keypair(2)).to_bytes();
    let newer = Fault::NewerVersion { found: 2, known: 1 };
    let never = Fault::Invalid { field: "version" };
    assert_eq!(fault(Certificate::decode(&patched(&certificate, 0, &[2]))), newer);
    assert_eq!(fault(Certificate::decode(&patched(&certificate, 0, &[0]))), never);
    assert_eq!(fault(Checkpoint::decode(&patched(&checkpoint, 0, &[2]))), newer);
    assert_eq!(fault(Checkpoint::decode(&patched(&checkpoint, 0, &[0]))), never);
    for reason in [0, 5, 255] {
        let refused = Certificate::decode(&patched(&certificate, 1, &[reason])).expect_err("no such reason");
        assert_eq!((refused.offset, refused.fault), (1, Fault::Invalid { field: "reason" }));
    }
}

proptest! {
    #[test]
    fn a_link_survives_its_wire_form(link in links()) {
        let bytes = link.to_bytes();
        prop_assert_eq!(CausalLink::decode(&bytes), Ok(link));
        assert_exact(&bytes, 0, CausalLink::decode);
    }

    #[test]
    fn a_certificate_survives_its_wire_form(certificate in certificates(keypair(1).entity_id())) {
        let bytes = certificate.to_bytes();
        prop_assert_eq!(bytes.len(), Certificate::SIZE);
        prop_assert_eq!(Certificate::decode(&bytes), Ok(certificate));
        assert_exact(&bytes, 0, Certificate::decode);
    }

    #[test]
    fn a_checkpoint_survives_its_wire_form(checkpoint in checkpoints()) {
        let bytes = checkpoint.to_bytes();
        prop_assert_eq!(bytes.len(), Checkpoint::SIZE);
        prop_assert_eq!(Checkpoint::decode(&bytes), Ok(checkpoint));
        assert_exact(&bytes, 0, Checkpoint::decode);
    }

    #[test]
    fn counters_survive_their_wire_form(bytes: [u8; 56], cut in 0..48_usize) {
        let stats = DaemonStats::read_to_end(Reader::new(&bytes[..48])).expect("every 48 bytes are counters");
        prop_assert_eq!(stats.encode(), &bytes[..48]);
        prop_assert!(DaemonStats::read_to_end(Reader::new(&bytes[..cut])).is_err());
        let with_letters = DaemonStats::read_to_end(Reader::new(&bytes));
        prop_assert_eq!(with_letters.is_ok(), bytes[48..] != [0; 8]);
        if let Ok(stats) = with_letters {
            prop_assert_eq!(stats.encode(), bytes);
        }
    }
}
