//! What daemons of the node emit for others: sent, its rows removed when it is settled, read again from the store.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use meshos_core::due::{self, Due};
use meshos_core::id::{EntityId, Origin};
use meshos_core::rows::{KeyRange, Table, Write, entity_key, of_entity_key};
use meshos_core::store::{Batch, StoreError};

use super::{Inner, Router};
use crate::lane::Job;
use crate::outgoing::{Emitter, Sending};
use crate::ways::{Effects, Places, WayKey};

/// Wait before a store is read again that could not be.
const READ_PAUSE: Duration = Duration::from_secs(1);
/// Rows that are read at once.
const PAGE: usize = 1024;

impl Router {
    /// Gives the outputs to others that a store has of a daemon back to it, before it runs.
    ///
    /// # Errors
    /// [`StoreError`]: they cannot be read.
    pub fn resume(&self, emitter: &Emitter) -> Result<(), StoreError> {
        let mut after = 0;
        loop {
            let (outputs, last) = self.inner.read(&emitter.entity, after)?;
            let Some(last) = last else { return Ok(()) };
            after = last;
            self.inner.send_outputs(emitter, outputs);
        }
    }

    /// Sends no more what a daemon emitted that another node has now: that goes on from there.
    pub fn let_go(&self, emitter: Origin) {
        let mut ways = self.inner.ways.lock();
        ways.forget_outputs(emitter);
        self.inner.flows.store(ways.len() as u64, Ordering::Release);
    }
}

impl Inner {
    pub(super) fn send_outputs(&self, emitter: &Emitter, outputs: Vec<Sending>) {
        let now = self.now();
        let mut effects = Effects::default();
        let mut ways = self.ways.lock();
        // Under the lock: the close empties it once.
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        let mut outbound = self.outbound.lock();
        for output in outputs {
            let key = WayKey {
                to: output.to,
                origin: emitter.origin,
                stream: output.stream,
            };
            let output = (emitter.entity, output.sequence, output.payload, output.has_row);
            ways.send_output(now, key, output, (self, &mut outbound, &mut effects));
        }
        self.flows.store(ways.len() as u64, Ordering::Release);
        drop(outbound);
        drop(ways);
        self.carry_out(effects);
        self.wake();
    }

    pub(super) fn remove(&self, key: WayKey, emitter: EntityId, gone: Vec<u64>) {
        let writes: Vec<Write> = gone.iter().map(|sequence| due::settled(&emitter, *sequence)).collect();
        let mut store = (self.stores)();
        let term = store.term();
        let inner = self.this.clone();
        let done = move |outcome: Result<u64, StoreError>| {
            let Some(inner) = inner.upgrade() else { return };
            let mut effects = Effects::default();
            let mut ways = inner.ways.lock();
            let place = (&*inner as &dyn Places, &mut *inner.outbound.lock(), &mut effects);
            ways.released(inner.now(), key, &gone, outcome.is_ok(), place);
            drop(ways);
            inner.carry_out(effects);
            inner.wake();
        };
        store.submit(Batch { term, writes }, Box::new(done));
    }

    /// Outputs of a daemon that the store has, after a number, and the last number that was read.
    fn read(&self, emitter: &EntityId, after: u64) -> Result<(Vec<Sending>, Option<u64>), StoreError> {
        let mut range = KeyRange::beginning_with(emitter.as_bytes());
        range.from = entity_key(emitter, [after + 1]);
        let page = (self.stores)().page(Table::Outbox, &range, PAGE)?;
        let (mut outputs, mut last) = (Vec::new(), None);
        for (key, value) in &page {
            let Some((_, [sequence])) = of_entity_key::<1>(key) else {
                continue;
            };
            let Due { to, stream, payload } = Due::decode(value).map_err(|error| {
                StoreError::Damaged(meshos_core::store::Damage::Row {
                    table: Table::Outbox,
                    entity: *emitter,
                    number: sequence,
                    error,
                })
            })?;
            last = Some(sequence);
            outputs.push(Sending {
                sequence,
                to,
                stream,
                payload,
                has_row: true,
            });
        }
        Ok((outputs, last))
    }
}

/// Reads outputs that stayed in the store since there was no room for them.
pub(super) struct Reading {
    pub(super) inner: Arc<Inner>,
    pub(super) key: WayKey,
    pub(super) emitter: EntityId,
    pub(super) after: u64,
}

impl Job for Reading {
    fn run(self: Arc<Self>) {
        let inner = &self.inner;
        if inner.closed.load(Ordering::Acquire) {
            return;
        }
        let mut after = self.after;
        let (outputs, exhausted) = loop {
            let Ok((outputs, last)) = inner.read(&self.emitter, after) else {
                let again = Instant::now() + READ_PAUSE;
                return inner.home.later(again, Arc::clone(&self) as Arc<dyn Job>);
            };
            let of_flow = outputs.into_iter().filter(|output| {
                let (to, stream) = (output.to, output.stream);
                (to, stream) == (self.key.to, self.key.stream)
            });
            let outputs: Vec<_> = of_flow.map(|output| (output.sequence, output.payload)).collect();
            match last {
                None => break (outputs, true),
                Some(_) if !outputs.is_empty() => break (outputs, false),
                Some(last) => after = last,
            }
        };
        let mut effects = Effects::default();
        let mut ways = inner.ways.lock();
        let place = (&**inner as &dyn Places, &mut *inner.outbound.lock(), &mut effects);
        ways.read_again(inner.now(), self.key, outputs, exhausted, place);
        drop(ways);
        inner.carry_out(effects);
        inner.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use meshos_core::outbox::Limits;
    use meshos_core::store::memory::MemoryStore;

    use super::*;
    use crate::carrier::Carrier;
    use crate::linked::{Arrived, Incoming, Mailed};
    use crate::router::home::Home;

    struct Empty;

    impl Home for Empty {
        fn here(&self, _origin: Origin) -> Option<(EntityId, u64)> {
            None
        }
        fn mail(
            &self,
            _to: &EntityId,
            _arrived: &Arc<Arrived>,
            _events: &[Incoming],
            _told: &mut dyn FnMut(&Incoming, Mailed),
        ) -> bool {
            false
        }
        fn later(&self, _at: Instant, _job: Arc<dyn Job>) {}
    }

    #[test]
    fn what_is_emitted_while_the_router_closes_is_not_sent() {
        let entity = EntityId::from_bytes([1; 32]);
        let inner = Inner::new(
            Carrier::alone(entity),
            Box::new(Empty),
            Arc::new(|| Box::new(MemoryStore::new())),
            Limits::default(),
        );
        let emitter = Emitter {
            entity,
            origin: entity.origin(),
        };
        let output = Sending {
            sequence: 1,
            to: EntityId::from_bytes([2; 32]).origin(),
            stream: 3,
            payload: b"out".to_vec(),
            has_row: false,
        };
        let begins = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let ways = inner.ways.lock();
            scope.spawn(|| {
                begins.store(true, Ordering::Release);
                inner.send_outputs(&emitter, vec![output]);
            });
            // It waits for the lock, which the close has as it begins.
            let mut until = None;
            while until.is_none_or(|until| Instant::now() < until) {
                if until.is_none() && begins.load(Ordering::Acquire) {
                    until = Some(Instant::now() + Duration::from_millis(20));
                }
                std::thread::yield_now();
            }
            inner.closed.store(true, Ordering::Release);
            drop(ways);
        });
        assert_eq!(inner.ways.lock().len(), 0);
    }
}
