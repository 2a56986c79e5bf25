//! What a tick asks of others: probes, recovery handlers, daemons, the registry, moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meshos_core::signal::Signal;
use meshos_core::status::{MigrationStatus, Part};

use super::Runner;
use crate::behaviour::{Shared, on_lane};
use crate::callback::CallFailed;
use crate::intake::Batch;
use crate::sync::Mutex;

/// Time between two comparisons with the registry.
pub(super) const ROSTER_INTERVAL: Duration = Duration::from_secs(30);

/// How long daemons may take to say how they are; then a failure says that they do not.
const POLL_MAX: Duration = Duration::from_secs(1);

/// Moves as they were listed last.
#[derive(Default)]
pub(super) struct Listed {
    pub(super) moves: Mutex<(Arc<[MigrationStatus]>, u64)>,
}

/// Says that something is under way, as long as it lives.
struct Busy(Arc<AtomicBool>);

impl Busy {
    /// `None`: it is under way already.
    fn begin(flag: &Arc<AtomicBool>) -> Option<Self> {
        (!flag.swap(true, Ordering::AcqRel)).then(|| Self(Arc::clone(flag)))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Runner {
    /// What a tick asks, and what changed hands since the last pass.
    pub(super) fn ask(&mut self, batch: &Batch, now: Instant) -> Vec<Signal> {
        let mut signals = Vec::new();
        if batch.ending {
            return signals;
        }
        let changes = self.shared.parts.scheduler.changes();
        if self.scorer_changes != changes {
            let first = self.scorer_changes == u64::MAX;
            self.scorer_changes = changes;
            let scorer = self.shared.parts.scheduler.current();
            let installed = scorer.is_some();
            let callbacks = &self.shared.parts.callbacks;
            if let Some((_, callback)) = self.scoring.take() {
                callbacks.remove(&callback);
            }
            self.scoring = scorer.map(|scorer| {
                let callback = callbacks.add(scorer.name(), Part::Callback);
                (scorer, callback)
            });
            if installed || !first {
                signals.push(Signal::ScorerChanged { installed });
            }
        }
        if batch.roster_wanted || now >= self.roster_due {
            self.roster_due = now + ROSTER_INTERVAL;
            let (daemons, number) = self.shared.parts.keeper.roster();
            // After what the registry told before: else what a roster reflects would be folded twice.
            self.shared.intake.roster(Signal::Roster { daemons, number });
        }
        if now >= self.tick_due {
            // A late tick is made up for by none: the next comes a whole interval later.
            self.tick_due = now + self.shared.config.tick_interval;
            self.tick(now);
        }
        signals
    }

    fn tick(&mut self, now: Instant) {
        self.tick += 1;
        let shared = &self.shared;
        let parts = &shared.parts;
        let budget = shared.budget();
        parts.callbacks.mark_late(now, budget);
        self.sampler.poll(&parts.lanes, budget, &self.sampled);
        if !parts.recovery.is_empty()
            && let Some(busy) = Busy::begin(&self.recovering)
        {
            let add = || parts.callbacks.add("recovery handlers", Part::Recovery);
            let (shared, callback) = (Arc::clone(shared), Arc::clone(self.recovery.get_or_insert_with(add)));
            on_lane(&parts.lanes, move || {
                // What a handler raises is counted there: the whole never fails.
                callback.run(Instant::now(), budget, || {
                    recover(&shared, budget);
                    Ok(())
                });
                drop(busy);
            });
        }
        if let Some(busy) = Busy::begin(&self.polling) {
            self.polled = Some(now);
            let keeper = Arc::clone(&parts.keeper);
            on_lane(&parts.lanes, move || {
                keeper.poll();
                drop(busy);
            });
        } else if self.polled.is_some_and(|polled| now - polled > POLL_MAX) {
            // Once for each poll.
            self.polled = None;
            let error = CallFailed::new(format!("a daemon has not answered for {} ms", POLL_MAX.as_millis()));
            shared.callback_failed(Part::Callback, "health of daemons", None, error);
        }
        self.list_moves(budget);
    }

    fn list_moves(&self, budget: Duration) {
        let (Some(source), Some(callback)) = (&self.shared.parts.migrations, &self.listing) else {
            return;
        };
        let Some(busy) = Busy::begin(&self.listing_now) else {
            return;
        };
        let (source, callback, listed) = (Arc::clone(source), Arc::clone(callback), Arc::clone(&self.listed));
        let shared = Arc::clone(&self.shared);
        on_lane(&self.shared.parts.lanes, move || {
            match callback.run(Instant::now(), budget, || source.list()) {
                Some(Ok(moves)) => {
                    let mut known = listed.moves.lock();
                    if *known.0 != *moves {
                        known.0 = moves.into();
                        known.1 += 1;
                        drop(known);
                        shared.intake.nudge();
                    }
                }
                Some(Err(error)) => shared.callback_failed(Part::Migration, source.name(), None, error),
                None => {}
            }
            drop(busy);
        });
    }
}

fn recover(shared: &Shared, budget: Duration) {
    shared.parts.recovery.run_within(budget, |name, outcome, evicted| {
        match outcome {
            Ok(slots) if slots.is_empty() => {}
            Ok(slots) => shared.intake.result(Signal::Recovered { name, slots }),
            Err(error) => {
                let reason = if evicted {
                    format!("{}; evicted", error.reason)
                } else {
                    error.reason
                };
                let error = CallFailed {
                    reason,
                    traceback: error.traceback,
                };
                shared.callback_failed(Part::Recovery, &name, None, error);
            }
        };
    });
}
