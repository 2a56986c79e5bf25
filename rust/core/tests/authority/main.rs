//! Envelopes, previews, and who is obeyed.

mod agreement;
mod armour;
mod envelope;
mod folding;
mod policy;
mod replay;
mod trail;
mod verdict;

use meshos_core::blast::{BlastRadius, BlastWarning};
use meshos_core::command::{AdminEvent, IceAction};
use meshos_core::envelope::{AdminEnvelope, Header, IceEnvelope, OperatorSignature, cluster_hash};
use meshos_core::id::NodeId;
use meshos_core::identity::Keypair;
use meshos_core::time::UnixMs;
use std::time::Duration;

const ISSUED: UnixMs = UnixMs::new(1_700_000_000_000);

fn key(seed: u8) -> Keypair {
    Keypair::from_seed(&[seed; 32])
}

fn header() -> Header {
    Header {
        cluster: cluster_hash(b"prod-eu"),
        envelope_id: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        issued_at: ISSUED,
        not_after: UnixMs::new(1_700_000_300_000),
        reason: "incident 42".to_owned(),
    }
}

fn blast() -> BlastRadius {
    BlastRadius {
        nodes: vec![NodeId::new(2), NodeId::new(3)],
        delay_ms: Some(300_000),
        warnings: vec![BlastWarning::ClusterFreezeBlocksOperatorActions],
        ..BlastRadius::default()
    }
}

fn freeze() -> IceEnvelope {
    IceEnvelope {
        header: header(),
        threshold: 2,
        blast: blast(),
        action: IceAction::FreezeCluster {
            ttl: Duration::from_secs(300),
        },
        signatures: Vec::new(),
    }
}

fn cordon() -> AdminEnvelope {
    AdminEnvelope {
        header: header(),
        event: AdminEvent::Cordon { node: NodeId::new(7) },
        signature: None,
    }
}

fn signed(seed: u8, bytes: &[u8]) -> OperatorSignature {
    let key = key(seed);
    OperatorSignature {
        public_key: key.entity_id(),
        signature: key.sign(bytes).expect("the key is whole"),
    }
}
