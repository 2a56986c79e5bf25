//! One small mesh history with fixed keys, and the golden bytes made of it.
//!
//! Everything here is deterministic: an independent program can compute every byte from the formulas in the modules.
//! The entity is the seed 32 × 0x42, its first node 32 × 0x11, its second 32 × 0x22, its fork 32 × 0x33. The first node
//! emits three events and signs a checkpoint, the entity moves, the second node emits two more and signs another.

use std::fmt::Write as _;

use super::{envelopes, frames, meshes, ownership, tokens, trails};
use crate::bindings::DaemonBindings;
use crate::certificate::{Certificate, Reason, Statement};
use crate::chain::CausalChainBuilder;
use crate::checkpoint::Checkpoint;
use crate::config::{DaemonHostConfig, Durability, OnDivergence};
use crate::cursors::{Cursors, Receipt};
use crate::dead_letter::DeadLetter;
use crate::digest::{self, Digest};
use crate::due;
use crate::export::ChainExport;
use crate::fork::{ForkRecord, fork_entity};
use crate::horizon::sketch_bits;
use crate::id::{NodeId, Origin};
use crate::identity::Keypair;
use crate::journal::{Mark, Outcome, Pending, SnapshotRow, Step};
use crate::link::CausalLink;
use crate::name::ChannelName;
use crate::rows::{Table, Write};
use crate::segment::{self, Position, StoreId};
use crate::snapshot::SnapshotMeta;
use crate::stats::DaemonStats;
use crate::store::head;
use crate::stored::{self, SealedKey, StoredDaemon};
use crate::time::UnixMs;

/// State of the golden snapshot.
pub const STATE: &[u8] = b"state of a counter";

/// The first five payloads of the entity.
pub const PAYLOADS: [&[u8]; 5] = [b"hello", b"", &[0xa5; 1500], b"moved", b"and on"];

const FULL: &str = "sample pairs have their secret half";

/// The pair of the seed that repeats `byte`.
#[must_use]
pub fn keypair(byte: u8) -> Keypair {
    Keypair::from_seed(&[byte; 32])
}

/// What happened to the entity.
#[derive(Debug)]
pub struct History {
    /// The entity itself.
    pub entity: Keypair,
    /// Its nodes, in order.
    pub nodes: [Keypair; 2],
    /// A spawn at the first node, a move to the second after event 3.
    pub certificates: Vec<Certificate>,
    /// After events 3 and 5.
    pub checkpoints: Vec<Checkpoint>,
    /// Links of the five [`PAYLOADS`].
    pub links: Vec<CausalLink>,
    /// Digests before the first event and after each.
    pub digests: Vec<Digest>,
}

impl History {
    /// Makes the history.
    ///
    /// # Panics
    /// Never: every sample pair can sign.
    #[must_use]
    pub fn new() -> Self {
        let entity = keypair(0x42);
        let nodes = [keypair(0x11), keypair(0x22)];
        let id = entity.entity_id();
        let mut chain = CausalChainBuilder::new(id);
        let mut digests = vec![chain.digest()];
        let mut links = Vec::new();
        for (payload, horizon) in PAYLOADS
            .iter()
            .zip([0, sketch_bits(Origin::new(0xaaaa)), u64::MAX, 0, 1])
        {
            links.push(chain.append(payload, horizon).expect("five events fit"));
            digests.push(chain.digest());
        }
        let statement = |epoch, node: &Keypair, from_sequence: u64, reason| Statement {
            entity: id,
            epoch,
            node: node.entity_id(),
            from_sequence,
            digest: digests[usize::try_from(from_sequence).expect("small")],
            reason,
        };
        let spawn = Certificate::sign(statement(1, &nodes[0], 0, Reason::Spawn), &entity).expect(FULL);
        let moved = Certificate::sign(statement(2, &nodes[1], 3, Reason::Move), &nodes[0]).expect(FULL);
        let at = UnixMs::new(1_767_225_600_000);
        let first = Checkpoint::sign(id, 1, 3, digests[3], at, Digest::ZERO, &nodes[0]).expect(FULL);
        let at = UnixMs::new(at.get() + 1_500);
        let second = Checkpoint::sign(id, 2, 5, digests[5], at, first.digest_of(), &nodes[1]).expect(FULL);
        Self {
            entity,
            nodes,
            certificates: vec![spawn, moved],
            checkpoints: vec![first, second],
            links,
            digests,
        }
    }

    /// The events with their payloads.
    #[must_use]
    pub fn events(&self) -> Vec<(CausalLink, &'static [u8])> {
        self.links.iter().copied().zip(PAYLOADS).collect()
    }

    /// Everything of it, as a file has it.
    #[must_use]
    pub fn export(&self) -> ChainExport<'static> {
        ChainExport {
            entity: self.entity.entity_id(),
            certificates: self.certificates.clone(),
            checkpoints: self.checkpoints.clone(),
            events: self.events(),
        }
    }

    /// A fork after event 3, from a snapshot at event 2.
    ///
    /// # Panics
    /// Never: every sample pair can sign.
    #[must_use]
    pub fn fork(&self) -> (ForkRecord, CausalChainBuilder) {
        fork_entity(&self.entity, &keypair(0x33), 3, &self.digests[3], Some(2)).expect(FULL)
    }

    /// A snapshot at the end; its state is [`STATE`].
    #[must_use]
    pub fn snapshot(&self) -> SnapshotMeta {
        SnapshotMeta {
            kind: "counter".into(),
            schema: 3,
            entity: self.entity.entity_id(),
            epoch: 2,
            taken_at: UnixMs::new(1_767_225_602_000),
            head: self.links[4],
            digest: self.digests[5],
            cursors: cursors(),
            stats: DaemonStats {
                events_processed: 6,
                events_emitted: 5,
                duplicates: 4,
                errors: 3,
                snapshots_taken: 2,
                restarts: 1,
                dead_letters: 0,
            },
            bindings: bindings(),
            lineage: self.certificates.clone(),
        }
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

/// Three cursors of two origins, one with two receipts.
#[must_use]
pub fn cursors() -> Cursors {
    let mut cursors = Cursors::default();
    cursors.advance(Origin::new(0xaaaa), 0, 41);
    for sequence in [42, 44] {
        let digest = Digest::from_bytes([u8::try_from(sequence).expect("small"); 32]);
        let receipt = Receipt {
            sequence,
            epoch: 2,
            processed: sequence + 1,
            position: sequence + 2,
            digest,
        };
        cursors.keep_receipt(Origin::new(0xaaaa), 0, receipt);
    }
    cursors.advance(Origin::new(0xaaaa), 7, u64::MAX);
    cursors.advance(Origin::new(0xbbbb), 0, 1);
    cursors
}

/// Three subscriptions: without a token, with an empty one, with one of three bytes.
///
/// # Panics
/// Never: the names are good and the tokens short.
#[must_use]
pub fn bindings() -> DaemonBindings {
    let mut bindings = DaemonBindings::default();
    for (publisher, channel, token) in [
        (1, "sensors/lidar", None),
        (1, "sensors/radar", Some(Vec::new())),
        (2, "sensors/lidar", Some(vec![0, 0xff, 0x7f])),
    ] {
        let channel = ChannelName::new(channel).expect("a good name");
        bindings
            .record(NodeId::new(publisher), channel, token)
            .expect("a short token");
    }
    bindings
}

/// What version 1 made of what is due, which is written no more.
const DUE_V1: &[&str] = &[
    "0117cb79fb2b4120f2b1ec65e4198d6e08b28e813feb01e4a400839b85e18080",
    "ce0200000000000000050000006d6f766564726fc37f",
];

/// What version 1 of the row of a daemon was, which is written no more.
const STORED_DAEMON_V1: &[&str] = &[
    "010700636f756e7465726400000000000000102700000000010010270000000000040000000000000000000001015555",
    "55555555555555555555555555555555555555555555badd63e9ee83cb9d9cb7d69c9844ce9f092f1cf594e47f476266",
    "7224f6cea79fae0d88cf479ed37a253ac91cd70d37e335be240e",
];

/// Version of a format that [`golden`] has.
#[must_use]
pub fn version(name: &str) -> u8 {
    match name {
        "stored_daemon" => stored::VERSION,
        "due" => due::VERSION,
        _ => 1,
    }
}

/// Golden bytes of every format: the name of the format, and one good encoding.
///
/// # Panics
/// Never: the sample payloads are short.
#[must_use]
pub fn golden() -> Vec<(&'static str, Vec<u8>)> {
    let history = History::new();
    let mut all = vec![
        ("link", history.links[1].to_bytes().to_vec()),
        ("certificate", history.certificates[1].to_bytes()),
        ("checkpoint", history.checkpoints[1].to_bytes()),
        ("fork_record", history.fork().0.to_bytes()),
        ("cursors", cursors().encode()),
        ("bindings", bindings().encode()),
        ("snapshot", history.snapshot().to_bytes(STATE)),
        ("chain_export", history.export().encode().expect("short payloads")),
        ("admin_envelope", envelopes::admin().to_bytes()),
        ("ice_envelope", envelopes::ice().to_bytes()),
        ("blast_radius", envelopes::ice().blast.to_bytes()),
        ("steps", rows(Table::Journal)),
        ("outputs", rows(Table::Outputs)),
        ("snapshot_row", snapshot_row().to_bytes()),
        ("segment", segment()),
        ("store_head", store_head().to_bytes()),
        ("node_key", head::key_to_bytes(&[0x11; 32]).to_vec()),
        ("stored_daemon", stored_daemon().to_bytes()),
        ("dead_letter", dead_letter().to_bytes()),
        ("frames", frames::golden()),
        ("search_frames", frames::golden_search()),
        ("sender", frames::sender().to_bytes()),
        ("reservation", frames::reservation()),
        ("due", frames::due().to_bytes()),
        ("permission_token", tokens::token().to_bytes()),
        ("revocation", tokens::stated().to_bytes()),
        ("handed_key", tokens::handed_key().to_bytes()),
        ("sealed_payload", tokens::sealed_payload()),
        ("channel_frames", tokens::channel_frame_bytes()),
        ("publish_frames", tokens::publish_frame_bytes()),
    ];
    all.extend(trails::files());
    all.push(("heartbeat", meshes::heartbeat().to_bytes()));
    all.push(("frame", meshes::signed()));
    all.push(("tagged_frame", meshes::tagged()));
    all.push(("ownership_records", ownership::record_bytes()));
    all.push(("ownership_frames", ownership::frame_bytes()));
    let mut parcel = crate::parcel::Packer::new();
    for message in [&b"one"[..], b"\x00", b"three"] {
        parcel.put(|out| out.extend(message));
    }
    all.push(("parcel", parcel.body().to_vec()));
    all.push(("remote_frames", super::remote::frame_bytes()));
    all.push(("remote_outputs", super::remote::outputs().to_bytes()));
    all.push(("feed_frames", super::remote::feed_frame_bytes()));
    all.push(("move_frames", super::move_frames::frame_bytes()));
    all.push(("move_asides", super::move_frames::aside_bytes()));
    all.push(("move_rows", super::move_frames::row_bytes()));
    all.push(("image", super::images::image()));
    all.push(("image_since", super::images::since()));
    all.push(("image_chunk", super::images::chunk()));
    all
}

/// A journal of the entity of the history: its first three outputs, of two events, and one that was passed over.
#[must_use]
pub fn journalled() -> Vec<Write> {
    let history = History::new();
    let entity = history.entity.entity_id();
    let mut pending = Pending::after(entity, Mark::start(&entity, 0, history.digests[0]), 1);
    let input = |sequence| CausalLink {
        origin: Origin::new(7),
        horizon: 0,
        sequence,
        parent: 0,
    };
    let step = |sequence, outputs, digest: usize| Step {
        outcome: Outcome::Processed,
        receipt: sequence == 1,
        link: input(sequence),
        stream: 0,
        received_ns: 1_000 + sequence,
        payload: b"in",
        outputs,
        digest: history.digests[digest],
    };
    let events = history.events();
    for (link, payload) in &events[..2] {
        pending.output(link, payload);
    }
    pending.step(&step(1, 2, 2));
    pending.step(&Step {
        outcome: Outcome::PassedOver,
        ..step(2, 0, 2)
    });
    pending.output(&events[2].0, events[2].1);
    pending.step(&step(5, 1, 3));
    pending.take()
}

fn rows(table: Table) -> Vec<u8> {
    let mut writes = journalled().into_iter().filter(|write| write.table == table);
    writes
        .next()
        .and_then(|write| write.value)
        .expect("it has one row of each")
}

/// Where a snapshot is.
#[must_use]
pub fn snapshot_row() -> SnapshotRow {
    let history = History::new();
    let entity = history.entity.entity_id();
    SnapshotRow {
        name: digest::plain(STATE),
        size: STATE.len() as u64,
        mark: Mark {
            step: 3,
            sequence: 3,
            digest: history.digests[3],
            ..Mark::start(&entity, 0, history.digests[0])
        },
        processed: 2,
        epoch: 1,
        taken_at: UnixMs::new(7),
    }
}

/// What the golden store is.
#[must_use]
pub fn store_head() -> head::Head {
    head::Head {
        id: STORE,
        node: keypair(0x11).entity_id(),
        made_at: UnixMs::new(7),
    }
}

/// What a store has of the entity itself.
///
/// # Panics
/// Never: sample pairs have their secret half.
#[must_use]
pub fn stored_daemon() -> StoredDaemon {
    let sealed = SealedKey::seal(&keypair(0x42), &keypair(0x11), [0x55; 24]);
    StoredDaemon {
        kind: "counter".to_owned(),
        config: DaemonHostConfig {
            auto_snapshot_interval: 100,
            durability: Durability::Journal,
            on_divergence: OnDivergence::Continue,
            attempts_max: 7,
            snapshots_max: 3,
            outputs_age_max_ms: Some(86_400_000),
            ..DaemonHostConfig::default()
        },
        runs: true,
        key: Some(sealed.expect(FULL)),
    }
}

/// An event that was passed over.
#[must_use]
pub fn dead_letter() -> DeadLetter {
    DeadLetter {
        link: CausalLink {
            origin: Origin::new(7),
            horizon: 0,
            sequence: 3,
            parent: 0,
        },
        stream: 0,
        received_ns: 1_800_000_000_000_000_003,
        at: UnixMs::new(1_800_000_000_100),
        attempts: 5,
        retry: false,
        exception: "ValueError".to_owned(),
        message: "not a number".to_owned(),
        payload: b"poison".to_vec(),
    }
}

/// Which store the golden file of commits is of.
pub const STORE: StoreId = [0x44; 16];

/// A file with two commits: the journal, then a row that goes.
#[must_use]
pub fn segment() -> Vec<u8> {
    let head = segment::Head {
        store: STORE,
        ordinal: 1,
        after: Position::start(&STORE),
    };
    let mut bytes = head.to_bytes();
    let after = segment::put_frame(&head, &head.after, journalled().iter(), &mut bytes);
    let second = [Write::remove(Table::Node, b"name".to_vec())];
    segment::put_frame(&head, &after, second.iter(), &mut bytes);
    bytes
}

/// The values behind the golden bytes, for programs in other languages: a JSON object of texts, one a line.
/// Digests, keys and records are hexadecimal bytes; handles and sketches are numbers of 16 hexadecimal digits.
#[must_use]
pub fn golden_json() -> String {
    let history = History::new();
    let (record, mut forked) = history.fork();
    let mut rows: Vec<(String, String)> = Vec::new();
    let keys = [
        ("entity", &history.entity),
        ("node1", &history.nodes[0]),
        ("node2", &history.nodes[1]),
    ];
    for (name, pair) in keys.into_iter().chain([("child", &keypair(0x33))]) {
        rows.push((format!("{name}.id"), pair.entity_id().to_hex()));
        rows.push((format!("{name}.origin"), pair.origin().to_string()));
        rows.push((format!("{name}.node_id"), pair.node_id().to_string()));
    }
    for (n, digest) in history.digests.iter().enumerate() {
        rows.push((format!("digest{n}"), digest.to_string()));
    }
    for (link, payload) in history.events() {
        rows.push((format!("link{}", link.sequence), hex(&link.to_bytes())));
        rows.push((format!("payload{}", link.sequence), hex(payload)));
    }
    for checkpoint in &history.checkpoints {
        rows.push((
            format!("checkpoint{}.digest", checkpoint.epoch),
            checkpoint.digest_of().to_string(),
        ));
    }
    rows.push(("fork.lineage".into(), record.lineage().to_string()));
    rows.push(("fork.digest0".into(), forked.digest().to_string()));
    rows.push(("fork.genesis".into(), hex(&forked.head().to_bytes())));
    let link = forked.append(PAYLOADS[0], 0).expect("one event fits");
    rows.push(("fork.link1".into(), hex(&link.to_bytes())));
    rows.push(("fork.digest1".into(), forked.digest().to_string()));
    rows.push((
        "sketch.aaaa".into(),
        format!("{:016x}", sketch_bits(Origin::new(0xaaaa))),
    ));
    rows.push(("cursors.sketch".into(), format!("{:016x}", cursors().sketch())));
    let channel = ChannelName::new("sensors/lidar").expect("a good name");
    rows.push(("channel.sensors/lidar".into(), format!("{:016x}", channel.hash())));
    for (number, grant) in tokens::token().grants().iter().enumerate() {
        rows.push((format!("grant{number}.digest"), grant.digest().to_string()));
    }
    rows.push(("snapshot.state".into(), hex(STATE)));
    rows.push(("file.stored_daemon".into(), STORED_DAEMON_V1.concat()));
    rows.push(("file.due".into(), DUE_V1.concat()));
    rows.extend(golden().into_iter().map(|(name, bytes)| match version(name) {
        1 => (format!("file.{name}"), hex(&bytes)),
        version => (format!("file.{name}_v{version}"), hex(&bytes)),
    }));

    let lines: Vec<_> = rows
        .iter()
        .map(|(name, value)| format!("  \"{name}\": \"{value}\""))
        .collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a text grows");
        text
    })
}
