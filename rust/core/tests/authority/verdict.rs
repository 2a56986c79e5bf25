//! Who is obeyed, and once only.

use std::collections::BTreeSet;
use std::time::Duration;

use meshos_core::authority::{
    Bucket, Ledger, Operator, Operators, OperatorsError, Policy, Refused, Role, check_admin, check_ice,
};
use meshos_core::blast::BlastRadius;
use meshos_core::command::{AvoidScope, ChainId, IceAction};
use meshos_core::envelope::{IceEnvelope, cluster_hash, operator_id};
use meshos_core::id::{NodeId, Origin};
use meshos_core::time::UnixMs;

use crate::{ISSUED, cordon, freeze, key, signed};

fn operator(seed: u8, roles: &[Role]) -> Operator {
    Operator {
        key: key(seed).entity_id(),
        name: format!("operator-{seed}"),
        roles: roles.iter().copied().collect::<BTreeSet<_>>(),
        not_before: None,
        not_after: None,
        revoked: false,
    }
}

fn operators() -> Operators {
    let mut operators = Operators::default();
    operators.add(operator(1, &[Role::Admin, Role::Ice])).unwrap();
    operators.add(operator(2, &[Role::Ice])).unwrap();
    operators.add(operator(3, &[Role::Viewer])).unwrap();
    operators
}

fn policy() -> Policy {
    Policy {
        cluster: cluster_hash(b"prod-eu"),
        ice_threshold: 2,
        freshness: Duration::from_secs(300),
        future_skew: Duration::from_secs(30),
        cooldown: Duration::from_secs(300),
    }
}

fn bundle(seeds: &[u8]) -> IceEnvelope {
    let mut envelope = freeze();
    let bytes = envelope.signing_bytes();
    envelope.signatures = seeds.iter().map(|seed| signed(*seed, &bytes)).collect();
    envelope
}

fn id(seed: u8) -> u64 {
    operator_id(&key(seed).entity_id())
}

fn verdict(envelope: &IceEnvelope, now: UnixMs) -> Result<Vec<u64>, Refused> {
    check_ice(envelope, &operators(), &policy(), now)
}

#[test]
fn enough_distinct_keys_are_enough() {
    let mut agreed = vec![id(1), id(2)];
    agreed.sort_unstable();
    assert_eq!(verdict(&bundle(&[1, 2]), ISSUED), Ok(agreed));
}

#[test]
fn one_key_twice_is_one_key() {
    let required = 2;
    for seeds in [&[1][..], &[1, 1], &[1, 1, 1]] {
        let refused = Refused::InsufficientSignatures { got: 1, required };
        assert_eq!(verdict(&bundle(seeds), ISSUED), Err(refused), "{seeds:?}");
    }
    assert_eq!(
        verdict(&bundle(&[]), ISSUED),
        Err(Refused::InsufficientSignatures { got: 0, required })
    );
}

#[test]
fn a_stranger_beside_enough_good_ones_is_passed_over() {
    assert!(verdict(&bundle(&[9, 1, 2]), ISSUED).is_ok());
    assert_eq!(
        verdict(&bundle(&[1, 9]), ISSUED),
        Err(Refused::NotAuthorized { operator: id(9) })
    );
    assert_eq!(
        verdict(&bundle(&[1, 3]), ISSUED),
        Err(Refused::RoleDenied {
            operator: id(3),
            role: Role::Ice
        })
    );
    let mut forged = bundle(&[1, 2]);
    forged.signatures[1].signature[0] ^= 1;
    assert_eq!(
        verdict(&forged, ISSUED),
        Err(Refused::SignatureInvalid { operator: id(2) })
    );
}

#[test]
fn the_higher_of_both_thresholds_holds() {
    let mut envelope = freeze();
    envelope.threshold = 3;
    let bytes = envelope.signing_bytes();
    envelope.signatures = vec![signed(1, &bytes), signed(2, &bytes)];
    assert_eq!(
        verdict(&envelope, ISSUED),
        Err(Refused::InsufficientSignatures { got: 2, required: 3 })
    );
    let mut lower = freeze();
    lower.threshold = 1;
    lower.signatures = vec![signed(1, &lower.signing_bytes())];
    assert_eq!(
        verdict(&lower, ISSUED),
        Err(Refused::InsufficientSignatures { got: 1, required: 2 })
    );
}

#[test]
fn times_are_checked_to_the_millisecond() {
    let envelope = bundle(&[1, 2]);
    let at = |ms: i64| UnixMs::new(ISSUED.get().checked_add_signed(ms).unwrap());
    assert!(verdict(&envelope, at(300_000)).is_ok());
    assert!(matches!(
        verdict(&envelope, at(300_001)),
        Err(Refused::EnvelopeExpired { .. })
    ));
    assert!(verdict(&envelope, at(-30_000)).is_ok());
    assert!(matches!(
        verdict(&envelope, at(-30_001)),
        Err(Refused::EnvelopeFromFuture { .. })
    ));
    let mut short = freeze();
    short.header.not_after = at(10);
    let bytes = short.signing_bytes();
    short.signatures = vec![signed(1, &bytes), signed(2, &bytes)];
    assert!(verdict(&short, at(10)).is_ok());
    assert!(matches!(verdict(&short, at(11)), Err(Refused::EnvelopeExpired { .. })));
}

#[test]
fn another_cluster_is_another_command() {
    let mut envelope = freeze();
    envelope.header.cluster = cluster_hash(b"staging");
    let bytes = envelope.signing_bytes();
    envelope.signatures = vec![signed(1, &bytes), signed(2, &bytes)];
    assert_eq!(verdict(&envelope, ISSUED), Err(Refused::WrongCluster));
    // Signatures collected for one cluster say nothing at another.
    let mut moved = bundle(&[1, 2]);
    moved.signatures = envelope.signatures;
    assert!(matches!(verdict(&moved, ISSUED), Err(Refused::SignatureInvalid { .. })));
}

#[test]
fn a_signature_of_one_domain_does_not_hold_in_the_other() {
    let mut admin = cordon();
    admin.signature = Some(signed(1, &freeze().signing_bytes()));
    let refused = check_admin(&admin, &operators(), &policy(), ISSUED);
    assert_eq!(refused, Err(Refused::SignatureInvalid { operator: id(1) }));
    admin.signature = Some(signed(1, &admin.signing_bytes()));
    assert_eq!(check_admin(&admin, &operators(), &policy(), ISSUED), Ok(id(1)));
    admin.signature = Some(signed(2, &admin.signing_bytes()));
    let denied = Refused::RoleDenied {
        operator: id(2),
        role: Role::Admin,
    };
    assert_eq!(check_admin(&admin, &operators(), &policy(), ISSUED), Err(denied));
    admin.signature = None;
    assert_eq!(
        check_admin(&admin, &operators(), &policy(), ISSUED),
        Err(Refused::Unsigned)
    );
}

#[test]
fn a_revoked_or_rotated_key_is_nobodys() {
    let mut known = operators();
    known.revoke(id(2)).unwrap();
    let refused = check_ice(&bundle(&[1, 2]), &known, &policy(), ISSUED);
    assert_eq!(refused, Err(Refused::NotAuthorized { operator: id(2) }));
    assert_eq!(known.revoke(id(2)), Err(OperatorsError::Unknown));
    assert_eq!(known.add(operator(2, &[Role::Ice])), Err(OperatorsError::KeyTaken));
    let mut known = operators();
    assert_eq!(known.rotate(id(2), key(5).entity_id()), Ok(id(5)));
    assert!(check_ice(&bundle(&[1, 2]), &known, &policy(), ISSUED).is_err());
    assert!(check_ice(&bundle(&[1, 5]), &known, &policy(), ISSUED).is_ok());
    assert_eq!(known.rotate(id(5), key(1).entity_id()), Err(OperatorsError::KeyTaken));
    let mut twin = operator(8, &[Role::Ice]);
    twin.name = "operator-1".to_owned();
    assert_eq!(known.add(twin), Err(OperatorsError::NameTaken));
}

#[test]
fn an_operator_has_a_time() {
    let mut known = Operators::default();
    let mut early = operator(1, &[Role::Admin]);
    early.not_before = Some(UnixMs::new(ISSUED.get() + 1));
    known.add(early).unwrap();
    let mut admin = cordon();
    admin.signature = Some(signed(1, &admin.signing_bytes()));
    let refused = check_admin(&admin, &known, &policy(), ISSUED);
    assert_eq!(refused, Err(Refused::NotAuthorized { operator: id(1) }));
    let later = UnixMs::new(ISSUED.get() + 1);
    assert!(check_admin(&admin, &known, &policy(), later).is_ok());
}

#[test]
fn an_envelope_is_obeyed_once_whatever_the_clock_does() {
    let day = Duration::from_secs(86_400);
    let mut ledger = Ledger::default();
    let (policy, envelope) = (policy(), [1; 16]);
    ledger.obey(envelope, ISSUED, None, &policy, ISSUED).unwrap();
    let replayed = Err(Refused::Replayed { envelope_id: envelope });
    assert_eq!(ledger.obey(envelope, ISSUED, None, &policy, ISSUED), replayed);
    // The clock jumps a day ahead, and something else is obeyed: old ids are forgotten.
    let ahead = ISSUED.plus(day);
    ledger.obey([2; 16], ahead, None, &policy, ahead).unwrap();
    assert_eq!(ledger.len(), 1);
    // It jumps back: the old envelope is fresh by the clock, and still not obeyed.
    assert_eq!(ledger.obey(envelope, ISSUED, None, &policy, ISSUED), replayed);
    // What was issued after it is.
    let next = UnixMs::new(ISSUED.get() + 1);
    assert_eq!(ledger.obey([3; 16], next, None, &policy, next), Ok(()));
}

#[test]
fn cooldowns_hold_up_their_own_family_only() {
    let mut ledger = Ledger::default();
    let policy = policy();
    let freeze = IceAction::FreezeCluster {
        ttl: Duration::from_secs(60),
    };
    let restart = IceAction::ForceRestartDaemon {
        daemon: Origin::new(5),
        name: String::new(),
    };
    let mut number = 0_u8;
    let mut obey = |ledger: &mut Ledger, action: &IceAction, at: UnixMs| {
        number += 1;
        ledger.obey([number; 16], at, Some(action), &policy, at)
    };
    assert_eq!(obey(&mut ledger, &restart, ISSUED), Ok(()));
    assert_eq!(obey(&mut ledger, &freeze, ISSUED), Ok(()));
    let until = ISSUED.plus(policy.cooldown);
    let held = Err(Refused::CooldownActive {
        bucket: Bucket::Freeze,
        until,
    });
    assert_eq!(obey(&mut ledger, &freeze, ISSUED), held);
    // Thawing is never held up, and holds nothing up.
    assert_eq!(obey(&mut ledger, &IceAction::ThawCluster, ISSUED), Ok(()));
    assert_eq!(obey(&mut ledger, &IceAction::ThawCluster, ISSUED), Ok(()));
    let just_before = UnixMs::new(until.get() - 1);
    assert_eq!(obey(&mut ledger, &freeze, just_before), held);
    assert_eq!(obey(&mut ledger, &freeze, until), Ok(()));
    let evict = IceAction::ForceEvictReplica {
        chain: ChainId::new(1),
        victim: NodeId::new(4),
    };
    let flush = IceAction::FlushAvoidLists {
        scope: AvoidScope::OnPeer(NodeId::new(4)),
    };
    assert_eq!(obey(&mut ledger, &evict, until), Ok(()));
    assert!(matches!(
        obey(&mut ledger, &flush, until),
        Err(Refused::CooldownActive { .. })
    ));
    assert_eq!(ledger.cooldowns(until).count(), 2);
}

#[test]
fn a_refused_envelope_leaves_no_trace() {
    let mut ledger = Ledger::default();
    let policy = policy();
    let freeze = IceAction::FreezeCluster {
        ttl: Duration::from_secs(60),
    };
    ledger.obey([1; 16], ISSUED, Some(&freeze), &policy, ISSUED).unwrap();
    let before = ledger.clone();
    assert!(ledger.obey([2; 16], ISSUED, Some(&freeze), &policy, ISSUED).is_err());
    assert_eq!(ledger, before);
}

#[test]
fn a_freeze_has_bounds() {
    for (ms, good) in [(999, false), (1000, true), (86_400_000, true), (86_400_001, false)] {
        let mut envelope = freeze();
        envelope.action = IceAction::FreezeCluster {
            ttl: Duration::from_millis(ms),
        };
        let bytes = envelope.signing_bytes();
        envelope.signatures = vec![signed(1, &bytes), signed(2, &bytes)];
        assert_eq!(verdict(&envelope, ISSUED).is_ok(), good, "{ms} ms");
    }
}

#[test]
fn nobody_is_obeyed_who_did_not_look() {
    let mut envelope = freeze();
    envelope.blast = BlastRadius::default();
    let bytes = envelope.signing_bytes();
    envelope.signatures = vec![signed(1, &bytes), signed(2, &bytes)];
    assert_eq!(verdict(&envelope, ISSUED), Err(Refused::SimulationRequired));
}
