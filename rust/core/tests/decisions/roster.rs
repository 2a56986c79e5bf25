//! Who subscribes to the channels of a node, and who is refused.

use std::collections::BTreeMap;
use std::time::Duration;

use meshos_core::channel_frame::Reason;
use meshos_core::channel_policy::ChannelPolicy;
use meshos_core::id::EntityId;
use meshos_core::name::ChannelName;
use meshos_core::revocation::{Revocation, Revocations, Target};
use meshos_core::roster::{Change, Limits, Request, Roster, SKEW, Why};
use meshos_core::testing::samples::keypair;
use meshos_core::time::UnixMs;
use meshos_core::token::{PermissionToken, Right, Scope, Terms};
use proptest::collection::vec;
use proptest::prelude::*;

const OWN: u8 = 1;
const ROOT: u8 = 2;
const T: UnixMs = UnixMs::new(1_000_000_000);
const HOUR: Duration = Duration::from_secs(3_600);

fn id(byte: u8) -> EntityId {
    keypair(byte).entity_id()
}

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).expect("a good name")
}

fn later(span: Duration) -> UnixMs {
    T.plus(span)
}

fn roster() -> Roster {
    Roster::new(id(OWN), Limits::default())
}

fn gated() -> Roster {
    let mut roster = roster();
    let policy = ChannelPolicy {
        requires_token: true,
        roots: [id(ROOT)].into(),
        ..ChannelPolicy::default()
    };
    let opened = roster.open(&name("gated"), policy, T, &Revocations::default());
    assert_eq!(opened, Ok(Vec::new()));
    roster
}

fn token(issuer: u8, subject: u8, right: Right, channel: Option<&str>) -> PermissionToken {
    let terms = Terms {
        subject: id(subject),
        scope: channel.map_or(Scope::All, |text| Scope::Channel(name(text))),
        rights: [right].into_iter().collect(),
        delegations: 0,
    };
    PermissionToken::issue(&keypair(issuer), terms, T, HOUR, [subject; 16]).expect("good terms")
}

fn readable(subject: u8) -> PermissionToken {
    token(OWN, subject, Right::Subscribe, Some("gated"))
}

fn request(node: u8, subscriber: u8, channel: &str) -> Request {
    Request {
        node: id(node),
        subscriber: id(subscriber),
        epoch: 1,
        proven: true,
        channel: name(channel),
        group: None,
        token: None,
    }
}

fn with(token: PermissionToken, subscriber: u8) -> Request {
    Request {
        token: Some(token),
        ..request(10, subscriber, "gated")
    }
}

fn subscribe(roster: &mut Roster, request: Request) -> Result<Option<Change>, Reason> {
    roster.subscribe(request, T, &Revocations::default())
}

fn added(channel: &str, subscriber: u8) -> Result<Option<Change>, Reason> {
    let (channel, subscriber) = (name(channel), id(subscriber));
    Ok(Some(Change::Added { channel, subscriber }))
}

fn removed(changes: &[Change]) -> Vec<(EntityId, Why)> {
    let removed = |change: &Change| match change {
        Change::Removed { subscriber, why, .. } => Some((*subscriber, *why)),
        _ => None,
    };
    changes.iter().filter_map(removed).collect()
}

#[test]
fn an_open_channel_is_made_when_it_is_asked_for_and_a_repetition_changes_nothing() {
    let mut roster = roster();
    assert_eq!(subscribe(&mut roster, request(10, 20, "a")), added("a", 20));
    assert_eq!(subscribe(&mut roster, request(10, 20, "a")), Ok(None));
    assert_eq!(subscribe(&mut roster, request(10, 20, "b")), added("b", 20));
    assert_eq!(roster.members(&name("a")).count(), 1);
    let gone = roster.unsubscribe(&id(10), &name("a"), &id(20)).expect("it was there");
    assert_eq!(removed(&[gone]), [(id(20), Why::Unsubscribed)]);
    assert_eq!(roster.unsubscribe(&id(10), &name("a"), &id(20)), None);
    assert_eq!(roster.sizes(), (1, 0));
}

#[test]
fn two_daemons_of_one_node_do_not_disturb_each_other() {
    let mut roster = roster();
    for subscriber in [20, 21] {
        assert_eq!(
            subscribe(&mut roster, request(10, subscriber, "a")),
            added("a", subscriber)
        );
    }
    assert!(roster.unsubscribe(&id(10), &name("a"), &id(20)).is_some());
    assert!(roster.member(&name("a"), &id(21)).is_some());
    // Nobody ends the subscription of another node.
    assert_eq!(roster.unsubscribe(&id(11), &name("a"), &id(21)), None);
    assert_eq!(removed(&roster.node_lost(&id(10))), [(id(21), Why::NodeLost)]);
    assert_eq!(roster.node_lost(&id(10)), []);
}

#[test]
fn a_subscription_moves_with_its_daemon_and_no_former_owner_takes_it_back() {
    let mut roster = roster();
    let _ = subscribe(&mut roster, request(10, 20, "a"));
    let from = |node, epoch| Request {
        epoch,
        ..request(node, 20, "a")
    };
    // Two nodes in one term: one of them is wrong, and it is not the one that was first.
    assert_eq!(subscribe(&mut roster, from(11, 1)), Err(Reason::Unauthorized));
    let moved = Change::Moved {
        channel: name("a"),
        subscriber: id(20),
        before: (id(10), None),
    };
    assert_eq!(subscribe(&mut roster, from(11, 2)), Ok(Some(moved)));
    assert_eq!(subscribe(&mut roster, from(10, 1)), Err(Reason::Unauthorized));
    assert_eq!(roster.unsubscribe(&id(10), &name("a"), &id(20)), None);
    assert_eq!(roster.node_lost(&id(10)), []);
    assert_eq!(
        roster.member(&name("a"), &id(20)).map(|member| member.node),
        Some(id(11))
    );
    let grouped = Request {
        group: Some(name("pagers")),
        ..from(11, 2)
    };
    let moved = Change::Moved {
        channel: name("a"),
        subscriber: id(20),
        before: (id(11), None),
    };
    assert_eq!(subscribe(&mut roster, grouped), Ok(Some(moved)));
}

#[test]
fn a_gated_channel_needs_a_token_that_permits_it_and_proof_of_who_asks() {
    let no = Err(Reason::Unauthorized);
    let refused = [
        request(10, 20, "gated"),
        with(readable(21), 20),
        with(token(OWN, 20, Right::Publish, Some("gated")), 20),
        with(token(OWN, 20, Right::Subscribe, Some("other")), 20),
        with(token(OWN, 20, Right::Subscribe, Some("gated/below")), 20),
        with(token(7, 20, Right::Subscribe, None), 20),
        Request {
            proven: false,
            ..with(readable(20), 20)
        },
    ];
    for (number, request) in refused.into_iter().enumerate() {
        let mut roster = gated();
        assert_eq!(subscribe(&mut roster, request), no, "request {number}");
        assert_eq!((roster.members(&name("gated")).count(), roster.refused()), (0, 1));
    }
    for permitted in [
        readable(20),
        token(OWN, 20, Right::Subscribe, None),
        token(ROOT, 20, Right::Subscribe, Some("gated")),
    ] {
        assert_eq!(subscribe(&mut gated(), with(permitted, 20)), added("gated", 20));
    }
    let none = Revocations::default();
    let at = |now| gated().subscribe(with(readable(20), 20), now, &none);
    assert_eq!(at(later(HOUR)), no);
    let early = UnixMs::new(T.get() - u64::try_from(SKEW.as_millis()).expect("small"));
    assert_eq!(at(early), added("gated", 20));
    assert_eq!(at(UnixMs::new(early.get() - 1)), no);
}

#[test]
fn whose_permission_ends_is_removed() {
    let none = Revocations::default();
    let mut roster = gated();
    for subscriber in [20, 21] {
        assert_eq!(
            subscribe(&mut roster, with(readable(subscriber), subscriber)),
            added("gated", subscriber)
        );
    }
    assert_eq!(roster.sweep(T, &none), []);
    let mut known = Revocations::default();
    let stated = Revocation::sign(Target::Subject(id(20)), T, &keypair(OWN)).expect("a full pair");
    known.add(&stated).expect("signed");
    assert_eq!(removed(&roster.sweep(T, &known)), [(id(20), Why::Unauthorized)]);
    let again = roster.subscribe(with(readable(20), 20), T, &known);
    assert_eq!(again, Err(Reason::Unauthorized));
    assert_eq!(
        removed(&roster.sweep(later(HOUR), &known)),
        [(id(21), Why::Unauthorized)]
    );
}

/// Who left knows the key in force.
#[test]
fn who_left_is_looked_at_until_its_token_ends() {
    let none = Revocations::default();
    let lapsed = |subscriber| Change::Lapsed {
        channel: name("gated"),
        subscriber: id(subscriber),
    };
    let left = |lost: bool| {
        let mut roster = gated();
        for subscriber in [20, 21] {
            assert!(subscribe(&mut roster, with(readable(subscriber), subscriber)).is_ok());
        }
        if lost {
            assert_eq!(roster.node_lost(&id(10)).len(), 2);
        } else {
            assert!(roster.unsubscribe(&id(10), &name("gated"), &id(20)).is_some());
        }
        assert_eq!(roster.sweep(T, &none), []);
        roster
    };
    let mut roster = left(true);
    assert_eq!(roster.sweep(later(HOUR), &none), [lapsed(20), lapsed(21)]);
    assert_eq!(roster.sweep(later(HOUR), &none), []);
    let mut known = Revocations::default();
    let stated = Revocation::sign(Target::Everything, T, &keypair(OWN)).expect("a full pair");
    known.add(&stated).expect("signed");
    let mut roster = left(false);
    let changes = roster.sweep(T, &known);
    assert_eq!(changes[0], lapsed(20));
    assert_eq!(removed(&changes), [(id(21), Why::Unauthorized)]);
    assert_eq!(roster.sweep(later(HOUR), &known), []);
    // Who came back is a member; when the key has changed nobody who left knows it; an open channel has none.
    let mut roster = left(false);
    assert!(subscribe(&mut roster, with(readable(20), 20)).is_ok());
    assert_eq!(removed(&roster.sweep(later(HOUR), &none)).len(), 2);
    assert_eq!(roster.sweep(later(HOUR), &none), []);
    let mut roster = left(true);
    roster.forget_left(&name("gated"));
    assert_eq!(roster.sweep(later(HOUR), &none), []);
    let mut roster = left(true);
    let opened = roster.open(&name("gated"), ChannelPolicy::default(), later(HOUR), &none);
    assert_eq!(opened, Ok(Vec::new()));
    assert_eq!(roster.sweep(later(HOUR), &none), []);
}

#[test]
fn who_came_while_a_channel_was_open_is_judged_when_it_is_gated() {
    let mut roster = roster();
    let unproven = |subscriber| Request {
        proven: false,
        ..with(readable(subscriber), subscriber)
    };
    let forged = {
        let mut bytes = readable(23).to_bytes();
        *bytes.last_mut().expect("a signature") ^= 1;
        PermissionToken::decode(&bytes).expect("in form")
    };
    for request in [
        request(10, 20, "gated"),
        unproven(21),
        with(readable(22), 22),
        with(forged, 23),
    ] {
        assert!(subscribe(&mut roster, request).is_ok());
    }
    let policy = ChannelPolicy {
        requires_token: true,
        ..ChannelPolicy::default()
    };
    let changes = roster
        .open(&name("gated"), policy, T, &Revocations::default())
        .expect("there is room");
    let mut gone = removed(&changes);
    gone.sort_by_key(|(who, _)| *who);
    let mut expected = [20, 21, 23].map(|byte| (id(byte), Why::Unauthorized));
    expected.sort_by_key(|(who, _)| *who);
    assert_eq!(gone, expected);
}

#[test]
fn a_remote_publisher_needs_the_right_to_publish() {
    let (roster, none) = (gated(), Revocations::default());
    let may = |token: Option<&PermissionToken>| roster.may_publish(&name("gated"), &id(20), token, T, &none);
    let writable = token(OWN, 20, Right::Publish, Some("gated"));
    assert_eq!(may(None), Err(Reason::Unauthorized));
    assert_eq!(may(Some(&readable(20))), Err(Reason::Unauthorized));
    assert_eq!(
        may(Some(&token(OWN, 21, Right::Publish, Some("gated")))),
        Err(Reason::Unauthorized)
    );
    assert_eq!(may(Some(&writable)), Ok(()));
    assert_eq!(roster.may_publish(&name("open"), &id(20), None, T, &none), Ok(()));
}

#[test]
fn bounds_refuse_what_is_new_and_nothing_else() {
    let limits = Limits {
        per_node_max: 2,
        per_channel_max: 2,
        channels_max: 2,
        ..Limits::default()
    };
    let mut roster = Roster::new(id(OWN), limits);
    assert_eq!(subscribe(&mut roster, request(10, 20, "a")), added("a", 20));
    assert_eq!(subscribe(&mut roster, request(10, 21, "a")), added("a", 21));
    assert_eq!(subscribe(&mut roster, request(10, 22, "b")), Err(Reason::TooMany));
    assert_eq!(subscribe(&mut roster, request(11, 22, "a")), Err(Reason::TooMany));
    assert_eq!(subscribe(&mut roster, request(10, 20, "a")), Ok(None));
    assert_eq!(subscribe(&mut roster, request(11, 22, "b")), added("b", 22));
    assert_eq!(subscribe(&mut roster, request(11, 22, "c")), Err(Reason::TooMany));
    let opened = roster.open(&name("c"), ChannelPolicy::default(), T, &Revocations::default());
    assert_eq!(opened, Err(Reason::TooMany));
    // A full node does not count as refused for what it may not.
    assert_eq!(roster.sizes(), (2, 0));
}

/// At the bound a repeated request is accepted, but judged anew.
#[test]
fn a_repetition_at_the_bound_is_judged_anew() {
    let limits = Limits {
        per_node_max: 1,
        ..Limits::default()
    };
    let mut roster = Roster::new(id(OWN), limits);
    let policy = ChannelPolicy {
        requires_token: true,
        ..ChannelPolicy::default()
    };
    let none = Revocations::default();
    roster.open(&name("gated"), policy, T, &none).expect("there is room");
    assert_eq!(subscribe(&mut roster, with(readable(20), 20)), added("gated", 20));
    assert_eq!(subscribe(&mut roster, with(readable(20), 20)), Ok(None));
    assert_eq!(
        subscribe(&mut roster, request(10, 20, "gated")),
        Err(Reason::Unauthorized)
    );
    assert_eq!(
        roster.subscribe(with(readable(20), 20), later(HOUR), &none),
        Err(Reason::Unauthorized)
    );
}

#[test]
fn who_is_refused_too_often_is_not_listened_to_for_a_while() {
    let limits = Limits {
        refusals_max: 3,
        counted_max: 1,
        ..Limits::default()
    };
    let (mut roster, none) = (Roster::new(id(OWN), limits), Revocations::default());
    let policy = ChannelPolicy {
        requires_token: true,
        ..ChannelPolicy::default()
    };
    roster.open(&name("gated"), policy, T, &none).expect("there is room");
    for _ in 0..3 {
        assert_eq!(
            subscribe(&mut roster, request(10, 20, "gated")),
            Err(Reason::Unauthorized)
        );
    }
    assert_eq!(
        subscribe(&mut roster, request(10, 20, "gated")),
        Err(Reason::RateLimited)
    );
    assert_eq!(subscribe(&mut roster, with(readable(20), 20)), Err(Reason::RateLimited));
    // Another node is listened to, though its refusals are not counted beyond the bound.
    for _ in 0..5 {
        let other = request(11, 20, "gated");
        assert_eq!(subscribe(&mut roster, other), Err(Reason::Unauthorized));
    }
    assert_eq!(roster.sizes().1, 1);
    let after = later(limits.pause);
    assert_eq!(
        roster.subscribe(with(readable(20), 20), after, &none),
        added("gated", 20)
    );
    assert_eq!(roster.sizes().1, 0);
}

#[test]
fn a_closed_channel_has_nobody_and_no_policy() {
    let mut roster = gated();
    assert_eq!(subscribe(&mut roster, with(readable(20), 20)), added("gated", 20));
    assert_eq!(removed(&roster.close(&name("gated"))), [(id(20), Why::Closed)]);
    assert_eq!(roster.close(&name("gated")), []);
    assert!(!roster.policy(&name("gated")).requires_token);
    assert_eq!(roster.sizes(), (0, 0));
}

proptest! {
    /// Against a map: who subscribes is who was accepted and not removed since.
    #[test]
    fn the_roster_follows_a_short_model(steps in vec((0u8..4, 10u8..13, 20u8..23, 0u8..2, 1u64..4), 1..60)) {
        let mut roster = roster();
        let mut model: BTreeMap<(u8, u8), (u8, u64)> = BTreeMap::new();
        for (what, node, subscriber, channel, epoch) in steps {
            let text = ["a", "b"][usize::from(channel)];
            match what {
                0 | 1 => {
                    let asked = Request { epoch, ..request(node, subscriber, text) };
                    let known = model.get(&(channel, subscriber)).copied();
                    let stale = known.is_some_and(|(at, term)| term > epoch || (term == epoch && at != node));
                    prop_assert_eq!(subscribe(&mut roster, asked).is_err(), stale);
                    if !stale {
                        model.insert((channel, subscriber), (node, epoch));
                    }
                }
                2 => {
                    let gone = roster.unsubscribe(&id(node), &name(text), &id(subscriber)).is_some();
                    let known = model.get(&(channel, subscriber)).is_some_and(|(at, _)| *at == node);
                    prop_assert_eq!(gone, known);
                    if known {
                        model.remove(&(channel, subscriber));
                    }
                }
                _ => {
                    let gone = roster.node_lost(&id(node)).len();
                    let before = model.len();
                    model.retain(|_, (at, _)| *at != node);
                    prop_assert_eq!(gone, before - model.len());
                }
            }
            for channel in 0..2u8 {
                let text = ["a", "b"][usize::from(channel)];
                let found: BTreeMap<_, _> =
                    roster.members(&name(text)).map(|(who, member)| (*who, (member.node, member.epoch))).collect();
                let wanted: BTreeMap<_, _> = model
                    .iter()
                    .filter(|((of, _), _)| *of == channel)
                    .map(|((_, who), (node, epoch))| (id(*who), (id(*node), *epoch)))
                    .collect();
                prop_assert_eq!(found, wanted);
            }
        }
    }
}
