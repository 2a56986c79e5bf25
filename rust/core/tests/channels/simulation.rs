//! Channels where everything goes wrong. `SIM_SEEDS` sets how many seeds of each mix are tried, `SIM_SEED` which is the
//! first.

use std::panic::{AssertUnwindSafe, catch_unwind};

use meshos_core::testing::channels::{Broken, Mistake, Options, Report, run};

/// Seeds of each mix in a short run.
const SEEDS: u64 = 30;

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
                 meshos-core --features testing --test channels -- --exact simulation::{mix}"
            )
        });
        sum.steps += report.steps;
        sum.published += report.published;
        sum.from_elsewhere += report.from_elsewhere;
        sum.delivered += report.delivered;
        sum.turns += report.turns;
        sum.gaps += report.gaps;
        sum.refused += report.refused;
        sum.keys += report.keys;
        sum.crashes += report.crashes;
        sum.messages_lost += report.messages_lost;
    }
    if seeds > 10 {
        let each = [
            sum.published,
            sum.from_elsewhere,
            sum.delivered,
            sum.turns,
            sum.refused,
            sum.keys,
            sum.messages_lost,
        ];
        assert!(
            each.iter()
                .zip([60, 5, 80, 30, 5, 1, 40])
                .all(|(sum, least)| sum / seeds >= least)
                && sum.gaps > 0,
            "too little happens: {sum:?}"
        );
    }
    sum
}

#[test]
fn simulation_rough() {
    hold("simulation_rough", &Options::rough());
}

#[test]
fn simulation_late() {
    hold("simulation_late", &Options::rough().late());
}

#[test]
fn simulation_without_crashes() {
    let sum = hold("simulation_without_crashes", &Options::without_crashes().late());
    assert_eq!(sum.crashes, 0);
}

#[test]
fn one_seed_gives_one_run() {
    for options in [Options::rough(), Options::without_crashes().late()] {
        assert_eq!(outcome(7, &options), outcome(7, &options));
    }
}

/// Each mistake, the mix that finds it, and within how many seeds.
#[test]
fn a_node_with_a_mistake_is_found() {
    let (rough, late) = (Options::rough(), Options::rough().late());
    let steady = Options::without_crashes().late();
    let table = [
        (Mistake::PublishUnchecked, rough, 10),
        (Mistake::SubscribeUnchecked, rough, 10),
        (Mistake::KeyNotRotated, rough, 20),
        (Mistake::ForgetsWhoLeft, rough, 50),
        (Mistake::NoRepair, rough, 10),
        (Mistake::PublishesRepeats, rough, 10),
        (Mistake::GapNotTold, late, 20),
        (Mistake::RemovesSiblings, rough, 20),
        (Mistake::NoDedupe, rough, 10),
        (Mistake::GivesToTwo, late, 50),
        (Mistake::TakenOnce, rough, 50),
        (Mistake::KeepsGhosts, late, 150),
        (Mistake::HeardOfSiblings, steady, 100),
        (Mistake::NoHeads, rough, 20),
        (Mistake::AsksLaterRuns, late, 300),
    ];
    assert!(
        Mistake::ALL
            .iter()
            .all(|mistake| table.iter().any(|(listed, _, _)| listed == mistake))
    );
    for (mistake, mix, seeds) in table {
        let options = mix.with(mistake);
        let found = (0..seeds).find_map(|seed| outcome(seed, &options).err().map(|broken| (seed, broken)));
        assert!(found.is_some(), "{mistake:?} is not found within {seeds} seeds");
    }
}
