//! What comes of a batch, and telling it to those who wait: when it is kept, and while the lease is valid.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meshos_core::attempts;
use meshos_core::config::Durability;
use meshos_core::ingress::EventKey;
use meshos_core::store::StoreError;
use meshos_core::stream::Frame;

use super::mail::{Heard, Mail, Party, Sent, Written};
use crate::daemon::{Daemon, DeliverError, Settled};
use crate::deliver;
use crate::journal::Commit;
use crate::lane::Job;
use crate::lease::Lease;
use crate::linked::{self, Answer, Arrived};
use crate::slot::{Entered, Slot};
use crate::sync::Mutex;

/// What comes of a batch, until it may be told.
pub(super) struct Told<D: Daemon> {
    /// Those who wait.
    pub(super) replies: Replies<D>,
    /// Events that nobody waits for.
    pub(super) unattended: Vec<Mail<D>>,
    /// Answers to linked events.
    pub(super) answers: Vec<Answer>,
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
    pub(super) fn is_empty(&self) -> bool {
        self.replies.is_empty() && self.unattended.is_empty() && self.answers.is_empty()
    }

    /// Tells those who wait.
    pub(super) fn tell(self) {
        if !self.answers.is_empty() {
            linked::answer(&self.answers);
        }
        if !self.replies.is_empty() {
            D::settle(self.replies);
        }
    }
}

/// Replies of a batch, with the events they answer.
pub(super) type Replies<D> = Vec<(<D as Daemon>::Reply, EventKey, Settled<D>)>;

impl<D: Daemon> Slot<D> {
    /// Notes what came of an event.
    pub(super) fn done(
        &self,
        entered: &mut Entered<D>,
        event: D::Event,
        sent: Sent<D>,
        outcome: Settled<D>,
        told: &mut Told<D>,
    ) {
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

    pub(super) fn settle(self: &Arc<Self>, entered: &mut Entered<D>, told: Told<D>) {
        self.hold(entered, told).tell();
    }

    /// Has those who wait answered once what was done is kept; gives the answers back that need not wait for that.
    pub(super) fn hold(self: &Arc<Self>, entered: &mut Entered<D>, told: Told<D>) -> Told<D> {
        let Told {
            replies,
            unattended,
            answers,
        } = told;
        let lease = self.lease();
        let commit = deliver::submit(entered);
        // A forced stop has what was done, and sees to it that it is kept.
        let is_unknown = !entered.is_present() && self.config().durability == Durability::Journal;
        if is_unknown {
            self.hear_later(&unattended);
        } else {
            hear(&unattended, commit.as_deref());
        }
        let Some(commit) = commit else {
            // Whoever tries again is told what became of it.
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

    /// Tells of events that a forced stop has, once it is known whether they are kept. Nobody tries them again if not.
    fn hear_later(&self, unattended: &[Mail<D>]) {
        if unattended.is_empty() {
            return;
        }
        let (heard, events) = (of_channels(unattended), unattended.len() as u64);
        let registry = self.events().map(Arc::downgrade);
        self.left_behind().then(Box::new(move |outcome| {
            if outcome.is_ok() {
                return heard.iter().for_each(|(channel, number)| channel.taken(*number));
            }
            heard.iter().for_each(|(channel, number)| channel.lost(*number));
            if let Some(registry) = registry.and_then(|registry| registry.upgrade()) {
                registry.count_unheard(events);
            }
        }));
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

    /// Asks who sent an event to wait.
    pub(super) fn busy(&self, arrived: &Arc<Arrived>, key: &EventKey, wait: Duration) -> Answer {
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

    fn count_unheard(&self, events: u64) {
        if let Some(registry) = self.events() {
            registry.count_unheard(events);
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

/// The channels of events, and the numbers there.
fn of_channels<D: Daemon>(unattended: &[Mail<D>]) -> Vec<(Arc<dyn Heard>, u64)> {
    let of = |mail: &Mail<D>| match &mail.sent.party {
        Party::Channel(channel) => Some((Arc::clone(channel), mail.sent.key.sequence)),
        _ => None,
    };
    unattended.iter().filter_map(of).collect()
}

/// Tells channels of their events that took effect, when it is kept.
fn hear<D: Daemon>(unattended: &[Mail<D>], commit: Option<&Commit>) {
    let heard = of_channels(unattended);
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
