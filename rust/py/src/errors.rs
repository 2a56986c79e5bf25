//! The one place where an error of the core or the node becomes a Python exception.

use meshos_core::chain::{BrokenKind, ChainError};
use meshos_core::codec::{DecodeError, Fault, Unwritable};
use meshos_core::config::ConfigError as CoreConfigError;
use meshos_core::entity_log::{LogError, PruneError};
use meshos_core::host::ResumeError;
use meshos_core::id::Origin;
use meshos_core::identity::IdentityError as CoreIdentityError;
use meshos_core::ingress::EventKey;
use meshos_core::lifecycle::LifecycleError;
use meshos_core::name::NameError;
use meshos_core::refusal::Refused;
use meshos_core::time::UnixMs;
use meshos_core::token::{TokenError as CoreTokenError, TokenFault};
use meshos_core::trail::TrailError;
use meshos_node::daemon::{DeliverError, NotTaken};
use meshos_node::lease::Unleased;
use meshos_node::recovery::NameTaken;
use meshos_node::resumption::ResumeFailed;
use meshos_node::runtime::{ReachError, SpawnError};
use meshos_node::slot::EnterError;
use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::import_exception;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::daemon::PyDaemon;
use crate::identity::entity_id;
use crate::record::field::Field;
use crate::record::moment::Moment;
use crate::user::{Ran, UserError};

import_exception!(meshos.errors, ConfigError);
import_exception!(meshos.errors, InvalidArgument);
import_exception!(meshos.errors, InvariantViolation);
import_exception!(meshos.errors, ReentrantCallError);
import_exception!(meshos.errors, ForkedProcessError);
import_exception!(meshos.errors, PoisonedError);
import_exception!(meshos.errors, LoopClosed);
import_exception!(meshos.errors, WaitTimeout);
import_exception!(meshos.errors, QueueFull);
import_exception!(meshos.errors, RuntimeShutdownError);
import_exception!(meshos.errors, Backpressure);
import_exception!(meshos.errors, Unavailable);
import_exception!(meshos.errors, SubscribeRejected);
import_exception!(meshos.errors, InvalidDaemon);
import_exception!(meshos.errors, DaemonNotFound);
import_exception!(meshos.errors, NotOwner);
import_exception!(meshos.errors, Migrating);
import_exception!(meshos.errors, MigrationError);
import_exception!(meshos.errors, RemoteRefused);
import_exception!(meshos.errors, ChainContradiction);
import_exception!(meshos.errors, PublishRejected);
import_exception!(meshos.errors, StaleDaemon);
import_exception!(meshos.errors, AlreadyRegistered);
import_exception!(meshos.errors, AlreadyStored);
import_exception!(meshos.errors, NotReady);
import_exception!(meshos.errors, ShuttingDown);
import_exception!(meshos.errors, FactoryNotFound);
import_exception!(meshos.errors, FactoryAlreadyRegistered);
import_exception!(meshos.errors, ProcessFailed);
import_exception!(meshos.errors, CallbackFailed);
import_exception!(meshos.errors, SendTimeout);
import_exception!(meshos.errors, DeliveryUnknown);
import_exception!(meshos.errors, SnapshotFailed);
import_exception!(meshos.errors, RestoreFailed);
import_exception!(meshos.errors, StaleSnapshot);
import_exception!(meshos.errors, StoreError);
import_exception!(meshos.errors, DivergenceError);
import_exception!(meshos.errors, PruneRefused);
import_exception!(meshos.errors, SnapshotIdentityMismatch);
import_exception!(meshos.errors, BrokenLink);
import_exception!(meshos.errors, BadSignature);
import_exception!(meshos.errors, FileDecodeError);
import_exception!(meshos.errors, AppendFailed);
import_exception!(meshos.errors, SnapshotDecodeError);
import_exception!(meshos.errors, IdentityError);
import_exception!(meshos.errors, ChannelNameError);
import_exception!(meshos.errors, TokenError);
import_exception!(meshos.errors, EnvelopeDecodeError);
import_exception!(meshos.errors, NoVerifier);
import_exception!(meshos.errors, UnsignedRejected);
import_exception!(meshos.errors, NotAuthorized);
import_exception!(meshos.errors, RoleDenied);
import_exception!(meshos.errors, SignatureInvalid);
import_exception!(meshos.errors, InsufficientSignatures);
import_exception!(meshos.errors, BundleTooLarge);
import_exception!(meshos.errors, EnvelopeExpired);
import_exception!(meshos.errors, EnvelopeFromFuture);
import_exception!(meshos.errors, Replayed);
import_exception!(meshos.errors, Overloaded);
import_exception!(meshos.errors, WrongCluster);
import_exception!(meshos.errors, SimulationRequired);
import_exception!(meshos.errors, InvalidSpan);
import_exception!(meshos.errors, PreviewStale);
import_exception!(meshos.errors, CooldownActive);
import_exception!(meshos.errors, FreezeInEffect);
import_exception!(meshos.errors, IceRequiresBundle);
import_exception!(meshos.errors, AuditRequired);
import_exception!(meshos.dispatch, DispatchError);

/// A check of a signature or key failed, or a public-only key was to sign.
pub fn identity(error: &CoreIdentityError) -> PyErr {
    let kind = match error {
        CoreIdentityError::InvalidPublicKey => "invalid_public_key",
        CoreIdentityError::InvalidSignature => "invalid_signature",
        CoreIdentityError::ReadOnly => "read_only",
    };
    IdentityError::new_err((kind, error.to_string()))
}

/// A channel name is out of grammar.
pub fn name(error: &NameError, text: &str) -> PyErr {
    let kind = match error {
        NameError::Empty => "empty",
        NameError::TooLong { .. } => "too_long",
        NameError::InvalidChar { .. } => "invalid_char",
        NameError::InvalidSegment { .. } => "invalid_segment",
    };
    ChannelNameError::new_err((kind, text.to_owned()))
}

/// A permission token does not permit, or cannot be made.
pub fn token(error: &CoreTokenError) -> PyErr {
    let kind = match error.fault {
        TokenFault::InvalidSignature => "invalid_signature",
        TokenFault::NotYetValid { .. } => "not_yet_valid",
        TokenFault::Expired { .. } => "expired",
        TokenFault::DelegationExhausted => "delegation_exhausted",
        TokenFault::DelegationNotAllowed => "delegation_not_allowed",
        TokenFault::NotAuthorized(_) => "not_authorized",
        TokenFault::Revoked => "revoked",
        TokenFault::ReadOnly => "read_only",
        TokenFault::ZeroTtl => "zero_ttl",
        TokenFault::TtlTooLong => "ttl_too_long",
        TokenFault::NoRights => return InvalidArgument::new_err(("rights", "must name at least one right")),
        TokenFault::TooManyDelegations => return InvalidArgument::new_err(("delegations", "must be from 0 to 7")),
    };
    TokenError::new_err((kind, error.to_string(), error.grant))
}

/// Bytes are no permission token.
pub fn token_bytes(error: &DecodeError) -> PyErr {
    TokenError::new_err(("invalid_format", error.to_string()))
}

/// An option is out of range.
pub fn config(error: &CoreConfigError) -> PyErr {
    ConfigError::new_err((error.field, error.rule))
}

/// A chain does not prove what it claims.
pub fn chain(error: &ChainError) -> PyErr {
    match *error {
        ChainError::Broken {
            kind,
            origin,
            sequence,
            expected,
            found,
        } => {
            let kind = match kind {
                BrokenKind::Gap => "gap",
                BrokenKind::Altered => "altered",
                BrokenKind::Forked => "forked",
                BrokenKind::WrongOrigin => "wrong_origin",
                BrokenKind::Receipt => "receipt",
            };
            BrokenLink::new_err((kind, origin.get(), sequence, expected, found))
        }
        ChainError::BadSignature { origin, sequence, what } => {
            BadSignature::new_err((origin.get(), sequence, what.to_owned()))
        }
        ChainError::Exhausted { origin } => BrokenLink::new_err(("gap", origin.get(), u64::MAX, u64::MAX, u64::MAX)),
    }
}

/// A file or record cannot be read.
pub fn file(error: &DecodeError) -> PyErr {
    FileDecodeError::new_err((error.offset, error.fault.to_string()))
}

/// A file of records does not prove what it claims.
pub fn trail(error: &TrailError) -> PyErr {
    match error {
        TrailError::Unreadable { place, error } if place.entry == 0 => file(error),
        TrailError::Unreadable { place, error } => {
            FileDecodeError::new_err((error.offset, format!("record {}: {}", place.record, error.fault)))
        }
        TrailError::Broken {
            place,
            trail,
            expected,
            found,
        } => BrokenLink::new_err(("altered", *trail, place.record, expected.head8(), found.head8())),
        TrailError::BadSignature { place, trail } => {
            BadSignature::new_err((*trail, place.record, "the head before it is not signed by who it names"))
        }
        TrailError::WrongEnd {
            place,
            trail,
            expected,
            found,
        } => BrokenLink::new_err(("receipt", *trail, place.record, expected.head8(), found.head8())),
    }
}

/// Bytes or text are not one canonical envelope.
pub fn envelope(error: &DecodeError) -> PyErr {
    EnvelopeDecodeError::new_err((error.offset, error.fault.to_string()))
}

/// A value has no encoding.
pub fn unwritable(error: Unwritable) -> PyErr {
    InvalidArgument::new_err((error.field, error.rule))
}

/// A command was refused, as audit record `audit_seq`, if it reached a node.
pub fn refused(py: Python<'_>, refused: &Refused, audit_seq: Option<u64>) -> PyErr {
    refusal(py, refused, audit_seq).unwrap_or_else(|error| error)
}

fn refusal(py: Python<'_>, refused: &Refused, audit_seq: Option<u64>) -> PyResult<PyErr> {
    let moment = |at: UnixMs| Moment::of(at).to_python(py).map(Bound::unbind);
    Ok(match refused {
        Refused::NoVerifier => NoVerifier::new_err((audit_seq,)),
        Refused::Unsigned => UnsignedRejected::new_err((audit_seq,)),
        Refused::WrongCluster => WrongCluster::new_err((audit_seq,)),
        Refused::BundleTooLarge { len, max } => BundleTooLarge::new_err((*len, *max, audit_seq)),
        Refused::EnvelopeExpired {
            issued_at, not_after, ..
        } => EnvelopeExpired::new_err((moment(*issued_at)?, moment(*not_after)?, audit_seq)),
        Refused::EnvelopeFromFuture { issued_at, .. } => EnvelopeFromFuture::new_err((moment(*issued_at)?, audit_seq)),
        Refused::Replayed { envelope_id } => replayed(py, envelope_id, None, audit_seq),
        Refused::Overloaded => Overloaded::new_err((audit_seq,)),
        Refused::NotAuthorized { operator } => NotAuthorized::new_err((*operator, audit_seq)),
        Refused::RoleDenied { operator, role } => {
            RoleDenied::new_err((*operator, role.to_python(py)?.unbind(), audit_seq))
        }
        Refused::SignatureInvalid { operator } => SignatureInvalid::new_err((*operator, audit_seq)),
        Refused::InsufficientSignatures { got, required } => {
            InsufficientSignatures::new_err((*got, *required, audit_seq))
        }
        Refused::PreviewStale { drift } => PreviewStale::new_err((PyTuple::new(py, drift)?.unbind(), audit_seq)),
        Refused::SimulationRequired => SimulationRequired::new_err((audit_seq,)),
        Refused::CooldownActive { bucket, until } => {
            CooldownActive::new_err((bucket.to_string(), moment(*until)?, audit_seq))
        }
        Refused::InvalidSpan => InvalidSpan::new_err((audit_seq,)),
        Refused::FreezeInEffect { until } => FreezeInEffect::new_err((moment(*until)?, audit_seq)),
        Refused::AuditRequired => AuditRequired::new_err((audit_seq,)),
    })
}

/// An envelope was accepted before, as audit record `accepted_as`, if that is known.
pub fn replayed(py: Python<'_>, envelope_id: &[u8; 16], accepted_as: Option<u64>, audit_seq: Option<u64>) -> PyErr {
    Replayed::new_err((PyBytes::new(py, envelope_id).unbind(), accepted_as, audit_seq))
}

/// Bytes are not a usable snapshot.
pub fn snapshot(error: &DecodeError) -> PyErr {
    let kind = match error.fault {
        Fault::Truncated { .. } => "truncated",
        Fault::TooLarge { .. } => "too_large",
        Fault::NewerVersion { .. } => "newer_version",
        Fault::UnknownSection { .. } => "unknown_section",
        Fault::Magic
        | Fault::SectionOrder { .. }
        | Fault::MissingSection { .. }
        | Fault::Trailing { .. }
        | Fault::Digest
        | Fault::Utf8
        | Fault::Invalid { .. } => "corrupt",
    };
    SnapshotDecodeError::new_err((kind, error.offset, error.fault.to_string()))
}

/// The runtime does not allow the call now.
pub fn lifecycle(error: LifecycleError) -> PyErr {
    match error {
        LifecycleError::NotReady => NotReady::new_err(()),
        LifecycleError::ShuttingDown => ShuttingDown::new_err(()),
    }
}

/// A daemon could not be entered. `Busy` waits elsewhere, `Interrupted` has its own exception and `NotDown` is for who
/// starts daemons again, so none of them gets here.
pub fn enter(error: EnterError, origin: Origin, py: Python<'_>) -> PyErr {
    match error {
        EnterError::Stale => StaleDaemon::new_err((origin.get(),)),
        EnterError::Failed(reason) => RestoreFailed::new_err(("failed", origin.get(), reason.to_string())),
        EnterError::Crowded | EnterError::Busy | EnterError::NotDown => backpressure(py),
        EnterError::Timeout => waited("the daemon", std::time::Duration::ZERO, py),
        EnterError::Interrupted => PyKeyboardInterrupt::new_err(()),
    }
}

/// A recovery handler was not registered.
pub fn name_taken(error: &NameTaken) -> PyErr {
    InvalidArgument::new_err(("name", format!("{:?} is in use", error.name)))
}

/// Ask again in a moment.
pub fn backpressure(py: Python<'_>) -> PyErr {
    match std::time::Duration::from_millis(50).into_pyobject(py) {
        Ok(delta) => Backpressure::new_err((delta.unbind(),)),
        Err(error) => error,
    }
}

/// A daemon stands still, since it is being moved.
pub fn migrating(origin: Origin, py: Python<'_>) -> PyErr {
    match std::time::Duration::from_millis(50).into_pyobject(py) {
        Ok(delta) => Migrating::new_err((origin.get(), delta.unbind())),
        Err(error) => error,
    }
}

/// What was waited for did not happen in time.
pub fn waited(what: &str, timeout: std::time::Duration, py: Python<'_>) -> PyErr {
    match timeout.into_pyobject(py) {
        Ok(delta) => WaitTimeout::new_err((what.to_owned(), delta.unbind())),
        Err(error) => error,
    }
}

/// A daemon could not be reached.
pub fn reach(error: ReachError, py: Python<'_>) -> PyErr {
    match error {
        ReachError::Lifecycle(error) => lifecycle(error),
        ReachError::NotFound(origin) => DaemonNotFound::new_err((origin.get(),)),
        ReachError::NotOwner { origin, node, epoch } => NotOwner::new_err((origin.get(), node.node_id().get(), epoch)),
        ReachError::Enter(error) => enter(error, Origin::new(0), py),
    }
}

/// A snapshot cannot be continued from.
pub fn resume(error: ResumeError, origin: Origin, py: Python<'_>) -> PyErr {
    match error {
        ResumeError::Identity { snapshot, identity } => {
            let made = entity_id(py, snapshot).and_then(|snapshot| {
                let identity = entity_id(py, identity)?;
                Ok(SnapshotIdentityMismatch::new_err((
                    snapshot.unbind(),
                    identity.unbind(),
                )))
            });
            made.unwrap_or_else(|error| error)
        }
        ResumeError::StaleOutputs { snapshot, known } => {
            StaleSnapshot::new_err((origin.get(), snapshot, known, "outputs"))
        }
        ResumeError::StaleInputs { snapshot, known } => {
            StaleSnapshot::new_err((origin.get(), snapshot, known, "inputs"))
        }
        ResumeError::WrongChain { sequence } => RestoreFailed::new_err((
            "wrong_chain",
            origin.get(),
            format!("the snapshot is of another chain at sequence {sequence}"),
        )),
    }
}

/// A daemon was not started.
pub fn spawn(error: SpawnError<PyDaemon>, origin: Origin, py: Python<'_>) -> PyErr {
    match error {
        SpawnError::Lifecycle(error) => lifecycle(error),
        SpawnError::Occupied(origin) => AlreadyRegistered::new_err((origin.get(),)),
        SpawnError::Known(origin) => AlreadyStored::new_err((origin.get(),)),
        SpawnError::Key(error) => identity(&error),
        SpawnError::Resume(error) => resume(error, origin, py),
        SpawnError::WrongKind { snapshot, daemon } => RestoreFailed::new_err((
            "wrong_kind",
            origin.get(),
            format!(
                "the snapshot is of kind {snapshot:?}, the daemon of kind {:?}",
                &*daemon
            ),
        )),
        SpawnError::Stateless { bytes } => RestoreFailed::new_err((
            "stateless",
            origin.get(),
            format!("the snapshot has {bytes} bytes of state, and the daemon overrides neither snapshot nor restore"),
        )),
        SpawnError::RestoreFailed(error) => restore(error, origin, py),
        SpawnError::SnapshotFailed(error) => snapshot_failed(error, origin, py),
        SpawnError::Stored(origin) | SpawnError::NotStored(origin) => AlreadyStored::new_err((origin.get(),)),
        SpawnError::BadRecord(why) => {
            let text = format!("the record that names this node as the owner is refused: {why}");
            IdentityError::new_err(("invalid_signature", text))
        }
        SpawnError::NotKept(error) => store(&error, ""),
        SpawnError::NotResumed(failed) => not_resumed(failed, origin, py),
        SpawnError::NotOwner { node, epoch } => NotOwner::new_err((origin.get(), node.node_id().get(), epoch)),
        SpawnError::Unavailable { directory, why } => Unavailable::new_err((directory.node_id().get(), why)),
        SpawnError::Interrupted(user) => user.cause.unwrap_or_else(|| PyKeyboardInterrupt::new_err(())),
    }
}

/// Why a daemon did not come back from the store.
pub fn not_resumed(failed: ResumeFailed<PyDaemon>, origin: Origin, py: Python<'_>) -> PyErr {
    match failed {
        ResumeFailed::Store(error) => store(&error, ""),
        ResumeFailed::Diverged(divergence) => DivergenceError::new_err((origin.get(), divergence.sequence)),
        ResumeFailed::Raised(error) => restore(error, origin, py),
        ResumeFailed::WrongKind { .. } => RestoreFailed::new_err(("wrong_kind", origin.get(), failed.reason())),
        ResumeFailed::NoInstance => RestoreFailed::new_err(("failed", origin.get(), failed.reason())),
    }
}

/// What a store refused; `path` is empty where it is not known.
pub fn store(error: &meshos_core::store::StoreError, path: &str) -> PyErr {
    use meshos_core::store::{Step, StoreError as Refused};
    let kind = match error {
        Refused::Missing => "missing",
        Refused::NotAStore => "not_a_store",
        Refused::NewerVersion { .. } => "newer_version",
        Refused::OtherNode { .. } => "other_node",
        Refused::Locked => "locked",
        Refused::ReadOnly => "read_only",
        Refused::Full => "full",
        Refused::Io { step: Step::Sync, .. } => "sync_failed",
        Refused::Io { .. } => "io",
        Refused::Damaged(_) | Refused::NoSnapshot { .. } => "corrupt",
        Refused::TooLarge { .. } => "too_large",
        Refused::Superseded { .. } => "superseded",
        Refused::Closed => "closed",
    };
    StoreError::new_err((kind, path.to_owned(), error.to_string()))
}

/// A log cannot be read.
pub fn log(error: &LogError, path: &str) -> PyErr {
    match error {
        LogError::Store(error) => store(error, path),
        LogError::Chain(error) => chain(error),
    }
}

/// A log was not pruned.
pub fn prune(error: &PruneError, path: &str) -> PyErr {
    let (kind, origin, through, nearest) = match *error {
        PruneError::Unprovable {
            origin,
            through,
            nearest,
        } => ("unprovable", origin, through, nearest),
        PruneError::Needed {
            origin,
            through,
            snapshot: _,
            nearest,
        } => ("needed", origin, through, nearest),
        PruneError::Log(ref error) => return log(error, path),
    };
    PruneRefused::new_err((kind, origin.get(), through, nearest))
}

/// Whether an exception of user code passes through as it is.
pub fn passes_through(error: &PyErr, py: Python<'_>) -> bool {
    error.is_instance_of::<PyKeyboardInterrupt>(py) || error.is_instance_of::<PySystemExit>(py)
}

/// `error` with the user's exception as its cause, or that exception itself if it must pass through.
fn caused(error: PyErr, user: UserError, py: Python<'_>) -> PyErr {
    let UserError { cause, ran, .. } = user;
    let Some(cause) = cause else { return error };
    if ran == Ran::Nothing || passes_through(&cause, py) {
        return cause;
    }
    error.set_cause(py, Some(cause));
    error
}

/// User code raised in `restore`, or gave no state that can be restored.
pub fn restore(user: UserError, origin: Origin, py: Python<'_>) -> PyErr {
    let error = RestoreFailed::new_err((user.kind, origin.get(), user.message.clone()));
    caused(error, user, py)
}

/// User code raised in `snapshot`, or gave back something else than bytes.
pub fn snapshot_failed(user: UserError, origin: Origin, py: Python<'_>) -> PyErr {
    let error = SnapshotFailed::new_err((user.kind, origin.get(), user.message.clone()));
    caused(error, user, py)
}

/// User code raised in `health`, `saturation` or `on_control`.
pub fn callback(user: UserError, origin: Origin, callback: &'static str, py: Python<'_>) -> PyErr {
    let error = CallbackFailed::new_err((user.kind, origin.get(), callback, user.message.clone()));
    caused(error, user, py)
}

/// An event did not take effect. `event` is the event as Python holds it.
pub fn deliver(
    error: DeliverError<PyDaemon>,
    origin: Origin,
    key: EventKey,
    event: Option<Py<PyAny>>,
    before: Option<Bound<'_, PyTuple>>,
    py: Python<'_>,
) -> PyErr {
    let failed = |user: UserError, note: &str| {
        let message = format!("{}{note}", user.message);
        let ids = (origin.get(), key.origin.get(), key.sequence);
        let error = match &before {
            Some(before) => ProcessFailed::new_err((user.kind, ids.0, ids.1, ids.2, message, before.clone().unbind())),
            None => ProcessFailed::new_err((user.kind, ids.0, ids.1, ids.2, message)),
        };
        caused(error, user, py)
    };
    match error {
        DeliverError::NoNumber => InvalidArgument::new_err(("event", "an event's sequence begins at 1")),
        DeliverError::Unknown { cursor } => DeliveryUnknown::new_err((origin.get(), event, cursor)),
        DeliverError::Raised(user) => failed(user, ""),
        DeliverError::Lost { error, reason } => failed(
            error,
            &format!("; its state could not be rebuilt, and it takes no more events: {reason}"),
        ),
        DeliverError::SnapshotFailed(user) => snapshot_failed(user, origin, py),
        DeliverError::Exhausted => ProcessFailed::new_err((
            "sequence_exhausted",
            origin.get(),
            key.origin.get(),
            key.sequence,
            "the chain has no numbers left",
        )),
        DeliverError::Stale | DeliverError::Skipped => StaleDaemon::new_err((origin.get(),)),
        DeliverError::Failed(reason) | DeliverError::NotResumed(reason) => {
            RestoreFailed::new_err(("failed", origin.get(), reason.to_string()))
        }
        DeliverError::NotKept(error) => store(&error, ""),
        DeliverError::Unleased(why) => unleased(why, origin),
        DeliverError::SentOn(NotTaken::PassedOver) => ProcessFailed::new_err((
            "passed_over",
            origin.get(),
            key.origin.get(),
            key.sequence,
            "it failed too often on its node, and was passed over",
        )),
        DeliverError::SentOn(NotTaken::Nobody) => DaemonNotFound::new_err((origin.get(),)),
        DeliverError::SentOn(NotTaken::Full) => backpressure(py),
        DeliverError::SentOn(NotTaken::OutOfOrder) => {
            InvalidArgument::new_err(("event", "its number lies between numbers that were sent"))
        }
        DeliverError::SentOn(NotTaken::Closed) => ShuttingDown::new_err(()),
    }
}

/// This node may not let a daemon take events now.
pub fn unleased(why: Unleased, origin: Origin) -> PyErr {
    match why {
        Unleased::Out { directory } => {
            let node = directory.node_id();
            let message =
                format!("the lease of daemon {origin} ran out; node {node} with the directory has not renewed it");
            Unavailable::new_err((node.get(), message))
        }
        Unleased::Fenced { node, epoch } => NotOwner::new_err((origin.get(), node.node_id().get(), epoch)),
    }
}
