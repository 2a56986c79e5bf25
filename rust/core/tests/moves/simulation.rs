//! Moves where everything goes wrong. `SIM_SEEDS` sets how many seeds of each mix are tried, `SIM_SEED` which is the first.

use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use meshos_core::testing::moves::{Broken, Coverage, Crash, Mistake, Options, Pair, Report, run, run_covering};

use crate::{order, source, target};

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

/// Says something in a run of `make sim`, also of a test that passes.
fn say(text: &str) {
    if std::env::var_os("SIM_SEEDS").is_some() {
        let said = writeln!(std::io::stderr(), "{text}");
        said.expect("somebody listens");
    }
}

/// How long this thread had a core, where the system says so: what others do meanwhile does not count.
fn on_core() -> Option<Duration> {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    said.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// A moment, to say how many seeds a minute there were.
#[expect(clippy::disallowed_methods, reason = "what is simulated does not see it")]
fn now() -> Instant {
    Instant::now()
}

/// A seed that failed, with the command that repeats it.
fn failed(mix: &str, seed: u64, broken: &Broken) -> String {
    format!(
        "{mix}, seed {seed}: {broken}\nrepeat: SIM_SEED={seed} SIM_SEEDS=1 cargo test --release --package \
         meshos-core --features testing --test moves -- --exact simulation::{mix}"
    )
}

/// Runs all seeds of a mix.
fn hold(mix: &str, options: &Options) -> Report {
    let (first, seeds) = (number("SIM_SEED", 0), number("SIM_SEEDS", SEEDS));
    let (begun, begun_on_core) = (now(), on_core());
    let mut sum = Report::default();
    for seed in first..first + seeds {
        let report = outcome(seed, options).unwrap_or_else(|broken| panic!("{}", failed(mix, seed, &broken)));
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
    let elapsed = begun.elapsed();
    let on_core = on_core().zip(begun_on_core).map(|(now, begun)| now - begun);
    let a_minute = |time: Duration| seeds as f64 * 60.0 / time.as_secs_f64().max(1e-9);
    say(&format!(
        "{mix}: {seeds} seeds, {:.0} a minute of one core, {:.0} by the clock, {} moves committed, {} aborted, {} crashes",
        a_minute(on_core.unwrap_or(elapsed)),
        a_minute(elapsed),
        sum.committed,
        sum.aborted,
        sum.crashes
    ));
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
fn simulation_strays() {
    hold(
        "simulation_strays",
        &Options::journal().two_orders().pauses().late().strays(),
    );
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
fn simulation_two_orders_strays() {
    hold(
        "simulation_two_orders_strays",
        &Options::journal().two_orders().strays(),
    );
}

#[test]
fn a_seed_that_fails_comes_with_the_command_that_repeats_it() {
    let options = Options::journal().with(Mistake::StaysActive);
    let said = catch_unwind(|| hold("simulation_journal", &options)).expect_err("it is found at once");
    let first = number("SIM_SEED", 0);
    let repeat = said
        .downcast_ref::<String>()
        .and_then(|said| said.split_once("repeat: "));
    let (what, command) = repeat.expect("there is a command");
    let seed = (first..).find(|seed| outcome(*seed, &options).is_err()).unwrap();
    assert!(
        what.starts_with(&format!("simulation_journal, seed {seed}: ")),
        "{what}"
    );
    assert!(
        command.starts_with(&format!("SIM_SEED={seed} SIM_SEEDS=1 cargo test ")),
        "{command}"
    );
    assert!(
        command.ends_with(" --exact simulation::simulation_journal"),
        "{command}"
    );
}

#[test]
fn one_seed_gives_one_run() {
    for options in [Options::journal(), Options::none().two_orders().pauses().late()] {
        assert_eq!(outcome(7, &options), outcome(7, &options));
    }
}

/// Seeds of each mix in which every pair is reached that is not listed.
const COVERING: u64 = 100;

const ASKED: &str = "it answers what is asked for in another phase";
const NOTHING_KEPT: &str = "nothing is being kept";
const LATER: &str = "it follows on something that comes later in the same move";
const GATE: &str = "the gate says in other phases that an event waits";
const UNKNOWN: &str = "a target says it of a commit that it does not know, which would break OneLive";
const OVER: &str = "the other way was decided, or nobody is there any more";
const RARE: &str = "not in these seeds: the tables have it";
const ONE_IMAGE: &str = "there is one image of a move, and its chunks were checked on their way";

/// A machine, a phase, signals that it is not given there by a simulation, and why.
const NEVER: [(&str, &str, &[&str], &str); 64] = [
    ("source", "Idle", &["outcome"], UNKNOWN),
    ("source", "Idle", &["event"], GATE),
    ("source", "Idle", &["frozen", "freeze failed"], ASKED),
    (
        "source",
        "Reserved",
        &["prepared", "committed", "retire", "pull"],
        LATER,
    ),
    ("source", "Reserved", &["outcome", "outcome of another move"], UNKNOWN),
    ("source", "Reserved", &["event"], GATE),
    ("source", "Reserved", &["frozen", "freeze failed"], ASKED),
    ("source", "Reserved", &["fenced"], RARE),
    (
        "source",
        "Intending",
        &[
            "reject",
            "freeze of another move",
            "committed of another move",
            "retire of another move",
            "pull of another move",
            "fenced",
        ],
        RARE,
    ),
    (
        "source",
        "Intending",
        &["prepared", "committed", "retire", "pull"],
        LATER,
    ),
    ("source", "Intending", &["outcome", "outcome of another move"], UNKNOWN),
    ("source", "Intending", &["event"], GATE),
    ("source", "Intending", &["frozen", "freeze failed"], ASKED),
    (
        "source",
        "Freezing",
        &[
            "reject",
            "committed of another move",
            "retire of another move",
            "fenced",
        ],
        RARE,
    ),
    (
        "source",
        "Freezing",
        &["prepared", "committed", "retire", "pull"],
        LATER,
    ),
    ("source", "Freezing", &["outcome", "outcome of another move"], UNKNOWN),
    ("source", "Frozen", &["committed", "retire"], LATER),
    ("source", "Frozen", &["outcome", "outcome of another move"], UNKNOWN),
    ("source", "Frozen", &["retire of another move", "fenced"], RARE),
    ("source", "Frozen", &["frozen", "freeze failed"], ASKED),
    (
        "source",
        "Committing",
        &[
            "reject",
            "freeze of another move",
            "prepared of another move",
            "committed of another move",
            "retire of another move",
        ],
        RARE,
    ),
    ("source", "Committing", &["committed", "retire"], LATER),
    ("source", "Committing", &["outcome", "outcome of another move"], UNKNOWN),
    ("source", "Committing", &["frozen", "freeze failed"], ASKED),
    ("source", "Committed", &["outcome", "outcome of another move"], UNKNOWN),
    ("source", "Committed", &["retire of another move"], RARE),
    ("source", "Committed", &["event"], GATE),
    ("source", "Committed", &["frozen", "freeze failed"], ASKED),
    ("source", "Committed", &["failed"], RARE),
    (
        "source",
        "Retiring",
        &[
            "reject",
            "abort req",
            "freeze of another move",
            "prepared of another move",
            "retire of another move",
            "pull of another move",
        ],
        RARE,
    ),
    ("source", "Retiring", &["outcome", "outcome of another move"], UNKNOWN),
    ("source", "Retiring", &["event"], GATE),
    ("source", "Retiring", &["frozen", "freeze failed"], ASKED),
    ("source", "Aborting", &["committed", "retire"], LATER),
    ("source", "Aborting", &["outcome", "outcome of another move"], UNKNOWN),
    (
        "source",
        "Aborting",
        &[
            "prepared of another move",
            "retire of another move",
            "fenced",
            "frozen",
            "freeze failed",
        ],
        RARE,
    ),
    ("target", "Idle", &["kept", "failed"], NOTHING_KEPT),
    (
        "target",
        "Idle",
        &["restored", "restore failed", "install refused"],
        ASKED,
    ),
    ("target", "Reserved", &["commit"], LATER),
    ("target", "Reserved", &["kept", "failed"], NOTHING_KEPT),
    (
        "target",
        "Reserved",
        &["restored", "restore failed", "install refused"],
        ASKED,
    ),
    ("target", "Restoring", &["commit"], LATER),
    ("target", "Restoring", &["kept", "failed"], NOTHING_KEPT),
    ("target", "Restoring", &["activated", "install refused"], ASKED),
    ("target", "Keeping", &["commit"], LATER),
    (
        "target",
        "Keeping",
        &["final of another move", "commit of another move"],
        RARE,
    ),
    (
        "target",
        "Keeping",
        &["restored", "restore failed", "activated", "install refused"],
        ASKED,
    ),
    ("target", "Prepared", &["final of another move"], RARE),
    ("target", "Prepared", &["kept", "failed"], NOTHING_KEPT),
    (
        "target",
        "Prepared",
        &["restored", "restore failed", "activated", "install refused"],
        ASKED,
    ),
    ("target", "Installing", &["abort"], OVER),
    (
        "target",
        "Installing",
        &["final of another move", "commit of another move", "install refused"],
        RARE,
    ),
    ("target", "Installing", &["kept", "failed"], NOTHING_KEPT),
    ("target", "Installing", &["restored", "restore failed"], ASKED),
    (
        "target",
        "Erasing",
        &[
            "commit",
            "final of another move",
            "commit of another move",
            "fenced",
            "activated",
            "restored",
            "restore failed",
        ],
        RARE,
    ),
    ("target", "Erasing", &["install refused"], ASKED),
    (
        "orchestrator",
        "Ordering",
        &["accept", "reject", "commit", "committed", "outcome"],
        LATER,
    ),
    ("orchestrator", "Preparing", &["commit"], LATER),
    ("orchestrator", "Preparing", &["committed", "outcome"], RARE),
    ("orchestrator", "Preparing", &["kept", "failed"], NOTHING_KEPT),
    ("orchestrator", "Driving", &["kept", "failed"], NOTHING_KEPT),
    ("orchestrator", "Asking", &["kept", "failed"], NOTHING_KEPT),
    (
        "orchestrator",
        "Ended",
        &[
            "accept",
            "reject",
            "commit",
            "committed",
            "outcome",
            "kept",
            "failed",
            "timer",
            "abort",
        ],
        OVER,
    ),
    (
        "chunks",
        "Pulling",
        &["chunk of another image", "chunk of another length"],
        ONE_IMAGE,
    ),
];

#[test]
fn simulation_reaches_every_pair_of_the_tables() {
    let seeds = number("SIM_SEEDS", COVERING).clamp(COVERING, 2000);
    let all_at_once = Options::journal().two_orders().pauses().late();
    let mixes = [
        ("simulation_journal", Options::journal()),
        ("simulation_all", all_at_once),
        ("simulation_none", Options::none().two_orders().pauses().late()),
        ("simulation_takeovers_all", all_at_once.takeovers()),
        ("simulation_two_orders_strays", Options::journal().two_orders().strays()),
        ("simulation_strays", all_at_once.strays()),
    ];
    let mut all = Coverage::default();
    for seed in 0..seeds {
        for (mix, options) in &mixes {
            let (outcome, coverage) = run_covering(seed, options);
            outcome.unwrap_or_else(|broken| panic!("{}", failed(mix, seed, &broken)));
            all.add(&coverage);
        }
    }
    say(&table(&all));
    let (never, listed) = never(&all);
    let unlisted: Vec<_> = never.iter().filter(|pair| !listed.contains(pair)).collect();
    assert!(unlisted.is_empty(), "never reached, and not listed: {unlisted:#?}");
    // What is rare may be reached by some seeds; everything else on the list cannot be.
    let is_rare = |pair: &Pair| reason(pair) == Some(RARE);
    let reached: Vec<_> = listed
        .iter()
        .filter(|pair| !never.contains(pair) && !is_rare(pair))
        .collect();
    assert!(reached.is_empty(), "listed, and reached: {reached:#?}");
}

/// Why a pair is listed.
fn reason(pair: &Pair) -> Option<&'static str> {
    let is_of = |(machine, phase, signals, _): &&(&str, &str, &[&str], &str)| {
        *machine == pair.machine && *phase == pair.phase && signals.contains(&pair.signal.as_str())
    };
    NEVER.iter().find(is_of).map(|(.., why)| *why)
}

/// What was never reached, and what is listed as such.
fn never(all: &Coverage) -> (Vec<Pair>, Vec<Pair>) {
    let is_listed = |pair: &Pair| reason(pair).is_some();
    let pairs = all.pairs();
    let never = pairs
        .iter()
        .filter(|(_, times)| *times == 0)
        .map(|(pair, _)| pair.clone());
    let listed = pairs.iter().map(|(pair, _)| pair.clone()).filter(is_listed);
    (never.collect(), listed.collect())
}

/// What comes of a pair in the table of its machine: one for each way in which the signal is given there.
fn outcomes(pair: &Pair) -> Vec<String> {
    let found = match pair.machine {
        "source" => source::found(),
        "target" => target::found(),
        _ => order::found(),
    };
    let another = pair.signal.strip_suffix(" of another move");
    let is_of = |name: &str| match another {
        Some(signal) => name.strip_prefix(signal) == Some(" another"),
        None => name.strip_prefix(&pair.signal).is_some_and(|rest| {
            let ways = [" by ", " of ", " late", ", ", ": "];
            rest.is_empty() || ways.iter().any(|way| rest.starts_with(way))
        }),
    };
    let of_pair = found
        .into_iter()
        .filter(|(phase, name, _)| *phase == pair.phase && is_of(name));
    of_pair.map(|(.., outcome)| outcome).collect()
}

/// What is said to be impossible is late in the tables; what is only rare is tried there. Chunks have a test of their own.
#[test]
fn what_is_never_reached_is_in_the_tables() {
    let (_, listed) = never(&Coverage::default());
    let count: usize = NEVER.iter().map(|(.., signals, _)| signals.len()).sum();
    assert_eq!(listed.len(), count, "each is a pair, and is there once");
    for pair in listed.iter().filter(|pair| pair.machine != "chunks") {
        let outcomes = outcomes(pair);
        assert!(!outcomes.is_empty(), "no table has {pair:?}");
        let is_late = outcomes.iter().all(|outcome| outcome == "-");
        assert!(
            is_late || reason(pair) == Some(RARE),
            "{pair:?} is possible: {outcomes:?}"
        );
    }
}

fn table(all: &Coverage) -> String {
    let mut table = "machine       phase       signal                        times\n".to_owned();
    let pairs = all.pairs();
    for (pair, times) in pairs.iter().filter(|(_, times)| *times > 0) {
        writeln!(
            table,
            "{:<13} {:<11} {:<29} {times}",
            pair.machine, pair.phase, pair.signal
        )
        .unwrap();
    }
    let reached = pairs.iter().filter(|(_, times)| *times > 0).count();
    writeln!(
        table,
        "{reached} of {} pairs were reached; never reached, and why:",
        pairs.len()
    )
    .unwrap();
    for (pair, _) in pairs.iter().filter(|(_, times)| *times == 0) {
        let why = reason(pair).unwrap_or("not listed");
        writeln!(
            table,
            "{:<13} {:<11} {:<29} {why}",
            pair.machine, pair.phase, pair.signal
        )
        .unwrap();
    }
    table
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
