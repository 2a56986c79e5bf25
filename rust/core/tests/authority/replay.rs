//! What commands alone decide, rebuilt from their records.

use std::time::Duration;

use meshos_core::authority::{Ledger, Refused};
use meshos_core::behaviour::{Behaviour, Step};
use meshos_core::command::{AdminEvent, AvoidScope, ChainId, Command, IceAction, Order, Verdict};
use meshos_core::control_state::{ControlState, FORCED_TTL, KINDS, TOUCHED_FOR};
use meshos_core::id::{NodeId, Origin};
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::peer::NodeHealth;
use meshos_core::replay::{Replay, Replayed};
use meshos_core::signal::{MeshOsEvent, Sealed, Signal};
use meshos_core::simulate::{Seen, simulate};
use meshos_core::status::AuditRecord;
use meshos_core::testing::random::SplitMix64;
use meshos_core::time::UnixMs;
use meshos_core::trail::{Entry, HEAD_SIZE, Reading};

use crate::ISSUED;
use crate::folding::{HERE, policy};

const DAY: u64 = 24 * 3600 * 1000;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn command(order: Order, verdict: Verdict, envelope: u64) -> Command {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&envelope.to_le_bytes());
    Command {
        order,
        verdict,
        operators: vec![1, 2],
        reason: "test".to_owned(),
        envelope_id: Some(id),
        issued_at: Some(ISSUED),
    }
}

fn record(seq: u64, at: UnixMs, command: Command) -> AuditRecord {
    AuditRecord {
        seq,
        at,
        command,
        times: 1,
        chain_pending: false,
    }
}

/// Entries, as a program finds them that reads a file.
fn replayed<'a>(entries: impl IntoIterator<Item = &'a Entry>, until: Option<UnixMs>) -> Replayed {
    let mut replay = Replay::default().until(until);
    for entry in entries {
        replay.take(&Entry::decode(&entry.to_bytes()).expect("just written"));
    }
    replay.finish()
}

/// A node, and the file that it writes.
struct Node {
    behaviour: Behaviour,
    entries: Vec<Entry>,
    seq: u64,
    now: u64,
    audit_first: bool,
    /// Commands whose records are under way, with their numbers.
    held: Vec<(u64, Command)>,
    envelopes: u64,
    random: SplitMix64,
}

impl Node {
    fn new(seed: u64, audit_first: bool) -> Self {
        let mut node = Self {
            behaviour: Behaviour::new(HERE, MeshOsConfig::default(), 1, ISSUED),
            entries: Vec::new(),
            seq: 0,
            now: ISSUED.get(),
            audit_first,
            held: Vec::new(),
            envelopes: 0,
            random: SplitMix64::new(seed),
        };
        node.start();
        node
    }

    /// Another run continues the file.
    fn start(&mut self) {
        let at = UnixMs::new(self.now);
        self.entries.push(Entry::Run {
            run_id: self.random.next_u64(),
            at,
        });
        let control = replayed(&self.entries, None).state;
        let behaviour = Behaviour::new(HERE, MeshOsConfig::default(), 1, at);
        let behaviour = behaviour.with_authority(policy(), Ledger::default());
        self.behaviour = behaviour.with_control(control);
        if self.audit_first {
            self.behaviour = self.behaviour.clone().with_audit_first();
        }
        self.seq = 0;
        self.held.clear();
        self.step([]);
    }

    fn step(&mut self, signals: impl IntoIterator<Item = Signal>) {
        let step = self.behaviour.step(UnixMs::new(self.now), signals);
        self.keep(step);
        self.check();
    }

    fn keep(&mut self, step: Step) {
        let at = self.behaviour.now();
        let mut held = step.held.into_iter().peekable();
        for (place, command) in step.audits.into_iter().enumerate() {
            while let Some((_, held)) = held.next_if(|(before, _)| *before <= place) {
                self.hold(at, held);
            }
            self.add(at, command);
        }
        for (_, command) in held {
            self.hold(at, command);
        }
    }

    fn add(&mut self, at: UnixMs, command: Command) {
        self.seq += 1;
        self.entries.push(Entry::Audit(record(self.seq, at, command)));
    }

    fn hold(&mut self, at: UnixMs, command: Command) {
        self.add(at, command.clone());
        self.held.push((self.seq, command));
    }

    /// The disk says of a record that it is kept, or it does not say so in time.
    fn settle(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let (seq, command) = self.held.remove(self.random.below(self.held.len()));
        let kept = self.random.below(4) > 0;
        let envelope_id = command.envelope_id.expect("what is held came in an envelope");
        if !kept {
            let kind = Refused::AuditRequired.kind();
            let verdict = Verdict::Rejected { kind };
            let refused = Command { verdict, ..command };
            self.entries
                .push(Entry::Audit(record(seq, UnixMs::new(self.now), refused)));
        }
        self.step([Signal::Recorded { envelope_id, kept }]);
    }

    fn check(&self) {
        let (control, now) = (self.behaviour.control(), self.behaviour.now());
        let view = self.behaviour.view();
        assert_eq!(view.freeze_until, control.freeze_until(now));
        assert_eq!(view.cordoned, control.is_cordoned(HERE));
        let cordoned = view.peers.iter().filter(|(_, peer)| peer.cordoned);
        let elsewhere = control.cordoned().filter(|node| *node != HERE);
        assert!(cordoned.map(|(node, _)| *node).eq(elsewhere));
        if self.held.is_empty() {
            let again = replayed(&self.entries, None).state;
            assert_eq!(again.digest(), control.digest());
            assert_eq!((again.to_bytes(), &again), (control.to_bytes(), control));
        }
    }

    fn node(&mut self) -> NodeId {
        NodeId::new(1 + self.random.below(4) as u64)
    }

    fn order(&mut self) -> Order {
        let (node, chain) = (self.node(), ChainId::new(self.random.below(3) as u64));
        let span = seconds([0, 1, 60, 700, 90_000][self.random.below(5)]);
        let daemon = Origin::new(chain.get());
        let scope = [AvoidScope::Local(node), AvoidScope::OnPeer(node), AvoidScope::Global][self.random.below(3)];
        match self.random.below(KINDS.len()) {
            0 => Order::Admin(AdminEvent::EnterMaintenance {
                node,
                drain_for: (self.random.below(2) == 0).then_some(span),
            }),
            1 => Order::Admin(AdminEvent::ExitMaintenance { node }),
            2 => Order::Admin(AdminEvent::Drain { node, drain_for: span }),
            3 => Order::Admin(AdminEvent::Cordon { node }),
            4 => Order::Admin(AdminEvent::Uncordon { node }),
            5 => Order::Admin(AdminEvent::RestartAllDaemons { node }),
            6 => Order::Admin(AdminEvent::ClearAvoidList { node }),
            7 => Order::Admin(AdminEvent::DropReplicas {
                node,
                chains: vec![chain],
            }),
            8 => Order::Admin(AdminEvent::InvalidatePlacement { node }),
            9 => Order::Ice(IceAction::FreezeCluster { ttl: span }),
            10 => Order::Ice(IceAction::ThawCluster),
            11 => Order::Ice(IceAction::FlushAvoidLists { scope }),
            12 => Order::Ice(IceAction::ForceEvictReplica { chain, victim: node }),
            13 => Order::Ice(IceAction::ForceRestartDaemon {
                daemon,
                name: String::new(),
            }),
            14 => Order::Ice(IceAction::ForceCutover { chain, target: node }),
            _ => Order::Ice(IceAction::KillMigration { migration: daemon }),
        }
    }

    /// Something comes in: commands of every kind and verdict, signed and not, and other news.
    fn signal(&mut self) -> Signal {
        let order = self.order();
        self.envelopes += 1;
        let unsealed = match self.random.below(12) {
            0 => Verdict::Open,
            1 => Verdict::Rejected {
                kind: "unsigned_rejected",
            },
            2 => {
                return Signal::Event(MeshOsEvent::NodeHealthUpdate {
                    peer: self.node(),
                    health: NodeHealth::Healthy,
                });
            }
            _ => return self.sealed(order),
        };
        Signal::Command(Command {
            envelope_id: None,
            issued_at: None,
            ..command(order, unsealed, 0)
        })
    }

    fn sealed(&mut self, order: Order) -> Signal {
        // Now and then an envelope comes again.
        let envelope = self.envelopes - self.random.below(2) as u64;
        let issued_at = UnixMs::new(self.now);
        let mut command = command(order, Verdict::Accepted, envelope);
        command.issued_at = Some(issued_at);
        let refused = (self.random.below(6) == 0).then_some(Refused::SignatureInvalid { operator: 1 });
        let blast = match &command.order {
            Order::Ice(action) => Some(simulate(
                Seen {
                    view: self.behaviour.view(),
                    this_node: HERE,
                    moving: &[],
                    now: self.behaviour.now(),
                },
                action,
            )),
            Order::Admin(_) => None,
        };
        Signal::Sealed(Box::new(Sealed {
            envelope_id: command.envelope_id.expect("it has one"),
            command,
            issued_at,
            blast,
            refused,
        }))
    }

    fn live(&mut self) {
        match self.random.below(20) {
            0 => {
                // The clock of the next run may be a day behind or ahead.
                let jump = [0, 1000, DAY][self.random.below(3)];
                self.now = if self.random.below(2) == 0 {
                    self.now + jump
                } else {
                    self.now - jump
                };
                self.start();
            }
            1..=4 => {
                self.now += [1, 999, 1000, 60_000, 600_000, DAY][self.random.below(6)];
                self.step([]);
            }
            5..=9 => self.settle(),
            _ => {
                let signals: Vec<Signal> = (0..=self.random.below(3)).map(|_| self.signal()).collect();
                self.step(signals);
            }
        }
    }
}

#[test]
fn the_state_is_rebuilt_from_the_records_bit_for_bit() {
    for seed in 0..40 {
        let mut node = Node::new(seed, false);
        (0..120).for_each(|_| node.live());
    }
}

#[test]
fn so_it_is_where_a_command_waits_for_its_record() {
    for seed in 0..40 {
        let mut node = Node::new(seed, true);
        (0..120).for_each(|_| node.live());
        while !node.held.is_empty() {
            node.settle();
        }
    }
}

#[test]
fn every_kind_of_command_leaves_something() {
    let mut node = Node::new(1, false);
    (0..400).for_each(|_| node.live());
    let state = replayed(&node.entries, None).state;
    assert!(state.obeyed().iter().all(|count| *count > 0), "{:?}", state.obeyed());
    let mut digests: Vec<_> = (0..node.entries.len())
        .map(|count| replayed(&node.entries[..count], None).state.digest())
        .collect();
    let obeyed = state.obeyed().iter().sum::<u64>() as usize;
    digests.dedup();
    assert!(
        digests.len() > obeyed,
        "each command that was obeyed shows in the digest"
    );
}

fn freeze(ttl: u64) -> Command {
    command(
        Order::Ice(IceAction::FreezeCluster { ttl: seconds(ttl) }),
        Verdict::Accepted,
        ttl,
    )
}

#[test]
fn a_freeze_goes_on_in_the_next_run_and_no_longer_than_it_was_ordered_for() {
    let frozen = [
        Entry::Run { run_id: 1, at: ISSUED },
        Entry::Audit(record(1, ISSUED, freeze(60))),
    ];
    let cases = [
        (ISSUED.plus(seconds(20)), Some(ISSUED.plus(seconds(60)))),
        (ISSUED.plus(seconds(60)), None),
        (ISSUED.plus(seconds(24 * 3600)), None),
        // How long ago it began is not known when the clock was set back.
        (
            UnixMs::new(ISSUED.get() - DAY),
            Some(UnixMs::new(ISSUED.get() - DAY).plus(seconds(60))),
        ),
    ];
    for (at, until) in cases {
        let again = Entry::Run { run_id: 2, at };
        let control = replayed(frozen.iter().chain([&again]), None).state;
        let behaviour = Behaviour::new(HERE, MeshOsConfig::default(), 1, at);
        let mut behaviour = behaviour
            .with_authority(policy(), Ledger::default())
            .with_control(control);
        behaviour.step(at, []);
        assert_eq!(behaviour.view().freeze_until, until);
        behaviour.step(at.plus(seconds(60)), []);
        assert_eq!(behaviour.view().freeze_until, None);
    }
}

#[test]
fn cordons_maintenance_and_what_is_forced_go_on_in_the_next_run() {
    let (peer, chain) = (NodeId::new(2), ChainId::new(5));
    let orders = [
        Order::Admin(AdminEvent::Cordon { node: HERE }),
        Order::Admin(AdminEvent::Cordon { node: peer }),
        Order::Admin(AdminEvent::EnterMaintenance {
            node: HERE,
            drain_for: None,
        }),
        Order::Admin(AdminEvent::EnterMaintenance {
            node: peer,
            drain_for: None,
        }),
        Order::Ice(IceAction::ForceCutover { chain, target: peer }),
    ];
    let mut control = ControlState::default();
    for (number, order) in (1..).zip(orders) {
        control.apply(ISSUED, &command(order, Verdict::Accepted, number));
    }
    let mut behaviour = Behaviour::new(HERE, MeshOsConfig::default(), 1, ISSUED).with_control(control);
    let lead = MeshOsEvent::ReplicaBecameHolderAndLeader {
        chain,
        holder: HERE,
        term: 1,
    };
    let step = behaviour.step(ISSUED, [Signal::Event(lead)]);
    let view = behaviour.view();
    assert!(view.cordoned && view.peers[&peer].cordoned);
    assert!(behaviour.world().is_draining());
    let mirrored = view.peers[&peer].maintenance.map(|phase| phase.name());
    assert_eq!(mirrored, Some("entering_maintenance"));
    assert!(
        step.dispatches
            .iter()
            .any(|dispatch| dispatch.action.kind() == "request_placement"),
        "{:?}",
        step.dispatches
    );
}

#[test]
fn what_has_run_out_is_dropped_by_the_next_command_and_not_shown_before() {
    let mut control = ControlState::default();
    let chain = ChainId::new(5);
    control.apply(ISSUED, &freeze(60));
    let drain = AdminEvent::Drain {
        node: HERE,
        drain_for: seconds(60),
    };
    control.apply(ISSUED, &command(Order::Admin(drain), Verdict::Accepted, 1));
    let evict = IceAction::ForceEvictReplica { chain, victim: HERE };
    control.apply(ISSUED, &command(Order::Ice(evict), Verdict::Accepted, 2));
    let before = control.digest();
    let over = ISSUED.plus(FORCED_TTL);
    assert_eq!(control.freeze_until(over), None);
    assert_eq!(control.out_of_service(over).count(), 0);
    assert_eq!(control.all_forced(over).count(), 0);
    assert_eq!(control.all_forced(ISSUED).count(), 1);
    assert_eq!(control.digest(), before, "time alone changes nothing");
    let rejected = Verdict::Rejected { kind: "replayed" };
    control.apply(over, &command(Order::Ice(IceAction::ThawCluster), rejected, 3));
    assert_eq!(control.digest(), before, "nor does what was refused");
    let size = control.to_bytes().len();
    let uncordon = Order::Admin(AdminEvent::Uncordon { node: HERE });
    control.apply(over.plus(TOUCHED_FOR), &command(uncordon, Verdict::Open, 4));
    // Gone: two times of the freeze, its mark apart; the drain; the eviction; two targets.
    assert_eq!(
        size - control.to_bytes().len(),
        16 + 26 + (8 + 1 + 24 + 17 + 1) + 2 * 17
    );
}

/// Looking at everything with each command would take minutes.
#[test]
fn many_orders_do_not_make_each_command_slow() {
    let mut control = ControlState::default();
    for node in 0..100_000 {
        let drain = AdminEvent::Drain {
            node: NodeId::new(node),
            drain_for: seconds(3600),
        };
        control.apply(ISSUED, &command(Order::Admin(drain), Verdict::Accepted, node));
    }
    assert_eq!(control.out_of_service(ISSUED).count(), 100_000);
    let thaw = command(Order::Ice(IceAction::ThawCluster), Verdict::Accepted, 1);
    control.apply(ISSUED.plus(seconds(3600)), &thaw);
    assert_eq!(
        (control.out_of_service(ISSUED).count(), control.envelopes()),
        (0, 65_536)
    );
}

#[test]
fn a_replay_may_end_before_the_last_record() {
    let thaw = command(Order::Ice(IceAction::ThawCluster), Verdict::Accepted, 9);
    let later = ISSUED.plus(seconds(10));
    let entries = [
        Entry::Run { run_id: 1, at: ISSUED },
        Entry::Audit(record(1, ISSUED, freeze(60))),
        Entry::Audit(record(2, later, thaw)),
    ];
    let then = replayed(&entries, Some(ISSUED));
    assert_eq!((then.obeyed, then.runs, then.last_at), (1, 1, Some(ISSUED)));
    assert!(then.state.freeze_until(ISSUED).is_some());
    let now = replayed(&entries, None);
    assert_eq!((now.obeyed, now.last_at), (2, Some(later)));
    assert_eq!(now.state.freeze_until(later), None);
}

/// The same digest as in `tests/test_replay.py`, where another program comes to it.
#[test]
fn a_known_audit_has_a_known_digest() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/audit_records_v1.bin");
    let bytes = std::fs::read(path).expect("it is part of the project");
    let mut reading = Reading::begin(&bytes, None).expect("a released format");
    let (mut replay, mut at) = (Replay::default(), HEAD_SIZE);
    while let Some((entry, taken)) = reading.next(&bytes[at..]).expect("whole") {
        replay.take(&entry);
        at += taken;
    }
    assert_eq!(
        replay.finish().state.digest().to_string(),
        "20f3aed41d0c2770978cb774bb22235c7e24f5051d8cc0f1723bab93e655309c"
    );
}
