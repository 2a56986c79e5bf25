//! The target of a move.

use std::time::Duration;

use meshos_core::id::EntityId;
use meshos_core::move_frame::{Body, Reason};
use meshos_core::move_known::Known;
use meshos_core::move_rows::{Frozen, MoveOrder, Queued};
use meshos_core::move_target::{Action, Alarm, MoveTarget, Phase, Signal, TargetConfig};
use meshos_core::owner::{self, Owner, OwnerConfig};
use meshos_core::ownership_frame;

use crate::common::{
    MID, OTHER_MID, START, WALL, compare, entity, frame_of, frozen, moved, orchestrator, order, queued, rows, source,
    spawn, stranger, taken_over, target, word,
};

#[derive(Clone)]
struct Node {
    machine: MoveTarget,
    known: Known,
    now: Duration,
    ticket: u64,
}

fn heard(from: EntityId, mid: [u8; 16], body: Body<'static>) -> Signal<'static> {
    Signal::Heard {
        from,
        frame: Box::new(frame_of(mid, body)),
        wall: WALL,
        owned: None,
        refusal: None,
    }
}

fn prepare(order: MoveOrder) -> Signal<'static> {
    heard(orchestrator(), order.mid, Body::Prepare(Box::new(order)))
}

fn final_of(from: EntityId, mid: [u8; 16], frozen: Frozen, queue: Vec<Queued>) -> Signal<'static> {
    let body = Body::Final {
        frozen,
        image_bytes: 10,
        lineage: vec![spawn()],
        queue,
    };
    heard(from, mid, body)
}

fn commit(from: EntityId, at: u64, tail: Vec<Queued>) -> Signal<'static> {
    let body = Body::Commit {
        record: Box::new(moved()),
        from: at,
        tail,
    };
    heard(from, MID, body)
}

impl Node {
    fn new() -> Self {
        Self {
            machine: MoveTarget::new(target(), entity(), TargetConfig::default(), None),
            known: Known::nothing(entity()),
            now: START,
            ticket: 0,
        }
    }

    fn step(&mut self, signal: Signal<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        self.machine.step(self.now, &mut self.known, signal, &mut actions);
        for action in &actions {
            if let Action::Keep { ticket, .. } = action {
                self.ticket = *ticket;
            }
        }
        actions
    }

    fn keep(&mut self) -> Vec<Action> {
        let ticket = self.ticket;
        self.step(Signal::Kept(ticket))
    }

    fn at(phase: Phase) -> Self {
        let mut node = Self::new();
        if phase == Phase::Idle {
            return node;
        }
        node.step(prepare(order()));
        if phase == Phase::Reserved {
            return node;
        }
        node.step(final_of(source(), MID, frozen(), vec![queued(1)]));
        if phase == Phase::Restoring {
            return node;
        }
        node.step(Signal::Restored(frozen()));
        if phase == Phase::Keeping {
            return node;
        }
        node.keep();
        if phase == Phase::Prepared {
            return node;
        }
        if phase == Phase::Erasing {
            node.step(heard(source(), MID, Body::Abort));
            return node;
        }
        node.step(commit(source(), 1, vec![queued(2)]));
        assert_eq!(node.machine.phase(), phase);
        node
    }
}

fn words(node: &Node, actions: &[Action]) -> String {
    let word = |action: &Action| match action {
        Action::Send { to, frame } => word(*to, frame),
        Action::Keep { writes, .. } => rows(writes),
        Action::Restore { .. } => "restore".to_owned(),
        Action::Discard { .. } => "discard".to_owned(),
        Action::Install { prepared, writes, .. } => format!("install({}) {}", prepared.queue.len(), rows(writes)),
        Action::GoLive { queue } => format!("go live({})", queue.len()),
        Action::Redirect { queue } => format!("redirect({})", queue.len()),
        Action::Show { record, .. } => format!("show({})", record.epoch()),
        Action::Alarm(Alarm::InDoubt { .. }) => "alarm(in doubt)".to_owned(),
        Action::Alarm(Alarm::Unknown { .. }) => "alarm(unknown)".to_owned(),
    };
    let words: Vec<_> = std::iter::once(format!("{:?}", node.machine.phase()))
        .chain(actions.iter().map(word))
        .collect();
    words.join(" ")
}

fn signals(node: &Node) -> Vec<(&'static str, Signal<'static>)> {
    let another_order = MoveOrder {
        mid: OTHER_MID,
        ..order()
    };
    let other_order = MoveOrder {
        mid: OTHER_MID,
        orchestrator: source(),
        ..order()
    };
    let other = Frozen {
        sequence: 6,
        ..frozen()
    };
    let longer = vec![queued(1), queued(2)];
    let unfit = Body::Final {
        frozen: frozen(),
        image_bytes: 10,
        lineage: vec![spawn(), moved()],
        queue: Vec::new(),
    };
    let large = Body::Final {
        frozen: frozen(),
        image_bytes: u64::MAX,
        lineage: vec![spawn()],
        queue: Vec::new(),
    };
    let wrong = Body::Commit {
        record: Box::new(
            spawn()
                .moved(
                    target(),
                    MID,
                    4,
                    frozen().head,
                    &meshos_core::testing::samples::keypair(1),
                )
                .unwrap(),
        ),
        from: 1,
        tail: Vec::new(),
    };
    let mut another_commit = commit(source(), 1, vec![queued(2)]);
    if let Signal::Heard { frame, .. } = &mut another_commit {
        frame.mid = OTHER_MID;
    }
    vec![
        ("prepare", prepare(order())),
        ("prepare another", prepare(another_order)),
        (
            "prepare by another",
            heard(source(), OTHER_MID, Body::Prepare(Box::new(other_order))),
        ),
        ("final", final_of(source(), MID, frozen(), vec![queued(1)])),
        ("final, longer queue", final_of(source(), MID, frozen(), longer)),
        ("final, differs", final_of(source(), MID, other, Vec::new())),
        ("final, other lineage", heard(source(), MID, unfit)),
        ("final, too large", heard(source(), MID, large)),
        ("final another", final_of(source(), OTHER_MID, frozen(), Vec::new())),
        ("final by a stranger", final_of(stranger(), MID, frozen(), Vec::new())),
        ("restored", Signal::Restored(frozen())),
        ("restored, differs", Signal::Restored(other)),
        ("restore failed", Signal::RestoreFailed(Reason::StateFailed.into())),
        ("abort", heard(source(), MID, Body::Abort)),
        ("abort by the orchestrator", heard(orchestrator(), MID, Body::Abort)),
        ("abort another", heard(source(), OTHER_MID, Body::Abort)),
        ("commit", commit(source(), 1, vec![queued(2)])),
        ("commit another", another_commit),
        ("commit by a stranger", commit(stranger(), 1, Vec::new())),
        ("commit, does not fit", heard(source(), MID, wrong)),
        ("activated", Signal::Activated { epoch: 2 }),
        ("activated, another epoch", Signal::Activated { epoch: 3 }),
        ("install refused", Signal::InstallRefused),
        ("fenced", Signal::Fenced(Box::new(taken_over()))),
        ("fenced, not above", Signal::Fenced(Box::new(spawn()))),
        ("freeze", heard(orchestrator(), MID, Body::Freeze)),
        ("kept", Signal::Kept(node.ticket)),
        ("kept late", Signal::Kept(node.ticket.wrapping_sub(1))),
        ("failed", Signal::Failed(node.ticket)),
        ("timer", Signal::Timer),
        ("deadline", Signal::Timer),
    ]
}

/// What the machine makes of every signal in every phase: a dash for nothing.
pub fn found() -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for phase in Phase::ALL {
        let node = Node::at(phase);
        assert_eq!(node.machine.phase(), phase);
        let before = words(&node, &[]);
        for (name, signal) in signals(&node) {
            let mut node = node.clone();
            node.now += match name {
                "timer" => Duration::from_millis(1500),
                "deadline" => Duration::from_secs(600),
                _ => Duration::ZERO,
            };
            let actions = node.step(signal);
            let outcome = words(&node, &actions);
            let outcome = if outcome == before { "-".to_owned() } else { outcome };
            found.push((format!("{phase:?}"), name.to_owned(), outcome));
        }
    }
    found
}

#[test]
fn table() {
    compare(&found(), &TABLE);
}

/// Every pair that changes something; all others are late.
const TABLE: [(&str, &str, &str); 60] = [
    ("Idle", "prepare", "Reserved Accept>O"),
    ("Idle", "prepare another", "Reserved Accept'>O"),
    ("Idle", "prepare by another", "Reserved Accept'>S"),
    ("Idle", "commit", "Idle Outcome(unknown)>S alarm(unknown)"),
    ("Idle", "commit, does not fit", "Idle Outcome(unknown)>S alarm(unknown)"),
    ("Idle", "commit another", "Idle Outcome(unknown)'>S alarm(unknown)"),
    ("Reserved", "prepare", "Reserved Accept>O"),
    ("Reserved", "prepare another", "Reserved Accept'>O"),
    ("Reserved", "prepare by another", "Reserved Reject(Busy)'>S"),
    ("Reserved", "final", "Restoring restore"),
    ("Reserved", "final, longer queue", "Restoring restore"),
    ("Reserved", "final, differs", "Restoring restore"),
    ("Reserved", "final, too large", "Erasing keep[-2 done]"),
    ("Reserved", "abort", "Erasing keep[-2 done]"),
    ("Reserved", "fenced", "Idle"),
    ("Reserved", "deadline", "Idle"),
    (
        "Reserved",
        "commit another",
        "Reserved Outcome(unknown)'>S alarm(unknown)",
    ),
    ("Restoring", "prepare", "Restoring Accept>O"),
    ("Restoring", "prepare another", "Restoring Reject(Busy)'>O"),
    ("Restoring", "prepare by another", "Restoring Reject(Busy)'>S"),
    ("Restoring", "restored", "Keeping keep[prepared]"),
    ("Restoring", "restored, differs", "Erasing keep[-2 done]"),
    ("Restoring", "restore failed", "Erasing keep[-2 done]"),
    ("Restoring", "abort", "Erasing keep[-2 done]"),
    ("Restoring", "fenced", "Idle discard"),
    ("Restoring", "deadline", "Idle discard"),
    (
        "Restoring",
        "commit another",
        "Restoring Outcome(unknown)'>S alarm(unknown)",
    ),
    ("Keeping", "prepare", "Keeping Accept>O"),
    ("Keeping", "prepare another", "Keeping Reject(Busy)'>O"),
    ("Keeping", "prepare by another", "Keeping Reject(Busy)'>S"),
    ("Keeping", "abort", "Erasing keep[-2 done]"),
    ("Keeping", "fenced", "Erasing keep[-2]"),
    ("Keeping", "kept", "Prepared Prepared(1)>S"),
    (
        "Keeping",
        "commit another",
        "Keeping Outcome(unknown)'>S alarm(unknown)",
    ),
    ("Prepared", "prepare", "Prepared Accept>O"),
    ("Prepared", "prepare another", "Prepared Reject(Busy)'>O"),
    ("Prepared", "prepare by another", "Prepared Reject(Busy)'>S"),
    ("Prepared", "final", "Prepared Prepared(1)>S"),
    ("Prepared", "final, longer queue", "Prepared Prepared(1)>S"),
    ("Prepared", "final, differs", "Prepared Prepared(1)>S"),
    ("Prepared", "final, other lineage", "Prepared Prepared(1)>S"),
    ("Prepared", "final, too large", "Prepared Prepared(1)>S"),
    ("Prepared", "abort", "Erasing keep[-2 done]"),
    ("Prepared", "commit", "Installing install(1) keep[-2]"),
    ("Prepared", "fenced", "Erasing keep[-2]"),
    ("Prepared", "timer", "Prepared Prepared(1)>S"),
    ("Prepared", "deadline", "Prepared alarm(in doubt) Prepared(1)>S"),
    (
        "Prepared",
        "commit another",
        "Prepared Outcome(unknown)'>S alarm(unknown)",
    ),
    ("Installing", "prepare", "Installing Accept>O"),
    ("Installing", "prepare another", "Installing Reject(Busy)'>O"),
    ("Installing", "prepare by another", "Installing Reject(Busy)'>S"),
    ("Installing", "activated", "Idle Committed>S Committed>O go live(2)"),
    ("Installing", "install refused", "Prepared"),
    ("Installing", "fenced", "Erasing redirect(2) keep[-2]"),
    (
        "Installing",
        "commit another",
        "Installing Outcome(unknown)'>S alarm(unknown)",
    ),
    ("Erasing", "prepare", "Erasing Reject(Finished)>O"),
    ("Erasing", "prepare another", "Erasing Reject(Busy)'>O"),
    ("Erasing", "prepare by another", "Erasing Reject(Busy)'>S"),
    (
        "Erasing",
        "commit another",
        "Erasing Outcome(unknown)'>S alarm(unknown)",
    ),
    ("Erasing", "kept", "Idle discard"),
];

fn answered(signal: Signal<'_>, node: &mut Node) -> String {
    let actions = node.step(signal);
    words(node, &actions)
}

/// V6: neither time nor the orchestrator ends a doubt.
#[test]
fn in_doubt_it_asks_for_ever_and_tells_somebody_once() {
    let mut node = Node::at(Phase::Prepared);
    let (mut alarms, mut waits) = (0, Vec::new());
    for _ in 0..100 {
        let at = node.machine.wake_at().unwrap();
        waits.push(at - node.now);
        node.now = at;
        let outcome = answered(Signal::Timer, &mut node);
        assert!(outcome.starts_with("Prepared"), "{outcome}");
        alarms += usize::from(outcome.contains("alarm"));
    }
    assert_eq!(alarms, 1);
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(30)));
    assert_eq!(answered(heard(orchestrator(), MID, Body::Abort), &mut node), "Prepared");
    assert!(answered(commit(source(), 1, Vec::new()), &mut node).starts_with("Installing install"));
}

#[test]
fn what_is_held_is_what_came_first() {
    let mut node = Node::at(Phase::Prepared);
    let longer = final_of(source(), MID, frozen(), vec![queued(1), queued(2), queued(3)]);
    assert_eq!(answered(longer, &mut node), "Prepared Prepared(1)>S");
    // The tail begins where the queue that is held ends, or before.
    node.step(commit(source(), 0, vec![queued(1), queued(2), queued(3)]));
    let live = answered(Signal::Activated { epoch: 2 }, &mut node);
    assert_eq!(live, "Idle Committed>S Committed>O go live(3)");
    assert_eq!(node.machine.counters().taken_in, 3);
}

/// A source that began anew has no events any more.
#[test]
fn a_commit_without_the_tail_brings_what_is_held() {
    let mut node = Node::at(Phase::Prepared);
    node.step(commit(source(), 0, Vec::new()));
    assert_eq!(
        answered(Signal::Activated { epoch: 2 }, &mut node),
        "Idle Committed>S Committed>O go live(1)"
    );
}

#[test]
fn who_owns_or_owned_says_so_again_and_only_while_it_may_act() {
    let mut node = Node::at(Phase::Installing);
    node.step(Signal::Activated { epoch: 2 });
    let again = |owned: Option<u64>, node: &mut Node| {
        let mut signal = commit(source(), 1, Vec::new());
        if let Signal::Heard { owned: at, .. } = &mut signal {
            *at = owned;
        }
        answered(signal, node)
    };
    assert_eq!(again(Some(2), &mut node), "Idle Committed>S");
    assert_eq!(again(None, &mut node), "Idle", "it may have to register first");
    node.known.learn(&taken_over());
    assert_eq!(
        again(None, &mut node),
        "Idle Committed>S",
        "another owns in a later epoch"
    );
}

#[test]
fn a_restore_that_fails_is_told_to_both_when_it_is_durable() {
    let mut node = Node::at(Phase::Restoring);
    let failed = Signal::RestoreFailed(Reason::StateFailed.into());
    assert_eq!(answered(failed, &mut node), "Erasing keep[-2 done]");
    let ticket = node.ticket;
    let told = answered(Signal::Kept(ticket), &mut node);
    assert_eq!(told, "Idle Reject(StateFailed)>S Reject(StateFailed)>O discard");
    assert_eq!(answered(prepare(order()), &mut node), "Idle Reject(Finished)>O");
}

#[test]
fn a_prepare_is_refused_with_a_reason() {
    let with = |change: fn(&mut Node, &mut Signal<'static>)| {
        let (mut node, mut signal) = (Node::new(), prepare(order()));
        change(&mut node, &mut signal);
        answered(signal, &mut node)
    };
    let refused = with(|_, signal| {
        if let Signal::Heard { refusal, .. } = signal {
            *refusal = Some(Reason::NoFactory.into());
        }
    });
    assert_eq!(refused, "Idle Reject(NoFactory)>O");
    let late = with(|_, signal| {
        if let Signal::Heard { wall, .. } = signal {
            *wall = order().not_after.plus(Duration::from_millis(1));
        }
    });
    assert_eq!(late, "Idle Reject(Expired)>O");
    assert_eq!(
        with(|node, _| node.known.learn(&taken_over())),
        "Idle Reject(NotOwner)>O"
    );
    assert_eq!(with(|node, _| node.known.abort(MID, WALL)), "Idle Reject(Finished)>O");
    let small = TargetConfig {
        image_max: 9,
        ..TargetConfig::default()
    };
    let mut node = Node::new();
    node.machine = MoveTarget::new(target(), entity(), small, None);
    assert_eq!(answered(prepare(order()), &mut node), "Idle Reject(TooLarge)>O");
}

#[test]
fn a_write_that_failed_is_tried_again() {
    for (phase, again) in [
        (Phase::Keeping, "Keeping keep[prepared]"),
        (Phase::Erasing, "Erasing keep[-2 done]"),
    ] {
        let mut node = Node::at(phase);
        let ticket = node.ticket;
        node.step(Signal::Failed(ticket));
        node.now += Duration::from_secs(5);
        assert_eq!(answered(Signal::Timer, &mut node), again);
        assert_eq!(
            answered(Signal::Kept(ticket), &mut node),
            format!("{phase:?}"),
            "of the write before"
        );
    }
}

/// V14: with a directory the record is registered there, and a lease is valid, before the source hears that it may retire.
#[test]
fn it_confirms_after_the_directory_knows_it() {
    let config = OwnerConfig::default();
    let mut owner = Owner::new(target(), 1, config);
    let mut node = Node::at(Phase::Prepared);
    let (at, mut decided) = (node.now, Vec::new());
    let installed = node.step(commit(source(), 1, Vec::new()));
    let [Action::Install { record, .. }] = &installed[..] else {
        panic!("{installed:?}")
    };
    let install = owner::Signal::Install {
        run: 1,
        record: **record,
    };
    owner.step(at, install, &mut decided);
    let [owner::Action::Keep { ticket, .. }] = decided[..] else {
        panic!("{decided:?}")
    };
    decided.clear();
    owner.step(at, owner::Signal::Kept(ticket), &mut decided);
    let [owner::Action::Send(renew)] = &decided[..] else {
        panic!("{decided:?}")
    };
    assert_eq!(renew.body, ownership_frame::Body::Renew(moved()));
    assert_eq!(node.machine.phase(), Phase::Installing);
    let answer = owner::Answer::LeaseOk {
        epoch: 2,
        lease: Duration::from_secs(3),
    };
    let ask = renew.ask;
    decided.clear();
    owner.step(at, owner::Signal::Answer { ask, answer }, &mut decided);
    assert_eq!(decided, [owner::Action::Activate { epoch: 2 }]);
    assert_eq!(
        answered(Signal::Activated { epoch: 2 }, &mut node),
        "Idle Committed>S Committed>O go live(1)"
    );
}

/// A move that was committed and lost to a takeover: its source has to hear of that, or it would go on for ever.
#[test]
fn who_commits_what_lost_to_a_takeover_is_shown_the_record_above() {
    let mut node = Node::new();
    node.known.learn(&taken_over());
    assert_eq!(answered(commit(source(), 0, Vec::new()), &mut node), "Idle show(4)");
}
