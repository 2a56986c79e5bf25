//! The mailbox of a daemon: events and controls that wait for it without a thread of their own.
//!
//! Invariants
//! * First in, first out; numbers given by a sender are given in that order.
//! * Bounded in events and bytes; what does not fit is refused, never dropped.
//! * A lane works on one mailbox at a time, in batches, and answers a batch at once.
//! * While user code waits to be started again the mail waits too.
//! * An event that nobody waits for is tried again when it fails, later each time, and passed over in the end. What its
//!   sender sent after it waits for that; what others sent does not.

mod frozen;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sync::Mutex;
use meshos_core::attempts::{self, Next};
use meshos_core::config::Durability;
use meshos_core::control::DaemonControl;
use meshos_core::gate::{self, Gate, Refusal, Signal};
use meshos_core::id::Origin;
use meshos_core::ingress::{DIRECT, EventKey};
use meshos_core::link::CausalLink;
use meshos_core::source::Source;
use meshos_core::store::StoreError;
use meshos_core::stream::Frame;

use crate::clock;
use crate::controls::Controls;
use crate::daemon::{Daemon, DeliverError, Outputs, Settled};
use crate::deliver::{self, Begun, Linked, Want};
use crate::journal::Commit;
use crate::lane::{Job, Lanes};
use crate::lease::{Lease, Unleased};
use crate::letters;
use crate::linked::{self, Answer, Arrived, Incoming, Mailed};
use crate::slot::{Cell, EnterError, Entered, Slot};
pub use frozen::Onward;

/// Events that may wait for one daemon.
pub const EVENTS_MAX: usize = 1_000_000;
/// Payload bytes that may wait for one daemon.
pub const BYTES_MAX: u64 = 64 << 20;
/// Events of one batch.
const BATCH_MAX: usize = 256;
/// When who sent a linked event tries it again that could not be kept.
const LINK_PAUSE: Duration = Duration::from_millis(200);
/// Linked streams whose place in a mailbox is kept though nothing of them waits.
const LINKS_KEPT: usize = 64;
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

    /// Takes the next number. Who sends to one receiver takes them in the order in which the events leave.
    pub(crate) fn take(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
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
    sent: Sent<D>,
}

/// Everything of a mailed event but the event.
struct Sent<D: Daemon> {
    key: EventKey,
    bytes: u64,
    want: Want,
    party: Party<D>,
    /// Events of one group stop at the first that fails.
    group: Option<Arc<AtomicBool>>,
    /// Tries that failed.
    failed: u32,
}

/// Whose event it is.
enum Party<D: Daemon> {
    /// Somebody of this process.
    Caller(D::Reply),
    /// A linked stream.
    Link {
        /// With what it arrived.
        arrived: Arc<Arrived>,
        /// The number that was sent before it.
        prev: u64,
    },
    /// A channel, which hears what becomes of it.
    Channel(Arc<dyn Heard>),
}

/// Hears what becomes of events of a channel: it is short, never waits, and calls no user code.
pub trait Heard: Send + Sync {
    /// The event of this number took effect, or was passed over, and is kept where steps are.
    fn taken(&self, number: u64);
    /// The event of this number waits no more, and did not take effect: its daemon is gone.
    fn lost(&self, number: u64);
}

impl<D: Daemon> Sent<D> {
    /// Whether it is tried again when it fails, since nobody of this process waits for it.
    fn is_retried(&self) -> bool {
        match &self.party {
            Party::Caller(reply) => D::is_unattended(reply),
            Party::Link { .. } | Party::Channel(_) => true,
        }
    }

    /// Whether it is lost when it comes to nothing: who sent a linked one tries again.
    fn is_posted(&self) -> bool {
        match &self.party {
            Party::Caller(reply) => D::is_unattended(reply),
            Party::Channel(_) => true,
            Party::Link { .. } => false,
        }
    }

    /// Tells a channel that its event comes to nothing.
    fn is_lost(&self) {
        if let Party::Channel(heard) = &self.party {
            heard.lost(self.key.sequence);
        }
    }

    fn is_abandoned(&self) -> bool {
        matches!(&self.party, Party::Caller(reply) if D::is_abandoned(reply))
    }
}

/// What waits behind an event that failed, which is the first of it.
struct Stalled<D: Daemon> {
    due: Instant,
    mail: VecDeque<Mail<D>>,
}

enum Written<D: Daemon> {
    Event(D::Event),
    Draft(D::Draft),
    /// The payload of a linked event, in what it arrived with.
    Linked(Range<usize>),
    /// The payload of an event of a channel, when it came in, and from where.
    Channel(Arc<[u8]>, u64, Arc<Source>),
}

/// What comes of a batch, until it may be told.
struct Told<D: Daemon> {
    /// Those who wait.
    replies: Replies<D>,
    /// Events that nobody waits for.
    unattended: Vec<Mail<D>>,
    /// Answers to linked events.
    answers: Vec<Answer>,
}

impl<D: Daemon> Default for Told<D> {
    fn default() -> Self {
        Self {
            replies: Vec::new(),
            unattended: Vec::new(),
            answers: Vec::new(),
        }
    }
}

impl<D: Daemon> Told<D> {
    fn is_empty(&self) -> bool {
        self.replies.is_empty() && self.unattended.is_empty() && self.answers.is_empty()
    }

    /// Tells those who wait.
    fn tell(self) {
        if !self.answers.is_empty() {
            linked::answer(&self.answers);
        }
        if !self.replies.is_empty() {
            D::settle(self.replies);
        }
    }
}

/// Replies of a batch, with the events they answer.
type Replies<D> = Vec<(<D as Daemon>::Reply, EventKey, Settled<D>)>;

/// The events and controls that wait.
pub(crate) struct Mailbox<D: Daemon> {
    queue: VecDeque<Mail<D>>,
    /// By origin and stream.
    stalled: BTreeMap<(Origin, u64), Stalled<D>>,
    /// When lanes look at what is stalled that were told to, the first one last.
    alarms: Vec<Instant>,
    /// Events in `queue` and `stalled`, and their bytes.
    events: usize,
    bytes: u64,
    /// Numbers of linked events in `queue` and `stalled`, ascending, by origin and stream.
    linked: BTreeMap<(Origin, u64), VecDeque<u64>>,
    /// Events that nobody waits for and that took effect, until the commit that has them is kept.
    unsettled: VecDeque<(Arc<Commit>, Mail<D>)>,
    /// A commit failed that had some of those: when they are looked after.
    revisit: Option<Instant>,
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
            stalled: BTreeMap::new(),
            alarms: Vec::new(),
            events: 0,
            bytes: 0,
            linked: BTreeMap::new(),
            unsettled: VecDeque::new(),
            revisit: None,
            controls: Controls::default(),
            lanes: lanes.clone(),
            scheduled: false,
        })
    }

    /// When something stalled is to be tried next.
    fn due(&self) -> Option<Instant> {
        self.stalled.values().map(|stalled| stalled.due).min()
    }

    /// Takes the next event that may be tried now.
    fn next(&mut self, now: Instant) -> Option<Mail<D>> {
        let due = self.stalled.iter_mut().find(|(_, stalled)| stalled.due <= now);
        if let Some((key, stalled)) = due {
            let key = *key;
            let mail = stalled.mail.pop_front();
            // What waits behind it is next in line, unless it fails again.
            let behind = self.stalled.remove(&key).map(|stalled| stalled.mail);
            for after in behind.into_iter().flatten().rev() {
                self.queue.push_front(after);
            }
            return mail.inspect(|mail| self.took(mail));
        }
        loop {
            let mail = self.queue.pop_front()?;
            if self.stalled.is_empty() {
                self.took(&mail);
                return Some(mail);
            }
            match self.stalled.get_mut(&(mail.sent.key.origin, mail.sent.key.stream)) {
                Some(stalled) => stalled.mail.push_back(mail),
                None => {
                    self.took(&mail);
                    return Some(mail);
                }
            }
        }
    }

    fn took(&mut self, mail: &Mail<D>) {
        self.events -= 1;
        self.bytes -= mail.sent.bytes;
        if let Party::Link { .. } = mail.sent.party {
            self.unnote(&mail.sent.key);
        }
    }

    /// Notes the number of a linked event that waits; `false`: it did already.
    fn note(&mut self, key: &EventKey) -> bool {
        let numbers = self.linked.entry((key.origin, key.stream)).or_default();
        if numbers.back().is_none_or(|last| *last < key.sequence) {
            numbers.push_back(key.sequence);
            return true;
        }
        let place = numbers.binary_search(&key.sequence);
        if let Err(at) = place {
            numbers.insert(at, key.sequence);
        }
        place.is_err()
    }

    fn unnote(&mut self, key: &EventKey) {
        let Entry::Occupied(mut entry) = self.linked.entry((key.origin, key.stream)) else {
            return;
        };
        let numbers = entry.get_mut();
        if numbers.front() == Some(&key.sequence) {
            numbers.pop_front();
        } else if let Ok(at) = numbers.binary_search(&key.sequence) {
            numbers.remove(at);
        }
        if numbers.is_empty() && self.linked.len() > LINKS_KEPT {
            self.linked.remove(&(key.origin, key.stream));
        }
    }

    /// Takes any event, whether it may be tried or not.
    fn any(&mut self) -> Option<Mail<D>> {
        let mail = self.queue.pop_front().or_else(|| {
            let mut first = self.stalled.first_entry()?;
            let mail = first.get_mut().mail.pop_front();
            if first.get().mail.is_empty() {
                first.remove();
            }
            mail
        });
        mail.inspect(|mail| self.took(mail))
    }

    /// Puts an event back that is to be tried again, before what its sender sent after it.
    fn stall(&mut self, mail: Mail<D>, due: Instant) {
        self.events += 1;
        self.bytes += mail.sent.bytes;
        if let Party::Link { .. } = mail.sent.party {
            self.note(&mail.sent.key);
        }
        let stalled = Stalled {
            due,
            mail: VecDeque::from([mail]),
        };
        let key = &stalled.mail[0].sent.key;
        self.stalled.insert((key.origin, key.stream), stalled);
    }
}

impl<D: Daemon> Cell<D> {
    /// Whether nothing is mailed to it any more.
    fn is_shut(&self) -> bool {
        self.is_moved || gate::step(self.gate, Signal::Enter) == Err(Refusal::Stopped)
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
        if cell.is_shut() {
            return Err((PostError::Stale, reply));
        }
        let mailbox = cell.mailbox.get_or_insert_with(|| Mailbox::on(lanes));
        // One event always fits: a payload above the bound must not wait for ever.
        if mailbox.events >= EVENTS_MAX || (mailbox.bytes + bytes > BYTES_MAX && mailbox.events > 0) {
            return Err((PostError::Full, reply));
        }
        let (letter, key) = match letter {
            Letter::Event(event) => {
                let key = D::key(&event);
                (Written::Event(event), key)
            }
            Letter::Draft(draft, _) => {
                // Under the lock of the cell, so that the numbers of one receiver rise in the order of its queue.
                let sequence = sender.take();
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
        let sent = Sent {
            key,
            bytes,
            want,
            party: Party::Caller(reply),
            group,
            failed: 0,
        };
        mailbox.queue.push_back(Mail { letter, sent });
        mailbox.events += 1;
        mailbox.bytes += bytes;
        if !matches!(cell.gate, Gate::Busy | Gate::Down) {
            self.schedule(&mut cell);
            let mailbox = cell.mailbox.as_mut().expect("just used");
            if !mailbox.scheduled {
                let mail = mailbox.queue.pop_back().expect("just queued");
                mailbox.took(&mail);
                if let Party::Caller(reply) = mail.sent.party {
                    return Err((PostError::Closed, reply));
                }
            }
        }
        Ok(key.sequence)
    }

    /// Mails events of linked streams that arrived together, in order, and says of each what became of it.
    pub(crate) fn post_linked(
        self: &Arc<Self>,
        lanes: &Lanes,
        arrived: &Arc<Arrived>,
        events: &[Incoming],
        mut told: impl FnMut(&Incoming, Mailed),
    ) {
        let mut cell = self.cell.lock();
        if cell.is_shut() {
            drop(cell);
            return events.iter().for_each(|event| told(event, Mailed::Gone));
        }
        if let Some(waits) = &cell.waits {
            // Under the lock, so that their order is that of a mailbox.
            return events.iter().for_each(|event| {
                waits.event(event.queued(arrived));
                told(event, Mailed::Taken);
            });
        }
        let mailbox = cell.mailbox.get_or_insert_with(|| Mailbox::on(lanes));
        let mut taken = 0;
        for event in events {
            let bytes = event.payload.len() as u64;
            // One event always fits: a payload above the bound must not wait for ever.
            if mailbox.events >= EVENTS_MAX || (mailbox.bytes + bytes > BYTES_MAX && mailbox.events > 0) {
                told(event, Mailed::Full);
                continue;
            }
            if !mailbox.note(&event.key) {
                told(event, Mailed::Repeated);
                continue;
            }
            let sent = Sent {
                key: event.key,
                bytes,
                want: Want::Receipt,
                party: Party::Link {
                    arrived: Arc::clone(arrived),
                    prev: event.prev,
                },
                group: None,
                failed: 0,
            };
            let letter = Written::Linked(event.payload.clone());
            mailbox.queue.push_back(Mail { letter, sent });
            mailbox.events += 1;
            mailbox.bytes += bytes;
            taken += 1;
            told(event, Mailed::Taken);
        }
        if taken > 0 && !matches!(cell.gate, Gate::Busy | Gate::Down) {
            // Where the lanes were stopped they wait until the daemon is stopped too.
            self.schedule(&mut cell);
        }
    }

    /// Mails an event of a channel. `heard` hears of it only if it is taken.
    pub(crate) fn post_channel(
        self: &Arc<Self>,
        lanes: &Lanes,
        key: EventKey,
        payload: &Arc<[u8]>,
        source: &Arc<Source>,
        heard: Arc<dyn Heard>,
    ) -> Mailed {
        let bytes = payload.len() as u64;
        let mut cell = self.cell.lock();
        if cell.is_shut() {
            return Mailed::Gone;
        }
        let mailbox = cell.mailbox.get_or_insert_with(|| Mailbox::on(lanes));
        // One event always fits: a payload above the bound must not wait for ever.
        if mailbox.events >= EVENTS_MAX || (mailbox.bytes + bytes > BYTES_MAX && mailbox.events > 0) {
            return Mailed::Full;
        }
        let sent = Sent {
            key,
            bytes,
            want: Want::Outputs,
            party: Party::Channel(heard),
            group: None,
            failed: 0,
        };
        let letter = Written::Channel(Arc::clone(payload), clock::unix_us() * 1_000, Arc::clone(source));
        mailbox.queue.push_back(Mail { letter, sent });
        mailbox.events += 1;
        mailbox.bytes += bytes;
        if !matches!(cell.gate, Gate::Busy | Gate::Down) {
            self.schedule(&mut cell);
        }
        Mailed::Taken
    }

    /// Puts a control into the mailbox; `false` when the daemon or the lanes were stopped.
    pub(crate) fn post_control(self: &Arc<Self>, lanes: &Lanes, control: DaemonControl) -> bool {
        let mut cell = self.cell.lock();
        if cell.is_shut() {
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
        waits && cell.gate == Gate::Busy && cell.waits.is_none()
    }

    /// Gives the mailbox to a lane, if something waits in it and no lane has it.
    pub(crate) fn schedule(self: &Arc<Self>, cell: &mut Cell<D>) {
        let works = matches!(cell.gate, Gate::Active | Gate::Busy);
        let stays = works || cell.gate == Gate::Down;
        let Some(mailbox) = &mut cell.mailbox else { return };
        if mailbox.scheduled {
            return;
        }
        let due = mailbox.due();
        // Who is closed or lost answers everything that waits.
        let is_due = due.is_some_and(|due| !stays || due <= Instant::now());
        let revisits = mailbox.revisit.is_some_and(|at| at <= Instant::now());
        let is_lost = !stays && mailbox.unsettled.iter().any(Self::is_lost);
        if !mailbox.queue.is_empty() || is_due || is_lost || works && revisits || works && !mailbox.controls.is_empty()
        {
            mailbox.scheduled = mailbox.lanes.submit(Arc::clone(self) as Arc<dyn Job>);
        } else if let Some(due) = due.into_iter().chain(mailbox.revisit.filter(|_| works)).min()
            && mailbox.alarms.last().is_none_or(|alarm| due < *alarm)
            && mailbox.lanes.submit_at(due, Arc::new(Alarm(Arc::clone(self), due)))
        {
            mailbox.alarms.push(due);
        }
    }

    fn next_mail(&self) -> Option<Mail<D>> {
        let mut cell = self.cell.lock();
        let mailbox = cell.mailbox.as_mut()?;
        let now = if mailbox.stalled.is_empty() {
            None
        } else {
            Some(Instant::now())
        };
        mailbox.next(now.unwrap_or_else(Instant::now))
    }

    fn any_mail(&self) -> Option<Mail<D>> {
        self.cell.lock().mailbox.as_mut()?.any()
    }

    /// Has an event tried again that failed while nobody waits for it, or passes it over; `false`: neither can be done.
    /// What was passed over is not told of until that is kept.
    fn failed(
        &self,
        entered: &mut Entered<D>,
        event: D::Event,
        mut sent: Sent<D>,
        error: DeliverError<D>,
        told: &mut Told<D>,
    ) -> bool {
        let wait = match &error {
            DeliverError::Raised(raised) | DeliverError::SnapshotFailed(raised) => {
                if D::never_ran(raised) || !entered.is_present() {
                    attempts::WAIT_FIRST
                } else {
                    sent.failed = sent.failed.saturating_add(1);
                    let attempts_max = entered.host.config().attempts_max;
                    match attempts::after(sent.failed, attempts_max, &entered.letters_held(), sent.bytes) {
                        Next::Retry(wait) => wait,
                        Next::PassOver => {
                            letters::pass_over(entered, &event, sent.key, sent.failed, raised);
                            if let Party::Link { arrived, .. } = sent.party {
                                let (flow, sequence) = (linked::flow(self.entity(), &sent.key), sent.key.sequence);
                                let epoch = entered.host.epoch();
                                let frame = Frame::PassedOver { flow, sequence, epoch };
                                told.answers.push(Answer { arrived, frame });
                                return true;
                            }
                            sent.failed -= 1;
                            let letter = Written::Event(event);
                            told.unattended.push(Mail { letter, sent });
                            return true;
                        }
                    }
                }
            }
            // The store has no room for the moment.
            DeliverError::NotKept(_) => attempts::WAIT_MAX,
            // Its lease may be renewed.
            DeliverError::Unleased(Unleased::Out { .. }) => attempts::WAIT_FIRST,
            _ => return false,
        };
        if let (DeliverError::NotKept(_) | DeliverError::Unleased(_), Party::Link { arrived, .. }) =
            (&error, &sent.party)
        {
            told.answers.push(self.busy(arrived, &sent.key, wait.min(LINK_PAUSE)));
            return true;
        }
        let mut cell = self.cell.lock();
        let mailbox = cell.mailbox.as_mut().expect("mail comes out of a mailbox");
        let letter = Written::Event(event);
        mailbox.stall(Mail { letter, sent }, Instant::now() + wait);
        true
    }

    /// Asks who sent an event to wait.
    fn busy(&self, arrived: &Arc<Arrived>, key: &EventKey, wait: Duration) -> Answer {
        let frame = Frame::Busy {
            flow: linked::flow(self.entity(), key),
            sequence: key.sequence,
            retry_after_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        };
        Answer {
            arrived: Arc::clone(arrived),
            frame,
        }
    }

    /// Has those events tried again that nobody waits for and that a failed commit has not kept. Called when the daemon
    /// was brought back to where it was before them.
    pub(crate) fn restall(&self) {
        let mut cell = self.cell.lock();
        let Some(mailbox) = &mut cell.mailbox else { return };
        let now = Instant::now();
        let mut kept = Vec::new();
        for (commit, mail) in std::mem::take(&mut mailbox.unsettled).into_iter().rev() {
            if commit.outcome() == Some(Ok(())) {
                kept.push(mail);
                continue;
            }
            mailbox.events += 1;
            mailbox.bytes += mail.sent.bytes;
            let key = (mail.sent.key.origin, mail.sent.key.stream);
            let stalled = mailbox.stalled.entry(key).or_insert_with(|| Stalled {
                due: now,
                mail: VecDeque::new(),
            });
            stalled.due = now;
            stalled.mail.push_front(mail);
        }
        drop(cell);
        // User objects end outside the lock.
        drop(kept);
    }

    /// Looks after what a failed commit has not kept, though nothing else is to be done.
    fn revisit(self: &Arc<Self>, at: Instant) {
        let mut cell = self.cell.lock();
        if let Some(mailbox) = &mut cell.mailbox {
            mailbox.revisit = Some(at);
        }
        // Whoever is inside schedules it when they leave, or when it is started again.
        if !matches!(cell.gate, Gate::Busy | Gate::Down | Gate::Stopping) {
            self.schedule(&mut cell);
        }
    }

    fn end_revisit(&self) {
        if let Some(mailbox) = &mut self.cell.lock().mailbox {
            mailbox.revisit = None;
        }
    }

    /// Takes those out that nobody waits for and that a failed commit has not kept.
    fn not_kept(&self) -> Vec<Mail<D>> {
        let mut cell = self.cell.lock();
        let Some(mailbox) = &mut cell.mailbox else {
            return Vec::new();
        };
        mailbox.revisit = None;
        let (lost, rest): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut mailbox.unsettled)
            .into_iter()
            .partition(Self::is_lost);
        mailbox.unsettled = rest;
        lost.into_iter().map(|(_, mail)| mail).collect()
    }

    fn is_lost((commit, _): &(Arc<Commit>, Mail<D>)) -> bool {
        matches!(commit.outcome(), Some(Err(_)))
    }

    /// Keeps those until `commit` is kept, and lets those go that an earlier one has.
    fn unsettle(self: &Arc<Self>, commit: &Arc<Commit>, unattended: Vec<Mail<D>>) {
        if unattended.is_empty() {
            return;
        }
        let mut cell = self.cell.lock();
        let Some(mailbox) = &mut cell.mailbox else { return };
        let kept = |(commit, _): &(Arc<Commit>, Mail<D>)| commit.outcome() == Some(Ok(()));
        let settled = mailbox.unsettled.iter().take_while(|unsettled| kept(unsettled)).count();
        let settled: Vec<_> = mailbox.unsettled.drain(..settled).collect();
        mailbox
            .unsettled
            .extend(unattended.into_iter().map(|mail| (Arc::clone(commit), mail)));
        drop(cell);
        // User objects end outside the lock.
        drop(settled);
        let slot = Arc::downgrade(self);
        commit.then(Box::new(move |outcome| {
            if outcome.is_err()
                && let Some(slot) = slot.upgrade()
            {
                slot.revisit(Instant::now());
            }
        }));
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
        let not_kept = self.not_kept();
        not_kept.iter().for_each(|mail| mail.sent.is_lost());
        let (mut replies, mut unheard) = (Vec::new(), not_kept.len() as u64);
        let mut answers = Vec::new();
        while let Some(mail) = self.any_mail() {
            unheard += u64::from(mail.sent.is_posted());
            mail.sent.is_lost();
            match mail.sent.party {
                Party::Channel(_) => {}
                Party::Caller(reply) => replies.push((reply, mail.sent.key, Err(error()))),
                Party::Link { arrived, .. } => {
                    let (key, is_lost) = (mail.sent.key, matches!(error(), DeliverError::Failed(_)));
                    answers.push(if is_lost {
                        self.busy(&arrived, &key, attempts::WAIT_MAX)
                    } else {
                        // It may be started again, here or elsewhere.
                        let (flow, sequence) = (linked::flow(self.entity(), &key), key.sequence);
                        let frame = Frame::NotHere { flow, sequence };
                        Answer { arrived, frame }
                    });
                }
            }
        }
        linked::answer(&answers);
        self.count_unheard(unheard);
        if !replies.is_empty() {
            D::settle(replies);
        }
    }

    fn count_unheard(&self, events: u64) {
        if let Some(registry) = self.events() {
            registry.count_unheard(events);
        }
    }

    /// `false`: somebody is inside, and a control waits that must not wait behind others.
    fn turn(self: &Arc<Self>) -> bool {
        match self.try_enter() {
            Ok(entered) => {
                self.batch(entered);
                return true;
            }
            Err(EnterError::Failed(reason)) => self.refuse_all(|| DeliverError::Failed(Arc::clone(&reason))),
            Err(EnterError::Stale) => self.refuse_all(|| self.gone()),
            Err(_) if self.has_controls() => return false,
            Err(_) => {}
        }
        self.end_turn();
        true
    }

    fn turn_for_controls(self: &Arc<Self>) {
        match self.enter_with_controls() {
            Ok(entered) => D::batch(|| self.batch(entered)),
            Err(_) => self.end_turn(),
        }
    }

    /// Works on what waits until the batch is full, user code goes elsewhere, or nothing is left.
    fn batch(self: &Arc<Self>, mut entered: Entered<D>) {
        let started = Instant::now();
        let mut told = Told::default();
        let present = self.give_controls(&mut entered);
        if present && entered.is_open() {
            self.end_revisit();
        }
        let mut taken = 0;
        while present
            && taken < BATCH_MAX
            && entered.is_open()
            && !matches!(self.gate(), Gate::Stopping)
            && (taken == 0 || started.elapsed() < BATCH_TIME)
        {
            if entered.journal.as_ref().is_some_and(|journal| journal.lost().is_some()) {
                if !told.is_empty() {
                    // What is in hand is not kept either, and has to be known as such before it is brought back.
                    break;
                }
                // If it does not come back, who waits for it is told so; if it must wait, it is tried later.
                if let Some(DeliverError::NotKept(_)) = deliver::ready(&mut entered)
                    && let Some(journal) = &entered.journal
                {
                    self.revisit(journal.back_at());
                }
                if !entered.is_open() {
                    break;
                }
            }
            let Some(Mail { letter, sent }) = self.next_mail() else {
                break;
            };
            if sent.is_abandoned() {
                continue;
            }
            taken += 1;
            if sent.group.as_ref().is_some_and(|failed| failed.load(Ordering::Relaxed)) {
                if let Party::Caller(reply) = sent.party {
                    told.replies.push((reply, sent.key, Err(DeliverError::Skipped)));
                }
                continue;
            }
            let Some((event, begun)) = self.begin(&mut entered, letter, &sent, &mut told) else {
                continue;
            };
            match begun {
                Begun::Done(outcome) => self.done(&mut entered, event, sent, outcome, &mut told),
                Begun::Later(key, later) => {
                    self.settle(&mut entered, told);
                    let daemon = Arc::clone(&entered.daemon);
                    if self.is_supervised() {
                        entered.park();
                    }
                    let call = Call {
                        entered,
                        event,
                        key,
                        sent,
                    };
                    daemon.on_done(later, Box::new(move |outputs| call.resume(outputs)));
                    return;
                }
            }
        }
        let held = self.hold(&mut entered, told);
        drop(entered);
        held.tell();
        self.end_turn();
    }

    /// Decides about an event, and calls `process` if it is new. `None`: nothing more is to be done with it.
    fn begin(
        &self,
        entered: &mut Entered<D>,
        letter: Written<D>,
        sent: &Sent<D>,
        told: &mut Told<D>,
    ) -> Option<(D::Event, Begun<D>)> {
        let key = sent.key;
        let link = CausalLink {
            origin: key.origin,
            horizon: 0,
            sequence: key.sequence,
            parent: 0,
        };
        let Party::Link { arrived, prev } = &sent.party else {
            let event = match letter {
                Written::Event(event) => event,
                Written::Draft(draft) => D::numbered(draft, key),
                Written::Channel(payload, received_ns, source) => {
                    entered.note_source(key.stream, &source);
                    D::arrived(link, &payload, received_ns, &source)
                }
                Written::Linked(_) => return None,
            };
            let begun = match &sent.party {
                Party::Channel(_) => deliver::begin_channel(entered, &event, key),
                _ => deliver::begin_after(entered, &event, sent.want),
            };
            return Some((event, begun));
        };
        let event = || match letter {
            Written::Event(event) => event,
            Written::Draft(draft) => D::numbered(draft, key),
            Written::Channel(payload, received_ns, source) => D::arrived(link, &payload, received_ns, &source),
            Written::Linked(payload) => D::received(link, arrived.payload(&payload), arrived.received_ns),
        };
        match deliver::begin_linked(entered, key, *prev, event) {
            Linked::Begun(event, begun) => Some((event, begun)),
            Linked::Decided(admission) => {
                let flow = linked::flow(self.entity(), &key);
                if let Some(frame) = admission.answer(flow, key.sequence, entered.host.epoch()) {
                    let arrived = Arc::clone(arrived);
                    told.answers.push(Answer { arrived, frame });
                }
                None
            }
        }
    }

    /// Notes what came of an event.
    fn done(&self, entered: &mut Entered<D>, event: D::Event, sent: Sent<D>, outcome: Settled<D>, told: &mut Told<D>) {
        if !sent.is_retried() {
            told.replies.extend(answer(sent, outcome));
            return;
        }
        match (outcome, sent) {
            (Err(error), sent) => {
                let is_posted = sent.is_posted();
                let heard = match &sent.party {
                    Party::Channel(heard) => Some((Arc::clone(heard), sent.key.sequence)),
                    _ => None,
                };
                if !self.failed(entered, event, sent, error, told) && is_posted {
                    self.count_unheard(1);
                    if let Some((heard, number)) = heard {
                        heard.lost(number);
                    }
                }
            }
            (
                Ok(delivered),
                Sent {
                    key,
                    party: Party::Link { arrived, .. },
                    ..
                },
            ) => {
                if let Some(receipt) = delivered.receipt {
                    let frame = Frame::Ack {
                        flow: linked::flow(self.entity(), &key),
                        receipt,
                        duplicate: delivered.duplicate,
                    };
                    told.answers.push(Answer { arrived, frame });
                }
            }
            (Ok(_), sent) => {
                let letter = Written::Event(event);
                told.unattended.push(Mail { letter, sent });
            }
        }
    }

    fn settle(self: &Arc<Self>, entered: &mut Entered<D>, told: Told<D>) {
        self.hold(entered, told).tell();
    }

    /// Has those who wait answered once what was done is kept; gives the answers back that need not wait for that.
    fn hold(self: &Arc<Self>, entered: &mut Entered<D>, told: Told<D>) -> Told<D> {
        let Told {
            replies,
            unattended,
            answers,
        } = told;
        let lease = self.lease();
        let commit = deliver::submit(entered);
        // What a forced stop has is not known to be kept.
        if commit.is_some() || entered.is_present() || self.config().durability != Durability::Journal {
            hear(&unattended, commit.as_deref());
        }
        let Some(commit) = commit else {
            // A forced stop has what was done: whoever tries again is told what became of it.
            let is_unknown = !entered.is_present() && self.config().durability == Durability::Journal;
            let is_silent = is_unknown || !is_leased(lease.as_deref());
            return Told {
                replies: if is_unknown {
                    unless_kept(replies, Err(StoreError::Closed))
                } else {
                    unless_unleased(replies, lease.as_deref())
                },
                answers: if is_silent { Vec::new() } else { answers },
                unattended: Vec::new(),
            };
        };
        self.unsettle(&commit, unattended);
        if !answers.is_empty() {
            let lease = lease.clone();
            commit.then(Box::new(move |outcome| {
                // Who is not answered tries again.
                if outcome.is_ok() && is_leased(lease.as_deref()) {
                    linked::answer(&answers);
                }
            }));
        }
        if !replies.is_empty() {
            let lanes = self.cell.lock().mailbox.as_ref().map(|mailbox| mailbox.lanes.clone());
            commit.then(Box::new(move |outcome| {
                let replies = unless_kept(replies, outcome);
                if let Some(lanes) = lanes {
                    lanes.submit(Arc::new(Settling::<D>(Mutex::new(replies), lease)));
                }
            }));
        }
        Told::default()
    }
}

/// Tells channels of their events that took effect, when it is kept.
fn hear<D: Daemon>(unattended: &[Mail<D>], commit: Option<&Commit>) {
    let mut heard: Vec<(Arc<dyn Heard>, u64)> = Vec::new();
    for mail in unattended {
        if let Party::Channel(channel) = &mail.sent.party {
            heard.push((Arc::clone(channel), mail.sent.key.sequence));
        }
    }
    if heard.is_empty() {
        return;
    }
    let tell = move |outcome: Result<(), StoreError>| {
        // What is not kept is tried again.
        if outcome.is_ok() {
            heard.iter().for_each(|(channel, number)| channel.taken(*number));
        }
    };
    match commit {
        Some(commit) => commit.then(Box::new(tell)),
        None => tell(Ok(())),
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

/// Answers, of which none says that something took effect while this node may not say so.
fn unless_unleased<D: Daemon>(replies: Replies<D>, lease: Option<&Lease>) -> Replies<D> {
    let Some(Err(unleased)) = lease.map(Lease::check) else {
        return replies;
    };
    let not_said = |(reply, key, outcome): (D::Reply, EventKey, Settled<D>)| {
        (reply, key, outcome.and(Err(DeliverError::Unleased(unleased))))
    };
    replies.into_iter().map(not_said).collect()
}

fn is_leased(lease: Option<&Lease>) -> bool {
    lease.is_none_or(|lease| lease.check().is_ok())
}

/// Answers that a lane gives, if the lease is valid then.
struct Settling<D: Daemon>(Mutex<Replies<D>>, Option<Arc<Lease>>);

impl<D: Daemon> Job for Settling<D> {
    fn run(self: Arc<Self>) {
        let replies = std::mem::take(&mut *self.0.lock());
        let replies = unless_unleased(replies, self.1.as_deref());
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

/// Looks at what is stalled when something of it is due.
struct Alarm<D: Daemon>(Arc<Slot<D>>, Instant);

impl<D: Daemon> Job for Alarm<D> {
    fn run(self: Arc<Self>) {
        let mut cell = self.0.cell.lock();
        if let Some(mailbox) = &mut cell.mailbox {
            mailbox.alarms.retain(|at| *at != self.1);
        }
        // Whoever is inside schedules it when they leave.
        if cell.gate != Gate::Busy {
            self.0.schedule(&mut cell);
        }
    }
}

fn answer<D: Daemon>(sent: Sent<D>, outcome: Settled<D>) -> Option<(D::Reply, EventKey, Settled<D>)> {
    if outcome.is_err()
        && let Some(failed) = &sent.group
    {
        failed.store(true, Ordering::Relaxed);
    }
    match sent.party {
        Party::Caller(reply) => Some((reply, sent.key, outcome)),
        Party::Link { .. } | Party::Channel(_) => None,
    }
}

/// A mailed event whose coroutine runs.
struct Call<D: Daemon> {
    entered: Entered<D>,
    event: D::Event,
    key: EventKey,
    sent: Sent<D>,
}

impl<D: Daemon> Call<D> {
    fn resume(mut self, outputs: Outputs<D>) {
        if !self.entered.unpark() {
            return self.end(Err(DeliverError::Stale));
        }
        if outputs.is_err() && deliver::rebuilds(&self.entered) || deliver::keeps_every(&self.entered) {
            // The state is rebuilt by waiting for coroutines, or kept by waiting for the disk, which this thread, their
            // loop's, must not do.
            let slot = Arc::clone(self.entered.slot());
            let lanes = slot.cell.lock().mailbox.as_ref().map(|mailbox| mailbox.lanes.clone());
            let resumption = Arc::new(Resumption(Mutex::new(Some((self, outputs)))));
            if let Some(lanes) = lanes {
                lanes.submit(resumption);
            }
            return;
        }
        let outcome = deliver::finish(&mut self.entered, &self.event, self.key, self.sent.want, outputs);
        self.end(outcome);
    }

    fn end(mut self, outcome: Settled<D>) {
        let slot = Arc::clone(self.entered.slot());
        let mut told = Told::default();
        slot.done(&mut self.entered, self.event, self.sent, outcome, &mut told);
        let held = slot.hold(&mut self.entered, told);
        drop(self.entered);
        held.tell();
        slot.end_turn();
    }
}

struct Resumption<D: Daemon>(Mutex<Option<(Call<D>, Outputs<D>)>>);

impl<D: Daemon> Job for Resumption<D> {
    fn run(self: Arc<Self>) {
        let taken = self.0.lock().take();
        if let Some((mut call, outputs)) = taken {
            D::batch(|| {
                let outcome = deliver::finish(&mut call.entered, &call.event, call.key, call.sent.want, outputs);
                call.end(outcome);
            });
        }
    }
}
