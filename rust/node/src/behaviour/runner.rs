//! The passes of a loop: takes in, steps the core, has done, publishes, until the end.

mod commands;
mod doing;
mod line;
mod publishing;
mod tick;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meshos_core::behaviour::Behaviour;
use meshos_core::fold::Judged;
use meshos_core::id::Origin;
use meshos_core::signal::{DaemonSignal, Signal};
use meshos_core::status::Part;
use meshos_core::time::UnixMs;

use self::line::Line;
use self::publishing::Seen;
use self::tick::{Listed, ROSTER_INTERVAL};
use super::{Ended, LoopEnd, Shared, supervised};
use crate::callback::{CallFailed, Callback};
use crate::clock::Deadline;
use crate::intake::Batch;
use crate::probes::{SampleSink, Sampled, Sampler};
use crate::scorer::PlacementScorer;
use crate::sync::Mutex;

/// Events that follow a pass within so long are taken in together.
const CALM: Duration = Duration::from_micros(500);

pub(super) struct Runner {
    pub(super) shared: Arc<Shared>,
    behaviour: Behaviour,
    batch: Batch,
    sampler: Sampler,
    sampled: SampleSink,
    dispatching: Arc<Callback>,
    scoring: Option<(Arc<dyn PlacementScorer>, Arc<Callback>)>,
    scorer_changes: u64,
    pressure: Arc<Line>,
    controls: Option<Arc<Line>>,
    aborts: Option<Arc<Callback>>,
    listing: Option<Arc<Callback>>,
    listed: Arc<Listed>,
    listing_now: Arc<AtomicBool>,
    /// All recovery handlers together: one that hangs shows here.
    recovery: Option<Arc<Callback>>,
    recovering: Arc<AtomicBool>,
    polling: Arc<AtomicBool>,
    /// When the poll that is under way began, unless it was told to be slow.
    polled: Option<Instant>,
    tick_due: Instant,
    /// Until then, events that are not urgent may gather.
    calm: Deadline,
    roster_due: Instant,
    next: Option<UnixMs>,
    more: bool,
    ending: bool,
    tick: u64,
    seen: Option<Seen>,
    repairs: u64,
    /// What became of envelopes in this pass, with the numbers of their records.
    verdicts: Vec<(Judged, u64)>,
    /// Held commands: the numbers of their records, and until when these may be waited for.
    held: BTreeMap<[u8; 16], (u64, Deadline)>,
}

impl Runner {
    pub(super) fn new(shared: Arc<Shared>, behaviour: Behaviour) -> Self {
        let parts = &shared.parts;
        let callbacks = &parts.callbacks;
        let dispatching = callbacks.add(parts.dispatcher.name(), Part::Action);
        let pressure = format!("{}.on_cluster_backpressure", parts.dispatcher.name());
        let line = |name: &str| {
            Arc::new(Line {
                callback: callbacks.add(name, Part::Callback),
                queue: Mutex::default(),
            })
        };
        let told = Arc::clone(&shared.intake);
        let failed = Arc::downgrade(&shared);
        let sampled: SampleSink = Arc::new(move |sampled| match sampled {
            Sampled::Samples { probe, samples } => told.result(Signal::Samples { probe, samples }),
            Sampled::Removed { probe } => told.result(Signal::ProbeRemoved { probe }),
            Sampled::Failed { probe, name, error } => {
                if let Some(shared) = failed.upgrade() {
                    shared.callback_failed(Part::Probe, &name, Some(probe), error);
                }
            }
        });
        let now = Instant::now();
        Self {
            sampler: Sampler::new(parts.probes.clone(), Arc::clone(callbacks)),
            sampled,
            dispatching,
            scoring: None,
            scorer_changes: u64::MAX,
            pressure: line(&pressure),
            controls: parts.sink.as_ref().map(|sink| line(sink.name())),
            aborts: parts
                .aborter
                .as_ref()
                .map(|aborter| callbacks.add(aborter.name(), Part::Migration)),
            listing: parts
                .migrations
                .as_ref()
                .map(|source| callbacks.add(source.name(), Part::Migration)),
            listed: Arc::default(),
            listing_now: Arc::default(),
            recovery: None,
            recovering: Arc::default(),
            polling: Arc::default(),
            polled: None,
            tick_due: now,
            calm: Deadline::at(now),
            roster_due: now + ROSTER_INTERVAL,
            next: None,
            more: false,
            ending: false,
            tick: 0,
            seen: None,
            repairs: 0,
            verdicts: Vec::new(),
            held: BTreeMap::new(),
            shared,
            behaviour,
            batch: Batch::default(),
        }
    }

    pub(super) fn run(&mut self) {
        let mut left_at = None;
        loop {
            match self.pass(false) {
                Going::On => {}
                Going::Ending => {
                    let idle = self.is_idle() && !self.more;
                    // What was dispatched may be confirmed by a result that is on its way: one more look.
                    if idle && left_at == Some(self.shared.passes()) {
                        break;
                    }
                    left_at = Some(self.shared.passes() + 1);
                }
                Going::Gone => break,
            }
        }
        self.end();
    }

    /// One pass: wait, take in, step, have done, publish.
    pub(super) fn pass(&mut self, first: bool) -> Going {
        let mut batch = std::mem::take(&mut self.batch);
        self.shared.intake.take(self.wait_until(first), self.calm, &mut batch);
        if batch.aborted {
            return Going::Gone;
        }
        let began = Instant::now();
        self.calm = Deadline::at(began + CALM);
        self.ending = batch.ending;
        let ending = batch.ending;
        self.give_up();
        let asked = self.ask(&batch, began);
        self.close_ears(&batch);
        let (holding, late) = (self.shared.ears.holding(), started(&batch));
        let now = self.shared.parts.clock.now();
        let step = self.behaviour.step(now, asked.into_iter().chain(batch.drain()));
        (self.more, self.next) = (step.more || batch.more, step.next);
        self.repairs += step.sweep_repairs;
        for daemon in late {
            for control in holding.controls() {
                self.shared.parts.keeper.control(daemon, control);
            }
        }
        self.have_done(step);
        // Before anybody is told that it is folded, whoever asks sees what it did.
        self.publish(now, began);
        self.tell_verdicts();
        self.shared.passes.fetch_add(1, Ordering::Relaxed);
        self.shared.intake.folded(&batch);
        self.batch = batch;
        self.answer();
        if ending { Going::Ending } else { Going::On }
    }

    fn close_ears(&self, batch: &Batch) {
        if self.shared.ears.is_empty() {
            return;
        }
        for signal in batch.signals() {
            if let Signal::Registry {
                daemon,
                signal: DaemonSignal::ExitedCleanly,
                ..
            } = signal
            {
                self.shared.ears.close(Some(daemon.id));
            }
        }
    }

    fn wait_until(&self, first: bool) -> Deadline {
        if self.more || first || (self.ending && self.is_idle()) {
            return Deadline::after(Duration::ZERO);
        }
        // A loop that ends ticks no more: it waits for what runs.
        let tick = if self.ending {
            Deadline::never()
        } else {
            Deadline::at(self.tick_due)
        };
        let held = self.held.values().map(|(_, until)| *until);
        let until = held.fold(tick, Deadline::sooner);
        match self.next {
            Some(next) => until.sooner(self.shared.parts.clock.instant(next)),
            None => until,
        }
    }

    /// Whether nothing is under way that a loop which ends waits for.
    fn is_idle(&self) -> bool {
        self.behaviour.running() == 0 && self.held.is_empty()
    }

    fn end(&mut self) {
        let undone = self.behaviour.undone();
        let shared = &self.shared;
        for (kind, count) in &undone {
            let error = CallFailed::new(format!("{count} left undone by the shutdown"));
            shared.callback_failed(Part::Loop, kind, None, error);
        }
        // Nobody starts a daemon again any more: those that are down go on by themselves.
        for daemon in supervised(self.behaviour.view()) {
            shared.parts.dispatcher.supervise(daemon, false);
        }
        let now = shared.parts.clock.now();
        let hung = self.behaviour.running();
        let passes = shared.passes();
        let stats = shared.executor_stats();
        self.publish(now, Instant::now());
        let shared = Arc::clone(&self.shared);
        // An appender that waits for an answer of the loop would wait as long as the loop waits for it.
        shared.alive.store(false, Ordering::Release);
        self.answer();
        shared.intake.abort();
        shared.verdicts.end();
        // Without a shutdown nobody waits for the appenders: what they have not kept is marked.
        let end_by = *shared.end_by.lock();
        let kept = shared
            .parts
            .records
            .close(end_by.unwrap_or_else(|| Deadline::after(Duration::ZERO)));
        self.publish(now, Instant::now());
        self.behaviour.ledger().clone_into(&mut shared.ledger.lock());
        shared.ears.close(None);
        shared.published.end();
        *shared.ended.lock() = Some(Ended {
            end: LoopEnd::Done,
            passes,
            stats,
            undone,
            hung,
            kept,
        });
        shared.bell.notify_all();
    }
}

/// The daemons that came, or came back: they have heard of nothing yet.
fn started(batch: &Batch) -> Vec<Origin> {
    let started = batch.signals().filter_map(|signal| match signal {
        Signal::Registry {
            daemon,
            signal: DaemonSignal::Started,
            ..
        } => Some(daemon.id),
        _ => None,
    });
    started.collect()
}

/// Whether a loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Going {
    On,
    Ending,
    Gone,
}
