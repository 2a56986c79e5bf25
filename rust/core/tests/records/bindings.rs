//! The ledger of subscriptions.

use meshos_core::bindings::{BindingError, DaemonBindings, SubscriptionBinding, TOKEN_BYTES_MAX};
use meshos_core::codec::Fault;
use meshos_core::id::NodeId;
use meshos_core::name::ChannelName;
use proptest::prelude::*;

use crate::support::{assert_exact, bindings, fault, patched};

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).expect("a good name")
}

fn two() -> DaemonBindings {
    let mut bindings = DaemonBindings::default();
    bindings
        .record(NodeId::new(1), name("a"), Some(vec![1, 2]))
        .expect("short");
    bindings.record(NodeId::new(1), name("b"), None).expect("short");
    bindings
}

#[test]
fn an_empty_ledger_is_no_bytes_and_zero_entries_are_no_ledger() {
    assert_eq!(DaemonBindings::default().encode(), [0; 0]);
    assert_eq!(DaemonBindings::decode(&[]), Ok(DaemonBindings::default()));
    assert_eq!(
        fault(DaemonBindings::decode(&[0; 4])),
        Fault::Invalid {
            field: "number of bindings"
        }
    );
}

#[test]
fn one_subscription_for_each_publisher_and_channel() {
    let mut bindings = two();
    bindings.record(NodeId::new(1), name("a"), None).expect("short");
    bindings.record(NodeId::new(0), name("b"), None).expect("short");
    let listed: Vec<_> = bindings
        .iter()
        .map(|one| (one.publisher.get(), one.channel.as_str()))
        .collect();
    assert_eq!(listed, [(0, "b"), (1, "a"), (1, "b")]);
    assert!(bindings.iter().all(|one| one.token.is_none()));
    assert!(bindings.forget(NodeId::new(1), &name("a")));
    assert!(!bindings.forget(NodeId::new(1), &name("a")));
    assert_eq!(bindings.len(), 2);
}

#[test]
fn a_token_that_does_not_fit_is_refused_when_it_is_recorded() {
    let mut bindings = two();
    let before = bindings.clone();
    let refused = bindings.record(NodeId::new(1), name("a"), Some(vec![0; TOKEN_BYTES_MAX + 1]));
    assert_eq!(refused, Err(BindingError::TokenTooLong { bytes: 65_536 }));
    assert_eq!(bindings, before);
    bindings
        .record(NodeId::new(1), name("a"), Some(vec![0; TOKEN_BYTES_MAX]))
        .expect("fits");
    assert_eq!(DaemonBindings::decode(&bindings.encode()), Ok(bindings));
}

#[test]
fn bytes_that_no_writer_writes_are_refused() {
    let bytes = two().encode();
    let (name_at, flag_at) = (4 + 8 + 2, 4 + 8 + 2 + 1);
    let second_at = flag_at + 1 + 2 + 2;
    let second_name_at = second_at + 8 + 2;
    let channel = Fault::Invalid { field: "channel name" };
    let cases = [
        (patched(&bytes, name_at, b"A"), channel),
        (patched(&bytes, name_at, b"."), channel),
        (patched(&bytes, name_at, &[0xff]), Fault::Utf8),
        (patched(&bytes, flag_at, &[2]), Fault::Invalid { field: "queue group" }),
        (patched(&bytes, flag_at, &[4]), Fault::Invalid { field: "token flag" }),
        (
            patched(&bytes, second_name_at, b"a"),
            Fault::Invalid {
                field: "order of bindings",
            },
        ),
        (
            patched(&bytes, second_at, &[0]),
            Fault::Invalid {
                field: "order of bindings",
            },
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(fault(DaemonBindings::decode(&bytes)), expected);
    }
    for count in [3_u32, 1 << 31, u32::MAX] {
        let hostile = patched(&bytes, 0, &count.to_le_bytes());
        assert!(matches!(
            fault(DaemonBindings::decode(&hostile)),
            Fault::Truncated { .. }
        ));
    }
}

proptest! {
    #[test]
    fn a_ledger_survives_its_wire_form(bindings in bindings()) {
        let bytes = bindings.encode();
        prop_assert_eq!(bytes.len(), bindings.encoded_len());
        prop_assert_eq!(DaemonBindings::decode(&bytes), Ok(bindings));
        // The beginning of no bytes is a ledger: the empty one.
        assert_exact(&bytes, 1, DaemonBindings::decode);
    }

    #[test]
    fn the_order_of_recording_does_not_matter(bindings in bindings()) {
        let mut backwards = DaemonBindings::default();
        let all: Vec<SubscriptionBinding> = bindings.iter().cloned().collect();
        for SubscriptionBinding { publisher, channel, token, .. } in all.into_iter().rev() {
            backwards.record(publisher, channel, token).expect("short");
        }
        prop_assert_eq!(backwards, bindings);
    }
}
