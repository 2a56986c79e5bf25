//! A call from its caller's side.

use std::time::Duration;

use meshos_core::digest::Digest;
use meshos_core::remote_call::{Action, Outcome, RESEND_FIRST, RESEND_MAX, RemoteCall, Signal};
use meshos_core::remote_frame::{Answer, PART_BYTES_MAX, Reason, Refused};

const MIB: u64 = PART_BYTES_MAX as u64;
const DIGEST: Digest = Digest::from_bytes([3; 32]);

fn step(call: &mut RemoteCall, now: u64, signal: Signal) -> Vec<Action> {
    let mut actions = Vec::new();
    call.step(Duration::from_millis(now), signal, &mut actions);
    actions
}

fn taken(size: u64) -> Signal {
    Signal::Answer(Answer::Taken { size, digest: DIGEST })
}

fn refused() -> Refused {
    Refused {
        reason: Reason::Failed,
        owner: None,
        text: "no".to_owned(),
    }
}

fn part(offset: u64, length: u64) -> Signal {
    let length = usize::try_from(length).unwrap();
    Signal::Part { offset, length }
}

fn asking() -> RemoteCall {
    let (call, action) = RemoteCall::begin(Duration::ZERO, 4 * MIB, 1);
    assert_eq!(action, Action::Ask);
    call
}

/// One that heard at 500 ms that it is under way.
fn asking_later() -> RemoteCall {
    let mut call = asking();
    assert_eq!(step(&mut call, 500, Signal::Answer(Answer::Working)), []);
    call
}

fn fetching() -> RemoteCall {
    let mut call = asking();
    assert_eq!(step(&mut call, 1, taken(MIB + 5)), [Action::Fetch { offset: 0 }]);
    call
}

fn ended() -> RemoteCall {
    let mut call = asking();
    assert_eq!(
        step(&mut call, 1, Signal::Answer(Answer::Done)),
        [Action::Ended(Outcome::Done)]
    );
    assert_eq!(call.wake_at(), None);
    call
}

/// Every signal in every phase.
#[test]
fn table() {
    let over = |outcome| vec![Action::Ended(outcome)];
    let no = || over(Outcome::Refused(refused()));
    let none = Vec::new;
    let fetch = |offset| vec![Action::Fetch { offset }];
    let refusal = || Signal::Answer(Answer::Refused(refused()));
    let rows: Vec<(Signal, [Vec<Action>; 3])> = vec![
        (Signal::Answer(Answer::Done), [over(Outcome::Done), none(), none()]),
        (refusal(), [no(), no(), none()]),
        (taken(3), [fetch(0), none(), none()]),
        (taken(0), [over(Outcome::Fetched { digest: DIGEST }), none(), none()]),
        (
            taken(4 * MIB + 1),
            [over(Outcome::TooLarge { size: 4 * MIB + 1 }), none(), none()],
        ),
        (Signal::Answer(Answer::Working), [none(), none(), none()]),
        (
            part(0, MIB),
            [none(), vec![Action::Take, Action::Fetch { offset: MIB }], none()],
        ),
        (part(0, MIB - 1), [none(), none(), none()]),
        (part(MIB, 5), [none(), none(), none()]),
        (Signal::Timer, [vec![Action::Ask], fetch(0), none()]),
    ];
    for (signal, expected) in rows {
        for (mut call, actions) in [asking(), fetching(), ended()].into_iter().zip(expected) {
            let before = call.ignored();
            assert_eq!(step(&mut call, 500, signal.clone()), actions, "{signal:?} in {call:?}");
            let advises = call == asking_later() && matches!(signal, Signal::Answer(Answer::Working));
            let is_dash = actions.is_empty() && signal != Signal::Timer && !advises;
            assert_eq!(call.ignored() > before, is_dash, "{signal:?} in {call:?}");
        }
    }
}

#[test]
fn parts_are_taken_in_order_until_all_are_there() {
    let mut call = fetching();
    assert_eq!(
        step(&mut call, 2, part(0, MIB)),
        [Action::Take, Action::Fetch { offset: MIB }]
    );
    assert_eq!(step(&mut call, 3, part(0, MIB)), []);
    let end = Action::Ended(Outcome::Fetched { digest: DIGEST });
    assert_eq!(step(&mut call, 4, part(MIB, 5)), [Action::Take, end]);
    assert_eq!(call.wake_at(), None);
}

#[test]
fn it_asks_later_each_time_up_to_a_bound() {
    let mut call = asking();
    let mut last = Duration::ZERO;
    for wait in [1, 2, 4, 8, 16, 20, 20].map(|times| (RESEND_FIRST * times).min(RESEND_MAX)) {
        let due = call.wake_at().unwrap();
        assert!(
            due - last <= wait && due - last >= wait.mul_f64(0.75),
            "{:?}",
            due - last
        );
        let mut actions = Vec::new();
        call.step(due - Duration::from_nanos(1), Signal::Timer, &mut actions);
        assert_eq!(actions, []);
        call.step(due, Signal::Timer, &mut actions);
        assert_eq!(actions, [Action::Ask]);
        last = due;
    }
}
