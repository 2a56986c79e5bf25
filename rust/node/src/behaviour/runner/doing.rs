//! What a step decided, carried out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use meshos_core::action::MeshOsAction;
use meshos_core::behaviour::Step;
use meshos_core::command::Verdict;
use meshos_core::control::DaemonControl;
use meshos_core::executor::Dispatch;
use meshos_core::fold::Judged;
use meshos_core::id::{NodeId, Origin};
use meshos_core::placement::ScoreRequest;
use meshos_core::signal::{MeshOsEvent, Outcome, Signal};
use meshos_core::status::Part;

use super::Runner;
use super::line::push;
use crate::behaviour::{Shared, on_lane};
use crate::callback::CallFailed;
use crate::scorer;

/// A dispatcher may take as long as it needs; above this it counts as late.
const DISPATCH_BUDGET: Duration = Duration::from_secs(30);

/// Chains that one job scores.
const SCORES_PER_JOB: usize = 256;

impl Runner {
    pub(super) fn have_done(&mut self, step: Step) {
        let shared = Arc::clone(&self.shared);
        let records = &shared.parts.records;
        if !step.judged.is_empty() {
            let now = shared.parts.clock.now();
            *shared.cooldowns.lock() = self.behaviour.ledger().cooldowns(now).collect();
        }
        let (earlier, judged): (Vec<Judged>, Vec<Judged>) = step.judged.into_iter().partition(|told| told.recorded);
        for told in earlier {
            let audit_seq = self.held.remove(&told.envelope_id).map_or(0, |(seq, _)| seq);
            self.verdicts.push((told, audit_seq));
        }
        let at = self.behaviour.now();
        let mut judged = judged.into_iter().peekable();
        let mut held = step.held.into_iter().peekable();
        for (place, command) in step.audits.into_iter().enumerate() {
            // Records are numbered in the order in which commands were folded.
            while let Some((_, held)) = held.next_if(|(before, _)| *before <= place) {
                self.hold(at, held);
            }
            let envelope_id = command.envelope_id;
            let line = match &command.verdict {
                Verdict::Rejected { kind } => Some(format!("refused {}: {kind}", command.order.kind())),
                Verdict::Accepted | Verdict::Open => None,
            };
            let (audit_seq, is_new) = records.audit(at, command);
            if let Some(line) = line.filter(|_| is_new) {
                records.line(meshos_core::signal::LogLevel::Warn, None, &line);
            }
            if let Some(told) = judged.next_if(|judged| Some(judged.envelope_id) == envelope_id) {
                self.verdicts.push((told, audit_seq));
            }
        }
        for (_, command) in held {
            self.hold(at, command);
        }
        for (daemon, wanted) in step.supervise {
            shared.parts.dispatcher.supervise(daemon, wanted);
        }
        for failure in step.failures {
            records.failure(failure);
        }
        for disposed in step.disposed {
            records.action(disposed);
        }
        if let Some(kind) = step.first_refused {
            let dropped = self.behaviour.stats().dropped - shared.dropped.load(Ordering::Relaxed);
            let capacity = shared.config.action_queue_capacity;
            let line = format!("the queue of {capacity} actions refused {dropped}, the first a {kind}");
            records.line(meshos_core::signal::LogLevel::Warn, None, &line);
        }
        shared.dropped.store(self.behaviour.stats().dropped, Ordering::Relaxed);
        *shared.stats.lock() = *self.behaviour.stats();
        // A daemon that is stopped for a drain hears of the drain first.
        for control in step.controls {
            self.tell(control.into());
        }
        for dispatch in step.dispatches {
            self.dispatch(dispatch);
        }
        if let Some(level) = step.pressure {
            let dispatcher = Arc::clone(&shared.parts.dispatcher);
            let said = move || dispatcher.on_cluster_backpressure(level.is_some(), level.unwrap_or_default());
            push(&shared, &self.pressure, Box::new(said));
        }
        for daemon in step.kill {
            self.kill(daemon);
        }
        self.score(step.scores);
        self.fingerprints(step.fingerprints);
    }

    fn dispatch(&self, dispatch: Dispatch) {
        let shared = Arc::clone(&self.shared);
        let callback = Arc::clone(&self.dispatching);
        let Dispatch { id, mut action, cause } = dispatch;
        if let MeshOsAction::StopDaemon { daemon, deadline, .. } = &mut action {
            // Daemons are told by the wall clock.
            *deadline = shared.parts.clock.wall(*deadline);
            if let Some(promised) = shared.leaving.lock().get(&daemon.id) {
                *deadline = (*deadline).min(*promised);
            }
            let deadline = *deadline;
            shared.ears.tell(Some(daemon.id), DaemonControl::Shutdown { deadline });
        }
        let told = Arc::clone(&self.shared.intake);
        let submitted = on_lane(&self.shared.parts.lanes, move || {
            let mut outcome = None;
            let ran = callback.run(Instant::now(), DISPATCH_BUDGET, || {
                let dispatched = crate::dispatch::dispatch(&*shared.parts.dispatcher, id, &action, &cause);
                let raised = match &dispatched {
                    Outcome::Raised { reason, .. } => Err(CallFailed::new(reason.to_string())),
                    Outcome::Done | Outcome::Drop { .. } | Outcome::Retry { .. } => Ok(()),
                };
                outcome = Some(dispatched);
                raised
            });
            let outcome = match (ran, outcome) {
                (_, Some(outcome)) => outcome,
                (None, None) => Outcome::Drop {
                    reason: Arc::from("the dispatcher is left alone after failing too often"),
                },
                (Some(ran), None) => Outcome::Raised {
                    reason: Arc::from(ran.err().map_or_else(String::new, |error| error.reason)),
                    traceback: None,
                },
            };
            if outcome == Outcome::Done && shared.parts.dispatcher.commits_maintenance() {
                observe(&shared, &action);
            }
            shared.intake.result(Signal::Dispatched { id, outcome });
        });
        if !submitted {
            let reason = Arc::from("the lanes are closed");
            told.result(Signal::Dispatched {
                id,
                outcome: Outcome::Drop { reason },
            });
        }
    }

    fn tell(&self, control: DaemonControl) {
        let shared = &self.shared;
        let control = match control {
            DaemonControl::DrainStart { deadline } => DaemonControl::DrainStart {
                deadline: shared.parts.clock.wall(deadline),
            },
            other => other,
        };
        shared.parts.keeper.broadcast(control);
        shared.ears.tell(None, control);
        if let (Some(sink), Some(line)) = (&shared.parts.sink, &self.controls) {
            let sink = Arc::clone(sink);
            push(shared, line, Box::new(move || sink.emit(control)));
        }
    }

    fn kill(&self, daemon: Origin) {
        let shared = Arc::clone(&self.shared);
        let (Some(aborter), Some(callback)) = (&self.shared.parts.aborter, &self.aborts) else {
            let error = CallFailed::new("there is no migration aborter");
            shared.callback_failed(Part::Migration, "kill_migration", Some(daemon.get()), error);
            return;
        };
        let (aborter, callback) = (Arc::clone(aborter), Arc::clone(callback));
        let budget = self.shared.budget();
        on_lane(&self.shared.parts.lanes, move || {
            let ended = callback.run(Instant::now(), budget, || {
                if aborter.is_no_op() {
                    return Err(CallFailed::new("the migration aborter does nothing"));
                }
                aborter.abort(daemon)
            });
            let left_alone = || {
                Err(CallFailed::new(
                    "the migration aborter is left alone after failing too often",
                ))
            };
            if let Err(error) = ended.unwrap_or_else(left_alone) {
                shared.callback_failed(Part::Migration, "kill_migration", Some(daemon.get()), error);
            }
        });
    }

    fn score(&self, requests: Vec<ScoreRequest>) {
        let Some((scorer, callback)) = &self.scoring else {
            return;
        };
        let budget = self.shared.budget();
        for requests in requests.chunks(SCORES_PER_JOB) {
            let (scorer, callback) = (Arc::clone(scorer), Arc::clone(callback));
            let (told, requests) = (Arc::clone(&self.shared.intake), requests.to_vec());
            on_lane(&self.shared.parts.lanes, move || {
                for request in &requests {
                    told.result(Signal::Scored(scorer::score(&*scorer, &callback, budget, request)));
                }
            });
        }
    }

    fn fingerprints(&self, nodes: Vec<NodeId>) {
        let Some((scorer, callback)) = &self.scoring else {
            return;
        };
        if nodes.is_empty() {
            return;
        }
        let (scorer, callback) = (Arc::clone(scorer), Arc::clone(callback));
        let (told, budget) = (Arc::clone(&self.shared.intake), self.shared.budget());
        on_lane(&self.shared.parts.lanes, move || {
            told.result(Signal::Fingerprints(scorer::fingerprints(
                &*scorer, &callback, budget, &nodes,
            )));
        });
    }
}

/// A dispatcher that commits transitions has them observed by the loop.
fn observe(shared: &Shared, action: &MeshOsAction) {
    if let MeshOsAction::CommitMaintenanceTransition { node, target } = action {
        let event = MeshOsEvent::MaintenanceTransitionObserved {
            node: *node,
            state: target.clone(),
        };
        shared.intake.result(Signal::Event(event));
    }
}
