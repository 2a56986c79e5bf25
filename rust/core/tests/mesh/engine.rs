//! The simulated engine does what every engine must, and misbehaves by its seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use meshos_core::engine::{Engine, Payload, Receive, RequestError, Responder, Serve, Topic};
use meshos_core::testing::engines::{SimulatedNetwork, conforms};
use meshos_core::testing::network::Faults;
use meshos_core::testing::samples::keypair;

const BAD: Faults = Faults {
    loss: 200,
    duplicate: 200,
    late: 20,
    delay_min: Duration::from_micros(100),
    delay_max: Duration::from_millis(10),
    late_max: Duration::from_millis(600),
    queue_max: usize::MAX,
};

struct Counted(AtomicU64);

impl Receive for Counted {
    fn receive(&self, _topic: &Topic, _payload: &Payload) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        true
    }
}

struct Echo;

impl Serve for Echo {
    fn serve(&self, _topic: &Topic, payload: &Payload, responder: Responder) {
        responder.answer(payload.clone());
    }
}

#[test]
fn the_simulated_engine_conforms() {
    for seed in 0..20 {
        let faults = Faults {
            delay_max: Duration::from_millis(3),
            ..Faults::CALM
        };
        conforms(&mut SimulatedNetwork::new(seed, faults));
    }
}

#[test]
fn what_is_lost_and_repeated_follows_from_the_seed() {
    let run = |seed| {
        let mut network = SimulatedNetwork::new(seed, BAD);
        let [one, two] = [1, 2].map(|byte| network.join(keypair(byte).entity_id()));
        let counted = Arc::new(Counted(AtomicU64::new(0)));
        let _hears = two.subscribe(&Topic::Beats, counted.clone()).expect("open");
        for _ in 0..1000 {
            one.publish(&Topic::Beats, Payload::new(vec![1])).expect("open");
        }
        while network.advance(Duration::from_secs(60)) {}
        let count = counted.0.load(Ordering::Relaxed);
        let counters = network.counters();
        assert_eq!(count, 1000 - counters.lost + counters.duplicated);
        (count, counters.lost, counters.duplicated)
    };
    let runs: std::collections::BTreeSet<_> = (0..20).map(run).collect();
    assert!(runs.len() > 10 && runs.iter().all(|(_, lost, repeated)| *lost > 100 && *repeated > 100));
    assert_eq!(run(7), run(7));
}

#[test]
fn each_request_is_answered_once_whatever_the_network_does() {
    for seed in 0..200 {
        let mut network = SimulatedNetwork::new(seed, BAD);
        let [one, two] = [1, 2].map(|byte| network.join(keypair(byte).entity_id()));
        let topic = Topic::Node(two.node());
        let _serves = two.serve(&topic, Arc::new(Echo)).expect("open");
        let (told, answers) = channel();
        for number in 0..50_u64 {
            let told = told.clone();
            let answered = Box::new(move |answer: Result<Payload, _>| {
                told.send((number, answer.map(drop))).expect("the test listens");
            });
            one.request(&topic, Payload::new(vec![1]), Duration::from_millis(30), answered);
        }
        network.cut(&[one.node()]);
        while network.advance(Duration::from_secs(60)) {}
        let mut all: Vec<_> = answers.try_iter().collect();
        all.sort_by_key(|(number, _)| *number);
        assert!(all.iter().map(|(number, _)| *number).eq(0..50), "seed {seed}");
        let timeouts = all
            .iter()
            .all(|(_, answer)| matches!(answer, Ok(()) | Err(RequestError::Timeout)));
        assert!(timeouts, "seed {seed}");
    }
}
