//! Events that nobody of this process waits for, and that failed or were not kept: tried again, or passed over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshos_core::attempts::{self, Next};
use meshos_core::gate::Gate;
use meshos_core::stream::Frame;

use super::Stalled;
use super::mail::{Mail, Party, Sent, Written};
use super::told::Told;
use crate::daemon::{Daemon, DeliverError};
use crate::journal::Commit;
use crate::lease::Unleased;
use crate::letters;
use crate::linked::{self, Answer};
use crate::slot::{Entered, Slot};

/// When who sent a linked event tries it again that could not be kept.
const LINK_PAUSE: Duration = Duration::from_millis(200);

impl<D: Daemon> Slot<D> {
    /// Has an event tried again that failed while nobody waits for it, or passes it over; `false`: neither can be done.
    /// What was passed over is not told of until that is kept.
    pub(super) fn failed(
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
    pub(super) fn revisit(self: &Arc<Self>, at: Instant) {
        let mut cell = self.cell.lock();
        if let Some(mailbox) = &mut cell.mailbox {
            mailbox.revisit = Some(at);
        }
        // Whoever is inside schedules it when they leave, or when it is started again.
        if !matches!(cell.gate, Gate::Busy | Gate::Down | Gate::Stopping) {
            self.schedule(&mut cell);
        }
    }

    pub(super) fn end_revisit(&self) {
        if let Some(mailbox) = &mut self.cell.lock().mailbox {
            mailbox.revisit = None;
        }
    }

    /// Takes those out that nobody waits for and that a failed commit has not kept.
    pub(super) fn not_kept(&self) -> Vec<Mail<D>> {
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

    pub(super) fn is_lost((commit, _): &(Arc<Commit>, Mail<D>)) -> bool {
        matches!(commit.outcome(), Some(Err(_)))
    }

    /// Keeps those until `commit` is kept, and lets those go that an earlier one has.
    pub(super) fn unsettle(self: &Arc<Self>, commit: &Arc<Commit>, unattended: Vec<Mail<D>>) {
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
}
