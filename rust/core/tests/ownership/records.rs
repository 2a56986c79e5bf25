//! Records of ownership and their lineage.

use meshos_core::certificate::Reason;
use meshos_core::codec::Fault;
use meshos_core::digest::Digest;
use meshos_core::id::EntityId;
use meshos_core::identity::Keypair;
use meshos_core::ownership::{Lineage, LineageError, OwnershipRecord};
use meshos_core::rows::{Table, of_entity_key};
use meshos_core::testing::ownership;
use meshos_core::testing::samples::{History, keypair};

use crate::support::{assert_exact, fault, patched};

fn authority() -> EntityId {
    keypair(0x33).entity_id()
}

fn entity() -> EntityId {
    keypair(0x42).entity_id()
}

fn judge(records: Vec<OwnershipRecord>) -> Result<Lineage, LineageError> {
    Lineage::verify(&entity(), records, &[authority()])
}

#[test]
fn records_survive_their_wire_form_and_nothing_else_is_read() {
    for record in ownership::records() {
        let bytes = record.to_bytes();
        assert_eq!(bytes.len(), OwnershipRecord::SIZE);
        assert_eq!(OwnershipRecord::decode(&bytes), Ok(record));
        assert_exact(&bytes, 0, OwnershipRecord::decode);
        let newer = Fault::NewerVersion { found: 2, known: 1 };
        assert_eq!(fault(OwnershipRecord::decode(&patched(&bytes, 0, &[2]))), newer);
    }
}

#[test]
fn what_does_not_fit_its_reason_is_not_read() {
    let [spawn, moved, restarted, taken] = ownership::records().try_into().expect("four");
    // previous at 1, source at 33, mid at 65, epoch at 81 + 34.
    let table: [(&OwnershipRecord, usize, &[u8], &'static str); 9] = [
        (&spawn, 1, &[1], "previous"),
        (&spawn, 33, &[1], "source"),
        (&spawn, 65, &[1], "migration id"),
        (&spawn, 115, &2_u64.to_le_bytes(), "epoch"),
        (&moved, 1, &[0; 32], "previous"),
        (&moved, 33, &[0; 32], "source"),
        (&moved, 65, &[0; 16], "migration id"),
        (&restarted, 115, &1_u64.to_le_bytes(), "epoch"),
        (&taken, 115, &2_u64.to_le_bytes(), "epoch"),
    ];
    for (record, at, bytes, field) in table {
        let changed = patched(&record.to_bytes(), at, bytes);
        assert_eq!(
            fault(OwnershipRecord::decode(&changed)),
            Fault::Invalid { field },
            "{:?}",
            record.reason()
        );
    }
}

#[test]
fn every_changed_bit_of_a_lineage_is_found_at_its_record() {
    let records = ownership::records();
    for (index, record) in records.iter().enumerate() {
        let bytes = record.to_bytes();
        for at in (0..bytes.len()).step_by(5) {
            let changed = patched(&bytes, at, &[bytes[at] ^ 0x10]);
            let Ok(changed) = OwnershipRecord::decode(&changed) else {
                continue;
            };
            let mut found = records.clone();
            found[index] = changed;
            let bad = judge(found).expect_err("a changed record was accepted");
            assert_eq!(bad.index, index, "byte {at}: {bad}");
        }
    }
}

#[test]
fn the_first_record_that_does_not_belong_is_named() {
    let records = ownership::records();
    let History {
        entity: pair,
        nodes,
        digests,
        ..
    } = History::new();
    let stranger = keypair(0x55);
    let named = |found: Vec<OwnershipRecord>| judge(found).map(drop).map_err(|bad| (bad.index, bad.what));
    assert_eq!(named(vec![]), Err((0, "no record is given")));
    assert_eq!(
        named(records[1..].to_vec()),
        Err((0, "record: the one before is missing"))
    );
    assert_eq!(
        named(vec![records[0], records[2], records[3]]),
        Err((1, "certificate: signed by one who may not"))
    );
    assert_eq!(
        named(vec![records[0], records[0]]),
        Err((1, "certificate: epoch does not rise"))
    );
    let with = |next: OwnershipRecord| named(vec![records[0], next]);
    let first = &nodes[0];
    let by_stranger = records[0].restarted(0, digests[0], &stranger).expect("whole");
    assert_eq!(with(by_stranger), Err((1, "certificate: signed by one who may not")));
    let taken = |signer: &Keypair| {
        records[0]
            .taken_over(nodes[1].entity_id(), 0, digests[0], signer)
            .expect("whole")
    };
    assert_eq!(with(taken(first)), Err((1, "certificate: signed by one who may not")));
    assert_eq!(with(taken(&pair)), Ok(()));
    assert_eq!(with(taken(&keypair(0x33))), Ok(()));
    // Another lineage of the same entity: the takeover names a record that is not the one before.
    let other = OwnershipRecord::spawn(&pair, nodes[1].entity_id(), digests[0]).expect("whole");
    let foreign = other
        .taken_over(first.entity_id(), 0, digests[0], &pair)
        .expect("whole");
    assert_eq!(with(foreign), Err((1, "record: does not name the one before")));
    let of_another = OwnershipRecord::spawn(&stranger, first.entity_id(), Digest::ZERO).expect("whole");
    assert_eq!(named(vec![of_another]), Err((0, "record: of another entity")));
}

#[test]
fn a_takeover_leaves_room_for_one_record_and_others_for_none() {
    let records = ownership::records();
    let (spawn, pair) = (records[0], keypair(0x42));
    for (reason, epochs) in [
        (Reason::Move, vec![2]),
        (Reason::Restart, vec![2]),
        (Reason::Takeover, vec![3, 4, 9]),
    ] {
        for epoch in 2..10 {
            let statement = meshos_core::certificate::Statement {
                entity: entity(),
                epoch,
                node: spawn.node(),
                from_sequence: 0,
                digest: spawn.certificate.digest,
                reason,
            };
            let mid = if reason == Reason::Move { [1; 16] } else { [0; 16] };
            let next = OwnershipRecord::sign(statement, spawn.digest_of(), spawn.node(), mid, &pair).expect("whole");
            let may = next.follows(Some(&spawn), &[]).is_ok();
            let allowed = epochs.contains(&epoch) || (reason == Reason::Takeover && epoch > 2);
            assert_eq!(may, allowed, "{reason:?} in epoch {epoch}");
        }
    }
}

#[test]
fn a_lineage_says_who_owned_which_events() {
    let lineage = ownership::lineage();
    let spans = lineage.spans(9);
    let held: Vec<_> = spans
        .iter()
        .map(|span| (span.epoch, span.first_sequence, span.last_sequence))
        .collect();
    assert_eq!(held, [(1, 1, 3), (2, 4, 4), (3, 5, 4), (5, 5, 9)]);
    assert_eq!(lineage.highest().epoch(), 5);
    assert_eq!(lineage.of_epoch(4), None);
    assert_eq!(lineage.of_epoch(3), Some(&lineage.records()[2]));
    assert_eq!(lineage.certificates().len(), 4);
    let write = lineage.highest().write();
    assert_eq!(
        (write.table, of_entity_key(&write.key)),
        (Table::Ownership, Some((entity(), [5])))
    );
    assert_eq!(write.value, Some(lineage.highest().to_bytes()));
}
