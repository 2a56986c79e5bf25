//! `IdentityEnvelope`: the key of a daemon on its way to the node that it moves to.

use meshos_core::image::seal::{Agreement, NotOpened, SealedIdentity};
use meshos_core::move_rows::MoveOrder;
use meshos_node::keys;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};

use crate::args;
use crate::errors::{self, IdentityError, InvalidArgument};
use crate::guard::entry;
use crate::identity::PyIdentity;
use crate::move_frame::PyMigrationMessage;
use crate::record::field::read;
use crate::record::{self, Reduced};

/// The key of a daemon, sealed to the target of one order.
#[pyclass(frozen, eq, name = "IdentityEnvelope", module = "meshos.migration")]
#[derive(Debug, PartialEq, Eq)]
pub struct PyIdentityEnvelope(SealedIdentity);

fn order(message: &Bound<'_, PyAny>) -> PyResult<MoveOrder> {
    let message = args::instance::<PyMigrationMessage>(message, "order", "a MigrationMessage")?.get();
    message
        .order()
        .ok_or_else(|| InvalidArgument::new_err(("order", "must be a message of kind \"prepare\"")))
}

fn identity<'a>(value: &'a Bound<'_, PyAny>, name: &'static str) -> PyResult<&'a PyIdentity> {
    Ok(args::instance::<PyIdentity>(value, name, "an Identity")?.get())
}

#[pymethods]
impl PyIdentityEnvelope {
    /// Seal the key of the daemon of an order to its target.
    #[classmethod]
    #[pyo3(name = "seal")]
    fn py_seal(_class: &Bound<'_, PyType>, identity: &Bound<'_, PyAny>, order: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("IdentityEnvelope.seal", || {
            let (key, order) = (self::identity(identity, "identity")?, self::order(order)?);
            if key.id() != order.entity {
                return Err(InvalidArgument::new_err((
                    "identity",
                    "must be that of the daemon of the order",
                )));
            }
            let agreement = Agreement::with(&order.target, &keys::ephemeral());
            let sealed = agreement.and_then(|agreement| SealedIdentity::seal(&key.key.lock(), &order, &agreement));
            sealed.map(Self).map_err(|error| errors::identity(&error))
        })
    }

    /// Open it as the target of the order.
    fn open(&self, node: &Bound<'_, PyAny>, order: &Bound<'_, PyAny>) -> PyResult<PyIdentity> {
        entry("IdentityEnvelope.open", || {
            let (node, order) = (identity(node, "node")?, self::order(order)?);
            let opened = self.0.open(&order, &node.key.lock(), None);
            opened.map(PyIdentity::new).map_err(|error| match error {
                NotOpened::Identity(error) => errors::identity(&error),
                NotOpened::Length { .. } | NotOpened::Forged => {
                    IdentityError::new_err(("sealed_for_another", "it was not sealed for this node and this order"))
                }
            })
        })
    }

    /// Read exactly one.
    #[classmethod]
    fn from_bytes(_class: &Bound<'_, PyType>, data: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("IdentityEnvelope.from_bytes", || {
            let bytes = read::<[u8; SealedIdentity::SIZE]>(data, "data")?;
            Ok(Self(SealedIdentity::from_bytes(&bytes)))
        })
    }

    /// Return its form on the wire.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.to_bytes())
    }

    fn __hash__(&self) -> u64 {
        let bytes = self.0.to_bytes();
        u64::from_le_bytes(*bytes.first_chunk().expect("it has 80 bytes"))
    }

    fn __repr__(&self) -> &'static str {
        "<IdentityEnvelope>"
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        record::reduce_bytes(slf, slf.get().to_bytes(slf.py()).into_any())
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyIdentityEnvelope>()
}
