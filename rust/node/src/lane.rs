//! Lanes: the threads on which user code runs when nobody lends it theirs.
//!
//! Invariants
//! * A job is run by one lane at a time; whoever submits it again while it runs must make sure of that.
//! * A lane is started when a job waits and none is idle, up to the bound; idle lanes stay.
//! * Nothing is started before the first job.
//! * A job that is submitted as the next one, by the last thing that another one does, is run by that lane: none is woken.
//! * A job for later is run by a lane that is idle then, or by the next one that is.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex};

use crate::clock::Deadline;

thread_local! {
    /// The pool of whose lanes this thread is one that is about to be free.
    static FREE_SOON: Cell<usize> = const { Cell::new(0) };
    /// The pool of whose lanes this thread is one.
    static OF_POOL: Cell<usize> = const { Cell::new(0) };
}

/// Does the last thing of a job: it is short, and a job that it submits to the pool of this lane is run by it next.
pub fn last<T>(what: impl FnOnce() -> T) -> T {
    struct Busy;
    impl Drop for Busy {
        fn drop(&mut self) {
            FREE_SOON.set(0);
        }
    }
    FREE_SOON.set(OF_POOL.get());
    let _busy = Busy;
    what()
}

/// Something to run on a lane.
pub trait Job: Send + Sync {
    /// Runs it; a panic is caught by the lane and counted.
    fn run(self: Arc<Self>);
}

/// What surrounds the whole life of a lane's thread: the binding attaches it to the interpreter once.
pub type Surround = fn(&mut (dyn FnMut() + Send));

struct State {
    queue: VecDeque<Arc<dyn Job>>,
    /// Jobs for later, by when, and by the order in which they came.
    later: BTreeMap<(Instant, u64), Arc<dyn Job>>,
    put_off: u64,
    threads: usize,
    idle: usize,
    started: u64,
    panics: u64,
    stopping: bool,
}

struct Shared {
    name: &'static str,
    threads_max: usize,
    surround: Surround,
    state: Mutex<State>,
    work: Condvar,
    ended: Condvar,
}

/// A bounded pool of lanes.
#[derive(Clone)]
pub struct Lanes {
    shared: Arc<Shared>,
}

/// Counters of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneStats {
    /// Threads alive.
    pub threads: usize,
    /// Jobs waiting for a lane, or for their time.
    pub waiting: usize,
    /// Jobs that panicked.
    pub panics: u64,
}

impl Lanes {
    /// Makes a pool whose threads are called `name-1`, `name-2` and so on. Starts none.
    #[must_use]
    pub fn new(name: &'static str, threads_max: usize, surround: Surround) -> Self {
        let state = State {
            queue: VecDeque::new(),
            later: BTreeMap::new(),
            put_off: 0,
            threads: 0,
            idle: 0,
            started: 0,
            panics: 0,
            stopping: false,
        };
        Self {
            shared: Arc::new(Shared {
                name,
                threads_max: threads_max.max(1),
                surround,
                state: Mutex::new(state),
                work: Condvar::new(),
                ended: Condvar::new(),
            }),
        }
    }

    /// Queues a job; `false` when the pool was stopped, and the job will not run.
    pub fn submit(&self, job: Arc<dyn Job>) -> bool {
        self.queue(job, false)
    }

    /// The same; from the [`last`] thing of a job of this pool it is for the same lane.
    pub fn submit_next(&self, job: Arc<dyn Job>) -> bool {
        let is_here = FREE_SOON.get() == std::ptr::from_ref(&*self.shared).addr();
        if is_here {
            // One more is not taken to be free.
            FREE_SOON.set(0);
        }
        self.queue(job, is_here)
    }

    fn queue(&self, job: Arc<dyn Job>, is_ours: bool) -> bool {
        let mut state = self.shared.state.lock();
        if state.stopping {
            return false;
        }
        if is_ours {
            state.queue.push_front(job);
            return true;
        }
        state.queue.push_back(job);
        if state.idle >= state.queue.len() {
            self.shared.work.notify_one();
            return true;
        }
        if self.man(&mut state) {
            return true;
        }
        let refused = state.queue.pop_back();
        drop(state);
        drop(refused);
        false
    }

    /// Queues a job that is run at `at`, or as soon after it as a lane is idle; `false` when the pool was stopped.
    pub fn submit_at(&self, at: Instant, job: Arc<dyn Job>) -> bool {
        let mut state = self.shared.state.lock();
        if state.stopping {
            return false;
        }
        state.put_off += 1;
        let place = (at, state.put_off);
        let is_first = state.later.first_key_value().is_none_or(|(first, _)| place < *first);
        state.later.insert(place, job);
        if state.idle > 0 {
            if is_first {
                // Whoever waits for what comes later waits no longer than until this.
                self.shared.work.notify_one();
            }
            return true;
        }
        if self.man(&mut state) {
            return true;
        }
        let refused = state.later.remove(&place);
        drop(state);
        drop(refused);
        false
    }

    /// Starts one more lane, if there may be one; `false`: there is none at all.
    fn man(&self, state: &mut State) -> bool {
        if state.threads < self.shared.threads_max {
            state.threads += 1;
            state.started += 1;
            let shared = Arc::clone(&self.shared);
            let name = format!("{}-{}", self.shared.name, state.started);
            let spawned = std::thread::Builder::new().name(name).spawn(move || {
                (shared.surround)(&mut || shared.serve());
                let mut state = shared.state.lock();
                state.threads -= 1;
                shared.ended.notify_all();
            });
            if spawned.is_err() {
                // The system has no thread to give: the lanes there are will take the job.
                state.threads -= 1;
                return state.threads > 0;
            }
        } else {
            self.shared.work.notify_one();
        }
        true
    }

    /// Lets every lane finish its job and end; returns whether all did in time. Queued jobs are dropped.
    pub fn stop(&self, timeout: Duration) -> bool {
        let deadline = Deadline::after(timeout);
        let mut state = self.shared.state.lock();
        state.stopping = true;
        let dropped = (std::mem::take(&mut state.queue), std::mem::take(&mut state.later));
        self.shared.work.notify_all();
        while state.threads > 0 && !deadline.passed() {
            state = self.shared.ended.wait_until(state, deadline.slice());
        }
        let ended = state.threads == 0;
        drop(state);
        drop(dropped);
        ended
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> LaneStats {
        let state = self.shared.state.lock();
        LaneStats {
            threads: state.threads,
            waiting: state.queue.len() + state.later.len(),
            panics: state.panics,
        }
    }
}

impl Shared {
    fn serve(&self) {
        OF_POOL.set(std::ptr::from_ref(self).addr());
        while let Some(job) = self.next() {
            let run = std::panic::AssertUnwindSafe(|| job.run());
            if std::panic::catch_unwind(run).is_err() {
                self.state.lock().panics += 1;
            }
        }
    }

    fn next(&self) -> Option<Arc<dyn Job>> {
        let mut state = self.state.lock();
        loop {
            if state.stopping {
                return None;
            }
            let due = state.later.first_key_value().map(|((at, _), _)| *at);
            let is_due = due.is_some_and(|due| due <= Instant::now());
            let job = if is_due {
                state.later.pop_first().map(|(_, job)| job)
            } else {
                state.queue.pop_front()
            };
            if job.is_some() {
                let is_left = is_due && !state.queue.is_empty();
                if (is_left || !state.later.is_empty()) && state.idle > 0 {
                    // Another one looks out for the next time, or takes what was left for this one.
                    self.work.notify_one();
                }
                return job;
            }
            state.idle += 1;
            state = match due {
                Some(due) => self.work.wait_until(state, due),
                None => self.work.wait(state),
            };
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Call<F: Fn() + Send + Sync>(F);

    impl<F: Fn() + Send + Sync> Job for Call<F> {
        fn run(self: Arc<Self>) {
            (self.0)();
        }
    }

    fn plain(body: &mut (dyn FnMut() + Send)) {
        body();
    }

    #[test]
    fn no_thread_before_the_first_job() {
        let lanes = Lanes::new("test-lane", 4, plain);
        assert_eq!(lanes.stats().threads, 0);
    }

    #[test]
    fn what_a_job_submits_last_is_run_by_its_lane_and_what_comes_with_it_by_another() {
        let lanes = Lanes::new("test-lane", 4, plain);
        let (told, ran) = std::sync::mpsc::channel();
        let in_time = Duration::from_secs(10);
        // Two lanes, which then sleep.
        let both = Arc::new(Barrier::new(2));
        for _ in 0..2 {
            let (both, told) = (Arc::clone(&both), told.clone());
            assert!(lanes.submit(Arc::new(Call(move || {
                both.wait();
                told.send(std::thread::current().id()).expect("the test listens");
            }))));
        }
        for _ in 0..2 {
            ran.recv_timeout(in_time).expect("it is run");
        }
        let mut by_it = 0;
        for round in 0..50 {
            let (pool, told) = (lanes.clone(), told.clone());
            assert!(lanes.submit(Arc::new(Call(move || {
                let mine = std::thread::current().id();
                told.send(mine).expect("the test listens");
                let met = Arc::new(Barrier::new(2));
                last(|| {
                    for _ in 0..1 + round % 2 {
                        let (told, met) = (told.clone(), Arc::clone(&met));
                        let submitted = pool.submit_next(Arc::new(Call(move || {
                            if round % 2 == 1 {
                                // Both are run at a time.
                                met.wait();
                            }
                            told.send(std::thread::current().id()).expect("the test listens");
                        })));
                        assert!(submitted);
                    }
                });
            }))));
            let first = ran.recv_timeout(in_time).expect("it is run");
            let others: Vec<_> = (0..1 + round % 2)
                .map(|_| ran.recv_timeout(in_time).expect("it is run"))
                .collect();
            // Another one that was just about to sleep may be faster.
            by_it += usize::from(others.contains(&first));
        }
        assert!(by_it > 0);
    }

    #[test]
    fn a_blocked_lane_does_not_hold_up_the_others() {
        let lanes = Lanes::new("test-lane", 2, plain);
        let barrier = Arc::new(Barrier::new(2));
        let (met, both) = std::sync::mpsc::channel();
        for _ in 0..2 {
            let (barrier, met) = (Arc::clone(&barrier), met.clone());
            // Each waits for the other: with one lane this would never end.
            assert!(lanes.submit(Arc::new(Call(move || {
                barrier.wait();
                met.send(()).expect("the test waits");
            }))));
        }
        for _ in 0..2 {
            both.recv_timeout(Duration::from_secs(10)).expect("two lanes");
        }
        assert!(lanes.stop(Duration::from_secs(10)));
    }

    #[test]
    fn a_panic_is_counted_and_the_lane_goes_on() {
        let lanes = Lanes::new("test-lane", 1, plain);
        let done = Arc::new(Barrier::new(2));
        assert!(lanes.submit(Arc::new(Call(|| std::panic::resume_unwind(Box::new("on purpose"))))));
        let reached = Arc::clone(&done);
        assert!(lanes.submit(Arc::new(Call(move || {
            reached.wait();
        }))));
        done.wait();
        assert_eq!(lanes.stats().panics, 1);
        assert!(lanes.stop(Duration::from_secs(10)));
    }

    #[test]
    fn a_job_for_later_is_run_then_and_in_its_turn() {
        let lanes = Lanes::new("test-lane", 1, plain);
        let (told, hears) = std::sync::mpsc::channel();
        let started = Instant::now();
        for (name, millis) in [("second", 40), ("first", 20), ("at once", 0)] {
            let told = told.clone();
            let at = started + Duration::from_millis(millis);
            assert!(lanes.submit_at(
                at,
                Arc::new(Call(move || told.send((name, Instant::now())).expect("the test waits")))
            ));
        }
        for (expected, millis) in [("at once", 0), ("first", 20), ("second", 40)] {
            let (name, at) = hears.recv_timeout(Duration::from_secs(10)).expect("a lane runs it");
            assert_eq!(name, expected);
            assert!(at >= started + Duration::from_millis(millis), "{name} ran too early");
        }
        let told = told.clone();
        assert!(lanes.submit_at(
            Instant::now() + Duration::from_secs(3600),
            Arc::new(Call(move || {
                told.send(("never", Instant::now())).expect("the test waits")
            }))
        ));
        assert!(
            lanes.stop(Duration::from_secs(10)),
            "what is for later holds up no stop"
        );
    }

    #[test]
    fn a_stopped_pool_takes_nothing() {
        let lanes = Lanes::new("test-lane", 1, plain);
        let count = Arc::new(AtomicUsize::new(0));
        assert!(lanes.stop(Duration::from_secs(1)));
        let counted = Arc::clone(&count);
        assert!(!lanes.submit(Arc::new(Call(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        }))));
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }
}
