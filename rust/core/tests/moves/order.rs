//! Who sees to a move.

use std::time::Duration;

use meshos_core::id::EntityId;
use meshos_core::move_frame::{Body, Reason};
use meshos_core::move_order::{Action, MoveOrchestrator, OrderConfig, Phase, Signal};
use meshos_core::move_rows::Outcome;

use crate::common::{START, compare, moved, order, rows, source, stranger, target, word};

#[derive(Clone)]
struct Node {
    machine: MoveOrchestrator,
    now: Duration,
    ticket: u64,
}

fn heard(from: EntityId, body: Body<'static>) -> Signal<'static> {
    Signal::Heard { from, body }
}

fn outcome(outcome: Option<Outcome>) -> Body<'static> {
    let record = (outcome == Some(Outcome::Committed)).then(|| Box::new(moved()));
    Body::Outcome { outcome, record }
}

impl Node {
    fn new() -> (Self, Action) {
        let (machine, action) = MoveOrchestrator::begin(order(), OrderConfig::default());
        let node = Self {
            machine,
            now: START,
            ticket: 1,
        };
        (node, action)
    }

    fn step(&mut self, signal: Signal<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        self.machine.step(self.now, signal, &mut actions);
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
        let (mut node, _) = Self::new();
        if phase == Phase::Ordering {
            return node;
        }
        node.keep();
        if phase == Phase::Preparing {
            return node;
        }
        if phase == Phase::Asking {
            node.step(Signal::Abort);
            return node;
        }
        node.step(heard(source(), Body::Accept));
        node.step(heard(target(), Body::Accept));
        if phase == Phase::Driving {
            return node;
        }
        node.step(heard(target(), Body::Committed));
        if phase == Phase::Ended {
            node.keep();
        }
        assert_eq!(node.machine.phase(), phase);
        node
    }
}

fn words(node: &Node, actions: &[Action]) -> String {
    let word = |action: &Action| match action {
        Action::Send { to, frame } => word(*to, frame),
        Action::Keep { writes, .. } => rows(writes),
        Action::Ended { outcome, why } => {
            let why = why.as_ref().map_or(String::new(), |why| format!(", {:?}", why.reason));
            format!("ended({outcome:?}{why})")
        }
    };
    let words: Vec<_> = std::iter::once(format!("{:?}", node.machine.phase()))
        .chain(actions.iter().map(word))
        .collect();
    words.join(" ")
}

fn signals(node: &Node) -> Vec<(&'static str, Signal<'static>)> {
    let committed = Body::Commit {
        record: Box::new(moved()),
        from: 0,
        tail: Vec::new(),
    };
    vec![
        ("accept of the source", heard(source(), Body::Accept)),
        ("accept of the target", heard(target(), Body::Accept)),
        ("accept of a stranger", heard(stranger(), Body::Accept)),
        (
            "reject of the source",
            heard(source(), Body::Reject(Reason::Busy.into())),
        ),
        (
            "reject of the target",
            heard(target(), Body::Reject(Reason::StateFailed.into())),
        ),
        ("outcome: committed", heard(source(), outcome(Some(Outcome::Committed)))),
        ("outcome: aborted", heard(source(), outcome(Some(Outcome::Aborted)))),
        ("outcome: unknown", heard(source(), outcome(None))),
        (
            "outcome of the target",
            heard(target(), outcome(Some(Outcome::Aborted))),
        ),
        ("committed", heard(target(), Body::Committed)),
        ("committed of the source", heard(source(), Body::Committed)),
        ("commit", heard(source(), committed)),
        ("abort", Signal::Abort),
        ("kept", Signal::Kept(node.ticket)),
        ("kept late", Signal::Kept(node.ticket + 1)),
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
                "timer" => Duration::from_secs(1),
                "deadline" => Duration::from_secs(60),
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
const TABLE: [(&str, &str, &str); 22] = [
    ("Ordering", "kept", "Preparing Prepare>S Prepare>T"),
    ("Preparing", "reject of the source", "Asking AbortReq>S"),
    ("Preparing", "reject of the target", "Asking AbortReq>S"),
    ("Preparing", "outcome: committed", "Closing keep[ended -5]"),
    ("Preparing", "outcome: aborted", "Closing keep[ended -5]"),
    ("Preparing", "committed", "Closing keep[ended -5]"),
    ("Preparing", "abort", "Asking AbortReq>S"),
    ("Preparing", "timer", "Preparing Prepare>S Prepare>T"),
    ("Preparing", "deadline", "Asking AbortReq>S"),
    ("Driving", "reject of the target", "Asking AbortReq>S"),
    ("Driving", "outcome: committed", "Closing keep[ended -5]"),
    ("Driving", "outcome: aborted", "Closing keep[ended -5]"),
    ("Driving", "committed", "Closing keep[ended -5]"),
    ("Driving", "abort", "Asking AbortReq>S"),
    ("Driving", "timer", "Driving Freeze>S"),
    ("Driving", "deadline", "Asking AbortReq>S"),
    ("Asking", "outcome: committed", "Closing keep[ended -5]"),
    ("Asking", "outcome: aborted", "Closing keep[ended -5]"),
    ("Asking", "committed", "Closing keep[ended -5]"),
    ("Asking", "timer", "Asking AbortReq>S"),
    ("Asking", "deadline", "Asking AbortReq>S"),
    ("Closing", "kept", "Ended Retire>S ended(Committed)"),
];

fn answered(signal: Signal<'_>, node: &mut Node) -> String {
    let actions = node.step(signal);
    words(node, &actions)
}

#[test]
fn what_is_reported_is_what_the_source_decided() {
    let (mut node, action) = Node::new();
    assert!(
        matches!(action, Action::Keep { .. }),
        "the order is durable before it is sent"
    );
    assert_eq!(node.keep().len(), 2);
    assert_eq!(
        answered(heard(target(), Body::Reject(Reason::NoFactory.into())), &mut node),
        "Asking AbortReq>S"
    );
    // It was too late: the source had committed.
    assert_eq!(
        answered(heard(source(), outcome(Some(Outcome::Committed))), &mut node),
        "Closing keep[ended -5]"
    );
    let actions = node.keep();
    assert_eq!(words(&node, &actions), "Ended ended(Committed)");
}

#[test]
fn an_abort_has_the_reason_of_the_side_that_gave_it() {
    let mut node = Node::at(Phase::Driving);
    node.step(heard(target(), Body::Reject(Reason::StateFailed.into())));
    node.step(heard(source(), outcome(Some(Outcome::Aborted))));
    let actions = node.keep();
    assert_eq!(words(&node, &actions), "Ended ended(Aborted, StateFailed)");
}

#[test]
fn an_order_that_comes_back_is_asked_about_and_not_begun_again() {
    let (mut node, _) = Node::new();
    node.machine = MoveOrchestrator::recovered(order(), OrderConfig::default());
    assert_eq!(answered(Signal::Timer, &mut node), "Asking AbortReq>S");
    assert_eq!(answered(heard(source(), Body::Accept), &mut node), "Asking");
    assert_eq!(answered(heard(target(), Body::Accept), &mut node), "Asking");
}

#[test]
fn a_wish_to_abort_waits_for_the_order_and_a_write_that_failed_is_tried_again() {
    let (mut node, _) = Node::new();
    let ticket = node.ticket;
    assert_eq!(answered(Signal::Abort, &mut node), "Ordering");
    assert_eq!(answered(Signal::Failed(ticket), &mut node), "Ordering");
    node.now += Duration::from_secs(2);
    assert_eq!(answered(Signal::Timer, &mut node), "Ordering keep[ordered]");
    let actions = node.keep();
    assert_eq!(words(&node, &actions), "Asking AbortReq>S");
}
