//! What issuers take back: signed statements, and the bounded set of those a node knows.
//!
//! ```text
//! version u8 = 1 | target u8 (1 token, 2 subject, 3 everything) | issuer 32 | what 32 | at u64 | signature 64
//! what: the digest of a token, the key of a subject, or zeros
//! ```
//! Numbers are little endian. Signed is `"meshos 2026 revocation v1\0"` followed by everything before the signature.
//!
//! Invariants
//! * A set holds only statements whose signature was checked. It never forgets one that still matters.
//! * Of one issuer and target the latest statement holds: what was revoked stays so.
//! * A set has a bound, and each issuer a bound in it. What does not fit is refused, and nothing makes room for it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::digest::Digest;
use crate::id::EntityId;
use crate::identity::{self, IdentityError, Keypair};
use crate::time::UnixMs;

const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"meshos 2026 revocation v1\0";

/// Statements that a set keeps, unless it is told otherwise.
pub const REVOCATIONS_MAX: usize = 65_536;

/// Statements of one issuer that a set keeps. Who needs more revokes [`Target::Everything`], and issues anew.
pub const REVOCATIONS_PER_ISSUER_MAX: usize = 4_096;

/// How long a statement matters: what it revokes began before it, and no token is longer.
const MATTERS_FOR: Duration = Duration::from_secs(366 * 86_400);

/// What an issuer takes back, of what it issued and of what stands on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The token of this digest.
    Token(Digest),
    /// Every token of this subject that began at the time of the statement or before.
    Subject(EntityId),
    /// Every token that began at the time of the statement or before.
    Everything,
}

impl Target {
    const fn tag(&self) -> u8 {
        match self {
            Self::Token(_) => 1,
            Self::Subject(_) => 2,
            Self::Everything => 3,
        }
    }

    const fn what(&self) -> [u8; 32] {
        match self {
            Self::Token(digest) => *digest.as_bytes(),
            Self::Subject(subject) => *subject.as_bytes(),
            Self::Everything => [0; 32],
        }
    }
}

/// A signed statement of an issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation {
    /// Who takes back.
    pub issuer: EntityId,
    /// What.
    pub target: Target,
    /// When it was said.
    pub at: UnixMs,
    /// Signature of the issuer.
    pub signature: [u8; 64],
}

impl Revocation {
    /// Bytes on the wire.
    pub const SIZE: usize = Self::SIGNED_SIZE + 64;
    const SIGNED_SIZE: usize = 2 + 32 + 32 + 8;

    /// Signs a statement. For a single token, `at` is not before its beginning.
    ///
    /// # Errors
    /// [`IdentityError::ReadOnly`] if the issuer has no secret half.
    pub fn sign(target: Target, at: UnixMs, issuer: &Keypair) -> Result<Self, IdentityError> {
        let mut made = Self {
            issuer: issuer.entity_id(),
            target,
            at,
            signature: [0; 64],
        };
        made.signature = issuer.sign(&made.signed_message())?;
        Ok(made)
    }

    /// Checks that the issuer signed it.
    ///
    /// # Errors
    /// [`IdentityError::InvalidPublicKey`] or [`IdentityError::InvalidSignature`].
    pub fn verify_signature(&self) -> Result<(), IdentityError> {
        identity::verify(&self.issuer, &self.signed_message(), &self.signature)
    }

    /// The wire form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::SIZE);
        self.put_signed(&mut out);
        out.put(&self.signature);
        out
    }

    /// Reads exactly one.
    ///
    /// # Errors
    /// A [`DecodeError`]; the signature is not checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version_u8(VERSION)?;
        let at_target = reader.clone();
        let tag = reader.u8()?;
        let issuer = EntityId::from_bytes(reader.array()?);
        let at_what = reader.clone();
        let what = reader.array()?;
        let target = match tag {
            1 => Target::Token(Digest::from_bytes(what)),
            2 => Target::Subject(EntityId::from_bytes(what)),
            3 if what == [0; 32] => Target::Everything,
            3 => return Err(at_what.fault(Fault::Invalid { field: "what" })),
            _ => return Err(at_target.fault(Fault::Invalid { field: "target" })),
        };
        let at = UnixMs::new(reader.u64()?);
        let signature = reader.array()?;
        reader.expect_end()?;
        Ok(Self {
            issuer,
            target,
            at,
            signature,
        })
    }

    fn signed_message(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(DOMAIN.len() + Self::SIGNED_SIZE);
        message.put(DOMAIN);
        self.put_signed(&mut message);
        message
    }

    fn put_signed(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        out.put_u8(self.target.tag());
        out.put(self.issuer.as_bytes());
        out.put(&self.target.what());
        out.put_u64(self.at.get());
    }
}

/// A statement was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotRevoked {
    /// The issuer did not sign it.
    #[error(transparent)]
    Signature(#[from] IdentityError),
    /// As many statements are known as may be.
    #[error("{max} revocations are known, and no more are kept")]
    Full {
        /// How many that is.
        max: usize,
    },
}

/// Every statement that a node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocations {
    max: usize,
    per_issuer_max: usize,
    known: BTreeMap<(EntityId, Target), (UnixMs, [u8; 64])>,
}

impl Default for Revocations {
    fn default() -> Self {
        Self::bounded(REVOCATIONS_MAX, REVOCATIONS_PER_ISSUER_MAX)
    }
}

impl Revocations {
    /// An empty set that keeps so many in all, and so many of each issuer.
    #[must_use]
    pub const fn bounded(max: usize, per_issuer_max: usize) -> Self {
        Self {
            max,
            per_issuer_max,
            known: BTreeMap::new(),
        }
    }

    /// Takes in a statement, and tells whether it says anything new.
    ///
    /// # Errors
    /// [`NotRevoked`]; then nothing has changed.
    pub fn add(&mut self, revocation: &Revocation) -> Result<bool, NotRevoked> {
        let Revocation { issuer, target, at, .. } = *revocation;
        let said = |target| self.known.get(&(issuer, target)).is_some_and(|(known, _)| *known >= at);
        if said(target) || said(Target::Everything) {
            return Ok(false);
        }
        revocation.verify_signature()?;
        // What says everything takes the place of all that was said before.
        let replaced = match target {
            Target::Everything => self.of(&issuer).filter(|(_, (known, _))| *known <= at).count(),
            _ => usize::from(self.known.contains_key(&(issuer, target))),
        };
        if replaced == 0 {
            let full = |max| Err(NotRevoked::Full { max });
            if self.known.len() >= self.max {
                return full(self.max);
            }
            if self.of(&issuer).count() >= self.per_issuer_max {
                return full(self.per_issuer_max);
            }
        }
        if target == Target::Everything {
            self.known.retain(|(of, _), (known, _)| *of != issuer || *known > at);
        }
        self.known.insert((issuer, target), (at, revocation.signature));
        Ok(true)
    }

    /// Whether `issuer` took back the token of this digest, which `subject` has had since `issued`.
    #[must_use]
    pub fn revokes(&self, issuer: &EntityId, subject: &EntityId, token: &Digest, issued: UnixMs) -> bool {
        let at = |target| self.known.get(&(*issuer, target)).map(|(at, _)| *at);
        at(Target::Token(*token)).is_some()
            || at(Target::Subject(*subject)).is_some_and(|at| issued <= at)
            || at(Target::Everything).is_some_and(|at| issued <= at)
    }

    /// Drops statements about what has expired since, and tells how many.
    pub fn forget(&mut self, now: UnixMs) -> usize {
        let before = self.known.len();
        self.known.retain(|_, (at, _)| at.plus(MATTERS_FOR) > now);
        before - self.known.len()
    }

    /// The statements, by issuer, as they were signed.
    pub fn iter(&self) -> impl Iterator<Item = Revocation> + '_ {
        let stated = |(&(issuer, target), &(at, signature)): (&(EntityId, Target), &(UnixMs, [u8; 64]))| Revocation {
            issuer,
            target,
            at,
            signature,
        };
        self.known.iter().map(stated)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn of(&self, issuer: &EntityId) -> impl Iterator<Item = (&(EntityId, Target), &(UnixMs, [u8; 64]))> {
        const FIRST: Target = Target::Token(Digest::ZERO);
        let range: RangeInclusive<(EntityId, Target)> = (*issuer, FIRST)..=(*issuer, Target::Everything);
        self.known.range(range)
    }
}
