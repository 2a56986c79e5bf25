//! What a behaviour loop shows of itself.
//!
//! A snapshot is the loop's own immutable tables, shared. Nothing is converted before it is asked for.

pub mod audit;
pub mod cluster;
pub mod daemon;
pub mod explain;
pub mod mapping;
pub mod summary;
pub mod work;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use meshos_core::id::NodeId;
use meshos_core::signal::DaemonRef;
use meshos_core::status::{AuthorityStatus, MeshOsSnapshot};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use self::audit::PyFailureRecord;
use self::mapping::{PySnapshotMapping, Shown, Table};
use self::summary::PyStatusSummary;
use self::work::{PyActionSnapshot, PyLoopMetrics};
use crate::maintenance_state::PyMaintenanceState;
use crate::migration::PyMigrationSnapshot;
use crate::record::field::Field;
use crate::record::moment::Moment;
use crate::record::record;
use crate::recovery::PyRecoveryStatus;

/// One node's view after a pass of its loop. Immutable; shares what did not change with the one before.
///
/// Only a runtime makes one. Two are equal when they are the same publication of the same run.
#[pyclass(frozen, eq, hash, name = "MeshOsSnapshot", module = "meshos.status")]
pub struct PyMeshOsSnapshot(Arc<Shown>);

impl PyMeshOsSnapshot {
    /// Shows a snapshot.
    pub fn new(core: Arc<MeshOsSnapshot>) -> Self {
        Self(Shown::new(core))
    }

    /// What the loop published.
    pub fn core(&self) -> &Arc<MeshOsSnapshot> {
        &self.0.core
    }

    fn publication(&self) -> (u64, u64, u64, u64) {
        let core = self.core();
        (
            core.runtime_epoch_id,
            core.generation,
            core.tick,
            core.published_at.get(),
        )
    }
}

impl PartialEq for PyMeshOsSnapshot {
    fn eq(&self, other: &Self) -> bool {
        self.publication() == other.publication()
    }
}

impl Hash for PyMeshOsSnapshot {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.publication().hash(state);
    }
}

#[pymethods]
impl PyMeshOsSnapshot {
    /// Random for each start; a change resets every `seq` a reader keeps.
    #[getter]
    fn runtime_epoch_id(&self) -> u64 {
        self.core().runtime_epoch_id
    }

    /// Rises by one for each change of content, never for the passing of time.
    #[getter]
    fn generation(&self) -> u64 {
        self.core().generation
    }

    /// Passes of the loop so far.
    #[getter]
    fn tick(&self) -> u64 {
        self.core().tick
    }

    /// When it was published.
    #[getter]
    fn published_at<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Moment::of(self.core().published_at).to_python(py)
    }

    /// The node.
    #[getter]
    fn this_node(&self) -> u64 {
        self.core().this_node.get()
    }

    /// What commands need to be obeyed: a verifier's word, or nothing ("open"), or they are all refused.
    #[getter]
    fn authority(&self) -> &'static str {
        match self.core().authority {
            AuthorityStatus::Verified => "verified",
            AuthorityStatus::Refused => "refused",
            AuthorityStatus::Open => "open",
        }
    }

    /// Digest of what commands alone decided: a replay of the whole audit gives the same.
    #[getter]
    fn control_digest<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let control = self.core().control.clone();
        let digest = py.detach(|| control.digest());
        PyBytes::new(py, digest.as_bytes())
    }

    /// Daemons by handle.
    #[getter]
    fn daemons(&self) -> PySnapshotMapping {
        PySnapshotMapping(Table::Daemons(Arc::clone(&self.0)))
    }

    /// Replicated chains by origin.
    #[getter]
    fn replicas(&self) -> PySnapshotMapping {
        PySnapshotMapping(Table::Replicas(Arc::clone(&self.0)))
    }

    /// Other nodes.
    #[getter]
    fn peers(&self) -> PySnapshotMapping {
        PySnapshotMapping(Table::Peers(Arc::clone(&self.0)))
    }

    /// Peers that nothing new is placed on.
    #[getter]
    fn avoid_list(&self) -> PySnapshotMapping {
        PySnapshotMapping(Table::Avoided(Arc::clone(&self.0)))
    }

    /// Maintenance of the node.
    #[getter]
    fn local_maintenance<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        maintenance(self.core()).to_python(py)
    }

    /// Whether nothing new is placed on the node.
    #[getter]
    fn cordoned(&self) -> bool {
        self.core().view.cordoned
    }

    /// When a freeze ends; `None`: not frozen.
    #[getter]
    fn freeze_until<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.core().view.freeze_until.map(Moment::of).to_python(py)
    }

    /// Actions under way, in the order of their numbers.
    #[getter]
    fn in_flight<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        PyActionSnapshot::in_flight(self.core()).to_python(py)
    }

    /// The newest emissions, oldest first.
    #[getter]
    fn recently_emitted<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        PyActionSnapshot::recently_emitted(self.core()).to_python(py)
    }

    /// The newest failures, oldest first.
    #[getter]
    fn recent_failures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let failures = self.core().failures.iter();
        failures
            .map(|record| PyFailureRecord::from(&**record))
            .collect::<Vec<_>>()
            .to_python(py)
    }

    /// Moves under way.
    #[getter]
    fn in_flight_migrations<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let moves = self.core().migrations.iter();
        moves.map(PyMigrationSnapshot::from).collect::<Vec<_>>().to_python(py)
    }

    /// Recovery handlers, in the order of their registration.
    #[getter]
    fn recovery<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let handlers = self.core().recovery.iter();
        handlers.map(PyRecoveryStatus::of).collect::<Vec<_>>().to_python(py)
    }

    /// Other user code, by name.
    #[getter]
    fn callbacks(&self) -> PySnapshotMapping {
        PySnapshotMapping(Table::Callbacks(Arc::clone(&self.0)))
    }

    /// Number of the newest audit record; 0: none.
    #[getter]
    fn audit_head_seq(&self) -> u64 {
        self.core().audit_head_seq
    }

    /// Number of the newest line of the log; 0: none.
    #[getter]
    fn log_head_seq(&self) -> u64 {
        self.core().log_head_seq
    }

    /// Number of the newest failure; 0: none.
    #[getter]
    fn failure_head_seq(&self) -> u64 {
        self.core().failure_head_seq
    }

    /// How the loop is doing.
    #[getter]
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        PyLoopMetrics::from(self.core().metrics).to_python(py)
    }

    /// Count what is in it.
    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        PyStatusSummary::from(&**self.core()).to_python(py)
    }

    fn __repr__(&self) -> String {
        let core = self.core();
        format!(
            "<MeshOsSnapshot of node {}: generation {}, tick {}>",
            core.this_node, core.generation, core.tick
        )
    }
}

fn maintenance(snapshot: &MeshOsSnapshot) -> PyMaintenanceState {
    let view = &snapshot.view;
    PyMaintenanceState::of(&view.maintenance, view.daemons_left, view.replicas_left)
}

record! {
    /// What a daemon may know of where it runs.
    pub struct PyMetadataView in "meshos.runtime" as "MetadataView", by keyword {
        /// The node.
        node_id: NodeId,
        /// The daemon.
        daemon: DaemonRef,
        /// Maintenance of the node.
        maintenance: PyMaintenanceState,
        /// Other nodes.
        peers: Table,
    }
}

impl PyMetadataView {
    /// What one daemon may know of a snapshot.
    pub fn of(snapshot: Arc<MeshOsSnapshot>, daemon: DaemonRef) -> Self {
        Self {
            node_id: snapshot.this_node,
            daemon,
            maintenance: maintenance(&snapshot),
            peers: Table::Peers(Shown::new(snapshot)),
        }
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    audit::register(module)?;
    cluster::register(module)?;
    daemon::register(module)?;
    explain::register(module)?;
    mapping::register(module)?;
    summary::register(module)?;
    work::register(module)?;
    module.add_class::<PyMeshOsSnapshot>()?;
    module.add_class::<PyMetadataView>()
}
