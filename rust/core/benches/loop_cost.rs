//! What a step costs, by the number of chains that are known and the number of them that changed.
//!
//! Prints comma-separated values: `chains,changed,microseconds`, the median of [`RUNS`] runs of folding the changes,
//! looking at what has to be looked at, and making what is published. `benchmarks/plot.py` draws them.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "it measures, and reports"
)]

use std::time::{Duration, Instant};

use meshos_core::behaviour::Behaviour;
use meshos_core::command::ChainId;
use meshos_core::id::NodeId;
use meshos_core::loop_config::MeshOsConfig;
use meshos_core::signal::{MeshOsEvent, Signal};
use meshos_core::status::View;
use meshos_core::time::UnixMs;

const HERE: NodeId = NodeId::new(1);
const RUNS: usize = 15;

fn chain(number: u64) -> ChainId {
    // Spread as the handles of real chains are.
    ChainId::new(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A loop that leads so many chains, each with the copies that are wanted.
fn settled(chains: u64, now: UnixMs) -> Behaviour {
    let mut behaviour = Behaviour::new(HERE, MeshOsConfig::default(), 42, now);
    for number in 0..chains {
        let chain = chain(number);
        let events = [
            MeshOsEvent::ReplicaBecameHolderAndLeader {
                chain,
                holder: HERE,
                term: 1,
            },
            MeshOsEvent::PlacementIntent {
                chain,
                desired_replicas: 1,
            },
        ];
        behaviour.step(now, events.map(Signal::Event));
    }
    while behaviour.step(now, []).more {}
    behaviour
}

/// Has the leaders of some chains elected again, evenly spread, and steps until nothing is left to look at.
fn change(behaviour: &mut Behaviour, now: UnixMs, chains: u64, changed: u64, term: u64) -> (Duration, View) {
    let stride = chains / changed;
    let elected = |number: u64| {
        Signal::Event(MeshOsEvent::ReplicaLeaderUpdate {
            chain: chain(number * stride),
            leader: Some(HERE),
            term,
        })
    };
    let signals: Vec<Signal> = (0..changed).map(elected).collect();
    let began = Instant::now();
    let mut more = behaviour.step(now, signals).more;
    while more {
        more = behaviour.step(now, []).more;
    }
    let view = behaviour.view().clone();
    (began.elapsed(), view)
}

fn main() {
    // The clock stands still, so that no sweep begins.
    let now = UnixMs::new(1_000_000);
    println!("chains,changed,microseconds");
    for chains in [1_000, 10_000, 100_000, 1_000_000] {
        let mut behaviour = settled(chains, now);
        // What was published last is still held by its readers.
        let mut published = behaviour.view().clone();
        let mut term = 1;
        for changed in [1, 10, 100, 1_000, 10_000, 100_000] {
            if changed > chains {
                break;
            }
            let mut runs = Vec::new();
            for _ in 0..RUNS {
                term += 1;
                let (took, view) = change(&mut behaviour, now, chains, changed, term);
                assert!(view.generation > published.generation, "it changed");
                published = view;
                runs.push(took);
            }
            runs.sort_unstable();
            println!("{chains},{changed},{:.2}", runs[RUNS / 2].as_secs_f64() * 1e6);
        }
    }
}
