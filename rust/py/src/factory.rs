//! `DaemonFactoryRegistry`: how to make daemons, by kind.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

use meshos_core::id::{NodeId, Origin};
use meshos_node::mover::Mover;
use meshos_node::registry::Registry;
use meshos_node::sync::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyFrozenSet, PyString, PyType};
use pyo3::{PyTraverseError, PyVisit};

use crate::aio::Loop;
use crate::args;
use crate::config::PyDaemonHostConfig;
use crate::contract::Contract;
use crate::daemon::{Factory, PyDaemon};
use crate::errors::{FactoryAlreadyRegistered, FactoryNotFound, InvalidArgument, InvalidDaemon, passes_through};
use crate::guard::{Born, InUserCode, entry, may_wait};
use crate::moves::Kinds;
use crate::record::Reduced;
use crate::record::field::read;

/// Longest name of a kind, in UTF-8 bytes.
const KIND_MAX: usize = 255;

/// How one daemon is rebuilt.
#[pyclass(frozen, name = "FactoryEntry", module = "meshos.compute", eq, hash, get_all)]
#[derive(PartialEq, Eq, Hash)]
pub struct PyFactoryEntry {
    kind: String,
    config: PyDaemonHostConfig,
    has_key: bool,
    expected_orchestrator: Option<u64>,
}

#[pymethods]
impl PyFactoryEntry {
    #[new]
    #[pyo3(signature = (kind, config, has_key, expected_orchestrator = None))]
    fn new(
        kind: String,
        config: &Bound<'_, PyAny>,
        has_key: bool,
        expected_orchestrator: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let node = expected_orchestrator.map(|node| read::<NodeId>(node, "expected_orchestrator"));
        let config = *args::instance::<PyDaemonHostConfig>(config, "config", "a DaemonHostConfig")?.get();
        Ok(Self {
            kind,
            config,
            has_key,
            expected_orchestrator: node.transpose()?.map(NodeId::get),
        })
    }

    #[classattr]
    #[pyo3(name = "__match_args__")]
    fn match_args() -> (&'static str, &'static str, &'static str, &'static str) {
        ("kind", "config", "has_key", "expected_orchestrator")
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let config = slf.getattr("config")?.repr()?;
        let has_key = if slf.get().has_key { "True" } else { "False" };
        let node = slf.getattr("expected_orchestrator")?.repr()?;
        Ok(format!(
            "FactoryEntry({:?}, {config}, {has_key}, {node})",
            slf.get().kind
        ))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let entry = slf.get();
        let config = slf.getattr("config")?;
        let arguments = (entry.kind.clone(), config, entry.has_key, entry.expected_orchestrator);
        let arguments = arguments.into_pyobject(slf.py())?;
        Ok((slf.get_type().into_any(), arguments))
    }
}

/// How to make daemons, by kind.
#[pyclass(frozen, name = "DaemonFactoryRegistry", module = "meshos.compute", weakref)]
pub struct PyFactories {
    kinds: Mutex<BTreeMap<String, Arc<Factory>>>,
    /// Their names, for who may not wait for the interpreter.
    pub names: Arc<Kinds>,
    registry: Arc<Registry<PyDaemon>>,
    /// What takes on daemons that are moved here.
    mover: OnceLock<Weak<Mover<PyDaemon>>>,
    born: Born,
}

/// Checks the name of a kind.
pub fn kind_name(kind: &Bound<'_, PyAny>) -> PyResult<String> {
    let text = kind
        .cast::<PyString>()
        .map_err(|_| args::wrong_type("kind", "a str", kind))?;
    let text = text
        .to_str()
        .map_err(|_| InvalidArgument::new_err(("kind", "must be valid Unicode")))?;
    if text.is_empty() || text.len() > KIND_MAX {
        return Err(InvalidArgument::new_err(("kind", "must have 1 to 255 UTF-8 bytes")));
    }
    Ok(text.to_owned())
}

/// Checks what makes daemons: a class must keep the contract, anything else must be callable.
pub fn check_factory(factory: &Bound<'_, PyAny>, name: &'static str) -> PyResult<()> {
    if let Ok(class) = factory.cast::<PyType>() {
        return Contract::of(class).map(|_| ());
    }
    if factory.is_callable() {
        Ok(())
    } else {
        Err(args::wrong_type(name, "a class or another callable", factory))
    }
}

impl PyFactories {
    /// An empty table beside a registry of daemons.
    pub fn new(registry: Arc<Registry<PyDaemon>>) -> Self {
        Self {
            kinds: Mutex::default(),
            names: Arc::default(),
            registry,
            mover: OnceLock::new(),
            born: Born::now(),
        }
    }

    /// Says what takes on daemons that are moved here; once.
    pub fn moved_by(&self, mover: &Arc<Mover<PyDaemon>>) {
        let _ = self.mover.set(Arc::downgrade(mover));
    }

    fn mover(&self) -> Option<Arc<Mover<PyDaemon>>> {
        self.mover.get().and_then(Weak::upgrade)
    }

    /// The factory of a kind.
    pub fn find(&self, kind: &str) -> PyResult<Arc<Factory>> {
        let found = self.kinds.lock().get(kind).map(Arc::clone);
        found.ok_or_else(|| FactoryNotFound::new_err((kind.to_owned(),)))
    }

    /// Adds a kind.
    pub fn add(&self, kind: &Bound<'_, PyAny>, factory: &Bound<'_, PyAny>) -> PyResult<()> {
        let kind = kind_name(kind)?;
        check_factory(factory, "factory")?;
        let made = Arc::new(Factory {
            kind: Arc::from(kind.as_str()),
            callable: factory.clone().unbind(),
        });
        let mut kinds = self.kinds.lock();
        if kinds.contains_key(&kind) {
            drop(kinds);
            return Err(FactoryAlreadyRegistered::new_err((kind,)));
        }
        kinds.insert(kind.clone(), made);
        drop(kinds);
        self.names.add(&kind);
        Ok(())
    }

    /// Forgets all kinds.
    pub fn clear(&self) {
        self.names.clear();
        let kinds = std::mem::take(&mut *self.kinds.lock());
        drop(kinds);
    }
}

/// Calls a factory; whatever it raises is the cause of an `InvalidDaemon`.
pub fn make<'py>(py: Python<'py>, factory: &Factory) -> PyResult<Bound<'py, PyAny>> {
    let made = {
        let _inside = InUserCode::begin();
        factory.callable.bind(py).call0()
    };
    made.map_err(|error| {
        if passes_through(&error, py) {
            return error;
        }
        let message = format!("the factory of kind {:?} raised {error}", &*factory.kind);
        let failed = InvalidDaemon::new_err(("factory_failed", factory.kind.to_string(), message));
        failed.set_cause(py, Some(error));
        failed
    })
}

#[pymethods]
impl PyFactories {
    fn register(&self, kind: &Bound<'_, PyAny>, factory: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("DaemonFactoryRegistry.register", || {
            self.born.check("DaemonFactoryRegistry")?;
            self.add(kind, factory)
        })
    }

    fn construct<'py>(&self, kind: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        entry("DaemonFactoryRegistry.construct", || {
            self.born.check("DaemonFactoryRegistry")?;
            may_wait("DaemonFactoryRegistry.construct")?;
            let factory = self.find(&kind_name(kind)?)?;
            let made = make(kind.py(), &factory)?;
            PyDaemon::new(&made, None, None, Loop::new(None)).map(|_| made)
        })
    }

    fn kinds<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFrozenSet>> {
        let kinds: Vec<String> = self.kinds.lock().keys().cloned().collect();
        PyFrozenSet::new(py, kinds)
    }

    fn entry(&self, origin_hash: &Bound<'_, PyAny>) -> PyResult<Option<PyFactoryEntry>> {
        entry("DaemonFactoryRegistry.entry", || {
            self.born.check("DaemonFactoryRegistry")?;
            let origin: Origin = args::origin(origin_hash)?;
            let named = self.mover().and_then(|mover| mover.named(origin));
            let orchestrator = named.as_ref().and_then(|named| named.orchestrator).map(NodeId::get);
            let live = self.registry.get(origin).map(|slot| PyFactoryEntry {
                kind: slot.kind().to_string(),
                config: PyDaemonHostConfig(*slot.config()),
                has_key: !slot.key().lock().is_read_only(),
                expected_orchestrator: orchestrator,
            });
            Ok(live.or_else(|| {
                named.map(|named| PyFactoryEntry {
                    kind: named.kind,
                    config: PyDaemonHostConfig(named.config.unwrap_or_default()),
                    has_key: named.has_key,
                    expected_orchestrator: orchestrator,
                })
            }))
        })
    }

    fn bind_expected_orchestrator(&self, origin_hash: &Bound<'_, PyAny>, node: &Bound<'_, PyAny>) -> PyResult<bool> {
        entry("DaemonFactoryRegistry.bind_expected_orchestrator", || {
            self.born.check("DaemonFactoryRegistry")?;
            let (origin, node) = (args::origin(origin_hash)?, read::<NodeId>(node, "node")?);
            Ok(self.mover().is_some_and(|mover| mover.bind_orchestrator(origin, node)))
        })
    }

    fn remove(&self, origin_hash: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("DaemonFactoryRegistry.remove", || {
            self.born.check("DaemonFactoryRegistry")?;
            let origin: Origin = args::origin(origin_hash)?;
            if let Some(mover) = self.mover() {
                mover.forget(origin);
            }
            Ok(())
        })
    }

    fn __repr__(&self) -> String {
        format!("DaemonFactoryRegistry(<{} kinds>)", self.kinds.lock().len())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(kinds) = self.kinds.try_lock() {
            for factory in kinds.values() {
                // Daemons share the factory of their kind: it is counted once here, where it is always held.
                visit.call(&factory.callable)?;
            }
        }
        Ok(())
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyFactories>()?;
    module.add_class::<PyFactoryEntry>()
}
