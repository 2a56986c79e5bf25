//! Snapshots: strict sections under one digest.

use meshos_core::codec::{DecodeError, Fault};
use meshos_core::digest;
use meshos_core::snapshot::{self, SnapshotMeta};
use meshos_core::testing::samples::{History, STATE};
use proptest::prelude::*;

use crate::support::{patched, snapshots};

const PREAMBLE: usize = 10;

fn decode(bytes: &[u8]) -> Result<(SnapshotMeta, Vec<u8>), DecodeError> {
    snapshot::decode(bytes, u64::MAX).map(|(meta, state)| (meta, bytes[state].to_vec()))
}

fn sample() -> Vec<u8> {
    History::new().snapshot().to_bytes(STATE)
}

/// With a closing digest that fits.
fn sealed(covered: &[u8]) -> Vec<u8> {
    [covered, digest::plain(covered).as_bytes()].concat()
}

/// The sections of a snapshot: tag, and the bytes with their head.
fn sections(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut rest = &bytes[PREAMBLE..bytes.len() - 32];
    let mut sections = Vec::new();
    while !rest.is_empty() {
        let tag = u16::from_le_bytes([rest[0], rest[1]]);
        let length = u64::from_le_bytes(rest[4..12].try_into().expect("8 bytes"));
        let (section, after) = rest.split_at(12 + usize::try_from(length).expect("small"));
        sections.push((tag, section.to_vec()));
        rest = after;
    }
    sections
}

fn assembled(sections: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut covered = sample()[..PREAMBLE].to_vec();
    covered.extend(sections.iter().flat_map(|(_, bytes)| bytes.clone()));
    sealed(&covered)
}

fn section(tag: u16, flags: u16, body: &[u8]) -> (u16, Vec<u8>) {
    let length = (body.len() as u64).to_le_bytes();
    (
        tag,
        [&tag.to_le_bytes(), &flags.to_le_bytes(), length.as_slice(), body].concat(),
    )
}

/// Replaces bytes of one section's body and seals again.
fn with_body(tag: u16, at: usize, new: &[u8]) -> Vec<u8> {
    let mut sections = sections(&sample());
    let (_, bytes) = sections
        .iter_mut()
        .find(|(found, _)| *found == tag)
        .expect("all tags are there");
    bytes[12 + at..12 + at + new.len()].copy_from_slice(new);
    assembled(&sections)
}

fn fault(bytes: &[u8]) -> Fault {
    decode(bytes).expect_err("bad bytes were accepted").fault
}

#[test]
fn every_flipped_bit_is_refused() {
    let bytes = sample();
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let found = fault(&flipped);
        match bit / 8 {
            0..8 => assert_eq!(found, Fault::Magic),
            8..10 => assert!(matches!(found, Fault::NewerVersion { .. } | Fault::Invalid { .. })),
            _ => assert_eq!(found, Fault::Digest, "bit {bit}"),
        }
    }
}

#[test]
fn every_beginning_and_every_longer_one_is_refused() {
    let bytes = sample();
    for cut in 0..bytes.len() {
        decode(&bytes[..cut]).expect_err("a truncated snapshot was accepted");
    }
    assert_eq!(fault(&[bytes.as_slice(), &[0]].concat()), Fault::Digest);
}

#[test]
fn size_magic_and_version_come_before_the_digest() {
    let bytes = sample();
    let size = bytes.len() as u64;
    let too_large = Fault::TooLarge { size, max: size - 1 };
    assert_eq!(
        snapshot::decode(&bytes, size - 1),
        Err(DecodeError {
            offset: 0,
            fault: too_large
        })
    );
    assert!(snapshot::decode(&bytes, size).is_ok());
    let newer = Fault::NewerVersion { found: 2, known: 1 };
    assert_eq!(
        decode(&patched(&bytes, 8, &[2])),
        Err(DecodeError {
            offset: 8,
            fault: newer
        })
    );
    assert_eq!(fault(&patched(&bytes, 8, &[0])), Fault::Invalid { field: "version" });
    assert_eq!(fault(b"MESHSNAP\x01\x00"), Fault::Truncated { needed: 32 });
    assert_eq!(fault(b"OTHER"), Fault::Truncated { needed: 3 });
}

#[test]
fn sections_are_complete_and_in_order() {
    let all = sections(&sample());
    assert_eq!(
        all.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6, 7]
    );
    for index in 0..all.len() {
        let mut without = all.clone();
        let (tag, _) = without.remove(index);
        assert_eq!(fault(&assembled(&without)), Fault::MissingSection { tag });

        let mut twice = all.clone();
        twice.insert(index, all[index].clone());
        let tag = all[index].0;
        let missing = Fault::MissingSection { tag: tag + 1 };
        assert!([Fault::SectionOrder { tag }, missing].contains(&fault(&assembled(&twice))));
    }
    let mut swapped = all.clone();
    swapped.swap(2, 3);
    assert_eq!(fault(&assembled(&swapped)), Fault::MissingSection { tag: 3 });
}

#[test]
fn an_unknown_section_is_skipped_unless_it_is_critical() {
    let mut all = sections(&sample());
    let good = decode(&assembled(&all)).expect("as it was");
    all.push(section(9, 0, b"from a newer release"));
    assert_eq!(decode(&assembled(&all)), Ok(good));
    all.push(section(10, 1, b""));
    assert_eq!(fault(&assembled(&all)), Fault::UnknownSection { tag: 10 });
    let mut first = sections(&sample());
    first.insert(0, section(0, 0, b""));
    assert_eq!(fault(&assembled(&first)), Fault::SectionOrder { tag: 0 });
}

#[test]
fn flags_say_nothing_but_critical() {
    let flags = Fault::Invalid {
        field: "flags of a section",
    };
    for (index, flag) in [(0, 0), (6, 0), (0, 3), (3, 0x8001)] {
        let mut all = sections(&sample());
        all[index].1[2..4].copy_from_slice(&u16::to_le_bytes(flag));
        assert_eq!(fault(&assembled(&all)), flags);
    }
}

#[test]
fn a_length_beyond_the_end_is_refused_at_its_offset() {
    for length in [
        1 << 20,
        u64::from(u32::MAX),
        1 << 32,
        i64::MAX as u64,
        u64::MAX - 12,
        u64::MAX,
    ] {
        for index in 0..7 {
            let mut all = sections(&sample());
            all[index].1[4..12].copy_from_slice(&length.to_le_bytes());
            assert!(
                matches!(fault(&assembled(&all)), Fault::Truncated { .. }),
                "section {index}, length {length}"
            );
        }
    }
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let entity_at = 2 + "counter".len() + 4;
    let second_certificate = 210;
    let epoch_at = 2 + 32;
    let cases = [
        (with_body(1, entity_at, &[0]), "origin of the head"),
        (with_body(2, 0, &[0]), "origin of the head"),
        (with_body(6, 2, &[0]), "entity of a certificate"),
        (
            with_body(6, second_certificate + epoch_at, &[1]),
            "order of certificates",
        ),
    ];
    for (bytes, field) in cases {
        assert_eq!(fault(&bytes), Fault::Invalid { field });
    }
    let mut nameless = sections(&sample());
    nameless[0] = section(1, 1, &[&[0, 0], [0; 52].as_slice()].concat());
    assert_eq!(
        fault(&assembled(&nameless)),
        Fault::Invalid {
            field: "length of the kind"
        }
    );
    let mut longer = sections(&sample());
    for index in 0..6 {
        let kept = longer[index].clone();
        let body = [&kept.1[12..], &[0]].concat();
        longer[index] = section(kept.0, 1, &body);
        assert!(
            decode(&assembled(&longer)).is_err(),
            "a byte too many in section {}",
            kept.0
        );
        longer[index] = kept;
    }
}

#[test]
fn a_fault_inside_a_section_names_its_offset_in_the_whole() {
    let error = decode(&with_body(6, 1, &[9])).expect_err("no such reason");
    let before: usize = sections(&sample())[..5].iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(error.offset, (PREAMBLE + before + 12 + 1) as u64);
    assert_eq!(error.fault, Fault::Invalid { field: "reason" });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_snapshot_survives_its_wire_form(meta in snapshots(), state: Vec<u8>) {
        let bytes = meta.to_bytes(&state);
        prop_assert_eq!(bytes.len(), meta.encoded_len(state.len()));
        let mut placed = vec![0xee; bytes.len()];
        meta.encode_into(&state, &mut placed);
        prop_assert_eq!(&placed, &bytes);
        prop_assert_eq!(decode(&bytes), Ok((meta, state)));
    }

    #[test]
    fn no_flipped_bit_and_no_beginning_is_accepted(
        meta in snapshots(), state: Vec<u8>, at: prop::sample::Index, bit in 0..8_u32,
    ) {
        let bytes = meta.to_bytes(&state);
        let at = at.index(bytes.len());
        prop_assert!(decode(&bytes[..at]).is_err());
        let mut flipped = bytes;
        flipped[at] ^= 1 << bit;
        prop_assert!(decode(&flipped).is_err());
    }

    #[test]
    fn no_sealed_beginning_is_accepted(meta in snapshots(), state: Vec<u8>, at: prop::sample::Index) {
        let bytes = meta.to_bytes(&state);
        let cut = PREAMBLE + at.index(bytes.len() - 32 - PREAMBLE);
        prop_assert!(decode(&sealed(&bytes[..cut])).is_err());
    }
}
