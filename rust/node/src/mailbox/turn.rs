//! The turn of a lane at a mailbox: when it gets one, and what it does with what waits.
//!
//! Invariants
//! * A lane works on one mailbox at a time, in batches, and answers a batch at once.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use meshos_core::gate::Gate;
use meshos_core::ingress::EventKey;
use meshos_core::link::CausalLink;

use super::mail::{Mail, Party, Sent, Written};
use super::told::Told;
use crate::daemon::{Daemon, DeliverError, Outputs, Settled};
use crate::deliver::{self, Begun, Linked};
use crate::lane::Job;
use crate::linked::{self, Answer};
use crate::slot::{Cell, EnterError, Entered, Slot};
use crate::sync::Mutex;

/// Events of one batch.
const BATCH_MAX: usize = 256;
/// A batch ends after so long, so that those it answers do not wait for the rest.
const BATCH_TIME: Duration = Duration::from_millis(2);

impl<D: Daemon> Slot<D> {
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
