//! Who the operators are.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshos_core::authority::{Operator, OperatorsError, Role};
use meshos_core::id::EntityId;
use meshos_node::verifier::SharedOperators;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyFrozenSet, PyInt, PyString, PyTuple};

use crate::args;
use crate::errors::InvalidArgument;
use crate::guard::{Born, entry};
use crate::record::field::{Field, items, read};
use crate::record::moment::Moment;
use crate::record::record;
use crate::record::word::word;

/// Bytes of an operator's name.
const NAME_BYTES_MAX: usize = 255;

word! {
    Role as "Role" in "meshos.operator" { Viewer = "viewer", Admin = "admin", Ice = "ice", }
}

/// A key as PyNaCl holds it, which is imported when the first one is read or shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyKey(EntityId);

fn verify_key(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("nacl.signing")?.getattr("VerifyKey")
}

fn raw_key(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<VerifyKey> {
    let raw = value.call_method0("__bytes__")?;
    usable(read(&raw, name)?, name)
}

fn usable(raw: [u8; 32], name: &'static str) -> PyResult<VerifyKey> {
    let key = EntityId::checked(raw).map(VerifyKey);
    key.map_err(|_| InvalidArgument::new_err((name, "must be a usable Ed25519 public key")))
}

impl Field for VerifyKey {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        if value.is_instance(&verify_key(value.py())?)? {
            raw_key(value, name)
        } else {
            Err(args::wrong_type(name, "a nacl.signing.VerifyKey", value))
        }
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        verify_key(py)?.call1((PyBytes::new(py, self.0.as_bytes()),))
    }
}

/// Reads a key, or its 32 bytes.
fn key_or_bytes(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<EntityId> {
    if value.is_instance_of::<PyBytes>() {
        return usable(read(value, name)?, name).map(|key| key.0);
    }
    let key = VerifyKey::from_python(value, name).map(|key| key.0);
    key.map_err(|error| {
        if error.is_instance_of::<InvalidArgument>(value.py()) {
            error
        } else {
            args::wrong_type(name, "a nacl.signing.VerifyKey or bytes", value)
        }
    })
}

/// What an operator may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles(BTreeSet<Role>);

impl Field for Roles {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let roles = value
            .cast::<PyFrozenSet>()
            .map_err(|_| args::wrong_type(name, "a frozenset", value))?;
        let roles = roles.iter().map(|role| Role::from_python(&role, name));
        roles.collect::<PyResult<_>>().map(Self)
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let roles = self.0.iter().map(|role| role.to_python(py));
        Ok(PyFrozenSet::new(py, roles.collect::<PyResult<Vec<_>>>()?)?.into_any())
    }
}

record! {
    /// One entry of a registry.
    pub struct PyOperator in "meshos.operator" as "Operator", by keyword,
    signature "(*, operator_id, verify_key, name, roles, not_before=None, not_after=None)" {
        /// The handle.
        operator_id: u64,
        /// The key.
        verify_key: VerifyKey,
        /// Who it is, for people.
        name: String,
        /// What they may do.
        roles: Roles,
        /// Nothing before it is accepted.
        not_before: Option<Moment> = None,
        /// Nothing after it is accepted.
        not_after: Option<Moment> = None,
    }
}

/// Who the operators are; one entry a key.
#[pyclass(frozen, name = "OperatorRegistry", module = "meshos.operator")]
pub struct PyOperatorRegistry {
    /// Shared with the verifiers that ask it.
    pub operators: Arc<SharedOperators>,
    born: Born,
}

impl PyOperatorRegistry {
    /// Refuses use in a forked child.
    pub fn check(&self) -> PyResult<()> {
        self.born.check("OperatorRegistry")
    }
}

#[pymethods]
impl PyOperatorRegistry {
    #[new]
    fn new() -> Self {
        Self {
            operators: Arc::default(),
            born: Born::now(),
        }
    }

    /// Add an operator, and return its id.
    #[pyo3(signature = (key, *, name, roles, not_before = None, not_after = None))]
    fn add(
        &self,
        key: &Bound<'_, PyAny>,
        name: &Bound<'_, PyAny>,
        roles: &Bound<'_, PyAny>,
        not_before: Option<&Bound<'_, PyAny>>,
        not_after: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u64> {
        entry("OperatorRegistry.add", || {
            self.check()?;
            let moment = |value: Option<&Bound<'_, PyAny>>, name| {
                let given = value.filter(|value| !value.is_none());
                given.map(|value| Moment::from_python(value, name)).transpose()
            };
            let operator = Operator {
                key: key_or_bytes(key, "key")?,
                name: read_name(name)?,
                roles: read_roles(roles)?,
                not_before: moment(not_before, "not_before")?.map(Moment::unix_ms),
                not_after: moment(not_after, "not_after")?.map(Moment::unix_ms),
                revoked: false,
            };
            if operator.not_after.is_some_and(|end| Some(end) < operator.not_before) {
                return Err(InvalidArgument::new_err(("not_after", "must not be before not_before")));
            }
            self.operators
                .change(|operators| operators.add(operator))
                .map_err(|error| refused(error, "key"))
        })
    }

    /// Give an operator another key, and return its new id; the old key is revoked.
    fn rotate(&self, operator_id: &Bound<'_, PyAny>, new: &Bound<'_, PyAny>) -> PyResult<u64> {
        entry("OperatorRegistry.rotate", || {
            self.check()?;
            let id = args::u64(operator_id, "operator_id")?;
            let key = key_or_bytes(new, "new")?;
            self.operators
                .change(|operators| operators.rotate(id, key))
                .map_err(|error| refused(error, "new"))
        })
    }

    /// Accept nothing from this key any more.
    fn revoke(&self, operator_id: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("OperatorRegistry.revoke", || {
            self.check()?;
            let id = args::u64(operator_id, "operator_id")?;
            self.operators
                .change(|operators| operators.revoke(id))
                .map_err(|error| refused(error, "operator_id"))
        })
    }

    /// Return those who are not revoked, by id.
    fn operators<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        self.check()?;
        let operators = self.operators.now();
        let shown = operators.iter().map(|(operator_id, operator)| PyOperator {
            operator_id,
            verify_key: VerifyKey(operator.key),
            name: operator.name.clone(),
            roles: Roles(operator.roles.clone()),
            not_before: operator.not_before.map(Moment::of),
            not_after: operator.not_after.map(Moment::of),
        });
        PyTuple::new(
            py,
            shown.map(|shown| Bound::new(py, shown)).collect::<PyResult<Vec<_>>>()?,
        )
    }

    fn __contains__(&self, operator_id: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.check()?;
        let Ok(id) = operator_id
            .cast::<PyInt>()
            .map_err(PyErr::from)
            .and_then(|id| id.extract::<u64>())
        else {
            return Ok(false);
        };
        Ok(self.operators.now().iter().any(|(known, _)| known == id))
    }

    fn __len__(&self) -> PyResult<usize> {
        self.check()?;
        Ok(self.operators.now().iter().count())
    }

    fn __repr__(&self) -> String {
        format!(
            "<OperatorRegistry of {} operators>",
            self.operators.now().iter().count()
        )
    }
}

fn read_name(value: &Bound<'_, PyAny>) -> PyResult<String> {
    let name = String::from_python(value, "name")?;
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let message = format!("must be 1 to {NAME_BYTES_MAX} bytes without control characters");
        return Err(InvalidArgument::new_err(("name", message)));
    }
    Ok(name)
}

fn read_roles(value: &Bound<'_, PyAny>) -> PyResult<BTreeSet<Role>> {
    let wanted = "an iterable of Role";
    // A `str` is an iterable of its letters, and a member of `Role` is a `str`.
    if value.is_instance_of::<PyString>() {
        return Err(args::wrong_type("roles", wanted, value));
    }
    let roles: BTreeSet<Role> = items(value, "roles", wanted, |role| Role::from_python(role, "roles"))?;
    if roles.is_empty() {
        return Err(InvalidArgument::new_err(("roles", "must not be empty")));
    }
    Ok(roles)
}

fn refused(error: OperatorsError, key: &'static str) -> PyErr {
    let argument = match error {
        OperatorsError::KeyTaken | OperatorsError::InvalidKey => key,
        OperatorsError::NameTaken => "name",
        OperatorsError::Unknown => "operator_id",
    };
    InvalidArgument::new_err((argument, error.to_string()))
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyOperator>()?;
    module.add_class::<PyOperatorRegistry>()
}
