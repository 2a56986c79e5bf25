//! One file for a stranger: the certificates, checkpoints and events of one chain.
//!
//! ```text
//! offset  size
//!      0     8  magic "MESHCHN1"
//!      8    32  entity id
//!     40     …  frames, one after another
//!
//! frame: kind u8 | 3 zero bytes | len u32, little endian | body of len bytes
//!   kind 1  certificate, 210 bytes   see `certificate`
//!   kind 2  checkpoint, 185 bytes    see `checkpoint`
//!   kind 3  event, from 32 bytes     link 32 (see `link`), then the payload
//!   kind 4  end, 32 bytes            BLAKE3 of everything before this frame
//! ```
//! All certificates come before all checkpoints, and these before all events; each group is in the order that
//! [`verify`] wants. The frame of kind 4 is the last, and nothing follows it.
//!
//! The end digest finds damage, not forgery: who can change the file can compute it anew. So it is judged last, after the
//! events were compared with what is signed, which names the bad event.

use thiserror::Error;

use crate::certificate::Certificate;
use crate::chain::{BrokenKind, ChainError};
use crate::checkpoint::Checkpoint;
use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::digest::{self, Digest};
use crate::id::EntityId;
use crate::link::CausalLink;
use crate::verify::{ChainReport, Claim, verify};

/// First bytes of every file.
pub const MAGIC: &[u8; 8] = b"MESHCHN1";

/// Longest payload of an event, in bytes.
pub const PAYLOAD_BYTES_MAX: u64 = u32::MAX as u64 - CausalLink::SIZE as u64;

const PREAMBLE_SIZE: usize = 8 + 32;
const FRAME_HEAD_SIZE: usize = 8;
const END_SIZE: usize = 32;

const CERTIFICATE: u8 = 1;
const CHECKPOINT: u8 = 2;
const EVENT: u8 = 3;
const END: u8 = 4;

/// What is in a file. Payloads are parts of the bytes they were read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainExport<'a> {
    /// Owner of the chain.
    pub entity: EntityId,
    /// Its certificates by ascending epoch.
    pub certificates: Vec<Certificate>,
    /// Its checkpoints in the order in which they were signed.
    pub checkpoints: Vec<Checkpoint>,
    /// Its retained events, oldest first.
    pub events: Vec<(CausalLink, &'a [u8])>,
}

/// A file that could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedExport<'a> {
    /// What is in it.
    pub export: ChainExport<'a>,
    /// Whether the end digest fits.
    pub intact: bool,
    /// Offset of the end digest.
    pub end_offset: u64,
}

/// Why a chain cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ExportError {
    /// A payload does not fit a frame.
    #[error("event {sequence} has {bytes} bytes, at most 4294967263 can be exported")]
    PayloadTooLong {
        /// Sequence of the event.
        sequence: u64,
        /// Length of its payload.
        bytes: u64,
    },
}

/// Why a file is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FileError {
    /// It cannot be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It can be read, and its chain is not good.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

impl ChainExport<'_> {
    /// The bytes of the file.
    ///
    /// # Errors
    /// [`ExportError::PayloadTooLong`] for the first event that does not fit.
    pub fn encode(&self) -> Result<Vec<u8>, ExportError> {
        let mut out = Vec::with_capacity(self.encoded_len()?);
        out.put(MAGIC);
        out.put(self.entity.as_bytes());
        for certificate in &self.certificates {
            put_frame_head(&mut out, CERTIFICATE, Certificate::SIZE);
            out.put(&certificate.to_bytes());
        }
        for checkpoint in &self.checkpoints {
            put_frame_head(&mut out, CHECKPOINT, Checkpoint::SIZE);
            out.put(&checkpoint.to_bytes());
        }
        for (link, payload) in &self.events {
            put_frame_head(&mut out, EVENT, CausalLink::SIZE + payload.len());
            out.put(&link.to_bytes());
            out.put(payload);
        }
        let digest = digest::plain(&out);
        put_frame_head(&mut out, END, END_SIZE);
        out.put(digest.as_bytes());
        Ok(out)
    }

    fn encoded_len(&self) -> Result<usize, ExportError> {
        let mut bytes = PREAMBLE_SIZE
            + self.certificates.len() * (FRAME_HEAD_SIZE + Certificate::SIZE)
            + self.checkpoints.len() * (FRAME_HEAD_SIZE + Checkpoint::SIZE)
            + FRAME_HEAD_SIZE
            + END_SIZE;
        for (link, payload) in &self.events {
            let payload_bytes = payload.len() as u64;
            if payload_bytes > PAYLOAD_BYTES_MAX {
                return Err(ExportError::PayloadTooLong {
                    sequence: link.sequence,
                    bytes: payload_bytes,
                });
            }
            bytes += FRAME_HEAD_SIZE + CausalLink::SIZE + payload.len();
        }
        Ok(bytes)
    }
}

/// Reads a file. Neither signatures nor events nor the end digest are judged; the result tells about the latter.
///
/// # Errors
/// A [`DecodeError`] for the first byte that does not fit the format.
pub fn decode(bytes: &[u8]) -> Result<DecodedExport<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let at_magic = reader.clone();
    if reader.array::<8>()? != *MAGIC {
        return Err(at_magic.fault(Fault::Magic));
    }
    let entity = EntityId::from_bytes(reader.array()?);
    let mut export = ChainExport {
        entity,
        certificates: Vec::new(),
        checkpoints: Vec::new(),
        events: Vec::new(),
    };
    let mut last_kind = CERTIFICATE;
    loop {
        let at_frame = reader.clone();
        let (kind, mut body) = read_frame(&mut reader)?;
        if kind < last_kind {
            return Err(at_frame.fault(Fault::Invalid {
                field: "order of frames",
            }));
        }
        last_kind = kind;
        match kind {
            CERTIFICATE => export.certificates.push(Certificate::read(&mut body)?),
            CHECKPOINT => export.checkpoints.push(Checkpoint::read(&mut body)?),
            EVENT => {
                let link = CausalLink::read(&mut body)?;
                export.events.push((link, body.take(body.remaining())?));
            }
            END => {
                let end_offset = body.offset();
                let stored = Digest::from_bytes(body.array()?);
                body.expect_end()?;
                reader.expect_end()?;
                let covered = &bytes[..bytes.len() - FRAME_HEAD_SIZE - END_SIZE];
                return Ok(DecodedExport {
                    export,
                    intact: digest::plain(covered) == stored,
                    end_offset,
                });
            }
            _ => {
                return Err(at_frame.fault(Fault::Invalid {
                    field: "kind of a frame",
                }));
            }
        }
        body.expect_end()?;
    }
}

/// Checks a whole file: first that it can be read, then its chain, which names the first bad event, then its end digest.
///
/// # Errors
/// [`FileError::Chain`] also if the file is of another entity, or if a checkpoint covers events that are missing at
/// the end.
pub fn verify_file(bytes: &[u8], entity: &EntityId, claims: &[Claim]) -> Result<ChainReport, FileError> {
    let DecodedExport {
        export,
        intact,
        end_offset,
    } = decode(bytes)?;
    let origin = entity.origin();
    if export.entity != *entity {
        return Err(FileError::Chain(ChainError::Broken {
            kind: BrokenKind::WrongOrigin,
            origin,
            sequence: 0,
            expected: origin.get(),
            found: export.entity.origin().get(),
        }));
    }
    let report = verify(
        &export.events,
        &export.checkpoints,
        &export.certificates,
        entity,
        claims,
    )?;
    if report.signed_through > report.last_sequence {
        let expected = report.last_sequence + 1;
        return Err(FileError::Chain(ChainError::Broken {
            kind: BrokenKind::Gap,
            origin,
            sequence: expected,
            expected,
            found: report.signed_through,
        }));
    }
    if !intact {
        return Err(FileError::Decode(DecodeError {
            offset: end_offset,
            fault: Fault::Digest,
        }));
    }
    Ok(report)
}

fn put_frame_head(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.put(&[kind, 0, 0, 0]);
    out.put_u32(u32::try_from(length).expect("encoded_len() bounds payloads"));
}

fn read_frame<'a>(reader: &mut Reader<'a>) -> Result<(u8, Reader<'a>), DecodeError> {
    let at_head = reader.clone();
    let [kind, reserved @ ..] = reader.array::<4>()?;
    if reserved != [0; 3] {
        return Err(at_head.fault(Fault::Invalid {
            field: "reserved bytes of a frame",
        }));
    }
    let length = reader.u32()?;
    let offset = reader.offset();
    Ok((kind, Reader::with_base(reader.take_long(u64::from(length))?, offset)))
}
