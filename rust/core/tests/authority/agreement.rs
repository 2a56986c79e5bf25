//! What a preview names is what the leader then does, in random states.

use std::time::Duration;

use meshos_core::action::MeshOsAction;
use meshos_core::authority::Ledger;
use meshos_core::behaviour::Behaviour;
use meshos_core::blast::{BlastRadius, BlastWarning};
use meshos_core::command::{AdminEvent, ChainId, Command, IceAction, Order, Verdict};
use meshos_core::id::NodeId;
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::peer::NodeHealth;
use meshos_core::signal::{MeshOsEvent, ReplicaChange, Sealed, Signal};
use meshos_core::simulate::{Seen, simulate};
use meshos_core::testing::random::SplitMix64;

use crate::ISSUED;
use crate::folding::{HERE, policy};

const ORDERED: [u8; 16] = [1; 16];

fn sealed(behaviour: &Behaviour, envelope_id: [u8; 16], action: IceAction) -> (Signal, BlastRadius) {
    let seen = Seen {
        view: behaviour.view(),
        this_node: HERE,
        moving: &[],
        now: ISSUED,
    };
    let blast = simulate(seen, &action);
    let signal = Signal::Sealed(Box::new(Sealed {
        command: Command {
            order: Order::Ice(action),
            verdict: Verdict::Accepted,
            operators: vec![1, 2],
            reason: "test".to_owned(),
            envelope_id: Some(envelope_id),
            issued_at: Some(ISSUED),
        },
        envelope_id,
        issued_at: ISSUED,
        blast: Some(blast.clone()),
        refused: None,
    }));
    (signal, blast)
}

fn node(random: &mut SplitMix64) -> NodeId {
    NodeId::new(1 + random.below(6) as u64)
}

/// News of one chain and of the nodes, in any order.
fn news(random: &mut SplitMix64, chain: ChainId) -> MeshOsEvent {
    let peer = NodeId::new(2 + random.below(5) as u64);
    match random.below(8) {
        0..=2 => MeshOsEvent::ReplicaUpdate {
            chain,
            holder: node(random),
            change: [ReplicaChange::Added, ReplicaChange::Added, ReplicaChange::Lost][random.below(3)],
        },
        3 => MeshOsEvent::ReplicaLeaderUpdate {
            chain,
            leader: [Some(HERE), Some(HERE), Some(peer), None][random.below(4)],
            term: 1,
        },
        4 => MeshOsEvent::PlacementIntent {
            chain,
            desired_replicas: random.below(6) as u32,
        },
        5 => MeshOsEvent::NodeHealthUpdate {
            peer,
            health: [NodeHealth::Healthy, NodeHealth::Degraded, NodeHealth::Unreachable][random.below(3)],
        },
        _ => MeshOsEvent::RttSample {
            peer,
            rtt: Duration::from_millis([1, 1000][random.below(2)]),
        },
    }
}

fn cordon(node: NodeId) -> Signal {
    Signal::Command(Command {
        order: Order::Admin(AdminEvent::Cordon { node }),
        verdict: Verdict::Open,
        operators: Vec::new(),
        reason: String::new(),
        envelope_id: None,
        issued_at: None,
    })
}

/// What an action asks for, of which chain and node.
fn asked(action: &MeshOsAction) -> Option<(ChainId, NodeId)> {
    match action {
        MeshOsAction::RequestEviction { chain, victim } => Some((*chain, *victim)),
        MeshOsAction::RequestPlacement { chain, target, .. } => target.map(|target| (*chain, target)),
        _ => None,
    }
}

#[test]
fn the_leader_emits_what_the_preview_names_in_any_state() {
    let (mut emitted, mut idle) = (0, 0);
    for seed in 0..3000 {
        let mut random = SplitMix64::new(seed);
        let behaviour = Behaviour::new(HERE, MeshOsConfig::default(), 1, ISSUED);
        let mut behaviour = behaviour.with_authority(policy(), Ledger::default());
        for _ in 0..random.below(3) {
            behaviour.step(ISSUED, [cordon(node(&mut random))]);
        }
        // Frozen, so that nothing else is under way.
        let ttl = Duration::from_secs(60);
        let (freeze, _) = sealed(&behaviour, [2; 16], IceAction::FreezeCluster { ttl });
        behaviour.step(ISSUED, [freeze]);
        let chain = ChainId::new(5);
        for _ in 0..random.below(24) {
            let event = news(&mut random, chain);
            behaviour.step(ISSUED, [Signal::Event(event)]);
        }
        let target = node(&mut random);
        let action = if random.below(2) == 0 {
            IceAction::ForceEvictReplica { chain, victim: target }
        } else {
            IceAction::ForceCutover { chain, target }
        };
        let (signal, blast) = sealed(&behaviour, ORDERED, action);
        let known = behaviour.view().chains.get(&chain).cloned();
        let step = behaviour.step(ISSUED, [signal]);
        assert!(step.judged[0].refused.is_none() && step.dispatches.is_empty());
        let (thaw, _) = sealed(&behaviour, [3; 16], IceAction::ThawCluster);
        let mut step = behaviour.step(ISSUED, [thaw]);
        let mut dispatches = std::mem::take(&mut step.dispatches);
        while step.more {
            step = behaviour.step(ISSUED, []);
            dispatches.append(&mut step.dispatches);
        }
        let ordered: Vec<_> = dispatches
            .iter()
            .filter(|dispatch| dispatch.cause.envelope_id == Some(ORDERED))
            .map(|dispatch| asked(&dispatch.action))
            .collect();
        let leads = known.is_some_and(|known| known.leader == Some(HERE));
        let nothing_to_do = blast.warnings.iter().any(|warning| {
            matches!(
                warning,
                BlastWarning::ForcedEvictionTargetsNonHolder(..)
                    | BlastWarning::ForcedEvictionTargetsUnknownChain(..)
                    | BlastWarning::ForcedCutoverTargetsUnknownChain(..)
                    | BlastWarning::ForcedCutoverTargetAlreadyHolder(..)
            )
        });
        if leads && !nothing_to_do {
            assert_eq!(ordered, [Some((blast.replicas[0], blast.nodes[0]))], "seed {seed}");
            emitted += 1;
        } else {
            assert_eq!(ordered, [], "seed {seed}");
            idle += 1;
        }
    }
    assert!(emitted > 300 && idle > 300, "{emitted} emitted, {idle} not");
}
