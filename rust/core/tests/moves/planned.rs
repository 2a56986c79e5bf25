//! Runs of a plan: user code of any sort, so many events, so many moves, and shares of faults.

use std::rc::Rc;
use std::time::Duration;

use meshos_core::config::{DaemonHostConfig, Durability};
use meshos_core::host::Few;
use meshos_core::route::Route;
use meshos_core::testing::moves::{
    Emitted, Failure, Fault, Faults, Given, Kind, Numbers, Options, Plan, Run, Share, Stop, Subject, simulate,
};

/// Seeds of each mix.
const SEEDS: u64 = 40;

fn share(share: f64) -> Share {
    Share::new(share).expect("a share")
}

fn plan(faults: Faults) -> Plan {
    Plan {
        events: 100,
        moves: 3,
        config: DaemonHostConfig {
            durability: Durability::Journal,
            ..DaemonHostConfig::default()
        },
        faults,
    }
}

fn delayed() -> Faults {
    Faults {
        delay: (Duration::ZERO, Duration::from_millis(500)),
        ..Faults::default()
    }
}

/// What a user would say.
fn wild() -> Faults {
    Faults {
        loss: share(0.2),
        duplicate: share(0.1),
        crash: share(0.01),
        partition: share(0.01),
        ..delayed()
    }
}

fn all() -> Faults {
    Faults {
        torn_write: share(0.05),
        slow_callback: share(0.01),
        clock_jump: share(0.01),
        ..wild()
    }
}

fn run(seed: u64, nodes: usize, plan: Plan) -> Result<Run, Failure> {
    simulate(seed, &Options::planned(nodes, plan), Box::new(Numbers))
}

fn good(seed: u64, nodes: usize, plan: Plan) -> Run {
    let run = run(seed, nodes, plan).unwrap_or_else(|failure| panic!("seed {seed}: {failure:#?}"));
    assert_eq!(run.report.moves_completed + run.report.moves_aborted, plan.moves);
    run
}

#[test]
fn without_faults_every_move_is_completed() {
    for seed in 0..5 {
        for nodes in 2..=8 {
            let report = good(seed, nodes, plan(Faults::default())).report;
            assert_eq!((report.acknowledged, report.moves_completed), (100, 3));
            assert_eq!((report.crashes, report.partitions, report.messages_lost), (0, 0, 0));
            assert_eq!((report.writes_failed, report.slow, report.jumps), (0, 0, 0));
            assert_eq!((report.messages_repeated, report.messages_overtook), (0, 0));
        }
    }
}

#[test]
fn every_event_is_acknowledged_whatever_goes_wrong() {
    let mut moved = (0, 0);
    for seed in 0..SEEDS {
        for faults in [wild(), all()] {
            let report = good(seed, 3, plan(faults)).report;
            assert_eq!(report.acknowledged, 100);
            moved.0 += report.moves_completed;
            moved.1 += report.moves_aborted;
        }
    }
    assert!(moved.0 > SEEDS && moved.1 > SEEDS / 2, "{moved:?}");
}

#[test]
fn a_fair_share_of_the_moves_is_completed() {
    let plan = Plan {
        events: 500,
        moves: 10,
        ..plan(wild())
    };
    let completed: u64 = (0..SEEDS).map(|seed| good(seed, 3, plan).report.moves_completed).sum();
    assert!(
        completed * 3 >= SEEDS * plan.moves,
        "{completed} of {} are completed",
        SEEDS * plan.moves
    );
}

#[test]
fn a_run_ends_though_every_message_is_lost() {
    let faults = Faults {
        loss: share(1.0),
        ..Faults::default()
    };
    let report = good(1, 3, plan(faults)).report;
    assert!(report.acknowledged == 100 && report.messages_lost > 1000, "{report:?}");
}

#[test]
fn every_fault_can_be_seen() {
    let with = |change: &dyn Fn(&mut Faults)| {
        let mut faults = Faults::default();
        change(&mut faults);
        good(1, 3, plan(faults)).report
    };
    assert!(with(&|faults| faults.loss = share(0.1)).messages_lost > 10);
    assert!(with(&|faults| faults.duplicate = share(0.1)).messages_repeated > 10);
    assert!(with(&|faults| faults.delay.1 = Duration::from_millis(500)).messages_overtook > 10);
    assert!(with(&|faults| faults.crash = share(0.05)).crashes > 2);
    assert!(with(&|faults| faults.partition = share(0.2)).partitions > 0);
    assert!(with(&|faults| faults.torn_write = share(0.3)).writes_failed > 0);
    assert!(with(&|faults| faults.slow_callback = share(0.1)).slow > 2);
    let jumped = with(&|faults| faults.clock_jump = share(0.5));
    assert!(
        jumped.jumps > 2 && jumped.moves_aborted > 0,
        "orders expire: {jumped:?}"
    );
}

#[test]
fn what_is_not_in_a_journal_may_be_lost_with_a_crash() {
    let kept = |durability, interval, seed| {
        let mut plan = plan(wild());
        plan.config.durability = durability;
        plan.config.auto_snapshot_interval = interval;
        good(seed, 3, plan).report
    };
    let lost = |durability, interval| {
        (0..SEEDS)
            .map(|seed| kept(durability, interval, seed).lost)
            .sum::<u64>()
    };
    assert!(lost(Durability::None, 0) > 0);
    assert!(lost(Durability::Snapshot, 5) < lost(Durability::Snapshot, 0));
    assert_eq!(lost(Durability::Journal, 7), 0);
}

#[test]
fn one_seed_gives_one_digest() {
    let digest = |seed| good(seed, 3, plan(all())).digest;
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));
}

/// A sum, with a bug.
#[derive(Debug, Clone, Copy)]
enum Bug {
    /// A restore forgets the state.
    Forgets,
    /// What is emitted is of another instance.
    CountsInstances,
    /// The third event after a restore cannot be taken.
    Fails,
}

struct Sum {
    total: u64,
    instance: u64,
    since: Option<u64>,
    bug: Bug,
}

struct Sums(u64, Bug);

impl Kind for Sums {
    fn make(&mut self) -> Result<Box<dyn Subject>, Fault> {
        self.0 += 1;
        Ok(Box::new(Sum {
            total: 0,
            instance: self.0,
            since: None,
            bug: self.1,
        }))
    }
}

impl Subject for Sum {
    fn process(&mut self, given: &Given) -> Result<Few<Emitted>, Fault> {
        self.total += given.number;
        self.since = self.since.map(|since| since + 1);
        let said = match self.bug {
            Bug::CountsInstances => self.instance,
            Bug::Fails if self.since == Some(3) => return Err("no".into()),
            _ => self.total,
        };
        Ok(Few::from_iter([Emitted {
            payload: Rc::from(said.to_le_bytes()),
            route: Route::Chain,
        }]))
    }

    fn snapshot(&mut self) -> Result<Option<Rc<[u8]>>, Fault> {
        Ok(Some(Rc::from(self.total.to_le_bytes())))
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), Fault> {
        self.since = Some(0);
        if !matches!(self.bug, Bug::Forgets) {
            self.total = u64::from_le_bytes(state.try_into()?);
        }
        Ok(())
    }
}

fn found(bug: Bug) -> Failure {
    let options = Options::planned(3, plan(wild()));
    let failed = (0..20).find_map(|seed| simulate(seed, &options, Box::new(Sums(0, bug))).err());
    failed.unwrap_or_else(|| panic!("{bug:?} is not found"))
}

#[test]
fn a_daemon_with_a_bug_is_found() {
    for (bug, rule) in [(Bug::Forgets, "SameState"), (Bug::CountsInstances, "SameOutputs")] {
        let failure = found(bug);
        let Stop::Broken(broken) = &failure.why else {
            panic!("{failure:?}");
        };
        assert_eq!(broken.rule, rule, "{failure:?}");
        assert!(failure.step > 0 && !failure.timeline.is_empty());
    }
}

#[test]
fn user_code_that_fails_ends_the_run() {
    let failure = found(Bug::Fails);
    assert!(
        matches!(&failure.why, Stop::Fault(fault) if fault.to_string() == "no"),
        "{failure:?}"
    );
}
