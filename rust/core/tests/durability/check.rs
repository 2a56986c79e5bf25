//! Everything that a store has, checked.

use meshos_core::certificate::{Certificate, Reason, Statement};
use meshos_core::checkpoint::Checkpoint;
use meshos_core::config::{DaemonHostConfig, Durability};
use meshos_core::digest::Digest;
use meshos_core::host::{Few, Host};
use meshos_core::id::{EntityId, Origin};
use meshos_core::identity::Keypair;
use meshos_core::ingress::{DIRECT, EventKey};
use meshos_core::journal::{Emitted, Mark, Outcome, Pending, SnapshotRow, Step};
use meshos_core::link::CausalLink;
use meshos_core::move_rows::Item;
use meshos_core::rows::{KeyRange, Table, Write, entity_key};
use meshos_core::sender;
use meshos_core::store::check::{Checked, check};
use meshos_core::store::memory::MemoryStore;
use meshos_core::store::{Batch, Damage, Row, Store, StoreError};
use meshos_core::stored::StoredDaemon;
use meshos_core::testing::{frames, images, move_frames, samples};
use meshos_core::time::UnixMs;

const TABLES: [Table; 7] = [
    Table::Node,
    Table::Daemons,
    Table::Journal,
    Table::Outputs,
    Table::Snapshots,
    Table::DeadLetters,
    Table::Outbox,
];

fn write(store: &mut MemoryStore, writes: Vec<Write>) {
    let batch = Batch {
        term: store.term(),
        writes,
    };
    store.submit(batch, Box::new(|outcome| assert!(outcome.is_ok())));
}

/// A daemon that echoes: 20 steps in rows of 5, a snapshot after 10.
fn add(store: &mut MemoryStore, entity: EntityId) {
    let config = DaemonHostConfig {
        durability: Durability::Journal,
        ..DaemonHostConfig::default()
    };
    let mut host = Host::new(entity, config);
    let mut pending = Pending::after(entity, Mark::start(&entity, 0, host.position().digest), 1);
    let stored = StoredDaemon {
        kind: "echo".to_owned(),
        config,
        runs: true,
        key: None,
    };
    write(store, vec![stored.write(&entity)]);
    for sequence in 1..=20u64 {
        let key = EventKey {
            origin: Origin::new(7),
            stream: DIRECT,
            sequence,
        };
        let payload = sequence.to_be_bytes();
        let outputs: Few<_> = std::iter::once(payload).collect();
        host.returned(key, outputs, |link, _, output| pending.output(&link, &output))
            .expect("there is room");
        pending.step(&Step {
            outcome: Outcome::Processed,
            receipt: false,
            link: CausalLink {
                origin: key.origin,
                horizon: 0,
                sequence,
                parent: 0,
            },
            stream: DIRECT,
            received_ns: sequence,
            payload: &payload,
            outputs: 1,
            digest: host.position().digest,
        });
        if sequence.is_multiple_of(5) {
            write(store, pending.take());
        }
        if sequence == 10 {
            let meta = host.snapshot("echo".to_owned(), 1, UnixMs::new(5));
            let bytes = meta.to_bytes(b"state");
            let row = SnapshotRow {
                name: store.keep(&[&bytes]).expect("kept"),
                size: bytes.len() as u64,
                mark: *pending.mark(),
                processed: 10,
                epoch: 1,
                taken_at: UnixMs::new(5),
            };
            let rows = [
                row.write(&entity),
                samples::dead_letter().write(&entity, 1),
                frames::due().write(&entity, 8),
                sender::reserve(&entity, 8192),
            ];
            write(store, rows.to_vec());
        }
    }
}

fn kept() -> MemoryStore {
    let mut store = MemoryStore::new();
    for seed in [1, 2] {
        add(&mut store, samples::keypair(seed).entity_id());
    }
    store
}

fn rows(store: &MemoryStore, table: Table) -> Vec<Row> {
    store.page(table, &KeyRange::all(), usize::MAX).expect("readable")
}

#[test]
fn what_is_whole_passes() {
    assert_eq!(check(&MemoryStore::new()), Ok(Checked::default()));
    let found = check(&kept()).expect("nothing is damaged");
    assert_eq!(
        (found.daemons, found.steps, found.outputs, found.snapshots),
        (2, 40, 40, 2)
    );
}

#[test]
fn every_flipped_bit_of_every_row_is_found() {
    for table in TABLES {
        for (key, value) in rows(&kept(), table) {
            for at in 0..value.len() {
                let mut store = kept();
                let mut flipped = value.clone();
                flipped[at] ^= 1 << (at % 8);
                write(&mut store, vec![Write::put(table, key.clone(), flipped)]);
                let found = check(&store);
                assert!(
                    matches!(found, Err(StoreError::Damaged(_))),
                    "{table:?} byte {at}: {found:?}"
                );
            }
        }
    }
}

#[test]
fn every_row_removed_moved_or_swapped_is_found() {
    for table in [Table::Journal, Table::Outputs] {
        let all = rows(&kept(), table);
        // What is before the snapshot may have been let go, and is not missed.
        for (index, (key, value)) in all.iter().enumerate() {
            let mut store = kept();
            write(&mut store, vec![Write::remove(table, key.clone())]);
            assert_eq!(check(&store).is_err(), index % 4 != 0, "{table:?} row {index} removed");

            let (other, _) = &all[(index + 1) % all.len()];
            let mut store = kept();
            write(&mut store, vec![Write::put(table, other.clone(), value.clone())]);
            assert!(check(&store).is_err(), "{table:?} row {index} moved");
        }
    }
    let mut store = kept();
    let (key, _) = rows(&store, Table::Journal).remove(0);
    write(
        &mut store,
        vec![Write::put(Table::Journal, key[..39].to_vec(), vec![1])],
    );
    let bad = StoreError::Damaged(Damage::BadKey { table: Table::Journal });
    assert_eq!(check(&store), Err(bad));
}

#[test]
fn what_is_due_and_what_is_reserved_have_keys_of_their_own() {
    let entity = samples::keypair(1).entity_id();
    let found = |row: Write| {
        let mut store = kept();
        write(&mut store, vec![row]);
        check(&store).map(drop)
    };
    assert_eq!(found(frames::due().write(&entity, 9)), Ok(()));
    let table = Table::Outbox;
    let apart = Damage::Apart {
        table,
        entity,
        number: 0,
    };
    assert_eq!(found(frames::due().write(&entity, 0)), Err(apart.into()));
    let bare = Write::put(table, entity.as_bytes().to_vec(), frames::due().to_bytes());
    assert_eq!(found(bare), Err(Damage::BadKey { table }.into()));

    let good = sender::reservation_name(&entity);
    assert_eq!(sender::of_reservation_name(&good), Some(entity));
    let capitals = [sender::RESERVATIONS, &good[8..].to_ascii_uppercase()].concat();
    let longer = [&good[..], b"0"].concat();
    let signed = [sender::RESERVATIONS, b"+1", &good[10..]].concat();
    for name in [&good[..71], &good[..8], &capitals, &longer, &signed] {
        let table = Table::Node;
        let row = Write::put(table, name.to_vec(), frames::reservation());
        assert_eq!(found(row), Err(Damage::BadKey { table }.into()));
    }
    // Other rows of the node are not numbers.
    assert_eq!(found(Write::put(Table::Node, b"number".to_vec(), vec![1])), Ok(()));
}

#[test]
fn every_byte_changed_in_a_row_of_a_move_is_found_and_so_is_an_image_that_is_gone() {
    let image = images::image();
    let mut store = kept();
    let name = store.keep(&[&image]).expect("in memory");
    let mut prepared = move_frames::prepared();
    (prepared.frozen.image, prepared.image_bytes) = (name, image.len() as u64);
    let (entity, mid) = (prepared.order.entity, prepared.order.mid);
    let mut items = move_frames::items();
    items[1] = Item::Prepared(Box::new(prepared));
    for row in items.iter().map(|item| item.write(&entity, &mid)) {
        write(&mut store, vec![row.clone()]);
        assert!(check(&store).is_ok());
        let value = row.value.clone().expect("put");
        for at in 0..value.len() {
            let mut changed = value.clone();
            changed[at] ^= 1;
            write(&mut store, vec![Write::put(Table::Moves, row.key.clone(), changed)]);
            assert!(check(&store).is_err(), "byte {at}");
        }
        write(&mut store, vec![row]);
    }
    store.discard(&name).expect("it is there");
    assert_eq!(check(&store), Err(StoreError::NoSnapshot { name }));
    let mut store = kept();
    write(&mut store, vec![Write::put(Table::Moves, b"short".to_vec(), vec![1])]);
    let table = Table::Moves;
    assert_eq!(check(&store), Err(Damage::BadKey { table }.into()));
}

#[test]
fn a_snapshot_that_is_gone_or_of_another_place_is_found() {
    let mut store = kept();
    let all = rows(&store, Table::Snapshots);
    let row = SnapshotRow::decode(&all[0].1).expect("as written");
    store.discard(&row.name).expect("it is there");
    assert_eq!(check(&store), Err(StoreError::NoSnapshot { name: row.name }));

    let mut store = kept();
    let [one, two] = [&all[0], &all[1]].map(|(_, value)| SnapshotRow::decode(value).expect("as written"));
    let swapped = SnapshotRow {
        name: two.name,
        size: two.size,
        ..one
    };
    write(
        &mut store,
        vec![Write::put(Table::Snapshots, all[0].0.clone(), swapped.to_bytes())],
    );
    assert!(matches!(check(&store), Err(StoreError::Damaged(Damage::Apart { .. }))));
}

// ---------------------------------------------------------------- what was signed

/// Certificates of two epochs and checkpoints in both, as a daemon that was started again leaves them.
fn signed(store: &mut MemoryStore) -> (Vec<Certificate>, Vec<Checkpoint>) {
    let (key, node) = (samples::keypair(1), samples::keypair(9));
    let entity = key.entity_id();
    let outputs = rows(store, Table::Outputs);
    let mine = outputs.iter().filter(|(key, _)| key.starts_with(entity.as_bytes()));
    let ends: Vec<_> = mine
        .map(|(_, value)| Emitted::decode(entity.origin(), value).expect("as written").after)
        .collect();
    let genesis = Host::new(entity, DaemonHostConfig::default()).position().digest;
    let certificate = |epoch, from_sequence, digest, reason| {
        let statement = Statement {
            entity,
            epoch,
            node: node.entity_id(),
            from_sequence,
            digest,
            reason,
        };
        Certificate::sign(statement, &key).expect("a whole key")
    };
    let certificates = vec![
        certificate(1, 0, genesis, Reason::Spawn),
        certificate(2, 10, ends[1], Reason::Restart),
    ];
    let sign = |epoch, sequence, digest, previous| {
        Checkpoint::sign(entity, epoch, sequence, digest, UnixMs::new(3), previous, &node).expect("a whole key")
    };
    let first = sign(1, 10, ends[1], Digest::ZERO);
    let second = sign(2, 20, ends[3], first.digest_of());
    let checkpoints = vec![first, second];
    let mut writes: Vec<_> = certificates.iter().map(certificate_row).collect();
    writes.extend(checkpoints.iter().map(checkpoint_row));
    write(store, writes);
    (certificates, checkpoints)
}

fn certificate_row(certificate: &Certificate) -> Write {
    let key = entity_key(&certificate.entity, [certificate.epoch]);
    Write::put(Table::Certificates, key, certificate.to_bytes().to_vec())
}

fn checkpoint_row(checkpoint: &Checkpoint) -> Write {
    let key = entity_key(&checkpoint.entity, [checkpoint.epoch, checkpoint.sequence]);
    Write::put(Table::Checkpoints, key, checkpoint.to_bytes())
}

#[test]
fn what_was_signed_by_those_who_might_passes() {
    let mut store = kept();
    signed(&mut store);
    assert_eq!(check(&store).expect("nothing is damaged").signed, 4);
}

#[test]
fn what_was_signed_by_another_is_found() {
    let (other, key) = (samples::keypair(7), samples::keypair(1));
    let mut store = kept();
    let (certificates, checkpoints) = signed(&mut store);
    let found = |writes: Vec<Write>| {
        let mut store = kept();
        signed(&mut store);
        write(&mut store, writes);
        match check(&store) {
            Err(StoreError::Damaged(Damage::Apart { table, number, .. })) => Some((table, number)),
            other => panic!("{other:?}"),
        }
    };
    let by = |made: &Checkpoint, epoch, signer: &Keypair| {
        let Checkpoint {
            entity,
            sequence,
            digest,
            at,
            previous,
            ..
        } = *made;
        let bad = Checkpoint::sign(entity, epoch, sequence, digest, at, previous, signer).expect("a whole key");
        checkpoint_row(&bad)
    };
    // A node that never spoke; the entity itself; an epoch in which nobody spoke.
    let at = |sequence| Some((Table::Checkpoints, sequence));
    assert_eq!(found(vec![by(&checkpoints[1], 2, &other)]), at(20));
    assert_eq!(found(vec![by(&checkpoints[0], 1, &key)]), at(10));
    assert_eq!(found(vec![by(&checkpoints[1], 3, &samples::keypair(9))]), at(20));
    // A signature of something else; one that the next does not follow on.
    let mut altered = checkpoints[1];
    altered.digest = checkpoints[0].digest;
    assert_eq!(found(vec![checkpoint_row(&altered)]), at(20));
    let forked = Checkpoint {
        digest: Digest::from_bytes([7; 32]),
        ..checkpoints[0]
    };
    assert_eq!(found(vec![by(&forked, 1, &samples::keypair(9))]), at(20));
    // The record of who spoke is gone, or made by one who may not.
    let gone = Write::remove(Table::Certificates, entity_key(&key.entity_id(), [2]));
    assert_eq!(found(vec![gone]), at(20));
    let statement = Statement {
        entity: key.entity_id(),
        epoch: 2,
        node: other.entity_id(),
        from_sequence: 10,
        digest: certificates[1].digest,
        reason: Reason::Restart,
    };
    let seized = Certificate::sign(statement, &other).expect("a whole key");
    assert_eq!(found(vec![certificate_row(&seized)]), Some((Table::Certificates, 2)));
}
