//! A move, as whoever ordered it sees it: how far it is, and what became of it.
//!
//! Invariants
//! * What became of it is told once, and is what the source decided; when nobody can tell, that is said.
//! * No lock is held while somebody is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshos_core::id::EntityId;
use meshos_core::move_frame::{Reason, Reject, Report, Stage};
use meshos_core::ownership::MigrationId;
use meshos_core::time::UnixMs;

use crate::clock::{self, Deadline};
use crate::sync::{Condvar, Mutex};

/// How a daemon is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveOpts {
    /// It is copied while it works, and frozen for what came since only.
    pub live: bool,
    /// Its key travels with it, sealed for the target.
    pub transport_identity: bool,
    /// How long a target that is not ready is tried again; `None`: not at all.
    pub retry_not_ready: Option<Duration>,
    /// How long it may stand still; a move that would take longer is aborted.
    pub freeze_max: Duration,
    /// How long the whole may take before its commit point.
    pub deadline: Duration,
    /// Bytes that are sent in a second at most.
    pub bytes_per_second_max: Option<u64>,
}

impl Default for MoveOpts {
    fn default() -> Self {
        Self {
            live: false,
            transport_identity: true,
            retry_not_ready: Some(Duration::from_secs(30)),
            freeze_max: Duration::from_secs(2),
            deadline: Duration::from_secs(600),
            bytes_per_second_max: None,
        }
    }
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// When it was ordered.
    pub started_at: UnixMs,
    /// Since when this is being done.
    pub stage_entered_at: UnixMs,
    /// Size of the image; `None`: not known yet.
    pub image_bytes: Option<u64>,
    /// Bytes of it that were sent.
    pub bytes_moved: u64,
    /// How often it was ordered again.
    pub retries: u32,
    /// Events that wait at the source; `None`: not known.
    pub waiting: Option<u64>,
    /// Whether it is over.
    pub is_over: bool,
}

/// A move whose target owns the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveOutcome {
    /// In which epoch.
    pub epoch: u64,
    /// From the order until that was known.
    pub took: Duration,
    /// From the freeze until the target owned, as the source saw it.
    pub blackout: Duration,
    /// How long user code took for its snapshot.
    pub snapshot_took: Duration,
    /// Bytes that were sent.
    pub bytes_moved: u64,
    /// How often something was copied.
    pub rounds: u32,
    /// Whether it was copied while it worked.
    pub live: bool,
}

/// What kind of end a move came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailedKind {
    /// A side did not take it on.
    Rejected,
    /// It began, and was aborted.
    Aborted,
    /// Another move of the daemon is under way.
    AlreadyMigrating,
    /// The source is gone, and nobody can tell what it decided.
    SourceLost,
}

/// Why a move came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveFailed {
    /// What kind of end.
    pub kind: FailedKind,
    /// How far it was; `None`: it never began.
    pub stage: Option<Stage>,
    /// What the node that ended it gave as its reason.
    pub why: Option<Reject>,
    /// What ended it, where no node gave a reason.
    pub cause: Cause,
}

/// What ended a move for which no node gave a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A node's reason.
    Reason,
    /// Whoever ordered it did not want it any more.
    Cancelled,
    /// An operator ended it.
    Killed,
    /// The target was not ready for too long.
    NotReady,
    /// The whole took too long.
    Deadline,
    /// The daemon would have stood still for too long.
    FreezeDeadline,
    /// The source is gone.
    Lost,
}

/// What became of a move.
pub type MoveEnd = Result<MoveOutcome, MoveFailed>;

/// Why a wait for the end ended before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unended {
    /// The time is over; the move goes on.
    Timeout,
    /// Whoever waited does not want to any more.
    Interrupted,
    /// The node is closed; the move may go on elsewhere.
    Closed,
}

/// Told of each stage, and of the end, with nothing locked: it is short, and never waits.
pub type Watcher = Arc<dyn Fn(Stage, bool) + Send + Sync>;

/// Who ends a move, and how far that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    None,
    Cancel,
    Kill,
}

struct State {
    attempt: MigrationId,
    progress: Progress,
    /// What the source told last.
    report: Option<Report>,
    end: Option<MoveEnd>,
    is_closed: bool,
    wish: Wish,
    watchers: BTreeMap<u64, Watcher>,
    made: u64,
}

/// A move that was ordered here.
pub struct Move {
    /// What is moved.
    pub entity: EntityId,
    /// From where.
    pub source: EntityId,
    /// To where.
    pub target: EntityId,
    /// How.
    pub opts: MoveOpts,
    began: Instant,
    state: Mutex<State>,
    bell: Condvar,
}

impl Move {
    pub(crate) fn new(
        (entity, source, target): (EntityId, EntityId, EntityId),
        attempt: MigrationId,
        opts: MoveOpts,
    ) -> Arc<Self> {
        let now = clock::unix_ms();
        let progress = Progress {
            stage: Stage::Snapshot,
            started_at: now,
            stage_entered_at: now,
            image_bytes: None,
            bytes_moved: 0,
            retries: 0,
            waiting: None,
            is_over: false,
        };
        let state = State {
            attempt,
            progress,
            report: None,
            end: None,
            is_closed: false,
            wish: Wish::None,
            watchers: BTreeMap::new(),
            made: 0,
        };
        Arc::new(Self {
            entity,
            source,
            target,
            opts,
            began: Instant::now(),
            state: Mutex::new(state),
            bell: Condvar::new(),
        })
    }

    /// Names the attempt that is under way, or was the last.
    #[must_use]
    pub fn attempt(&self) -> MigrationId {
        self.state.lock().attempt
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.state.lock().progress
    }

    /// What became of it; `None`: it is under way.
    #[must_use]
    pub fn end(&self) -> Option<MoveEnd> {
        self.state.lock().end.clone()
    }

    /// Since when.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits for the end. `is_interrupted` is asked between slices, without a lock.
    ///
    /// # Errors
    /// [`Unended`].
    pub fn wait(&self, deadline: Deadline, mut is_interrupted: impl FnMut() -> bool) -> Result<MoveEnd, Unended> {
        loop {
            let state = self.state.lock();
            if let Some(end) = &state.end {
                return Ok(end.clone());
            }
            if state.is_closed {
                return Err(Unended::Closed);
            }
            if deadline.passed() {
                return Err(Unended::Timeout);
            }
            drop(self.bell.wait_until(state, deadline.slice()));
            if is_interrupted() {
                return Err(Unended::Interrupted);
            }
        }
    }

    /// Has somebody told of each stage from now on, and of the end; at once, if it is over.
    pub fn watch(&self, watcher: Watcher) -> u64 {
        let mut state = self.state.lock();
        state.made += 1;
        let (number, stage, is_over) = (state.made, state.progress.stage, state.progress.is_over);
        if !is_over {
            state.watchers.insert(number, watcher);
            return number;
        }
        drop(state);
        watcher(stage, true);
        number
    }

    /// Tells this one no more.
    pub fn forget(&self, number: u64) {
        let before = self.state.lock().watchers.remove(&number);
        drop(before);
    }

    /// Notes who wants an end to it.
    pub(crate) fn wants_end(&self, killed: bool) {
        let mut state = self.state.lock();
        if state.wish == Wish::None {
            state.wish = if killed { Wish::Kill } else { Wish::Cancel };
        }
    }

    /// Whether somebody wants an end to it.
    pub(crate) fn is_unwanted(&self) -> bool {
        self.state.lock().wish != Wish::None
    }

    /// It was ordered again, under another id.
    pub(crate) fn again(&self, attempt: MigrationId) {
        let mut state = self.state.lock();
        state.attempt = attempt;
        state.progress.retries += 1;
        state.report = None;
    }

    /// Takes in what the source tells; whoever watches is told by [`at`](Self::at).
    pub(crate) fn heard(&self, report: Report) {
        {
            let mut state = self.state.lock();
            let progress = &mut state.progress;
            if report.image_bytes > 0 {
                progress.image_bytes = Some(report.image_bytes);
            }
            progress.bytes_moved = report.moved;
            progress.waiting = Some(report.waiting);
            state.report = Some(report);
        }
    }

    /// It is that far.
    pub(crate) fn at(&self, stage: Stage) {
        let watchers = {
            let mut state = self.state.lock();
            if state.end.is_some() || stage <= state.progress.stage {
                return;
            }
            state.progress.stage = stage;
            state.progress.stage_entered_at = clock::unix_ms();
            state.watchers.values().cloned().collect::<Vec<_>>()
        };
        watchers.iter().for_each(|watcher| watcher(stage, false));
    }

    /// What the source told last.
    pub(crate) fn report(&self) -> Option<Report> {
        self.state.lock().report.clone()
    }

    /// The target owns, in this epoch.
    pub(crate) fn completed(&self, epoch: u64) {
        let report = self.report();
        let micros = |of: fn(&Report) -> u64| Duration::from_micros(report.as_ref().map_or(0, of));
        let outcome = MoveOutcome {
            epoch,
            took: self.began.elapsed(),
            blackout: micros(|report| report.blackout_us),
            snapshot_took: micros(|report| report.snapshot_us),
            bytes_moved: report.as_ref().map_or(0, |report| report.moved),
            rounds: report.as_ref().map_or(1, |report| report.rounds),
            live: report.as_ref().is_some_and(|report| report.rounds > 1),
        };
        self.at(Stage::Complete);
        self.over(Ok(outcome));
    }

    /// It came to nothing.
    pub(crate) fn failed(&self, why: Option<Reject>, otherwise: Cause, has_begun: bool) {
        let (wish, report, stage) = {
            let state = self.state.lock();
            (state.wish, state.report.clone(), state.progress.stage)
        };
        let why = why.or_else(|| report.and_then(|report| report.refused));
        let cause = match (wish, &why) {
            (Wish::Cancel, _) => Cause::Cancelled,
            (Wish::Kill, _) => Cause::Killed,
            (Wish::None, Some(_)) if otherwise != Cause::NotReady => Cause::Reason,
            (Wish::None, _) => otherwise,
        };
        let kind = match &why {
            _ if cause == Cause::Lost => FailedKind::SourceLost,
            Some(why) if why.reason == Reason::Busy => FailedKind::AlreadyMigrating,
            Some(_) if !has_begun => FailedKind::Rejected,
            _ => FailedKind::Aborted,
        };
        let stage = has_begun.then_some(stage);
        self.over(Err(MoveFailed {
            kind,
            stage,
            why,
            cause,
        }));
    }

    fn over(&self, end: MoveEnd) {
        let (watchers, stage) = {
            let mut state = self.state.lock();
            if state.end.is_some() {
                return;
            }
            state.end = Some(end);
            state.progress.is_over = true;
            (std::mem::take(&mut state.watchers), state.progress.stage)
        };
        self.bell.notify_all();
        watchers.values().for_each(|watcher| watcher(stage, true));
    }

    /// The node is closed: whoever waits is told.
    pub(crate) fn close(&self) {
        let (watchers, stage) = {
            let mut state = self.state.lock();
            state.is_closed = true;
            (std::mem::take(&mut state.watchers), state.progress.stage)
        };
        self.bell.notify_all();
        watchers.values().for_each(|watcher| watcher(stage, true));
    }
}
