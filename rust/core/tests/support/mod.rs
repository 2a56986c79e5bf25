//! Generators of arbitrary records, and checks that every decoder must pass.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fmt::Debug;

use meshos_core::bindings::DaemonBindings;
use meshos_core::certificate::{Certificate, Reason};
use meshos_core::checkpoint::Checkpoint;
use meshos_core::codec::{DecodeError, Fault};
use meshos_core::cursors::{Cursors, Receipt};
use meshos_core::digest::Digest;
use meshos_core::id::{EntityId, NodeId, Origin};
use meshos_core::link::CausalLink;
use meshos_core::name::ChannelName;
use meshos_core::snapshot::SnapshotMeta;
use meshos_core::stats::DaemonStats;
use meshos_core::time::UnixMs;
use proptest::collection::vec;
use proptest::prelude::*;

/// Every beginning of `bytes` from `shortest` on is refused, and so is `bytes` with one byte more.
pub fn assert_exact<T: Debug>(bytes: &[u8], shortest: usize, decode: impl Fn(&[u8]) -> Result<T, DecodeError>) {
    for cut in shortest..bytes.len() {
        let refused = decode(&bytes[..cut]);
        assert!(
            refused.is_err(),
            "the first {cut} of {} bytes were read as {refused:?}",
            bytes.len()
        );
    }
    for extra in [0, 1, 0xff] {
        let longer = [bytes, &[extra]].concat();
        decode(&longer).expect_err("a byte too many was accepted");
    }
}

/// The fault, without its offset.
pub fn fault<T: Debug>(result: Result<T, DecodeError>) -> Fault {
    result.expect_err("bad bytes were accepted").fault
}

/// `bytes` with other bytes at an offset.
pub fn patched(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut patched = bytes.to_vec();
    patched[at..at + new.len()].copy_from_slice(new);
    patched
}

/// Any id, usable as a key or not.
pub fn entity_ids() -> impl Strategy<Value = EntityId> {
    any::<[u8; 32]>().prop_map(EntityId::from_bytes)
}

/// Any digest.
pub fn digests() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

/// Any link.
pub fn links() -> impl Strategy<Value = CausalLink> {
    any::<[u64; 4]>().prop_map(|[origin, horizon, sequence, parent]| CausalLink {
        origin: Origin::new(origin),
        horizon,
        sequence,
        parent,
    })
}

/// Any certificate of an entity; its signature is not good.
pub fn certificates(entity: EntityId) -> impl Strategy<Value = Certificate> {
    let reasons = prop_oneof![
        Just(Reason::Spawn),
        Just(Reason::Move),
        Just(Reason::Restart),
        Just(Reason::Takeover)
    ];
    (
        any::<[u64; 2]>(),
        entity_ids(),
        digests(),
        reasons,
        entity_ids(),
        any::<[u8; 64]>(),
    )
        .prop_map(
            move |([epoch, from_sequence], node, digest, reason, signer, signature)| Certificate {
                entity,
                epoch,
                node,
                from_sequence,
                digest,
                reason,
                signer,
                signature,
            },
        )
}

/// Any checkpoint; its signature is not good.
pub fn checkpoints() -> impl Strategy<Value = Checkpoint> {
    (entity_ids(), any::<[u64; 3]>(), digests(), digests(), any::<[u8; 64]>()).prop_map(
        |(entity, [epoch, sequence, at], digest, previous, signature)| Checkpoint {
            entity,
            epoch,
            sequence,
            digest,
            at: UnixMs::new(at),
            previous,
            signature,
        },
    )
}

/// Any channel name.
pub fn channel_names() -> impl Strategy<Value = ChannelName> {
    "[a-z0-9_-][a-z0-9._-]{0,20}(/[a-z0-9_-][a-z0-9._-]{0,20}){0,4}"
        .prop_map(|text| ChannelName::new(&text).expect("made of good segments"))
}

/// Any ledger.
pub fn bindings() -> impl Strategy<Value = DaemonBindings> {
    let binding = (any::<u64>(), channel_names(), any::<Option<Vec<u8>>>());
    vec(binding, 0..8).prop_map(|all| {
        let mut bindings = DaemonBindings::default();
        for (publisher, channel, token) in all {
            bindings
                .record(NodeId::new(publisher), channel, token)
                .expect("a short token");
        }
        bindings
    })
}

/// What was done to cursors.
#[derive(Debug, Clone)]
pub enum CursorStep {
    /// An event took effect without a receipt.
    Advance(Origin, u64, u64),
    /// An event took effect with one.
    Keep(Origin, u64, Receipt),
}

/// Any steps over few origins, so that they meet.
pub fn cursor_steps() -> impl Strategy<Value = Vec<CursorStep>> {
    let sequences = prop_oneof![1..200_u64, any::<u64>()];
    let step = (
        0..4_u64,
        0..3_u64,
        sequences,
        any::<[u64; 3]>(),
        digests(),
        any::<bool>(),
    )
        .prop_map(
            |(origin, stream, sequence, [epoch, processed, position], digest, keep)| match keep {
                true => {
                    let receipt = Receipt {
                        sequence,
                        epoch,
                        processed,
                        position,
                        digest,
                    };
                    CursorStep::Keep(Origin::new(origin), stream, receipt)
                }
                false => CursorStep::Advance(Origin::new(origin), stream, sequence),
            },
        );
    vec(step, 0..300)
}

/// Takes steps.
pub fn cursors_after(steps: &[CursorStep]) -> Cursors {
    let mut cursors = Cursors::default();
    for step in steps {
        match *step {
            CursorStep::Advance(origin, stream, sequence) => cursors.advance(origin, stream, sequence),
            CursorStep::Keep(origin, stream, receipt) => cursors.keep_receipt(origin, stream, receipt),
        }
    }
    cursors
}

/// Any snapshot without its state; kinds have 1 to 255 bytes.
pub fn snapshots() -> impl Strategy<Value = SnapshotMeta> {
    entity_ids().prop_flat_map(|entity| {
        let own = ("\\PC{1,60}", any::<u32>(), any::<[u64; 2]>(), links(), digests());
        let parts = (
            cursor_steps(),
            any::<[u64; 6]>(),
            bindings(),
            vec(certificates(entity), 0..4),
        );
        (own, parts).prop_map(move |(own, parts)| {
            let (kind, schema, [epoch, taken_at], head, digest) = own;
            let (steps, counters, bindings, mut lineage) = parts;
            let [
                events_processed,
                events_emitted,
                duplicates,
                errors,
                snapshots_taken,
                restarts,
            ] = counters;
            lineage.sort_by_key(|certificate| certificate.epoch);
            lineage.dedup_by_key(|certificate| certificate.epoch);
            SnapshotMeta {
                kind,
                schema,
                entity,
                epoch,
                taken_at: UnixMs::new(taken_at),
                head: CausalLink {
                    origin: entity.origin(),
                    ..head
                },
                digest,
                cursors: cursors_after(&steps),
                stats: DaemonStats {
                    events_processed,
                    events_emitted,
                    duplicates,
                    errors,
                    snapshots_taken,
                    restarts,
                    dead_letters: events_emitted % 2,
                },
                bindings,
                lineage,
            }
        })
    })
}
