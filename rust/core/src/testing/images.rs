//! The image of a daemon that moves with fixed keys, for golden bytes and fuzz functions.
//!
//! It is the daemon of [`move_frames::order`], frozen after its third output.

use std::sync::LazyLock;

use zeroize::Zeroizing;

use super::samples::{self, History, STATE, keypair};
use super::{frames, move_frames};
use crate::digest;
use crate::image::seal::{Agreement, Opener, SealedIdentity, Sealer, Transcript};
use crate::image::{self, Baggage, Unpacked};
use crate::name::ChannelName;
use crate::rows::{Table, Write, entity_key};
use crate::snapshot::SnapshotMeta;
use crate::source::Source;
use crate::stored::StoredDaemon;

const FULL: &str = "sample pairs have their secret half";

/// The snapshot in the image, without its state.
#[must_use]
pub fn meta() -> SnapshotMeta {
    let history = History::new();
    SnapshotMeta {
        epoch: 1,
        head: history.links[2],
        digest: history.digests[3],
        lineage: history.certificates[..1].to_vec(),
        ..history.snapshot()
    }
}

/// One row of each table that travels, and the key of the daemon.
///
/// # Panics
/// Never: sample pairs have their secret half.
#[must_use]
pub fn baggage() -> Baggage {
    let history = History::new();
    let (order, entity) = (move_frames::order(), history.entity.entity_id());
    let outputs = samples::journalled();
    let outputs = outputs.into_iter().find(|row| row.table == Table::Outputs);
    let made = &history.checkpoints[0];
    let key = entity_key(&entity, [made.epoch, made.sequence]);
    let source = Source {
        publisher: history.nodes[0].entity_id(),
        log: 9,
        channel: ChannelName::new("sensors/lidar").expect("a good name"),
    };
    let mut baggage = Baggage {
        copy: None,
        stored: StoredDaemon {
            key: None,
            ..samples::stored_daemon()
        },
        identity: Some(SealedIdentity::seal(&history.entity, &order, &agreement(0x97)).expect(FULL)),
        rows: vec![
            outputs.expect("there is one"),
            Write::put(Table::Checkpoints, key, made.to_bytes()),
            samples::dead_letter().write(&entity, 1),
            frames::due().write(&entity, 2),
            source.write(&entity),
        ],
    };
    baggage.sort();
    baggage
}

/// The image; its state is [`STATE`].
#[must_use]
pub fn image() -> Vec<u8> {
    let (before, behind) = baggage().around(&meta(), STATE);
    [&before[..], STATE, &behind].concat()
}

/// What came since a copy of the same daemon, which was made before its first step.
///
/// # Panics
/// Never: there are steps in the samples.
#[must_use]
pub fn since() -> Vec<u8> {
    let steps = samples::journalled();
    let steps = steps.into_iter().find(|row| row.table == Table::Journal);
    let mut baggage = Baggage {
        copy: Some(digest::plain(b"a copy")),
        ..baggage()
    };
    baggage.rows.push(steps.expect("there is one"));
    baggage.sort();
    let (before, behind) = baggage.around(&meta(), b"");
    [&before[..], &behind].concat()
}

/// Of the image on its way to the target of the order.
#[must_use]
pub fn transcript() -> Transcript {
    let image = image();
    Transcript::of(&move_frames::order(), digest::plain(&image), image.len() as u64)
}

/// What the source agrees with the target, by an ephemeral key of this byte.
///
/// # Panics
/// Never: the target is a key.
#[must_use]
pub fn agreement(ephemeral: u8) -> Agreement {
    Agreement::with(&move_frames::order().target, &Zeroizing::new([ephemeral; 32])).expect(FULL)
}

/// Its only chunk, sealed.
///
/// # Panics
/// Never: the target is a key.
#[must_use]
pub fn chunk() -> Vec<u8> {
    Sealer::new(&transcript(), &agreement(0x98)).seal(0, &image())
}

/// [`image::decode`], and the same with a closing digest that fits.
pub fn fuzz_image(bytes: &[u8]) {
    read(bytes);
    if let (Ok(begin), Some((covered, _))) = (image::snapshot_at(bytes), bytes.split_last_chunk::<32>())
        && begin <= covered.len()
    {
        read(&[covered, digest::plain(&covered[begin..]).as_bytes()].concat());
    }
}

fn read(bytes: &[u8]) {
    let snapshot = image::read_snapshot(bytes, bytes.len() as u64);
    let Ok(Unpacked { baggage, meta, state }) = image::decode(bytes) else {
        return;
    };
    match image::copy_of(bytes) {
        None => assert_eq!(snapshot, Ok((meta.clone(), state.clone()))),
        copy => assert_eq!((baggage.copy, snapshot.is_err(), state.len()), (copy, true, 0)),
    }
    let (before, behind) = baggage.around(&meta, &bytes[state.clone()]);
    // Sections that a newer release added are skipped when a snapshot is read.
    let begin = image::snapshot_at(bytes).expect("it was read");
    assert_eq!(before[..begin], bytes[..begin]);
    if before.len() == state.start && state.end + 32 == bytes.len() {
        assert_eq!([&before[..], &bytes[state], &behind].concat(), bytes);
    }
}

/// [`Opener::open`], as the first chunk of the image.
///
/// # Panics
/// If something is opened that was not sealed.
pub fn fuzz_chunk(bytes: &[u8]) {
    static TARGET: LazyLock<(Opener, Vec<u8>)> = LazyLock::new(|| {
        let opener = Opener::new(&transcript(), &keypair(0x22));
        (opener.expect(FULL), image())
    });
    let (opener, image) = &*TARGET;
    let mut out = vec![0; image.len()];
    if let Ok(length) = opener.open(0, bytes, &mut out) {
        assert_eq!(out[..length], *image);
    }
}
