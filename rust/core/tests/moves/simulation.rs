//! Moves where everything goes wrong. `SIM_SEEDS` sets how many seeds of each mix are tried, `SIM_SEED` which is the first.

use std::panic::{AssertUnwindSafe, catch_unwind};

use meshos_core::testing::moves::{Broken, Crash, Mistake, Options, Report, run};

/// Seeds of each mix in a short run.
const SEEDS: u64 = 20;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |number| number.parse().expect("a number"))
}

fn outcome(seed: u64, options: &Options) -> Result<Report, Broken> {
    catch_unwind(AssertUnwindSafe(|| run(seed, options))).unwrap_or_else(|_| {
        Err(Broken {
            rule: "Machines",
            what: "one found a bug of its own: see above".to_owned(),
        })
    })
}

/// Runs all seeds of a mix; a seed that fails comes with the command that repeats it.
fn hold(mix: &str, options: &Options) -> Report {
    let (first, seeds) = (number("SIM_SEED", 0), number("SIM_SEEDS", SEEDS));
    let mut sum = Report::default();
    for seed in first..first + seeds {
        let report = outcome(seed, options).unwrap_or_else(|broken| {
            panic!(
                "{mix}, seed {seed}: {broken}\nrepeat: SIM_SEED={seed} SIM_SEEDS=1 cargo test --release --package \
                 meshos-core --features testing --test moves -- --exact simulation::{mix}"
            )
        });
        sum.steps += report.steps;
        sum.acknowledged += report.acknowledged;
        sum.taken += report.taken;
        sum.crashes += report.crashes;
        sum.orders += report.orders;
        sum.committed += report.committed;
        sum.aborted += report.aborted;
        sum.shipped += report.shipped;
        sum.thawed += report.thawed;
        sum.lost += report.lost;
        sum.takeovers += report.takeovers;
    }
    if seeds > 10 {
        let each = [sum.acknowledged, sum.taken, sum.orders, sum.committed].map(|sum| sum / seeds);
        assert!(
            each[0] > 15 && each[1] > 10 && each[2] > 1 && sum.committed > seeds / 2 && sum.aborted > seeds / 8,
            "too little happens: {sum:?}"
        );
    }
    sum
}

#[test]
fn simulation_journal() {
    let sum = hold("simulation_journal", &Options::journal());
    assert!(sum.shipped + sum.thawed > 0, "events wait: {sum:?}");
}

#[test]
fn simulation_two_orders() {
    hold("simulation_two_orders", &Options::journal().two_orders());
}

#[test]
fn simulation_pauses() {
    hold("simulation_pauses", &Options::journal().pauses());
}

#[test]
fn simulation_late() {
    hold("simulation_late", &Options::journal().late());
}

#[test]
fn simulation_all() {
    hold("simulation_all", &Options::journal().two_orders().pauses().late());
}

#[test]
fn simulation_none() {
    hold("simulation_none", &Options::none().two_orders().pauses().late());
}

#[test]
fn simulation_none_without_crashes() {
    let mix = Options::none().two_orders().pauses().late().without_crashes();
    hold("simulation_none_without_crashes", &mix);
}

#[test]
fn simulation_takeovers() {
    let sum = hold("simulation_takeovers", &Options::journal().pauses().takeovers());
    assert!(sum.takeovers > 10, "{sum:?}");
}

#[test]
fn simulation_takeovers_all() {
    let mix = Options::journal().two_orders().pauses().late().takeovers();
    hold("simulation_takeovers_all", &mix);
}

#[test]
fn one_seed_gives_one_run() {
    for options in [Options::journal(), Options::none().two_orders().pauses().late()] {
        assert_eq!(outcome(7, &options), outcome(7, &options));
    }
}

/// Every place of a move at which a node can crash, of each node, whoever gives the order.
fn scripts() -> Vec<(usize, Crash)> {
    let mut all = Vec::new();
    for orchestrator in [0, 1, 3] {
        let places = outcome(1, &Options::scripted(orchestrator, None)).unwrap().places;
        for (node, count) in places.into_iter().enumerate() {
            all.extend((1..=count).map(|place| (orchestrator, Crash { node, place })));
        }
    }
    all
}

#[test]
fn a_crash_at_any_message_or_write_of_a_move_loses_nothing() {
    let undisturbed = outcome(1, &Options::scripted(3, None)).unwrap();
    assert_eq!(
        (undisturbed.committed, undisturbed.aborted, undisturbed.crashes),
        (1, 0, 0)
    );
    let (mut committed, mut aborted, mut crashed) = (0, 0, 0);
    let scripts = scripts();
    for (orchestrator, crash) in &scripts {
        let report = outcome(1, &Options::scripted(*orchestrator, Some(*crash)))
            .unwrap_or_else(|broken| panic!("ordered by {orchestrator}, {crash:?}: {broken}"));
        committed += report.committed;
        aborted += u64::from(report.committed == 0);
        crashed += report.crashes;
    }
    assert_eq!(crashed, scripts.len() as u64, "each crash is reached");
    assert!(
        committed > 20 && aborted > 20,
        "{committed} committed, {aborted} aborted"
    );
}

/// Each mistake, the mix that finds it, and the seed that did: where it does no more, all up to 1,000 are tried.
const MISTAKES: [(Mistake, &str, u64); 22] = [
    (Mistake::StaysActive, "journal", 0),
    (Mistake::AcknowledgesEarly, "journal", 28),
    (Mistake::AcknowledgesQueued, "journal", 0),
    (Mistake::CursorsNotShipped, "journal", 0),
    (Mistake::ReceiptsNotShipped, "journal", 0),
    (Mistake::HeadNotShipped, "journal", 0),
    (Mistake::OutputsNotShipped, "journal", 0),
    (Mistake::PreparesEarly, "journal", 58),
    (Mistake::CommitsEarly, "journal", 0),
    (Mistake::AppliesWhilePrepared, "journal", 0),
    (Mistake::TailDropped, "journal", 0),
    (Mistake::AbortsAfterCommit, "all", 6),
    (Mistake::EpochReused, "journal", 0),
    (Mistake::ActivatesInDoubt, "all", 27),
    (Mistake::GivesUpInDoubt, "all", 45),
    (Mistake::ForgetsRecord, "all", 0),
    (Mistake::AnyCommitted, "late", 579),
    (Mistake::ForgetsAborted, "all", 151),
    (Mistake::ReportsItsWish, "all", 45),
    (Mistake::NoRestartRecord, "none", 0),
    (Mistake::WaitsForRetire, "all", 0),
    (Mistake::AcknowledgesThawed, "journal", 0),
];

fn mix(name: &str) -> Options {
    match name {
        "all" => Options::journal().two_orders().pauses().late(),
        "late" => Options::journal().late(),
        "none" => Options::none(),
        "pauses" => Options::journal().pauses(),
        "two" => Options::journal().two_orders(),
        _ => Options::journal(),
    }
}

fn found(mistake: Mistake, mix: Options, first: u64) -> Option<(u64, &'static str)> {
    let options = mix.with(mistake);
    let mut seeds = std::iter::once(first).chain(0..1000);
    seeds.find_map(|seed| outcome(seed, &options).err().map(|broken| (seed, broken.rule)))
}

#[test]
fn a_node_with_a_mistake_is_found() {
    assert!(
        Mistake::ALL
            .iter()
            .all(|mistake| MISTAKES.iter().any(|(listed, ..)| listed == mistake))
    );
    for (mistake, name, seed) in MISTAKES {
        let found = found(mistake, mix(name), seed);
        assert!(found.is_some(), "{mistake:?} is not found within 1,000 seeds");
    }
}
