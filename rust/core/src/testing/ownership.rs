//! Records of ownership and the messages about them with fixed keys, for golden bytes and fuzz functions.
//!
//! The entity of the history is spawned on its first node, moved to the second, restarted there, and taken over by the
//! first on the word of an authority, the seed 32 × 0x33.

use std::sync::LazyLock;

use super::samples::{History, keypair};
use crate::digest::{self, Digest};
use crate::ownership::{Lineage, OwnershipRecord};
use crate::ownership_frame::{Ask, Body, OwnershipFrame, Unregistered};

const FULL: &str = "sample pairs have their secret half";

/// A record of each kind, in epoch order.
///
/// # Panics
/// Never: sample pairs have their secret half.
#[must_use]
pub fn records() -> Vec<OwnershipRecord> {
    let History {
        entity, nodes, digests, ..
    } = History::new();
    let [first, second] = [&nodes[0], &nodes[1]];
    let spawn = OwnershipRecord::spawn(&entity, first.entity_id(), digests[0]).expect(FULL);
    let moved = spawn
        .moved(second.entity_id(), [0x77; 16], 3, digests[3], first)
        .expect(FULL);
    let restarted = moved.restarted(4, digests[4], second).expect(FULL);
    let authority = keypair(0x33);
    let taken = restarted
        .taken_over(first.entity_id(), 4, digests[4], &authority)
        .expect(FULL);
    vec![spawn, moved, restarted, taken]
}

/// The same, checked.
///
/// # Panics
/// Never: they are good.
#[must_use]
pub fn lineage() -> Lineage {
    let records = records();
    Lineage::verify(&records[0].entity(), records, &[keypair(0x33).entity_id()]).expect("a good lineage")
}

/// One of each frame.
///
/// # Panics
/// Never: there are records.
#[must_use]
pub fn frames() -> Vec<OwnershipFrame> {
    let records = records();
    let entity = records[0].entity();
    let bodies = [
        Body::Register(records[..1].to_vec()),
        Body::Registered { entity, epoch: 1 },
        Body::Renew(records[1]),
        Body::LeaseOk {
            entity,
            epoch: 2,
            lease_ms: 3000,
        },
        Body::Higher(records[3]),
        Body::Unregistered {
            entity,
            reason: Unregistered::Unknown,
        },
        Body::Unregistered {
            entity,
            reason: Unregistered::Full,
        },
        Body::Install {
            snapshot: digest::plain(b"state"),
            snapshot_bytes: 5,
            lineage: records.clone(),
        },
        Body::Install {
            snapshot: Digest::ZERO,
            snapshot_bytes: 0,
            lineage: records,
        },
    ];
    let numbered = (1..).zip(bodies);
    numbered
        .map(|(number, body)| OwnershipFrame {
            ask: Ask { run: 7, number },
            body,
        })
        .collect()
}

/// All records, one after the other.
#[must_use]
pub fn record_bytes() -> Vec<u8> {
    records().iter().flat_map(OwnershipRecord::to_bytes).collect()
}

/// Each of [`frames`] after its length as a 32-bit number.
///
/// # Panics
/// Never: they are short.
#[must_use]
pub fn frame_bytes() -> Vec<u8> {
    let framed = |frame: OwnershipFrame| {
        let bytes = frame.to_bytes();
        let length = u32::try_from(bytes.len()).expect("it is short");
        [length.to_le_bytes().as_slice(), &bytes].concat()
    };
    frames().into_iter().flat_map(framed).collect()
}

static GOLDEN: LazyLock<Lineage> = LazyLock::new(lineage);

/// [`OwnershipRecord::decode`], of records one after the other; a lineage that was changed is refused.
pub fn fuzz_records(bytes: &[u8]) {
    let chunks = bytes.chunks(OwnershipRecord::SIZE);
    let found: Result<Vec<_>, _> = chunks.map(OwnershipRecord::decode).collect();
    let Ok(found) = found else { return };
    let again: Vec<u8> = found.iter().flat_map(OwnershipRecord::to_bytes).collect();
    assert_eq!(again, bytes);
    let entity = GOLDEN.highest().entity();
    if let Ok(lineage) = Lineage::verify(&entity, found, &[keypair(0x33).entity_id()]) {
        assert!(GOLDEN.records().starts_with(lineage.records()));
    }
}

/// [`OwnershipFrame::decode`], of frames after their lengths.
pub fn fuzz_frames(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (frame, after) = after.split_at(length.min(after.len()));
        if let Ok(found) = OwnershipFrame::decode(frame) {
            assert_eq!(found.to_bytes(), frame);
            assert!(
                found
                    .to_bytes()
                    .windows(32)
                    .any(|bytes| bytes == found.entity().as_bytes())
            );
        }
        rest = after;
    }
}
