//! What a sender does about its events, by table, by example and by chance.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meshos_core::cursors::{Cursors, Receipt};
use meshos_core::digest::Digest;
use meshos_core::id::{EntityId, Origin};
use meshos_core::inflow::{Admission, WINDOW, admit};
use meshos_core::ingress::EventKey;
use meshos_core::outbox::{
    Action, BUSY_MAX, Limits, Outbox, Outcome, Owner, QUIET_MAX, RESEND_FIRST, RESEND_MAX, Refusal, Signal,
};
use meshos_core::stream::{Flow, Frame};
use meshos_core::testing::random::SplitMix64;

type Box8 = Outbox<Vec<u8>>;
type Signal8 = Signal<Vec<u8>>;

const FLOW: Flow = Flow {
    entity: EntityId::from_bytes([1; 32]),
    origin: Origin::new(7),
    stream: 0,
};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn owner(node: u8, epoch: u64) -> Owner {
    Owner {
        node: EntityId::from_bytes([node; 32]),
        epoch,
    }
}

fn empty() -> Box8 {
    Outbox::new(FLOW, Limits::default(), 3)
}

fn known() -> Box8 {
    empty().with_owner(owner(1, 5))
}

const fn released(through: u64) -> Signal<Vec<u8>> {
    Signal::Released { through }
}

fn send(sequence: u64) -> Signal<Vec<u8>> {
    Signal::Send {
        sequence,
        payload: sequence.to_le_bytes().to_vec(),
        deadline: None,
    }
}

fn send_until(sequence: u64, deadline: Duration) -> Signal<Vec<u8>> {
    Signal::Send {
        sequence,
        payload: vec![1],
        deadline: Some(deadline),
    }
}

fn receipt(sequence: u64, epoch: u64) -> Receipt {
    Receipt {
        sequence,
        epoch,
        processed: sequence,
        position: 0,
        digest: Digest::ZERO,
    }
}

fn ack_in(sequence: u64, epoch: u64) -> Signal<Vec<u8>> {
    Signal::Ack {
        receipt: receipt(sequence, epoch),
        duplicate: false,
    }
}

fn ack(sequence: u64) -> Signal<Vec<u8>> {
    ack_in(sequence, 5)
}

fn gap(sequence: u64, cursor: u64, epoch: u64) -> Signal<Vec<u8>> {
    Signal::Gap {
        sequence,
        cursor,
        epoch,
    }
}

fn step(outbox: &mut Box8, now: Duration, signal: Signal<Vec<u8>>) -> Vec<Action> {
    let mut actions = Vec::new();
    outbox.step(now, signal, &mut actions);
    actions
}

/// Actions in short: who gets which number, and what is told.
fn short(actions: &[Action]) -> String {
    let one = |action: &Action| match action {
        Action::Transmit { sequence, to } => format!("{sequence}>{}", to.as_bytes()[0]),
        Action::Locate => "locate".to_owned(),
        Action::Settled { sequence, outcome } => match outcome {
            Outcome::Taken { duplicate: false, .. } => format!("{sequence}:taken"),
            Outcome::Taken { duplicate: true, .. } => format!("{sequence}:again"),
            Outcome::Unknown => format!("{sequence}:unknown"),
            Outcome::PassedOver => format!("{sequence}:passed"),
        },
        Action::Release { through } => format!("..{through}:release"),
        Action::TimedOut { sequence } => format!("{sequence}:late"),
        Action::Refused { sequence, why } => match why {
            Refusal::Backpressure => format!("{sequence}:full"),
            Refusal::OutOfOrder => format!("{sequence}:order"),
        },
        Action::Lost { after, through, epoch } => format!("lost ({after},{through}]@{epoch}"),
    };
    actions.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn does(outbox: &mut Box8, now: Duration, signal: Signal<Vec<u8>>) -> String {
    short(&step(outbox, now, signal))
}

/// Every state with every signal. The states: nothing is open; two wait for an owner; two are on their way, 10 and 12; the
/// same, and 12 is answered.
#[test]
fn table() {
    let mut lost = empty();
    step(&mut lost, ms(0), send(10));
    step(&mut lost, ms(0), send(12));
    let mut flying = known();
    step(&mut flying, ms(0), ack(8));
    for sequence in [8, 10, 12] {
        step(&mut flying, ms(0), send(sequence));
    }
    step(&mut flying, ms(0), ack(8));
    let mut half = flying.clone();
    step(&mut half, ms(0), ack(12));
    let states = [known(), lost, flying, half];
    let (moved, heard) = (Signal::Moved(owner(2, 6)), Signal::Moved(owner(2, 5)));
    let busy = Signal::Busy {
        sequence: 10,
        retry_after: ms(300),
    };
    let table: [(u64, Signal8, [&str; 4]); 25] = [
        (1, send(14), ["14>1", "", "14>1", "14>1"]),
        (1, send(11), ["11>1", "11:order", "11:order", "11:order"]),
        (1, send(0), ["0:order", "0:order", "0:order", "0:order"]),
        (1, send(10), ["10>1", "", "", ""]),
        (1, send(12), ["12>1", "", "", "12>1"]),
        (1, send(8), ["8>1", "", "8>1", "8>1"]),
        (1, Signal::Timer, ["", "", "", ""]),
        (60, Signal::Timer, ["", "locate", "10>1 12>1", "10>1"]),
        (1, ack(10), ["", "", "10:taken", "10:taken"]),
        (1, ack(12), ["", "", "12:taken", ""]),
        (1, ack(8), ["", "", "", ""]),
        (1, busy, ["", "", "", ""]),
        (1, Signal::Queued { sequence: 10 }, ["", "", "", ""]),
        (1, gap(12, 8, 5), ["", "", "10>1 12>1", ""]),
        (1, gap(12, 10, 5), ["", "", "12>1", ""]),
        (1, gap(10, 8, 5), ["", "", "10>1 12>1", "10>1"]),
        (1, gap(10, 6, 5), ["", "", "10>1", "10>1"]),
        (1, gap(12, 6, 6), ["", "", "lost (6,8]@6 10>1", ""]),
        (1, gap(14, 6, 6), ["", "", "", ""]),
        (
            1,
            Signal::Stale { sequence: 10, epoch: 5 },
            ["", "", "10:unknown", "10:unknown"],
        ),
        (1, Signal::Stale { sequence: 12, epoch: 5 }, ["", "", "12:unknown", ""]),
        (
            1,
            Signal::PassedOver { sequence: 10, epoch: 5 },
            ["", "", "10:passed", "10:passed"],
        ),
        (1, moved, ["", "10>2 12>2", "10>2 12>2", "10>2"]),
        (1, heard, ["", "10>2 12>2", "", ""]),
        (1, Signal::NotHere, ["", "", "", ""]),
    ];
    for (at, signal, expected) in table {
        for (state, expected) in states.iter().zip(expected) {
            assert_eq!(
                does(&mut state.clone(), ms(at), signal.clone()),
                expected,
                "{signal:?} at {at} in {state:?}"
            );
        }
    }
}

#[test]
fn prev_is_the_number_before_and_stays() {
    let mut outbox = known();
    for sequence in [3, 7, 9] {
        step(&mut outbox, ms(0), send(sequence));
    }
    let prev = |outbox: &Box8| [3, 7, 9].map(|sequence| outbox.event(sequence).map(|event| event.prev));
    assert_eq!(prev(&outbox), [Some(0), Some(3), Some(7)]);
    step(&mut outbox, ms(1), ack(3));
    step(&mut outbox, ms(60), Signal::Timer);
    assert_eq!(prev(&outbox), [None, Some(3), Some(7)]);
    let event = outbox.event(7).expect("it is on its way");
    assert_eq!(
        (event.flow, event.epoch, event.payload),
        (FLOW, 5, &7_u64.to_le_bytes()[..])
    );
}

#[test]
fn the_window_begins_at_the_oldest_open_event() {
    let mut outbox = known();
    let last = WINDOW as u64 + 10;
    for sequence in 1..=last {
        step(&mut outbox, ms(0), send(sequence));
    }
    for sequence in 2..=WINDOW as u64 {
        // As many are open as may be, but the oldest is one of them.
        assert_eq!(does(&mut outbox, ms(1), ack(sequence)), format!("{sequence}:taken"));
    }
    assert_eq!(outbox.open().count(), 11);
    assert!(outbox.event(WINDOW as u64 + 1).is_none());
    let after = step(&mut outbox, ms(1), ack(1));
    assert_eq!(after.len(), 1 + 10);
}

/// What comes back after a crash, and had left, had left within one window.
#[test]
fn rows_go_in_their_order_and_the_window_waits_until_they_are_gone() {
    let limits = Limits {
        window: 4,
        ..Limits::default()
    };
    let mut outbox: Box8 = Outbox::new(FLOW, limits, 0).with_owner(owner(1, 5)).with_rows();
    for sequence in 1..=7 {
        step(&mut outbox, ms(0), send(sequence));
    }
    // The answer to 1 is late: the row of 2 stays, or 5 would be the fourth after a crash.
    assert_eq!(does(&mut outbox, ms(1), ack(2)), "2:taken");
    assert_eq!(does(&mut outbox, ms(1), released(2)), "");
    assert_eq!(does(&mut outbox, ms(1), ack(1)), "1:taken ..2:release");
    // Nor does the window move on when something else is settled.
    assert_eq!(does(&mut outbox, ms(1), ack(4)), "4:taken");
    assert_eq!(does(&mut outbox, ms(1), ack(3)), "3:taken ..4:release");
    assert_eq!(does(&mut outbox, ms(1), released(2)), "5>1 6>1");
    assert_eq!(does(&mut outbox, ms(1), released(2)), "");
    // Not more than what may be released, whoever says it.
    assert_eq!(does(&mut outbox, ms(1), released(99)), "7>1");
    assert_eq!(outbox.open().collect::<Vec<_>>(), [5, 6, 7]);
    let rest = [(5, "5:taken ..5:release"), (6, "6:taken ..6:release")];
    for (sequence, expected) in rest {
        assert_eq!(does(&mut outbox, ms(2), ack(sequence)), expected);
    }
    // An owner that goes back: what is settled counts as acknowledged, also while its row is there.
    assert_eq!(does(&mut outbox.clone(), ms(3), gap(7, 4, 6)), "lost (4,6]@6 7>1");
    assert_eq!(does(&mut outbox, ms(3), ack(7)), "7:taken ..7:release");
    // Nothing is on its way: nobody is asked again, and it is not empty as long as rows are there.
    assert_eq!((outbox.is_empty(), outbox.wake_at()), (false, None));
    assert_eq!(does(&mut outbox, ms(4), released(7)), "");
    assert_eq!((outbox.is_empty(), outbox.bytes()), (true, 0));
    assert_eq!(does(&mut outbox, ms(5), send(8)), "8>1");
}

#[test]
fn a_window_of_rows_that_are_not_gone_asks_nobody() {
    let limits = Limits {
        window: 2,
        ..Limits::default()
    };
    let mut outbox: Box8 = Outbox::new(FLOW, limits, 0).with_owner(owner(1, 5)).with_rows();
    for sequence in 1..=3 {
        step(&mut outbox, ms(0), send(sequence));
    }
    step(&mut outbox, ms(1), ack(1));
    step(&mut outbox, ms(1), ack(2));
    assert_eq!(does(&mut outbox, ms(5000), Signal::Timer), "");
    assert_eq!(outbox.wake_at(), None);
    assert_eq!(does(&mut outbox, ms(5001), released(2)), "3>1");
    assert!(outbox.wake_at().is_some());
}

/// A row may be sent again by who waits for it until it is gone: then it goes a second time.
#[test]
fn a_row_that_is_asked_for_again_is_released_again() {
    let mut outbox = known().with_rows();
    step(&mut outbox, ms(0), send(1));
    step(&mut outbox, ms(0), send(2));
    assert_eq!(does(&mut outbox, ms(1), ack(1)), "1:taken ..1:release");
    assert_eq!(does(&mut outbox, ms(1), ack(2)), "2:taken ..2:release");
    assert_eq!(does(&mut outbox, ms(2), send(1)), "1>1");
    assert_eq!(does(&mut outbox, ms(2), released(2)), "");
    assert_eq!(does(&mut outbox, ms(3), ack(1)), "1:taken ..2:release");
    assert_eq!(does(&mut outbox, ms(3), released(2)), "");
    assert!(outbox.is_empty());
}

#[test]
fn the_window_has_room_for_so_many_bytes_and_always_for_one_event() {
    let limits = Limits {
        window_bytes: 10,
        ..Limits::default()
    };
    let mut outbox: Box8 = Outbox::new(FLOW, limits, 0).with_owner(owner(1, 5));
    let big = |sequence, bytes| Signal::Send {
        sequence,
        payload: vec![0; bytes],
        deadline: None,
    };
    assert_eq!(does(&mut outbox, ms(0), big(1, 50)), "1>1");
    assert_eq!(does(&mut outbox, ms(0), big(2, 6)), "");
    assert_eq!(does(&mut outbox, ms(0), big(3, 6)), "");
    assert_eq!(does(&mut outbox, ms(0), ack(1)), "1:taken 2>1");
    assert_eq!(does(&mut outbox, ms(0), ack(2)), "2:taken 3>1");
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_dropped() {
    let limits = Limits {
        events_max: 2,
        ..Limits::default()
    };
    let mut outbox: Box8 = Outbox::new(FLOW, limits, 0).with_owner(owner(1, 5));
    step(&mut outbox, ms(0), send(1));
    step(&mut outbox, ms(0), send(2));
    assert_eq!(does(&mut outbox, ms(0), send(3)), "3:full");
    // An open event is no new one.
    assert_eq!(does(&mut outbox, ms(0), send(2)), "");
    step(&mut outbox, ms(0), ack(1));
    assert_eq!(does(&mut outbox, ms(0), send(3)), "3>1");

    let limits = Limits {
        bytes_max: 10,
        ..Limits::default()
    };
    let mut outbox: Box8 = Outbox::new(FLOW, limits, 0);
    let big = |sequence, bytes| Signal::Send {
        sequence,
        payload: vec![0; bytes],
        deadline: None,
    };
    assert_eq!(does(&mut outbox, ms(0), big(1, 100)), "locate");
    assert_eq!(does(&mut outbox, ms(0), big(2, 1)), "2:full");
    assert_eq!((outbox.bytes(), outbox.is_empty()), (100, false));
    assert_eq!(outbox.abandon(), [1]);
}

#[test]
fn waits_double_up_to_a_bound_and_are_shortened_by_up_to_a_quarter() {
    let mut outbox = known();
    step(&mut outbox, ms(0), send(1));
    let (mut now, mut wait) = (ms(0), RESEND_FIRST);
    for _ in 0..8 {
        let at = outbox.wake_at().expect("a try is due");
        assert!(
            at - now <= wait && at - now >= wait.mul_f64(0.74),
            "{:?} of {wait:?}",
            at - now
        );
        assert_eq!(step(&mut outbox, at - Duration::from_nanos(1), Signal::Timer), []);
        assert!(!step(&mut outbox, at, Signal::Timer).is_empty());
        (now, wait) = (at, (wait * 2).min(RESEND_MAX));
    }
    // Two senders that lost the same owner do not come back together.
    let mut other: Box8 = Outbox::new(FLOW, Limits::default(), 4).with_owner(owner(1, 5));
    step(&mut other, ms(0), send(1));
    let mut outbox = known();
    step(&mut outbox, ms(0), send(1));
    assert_ne!(outbox.wake_at(), other.wake_at());
}

#[test]
fn an_outbox_without_open_events_wakes_nobody() {
    let mut outbox = known();
    assert_eq!(outbox.wake_at(), None);
    step(&mut outbox, ms(0), send_until(1, ms(900)));
    step(&mut outbox, ms(1), ack(1));
    assert_eq!(outbox.wake_at(), None);
}

#[test]
fn a_deadline_is_told_once_and_sending_again_continues_the_event() {
    let mut outbox = known();
    step(&mut outbox, ms(0), send_until(4, ms(20)));
    assert_eq!(outbox.wake_at(), Some(ms(20)));
    assert_eq!(does(&mut outbox, ms(20), Signal::Timer), "4:late");
    assert_eq!(does(&mut outbox, ms(21), Signal::Timer), "");
    assert_eq!(outbox.open().collect::<Vec<_>>(), [4]);
    assert_eq!(does(&mut outbox, ms(22), send_until(4, ms(30))), "");
    assert_eq!(outbox.event(4).expect("it is on its way").payload, [1]);
    assert_eq!(does(&mut outbox, ms(30), Signal::Timer), "4:late");
    assert_eq!(does(&mut outbox, ms(31), ack(4)), "4:taken");
}

#[test]
fn a_deadline_that_was_taken_back_is_not_told() {
    let mut outbox = known();
    step(&mut outbox, ms(0), send_until(4, ms(20)));
    step(&mut outbox, ms(1), send(4));
    assert_eq!(does(&mut outbox, ms(20), Signal::Timer), "");
}

#[test]
fn after_four_tries_without_an_answer_any_node_is_asked() {
    let mut outbox = known();
    step(&mut outbox, ms(0), send(1));
    let mut tries = Vec::new();
    for _ in 0..=QUIET_MAX {
        let at = outbox.wake_at().expect("a try is due");
        tries.push(does(&mut outbox, at, Signal::Timer));
    }
    assert_eq!(tries, ["1>1", "1>1", "1>1", "locate 1>1", "locate 1>1"]);
    // Advice is an answer: the owner is there.
    let now = outbox.wake_at().expect("a try is due");
    step(&mut outbox, now, Signal::Queued { sequence: 1 });
    let at = outbox.wake_at().expect("a try is due");
    assert_eq!(does(&mut outbox, at, Signal::Timer), "1>1");
    // Who knows nothing of the entity is no reason to wait any longer.
    step(&mut outbox, at, Signal::NotHere);
    let at = outbox.wake_at().expect("a try is due");
    assert_eq!(does(&mut outbox, at, Signal::Timer), "locate 1>1");
}

#[test]
fn only_a_later_owner_is_believed() {
    let mut outbox = known();
    step(&mut outbox, ms(0), send(1));
    for lower in [owner(2, 4), owner(2, 5)] {
        assert_eq!(does(&mut outbox, ms(1), Signal::Moved(lower)), "");
        assert_eq!(outbox.owner(), Some(owner(1, 5)));
    }
    assert_eq!(does(&mut outbox, ms(1), Signal::Moved(owner(3, 7))), "1>3");
    assert_eq!(does(&mut outbox, ms(1), Signal::Moved(owner(2, 6))), "");
    assert_eq!(outbox.event(1).expect("it is on its way").epoch, 7);
}

#[test]
fn advice_slows_the_retry_and_settles_nothing() {
    let mut outbox = known();
    step(&mut outbox, ms(0), send(1));
    step(&mut outbox, ms(1), Signal::Queued { sequence: 1 });
    assert!(outbox.wake_at().expect("a try is due") > ms(700));
    let busy = |retry_after| Signal::Busy {
        sequence: 1,
        retry_after,
    };
    step(&mut outbox, ms(2), busy(ms(300)));
    assert!(outbox.wake_at().expect("a try is due") >= ms(302));
    // Nothing new leaves meanwhile.
    assert_eq!(does(&mut outbox, ms(100), send(2)), "");
    let at = outbox.wake_at().expect("a try is due");
    assert_eq!(does(&mut outbox, at, Signal::Timer), "1>1 2>1");
    step(&mut outbox, at, busy(Duration::MAX));
    assert!(outbox.wake_at().expect("a try is due") <= at + BUSY_MAX + RESEND_FIRST);
    assert_eq!(outbox.open().count(), 2);
}

#[test]
fn gaps_within_a_moment_are_one() {
    let mut outbox = known();
    for sequence in 1..=5 {
        step(&mut outbox, ms(0), send(sequence));
    }
    assert_eq!(does(&mut outbox, ms(2), gap(3, 1, 5)), "2>1 3>1 4>1 5>1");
    assert_eq!(does(&mut outbox, ms(3), gap(4, 1, 5)), "");
    assert_eq!(does(&mut outbox, ms(20), gap(4, 1, 5)), "2>1 3>1 4>1 5>1");
}

#[test]
fn a_loss_is_told_when_a_later_owner_is_behind_and_once() {
    let mut outbox = known();
    for sequence in 1..=6 {
        step(&mut outbox, ms(0), send(sequence));
        step(&mut outbox, ms(0), ack_in(sequence, 5));
    }
    step(&mut outbox, ms(1), send(7));
    // Of the same epoch: it was on its way when 6 was acknowledged.
    assert_eq!(does(&mut outbox.clone(), ms(2), gap(7, 4, 5)), "7>1");
    assert_eq!(does(&mut outbox, ms(2), gap(7, 4, 6)), "lost (4,6]@6 7>1");
    assert_eq!(outbox.event(7).expect("it is on its way").prev, 4);
    assert_eq!(does(&mut outbox, ms(3), gap(7, 4, 6)), "7>1");
    // Another restart, further back.
    assert_eq!(does(&mut outbox, ms(30), gap(7, 0, 7)), "lost (0,4]@7 7>1");
    assert_eq!(does(&mut outbox, ms(31), ack_in(7, 7)), "7:taken");
    step(&mut outbox, ms(32), send(8));
    assert_eq!(does(&mut outbox, ms(33), gap(8, 0, 7)), "8>1");
}

/// An owner that settles an event has applied, or passed over, everything before it.
#[test]
fn what_was_passed_over_is_not_lost() {
    let settling: [fn(u64) -> Signal8; 3] = [
        ack,
        |sequence| Signal::Stale { sequence, epoch: 5 },
        |sequence| Signal::PassedOver { sequence, epoch: 5 },
    ];
    for settled in settling {
        let mut outbox = known();
        step(&mut outbox, ms(0), send(1));
        step(&mut outbox, ms(1), settled(1));
        step(&mut outbox, ms(2), send(2));
        assert_eq!(does(&mut outbox, ms(3), gap(2, 0, 5)), "2>1");
        assert_eq!(outbox.event(2).expect("it is on its way").prev, 0);
    }
}

#[test]
fn an_event_that_was_settled_is_asked_for_again_with_its_first_number() {
    let mut outbox = known();
    step(&mut outbox, ms(0), send(1));
    step(&mut outbox, ms(0), ack(1));
    assert_eq!(does(&mut outbox, ms(1), send(1)), "1>1");
    let again = Signal::Ack {
        receipt: receipt(1, 5),
        duplicate: true,
    };
    assert_eq!(does(&mut outbox, ms(2), again), "1:again");
    // The order of new ones is not touched.
    step(&mut outbox, ms(3), send(5));
    assert_eq!(outbox.event(5).expect("it is on its way").prev, 1);
}

#[test]
fn answers_are_signals_and_nothing_else_is() {
    let mut found = 0;
    for frame in meshos_core::testing::frames::all() {
        let is_answer = !matches!(
            frame,
            Frame::Event(_)
                | Frame::Locate { .. }
                | Frame::Output(_)
                | Frame::OutAck { .. }
                | Frame::Follow { .. }
                | Frame::Announce(_)
        );
        assert_eq!(Signal::<Vec<u8>>::of(&frame).is_some(), is_answer, "{frame:?}");
        found += usize::from(is_answer);
    }
    assert_eq!(found, 8);
}

/// Whatever comes in whatever order: the window holds, `prev` only falls, and each event is settled once a send.
#[test]
fn no_order_of_signals_breaks_a_rule() {
    for seed in 0..300 {
        let mut random = SplitMix64::new(seed);
        let limits = Limits {
            window: 4,
            events_max: 20,
            ..Limits::default()
        };
        let mut outbox: Box8 = Outbox::new(FLOW, limits, seed);
        if seed % 2 == 1 {
            outbox = outbox.with_rows();
        }
        let (mut now, mut next) = (ms(1), 1);
        let (mut prevs, mut open): (BTreeMap<u64, u64>, BTreeMap<u64, u32>) = Default::default();
        for _ in 0..300 {
            now += Duration::from_micros(random.below(30_000) as u64);
            let sequence = (next + random.below(4) as u64).saturating_sub(random.below(12) as u64);
            let epoch = random.below(6) as u64;
            let signal = match random.below(13) {
                12 => released(sequence),
                0..=3 => {
                    next += 1 + random.below(3) as u64;
                    send_until(next, now + ms(random.below(200) as u64))
                }
                4 => send(sequence),
                5..=6 => ack_in(sequence, epoch),
                7 => gap(sequence, random.below(next as usize) as u64, epoch),
                8 => Signal::Stale { sequence, epoch },
                9 => Signal::Moved(owner(random.byte(), epoch)),
                10 => Signal::Busy {
                    sequence,
                    retry_after: ms(random.below(100) as u64),
                },
                _ => Signal::Timer,
            };
            let before = outbox.owner();
            let sent = match &signal {
                Signal::Send { sequence, .. } => Some(*sequence),
                _ => None,
            };
            let actions = step(&mut outbox, now, signal);
            if let Some(sequence) = sent
                && !actions.iter().any(|action| matches!(action, Action::Refused { .. }))
            {
                open.insert(sequence, 1);
            }
            let oldest: Vec<u64> = outbox.open().take(1).collect();
            for action in &actions {
                match action {
                    Action::Transmit { sequence, to } => {
                        assert_eq!(Some(*to), outbox.owner().map(|owner| owner.node));
                        if let Some(event) = outbox.event(*sequence) {
                            assert!(event.prev < *sequence, "seed {seed}");
                            let prev = prevs.entry(*sequence).or_insert(event.prev);
                            assert!(event.prev <= *prev, "seed {seed}: prev only falls");
                            *prev = event.prev;
                        }
                        assert!(oldest.first().is_none_or(|oldest| sequence >= oldest), "seed {seed}");
                    }
                    Action::Settled { sequence, .. } => {
                        assert_eq!(
                            open.remove(sequence),
                            Some(1),
                            "seed {seed}: {sequence} is settled once"
                        );
                    }
                    _ => {}
                }
            }
            if let (Some(before), Some(after)) = (before, outbox.owner()) {
                assert!(before == after || before.epoch < after.epoch);
            }
            let left = outbox
                .open()
                .filter(|sequence| outbox.event(*sequence).is_some())
                .count();
            let again = open
                .keys()
                .filter(|sequence| outbox.event(**sequence).is_some())
                .count();
            assert_eq!(left, again, "seed {seed}: what is open is what was not settled");
        }
    }
}

/// A sender with rows that crashes, and a receiver that does not. Returns an event that is open and of which nothing is
/// known any more. `early`: a row goes when its event is settled, and the window does not wait for that.
fn unknown_after_crashes(seed: u64, early: bool) -> Option<u64> {
    let begin = || if early { known() } else { known().with_rows() };
    let mut random = SplitMix64::new(seed);
    let (mut outbox, mut cursors) = (begin(), Cursors::default());
    let (mut now, mut next) = (ms(1), 0);
    let mut rows = BTreeSet::new();
    // What is settled, what of it may go, and up to where; answers under way.
    let (mut settled, mut going, mut through) = (Vec::new(), Vec::new(), None);
    let mut answers: Vec<Signal<Vec<u8>>> = Vec::new();
    for _ in 0..2000 {
        now += Duration::from_micros(random.below(10_000) as u64);
        let mut actions = Vec::new();
        match random.below(60) {
            0 => {
                (outbox, settled, going, through) = (begin(), Vec::new(), Vec::new(), None);
                rows.iter().for_each(|row| outbox.step(now, send(*row), &mut actions));
            }
            1..=25 if rows.len() < 200 => {
                next += 1;
                rows.insert(next);
                outbox.step(now, send(next), &mut actions);
            }
            26..=30 => {
                rows.retain(|row| !going.contains(row));
                going.clear();
                if let Some(through) = through.take() {
                    outbox.step(now, released(through), &mut actions);
                }
            }
            31..=55 if !answers.is_empty() => {
                let answer = answers.swap_remove(random.below(answers.len()));
                outbox.step(now, answer, &mut actions);
            }
            _ => outbox.step(now, Signal::Timer, &mut actions),
        }
        for action in actions {
            match action {
                Action::Transmit { sequence, .. } if random.below(4) > 0 => {
                    let prev = outbox.event(sequence).expect("it is on its way").prev;
                    let (origin, stream) = (FLOW.origin, FLOW.stream);
                    let key = EventKey {
                        origin,
                        stream,
                        sequence,
                    };
                    let answer = match admit(&cursors, key, prev) {
                        Admission::CallProcess => {
                            cursors.keep_receipt(origin, stream, receipt(sequence, 5));
                            ack(sequence)
                        }
                        Admission::Duplicate(receipt) => ack(receipt.sequence),
                        Admission::Gap { cursor } => gap(sequence, cursor, 5),
                        Admission::Stale { .. } => return Some(sequence),
                        Admission::Malformed => panic!("seed {seed}: {sequence} after {prev}"),
                    };
                    if random.below(3) > 0 {
                        answers.push(answer);
                    }
                }
                Action::Settled { sequence, .. } if early => going.push(sequence),
                Action::Settled { sequence, .. } => settled.push(sequence),
                Action::Release { through: last } => {
                    going.extend(settled.extract_if(.., |sequence| *sequence <= last));
                    through = Some(last);
                }
                _ => {}
            }
        }
    }
    None
}

#[test]
fn of_rows_that_come_back_a_receipt_is_kept() {
    for seed in 0..300 {
        assert_eq!(unknown_after_crashes(seed, false), None, "seed {seed}");
    }
    assert!((0..300).any(|seed| unknown_after_crashes(seed, true).is_some()));
}
