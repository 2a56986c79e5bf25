//! What a break-glass action will touch, and the preview of it.

use std::sync::Arc;
use std::time::Duration;

use meshos_core::blast::{BlastRadius, BlastWarning};
use meshos_core::id::Origin;
use meshos_core::signal::DaemonRef;
use meshos_core::simulate::{self, Seen};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::action::PyIceAction;
use crate::args;
use crate::errors::{self, InvalidArgument};
use crate::guard::entry;
use crate::record::field::{Field, Given, read};
use crate::record::{self, Record, Reduced};
use crate::status::PyMeshOsSnapshot;

/// Something an operator should know before signing; `targets` are the ids it is about.
#[pyclass(frozen, eq, hash, name = "BlastWarning", module = "meshos.operator")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PyBlastWarning(pub BlastWarning);

impl Record for PyBlastWarning {
    const FIELDS: &'static [&'static str] = &["kind", "targets"];
}

/// The tag of a kind, and how many ids it is about.
fn tag_of(kind: &str) -> Option<(u8, usize)> {
    let mut shapes = (0..=u8::MAX).flat_map(|tag| (0..=2).map(move |count| (tag, count)));
    shapes.find(|(tag, count)| BlastWarning::of(*tag, &[0; 2][..*count]).is_some_and(|made| made.kind() == kind))
}

#[pymethods]
impl PyBlastWarning {
    #[new]
    #[pyo3(signature = (kind, targets = Given::Not), text_signature = "(kind, targets=())")]
    fn new(kind: &Bound<'_, PyAny>, targets: Given<'_>) -> PyResult<Self> {
        entry("BlastWarning", || {
            let text = kind
                .cast::<PyString>()
                .map_err(|_| args::wrong_type("kind", "a str", kind))?
                .to_string_lossy();
            let targets = targets.read_or_else::<Vec<u64>>("targets", Vec::new)?;
            let Some((tag, count)) = tag_of(&text) else {
                let message = format!("must be a kind of warning, not {text:?}");
                return Err(InvalidArgument::new_err(("kind", message)));
            };
            BlastWarning::of(tag, &targets).map(Self).ok_or_else(|| {
                let message = format!("must be {count} for {text:?}, not {}", targets.len());
                InvalidArgument::new_err(("targets", message))
            })
        })
    }

    /// What it says.
    #[getter]
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    /// The ids it is about.
    #[getter]
    fn targets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.targets().to_python(py)
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

impl Field for BlastWarning {
    fn from_python(value: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        record::copied::<PyBlastWarning>(value, name).map(|warning| warning.0)
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(Bound::new(py, PyBlastWarning(*self))?.into_any())
    }
}

/// What an action will touch; part of what is signed.
#[pyclass(frozen, eq, hash, name = "BlastRadius", module = "meshos.operator")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PyBlastRadius(pub Arc<BlastRadius>);

impl Record for PyBlastRadius {
    const FIELDS: &'static [&'static str] = &[
        "affected_nodes",
        "affected_replicas",
        "affected_daemons",
        "estimated_drain_delay",
        "placement_churn_basis_points",
        "warnings",
    ];
    const BY_KEYWORD: bool = true;
}

#[pymethods]
impl PyBlastRadius {
    #[new]
    #[pyo3(signature = (
        *, affected_nodes, affected_replicas, affected_daemons, estimated_drain_delay, placement_churn_basis_points,
        warnings
    ))]
    fn new(
        affected_nodes: &Bound<'_, PyAny>,
        affected_replicas: &Bound<'_, PyAny>,
        affected_daemons: &Bound<'_, PyAny>,
        estimated_drain_delay: &Bound<'_, PyAny>,
        placement_churn_basis_points: &Bound<'_, PyAny>,
        warnings: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        entry("BlastRadius", || {
            let daemons: Vec<DaemonRef> = read(affected_daemons, "affected_daemons")?;
            let blast = BlastRadius {
                nodes: read(affected_nodes, "affected_nodes")?,
                replicas: read(affected_replicas, "affected_replicas")?,
                daemons: daemons
                    .into_iter()
                    .map(|daemon| (daemon.id, daemon.name.to_string()))
                    .collect(),
                delay_ms: delay(estimated_drain_delay)?,
                churn: read(placement_churn_basis_points, "placement_churn_basis_points")?,
                warnings: read(warnings, "warnings")?,
            };
            blast.validate().map_err(errors::unwritable)?;
            Ok(Self(Arc::new(blast)))
        })
    }

    /// Nodes that observe it, ascending.
    #[getter]
    fn affected_nodes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.nodes.to_python(py)
    }

    /// Chains whose holders shift, ascending.
    #[getter]
    fn affected_replicas<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.replicas.to_python(py)
    }

    /// Daemons whose life shifts, by id.
    #[getter]
    fn affected_daemons<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let daemons = self.0.daemons.iter().map(|(id, name)| DaemonRef {
            id: *id,
            name: Arc::from(name.as_str()),
        });
        daemons.collect::<Vec<_>>().to_python(py)
    }

    /// How long it has an effect; `None`: no time can be told.
    #[getter]
    fn estimated_drain_delay<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.delay().to_python(py)
    }

    /// Churn of placement, in hundredths of a percent.
    #[getter]
    fn placement_churn_basis_points(&self) -> u32 {
        self.0.churn
    }

    /// Hints, in the order of their making.
    #[getter]
    fn warnings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.warnings.to_python(py)
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

fn delay(value: &Bound<'_, PyAny>) -> PyResult<Option<u64>> {
    const NAME: &str = "estimated_drain_delay";
    let Some(span) = Option::<Duration>::from_python(value, NAME)? else {
        return Ok(None);
    };
    match u64::try_from(span.as_millis()) {
        Ok(whole) if span == Duration::from_millis(whole) => Ok(Some(whole)),
        _ => Err(InvalidArgument::new_err((NAME, "must be whole milliseconds"))),
    }
}

/// Tell what an action would touch.
#[pyfunction(name = "simulate")]
fn py_simulate(snapshot: &Bound<'_, PyAny>, action: &Bound<'_, PyAny>) -> PyResult<PyBlastRadius> {
    entry("simulate", || {
        let shown = args::instance::<PyMeshOsSnapshot>(snapshot, "snapshot", "a MeshOsSnapshot")?;
        let action = PyIceAction::from_python(action, "action")?.core();
        let core = shown.get().core();
        let moving: Vec<Origin> = core.migrations.iter().map(|moved| moved.daemon).collect();
        let seen = Seen {
            view: &core.view,
            this_node: core.this_node,
            moving: &moving,
            now: core.published_at,
        };
        Ok(PyBlastRadius(Arc::new(simulate::simulate(seen, &action))))
    })
}

/// Adds classes and function to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyBlastWarning>()?;
    module.add_class::<PyBlastRadius>()?;
    module.add_function(wrap_pyfunction!(py_simulate, module)?)
}
