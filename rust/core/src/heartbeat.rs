//! Heartbeats: what a node says of itself, signed, again and again.
//!
//! A heartbeat is the body of a signed [`frame`] of kind [`Kind::HEARTBEAT`]: node, run and counter stand in
//! the header of the frame.
//!
//! ```text
//! version u8 = 1 | zero u8 | unix_ms u64 | interval_ms u32 | session 32 | cpu_load_1m_bits u64
//!   | mem_used_bytes option u64 | mem_total_bytes option u64 | software_len u16 | software
//!   | echoes u8, then each: node u64, run u64, counter u64, held_us u32
//!   | tags u32, then each: len u16, text | metadata u32, then each: len u16, key, len u16, value
//! ```
//! Numbers are little endian; an optional number is a mark of 0 or 1, then the number. A load that is not known is the
//! bits of no number. Tags are in their canonical form; tags and keys ascend.
//!
//! Invariants
//! * Everything in it is bounded, and there is one encoding of each value.
//! * An echo says which heartbeat of another node was heard last, and how long ago. That node knows when it sent it, and
//!   so how long the way there and back takes, without a message of its own.

use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::capability::CapabilitySet;
use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::finite::Finite;
use crate::frame::{self, Frame, Header, Kind, MeshId, Refusal};
use crate::id::{EntityId, NodeId};
use crate::identity::{IdentityError, Keypair};
use crate::time::UnixMs;

/// The version written, and the newest that is read.
pub const VERSION: u8 = 1;

/// Echoes in one heartbeat at most.
pub const ECHOES_MAX: usize = 16;

/// Bytes of encoded capabilities at most: they are in each heartbeat.
pub const CAPABILITIES_BYTES_MAX: usize = 8 << 10;

/// Bytes of the version of the software at most.
pub const SOFTWARE_BYTES_MAX: usize = 64;

/// Shortest and longest time between heartbeats, in milliseconds.
pub const INTERVAL_MS: RangeInclusive<u32> = 10..=3_600_000;

/// The bits of a load that is not known: those of no number.
const NO_LOAD: u64 = 0x7ff8_0000_0000_0000;

/// A heartbeat of another node that was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Whose it was.
    pub node: NodeId,
    /// Of which run.
    pub run: u64,
    /// Its number.
    pub counter: u64,
    /// Microseconds since it was heard.
    pub held_us: u32,
}

/// How busy a machine is; `None` was not found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Load average of one minute.
    pub cpu_load_1m: Option<Finite>,
    /// Memory in use.
    pub mem_used_bytes: Option<u64>,
    /// Memory there is.
    pub mem_total_bytes: Option<u64>,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// Its wall clock.
    pub unix_ms: UnixMs,
    /// Time until its next heartbeat, about.
    pub interval_ms: u32,
    /// Its public key for sessions in this run.
    pub session: [u8; 32],
    /// How busy it is.
    pub load: Load,
    /// Version of its software.
    pub software: Arc<str>,
    /// What it heard last, of some nodes.
    pub echoes: Vec<Echo>,
    /// What it offers.
    pub capabilities: Arc<CapabilitySet>,
}

/// A heartbeat whose signature was checked, and who said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Key of the node.
    pub from: EntityId,
    /// Its handle.
    pub node: NodeId,
    /// Its run.
    pub run: u64,
    /// Its number in that run.
    pub counter: u64,
    /// What it says.
    pub heartbeat: Heartbeat,
}

/// Bytes that capabilities take.
#[must_use]
pub fn capabilities_bytes(capabilities: &CapabilitySet) -> usize {
    let metadata = capabilities.metadata().iter();
    8 + capabilities.tags().map(|tag| 2 + tag.len()).sum::<usize>()
        + metadata.map(|(key, value)| 4 + key.len() + value.len()).sum::<usize>()
}

impl Heartbeat {
    /// The one encoding.
    ///
    /// # Panics
    /// If it is longer anywhere than it may be; that is checked where it enters.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        assert!(capabilities_bytes(&self.capabilities) <= CAPABILITIES_BYTES_MAX);
        assert!(self.echoes.len() <= ECHOES_MAX && self.software.len() <= SOFTWARE_BYTES_MAX);
        let mut out = Vec::new();
        out.put(&[VERSION, 0]);
        out.put_u64(self.unix_ms.get());
        out.put_u32(self.interval_ms);
        out.put(&self.session);
        out.put_u64(self.load.cpu_load_1m.map_or(NO_LOAD, |load| load.get().to_bits()));
        out.put_option_u64(self.load.mem_used_bytes);
        out.put_option_u64(self.load.mem_total_bytes);
        out.put_str_u16(&self.software);
        out.put_u8(u8::try_from(self.echoes.len()).expect("few echoes"));
        for echo in &self.echoes {
            out.put_u64(echo.node.get());
            out.put_u64(echo.run);
            out.put_u64(echo.counter);
            out.put_u32(echo.held_us);
        }
        out.put_count_u32(self.capabilities.tags().len());
        self.capabilities.tags().for_each(|tag| out.put_str_u16(tag));
        out.put_count_u32(self.capabilities.metadata().len());
        for (key, value) in self.capabilities.metadata() {
            out.put_str_u16(key);
            out.put_str_u16(value);
        }
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that no node writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version_u8(VERSION)?;
        let at = reader.clone();
        if reader.u8()? != 0 {
            return Err(at.fault(Fault::Invalid { field: "zero" }));
        }
        let unix_ms = UnixMs::new(reader.u64()?);
        let at = reader.clone();
        let interval_ms = reader.u32()?;
        if !INTERVAL_MS.contains(&interval_ms) {
            return Err(at.fault(Fault::Invalid { field: "interval" }));
        }
        let session = reader.array()?;
        let load = Load {
            cpu_load_1m: read_load(&mut reader)?,
            mem_used_bytes: reader.option_u64()?,
            mem_total_bytes: reader.option_u64()?,
        };
        let at = reader.clone();
        let software = Arc::from(reader.str_u16()?);
        if str::len(&software) > SOFTWARE_BYTES_MAX {
            return Err(at.fault(Fault::Invalid { field: "software" }));
        }
        let echoes = read_echoes(&mut reader)?;
        let capabilities = Arc::new(read_capabilities(&mut reader)?);
        reader.expect_end()?;
        Ok(Self {
            unix_ms,
            interval_ms,
            session,
            load,
            software,
            echoes,
            capabilities,
        })
    }
}

fn read_load(reader: &mut Reader<'_>) -> Result<Option<Finite>, DecodeError> {
    let at = reader.clone();
    let bits = reader.u64()?;
    if bits == NO_LOAD {
        return Ok(None);
    }
    match Finite::new(f64::from_bits(bits)) {
        // A load has one way to be written: there is no second zero.
        Some(load) if load.get().to_bits() == bits => Ok(Some(load)),
        _ => Err(at.fault(Fault::Invalid { field: "load" })),
    }
}

fn read_echoes(reader: &mut Reader<'_>) -> Result<Vec<Echo>, DecodeError> {
    let at = reader.clone();
    let count = usize::from(reader.u8()?);
    if count > ECHOES_MAX {
        return Err(at.fault(Fault::Invalid { field: "echoes" }));
    }
    let mut echoes = Vec::with_capacity(count);
    for _ in 0..count {
        echoes.push(Echo {
            node: NodeId::new(reader.u64()?),
            run: reader.u64()?,
            counter: reader.u64()?,
            held_us: reader.u32()?,
        });
    }
    Ok(echoes)
}

fn read_capabilities(reader: &mut Reader<'_>) -> Result<CapabilitySet, DecodeError> {
    let at = reader.clone();
    if reader.remaining() > CAPABILITIES_BYTES_MAX {
        return Err(at.fault(Fault::Invalid { field: "capabilities" }));
    }
    let count = reader.count_u32(2)?;
    let tags = (0..count).map(|_| reader.str_u16()).collect::<Result<Vec<_>, _>>()?;
    let count = reader.count_u32(4)?;
    let mut metadata = Vec::with_capacity(count);
    for _ in 0..count {
        metadata.push((reader.str_u16()?.to_owned(), reader.str_u16()?.to_owned()));
    }
    let ascend = tags.is_sorted_by(|one, two| one < two) && metadata.is_sorted_by(|one, two| one.0 < two.0);
    let invalid = || at.fault(Fault::Invalid { field: "capabilities" });
    let set = CapabilitySet::parse(&tags, metadata).map_err(|_| invalid())?;
    if ascend && set.tags().eq(tags.iter().copied()) {
        Ok(set)
    } else {
        Err(invalid())
    }
}

impl Beat {
    /// Signs what a node says to everybody.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`]: the key is public only.
    pub fn sign(
        heartbeat: &Heartbeat,
        mesh: MeshId,
        run: u64,
        counter: u64,
        key: &Keypair,
    ) -> Result<Vec<u8>, IdentityError> {
        let header = Header {
            mesh,
            from: key.entity_id(),
            to: None,
            run,
            number: counter,
            kind: Kind::HEARTBEAT,
        };
        frame::sign(&header, &heartbeat.to_bytes(), key)
    }

    /// Checks who signed a heartbeat, and reads it. Of which mesh it is has to be checked before.
    ///
    /// # Errors
    /// [`Refusal::UnknownKind`], [`Refusal::BadSeal`], [`Refusal::Malformed`].
    pub fn open(frame: &Frame<'_>) -> Result<Self, Refusal> {
        if frame.header.kind != Kind::HEARTBEAT {
            return Err(Refusal::UnknownKind);
        }
        frame.check_signature()?;
        let heartbeat = Heartbeat::decode(frame.body)?;
        Ok(Self {
            from: frame.header.from,
            node: frame.header.from.node_id(),
            run: frame.header.run,
            counter: frame.header.number,
            heartbeat,
        })
    }
}
