//! Decision: which commands a node obeys.
//!
//! Two halves. What needs no state, above all the signatures, is checked anywhere: [`check_admin`], [`check_ice`]. What
//! does, is one step of the [`Ledger`]: whether an envelope was used before, and whether its target is left alone for a
//! while; both are checked and recorded at once.
//!
//! Invariants
//! * Thresholds count distinct keys that are in the registry now; a bad signature beside enough good ones is passed over.
//! * An envelope is obeyed once. Its id is forgotten only together with everything as old: what was issued at or before
//!   the horizon of what was forgotten is refused, whatever the clock says.
//! * Thawing is never held up by a cooldown, and a cooldown of one family never holds up another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::blast::BlastRadius;
use crate::command::{IceAction, Order, Verdict};
use crate::config::ConfigError;
use crate::envelope::{AdminEnvelope, Header, IceEnvelope, OperatorSignature, SIGNATURES_MAX, operator_id};
use crate::id::EntityId;
use crate::identity::verify;
pub use crate::refusal::{Bucket, Refused, Role, bucket};
use crate::status::AuditRecord;
use crate::time::UnixMs;

/// Envelope ids kept at once; beyond them everything is refused until some are old enough.
pub const USED_MAX: usize = 65_536;
/// Shortest and longest freeze.
pub const FREEZE_TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));

/// One entry of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The key.
    pub key: EntityId,
    /// Who it is, for people.
    pub name: String,
    /// What they may do.
    pub roles: BTreeSet<Role>,
    /// Not before.
    pub not_before: Option<UnixMs>,
    /// Not after.
    pub not_after: Option<UnixMs>,
    /// Nothing is accepted any more.
    pub revoked: bool,
}

/// Who the operators are; one entry a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operators(BTreeMap<u64, Operator>);

/// Why a registry was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OperatorsError {
    /// The key is in it already, perhaps revoked.
    #[error("the key is registered already")]
    KeyTaken,
    /// Another operator has that name.
    #[error("the name is taken")]
    NameTaken,
    /// Nobody has that id.
    #[error("no operator has this id")]
    Unknown,
    /// The bytes are no key that signatures could be checked with.
    #[error("not a usable Ed25519 public key")]
    InvalidKey,
}

impl Operators {
    /// Adds an operator; returns the id.
    ///
    /// # Errors
    /// [`OperatorsError`]: nothing changed.
    pub fn add(&mut self, operator: Operator) -> Result<u64, OperatorsError> {
        EntityId::checked(*operator.key.as_bytes()).map_err(|_| OperatorsError::InvalidKey)?;
        let id = operator_id(&operator.key);
        if self.0.contains_key(&id) {
            return Err(OperatorsError::KeyTaken);
        }
        if self
            .0
            .values()
            .any(|known| !known.revoked && known.name == operator.name)
        {
            return Err(OperatorsError::NameTaken);
        }
        self.0.insert(id, operator);
        Ok(id)
    }

    /// Gives an operator another key; the old one is revoked. Returns the new id.
    ///
    /// # Errors
    /// [`OperatorsError`]: nothing changed.
    pub fn rotate(&mut self, id: u64, key: EntityId) -> Result<u64, OperatorsError> {
        EntityId::checked(*key.as_bytes()).map_err(|_| OperatorsError::InvalidKey)?;
        if self.0.contains_key(&operator_id(&key)) {
            return Err(OperatorsError::KeyTaken);
        }
        let known = self.0.get_mut(&id).filter(|known| !known.revoked);
        let known = known.ok_or(OperatorsError::Unknown)?;
        let successor = Operator { key, ..known.clone() };
        known.revoked = true;
        let id = operator_id(&key);
        self.0.insert(id, successor);
        Ok(id)
    }

    /// Accepts nothing from a key any more.
    ///
    /// # Errors
    /// [`OperatorsError::Unknown`].
    pub fn revoke(&mut self, id: u64) -> Result<(), OperatorsError> {
        let known = self.0.get_mut(&id).filter(|known| !known.revoked);
        known.ok_or(OperatorsError::Unknown)?.revoked = true;
        Ok(())
    }

    /// The operators that are not revoked, by id.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Operator)> {
        self.0
            .iter()
            .filter(|(_, known)| !known.revoked)
            .map(|(id, known)| (*id, known))
    }

    /// Whether somebody has that id who is not revoked.
    #[must_use]
    pub fn knows(&self, id: u64) -> bool {
        self.0.get(&id).is_some_and(|known| !known.revoked)
    }

    /// How many may do something.
    #[must_use]
    pub fn count(&self, role: Role) -> usize {
        self.iter().filter(|(_, known)| known.roles.contains(&role)).count()
    }

    fn find(&self, key: &EntityId, now: UnixMs) -> Result<(u64, &Operator), Refused> {
        let id = operator_id(key);
        let known = self.0.get(&id).filter(|known| {
            known.key == *key
                && !known.revoked
                && known.not_before.is_none_or(|at| at <= now)
                && known.not_after.is_none_or(|at| now <= at)
        });
        known
            .map(|known| (id, known))
            .ok_or(Refused::NotAuthorized { operator: id })
    }
}

/// What a verifier demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Hash of the cluster's id.
    pub cluster: [u8; 32],
    /// Operators that must sign a break-glass action.
    pub ice_threshold: u8,
    /// Oldest envelope accepted.
    pub freshness: Duration,
    /// How far ahead of the clock an envelope may be.
    pub future_skew: Duration,
    /// How long a target is left alone.
    pub cooldown: Duration,
}

/// Shortest and longest age of an envelope that a policy may accept.
pub const FRESHNESS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
/// The most that a policy may let an envelope be ahead of the clock.
pub const FUTURE_SKEW_MAX: Duration = Duration::from_secs(3600);
/// The longest that a policy may leave a target alone.
pub const COOLDOWN_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

impl Policy {
    /// Checks the ranges that the types do not, and that `operators` could ever agree to a break-glass action.
    ///
    /// # Errors
    /// [`ConfigError`] for the first option out of range.
    pub fn validate(&self, operators: &Operators) -> Result<(), ConfigError> {
        let threshold = usize::from(self.ice_threshold);
        let rules = [
            (
                "ice_threshold",
                (1..=SIGNATURES_MAX).contains(&threshold),
                "must be from 1 to 64",
            ),
            (
                "ice_threshold",
                threshold <= operators.count(Role::Ice),
                "must be at most the number of operators with the role ice",
            ),
            (
                "freshness_window",
                (FRESHNESS.0..=FRESHNESS.1).contains(&self.freshness),
                "must be from 1 s to 24 h",
            ),
            (
                "future_skew",
                self.future_skew <= FUTURE_SKEW_MAX,
                "must be at most 1 h",
            ),
            ("ice_cooldown", self.cooldown <= COOLDOWN_MAX, "must be at most 7 days"),
        ];
        match rules.into_iter().find(|(_, holds, _)| !holds) {
            Some((field, _, rule)) => Err(ConfigError { field, rule }),
            None => Ok(()),
        }
    }
}

fn check_header(header: &Header, policy: &Policy, now: UnixMs) -> Result<(), Refused> {
    if header.cluster != policy.cluster {
        return Err(Refused::WrongCluster);
    }
    let issued_at = header.issued_at;
    if issued_at > now.plus(policy.future_skew) {
        return Err(Refused::EnvelopeFromFuture { issued_at, now });
    }
    let not_after = header.not_after;
    if now.since(issued_at) > policy.freshness || now > not_after {
        return Err(Refused::EnvelopeExpired {
            issued_at,
            not_after,
            now,
        });
    }
    Ok(())
}

fn check_signature(
    signature: &OperatorSignature,
    bytes: &[u8],
    operators: &Operators,
    role: Role,
    now: UnixMs,
) -> Result<u64, Refused> {
    let (operator, known) = operators.find(&signature.public_key, now)?;
    if !known.roles.contains(&role) {
        return Err(Refused::RoleDenied { operator, role });
    }
    verify(&signature.public_key, bytes, &signature.signature).map_err(|_| Refused::SignatureInvalid { operator })?;
    Ok(operator)
}

/// Checks everything about an ordinary command that needs no state; returns who signed it.
///
/// # Errors
/// [`Refused`]: the first reason.
pub fn check_admin(
    envelope: &AdminEnvelope,
    operators: &Operators,
    policy: &Policy,
    now: UnixMs,
) -> Result<u64, Refused> {
    check_header(&envelope.header, policy, now)?;
    let signature = envelope.signature.as_ref().ok_or(Refused::Unsigned)?;
    check_signature(signature, &envelope.signing_bytes(), operators, Role::Admin, now)
}

/// Checks everything about a break-glass action that needs no state; returns who agreed to it, ascending.
///
/// # Errors
/// [`Refused`]: the first reason. With too few good signatures it is the first bad one's, when there is one and all
/// together would have been enough.
pub fn check_ice(
    envelope: &IceEnvelope,
    operators: &Operators,
    policy: &Policy,
    now: UnixMs,
) -> Result<Vec<u64>, Refused> {
    let len = envelope.signatures.len();
    if len > SIGNATURES_MAX {
        return Err(Refused::BundleTooLarge {
            len,
            max: SIGNATURES_MAX,
        });
    }
    check_header(&envelope.header, policy, now)?;
    if let IceAction::FreezeCluster { ttl } = envelope.action
        && !(FREEZE_TTL.0..=FREEZE_TTL.1).contains(&ttl)
    {
        return Err(Refused::InvalidSpan);
    }
    // A simulation of any action has a warning at least.
    if envelope.blast == BlastRadius::default() {
        return Err(Refused::SimulationRequired);
    }
    let bytes = envelope.signing_bytes();
    let mut good = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut bad = None;
    for signature in &envelope.signatures {
        // The same signature again proves nothing, and need not be paid for.
        if !seen.insert((signature.public_key, signature.signature)) {
            continue;
        }
        match check_signature(signature, &bytes, operators, Role::Ice, now) {
            Ok(operator) => {
                good.insert(operator);
            }
            Err(refused) => bad = bad.or(Some(refused)),
        }
    }
    let required = usize::from(envelope.threshold.max(policy.ice_threshold).max(1));
    if good.len() >= required {
        return Ok(good.into_iter().collect());
    }
    let distinct: BTreeSet<EntityId> = envelope
        .signatures
        .iter()
        .map(|signature| signature.public_key)
        .collect();
    match bad {
        Some(bad) if distinct.len() >= required => Err(bad),
        _ => Err(Refused::InsufficientSignatures {
            got: good.len(),
            required,
        }),
    }
}

/// What the audit of earlier runs tells of what was obeyed; begun empty, and told record by record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    obeyed: Ledger,
    /// When a target was acted on last.
    acted: BTreeMap<Bucket, UnixMs>,
}

impl History {
    /// Takes a record in. Of more envelopes than a ledger keeps, the oldest are forgotten together with everything as
    /// old.
    pub fn add(&mut self, record: &AuditRecord) {
        let command = &record.command;
        if matches!(command.verdict, Verdict::Rejected { .. }) {
            return;
        }
        if let Order::Ice(action) = &command.order
            && let Some(bucket) = bucket(action)
        {
            let known = self.acted.entry(bucket).or_insert(record.at);
            *known = (*known).max(record.at);
        }
        if let Some(envelope_id) = command.envelope_id {
            // Without it, as late as it can have been made.
            let issued_at = command.issued_at.unwrap_or_else(|| record.at.plus(FUTURE_SKEW_MAX));
            self.obeyed.record(envelope_id, issued_at);
            self.obeyed.trim(USED_MAX);
        }
    }
}

/// What was obeyed lately.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    used: BTreeMap<[u8; 16], UnixMs>,
    by_age: BTreeSet<(UnixMs, [u8; 16])>,
    /// Nothing issued at or before it is obeyed.
    horizon: UnixMs,
    cooldowns: BTreeMap<Bucket, UnixMs>,
}

impl Ledger {
    /// Obeys an envelope, if it was not obeyed before and its target is not left alone: records its id, and leaves the
    /// target alone from now on.
    ///
    /// # Errors
    /// [`Refused`]: nothing was recorded.
    pub fn obey(
        &mut self,
        envelope_id: [u8; 16],
        issued_at: UnixMs,
        action: Option<&IceAction>,
        policy: &Policy,
        now: UnixMs,
    ) -> Result<(), Refused> {
        self.forget(policy, now);
        self.check(envelope_id, issued_at, action, now)?;
        self.record(envelope_id, issued_at);
        if let Some(bucket) = action.and_then(bucket) {
            self.cooldowns.insert(bucket, now.plus(policy.cooldown));
        }
        Ok(())
    }

    /// Whether an envelope would be obeyed, as far as the ledger is concerned.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check(
        &self,
        envelope_id: [u8; 16],
        issued_at: UnixMs,
        action: Option<&IceAction>,
        now: UnixMs,
    ) -> Result<(), Refused> {
        if self.used.contains_key(&envelope_id) || (issued_at <= self.horizon && self.horizon.get() > 0) {
            return Err(Refused::Replayed { envelope_id });
        }
        if self.used.len() >= USED_MAX {
            return Err(Refused::Overloaded);
        }
        let held = action.and_then(bucket);
        match held.and_then(|bucket| self.cooldowns.get(&bucket).map(|until| (bucket, *until))) {
            Some((bucket, until)) if until > now => Err(Refused::CooldownActive { bucket, until }),
            _ => Ok(()),
        }
    }

    /// Records that an envelope was obeyed, as an audit tells it.
    pub fn record(&mut self, envelope_id: [u8; 16], issued_at: UnixMs) {
        if self.used.insert(envelope_id, issued_at).is_none() {
            self.by_age.insert((issued_at, envelope_id));
        }
    }

    /// Records a cooldown, as an audit tells it.
    pub fn cool(&mut self, bucket: Bucket, until: UnixMs) {
        let known = self.cooldowns.entry(bucket).or_insert(until);
        *known = (*known).max(until);
    }

    /// Takes over what another ledger knows, and forgets nothing of its own.
    pub fn absorb(&mut self, other: &Self) {
        for (envelope_id, issued_at) in &other.used {
            self.record(*envelope_id, *issued_at);
        }
        for (bucket, until) in &other.cooldowns {
            self.cool(*bucket, *until);
        }
        self.horizon = self.horizon.max(other.horizon);
    }

    /// Begins where earlier runs ended, as their audit tells it. A target is left alone no longer from now on than it is
    /// after an action, also when the clock was set back.
    pub fn recall(&mut self, history: &History, policy: &Policy, now: UnixMs) {
        self.absorb(&history.obeyed);
        for (bucket, at) in &history.acted {
            let until = (*at).min(now).plus(policy.cooldown);
            if until > now {
                self.cool(*bucket, until);
            }
        }
        self.forget(policy, now);
        // Under a clock that was set back nothing is old, and there must be space for what comes.
        self.trim(USED_MAX / 2);
    }

    /// Forgets the oldest envelopes, and with them everything as old, until at most so many are kept.
    fn trim(&mut self, most: usize) {
        while self.used.len() > most
            && let Some((issued_at, envelope_id)) = self.by_age.pop_first()
        {
            self.used.remove(&envelope_id);
            self.horizon = self.horizon.max(issued_at);
        }
    }

    /// Forgets what is too old to be obeyed again anyway, and remembers how old that was.
    fn forget(&mut self, policy: &Policy, now: UnixMs) {
        let life = policy.freshness + policy.future_skew + policy.future_skew;
        while let Some((issued_at, envelope_id)) = self.by_age.first().copied() {
            if issued_at.plus(life) >= now {
                break;
            }
            self.by_age.pop_first();
            self.used.remove(&envelope_id);
            self.horizon = self.horizon.max(issued_at);
        }
        self.cooldowns.retain(|_, until| *until > now);
    }

    /// Targets that are left alone, and until when.
    pub fn cooldowns(&self, now: UnixMs) -> impl Iterator<Item = (Bucket, UnixMs)> {
        self.cooldowns
            .iter()
            .map(|(bucket, until)| (*bucket, *until))
            .filter(move |(_, until)| *until > now)
    }

    /// Ids that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether nothing was obeyed lately.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }
}
