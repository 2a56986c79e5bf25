//! Envelopes that are good, and what they look like after somebody changed them.
//!
//! The promise that is tried: what is obeyed says what its operators signed, and enough of them did.

use std::collections::BTreeSet;
use std::time::Duration;

use super::random::SplitMix64;
use super::samples::keypair;
use crate::authority::{Operator, Operators, Policy, Role, check_admin, check_ice};
use crate::blast::{BlastRadius, BlastWarning};
use crate::command::{AdminEvent, AvoidScope, ChainId, IceAction};
use crate::envelope::{AdminEnvelope, Header, IceEnvelope, OperatorSignature, cluster_hash};
use crate::id::{NodeId, Origin};
use crate::time::UnixMs;

/// When the samples were made.
pub const ISSUED: UnixMs = UnixMs::new(1_700_000_000_000);
/// The order of the group of signatures, little endian: `s` and `s` plus it are one number to a careless verifier.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// Operators of the seeds 1 and 2, who may do everything, 3, who may sign ordinary commands, and 4, who may look.
///
/// # Panics
/// Never: the keys and names differ.
#[must_use]
pub fn operators() -> Operators {
    let mut operators = Operators::default();
    let all = [Role::Admin, Role::Ice];
    for (seed, roles) in [(1, &all[..]), (2, &all), (3, &[Role::Admin]), (4, &[Role::Viewer])] {
        let operator = Operator {
            key: keypair(seed).entity_id(),
            name: format!("operator-{seed}"),
            roles: roles.iter().copied().collect(),
            not_before: None,
            not_after: None,
            revoked: false,
        };
        operators.add(operator).expect("keys and names differ");
    }
    operators
}

/// What a cluster demands that is called `prod-eu`.
#[must_use]
pub fn policy() -> Policy {
    Policy {
        cluster: cluster_hash(b"prod-eu"),
        ice_threshold: 2,
        freshness: Duration::from_secs(300),
        future_skew: Duration::from_secs(30),
        cooldown: Duration::from_secs(300),
    }
}

fn header() -> Header {
    Header {
        cluster: policy().cluster,
        envelope_id: std::array::from_fn(|index| u8::try_from(index).expect("one of 16")),
        issued_at: ISSUED,
        not_after: ISSUED.plus(Duration::from_secs(300)),
        reason: "incident 42".to_owned(),
    }
}

/// The signature of a sample pair.
///
/// # Panics
/// Never: sample pairs can sign.
#[must_use]
pub fn signed(seed: u8, bytes: &[u8]) -> OperatorSignature {
    let pair = keypair(seed);
    OperatorSignature {
        public_key: pair.entity_id(),
        signature: pair.sign(bytes).expect("sample pairs have their secret half"),
    }
}

/// A drain, ordered by the operator of seed 1.
#[must_use]
pub fn admin() -> AdminEnvelope {
    let mut envelope = AdminEnvelope {
        header: header(),
        event: AdminEvent::Drain {
            node: NodeId::new(7),
            drain_for: Duration::from_secs(300),
        },
        signature: None,
    };
    envelope.signature = Some(signed(1, &envelope.signing_bytes()));
    envelope
}

/// A freeze, agreed to by the operators of seeds 1 and 2.
#[must_use]
pub fn ice() -> IceEnvelope {
    let mut envelope = IceEnvelope {
        header: header(),
        threshold: 2,
        blast: BlastRadius {
            nodes: vec![NodeId::new(2), NodeId::new(3)],
            delay_ms: Some(300_000),
            warnings: vec![BlastWarning::ClusterFreezeBlocksOperatorActions],
            ..BlastRadius::default()
        },
        action: IceAction::FreezeCluster {
            ttl: Duration::from_secs(300),
        },
        signatures: Vec::new(),
    };
    let bytes = envelope.signing_bytes();
    envelope.signatures = vec![signed(1, &bytes), signed(2, &bytes)];
    envelope
}

/// What is signed in the samples, made once for many trials.
#[derive(Debug)]
pub struct Trial {
    operators: Operators,
    policy: Policy,
    admin: AdminEnvelope,
    admin_bytes: Vec<u8>,
    ice: IceEnvelope,
    ice_bytes: Vec<u8>,
}

impl Default for Trial {
    fn default() -> Self {
        let (admin, ice) = (admin(), ice());
        Self {
            operators: operators(),
            policy: policy(),
            admin_bytes: admin.signing_bytes(),
            ice_bytes: ice.signing_bytes(),
            admin,
            ice,
        }
    }
}

impl Trial {
    /// Whether an ordinary command is obeyed; panics if it should not be.
    ///
    /// # Panics
    /// A command is obeyed that nobody signed.
    #[must_use]
    pub fn admin(&self, envelope: &AdminEnvelope) -> bool {
        let obeyed = check_admin(envelope, &self.operators, &self.policy, envelope.header.issued_at).is_ok();
        let genuine = envelope.signing_bytes() == self.admin_bytes && envelope.signature == self.admin.signature;
        assert!(genuine || !obeyed, "obeyed, and nobody signed it: {envelope:?}");
        obeyed
    }

    /// Whether a break-glass action is obeyed; panics if it should not be.
    ///
    /// # Panics
    /// An action is obeyed that too few have signed.
    #[must_use]
    pub fn ice(&self, envelope: &IceEnvelope) -> bool {
        let obeyed = check_ice(envelope, &self.operators, &self.policy, envelope.header.issued_at).is_ok();
        let good = envelope
            .signatures
            .iter()
            .filter(|one| self.ice.signatures.contains(one));
        let distinct: BTreeSet<_> = good.map(|one| one.public_key).collect();
        let genuine = envelope.signing_bytes() == self.ice_bytes && distinct.len() >= 2;
        assert!(genuine || !obeyed, "obeyed, and too few signed it: {envelope:?}");
        obeyed
    }

    /// Changes one of the samples in one to three places and tries it; whether it was obeyed.
    ///
    /// # Panics
    /// As [`Trial::admin`] and [`Trial::ice`], and where what can be written is read as something else.
    #[must_use]
    pub fn mutated(&self, random: &mut SplitMix64) -> bool {
        let changes = 1 + random.below(3);
        if random.below(4) == 0 {
            let mut envelope = self.admin.clone();
            (0..changes).for_each(|_| change_admin(&mut envelope, random));
            if envelope.validate().is_ok() {
                assert_eq!(AdminEnvelope::decode(&envelope.to_bytes()).as_ref(), Ok(&envelope));
            }
            self.admin(&envelope)
        } else {
            let mut envelope = self.ice.clone();
            (0..changes).for_each(|_| change_ice(&mut envelope, random));
            if envelope.validate().is_ok() {
                assert_eq!(IceEnvelope::decode(&envelope.to_bytes()).as_ref(), Ok(&envelope));
            }
            self.ice(&envelope)
        }
    }
}

fn span(random: &mut SplitMix64) -> Duration {
    Duration::from_millis([0, 1, 999, 1000, 299_999, 300_001, 86_400_000, random.next_u64()][random.below(8)])
}

fn id(random: &mut SplitMix64) -> u64 {
    [0, 1, 2, 3, 7, u64::MAX, random.next_u64()][random.below(7)]
}

fn change_header(header: &mut Header, random: &mut SplitMix64) {
    match random.below(5) {
        0 => header.cluster[random.below(32)] ^= 1 << random.below(8),
        1 => header.envelope_id[random.below(16)] ^= 1 << random.below(8),
        2 => header.issued_at = UnixMs::new(header.issued_at.get() ^ 1 << random.below(20)),
        3 => header.not_after = UnixMs::new(header.not_after.get() ^ 1 << random.below(64)),
        _ => match random.below(3) {
            0 => header.reason.push('!'),
            1 => drop(header.reason.pop()),
            _ => header.reason = "another".to_owned(),
        },
    }
}

fn change_signature(signature: &mut OperatorSignature, random: &mut SplitMix64) {
    match random.below(4) {
        0 => signature.signature[random.below(64)] ^= 1 << random.below(8),
        1 => signature.public_key = keypair([1, 2, 3, 4, 9][random.below(5)]).entity_id(),
        2 => signature.signature[random.below(2) * 32..].fill(0),
        _ => {
            let mut carry = 0;
            for (byte, add) in signature.signature[32..].iter_mut().zip(ORDER) {
                let sum = u16::from(*byte) + u16::from(add) + carry;
                *byte = sum.to_le_bytes()[0];
                carry = sum >> 8;
            }
        }
    }
}

fn change_admin(envelope: &mut AdminEnvelope, random: &mut SplitMix64) {
    let node = NodeId::new(id(random));
    match random.below(4) {
        0 => change_header(&mut envelope.header, random),
        1 => match &mut envelope.signature {
            Some(signature) if random.below(8) > 0 => change_signature(signature, random),
            signature => *signature = None,
        },
        _ => {
            envelope.event = match random.below(9) {
                0 => AdminEvent::EnterMaintenance {
                    node,
                    drain_for: (random.below(2) == 0).then(|| span(random)),
                },
                1 => AdminEvent::ExitMaintenance { node },
                2 => AdminEvent::Drain {
                    node,
                    drain_for: span(random),
                },
                3 => AdminEvent::Cordon { node },
                4 => AdminEvent::Uncordon { node },
                5 => AdminEvent::RestartAllDaemons { node },
                6 => AdminEvent::ClearAvoidList { node },
                7 => AdminEvent::DropReplicas {
                    node,
                    chains: (0..random.below(4)).map(|_| ChainId::new(id(random))).collect(),
                },
                _ => AdminEvent::InvalidatePlacement { node },
            };
        }
    }
}

fn change_ice(envelope: &mut IceEnvelope, random: &mut SplitMix64) {
    match random.below(6) {
        0 => change_header(&mut envelope.header, random),
        1 => envelope.threshold = random.byte() % 4,
        2 => change_blast(&mut envelope.blast, random),
        3 | 4 => change_signatures(&mut envelope.signatures, random),
        _ => envelope.action = another_action(random),
    }
}

fn another_action(random: &mut SplitMix64) -> IceAction {
    let (node, chain) = (NodeId::new(id(random)), ChainId::new(id(random)));
    match random.below(9) {
        0 => IceAction::FreezeCluster { ttl: span(random) },
        1 => IceAction::ThawCluster,
        2 => IceAction::FlushAvoidLists {
            scope: AvoidScope::Local(node),
        },
        3 => IceAction::FlushAvoidLists {
            scope: AvoidScope::OnPeer(node),
        },
        4 => IceAction::FlushAvoidLists {
            scope: AvoidScope::Global,
        },
        5 => IceAction::ForceEvictReplica { chain, victim: node },
        6 => IceAction::ForceRestartDaemon {
            daemon: Origin::new(chain.get()),
            name: "n".repeat(random.below(300)),
        },
        7 => IceAction::ForceCutover { chain, target: node },
        _ => IceAction::KillMigration {
            migration: Origin::new(chain.get()),
        },
    }
}

fn change_blast(blast: &mut BlastRadius, random: &mut SplitMix64) {
    match random.below(7) {
        0 => blast.nodes.push(NodeId::new(id(random))),
        1 => drop(blast.nodes.pop()),
        2 => blast.replicas.push(ChainId::new(id(random))),
        3 => blast
            .daemons
            .push((Origin::new(id(random)), "n".repeat(random.below(4)))),
        4 => blast.delay_ms = (random.below(2) == 0).then(|| random.next_u64()),
        5 => blast.churn ^= 1 << random.below(32),
        _ => match BlastWarning::of(random.byte() % 17, &[1, 2][..random.below(3)]) {
            Some(warning) => blast.warnings.push(warning),
            None => blast.warnings.clear(),
        },
    }
}

fn change_signatures(signatures: &mut Vec<OperatorSignature>, random: &mut SplitMix64) {
    let at = random.below(signatures.len());
    match random.below(5) {
        _ if signatures.is_empty() => {}
        0 => drop(signatures.remove(at)),
        1 => {
            let again = signatures[at].clone();
            signatures.extend(vec![again; random.below(70)]);
        }
        2 => signatures.reverse(),
        _ => change_signature(&mut signatures[at], random),
    }
}
