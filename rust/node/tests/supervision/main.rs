//! What a behaviour loop needs of a runtime: daemons that go down and come back, stops that lose nothing, and news of
//! all of it in order.
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod controls;
mod down;
mod restart;
mod told;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use common::{Answers, Event, Sum, never};
use meshos_core::event::{DaemonLifecycleEvent, DaemonLifecycleSignal};
use meshos_core::host::Few;
use meshos_core::ingress::EventKey;
use meshos_core::time::UnixMs;
use meshos_node::clock::{self, Deadline};
use meshos_node::daemon::{DeliverError, Settled};
use meshos_node::deliver::{self, Want};
use meshos_node::events::Watch;
use meshos_node::mailbox::Letter;
use meshos_node::runtime::Runtime;
use meshos_node::slot::Slot;
use meshos_node::sync::Mutex;

/// Long enough that it passes only when something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

fn send(slot: &Arc<Slot<Sum>>, origin: u64, sequence: u64, payload: &[u8]) -> Result<Few<Event>, DeliverError<Sum>> {
    let mut entered = slot
        .enter(Deadline::after(PATIENCE), &mut never)
        .map_err(|_| DeliverError::Stale)?;
    deliver::deliver(&mut entered, &Event::outside(origin, sequence, payload), Want::Outputs)
        .map(|delivered| delivered.outputs)
}

fn total(slot: &Arc<Slot<Sum>>) -> u64 {
    let entered = slot.enter(Deadline::after(PATIENCE), &mut never).expect("open");
    entered.daemon.total.load(Ordering::SeqCst)
}

/// What a supervisor does: it hears of a daemon and starts it again.
fn supervised(runtime: &Runtime<Sum>, slot: &Arc<Slot<Sum>>) {
    assert!(runtime.registry().supervise(slot.origin(), true));
}

fn in_a_while(grace: Duration) -> UnixMs {
    clock::unix_ms().plus(grace)
}

fn post(runtime: &Runtime<Sum>, slot: &Arc<Slot<Sum>>, payload: &[u8], reply: &Answers) {
    let letter = Letter::Draft(payload.to_vec(), payload.len());
    let posted = slot.post(
        runtime.lanes(),
        runtime.sender(),
        letter,
        Want::Outputs,
        Some(reply.clone()),
        None,
    );
    assert!(posted.is_ok());
}

fn answers(replies: &mpsc::Receiver<(EventKey, Settled<Sum>)>, count: usize) -> Vec<Settled<Sum>> {
    (0..count)
        .map(|_| replies.recv_timeout(PATIENCE).expect("an answer").1)
        .collect()
}

/// Keeps every event.
#[derive(Default)]
struct Log(Mutex<Vec<DaemonLifecycleEvent>>);

impl Watch for Log {
    fn watch(&self, event: &DaemonLifecycleEvent) {
        self.0.lock().push(event.clone());
    }
}

impl Log {
    fn of(runtime: &Runtime<Sum>) -> Arc<Self> {
        let log = Arc::<Self>::default();
        runtime.registry().add_watch(Arc::clone(&log) as Arc<dyn Watch>);
        log
    }

    fn signals(&self) -> Vec<&'static str> {
        self.0.lock().iter().map(|event| word(&event.signal)).collect()
    }
}

fn word(signal: &DaemonLifecycleSignal) -> &'static str {
    match signal {
        DaemonLifecycleSignal::Registered => "registered",
        DaemonLifecycleSignal::Unregistered => "unregistered",
        DaemonLifecycleSignal::Started => "started",
        DaemonLifecycleSignal::Crashed { down: true, .. } => "down",
        DaemonLifecycleSignal::Crashed { down: false, .. } => "crashed",
        DaemonLifecycleSignal::PassedOver { .. } => "passed over",
        DaemonLifecycleSignal::HealthChanged { .. } => "health",
        DaemonLifecycleSignal::SaturationChanged { .. } => "load",
    }
}
