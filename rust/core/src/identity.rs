//! Key pairs and signatures.
//!
//! Invariants
//! * Signatures are checked strictly: no malleable signature and no key of small order is accepted.
//! * A secret is never shown, and is overwritten when it is dropped or erased.
//!
//! Source: RFC 8032, "Edwards-Curve Digital Signature Algorithm", section 5.1; RFC 7748, "Elliptic Curves for Security",
//! section 6.1.

use std::fmt;

use curve25519_dalek::montgomery::MontgomeryPoint;
use ed25519_dalek::{Signature, Signer, SigningKey};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::id::{EntityId, NodeId, Origin};

/// Why something could not be signed or was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// The id is not a usable public key.
    #[error("not an Ed25519 public key")]
    InvalidPublicKey,
    /// The signature is not of this key over these bytes.
    #[error("the signature does not fit the key and the bytes")]
    InvalidSignature,
    /// The pair has no secret half.
    #[error("the identity is public only and cannot sign")]
    ReadOnly,
}

/// An Ed25519 key pair, or its public half alone.
pub struct Keypair {
    entity_id: EntityId,
    origin: Origin,
    /// Boxed: a public half alone, of which there are many, stays small.
    signing: Option<Box<SigningKey>>,
}

impl Keypair {
    /// Makes the pair of a 32-byte secret seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let signing = Box::new(SigningKey::from_bytes(seed));
        let entity_id = EntityId::from_bytes(signing.verifying_key().to_bytes());
        Self {
            entity_id,
            origin: entity_id.origin(),
            signing: Some(signing),
        }
    }

    /// Makes a pair that cannot sign.
    #[must_use]
    pub fn public_only(entity_id: EntityId) -> Self {
        Self {
            entity_id,
            origin: entity_id.origin(),
            signing: None,
        }
    }

    /// The public key.
    #[must_use]
    pub const fn entity_id(&self) -> EntityId {
        self.entity_id
    }

    /// Its handle as the origin of events; kept, not computed.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// Its handle as a node; computed.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.entity_id.node_id()
    }

    /// Tells whether the secret half is missing.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.signing.is_none()
    }

    /// Signs a message.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`] without the secret half.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; 64], IdentityError> {
        let signing = self.signing.as_ref().ok_or(IdentityError::ReadOnly)?;
        Ok(signing.sign(message).to_bytes())
    }

    /// The secret seed, which is overwritten when dropped.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`] without the secret half.
    pub fn seed(&self) -> Result<Zeroizing<[u8; 32]>, IdentityError> {
        let signing = self.signing.as_ref().ok_or(IdentityError::ReadOnly)?;
        Ok(Zeroizing::new(signing.to_bytes()))
    }

    /// The secret that the public key and another's make together: X25519 of this key, turned into one of that curve.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`] without the secret half; [`IdentityError::InvalidPublicKey`] if the other key is none,
    /// since then everybody would know the secret.
    pub fn agree(&self, x25519_public: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, IdentityError> {
        let signing = self.signing.as_ref().ok_or(IdentityError::ReadOnly)?;
        let secret = Zeroizing::new(signing.to_scalar_bytes());
        agreed(&MontgomeryPoint(*x25519_public), &secret)
    }

    /// Overwrites the secret half; from now on the pair is public only. May be called again.
    pub fn erase(&mut self) {
        self.signing = None;
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let half = if self.is_read_only() { "public only" } else { "can sign" };
        write!(f, "Keypair({}, {half})", self.entity_id)
    }
}

/// The secret that an X25519 secret and an entity's key make together, and the public half of the former. Only that entity
/// finds it again, by [`Keypair::agree`].
///
/// # Errors
/// [`IdentityError::InvalidPublicKey`] if the id is no usable key.
pub fn agree_with(
    entity: &EntityId,
    x25519_secret: &[u8; 32],
) -> Result<([u8; 32], Zeroizing<[u8; 32]>), IdentityError> {
    let key = entity.verifying_key().map_err(|_| IdentityError::InvalidPublicKey)?;
    let public = MontgomeryPoint::mul_base_clamped(*x25519_secret).to_bytes();
    Ok((public, agreed(&key.to_montgomery(), x25519_secret)?))
}

fn agreed(public: &MontgomeryPoint, secret: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, IdentityError> {
    let shared = Zeroizing::new(public.mul_clamped(*secret).to_bytes());
    if shared.iter().all(|byte| *byte == 0) {
        return Err(IdentityError::InvalidPublicKey);
    }
    Ok(shared)
}

/// Checks that `entity` signed `message`.
///
/// # Errors
/// [`IdentityError::InvalidPublicKey`] if the id is no usable key, else [`IdentityError::InvalidSignature`].
pub fn verify(entity: &EntityId, message: &[u8], signature: &[u8; 64]) -> Result<(), IdentityError> {
    let key = entity.verifying_key().map_err(|_| IdentityError::InvalidPublicKey)?;
    let signature = Signature::from_bytes(signature);
    key.verify_strict(message, &signature)
        .map_err(|_| IdentityError::InvalidSignature)
}
