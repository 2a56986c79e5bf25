//! Frames: everything that travels between nodes, in one encoding, each sealed by its sender.
//!
//! ```text
//! "MSHF" 4 | version u8 = 1 | seal u8 (1 signature, 2 session) | kind u8 | zero u8 | mesh 16 | from 32 | to 32
//!   | run u64 | number u64 | body_len u32 | body | signature 64, or tag 32
//! ```
//! Numbers are little endian. `to` is 32 zero bytes in a frame to every node. `run` is one start of the sender, and
//! `number` rises with each frame that it seals in the same way in that run: for a session, with each frame to that node.
//!
//! * A *signature* is of the node's key, over `derive_key("meshos 2026 frame v1")` of everything before it. Everybody can
//!   check it. It costs tens of microseconds, so what is signed is rare, or holds much at once.
//! * A *tag* is keyed BLAKE3 of everything before it, under the key of the [`session`](crate::session) from the sender to
//!   the receiver. Only those two can make or check it, at the cost of a hash.
//!
//! Invariants
//! * A frame that was changed, shortened or lengthened is refused, and so is one of another mesh or to another node.
//! * What a refusal is about is checked in the order of [`Refusal`]: what costs least comes first.

use thiserror::Error;

use crate::buffer::Buffer;
use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::digest::{self, Context, Digest};
use crate::id::EntityId;
use crate::identity::{self, IdentityError, Keypair};

/// The version written, and the newest that is read.
pub const VERSION: u8 = 1;

/// Bytes of a body at most.
pub const BODY_BYTES_MAX: usize = 64 << 20;

/// Bytes before the body.
pub const HEADER_SIZE: usize = 4 + 4 + 16 + 32 + 32 + 8 + 8 + 4;

/// Bytes of a frame at most.
pub const FRAME_BYTES_MAX: usize = HEADER_SIZE + BODY_BYTES_MAX + SIGNATURE_SIZE;

const MAGIC: [u8; 4] = *b"MSHF";
const SIGNATURE_SIZE: usize = 64;
const TAG_SIZE: usize = 32;
const EVERYBODY: [u8; 32] = [0; 32];

/// Short name of a mesh; frames of another are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeshId([u8; 16]);

impl MeshId {
    /// The short name of the mesh that is called `cluster_id`.
    #[must_use]
    pub fn of(cluster_id: &[u8]) -> Self {
        let digest = digest::derive(Context::Mesh, &[cluster_id]);
        let (short, _) = digest.as_bytes().split_first_chunk().expect("a digest has 32 bytes");
        Self(*short)
    }

    /// Takes 16 bytes.
    #[must_use]
    pub const fn from_bytes(raw: [u8; 16]) -> Self {
        Self(raw)
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u8);

impl Kind {
    /// A [`Heartbeat`](crate::heartbeat::Heartbeat); signed, to everybody or to one.
    pub const HEARTBEAT: Self = Self(1);
    /// Bytes of a layer above, to one node.
    pub const DATA: Self = Self(2);
    /// A [`parcel`](crate::parcel) of frames of linked [`stream`](crate::stream)s, to one node.
    pub const LINKED: Self = Self(3);
    /// A [`parcel`](crate::parcel) of frames of channels, to one node.
    pub const CHANNEL: Self = Self(4);
    /// An [`ownership_frame`](crate::ownership_frame), or several in a [`parcel`](crate::parcel), to one node.
    pub const OWNERSHIP: Self = Self(5);
    /// What a node asks of another, or answers.
    pub const REMOTE: Self = Self(6);
    /// Moves of daemons.
    pub const MOVE: Self = Self(7);
    /// A [`feed_frame`](crate::feed_frame): what a reader of a chain is sent, or answers.
    pub const FEED: Self = Self(8);
}

/// What stands before the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Mesh of the sender.
    pub mesh: MeshId,
    /// Key of the node that sent it.
    pub from: EntityId,
    /// Key of the node that it is for; `None`: every node.
    pub to: Option<EntityId>,
    /// Start of the sender.
    pub run: u64,
    /// Its number among those sealed alike.
    pub number: u64,
    /// What the body is.
    pub kind: Kind,
}

/// How a frame says who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// A signature of the sender's key.
    Signature([u8; SIGNATURE_SIZE]),
    /// A tag under the key of a session.
    Tag([u8; TAG_SIZE]),
}

/// A frame that was read and not checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What stands before the body.
    pub header: Header,
    /// The body.
    pub body: &'a [u8],
    /// How it is sealed.
    pub seal: Seal,
    covered: &'a [u8],
}

/// Why a frame is refused. Nothing of it takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The queue of the receiver is full.
    #[error("the inbox is full")]
    Full,
    /// It cannot be read.
    #[error("malformed: {0}")]
    Malformed(DecodeError),
    /// It is of another mesh.
    #[error("it is of another mesh")]
    OtherMesh,
    /// It is for another node.
    #[error("it is for another node")]
    NotForUs,
    /// This node sent it, or somebody who has its key.
    #[error("it names this node as its sender")]
    Ourselves,
    /// Nobody of this mesh sent it.
    #[error("its sender is not known here")]
    UnknownSender,
    /// It is of a start of its sender that ended, or that was not heard of yet.
    #[error("it is of another run of its sender")]
    OtherRun,
    /// Nobody takes what it holds, or not when it is sealed so.
    #[error("its kind is not taken")]
    UnknownKind,
    /// Who is named as its sender did not send this.
    #[error("its seal does not fit")]
    BadSeal,
    /// It was taken before.
    #[error("it was taken before")]
    Replayed,
    /// It is so late that nobody knows whether it was taken before.
    #[error("it is too late")]
    TooLate,
    /// There are as many nodes as are looked after.
    #[error("there are too many nodes")]
    Crowded,
}

impl Refusal {
    /// The word for each, in order.
    pub const WORDS: [&'static str; 12] = [
        "full",
        "malformed",
        "other_mesh",
        "not_for_us",
        "ourselves",
        "unknown_sender",
        "other_run",
        "unknown_kind",
        "bad_seal",
        "replayed",
        "too_late",
        "crowded",
    ];

    /// Its place in [`Refusal::WORDS`].
    #[must_use]
    pub const fn index(&self) -> usize {
        match self {
            Self::Full => 0,
            Self::Malformed(_) => 1,
            Self::OtherMesh => 2,
            Self::NotForUs => 3,
            Self::Ourselves => 4,
            Self::UnknownSender => 5,
            Self::OtherRun => 6,
            Self::UnknownKind => 7,
            Self::BadSeal => 8,
            Self::Replayed => 9,
            Self::TooLate => 10,
            Self::Crowded => 11,
        }
    }

    /// Its word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        Self::WORDS[self.index()]
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error)
    }
}

/// A body with room for what stands around it, so that it is not copied.
pub struct Draft(Buffer);

impl Draft {
    /// Has `fill` put a body of at most so many bytes behind what is there.
    pub fn new(capacity: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Self {
        Self::within(Vec::new().into(), capacity, fill)
    }

    /// The same in a buffer, in place of what is in it.
    pub fn within(mut buffer: Buffer, capacity: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Self {
        let bytes = buffer.bytes_mut();
        bytes.clear();
        bytes.reserve_exact(HEADER_SIZE + capacity + SIGNATURE_SIZE);
        bytes.resize(HEADER_SIZE, 0);
        fill(bytes);
        Self(buffer)
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.0[HEADER_SIZE..]
    }

    /// The buffer: a frame that is not sealed, whose header is not written.
    #[must_use]
    pub fn into_buffer(self) -> Buffer {
        self.0
    }

    /// The frame of it, tagged for its receiver.
    ///
    /// # Panics
    /// If the body has more than [`BODY_BYTES_MAX`] bytes.
    #[must_use]
    pub fn tag(mut self, header: &Header, key: &[u8; 32]) -> Buffer {
        let begin = begin(header, 2, self.body().len());
        let bytes = self.0.bytes_mut();
        bytes[..HEADER_SIZE].copy_from_slice(&begin);
        let tag = blake3::keyed_hash(key, bytes);
        bytes.put(tag.as_bytes());
        self.0
    }
}

fn begin(header: &Header, seal: u8, body_len: usize) -> Vec<u8> {
    assert!(body_len <= BODY_BYTES_MAX, "a body is bounded where it enters");
    let mut out = Vec::with_capacity(HEADER_SIZE);
    out.put(&MAGIC);
    out.put(&[VERSION, seal, header.kind.0, 0]);
    out.put(&header.mesh.0);
    out.put(header.from.as_bytes());
    out.put(header.to.map_or(EVERYBODY, |to| *to.as_bytes()).as_slice());
    out.put_u64(header.run);
    out.put_u64(header.number);
    out.put_count_u32(body_len);
    out
}

/// Makes a frame that is signed by its sender, whose key must be that of the header.
///
/// # Errors
/// [`IdentityError::ReadOnly`]: the key is public only.
///
/// # Panics
/// If the body has more than [`BODY_BYTES_MAX`] bytes, or the key is not the sender's.
pub fn sign(header: &Header, body: &[u8], key: &Keypair) -> Result<Vec<u8>, IdentityError> {
    assert_eq!(header.from, key.entity_id(), "a node signs for itself");
    let mut out = begin(header, 1, body.len());
    out.reserve_exact(body.len() + SIGNATURE_SIZE);
    out.put(body);
    let signature = key.sign(digest::derive(Context::Frame, &[&out]).as_bytes())?;
    out.put(&signature);
    Ok(out)
}

/// Makes a frame that is tagged for its receiver.
///
/// # Panics
/// If the body has more than [`BODY_BYTES_MAX`] bytes.
#[must_use]
pub fn tag(header: &Header, body: &[u8], key: &[u8; 32]) -> Vec<u8> {
    let draft = Draft::new(body.len(), |out| out.put(body));
    draft.tag(header, key).into_vec()
}

impl<'a> Frame<'a> {
    /// Reads a frame, and checks nothing but its form.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that no node writes.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let at = reader.clone();
        if reader.array()? != MAGIC {
            return Err(at.fault(Fault::Magic));
        }
        reader.version_u8(VERSION)?;
        let at = reader.clone();
        let seal = reader.u8()?;
        if !matches!(seal, 1 | 2) {
            return Err(at.fault(Fault::Invalid { field: "seal" }));
        }
        let kind = Kind(reader.u8()?);
        let at = reader.clone();
        if reader.u8()? != 0 {
            return Err(at.fault(Fault::Invalid { field: "zero" }));
        }
        let mesh = MeshId(reader.array()?);
        let from = EntityId::from_bytes(reader.array()?);
        let to = Some(reader.array()?).filter(|to| *to != EVERYBODY);
        let (run, number) = (reader.u64()?, reader.u64()?);
        let length = reader.count_below(1, BODY_BYTES_MAX)?;
        let body = reader.take(length)?;
        let covered = &bytes[..bytes.len() - reader.remaining()];
        let seal = match seal {
            1 => Seal::Signature(reader.array()?),
            _ => Seal::Tag(reader.array()?),
        };
        reader.expect_end()?;
        let header = Header {
            mesh,
            from,
            to: to.map(EntityId::from_bytes),
            run,
            number,
            kind,
        };
        Ok(Self {
            header,
            body,
            seal,
            covered,
        })
    }

    /// Checks that it is of this mesh, for this node, and of another one.
    ///
    /// # Errors
    /// [`Refusal::OtherMesh`], [`Refusal::NotForUs`], [`Refusal::Ourselves`].
    pub fn check_way(&self, mesh: &MeshId, node: &EntityId) -> Result<(), Refusal> {
        let header = &self.header;
        if header.mesh != *mesh {
            return Err(Refusal::OtherMesh);
        }
        if header.to.is_some_and(|to| to != *node) {
            return Err(Refusal::NotForUs);
        }
        if header.from == *node {
            return Err(Refusal::Ourselves);
        }
        Ok(())
    }

    /// Checks that its sender signed it.
    ///
    /// # Errors
    /// [`Refusal::BadSeal`]: it is not signed, or not by the node that it names.
    pub fn check_signature(&self) -> Result<(), Refusal> {
        let Seal::Signature(signature) = &self.seal else {
            return Err(Refusal::BadSeal);
        };
        let digest: Digest = digest::derive(Context::Frame, &[self.covered]);
        identity::verify(&self.header.from, digest.as_bytes(), signature).map_err(|_| Refusal::BadSeal)
    }

    /// Checks that it was tagged under the key of a session.
    ///
    /// # Errors
    /// [`Refusal::BadSeal`]: it is not tagged, or under another key.
    pub fn check_tag(&self, key: &[u8; 32]) -> Result<(), Refusal> {
        let Seal::Tag(tag) = &self.seal else {
            return Err(Refusal::BadSeal);
        };
        // Hashes are compared in constant time.
        if blake3::keyed_hash(key, self.covered) == blake3::Hash::from_bytes(*tag) {
            Ok(())
        } else {
            Err(Refusal::BadSeal)
        }
    }
}
