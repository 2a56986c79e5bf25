//! Every frame survives its wire form, and no wrong byte of it is accepted.

use meshos_core::codec::Fault;
use meshos_core::cursors::Receipt;
use meshos_core::due::Due;
use meshos_core::id::Origin;
use meshos_core::identity::{IdentityError, Keypair};
use meshos_core::sender::{SenderRecord, reservation_name, reserve, reserved};
use meshos_core::stream::{Announce, Event, Flow, Frame, LINEAGE_MAX, Output, PAYLOAD_BYTES_MAX, lineage_digest};
use meshos_core::testing::frames;
use meshos_core::testing::samples::{History, keypair};
use meshos_core::time::UnixMs;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{assert_exact, certificates, digests, entity_ids, fault, links, patched};

fn flows() -> impl Strategy<Value = Flow> {
    (entity_ids(), any::<[u64; 2]>()).prop_map(|(entity, [origin, stream])| Flow {
        entity,
        origin: Origin::new(origin),
        stream,
    })
}

/// Any frame with a payload, given to `check`; a frame borrows its payload.
fn check_all(
    (flow, numbers, node, digest, payload): (
        Flow,
        [u64; 4],
        meshos_core::id::EntityId,
        meshos_core::digest::Digest,
        Vec<u8>,
    ),
    link: meshos_core::link::CausalLink,
    lineage: Vec<meshos_core::certificate::Certificate>,
    check: impl Fn(&Frame<'_>),
) {
    let [a, b, c, d] = numbers;
    let (sequence, epoch) = (a.max(1), b.max(1));
    let entity = flow.entity;
    let receipt = Receipt {
        sequence,
        epoch,
        processed: c,
        position: d,
        digest,
    };
    let link = meshos_core::link::CausalLink {
        sequence: link.sequence.max(1),
        ..link
    };
    let payload = &payload[..];
    let below = c % sequence;
    let above = sequence.saturating_add(c);
    let frames = [
        Frame::Event(Event {
            flow,
            sequence,
            prev: below,
            epoch: d,
            payload,
        }),
        Frame::Ack {
            flow,
            receipt,
            duplicate: d % 2 == 0,
        },
        Frame::Busy {
            flow,
            sequence,
            retry_after_ms: d as u32,
        },
        Frame::Queued { flow, sequence },
        Frame::Gap {
            flow,
            sequence,
            cursor: below,
            epoch,
        },
        Frame::Stale {
            flow,
            sequence,
            cursor: above,
            epoch,
        },
        Frame::Moved {
            flow,
            sequence: d,
            node,
            epoch,
        },
        Frame::NotHere { flow, sequence: d },
        Frame::PassedOver { flow, sequence, epoch },
        Frame::Locate { flow },
        Frame::Output(Output {
            entity,
            epoch,
            lineage: digest,
            link,
            payload,
        }),
        Frame::OutAck { entity, epoch, n: d },
        Frame::Follow {
            entity,
            epoch: c,
            after: d,
        },
        Frame::Announce(Announce {
            entity,
            epoch,
            n: d,
            head: digest,
            lineage,
        }),
    ];
    frames.iter().for_each(check);
}

proptest! {
    #[test]
    fn every_frame_is_read_back(
        parts in (flows(), any::<[u64; 4]>(), entity_ids(), digests(), vec(any::<u8>(), 0..40)),
        link in links(),
        lineage in entity_ids().prop_flat_map(|entity| vec(certificates(entity), 0..3)),
    ) {
        check_all(parts, link, lineage, |frame| {
            let bytes = frame.to_bytes();
            assert_eq!(Frame::decode(&bytes).as_ref(), Ok(frame));
        });
    }
}

#[test]
fn every_frame_is_read_whole_or_not_at_all() {
    for frame in frames::all().into_iter().chain(frames::search()) {
        assert_exact(&frame.to_bytes(), 0, |bytes| Frame::decode(bytes).map(drop));
    }
    assert_exact(&frames::sender().to_bytes(), 0, SenderRecord::decode);
    assert_exact(&frames::due().to_bytes(), 0, Due::decode);
}

#[test]
fn numbers_are_little_endian_in_the_documented_places() {
    let bytes = frames::all()[0].to_bytes();
    assert_eq!(bytes[..2], [1, 1]);
    assert_eq!(bytes[2..34], *frames::flow().entity.as_bytes());
    let numbers: Vec<_> = bytes[34..74]
        .as_chunks::<8>()
        .0
        .iter()
        .map(|number| u64::from_le_bytes(*number))
        .collect();
    assert_eq!(numbers, [0xaaaa, 7, 9, 8, 2]);
    assert_eq!((&bytes[74..78], &bytes[78..]), (&[5, 0, 0, 0][..], &b"hello"[..]));
}

#[test]
fn what_no_writer_writes_is_refused() {
    let all = frames::all();
    let bytes = |kind: usize| all[kind - 1].to_bytes();
    let invalid = |field| Fault::Invalid { field };
    // Kind, place, other bytes, and the fault.
    let table: [(usize, usize, &[u8], Fault); 14] = [
        (1, 0, &[0], invalid("version")),
        (1, 0, &[2], Fault::NewerVersion { found: 2, known: 1 }),
        (1, 1, &[0], invalid("kind")),
        (1, 1, &[18], invalid("kind")),
        (1, 50, &[0; 8], invalid("sequence")),
        (1, 58, &[9], invalid("prev")),
        (
            1,
            74,
            &[0xff; 4],
            Fault::Truncated {
                needed: 0xffff_ffff - 5,
            },
        ),
        (2, 58, &[0; 8], invalid("epoch")),
        (2, 114, &[2], invalid("duplicate")),
        (4, 50, &[0; 8], invalid("sequence")),
        (5, 58, &[9], invalid("cursor")),
        (6, 58, &[8], invalid("cursor")),
        (11, 90, &[0; 8], invalid("link")),
        (12, 34, &[0; 8], invalid("epoch")),
    ];
    for (kind, at, new, expected) in table {
        let changed = patched(&bytes(kind), at, new);
        assert_eq!(fault(Frame::decode(&changed)), expected, "kind {kind} at {at}");
    }
}

#[test]
fn what_is_too_long_is_refused_before_it_is_taken() {
    let event = Frame::Event(Event {
        flow: frames::flow(),
        sequence: 1,
        prev: 0,
        epoch: 0,
        payload: &vec![0; PAYLOAD_BYTES_MAX],
    });
    let mut bytes = event.to_bytes();
    assert_eq!(Frame::decode(&bytes).as_ref(), Ok(&event));
    let length = u32::try_from(PAYLOAD_BYTES_MAX + 1).expect("it fits");
    bytes.push(0);
    bytes[74..78].copy_from_slice(&length.to_le_bytes());
    assert_eq!(fault(Frame::decode(&bytes)), Fault::Invalid { field: "count" });

    let history = History::new();
    let announce = |count| {
        Frame::Announce(Announce {
            entity: frames::flow().entity,
            epoch: 1,
            n: 0,
            head: history.digests[0],
            lineage: vec![history.certificates[0]; count],
        })
    };
    let mut bytes = announce(LINEAGE_MAX).to_bytes();
    assert!(Frame::decode(&bytes).is_ok());
    bytes.extend_from_slice(&history.certificates[0].to_bytes());
    bytes[82..86].copy_from_slice(&u32::try_from(LINEAGE_MAX + 1).expect("it fits").to_le_bytes());
    assert_eq!(fault(Frame::decode(&bytes)), Fault::Invalid { field: "count" });
}

#[test]
fn every_certificate_counts_in_a_lineage() {
    let history = History::new();
    let whole = lineage_digest(&history.certificates);
    assert_ne!(whole, lineage_digest(&history.certificates[..1]));
    assert_ne!(lineage_digest(&[]), lineage_digest(&history.certificates[..1]));
    let mut changed = history.certificates;
    changed[0].from_sequence += 1;
    assert_ne!(whole, lineage_digest(&changed));
}

#[test]
fn a_sender_is_believed_only_if_both_have_signed() {
    let record = frames::sender();
    assert_eq!(record.verify(), Ok(()));
    let bytes = record.to_bytes();
    for bit in 8..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let changed = SenderRecord::decode(&changed).expect("every bit is of a field");
        assert!(changed.verify().is_err(), "bit {bit}");
    }
    let public = Keypair::public_only(keypair(1).entity_id());
    for (sender, node) in [(&public, &keypair(2)), (&keypair(2), &public)] {
        let refused = SenderRecord::sign(sender, node, UnixMs::new(1));
        assert_eq!(refused, Err(IdentityError::ReadOnly));
    }
    // A node cannot claim the numbers of another's sender: it would have to sign for it.
    let mut stolen = SenderRecord::sign(&keypair(5), &keypair(6), UnixMs::new(1)).expect("whole pairs");
    stolen.sender = keypair(0x33).entity_id();
    assert!(stolen.verify().is_err());
}

#[test]
fn a_reservation_is_read_back_whole_or_not_at_all() {
    for up_to in [0, 1, 4096, u64::MAX] {
        let row = reserve(&keypair(0x33).entity_id(), up_to);
        assert_eq!(row.key, reservation_name(&keypair(0x33).entity_id()));
        let bytes = row.value.expect("it is put");
        assert_eq!(reserved(&bytes), Ok(up_to));
        assert_exact(&bytes, 0, reserved);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(reserved(&changed).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn who_is_found_has_the_handle_that_was_asked_for() {
    let bytes = frames::search()[1].to_bytes();
    for bit in 2 * 8..(2 + 8 + 32) * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(Frame::decode(&changed).is_err(), "bit {bit}");
    }
}

#[test]
fn every_flipped_bit_of_what_is_due_is_found() {
    let bytes = frames::due().to_bytes();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(Due::decode(&changed).is_err(), "bit {bit}");
    }
}
