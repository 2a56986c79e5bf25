//! Revocations: signed statements, and the bounded set of them.

use meshos_core::codec::Fault;
use meshos_core::digest::Digest;
use meshos_core::identity::{IdentityError, Keypair};
use meshos_core::revocation::{NotRevoked, Revocation, Revocations, Target};
use meshos_core::testing::samples::keypair;
use meshos_core::time::UnixMs;
use proptest::prelude::*;

use crate::support::{assert_exact, fault, patched};

const TOKEN: Digest = Digest::from_bytes([5; 32]);

fn statement(target: Target, at: u64) -> Revocation {
    Revocation::sign(target, UnixMs::new(at), &keypair(1)).expect("a full pair")
}

fn of_subject(byte: u8, at: u64) -> Revocation {
    statement(Target::Subject(keypair(byte).entity_id()), at)
}

fn revokes(known: &Revocations, subject: u8, token: &Digest, issued: u64) -> bool {
    let issuer = keypair(1).entity_id();
    known.revokes(&issuer, &keypair(subject).entity_id(), token, UnixMs::new(issued))
}

#[test]
fn what_is_written_is_read_and_nothing_else() {
    for target in [
        Target::Token(TOKEN),
        Target::Subject(keypair(2).entity_id()),
        Target::Everything,
    ] {
        let stated = statement(target, 7);
        let bytes = stated.to_bytes();
        assert_eq!((bytes.len(), Revocation::SIZE), (138, 138));
        assert_eq!(Revocation::decode(&bytes), Ok(stated));
        assert_eq!(stated.verify_signature(), Ok(()));
        assert_exact(&bytes, 0, Revocation::decode);
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let refused = Revocation::decode(&flipped).map_or(true, |stated| stated.verify_signature().is_err());
            assert!(refused, "bit {bit}");
        }
    }
    let bytes = statement(Target::Everything, 7).to_bytes();
    let invalid = |field| Fault::Invalid { field };
    assert_eq!(fault(Revocation::decode(&patched(&bytes, 0, &[0]))), invalid("version"));
    assert_eq!(fault(Revocation::decode(&patched(&bytes, 1, &[0]))), invalid("target"));
    assert_eq!(fault(Revocation::decode(&patched(&bytes, 1, &[4]))), invalid("target"));
    assert_eq!(fault(Revocation::decode(&patched(&bytes, 40, &[1]))), invalid("what"));
}

#[test]
fn only_a_full_pair_takes_back() {
    let public = Keypair::public_only(keypair(1).entity_id());
    let refused = Revocation::sign(Target::Everything, UnixMs::new(1), &public);
    assert_eq!(refused, Err(IdentityError::ReadOnly));
}

#[test]
fn a_statement_that_was_not_signed_changes_nothing() {
    let mut known = Revocations::default();
    let mut forged = of_subject(2, 7);
    forged.issuer = keypair(3).entity_id();
    let refused = NotRevoked::Signature(IdentityError::InvalidSignature);
    assert_eq!(known.add(&forged), Err(refused));
    assert!(known.is_empty());
}

#[test]
fn each_target_takes_back_what_it_names() {
    let other = Digest::from_bytes([6; 32]);
    let mut known = Revocations::default();
    assert_eq!(known.add(&statement(Target::Token(TOKEN), 7)), Ok(true));
    assert!(revokes(&known, 2, &TOKEN, 7) && !revokes(&known, 2, &other, 7));

    let mut known = Revocations::default();
    assert_eq!(known.add(&of_subject(2, 7)), Ok(true));
    assert!(revokes(&known, 2, &TOKEN, 7) && !revokes(&known, 2, &TOKEN, 8) && !revokes(&known, 3, &TOKEN, 7));

    let mut known = Revocations::default();
    assert_eq!(known.add(&statement(Target::Everything, 7)), Ok(true));
    assert!(revokes(&known, 2, &TOKEN, 7) && revokes(&known, 3, &other, 1) && !revokes(&known, 3, &other, 8));
    let stranger = keypair(9).entity_id();
    assert!(!known.revokes(&stranger, &keypair(2).entity_id(), &TOKEN, UnixMs::new(1)));
}

#[test]
fn what_is_full_refuses_what_is_new_and_nothing_else() {
    let mut known = Revocations::bounded(2, 2);
    for subject in [2, 3] {
        assert_eq!(known.add(&of_subject(subject, 7)), Ok(true));
    }
    assert_eq!(known.add(&of_subject(4, 7)), Err(NotRevoked::Full { max: 2 }));
    assert_eq!(known.add(&of_subject(3, 9)), Ok(true));
    assert_eq!(known.add(&of_subject(3, 9)), Ok(false));
    assert_eq!(known.len(), 2);
    // Everything takes the place of what was said before.
    assert_eq!(known.add(&statement(Target::Everything, 8)), Ok(true));
    assert_eq!(known.len(), 2);
    assert!(revokes(&known, 2, &TOKEN, 8) && revokes(&known, 3, &TOKEN, 9) && !revokes(&known, 4, &TOKEN, 9));
    assert_eq!(known.add(&of_subject(2, 8)), Ok(false));

    let mut known = Revocations::bounded(9, 1);
    assert_eq!(known.add(&of_subject(2, 7)), Ok(true));
    assert_eq!(known.add(&of_subject(3, 7)), Err(NotRevoked::Full { max: 1 }));
    let another = Revocation::sign(Target::Everything, UnixMs::new(7), &keypair(8)).expect("a full pair");
    assert_eq!(known.add(&another), Ok(true));
}

#[test]
fn what_still_matters_is_not_forgotten() {
    const DAY: u64 = 86_400_000;
    let mut known = Revocations::default();
    known.add(&of_subject(2, DAY)).expect("signed");
    known.add(&of_subject(3, 9 * DAY)).expect("signed");
    assert_eq!(known.forget(UnixMs::new(367 * DAY - 1)), 0);
    assert_eq!(known.forget(UnixMs::new(367 * DAY)), 1);
    assert_eq!(known.iter().collect::<Vec<_>>(), [of_subject(3, 9 * DAY)]);
}

proptest! {
    /// Whatever comes, in whatever order and however often: a floor never goes down.
    #[test]
    fn what_was_revoked_stays_revoked(
        said in prop::collection::vec((0u8..3, 0u8..3, 1u64..9), 1..20), bound in 1usize..6,
    ) {
        let mut known = Revocations::bounded(bound, bound);
        let mut before: Vec<(u8, u8, u64)> = Vec::new();
        for (sort, which, at) in said {
            let target = match sort {
                0 => Target::Token(Digest::from_bytes([which; 32])),
                1 => Target::Subject(keypair(which).entity_id()),
                _ => Target::Everything,
            };
            let taken = known.add(&statement(target, at)).is_ok();
            prop_assert!(known.len() <= bound);
            // A token begins before it is taken back.
            if taken {
                before.push((sort, which, at));
            }
            for &(sort, which, at) in &before {
                let token = Digest::from_bytes([if sort == 0 { which } else { 99 }; 32]);
                let subject = if sort == 1 { which } else { 99 };
                prop_assert!(revokes(&known, subject, &token, at));
            }
            let mut again = known.clone();
            for stated in known.iter() {
                prop_assert_eq!(again.add(&stated), Ok(false));
            }
            prop_assert_eq!(&again, &known);
        }
    }
}
