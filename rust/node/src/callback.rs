//! Callbacks: pieces of user code that the loop asks or tells, each isolated, measured, counted, and left alone for a
//! while when it fails too often.
//!
//! Invariants
//! * A panic of user code is a [`CallFailed`], and goes no further.
//! * Every call that began ends in the counters once.
//! * No lock is held while user code runs.
//!
//! Source: Michael Nygard, "Release It!", the circuit breaker, 2007.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sync::Mutex;
use meshos_core::status::{CallbackStatus, Part};

/// So many failures in a row disable a callback.
const FAILURES_MAX: u32 = 5;
/// How long a callback is left alone at first; each failed try doubles it.
const LEFT_ALONE_MIN: Duration = Duration::from_secs(30);
/// Longest time it is left alone.
const LEFT_ALONE_MAX: Duration = Duration::from_secs(600);

/// What a call of user code raised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct CallFailed {
    /// In one line.
    pub reason: String,
    /// Where in user code, for people.
    pub traceback: Option<String>,
}

impl CallFailed {
    /// A failure without a place in user code.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            traceback: None,
        }
    }
}

/// A piece of user code with a name.
#[derive(Debug)]
pub struct Callback {
    name: Arc<str>,
    part: Part,
    changes: Arc<AtomicU64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    status: CallbackStatus,
    failures_in_a_row: u32,
    breaker: Breaker,
    /// Calls that are out.
    out: Vec<Out>,
    next_call: u64,
}

#[derive(Debug, Default)]
enum Breaker {
    #[default]
    Closed,
    /// Left alone until `until`; then one call may try.
    Open {
        until: Instant,
        left_alone: Duration,
        trying: bool,
    },
}

#[derive(Debug)]
struct Out {
    call: u64,
    since: Instant,
    counted_late: bool,
}

impl State {
    /// Begins a call; `None` while the callback is left alone.
    fn begin(&mut self, now: Instant) -> Option<u64> {
        match &mut self.breaker {
            Breaker::Closed => {}
            Breaker::Open { until, trying, .. } if *until <= now && !*trying => *trying = true,
            Breaker::Open { .. } => return None,
        }
        let call = self.next_call;
        self.next_call += 1;
        self.out.push(Out {
            call,
            since: now,
            counted_late: false,
        });
        Some(call)
    }

    /// Ends a call; returns whether anything changed that is news.
    fn end(&mut self, call: u64, took: Duration, budget: Duration, now: Instant, failed: Option<&CallFailed>) -> bool {
        let counted_late = match self.out.iter().position(|out| out.call == call) {
            Some(place) => self.out.swap_remove(place).counted_late,
            None => false,
        };
        let mut news = false;
        self.status.calls += 1;
        self.status.slowest = self.status.slowest.max(took);
        if took > budget && !counted_late {
            self.status.late += 1;
            news = true;
        }
        match failed {
            None => {
                self.failures_in_a_row = 0;
                news |= self.status.disabled;
                self.breaker = Breaker::Closed;
            }
            Some(failed) => {
                news = true;
                self.status.failures += 1;
                self.status.last_error = Some(Arc::from(failed.reason.as_str()));
                self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
                self.fail(now);
            }
        }
        self.status.disabled = matches!(self.breaker, Breaker::Open { .. });
        news
    }

    fn fail(&mut self, now: Instant) {
        let left_alone = match self.breaker {
            Breaker::Closed if self.failures_in_a_row >= FAILURES_MAX => LEFT_ALONE_MIN,
            Breaker::Open {
                left_alone,
                trying: true,
                ..
            } => (left_alone * 2).min(LEFT_ALONE_MAX),
            // A call that was out already when others failed says nothing new.
            Breaker::Closed | Breaker::Open { .. } => return,
        };
        self.breaker = Breaker::Open {
            until: now + left_alone,
            left_alone,
            trying: false,
        };
    }

    /// Counts the calls that are out longer than the budget; returns whether there were new ones.
    fn mark_late(&mut self, now: Instant, budget: Duration) -> bool {
        let mut news = false;
        for out in &mut self.out {
            if !out.counted_late && now.saturating_duration_since(out.since) > budget {
                out.counted_late = true;
                self.status.late += 1;
                news = true;
            }
        }
        news
    }
}

impl Callback {
    /// A callback that was not called yet.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, part: Part) -> Arc<Self> {
        Arc::new(Self::counted_by(name.into(), part, Arc::default()))
    }

    fn counted_by(name: Arc<str>, part: Part, changes: Arc<AtomicU64>) -> Self {
        Self {
            name,
            part,
            changes,
            state: Mutex::default(),
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The part of the runtime that its failures belong to.
    #[must_use]
    pub const fn part(&self) -> Part {
        self.part
    }

    /// Runs `body` on this thread, beginning at `now`. `None`: it failed too often and is left alone now.
    pub fn run<R>(
        &self,
        now: Instant,
        budget: Duration,
        body: impl FnOnce() -> Result<R, CallFailed>,
    ) -> Option<Result<R, CallFailed>> {
        let call = self.state.lock().begin(now)?;
        let began = Instant::now();
        let outcome = isolated(body);
        let took = began.elapsed();
        let failed = outcome.as_ref().err();
        let news = self.state.lock().end(call, took, budget, now + took, failed);
        self.tell(news);
        Some(outcome)
    }

    /// Counts a call as late as soon as it is out longer than the budget.
    pub fn mark_late(&self, now: Instant, budget: Duration) {
        let news = self.state.lock().mark_late(now, budget);
        self.tell(news);
    }

    /// How it is doing; a call that is out longer than the budget counts as late already.
    #[must_use]
    pub fn status(&self, now: Instant, budget: Duration) -> CallbackStatus {
        self.mark_late(now, budget);
        self.state.lock().status.clone()
    }

    fn tell(&self, news: bool) {
        if news {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Runs user code; its panic is a failure.
///
/// # Errors
/// What it gave, or what it panicked with.
pub fn isolated<R>(body: impl FnOnce() -> Result<R, CallFailed>) -> Result<R, CallFailed> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(CallFailed::new(text_of(&*panic))))
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.map_or_else(|| "panicked".to_owned(), |text| format!("panicked: {text}"))
}

/// The callbacks of one runtime, by name.
#[derive(Debug, Default)]
pub struct Callbacks {
    changes: Arc<AtomicU64>,
    by_name: Mutex<BTreeMap<Arc<str>, Arc<Callback>>>,
}

impl Callbacks {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a callback under `name`, or under `name-2`, `name-3` and so on when that is in use.
    pub fn add(&self, name: &str, part: Part) -> Arc<Callback> {
        let mut by_name = self.by_name.lock();
        let numbered = (2_u64..).map(|number| format!("{name}-{number}"));
        let free = std::iter::once(name.to_owned())
            .chain(numbered)
            .find(|name| !by_name.contains_key(name.as_str()));
        let free: Arc<str> = Arc::from(free.expect("there are more numbers than callbacks"));
        let callback = Arc::new(Callback::counted_by(Arc::clone(&free), part, Arc::clone(&self.changes)));
        by_name.insert(free, Arc::clone(&callback));
        drop(by_name);
        callback.tell(true);
        callback
    }

    /// Takes a callback out; nothing when it is not there.
    pub fn remove(&self, callback: &Arc<Callback>) {
        let mut by_name = self.by_name.lock();
        let is_it = |known: &Arc<Callback>| Arc::ptr_eq(known, callback);
        if by_name.get(&*callback.name).is_some_and(is_it) {
            by_name.remove(&*callback.name);
            drop(by_name);
            callback.tell(true);
        }
    }

    /// How they are doing; a call that is out longer than the budget counts as late already.
    #[must_use]
    pub fn statuses(&self, now: Instant, budget: Duration) -> BTreeMap<Arc<str>, CallbackStatus> {
        let all = self.by_name.lock().clone();
        let status = |(name, callback): (Arc<str>, Arc<Callback>)| (name, callback.status(now, budget));
        all.into_iter().map(status).collect()
    }

    /// Counts the calls that are out longer than the budget as late, so that [`Callbacks::changes`] tells of them.
    pub fn mark_late(&self, now: Instant, budget: Duration) {
        for callback in self.by_name.lock().values() {
            callback.mark_late(now, budget);
        }
    }

    /// Rises when a callback came or went, or when failures, lateness or rest of any of them changed.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    fn fail(callback: &Callback, now: Instant) -> bool {
        let ran = callback.run(now, BUDGET, || Err::<(), _>(CallFailed::new("no")));
        ran.is_some()
    }

    fn succeed(callback: &Callback, now: Instant) -> bool {
        callback.run(now, BUDGET, || Ok(())).is_some()
    }

    #[test]
    fn what_is_raised_is_counted_and_shown() {
        let callback = Callback::new("probe", Part::Probe);
        let now = Instant::now();
        assert!(succeed(&callback, now));
        assert!(fail(&callback, now));
        let status = callback.status(now, BUDGET);
        assert_eq!((status.calls, status.failures, status.late), (2, 1, 0));
        assert_eq!(status.last_error.as_deref(), Some("no"));
        assert!(!status.disabled);
    }

    #[test]
    fn a_panic_is_a_failure() {
        let callback = Callback::new("probe", Part::Probe);
        let outcome: Option<Result<(), _>> = callback.run(Instant::now(), BUDGET, || {
            std::panic::resume_unwind(Box::new("on purpose"));
        });
        assert_eq!(outcome, Some(Err(CallFailed::new("panicked: on purpose"))));
        assert_eq!(callback.status(Instant::now(), BUDGET).failures, 1);
    }

    #[test]
    fn five_failures_in_a_row_disable_and_a_success_starts_over() {
        let callback = Callback::new("probe", Part::Probe);
        let now = Instant::now();
        for _ in 0..4 {
            assert!(fail(&callback, now));
        }
        assert!(succeed(&callback, now));
        for _ in 0..5 {
            assert!(!callback.status(now, BUDGET).disabled);
            assert!(fail(&callback, now));
        }
        assert!(callback.status(now, BUDGET).disabled);
        assert!(!succeed(&callback, now));
        assert!(!succeed(&callback, now + 29 * SECOND));
    }

    #[test]
    fn each_failed_try_doubles_the_rest_up_to_ten_minutes() {
        let callback = Callback::new("probe", Part::Probe);
        let mut now = Instant::now();
        for _ in 0..5 {
            fail(&callback, now);
        }
        for rest in [30, 60, 120, 240, 480, 600, 600] {
            assert!(!fail(&callback, now + (rest - 1) * SECOND), "{rest} s");
            now += (rest + 1) * SECOND;
            assert!(fail(&callback, now), "{rest} s");
        }
        assert!(succeed(&callback, now + 601 * SECOND));
        assert!(!callback.status(now, BUDGET).disabled);
        // The next rest is the shortest again.
        for _ in 0..5 {
            assert!(fail(&callback, now));
        }
        assert!(succeed(&callback, now + 31 * SECOND));
    }

    #[test]
    fn only_one_call_tries() {
        let callback = Callback::new("probe", Part::Probe);
        let now = Instant::now();
        for _ in 0..5 {
            fail(&callback, now);
        }
        let later = now + 31 * SECOND;
        let outcome = callback.run(later, BUDGET, || Ok(succeed(&callback, later)));
        assert_eq!(outcome, Some(Ok(false)));
        assert!(succeed(&callback, later));
    }

    #[test]
    fn a_call_that_is_out_too_long_is_late_once() {
        let callback = Callback::new("probe", Part::Probe);
        let now = Instant::now();
        let long_ago = now.checked_sub(2 * BUDGET).expect("the clock began earlier");
        callback.run(long_ago, BUDGET, || {
            assert_eq!(callback.status(now, BUDGET).late, 1);
            assert_eq!(callback.status(now, BUDGET).late, 1);
            Ok(())
        });
        assert_eq!(callback.status(now, BUDGET).late, 1);
        callback.run(now, Duration::ZERO, || Ok(()));
        assert_eq!(callback.status(now, BUDGET).late, 2);
    }

    #[test]
    fn names_are_numbered_and_changes_are_told() {
        let callbacks = Callbacks::new();
        let names: Vec<_> = (0..3).map(|_| callbacks.add("Pings", Part::Probe)).collect();
        let names: Vec<_> = names.iter().map(|callback| callback.name().to_string()).collect();
        assert_eq!(names, ["Pings", "Pings-2", "Pings-3"]);
        let known = callbacks.changes();
        let now = Instant::now();
        let callback = callbacks.add("Beats", Part::Probe);
        assert_eq!(callbacks.changes(), known + 1);
        succeed(&callback, now);
        assert_eq!(callbacks.changes(), known + 1);
        fail(&callback, now);
        assert_eq!(callbacks.changes(), known + 2);
        assert_eq!(callbacks.statuses(now, BUDGET)["Beats"].failures, 1);
        callbacks.remove(&callback);
        assert_eq!(callbacks.changes(), known + 3);
        assert!(!callbacks.statuses(now, BUDGET).contains_key("Beats"));
        // Another of that name stays when the old one is removed again.
        callbacks.add("Beats", Part::Probe);
        callbacks.remove(&callback);
        assert!(callbacks.statuses(now, BUDGET).contains_key("Beats"));
    }
}
