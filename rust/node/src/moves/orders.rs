//! Moves that this node sees to.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::id::EntityId;
use meshos_core::move_frame::{Aside, Body, MoveFrame, Reason, Reject, Report, Stage};
use meshos_core::move_order::{self, MoveOrchestrator, OrderConfig};
use meshos_core::move_rows::{MoveOrder, Outcome, Terms};
use meshos_core::ownership::MigrationId;

use super::aside::Described;
use super::{Item, Moves, NOT_AFTER, Role, Work};
use crate::clock;
use crate::keys;
use crate::move_desk::{Cause, Move, MoveOpts};

/// How long the word of the source about a move that is complete is waited for.
const LAST_WORD: Duration = Duration::from_millis(250);
/// The first wait before a target that was not ready is tried again; it doubles.
const RETRY_FIRST: Duration = Duration::from_millis(20);
/// The longest.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// The first wait before a copy is asked for again; it doubles.
const COPY_FIRST: Duration = Duration::from_millis(100);
/// A copy of which nobody says a word for so long is given up.
const COPY_SILENCE: Duration = Duration::from_secs(10);
/// How long a side that is busy with another move is tried again.
const BUSY_FOR: Duration = Duration::from_millis(500);
/// After so long without a word of a source that is not there any more, whoever waits is told so.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// Where a move stands here.
enum Stand {
    /// It has not begun, or begins again then.
    Waits(Option<Duration>),
    /// It is being copied while it works.
    Copies(Box<MoveOrder>, Copying),
    /// The machine sees to it.
    Runs(Box<MoveOrchestrator>),
    /// The target owns, and the source has not said what it saw: until then.
    Done(Duration),
}

/// A copy that is being made.
struct Copying {
    /// When the whole is given up.
    until: Duration,
    /// When the copy is given up, if nobody says a word.
    silent_until: Duration,
    next_at: Duration,
    pause: Duration,
}

pub(super) struct Ordered {
    desk: Arc<Move>,
    found: Option<Described>,
    stand: Stand,
    /// Whether a side froze, as far as is known here.
    has_begun: bool,
    /// When it was begun to ask the source what became of it.
    asking_since: Option<Duration>,
    pause: Duration,
    epoch: u64,
    /// Whether it is to be copied while it works.
    is_live: bool,
}

impl Ordered {
    /// One that begins when its turn comes.
    pub(super) fn reserved(desk: Arc<Move>, found: Described) -> Self {
        Self {
            is_live: desk.opts.live,
            desk,
            epoch: found.epoch,
            found: Some(found),
            stand: Stand::Waits(None),
            has_begun: false,
            asking_since: None,
            pause: RETRY_FIRST,
        }
    }

    /// One that was ordered before the process began: it is asked what became of it.
    pub(super) fn recovered(order: MoveOrder) -> Self {
        let opts = MoveOpts {
            retry_not_ready: None,
            ..MoveOpts::default()
        };
        let desk = Move::new((order.entity, order.source, order.target), order.mid, opts);
        let (epoch, config) = (order.epoch, config(&opts));
        Self {
            desk,
            found: None,
            stand: Stand::Runs(Box::new(MoveOrchestrator::recovered(order, config))),
            has_begun: true,
            asking_since: None,
            pause: RETRY_FIRST,
            epoch,
            is_live: false,
        }
    }

    pub(super) fn is_of(&self, entity: &EntityId) -> bool {
        self.desk.entity == *entity
    }

    /// Whether whoever waits was told how it ended. What its source says later changes nothing of that.
    pub(super) fn is_over(&self) -> bool {
        self.desk.progress().is_over
    }

    pub(super) const fn desk(&self) -> &Arc<Move> {
        &self.desk
    }

    fn wake_at(&self) -> Option<Duration> {
        match &self.stand {
            Stand::Waits(at) => *at,
            Stand::Copies(_, copying) => Some(copying.next_at),
            Stand::Runs(machine) => {
                let lost = self.asking_since.map(|since| since + LOST_AFTER);
                machine.wake_at().into_iter().chain(lost).min()
            }
            Stand::Done(until) => Some(*until),
        }
    }
}

fn config(opts: &MoveOpts) -> OrderConfig {
    OrderConfig {
        // The source counts how long the daemon stands still, which is part of the whole.
        drive: opts.deadline.saturating_sub(opts.freeze_max),
        freeze: opts.freeze_max,
        seed: keys::random_u64(),
        ..OrderConfig::default()
    }
}

impl Moves {
    /// A move begins, or begins again.
    pub(super) fn begun(&self, desk: &Arc<Move>, found: &Described, work: &mut Work) {
        let mid = desk.attempt();
        let now = self.now();
        let is_live = self
            .state
            .lock()
            .orders
            .get(&mid)
            .is_some_and(|ordered| ordered.is_live);
        let Some(order) = self.order_of(desk, found, is_live) else {
            return;
        };
        if !is_live {
            return self.run(desk, order, work);
        }
        let copying = Copying {
            until: now + desk.opts.deadline,
            silent_until: now + COPY_SILENCE,
            next_at: now,
            pause: COPY_FIRST,
        };
        if let Some(ordered) = self.state.lock().orders.get_mut(&mid) {
            ordered.stand = Stand::Copies(Box::new(order), copying);
        }
        self.order_due(mid, now, work);
    }

    fn order_of(&self, desk: &Move, found: &Described, is_live: bool) -> Option<MoveOrder> {
        let opts = desk.opts;
        let terms = Terms {
            key_stays: !opts.transport_identity,
            live: is_live,
            rate_max: opts.bytes_per_second_max.unwrap_or(0),
        };
        let freeze = opts
            .freeze_max
            .min(opts.deadline)
            .as_millis()
            .clamp(1, u128::from(u32::MAX));
        let order = MoveOrder {
            mid: desk.attempt(),
            entity: desk.entity,
            epoch: found.epoch,
            source: desk.source,
            target: desk.target,
            orchestrator: self.node,
            not_after: clock::unix_ms().plus(NOT_AFTER),
            freeze_ms: u32::try_from(freeze).unwrap_or(u32::MAX),
            size: found.size,
            kind: found.kind.clone(),
            terms,
            signer: self.node,
            signature: [0; 64],
        };
        order.signed(&self.key).ok()
    }

    /// The machine sees to it from here on.
    fn run(&self, desk: &Move, order: MoveOrder, work: &mut Work) {
        let mid = order.mid;
        let (machine, action) = MoveOrchestrator::begin(order, config(&desk.opts));
        {
            let mut state = self.state.lock();
            let Some(ordered) = state.orders.get_mut(&mid) else {
                return;
            };
            ordered.stand = Stand::Runs(Box::new(machine));
        }
        self.do_order(mid, action, work);
        if desk.is_unwanted() {
            self.order_step(mid, move_order::Signal::Abort, work);
        }
    }

    /// The target holds the copy.
    pub(super) fn has_copy(&self, from: EntityId, mid: MigrationId, work: &mut Work) {
        let found = {
            let state = self.state.lock();
            let ordered = state.orders.get(&mid).filter(|ordered| ordered.desk.target == from);
            ordered.and_then(|ordered| match &ordered.stand {
                Stand::Copies(..) => Some((Arc::clone(&ordered.desk), ordered.found.clone()?)),
                _ => None,
            })
        };
        if let Some((desk, found)) = found
            // It may be too late for the first one by now.
            && let Some(order) = self.order_of(&desk, &found, true)
        {
            self.run(&desk, order, work);
        }
    }

    /// A side does not copy it. What else would refuse the move does so in a moment; what only concerns copies does not.
    fn refuses_copy(&self, from: EntityId, mid: MigrationId, work: &mut Work) -> bool {
        let found = {
            let mut state = self.state.lock();
            let Some(ordered) = state.orders.get_mut(&mid) else {
                return false;
            };
            if !matches!(ordered.stand, Stand::Copies(..)) {
                return false;
            }
            let is_side = [ordered.desk.source, ordered.desk.target].contains(&from);
            ordered.is_live &= !is_side;
            is_side
                .then(|| Some((Arc::clone(&ordered.desk), ordered.found.clone()?)))
                .flatten()
        };
        if let Some((desk, found)) = found
            && let Some(order) = self.order_of(&desk, &found, false)
        {
            self.run(&desk, order, work);
        }
        true
    }

    /// A copy is asked for again, or given up.
    fn copy_due(&self, mid: MigrationId, now: Duration, work: &mut Work) {
        let mut state = self.state.lock();
        let Some(ordered) = state.orders.get_mut(&mid) else {
            return;
        };
        let desk = Arc::clone(&ordered.desk);
        let Stand::Copies(order, copying) = &mut ordered.stand else {
            return;
        };
        if desk.is_unwanted() || now >= copying.until {
            state.orders.remove(&mid);
            drop(state);
            work.tells
                .push(Box::new(move || desk.failed(None, Cause::Deadline, false)));
            return;
        }
        if now >= copying.silent_until {
            drop(state);
            self.refuses_copy(desk.source, mid, work);
            return;
        }
        copying.next_at = now + copying.pause;
        copying.pause = (copying.pause * 2).min(RETRY_MAX);
        let frame = MoveFrame::about(order, Body::Aside(Box::new(Aside::Copy(order.clone()))));
        work.posts.push((desk.source, frame));
    }

    /// What a side says of a move.
    pub(super) fn hear_order(&self, from: EntityId, frame: &MoveFrame<'_>, work: &mut Work) {
        if matches!(frame.body, Body::Reject(_)) && self.refuses_copy(from, frame.mid, work) {
            return;
        }
        let signal = move_order::Signal::Heard {
            from,
            body: frame.body.clone(),
        };
        self.order_step(frame.mid, signal, work);
    }

    /// What the source tells of a move.
    pub(super) fn reported(&self, from: EntityId, mid: MigrationId, report: Report, work: &mut Work) {
        let mut state = self.state.lock();
        let Some(ordered) = state.orders.get_mut(&mid).filter(|ordered| ordered.desk.source == from) else {
            return;
        };
        if let Stand::Copies(_, copying) = &mut ordered.stand {
            copying.silent_until = self.now() + COPY_SILENCE;
        } else {
            ordered.has_begun |= report.stage > Stage::Snapshot || report.image_bytes > 0;
        }
        let is_last = report.stage == Stage::Complete;
        let desk = Arc::clone(&ordered.desk);
        let is_over = is_last && matches!(ordered.stand, Stand::Done(_));
        let epoch = ordered.epoch + 1;
        if is_over {
            state.orders.remove(&mid);
        }
        drop(state);
        // At once: the end of the move may be decided in this very turn.
        let stage = report.stage;
        desk.heard(report);
        work.tells.push(Box::new(move || {
            desk.at(stage);
            if is_over {
                desk.completed(epoch);
            }
        }));
    }

    pub(super) fn order_step(&self, mid: MigrationId, signal: move_order::Signal<'_>, work: &mut Work) {
        let now = self.now();
        let mut actions = Vec::new();
        let mut state = self.state.lock();
        let Some(ordered) = state.orders.get_mut(&mid) else {
            return;
        };
        let Stand::Runs(machine) = &mut ordered.stand else {
            return;
        };
        machine.step(now, signal, &mut actions);
        match machine.phase() {
            move_order::Phase::Asking => {
                ordered.asking_since.get_or_insert(now);
            }
            _ => ordered.asking_since = None,
        }
        drop(state);
        for action in actions {
            self.do_order(mid, action, work);
        }
    }

    fn do_order(&self, mid: MigrationId, action: move_order::Action, work: &mut Work) {
        match action {
            move_order::Action::Send { to, frame } => {
                if matches!(frame.body, Body::Freeze)
                    && let Some(ordered) = self.state.lock().orders.get_mut(&mid)
                {
                    ordered.has_begun = true;
                }
                work.posts.push((to, frame));
            }
            move_order::Action::Keep { ticket, writes } => {
                let entity = self.state.lock().orders.get(&mid).map(|ordered| ordered.desk.entity);
                if let Some(entity) = entity {
                    work.keeps.push((entity, Role::Order(mid), ticket, writes));
                }
            }
            move_order::Action::Ended { outcome, why } => self.order_ended(mid, outcome, why, work),
        }
    }

    fn order_ended(&self, mid: MigrationId, outcome: Outcome, why: Option<Reject>, work: &mut Work) {
        let now = self.now();
        let mut state = self.state.lock();
        let Some(ordered) = state.orders.get_mut(&mid) else {
            return;
        };
        let desk = Arc::clone(&ordered.desk);
        if outcome == Outcome::Committed {
            let epoch = ordered.epoch + 1;
            let has_last = desk.report().is_some_and(|report| report.stage == Stage::Complete);
            if has_last {
                state.orders.remove(&mid);
                work.tells.push(Box::new(move || desk.completed(epoch)));
            } else {
                ordered.stand = Stand::Done(now + LAST_WORD);
            }
            return;
        }
        // A side that did not answer in time is not ready either: an instance may still be being made.
        let is_silent = why.is_none() && !ordered.has_begun && desk.elapsed() < desk.opts.deadline;
        let is_unready = is_silent || why.as_ref().is_some_and(|why| why.reason == Reason::NotReady);
        // A side may still be about to forget a move that is over.
        let is_busy = why.as_ref().is_some_and(|why| why.reason == Reason::Busy);
        let patience = match (is_unready, is_busy) {
            _ if desk.is_unwanted() => None,
            (true, _) => desk.opts.retry_not_ready,
            (_, true) => Some(BUSY_FOR),
            _ => None,
        };
        // What came since a copy did not fit: everything is sent.
        let is_stopped = ordered.is_live && why.as_ref().is_some_and(|why| why.reason == Reason::StateFailed);
        if is_stopped && !desk.is_unwanted() {
            ordered.is_live = false;
        }
        let patience = if is_stopped { Some(desk.opts.deadline) } else { patience };
        let is_tried_again = patience.is_some_and(|patience| desk.elapsed() + ordered.pause <= patience);
        if is_tried_again && ordered.found.is_some() {
            let Some(mut again) = state.orders.remove(&mid) else {
                return;
            };
            let attempt: MigrationId = keys::random_bytes();
            again.stand = Stand::Waits(Some(now + again.pause));
            again.pause = (again.pause * 2).min(RETRY_MAX);
            again.asking_since = None;
            again.has_begun = false;
            state.orders.insert(attempt, again);
            drop(state);
            desk.again(attempt);
            return;
        }
        let has_begun = ordered.has_begun;
        let otherwise = if is_unready && (is_silent || patience.is_some()) {
            Cause::NotReady
        } else if desk.elapsed() >= desk.opts.deadline {
            Cause::Deadline
        } else {
            Cause::FreezeDeadline
        };
        state.orders.remove(&mid);
        drop(state);
        work.tells
            .push(Box::new(move || desk.failed(why, otherwise, has_begun)));
    }

    /// What fell due; when the next is.
    pub(super) fn order_timers(&self, now: Duration, work: &mut Work) -> Option<Duration> {
        let due: Vec<MigrationId> = {
            let state = self.state.lock();
            let due = state.orders.iter();
            due.filter(|(_, ordered)| ordered.wake_at().is_some_and(|at| at <= now))
                .map(|(mid, _)| *mid)
                .collect()
        };
        for mid in due {
            self.order_due(mid, now, work);
        }
        let state = self.state.lock();
        state.orders.values().filter_map(Ordered::wake_at).min()
    }

    fn order_due(&self, mid: MigrationId, now: Duration, work: &mut Work) {
        let mut state = self.state.lock();
        let Some(ordered) = state.orders.get_mut(&mid) else {
            return;
        };
        let desk = Arc::clone(&ordered.desk);
        match &ordered.stand {
            Stand::Copies(..) => {
                drop(state);
                self.copy_due(mid, now, work);
            }
            Stand::Waits(_) => {
                let Some(found) = ordered.found.clone() else { return };
                ordered.stand = Stand::Waits(None);
                drop(state);
                if desk.is_unwanted() {
                    self.state.lock().orders.remove(&mid);
                    work.tells
                        .push(Box::new(move || desk.failed(None, Cause::Cancelled, false)));
                } else {
                    self.put(Item::Begin(desk, Box::new(found)), 0);
                }
            }
            Stand::Runs(_) => {
                let is_lost = ordered.asking_since.is_some_and(|since| now >= since + LOST_AFTER);
                if is_lost {
                    ordered.asking_since = Some(now);
                }
                let (source, has_begun) = (desk.source, ordered.has_begun);
                drop(state);
                if is_lost && !self.is_there(&source) {
                    // The machine goes on asking.
                    let told = Arc::clone(&desk);
                    work.tells
                        .push(Box::new(move || told.failed(None, Cause::Lost, has_begun)));
                }
                self.order_step(mid, move_order::Signal::Timer, work);
            }
            Stand::Done(_) => {
                let epoch = ordered.epoch + 1;
                state.orders.remove(&mid);
                drop(state);
                work.tells.push(Box::new(move || desk.completed(epoch)));
            }
        }
    }
}
