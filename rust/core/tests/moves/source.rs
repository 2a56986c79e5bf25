//! The source of a move.

use std::time::Duration;

use meshos_core::move_frame::{Body, QUEUE_BYTES_MAX, Reason, Reject};
use meshos_core::move_known::Known;
use meshos_core::move_rows::{Frozen, MoveOrder, Outcome, Queued};
use meshos_core::move_source::{Action, Gate, MoveSource, Phase, Signal, SourceConfig};

use crate::common::{
    MID, OTHER_MID, START, WALL, compare, entity, frame_of, frozen, moved, named, orchestrator, order, queued, rows,
    source, spawn, stranger, taken_over, target, word,
};

struct Node {
    machine: MoveSource,
    known: Known,
    now: Duration,
    ticket: u64,
}

impl Clone for Node {
    fn clone(&self) -> Self {
        Self {
            machine: self.machine.clone(),
            known: self.known.clone(),
            ..*self
        }
    }
}

fn heard(from: meshos_core::id::EntityId, mid: [u8; 16], body: Body<'static>) -> Signal<'static> {
    Signal::Heard {
        from,
        frame: Box::new(frame_of(mid, body)),
        wall: WALL,
        owned: Some(1),
        refusal: None,
    }
}

fn prepare(order: MoveOrder) -> Signal<'static> {
    heard(orchestrator(), order.mid, Body::Prepare(Box::new(order)))
}

fn other_order() -> MoveOrder {
    MoveOrder {
        mid: OTHER_MID,
        ..order()
    }
}

fn frozen_signal() -> Signal<'static> {
    Signal::Frozen {
        frozen: frozen(),
        image_bytes: 10,
        lineage: vec![spawn()],
        record: Box::new(moved()),
    }
}

fn prepared(idx: u64, frozen: Frozen) -> Signal<'static> {
    heard(target(), MID, Body::Prepared { idx, frozen })
}

/// What a target says of a move that it does not know.
fn unknown() -> Body<'static> {
    Body::Outcome {
        outcome: None,
        record: None,
    }
}

impl Node {
    fn new() -> Self {
        let mut known = Known::nothing(entity());
        known.learn(&spawn());
        Self {
            machine: MoveSource::new(source(), entity(), SourceConfig::default(), None),
            known,
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
        node.step(heard(orchestrator(), MID, Body::Freeze));
        if phase == Phase::Intending {
            return node;
        }
        node.keep();
        if phase == Phase::Freezing {
            return node;
        }
        node.step(frozen_signal());
        if phase == Phase::Frozen {
            return node;
        }
        if phase == Phase::Aborting {
            node.step(heard(orchestrator(), MID, Body::AbortReq));
            return node;
        }
        node.step(prepared(0, frozen()));
        if phase == Phase::Committing {
            return node;
        }
        node.keep();
        if phase == Phase::Committed {
            return node;
        }
        node.step(heard(target(), MID, Body::Committed));
        assert_eq!(node.machine.phase(), phase);
        node
    }
}

fn words(node: &Node, actions: &[Action]) -> String {
    let word = |action: &Action| match action {
        Action::Send { to, frame } => word(*to, frame),
        Action::SendChunk { to, index, .. } => format!("chunk({index})>{}", named(*to)),
        Action::Keep { writes, .. } => rows(writes),
        Action::Freeze { .. } => "freeze".to_owned(),
        Action::Waits(_) => "waits".to_owned(),
        Action::Busy(_) => "busy".to_owned(),
        Action::Thaw { queue } => format!("thaw({})", queue.len()),
        Action::Redirect { queue } => format!("redirect({})", queue.len()),
        Action::Fence(_) => "fence".to_owned(),
        Action::Retire { .. } => "retire".to_owned(),
        Action::Ended { outcome, .. } => format!("ended({outcome:?})"),
    };
    let words: Vec<_> = std::iter::once(format!("{:?}", node.machine.phase()))
        .chain(actions.iter().map(word))
        .collect();
    words.join(" ")
}

fn signals(node: &Node) -> Vec<(&'static str, Signal<'static>)> {
    let other = Frozen {
        sequence: 6,
        ..frozen()
    };
    let of = |from, mid, body| heard(from, mid, body);
    vec![
        ("prepare", prepare(order())),
        ("prepare another", prepare(other_order())),
        ("freeze", of(orchestrator(), MID, Body::Freeze)),
        ("freeze another", of(orchestrator(), OTHER_MID, Body::Freeze)),
        ("freeze by a stranger", of(stranger(), MID, Body::Freeze)),
        ("abort req", of(orchestrator(), MID, Body::AbortReq)),
        ("abort req of an operator", of(stranger(), MID, Body::AbortReq)),
        ("abort req another", of(orchestrator(), OTHER_MID, Body::AbortReq)),
        ("reject", of(target(), MID, Body::Reject(Reason::StateFailed.into()))),
        (
            "reject by a stranger",
            of(stranger(), MID, Body::Reject(Reason::Busy.into())),
        ),
        ("frozen", frozen_signal()),
        ("freeze failed", Signal::FreezeFailed(Reason::StateFailed.into())),
        ("prepared", prepared(0, frozen())),
        ("prepared, differs", prepared(0, other)),
        ("prepared, too many", prepared(1, frozen())),
        (
            "prepared another",
            of(target(), OTHER_MID, Body::Prepared { idx: 0, frozen: other }),
        ),
        (
            "prepared by a stranger",
            of(
                stranger(),
                MID,
                Body::Prepared {
                    idx: 0,
                    frozen: frozen(),
                },
            ),
        ),
        ("committed", of(target(), MID, Body::Committed)),
        ("committed another", of(target(), OTHER_MID, Body::Committed)),
        ("committed by a stranger", of(stranger(), MID, Body::Committed)),
        ("retire", of(orchestrator(), MID, Body::Retire)),
        ("retire another", of(orchestrator(), OTHER_MID, Body::Retire)),
        ("retire by the target", of(target(), MID, Body::Retire)),
        (
            "pull",
            of(
                target(),
                MID,
                Body::Pull {
                    image: frozen().image,
                    index: 3,
                },
            ),
        ),
        (
            "pull by a stranger",
            of(
                stranger(),
                MID,
                Body::Pull {
                    image: frozen().image,
                    index: 3,
                },
            ),
        ),
        (
            "pull another image",
            of(
                target(),
                MID,
                Body::Pull {
                    image: frozen().head,
                    index: 3,
                },
            ),
        ),
        (
            "pull another",
            of(
                target(),
                OTHER_MID,
                Body::Pull {
                    image: frozen().image,
                    index: 3,
                },
            ),
        ),
        (
            "reject another",
            of(target(), OTHER_MID, Body::Reject(Reason::StateFailed.into())),
        ),
        ("outcome", of(target(), MID, unknown())),
        ("outcome another", of(target(), OTHER_MID, unknown())),
        ("accept", of(target(), MID, Body::Accept)),
        ("abort", of(target(), MID, Body::Abort)),
        ("event", Signal::Event(queued(1))),
        ("fenced", Signal::Fenced(Box::new(taken_over()))),
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
const TABLE: [(&str, &str, &str); 109] = [
    ("Idle", "prepare", "Reserved Accept>O"),
    ("Idle", "prepare another", "Reserved Accept'>O"),
    ("Idle", "freeze", "Idle keep[done]"),
    ("Idle", "freeze another", "Idle keep[done]"),
    ("Idle", "freeze by a stranger", "Idle keep[done]"),
    ("Idle", "abort req", "Idle keep[done]"),
    ("Idle", "abort req of an operator", "Idle keep[done]"),
    ("Idle", "abort req another", "Idle keep[done]"),
    ("Idle", "prepared", "Idle keep[done]"),
    ("Idle", "prepared, differs", "Idle keep[done]"),
    ("Idle", "prepared, too many", "Idle keep[done]"),
    ("Idle", "prepared another", "Idle keep[done]"),
    ("Idle", "prepared by a stranger", "Idle keep[done]"),
    ("Reserved", "prepare", "Reserved Accept>O"),
    ("Reserved", "prepare another", "Reserved Reject(Busy)'>O"),
    ("Reserved", "freeze", "Intending keep[intent]"),
    ("Reserved", "freeze another", "Reserved keep[done]"),
    ("Reserved", "abort req", "Aborting keep[done -1]"),
    ("Reserved", "abort req of an operator", "Aborting keep[done -1]"),
    ("Reserved", "abort req another", "Reserved keep[done]"),
    ("Reserved", "reject", "Aborting keep[done -1]"),
    ("Reserved", "prepared another", "Reserved keep[done]"),
    ("Reserved", "fenced", "Aborting keep[done -1]"),
    ("Reserved", "deadline", "Aborting keep[done -1]"),
    ("Intending", "prepare", "Intending Accept>O"),
    ("Intending", "prepare another", "Intending Reject(Busy)'>O"),
    ("Intending", "freeze another", "Intending keep[done]"),
    ("Intending", "abort req", "Aborting keep[done -1]"),
    ("Intending", "abort req of an operator", "Aborting keep[done -1]"),
    ("Intending", "abort req another", "Intending keep[done]"),
    ("Intending", "reject", "Aborting keep[done -1]"),
    ("Intending", "prepared another", "Intending keep[done]"),
    ("Intending", "fenced", "Aborting keep[done -1]"),
    ("Intending", "kept", "Freezing freeze"),
    ("Intending", "deadline", "Aborting keep[done -1]"),
    ("Freezing", "prepare", "Freezing Accept>O"),
    ("Freezing", "prepare another", "Freezing Reject(Busy)'>O"),
    ("Freezing", "freeze another", "Freezing keep[done]"),
    ("Freezing", "abort req", "Aborting keep[done -1]"),
    ("Freezing", "abort req of an operator", "Aborting keep[done -1]"),
    ("Freezing", "abort req another", "Freezing keep[done]"),
    ("Freezing", "reject", "Aborting keep[done -1]"),
    ("Freezing", "frozen", "Frozen Final(0)>T"),
    ("Freezing", "freeze failed", "Aborting keep[done -1]"),
    ("Freezing", "prepared another", "Freezing keep[done]"),
    ("Freezing", "event", "Freezing waits"),
    ("Freezing", "fenced", "Aborting keep[done -1]"),
    ("Freezing", "deadline", "Aborting keep[done -1]"),
    ("Frozen", "prepare", "Frozen Accept>O"),
    ("Frozen", "prepare another", "Frozen Reject(Busy)'>O"),
    ("Frozen", "freeze another", "Frozen keep[done]"),
    ("Frozen", "abort req", "Aborting keep[done -1]"),
    ("Frozen", "abort req of an operator", "Aborting keep[done -1]"),
    ("Frozen", "abort req another", "Frozen keep[done]"),
    ("Frozen", "reject", "Aborting keep[done -1]"),
    ("Frozen", "prepared", "Committing keep[record]"),
    ("Frozen", "prepared, differs", "Aborting keep[done -1]"),
    ("Frozen", "prepared, too many", "Aborting keep[done -1]"),
    ("Frozen", "prepared another", "Frozen keep[done]"),
    ("Frozen", "pull", "Frozen chunk(3)>T"),
    ("Frozen", "event", "Frozen waits"),
    ("Frozen", "fenced", "Aborting keep[done -1]"),
    ("Frozen", "timer", "Frozen Final(0)>T"),
    ("Frozen", "deadline", "Aborting keep[done -1]"),
    ("Committing", "prepare", "Committing Accept>O"),
    ("Committing", "prepare another", "Committing Reject(Busy)'>O"),
    ("Committing", "freeze another", "Committing keep[done]"),
    ("Committing", "abort req another", "Committing keep[done]"),
    ("Committing", "prepared another", "Committing keep[done]"),
    ("Committing", "pull", "Committing chunk(3)>T"),
    ("Committing", "event", "Committing waits"),
    (
        "Committing",
        "kept",
        "Committed fence ended(Committed) Commit(0+0)>T Commit(0+0)>O",
    ),
    ("Committed", "prepare", "Committed Reject(Finished)>O"),
    ("Committed", "prepare another", "Committed Reject(NotOwner)'>O"),
    ("Committed", "freeze", "Committed Committed!>O"),
    ("Committed", "freeze another", "Committed keep[done]"),
    ("Committed", "abort req", "Committed Committed!>O"),
    ("Committed", "abort req of an operator", "Committed Committed!>X"),
    ("Committed", "abort req another", "Committed keep[done]"),
    ("Committed", "prepared", "Committed Commit(0+0)>T"),
    ("Committed", "prepared, differs", "Committed Commit(0+0)>T"),
    ("Committed", "prepared, too many", "Committed Commit(0+0)>T"),
    ("Committed", "prepared another", "Committed keep[done]"),
    ("Committed", "committed", "Retiring keep[retired -1]"),
    ("Committed", "retire", "Retiring keep[retired -1]"),
    ("Committed", "pull", "Committed chunk(3)>T"),
    ("Committed", "fenced", "Retiring keep[retired -1]"),
    ("Committed", "timer", "Committed Commit(0+0)>T"),
    ("Committed", "deadline", "Committed Commit(0+0)>T"),
    ("Retiring", "prepare", "Retiring Reject(Finished)>O"),
    ("Retiring", "prepare another", "Retiring Reject(NotOwner)'>O"),
    ("Retiring", "freeze", "Retiring Committed!>O"),
    ("Retiring", "freeze another", "Retiring keep[done]"),
    ("Retiring", "abort req", "Retiring Committed!>O"),
    ("Retiring", "abort req of an operator", "Retiring Committed!>X"),
    ("Retiring", "abort req another", "Retiring keep[done]"),
    ("Retiring", "prepared", "Retiring Commit(0+0)>T"),
    ("Retiring", "prepared, differs", "Retiring Commit(0+0)>T"),
    ("Retiring", "prepared, too many", "Retiring Commit(0+0)>T"),
    ("Retiring", "prepared another", "Retiring keep[done]"),
    ("Retiring", "pull", "Retiring chunk(3)>T"),
    ("Retiring", "kept", "Idle retire"),
    ("Aborting", "prepare", "Aborting Reject(Finished)>O"),
    ("Aborting", "prepare another", "Aborting Reject(Busy)'>O"),
    ("Aborting", "freeze another", "Aborting keep[done]"),
    ("Aborting", "abort req another", "Aborting keep[done]"),
    ("Aborting", "prepared another", "Aborting keep[done]"),
    ("Aborting", "event", "Aborting waits"),
    ("Aborting", "kept", "Idle thaw(0) ended(Aborted) Abort>T Aborted!>O"),
];

fn answered(signal: Signal<'_>, node: &mut Node) -> String {
    let actions = node.step(signal);
    words(node, &actions)
}

#[test]
fn a_prepare_is_accepted_only_by_an_owner_that_may_act_in_the_epoch_of_the_order() {
    let with = |change: fn(&mut Signal<'static>)| {
        let mut signal = prepare(order());
        change(&mut signal);
        answered(signal, &mut Node::new())
    };
    assert_eq!(with(|_| {}), "Reserved Accept>O");
    let lease_over = with(|signal| {
        if let Signal::Heard { owned, .. } = signal {
            *owned = None;
        }
    });
    assert_eq!(lease_over, "Idle Reject(NotOwner)>O");
    let another_epoch = with(|signal| {
        if let Signal::Heard { owned, .. } = signal {
            *owned = Some(2);
        }
    });
    assert_eq!(another_epoch, "Idle Reject(NotOwner)>O");
    let late = with(|signal| {
        if let Signal::Heard { wall, .. } = signal {
            *wall = order().not_after.plus(Duration::from_millis(1));
        }
    });
    assert_eq!(late, "Idle Reject(Expired)>O");
    let refused = with(|signal| {
        if let Signal::Heard { refusal, .. } = signal {
            *refusal = Some(Reject::from(Reason::NotPermitted));
        }
    });
    assert_eq!(refused, "Idle Reject(NotPermitted)>O");
    let not_the_orchestrator = with(|signal| {
        if let Signal::Heard { from, .. } = signal {
            *from = stranger();
        }
    });
    assert_eq!(not_the_orchestrator, "Idle");
    let for_another = MoveOrder {
        source: stranger(),
        ..order()
    };
    assert_eq!(answered(prepare(for_another), &mut Node::new()), "Idle");
    let mut node = Node::new();
    node.known.learn(&moved());
    assert_eq!(answered(prepare(order()), &mut node), "Idle Reject(Finished)>O");
}

/// V7: a move that is aborted is remembered before anybody hears that it is.
#[test]
fn a_move_that_was_aborted_never_begins_again() {
    let mut node = Node::at(Phase::Aborting);
    assert_eq!(node.known.outcome(&MID), None);
    let ticket = node.ticket;
    assert_eq!(
        answered(Signal::Kept(ticket), &mut node),
        "Idle thaw(0) ended(Aborted) Abort>T Aborted!>O"
    );
    assert_eq!(node.known.outcome(&MID), Some(Outcome::Aborted));
    assert_eq!(answered(prepare(order()), &mut node), "Idle Reject(Finished)>O");
    assert_eq!(
        answered(heard(orchestrator(), MID, Body::Freeze), &mut node),
        "Idle Aborted!>O"
    );
    assert_eq!(answered(prepared(0, frozen()), &mut node), "Idle Abort>T");

    let mut never = Node::new();
    assert_eq!(
        answered(heard(orchestrator(), MID, Body::AbortReq), &mut never),
        "Idle keep[done]"
    );
    assert_eq!(
        answered(prepare(order()), &mut never),
        "Idle Reject(Finished)>O",
        "while it is being kept"
    );
    let ticket = never.ticket;
    assert_eq!(answered(Signal::Kept(ticket), &mut never), "Idle Aborted!>O");
    assert_eq!(answered(prepare(order()), &mut never), "Idle Reject(Finished)>O");
}

/// V8: what the target restored is compared.
#[test]
fn nothing_is_committed_against_another_state_or_without_a_lease() {
    let other = Frozen {
        image: frozen().head,
        ..frozen()
    };
    assert_eq!(
        answered(prepared(0, other), &mut Node::at(Phase::Frozen)),
        "Aborting keep[done -1]"
    );
    let mut node = Node::at(Phase::Frozen);
    let mut unleased = prepared(0, frozen());
    if let Signal::Heard { owned, .. } = &mut unleased {
        *owned = None;
    }
    assert_eq!(answered(unleased, &mut node), "Frozen");
    assert_eq!(node.machine.counters().unleased, 1);
}

#[test]
fn after_the_record_only_forward_also_when_its_write_fails() {
    let mut node = Node::at(Phase::Committing);
    let ticket = node.ticket;
    assert_eq!(answered(Signal::Failed(ticket), &mut node), "Committing");
    assert_eq!(
        answered(heard(orchestrator(), MID, Body::AbortReq), &mut node),
        "Committing"
    );
    node.now += Duration::from_secs(600);
    assert_eq!(answered(Signal::Timer, &mut node), "Committing keep[record]");
    assert_eq!(
        answered(Signal::Kept(ticket), &mut node),
        "Committing",
        "of the write before"
    );
    let ticket = node.ticket;
    assert!(answered(Signal::Kept(ticket), &mut node).starts_with("Committed fence"));
    assert_eq!(
        answered(heard(orchestrator(), MID, Body::AbortReq), &mut node),
        "Committed Committed!>O"
    );
}

#[test]
fn events_that_wait_are_shipped_in_their_order_and_what_does_not_fit_is_redirected() {
    let mut node = Node::at(Phase::Frozen);
    assert_eq!(node.machine.gate(), Gate::Wait);
    let large = |sequence| Queued {
        payload: vec![7; QUEUE_BYTES_MAX / 3],
        ..queued(sequence)
    };
    for sequence in 1..=7 {
        assert_eq!(answered(Signal::Event(large(sequence)), &mut node), "Frozen waits");
    }
    assert_eq!(
        answered(Signal::Event(large(7)), &mut node),
        "Frozen waits",
        "it waits already"
    );
    node.now += Duration::from_millis(100);
    assert_eq!(answered(Signal::Timer, &mut node), "Frozen Final(2)>T");
    node.step(prepared(1, frozen()));
    assert_eq!(answered(Signal::Event(large(8)), &mut node), "Committing waits");
    let ticket = node.ticket;
    let committed = answered(Signal::Kept(ticket), &mut node);
    assert_eq!(
        committed,
        "Committed fence ended(Committed) Commit(1+2)>T Commit(0+0)>O redirect(5)"
    );
    assert_eq!(
        answered(prepared(1, frozen()), &mut node),
        "Committed Commit(1+2)>T",
        "the same again"
    );
    let counters = node.machine.counters();
    assert_eq!(
        (
            counters.queued,
            counters.shipped,
            counters.redirected,
            counters.repeated
        ),
        (8, 3, 5, 1)
    );
    assert_eq!(node.machine.gate(), Gate::Elsewhere);
}

#[test]
fn a_full_queue_refuses_and_an_abort_thaws_it() {
    let mut node = Node::new();
    let config = SourceConfig {
        queue_max: 2,
        ..SourceConfig::default()
    };
    node.machine = MoveSource::new(source(), entity(), config, None);
    node.step(prepare(order()));
    node.step(heard(orchestrator(), MID, Body::Freeze));
    node.keep();
    for (sequence, outcome) in [(1, "waits"), (2, "waits"), (3, "busy")] {
        assert_eq!(
            answered(Signal::Event(queued(sequence)), &mut node),
            format!("Freezing {outcome}")
        );
    }
    node.step(Signal::FreezeFailed(Reject::from(Reason::StateFailed)));
    let actions = node.keep();
    let Some(Action::Thaw { queue }) = actions.first() else {
        panic!("{actions:?}")
    };
    assert_eq!(queue, &[queued(1), queued(2)]);
    let why = actions.iter().find_map(|action| match action {
        Action::Ended { why, .. } => why.clone(),
        _ => None,
    });
    assert_eq!(why, Some(Reject::from(Reason::StateFailed)));
    assert_eq!(node.machine.counters().thawed, 2);
}

/// V12, and section 5: a source that comes back goes on telling the target, without the events that it lost.
#[test]
fn a_source_that_comes_back_after_its_record_goes_on() {
    let mut node = Node::new();
    node.known.learn(&moved());
    let unretired = meshos_core::move_known::Unretired {
        record: moved(),
        orchestrator: Some(orchestrator()),
    };
    node.machine = MoveSource::new(source(), entity(), SourceConfig::default(), Some(unretired));
    assert_eq!(answered(Signal::Timer, &mut node), "Committed Commit(0+0)>T");
    assert_eq!(
        answered(heard(target(), MID, Body::Committed), &mut node),
        "Retiring keep[retired -1]"
    );
    assert_eq!(node.keep(), [Action::Retire { mid: MID }]);
    assert_eq!(
        answered(prepared(0, frozen()), &mut node),
        "Idle Commit(0+0)>T",
        "for ever"
    );
}

/// V16: that its own record comes back proves nothing.
#[test]
fn only_the_target_or_a_record_above_ends_a_source() {
    let mut node = Node::at(Phase::Committed);
    assert_eq!(answered(Signal::Fenced(Box::new(moved())), &mut node), "Committed");
    assert_eq!(
        answered(heard(stranger(), MID, Body::Committed), &mut node),
        "Committed"
    );
    assert_eq!(
        answered(heard(target(), OTHER_MID, Body::Committed), &mut node),
        "Committed"
    );
    assert_eq!(
        answered(Signal::Fenced(Box::new(taken_over())), &mut node),
        "Retiring keep[retired -1]"
    );
}

/// The record is being written when a higher one becomes durable: the target is told, and the state may go.
#[test]
fn a_takeover_during_the_commit_ends_the_source_after_it() {
    let mut node = Node::at(Phase::Committing);
    assert_eq!(
        answered(Signal::Fenced(Box::new(taken_over())), &mut node),
        "Committing"
    );
    let ticket = node.ticket;
    let told = answered(Signal::Kept(ticket), &mut node);
    assert_eq!(
        told,
        "Retiring fence ended(Committed) Commit(0+0)>T Commit(0+0)>O keep[retired -1]"
    );
}

/// A write that failed may be durable after all: a move that may be aborted does not begin.
#[test]
fn what_may_be_aborted_is_aborted_before_it_can_begin() {
    let mut node = Node::new();
    let asked = || heard(orchestrator(), MID, Body::AbortReq);
    assert_eq!(answered(asked(), &mut node), "Idle keep[done]");
    let ticket = node.ticket;
    assert_eq!(answered(Signal::Failed(ticket), &mut node), "Idle");
    assert_eq!(answered(prepare(order()), &mut node), "Idle Reject(Finished)>O");
    assert!(node.machine.is_answering());
    node.now = node.machine.wake_at().unwrap();
    assert_eq!(answered(Signal::Timer, &mut node), "Idle keep[done]");
    assert_eq!(answered(Signal::Kept(ticket), &mut node), "Idle", "of the write before");
    let ticket = node.ticket;
    assert_eq!(answered(Signal::Kept(ticket), &mut node), "Idle Aborted!>O");
    assert_eq!(node.machine.wake_at(), None);
}
