//! Runs of a plan: user code of any sort, so many events, so many moves, and shares of faults.

use std::rc::Rc;
use std::time::Duration;

use meshos_core::config::{DaemonHostConfig, Durability};
use meshos_core::host::Few;
use meshos_core::route::Route;
use meshos_core::testing::moves::{
    Emitted, Failure, Fault, Given, Kind, Numbers, Options, Plan, Run, Share, Stop, Subject, simulate,
};

const NO_DELAY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(1));

fn share(share: f64) -> Share {
    Share::new(share).expect("a share")
}

fn calm() -> Plan {
    Plan {
        events: 100,
        moves: 3,
        config: DaemonHostConfig {
            durability: Durability::Journal,
            ..DaemonHostConfig::default()
        },
        ..Plan::default()
    }
}

fn wild() -> Plan {
    Plan {
        loss: share(0.2),
        duplicate: share(0.1),
        crash: share(0.01),
        partition: share(0.01),
        torn_write: share(0.05),
        slow_callback: share(0.01),
        clock_jump: share(0.01),
        ..calm()
    }
}

const SLOW: (Duration, Duration) = (Duration::ZERO, Duration::from_millis(500));

fn run(seed: u64, nodes: usize, plan: Plan, delay: (Duration, Duration)) -> Result<Run, Failure> {
    simulate(seed, &Options::planned(nodes, plan, delay), Box::new(Numbers))
}

fn good(seed: u64, nodes: usize, plan: Plan, delay: (Duration, Duration)) -> Run {
    let run = run(seed, nodes, plan, delay).unwrap_or_else(|failure| panic!("seed {seed}: {failure:#?}"));
    assert_eq!(run.report.moves_completed + run.report.moves_aborted, plan.moves);
    run
}

#[test]
fn without_faults_every_move_is_completed() {
    for seed in 0..20 {
        for nodes in 2..=8 {
            let run = good(seed, nodes, calm(), NO_DELAY);
            let report = run.report;
            assert_eq!((report.acknowledged, report.moves_completed), (100, 3));
            assert_eq!((report.crashes, report.partitions, report.messages_lost), (0, 0, 0));
            assert_eq!((report.writes_failed, report.slow, report.jumps), (0, 0, 0));
        }
    }
}

#[test]
fn every_event_is_acknowledged_whatever_goes_wrong() {
    let mut moved = (0, 0);
    for seed in 0..100 {
        let report = good(seed, 3, wild(), SLOW).report;
        assert_eq!(report.acknowledged, 100);
        moved.0 += report.moves_completed;
        moved.1 += report.moves_aborted;
    }
    eprintln!("{moved:?}");
    assert!(moved.0 > 50 && moved.1 > 20, "{moved:?}");
}

#[test]
fn statistics() {
    let just = |name: &str, plan: Plan, delay| {
        let begun = std::time::Instant::now();
        let (mut done, mut aborted, mut crashes, mut steps, mut time, mut lost) = (0, 0, 0, 0, Duration::ZERO, 0);
        for seed in 0..20 {
            let run = good(seed, 3, plan, delay);
            done += run.report.moves_completed;
            aborted += run.report.moves_aborted;
            crashes += run.report.crashes;
            steps += run.report.steps;
            lost += run.report.messages_lost;
            time += run.simulated;
        }
        eprintln!(
            "{name}: {done} {aborted}, crashes {crashes}, steps {steps}, lost {lost}, {time:?}, {:?} each",
            begun.elapsed() / 20
        );
    };
    let base = Plan {
        events: 500,
        moves: 10,
        ..calm()
    };
    just("calm", base, NO_DELAY);
    just("slow", base, SLOW);
    just(
        "loss",
        Plan {
            loss: share(0.2),
            ..base
        },
        SLOW,
    );
    just(
        "crash",
        Plan {
            crash: share(0.01),
            ..base
        },
        SLOW,
    );
    just(
        "crash fast",
        Plan {
            crash: share(0.01),
            ..base
        },
        NO_DELAY,
    );
    just(
        "partition",
        Plan {
            partition: share(0.01),
            ..base
        },
        SLOW,
    );
    just(
        "jump",
        Plan {
            clock_jump: share(0.01),
            ..base
        },
        NO_DELAY,
    );
    just(
        "slow callback",
        Plan {
            slow_callback: share(0.01),
            ..base
        },
        NO_DELAY,
    );
    just(
        "torn",
        Plan {
            torn_write: share(0.05),
            ..base
        },
        NO_DELAY,
    );
    just(
        "program",
        Plan {
            loss: share(0.2),
            duplicate: share(0.1),
            crash: share(0.01),
            partition: share(0.01),
            ..base
        },
        SLOW,
    );
}
