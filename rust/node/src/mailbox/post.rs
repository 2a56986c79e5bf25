//! What goes into a mailbox: events of callers, of linked streams and of channels, and controls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use meshos_core::control::DaemonControl;
use meshos_core::gate::{self, Gate, Refusal, Signal};
use meshos_core::id::Origin;
use meshos_core::ingress::{DIRECT, EventKey};
use meshos_core::source::Source;

use super::Mailbox;
use super::mail::{Heard, Mail, Party, Sent, Written};
use crate::clock;
use crate::daemon::Daemon;
use crate::deliver::Want;
use crate::lane::Lanes;
use crate::linked::{Arrived, Incoming, Mailed};
use crate::slot::{Cell, Slot};

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

impl<D: Daemon> Cell<D> {
    /// Whether nothing is mailed to it any more.
    pub(super) fn is_shut(&self) -> bool {
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
        if !mailbox.has_room(bytes) {
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
        mailbox.push(Mail { letter, sent });
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
            if !mailbox.has_room(event.payload.len() as u64) {
                told(event, Mailed::Full);
                continue;
            }
            if !mailbox.note(&event.key) {
                told(event, Mailed::Repeated);
                continue;
            }
            mailbox.push(Mail::linked(arrived, event));
            taken += 1;
            told(event, Mailed::Taken);
        }
        if taken > 0 && !matches!(cell.gate, Gate::Busy | Gate::Down) {
            // Where the lanes were stopped they wait until the daemon is stopped too.
            self.schedule(&mut cell);
        }
    }

    /// Mails an event of a channel. `heard` hears of it only if it is taken.
    pub fn post_channel(
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
        if !mailbox.has_room(bytes) {
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
        mailbox.push(Mail { letter, sent });
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
}
