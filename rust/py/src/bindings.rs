//! `DaemonBindings`: a daemon's ledger of subscriptions.

use meshos_core::bindings::{DaemonBindings, SubscriptionBinding, TOKEN_BYTES_MAX};
use meshos_core::id::NodeId;
use meshos_core::name::ChannelName;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};

use crate::args;
use crate::errors::{self, InvalidArgument};
use crate::guard::entry;
use crate::record::field::{Field, Given, read, records};
use crate::record::{self, Record, Reduced};

/// One entry of a daemon's ledger of subscriptions; it moves with the daemon.
#[pyclass(frozen, eq, hash, name = "SubscriptionBinding", module = "meshos.daemon")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PySubscriptionBinding {
    /// The node that publishes.
    pub publisher: NodeId,
    /// What it publishes there.
    pub channel: ChannelName,
    /// What permits to subscribe.
    pub token: Option<Vec<u8>>,
    /// The queue group whose member the daemon is.
    pub group: Option<ChannelName>,
}

impl From<&SubscriptionBinding> for PySubscriptionBinding {
    fn from(binding: &SubscriptionBinding) -> Self {
        let SubscriptionBinding {
            publisher,
            channel,
            token,
            group,
        } = binding.clone();
        Self {
            publisher,
            channel,
            token,
            group,
        }
    }
}

impl Record for PySubscriptionBinding {
    const FIELDS: &'static [&'static str] = &["publisher", "channel", "token", "queue_group"];
}

#[pymethods]
impl PySubscriptionBinding {
    #[new]
    #[pyo3(signature = (publisher, channel, token = None, queue_group = None))]
    fn new(
        publisher: &Bound<'_, PyAny>,
        channel: &Bound<'_, PyAny>,
        token: Option<&Bound<'_, PyAny>>,
        queue_group: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        entry("SubscriptionBinding", || {
            Ok(Self {
                publisher: read(publisher, "publisher")?,
                channel: read(channel, "channel")?,
                token: token.map(read_token).transpose()?,
                group: queue_group.map(|group| read(group, "queue_group")).transpose()?,
            })
        })
    }

    /// The node that publishes.
    #[getter]
    fn publisher(&self) -> u64 {
        self.publisher.get()
    }

    /// What it publishes there.
    #[getter]
    fn channel<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.channel.to_python(py)
    }

    /// What permits to subscribe.
    #[getter]
    fn token<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.token.as_ref().map(|token| PyBytes::new(py, token))
    }

    /// The queue group whose member the daemon is.
    #[getter]
    fn queue_group<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.group.to_python(py)
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

/// A frozen view of a ledger.
#[pyclass(frozen, eq, name = "DaemonBindings", module = "meshos.daemon")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PyDaemonBindings(pub DaemonBindings);

impl Record for PyDaemonBindings {
    const FIELDS: &'static [&'static str] = &["subscriptions"];
}

#[pymethods]
impl PyDaemonBindings {
    #[new]
    #[pyo3(signature = (subscriptions = Given::Not), text_signature = "(subscriptions=())")]
    fn new(subscriptions: Given<'_>) -> PyResult<Self> {
        entry("DaemonBindings", || {
            let mut ledger = DaemonBindings::default();
            let given = subscriptions.map_or(Vec::new(), |given| {
                records::<PySubscriptionBinding>(given, "subscriptions")
            })?;
            for (index, binding) in given.iter().enumerate() {
                let PySubscriptionBinding {
                    publisher,
                    channel,
                    token,
                    group,
                } = binding.get();
                let recorded = ledger.record_in(*publisher, channel.clone(), token.clone(), group.clone());
                recorded.map_err(|error| InvalidArgument::new_err(("token", error.to_string())))?;
                if ledger.len() != index + 1 {
                    let message = format!("channel {channel} of node {publisher} is there twice");
                    return Err(InvalidArgument::new_err(("subscriptions", message)));
                }
            }
            Ok(Self(ledger))
        })
    }

    /// Read strictly.
    #[classmethod]
    fn from_bytes(_class: &Bound<'_, PyType>, data: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("DaemonBindings.from_bytes", || {
            let data = args::payload(data, "data")?;
            DaemonBindings::decode(data.as_bytes())
                .map(Self)
                .map_err(|error| errors::file(&error))
        })
    }

    /// Return its form on the wire; an empty ledger is no bytes.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.encode())
    }

    /// The entries, ordered by publisher and channel.
    #[getter]
    fn subscriptions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let entries = self.0.iter();
        let entries = entries.map(|binding| Bound::new(py, PySubscriptionBinding::from(binding)));
        PyTuple::new(py, entries.collect::<PyResult<Vec<_>>>()?)
    }

    #[classattr]
    fn __match_args__(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
        record::match_args::<Self>(py)
    }

    fn __hash__(slf: &Bound<'_, Self>) -> PyResult<isize> {
        record::hash(slf)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        record::repr(slf)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        record::reduce(slf)
    }
}

/// Reads a token: bytes that the publisher understands.
fn read_token(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let token = args::payload(value, "token")?;
    let token = token.as_bytes();
    if token.len() > TOKEN_BYTES_MAX {
        let message = format!("must be at most {TOKEN_BYTES_MAX} bytes, not {}", token.len());
        return Err(InvalidArgument::new_err(("token", message)));
    }
    Ok(token.to_vec())
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PySubscriptionBinding>()?;
    module.add_class::<PyDaemonBindings>()
}
