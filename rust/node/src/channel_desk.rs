//! The subscriptions of the daemons of a runtime.
//!
//! Invariants
//! * A daemon has one subscription to a channel of a publisher; another one takes its place where it was, once it is
//!   accepted.
//! * A daemon that is placed goes on with what its ledger says, from where it had read.
//! * What a publisher ends is taken out of the ledger; what it refuses for a moment is asked for again.
//! * The subscriptions of a daemon that is gone end.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use meshos_core::bindings::SubscriptionBinding;
use meshos_core::channel_frame::{Gap, Reason};
use meshos_core::id::{EntityId, NodeId, Origin};
use meshos_core::name::ChannelName;

use crate::channel_line::Line;
use crate::channel_reader::{Item, Sink, Subscriber, Wanted};
use crate::channel_stream::{Answer, NotSubscribed};
use crate::channels::Channels;
use crate::clock::Deadline;
use crate::daemon::Daemon;
use crate::lane::{Job, Lanes};
use crate::outgoing::{Closed, Exits, Publish};
use crate::slot::Slot;
use crate::sync::Mutex;

/// How long until something is asked for again that is not there, or was refused for a moment.
const PAUSE: Duration = Duration::from_millis(250);

type Key = (Origin, NodeId, ChannelName);

struct Entry<D: Daemon> {
    slot: Weak<Slot<D>>,
    line: Arc<Line<D>>,
    subscription: u64,
}

struct Inner<D: Daemon> {
    channels: Channels,
    lanes: Lanes,
    entries: Mutex<BTreeMap<Key, Entry<D>>>,
}

/// The subscriptions of the daemons of one runtime; a clone is the same.
pub struct Desk<D: Daemon> {
    inner: Arc<Inner<D>>,
}

impl<D: Daemon> Clone for Desk<D> {
    fn clone(&self) -> Self {
        let inner = Arc::clone(&self.inner);
        Self { inner }
    }
}

/// One question to a publisher, and what becomes of the subscription.
struct Door<D: Daemon> {
    key: Key,
    line: Arc<Line<D>>,
    desk: Weak<Inner<D>>,
    answer: Answer,
    number: OnceLock<u64>,
}

impl<D: Daemon> Sink for Door<D> {
    fn has_room(&self) -> bool {
        self.line.has_room()
    }

    fn event(&self, log: u64, number: u64, item: Item) {
        self.line.event(log, number, &item);
    }

    fn gap(&self, _log: u64, _gap: Gap) {}

    fn restart(&self, _log: u64, _next: u64) {}

    fn reading(&self) {
        self.answer.tell(Ok(()));
    }

    fn ended(&self, reason: Option<Reason>) {
        self.answer.tell(Err(reason));
        let (Some(reason), Some(desk), Some(number)) = (reason, self.desk.upgrade(), self.number.get()) else {
            return;
        };
        let is_present = {
            let entries = desk.entries.lock();
            entries
                .get(&self.key)
                .is_some_and(|entry| entry.subscription == *number)
        };
        if is_present {
            let ending = Ending {
                desk: Arc::clone(&desk),
                key: self.key.clone(),
                subscription: *number,
                reason,
            };
            desk.lanes.submit(Arc::new(ending));
        }
    }
}

impl<D: Daemon> Desk<D> {
    /// The subscriptions of a runtime's daemons to come. What they emit for channels is published from now on.
    #[must_use]
    pub fn new(channels: Channels, lanes: Lanes, exits: &Exits) -> Self {
        let inner = Arc::new(Inner {
            channels,
            lanes,
            entries: Mutex::default(),
        });
        exits.publish_with(Arc::new(inner.channels.clone()));
        let closed: Weak<Inner<D>> = Arc::downgrade(&inner);
        exits.tell_of_closed(closed);
        Self { inner }
    }

    /// The channels of the node.
    #[must_use]
    pub fn channels(&self) -> &Channels {
        &self.inner.channels
    }

    /// Subscribes a daemon, and waits until the publisher accepted. No lock is held while `is_interrupted` is asked.
    ///
    /// # Errors
    /// [`NotSubscribed`]: everything is as it was.
    pub fn subscribe(
        &self,
        slot: &Arc<Slot<D>>,
        publisher: EntityId,
        binding: &SubscriptionBinding,
        deadline: Deadline,
        is_interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<(), NotSubscribed> {
        let key = (slot.origin(), binding.publisher, binding.channel.clone());
        let before = {
            let entries = self.inner.entries.lock();
            let entry = entries
                .get(&key)
                .filter(|entry| entry.slot.as_ptr() == Arc::as_ptr(slot));
            entry.map(|entry| (entry.subscription, Arc::clone(&entry.line)))
        };
        let after = before
            .as_ref()
            .and_then(|(subscription, _)| self.inner.channels.cursor(*subscription));
        // What the mailbox did not take of the one before goes before what the new one brings.
        let line = before.as_ref().map(|(_, line)| Arc::clone(line));
        let line = line.filter(|line| line.is_member() == binding.group.is_some());
        let door = self.inner.ask(slot, publisher, binding, after, line)?;
        let number = *door.number.get().expect("it was just set");
        if let Err(error) = door.answer.wait(deadline, is_interrupted) {
            self.inner.channels.unsubscribe(number);
            return Err(error);
        }
        self.inner.put(slot, &door, number);
        if let Some((subscription, _)) = before {
            self.inner.channels.unsubscribe(subscription);
        }
        Ok(())
    }

    /// Ends a subscription; does nothing if there is none.
    pub fn unsubscribe(&self, daemon: Origin, publisher: NodeId, channel: &ChannelName) {
        let key = (daemon, publisher, channel.clone());
        let entry = self.inner.entries.lock().remove(&key);
        if let Some(entry) = entry {
            self.inner.channels.unsubscribe(entry.subscription);
        }
    }

    /// What the ledger of a daemon says that is about to be placed, and how far it had read. Nobody is inside.
    #[must_use]
    pub fn of(&self, slot: &Arc<Slot<D>>) -> Subscriptions<D> {
        let resuming = |binding: &SubscriptionBinding| {
            let after = slot.peek(|inside| inside.read_up_to(binding.publisher, &binding.channel));
            Arc::new(Resuming {
                desk: Arc::clone(&self.inner),
                slot: Arc::downgrade(slot),
                binding: binding.clone(),
                after: after.flatten(),
            })
        };
        Subscriptions(slot.bindings().iter().map(resuming).collect())
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.entries.lock().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<D: Daemon> Inner<D> {
    fn ask(
        self: &Arc<Self>,
        slot: &Arc<Slot<D>>,
        publisher: EntityId,
        binding: &SubscriptionBinding,
        after: Option<(u64, u64)>,
        line: Option<Arc<Line<D>>>,
    ) -> Result<Arc<Door<D>>, NotSubscribed> {
        let is_member = binding.group.is_some();
        let line = line.unwrap_or_else(|| {
            Line::new(
                slot,
                publisher,
                &binding.channel,
                is_member,
                &self.channels,
                &self.lanes,
            )
        });
        let door = Arc::new(Door {
            key: (slot.origin(), binding.publisher, binding.channel.clone()),
            line,
            desk: Arc::downgrade(self),
            answer: Answer::default(),
            number: OnceLock::new(),
        });
        let wanted = Wanted {
            publisher,
            channel: binding.channel.clone(),
            subscriber: Subscriber::Daemon(slot.entity(), Arc::clone(slot.key())),
            epoch: slot.view().epoch,
            after,
            group: binding.group.clone(),
            token: binding.token.clone().unwrap_or_default(),
        };
        let number = self
            .channels
            .subscribe(wanted, door.clone())
            .map_err(NotSubscribed::Refused)?;
        let _ = door.number.set(number);
        Ok(door)
    }

    fn put(&self, slot: &Arc<Slot<D>>, door: &Arc<Door<D>>, subscription: u64) {
        door.line.brought_by(subscription);
        let entry = Entry {
            slot: Arc::downgrade(slot),
            line: Arc::clone(&door.line),
            subscription,
        };
        let before = self.entries.lock().insert(door.key.clone(), entry);
        drop(before);
    }
}

impl<D: Daemon> Closed for Inner<D> {
    fn closed(&self, daemon: Origin, slot: usize) {
        let mut entries = self.entries.lock();
        let of_it = entries
            .iter()
            .filter(|((of, ..), entry)| *of == daemon && entry.slot.as_ptr() as usize == slot);
        let of_it: Vec<Key> = of_it.map(|(key, _)| key.clone()).collect();
        let gone: Vec<Entry<D>> = of_it.iter().filter_map(|key| entries.remove(key)).collect();
        drop(entries);
        gone.iter()
            .for_each(|entry| self.channels.unsubscribe(entry.subscription));
    }
}

impl Publish for Channels {
    fn publish(&self, emitter: &EntityId, channel: &ChannelName, payload: &[u8]) {
        if self.publish_emitted(channel, *emitter, Arc::from(payload)).is_err() {
            self.count_unpublished();
        }
    }
}

/// What a daemon goes on reading once it is placed.
pub struct Subscriptions<D: Daemon>(Vec<Arc<Resuming<D>>>);

impl<D: Daemon> Subscriptions<D> {
    /// Has it go on with each, from where it had read.
    pub fn resume(self) {
        self.0.into_iter().for_each(Resuming::begin);
    }
}

/// A subscription that the ledger of a daemon says it has.
struct Resuming<D: Daemon> {
    desk: Arc<Inner<D>>,
    slot: Weak<Slot<D>>,
    binding: SubscriptionBinding,
    after: Option<(u64, u64)>,
}

impl<D: Daemon> Resuming<D> {
    fn begin(self: Arc<Self>) {
        let Some(slot) = self.slot.upgrade() else { return };
        if self.desk.channels.is_closed() {
            return;
        }
        let Some(publisher) = self.desk.channels.node(self.binding.publisher) else {
            // It was not heard of yet.
            let lanes = self.desk.lanes.clone();
            lanes.submit_at(Instant::now() + PAUSE, self);
            return;
        };
        if let Ok(door) = self.desk.ask(&slot, publisher, &self.binding, self.after, None)
            && let Some(number) = door.number.get()
        {
            self.desk.put(&slot, &door, *number);
            // The publisher may have answered before that.
            if let Some(reason) = door.answer.refusal() {
                let ending = Ending {
                    desk: Arc::clone(&self.desk),
                    key: door.key.clone(),
                    subscription: *number,
                    reason,
                };
                self.desk.lanes.submit(Arc::new(ending));
            }
        }
    }
}

impl<D: Daemon> Job for Resuming<D> {
    fn run(self: Arc<Self>) {
        // Who took it back meanwhile, or asked anew, is not overruled.
        let Some(slot) = self.slot.upgrade() else { return };
        let key = (slot.origin(), self.binding.publisher, self.binding.channel.clone());
        let is_wanted = slot.bindings().iter().any(|binding| *binding == self.binding);
        if is_wanted && !self.desk.entries.lock().contains_key(&key) {
            self.begin();
        }
    }
}

/// A subscription that its publisher ended.
struct Ending<D: Daemon> {
    desk: Arc<Inner<D>>,
    key: Key,
    subscription: u64,
    reason: Reason,
}

impl<D: Daemon> Job for Ending<D> {
    fn run(self: Arc<Self>) {
        let entry = {
            let mut entries = self.desk.entries.lock();
            match entries.get(&self.key) {
                Some(entry) if entry.subscription == self.subscription => entries.remove(&self.key),
                _ => None,
            }
        };
        let Some(slot) = entry.and_then(|entry| entry.slot.upgrade()) else {
            return;
        };
        let (_, publisher, channel) = &self.key;
        match self.reason {
            Reason::Unauthorized | Reason::Closed => {
                let Ok(mut entered) = slot.enter(Deadline::never(), &mut || slot.is_forced()) else {
                    return;
                };
                entered.host.bindings_mut().forget(*publisher, channel);
                entered.keep_ledger();
                slot.publish(entered.host.bindings());
                D::batch(|| {
                    crate::deliver::submit(&mut entered);
                    drop(entered);
                });
            }
            Reason::RateLimited | Reason::TooMany => {
                let bindings = slot.bindings();
                let binding = bindings
                    .iter()
                    .find(|binding| binding.publisher == *publisher && binding.channel == *channel);
                let Some(binding) = binding.cloned() else { return };
                let after = slot.peek(|inside| inside.read_up_to(*publisher, channel)).flatten();
                let resuming = Resuming {
                    desk: Arc::clone(&self.desk),
                    slot: Arc::downgrade(&slot),
                    binding,
                    after,
                };
                self.desk.lanes.submit_at(Instant::now() + PAUSE, Arc::new(resuming));
            }
        }
    }
}
