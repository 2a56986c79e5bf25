//! A trail: records in a file, each bound to all before it.
//!
//! ```text
//! head:   magic "MOSR" | version u8 = 1 | kind u8 | 2 zero bytes | trail id, 16 random bytes | unix_ms u64
//! entry:  len u32 | body of len bytes | digest, 32 bytes
//! body:   tag u8 | seq u64 | unix_ms u64 | fields
//! d(0) = derive_key("meshos 2026 trail genesis v1")(head)
//! d(n) = derive_key("meshos 2026 trail entry v1")(d(n-1) ‖ body n)
//! ```
//! Tag 0 is a signed head: public key, 32 bytes, and its signature over `"meshos.trail.v1\0" ‖ d(n-1) ‖ seq`. Tags 1 to 4
//! are records of commands, lines, failures and actions. Numbers are little endian; a text is its length as u32, then
//! UTF-8; what may be absent is a mark of 0 or 1, then the value.
//!
//! Invariants
//! * A changed, removed or moved entry breaks the digest of the first entry at or after it.
//! * A cut tail is found with the digest of the last entry, known from elsewhere, or up to the last signed head.
//! * Numbers rise from entry to entry within one run; a later run that continues the file begins at 1 again, with a mark
//!   of its own (tag 5, the run's random id).

use std::sync::Arc;
use std::time::Duration;

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::command::{Command, Order, Verdict};
use crate::digest::{self, Context, Digest};
use crate::envelope::{admin_bytes, ice_bytes, read_admin, read_ice};
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

const SIGNED: &[u8] = b"meshos.trail.v1\0";
const TEXT_BYTES_MAX: usize = 256 << 10;
const LIST_MAX: usize = 4096;

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

    /// Its body. Whether an appender could not keep it is not part of it: it is being kept.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
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
                put_command(&mut bytes, &record.command);
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
                put_option(&mut bytes, source.envelope_id.as_ref().map(|id| &id[..]));
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
        bytes
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

    /// The entry as it stands in the file, and the digest after it.
    ///
    /// # Panics
    /// If it is longer than a body may be; texts are bounded where they enter.
    #[must_use]
    pub fn frame(&self, before: &Digest) -> (Vec<u8>, Digest) {
        let body = self.to_bytes();
        assert!(body.len() <= BODY_BYTES_MAX, "texts are bounded where they enter");
        let after = digest::derive(Context::TrailEntry, &[before.as_bytes(), &body]);
        let mut bytes = Vec::with_capacity(body.len() + 36);
        bytes.put_count_u32(body.len());
        bytes.put(&body);
        bytes.put(after.as_bytes());
        (bytes, after)
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
            let known = refusal::KINDS.iter().find(|known| **known == kind);
            let kind = known.ok_or_else(|| at.fault(Fault::Invalid { field: "refusal" }))?;
            Verdict::Rejected { kind }
        }
        _ => return Err(at.fault(Fault::Invalid { field: "verdict" })),
    };
    let count = reader.count_below(8, LIST_MAX)?;
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

/// What is wrong with a trail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrailError {
    /// An entry cannot be read.
    #[error("entry {entry}: {error}")]
    Unreadable {
        /// Which entry, from 1; 0: the head of the file.
        entry: u64,
        /// Why.
        error: DecodeError,
    },
    /// An entry is not bound to what stands before it: it, or something before it, was changed, removed or moved.
    #[error("entry {entry} is not bound to what stands before it")]
    Broken {
        /// Which entry, from 1.
        entry: u64,
    },
    /// A signed head does not hold.
    #[error("entry {entry}: the signature does not hold")]
    BadSignature {
        /// Which entry, from 1.
        entry: u64,
    },
    /// The last entry is not the one known from elsewhere.
    #[error("the trail does not end where it is known to")]
    WrongEnd,
}

/// Reads a trail from its beginning, shows each entry to `see`, and says what it proves. A cut entry at the end is not an
/// error when `cut` allows it: what a crash left is read up to the last whole entry.
///
/// # Errors
/// [`TrailError`] for the first bad entry.
pub fn read(
    bytes: &[u8],
    signer: Option<&EntityId>,
    cut: bool,
    mut see: impl FnMut(Entry),
) -> Result<Proven, TrailError> {
    let head = Head::decode(bytes).map_err(|error| TrailError::Unreadable { entry: 0, error })?;
    let mut proven = Proven {
        head,
        records: 0,
        first_seq: 0,
        last_seq: 0,
        digest: head.digest(),
        signed_through: 0,
        bytes: HEAD_SIZE as u64,
    };
    let mut rest = &bytes[HEAD_SIZE..];
    let mut number = 0;
    while !rest.is_empty() {
        number += 1;
        let unreadable = |error| TrailError::Unreadable { entry: number, error };
        let mut reader = Reader::new(rest);
        let parts = reader.count_below(1, BODY_BYTES_MAX).and_then(|length| {
            let body = reader.take(length)?;
            reader.array::<32>().map(|digest| (body, Digest::from_bytes(digest)))
        });
        let (body, digest) = match parts {
            Ok(parts) => parts,
            Err(DecodeError {
                fault: Fault::Truncated { .. },
                ..
            }) if cut => break,
            Err(error) => return Err(unreadable(error)),
        };
        if digest::derive(Context::TrailEntry, &[proven.digest.as_bytes(), body]) != digest {
            return Err(TrailError::Broken { entry: number });
        }
        let entry = Entry::decode(body).map_err(unreadable)?;
        match &entry {
            Entry::Signed {
                seq,
                signer: by,
                signature,
                ..
            } => {
                identity::verify(by, &signed_bytes(&proven.digest, *seq), signature)
                    .map_err(|_| TrailError::BadSignature { entry: number })?;
                if signer == Some(by) {
                    proven.signed_through = proven.records;
                }
            }
            Entry::Run { .. } => {}
            Entry::Audit(_) | Entry::Log(_) | Entry::Failure(_) | Entry::Action(_) => {
                proven.records += 1;
                if proven.records == 1 {
                    proven.first_seq = entry.seq();
                }
                proven.last_seq = entry.seq();
            }
        }
        proven.digest = digest;
        let taken = 4 + body.len() + 32;
        proven.bytes += taken as u64;
        rest = &rest[taken..];
        see(entry);
    }
    Ok(proven)
}
