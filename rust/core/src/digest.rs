//! 32-byte BLAKE3 digests, and the public formulas of the chain.
//!
//! ```text
//! d(0) = derive_key("meshos 2026 chain genesis v1")(entity id ‖ lineage)      lineage: 32 zero bytes, or of a fork
//! d(n) = derive_key("meshos 2026 chain event v1")(d(n-1) ‖ link n ‖ payload n)
//! lineage of a fork = derive_key("meshos 2026 fork v1")(parent id ‖ fork sequence ‖ parent digest ‖ child id)
//! ```
//!
//! Source: O'Connor, Aumasson, Neves, Wilcox-O'Hearn, "BLAKE3: one function, fast everywhere", 2020, section 2.3.

use std::fmt;
use std::sync::LazyLock;

use blake3::Hasher;
use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};

use crate::id::EntityId;

/// A BLAKE3 digest. Public: it is compared in ordinary time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// What a digest is of. Digests of different contexts never agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// Before the first event of a chain.
    ChainGenesis,
    /// After an event of a chain.
    ChainEvent,
    /// Descent of a forked chain.
    Fork,
    /// A signed checkpoint.
    Checkpoint,
    /// Before the first entry of a trail.
    TrailGenesis,
    /// After an entry of a trail.
    TrailEntry,
    /// What commands alone decide.
    ControlState,
    /// Before the first commit of a store.
    StoreGenesis,
    /// After a commit of a store.
    StoreCommit,
    /// Before the first step of a daemon.
    JournalGenesis,
    /// After steps of a daemon.
    JournalSteps,
    /// The key under which a node seals the keys of its daemons.
    SealedKey,
    /// All certificates of an entity.
    Lineage,
    /// One grant of a permission token.
    PermissionToken,
    /// The key under which a channel's key is sealed to a subscriber.
    SealedChannelKey,
    /// The nonce of a sealed payload.
    ChannelNonce,
    /// The short name of a mesh.
    Mesh,
    /// A signed frame.
    Frame,
    /// The keys of a session between two nodes.
    Session,
    /// A record of ownership.
    Ownership,
    /// An encoded snapshot that another node fetches.
    RemoteSnapshot,
    /// What the events of a channel are to a daemon.
    ChannelStream,
    /// The key under which an image is sealed to the node that it goes to.
    MoveImageKey,
    /// The key under which the key of a daemon is sealed to the node that it moves to.
    MoveIdentityKey,
}

/// What BLAKE3 hashes at once without vectors.
const CHUNK_SIZE: usize = 1024;

/// As many chunks as the widest vectors hash side by side. An `update` that begins 64 bytes into a chunk would hash the
/// first of them one by one, so the start of a long event is put in one piece: a copy that costs less than it saves.
const START_SIZE: usize = 16 * CHUNK_SIZE;

/// The key of each context, hashed once, in the order of [`Context`].
static CONTEXT_KEYS: LazyLock<[ContextKey; 24]> = LazyLock::new(|| {
    [
        Context::ChainGenesis,
        Context::ChainEvent,
        Context::Fork,
        Context::Checkpoint,
        Context::TrailGenesis,
        Context::TrailEntry,
        Context::ControlState,
        Context::StoreGenesis,
        Context::StoreCommit,
        Context::JournalGenesis,
        Context::JournalSteps,
        Context::SealedKey,
        Context::Lineage,
        Context::PermissionToken,
        Context::SealedChannelKey,
        Context::ChannelNonce,
        Context::Mesh,
        Context::Frame,
        Context::Session,
        Context::Ownership,
        Context::RemoteSnapshot,
        Context::ChannelStream,
        Context::MoveImageKey,
        Context::MoveIdentityKey,
    ]
    .map(|context| hash_derive_key_context(context.text()))
});

impl Context {
    /// The text that the key of this context is derived from.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::ChainGenesis => "meshos 2026 chain genesis v1",
            Self::ChainEvent => "meshos 2026 chain event v1",
            Self::Fork => "meshos 2026 fork v1",
            Self::Checkpoint => "meshos 2026 checkpoint v1",
            Self::TrailGenesis => "meshos 2026 trail genesis v1",
            Self::TrailEntry => "meshos 2026 trail entry v1",
            Self::ControlState => "meshos 2026 control state v1",
            Self::StoreGenesis => "meshos 2026 store genesis v1",
            Self::StoreCommit => "meshos 2026 store commit v1",
            Self::JournalGenesis => "meshos 2026 journal genesis v1",
            Self::JournalSteps => "meshos 2026 journal steps v1",
            Self::SealedKey => "meshos 2026 sealed key v1",
            Self::Lineage => "meshos 2026 lineage v1",
            Self::PermissionToken => "meshos 2026 permission token v1",
            Self::SealedChannelKey => "meshos 2026 sealed channel key v1",
            Self::ChannelNonce => "meshos 2026 channel nonce v1",
            Self::Mesh => "meshos 2026 mesh v1",
            Self::Frame => "meshos 2026 frame v1",
            Self::Session => "meshos 2026 session v1",
            Self::Ownership => "meshos 2026 ownership record v1",
            Self::RemoteSnapshot => "meshos 2026 remote snapshot v1",
            Self::ChannelStream => "meshos 2026 channel stream v1",
            Self::MoveImageKey => "meshos 2026 move image key v1",
            Self::MoveIdentityKey => "meshos 2026 move identity key v1",
        }
    }

    fn hasher(self) -> Hasher {
        Hasher::new_from_context_key(&CONTEXT_KEYS[self as usize])
    }
}

impl Digest {
    /// 32 zero bytes: "none", and the lineage of a chain that is no fork.
    pub const ZERO: Self = Self([0; 32]);

    /// Takes 32 bytes.
    #[must_use]
    pub const fn from_bytes(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 8 bytes as a little-endian number: what a link names its parent by.
    #[must_use]
    pub const fn head8(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Digest before the first event of `entity`.
#[must_use]
pub fn genesis(entity: &EntityId, lineage: &Digest) -> Digest {
    derive(Context::ChainGenesis, &[entity.as_bytes(), &lineage.0])
}

/// Lineage of `child`, forked from `parent` after its event `sequence`, where its chain had `parent_digest`.
#[must_use]
pub fn fork_lineage(parent: &EntityId, sequence: u64, parent_digest: &Digest, child: &EntityId) -> Digest {
    derive(
        Context::Fork,
        &[
            parent.as_bytes(),
            &sequence.to_le_bytes(),
            &parent_digest.0,
            child.as_bytes(),
        ],
    )
}

/// Digest after an event, from the digest before it.
#[must_use]
pub fn event(head: &Digest, link: &[u8; 32], payload: &[u8]) -> Digest {
    let mut hasher = Context::ChainEvent.hasher();
    if payload.len() <= CHUNK_SIZE {
        hasher.update(&head.0).update(link).update(payload);
    } else {
        let mut start = [0; START_SIZE];
        let (copied, rest) = payload.split_at(payload.len().min(START_SIZE - 64));
        start[..32].copy_from_slice(&head.0);
        start[32..64].copy_from_slice(link);
        start[64..64 + copied.len()].copy_from_slice(copied);
        hasher.update(&start[..64 + copied.len()]).update(rest);
    }
    Digest(*hasher.finalize().as_bytes())
}

/// Digest of the concatenated `parts` in a context.
#[must_use]
pub fn derive(context: Context, parts: &[&[u8]]) -> Digest {
    let mut hasher = context.hasher();
    for part in parts {
        hasher.update(part);
    }
    Digest(*hasher.finalize().as_bytes())
}

/// Plain BLAKE3, for content: whole snapshots, chunks, files.
#[must_use]
pub fn plain(bytes: &[u8]) -> Digest {
    Digest(*blake3::hash(bytes).as_bytes())
}

/// Plain BLAKE3 of concatenated parts.
#[must_use]
pub fn plain_of_parts(parts: &[&[u8]]) -> Digest {
    let mut hasher = Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    Digest(*hasher.finalize().as_bytes())
}
