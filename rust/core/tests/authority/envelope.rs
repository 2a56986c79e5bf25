//! One envelope, one encoding.

use std::time::Duration;

use meshos_core::blast::{BlastRadius, BlastWarning};
use meshos_core::command::{AdminEvent, AvoidScope, ChainId, IceAction};
use meshos_core::envelope::{AdminEnvelope, IceEnvelope, operator_id};
use meshos_core::id::{NodeId, Origin};
use meshos_core::time::UnixMs;
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

#[test]
fn what_cannot_be_written_is_told() {
    fn admin(event: AdminEvent) -> Option<&'static str> {
        let envelope = AdminEnvelope { event, ..cordon() };
        envelope.validate().err().map(|error| error.field)
    }
    fn ice(action: IceAction) -> Option<&'static str> {
        let envelope = IceEnvelope { action, ..freeze() };
        envelope.validate().err().map(|error| error.field)
    }
    let node = NodeId::new(7);
    assert_eq!((cordon().validate(), freeze().validate()), (Ok(()), Ok(())));
    let ms = Duration::from_millis(1);
    for (drain_for, good) in [
        (Duration::ZERO, true),
        (ms, true),
        (Duration::from_millis(u64::MAX), true),
        (Duration::from_millis(u64::MAX) + ms, false),
        (Duration::MAX, false),
        (ms - Duration::from_nanos(1), false),
    ] {
        let expected = (!good).then_some("event");
        assert_eq!(admin(AdminEvent::Drain { node, drain_for }), expected, "{drain_for:?}");
        let ttl = drain_for;
        let drain_for = Some(drain_for);
        assert_eq!(admin(AdminEvent::EnterMaintenance { node, drain_for }), expected);
        assert_eq!(ice(IceAction::FreezeCluster { ttl }), (!good).then_some("action"));
    }
    let chains = |count: u64| (0..count).map(ChainId::new).collect();
    assert_eq!(
        admin(AdminEvent::DropReplicas {
            node,
            chains: chains(4096)
        }),
        None
    );
    assert_eq!(
        admin(AdminEvent::DropReplicas {
            node,
            chains: chains(4097)
        }),
        Some("event")
    );
    let restart = |bytes| IceAction::ForceRestartDaemon {
        daemon: Origin::new(1),
        name: "n".repeat(bytes),
    };
    assert_eq!((ice(restart(255)), ice(restart(256))), (None, Some("action")));
    for (reason, good) in [(0, false), (1, true), (1024, true), (1025, false)] {
        let mut envelope = cordon();
        envelope.header.reason = "r".repeat(reason);
        assert_eq!(envelope.validate().is_ok(), good);
        assert!(good || envelope.validate().unwrap_err().field == "reason");
    }
    let mut backwards = freeze();
    backwards.header.not_after = UnixMs::new(backwards.header.issued_at.get() - 1);
    assert_eq!(backwards.validate().unwrap_err().field, "not_after");
    for threshold in [0, 65, 255] {
        let envelope = IceEnvelope { threshold, ..freeze() };
        assert_eq!(envelope.validate().unwrap_err().field, "threshold");
    }
    let signatures = vec![signed(1, b""); 65];
    let crowded = IceEnvelope { signatures, ..freeze() };
    assert_eq!(crowded.validate().unwrap_err().field, "signatures");
    let daemons = (0..65_536).map(|id| (Origin::new(id), "n".repeat(255))).collect();
    let mut large = freeze();
    large.blast.daemons = daemons;
    assert_eq!(large.validate().unwrap_err().field, "blast_radius");
}

#[test]
fn lists_that_cannot_be_written_are_told() {
    let node = NodeId::new;
    for (nodes, good) in [
        (vec![node(1), node(2)], true),
        (vec![node(2), node(2)], false),
        (vec![node(2), node(1)], false),
    ] {
        let blast = BlastRadius { nodes, ..blast() };
        assert_eq!(blast.validate().is_ok(), good);
        assert_eq!(BlastRadius::decode(&blast.to_bytes()).is_ok(), good);
    }
    let replicas = vec![ChainId::new(3), ChainId::new(1)];
    let unsorted = BlastRadius { replicas, ..blast() };
    assert_eq!(unsorted.validate().unwrap_err().field, "affected_replicas");
    let pair = |id, bytes| (Origin::new(id), "n".repeat(bytes));
    for (daemons, good) in [
        (vec![pair(1, 255), pair(2, 0)], true),
        (vec![pair(1, 256)], false),
        (vec![pair(1, 1), pair(1, 2)], false),
    ] {
        let blast = BlastRadius { daemons, ..blast() };
        assert_eq!(blast.validate().is_ok(), good);
        assert_eq!(BlastRadius::decode(&blast.to_bytes()).is_ok(), good);
    }
    let many = BlastRadius {
        nodes: (0..65_537).map(NodeId::new).collect(),
        ..blast()
    };
    assert_eq!(many.validate().unwrap_err().field, "affected_nodes");
}

#[test]
fn a_fault_is_told_where_it_stands_in_the_whole() {
    let envelope = freeze();
    let bytes = envelope.to_bytes();
    let signed = 4 + 1 + 4;
    let resealed = |at: usize, to: u8| {
        let mut altered = bytes.clone();
        altered[at] = to;
        let end = altered.len() - 4;
        let sum = crc32(&altered[..end]);
        altered[end..].copy_from_slice(&sum.to_le_bytes());
        IceEnvelope::decode(&altered).expect_err("altered").offset
    };
    // The domain, the version, the threshold's place holds any byte, the hash.
    let version = signed + b"meshos.ice.v1\0".len();
    assert_eq!(resealed(signed, b'x'), signed as u64);
    assert_eq!(resealed(version, 9), version as u64);
    let hash = version + 1 + 32 + 16 + 8 + 8 + 1;
    assert_eq!(resealed(hash, 0), hash as u64);
    let action = hash + 32 + 4;
    assert_eq!(resealed(action, 99), action as u64);
}

fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ ((sum & 1) * 0xedb8_8320))
    }) ^ !0
}
