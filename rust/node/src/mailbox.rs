//! The mailbox of a daemon: events and controls that wait for it without a thread of their own.
//!
//! Invariants
//! * First in, first out; numbers given by a sender are given in that order.
//! * Bounded in events and bytes; what does not fit is refused, never dropped.
//! * While user code waits to be started again the mail waits too.
//! * An event that nobody waits for is tried again when it fails, later each time, and passed over in the end. What its
//!   sender sent after it waits for that; what others sent does not.

mod frozen;
mod mail;
mod post;
mod retry;
mod told;
mod turn;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use meshos_core::control::DaemonControl;
use meshos_core::gate::Gate;
use meshos_core::id::Origin;
use meshos_core::ingress::EventKey;

use crate::controls::Controls;
use crate::daemon::Daemon;
use crate::journal::Commit;
use crate::lane::Lanes;
use crate::slot::Slot;

pub use frozen::Onward;
pub use mail::Heard;
use mail::{Mail, Party};
pub use post::{Letter, PostError, Sender};

/// Events that may wait for one daemon.
pub const EVENTS_MAX: usize = 1_000_000;
/// Payload bytes that may wait for one daemon.
pub const BYTES_MAX: u64 = 64 << 20;
/// Linked streams whose place in a mailbox is kept though nothing of them waits.
const LINKS_KEPT: usize = 64;

/// What waits behind an event that failed, which is the first of it.
struct Stalled<D: Daemon> {
    due: Instant,
    mail: VecDeque<Mail<D>>,
}

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

    /// Whether one more event may wait, with a payload of so many bytes. One always fits: a payload above the bound must not
    /// wait for ever.
    fn has_room(&self, bytes: u64) -> bool {
        self.events < EVENTS_MAX && (self.events == 0 || self.bytes + bytes <= BYTES_MAX)
    }

    /// Puts an event behind all others.
    fn push(&mut self, mail: Mail<D>) {
        self.events += 1;
        self.bytes += mail.sent.bytes;
        self.queue.push_back(mail);
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

impl<D: Daemon> Slot<D> {
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
}
