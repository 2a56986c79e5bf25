//! The mail of a daemon that is moved: linked events go to whoever freezes it, callers are sent on.
//!
//! Invariants
//! * Events of one sender keep their order, also those that were tried before and failed.
//! * No event is in two places: what is taken out here is not in the mailbox any more.
//! * Who is inside calls this, so that nobody else takes anything out meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use meshos_core::gate::Gate;
use meshos_core::ingress::EventKey;
use meshos_core::move_rows::Queued;

use super::Mailbox;
use super::mail::{Mail, Party, Sent, Written};
use crate::clock;
use crate::daemon::Daemon;
use crate::deliver::Want;
use crate::lane::Lanes;
use crate::linked::{self, Back, Waits};
use crate::slot::Slot;

/// An event of a caller of this process that goes to the node where its daemon is now.
pub struct Onward<D: Daemon> {
    /// Its origin and number.
    pub key: EventKey,
    /// Who waits.
    pub reply: D::Reply,
    /// Events of one group stop at the first that fails.
    pub group: Option<Arc<AtomicBool>>,
    letter: Written<D>,
}

impl<D: Daemon> Onward<D> {
    /// What is in it.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.letter {
            Written::Event(event) => D::parts(event).1,
            Written::Draft(draft) => D::drafted(draft),
            Written::Channel(payload, ..) => payload,
            Written::Linked(_) => &[],
        }
    }

    /// Whether one of its group failed before it.
    #[must_use]
    pub fn is_skipped(&self) -> bool {
        self.group.as_ref().is_some_and(|failed| failed.load(Ordering::Relaxed))
    }
}

impl<D: Daemon> Mailbox<D> {
    /// Takes out what `wants` names; of each sender in order.
    fn take_out(&mut self, wants: impl Fn(&Sent<D>) -> bool) -> VecDeque<Mail<D>> {
        let mut out = VecDeque::new();
        let split = |mail: &mut VecDeque<Mail<D>>, out: &mut VecDeque<Mail<D>>| {
            let (wanted, rest): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(mail).into_iter().partition(|mail| wants(&mail.sent));
            out.extend(wanted);
            *mail = rest;
        };
        for stalled in self.stalled.values_mut() {
            split(&mut stalled.mail, &mut out);
        }
        self.stalled.retain(|_, stalled| !stalled.mail.is_empty());
        split(&mut self.queue, &mut out);
        for mail in &out {
            self.took(mail);
        }
        out
    }
}

/// A linked event as it travels with its daemon.
fn queued<D: Daemon>(mail: &Mail<D>) -> Option<Queued> {
    let Party::Link { arrived, prev } = &mail.sent.party else {
        return None;
    };
    let payload = match &mail.letter {
        Written::Linked(payload) => arrived.payload(payload),
        Written::Event(event) => D::parts(event).1,
        Written::Draft(_) | Written::Channel(..) => return None,
    };
    let EventKey {
        origin,
        stream,
        sequence,
    } = mail.sent.key;
    Some(Queued {
        from: arrived.from(),
        origin,
        stream,
        sequence,
        prev: *prev,
        payload: payload.to_vec(),
    })
}

impl<D: Daemon> Slot<D> {
    /// Has linked events go to `waits` from now on, those that wait in the mailbox first.
    pub(crate) fn divert(&self, waits: &Arc<dyn Waits>) {
        loop {
            let mut cell = self.cell.lock();
            let linked = cell
                .mailbox
                .as_mut()
                .map(|mailbox| mailbox.take_out(|sent| matches!(sent.party, Party::Link { .. })));
            let linked = linked.unwrap_or_default();
            if linked.is_empty() {
                cell.waits = Some(Arc::clone(waits));
                return;
            }
            drop(cell);
            // Payloads are copied with nothing locked; what comes meanwhile is taken out next.
            linked.iter().filter_map(queued).for_each(|queued| waits.event(queued));
        }
    }

    /// Whether its linked events go elsewhere.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.cell.lock().waits.is_some()
    }

    /// Has linked events go into the mailbox again, and these before all others. Nothing is refused: they were promised a
    /// place.
    pub(crate) fn put_first(&self, lanes: &Lanes, queue: Vec<Queued>, back: &Arc<dyn Back>) {
        let waits = self.put(lanes, queue, back, true);
        // It may be the last that holds who waited.
        drop(waits);
    }

    /// Puts events behind all others that came late back from where they waited.
    pub(crate) fn put_last(&self, lanes: &Lanes, queue: Vec<Queued>, back: &Arc<dyn Back>) {
        self.put(lanes, queue, back, false);
    }

    fn put(&self, lanes: &Lanes, queue: Vec<Queued>, back: &Arc<dyn Back>, is_first: bool) -> Option<Arc<dyn Waits>> {
        let groups = linked::arrive(queue, clock::unix_us() * 1_000, back);
        let mut cell = self.cell.lock();
        let waits = if is_first { cell.waits.take() } else { None };
        if cell.is_shut() {
            drop(cell);
            return waits;
        }
        let mailbox = cell.mailbox.get_or_insert_with(|| Mailbox::on(lanes));
        let mut mails = VecDeque::new();
        for (arrived, events) in groups {
            for event in events {
                if !mailbox.note(&event.key) {
                    continue;
                }
                let mail = Mail::linked(&arrived, &event);
                mailbox.events += 1;
                mailbox.bytes += mail.sent.bytes;
                mails.push_back(mail);
            }
        }
        if is_first {
            mails.append(&mut mailbox.queue);
            mailbox.queue = mails;
        } else {
            mailbox.queue.append(&mut mails);
        }
        drop(cell);
        waits
    }

    /// Gives the mailbox to a lane, if something waits in it that may be worked on.
    pub(crate) fn work(self: &Arc<Self>) {
        let mut cell = self.cell.lock();
        if !matches!(cell.gate, Gate::Busy | Gate::Down) {
            self.schedule(&mut cell);
        }
    }

    /// Ends its mail, since it was handed to another node: nothing is mailed to it any more. Gives out what callers wait
    /// for, in order; those who wait for outputs stay, and are told that it is gone when it is closed.
    pub(crate) fn depart(&self) -> Vec<Onward<D>> {
        let mut cell = self.cell.lock();
        cell.is_moved = true;
        let waits = cell.waits.take();
        let callers = cell.mailbox.as_mut().map(|mailbox| {
            mailbox.take_out(|sent| matches!(sent.party, Party::Caller(_)) && sent.want == Want::Receipt)
        });
        drop(cell);
        drop(waits);
        callers.unwrap_or_default().into_iter().filter_map(onward).collect()
    }
}

fn onward<D: Daemon>(mail: Mail<D>) -> Option<Onward<D>> {
    let Mail { letter, sent } = mail;
    match sent.party {
        Party::Caller(reply) => Some(Onward {
            key: sent.key,
            reply,
            group: sent.group,
            letter,
        }),
        Party::Link { .. } | Party::Channel(_) => None,
    }
}
