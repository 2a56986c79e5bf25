//! A caller and a desk on a network that loses, repeats and reorders.

use std::collections::BTreeMap;
use std::time::Duration;

use meshos_core::id::EntityId;
use meshos_core::remote_call::{self, Outcome, RemoteCall};
use meshos_core::remote_desk::{self, Key, RemoteDesk};
use meshos_core::remote_frame::{Answer, Body, CallId, PART_BYTES_MAX, RemoteFrame, Request, snapshot_digest};
use meshos_core::testing::network::{Faults, Network};
use meshos_core::testing::random::SplitMix64;

const CALLER: EntityId = EntityId::from_bytes([1; 32]);

struct Asked {
    call: RemoteCall,
    fetched: Vec<u8>,
    outcome: Option<Outcome>,
}

fn id(number: u8) -> CallId {
    [number; 16]
}

fn request(number: u8) -> Request {
    let origin = meshos_core::id::Origin::new(u64::from(number));
    if number.is_multiple_of(2) {
        Request::Snapshot(origin)
    } else {
        Request::Stop(origin)
    }
}

/// What a snapshot of the daemon of a call is: more than one part, of which none is like another.
fn snapshot(number: u8) -> Vec<u8> {
    let length = PART_BYTES_MAX / 2 * usize::from(number) + 1;
    SplitMix64::new(u64::from(number))
        .bytes(4096)
        .into_iter()
        .cycle()
        .take(length)
        .enumerate()
        .map(|(at, byte)| byte ^ (at >> 12) as u8)
        .collect()
}

fn send(network: &mut Network<Vec<u8>>, now: Duration, from: usize, call: CallId, body: Body<'_>) {
    network.send(now, from, 1 - from, RemoteFrame { call, body }.to_bytes());
}

/// Runs a seed; returns how often each call was run, and what was fetched.
fn run(seed: u64) -> (BTreeMap<u8, u32>, BTreeMap<u8, Asked>) {
    let mut network = Network::new(2, seed, Faults::default());
    let mut now = Duration::ZERO;
    let (mut desk, mut ran, mut held) = (RemoteDesk::default(), BTreeMap::new(), BTreeMap::new());
    let mut asked = BTreeMap::new();
    for number in 1..=4_u8 {
        let (call, _) = RemoteCall::begin(now, 1 << 30, seed ^ u64::from(number));
        send(&mut network, now, 0, id(number), Body::Ask(request(number)));
        let (fetched, outcome) = (Vec::new(), None);
        asked.insert(number, Asked { call, fetched, outcome });
    }
    while asked.values().any(|asked| asked.outcome.is_none()) {
        assert!(now < Duration::from_secs(120), "seed {seed} does not end");
        let wake = asked.values().filter_map(|asked| asked.call.wake_at()).min();
        let next = wake
            .into_iter()
            .chain(network.next_at())
            .min()
            .expect("something is open");
        now = now.max(next);
        let mut decided: Vec<(u8, Vec<remote_call::Action>)> = Vec::new();
        let mut part = Vec::new();
        if network.next_at().is_some_and(|at| at <= now) {
            let Some(arrival) = network.take_next() else { continue };
            let frame = RemoteFrame::decode(&arrival.message).expect("nothing is damaged");
            let number = frame.call[0];
            if arrival.to == 1 {
                let key: Key = (CALLER, frame.call);
                let signal = match frame.body {
                    Body::Ask(_) => remote_desk::Signal::Ask { key, permitted: true },
                    Body::Fetch { offset } => remote_desk::Signal::Fetch { key, offset },
                    _ => unreachable!("a desk is only asked"),
                };
                let mut actions = Vec::new();
                desk.step(now, signal, &mut actions);
                while let Some(action) = actions.pop() {
                    match action {
                        remote_desk::Action::Run(key) => {
                            *ran.entry(number).or_insert(0) += 1;
                            let answer = if number.is_multiple_of(2) {
                                let bytes = snapshot(number);
                                let (size, digest) = (bytes.len() as u64, snapshot_digest(&bytes));
                                held.insert(number, bytes);
                                Answer::Taken { size, digest }
                            } else {
                                Answer::Done
                            };
                            desk.step(now, remote_desk::Signal::Finished { key, answer }, &mut actions);
                        }
                        remote_desk::Action::Answer(key, answer) => {
                            send(&mut network, now, 1, key.1, Body::Answer(answer));
                        }
                        remote_desk::Action::Part { key, offset, length } => {
                            let begin = usize::try_from(offset).unwrap();
                            let bytes = &held[&number][begin..begin + length];
                            send(&mut network, now, 1, key.1, Body::Part { offset, bytes });
                        }
                        remote_desk::Action::LetGo(_) => drop(held.remove(&number)),
                    }
                }
            } else {
                let signal = match frame.body {
                    Body::Answer(answer) => remote_call::Signal::Answer(answer),
                    Body::Part { offset, bytes } => {
                        part = bytes.to_vec();
                        let length = bytes.len();
                        remote_call::Signal::Part { offset, length }
                    }
                    _ => unreachable!("a caller is only answered"),
                };
                let mut actions = Vec::new();
                asked.get_mut(&number).unwrap().call.step(now, signal, &mut actions);
                decided.push((number, actions));
            }
        } else {
            for (number, asked) in &mut asked {
                let mut actions = Vec::new();
                asked.call.step(now, remote_call::Signal::Timer, &mut actions);
                decided.push((*number, actions));
            }
        }
        for (number, actions) in decided {
            for action in actions {
                match action {
                    remote_call::Action::Ask => send(&mut network, now, 0, id(number), Body::Ask(request(number))),
                    remote_call::Action::Fetch { offset } => {
                        send(&mut network, now, 0, id(number), Body::Fetch { offset });
                    }
                    remote_call::Action::Take => asked.get_mut(&number).unwrap().fetched.append(&mut part),
                    remote_call::Action::Ended(outcome) => asked.get_mut(&number).unwrap().outcome = Some(outcome),
                }
            }
        }
    }
    (ran, asked)
}

#[test]
fn each_call_is_run_once_and_a_snapshot_comes_whole() {
    for seed in 0..20 {
        let (ran, asked) = run(seed);
        assert_eq!(ran, (1..=4).map(|number| (number, 1)).collect(), "seed {seed}");
        for (number, asked) in asked {
            match asked.outcome.unwrap() {
                Outcome::Done => assert_eq!(number % 2, 1),
                Outcome::Fetched { digest } => {
                    assert_eq!(snapshot_digest(&asked.fetched), digest, "seed {seed}");
                    assert_eq!(asked.fetched, snapshot(number), "seed {seed}");
                }
                other => panic!("seed {seed}: {other:?}"),
            }
        }
    }
}
