//! Spawning: the four ways to start a daemon, with what they share.

use std::sync::Arc;

use meshos_core::lifecycle::Call;
use meshos_node::slot::Slot;
use pyo3::prelude::*;

use crate::args;
use crate::contract::Contract;
use crate::daemon::{Factory, PyDaemon};
use crate::errors;
use crate::factory::{self, kind_name};
use crate::handle::PyDaemonHandle;
use crate::host::config_or_default;
use crate::identity::PyIdentity;
use crate::runtime::PyRuntime;
use crate::snapshot::PyStateSnapshot;
use crate::threads;

impl PyRuntime {
    pub(crate) fn instance(&self, object: &Bound<'_, PyAny>, factory: Arc<Factory>) -> PyResult<PyDaemon> {
        PyDaemon::new(
            object,
            Some(Arc::clone(&factory.kind)),
            Some(factory),
            Arc::clone(&self.home),
        )
    }

    /// A daemon of a registered kind.
    pub fn made(&self, py: Python<'_>, kind: &Bound<'_, PyAny>) -> PyResult<PyDaemon> {
        let name = kind_name(kind)?;
        self.runtime.allow(Call::Work).map_err(errors::lifecycle)?;
        let factory = self.factories.get().find(&name)?;
        let object = factory::make(py, &factory)?;
        self.instance(&object, factory)
    }

    /// A daemon from an instance made by the caller, and what makes another one of it.
    pub fn given(
        &self,
        daemon: &Bound<'_, PyAny>,
        kind_factory: &Bound<'_, PyAny>,
        kind: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PyDaemon> {
        self.runtime.allow(Call::Work).map_err(errors::lifecycle)?;
        factory::check_factory(kind_factory, "kind_factory")?;
        let contract = Contract::of(&daemon.get_type())?;
        let kind = match kind.filter(|kind| !kind.is_none()) {
            Some(kind) => Arc::from(kind_name(kind)?),
            None => Arc::clone(&contract.name),
        };
        let factory = Arc::new(Factory {
            kind,
            callable: kind_factory.clone().unbind(),
        });
        self.instance(daemon, factory).map(PyDaemon::with_own_factory)
    }

    pub(crate) fn spawned(slf: &Bound<'_, Self>, slot: Arc<Slot<PyDaemon>>) -> PyResult<PyDaemonHandle> {
        let this = slf.get();
        if slot.reports() && this.asking.get().is_none() {
            let pulse = threads::pulse(slf.py())?;
            let lanes = this.runtime.lanes().clone();
            this.asking
                .get_or_init(|| pulse.ask(this.runtime.registry(), this.poll_interval, lanes));
        }
        Ok(PyDaemonHandle::new(slot, slf))
    }

    /// Starts a daemon without a past.
    pub fn start_fresh(
        slf: &Bound<'_, Self>,
        identity: &Bound<'_, PyAny>,
        config: Option<&Bound<'_, PyAny>>,
        daemon: impl FnOnce() -> PyResult<PyDaemon>,
    ) -> PyResult<PyDaemonHandle> {
        let identity = args::instance::<PyIdentity>(identity, "identity", "an Identity")?.get();
        let config = config_or_default(config)?;
        let origin = identity.key.lock().origin();
        let py = slf.py();
        let slot = slf.get().runtime.spawn(&identity.key, config, daemon()?);
        Self::spawned(slf, slot.map_err(|error| errors::spawn(error, origin, py))?)
    }

    /// Starts a daemon after a snapshot.
    pub fn start_after(
        slf: &Bound<'_, Self>,
        identity: &Bound<'_, PyAny>,
        snapshot: &Bound<'_, PyAny>,
        config: Option<&Bound<'_, PyAny>>,
        rewind: bool,
        daemon: impl FnOnce() -> PyResult<PyDaemon>,
    ) -> PyResult<PyDaemonHandle> {
        let py = slf.py();
        let identity = args::instance::<PyIdentity>(identity, "identity", "an Identity")?.get();
        let config = config_or_default(config)?;
        let snapshot = &args::instance::<PyStateSnapshot>(snapshot, "snapshot", "a StateSnapshot")?
            .get()
            .snapshot;
        let entity = identity.key.lock().entity_id();
        let origin = entity.origin();
        if snapshot.meta.entity != entity {
            let mismatch = meshos_core::host::ResumeError::Identity {
                snapshot: snapshot.meta.entity,
                identity: entity,
            };
            return Err(errors::resume(mismatch, origin, py));
        }
        let slot =
            slf.get()
                .runtime
                .spawn_from_snapshot(&identity.key, Arc::clone(snapshot), config, daemon()?, rewind);
        Self::spawned(slf, slot.map_err(|error| errors::spawn(error, origin, py))?)
    }
}
