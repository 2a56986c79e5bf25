//! The network that goes wrong, goes wrong as it says.

use std::time::Duration;

use meshos_core::testing::network::{Faults, Network};

const NOW: Duration = Duration::from_secs(1);

fn sent(seed: u64, faults: Faults, messages: u32) -> Network<u32> {
    let mut network = Network::new(3, seed, faults);
    for message in 0..messages {
        network.send(NOW, 0, 1, message);
    }
    network
}

fn arrivals(mut network: Network<u32>) -> Vec<(Duration, u32)> {
    std::iter::from_fn(|| network.take_next())
        .map(|arrival| (arrival.at, arrival.message))
        .collect()
}

#[test]
fn a_calm_network_delivers_everything_once_and_in_order() {
    let arrived = arrivals(sent(1, Faults::CALM, 1000));
    assert!(arrived.iter().map(|(_, message)| *message).eq(0..1000));
    assert!(arrived.iter().all(|(at, _)| *at == NOW + Faults::CALM.delay_min));
}

#[test]
fn messages_are_lost_late_repeated_and_overtaken_about_as_often_as_asked_for() {
    let faults = Faults {
        loss: 100,
        duplicate: 200,
        late: 300,
        queue_max: usize::MAX,
        ..Faults::default()
    };
    let mut network = sent(2, faults, 10_000);
    let (mut late, mut last) = (0, Duration::ZERO);
    while let Some(arrival) = network.take_next() {
        assert!(arrival.at >= last && arrival.at >= NOW + faults.delay_min && arrival.at <= NOW + faults.late_max);
        last = arrival.at;
        late += u32::from(arrival.at > NOW + faults.delay_max);
    }
    let counters = *network.counters();
    assert!((800..1200).contains(&counters.lost), "{counters:?}");
    assert!((1500..2100).contains(&counters.duplicated), "{counters:?}");
    assert!((2500..4000).contains(&late), "{late}");
    assert!(counters.overtook > 1000);
    assert_eq!(counters.delivered, counters.sent - counters.lost + counters.duplicated);
}

#[test]
fn one_seed_gives_one_order() {
    let run = |seed| arrivals(sent(seed, Faults::default(), 300));
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

#[test]
fn a_full_queue_refuses_and_counts() {
    let faults = Faults {
        queue_max: 10,
        ..Faults::CALM
    };
    let network = sent(1, faults, 25);
    assert_eq!(network.counters().refused, 15);
    assert_eq!(arrivals(network).len(), 10);
}

#[test]
fn a_cut_group_is_heard_by_itself_only() {
    for (both, heard) in [(true, vec![(1, 2), (0, 0)]), (false, vec![(0, 1), (1, 2), (0, 0)])] {
        let mut network = Network::new(3, 1, Faults::CALM);
        network.cut(&[1, 2], both);
        for (from, to) in [(0, 1), (1, 0), (2, 0), (1, 2), (0, 0)] {
            network.send(NOW, from, to, ());
        }
        let arrived: Vec<_> = std::iter::from_fn(|| network.take_next())
            .map(|arrival| (arrival.from, arrival.to))
            .collect();
        assert_eq!(arrived, heard);
        network.heal();
        network.send(NOW, 1, 0, ());
        assert!(network.take_next().is_some());
    }
}

#[test]
fn an_arrival_that_is_put_off_comes_later() {
    let mut network = sent(1, Faults::CALM, 1);
    let arrival = network.take_next().expect("one was sent");
    network.postpone(arrival, NOW * 2);
    assert_eq!((network.next_at(), network.counters().delivered), (Some(NOW * 2), 0));
    assert_eq!(network.take_next().expect("it was put off").message, 0);
}
