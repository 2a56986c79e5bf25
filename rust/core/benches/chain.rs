//! What the chain and snapshots cost, next to the hash alone over the same bytes.
#![allow(missing_docs, reason = "the macros of criterion make public items")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use meshos_core::bindings::DaemonBindings;
use meshos_core::certificate::{Certificate, Reason, Statement};
use meshos_core::chain::CausalChainBuilder;
use meshos_core::checkpoint::Checkpoint;
use meshos_core::cursors::Cursors;
use meshos_core::digest::{self, Digest};
use meshos_core::id::EntityId;
use meshos_core::identity::Keypair;
use meshos_core::snapshot::{self, SnapshotMeta};
use meshos_core::stats::DaemonStats;
use meshos_core::time::UnixMs;
use meshos_core::verify::verify;

fn entity() -> Keypair {
    Keypair::from_seed(&[0x42; 32])
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    for size in [0_usize, 64, 512, 65_536] {
        let payload = vec![7_u8; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::new("chain", size), &payload, |b, payload| {
            let mut chain = CausalChainBuilder::new(entity().entity_id());
            b.iter(|| chain.append(black_box(payload), 0));
        });
        let hashed = vec![7_u8; size + 64];
        group.bench_with_input(BenchmarkId::new("blake3", size), &hashed, |b, hashed| {
            b.iter(|| digest::plain(black_box(hashed)));
        });
    }
    group.finish();
}

fn verify_10_000(c: &mut Criterion) {
    let (entity, node) = (entity(), Keypair::from_seed(&[0x11; 32]));
    let id = entity.entity_id();
    let mut chain = CausalChainBuilder::new(id);
    let statement = Statement {
        entity: id,
        epoch: 1,
        node: node.entity_id(),
        from_sequence: 0,
        digest: chain.digest(),
        reason: Reason::Spawn,
    };
    let certificates = [Certificate::sign(statement, &entity).expect("a full pair")];
    let payload = [7_u8; 64];
    let events: Vec<_> = (0..10_000)
        .map(|_| (chain.append(&payload, 0).expect("not full"), payload.as_slice()))
        .collect();
    let at = UnixMs::new(0);
    let checkpoint = Checkpoint::sign(id, 1, 10_000, chain.digest(), at, Digest::ZERO, &node);
    let checkpoints = [checkpoint.expect("a full pair")];

    let mut group = c.benchmark_group("verify");
    group.throughput(Throughput::Elements(10_000));
    group.bench_function("10000 events of 64 bytes", |b| {
        b.iter(|| verify(black_box(&events), &checkpoints, &certificates, &id, &[]).expect("good"));
    });
    group.finish();
}

fn meta(entity: EntityId) -> SnapshotMeta {
    let chain = CausalChainBuilder::new(entity);
    SnapshotMeta {
        kind: "counter".into(),
        schema: 1,
        entity,
        epoch: 1,
        taken_at: UnixMs::new(0),
        head: chain.head(),
        digest: chain.digest(),
        cursors: Cursors::default(),
        stats: DaemonStats::default(),
        bindings: DaemonBindings::default(),
        lineage: Vec::new(),
    }
}

fn snapshots(c: &mut Criterion) {
    let meta = meta(entity().entity_id());
    let mut group = c.benchmark_group("snapshot");
    group.sample_size(10);
    for (name, size) in [("1 KiB", 1 << 10), ("1 MiB", 1 << 20), ("64 MiB", 64 << 20)] {
        let state = vec![7_u8; size];
        let bytes = meta.to_bytes(&state);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("encode and decode", name), |b| {
            let mut out = vec![0; bytes.len()];
            b.iter(|| {
                meta.encode_into(black_box(&state), &mut out);
                snapshot::decode(black_box(&out), u64::MAX).expect("good")
            });
        });
        group.bench_function(BenchmarkId::new("blake3 twice", name), |b| {
            b.iter(|| (digest::plain(black_box(&bytes)), digest::plain(black_box(&bytes))));
        });
    }
    group.finish();
}

criterion_group!(benches, append, verify_10_000, snapshots);
criterion_main!(benches);
