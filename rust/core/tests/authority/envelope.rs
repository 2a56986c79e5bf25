//! One envelope, one encoding.

use std::time::Duration;

use meshos_core::blast::{BlastRadius, BlastWarning};
use meshos_core::command::{AdminEvent, AvoidScope, ChainId, IceAction};
use meshos_core::envelope::{AdminEnvelope, IceEnvelope, operator_id};
use meshos_core::id::{NodeId, Origin};
use proptest::prelude::*;

use crate::{blast, cordon, freeze, header, key, signed};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn known_bytes() {
    let expected = "010200000002000000000000000300000000000000000000000000000001e09304000000000000000000010000000100";
    assert_eq!(hex(&blast().to_bytes()), expected);
    let hash = "3e88cde72c26bd0169818a4d997dce59ea6d4a045eb54192d3ea123b3abe6c2a";
    assert_eq!(hex(&blast().hash()), hash);
    let public = key(1).entity_id();
    assert_eq!(
        hex(public.as_bytes()),
        "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"
    );
    assert_eq!(operator_id(&public), 0x9fc7_1559_6599_9251);
    assert_eq!(operator_id(&key(2).entity_id()), 0xf61e_c30d_de32_951e);
}

#[test]
fn the_signed_bytes_are_what_the_page_says() {
    let bytes = freeze().signing_bytes();
    let mut expected = b"meshos.ice.v1\0\x01".to_vec();
    expected.extend_from_slice(&header().cluster);
    expected.extend_from_slice(&header().envelope_id);
    expected.extend_from_slice(&1_700_000_000_000_u64.to_le_bytes());
    expected.extend_from_slice(&1_700_000_300_000_u64.to_le_bytes());
    expected.push(2);
    expected.extend_from_slice(&blast().hash());
    expected.extend_from_slice(&[9, 0, 0, 0, 1]);
    expected.extend_from_slice(&300_000_u64.to_le_bytes());
    expected.extend_from_slice(&11_u32.to_le_bytes());
    expected.extend_from_slice(b"incident 42");
    assert_eq!(hex(&bytes), hex(&expected));
    assert!(cordon().signing_bytes().starts_with(b"meshos.admin.v1\0\x01"));
}

#[test]
fn every_single_bit_counts() {
    let mut ice = freeze();
    ice.signatures.push(signed(1, &ice.signing_bytes()));
    let bytes = ice.to_bytes();
    assert_eq!(IceEnvelope::decode(&bytes).as_ref(), Ok(&ice));
    let mut admin = cordon();
    admin.signature = Some(signed(1, &admin.signing_bytes()));
    let admin_bytes = admin.to_bytes();
    assert_eq!(AdminEnvelope::decode(&admin_bytes).as_ref(), Ok(&admin));
    for bit in 0..bytes.len() * 8 {
        let mut altered = bytes.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(IceEnvelope::decode(&altered).is_err(), "bit {bit}");
    }
    for bit in 0..admin_bytes.len() * 8 {
        let mut altered = admin_bytes.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(AdminEnvelope::decode(&altered).is_err(), "bit {bit}");
    }
}

#[test]
fn one_kind_does_not_read_as_the_other() {
    assert!(AdminEnvelope::decode(&freeze().to_bytes()).is_err());
    assert!(IceEnvelope::decode(&cordon().to_bytes()).is_err());
}

#[test]
fn what_stands_behind_the_end_or_is_missing_is_refused() {
    let bytes = freeze().to_bytes();
    for length in 0..bytes.len() {
        assert!(IceEnvelope::decode(&bytes[..length]).is_err());
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(IceEnvelope::decode(&longer).is_err());
}

#[test]
fn lists_out_of_order_are_refused() {
    let unsorted = BlastRadius {
        nodes: vec![NodeId::new(3), NodeId::new(2)],
        ..BlastRadius::default()
    };
    let twice = BlastRadius {
        nodes: vec![NodeId::new(2), NodeId::new(2)],
        ..BlastRadius::default()
    };
    for blast in [unsorted, twice] {
        assert!(BlastRadius::decode(&blast.to_bytes()).is_err());
        let envelope = IceEnvelope { blast, ..freeze() };
        assert!(IceEnvelope::decode(&envelope.to_bytes()).is_err());
    }
}

#[test]
fn every_warning_has_its_tag() {
    for tag in 0..=255_u8 {
        for targets in [&[][..], &[1], &[1, 2]] {
            if let Some(warning) = BlastWarning::of(tag, targets) {
                assert_eq!((warning.tag(), warning.targets().as_slice()), (tag, targets));
            }
        }
    }
    let known = (0..=255_u8).filter(|tag| {
        [&[][..], &[1], &[1, 2]]
            .iter()
            .any(|t| BlastWarning::of(*tag, t).is_some())
    });
    assert_eq!(known.count(), 16);
}

fn actions() -> impl Strategy<Value = IceAction> {
    let node = any::<u64>().prop_map(NodeId::new);
    let chain = any::<u64>().prop_map(ChainId::new);
    prop_oneof![
        any::<u64>().prop_map(|ms| IceAction::FreezeCluster {
            ttl: Duration::from_millis(ms)
        }),
        Just(IceAction::ThawCluster),
        node.clone().prop_map(|node| IceAction::FlushAvoidLists {
            scope: AvoidScope::Local(node)
        }),
        node.clone().prop_map(|node| IceAction::FlushAvoidLists {
            scope: AvoidScope::OnPeer(node)
        }),
        Just(IceAction::FlushAvoidLists {
            scope: AvoidScope::Global
        }),
        (chain.clone(), node.clone()).prop_map(|(chain, victim)| IceAction::ForceEvictReplica { chain, victim }),
        (any::<u64>(), "\\PC{0,40}").prop_map(|(id, name)| IceAction::ForceRestartDaemon {
            daemon: Origin::new(id),
            name
        }),
        (chain, node).prop_map(|(chain, target)| IceAction::ForceCutover { chain, target }),
        any::<u64>().prop_map(|id| IceAction::KillMigration {
            migration: Origin::new(id)
        }),
    ]
}

fn events() -> impl Strategy<Value = AdminEvent> {
    let node = any::<u64>().prop_map(NodeId::new);
    let span = any::<u64>().prop_map(Duration::from_millis);
    prop_oneof![
        (node.clone(), proptest::option::of(span.clone()))
            .prop_map(|(node, drain_for)| AdminEvent::EnterMaintenance { node, drain_for }),
        node.clone().prop_map(|node| AdminEvent::ExitMaintenance { node }),
        (node.clone(), span).prop_map(|(node, drain_for)| AdminEvent::Drain { node, drain_for }),
        node.clone().prop_map(|node| AdminEvent::Cordon { node }),
        node.clone().prop_map(|node| AdminEvent::Uncordon { node }),
        node.clone().prop_map(|node| AdminEvent::RestartAllDaemons { node }),
        node.clone().prop_map(|node| AdminEvent::ClearAvoidList { node }),
        (
            node.clone(),
            proptest::collection::vec(any::<u64>().prop_map(ChainId::new), 0..20)
        )
            .prop_map(|(node, chains)| AdminEvent::DropReplicas { node, chains }),
        node.prop_map(|node| AdminEvent::InvalidatePlacement { node }),
    ]
}

proptest! {
    #[test]
    fn break_glass_envelopes_come_back(action in actions(), reason in "\\PC{0,60}", threshold: u8) {
        let mut envelope = IceEnvelope { action, threshold, ..freeze() };
        envelope.header.reason = reason;
        envelope.signatures.push(signed(3, &envelope.signing_bytes()));
        prop_assert_eq!(IceEnvelope::decode(&envelope.to_bytes()), Ok(envelope));
    }

    #[test]
    fn ordinary_envelopes_come_back(event in events(), reason in "\\PC{0,60}") {
        let mut envelope = AdminEnvelope { event, ..cordon() };
        envelope.header.reason = reason;
        prop_assert_eq!(AdminEnvelope::decode(&envelope.to_bytes()), Ok(envelope.clone()));
        envelope.signature = Some(signed(3, &envelope.signing_bytes()));
        prop_assert_eq!(AdminEnvelope::decode(&envelope.to_bytes()), Ok(envelope));
    }

    #[test]
    fn what_decodes_has_no_other_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(envelope) = IceEnvelope::decode(&bytes) {
            prop_assert_eq!(envelope.to_bytes(), bytes.clone());
        }
        if let Ok(envelope) = AdminEnvelope::decode(&bytes) {
            prop_assert_eq!(envelope.to_bytes(), bytes);
        }
    }
}
