//! `ProbeRegistry`, and probes written in Python.

use std::any::Any;
use std::sync::Arc;

use meshos_core::peer::Samples;
use meshos_node::callback::CallFailed;
use meshos_node::probes::{Probe, ProbeKind, ProbeRegistry};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};

use crate::aio::Loop;
use crate::callback::{Callee, Offered, attached};
use crate::guard::{Born, entry};
use crate::peer::{PyProbeCounts, extract_samples};

/// A probe written in Python.
struct PyProbe {
    callee: Callee,
    kind: ProbeKind,
}

const fn role(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Locality => "LocalityProbe",
        ProbeKind::Health => "HealthProbe",
        ProbeKind::Inventory => "InventoryProbe",
    }
}

const fn method(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Locality => "rtt_samples",
        ProbeKind::Health => "health_samples",
        ProbeKind::Inventory => "inventory_samples",
    }
}

impl Probe for PyProbe {
    fn sample(&self) -> Result<Samples, CallFailed> {
        attached(|py| {
            let arguments = || Ok(PyTuple::empty(py));
            self.callee.ask(py, method(self.kind), arguments, |samples| {
                extract_samples(self.kind, samples)
            })
        })
    }

    fn kind(&self) -> ProbeKind {
        self.kind
    }

    fn name(&self) -> &str {
        self.callee.name()
    }
}

/// The probes of a runtime; may be shared and changed at any time, and takes effect at the next tick.
#[pyclass(frozen, name = "ProbeRegistry", module = "meshos.probes", weakref)]
pub struct PyProbeRegistry {
    /// The registry.
    pub registry: ProbeRegistry,
    /// Where coroutines of its probes run.
    pub home: Arc<Loop>,
    born: Born,
}

impl PyProbeRegistry {
    fn add(&self, probe: &Bound<'_, PyAny>, kind: ProbeKind) -> PyResult<()> {
        self.born.check("ProbeRegistry")?;
        Offered::by(probe, role(kind), "probe")?;
        let callee = Callee::new(probe, Arc::clone(&self.home));
        self.registry.add(Arc::new(PyProbe { callee, kind }));
        Ok(())
    }

    fn clear(&self, kind: ProbeKind) -> PyResult<()> {
        self.born.check("ProbeRegistry")?;
        self.registry.clear(kind);
        Ok(())
    }
}

fn as_python(probe: &dyn Probe) -> Option<&PyProbe> {
    (probe as &dyn Any).downcast_ref()
}

#[pymethods]
impl PyProbeRegistry {
    #[new]
    pub fn new() -> Self {
        Self {
            registry: ProbeRegistry::new(),
            home: Loop::new(None),
            born: Born::now(),
        }
    }

    fn add_locality_probe(&self, probe: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("ProbeRegistry.add_locality_probe", || {
            self.add(probe, ProbeKind::Locality)
        })
    }

    fn add_health_probe(&self, probe: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("ProbeRegistry.add_health_probe", || self.add(probe, ProbeKind::Health))
    }

    fn add_inventory_probe(&self, probe: &Bound<'_, PyAny>) -> PyResult<()> {
        entry("ProbeRegistry.add_inventory_probe", || {
            self.add(probe, ProbeKind::Inventory)
        })
    }

    fn remove(&self, probe: &Bound<'_, PyAny>) -> PyResult<bool> {
        entry("ProbeRegistry.remove", || {
            self.born.check("ProbeRegistry")?;
            let mut found = false;
            for installed in self.registry.list() {
                let is_it = as_python(&*installed.probe).is_some_and(|known| known.callee.is(probe));
                found |= is_it && self.registry.remove(installed.number);
            }
            Ok(found)
        })
    }

    fn clear_locality_probes(&self) -> PyResult<()> {
        self.clear(ProbeKind::Locality)
    }

    fn clear_health_probes(&self) -> PyResult<()> {
        self.clear(ProbeKind::Health)
    }

    fn clear_inventory_probes(&self) -> PyResult<()> {
        self.clear(ProbeKind::Inventory)
    }

    fn probe_counts(&self) -> PyResult<PyProbeCounts> {
        self.born.check("ProbeRegistry")?;
        Ok(self.registry.counts().into())
    }

    fn __repr__(&self) -> String {
        let counts = self.registry.counts();
        format!(
            "ProbeRegistry(<{} of round trips, {} of health, {} of inventories>)",
            counts.locality, counts.health, counts.inventory
        )
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.home.traverse(&visit)?;
        let mut outcome = Ok(());
        self.registry.peek(|installed| {
            if let (Ok(()), Some(probe)) = (&outcome, as_python(&*installed.probe)) {
                outcome = probe.callee.traverse(&visit);
            }
        });
        outcome
    }

    fn __clear__(&self) {
        for kind in [ProbeKind::Locality, ProbeKind::Health, ProbeKind::Inventory] {
            self.registry.clear(kind);
        }
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyProbeRegistry>()
}
