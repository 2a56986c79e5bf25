//! What a policy may be, and what two ledgers know together.

use std::collections::BTreeSet;
use std::time::Duration;

use meshos_core::authority::{Bucket, Ledger, Operator, Operators, Policy, Refused, Role};
use meshos_core::command::IceAction;
use meshos_core::envelope::cluster_hash;
use meshos_core::time::UnixMs;

use crate::{ISSUED, key};

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> Policy {
    Policy {
        cluster: cluster_hash(b"prod-eu"),
        ice_threshold: 2,
        freshness: 300 * SECOND,
        future_skew: 30 * SECOND,
        cooldown: 300 * SECOND,
    }
}

fn operators(ice: u8) -> Operators {
    let mut operators = Operators::default();
    for seed in 1..=ice + 1 {
        let role = if seed <= ice { Role::Ice } else { Role::Admin };
        let operator = Operator {
            key: key(seed).entity_id(),
            name: format!("operator-{seed}"),
            roles: BTreeSet::from([role]),
            not_before: None,
            not_after: None,
            revoked: false,
        };
        operators.add(operator).expect("another key and name");
    }
    operators
}

fn refused(policy: Policy) -> Option<&'static str> {
    policy.validate(&operators(2)).err().map(|error| error.field)
}

#[test]
fn a_policy_has_bounds() {
    assert_eq!(policy().validate(&operators(2)), Ok(()));
    for ice_threshold in [0, 3, 65, 255] {
        let policy = Policy {
            ice_threshold,
            ..policy()
        };
        assert_eq!(refused(policy), Some("ice_threshold"), "{ice_threshold}");
    }
    assert_eq!(policy().validate(&operators(1)).unwrap_err().field, "ice_threshold");
    let day = 86_400 * SECOND;
    for (freshness, good) in [
        (SECOND - Duration::from_nanos(1), false),
        (SECOND, true),
        (day, true),
        (day + SECOND, false),
        (Duration::MAX, false),
    ] {
        let policy = Policy { freshness, ..policy() };
        assert_eq!(refused(policy), (!good).then_some("freshness_window"), "{freshness:?}");
    }
    for (future_skew, good) in [(Duration::ZERO, true), (3600 * SECOND, true), (3601 * SECOND, false)] {
        let policy = Policy {
            future_skew,
            ..policy()
        };
        assert_eq!(refused(policy), (!good).then_some("future_skew"));
    }
    for (cooldown, good) in [(Duration::ZERO, true), (7 * day, true), (Duration::MAX, false)] {
        let policy = Policy { cooldown, ..policy() };
        assert_eq!(refused(policy), (!good).then_some("ice_cooldown"));
    }
}

fn obeyed(number: u8, action: Option<&IceAction>, at: UnixMs) -> Ledger {
    let mut ledger = Ledger::default();
    ledger
        .obey([number; 16], at, action, &policy(), at)
        .expect("nothing holds it up");
    ledger
}

#[test]
fn two_ledgers_know_together_what_each_knows() {
    let freeze = IceAction::FreezeCluster { ttl: 60 * SECOND };
    let later = ISSUED.plus(SECOND);
    let (one, two) = (obeyed(1, Some(&freeze), ISSUED), obeyed(2, Some(&freeze), later));
    let mut both = one.clone();
    both.absorb(&two);
    let mut other_way = two.clone();
    other_way.absorb(&one);
    assert_eq!(both, other_way);
    for number in [1, 2] {
        let replayed = Refused::Replayed {
            envelope_id: [number; 16],
        };
        assert_eq!(both.check([number; 16], later, None, later), Err(replayed));
    }
    let until = later.plus(policy().cooldown);
    assert_eq!(both.cooldowns(later).collect::<Vec<_>>(), [(Bucket::Freeze, until)]);
    let before = both.clone();
    both.absorb(&one);
    assert_eq!(both, before);
}

#[test]
fn what_one_ledger_forgot_the_other_takes_over() {
    let mut forgetful = obeyed(1, None, ISSUED);
    let ahead = ISSUED.plus(3600 * SECOND);
    forgetful
        .obey([2; 16], ahead, None, &policy(), ahead)
        .expect("another one");
    let mut fresh = Ledger::default();
    fresh.absorb(&forgetful);
    let replayed = Refused::Replayed { envelope_id: [1; 16] };
    assert_eq!(fresh.check([1; 16], ISSUED, None, ISSUED), Err(replayed));
}
