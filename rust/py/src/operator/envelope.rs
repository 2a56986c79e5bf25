//! What operators sign: envelopes, and their signatures.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::codec::{DecodeError, Unwritable};
use meshos_core::envelope::{
    AdminEnvelope, Header, IceEnvelope, OperatorSignature, SIGNATURES_MAX, cluster_hash, operator_id,
};
use meshos_core::id::EntityId;
use meshos_node::{clock, keys};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};

use super::action::PyIceAction;
use super::blast::PyBlastRadius;
use crate::args;
use crate::command::PyAdminEvent;
use crate::errors::{self, IceRequiresBundle, InvalidArgument};
use crate::guard::entry;
use crate::record::field::{Field, Given, read, records};
use crate::record::moment::Moment;
use crate::record::{self, Record, Reduced};

/// How long an envelope is good when nothing else is said.
const VALID_FOR: Duration = Duration::from_secs(300);
/// Operators that must sign a break-glass action when nothing else is said.
const THRESHOLD: u8 = 2;
/// Bytes of a cluster's id.
pub const CLUSTER_ID_BYTES_MAX: usize = 255;

/// One operator's signature over an envelope.
#[pyclass(frozen, eq, hash, name = "OperatorSignature", module = "meshos.operator")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PyOperatorSignature(pub OperatorSignature);

impl Record for PyOperatorSignature {
    const FIELDS: &'static [&'static str] = &["public_key", "signature"];
}

#[pymethods]
impl PyOperatorSignature {
    #[new]
    fn new(public_key: &Bound<'_, PyAny>, signature: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("OperatorSignature", || {
            Ok(Self(OperatorSignature {
                public_key: EntityId::from_bytes(read(public_key, "public_key")?),
                signature: read(signature, "signature")?,
            }))
        })
    }

    /// Whose, 32 bytes.
    #[getter]
    fn public_key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.public_key.as_bytes())
    }

    /// 64 bytes.
    #[getter]
    fn signature<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.signature)
    }

    /// The operator's handle.
    #[getter(operator_id)]
    fn handle(&self) -> u64 {
        operator_id(&self.0.public_key)
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

/// Reads the id of a cluster.
pub fn cluster_id(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let bytes = args::payload(value, "cluster_id")?;
    let length = bytes.as_bytes().len();
    if (1..=CLUSTER_ID_BYTES_MAX).contains(&length) {
        Ok(bytes.as_bytes().to_vec())
    } else {
        let message = format!("must be 1 to {CLUSTER_ID_BYTES_MAX} bytes, not {length}");
        Err(InvalidArgument::new_err(("cluster_id", message)))
    }
}

fn header(
    cluster: &Bound<'_, PyAny>,
    reason: &Bound<'_, PyAny>,
    envelope_id: &Bound<'_, PyAny>,
    issued_at: &Bound<'_, PyAny>,
    not_after: &Bound<'_, PyAny>,
) -> PyResult<Header> {
    let issued_at = Option::<Moment>::from_python(issued_at, "issued_at")?.map(Moment::unix_ms);
    let issued_at = issued_at.unwrap_or_else(clock::unix_ms);
    let not_after = Option::<Moment>::from_python(not_after, "not_after")?.map(Moment::unix_ms);
    Ok(Header {
        cluster: cluster_hash(&cluster_id(cluster)?),
        envelope_id: Option::<[u8; 16]>::from_python(envelope_id, "envelope_id")?.unwrap_or_else(keys::random_bytes),
        issued_at,
        not_after: not_after.unwrap_or_else(|| issued_at.plus(VALID_FOR)),
        reason: read(reason, "reason")?,
    })
}

/// Shows what both envelopes have.
macro_rules! envelope {
    ($class:ident($core:ident), $name:literal, { $($method:tt)* }) => {
        #[pymethods]
        impl $class {
            /// Read exactly one canonical envelope; raises `EnvelopeDecodeError`.
            #[classmethod]
            fn from_bytes(_class: &Bound<'_, PyType>, data: &Bound<'_, PyAny>) -> PyResult<Self> {
                entry(concat!($name, ".from_bytes"), || {
                    let data = args::payload(data, "data")?;
                    opened($core::decode(data.as_bytes())).map(Self::of)
                })
            }

            /// Return it as bytes.
            fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
                PyBytes::new(py, &self.0.to_bytes())
            }

            /// Read one armoured envelope; raises `EnvelopeDecodeError`.
            #[classmethod]
            fn from_text(_class: &Bound<'_, PyType>, text: &Bound<'_, PyAny>) -> PyResult<Self> {
                entry(concat!($name, ".from_text"), || {
                    opened($core::from_text(&read::<String>(text, "text")?)).map(Self::of)
                })
            }

            /// Return it armoured, for a mail or a chat.
            fn to_text(&self) -> String {
                self.0.to_text()
            }

            /// Return the canonical bytes that are signed.
            fn signing_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
                PyBytes::new(py, &self.0.signing_bytes())
            }

            /// SHA-256 of the id of the cluster it is for.
            #[getter]
            fn cluster_hash<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
                PyBytes::new(py, &self.0.header.cluster)
            }

            /// 16 random bytes that make it one command.
            #[getter]
            fn envelope_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
                PyBytes::new(py, &self.0.header.envelope_id)
            }

            /// When it was made.
            #[getter]
            fn issued_at<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                Moment::of(self.0.header.issued_at).to_python(py)
            }

            /// After this it is void.
            #[getter]
            fn not_after<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                Moment::of(self.0.header.not_after).to_python(py)
            }

            /// Why, in the operator's words.
            #[getter]
            fn reason(&self) -> &str {
                &self.0.header.reason
            }

            fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
                let bytes = slf.get().to_bytes(slf.py());
                record::reduce_bytes(slf, bytes.into_any())
            }

            $($method)*
        }

        impl $class {
            /// Takes over an envelope.
            pub fn of(envelope: $core) -> Self {
                Self(Arc::new(envelope))
            }

            /// Takes over an envelope that can be written.
            fn checked(envelope: $core) -> PyResult<Self> {
                envelope.validate().map_err(errors::unwritable)?;
                Ok(Self::of(envelope))
            }
        }

        impl Field for $class {
            fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
                record::copied(value, name)
            }

            fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                Ok(Bound::new(py, self.clone())?.into_any())
            }
        }
    };
}

fn opened<T>(read: Result<T, DecodeError>) -> PyResult<T> {
    read.map_err(|error| errors::envelope(&error))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An ordinary command with everything that is signed; it cannot carry a break-glass action.
#[pyclass(frozen, eq, hash, name = "AdminEnvelope", module = "meshos.operator")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PyAdminEnvelope(pub Arc<AdminEnvelope>);

envelope! { PyAdminEnvelope(AdminEnvelope), "AdminEnvelope", {
    #[new]
    #[pyo3(signature = (
        *, event, cluster_id, reason, envelope_id = None, issued_at = None, not_after = None, signature = None
    ))]
    #[allow(clippy::too_many_arguments, reason = "one for each field, all by keyword")]
    fn new(
        py: Python<'_>,
        event: &Bound<'_, PyAny>,
        cluster_id: &Bound<'_, PyAny>,
        reason: &Bound<'_, PyAny>,
        envelope_id: Option<&Bound<'_, PyAny>>,
        issued_at: Option<&Bound<'_, PyAny>>,
        not_after: Option<&Bound<'_, PyAny>>,
        signature: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        entry("AdminEnvelope", || {
            if PyIceAction::from_python(event, "event").is_ok() {
                return Err(IceRequiresBundle::new_err(()));
            }
            let none = py.None().into_bound(py);
            let signature = signature.filter(|signature| !signature.is_none());
            let signature = signature.map(|given| record::copied::<PyOperatorSignature>(given, "signature"));
            Self::checked(AdminEnvelope {
                event: PyAdminEvent::from_python(event, "event")?.core(),
                signature: signature.transpose()?.map(|signature| signature.0),
                header: header(
                    cluster_id,
                    reason,
                    envelope_id.unwrap_or(&none),
                    issued_at.unwrap_or(&none),
                    not_after.unwrap_or(&none),
                )?,
            })
        })
    }

    /// What is ordered.
    #[getter]
    fn event<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        PyAdminEvent::from(&self.0.event).to_python(py)
    }

    /// Who ordered it, once it is signed.
    #[getter]
    fn signature(&self) -> Option<PyOperatorSignature> {
        self.0.signature.clone().map(PyOperatorSignature)
    }

    /// Return the same envelope with this signature, in the place of any other.
    fn with_signature(&self, signature: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("AdminEnvelope.with_signature", || {
            let signature = record::copied::<PyOperatorSignature>(signature, "signature")?;
            let mut envelope = AdminEnvelope::clone(&self.0);
            envelope.signature = Some(signature.0);
            Ok(Self::of(envelope))
        })
    }

    fn __repr__(&self) -> String {
        let signed = if self.0.signature.is_some() { "signed" } else { "not signed" };
        format!("<AdminEnvelope {}: {}, {signed}>", hex(&self.0.header.envelope_id), self.0.event.kind())
    }
} }

/// A break-glass action with everything that is signed: cluster, id, times, threshold, blast radius, reason.
#[pyclass(frozen, eq, hash, name = "IceEnvelope", module = "meshos.operator")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PyIceEnvelope(pub Arc<IceEnvelope>);

envelope! { PyIceEnvelope(IceEnvelope), "IceEnvelope", {
    #[new]
    #[pyo3(
        signature = (
            *, action, blast_radius, cluster_id, reason, threshold = Given::Not, envelope_id = None, issued_at = None,
            not_after = None, signatures = Given::Not
        ),
        text_signature = "(*, action, blast_radius, cluster_id, reason, threshold=2, envelope_id=None, issued_at=None, \
            not_after=None, signatures=())"
    )]
    #[allow(clippy::too_many_arguments, reason = "one for each field, all by keyword")]
    fn new(
        py: Python<'_>,
        action: &Bound<'_, PyAny>,
        blast_radius: &Bound<'_, PyAny>,
        cluster_id: &Bound<'_, PyAny>,
        reason: &Bound<'_, PyAny>,
        threshold: Given<'_>,
        envelope_id: Option<&Bound<'_, PyAny>>,
        issued_at: Option<&Bound<'_, PyAny>>,
        not_after: Option<&Bound<'_, PyAny>>,
        signatures: Given<'_>,
    ) -> PyResult<Self> {
        entry("IceEnvelope", || {
            let none = py.None().into_bound(py);
            let blast = record::copied::<PyBlastRadius>(blast_radius, "blast_radius")?.0;
            Self::checked(IceEnvelope {
                action: PyIceAction::from_python(action, "action")?.core(),
                blast: Arc::unwrap_or_clone(blast),
                threshold: threshold.map_or(THRESHOLD, read_threshold)?,
                signatures: signatures.map_or(Vec::new(), read_signatures)?,
                header: header(
                    cluster_id,
                    reason,
                    envelope_id.unwrap_or(&none),
                    issued_at.unwrap_or(&none),
                    not_after.unwrap_or(&none),
                )?,
            })
        })
    }

    /// What is ordered.
    #[getter]
    fn action<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        PyIceAction::from(&self.0.action).to_python(py)
    }

    /// What the operators saw it would touch.
    #[getter]
    fn blast_radius(&self) -> PyBlastRadius {
        PyBlastRadius(Arc::new(self.0.blast.clone()))
    }

    /// Hash of the blast radius, 32 bytes, as it is signed.
    #[getter]
    fn blast_hash<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.blast.hash())
    }

    /// Distinct operators that must sign; the node's own threshold holds too.
    #[getter]
    fn threshold(&self) -> u8 {
        self.0.threshold
    }

    /// Who agreed so far.
    #[getter]
    fn signatures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0.signatures.iter().cloned().map(PyOperatorSignature))
    }

    /// Return the same envelope with these signatures added; one that it has already is not added again.
    fn with_signatures(&self, signatures: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("IceEnvelope.with_signatures", || {
            let mut envelope = IceEnvelope::clone(&self.0);
            for signature in read_signatures(signatures)? {
                if !envelope.signatures.contains(&signature) {
                    envelope.signatures.push(signature);
                }
            }
            if envelope.signatures.len() > SIGNATURES_MAX {
                let message = format!("must be at most {SIGNATURES_MAX} together with those that are there");
                return Err(InvalidArgument::new_err(("signatures", message)));
            }
            Ok(Self::of(envelope))
        })
    }

    fn __repr__(&self) -> String {
        let (id, kind) = (hex(&self.0.header.envelope_id), self.0.action.kind());
        let (signed, threshold) = (self.0.signatures.len(), self.0.threshold);
        format!("<IceEnvelope {id}: {kind}, {signed} signatures, threshold {threshold}>")
    }
} }

fn read_signatures(value: &Bound<'_, PyAny>) -> PyResult<Vec<OperatorSignature>> {
    let signatures = records::<PyOperatorSignature>(value, "signatures")?;
    Ok(signatures.iter().map(|signature| signature.get().0.clone()).collect())
}

fn read_threshold(value: &Bound<'_, PyAny>) -> PyResult<u8> {
    let threshold = args::u64(value, "threshold")?;
    u8::try_from(threshold).map_err(|_| {
        errors::unwritable(Unwritable {
            field: "threshold",
            rule: "must be from 1 to 64",
        })
    })
}

/// Return the handle of the operator with this key.
#[pyfunction(name = "operator_id")]
fn py_operator_id(public_key: &Bound<'_, PyAny>) -> PyResult<u64> {
    Ok(operator_id(&EntityId::from_bytes(read(public_key, "public_key")?)))
}

/// Adds classes and function to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyOperatorSignature>()?;
    module.add_class::<PyAdminEnvelope>()?;
    module.add_class::<PyIceEnvelope>()?;
    module.add_function(wrap_pyfunction!(py_operator_id, module)?)
}
