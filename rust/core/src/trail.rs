//! A trail: records in a file, each bound to all before it.
//!
//! ```text
//! head:   magic "MOSR" | version u8 = 1 | kind u8 | 2 zero bytes | trail id, 16 random bytes | unix_ms u64
//! entry:  len u32 | len with every bit flipped, u32 | body of len bytes | digest, 32 bytes
//! body:   tag u8 | seq u64 | unix_ms u64 | fields
//! d(0) = derive_key("meshos 2026 trail genesis v1")(head)
//! d(n) = derive_key("meshos 2026 trail entry v1")(d(n-1) ‖ body n)
//! ```
//! Tag 0 is a signed head: public key, 32 bytes, and its signature over `"meshos.trail.v1\0" ‖ d(n-1) ‖ seq`. Tags 1 to 4
//! are records of commands, lines, failures and actions. Numbers are little endian; a text is its length as u32, then
//! UTF-8; what may be absent is a mark of 0 or 1, then the value. `docs/records.md` has every field.
//!
//! Invariants
//! * A changed, removed or moved entry breaks the digest of the first entry at or after it.
//! * A cut tail is found with the digest of the last entry, known from elsewhere, or up to the last signed head.
//! * What a writer that died left of its last entry is told from an entry whose length was changed: that stands there
//!   twice.
//! * A trail keeps records of one kind. Whoever continues it leaves a mark of its own (tag 5, the run's random id).
//! * Whatever is written can be read.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::blast::NAME_BYTES_MAX;
use crate::codec::{DecodeError, Fault, Put, Reader, Unwritable};
use crate::command::{AdminEvent, Command, IceAction, Order, Verdict};
use crate::digest::{self, Context, Digest};
use crate::envelope::{CHAINS_MAX, admin_bytes, ice_bytes, read_admin, read_ice};
use crate::id::{EntityId, NodeId, Origin};
use crate::identity::{self, Keypair};
use crate::refusal;
use crate::signal::LogLevel;
use crate::status::{AuditRecord, Disposed, Disposition, Failure, FailureRecord, FailureSource, LogRecord, Part};
use crate::time::UnixMs;

/// First bytes of every file.
pub const MAGIC: &[u8; 4] = b"MOSR";
/// Version of the format.
pub const VERSION: u8 = 1;
/// Bytes of the head.
pub const HEAD_SIZE: usize = 32;
/// Bytes of one body.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Bytes of one text.
pub const TEXT_BYTES_MAX: usize = 256 << 10;
/// Operators of one command.
pub const OPERATORS_MAX: usize = 4096;
/// Bytes before a body.
pub const LENGTH_SIZE: usize = 8;
/// Bytes of one entry.
pub const ENTRY_BYTES_MAX: usize = LENGTH_SIZE + BODY_BYTES_MAX + 32;

const SIGNED: &[u8] = b"meshos.trail.v1\0";

/// What a trail keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Commands.
    Audit = 1,
    /// Lines of the log.
    Log = 2,
    /// Failures.
    Failure = 3,
    /// What became of actions.
    Action = 4,
}

/// What stands at the beginning of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What it keeps.
    pub kind: Kind,
    /// Random; tells trails apart.
    pub trail_id: [u8; 16],
    /// When it was begun.
    pub at: UnixMs,
}

/// What became of one action, with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionEntry {
    /// Its number.
    pub seq: u64,
    /// When.
    pub at: UnixMs,
    /// What.
    pub disposed: Disposed,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Somebody vouches for everything before.
    Signed {
        /// Number of the record before.
        seq: u64,
        /// When.
        at: UnixMs,
        /// Who.
        signer: EntityId,
        /// Their signature.
        signature: [u8; 64],
    },
    /// A command.
    Audit(AuditRecord),
    /// A line of the log.
    Log(LogRecord),
    /// A failure.
    Failure(FailureRecord),
    /// What became of an action.
    Action(ActionEntry),
    /// Another run continues the trail.
    Run {
        /// Random for each start.
        run_id: u64,
        /// When.
        at: UnixMs,
    },
}

impl Kind {
    /// Its name, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Log => "log",
            Self::Failure => "failure",
            Self::Action => "action",
        }
    }
}

impl Head {
    /// Its one encoding.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEAD_SIZE] {
        let mut bytes = [0; HEAD_SIZE];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4] = VERSION;
        bytes[5] = self.kind as u8;
        bytes[8..24].copy_from_slice(&self.trail_id);
        bytes[24..].copy_from_slice(&self.at.get().to_le_bytes());
        bytes
    }

    /// Reads it from the beginning of a file.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let start = reader.clone();
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(start.fault(Fault::Magic));
        }
        reader.version_u8(VERSION)?;
        let at = reader.clone();
        let kind = match reader.u8()? {
            1 => Kind::Audit,
            2 => Kind::Log,
            3 => Kind::Failure,
            4 => Kind::Action,
            _ => return Err(at.fault(Fault::Invalid { field: "kind" })),
        };
        if reader.u16()? != 0 {
            return Err(at.fault(Fault::Invalid { field: "reserved" }));
        }
        Ok(Self {
            kind,
            trail_id: reader.array()?,
            at: UnixMs::new(reader.u64()?),
        })
    }

    /// Digest before the first entry.
    #[must_use]
    pub fn digest(&self) -> Digest {
        digest::derive(Context::TrailGenesis, &[&self.to_bytes()])
    }
}

fn put_option(bytes: &mut Vec<u8>, value: Option<&[u8]>) {
    bytes.put_u8(u8::from(value.is_some()));
    bytes.put(value.unwrap_or_default());
}

fn level(level: LogLevel) -> u8 {
    match level {
        LogLevel::Trace => 0,
        LogLevel::Debug => 1,
        LogLevel::Info => 2,
        LogLevel::Warn => 3,
        LogLevel::Error => 4,
    }
}

const PARTS: [Part; 7] = [
    Part::Action,
    Part::Callback,
    Part::Probe,
    Part::Recovery,
    Part::Appender,
    Part::Migration,
    Part::Loop,
];
const LEVELS: [LogLevel; 5] = [
    LogLevel::Trace,
    LogLevel::Debug,
    LogLevel::Info,
    LogLevel::Warn,
    LogLevel::Error,
];
const DISPOSITIONS: [Disposition; 4] = [
    Disposition::Dispatched,
    Disposition::Failed,
    Disposition::Gated,
    Disposition::Superseded,
];
const ACTION_KINDS: [&str; 9] = [
    "start_daemon",
    "stop_daemon",
    "apply_backoff",
    "pull_replica",
    "drop_replica",
    "request_placement",
    "request_eviction",
    "mark_avoid",
    "commit_maintenance_transition",
];

/// The stable name of an action, as records keep it; `None`: there is no such action.
#[must_use]
pub fn action_kind(name: &str) -> Option<&'static str> {
    ACTION_KINDS.iter().find(|known| **known == name).copied()
}

/// The stable name of a refusal, as records keep it; `None`: there is no such refusal.
#[must_use]
pub fn refusal_kind(name: &str) -> Option<&'static str> {
    refusal::KINDS.iter().find(|known| **known == name).copied()
}

fn place<T: PartialEq>(list: &[T], item: &T) -> u8 {
    let place = list.iter().position(|known| known == item);
    u8::try_from(place.expect("every variant is in its list")).expect("lists are short")
}

fn item<T: Copy>(reader: &mut Reader<'_>, list: &[T], field: &'static str) -> Result<T, DecodeError> {
    let at = reader.clone();
    let place = usize::from(reader.u8()?);
    list.get(place)
        .copied()
        .ok_or_else(|| at.fault(Fault::Invalid { field }))
}

impl Entry {
    /// Number of a record; of a signature that of the record before, of a run 0.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        match self {
            Self::Signed { seq, .. } => *seq,
            Self::Audit(record) => record.seq,
            Self::Log(record) => record.seq,
            Self::Failure(record) => record.seq,
            Self::Action(record) => record.seq,
            Self::Run { .. } => 0,
        }
    }

    /// Which records it is one of; `None`: it is no record.
    #[must_use]
    pub const fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::Signed { .. } | Self::Run { .. } => return None,
            Self::Audit(_) => Kind::Audit,
            Self::Log(_) => Kind::Log,
            Self::Failure(_) => Kind::Failure,
            Self::Action(_) => Kind::Action,
        })
    }

    /// Checks that it can be written, and is then read again.
    ///
    /// # Errors
    /// [`Unwritable`].
    pub fn validate(&self) -> Result<(), Unwritable> {
        const TEXT: &str = "must be at most 256 KiB of UTF-8";
        let fits = |text: &str| text.len() <= TEXT_BYTES_MAX;
        match self {
            Self::Signed { .. } | Self::Run { .. } => Ok(()),
            Self::Audit(record) => {
                let command = &record.command;
                let order = match &command.order {
                    Order::Admin(AdminEvent::DropReplicas { chains, .. }) => chains.len() <= CHAINS_MAX,
                    Order::Ice(IceAction::ForceRestartDaemon { name, .. }) => name.len() <= NAME_BYTES_MAX,
                    Order::Admin(_) | Order::Ice(_) => true,
                };
                Unwritable::first(&[
                    (
                        "event",
                        order,
                        "must name at most 4096 chains, and a daemon in at most 255 bytes",
                    ),
                    (
                        "operator_ids",
                        command.operators.len() <= OPERATORS_MAX,
                        "must be at most 4096",
                    ),
                    ("reason", fits(&command.reason), TEXT),
                ])
            }
            Self::Log(record) => Unwritable::first(&[("message", fits(&record.message), TEXT)]),
            Self::Failure(record) => {
                let failure = &record.failure;
                let traceback = failure.traceback.as_deref().is_none_or(fits);
                Unwritable::first(&[
                    ("source", fits(&failure.source.name), TEXT),
                    ("reason", fits(&failure.reason), TEXT),
                    ("traceback", traceback, TEXT),
                ])
            }
            Self::Action(record) => Unwritable::first(&[("reason", fits(&record.disposed.reason), TEXT)]),
        }
    }

    /// Its body. Whether an appender could not keep it is not part of it: it is being kept.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(192);
        self.put(&mut bytes);
        bytes
    }

    fn put(&self, bytes: &mut Vec<u8>) {
        let mut start = |tag: u8, seq: u64, at: UnixMs| {
            bytes.put_u8(tag);
            bytes.put_u64(seq);
            bytes.put_u64(at.get());
        };
        match self {
            Self::Signed {
                seq,
                at,
                signer,
                signature,
            } => {
                start(0, *seq, *at);
                bytes.put(signer.as_bytes());
                bytes.put(signature);
            }
            Self::Audit(record) => {
                start(1, record.seq, record.at);
                put_command(bytes, &record.command);
                bytes.put_u64(record.times);
            }
            Self::Log(record) => {
                start(2, record.seq, record.at);
                bytes.put_u8(level(record.level));
                bytes.put_u64(record.node.get());
                bytes.put_option_u64(record.daemon.map(Origin::get));
                bytes.put_str_u32(&record.message);
            }
            Self::Failure(record) => {
                start(3, record.seq, record.at);
                let source = &record.failure.source;
                bytes.put_u8(place(&PARTS, &source.part));
                bytes.put_str_u32(&source.name);
                bytes.put_option_u64(source.target);
                bytes.put_option_u64(source.action_id);
                put_option(bytes, source.envelope_id.as_ref().map(|id| &id[..]));
                bytes.put_str_u32(&record.failure.reason);
                bytes.put_u8(u8::from(record.failure.traceback.is_some()));
                if let Some(traceback) = &record.failure.traceback {
                    bytes.put_str_u32(traceback);
                }
            }
            Self::Action(record) => {
                start(4, record.seq, record.at);
                bytes.put_u64(record.disposed.action_id);
                bytes.put_u8(place(&ACTION_KINDS, &record.disposed.kind));
                bytes.put_u8(place(&DISPOSITIONS, &record.disposed.disposition));
                bytes.put_str_u32(&record.disposed.reason);
                let retry = record.disposed.retry_after;
                bytes.put_option_u64(retry.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)));
            }
            Self::Run { run_id, at } => start(5, *run_id, *at),
        }
    }

    /// Reads a body, and nothing behind it.
    ///
    /// # Errors
    /// [`DecodeError`]: it is not the one encoding of an entry.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let start = reader.clone();
        let tag = reader.u8()?;
        let (seq, at) = (reader.u64()?, UnixMs::new(reader.u64()?));
        let entry = match tag {
            0 => Self::Signed {
                seq,
                at,
                signer: EntityId::from_bytes(reader.array()?),
                signature: reader.array()?,
            },
            1 => Self::Audit(AuditRecord {
                seq,
                at,
                command: read_command(&mut reader)?,
                times: reader.u64()?,
                chain_pending: false,
            }),
            2 => Self::Log(LogRecord {
                seq,
                at,
                level: item(&mut reader, &LEVELS, "level")?,
                node: NodeId::new(reader.u64()?),
                daemon: reader.option_u64()?.map(Origin::new),
                message: Arc::from(reader.str_u32(TEXT_BYTES_MAX)?),
                chain_pending: false,
            }),
            3 => Self::Failure(FailureRecord {
                seq,
                at,
                failure: read_failure(&mut reader)?,
                chain_pending: false,
            }),
            4 => Self::Action(ActionEntry {
                seq,
                at,
                disposed: Disposed {
                    action_id: reader.u64()?,
                    kind: item(&mut reader, &ACTION_KINDS, "action kind")?,
                    disposition: item(&mut reader, &DISPOSITIONS, "disposition")?,
                    reason: Arc::from(reader.str_u32(TEXT_BYTES_MAX)?),
                    retry_after: reader.option_u64()?.map(Duration::from_millis),
                },
            }),
            5 => Self::Run { run_id: seq, at },
            _ => return Err(start.fault(Fault::Invalid { field: "tag" })),
        };
        reader.expect_end()?;
        if entry.to_bytes() != body {
            return Err(start.fault(Fault::Invalid { field: "encoding" }));
        }
        Ok(entry)
    }

    /// Appends the entry as it stands in the file; returns the digest after it.
    ///
    /// # Errors
    /// [`Unwritable`]: nothing was appended.
    pub fn put_frame(&self, bytes: &mut Vec<u8>, before: &Digest) -> Result<Digest, Unwritable> {
        self.validate()?;
        let start = bytes.len();
        bytes.put(&[0; LENGTH_SIZE]);
        self.put(bytes);
        let body = start + LENGTH_SIZE;
        let length = bytes.len() - body;
        if length > BODY_BYTES_MAX {
            bytes.truncate(start);
            let rule = "must have at most 1 MiB in all";
            return Err(Unwritable { field: "record", rule });
        }
        let length = u32::try_from(length).expect("it was compared");
        bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
        bytes[start + 4..body].copy_from_slice(&(!length).to_le_bytes());
        let after = digest::derive(Context::TrailEntry, &[before.as_bytes(), &bytes[body..]]);
        bytes.put(after.as_bytes());
        Ok(after)
    }

    /// The entry as it stands in the file, and the digest after it.
    ///
    /// # Errors
    /// [`Unwritable`].
    pub fn frame(&self, before: &Digest) -> Result<(Vec<u8>, Digest), Unwritable> {
        let mut bytes = Vec::with_capacity(256);
        let after = self.put_frame(&mut bytes, before)?;
        Ok((bytes, after))
    }

    /// Vouches for everything up to `before`.
    ///
    /// # Errors
    /// The key is public only.
    pub fn sign(before: &Digest, seq: u64, at: UnixMs, key: &Keypair) -> Result<Self, identity::IdentityError> {
        Ok(Self::Signed {
            seq,
            at,
            signer: key.entity_id(),
            signature: key.sign(&signed_bytes(before, seq))?,
        })
    }
}

fn signed_bytes(before: &Digest, seq: u64) -> Vec<u8> {
    let mut bytes = SIGNED.to_vec();
    bytes.put(before.as_bytes());
    bytes.put_u64(seq);
    bytes
}

fn put_command(bytes: &mut Vec<u8>, command: &Command) {
    let (class, order) = match &command.order {
        Order::Admin(event) => (1, admin_bytes(event)),
        Order::Ice(action) => (2, ice_bytes(action)),
    };
    bytes.put_u8(class);
    bytes.put_count_u32(order.len());
    bytes.put(&order);
    match &command.verdict {
        Verdict::Accepted => bytes.put_u8(1),
        Verdict::Open => bytes.put_u8(2),
        Verdict::Rejected { kind } => {
            bytes.put_u8(3);
            bytes.put_str_u32(kind);
        }
    }
    bytes.put_count_u32(command.operators.len());
    command.operators.iter().for_each(|operator| bytes.put_u64(*operator));
    bytes.put_str_u32(&command.reason);
    put_option(bytes, command.envelope_id.as_ref().map(|id| &id[..]));
    bytes.put_option_u64(command.issued_at.map(UnixMs::get));
}

fn read_id(reader: &mut Reader<'_>) -> Result<Option<[u8; 16]>, DecodeError> {
    let at = reader.clone();
    match reader.u8()? {
        0 => Ok(None),
        1 => reader.array().map(Some),
        _ => Err(at.fault(Fault::Invalid { field: "option" })),
    }
}

fn read_command(reader: &mut Reader<'_>) -> Result<Command, DecodeError> {
    let at = reader.clone();
    let class = reader.u8()?;
    let length = reader.count_below(1, BODY_BYTES_MAX)?;
    let mut inner = Reader::new(reader.take(length)?);
    let order = match class {
        1 => Order::Admin(read_admin(&mut inner)?),
        2 => Order::Ice(read_ice(&mut inner)?),
        _ => return Err(at.fault(Fault::Invalid { field: "class" })),
    };
    inner.expect_end()?;
    let at = reader.clone();
    let verdict = match reader.u8()? {
        1 => Verdict::Accepted,
        2 => Verdict::Open,
        3 => {
            let kind = reader.str_u32(64)?;
            let kind = refusal_kind(kind).ok_or_else(|| at.fault(Fault::Invalid { field: "refusal" }))?;
            Verdict::Rejected { kind }
        }
        _ => return Err(at.fault(Fault::Invalid { field: "verdict" })),
    };
    let count = reader.count_below(8, OPERATORS_MAX)?;
    let mut operators = Vec::with_capacity(count);
    for _ in 0..count {
        operators.push(reader.u64()?);
    }
    Ok(Command {
        order,
        verdict,
        operators,
        reason: reader.str_u32(TEXT_BYTES_MAX)?.to_owned(),
        envelope_id: read_id(reader)?,
        issued_at: reader.option_u64()?.map(UnixMs::new),
    })
}

fn read_failure(reader: &mut Reader<'_>) -> Result<Failure, DecodeError> {
    Ok(Failure {
        source: FailureSource {
            part: item(reader, &PARTS, "part")?,
            name: Arc::from(reader.str_u32(TEXT_BYTES_MAX)?),
            target: reader.option_u64()?,
            action_id: reader.option_u64()?,
            envelope_id: read_id(reader)?,
        },
        reason: Arc::from(reader.str_u32(TEXT_BYTES_MAX)?),
        traceback: match reader.u8()? {
            0 => None,
            1 => Some(Arc::from(reader.str_u32(TEXT_BYTES_MAX)?)),
            _ => return Err(reader.fault(Fault::Invalid { field: "option" })),
        },
    })
}

/// What a whole trail proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    /// What it begins with.
    pub head: Head,
    /// Records in it.
    pub records: u64,
    /// Number of the first record; 0: none.
    pub first_seq: u64,
    /// Number of the last record; 0: none.
    pub last_seq: u64,
    /// Digest after the last entry.
    pub digest: Digest,
    /// Records before the last signed head of the signer that was asked for.
    pub signed_through: u64,
    /// Bytes up to the end of the last whole entry.
    pub bytes: u64,
}

/// Where something is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The entry, from 1; 0: the head of the file.
    pub entry: u64,
    /// The record that it is, or that comes next, from 1.
    pub record: u64,
    /// Where the entry begins.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} (entry {}, byte {})", self.record, self.entry, self.offset)
    }
}

/// What is wrong with a trail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrailError {
    /// An entry cannot be read.
    #[error("{place}: {error}")]
    Unreadable {
        /// Which.
        place: Place,
        /// Why, and from which byte on.
        error: DecodeError,
    },
    /// An entry is not bound to what stands before it: it, or something before it, was changed, removed or moved.
    #[error("{place} is not bound to what stands before it")]
    Broken {
        /// Which.
        place: Place,
        /// The first bytes of the trail's id.
        trail: u64,
        /// What its digest should be.
        expected: Digest,
        /// What stands there.
        found: Digest,
    },
    /// A signed head does not hold.
    #[error("{place}: the signature does not hold")]
    BadSignature {
        /// Which.
        place: Place,
        /// The first bytes of the trail's id.
        trail: u64,
    },
    /// The last entry is not the one known from elsewhere.
    #[error("{place}: the trail does not end where it is known to")]
    WrongEnd {
        /// The last entry.
        place: Place,
        /// The first bytes of the trail's id.
        trail: u64,
        /// The digest known from elsewhere.
        expected: Digest,
        /// The digest at the end.
        found: Digest,
    },
}

/// Reads a trail entry by entry, however its bytes come.
#[derive(Debug, Clone)]
pub struct Reading {
    proven: Proven,
    entries: u64,
    signer: Option<EntityId>,
}

impl Reading {
    /// Begins with the first bytes of a trail, [`HEAD_SIZE`] or all there are. With `signer`, only its signatures count.
    ///
    /// # Errors
    /// [`TrailError::Unreadable`].
    pub fn begin(bytes: &[u8], signer: Option<EntityId>) -> Result<Self, TrailError> {
        let place = Place {
            entry: 0,
            record: 0,
            offset: 0,
        };
        let head = Head::decode(bytes).map_err(|error| TrailError::Unreadable { place, error })?;
        let proven = Proven {
            head,
            records: 0,
            first_seq: 0,
            last_seq: 0,
            digest: head.digest(),
            signed_through: 0,
            bytes: HEAD_SIZE as u64,
        };
        Ok(Self {
            proven,
            entries: 0,
            signer,
        })
    }

    /// What the entries so far prove.
    #[must_use]
    pub const fn proven(&self) -> &Proven {
        &self.proven
    }

    const fn place(&self) -> Place {
        Place {
            entry: self.entries + 1,
            record: self.proven.records + 1,
            offset: self.proven.bytes,
        }
    }

    const fn trail(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.proven.head.trail_id;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Takes the next entry from the beginning of `bytes`, and says how many bytes it had; `None`: there is not a whole
    /// one. Nothing but zeros, which a disk may show where a system died, is no entry either.
    ///
    /// # Errors
    /// [`TrailError`].
    pub fn next(&mut self, bytes: &[u8]) -> Result<Option<(Entry, usize)>, TrailError> {
        let place = self.place();
        let unreadable = |error| TrailError::Unreadable { place, error };
        let mut reader = Reader::with_base(bytes, place.offset);
        let (Ok(length), Ok(flipped)) = (reader.u32(), reader.u32()) else {
            return Ok(None);
        };
        let length = length as usize;
        if length == 0 && flipped == 0 && bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if flipped as usize != !length & 0xffff_ffff || length > BODY_BYTES_MAX {
            let fault = Fault::Invalid { field: "length" };
            let offset = place.offset;
            return Err(unreadable(DecodeError { offset, fault }));
        }
        let start = reader.offset();
        let (Ok(body), Ok(found)) = (reader.take(length), reader.array::<32>()) else {
            return Ok(None);
        };
        let found = Digest::from_bytes(found);
        let expected = digest::derive(Context::TrailEntry, &[self.proven.digest.as_bytes(), body]);
        let trail = self.trail();
        if expected != found {
            return Err(TrailError::Broken {
                place,
                trail,
                expected,
                found,
            });
        }
        let entry = Entry::decode(body).map_err(|DecodeError { offset, fault }| {
            let offset = start + offset;
            unreadable(DecodeError { offset, fault })
        })?;
        match (&entry, entry.kind()) {
            (
                Entry::Signed {
                    seq, signer, signature, ..
                },
                _,
            ) => {
                identity::verify(signer, &signed_bytes(&self.proven.digest, *seq), signature)
                    .map_err(|_| TrailError::BadSignature { place, trail })?;
                if self.signer.as_ref() == Some(signer) {
                    self.proven.signed_through = self.proven.records;
                }
            }
            (_, None) => {}
            (_, Some(kind)) if kind == self.proven.head.kind => {
                self.proven.records += 1;
                if self.proven.records == 1 {
                    self.proven.first_seq = entry.seq();
                }
                self.proven.last_seq = entry.seq();
            }
            (_, Some(_)) => {
                let (offset, fault) = (start, Fault::Invalid { field: "tag" });
                return Err(unreadable(DecodeError { offset, fault }));
            }
        }
        let taken = LENGTH_SIZE + length + 32;
        self.entries += 1;
        self.proven.digest = found;
        self.proven.bytes += taken as u64;
        Ok(Some((entry, taken)))
    }

    /// Ends with what is no whole entry. When `cut` allows it, what a crash left of the last one is passed over.
    ///
    /// # Errors
    /// [`TrailError::Unreadable`].
    pub fn end(self, rest: &[u8], cut: bool) -> Result<Proven, TrailError> {
        if rest.is_empty() || cut {
            Ok(self.proven)
        } else {
            Err(self.cut_short(rest))
        }
    }

    /// Says that what stands behind the last whole entry is none.
    #[must_use]
    pub const fn cut_short(&self, rest: &[u8]) -> TrailError {
        let place = self.place();
        let offset = place.offset + rest.len() as u64;
        let fault = Fault::Truncated { needed: 1 };
        let error = DecodeError { offset, fault };
        TrailError::Unreadable { place, error }
    }

    /// Compares the end with a digest known from elsewhere.
    ///
    /// # Errors
    /// [`TrailError::WrongEnd`].
    pub fn expect(&self, end: &Digest) -> Result<(), TrailError> {
        if self.proven.digest == *end {
            return Ok(());
        }
        Err(TrailError::WrongEnd {
            place: Place {
                entry: self.entries,
                record: self.proven.records,
                offset: self.proven.bytes,
            },
            trail: self.trail(),
            expected: *end,
            found: self.proven.digest,
        })
    }
}

/// Reads a whole trail, shows each entry to `see`, and says what it proves. A cut entry at the end is not an error when
/// `cut` allows it: what a crash left is read up to the last whole entry.
///
/// # Errors
/// [`TrailError`] for the first bad entry.
pub fn read(
    bytes: &[u8],
    signer: Option<&EntityId>,
    cut: bool,
    mut see: impl FnMut(Entry),
) -> Result<Proven, TrailError> {
    let mut reading = Reading::begin(bytes, signer.copied())?;
    let mut rest = &bytes[HEAD_SIZE..];
    while let Some((entry, taken)) = reading.next(rest)? {
        see(entry);
        rest = &rest[taken..];
    }
    reading.end(rest, cut)
}
