//! Permission tokens: what a subject may do on one channel or on all, until when, and on whose word.
//!
//! A token is one to eight grants, root first. Each grant after the first is signed by the subject of the one before it,
//! names it by its digest, and gives no more than it has. The subject is a daemon, so a token moves with it.
//!
//! ```text
//! version u8 = 1 | grants u8 (1 to 8) | grants
//! grant: rights u8 | delegations u8 | issuer 32 | subject 32 | not_before u64 | not_after u64 | nonce 16 | parent 32
//!   | scope u8 (0 every channel, 1 one) | if one: name_len u8, name | signature 64
//! rights: 1 publish, 2 subscribe, 4 admin, 8 delegate
//! parent: 32 zero bytes, or the digest of the grant before
//! digest = derive_key("meshos 2026 permission token v1")(version ‖ grant without its signature)
//! ```
//! Numbers are little endian, times are unix milliseconds. Signed is `"meshos 2026 permission token v1\0"`, the version,
//! and the grant without its signature.
//!
//! Invariants
//! * A grant is for its channel and no other, also not for one below it. "Every channel" is said, never left out.
//! * Every right stands alone: `admin` implies none.
//! * The first instant that is not permitted any more is `not_after`, wherever it is asked.
//! * A check says which grant is the bad one.

use std::collections::BTreeSet;
use std::time::Duration;

use thiserror::Error;

use crate::codec::{DecodeError, Fault, Put, Reader};
use crate::digest::{self, Context, Digest};
use crate::id::EntityId;
use crate::identity::{self, IdentityError, Keypair};
use crate::name::ChannelName;
use crate::revocation::Revocations;
use crate::time::UnixMs;

const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"meshos 2026 permission token v1\0";

/// Grants of one token, the root included.
pub const GRANTS_MAX: usize = 8;
/// How often a root may allow to be passed on.
pub const DELEGATIONS_MAX: u8 = 7;
/// Bytes of the longest token.
pub const TOKEN_BYTES_MAX: usize = 2 + GRANTS_MAX * (GRANT_BYTES_MIN + 1 + 255);
/// The shortest span of a root.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// The longest span.
pub const TTL_MAX: Duration = Duration::from_secs(365 * 86_400);
/// The most that a beginning may lie ahead of the clock of who checks, whatever is asked for.
pub const SKEW_MAX: Duration = Duration::from_secs(60);
/// Random bytes that one grant takes.
pub const NONCE_SIZE: usize = 16;

const GRANT_BYTES_MIN: usize = 2 + 32 + 32 + 8 + 8 + NONCE_SIZE + 32 + 1 + 64;

/// Something that a token can permit; its bit on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Right {
    /// Publish on the channel.
    Publish = 1,
    /// Read it.
    Subscribe = 2,
    /// Change how it is kept.
    Admin = 4,
    /// Pass rights on.
    Delegate = 8,
}

impl Right {
    /// Every right.
    pub const ALL: [Self; 4] = [Self::Publish, Self::Subscribe, Self::Admin, Self::Delegate];
}

/// A set of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Rights(u8);

impl Rights {
    const KNOWN: u8 = 15;

    /// Whether `right` is among them.
    #[must_use]
    pub const fn contains(self, right: Right) -> bool {
        self.0 & right as u8 != 0
    }

    /// Whether all of them are among `others`.
    #[must_use]
    pub const fn is_subset(self, others: Self) -> bool {
        self.0 & !others.0 == 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.contains(*right))
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        Self(rights.into_iter().fold(0, |bits, right| bits | right as u8))
    }
}

/// Where a token permits something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// On every channel.
    All,
    /// On this channel, and not on those below it.
    Channel(ChannelName),
}

impl Scope {
    /// Whether it has this channel.
    #[must_use]
    pub fn covers(&self, channel: &ChannelName) -> bool {
        match self {
            Self::All => true,
            Self::Channel(own) => own == channel,
        }
    }

    /// Whether it has all that another has.
    #[must_use]
    pub fn covers_scope(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Channel(_), Self::All) => false,
            (Self::Channel(_), Self::Channel(channel)) => self.covers(channel),
        }
    }
}

/// What an issuer permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Who may.
    pub subject: EntityId,
    /// Where.
    pub scope: Scope,
    /// What.
    pub rights: Rights,
    /// How often it may be passed on; at most [`DELEGATIONS_MAX`].
    pub delegations: u8,
}

/// What a holder passes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// To whom.
    pub subject: EntityId,
    /// Some of the rights; `None`: all.
    pub rights: Option<Rights>,
    /// A narrower scope; `None`: the same.
    pub scope: Option<Scope>,
    /// An earlier end; `None`: the same.
    pub not_after: Option<UnixMs>,
}

impl Share {
    /// All there is, to a subject.
    #[must_use]
    pub const fn all(subject: EntityId) -> Self {
        Self {
            subject,
            rights: None,
            scope: None,
            not_after: None,
        }
    }
}

/// One signed step of a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Grant {
    /// What is permitted.
    pub rights: Rights,
    /// How often it may still be passed on.
    pub delegations: u8,
    /// Who says so.
    pub issuer: EntityId,
    /// Who may.
    pub subject: EntityId,
    /// From when on.
    pub not_before: UnixMs,
    /// The first instant at which it is expired.
    pub not_after: UnixMs,
    /// Random: no two grants are the same.
    pub nonce: [u8; NONCE_SIZE],
    /// Digest of the grant that this one stands on; zeros for a root.
    pub parent: Digest,
    /// Where.
    pub scope: Scope,
    /// Signature of the issuer.
    pub signature: [u8; 64],
}

impl Grant {
    /// What it is known by: a digest of all but the signature.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut body = Vec::with_capacity(GRANT_BYTES_MIN + 256);
        self.put_signed(&mut body);
        digest::derive(Context::PermissionToken, &[&body])
    }

    fn signed_message(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(DOMAIN.len() + GRANT_BYTES_MIN + 256);
        message.put(DOMAIN);
        self.put_signed(&mut message);
        message
    }

    fn put_signed(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        self.put_body(out);
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        out.put_u8(self.rights.0);
        out.put_u8(self.delegations);
        out.put(self.issuer.as_bytes());
        out.put(self.subject.as_bytes());
        out.put_u64(self.not_before.get());
        out.put_u64(self.not_after.get());
        out.put(&self.nonce);
        out.put(self.parent.as_bytes());
        match &self.scope {
            Scope::All => out.put_u8(0),
            Scope::Channel(name) => {
                out.put_u8(1);
                name.put(out);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let invalid = |at: &Reader<'_>, field| Err(at.fault(Fault::Invalid { field }));
        let at = reader.clone();
        let rights = Rights(reader.u8()?);
        if rights.is_empty() || !rights.is_subset(Rights(Rights::KNOWN)) {
            return invalid(&at, "rights");
        }
        let at = reader.clone();
        let delegations = reader.u8()?;
        if delegations > DELEGATIONS_MAX {
            return invalid(&at, "delegations");
        }
        let issuer = EntityId::from_bytes(reader.array()?);
        let subject = EntityId::from_bytes(reader.array()?);
        let (not_before, not_after) = (UnixMs::new(reader.u64()?), UnixMs::new(reader.u64()?));
        let nonce = reader.array()?;
        let parent = Digest::from_bytes(reader.array()?);
        let at = reader.clone();
        let scope = match reader.u8()? {
            0 => Scope::All,
            1 => Scope::Channel(ChannelName::read(reader)?),
            _ => return invalid(&at, "scope"),
        };
        Ok(Self {
            rights,
            delegations,
            issuer,
            subject,
            not_before,
            not_after,
            nonce,
            parent,
            scope,
            signature: reader.array()?,
        })
    }
}

/// Why a grant does not permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenFault {
    /// The issuer did not sign it, or is no usable key.
    #[error("its issuer did not sign it")]
    InvalidSignature,
    /// It begins later.
    #[error("it is valid from {not_before} on")]
    NotYetValid {
        /// When.
        not_before: UnixMs,
    },
    /// It has ended.
    #[error("it expired at {not_after}")]
    Expired {
        /// When.
        not_after: UnixMs,
    },
    /// It may not be passed on so often.
    #[error("it may not be passed on any more")]
    DelegationExhausted,
    /// It lacks the right to pass on.
    #[error("it does not have the right \"delegate\"")]
    DelegationNotAllowed,
    /// It is not for this.
    #[error(transparent)]
    NotAuthorized(#[from] Denied),
    /// It was taken back.
    #[error("it was revoked")]
    Revoked,
    /// Who should sign has no secret half.
    #[error("the identity is public only and cannot sign")]
    ReadOnly,
    /// It ends before it begins, or a root lasts less than [`TTL_MIN`].
    #[error("it lasts less than one second")]
    ZeroTtl,
    /// It lasts longer than [`TTL_MAX`].
    #[error("it lasts longer than 365 days")]
    TtlTooLong,
    /// It names no right.
    #[error("it names no right")]
    NoRights,
    /// It may be passed on more often than [`DELEGATIONS_MAX`].
    #[error("it may be passed on at most 7 times")]
    TooManyDelegations,
}

/// Why a grant is not for what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Denied {
    /// Nobody trusted issued it.
    #[error("its issuer is not trusted here")]
    Root,
    /// It is another's.
    #[error("it was given to another")]
    Presenter,
    /// It has other rights.
    #[error("it does not have the right that is asked for")]
    Right,
    /// It is for another channel.
    #[error("it is for another channel")]
    Channel,
    /// Who passes on is not the subject.
    #[error("it was passed on by another than its subject")]
    Holder,
    /// It names another grant than the one before it.
    #[error("it does not stand on the one before it")]
    Parent,
    /// It gives what the one before it does not have.
    #[error("it gives more than the one before it has")]
    Wider,
}

/// A token does not permit, and which of its grants is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("grant {grant}: {fault}")]
pub struct TokenError {
    /// Position of the grant, from 0, the root.
    pub grant: usize,
    /// Why.
    pub fault: TokenFault,
}

/// What is asked of a token.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// Whose tokens are trusted.
    pub roots: &'a BTreeSet<EntityId>,
    /// What is to be done.
    pub right: Right,
    /// Where.
    pub channel: &'a ChannelName,
    /// By whom. That it is them is proven elsewhere.
    pub presenter: &'a EntityId,
    /// When.
    pub now: UnixMs,
    /// How far ahead of `now` a beginning may lie, at most [`SKEW_MAX`]. An end has no such leeway.
    pub skew: Duration,
    /// What was taken back.
    pub revocations: &'a Revocations,
}

/// A signed, scoped, expiring permission of one subject, with what it stands on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PermissionToken {
    /// One to [`GRANTS_MAX`], root first.
    grants: Vec<Grant>,
}

impl PermissionToken {
    /// Signs a root.
    ///
    /// # Errors
    /// [`TokenFault::ZeroTtl`], [`TokenFault::TtlTooLong`], [`TokenFault::NoRights`], [`TokenFault::TooManyDelegations`],
    /// [`TokenFault::ReadOnly`].
    pub fn issue(
        issuer: &Keypair,
        terms: Terms,
        not_before: UnixMs,
        ttl: Duration,
        nonce: [u8; NONCE_SIZE],
    ) -> Result<Self, TokenError> {
        let refused = |fault| Err(TokenError { grant: 0, fault });
        if terms.rights.is_empty() {
            return refused(TokenFault::NoRights);
        }
        if terms.delegations > DELEGATIONS_MAX {
            return refused(TokenFault::TooManyDelegations);
        }
        if ttl < TTL_MIN {
            return refused(TokenFault::ZeroTtl);
        }
        if ttl > TTL_MAX {
            return refused(TokenFault::TtlTooLong);
        }
        let whole = Duration::from_millis(u64::try_from(ttl.as_millis()).expect("a year fits"));
        let grant = Grant {
            rights: terms.rights,
            delegations: terms.delegations,
            issuer: issuer.entity_id(),
            subject: terms.subject,
            not_before,
            not_after: not_before.plus(whole),
            nonce,
            parent: Digest::ZERO,
            scope: terms.scope,
            signature: [0; 64],
        };
        Self { grants: Vec::new() }.signed(grant, issuer)
    }

    /// Passes on what a token gives, or less. It is checked first, as far as it can be without knowing who is trusted.
    ///
    /// # Errors
    /// What is wrong with the token as it is; otherwise, at its last grant, [`TokenFault::DelegationExhausted`],
    /// [`TokenFault::DelegationNotAllowed`], [`Denied::Holder`], [`Denied::Wider`], [`TokenFault::NoRights`],
    /// [`TokenFault::ZeroTtl`], [`TokenFault::ReadOnly`].
    pub fn delegate(
        &self,
        holder: &Keypair,
        share: Share,
        now: UnixMs,
        nonce: [u8; NONCE_SIZE],
    ) -> Result<Self, TokenError> {
        self.check_steps(now, Duration::ZERO, true)?;
        let last = self.last();
        let refused = |fault| {
            Err(TokenError {
                grant: self.grants.len() - 1,
                fault,
            })
        };
        if last.delegations == 0 {
            return refused(TokenFault::DelegationExhausted);
        }
        if !last.rights.contains(Right::Delegate) {
            return refused(TokenFault::DelegationNotAllowed);
        }
        if holder.entity_id() != last.subject {
            return refused(Denied::Holder.into());
        }
        let grant = Grant {
            rights: share.rights.unwrap_or(last.rights),
            delegations: last.delegations - 1,
            issuer: last.subject,
            subject: share.subject,
            not_before: now,
            not_after: share.not_after.unwrap_or(last.not_after),
            nonce,
            parent: last.digest(),
            scope: share.scope.unwrap_or_else(|| last.scope.clone()),
            signature: [0; 64],
        };
        if grant.rights.is_empty() {
            return refused(TokenFault::NoRights);
        }
        if grant.not_after <= now {
            return refused(TokenFault::ZeroTtl);
        }
        if is_wider(&grant, last) {
            return refused(Denied::Wider.into());
        }
        self.clone().signed(grant, holder)
    }

    /// Checks the whole token: every grant is signed, runs, was not revoked, permits what is asked, and gives no more than
    /// the one before it; the first is a trusted issuer's, the last the presenter's.
    ///
    /// # Errors
    /// The first fault. Who is trusted is asked first, so that a stranger's token costs nothing.
    pub fn verify(&self, demand: &Demand<'_>) -> Result<(), TokenError> {
        self.check(demand, true)
    }

    /// Checks everything but the signatures, of a token that [`verify`](Self::verify) accepted before.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn recheck(&self, demand: &Demand<'_>) -> Result<(), TokenError> {
        self.check(demand, false)
    }

    fn check(&self, demand: &Demand<'_>, signatures: bool) -> Result<(), TokenError> {
        let refused = |grant, fault| Err(TokenError { grant, fault });
        if !demand.roots.contains(&self.grants[0].issuer) {
            return refused(0, Denied::Root.into());
        }
        self.check_steps(demand.now, demand.skew, signatures)?;
        for (index, grant) in self.grants.iter().enumerate() {
            let token = grant.digest();
            let taken_back = |above: &Grant| {
                let revocations = demand.revocations;
                revocations.revokes(&above.issuer, &grant.subject, &token, grant.not_before)
            };
            if !demand.revocations.is_empty() && self.grants[..=index].iter().any(taken_back) {
                return refused(index, TokenFault::Revoked);
            }
            if !grant.rights.contains(demand.right) {
                return refused(index, Denied::Right.into());
            }
            if !grant.scope.covers(demand.channel) {
                return refused(index, Denied::Channel.into());
            }
        }
        if self.last().subject != *demand.presenter {
            return refused(self.grants.len() - 1, Denied::Presenter.into());
        }
        Ok(())
    }

    /// What holds of a token whoever asks for whatever: signatures, times, and each grant on the one before it.
    fn check_steps(&self, now: UnixMs, skew: Duration, signatures: bool) -> Result<(), TokenError> {
        for (index, grant) in self.grants.iter().enumerate() {
            let before = index.checked_sub(1).map(|before| &self.grants[before]);
            check_step(grant, before, now, skew.min(SKEW_MAX), signatures)
                .map_err(|fault| TokenError { grant: index, fault })?;
        }
        Ok(())
    }

    fn signed(mut self, mut grant: Grant, issuer: &Keypair) -> Result<Self, TokenError> {
        grant.signature = issuer.sign(&grant.signed_message()).map_err(|_| TokenError {
            grant: self.grants.len(),
            fault: TokenFault::ReadOnly,
        })?;
        self.grants.push(grant);
        Ok(self)
    }

    /// The grants, root first.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// The grant that counts.
    ///
    /// # Panics
    /// Never: a token has at least one.
    #[must_use]
    pub fn last(&self) -> &Grant {
        self.grants.last().expect("a token has at least one grant")
    }

    /// The tokens it stands on, root first.
    #[must_use]
    pub fn parents(&self) -> Vec<Self> {
        let above = |end| Self {
            grants: self.grants[..end].to_vec(),
        };
        (1..self.grants.len()).map(above).collect()
    }

    /// The wire form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 + self.grants.len() * (GRANT_BYTES_MIN + 64));
        out.put_u8(VERSION);
        out.put_u8(u8::try_from(self.grants.len()).expect("at most GRANTS_MAX"));
        for grant in &self.grants {
            grant.put_body(&mut out);
            out.put(&grant.signature);
        }
        out
    }

    /// Reads exactly one.
    ///
    /// # Errors
    /// A [`DecodeError`]; nothing is verified.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version_u8(VERSION)?;
        let at = reader.clone();
        let count = usize::from(reader.u8()?);
        if !(1..=GRANTS_MAX).contains(&count) {
            return Err(at.fault(Fault::Invalid { field: "grants" }));
        }
        let grants = (0..count).map(|_| Grant::read(&mut reader));
        let grants = grants.collect::<Result<_, _>>()?;
        reader.expect_end()?;
        Ok(Self { grants })
    }
}

fn check_step(
    grant: &Grant,
    before: Option<&Grant>,
    now: UnixMs,
    skew: Duration,
    signatures: bool,
) -> Result<(), TokenFault> {
    if signatures {
        let signed = identity::verify(&grant.issuer, &grant.signed_message(), &grant.signature);
        signed.map_err(|_: IdentityError| TokenFault::InvalidSignature)?;
    }
    let (parent, shortest) = match before {
        Some(before) => (before.digest(), Duration::from_millis(1)),
        None => (Digest::ZERO, TTL_MIN),
    };
    if grant.parent != parent {
        return Err(Denied::Parent.into());
    }
    if now.plus(skew) < grant.not_before {
        let not_before = grant.not_before;
        return Err(TokenFault::NotYetValid { not_before });
    }
    if grant.not_after <= now {
        let not_after = grant.not_after;
        return Err(TokenFault::Expired { not_after });
    }
    let ttl = grant.not_after.since(grant.not_before);
    if ttl < shortest {
        return Err(TokenFault::ZeroTtl);
    }
    if ttl > TTL_MAX {
        return Err(TokenFault::TtlTooLong);
    }
    let Some(before) = before else { return Ok(()) };
    if grant.issuer != before.subject {
        return Err(Denied::Holder.into());
    }
    if !before.rights.contains(Right::Delegate) {
        return Err(TokenFault::DelegationNotAllowed);
    }
    if grant.delegations >= before.delegations {
        return Err(TokenFault::DelegationExhausted);
    }
    if is_wider(grant, before) {
        return Err(Denied::Wider.into());
    }
    Ok(())
}

fn is_wider(grant: &Grant, before: &Grant) -> bool {
    !grant.rights.is_subset(before.rights)
        || !before.scope.covers_scope(&grant.scope)
        || grant.not_before < before.not_before
        || grant.not_after > before.not_after
}
