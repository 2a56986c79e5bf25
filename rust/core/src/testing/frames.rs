//! One frame of every kind, about the entity of [`History`], and the golden bytes made of them.

use super::samples::{History, PAYLOADS, keypair};
use crate::cursors::Receipt;
use crate::due::Due;
use crate::id::Origin;
use crate::sender::{SenderRecord, reserve};
use crate::stream::{Announce, Event, Flow, Frame, Output, lineage_digest};
use crate::time::UnixMs;

/// The flow that all frames are about.
#[must_use]
pub fn flow() -> Flow {
    Flow {
        entity: keypair(0x42).entity_id(),
        origin: Origin::new(0xaaaa),
        stream: 7,
    }
}

/// One frame of every kind, in the order of their numbers.
#[must_use]
pub fn all() -> Vec<Frame<'static>> {
    let history = History::new();
    let (flow, entity, sequence, epoch) = (flow(), flow().entity, 9, 2);
    let receipt = Receipt {
        sequence,
        epoch,
        processed: 6,
        position: 5,
        digest: history.digests[5],
    };
    let node = history.nodes[1].entity_id();
    let lineage = lineage_digest(&history.certificates);
    vec![
        Frame::Event(Event {
            flow,
            sequence,
            prev: 8,
            epoch,
            payload: PAYLOADS[0],
        }),
        Frame::Ack {
            flow,
            receipt,
            duplicate: true,
        },
        Frame::Busy {
            flow,
            sequence,
            retry_after_ms: 250,
        },
        Frame::Queued { flow, sequence },
        Frame::Gap {
            flow,
            sequence,
            cursor: 6,
            epoch,
        },
        Frame::Stale {
            flow,
            sequence,
            cursor: 80,
            epoch,
        },
        Frame::Moved {
            flow,
            sequence,
            node,
            epoch,
        },
        Frame::NotHere { flow, sequence: 0 },
        Frame::PassedOver { flow, sequence, epoch },
        Frame::Locate { flow },
        Frame::Output(Output {
            entity,
            epoch,
            lineage,
            link: history.links[4],
            payload: PAYLOADS[4],
        }),
        Frame::OutAck { entity, epoch, n: 5 },
        Frame::Follow {
            entity,
            epoch: 0,
            after: 3,
        },
        Frame::Announce(Announce {
            entity,
            epoch,
            n: 5,
            head: history.digests[5],
            lineage: history.certificates,
        }),
    ]
}

/// One frame of every kind of a search, in the order of their numbers.
#[must_use]
pub fn search() -> Vec<Frame<'static>> {
    let (entity, node) = (flow().entity, keypair(0x11).entity_id());
    let origin = entity.origin();
    vec![
        Frame::Find { origin },
        Frame::Found { entity, node, epoch: 2 },
        Frame::Nobody { origin },
    ]
}

/// All frames in one, each after its length.
#[must_use]
pub fn golden() -> Vec<u8> {
    framed(&all())
}

/// The frames of a search in one, each after its length.
#[must_use]
pub fn golden_search() -> Vec<u8> {
    framed(&search())
}

fn framed(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames {
        let bytes = frame.to_bytes();
        let length = u32::try_from(bytes.len()).expect("short");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&bytes);
    }
    out
}

/// The sender of the seed 32 × 0x33, at the first node.
///
/// # Panics
/// Never: sample pairs have their secret half.
#[must_use]
pub fn sender() -> SenderRecord {
    SenderRecord::sign(&keypair(0x33), &keypair(0x11), UnixMs::new(1_767_225_600_000)).expect("whole pairs")
}

/// What is due to the daemon of the seed 32 × 0x33.
#[must_use]
pub fn due() -> Due {
    Due {
        to: keypair(0x33).entity_id().origin(),
        stream: 2,
        payload: PAYLOADS[3].to_vec(),
    }
}

/// The numbers that this sender reserved.
///
/// # Panics
/// Never: a row that is put has a value.
#[must_use]
pub fn reservation() -> Vec<u8> {
    reserve(&keypair(0x33).entity_id(), 8192).value.expect("it is put")
}
