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
