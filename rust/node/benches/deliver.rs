//! What the node itself costs around user code: one event in, none or one out.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Event, Sum, config, key, runtime};
use criterion::{Criterion, criterion_group, criterion_main};
use meshos_node::deliver::{self, Want};

fn bench(criterion: &mut Criterion) {
    let (runtime, switches) = runtime();
    let slot = runtime.spawn(&key(1), config(), Sum::new(&switches)).expect("fresh");
    let mut group = criterion.benchmark_group("host deliver 64 B");
    for (name, payload) in [("no output", b"none".to_vec()), ("one output", vec![b'x'; 64])] {
        let mut number = slot.view().stats.events_processed;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                number += 1;
                let mut entered = slot.try_enter().expect("nobody else is here");
                let event = Event::outside(7, number, &payload);
                let delivered = deliver::deliver(&mut entered, &event, Want::Outputs);
                switches.seen.lock().clear();
                delivered.expect("nothing raises").outputs.len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
