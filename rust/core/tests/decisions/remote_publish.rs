//! Publishing on a channel of another node, on both sides.

use std::collections::BTreeMap;
use std::time::Duration;

use meshos_core::channel_frame::{Publish, Reason, Unpublished};
use meshos_core::channel_policy::ChannelPolicy;
use meshos_core::id::EntityId;
use meshos_core::name::ChannelName;
use meshos_core::remote_publish::{
    ASK_FIRST, ASK_MAX, Action, Answer, Answers, Asked, DEADLINE_MAX, KEEP, Limits, Memory, Outcome, Requests, Signal,
    WINDOW, nonce, run_and_number,
};
use meshos_core::revocation::{Revocation, Revocations, Target};
use meshos_core::roster::{self, Roster};
use meshos_core::testing::network::{Faults, Network};
use meshos_core::testing::random::SplitMix64;
use meshos_core::testing::samples::keypair;
use meshos_core::time::UnixMs;
use meshos_core::token::{PermissionToken, Right, Scope, Terms};

const OWN: u8 = 1;
const NODE: u8 = 2;
const DAEMON: u8 = 3;
const ROOT: u8 = 4;
const OTHER: u8 = 5;
const T: UnixMs = UnixMs::new(1_000_000_000);
const HOUR: Duration = Duration::from_secs(3_600);
const RUN: u64 = 7;

fn id(byte: u8) -> EntityId {
    keypair(byte).entity_id()
}

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).expect("a good name")
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

// -- the side that asks

fn requests() -> Requests<&'static str> {
    Requests::new(RUN, Limits::default())
}

fn step(requests: &mut Requests<&'static str>, now: Duration, signal: Signal<&'static str>) -> Vec<Action> {
    let mut actions = Vec::new();
    requests.step(now, signal, &mut actions);
    actions
}

/// `to` the owner, by the daemon, with two seconds.
fn publish(to: u8, now: Duration) -> Signal<&'static str> {
    Signal::Publish {
        to: id(to),
        publisher: id(DAEMON),
        bytes: 3,
        payload: "hot",
        deadline: now + at(2_000),
    }
}

fn published(from: u8, number: u64, sequence: u64) -> Signal<&'static str> {
    let (from, nonce) = (id(from), nonce(RUN, number));
    Signal::Published { from, nonce, sequence }
}

fn not_published(from: u8, number: u64, reason: Unpublished) -> Signal<&'static str> {
    let (from, nonce) = (id(from), nonce(RUN, number));
    Signal::NotPublished { from, nonce, reason }
}

fn taken(number: u64) -> Action {
    Action::Taken {
        nonce: nonce(RUN, number),
    }
}

fn send(number: u64) -> Action {
    let (nonce, to) = (nonce(RUN, number), id(OWN));
    Action::Send { nonce, to }
}

fn settled(number: u64, outcome: Outcome) -> Action {
    let nonce = nonce(RUN, number);
    Action::Settled { nonce, outcome }
}

#[test]
fn a_nonce_is_a_run_and_a_number() {
    assert_eq!(run_and_number(&nonce(7, 9)), (7, 9));
    assert_eq!(run_and_number(&nonce(u64::MAX, 0)), (u64::MAX, 0));
    assert_eq!(nonce(1, 2), [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
}

/// One request that was sent, as number 1.
fn sent() -> Requests<&'static str> {
    let mut requests = requests();
    assert_eq!(step(&mut requests, at(0), publish(OWN, at(0))), [taken(1), send(1)]);
    requests
}

/// A window of requests that were sent, and one that waits, as number 65.
fn waiting() -> (Requests<&'static str>, u64) {
    let mut requests = requests();
    for number in 1..=WINDOW as u64 {
        let actions = step(&mut requests, at(0), publish(OWN, at(0)));
        assert_eq!(actions, [taken(number), send(number)]);
    }
    let last = WINDOW as u64 + 1;
    let signal = Signal::Publish {
        to: id(OWN),
        publisher: id(DAEMON),
        bytes: 3,
        payload: "hot",
        deadline: at(1_000),
    };
    assert_eq!(step(&mut requests, at(0), signal), [taken(last)]);
    (requests, last)
}

/// Every signal, about a request that waits, one that was sent, one that is settled, and one that never was.
#[test]
fn table() {
    let too_large = Unpublished::TooLarge;
    // Sent.
    let mut found = sent();
    let actions = step(&mut found, at(1), published(OWN, 1, 42));
    assert_eq!(actions, [settled(1, Outcome::Published(42))]);
    assert!(found.is_empty() && found.due().is_none());
    // Settled.
    for late in [published(OWN, 1, 43), not_published(OWN, 1, too_large)] {
        let ignored = found.ignored();
        assert_eq!(step(&mut found, at(2), late), []);
        assert_eq!(found.ignored(), ignored + 1);
    }
    let calm = found.clone();
    for nothing in [Signal::Timer, Signal::Restarted { node: id(OWN) }] {
        assert_eq!(step(&mut found, at(9_000), nothing), []);
        assert_eq!(found, calm);
    }
    for (reason, outcome) in [
        (too_large, Outcome::Refused(too_large)),
        (
            Unpublished::Refused(Reason::Unauthorized),
            Outcome::Refused(Unpublished::Refused(Reason::Unauthorized)),
        ),
        (Unpublished::Forgotten, Outcome::Unknown),
    ] {
        let actions = step(&mut sent(), at(1), not_published(OWN, 1, reason));
        assert_eq!(actions, [settled(1, outcome)]);
    }
    // From another node, of another run, or of a request that never was.
    let other_run = Signal::Published {
        from: id(OWN),
        nonce: nonce(RUN + 1, 1),
        sequence: 1,
    };
    for strange in [
        published(OTHER, 1, 42),
        not_published(OTHER, 1, too_large),
        other_run,
        published(OWN, 2, 42),
        not_published(OWN, 2, too_large),
    ] {
        let mut found = sent();
        assert_eq!(step(&mut found, at(1), strange), []);
        assert_eq!((found.len(), found.ignored()), (1, 1));
    }
    // The node of another request begins anew: nothing. Its own: it is not known.
    let mut found = sent();
    assert_eq!(step(&mut found, at(1), Signal::Restarted { node: id(OTHER) }), []);
    let actions = step(&mut found, at(1), Signal::Restarted { node: id(OWN) });
    assert_eq!(actions, [settled(1, Outcome::Unknown)]);
    // Waiting: what was never sent has no answer.
    let (known, last) = waiting();
    for strange in [published(OWN, last, 42), not_published(OWN, last, too_large)] {
        let mut found = known.clone();
        assert_eq!(step(&mut found, at(1), strange), []);
        assert_eq!(found.ignored(), 1);
    }
    // Its deadline comes before those of the others.
    let mut found = known.clone();
    let mut actions = step(&mut found, at(1_000), Signal::Timer);
    assert_eq!(actions.remove(0), settled(last, Outcome::NotSent));
    assert_eq!(actions, (1..last).map(send).collect::<Vec<_>>());
    // A restart settles what was sent, and sends what waited to the new run.
    let mut found = known;
    let actions = step(&mut found, at(1), Signal::Restarted { node: id(OWN) });
    assert_eq!(actions[..2], [settled(1, Outcome::Unknown), send(last)]);
    assert_eq!((actions.len(), found.len()), (WINDOW + 1, 1));
}

#[test]
fn it_is_sent_again_later_each_time_until_its_deadline() {
    let mut requests = sent();
    assert_eq!(requests.payload(&nonce(RUN, 1)), Some(&"hot"));
    assert_eq!(requests.payload(&nonce(RUN + 1, 1)), None);
    let mut waits = Vec::new();
    let mut now = at(0);
    loop {
        let due = requests.due().expect("it is open");
        assert_eq!(step(&mut requests, due - at(1), Signal::Timer), []);
        waits.push(due - now);
        now = due;
        match &step(&mut requests, now, Signal::Timer)[..] {
            [again] if *again == send(1) => {}
            [over] => {
                assert_eq!(*over, settled(1, Outcome::Unknown));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(waits[..4], [at(50), at(100), at(200), at(400)]);
    assert_eq!(now, at(2_000));
    assert!(waits.iter().all(|wait| *wait >= ASK_FIRST && *wait <= ASK_MAX) || waits.last() < Some(&ASK_FIRST));
    let far = Signal::Publish {
        to: id(OWN),
        publisher: id(DAEMON),
        bytes: 3,
        payload: "hot",
        deadline: Duration::MAX,
    };
    assert_eq!(step(&mut requests, now, far).len(), 2);
    let over = step(&mut requests, now + DEADLINE_MAX, Signal::Timer);
    assert_eq!(over, [settled(2, Outcome::Unknown)]);
}

#[test]
fn the_window_begins_at_the_oldest_open_request() {
    let (mut requests, last) = waiting();
    // All but the oldest are settled: the window does not move.
    for number in 2..last {
        let actions = step(&mut requests, at(1), published(OWN, number, number));
        assert_eq!(actions, [settled(number, Outcome::Published(number))]);
    }
    // Another publisher, and the same one to another node, have windows of their own.
    let other = Signal::Publish {
        to: id(OWN),
        publisher: id(OTHER),
        bytes: 3,
        payload: "hot",
        deadline: at(9_000),
    };
    assert_eq!(step(&mut requests, at(1), other).len(), 2);
    assert_eq!(step(&mut requests, at(1), publish(OTHER, at(1))).len(), 2);
    let actions = step(&mut requests, at(1), published(OWN, 1, 1));
    assert_eq!(actions, [settled(1, Outcome::Published(1)), send(last)]);
}

#[test]
fn requests_and_their_bytes_are_bounded() {
    for limits in [
        Limits {
            requests_max: 2,
            ..Limits::default()
        },
        Limits {
            bytes_max: 6,
            ..Limits::default()
        },
    ] {
        let mut requests = Requests::new(RUN, limits);
        for _ in 0..2 {
            assert_eq!(step(&mut requests, at(0), publish(OWN, at(0))).len(), 2);
        }
        assert_eq!(step(&mut requests, at(0), publish(OWN, at(0))), [Action::Full]);
        let _ = step(&mut requests, at(0), published(OWN, 1, 1));
        assert_eq!(step(&mut requests, at(0), publish(OWN, at(0))), [taken(3), send(3)]);
    }
}

// -- the side of the channel

fn token(subject: u8, right: Right) -> Vec<u8> {
    let terms = Terms {
        subject: id(subject),
        scope: Scope::Channel(name("gated")),
        rights: [right].into_iter().collect(),
        delegations: 0,
    };
    let issued = PermissionToken::issue(&keypair(ROOT), terms, T, HOUR, [subject; 16]);
    issued.expect("good terms").to_bytes()
}

fn request(channel: &str, publisher: u8, number: u64) -> Publish<'static> {
    Publish {
        nonce: nonce(RUN, number),
        channel: name(channel),
        publisher: id(publisher),
        token: Vec::new(),
        proof: None,
        payload: b"hot",
    }
}

fn signed(mut request: Publish<'static>) -> Publish<'static> {
    let signed = request.sign(&keypair(DAEMON), &id(NODE), &id(OWN));
    signed.expect("it has its secret half");
    request
}

/// A node with an open and a gated channel, and how often it published.
struct Side {
    answers: Answers,
    roster: Roster,
    revocations: Revocations,
    published: u64,
}

impl Side {
    fn new(memory: Memory) -> Self {
        let mut roster = Roster::new(id(OWN), roster::Limits::default());
        let policy = ChannelPolicy {
            requires_token: true,
            roots: [id(ROOT)].into(),
            ..ChannelPolicy::default()
        };
        let opened = roster.open(&name("gated"), policy, T, &Revocations::default());
        assert_eq!(opened, Ok(Vec::new()));
        Self {
            answers: Answers::new(memory),
            roster,
            revocations: Revocations::default(),
            published: 0,
        }
    }

    fn ask(&mut self, from: u8, request: &Publish<'_>, now: UnixMs) -> Answer {
        let asked = Asked {
            from: &id(from),
            own: &id(OWN),
            request,
            now,
            roster: &self.roster,
            revocations: &self.revocations,
        };
        let published = &mut self.published;
        self.answers.request(&asked, || {
            if request.payload.len() > 100 {
                return Err(Unpublished::TooLarge);
            }
            *published += 1;
            Ok(*published)
        })
    }
}

fn side() -> Side {
    Side::new(Memory::default())
}

#[test]
fn a_request_that_is_repeated_is_answered_alike_and_published_once() {
    let mut side = side();
    let asked = request("open", DAEMON, 1);
    assert_eq!(side.ask(NODE, &asked, T), Ok(1));
    for _ in 0..3 {
        assert_eq!(side.ask(NODE, &asked, T), Ok(1));
    }
    assert_eq!((side.published, side.answers.repeated()), (1, 3));
    // The same nonce of another publisher, or from another node, is another request.
    assert_eq!(side.ask(NODE, &request("open", OTHER, 1), T), Ok(2));
    assert_eq!(side.ask(OTHER, &asked, T), Ok(3));
    // A refusal is repeated too: who was told so has not published.
    let large = Publish {
        payload: &[0; 101],
        ..request("open", DAEMON, 2)
    };
    assert_eq!(side.ask(NODE, &large, T), Err(Unpublished::TooLarge));
    assert_eq!(
        side.ask(NODE, &request("open", DAEMON, 2), T),
        Err(Unpublished::TooLarge)
    );
    assert_eq!(side.published, 3);
}

#[test]
fn what_is_older_than_the_answers_that_are_kept_is_never_published() {
    let mut side = side();
    let window = WINDOW as u64;
    // Number 1 is late: those after it fill all but its place.
    for number in 2..=window {
        assert!(side.ask(NODE, &request("open", DAEMON, number), T).is_ok());
    }
    assert_eq!(side.ask(NODE, &request("open", DAEMON, 1), T), Ok(window));
    assert_eq!(side.ask(NODE, &request("open", DAEMON, window + 1), T), Ok(window + 1));
    for gone in [0, 1] {
        let answer = side.ask(NODE, &request("open", DAEMON, gone), T);
        assert_eq!(answer, Err(Unpublished::Forgotten));
    }
    assert_eq!(side.ask(NODE, &request("open", DAEMON, 2), T), Ok(1));
    // A later run of the node begins anew, and an earlier one is over.
    let mut later = request("open", DAEMON, 1);
    later.nonce = nonce(RUN + 1, 1);
    assert_eq!(side.ask(NODE, &later, T), Ok(window + 2));
    let answer = side.ask(NODE, &request("open", DAEMON, window), T);
    assert_eq!(answer, Err(Unpublished::Forgotten));
    assert_eq!(side.published, window + 2);
}

#[test]
fn a_gated_channel_takes_what_a_token_permits_and_its_subject_signed() {
    let unauthorized = Err(Unpublished::Refused(Reason::Unauthorized));
    let mut side = side();
    let with = |token: Vec<u8>, number| Publish {
        token,
        ..request("gated", DAEMON, number)
    };
    let good = token(DAEMON, Right::Publish);
    let mut moved = signed(with(good.clone(), 5));
    moved.payload = b"cold";
    for refused in [
        request("gated", DAEMON, 1),
        signed(request("gated", DAEMON, 2)),
        with(good.clone(), 3),
        signed(with(token(DAEMON, Right::Subscribe), 4)),
        moved,
        signed(with(token(OTHER, Right::Publish), 6)),
        signed(with(vec![1, 2, 3], 7)),
    ] {
        assert_eq!(side.ask(NODE, &refused, T), unauthorized);
    }
    assert_eq!(side.ask(OTHER, &signed(with(good.clone(), 8)), T), unauthorized);
    assert_eq!(side.ask(NODE, &signed(with(good.clone(), 8)), T), Ok(1));
    assert_eq!(
        side.ask(NODE, &signed(with(good.clone(), 9)), T.plus(HOUR)),
        unauthorized
    );
    let everything = Revocation::sign(Target::Everything, T.plus(HOUR), &keypair(ROOT)).expect("a full pair");
    side.revocations.add(&everything).expect("there is room");
    assert_eq!(side.ask(NODE, &signed(with(good.clone(), 10)), T), unauthorized);
    // What was published stays so.
    assert_eq!(side.ask(NODE, &signed(with(good, 8)), T), Ok(1));
    // Of an open channel nothing is asked, but a signature that is there is right.
    assert_eq!(side.ask(NODE, &request("open", DAEMON, 11), T), Ok(2));
    let mut forged = signed(request("open", DAEMON, 12));
    forged.payload = b"cold";
    assert_eq!(side.ask(NODE, &forged, T), unauthorized);
}

#[test]
fn publishers_are_bounded_and_forgotten_without_publishing_again() {
    let too_many = Err(Unpublished::Refused(Reason::TooMany));
    let mut side = Side::new(Memory {
        publishers_max: 3,
        per_node_max: 2,
    });
    assert_eq!(side.ask(NODE, &request("open", 10, 1), T), Ok(1));
    assert_eq!(side.ask(NODE, &request("open", 11, 2), T), Ok(2));
    assert_eq!(side.ask(NODE, &request("open", 12, 3), T), too_many);
    assert_eq!(side.ask(OTHER, &request("open", 10, 1), T), Ok(3));
    assert_eq!(side.ask(DAEMON, &request("open", 10, 1), T), too_many);
    // Not remembered: it is tried again when there is room, and published then.
    let later = T.plus(KEEP);
    assert_eq!(side.ask(NODE, &request("open", 12, 3), later), Ok(4));
    assert_eq!(side.answers.len(), 1);
    // What was forgotten is not published again; what is newer is published.
    for gone in [request("open", 10, 1), request("open", 11, 2), request("open", 13, 2)] {
        assert_eq!(side.ask(NODE, &gone, later), Err(Unpublished::Forgotten));
    }
    assert_eq!(side.ask(NODE, &request("open", 10, 4), later), Ok(5));
    assert_eq!(side.answers.forgotten(), 3);
    side.answers.forget(later.plus(KEEP));
    assert!(side.answers.is_empty());
}

// -- both sides on a network that goes wrong

#[derive(Clone)]
enum Message {
    Ask { run: u64, number: u64, content: u64 },
    Answer { number: u64, answer: Answer },
}

/// Every answer is true, and nothing is published twice in a run of the owner.
#[test]
fn whatever_the_network_does_what_is_told_is_true_and_nothing_is_published_twice() {
    let (mut told, mut unknown, mut restarts) = (0, 0, 0);
    for seed in 0..60 {
        let mut random = SplitMix64::new(seed);
        let faults = Faults {
            loss: 250,
            duplicate: 250,
            late: 250,
            ..Faults::default()
        };
        let mut network: Network<Message> = Network::new(2, random.next_u64(), faults);
        let mut requests: Requests<u64> = Requests::new(RUN, Limits::default());
        let mut side = side();
        // What is published, of which number; by run of the owner.
        let (mut run, mut published) = (0, BTreeMap::new());
        let mut outcomes: BTreeMap<u64, Outcome> = BTreeMap::new();
        let (mut now, mut content) = (Duration::ZERO, 0);
        while content < 300 || !requests.is_empty() {
            let mut actions = Vec::new();
            let next = [network.next_at(), requests.due()].into_iter().flatten().min();
            now = now.max(next.unwrap_or(now));
            let restart = content < 300 && random.below(400) == 0;
            if content < 300 && random.below(3) == 0 {
                content += 1;
                let deadline = now + at(random.below(3_000) as u64);
                let signal = Signal::Publish {
                    to: id(OWN),
                    publisher: id(DAEMON),
                    bytes: 1,
                    payload: content,
                    deadline,
                };
                requests.step(now, signal, &mut actions);
            } else if restart {
                (restarts, run) = (restarts + 1, run + 1);
                side.answers = Answers::new(Memory::default());
                requests.step(now, Signal::Restarted { node: id(OWN) }, &mut actions);
            } else if network.next_at().is_some_and(|at| at <= now) {
                match network.take_next().expect("it is there").message {
                    Message::Ask {
                        run: to,
                        number,
                        content,
                    } if to == run => {
                        let asked = request("open", DAEMON, number);
                        let before = side.published;
                        let answer = side.ask(NODE, &asked, T);
                        if side.published > before {
                            assert_eq!(
                                published.insert((run, content), side.published),
                                None,
                                "twice: {content}"
                            );
                        }
                        network.send(now, 1, 0, Message::Answer { number, answer });
                    }
                    Message::Ask { .. } => {}
                    Message::Answer { number, answer } => {
                        let (from, nonce) = (id(OWN), nonce(RUN, number));
                        let signal = match answer {
                            Ok(sequence) => Signal::Published { from, nonce, sequence },
                            Err(reason) => Signal::NotPublished { from, nonce, reason },
                        };
                        requests.step(now, signal, &mut actions);
                    }
                }
            } else {
                requests.step(now, Signal::Timer, &mut actions);
            }
            for action in actions {
                match action {
                    Action::Send { nonce, .. } => {
                        let (_, number) = run_and_number(&nonce);
                        let content = *requests.payload(&nonce).expect("it is open");
                        network.send(now, 0, 1, Message::Ask { run, number, content });
                    }
                    Action::Settled { nonce, outcome } => {
                        assert_eq!(outcomes.insert(run_and_number(&nonce).1, outcome), None);
                    }
                    Action::Taken { .. } => {}
                    Action::Full => panic!("there is room"),
                }
            }
        }
        assert_eq!(outcomes.len() as u64, content);
        for (number, outcome) in outcomes {
            let places: Vec<u64> = (0..=run)
                .filter_map(|run| published.get(&(run, number)).copied())
                .collect();
            assert!(places.len() < 2, "{number} is published at {places:?}");
            match outcome {
                Outcome::Published(sequence) => assert_eq!(places, [sequence]),
                Outcome::NotSent => assert_eq!(places, []),
                Outcome::Unknown => unknown += 1,
                Outcome::Refused(reason) => panic!("{reason:?}"),
            }
            told += 1;
        }
    }
    assert!(
        told == 18_000 && unknown > 100 && restarts > 20,
        "{told} {unknown} {restarts}"
    );
}
