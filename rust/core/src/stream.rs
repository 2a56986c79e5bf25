//! Frames of linked streams: events with their answers, and outputs with theirs.
//!
//! A frame is the body of a message. Of which mesh it is, which node sends it and that nobody changed it is said by what
//! carries it.
//!
//! Invariants
//! * A frame has one encoding. What is read back is what was written, or it is refused.
//! * A payload has at most [`PAYLOAD_BYTES_MAX`], a lineage at most [`LINEAGE_MAX`] certificates.
//! * The full id of the receiving entity is in every frame but the search for it; an answer names the event that it answers.
//! * Whoever is found has the handle that was asked for.
//!
//! ```text
//! frame         version u8 = 1 | kind u8 | body
//! flow          entity 32 | origin u64 | stream u64
//!  1 event      flow | sequence u64 | prev u64 | epoch u64 | length u32 | payload
//!  2 ack        flow | sequence u64 | epoch u64 | processed u64 | position u64 | digest 32 | duplicate u8 (0, 1)
//!  3 busy       flow | sequence u64 | retry after, in ms u32
//!  4 queued     flow | sequence u64
//!  5 gap        flow | sequence u64 | cursor u64 | epoch u64
//!  6 stale      flow | sequence u64 | cursor u64 | epoch u64
//!  7 moved      flow | sequence u64 | node 32 | epoch u64
//!  8 not here   flow | sequence u64
//!  9 passed     flow | sequence u64 | epoch u64
//! 10 locate     flow
//! 11 output     entity 32 | epoch u64 | lineage 32 | link 32 | length u32 | payload
//! 12 out ack    entity 32 | epoch u64 | n u64
//! 13 follow     entity 32 | epoch u64 | after u64
//! 14 announce   entity 32 | epoch u64 | n u64 | head 32 | count u32 | certificates, 210 bytes each
//! 15 find       origin u64
//! 16 found      origin u64 | entity 32 | node 32 | epoch u64
//! 17 nobody     origin u64
//! lineage = derive_key("meshos 2026 lineage v1")(certificates, oldest first)
//! ```
//! Numbers are little endian.

use crate::certificate::Certificate;
use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::cursors::Receipt;
use crate::digest::{self, Context, Digest};
use crate::id::{EntityId, Origin};
use crate::link::CausalLink;

/// The version written, and the newest that is read.
pub const VERSION: u8 = 1;

/// Longest payload of an event or output.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// Most certificates of an announcement.
pub const LINEAGE_MAX: usize = 65_536;

/// Whose events go where: one origin, one receiver, one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// The receiver.
    pub entity: EntityId,
    /// Who numbers the events.
    pub origin: Origin,
    /// What they belong to at the receiver; 0 for direct sends.
    pub stream: u64,
}

/// One event on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Whose it is, and where it goes.
    pub flow: Flow,
    /// Its number at its origin, from 1.
    pub sequence: u64,
    /// The number that its origin sent before it in this flow; 0 for none, or unknown since a restart.
    pub prev: u64,
    /// Epoch of the owner that its sender believes in; 0 for none.
    pub epoch: u64,
    /// The event itself.
    pub payload: &'a [u8],
}

/// One output on its way to a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output<'a> {
    /// Whose output it is.
    pub entity: EntityId,
    /// Epoch of the owner that carries it; the link may be of an earlier one.
    pub epoch: u64,
    /// [`lineage_digest`] of the owner's lineage.
    pub lineage: Digest,
    /// Its link, as it was first emitted.
    pub link: CausalLink,
    /// The output itself.
    pub payload: &'a [u8],
}

/// An owner says who it is and how far the chain is, without waiting for an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce {
    /// Whose chain it is.
    pub entity: EntityId,
    /// Epoch of the owner.
    pub epoch: u64,
    /// Last output that it may publish.
    pub n: u64,
    /// Digest of the chain there.
    pub head: Digest,
    /// Who could speak for the entity, oldest first. Whoever takes it in checks the signatures first.
    pub lineage: Vec<Certificate>,
}

/// A message of a linked stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A sender's event.
    Event(Event<'a>),
    /// It took effect, and as long as its receiver promises that will stay so.
    Ack {
        /// Which flow.
        flow: Flow,
        /// The acknowledgement, always that of the first time.
        receipt: Receipt,
        /// Whether it had taken effect before this try.
        duplicate: bool,
    },
    /// There is no room for it now.
    Busy {
        /// Which flow.
        flow: Flow,
        /// Which event.
        sequence: u64,
        /// When to try again, in milliseconds from now.
        retry_after_ms: u32,
    },
    /// It waits at the receiver. Advice, never an acknowledgement.
    Queued {
        /// Which flow.
        flow: Flow,
        /// Which event.
        sequence: u64,
    },
    /// Events before it are missing.
    Gap {
        /// Which flow.
        flow: Flow,
        /// Which event.
        sequence: u64,
        /// Highest number applied.
        cursor: u64,
        /// Epoch of the owner that says so.
        epoch: u64,
    },
    /// It is at or below the cursor, and nothing is known of it any more.
    Stale {
        /// Which flow.
        flow: Flow,
        /// Which event.
        sequence: u64,
        /// Highest number applied.
        cursor: u64,
        /// Epoch of the owner that says so.
        epoch: u64,
    },
    /// The entity is elsewhere.
    Moved {
        /// Which flow.
        flow: Flow,
        /// Which event; 0: none, the answer to [`Frame::Locate`].
        sequence: u64,
        /// Key of the node that owns it.
        node: EntityId,
        /// Since which epoch.
        epoch: u64,
    },
    /// This node knows nothing of the entity.
    NotHere {
        /// Which flow.
        flow: Flow,
        /// Which event; 0: none.
        sequence: u64,
    },
    /// It failed too often and was passed over: its cursor moved, and nothing else.
    PassedOver {
        /// Which flow.
        flow: Flow,
        /// Which event.
        sequence: u64,
        /// Epoch of the owner that says so.
        epoch: u64,
    },
    /// Who owns the entity?
    Locate {
        /// Which flow.
        flow: Flow,
    },
    /// An owner's output.
    Output(Output<'a>),
    /// A consumer has everything up to `n`.
    OutAck {
        /// Whose outputs.
        entity: EntityId,
        /// Epoch of the owner that carried them.
        epoch: u64,
        /// The last of them.
        n: u64,
    },
    /// A consumer wants everything after `after`.
    Follow {
        /// Whose outputs.
        entity: EntityId,
        /// Epoch of the owner that it believes in; 0 for none.
        epoch: u64,
        /// The last that it has.
        after: u64,
    },
    /// An owner began.
    Announce(Announce),
    /// Who has this handle?
    Find {
        /// The handle.
        origin: Origin,
    },
    /// This entity has it.
    Found {
        /// The entity. Its handle is in the frame too.
        entity: EntityId,
        /// Key of the node that owns it.
        node: EntityId,
        /// Since which epoch.
        epoch: u64,
    },
    /// This node knows nobody with this handle.
    Nobody {
        /// The handle.
        origin: Origin,
    },
}

/// What all certificates of a lineage come to. An owner puts it in every output, and a consumer compares it.
#[must_use]
pub fn lineage_digest(lineage: &[Certificate]) -> Digest {
    let parts: Vec<_> = lineage.iter().map(Certificate::to_bytes).collect();
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    digest::derive(Context::Lineage, &parts)
}

impl<'a> Frame<'a> {
    /// Reads exactly one frame.
    ///
    /// # Errors
    /// A [`DecodeError`] for the first bad field. Signatures of certificates are not checked.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version_u8(VERSION)?;
        let at_kind = reader.clone();
        let kind = reader.u8()?;
        let frame = match kind {
            1 => Self::Event(read_event(&mut reader)?),
            2 => read_ack(&mut reader)?,
            3..=9 => read_answer(&mut reader, kind)?,
            10 => Self::Locate {
                flow: read_flow(&mut reader)?,
            },
            11..=14 => read_outward(&mut reader, kind)?,
            15..=17 => read_search(&mut reader, kind)?,
            _ => return Err(at_kind.fault(Fault::Invalid { field: "kind" })),
        };
        reader.expect_end()?;
        Ok(frame)
    }

    /// The one encoding.
    ///
    /// # Panics
    /// If a payload or a lineage is longer than it may be; both are bounded where they enter.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        self.put(&mut out);
        out
    }

    /// Appends the one encoding.
    ///
    /// # Panics
    /// As [`Frame::to_bytes`].
    pub fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        match self {
            Self::Event(event) => {
                put_head(out, 1, &event.flow);
                put_numbers(out, [event.sequence, event.prev, event.epoch]);
                put_payload(out, event.payload);
            }
            Self::Ack {
                flow,
                receipt,
                duplicate,
            } => {
                put_head(out, 2, flow);
                put_numbers(
                    out,
                    [receipt.sequence, receipt.epoch, receipt.processed, receipt.position],
                );
                out.put(receipt.digest.as_bytes());
                out.put_u8(u8::from(*duplicate));
            }
            Self::Busy {
                flow,
                sequence,
                retry_after_ms,
            } => {
                put_head(out, 3, flow);
                out.put_u64(*sequence);
                out.put_u32(*retry_after_ms);
            }
            Self::Queued { flow, sequence } => {
                put_head(out, 4, flow);
                out.put_u64(*sequence);
            }
            Self::Gap {
                flow,
                sequence,
                cursor,
                epoch,
            } => {
                put_head(out, 5, flow);
                put_numbers(out, [*sequence, *cursor, *epoch]);
            }
            Self::Stale {
                flow,
                sequence,
                cursor,
                epoch,
            } => {
                put_head(out, 6, flow);
                put_numbers(out, [*sequence, *cursor, *epoch]);
            }
            Self::Moved {
                flow,
                sequence,
                node,
                epoch,
            } => {
                put_head(out, 7, flow);
                out.put_u64(*sequence);
                out.put(node.as_bytes());
                out.put_u64(*epoch);
            }
            Self::NotHere { flow, sequence } => {
                put_head(out, 8, flow);
                out.put_u64(*sequence);
            }
            Self::PassedOver { flow, sequence, epoch } => {
                put_head(out, 9, flow);
                put_numbers(out, [*sequence, *epoch]);
            }
            Self::Locate { flow } => put_head(out, 10, flow),
            Self::Output(output) => {
                put_outward(out, 11, &output.entity, output.epoch);
                out.put(output.lineage.as_bytes());
                out.put(&output.link.to_bytes());
                put_payload(out, output.payload);
            }
            Self::OutAck { entity, epoch, n } => {
                put_outward(out, 12, entity, *epoch);
                out.put_u64(*n);
            }
            Self::Follow { entity, epoch, after } => {
                put_outward(out, 13, entity, *epoch);
                out.put_u64(*after);
            }
            Self::Announce(announce) => {
                assert!(
                    announce.lineage.len() <= LINEAGE_MAX,
                    "a lineage is bounded where it grows"
                );
                put_outward(out, 14, &announce.entity, announce.epoch);
                out.put_u64(announce.n);
                out.put(announce.head.as_bytes());
                out.put_count_u32(announce.lineage.len());
                for certificate in &announce.lineage {
                    out.put(&certificate.to_bytes());
                }
            }
            Self::Find { origin } => put_search(out, 15, *origin),
            Self::Found { entity, node, epoch } => {
                put_search(out, 16, entity.origin());
                out.put(entity.as_bytes());
                out.put(node.as_bytes());
                out.put_u64(*epoch);
            }
            Self::Nobody { origin } => put_search(out, 17, *origin),
        }
    }
}

fn put_head(out: &mut Vec<u8>, kind: u8, flow: &Flow) {
    out.put_u8(kind);
    out.put(flow.entity.as_bytes());
    put_numbers(out, [flow.origin.get(), flow.stream]);
}

fn put_outward(out: &mut Vec<u8>, kind: u8, entity: &EntityId, epoch: u64) {
    out.put_u8(kind);
    out.put(entity.as_bytes());
    out.put_u64(epoch);
}

fn put_search(out: &mut Vec<u8>, kind: u8, origin: Origin) {
    out.put_u8(kind);
    out.put_u64(origin.get());
}

fn put_numbers<const N: usize>(out: &mut Vec<u8>, numbers: [u64; N]) {
    numbers.into_iter().for_each(|number| out.put_u64(number));
}

fn put_payload(out: &mut Vec<u8>, payload: &[u8]) {
    assert!(
        payload.len() <= PAYLOAD_BYTES_MAX,
        "a payload is bounded where it enters"
    );
    out.reserve(4 + payload.len());
    out.put_count_u32(payload.len());
    out.put(payload);
}

fn read_flow(reader: &mut Reader<'_>) -> Result<Flow, DecodeError> {
    Ok(Flow {
        entity: EntityId::from_bytes(reader.array()?),
        origin: Origin::new(reader.u64()?),
        stream: reader.u64()?,
    })
}

/// Reads the number of an event, which is never 0.
fn read_sequence(reader: &mut Reader<'_>) -> Result<u64, DecodeError> {
    let at = reader.clone();
    match reader.u64()? {
        0 => Err(at.fault(Fault::Invalid { field: "sequence" })),
        sequence => Ok(sequence),
    }
}

/// Reads the epoch of an owner, which is never 0.
fn read_epoch(reader: &mut Reader<'_>) -> Result<u64, DecodeError> {
    let at = reader.clone();
    match reader.u64()? {
        0 => Err(at.fault(Fault::Invalid { field: "epoch" })),
        epoch => Ok(epoch),
    }
}

fn read_payload<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let length = reader.count_below(1, PAYLOAD_BYTES_MAX)?;
    reader.take(length)
}

fn read_event<'a>(reader: &mut Reader<'a>) -> Result<Event<'a>, DecodeError> {
    let (flow, sequence) = (read_flow(reader)?, read_sequence(reader)?);
    let at_prev = reader.clone();
    let prev = reader.u64()?;
    if prev >= sequence {
        return Err(at_prev.fault(Fault::Invalid { field: "prev" }));
    }
    Ok(Event {
        flow,
        sequence,
        prev,
        epoch: reader.u64()?,
        payload: read_payload(reader)?,
    })
}

fn read_ack<'a>(reader: &mut Reader<'a>) -> Result<Frame<'a>, DecodeError> {
    let flow = read_flow(reader)?;
    let receipt = Receipt {
        sequence: read_sequence(reader)?,
        epoch: read_epoch(reader)?,
        processed: reader.u64()?,
        position: reader.u64()?,
        digest: Digest::from_bytes(reader.array()?),
    };
    let at_mark = reader.clone();
    let duplicate = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return Err(at_mark.fault(Fault::Invalid { field: "duplicate" })),
    };
    Ok(Frame::Ack {
        flow,
        receipt,
        duplicate,
    })
}

fn read_answer<'a>(reader: &mut Reader<'a>, kind: u8) -> Result<Frame<'a>, DecodeError> {
    let flow = read_flow(reader)?;
    // An answer to the question who the owner is names no event.
    let sequence = if matches!(kind, 7 | 8) {
        reader.u64()?
    } else {
        read_sequence(reader)?
    };
    Ok(match kind {
        3 => Frame::Busy {
            flow,
            sequence,
            retry_after_ms: reader.u32()?,
        },
        4 => Frame::Queued { flow, sequence },
        5 => {
            let at_cursor = reader.clone();
            let cursor = reader.u64()?;
            if cursor >= sequence {
                return Err(at_cursor.fault(Fault::Invalid { field: "cursor" }));
            }
            Frame::Gap {
                flow,
                sequence,
                cursor,
                epoch: read_epoch(reader)?,
            }
        }
        6 => {
            let at_cursor = reader.clone();
            let cursor = reader.u64()?;
            if cursor < sequence {
                return Err(at_cursor.fault(Fault::Invalid { field: "cursor" }));
            }
            Frame::Stale {
                flow,
                sequence,
                cursor,
                epoch: read_epoch(reader)?,
            }
        }
        7 => Frame::Moved {
            flow,
            sequence,
            node: EntityId::from_bytes(reader.array()?),
            epoch: read_epoch(reader)?,
        },
        8 => Frame::NotHere { flow, sequence },
        _ => Frame::PassedOver {
            flow,
            sequence,
            epoch: read_epoch(reader)?,
        },
    })
}

fn read_search<'a>(reader: &mut Reader<'_>, kind: u8) -> Result<Frame<'a>, DecodeError> {
    let origin = Origin::new(reader.u64()?);
    Ok(match kind {
        15 => Frame::Find { origin },
        16 => {
            let at_entity = reader.clone();
            let entity = EntityId::from_bytes(reader.array()?);
            if entity.origin() != origin {
                return Err(at_entity.fault(Fault::Invalid { field: "entity" }));
            }
            Frame::Found {
                entity,
                node: EntityId::from_bytes(reader.array()?),
                epoch: read_epoch(reader)?,
            }
        }
        _ => Frame::Nobody { origin },
    })
}

fn read_outward<'a>(reader: &mut Reader<'a>, kind: u8) -> Result<Frame<'a>, DecodeError> {
    let entity = EntityId::from_bytes(reader.array()?);
    // Only who follows for the first time believes in no owner.
    let epoch = if kind == 13 { reader.u64()? } else { read_epoch(reader)? };
    Ok(match kind {
        11 => {
            let lineage = Digest::from_bytes(reader.array()?);
            let at_link = reader.clone();
            let link = CausalLink::read(reader)?;
            if link.sequence == 0 {
                return Err(at_link.fault(Fault::Invalid { field: "link" }));
            }
            Frame::Output(Output {
                entity,
                epoch,
                lineage,
                link,
                payload: read_payload(reader)?,
            })
        }
        12 => Frame::OutAck {
            entity,
            epoch,
            n: reader.u64()?,
        },
        13 => Frame::Follow {
            entity,
            epoch,
            after: reader.u64()?,
        },
        _ => {
            let (n, head) = (reader.u64()?, Digest::from_bytes(reader.array()?));
            let count = reader.count_below(Certificate::SIZE, LINEAGE_MAX)?;
            let lineage = (0..count)
                .map(|_| Certificate::read(reader))
                .collect::<Result<_, _>>()?;
            Frame::Announce(Announce {
                entity,
                epoch,
                n,
                head,
                lineage,
            })
        }
    })
}
