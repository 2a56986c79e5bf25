//! Who has the key of a gated channel, and when it changes.

use std::collections::{BTreeMap, BTreeSet};

use meshos_core::channel_keys::{Action, ChannelKeys, LEFT_MAX, Signal, Standing};
use meshos_core::id::EntityId;
use meshos_core::name::ChannelName;
use meshos_core::sealed_channel::{ChannelKey, HandedKey, Keyring, NotOpened, Place, seal};
use meshos_core::testing::samples::keypair;
use proptest::collection::vec;
use proptest::prelude::*;
use zeroize::Zeroizing;

fn id(number: usize) -> EntityId {
    let mut raw = [0xab; 32];
    raw[..8].copy_from_slice(&number.to_be_bytes());
    EntityId::from_bytes(raw)
}

const X: usize = 1;
const OTHER: usize = 2;

/// A channel where `X` stands so, and another subscribes.
fn channel(standing: Option<Standing>) -> ChannelKeys {
    let (mut keys, opened) = ChannelKeys::open(5);
    assert_eq!(opened, Action::NewGeneration { generation: 5 });
    let _ = keys.step(&Signal::Accepted(id(OTHER)));
    if standing.is_some() {
        let _ = keys.step(&Signal::Accepted(id(X)));
    }
    if standing == Some(Standing::Left) {
        assert_eq!(keys.step(&Signal::Unsubscribed(id(X))), []);
    }
    assert_eq!(keys.standing(&id(X)), standing);
    keys
}

fn hand(to: usize, generation: u64) -> Action {
    Action::Hand { to: id(to), generation }
}

#[test]
fn table() {
    use Standing::{Left, Subscribed};
    let changed = [Action::NewGeneration { generation: 6 }];
    let refused = Action::Refuse { to: id(X) };
    let for_other = [changed[0], hand(OTHER, 6)];
    let for_both = [changed[0], hand(X, 6), hand(OTHER, 6)];
    type Row<'a> = (Option<Standing>, Signal, &'a [Action], Option<Standing>);
    let them = || Signal::Revoked(vec![id(X)]);
    let rows: &[Row<'_>] = &[
        (None, Signal::Accepted(id(X)), &[hand(X, 5)], Some(Subscribed)),
        (
            Some(Subscribed),
            Signal::Accepted(id(X)),
            &[hand(X, 5)],
            Some(Subscribed),
        ),
        (Some(Left), Signal::Accepted(id(X)), &[hand(X, 5)], Some(Subscribed)),
        (None, Signal::Unsubscribed(id(X)), &[], None),
        (Some(Subscribed), Signal::Unsubscribed(id(X)), &[], Some(Left)),
        (Some(Left), Signal::Unsubscribed(id(X)), &[], Some(Left)),
        (None, Signal::Asked(id(X)), &[refused], None),
        (Some(Subscribed), Signal::Asked(id(X)), &[hand(X, 5)], Some(Subscribed)),
        (Some(Left), Signal::Asked(id(X)), &[refused], Some(Left)),
        (None, them(), &[], None),
        (Some(Subscribed), them(), &for_other, None),
        (Some(Left), them(), &for_other, None),
        (None, Signal::Rotate, &for_other, None),
        (Some(Subscribed), Signal::Rotate, &for_both, Some(Subscribed)),
        (Some(Left), Signal::Rotate, &for_other, None),
    ];
    for (standing, signal, actions, after) in rows {
        let mut keys = channel(*standing);
        assert_eq!(keys.step(signal), *actions, "{standing:?}, {signal:?}");
        assert_eq!(keys.standing(&id(X)), *after, "{standing:?}, {signal:?}");
        assert_eq!(keys.generation(), if actions.contains(&changed[0]) { 6 } else { 5 });
        assert_eq!(keys.standing(&id(OTHER)), Some(Subscribed));
        let counted = u64::from(actions.contains(&refused));
        assert_eq!(keys.refused(), counted);
        // Repeated, it changes no more than once, but for who wants another change or asks again.
        let once = keys.clone();
        let again = keys.step(signal);
        match signal {
            Signal::Rotate => assert_eq!(keys.generation(), 7),
            Signal::Asked(_) => assert_eq!(again, *actions),
            Signal::Accepted(_) => assert_eq!((again, keys), (vec![hand(X, 5)], once)),
            Signal::Unsubscribed(_) | Signal::Revoked(_) => assert_eq!((again, keys), (vec![], once)),
        }
    }
}

#[test]
fn many_revoked_at_once_change_the_key_once() {
    let (mut keys, _) = ChannelKeys::open(1);
    for number in 0..10 {
        let _ = keys.step(&Signal::Accepted(id(number)));
    }
    let actions = keys.step(&Signal::Revoked((0..8).map(id).chain([id(99)]).collect()));
    assert_eq!(
        actions,
        [Action::NewGeneration { generation: 2 }, hand(8, 2), hand(9, 2)]
    );
}

#[test]
fn those_who_left_are_bounded() {
    let (mut keys, _) = ChannelKeys::open(1);
    for number in 0..LEFT_MAX {
        let _ = keys.step(&Signal::Accepted(id(number)));
        assert_eq!(keys.step(&Signal::Unsubscribed(id(number))), []);
    }
    assert_eq!((keys.generation(), keys.known_by().count()), (1, LEFT_MAX));
    let _ = keys.step(&Signal::Accepted(id(LEFT_MAX)));
    let last = keys.step(&Signal::Unsubscribed(id(LEFT_MAX)));
    assert_eq!(last, [Action::NewGeneration { generation: 2 }]);
    assert_eq!(keys.known_by().count(), 0);
}

/// A publisher and its readers, with real keys.
struct Channel {
    keys: ChannelKeys,
    made: BTreeMap<u64, ChannelKey>,
    readers: BTreeMap<EntityId, (u8, Keyring)>,
    name: ChannelName,
    chance: u8,
}

const NODE: u8 = 200;

impl Channel {
    fn open() -> Self {
        let (keys, opened) = ChannelKeys::open(1);
        let name = ChannelName::new("plant/alarms").expect("a good name");
        let node = keypair(NODE).entity_id();
        let reader = |byte| (keypair(byte).entity_id(), (byte, Keyring::new(node, name.clone())));
        let mut made = Self {
            keys,
            made: BTreeMap::new(),
            readers: (0..4).map(reader).collect(),
            name: name.clone(),
            chance: 0,
        };
        made.act(&[opened]);
        made
    }

    fn act(&mut self, actions: &[Action]) {
        for action in actions {
            self.chance += 1;
            let random = [self.chance; 32];
            match *action {
                Action::NewGeneration { generation } => {
                    assert!(self.made.insert(generation, ChannelKey::new(random)).is_none());
                }
                Action::Hand { to, generation } => {
                    let (key, secret) = (&self.made[&generation], Zeroizing::new(random));
                    let handed = HandedKey::seal(key, generation, &self.name, &keypair(NODE), &to, &secret);
                    let (byte, ring) = self.readers.get_mut(&to).expect("one of the readers");
                    ring.take(&handed.expect("full keys"), &keypair(*byte))
                        .expect("it is for them");
                }
                Action::Refuse { .. } => {}
            }
        }
    }

    fn publish(&self) -> Vec<u8> {
        let generation = self.keys.generation();
        let place = Place {
            channel: &self.name,
            publisher: &keypair(NODE).entity_id(),
            sequence: 1,
        };
        seal(&self.made[&generation], generation, &place, b"secret")
    }
}

proptest! {
    /// Who subscribes reads. Who was revoked does not read what comes later, unless accepted anew.
    #[test]
    fn who_may_read_reads_and_who_was_revoked_does_not(steps in vec((0u8..5, 0u8..4), 1..40)) {
        let mut channel = Channel::open();
        let (mut subscribed, mut revoked) = (BTreeSet::new(), BTreeSet::new());
        for (what, who) in steps {
            let who = keypair(who).entity_id();
            let signal = match what {
                0 => Signal::Accepted(who),
                1 => Signal::Unsubscribed(who),
                2 => Signal::Asked(who),
                3 => Signal::Revoked(vec![who]),
                _ => Signal::Rotate,
            };
            match what {
                0 => {
                    subscribed.insert(who);
                    revoked.remove(&who);
                }
                1 => drop(subscribed.remove(&who)),
                3 => {
                    subscribed.remove(&who);
                    revoked.insert(who);
                }
                _ => {}
            }
            let actions = channel.keys.step(&signal);
            let entitled = actions.iter().all(|action| match action {
                Action::Hand { to, .. } => subscribed.contains(to),
                _ => true,
            });
            prop_assert!(entitled);
            channel.act(&actions);
            let bytes = channel.publish();
            let knows: BTreeSet<_> = channel.keys.known_by().map(|(who, _)| *who).collect();
            for (who, (_, ring)) in &channel.readers {
                let opened = ring.open(1, &bytes);
                // The machine knows exactly who can read.
                prop_assert_eq!(opened.is_ok(), knows.contains(who));
                if subscribed.contains(who) {
                    prop_assert_eq!(opened.as_deref(), Ok(&b"secret"[..]));
                }
                if revoked.contains(who) {
                    let generation = channel.keys.generation();
                    prop_assert_eq!(opened, Err(NotOpened::UnknownGeneration { generation }));
                }
            }
        }
    }
}
