//! The threads of a process on which its moves are carried out: what waits for user code, the store or the directory, and
//! the sealing and opening of images.
//!
//! Invariants
//! * They are there as long as somebody moves something or may; a child of a fork begins with none.
//! * What a job of a move brings about is done by the same thread, if that has nothing else to do: none is woken.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::lane::{self, Job, Lanes};
use crate::reactor::Reactor;
use crate::sync::Mutex;

/// Threads at most.
pub const THREADS_MAX: usize = 32;

/// Those threads.
pub struct MoveLanes(Lanes);

static OF_PROCESS: ArcSwapOption<(u32, Weak<MoveLanes>)> = ArcSwapOption::const_empty();

impl MoveLanes {
    /// The ones of this process.
    #[must_use]
    pub fn of_process() -> Arc<Self> {
        let process = std::process::id();
        loop {
            let found = OF_PROCESS.load();
            let known = found.as_deref().filter(|found| found.0 == process);
            if let Some(lanes) = known.and_then(|(_, lanes)| lanes.upgrade()) {
                return lanes;
            }
            // A child of a fork has none. Of two who make one at a time, the second takes that of the first.
            let made = Arc::new(Self(Lanes::new("meshos-move", THREADS_MAX, |body| body())));
            let before = OF_PROCESS.compare_and_swap(&*found, Some(Arc::new((process, Arc::downgrade(&made)))));
            if before.as_ref().map(Arc::as_ptr) == found.as_ref().map(Arc::as_ptr) {
                return made;
            }
        }
    }

    /// Has something done on a thread that may wait; on this one where none is left.
    pub fn later(&self, run: impl FnOnce() + Send + 'static) {
        self.submit(run, Lanes::submit);
    }

    /// The same, for what a daemon that stands still waits for.
    pub fn next(&self, run: impl FnOnce() + Send + 'static) {
        self.submit(run, Lanes::submit_next);
    }

    /// Has something done after a while; never, if these end first.
    pub fn after(&self, span: Duration, run: impl FnOnce() + Send + 'static) {
        self.0.submit_at(Instant::now() + span, Once::new(run));
    }

    fn submit(&self, run: impl FnOnce() + Send + 'static, submit: fn(&Lanes, Arc<dyn Job>) -> bool) {
        let job = Once::new(run);
        if !submit(&self.0, Arc::clone(&job) as Arc<dyn Job>) {
            job.run();
        }
    }
}

impl Drop for MoveLanes {
    fn drop(&mut self) {
        // Its threads end; nothing waits for them.
        self.0.stop(Duration::ZERO);
    }
}

/// Says something as the last thing of a job, and takes the turns that follow.
pub fn tell_last(what: impl FnOnce()) {
    lane::last(|| Reactor::of_process().tell(what));
}

struct Once(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Once {
    fn new(run: impl FnOnce() + Send + 'static) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(Box::new(run)))))
    }
}

impl Job for Once {
    fn run(self: Arc<Self>) {
        let run = self.0.lock().take();
        if let Some(run) = run {
            run();
        }
    }
}
