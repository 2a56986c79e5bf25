//! Key pairs, and the ids that `meshos.identity.EntityId` is made of.

use std::sync::Arc;

use meshos_core::id::EntityId;
use meshos_core::identity::{self, Keypair};
use meshos_node::keys;
use meshos_node::slot::SharedKey;
use meshos_node::sync::Mutex;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyType};

use crate::args;
use crate::errors;
use crate::guard::entry;
use crate::record::field::{Field, read};

/// A key pair, or its public half alone. The secret is in no repr, pickle, log or error.
#[pyclass(frozen, name = "Identity", module = "meshos.identity")]
pub struct PyIdentity {
    /// Shared with the daemons that were spawned under it: erasing it erases theirs.
    pub key: SharedKey,
}

impl PyIdentity {
    /// Takes over a key pair.
    pub fn new(key: Keypair) -> Self {
        Self {
            key: Arc::new(Mutex::new(key)),
        }
    }

    /// The public key.
    pub fn id(&self) -> EntityId {
        self.key.lock().entity_id()
    }
}

/// Makes a fresh identity from the operating system's randomness.
pub fn generate() -> PyIdentity {
    PyIdentity::new(keys::generate())
}

#[pymethods]
impl PyIdentity {
    /// Make a key from the operating system's randomness.
    #[classmethod]
    #[pyo3(name = "generate")]
    fn py_generate(_class: &Bound<'_, PyType>) -> PyResult<Self> {
        entry("Identity.generate", || Ok(generate()))
    }

    /// Make the key of a 32-byte seed.
    #[classmethod]
    fn from_seed(_class: &Bound<'_, PyType>, seed: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("Identity.from_seed", || from_seed(seed, "seed"))
    }

    /// Take over a PyNaCl key.
    #[classmethod]
    fn from_signing_key(_class: &Bound<'_, PyType>, key: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("Identity.from_signing_key", || {
            if !key.is_instance(&nacl_class(key.py(), "SigningKey")?)? {
                return Err(args::wrong_type("key", "a nacl.signing.SigningKey", key));
            }
            from_seed(&key.call_method0(intern!(key.py(), "__bytes__"))?, "key")
        })
    }

    /// Make an identity that names and verifies, and cannot sign.
    #[classmethod]
    fn public_only(_class: &Bound<'_, PyType>, key: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("Identity.public_only", || {
            let py = key.py();
            let raw = if key.is_instance(entity_id_class(py)?)? {
                read::<[u8; 32]>(key, "key")?
            } else if key.is_instance(&nacl_class(py, "VerifyKey")?)? {
                read::<[u8; 32]>(&key.call_method0(intern!(py, "__bytes__"))?, "key")?
            } else {
                return Err(args::wrong_type("key", "an EntityId or a nacl.signing.VerifyKey", key));
            };
            Ok(Self::new(Keypair::public_only(checked(raw)?)))
        })
    }

    /// The public key.
    #[getter]
    #[pyo3(name = "entity_id")]
    fn py_entity_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        entity_id(py, self.id())
    }

    /// The handle of a daemon with this key.
    #[getter]
    fn origin_hash(&self) -> u64 {
        self.key.lock().origin().get()
    }

    /// Whether there is no secret half, or no longer.
    #[getter]
    fn is_read_only(&self) -> bool {
        self.key.lock().is_read_only()
    }

    /// Return a 64-byte signature.
    fn sign<'py>(&self, py: Python<'py>, message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        entry("Identity.sign", || {
            let message = args::payload(message, "message")?;
            let signature = self
                .key
                .lock()
                .sign(message.as_bytes())
                .map_err(|error| errors::identity(&error))?;
            Ok(PyBytes::new(py, &signature))
        })
    }

    /// Check a signature strictly.
    fn verify(&self, message: &Bound<'_, PyAny>, signature: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("Identity.verify", || {
            let message = args::payload(message, "message")?;
            let signature = read::<[u8; 64]>(signature, "signature")?;
            identity::verify(&self.id(), message.as_bytes(), &signature).map_err(|error| errors::identity(&error))
        })
    }

    /// Hand the secret out as a PyNaCl key.
    fn to_signing_key<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        entry("Identity.to_signing_key", || {
            let class = nacl_class(py, "SigningKey")?;
            let seed = self.key.lock().seed().map_err(|error| errors::identity(&error))?;
            class.call1((PyBytes::new(py, &seed[..]),))
        })
    }

    /// Wipe the secret half; may be called twice.
    fn erase(&self) {
        self.key.lock().erase();
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.id() == other.id()
    }

    fn __hash__(&self) -> u64 {
        self.key.lock().origin().get()
    }

    fn __repr__(&self) -> String {
        let key = self.key.lock();
        let half = if key.is_read_only() { ", public only" } else { "" };
        format!("<Identity {}{half}>", key.origin())
    }

    fn __reduce__(&self) -> PyResult<()> {
        let message = "an Identity is neither pickled nor copied, since that would spread its secret key: \
            send its entity_id, or hand out to_signing_key() where that is meant";
        Err(PyTypeError::new_err(message))
    }
}

fn from_seed(seed: &Bound<'_, PyAny>, name: &'static str) -> PyResult<PyIdentity> {
    let seed = args::payload(seed, name)?;
    let bytes: &[u8; 32] = seed.as_bytes().try_into().map_err(|_| {
        let message = format!("must be 32 bytes, not {}", seed.as_bytes().len());
        errors::InvalidArgument::new_err((name, message))
    })?;
    Ok(PyIdentity::new(Keypair::from_seed(bytes)))
}

fn checked(raw: [u8; 32]) -> PyResult<EntityId> {
    EntityId::checked(raw).map_err(|_| errors::identity(&identity::IdentityError::InvalidPublicKey))
}

/// A class of PyNaCl, which is imported when it is first needed.
fn nacl_class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("nacl.signing")?.getattr(name)
}

fn entity_id_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "meshos.identity", "EntityId")
}

/// Makes a `meshos.identity.EntityId` of an id that was checked before.
pub fn entity_id(py: Python<'_>, id: EntityId) -> PyResult<Bound<'_, PyAny>> {
    // Past its own `__new__`, which would check the key again.
    let arguments = (entity_id_class(py)?, PyBytes::new(py, id.as_bytes()));
    py.get_type::<PyBytes>().call_method1(intern!(py, "__new__"), arguments)
}

impl Field for EntityId {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        if !value.is_instance(entity_id_class(value.py())?)? {
            return Err(args::wrong_type(name, "an EntityId", value));
        }
        read(value, name).map(Self::from_bytes)
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        entity_id(py, *self)
    }
}

/// Check 32 bytes for `EntityId`, and return them as exactly `bytes`.
#[pyfunction]
fn entity_id_bytes<'py>(py: Python<'py>, raw: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    entry("EntityId", || {
        let id = checked(read(raw, "raw")?)?;
        Ok(PyBytes::new(py, id.as_bytes()))
    })
}

/// Return the handle of a daemon with this key.
#[pyfunction]
fn entity_id_origin_hash(entity_id: &Bound<'_, PyAny>) -> PyResult<u64> {
    Ok(EntityId::from_python(entity_id, "entity_id")?.origin().get())
}

/// Return the id of a node with this key.
#[pyfunction]
fn entity_id_node_id(entity_id: &Bound<'_, PyAny>) -> PyResult<u64> {
    Ok(EntityId::from_python(entity_id, "entity_id")?.node_id().get())
}

/// A copy of the whole key of an identity that may be left out; raises `IdentityError` when it is public only.
pub fn own_key(identity: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Keypair>> {
    let Some(identity) = identity.filter(|identity| !identity.is_none()) else {
        return Ok(None);
    };
    let identity = args::instance::<PyIdentity>(identity, "identity", "an Identity or None")?;
    let seed = identity.get().key.lock().seed();
    let seed = seed.map_err(|error| errors::identity(&error))?;
    Ok(Some(Keypair::from_seed(&seed)))
}

/// Adds class and functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyIdentity>()?;
    module.add_function(wrap_pyfunction!(entity_id_bytes, module)?)?;
    module.add_function(wrap_pyfunction!(entity_id_origin_hash, module)?)?;
    module.add_function(wrap_pyfunction!(entity_id_node_id, module)?)
}
