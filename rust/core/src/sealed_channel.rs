//! Payloads of gated channels, sealed under a key of the channel, and that key, handed out sealed to each subscriber.
//!
//! ```text
//! payload: version u8 = 1 | generation u64 | nonce 24 | ciphertext, 16 bytes longer than the payload
//! handed key: version u8 = 1 | publisher 32 | subscriber 32 | generation u64 | name_len u8 | name | ephemeral 32
//!   | ciphertext 48 | signature 64
//! ```
//! Numbers are little endian; ciphertexts are XChaCha20-Poly1305.
//!
//! * A payload has as associated data `version ‖ generation ‖ publisher 32 ‖ sequence u64 ‖ name`. Its nonce is the first 24
//!   bytes of `derive_key("meshos 2026 channel nonce v1")(key ‖ associated data ‖ payload)`: a publisher that numbers anew
//!   under an old key still never takes a nonce for two payloads.
//! * A key is sealed under `derive_key("meshos 2026 sealed channel key v1")(X25519(ephemeral, subscriber) ‖ ephemeral ‖
//!   subscriber)` with a nonce of zeros, since the ephemeral key is used once; its associated data is everything before the
//!   ciphertext. The subscriber's X25519 key is its Ed25519 key, mapped. The publisher signs
//!   `"meshos 2026 handed channel key v1\0"` and everything before the signature.
//!
//! Invariants
//! * What was sealed opens only as what it was: this payload, of this publisher, channel, sequence and generation.
//! * A key is taken only from the channel's publisher, and only for who opens it.
//! * A generation has one key, and a generation that was forgotten does not come back.
//! * A key is never shown, and is overwritten when dropped.
//!
//! Source: Rogaway and Shrimpton, "A Provable-Security Treatment of the Key-Wrap Problem", EUROCRYPT 2006, for the nonce.

use std::collections::BTreeMap;
use std::fmt;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::digest::{self, Context};
use crate::id::EntityId;
use crate::identity::{self, IdentityError, Keypair};
use crate::name::ChannelName;

const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"meshos 2026 handed channel key v1\0";
const NONCE_SIZE: usize = 24;
const TAG_SIZE: usize = 16;

/// Bytes of a key.
pub const KEY_SIZE: usize = 32;
/// Bytes that sealing adds to a payload.
pub const SEAL_SIZE: usize = 1 + 8 + NONCE_SIZE + TAG_SIZE;
/// Generations that a reader remembers: what is on its way when a key changes can still be read.
pub const GENERATIONS_MAX: usize = 4;

/// A key of one generation of one channel: random bytes.
#[derive(Clone)]
pub struct ChannelKey(Zeroizing<[u8; KEY_SIZE]>);

impl ChannelKey {
    /// Takes random bytes.
    #[must_use]
    pub fn new(random: [u8; KEY_SIZE]) -> Self {
        Self(Zeroizing::new(random))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.0).into())
    }
}

impl fmt::Debug for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChannelKey")
    }
}

/// Where a payload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The channel.
    pub channel: &'a ChannelName,
    /// The node that publishes on it.
    pub publisher: &'a EntityId,
    /// Its number there.
    pub sequence: u64,
}

impl Place<'_> {
    fn associated(&self, generation: u64) -> Vec<u8> {
        let name = self.channel.as_str().as_bytes();
        let mut out = Vec::with_capacity(1 + 8 + 32 + 8 + name.len());
        out.put_u8(VERSION);
        out.put_u64(generation);
        out.put(self.publisher.as_bytes());
        out.put_u64(self.sequence);
        out.put(name);
        out
    }
}

/// Seals a payload under the key of a generation.
///
/// # Panics
/// If the payload has more than 256 GiB.
#[must_use]
pub fn seal(key: &ChannelKey, generation: u64, place: &Place<'_>, payload: &[u8]) -> Vec<u8> {
    let aad = place.associated(generation);
    let derived = digest::derive(Context::ChannelNonce, &[&key.0[..], &aad, payload]);
    let nonce: &[u8; NONCE_SIZE] = derived.as_bytes().first_chunk().expect("a digest has 32 bytes");
    let payload = Payload {
        msg: payload,
        aad: &aad,
    };
    let cipher = key.cipher().encrypt(&XNonce::from(*nonce), payload);
    let cipher = cipher.expect("a payload that is in memory can be sealed");
    let mut out = Vec::with_capacity(1 + 8 + NONCE_SIZE + cipher.len());
    out.put_u8(VERSION);
    out.put_u64(generation);
    out.put(nonce);
    out.put(&cipher);
    out
}

/// A sealed payload, in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed<'a> {
    /// Under which key.
    pub generation: u64,
    nonce: [u8; NONCE_SIZE],
    cipher: &'a [u8],
}

impl<'a> Sealed<'a> {
    /// Reads exactly one; it is not opened.
    ///
    /// # Errors
    /// A [`DecodeError`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version_u8(VERSION)?;
        let (generation, nonce) = (reader.u64()?, reader.array()?);
        if reader.remaining() < TAG_SIZE {
            let needed = (TAG_SIZE - reader.remaining()) as u64;
            return Err(reader.fault(Fault::Truncated { needed }));
        }
        let cipher = reader.take(reader.remaining())?;
        Ok(Self {
            generation,
            nonce,
            cipher,
        })
    }

    /// Opens it; `None`: it is not what was sealed at this place under this key.
    #[must_use]
    pub fn open(&self, key: &ChannelKey, place: &Place<'_>) -> Option<Vec<u8>> {
        let payload = Payload {
            msg: self.cipher,
            aad: &place.associated(self.generation),
        };
        key.cipher().decrypt(&XNonce::from(self.nonce), payload).ok()
    }

    /// The wire form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEAL_SIZE + self.cipher.len());
        out.put_u8(VERSION);
        out.put_u64(self.generation);
        out.put(&self.nonce);
        out.put(self.cipher);
        out
    }
}

/// A key of a channel on its way to one subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandedKey {
    /// The node whose channel it is.
    pub publisher: EntityId,
    /// Who can open it.
    pub subscriber: EntityId,
    /// Which generation it is.
    pub generation: u64,
    /// The channel.
    pub channel: ChannelName,
    ephemeral: [u8; 32],
    cipher: [u8; KEY_SIZE + TAG_SIZE],
    signature: [u8; 64],
}

/// A key was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotTaken {
    /// It is of another publisher or channel.
    #[error("it is the key of another channel")]
    WrongChannel,
    /// It is for another, or was changed.
    #[error("it was not sealed for this subscriber")]
    NotForUs,
    /// The publisher did not sign it, or who opens it has no secret half.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It is of a generation that is over.
    #[error("generation {generation} is over")]
    Old {
        /// Which.
        generation: u64,
    },
    /// Another key of that generation is known.
    #[error("generation {generation} has another key")]
    Conflict {
        /// Which.
        generation: u64,
    },
}

impl HandedKey {
    /// Seals a key for a subscriber. `ephemeral` is 32 random bytes, never twice the same.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`]: the publisher is public only; [`IdentityError::InvalidPublicKey`]: the subscriber is no key.
    ///
    /// # Panics
    /// Never: a key can be sealed.
    pub fn seal(
        key: &ChannelKey,
        generation: u64,
        channel: &ChannelName,
        publisher: &Keypair,
        subscriber: &EntityId,
        ephemeral: &Zeroizing<[u8; 32]>,
    ) -> Result<Self, IdentityError> {
        let (public, shared) = identity::agree_with(subscriber, ephemeral)?;
        let mut handed = Self {
            publisher: publisher.entity_id(),
            subscriber: *subscriber,
            generation,
            channel: channel.clone(),
            ephemeral: public,
            cipher: [0; KEY_SIZE + TAG_SIZE],
            signature: [0; 64],
        };
        let payload = Payload {
            msg: &key.0[..],
            aad: &handed.transcript(),
        };
        let sealed = handed.cipher_under(&shared).encrypt(&XNonce::default(), payload);
        let sealed = sealed.expect("32 bytes can be sealed");
        handed.cipher = sealed.try_into().expect("a tag of 16 bytes is added");
        handed.signature = publisher.sign(&handed.signed_message())?;
        Ok(handed)
    }

    /// Opens it as the subscriber.
    ///
    /// # Errors
    /// [`NotTaken::Identity`], [`NotTaken::NotForUs`]. The signature is checked before anything is opened.
    pub fn open(&self, subscriber: &Keypair) -> Result<ChannelKey, NotTaken> {
        identity::verify(&self.publisher, &self.signed_message(), &self.signature)?;
        if self.subscriber != subscriber.entity_id() {
            return Err(NotTaken::NotForUs);
        }
        let shared = subscriber.agree(&self.ephemeral)?;
        let payload = Payload {
            msg: &self.cipher,
            aad: &self.transcript(),
        };
        let opened = self.cipher_under(&shared).decrypt(&XNonce::default(), payload);
        let opened = Zeroizing::new(opened.map_err(|_| NotTaken::NotForUs)?);
        let key: [u8; KEY_SIZE] = opened.as_slice().try_into().map_err(|_| NotTaken::NotForUs)?;
        Ok(ChannelKey::new(key))
    }

    /// The wire form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.transcript();
        out.put(&self.cipher);
        out.put(&self.signature);
        out
    }

    /// Reads exactly one.
    ///
    /// # Errors
    /// A [`DecodeError`]; nothing is checked or opened.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version_u8(VERSION)?;
        let publisher = EntityId::from_bytes(reader.array()?);
        let subscriber = EntityId::from_bytes(reader.array()?);
        let generation = reader.u64()?;
        let channel = ChannelName::read(&mut reader)?;
        let handed = Self {
            publisher,
            subscriber,
            generation,
            channel,
            ephemeral: reader.array()?,
            cipher: reader.array()?,
            signature: reader.array()?,
        };
        reader.expect_end()?;
        Ok(handed)
    }

    fn cipher_under(&self, shared: &[u8; 32]) -> XChaCha20Poly1305 {
        cipher_under(Context::SealedChannelKey, shared, &self.ephemeral, &self.subscriber)
    }

    fn transcript(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + 32 + 32 + 8 + 256 + 32 + 48 + 64);
        out.put_u8(VERSION);
        out.put(self.publisher.as_bytes());
        out.put(self.subscriber.as_bytes());
        out.put_u64(self.generation);
        self.channel.put(&mut out);
        out.put(&self.ephemeral);
        out
    }

    fn signed_message(&self) -> Vec<u8> {
        [DOMAIN, &self.transcript(), &self.cipher].concat()
    }
}

/// The cipher under which something is sealed to a receiver, with the secret that an ephemeral key and its key make.
pub(crate) fn cipher_under(
    context: Context,
    shared: &[u8; 32],
    ephemeral: &[u8; 32],
    receiver: &EntityId,
) -> XChaCha20Poly1305 {
    let parts: [&[u8]; 3] = [shared, ephemeral, receiver.as_bytes()];
    let key = Zeroizing::new(*digest::derive(context, &parts).as_bytes());
    XChaCha20Poly1305::new((&*key).into())
}

/// A payload was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotOpened {
    /// It is no sealed payload.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// The key of its generation is not known: ask the publisher for it.
    #[error("the key of generation {generation} is not known")]
    UnknownGeneration {
        /// Which.
        generation: u64,
    },
    /// It was changed, or belongs elsewhere.
    #[error("it was not sealed here under the key of generation {generation}")]
    Forged {
        /// Which it claims.
        generation: u64,
    },
}

/// The keys that a subscriber has of one channel of one publisher: the newest [`GENERATIONS_MAX`].
#[derive(Debug, Clone)]
pub struct Keyring {
    publisher: EntityId,
    channel: ChannelName,
    keys: BTreeMap<u64, ChannelKey>,
    /// Generations below it are over.
    first: u64,
}

impl Keyring {
    /// Has no key yet.
    #[must_use]
    pub const fn new(publisher: EntityId, channel: ChannelName) -> Self {
        Self {
            publisher,
            channel,
            keys: BTreeMap::new(),
            first: 0,
        }
    }

    /// Takes a key, and tells whether it was new.
    ///
    /// # Errors
    /// [`NotTaken`]; then nothing has changed.
    pub fn take(&mut self, handed: &HandedKey, subscriber: &Keypair) -> Result<bool, NotTaken> {
        let generation = handed.generation;
        if handed.publisher != self.publisher || handed.channel != self.channel {
            return Err(NotTaken::WrongChannel);
        }
        if generation < self.first {
            return Err(NotTaken::Old { generation });
        }
        let key = handed.open(subscriber)?;
        if let Some(known) = self.keys.get(&generation) {
            // Who handed out both knows both, so that comparing them in ordinary time tells nobody anything.
            return if *known.0 == *key.0 {
                Ok(false)
            } else {
                Err(NotTaken::Conflict { generation })
            };
        }
        self.keys.insert(generation, key);
        while self.keys.len() > GENERATIONS_MAX {
            self.keys.pop_first();
        }
        if self.keys.len() == GENERATIONS_MAX {
            self.first = self.keys.first_key_value().map_or(0, |(first, _)| *first);
        }
        Ok(true)
    }

    /// Opens the payload that came with a number.
    ///
    /// # Errors
    /// [`NotOpened`].
    pub fn open(&self, sequence: u64, bytes: &[u8]) -> Result<Vec<u8>, NotOpened> {
        let sealed = Sealed::decode(bytes)?;
        let generation = sealed.generation;
        let key = self.keys.get(&generation);
        let key = key.ok_or(NotOpened::UnknownGeneration { generation })?;
        let place = Place {
            channel: &self.channel,
            publisher: &self.publisher,
            sequence,
        };
        sealed.open(key, &place).ok_or(NotOpened::Forged { generation })
    }

    /// The generations whose keys are known.
    pub fn generations(&self) -> impl Iterator<Item = u64> + '_ {
        self.keys.keys().copied()
    }
}
