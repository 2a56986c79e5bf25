//! A running loop: what goes in comes out, at once, once, and until the end.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use meshos_core::action::{Cause, MeshOsAction};
use meshos_core::command::{AdminEvent, ChainId, Command, Order, Verdict};
use meshos_core::control::DaemonControl;
use meshos_core::finite::Share;
use meshos_core::id::{NodeId, Origin};
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::maintenance_state::MaintenancePhase;
use meshos_core::peer::{NodeHealth, Samples};
use meshos_core::signal::{
    DaemonIntent, DaemonRef, DaemonSignal, LogLevel, MeshOsEvent, Outcome, ReplicaChange, RosterEntry, Signal,
};
use meshos_core::status::{AuthorityStatus, MeshOsSnapshot, Part};
use meshos_core::world::Key;
use meshos_node::behaviour::{Keeper, LoopEnd, MeshOs, Parts};
use meshos_node::callback::{CallFailed, Callbacks};
use meshos_node::clock::{Deadline, LoopClock};
use meshos_node::dispatch::{ActionDispatcher, ControlSink};
use meshos_node::ears::Listened;
use meshos_node::intake::Refused;
use meshos_node::lane::Lanes;
use meshos_node::probes::{Probe, ProbeKind, ProbeRegistry};
use meshos_node::published::Waited;
use meshos_node::records::Records;
use meshos_node::recovery::{RecoveryHandler, RecoveryRegistry};
use meshos_node::scorer::SchedulerRegistry;

const HERE: NodeId = NodeId::new(1);
const PATIENCE: Duration = Duration::from_secs(10);

fn never() -> bool {
    false
}

/// A daemon whose supervision is a bug.
const CURSED: Origin = Origin::new(666);

fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

type Answer = Box<dyn Fn(&MeshOsAction) -> Outcome + Send + Sync>;

/// Tells what it was given, and answers as a test wants it.
struct Told {
    actions: Mutex<Sender<(u64, MeshOsAction)>>,
    answer: Answer,
    pressure: AtomicUsize,
    dropped: Arc<AtomicBool>,
}

impl ActionDispatcher for Told {
    fn dispatch(&self, id: u64, action: &MeshOsAction, _cause: &Cause) -> Outcome {
        let _ = self.actions.lock().unwrap().send((id, action.clone()));
        (self.answer)(action)
    }

    fn on_cluster_backpressure(&self, _asserted: bool, _level: Share) -> Result<(), CallFailed> {
        self.pressure.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn supervise(&self, daemon: Origin, wanted: bool) {
        assert!(!wanted || daemon != CURSED, "cursed");
    }

    fn commits_maintenance(&self) -> bool {
        true
    }

    fn name(&self) -> &str {
        "Told"
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
    }
}

type Tell = Box<dyn Fn(Signal) + Send + Sync>;

/// No daemons, but a voice.
#[derive(Default)]
struct Nobody {
    tell: Mutex<Option<Tell>>,
    heard: Mutex<Vec<DaemonControl>>,
    unwatched: AtomicBool,
}

impl Keeper for Nobody {
    fn watch(&self, tell: Box<dyn Fn(Signal) + Send + Sync>) -> u64 {
        *self.tell.lock().unwrap() = Some(tell);
        1
    }

    fn unwatch(&self, _watch: u64) {
        self.unwatched.store(true, Ordering::SeqCst);
    }

    fn roster(&self) -> (Vec<RosterEntry>, u64) {
        (Vec::new(), 0)
    }

    fn broadcast(&self, control: DaemonControl) {
        self.heard.lock().unwrap().push(control);
    }

    fn control(&self, _daemon: Origin, _control: DaemonControl) -> bool {
        false
    }

    fn remove(&self, _daemon: Origin) -> bool {
        false
    }

    fn poll(&self) {}
}

struct Rig {
    os: MeshOs,
    actions: Receiver<(u64, MeshOsAction)>,
    keeper: Arc<Nobody>,
    dispatcher_dropped: Arc<AtomicBool>,
    lanes: Lanes,
}

fn plain(body: &mut (dyn FnMut() + Send)) {
    body();
}

#[derive(Default)]
struct Options {
    config: MeshOsConfig,
    probes: ProbeRegistry,
    recovery: RecoveryRegistry,
    sink: Option<Arc<dyn ControlSink>>,
}

fn rig(answer: impl Fn(&MeshOsAction) -> Outcome + Send + Sync + 'static, options: Options) -> Rig {
    let (sender, actions) = channel();
    let dispatcher_dropped = Arc::new(AtomicBool::new(false));
    let dispatcher = Arc::new(Told {
        actions: Mutex::new(sender),
        answer: Box::new(answer),
        pressure: AtomicUsize::new(0),
        dropped: Arc::clone(&dispatcher_dropped),
    });
    let keeper = Arc::new(Nobody::default());
    let clock = LoopClock::start();
    let lanes = Lanes::new("test-callback", 8, plain);
    let parts = Parts {
        dispatcher,
        keeper: Arc::clone(&keeper) as Arc<dyn Keeper>,
        probes: options.probes,
        scheduler: SchedulerRegistry::new(),
        recovery: options.recovery,
        sink: options.sink,
        aborter: None,
        migrations: None,
        authority: None,
        control: meshos_core::control_state::ControlState::default(),
        callbacks: Arc::new(Callbacks::new()),
        records: Arc::new(Records::new(HERE, clock)),
        clock,
        lanes: lanes.clone(),
        wakes: Lanes::new("test-wake", 1, plain),
    };
    let os = MeshOs::start(HERE, options.config, 42, AuthorityStatus::Open, parts).unwrap();
    Rig {
        os,
        actions,
        keeper,
        dispatcher_dropped,
        lanes,
    }
}

fn quick() -> MeshOsConfig {
    MeshOsConfig {
        tick_interval: Duration::from_millis(10),
        ..MeshOsConfig::default()
    }
}

impl Rig {
    fn publish(&self, event: MeshOsEvent) {
        let intake = &self.os.shared().intake;
        let ticket = intake.publish(Signal::Event(event), soon(), &mut never).unwrap();
        intake.wait_folded(ticket, soon(), &mut never).unwrap();
    }

    fn order(&self, event: AdminEvent) {
        let command = Command {
            order: Order::Admin(event),
            verdict: Verdict::Open,
            operators: Vec::new(),
            reason: "test".to_owned(),
            envelope_id: None,
            issued_at: None,
        };
        let intake = &self.os.shared().intake;
        let ticket = intake.publish(Signal::Command(command), soon(), &mut never).unwrap();
        intake.wait_folded(ticket, soon(), &mut never).unwrap();
    }

    fn next(&self) -> MeshOsAction {
        self.actions.recv_timeout(PATIENCE).expect("an action").1
    }

    fn wait_for(&self, wanted: impl Fn(&MeshOsSnapshot) -> bool) -> Arc<MeshOsSnapshot> {
        let published = &self.os.shared().published;
        let deadline = soon();
        let mut snapshot = published.load();
        while !wanted(&snapshot) {
            match published.wait(snapshot.generation, deadline, &mut never) {
                Waited::Changed(newer) => snapshot = newer,
                other => panic!("{other:?}: {snapshot:#?}"),
            }
        }
        snapshot
    }
}

fn daemon(id: u64) -> DaemonRef {
    DaemonRef {
        id: Origin::new(id),
        name: Arc::from("one"),
    }
}

fn run(id: u64) -> MeshOsEvent {
    MeshOsEvent::DaemonIntentUpdate {
        daemon: daemon(id),
        intent: DaemonIntent::Run,
        node: None,
    }
}

fn started(id: u64) -> MeshOsEvent {
    MeshOsEvent::DaemonLifecycle {
        daemon: daemon(id),
        signal: DaemonSignal::Started,
        at: None,
    }
}

fn done(_: &MeshOsAction) -> Outcome {
    Outcome::Done
}

#[test]
fn an_intent_becomes_one_start_at_once() {
    let rig = rig(done, Options::default());
    let began = Instant::now();
    rig.publish(run(7));
    assert!(matches!(rig.next(), MeshOsAction::StartDaemon { daemon } if daemon.id == Origin::new(7)));
    // Far below a tick of 500 ms.
    assert!(began.elapsed() < Duration::from_millis(250));
    rig.publish(started(7));
    let snapshot = rig.wait_for(|snapshot| snapshot.view.in_flight.is_empty());
    assert_eq!(snapshot.view.daemons[&Origin::new(7)].lifecycle.name(), "running");
    let ended = rig.os.shutdown(PATIENCE, &mut never).unwrap();
    assert_eq!((ended.stats.dispatched, ended.hung), (1, 0));
    assert!(ended.undone.is_empty());
    assert!(rig.actions.try_recv().is_err(), "one start, not two");
}

#[test]
fn what_was_in_before_the_shutdown_is_folded_and_nothing_after() {
    let rig = rig(done, Options::default());
    let chain = ChainId::new(5);
    let added = |holder| MeshOsEvent::ReplicaUpdate {
        chain,
        holder: NodeId::new(holder),
        change: ReplicaChange::Added,
    };
    let intake = &rig.os.shared().intake;
    let batch = (1..=1000).map(|holder| Signal::Event(added(holder))).collect();
    intake.publish_all(batch, soon(), &mut never).unwrap();
    rig.os.shutdown(PATIENCE, &mut never).unwrap();
    let refused = intake.publish(Signal::Event(added(2000)), soon(), &mut never);
    assert_eq!(refused, Err(Refused::Closed));
    let last = rig.os.shared().published.load();
    assert_eq!(last.view.chains[&chain].holders.len(), 1000);
    assert!(rig.keeper.unwatched.load(Ordering::SeqCst));
    assert!(!rig.os.shared().health().0);
    assert_eq!(rig.os.shutdown(PATIENCE, &mut never).unwrap().stats.dispatched, 0);
}

#[test]
fn a_hanging_dispatcher_does_not_hold_up_the_shutdown_nor_the_loop() {
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let rig = rig(
        move |_| {
            let _ = held.lock().unwrap().recv_timeout(PATIENCE);
            Outcome::Done
        },
        Options::default(),
    );
    rig.publish(run(7));
    rig.next();
    // The loop goes on while the dispatcher hangs.
    rig.publish(started(8));
    rig.wait_for(|snapshot| snapshot.view.daemons.contains_key(&Origin::new(8)));
    let began = Instant::now();
    let ended = rig.os.shutdown(Duration::from_millis(200), &mut never).unwrap();
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(ended.hung, 1);
    assert_eq!(ended.undone.get("start_daemon"), Some(&1));
    let last = rig.os.shared().published.load();
    let failure = last.failures.back().expect("a record of what was left undone");
    assert_eq!(failure.failure.source.part, Part::Loop);
    drop(release);
}

#[test]
fn a_loop_that_ends_sleeps_while_a_dispatch_hangs() {
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let rig = rig(
        move |_| {
            let _ = held.lock().unwrap().recv_timeout(PATIENCE);
            Outcome::Done
        },
        Options {
            config: quick(),
            ..Options::default()
        },
    );
    rig.publish(run(1));
    rig.next();
    let before = rig.os.shared().passes();

    let ended = rig.os.shutdown(Duration::from_millis(200), &mut never).unwrap();

    assert_eq!((ended.end, ended.hung), (LoopEnd::Done, 1));
    assert!(ended.passes - before < 50, "{} passes in 200 ms", ended.passes - before);
    drop(release);
}

#[test]
fn a_loop_that_fails_says_so_and_nobody_waits_for_it() {
    let rig = rig(done, Options::default());
    let shared = rig.os.shared();
    let ear = shared.ears.open(CURSED);
    let ticket = shared
        .intake
        .publish(Signal::Event(run(CURSED.get())), soon(), &mut never)
        .unwrap();

    assert_eq!(
        shared.intake.wait_folded(ticket, soon(), &mut never),
        Err(Refused::Closed)
    );
    let snapshot = rig.wait_for(|snapshot| !snapshot.failures.is_empty());
    assert_eq!(
        &*snapshot.failures[0].failure.reason,
        "the loop ended by a bug: panicked: cursed"
    );
    assert_eq!(ear.listen(soon(), &mut never), Listened::Ended);
    let generation = snapshot.generation;
    assert!(matches!(
        shared.published.wait(generation, soon(), &mut never),
        Waited::Ended
    ));
    assert!(!shared.health().0);
    assert_eq!(shared.explain(Key::Maintenance, soon(), &mut never), None);
    let refused = shared.intake.publish(Signal::Event(run(1)), soon(), &mut never);
    assert_eq!(refused, Err(Refused::Closed));
    let ended = rig.os.shutdown(PATIENCE, &mut never).unwrap();
    assert_eq!(ended.end, LoopEnd::Failed);
}

#[test]
fn a_dropped_loop_ends_and_lets_go_of_its_dispatcher() {
    let rig = rig(done, Options::default());
    let published = Arc::clone(&rig.os.shared().published);
    let dropped = Arc::clone(&rig.dispatcher_dropped);
    let lanes = rig.lanes.clone();
    drop(rig);
    assert!(matches!(published.wait(u64::MAX, soon(), &mut never), Waited::Ended));
    assert!(lanes.stop(PATIENCE));
    // The thread lets go of the last reference after it said that it ended.
    let deadline = soon();
    while !dropped.load(Ordering::SeqCst) && !deadline.passed() {
        std::thread::yield_now();
    }
    assert!(dropped.load(Ordering::SeqCst));
}

#[test]
fn a_dispatcher_that_panics_is_a_failure_record_and_is_tried_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let mut config = quick();
    config.backoff.initial = Duration::from_millis(5);
    let options = Options {
        config,
        ..Options::default()
    };
    let rig = rig(
        move |_| {
            assert!(counted.fetch_add(1, Ordering::SeqCst) > 0, "the first time on purpose");
            Outcome::Done
        },
        options,
    );
    rig.publish(run(7));
    rig.next();
    rig.next();
    let snapshot = rig.wait_for(|snapshot| snapshot.failure_head_seq > 0);
    let failure = &snapshot.failures[0].failure;
    assert_eq!(
        (failure.source.part, &*failure.source.name),
        (Part::Action, "start_daemon")
    );
    assert!(failure.reason.contains("on purpose"), "{}", failure.reason);
}

struct Pings(AtomicUsize);

impl Probe for Pings {
    fn sample(&self) -> Result<Samples, CallFailed> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Samples::Health(vec![(NodeId::new(3), NodeHealth::Degraded)]))
    }

    fn kind(&self) -> ProbeKind {
        ProbeKind::Health
    }

    fn name(&self) -> &str {
        "Pings"
    }
}

struct Slots(Mutex<Receiver<()>>);

impl RecoveryHandler for Slots {
    fn recover(&self) -> Result<Vec<u8>, CallFailed> {
        let _ = self.0.lock().unwrap().recv_timeout(PATIENCE);
        Err(CallFailed::new("on purpose"))
    }
}

#[test]
fn probes_are_asked_each_tick_while_a_handler_blocks() {
    let probes = ProbeRegistry::new();
    let pings = Arc::new(Pings(AtomicUsize::new(0)));
    probes.add(Arc::clone(&pings) as Arc<dyn Probe>);
    let recovery = RecoveryRegistry::new();
    let (release, held) = channel();
    recovery.register(Arc::new(Slots(Mutex::new(held))), None, 1).unwrap();
    let options = Options {
        config: quick(),
        probes,
        recovery,
        sink: None,
    };
    let rig = rig(done, options);
    let snapshot = rig.wait_for(|snapshot| snapshot.view.peers.contains_key(&NodeId::new(3)));
    assert_eq!(snapshot.view.peers[&NodeId::new(3)].health, Some(NodeHealth::Degraded));
    let deadline = soon();
    while pings.0.load(Ordering::SeqCst) < 5 {
        assert!(!deadline.passed());
        std::thread::yield_now();
    }
    release.send(()).unwrap();
    let snapshot = rig.wait_for(|snapshot| snapshot.failure_head_seq > 0);
    assert_eq!(snapshot.failures[0].failure.source.part, Part::Recovery);
    rig.wait_for(|snapshot| snapshot.recovery.is_empty());
}

struct Ears(Mutex<Sender<DaemonControl>>);

impl ControlSink for Ears {
    fn emit(&self, control: DaemonControl) -> Result<(), CallFailed> {
        let _ = self.0.lock().unwrap().send(control);
        Ok(())
    }

    fn name(&self) -> &str {
        "Ears"
    }
}

#[test]
fn a_drain_is_heard_by_daemons_and_sink_and_commits_itself() {
    let (sender, heard) = channel();
    let options = Options {
        config: quick(),
        sink: Some(Arc::new(Ears(Mutex::new(sender)))),
        ..Options::default()
    };
    let rig = rig(done, options);
    rig.order(AdminEvent::EnterMaintenance {
        node: HERE,
        drain_for: None,
    });
    assert!(matches!(rig.next(), MeshOsAction::CommitMaintenanceTransition { .. }));
    rig.wait_for(|snapshot| snapshot.view.maintenance.phase() == MaintenancePhase::Maintenance);
    assert!(matches!(
        heard.recv_timeout(PATIENCE),
        Ok(DaemonControl::DrainStart { .. })
    ));
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(DaemonControl::DrainFinish));
    assert_eq!(rig.keeper.heard.lock().unwrap().len(), 2);
    let snapshot = rig.wait_for(|snapshot| snapshot.audit_head_seq == 1);
    assert_eq!(snapshot.audit_head_seq, 1);
}

#[test]
fn nothing_new_nothing_published() {
    let rig = rig(
        done,
        Options {
            config: quick(),
            ..Options::default()
        },
    );
    rig.publish(started(1));
    let generation = rig.os.shared().published.generation();
    let passes = rig.os.shared().passes();
    let deadline = soon();
    while rig.os.shared().passes() < passes + 5 {
        assert!(!deadline.passed());
        std::thread::yield_now();
    }
    assert_eq!(rig.os.shared().published.generation(), generation);
}

#[test]
fn a_line_of_the_log_wakes_who_waits_and_is_not_lost() {
    let rig = rig(done, Options::default());
    let records = &rig.os.shared().parts.records;
    for number in 0..3000 {
        records.line(LogLevel::Info, None, &format!("line {number}"));
    }
    rig.os.shared().intake.nudge();
    let snapshot = rig.wait_for(|snapshot| snapshot.log_head_seq == 3000);
    assert_eq!(snapshot.log_head_seq, 3000);
    let (lines, gap) = records.lines(2990, 100);
    assert_eq!((lines.len(), gap.is_some()), (10, false));
    let (lines, gap) = records.lines(0, 10_000);
    assert_eq!(lines.len() as u64 + gap.map_or(0, |gap| gap.last), 3000);
}

#[test]
fn somebody_may_ask_why() {
    let rig = rig(
        |_| Outcome::Drop {
            reason: Arc::from("no"),
        },
        Options::default(),
    );
    rig.publish(run(7));
    rig.next();
    let shared = rig.os.shared();
    let said = shared
        .explain(Key::Daemon(Origin::new(7)), soon(), &mut never)
        .unwrap()
        .unwrap();
    assert_eq!((said.desired.as_str(), said.rule), ("run", "start"));
    assert_eq!(
        shared.explain(Key::Daemon(Origin::new(8)), soon(), &mut never),
        Some(None)
    );
}

#[test]
fn a_full_lane_refuses_whole_batches_and_counts() {
    let config = MeshOsConfig {
        event_queue_capacity: 4,
        ..MeshOsConfig::default()
    };
    let rig = rig(
        done,
        Options {
            config,
            ..Options::default()
        },
    );
    let intake = &rig.os.shared().intake;
    // A batch above the capacity goes in when its lane is empty.
    let batch = (0..100).map(|id| Signal::Event(started(id))).collect();
    let ticket = intake.publish_all(batch, soon(), &mut never).unwrap();
    intake.wait_folded(ticket, soon(), &mut never).unwrap();
    rig.wait_for(|snapshot| snapshot.view.daemons.len() == 100);
}
