//! `PermissionToken` and `ChannelPolicy`: who may use a channel.

use std::collections::BTreeSet;
use std::time::Duration;

use meshos_core::channel_policy::ChannelPolicy;
use meshos_core::id::EntityId;
use meshos_core::name::ChannelName;
use meshos_core::revocation::Revocations;
use meshos_core::token::{Demand, PermissionToken, Right, Rights, Scope, Share, Terms};
use meshos_node::{clock, keys};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDelta, PyDeltaAccess, PyFrozenSet, PyString, PyTuple, PyType};

use crate::args;
use crate::errors;
use crate::guard::entry;
use crate::identity::PyIdentity;
use crate::record::field::{Field, Given, items, read};
use crate::record::moment::Moment;
use crate::record::options::set;
use crate::record::word::{shown, word};
use crate::record::{self, Record, Reduced};

word! {
    Right as "Right" in "meshos.channel" {
        Publish = "publish",
        Subscribe = "subscribe",
        Admin = "admin",
        Delegate = "delegate",
    }
}

/// A signed, scoped, expiring permission of one subject, with the delegations it stands on.
#[pyclass(frozen, eq, hash, name = "PermissionToken", module = "meshos.channel")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PyPermissionToken(pub PermissionToken);

impl PyPermissionToken {
    fn scope(&self) -> Option<&ChannelName> {
        match &self.0.last().scope {
            Scope::All => None,
            Scope::Channel(name) => Some(name),
        }
    }
}

#[pymethods]
impl PyPermissionToken {
    /// Sign a root token, 1 s to 365 days long; `channel=None`: every channel. Raises `TokenError`.
    #[classmethod]
    #[pyo3(signature = (issuer, *, subject, channel, rights, ttl, delegations = Given::Not),
        text_signature = "(issuer, *, subject, channel, rights, ttl, delegations=0)")]
    fn issue(
        _class: &Bound<'_, PyType>,
        issuer: &Bound<'_, PyAny>,
        subject: &Bound<'_, PyAny>,
        channel: &Bound<'_, PyAny>,
        rights: &Bound<'_, PyAny>,
        ttl: &Bound<'_, PyAny>,
        delegations: Given<'_>,
    ) -> PyResult<Self> {
        entry("PermissionToken.issue", || {
            let issuer = args::instance::<PyIdentity>(issuer, "issuer", "an Identity")?.get();
            let terms = Terms {
                subject: read(subject, "subject")?,
                scope: read::<Option<ChannelName>>(channel, "channel")?.map_or(Scope::All, Scope::Channel),
                rights: read_rights(rights)?,
                delegations: delegations.map_or(0, read_delegations)?,
            };
            let ttl = read_ttl(ttl)?;
            let issued = PermissionToken::issue(&issuer.key.lock(), terms, clock::unix_ms(), ttl, keys::random_bytes());
            issued.map(Self).map_err(|error| errors::token(&error))
        })
    }

    /// Pass on all or some rights, with the same expiry; `holder` is this token's subject. Raises `TokenError`.
    #[pyo3(signature = (holder, *, subject, rights = None))]
    fn delegate(
        &self,
        holder: &Bound<'_, PyAny>,
        subject: &Bound<'_, PyAny>,
        rights: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        entry("PermissionToken.delegate", || {
            let holder = args::instance::<PyIdentity>(holder, "holder", "an Identity")?.get();
            let share = Share {
                rights: rights.map(read_rights).transpose()?,
                ..Share::all(read(subject, "subject")?)
            };
            let passed = self
                .0
                .delegate(&holder.key.lock(), share, clock::unix_ms(), keys::random_bytes());
            passed.map(Self).map_err(|error| errors::token(&error))
        })
    }

    /// Check the whole chain as a publisher does; raises `TokenError`.
    #[pyo3(signature = (*, roots, right, channel, presenter, now = None))]
    fn verify(
        &self,
        roots: &Bound<'_, PyAny>,
        right: &Bound<'_, PyAny>,
        channel: &Bound<'_, PyAny>,
        presenter: &Bound<'_, PyAny>,
        now: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        entry("PermissionToken.verify", || {
            let roots: BTreeSet<EntityId> = items(roots, "roots", "an iterable of EntityId", |root| {
                EntityId::from_python(root, "roots")
            })?;
            let now = now.map(|now| Moment::from_python(now, "now").map(Moment::unix_ms));
            let demand = Demand {
                roots: &roots,
                right: read(right, "right")?,
                channel: &read(channel, "channel")?,
                presenter: &read(presenter, "presenter")?,
                now: now.transpose()?.unwrap_or_else(clock::unix_ms),
                skew: Duration::ZERO,
                revocations: &Revocations::default(),
            };
            self.0.verify(&demand).map_err(|error| errors::token(&error))
        })
    }

    /// Return it and what it stands on as bytes.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.to_bytes())
    }

    /// Read a token and what it stands on; raises `TokenError` of kind "invalid_format".
    #[classmethod]
    fn from_bytes(_class: &Bound<'_, PyType>, data: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("PermissionToken.from_bytes", || {
            let data = args::payload(data, "data")?;
            PermissionToken::decode(data.as_bytes())
                .map(Self)
                .map_err(|error| errors::token_bytes(&error))
        })
    }

    /// Who signed it.
    #[getter]
    fn issuer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.last().issuer.to_python(py)
    }

    /// Who may.
    #[getter]
    fn subject<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.last().subject.to_python(py)
    }

    /// The one channel it is for, not those below it; `None`: every channel.
    #[getter]
    fn channel<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.scope().cloned().to_python(py)
    }

    /// What it permits.
    #[getter]
    fn rights<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFrozenSet>> {
        let rights = self.0.last().rights.iter().map(|right| right.to_python(py));
        PyFrozenSet::new(py, rights.collect::<PyResult<Vec<_>>>()?)
    }

    /// The first instant at which it is valid.
    #[getter]
    fn not_before<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Moment::of(self.0.last().not_before).to_python(py)
    }

    /// The first instant at which it is expired.
    #[getter]
    fn not_after<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Moment::of(self.0.last().not_after).to_python(py)
    }

    /// How many times it may still be passed on.
    #[getter]
    fn delegations(&self) -> u8 {
        self.0.last().delegations
    }

    /// The tokens it stands on, root first.
    #[getter]
    fn parents<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let parents = self.0.parents().into_iter().map(|parent| Bound::new(py, Self(parent)));
        PyTuple::new(py, parents.collect::<PyResult<Vec<_>>>()?)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let field = |name: &str| slf.as_any().getattr(name).and_then(|value| shown(&value));
        Ok(format!(
            "<PermissionToken of {} on {}: {}, until {}>",
            field("subject")?,
            slf.get().scope().map_or("every channel", ChannelName::as_str),
            slf.get()
                .0
                .last()
                .rights
                .iter()
                .map(|right| right.to_python(slf.py()).map(|right| right.to_string()))
                .collect::<PyResult<Vec<_>>>()?
                .join(" "),
            slf.as_any().getattr("not_after")?.call_method0("isoformat")?,
        ))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        record::reduce_bytes(slf, slf.get().to_bytes(slf.py()).into_any())
    }
}

impl Field for PermissionToken {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        record::copied::<PyPermissionToken>(value, name).map(|token| token.0)
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(Bound::new(py, PyPermissionToken(self.clone()))?.into_any())
    }
}

/// Any iterable of rights but a `str`, which is one of its own letters.
pub fn read_rights(value: &Bound<'_, PyAny>) -> PyResult<Rights> {
    let wanted = "a collection of Right";
    if value.is_instance_of::<PyString>() {
        return Err(args::wrong_type("rights", wanted, value));
    }
    items(value, "rights", wanted, |right| Right::from_python(right, "rights"))
}

/// How often a token may be passed on.
pub fn read_delegations(value: &Bound<'_, PyAny>) -> PyResult<u8> {
    // What does not fit is too many, which the core says.
    args::u64(value, "delegations").map(|number| u8::try_from(number).unwrap_or(u8::MAX))
}

/// A span below zero is as much too short as one of zero.
pub fn read_ttl(value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let is_negative = value.cast::<PyDelta>().is_ok_and(|ttl| ttl.get_days() < 0);
    if is_negative {
        Ok(Duration::ZERO)
    } else {
        read(value, "ttl")
    }
}

/// How a node keeps one of its channels. Options are given by keyword; raises `ConfigError`.
#[pyclass(frozen, eq, hash, name = "ChannelPolicy", module = "meshos.channel")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PyChannelPolicy(pub ChannelPolicy);

impl Record for PyChannelPolicy {
    const FIELDS: &'static [&'static str] = &["requires_token", "roots", "retain_bytes_max", "payload_bytes_max"];
    const BY_KEYWORD: bool = true;
}

#[pymethods]
impl PyChannelPolicy {
    #[new]
    #[pyo3(
        signature = (
            *,
            requires_token = Given::Not,
            roots = Given::Not,
            retain_bytes_max = Given::Not,
            payload_bytes_max = Given::Not
        ),
        text_signature = "(*, requires_token=False, roots=frozenset(), retain_bytes_max=67108864, \
            payload_bytes_max=16777216)"
    )]
    fn new(
        requires_token: Given<'_>,
        roots: Given<'_>,
        retain_bytes_max: Given<'_>,
        payload_bytes_max: Given<'_>,
    ) -> PyResult<Self> {
        entry("ChannelPolicy", || {
            let mut policy = ChannelPolicy::default();
            set::<bool, _>(&mut policy.requires_token, &requires_token, "requires_token")?;
            policy.roots = roots.map_or(BTreeSet::new(), read_roots)?;
            set::<u64, _>(&mut policy.retain_bytes_max, &retain_bytes_max, "retain_bytes_max")?;
            set::<u64, _>(&mut policy.payload_bytes_max, &payload_bytes_max, "payload_bytes_max")?;
            policy.validate().map_err(|error| errors::config(&error))?;
            Ok(Self(policy))
        })
    }

    /// Whether subscribers, and publishers on other nodes, need a token, and payloads are encrypted.
    #[getter]
    fn requires_token(&self) -> bool {
        self.0.requires_token
    }

    /// Issuers of tokens trusted besides the node's own key.
    #[getter]
    fn roots<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFrozenSet>> {
        let roots = self.0.roots.iter().map(|root| root.to_python(py));
        PyFrozenSet::new(py, roots.collect::<PyResult<Vec<_>>>()?)
    }

    /// Bytes kept for subscribers that fell behind; what is older is a counted gap to them.
    #[getter]
    fn retain_bytes_max(&self) -> u64 {
        self.0.retain_bytes_max
    }

    /// Bytes of the largest payload.
    #[getter]
    fn payload_bytes_max(&self) -> u64 {
        self.0.payload_bytes_max
    }

    #[classattr]
    fn __match_args__(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
        record::match_args::<Self>(py)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        record::repr(slf)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        record::reduce(slf)
    }
}

fn read_roots(value: &Bound<'_, PyAny>) -> PyResult<BTreeSet<EntityId>> {
    let roots = value
        .cast::<PyFrozenSet>()
        .map_err(|_| args::wrong_type("roots", "a frozenset", value))?;
    roots.iter().map(|root| EntityId::from_python(&root, "roots")).collect()
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyPermissionToken>()?;
    module.add_class::<PyChannelPolicy>()
}
