//! One daemon at one moment: its state and all that is needed to continue it unbroken.
//!
//! Invariants
//! * Every flipped bit is detected: the closing digest is checked before anything behind magic and version is believed.
//! * The state is neither copied a second time when written nor copied at all when read.
//!
//! ```text
//! "MESHSNAP" | version u16 = 1 | sections | BLAKE3 of everything before, 32
//! section: tag u16 | flags u16 (bit 0: critical) | len u64 | body of len bytes; tags ascending, each at most once
//!   1 header    kind_len u16 | kind | schema u32 | entity 32 | epoch u64 | taken_at u64
//!   2 head      link 32 | digest 32
//!   3 cursors   see `cursors`
//!   4 stats     see `stats`
//!   5 bindings  see `bindings`
//!   6 lineage   certificates one after another, see `certificate`; epochs ascending
//!   7 state     as the daemon gave it
//! ```
//! Numbers are little endian. All seven are critical and required. An unknown section is skipped unless it is critical.

use std::ops::Range;

use crate::bindings::DaemonBindings;
use crate::certificate::Certificate;
use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::cursors::Cursors;
use crate::digest::{self, Digest};
use crate::id::EntityId;
use crate::link::CausalLink;
use crate::stats::DaemonStats;
use crate::time::UnixMs;

/// First bytes of every snapshot.
pub const MAGIC: &[u8; 8] = b"MESHSNAP";

/// The version written, and the newest that is read.
pub const VERSION: u16 = 1;

const PREAMBLE_SIZE: usize = 8 + 2;
const SECTION_HEAD_SIZE: usize = 2 + 2 + 8;
const DIGEST_SIZE: usize = 32;
const CRITICAL: u16 = 1;

const HEADER: u16 = 1;
const HEAD: u16 = 2;
const CURSORS: u16 = 3;
const STATS: u16 = 4;
const BINDINGS: u16 = 5;
const LINEAGE: u16 = 6;
const STATE: u16 = 7;

/// Everything of a snapshot except the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// Name under which the daemon's class is registered; 1 to 255 bytes.
    pub kind: String,
    /// Version of the state's own format.
    pub schema: u32,
    /// Whose snapshot it is.
    pub entity: EntityId,
    /// Epoch of the owner that took it.
    pub epoch: u64,
    /// When it was taken, by the clock of the owner.
    pub taken_at: UnixMs,
    /// Last link of the chain.
    pub head: CausalLink,
    /// Digest of the chain there.
    pub digest: Digest,
    /// Inputs applied so far, and their receipts.
    pub cursors: Cursors,
    /// Counters.
    pub stats: DaemonStats,
    /// Subscriptions.
    pub bindings: DaemonBindings,
    /// Certificates of the entity by ascending epoch; empty if none has left the process yet.
    pub lineage: Vec<Certificate>,
}

impl SnapshotMeta {
    /// Bytes of the wire form with a state of `state_len` bytes.
    #[must_use]
    pub fn encoded_len(&self, state_len: usize) -> usize {
        let bodies = [
            2 + self.kind.len() + 4 + 32 + 8 + 8,
            CausalLink::SIZE + 32,
            self.cursors.encoded_len(),
            self.stats.encoded_len(),
            self.bindings.encoded_len(),
            self.lineage.len() * Certificate::SIZE,
            state_len,
        ];
        PREAMBLE_SIZE + bodies.len() * SECTION_HEAD_SIZE + bodies.iter().sum::<usize>() + DIGEST_SIZE
    }

    /// Writes the wire form into `out`.
    ///
    /// # Panics
    /// If `out` does not have exactly [`encoded_len`](Self::encoded_len) bytes, or `kind` not 1 to 255.
    pub fn encode_into(&self, state: &[u8], out: &mut [u8]) {
        assert!(
            (1..=255).contains(&self.kind.len()),
            "a kind is bounded where it is registered"
        );
        assert_eq!(
            out.len(),
            self.encoded_len(state.len()),
            "the caller makes room for exactly this snapshot"
        );
        let mut before = Vec::with_capacity(self.encoded_len(0) - DIGEST_SIZE);
        self.put_before_state(state.len(), &mut before);
        let (covered, digest) = out.split_at_mut(out.len() - DIGEST_SIZE);
        let (meta, body) = covered.split_at_mut(before.len());
        meta.copy_from_slice(&before);
        body.copy_from_slice(state);
        digest.copy_from_slice(digest::plain(covered).as_bytes());
    }

    /// The wire form.
    ///
    /// # Panics
    /// If `kind` does not have 1 to 255 bytes.
    #[must_use]
    pub fn to_bytes(&self, state: &[u8]) -> Vec<u8> {
        let mut out = vec![0; self.encoded_len(state.len())];
        self.encode_into(state, &mut out);
        out
    }

    /// Appends everything up to the first byte of a state of `state_len` bytes; behind the state comes [`digest::plain`] of
    /// all before.
    pub fn put_before_state(&self, state_len: usize, out: &mut Vec<u8>) {
        out.put(MAGIC);
        out.put_u16(VERSION);
        put_section(out, HEADER, |out| {
            out.put_str_u16(&self.kind);
            out.put_u32(self.schema);
            out.put(self.entity.as_bytes());
            out.put_u64(self.epoch);
            out.put_u64(self.taken_at.get());
        });
        put_section(out, HEAD, |out| {
            out.put(&self.head.to_bytes());
            out.put(self.digest.as_bytes());
        });
        put_section(out, CURSORS, |out| self.cursors.put(out));
        put_section(out, STATS, |out| out.put(&self.stats.encode()));
        put_section(out, BINDINGS, |out| self.bindings.put(out));
        put_section(out, LINEAGE, |out| {
            for certificate in &self.lineage {
                out.put(&certificate.to_bytes());
            }
        });
        put_section_head(out, STATE, state_len);
    }
}

/// Reads a snapshot of at most `bytes_max` bytes: everything but the state, and where in `bytes` the state is.
///
/// # Errors
/// [`Fault::TooLarge`], [`Fault::Magic`] and [`Fault::NewerVersion`] come first; then [`Fault::Digest`], before the
/// rest is looked at; then the first fault of a section.
pub fn decode(bytes: &[u8], bytes_max: u64) -> Result<(SnapshotMeta, Range<usize>), DecodeError> {
    let size = bytes.len() as u64;
    if size > bytes_max {
        return Err(DecodeError {
            offset: 0,
            fault: Fault::TooLarge { size, max: bytes_max },
        });
    }
    let mut reader = Reader::new(bytes);
    check_version(&mut reader)?;
    let Some(body_len) = reader.remaining().checked_sub(DIGEST_SIZE) else {
        return Err(reader.fault(Fault::Truncated {
            needed: (DIGEST_SIZE - reader.remaining()) as u64,
        }));
    };
    let (covered, stored) = bytes.split_at(PREAMBLE_SIZE + body_len);
    if digest::plain(covered).as_bytes() != stored {
        return Err(DecodeError {
            offset: covered.len() as u64,
            fault: Fault::Digest,
        });
    }
    let mut sections = Sections {
        reader: Reader::with_base(&covered[PREAMBLE_SIZE..], reader.offset()),
        last: 0,
    };
    let header = read_header(sections.required(HEADER)?)?;
    let head_body = sections.required(HEAD)?;
    let (head, digest) = read_head(head_body.clone())?;
    if head.origin != header.entity.origin() {
        return Err(head_body.fault(Fault::Invalid {
            field: "origin of the head",
        }));
    }
    let cursors = Cursors::read_to_end(sections.required(CURSORS)?)?;
    let stats = DaemonStats::read_to_end(sections.required(STATS)?)?;
    let bindings = DaemonBindings::read_to_end(sections.required(BINDINGS)?)?;
    let lineage = read_lineage(sections.required(LINEAGE)?, &header.entity)?;
    let state = sections.required(STATE)?;
    sections.finish()?;

    let start = usize::try_from(state.offset()).expect("an offset inside a slice");
    let Header {
        kind,
        schema,
        entity,
        epoch,
        taken_at,
    } = header;
    let meta = SnapshotMeta {
        kind,
        schema,
        entity,
        epoch,
        taken_at,
        head,
        digest,
        cursors,
        stats,
        bindings,
        lineage,
    };
    Ok((meta, start..start + state.remaining()))
}

fn put_section(out: &mut Vec<u8>, tag: u16, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    put_section_head(out, tag, 0);
    body(out);
    let length = (out.len() - start - SECTION_HEAD_SIZE) as u64;
    out[start + 4..start + SECTION_HEAD_SIZE].copy_from_slice(&length.to_le_bytes());
}

fn put_section_head(out: &mut Vec<u8>, tag: u16, length: usize) {
    out.put_u16(tag);
    out.put_u16(CRITICAL);
    out.put_u64(length as u64);
}

fn check_version(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    let at_magic = reader.clone();
    if reader.array::<8>()? != *MAGIC {
        return Err(at_magic.fault(Fault::Magic));
    }
    let at_version = reader.clone();
    match reader.u16()? {
        VERSION => Ok(()),
        0 => Err(at_version.fault(Fault::Invalid { field: "version" })),
        found => Err(at_version.fault(Fault::NewerVersion { found, known: VERSION })),
    }
}

/// Walks the sections in ascending order.
struct Sections<'a> {
    reader: Reader<'a>,
    last: u16,
}

impl<'a> Sections<'a> {
    /// The body of section `tag`, which is the next one that is known.
    fn required(&mut self, tag: u16) -> Result<Reader<'a>, DecodeError> {
        loop {
            let before = self.reader.clone();
            match self.next()? {
                Some((found, body)) if found == tag => return Ok(body),
                Some((found, _)) if is_known(found) => return Err(before.fault(Fault::MissingSection { tag })),
                Some(_) => {}
                None => return Err(before.fault(Fault::MissingSection { tag })),
            }
        }
    }

    /// Skips what newer releases may have added at the end.
    fn finish(&mut self) -> Result<(), DecodeError> {
        while self.next()?.is_some() {}
        Ok(())
    }

    /// The next section; an unknown one only if it may be skipped.
    fn next(&mut self) -> Result<Option<(u16, Reader<'a>)>, DecodeError> {
        if self.reader.remaining() == 0 {
            return Ok(None);
        }
        let at_head = self.reader.clone();
        let (tag, flags) = (self.reader.u16()?, self.reader.u16()?);
        let length = self.reader.u64()?;
        if tag <= self.last {
            return Err(at_head.fault(Fault::SectionOrder { tag }));
        }
        let critical = flags & CRITICAL != 0;
        if flags & !CRITICAL != 0 || (is_known(tag) && !critical) {
            return Err(at_head.fault(Fault::Invalid {
                field: "flags of a section",
            }));
        }
        if critical && !is_known(tag) {
            return Err(at_head.fault(Fault::UnknownSection { tag }));
        }
        self.last = tag;
        let offset = self.reader.offset();
        Ok(Some((tag, Reader::with_base(self.reader.take_long(length)?, offset))))
    }
}

const fn is_known(tag: u16) -> bool {
    matches!(tag, HEADER..=STATE)
}

struct Header {
    kind: String,
    schema: u32,
    entity: EntityId,
    epoch: u64,
    taken_at: UnixMs,
}

fn read_header(mut body: Reader<'_>) -> Result<Header, DecodeError> {
    let at_kind = body.clone();
    let kind = body.str_u16()?.to_owned();
    if !(1..=255).contains(&kind.len()) {
        return Err(at_kind.fault(Fault::Invalid {
            field: "length of the kind",
        }));
    }
    let header = Header {
        kind,
        schema: body.u32()?,
        entity: EntityId::from_bytes(body.array()?),
        epoch: body.u64()?,
        taken_at: UnixMs::new(body.u64()?),
    };
    body.expect_end()?;
    Ok(header)
}

fn read_head(mut body: Reader<'_>) -> Result<(CausalLink, Digest), DecodeError> {
    let head = (CausalLink::read(&mut body)?, Digest::from_bytes(body.array()?));
    body.expect_end()?;
    Ok(head)
}

fn read_lineage(mut body: Reader<'_>, entity: &EntityId) -> Result<Vec<Certificate>, DecodeError> {
    let mut lineage: Vec<Certificate> = Vec::with_capacity(body.remaining() / Certificate::SIZE);
    while body.remaining() > 0 {
        let at_certificate = body.clone();
        let certificate = Certificate::read(&mut body)?;
        if certificate.entity != *entity {
            return Err(at_certificate.fault(Fault::Invalid {
                field: "entity of a certificate",
            }));
        }
        if lineage.last().is_some_and(|last| last.epoch >= certificate.epoch) {
            return Err(at_certificate.fault(Fault::Invalid {
                field: "order of certificates",
            }));
        }
        lineage.push(certificate);
    }
    Ok(lineage)
}
