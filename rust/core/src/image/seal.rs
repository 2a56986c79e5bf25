//! Images on their way, sealed to the node that they go to, chunk by chunk; and the key of a daemon, sealed to it too.
//!
//! ```text
//! chunk       ephemeral 32 | ciphertext | tag 16; of 1048528 bytes of the image, the last one of what is left
//! identity    ephemeral 32 | ciphertext 48; the ephemeral key may be that of the chunks
//! transcript  "meshos 2026 move image v1\0" | mid 16 | entity 32 | epoch u64 | source 32 | target 32 | digest 32 | bytes u64
//! ```
//! Numbers are little endian; ciphertexts are XChaCha20-Poly1305.
//!
//! * A chunk is sealed under `derive_key("meshos 2026 move image key v1")(X25519(ephemeral, target) ‖ ephemeral ‖ target)`. Its
//!   nonce is the first 16 bytes of BLAKE3 of the transcript, and its index as u64; its associated data is the transcript.
//! * The seed of a daemon is sealed under `derive_key("meshos 2026 move identity key v1")` of the same, with a nonce of zeros:
//!   under one ephemeral key there is one seed. Its associated data is `"meshos 2026 move identity v1\0" ‖ mid ‖ entity ‖ source ‖ target`.
//! * The target's X25519 key is its Ed25519 key, mapped.
//!
//! Invariants
//! * What was sealed opens only as what it was: this chunk of this image, of this move, at this target.
//! * A chunk that is sealed again has the same bytes.
//! * Who sealed is not said: whoever opens compares the digest of the image with what the source signed.
//! * A key is never shown, and is overwritten when dropped.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::codec::Put;
use crate::digest::{self, Context, Digest};
use crate::id::EntityId;
use crate::identity::{self, IdentityError, Keypair};
use crate::move_frame::MAX_SNAPSHOT_CHUNK_SIZE;
use crate::move_rows::MoveOrder;
use crate::ownership::MigrationId;
use crate::sealed_channel;

const DOMAIN: &[u8] = b"meshos 2026 move image v1\0";
const IDENTITY_DOMAIN: &[u8] = b"meshos 2026 move identity v1\0";
const EPHEMERAL_SIZE: usize = 32;
const TAG_SIZE: usize = 16;

/// Bytes that sealing adds to a chunk.
pub const SEAL_SIZE: usize = EPHEMERAL_SIZE + TAG_SIZE;

/// Bytes of an image that one chunk has, except the last.
pub const CHUNK_PLAIN: usize = MAX_SNAPSHOT_CHUNK_SIZE - SEAL_SIZE;

/// Bytes that travel of an image of so many.
#[must_use]
pub const fn sealed_len(plain: u64) -> u64 {
    plain.saturating_add(plain.div_ceil(CHUNK_PLAIN as u64).saturating_mul(SEAL_SIZE as u64))
}

/// Bytes of the image of which so many travel; `None`: of none.
#[must_use]
pub const fn plain_len(sealed: u64) -> Option<u64> {
    let chunks = sealed.div_ceil(MAX_SNAPSHOT_CHUNK_SIZE as u64);
    let last = sealed % MAX_SNAPSHOT_CHUNK_SIZE as u64;
    if last > 0 && last <= SEAL_SIZE as u64 {
        return None;
    }
    Some(sealed - chunks * SEAL_SIZE as u64)
}

/// Where in an image of so many bytes the content of a chunk lies; `None`: it has none of that index.
#[must_use]
pub fn plain_range(plain: u64, index: u32) -> Option<Range<u64>> {
    let start = u64::from(index) * CHUNK_PLAIN as u64;
    (start < plain).then(|| start..(start + CHUNK_PLAIN as u64).min(plain))
}

/// Which image it is, of which move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transcript {
    /// The move.
    pub mid: MigrationId,
    /// The daemon.
    pub entity: EntityId,
    /// Epoch of the source.
    pub epoch: u64,
    /// Where it comes from.
    pub source: EntityId,
    /// Where it goes to.
    pub target: EntityId,
    /// Digest of the image.
    pub digest: Digest,
    /// Bytes of the image.
    pub plain: u64,
}

impl Transcript {
    /// Of the image of an order, by its digest and its bytes.
    #[must_use]
    pub const fn of(order: &MoveOrder, digest: Digest, plain: u64) -> Self {
        Self {
            mid: order.mid,
            entity: order.entity,
            epoch: order.epoch,
            source: order.source,
            target: order.target,
            digest,
            plain,
        }
    }

    fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(DOMAIN.len() + 16 + 4 * 32 + 2 * 8);
        out.put(DOMAIN);
        out.put(&self.mid);
        out.put(self.entity.as_bytes());
        out.put_u64(self.epoch);
        out.put(self.source.as_bytes());
        out.put(self.target.as_bytes());
        out.put(self.digest.as_bytes());
        out.put_u64(self.plain);
        out
    }
}

/// Something was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotOpened {
    /// Who opens it has no secret half, or the key in it is none.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It has another length than what is sealed there.
    #[error("{found} bytes, {expected} are there")]
    Length {
        /// Its length.
        found: u64,
        /// Length of what was sealed; 0: there is nothing.
        expected: u64,
    },
    /// It was changed, or belongs elsewhere.
    #[error("it was not sealed like this")]
    Forged,
}

/// Binding of a chunk: all that it has to fit.
struct Binding {
    associated: Vec<u8>,
    nonce: [u8; 16],
    plain: u64,
}

impl Binding {
    fn of(transcript: &Transcript) -> Self {
        let associated = transcript.to_bytes();
        let digest = digest::plain(&associated);
        let nonce = *digest.as_bytes().first_chunk().expect("a digest has 32 bytes");
        Self {
            associated,
            nonce,
            plain: transcript.plain,
        }
    }

    fn nonce(&self, index: u32) -> XNonce {
        let mut nonce = XNonce::default();
        nonce[..16].copy_from_slice(&self.nonce);
        nonce[16..].copy_from_slice(&u64::from(index).to_le_bytes());
        nonce
    }

    fn len(&self, index: u32) -> usize {
        plain_range(self.plain, index).map_or(0, |range| {
            usize::try_from(range.end - range.start).expect("a chunk has at most 1 MiB")
        })
    }
}

/// What an ephemeral key and that of a target make: the keys of one move come from it. Both sides have the same.
pub struct Agreement {
    target: EntityId,
    public: [u8; EPHEMERAL_SIZE],
    shared: Zeroizing<[u8; 32]>,
}

impl Agreement {
    /// With the target of a move, as its source. `ephemeral` is 32 random bytes, of this move and no other.
    ///
    /// # Errors
    /// [`IdentityError::InvalidPublicKey`]: the target is no key.
    pub fn with(target: &EntityId, ephemeral: &Zeroizing<[u8; 32]>) -> Result<Self, IdentityError> {
        let (public, shared) = identity::agree_with(target, ephemeral)?;
        Ok(Self {
            target: *target,
            public,
            shared,
        })
    }

    /// As the target, with the public half of the source's ephemeral key.
    ///
    /// # Errors
    /// [`IdentityError`]: the target's key is public only, or the other one is none.
    pub fn as_target(target: &Keypair, public: [u8; EPHEMERAL_SIZE]) -> Result<Self, IdentityError> {
        Ok(Self {
            target: target.entity_id(),
            public,
            shared: target.agree(&public)?,
        })
    }

    fn cipher(&self, context: Context) -> XChaCha20Poly1305 {
        sealed_channel::cipher_under(context, &self.shared, &self.public, &self.target)
    }
}

/// Seals the chunks of one image.
pub struct Sealer {
    binding: Binding,
    public: [u8; EPHEMERAL_SIZE],
    cipher: XChaCha20Poly1305,
}

impl Sealer {
    /// For the target of an image, with whom it was agreed.
    #[must_use]
    pub fn new(transcript: &Transcript, agreement: &Agreement) -> Self {
        debug_assert_eq!(transcript.target, agreement.target, "only the target opens it");
        Self {
            binding: Binding::of(transcript),
            public: agreement.public,
            cipher: agreement.cipher(Context::MoveImageKey),
        }
    }

    /// Seals the content of a chunk.
    ///
    /// # Panics
    /// If it has another length than there is at this place.
    #[must_use]
    pub fn seal(&self, index: u32, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEAL_SIZE + plain.len());
        self.seal_onto(&mut out, index, |out| out.put(plain));
        out
    }

    /// The same, behind what is in `out`: `fill` puts the content there, and it is sealed where it is.
    ///
    /// # Panics
    /// As [`seal`](Self::seal).
    pub fn seal_onto(&self, out: &mut Vec<u8>, index: u32, fill: impl FnOnce(&mut Vec<u8>)) {
        let length = self.binding.len(index);
        out.put(&self.public);
        let begin = out.len();
        fill(out);
        assert!(
            length > 0 && out.len() == begin + length,
            "a chunk is cut where it lies"
        );
        let (nonce, associated) = (self.binding.nonce(index), &self.binding.associated);
        let content = &mut out[begin..];
        let tag = self.cipher.encrypt_inout_detached(&nonce, associated, content.into());
        out.put(&tag.expect("1 MiB can be sealed"));
    }
}

/// Opens the chunks of one image.
pub struct Opener {
    binding: Binding,
    target: Keypair,
    /// That of the first chunk: all chunks of a source have one.
    first: OnceLock<(Agreement, XChaCha20Poly1305)>,
}

impl Opener {
    /// As the target of an image.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`]: the target's key is public only.
    pub fn new(transcript: &Transcript, target: &Keypair) -> Result<Self, IdentityError> {
        Ok(Self {
            binding: Binding::of(transcript),
            target: Keypair::from_seed(&*target.seed()?),
            first: OnceLock::new(),
        })
    }

    /// What was agreed with the source, once a chunk came.
    #[must_use]
    pub fn agreement(&self) -> Option<&Agreement> {
        self.first.get().map(|(agreement, _)| agreement)
    }

    fn cipher(&self, public: [u8; EPHEMERAL_SIZE]) -> Result<Cow<'_, XChaCha20Poly1305>, IdentityError> {
        if let Some((agreement, cipher)) = self.first.get()
            && agreement.public == public
        {
            return Ok(Cow::Borrowed(cipher));
        }
        let agreement = Agreement::as_target(&self.target, public)?;
        let cipher = agreement.cipher(Context::MoveImageKey);
        // Another thread may have been first: that is as good.
        let _ = self.first.set((agreement, cipher.clone()));
        Ok(Cow::Owned(cipher))
    }

    /// Opens a chunk into the beginning of `out`; tells how many bytes it has.
    ///
    /// # Errors
    /// [`NotOpened`]; what is in `out` is of no use then.
    ///
    /// # Panics
    /// If `out` is too short for what lies there.
    pub fn open(&self, index: u32, sealed: &[u8], out: &mut [u8]) -> Result<usize, NotOpened> {
        let length = self.binding.len(index);
        let expected = if length == 0 { 0 } else { length + SEAL_SIZE };
        if expected == 0 || sealed.len() != expected {
            return Err(NotOpened::Length {
                found: sealed.len() as u64,
                expected: expected as u64,
            });
        }
        let (public, rest) = sealed.split_at(EPHEMERAL_SIZE);
        let (content, tag) = rest.split_at(length);
        let tag: Tag = tag.try_into().expect("just measured");
        let public: [u8; EPHEMERAL_SIZE] = public.try_into().expect("just split");
        let cipher = self.cipher(public)?;
        let both = InOutBuf::new(content, &mut out[..length]).expect("both have its length");
        let (nonce, associated) = (self.binding.nonce(index), &self.binding.associated);
        let opened = cipher.decrypt_inout_detached(&nonce, associated, both, &tag);
        opened.map(|()| length).map_err(|_| NotOpened::Forged)
    }
}

/// The key of a daemon on its way to the node that it moves to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedIdentity {
    ephemeral: [u8; EPHEMERAL_SIZE],
    cipher: [u8; 32 + TAG_SIZE],
}

impl SealedIdentity {
    /// Bytes of its encoding.
    pub const SIZE: usize = EPHEMERAL_SIZE + 32 + TAG_SIZE;

    /// Seals the key of the daemon of an order to its target, with whom it was agreed for this order and no other.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`]: the key is public only.
    ///
    /// # Panics
    /// Never: a seed can be sealed.
    pub fn seal(key: &Keypair, order: &MoveOrder, agreement: &Agreement) -> Result<Self, IdentityError> {
        debug_assert_eq!(order.target, agreement.target, "only the target opens it");
        let seed = key.seed()?;
        let cipher = agreement.cipher(Context::MoveIdentityKey);
        let mut sealed = Self {
            ephemeral: agreement.public,
            cipher: [0; 32 + TAG_SIZE],
        };
        let (content, closing) = sealed.cipher.split_at_mut(32);
        content.copy_from_slice(&seed[..]);
        let tag = cipher.encrypt_inout_detached(&XNonce::default(), &identity_transcript(order), content.into());
        closing.copy_from_slice(&tag.expect("32 bytes can be sealed"));
        Ok(sealed)
    }

    /// Opens it as the target of the order; `known` is what was agreed for the chunks, so that it is not computed again.
    ///
    /// # Errors
    /// [`NotOpened`].
    pub fn open(&self, order: &MoveOrder, target: &Keypair, known: Option<&Agreement>) -> Result<Keypair, NotOpened> {
        let entity = target.entity_id();
        let cipher = match known.filter(|known| known.public == self.ephemeral && known.target == entity) {
            Some(known) => known.cipher(Context::MoveIdentityKey),
            None => Agreement::as_target(target, self.ephemeral)?.cipher(Context::MoveIdentityKey),
        };
        let (content, tag) = self.cipher.split_at(32);
        let tag: Tag = tag.try_into().expect("48 bytes are 32 and 16");
        let mut seed = Zeroizing::new([0; 32]);
        seed.copy_from_slice(content);
        let (nonce, associated) = (XNonce::default(), identity_transcript(order));
        let opened = cipher.decrypt_inout_detached(&nonce, &associated, (&mut seed[..]).into(), &tag);
        opened.map_err(|_| NotOpened::Forged)?;
        let key = Keypair::from_seed(&seed);
        if key.entity_id() == order.entity {
            Ok(key)
        } else {
            Err(NotOpened::Forged)
        }
    }

    /// The one encoding.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..EPHEMERAL_SIZE].copy_from_slice(&self.ephemeral);
        out[EPHEMERAL_SIZE..].copy_from_slice(&self.cipher);
        out
    }

    /// Reads one; it is not opened.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let (ephemeral, cipher) = bytes.split_at(EPHEMERAL_SIZE);
        Self {
            ephemeral: ephemeral.try_into().expect("32 bytes"),
            cipher: cipher.try_into().expect("48 bytes"),
        }
    }
}

fn identity_transcript(order: &MoveOrder) -> Vec<u8> {
    let mut out = Vec::with_capacity(IDENTITY_DOMAIN.len() + 16 + 3 * 32);
    out.put(IDENTITY_DOMAIN);
    out.put(&order.mid);
    for id in [order.entity, order.source, order.target] {
        out.put(id.as_bytes());
    }
    out
}
