//! One move in which everybody has a part, and what machines decide as short words.

use std::time::Duration;

use meshos_core::digest::{self, Digest};
use meshos_core::id::{EntityId, Origin};
use meshos_core::move_frame::{Body, MoveFrame};
use meshos_core::move_rows::{Frozen, Item, MoveOrder, Queued, Terms};
use meshos_core::ownership::{MigrationId, OwnershipRecord};
use meshos_core::rows::{Table, Write};
use meshos_core::testing::samples::keypair;
use meshos_core::time::UnixMs;

pub const START: Duration = Duration::from_secs(100);
pub const WALL: UnixMs = UnixMs::new(1_000_000);
pub const MID: MigrationId = [7; 16];
pub const OTHER_MID: MigrationId = [8; 16];

pub fn node(seed: u8) -> EntityId {
    keypair(seed).entity_id()
}

pub fn source() -> EntityId {
    node(1)
}

pub fn target() -> EntityId {
    node(2)
}

pub fn orchestrator() -> EntityId {
    node(3)
}

pub fn stranger() -> EntityId {
    node(4)
}

pub fn entity() -> EntityId {
    node(9)
}

pub fn order() -> MoveOrder {
    let order = MoveOrder {
        mid: MID,
        entity: entity(),
        epoch: 1,
        source: source(),
        target: target(),
        orchestrator: orchestrator(),
        not_after: WALL.plus(Duration::from_secs(30)),
        freeze_ms: 0,
        size: 10,
        kind: "counter".to_owned(),
        terms: Terms::default(),
        signer: orchestrator(),
        signature: [0; 64],
    };
    order.signed(&keypair(3)).unwrap()
}

/// The record of the spawn.
pub fn spawn() -> OwnershipRecord {
    OwnershipRecord::spawn(&keypair(9), source(), digest::genesis(&entity(), &Digest::ZERO)).unwrap()
}

pub fn frozen() -> Frozen {
    Frozen {
        sequence: 5,
        head: Digest::from_bytes([5; 32]),
        image: Digest::from_bytes([6; 32]),
    }
}

/// The record of the move.
pub fn moved() -> OwnershipRecord {
    spawn().moved(target(), MID, 5, frozen().head, &keypair(1)).unwrap()
}

/// A takeover by a stranger, which wins over the move.
pub fn taken_over() -> OwnershipRecord {
    moved()
        .taken_over(stranger(), 0, spawn().certificate.digest, &keypair(9))
        .unwrap()
}

pub fn queued(sequence: u64) -> Queued {
    Queued {
        from: node(20),
        origin: Origin::new(20),
        stream: 0,
        sequence,
        prev: sequence - 1,
        payload: vec![7; 3],
    }
}

pub fn frame_of(mid: MigrationId, body: Body<'static>) -> MoveFrame<'static> {
    MoveFrame {
        mid,
        entity: entity(),
        epoch: 1,
        step: 1,
        body,
    }
}

pub fn named(id: EntityId) -> &'static str {
    match id {
        _ if id == source() => "S",
        _ if id == target() => "T",
        _ if id == orchestrator() => "O",
        _ => "X",
    }
}

/// A message as a short word.
pub fn word(to: EntityId, frame: &MoveFrame<'_>) -> String {
    let word = match &frame.body {
        Body::Prepare(_) => "Prepare".to_owned(),
        Body::Accept => "Accept".to_owned(),
        Body::Reject(reject) => format!("Reject({:?})", reject.reason),
        Body::Freeze => "Freeze".to_owned(),
        Body::Final { queue, .. } => format!("Final({})", queue.len()),
        Body::Prepared { idx, .. } => format!("Prepared({idx})"),
        Body::Commit { from, tail, .. } => format!("Commit({from}+{})", tail.len()),
        Body::Committed => "Committed".to_owned(),
        Body::Retire => "Retire".to_owned(),
        Body::Abort => "Abort".to_owned(),
        Body::AbortReq => "AbortReq".to_owned(),
        Body::Outcome { outcome, .. } => {
            outcome.map_or("Outcome(unknown)".to_owned(), |outcome| format!("{outcome:?}!"))
        }
        Body::Pull { .. } => "Pull".to_owned(),
        Body::Chunk { .. } => "Chunk".to_owned(),
        Body::Aside(_) => "Aside".to_owned(),
    };
    let other = if frame.mid == MID { "" } else { "'" };
    format!("{word}{other}>{}", named(to))
}

/// Rows as a short word.
pub fn rows(writes: &[Write]) -> String {
    let word = |write: &Write| match (&write.table, &write.value) {
        (Table::Ownership, _) => "record".to_owned(),
        (_, Some(value)) => match Item::decode(&write.key, value).unwrap().2 {
            Item::Intent(_) => "intent",
            Item::Prepared(_) => "prepared",
            Item::Done(_) => "done",
            Item::Retired => "retired",
            Item::Ordered(_) => "ordered",
            Item::Ended(..) => "ended",
        }
        .to_owned(),
        (_, None) => format!("-{}", write.key[32]),
    };
    format!("keep[{}]", writes.iter().map(word).collect::<Vec<_>>().join(" "))
}

/// Compares what was decided with a table, and says which cells differ.
pub fn compare(found: &[(String, String, String)], table: &[(&str, &str, &str)]) {
    let mut wrong = Vec::new();
    for (phase, signal, outcome) in found {
        let listed = table.iter().find(|(of, on, _)| of == phase && on == signal);
        let expected = listed.map_or("-", |(_, _, outcome)| *outcome);
        if outcome != expected {
            wrong.push(format!("(\"{phase}\", \"{signal}\", \"{outcome}\"), not {expected}"));
        }
    }
    for (phase, signal, _) in table {
        let exists = found.iter().any(|(of, on, _)| of == phase && on == signal);
        assert!(exists, "there is no {phase}, {signal}");
    }
    assert!(wrong.is_empty(), "{} cells differ:\n{}", wrong.len(), wrong.join("\n"));
}
