//! Why a daemon or a chain is as it is: the rule that decides, and what holds it.

use meshos_core::command::{AdminEvent, ChainId, IceAction};
use meshos_core::event::DaemonHealth;
use meshos_core::finite::{Finite, Share};
use meshos_core::id::Origin;
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::peer::NodeHealth;
use meshos_core::signal::{DaemonIntent, DaemonSignal, LocalReplicaIntent, Outcome, Scored, Signal};
use meshos_core::world::Key;

use crate::Loop;
use crate::cluster::{
    HERE, added, admin, crash, desired, dropped, ended, health, ice, intent, leader, lifecycle, local, ms, node,
    pinned, restart, retry, s,
};

use DaemonIntent::{Run, Stop};
use LocalReplicaIntent::{Drop, Hold};

const DAEMON: Key = Key::Daemon(Origin::new(1));
const CHAIN: Key = Key::Chain(Origin::new(100));

fn started() -> Signal {
    lifecycle(1, DaemonSignal::Started)
}

fn stopped() -> Signal {
    lifecycle(1, DaemonSignal::ExitedCleanly)
}

fn enter() -> Signal {
    admin(AdminEvent::EnterMaintenance {
        node: HERE,
        drain_for: None,
    })
}

/// The rule, and the kinds of the reasons.
fn of(it: &Loop, key: Key) -> (&'static str, Vec<&'static str>) {
    let explanation = it.explain(key);
    let kinds = explanation.reasons.iter().map(|reason| reason.kind).collect();
    (explanation.rule, kinds)
}

#[test]
fn every_rule_about_a_daemon() {
    let freeze = || ice(IceAction::FreezeCluster { ttl: s(60) });
    let table: [(&str, Vec<Signal>, &[&str]); 13] = [
        ("no_intent", vec![started()], &[]),
        ("start", vec![intent(1, Run)], &["running"]),
        ("as_wanted", vec![started(), intent(1, Run)], &[]),
        ("as_wanted", vec![stopped(), intent(1, Stop)], &[]),
        ("stop", vec![started(), intent(1, Stop)], &["running"]),
        (
            "backoff",
            vec![started(), intent(1, Run), crash(1, "boom")],
            &["last_crash", "backoff", "running"],
        ),
        (
            "pinned_elsewhere",
            vec![started(), pinned(1, Run, Some(2))],
            &["pinned_elsewhere", "running"],
        ),
        ("as_wanted", vec![pinned(1, Run, Some(2))], &["pinned_elsewhere"]),
        (
            "draining",
            vec![started(), intent(1, Run), enter()],
            &["draining", "running"],
        ),
        (
            "as_wanted",
            vec![intent(2, Run), stopped(), intent(1, Run), enter(), stopped()],
            &["draining", "running"],
        ),
        (
            "restart",
            vec![started(), intent(1, Run), restart(1)],
            &["restart", "running"],
        ),
        ("frozen", vec![freeze(), intent(1, Run)], &["frozen"]),
        ("frozen", vec![freeze(), started(), intent(1, Run)], &["frozen"]),
    ];
    for (rule, signals, reasons) in table {
        let mut it = Loop::new();
        for signal in signals.clone() {
            it.tell([signal]);
        }
        assert_eq!(of(&it, DAEMON), (rule, reasons.to_vec()), "{signals:?}");
    }
}

#[test]
fn a_crash_loop_says_how_often_and_until_when() {
    let mut config = MeshOsConfig::default();
    config.backoff.crash_loop_threshold = 2;
    let mut it = Loop::with(config);
    it.tell([intent(1, Run)]);
    it.end_all(&Outcome::Done);
    it.tell([started(), crash(1, "one"), started(), crash(1, "two")]);
    it.end_all(&Outcome::Done);
    let explanation = it.explain(DAEMON);
    assert_eq!(explanation.rule, "crash_loop");
    let reason = &explanation.reasons[1];
    assert_eq!(
        (reason.kind, &*reason.text),
        ("crash_loop", "2 crashes within the window")
    );
    assert_eq!(reason.until, Some(it.now.plus(s(300))));
    assert!(
        explanation.reasons[0].text.ends_with(": two"),
        "{:?}",
        explanation.reasons
    );
}

#[test]
fn what_is_wanted_and_what_is_are_in_words() {
    let mut it = Loop::new();
    let reason = "slow disk".to_owned();
    it.tell([
        pinned(1, Run, Some(1)),
        started(),
        lifecycle(1, DaemonSignal::HealthChanged(DaemonHealth::Degraded { reason })),
    ]);
    let explanation = it.explain(DAEMON);
    assert_eq!(explanation.desired, "run on node 1");
    assert_eq!(explanation.actual, "running, degraded: slow disk");
    it.tell([added(100, 1), added(100, 2), desired(100, 3), local(100, Hold)]);
    let explanation = it.explain(CHAIN);
    assert_eq!(explanation.desired, "3 copies, one of them here");
    assert_eq!(explanation.actual, "2 copies");
}

#[test]
fn where_an_action_is() {
    let flying = |it: &Loop| {
        let explanation = it.explain(DAEMON);
        let reason = explanation.reasons.last().cloned().expect("something is under way");
        (reason.kind, reason.text, reason.until.map(|until| until.since(it.now)))
    };
    let mut it = Loop::new();
    it.tell((10..26).map(|id| intent(id, Run)));
    it.tell([intent(1, Run)]);
    assert_eq!(
        flying(&it),
        ("queued", "start_daemon waits for its turn".to_owned(), None)
    );
    it.tell([ended(1, dropped())]);
    assert_eq!(
        flying(&it),
        ("running", "start_daemon is being carried out".to_owned(), Some(s(60)))
    );
    it.tell([ended(17, retry(s(5)))]);
    assert_eq!(
        flying(&it),
        ("deferred", "start_daemon is deferred".to_owned(), Some(s(5)))
    );
    it.after(s(5));
    let id = it.behaviour.view().emissions.back().map_or(0, |emission| emission.id);
    it.tell([ended(17, dropped()), ended(id, Outcome::Done)]);
    let failed = "start_daemon failed, 1 in a row, and is tried again later".to_owned();
    assert_eq!(flying(&it), ("failed", failed, Some(ms(500))));
    let mut it = Loop::new();
    it.tell([intent(1, Run)]);
    it.after(s(60));
    assert_eq!(
        flying(&it),
        ("running", "start_daemon did not answer in time".to_owned(), None)
    );
    let mut it = Loop::new();
    it.tell([intent(1, Run)]);
    it.end_all(&Outcome::Done);
    let shows = "start_daemon was carried out, and nothing shows it yet".to_owned();
    assert_eq!(flying(&it), ("awaiting_confirmation", shows, Some(s(30))));
}

#[test]
fn every_rule_about_a_chain() {
    let lead = || leader(100, Some(1), 1);
    let evict = || {
        ice(IceAction::ForceEvictReplica {
            chain: ChainId::new(100),
            victim: node(2),
        })
    };
    let table: [(&str, Vec<Signal>, &[&str]); 14] = [
        ("not_leader", vec![added(100, 2)], &["no_leader"]),
        (
            "not_leader",
            vec![added(100, 2), leader(100, Some(2), 1)],
            &["not_leader"],
        ),
        ("pull", vec![added(100, 2), local(100, Hold)], &["no_leader", "running"]),
        ("pull", vec![local(100, Hold)], &["no_leader"]),
        ("drop", vec![added(100, 1), local(100, Drop)], &["no_leader", "running"]),
        ("draining", vec![added(100, 1), enter()], &["fading", "no_leader"]),
        ("too_few_copies", vec![lead(), desired(100, 1)], &["running"]),
        (
            "too_few_copies",
            vec![admin(AdminEvent::Cordon { node: node(3) }), lead(), desired(100, 1)],
            &["excluded", "running"],
        ),
        ("as_wanted", vec![added(100, 2), lead(), desired(100, 1)], &[]),
        (
            "too_many_copies",
            vec![added(100, 2), added(100, 3), added(100, 4), lead(), desired(100, 2)],
            &["running"],
        ),
        ("forced", vec![added(100, 2), lead(), evict()], &["forced", "running"]),
        ("as_wanted", vec![lead(), added(100, 2)], &[]),
        (
            "frozen",
            vec![ice(IceAction::FreezeCluster { ttl: s(9) }), lead(), desired(100, 1)],
            &["frozen"],
        ),
        (
            "too_few_copies",
            vec![
                added(100, 2),
                health(2, NodeHealth::Unreachable),
                lead(),
                desired(100, 1),
            ],
            &["fading", "excluded", "running"],
        ),
    ];
    for (rule, signals, reasons) in table {
        let mut it = Loop::new();
        for signal in signals.clone() {
            it.tell([signal]);
        }
        if signals.contains(&health(2, NodeHealth::Unreachable)) {
            it.after(s(30));
        }
        let found = of(&it, CHAIN);
        // An eviction that runs does not count any more: another reason is enough here.
        assert_eq!(found.0, rule, "{signals:?}");
        assert_eq!(found.1, reasons, "{signals:?}");
    }
}

fn scored(holders: &[(u64, f64)], best: Option<(u64, f64)>, cost: Option<f64>, live: bool) -> Signal {
    let score = |(id, score): (u64, f64)| Finite::new(score).map(|score| (node(id), score));
    Signal::Scored(Scored {
        chain: ChainId::new(100),
        holders: holders.iter().copied().filter_map(score).collect(),
        best: best.and_then(score),
        cost: cost.and_then(Finite::new),
        live,
    })
}

#[test]
fn why_a_chain_does_not_move() {
    let best = Some((4, 0.8));
    let table: [(&str, Signal); 5] = [
        ("no_opinion", scored(&[], best, None, false)),
        ("good_enough", scored(&[(2, 0.9)], best, None, false)),
        ("no_alternative", scored(&[(2, 0.1)], None, None, false)),
        ("small_gain", scored(&[(2, 0.1)], Some((4, 0.2)), None, false)),
        ("too_dear", scored(&[(2, 0.1)], best, Some(0.9), false)),
    ];
    for (kind, said) in table {
        let mut it = Loop::new();
        it.tell([
            Signal::ScorerChanged { installed: true },
            leader(100, Some(1), 1),
            desired(100, 1),
            added(100, 2),
        ]);
        it.tell([said]);
        assert_eq!(of(&it, CHAIN), ("as_wanted", vec![kind]));
    }
}

#[test]
fn why_a_better_node_has_to_wait() {
    let mut config = MeshOsConfig::default();
    config.scheduler.cooldown = s(1000);
    config.scheduler.score_floor = Share::WHOLE;
    let mut it = Loop::with(config);
    it.tell([
        Signal::ScorerChanged { installed: true },
        leader(100, Some(1), 1),
        desired(100, 1),
        added(100, 2),
    ]);
    it.tell([scored(&[(2, 0.1)], Some((4, 0.8)), None, false)]);
    assert_eq!(of(&it, CHAIN), ("rebalance", vec!["better"]));
    it.tell([scored(&[(2, 0.1)], Some((4, 0.8)), None, true)]);
    assert_eq!(of(&it, CHAIN), ("moving", vec!["moving", "running"]));
    it.tell([added(100, 4), crate::cluster::removed(100, 2)]);
    it.end_all(&Outcome::Done);
    it.tell([scored(&[(4, 0.1)], Some((5, 0.8)), None, false)]);
    assert_eq!(of(&it, CHAIN), ("as_wanted", vec!["better", "cooldown"]));
}

#[test]
fn nothing_is_said_of_what_is_not_known() {
    let it = Loop::new();
    for key in [DAEMON, CHAIN, Key::Maintenance, Key::Peer(node(2))] {
        assert_eq!(meshos_core::explain::explain(it.behaviour.world(), key), None);
    }
}
