//! One function for every decoder. Each takes any bytes and must not panic; where they decode, encoding the value again
//! must give the same bytes. The same functions run seeded in the tests and under cargo-fuzz.

use std::sync::LazyLock;

use super::envelopes::Trial;
pub use super::images::{fuzz_chunk as image_chunk, fuzz_image as image};
pub use super::meshes::{fuzz_frame as frame, fuzz_heartbeat as heartbeat};
pub use super::move_frames::{fuzz_frames as move_asides, fuzz_frames as move_frames, fuzz_rows as move_rows};
pub use super::ownership::{fuzz_frames as ownership_frames, fuzz_records as ownership_records};
pub use super::remote::{fuzz_feed_frames as feed_frames, fuzz_frame as remote_outputs, fuzz_frames as remote_frames};
pub use super::tokens::{
    fuzz_channel_frames as channel_frames, fuzz_handed_key as handed_key, fuzz_sealed_payload as sealed_payload,
    permission_token, revocation,
};
pub use super::trails::records;
use crate::armour as text;
use crate::bindings::DaemonBindings;
use crate::blast::BlastRadius;
use crate::capability::CapabilitySet;
use crate::certificate::Certificate;
use crate::checkpoint::Checkpoint;
use crate::codec::Reader;
use crate::cursors::Cursors;
use crate::dead_letter::DeadLetter;
use crate::digest;
use crate::due::{self, Due};
use crate::envelope::{AdminEnvelope, IceEnvelope};
use crate::export::{self, verify_file};
use crate::fork::ForkRecord;
use crate::id::{EntityId, Origin};
use crate::identity;
use crate::journal::{Emitted, OutputBounds, Pending, SnapshotRow, Steps, outputs_row};
use crate::link::CausalLink;
use crate::name::ChannelName;
use crate::rows;
use crate::segment::{self, Position};
use crate::sender::{SenderRecord, reserve, reserved};
use crate::snapshot;
use crate::stats::DaemonStats;
use crate::store::head;
use crate::stored::{self, StoredDaemon};
use crate::stream::Frame;

/// Takes any bytes; panics where a decoder is wrong.
pub type Fuzzer = fn(&[u8]);

/// Every function with its name; where golden bytes have that name, they are good input for it.
pub const FUZZERS: &[(&str, Fuzzer)] = &[
    ("link", link),
    ("certificate", certificate),
    ("checkpoint", checkpoint),
    ("fork_record", fork_record),
    ("cursors", cursors),
    ("bindings", bindings),
    ("stats", stats),
    ("snapshot", snapshot),
    ("chain_export", chain_export),
    ("channel_name", channel_name),
    ("capability", capability),
    ("signature", signature),
    ("armour", armour),
    ("admin_envelope", admin_envelope),
    ("ice_envelope", ice_envelope),
    ("blast_radius", blast_radius),
    ("steps", steps),
    ("outputs", outputs),
    ("snapshot_row", snapshot_row),
    ("segment", segment),
    ("writes", writes),
    ("store_head", store_head),
    ("node_key", node_key),
    ("stored_daemon", stored_daemon),
    ("dead_letter", dead_letter),
    ("frames", frames),
    ("search_frames", frames),
    ("sender", sender),
    ("reservation", reservation),
    ("due", due),
    ("permission_token", permission_token),
    ("revocation", revocation),
    ("handed_key", handed_key),
    ("sealed_payload", sealed_payload),
    ("channel_frames", channel_frames),
    ("publish_frames", channel_frames),
    ("records", records),
    ("heartbeat", heartbeat),
    ("frame", frame),
    ("tagged_frame", frame),
    ("ownership_records", ownership_records),
    ("ownership_frames", ownership_frames),
    ("parcel", parcel),
    ("remote_frames", remote_frames),
    ("remote_outputs", remote_outputs),
    ("feed_frames", feed_frames),
    ("move_frames", move_frames),
    ("move_asides", move_asides),
    ("move_rows", move_rows),
    ("image", image),
    ("image_since", image),
    ("image_chunk", image_chunk),
];

/// [`open`](crate::parcel::open): what is read is packed to the same bytes.
pub fn parcel(bytes: &[u8]) {
    let Ok(messages) = crate::parcel::open(bytes) else {
        return;
    };
    let mut packer = crate::parcel::Packer::new();
    for message in messages {
        let Ok(message) = message else { return };
        packer.put(|out| out.extend(message));
    }
    assert_eq!(packer.body(), bytes);
}

/// [`CausalLink::decode`].
pub fn link(bytes: &[u8]) {
    if let Ok(link) = CausalLink::decode(bytes) {
        assert_eq!(link.to_bytes(), bytes);
    }
}

/// [`Certificate::decode`].
pub fn certificate(bytes: &[u8]) {
    if let Ok(certificate) = Certificate::decode(bytes) {
        assert_eq!(certificate.to_bytes(), bytes);
    }
}

/// [`Checkpoint::decode`].
pub fn checkpoint(bytes: &[u8]) {
    if let Ok(checkpoint) = Checkpoint::decode(bytes) {
        assert_eq!(checkpoint.to_bytes(), bytes);
    }
}

/// [`ForkRecord::decode`], signatures included.
pub fn fork_record(bytes: &[u8]) {
    if let Ok(record) = ForkRecord::decode(bytes) {
        assert_eq!(record.to_bytes(), bytes);
        assert_eq!(record.verify(), Ok(()));
    }
}

/// [`Cursors::decode`]; the sketch must equal the one of the exact horizon.
pub fn cursors(bytes: &[u8]) {
    if let Ok(cursors) = Cursors::decode(bytes) {
        assert_eq!(cursors.encode(), bytes);
        assert_eq!(cursors.encoded_len(), bytes.len());
        assert_eq!(cursors.sketch(), cursors.horizon().sketch());
    }
}

/// [`DaemonBindings::decode`].
pub fn bindings(bytes: &[u8]) {
    if let Ok(bindings) = DaemonBindings::decode(bytes) {
        assert_eq!(bindings.encode(), bytes);
        assert_eq!(bindings.encoded_len(), bytes.len());
    }
}

/// [`DaemonStats::read_to_end`].
pub fn stats(bytes: &[u8]) {
    if let Ok(stats) = DaemonStats::read_to_end(Reader::new(bytes)) {
        assert_eq!(stats.encode(), bytes);
    }
}

/// [`snapshot::decode`] of the bytes as they are, and with the closing digest made to fit, so that what is behind it is
/// reached. A snapshot may have sections that this release skips; then the bytes written are not those read.
pub fn snapshot(bytes: &[u8]) {
    snapshot_as_it_is(bytes);
    if let Some((covered, _)) = bytes.split_last_chunk::<32>() {
        let mut resealed = covered.to_vec();
        resealed.extend_from_slice(digest::plain(covered).as_bytes());
        snapshot_as_it_is(&resealed);
    }
}

fn snapshot_as_it_is(bytes: &[u8]) {
    let Ok((meta, state)) = snapshot::decode(bytes, bytes.len() as u64) else {
        return;
    };
    let state = &bytes[state];
    let written = meta.to_bytes(state);
    assert_eq!(written.len(), meta.encoded_len(state.len()));
    let (again, state_again) = snapshot::decode(&written, u64::MAX).expect("what was written can be read");
    assert_eq!(again, meta);
    assert_eq!(&written[state_again], state);
    assert!(written.len() < bytes.len() || written == bytes);
}

/// [`export::decode`], and [`verify_file`] for the entity that the bytes name.
pub fn chain_export(bytes: &[u8]) {
    let Ok(decoded) = export::decode(bytes) else { return };
    let verified = verify_file(bytes, &decoded.export.entity, &[]);
    assert!(decoded.intact || verified.is_err());
    let written = decoded.export.encode().expect("payloads that were read fit a frame");
    assert_eq!(written.len(), bytes.len());
    assert_eq!(written[..written.len() - 32], bytes[..bytes.len() - 32]);
    assert_eq!(decoded.intact, written == bytes);
}

/// [`ChannelName::new`].
pub fn channel_name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(name) = ChannelName::new(text) {
        assert_eq!(name.as_str(), text);
        assert!(name.is_prefix_of(&name));
    }
}

/// [`CapabilitySet::parse`], one tag a line; the canonical form is its own canonical form.
pub fn capability(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(set) = CapabilitySet::parse(text.split('\n'), []) {
        assert!(text.split('\n').all(|tag| set.has_tag(tag)));
        assert_eq!(CapabilitySet::parse(set.tags(), []), Ok(set.clone()));
    }
}

/// [`identity::verify`]: 32 bytes of a key, 64 of a signature, the message.
pub fn signature(bytes: &[u8]) {
    let Some((key, rest)) = bytes.split_first_chunk::<32>() else {
        return;
    };
    let Some((signature, message)) = rest.split_first_chunk::<64>() else {
        return;
    };
    let key = EntityId::from_bytes(*key);
    if identity::verify(&key, message, signature).is_ok() {
        assert!(EntityId::checked(*key.as_bytes()).is_ok());
    }
}

/// [`text::decode`]; what mail may change apart, a text that is read is the one that is written.
pub fn armour(bytes: &[u8]) {
    const LABEL: &str = "MESHOS";
    assert_eq!(text::decode(LABEL, &text::encode(LABEL, bytes)).as_deref(), Ok(bytes));
    let Ok(armoured) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(read) = text::decode(LABEL, armoured) {
        let plain = armoured.trim_ascii().replace("\r\n", "\n");
        assert_eq!(text::encode(LABEL, &read).trim_ascii_end(), plain);
    }
}

static TRIAL: LazyLock<Trial> = LazyLock::new(Trial::default);

/// The bytes as they are, and with the closing sum made to fit, so that what is behind it is reached.
fn resealed(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut both = vec![bytes.to_vec()];
    if let Some((covered, _)) = bytes.split_last_chunk::<4>() {
        both.push([covered, &crc32fast::hash(covered).to_le_bytes()].concat());
    }
    both
}

/// [`AdminEnvelope::decode`]; what was not signed is not obeyed.
pub fn admin_envelope(bytes: &[u8]) {
    for bytes in resealed(bytes) {
        let Ok(envelope) = AdminEnvelope::decode(&bytes) else {
            continue;
        };
        assert_eq!(envelope.to_bytes(), bytes);
        assert_eq!(AdminEnvelope::from_text(&envelope.to_text()).as_ref(), Ok(&envelope));
        assert!(IceEnvelope::decode(&bytes).is_err());
        let _ = TRIAL.admin(&envelope);
    }
}

/// [`IceEnvelope::decode`]; what too few have signed is not obeyed.
pub fn ice_envelope(bytes: &[u8]) {
    for bytes in resealed(bytes) {
        let Ok(envelope) = IceEnvelope::decode(&bytes) else {
            continue;
        };
        assert_eq!(envelope.to_bytes(), bytes);
        assert_eq!(IceEnvelope::from_text(&envelope.to_text()).as_ref(), Ok(&envelope));
        assert!(AdminEnvelope::decode(&bytes).is_err());
        let _ = TRIAL.ice(&envelope);
    }
}

/// [`BlastRadius::decode`].
pub fn blast_radius(bytes: &[u8]) {
    if let Ok(blast) = BlastRadius::decode(bytes) {
        assert_eq!(blast.to_bytes(), bytes);
        assert_eq!(blast.validate(), Ok(()));
    }
}

/// [`Steps::decode`] of the bytes as they are, and with the binding made to fit; what is read is written again alike.
pub fn steps(bytes: &[u8]) {
    steps_as_they_are(bytes);
    let Some((row, _)) = bytes.split_last_chunk::<32>() else {
        return;
    };
    if let Some(before) = row.get(17..49) {
        let bound = digest::derive(digest::Context::JournalSteps, &[before, row]);
        steps_as_they_are(&[row, bound.as_bytes()].concat());
    }
}

fn steps_as_they_are(bytes: &[u8]) {
    let Ok(steps) = Steps::decode(bytes) else { return };
    let entity = EntityId::from_bytes([1; 32]);
    let mut pending = Pending::after(entity, steps.before, steps.epoch);
    for step in &steps.steps {
        // A claimed number of outputs is not a number of outputs.
        if step.outputs > 1 << 12 {
            return;
        }
        (0..step.outputs).for_each(|_| pending.output(&step.link, b""));
        pending.step(step);
    }
    assert_eq!(pending.mark().digest, steps.after.digest);
    assert_eq!(pending.take()[0].value.as_deref(), Some(bytes));
    assert_eq!(*pending.mark(), steps.after);
}

/// [`Emitted::decode`] and [`OutputBounds::read`]; what is read is a chain, and has one encoding.
pub fn outputs(bytes: &[u8]) {
    let bounds = OutputBounds::read(bytes);
    let Ok(emitted) = Emitted::decode(Origin::new(7), bytes) else {
        return;
    };
    let mut digest = emitted.before;
    for (link, payload) in &emitted.outputs {
        assert_eq!(link.parent, digest.head8());
        digest = digest::event(&digest, &link.to_bytes(), payload);
    }
    assert_eq!(digest, emitted.after);
    let bounds = bounds.expect("a row has two ends");
    assert_eq!((bounds.before, bounds.after), (emitted.before, emitted.after));
    let (first, last) = (emitted.outputs.first(), emitted.outputs.last());
    assert_eq!(first.map(|(link, _)| link.sequence), Some(bounds.first));
    assert_eq!(last.map(|(link, _)| link.sequence), Some(bounds.last));
    let row = outputs_row(&EntityId::from_bytes([7; 32]), &emitted.before, &emitted.outputs);
    let value = row.and_then(|row| row.value).expect("it has outputs");
    // The links are of another origin, and so the digest at its end.
    assert_eq!(value[..value.len() - 32], bytes[..bytes.len() - 32]);
}

/// [`SnapshotRow::decode`].
pub fn snapshot_row(bytes: &[u8]) {
    for bytes in resealed(bytes) {
        if let Ok(row) = SnapshotRow::decode(&bytes) {
            assert_eq!(row.to_bytes(), bytes);
        }
    }
}

/// [`segment::recover`] of one file, of the store that it names.
pub fn segment(bytes: &[u8]) {
    let Some(store) = bytes.get(10..26).and_then(|id| id.try_into().ok()) else {
        return;
    };
    let (start, mut commits) = (Position::start(&store), Vec::new());
    let Ok(head) = segment::Head::decode(bytes) else { return };
    let found = segment::recover(&store, start, 0, &[(head.ordinal, bytes)], |_, writes| {
        commits.push(writes)
    });
    let Ok(recovered) = found else { return };
    let (mut written, mut position) = (head.to_bytes(), start);
    for commit in &commits {
        position = segment::put_frame(&head, &position, commit.iter(), &mut written);
    }
    assert_eq!(position, recovered.position);
    assert!(bytes.starts_with(&written));
}

/// [`rows::read_all`].
pub fn writes(bytes: &[u8]) {
    if let Ok(writes) = rows::read_all(bytes, 0) {
        let mut written = Vec::new();
        rows::put_all(writes.iter(), &mut written);
        assert_eq!(written, bytes);
    }
}

/// [`head::Head::decode`].
pub fn store_head(bytes: &[u8]) {
    for bytes in resealed(bytes) {
        if let Ok(found) = head::Head::decode(&bytes) {
            assert_eq!(found.to_bytes(), bytes);
        }
    }
}

/// [`head::decode_key`].
pub fn node_key(bytes: &[u8]) {
    for bytes in resealed(bytes) {
        if let Ok(seed) = head::decode_key(&bytes) {
            assert_eq!(*head::key_to_bytes(&seed), bytes);
        }
    }
}

/// [`DeadLetter::decode`].
pub fn dead_letter(bytes: &[u8]) {
    for bytes in resealed(bytes) {
        if let Ok(letter) = DeadLetter::decode(&bytes) {
            assert_eq!(letter.to_bytes(), bytes);
        }
    }
}

/// [`StoredDaemon::decode`].
pub fn stored_daemon(bytes: &[u8]) {
    for bytes in resealed(bytes) {
        // Version 1 is written no more.
        if let Ok(stored) = StoredDaemon::decode(&bytes)
            && bytes.first() == Some(&stored::VERSION)
        {
            assert_eq!(stored.to_bytes(), bytes);
        }
    }
}

/// [`Frame::decode`] of the bytes as one frame, and as frames each after its length.
pub fn frames(bytes: &[u8]) {
    let one = |bytes: &[u8]| {
        if let Ok(frame) = Frame::decode(bytes) {
            assert_eq!(frame.to_bytes(), bytes);
        }
    };
    one(bytes);
    let mut reader = Reader::new(bytes);
    while let Ok(frame) = reader.count_u32(1).and_then(|length| reader.take(length)) {
        one(frame);
    }
}

/// [`SenderRecord::decode`]; what was not signed by both is not believed.
pub fn sender(bytes: &[u8]) {
    if let Ok(record) = SenderRecord::decode(bytes) {
        assert_eq!(record.to_bytes(), bytes);
        assert!(record.verify().is_err() || record == super::frames::sender());
    }
}

/// [`reserved`].
pub fn reservation(bytes: &[u8]) {
    for bytes in resealed(bytes) {
        if let Ok(up_to) = reserved(&bytes) {
            let written = reserve(&EntityId::from_bytes([1; 32]), up_to).value;
            assert_eq!(written.as_deref(), Some(&bytes[..]));
        }
    }
}

/// [`Due::decode`].
pub fn due(bytes: &[u8]) {
    for bytes in resealed(bytes) {
        // Version 1 is written no more.
        if let Ok(due) = Due::decode(&bytes)
            && bytes.first() == Some(&due::VERSION)
        {
            assert_eq!(due.to_bytes(), bytes);
        }
    }
}
