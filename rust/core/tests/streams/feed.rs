//! What an owner sends to a consumer, by table and by example.

use std::time::Duration;

use meshos_core::feed::{Action, Feed, Phase, Signal, WINDOW};
use meshos_core::outbox::{QUIET_MAX, RESEND_FIRST, RESEND_MAX};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn step(feed: &mut Feed, now: Duration, signal: Signal) -> Vec<Action> {
    let mut actions = Vec::new();
    feed.step(now, signal, &mut actions);
    actions
}

const fn ack(epoch: u64, n: u64) -> Signal {
    Signal::OutAck { epoch, n }
}

const fn follow(epoch: u64, after: u64) -> Signal {
    Signal::Follow { epoch, after }
}

const fn send(first: u64, last: u64) -> Action {
    Action::Send { first, last }
}

/// Of an owner of epoch 3 that has published five outputs.
fn announcing() -> Feed {
    let mut feed = Feed::new(3, 5, 1);
    assert_eq!(step(&mut feed, ms(0), Signal::Started), [Action::Announce]);
    feed
}

/// The consumer has two of the five.
fn following() -> Feed {
    let mut feed = announcing();
    let actions = step(&mut feed, ms(0), follow(3, 2));
    assert_eq!(actions, [Action::Release { through: 2 }, send(3, 5)]);
    feed
}

/// Every state with every signal.
#[test]
fn table() {
    let announce = vec![Action::Announce];
    let release = |through| Action::Release { through };
    let table: [(u64, Signal, Vec<Action>, Vec<Action>); 14] = [
        (1, Signal::Started, announce.clone(), announce.clone()),
        (1, Signal::Published { n: 7 }, vec![], vec![send(6, 7)]),
        (1, Signal::Published { n: 4 }, vec![], vec![]),
        (1, ack(3, 4), vec![release(4), send(5, 5)], vec![release(4)]),
        (1, ack(3, 5), vec![release(5)], vec![release(5)]),
        (1, ack(3, 1), vec![release(1), send(2, 5)], vec![]),
        (1, ack(3, 6), vec![], vec![]),
        (1, ack(2, 5), vec![], vec![]),
        (1, ack(4, 5), vec![], vec![]),
        (1, follow(3, 1), vec![release(1), send(2, 5)], vec![send(3, 5)]),
        (
            1,
            follow(3, 4),
            vec![release(4), send(5, 5)],
            vec![release(4), send(5, 5)],
        ),
        (1, follow(3, 6), announce.clone(), announce.clone()),
        (1, follow(2, 2), announce.clone(), announce.clone()),
        (60, Signal::Timer, announce, vec![send(3, 5)]),
    ];
    for (at, signal, of_announcing, of_following) in table {
        assert_eq!(
            step(&mut announcing(), ms(at), signal),
            of_announcing,
            "{signal:?} while announcing"
        );
        assert_eq!(
            step(&mut following(), ms(at), signal),
            of_following,
            "{signal:?} while following"
        );
    }
    for feed in [announcing(), following()] {
        assert_eq!(step(&mut feed.clone(), ms(1), Signal::Timer), []);
    }
    assert_eq!(
        (announcing().phase(), following().phase()),
        (Phase::Announcing, Phase::Following)
    );
}

#[test]
fn acknowledgements_of_another_epoch_and_of_what_was_never_published_are_counted() {
    let mut feed = following();
    for signal in [ack(2, 5), ack(4, 5), ack(3, 6)] {
        step(&mut feed, ms(1), signal);
    }
    assert_eq!((feed.ignored(), feed.acknowledged(), feed.is_done()), (3, 2, false));
    step(&mut feed, ms(1), ack(3, 5));
    assert!(feed.is_done());
    assert_eq!(feed.wake_at(), None);
}

#[test]
fn what_is_acknowledged_only_rises() {
    let mut feed = following();
    step(&mut feed, ms(1), ack(3, 4));
    for late in [ack(3, 3), follow(3, 3)] {
        step(&mut feed, ms(1), late);
        assert_eq!(feed.acknowledged(), 4);
    }
    // A late question is not answered with what may be gone.
    assert_eq!(step(&mut feed, ms(2), follow(3, 1)), [send(5, 5)]);
}

#[test]
fn only_so_many_outputs_are_on_their_way() {
    let mut feed = following();
    assert_eq!(
        step(&mut feed, ms(1), Signal::Published { n: 500 }),
        [send(6, 2 + WINDOW)]
    );
    assert_eq!(step(&mut feed, ms(1), Signal::Published { n: 600 }), []);
    let actions = step(&mut feed, ms(2), ack(3, 10));
    assert_eq!(
        actions,
        [Action::Release { through: 10 }, send(3 + WINDOW, 10 + WINDOW)]
    );
}

#[test]
fn tries_come_later_each_time_and_a_quiet_consumer_is_announced_to() {
    let mut feed = following();
    let (mut now, mut wait) = (ms(0), RESEND_FIRST);
    for number in 1..8 {
        let at = feed.wake_at().expect("a try is due");
        assert!(at - now <= wait && at - now >= wait.mul_f64(0.74));
        let expected = if number >= QUIET_MAX {
            vec![Action::Announce, send(3, 5)]
        } else {
            vec![send(3, 5)]
        };
        assert_eq!(step(&mut feed, at, Signal::Timer), expected);
        (now, wait) = (at, (wait * 2).min(RESEND_MAX));
    }
}
