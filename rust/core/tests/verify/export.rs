//! The file for a stranger.

use meshos_core::certificate::{Certificate, Reason};
use meshos_core::chain::{BrokenKind, ChainError};
use meshos_core::checkpoint::Checkpoint;
use meshos_core::codec::{DecodeError, Fault};
use meshos_core::export::{self, ChainExport, FileError, verify_file};
use meshos_core::testing::samples::keypair;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::story::Story;
use crate::support::{assert_exact, certificates, checkpoints, entity_ids, links, patched};

fn story() -> Story {
    let (a, b) = (keypair(1), keypair(2));
    let mut story = Story::spawned(&a);
    story.emit(b"one").emit(b"").emit(b"three").checkpoint(1, &a);
    story
        .certify(2, &b, 3, Reason::Move, &a)
        .emit(b"four")
        .emit(&[5; 40])
        .checkpoint(2, &b);
    story
}

fn encoded(story: &Story) -> Vec<u8> {
    story.export().encode().expect("short payloads")
}

/// Offset of each frame, its kind, and its length with the head.
fn frames(bytes: &[u8]) -> Vec<(usize, u8, usize)> {
    let (mut at, mut frames) = (40, Vec::new());
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().expect("4 bytes"));
        frames.push((at, bytes[at], 8 + usize::try_from(length).expect("small")));
        at += frames.last().expect("just pushed").2;
    }
    frames
}

fn decode_fault(bytes: &[u8]) -> Fault {
    export::decode(bytes).expect_err("bad bytes were accepted").fault
}

#[test]
fn a_good_file_is_described() {
    let story = story();
    let report = verify_file(&encoded(&story), &story.id(), &[story.claim(2), story.claim(5)]).expect("a good file");
    assert_eq!((report.events, report.last_sequence, report.signed_through), (5, 5, 5));
    assert_eq!(report.digest, story.chain.digest());
}

#[test]
fn a_file_of_another_entity_is_refused() {
    let other = keypair(9).entity_id();
    let refused = verify_file(&encoded(&story()), &other, &[]);
    assert!(matches!(
        refused,
        Err(FileError::Chain(ChainError::Broken {
            kind: BrokenKind::WrongOrigin,
            sequence: 0,
            ..
        }))
    ));
}

#[test]
fn every_flipped_bit_is_refused_and_in_an_event_it_is_named() {
    let story = story();
    let bytes = encoded(&story);
    let frames = frames(&bytes);
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let error = verify_file(&flipped, &story.id(), &[]).expect_err("a flipped bit was accepted");

        let of_event = frames.iter().filter(|(_, kind, _)| *kind == 3).zip(1..);
        for ((at, _, length), sequence) in of_event {
            if (at + 8..at + length).contains(&(bit / 8)) {
                let FileError::Chain(ChainError::Broken { sequence: named, .. }) = error else {
                    panic!("bit {bit} of event {sequence} gave {error}")
                };
                assert_eq!(named, sequence, "bit {bit}");
            }
        }
    }
}

#[test]
fn the_end_digest_is_judged_last_and_named_by_its_offset() {
    let story = story();
    let mut bytes = encoded(&story);
    let end = bytes.len() - 32;
    bytes[end + 7] ^= 1;
    let decoded = export::decode(&bytes).expect("the structure is good");
    assert_eq!((decoded.intact, decoded.end_offset), (false, end as u64));
    let expected = DecodeError {
        offset: end as u64,
        fault: Fault::Digest,
    };
    assert_eq!(verify_file(&bytes, &story.id(), &[]), Err(FileError::Decode(expected)));
    let payload = frames(&bytes)
        .into_iter()
        .find(|(_, kind, _)| *kind == 3)
        .expect("an event")
        .0
        + 40;
    bytes[payload] ^= 1;
    let error = verify_file(&bytes, &story.id(), &[]);
    assert!(matches!(
        error,
        Err(FileError::Chain(ChainError::Broken {
            kind: BrokenKind::Altered,
            sequence: 1,
            ..
        }))
    ));
}

#[test]
fn events_missing_at_the_end_of_a_file_are_a_gap() {
    let mut story = story();
    story.events.truncate(3);
    let error = verify_file(&encoded(&story), &story.id(), &[]);
    let origin = story.origin();
    let gap = ChainError::Broken {
        kind: BrokenKind::Gap,
        origin,
        sequence: 4,
        expected: 4,
        found: 5,
    };
    assert_eq!(error, Err(FileError::Chain(gap)));
    story.events.clear();
    assert!(
        verify_file(&encoded(&story), &story.id(), &[]).is_ok(),
        "nothing was retained"
    );
}

#[test]
fn frames_that_no_writer_writes_are_refused() {
    let bytes = encoded(&story());
    let frames = frames(&bytes);
    let first = |kind| {
        frames
            .iter()
            .find(|(_, found, _)| *found == kind)
            .expect("all kinds are there")
            .0
    };
    for kind in [0, 5, 255] {
        let fault = decode_fault(&patched(&bytes, first(3), &[kind]));
        let fields = ["kind of a frame", "order of frames"].map(|field| Fault::Invalid { field });
        assert!(fields.contains(&fault), "{fault:?}");
    }
    for offset in 1..4 {
        let reserved = Fault::Invalid {
            field: "reserved bytes of a frame",
        };
        assert_eq!(decode_fault(&patched(&bytes, first(2) + offset, &[1])), reserved);
    }
    assert_eq!(decode_fault(&patched(&bytes, 0, b"m")), Fault::Magic);
    for length in [u32::MAX, 1 << 31, 1 << 24] {
        for (at, _, _) in &frames {
            let fault = decode_fault(&patched(&bytes, at + 4, &length.to_le_bytes()));
            assert!(matches!(fault, Fault::Truncated { .. }), "{fault:?}");
        }
    }
}

#[test]
fn groups_are_in_order_and_the_end_is_the_end() {
    let bytes = encoded(&story());
    let pieces: Vec<_> = frames(&bytes)
        .into_iter()
        .map(|(at, kind, length)| (kind, &bytes[at..at + length]))
        .collect();
    let assembled = |pieces: &[(u8, &[u8])]| {
        let bodies: Vec<_> = pieces.iter().map(|(_, piece)| *piece).collect();
        [&bytes[..40], &bodies.concat()].concat()
    };
    for index in 0..pieces.len() - 1 {
        if pieces[index].0 != pieces[index + 1].0 {
            let mut swapped = pieces.clone();
            swapped.swap(index, index + 1);
            assert!(export::decode(&assembled(&swapped)).is_err(), "{index}");
        }
    }
    let (_, without_end) = pieces.split_last().expect("there are frames");
    assert!(matches!(decode_fault(&assembled(without_end)), Fault::Truncated { .. }));
    assert_exact(&bytes, 0, |bytes| export::decode(bytes).map(drop));
}

#[test]
fn payloads_are_not_copied() {
    let bytes = encoded(&story());
    let range = bytes.as_ptr_range();
    let decoded = export::decode(&bytes).expect("a good file");
    assert!(
        decoded
            .export
            .events
            .iter()
            .all(|(_, payload)| range.contains(&payload.as_ptr()))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_export_survives_its_wire_form(
        entity in entity_ids(),
        certificates in vec(entity_ids().prop_flat_map(certificates), 0..4),
        checkpoints in vec(checkpoints(), 0..4),
        events in vec((links(), any::<Vec<u8>>()), 0..6),
        cut: prop::sample::Index,
    ) {
        let events: Vec<_> = events.iter().map(|(link, payload)| (*link, payload.as_slice())).collect();
        let sizes = 40 + 40 + certificates.len() * (8 + Certificate::SIZE) + checkpoints.len() * (8 + Checkpoint::SIZE)
            + events.iter().map(|(_, payload)| 40 + payload.len()).sum::<usize>();
        let export = ChainExport { entity, certificates, checkpoints, events };
        let bytes = export.encode().expect("short payloads");
        prop_assert_eq!(bytes.len(), sizes);
        let decoded = export::decode(&bytes).expect("just written");
        prop_assert!(decoded.intact);
        prop_assert_eq!(&decoded.export, &export);
        prop_assert!(export::decode(&bytes[..cut.index(bytes.len())]).is_err());
        prop_assert!(verify_file(&bytes, &entity, &[]).is_err());
    }
}
