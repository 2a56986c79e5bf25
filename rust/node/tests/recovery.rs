//! What a recovery registry promises.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use meshos_node::callback::CallFailed;
use meshos_node::recovery::{NameTaken, RecoveryHandler, RecoveryRegistry};

/// A handler made of closures.
struct Made<F, W = fn() -> Result<bool, CallFailed>> {
    name: &'static str,
    has_work: Option<W>,
    recover: F,
}

impl<F, W> RecoveryHandler for Made<F, W>
where
    F: Fn() -> Result<Vec<u8>, CallFailed> + Send + Sync + 'static,
    W: Fn() -> Result<bool, CallFailed> + Send + Sync + 'static,
{
    fn has_work(&self) -> Result<bool, CallFailed> {
        self.has_work.as_ref().map_or(Ok(true), |has_work| has_work())
    }

    fn recover(&self) -> Result<Vec<u8>, CallFailed> {
        (self.recover)()
    }

    fn name(&self) -> &str {
        self.name
    }

    fn identity(&self) -> usize {
        self.name.as_ptr() as usize
    }
}

fn handler(
    name: &'static str,
    recover: impl Fn() -> Result<Vec<u8>, CallFailed> + Send + Sync + 'static,
) -> Arc<dyn RecoveryHandler> {
    Arc::new(Made {
        name,
        has_work: None::<fn() -> Result<bool, CallFailed>>,
        recover,
    })
}

fn counted(name: &'static str, calls: &Arc<AtomicU32>, slots: Vec<u8>) -> Arc<dyn RecoveryHandler> {
    let calls = Arc::clone(calls);
    handler(name, move || {
        calls.fetch_add(1, Ordering::SeqCst);
        Ok(slots.clone())
    })
}

fn panic() -> ! {
    std::panic::resume_unwind(Box::new("simulated"))
}

/// Runs within a budget; returns the names of the handlers that ran.
fn run_within(registry: &RecoveryRegistry, budget: Duration) -> Vec<String> {
    let mut names = Vec::new();
    registry.run_within(budget, |name, _, _| names.push(name.to_string()));
    names
}

#[test]
fn slots_are_collected_and_a_handler_that_panics_is_evicted() {
    let registry = RecoveryRegistry::new();
    assert!(registry.is_empty());
    let (good, bad) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let counts = Arc::clone(&bad);
    assert_eq!(registry.register(counted("good", &good, vec![0, 1]), None, 1), Ok(1));
    let panics = handler("bad", move || {
        counts.fetch_add(1, Ordering::SeqCst);
        panic()
    });
    assert_eq!(registry.register(panics, None, 1), Ok(2));
    assert_eq!(registry.len(), 2);

    assert_eq!(registry.try_run_all(), [0, 1]);
    assert_eq!(registry.len(), 1);
    assert_eq!((good.load(Ordering::SeqCst), bad.load(Ordering::SeqCst)), (1, 1));

    assert_eq!(registry.try_run_all(), [0, 1]);
    assert_eq!(registry.len(), 1);
    assert_eq!((good.load(Ordering::SeqCst), bad.load(Ordering::SeqCst)), (2, 1));
}

#[test]
fn a_handler_may_register_another_which_runs_the_next_time() {
    let registry = RecoveryRegistry::new();
    let inner = registry.clone();
    let invoked = Arc::new(AtomicU32::new(0));
    let counts = Arc::clone(&invoked);
    let registers = handler("outer", move || {
        assert_eq!(inner.len(), 1);
        assert!(!inner.is_empty());
        assert_eq!(inner.register(handler("inner", || Ok(vec![99])), None, 1), Ok(2));
        counts.fetch_add(1, Ordering::SeqCst);
        Ok(vec![7])
    });
    registry.register(registers, None, 1).expect("a free name");

    assert_eq!(registry.try_run_all(), [7]);
    assert_eq!(invoked.load(Ordering::SeqCst), 1);
    assert_eq!(registry.len(), 2);
    assert!(registry.unregister("outer"));
    assert_eq!(registry.try_run_all(), [99]);
}

#[test]
fn registering_does_not_wait_for_a_handler_and_the_count_is_never_short() {
    let registry = RecoveryRegistry::new();
    let (inside, go_on) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (entered, waits) = (Arc::clone(&inside), Arc::clone(&go_on));
    let slow = handler("slow", move || {
        entered.wait();
        waits.wait();
        Ok(vec![0])
    });
    registry.register(slow, None, 1).expect("a free name");
    let runner = registry.clone();
    let runner = thread::spawn(move || runner.try_run_all());
    inside.wait();
    // The handler goes on only after this: a call that waited for it would never return.
    assert_eq!(registry.len(), 1);
    assert_eq!(registry.register(handler("late", || Ok(vec![42])), None, 1), Ok(2));
    assert_eq!(
        registry.try_run_all(),
        [42],
        "a second run skips the handler that is running"
    );
    go_on.wait();
    assert_eq!(runner.join().expect("no panic"), [0]);
    assert_eq!(registry.len(), 2);
}

#[test]
fn strikes_are_counted_in_a_row() {
    let registry = RecoveryRegistry::new();
    let answers = Mutex::new(vec![true, false, true, true, false, true, true]);
    let moody = handler("moody", move || {
        // Taken from the end: raises twice, recovers, raises twice, recovers, raises.
        match answers.lock().expect("no panic").pop() {
            Some(true) => Err(CallFailed::new("not now")),
            _ => Ok(vec![1]),
        }
    });
    registry.register(moody, None, 3).expect("a free name");
    for _ in 0..7 {
        registry.try_run_all();
    }
    let status = registry.status().remove(0);
    assert_eq!((status.runs, status.recovered, status.strikes), (7, 2, 1));
    assert_eq!(status.last_error.as_deref(), Some("not now"));
    assert!(status.last_run_at.is_some());
    assert_eq!(
        registry.register(handler("bad", || Err(CallFailed::new("no"))), None, 3),
        Ok(2)
    );
    for left in [2, 2, 1] {
        registry.try_run_all();
        assert_eq!(registry.len(), left);
    }
}

#[test]
fn a_handler_without_work_is_not_run() {
    let registry = RecoveryRegistry::new();
    let calls = Arc::new(AtomicU32::new(0));
    let counts = Arc::clone(&calls);
    let idle = Made {
        name: "idle",
        has_work: Some(|| Ok(false)),
        recover: move || {
            counts.fetch_add(1, Ordering::SeqCst);
            Ok(vec![1])
        },
    };
    registry.register(Arc::new(idle), None, 1).expect("a free name");
    let changes = registry.changes();
    assert!(registry.try_run_all().is_empty());
    assert_eq!(run_within(&registry, Duration::MAX), Vec::<String>::new());
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    assert_eq!(registry.status()[0].runs, 0);
    assert_eq!(registry.changes(), changes);
    let raises = Made {
        name: "raises",
        has_work: Some(|| Err(CallFailed::new("no"))),
        recover: || Ok(vec![1]),
    };
    registry.register(Arc::new(raises), None, 1).expect("a free name");
    assert!(registry.try_run_all().is_empty());
    assert_eq!(registry.len(), 1, "a raise of has_work is a strike");
}

#[test]
fn names_are_unique_and_unregister_finds_by_name_and_identity() {
    let registry = RecoveryRegistry::new();
    let calls = Arc::new(AtomicU32::new(0));
    for _ in 0..2 {
        registry
            .register(counted("group", &calls, vec![]), None, 1)
            .expect("a free name");
    }
    let names: Vec<_> = registry.status().iter().map(|status| status.name.to_string()).collect();
    assert_eq!(names, ["group", "group-2"]);
    let taken = registry.register(counted("other", &calls, vec![]), Some("group"), 1);
    assert_eq!(taken, Err(NameTaken { name: "group".into() }));
    assert_eq!(registry.len(), 2);
    assert!(registry.unregister("group"));
    assert!(!registry.unregister("group"));
    let last = registry.handlers().remove(0);
    assert!(registry.unregister_identity(last.identity()));
    assert!(!registry.unregister_identity(last.identity()));
    assert!(registry.is_empty());
}

#[test]
fn a_handler_unregistered_while_it_runs_ends_as_usual_and_stays_away() {
    let registry = RecoveryRegistry::new();
    let inner = registry.clone();
    let leaves = handler("leaves", move || {
        assert!(inner.unregister("leaves"));
        Ok(vec![3])
    });
    registry.register(leaves, None, 1).expect("a free name");
    assert_eq!(registry.try_run_all(), [3]);
    assert!(registry.is_empty());
}

#[test]
fn a_run_within_a_budget_goes_on_where_the_last_one_stopped() {
    let registry = RecoveryRegistry::new();
    let calls = Arc::new(AtomicU32::new(0));
    for name in ["a", "b", "c"] {
        registry
            .register(counted(name, &calls, vec![]), None, 1)
            .expect("a free name");
    }
    // A budget of nothing is used up by any handler.
    let turns: Vec<_> = (0..4).flat_map(|_| run_within(&registry, Duration::ZERO)).collect();
    assert_eq!(turns, ["a", "b", "c", "a"]);
    assert_eq!(run_within(&registry, Duration::MAX), ["b", "c", "a"]);
    registry.unregister("b");
    assert_eq!(run_within(&registry, Duration::ZERO), ["c"]);
    registry
        .register(counted("d", &calls, vec![]), None, 1)
        .expect("a free name");
    assert_eq!(run_within(&registry, Duration::MAX), ["d", "a", "c"]);
}

#[test]
fn a_handler_that_hangs_does_not_keep_the_next_run_from_the_others() {
    let registry = RecoveryRegistry::new();
    let (inside, go_on) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (entered, waits) = (Arc::clone(&inside), Arc::clone(&go_on));
    let hangs = handler("hangs", move || {
        entered.wait();
        waits.wait();
        Ok(vec![])
    });
    registry.register(hangs, None, 1).expect("a free name");
    registry
        .register(handler("works", || Ok(vec![1])), None, 1)
        .expect("a free name");
    let runner = registry.clone();
    let runner = thread::spawn(move || run_within(&runner, Duration::ZERO));
    inside.wait();
    assert_eq!(run_within(&registry, Duration::MAX), ["works"]);
    go_on.wait();
    assert_eq!(runner.join().expect("no panic"), ["hangs"]);
}

#[test]
fn a_bounded_run_tells_what_came_of_each_handler() {
    let registry = RecoveryRegistry::new();
    registry
        .register(handler("good", || Ok(vec![4, 5])), None, 1)
        .expect("a free name");
    registry
        .register(handler("bad", || panic()), None, 2)
        .expect("a free name");
    let run = || {
        let mut told = Vec::new();
        registry.run_within(Duration::MAX, |name, outcome, evicted| {
            told.push((name.to_string(), outcome.map_err(|failed| failed.reason), evicted));
        });
        told
    };
    let good = || ("good".to_owned(), Ok(vec![4, 5]), false);
    let bad = |evicted| ("bad".to_owned(), Err("panicked: simulated".to_owned()), evicted);
    assert_eq!(run(), [good(), bad(false)]);
    assert_eq!(run(), [good(), bad(true)]);
    assert_eq!(run(), [good()]);
}

/// Raises because its thread was interrupted.
struct Interrupted;

impl RecoveryHandler for Interrupted {
    fn recover(&self) -> Result<Vec<u8>, CallFailed> {
        Err(CallFailed::new("interrupted"))
    }

    fn was_interrupted(&self) -> bool {
        true
    }
}

#[test]
fn an_interrupt_is_no_strike_and_ends_the_run() {
    let registry = RecoveryRegistry::new();
    let calls = Arc::new(AtomicU32::new(0));
    registry
        .register(handler("first", || Ok(vec![1])), None, 1)
        .expect("a free name");
    registry.register(Arc::new(Interrupted), None, 1).expect("a free name");
    registry
        .register(counted("last", &calls, vec![3]), None, 1)
        .expect("a free name");
    assert_eq!(registry.try_run_all(), [1]);
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    assert_eq!(registry.len(), 3);
    assert_eq!(registry.status()[1].runs, 0);
}
