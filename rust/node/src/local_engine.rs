//! An engine whose nodes are all in one process.
//!
//! It hands payloads over on the thread of who publishes, without a copy. Nothing is lost but what a receiver has no place
//! for, and nothing changes its order; nobody may rely on that.
//!
//! Invariants
//! * No lock is held while a receiver, a service, a watch or `answered` is called.
//! * A request is answered once: whoever takes it out of the table of open ones answers it.
//! * A publish looks up one topic, and costs what the receivers there cost.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use meshos_core::engine::{
    Answered, DECLARED_MAX, Declared, Engine, EngineError, EngineStats, PAYLOAD_BYTES_MAX, Payload, REQUESTS_MAX,
    Receive, RequestError, Responder, Serve, Topic, Watch,
};
use meshos_core::id::EntityId;

use crate::reactor::{Place, Reactor, Turn};
use crate::sync::{Mutex, RwLock};

/// Something declared on a topic: by whom, and what.
struct Entry<T: ?Sized> {
    number: u64,
    node: Arc<Local>,
    what: Arc<T>,
}

impl<T: ?Sized> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self {
            number: self.number,
            node: Arc::clone(&self.node),
            what: Arc::clone(&self.what),
        }
    }
}

/// Lists are replaced, never changed: who walks through one holds no lock.
type Entries<T> = Arc<Vec<Entry<T>>>;

#[derive(Default)]
struct State {
    made: u64,
    receivers: HashMap<Topic, Entries<dyn Receive>>,
    services: HashMap<Topic, Entries<dyn Serve>>,
    watches: Entries<dyn Watch>,
    nodes: BTreeMap<u64, Arc<Local>>,
}

/// Where the engines of some nodes meet; a clone is the same.
#[derive(Clone, Default)]
pub struct LocalNetwork {
    state: Arc<RwLock<State>>,
}

#[derive(Default)]
struct Open {
    made: u64,
    answered: HashMap<u64, (Instant, Answered)>,
    deadlines: BTreeMap<(Instant, u64), ()>,
}

/// One node, as the network knows it.
struct Local {
    number: u64,
    node: EntityId,
    closed: AtomicBool,
    declared: AtomicUsize,
    open: Mutex<Open>,
    place: OnceLock<Place>,
    published: AtomicU64,
    received: AtomicU64,
    refused: AtomicU64,
    requests: AtomicU64,
    unanswered: AtomicU64,
    served: AtomicU64,
}

/// The engine of one node.
pub struct LocalEngine {
    network: LocalNetwork,
    local: Arc<Local>,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn with<T: ?Sized>(entries: &Entries<T>, entry: Entry<T>) -> Entries<T> {
    let mut list = Vec::with_capacity(entries.len() + 1);
    list.extend(entries.iter().cloned());
    list.push(entry);
    Arc::new(list)
}

fn without<T: ?Sized>(entries: &Entries<T>, goes: impl Fn(&Entry<T>) -> bool) -> Entries<T> {
    Arc::new(entries.iter().filter(|entry| !goes(entry)).cloned().collect())
}

/// Takes entries of a topic out of a table; gives back what was there, to be dropped without the lock.
fn take_out<T: ?Sized>(
    table: &mut HashMap<Topic, Entries<T>>,
    topic: &Topic,
    goes: impl Fn(&Entry<T>) -> bool,
) -> Option<Entries<T>> {
    let entries = table.get_mut(topic)?;
    let rest = without(entries, goes);
    let before = std::mem::replace(entries, rest);
    if table[topic].is_empty() {
        table.remove(topic);
    }
    Some(before)
}

impl LocalNetwork {
    /// One without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a node in.
    #[must_use]
    pub fn join(&self, node: EntityId) -> LocalEngine {
        let (local, watches) = {
            let mut state = self.state.write();
            state.made += 1;
            let local = Arc::new(Local {
                number: state.made,
                node,
                closed: AtomicBool::new(false),
                declared: AtomicUsize::new(0),
                open: Mutex::default(),
                place: OnceLock::new(),
                published: AtomicU64::new(0),
                received: AtomicU64::new(0),
                refused: AtomicU64::new(0),
                requests: AtomicU64::new(0),
                unanswered: AtomicU64::new(0),
                served: AtomicU64::new(0),
            });
            state.nodes.insert(local.number, Arc::clone(&local));
            (local, Arc::clone(&state.watches))
        };
        watches.iter().for_each(|entry| entry.what.here(&node));
        let network = self.clone();
        LocalEngine { network, local }
    }

    fn next_number(&self) -> u64 {
        let mut state = self.state.write();
        state.made += 1;
        state.made
    }
}

impl Local {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn take(&self, request: u64) -> Option<Answered> {
        let mut open = self.open.lock();
        let (at, answered) = open.answered.remove(&request)?;
        open.deadlines.remove(&(at, request));
        Some(answered)
    }

    fn end(&self, request: u64, answer: Result<Payload, RequestError>) {
        if let Some(answered) = self.take(request) {
            if answer.is_err() {
                add(&self.unanswered);
            }
            answered(answer);
        }
    }
}

impl Turn for Local {
    fn turn(&self) -> Option<Instant> {
        loop {
            let (at, request) = *self.open.lock().deadlines.first_key_value()?.0;
            if at > Instant::now() {
                return Some(at);
            }
            self.end(request, Err(RequestError::Timeout));
        }
    }
}

impl LocalEngine {
    fn declare(&self) -> Result<u64, EngineError> {
        if self.local.is_closed() {
            return Err(EngineError::Closed);
        }
        if self.local.declared.fetch_add(1, Ordering::Relaxed) >= DECLARED_MAX {
            self.local.declared.fetch_sub(1, Ordering::Relaxed);
            return Err(EngineError::Crowded { max: DECLARED_MAX });
        }
        Ok(self.network.next_number())
    }

    fn declared(&self, end: impl FnOnce(&mut State) -> Box<dyn Send + Sync> + Send + Sync + 'static) -> Declared {
        let (network, local) = (self.network.clone(), Arc::clone(&self.local));
        Declared::new(move || {
            let gone = end(&mut network.state.write());
            drop(gone);
            local.declared.fetch_sub(1, Ordering::Relaxed);
        })
    }

    fn fits(&self, payload: &Payload) -> Result<(), EngineError> {
        if self.local.is_closed() {
            return Err(EngineError::Closed);
        }
        match payload.bytes().len() {
            size if size > PAYLOAD_BYTES_MAX => Err(EngineError::TooLarge {
                size,
                max: PAYLOAD_BYTES_MAX,
            }),
            _ => Ok(()),
        }
    }

    /// Keeps a request open until it is answered or its time is over; its number.
    fn open(&self, timeout: Duration, answered: Answered) -> Option<u64> {
        let at = Instant::now().checked_add(timeout);
        let at = at.unwrap_or_else(|| Instant::now() + Duration::from_secs(1 << 30));
        let mut open = self.local.open.lock();
        let refused = if self.local.is_closed() {
            Some(EngineError::Closed)
        } else if open.answered.len() >= REQUESTS_MAX {
            Some(EngineError::Crowded { max: REQUESTS_MAX })
        } else {
            None
        };
        if let Some(error) = refused {
            drop(open);
            add(&self.local.unanswered);
            answered(Err(error.into()));
            return None;
        }
        open.made += 1;
        let request = open.made;
        open.answered.insert(request, (at, answered));
        open.deadlines.insert((at, request), ());
        let first = open
            .deadlines
            .first_key_value()
            .is_some_and(|((_, first), ())| *first == request);
        drop(open);
        if first {
            let place = self.local.place.get_or_init(|| {
                let local: Weak<dyn Turn> = Arc::downgrade(&(Arc::clone(&self.local) as Arc<dyn Turn>));
                Reactor::of_process().place(local).0
            });
            place.wake();
        }
        Some(request)
    }
}

impl Engine for LocalEngine {
    fn node(&self) -> EntityId {
        self.local.node
    }

    fn publish(&self, topic: &Topic, payload: Payload) -> Result<(), EngineError> {
        self.fits(&payload)?;
        add(&self.local.published);
        let entries = self.network.state.read().receivers.get(topic).map(Arc::clone);
        for entry in entries.iter().flat_map(|entries| entries.iter()) {
            if entry.node.number == self.local.number || entry.node.is_closed() {
                continue;
            }
            let counter = if entry.what.receive(topic, &payload) {
                &entry.node.received
            } else {
                &entry.node.refused
            };
            add(counter);
        }
        Ok(())
    }

    fn subscribe(&self, topic: &Topic, receiver: Arc<dyn Receive>) -> Result<Declared, EngineError> {
        let number = self.declare()?;
        let entry = Entry {
            number,
            node: Arc::clone(&self.local),
            what: receiver,
        };
        let before = {
            let mut state = self.network.state.write();
            let entries = state.receivers.entry(topic.clone()).or_default();
            let list = with(entries, entry);
            std::mem::replace(entries, list)
        };
        drop(before);
        let topic = topic.clone();
        Ok(
            self.declared(move |state| {
                Box::new(take_out(&mut state.receivers, &topic, |entry| entry.number == number))
            }),
        )
    }

    fn request(&self, topic: &Topic, payload: Payload, timeout: Duration, answered: Answered) {
        add(&self.local.requests);
        if let Err(error) = self.fits(&payload) {
            add(&self.local.unanswered);
            return answered(Err(error.into()));
        }
        let Some(request) = self.open(timeout, answered) else {
            return;
        };
        let entries = self.network.state.read().services.get(topic).map(Arc::clone);
        let mut entries = entries.iter().flat_map(|entries| entries.iter());
        let server = entries.find(|entry| entry.node.number != self.local.number && !entry.node.is_closed());
        let Some(server) = server else {
            return self.local.end(request, Err(RequestError::Unavailable));
        };
        add(&server.node.served);
        let local = Arc::downgrade(&self.local);
        let responder = Responder::new(Box::new(move |answer| {
            if let Some(local) = local.upgrade() {
                local.end(request, answer);
            }
        }));
        server.what.serve(topic, &payload, responder);
    }

    fn serve(&self, topic: &Topic, service: Arc<dyn Serve>) -> Result<Declared, EngineError> {
        let number = self.declare()?;
        let entry = Entry {
            number,
            node: Arc::clone(&self.local),
            what: service,
        };
        let before = {
            let mut state = self.network.state.write();
            let entries = state.services.entry(topic.clone()).or_default();
            if entries.iter().any(|entry| entry.node.number == self.local.number) {
                Err(entry)
            } else {
                let list = with(entries, entry);
                Ok(std::mem::replace(entries, list))
            }
        };
        if before.is_err() {
            self.local.declared.fetch_sub(1, Ordering::Relaxed);
            return Err(EngineError::Crowded { max: 1 });
        }
        drop(before);
        let topic = topic.clone();
        Ok(self.declared(move |state| Box::new(take_out(&mut state.services, &topic, |entry| entry.number == number))))
    }

    fn watch(&self, watch: Arc<dyn Watch>) -> Result<Declared, EngineError> {
        let number = self.declare()?;
        let entry = Entry {
            number,
            node: Arc::clone(&self.local),
            what: Arc::clone(&watch),
        };
        let (here, before) = {
            let mut state = self.network.state.write();
            let here: Vec<_> = state.nodes.values().map(|local| (local.number, local.node)).collect();
            let list = with(&state.watches, entry);
            (here, std::mem::replace(&mut state.watches, list))
        };
        drop(before);
        let others = here.iter().filter(|(number, _)| *number != self.local.number);
        others.for_each(|(_, node)| watch.here(node));
        Ok(self.declared(move |state| {
            let rest = without(&state.watches, |entry| entry.number == number);
            Box::new(std::mem::replace(&mut state.watches, rest))
        }))
    }

    fn close(&self) {
        if self.local.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let watches = {
            let mut state = self.network.state.write();
            state.nodes.remove(&self.local.number);
            Arc::clone(&state.watches)
        };
        let open = std::mem::take(&mut *self.local.open.lock());
        for (_, (_, answered)) in open.answered {
            add(&self.local.unanswered);
            answered(Err(EngineError::Closed.into()));
        }
        let others = watches.iter().filter(|entry| entry.node.number != self.local.number);
        others.for_each(|entry| entry.what.left(&self.local.node));
    }

    fn stats(&self) -> EngineStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let local = &self.local;
        EngineStats {
            published: read(&local.published),
            received: read(&local.received),
            refused: read(&local.refused),
            requests: read(&local.requests),
            unanswered: read(&local.unanswered),
            served: read(&local.served),
        }
    }
}

impl Drop for LocalEngine {
    fn drop(&mut self) {
        self.close();
    }
}
