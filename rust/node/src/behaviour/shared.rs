//! What a loop and those who use it share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use meshos_core::authority::{Bucket, Ledger};
use meshos_core::id::{NodeId, Origin};
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::status::{ExecutorStats, Explanation, Failure, FailureSource, MeshOsSnapshot, Part};
use meshos_core::time::UnixMs;

use super::{Ended, LoopEnd, Parts, supervised};
use crate::callback::{CallFailed, isolated};
use crate::clock::Deadline;
use crate::ears::Ears;
use crate::intake::Intake;
use crate::published::Published;
use crate::sync::{Condvar, Mutex};
use crate::verdicts::Verdicts;

/// What the loop and those who use it share.
pub struct Shared {
    /// The node it acts for.
    pub this_node: NodeId,
    /// Its options.
    pub config: MeshOsConfig,
    /// Random for each start.
    pub epoch_id: u64,
    /// Who waits for what becomes of commands.
    pub verdicts: Verdicts,
    pub(super) cooldowns: Mutex<Vec<(Bucket, UnixMs)>>,
    pub(super) ledger: Mutex<Ledger>,
    /// What goes in.
    pub intake: Arc<Intake>,
    /// What comes out.
    pub published: Arc<Published>,
    /// Who hears the controls of daemons.
    pub ears: Ears,
    /// What it is made of.
    pub parts: Parts,
    /// Daemons whose authors see them off, and by when they were told to be gone.
    pub(super) leaving: Mutex<BTreeMap<Origin, UnixMs>>,
    pub(super) stats: Mutex<ExecutorStats>,
    pub(super) questions: Mutex<Vec<Question>>,
    pub(super) dropped: AtomicU64,
    pub(super) passes: AtomicU64,
    pub(super) tick_at: Mutex<(UnixMs, Duration)>,
    pub(super) alive: AtomicBool,
    pub(super) ended: Mutex<Option<Ended>>,
    /// When a shutdown has to be over.
    pub(super) end_by: Mutex<Option<Deadline>>,
    pub(super) bell: Condvar,
}

/// Somebody asks why something is as it is.
pub(super) struct Question {
    pub(super) key: meshos_core::world::Key,
    pub(super) answer: Arc<Answer>,
}

#[derive(Default)]
pub(super) struct Answer {
    pub(super) said: Mutex<Option<Option<Explanation>>>,
    pub(super) bell: Condvar,
}

/// A daemon is seen off, as long as it lives.
pub struct Leaving<'a> {
    shared: &'a Shared,
    daemon: Origin,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.shared.leaving.lock().remove(&self.daemon);
    }
}

impl Shared {
    /// Counters of the executor.
    #[must_use]
    pub fn executor_stats(&self) -> ExecutorStats {
        let mut stats = *self.stats.lock();
        stats.chain_append_failures = self.parts.records.action_failures();
        stats
    }

    /// Emissions that the full queue refused.
    #[must_use]
    pub fn dropped_actions(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Targets that break-glass actions leave alone, and until when.
    #[must_use]
    pub fn cooldowns(&self) -> Vec<(Bucket, UnixMs)> {
        let now = self.parts.clock.now();
        let mut cooldowns = self.cooldowns.lock().clone();
        cooldowns.retain(|(_, until)| *until > now);
        cooldowns
    }

    /// What was obeyed lately; of a loop that has ended.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.ledger.lock().clone()
    }

    /// Steps so far.
    #[must_use]
    pub fn passes(&self) -> u64 {
        self.passes.load(Ordering::Relaxed)
    }

    /// Whether the thread lives, when it ticked last, and how long its last pass took.
    #[must_use]
    pub fn health(&self) -> (bool, UnixMs, Duration) {
        let (at, took) = *self.tick_at.lock();
        (self.alive.load(Ordering::Acquire), at, took)
    }

    /// Says why something is as it is; the outer `None`: no answer in time, the inner: nothing is known of it.
    pub fn explain(
        &self,
        key: meshos_core::world::Key,
        deadline: Deadline,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Option<Option<Explanation>> {
        let answer = Arc::new(Answer::default());
        self.questions.lock().push(Question {
            key,
            answer: Arc::clone(&answer),
        });
        self.intake.nudge();
        loop {
            let mut said = answer.said.lock();
            if let Some(said) = said.take() {
                return Some(said);
            }
            if deadline.passed() || !self.alive.load(Ordering::Acquire) {
                return None;
            }
            drop(answer.bell.wait_until(said, deadline.slice()));
            if interrupted() {
                return None;
            }
        }
    }

    /// Says by when a daemon was told to be gone, by the wall clock: a stop leaves it no more time.
    pub fn leave_by(&self, daemon: Origin, deadline: UnixMs) -> Leaving<'_> {
        self.leaving.lock().insert(daemon, deadline);
        Leaving { shared: self, daemon }
    }

    /// Share of a tick that user code may take.
    #[must_use]
    pub fn budget(&self) -> Duration {
        self.config.tick_interval.mul_f64(self.config.callback_budget.get())
    }

    /// Records that user code failed.
    pub fn callback_failed(&self, part: Part, name: &str, target: Option<u64>, error: CallFailed) {
        self.parts.records.failure(Failure {
            source: FailureSource {
                part,
                name: Arc::from(name),
                target,
                action_id: None,
                envelope_id: None,
            },
            reason: Arc::from(error.reason),
            traceback: error.traceback.map(Arc::from),
        });
        self.intake.hint();
    }

    pub(super) fn unfinished(&self, end: LoopEnd) -> Ended {
        Ended {
            end,
            passes: self.passes(),
            stats: self.executor_stats(),
            undone: BTreeMap::new(),
            hung: 0,
            kept: false,
        }
    }

    /// The thread of the loop panicked: nobody may go on waiting for it.
    pub(super) fn failed(&self, text: &str) {
        let error = CallFailed::new(format!("the loop ended by a bug: {text}"));
        self.callback_failed(Part::Loop, "panic", None, error);
        self.intake.abort();
        let before = self.published.load();
        for daemon in supervised(&before.view) {
            // It may be what panicked.
            let _ = isolated(|| {
                self.parts.dispatcher.supervise(daemon, false);
                Ok(())
            });
        }
        self.parts.records.close(Deadline::now());
        let (failures, failure_head_seq) = self.parts.records.failures();
        self.published.publish(MeshOsSnapshot {
            generation: before.generation + 1,
            published_at: self.parts.clock.now(),
            failures,
            failure_head_seq,
            ..MeshOsSnapshot::clone(&before)
        });
        self.alive.store(false, Ordering::Release);
        self.questions.lock().clear();
        self.ears.close(None);
        self.verdicts.end();
        self.published.end();
        *self.ended.lock() = Some(self.unfinished(LoopEnd::Failed));
        self.bell.notify_all();
    }
}
