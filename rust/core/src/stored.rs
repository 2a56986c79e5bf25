//! What a store has of a daemon itself: its kind, its options, and its key, sealed under the key of the node.
//!
//! ```text
//! version u8 = 2 | kind_len u16 | kind | options 44 | state u8 (0 stopped, 1 runs) | sealed u8 (0, 1)
//!   | if sealed: nonce 24, ciphertext 48 | CRC-32 of all that u32
//! options: auto_snapshot_interval u64 | max_log_entries u32 | delivery u8 | on_error u8 | durability u8
//!   | on_divergence u8 | outputs_max u32 | outputs_bytes_max u64 | attempts_max u32 | snapshots_max u32
//!   | outputs_age_max u64 (milliseconds; 0: none)
//! ```
//! Version 1, which is read too, has zeros from `on_divergence` on, except the two fields of outputs, and 10 bytes fewer
//! behind them: what it lacks has its default.
//!
//! The ciphertext is XChaCha20-Poly1305 of the 32 bytes of the seed, with the entity as associated data, under
//! `derive_key("meshos 2026 sealed key v1")(seed of the node)`. Numbers are little endian.

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::config::{DaemonHostConfig, Delivery, Durability, OnDivergence, OnError};
use crate::digest::{self, Context};
use crate::id::EntityId;
use crate::identity::{IdentityError, Keypair};
use crate::rows::{Table, Write, entity_key};

/// The version written, and the newest that is read.
pub const VERSION: u8 = 2;

/// Random bytes that one sealing takes, never twice the same.
pub const NONCE_SIZE: usize = 24;

const CIPHER_SIZE: usize = 32 + 16;
/// Zeros at the end of the options of version 1.
const OPTIONS_REST_V1: usize = 6;

/// A key that only its node can open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedKey {
    nonce: [u8; NONCE_SIZE],
    cipher: [u8; CIPHER_SIZE],
}

/// A sealed key does not belong here, or was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// This node did not seal it for that entity.
    #[error("the key of {entity} was not sealed by this node")]
    NotSealedHere {
        /// Whose key it was to be.
        entity: EntityId,
    },
    /// The node's own key is public only.
    #[error(transparent)]
    Node(#[from] IdentityError),
}

fn cipher(node: &Keypair) -> Result<XChaCha20Poly1305, IdentityError> {
    let seed = node.seed()?;
    let key = Zeroizing::new(*digest::derive(Context::SealedKey, &[&seed[..]]).as_bytes());
    Ok(XChaCha20Poly1305::new((&*key).into()))
}

impl SealedKey {
    /// Seals the key of a daemon under the key of its node. `nonce` is random.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`]: one of the two is public only.
    pub fn seal(key: &Keypair, node: &Keypair, nonce: [u8; NONCE_SIZE]) -> Result<Self, IdentityError> {
        let (seed, entity) = (key.seed()?, key.entity_id());
        let payload = Payload {
            msg: &seed[..],
            aad: entity.as_bytes(),
        };
        let sealed = cipher(node)?
            .encrypt(&XNonce::from(nonce), payload)
            .expect("32 bytes can be sealed");
        let cipher = sealed.try_into().expect("a tag of 16 bytes is added");
        Ok(Self { nonce, cipher })
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`UnsealError`].
    pub fn open(&self, entity: &EntityId, node: &Keypair) -> Result<Keypair, UnsealError> {
        let refused = UnsealError::NotSealedHere { entity: *entity };
        let payload = Payload {
            msg: &self.cipher,
            aad: entity.as_bytes(),
        };
        let opened = cipher(node)?.decrypt(&XNonce::from(self.nonce), payload);
        let seed = Zeroizing::new(opened.map_err(|_| refused)?);
        let seed: Zeroizing<[u8; 32]> = Zeroizing::new(seed.as_slice().try_into().map_err(|_| refused)?);
        let key = Keypair::from_seed(&seed);
        if key.entity_id() == *entity {
            Ok(key)
        } else {
            Err(refused)
        }
    }
}

/// What a store has of a daemon itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDaemon {
    /// Name under which its class is registered; 1 to 255 bytes.
    pub kind: String,
    /// Its options.
    pub config: DaemonHostConfig,
    /// Whether it is to run again when its node starts.
    pub runs: bool,
    /// Its key; `None`: it was public only.
    pub key: Option<SealedKey>,
}

impl StoredDaemon {
    /// The row of a store that says so.
    #[must_use]
    pub fn write(&self, entity: &EntityId) -> Write {
        Write::put(Table::Daemons, entity_key(entity, []), self.to_bytes())
    }

    /// The one encoding.
    ///
    /// # Panics
    /// If `kind` does not have 1 to 255 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        assert!(
            (1..=255).contains(&self.kind.len()),
            "a kind is bounded where it is registered"
        );
        let config = &self.config;
        let mut out = Vec::new();
        out.put_u8(VERSION);
        out.put_str_u16(&self.kind);
        out.put_u64(config.auto_snapshot_interval);
        out.put_u32(config.max_log_entries);
        out.put_u8(match config.delivery {
            Delivery::Once => 0,
            Delivery::AtLeastOnce => 1,
        });
        out.put_u8(match config.on_error {
            OnError::Raise => 0,
            OnError::Restore => 1,
        });
        out.put_u8(match config.durability {
            Durability::None => 0,
            Durability::Journal => 1,
            Durability::Snapshot => 2,
        });
        out.put_u8(match config.on_divergence {
            OnDivergence::Stop => 0,
            OnDivergence::Continue => 1,
            OnDivergence::SnapshotEveryEvent => 2,
        });
        out.put_u32(config.outputs_max);
        out.put_u64(config.outputs_bytes_max);
        out.put_u32(config.attempts_max);
        out.put_u32(config.snapshots_max);
        out.put_u64(config.outputs_age_max_ms.unwrap_or(0));
        out.put_u8(u8::from(self.runs));
        out.put_u8(u8::from(self.key.is_some()));
        if let Some(key) = &self.key {
            out.put(&key.nonce);
            out.put(&key.cipher);
        }
        out.put_u32(crc32fast::hash(&out));
        out
    }

    /// Reads exactly one.
    ///
    /// # Errors
    /// [`Fault::Digest`] when the sum does not fit; otherwise the first bad field.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.version_u8(VERSION)?;
        let Some((covered, sum)) = bytes.split_last_chunk::<4>() else {
            return Err(reader.fault(Fault::Truncated { needed: 4 }));
        };
        if u32::from_le_bytes(*sum) != crc32fast::hash(covered) {
            return Err(DecodeError {
                offset: covered.len() as u64,
                fault: Fault::Digest,
            });
        }
        let at_kind = reader.clone();
        let kind = reader.str_u16()?.to_owned();
        if !(1..=255).contains(&kind.len()) {
            return Err(at_kind.fault(Fault::Invalid {
                field: "length of the kind",
            }));
        }
        let config = read_options(&mut reader, version)?;
        let runs = read_mark(&mut reader, "state")?;
        let key = if read_mark(&mut reader, "sealed")? {
            Some(SealedKey {
                nonce: reader.array()?,
                cipher: reader.array()?,
            })
        } else {
            None
        };
        reader.take(4)?;
        reader.expect_end()?;
        Ok(Self {
            kind,
            config,
            runs,
            key,
        })
    }
}

fn read_mark(reader: &mut Reader<'_>, field: &'static str) -> Result<bool, DecodeError> {
    let at = reader.clone();
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(at.fault(Fault::Invalid { field })),
    }
}

fn read_choice<T: Copy, const N: usize>(
    reader: &mut Reader<'_>,
    field: &'static str,
    choices: [T; N],
) -> Result<T, DecodeError> {
    let at = reader.clone();
    let chosen = choices.get(usize::from(reader.u8()?));
    chosen.copied().ok_or_else(|| at.fault(Fault::Invalid { field }))
}

fn read_options(reader: &mut Reader<'_>, version: u8) -> Result<DaemonHostConfig, DecodeError> {
    let at = reader.clone();
    let mut config = DaemonHostConfig {
        auto_snapshot_interval: reader.u64()?,
        max_log_entries: reader.u32()?,
        delivery: read_choice(reader, "delivery", [Delivery::Once, Delivery::AtLeastOnce])?,
        on_error: read_choice(reader, "on_error", [OnError::Raise, OnError::Restore])?,
        ..DaemonHostConfig::default()
    };
    let durabilities = [Durability::None, Durability::Journal, Durability::Snapshot];
    let divergences = [
        OnDivergence::Stop,
        OnDivergence::Continue,
        OnDivergence::SnapshotEveryEvent,
    ];
    if version == 1 {
        config.durability = read_choice(reader, "durability", [Durability::None, Durability::Journal])?;
        config.on_divergence = read_choice(reader, "options", [OnDivergence::Stop])?;
    } else {
        config.durability = read_choice(reader, "durability", durabilities)?;
        config.on_divergence = read_choice(reader, "on_divergence", divergences)?;
    }
    (config.outputs_max, config.outputs_bytes_max) = (reader.u32()?, reader.u64()?);
    let at_rest = reader.clone();
    if version == 1 {
        if reader.array()? != [0; OPTIONS_REST_V1] {
            return Err(at_rest.fault(Fault::Invalid { field: "options" }));
        }
    } else {
        (config.attempts_max, config.snapshots_max) = (reader.u32()?, reader.u32()?);
        config.outputs_age_max_ms = Some(reader.u64()?).filter(|age| *age > 0);
    }
    config
        .validate()
        .map_err(|error| at.fault(Fault::Invalid { field: error.field }))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(key: Option<SealedKey>) -> StoredDaemon {
        StoredDaemon {
            kind: "counter".to_owned(),
            config: DaemonHostConfig {
                auto_snapshot_interval: 100,
                durability: Durability::Journal,
                on_error: OnError::Restore,
                ..DaemonHostConfig::default()
            },
            runs: true,
            key,
        }
    }

    #[test]
    fn what_is_written_is_read_and_every_flipped_bit_is_found() {
        let (key, node) = (Keypair::from_seed(&[1; 32]), Keypair::from_seed(&[2; 32]));
        let sealed = SealedKey::seal(&key, &node, [3; NONCE_SIZE]).expect("two whole keys");
        for daemon in [stored(Some(sealed)), stored(None)] {
            let bytes = daemon.to_bytes();
            assert_eq!(StoredDaemon::decode(&bytes), Ok(daemon));
            for bit in 0..bytes.len() * 8 {
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(StoredDaemon::decode(&changed).is_err(), "bit {bit}");
            }
            for end in 0..bytes.len() {
                assert!(StoredDaemon::decode(&bytes[..end]).is_err(), "cut at {end}");
            }
        }
    }

    #[test]
    fn a_key_is_opened_by_its_node_for_its_entity_and_by_nobody_else() {
        let (key, node) = (Keypair::from_seed(&[1; 32]), Keypair::from_seed(&[2; 32]));
        let sealed = SealedKey::seal(&key, &node, [3; NONCE_SIZE]).expect("two whole keys");
        let opened = sealed.open(&key.entity_id(), &node).expect("its node");
        assert_eq!(*opened.seed().expect("whole"), [1; 32]);
        let other = Keypair::from_seed(&[4; 32]);
        assert!(sealed.open(&key.entity_id(), &other).is_err());
        assert!(sealed.open(&other.entity_id(), &node).is_err());
        let public = Keypair::public_only(key.entity_id());
        assert_eq!(
            SealedKey::seal(&public, &node, [3; NONCE_SIZE]),
            Err(IdentityError::ReadOnly)
        );
    }
}
