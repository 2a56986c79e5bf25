//! Frames and heartbeats with fixed keys, for golden bytes and fuzz functions.
//!
//! The nodes are the seeds 32 × 0x11 and 32 × 0x22, in their runs 7 and 8, with the session secrets 32 × 0x61 and
//! 32 × 0x62, in the mesh "meshos golden".

use std::sync::Arc;

use super::samples::keypair;
use crate::capability::CapabilitySet;
use crate::finite::Finite;
use crate::frame::{self, Frame, Header, Kind, MeshId, Refusal};
use crate::heartbeat::{Beat, Echo, Heartbeat, Load};
use crate::session::{SessionKeys, SessionSecret, Side};
use crate::time::UnixMs;

/// The mesh of the golden frames.
#[must_use]
pub fn mesh() -> MeshId {
    MeshId::of(b"meshos golden")
}

/// A node of the golden frames, 0 or 1: its session secret and its side.
#[must_use]
pub fn side(index: u8) -> (SessionSecret, Side) {
    let secret = SessionSecret::new([0x61 + index; 32]);
    let public = secret.public();
    let node = keypair(0x11 * (index + 1)).entity_id();
    let run = 7 + u64::from(index);
    (secret, Side { node, run, public })
}

/// The keys of the first node with the second.
///
/// # Panics
/// Never: both public keys are good.
#[must_use]
pub fn keys() -> SessionKeys {
    let ((secret, ours), (_, theirs)) = (side(0), side(1));
    secret.agree(&mesh(), &ours, &theirs).expect("a good public key")
}

/// What the first node says.
///
/// # Panics
/// Never: the tags are good.
#[must_use]
pub fn heartbeat() -> Heartbeat {
    let metadata = [("rack".to_owned(), "7".to_owned())];
    let capabilities = CapabilitySet::parse(["hardware.gpu", "software.cuda=12"], metadata);
    Heartbeat {
        unix_ms: UnixMs::new(1_767_225_600_000),
        interval_ms: 1000,
        session: side(0).1.public,
        load: Load {
            cpu_load_1m: Finite::new(1.5),
            mem_used_bytes: Some(3 << 30),
            mem_total_bytes: None,
        },
        software: Arc::from("1.2.3"),
        echoes: vec![Echo {
            node: side(1).1.node.node_id(),
            run: 8,
            counter: 41,
            held_us: 250_000,
        }],
        capabilities: Arc::new(capabilities.expect("good tags")),
    }
}

/// The signed frame of that.
///
/// # Panics
/// Never: the key is whole.
#[must_use]
pub fn signed() -> Vec<u8> {
    Beat::sign(&heartbeat(), mesh(), 7, 42, &keypair(0x11)).expect("a whole key")
}

/// A frame from the first node to the second, tagged.
#[must_use]
pub fn tagged() -> Vec<u8> {
    let (ours, theirs) = (side(0).1, side(1).1);
    let header = Header {
        mesh: mesh(),
        from: ours.node,
        to: Some(theirs.node),
        run: ours.run,
        number: 3,
        kind: Kind::DATA,
    };
    frame::tag(&header, b"payload", keys().send())
}

/// [`Heartbeat::decode`].
pub fn fuzz_heartbeat(bytes: &[u8]) {
    if let Ok(heartbeat) = Heartbeat::decode(bytes) {
        assert_eq!(heartbeat.to_bytes(), bytes);
    }
}

/// [`Frame::decode`]; what neither was signed nor tagged is refused.
pub fn fuzz_frame(bytes: &[u8]) {
    let Ok(frame) = Frame::decode(bytes) else { return };
    let golden = [signed(), tagged()].iter().any(|golden| golden == bytes);
    let tag = frame.check_tag(keys().send());
    assert_eq!(tag.is_ok(), golden && bytes[5] == 2);
    if tag.is_ok() {
        assert_eq!(frame::tag(&frame.header, frame.body, keys().send()), bytes);
        return;
    }
    match Beat::open(&frame) {
        Ok(beat) => {
            assert!(golden);
            assert_eq!((beat.run, beat.counter, &beat.heartbeat), (7, 42, &heartbeat()));
        }
        Err(refusal) => assert!(!golden && matches!(refusal, Refusal::UnknownKind | Refusal::BadSeal)),
    }
}
