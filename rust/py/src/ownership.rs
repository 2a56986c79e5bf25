//! Who owns which daemon: records, the directory of a mesh as it is read, and what became of requests.

use std::sync::Arc;

use meshos_core::frame::Kind;
use meshos_core::id::{EntityId, Origin};
use meshos_core::ownership::{MigrationId, OwnershipRecord};
use meshos_node::carrier::Carrier;
use meshos_node::mesh::Mesh;
use meshos_node::ownership::{Ownership, OwnershipConfig, OwnershipStats};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};

use crate::args;
use crate::certificate::PyCertificate;
use crate::errors::{self, BadSignature};
use crate::guard::entry;
use crate::identity::entity_id;
use crate::mesh::PyMesh;
use crate::record::field::{Field, read};
use crate::record::record;
use crate::store::PyStore;

/// Who owns a daemon from an event on, bound to the record before.
#[pyclass(frozen, eq, hash, name = "OwnershipRecord", module = "meshos.mesh")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PyOwnershipRecord(pub OwnershipRecord);

impl std::hash::Hash for PyOwnershipRecord {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.signature.hash(state);
    }
}

#[pymethods]
impl PyOwnershipRecord {
    /// Read exactly one.
    #[classmethod]
    fn from_bytes(_class: &Bound<'_, PyType>, data: &Bound<'_, PyAny>) -> PyResult<Self> {
        entry("OwnershipRecord.from_bytes", || {
            let data = args::payload(data, "data")?;
            let read = OwnershipRecord::decode(data.as_bytes());
            read.map(Self).map_err(|error| errors::file(&error))
        })
    }

    /// Return its form on the wire.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.to_bytes())
    }

    /// Check that it follows on `previous`, or on nothing, and that who may signed it.
    #[pyo3(signature = (previous = None, *, authorities = None))]
    fn verify(&self, previous: Option<&Bound<'_, PyAny>>, authorities: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        entry("OwnershipRecord.verify", || {
            let previous = match previous.filter(|previous| !previous.is_none()) {
                Some(previous) => Some(
                    args::instance::<Self>(previous, "previous", "an OwnershipRecord or None")?
                        .get()
                        .0,
                ),
                None => None,
            };
            let authorities = match authorities.filter(|given| !given.is_none()) {
                Some(given) => {
                    let each = given
                        .try_iter()
                        .map_err(|_| args::wrong_type("authorities", "a sequence of EntityId", given))?;
                    each.map(|id| read::<EntityId>(&id?, "authorities"))
                        .collect::<PyResult<Vec<_>>>()?
                }
                None => Vec::new(),
            };
            let record = &self.0;
            let follows = record.follows(previous.as_ref(), &authorities);
            let signed = record.verify_signatures().map_err(|_| "record: signature does not fit");
            follows.and(signed).map_err(|what| {
                let origin = record.entity().origin().get();
                BadSignature::new_err((origin, record.certificate.from_sequence, what))
            })
        })
    }

    /// What a stranger is shown of it.
    #[getter]
    fn certificate(&self) -> PyCertificate {
        PyCertificate(self.0.certificate)
    }

    /// The daemon.
    #[getter]
    fn entity_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        entity_id(py, self.0.entity())
    }

    /// Its handle.
    #[getter]
    fn origin_hash(&self) -> u64 {
        self.0.entity().origin().get()
    }

    /// Term of ownership.
    #[getter]
    fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    /// Key of the owner.
    #[getter]
    fn node<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        entity_id(py, self.0.node())
    }

    /// The owner.
    #[getter]
    fn node_id(&self) -> u64 {
        self.0.node().node_id().get()
    }

    /// What began the term.
    #[getter]
    fn reason(&self) -> &'static str {
        PyCertificate(self.0.certificate).reason()
    }

    /// Position after which the owner emits.
    #[getter(from_sequence)]
    fn start(&self) -> u64 {
        self.0.certificate.from_sequence
    }

    /// Digest of the record before.
    #[getter]
    fn previous<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.previous.to_python(py)
    }

    /// Key of the owner before.
    #[getter]
    fn source<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let is_first = self.0.source == EntityId::from_bytes([0; 32]);
        (!is_first).then(|| entity_id(py, self.0.source)).transpose()
    }

    /// The move that made it.
    #[getter]
    fn migration_id<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        (self.0.mid != MigrationId::default()).then(|| PyBytes::new(py, &self.0.mid))
    }

    /// Digest of the record: the `previous` of the next.
    #[getter]
    fn digest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.digest_of().to_python(py)
    }

    /// 64 bytes.
    #[getter]
    fn signature<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.signature.to_python(py)
    }

    fn __repr__(&self) -> String {
        format!(
            "OwnershipRecord(origin_hash=0x{}, epoch={}, node_id=0x{}, reason=\"{}\")",
            self.0.entity().origin(),
            self.epoch(),
            self.0.node().node_id(),
            self.reason()
        )
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let read = slf.get_type().getattr("from_bytes")?;
        let bytes = slf.get().to_bytes(slf.py());
        Ok((read, PyTuple::new(slf.py(), [bytes])?))
    }
}

/// Which node owns which daemon of a mesh, at the node that has that.
#[pyclass(frozen, name = "OwnershipDirectory", module = "meshos.mesh")]
pub struct PyOwnershipDirectory(Arc<Ownership>);

impl PyOwnershipDirectory {
    /// That of a node, if it has it.
    pub fn of(ownership: &Arc<Ownership>) -> Option<Self> {
        ownership.central().map(|_| Self(Arc::clone(ownership)))
    }

    fn highest(&self, origin: Origin) -> Option<OwnershipRecord> {
        self.0.central().and_then(|central| central.owner_of(origin))
    }
}

#[pymethods]
impl PyOwnershipDirectory {
    /// The node that has it.
    #[getter]
    fn node_id(&self) -> u64 {
        self.0.node().node_id().get()
    }

    /// The newest record of a daemon.
    fn owner(&self, py: Python<'_>, origin_hash: &Bound<'_, PyAny>) -> PyResult<Option<PyOwnershipRecord>> {
        entry("OwnershipDirectory.owner", || {
            let origin = args::origin(origin_hash)?;
            Ok(py.detach(|| self.highest(origin)).map(PyOwnershipRecord))
        })
    }

    /// All records of a daemon, the oldest first.
    fn lineage<'py>(&self, py: Python<'py>, origin_hash: &Bound<'_, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
        entry("OwnershipDirectory.lineage", || {
            let origin = args::origin(origin_hash)?;
            let records = py.detach(|| {
                let (highest, central) = (self.highest(origin), self.0.central());
                let found = highest.zip(central);
                found.map_or(Ok(Vec::new()), |(highest, central)| {
                    let mut records = central.lineage(&highest.entity())?;
                    records.retain(|record| record.epoch() <= highest.epoch());
                    Ok(records)
                })
            });
            let records = records.map_err(|error| errors::store(&error, ""))?;
            PyTuple::new(py, records.into_iter().map(PyOwnershipRecord))
        })
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.central().map_or(0, |central| central.origins().len()))
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let origins = py.detach(|| self.0.central().map(|central| central.origins()).unwrap_or_default());
        let origins = PyTuple::new(py, origins.into_iter().map(Origin::get))?;
        Ok(origins.try_iter()?.into_any())
    }

    fn __contains__(&self, py: Python<'_>, origin_hash: &Bound<'_, PyAny>) -> PyResult<bool> {
        let origin = args::origin(origin_hash)?;
        Ok(py.detach(|| self.highest(origin)).is_some())
    }

    fn __repr__(&self) -> String {
        format!("OwnershipDirectory(node_id=0x{})", self.0.node().node_id())
    }
}

record! {
    /// What became of requests between owners and the directory, at one node.
    pub struct PyOwnershipStats in "meshos.mesh" as "OwnershipStats", by keyword {
        /// Daemons here whose leases are renewed.
        held: u64,
        /// Leases that ran out here, and came back.
        lapses: u64,
        /// Daemons that were stopped here, since another node owns them.
        fenced: u64,
        /// Answers that came late or twice.
        late: u64,
        /// Messages that cannot be read.
        refused_malformed: u64,
        /// Messages of nodes that have no say.
        refused_stranger: u64,
        /// Messages with signatures that do not fit.
        refused_forged: u64,
        /// Leases that the directory here granted.
        granted: u64,
        /// Requests to it under a record that is not the highest.
        lower: u64,
        /// Requests to it that were not answered, since a write or a takeover was under way.
        withheld: u64,
        /// Requests to it of a node that the record does not name.
        foreign: u64,
        /// Requests to it that were refused, since there were too many daemons.
        full: u64,
        /// Its writes that failed, and were tried again.
        failed: u64,
    }
}

impl From<OwnershipStats> for PyOwnershipStats {
    fn from(stats: OwnershipStats) -> Self {
        let directory = stats.directory.unwrap_or_default();
        Self {
            held: stats.held,
            lapses: stats.lapses,
            fenced: stats.fenced,
            late: stats.late,
            refused_malformed: stats.refused_malformed,
            refused_stranger: stats.refused_stranger,
            refused_forged: stats.refused_forged,
            granted: directory.granted,
            lower: directory.lower,
            withheld: directory.withheld,
            foreign: directory.foreign,
            full: directory.full,
            failed: directory.failed,
        }
    }
}

/// Gives each node its part in ownership. The first has the directory.
pub fn owners(stores: &[Py<PyStore>], joined: &[Mesh]) -> PyResult<Vec<Arc<Ownership>>> {
    let Some(directory) = joined.first().map(Mesh::entity_id) else {
        return Ok(Vec::new());
    };
    let nodes = stores.iter().zip(joined);
    nodes
        .map(|(store, mesh)| {
            let store = store.get();
            let (carrier, key) = (Carrier::mesh(mesh.clone()), Arc::clone(store.node()));
            let joined = Ownership::join(carrier, key, store.stores(), directory, OwnershipConfig::default());
            joined.map_err(|error| errors::store(&error, store.path()))
        })
        .collect()
}

/// Sends a node a body about ownership: for tests of what forged ones do.
#[pyfunction]
#[pyo3(name = "_ownership_post")]
fn post(py: Python<'_>, mesh: &Bound<'_, PyAny>, to: &Bound<'_, PyAny>, body: &Bound<'_, PyAny>) -> PyResult<bool> {
    entry("Mesh", || {
        let mesh = args::instance::<PyMesh>(mesh, "mesh", "a Mesh")?.get();
        let to = read::<EntityId>(to, "to")?;
        let body = args::payload(body, "body")?.as_bytes().to_vec();
        Ok(py.detach(|| mesh.carrier().post(&to, Kind::OWNERSHIP, &body).is_ok()))
    })
}

/// Has a node stand still, or go on: for tests of what becomes of its leases.
#[pyfunction]
#[pyo3(name = "_mesh_pause")]
fn pause(py: Python<'_>, mesh: &Bound<'_, PyAny>, paused: bool) -> PyResult<()> {
    entry("Mesh", || {
        let mesh = args::instance::<PyMesh>(mesh, "mesh", "a Mesh")?.get();
        py.detach(|| {
            if let Some(mesh) = mesh.carrier().as_mesh() {
                mesh.pause(paused);
            }
        });
        Ok(())
    })
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyOwnershipRecord>()?;
    module.add_class::<PyOwnershipDirectory>()?;
    module.add_class::<PyOwnershipStats>()?;
    module.add_function(wrap_pyfunction!(post, module)?)?;
    module.add_function(wrap_pyfunction!(pause, module)?)
}
