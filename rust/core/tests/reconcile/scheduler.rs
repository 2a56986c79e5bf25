//! Moves to better nodes: when they begin, how they go on, and what is asked of a scorer.

use meshos_core::action::CauseKind;
use meshos_core::command::{AdminEvent, ChainId, IceAction};
use meshos_core::finite::{Finite, Share};
use meshos_core::id::NodeId;
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::peer::NodeHealth;
use meshos_core::signal::{LocalReplicaIntent, Outcome, Scored, Signal};
use meshos_core::status::Move;

use crate::Loop;
use crate::cluster::{HERE, added, admin, desired, ended, health, ice, leader, local, ms, node, removed, retry, s};

/// What a scorer says: scores of holders, the best alternative, and the cost of a move there.
#[derive(Clone, Default)]
struct Said {
    holders: Vec<(u64, f64)>,
    best: Option<(u64, f64)>,
    cost: Option<f64>,
}

impl Said {
    fn of(holders: &[(u64, f64)], best: Option<(u64, f64)>) -> Self {
        Self {
            holders: holders.to_vec(),
            best,
            cost: None,
        }
    }

    fn about(&self, chain: u64, live: bool) -> Signal {
        let score = |(id, score): (u64, f64)| Finite::new(score).map(|score| (node(id), score));
        Signal::Scored(Scored {
            chain: ChainId::new(chain),
            holders: self.holders.iter().copied().filter_map(score).collect(),
            best: self.best.and_then(score),
            cost: self.cost.and_then(Finite::new),
            live,
        })
    }
}

/// Chain 100 is led here and held by 2 and 3, two copies are wanted, and a scorer is installed and asked.
fn asked() -> Loop {
    asked_with(MeshOsConfig::default())
}

fn asked_with(config: MeshOsConfig) -> Loop {
    let mut it = Loop::with(config);
    let step = it.tell([
        Signal::ScorerChanged { installed: true },
        leader(100, Some(1), 1),
        desired(100, 2),
        added(100, 2),
        added(100, 3),
    ]);
    assert_eq!(step.scores.len(), 1);
    assert_eq!(
        (step.scores[0].holders.as_slice(), step.scores[0].live),
        ([node(2), node(3)].as_slice(), false)
    );
    it
}

fn moving(it: &Loop) -> Option<(u64, u64)> {
    let of = |moving: Move| (moving.victim.get(), moving.target.get());
    it.chain(100).moving.map(of)
}

/// What comes of cached scores and, when a last word is asked for, of that: asked live or not, and the move.
fn outcome(it: &mut Loop, cached: &Said, live: &Said) -> (bool, Option<(u64, u64)>) {
    let step = it.tell([cached.about(100, false)]);
    let verified = step.scores.iter().any(|request| request.live);
    if verified {
        it.tell([live.about(100, true)]);
    }
    (verified, moving(it))
}

#[test]
fn when_a_copy_moves() {
    const NAN: f64 = f64::NAN;
    let bad = Said::of(&[(2, 0.1), (3, 0.9)], Some((4, 0.8)));
    let cost = |cost| Said {
        holders: vec![(2, 0.2), (3, 0.9)],
        best: Some((4, 0.8)),
        cost: Some(cost),
    };
    let of = |holders: &[(u64, f64)], best| Said::of(holders, best);
    // What is cached, what is said live, whether it was asked live, and the move.
    let table: [(&str, Said, Said, bool, Option<(u64, u64)>); 17] = [
        ("it is better there", bad.clone(), bad.clone(), true, Some((2, 4))),
        ("no opinion", of(&[], Some((4, 0.9))), bad.clone(), false, None),
        (
            "all are no numbers",
            of(&[(2, NAN), (3, NAN)], Some((4, 0.9))),
            bad.clone(),
            false,
            None,
        ),
        (
            "one is no number",
            of(&[(2, NAN), (3, 0.1)], Some((4, 0.9))),
            of(&[(3, 0.1)], Some((4, 0.9))),
            true,
            Some((3, 4)),
        ),
        (
            "all are good enough",
            of(&[(2, 0.5), (3, 0.9)], Some((4, 1.0))),
            bad.clone(),
            false,
            None,
        ),
        (
            "the worst counts",
            of(&[(2, 0.3), (3, 0.2)], Some((4, 0.9))),
            of(&[(2, 0.3), (3, 0.2)], Some((4, 0.9))),
            true,
            Some((3, 4)),
        ),
        (
            "a tie keeps the lower",
            of(&[(2, 0.2), (3, 0.2)], Some((4, 0.9))),
            of(&[(2, 0.2), (3, 0.2)], Some((4, 0.9))),
            true,
            Some((2, 4)),
        ),
        (
            "there is no other",
            of(&[(2, 0.1), (3, 0.9)], None),
            bad.clone(),
            false,
            None,
        ),
        (
            "the other has it already",
            of(&[(2, 0.1), (3, 0.9)], Some((3, 0.9))),
            bad.clone(),
            false,
            None,
        ),
        (
            "the gain is as the gap",
            of(&[(2, 0.25), (3, 0.9)], Some((4, 0.45))),
            bad.clone(),
            false,
            None,
        ),
        (
            "the gain is above the gap",
            of(&[(2, 0.25), (3, 0.9)], Some((4, 0.46))),
            of(&[(2, 0.25)], Some((4, 0.46))),
            true,
            Some((2, 4)),
        ),
        (
            "it recovered",
            bad.clone(),
            of(&[(2, 0.9), (3, 0.9)], Some((4, 1.0))),
            true,
            None,
        ),
        (
            "the last word has no opinion",
            bad.clone(),
            of(&[], Some((4, 0.9))),
            true,
            None,
        ),
        (
            "the other became bad",
            bad.clone(),
            of(&[(2, 0.1), (3, 0.9)], Some((4, 0.2))),
            true,
            None,
        ),
        ("the cost is below the gain", cost(0.5), cost(0.5), true, Some((2, 4))),
        ("the cost is above the gain", cost(0.7), cost(0.7), false, None),
        (
            "the cost is no number",
            Said {
                cost: Some(NAN),
                ..bad.clone()
            },
            bad.clone(),
            true,
            Some((2, 4)),
        ),
    ];
    for (name, cached, live, verified, expected) in table {
        let mut it = asked();
        assert_eq!(outcome(&mut it, &cached, &live), (verified, expected), "{name}");
    }
}

fn bad() -> Said {
    Said::of(&[(2, 0.1), (3, 0.9)], Some((4, 0.8)))
}

#[test]
fn a_move_adds_before_it_removes() {
    let mut it = asked();
    it.tell([bad().about(100, false)]);
    assert_eq!(it.says([bad().about(100, true)]), ["place 100 not on [2 3] but 4"]);
    it.end_all(&Outcome::Done);
    let step = it.tell([added(100, 4)]);
    assert_eq!(
        step.dispatches.iter().map(|it| it.action.kind()).collect::<Vec<_>>(),
        ["request_eviction"]
    );
    assert_eq!(step.dispatches[0].cause.kind, CauseKind::Event);
    it.tell([removed(100, 2)]);
    it.end_all(&Outcome::Done);
    assert_eq!(
        (moving(&it), it.flying().len(), it.behaviour.world().moves),
        (None, 0, 0)
    );
    let holders: Vec<u64> = it.chain(100).holders.iter().map(|node| node.get()).collect();
    assert_eq!(holders, [3, 4]);
}

#[test]
fn an_answer_nobody_asked_for_is_nothing() {
    let mut it = asked();
    // Live it was not asked: this is the cached answer.
    it.tell([bad().about(100, true)]);
    assert_eq!(moving(&it), None);
    let mut it = Loop::new();
    it.tell([leader(100, Some(1), 1), added(100, 2)]);
    it.tell([bad().about(100, true), bad().about(999, true)]);
    assert_eq!(it.chain(100).scores, None);
}

#[test]
fn what_makes_a_move_wait() {
    // What speaks against a move for now, and the reason's name.
    let table: [(&str, Vec<Signal>); 5] = [
        ("count_first", vec![desired(100, 3)]),
        ("count_first", vec![desired(100, 1)]),
        ("frozen", vec![ice(IceAction::FreezeCluster { ttl: s(10) })]),
        (
            "forced",
            vec![ice(IceAction::ForceCutover {
                chain: ChainId::new(100),
                target: node(6),
            })],
        ),
        ("count_first", vec![local(100, LocalReplicaIntent::Drop), added(100, 1)]),
    ];
    for (kind, signals) in table {
        let mut it = asked();
        it.tell([bad().about(100, false)]);
        it.tell(signals.clone());
        let id = ChainId::new(100);
        let found = meshos_core::reconcile::may_move(it.behaviour.world(), id, it.chain(100));
        assert_eq!(found, Err(kind), "{signals:?}");
        it.tell([bad().about(100, true)]);
        assert_eq!(moving(&it), None, "{signals:?}");
    }
}

#[test]
fn a_chain_moves_once_in_a_while() {
    let mut it = asked();
    assert_eq!(outcome(&mut it, &bad(), &bad()), (true, Some((2, 4))));
    it.tell([added(100, 4), removed(100, 2)]);
    it.end_all(&Outcome::Done);
    // The new holders are scored at once, and another move waits for its time.
    let worse = Said::of(&[(3, 0.9), (4, 0.1)], Some((5, 0.8)));
    let started = it.now;
    while moving(&it).is_none() {
        let step = it.tell([worse.about(100, false)]);
        if step.scores.iter().any(|request| request.live) {
            it.tell([worse.about(100, true)]);
        } else {
            it.after(s(10));
        }
    }
    let waited = it.now.since(started);
    assert!(waited >= s(300) && waited <= s(341), "{waited:?}");
}

#[test]
fn moves_under_way_are_bounded() {
    let mut it = Loop::new();
    let mut signals = vec![Signal::ScorerChanged { installed: true }];
    for chain in 100..120 {
        signals.extend([
            leader(chain, Some(1), 1),
            desired(chain, 2),
            added(chain, 2),
            added(chain, 3),
        ]);
    }
    it.tell(signals);
    it.tell((100..120).map(|chain| bad().about(chain, false)));
    it.tell((100..120).map(|chain| bad().about(chain, true)));
    assert_eq!(it.behaviour.world().moves, 4);
    let moved = (100..120)
        .filter(|chain| it.chain(*chain).moving.is_some())
        .collect::<Vec<_>>();
    assert_eq!(moved, [100, 101, 102, 103]);
}

#[test]
fn a_stable_mesh_is_asked_nothing_but_the_backstop() {
    let mut it = asked();
    let fine = Said::of(&[(2, 0.9), (3, 0.9)], Some((4, 1.0)));
    it.tell([fine.about(100, false)]);
    let prints = |prints: [u64; 2]| Signal::Fingerprints(vec![(node(2), Some(prints[0])), (node(3), Some(prints[1]))]);
    let mut requests = 0;
    let mut asked_at = it.now;
    for _ in 0..240 {
        let step = it.after(ms(500));
        if !step.fingerprints.is_empty() {
            assert_eq!(step.fingerprints, [node(2), node(3)]);
            it.tell([prints([1, 2])]);
        }
        if !step.scores.is_empty() {
            requests += 1;
            assert_eq!(it.now.since(asked_at), s(30));
            asked_at = it.now;
            it.tell([fine.about(100, false)]);
        }
    }
    // Two minutes, and a backstop of 30 s.
    assert_eq!(requests, 4);
    // A node changes: its chains are scored at once, and no others.
    it.tell([leader(101, Some(1), 1), added(101, 6)]);
    it.tell([Said::of(&[(6, 1.0)], None).about(101, false)]);
    let step = it.tell([prints([1, 3])]);
    assert_eq!(
        step.scores
            .iter()
            .map(|request| request.chain.get())
            .collect::<Vec<_>>(),
        [100]
    );
}

#[test]
fn what_makes_scores_void() {
    let nothing = Vec::new;
    // What happens, and whether the chain is scored anew, although no time passes.
    let table: [(&str, Vec<Signal>, bool); 9] = [
        ("nothing", nothing(), false),
        ("a holder more", vec![added(100, 4), desired(100, 3)], true),
        ("a holder less", vec![removed(100, 3), desired(100, 1)], true),
        (
            "a command",
            vec![admin(AdminEvent::InvalidatePlacement { node: HERE })],
            true,
        ),
        (
            "a command for another",
            vec![admin(AdminEvent::InvalidatePlacement { node: node(2) })],
            false,
        ),
        ("another scorer", vec![Signal::ScorerChanged { installed: true }], true),
        ("no scorer", vec![Signal::ScorerChanged { installed: false }], false),
        (
            "a node without a fingerprint",
            vec![Signal::Fingerprints(vec![(node(2), None)])],
            true,
        ),
        (
            "a stranger's fingerprint",
            vec![Signal::Fingerprints(vec![(node(9), None)])],
            false,
        ),
    ];
    for (name, signals, expected) in table {
        let mut it = asked();
        it.tell([Said::of(&[(2, 0.9), (3, 0.9)], None).about(100, false)]);
        let step = it.tell(signals);
        assert_eq!(!step.scores.is_empty(), expected, "{name}");
    }
}

#[test]
fn scores_count_for_the_holders_that_were_asked_about() {
    let mut it = asked();
    it.tell([added(100, 4), desired(100, 3)]);
    // The answer is about two holders of three.
    let step = it.tell([bad().about(100, false)]);
    assert_eq!(step.scores.len(), 1);
    assert_eq!(step.scores[0].holders, [node(2), node(3), node(4)]);
    assert_eq!(moving(&it), None);
}

#[test]
fn an_answer_of_before_a_change_is_asked_for_again() {
    let mut it = asked();
    it.tell([admin(AdminEvent::InvalidatePlacement { node: HERE })]);
    let step = it.tell([bad().about(100, false)]);
    assert_eq!(
        step.scores.iter().map(|request| request.live).collect::<Vec<_>>(),
        [false]
    );
}

#[test]
fn who_leads_no_more_knows_no_scores() {
    let mut it = asked();
    assert_eq!(outcome(&mut it, &bad(), &bad()), (true, Some((2, 4))));
    it.tell([leader(100, Some(3), 2)]);
    let known = it.chain(100);
    assert_eq!(
        (known.scores.clone(), known.moving, it.behaviour.world().moves),
        (None, None, 0)
    );
    // The placement was dispatched before; the rest of the move is not done by who leads no more.
    assert_eq!(it.says([added(100, 4)]), [""; 0]);
    // The next leader finds one too many.
    assert_eq!(it.says([leader(100, Some(1), 3)]), ["evict 100 from 2"]);
}

#[test]
fn a_move_that_became_wrong_ends() {
    // What happens while the copy is on its way, and whether the move goes on.
    let table: [(&str, Vec<Signal>, bool); 5] = [
        ("nothing", vec![], true),
        ("the victim leaves", vec![removed(100, 2)], false),
        (
            "the target takes nothing new",
            vec![admin(AdminEvent::Cordon { node: node(4) })],
            false,
        ),
        ("a copy is missing", vec![removed(100, 3)], false),
        ("more are wanted", vec![desired(100, 3)], false),
    ];
    for (name, signals, goes_on) in table {
        let mut it = asked();
        assert_eq!(outcome(&mut it, &bad(), &bad()), (true, Some((2, 4))));
        it.tell(signals);
        assert_eq!(moving(&it).is_some(), goes_on, "{name}");
        assert_eq!(it.behaviour.world().moves > 0, goes_on, "{name}");
    }
}

#[test]
fn a_move_takes_nothing_away_when_copies_went_missing_meanwhile() {
    let mut it = asked();
    assert_eq!(outcome(&mut it, &bad(), &bad()), (true, Some((2, 4))));
    it.end_all(&Outcome::Done);
    it.tell([health(3, NodeHealth::Unreachable)]);
    it.now = it.now.plus(s(29));
    it.tell([]);
    // The copy arrives just when another is lost: two last, and that is what is wanted.
    it.now = it.now.plus(s(1));
    assert_eq!(it.says([added(100, 4)]), ["evict 100 from 3"]);
    it.tell([removed(100, 3)]);
    assert_eq!(
        (moving(&it), it.chain(100).holders.as_slice()),
        (None, [node(2), node(4)].as_slice())
    );
}

#[test]
fn a_move_that_takes_too_long_is_given_up() {
    let mut it = asked();
    assert_eq!(outcome(&mut it, &bad(), &bad()), (true, Some((2, 4))));
    it.after(s(599));
    assert_eq!(moving(&it), Some((2, 4)));
    it.after(s(1));
    assert_eq!(moving(&it), None);
}

#[test]
fn a_copy_that_shall_be_here_does_not_move_and_one_that_shall_not_does_not_come() {
    let mut it = Loop::new();
    it.tell([
        Signal::ScorerChanged { installed: true },
        leader(100, Some(1), 1),
        desired(100, 2),
        added(100, 1),
        added(100, 2),
        local(100, LocalReplicaIntent::Hold),
    ]);
    let here = Said::of(&[(1, 0.1), (2, 0.9)], Some((4, 0.9)));
    assert_eq!(outcome(&mut it, &here, &here), (false, None));

    let mut it = asked();
    it.tell([local(100, LocalReplicaIntent::Drop)]);
    let step = it.tell([Said::of(&[(2, 0.1), (3, 0.9)], Some((1, 0.9))).about(100, false)]);
    assert_eq!((step.scores.len(), moving(&it)), (0, None));
}

#[test]
fn nobody_is_an_alternative_whom_something_speaks_against() {
    let mut it = Loop::new();
    it.tell([
        health(5, NodeHealth::Unreachable),
        admin(AdminEvent::Cordon { node: node(6) }),
        Signal::ScorerChanged { installed: true },
    ]);
    let step = it.tell([leader(100, Some(1), 1), desired(100, 1), added(100, 2)]);
    let expected: Vec<NodeId> = [2, 5, 6].map(node).to_vec();
    assert_eq!(step.scores[0].exclude, expected);
    // One that says so nevertheless is not listened to.
    let step = it.tell([Said::of(&[(2, 0.1)], Some((6, 0.9))).about(100, false)]);
    assert_eq!(step.scores.len(), 0);
}

#[test]
fn a_move_verifies_once_and_then_waits_for_the_backstop() {
    let mut it = asked();
    let fine = Said::of(&[(2, 0.9), (3, 0.9)], Some((4, 0.8)));
    assert_eq!(outcome(&mut it, &bad(), &fine), (true, None));
    assert_eq!(it.after(s(29)).scores.len(), 0);
    assert_eq!(it.after(s(1)).scores.len(), 1);
}

#[test]
fn the_options_decide() {
    let mut config = MeshOsConfig::default();
    config.scheduler.score_floor = Share::new(0.05).expect("finite");
    let mut it = asked_with(config);
    assert_eq!(outcome(&mut it, &bad(), &bad()), (false, None));
    let mut config = MeshOsConfig::default();
    config.scheduler.hysteresis_gap = Finite::new(0.75).expect("finite");
    let mut it = asked_with(config);
    assert_eq!(outcome(&mut it, &bad(), &bad()), (false, None));
}

#[test]
fn a_placement_of_a_move_that_fails_is_tried_again_for_the_same_target() {
    let mut it = asked();
    it.tell([bad().about(100, false)]);
    let step = it.tell([bad().about(100, true)]);
    it.tell([ended(step.dispatches[0].id, retry(s(2)))]);
    assert_eq!(it.says_after(s(2)), ["place 100 not on [2 3] but 4"]);
}

#[test]
fn an_eviction_for_the_count_or_by_force_starts_no_cooldown_of_moves() {
    let mut it = asked();
    it.tell([bad().about(100, false), added(100, 5)]);
    it.tell([removed(100, 5)]);
    it.end_all(&Outcome::Done);
    it.tell([ice(IceAction::ForceEvictReplica {
        chain: ChainId::new(100),
        victim: node(3),
    })]);
    assert_eq!(it.chain(100).rebalance_after, None);
}

#[test]
fn a_chain_is_scored_whatever_is_said_of_another() {
    let mut it = asked();
    it.tell([leader(101, Some(1), 1), desired(101, 1), added(101, 7)]);
    let good = Said::of(&[(7, 0.9)], Some((4, 1.0)));
    it.tell([good.about(101, false)]);
    assert_eq!(outcome(&mut it, &bad(), &bad()), (true, Some((2, 4))));
    assert_eq!(it.chain(101).moving, None);
}

#[test]
fn a_last_word_about_what_has_changed_since_moves_nothing() {
    // What happens between the question and the answer.
    for change in [
        admin(AdminEvent::InvalidatePlacement { node: HERE }),
        Signal::Fingerprints(vec![(node(3), None)]),
    ] {
        let mut it = asked();
        let step = it.tell([bad().about(100, false)]);
        assert!(step.scores[0].live);
        it.tell([change.clone()]);
        let step = it.tell([bad().about(100, true)]);
        assert_eq!(moving(&it), None, "{change:?}");
        // It is asked anew.
        assert_eq!(
            step.scores.iter().map(|request| request.live).collect::<Vec<_>>(),
            [false]
        );
    }
}

#[test]
fn nobody_asks_how_a_node_changed_that_holds_nothing() {
    let mut it = asked();
    it.tell([Said::of(&[(2, 0.9), (3, 0.9)], None).about(100, false)]);
    assert_eq!(it.after(ms(500)).fingerprints, [node(2), node(3)]);
    it.tell([removed(100, 3), desired(100, 1)]);
    assert_eq!(it.after(ms(500)).fingerprints, [node(2)]);
}
