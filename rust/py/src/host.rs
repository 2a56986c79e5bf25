//! `DaemonHost`: one daemon without a runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use meshos_core::config::{DaemonHostConfig, Durability, OnError};
use meshos_core::host::Host;
use meshos_core::id::NodeId;
use meshos_node::daemon::Daemon;
use meshos_node::deliver;
use meshos_node::inside::Inside;
use meshos_node::slot::Slot;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use pyo3::{PyTraverseError, PyVisit};

use crate::aio::Loop;
use crate::args;
use crate::bindings::PyDaemonBindings;
use crate::chain::PyCausalChainBuilder;
use crate::config::PyDaemonHostConfig;
use crate::daemon::PyDaemon;
use crate::enter::{self, enter};
use crate::errors;
use crate::guard::{Born, InUserCode, entry, may_wait};
use crate::identity::{PyIdentity, entity_id};
use crate::link::PyCausalLink;
use crate::name::extract_channel;
use crate::snapshot::PyStateSnapshot;
use crate::stats::PyDaemonStats;

/// One daemon with its key, chain, horizon and ledger, and without a runtime.
#[pyclass(frozen, name = "DaemonHost", module = "meshos.daemon", weakref)]
pub struct PyDaemonHost {
    /// The slot.
    pub slot: Arc<Slot<PyDaemon>>,
    /// A registry holds the slot, and shows it to the collector.
    pub placed: AtomicBool,
    born: Born,
}

/// Options given, or the defaults.
pub fn config_or_default(config: Option<&Bound<'_, PyAny>>) -> PyResult<DaemonHostConfig> {
    match config.filter(|config| !config.is_none()) {
        None => Ok(DaemonHostConfig::default()),
        Some(config) => Ok(
            args::instance::<PyDaemonHostConfig>(config, "config", "a DaemonHostConfig")?
                .get()
                .0,
        ),
    }
}

impl PyDaemonHost {
    /// A view of a slot that a registry holds.
    pub fn of(slot: Arc<Slot<PyDaemon>>) -> Self {
        Self {
            slot,
            placed: AtomicBool::new(true),
            born: Born::now(),
        }
    }

    fn make(
        daemon: &Bound<'_, PyAny>,
        keypair: &Bound<'_, PyAny>,
        config: Option<&Bound<'_, PyAny>>,
        host: impl FnOnce(&PyIdentity, DaemonHostConfig, &PyDaemon) -> PyResult<Host>,
    ) -> PyResult<Self> {
        let py = daemon.py();
        may_wait("DaemonHost")?;
        let config = config_or_default(config)?;
        if config.durability != Durability::None {
            let rule = "must be 'none': a host of its own has no store";
            return Err(errors::ConfigError::new_err(("durability", rule)));
        }
        let keypair = args::instance::<PyIdentity>(keypair, "keypair", "an Identity")?.get();
        let daemon = PyDaemon::new(daemon, None, None, Loop::new(None))?;
        let host = host(keypair, config, &daemon)?;
        let mut inside = Inside::new(host, Arc::new(daemon), None);
        if config.on_error == OnError::Restore && inside.daemon.is_stateful() {
            let origin = inside.host.origin();
            deliver::snapshot(&mut inside).map_err(|error| errors::snapshot_failed(error, origin, py))?;
        }
        let slot = Slot::new(Arc::clone(&keypair.key), None, inside);
        Ok(Self {
            slot,
            placed: AtomicBool::new(false),
            born: Born::now(),
        })
    }

    fn check(&self, call: &'static str) -> PyResult<()> {
        self.born.check("DaemonHost")?;
        may_wait(call)
    }
}

#[pymethods]
impl PyDaemonHost {
    #[new]
    #[pyo3(signature = (daemon, keypair, config = None))]
    fn new(daemon: &Bound<'_, PyAny>, keypair: &Bound<'_, PyAny>, config: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        entry("DaemonHost", || {
            Self::make(daemon, keypair, config, |keypair, config, _| {
                Ok(Host::new(keypair.key.lock().entity_id(), config))
            })
        })
    }

    #[staticmethod]
    #[pyo3(signature = (daemon, keypair, chain, config = None))]
    fn from_fork(
        daemon: &Bound<'_, PyAny>,
        keypair: &Bound<'_, PyAny>,
        chain: &Bound<'_, PyAny>,
        config: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        entry("DaemonHost.from_fork", || {
            let chain = args::instance::<PyCausalChainBuilder>(chain, "chain", "a CausalChainBuilder")?
                .get()
                .take();
            Self::make(daemon, keypair, config, |keypair, config, _| {
                let entity = keypair.key.lock().entity_id();
                if chain.entity() != entity {
                    let message = format!("the chain is of {}, the key of {entity}", chain.entity());
                    return Err(errors::RestoreFailed::new_err((
                        "wrong_chain",
                        entity.origin().get(),
                        message,
                    )));
                }
                Ok(Host::on_chain(chain, config))
            })
        })
    }

    #[staticmethod]
    #[pyo3(signature = (daemon, keypair, snapshot, config = None))]
    fn from_snapshot(
        daemon: &Bound<'_, PyAny>,
        keypair: &Bound<'_, PyAny>,
        snapshot: &Bound<'_, PyAny>,
        config: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        entry("DaemonHost.from_snapshot", || {
            let py = daemon.py();
            let snapshot = Arc::clone(
                &args::instance::<PyStateSnapshot>(snapshot, "snapshot", "a StateSnapshot")?
                    .get()
                    .snapshot,
            );
            Self::make(daemon, keypair, config, |keypair, config, daemon| {
                let entity = keypair.key.lock().entity_id();
                let origin = entity.origin();
                let host = Host::resumed(entity, snapshot.meta.clone(), config)
                    .map_err(|error| errors::resume(error, origin, py))?;
                meshos_node::resume::check_state(&snapshot, daemon)
                    .map_err(|error| errors::spawn(error, origin, py))?;
                if daemon.is_stateful() {
                    let restored = daemon.restore(&snapshot.state, snapshot.meta.schema);
                    restored.map_err(|error| errors::restore(error, origin, py))?;
                }
                Ok(host)
            })
        })
    }

    fn deliver<'py>(&self, event: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        entry("DaemonHost.deliver", || {
            self.check("DaemonHost.deliver")?;
            enter::deliver(event.py(), Arc::clone(&self.slot), event)
        })
    }

    fn take_snapshot(&self, py: Python<'_>) -> PyResult<Option<PyStateSnapshot>> {
        entry("DaemonHost.take_snapshot", || {
            self.check("DaemonHost.take_snapshot")?;
            if !self.slot.is_stateful() {
                return Ok(None);
            }
            let mut entered = enter(py, &self.slot)?;
            let taken = deliver::snapshot(&mut entered);
            taken
                .map(|snapshot| Some(PyStateSnapshot::new(snapshot)))
                .map_err(|error| errors::snapshot_failed(error, self.slot.origin(), py))
        })
    }

    fn restore_from_snapshot(&self, snapshot: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("DaemonHost.restore_from_snapshot", || {
            let py = snapshot.py();
            self.check("DaemonHost.restore_from_snapshot")?;
            let snapshot = args::instance::<PyStateSnapshot>(snapshot, "snapshot", "a StateSnapshot")?.get();
            adopt(py, &self.slot, snapshot)
        })
    }

    #[pyo3(signature = (publisher, channel, token = None))]
    fn record_subscription(
        &self,
        publisher: &Bound<'_, PyAny>,
        channel: &Bound<'_, PyAny>,
        token: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        entry("DaemonHost.record_subscription", || {
            self.check("DaemonHost.record_subscription")?;
            let publisher_id = NodeId::new(args::u64(publisher, "publisher")?);
            let channel = extract_channel(channel)?;
            let token = token.filter(|token| !token.is_none());
            let token = token.map(|token| args::payload(token, "token")).transpose()?;
            let token = token.map(|token| token.as_bytes().to_vec());
            let mut entered = enter(publisher.py(), &self.slot)?;
            entered
                .host
                .bindings_mut()
                .record(publisher_id, channel, token)
                .map_err(|error| errors::InvalidArgument::new_err(("token", error.to_string())))?;
            self.slot.publish(entered.host.bindings());
            Ok(())
        })
    }

    fn forget_subscription(&self, publisher: &Bound<'_, PyAny>, channel: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("DaemonHost.forget_subscription", || {
            self.check("DaemonHost.forget_subscription")?;
            let publisher_id = NodeId::new(args::u64(publisher, "publisher")?);
            let channel = extract_channel(channel)?;
            let mut entered = enter(publisher.py(), &self.slot)?;
            entered.host.bindings_mut().forget(publisher_id, &channel);
            self.slot.publish(entered.host.bindings());
            Ok(())
        })
    }

    fn bindings_snapshot(&self) -> PyResult<PyDaemonBindings> {
        self.born.check("DaemonHost")?;
        Ok(PyDaemonBindings((*self.slot.bindings()).clone()))
    }

    fn requirements<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        entry("DaemonHost.requirements", || {
            self.check("DaemonHost.requirements")?;
            let entered = enter(py, &self.slot)?;
            let _inside = InUserCode::begin();
            entered.daemon.object(py).call_method0("requirements")
        })
    }

    #[getter]
    fn subscription_count(&self) -> usize {
        self.slot.bindings().len()
    }

    #[getter]
    fn entity_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        entity_id(py, self.slot.entity())
    }

    #[getter]
    fn origin_hash(&self) -> u64 {
        self.slot.origin().get()
    }

    #[getter]
    fn keypair(&self) -> PyIdentity {
        PyIdentity {
            key: Arc::clone(self.slot.key()),
        }
    }

    #[getter]
    fn name(&self) -> &str {
        self.slot.name()
    }

    #[getter]
    fn sequence(&self) -> u64 {
        self.slot.view().head.sequence
    }

    #[getter]
    fn head_link(&self) -> PyCausalLink {
        PyCausalLink(self.slot.view().head)
    }

    #[getter]
    fn head_digest<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.slot.view().digest.as_bytes())
    }

    #[getter]
    fn stats(&self) -> PyDaemonStats {
        PyDaemonStats(self.slot.view().stats)
    }

    #[getter]
    fn config(&self) -> PyDaemonHostConfig {
        PyDaemonHostConfig(*self.slot.config())
    }

    fn __repr__(&self) -> String {
        let view = self.slot.view();
        format!(
            "DaemonHost(name={:?}, origin_hash=0x{}, sequence={}, processed={}, errors={})",
            &**self.slot.name(),
            self.slot.origin(),
            view.head.sequence,
            view.stats.events_processed,
            view.stats.errors,
        )
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.placed.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.slot
            .peek(|inside| inside.daemon.traverse(&visit))
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        if !self.placed.load(Ordering::Relaxed) {
            self.slot.stop();
        }
    }
}

/// Takes over the state of another host, all or nothing.
pub fn adopt(py: Python<'_>, slot: &Arc<Slot<PyDaemon>>, snapshot: &PyStateSnapshot) -> PyResult<()> {
    let origin = slot.origin();
    let taken = &snapshot.snapshot;
    let mut entered = enter(py, slot)?;
    meshos_node::resume::check_state(taken, &*entered.daemon).map_err(|error| errors::spawn(error, origin, py))?;
    // The machine first, on a copy: it is user code that cannot be undone.
    let mut host = entered.host.clone();
    host.adopt(taken.meta.clone())
        .map_err(|error| errors::resume(error, origin, py))?;
    if entered.daemon.is_stateful() {
        let before = entered
            .daemon
            .snapshot()
            .map_err(|error| errors::snapshot_failed(error, origin, py))?;
        if let Err(error) = entered.daemon.restore(&taken.state, taken.meta.schema) {
            // Half restored is neither: the state before comes back, or the daemon takes no more events.
            if let Err(worse) = entered.daemon.restore(&before, entered.daemon.schema()) {
                entered.fail(&worse.message);
            }
            entered.host.raised();
            return Err(errors::restore(error, origin, py));
        }
    }
    let moved = host.position() != entered.host.position();
    entered.host = host;
    if moved {
        let position = entered.host.position();
        entered.outputs = meshos_node::inside::Outputs::after(position.sequence, position.digest);
    }
    entered.rest_on(Arc::clone(taken));
    slot.publish(entered.host.bindings());
    Ok(())
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyDaemonHost>()
}
