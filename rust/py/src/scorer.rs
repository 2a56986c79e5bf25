//! `SchedulerRegistry`, and scorers written in Python.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use meshos_core::command::ChainId;
use meshos_core::id::NodeId;
use meshos_node::callback::CallFailed;
use meshos_node::scorer::{MigrationCost, PlacementScorer, SchedulerRegistry};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};

use crate::aio::Loop;
use crate::args;
use crate::callback::{Callee, Offered, attached};
use crate::guard::{Born, entry};
use crate::record::field::{self, Field};
use crate::record::record;

/// Any number: one that makes no sense as a weight counts as 1 where it is used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weight(f64);

impl Field for Weight {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        field::number(value, name).map(Self)
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.0.into_pyobject(py)?.into_any())
    }
}

record! {
    /// What moving a replica would cost; scores are compared after it.
    pub struct PyMigrationCost in "meshos.scheduler" as "MigrationCost", by keyword,
    signature "(*, state_transfer=..., disruption=..., reliability_factor=1.0)" {
        /// Time to copy.
        state_transfer: Duration = Duration::ZERO,
        /// Time in which the copy is of no use.
        disruption: Duration = Duration::ZERO,
        /// Weight of both; one that is not positive and finite counts as 1.
        reliability_factor: Weight = Weight(1.0),
    }
}

/// A scorer written in Python.
struct PyScorer {
    callee: Callee,
    live_score: bool,
    node_fingerprint: bool,
    migration_cost: bool,
}

impl PyScorer {
    fn ask<R>(
        &self,
        method: &'static str,
        arguments: impl for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyTuple>>,
        read: fn(&Bound<'_, PyAny>) -> PyResult<R>,
    ) -> Result<Option<R>, CallFailed> {
        attached(|py| {
            self.callee.ask(
                py,
                method,
                || arguments(py),
                |answer| {
                    if answer.is_none() {
                        Ok(None)
                    } else {
                        read(answer).map(Some)
                    }
                },
            )
        })
    }

    fn ask_score(&self, method: &'static str, chain: ChainId, node: NodeId) -> Result<Option<f64>, CallFailed> {
        self.ask(
            method,
            |py| (chain.get(), node.get()).into_pyobject(py),
            |score| field::number(score, "score"),
        )
    }
}

impl PlacementScorer for PyScorer {
    fn score(&self, chain: ChainId, node: NodeId) -> Result<Option<f64>, CallFailed> {
        self.ask_score("score", chain, node)
    }

    fn best_alternative(&self, chain: ChainId, exclude: &[NodeId]) -> Result<Option<(NodeId, f64)>, CallFailed> {
        self.ask(
            "best_alternative",
            |py| {
                let exclude = PyTuple::new(py, exclude.iter().map(|node| node.get()))?;
                (chain.get(), exclude).into_pyobject(py)
            },
            |best| match best.cast::<PyTuple>() {
                Ok(best) if best.len() == 2 => Ok((
                    NodeId::from_python(&best.get_item(0)?, "best_alternative")?,
                    field::number(&best.get_item(1)?, "best_alternative")?,
                )),
                _ => Err(args::wrong_type("best_alternative", "a tuple of two, or None", best)),
            },
        )
    }

    fn live_score(&self, chain: ChainId, node: NodeId) -> Result<Option<f64>, CallFailed> {
        let method = if self.live_score { "live_score" } else { "score" };
        self.ask_score(method, chain, node)
    }

    fn node_fingerprint(&self, node: NodeId) -> Result<Option<u64>, CallFailed> {
        if !self.node_fingerprint {
            return Ok(None);
        }
        self.ask(
            "node_fingerprint",
            |py| (node.get(),).into_pyobject(py),
            |print| args::u64(print, "node_fingerprint"),
        )
    }

    fn migration_cost(&self, chain: ChainId, target: NodeId) -> Result<Option<MigrationCost>, CallFailed> {
        if !self.migration_cost {
            return Ok(None);
        }
        self.ask(
            "migration_cost",
            |py| (chain.get(), target.get()).into_pyobject(py),
            |cost| {
                let cost = PyMigrationCost::from_python(cost, "migration_cost")?;
                Ok(MigrationCost {
                    state_transfer: cost.state_transfer,
                    disruption: cost.disruption,
                    reliability_factor: cost.reliability_factor.0,
                })
            },
        )
    }

    fn batch(&self, pass: &mut dyn FnMut()) {
        if Python::try_attach(|_| pass()).is_none() {
            pass();
        }
    }

    fn name(&self) -> &str {
        self.callee.name()
    }
}

/// The slot of the active scorer; may be shared.
#[pyclass(frozen, name = "SchedulerRegistry", module = "meshos.scheduler", weakref)]
pub struct PySchedulerRegistry {
    /// The registry.
    pub registry: SchedulerRegistry,
    /// Where coroutines of its scorer would run.
    pub home: Arc<Loop>,
    born: Born,
}

fn as_python(scorer: &dyn PlacementScorer) -> Option<&PyScorer> {
    (scorer as &dyn Any).downcast_ref()
}

fn object(py: Python<'_>, scorer: Option<Arc<dyn PlacementScorer>>) -> Option<Bound<'_, PyAny>> {
    as_python(&*scorer?).map(|scorer| scorer.callee.object(py).clone())
}

#[pymethods]
impl PySchedulerRegistry {
    #[new]
    pub fn new() -> Self {
        Self {
            registry: SchedulerRegistry::new(),
            home: Loop::new(None),
            born: Born::now(),
        }
    }

    fn install<'py>(&self, scorer: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        entry("SchedulerRegistry.install", || {
            self.born.check("SchedulerRegistry")?;
            let offered = Offered::by(scorer, "PlacementScorer", "scorer")?;
            let adapter = PyScorer {
                callee: Callee::new(scorer, Arc::clone(&self.home)),
                live_score: offered.has("live_score"),
                node_fingerprint: offered.has("node_fingerprint"),
                migration_cost: offered.has("migration_cost"),
            };
            Ok(object(scorer.py(), self.registry.install(Arc::new(adapter))))
        })
    }

    fn current<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.born.check("SchedulerRegistry")?;
        Ok(object(py, self.registry.current()))
    }

    fn has_scorer(&self) -> PyResult<bool> {
        self.born.check("SchedulerRegistry")?;
        Ok(self.registry.has_scorer())
    }

    fn __repr__(&self) -> String {
        let scorer = self.registry.current();
        format!(
            "SchedulerRegistry(<{}>)",
            scorer.as_ref().map_or("no scorer", |scorer| scorer.name())
        )
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let mut outcome = self.home.traverse(&visit);
        self.registry.peek(|scorer| {
            if let (Ok(()), Some(scorer)) = (&outcome, as_python(scorer)) {
                outcome = scorer.callee.traverse(&visit);
            }
        });
        outcome
    }

    fn __clear__(&self) {
        drop(self.registry.take());
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyMigrationCost>()?;
    module.add_class::<PySchedulerRegistry>()
}
