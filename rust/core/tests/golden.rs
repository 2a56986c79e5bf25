//! Bytes of every released format version, which must be read, and be written the same, for ever.
//!
//! This test never writes a file, and is never edited to fit: a change that fails here needs a new format version.

use std::path::Path;

use meshos_core::bindings::DaemonBindings;
use meshos_core::blast::BlastRadius;
use meshos_core::certificate::Certificate;
use meshos_core::channel_frame::ChannelFrame;
use meshos_core::checkpoint::Checkpoint;
use meshos_core::codec::Reader;
use meshos_core::config::DaemonHostConfig;
use meshos_core::cursors::Cursors;
use meshos_core::dead_letter::DeadLetter;
use meshos_core::due::Due;
use meshos_core::envelope::{AdminEnvelope, IceEnvelope};
use meshos_core::export::verify_file;
use meshos_core::feed_frame::FeedFrame;
use meshos_core::fork::ForkRecord;
use meshos_core::frame;
use meshos_core::heartbeat::{Beat, Heartbeat};
use meshos_core::journal::{Emitted, SnapshotRow, Steps};
use meshos_core::link::CausalLink;
use meshos_core::move_frame::MoveFrame;
use meshos_core::move_rows::Item;
use meshos_core::ownership::OwnershipRecord;
use meshos_core::ownership_frame::OwnershipFrame;
use meshos_core::remote_frame::RemoteFrame;
use meshos_core::revocation::Revocation;
use meshos_core::sealed_channel::{HandedKey, Place, Sealed};
use meshos_core::segment::{self, Position};
use meshos_core::sender::{SenderRecord, reserved};
use meshos_core::snapshot;
use meshos_core::store::head::{Head, decode_key};
use meshos_core::stored::StoredDaemon;
use meshos_core::stream::Frame;
use meshos_core::testing::meshes;
use meshos_core::testing::move_frames;
use meshos_core::testing::ownership;
use meshos_core::testing::remote;
use meshos_core::testing::samples::{self, History, STATE};
use meshos_core::testing::{envelopes, frames};
use meshos_core::testing::{tokens, trails};
use meshos_core::token::PermissionToken;
use meshos_core::trail;

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn version_1_of_every_format_is_read() {
    let history = History::new();
    assert_eq!(CausalLink::decode(&file("link_v1.bin")), Ok(history.links[1]));
    assert_eq!(
        Certificate::decode(&file("certificate_v1.bin")),
        Ok(history.certificates[1])
    );
    assert_eq!(
        Checkpoint::decode(&file("checkpoint_v1.bin")),
        Ok(history.checkpoints[1])
    );
    assert_eq!(ForkRecord::decode(&file("fork_record_v1.bin")), Ok(history.fork().0));
    assert_eq!(Cursors::decode(&file("cursors_v1.bin")), Ok(samples::cursors()));
    assert_eq!(
        DaemonBindings::decode(&file("bindings_v1.bin")),
        Ok(samples::bindings())
    );
    assert_eq!(
        AdminEnvelope::decode(&file("admin_envelope_v1.bin")),
        Ok(envelopes::admin())
    );
    let ice = envelopes::ice();
    assert_eq!(
        BlastRadius::decode(&file("blast_radius_v1.bin")).as_ref(),
        Ok(&ice.blast)
    );
    assert_eq!(IceEnvelope::decode(&file("ice_envelope_v1.bin")), Ok(ice));
    assert_eq!(
        SnapshotRow::decode(&file("snapshot_row_v1.bin")),
        Ok(samples::snapshot_row())
    );
    let steps = file("steps_v1.bin");
    let steps = Steps::decode(&steps).expect("a released format");
    let outputs = file("outputs_v1.bin");
    let outputs = Emitted::decode(history.entity.origin(), &outputs).expect("a released format");
    assert_eq!((steps.first, steps.steps.len(), outputs.outputs.len()), (1, 3, 3));
    assert_eq!(
        (steps.after.digest, outputs.after),
        (history.digests[3], history.digests[3])
    );
    let (segment, mut commits) = (file("segment_v1.bin"), Vec::new());
    let start = Position::start(&samples::STORE);
    segment::recover(&samples::STORE, start, 1, &[(1, &segment)], |_, writes| {
        commits.push(writes)
    })
    .expect("a released format");
    assert_eq!((commits.len(), &commits[0]), (2, &samples::journalled()));
    for (name, bytes) in trails::files() {
        let proven = trail::read(&file(&format!("{name}_v1.bin")), None, false, drop).expect("a released format");
        assert_eq!((proven.bytes, proven.head.at), (bytes.len() as u64, envelopes::ISSUED));
    }
    assert_eq!(Head::decode(&file("store_head_v1.bin")), Ok(samples::store_head()));
    assert_eq!(decode_key(&file("node_key_v1.bin")).as_deref(), Ok(&[0x11; 32]));
    let stored = StoredDaemon::decode(&file("stored_daemon_v1.bin")).expect("a released format");
    let today = samples::stored_daemon();
    let defaults = DaemonHostConfig::default();
    let then = DaemonHostConfig {
        on_divergence: defaults.on_divergence,
        attempts_max: defaults.attempts_max,
        snapshots_max: defaults.snapshots_max,
        outputs_age_max_ms: defaults.outputs_age_max_ms,
        ..today.config
    };
    assert_eq!(
        stored,
        StoredDaemon {
            config: then,
            ..today.clone()
        }
    );
    assert_eq!(StoredDaemon::decode(&file("stored_daemon_v2.bin")), Ok(today));
    assert_eq!(
        DeadLetter::decode(&file("dead_letter_v1.bin")),
        Ok(samples::dead_letter())
    );
    let (entity, node) = (history.entity.entity_id(), samples::keypair(0x11));
    let opened = stored.key.expect("it is sealed").open(&entity, &node);
    assert_eq!(opened.expect("it is the node's").entity_id(), entity);
    let (frames, mut found) = (file("frames_v1.bin"), Vec::new());
    let mut reader = Reader::new(&frames);
    while let Ok(length) = reader.u32() {
        found.push(Frame::decode(reader.take(length as usize).expect("a released format")).expect("a released format"));
    }
    assert_eq!(found, frames::all());
    let (search, mut found) = (file("search_frames_v1.bin"), Vec::new());
    let mut reader = Reader::new(&search);
    while let Ok(length) = reader.u32() {
        found.push(Frame::decode(reader.take(length as usize).expect("a released format")).expect("a released format"));
    }
    assert_eq!(found, frames::search());
    let sender = SenderRecord::decode(&file("sender_v1.bin")).expect("a released format");
    assert_eq!((sender, sender.verify()), (frames::sender(), Ok(())));
    assert_eq!(reserved(&file("reservation_v1.bin")), Ok(8192));
    assert_eq!(Due::decode(&file("due_v1.bin")), Ok(frames::due()));
    assert_eq!(Due::decode(&file("due_v2.bin")), Ok(frames::due()));
    assert_eq!(
        PermissionToken::decode(&file("permission_token_v1.bin")),
        Ok(tokens::token())
    );
    assert_eq!(Revocation::decode(&file("revocation_v1.bin")), Ok(tokens::stated()));
    assert_eq!(Heartbeat::decode(&file("heartbeat_v1.bin")), Ok(meshes::heartbeat()));
    let bytes = file("frame_v1.bin");
    let frame = frame::Frame::decode(&bytes).expect("a released format");
    assert_eq!(Beat::open(&frame).map(|beat| beat.counter), Ok(42));
    let bytes = file("tagged_frame_v1.bin");
    let frame = frame::Frame::decode(&bytes).expect("a released format");
    assert_eq!(frame.check_tag(meshes::keys().send()), Ok(()));
    assert_eq!(HandedKey::decode(&file("handed_key_v1.bin")), Ok(tokens::handed_key()));
    let sealed = file("sealed_payload_v1.bin");
    let sealed = Sealed::decode(&sealed).expect("a released format");
    let place = Place {
        channel: &tokens::channel(),
        publisher: &samples::keypair(0x11).entity_id(),
        sequence: 3,
    };
    assert_eq!(
        sealed.open(&tokens::channel_key(), &place).as_deref(),
        Some(&b"hot"[..])
    );
    for (name, frames) in [
        ("channel_frames_v1.bin", tokens::channel_frames()),
        ("publish_frames_v1.bin", tokens::publish_frames()),
    ] {
        let bytes = file(name);
        let (mut rest, mut found) = (&bytes[..], Vec::new());
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (frame, after) = after.split_at(usize::try_from(u32::from_le_bytes(*length)).expect("small"));
            found.push(ChannelFrame::decode(frame).expect("a released format"));
            rest = after;
        }
        assert_eq!(found, frames);
    }
    let bytes = file("ownership_records_v1.bin");
    let records: Result<Vec<_>, _> = bytes
        .chunks(OwnershipRecord::SIZE)
        .map(OwnershipRecord::decode)
        .collect();
    assert_eq!(records.as_deref(), Ok(ownership::lineage().records()));
    let frames = file("ownership_frames_v1.bin");
    let (mut rest, mut found) = (&frames[..], Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (frame, after) = after.split_at(usize::try_from(u32::from_le_bytes(*length)).expect("small"));
        found.push(OwnershipFrame::decode(frame).expect("a released format"));
        rest = after;
    }
    assert_eq!(found, ownership::frames());
    let calls = file("remote_frames_v1.bin");
    let (mut rest, mut found) = (&calls[..], Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (frame, after) = after.split_at(usize::try_from(u32::from_le_bytes(*length)).expect("small"));
        found.push(RemoteFrame::decode(frame).expect("a released format"));
        rest = after;
    }
    assert_eq!(found, remote::frames());
    assert_eq!(
        RemoteFrame::decode(&file("remote_outputs_v1.bin")),
        Ok(remote::outputs())
    );
    let pushed = file("feed_frames_v1.bin");
    let (mut rest, mut found) = (&pushed[..], Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (frame, after) = after.split_at(usize::try_from(u32::from_le_bytes(*length)).expect("small"));
        found.push(FeedFrame::decode(frame).expect("a released format"));
        rest = after;
    }
    assert_eq!(found, remote::feed_frames());
    for (name, expected) in [
        ("move_frames_v1.bin", move_frames::frames()),
        ("move_asides_v1.bin", move_frames::asides()),
    ] {
        let moves = file(name);
        let (mut rest, mut found) = (&moves[..], Vec::new());
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (frame, after) = after.split_at(usize::try_from(u32::from_le_bytes(*length)).expect("small"));
            found.push(MoveFrame::decode(frame).expect("a released format"));
            rest = after;
        }
        assert_eq!(found, expected);
    }
    let rows = file("move_rows_v1.bin");
    let (mut rest, mut found) = (&rows[..], Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (row, after) = after.split_at(usize::try_from(u32::from_le_bytes(*length)).expect("small"));
        found.push(Item::decode(&row[..49], &row[49..]).expect("a released format").2);
        rest = after;
    }
    assert_eq!(found, move_frames::items());
    let parcel = file("parcel_v1.bin");
    let messages: Result<Vec<&[u8]>, _> = meshos_core::parcel::open(&parcel).expect("a released format").collect();
    assert_eq!(messages, Ok(vec![&b"one"[..], b"\x00", b"three"]));
    let bytes = file("snapshot_v1.bin");
    let (meta, state) = snapshot::decode(&bytes, u64::MAX).expect("a released format");
    assert_eq!((&meta, &bytes[state]), (&history.snapshot(), STATE));
}

#[test]
fn version_1_of_an_exported_chain_is_verified() {
    let history = History::new();
    let report = verify_file(&file("chain_export_v1.bin"), &history.entity.entity_id(), &[]).expect("a good chain");
    assert_eq!((report.events, report.signed_through, report.owners.len()), (5, 5, 2));
    assert_eq!(report.digest, history.digests[5]);
}

#[test]
fn what_is_written_today_is_what_was_written() {
    for (name, bytes) in samples::golden() {
        let version = samples::version(name);
        assert_eq!(bytes, file(&format!("{name}_v{version}.bin")), "{name}");
    }
    assert_eq!(samples::golden_json().as_bytes(), file("golden.json"));
}
