//! A daemon in Rust: what the node does with user code, without an interpreter.
#![allow(dead_code, missing_docs, reason = "each test file uses its part")]

pub mod kept;
pub mod net;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;

use meshos_core::config::DaemonHostConfig;
use meshos_core::control::DaemonControl;
use meshos_core::event::DaemonHealth;
use meshos_core::host::Few;
use meshos_core::id::Origin;
use meshos_core::identity::Keypair;
use meshos_core::ingress::{DIRECT, EventKey};
use meshos_core::link::CausalLink;
use meshos_core::route::Route;
use meshos_node::daemon::{Continuation, Daemon, Outputs, Process, Settled};
use meshos_node::keys;
use meshos_node::lane::Lanes;
use meshos_node::runtime::Runtime;
use meshos_node::slot::SharedKey;
use meshos_node::sync::Mutex;

#[derive(Debug, Clone)]
pub struct Event {
    pub link: CausalLink,
    pub payload: Arc<Vec<u8>>,
}

impl Event {
    pub fn outside(origin: u64, sequence: u64, payload: &[u8]) -> Self {
        let link = CausalLink {
            origin: Origin::new(origin),
            horizon: 0,
            sequence,
            parent: 0,
        };
        Self {
            link,
            payload: Arc::new(payload.to_vec()),
        }
    }
}

/// What tests turn on and look at from outside.
#[derive(Default)]
pub struct Switches {
    pub fail_restore: AtomicBool,
    pub fail_snapshot: AtomicBool,
    pub fail_process: AtomicBool,
    pub unhealthy: AtomicBool,
    /// Bytes that states have beyond what they need.
    pub padding: AtomicUsize,
    pub fail_control: AtomicBool,
    /// Outputs show something that states do not have.
    pub forgets: AtomicBool,
    /// There is no other instance than the first.
    pub only_one: AtomicBool,
    pub inside: AtomicUsize,
    pub most_inside: AtomicUsize,
    pub snapshots: AtomicU64,
    pub controls: Mutex<Vec<DaemonControl>>,
    pub seen: Mutex<Vec<Vec<u8>>>,
    /// An event whose payload begins with "wait" waits here.
    pub gate: Mutex<()>,
    /// Controls wait here, after they were noted.
    pub control_gate: Mutex<()>,
    /// Snapshots wait here.
    pub snapshot_gate: Mutex<()>,
    /// Restores wait here.
    pub restore_gate: Mutex<()>,
    /// So many "fails" events fail.
    pub fails: AtomicUsize,
    /// Calls that wait somewhere above, or did.
    pub waiting: AtomicUsize,
    /// Pending calls of "later" events, with what they return.
    pub pending: Mutex<Vec<Continuation<Sum>>>,
}

impl Switches {
    fn fails(&self) -> bool {
        let less = |left: usize| left.checked_sub(1);
        self.fails
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .is_ok()
    }

    /// Waits at a gate if it is closed.
    fn wait(&self, gate: &Mutex<()>) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        drop(gate.lock());
    }

    /// Waits until so many calls came to a gate.
    pub fn until_waiting(&self, calls: usize) {
        until(|| self.waiting.load(Ordering::SeqCst) >= calls);
    }
}

/// Waits until something holds.
pub fn until(holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "it never held");
        std::thread::yield_now();
    }
}

/// Adds up the lengths of its payloads; emits the sum. What ends in "raise" adds and then raises, "none" emits nothing, and
/// "slow" takes longer than somebody waits before being next.
pub struct Sum {
    pub total: AtomicU64,
    pub stateful: bool,
    pub switches: Arc<Switches>,
    kind: Arc<str>,
    calls: AtomicU64,
}

impl std::fmt::Debug for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sum({:?})", self.total)
    }
}

impl Sum {
    pub fn new(switches: &Arc<Switches>) -> Self {
        Self {
            total: AtomicU64::new(0),
            stateful: true,
            switches: Arc::clone(switches),
            kind: Arc::from("sum"),
            calls: AtomicU64::new(0),
        }
    }

    pub fn stateless(switches: &Arc<Switches>) -> Self {
        Self {
            stateful: false,
            ..Self::new(switches)
        }
    }
}

pub type Answers = mpsc::Sender<(EventKey, Settled<Sum>)>;
/// `None`: nobody waits.
pub type Reply = Option<Answers>;

impl Daemon for Sum {
    type Event = Event;
    type Output = Vec<u8>;
    type State = Vec<u8>;
    type Error = String;
    type Later = ();
    type Draft = Vec<u8>;
    type Reply = Reply;

    fn key(event: &Event) -> EventKey {
        EventKey {
            origin: event.link.origin,
            stream: DIRECT,
            sequence: event.link.sequence,
        }
    }
    fn payload_len(event: &Event) -> usize {
        event.payload.len()
    }
    fn parts(event: &Event) -> (CausalLink, &[u8]) {
        (event.link, &event.payload)
    }
    fn emitted(link: CausalLink, output: Vec<u8>, keep: bool) -> (Event, Option<Event>) {
        let event = Event {
            link,
            payload: Arc::new(output),
        };
        let kept = keep.then(|| event.clone());
        (event, kept)
    }
    fn route(output: &Vec<u8>) -> Route {
        match output.strip_prefix(b"out").and_then(|rest| rest.split_first_chunk()) {
            Some((to, _)) => Route::To(Origin::new(u64::from_le_bytes(*to))),
            None => Route::Chain,
        }
    }
    fn received_ns(event: &Event) -> u64 {
        event.link.sequence * 1000
    }
    fn received(link: CausalLink, payload: &[u8], _received_ns: u64) -> Event {
        Event {
            link,
            payload: Arc::new(payload.to_vec()),
        }
    }
    fn state(bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
    fn numbered(draft: Vec<u8>, key: EventKey) -> Event {
        Event::outside(key.origin.get(), key.sequence, &draft)
    }
    fn drafted(draft: &Vec<u8>) -> &[u8] {
        draft
    }
    fn describe(error: &String) -> String {
        error.clone()
    }
    fn blame(error: &String) -> (Arc<str>, Arc<str>) {
        (Arc::from("Error"), Arc::from(error.as_str()))
    }
    fn never_ran(_error: &String) -> bool {
        false
    }
    fn still_runs(_error: &String) -> bool {
        false
    }
    fn is_abandoned(_reply: &Reply) -> bool {
        false
    }
    fn is_unattended(reply: &Reply) -> bool {
        reply.is_none()
    }
    fn settle(replies: Vec<(Reply, EventKey, Settled<Self>)>) {
        for (reply, key, settled) in replies {
            if let Some(reply) = reply {
                let _ = reply.send((key, settled));
            }
        }
    }
    fn kind(&self) -> &Arc<str> {
        &self.kind
    }
    fn schema(&self) -> u32 {
        1
    }
    fn name(&self) -> &Arc<str> {
        &self.kind
    }
    fn is_stateful(&self) -> bool {
        self.stateful
    }
    fn reports(&self) -> bool {
        true
    }
    fn is_async(&self) -> bool {
        false
    }
    fn takes_control(&self) -> bool {
        true
    }
    fn process(&self, event: &Event) -> Process<Self> {
        let now = self.switches.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.switches.most_inside.fetch_max(now, Ordering::SeqCst);
        if event.payload.starts_with(b"wait") {
            self.switches.wait(&self.switches.gate);
        }
        if event.payload.starts_with(b"slow") {
            let end = std::time::Instant::now() + std::time::Duration::from_millis(4);
            while std::time::Instant::now() < end {
                std::hint::spin_loop();
            }
        }
        self.switches.seen.lock().push(event.payload.to_vec());
        let total = self.total.fetch_add(event.payload.len() as u64, Ordering::SeqCst) + event.payload.len() as u64;
        self.switches.inside.fetch_sub(1, Ordering::SeqCst);
        match event.payload.as_slice() {
            b"fails" if self.switches.fails() => Process::Done(Err("this time".to_owned())),
            payload if payload.ends_with(b"raise") || self.switches.fail_process.load(Ordering::SeqCst) => {
                Process::Done(Err("on purpose".to_owned()))
            }
            b"none" => Process::Done(Ok(Few::new())),
            b"two" => Process::Done(Ok([b"a".to_vec(), b"b".to_vec()].into_iter().collect())),
            b"later" => Process::Later(()),
            payload if payload.starts_with(b"fwd") => {
                // What is sent on is no order to send it on.
                let output = [b"out", &payload[3..]].concat();
                Process::Done(Ok(std::iter::once(output).collect()))
            }
            _ => {
                let calls = self.calls.fetch_add(1, Ordering::SeqCst);
                let forgotten = if self.switches.forgets.load(Ordering::SeqCst) {
                    calls
                } else {
                    0
                };
                Process::Done(Ok(
                    std::iter::once((total + forgotten).to_string().into_bytes()).collect()
                ))
            }
        }
    }
    fn wait(&self, (): ()) -> Outputs<Self> {
        Ok(std::iter::once(b"waited".to_vec()).collect())
    }
    fn on_done(&self, (): (), then: Continuation<Self>) {
        self.switches.pending.lock().push(then);
    }
    fn snapshot(&self) -> Result<Vec<u8>, String> {
        self.switches.snapshots.fetch_add(1, Ordering::SeqCst);
        if self.switches.fail_snapshot.load(Ordering::SeqCst) {
            return Err("no snapshot".to_owned());
        }
        self.switches.wait(&self.switches.snapshot_gate);
        let mut state = vec![0; 8 + self.switches.padding.load(Ordering::SeqCst)];
        state[..8].copy_from_slice(&self.total.load(Ordering::SeqCst).to_le_bytes());
        Ok(state)
    }
    fn restore(&self, state: &Vec<u8>, _schema: u32) -> Result<(), String> {
        if self.switches.fail_restore.load(Ordering::SeqCst) {
            return Err("no restore".to_owned());
        }
        self.switches.wait(&self.switches.restore_gate);
        let (bytes, padding) = state.split_first_chunk().ok_or("eight bytes")?;
        if padding.len() != self.switches.padding.load(Ordering::SeqCst) {
            return Err("eight bytes".to_owned());
        }
        self.total.store(u64::from_le_bytes(*bytes), Ordering::SeqCst);
        Ok(())
    }
    fn fresh(&self) -> Result<Option<Self>, String> {
        if self.switches.only_one.load(Ordering::SeqCst) {
            return Ok(None);
        }
        Ok(Some(Self {
            total: AtomicU64::new(0),
            stateful: self.stateful,
            ..Self::new(&self.switches)
        }))
    }
    fn report(&self) -> Result<(DaemonHealth, f64), String> {
        if self.switches.unhealthy.load(Ordering::SeqCst) {
            return Err("health raised".to_owned());
        }
        Ok((DaemonHealth::Healthy, 0.0))
    }
    fn control(&self, control: DaemonControl) -> Result<(), String> {
        self.switches.controls.lock().push(control);
        self.switches.wait(&self.switches.control_gate);
        if self.switches.fail_control.load(Ordering::SeqCst) {
            return Err("no control".to_owned());
        }
        Ok(())
    }
}

fn plain(body: &mut (dyn FnMut() + Send)) {
    body();
}

pub fn lanes() -> Lanes {
    Lanes::new("test-lane", 4, plain)
}

pub fn runtime() -> (Arc<Runtime<Sum>>, Arc<Switches>) {
    let runtime = Arc::new(Runtime::new(Arc::new(keys::generate()), lanes()));
    runtime.start().expect("fresh");
    (runtime, Arc::default())
}

pub fn key(seed: u8) -> SharedKey {
    Arc::new(Mutex::new(Keypair::from_seed(&[seed; 32])))
}

pub fn config() -> DaemonHostConfig {
    DaemonHostConfig::default()
}

pub fn never() -> bool {
    false
}
