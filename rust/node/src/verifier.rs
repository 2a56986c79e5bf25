//! What a node asks before it obeys: who the operators are now, what is demanded of them, and what was obeyed before.
//!
//! Invariants
//! * Signatures are checked against the operators as they were at one moment, and with nothing locked.
//! * What was obeyed outlives the loop that obeyed it: a loop begins with a copy, and says what it obeys, as it does and
//!   at its end. Nothing that was known here is forgotten by that.
//! * Asking what would be obeyed changes nothing.
//! * Signatures that do not hold cost a bounded time: an operator in whose name many of them came lately is not looked at
//!   for a moment. Others are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshos_core::authority::{self, History, Ledger, Operators, OperatorsError, Policy, Refused, USED_MAX, bucket};
use meshos_core::command::IceAction;
use meshos_core::config::ConfigError;
use meshos_core::envelope::{AdminEnvelope, Header, IceEnvelope, OperatorSignature, SIGNATURES_MAX, operator_id};
use meshos_core::time::UnixMs;

use crate::sync::Mutex;

/// The operators, shared by who changes them and who asks.
#[derive(Debug, Default)]
pub struct SharedOperators(Mutex<Arc<Operators>>);

impl SharedOperators {
    /// The operators as they are now; later changes do not show in it.
    #[must_use]
    pub fn now(&self) -> Arc<Operators> {
        Arc::clone(&self.0.lock())
    }

    /// Changes them, or leaves them as they were.
    ///
    /// # Errors
    /// What `change` gives; then nothing changed.
    pub fn change<T>(
        &self,
        change: impl FnOnce(&mut Operators) -> Result<T, OperatorsError>,
    ) -> Result<T, OperatorsError> {
        change(Arc::make_mut(&mut self.0.lock()))
    }
}

/// Commands that may be refused for their signatures in the name of one operator before no more are looked at.
pub const FORGED_MAX: u32 = 256;
/// Time after which one more is looked at.
pub const FORGED_EVERY: Duration = Duration::from_millis(20);

/// How many forged commands are still looked at, for each operator in whose name some came.
#[derive(Debug, Default)]
struct Forged(BTreeMap<u64, (u32, Instant)>);

impl Forged {
    /// Whether a command of these operators is looked at.
    fn allows(&mut self, operators: &[u64], now: Instant) -> bool {
        operators.iter().all(|operator| match self.0.get_mut(operator) {
            None => true,
            Some((left, since)) => {
                let regained = now.saturating_duration_since(*since).as_millis() / FORGED_EVERY.as_millis();
                let regained = u32::try_from(regained).unwrap_or(FORGED_MAX).min(FORGED_MAX);
                *left = (*left + regained).min(FORGED_MAX);
                *since = if *left == FORGED_MAX {
                    now
                } else {
                    *since + FORGED_EVERY * regained
                };
                *left > 0
            }
        })
    }

    fn count(&mut self, operators: &[u64], now: Instant) {
        for operator in operators {
            let (left, _) = self.0.entry(*operator).or_insert((FORGED_MAX, now));
            *left = left.saturating_sub(1);
        }
    }
}

/// Checks commands for the loops of one node, one loop after another.
#[derive(Debug)]
pub struct Verifier {
    policy: Policy,
    operators: Arc<SharedOperators>,
    kept: Mutex<Ledger>,
    forged: Mutex<Forged>,
}

impl Verifier {
    /// Demands what `policy` says of `operators`, who may change.
    ///
    /// # Errors
    /// [`ConfigError`]: an option is out of range, or there are too few operators for a break-glass action.
    pub fn new(policy: Policy, operators: Arc<SharedOperators>) -> Result<Self, ConfigError> {
        policy.validate(&operators.now())?;
        Ok(Self {
            policy,
            operators,
            kept: Mutex::default(),
            forged: Mutex::default(),
        })
    }

    /// What is demanded.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Checks all of an ordinary command that needs no loop; returns who signed it.
    ///
    /// # Errors
    /// [`Refused`]: the first reason.
    pub fn check_admin(&self, envelope: &AdminEnvelope, now: UnixMs) -> Result<u64, Refused> {
        authority::check_admin(envelope, &self.operators.now(), &self.policy, now)
    }

    /// Checks all of a break-glass action that needs no loop; returns who agreed to it, ascending.
    ///
    /// # Errors
    /// [`Refused`]: the first reason.
    pub fn check_ice(&self, envelope: &IceEnvelope, now: UnixMs) -> Result<Vec<u64>, Refused> {
        authority::check_ice(envelope, &self.operators.now(), &self.policy, now)
    }

    /// Checks an ordinary command as [`Verifier::check_admin`] does, unless too many forged ones came lately in the name of
    /// its operator.
    ///
    /// # Errors
    /// [`Refused`]: the first reason.
    pub fn try_admin(&self, envelope: &AdminEnvelope, now: UnixMs) -> Result<u64, Refused> {
        self.try_check(envelope.signature.as_slice(), || self.check_admin(envelope, now))
    }

    /// Checks a break-glass action as [`Verifier::check_ice`] does, unless too many forged ones came lately in the name of
    /// one of its operators.
    ///
    /// # Errors
    /// [`Refused`]: the first reason.
    pub fn try_ice(&self, envelope: &IceEnvelope, now: UnixMs) -> Result<Vec<u64>, Refused> {
        self.try_check(&envelope.signatures, || self.check_ice(envelope, now))
    }

    fn try_check<T>(
        &self,
        signatures: &[OperatorSignature],
        check: impl FnOnce() -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let known = self.operators.now();
        // What strangers sign is refused without looking at the signature. A bundle that is too large is, too.
        let claimed = signatures.iter().take(SIGNATURES_MAX);
        let mut claimed: Vec<u64> = claimed.map(|one| operator_id(&one.public_key)).collect();
        claimed.retain(|operator| known.knows(*operator));
        claimed.sort_unstable();
        claimed.dedup();
        if !self.forged.lock().allows(&claimed, Instant::now()) {
            return Err(Refused::Overloaded);
        }
        let checked = check();
        if let Err(Refused::SignatureInvalid { .. } | Refused::InsufficientSignatures { .. }) = &checked {
            self.forged.lock().count(&claimed, Instant::now());
        }
        checked
    }

    /// Says whether an ordinary command would be obeyed, as far as that is known without a loop; returns who signed it.
    ///
    /// # Errors
    /// [`Refused`]: the first reason.
    pub fn would_obey_admin(&self, envelope: &AdminEnvelope, now: UnixMs) -> Result<u64, Refused> {
        let operator = self.check_admin(envelope, now)?;
        self.would_record(&envelope.header, None, now)?;
        Ok(operator)
    }

    /// Says whether a break-glass action would be obeyed, as far as that is known without a loop; returns who agreed to
    /// it, ascending.
    ///
    /// # Errors
    /// [`Refused`]: the first reason.
    pub fn would_obey_ice(&self, envelope: &IceEnvelope, now: UnixMs) -> Result<Vec<u64>, Refused> {
        let operators = self.check_ice(envelope, now)?;
        self.would_record(&envelope.header, Some(&envelope.action), now)?;
        Ok(operators)
    }

    fn would_record(&self, header: &Header, action: Option<&IceAction>, now: UnixMs) -> Result<(), Refused> {
        let kept = self.kept.lock();
        if kept.len() < USED_MAX {
            return kept.check(header.envelope_id, header.issued_at, action, now);
        }
        // Whether there is space is known after what is old was forgotten, and that happens to a copy.
        let mut copy = kept.clone();
        drop(kept);
        copy.obey(header.envelope_id, header.issued_at, action, &self.policy, now)
    }

    /// What was obeyed so far, which a loop begins with.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.kept.lock().clone()
    }

    /// Hears from a loop that it obeyed an envelope, at the time at which it did.
    pub fn obeyed(&self, envelope_id: [u8; 16], issued_at: UnixMs, action: Option<&IceAction>, now: UnixMs) {
        let mut kept = self.kept.lock();
        if kept.obey(envelope_id, issued_at, action, &self.policy, now).is_ok() {
            return;
        }
        // What was done is done, even if another loop of this verifier would have refused it.
        kept.record(envelope_id, issued_at);
        if let Some(bucket) = action.and_then(bucket) {
            kept.cool(bucket, now.plus(self.policy.cooldown));
        }
    }

    /// Takes over what the audit of earlier runs tells, before a loop begins.
    pub fn recall(&self, history: &History, now: UnixMs) {
        self.kept.lock().recall(history, &self.policy, now);
    }

    /// Takes over what a loop that ended knows.
    pub fn keep(&self, ledger: &Ledger) {
        self.kept.lock().absorb(ledger);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_in_whose_name_many_are_forged_is_looked_at_now_and_then() {
        let mut forged = Forged::default();
        let start = Instant::now();
        for _ in 0..FORGED_MAX {
            assert!(forged.allows(&[7], start));
            forged.count(&[7], start);
        }
        assert!(!forged.allows(&[7], start));
        assert!(!forged.allows(&[7, 8], start), "one of a bundle is enough");
        assert!(forged.allows(&[8], start), "another operator is not held up");
        assert!(forged.allows(&[], start), "nobody is known: that costs nothing");
        assert!(!forged.allows(&[7], start + FORGED_EVERY - Duration::from_millis(1)));
        for turn in 1..=3 {
            let now = start + FORGED_EVERY * turn;
            assert!(forged.allows(&[7], now), "{turn}");
            forged.count(&[7], now);
            assert!(!forged.allows(&[7], now), "{turn}");
        }
    }

    #[test]
    fn after_a_calm_as_many_as_at_first_are_looked_at() {
        let mut forged = Forged::default();
        let start = Instant::now();
        for calm in [Duration::ZERO, Duration::from_secs(60), Duration::from_secs(24 * 3600)] {
            let now = start + calm;
            for _ in 0..FORGED_MAX {
                assert!(forged.allows(&[7], now));
                forged.count(&[7], now);
            }
            assert!(!forged.allows(&[7], now), "{calm:?}");
        }
    }
}
