//! Permission tokens: every rule of a chain of grants, and every way to break it.

use std::collections::BTreeSet;
use std::time::Duration;

use meshos_core::codec::{DecodeError, Fault};
use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::identity::Keypair;
use meshos_core::name::ChannelName;
use meshos_core::revocation::{Revocation, Revocations, Target};
use meshos_core::testing::samples::keypair;
use meshos_core::time::UnixMs;
use meshos_core::token::{
    DELEGATIONS_MAX, Demand, Denied, GRANTS_MAX, Grant, PermissionToken, Right, Rights, SKEW_MAX, Scope, Share,
    TOKEN_BYTES_MAX, TTL_MAX, TTL_MIN, Terms, TokenError, TokenFault,
};
use proptest::prelude::*;

use crate::support::{assert_exact, fault, patched};

const T: UnixMs = UnixMs::new(1_767_225_600_000);
const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);
const DOMAIN: &[u8] = b"meshos 2026 permission token v1\0";
/// Where the fields of a root for one channel lie.
const RIGHTS: usize = 2;
const DELEGATIONS: usize = 3;
const SCOPE: usize = 132;

fn id(byte: u8) -> EntityId {
    keypair(byte).entity_id()
}

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).expect("a good name")
}

fn rights(rights: &[Right]) -> Rights {
    rights.iter().copied().collect()
}

fn terms(delegations: u8) -> Terms {
    Terms {
        subject: id(2),
        scope: Scope::Channel(name("a/b")),
        rights: Right::ALL.into_iter().collect(),
        delegations,
    }
}

fn issued(terms: Terms) -> PermissionToken {
    PermissionToken::issue(&keypair(1), terms, T, HOUR, [7; 16]).expect("good terms")
}

fn root() -> PermissionToken {
    issued(terms(DELEGATIONS_MAX))
}

/// Passed on from each to the next, beginning with 2.
fn passed(steps: u8) -> PermissionToken {
    (0..steps).fold(root(), |token, step| {
        let (holder, subject) = (keypair(2 + step), id(3 + step));
        token
            .delegate(&holder, Share::all(subject), T, [step; 16])
            .expect("it may")
    })
}

/// What [`Asked::of`] asks of a token.
#[derive(Clone)]
struct Asked {
    roots: BTreeSet<EntityId>,
    right: Right,
    channel: ChannelName,
    presenter: EntityId,
    now: UnixMs,
    skew: Duration,
    revocations: Revocations,
}

impl Asked {
    fn by(presenter: u8) -> Self {
        Self {
            roots: BTreeSet::from([id(1), id(0x99)]),
            right: Right::Subscribe,
            channel: name("a/b"),
            presenter: id(presenter),
            now: T,
            skew: Duration::ZERO,
            revocations: Revocations::default(),
        }
    }

    fn demand(&self) -> Demand<'_> {
        Demand {
            roots: &self.roots,
            right: self.right,
            channel: &self.channel,
            presenter: &self.presenter,
            now: self.now,
            skew: self.skew,
            revocations: &self.revocations,
        }
    }

    fn of(&self, token: &PermissionToken) -> Result<(), TokenError> {
        token.verify(&self.demand())
    }
}

fn refused(grant: usize, fault: impl Into<TokenFault>) -> Result<(), TokenError> {
    let fault = fault.into();
    Err(TokenError { grant, fault })
}

/// The token with one grant changed by an author who can sign for everybody, and all that follow signed anew.
fn resigned(token: &PermissionToken, changed: usize, change: impl Fn(&mut Grant)) -> PermissionToken {
    let mut grants: Vec<Grant> = token.grants().to_vec();
    change(&mut grants[changed]);
    let mut bytes = vec![1, u8::try_from(grants.len()).expect("few")];
    let mut parent = grants[0].parent;
    for (index, grant) in grants.iter_mut().enumerate() {
        if index > changed {
            grant.parent = parent;
        }
        let signer = (0..=255)
            .map(keypair)
            .find(|pair| pair.entity_id() == grant.issuer)
            .expect("a sample");
        let body = body(grant);
        grant.signature = signer.sign(&[DOMAIN, &[1], &body].concat()).expect("a full pair");
        parent = grant.digest();
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&grant.signature);
    }
    PermissionToken::decode(&bytes).expect("in form")
}

/// The layout once more, by hand.
fn body(grant: &Grant) -> Vec<u8> {
    let bits = grant.rights.iter().fold(0, |bits, right| bits | right as u8);
    let mut out = vec![bits, grant.delegations];
    out.extend_from_slice(grant.issuer.as_bytes());
    out.extend_from_slice(grant.subject.as_bytes());
    out.extend_from_slice(&grant.not_before.get().to_le_bytes());
    out.extend_from_slice(&grant.not_after.get().to_le_bytes());
    out.extend_from_slice(&grant.nonce);
    out.extend_from_slice(grant.parent.as_bytes());
    match &grant.scope {
        Scope::All => out.push(0),
        Scope::Channel(name) => {
            out.extend_from_slice(&[1, u8::try_from(name.as_str().len()).expect("short")]);
            out.extend_from_slice(name.as_str().as_bytes());
        }
    }
    out
}

#[test]
fn a_root_permits_its_subject_what_it_says() {
    let token = root();
    for right in Right::ALL {
        let asked = Asked { right, ..Asked::by(2) };
        assert_eq!(asked.of(&token), Ok(()));
        assert_eq!(token.recheck(&asked.demand()), Ok(()));
    }
    let grant = token.last();
    assert_eq!(
        (grant.issuer, grant.subject, grant.parent),
        (id(1), id(2), Digest::ZERO)
    );
    assert_eq!((grant.not_before, grant.not_after), (T, T.plus(HOUR)));
    assert!(token.parents().is_empty());
}

#[test]
fn every_right_stands_alone() {
    for given in Right::ALL {
        let token = issued(Terms {
            rights: rights(&[given]),
            ..terms(0)
        });
        for right in Right::ALL {
            let expected = if right == given {
                Ok(())
            } else {
                refused(0, Denied::Right)
            };
            assert_eq!(Asked { right, ..Asked::by(2) }.of(&token), expected);
        }
    }
}

#[test]
fn a_channel_is_that_channel_and_all_is_said() {
    let below = [
        ("a/b", true),
        ("a/b/c", false),
        ("a", false),
        ("a/bc", false),
        ("b", false),
    ];
    for (channel, covered) in below {
        let asked = Asked {
            channel: name(channel),
            ..Asked::by(2)
        };
        let expected = if covered { Ok(()) } else { refused(0, Denied::Channel) };
        assert_eq!(asked.of(&root()), expected, "{channel}");
        let all = issued(Terms {
            scope: Scope::All,
            ..terms(0)
        });
        assert_eq!(asked.of(&all), Ok(()));
    }
}

#[test]
fn only_trusted_roots_and_the_last_subject() {
    let stranger = Asked {
        roots: BTreeSet::from([id(2), id(3)]),
        ..Asked::by(3)
    };
    assert_eq!(stranger.of(&passed(1)), refused(0, Denied::Root));
    let nobody = Asked {
        roots: BTreeSet::new(),
        ..Asked::by(2)
    };
    assert_eq!(nobody.of(&root()), refused(0, Denied::Root));
    assert_eq!(Asked::by(3).of(&root()), refused(0, Denied::Presenter));
    // Who passed a token on does not hold what came of it.
    assert_eq!(Asked::by(2).of(&passed(1)), refused(1, Denied::Presenter));
    assert_eq!(Asked::by(3).of(&passed(1)), Ok(()));
}

#[test]
fn the_end_is_the_first_instant_that_is_not_permitted() {
    let at = |now: u64, skew| Asked {
        now: UnixMs::new(now),
        skew,
        ..Asked::by(2)
    };
    let (begin, end) = (T.get(), T.plus(HOUR).get());
    let early = refused(0, TokenFault::NotYetValid { not_before: T });
    let late = refused(
        0,
        TokenFault::Expired {
            not_after: UnixMs::new(end),
        },
    );
    assert_eq!(at(begin - 1, Duration::ZERO).of(&root()), early);
    assert_eq!(at(begin, Duration::ZERO).of(&root()), Ok(()));
    assert_eq!(at(end - 1, Duration::ZERO).of(&root()), Ok(()));
    assert_eq!(at(end, Duration::ZERO).of(&root()), late);
    // A clock that lags is forgiven, up to a bound; an end is an end.
    assert_eq!(at(begin - 1_000, SECOND).of(&root()), Ok(()));
    assert_eq!(at(begin - 1_001, SECOND).of(&root()), early);
    let most = u64::try_from(SKEW_MAX.as_millis()).expect("a minute");
    assert_eq!(at(begin - most, Duration::MAX).of(&root()), Ok(()));
    assert_eq!(at(begin - most - 1, Duration::MAX).of(&root()), early);
    assert_eq!(at(end, Duration::MAX).of(&root()), late);
    // A bad signature does not hide behind the clock, nor the clock behind it.
    assert_eq!(
        at(end, Duration::ZERO).of(&passed(1)).map_err(|error| error.grant),
        Err(0)
    );
}

#[test]
fn spans_are_bounded_where_they_are_made_and_where_they_come_in() {
    let issue = |ttl| PermissionToken::issue(&keypair(1), terms(0), T, ttl, [7; 16]).map(drop);
    assert_eq!(issue(Duration::ZERO), refused(0, TokenFault::ZeroTtl));
    assert_eq!(
        issue(TTL_MIN - Duration::from_nanos(1)),
        refused(0, TokenFault::ZeroTtl)
    );
    assert_eq!(issue(TTL_MIN), Ok(()));
    assert_eq!(issue(TTL_MAX), Ok(()));
    assert_eq!(
        issue(TTL_MAX + Duration::from_nanos(1)),
        refused(0, TokenFault::TtlTooLong)
    );
    let until = |not_after| resigned(&root(), 0, move |grant| grant.not_after = not_after);
    let asked = Asked::by(2);
    assert_eq!(asked.of(&until(T.plus(TTL_MAX))), Ok(()));
    let longer = UnixMs::new(T.plus(TTL_MAX).get() + 1);
    assert_eq!(asked.of(&until(longer)), refused(0, TokenFault::TtlTooLong));
    assert_eq!(
        asked.of(&until(UnixMs::new(T.get() + 999))),
        refused(0, TokenFault::ZeroTtl)
    );
    // What is expired is expired before it is too long.
    let past = Asked {
        now: longer,
        ..Asked::by(2)
    };
    let expired = TokenFault::Expired { not_after: longer };
    assert_eq!(past.of(&until(longer)), refused(0, expired));
}

#[test]
fn terms_are_checked() {
    let issue = |terms, issuer: &Keypair| PermissionToken::issue(issuer, terms, T, HOUR, [7; 16]).map(drop);
    let none = Terms {
        rights: Rights::default(),
        ..terms(0)
    };
    assert_eq!(issue(none, &keypair(1)), refused(0, TokenFault::NoRights));
    let many = terms(DELEGATIONS_MAX + 1);
    assert_eq!(issue(many, &keypair(1)), refused(0, TokenFault::TooManyDelegations));
    let public = Keypair::public_only(id(1));
    assert_eq!(issue(terms(0), &public), refused(0, TokenFault::ReadOnly));
}

#[test]
fn a_token_is_passed_on_as_often_as_it_says_and_no_longer_than_it_lasts() {
    let token = passed(DELEGATIONS_MAX);
    assert_eq!(token.grants().len(), GRANTS_MAX);
    assert_eq!(Asked::by(9).of(&token), Ok(()));
    let delegations: Vec<_> = token.grants().iter().map(|grant| grant.delegations).collect();
    assert_eq!(delegations, [7, 6, 5, 4, 3, 2, 1, 0]);
    assert!(token.grants().iter().all(|grant| grant.not_after == T.plus(HOUR)));
    let more = token.delegate(&keypair(9), Share::all(id(10)), T, [0; 16]).map(drop);
    assert_eq!(more, refused(7, TokenFault::DelegationExhausted));
    let parents = token.parents();
    assert_eq!(parents.len(), 7);
    for (index, parent) in parents.iter().enumerate() {
        assert_eq!(parent.grants(), &token.grants()[..=index]);
        let holder = u8::try_from(index + 2).expect("small");
        assert_eq!(Asked::by(holder).of(parent), Ok(()));
    }
}

#[test]
fn passing_on_is_refused_where_it_must_be() {
    let share = || Share::all(id(3));
    let try_it =
        |token: &PermissionToken, holder: &Keypair, share, now| token.delegate(holder, share, now, [0; 16]).map(drop);
    let (holder, token) = (keypair(2), root());
    assert_eq!(
        try_it(&issued(terms(0)), &holder, share(), T),
        refused(0, TokenFault::DelegationExhausted)
    );
    let without = issued(Terms {
        rights: rights(&[Right::Subscribe]),
        ..terms(1)
    });
    assert_eq!(
        try_it(&without, &holder, share(), T),
        refused(0, TokenFault::DelegationNotAllowed)
    );
    assert_eq!(try_it(&token, &keypair(3), share(), T), refused(0, Denied::Holder));
    assert_eq!(try_it(&token, &keypair(1), share(), T), refused(0, Denied::Holder));
    let public = Keypair::public_only(id(2));
    assert_eq!(try_it(&token, &public, share(), T), refused(1, TokenFault::ReadOnly));
    let (early, end) = (UnixMs::new(T.get() - 1), T.plus(HOUR));
    assert_eq!(
        try_it(&token, &holder, share(), early),
        refused(0, TokenFault::NotYetValid { not_before: T })
    );
    assert_eq!(
        try_it(&token, &holder, share(), end),
        refused(0, TokenFault::Expired { not_after: end })
    );
    let none = Share {
        rights: Some(Rights::default()),
        ..share()
    };
    assert_eq!(try_it(&token, &holder, none, T), refused(0, TokenFault::NoRights));
    let ended = Share {
        not_after: Some(T),
        ..share()
    };
    assert_eq!(try_it(&token, &holder, ended, T), refused(0, TokenFault::ZeroTtl));
    let forged = resigned(&token, 0, |_| ());
    let bytes = patched(&forged.to_bytes(), RIGHTS, &[9]);
    let forged = PermissionToken::decode(&bytes).expect("in form");
    assert_eq!(
        try_it(&forged, &holder, share(), T),
        refused(0, TokenFault::InvalidSignature)
    );
}

#[test]
fn what_is_passed_on_is_never_more() {
    let few = issued(Terms {
        rights: rights(&[Right::Subscribe, Right::Delegate]),
        ..terms(3)
    });
    let pass = |share| few.delegate(&keypair(2), share, T, [0; 16]);
    let wider = [
        Share {
            rights: Some(rights(&[Right::Publish])),
            ..Share::all(id(3))
        },
        Share {
            scope: Some(Scope::All),
            ..Share::all(id(3))
        },
        Share {
            scope: Some(Scope::Channel(name("a/b/c"))),
            ..Share::all(id(3))
        },
        Share {
            not_after: Some(UnixMs::new(T.plus(HOUR).get() + 1)),
            ..Share::all(id(3))
        },
    ];
    for share in wider {
        assert_eq!(pass(share).map(drop), refused(0, Denied::Wider));
    }
    let narrower = pass(Share {
        rights: Some(rights(&[Right::Subscribe])),
        not_after: Some(T.plus(SECOND)),
        ..Share::all(id(3))
    })
    .expect("less");
    assert_eq!(Asked::by(3).of(&narrower), Ok(()));
    assert_eq!(narrower.last().not_after, T.plus(SECOND));
    let everywhere = issued(Terms {
        scope: Scope::All,
        ..terms(1)
    });
    let one = Share {
        scope: Some(Scope::Channel(name("x"))),
        ..Share::all(id(3))
    };
    let one = everywhere.delegate(&keypair(2), one, T, [0; 16]).expect("less");
    assert_eq!(Asked::by(3).of(&one), refused(1, Denied::Channel));
    let asked = Asked {
        channel: name("x"),
        ..Asked::by(3)
    };
    assert_eq!(asked.of(&one), Ok(()));
}

/// Each holder could sign a grant that breaks a rule. The check finds it, at that grant, wherever in the chain it is.
#[test]
fn every_broken_rule_is_found_at_its_grant() {
    type Break = (fn(&mut Grant), TokenFault);
    const BREAKS: &[Break] = &[
        (|grant| grant.delegations += 1, TokenFault::DelegationExhausted),
        (
            |grant| grant.scope = Scope::All,
            TokenFault::NotAuthorized(Denied::Wider),
        ),
        (
            |grant| grant.not_after = UnixMs::new(grant.not_after.get() + 1),
            TokenFault::NotAuthorized(Denied::Wider),
        ),
        (
            |grant| grant.not_before = UnixMs::new(grant.not_before.get() - 1),
            TokenFault::NotAuthorized(Denied::Wider),
        ),
        (
            |grant| grant.issuer = keypair(77).entity_id(),
            TokenFault::NotAuthorized(Denied::Holder),
        ),
        (
            |grant| grant.parent = Digest::ZERO,
            TokenFault::NotAuthorized(Denied::Parent),
        ),
        (
            |grant| grant.parent = Digest::from_bytes([1; 32]),
            TokenFault::NotAuthorized(Denied::Parent),
        ),
    ];
    for steps in 1..=4 {
        for at in 1..=usize::from(steps) {
            for (change, fault) in BREAKS {
                let broken = resigned(&passed(steps), at, change);
                assert_eq!(
                    Asked::by(2 + steps).of(&broken),
                    refused(at, *fault),
                    "grant {at} of {steps}"
                );
                assert_eq!(broken.recheck(&Asked::by(2 + steps).demand()), refused(at, *fault));
            }
            let without = resigned(&passed(steps), at - 1, |grant| {
                grant.rights = [Right::Subscribe].into_iter().collect()
            });
            assert_eq!(
                Asked::by(2 + steps).of(&without),
                refused(at, TokenFault::DelegationNotAllowed)
            );
        }
    }
    // More rights than the grant before has.
    let mut few = terms(2);
    few.rights = rights(&[Right::Subscribe, Right::Delegate]);
    let token = issued(few)
        .delegate(&keypair(2), Share::all(id(3)), T, [0; 16])
        .expect("it may");
    let more = resigned(&token, 1, |grant| grant.rights = Right::ALL.into_iter().collect());
    assert_eq!(Asked::by(3).of(&more), refused(1, Denied::Wider));
    // A root that names a parent is none.
    let rootless = resigned(&root(), 0, |grant| grant.parent = Digest::from_bytes([1; 32]));
    assert_eq!(Asked::by(2).of(&rootless), refused(0, Denied::Parent));
}

/// A grant stands on one other grant, not on any that would permit as much.
#[test]
fn grants_of_two_tokens_do_not_mix() {
    let other = PermissionToken::issue(&keypair(1), terms(7), T, HOUR, [8; 16]).expect("good terms");
    let child = root()
        .delegate(&keypair(2), Share::all(id(3)), T, [0; 16])
        .expect("it may");
    let (mut mixed, child) = (other.to_bytes(), child.to_bytes());
    mixed[1] = 2;
    mixed.extend_from_slice(&child[other.to_bytes().len()..]);
    let mixed = PermissionToken::decode(&mixed).expect("in form");
    assert_eq!(Asked::by(3).of(&mixed), refused(1, Denied::Parent));
    // The end of a chain alone is another's token.
    let mut tail = vec![1, 1];
    tail.extend_from_slice(&child[other.to_bytes().len()..]);
    let tail = PermissionToken::decode(&tail).expect("in form");
    assert_eq!(Asked::by(3).of(&tail), refused(0, Denied::Root));
    let trusted = Asked {
        roots: BTreeSet::from([id(2)]),
        ..Asked::by(3)
    };
    assert_eq!(trusted.of(&tail), refused(0, Denied::Parent));
}

#[test]
fn what_is_revoked_takes_all_below_with_it() {
    let token = passed(3);
    let known = |target, at: u64, issuer: u8| {
        let mut known = Revocations::default();
        let stated = Revocation::sign(target, UnixMs::new(at), &keypair(issuer)).expect("a full pair");
        known.add(&stated).expect("signed");
        known
    };
    let asked = |revocations| Asked {
        revocations,
        ..Asked::by(5)
    };
    let t = T.get();
    for (index, grant) in token.grants().iter().enumerate() {
        let step = u8::try_from(index).expect("small");
        // By its own issuer, and by each above it.
        for issuer in 1..=step + 1 {
            let by_token = known(Target::Token(grant.digest()), t, issuer);
            assert_eq!(asked(by_token).of(&token), refused(index, TokenFault::Revoked));
            let by_subject = known(Target::Subject(grant.subject), t, issuer);
            assert_eq!(
                asked(by_subject.clone()).of(&token),
                refused(index, TokenFault::Revoked)
            );
            assert_eq!(
                token.recheck(&asked(by_subject).demand()),
                refused(index, TokenFault::Revoked)
            );
        }
        let everything = known(Target::Everything, t, step + 1);
        assert_eq!(asked(everything).of(&token), refused(index, TokenFault::Revoked));
        // Not by who stands below it, nor by a stranger.
        for issuer in step + 2..8 {
            let by_token = known(Target::Token(grant.digest()), t, issuer);
            assert_eq!(asked(by_token).of(&token), Ok(()));
            let by_subject = known(Target::Subject(grant.subject), t, issuer);
            assert_eq!(asked(by_subject).of(&token), Ok(()));
        }
        // What began later was issued anew.
        let before = known(Target::Subject(grant.subject), t - 1, step + 1);
        assert_eq!(asked(before).of(&token), Ok(()));
    }
}

#[test]
fn no_flipped_bit_permits() {
    let (token, asked) = (passed(1), Asked::by(3));
    let bytes = token.to_bytes();
    assert_eq!(asked.of(&PermissionToken::decode(&bytes).expect("as written")), Ok(()));
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let refused = PermissionToken::decode(&flipped).map_or(true, |token| asked.of(&token).is_err());
        assert!(refused, "bit {bit}");
    }
    let tampered = PermissionToken::decode(&patched(&bytes, DELEGATIONS, &[6])).expect("in form");
    assert_eq!(asked.of(&tampered), refused(0, TokenFault::InvalidSignature));
    // A check without signatures is for what was checked before, and finds what does not fit all the same.
    assert_eq!(tampered.recheck(&asked.demand()), refused(1, Denied::Parent));
}

#[test]
fn a_key_of_small_order_signs_nothing() {
    let bytes = patched(&root().to_bytes(), 4, &[0; 32]);
    let token = PermissionToken::decode(&bytes).expect("in form");
    let asked = Asked {
        roots: BTreeSet::from([EntityId::from_bytes([0; 32])]),
        ..Asked::by(2)
    };
    assert_eq!(asked.of(&token), refused(0, TokenFault::InvalidSignature));
}

#[test]
fn bytes_are_exact() {
    for token in [
        root(),
        passed(2),
        issued(Terms {
            scope: Scope::All,
            ..terms(0)
        }),
    ] {
        let bytes = token.to_bytes();
        assert_eq!(PermissionToken::decode(&bytes), Ok(token));
        assert_exact(&bytes, 0, PermissionToken::decode);
    }
    let bytes = root().to_bytes();
    let invalid = |at: usize, new: &[u8], field| {
        let found: Result<_, DecodeError> = PermissionToken::decode(&patched(&bytes, at, new));
        assert_eq!(fault(found), Fault::Invalid { field }, "{at}");
    };
    invalid(0, &[0], "version");
    invalid(1, &[0], "grants");
    invalid(1, &[9], "grants");
    invalid(RIGHTS, &[0], "rights");
    invalid(RIGHTS, &[16], "rights");
    invalid(DELEGATIONS, &[8], "delegations");
    invalid(SCOPE, &[2], "scope");
    invalid(SCOPE + 2, b"A", "channel name");
    invalid(SCOPE + 1, &[0], "channel name");
    let newer = PermissionToken::decode(&patched(&bytes, 0, &[2]));
    assert_eq!(fault(newer), Fault::NewerVersion { found: 2, known: 1 });
    assert_eq!(
        fault(PermissionToken::decode(&patched(&bytes, SCOPE + 2, &[0xff]))),
        Fault::Utf8
    );
    let longest = name(&"a".repeat(255));
    let mut token = issued(Terms {
        scope: Scope::Channel(longest),
        ..terms(7)
    });
    for step in 0..7 {
        token = token
            .delegate(&keypair(2 + step), Share::all(id(3 + step)), T, [0; 16])
            .expect("it may");
    }
    assert_eq!(token.to_bytes().len(), TOKEN_BYTES_MAX);
}

#[derive(Debug, Clone)]
struct Step {
    rights: Option<u8>,
    narrow: bool,
    sooner: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (prop::option::of(1u8..16), any::<bool>(), 0u64..3_000).prop_map(|(rights, narrow, sooner)| Step {
        rights,
        narrow,
        sooner,
    });
    prop::collection::vec(step, 0..8)
}

proptest! {
    /// Whatever is passed on, a token permits exactly what every grant of it permits.
    #[test]
    fn a_token_permits_what_all_its_grants_permit(steps in steps(), all in any::<bool>(), now in 0u64..5_000) {
        let scope = if all { Scope::All } else { Scope::Channel(name("a/b")) };
        let mut token = PermissionToken::issue(
            &keypair(1), Terms { scope, ..terms(7) }, T, Duration::from_secs(4), [0; 16],
        ).expect("good terms");
        for (step, wanted) in (2u8..).zip(&steps) {
            let bits = wanted.rights.unwrap_or(15);
            let share = Share {
                subject: id(step + 1),
                rights: wanted.rights.map(|_| Right::ALL.into_iter().filter(|right| bits & *right as u8 != 0).collect()),
                scope: wanted.narrow.then(|| Scope::Channel(name("a/b"))),
                not_after: Some(UnixMs::new(T.get() + 4_000 - wanted.sooner)),
            };
            match token.delegate(&keypair(step), share, T, [step; 16]) {
                Ok(passed) => token = passed,
                Err(error) => prop_assert!(matches!(
                    error.fault,
                    TokenFault::DelegationNotAllowed | TokenFault::DelegationExhausted
                        | TokenFault::NotAuthorized(Denied::Wider | Denied::Holder)
                )),
            }
        }
        let presenter = token.last().subject;
        let now = UnixMs::new(T.get() + now);
        for right in Right::ALL {
            for channel in ["a/b", "x"] {
                let asked = Asked { right, channel: name(channel), presenter, now, ..Asked::by(1) };
                let expected = token.grants().iter().all(|grant| {
                    grant.rights.contains(right) && grant.scope.covers(&asked.channel)
                        && grant.not_before <= now && now < grant.not_after
                });
                prop_assert_eq!(asked.of(&token).is_ok(), expected);
                prop_assert_eq!(token.recheck(&asked.demand()).is_ok(), expected);
            }
        }
        let bytes = token.to_bytes();
        prop_assert_eq!(PermissionToken::decode(&bytes), Ok(token));
    }
}
