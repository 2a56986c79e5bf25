//! Names of entities and nodes: the full public key, and 64-bit handles derived from it.
//!
//! Invariants
//! * The full id decides. A handle finds an entry; the id found there is compared before it is believed.
//! * A handle is the first 8 bytes, little endian, of BLAKE3 `derive_key(context)` over the id.

use std::fmt;
use std::sync::LazyLock;

use blake3::Hasher;
use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};
use ed25519_dalek::VerifyingKey;
use thiserror::Error;

static ORIGIN_KEY: LazyLock<ContextKey> = LazyLock::new(|| hash_derive_key_context("meshos 2026 origin hash v1"));
static NODE_KEY: LazyLock<ContextKey> = LazyLock::new(|| hash_derive_key_context("meshos 2026 node id v1"));

/// The 32-byte Ed25519 public key that is an entity: a daemon, a node, a sender or an operator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityId([u8; 32]);

/// The bytes are not a public key that a signature could be checked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the 32 bytes are not an Ed25519 public key")]
pub struct InvalidKey;

impl EntityId {
    /// Takes the bytes as they arrived, without a check.
    #[must_use]
    pub const fn from_bytes(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// Takes the bytes of a key that signatures can be checked with.
    ///
    /// # Errors
    /// [`InvalidKey`] if they are not the canonical encoding of a point of the curve, or if the point is of small
    /// order, for which anybody can make signatures.
    pub fn checked(raw: [u8; 32]) -> Result<Self, InvalidKey> {
        let id = Self(raw);
        id.verifying_key().map(|_| id)
    }

    /// The key as the signature library wants it, checked as in [`EntityId::checked`].
    pub(crate) fn verifying_key(&self) -> Result<VerifyingKey, InvalidKey> {
        match VerifyingKey::from_bytes(&self.0) {
            Ok(key) if is_canonical(&self.0) && !key.is_weak() => Ok(key),
            _ => Err(InvalidKey),
        }
    }

    /// The public key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// All 64 hexadecimal digits; `Display` shows the first 16.
    #[must_use]
    pub fn to_hex(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            text.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
            text.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
        }
        text
    }

    /// The handle of this entity as the origin of events. Hashes; keep the result where it is used often.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin(handle(&ORIGIN_KEY, self))
    }

    /// The handle of this entity as a node. Hashes; keep the result where it is used often.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId(handle(&NODE_KEY, self))
    }
}

impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..8] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…")
    }
}

impl fmt::Debug for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Handle of an entity as the origin of events.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(u64);

/// Handle of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

macro_rules! handle_type {
    ($name:ident) => {
        impl $name {
            /// Wraps a number that was derived before.
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

handle_type!(Origin);
handle_type!(NodeId);

fn handle(key: &ContextKey, id: &EntityId) -> u64 {
    let digest = Hasher::new_from_context_key(key).update(&id.0).finalize();
    let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Tells whether the y coordinate is below the field prime 2^255 - 19. The curve library reduces it silently, so
/// that one key would have two ids.
fn is_canonical(raw: &[u8; 32]) -> bool {
    let [first, middle @ .., last] = raw;
    *first < 0xed || middle.iter().any(|byte| *byte != 0xff) || last & 0x7f != 0x7f
}
