//! When a daemon that crashed may start again.

use std::collections::BTreeSet;
use std::time::Duration;

use meshos_core::finite::{Finite, Share};
use meshos_core::loop_config::{BackoffConfig, SPAN_MAX};
use meshos_core::supervision::{Backoff, RestartState};
use meshos_core::time::UnixMs;
use proptest::collection::vec;
use proptest::prelude::*;

const SALT: u64 = 7;

fn at(ms: u64) -> UnixMs {
    UnixMs::new(1_000_000 + ms)
}

/// The defaults without jitter.
fn config() -> BackoffConfig {
    BackoffConfig {
        jitter: Share::default(),
        ..BackoffConfig::default()
    }
}

/// The state after crashes whose starts failed.
fn after(crashes: &[u64], config: &BackoffConfig) -> Backoff {
    let mut backoff = Backoff::default();
    for crash in crashes {
        backoff.crashed(at(*crash), None, config, SALT);
    }
    backoff
}

fn backing_off(until: u64) -> RestartState {
    RestartState::BackingOff { until: at(until) }
}

fn crash_looping(until: u64) -> RestartState {
    RestartState::CrashLooping { until: at(until) }
}

#[test]
fn waits_double_and_the_fifth_crash_in_a_minute_is_a_crash_loop() {
    let mut backoff = Backoff::default();
    let steps = [
        (0, backing_off(500)),
        (600, backing_off(1600)),
        (1700, backing_off(3700)),
        (3800, backing_off(7800)),
        (7900, crash_looping(307_900)),
    ];
    for (crash, expected) in steps {
        assert!(backoff.is_admissible(at(crash)));
        backoff.crashed(at(crash), Some(at(crash - crash.min(50))), &config(), SALT);
        assert_eq!(backoff.state, expected, "crash at {crash}");
        assert!(!backoff.is_admissible(at(crash)));
    }
    assert_eq!(backoff.crashes(), 5);
}

#[test]
fn crashes_that_are_far_apart_wait_up_to_the_maximum() {
    let mut backoff = Backoff::default();
    let waits = [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000];
    for (crash, wait) in (0..).step_by(61_000).zip(waits) {
        backoff.crashed(at(crash), Some(at(crash)), &config(), SALT);
        assert_eq!(backoff.state, backing_off(crash + wait));
    }
}

#[test]
fn a_crash_leaves_the_window_after_its_last_millisecond() {
    assert_eq!(after(&[0, 1, 2, 3, 60_000], &config()).state, crash_looping(360_000));
    let outside = after(&[0, 1, 2, 3, 60_001], &config());
    assert_eq!(outside.state, backing_off(68_001));
    assert_eq!(outside.crashes(), 4);
}

#[test]
fn the_bound_of_a_wait_is_inclusive() {
    let mut backoff = after(&[0], &config());
    assert!(!backoff.is_admissible(at(499)));
    assert!(!backoff.release(at(499)));
    assert!(backoff.is_admissible(at(500)));
    assert!(backoff.release(at(500)));
    assert!(!backoff.release(at(500)));
    assert_eq!(backoff.release_at(), None);
}

#[test]
fn after_the_cool_down_one_more_crash_in_the_window_is_a_crash_loop_again() {
    let config = BackoffConfig {
        crash_loop_cooldown: Duration::from_secs(10),
        ..config()
    };
    let mut backoff = after(&[0, 1, 2, 3, 4], &config);
    assert!(backoff.release(at(10_004)));
    backoff.started(at(10_010));
    backoff.crashed(at(10_020), Some(at(10_010)), &config, SALT);
    assert_eq!(backoff.state, crash_looping(20_020));
}

#[test]
fn after_the_cool_down_waits_start_over() {
    let mut backoff = after(&[0, 1, 2, 3, 4], &config());
    backoff.started(at(300_004));
    backoff.crashed(at(300_005), Some(at(300_004)), &config(), SALT);
    assert_eq!((backoff.state, backoff.crashes()), (backing_off(300_505), 1));
}

#[test]
fn time_spent_waiting_proves_nothing() {
    // The cool-down is longer than a stable run, and the window longer than both.
    let config = BackoffConfig {
        crash_loop_window: Duration::from_secs(3600),
        ..config()
    };
    let mut backoff = after(&[0, 1, 2, 3, 4], &config);
    backoff.started(at(300_004));
    backoff.crashed(at(300_005), Some(at(300_004)), &config, SALT);
    assert_eq!(backoff.state, crash_looping(600_005));
    // Nor does it when the start failed and the last start known is long ago.
    let mut backoff = after(&[0], &config);
    backoff.crashed(at(100), Some(at(0)), &config, SALT);
    backoff.crashed(at(60_099), Some(at(0)), &config, SALT);
    assert_eq!(backoff.crashes(), 3);
}

#[test]
fn a_crash_after_a_long_run_waits_as_the_first_one() {
    let mut backoff = after(&[0, 600, 1700], &config());
    backoff.started(at(3700));
    backoff.crashed(at(63_699), Some(at(3700)), &config(), SALT);
    assert_eq!(backoff.state, backing_off(67_699), "one millisecond too short");
    let mut backoff = after(&[0, 600, 1700], &config());
    backoff.started(at(3700));
    backoff.crashed(at(63_700), Some(at(3700)), &config(), SALT);
    assert_eq!(backoff.state, backing_off(64_200));
    assert_eq!(backoff.crashes(), 1);
}

#[test]
fn a_clean_exit_after_a_long_run_lets_waits_start_over() {
    for (uptime, wait) in [(59_999, 1000), (60_000, 500)] {
        let mut backoff = after(&[0], &config());
        backoff.started(at(500));
        backoff.exited(at(500 + uptime), Some(at(500)), &config());
        assert_eq!(backoff.state, RestartState::Idle);
        backoff.crashed(at(70_000), None, &config(), SALT);
        assert_eq!(backoff.state, backing_off(70_000 + wait));
    }
}

#[test]
fn a_long_run_proves_itself_at_its_time() {
    let mut backoff = after(&[0], &config());
    backoff.started(at(500));
    assert_eq!(backoff.proven_at(at(500), &config()), Some(at(60_500)));
    assert!(!backoff.proven(at(60_499), at(500), &config()));
    assert!(backoff.proven(at(60_500), at(500), &config()));
    assert_eq!((backoff.crashes(), backoff.proven_at(at(500), &config())), (0, None));
    assert!(!backoff.proven(at(70_000), at(500), &config()));
    // A crash that the daemon survived begins the run anew.
    backoff.crashed(at(80_000), Some(at(500)), &config(), SALT);
    assert_eq!(backoff.proven_at(at(500), &config()), Some(at(140_000)));
}

#[test]
fn a_daemon_that_never_crashed_has_nothing_to_prove() {
    let mut backoff = Backoff::default();
    assert_eq!(backoff.proven_at(at(0), &config()), None);
    assert!(!backoff.proven(at(1_000_000), at(0), &config()));
}

#[test]
fn late_news_opens_nothing_and_ends_no_wait() {
    let mut backoff = after(&[1000], &config());
    let before = backoff.clone();
    backoff.started(at(999));
    backoff.exited(at(999), None, &config());
    assert_eq!(backoff, before);
    // Alone, this crash would wait until 901.
    let short = BackoffConfig {
        initial: Duration::from_millis(1),
        maximum: Duration::from_millis(1),
        ..config()
    };
    backoff.crashed(at(900), None, &short, SALT);
    assert_eq!((backoff.state, backoff.crashes()), (before.state, 2));
    backoff.started(at(1000));
    assert_eq!(backoff.state, RestartState::Idle);
}

#[test]
fn a_late_crash_of_a_long_run_forgives_only_what_came_before_it() {
    let mut backoff = after(&[0, 100_000], &config());
    backoff.crashed(at(90_000), Some(at(10)), &config(), SALT);
    assert_eq!(backoff.crashes(), 2);
    let mut backoff = after(&[0], &config());
    backoff.crashed(at(30_000), Some(at(30_010)), &config(), SALT);
    assert_eq!(backoff.crashes(), 2, "a run that ended before it began proves nothing");
}

#[test]
fn an_operator_opens_the_gate_and_forgets() {
    let mut backoff = after(&[0, 1, 2, 3, 4], &config());
    assert!(backoff.force_release());
    assert!(!backoff.force_release());
    assert_eq!((backoff.state, backoff.crashes()), (RestartState::Idle, 0));
    backoff.crashed(at(10), None, &config(), SALT);
    assert_eq!(backoff.state, backing_off(510));
}

#[test]
fn jitter_differs_for_each_daemon_and_each_crash() {
    let config = BackoffConfig {
        factor: Finite::new(1.0).expect("finite"),
        crash_loop_threshold: 1000,
        ..BackoffConfig::default()
    };
    let mut waits = BTreeSet::new();
    for salt in 0..8 {
        let mut backoff = Backoff::default();
        for crash in (0..8000).step_by(1000) {
            backoff.crashed(at(crash), None, &config, salt);
            let wait = backoff.release_at().expect("closed").since(at(crash)).as_millis();
            assert!((400..=500).contains(&wait), "{wait}");
            waits.insert(wait);
        }
    }
    assert!(waits.len() > 30, "64 waits of 101 possible ones: {waits:?}");
}

#[test]
fn limits_of_the_options_are_no_traps() {
    let hundred_years = SPAN_MAX;
    let config = BackoffConfig {
        initial: hundred_years,
        maximum: hundred_years,
        factor: Finite::new(f64::MAX).expect("finite"),
        jitter: Share::WHOLE,
        crash_loop_threshold: 2,
        crash_loop_window: hundred_years,
        crash_loop_cooldown: hundred_years,
        stable_run_threshold: hundred_years,
    };
    let end = UnixMs::new(u64::MAX);
    let mut backoff = Backoff::default();
    backoff.crashed(end, Some(end), &config, SALT);
    backoff.crashed(end, Some(UnixMs::new(0)), &config, SALT);
    assert_eq!(backoff.release_at(), Some(end));
    let tiny = BackoffConfig {
        initial: Duration::from_millis(1),
        maximum: Duration::from_millis(1),
        jitter: Share::WHOLE,
        ..config
    };
    assert_eq!(after(&[0], &tiny).state, backing_off(1), "never below a millisecond");
}

/// Every pair of state and signal: the state after it, and the crashes it remembers.
#[test]
fn table() {
    type Step = fn(&mut Backoff, u64);
    let states = [
        ("Idle", after(&[], &config()), 500),
        ("BackingOff", after(&[0], &config()), 500),
        ("CrashLooping", after(&[0, 1, 2, 3, 4], &config()), 300_004),
    ];
    let signals: [(&str, Step); 8] = [
        ("a crash alone in its window", |backoff, end| {
            backoff.crashed(at(end + 60_000), None, &config(), SALT);
        }),
        ("crashes up to the threshold", |backoff, end| {
            (0..5).for_each(|_| backoff.crashed(at(end), None, &config(), SALT));
        }),
        ("started", |backoff, _| backoff.started(at(10))),
        ("exited", |backoff, _| backoff.exited(at(10), None, &config())),
        ("released too early", |backoff, end| {
            assert!(!backoff.release(at(end - 1)));
        }),
        ("released in time", |backoff, end| {
            let waited = backoff.state != RestartState::Idle;
            assert_eq!(backoff.release(at(end)), waited);
        }),
        ("proven", |backoff, end| {
            backoff.proven(at(end + 60_000), at(end), &config());
        }),
        ("forced", |backoff, _| {
            let waited = backoff.state != RestartState::Idle;
            assert_eq!(backoff.force_release(), waited);
        }),
    ];
    let mut printed = format!("{:<28}", "");
    printed += &states.each_ref().map(|(name, ..)| format!(" | {name:<14}")).concat();
    for (signal, step) in signals {
        printed += &format!("\n{signal:<28}");
        for (_, backoff, end) in &states {
            let mut next = backoff.clone();
            step(&mut next, *end);
            let name = match next.state {
                RestartState::Idle => "Idle",
                RestartState::BackingOff { .. } => "BackingOff",
                RestartState::CrashLooping { .. } => "CrashLooping",
            };
            printed += &format!(" | {name:<12} {}", next.crashes());
        }
    }
    let expected = "\
                             | Idle           | BackingOff     | CrashLooping
a crash alone in its window  | BackingOff   1 | BackingOff   1 | BackingOff   1
crashes up to the threshold  | CrashLooping 5 | CrashLooping 5 | CrashLooping 5
started                      | Idle         0 | Idle         1 | Idle         5
exited                       | Idle         0 | Idle         1 | Idle         5
released too early           | Idle         0 | BackingOff   1 | CrashLooping 5
released in time             | Idle         0 | Idle         1 | Idle         5
proven                       | Idle         0 | BackingOff   0 | CrashLooping 0
forced                       | Idle         0 | Idle         0 | Idle         0";
    assert_eq!(without_padding(&printed), without_padding(expected), "\n{printed}");
}

fn without_padding(table: &str) -> Vec<Vec<&str>> {
    table
        .lines()
        .map(|line| line.split('|').map(str::trim).collect())
        .collect()
}

/// Valid options, small enough for limits to matter.
fn configs() -> impl Strategy<Value = BackoffConfig> {
    let spans = (1_u64..2000, 0_u64..5000, 1_u64..5000, 1_u64..5000, 1_u64..5000);
    (spans, 1.0_f64..4.0, 0.0_f64..=1.0, 1_u32..8).prop_map(|(spans, factor, jitter, threshold)| {
        let (initial, more, window, cooldown, stable) = spans;
        let config = BackoffConfig {
            initial: Duration::from_millis(initial),
            factor: Finite::new(factor).expect("finite"),
            maximum: Duration::from_millis(initial + more),
            jitter: Share::new(jitter).expect("finite"),
            crash_loop_threshold: threshold,
            crash_loop_window: Duration::from_millis(window),
            crash_loop_cooldown: Duration::from_millis(cooldown),
            stable_run_threshold: Duration::from_millis(stable),
        };
        config.validate().expect("valid");
        config
    })
}

#[derive(Debug, Clone)]
enum Step {
    Crash { at: u64, uptime: Option<u64> },
    Start { at: u64 },
    Exit { at: u64, uptime: u64 },
    Release { now: u64 },
    Prove { now: u64, started_at: u64 },
    Force,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let time = || 0_u64..20_000;
    let step = prop_oneof![
        6 => (time(), proptest::option::of(time())).prop_map(|(at, uptime)| Step::Crash { at, uptime }),
        1 => time().prop_map(|at| Step::Start { at }),
        1 => (time(), time()).prop_map(|(at, uptime)| Step::Exit { at, uptime }),
        2 => time().prop_map(|now| Step::Release { now }),
        1 => (time(), time()).prop_map(|(now, started_at)| Step::Prove { now, started_at }),
        1 => Just(Step::Force),
    ];
    vec(step, 0..40)
}

fn apply(backoff: &mut Backoff, step: &Step, config: &BackoffConfig, salt: u64) {
    match *step {
        Step::Crash { at: time, uptime } => {
            let started_at = uptime.map(|uptime| UnixMs::new(at(time).get() - uptime));
            backoff.crashed(at(time), started_at, config, salt);
        }
        Step::Start { at: time } => backoff.started(at(time)),
        Step::Exit { at: time, uptime } => {
            backoff.exited(at(time), Some(UnixMs::new(at(time).get() - uptime)), config);
        }
        Step::Release { now } => {
            let was_admissible = backoff.is_admissible(at(now));
            let released = backoff.release(at(now));
            assert!(!released || was_admissible);
            assert_eq!(was_admissible, backoff.state == RestartState::Idle);
        }
        Step::Prove { now, started_at } => {
            let due = backoff.proven_at(at(started_at), config);
            assert_eq!(
                backoff.proven(at(now), at(started_at), config),
                due.is_some_and(|due| due <= at(now))
            );
        }
        Step::Force => {
            backoff.force_release();
            assert!(backoff.is_admissible(UnixMs::new(0)));
        }
    }
}

proptest! {
    #[test]
    fn no_wait_is_longer_than_its_bound(config in configs(), steps in steps(), salt: u64) {
        let mut backoff = Backoff::default();
        let mut newest_crash = UnixMs::new(0);
        for step in steps {
            let before = backoff.release_at();
            apply(&mut backoff, &step, &config, salt);
            if let Step::Crash { at: time, .. } = step {
                newest_crash = newest_crash.max(at(time));
                prop_assert!(backoff.release_at() > Some(at(time)), "a crash is always followed by a wait");
                prop_assert!(backoff.release_at() >= before, "a crash ends no wait");
                prop_assert!(backoff.crashes() <= config.crash_loop_threshold as usize);
            }
            let bound = match backoff.state {
                RestartState::Idle => continue,
                RestartState::BackingOff { until } => (until, config.maximum),
                RestartState::CrashLooping { until } => (until, config.maximum.max(config.crash_loop_cooldown)),
            };
            prop_assert!(bound.0 <= newest_crash.plus(bound.1));
            prop_assert!(backoff.is_admissible(bound.0));
            prop_assert!(!backoff.is_admissible(UnixMs::new(bound.0.get() - 1)));
        }
    }

    #[test]
    fn more_crashes_never_shorten_the_wait(config in configs(), gaps in vec(0_u64..20_000, 1..30)) {
        let config = BackoffConfig { jitter: Share::default(), crash_loop_threshold: 1000, ..config };
        let mut backoff = Backoff::default();
        let (mut time, mut longest) = (0, Duration::ZERO);
        for gap in gaps {
            time += gap;
            backoff.state = RestartState::Idle;
            backoff.crashed(at(time), None, &config, SALT);
            let wait = backoff.release_at().expect("closed").since(at(time));
            prop_assert!(wait >= longest);
            longest = wait;
        }
    }

    #[test]
    fn jitter_only_shortens_and_by_no_more_than_its_share(
        config in configs(), times in vec(0_u64..20_000, 1..10), salt: u64,
    ) {
        let config = BackoffConfig { crash_loop_threshold: 1000, ..config };
        let plain = BackoffConfig { jitter: Share::default(), ..config };
        let (mut shortened, mut whole) = (Backoff::default(), Backoff::default());
        for time in times {
            (shortened.state, whole.state) = (RestartState::Idle, RestartState::Idle);
            shortened.crashed(at(time), None, &config, salt);
            whole.crashed(at(time), None, &plain, salt);
            let [shortened, whole] =
                [&shortened, &whole].map(|each| each.release_at().expect("closed").since(at(time)).as_millis());
            prop_assert!((1..=whole).contains(&shortened));
            prop_assert!(shortened as f64 >= whole as f64 * (1.0 - config.jitter.get()) - 1.0);
        }
    }

    #[test]
    fn the_same_salt_gives_the_same_waits(config in configs(), steps in steps(), salt: u64) {
        let [mut one, mut other] = [Backoff::default(), Backoff::default()];
        for step in steps {
            apply(&mut one, &step, &config, salt);
            apply(&mut other, &step, &config, salt);
            prop_assert_eq!(&one, &other);
        }
    }

    #[test]
    fn the_order_in_which_crashes_are_told_does_not_change_the_history(
        config in configs(),
        (told, in_order) in vec(0_u64..10_000, 1..20).prop_flat_map(|times| {
            let mut sorted = times.clone();
            sorted.sort_unstable();
            (Just(times).prop_shuffle(), Just(sorted))
        }),
    ) {
        let (told, in_order) = (after(&told, &config), after(&in_order, &config));
        prop_assert_eq!(told.crashes(), in_order.crashes());
        // One more crash shows what else is remembered.
        for next in (0..20_000).step_by(97) {
            let [mut told, mut in_order] = [told.clone(), in_order.clone()];
            told.crashed(at(next), None, &config, SALT);
            in_order.crashed(at(next), None, &config, SALT);
            prop_assert_eq!(told.crashes(), in_order.crashes());
        }
    }
}
