//! What operators sign: a command with everything that makes it one command, at one cluster, once.
//!
//! Invariants
//! * One envelope has one encoding: a reader builds the bytes anew and compares.
//! * An ordinary command and a break-glass action are signed under different domains, and an ordinary envelope has no
//!   encoding for a break-glass action.
//! * The version stands inside the signed bytes; the reason is always there.
//! * Every number is fixed in width and little endian, so that PyNaCl and a standard library are enough to sign.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::armour;
use crate::blast::{self, BlastRadius};
use crate::codec::{DecodeError, Fault, Put, Reader, Unwritable};
use crate::command::{AdminEvent, AvoidScope, ChainId, IceAction};
use crate::id::{EntityId, NodeId, Origin};
use crate::time::UnixMs;

/// Version of the signed bytes.
pub const VERSION: u8 = 1;
/// Bytes of a reason.
pub const REASON_BYTES_MAX: usize = 1024;
/// Signatures of one envelope.
pub const SIGNATURES_MAX: usize = 64;
/// Chains of one command.
pub const CHAINS_MAX: usize = 4096;
/// Bytes of one envelope.
pub const ENVELOPE_BYTES_MAX: usize = 4 << 20;

const ICE_DOMAIN: &[u8] = b"meshos.ice.v1\0";
const ADMIN_DOMAIN: &[u8] = b"meshos.admin.v1\0";
const OPERATOR_DOMAIN: &[u8] = b"meshos.operator.v1\0";
const MAGIC: &[u8; 4] = b"MOSE";
const ADMIN_LABEL: &str = "MESHOS ADMIN ENVELOPE";
const ICE_LABEL: &str = "MESHOS ICE ENVELOPE";

/// An operator's handle: the first 8 bytes, little endian, of SHA-256 over a domain and the public key.
#[must_use]
pub fn operator_id(key: &EntityId) -> u64 {
    let digest = Sha256::new()
        .chain_update(OPERATOR_DOMAIN)
        .chain_update(key.as_bytes())
        .finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

/// What a cluster's id is signed as.
#[must_use]
pub fn cluster_hash(cluster_id: &[u8]) -> [u8; 32] {
    Sha256::digest(cluster_id).into()
}

/// What both kinds of envelopes begin with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Header {
    /// Hash of the cluster's id.
    pub cluster: [u8; 32],
    /// Random; makes it one command, to be obeyed once.
    pub envelope_id: [u8; 16],
    /// When it was made.
    pub issued_at: UnixMs,
    /// After this it is void.
    pub not_after: UnixMs,
    /// Why, in the operator's words.
    pub reason: String,
}

/// One operator's signature.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OperatorSignature {
    /// Whose.
    pub public_key: EntityId,
    /// Over the signed bytes.
    pub signature: [u8; 64],
}

/// An ordinary command with its signature.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AdminEnvelope {
    /// What every envelope has.
    pub header: Header,
    /// What is ordered.
    pub event: AdminEvent,
    /// Who ordered it, once it is signed.
    pub signature: Option<OperatorSignature>,
}

/// A break-glass action with what it will touch and who agreed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IceEnvelope {
    /// What every envelope has.
    pub header: Header,
    /// Operators that must sign.
    pub threshold: u8,
    /// What the operators saw it would touch.
    pub blast: BlastRadius,
    /// What is ordered.
    pub action: IceAction,
    /// Who agreed so far.
    pub signatures: Vec<OperatorSignature>,
}

impl Header {
    fn rules(&self) -> [(&'static str, bool, &'static str); 3] {
        let reason = self.reason.len();
        [
            ("reason", reason > 0, "must not be empty"),
            ("reason", reason <= REASON_BYTES_MAX, "must be at most 1024 bytes"),
            (
                "not_after",
                self.issued_at <= self.not_after,
                "must not be before issued_at",
            ),
        ]
    }

    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.put_u8(VERSION);
        bytes.put(&self.cluster);
        bytes.put(&self.envelope_id);
        bytes.put_u64(self.issued_at.get());
        bytes.put_u64(self.not_after.get());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.version_u8(VERSION)?;
        Ok(Self {
            cluster: reader.array()?,
            envelope_id: reader.array()?,
            issued_at: UnixMs::new(reader.u64()?),
            not_after: UnixMs::new(reader.u64()?),
            reason: String::new(),
        })
    }
}

/// Longest span that is written: a count of milliseconds in 64 bits.
const SPAN_MAX: Duration = Duration::from_millis(u64::MAX);
const SPAN: &str = "must have a span of whole milliseconds";

const fn is_whole(span: Duration) -> bool {
    span.as_nanos() <= SPAN_MAX.as_nanos() && span.subsec_nanos().is_multiple_of(1_000_000)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn admin_bytes(event: &AdminEvent) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (tag, node) = match event {
        AdminEvent::EnterMaintenance { node, .. } => (1, node),
        AdminEvent::ExitMaintenance { node } => (2, node),
        AdminEvent::Drain { node, .. } => (3, node),
        AdminEvent::Cordon { node } => (4, node),
        AdminEvent::Uncordon { node } => (5, node),
        AdminEvent::RestartAllDaemons { node } => (6, node),
        AdminEvent::ClearAvoidList { node } => (7, node),
        AdminEvent::DropReplicas { node, .. } => (8, node),
        AdminEvent::InvalidatePlacement { node } => (9, node),
    };
    bytes.put_u8(tag);
    bytes.put_u64(node.get());
    match event {
        AdminEvent::EnterMaintenance { drain_for, .. } => bytes.put_option_u64(drain_for.map(millis)),
        AdminEvent::Drain { drain_for, .. } => bytes.put_u64(millis(*drain_for)),
        AdminEvent::DropReplicas { chains, .. } => {
            bytes.put_count_u32(chains.len());
            chains.iter().for_each(|chain| bytes.put_u64(chain.get()));
        }
        AdminEvent::ExitMaintenance { .. }
        | AdminEvent::Cordon { .. }
        | AdminEvent::Uncordon { .. }
        | AdminEvent::RestartAllDaemons { .. }
        | AdminEvent::ClearAvoidList { .. }
        | AdminEvent::InvalidatePlacement { .. } => {}
    }
    bytes
}

pub(crate) fn read_admin(reader: &mut Reader<'_>) -> Result<AdminEvent, DecodeError> {
    let at = reader.clone();
    let tag = reader.u8()?;
    let node = NodeId::new(reader.u64()?);
    Ok(match tag {
        1 => AdminEvent::EnterMaintenance {
            node,
            drain_for: reader.option_u64()?.map(Duration::from_millis),
        },
        2 => AdminEvent::ExitMaintenance { node },
        3 => AdminEvent::Drain {
            node,
            drain_for: Duration::from_millis(reader.u64()?),
        },
        4 => AdminEvent::Cordon { node },
        5 => AdminEvent::Uncordon { node },
        6 => AdminEvent::RestartAllDaemons { node },
        7 => AdminEvent::ClearAvoidList { node },
        8 => {
            let count = reader.count_below(8, CHAINS_MAX)?;
            let mut chains = Vec::with_capacity(count);
            for _ in 0..count {
                chains.push(ChainId::new(reader.u64()?));
            }
            AdminEvent::DropReplicas { node, chains }
        }
        9 => AdminEvent::InvalidatePlacement { node },
        _ => return Err(at.fault(Fault::Invalid { field: "event" })),
    })
}

pub(crate) fn ice_bytes(action: &IceAction) -> Vec<u8> {
    let mut bytes = Vec::new();
    match action {
        IceAction::FreezeCluster { ttl } => {
            bytes.put_u8(1);
            bytes.put_u64(millis(*ttl));
        }
        IceAction::ThawCluster => bytes.put_u8(2),
        IceAction::FlushAvoidLists { scope } => {
            bytes.put_u8(3);
            match scope {
                AvoidScope::Local(node) => {
                    bytes.put_u8(1);
                    bytes.put_u64(node.get());
                }
                AvoidScope::OnPeer(peer) => {
                    bytes.put_u8(2);
                    bytes.put_u64(peer.get());
                }
                AvoidScope::Global => bytes.put_u8(3),
            }
        }
        IceAction::ForceEvictReplica { chain, victim } => {
            bytes.put_u8(4);
            bytes.put_u64(chain.get());
            bytes.put_u64(victim.get());
        }
        IceAction::ForceRestartDaemon { daemon, name } => {
            bytes.put_u8(5);
            bytes.put_u64(daemon.get());
            bytes.put_str_u32(name);
        }
        IceAction::ForceCutover { chain, target } => {
            bytes.put_u8(6);
            bytes.put_u64(chain.get());
            bytes.put_u64(target.get());
        }
        IceAction::KillMigration { migration } => {
            bytes.put_u8(7);
            bytes.put_u64(migration.get());
        }
    }
    bytes
}

pub(crate) fn read_ice(reader: &mut Reader<'_>) -> Result<IceAction, DecodeError> {
    let at = reader.clone();
    Ok(match reader.u8()? {
        1 => IceAction::FreezeCluster {
            ttl: Duration::from_millis(reader.u64()?),
        },
        2 => IceAction::ThawCluster,
        3 => {
            let scope = match reader.u8()? {
                1 => AvoidScope::Local(NodeId::new(reader.u64()?)),
                2 => AvoidScope::OnPeer(NodeId::new(reader.u64()?)),
                3 => AvoidScope::Global,
                _ => return Err(at.fault(Fault::Invalid { field: "scope" })),
            };
            IceAction::FlushAvoidLists { scope }
        }
        4 => IceAction::ForceEvictReplica {
            chain: ChainId::new(reader.u64()?),
            victim: NodeId::new(reader.u64()?),
        },
        5 => IceAction::ForceRestartDaemon {
            daemon: Origin::new(reader.u64()?),
            name: reader.str_u32(blast::NAME_BYTES_MAX)?.to_owned(),
        },
        6 => IceAction::ForceCutover {
            chain: ChainId::new(reader.u64()?),
            target: NodeId::new(reader.u64()?),
        },
        7 => IceAction::KillMigration {
            migration: Origin::new(reader.u64()?),
        },
        _ => return Err(at.fault(Fault::Invalid { field: "action" })),
    })
}

/// Reads what stands between its length and its end, whole.
fn nested<'a, T>(
    reader: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let length = reader.count_below(1, ENVELOPE_BYTES_MAX)?;
    let at = reader.clone();
    let before = reader.offset();
    let value = read(reader)?;
    if reader.offset() - before != length as u64 {
        return Err(at.fault(Fault::Invalid { field: "length" }));
    }
    Ok(value)
}

impl AdminEnvelope {
    /// Checks that it can be written, and is then read as itself, and that it says why.
    ///
    /// # Errors
    /// [`Unwritable`].
    pub fn validate(&self) -> Result<(), Unwritable> {
        let (whole, few) = match &self.event {
            AdminEvent::EnterMaintenance { drain_for, .. } => (drain_for.is_none_or(is_whole), true),
            AdminEvent::Drain { drain_for, .. } => (is_whole(*drain_for), true),
            AdminEvent::DropReplicas { chains, .. } => (true, chains.len() <= CHAINS_MAX),
            _ => (true, true),
        };
        Unwritable::first(&self.header.rules())?;
        Unwritable::first(&[("event", whole, SPAN), ("event", few, "must name at most 4096 chains")])
    }

    /// The bytes that are signed.
    #[must_use]
    pub fn signing_bytes(&self) -> Vec<u8> {
        let mut bytes = ADMIN_DOMAIN.to_vec();
        self.header.put(&mut bytes);
        let event = admin_bytes(&self.event);
        bytes.put_count_u32(event.len());
        bytes.put(&event);
        bytes.put_str_u32(&self.header.reason);
        bytes
    }

    /// Its one encoding.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        file(&self.signing_bytes(), &[], self.signature.as_slice())
    }

    /// Its one text, for a mail or a chat.
    #[must_use]
    pub fn to_text(&self) -> String {
        armour::encode(ADMIN_LABEL, &self.to_bytes())
    }

    /// Reads the text of one envelope.
    ///
    /// # Errors
    /// [`DecodeError`]: of the text, with an offset in it, or of the bytes that it stands for, with an offset in them.
    pub fn from_text(text: &str) -> Result<Self, DecodeError> {
        Self::decode(&armour::decode(ADMIN_LABEL, text)?)
    }

    /// Reads one envelope, and nothing behind it.
    ///
    /// # Errors
    /// [`DecodeError`]: it is not the one encoding of an envelope.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let parts = open(bytes)?;
        let mut reader = parts.signed;
        domain(&mut reader, ADMIN_DOMAIN)?;
        let mut header = Header::read(&mut reader)?;
        let event = nested(&mut reader, read_admin)?;
        reader.str_u32(REASON_BYTES_MAX)?.clone_into(&mut header.reason);
        reader.expect_end()?;
        if parts.blast.remaining() > 0 {
            return Err(parts.blast.fault(Fault::Invalid { field: "blast" }));
        }
        let mut signatures = parts.signatures;
        let signature = signatures.pop();
        if !signatures.is_empty() {
            return Err(parts.blast.fault(Fault::Invalid { field: "signatures" }));
        }
        let envelope = Self {
            header,
            event,
            signature,
        };
        canonical(envelope.to_bytes() == bytes, bytes).map(|()| envelope)
    }
}

impl IceEnvelope {
    /// Checks that it can be written, and is then read as itself, and that it says why.
    ///
    /// # Errors
    /// [`Unwritable`].
    pub fn validate(&self) -> Result<(), Unwritable> {
        let (whole, short) = match &self.action {
            IceAction::FreezeCluster { ttl } => (is_whole(*ttl), true),
            IceAction::ForceRestartDaemon { name, .. } => (true, name.len() <= blast::NAME_BYTES_MAX),
            _ => (true, true),
        };
        Unwritable::first(&self.header.rules())?;
        self.blast.validate()?;
        Unwritable::first(&[
            ("action", whole, SPAN),
            ("action", short, "must have a name of at most 255 bytes"),
            (
                "threshold",
                (1..=SIGNATURES_MAX).contains(&usize::from(self.threshold)),
                "must be from 1 to 64",
            ),
            (
                "signatures",
                self.signatures.len() <= SIGNATURES_MAX,
                "must be at most 64",
            ),
            (
                "blast_radius",
                self.to_bytes().len() <= ENVELOPE_BYTES_MAX,
                "must fit an envelope of 4 MiB",
            ),
        ])
    }

    /// The bytes that are signed.
    #[must_use]
    pub fn signing_bytes(&self) -> Vec<u8> {
        let mut bytes = ICE_DOMAIN.to_vec();
        self.header.put(&mut bytes);
        bytes.put_u8(self.threshold);
        bytes.put(&self.blast.hash());
        let action = ice_bytes(&self.action);
        bytes.put_count_u32(action.len());
        bytes.put(&action);
        bytes.put_str_u32(&self.header.reason);
        bytes
    }

    /// Its one encoding.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        file(&self.signing_bytes(), &self.blast.to_bytes(), &self.signatures)
    }

    /// Its one text, for a mail or a chat.
    #[must_use]
    pub fn to_text(&self) -> String {
        armour::encode(ICE_LABEL, &self.to_bytes())
    }

    /// Reads the text of one envelope.
    ///
    /// # Errors
    /// [`DecodeError`]: of the text, with an offset in it, or of the bytes that it stands for, with an offset in them.
    pub fn from_text(text: &str) -> Result<Self, DecodeError> {
        Self::decode(&armour::decode(ICE_LABEL, text)?)
    }

    /// Reads one envelope, and nothing behind it.
    ///
    /// # Errors
    /// [`DecodeError`]: it is not the one encoding of an envelope, or the hash that is signed is not that of the blast
    /// radius beside it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let parts = open(bytes)?;
        let mut reader = parts.signed;
        domain(&mut reader, ICE_DOMAIN)?;
        let mut header = Header::read(&mut reader)?;
        let threshold = reader.u8()?;
        let at = reader.clone();
        let signed_hash: [u8; 32] = reader.array()?;
        let action = nested(&mut reader, read_ice)?;
        reader.str_u32(REASON_BYTES_MAX)?.clone_into(&mut header.reason);
        reader.expect_end()?;
        let mut blast = parts.blast.clone();
        if signed_hash != blast::hash_of(blast.take(blast.remaining())?) {
            return Err(at.fault(Fault::Invalid { field: "blast hash" }));
        }
        let envelope = Self {
            header,
            threshold,
            blast: BlastRadius::read(parts.blast)?,
            action,
            signatures: parts.signatures,
        };
        canonical(envelope.to_bytes() == bytes, bytes).map(|()| envelope)
    }
}

fn domain(reader: &mut Reader<'_>, wanted: &[u8]) -> Result<(), DecodeError> {
    let at = reader.clone();
    if reader.take(wanted.len())? == wanted {
        Ok(())
    } else {
        Err(at.fault(Fault::Magic))
    }
}

fn canonical(same: bool, bytes: &[u8]) -> Result<(), DecodeError> {
    if same {
        Ok(())
    } else {
        Err(Reader::new(bytes).fault(Fault::Invalid { field: "encoding" }))
    }
}

/// The parts of an encoded envelope.
struct Opened<'a> {
    signed: Reader<'a>,
    blast: Reader<'a>,
    signatures: Vec<OperatorSignature>,
}

fn file(signed: &[u8], blast: &[u8], signatures: &[OperatorSignature]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.put_u8(VERSION);
    for part in [signed, blast] {
        bytes.put_count_u32(part.len());
        bytes.put(part);
    }
    bytes.put_count_u32(signatures.len());
    for signature in signatures {
        bytes.put(signature.public_key.as_bytes());
        bytes.put(&signature.signature);
    }
    bytes.put_u32(crc32fast::hash(&bytes));
    bytes
}

fn open(bytes: &[u8]) -> Result<Opened<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let start = reader.clone();
    if bytes.len() > ENVELOPE_BYTES_MAX {
        return Err(start.fault(Fault::TooLarge {
            size: bytes.len() as u64,
            max: ENVELOPE_BYTES_MAX as u64,
        }));
    }
    if reader.take(MAGIC.len())? != MAGIC {
        return Err(start.fault(Fault::Magic));
    }
    reader.version_u8(VERSION)?;
    let mut part = || {
        let length = reader.count_below(1, ENVELOPE_BYTES_MAX)?;
        let base = reader.offset();
        Ok(Reader::with_base(reader.take(length)?, base))
    };
    let (signed, blast) = (part()?, part()?);
    let count = reader.count_below(96, SIGNATURES_MAX)?;
    let mut signatures = Vec::with_capacity(count);
    for _ in 0..count {
        signatures.push(OperatorSignature {
            public_key: EntityId::from_bytes(reader.array()?),
            signature: reader.array()?,
        });
    }
    let at = reader.clone();
    let sum = reader.u32()?;
    reader.expect_end()?;
    if sum != crc32fast::hash(&bytes[..bytes.len() - 4]) {
        return Err(at.fault(Fault::Digest));
    }
    Ok(Opened {
        signed,
        blast,
        signatures,
    })
}
