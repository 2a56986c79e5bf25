//! What travels of a daemon, and how it is sealed.

use meshos_core::codec::{DecodeError, Fault};
use meshos_core::digest;
use meshos_core::identity::Keypair;
use meshos_core::image::seal::{
    CHUNK_PLAIN, NotOpened, Opener, SEAL_SIZE, SealedIdentity, Sealer, Transcript, plain_len, plain_range, sealed_len,
};
use meshos_core::image::{Baggage, copy_of, decode, read_snapshot};
use meshos_core::move_chunks;
use meshos_core::move_frame::MAX_SNAPSHOT_CHUNK_SIZE;
use meshos_core::rows::{Table, Write, entity_key};
use meshos_core::testing::samples::{History, STATE, keypair};
use meshos_core::testing::{images, move_frames};
use proptest::prelude::*;

use crate::support::{fault, patched};

const TARGET: u8 = 0x22;

fn target() -> Keypair {
    keypair(TARGET)
}

/// The image with other baggage, or another snapshot, as it is.
fn made(change: impl FnOnce(&mut Baggage)) -> Result<Vec<u8>, Box<dyn std::any::Any + Send>> {
    let mut baggage = images::baggage();
    change(&mut baggage);
    std::panic::catch_unwind(move || {
        let (before, behind) = baggage.around(&images::meta(), STATE);
        [&before[..], STATE, &behind].concat()
    })
}

#[test]
fn an_image_is_read_back_and_nothing_else_is() {
    let image = images::image();
    let found = decode(&image).expect("it was written");
    assert_eq!((found.baggage, &found.meta), (images::baggage(), &images::meta()));
    assert_eq!(&image[found.state.clone()], STATE);
    let snapshot = read_snapshot(&image, u64::MAX);
    assert_eq!(snapshot, Ok((found.meta, found.state)));
    for end in 0..image.len() {
        assert!(decode(&image[..end]).is_err(), "cut at {end}");
    }
    assert!(decode(&[&image[..], &[0]].concat()).is_err());
}

#[test]
fn what_came_since_a_copy_is_read_back_and_is_no_snapshot() {
    let since = images::since();
    let found = decode(&since).expect("it was written");
    let copy = digest::plain(b"a copy");
    assert_eq!((found.baggage.copy, copy_of(&since)), (Some(copy), Some(copy)));
    assert_eq!(copy_of(&images::image()), None);
    assert!(found.state.is_empty() && found.meta == images::meta());
    let tables: Vec<_> = found.baggage.rows.iter().map(|row| row.table).collect();
    assert!(tables.contains(&Table::Journal));
    assert_eq!(fault(read_snapshot(&since, u64::MAX)), Fault::Invalid { field: "tag" });
    for end in 0..since.len() {
        assert!(decode(&since[..end]).is_err(), "cut at {end}");
    }
    // Steps travel with nothing else, and a state does not travel with them.
    let made = |copy, state: &'static [u8]| {
        let baggage = Baggage {
            copy,
            ..found.baggage.clone()
        };
        std::panic::catch_unwind(move || baggage.around(&images::meta(), state))
    };
    assert!(made(None, b"").is_err());
    assert!(made(Some(copy), STATE).is_err());
    assert!(made(Some(copy), b"").is_ok());
}

#[test]
fn an_image_with_any_bit_flipped_has_another_name_and_is_not_read_as_the_same() {
    let image = images::image();
    let name = digest::plain(&image);
    let found = decode(&image).expect("it was written");
    for bit in 0..image.len() * 8 {
        let mut changed = image.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(digest::plain(&changed), name, "bit {bit}");
        assert_ne!(decode(&changed).as_ref(), Ok(&found), "bit {bit}");
    }
}

#[test]
fn what_no_writer_writes_is_refused_by_its_name() {
    let image = images::image();
    let refused = |at: usize, bytes: &[u8]| fault(decode(&patched(&image, at, bytes)));
    let invalid = |field| Fault::Invalid { field };
    assert_eq!(refused(0, &[2]), Fault::NewerVersion { found: 2, known: 1 });
    assert_eq!(refused(1, &[3]), invalid("tag"));
    let length = usize::from(u16::from_le_bytes([image[2], image[3]]));
    assert_eq!(refused(4 + length, &[2]), invalid("identity"));
    let rows = 4 + length + 1 + SealedIdentity::SIZE;
    let huge = refused(rows, &u64::MAX.to_le_bytes());
    assert!(matches!(huge, Fault::Truncated { .. }));
    // A fault names its place in the whole image.
    let at = |found: Result<_, DecodeError>| found.expect_err("it is refused").offset;
    assert_eq!(at(decode(&patched(&image, 10, &[9])).map(drop)), 4 + length as u64 - 4);
}

#[test]
fn what_does_not_travel_is_not_written() {
    let entity = History::new().entity.entity_id();
    let other = keypair(1).entity_id();
    let row = |table, entity, value: &[u8]| Write::put(table, entity_key(entity, [1]), value.to_vec());
    let wrong = [
        row(Table::Ownership, &entity, b"a"),
        row(Table::Journal, &entity, b"a"),
        row(Table::Moves, &entity, b"a"),
        row(Table::Outputs, &other, b"a"),
        row(Table::Checkpoints, &entity, b"a"),
        Write::put(Table::Outputs, b"short".to_vec(), Vec::new()),
        Write::remove(Table::Outputs, entity_key(&entity, [9])),
    ];
    for row in wrong {
        let table = row.table;
        let refused = made(|baggage| {
            baggage.rows.push(row);
            baggage.sort();
        });
        assert!(refused.is_err(), "{table:?}");
    }
    assert!(made(|baggage| baggage.rows.reverse()).is_err());
    assert!(made(|baggage| baggage.rows.push(baggage.rows[4].clone())).is_err());
    assert!(made(|baggage| baggage.stored.runs = false).is_err());
    assert!(made(|baggage| baggage.stored.kind = "other".to_owned()).is_err());
    let bare = made(|baggage| {
        baggage.rows.clear();
        baggage.identity = None;
    });
    let bare = decode(&bare.expect("nothing has to travel")).expect("it is read");
    assert_eq!((bare.baggage.rows.len(), bare.baggage.identity), (0, None));
}

#[test]
fn a_chunk_opens_only_as_what_it_was() {
    let (image, transcript) = (images::image(), images::transcript());
    let mut out = vec![0; image.len()];
    let sealed = images::chunk();
    assert_eq!(sealed.len() as u64, sealed_len(image.len() as u64));
    let opener = Opener::new(&transcript, &target()).expect("it can");
    assert_eq!(opener.open(0, &sealed, &mut out), Ok(image.len()));
    assert_eq!(out, image);
    assert_eq!(images::chunk(), sealed, "what is sealed again is the same");
    for at in 0..sealed.len() {
        let altered = patched(&sealed, at, &[sealed[at] ^ 1]);
        assert!(opener.open(0, &altered, &mut out).is_err(), "byte {at}");
    }
    let others = [
        Transcript {
            mid: [1; 16],
            ..transcript
        },
        Transcript {
            entity: keypair(1).entity_id(),
            ..transcript
        },
        Transcript { epoch: 2, ..transcript },
        Transcript {
            source: keypair(1).entity_id(),
            ..transcript
        },
        Transcript {
            target: keypair(1).entity_id(),
            ..transcript
        },
        Transcript {
            digest: digest::plain(b"other"),
            ..transcript
        },
    ];
    for other in others {
        let opener = Opener::new(&other, &target()).expect("it can");
        assert_eq!(opener.open(0, &sealed, &mut out), Err(NotOpened::Forged), "{other:?}");
    }
    let stranger = Opener::new(&transcript, &keypair(1)).expect("it can");
    assert_eq!(stranger.open(0, &sealed, &mut out), Err(NotOpened::Forged));
    for (index, part) in [(1, &sealed[..]), (0, &sealed[1..]), (0, &[])] {
        let refused = opener.open(index, part, &mut out);
        assert!(matches!(refused, Err(NotOpened::Length { .. })));
    }
    let public = Keypair::public_only(target().entity_id());
    assert!(Opener::new(&transcript, &public).is_err());
}

#[test]
fn chunks_lie_where_the_receiver_expects_them_and_none_is_another() {
    let plain: Vec<u8> = (0..2 * CHUNK_PLAIN + 77).map(|at| (at % 251) as u8).collect();
    let transcript = Transcript {
        plain: plain.len() as u64,
        ..images::transcript()
    };
    let sealer = Sealer::new(&transcript, &images::agreement(5));
    let opener = Opener::new(&transcript, &target()).expect("it can");
    let total = sealed_len(transcript.plain);
    let mut chunks = Vec::new();
    for index in 0..3u32 {
        let range = plain_range(transcript.plain, index).expect("it is there");
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let chunk = sealer.seal(index, &plain[range.clone()]);
        let expected = move_chunks::range(total, index).expect("it is there");
        assert_eq!(chunk.len() as u64, expected.end - expected.start);
        let mut out = vec![0; CHUNK_PLAIN];
        let length = opener.open(index, &chunk, &mut out).expect("it opens");
        assert_eq!(out[..length], plain[range]);
        chunks.push(chunk);
    }
    assert_eq!(plain_range(transcript.plain, 3), None);
    assert_eq!(chunks[0].len(), MAX_SNAPSHOT_CHUNK_SIZE);
    let mut out = vec![0; CHUNK_PLAIN];
    assert_eq!(opener.open(1, &chunks[0], &mut out), Err(NotOpened::Forged));
}

#[test]
fn a_key_is_opened_by_the_target_of_its_order_and_by_nobody_else() {
    let (order, entity) = (move_frames::order(), History::new().entity);
    let sealed = images::baggage().identity.expect("it travels");
    let opened = sealed.open(&order, &target(), None).expect("it is the target");
    assert_eq!(opened.entity_id(), entity.entity_id());
    assert_eq!(SealedIdentity::from_bytes(&sealed.to_bytes()), sealed);
    assert_eq!(sealed.open(&order, &keypair(1), None).err(), Some(NotOpened::Forged));
    for at in 0..SealedIdentity::SIZE {
        let mut altered = sealed.to_bytes();
        altered[at] ^= 1;
        assert!(
            SealedIdentity::from_bytes(&altered)
                .open(&order, &target(), None)
                .is_err(),
            "byte {at}"
        );
    }
    let mut other = order.clone();
    other.mid = [1; 16];
    assert!(sealed.open(&other, &target(), None).is_err());
    let mut other = order.clone();
    other.source = keypair(1).entity_id();
    assert!(sealed.open(&other, &target(), None).is_err());
    // The key of another daemon is not taken for this one's.
    let stranger = SealedIdentity::seal(&keypair(1), &order, &images::agreement(1)).expect("it can");
    assert_eq!(stranger.open(&order, &target(), None).err(), Some(NotOpened::Forged));
    let public = Keypair::public_only(entity.entity_id());
    assert!(SealedIdentity::seal(&public, &order, &images::agreement(1)).is_err());
}

#[test]
fn one_agreement_seals_image_and_key_under_keys_of_their_own() {
    let (order, entity) = (move_frames::order(), History::new().entity);
    let agreement = images::agreement(7);
    let transcript = images::transcript();
    let chunk = Sealer::new(&transcript, &agreement).seal(0, &images::image());
    let sealed = SealedIdentity::seal(&entity, &order, &agreement).expect("a whole key");
    assert_eq!(chunk[..32], sealed.to_bytes()[..32], "one ephemeral key");
    let opener = Opener::new(&transcript, &target()).expect("it can");
    assert!(opener.agreement().is_none(), "nothing came yet");
    let mut out = vec![0; images::image().len()];
    opener.open(0, &chunk, &mut out).expect("it opens");
    let known = opener.agreement().expect("of the first chunk");
    let opened = sealed.open(&order, &target(), Some(known)).expect("it is the target");
    assert_eq!(opened.entity_id(), entity.entity_id());
    assert_eq!(
        sealed
            .open(&order, &target(), None)
            .expect("it computes it")
            .entity_id(),
        entity.entity_id()
    );
    // What was agreed otherwise is of no use, and does no harm; neither is it for another target.
    let other = images::baggage().identity.expect("it travels");
    assert!(other.open(&order, &target(), Some(known)).is_ok());
    assert!(sealed.open(&order, &keypair(1), Some(known)).is_err());
    // A chunk under another ephemeral key opens too: whoever sends decides.
    let again = Sealer::new(&transcript, &images::agreement(8)).seal(0, &images::image());
    assert_ne!(again, chunk);
    assert_eq!(opener.open(0, &again, &mut out), Ok(out.len()));
}

proptest! {
    #[test]
    fn lengths_are_one_to_one(plain in 1u64..1 << 44) {
        let sealed = sealed_len(plain);
        prop_assert_eq!(plain_len(sealed), Some(plain));
        let chunks = plain.div_ceil(CHUNK_PLAIN as u64);
        prop_assert_eq!(sealed, plain + chunks * SEAL_SIZE as u64);
        prop_assert_eq!(sealed.div_ceil(MAX_SNAPSHOT_CHUNK_SIZE as u64), chunks);
    }

    #[test]
    fn a_length_that_nothing_has_is_none(sealed in 1u64..1 << 44) {
        match plain_len(sealed) {
            Some(plain) => prop_assert_eq!(sealed_len(plain), sealed),
            None => prop_assert!(sealed % MAX_SNAPSHOT_CHUNK_SIZE as u64 <= SEAL_SIZE as u64),
        }
    }
}
