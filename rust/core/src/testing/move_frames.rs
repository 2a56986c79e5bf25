//! Messages and rows of a move with fixed keys, for golden bytes and fuzz functions.
//!
//! The entity of the history is moved from its first node to its second: the move of [`ownership::records`].

use super::ownership;
use super::samples::{History, keypair};
use crate::digest;
use crate::id::{EntityId, Origin};
use crate::move_frame::{Aside, Body, MoveFrame, Reason, Reject, Report, Stage};
use crate::move_rows::{Frozen, Item, MoveOrder, Outcome, Prepared, Queued, Terms};
use crate::ownership::{MigrationId, OwnershipRecord};
use crate::rows::Write;
use crate::time::UnixMs;

/// Id of the move.
pub const MID: MigrationId = [0x77; 16];

/// The order, signed by the first node; an authority sees to it.
///
/// # Panics
/// Never: sample pairs have their secret half.
#[must_use]
pub fn order() -> MoveOrder {
    let History { entity, nodes, .. } = History::new();
    let order = MoveOrder {
        mid: MID,
        entity: entity.entity_id(),
        epoch: 1,
        source: nodes[0].entity_id(),
        target: nodes[1].entity_id(),
        orchestrator: keypair(0x33).entity_id(),
        not_after: UnixMs::new(1_767_225_630_000),
        freeze_ms: 2000,
        size: 1 << 20,
        kind: "counter".to_owned(),
        terms: Terms::default(),
        signer: EntityId::from_bytes([0; 32]),
        signature: [0; 64],
    };
    order.signed(&nodes[0]).expect("sample pairs have their secret half")
}

fn record() -> OwnershipRecord {
    ownership::records()[1]
}

/// Where the daemon is frozen.
#[must_use]
pub fn frozen() -> Frozen {
    Frozen {
        sequence: 3,
        head: History::new().digests[3],
        image: digest::plain(b"image"),
    }
}

/// Two events that wait.
#[must_use]
pub fn queue() -> Vec<Queued> {
    let queued = |sequence, payload: &[u8]| Queued {
        from: EntityId::from_bytes([9; 32]),
        origin: Origin::new(0xAAAA),
        stream: 0,
        sequence,
        prev: sequence - 1,
        payload: payload.to_vec(),
    };
    vec![queued(5, b"five"), queued(6, b"")]
}

/// What the target holds.
#[must_use]
pub fn prepared() -> Prepared {
    Prepared {
        order: order(),
        frozen: frozen(),
        image_bytes: 5,
        lineage: ownership::records()[..1].to_vec(),
        queue: queue(),
    }
}

/// One of each frame.
#[must_use]
pub fn frames() -> Vec<MoveFrame<'static>> {
    let Prepared {
        order,
        frozen,
        lineage,
        queue,
        ..
    } = prepared();
    let image = frozen.image;
    let epoch = order.epoch;
    let entity = order.entity;
    let bodies = vec![
        Body::Prepare(Box::new(order)),
        Body::Accept,
        Body::Reject(Reject::from(Reason::Busy)),
        Body::Reject(Reject {
            reason: Reason::StateFailed,
            text: "ValueError: no".to_owned(),
        }),
        Body::Freeze,
        Body::Final {
            frozen,
            image_bytes: 5,
            lineage,
            queue: queue.clone(),
        },
        Body::Prepared { idx: 1, frozen },
        Body::Commit {
            record: Box::new(record()),
            from: 1,
            tail: queue[1..].to_vec(),
        },
        Body::Committed,
        Body::Retire,
        Body::Abort,
        Body::AbortReq,
        Body::Outcome {
            outcome: None,
            record: None,
        },
        Body::Outcome {
            outcome: Some(Outcome::Committed),
            record: Some(Box::new(record())),
        },
        Body::Outcome {
            outcome: Some(Outcome::Aborted),
            record: None,
        },
        Body::Pull { image, index: 3 },
        Body::Chunk {
            image,
            index: 0,
            bytes: b"image",
        },
    ];
    let numbered = (1..).zip(bodies);
    numbered
        .map(|(step, body)| MoveFrame {
            mid: MID,
            entity,
            epoch,
            step,
            body,
        })
        .collect()
}

/// One of each that no machine decides; its orders keep the key, and move it live.
///
/// # Panics
/// Never: sample pairs have their secret half.
#[must_use]
pub fn asides() -> Vec<MoveFrame<'static>> {
    let History { nodes, .. } = History::new();
    let terms = Terms {
        key_stays: true,
        live: true,
        rate_max: 1 << 23,
    };
    let order = MoveOrder { terms, ..order() };
    let order = order.signed(&nodes[0]).expect("sample pairs have their secret half");
    let report = Report {
        stage: Stage::Transfer,
        image_bytes: 5,
        moved: 4,
        blackout_us: 3,
        snapshot_us: 2,
        waiting: 1,
        rounds: 6,
        refused: None,
    };
    let refused = Report {
        refused: Some(Reject::new(Reason::StateFailed, "ValueError: no")),
        ..report.clone()
    };
    let asides = vec![
        Aside::Show(Box::new(record())),
        Aside::Report(report),
        Aside::Report(refused),
        Aside::Describe(order.entity.origin()),
        Aside::Described {
            entity: order.entity,
            owner: order.source,
            epoch: 1,
            size: 1 << 20,
            kind: order.kind.clone(),
        },
        Aside::Copy(Box::new(order.clone())),
        Aside::Offer {
            order: Box::new(order.clone()),
            frozen: frozen(),
            image_bytes: 5,
        },
        Aside::Copied { image: frozen().image },
    ];
    let numbered = (1..).zip(asides);
    numbered
        .map(|(step, aside)| MoveFrame {
            mid: MID,
            entity: order.entity,
            epoch: order.epoch,
            step,
            body: Body::Aside(Box::new(aside)),
        })
        .collect()
}

/// One of each row.
#[must_use]
pub fn items() -> Vec<Item> {
    vec![
        Item::Intent(order()),
        Item::Prepared(Box::new(prepared())),
        Item::Done(UnixMs::new(1_767_225_660_000)),
        Item::Retired,
        Item::Ordered(order()),
        Item::Ended(Outcome::Committed, UnixMs::new(1_767_225_660_000)),
        Item::Ended(Outcome::Aborted, UnixMs::new(1_767_225_660_000)),
    ]
}

/// The same as rows.
#[must_use]
pub fn rows() -> Vec<Write> {
    let entity = order().entity;
    items().iter().map(|item| item.write(&entity, &MID)).collect()
}

fn after_its_length(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [length.to_le_bytes().as_slice(), bytes].concat()
}

/// Each of [`frames`] after its length as a 32-bit number.
#[must_use]
pub fn frame_bytes() -> Vec<u8> {
    let framed = |frame: MoveFrame<'_>| after_its_length(&frame.to_bytes());
    frames().into_iter().flat_map(framed).collect()
}

/// Each of [`asides`] after its length as a 32-bit number.
#[must_use]
pub fn aside_bytes() -> Vec<u8> {
    let framed = |frame: MoveFrame<'_>| after_its_length(&frame.to_bytes());
    asides().into_iter().flat_map(framed).collect()
}

/// Each of [`rows`], key and value, after their length as a 32-bit number.
#[must_use]
pub fn row_bytes() -> Vec<u8> {
    let framed = |write: Write| after_its_length(&[write.key, write.value.unwrap_or_default()].concat());
    rows().into_iter().flat_map(framed).collect()
}

fn each(bytes: &[u8], mut one: impl FnMut(&[u8])) {
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (found, after) = after.split_at(length.min(after.len()));
        one(found);
        rest = after;
    }
}

/// [`MoveFrame::decode`], of frames after their lengths.
pub fn fuzz_frames(bytes: &[u8]) {
    each(bytes, |frame| {
        if let Ok(found) = MoveFrame::decode(frame) {
            assert_eq!(found.to_bytes(), frame);
        }
    });
}

/// [`Item::decode`], of rows after their lengths.
pub fn fuzz_rows(bytes: &[u8]) {
    each(bytes, |row| {
        let (key, value) = row.split_at(row.len().min(49));
        if let Ok((entity, mid, item)) = Item::decode(key, value) {
            let write = item.write(&entity, &mid);
            assert_eq!((write.key.as_slice(), write.value.as_deref()), (key, Some(value)));
        }
    });
}
