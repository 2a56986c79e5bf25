//! Nobody waits in vain for a loop, whatever hangs, raises, or is a bug; and what is not done is said.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshos_core::action::{Cause, MeshOsAction};
use meshos_core::command::{AdminEvent, Command, IceAction, Order, Verdict};
use meshos_core::control::DaemonControl;
use meshos_core::event::Crash;
use meshos_core::id::{NodeId, Origin};
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::signal::{DaemonIntent, DaemonRef, DaemonSignal, MeshOsEvent, Outcome, RosterEntry, Signal};
use meshos_core::status::{AuthorityStatus, MeshOsSnapshot, Part};
use meshos_core::time::UnixMs;
use meshos_node::behaviour::{Keeper, LoopEnd, MeshOs, Parts};
use meshos_node::callback::{CallFailed, Callbacks};
use meshos_node::clock::{Deadline, LoopClock};
use meshos_node::dispatch::{ActionDispatcher, ControlSink, MigrationAborter};
use meshos_node::intake::Refused;
use meshos_node::lane::Lanes;
use meshos_node::probes::ProbeRegistry;
use meshos_node::published::Waited;
use meshos_node::records::Records;
use meshos_node::recovery::{RecoveryHandler, RecoveryRegistry};
use meshos_node::scorer::SchedulerRegistry;

const HERE: NodeId = NodeId::new(1);
const PATIENCE: Duration = Duration::from_secs(10);

fn never() -> bool {
    false
}

fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

fn plain(body: &mut (dyn FnMut() + Send)) {
    body();
}

type Answer = Box<dyn Fn(&MeshOsAction) -> Outcome + Send + Sync>;

/// Answers as a test wants it, and remembers whom it watches over.
struct Told {
    answer: Answer,
    supervised: Mutex<Vec<(Origin, bool)>>,
}

impl ActionDispatcher for Told {
    fn dispatch(&self, _id: u64, action: &MeshOsAction, _cause: &Cause) -> Outcome {
        (self.answer)(action)
    }

    fn supervise(&self, daemon: Origin, wanted: bool) {
        self.supervised.lock().unwrap().push((daemon, wanted));
    }

    fn name(&self) -> &'static str {
        "Told"
    }
}

type Tell = Box<dyn Fn(Signal) + Send + Sync>;
type Roster = Box<dyn Fn(&Tell) -> (Vec<RosterEntry>, u64) + Send + Sync>;

/// Daemons as a test wants them.
struct Daemons {
    tell: Mutex<Option<Arc<Tell>>>,
    roster: Roster,
    /// A broadcast panics, on the thread of the loop.
    breaks: bool,
    hangs: Option<Mutex<Receiver<()>>>,
}

impl Default for Daemons {
    fn default() -> Self {
        Self {
            tell: Mutex::new(None),
            roster: Box::new(|_| (Vec::new(), 0)),
            breaks: false,
            hangs: None,
        }
    }
}

impl Keeper for Daemons {
    fn watch(&self, tell: Tell) -> u64 {
        *self.tell.lock().unwrap() = Some(Arc::new(tell));
        1
    }

    fn unwatch(&self, _watch: u64) {}

    fn roster(&self) -> (Vec<RosterEntry>, u64) {
        let tell = self.tell.lock().unwrap().clone().unwrap();
        (self.roster)(&tell)
    }

    fn broadcast(&self, _control: DaemonControl) {
        if self.breaks {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }

    fn control(&self, _daemon: Origin, _control: DaemonControl) -> bool {
        false
    }

    fn remove(&self, _daemon: Origin) -> bool {
        false
    }

    fn poll(&self) {
        if let Some(hangs) = &self.hangs {
            let _ = hangs.lock().unwrap().recv();
        }
    }
}

struct Rig {
    os: MeshOs,
    dispatcher: Arc<Told>,
}

struct Options {
    daemons: Daemons,
    recovery: RecoveryRegistry,
    sink: Option<Arc<dyn ControlSink>>,
    aborter: Option<Arc<dyn MigrationAborter>>,
    lanes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            daemons: Daemons::default(),
            recovery: RecoveryRegistry::new(),
            sink: None,
            aborter: None,
            lanes_max: 8,
        }
    }
}

fn rig(answer: impl Fn(&MeshOsAction) -> Outcome + Send + Sync + 'static, options: Options) -> Rig {
    let dispatcher = Arc::new(Told {
        answer: Box::new(answer),
        supervised: Mutex::default(),
    });
    let clock = LoopClock::start();
    let parts = Parts {
        dispatcher: Arc::clone(&dispatcher) as Arc<dyn ActionDispatcher>,
        keeper: Arc::new(options.daemons),
        probes: ProbeRegistry::new(),
        scheduler: SchedulerRegistry::new(),
        recovery: options.recovery,
        sink: options.sink,
        aborter: options.aborter,
        migrations: None,
        authority: None,
        control: meshos_core::control_state::ControlState::default(),
        callbacks: Arc::new(Callbacks::new()),
        records: Arc::new(Records::new(HERE, clock)),
        clock,
        lanes: Lanes::new("test-callback", options.lanes_max, plain),
        wakes: Lanes::new("test-wake", 1, plain),
    };
    let config = MeshOsConfig {
        tick_interval: Duration::from_millis(10),
        ..MeshOsConfig::default()
    };
    let os = MeshOs::start(HERE, config, 42, AuthorityStatus::Open, parts).unwrap();
    Rig { os, dispatcher }
}

impl Rig {
    fn publish(&self, event: MeshOsEvent) {
        let intake = &self.os.shared().intake;
        let ticket = intake.publish(Signal::Event(event), soon(), &mut never).unwrap();
        intake.wait_folded(ticket, soon(), &mut never).unwrap();
    }

    fn order(&self, order: Order) {
        let command = Command {
            order,
            verdict: Verdict::Open,
            operators: Vec::new(),
            reason: "test".to_owned(),
            envelope_id: None,
            issued_at: None,
        };
        let intake = &self.os.shared().intake;
        intake.publish(Signal::Command(command), soon(), &mut never).unwrap();
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

    fn wait_for_failure(&self, text: &str) {
        self.wait_for(|snapshot| {
            let mut failures = snapshot.failures.iter();
            failures.any(|record| record.failure.reason.contains(text))
        });
    }
}

fn run(id: u64) -> MeshOsEvent {
    MeshOsEvent::DaemonIntentUpdate {
        daemon: named(id),
        intent: DaemonIntent::Run,
        node: None,
    }
}

fn named(id: u64) -> DaemonRef {
    DaemonRef {
        id: Origin::new(id),
        name: Arc::from("test"),
    }
}

fn done(_: &MeshOsAction) -> Outcome {
    Outcome::Done
}

/// Waits until a test lets go.
fn hanging() -> (Sender<()>, impl Fn(&MeshOsAction) -> Outcome + Send + Sync) {
    let (release, waiting) = channel::<()>();
    let waiting = Mutex::new(waiting);
    let answer = move |_: &MeshOsAction| {
        let _ = waiting.lock().unwrap().recv();
        Outcome::Done
    };
    (release, answer)
}

#[test]
fn code_that_hangs_on_every_lane_holds_up_nobody_who_waits_for_a_snapshot() {
    let (release, answer) = hanging();
    let options = Options {
        lanes_max: 1,
        ..Options::default()
    };
    let rig = rig(answer, options);
    rig.publish(run(1));
    let shared = rig.os.shared();
    let (woken, wake) = channel();
    let ear = shared.ears.open(Origin::new(7));
    let heard = woken.clone();
    assert!(ear.on_control(Box::new(move || heard.send("ear").unwrap())).is_ok());
    let generation = shared.published.generation();
    let wanted = shared
        .published
        .on_change(generation, Box::new(move || woken.send("change").unwrap()));
    assert!(wanted.is_ok());

    rig.publish(run(2));
    shared.ears.tell(None, DaemonControl::DrainFinish);

    let mut told = [
        wake.recv_timeout(PATIENCE).unwrap(),
        wake.recv_timeout(PATIENCE).unwrap(),
    ];
    told.sort_unstable();
    assert_eq!(told, ["change", "ear"]);
    drop(release);
}

#[test]
fn a_wait_for_a_control_that_was_given_up_leaves_nothing() {
    let rig = rig(done, Options::default());
    let ear = rig.os.shared().ears.open(Origin::new(7));
    let told = Arc::new(());
    for _ in 0..100 {
        let held = Arc::clone(&told);
        let ticket = ear.on_control(Box::new(move || drop(held))).ok().unwrap();
        assert!(ear.forget(ticket));
        assert!(!ear.forget(ticket));
    }
    assert_eq!(Arc::strong_count(&told), 1);
}

#[test]
fn a_loop_that_panics_ends_and_says_so_to_everybody() {
    let daemons = Daemons {
        breaks: true,
        ..Daemons::default()
    };
    let rig = rig(
        done,
        Options {
            daemons,
            ..Options::default()
        },
    );
    rig.publish(run(1));
    let shared = rig.os.shared();
    let ear = shared.ears.open(Origin::new(1));
    rig.order(Order::Admin(AdminEvent::EnterMaintenance {
        node: HERE,
        drain_for: None,
    }));

    let ended = loop {
        match shared.published.wait(shared.published.generation(), soon(), &mut never) {
            Waited::Changed(_) => {}
            other => break other,
        }
    };
    assert!(matches!(ended, Waited::Ended), "{ended:?}");
    assert!(!shared.health().0);
    let last = shared.published.load();
    let failure = &last.failures.last().unwrap().failure;
    assert_eq!(failure.source.part, Part::Loop);
    assert!(failure.reason.contains("panicked: on purpose"), "{}", failure.reason);
    let refused = shared.intake.publish(Signal::Event(run(2)), soon(), &mut never);
    assert_eq!(refused, Err(Refused::Closed));
    assert!(ear.on_control(Box::new(|| {})).is_err());
    let supervised = rig.dispatcher.supervised.lock().unwrap().clone();
    assert_eq!(supervised.last(), Some(&(Origin::new(1), false)));
    let ended = rig.os.shutdown(PATIENCE, &mut never).unwrap();
    assert_eq!(ended.end, LoopEnd::Failed);
}

#[test]
fn what_a_roster_reflects_is_folded_once() {
    // The crash was told right before the roster is taken, which shows it already.
    let roster: Roster = Box::new(|tell| {
        let signals = [
            DaemonSignal::Started,
            DaemonSignal::Crashed {
                crash: Crash {
                    reason: Arc::from("boom"),
                    ..Crash::default()
                },
                down: true,
            },
        ];
        for (number, signal) in (1..).zip(signals) {
            tell(Signal::Registry {
                daemon: named(9),
                signal,
                at: UnixMs::new(number),
                number,
            });
        }
        let entry = RosterEntry {
            daemon: named(9),
            down: true,
        };
        (vec![entry], 2)
    });
    let daemons = Daemons {
        roster,
        ..Daemons::default()
    };
    let rig = rig(
        done,
        Options {
            daemons,
            ..Options::default()
        },
    );
    let known = Arc::clone(&rig.os.shared().published.load().view.daemons[&Origin::new(9)]);
    let (crash, _) = known.last_crash.as_ref().unwrap();
    assert_eq!((&*crash.reason, known.backoff.crashes()), ("boom", 1));
}

struct Deaf;

impl ControlSink for Deaf {
    fn emit(&self, _control: DaemonControl) -> Result<(), CallFailed> {
        Err(CallFailed::new("deaf"))
    }

    fn name(&self) -> &'static str {
        "Deaf"
    }
}

impl MigrationAborter for Deaf {
    fn abort(&self, _daemon: Origin) -> Result<(), CallFailed> {
        Err(CallFailed::new("deaf"))
    }

    fn name(&self) -> &'static str {
        "Deaf"
    }
}

#[test]
fn what_is_not_told_because_the_listener_is_left_alone_is_said() {
    let options = Options {
        sink: Some(Arc::new(Deaf)),
        aborter: Some(Arc::new(Deaf)),
        ..Options::default()
    };
    let rig = rig(done, options);
    for minutes in 1..=7 {
        // Each has another deadline, so each is told.
        rig.order(Order::Admin(AdminEvent::EnterMaintenance {
            node: HERE,
            drain_for: Some(Duration::from_secs(60 * minutes)),
        }));
        let migration = Origin::new(minutes);
        rig.order(Order::Ice(IceAction::KillMigration { migration }));
    }
    rig.wait_for_failure("not told: it is left alone");
    rig.wait_for_failure("the migration aborter is left alone");
}

struct Slow(Mutex<Receiver<()>>);

impl RecoveryHandler for Slow {
    fn recover(&self) -> Result<Vec<u8>, CallFailed> {
        let _ = self.0.lock().unwrap().recv();
        Ok(Vec::new())
    }
}

#[test]
fn a_handler_that_hangs_and_a_daemon_that_does_not_say_how_it_is_are_shown() {
    let (release, waiting) = channel();
    let (answer, asked) = channel();
    let recovery = RecoveryRegistry::new();
    let handler = Arc::new(Slow(Mutex::new(waiting)));
    recovery.register(handler, Some("slow"), 3).unwrap();
    let daemons = Daemons {
        hangs: Some(Mutex::new(asked)),
        ..Daemons::default()
    };
    let rig = rig(
        done,
        Options {
            daemons,
            recovery,
            ..Options::default()
        },
    );
    rig.wait_for(|snapshot| {
        let all = snapshot.callbacks.get("recovery handlers");
        all.is_some_and(|status| status.late == 1)
    });
    rig.wait_for_failure("a daemon has not answered");
    drop((release, answer));
}

#[test]
fn an_interrupt_ends_the_wait_for_the_end_and_the_loop() {
    let (release, answer) = hanging();
    let rig = rig(answer, Options::default());
    rig.publish(run(1));
    let interrupted = AtomicBool::new(false);
    // The handler of a signal may call for the end itself: nothing is locked while it runs.
    let ended = rig.os.shutdown(PATIENCE, &mut || {
        let inner = rig.os.shutdown(Duration::ZERO, &mut never);
        interrupted.store(inner.is_some_and(|ended| ended.hung == 1), Ordering::SeqCst);
        true
    });
    assert_eq!(ended, None);
    assert!(interrupted.load(Ordering::SeqCst));
    assert!(!rig.os.shared().health().0);
    drop(release);
}
