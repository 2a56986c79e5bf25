//! Frames and heartbeats: what is made is read, and what was changed is refused, with the reason.

use std::sync::Arc;

use meshos_core::capability::CapabilitySet;
use meshos_core::codec::{DecodeError, Fault};
use meshos_core::finite::Finite;
use meshos_core::frame::{self, Frame, HEADER_SIZE, Header, Kind, MeshId, Refusal, Seal};
use meshos_core::heartbeat::{Beat, CAPABILITIES_BYTES_MAX, Echo, Heartbeat, Load, capabilities_bytes};
use meshos_core::id::{EntityId, NodeId};
use meshos_core::testing::meshes::{heartbeat, keys, mesh, side, signed, tagged};
use meshos_core::testing::samples::keypair;
use meshos_core::time::UnixMs;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

fn header() -> Header {
    Header {
        mesh: mesh(),
        from: keypair(0x11).entity_id(),
        to: Some(keypair(0x22).entity_id()),
        run: 1,
        number: 2,
        kind: Kind::DATA,
    }
}

#[test]
fn sizes_are_the_documented_ones() {
    assert_eq!(frame::tag(&header(), b"", &[0; 32]).len(), HEADER_SIZE + 32);
    assert_eq!(
        frame::sign(&header(), b"1", &keypair(0x11)).expect("a key").len(),
        108 + 1 + 64
    );
}

#[test]
fn every_flipped_bit_and_every_shorter_or_longer_form_is_refused() {
    type Open = fn(&Frame<'_>) -> Result<(), Refusal>;
    let ways: [(Vec<u8>, Open); 2] = [
        (signed(), |frame| Beat::open(frame).map(|_| ())),
        (tagged(), |frame| frame.check_tag(keys().send())),
    ];
    for (good, open) in ways {
        let whole = |bytes: &[u8]| {
            Frame::decode(bytes)
                .map_err(Refusal::from)
                .and_then(|frame| open(&frame))
        };
        assert_eq!(whole(&good), Ok(()));
        for at in 0..good.len() {
            assert!(matches!(whole(&good[..at]), Err(Refusal::Malformed(_))), "{at}");
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(whole(&bad).is_err(), "byte {at}, bit {bit}");
            }
        }
        let longer = [&good[..], &[0]].concat();
        let trailing = Refusal::Malformed(DecodeError {
            offset: good.len() as u64,
            fault: Fault::Trailing { bytes: 1 },
        });
        assert_eq!(whole(&longer), Err(trailing));
    }
}

#[test]
fn a_frame_is_taken_where_it_belongs() {
    let bytes = tagged();
    let frame = Frame::decode(&bytes).expect("good bytes");
    let (ours, theirs) = (side(0).1.node, side(1).1.node);
    assert_eq!(frame.check_way(&mesh(), &theirs), Ok(()));
    assert_eq!(frame.check_way(&MeshId::of(b"other"), &theirs), Err(Refusal::OtherMesh));
    assert_eq!(
        frame.check_way(&mesh(), &keypair(3).entity_id()),
        Err(Refusal::NotForUs)
    );
    let bytes = signed();
    let frame = Frame::decode(&bytes).expect("good bytes");
    assert_eq!(frame.check_way(&mesh(), &theirs), Ok(()));
    assert_eq!(frame.check_way(&mesh(), &ours), Err(Refusal::Ourselves));
}

#[test]
fn a_seal_is_that_of_the_named_sender_and_of_its_sort() {
    let (one, two) = (keypair(0x11), keypair(0x22));
    let bytes = frame::sign(&header(), b"body", &one).expect("a key");
    let frame = Frame::decode(&bytes).expect("good bytes");
    assert_eq!(frame.check_signature(), Ok(()));
    assert_eq!(frame.check_tag(&[0; 32]), Err(Refusal::BadSeal));
    assert_eq!(Beat::open(&frame), Err(Refusal::UnknownKind));
    let other = Header {
        from: two.entity_id(),
        ..header()
    };
    let mut forged = frame::sign(&other, b"body", &two).expect("a key");
    forged[24..56].copy_from_slice(one.entity_id().as_bytes());
    let frame = Frame::decode(&forged).expect("good form");
    assert_eq!(
        (frame.header.from, frame.check_signature()),
        (one.entity_id(), Err(Refusal::BadSeal))
    );
    let bytes = frame::tag(&header(), b"body", keys().send());
    let frame = Frame::decode(&bytes).expect("good bytes");
    assert_eq!(frame.check_signature(), Err(Refusal::BadSeal));
    assert_eq!(frame.check_tag(keys().send()), Ok(()));
    // The way back has another key.
    assert_eq!(frame.check_tag(keys().receive()), Err(Refusal::BadSeal));
}

#[test]
fn each_refusal_has_its_word() {
    let malformed = Refusal::Malformed(DecodeError {
        offset: 0,
        fault: Fault::Magic,
    });
    let all = [
        Refusal::Full,
        malformed,
        Refusal::OtherMesh,
        Refusal::NotForUs,
        Refusal::Ourselves,
        Refusal::UnknownSender,
        Refusal::OtherRun,
        Refusal::UnknownKind,
        Refusal::BadSeal,
        Refusal::Replayed,
        Refusal::TooLate,
        Refusal::Crowded,
    ];
    let words: Vec<_> = all.iter().map(Refusal::word).collect();
    assert_eq!(words, Refusal::WORDS);
}

fn heartbeats() -> impl Strategy<Value = Heartbeat> {
    let load = (option::of(-1e9..1e9_f64), any::<[Option<u64>; 2]>());
    let load = load.prop_map(|(cpu, [mem_used_bytes, mem_total_bytes])| Load {
        cpu_load_1m: cpu.and_then(Finite::new),
        mem_used_bytes,
        mem_total_bytes,
    });
    let echo = any::<([u64; 3], u32)>().prop_map(|([node, run, counter], held_us)| Echo {
        node: NodeId::new(node),
        run,
        counter,
        held_us,
    });
    let texts = (
        btree_set("[a-z.]{1,9}(=[a-z0-9]{1,9})?", 0..9),
        btree_map("[a-z]{1,9}", ".{0,9}", 0..9),
    );
    let capabilities = texts.prop_filter_map("reserved", |(tags, metadata)| CapabilitySet::parse(tags, metadata).ok());
    let fixed = (any::<u64>(), 10_u32..=3_600_000, any::<[u8; 32]>());
    (fixed, load, ".{0,16}", vec(echo, 0..=16), capabilities).prop_map(
        |((unix_ms, interval_ms, session), load, software, echoes, capabilities)| Heartbeat {
            unix_ms: UnixMs::new(unix_ms),
            interval_ms,
            session,
            load,
            software: software.into(),
            echoes,
            capabilities: Arc::new(capabilities),
        },
    )
}

proptest! {
    #[test]
    fn a_heartbeat_is_read_as_it_was_written(heartbeat in heartbeats(), run: u64, counter: u64) {
        let bytes = heartbeat.to_bytes();
        prop_assert_eq!(Heartbeat::decode(&bytes), Ok(heartbeat.clone()));
        let signed = Beat::sign(&heartbeat, mesh(), run, counter, &keypair(5)).expect("a key");
        let beat = Beat::open(&Frame::decode(&signed).expect("good bytes")).expect("a good signature");
        prop_assert_eq!((beat.from, beat.run, beat.counter), (keypair(5).entity_id(), run, counter));
        prop_assert_eq!(beat.heartbeat, heartbeat);
    }

    #[test]
    fn a_frame_is_read_as_it_was_written(
        raw: [u8; 32], to: Option<[u8; 32]>, run: u64, number: u64, kind: u8, key: [u8; 32], body in vec(any::<u8>(), 0..300)
    ) {
        let to = to.filter(|to| *to != [0; 32]).map(EntityId::from_bytes);
        let from = EntityId::from_bytes(raw);
        let header = Header { mesh: mesh(), from, to, run, number, kind: Kind(kind) };
        let bytes = frame::tag(&header, &body, &key);
        let frame = Frame::decode(&bytes).expect("good bytes");
        prop_assert_eq!((frame.header, frame.body), (header, &body[..]));
        prop_assert!(matches!(frame.seal, Seal::Tag(_)));
        prop_assert_eq!(frame.check_tag(&key), Ok(()));
    }
}

#[test]
fn what_no_node_writes_is_refused() {
    let good = heartbeat();
    let bytes = good.to_bytes();
    let invalid = |bytes: &[u8]| match Heartbeat::decode(bytes) {
        Err(DecodeError {
            fault: Fault::Invalid { field },
            ..
        }) => field,
        other => panic!("{other:?}"),
    };
    let patched = |at: usize, new: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    assert_eq!(invalid(&patched(0, &[0])), "version");
    assert_eq!(invalid(&patched(1, &[1])), "zero");
    for interval in [0, 9, 3_600_001, u32::MAX] {
        assert_eq!(invalid(&patched(10, &interval.to_le_bytes())), "interval");
    }
    for load in [f64::INFINITY, -0.0, -f64::NAN] {
        assert_eq!(invalid(&patched(46, &load.to_le_bytes())), "load");
    }
    // Tags in another order, and in another form.
    let tags = bytes
        .windows(4)
        .position(|window| window == b"hard")
        .expect("the first tag")
        - 2;
    let (first, second) = (&bytes[tags..tags + 14], &bytes[tags + 14..tags + 32]);
    assert_eq!(invalid(&patched(tags, &[second, first].concat())), "capabilities");
    let equals = bytes.iter().rposition(|byte| *byte == b'=').expect("it has a value");
    assert_eq!(invalid(&patched(equals, b":")), "capabilities");
}

#[test]
fn capabilities_are_counted_as_they_are_written() {
    let good = heartbeat();
    let without = Heartbeat {
        capabilities: Arc::default(),
        ..good.clone()
    };
    let (all, none) = (good.to_bytes().len(), without.to_bytes().len());
    assert_eq!(
        all - none,
        capabilities_bytes(&good.capabilities) - capabilities_bytes(&without.capabilities)
    );
    assert_eq!(capabilities_bytes(&without.capabilities), 8);
    let metadata = [("k".to_owned(), "v".repeat(CAPABILITIES_BYTES_MAX))];
    let large = CapabilitySet::parse([""; 0], metadata).expect("a set");
    assert!(capabilities_bytes(&large) > CAPABILITIES_BYTES_MAX);
}
