//! Owners and a directory together, where everything goes wrong. `SIM_SEEDS` sets how many seeds of each mix are tried,
//! `SIM_SEED` which is the first.

use std::panic::{AssertUnwindSafe, catch_unwind};

use meshos_core::testing::owners::{Broken, Mistake, Options, Report, run};

/// Seeds of each mix in a short run.
const SEEDS: u64 = 60;

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
                 meshos-core --features testing --test ownership -- --exact simulation::{mix}"
            )
        });
        sum.steps += report.steps;
        sum.acknowledged += report.acknowledged;
        sum.crashes += report.crashes;
        sum.takeovers += report.takeovers;
        sum.refused += report.refused;
        sum.restarts += report.restarts;
        sum.held_back += report.held_back;
    }
    if seeds > 10 {
        let each = [sum.acknowledged, sum.crashes, sum.takeovers, sum.held_back].map(|sum| sum / seeds);
        assert!(
            each[0] > 40 && each[1] > 3 && each[2] > 1 && each[3] > 5 && sum.refused > seeds,
            "too little happens: {sum:?}"
        );
    }
    sum
}

#[test]
fn simulation_journal() {
    hold("simulation_journal", &Options::journal());
}

#[test]
fn simulation_journal_late() {
    hold("simulation_journal_late", &Options::journal().late());
}

#[test]
fn simulation_none() {
    let sum = hold("simulation_none", &Options::none().late());
    assert!(sum.restarts > 0, "owners restart");
}

#[test]
fn simulation_forgetful() {
    hold("simulation_forgetful", &Options::forgetful().late());
}

#[test]
fn one_seed_gives_one_run() {
    for options in [Options::journal(), Options::none().late(), Options::forgetful()] {
        assert_eq!(outcome(7, &options), outcome(7, &options));
    }
}

/// Each mistake, the mix that finds it, and within how many seeds.
#[test]
fn a_node_with_a_mistake_is_found() {
    let (journal, none) = (Options::journal().late(), Options::none().late());
    let forgetful = Options::forgetful().late();
    let table = [
        (Mistake::IgnoresLease, journal, 20),
        (Mistake::AcknowledgesUnasked, journal, 20),
        (Mistake::GrantsLowerEpochs, journal, 20),
        (Mistake::TakesOverAtOnce, journal, 20),
        (Mistake::AdoptsHearsay, journal, 50),
        (Mistake::ReusesEpoch, forgetful, 50),
        (Mistake::NoRestartRecord, none, 20),
        (Mistake::AnswersEarly, journal, 50),
    ];
    assert!(
        Mistake::ALL
            .iter()
            .all(|mistake| table.iter().any(|(listed, _, _)| listed == mistake))
    );
    for (mistake, mix, seeds) in table {
        let options = mix.with(mistake);
        let found = (0..seeds).find_map(|seed| outcome(seed, &options).err().map(|broken| (seed, broken.rule)));
        assert!(found.is_some(), "{mistake:?} is not found within {seeds} seeds");
    }
}
