//! Commands in envelopes, as the loop folds them.

use std::time::Duration;

use meshos_core::authority::{Ledger, Policy, Refused};
use meshos_core::behaviour::{Behaviour, Step};
use meshos_core::blast::BlastRadius;
use meshos_core::command::{AdminEvent, ChainId, Command, IceAction, Order, Verdict};
use meshos_core::envelope::cluster_hash;
use meshos_core::id::NodeId;
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::signal::{MeshOsEvent, ReplicaChange, Sealed, Signal};
use meshos_core::simulate::{Seen, simulate};
use meshos_core::time::UnixMs;

use crate::ISSUED;

pub(crate) const HERE: NodeId = NodeId::new(1);

pub(crate) fn policy() -> Policy {
    Policy {
        cluster: cluster_hash(b"prod-eu"),
        ice_threshold: 2,
        freshness: Duration::from_secs(300),
        future_skew: Duration::from_secs(30),
        cooldown: Duration::from_secs(300),
    }
}

fn behaviour() -> Behaviour {
    Behaviour::new(HERE, MeshOsConfig::default(), 1, ISSUED).with_authority(policy(), Ledger::default())
}

fn seen(behaviour: &Behaviour) -> Seen<'_> {
    Seen {
        view: behaviour.view(),
        this_node: HERE,
        moving: &[],
        now: ISSUED,
    }
}

fn sealed(number: u8, order: Order, blast: Option<BlastRadius>) -> Signal {
    Signal::Sealed(Box::new(Sealed {
        command: Command {
            order,
            verdict: Verdict::Accepted,
            operators: vec![1, 2],
            reason: "test".to_owned(),
            envelope_id: Some([number; 16]),
            issued_at: Some(ISSUED),
        },
        envelope_id: [number; 16],
        issued_at: ISSUED,
        blast,
        refused: None,
    }))
}

fn ice(behaviour: &mut Behaviour, number: u8, action: IceAction) -> Step {
    let blast = simulate(seen(behaviour), &action);
    behaviour.step(ISSUED, [sealed(number, Order::Ice(action), Some(blast))])
}

fn refused(step: &Step) -> Option<&Refused> {
    assert_eq!(
        (step.judged.len(), step.audits.len()),
        (1, 1),
        "every command ends in one audit record"
    );
    let refused = step.judged[0].refused.as_ref();
    let rejected = matches!(step.audits[0].verdict, Verdict::Rejected { .. });
    assert_eq!(refused.is_some(), rejected);
    refused
}

const TTL: Duration = Duration::from_secs(60);

#[test]
fn a_freeze_holds_ordinary_commands_up_and_a_thaw_ends_it() {
    let mut behaviour = behaviour();
    let cordon = || Order::Admin(AdminEvent::Cordon { node: NodeId::new(2) });
    assert_eq!(
        refused(&ice(&mut behaviour, 1, IceAction::FreezeCluster { ttl: TTL })),
        None
    );
    let until = ISSUED.plus(TTL);
    assert_eq!(behaviour.view().freeze_until, Some(until));
    let step = behaviour.step(ISSUED, [sealed(2, cordon(), None)]);
    assert_eq!(refused(&step), Some(&Refused::FreezeInEffect { until }));
    assert!(behaviour.view().peers.is_empty());
    assert_eq!(refused(&ice(&mut behaviour, 3, IceAction::ThawCluster)), None);
    // The envelope was refused, not obeyed: it may come again.
    let step = behaviour.step(ISSUED, [sealed(2, cordon(), None)]);
    assert_eq!(refused(&step), None);
    assert!(behaviour.view().peers[&NodeId::new(2)].cordoned);
}

#[test]
fn a_second_freeze_waits_for_the_cooldown() {
    let mut behaviour = behaviour();
    ice(&mut behaviour, 1, IceAction::FreezeCluster { ttl: TTL });
    ice(&mut behaviour, 2, IceAction::ThawCluster);
    let step = ice(&mut behaviour, 3, IceAction::FreezeCluster { ttl: TTL });
    assert!(matches!(refused(&step), Some(Refused::CooldownActive { .. })));
    assert_eq!(behaviour.view().freeze_until, None);
}

#[test]
fn two_envelopes_for_one_target_in_one_step_and_one_is_obeyed() {
    let mut behaviour = behaviour();
    let freeze = || Order::Ice(IceAction::FreezeCluster { ttl: TTL });
    let blast = Some(simulate(seen(&behaviour), &IceAction::FreezeCluster { ttl: TTL }));
    let step = behaviour.step(ISSUED, [sealed(1, freeze(), blast.clone()), sealed(2, freeze(), blast)]);
    let obeyed = step.judged.iter().filter(|judged| judged.refused.is_none()).count();
    assert_eq!((step.judged.len(), obeyed), (2, 1));
}

#[test]
fn a_replay_is_refused_and_changes_nothing() {
    let mut behaviour = behaviour();
    let cordon = Order::Admin(AdminEvent::Cordon { node: HERE });
    behaviour.step(ISSUED, [sealed(1, cordon.clone(), None)]);
    let uncordon = Order::Admin(AdminEvent::Uncordon { node: HERE });
    behaviour.step(ISSUED, [sealed(2, uncordon, None)]);
    let step = behaviour.step(ISSUED, [sealed(1, cordon, None)]);
    assert!(matches!(refused(&step), Some(Refused::Replayed { .. })));
    assert!(!behaviour.view().cordoned);
}

#[test]
fn what_the_operators_did_not_see_is_not_touched() {
    let mut behaviour = behaviour();
    let freeze = IceAction::FreezeCluster { ttl: TTL };
    let blast = simulate(seen(&behaviour), &freeze);
    // A node appears after the preview.
    let health = MeshOsEvent::NodeHealthUpdate {
        peer: NodeId::new(9),
        health: meshos_core::peer::NodeHealth::Healthy,
    };
    behaviour.step(ISSUED, [Signal::Event(health)]);
    let step = behaviour.step(ISSUED, [sealed(1, Order::Ice(freeze), Some(blast))]);
    let drift = vec!["node:9".to_owned()];
    assert_eq!(refused(&step), Some(&Refused::PreviewStale { drift }));
    assert_eq!(behaviour.view().freeze_until, None);
}

#[test]
fn a_preview_names_what_the_leader_then_emits() {
    let mut behaviour = behaviour();
    let chain = ChainId::new(5);
    let added = |holder| {
        Signal::Event(MeshOsEvent::ReplicaUpdate {
            chain,
            holder: NodeId::new(holder),
            change: ReplicaChange::Added,
        })
    };
    let lead = Signal::Event(MeshOsEvent::ReplicaLeaderUpdate {
        chain,
        leader: Some(HERE),
        term: 1,
    });
    behaviour.step(ISSUED, [added(2), added(3), lead]);
    let victim = NodeId::new(3);
    let evict = IceAction::ForceEvictReplica { chain, victim };
    let blast = simulate(seen(&behaviour), &evict);
    let step = ice(&mut behaviour, 1, evict);
    let emitted = &step.dispatches[0];
    assert_eq!(emitted.action.target(), blast.replicas[0].get());
    assert!(
        matches!(emitted.action, meshos_core::action::MeshOsAction::RequestEviction { victim, .. } if victim == blast.nodes[0])
    );
    assert_eq!(emitted.cause.envelope_id, Some([1; 16]));
}

#[test]
fn a_forced_action_survives_a_freeze() {
    let mut behaviour = behaviour();
    let chain = ChainId::new(5);
    let lead = MeshOsEvent::ReplicaBecameHolderAndLeader {
        chain,
        holder: HERE,
        term: 1,
    };
    behaviour.step(ISSUED, [Signal::Event(lead)]);
    ice(&mut behaviour, 1, IceAction::FreezeCluster { ttl: TTL });
    let target = NodeId::new(8);
    let step = ice(&mut behaviour, 2, IceAction::ForceCutover { chain, target });
    assert_eq!(refused(&step), None);
    assert!(step.dispatches.is_empty());
    let thawed = behaviour.step(ISSUED.plus(TTL), []);
    assert_eq!(thawed.dispatches.len(), 1);
    assert_eq!(thawed.dispatches[0].action.kind(), "request_placement");
}

#[test]
fn a_kill_is_told_after_the_fold() {
    let mut behaviour = behaviour();
    let migration = meshos_core::id::Origin::new(7);
    let step = ice(&mut behaviour, 1, IceAction::KillMigration { migration });
    assert_eq!(step.kill, [migration]);
}

#[test]
fn what_was_refused_elsewhere_is_audited_here() {
    let mut behaviour = behaviour();
    let Signal::Sealed(mut forged) = sealed(1, Order::Admin(AdminEvent::Cordon { node: HERE }), None) else {
        panic!("just made");
    };
    forged.refused = Some(Refused::SignatureInvalid { operator: 3 });
    let step = behaviour.step(UnixMs::new(ISSUED.get() + 1), [Signal::Sealed(forged)]);
    assert_eq!(refused(&step), Some(&Refused::SignatureInvalid { operator: 3 }));
    assert!(!behaviour.view().cordoned);
}

#[test]
fn where_the_audit_comes_first_nothing_happens_before_its_record_is_kept() {
    let mut behaviour = behaviour().with_audit_first();
    let cordon = |node| {
        Order::Admin(AdminEvent::Cordon {
            node: NodeId::new(node),
        })
    };
    let step = behaviour.step(ISSUED, [sealed(1, cordon(2), None), sealed(2, cordon(3), None)]);
    assert_eq!((step.held.len(), step.judged.len(), step.audits.len()), (2, 0, 0));
    assert!(behaviour.view().peers.is_empty());
    let recorded = |number, kept| Signal::Recorded {
        envelope_id: [number; 16],
        kept,
    };
    let step = behaviour.step(ISSUED, [recorded(1, true), recorded(2, false), recorded(3, true)]);
    let refused: Vec<_> = step.judged.iter().map(|judged| judged.refused.clone()).collect();
    assert_eq!(refused, [None, Some(Refused::AuditRequired)]);
    assert!(behaviour.view().peers[&NodeId::new(2)].cordoned);
    assert!(!behaviour.view().peers.contains_key(&NodeId::new(3)));
}
