//! What a verifier demands, what it remembers, and what it leaves as it was.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use meshos_core::authority::{Operator, Policy, Refused, Role, USED_MAX};
use meshos_core::blast::{BlastRadius, BlastWarning};
use meshos_core::command::{AdminEvent, IceAction};
use meshos_core::envelope::{AdminEnvelope, Header, IceEnvelope, OperatorSignature, cluster_hash, operator_id};
use meshos_core::id::NodeId;
use meshos_core::testing::samples::keypair;
use meshos_core::time::UnixMs;
use meshos_node::verifier::{SharedOperators, Verifier};

const ISSUED: UnixMs = UnixMs::new(1_700_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);

fn operators() -> Arc<SharedOperators> {
    let operators = SharedOperators::default();
    for (seed, roles) in [(1, [Role::Admin, Role::Ice]), (2, [Role::Ice, Role::Ice])] {
        let operator = Operator {
            key: keypair(seed).entity_id(),
            name: format!("operator-{seed}"),
            roles: BTreeSet::from(roles),
            not_before: None,
            not_after: None,
            revoked: false,
        };
        operators.change(|known| known.add(operator)).expect("a new key");
    }
    Arc::new(operators)
}

fn policy() -> Policy {
    Policy {
        cluster: cluster_hash(b"prod-eu"),
        ice_threshold: 2,
        freshness: 5 * MINUTE,
        future_skew: MINUTE / 2,
        cooldown: 5 * MINUTE,
    }
}

fn verifier() -> Verifier {
    Verifier::new(policy(), operators()).expect("two operators are enough")
}

fn header(number: u8) -> Header {
    Header {
        cluster: policy().cluster,
        envelope_id: [number; 16],
        issued_at: ISSUED,
        not_after: ISSUED.plus(5 * MINUTE),
        reason: "a test".to_owned(),
    }
}

fn signed(seed: u8, bytes: &[u8]) -> OperatorSignature {
    let pair = keypair(seed);
    OperatorSignature {
        public_key: pair.entity_id(),
        signature: pair.sign(bytes).expect("a full pair"),
    }
}

fn cordon(number: u8) -> AdminEnvelope {
    let mut envelope = AdminEnvelope {
        header: header(number),
        event: AdminEvent::Cordon { node: NodeId::new(7) },
        signature: None,
    };
    envelope.signature = Some(signed(1, &envelope.signing_bytes()));
    envelope
}

fn freeze(number: u8) -> IceEnvelope {
    let mut envelope = IceEnvelope {
        header: header(number),
        threshold: 2,
        blast: BlastRadius {
            warnings: vec![BlastWarning::ClusterFreezeBlocksOperatorActions],
            ..BlastRadius::default()
        },
        action: IceAction::FreezeCluster { ttl: MINUTE },
        signatures: Vec::new(),
    };
    let bytes = envelope.signing_bytes();
    envelope.signatures = vec![signed(1, &bytes), signed(2, &bytes)];
    envelope
}

fn id(seed: u8) -> u64 {
    operator_id(&keypair(seed).entity_id())
}

#[test]
fn too_few_operators_are_no_verifier() {
    let operators = operators();
    operators.change(|known| known.revoke(id(2))).expect("there");
    let error = Verifier::new(policy(), operators).expect_err("one is too few");
    assert_eq!(error.field, "ice_threshold");
}

#[test]
fn a_change_of_operators_is_seen_at_once_and_not_in_what_was_taken_before() {
    let operators = operators();
    let verifier = Verifier::new(policy(), Arc::clone(&operators)).expect("enough");
    let before = operators.now();
    assert_eq!(verifier.check_admin(&cordon(1), ISSUED), Ok(id(1)));
    operators.change(|known| known.revoke(id(1))).expect("there");
    let refused = Refused::NotAuthorized { operator: id(1) };
    assert_eq!(verifier.check_admin(&cordon(1), ISSUED), Err(refused.clone()));
    assert_eq!(verifier.check_ice(&freeze(1), ISSUED), Err(refused));
    assert_eq!((before.iter().count(), operators.now().iter().count()), (2, 1));
}

#[test]
fn asking_changes_nothing() {
    let verifier = verifier();
    for _ in 0..3 {
        assert_eq!(verifier.would_obey_admin(&cordon(1), ISSUED), Ok(id(1)));
        assert_eq!(verifier.would_obey_ice(&freeze(1), ISSUED).map(|who| who.len()), Ok(2));
    }
    assert!(verifier.ledger().is_empty());
    assert_eq!(verifier.ledger().cooldowns(ISSUED).count(), 0);
}

#[test]
fn what_a_loop_obeyed_is_not_obeyed_again() {
    let verifier = verifier();
    let freeze_1 = freeze(1);
    verifier.obeyed([1; 16], ISSUED, Some(&freeze_1.action), ISSUED);
    let replayed = Err(Refused::Replayed { envelope_id: [1; 16] });
    assert_eq!(verifier.would_obey_ice(&freeze_1, ISSUED), replayed);
    assert_eq!(
        verifier
            .would_obey_ice(&freeze(2), ISSUED)
            .map_err(|refused| refused.kind()),
        Err("ice_cooldown_active")
    );
    assert!(verifier.would_obey_ice(&freeze(2), ISSUED.plus(5 * MINUTE)).is_ok());
    assert!(verifier.would_obey_admin(&cordon(2), ISSUED).is_ok());
    // The next loop begins with it.
    let mut ledger = verifier.ledger();
    assert!(ledger.obey([1; 16], ISSUED, None, verifier.policy(), ISSUED).is_err());
}

#[test]
fn what_an_ended_loop_hands_back_adds_to_what_is_known() {
    let verifier = verifier();
    let (mut one, mut two) = (verifier.ledger(), verifier.ledger());
    one.obey([1; 16], ISSUED, None, verifier.policy(), ISSUED).expect("new");
    two.obey([2; 16], ISSUED, None, verifier.policy(), ISSUED).expect("new");
    verifier.keep(&one);
    verifier.keep(&two);
    for number in [1, 2] {
        let replayed = Err(Refused::Replayed {
            envelope_id: [number; 16],
        });
        assert_eq!(verifier.would_obey_admin(&cordon(number), ISSUED), replayed);
    }
    assert!(verifier.would_obey_admin(&cordon(3), ISSUED).is_ok());
}

#[test]
fn what_was_done_is_kept_even_where_it_would_be_refused() {
    let verifier = verifier();
    let action = freeze(1).action;
    let later = ISSUED.plus(MINUTE);
    verifier.obeyed([1; 16], ISSUED, Some(&action), ISSUED);
    verifier.obeyed([2; 16], ISSUED, Some(&action), later);
    let held = verifier.would_obey_ice(&freeze(3), later);
    assert!(matches!(held, Err(Refused::CooldownActive { until, .. }) if until == later.plus(5 * MINUTE)));
    assert_eq!(verifier.ledger().len(), 2);
}

#[test]
fn a_full_ledger_refuses_until_what_is_in_it_is_old() {
    let verifier = verifier();
    let mut full = verifier.ledger();
    for number in 0..u128::try_from(USED_MAX).expect("small") {
        full.record((number << 8).to_le_bytes(), ISSUED);
    }
    verifier.keep(&full);
    assert_eq!(verifier.would_obey_admin(&cordon(1), ISSUED), Err(Refused::Overloaded));
    let mut late = cordon(1);
    late.header.issued_at = ISSUED.plus(7 * MINUTE);
    late.header.not_after = ISSUED.plus(8 * MINUTE);
    late.signature = Some(signed(1, &late.signing_bytes()));
    assert_eq!(verifier.would_obey_admin(&late, late.header.issued_at), Ok(id(1)));
    assert_eq!(verifier.ledger().len(), USED_MAX);
}

#[test]
fn threads_ask_while_operators_change() {
    let operators = operators();
    let verifier = Verifier::new(policy(), Arc::clone(&operators)).expect("enough");
    let envelope = freeze(1);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..50 {
                    match verifier.would_obey_ice(&envelope, ISSUED) {
                        Ok(who) => assert_eq!(who.len(), 2),
                        Err(refused) => assert_eq!(refused.kind(), "not_authorized"),
                    }
                }
            });
        }
        for seed in 10..60 {
            let from = if seed == 10 { 2 } else { seed - 1 };
            let key = keypair(seed).entity_id();
            operators
                .change(|known| known.rotate(id(from), key))
                .expect("a new key");
        }
    });
    assert_eq!(
        verifier
            .would_obey_ice(&envelope, ISSUED)
            .map_err(|refused| refused.kind()),
        Err("not_authorized")
    );
}
