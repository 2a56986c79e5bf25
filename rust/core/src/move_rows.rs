//! What a move leaves in a store: its order, and what each role has decided.
//!
//! | row | written by | what it means when the process begins |
//! |---|---|---|
//! | [`Item::Intent`] | the source, before it freezes | without a record of the move: it is aborted, now |
//! | [`Item::Prepared`] | the target, before it says so | in doubt: ask the source, never decide alone |
//! | [`Item::Done`] | whoever decided, or was told | aborted; it can never begin or commit here |
//! | [`Item::Retired`] | the source, when the target went live | the state may be erased |
//! | [`Item::Ordered`] | the orchestrator, before it sends | ask the source what became of it; never begin it again |
//! | [`Item::Ended`] | the orchestrator | what became of it |
//!
//! That a move is committed is no row: it is, exactly if a record of ownership carries its id.
//!
//! Invariants
//! * An order names two different nodes, and a move that is not zero.
//! * A row has one encoding, closed by a sum. What is read back is what was written, or it is refused.
//!
//! ```text
//! order     version u8 | mid 16 | entity 32 | epoch u64 | source 32 | target 32 | orchestrator 32 | not after u64
//!           | freeze, in ms u32 | size u64 | length u16, kind | in version 2: flags u8, bytes a second u64
//!           | signer 32 | signature 64
//! queued    from 32 | origin u64 | stream u64 | sequence u64 | prev u64 | length u32, payload
//! frozen    sequence u64 | head 32 | image 32
//! row       version u8 = 1 | body | CRC-32 of all that u32; its key: entity 32 | role u8 | mid 16
//!   1 intent    order
//!   2 prepared  order | frozen | image bytes u64 | count u32, records 355 each | count u32, queued each
//!   3 done      until u64
//!   4 retired   (nothing)
//!   5 ordered   order
//!   6 ended     outcome u8 (1: committed, 2: aborted) | until u64
//! ```
//! An order has version 1 if its terms are those of the default, and 2 otherwise; flag 1: the key stays, flag 2: live.
//! An order is signed, by its signer, over `"meshos 2026 move order v1\0"` and everything before the signature. Numbers are
//! little endian, times are in milliseconds since 1970.

use std::time::Duration;

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::digest::Digest;
use crate::id::{EntityId, Origin};
use crate::identity::{self, IdentityError, Keypair};
use crate::ownership::{LINEAGE_MAX, MigrationId, OwnershipRecord};
use crate::rows::{KeyRange, Table, Write};
use crate::stream::PAYLOAD_BYTES_MAX;
use crate::time::UnixMs;

const VERSION: u8 = 1;
/// Of orders whose terms are not those of the default.
const ORDER_VERSION: u8 = 2;
const DOMAIN: &[u8] = b"meshos 2026 move order v1\0";

/// Events of a queue that travel in one message at most.
pub const QUEUED_MAX: usize = 65_536;

/// What is to be moved, from where, to where, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveOrder {
    /// Names the move; random, never used again.
    pub mid: MigrationId,
    /// What is to be moved.
    pub entity: EntityId,
    /// Epoch of its owner when the order was written.
    pub epoch: u64,
    /// The owner.
    pub source: EntityId,
    /// Who shall own.
    pub target: EntityId,
    /// Who sees to it.
    pub orchestrator: EntityId,
    /// It does not begin after this.
    pub not_after: UnixMs,
    /// How long the daemon may stand still, in milliseconds; 0: as long as the source allows.
    pub freeze_ms: u32,
    /// About how large the state is.
    pub size: u64,
    /// Name of the class; 1 to 255 bytes.
    pub kind: String,
    /// How it is to be done.
    pub terms: Terms,
    /// Who signed.
    pub signer: EntityId,
    /// Signature of the signer.
    pub signature: [u8; 64],
}

/// How a daemon is to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// Its key stays: the target signs for it.
    pub key_stays: bool,
    /// It is copied while it works, and frozen for what came since only.
    pub live: bool,
    /// Bytes of the image that are sent in a second at most; 0: as many as can be.
    pub rate_max: u64,
}

impl Terms {
    const KEY_STAYS: u8 = 1;
    const LIVE: u8 = 2;

    fn put_into(self, out: &mut Vec<u8>) {
        let flags = u8::from(self.key_stays) * Self::KEY_STAYS + u8::from(self.live) * Self::LIVE;
        out.put_u8(flags);
        out.put_u64(self.rate_max);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = reader.clone();
        let flags = reader.u8()?;
        let terms = Self {
            key_stays: flags & Self::KEY_STAYS != 0,
            live: flags & Self::LIVE != 0,
            rate_max: reader.u64()?,
        };
        // What is as ever is written in version 1.
        if flags > Self::KEY_STAYS + Self::LIVE || terms == Self::default() {
            return Err(start.fault(Fault::Invalid { field: "terms" }));
        }
        Ok(terms)
    }
}

impl MoveOrder {
    const SIZE_MIN: usize = 1 + 16 + 32 + 8 + 3 * 32 + 8 + 4 + 8 + 2 + 1 + 32 + 64;

    /// How long the daemon may stand still; `None`: as long as the source allows.
    #[must_use]
    pub fn freeze(&self) -> Option<Duration> {
        let freeze = Duration::from_millis(u64::from(self.freeze_ms));
        Some(freeze).filter(|freeze| !freeze.is_zero())
    }

    /// The same order, signed.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`] if the pair has no secret half.
    ///
    /// # Panics
    /// If its kind does not have 1 to 255 bytes; kinds are bounded where they are registered.
    pub fn signed(mut self, signer: &Keypair) -> Result<Self, IdentityError> {
        self.signer = signer.entity_id();
        self.signature = signer.sign(&self.signed_message())?;
        Ok(self)
    }

    /// Checks that the signer signed it. Whether that one may order this is for whoever asks.
    ///
    /// # Errors
    /// [`IdentityError::InvalidPublicKey`] or [`IdentityError::InvalidSignature`].
    pub fn verify_signature(&self) -> Result<(), IdentityError> {
        identity::verify(&self.signer, &self.signed_message(), &self.signature)
    }

    /// Appends the wire form.
    ///
    /// # Panics
    /// As [`MoveOrder::signed`].
    pub fn put_into(&self, out: &mut Vec<u8>) {
        self.put_signed(out);
        out.put(&self.signature);
    }

    /// Reads one order of a longer input.
    ///
    /// # Errors
    /// A [`DecodeError`]; the signature is not checked.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = reader.clone();
        let version = reader.version_u8(ORDER_VERSION)?;
        let mut order = Self {
            mid: reader.array()?,
            entity: EntityId::from_bytes(reader.array()?),
            epoch: reader.u64()?,
            source: EntityId::from_bytes(reader.array()?),
            target: EntityId::from_bytes(reader.array()?),
            orchestrator: EntityId::from_bytes(reader.array()?),
            not_after: UnixMs::new(reader.u64()?),
            freeze_ms: reader.u32()?,
            size: reader.u64()?,
            kind: reader.str_u16()?.to_owned(),
            terms: match version {
                VERSION => Terms::default(),
                _ => Terms::read(reader)?,
            },
            signer: EntityId::from_bytes([0; 32]),
            signature: [0; 64],
        };
        order.signer = EntityId::from_bytes(reader.array()?);
        order.signature = reader.array()?;
        order.check().map_err(|field| start.fault(Fault::Invalid { field }))?;
        Ok(order)
    }

    /// Gives the first field that no writer writes like this.
    fn check(&self) -> Result<(), &'static str> {
        if self.mid == MigrationId::default() {
            Err("migration id")
        } else if self.epoch == 0 || self.epoch == u64::MAX {
            Err("epoch")
        } else if self.source == self.target {
            Err("target")
        } else if !(1..=255).contains(&self.kind.len()) {
            Err("length of the kind")
        } else {
            Ok(())
        }
    }

    fn signed_message(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(DOMAIN.len() + Self::SIZE_MIN + self.kind.len());
        message.put(DOMAIN);
        self.put_signed(&mut message);
        message
    }

    fn put_signed(&self, out: &mut Vec<u8>) {
        assert!(
            (1..=255).contains(&self.kind.len()),
            "a kind is bounded where it is registered"
        );
        let has_terms = self.terms != Terms::default();
        out.put_u8(if has_terms { ORDER_VERSION } else { VERSION });
        out.put(&self.mid);
        out.put(self.entity.as_bytes());
        out.put_u64(self.epoch);
        for node in [self.source, self.target, self.orchestrator] {
            out.put(node.as_bytes());
        }
        out.put_u64(self.not_after.get());
        out.put_u32(self.freeze_ms);
        out.put_u64(self.size);
        out.put_str_u16(&self.kind);
        if has_terms {
            self.terms.put_into(out);
        }
        out.put(self.signer.as_bytes());
    }
}

/// An event that waits at a source that is frozen, and travels with the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// The node that sent it, and that is answered.
    pub from: EntityId,
    /// Its origin.
    pub origin: Origin,
    /// What it belongs to at its receiver.
    pub stream: u64,
    /// Its number.
    pub sequence: u64,
    /// The number that its origin sent before it.
    pub prev: u64,
    /// What is in it.
    pub payload: Vec<u8>,
}

impl Queued {
    const SIZE_MIN: usize = 32 + 4 * 8 + 4;

    /// Bytes of its encoding.
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        Self::SIZE_MIN + self.payload.len()
    }

    fn put_into(&self, out: &mut Vec<u8>) {
        out.put(self.from.as_bytes());
        for number in [self.origin.get(), self.stream, self.sequence, self.prev] {
            out.put_u64(number);
        }
        out.put_count_u32(self.payload.len());
        out.put(&self.payload);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let from = EntityId::from_bytes(reader.array()?);
        let (origin, stream) = (Origin::new(reader.u64()?), reader.u64()?);
        let sequence = reader.u64()?;
        let at_prev = reader.clone();
        let prev = reader.u64()?;
        if prev >= sequence {
            return Err(at_prev.fault(Fault::Invalid { field: "prev" }));
        }
        let length = reader.count_below(1, PAYLOAD_BYTES_MAX)?;
        let payload = reader.take(length)?.to_vec();
        Ok(Self {
            from,
            origin,
            stream,
            sequence,
            prev,
            payload,
        })
    }
}

/// Appends events after their number.
pub(crate) fn put_queue(queue: &[Queued], out: &mut Vec<u8>) {
    out.put_count_u32(queue.len());
    queue.iter().for_each(|queued| queued.put_into(out));
}

/// Reads events after their number.
pub(crate) fn read_queue(reader: &mut Reader<'_>) -> Result<Vec<Queued>, DecodeError> {
    let count = reader.count_below(Queued::SIZE_MIN, QUEUED_MAX)?;
    (0..count).map(|_| Queued::read(reader)).collect()
}

/// Appends a lineage after its length.
pub(crate) fn put_lineage(lineage: &[OwnershipRecord], out: &mut Vec<u8>) {
    out.put_count_u32(lineage.len());
    lineage.iter().for_each(|record| record.put_into(out));
}

/// Reads a lineage: of one entity, with rising epochs. That it is good is not checked here.
pub(crate) fn read_lineage(reader: &mut Reader<'_>, entity: EntityId) -> Result<Vec<OwnershipRecord>, DecodeError> {
    let at_count = reader.clone();
    let count = reader.count_below(OwnershipRecord::SIZE, LINEAGE_MAX)?;
    if count == 0 {
        return Err(at_count.fault(Fault::Invalid { field: "count" }));
    }
    let mut lineage: Vec<OwnershipRecord> = Vec::with_capacity(count);
    for _ in 0..count {
        let at_record = reader.clone();
        let record = OwnershipRecord::read(reader)?;
        let rises = lineage.last().is_none_or(|before| before.epoch() < record.epoch());
        if record.entity() != entity || !rises {
            return Err(at_record.fault(Fault::Invalid { field: "lineage" }));
        }
        lineage.push(record);
    }
    Ok(lineage)
}

/// Where a daemon stood when it was frozen: what a target has to have restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frozen {
    /// The last sequence of its chain.
    pub sequence: u64,
    /// Digest of its chain there.
    pub head: Digest,
    /// Digest of the bytes that travel: snapshot, and outputs that are not yet acknowledged.
    pub image: Digest,
}

impl Frozen {
    pub(crate) fn put_into(&self, out: &mut Vec<u8>) {
        out.put_u64(self.sequence);
        out.put(self.head.as_bytes());
        out.put(self.image.as_bytes());
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            sequence: reader.u64()?,
            head: Digest::from_bytes(reader.array()?),
            image: Digest::from_bytes(reader.array()?),
        })
    }
}

/// What a target holds: it can go live after any crash, and must not before it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The order.
    pub order: MoveOrder,
    /// What it restored.
    pub frozen: Frozen,
    /// Size of the image, which is kept under its digest.
    pub image_bytes: u64,
    /// All records up to that of the source.
    pub lineage: Vec<OwnershipRecord>,
    /// The events that came with it.
    pub queue: Vec<Queued>,
}

impl Prepared {
    /// Position from which on events of the queue are still missing.
    #[must_use]
    pub const fn idx(&self) -> u64 {
        self.queue.len() as u64
    }

    fn put_into(&self, out: &mut Vec<u8>) {
        self.order.put_into(out);
        self.frozen.put_into(out);
        out.put_u64(self.image_bytes);
        put_lineage(&self.lineage, out);
        put_queue(&self.queue, out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let order = MoveOrder::read(reader)?;
        let frozen = Frozen::read(reader)?;
        let image_bytes = reader.u64()?;
        let lineage = read_lineage(reader, order.entity)?;
        Ok(Self {
            order,
            frozen,
            image_bytes,
            lineage,
            queue: read_queue(reader)?,
        })
    }
}

/// What became of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// The target owns.
    Committed = 1,
    /// The source goes on, as if nothing had been.
    Aborted = 2,
}

impl Outcome {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = reader.clone();
        match reader.u8()? {
            1 => Ok(Self::Committed),
            2 => Ok(Self::Aborted),
            _ => Err(at.fault(Fault::Invalid { field: "outcome" })),
        }
    }
}

/// What one role of a move has durably decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The source is about to freeze.
    Intent(MoveOrder),
    /// The target can go live.
    Prepared(Box<Prepared>),
    /// The move is aborted. It may be forgotten after this.
    Done(UnixMs),
    /// The source may erase its state.
    Retired,
    /// The orchestrator sees to the move.
    Ordered(MoveOrder),
    /// The orchestrator knows what became of it. It may be forgotten after the time.
    Ended(Outcome, UnixMs),
}

impl Item {
    const fn role(&self) -> u8 {
        match self {
            Self::Intent(_) => 1,
            Self::Prepared(_) => 2,
            Self::Done(_) => 3,
            Self::Retired => 4,
            Self::Ordered(_) => 5,
            Self::Ended(..) => 6,
        }
    }

    /// The row that keeps it.
    ///
    /// # Panics
    /// If the kind of its order does not have 1 to 255 bytes.
    #[must_use]
    pub fn write(&self, entity: &EntityId, mid: &MigrationId) -> Write {
        Write::put(Table::Moves, key(entity, self.role(), mid), self.to_bytes())
    }

    /// The value of its row.
    ///
    /// # Panics
    /// As [`Item::write`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.put_u8(VERSION);
        match self {
            Self::Intent(order) | Self::Ordered(order) => order.put_into(&mut out),
            Self::Prepared(prepared) => prepared.put_into(&mut out),
            Self::Done(until) => out.put_u64(until.get()),
            Self::Retired => {}
            Self::Ended(outcome, until) => {
                out.put_u8(*outcome as u8);
                out.put_u64(until.get());
            }
        }
        out.put_u32(crc32fast::hash(&out));
        out
    }

    /// Reads a row: of which entity and which move it is, and what it says.
    ///
    /// # Errors
    /// [`Fault::Digest`] when the sum does not fit; otherwise the first bad field. A key that is none is a bad field at 0.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<(EntityId, MigrationId, Self), DecodeError> {
        let mut keys = Reader::new(key);
        let entity = EntityId::from_bytes(keys.array()?);
        let at_role = keys.clone();
        let role = keys.u8()?;
        let mid: MigrationId = keys.array()?;
        keys.expect_end()?;
        let mut reader = Reader::new(value);
        reader.version_u8(VERSION)?;
        let Some((covered, sum)) = value.split_last_chunk::<4>() else {
            return Err(reader.fault(Fault::Truncated { needed: 4 }));
        };
        if u32::from_le_bytes(*sum) != crc32fast::hash(covered) {
            return Err(DecodeError {
                offset: covered.len() as u64,
                fault: Fault::Digest,
            });
        }
        let mut reader = Reader::new(covered);
        reader.u8()?;
        let item = match role {
            1 => Self::Intent(MoveOrder::read(&mut reader)?),
            2 => Self::Prepared(Box::new(Prepared::read(&mut reader)?)),
            3 => Self::Done(UnixMs::new(reader.u64()?)),
            4 => Self::Retired,
            5 => Self::Ordered(MoveOrder::read(&mut reader)?),
            6 => Self::Ended(Outcome::read(&mut reader)?, UnixMs::new(reader.u64()?)),
            _ => return Err(at_role.fault(Fault::Invalid { field: "role" })),
        };
        reader.expect_end()?;
        let order = match &item {
            Self::Intent(order) | Self::Ordered(order) => Some(order),
            Self::Prepared(prepared) => Some(&prepared.order),
            _ => None,
        };
        if order.is_some_and(|order| (order.entity, order.mid) != (entity, mid)) {
            return Err(at_role.fault(Fault::Invalid { field: "key" }));
        }
        Ok((entity, mid, item))
    }
}

/// What removes the row that the source wrote before it froze.
#[must_use]
pub fn remove_intent(entity: &EntityId, mid: &MigrationId) -> Write {
    Write::remove(Table::Moves, key(entity, 1, mid))
}

/// What removes the row of a target that is no longer in doubt.
#[must_use]
pub fn remove_prepared(entity: &EntityId, mid: &MigrationId) -> Write {
    Write::remove(Table::Moves, key(entity, 2, mid))
}

/// What removes the row of a move that may be forgotten.
#[must_use]
pub fn remove_done(entity: &EntityId, mid: &MigrationId) -> Write {
    Write::remove(Table::Moves, key(entity, 3, mid))
}

/// What removes the row of an order whose outcome is kept.
#[must_use]
pub fn remove_ordered(entity: &EntityId, mid: &MigrationId) -> Write {
    Write::remove(Table::Moves, key(entity, 5, mid))
}

/// The rows of an entity.
#[must_use]
pub fn rows_of(entity: &EntityId) -> KeyRange {
    KeyRange::beginning_with(entity.as_bytes())
}

fn key(entity: &EntityId, role: u8, mid: &MigrationId) -> Vec<u8> {
    let mut key = Vec::with_capacity(32 + 1 + 16);
    key.put(entity.as_bytes());
    key.put_u8(role);
    key.put(mid);
    key
}
