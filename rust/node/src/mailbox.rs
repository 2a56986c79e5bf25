//! The mailbox of a daemon: events and controls that wait for it without a thread of their own.
//!
//! Invariants
//! * First in, first out; numbers given by a sender are given in that order.
//! * Bounded in events and bytes; what does not fit is refused, never dropped.
//! * A lane works on one mailbox at a time, in batches, and answers a batch at once.
//! * While user code waits to be started again the mail waits too.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sync::Mutex;
use meshos_core::config::Durability;
use meshos_core::control::DaemonControl;
use meshos_core::gate::{self, Gate, Refusal, Signal};
use meshos_core::id::Origin;
use meshos_core::ingress::{DIRECT, EventKey};
use meshos_core::store::StoreError;

use crate::controls::Controls;
use crate::daemon::{Daemon, DeliverError, Outputs, Settled};
use crate::deliver::{self, Begun, Want};
use crate::lane::{Job, Lanes};
use crate::slot::{Cell, EnterError, Entered, Slot};

/// Events that may wait for one daemon.
pub const EVENTS_MAX: usize = 1_000_000;
/// Payload bytes that may wait for one daemon.
pub const BYTES_MAX: u64 = 64 << 20;
/// Events of one batch.
const BATCH_MAX: usize = 256;
/// A batch ends after so long, so that those it answers do not wait for the rest.
const BATCH_TIME: Duration = Duration::from_millis(2);

/// Numbers the events of one sender.
pub struct Sender {
    /// Whose numbers they are.
    pub origin: Origin,
    next: AtomicU64,
}

impl Sender {
    /// A sender that has sent nothing.
    #[must_use]
    pub fn new(origin: Origin) -> Self {
        Self {
            origin,
            next: AtomicU64::new(1),
        }
    }
}

/// An event to be mailed.
pub enum Letter<D: Daemon> {
    /// It has its number.
    Event(D::Event),
    /// It gets the sender's next.
    Draft(D::Draft, usize),
}

struct Mail<D: Daemon> {
    letter: Written<D>,
    key: EventKey,
    bytes: u64,
    want: Want,
    reply: D::Reply,
    /// Events of one group stop at the first that fails.
    group: Option<Arc<AtomicBool>>,
}

enum Written<D: Daemon> {
    Event(D::Event),
    Draft(D::Draft),
}

/// Replies of a batch, with the events they answer.
type Replies<D> = Vec<(<D as Daemon>::Reply, EventKey, Settled<D>)>;

/// The events and controls that wait.
pub(crate) struct Mailbox<D: Daemon> {
    queue: VecDeque<Mail<D>>,
    bytes: u64,
    controls: Controls,
    lanes: Lanes,
    /// A lane has it, or is about to.
    scheduled: bool,
}

/// Why nothing was mailed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostError {
    /// As much waits as may.
    Full,
    /// The daemon was removed or replaced.
    Stale,
    /// The lanes were stopped.
    Closed,
}

impl<D: Daemon> Mailbox<D> {
    fn on(lanes: &Lanes) -> Box<Self> {
        Box::new(Self {
            queue: VecDeque::new(),
            bytes: 0,
            controls: Controls::default(),
            lanes: lanes.clone(),
            scheduled: false,
        })
    }
}

impl<D: Daemon> Slot<D> {
    /// Mails one event; returns its number. The reply comes when it took effect or failed.
    ///
    /// # Errors
    /// [`PostError`], with the reply: nothing was mailed.
    pub fn post(
        self: &Arc<Self>,
        lanes: &Lanes,
        sender: &Sender,
        letter: Letter<D>,
        want: Want,
        reply: D::Reply,
        group: Option<Arc<AtomicBool>>,
    ) -> Result<u64, (PostError, D::Reply)> {
        let bytes = match &letter {
            Letter::Event(event) => D::payload_len(event),
            Letter::Draft(_, bytes) => *bytes,
        } as u64;
        let mut cell = self.cell.lock();
        if gate::step(cell.gate, Signal::Enter) == Err(Refusal::Stopped) {
            return Err((PostError::Stale, reply));
        }
        let mailbox = cell.mailbox.get_or_insert_with(|| Mailbox::on(lanes));
        // One event always fits: a payload above the bound must not wait for ever.
        if mailbox.queue.len() >= EVENTS_MAX || (mailbox.bytes + bytes > BYTES_MAX && !mailbox.queue.is_empty()) {
            return Err((PostError::Full, reply));
        }
        let (letter, key) = match letter {
            Letter::Event(event) => {
                let key = D::key(&event);
                (Written::Event(event), key)
            }
            Letter::Draft(draft, _) => {
                // Under the lock of the cell, so that the numbers of one receiver rise in the order of its queue.
                let sequence = sender.next.fetch_add(1, Ordering::Relaxed);
                (
                    Written::Draft(draft),
                    EventKey {
                        origin: sender.origin,
                        stream: DIRECT,
                        sequence,
                    },
                )
            }
        };
        mailbox.queue.push_back(Mail {
            letter,
            key,
            bytes,
            want,
            reply,
            group,
        });
        mailbox.bytes += bytes;
        if !matches!(cell.gate, Gate::Busy | Gate::Down) {
            self.schedule(&mut cell);
            let mailbox = cell.mailbox.as_mut().expect("just used");
            if !mailbox.scheduled {
                let mail = mailbox.queue.pop_back().expect("just queued");
                mailbox.bytes -= bytes;
                return Err((PostError::Closed, mail.reply));
            }
        }
        Ok(key.sequence)
    }

    /// Puts a control into the mailbox; `false` when the daemon or the lanes were stopped.
    pub(crate) fn post_control(self: &Arc<Self>, lanes: &Lanes, control: DaemonControl) -> bool {
        let mut cell = self.cell.lock();
        if gate::step(cell.gate, Signal::Enter) == Err(Refusal::Stopped) {
            return false;
        }
        let mailbox = cell.mailbox.get_or_insert_with(|| Mailbox::on(lanes));
        mailbox.controls.put(control);
        if cell.gate != Gate::Active {
            // Whoever is inside schedules it when they leave.
            return true;
        }
        self.schedule(&mut cell);
        cell.mailbox.as_ref().is_some_and(|mailbox| mailbox.scheduled)
    }

    /// Takes the most urgent control out.
    pub(crate) fn next_control(&self) -> Option<DaemonControl> {
        self.cell.lock().mailbox.as_mut()?.controls.take()
    }

    /// Whether a control waits for somebody to leave.
    pub(crate) fn has_controls(&self) -> bool {
        let cell = self.cell.lock();
        let waits = cell
            .mailbox
            .as_ref()
            .is_some_and(|mailbox| !mailbox.controls.is_empty());
        waits && cell.gate == Gate::Busy
    }

    /// Gives the mailbox to a lane, if something waits in it and no lane has it.
    pub(crate) fn schedule(self: &Arc<Self>, cell: &mut Cell<D>) {
        let works = matches!(cell.gate, Gate::Active | Gate::Busy);
        if let Some(mailbox) = &mut cell.mailbox
            && !mailbox.scheduled
            && (!mailbox.queue.is_empty() || works && !mailbox.controls.is_empty())
        {
            mailbox.scheduled = mailbox.lanes.submit(Arc::clone(self) as Arc<dyn Job>);
        }
    }

    fn next_mail(&self) -> Option<Mail<D>> {
        let mut cell = self.cell.lock();
        let mailbox = cell.mailbox.as_mut()?;
        let mail = mailbox.queue.pop_front()?;
        mailbox.bytes -= mail.bytes;
        Some(mail)
    }

    /// Ends the turn of a lane: the mailbox may be scheduled again.
    fn end_turn(self: &Arc<Self>) {
        let mut cell = self.cell.lock();
        if let Some(mailbox) = &mut cell.mailbox {
            mailbox.scheduled = false;
        }
        // Whoever is inside schedules it when they leave.
        if !matches!(cell.gate, Gate::Busy | Gate::Down | Gate::Stopping) {
            self.schedule(&mut cell);
        }
    }

    /// Answers everything that waits with an error.
    pub(crate) fn refuse_all(&self, error: impl Fn() -> DeliverError<D>) {
        let mut replies = Vec::new();
        while let Some(mail) = self.next_mail() {
            replies.push((mail.reply, mail.key, Err(error())));
        }
        if !replies.is_empty() {
            D::settle(replies);
        }
    }

    /// `false`: somebody is inside, and a control waits that must not wait behind others.
    fn turn(self: &Arc<Self>) -> bool {
        match self.try_enter() {
            Ok(entered) => {
                self.batch(entered, Vec::new());
                return true;
            }
            Err(EnterError::Failed(reason)) => self.refuse_all(|| DeliverError::Failed(Arc::clone(&reason))),
            Err(EnterError::Stale) => self.refuse_all(|| DeliverError::Stale),
            Err(_) if self.has_controls() => return false,
            Err(_) => {}
        }
        self.end_turn();
        true
    }

    fn turn_for_controls(self: &Arc<Self>) {
        match self.enter_with_controls() {
            Ok(entered) => D::batch(|| self.batch(entered, Vec::new())),
            Err(_) => self.end_turn(),
        }
    }

    /// Works on what waits until the batch is full, user code goes elsewhere, or nothing is left.
    fn batch(self: &Arc<Self>, mut entered: Entered<D>, mut replies: Replies<D>) {
        let started = Instant::now();
        let present = self.give_controls(&mut entered);
        while present
            && replies.len() < BATCH_MAX
            && entered.is_open()
            && !matches!(self.gate(), Gate::Stopping)
            && (replies.is_empty() || started.elapsed() < BATCH_TIME)
        {
            let Some(mail) = self.next_mail() else { break };
            if D::is_abandoned(&mail.reply) {
                continue;
            }
            if mail.group.as_ref().is_some_and(|failed| failed.load(Ordering::Relaxed)) {
                replies.push((mail.reply, mail.key, Err(DeliverError::Skipped)));
                continue;
            }
            let event = match mail.letter {
                Written::Event(event) => event,
                Written::Draft(draft) => D::numbered(draft, mail.key),
            };
            match deliver::begin(&mut entered, &event, mail.want) {
                Begun::Done(outcome) => replies.push(answer(mail.reply, mail.key, mail.group.as_ref(), outcome)),
                Begun::Later(key, later) => {
                    self.settle(&mut entered, std::mem::take(&mut replies));
                    let daemon = Arc::clone(&entered.daemon);
                    if self.is_supervised() {
                        entered.park();
                    }
                    let call = Call {
                        entered,
                        event,
                        key,
                        want: mail.want,
                        reply: mail.reply,
                        group: mail.group,
                    };
                    daemon.on_done(later, Box::new(move |outputs| call.resume(outputs)));
                    return;
                }
            }
        }
        let held = self.hold(&mut entered, replies);
        drop(entered);
        if let Some(replies) = held {
            D::settle(replies);
        }
        self.end_turn();
    }

    fn settle(self: &Arc<Self>, entered: &mut Entered<D>, replies: Replies<D>) {
        if let Some(replies) = self.hold(entered, replies) {
            D::settle(replies);
        }
    }

    /// Has those who wait answered once what was done is kept; gives the answers back that need not wait for that.
    fn hold(self: &Arc<Self>, entered: &mut Entered<D>, replies: Replies<D>) -> Option<Replies<D>> {
        let commit = deliver::submit(entered);
        if replies.is_empty() {
            return None;
        }
        let Some(commit) = commit else {
            let is_unknown = !entered.is_present() && self.config().durability != Durability::None;
            return Some(if is_unknown {
                // A forced stop has it: whoever asks again is told what became of it.
                unless_kept(replies, Err(StoreError::Closed))
            } else {
                replies
            });
        };
        let lanes = self.cell.lock().mailbox.as_ref().map(|mailbox| mailbox.lanes.clone());
        commit.then(Box::new(move |outcome| {
            let replies = unless_kept(replies, outcome);
            if let Some(lanes) = lanes {
                lanes.submit(Arc::new(Settling::<D>(Mutex::new(replies))));
            }
        }));
        None
    }
}

/// Answers, of which those that were to say that something took effect say that it is not kept, if it is not.
fn unless_kept<D: Daemon>(replies: Replies<D>, kept: Result<(), StoreError>) -> Replies<D> {
    let Err(error) = kept else { return replies };
    let not_kept = |(reply, key, outcome): (D::Reply, EventKey, Settled<D>)| {
        (reply, key, outcome.and(Err(DeliverError::NotKept(error))))
    };
    replies.into_iter().map(not_kept).collect()
}

/// Answers that a lane gives.
struct Settling<D: Daemon>(Mutex<Replies<D>>);

impl<D: Daemon> Job for Settling<D> {
    fn run(self: Arc<Self>) {
        let replies = std::mem::take(&mut *self.0.lock());
        D::batch(|| D::settle(replies));
    }
}

impl<D: Daemon> Job for Slot<D> {
    fn run(self: Arc<Self>) {
        // A bug of ours in one turn must not keep the mailbox from the next: those it was to answer reach their
        // deadline, everybody else is served.
        let turn = AssertUnwindSafe(|| {
            // It waits outside of the batch, which holds what those need who are inside.
            if !D::batch(|| self.turn()) {
                self.turn_for_controls();
            }
        });
        if let Err(panic) = catch_unwind(turn) {
            self.end_turn();
            resume_unwind(panic);
        }
    }
}

fn answer<D: Daemon>(
    reply: D::Reply,
    key: EventKey,
    group: Option<&Arc<AtomicBool>>,
    outcome: Settled<D>,
) -> (D::Reply, EventKey, Settled<D>) {
    if outcome.is_err()
        && let Some(failed) = group
    {
        failed.store(true, Ordering::Relaxed);
    }
    (reply, key, outcome)
}

/// A mailed event whose coroutine runs.
struct Call<D: Daemon> {
    entered: Entered<D>,
    event: D::Event,
    key: EventKey,
    want: Want,
    reply: D::Reply,
    group: Option<Arc<AtomicBool>>,
}

impl<D: Daemon> Call<D> {
    fn resume(mut self, outputs: Outputs<D>) {
        if !self.entered.unpark() {
            return self.end(Err(DeliverError::Stale));
        }
        if outputs.is_err() && deliver::rebuilds(&self.entered) {
            // The state is rebuilt by waiting for coroutines, which this thread, their loop's, must not do.
            let slot = Arc::clone(self.entered.slot());
            let lanes = slot.cell.lock().mailbox.as_ref().map(|mailbox| mailbox.lanes.clone());
            let resumption = Arc::new(Resumption(Mutex::new(Some((self, outputs)))));
            if let Some(lanes) = lanes {
                lanes.submit(resumption);
            }
            return;
        }
        let outcome = deliver::finish(&mut self.entered, &self.event, self.key, self.want, outputs);
        self.end(outcome);
    }

    fn end(mut self, outcome: Settled<D>) {
        let slot = Arc::clone(self.entered.slot());
        let replies = vec![answer(self.reply, self.key, self.group.as_ref(), outcome)];
        let held = slot.hold(&mut self.entered, replies);
        drop(self.entered);
        if let Some(replies) = held {
            D::settle(replies);
        }
        slot.end_turn();
    }
}

struct Resumption<D: Daemon>(Mutex<Option<(Call<D>, Outputs<D>)>>);

impl<D: Daemon> Job for Resumption<D> {
    fn run(self: Arc<Self>) {
        let taken = self.0.lock().take();
        if let Some((mut call, outputs)) = taken {
            D::batch(|| {
                let outcome = deliver::finish(&mut call.entered, &call.event, call.key, call.want, outputs);
                call.end(outcome);
            });
        }
    }
}
