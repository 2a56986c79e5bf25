//! What other nodes ask of a node.

use std::time::Duration;

use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::remote_desk::{Action, CALLS_MAX, CALLS_PER_NODE_MAX, HELD_BYTES_MAX, KEPT, Key, RemoteDesk, Signal};
use meshos_core::remote_frame::{Answer, PART_BYTES_MAX, Reason};

fn key(node: u16, call: u16) -> Key {
    let (mut of, mut id) = ([0; 32], [0; 16]);
    of[..2].copy_from_slice(&node.to_be_bytes());
    id[..2].copy_from_slice(&call.to_be_bytes());
    (EntityId::from_bytes(of), id)
}

fn step(desk: &mut RemoteDesk, now: u64, signal: Signal) -> Vec<Action> {
    let mut actions = Vec::new();
    desk.step(Duration::from_secs(now), signal, &mut actions);
    actions
}

const fn ask(key: Key) -> Signal {
    Signal::Ask { key, permitted: true }
}

fn taken(size: u64) -> Answer {
    let digest = Digest::from_bytes([1; 32]);
    Answer::Taken { size, digest }
}

fn reason(actions: &[Action]) -> Option<Reason> {
    match actions {
        [Action::Answer(_, Answer::Refused(refused))] => Some(refused.reason),
        [Action::LetGo(_), Action::Answer(_, Answer::Refused(refused))] => Some(refused.reason),
        _ => None,
    }
}

fn working() -> RemoteDesk {
    let mut desk = RemoteDesk::default();
    assert_eq!(step(&mut desk, 0, ask(key(1, 1))), [Action::Run(key(1, 1))]);
    desk
}

fn finished(answer: Answer) -> RemoteDesk {
    let mut desk = working();
    let signal = Signal::Finished {
        key: key(1, 1),
        answer: answer.clone(),
    };
    assert_eq!(step(&mut desk, 1, signal), [Action::Answer(key(1, 1), answer)]);
    desk
}

/// Every signal in every state of a call.
#[test]
fn table() {
    let me = key(1, 1);
    let states = || {
        [
            RemoteDesk::default(),
            working(),
            finished(Answer::Done),
            finished(taken(5)),
        ]
    };
    let answers = |answer: Answer| vec![Action::Answer(me, answer)];
    let expect = |signal: Signal, expected: [Option<Vec<Action>>; 4]| {
        for (mut desk, expected) in states().into_iter().zip(expected) {
            let actions = step(&mut desk, 2, signal.clone());
            match expected {
                Some(expected) => assert_eq!(actions, expected, "{signal:?} at {desk:?}"),
                None => assert_eq!(reason(&actions), Some(Reason::NotFound), "{signal:?} at {desk:?}"),
            }
        }
    };
    expect(
        ask(me),
        [
            Some(vec![Action::Run(me)]),
            Some(answers(Answer::Working)),
            Some(answers(Answer::Done)),
            Some(answers(taken(5))),
        ],
    );
    let done = Signal::Finished {
        key: me,
        answer: Answer::Done,
    };
    expect(
        done,
        [Some(vec![]), Some(answers(Answer::Done)), Some(vec![]), Some(vec![])],
    );
    let part = Action::Part {
        key: me,
        offset: 2,
        length: 3,
    };
    let fetch = Signal::Fetch { key: me, offset: 2 };
    expect(fetch, [None, Some(vec![]), Some(vec![]), Some(vec![part])]);
    for mut desk in states() {
        let is_working = desk == working();
        let held = desk == finished(taken(5));
        let due = desk.wake_at();
        assert_eq!(due.is_none(), is_working || desk.is_empty());
        let early = Duration::from_secs(1) + KEPT - Duration::from_nanos(1);
        let mut actions = Vec::new();
        desk.step(early, Signal::Timer, &mut actions);
        assert_eq!(actions, []);
        desk.step(Duration::from_secs(1) + KEPT, Signal::Timer, &mut actions);
        assert_eq!(actions, if held { vec![Action::LetGo(me)] } else { vec![] });
        assert_eq!(desk.len(), usize::from(is_working));
    }
}

#[test]
fn of_who_may_not_nothing_is_run_nor_remembered() {
    let mut desk = finished(Answer::Done);
    for call in [key(1, 1), key(2, 1)] {
        let signal = Signal::Ask {
            key: call,
            permitted: false,
        };
        assert_eq!(reason(&step(&mut desk, 2, signal)), Some(Reason::NotPermitted));
    }
    assert_eq!((desk.len(), desk.refused()), (1, 2));
}

#[test]
fn calls_are_bounded_for_each_node_and_for_all() {
    let mut desk = RemoteDesk::default();
    let per_node = u16::try_from(CALLS_PER_NODE_MAX).unwrap();
    let nodes = u16::try_from(CALLS_MAX / CALLS_PER_NODE_MAX).unwrap();
    for node in 0..nodes {
        for call in 0..per_node {
            assert_eq!(step(&mut desk, 0, ask(key(node, call))), [Action::Run(key(node, call))]);
        }
        assert_eq!(
            reason(&step(&mut desk, 0, ask(key(node, per_node)))),
            Some(Reason::Busy)
        );
    }
    assert_eq!(reason(&step(&mut desk, 0, ask(key(nodes, 0)))), Some(Reason::Busy));
    assert_eq!(desk.len(), CALLS_MAX);
    step(
        &mut desk,
        1,
        Signal::Finished {
            key: key(0, 0),
            answer: Answer::Done,
        },
    );
    step(&mut desk, 1 + KEPT.as_secs(), Signal::Timer);
    assert_eq!(step(&mut desk, 100, ask(key(nodes, 0))), [Action::Run(key(nodes, 0))]);
}

#[test]
fn snapshots_that_are_held_are_bounded_and_one_always_has_a_place() {
    let mut desk = RemoteDesk::default();
    for call in 1..=2 {
        step(&mut desk, 0, ask(key(1, call)));
    }
    let finished = |call, size| Signal::Finished {
        key: key(1, call),
        answer: taken(size),
    };
    let large = HELD_BYTES_MAX + 1;
    assert_eq!(
        step(&mut desk, 0, finished(1, large)),
        [Action::Answer(key(1, 1), taken(large))]
    );
    let second = step(&mut desk, 0, finished(2, 1));
    assert_eq!(
        (second[0].clone(), reason(&second)),
        (Action::LetGo(key(1, 2)), Some(Reason::Busy))
    );
}

#[test]
fn parts_are_of_one_size_but_the_last() {
    let size = PART_BYTES_MAX as u64 + 7;
    let mut desk = finished(taken(size));
    let fetch = |offset| Signal::Fetch { key: key(1, 1), offset };
    let part = |offset, length| Action::Part {
        key: key(1, 1),
        offset,
        length,
    };
    assert_eq!(step(&mut desk, 2, fetch(0)), [part(0, PART_BYTES_MAX)]);
    assert_eq!(step(&mut desk, 2, fetch(size - 7)), [part(size - 7, 7)]);
    for offset in [size, size + 1, u64::MAX] {
        assert_eq!(reason(&step(&mut desk, 2, fetch(offset))), Some(Reason::Failed));
    }
}
