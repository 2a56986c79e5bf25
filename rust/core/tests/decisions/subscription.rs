//! What a subscriber does about a channel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meshos_core::channel_frame::{Gap, Nonce, Reason};
use meshos_core::channel_log::ChannelLog;
use meshos_core::subscription::{
    ASK_FIRST, ASK_MAX, Action, EARLY_BYTES_MAX, EARLY_MAX, Phase, REPAIR_MAX, Signal, Subscription, TRIES_MAX,
};
use meshos_core::testing::random::SplitMix64;
use meshos_core::time::UnixMs;

type Machine = Subscription<u64>;

const T: UnixMs = UnixMs::new(1_000_000);
const LOG: u64 = 5;
const FIRST: Nonce = [1; 16];
const FRESH: Nonce = [2; 16];
const OTHER: Nonce = [9; 16];

fn event(log: u64, sequence: u64) -> Signal<u64> {
    Signal::Event {
        log,
        sequence,
        bytes: 10,
        payload: sequence,
    }
}

fn gap(log: u64, first: u64, last: u64) -> Signal<u64> {
    let gap = Gap { first, last };
    Signal::Gap { log, gap }
}

fn accepted(nonce: Nonce, log: u64, next: u64) -> Signal<u64> {
    Signal::Accepted { nonce, log, next }
}

fn deliver(sequence: u64) -> Action<u64> {
    let payload = sequence;
    Action::Deliver { sequence, payload }
}

fn repair(first: u64, last: u64) -> Action<u64> {
    Action::Repair { log: LOG, first, last }
}

/// A subscription in a phase; when it reads, it has given out number 4.
fn machine(phase: Phase) -> Machine {
    let (mut made, asked) = Machine::begin(FIRST, None, T);
    assert_eq!(
        asked,
        [Action::Subscribe {
            nonce: FIRST,
            after: None
        }]
    );
    if phase != Phase::Asking {
        assert_eq!(made.step(accepted(FIRST, LOG, 4), FRESH, T), [Action::TellReading]);
        assert_eq!(made.step(event(LOG, 4), FRESH, T), [deliver(4)]);
    }
    if phase == Phase::Leaving {
        assert_eq!(
            made.step(Signal::Unsubscribe, FIRST, T),
            [Action::Leave { nonce: FIRST }]
        );
    }
    if phase == Phase::Ended {
        let reason = Reason::Closed;
        let _ = made.step(Signal::Ended { reason }, FRESH, T);
    }
    assert_eq!(made.phase(), phase);
    made
}

#[test]
fn table() {
    use Phase::{Asking, Ended, Leaving, Reading};
    let (denied, closed) = (Reason::Unauthorized, Reason::Closed);
    let rejected = |nonce| Signal::Rejected { nonce, reason: denied };
    let subscribe = |after| Action::Subscribe { nonce: FRESH, after };
    let anew = || vec![subscribe(Some((LOG, 4)))];
    let over = |reason| vec![Action::TellEnded(reason)];
    let leave = || vec![Action::Leave { nonce: FRESH }];
    // A signal, and for each phase what comes of it; `None`: it is ignored and counted.
    type Cell = Option<(Phase, Vec<Action<u64>>)>;
    let rows: Vec<(Signal<u64>, [Cell; 4])> = vec![
        (
            accepted(FIRST, LOG, 9),
            [Some((Reading, vec![Action::TellReading])), None, None, None],
        ),
        (accepted(OTHER, LOG, 9), [None, None, None, None]),
        (
            rejected(FIRST),
            [
                Some((Ended, over(Some(denied)))),
                Some((Ended, over(Some(denied)))),
                None,
                None,
            ],
        ),
        (rejected(OTHER), [None, None, None, None]),
        (
            Signal::Left { nonce: FIRST },
            [None, None, Some((Ended, over(None))), None],
        ),
        (Signal::Left { nonce: OTHER }, [None, None, None, None]),
        (event(LOG, 5), [None, Some((Reading, vec![deliver(5)])), None, None]),
        (event(LOG, 4), [None, Some((Reading, vec![])), None, None]),
        (event(LOG, 7), [None, Some((Reading, vec![repair(5, 6)])), None, None]),
        (event(LOG - 1, 5), [None, None, None, None]),
        (event(LOG + 1, 5), [None, Some((Asking, anew())), None, None]),
        (
            gap(LOG, 5, 6),
            [
                None,
                Some((Reading, vec![Action::TellGap(Gap { first: 5, last: 6 })])),
                None,
                None,
            ],
        ),
        (gap(LOG + 1, 5, 6), [None, Some((Asking, anew())), None, None]),
        (
            Signal::Head { log: LOG, last: 4 },
            [None, Some((Reading, vec![])), None, None],
        ),
        (
            Signal::Head { log: LOG, last: 6 },
            [None, Some((Reading, vec![repair(5, 6)])), None, None],
        ),
        (
            Signal::Head { log: LOG + 1, last: 6 },
            [None, Some((Asking, anew())), None, None],
        ),
        (
            Signal::Ended { reason: closed },
            [
                Some((Ended, over(Some(closed)))),
                Some((Ended, over(Some(closed)))),
                Some((Ended, over(None))),
                None,
            ],
        ),
        (
            Signal::Unsubscribe,
            [Some((Leaving, leave())), Some((Leaving, leave())), None, None],
        ),
    ];
    for (signal, cells) in rows {
        for (phase, cell) in [Asking, Reading, Leaving, Ended].into_iter().zip(cells) {
            let mut found = machine(phase);
            let before = found.clone();
            let actions = found.step(signal.clone(), FRESH, T);
            let text = format!("{phase:?}, {signal:?}");
            match cell {
                Some((after, wanted)) => {
                    assert_eq!((found.phase(), actions), (after, wanted), "{text}");
                    assert_eq!(found.counts().ignored, 0, "{text}");
                }
                None => {
                    assert_eq!(actions, [], "{text}");
                    assert_eq!(found.counts().ignored, before.counts().ignored + 1, "{text}");
                    assert_eq!((found.phase(), found.cursor()), (phase, before.cursor()), "{text}");
                }
            }
        }
    }
}

#[test]
fn every_question_is_asked_again_later_each_time() {
    for (phase, again) in [
        (
            Phase::Asking,
            Action::Subscribe {
                nonce: FIRST,
                after: None,
            },
        ),
        (Phase::Leaving, Action::Leave { nonce: FIRST }),
        (Phase::Reading, repair(5, 9)),
    ] {
        let mut found = machine(phase);
        if phase == Phase::Reading {
            assert_eq!(found.step(Signal::Timer, FRESH, T), []);
            assert_eq!(found.due(), None);
            let _ = found.step(Signal::Head { log: LOG, last: 9 }, FRESH, T);
        }
        let (mut at, mut pause) = (T, ASK_FIRST);
        for round in 1..12 {
            at = at.plus(pause);
            assert_eq!(found.due(), Some(at), "{phase:?}, {round}");
            assert_eq!(found.step(Signal::Timer, FRESH, UnixMs::new(at.get() - 1)), []);
            let actions = found.step(Signal::Timer, FRESH, at);
            if phase == Phase::Leaving && round == TRIES_MAX {
                assert_eq!(actions, [Action::TellEnded(None)]);
                assert_eq!(found.due(), None);
                break;
            }
            if phase == Phase::Reading && round == TRIES_MAX {
                assert_eq!(actions, [subscribe_again()]);
                assert_eq!((found.phase(), found.due()), (Phase::Asking, Some(at.plus(ASK_FIRST))));
                break;
            }
            assert_eq!(actions, std::slice::from_ref(&again), "{phase:?}, {round}");
            pause = (pause * 2).min(ASK_MAX);
        }
    }
    assert_eq!(machine(Phase::Ended).due(), None);
    assert_eq!(machine(Phase::Ended).step(Signal::Timer, FRESH, T), []);
}

fn subscribe_again() -> Action<u64> {
    Action::Subscribe {
        nonce: FRESH,
        after: Some((LOG, 4)),
    }
}

/// A late farewell of an earlier subscription had it forgotten, while another of its node still reads.
#[test]
fn a_publisher_that_does_not_answer_what_is_missing_is_asked_anew() {
    let mut found = machine(Phase::Reading);
    assert_eq!(found.step(event(LOG, 7), FRESH, T), [repair(5, 6)]);
    let mut again = Vec::new();
    while found.phase() == Phase::Reading {
        let at = found.due().expect("it lacks numbers");
        again = found.step(Signal::Timer, FRESH, at);
    }
    assert_eq!(again, [subscribe_again()]);
    // What came early is kept meanwhile.
    let actions = found.step(accepted(FRESH, LOG, 8), FRESH, T);
    assert_eq!(actions, [Action::TellReading, repair(5, 6)]);
    let _ = found.step(event(LOG, 5), FRESH, T);
    let actions = found.step(event(LOG, 6), FRESH, T);
    assert_eq!(actions, [deliver(6), deliver(7)]);
    assert_eq!(found.due(), None);
}

#[test]
fn what_came_early_is_given_out_in_its_turn() {
    let mut found = machine(Phase::Reading);
    assert_eq!(found.step(event(LOG, 7), FRESH, T), [repair(5, 6)]);
    // It was asked a moment ago.
    assert_eq!(found.step(event(LOG, 8), FRESH, T), []);
    assert_eq!(found.step(event(LOG, 8), FRESH, T), []);
    assert_eq!(found.counts().duplicates, 1);
    assert_eq!(found.step(event(LOG, 6), FRESH, T), []);
    assert_eq!(
        found.step(event(LOG, 5), FRESH, T),
        [deliver(5), deliver(6), deliver(7), deliver(8)]
    );
    assert_eq!(found.due(), None);
    assert_eq!(found.cursor(), Some((LOG, 8)));
}

#[test]
fn a_gap_tells_only_what_is_not_kept() {
    let mut found = machine(Phase::Reading);
    for sequence in [7, 8, 11] {
        let _ = found.step(event(LOG, sequence), FRESH, T);
    }
    let told = |first, last| Action::TellGap(Gap { first, last });
    let actions = found.step(gap(LOG, 2, 9), FRESH, T);
    assert_eq!(
        actions,
        [told(5, 6), deliver(7), deliver(8), told(9, 9), repair(10, 10)]
    );
    assert_eq!(found.counts().missing, 3);
    // One that leaves a hole before it, one that is over, and one the wrong way round.
    for (first, last) in [(11, 12), (1, 9), (13, 12)] {
        let _ = found.step(gap(LOG, first, last), FRESH, T);
    }
    assert_eq!((found.counts().ignored, found.cursor()), (3, Some((LOG, 9))));
}

#[test]
fn what_is_kept_is_bounded_and_what_did_not_fit_is_asked_for() {
    let mut found = machine(Phase::Reading);
    let extra = u64::try_from(EARLY_MAX).expect("small") + 10;
    for sequence in 6..6 + extra {
        let _ = found.step(event(LOG, sequence), FRESH, T);
    }
    assert_eq!(found.counts().crowded, 10);
    let actions = found.step(event(LOG, 5), FRESH, T);
    let last = 5 + extra;
    assert_eq!(actions.last(), Some(&repair(last - 9, last)));
    let mut found = machine(Phase::Reading);
    let large = |sequence| Signal::Event {
        log: LOG,
        sequence,
        bytes: EARLY_BYTES_MAX,
        payload: sequence,
    };
    let _ = found.step(large(6), FRESH, T);
    let _ = found.step(large(7), FRESH, T);
    assert_eq!(found.counts().crowded, 1);
    // What has its turn is given out whatever its size.
    assert_eq!(found.step(large(5), FRESH, T), [deliver(5), deliver(6), repair(7, 7)]);
}

#[test]
fn so_many_numbers_are_asked_for_at_once() {
    let mut found = machine(Phase::Reading);
    let far = Signal::Head {
        log: LOG,
        last: u64::MAX,
    };
    assert_eq!(found.step(far, FRESH, T), [repair(5, 4 + REPAIR_MAX)]);
    let everything = gap(LOG, 1, u64::MAX);
    let told = Gap {
        first: 5,
        last: u64::MAX,
    };
    assert_eq!(found.step(everything, FRESH, T), [Action::TellGap(told)]);
    assert_eq!(found.step(event(LOG, u64::MAX), FRESH, T), []);
}

#[test]
fn a_subscription_goes_on_where_it_was() {
    let (mut found, asked) = Machine::begin(FIRST, Some((LOG, 4)), T);
    let after = Some((LOG, 4));
    assert_eq!(asked, [Action::Subscribe { nonce: FIRST, after }]);
    let actions = found.step(accepted(FIRST, LOG, 8), FRESH, T);
    assert_eq!(actions, [Action::TellReading, repair(5, 7)]);
    // In a later life of the numbers, it is told that something may be missing.
    let (mut found, _) = Machine::begin(FIRST, after, T);
    let actions = found.step(accepted(FIRST, LOG + 1, 3), FRESH, T);
    let restart = Action::TellRestart { log: LOG + 1, next: 3 };
    assert_eq!(actions, [Action::TellReading, restart]);
    assert_eq!(found.step(event(LOG + 1, 3), FRESH, T), [deliver(3)]);
}

/// What the publisher says, or what the subscriber asks.
type Sent = Result<Signal<u64>, Action<u64>>;

/// A publisher, a subscriber, and a network between them that loses, repeats and reorders.
struct World {
    random: SplitMix64,
    log: ChannelLog,
    reader: Machine,
    now: UnixMs,
    /// Frames on their way, and when they arrive.
    way: Vec<(UnixMs, Sent)>,
    good: bool,
    given: Vec<u64>,
    missing: BTreeSet<u64>,
    since: Option<u64>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = SplitMix64::new(seed);
        let bound = [400, 4_000, 1 << 20][random.below(3)];
        let (reader, asked) = Machine::begin(FIRST, None, T);
        let mut made = Self {
            random,
            log: ChannelLog::after(0, bound, 1_000),
            reader,
            now: T,
            way: Vec::new(),
            good: false,
            given: Vec::new(),
            missing: BTreeSet::new(),
            since: None,
        };
        made.act(asked);
        made
    }

    fn send(&mut self, what: Sent) {
        let copies = if self.good {
            1
        } else {
            [0, 1, 1, 1, 2][self.random.below(5)]
        };
        for _ in 0..copies {
            let delay = Duration::from_millis(self.random.below(if self.good { 2 } else { 300 }) as u64);
            self.way.push((self.now.plus(delay), what.clone()));
        }
    }

    fn publish(&mut self) {
        let number = self.log.last() + 1;
        let payload: Arc<[u8]> = number.to_le_bytes().into();
        self.log.publish(None, payload).expect("it fits");
        self.send(Ok(event(LOG, number)));
    }

    fn act(&mut self, actions: Vec<Action<u64>>) {
        for action in actions {
            match action {
                Action::Deliver { sequence, payload } => {
                    assert_eq!(sequence, payload);
                    self.given.push(sequence);
                }
                Action::TellGap(gap) => self.missing.extend(gap.first..=gap.last),
                Action::TellReading => {
                    let (_, cursor) = self.reader.cursor().expect("it reads");
                    self.since.get_or_insert(cursor + 1);
                }
                asked => self.send(Err(asked)),
            }
        }
    }

    /// What the publisher does about a question.
    fn answer(&mut self, asked: Action<u64>) {
        match asked {
            Action::Subscribe { nonce, .. } => self.send(Ok(accepted(nonce, LOG, self.log.last() + 1))),
            Action::Repair { first, last, .. } => {
                let (gone, events) = self.log.range(first, last);
                let events: Vec<u64> = events.map(|event| event.sequence).collect();
                if let Some(gap) = gone {
                    self.send(Ok(Signal::Gap { log: LOG, gap }));
                }
                events.into_iter().for_each(|number| self.send(Ok(event(LOG, number))));
            }
            other => panic!("{other:?} is not asked here"),
        }
    }

    fn tick(&mut self) {
        self.now = self.now.plus(Duration::from_millis(5));
        let (due, rest) = std::mem::take(&mut self.way)
            .into_iter()
            .partition(|(at, _)| *at <= self.now);
        self.way = rest;
        for (_, what) in due {
            match what {
                Ok(signal) => {
                    let actions = self.reader.step(signal, FRESH, self.now);
                    self.act(actions);
                }
                Err(asked) => self.answer(asked),
            }
        }
        let actions = self.reader.step(Signal::Timer, FRESH, self.now);
        self.act(actions);
    }

    fn check(&self) {
        let Some(since) = self.since else {
            return assert!(self.given.is_empty());
        };
        assert!(self.given.is_sorted_by(|a, b| a < b), "in order, each once");
        let (_, cursor) = self.reader.cursor().expect("it reads");
        let mut all: BTreeMap<u64, bool> = self.given.iter().map(|number| (*number, true)).collect();
        for number in &self.missing {
            assert_eq!(all.insert(*number, false), None, "given out and missing");
        }
        assert!(all.into_keys().eq(since..=cursor), "given out or in a gap");
    }
}

#[test]
fn whatever_the_network_does_every_number_comes_in_order_or_is_told_missing() {
    let seeds = std::env::var("SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(100);
    for seed in 0..seeds {
        let mut world = World::new(seed);
        for _ in 0..300 {
            (0..world.random.below(4)).for_each(|_| world.publish());
            world.tick();
            world.check();
        }
        world.good = true;
        let last = world.log.last();
        for _ in 0..3_000 {
            world.send(Ok(Signal::Head { log: LOG, last }));
            world.tick();
            if world.reader.cursor() == Some((LOG, last)) {
                break;
            }
        }
        world.check();
        assert_eq!(world.reader.cursor(), Some((LOG, last)), "seed {seed}");
        // What is missing had to go at the publisher.
        assert!(
            world.missing.iter().all(|number| *number < world.log.first()),
            "seed {seed}"
        );
    }
}
