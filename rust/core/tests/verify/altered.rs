//! Every change of any event is refused, and the event is named.

use meshos_core::certificate::Reason;
use meshos_core::chain::{BrokenKind, CausalChainBuilder};
use meshos_core::link::CausalLink;
use meshos_core::testing::samples::keypair;
use meshos_core::verify::verify;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::story::{Story, broken};

/// Events of several lengths, a move in the middle, a checkpoint where it moves and one at the end.
fn story(lengths: &[usize]) -> Story {
    let (first, second) = (keypair(1), keypair(2));
    let mut story = Story::spawned(&first);
    let half = lengths.len() / 2;
    for (index, length) in lengths.iter().enumerate() {
        if index == half {
            story
                .checkpoint(1, &first)
                .certify(2, &second, half, Reason::Move, &first);
        }
        story.emit(&vec![index.to_le_bytes()[0]; *length]);
    }
    story.checkpoint(2, &second);
    story.verify().expect("good before it is changed");
    story
}

/// Flips one bit of the link and payload of the event at `index`.
fn flip(story: &mut Story, index: usize, bit: usize) {
    let (link, payload) = &mut story.events[index];
    let mut bytes = link.to_bytes();
    match bit / 8 {
        at @ 0..32 => bytes[at] ^= 1 << (bit % 8),
        at => payload[at - 32] ^= 1 << (bit % 8),
    }
    *link = CausalLink::from_bytes(&bytes);
}

fn expected_kind(bit: usize) -> BrokenKind {
    match bit / 64 {
        0 => BrokenKind::WrongOrigin,
        2 => BrokenKind::Gap,
        _ => BrokenKind::Altered,
    }
}

#[test]
fn every_flipped_bit_of_every_event_names_that_event() {
    // Lengths so that events next to the signed records in the middle are met, and in the third a first sequence that is
    // altered to follow such a record.
    let stories = [vec![3, 0, 1, 70, 2, 5], vec![0, 0, 0, 0, 0, 0, 9], vec![1; 5], vec![1]];
    for lengths in stories {
        let mut story = story(&lengths);
        for (index, length) in lengths.iter().enumerate() {
            for bit in 0..8 * (32 + length) {
                flip(&mut story, index, bit);
                let named = broken(story.verify());
                assert_eq!(
                    named,
                    (expected_kind(bit), index as u64 + 1),
                    "bit {bit} of event {}",
                    index + 1
                );
                flip(&mut story, index, bit);
            }
        }
    }
}

#[test]
fn every_flipped_bit_of_a_part_names_its_event() {
    let mut story = story(&[3, 0, 1, 7, 2, 5]);
    for index in 3..6 {
        for bit in 0..8 * (32 + story.events[index].1.len()) {
            flip(&mut story, index, bit);
            assert_eq!(
                broken(story.verify_part(3, &[])),
                (expected_kind(bit), index as u64 + 1),
                "bit {bit}"
            );
            flip(&mut story, index, bit);
        }
    }
}

#[test]
fn a_last_event_that_nothing_vouches_for_is_still_checked_against_its_parent() {
    let mut story = Story::spawned(&keypair(1));
    story.emit_each(b"abc");
    story.events[1].1[0] ^= 1;
    assert_eq!(broken(story.verify()), (BrokenKind::Altered, 2));
}

#[test]
fn a_payload_cut_or_grown_is_an_altered_event() {
    let mut story = story(&[4, 4, 4, 4]);
    for index in 0..4 {
        let whole = story.events[index].1.clone();
        for other in [vec![], whole[1..].to_vec(), [whole.as_slice(), &[0]].concat()] {
            story.events[index].1 = other;
            assert_eq!(broken(story.verify()), (BrokenKind::Altered, index as u64 + 1));
        }
        story.events[index].1 = whole;
    }
}

#[test]
fn events_that_are_gone_repeated_or_swapped_are_a_gap() {
    let lengths = [1; 6];
    for index in 0..5 {
        let mut without = story(&lengths);
        without.events.remove(index);
        assert_eq!(
            broken(without.verify()),
            (BrokenKind::Gap, if index == 3 { 4 } else { index as u64 + 1 })
        );
        let mut twice = story(&lengths);
        let event = twice.events[index].clone();
        twice.events.insert(index, event);
        let (kind, named) = broken(twice.verify());
        assert_eq!(kind, BrokenKind::Gap);
        assert_eq!(named, index as u64 + 2);
        let mut swapped = story(&lengths);
        swapped.events.swap(index, index + 1);
        assert_eq!(broken(swapped.verify()).0, BrokenKind::Gap);
    }
}

#[test]
fn an_event_of_another_chain_is_refused_by_name() {
    let mut story = story(&[1; 6]);
    let mut other = CausalChainBuilder::new(keypair(0x99).entity_id());
    for _ in 0..3 {
        other.append(b"x", 0).expect("not full");
    }
    story.events[2] = (other.head(), b"x".to_vec());
    assert_eq!(broken(story.verify()), (BrokenKind::WrongOrigin, 3));
}

#[test]
fn a_whole_chain_of_another_entity_is_not_this_entitys() {
    let story = story(&[1; 4]);
    let other = keypair(0x99).entity_id();
    let refused = verify(&story.views(), &story.checkpoints, &story.certificates, &other, &[]);
    assert_eq!(crate::story::bad_record(refused), "certificate: of another entity");
}

#[test]
fn a_chain_rewritten_to_fit_itself_fails_at_the_next_signed_digest() {
    let mut story = story(&[2; 6]);
    let signed: Vec<_> = story.checkpoints.iter().map(|checkpoint| checkpoint.sequence).collect();
    assert_eq!(signed, [3, 6]);
    let good = story.events.clone();
    story.go_back(4).emit(b"forged").emit(&good[5].1);
    assert_eq!(broken(story.verify()), (BrokenKind::Altered, 6));
    story.go_back(0).emit(b"forged").emit(b"too").emit(b"so");
    assert_eq!(broken(story.verify()), (BrokenKind::Altered, 3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_flipped_bit_in_any_chain_names_its_event(
        lengths in vec(0..200_usize, 1..14), event: prop::sample::Index, bit: prop::sample::Index,
    ) {
        let mut story = story(&lengths);
        let index = event.index(lengths.len());
        let bit = bit.index(8 * (32 + lengths[index]));
        flip(&mut story, index, bit);
        prop_assert_eq!(broken(story.verify()), (expected_kind(bit), index as u64 + 1));
    }
}
